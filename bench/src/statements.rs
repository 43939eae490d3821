//! Counts the statements that this process runs by sqlx, by their first words: what a cache keeps off the datastore is
//! seen there.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Mutex;

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Layer, filter::LevelFilter};

static COUNTS: Mutex<BTreeMap<String, u64>> = Mutex::new(BTreeMap::new());

/// How often each statement was run, by its first words.
pub fn counts() -> BTreeMap<String, u64> {
    COUNTS.lock().expect("no holder panics").clone()
}

/// The layer of `tracing` that counts.
pub fn layer<S: Subscriber + for<'a> LookupSpan<'a>>() -> impl Layer<S> {
    Counting.with_filter(Targets::new().with_target("sqlx::query", LevelFilter::DEBUG))
}

struct Counting;

impl<S: Subscriber> Layer<S> for Counting {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        event.record(&mut Summary);
    }
}

struct Summary;

impl Visit for Summary {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "summary" {
            *COUNTS.lock().expect("no holder panics").entry(value.to_owned()).or_default() += 1;
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn Debug) {}
}
