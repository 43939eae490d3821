//! Starts and stops the real programs for the tests beside this crate.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

/// The README's examples compile.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

pub mod authority;
pub mod exporter;
pub mod fleet;
pub mod history;
pub mod network;
pub mod python;

use larder_bench::process::ServerProcess;

/// The longest time that a program may take to start or to answer, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Returns the path of a program of this workspace. All programs are built first, if they are not up to date: `cargo
/// test` does not build those of other packages, and each one alone would be built with dependencies of its own.
pub fn binary(name: &str) -> PathBuf {
    static BUILT: OnceLock<HashMap<String, PathBuf>> = OnceLock::new();
    BUILT.get_or_init(build).get(name).unwrap_or_else(|| panic!("there is no program {name}")).clone()
}

/// Returns a command of cargo without the variables that describe the package under test. The build script of ring
/// looks at them: every build in a test, and the next one outside, would build ring and all that stands on it anew.
fn cargo() -> Command {
    let mut cargo = Command::new(env!("CARGO"));
    let of_a_package = ["CARGO_PKG_", "CARGO_MANIFEST_"];
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    for name in names.filter(|name| of_a_package.iter().any(|prefix| name.starts_with(prefix))) {
        cargo.env_remove(name);
    }
    cargo
}

fn build() -> HashMap<String, PathBuf> {
    let output = cargo()
        .args(["build", "--quiet", "--message-format=json", "--workspace", "--bins"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "the programs do not build");
    let messages = String::from_utf8_lossy(&output.stdout);
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let programs = messages.filter_map(|message| {
        let executable = message["executable"].as_str()?;
        Some((message["target"]["name"].as_str()?.to_owned(), executable.into()))
    });
    programs.collect()
}

/// Returns a TCP port on loopback that is free now.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("loopback has a free port")
        .port()
}

fn node_command(port: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary("larder-node"));
    command.args(["-t", "2", "-p", port]).args(arguments);
    command
}

/// A memcache server in a process of its own, killed when dropped.
#[derive(Debug)]
pub struct Server(ServerProcess);

impl Server {
    /// Starts a larder-node on a free port, with further arguments.
    pub fn node(arguments: &[&str]) -> Server {
        Server::node_in(&[], arguments)
    }

    /// Starts a larder-node on a free port, with further variables in its environment.
    pub fn node_in(environment: &[(&str, &str)], arguments: &[&str]) -> Server {
        Server::start(node_command("-1", arguments).envs(environment.iter().copied()))
    }

    /// Starts a larder-node on this port.
    pub fn node_on(port: u16, arguments: &[&str]) -> Server {
        Server::start(&mut node_command(&port.to_string(), arguments))
    }

    /// Starts a larder-node on a free port, which writes its log to this file.
    pub fn node_with_log(log: std::fs::File, arguments: &[&str]) -> Server {
        let mut command = node_command("-1", arguments);
        Server(ServerProcess::start(command.stderr(log)).expect("the server starts"))
    }

    /// Starts Debian's memcached as a reference. Returns `None`, and says so on standard error, if it cannot be
    /// installed.
    pub fn memcached(arguments: &[&str]) -> Option<Server> {
        if !installed("memcached", "memcached") {
            eprintln!("SKIPPED: memcached is not installed and could not be installed (apt-get install memcached)");
            return None;
        }
        Some(Server::memcached_at("memcached".as_ref(), arguments))
    }

    /// Starts the memcached at this path.
    pub fn memcached_at(program: &std::path::Path, arguments: &[&str]) -> Server {
        let user = ["-u", "root", "-l", "127.0.0.1", "-U", "0"];
        Server::start(Command::new(program).args(user).args(["-p", "-1"]).args(arguments))
    }

    fn start(command: &mut Command) -> Server {
        Server(ServerProcess::start(command.stderr(Stdio::null())).expect("the server starts"))
    }

    /// The server's first TCP port.
    pub fn port(&self) -> u16 {
        self.0.port()
    }

    /// The server's TCP ports, then its UDP ports, in the order of its command line.
    pub fn ports(&self) -> &[u16] {
        self.0.ports()
    }

    /// The server's address, as `host:port`.
    pub fn address(&self) -> String {
        self.0.address()
    }

