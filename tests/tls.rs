//! TLS: certificates of both sides, their renewal, sessions, and large answers.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use larder_tests::authority::Authority;
use larder_tests::{Connection, PATIENCE, Server, binary, connect_to, peak_memory};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, StreamOwned, SupportedProtocolVersion};

/// Returns the options of a node with a certificate for `localhost`, followed by `further`.
fn options(authority: &Authority, further: &str) -> String {
    format!("ssl_chain_cert={}{further}", authority.sign("server", &["localhost"]).display())
}

/// A client that trusts this authority.
fn client_of(
    authority: &Authority,
    versions: &[&'static SupportedProtocolVersion],
    certificate: Option<&Path>,
) -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_protocol_versions(versions).with_root_certificates(authority.roots());
    Arc::new(match certificate {
        None => builder.with_no_client_auth(),
        Some(file) => builder
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_file(file).unwrap()],
                PrivateKeyDer::from_pem_file(file).unwrap(),
            )
            .unwrap(),
    })
}

type Tls = Connection<StreamOwned<ClientConnection, TcpStream>>;

fn connect(client: &Arc<ClientConfig>, port: u16) -> Tls {
    let session = ClientConnection::new(client.clone(), ServerName::try_from("localhost").unwrap()).unwrap();
    Connection::over(StreamOwned::new(session, connect_to(port)))
}

/// Whether the server serves a client. A server that refuses the client's certificate closes the connection.
fn is_served(client: &Arc<ClientConfig>, port: u16) -> bool {
    use std::io::Write;
    let session = ClientConnection::new(client.clone(), ServerName::try_from("localhost").unwrap()).unwrap();
    let mut stream = StreamOwned::new(session, connect_to(port));
    let sent = stream.write_all(b"mn\r\n");
    sent.is_ok() && Connection::over(stream).line() == "MN\r\n"
}

#[test]
fn small_and_large_answers_come_whole_over_both_versions() {
    let authority = Authority::default();
    let node = Server::node(&["-Z", "-o", &options(&authority, ",ssl_wbuf_size=4")]);
    let large = "x".repeat(500_000);
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let client = client_of(&authority, &[version], None);
        let mut connection = connect(&client, node.port());
        assert_eq!(connection.exchange(b"set a 0 0 1\r\nx\r\nget a\r\n"), "STORED\r\nVALUE a 0 1\r\nx\r\nEND\r\n");
        let set = format!("set large 0 0 {}\r\n{large}\r\n", large.len());
        assert_eq!(connection.exchange(set.as_bytes()), "STORED\r\n");
        // More than socket buffers hold: the last bytes wait in the TLS session when the node reads `quit`.
        connection.send(&[b"get large\r\n".repeat(20), b"quit\r\n".to_vec()].concat());
        let answer = format!("VALUE large 0 {}\r\n{large}\r\nEND\r\n", large.len());
        assert!(connection.read_to_end() == answer.repeat(20).as_bytes());
    }
}

/// Bytes of a handshake message that says it has 65,000, without its last ones.
fn long_hello() -> Vec<u8> {
    const LEN: usize = 65_000;
    let message = [&[1, 0, (LEN >> 8) as u8, LEN as u8, 3, 3][..], &vec![0; LEN - 100]].concat();
    let records =
        message.chunks(16_384).map(|part| [&[22, 3, 1][..], &(part.len() as u16).to_be_bytes(), part].concat());
    records.collect::<Vec<_>>().concat()
}

