//! Servers that demand a login or a client certificate, and what a report says of them.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use larder_bench::process::ServerProcess;
use larder_bench::report::Report;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use super::{PROGRAM, node, program};

/// A node with further flags and variables.
fn node_with(flags: &[&str], variables: &[(&str, &str)]) -> ServerProcess {
    let mut command = Command::new(PROGRAM);
    command.args(["node", "-l", "127.0.0.1", "-p", "-1", "-t", "1"]).args(flags).envs(variables.iter().copied());
    ServerProcess::start(command.stderr(Stdio::null())).expect("a node starts")
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Runs the program, which must end soon.
fn run(words: &[&str]) -> (Option<i32>, String) {
    let started = Instant::now();
    let output = program(words);
    assert!(started.elapsed() < Duration::from_secs(30), "{words:?} took {:?}", started.elapsed());
    (output.status.code(), text(&output))
}

/// A folder with a user file, and a trace.
struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    fn new() -> Files {
        let files = Files { folder: tempfile::tempdir().expect("a folder") };
        std::fs::write(files.path("users"), "reader:secret\n").expect("writes");
        let lines: String = (0..50).map(|number| format!("0,key{},4,50,1,get,0\n", number % 5)).collect();
        std::fs::write(files.path("trace.csv"), lines).expect("writes");
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }
}

#[test]
fn a_load_and_a_replay_log_in() {
    let files = Files::new();
    let (users, trace) = (files.text("users"), files.text("trace.csv"));
    let (ascii, sasl) = (node_with(&["-Y", &users], &[]), node_with(&["-S"], &[("MEMCACHED_SASL_PWDB", &users)]));
    let login = ["--user", "reader", "--password", "secret"];
    let load = ["-n", "500", "-c", "3", "--max-errors", "0"];
    for (server, protocol) in [(&ascii, "text"), (&ascii, "meta"), (&sasl, "binary")] {
        let address = server.address();
        let words = [&["load", "-s", &address, "--protocol", protocol][..], &load, &login].concat();
        let (code, text) = run(&words);
        assert_eq!(code, Some(0), "{protocol}: {text}");
        let wrong =
            [&["load", "-s", &address, "--protocol", protocol, "--user", "reader", "--password", "no"][..], &load];
        let (code, text) = run(&wrong.concat());
        assert_eq!(code, Some(2), "{protocol}: {text}");
        assert!(text.contains("refused the login") && text.contains("--user"), "{text}");
    }
    let address = ascii.address();
    let words = [&["replay", &trace, "-s", &address, "--max-errors", "0"][..], &login].concat();
    let (code, text) = run(&words);
    assert_eq!(code, Some(0), "{text}");
}

#[test]
fn a_run_whose_requests_all_fail_ends_early_and_says_why() {
    let files = Files::new();
    let (users, trace) = (files.text("users"), files.text("trace.csv"));
    let server = node_with(&["-Y", &users], &[]);
    let address = server.address();
    for words in [&["-d", "1h"][..], &["-d", "1h", "-r", "100"]] {
        let (code, text) = run(&[&["load", "-s", &address], words].concat());
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains("unauthenticated") && text.contains("requests failed, so the run was ended"), "{text}");
        assert!(text.contains("--user") && text.contains("cut short"), "{text}");
    }
    // Before the measured part, there is nothing to report.
    for words in [&["--populate"][..], &["--warmup", "1h"]] {
        let (code, text) = run(&[&["load", "-s", &address], words].concat());
        assert_eq!(code, Some(2), "{text}");
        assert!(text.contains("authentic") && text.contains("--user"), "{text}");
    }
    let lines: String = (0..3600).map(|number| format!("{},key,3,50,1,get,0\n", number / 30)).collect();
    std::fs::write(files.path("trace.csv"), lines).expect("writes");
    let (code, text) = run(&["replay", &trace, "-s", &address, "--speed", "1"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("requests failed, so the run was ended") && text.contains("cut short"), "{text}");
}

