//! The nodes and processes of a run, and what goes wrong with them.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::future::join_all;
use larder_client::Client;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use parking_lot::Mutex;
use rand::RngExt;
use tokio::process::Child;

use super::link::{Link, Passage};
use crate::cluster::{figures, settle};
use crate::process::ServerProcess;

/// A node, behind a link for readers and one for writers and invalidators. It comes back on another port, and the links
/// stay.
pub(super) struct Node {
    process: Option<ServerProcess>,
    target: Arc<Mutex<String>>,
    pub(super) readers: Link,
    pub(super) writers: Link,
    /// Its name in the cluster and where other members reach it, if it is in one.
    member: Option<(String, String)>,
}

impl Node {
    /// Starts a node, in a cluster with `others` where `clustered`.
    pub(super) async fn start(program: &Path, clustered: bool, others: &[Node]) -> Result<Node> {
        let name = format!("node-{}", others.len());
        let further = if clustered { membership(&name, "127.0.0.1:0", others.iter()) } else { Vec::new() };
        let process = spawn_node(program, &further)?;
        let member = match clustered {
            true => Some((name, figures(&process.address())?.remove("peer_address").context("a member's address")?)),
            false => None,
        };
        let target = Arc::new(Mutex::new(process.address()));
        let (readers, writers) = (Link::to(target.clone()).await?, Link::to(target.clone()).await?);
        Ok(Node { process: Some(process), target, readers, writers, member })
    }

    pub(super) fn address(&self) -> String {
        self.target.lock().clone()
    }

    fn signal(&self, signal: Signal) {
        if let Some(process) = &self.process {
            let _ = kill(Pid::from_raw(process.id() as i32), signal);
        }
    }
}

fn spawn_node(program: &Path, further: &[String]) -> Result<ServerProcess> {
    let mut command = Command::new(program);
    command.args(["node", "-t", "1", "-m", "16", "-p", "-1"]).args(further);
    ServerProcess::start(command.env("RUST_LOG", "error"))
}

/// The flags of a member of the cluster of these other nodes.
fn membership<'a>(name: &str, listen: &str, others: impl Iterator<Item = &'a Node>) -> Vec<String> {
    let mut flags = vec!["--cluster", "coherence", "--linger", "1", "--node-id", name, "--cluster-listen", listen];
    let seeds: Vec<&str> = others.filter_map(|node| Some(&*node.member.as_ref()?.1)).collect();
    let seeds = seeds.join(",");
    if !seeds.is_empty() {
        flags.extend(["--seeds", &seeds]);
    }
    flags.into_iter().map(str::to_owned).collect()
}

/// Starts a process of a role.
pub(super) fn spawn(program: &Path, arguments: &[String]) -> Result<Child> {
    let mut command = tokio::process::Command::new(program);
    command.arg("coherence-role").args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    command.spawn().context("this program's own path, to start processes from it")
}

/// Processes that are started again when they end.
#[derive(Default)]
pub(super) struct Kept(Mutex<Vec<(Child, Vec<String>)>>);

impl Kept {
    pub(super) fn add(&self, program: &Path, arguments: Vec<String>) -> Result<()> {
        self.0.lock().push((spawn(program, &arguments)?, arguments));
        Ok(())
    }

