//! One read: a hit, another caller's load, or the own load.

use std::future::Future;
use std::time::{Duration, Instant};

use super::lease::{Cache, Lease, Lookup, Old};
use super::options::ReadPolicy;
use crate::error::Error;
use crate::single_flight::{Flights, Leader, Loaded, Part};
use crate::value::Encoded;

/// Pauses between looks at a key that another process is loading grow from the first to the last. The first is about
/// what a row takes to load by its key, so that those who wait do not take much longer than the one who loads.
const FIRST_PAUSE: Duration = Duration::from_micros(250);
const LAST_PAUSE: Duration = Duration::from_millis(25);

/// Reads `key`, and loads it if it is this caller's turn.
pub(super) async fn read<C: Cache, F: Future<Output = Loaded>>(
    cache: &C,
    flights: &Flights,
    key: &[u8],
    policy: &ReadPolicy,
    load: impl FnOnce() -> F,
) -> Loaded {
    match find(cache, flights, key, policy).await {
        Found::Value(loaded) => loaded,
        Found::Turn(turn) => {
            let began = Instant::now();
            let loaded = load().await;
            turn.finish(policy, loaded, began).await
        }
    }
}

/// The end of a search for a value.
pub(super) enum Found<'a, C: Cache> {
    Value(Loaded),
    /// It is this caller's turn to load.
    Turn(Turn<'a, C>),
}

/// Looks `key` up until there is a value, or until it is this caller's turn to load.
pub(super) async fn find<'a, C: Cache>(
    cache: &'a C,
    flights: &'a Flights,
    key: &'a [u8],
    policy: &ReadPolicy,
) -> Found<'a, C> {
    let arrived = Instant::now();
    let lookup = cache.look_up(key, policy).await;
    find_from(cache, flights, key, policy, lookup, arrived).await
}

/// Like [`find`], for a caller that arrived at `arrived` and has already made the first look-up.
pub(super) async fn find_from<'a, C: Cache>(
    cache: &'a C,
    flights: &'a Flights,
    key: &'a [u8],
    policy: &ReadPolicy,
    mut lookup: crate::Result<Lookup>,
    arrived: Instant,
) -> Found<'a, C> {
    loop {
        let may_poll = match lookup {
            Ok(Lookup::Hit(value)) => return Found::Value(Ok(value.present())),
            Ok(Lookup::Won { lease, old }) => {
                return Found::Turn(Turn::new(cache, key, flights.lead(key), Some((lease, old))));
            }
            Ok(Lookup::Wait { stale: Some(value) }) if policy.take_stale => return Found::Value(Ok(value.present())),
            Ok(Lookup::Wait { .. }) => true,
            Ok(Lookup::NoLease) => false,
            Err(error @ (Error::InvalidKey(_) | Error::NotFresh { .. })) => return Found::Value(Err(error)),
            Err(error) => {
                tracing::debug!(%error, "reading without the cache");
                false
            }
        };
        match flights.enter(key, policy.wait) {
            Part::Join(joined) => {
                if let Some(loaded) = joined.landed(arrived).await {
                    return Found::Value(loaded);
                }
            }
            Part::Lead(leader) if may_poll => match poll_until_loaded(cache, key, policy).await {
                Polled::Value(value, as_of) => {
                    let loaded = Ok(value.present());
                    leader.land(loaded.clone(), as_of);
                    return Found::Value(loaded);
                }
                Polled::Stale(value) => return Found::Value(Ok(value.present())),
                Polled::Won(lease, old) => {
                    leader.renew();
                    return Found::Turn(Turn::new(cache, key, leader, Some((lease, old))));
                }
                Polled::TimedOut => {
                    leader.renew();
                    return Found::Turn(Turn::new(cache, key, leader, None));
                }
            },
            Part::Lead(leader) => return Found::Turn(Turn::new(cache, key, leader, None)),
        }
        lookup = cache.look_up(key, policy).await;
    }
}

