//! Logging to standard error, as much as `-v` and the `verbosity` command say.

use std::sync::OnceLock;

use tracing_subscriber::EnvFilter;

/// How the filter of this process's log is changed, once there is one.
static CHANGE: OnceLock<Box<dyn Fn(EnvFilter) + Send + Sync>> = OnceLock::new();

/// What is shown at a verbosity.
fn filter(verbosity: u32) -> EnvFilter {
    match verbosity {
        0 => "warn,larder_node=info",
        1 => "info",
        _ => "debug",
    }
    .into()
}

/// Starts logging. What RUST_LOG says goes before `-v`.
pub(crate) fn start(verbosity: u32) {
    let log = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_target(false)
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| filter(verbosity)))
        .with_filter_reloading();
    let handle = log.reload_handle();
    log.init();
    // Set once: a process starts its log once.
    let _ = CHANGE.set(Box::new(move |filter| {
        if let Err(error) = handle.reload(filter) {
            tracing::warn!(%error, "the verbosity stays");
        }
    }));
}

/// Shows more or less from now on, where this process began its log by [`start`].
pub(crate) fn set_verbosity(level: u32) {
    if let Some(change) = CHANGE.get() {
        change(filter(level));
    }
}
