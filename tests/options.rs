//! Options of the node's command line.

use std::io::{Read, Write};
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Instant;

use larder_tests::{Connection, PATIENCE, Server, binary, free_port};

#[test]
fn a_datagram_is_answered_with_its_request_number() {
    let port = free_port();
    let node = Server::node(&["-U", &port.to_string()]);
    let big = "x".repeat(3000);
    node.connect().exchange(format!("set a 0 0 3\r\nabc\r\nset big 0 0 3000\r\n{big}\r\n").as_bytes());
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect(("127.0.0.1", port)).unwrap();
    let ask = |id: u16, command: &[u8]| {
        let mut request = [id.to_be_bytes(), 0u16.to_be_bytes(), 1u16.to_be_bytes(), 0u16.to_be_bytes()].concat();
        request.extend_from_slice(command);
        socket.send(&request).unwrap();
        let mut reply = larder_protocol::udp::Reassembly::new(id);
        let mut datagram = [0; 2000];
        loop {
            let len = socket.recv(&mut datagram).unwrap();
            if let Some(reply) = reply.push(&datagram[..len]) {
                return String::from_utf8(reply).unwrap();
            }
        }
    };
    assert_eq!(ask(7, b"get a\r\n"), "VALUE a 0 3\r\nabc\r\nEND\r\n");
    assert_eq!(ask(8, b"get big\r\n"), format!("VALUE big 0 3000\r\n{big}\r\nEND\r\n"));
}

#[test]
fn a_unix_socket_serves_with_the_access_that_was_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("node.sock");
    let mut node = Command::new(binary("larder-node"))
        .arg("-s")
        .arg(&path)
        .args(["-a", "770"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + PATIENCE;
    let mut socket = loop {
        if let Ok(socket) = UnixStream::connect(&path) {
            break socket;
        }
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    };
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o770);
    socket.write_all(b"set a 0 0 1\r\nx\r\nget a\r\nquit\r\n").unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "STORED\r\nVALUE a 0 1\r\nx\r\nEND\r\n");
    node.kill().unwrap();
    node.wait().unwrap();
}

#[test]
fn a_client_may_shut_the_node_down_only_where_that_was_allowed() {
    let node = Server::node(&[]);
    assert_eq!(node.connect().exchange(b"shutdown\r\n"), "SERVER_ERROR: shutdown not enabled\r\n");
    let node = Server::node(&["-A"]);
    node.connect().send(b"shutdown\r\n");
    assert!(node.wait());
}

#[test]
fn a_connection_above_the_limit_is_told_so_and_one_that_goes_makes_room() {
    let node = Server::node(&["-c", "2"]);
    // The connection that waited for the node to listen may still be counted.
    let deadline = Instant::now() + PATIENCE;
    let (mut first, mut second) = loop {
        let (mut first, mut second) = (node.connect(), node.connect());
        first.send(b"mn\r\n");
        second.send(b"mn\r\n");
        if first.line() == "MN\r\n" && second.line() == "MN\r\n" {
            break (first, second);
        }
        assert!(Instant::now() < deadline);
    };
    assert_eq!(node.connect().read_to_end(), b"ERROR Too many open connections\r\n");
    assert_eq!(second.exchange(b"get a\r\n"), "END\r\n");
    first.send(b"quit\r\n");
    assert_eq!(first.read_to_end(), b"");
    loop {
        let mut third = node.connect();
        third.send(b"mn\r\n");
        if third.line() == "MN\r\n" {
            break;
        }
        assert!(Instant::now() < deadline);
    }
}

#[test]
fn an_idle_connection_is_closed_after_its_time() {
    let node = Server::node(&["-o", "idle_timeout=1"]);
    let mut connection = node.connect();
    assert_eq!(connection.exchange(b"get a\r\n"), "END\r\n");
    assert_eq!(connection.read_to_end(), b"");
}

#[test]
fn flush_all_is_refused_where_it_is_disabled() {
    let node = Server::node(&["-F"]);
    assert_eq!(node.connect().exchange(b"flush_all\r\n"), "CLIENT_ERROR flush_all not allowed\r\n");
}

