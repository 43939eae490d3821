//! The conference application's API under a fuzzer that reads its description.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use larder_tests::python::python;
use larder_tests::{Server, binary};

struct Instance(Child);

impl Drop for Instance {
    fn drop(&mut self) {
        // Killing fails if the process has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn no_input_breaks_the_api_or_gets_an_answer_that_its_description_does_not_name() {
    let requirements = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/fuzzer-requirements.txt");
    let environment = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("python-fuzzer");
    if python(&environment, requirements, "schemathesis").is_none() {
        eprintln!("SKIPPED: schemathesis cannot be installed (python3 -m pip install schemathesis)");
        return;
    }
    let node = Server::node(&[]);
    let folder = tempfile::tempdir().unwrap();
    let datastore = format!("sqlite://{}", folder.path().join("conference.db").display());
    let mut instance = Command::new(binary("conference"))
        .args(["serve", "--listen", "127.0.0.1:0", "--servers", &node.address(), "--datastore", &datastore, "--mail"])
        .arg(folder.path().join("mail"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(instance.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let _instance = Instance(instance);
    let url = line.trim().strip_prefix("listening on ").expect("the instance listens");
    // A description cannot say which cursors, leases and tasks there are: those that are not are refused rightly.
    let output = Command::new(environment.join("bin/schemathesis"))
        .args(["run", &format!("{url}/openapi.json"), "--exclude-checks", "positive_data_acceptance"])
        .args(["--phases", "coverage,fuzzing,stateful", "--max-examples", "20", "--seed", "1"])
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
