//! Connections: listeners, limits, and idle time-outs.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use larder_tests::{Connection, PATIENCE, Server, binary, connect_to};

/// Repeats `attempt` until it returns a value.
fn eventually<T>(mut attempt: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(result) = attempt() {
            return result;
        }
        assert!(Instant::now() < deadline, "it never came");
        std::thread::yield_now();
    }
}

/// A node that announces no TCP port, killed when dropped.
struct Node(Child);

impl Node {
    fn start(arguments: &[&str]) -> Node {
        Node(Command::new(binary("larder-node")).args(arguments).stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Killing fails if the process has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn without_maxconns_fast_a_connection_above_the_limit_waits_for_its_turn() {
    let node = Server::node(&["-c", "1", "-o", "no_maxconns_fast"]);
    let mut first = node.connect();
    assert_eq!(first.statistic("accepting_conns"), "1");
    let mut second = node.connect();
    second.send(b"mn\r\n");
    eventually(|| (first.statistic("accepting_conns") == "0").then_some(()));
    assert_eq!(first.statistic("listen_disabled_num"), "1");
    assert_eq!(first.statistic("rejected_connections"), "");
    first.send(b"quit\r\n");
    assert_eq!(second.line(), "MN\r\n");
    assert_eq!(second.statistic("accepting_conns"), "1");
    assert_eq!(second.statistic("listen_disabled_num"), "1");
    assert_ne!(second.statistic("time_in_listen_disabled_us"), "0");
    assert_eq!(second.statistic("curr_connections"), "1");
}

#[test]
fn a_client_is_idle_also_in_the_middle_of_a_command() {
    let node = Server::node(&["-o", "idle_timeout=1"]);
    let mut halfway = node.connect();
    halfway.send(b"set a 0 0 10\r\nabc");
    assert_eq!(halfway.read_to_end(), b"");
    assert_eq!(node.connect().statistic("idle_kicks"), "1");
}

#[test]
fn a_node_listens_on_every_address_it_was_given() {
    let node = Server::node(&["-l", "127.0.0.1:0", "-l", "127.0.0.2:0,proto[binary]:127.0.0.1:0"]);
    let [first, second, binary] = *node.ports() else { panic!("three ports") };
    assert_eq!(Connection::over(connect_to(first)).exchange(b"set a 0 0 1\r\nx\r\n"), "STORED\r\n");
    let other = std::net::TcpStream::connect(("127.0.0.2", second)).unwrap();
    assert_eq!(Connection::over(other).exchange(b"get a\r\n"), "VALUE a 0 1\r\nx\r\nEND\r\n");
    let mut text_to_binary = Connection::over(connect_to(binary));
    text_to_binary.send(&b"get a\r\n".repeat(4));
    assert_eq!(text_to_binary.read_to_end(), b"");
}

#[test]
fn an_address_without_a_port_listens_for_datagrams_too() {
    let node = Server::node(&["-U", "-1"]);
    let [tcp, udp] = *node.ports() else { panic!("two ports") };
    assert_eq!(Connection::over(connect_to(tcp)).exchange(b"get a\r\n"), "END\r\n");
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send_to(b"\0\x01\0\0\0\x01\0\0get a\r\n", ("127.0.0.1", udp)).unwrap();
    let mut datagram = [0; 100];
    let len = socket.recv(&mut datagram).unwrap();
    assert_eq!(&datagram[..len], b"\0\x01\0\0\0\x01\0\0END\r\n");
}

#[test]
fn a_socket_that_was_opened_for_the_node_is_served_in_place_of_its_own() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    // systemd passes sockets the same way, except for the descriptor's number (sd_listen_fds(3)).
    let node = Command::new(binary("larder-node"))
        .args(["-p", "1"])
        .stdin(Stdio::from(OwnedFd::from(listener)))
        .env("LISTEN_FDS", "1")
        .env("LISTEN_FDS_FIRST_FD", "0")
        .env_remove("LISTEN_PID")
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let _node = Node(node);
    assert_eq!(Connection::over(connect_to(port)).exchange(b"get a\r\n"), "END\r\n");
}

#[test]
fn a_unix_socket_takes_the_place_of_a_dead_one_but_not_of_a_live_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("node.sock");
    let arguments = ["-s", path.to_str().unwrap()];
    let connect = || eventually(|| UnixStream::connect(&path).ok());
    let node = Node::start(&arguments);
    assert_eq!(Connection::over(connect()).exchange(b"get a\r\n"), "END\r\n");
    let second = Command::new(binary("larder-node")).args(arguments).output().unwrap();
    assert!(!second.status.success());
    assert!(String::from_utf8_lossy(&second.stderr).contains("node.sock"));
    assert_eq!(Connection::over(connect()).exchange(b"get a\r\n"), "END\r\n");
    drop(node);
    assert!(path.exists());
    let _node = Node::start(&arguments);
    assert_eq!(Connection::over(connect()).exchange(b"get a\r\n"), "END\r\n");
}

#[test]
fn a_daemon_serves_as_the_user_it_was_told_to_be_and_leaves_its_pid() {
    let folder = tempfile::tempdir().unwrap();
    let root = nix::unistd::Uid::effective().is_root();
    if root {
        nix::unistd::chown(folder.path(), Some(65534.into()), None).unwrap();
    } else {
        eprintln!("SKIPPED: only root can become another user; the daemon stays the same user");
    }
    let (socket, pid_file) = (folder.path().join("node.sock"), folder.path().join("node.pid"));
    let arguments = ["-d", "-u", "nobody", "-s", socket.to_str().unwrap(), "-P", pid_file.to_str().unwrap()];
    let started = Command::new(binary("larder-node")).args(arguments).stderr(Stdio::null()).status().unwrap();
    assert!(started.success());
    let pid: i32 = eventually(|| std::fs::read_to_string(&pid_file).ok()?.trim().parse().ok());
    let mut connection = Connection::over(eventually(|| UnixStream::connect(&socket).ok()));
    assert_eq!(connection.statistic("pid"), pid.to_string());
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:\t")).unwrap();
    assert!(!root || uid == "65534\t65534\t65534\t65534", "{uid}");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM).unwrap();
    assert_eq!(connection.read_to_end(), b"");
    eventually(|| (!pid_file.exists()).then_some(()));
}