#[test]
fn without_cas_clients_see_none_and_no_comparison_succeeds() {
    let node = Server::node(&["-C"]);
    let cases = [
        ("set a 0 0 1\r\nx\r\n", "STORED\r\n"),
        ("gets a\r\n", "VALUE a 0 1 0\r\nx\r\nEND\r\n"),
        ("cas a 0 0 1 0\r\ny\r\n", "EXISTS\r\n"),
        ("ms a 1 c E9\r\nz\r\n", "HD c0\r\n"),
        ("mg a c v\r\n", "VA 1 c0\r\nz\r\n"),
        ("md a C3\r\n", "EX\r\n"),
        ("ma n N0 J5 c\r\n", "HD c0\r\n"),
    ];
    let mut connection = node.connect();
    for (sent, answer) in cases {
        assert_eq!(connection.exchange(sent.as_bytes()), answer, "{sent}");
    }
}

#[test]
fn options_of_memcacheds_engine_are_accepted_and_unknown_ones_refused() {
    let node = Server::node(&[
        "-f",
        "1.5",
        "-n",
        "64",
        "-L",
        "-o",
        "modern,hashpower=20",
        "-o",
        "no_lru_crawler,slab_reassign",
    ]);
    assert_eq!(node.connect().exchange(b"get a\r\n"), "END\r\n");
    for wrong in [&["--no-such-flag"][..], &["-o", "no_such_option"], &["-m", "nothing"]] {
        let output = Command::new(binary("larder-node")).args(wrong).output().unwrap();
        assert!(!output.status.success());
        assert!(!output.stderr.is_empty());
    }
}

#[test]
fn the_pid_file_is_there_while_the_node_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("node.pid");
    let node = Server::node(&["-P", path.to_str().unwrap()]);
    assert_eq!(node.connect().exchange(b"get a\r\n"), "END\r\n");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{}\n", node.pid()));
    node.signal("TERM");
    assert!(node.wait());
    assert!(!path.exists());
}

#[test]
fn tests_may_move_the_clock_only_where_that_was_allowed() {
    let node = Server::node(&[]);
    assert_eq!(node.connect().exchange(b"debugtime 10\r\n"), "ERROR\r\n");
    let node = Server::node(&["--debug-time"]);
    let mut connection = node.connect();
    connection.exchange(b"set short 0 100 1\r\nx\r\nset long 0 200 1\r\nx\r\n");
    assert_eq!(connection.exchange(b"debugtime 99\r\nget short\r\n"), "OK\r\nVALUE short 0 1\r\nx\r\nEND\r\n");
    assert_eq!(connection.exchange(b"debugtime 2\r\nget short long\r\n"), "OK\r\nVALUE long 0 1\r\nx\r\nEND\r\n");
}

#[test]
fn after_the_last_second_of_its_clock_a_node_serves_on_and_rests() {
    let node = Server::node(&["--debug-time"]);
    let mut connection = node.connect();
    connection.exchange(b"set never 0 0 1\r\nx\r\nset soon 0 100 1\r\nx\r\n");
    assert_eq!(
        connection.exchange(b"debugtime 4294967296\r\nget never soon\r\n"),
        "OK\r\nVALUE never 0 1\r\nx\r\nEND\r\n"
    );
    let sent = b"set a 0 0 1\r\nx\r\nset b 0 100 1\r\ny\r\nset c 0 -1 1\r\nz\r\nget a b c\r\nmg a t\r\n";
    let answer = "STORED\r\nSTORED\r\nSTORED\r\nVALUE a 0 1\r\nx\r\nVALUE b 0 1\r\ny\r\nEND\r\nHD t-1\r\n";
    assert_eq!(connection.exchange(sent), answer);
    assert_eq!(connection.statistic("time"), "4294967294");
    // The background finds nothing to do: were items that never expire behind the clock, it would move them for ever.
    let rounds = |connection: &mut Connection| connection.statistic("lru_maintainer_juggles").parse::<u64>().unwrap();
    let begun = rounds(&mut connection);
    let deadline = Instant::now() + PATIENCE;
    while rounds(&mut connection) < begun + 5 {
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    }
    assert_eq!(connection.statistic("moves_within_lru"), "0");
}