/// The end of waiting for another process.
enum Polled {
    /// A value that was current at this time.
    Value(Encoded, Instant),
    Stale(Encoded),
    Won(Lease, Option<Old>),
    /// No value in time.
    TimedOut,
}

/// Polls a key that another process loads, for all callers of this process, until there is a value.
async fn poll_until_loaded(cache: &impl Cache, key: &[u8], policy: &ReadPolicy) -> Polled {
    let until = Instant::now() + policy.wait;
    let mut pause = FIRST_PAUSE;
    while Instant::now() < until {
        cache.pause(pause).await;
        pause = (pause * 2).min(LAST_PAUSE);
        let sent = Instant::now();
        match cache.look_up(key, policy).await {
            Ok(Lookup::Hit(value)) => return Polled::Value(value, sent),
            Ok(Lookup::Won { lease, old }) => return Polled::Won(lease, old),
            Ok(Lookup::Wait { stale: Some(value) }) if policy.take_stale => return Polled::Stale(value),
            Ok(Lookup::Wait { .. }) => {}
            Ok(Lookup::NoLease) | Err(_) => break,
        }
    }
    Polled::TimedOut
}

/// A caller's turn to load. If this is dropped, another caller gets the turn.
pub(super) struct Turn<'a, C: Cache> {
    cache: &'a C,
    key: &'a [u8],
    leader: Option<Leader<'a>>,
    /// Without a lease, the value is returned and not cached.
    lease: Option<(Lease, Option<Old>)>,
}

impl<'a, C: Cache> Turn<'a, C> {
    fn new(cache: &'a C, key: &'a [u8], leader: Leader<'a>, lease: Option<(Lease, Option<Old>)>) -> Self {
        Turn { cache, key, leader: Some(leader), lease }
    }

    /// Caches the loaded value and passes it to the callers that wait. The load began at `began`.
    pub(super) async fn finish(mut self, policy: &ReadPolicy, loaded: Loaded, began: Instant) -> Loaded {
        let mut as_of = began;
        let mut answer = loaded.clone();
        match &loaded {
            Ok(value) => {
                if let Some((lease, old)) = &self.lease {
                    let value = &value.clone().unwrap_or(Encoded::ABSENT);
                    let sent = Instant::now();
                    match policy.expiry(value) {
                        None => self.cache.give_back(self.key, lease, false).await,
                        Some(ttl) => match self.cache.fill(self.key, lease, value, ttl).await {
                            // The key was not deleted since the lease, so the value was current when the fill was sent.
                            // A delete that comes late by up to the bound could still have been under way.
                            Ok(true) => {
                                let bound = policy.freshness.as_ref().map(|freshness| began + freshness.bound());
                                as_of = bound.map_or(sent, |bound| bound.min(sent));
                            }
                            Ok(false) => tracing::debug!("a value changed while it was loaded, and was not cached"),
                            Err(error) => {
                                tracing::debug!(%error, "a loaded value was not cached");
                                self.cache.give_back(self.key, lease, old.is_some()).await;
                            }
                        },
                    }
                }
            }
            Err(error) => {
                if let Some((lease, old)) = &self.lease {
                    self.cache.give_back(self.key, lease, old.is_some()).await;
                    if let Some(old) = old.as_ref().filter(|old| policy.take_stale || !old.stale) {
                        tracing::warn!(%error, "a load failed, and the old value was taken");
                        answer = Ok(old.value.clone().present());
                    }
                }
                // A failure answers the callers that arrived during the load too.
                as_of = Instant::now();
            }
        }
        self.lease = None;
        if let Some(leader) = self.leader.take() {
            leader.land(loaded, as_of);
        }
        answer
    }
}

impl<C: Cache> Drop for Turn<'_, C> {
    fn drop(&mut self) {
        if let Some((lease, old)) = self.lease.take() {
            self.cache.abandon(self.key, lease, old.is_some());
        }
    }
}
