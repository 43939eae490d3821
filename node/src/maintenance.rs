//! Background work of the store; no request waits for it.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::shared::Shared;

/// Interval between slices of background work.
const INTERVAL: Duration = Duration::from_millis(100);

/// Runs the background work until the server stops.
pub(crate) async fn maintain(shared: &Shared) {
    let mut stop = shared.stop.clone();
    let mut interval = tokio::time::interval(INTERVAL);
    loop {
        tokio::select! {
            _ = interval.tick() => slice(shared),
            _ = stop.wait_for(|&stopping| stopping) => break,
        }
    }
}

fn slice(shared: &Shared) {
    let now = shared.clock.now();
    shared.store.maintain(now);
    shared.maintenance.fetch_add(1, Ordering::Relaxed);
    shared.watchers.show_evictions(&shared.store, now);
}
