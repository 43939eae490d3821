//! A cluster of real nodes: any node answers for any key, nodes come and go, and the port between nodes takes nobody
//! else.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use larder_protocol::peer::{Greeting, Message, Purpose, decode};
use larder_tests::fleet::{self, Member};
use larder_tests::network::{Fault, Network};
use larder_tests::{PATIENCE, Server, binary, free_port};

/// A set of `key` to `value`.
fn set(key: &str, value: &str) -> String {
    format!("set {key} 5 0 {}\r\n{value}\r\n", value.len())
}

fn fill(member: &mut Member, count: usize) {
    for number in 0..count {
        assert_eq!(member.exchange(set(&format!("key{number}"), &format!("value{number}")).as_bytes()), "STORED\r\n");
    }
}

fn count(member: &mut Member, count: usize) -> usize {
    let keys: Vec<String> = (0..count).map(|number| format!("key{number}")).collect();
    let answer = member.exchange(format!("get {}\r\n", keys.join(" ")).as_bytes());
    let found: Vec<&str> = answer.lines().filter_map(|line| line.strip_prefix("VALUE ")?.split(' ').next()).collect();
    let in_order: Vec<&str> = keys.iter().map(|key| &**key).filter(|key| found.contains(key)).collect();
    assert_eq!(found, in_order, "values stand in the order of the keys");
    found.len()
}

#[test]
fn any_node_lists_the_cluster_and_answers_for_any_key() {
    let mut members = fleet::start(3, &[], &[]);
    let lists: Vec<String> = members.iter_mut().map(|member| member.exchange(b"config get cluster\r\n")).collect();
    let mut ports: Vec<u16> = members.iter().map(|member| member.server.port()).collect();
    ports.sort_by_key(|port| format!("127.0.0.1:{port}"));
    let nodes: Vec<String> = ports.iter().map(|port| format!("127.0.0.1|127.0.0.1|{port}")).collect();
    let version = lists[0].lines().nth(1).unwrap();
    let list = format!("{version}\n{}\n", nodes.join(" "));
    for answer in &lists {
        assert_eq!(*answer, format!("CONFIG cluster 0 {}\r\n{list}\r\nEND\r\n", list.len()));
    }
    let [a, b, c] = &mut members[..] else { panic!("three members") };
    assert_eq!(a.exchange(b"config get cluster\n"), lists[0]);
    assert_eq!(
        a.exchange(b"get AmazonElastiCache:cluster\r\n"),
        format!("VALUE AmazonElastiCache:cluster 0 {}\r\n{list}\r\nEND\r\n", list.len())
    );
    assert_eq!(a.exchange(b"config get other\r\n"), "END\r\n");
    for refused in ["config set cluster 0 1\r\n", "delete AmazonElastiCache:cluster\r\n"] {
        assert_eq!(a.exchange(refused.as_bytes()), "CLIENT_ERROR the cluster's configuration is its own\r\n");
    }
    // In binary, opcode 0x60.
    let mut binary = b.server.connect();
    binary.send(b"\x80\x60\0\x07\0\0\0\0\0\0\0\x07\0\0\0\x2a\0\0\0\0\0\0\0\0cluster");
    let head = [b"\x81\x60\0\0\x04\0\0\0".to_vec(), (list.len() as u32 + 4).to_be_bytes().to_vec()].concat();
    let head = [head, b"\0\0\0\x2a\0\0\0\0\0\0\0\0\0\0\0\0".to_vec()].concat();
    assert_eq!(binary.read(28), head);
    assert_eq!(binary.read(list.len()), list.as_bytes());
    binary.send(b"\x80\x60\0\x05\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0\0\0\0\0\0other");
    assert_eq!(binary.read(8)[6..], [0, 1]);

    fill(a, 200);
    for member in [&mut *a, b, c] {
        assert_eq!(count(member, 200), 200);
        for number in 0..60 {
            // Whichever node a key is at home at: what one command does, the next one sees, over any node.
            let commands = format!(
                "add n{number} 0 0 1\r\n1\r\nincr n{number} 4\r\nappend n{number} 0 0 1\r\n!\r\ngets n{number}\r\nms n{number} 2 \
                 F9 T0\r\nxy\r\nmg n{number} v f k s\r\ntouch n{number} 100\r\nset n{number} 0 0 1 noreply\r\nz\r\nmd n{number} q\r\n\
                 get n{number}\r\nincr n{number} bad\r\n"
            );
            let answer = member.exchange(commands.as_bytes());
            let lines: Vec<&str> = answer.lines().collect();
            assert_eq!(lines[..3], ["STORED", "5", "STORED"]);
            assert!(lines[3].starts_with(&format!("VALUE n{number} 0 2 ")), "{answer}");
            assert_eq!(lines[4..8], ["5!", "END", "HD", &*format!("VA 2 f9 kn{number} s2")]);
            assert_eq!(lines[8..], ["xy", "TOUCHED", "END", "CLIENT_ERROR invalid numeric delta argument"]);
        }
    }
    let figures = a.figures();
    let forwarded: u64 = figures
        .iter()
        .filter(|(name, _)| name.ends_with(":forwarded_out"))
        .map(|(_, n)| n.parse::<u64>().unwrap())
        .sum();
    assert!(forwarded > 0, "{figures:?}");
}

