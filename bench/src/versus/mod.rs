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

use measure::measure;
use program::node_beside;

use crate::report::{Machine, write};

/// Runs `larder-bench versus` and prints its table.
pub fn run(args: &VersusArgs) -> anyhow::Result<ExitCode> {
    let comparison = compare(args)?;
    print!("{}", comparison.to_text());
    if let Some(path) = &args.json {
        write(path, &serde_json::to_string_pretty(&comparison)?)?;
    }
    if let Some(path) = &args.html {
        write(path, &comparison.to_html())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs every load on both servers in turn.
///
/// # Errors
///
/// A server does not start, or does not answer under a load.
pub fn compare(args: &VersusArgs) -> anyhow::Result<Comparison> {
    ensure!(args.pairs > 0, "--pairs: at least one is needed");
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
    let program = |path, words| Program {
        path,
        words,
        memory_mebibytes: args.memory,
        threads: args.threads,
        cpus: server_cpus.clone(),
    };
    let (node, peer) = (program(node, words), program(args.peer.clone(), peer_words()));
    let mut comparison = Comparison {
        machine: Machine::this(),
        node: node.version(),
        peer: peer.version(),
        command: std::iter::once("larder-bench".to_owned()).chain(std::env::args().skip(1)).collect(),
        loads: Vec::new(),
        checks: None,
    };
    if args.checks {
        comparison.checks = Some([checks::check(&node, args, &load_cpus)?, checks::check(&peer, args, &load_cpus)?]);
    }
    for load in chosen(&args.loads)? {
        let mut result = LoadComparison {
            name: load.name.to_owned(),
            about: load.about.to_owned(),
            options: load.options.to_owned(),
            node: Vec::new(),
            peer: Vec::new(),
        };
        for pair in 1..=args.pairs {
            result.node.push(measure(&node, &load, args, &load_cpus)?);
            result.peer.push(measure(&peer, &load, args, &load_cpus)?);
            let (ours, theirs) = (result.node[pair - 1].cpu_us, result.peer[pair - 1].cpu_us);
            eprintln!("{} {pair}/{}: {ours:.3} us/op, peer {theirs:.3}", load.name, args.pairs);
        }
        comparison.loads.push(result);
    }
    Ok(comparison)
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
