//! Whatever arrives at the port between nodes, from strangers and from members that lost their mind: nobody without the
//! key is given anything, nothing panics, memory does not grow, and the node serves on.
//!
//! `LARDER_FUZZ=inputs` sets how many inputs there are; without it there are a few thousand. A million:
//!
//! ```sh
//! LARDER_FUZZ=1000000 cargo test -p larder-tests --test peer_port -- --nocapture
//! ```

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use larder_protocol::Protocol;
use larder_protocol::peer::{
    BatchWriter, Founding, Frame, Greeting, HEADER_LEN, Member, Message, Moved, Proof, Purpose, State, Status, View,
    decode, transcript,
};
use larder_tests::{PATIENCE, Server, fleet};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use ring::hmac;

const KEY: &[u8] = b"the key of the cluster, which is long enough";
const SETTINGS: &str = "--cluster-hashing ketama-weighted, -m 64, -I 1048576";
/// Links that are open at a time: as many as threads.
const THREADS: u64 = 8;

fn inputs() -> u64 {
    std::env::var("LARDER_FUZZ").map_or(4000, |inputs| inputs.parse().expect("a number of inputs"))
}

/// A node in a cluster of its own, and what it writes to its log.
struct Victim {
    member: fleet::Member,
    log: tempfile::NamedTempFile,
    _key: tempfile::NamedTempFile,
}

impl Victim {
    fn start() -> Victim {
        let (mut key, log) = (tempfile::NamedTempFile::new().unwrap(), tempfile::NamedTempFile::new().unwrap());
        key.write_all(KEY).unwrap();
        let file = key.path().to_str().unwrap();
        let arguments = ["--cluster", "test", "--cluster-listen", "127.0.0.1:0", "--cluster-key-file", file];
        let mut member = fleet::Member::of(Server::node_with_log(log.reopen().unwrap(), &arguments));
        member.settles(1);
        Victim { member, log, _key: key }
    }

    fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.member.server.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    fn links_refused(&mut self) -> u64 {
        self.member.figure("links_refused").parse().unwrap()
    }

    /// Gives it inputs on as many threads, and says how its memory grew, in KiB.
    fn endures(&mut self, inputs: u64, input: impl Fn(&str, &mut StdRng) + Sync) -> u64 {
        let address = &self.member.peer;
        let from_threads = |inputs: u64, seed: u64| {
            std::thread::scope(|scope| {
                for thread in 0..THREADS {
                    let input = &input;
                    scope.spawn(move || {
                        let mut random = StdRng::seed_from_u64(seed + thread);
                        (0..inputs / THREADS).for_each(|_| input(address, &mut random));
                    });
                }
            });
        };
        // What the first links leave behind in the allocator and in lists is there to stay.
        from_threads(inputs / 10, 0);
        let before = self.resident_kib();
        from_threads(inputs - inputs / 10, THREADS);
        let grown = self.resident_kib().saturating_sub(before);
        let log = std::fs::read_to_string(self.log.path()).unwrap();
        assert!(!log.contains("panicked"), "{log}");
        println!("{inputs} inputs, {grown} KiB grown of {before}");
        grown
    }
}

fn hello(purpose: Purpose, random: &mut StdRng) -> Greeting<'static> {
    Greeting { purpose, cluster: "test", id: "stranger", nonce: random.random(), process: 7, settings: SETTINGS }
}

fn encoded(message: &Message<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode(0, &mut bytes);
    bytes
}

fn connect(address: &str) -> TcpStream {
    loop {
        match TcpStream::connect(address) {
            Ok(stream) => {
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                return stream;
            }
            // All ports of this side were in use a moment ago.
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(error) => panic!("the node does not accept: {error}"),
        }
    }
}

/// Sends bytes and that there will be no more, and returns what comes until the link is closed.
fn finish(mut stream: TcpStream, bytes: &[u8]) -> Vec<u8> {
    // It may be closed before all is written.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answer) {
        assert!(!matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut), "the link stays open");
    }
    answer
}

/// Dials, and returns the link with both greetings and the listener's proof.
fn greet<T>(
    address: &str,
    greeting: Greeting<'_>,
    then: impl FnOnce(TcpStream, &Greeting<'_>, &Greeting<'_>, Proof) -> T,
) -> T {
    let mut stream = connect(address);
    stream.write_all(&encoded(&Message::Hello(greeting.clone()))).unwrap();
    let mut answer = Vec::new();
    loop {
        match decode(&answer, 4096).unwrap() {
            Some((Frame { message: Message::Welcome(welcome, proof), .. }, _)) => {
                return then(stream, &greeting, &welcome, proof);
            }
            Some((frame, _)) => panic!("{frame:?}"),
            None => {
                let mut more = [0; 512];
                let count = match stream.read(&mut more) {
                    // A socket with a time-out is not read again by itself.
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    count => count.expect("a welcome"),
                };
                assert!(count > 0, "a welcome");
                answer.extend_from_slice(&more[..count]);
            }
        }
    }
}

