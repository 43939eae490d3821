//! Sends the same random binary packets to a node and to memcached. The answers must be the same, except for CAS
//! uniques.
//!
//! `LARDER_MEMCACHED`, `LARDER_DIFFERENTIAL_COMMANDS` and `LARDER_DIFFERENTIAL_SEED` work as in the test of text
//! commands.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpStream;

use larder_protocol::DecodedResponse;
use larder_protocol::binary::{self, opcode, opcode_of};
use larder_protocol::{
    Arithmetic, BinaryReply, Command, Delete, Direction, Exptime, Get, Keys, Reply, Request, Store, StoreMode,
};
use larder_tests::{PATIENCE, Server};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

const ROUND: u32 = 64;
/// The opaque of the packet that ends a round.
const END: u32 = u32::MAX;
/// The opaque of the packets that make memcached write its answers.
const FLUSH: u32 = u32::MAX - 1;

/// Like the test of text commands: nothing is evicted, and nothing depends on memcached's background threads.
const MEMCACHED: [&str; 4] = ["-m", "256", "-o", "no_modern"];

#[test]
fn random_packets_are_answered_as_memcached_answers_them() {
    let memcached = match std::env::var_os("LARDER_MEMCACHED") {
        Some(program) => Server::memcached_at(program.as_ref(), &MEMCACHED),
        None => match Server::memcached(&MEMCACHED) {
            Some(memcached) => memcached,
            None => return,
        },
    };
    let from_environment =
        |name, default: u64| std::env::var(name).ok().map_or(default, |value: String| value.parse().expect("a number"));
    let seed = from_environment("LARDER_DIFFERENTIAL_SEED", 1);
    let rounds = from_environment("LARDER_DIFFERENTIAL_COMMANDS", 20_000).div_ceil(ROUND.into());
    let node = Server::node(&["-m", "256"]);
    let mut sides = [Side::connect(&memcached), Side::connect(&node)];
    let mut rng = StdRng::seed_from_u64(seed);
    for round in 0..rounds {
        let packets: Vec<Packet> = (0..ROUND).map(|_| Packet::random(&mut rng)).collect();
        let [expected, found] = sides.each_mut().map(|side| side.answers(&packets));
        for i in 0..ROUND {
            let of_packet = |answers: &[Answer]| -> Vec<Answer> {
                answers.iter().filter(|answer| answer.opaque == i).cloned().collect()
            };
            let (expected, found) = (of_packet(&expected), of_packet(&found));
            if expected != found {
                let last = &packets[i as usize];
                let same_key = packets[..=i as usize].iter().filter(|packet| packet.key == last.key);
                let history: String = same_key.map(|packet| format!("    {packet:?}\n")).collect();
                panic!(
                    "seed {seed}, round {round}; what was done to the key in it:\n{history}memcached: {expected:?}\n     node: {found:?}"
                );
            }
        }
        assert_eq!(expected, found, "seed {seed}, round {round}: another order");
    }
}

/// An answer without the parts that may differ.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Answer {
    opaque: u32,
    opcode: u8,
    status: u16,
    has_cas: bool,
    extras: Vec<u8>,
    key: Vec<u8>,
    value: String,
}

/// The connection to one server, and the last CAS unique that it reported for each key.
struct Side {
    stream: TcpStream,
    cas: HashMap<String, u64>,
}

impl Side {
    fn connect(server: &Server) -> Side {
        let stream = TcpStream::connect(server.address()).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out that is not zero");
        stream.set_nodelay(true).expect("TCP");
        Side { stream, cas: HashMap::new() }
    }

    fn answers(&mut self, packets: &[Packet]) -> Vec<Answer> {
        let mut bytes = Vec::new();
        let push_noop = |opaque, out: &mut Vec<u8>| {
            let reply = Reply::Binary(BinaryReply { opcode: opcode::NOOP, opaque });
            Request { command: Command::Noop, reply }.encode(out).expect("binary has it");
        };
        for (packet, opaque) in packets.iter().zip(0..) {
            packet.encode(&self.cas, opaque, &mut bytes);
            // memcached does not change a number in place while an answer that refers to it is not yet written.
            push_noop(FLUSH, &mut bytes);
        }
        push_noop(END, &mut bytes);
        self.stream.write_all(&bytes).expect("the server reads");
        let (mut answers, mut input) = (Vec::new(), Vec::new());
        let mut buffer = [0; 16 * 1024];
        loop {
            let mut consumed_all = 0;
            while let DecodedResponse::Response { response, consumed } = binary::decode_response(&input[consumed_all..])
            {
                consumed_all += consumed;
                match response.opaque {
                    END => return answers,
                    FLUSH => continue,
                    _ => {}
                }
                let packet = &packets[response.opaque as usize];
                if response.cas != 0 {
                    self.cas.insert(packet.key.clone(), response.cas);
                }
                answers.push(Answer {
                    opaque: response.opaque,
                    opcode: response.opcode,
                    status: response.status,
                    has_cas: response.cas != 0,
                    extras: response.extras.to_vec(),
                    key: response.key.to_vec(),
                    value: response.value.escape_ascii().to_string(),
                });
            }
            input.drain(..consumed_all);
            let read = self.stream.read(&mut buffer).expect("the server answers in time");
            assert!(read > 0, "the server closed");
            input.extend_from_slice(&buffer[..read]);
        }
    }
}

