//! Figures stay true when servers fail, when nothing is measured, and when a run ends early.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use larder_bench::process::ServerProcess;
use larder_bench::report::Report;
use larder_bench::versus::Comparison;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{PROGRAM, node, program};

/// A command of the program with a report in a temporary folder.
struct Job {
    folder: tempfile::TempDir,
    command: Command,
}

impl Job {
    fn new(words: &[&str]) -> Job {
        let folder = tempfile::tempdir().expect("a folder");
        let mut command = Command::new(PROGRAM);
        command.args(words).arg("--json").arg(folder.path().join("report.json"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Job { folder, command }
    }

    /// Adds a trace with these lines to the words of a replay.
    fn trace(mut self, lines: &str) -> Job {
        let path = self.folder.path().join("trace.csv");
        std::fs::write(&path, lines).expect("writes");
        self.command.arg(path);
        self
    }

    fn start(&mut self) -> Child {
        self.command.spawn().expect("the program starts")
    }

    fn report(&self) -> Report {
        Report::read(&self.folder.path().join("report.json")).expect("a report was written")
    }

    /// Runs the command; `while_it_runs` is called after `delay`.
    fn run(&mut self, delay: Duration, while_it_runs: impl FnOnce(&Child)) -> (Output, Report) {
        let child = self.start();
        std::thread::sleep(delay);
        while_it_runs(&child);
        let output = child.wait_with_output().expect("the program ends");
        let report = Report::read(&self.folder.path().join("report.json"));
        let report = report.unwrap_or_else(|error| panic!("{error:#}: {output:?}"));
        (output, report)
    }
}

fn send(signal: Signal, process: u32) {
    kill(Pid::from_raw(process as i32), signal).expect("the process runs");
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

const HALF_A_SECOND: Duration = Duration::from_millis(500);

#[test]
fn requests_that_fail_are_not_served_and_break_bounds() {
    let server = node();
    let address = server.address();
    let words = ["load", "-s", &address, "-r", "100", "-d", "1500ms", "-c", "4", "--timeout", "300ms"];
    let bounds = ["--p99", "50ms", "--p999", "50ms", "--min-rate", "90", "--min-hit-ratio", "0"];
    let mut job = Job::new(&[&words[..], &bounds].concat());
    let (output, report) = job.run(HALF_A_SECOND, |_| drop(server));
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let total = &report.total;
    assert!(total.errors > 60 && total.requests == 150, "{}", text(&output));
    let served = (total.requests - total.errors) as f64;
    assert!(total.per_second * report.seconds <= served + 0.1, "{} a second", total.per_second);
    assert!(report.rate_kept < 60.0, "{} kept", report.rate_kept);
    assert!(total.latency.p99 >= 300_000.0, "p99 {} us", total.latency.p99);
    assert!(report.thresholds[..3].iter().all(|threshold| !threshold.holds), "{}", text(&output));
}

#[test]
fn a_replay_counts_failed_requests_as_neither_served_nor_found() {
    let server = node();
    let address = server.address();
    let lines: String = (0..200).map(|number| format!("{},key{},4,50,1,get,0\n", number / 100, number % 5)).collect();
    let words = ["replay", "-s", &address, "--speed", "1", "--timeout", "300ms"];
    let bounds = ["--p99", "50ms", "--min-rate", "90", "--min-hit-ratio", "0.5"];
    let mut job = Job::new(&[&words[..], &bounds].concat()).trace(&lines);
    let (output, report) = job.run(HALF_A_SECOND, |_| drop(server));
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(report.total.errors > 100, "{}", text(&output));
    assert!(report.total.per_second < 60.0 && report.rate_kept < 60.0, "{}", text(&output));
    assert!(report.total.latency.p99 >= 300_000.0, "{}", text(&output));
    assert!(report.thresholds.iter().all(|threshold| !threshold.holds), "{}", text(&output));
}

#[test]
fn a_frozen_server_is_slower_in_a_comparison_and_keeps_no_rate() {
    let server = node();
    let address = server.address();
    let words = ["load", "-s", &address, "-n", "60", "-r", "100", "-c", "4", "--timeout", "300ms"];
    let (mut fine, mut frozen) = (Job::new(&words), Job::new(&words));
    let (output, _) = fine.run(Duration::ZERO, |_| ());
    assert!(output.status.success(), "{}", text(&output));
    let (_, report) = frozen.run(Duration::from_millis(100), |_| send(Signal::SIGSTOP, server.id()));
    assert!(report.total.errors > 20, "{}", report.to_text());
    let files = [&fine, &frozen].map(|job| job.folder.path().join("report.json").display().to_string());
    let compared = program(&["compare", &files[0], &files[1], "--max-p99-ratio", "1.2"]);
    assert_eq!(compared.status.code(), Some(1), "{}", text(&compared));
}

#[test]
fn a_search_finds_no_rate_on_a_server_that_is_gone() {
    let server = node();
    let address = server.address();
    let words = ["load", "-s", &address, "--find-max", "--p99", "20ms", "-d", "200ms", "--timeout", "100ms"];
    let mut job = Job::new(&words);
    let (output, report) = job.run(HALF_A_SECOND, |_| drop(server));
    let first_failure = report.steps.iter().position(|step| !step.holds).expect("steps fail");
    let last = report.steps.last().expect("there are steps");
    assert!(!last.holds && last.p99 >= 100_000.0, "{}", text(&output));
    let best = report.steps[..first_failure].iter().map(|step| step.rate).fold(0.0, f64::max);
    let held = report.steps.iter().filter(|step| step.holds).map(|step| step.rate).fold(0.0, f64::max);
    // A disturbed step may fail before the server goes, and hold when it is tried again; nothing holds later.
    assert!(held <= best * 2.0 || best == 0.0, "{}", text(&output));
}

#[test]
fn a_bound_on_nothing_measured_fails() {
    let server = node();
    let bounds = [["--p99", "1h"], ["--p999", "1h"], ["--min-rate", "0"], ["--min-hit-ratio", "0"]];
    let mut jobs = Vec::new();
    for bound in bounds {
        let mut job = Job::new(&[&["replay", "-s", &server.address()], &bound[..]].concat()).trace("");
        let (output, report) = job.run(Duration::ZERO, |_| ());
        assert_eq!(output.status.code(), Some(1), "{bound:?}: {}", text(&output));
        assert!(report.thresholds[0].measured.is_none() && text(&output).contains("nothing was measured"));
        jobs.push(job);
    }
    // Writes alone have no hit ratio.
    let words = ["load", "-s", &server.address(), "-n", "10", "--mix", "set", "--min-hit-ratio", "0"];
    assert_eq!(program(&words).status.code(), Some(1));
    let empty = jobs[0].folder.path().join("report.json").display().to_string();
    for bound in [["--max-p99-ratio", "9"], ["--min-rate-ratio", "0"]] {
        let compared = program(&[&["compare", &empty, &empty], &bound[..]].concat());
        assert_eq!(compared.status.code(), Some(1), "{bound:?}: {}", text(&compared));
    }
}

#[test]
fn a_signal_ends_a_run_with_its_report() {
    let server = node();
    let address = server.address();
    let common = ["load", "-s", &address, "-c", "2"];
    let runs: [&[&str]; 4] =
        [&["-d", "1h"], &["-n", "1000000000000"], &["-r", "100", "-d", "1h"], &["--warmup", "1h", "-d", "1h"]];
    for (words, (signal, status)) in
        runs.iter().zip([(Signal::SIGTERM, 143), (Signal::SIGINT, 130)].into_iter().cycle())
    {
        let mut job = Job::new(&[&common[..], words].concat());
        let (output, report) = job.run(HALF_A_SECOND, |child| send(signal, child.id()));
        assert_eq!(output.status.code(), Some(status), "{words:?}: {}", text(&output));
        assert!(report.interrupted && report.seconds < 60.0, "{words:?}");
        assert!(text(&output).contains("cut short") && report.to_html().contains("cut short"), "{}", text(&output));
        assert!(report.total.requests > 0 || words[0] == "--warmup", "{words:?}");
    }
    // A bound that does not hold outweighs the signal.
    let mut job = Job::new(&[&common[..], &["-d", "1h", "--p99", "0.001us"]].concat());
    let (output, _) = job.run(HALF_A_SECOND, |child| send(Signal::SIGINT, child.id()));
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_signal_ends_a_replay_in_a_pause_with_its_report() {
    let day = "0,a,1,10,1,get,0\n86400,b,1,10,1,get,0\n";
    let age = format!("0,a,1,10,1,get,0\n{},b,1,10,1,get,0\n", u64::MAX);
    for (lines, speed) in [(day, "1"), (age.as_str(), "0.5"), (day, "1e-300"), (age.as_str(), "1e-300")] {
        let server = node();
        let mut job = Job::new(&["replay", "-s", &server.address(), "--speed", speed]).trace(lines);
        let started = Instant::now();
        let (output, report) = job.run(HALF_A_SECOND, |child| send(Signal::SIGINT, child.id()));
        assert_eq!(output.status.code(), Some(130), "{}", text(&output));
        assert!(started.elapsed() < Duration::from_secs(10), "it ends at once");
        assert!(report.interrupted && report.total.requests == 2, "a read and its fill: {}", text(&output));
    }
    // The pause of a pipe that brings no further line.
    let server = node();
    let mut job = Job::new(&["replay", "-s", &server.address(), "-"]);
    job.command.stdin(Stdio::piped());
    let mut child = job.start();
    let mut input = child.stdin.take().expect("a pipe");
    input.write_all(b"0,a,1,10,1,get,0\n").expect("writes");
    std::thread::sleep(HALF_A_SECOND);
    send(Signal::SIGTERM, child.id());
    let output = child.wait_with_output().expect("the program ends");
    assert_eq!(output.status.code(), Some(143), "{}", text(&output));
    assert!(job.report().interrupted && job.report().total.requests > 0);
    drop(input);
}

#[test]
fn a_value_that_no_server_stores_is_an_error_of_its_line() {
    let server = node();
    for size in ["1073741825", "99999999999999", "18446744073709551615", "18446744073709551616", "-1"] {
        let lines = format!("\n0,a,1,10,1,set,0\n\n0,b,1,{size},1,set,0\n");
        let mut job = Job::new(&["replay", "-s", &server.address()]).trace(&lines);
        let (output, report) = job.run(Duration::ZERO, |_| ());
        assert_eq!(output.status.code(), Some(2), "{}", text(&output));
        assert!(text(&output).contains("line 4") && text(&output).contains("value size"), "{}", text(&output));
        assert!(report.interrupted && report.total.requests == 1, "{}", text(&output));
    }
    // A long time to live is the server's to judge.
    let lines = format!("0,a,1,10,1,set,{}\n0,a,1,10,1,get,0\n", u64::MAX);
    let mut job = Job::new(&["replay", "-s", &server.address()]).trace(&lines);
    let (output, report) = job.run(Duration::ZERO, |_| ());
    assert!(output.status.code().is_some_and(|code| code < 2) && report.total.requests >= 2, "{}", text(&output));
}

#[test]
fn options_beyond_all_measure_are_refused_in_words() {
    let server = node();
    let address = server.address();
    let options: [&[&str]; 13] = [
        &["--rate", "1e-300"],
        &["--rate", "1e300"],
        &["--rate", "nan"],
        &["--timeout", "0s"],
        &["--duration", "1e300s"],
        &["--duration", "99999999999999h"],
        &["--requests", "0"],
        &["--connections", "18446744073709551615"],
        &["--connections", "1000000", "--pipeline", "100000"],
        &["--cpus", "99999"],
        &["--verify", "--keys", "18446744073709551615", "--key-size", "30"],
        &["--value-size", "99999999999999"],
        &["--servers", "cache1,cache2:11211,cache1:11211"],
    ];
    for words in options {
        let servers: &[&str] = if words[0] == "--servers" { &[] } else { &["-s", &address] };
        let output = program(&[&["load"], servers, words].concat());
        assert_eq!(output.status.code(), Some(2), "{words:?}: {}", text(&output));
        let (name, text) = (words[0].trim_start_matches('-'), text(&output));
        assert!(text.contains(name) && !text.contains("panicked"), "{words:?}: {text}");
    }
}

#[test]
fn a_schedule_of_few_requests_is_kept_to_at_most_all_of_it() {
    let server = node();
    let address = server.address();
    for words in [["-r", "2", "-d", "700ms"], ["-r", "4", "-n", "2"]] {
        let mut job = Job::new(&[&["load", "-s", &address], &words[..]].concat());
        let (output, report) = job.run(Duration::ZERO, |_| ());
        let asked = report.rate_asked.expect("a schedule");
        assert!(report.rate_kept <= asked, "{words:?}: {} of {asked}", report.rate_kept);
        assert!(text(&output).contains("100.00 %"), "{}", text(&output));
    }
    let mut job = Job::new(&["load", "-s", &address, "-r", "0.5", "-d", "100ms"]);
    let (output, _) = job.run(Duration::ZERO, |_| ());
    assert!(text(&output).contains("Rate asked: 0.50/s; kept: 0.50/s, 100.00 %"), "{}", text(&output));
    let mut job = Job::new(&["replay", "-s", &address, "--speed", "10"]).trace("0,a,1,9,1,set,0\n2,b,1,9,1,set,0\n");
    let (output, report) = job.run(Duration::ZERO, |_| ());
    assert_eq!(report.rate_asked, Some(2.0 / 0.3), "{}", text(&output));
    assert!(report.rate_kept <= 2.0 / 0.3 + 1e-9, "{}", text(&output));
}

#[test]
fn a_signal_ends_a_comparison_with_its_pairs_and_its_servers() {
    let Some(_) = super::load::memcached(&[]) else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let json = folder.path().join("versus.json");
    let mut child = Command::new(PROGRAM)
        .args(["versus", "--peer", "/usr/bin/memcached", "--loads", "p16", "--pairs", "1000", "--seconds", "100ms"])
        .args(["--warmup", "10ms", "--json"])
        .arg(&json)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    // A line follows each pair.
    let mut progress = BufReader::new(child.stderr.take().expect("a pipe"));
    progress.read_line(&mut String::new()).expect("a pair of runs");
    let deadline = Instant::now() + Duration::from_secs(10);
    let servers = loop {
        let servers = children(child.id());
        if !servers.is_empty() {
            break servers;
        }
        assert!(Instant::now() < deadline, "no server runs");
        std::thread::sleep(Duration::from_millis(1));
    };
    send(Signal::SIGTERM, child.id());
    let output = child.wait_with_output().expect("the program ends");
    assert_eq!(output.status.code(), Some(143), "{}", text(&output));
    let comparison: Comparison = serde_json::from_slice(&std::fs::read(json).expect("a file")).expect("a comparison");
    assert!(comparison.interrupted && !comparison.loads.is_empty(), "{}", text(&output));
    assert!(servers.iter().all(|&server| kill(Pid::from_raw(server), None).is_err()), "a server was left behind");
}

#[test]
fn a_signal_ends_the_demo_with_the_phases_that_have_ended() {
    let mut command = Command::new(PROGRAM);
    command.args(["demo", "--users", "100", "--seconds", "2", "--handlers", "4"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the program starts");
    let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut lines = String::new();
    while !lines.contains("done: datastore only") {
        assert!(output.read_line(&mut lines).expect("reads") > 0, "{lines}");
    }
    send(Signal::SIGTERM, child.id());
    lines.clear();
    output.read_to_string(&mut lines).expect("reads");
    assert_eq!(child.wait().expect("the program ends").code(), Some(143));
    assert!(lines.contains("node (keys it owns)") && lines.contains("datastore only"), "{lines}");
    assert!(!lines.contains("a node killed, then back"), "{lines}");
}

#[test]
fn a_signal_ends_a_simulation_with_its_table() {
    let folder = tempfile::tempdir().expect("a folder");
    let trace = folder.path().join("trace.csv").display().to_string();
    assert!(program(&["generate-trace", &trace, "--requests", "200000"]).status.success());
    let sizes = (1..1000).map(|size| format!("{size}%")).collect::<Vec<_>>().join(",");
    let mut command = Command::new(PROGRAM);
    command.args(["simulate", &trace, "--sizes", &sizes]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().expect("the program starts");
    std::thread::sleep(2 * HALF_A_SECOND);
    send(Signal::SIGINT, child.id());
    let output = child.wait_with_output().expect("the program ends");
    assert_eq!(output.status.code(), Some(130), "{}", text(&output));
    assert!(text(&output).contains("exact lru") && text(&output).contains("cut short"), "{}", text(&output));
}

/// The children of a process.
fn children(process: u32) -> Vec<i32> {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).expect("it runs");
    let lists = tasks.flatten().map(|task| std::fs::read_to_string(task.path().join("children")).unwrap_or_default());
    lists.flat_map(|list| list.split_whitespace().filter_map(|id| id.parse().ok()).collect::<Vec<_>>()).collect()
}

#[test]
fn a_reader_that_closes_the_pipe_is_no_failure() {
    let server: ServerProcess = node();
    let mut job = Job::new(&["load", "-s", &server.address(), "-n", "10"]);
    let mut child = job.start();
    drop(child.stdout.take());
    assert!(child.wait().expect("the program ends").success());
    assert_eq!(job.report().total.requests, 10);
}
