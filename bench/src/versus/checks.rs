//! Checks that a load does not show: memory of idle connections, fairness between connections, and a second thread.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::loads::{LOADS, Load};
use super::measure::{Run, Setting, measure};
use super::program::Program;
use crate::load::{LoadArgs, Schedule, Session, Stop};
use crate::process::ServerProcess;
use crate::report::Spread;

/// Idle connections that are opened to measure their memory.
const IDLE_CONNECTIONS: u64 = 10_000;
/// The length of each half of the fairness check.
const FAIRNESS: Duration = Duration::from_secs(2);
/// The load that compares two threads with one.
const SEVERAL_THREADS: Load = LOADS[1];

/// The figures of a server in the checks.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Checks {
    /// Resident bytes for each of 10,000 connections that have sent one request and wait.
    pub bytes_per_idle_connection: f64,
    /// 99th percentile, in microseconds, of single gets alone.
    pub single_p99_alone: f64,
    /// The same beside a connection that sends 4,000 gets at a time without a pause.
    pub single_p99_beside_pipeline: f64,
    /// Operations a second of one and of two threads, at pipeline 16. On fewer than three processors, the load
    /// generator shares the servers'.
    pub per_second_by_threads: [f64; 2],
    /// Processor microseconds for an operation of one and of two threads.
    pub cpu_us_by_threads: [f64; 2],
}

/// Runs all checks on one server.
pub(super) fn check(program: &Program, setting: &Setting<'_>) -> anyhow::Result<Checks> {
    let bytes_per_idle_connection = idle_memory(&program.start()?)?;
    let (alone, beside) = fairness(&program.start()?, setting)?;
    let runs = by_threads(program, setting)?;
    let median = |runs: &Vec<Run>, field: fn(&Run) -> f64| Spread::of(runs.iter().map(field)).median;
    Ok(Checks {
        bytes_per_idle_connection,
        single_p99_alone: alone,
        single_p99_beside_pipeline: beside,
        per_second_by_threads: [0, 1].map(|more| median(&runs[more], |run| run.per_second)),
        cpu_us_by_threads: [0, 1].map(|more| median(&runs[more], |run| run.cpu_us)),
    })
}

/// Measures one and two threads in turn.
fn by_threads(program: &Program, setting: &Setting<'_>) -> anyhow::Result<[Vec<Run>; 2]> {
    let cpus: Vec<usize> = (0..std::thread::available_parallelism()?.get()).collect();
    let (server_cpus, rest) = cpus.split_at(cpus.len().min(2));
    let load_cpus = if rest.is_empty() { server_cpus } else { rest };
    let mut runs = [Vec::new(), Vec::new()];
    let setting = Setting { load_cpus, ..*setting };
    for _ in 0..setting.args.pairs {
        for (more, runs) in runs.iter_mut().enumerate() {
            let program = Program { threads: 1 + more, cpus: server_cpus.to_vec(), ..program.clone() };
            runs.push(measure(&program, &SEVERAL_THREADS, &setting)?);
        }
    }
    Ok(runs)
}

/// Returns the resident bytes for an idle connection.
fn idle_memory(server: &ServerProcess) -> anyhow::Result<f64> {
    let open = || -> anyhow::Result<TcpStream> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, server.port()))
            .context("10,000 connections: raise the limit of open files (ulimit -n 20000)")?;
        stream.write_all(b"get nothing\r\n")?;
        stream.read_exact(&mut [0; b"END\r\n".len()])?;
        Ok(stream)
    };
    // Memory that the first connections allocate once is not a cost of each further connection.
    let _first = (0..100).map(|_| open()).collect::<anyhow::Result<Vec<_>>>()?;
    let before = server.resident_bytes()?;
    let _idle = (0..IDLE_CONNECTIONS).map(|_| open()).collect::<anyhow::Result<Vec<_>>>()?;
    let after = server.resident_bytes()?;
    Ok(after.saturating_sub(before) as f64 / IDLE_CONNECTIONS as f64)
}

/// Returns the 99th percentile of single gets, alone and beside a connection with a deep pipeline.
fn fairness(server: &ServerProcess, setting: &Setting<'_>) -> anyhow::Result<(f64, f64)> {
    let address = server.address();
    let session = |options: &str| -> anyhow::Result<Session> {
        let words = ["--no-progress", "--servers", &address].into_iter().chain(options.split(' '));
        let mut args = LoadArgs::from_words(words)?;
        args.cpus = setting.load_cpus.to_vec();
        Session::open_until(&args, setting.interrupt.clone())
    };
    let stop = Stop::After(FAIRNESS);
    let singles = session("--mix get --value-size 64 --connections 8")?;
    singles.populate()?;
    let schedule = Schedule::Open { per_second: 2000.0, poisson: false };
    let alone = singles.run(Duration::from_millis(200), stop, schedule)?;
    let pipeline = session("--mix get --value-size 64 --connections 1 --pipeline 4000")?;
    let greedy = std::thread::spawn(move || {
        pipeline.run(Duration::ZERO, Stop::After(FAIRNESS + Duration::from_millis(300)), Schedule::Closed)
    });
    let beside = singles.run(Duration::from_millis(200), stop, schedule)?;
    greedy.join().map_err(|_| anyhow::anyhow!("the pipeline panicked"))??;
    Ok((alone.total.latency.p99, beside.total.latency.p99))
}
