//! Nodes with -Z in a cluster: links between them are TLS, and nobody stands between.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use larder_protocol::peer::{Greeting, HEADER_LEN, Message, Purpose};
use larder_tests::authority::Authority;
use larder_tests::fleet::{self, Member};
use larder_tests::{Connection, PATIENCE, binary, connect_to};
use rustls::client::WebPkiServerVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection, StreamOwned};

/// An authority, certificates that it has signed, and the cluster's key, as files.
struct Files(Authority);

impl Files {
    fn new() -> Files {
        let authority = Authority::default();
        std::fs::write(authority.file("key"), "k".repeat(40)).unwrap();
        authority.sign("node", &["cache.example", "127.0.0.1"]);
        Files(authority)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.file(name)
    }

    /// A member that speaks TLS, beside a plain port for looking at it. `authority`: who signs others' certificates.
    fn member(&self, seeds: &[&str], authority: Option<&Path>) -> Member {
        let ca = authority.map_or(String::new(), |file| format!(",ssl_ca_cert={}", file.display()));
        let options = format!("ssl_chain_cert={}{ca}", self.file("node").display());
        let (key, listen) = (self.file("key"), "notls:127.0.0.1,127.0.0.1");
        let all = ["-Z", "-o", &options, "-l", listen, "--cluster-key-file", key.to_str().unwrap()];
        Member::start(seeds, &[], &all)
    }

    fn client(&self) -> Arc<ClientConfig> {
        let verifier = WebPkiServerVerifier::builder(Arc::new(self.0.roots())).build().unwrap();
        Arc::new(ClientConfig::builder().with_webpki_verifier(verifier).with_no_client_auth())
    }

    fn server(&self) -> Arc<ServerConfig> {
        let certificate = vec![CertificateDer::from_pem_file(self.file("node")).unwrap()];
        let key = PrivateKeyDer::from_pem_file(self.file("node")).unwrap();
        Arc::new(ServerConfig::builder().with_no_client_auth().with_single_cert(certificate, key).unwrap())
    }
}

fn dial(client: &Arc<ClientConfig>, stream: TcpStream) -> StreamOwned<ClientConnection, TcpStream> {
    StreamOwned::new(ClientConnection::new(client.clone(), ServerName::try_from("127.0.0.1").unwrap()).unwrap(), stream)
}

#[test]
fn members_with_tls_answer_for_each_other_and_items_move_between_them() {
    let files = Files::new();
    let ca = files.file("ca");
    let mut members = vec![files.member(&[], None)];
    members[0].settles(1);
    let seed = members[0].peer.clone();
    // One of them looks at certificates too.
    for (authority, count) in [(None, 2), (Some(&*ca), 3)] {
        members.push(files.member(&[&seed], authority));
        fleet::settle(&mut members, count);
    }
    let client = files.client();
    let mut first = Connection::over(dial(&client, connect_to(members[0].server.ports()[1])));
    let value = "v".repeat(100_000);
    for number in 0..50 {
        let line = format!("set key{number} 0 0 {}\r\n{value}\r\n", value.len());
        assert_eq!(first.exchange(line.as_bytes()), "STORED\r\n");
    }
    let keys: Vec<String> = (0..50).map(|number| format!("key{number}")).collect();
    let all = format!("get {}\r\n", keys.join(" "));
    let count = |answer: &str| answer.lines().filter(|line| line.starts_with("VALUE ")).count();
    let mut last = Connection::over(dial(&client, connect_to(members[2].server.ports()[1])));
    assert_eq!(count(&last.exchange(all.as_bytes())), 50);
    // An operator reaches them with --tls, and only so.
    let status = |further: &[&str]| {
        let key = files.file("key");
        let mut command = Command::new(binary("larder-cluster"));
        command.args(["status", "--address", &seed, "--cluster", "test", "--cluster-key-file"]).arg(key);
        command.args(further).output().unwrap()
    };
    let table = status(&["--tls"]);
    assert!(table.status.success(), "{}", String::from_utf8_lossy(&table.stderr));
    assert_eq!(String::from_utf8_lossy(&table.stdout).matches(" active ").count(), 3);
    assert!(!status(&[]).status.success());
    assert!(members.pop().unwrap().leave());
    fleet::settle(&mut members, 2);
    assert_eq!(count(&first.exchange(all.as_bytes())), 50);
    assert_ne!(members[0].figure("items_pulled"), "0");
}