#[test]
fn each_member_has_its_own_item_under_a_key_of_the_datastores_beats_and_keeps_it_when_others_come() {
    let mut members = fleet::start(2, &[], &[]);
    let beat = |member: &mut Member| member.exchange(b"get larder:beat:store\r\n");
    for (number, member) in members.iter_mut().enumerate() {
        assert_eq!(beat(member), "END\r\n");
        assert_eq!(member.exchange(set("larder:beat:store", &number.to_string()).as_bytes()), "STORED\r\n");
    }
    let seed = members[0].peer.clone();
    members.push(Member::start(&[&seed], &[], &[]));
    fleet::settle(&mut members, 3);
    for (number, member) in members[..2].iter_mut().enumerate() {
        assert_eq!(beat(member), format!("VALUE larder:beat:store 5 1\r\n{number}\r\nEND\r\n"));
    }
    assert_eq!(beat(&mut members[2]), "END\r\n");
}

#[test]
fn a_refused_large_value_takes_the_old_one_away_wherever_it_is() {
    let mut members = fleet::start(2, &[], &["-I", "8k"]);
    let large = "x".repeat(10_000);
    for number in 0..20 {
        let key = format!("key{number}");
        assert_eq!(members[0].exchange(set(&key, "old").as_bytes()), "STORED\r\n");
        assert_eq!(members[0].exchange(set(&key, &large).as_bytes()), "SERVER_ERROR object too large for cache\r\n");
        assert_eq!(members[1].exchange(format!("get {key}\r\n").as_bytes()), "END\r\n");
    }
}

#[test]
fn a_node_outside_a_cluster_knows_no_configuration() {
    let node = Server::node(&[]);
    let mut connection = node.connect();
    assert_eq!(connection.exchange(b"config get cluster\r\n"), "ERROR\r\n");
    assert_eq!(connection.exchange(b"get AmazonElastiCache:cluster\r\n"), "END\r\n");
    assert_eq!(connection.exchange(b"version\r\n"), "VERSION 1.6.45\r\n");
    assert_eq!(connection.statistic("version"), "1.6.45");
    assert_eq!(connection.statistic("larder_version"), env!("CARGO_PKG_VERSION"));
}

