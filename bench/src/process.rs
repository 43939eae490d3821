//! Server processes for benchmarks, the demo and tests: each picks its own port, is measured from `/proc`, and ends
//! with its owner.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// How long a server may take until it listens, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server in a process of its own. Dropping the value kills the process.
#[derive(Debug)]
pub struct ServerProcess {
    child: Child,
    ports: Vec<u16>,
}

impl ServerProcess {
    /// Starts `command` and waits until the server listens on TCP over IPv4.
    ///
    /// The arguments let the server pick a free port (`-p -1`): a port chosen beforehand could be taken by another
    /// process in between. memcached and larder-node then write their ports to the file that the variable
    /// `MEMCACHED_PORT_FILENAME` names, and this function reads it.
    ///
    /// Standard output is discarded. Standard input is a pipe that stays open as long as the value lives, for servers
    /// that end with it ([`end_with_parent`]).
    ///
    /// # Errors
    ///
    /// The program cannot be started, ends before it listens, or does not listen within 20 seconds.
    pub fn start(command: &mut Command) -> anyhow::Result<ServerProcess> {
        let program = PathBuf::from(command.get_program());
        // A node reads settings from such variables, and those of this process are not meant for it.
        let given: Vec<_> = command.get_envs().map(|(name, _)| name.to_owned()).collect();
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("LARDER_")) && !given.contains(&name) {
                command.env_remove(name);
            }
        }
        let folder = tempfile::tempdir().context("a folder for the file that names the server's ports")?;
        // A server that leaves root writes the file as another user.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o733))?;
        let file = folder.path().join("ports");
        command.env("MEMCACHED_PORT_FILENAME", &file).stdin(Stdio::piped()).stdout(Stdio::null());
        let child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
        let mut server = ServerProcess { child, ports: Vec::new() };
        let deadline = Instant::now() + PATIENCE;
        loop {
            server.ports = read_ports(&fs::read_to_string(&file).unwrap_or_default());
            if !server.ports.is_empty() {
                return Ok(server);
            }
            if let Some(status) = server.child.try_wait()? {
                bail!("{} ended before it listened ({status})", program.display());
            }
            if Instant::now() > deadline {
                bail!("{} does not name a port in the file of MEMCACHED_PORT_FILENAME", program.display());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Starts a program that prints `listening on http://127.0.0.1:PORT` once it does, and reads that line.
    ///
    /// # Errors
    ///
    /// The program cannot be started, or its first line is another one.
    pub fn start_announced(command: &mut Command) -> anyhow::Result<ServerProcess> {
        let program = PathBuf::from(command.get_program());
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let child = child.with_context(|| format!("cannot start {}", program.display()))?;
        let mut server = ServerProcess { child, ports: Vec::new() };
        let mut line = String::new();
        let output = server.child.stdout.take().context("standard output is a pipe")?;
        BufReader::new(output).read_line(&mut line)?;
        let port = line.trim_end().strip_prefix("listening on http://127.0.0.1:").and_then(|port| port.parse().ok());
        server.ports.push(port.with_context(|| format!("{} does not say where it listens", program.display()))?);
        Ok(server)
    }

    /// The first TCP port.
    pub fn port(&self) -> u16 {
        self.ports[0]
    }

    /// The TCP ports, then the UDP ports, each in the order of the command line.
    pub fn ports(&self) -> &[u16] {
        &self.ports
    }

    /// The address of the first TCP port on loopback, as `host:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port())
    }

    /// The URL of the first TCP port, for a server that speaks HTTP.
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// The process's number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Asks the process to end (SIGTERM).
    ///
    /// # Errors
    ///
    /// The process has ended.
    pub fn terminate(&self) -> anyhow::Result<()> {
        let pid = rustix::process::Pid::from_child(&self.child);
        Ok(rustix::process::kill_process(pid, rustix::process::Signal::TERM)?)
    }

    /// Waits until the process ends by itself.
    pub fn wait(mut self) -> std::io::Result<ExitStatus> {
        // `Child::wait` closes it, which would end a server that ends with it.
        let _input = self.child.stdin.take();
        self.child.wait()
    }

    /// Processor time of all its threads so far; see [`cpu_seconds_of`].
    ///
    /// # Errors
    ///
    /// The process has ended.
    pub fn cpu_seconds(&self) -> anyhow::Result<f64> {
        cpu_seconds_of(self.child.id())
    }

    /// Resident memory in bytes.
    ///
    /// # Errors
    ///
    /// The process has ended.
    pub fn resident_bytes(&self) -> anyhow::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("/proc has no VmRSS")?;
        let kilobytes = line.trim().split(' ').next().and_then(|word| word.parse::<u64>().ok());
        Ok(kilobytes.context("/proc has no VmRSS")? * 1024)
    }
}

/// Returns the processor time of all threads of a process so far, user and system, in seconds.
///
/// From the scheduler's own account in nanoseconds (`/proc/PID/task/*/schedstat`); the ticks of `/proc/PID/stat`, ten
/// milliseconds each, serve where a kernel keeps none.
///
/// # Errors
///
/// The process has ended.
pub fn cpu_seconds_of(process: u32) -> anyhow::Result<f64> {
    let process = PathBuf::from(format!("/proc/{process}"));
    let mut nanoseconds = 0u64;
    for task in fs::read_dir(process.join("task")).context("the process has ended")? {
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

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // Both fail where the process has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The IPv4 ports in a file that a server wrote: a line is `TCP INET: 11211`.
fn read_ports(text: &str) -> Vec<u16> {
    let port = |line: &str| line.strip_prefix("TCP INET: ").or(line.strip_prefix("UDP INET: "))?.parse().ok();
    text.lines().filter_map(port).collect()
}

/// Ends this process when its standard input ends, and so with the process that holds the other end of the pipe, even
/// where that one was killed.
pub fn end_with_parent() {
    std::thread::spawn(|| {
        let mut rest = Vec::new();
        let _ = std::io::Read::read_to_end(&mut std::io::stdin(), &mut rest);
        std::process::exit(0);
    });
}
