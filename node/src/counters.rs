//! Counters of what was asked and served, one set a worker.

use std::sync::atomic::{AtomicU64, Ordering};

/// A counter with one writer, its worker: a plain load and store, no locked instruction.
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
        /// What one worker counted. The names are memcached's.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub(crate) struct Counters {
            $(pub(crate) $name: Counter,)*
        }

        /// The sum over workers.
        #[derive(Debug, Default, Clone, Copy)]
        pub(crate) struct Totals {
            $(pub(crate) $name: u64,)*
        }

        impl Totals {
            pub(crate) fn of<'a>(workers: impl Iterator<Item = &'a Counters>) -> Totals {
                let mut totals = Totals::default();
                for worker in workers {
                    $(totals.$name += worker.$name.get();)*
                }
                totals
            }
        }

        impl Counters {
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
    bytes_read,
    bytes_written,
    conn_yields,
    auth_cmds,
    auth_errors,
    idle_kicks,
);
