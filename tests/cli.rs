//! The command line `larder`, against real nodes, memcached, and a server that is neither.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use larder_tests::{PATIENCE, Server, binary};
use serde_json::Value;

/// `larder` with these servers.
struct Larder(String);

/// What a command printed, and its exit status.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    status: i32,
    out: String,
    err: String,
}

impl Larder {
    fn of(servers: &[&Server]) -> Larder {
        Larder(servers.iter().map(|server| server.address()).collect::<Vec<_>>().join(","))
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary("larder"));
        command.env("LARDER_SERVERS", &self.0).args(arguments).stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Said {
        said(self.command(arguments).output().expect("larder runs"))
    }

    /// Runs a command that must succeed, and returns what it printed.
    fn out(&self, arguments: &[&str]) -> String {
        let said = self.run(arguments);
        assert_eq!(said.status, 0, "{arguments:?}: {said:?}");
        said.out
    }

    /// Runs a command with `--json` that must succeed, and returns the lines that it printed.
    fn json(&self, arguments: &[&str]) -> Vec<Value> {
        let out = self.out(&[&["--json"], arguments].concat());
        out.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
    }

    /// Runs a command with this standard input.
    fn with_input(&self, arguments: &[&str], input: &[u8]) -> Output {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        child.wait_with_output().unwrap()
    }
}

fn said(output: Output) -> Said {
    Said {
        status: output.status.code().expect("no signal ended it"),
        out: String::from_utf8(output.stdout).expect("text"),
        err: String::from_utf8(output.stderr).expect("text"),
    }
}

/// The servers that every command must work with: two nodes, and memcached if there is one.
fn fleets() -> Vec<Vec<Server>> {
    let mut fleets = vec![vec![Server::node(&[]), Server::node(&[])]];
    let memcached = match std::env::var_os("LARDER_MEMCACHED") {
        Some(program) => Some(Server::memcached_at(Path::new(&program), &[])),
        None => Server::memcached(&[]),
    };
    fleets.extend(memcached.map(|server| vec![server]));
    fleets
}

fn for_each_fleet(check: impl Fn(&Larder, &[Server])) {
    for fleet in fleets() {
        check(&Larder::of(&fleet.iter().collect::<Vec<_>>()), &fleet);
    }
}

#[test]
fn single_items_are_read_and_written_and_the_exit_status_says_what_was_missing() {
    for_each_fleet(|larder, _| {
        assert_eq!(larder.run(&["get", "a"]), Said { status: 1, out: String::new(), err: "a: not found\n".to_owned() });
        assert_eq!(larder.out(&["set", "--ttl", "5m", "--flags", "7", "a", "1"]), "");
        assert_eq!(larder.out(&["get", "a"]), "1");
        let item = &larder.json(&["get", "a"])[0];
        assert_eq!((&item["value"], &item["flags"], &item["found"]), (&"1".into(), &7.into(), &true.into()));
        assert_eq!(larder.out(&["incr", "a", "41"]), "42\n");
        assert_eq!(larder.out(&["decr", "a", "100"]), "0\n");
        assert_eq!(larder.run(&["incr", "b"]).status, 1);
        assert_eq!(larder.out(&["incr", "--initial", "9", "--ttl", "1h", "b"]), "9\n");
        assert_eq!(larder.run(&["set", "--mode", "add", "a", "x"]).status, 1);
        assert_eq!(larder.run(&["set", "--mode", "replace", "c", "x"]).err, "c: not stored\n");
        larder.out(&["set", "--mode", "append", "b", "8"]);
        larder.out(&["set", "--mode", "prepend", "b", "7"]);
        // A number that gets shorter keeps its length, as in memcached.
        let both = larder.run(&["get", "a", "b", "c"]);
        assert_eq!((both.status, &*both.out, &*both.err), (1, "a 0 \nb 798\n", "c: not found\n"));
        assert_eq!(larder.run(&["touch", "c", "1m"]).status, 1);
        larder.out(&["touch", "a", "100"]);
        let ttl = larder.json(&["scan", "a"])[0]["ttl"].as_i64().unwrap();
        assert!((98..=101).contains(&ttl), "{ttl}");
        assert_eq!(larder.run(&["delete", "a", "c", "b"]).err, "c: not found\n");
        assert_eq!(larder.run(&["get", "b"]).status, 1);
        // A value of any bytes, from standard input.
        let value: Vec<u8> = (0..=255).cycle().take(300_000).collect();
        assert!(larder.with_input(&["set", "binary"], &value).status.success());
        assert_eq!(larder.command(&["get", "binary"]).output().unwrap().stdout, value);
    });
}

