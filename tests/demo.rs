//! The demo and the replay, started as a user starts them.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

use larder_tests::{PATIENCE, Server, binary};

/// Returns the nodes that process `pid` has started: its children with the argument `node`.
fn nodes_of(pid: u32) -> Vec<String> {
    let children = Command::new("ps").args(["-o", "pid=,args=", "--ppid", &pid.to_string()]).output().unwrap();
    let lines = String::from_utf8_lossy(&children.stdout).into_owned();
    let nodes = lines.lines().filter(|line| line.contains(" node "));
    nodes.filter_map(|line| line.split_whitespace().next().map(str::to_owned)).collect()
}

fn is_alive(pid: &str) -> bool {
    // A zombie has ended, though its new parent may not have collected it yet.
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// Starts the demo, ends it with `end` while its nodes run, and checks that the nodes end too.
fn leaves_no_node_behind(signal: &str) {
    let mut demo = Command::new(binary("larder-bench"))
        .args(["demo", "--users", "200", "--seconds", "60"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(demo.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().starts_with("nodes:")));
    let nodes = nodes_of(demo.id());
    assert_eq!(nodes.len(), 3);
    assert!(Command::new("kill").args([signal, &demo.id().to_string()]).status().unwrap().success());
    demo.wait().unwrap();
    let deadline = Instant::now() + PATIENCE;
    while nodes.iter().any(|pid| is_alive(pid)) {
        assert!(Instant::now() < deadline, "nodes {nodes:?} outlive the demo");
        std::thread::yield_now();
    }
}

#[test]
fn an_interrupted_demo_leaves_no_node_behind() {
    leaves_no_node_behind("-INT");
}

#[test]
fn a_killed_demo_leaves_no_node_behind() {
    leaves_no_node_behind("-KILL");
}

#[test]
fn the_demo_ends_with_a_table_without_errors_or_stale_pages() {
    let output = Command::new(binary("larder-bench"))
        .args(["demo", "--users", "500", "--seconds", "2", "--handlers", "16"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let table: Vec<Vec<&str>> = text
        .lines()
        .skip_while(|line| !line.starts_with("phase "))
        .skip(1)
        .take(3)
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(table.len(), 3, "{text}");
    for row in table {
        assert_eq!(row[row.len() - 2..], ["0", "0"], "errors and stale pages in {text}");
    }
}

#[test]
fn a_made_trace_replays_with_the_hit_ratio_that_its_keys_allow() {
    let node = Server::node(&[]);
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("trace.csv.zst");
    let bench = binary("larder-bench");
    let made = Command::new(&bench)
        .arg("generate-trace")
        .arg(&trace)
        .args(["--requests", "5000", "--keys", "100"])
        .status()
        .unwrap();
    assert!(made.success());
    let replayed =
        Command::new(&bench).arg("replay").arg(&trace).args(["--servers", &node.address()]).output().unwrap();
    let text = String::from_utf8_lossy(&replayed.stdout);
    assert!(replayed.status.success(), "{text}");
    // All keys fit, so that each of the at most 100 keys misses once.
    let reads = text.lines().find(|line| line.starts_with("get ")).unwrap_or_else(|| panic!("{text}"));
    // The columns are requests, requests a second and hit ratio.
    let ratio: f64 = reads.split_whitespace().nth(3).and_then(|word| word.parse().ok()).unwrap();
    assert!((98.0..=99.0).contains(&ratio), "{text}");
}
