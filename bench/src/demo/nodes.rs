//! The demo's nodes: real processes on free ports, ended whatever happens.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// A node's process. It ends when this is dropped, and by itself when this program dies: it reads a pipe that only
/// this program holds open.
#[derive(Debug)]
pub(super) struct NodeProcess {
    child: Option<Child>,
    port: u16,
}

impl NodeProcess {
    /// Starts a node on a free port.
    pub(super) fn start() -> Result<NodeProcess> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let mut node = NodeProcess { child: None, port };
        node.restart()?;
        Ok(node)
    }

    /// Starts it (again) on its port, empty, and waits until it listens.
    pub(super) fn restart(&mut self) -> Result<()> {
        let program = std::env::current_exe().context("this program's own path, to start nodes from it")?;
        let child = Command::new(program)
            .args(["node", "-t", "1", "-m", "64", "-p", &self.port.to_string()])
            // Warnings (of serving as root, say) are for who runs a node, and would stand in the demo's progress.
            .env("RUST_LOG", "error")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .context("starting a node")?;
        let child = self.child.insert(child);
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))).is_err() {
            if let Some(status) = child.try_wait()? {
                bail!("the node on port {} ended at once: {status}", self.port);
            }
            if Instant::now() > deadline {
                bail!("the node on port {} does not listen", self.port);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Kills it, as a machine that loses power would.
    pub(super) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub(super) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Ends this process when its standard input does: what a node started by the demo does.
pub fn end_with_parent() {
    std::thread::spawn(|| {
        let mut rest = Vec::new();
        let _ = std::io::Read::read_to_end(&mut std::io::stdin(), &mut rest);
        std::process::exit(0);
    });
}
