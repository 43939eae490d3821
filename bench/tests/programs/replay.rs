//! `larder-bench replay` against a real node.

use std::path::Path;
use std::process::{Command, Output};

use larder_bench::process::ServerProcess;
use larder_bench::report::Report;
use larder_bench::workload::Operation;

use super::{PROGRAM, node};

/// Writes `lines` as a trace, replays it on `servers`, and reads the report.
fn replay(folder: &Path, lines: &str, servers: &[&ServerProcess], options: &[&str]) -> (Output, Report) {
    let (trace, json) = (folder.join("trace.csv"), folder.join("replay.json"));
    std::fs::write(&trace, lines).expect("writes");
    let servers: Vec<String> = servers.iter().map(|server| server.address()).collect();
    let mut command = Command::new(PROGRAM);
    command.arg("replay").arg(&trace).args(["--servers", &servers.join(","), "--json"]).arg(&json).args(options);
    let output = command.output().expect("the program runs");
    let report = Report::read(&json).unwrap_or_else(|error| panic!("{error:#}: {output:?}"));
    (output, report)
}

#[test]
fn a_trace_is_read_through_and_reported_by_operation_and_server() {
    let folder = tempfile::tempdir().expect("a folder");
    let nodes = [node(), node()];
    let mut lines = String::new();
    for round in 0..3 {
        (0..100).for_each(|key| lines += &format!("{round},key{key},6,50,1,get,600\n"));
    }
    lines += "3,key1,4,50,1,delete,0\n3,key1,4,50,1,get,0\n3,n,1,50,1,add,0\n3,n,1,50,1,incr,0\n";
    let (output, report) = replay(folder.path(), &lines, &[&nodes[0], &nodes[1]], &[]);
    assert!(output.status.success(), "{}", report.to_text());
    let requests = |operation| report.operation(operation).map_or(0, |figures| figures.requests);
    assert_eq!((requests(Operation::Get), requests(Operation::Delete)), (301, 1));
    // The reads of the first round and of the deleted key miss and are filled. The add is a write too.
    assert_eq!((report.fills, requests(Operation::Set)), (101, 102));
    let reads = report.operation(Operation::Get).expect("there were reads");
    assert_eq!((reads.hits, reads.misses), (200, 101));
    // The added value is not a number.
    assert_eq!((requests(Operation::Incr), report.total.errors), (1, 1));
    assert!(report.faults[0].contains("non-numeric"), "{:?}", report.faults);
    assert!(report.servers.iter().all(|server| server.figures.requests > 0));
    assert_eq!(report.rate_asked, None);
}

#[test]
fn a_replay_keeps_to_its_timestamps_and_latency_counts_from_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let node = node();
    // Ten seconds with ten requests each, at twenty times the speed.
    let lines: String = (0..100).map(|number| format!("{},key{number},6,50,1,set,0\n", 86_400 + number / 10)).collect();
    let (output, report) = replay(folder.path(), &lines, &[&node], &["--speed", "20"]);
    assert!(output.status.success(), "{}", report.to_text());
    assert_eq!(report.rate_asked, Some(200.0));
    assert!(report.seconds > 0.49, "{}", report.seconds);
    // Values of half a mebibyte, all due at once and sent one at a time: each is late by all before it.
    let lines: String = (0..200).map(|number| format!("0,key{number},6,500000,1,set,0\n")).collect();
    let (_, report) = replay(folder.path(), &lines, &[&node], &["--speed", "1000000", "--concurrency", "1"]);
    let latency = &report.total.latency;
    assert!(latency.max > report.seconds * 1e6 * 0.8, "max {} us of {} s", latency.max, report.seconds);
    assert!(latency.p50 > latency.max / 4.0, "{}", report.to_text());
}

#[test]
fn a_bad_line_is_named_after_the_report_of_those_before_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let node = node();
    let (output, report) = replay(folder.path(), "0,a,1,9,1,get,0\n0,b,1,9,1,get,0\n0,c,1,9\n", &[&node], &[]);
    assert_eq!((output.status.code(), report.total.requests - report.fills), (Some(2), 2));
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(words.contains("line 3") && words.contains("timestamp,key,"), "{words}");
}
