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
use crate::process::ServerProcess;

/// A node, behind a link for readers and one for writers and invalidators. It comes back on another port, and the links
/// stay.
pub(super) struct Node {
    process: Option<ServerProcess>,
    target: Arc<Mutex<String>>,
    pub(super) readers: Link,
    pub(super) writers: Link,
}

impl Node {
    pub(super) async fn start(program: &Path) -> Result<Node> {
        let process = spawn_node(program)?;
        let target = Arc::new(Mutex::new(process.address()));
        let (readers, writers) = (Link::to(target.clone()).await?, Link::to(target.clone()).await?);
        Ok(Node { process: Some(process), target, readers, writers })
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

fn spawn_node(program: &Path) -> Result<ServerProcess> {
    let mut command = Command::new(program);
    ServerProcess::start(command.args(["node", "-t", "1", "-m", "16", "-p", "-1"]).env("RUST_LOG", "error"))
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
pub(super) const FAULTS: [&str; 13] = [
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
];

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
            (random.random_range(0..FAULTS.len()), random.random_range(0..self.nodes.len()), pause, hang)
        };
        tokio::time::sleep(pause).await;
        let node = &mut self.nodes[which];
        match what {
            0 => {
                node.process = None;
                tokio::time::sleep(hang / 4).await;
                let process = tokio::task::block_in_place(|| spawn_node(self.program))?;
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
            _ => datastore(Datastore::Hold(hang)).await?,
        }
        self.counts[what] += 1;
        Ok(())
    }
}