#[test]
fn nodes_come_and_go_and_their_items_go_along() {
    let mut members = fleet::start(2, &[], &[]);
    fill(&mut members[0], 2000);
    let version = |member: &mut Member| member.figure("version").parse::<u64>().unwrap();
    let before = version(&mut members[0]);
    let seed = members[0].peer.clone();
    members.push(Member::start(&[&seed], &[], &[]));
    fleet::settle(&mut members, 3);
    let joined = version(&mut members[2]);
    assert!(joined > before);
    assert_eq!(count(&mut members[1], 2000), 2000);
    let pulled = members[2].figure("items_pulled");
    assert!(pulled.parse::<u64>().unwrap() > 300, "{pulled}");
    // The oldest one leaves.
    assert!(members.remove(0).leave());
    fleet::settle(&mut members, 2);
    assert!(version(&mut members[0]) > joined);
    assert_eq!(count(&mut members[0], 2000), 2000);
    assert!(members.remove(0).leave());
    assert_eq!(count(&mut members[0], 2000), 2000);
}

#[test]
fn long_values_go_along_too() {
    let mut members = fleet::start(2, &[], &[]);
    // Many of these are found at once, and are more than one frame may hold.
    let key = |number: usize| format!("key{number}");
    let values = ["x".repeat(20_000), "y".repeat(700_000)];
    let long = |number: usize| usize::from(number.is_multiple_of(20));
    for number in 0..400 {
        assert_eq!(members[0].exchange(set(&key(number), &values[long(number)]).as_bytes()), "STORED\r\n");
    }
    let seed = members[0].peer.clone();
    members.push(Member::start(&[&seed], &[], &[]));
    fleet::settle(&mut members, 3);
    assert_eq!(members[2].figure("sources_severed"), "0");
    for number in 0..400 {
        let answer = members[1].exchange(format!("get {}\r\n", key(number)).as_bytes());
        assert!(answer.contains(&values[long(number)]), "{number}: {} bytes", answer.len());
    }
}