#[test]
fn wrong_usage_and_failures_have_status_two_and_one_line_that_says_why() {
    let (node, other) = (Server::node(&[]), Server::node(&[]));
    let larder = Larder::of(&[&node]);
    let cases: &[(&[&str], &str)] = &[
        (&["get", "two words"], "error: invalid key \"two words\""),
        (&["which", "--look", "a\nb"], "error: invalid key"),
        (&["incr", "text"], "error: 127.0.0.1:"),
        (&["set", "large", &"x".repeat(0)], ""),
        (&["watch", "a\r\nflush_all"], "error: a topic is a word"),
        (&["watch", "nonsense"], "answered `watch nonsense`: ERROR"),
        (&["stats", "nonsense"], "error: 1 of 1 servers failed"),
        (&["restore", "/no/such/file"], "error: /no/such/file: No such file"),
        (&["dump", "-o", "/no/such/folder/file"], "error: /no/such/folder/file: No such file"),
        (&["-s", "127.0.0.1:1", "get", "a"], "error: 127.0.0.1:1 is down: Connection refused"),
        (&["-s", "127.0.0.1:1", "scan"], "error: 127.0.0.1:1 is down: Connection refused"),
        (&["-s", "a,a", "which", "k"], "error: --servers: a:11211 stands there twice"),
        (&["-s", "", "get", "k"], "error: invalid server"),
        (&["--hashing", "modulo", "get", "k"], "a hashing is ketama-weighted"),
        (&["--timeout", "0", "get", "k"], "error: --timeout"),
        (&["--tls-name", "x", "get", "k"], "--tls"),
        (&["--user", "ada", "get", "k"], "--password"),
    ];
    larder.out(&["set", "text", "words"]);
    for (arguments, message) in cases {
        let said = larder.run(arguments);
        assert_eq!(said.status, if message.is_empty() { 0 } else { 2 }, "{arguments:?}: {said:?}");
        assert!(said.err.contains(message), "{arguments:?}: {said:?}");
    }
    // One server of two is down.
    let both = Larder::of(&[&node, &other]);
    assert_eq!(both.run(&["ping"]).out.lines().filter(|line| line.contains(": 1.6.")).count(), 2);
    drop(other);
    let said = both.run(&["ping"]);
    assert_eq!((said.status, said.out.lines().count()), (2, 2), "{said:?}");
    assert!(said.err.contains("1 of 2 servers did not answer"), "{said:?}");
    assert_eq!(both.run(&["stats"]).status, 2);
    // A reader that has had enough is no failure to talk about.
    let mut child =
        larder.command(&["watch", "connevents"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let begun = Instant::now();
    while child.try_wait().unwrap().is_none() {
        assert!(begun.elapsed() < PATIENCE, "it goes on without a reader");
        drop(node.connect());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let mut err = String::new();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert_eq!((child.wait().unwrap().code(), &*err), (Some(141), ""));
}

#[test]
fn which_names_the_server_where_the_item_is_and_any_other_that_has_one() {
    let servers = [Server::node(&[]), Server::node(&[]), Server::node(&[])];
    for hashing in ["ketama-weighted", "ketama", "rendezvous", "twemproxy-murmur"] {
        let larder = Larder::of(&servers.iter().collect::<Vec<_>>());
        for key in ["user:1", "user:2", "user:3", "user:4"] {
            larder.out(&["--hashing", hashing, "set", key, "x"]);
            let found = &larder.json(&["--hashing", hashing, "which", "--look", key])[0];
            let owner = found["owner"].as_str().unwrap();
            let at: Vec<&str> =
                found["found"].as_array().unwrap().iter().filter_map(|at| at["server"].as_str()).collect();
            assert_eq!(at, [owner], "{hashing} {key}");
            larder.out(&["--hashing", hashing, "delete", key]);
        }
    }
    let larder = Larder::of(&servers.iter().collect::<Vec<_>>());
    let owner = larder.json(&["which", "k"])[0]["owner"].as_str().unwrap().to_owned();
    let other = servers.iter().find(|server| server.address() != owner).unwrap();
    Larder::of(&[other]).out(&["set", "k", "old"]);
    let said = larder.out(&["which", "--look", "k"]);
    assert!(said.starts_with(&format!("k {owner}\n")), "{said}");
    assert!(said.contains(&format!("found at {}", other.address())) && said.contains("does not own the key"), "{said}");
    // No server is asked without --look.
    assert_eq!(Larder("nowhere.invalid:1".to_owned()).out(&["which", "k"]), "k nowhere.invalid:1\n");
}

#[test]
fn a_dump_is_restored_with_flags_times_and_keys_of_any_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("items.dump");
    let file = file.to_str().unwrap();
    let (target, spare) = (Server::node(&[]), Server::node(&[]));
    for_each_fleet(|larder, fleet| {
        for number in 0..=20 {
            larder.out(&[
                "set",
                "--flags",
                &number.to_string(),
                "--ttl",
                "1h",
                &format!("k:{number}"),
                &number.to_string(),
            ]);
        }
        let value: Vec<u8> = (0..=255).cycle().take(200_000).collect();
        assert!(larder.with_input(&["set", "large\u{e9}"], &value).status.success());
        assert!(larder.with_input(&["set", "empty"], b"").status.success());
        let mut connection = fleet[0].connect();
        // A key with blanks and line ends, an item that is invalidated, and a load under way.
        assert_eq!(connection.exchange(b"ms YSBiDQr/ 3 b F5\r\na\r\n\r\n"), "HD\r\n");
        assert_eq!(
            connection.exchange(b"ms stale 1\r\nx\r\nmd stale I T60\r\nmg loading v N30\r\n").lines().count(),
            4
        );
        larder.out(&["dump", "-o", file]);
        let dump = std::fs::read(file).unwrap();
        assert!(dump.ends_with(b"mn\r\n"));
        // The dump took nobody's right to load the stale item.
        assert!(connection.exchange(b"mg stale v\r\n").contains(" W"));

        let restoring = Larder::of(&[&target, &spare]);
        restoring.out(&["restore", file]);
        assert_eq!(restoring.out(&["scan"]).lines().count(), 24);
        assert_eq!(restoring.command(&["get", "large\u{e9}"]).output().unwrap().stdout, value);
        assert_eq!(restoring.out(&["get", "empty"]), "");
        let item = &restoring.json(&["get", "k:17"])[0];
        assert_eq!((&item["value"], &item["flags"]), (&"17".into(), &17.into()));
        let ttl = restoring.json(&["scan", "k:17"])[0]["ttl"].as_i64().unwrap();
        assert!((3500..=3601).contains(&ttl), "{ttl}");
        assert!(restoring.json(&["scan", "empty"])[0]["ttl"].is_null());
        let binary = [&target, &spare].map(|server| server.connect().exchange(b"mg YSBiDQr/ b f v\r\n"));
        assert!(binary.contains(&"VA 3 f5\r\na\r\n\r\n".to_owned()), "{binary:?}");
        assert_eq!(restoring.run(&["get", "stale"]).status, 1);
        // The other way: into what was dumped, where all is kept, from standard input.
        let again = larder.with_input(&["--json", "restore", "--add"], &dump);
        let again: Value = serde_json::from_slice(&again.stdout).unwrap();
        // The key that is no text need not have been where the ring has it.
        let figures = ["stored", "kept"].map(|name| again[name].as_u64().unwrap());
        assert!(figures == [0, 24] || figures == [1, 23], "{figures:?}");
        let only = larder.command(&["dump", "--prefix", "k:1"]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&only.stdout).lines().filter(|line| line.starts_with("ms ")).count(), 11);
        // memcached takes the file as it is.
        assert!(fleet[0].connect().exchange(&dump[..dump.len() - 4]).lines().all(|line| line == "HD"));
        for server in [&target, &spare] {
            server.connect().exchange(b"flush_all\r\n");
        }
    });
}

#[test]
fn a_dump_that_was_cut_short_or_is_none_is_told_and_what_has_expired_stays_out() {
    let node = Server::node(&[]);
    let larder = Larder::of(&[&node]);
    let restore = |dump: &[u8]| said(larder.with_input(&["restore"], dump));
    let whole = b"ms a 1 T0 F0\r\nx\r\nms b 1 T1700000000 F0\r\ny\r\nms c 1 T0\r\nz\r\nmn\r\n";
    let said = restore(whole);
    assert_eq!((said.status, &*said.err), (0, "2 items stored, 1 expired\n"));
    for end in 1..whole.len() {
        let said = restore(&whole[..end]);
        assert!(said.status == 2 && said.err.contains("cut short"), "{end}: {said:?}");
    }
    for wrong in [&b"flush_all\r\n"[..], b"get a\r\n", b"{\"key\": 1}\r\n", b"\x00\xff\r\n", b"ms a S1\r\nx\r\n"] {
        let said = restore(wrong);
        assert!(said.status == 2 && said.err.contains("the dump"), "{said:?}");
    }
    assert_eq!(larder.out(&["get", "a"]), "x");
    // memcached-tool's.
    let said = restore(b"add d 3 0 2\r\nhi\r\nadd a 0 0 1\r\n-\r\n");
    assert_eq!((said.status, &*said.err), (0, "1 item stored, 1 kept\n"));
    assert_eq!(larder.json(&["get", "d"])[0]["flags"], 3);
    let large = [&b"ms e 2000000 T0\r\n"[..], &vec![b'x'; 2_000_000], b"\r\nmn\r\n"].concat();
    let said = restore(&large);
    assert!(said.status == 2 && said.err.contains("refused an item: SERVER_ERROR object too large"), "{said:?}");
}

#[test]
fn only_items_that_their_server_owns_are_dumped_if_asked() {
    let servers = [Server::node(&[]), Server::node(&[])];
    for server in &servers {
        Larder::of(&[server]).out(&["set", "k", &server.address()]);
    }
    let larder = Larder::of(&[&servers[0], &servers[1]]);
    let owner = larder.json(&["which", "k"])[0]["owner"].as_str().unwrap().to_owned();
    let dumped = |arguments: &[&str]| larder.out(arguments).lines().filter(|line| line.contains("127.")).count();
    assert_eq!((dumped(&["dump"]), dumped(&["dump", "--owned"])), (2, 1));
    assert!(larder.out(&["dump", "--owned"]).contains(&owner));
}

#[test]
fn keys_are_listed_by_prefix_and_by_size() {
    for_each_fleet(|larder, _| {
        for (key, size) in [("a:1", 10), ("a:2", 30_000), ("a:3", 2000), ("b:1", 100_000)] {
            assert!(larder.with_input(&["set", key], &vec![b'x'; size]).status.success());
        }
        let mut keys: Vec<String> = larder.out(&["scan", "a:"]).lines().map(str::to_owned).collect();
        keys.sort();
        assert_eq!(keys, ["a:1", "a:2", "a:3"]);
        assert_eq!(larder.out(&["scan", "a:", "--limit", "2"]).lines().count(), 2);
        assert_eq!(larder.out(&["scan", "--long", "b:"]).split('\t').count(), 5);
        assert_eq!(larder.run(&["scan", "c:"]).status, 1);
        let largest = larder.json(&["bigkeys", "-n", "2"]);
        assert_eq!(largest.iter().map(|item| item["key"].as_str().unwrap()).collect::<Vec<_>>(), ["b:1", "a:2"]);
        let said = larder.run(&["bigkeys", "a:"]);
        assert!(said.out.lines().nth(1).unwrap().ends_with("  a:2") && said.err.starts_with("3 items of "), "{said:?}");
    });
}

#[test]
fn reads_are_watched_and_counted_by_key() {
    for_each_fleet(|larder, fleet| {
        larder.out(&["set", "hot", "x"]);
        let busy = |arguments: &[&str]| {
            let child = larder.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            let mut child = std::mem::ManuallyDrop::new(child);
            let mut connections: Vec<_> = fleet.iter().map(Server::connect).collect();
            let begun = Instant::now();
            // Until it has seen enough and ends.
            while child.try_wait().unwrap().is_none() {
                assert!(begun.elapsed() < PATIENCE, "{arguments:?} does not end");
                connections.iter_mut().for_each(|connection| _ = connection.exchange(b"get hot hot hot cold%20\r\n"));
            }
            said(std::mem::ManuallyDrop::into_inner(child).wait_with_output().unwrap())
        };
        let seen = busy(&["watch", "--count", "20"]);
        assert_eq!((seen.status, seen.out.lines().count()), (0, 20), "{seen:?}");
        assert!(seen.out.lines().any(|line| line.contains("type=item_get key=hot ")), "{seen:?}");
        let seen = busy(&["--json", "watch", "-n", "5"]);
        assert!(seen.out.lines().all(|line| line.contains("\"server\":\"127.0.0.1:")), "{seen:?}");
        let seen = busy(&["hotkeys", "--duration", "1s", "-n", "1"]);
        let rows: Vec<&str> = seen.out.lines().collect();
        assert!(rows.len() == 2 && rows[1].ends_with("  hot") && seen.err.contains(" reads seen"), "{seen:?}");
        let seen = busy(&["--json", "hotkeys", "--duration", "500ms"]);
        assert!(seen.out.contains("\"key\":\"cold%20\""), "{seen:?}");
    });
}

#[test]
fn statistics_rates_and_round_trips_are_shown_for_every_server() {
    for_each_fleet(|larder, fleet| {
        let table = larder.out(&["stats", "--filter", "curr_items"]);
        let row: Vec<&str> =
            table.lines().find(|line| line.starts_with("curr_items ")).unwrap().split_whitespace().collect();
        assert_eq!(row.len(), fleet.len() + 1, "{table}");
        assert!(fleet.iter().all(|server| table.lines().next().unwrap().contains(&server.address())), "{table}");
        let all = &larder.json(&["stats", "settings"])[0];
        assert!(fleet.iter().all(|server| all[server.address()]["maxbytes"] == "67108864"), "{all}");
        let top = larder.out(&["top", "--interval", "50ms", "--count", "2"]);
        assert_eq!(top.matches("gets/s").count(), 2, "{top}");
        assert_eq!(top.matches(&fleet[0].address()).count(), 2, "{top}");
        let rates = &larder.json(&["top", "--once", "--interval", "50ms"])[0][fleet[0].address()];
        assert!(rates["limit_bytes"] == 67_108_864 && rates["gets_per_second"].is_number(), "{rates}");
        let latency = larder.json(&["latency", "-n", "50"]);
        assert_eq!(latency.len(), fleet.len());
        assert!(
            latency.iter().all(|server| server["p50_us"].as_f64() > Some(0.0)
                && server["max_us"].as_f64() >= server["p50_us"].as_f64())
        );
        assert_eq!(larder.out(&["latency", "-n", "5"]).lines().count(), fleet.len() + 1);
        let answers = larder.json(&["ping"]);
        assert!(answers.len() == fleet.len() && answers.iter().all(|answer| answer["version"].is_string()));
    });
}

#[test]
fn servers_with_logins_and_tls_are_reached() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("users"), "ada:secret\n").unwrap();
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    std::fs::write(path("certificate"), certified.cert.pem()).unwrap();
    std::fs::write(path("key"), certified.signing_key.serialize_pem()).unwrap();

    let node = Server::node(&["-Y", &path("users")]);
    let larder = Larder::of(&[&node]);
    assert_eq!(larder.run(&["get", "a"]).status, 2);
    let login = ["--user", "ada", "--password", "secret"];
    larder.out(&[&login[..], &["set", "a", "1"]].concat());
    assert_eq!(larder.out(&[&login[..], &["scan"]].concat()), "a\n");
    let mut command = larder.command(&["get", "a"]);
    command.env("LARDER_USER", "ada").env("LARDER_PASSWORD", "secret");
    assert_eq!(said(command.output().unwrap()).out, "1");
    // Options may stand on both sides of the command, and some be variables.
    assert_eq!(larder.out(&["--user", "ada", "get", "a", "--password", "secret"]), "1");
    for arguments in [["--user", "ada", "get", "a"], ["get", "a", "--user", "ada"]] {
        let mut command = larder.command(&arguments);
        assert_eq!(said(command.env("LARDER_PASSWORD", "secret").output().unwrap()).out, "1", "{arguments:?}");
    }
    for (arguments, needs) in
        [(["--user", "ada"], "LARDER_PASSWORD"), (["--password", "x"], "--user"), (["--sasl", "--json"], "--user")]
    {
        let ended = larder.run(&[&["get", "a"], &arguments[..]].concat());
        assert!(ended.status == 2 && ended.err.contains(needs), "{arguments:?}: {ended:?}");
    }
    let sasl = Server::node_in(&[("MEMCACHED_SASL_PWDB", &path("users"))], &["-S"]);
    let by_sasl = [&["--sasl"], &login[..]].concat();
    let over_sasl = Larder::of(&[&sasl]);
    over_sasl.out(&[&by_sasl[..], &["set", "a", "1"]].concat());
    assert_eq!(over_sasl.out(&[&by_sasl[..], &["scan"]].concat()), "a\n");
    // An empty variable is none.
    let mut command = larder.command(&["which", "a"]);
    assert!(command.env("LARDER_USER", "").env("LARDER_PASSWORD", "").output().unwrap().status.success());

    let options = format!("ssl_chain_cert={},ssl_key={}", path("certificate"), path("key"));
    let node = Server::node(&["-Z", "-o", &options]);
    let larder = Larder(format!("localhost:{}", node.port()));
    assert_eq!(larder.run(&["get", "a"]).status, 2);
    assert_eq!(larder.run(&["--tls-ca", &path("certificate"), "set", "a", "1"]).status, 0);
    // Options may stand behind the command, too.
    assert_eq!(larder.out(&["dump", "--tls-ca", &path("certificate")]).lines().next(), Some("ms a 1 T0 F0"));
    let said = larder.run(&["--tls", "ping"]);
    assert_eq!(said.status, 2, "the system does not trust this certificate: {said:?}");
}