/// A greeting as a member sends it.
fn greeting() -> Vec<u8> {
    let settings = "--cluster-hashing ketama-weighted, -m 64, -I 1048576";
    let purpose = Purpose::Control;
    let mut bytes = Vec::new();
    Message::Hello(Greeting { purpose, cluster: "test", id: "x", nonce: [1; 16], process: 1, settings })
        .encode(0, &mut bytes);
    bytes
}

#[test]
fn a_plain_link_is_refused_and_so_is_a_member_whose_certificate_is_of_another_authority() {
    let (files, others) = (Files::new(), Files::new());
    let mut member = files.member(&[], None);
    member.settles(1);
    let mut plain = TcpStream::connect(&member.peer).unwrap();
    plain.set_read_timeout(Some(PATIENCE)).unwrap();
    plain.write_all(&greeting()).unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    // An alert of TLS, perhaps.
    assert!(answer.len() < HEADER_LEN, "{answer:?}");
    // Over TLS it is greeted.
    let mut link = dial(&files.client(), TcpStream::connect(&member.peer).unwrap());
    link.sock.set_read_timeout(Some(PATIENCE)).unwrap();
    link.write_all(&greeting()).unwrap();
    let mut head = [0; HEADER_LEN];
    link.read_exact(&mut head).unwrap();
    assert_eq!(head[4], 2, "a welcome");
    // The cluster's key is the right one, and its seed's certificate is of nobody that it knows.
    let seed = member.peer.clone();
    let mut strict = files.member(&[&seed], Some(&others.file("ca")));
    std::thread::sleep(Duration::from_millis(700));
    assert_eq!(strict.figure("state"), "outside");
    member.settles(1);
}

/// Has a TLS session with who dials and another one with the member, and hands on what they say.
fn stand_between(files: &Files, listener: &TcpListener, member: &str, stop: &AtomicBool) -> usize {
    let (server, client) = (files.server(), files.client());
    let mut handed_on = 0;
    listener.set_nonblocking(true).unwrap();
    while !stop.load(Ordering::Relaxed) {
        let Ok((dialler, _)) = listener.accept() else {
            std::thread::sleep(Duration::from_millis(5));
            continue;
        };
        dialler.set_nonblocking(false).unwrap();
        dialler.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        let mut dialler = StreamOwned::new(ServerConnection::new(server.clone()).unwrap(), dialler);
        let member = TcpStream::connect(member).unwrap();
        member.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        let mut member = dial(&client, member);
        let mut bytes = [0; 4096];
        // A greeting, a welcome, and what should be a proof.
        let mut relay = || -> std::io::Result<()> {
            for _ in 0..8 {
                let read = dialler.read(&mut bytes)?;
                member.write_all(&bytes[..read])?;
                handed_on += usize::from(read > 0);
                let read = member.read(&mut bytes)?;
                dialler.write_all(&bytes[..read])?;
                handed_on += usize::from(read > 0);
            }
            Ok(())
        };
        let _ = relay();
    }
    handed_on
}

#[test]
fn nobody_stands_between_two_members_even_with_a_certificate_that_they_trust() {
    let files = Files::new();
    let mut member = files.member(&[], None);
    member.settles(1);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let between = listener.local_addr().unwrap().to_string();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (files, address, stop) = (&files, member.peer.clone(), &stop);
        let relay = scope.spawn(move || stand_between(files, &listener, &address, stop));
        let mut joiner = files.member(&[&between], Some(&files.file("ca")));
        // The member refuses nobody: who dials sees that the proof is over another session, and goes.
        let deadline = Instant::now() + Duration::from_secs(3);
        while Instant::now() < deadline {
            assert_eq!(joiner.figure("state"), "outside");
            std::thread::sleep(Duration::from_millis(50));
        }
        stop.store(true, Ordering::Relaxed);
        let handed_on = relay.join().unwrap();
        assert!(handed_on >= 2, "the greeting and the welcome were handed on: {handed_on}");
    });
    member.settles(1);
}
