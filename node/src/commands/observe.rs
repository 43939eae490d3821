//! Commands while somebody wants to know of them: `stats detail` and `watch`.
//!
//! What a command does is told from outside it, by a look at its keys before and at what it came to; so the code of the
//! commands themselves is free of this, and where nobody asks it costs one branch.

use std::os::fd::RawFd;

use larder_protocol::{Command, Outcome, Reply, Request};

use crate::clock::expiry;
use crate::commands::effect::Next;
use crate::commands::events::{Found, Topics};
use crate::counters::Counters;
use crate::net::output::Output;
use crate::shared::Shared;
use crate::statistics::prefixes::Asked;
use crate::store::{Hash, Time};

/// Carries out `request` and tells of it.
#[cold]
pub(crate) fn carry_out(
    request: &Request<'_>,
    hash: Hash,
    shared: &Shared,
    counters: &Counters,
    now: Time,
    client: RawFd,
    output: &mut Output,
) -> Result<Outcome<'static>, Next> {
    let observer = Observer { shared, counters, now, client };
    let found = match &request.command {
        Command::Get(get) => {
            for key in get.keys.iter() {
                let found = observer.look_up(key);
                observer.count(key, Asked::Get { hit: matches!(found, Found::Item { .. }) });
            }
            Found::Nothing
        }
        Command::Store(command) => {
            observer.count(command.key, Asked::Set);
            observer.look_up(command.key)
        }
        Command::Delete(delete) => {
            observer.count(delete.key, Asked::Delete);
            observer.look_up(delete.key)
        }
        Command::Arithmetic(arithmetic) => observer.look_up(arithmetic.key),
        Command::Touch { key, .. } => observer.look_up(key),
        _ => Found::Nothing,
    };
    let outcome = super::carry_out(request, hash, shared, counters, now, output)?;
    match (&request.command, found) {
        (Command::Store(command), _) if shared.watchers.wants(Topics::MUTATIONS) => {
            shared.watchers.stored(command, &outcome, expiry(command.exptime, now), now, client);
        }
        (Command::Delete(delete), Found::Item { size })
            if outcome == Outcome::Deleted && !delete.invalidate && shared.watchers.wants(Topics::DELETIONS) =>
        {
            let command = if matches!(request.reply, Reply::Meta(_)) { "md" } else { "delete" };
            shared.watchers.deleted(delete.key, command, size);
        }
        _ => {}
    }
    Ok(outcome)
}

struct Observer<'a> {
    shared: &'a Shared,
    counters: &'a Counters,
    now: Time,
    client: RawFd,
}

impl Observer<'_> {
    /// Finds what the command is about to find, and tells of it.
    fn look_up(&self, key: &[u8]) -> Found {
        let store = &self.shared.store;
        let entry = store.entry(key, store.hash(key), self.now);
        // The look itself removes what has expired, and the command finds nothing any more.
        self.counters.get_expired.add(entry.was_expired().into());
        let found = match entry.item() {
            Some(item) => Found::Item { size: item.value.len() },
            None if entry.was_expired() => Found::Expired,
            None => Found::Nothing,
        };
        drop(entry);
        if self.shared.watchers.wants(Topics::FETCHERS) {
            self.shared.watchers.fetched(key, found, self.client);
        }
        found
    }

    fn count(&self, key: &[u8], asked: Asked) {
        if self.shared.prefixes.on() {
            self.shared.prefixes.count(key, asked);
        }
    }
}
