//! A node that stops in good order has its items again (`-e`); after anything else it has none, and never wrong ones.

use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use larder_tests::{Server, connect_to};
use rand::RngExt;

/// Starts a node of 8 MiB with this memory file.
fn node(file: &std::path::Path) -> Server {
    node_of("8", file)
}

fn node_of(mebibytes: &str, file: &std::path::Path) -> Server {
    Server::node(&["-m", mebibytes, "-A", "-e", file.to_str().expect("UTF-8")])
}

fn directory() -> tempfile::TempDir {
    let memory = PathBuf::from("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.expect("a directory")
}

/// Waits until a process that was sent a signal has ended.
fn ended(server: Server) {
    let _ = server.wait();
}

#[test]
fn items_come_back_after_each_kind_of_stop_in_good_order_and_not_after_a_crash() {
    let directory = directory();
    let file = directory.path().join("items");
    let mut server = node(&file);
    for stop in ["TERM", "INT", "USR1", "shutdown"] {
        let mut connection = server.connect();
        let value = format!("kept over {stop}");
        let set = format!("ms {stop} {} F7 T1000\r\n{value}\r\nset short 0 1 1\r\nx\r\n", value.len());
        assert_eq!(connection.exchange(set.as_bytes()), "HD\r\nSTORED\r\n");
        assert!(!file.exists());
        let left = Instant::now();
        match stop {
            "shutdown" => connection.send(b"shutdown\r\n"),
            signal => server.signal(signal),
        }
        ended(server);
        // The time to live runs on while the node is away.
        std::thread::sleep(Duration::from_millis(2100).saturating_sub(left.elapsed()));
        server = node(&file);
        let got = server.connect().exchange(format!("mg {stop} v f t\r\nmg short v\r\n").as_bytes());
        assert!(got.starts_with(&format!("VA {} f7 t99", value.len())) && got.ends_with("\r\nEN\r\n"), "{got}");
    }
    server.signal("KILL");
    ended(server);
    assert_eq!(node(&file).connect().exchange(b"mg TERM v\r\nmg INT v\r\n"), "EN\r\nEN\r\n");
}

#[test]
fn two_nodes_do_not_share_a_file_and_a_path_that_cannot_be_used_is_an_error_at_the_start() {
    let directory = directory();
    let file = directory.path().join("items");
    let _first = node(&file);
    let start = |file: &std::path::Path, more: &[&str]| {
        let mut command = std::process::Command::new(larder_tests::binary("larder-node"));
        let output = command.args(["-p", "-1", "-e"]).arg(file).args(more).output().expect("it runs");
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(start(&file, &[]).contains("another node uses it"));
    assert!(start(&directory.path().join("none/items"), &[]).contains("No such file"));
    assert!(start(directory.path(), &[]).contains("is a directory"));
    assert!(start(&file, &["--cluster", "shop"]).contains("-e and --cluster exclude each other"));
}

#[test]
fn files_that_memcached_left_are_not_taken_for_items_and_what_even_it_refuses_stops_the_start() {
    let directory = directory();
    let (file, meta) = (directory.path().join("items"), directory.path().join("items.meta"));
    for damaged in ["", "no tag\n"] {
        std::fs::write(&meta, damaged).expect("a file");
        let mut command = std::process::Command::new(larder_tests::binary("larder-node"));
        let output = command.args(["-p", "-1", "-e"]).arg(&file).output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("items.meta") && said.contains("remove it"), "{said}");
    }
    std::fs::write(&meta, "Tmain\nKversion 4\n").expect("a file");
    std::fs::write(&file, [0; 4096]).expect("a file");
    let server = node(&file);
    assert_eq!(server.connect().exchange(b"set a 0 0 1\r\nx\r\n"), "STORED\r\n");
    // memcached would take a later file of this node for its own.
    assert!(!meta.exists() && !file.exists());
    server.signal("TERM");
    ended(server);
    assert!(node(&file).connect().exchange(b"get a\r\n").starts_with("VALUE a"));
}

/// What a client knows of the items: the states that a key may be in.
#[derive(Default)]
struct Checker {
    /// Values are shorter than this.
    longest: usize,
    /// The number of the value last stored, `None` where the key was deleted last, and of a write without a reply.
    known: HashMap<u32, (Option<u64>, Option<Option<u64>>)>,
    writes: u64,
    uniques: HashSet<u64>,
    hits: u64,
}

const KEYS: u32 = 300;

impl Checker {
    fn value(&self, key: u32, write: u64) -> String {
        format!("{key}-{write}-{}", "x".repeat((key as usize * 37 + write as usize * 11) % self.longest))
    }

    /// Writes for some time, as far as the node replies.
    fn write(&mut self, connection: TcpStream, until: Instant) {
        let mut connection = BufReader::new(connection);
        let mut random = rand::rng();
        while Instant::now() < until {
            let key = random.random_range(0..KEYS);
            self.writes += 1;
            let delete = random.random_range(0..10) == 0;
            let (request, new) = if delete {
                (format!("md {key}\r\n"), None)
            } else {
                let value = self.value(key, self.writes);
                (format!("ms {key} {} c T900\r\n{value}\r\n", value.len()), Some(self.writes))
            };
            let state = self.known.entry(key).or_default();
            state.1 = Some(new);
            let mut line = String::new();
            let sent = connection.get_mut().write_all(request.as_bytes());
            if sent.is_err() || connection.read_line(&mut line).is_err() || !line.ends_with('\n') {
                return;
            }
            *state = (new, None);
            match line.trim_end().strip_prefix("HD c") {
                Some(unique) if !delete => {
                    assert!(self.uniques.insert(unique.parse().expect("a number")), "a CAS unique twice");
                }
                // One line to each request, or a later reply would count for a write that has none.
                _ => assert!(delete && ["HD\r\n", "NF\r\n"].contains(&&*line), "{line:?} to {request:.40}"),
            }
        }
    }

    /// Reads every key. A node that has come back with its items has all of them, another one has none. Returns whether
    /// it has come back; where `expected` is `None`, either is right.
    fn check(&mut self, server: &Server, expected: Option<bool>) -> bool {
        let requests: String = (0..KEYS).map(|key| format!("mg {key} v\r\n")).collect();
        let answer = server.connect().exchange(requests.as_bytes());
        let came_back = expected.unwrap_or(answer.contains("VA"));
        let mut lines = answer.split("\r\n");
        for key in 0..KEYS {
            let line = lines.next().expect("a reply to each");
            let seen = line.starts_with("VA").then(|| lines.next().expect("a value"));
            let (stored, unsure) = self.known.get(&key).copied().unwrap_or_default();
            let may = |write: Option<u64>| write.map(|write| self.value(key, write)).as_deref() == seen;
            let right = may(stored) || unsure.is_some_and(may);
            let seen_short = seen.unwrap_or("none");
            assert!(if came_back { right } else { seen.is_none() }, "{key}: {seen_short:.40} of {stored:?} {unsure:?}");
            // What is seen is so from now on.
            let now = if unsure.is_some_and(may) && !may(stored) { unsure.flatten() } else { stored };
            self.hits += u64::from(seen.is_some());
            self.known.insert(key, (seen.and(now), None));
        }
        came_back
    }
}

/// Restarts the node under a load which knows every value. The node is killed while it serves, saves and loads.
fn restart_with_kills(restarts: u32, mebibytes: &str, longest: usize) {
    let directory = directory();
    let file = directory.path().join("items");
    let mut random = rand::rng();
    let mut checker = Checker { longest, ..Checker::default() };
    let (mut warm, mut cold) = (0, 0);
    for round in 0..restarts {
        let kill_loading = round % 4 == 3 && file.exists();
        if kill_loading {
            // Killed while it loads, or right before or after.
            let mut command = std::process::Command::new(larder_tests::binary("larder-node"));
            let quiet = std::process::Stdio::null;
            command
                .args(["-m", mebibytes, "-A", "-t", "2", "-p", "-1", "-e"])
                .arg(&file)
                .stderr(quiet())
                .stdout(quiet());
            let mut loading = command.spawn().expect("it runs");
            std::thread::sleep(Duration::from_micros(random.random_range(0..20_000)));
            loading.kill().expect("it is our child");
            loading.wait().expect("it is our child");
        }
        // The file is there only after a stop in good order.
        let came_back = file.exists();
        if round % 10 == 9 && came_back {
            let mut bytes = std::fs::read(&file).expect("a file");
            let at = random.random_range(0..24);
            bytes[at] ^= 1;
            std::fs::write(&file, bytes).expect("written");
        }
        let came_back = came_back && round % 10 != 9;
        let server = node_of(mebibytes, &file);
        // A file is used up as it is read: after a kill in between it is damaged.
        let unsure = kill_loading && came_back;
        if checker.check(&server, (!unsure).then_some(came_back)) {
            warm += 1
        } else {
            cold += 1
        }
        let connection = connect_to(server.port());
        let until = Instant::now() + Duration::from_millis(60);
        std::thread::scope(|scope| {
            let load = scope.spawn(|| checker.write(connection, until));
            std::thread::sleep(Duration::from_millis(random.random_range(5..30)));
            match round % 3 {
                0 => server.signal("KILL"),
                1 => server.signal("TERM"),
                _ => {
                    server.signal("TERM");
                    std::thread::sleep(Duration::from_micros(random.random_range(0..15_000)));
                    server.signal("KILL");
                }
            }
            load.join().expect("the load runs");
        });
        ended(server);
    }
    println!(
        "{restarts} restarts: {warm} with items, {cold} without; {} writes, {} hits",
        checker.writes, checker.hits
    );
    assert!(warm > 0 && cold > 0 && checker.hits > 0);
}

/// `LARDER_RESTARTS` sets how often.
fn restarts() -> u32 {
    std::env::var("LARDER_RESTARTS").map_or(150, |count| count.parse().expect("a number"))
}

#[test]
fn no_wrong_value_is_seen_over_restarts_with_kills_at_every_step() {
    restart_with_kills(restarts(), "8", 3000);
}

#[test]
fn no_wrong_value_is_seen_over_restarts_of_several_shards_with_large_values() {
    restart_with_kills(restarts() / 4, "64", 60_000);
}
