//! The background (`-d`): the process that was started waits until the node serves, so that a failed start is seen.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Write};

use daemonize::{Daemonize, Outcome, Stdio};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{dup2_stderr, dup2_stdout};

/// The two processes that [`enter`] makes of one.
pub(crate) enum Side {
    /// The process that was started. It ends when the node serves.
    Foreground(Node),
    /// The node.
    Background(Starter),
}

/// The node, as the process that was started sees it.
pub(crate) struct Node(PipeReader);

impl Node {
    /// Waits until the node serves. Returns whether it does; a node that does not has said why.
    pub(crate) fn serves(mut self) -> bool {
        self.0.read_exact(&mut [0]).is_ok()
    }
}

/// The process that was started, as the node sees it.
pub(crate) struct Starter(PipeWriter);

impl Starter {
    /// Lets that process end, and the terminal go: standard output, and the log unless it is kept.
    pub(crate) fn release(mut self, keep_log: bool) -> io::Result<()> {
        let nowhere = File::options().write(true).open("/dev/null")?;
        dup2_stdout(&nowhere)?;
        // An error is ignored: the process has been ended, and the node serves.
        let _ = self.0.write_all(&[1]);
        if !keep_log {
            dup2_stderr(&nowhere)?;
        }
        Ok(())
    }
}

/// Forks into the background. It is called before any thread is started.
pub(crate) fn enter() -> io::Result<Side> {
    let (reader, writer) = io::pipe()?;
    let mask = umask(Mode::empty());
    umask(mask);
    let daemon = Daemonize::new().working_directory(".").umask(mask.bits());
    match daemon.stdout(Stdio::keep()).stderr(Stdio::keep()).execute() {
        Outcome::Parent(forked) => forked.map(|_| Side::Foreground(Node(reader))).map_err(io::Error::other),
        Outcome::Child(forked) => forked.map(|_| Side::Background(Starter(writer))).map_err(io::Error::other),
    }
}
