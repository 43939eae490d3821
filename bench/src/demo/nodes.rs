//! The demo's nodes: real processes on free ports, ended whatever happens.

use std::process::Command;

use anyhow::{Context, Result};

use crate::process::ServerProcess;

/// A node that can be killed and started again on the same port.
#[derive(Debug)]
pub(super) struct Node {
    process: Option<ServerProcess>,
    port: u16,
}

impl Node {
    /// Starts a node on a free port.
    pub(super) fn start() -> Result<Node> {
        let process = spawn("-1")?;
        Ok(Node { port: process.port(), process: Some(process) })
    }

    /// Starts a killed node again on its port, empty, and waits until it listens.
    pub(super) fn restart(&mut self) -> Result<()> {
        self.process = Some(spawn(&self.port.to_string())?);
        Ok(())
    }

    /// Kills the node, as a machine that loses power would.
    pub(super) fn kill(&mut self) {
        self.process = None;
    }

    /// The node's address, as `host:port`.
    pub(super) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

fn spawn(port: &str) -> Result<ServerProcess> {
    let program = std::env::current_exe().context("this program's own path, to start nodes from it")?;
    let mut command = Command::new(program);
    command.args(["node", "-t", "1", "-m", "64", "-p", port]);
    // A node's warnings (of serving as root, say) are for its operator, and would stand in the demo's progress.
    ServerProcess::start(command.env("RUST_LOG", "error"))
}