#[test]
fn a_load_and_a_replay_present_a_client_certificate() {
    let files = Files::new();
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("signs");
    std::fs::write(files.path("ca"), authority.pem()).expect("writes");
    for name in ["localhost", "client"] {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        let certificate = params.signed_by(&key, &authority).expect("signs");
        std::fs::write(files.path(&format!("{name}.pem")), certificate.pem()).expect("writes");
        std::fs::write(files.path(&format!("{name}.key")), key.serialize_pem()).expect("writes");
    }
    let [ca, server, server_key] = ["ca", "localhost.pem", "localhost.key"].map(|name| files.text(name));
    let options = format!("ssl_chain_cert={server},ssl_key={server_key},ssl_verify_mode=2,ssl_ca_cert={ca}");
    let node = node_with(&["-Z", "-o", &options], &[]);
    let (address, trace) = (node.address(), files.text("trace.csv"));
    let [certificate, key] = ["client.pem", "client.key"].map(|name| files.text(name));
    let tls = ["-s", &address, "--tls-ca", &ca, "--tls-name", "localhost"];
    let present = ["--tls-cert", &certificate, "--tls-key", &key];
    for job in [&["load", "-n", "300", "-c", "2"][..], &["replay", &trace]] {
        let (code, text) = run(&[job, &tls, &present, &["--max-errors", "0"]].concat());
        assert_eq!(code, Some(0), "{job:?}: {text}");
        let (code, text) = run(&[job, &tls, &["--timeout", "1s"]].concat());
        assert!(code.is_some_and(|code| code > 0), "{job:?}: {text}");
    }
    let (code, text) = run(&[&["load"], &tls[..], &["--tls-cert", &certificate, "--tls-key", &server_key]].concat());
    assert!(code == Some(2) && text.contains("--tls-key"), "{text}");
    let (code, text) = run(&["load", "-s", &address, "--tls-ca", &trace]);
    assert!(code == Some(2) && text.contains("--tls-ca"), "{text}");
}

#[test]
fn a_report_says_what_the_run_cost_the_servers() {
    let files = Files::new();
    let server = node_with(&["-m", "8"], &[]);
    let address = server.address();
    let [json, csv, series, hgrm] = ["r.json", "r.csv", "s.csv", "r.hgrm"].map(|name| files.text(name));
    let words = ["load", "-s", &address, "--mix", "get,set", "--keys", "20000", "--value-size", "1k", "-n", "20000"];
    let outputs = ["--json", &json, "--csv", &csv, "--csv-series", &series, "--hgrm", &hgrm];
    let (code, text) = run(&[&words[..], &outputs, &["--populate"]].concat());
    assert_eq!(code, Some(0), "{text}");
    let report = Report::read(json.as_ref()).expect("a report");
    let used = report.servers[0].used.as_ref().expect("it answers stats");
    assert!(used.cpu_seconds > 0.0 && used.evictions > 0 && used.items > 0, "{used:?}");
    assert!(used.bytes <= used.memory_limit && used.memory_limit == 8 << 20, "{used:?}");
    assert!(text.contains(" s of CPU, ") && text.contains(" evictions"), "{text}");

    let read = |path: &str| std::fs::read_to_string(path).expect("it was written");
    let mut lines = csv::Reader::from_path(&csv).expect("CSV");
    let requests: Vec<(String, String)> =
        lines.records().flatten().map(|line| (line[0].into(), line[2].into())).collect();
    assert_eq!(
        requests.iter().map(|(of, _)| of.as_str()).collect::<Vec<_>>(),
        ["operation", "operation", "all", "server"]
    );
    assert_eq!(requests[2].1, "20000");
    assert_eq!(csv::Reader::from_path(&series).expect("CSV").records().count(), report.series.len());
    let hgrm = read(&hgrm);
    let last = hgrm.lines().rfind(|line| !line.starts_with('#')).expect("lines");
    let words: Vec<&str> = last.split_whitespace().collect();
    assert_eq!((words[1], words[2]), ("1.000000000000", "20000"), "{hgrm}");
    let max: f64 = words[0].parse().expect("a number");
    assert!((max * 1000.0 / report.total.latency.max - 1.0).abs() < 0.01, "{max} ms, {} µs", report.total.latency.max);
}

#[test]
fn bounds_are_written_as_people_write_them() {
    let server = node();
    let address = server.address();
    let words = ["load", "-s", &address, "-n", "200", "--populate", "--keys", "50", "--p99", "250s", "--p999", "9µs"];
    let (code, text) =
        run(&[&words[..], &["--min-hit-ratio", "99.5%", "--min-rate", "0.5", "--max-errors", "1000"]].concat());
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("--p99 250.00 s: holds, measured "), "{text}");
    assert!(text.contains("--p999 9.0 µs: FAILS, measured "), "{text}");
    assert!(text.contains("--min-hit-ratio 99.50 %: holds, measured 100.00 %."), "{text}");
    assert!(text.contains("--min-rate 0.50/s: holds, measured "), "{text}");
    assert!(text.contains("--max-errors 1,000: holds, measured 0."), "{text}");
}