    /// The number of the server's process.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Sends the server a signal by name (`STOP`, `CONT`, `TERM`, …).
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.pid().to_string()]).status();
        assert!(status.is_ok_and(|status| status.success()), "kill -{name}");
        if name == "STOP" {
            // Each thread stops when it next enters the kernel.
            let deadline = Instant::now() + PATIENCE;
            while !self.is_stopped() {
                assert!(Instant::now() < deadline, "the server goes on after SIGSTOP");
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    /// Whether all its threads are stopped.
    fn is_stopped(&self) -> bool {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.pid())).into_iter().flatten().flatten();
        threads.map(|thread| std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default()).all(|stat| {
            // The state is the word behind the name, which may hold anything.
            stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
        })
    }

    /// Waits until the server ends by itself. Returns whether its exit status is 0.
    pub fn wait(self) -> bool {
        self.0.wait().expect("it is our child").success()
    }

    /// Opens a connection to the server.
    pub fn connect(&self) -> Connection {
        Connection::over(connect_to(self.port()))
    }
}

/// Whether a program is installed. Tries to install its Debian package if it is not.
pub fn installed(program: &str, package: &str) -> bool {
    // One attempt at a time, and one for each package.
    static TRIED: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let mut tried = TRIED.lock().expect("no test panics while it holds this lock");
    let runs = || Command::new(program).arg("-h").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if runs() || tried.iter().any(|tried| tried == package) {
        return runs();
    }
    tried.push(package.to_owned());
    let apt = |arguments: &[&str]| {
        Command::new("timeout")
            .args(["90", "apt-get", "-qq", "-y"])
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdout(Stdio::null())
            .status()
    };
    let _ = apt(&["update"]);
    let _ = apt(&["install", package]);
    runs()
}

/// The most memory, in KiB, that a process has had so far.
pub fn peak_memory(process: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("it runs, on Linux");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("every process has a peak");
    peak.trim().trim_end_matches(" kB").parse().expect("a number of kB")
}

/// Connects to this port on loopback. Reads of the socket have a time-out.
pub fn connect_to(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out that is not zero");
    stream.set_nodelay(true).expect("TCP");
    stream
}

/// A raw connection, for exchanges byte by byte.
#[derive(Debug)]
pub struct Connection<S: Read = TcpStream>(BufReader<S>);

impl<S: Read + Write> Connection<S> {
    /// A connection over this socket.
    pub fn over(socket: S) -> Self {
        Connection(BufReader::new(socket))
    }

    /// The socket below.
    pub fn socket(&self) -> &S {
        self.0.get_ref()
    }

    /// The socket below, where all that came from it has been read.
    pub fn into_socket(self) -> S {
        assert!(self.0.buffer().is_empty(), "there is more to read");
        self.0.into_inner()
    }

    /// Returns the figure `name` of `stats`; empty if there is none.
    pub fn statistic(&mut self, name: &str) -> String {
        let answer = self.exchange(b"stats\r\n");
        let prefix = format!("STAT {name} ");
        answer.lines().find_map(|line| line.strip_prefix(&prefix)).unwrap_or_default().to_owned()
    }

    /// Sends `bytes` unchanged.
    pub fn send(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).expect("the server reads");
    }

    /// Sends `bytes` followed by a marker command. Returns everything before the marker's answer.
    pub fn exchange(&mut self, bytes: &[u8]) -> String {
        self.send(bytes);
        self.send(b"mn\r\n");
        let mut answer = Vec::new();
        while !answer.ends_with(b"MN\r\n") {
            let read = self.0.read_until(b'\n', &mut answer).expect("the server answers in time");
            assert!(read > 0, "the server closed after {:?}", String::from_utf8_lossy(&answer));
        }
        answer.truncate(answer.len() - 4);
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// Reads a line with its end; empty if the server has closed the connection.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        // A reset counts as a close.
        let _ = self.0.read_line(&mut line);
        line
    }

    /// Reads `len` bytes.
    pub fn read(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.0.read_exact(&mut bytes).expect("the server answers in time");
        bytes
    }

    /// Reads until the server closes the connection.
    ///
    /// # Errors
    ///
    /// The connection is reset.
    pub fn try_read_to_end(&mut self) -> std::io::Result<Vec<u8>> {
        let mut rest = Vec::new();
        self.0.read_to_end(&mut rest).map(|_| rest)
    }

    /// Reads until the server closes or resets the connection.
    pub fn read_to_end(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        // A reset is a close too.
        let _ = self.0.read_to_end(&mut rest);
        rest
    }
}
