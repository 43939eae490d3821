//! Requests in the steady state allocate nothing, also while metrics are read. A test binary of its own: the count is of
//! the whole process.

use std::io::{Read, Write};
use std::net::TcpStream;

use larder_node::{Server, Settings};
use larder_protocol::{BinaryReply, Command, Get, Keys, Reply, Request, Store, StoreMode, binary};

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

/// Values are of three sizes, so that sets write items anew instead of in place. Large ones, which have a reference count, are not among them.
const VALUE_SIZES: [usize; 3] = [40, 400, 64];

/// A batch of requests and the length of its answer.
struct Batch {
    requests: Vec<u8>,
    answer_len: usize,
}

fn text_batches() -> Vec<Batch> {
    VALUE_SIZES
        .iter()
        .map(|&size| {
            let value = "v".repeat(size);
            let (mut requests, mut answer) = (String::new(), String::new());
            for n in 0..20 {
                requests += &format!("set key{n} 0 0 {size}\r\n{value}\r\nget key{n}\r\nget nothing{n}\r\n");
                answer += &format!("STORED\r\nVALUE key{n} 0 {size}\r\n{value}\r\nEND\r\nEND\r\n");
                requests += &format!("ms key{n} {size} q\r\n{value}\r\nmg key{n} v q k\r\n");
                answer += &format!("VA {size} kkey{n}\r\n{value}\r\n");
            }
            requests += "get key1 key2 nothing key3 key4\r\nmn\r\n";
            for n in 1..5 {
                answer += &format!("VALUE key{n} 0 {size}\r\n{value}\r\n");
            }
            answer += "END\r\nMN\r\n";
            Batch { requests: requests.into_bytes(), answer_len: answer.len() }
        })
        .collect()
}

fn binary_batch(size: usize) -> Batch {
    let value = vec![b'v'; size];
    let mut requests = Vec::new();
    let get = Command::Get(Get::new(Keys::One(b"binary")));
    let set = Command::Store(Store::new(StoreMode::Set, b"binary", &value));
    for command in [set, get] {
        let opcode = binary::opcode_of(&command, false, false).expect("binary has both");
        let reply = Reply::Binary(BinaryReply { opcode, opaque: 0 });
        Request { command, reply }.encode(&mut requests).expect("binary has both");
    }
    // Two headers of 24 bytes, and the get's flags.
    Batch { requests, answer_len: 24 + 24 + 4 + size }
}

fn exchange(socket: &mut TcpStream, batch: &Batch, answer: &mut [u8]) {
    socket.write_all(&batch.requests).unwrap();
    socket.read_exact(&mut answer[..batch.answer_len]).unwrap();
}

fn scrape(server: &Server) -> String {
    let mut socket = TcpStream::connect(server.http_address().expect("asked for")).unwrap();
    socket.write_all(b"GET /metrics HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn gets_and_sets_allocate_nothing_in_the_steady_state() {
    let mut settings = Settings::default();
    (settings.port, settings.threads, settings.memory_mebibytes) = (Some(-1), 1, 2);
    settings.http = Some("127.0.0.1:0".to_owned());
    let server = Server::start(settings).unwrap();
    let connect = || TcpStream::connect(server.addresses()[0]).unwrap();
    let (mut text, mut binary) = (connect(), connect());
    let text_batches = text_batches();
    let binary_batches = VALUE_SIZES.map(binary_batch);
    let mut answer = vec![0; 64 * 1024];
    let mut rounds = |count: usize| {
        for _ in 0..count {
            text_batches.iter().for_each(|batch| exchange(&mut text, batch, &mut answer));
            binary_batches.iter().for_each(|batch| exchange(&mut binary, batch, &mut answer));
        }
    };
    // Until memory is full: the lists of segments have grown by then.
    rounds(200);
    let _profiler = dhat::Profiler::builder().testing().build();
    let mut stretch = || {
        // The answer is made on a thread of its own; nothing is left to do for the workers.
        assert!(scrape(&server).contains("# EOF"));
        let before = dhat::HeapStats::get().total_blocks;
        rounds(20);
        dhat::HeapStats::get().total_blocks - before
    };
    // Background work may lengthen a list, and a lock's first contention makes its table of waiters: not in every stretch.
    let least = (0..10).map(|_| stretch()).min();
    assert_eq!(least, Some(0), "allocations in 20 rounds of some 300 requests");
}