#[derive(Debug)]
struct Packet {
    kind: u32,
    key: String,
    value: String,
    flags: u32,
    exptime: i64,
    numbers: [u64; 2],
    /// 0: none; 1: the one that was reported last; 2: one that was never reported.
    cas: u8,
    quiet: bool,
    with_key: bool,
    vivifies: bool,
}

impl Packet {
    fn random(rng: &mut StdRng) -> Packet {
        let numeric = rng.random_bool(0.5);
        let value = match rng.random_range(0..10) {
            0 => "x".repeat(rng.random_range(0..3000)),
            1 => String::new(),
            _ if numeric => rng.random_range(0..200u32).to_string(),
            _ => (0..rng.random_range(1..60)).map(|_| char::from(rng.random_range(b'!'..b'~'))).collect(),
        };
        Packet {
            kind: rng.random_range(0..18),
            key: format!("key{}", rng.random_range(0..12)),
            value,
            flags: *[0, 0, 1, 0xdead_beef].choose(rng).expect("not empty"),
            exptime: *[0, 0, 0, 1000, 2_592_000, 2_592_001, 2_000_000_000].choose(rng).expect("not empty"),
            numbers: [rng.random_range(0..50), rng.random_range(0..50)],
            cas: *[0, 0, 0, 0, 1, 1, 2].choose(rng).expect("not empty"),
            quiet: rng.random_bool(0.3),
            with_key: rng.random_bool(0.3),
            vivifies: rng.random_bool(0.3),
        }
    }

    fn encode(&self, told: &HashMap<String, u64>, opaque: u32, out: &mut Vec<u8>) {
        let (key, exptime) = (self.key.as_bytes(), Exptime(self.exptime));
        let compare_cas = match self.cas {
            0 => None,
            1 => told.get(&self.key).copied(),
            _ => Some(u64::MAX),
        };
        let get = |touch, want_value| Command::Get(Get { touch, want_value, ..Get::new(Keys::One(key)) });
        let store = |mode, flags, exptime| {
            Command::Store(Store { flags, exptime, compare_cas, ..Store::new(mode, key, self.value.as_bytes()) })
        };
        let command = match self.kind {
            0..3 => get(None, true),
            3 => get(Some(exptime), true),
            4 => get(Some(exptime), false),
            5..8 => store(StoreMode::Set, self.flags, exptime),
            8 => store(StoreMode::Add, self.flags, exptime),
            9 => store(StoreMode::Replace, self.flags, exptime),
            10 => store(StoreMode::Append, 0, Exptime(0)),
            11 => store(StoreMode::Prepend, 0, Exptime(0)),
            12 => Command::Delete(Delete { compare_cas, ..Delete::new(key) }),
            13..16 => {
                let direction = if self.kind == 13 { Direction::Down } else { Direction::Up };
                Command::Arithmetic(Arithmetic {
                    vivify: self.vivifies.then_some(exptime),
                    initial: self.numbers[1],
                    compare_cas,
                    ..Arithmetic::new(direction, key, self.numbers[0])
                })
            }
            16 => Command::Noop,
            _ if self.numbers == [0, 0] => Command::FlushAll { at: None },
            // An unknown opcode with a body.
            _ if self.numbers[0] < 5 => {
                out.extend_from_slice(&[0x80, 0x55, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3]);
                out.extend_from_slice(&opaque.to_be_bytes());
                return out.extend_from_slice(b"\0\0\0\0\0\0\0\0abc");
            }
            _ => get(None, true),
        };
        let opcode = opcode_of(&command, self.quiet, self.with_key).expect("binary has all of these");
        let request = Request { command, reply: Reply::Binary(BinaryReply { opcode, opaque }) };
        request.encode(out).expect("binary has all of these");
    }
}