#[test]
fn nothing_that_a_server_sends_reaches_a_terminal_as_a_command_or_ends_the_program_badly() {
    let nasty: &[&[u8]] = &[
        b"\x1b[2J\x1b]0;owned\x07\r\n",
        b"STAT \x1b[2J \x07\r\nEND\r\n",
        b"VERSION \x1b[31m\r\n",
        b"OK\r\nkey=%1B[2J exp=-1 la=0 size=5\r\nkey=\x1b size=18446744073709551615\r\nEND\r\n",
        b"key=%1b%9b size=9 la=-9223372036854775808 exp=9223372036854775807 \r\nEND\r\n",
        b"OK\r\nts=1 type=item_get key=%1B\x1b[2J status=\x07\r\nskipped=99999999999999999999\r\n\x1b\r\n",
        b"ME k exp=9999999999999999999999 la=\x1b size=1\r\n",
        b"VA 99999999999999999999 x\r\n",
        b"VA 3 f-1 t-2 cx\r\n\x1b[m\r\n",
        b"SERVER_ERROR \x1b[2J\r\n",
        b"EN\r\nEN\r\nHD\r\nNS\r\n",
        b"\r\n\r\n\r\n",
        b"\xff\xfe\x00\r\n",
    ];
    for reply in nasty {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let larder = Larder(listener.local_addr().unwrap().to_string());
        // Every line but the greeting gets the reply, after which the server is done.
        let server = std::thread::spawn(move || {
            while let Ok((mut socket, _)) = listener.accept() {
                let mut bytes = [0; 4096];
                while let Ok(read @ 1..) = socket.read(&mut bytes) {
                    if &bytes[..read] == b"stop\r\n" {
                        return;
                    }
                    let is_greeting = &bytes[..read] == b"mn\r\n";
                    let sent = socket.write_all(if is_greeting { b"MN\r\n" } else { reply });
                    if sent.is_err() || !is_greeting {
                        break;
                    }
                }
            }
        });
        let commands: &[&[&str]] = &[
            &["get", "k"],
            &["get", "k", "k2"],
            &["set", "k", "v"],
            &["incr", "k"],
            &["touch", "k", "5"],
            &["delete", "k"],
            &["which", "--look", "k"],
            &["scan", "--long"],
            &["--json", "scan"],
            &["bigkeys"],
            &["dump"],
            &["watch", "-n", "2"],
            &["--json", "watch", "-n", "2"],
            &["hotkeys", "-d", "100ms"],
            &["stats"],
            &["--json", "stats"],
            &["top", "--once", "-i", "10ms"],
            &["ping"],
            &["latency", "-n", "3"],
        ];
        for command in commands {
            let said = larder.command(&[&["--timeout", "300ms"], *command].concat()).output().unwrap();
            let all = [&said.stdout[..], &said.stderr].concat();
            // One value alone is passed on as it is, where no terminal is; so are dumps.
            let raw = command[..] == ["get", "k"] || command[..] == ["dump"];
            let text = String::from_utf8_lossy(&all);
            assert!(matches!(said.status.code(), Some(0..=2)), "{command:?} on {reply:?}: {:?} {text}", said.status);
            let has_control = text.contains(|letter: char| letter.is_control() && letter != '\n' && letter != '\t');
            assert!(raw || !has_control, "{command:?} on {reply:?}: {text:?}");
        }
        std::net::TcpStream::connect(&larder.0).unwrap().write_all(b"stop\r\n").unwrap();
        server.join().unwrap();
    }
}
