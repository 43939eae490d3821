//! Ends a measurement early on SIGINT or SIGTERM, so that what was measured is still reported.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM};

/// The longest sleep between two looks at the flag.
const SLICE: Duration = Duration::from_millis(50);

/// Whether the measurement must end. Clones share the state.
#[derive(Debug, Clone, Default)]
pub struct Interrupt {
    is_set: Arc<AtomicBool>,
    /// The signal; 0 without one.
    signal: Arc<AtomicUsize>,
}

impl Interrupt {
    /// Sets the interrupt on SIGINT (ctrl-C) and SIGTERM. A second signal ends the program at once.
    ///
    /// # Errors
    ///
    /// The kernel refuses the signal handlers.
    pub fn on_signals() -> std::io::Result<Interrupt> {
        let interrupt = Interrupt::default();
        for signal in [SIGINT, SIGTERM] {
            // The order matters: the first signal finds the flag unset, and only then sets it.
            signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, interrupt.is_set.clone())?;
            signal_hook::flag::register_usize(signal, interrupt.signal.clone(), signal as usize)?;
            signal_hook::flag::register(signal, interrupt.is_set.clone())?;
        }
        Ok(interrupt)
    }

    /// Whether a signal has come.
    pub fn is_set(&self) -> bool {
        self.is_set.load(Ordering::Relaxed)
    }

    /// The exit status of a program that ends by the signal: 130 or 143; `None` without one.
    pub fn exit_status(&self) -> Option<u8> {
        let signal = self.signal.load(Ordering::Relaxed) as u8;
        self.is_set().then_some(128 + signal)
    }

    /// Sleeps until `end` of a clock that began at `started`, or until the interrupt is set. Returns whether it is.
    pub(crate) fn sleep_until(&self, started: Instant, end: Duration) -> bool {
        loop {
            let rest = end.saturating_sub(started.elapsed());
            if self.is_set() || rest.is_zero() {
                return self.is_set();
            }
            std::thread::sleep(rest.min(SLICE));
        }
    }
}
