//! Logging to standard error, at the level of `-v` and of the `verbosity` command.

use std::sync::OnceLock;

use tracing_subscriber::EnvFilter;

/// Changes the filter of this process's log. Empty until the log starts.
static CHANGE: OnceLock<Box<dyn Fn(EnvFilter) + Send + Sync>> = OnceLock::new();

/// Returns the filter of a verbosity.
fn filter(verbosity: u32) -> EnvFilter {
    match verbosity {
        0 => "warn,larder_node=info",
        1 => "info",
        _ => "debug",
    }
    .into()
}

/// Starts logging. RUST_LOG has priority over `-v`.
pub(crate) fn start(verbosity: u32) {
    let log = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_target(false)
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| filter(verbosity)))
        .with_filter_reloading();
    let handle = log.reload_handle();
    log.init();
    // Fails if it is set already, which does not happen: a process starts its log once.
    let _ = CHANGE.set(Box::new(move |filter| {
        if let Err(error) = handle.reload(filter) {
            tracing::warn!(%error, "the verbosity stays");
        }
    }));
}

/// Changes the verbosity of the log. Does nothing in a process that did not start it by [`start`].
pub(crate) fn set_verbosity(level: u32) {
    if let Some(change) = CHANGE.get() {
        change(filter(level));
    }
}