/// Waits until a member knows so many others, itself among them, whatever their states are.
fn knows(member: &mut Member, members: usize) {
    let deadline = Instant::now() + PATIENCE;
    while member.figure("members") != members.to_string() {
        assert!(Instant::now() < deadline, "{:?}", member.figures());
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_node_that_leaves_stays_until_another_one_knows_that_it_has() {
    let network = Network::default();
    let mut members = vec![network.member("a", "")];
    members[0].settles(1);
    let seed = members[0].peer.clone();
    for (id, count) in [("b", 2), ("c", 3)] {
        members.push(network.member(id, &seed));
        fleet::settle(&mut members, count);
    }
    let leaver = members.pop().unwrap();
    leaver.server.signal("TERM");
    fleet::settle(&mut members, 2);
    // It forwards for a second. Then nobody can hear that it goes.
    ["a", "b"].iter().for_each(|other| network.disturb("c", other, Fault::Cut));
    std::thread::sleep(Duration::from_secs(3));
    members.iter_mut().for_each(|member| knows(member, 3));
    network.heal();
    assert!(leaver.server.wait());
    let since = Instant::now();
    members.iter_mut().for_each(|member| knows(member, 2));
    // Not since it is silent.
    assert!(since.elapsed() < Duration::from_secs(8));
}

#[test]
fn a_node_that_is_killed_while_it_leaves_is_gone_after_a_while() {
    let mut members = fleet::start(2, &[], &["--linger", "60"]);
    let seed = members[0].peer.clone();
    fill(&mut members[0], 300);
    let leaver = members.pop().unwrap();
    leaver.server.signal("TERM");
    fleet::settle(&mut members, 1);
    assert_eq!(count(&mut members[0], 300), 300);
    drop(leaver);
    knows(&mut members[0], 1);
    // It holds up no other change.
    members.push(Member::start(&[&seed], &[], &[]));
    fleet::settle(&mut members, 2);
    assert_eq!(count(&mut members[1], 300), 300);
}

#[test]
fn a_write_waits_for_a_member_that_hangs_for_a_moment_and_a_read_is_a_miss() {
    let mut members = fleet::start(2, &[], &[]);
    fill(&mut members[0], 40);
    let hung = members.pop().unwrap();
    hung.server.signal("STOP");
    let found = count(&mut members[0], 40);
    assert!((1..40).contains(&found), "{found} of 40 keys are those of the node that does not hang");
    std::thread::scope(|scope| {
        let writes = scope.spawn(|| {
            let sets: String = (0..40).map(|number| set(&format!("key{number}"), "new")).collect();
            members[0].exchange(sets.as_bytes())
        });
        // Longer than a read waits, and not so long that the member counts as silent.
        std::thread::sleep(Duration::from_millis(700));
        hung.server.signal("CONT");
        assert_eq!(writes.join().unwrap(), "STORED\r\n".repeat(40));
    });
}

#[test]
fn a_dead_nodes_keys_are_misses_until_it_is_back() {
    let first = Member::start(&[], &[], &[]);
    let seed = first.peer.clone();
    let (port, peer) = (free_port(), free_port().to_string());
    let listen = format!("127.0.0.1:{peer}");
    let arguments = ["--cluster", "test", "--cluster-listen", &listen, "--seeds", &seed];
    let mut members = [first, Member::of(Server::node_on(port, &arguments))];
    fleet::settle(&mut members, 2);
    fill(&mut members[0], 300);
    let [mut first, second] = members;
    // Dropped is killed.
    drop(second);
    let found = count(&mut first, 300);
    assert!((1..300).contains(&found), "{found} of 300 keys are those of the node that lives");
    let answers: Vec<String> =
        (0..50).map(|number| first.exchange(set(&format!("key{number}"), "new").as_bytes())).collect();
    assert!(answers.iter().any(|answer| answer == "STORED\r\n"));
    assert!(answers.iter().any(|answer| answer == "SERVER_ERROR larder: the key's node does not answer\r\n"));
    let mut second = Member::of(Server::node_on(port, &arguments));
    second.settles(2);
    first.settles(2);
    assert_eq!(second.figure(&format!("127.0.0.1:{port}:generation")), "2");
    for number in 0..50 {
        assert_eq!(first.exchange(set(&format!("key{number}"), "new").as_bytes()), "STORED\r\n");
    }
}

#[test]
fn nodes_that_are_seeds_of_each_other_found_one_cluster() {
    let ports: Vec<u16> = (0..3).map(|_| free_port()).collect();
    let seeds = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect::<Vec<_>>().join(",");
    let mut members: Vec<Member> = ports
        .iter()
        .map(|port| {
            let listen = format!("127.0.0.1:{port}");
            Member::of(Server::node(&["--cluster", "test", "--cluster-listen", &listen, "--seeds", &seeds]))
        })
        .collect();
    fleet::settle(&mut members, 3);
    let versions: Vec<String> = members.iter_mut().map(|member| member.figure("version")).collect();
    assert!(versions.iter().all(|version| *version == versions[0]), "{versions:?}");
}

#[test]
fn seeds_that_did_not_reach_each_other_at_the_start_become_one_cluster() {
    let ports = [free_port(), free_port()];
    let seeds = ports.map(|port| format!("127.0.0.1:{port}")).join(",");
    let start = |port: u16| {
        let listen = format!("127.0.0.1:{port}");
        Member::of(Server::node(&["--cluster", "test", "--cluster-listen", &listen, "--seeds", &seeds]))
    };
    let mut first = start(ports[0]);
    first.settles(1);
    first.server.signal("STOP");
    let mut second = start(ports[1]);
    second.settles(1);
    first.server.signal("CONT");
    first.settles(2);
    second.settles(2);
    assert_eq!(first.figure("version"), second.figure("version"));
}

/// Starts a node that must refuse to, and returns what it says.
fn refusal(arguments: &[&str]) -> String {
    let output = std::process::Command::new(binary("larder-node")).args(arguments).output().unwrap();
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_cluster_off_loopback_needs_a_key() {
    let refused = refusal(&["-p", "-1", "-l", "0.0.0.0", "--cluster", "test", "--advertise", "127.0.0.1"]);
    assert!(refused.contains("--cluster-key-file"), "{refused}");
    assert!(refusal(&["-p", "-1", "-l", "0.0.0.0", "--cluster", "test"]).contains("--advertise"));
    assert!(refusal(&["-p", "-1", "-U", "-1", "--cluster", "test"]).contains("-U"));
}

/// A key file that lives as long as the test.
fn key_file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

#[test]
fn the_port_between_nodes_takes_only_members_with_the_key() {
    let (key, other) = (key_file(&"k".repeat(40)), key_file(&"o".repeat(40)));
    let key = key.path().to_str().unwrap();
    let mut member = Member::start(&[], &[], &["--cluster-key-file", key]);
    member.settles(1);
    let stranger = |arguments: &[&str]| {
        let mut stranger = Member::start(&[&member.peer.clone()], &[], arguments);
        std::thread::sleep(Duration::from_millis(500));
        stranger.figure("state")
    };
    assert_eq!(stranger(&[]), "outside");
    assert_eq!(stranger(&["--cluster-key-file", other.path().to_str().unwrap()]), "outside");
    assert_eq!(stranger(&["--cluster-key-file", key, "-m", "65"]), "outside");
    assert_eq!(stranger(&["--cluster-key-file", key, "--cluster-hashing", "rendezvous"]), "outside");
    member.settles(1);
    let refused: u64 = member.figure("links_refused").parse().unwrap();
    assert!(refused >= 4, "{refused}");
    let mut friend = Member::start(&[&member.peer.clone()], &[], &["--cluster-key-file", key]);
    friend.settles(2);
}

/// Sends bytes to a port, and returns what comes until it is closed.
fn answer_to(address: &str, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // It may be closed before all is written.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    answer
}

#[test]
fn nothing_that_arrives_at_the_port_between_nodes_does_harm() {
    let key = key_file(&"k".repeat(40));
    let mut member = Member::start(&[], &[], &["--cluster-key-file", key.path().to_str().unwrap()]);
    member.settles(1);
    let hello = Greeting {
        purpose: Purpose::Forward,
        cluster: "test",
        id: "stranger",
        nonce: [7; 16],
        process: 7,
        settings: "--cluster-hashing ketama-weighted, -m 64, -I 1048576",
    };
    let mut greeting = Vec::new();
    Message::Hello(hello).encode(0, &mut greeting);
    let welcome = answer_to(&member.peer, &greeting);
    let Some((frame, _)) = decode(&welcome, 4096).unwrap() else { panic!("a welcome") };
    let Message::Welcome(..) = frame.message else { panic!("{frame:?}") };
    // Its own proof, sent back; a proof of another exchange; a command without any.
    let mut replayed = greeting.clone();
    let Message::Welcome(_, proof) = decode(&welcome, 4096).unwrap().unwrap().0.message else { panic!("a welcome") };
    Message::Proof(proof).encode(0, &mut replayed);
    let protocol = larder_protocol::Protocol::Text;
    Message::Ask { protocol, milliseconds: 500, request: b"set a 0 0 1\r\nx\r\n" }.encode(1, &mut replayed);
    let refused_before: u64 = member.figure("links_refused").parse().unwrap();
    assert!(!answer_to(&member.peer, &replayed).windows(6).any(|bytes| bytes == b"STORED"));
    let mut ask = Vec::new();
    Message::Ask { protocol, milliseconds: 500, request: b"set a 0 0 1\r\nx\r\n" }.encode(1, &mut ask);
    assert!(answer_to(&member.peer, &ask).is_empty());
    assert!(answer_to(&member.peer, b"get a\r\n0123456789abcdef").is_empty());
    // Four GiB are announced.
    assert!(answer_to(&member.peer, &[0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0, 0, 0, 0, 0]).is_empty());
    // A link is closed before it is counted.
    let deadline = Instant::now() + PATIENCE;
    while member.figure("links_refused").parse::<u64>().unwrap() < refused_before + 4 {
        assert!(Instant::now() < deadline, "four links are refused");
    }
    // Links that stop in the middle of a frame cost little, and end.
    let rss = |pid: u32| -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    };
    let before = rss(member.server.pid());
    let halves: Vec<TcpStream> = (0..50)
        .map(|cut| {
            let mut stream = TcpStream::connect(&member.peer).unwrap();
            stream.write_all(&greeting[..cut % greeting.len()]).unwrap();
            stream
        })
        .collect();
    assert_eq!(member.exchange(b"get a\r\n"), "END\r\n");
    assert!(rss(member.server.pid()) < before + 50 * 1024, "less than a MiB a link");
    let deadline = Instant::now() + PATIENCE;
    for mut stream in halves {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    }
    assert!(Instant::now() < deadline);
    assert_eq!(member.exchange(b"get a\r\n"), "END\r\n");
}

#[test]
fn a_member_that_is_silent_for_long_is_forgotten_where_that_is_asked_for() {
    let mut members = fleet::start(3, &[], &["--eject-after", "5"]);
    let hung = members.pop().unwrap();
    hung.server.signal("STOP");
    fleet::settle(&mut members, 2);
    // Every key is at home at one of the two.
    fill(&mut members[0], 200);
    assert_eq!(count(&mut members[1], 200), 200);
    hung.server.signal("CONT");
    // It was not heard for as long, and does not count the others as silent: it joins anew.
    members.push(Member::of(hung.server));
    fleet::settle(&mut members, 3);
    assert_eq!(count(&mut members[2], 200), 200);
}

#[test]
fn the_share_of_one_key_in_a_nodes_commands_is_known_to_all() {
    let mut members = fleet::start(2, &[], &[]);
    fill(&mut members[0], 1);
    let deadline = Instant::now() + PATIENCE;
    let lines = "get key0\r\n".repeat(2000);
    let percent = |member: &mut Member| member.figure("hottest_key_percent").parse::<f64>().unwrap();
    while members.iter_mut().any(|member| percent(member) < 90.0) {
        members.iter_mut().for_each(|member| _ = member.exchange(lines.as_bytes()));
        assert!(Instant::now() < deadline, "{:?}", members.iter_mut().map(percent).collect::<Vec<_>>());
    }
}

#[test]
fn larders_client_follows_the_list_of_nodes_and_sees_no_error() {
    // Longer than the client needs to learn of a node that leaves.
    let mut members = fleet::start(3, &[], &["--linger", "8"]);
    let address = members[0].server.address();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            runtime.block_on(async {
                let builder = larder_client::Client::builder().timeout(Duration::from_secs(2));
                let cache = builder.discover(address).connect().await.unwrap();
                let ttl = Duration::from_secs(600);
                let mut number = 0_u64;
                while !done.load(Ordering::Relaxed) {
                    let key = format!("key{}", number % 500);
                    cache.set(&key, number.to_string(), ttl).await.unwrap();
                    // Keys are read long after they were written, and what moved is there.
                    let old = number.saturating_sub(250);
                    let found = cache.get(format!("key{}", old % 500)).await.unwrap();
                    assert_eq!(found.as_deref(), Some(old.to_string().as_bytes()), "of {number}");
                    number += 1;
                }
                number
            })
        });
        let stopper = Stopper(&done);
        let seed = members[0].peer.clone();
        members.push(Member::start(&[&seed], &[], &["--linger", "8"]));
        fleet::settle(&mut members, 4);
        // The client connects to the new node once it knows it.
        let deadline = Instant::now() + PATIENCE;
        let connections = |member: &mut Member| {
            let answer = member.exchange(b"stats\r\n");
            let line = answer.lines().find_map(|line| line.strip_prefix("STAT curr_connections ")).unwrap().to_owned();
            line.parse::<u64>().unwrap()
        };
        let alone = connections(&mut members[3]);
        while connections(&mut members[3]) == alone {
            assert!(Instant::now() < deadline, "the client does not come to the new node");
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(members.pop().unwrap().leave());
        fleet::settle(&mut members, 3);
        drop(stopper);
        let operations = client.join().expect("no operation fails");
        assert!(operations > 500, "{operations}");
    });
}

/// Sets a flag when it is dropped.
struct Stopper<'a>(&'a AtomicBool);

impl Drop for Stopper<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
