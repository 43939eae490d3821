//! Commands while `watch` or `stats detail` is on.
//!
//! A command is observed from outside: its keys are looked up before it, and its effect is read after it. So the
//! commands themselves know nothing of this, and while nobody observes it costs one branch.

use larder_protocol::{Command, Get, Keys, Outcome, Reply};

use crate::cluster::NotHere;
use crate::commands::effect::Effect;
use crate::commands::events::{Found, Topics};
use crate::commands::turn::Turn;
use crate::statistics::prefixes::Counted;

/// Counts the keys of `command` by prefix, and reports what it is about to find under each.
///
/// Returns what the key of a single-key command has. Every such command is looked up, but for `me`, which only shows.
/// Keys of other members are observed there.
pub(crate) fn before(command: &Command<'_>, turn: &Turn<'_>) -> Result<Found, NotHere> {
    let found = match command {
        Command::Get(Get { keys: Keys::Line(_), .. }) | Command::Debug { .. } => Found::Nothing,
        _ => command.key().map_or(Ok(Found::Nothing), |key| look_up(key, turn))?,
    };
    match command {
        Command::Get(get) => {
            let count = |key, found| count(key, Counted::Get { hit: matches!(found, Found::Item { .. }) }, turn);
            match get.keys {
                Keys::One(key) => count(key, found),
                Keys::Line(_) => {
                    get.keys.iter().for_each(|key| _ = look_up(key, turn).map(|found| count(key, found)));
                }
            }
        }
        Command::Store(store) => count(store.key, Counted::Set, turn),
        Command::Delete(delete) => count(delete.key, Counted::Delete, turn),
        _ => {}
    }
    Ok(found)
}

/// Reports the change that `command` has made. `found` is what [`before`] returned.
pub(crate) fn after(command: &Command<'_>, found: Found, effect: &Effect, turn: &Turn<'_>) {
    let watchers = &turn.shared.watchers;
    match (command, effect) {
        (Command::Store(store), Effect::Reply(outcome)) if watchers.wants(Topics::MUTATIONS) => {
            watchers.stored(store, outcome, turn.expiry(store.exptime), turn.now, turn.descriptor);
        }
        (Command::Delete(delete), Effect::Reply(Outcome::Deleted))
            if !delete.invalidate && watchers.wants(Topics::DELETIONS) =>
        {
            if let Found::Item { size } = found {
                let command = if matches!(turn.reply, Reply::Meta(_)) { "md" } else { "delete" };
                watchers.deleted(delete.key, command, size);
            }
        }
        _ => {}
    }
}

/// Finds what the command is about to find, and reports it.
fn look_up(key: &[u8], turn: &Turn<'_>) -> Result<Found, NotHere> {
    let entry = turn.entry_of(key, turn.shared.store.hash(key))?;
    // The command itself will not find that the item is lost.
    turn.counters.count_lost(entry.lost());
    let found = match (entry.item(), entry.lost()) {
        (Some(item), _) => Found::Item { size: item.value.len() },
        (None, Some(lost)) => Found::Lost(lost),
        (None, None) => Found::Nothing,
    };
    drop(entry);
    if turn.shared.watchers.wants(Topics::FETCHERS) {
        turn.shared.watchers.fetched(key, found, turn.descriptor);
    }
    Ok(found)
}

fn count(key: &[u8], asked: Counted, turn: &Turn<'_>) {
    if turn.shared.prefixes.on() {
        turn.shared.prefixes.count(key, asked);
    }
}
