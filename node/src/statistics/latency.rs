//! How long commands take inside the node: one of sixteen commands is measured, by its kind.

use std::sync::Arc;
use std::time::Duration;

use larder_protocol::Command;

use super::counters::{Counter, Counters};

/// Commands of which one is measured, on average. Two readings of the clock cost about 50 ns.
const ONE_OF: u64 = 16;

/// The kinds of commands, as the metrics name them.
pub(crate) const KINDS: [&str; 6] = ["get", "set", "delete", "arithmetic", "touch", "other"];

/// Buckets: up to 250 ns, and each twice as far as the one before; the last has no bound.
pub(crate) const BUCKETS: usize = 22;

/// The upper bound of a bucket.
pub(crate) fn bound(bucket: usize) -> Duration {
    Duration::from_nanos(250 << bucket)
}

fn kind(command: &Command<'_>) -> usize {
    match command {
        Command::Get(_) => 0,
        Command::Store(_) => 1,
        Command::Delete(_) => 2,
        Command::Arithmetic(_) => 3,
        Command::Touch { .. } => 4,
        _ => 5,
    }
}

/// The measured commands of one worker.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    /// Commands that are still to come before the next that is measured.
    left: Counter,
    /// A linear congruential generator, by Knuth's MMIX.
    random: Counter,
    buckets: [[Counter; BUCKETS]; KINDS.len()],
    nanoseconds: [Counter; KINDS.len()],
}

impl Measured {
    /// Whether the next command is measured. The distances vary, so that no client's rhythm hides a command.
    #[inline]
    pub(crate) fn is_due(&self) -> bool {
        if self.left.get() > 0 {
            self.left.add(u64::MAX);
            return false;
        }
        let old = self.random.get();
        let new = old.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.random.add(new.wrapping_sub(old));
        self.left.add((new >> 33) % (2 * ONE_OF - 1));
        true
    }

    /// Counts a command that was measured.
    #[cold]
    pub(crate) fn record(&self, command: &Command<'_>, took: Duration) {
        let kind = kind(command);
        let nanoseconds = took.as_nanos() as u64;
        let bucket = (nanoseconds.saturating_sub(1) / 250).checked_ilog2().map_or(0, |log| log as usize + 1);
        self.buckets[kind][bucket.min(BUCKETS - 1)].add(1);
        self.nanoseconds[kind].add(nanoseconds);
    }
}

/// The sum over workers, by kind.
#[derive(Debug, Default, Clone)]
pub(crate) struct Latencies {
    pub(crate) buckets: [[u64; BUCKETS]; KINDS.len()],
    pub(crate) nanoseconds: [u64; KINDS.len()],
}

impl Latencies {
    pub(crate) fn of(workers: &[Arc<Counters>]) -> Latencies {
        let mut sum = Latencies::default();
        for measured in workers.iter().map(|worker| &worker.measured) {
            for kind in 0..KINDS.len() {
                for bucket in 0..BUCKETS {
                    sum.buckets[kind][bucket] += measured.buckets[kind][bucket].get();
                }
                sum.nanoseconds[kind] += measured.nanoseconds[kind].get();
            }
        }
        sum
    }

    /// Those that came after `before`.
    pub(crate) fn since(&self, before: &Latencies) -> Latencies {
        let mut since = self.clone();
        for kind in 0..KINDS.len() {
            for bucket in 0..BUCKETS {
                since.buckets[kind][bucket] -= before.buckets[kind][bucket];
            }
            since.nanoseconds[kind] -= before.nanoseconds[kind];
        }
        since
    }

    /// The upper bound of the bucket that the quantile over all kinds lies in; zero without a command.
    pub(crate) fn quantile(&self, quantile: f64) -> Duration {
        let of_bucket = |bucket: usize| self.buckets.iter().map(|kind| kind[bucket]).sum::<u64>();
        let all: u64 = (0..BUCKETS).map(of_bucket).sum();
        let rank = (all as f64 * quantile).ceil().max(1.0) as u64;
        let mut below = 0;
        for bucket in 0..BUCKETS {
            below += of_bucket(bucket);
            if below >= rank {
                return bound(bucket);
            }
        }
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_counts_in_the_first_bucket_that_it_does_not_exceed() {
        let workers = [Arc::new(Counters::default())];
        let record = |nanoseconds| workers[0].measured.record(&Command::Noop, Duration::from_nanos(nanoseconds));
        for nanoseconds in [0, 1, 250, 251, 500, 501, 1000, u64::MAX / 2] {
            record(nanoseconds);
        }
        let counts = Latencies::of(&workers).buckets[5];
        assert_eq!(counts[..4], [3, 2, 2, 0]);
        assert_eq!(counts[BUCKETS - 1], 1);
    }

    #[test]
    fn one_of_sixteen_is_measured_whatever_the_rhythm() {
        let measured = Measured::default();
        let mut by_place = [0; 16];
        for number in 0..160_000 {
            by_place[number % 16] += u32::from(measured.is_due());
        }
        assert!(by_place.iter().all(|count| (500..750).contains(count)), "{by_place:?}");
    }

    #[test]
    fn a_quantile_is_the_bound_of_its_bucket_and_zero_without_a_command() {
        let workers = [Arc::new(Counters::default())];
        let none = Latencies::of(&workers);
        assert_eq!(none.quantile(0.99), Duration::ZERO);
        for _ in 0..99 {
            workers[0].measured.record(&Command::Noop, Duration::from_nanos(300));
        }
        workers[0].measured.record(&Command::Version, Duration::from_micros(100));
        let all = Latencies::of(&workers).since(&none);
        assert_eq!(all.quantile(0.5), Duration::from_nanos(500));
        assert_eq!(all.quantile(0.99), Duration::from_nanos(500));
        assert_eq!(all.quantile(1.0), Duration::from_micros(128));
    }
}
