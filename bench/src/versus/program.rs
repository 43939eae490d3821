//! The servers that are compared: memcached's flags, pinned to CPUs.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context;

use crate::cluster::{figures, settle};
use crate::process::ServerProcess;

/// How a server is started. All servers of a comparison take memcached's flags.
#[derive(Debug, Clone)]
pub struct Program {
    /// The binary.
    pub path: PathBuf,
    /// Arguments before the flags.
    pub words: Vec<String>,
    /// Memory for items in MiB.
    pub memory_mebibytes: u64,
    /// Worker threads.
    pub threads: usize,
    /// CPUs to run on.
    pub cpus: Vec<usize>,
    /// How many of them are started.
    pub nodes: u16,
    /// Whether they are in one cluster.
    pub clustered: bool,
}

impl Program {
    /// Starts all servers, and waits until a cluster is settled.
    ///
    /// # Errors
    ///
    /// As of [`Program::start`]; or the cluster does not settle.
    pub(super) fn start_all(&self) -> anyhow::Result<Vec<ServerProcess>> {
        let mut servers: Vec<ServerProcess> = Vec::new();
        for _ in 0..self.nodes {
            let mut words = Vec::new();
            if self.clustered {
                words.extend(["--cluster", "versus", "--cluster-listen", "127.0.0.1:0"].map(str::to_owned));
                if let Some(first) = servers.first() {
                    words.extend(["--seeds".to_owned(), figures(&first.address())?["peer_address"].clone()]);
                }
            }
            servers.push(self.start_with(&words)?);
        }
        if self.clustered {
            let addresses: Vec<String> = servers.iter().map(ServerProcess::address).collect();
            settle(&addresses, servers.len())?;
        }
        Ok(servers)
    }

    /// Starts one server on a free port of 127.0.0.1 and on its CPUs, in no cluster.
    ///
    /// # Errors
    ///
    /// A CPU does not exist, or the server does not start ([`ServerProcess::start`]).
    pub fn start(&self) -> anyhow::Result<ServerProcess> {
        self.start_with(&[])
    }

    fn start_with(&self, more: &[String]) -> anyhow::Result<ServerProcess> {
        let mut command = Command::new(&self.path);
        command.args(&self.words);
        command.args(["-l", "127.0.0.1", "-p", "-1", "-U", "0", "-c", "16384"]);
        command.args(["-m", &self.memory_mebibytes.to_string(), "-t", &self.threads.to_string()]).args(more);
        // A child inherits the CPUs of the thread that starts it.
        let before = rustix::thread::sched_getaffinity(None)?;
        let cpus = cpu_set(&self.cpus);
        rustix::thread::sched_setaffinity(None, &cpus).context("--server-cpus: there is no such CPU")?;
        let server = ServerProcess::start(command.stderr(Stdio::null()));
        rustix::thread::sched_setaffinity(None, &before)?;
        server.with_context(|| format!("{}: try its flags by hand: -l -p -U -c -m -t", self.path.display()))
    }

    /// Returns name and version as the program prints them: `memcached 1.6.45`.
    pub fn version(&self) -> String {
        let output = Command::new(&self.path).args(&self.words).arg("-V").output();
        let text = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        if text.is_empty() { name.into_owned() } else { text }
    }
}

fn cpu_set(cpus: &[usize]) -> rustix::thread::CpuSet {
    let mut set = rustix::thread::CpuSet::new();
    cpus.iter().for_each(|&cpu| set.set(cpu));
    set
}

/// Returns the flags that memcached demands before it runs as root.
pub fn peer_words() -> Vec<String> {
    if rustix::process::geteuid().is_root() { vec!["-u".to_owned(), "root".to_owned()] } else { Vec::new() }
}

/// Returns the node to measure and its first arguments: `larder-node` beside this program, or this program as a node.
pub(super) fn node_beside() -> anyhow::Result<(PathBuf, Vec<String>)> {
    let this = std::env::current_exe().context("this program's own path, to find the node beside it")?;
    let node = this.parent().unwrap_or(Path::new(".")).join("larder-node");
    Ok(if node.exists() { (node, Vec::new()) } else { (this, vec!["node".to_owned()]) })
}
