//! What a daemon does before it serves: leaves the terminal, limits, memory, its user and its pid file.

use std::io;

use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{Uid, User, daemon, setgid, setgroups, setuid};

use crate::settings::Settings;

/// Descriptors wanted beside one for each connection.
pub(crate) const RESERVED_DESCRIPTORS: u64 = 64;

fn in_words(what: impl std::fmt::Display, error: impl std::fmt::Display) -> io::Error {
    io::Error::other(format!("{what}: {error}"))
}

/// Before any thread is started: forks into the background (`-d`) and raises limits.
pub(crate) fn prepare(settings: &Settings) -> io::Result<()> {
    if settings.daemon {
        daemon(true, false).map_err(|error| in_words("going into the background (-d)", error))?;
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
        mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE)
            .map_err(|error| in_words("locking memory (-k), try a larger ulimit -l", error))?;
    }
    Ok(())
}

/// Once the sockets are open: the pid file, then the user that serves.
pub(crate) fn settle(settings: &Settings) -> io::Result<()> {
    if let Some(path) = &settings.pid_file {
        std::fs::write(path, format!("{}\n", std::process::id()))
            .map_err(|error| in_words(format_args!("writing the pid file {}", path.display()), error))?;
    }
    let Some(name) = &settings.user else { return Ok(()) };
    if !Uid::effective().is_root() {
        return Ok(());
    }
    let user = User::from_name(name)?.ok_or_else(|| in_words("-u", format_args!("there is no user {name:?}")))?;
    if user.uid.is_root() {
        return Ok(());
    }
    setgroups(&[user.gid])?;
    setgid(user.gid)?;
    setuid(user.uid).map_err(|error| in_words(format_args!("becoming {name}"), error))
}

/// Takes the pid file away again.
pub(crate) fn clean_up(settings: &Settings) {
    if let Some(path) = &settings.pid_file
        && let Err(error) = std::fs::remove_file(path)
    {
        tracing::warn!("the pid file {} stays: {error}", path.display());
    }
}