#[test]
fn handshakes_and_records_that_stop_in_the_middle_take_bounded_memory() {
    const EACH: usize = 1250;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let authority = Authority::default();
    let node = Server::node(&["-m", "16", "-c", "6000", "-Z", "-o", &options(&authority, "")]);
    let client = client_of(&authority, &[&rustls::version::TLS13], None);
    let mut hello = Vec::new();
    let mut session = ClientConnection::new(client.clone(), ServerName::try_from("localhost").unwrap()).unwrap();
    session.write_tls(&mut hello).unwrap();
    // A command in one record of which the end is missing.
    let value = [b'x'; 16_000];
    let set = [&b"set key 0 0 16000\r\n"[..], &value, b"\r\n"].concat();
    let half_a_record = || {
        let session = ClientConnection::new(client.clone(), ServerName::try_from("localhost").unwrap()).unwrap();
        let mut stream = StreamOwned::new(session, connect_to(node.port()));
        stream.write_all(b"mn\r\n").unwrap();
        stream.read_exact(&mut [0; 4]).unwrap();
        let StreamOwned { mut conn, mut sock } = stream;
        conn.writer().write_all(&set).unwrap();
        let mut record = Vec::new();
        while conn.wants_write() {
            conn.write_tls(&mut record).unwrap();
        }
        let rest = record.split_off(record.len() - 100);
        // The node closes connections once there are too many.
        let _ = sock.write_all(&record);
        (conn, sock, rest)
    };
    let (mut conn, mut first, rest) = half_a_record();
    let mut stalled = Vec::new();
    let long = long_hello();
    for bytes in [&hello[..1], &hello[..hello.len() - 5], &hello, &long] {
        for _ in 0..EACH {
            let mut socket = connect_to(node.port());
            let _ = socket.write_all(bytes);
            stalled.push(socket);
        }
    }
    let records: Vec<_> = (0..100).map(|_| half_a_record()).collect();
    let connections = stalled.len() + records.len();
    // Who was there before is served.
    first.write_all(&rest).unwrap();
    let mut connection = Connection::over(rustls::Stream::new(&mut conn, &mut first));
    assert_eq!(connection.line(), "STORED\r\n");
    assert_eq!(connection.exchange(b"get key\r\n").len(), "VALUE key 0 16000\r\n\r\nEND\r\n".len() + value.len());
    let peak = peak_memory(node.pid());
    println!("{peak} KiB of memory with {connections} connections");
    assert!(peak <= (16 + 64) * 1024 + 8 * connections, "{peak} KiB of memory with {connections} connections");
    // The node takes new connections, and their large records, as before once the others are gone.
    drop((stalled, records));
    let mut connection = connect(&client, node.port());
    assert_eq!(connection.exchange(&set), "STORED\r\n");
}

#[test]
fn clients_are_asked_for_certificates_as_the_mode_tells() {
    let (authority, strangers) = (Authority::default(), Authority::default());
    let own = authority.sign("client", &["client"]);
    let foreign = strangers.sign("client", &["client"]);
    // The mode, and whether a client is served without a certificate, with one of the authority, with one of strangers.
    let cases = [("0", [true, true, true]), ("1", [true, true, false]), ("2", [false, true, false])];
    for (mode, served) in cases {
        let ca = authority.file("ca");
        let options = options(&authority, &format!(",ssl_verify_mode={mode},ssl_ca_cert={}", ca.display()));
        let node = Server::node(&["-Z", "-o", &options]);
        for (certificate, served) in [None, Some(&*own), Some(&*foreign)].into_iter().zip(served) {
            for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
                let client = client_of(&authority, &[version], certificate);
                assert_eq!(is_served(&client, node.port()), served, "mode {mode}, {certificate:?}, {version:?}");
            }
        }
    }
}

#[test]
fn a_listener_may_speak_plainly_or_ask_for_more_than_the_others() {
    let authority = Authority::default();
    let own = authority.sign("client", &["client"]);
    let options = options(&authority, &format!(",ssl_ca_cert={}", authority.file("ca").display()));
    let node = Server::node(&["-Z", "-o", &options, "-l", "notls:127.0.0.1,127.0.0.1,mtls:127.0.0.1"]);
    let [plain, tls, mutual] = *node.ports() else { panic!("three ports") };
    assert_eq!(Connection::over(connect_to(plain)).exchange(b"get a\r\n"), "END\r\n");
    let (with, without) =
        (client_of(&authority, rustls::ALL_VERSIONS, Some(&own)), client_of(&authority, rustls::ALL_VERSIONS, None));
    assert!(is_served(&without, tls));
    assert!(!is_served(&without, mutual));
    assert!(is_served(&with, mutual));
}

