//! Clients that ask a cluster for its list of nodes follow it while it grows and shrinks. The libraries are installed
//! under `target/`. If that fails, the tests report that they were skipped.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use larder_tests::fleet::{self, Member};
use larder_tests::python::python;

const HERE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/clients");

fn environment() -> Option<&'static PathBuf> {
    static PYTHON: OnceLock<Option<PathBuf>> = OnceLock::new();
    let requirements = format!("{HERE}/discovery-requirements.txt");
    let imports = "emcache, django_elastipymemcache, kubernetes_validate";
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("python-discovery");
    let python = PYTHON.get_or_init(|| python(&folder, &requirements, imports)).as_ref();
    if python.is_none() {
        eprintln!("SKIPPED: the libraries of {requirements} could not be installed with python3 -m venv and pip");
    }
    python
}

/// Lets a client follow a cluster from 3 to 4 and back to 3 nodes.
fn follows(library: &str) {
    let Some(python) = environment() else { return };
    let mut members = fleet::start(3, &[], &[]);
    let mut client = Command::new(python)
        .args([&format!("{HERE}/discovery.py"), library, &members[0].server.address()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut asked = client.stdin.take().unwrap();
    let mut answers = BufReader::new(client.stdout.take().unwrap()).lines();
    let mut expect = |nodes: usize| {
        writeln!(asked, "{nodes}").unwrap();
        assert_eq!(answers.next().map(Result::unwrap).as_deref(), Some("ok"), "{library} with {nodes} nodes");
    };
    expect(3);
    let seed = members[0].peer.clone();
    members.push(Member::start(&[&seed], &[], &[]));
    fleet::settle(&mut members, 4);
    expect(4);
    let leaver = members.pop().unwrap();
    leaver.server.signal("TERM");
    fleet::settle(&mut members, 3);
    expect(3);
    assert!(leaver.server.wait());
    expect(3);
    drop(asked);
    assert!(client.wait().unwrap().success());
}

#[test]
fn emcache_follows_the_list_of_nodes() {
    follows("emcache");
}

#[test]
fn django_elastipymemcache_follows_the_list_of_nodes() {
    follows("elastipymemcache");
}

#[test]
fn pymemcache_reads_the_list_of_nodes() {
    follows("pymemcache");
}

const VALIDATE: [&str; 5] = ["-m", "kubernetes_validate", "--strict", "-k", "1.34.0"];

#[test]
fn the_manifests_for_kubernetes_are_valid() {
    let Some(python) = environment() else { return };
    let contrib = concat!(env!("CARGO_MANIFEST_DIR"), "/../contrib");
    let manifest = &format!("{contrib}/kubernetes.yaml");
    for manifest in [manifest, &format!("{contrib}/kubernetes-wanted.yaml")] {
        let checked = Command::new(python).args(VALIDATE).arg(manifest).output().unwrap();
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
    }
    // What the checker must find.
    let text = std::fs::read_to_string(manifest).unwrap().replace("serviceName:", "serviceNam:");
    let mut wrong = tempfile::NamedTempFile::new().unwrap();
    wrong.write_all(text.as_bytes()).unwrap();
    let checked = Command::new(python).args(VALIDATE).arg(wrong.path()).output();
    assert!(!checked.unwrap().status.success());
}
