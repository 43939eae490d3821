//! `larder-bench coherence`: nothing is older than promised, whatever fails, and a rule that is left out is noticed.

use std::process::{Command, Output};

use larder_tests::binary;

/// Runs it for some seconds.
fn coherence(datastore: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(binary("larder-bench"));
    command.args(["coherence", "--datastore", datastore, "--ops", "24000", "--rate", "2000"]).args(arguments);
    let output = command.output().unwrap();
    println!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    output
}

#[test]
fn no_read_of_sqlite_is_older_than_promised_whatever_fails() {
    assert!(coherence("sqlite", &[]).status.success());
}

#[test]
fn no_read_is_older_than_promised_while_a_cluster_grows_and_shrinks() {
    assert!(coherence("sqlite", &["--cluster"]).status.success());
}

#[test]
fn no_read_of_postgresql_is_older_than_promised_whatever_fails() {
    if larder_bench::postgres::is_installed() {
        assert!(coherence("postgres", &[]).status.success());
    }
}

#[test]
fn a_protocol_without_an_outbox_or_without_leases_is_noticed() {
    for broken in ["no-outbox", "plain-set"] {
        let output = coherence("sqlite", &["--break", broken]);
        assert_eq!(output.status.code(), Some(1), "{broken}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("FAILED"), "{broken}");
    }
}
