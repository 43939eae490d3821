//! Logging to standard error, at the level of `-v` and of the `verbosity` command.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::reload::Handle;

use crate::config::settings::LogFormat;

/// Changes the filter of this process's log. Empty until the log starts.
static CHANGE: OnceLock<Box<dyn Fn(EnvFilter) + Send + Sync>> = OnceLock::new();

/// Returns the filter of a verbosity. Clients cause the warnings of rustls: a name that is none, a broken handshake.
fn filter(verbosity: u32) -> EnvFilter {
    match verbosity {
        0 => "warn,rustls=error,larder_node=info",
        1 => "info,rustls=error",
        _ => "debug",
    }
    .into()
}

/// Starts logging. RUST_LOG has priority over `-v`.
pub(crate) fn start(verbosity: u32, format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| filter(verbosity));
    let log = tracing_subscriber::fmt().with_writer(std::io::stderr).with_target(false);
    match format {
        LogFormat::Text => {
            let log = log.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
            let log = log.with_env_filter(filter).with_filter_reloading();
            keep(log.reload_handle());
            log.init();
        }
        LogFormat::Json => {
            let log = log.json().flatten_event(true).with_current_span(false).with_span_list(false);
            let log = log.with_env_filter(filter).with_filter_reloading();
            keep(log.reload_handle());
            log.init();
        }
    }
}

/// Keeps the handle of the log, to change its filter by.
fn keep<S: 'static>(handle: Handle<EnvFilter, S>) {
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

/// Lets a line of log through that clients can cause, once in a while: they must not be able to fill a disk.
#[derive(Debug)]
pub(crate) struct Seldom {
    /// Seconds since the first such line of the process after which the next one is due.
    due: AtomicU64,
}

impl Seldom {
    /// Seconds between two lines.
    const INTERVAL: u64 = 10;

    pub(crate) const fn new() -> Seldom {
        Seldom { due: AtomicU64::new(0) }
    }

    /// Returns whether a line may be logged now, and counts it as logged.
    pub(crate) fn is_due(&self) -> bool {
        static FIRST: OnceLock<Instant> = OnceLock::new();
        self.is_due_at(FIRST.get_or_init(Instant::now).elapsed().as_secs())
    }

    fn is_due_at(&self, now: u64) -> bool {
        let due = |due| (due <= now).then_some(now + Self::INTERVAL);
        self.due.fetch_update(Ordering::Relaxed, Ordering::Relaxed, due).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_clients_cause_comes_once_in_ten_seconds() {
        let seldom = Seldom::new();
        let logged: Vec<u64> = (0..25).filter(|&second| seldom.is_due_at(second)).collect();
        assert_eq!(logged, [0, 10, 20]);
    }
}
