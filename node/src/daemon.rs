//! A node as a process of its own: its start, its signals, its pid file and its end.

use std::io;
use std::process::ExitCode;

use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use nix::sys::signal::kill;
use nix::unistd::Pid;
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};

use crate::background::{self, Side, Starter};
use crate::cli::service_variables;
use crate::config::settings::Settings;
use crate::error::StartError;
use crate::log;
use crate::server::Server;

/// Runs a node until SIGTERM, SIGINT or SIGUSR1, as the `larder-node` binary does. SIGHUP makes it read its files again.
pub fn run(settings: Settings) -> ExitCode {
    let served = match settings.daemon.then(background::enter).transpose() {
        Ok(Some(Side::Foreground(node))) => {
            return if node.serves() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        }
        Ok(Some(Side::Background(starter))) => serve_until_signalled(settings, Some(starter)),
        Ok(None) => serve_until_signalled(settings, None),
        Err(error) => Err(StartError::Process { doing: "going into the background (-d)".to_owned(), error }),
    };
    match served {
        Ok(()) => ExitCode::SUCCESS,
        // As an error of the command line: it is for the person who starts the node.
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve_until_signalled(settings: Settings, starter: Option<Starter>) -> Result<(), StartError> {
    log::start(settings.verbosity.into(), settings.log_format);
    for (name, value) in service_variables() {
        tracing::info!("{name}={value} is ignored: Kubernetes sets it for a Service");
    }
    prepare(&settings)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        // memcached's signal for a graceful stop.
        let mut stop_gracefully = signal(SignalKind::user_defined1())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let server = Server::start(settings.clone())?;
        write_pid_file(&settings);
        announce_ports(&server)?;
        if let Some(starter) = starter {
            starter.release(settings.verbosity > 0)?;
        }
        tell_systemd(&[NotifyState::Ready]);
        let why = loop {
            tokio::select! {
                _ = hangup.recv() => {
                    // systemd asks for the time, to tell this reload from an earlier one.
                    let now = NotifyState::monotonic_usec_now();
                    tell_systemd(&[NotifyState::Reloading].into_iter().chain(now).collect::<Vec<_>>());
                    server.reload();
                    tell_systemd(&[NotifyState::Ready]);
                }
                _ = terminate.recv() => break "SIGTERM came",
                _ = interrupt.recv() => break "SIGINT came",
                _ = stop_gracefully.recv() => break "SIGUSR1 came",
                () = server.shutdown_requested() => break "a client asked for it",
            }
        };
        tracing::info!("stopping: {why}");
        tell_systemd(&[NotifyState::Stopping]);
        tokio::select! {
            () = server.leave() => {}
            _ = terminate.recv() => server.leave().await,
            _ = interrupt.recv() => server.leave().await,
        }
        server.stop();
        clean_up(&settings);
        Ok(())
    })
}

/// Tells systemd how far the node is, where it is a unit of `Type=notify`.
fn tell_systemd(states: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!("systemd does not hear from the node: {error}");
    }
}

/// Writes the ports to the file that MEMCACHED_PORT_FILENAME names, as memcached does for `-p -1`.
fn announce_ports(server: &Server) -> io::Result<()> {
    let Some(path) = std::env::var_os("MEMCACHED_PORT_FILENAME") else { return Ok(()) };
    let tcp = server.addresses().iter().map(|address| ("TCP", address));
    let udp = server.udp_addresses().iter().map(|address| ("UDP", address));
    let http = server.http_address();
    let http = http.iter().map(|address| ("HTTP", address));
    let lines: String = tcp
        .chain(udp)
        .chain(http)
        .map(|(kind, address)| {
            format!("{kind} {}: {}\n", if address.is_ipv4() { "INET" } else { "INET6" }, address.port())
        })
        .collect();
    // Renamed when it is complete: tests read the file as soon as it exists.
    let unfinished = std::path::Path::new(&path).with_extension("lock");
    std::fs::write(&unfinished, lines)?;
    std::fs::rename(unfinished, path)
}

fn process(doing: &str) -> impl FnOnce(nix::Error) -> StartError {
    move |error| StartError::Process { doing: doing.to_owned(), error: error.into() }
}

/// Raises limits.
fn prepare(settings: &Settings) -> Result<(), StartError> {
    if settings.core_dumps {
        let (_, hard) = getrlimit(Resource::RLIMIT_CORE).map_err(io::Error::from)?;
        setrlimit(Resource::RLIMIT_CORE, hard, hard).map_err(process("allowing core dumps (-r)"))?;
    }
    let wanted = u64::from(settings.max_connections) + settings.reserved_descriptors();
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(io::Error::from)?;
    if soft < wanted && setrlimit(Resource::RLIMIT_NOFILE, wanted, hard.max(wanted)).is_err() {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map_err(io::Error::from)?;
        tracing::warn!("{hard} files may be open (ulimit -n): fewer than the {wanted} that -c may need");
    }
    if settings.lock_memory {
        // The limit applies again once root is left.
        let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
        // Pages are locked once they are used: the store has more addresses than it may ever use memory.
        let on_fault = MlockAllFlags::from_bits_retain(nix::libc::MCL_ONFAULT);
        if let Err(error) = mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE | on_fault) {
            tracing::warn!("memory is not locked (-k), try a larger ulimit -l: {error}");
        }
    }
    Ok(())
}

/// Writes the pid file (`-P`), whole or not at all. If it cannot be written, the node serves all the same, as memcached
/// does.
fn write_pid_file(settings: &Settings) {
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

/// Removes the pid file.
fn clean_up(settings: &Settings) {
    if let Some(path) = &settings.pid_file
        && let Err(error) = std::fs::remove_file(path)
    {
        tracing::warn!("the pid file {} stays: {error}", path.display());
    }
}
