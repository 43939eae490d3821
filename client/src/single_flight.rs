//! Shares one load of a key between the callers of this process.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dashmap::{DashMap, Entry};
use tokio::sync::watch;

use crate::error::Result;
use crate::value::Encoded;

/// The result of a load; `None` if the datastore has no such thing.
pub(crate) type Loaded = Result<Option<Encoded>>;

#[derive(Clone)]
struct Landed {
    loaded: Loaded,
    /// The value was current at this time.
    as_of: Instant,
}

struct Flight {
    number: u64,
    began: Instant,
    /// `None` while the load is under way.
    landed: watch::Receiver<Option<Landed>>,
}

/// The loads under way, or waits for another process that loads.
#[derive(Default)]
pub(crate) struct Flights {
    by_key: DashMap<Bytes, Flight>,
    next: AtomicU64,
}

/// A caller's part in a load.
pub(crate) enum Part<'a> {
    /// The caller gets the value, for itself and for those that join.
    Lead(Leader<'a>),
    /// Another caller gets the value.
    Join(Joined),
}

impl Flights {
    /// Joins the flight for `key`, or leads one if there is none or it is older than `patience`.
    pub(crate) fn enter(&self, key: &[u8], patience: Duration) -> Part<'_> {
        let now = Instant::now();
        let joined = |flight: &Flight| {
            let until = flight.began + patience;
            (now < until).then(|| Joined { landed: flight.landed.clone(), until })
        };
        if let Some(joined) = self.by_key.get(key).and_then(|flight| joined(&flight)) {
            return Part::Join(joined);
        }
        match self.by_key.entry(Bytes::copy_from_slice(key)) {
            Entry::Occupied(mut entry) => match joined(entry.get()) {
                Some(joined) => Part::Join(joined),
                None => {
                    let (flight, leader) = self.flight(entry.key().clone(), now);
                    entry.insert(flight);
                    Part::Lead(leader)
                }
            },
            Entry::Vacant(entry) => {
                let (flight, leader) = self.flight(entry.key().clone(), now);
                entry.insert(flight);
                Part::Lead(leader)
            }
        }
    }

    /// Leads a new flight. Another one for `key` continues, but later callers do not join it.
    pub(crate) fn lead(&self, key: &[u8]) -> Leader<'_> {
        let key = Bytes::copy_from_slice(key);
        let (flight, leader) = self.flight(key.clone(), Instant::now());
        self.by_key.insert(key, flight);
        leader
    }

    fn flight(&self, key: Bytes, began: Instant) -> (Flight, Leader<'_>) {
        let (landing, landed) = watch::channel(None);
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        (Flight { number, began, landed }, Leader { flights: self, key, number, landing })
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }
}

/// The caller that gets the value. The others get it too, or learn that this was dropped.
pub(crate) struct Leader<'a> {
    flights: &'a Flights,
    key: Bytes,
    number: u64,
    landing: watch::Sender<Option<Landed>>,
}

impl Leader<'_> {
    /// Begins the load after a wait: the time that others join for starts again.
    pub(crate) fn renew(&self) {
        if let Some(mut flight) = self.flights.by_key.get_mut(&self.key)
            && flight.number == self.number
        {
            flight.began = Instant::now();
        }
    }

    /// Passes the result to the callers that joined. Later callers do not find the flight any more.
    pub(crate) fn land(self, loaded: Loaded, as_of: Instant) {
        self.leave();
        self.landing.send_replace(Some(Landed { loaded, as_of }));
    }

    fn leave(&self) {
        self.flights.by_key.remove_if(&self.key, |_, flight| flight.number == self.number);
    }
}

impl Drop for Leader<'_> {
    fn drop(&mut self) {
        self.leave();
    }
}

/// A place in another caller's flight.
pub(crate) struct Joined {
    landed: watch::Receiver<Option<Landed>>,
    until: Instant,
}

impl Joined {
    /// Returns the result of the flight. `None` if it takes too long, was dropped, or its value may be older than
    /// `arrived`: a load that began before a commit must not answer a caller that arrived after it.
    pub(crate) async fn landed(mut self, arrived: Instant) -> Option<Loaded> {
        let landing = tokio::time::timeout_at(self.until.into(), self.landed.wait_for(Option::is_some));
        let landed = landing.await.ok()?.ok()?.clone()?;
        (landed.as_of >= arrived).then_some(landed.loaded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn lead<'a>(flights: &'a Flights, patience: Duration) -> Leader<'a> {
        match flights.enter(b"k", patience) {
            Part::Lead(leader) => leader,
            Part::Join(_) => panic!("nobody else leads"),
        }
    }

    fn join(flights: &Flights) -> Joined {
        match flights.enter(b"k", PATIENCE) {
            Part::Join(joined) => joined,
            Part::Lead(_) => panic!("somebody else leads"),
        }
    }

    #[tokio::test]
    async fn those_who_came_before_the_value_was_current_share_it_and_later_ones_do_not() {
        let flights = Flights::default();
        let before = Instant::now();
        let leader = lead(&flights, PATIENCE);
        let (early, late) = (join(&flights), join(&flights));
        let as_of = Instant::now();
        let after = as_of + Duration::from_nanos(1);
        leader.land(Ok(None), as_of);
        assert!(matches!(early.landed(before).await, Some(Ok(None))));
        assert!(late.landed(after).await.is_none());
        assert!(flights.is_empty());
    }

    #[tokio::test]
    async fn a_dropped_or_replaced_leader_leaves_no_trace_and_keeps_nobody_waiting() {
        let flights = Flights::default();
        let first = lead(&flights, PATIENCE);
        let joined = join(&flights);
        // Nobody's patience is so short: the second leads.
        let second = lead(&flights, Duration::ZERO);
        drop(first);
        assert!(joined.landed(Instant::now()).await.is_none());
        let joined = join(&flights);
        drop(second);
        assert!(joined.landed(Instant::now()).await.is_none());
        assert!(flights.is_empty());
    }
}
