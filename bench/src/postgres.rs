//! A PostgreSQL server of one's own, in a temporary folder: for tests and benchmarks.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::unistd::User;

/// How long it may take until the server accepts connections, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server, which ends with this value.
#[derive(Debug)]
pub struct Postgres {
    server: Child,
    port: u16,
    folder: tempfile::TempDir,
    programs: PathBuf,
}

impl Postgres {
    /// Starts a server on loopback. Returns `None`, and says so on standard error, if its programs are not installed.
    /// With `durable` a commit waits for the disk, as PostgreSQL does by default; without, tests are quicker.
    ///
    /// PostgreSQL refuses to run as root: then it runs as the user `postgres`.
    ///
    /// # Errors
    /// It is installed, and does not start.
    pub fn start(durable: bool) -> anyhow::Result<Option<Postgres>> {
        let Some(programs) = programs() else { return Ok(None) };
        let folder = tempfile::tempdir()?;
        let user = if nix::unistd::geteuid().is_root() {
            let Some(user) = User::from_name("postgres")? else {
                eprintln!("SKIPPED: PostgreSQL does not run as root, and there is no user postgres to run it as");
                return Ok(None);
            };
            chown(folder.path(), Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
            Some(user)
        } else {
            None
        };
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700))?;
        let data = folder.path().join("data");
        let command = |program: &str| {
            let mut command = Command::new(programs.join(program));
            command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null());
            if let Some(user) = &user {
                command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
            }
            command
        };
        let made = command("initdb")
            .args(["--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C", "-D"])
            .arg(&data)
            .stderr(Stdio::piped())
            .output()?;
        if !made.status.success() {
            bail!("initdb: {}", String::from_utf8_lossy(&made.stderr));
        }
        // Its log would fill a pipe that nobody reads.
        let log = fs::File::create(folder.path().join("log"))?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let durable = if durable { "on" } else { "off" };
        let server = command("postgres")
            .args(["-h", "127.0.0.1", "-p", &port.to_string(), "-k"])
            .arg(folder.path())
            .args(["-c", &format!("fsync={durable}"), "-c", "max_connections=200", "-D"])
            .arg(&data)
            .stderr(log)
            .spawn()
            .context("postgres cannot be started")?;
        let mut postgres = Postgres { server, port, folder, programs };
        let deadline = Instant::now() + PATIENCE;
        while postgres.psql("select 1").is_err() {
            if let Some(status) = postgres.server.try_wait()? {
                let log = fs::read_to_string(postgres.folder.path().join("log")).unwrap_or_default();
                bail!("postgres ended at once ({status}): {log}");
            }
            if Instant::now() > deadline {
                bail!("postgres accepts no connections");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(Some(postgres))
    }

    /// The URL of its database `postgres`.
    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// The process's number.
    pub fn id(&self) -> u32 {
        self.server.id()
    }

    /// The numbers of all its processes that there are now.
    pub fn processes(&self) -> Vec<i32> {
        let server = self.server.id() as i32;
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        // The parent's number is the second field behind the name, which stands in brackets and may hold blanks.
        let parent = |number: &i32| -> Option<i32> {
            let stat = fs::read_to_string(format!("/proc/{number}/stat")).ok()?;
            stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()
        };
        numbers.filter(|number| *number == server || parent(number) == Some(server)).collect()
    }

    /// Runs a statement in `psql`, as an operator does.
    ///
    /// # Errors
    /// The statement fails.
    pub fn psql(&self, sql: &str) -> anyhow::Result<()> {
        let ran = Command::new(self.programs.join("psql"))
            .args(["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", &self.url(), "-c", sql])
            .stdin(Stdio::null())
            .output()?;
        if !ran.status.success() {
            bail!("psql: {}", String::from_utf8_lossy(&ran.stderr));
        }
        Ok(())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // Its children end with it; an immediate shutdown, as after a crash.
        let pid = nix::unistd::Pid::from_raw(self.server.id() as i32);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGQUIT);
        let _ = self.server.wait();
    }
}

/// Whether its programs are there; says so on standard error if they are not.
pub fn is_installed() -> bool {
    programs().is_some()
}

/// The folder of PostgreSQL's programs: where PATH or Debian has them. Says so on standard error if there is none.
fn programs() -> Option<PathBuf> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut debian: Vec<PathBuf> = versions.map(|version| version.path().join("bin")).collect();
    debian.sort();
    let has_all = |folder: &Path| ["initdb", "postgres", "psql"].iter().all(|program| folder.join(program).exists());
    let found = std::env::split_paths(&paths).chain(debian.into_iter().rev()).find(|folder| has_all(folder));
    if found.is_none() {
        eprintln!("SKIPPED: PostgreSQL is not installed: no initdb in PATH or in /usr/lib/postgresql");
    }
    found
}