fn prove(key: &[u8], hello: &Greeting<'_>, welcome: &Greeting<'_>) -> Vec<u8> {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), &transcript(false, hello, welcome));
    encoded(&Message::Proof(tag.as_ref().try_into().unwrap()))
}

/// Flips bits, and sometimes takes bytes away or adds some.
fn mutate(bytes: &mut Vec<u8>, random: &mut StdRng) {
    for _ in 0..random.random_range(1..8) {
        let at = random.random_range(0..bytes.len());
        bytes[at] ^= 1 << random.random_range(0..8);
    }
    match random.random_range(0..4) {
        0 => bytes.truncate(random.random_range(1..=bytes.len())),
        1 => bytes.extend((0..random.random_range(0..64)).map(|_| random.random::<u8>())),
        _ => {}
    }
}

/// A frame as members send it, which may be large.
fn frame(random: &mut StdRng) -> Vec<u8> {
    let (mut key, mut value) = (vec![b'k'; random.random_range(1..200)], vec![b'v'; random.random_range(0..300)]);
    random.fill(&mut key[..]);
    random.fill(&mut value[..]);
    let ttl = Some(random.random_range(0..9));
    let moved = Moved { key: &key, flags: 1, ttl, stale: random.random(), past: random.random(), value: &value };
    let protocol = if random.random() { Protocol::Text } else { Protocol::Binary };
    let lines: [&[u8]; 8] = [
        b"set a 0 0 1\r\nx\r\n",
        b"get a b c\r\n",
        b"mg a v t W s\r\n",
        b"ms a 5 T0\r\nxxxxx\r\n",
        b"incr a 18446744073709551615\r\n",
        b"flush_all 0\r\n",
        b"stats cluster\r\n",
        b"\x80\x01\0\x01\x08\0\0\0\0\0\0\x0a\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0ab",
    ];
    let request = lines[random.random_range(0..lines.len())];
    let status = Status { version: random.random(), cpu: random.random(), ..Status::default() };
    let message = match random.random_range(0..10) {
        0..4 => Message::Ask { protocol, milliseconds: random.random_range(0..20), request },
        4 => Message::Take { key: &key },
        5 => Message::Pull { idle: random.random(), bytes: random.random() },
        6 => Message::Taken(Some(moved)),
        7 => {
            let mut out = Vec::new();
            let mut batch = BatchWriter::begin(7, &mut out);
            (0..random.random_range(0..5)).for_each(|_| batch.push(&moved));
            batch.end();
            return out;
        }
        8 => Message::Ping(status),
        _ => Message::Answer(&value),
    };
    encoded(&message)
}

/// Any view: of this cluster or another one, with members that are not there. They are at a port where nobody listens.
fn any_view(random: &mut StdRng) -> View {
    let member = |random: &mut StdRng| Member {
        generation: random.random_range(0..4),
        state: [State::Joining, State::Active, State::Leaving, State::Gone][random.random_range(0..4)],
        slot: random.random_range(0..64),
        host: "127.0.0.1".to_owned(),
        port: 1,
        name: "127.0.0.1".to_owned(),
        peer: "127.0.0.1:1".to_owned(),
    };
    let count = random.random_range(0..40);
    let members: BTreeMap<_, _> =
        (0..count).map(|_| (format!("m{}", random.random_range(0..90)), member(random))).collect();
    let founding = Founding { second: random.random_range(0..4), token: random.random_range(0..4) };
    View { founding, base: random.random_range(0..1000), members }
}