#[test]
fn the_status_page_is_plain_http_beside_tls() {
    let authority = Authority::default();
    let http = format!("127.0.0.1:{}", larder_tests::free_port());
    let node = Server::node(&["-Z", "-o", &options(&authority, ""), "--http", &http]);
    assert!(is_served(&client_of(&authority, rustls::ALL_VERSIONS, None), node.port()));
    for (path, words) in [("/readyz", "ready\n"), ("/metrics", "memcached_up 1"), ("/", "<h1>larder-node</h1>")] {
        let mut socket = std::net::TcpStream::connect(&http).unwrap();
        write!(socket, "GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains(words), "{answer}");
    }
}

#[test]
fn without_an_authority_no_client_certificate_is_trusted() {
    let authority = Authority::default();
    let own = authority.sign("client", &["client"]);
    let node = Server::node(&["-Z", "-o", &options(&authority, ""), "-l", "127.0.0.1,mtls:127.0.0.1"]);
    for certificate in [None, Some(&*own)] {
        assert!(!is_served(&client_of(&authority, rustls::ALL_VERSIONS, certificate), node.ports()[1]));
    }
}

/// Returns the certificate that the server presented.
fn shown(connection: &mut Tls) -> Vec<u8> {
    connection.exchange(b"");
    connection.socket().conn.peer_certificates().unwrap()[0].to_vec()
}

#[test]
fn certificates_are_read_again_when_asked_and_old_connections_go_on() {
    let authority = Authority::default();
    let node = Server::node(&["-Z", "-o", &options(&authority, "")]);
    let client = client_of(&authority, rustls::ALL_VERSIONS, None);
    let mut old = connect(&client, node.port());
    let first = shown(&mut old);

    authority.sign("server", &["localhost"]);
    assert_eq!(old.exchange(b"refresh_certs\r\n"), "OK\r\n");
    let second = shown(&mut connect(&client, node.port()));
    assert_ne!(second, first);
    assert_eq!(shown(&mut old), first);

    std::fs::write(authority.file("server"), "no certificate").unwrap();
    assert!(old.exchange(b"refresh_certs\r\n").starts_with("Error loading the certificate"));
    assert_eq!(shown(&mut connect(&client, node.port())), second);

    authority.sign("server", &["localhost"]);
    node.signal("HUP");
    let deadline = Instant::now() + PATIENCE;
    while shown(&mut connect(&client, node.port())) == second {
        assert!(Instant::now() < deadline);
    }
}

#[test]
fn sessions_are_resumed_only_with_a_cache() {
    let authority = Authority::default();
    for (further, resumed, new) in [(",ssl_session_cache", HandshakeKind::Resumed, "1"), ("", HandshakeKind::Full, "")]
    {
        let node = Server::node(&["-Z", "-o", &options(&authority, further)]);
        let client = client_of(&authority, &[&rustls::version::TLS12], None);
        connect(&client, node.port()).exchange(b"get a\r\n");
        let mut second = connect(&client, node.port());
        assert_eq!(second.statistic("ssl_new_sessions"), new);
        assert_eq!(second.socket().conn.handshake_kind(), Some(resumed));
    }
}

#[test]
fn a_client_without_tls_or_with_an_old_version_is_refused_and_counted() {
    let authority = Authority::default();
    let node = Server::node(&["-Z", "-o", &options(&authority, ",ssl_min_version=3")]);
    let mut plain = node.connect();
    plain.send(b"get a\r\nget b\r\n");
    assert!(!plain.read_to_end().starts_with(b"END"));
    assert!(!is_served(&client_of(&authority, &[&rustls::version::TLS12], None), node.port()));
    let mut served = connect(&client_of(&authority, &[&rustls::version::TLS13], None), node.port());
    assert_eq!(served.statistic("ssl_handshake_errors"), "2");
    assert_eq!(served.statistic("ssl_proto_errors"), "0");
}

#[test]
fn bytes_that_are_no_tls_end_their_connection_with_an_alert_and_are_counted() {
    let authority = Authority::default();
    let node = Server::node(&["-Z", "-o", &options(&authority, "")]);
    let client = client_of(&authority, &[&rustls::version::TLS13], None);
    let session = || ClientConnection::new(client.clone(), ServerName::try_from("localhost").unwrap()).unwrap();
    let written = |session: &mut ClientConnection| {
        let mut bytes = Vec::new();
        session.write_tls(&mut bytes).unwrap();
        bytes
    };
    let hello = written(&mut session());
    // Whether rustls has an alert for it, and the node reads all before it closes, which else resets the connection.
    let cases = [
        ("HTTP", b"GET / HTTP/1.1\r\n\r\n".to_vec(), true),
        ("a command", b"get a\r\nget b\r\n".to_vec(), true),
        ("a message of servers", [&hello[..5], &[2], &hello[6..]].concat(), true),
        ("no handshake message", b"\x16\x03\x01\x00\x05hello".to_vec(), false),
        ("a record that is too long", [&b"\x16\x03\x01\xff\xff"[..], &[0; 70_000]].concat(), false),
        ("two hellos", [&hello[..], &hello].concat(), false),
    ];
    for (what, bytes, alert) in &cases {
        let mut connection = Connection::over(connect_to(node.port()));
        connection.send(bytes);
        let said = connection.read_to_end();
        assert!(!alert || said.first() == Some(&21), "{what}: {said:?}");
    }
    // A record that somebody has changed on the way.
    let mut stream = StreamOwned::new(session(), connect_to(node.port()));
    stream.write_all(b"mn\r\n").unwrap();
    stream.read_exact(&mut [0; 4]).unwrap();
    stream.conn.writer().write_all(b"set a 0 0 1\r\nx\r\n").unwrap();
    let mut record = written(&mut stream.conn);
    record[12] ^= 1;
    stream.sock.write_all(&record).unwrap();
    let told = Connection::over(stream).line();
    assert_eq!(told, "");

    let mut served = connect(&client, node.port());
    assert_eq!(served.statistic("ssl_handshake_errors"), cases.len().to_string());
    assert_eq!(served.statistic("ssl_proto_errors"), "1");
    assert_eq!(served.exchange(b"get a\r\n"), "END\r\n");
}

#[test]
fn an_idle_client_is_told_goodbye() {
    let authority = Authority::default();
    let node = Server::node(&["-Z", "-o", &options(&authority, ",idle_timeout=1")]);
    let mut connection = connect(&client_of(&authority, rustls::ALL_VERSIONS, None), node.port());
    connection.exchange(b"");
    // A connection that ends without the TLS goodbye would be an error.
    assert_eq!(connection.try_read_to_end().unwrap(), b"");
}

#[test]
fn what_tls_lacks_is_told_at_the_start() {
    let authority = Authority::default();
    let chain = options(&authority, "");
    let cases: [(&[&str], &str); 4] = [
        (&["-Z"], "ssl_chain_cert"),
        (
            &["-Z", "-o", "ssl_chain_cert=/no/such/file"],
            "error: Error loading the certificate chain /no/such/file: No such file or directory",
        ),
        (&["-Z", "-o", &format!("{chain},ssl_key={}", authority.file("ca").display())], "Error loading the key"),
        (&["-l", "mtls:127.0.0.1"], "-Z"),
    ];
    for (arguments, told) in cases {
        let output = Command::new(binary("larder-node")).args(["-p", "-1"]).args(arguments).output().unwrap();
        assert!(!output.status.success(), "{arguments:?}");
        assert!(String::from_utf8_lossy(&output.stdout).is_empty());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(told), "{arguments:?}: {said}");
    }
}

