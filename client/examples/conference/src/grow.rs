//! The demo's nodes: one cluster, which follows the load of the application's instances.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context;
use larder_bench::process::{ServerProcess, cpu_seconds_of};
use larder_client::Client;
use larder_node::cluster::{Autoscaler, Figures, Limits};

use crate::load;

/// Fewest nodes.
const NODES: usize = 3;

/// Between looks at the instances.
const LOOK: Duration = Duration::from_millis(500);

/// Cache nodes of one cluster on this machine.
pub(crate) struct Cluster {
    members: Vec<ServerProcess>,
    /// A node that hands on its items, and forwards for a while.
    leaving: Vec<ServerProcess>,
    seed: Option<String>,
}

impl Cluster {
    pub(crate) async fn start(program: &Path) -> anyhow::Result<Cluster> {
        let mut cluster = Cluster { members: Vec::new(), leaving: Vec::new(), seed: None };
        for _ in 0..NODES {
            cluster.add(program)?;
            if cluster.seed.is_none() {
                let founder = Client::builder().server(cluster.members[0].address()).build()?;
                let mut answers = founder.stats("cluster").await;
                let figures = answers.pop().context("a client of one node")?.1?;
                cluster.seed = figures.get("peer_address").cloned();
            }
        }
        Ok(cluster)
    }

    pub(crate) fn servers(&self) -> String {
        self.members.iter().map(ServerProcess::address).collect::<Vec<_>>().join(",")
    }

    fn add(&mut self, program: &Path) -> anyhow::Result<()> {
        let mut command = Command::new(program);
        command.args(["node", "-p", "-1", "-m", "64", "-t", "1", "--cluster", "conference"]);
        command.args(["--cluster-listen", "127.0.0.1:0", "--linger", "2"]);
        if let Some(seed) = &self.seed {
            command.args(["--seeds", seed]);
        }
        self.members.push(ServerProcess::start(command.env("RUST_LOG", "off"))?);
        Ok(())
    }

    /// Puts load on the instances, in processes of these numbers, and meanwhile adds or drains a node by the rule of
    /// `larder-cluster up`. What is busy or idle are the instances: the application's load decides, not the nodes' own.
    pub(crate) async fn follow(
        &mut self,
        program: &Path,
        instances: &[u32],
        load: load::Options,
    ) -> anyhow::Result<load::Report> {
        let after = Duration::from_secs(2);
        let mut rule = Autoscaler::new(Limits {
            min: NODES,
            max: NODES + 1,
            worth: None,
            up_after: after,
            down_after: after,
            rest_after_up: after,
            rest_after_down: after,
            ..Limits::default()
        });
        let used = || instances.iter().map(|instance| cpu_seconds_of(*instance)).sum::<anyhow::Result<f64>>();
        // The load itself and the nodes use the rest of this machine.
        let share = std::thread::available_parallelism()?.get() as f64 / 2.0;
        let running = tokio::spawn(async move { load::run(&load).await });
        let (began, mut before, mut looked) = (Instant::now(), used()?, Instant::now());
        while !running.is_finished() {
            tokio::time::sleep(LOOK).await;
            let (now, time) = (used()?, looked.elapsed());
            let figures = Figures {
                nodes: self.members.len(),
                cpu: (now - before) / time.as_secs_f64() / share,
                ..Figures::default()
            };
            (before, looked) = (now, Instant::now());
            let decision = rule.decide(began.elapsed(), &figures);
            if decision.wanted == figures.nodes {
                continue;
            }
            println!("  {} -> {} nodes: {}", figures.nodes, decision.wanted, decision.reason);
            if decision.wanted > figures.nodes {
                tokio::task::block_in_place(|| self.add(program))?;
            } else if let Some(leaver) = self.members.pop() {
                leaver.terminate()?;
                self.leaving.push(leaver);
            }
        }
        running.await?
    }

    /// How many nodes there are.
    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }
}
