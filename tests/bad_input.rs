//! Bad input gets an error or a close, and does not affect other connections.

use larder_tests::Server;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Checks that the node still serves a new connection.
fn still_serves(node: &Server) {
    let answer = node.connect().exchange(b"set alive 0 0 3\r\nyes\r\nget alive\r\n");
    assert_eq!(answer, "STORED\r\nVALUE alive 0 3\r\nyes\r\nEND\r\n");
}

#[test]
fn a_line_without_an_end_closes_the_connection() {
    let node = Server::node(&[]);
    let mut connection = node.connect();
    connection.send(&vec![b'x'; 4096]);
    assert_eq!(connection.read_to_end(), b"");
    still_serves(&node);
}

#[test]
fn a_list_of_keys_without_an_end_is_bounded() {
    let node = Server::node(&[]);
    let mut connection = node.connect();
    let mut line = b"get".to_vec();
    while line.len() < 1 << 20 {
        line.extend_from_slice(b" key");
    }
    line.extend_from_slice(b"\r\n");
    assert_eq!(connection.exchange(&line), "END\r\n");
    still_serves(&node);
}

#[test]
fn a_key_of_250_bytes_works_and_one_of_251_is_refused() {
    let node = Server::node(&[]);
    let mut connection = node.connect();
    let (fits, too_long) = ("k".repeat(250), "k".repeat(251));
    assert_eq!(connection.exchange(format!("set {fits} 0 0 1\r\nx\r\n").as_bytes()), "STORED\r\n");
    let bad_format = "CLIENT_ERROR bad command line format\r\n";
    assert_eq!(connection.exchange(format!("set {too_long} 0 0 1\r\nx\r\n").as_bytes()), bad_format);
    assert_eq!(connection.exchange(format!("get {too_long}\r\n").as_bytes()), bad_format);
    assert_eq!(connection.exchange(format!("mg {too_long} v\r\n").as_bytes()), bad_format);
    assert_eq!(connection.exchange(format!("ms {too_long} 1\r\nx\r\n").as_bytes()), bad_format);
    still_serves(&node);
}

#[test]
fn a_truncated_body_stores_nothing() {
    let node = Server::node(&[]);
    let mut connection = node.connect();
    connection.send(b"set a 0 0 100\r\nonly this");
    drop(connection);
    assert_eq!(node.connect().exchange(b"get a\r\n"), "END\r\n");
    still_serves(&node);
}

#[test]
fn random_bytes_never_stop_the_node() {
    let node = Server::node(&[]);
    let mut random = StdRng::seed_from_u64(7);
    for _ in 0..200 {
        let mut connection = node.connect();
        let mut bytes = vec![0; random.random_range(1..3000)];
        random.fill(&mut bytes[..]);
        // A first byte of 0x80 selects the binary protocol, where a random length may wait for its body for ever.
        bytes[0] &= 0x7f;
        bytes.extend_from_slice(b"\r\nquit\r\n");
        connection.send(&bytes);
    }
    still_serves(&node);
}

#[test]
fn a_client_that_sends_and_does_not_read_is_not_read_from_for_ever() {
    use std::io::{ErrorKind, Write};
    let node = Server::node(&["-I", "1m"]);
    let mut setup = node.connect();
    let mut set = b"set big 0 0 1000000\r\n".to_vec();
    set.resize(set.len() + 1_000_000, b'x');
    set.extend_from_slice(b"\r\n");
    assert_eq!(setup.exchange(&set), "STORED\r\n");
    let mut socket = std::net::TcpStream::connect(("127.0.0.1", node.port())).unwrap();
    socket.set_write_timeout(Some(std::time::Duration::from_millis(500))).unwrap();
    let requests = b"get big\r\n".repeat(10_000);
    let stopped = loop {
        if let Err(error) = socket.write_all(&requests) {
            break error.kind();
        }
    };
    assert!(matches!(stopped, ErrorKind::WouldBlock | ErrorKind::TimedOut), "{stopped:?}");
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid())).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kibibytes: u64 = resident.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(kibibytes < 200 * 1024, "{kibibytes} KiB are resident");
    still_serves(&node);
}

#[test]
fn a_stopped_node_ends_well_on_sigterm_and_sigint() {
    for signal in ["TERM", "INT"] {
        let node = Server::node(&[]);
        still_serves(&node);
        node.signal(signal);
        assert!(node.wait(), "after SIG{signal}");
    }
}