/// Runs openssl in a folder. Returns `false`, and says so, where it is not installed and cannot be.
fn openssl(folder: &Path, commands: &[&str]) -> bool {
    if !larder_tests::installed("openssl", "openssl") {
        eprintln!("SKIPPED: openssl is not installed and could not be installed (apt-get install openssl)");
        return false;
    }
    for command in commands {
        let output = Command::new("openssl").args(command.split(' ')).current_dir(folder).output().unwrap();
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    }
    true
}

/// What a node says that does not start.
fn refusal(options: &str) -> String {
    let output = Command::new(binary("larder-node")).args(["-p", "-1", "-Z", "-o", options]).output().unwrap();
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_certificate_of_version_1_is_served_to_clients_that_take_it() {
    let folder = tempfile::tempdir().unwrap();
    let commands = [
        "req -x509 -newkey rsa:2048 -nodes -days 9 -subj /CN=authority -keyout ca.key -out ca.pem",
        "req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout node.key -out node.csr",
        "x509 -req -in node.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 9 -out node.pem",
    ];
    if !openssl(folder.path(), &commands) {
        return;
    }
    let file = |name: &str| folder.path().join(name).display().to_string();
    let node =
        Server::node(&["-Z", "-o", &format!("ssl_chain_cert={},ssl_key={}", file("node.pem"), file("node.key"))]);
    let mut client = Command::new("openssl")
        .args(["s_client", "-quiet", "-verify_return_error", "-CAfile", &file("ca.pem"), "-connect", &node.address()])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut client.stdin.take().unwrap(), b"mn\r\nquit\r\n").unwrap();
    let output = client.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "MN\r\n");
}

