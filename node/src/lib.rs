//! A memcache server: more items in the same memory, less CPU for each.
//!
//! A request has one way through: socket, `listener`, `connection` (buffers), protocol decode, `execute`, [`store`],
//! protocol encode, one write. [`Server`] puts them together; the `larder-node` binary is a command line around it.

mod address;
mod clock;
pub mod cluster;
mod commands;
mod counters;
mod daemon;
mod log;
mod maintenance;
mod net;
mod options;
mod server;
mod settings;
mod shared;
mod statistics;
pub mod store;

pub use cluster::ClusterOptions;
pub use options::ExtendedOption;
pub use server::Server;
pub use settings::{Settings, Verbosity};

/// What `version` answers: the memcached whose behaviour this is, and nothing else, since clients parse it.
pub const VERSION: &str = "1.6.45";

/// The version of this node: `stats` has it as `larder_version`.
pub const LARDER_VERSION: &str = env!("CARGO_PKG_VERSION");

/// Runs a node in the foreground until SIGTERM or SIGINT: what the `larder-node` binary does.
pub fn run(settings: Settings) -> std::process::ExitCode {
    log::start(settings.verbosity.into());
    match serve_until_signalled(settings) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn serve_until_signalled(settings: Settings) -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};

    daemon::prepare(&settings)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let server = Server::start(settings.clone())?;
        daemon::write_pid_file(&settings);
        announce_ports(&server)?;
        let why = loop {
            tokio::select! {
                _ = hangup.recv() => server.reload(),
                _ = terminate.recv() => break "SIGTERM came",
                _ = interrupt.recv() => break "SIGINT came",
                () = server.shutdown_requested() => break "a client asked for it",
            }
        };
        tracing::info!("stopping: {why}");
        tokio::select! {
            () = server.leave() => {}
            _ = terminate.recv() => server.leave().await,
            _ = interrupt.recv() => server.leave().await,
        }
        server.stop();
        daemon::clean_up(&settings);
        Ok(())
    })
}

/// Writes the ports to the file that MEMCACHED_PORT_FILENAME names, as memcached does for `-p -1`.
fn announce_ports(server: &Server) -> std::io::Result<()> {
    let Some(path) = std::env::var_os("MEMCACHED_PORT_FILENAME") else { return Ok(()) };
    let tcp = server.addresses().iter().map(|address| ("TCP", address));
    let udp = server.udp_addresses().iter().map(|address| ("UDP", address));
    let lines: String = tcp
        .chain(udp)
        .map(|(kind, address)| {
            format!("{kind} {}: {}\n", if address.is_ipv4() { "INET" } else { "INET6" }, address.port())
        })
        .collect();
    // Written whole or not at all: who waits for the file reads it the moment it is there.
    let unfinished = std::path::Path::new(&path).with_extension("lock");
    std::fs::write(&unfinished, lines)?;
    std::fs::rename(unfinished, path)
}
