//! A server as a child process: pinned, measured from /proc, and stopped whatever happens.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// How a server is started: memcached's flags, which all of them take.
#[derive(Debug, Clone)]
pub struct Program {
    /// The binary.
    pub path: PathBuf,
    /// Words before the flags.
    pub words: Vec<String>,
    /// Memory for items in MiB.
    pub memory_mebibytes: u64,
    /// Worker threads.
    pub threads: usize,
    /// CPUs to run on.
    pub cpus: Vec<usize>,
}

/// A running server; dropping it stops it.
#[derive(Debug)]
pub struct Server {
    child: Child,
    /// Where it listens.
    pub port: u16,
}

/// How long a server may take until it answers.
const PATIENCE: Duration = Duration::from_secs(10);

impl Program {
    /// Starts it on a free port of 127.0.0.1 and waits until it accepts connections.
    pub fn start(&self) -> anyhow::Result<Server> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let mut command = Command::new(&self.path);
        command.args(&self.words);
        command.args(["-l", "127.0.0.1", "-p", &port.to_string(), "-U", "0", "-c", "16384"]);
        command.args(["-m", &self.memory_mebibytes.to_string(), "-t", &self.threads.to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut server = Server { child: self.spawn(command)?, port };
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            if let Some(status) = server.child.try_wait()? {
                bail!("{} ended at once ({status}); try its flags by hand: -l -p -U -c -m -t", self.path.display());
            }
            if Instant::now() > deadline {
                bail!("{} does not answer on port {port}", self.path.display());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(server)
    }

    /// Starts it on its CPUs: a child inherits those of the thread that starts it.
    fn spawn(&self, mut command: Command) -> anyhow::Result<Child> {
        let before = rustix::thread::sched_getaffinity(None)?;
        let cpus = cpu_set(&self.cpus);
        rustix::thread::sched_setaffinity(None, &cpus).context("--server-cpus: there is no such CPU")?;
        let child = command.spawn();
        rustix::thread::sched_setaffinity(None, &before)?;
        child.with_context(|| format!("cannot start {}", self.path.display()))
    }

    /// What it calls itself: `memcached 1.6.45`.
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

impl Server {
    /// Processor time of all its threads so far, user and system, in seconds.
    ///
    /// From the scheduler's own account in nanoseconds (`/proc/PID/task/*/schedstat`); the ticks of `/proc/PID/stat`,
    /// ten milliseconds each, serve where a kernel keeps none.
    pub fn cpu_seconds(&self) -> anyhow::Result<f64> {
        let process = PathBuf::from(format!("/proc/{}", self.child.id()));
        let mut nanoseconds = 0u64;
        for task in fs::read_dir(process.join("task")).context("the server has gone")? {
            let text = fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
            nanoseconds += text.split(' ').next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
        }
        if nanoseconds > 0 {
            return Ok(nanoseconds as f64 / 1e9);
        }
        let stat = fs::read_to_string(process.join("stat"))?;
        // The program's name stands in brackets and may hold blanks; utime and stime are the 14th and 15th field.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |index: usize| fields.get(index).and_then(|word| word.parse::<f64>().ok()).unwrap_or(0.0);
        let per_second = rustix::param::clock_ticks_per_second() as f64;
        Ok((ticks(11) + ticks(12)) / per_second)
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Resident memory in bytes.
    pub fn resident_bytes(&self) -> anyhow::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("/proc tells no VmRSS")?;
        let kilobytes = line.trim().split(' ').next().and_then(|word| word.parse::<u64>().ok());
        Ok(kilobytes.context("/proc tells no VmRSS")? * 1024)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It has ended already where these fail.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What memcached wants to be told before it runs as root.
pub fn peer_words() -> Vec<String> {
    if rustix::process::geteuid().is_root() { vec!["-u".to_owned(), "root".to_owned()] } else { Vec::new() }
}

/// The node to measure: `larder-node` beside this program, or this program as a node.
pub fn node_beside() -> anyhow::Result<(PathBuf, Vec<String>)> {
    let this = std::env::current_exe().context("this program's own path, to find the node beside it")?;
    let node = this.parent().unwrap_or(Path::new(".")).join("larder-node");
    Ok(if node.exists() { (node, Vec::new()) } else { (this, vec!["node".to_owned()]) })
}