#[test]
fn a_key_that_cannot_be_used_is_refused_with_what_to_change() {
    let folder = tempfile::tempdir().unwrap();
    let commands = [
        "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-521 -out p521.key",
        "req -x509 -key p521.key -days 9 -subj /CN=localhost -out p521.pem",
        "req -x509 -newkey rsa:2048 -nodes -days 9 -subj /CN=localhost -keyout rsa.key -out rsa.pem",
    ];
    if !openssl(folder.path(), &commands) {
        return;
    }
    let options = |chain: &str, key: &str| {
        let file = |name: &str| folder.path().join(name).display().to_string();
        format!("ssl_chain_cert={},ssl_key={}", file(chain), file(key))
    };
    let said = refusal(&options("p521.pem", "p521.key"));
    assert!(said.contains("p521.key is not supported: ") && said.contains("ec_paramgen_curve:P-256"), "{said}");
    let authority = Authority::default();
    let other = authority.sign("other", &["localhost"]);
    let said =
        refusal(&format!("ssl_chain_cert={},ssl_key={}", folder.path().join("rsa.pem").display(), other.display()));
    assert!(said.contains("does not belong to the certificate"), "{said}");
}

#[test]
fn a_self_signed_certificate_is_taken_for_itself_where_it_is_trusted() {
    let folder = tempfile::tempdir().unwrap();
    let self_signed = |name: &str| {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        // As openssl req -x509 makes it.
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let file = folder.path().join(name);
        std::fs::write(&file, params.self_signed(&key).unwrap().pem() + &key.serialize_pem()).unwrap();
        file
    };
    let (server, own, foreign) = (self_signed("server"), self_signed("own"), self_signed("foreign"));
    let options = format!("ssl_chain_cert={},ssl_ca_cert={},ssl_verify_mode=2", server.display(), own.display());
    let node = Server::node(&["-Z", "-o", &options]);
    let load = |certificate: &Path| {
        let (server, certificate) = (server.to_str().unwrap(), certificate.to_str().unwrap());
        let output = Command::new(binary("larder-bench"))
            .args(["load", "-s", &node.address(), "-n", "10", "--tls-ca", server, "--tls-name", "localhost"])
            .args(["--tls-cert", certificate, "--tls-key", certificate])
            .output()
            .unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (served, said) = load(&own);
    assert!(served, "{said}");
    assert!(!load(&foreign).0);
}
