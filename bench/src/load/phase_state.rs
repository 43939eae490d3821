//! The state of a worker while a phase runs: which requests are due, and the counts so far.

use std::collections::VecDeque;
use std::sync::mpsc::Sender;

use super::connection::Pending;
use super::plan::{Phase, Schedule};
use crate::report::{Interval, Tallies};
use crate::workload::{KeySampler, Operation};

/// The state of a worker while a phase runs.
pub(super) struct PhaseState {
    pub(super) phase: Phase,
    pub(super) sampler: KeySampler,
    /// Requests left to send.
    pub(super) quota: u64,
    /// When requests stop coming due, in nanoseconds since the start.
    pub(super) end: u64,
    /// The time-out of a request, in nanoseconds.
    pub(super) timeout: u64,
    /// Requests not sent within this many nanoseconds after `end` count as unsent.
    pub(super) grace: u64,
    /// When the next request is due, in nanoseconds since the start.
    pub(super) next_due: u64,
    /// Free slots of the open loop. A slot is the number of its group; groups take turns.
    pub(super) free: VecDeque<usize>,
    /// Nanoseconds between two requests of an open loop.
    pub(super) gap: f64,
    /// Requests that have come due.
    pub(super) scheduled: u64,
    /// When the last request was sent, in nanoseconds since the start.
    pub(super) last_sent: u64,
    pub(super) servers: usize,
    pub(super) tallies: Tallies,
    pub(super) interval: usize,
    pub(super) reports: Sender<Interval>,
    /// Requests that came due and were never sent.
    pub(super) unsent: u64,
    /// The first fault since the last report, as text.
    pub(super) fault: Option<String>,
}

impl PhaseState {
    /// Returns the nanoseconds since the phase began.
    #[inline]
    pub(super) fn now(&self) -> u64 {
        self.phase.start.elapsed().as_nanos() as u64
    }

    /// Whether no further request is to be sent.
    pub(super) fn sending_is_over(&self, now: u64) -> bool {
        let over = match self.phase.schedule {
            Schedule::Closed => now >= self.end,
            Schedule::Open { .. } => self.next_due >= self.end || now >= self.end.saturating_add(self.grace),
        };
        over || self.quota == 0
    }

    /// Notes a fault. The first one since the last report is kept.
    pub(super) fn note(&mut self, words: impl FnOnce() -> String) {
        if self.fault.is_none() {
            self.fault = Some(words());
        }
    }

    /// Counts a request that is over.
    ///
    /// A failed request is not served, whenever it failed, and found nothing. Its latency is the time until it failed,
    /// but at least the time-out: a server that refuses at once must not look faster than one that answers.
    pub(super) fn count(&mut self, server: usize, pending: &Pending, now: u64) {
        self.report(now);
        let tally = self.tallies.at(server, pending.operation);
        tally.requests += u64::from(pending.requests);
        let failed = pending.errors.min(pending.requests);
        let served = pending.requests - failed;
        let keys = (u64::from(pending.keys_asked) * u64::from(served) / u64::from(pending.requests)) as u32;
        tally.keys += u64::from(keys);
        tally.failed_keys += u64::from(pending.keys_asked - keys);
        if now <= self.end {
            tally.in_time += u64::from(served);
            tally.kept += if pending.is_fill { 0 } else { u64::from(served) };
        }
        tally.fills += u64::from(pending.is_fill);
        tally.errors += u64::from(failed);
        if pending.operation != Operation::Set {
            let hits = pending.hits.min(keys);
            tally.hits += u64::from(hits);
            tally.misses += u64::from(keys - hits);
        }
        let latency = now.saturating_sub(pending.due);
        tally.record(latency, u64::from(served));
        tally.record(latency.max(self.timeout), u64::from(failed));
    }

    /// Ends the current interval if its time is over.
    pub(super) fn report(&mut self, now: u64) {
        let interval = (now / self.phase.interval.as_nanos() as u64) as usize;
        if interval > self.interval {
            self.hand_over(interval);
        }
    }

    /// Reports the counts of the current interval and begins interval `next`.
    pub(super) fn hand_over(&mut self, next: usize) {
        let servers = self.servers;
        let tallies = std::mem::replace(&mut self.tallies, Tallies::new(servers));
        // Sending cannot fail: the main thread reads until all workers have ended the phase.
        let (unsent, fault) = (std::mem::take(&mut self.unsent), self.fault.take());
        let _ = self.reports.send(Interval { index: self.interval, tallies, unsent, fault });
        self.interval = next;
    }
}
