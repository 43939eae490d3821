//! The demo's nodes: one cluster, which follows the load of the application's instances.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use larder_bench::cluster::figures;
use larder_bench::process::{ServerProcess, cpu_seconds_of};
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
}

impl Cluster {
    pub(crate) fn start(program: &Path) -> anyhow::Result<Cluster> {
        let mut cluster = Cluster { members: Vec::new(), leaving: Vec::new() };
        for _ in 0..NODES {
            cluster.add(program)?;
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
        if let Some(first) = self.members.first() {
            command.args(["--seeds", &figures(&first.address())?["peer_address"]]);
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
            let looked_at = Figures {
                nodes: self.members.len(),
                cpu: (now - before) / time.as_secs_f64() / share,
                ..Figures::default()
            };
            (before, looked) = (now, Instant::now());
            let decision = rule.decide(began.elapsed(), &looked_at);
            if decision.wanted == looked_at.nodes {
                continue;
            }
            println!("  {} -> {} nodes: {}", looked_at.nodes, decision.wanted, decision.reason);
            if decision.wanted > looked_at.nodes {
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
