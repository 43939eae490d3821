//! Counters of requests and their results, one set for each worker. A counter is one row here: `stats` shows all rows.

use std::sync::atomic::{AtomicU64, Ordering};

use super::latency::Measured;
use crate::store::Lost;

/// A counter with a single writer, its worker, so that a plain load and store replace a locked instruction.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    #[inline]
    pub(crate) fn add(&self, amount: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn reset(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

macro_rules! counters {
    ($($name:ident),* $(,)?) => {
        /// The counters of one worker. The names are memcached's.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub(crate) struct Counters {
            $(pub(crate) $name: Counter,)*
            pub(crate) measured: Measured,
        }

        /// The sum over workers.
        #[derive(Debug, Default, Clone, Copy)]
        pub(crate) struct Totals {
            $(pub(crate) $name: u64,)*
        }

        impl Totals {
            /// Adds up the counters of all workers.
            pub(crate) fn of<'a>(workers: impl Iterator<Item = &'a Counters>) -> Totals {
                let mut totals = Totals::default();
                for worker in workers {
                    $(totals.$name += worker.$name.get();)*
                }
                totals
            }

            /// Returns every counter with its name, as `stats` lists them.
            pub(crate) fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name)),*].into_iter()
            }
        }

        impl Counters {
            /// Counts an item that a request has found lost.
            #[inline]
            pub(crate) fn count_lost(&self, lost: Option<Lost>) {
                match lost {
                    None => {}
                    Some(Lost::Expired) => self.get_expired.add(1),
                    Some(Lost::Flushed) => self.get_flushed.add(1),
                }
            }

            pub(crate) fn reset(&self) {
                $(self.$name.reset();)*
            }
        }
    };
}

counters!(
    cmd_get,
    cmd_set,
    cmd_flush,
    cmd_touch,
    cmd_meta,
    get_hits,
    get_misses,
    get_expired,
    get_flushed,
    hits_to_warm,
    delete_misses,
    delete_hits,
    incr_misses,
    incr_hits,
    decr_misses,
    decr_hits,
    cas_misses,
    cas_hits,
    cas_badval,
    touch_hits,
    touch_misses,
    store_too_large,
    store_no_memory,
    auth_cmds,
    auth_errors,
    idle_kicks,
    bytes_read,
    bytes_written,
    conn_yields,
);