#[test]
fn who_has_no_key_is_given_nothing_whatever_it_sends() {
    let mut victim = Victim::start();
    // An exchange that was good, as somebody on the way may have kept it.
    let address = victim.member.peer.clone();
    let recorded =
        greet(&address, hello(Purpose::Forward, &mut StdRng::seed_from_u64(1)), |mut stream, hello, welcome, _| {
            let proof = prove(KEY, hello, welcome);
            let milliseconds = PATIENCE.as_millis() as u32;
            let ask = Message::Ask { protocol: Protocol::Text, milliseconds, request: b"set a 0 0 1\r\nx\r\n" };
            let sent = [&*proof, &*encoded(&ask)].concat();
            stream.write_all(&sent).unwrap();
            let (mut answer, mut piece) = (Vec::new(), [0; 256]);
            while !answer.windows(6).any(|bytes| bytes == b"STORED") {
                let length = stream.read(&mut piece).unwrap();
                assert!(length > 0, "the key opens the port: {}", answer.escape_ascii());
                answer.extend_from_slice(&piece[..length]);
            }
            [encoded(&Message::Hello(hello.clone())), sent].concat()
        });
    let refused = victim.links_refused();
    let sent = AtomicU64::new(0);
    let grown = victim.endures(inputs(), |address, random| {
        sent.fetch_add(1, Ordering::Relaxed);
        let purpose = [Purpose::Control, Purpose::Forward, Purpose::Move, Purpose::Operator][random.random_range(0..4)];
        let greeting = hello(purpose, random);
        let hello = encoded(&Message::Hello(greeting.clone()));
        let answer = match random.random_range(0..10) {
            0 => {
                let mut bytes = vec![0; random.random_range(0..600)];
                random.fill(&mut bytes[..]);
                finish(connect(address), &bytes)
            }
            // Half a greeting.
            1 => finish(connect(address), &hello[..random.random_range(0..hello.len())]),
            2 => {
                let mut bytes = hello;
                mutate(&mut bytes, random);
                finish(connect(address), &bytes)
            }
            // A greeting, then whatever members say.
            3 => finish(connect(address), &[hello, frame(random)].concat()),
            4 => finish(connect(address), &frame(random)),
            // A frame whose length is up to 4 GiB.
            5 => {
                let mut bytes = frame(random);
                bytes[..4].copy_from_slice(&random.random::<[u8; 4]>());
                finish(connect(address), &bytes)
            }
            6 => finish(connect(address), &recorded),
            // The listener's own proof.
            7 => greet(address, greeting, |stream, _, _, proof| finish(stream, &encoded(&Message::Proof(proof)))),
            // A proof with another key; the right one with a bit flipped.
            8 => {
                greet(address, greeting, |stream, hello, welcome, _| finish(stream, &prove(b"another", hello, welcome)))
            }
            _ => greet(address, greeting, |stream, hello, welcome, _| {
                let mut proof = prove(KEY, hello, welcome);
                proof[HEADER_LEN + random.random_range(0..32)] ^= 1 << random.random_range(0..8);
                finish(stream, &[proof, frame(random)].concat())
            }),
        };
        let mut rest = &answer[..];
        while let Some((frame, consumed)) = decode(rest, 4096).expect("the node sends frames") {
            let (Message::Welcome(..) | Message::Refused(_)) = frame.message else { panic!("{frame:?}") };
            rest = &rest[consumed..];
        }
    });
    assert!(grown < THREADS * 1024, "{grown} KiB: more than a MiB a link");
    // Each one was refused: a link is closed before it is counted.
    let deadline = std::time::Instant::now() + PATIENCE;
    while victim.links_refused() < refused + sent.load(Ordering::Relaxed) {
        assert!(std::time::Instant::now() < deadline, "{} of {sent:?}", victim.links_refused() - refused);
    }
    assert_eq!(victim.member.exchange(b"get a\r\nset b 0 0 1\r\ny\r\n"), "VALUE a 0 1\r\nx\r\nEND\r\nSTORED\r\n");
    victim.member.settles(1);
}

#[test]
fn frames_of_a_member_that_make_no_sense_end_its_link_and_nothing_else() {
    let mut victim = Victim::start();
    let grown = victim.endures(inputs() / 4, |address, random| {
        let purpose = [Purpose::Control, Purpose::Forward, Purpose::Move][random.random_range(0..3)];
        greet(address, hello(purpose, random), |stream, hello, welcome, _| {
            let mut bytes = prove(KEY, hello, welcome);
            for _ in 0..random.random_range(1..5) {
                let mut next = match random.random_range(0..4) {
                    0 => encoded(&Message::View(any_view(random))),
                    _ => frame(random),
                };
                match random.random_range(0..3) {
                    0 => {}
                    // Bits of a view's addresses stay as they are: the node calls there.
                    _ if next[4] == encoded(&Message::View(View::default()))[4] => {
                        next.truncate(random.random_range(1..=next.len()));
                    }
                    _ => mutate(&mut next, random),
                }
                bytes.extend_from_slice(&next);
            }
            finish(stream, &bytes);
        });
    });
    // Items among them: the node may hold 64 MiB.
    assert!(grown < 64 * 1024, "{grown} KiB");
    let answer = victim.member.exchange(b"version\r\nget a\r\n");
    assert!(answer.starts_with("VERSION ") && answer.ends_with("END\r\n"), "{answer}");
}
