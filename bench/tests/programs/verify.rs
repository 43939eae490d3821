//! `larder-bench load --verify` against servers that are right and servers that lie.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use larder_bench::load::Session;
use larder_bench::process::ServerProcess;

use super::{args, load, node, program};

const VERIFIED: &str = "--verify --keys 100 --value-size 40-400 --mix get:3,set:1,delete:0.1 -c 8 -t 2 -n 20000";

#[test]
fn verifying_a_right_server_finds_no_fault() {
    let server = node();
    for protocol in ["text", "meta", "binary", "text --multiget 7", "meta --multiget 7", "binary --multiget 7"] {
        let verdict = load(&[&server], &format!("{VERIFIED} --protocol {protocol}")).verdict.expect("it was asked");
        let faults = (verdict.wrong, verdict.stale, verdict.lost);
        assert_eq!(faults, (0, 0, 0), "{protocol}: {:?}", verdict.examples);
        assert!(verdict.checked > 1000, "{protocol}: {}", verdict.checked);
    }
}

fn exchange(server: &ServerProcess, request: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, server.port())).expect("connects");
    stream.write_all(request).expect("sends");
    stream.write_all(b"quit\r\n").expect("sends");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("answers");
    answer
}

#[test]
fn verifying_tells_wrong_stale_and_lost_values() {
    let server = node();
    let options = "--verify --keys 10 --value-size 40 --mix get -c 2 -n 1000 --key-size 8 --key-prefix k";
    let args = args(&[&server], options);
    let session = Session::open(&args).expect("connects");
    let verdict = || {
        let report = session.run(Duration::ZERO, args.stop(), args.schedule()).expect("the load runs");
        report.verdict.expect("it was asked")
    };
    session.populate().expect("populates");
    let before = verdict();
    assert_eq!((before.wrong, before.stale, before.lost), (0, 0, 0));
    let old = exchange(&server, b"get k0000003\r\n");
    let old = &old[b"VALUE k0000003 0 40\r\n".len()..][..40];
    session.populate().expect("populates");
    exchange(&server, &[b"set k0000003 0 0 40\r\n", old, b"\r\n"].concat());
    let stale = verdict();
    assert!(stale.stale > 0 && stale.wrong == 0 && stale.lost == 0, "{:?}", stale.examples);
    exchange(&server, b"set k0000003 0 0 3\r\nbad\r\n");
    assert!(verdict().wrong > 0);
    assert_eq!(verdict().lost, 0);
    exchange(&server, b"delete k0000004\r\n");
    assert!(verdict().lost > 0);
}

/// How a server lies.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Lie {
    /// It returns the value of another key.
    Other,
    /// It returns the value before the last.
    Older,
    /// It reports a miss.
    Lost,
}

/// A server that answers every tenth read with a lie.
struct Liar {
    port: u16,
    told: Arc<AtomicU64>,
}

impl Liar {
    fn start(lie: Lie) -> Liar {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let liar = Liar { port: listener.local_addr().expect("it has one").port(), told: Arc::default() };
        let told = liar.told.clone();
        // The thread serves one connection and ends with it.
        std::thread::spawn(move || serve(listener.accept().expect("a connection").0, lie, &told));
        liar
    }
}

fn serve(stream: TcpStream, lie: Lie, told: &AtomicU64) {
    let mut output = stream.try_clone().expect("a second handle");
    let mut input = BufReader::new(stream);
    let mut versions: HashMap<String, Vec<Vec<u8>>> = HashMap::new();
    let (mut line, mut reads) = (String::new(), 0);
    while input.read_line(&mut line).is_ok_and(|length| length > 0) {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        line.clear();
        let key = &words[1];
        if words[0] == "set" {
            let mut value = vec![0; words[4].parse::<usize>().expect("a length") + 2];
            input.read_exact(&mut value).expect("a value");
            versions.entry(key.clone()).or_default().push(value);
            output.write_all(b"STORED\r\n").expect("answers");
            continue;
        }
        reads += 1;
        let known = &versions[key];
        let lies = reads % 10 == 0 && (lie != Lie::Older || known.len() > 1);
        told.fetch_add(u64::from(lies), Ordering::Relaxed);
        let last = known.len() - 1;
        let value = match lie {
            Lie::Other if lies => versions.iter().find(|(other, _)| *other != key).map(|(_, values)| &values[0]),
            Lie::Older if lies => Some(&known[last - 1]),
            Lie::Lost if lies => None,
            _ => Some(&known[last]),
        };
        let mut answer = Vec::new();
        if let Some(value) = value {
            answer.extend_from_slice(format!("VALUE {key} 0 {}\r\n", value.len() - 2).as_bytes());
            answer.extend_from_slice(value);
        }
        answer.extend_from_slice(b"END\r\n");
        output.write_all(&answer).expect("answers");
    }
}

#[test]
fn every_lie_of_a_server_is_counted_as_what_it_is() {
    for lie in [Lie::Other, Lie::Older, Lie::Lost] {
        let liar = Liar::start(lie);
        let folder = tempfile::tempdir().expect("a folder");
        let (json, server) = (folder.path().join("report.json"), format!("127.0.0.1:{}", liar.port));
        let words =
            ["load", "-s", &server, "-c", "1", "-n", "2000", "--keys", "20", "--mix", "get:3,set:1", "--verify"];
        let output = program(&[&words[..], &["--json", &json.display().to_string()]].concat());
        let verdict = larder_bench::report::Report::read(&json).expect("a report").verdict.expect("it was asked");
        let told = liar.told.load(Ordering::Relaxed);
        assert!(told > 100, "{told}");
        let expected = match lie {
            Lie::Other => (told, 0, 0),
            Lie::Older => (0, told, 0),
            Lie::Lost => (0, 0, told),
        };
        assert_eq!((verdict.wrong, verdict.stale, verdict.lost), expected, "{lie:?}: {:?}", verdict.examples);
        // A cache may lose items.
        assert_eq!(output.status.code(), Some(i32::from(lie != Lie::Lost)), "{lie:?}");
    }
}

#[test]
fn values_of_any_sizes_can_be_verified() {
    let server = node();
    for sizes in ["--value-size 1", "--value-size 1:1,5k:1", "--preset etc --value-size etc"] {
        let report = load(&[&server], &format!("--verify --keys 200 -n 2000 -c 4 -P 4 {sizes}"));
        let verdict = report.verdict.expect("it was asked");
        let faults = (verdict.wrong, verdict.stale, verdict.lost);
        assert_eq!(faults, (0, 0, 0), "{sizes}: {:?}", verdict.examples);
        assert!(verdict.checked > 1000, "{sizes}: {}", verdict.checked);
    }
}
