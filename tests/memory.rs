//! Memory that clients drive is bounded: the memory limit, 64 MiB, and 8 KiB a connection.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use larder_protocol::{BinaryReply, Command as Request, Reply, Store, StoreMode, binary};
use larder_tests::authority::Authority;
use larder_tests::{Connection, PATIENCE, Server, binary as program, peak_memory};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

/// A node on a unix socket, whose kernel buffers are small and fixed, so that what is not read stays in the node.
struct Node {
    child: Child,
    directory: TempDir,
}

impl Node {
    fn start(arguments: &[&str]) -> Node {
        // The connections of a test may be more than a shell's limit of descriptors.
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
        let directory = TempDir::new().unwrap();
        let socket = directory.path().join("node");
        let child = Command::new(program("larder-node"))
            .args(["-t", "2", "-b", "4096", "-s"])
            .arg(&socket)
            .args(arguments)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + PATIENCE;
        while UnixStream::connect(&socket).is_err() {
            assert!(Instant::now() < deadline, "it does not listen");
            std::thread::yield_now();
        }
        Node { child, directory }
    }

    fn socket(&self) -> UnixStream {
        let path: PathBuf = self.directory.path().join("node");
        let socket = UnixStream::connect(path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }

    fn connect(&self) -> Connection<UnixStream> {
        Connection::over(self.socket())
    }

    /// Waits until the node has read so many bytes.
    fn has_read(&self, bytes: usize) {
        let mut connection = self.connect();
        let deadline = Instant::now() + PATIENCE;
        while connection.statistic("bytes_read").parse::<usize>().unwrap() < bytes {
            assert!(Instant::now() < deadline, "it stops reading");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    fn is_bounded(&self, limit: usize, connections: usize) {
        is_bounded(self.child.id(), limit, connections);
    }
}

/// Checks the bound of a process for a memory limit in MiB. Returns the most memory, in KiB, that it has had so far.
fn is_bounded(process: u32, limit: usize, connections: usize) -> usize {
    let (peak, most) = (peak_memory(process), (limit + 64) * 1024 + 8 * connections);
    assert!(peak <= most, "{peak} KiB of memory, of at most {most}");
    peak
}

impl Drop for Node {
    fn drop(&mut self) {
        // Killing fails if the process has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The forms of a set.
#[derive(Debug, Clone, Copy)]
enum Form {
    Text,
    Noreply,
    Meta,
    MetaQuiet,
    Binary,
    BinaryQuiet,
}

const FORMS: [Form; 6] = [Form::Text, Form::Noreply, Form::Meta, Form::MetaQuiet, Form::Binary, Form::BinaryQuiet];

impl Form {
    fn is_binary(self) -> bool {
        matches!(self, Form::Binary | Form::BinaryQuiet)
    }

    /// The bytes of a set.
    fn set(self, key: &str, value: &[u8]) -> Vec<u8> {
        let len = value.len();
        let line = match self {
            Form::Text => format!("set {key} 0 0 {len}\r\n"),
            Form::Noreply => format!("set {key} 0 0 {len} noreply\r\n"),
            Form::Meta => format!("ms {key} {len}\r\n"),
            Form::MetaQuiet => format!("ms {key} {len} q\r\n"),
            Form::Binary | Form::BinaryQuiet => {
                let quiet = matches!(self, Form::BinaryQuiet);
                let opcode = if quiet { binary::opcode::SETQ } else { binary::opcode::SET };
                let command = Request::Store(Store::new(StoreMode::Set, key.as_bytes(), value));
                let mut bytes = Vec::new();
                let reply = Reply::Binary(BinaryReply { opcode, opaque: 0 });
                larder_protocol::Request { command, reply }.encode(&mut bytes).unwrap();
                return bytes;
            }
        };
        [line.as_bytes(), value, b"\r\n"].concat()
    }

    /// A command whose answer shows that the connection is in step.
    fn marker(self) -> Vec<u8> {
        if self.is_binary() { binary_packet(binary::opcode::NOOP) } else { b"mn\r\n".to_vec() }
    }

    /// Reads answers up to that of the marker: `None` where there is no other, else whether the set succeeded.
    fn answer(self, connection: &mut Connection<UnixStream>) -> Option<bool> {
        let mut stored = None;
        loop {
            if self.is_binary() {
                let header = connection.read(24);
                connection.read(u32::from_be_bytes(header[8..12].try_into().unwrap()) as usize);
                match (header[1], u16::from_be_bytes([header[6], header[7]])) {
                    (binary::opcode::NOOP, _) => return stored,
                    (_, binary::status::OK) => stored = Some(true),
                    (_, status) => {
                        assert_eq!(status, binary::status::OUT_OF_MEMORY);
                        stored = Some(false);
                    }
                }
            } else {
                match &*connection.line() {
                    "MN\r\n" => return stored,
                    "STORED\r\n" | "HD\r\n" => stored = Some(true),
                    line => {
                        assert_eq!(line, "SERVER_ERROR out of memory storing object\r\n");
                        stored = Some(false);
                    }
                }
            }
        }
    }
}

fn binary_packet(opcode: u8) -> Vec<u8> {
    let mut packet = vec![0; 24];
    (packet[0], packet[1]) = (0x80, opcode);
    packet
}

/// Half-sent values of `size` bytes on so many connections, which are then sent to the end.
fn half_sent_values(limit: &str, largest: &str, connections: usize, size: usize) {
    let node = Node::start(&["-m", limit, "-I", largest]);
    let value = vec![b'x'; size];
    let mut sent = 0;
    let under_way: Vec<_> = (0..connections)
        .map(|number| {
            let (form, key) = (FORMS[number % FORMS.len()], format!("key{number}"));
            assert_eq!(node.connect().exchange(format!("set {key} 0 0 3\r\nold\r\n").as_bytes()), "STORED\r\n");
            let bytes = form.set(&key, &value);
            let begun = bytes.len() - size / 100;
            let mut connection = node.connect();
            connection.send(&bytes[..begun]);
            sent += begun;
            (form, key, connection, bytes[begun..].to_vec())
        })
        .collect();
    node.has_read(sent);
    node.is_bounded(limit.parse().unwrap(), 2 * connections);
    let mut results = BTreeMap::<_, usize>::new();
    for (form, key, mut connection, rest) in under_way {
        connection.send(&rest);
        connection.send(&form.marker());
        let stored = form.answer(&mut connection);
        *results.entry(stored).or_default() += 1;
        // A value that was refused leaves nothing old behind.
        let found = node.connect().exchange(format!("get {key}\r\n").as_bytes());
        assert!(!found.contains("old"), "{form:?} {stored:?}: {key} has its old value");
        assert!(stored != Some(false) || found == "END\r\n", "{form:?}: {key} was refused and is there");
    }
    assert!(results[&Some(true)] > 0 && results[&Some(false)] > 0, "{results:?}");
    node.is_bounded(limit.parse().unwrap(), 2 * connections);
}

#[test]
fn half_sent_values_are_within_the_memory_limit_or_refused_in_step() {
    half_sent_values("16", "1m", 200, 1_000_000);
}

#[test]
fn half_sent_values_of_16_megabytes_are_within_the_memory_limit_or_refused_in_step() {
    half_sent_values("64", "16m", 20, 16_000_000);
}

#[test]
fn memory_that_is_locked_is_what_is_used() {
    let node = Node::start(&["-m", "16", "-k"]);
    store_values(node.connect());
    node.is_bounded(16, 1);
}

/// Stores a value and reads it back. Returns whether it was stored, and whether it was still there.
fn stores_and_reads(node: &Node, form: Form, key: &str, value: &[u8]) -> (bool, bool) {
    let mut connection = node.connect();
    connection.send(&form.set(key, value));
    connection.send(&form.marker());
    // A quiet set says nothing when it succeeds.
    let stored = form.answer(&mut connection).unwrap_or(true);
    let mut reader = node.connect();
    reader.send(format!("get {key}\r\n").as_bytes());
    let line = reader.line();
    if line == "END\r\n" {
        return (stored, false);
    }
    assert_eq!(line, format!("VALUE {key} 0 {}\r\n", value.len()));
    assert!(reader.read(value.len()) == value, "{form:?} {key}: another value");
    assert_eq!((reader.line(), reader.line()), ("\r\n".to_owned(), "END\r\n".to_owned()));
    (stored, true)
}

#[test]
fn values_of_nearly_half_the_memory_are_stored_and_read_back() {
    let node = Node::start(&["-m", "64", "-I", "32m"]);
    for (number, form) in FORMS.into_iter().enumerate() {
        let value = vec![b'a' + number as u8; 30_000_000];
        assert_eq!(stores_and_reads(&node, form, "large", &value), (true, true), "{form:?}");
        assert_eq!(stores_and_reads(&node, form, &format!("other{number}"), &value), (true, true), "{form:?}");
    }
    node.is_bounded(64, FORMS.len() * 4);
}

#[test]
fn large_values_that_several_connections_send_at_once_are_whole_or_refused() {
    let node = Node::start(&["-m", "64", "-I", "16m"]);
    let stored: usize = std::thread::scope(|scope| {
        let senders = [0, 1, 2, 3, 4, 5].map(|sender| {
            let node = &node;
            scope.spawn(move || {
                let value = vec![b'a' + sender as u8; 15_000_000];
                let key = format!("key{sender}");
                (0..5).filter(|_| stores_and_reads(node, FORMS[sender], &key, &value).0).count()
            })
        });
        senders.into_iter().map(|sender| sender.join().unwrap()).sum()
    });
    assert!(stored > 0);
    for form in FORMS {
        assert_eq!(stores_and_reads(&node, form, "last", &vec![b'z'; 15_000_000]), (true, true), "{form:?}");
    }
    node.is_bounded(64, 100);
}

#[test]
fn answers_that_nobody_reads_are_bounded() {
    let (node, count) = (Node::start(&["-m", "16"]), 500);
    assert_eq!(node.connect().exchange(&Form::Text.set("key", &[b'x'; 16_000])), "STORED\r\n");
    let mut waiting: Vec<_> = (0..count).map(|_| node.socket()).collect();
    waiting.iter_mut().for_each(|socket| socket.write_all(&b"get key\r\n".repeat(100)).unwrap());
    // A first byte: the first batch of answers is there.
    waiting.iter_mut().for_each(|socket| socket.read_exact(&mut [0]).unwrap());
    node.is_bounded(16, count);
    // They come once they are read.
    for socket in waiting.into_iter().step_by(50) {
        let answer = [&b"ALUE key 0 16000\r\n"[..], &[b'x'; 16_000], b"\r\nEND\r\n"].concat();
        let mut connection = Connection::over(socket);
        assert!(connection.read(answer.len()) == answer);
        let answer = [b"V", &answer[..]].concat();
        (1..100).for_each(|number| assert!(connection.read(answer.len()) == answer, "answer {number}"));
    }
    node.is_bounded(16, count);
}

#[test]
fn a_long_list_of_keys_is_answered_as_far_as_its_answer_is_read() {
    let (node, count, keys) = (Node::start(&["-m", "16"]), 12, 1000);
    assert_eq!(node.connect().exchange(&Form::Text.set("k", &[b'x'; 16_000])), "STORED\r\n");
    for line in ["get", "gets", "gat 0"] {
        let mut waiting: Vec<_> = (0..count).map(|_| node.socket()).collect();
        let line = format!("{line}{} nothing\r\nmn\r\n", " k".repeat(keys));
        waiting.iter_mut().for_each(|socket| socket.write_all(line.as_bytes()).unwrap());
        waiting.iter_mut().for_each(|socket| socket.read_exact(&mut [0]).unwrap());
        node.is_bounded(16, count);
        let mut connection = Connection::over(waiting.remove(0));
        for number in 0..keys {
            let line = connection.line();
            // Of the first one a byte has been read.
            assert!(line.starts_with(&"VALUE k 0 16000"[usize::from(number == 0)..]), "key {number}: {line}");
            connection.read(16_002);
        }
        assert_eq!((connection.line(), connection.line()), ("END\r\n".to_owned(), "MN\r\n".to_owned()));
    }
}

/// What a connection of the mixture has sent when it waits, by its number; `None`: it is idle.
fn waits_with(number: usize) -> Option<Vec<u8>> {
    let half = |size: usize| {
        let set = FORMS[number / 12 % FORMS.len()].set(&format!("half{number}"), &vec![b'x'; size]);
        set[..set.len() - size / 50].to_vec()
    };
    Some(match number % 12 {
        0 => half(1_000_000),
        1 => half(100_000),
        2 => half(30_000),
        3 => half(5000),
        4 => format!("get{}", " nothing".repeat(1900)).into_bytes(),
        5 => b"get key1000\r\n".repeat(2000),
        6 => b"get key16000\r\n".repeat(2000),
        7 => b"mg key100000 v\r\n".repeat(50),
        8 => b"get key1000000\r\n".repeat(5),
        9 => format!("get{}\r\n", " key16000".repeat(1000)).into_bytes(),
        10 => format!("gets{}\r\n", " key1000 key100000".repeat(500)).into_bytes(),
        _ => return None,
    })
}

/// Stores the values that the mixture asks for.
fn store_values<S: Read + Write>(mut connection: Connection<S>) {
    for size in [1000, 16_000, 100_000, 1_000_000] {
        let set = Form::Text.set(&format!("key{size}"), &vec![b'x'; size]);
        assert_eq!(connection.exchange(&set), "STORED\r\n");
    }
}

/// Sends as much as the node takes: a client that is not read from, or whose connection was closed for want of memory,
/// goes no further.
fn send_what_is_taken<S: Write>(socket: &mut S, mut bytes: &[u8]) {
    let deadline = Instant::now() + std::time::Duration::from_millis(100);
    while !bytes.is_empty() && Instant::now() < deadline {
        match socket.write(bytes) {
            Ok(sent) => bytes = &bytes[sent..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
            Err(_) => break,
        }
    }
}

/// The node has come to rest once it answers those that are idle.
fn is_served<S: Read + Write>(connection: &mut Connection<S>) {
    assert_eq!(
        connection.exchange(b"set alive 0 0 3\r\nyes\r\nget alive\r\n"),
        "STORED\r\nVALUE alive 0 3\r\nyes\r\nEND\r\n"
    );
}

/// `LARDER_MEMORY_CONNECTIONS` is how many connections there are: a few hundred by default.
fn connections() -> usize {
    std::env::var("LARDER_MEMORY_CONNECTIONS").map_or(600, |count| count.parse().unwrap())
}

/// Everything at once.
#[test]
fn any_mixture_of_connections_that_wait_is_bounded() {
    let count = connections();
    let node = Node::start(&["-m", "64", "-c", &(count + 100).to_string()]);
    store_values(node.connect());
    let (mut idle, mut waiting) = (Vec::new(), Vec::new());
    for number in 0..count {
        let Some(bytes) = waits_with(number) else {
            idle.push(node.connect());
            continue;
        };
        let mut socket = node.socket();
        socket.set_nonblocking(true).unwrap();
        send_what_is_taken(&mut socket, &bytes);
        waiting.push(socket);
    }
    idle.iter_mut().for_each(is_served);
    println!("{} KiB of memory with {count} connections", is_bounded(node.child.id(), 64, count));
    drop(waiting);
    idle.iter_mut().for_each(is_served);
    node.is_bounded(64, count);
}

/// A connection whose buffers in the kernel are small, so that what is not read stays in the node.
fn connect_with_small_buffers(port: u16) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    // The other side's buffer grows with the length of segments.
    socket.set_tcp_mss(536).unwrap();
    socket.connect(&SocketAddr::from(([127, 0, 0, 1], port)).into()).unwrap();
    let socket = TcpStream::from(socket);
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// The same over TLS, where some also stop within a handshake or a record.
#[test]
fn any_mixture_of_tls_connections_that_wait_is_bounded() {
    let count = connections();
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let authority = Authority::default();
    let certificate = authority.sign("server", &["localhost"]);
    let options = format!("ssl_chain_cert={},ssl_session_cache", certificate.display());
    let node = Server::node(&["-m", "64", "-b", "4096", "-c", &(count + 100).to_string(), "-Z", "-o", &options]);
    let clients = [&rustls::version::TLS12, &rustls::version::TLS13].map(|version| {
        let builder = ClientConfig::builder_with_protocol_versions(&[version]);
        Arc::new(builder.with_root_certificates(authority.roots()).with_no_client_auth())
    });
    let session = |number: usize| {
        let client = clients[number % clients.len()].clone();
        ClientConnection::new(client, ServerName::try_from("localhost").unwrap()).unwrap()
    };
    let connect =
        |number: usize| Connection::over(StreamOwned::new(session(number), connect_with_small_buffers(node.port())));
    store_values(connect(0));
    let (mut idle, mut waiting) = (Vec::new(), Vec::new());
    for number in 0..count {
        // A quarter of the connections, of both versions.
        if number / 2 % 4 == 0 {
            let mut hello = Vec::new();
            session(number).write_tls(&mut hello).unwrap();
            let bytes = match number / 8 % 3 {
                0 => &hello[..1],
                1 => &hello[..hello.len() - 1],
                _ => &hello,
            };
            let mut socket = connect_with_small_buffers(node.port());
            socket.write_all(bytes).unwrap();
            waiting.push((None, socket));
            continue;
        }
        let mut connection = connect(number);
        is_served(&mut connection);
        let Some(bytes) = waits_with(number / 2) else {
            idle.push(connection);
            continue;
        };
        let StreamOwned { mut conn, mut sock } = connection.into_socket();
        conn.set_buffer_limit(None);
        conn.writer().write_all(&bytes).unwrap();
        let mut records = Vec::new();
        while conn.wants_write() {
            conn.write_tls(&mut records).unwrap();
        }
        let whole = if number / 24 % 2 == 0 { records.len() } else { records.len() - 10 };
        sock.set_nonblocking(true).unwrap();
        send_what_is_taken(&mut sock, &records[..whole]);
        waiting.push((Some(conn), sock));
    }
    idle.iter_mut().for_each(is_served);
    println!("{} KiB of memory with {count} TLS connections", is_bounded(node.pid(), 64, count));
    drop(waiting);
    idle.iter_mut().for_each(is_served);
    is_bounded(node.pid(), 64, count);
}
