//! What a daemon does before it serves: leaves the terminal, limits, memory, its user and its pid file.

use std::io;

use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use nix::sys::signal::kill;
use nix::unistd::{Pid, Uid, User, daemon, setgid, setgroups, setuid};

use crate::settings::Settings;

/// Descriptors wanted beside one for each connection.
pub(crate) const RESERVED_DESCRIPTORS: u64 = 64;

fn in_words(what: impl std::fmt::Display, error: impl std::fmt::Display) -> io::Error {
    io::Error::other(format!("{what}: {error}"))
}

/// Before any thread is started: forks into the background (`-d`) and raises limits.
pub(crate) fn prepare(settings: &Settings) -> io::Result<()> {
    if settings.daemon {
        // Who asked for more log sees it: the terminal stays.
        daemon(true, settings.verbosity > 0).map_err(|error| in_words("going into the background (-d)", error))?;
    }
    if settings.core_dumps {
        let (_, hard) = getrlimit(Resource::RLIMIT_CORE)?;
        setrlimit(Resource::RLIMIT_CORE, hard, hard).map_err(|error| in_words("allowing core dumps (-r)", error))?;
    }
    let wanted = u64::from(settings.max_connections) + RESERVED_DESCRIPTORS;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < wanted && setrlimit(Resource::RLIMIT_NOFILE, wanted, hard.max(wanted)).is_err() {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        tracing::warn!("{hard} files may be open (ulimit -n): fewer than the {wanted} that -c may need");
    }
    if settings.lock_memory {
        // A limit would hold again once root is left.
        let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
        if let Err(error) = mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE) {
            tracing::warn!("memory is not locked (-k), try a larger ulimit -l: {error}");
        }
    }
    Ok(())
}

/// Becomes the user of `-u`, where root started the process.
pub(crate) fn leave_root(settings: &Settings) -> io::Result<()> {
    if !Uid::effective().is_root() {
        return Ok(());
    }
    let Some(name) = &settings.user else {
        tracing::warn!("serving as root: -u NAME makes it another user");
        return Ok(());
    };
    let user = User::from_name(name)?.ok_or_else(|| in_words("-u", format_args!("there is no user {name:?}")))?;
    if user.uid.is_root() {
        return Ok(());
    }
    setgroups(&[user.gid])
        .and_then(|()| setgid(user.gid))
        .and_then(|()| setuid(user.uid))
        .map_err(|error| in_words(format_args!("becoming {name} (-u)"), error))
}

/// Writes the pid file (`-P`), whole or not at all. A node that cannot serves all the same, as memcached does.
pub(crate) fn write_pid_file(settings: &Settings) {
    let Some(path) = &settings.pid_file else { return };
    let old = std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<i32>().ok());
    if let Some(pid) = old.filter(|&pid| pid > 0 && kill(Pid::from_raw(pid), None).is_ok()) {
        tracing::warn!("the pid file {} was that of process {pid}, which is running", path.display());
    }
    let mut unfinished = path.clone().into_os_string();
    unfinished.push(".tmp");
    let written = std::fs::write(&unfinished, format!("{}\n", std::process::id()))
        .and_then(|()| std::fs::rename(&unfinished, path));
    if let Err(error) = written {
        tracing::error!("writing the pid file {}: {error}", path.display());
    }
}

/// Takes the pid file away again.
pub(crate) fn clean_up(settings: &Settings) {
    if let Some(path) = &settings.pid_file
        && let Err(error) = std::fs::remove_file(path)
    {
        tracing::warn!("the pid file {} stays: {error}", path.display());
    }
}
