//! `larder-bench versus`: runs this node and a peer in turn under the same loads.
//!
//! The figure that counts is the server's CPU time for an operation: on a machine with other work, it varies less than
//! throughput, and ratios within a pair of neighbouring runs vary less still.

mod args;
mod checks;
mod comparison;
mod loads;
mod measure;
mod page;
mod program;

use std::process::ExitCode;

use anyhow::{bail, ensure};

pub use args::VersusArgs;
pub use checks::Checks;
pub use comparison::{Comparison, LoadComparison};
pub use loads::{LOADS, Load};
pub use measure::Run;
pub use program::{Program, peer_words};

use measure::{Setting, measure};
use program::node_beside;

use crate::interrupt::Interrupt;
use crate::load::cpus_exist;
use crate::report::{Machine, print, write};

/// Runs `larder-bench versus` and prints its table. Returns exit status 1 if requests failed. A comparison that ends
/// early, by an error or a signal, prints the pairs of runs before.
pub fn run(args: &VersusArgs) -> anyhow::Result<ExitCode> {
    let interrupt = Interrupt::on_signals()?;
    let (comparison, error) = compare(args, &interrupt)?;
    print(&comparison.to_text())?;
    if let Some(path) = &args.json {
        write(path, &serde_json::to_string_pretty(&comparison)?)?;
    }
    if let Some(path) = &args.html {
        write(path, &comparison.to_html())?;
    }
    match error {
        Some(error) if !interrupt.is_set() => Err(error),
        _ if comparison.errors() > 0 => Ok(ExitCode::from(1)),
        _ => Ok(ExitCode::from(interrupt.exit_status().unwrap_or(0))),
    }
}

/// Runs every load on both servers in turn. Returns what was measured, and the error that ended it early.
///
/// # Errors
///
/// An option is not valid.
pub fn compare(args: &VersusArgs, interrupt: &Interrupt) -> anyhow::Result<(Comparison, Option<anyhow::Error>)> {
    ensure!(args.pairs > 0, "--pairs: at least one is needed");
    ensure!(!args.seconds.is_zero(), "--seconds: must be above 0");
    cpus_exist("--server-cpus", &args.server_cpus)?;
    let cpus = std::thread::available_parallelism()?.get();
    let server_cpus =
        if args.server_cpus.is_empty() { (0..args.threads.min(cpus)).collect() } else { args.server_cpus.clone() };
    let load_cpus: Vec<usize> = match &args.load_cpus[..] {
        [] => (0..cpus).filter(|cpu| !server_cpus.contains(cpu)).collect(),
        given => given.to_vec(),
    };
    let (node, words) = match &args.node {
        Some(path) => (path.clone(), Vec::new()),
        None => node_beside()?,
    };
    let nodes = args.cluster.unwrap_or(1);
    let program = |path, words, clustered| Program {
        path,
        words,
        nodes,
        clustered,
        memory_mebibytes: args.memory,
        threads: args.threads,
        cpus: server_cpus.clone(),
    };
    let (node, peer) = match args.cluster {
        Some(_) => (program(node.clone(), words.clone(), true), program(node, words, false)),
        None => (program(node, words, false), program(args.peer.clone(), peer_words(), false)),
    };
    let loads = chosen(&args.loads)?;
    let mut comparison = Comparison {
        machine: Machine::this(),
        node: match args.cluster {
            Some(nodes) => format!("{nodes} x {} in a cluster", node.version()),
            None => node.version(),
        },
        peer: match args.cluster {
            Some(nodes) => format!("{nodes} x {} in none", peer.version()),
            None => peer.version(),
        },
        command: std::iter::once("larder-bench".to_owned()).chain(std::env::args().skip(1)).collect(),
        loads: Vec::new(),
        interrupted: false,
        checks: None,
    };
    let setting = Setting { args, load_cpus: &load_cpus, interrupt };
    let ended = run_loads(&mut comparison, &[node, peer], &loads, &setting);
    comparison.interrupted = ended.is_err();
    comparison.loads.retain(|load| !load.node.is_empty());
    Ok((comparison, ended.err()))
}

/// Adds the checks and the pairs of runs to `comparison`.
fn run_loads(
    comparison: &mut Comparison,
    [node, peer]: &[Program; 2],
    loads: &[Load],
    setting: &Setting<'_>,
) -> anyhow::Result<()> {
    if setting.args.checks {
        comparison.checks = Some([checks::check(node, setting)?, checks::check(peer, setting)?]);
    }
    for load in loads {
        comparison.loads.push(LoadComparison {
            name: load.name.to_owned(),
            about: load.about.to_owned(),
            options: load.options.to_owned(),
            node: Vec::new(),
            peer: Vec::new(),
        });
        for pair in 1..=setting.args.pairs {
            let (ours, theirs) = (measure(node, load, setting)?, measure(peer, load, setting)?);
            eprintln!(
                "{} {pair}/{}: {:.3} µs/op, peer {:.3}",
                load.name, setting.args.pairs, ours.cpu_us, theirs.cpu_us
            );
            let result = comparison.loads.last_mut().expect("it was just pushed");
            result.node.push(ours);
            result.peer.push(theirs);
        }
    }
    Ok(())
}

/// Returns the loads with these names; all loads without names.
fn chosen(names: &[String]) -> anyhow::Result<Vec<Load>> {
    if names.is_empty() {
        return Ok(LOADS.to_vec());
    }
    let find = |name: &String| {
        let Some(load) = LOADS.iter().find(|load| load.name == name) else {
            let known: Vec<_> = LOADS.iter().map(|load| load.name).collect();
            bail!("--loads: there is no `{name}`; there are {}", known.join(", "));
        };
        Ok(*load)
    };
    names.iter().map(find).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::LoadArgs;

    #[test]
    fn every_load_is_a_command_line_of_load() {
        for load in LOADS {
            LoadArgs::from_words(load.options.split(' ')).unwrap_or_else(|error| panic!("{}: {error}", load.name));
        }
        assert!(chosen(&["p17".to_owned()]).is_err());
    }
}
