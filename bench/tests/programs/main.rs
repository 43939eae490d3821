//! `larder-bench` against real servers.

mod access;
mod honesty;
mod load;
mod replay;
mod verify;

use std::path::PathBuf;
use std::process::{Command, Output};

use larder_bench::interrupt::Interrupt;
use larder_bench::load::{LoadArgs, measure};
use larder_bench::process::ServerProcess;
use larder_bench::report::Report;
use larder_bench::versus::Program;

const PROGRAM: &str = env!("CARGO_BIN_EXE_larder-bench");

fn node() -> ServerProcess {
    let (path, words) = (PathBuf::from(PROGRAM), vec!["node".to_owned()]);
    Program { path, words, memory_mebibytes: 64, threads: 1, cpus: all_cpus(), nodes: 1, clustered: false }
        .start()
        .expect("a node starts")
}

fn all_cpus() -> Vec<usize> {
    (0..std::thread::available_parallelism().map_or(1, usize::from)).collect()
}

fn args(servers: &[&ServerProcess], options: &str) -> LoadArgs {
    let servers: Vec<String> = servers.iter().map(|server| server.address()).collect();
    let servers = servers.join(",");
    let words = ["--no-progress", "--servers", &servers].into_iter().chain(options.split_whitespace());
    LoadArgs::from_words(words).expect("options are valid")
}

fn load(servers: &[&ServerProcess], options: &str) -> Report {
    measure(&args(servers, options), &Interrupt::default()).expect("the load runs")
}

fn program(words: &[&str]) -> Output {
    Command::new(PROGRAM).args(words).output().expect("the program runs")
}
