//! Nodes on this machine that are a cluster, and what they report of it: `stats cluster`.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use larder_client::Client;
use larder_node::cluster::{self as scaling, Autoscaler, Limits};

use crate::process::ServerProcess;

/// How long a node may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long a cluster may take to settle on a busy machine.
const SETTLING: Duration = Duration::from_secs(120);

/// Between looks at what a cluster follows.
const LOOK: Duration = Duration::from_millis(500);

/// Nodes in processes of their own, which end with this value.
#[derive(Debug)]
pub struct Fleet {
    program: PathBuf,
    flags: Vec<String>,
    members: Vec<ServerProcess>,
    /// They hand on their items, forward for a while, and end by themselves.
    leaving: Vec<ServerProcess>,
}

impl Fleet {
    /// Starts so many nodes, members of one cluster of this name, or without one nodes that do not know each other.
    /// `program` is one that runs a node as `program node FLAGS`.
    ///
    /// # Errors
    ///
    /// A node does not start.
    pub fn start(program: &Path, nodes: usize, cluster: Option<&str>, flags: &[&str]) -> anyhow::Result<Fleet> {
        let mut all = vec!["node", "-p", "-1"];
        if let Some(name) = cluster {
            all.extend(["--cluster", name, "--cluster-listen", "127.0.0.1:0"]);
        }
        let flags = all.iter().chain(flags).map(|flag| (*flag).to_owned()).collect();
        let mut fleet = Fleet { program: program.to_owned(), flags, members: Vec::new(), leaving: Vec::new() };
        for _ in 0..nodes {
            fleet.add()?;
        }
        Ok(fleet)
    }

    /// Where the members listen, in the order of their start.
    pub fn addresses(&self) -> Vec<String> {
        self.members.iter().map(ServerProcess::address).collect()
    }

    /// Starts one node more.
    ///
    /// # Errors
    ///
    /// It does not start.
    pub fn add(&mut self) -> anyhow::Result<()> {
        let mut command = Command::new(&self.program);
        command.args(&self.flags);
        if let Some(first) = self.members.first().filter(|_| self.flags.iter().any(|flag| flag == "--cluster")) {
            command.args(["--seeds", &figures(&first.address())?["peer_address"]]);
        }
        self.members.push(ServerProcess::start(command.env("RUST_LOG", "error"))?);
        Ok(())
    }

    /// Lets the youngest member hand on its items and end, if there is one.
    ///
    /// # Errors
    ///
    /// It has ended already.
    pub fn drain(&mut self) -> anyhow::Result<()> {
        if let Some(leaver) = self.members.pop() {
            leaver.terminate()?;
            self.leaving.push(leaver);
        }
        Ok(())
    }

    /// Keeps as many of `nodes` as the rule of `larder-cluster up` asks for until `load` ends, and returns what that
    /// returns. A reason for a step must last for `patience`, and the next step rests as long. Says on standard output
    /// what it does, and why.
    ///
    /// The rule goes by the processor time that `used` has counted so far, in seconds: what is busy or idle uses more
    /// or less of so many `processors`.
    ///
    /// # Errors
    ///
    /// A node does not start, or has ended; `used` fails; `load` panics.
    pub async fn follow<T: Send + 'static>(
        &mut self,
        nodes: RangeInclusive<usize>,
        patience: Duration,
        processors: f64,
        used: impl Fn() -> anyhow::Result<f64>,
        load: impl Future<Output = T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let mut rule = Autoscaler::new(Limits {
            min: *nodes.start(),
            max: *nodes.end(),
            up_after: patience,
            down_after: patience,
            rest_after_up: patience,
            rest_after_down: patience,
            ..Limits::default()
        });
        let running = tokio::spawn(load);
        let began = Instant::now();
        let (mut before, mut looked) = (used()?, began);
        while !running.is_finished() {
            tokio::time::sleep(LOOK).await;
            let (now, nodes) = (used()?, self.members.len());
            let cpu = (now - before) / looked.elapsed().as_secs_f64() / processors;
            (before, looked) = (now, Instant::now());
            let decision = rule.decide(began.elapsed(), &scaling::Figures { nodes, cpu, ..Default::default() });
            if decision.wanted == nodes {
                continue;
            }
            println!("  {nodes} -> {} nodes: {}", decision.wanted, decision.reason);
            if decision.wanted > nodes {
                tokio::task::block_in_place(|| self.add())?;
            } else {
                self.drain()?;
            }
        }
        Ok(running.await?)
    }
}

/// Names and values of `stats cluster`.
pub type Figures = BTreeMap<String, String>;

/// Asks a node for its `stats cluster`.
///
/// # Errors
///
/// The node does not answer, or is in no cluster.
pub fn figures(address: &str) -> anyhow::Result<Figures> {
    let ask = || {
        let client = Client::builder().server(address).timeout(PATIENCE).build_blocking()?;
        anyhow::Ok(client.wait(async |client| client.stats("cluster").await))
    };
    // A thread of its own, since a caller may be within a runtime, where a blocking client cannot wait.
    let asked = std::thread::scope(|scope| scope.spawn(ask).join());
    let answers = asked.map_err(|_| anyhow::anyhow!("asking {address} panicked"))??;
    let (_, figures) = answers.into_iter().next().context("a client of one node")?;
    let figures = figures.with_context(|| format!("stats cluster of {address}"))?;
    anyhow::ensure!(figures.contains_key("peer_address"), "{address} is in no cluster");
    Ok(figures)
}

/// Of several nodes, `number` summed over the members that each of them names: commands forwarded, for example.
pub(crate) fn sum_over_members(figures: &Figures, name: &str) -> u64 {
    let ending = format!(":{name}");
    figures.iter().filter(|(key, _)| key.ends_with(&ending)).filter_map(|(_, value)| value.parse::<u64>().ok()).sum()
}

/// Members of a cluster that are active, as one of them reports it.
pub(crate) fn active(figures: &Figures) -> usize {
    figures.iter().filter(|(name, state)| name.ends_with(":state") && *state == "active").count()
}

/// Waits until each of these nodes knows so many active members, and no item is on its way.
///
/// # Errors
///
/// That takes more than two minutes, or a node is in no cluster.
pub(crate) fn settle(addresses: &[String], members: usize) -> anyhow::Result<()> {
    let deadline = Instant::now() + SETTLING;
    for address in addresses {
        loop {
            let figures = figures(address)?;
            if active(&figures) == members && figures.get("settled").is_some_and(|settled| settled == "yes") {
                break;
            }
            if Instant::now() > deadline {
                bail!("the cluster does not settle with {members} members: {figures:?}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    Ok(())
}