    /// For as long as it is polled.
    pub(super) async fn keep(&self, program: &Path) -> Result<()> {
        loop {
            for (child, arguments) in self.0.lock().iter_mut() {
                if child.try_wait()?.is_some() {
                    *child = spawn(program, arguments)?;
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The number of one of them, if it lives.
    fn any(&self) -> Option<u32> {
        let children = self.0.lock();
        let place = rand::rng().random_range(0..children.len().max(1));
        children.get(place)?.0.id()
    }

    /// Sends a signal to the process of this number, if it is still one of these.
    fn signal(&self, number: u32, signal: Signal) {
        if self.0.lock().iter().any(|(child, _)| child.id() == Some(number)) {
            let _ = kill(Pid::from_raw(number as i32), signal);
        }
    }

    /// Kills all of them.
    pub(super) async fn end(&self) -> Result<()> {
        let children = std::mem::take(&mut *self.0.lock());
        for (mut child, _) in children {
            child.kill().await?;
        }
        Ok(())
    }
}

/// What goes wrong. The names are what a report says of them.
pub(super) const FAULTS: [&str; 14] = [
    "nodes killed and restarted",
    "nodes frozen",
    "nodes flushed",
    "nodes made to evict",
    "nodes given up",
    "links of readers cut",
    "links of writers cut",
    "links of readers held",
    "links of writers held",
    "invalidators killed",
    "invalidators frozen",
    "writers frozen",
    "datastore held",
    "nodes joined and drained",
];

/// The only one of them that needs a cluster.
const RESIZE: usize = FAULTS.len() - 1;

/// Everything that can go wrong in a run.
pub(super) struct Fleet<'a> {
    pub(super) program: &'a Path,
    pub(super) nodes: Vec<Node>,
    pub(super) writers: &'a Kept,
    pub(super) sweepers: &'a Kept,
    /// How often each of [`FAULTS`] was.
    pub(super) counts: [u64; FAULTS.len()],
}

/// A fault that needs the datastore.
pub(super) enum Datastore {
    /// Stop it for so long.
    Hold(Duration),
    /// Keep rows for this node no longer.
    GiveUp(String),
}

impl Fleet<'_> {
    /// Lets the next thing go wrong, and mends it. `datastore` carries out what needs SQL.
    pub(super) async fn fail(&mut self, datastore: impl AsyncFn(Datastore) -> Result<()>) -> Result<()> {
        let (what, which, pause, hang) = {
            let mut random = rand::rng();
            let pause = Duration::from_millis(random.random_range(50..800));
            let hang = Duration::from_millis(random.random_range(100..2500));
            let faults = if self.nodes[0].member.is_some() { FAULTS.len() } else { RESIZE };
            (random.random_range(0..faults), random.random_range(0..self.nodes.len()), pause, hang)
        };
        tokio::time::sleep(pause).await;
        let again = match &self.nodes[which].member {
            Some((name, peer)) => {
                let others = self.nodes.iter().enumerate().filter(|(at, _)| *at != which);
                membership(name, peer, others.map(|(_, node)| node))
            }
            None => Vec::new(),
        };
        let node = &mut self.nodes[which];
        match what {
            0 => {
                node.process = None;
                tokio::time::sleep(hang / 4).await;
                let process = tokio::task::block_in_place(|| spawn_node(self.program, &again))?;
                *node.target.lock() = process.address();
                node.process = Some(process);
            }
            1 => {
                node.signal(Signal::SIGSTOP);
                tokio::time::sleep(hang).await;
                node.signal(Signal::SIGCONT);
            }
            2 => _ = Client::builder().server(node.address()).build()?.flush_all().await,
            3 => {
                let client = Client::builder().server(node.address()).build()?;
                let junk = vec![b'x'; 10_000];
                for number in 0..40 {
                    let sets = (0..50).map(|set| client.set(format!("junk:{number}:{set}"), &junk, Duration::ZERO));
                    join_all(sets.collect::<Vec<_>>()).await;
                }
            }
            4 => {
                // As a node that was away for longer than rows are kept.
                node.writers.set(Passage::Cut);
                datastore(Datastore::GiveUp(node.writers.address().to_owned())).await?;
                tokio::time::sleep(hang).await;
                node.writers.set(Passage::Open);
            }
            5 | 6 => {
                let link = if what == 5 { &node.readers } else { &node.writers };
                link.set(Passage::Cut);
                tokio::time::sleep(hang).await;
                link.set(Passage::Open);
            }
            7 | 8 => {
                let link = if what == 7 { &node.readers } else { &node.writers };
                link.set(Passage::Held);
                tokio::time::sleep(hang).await;
                link.set(Passage::Open);
            }
            9 => {
                if let Some(number) = self.sweepers.any() {
                    self.sweepers.signal(number, Signal::SIGKILL);
                }
            }
            10 | 11 => {
                let kept = if what == 10 { self.sweepers } else { self.writers };
                if let Some(number) = kept.any() {
                    kept.signal(number, Signal::SIGSTOP);
                    tokio::time::sleep(hang).await;
                    kept.signal(number, Signal::SIGCONT);
                }
            }
            RESIZE => {
                // No client learns of it: its keys are reached through the other nodes.
                let further = membership("joiner", "127.0.0.1:0", self.nodes.iter());
                let joiner = tokio::task::block_in_place(|| {
                    let joiner = spawn_node(self.program, &further)?;
                    settle(&[joiner.address()], self.nodes.len() + 1)?;
                    anyhow::Ok(joiner)
                })?;
                tokio::time::sleep(hang).await;
                joiner.terminate()?;
                tokio::task::block_in_place(|| joiner.wait())?;
            }
            _ => datastore(Datastore::Hold(hang)).await?,
        }
        self.counts[what] += 1;
        Ok(())
    }
}
