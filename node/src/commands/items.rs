//! Commands on items: reads, writes and what lies between.

use arrayvec::ArrayVec;
use larder_protocol::{
    Arithmetic, Delete, Direction, Error, Exptime, Get, Hit, Keys, Limits, Outcome, Reply, StoreMode, parse_lenient_u64,
};

use crate::clock::expiry;
use crate::commands::effect::Next;
use crate::counters::{Counter, Counters};
use crate::net::output::Output;
use crate::shared::Shared;
use crate::store::{Entry, Expiry, Hash, InsertError, Item, NewItem, Store, Time};

/// Keys whose memory is fetched at once.
pub(crate) const BATCH: usize = 16;

/// Counts a miss. An item that was there until its time came counts as expired too.
fn count_miss(misses: &Counter, entry: &Entry<'_, '_>, counters: &Counters) {
    misses.add(1);
    counters.get_expired.add(entry.was_expired().into());
}

/// An item whose new value was refused must not be served with its old one.
pub(crate) fn forget(key: &[u8], store: &Store, now: Time) {
    store.entry(key, store.hash(key), now).remove();
}

pub(super) fn get_items(
    get: &Get<'_>,
    hash: Hash,
    reply: &Reply<'_>,
    shared: &Shared,
    counters: &Counters,
    now: Time,
    output: &mut Output,
) {
    match get.keys {
        Keys::One(key) => get_item(key, hash, get, reply, shared, counters, now, output),
        Keys::Line(_) => {
            let mut keys = get.keys.iter().map(|key| (key, shared.store.hash(key)));
            loop {
                let batch: ArrayVec<_, BATCH> = keys.by_ref().take(BATCH).collect();
                if batch.is_empty() {
                    break;
                }
                shared.store.prefetch(batch.iter().map(|&(_, hash)| hash));
                for (key, hash) in batch {
                    get_item(key, hash, get, reply, shared, counters, now, output);
                }
            }
        }
    }
    reply.end_of_get(&mut output.bytes);
}

#[inline]
#[expect(clippy::too_many_arguments, reason = "the loop over keys and the single key share it")]
fn get_item(
    key: &[u8],
    hash: Hash,
    get: &Get<'_>,
    reply: &Reply<'_>,
    shared: &Shared,
    counters: &Counters,
    now: Time,
    output: &mut Output,
) {
    let mut entry = shared.store.entry(key, hash, now);
    let old_ttl = entry.item().and_then(|item| item.expiry.remaining(now));
    let mut created = false;
    if entry.item().is_none() && get.vivify.is_some() {
        let stub = NewItem { won: true, cas: get.set_cas, ..NewItem::new(b"", 0, Expiry::NEVER) };
        created = entry.insert(stub).is_ok();
    }
    let (hits, misses) = if get.touch.is_some() {
        counters.cmd_touch.add(1);
        (&counters.touch_hits, &counters.touch_misses)
    } else {
        counters.cmd_get.add(1);
        (&counters.get_hits, &counters.get_misses)
    };
    let Some(item) = entry.item() else {
        count_miss(misses, &entry, counters);
        reply.miss(key, &mut output.bytes);
        return;
    };
    hits.add(1);
    let touched = get.touch.or(get.vivify.filter(|_| created)).map(|exptime| expiry(exptime, now));
    let ttl = touched.unwrap_or(item.expiry).remaining(now);
    let due = get.recache.is_some_and(|recache| {
        let limit = expiry(recache, now).remaining(now);
        !created && ttl.is_some_and(|left| limit.is_some_and(|limit| left < limit))
    });
    // Only meta commands can tell a client that it has won.
    let won = created || (matches!(reply, Reply::Meta(_)) && !item.won && (item.stale || due));
    let with_value = get.want_value && get.unless_cas != Some(item.cas);
    let hit = Hit {
        key,
        flags: item.flags,
        cas: shared.told_cas(item.cas),
        value_len: item.value.len(),
        with_value,
        ttl,
        old_ttl,
        since_access: now.0.saturating_sub(item.last_access.0),
        fetched: item.fetched,
        won,
        already_won: item.won && !created,
        stale: item.stale,
    };
    reply.hit(&hit, &mut output.bytes);
    if with_value {
        append_value(&item, output);
        output.bytes.extend_from_slice(reply.after_value());
    }
    if won && !created {
        entry.mark_won();
    }
    if !get.no_bump {
        entry.bump();
    }
    // Last, since an item that is touched to its end is gone; this answer still has it.
    if let Some(expiry) = touched {
        entry.set_expiry(expiry);
    }
}

#[inline]
fn append_value(item: &Item<'_>, output: &mut Output) {
    match item.pin() {
        None => output.bytes.extend_from_slice(item.value),
        Some(value) => output.push_value(value),
    }
}

fn stored(result: Result<u64, InsertError>, value_len: usize, counters: &Counters) -> Outcome<'static> {
    match result {
        Ok(cas) => Outcome::Stored { cas, value_len },
        Err(InsertError::TooLarge) => {
            counters.store_too_large.add(1);
            Outcome::Error(Error::TOO_LARGE)
        }
        Err(InsertError::OutOfMemory) => {
            counters.store_no_memory.add(1);
            Outcome::Error(Error::OUT_OF_MEMORY)
        }
    }
}

pub(super) fn store_item(
    command: &larder_protocol::Store<'_>,
    hash: Hash,
    store: &Store,
    counters: &Counters,
    now: Time,
) -> Outcome<'static> {
    counters.cmd_set.add(1);
    let mut entry = store.entry_for_write(command.key, hash, now, command.value);
    counters.get_expired.add(entry.was_expired().into());
    let found = entry.item().map(|item| (item.cas, item.expiry, item.won));
    let is_join = matches!(command.mode, StoreMode::Append | StoreMode::Prepend);
    let limits = Limits { item_size_max: store.item_size_max() };
    let joined = entry.item().filter(|_| is_join).map_or((0, 0), |item| (item.value.len(), item.flags));
    let value_len = joined.0 + command.value.len();
    let too_long = is_join && limits.too_large(command.key.len(), joined.1, value_len);
    let mut new =
        NewItem { cas: command.set_cas, ..NewItem::new(command.value, command.flags, expiry(command.exptime, now)) };
    let result = match (command.mode, command.compare_cas, found) {
        (StoreMode::Add, _, Some(_)) => {
            entry.promote();
            return Outcome::NotStored;
        }
        (StoreMode::Append | StoreMode::Prepend, _, None) => {
            let Some(exptime) = command.vivify else { return Outcome::NotStored };
            new.expiry = expiry(exptime, now);
            entry.insert(new)
        }
        (StoreMode::Set | StoreMode::Replace, Some(_), None) => {
            counters.cas_misses.add(1);
            return Outcome::NotFound;
        }
        (StoreMode::Replace, None, None) => return Outcome::NotStored,
        (StoreMode::Append | StoreMode::Prepend, Some(cas), Some((item_cas, ..))) if cas != 0 && cas != item_cas => {
            return Outcome::Exists;
        }
        (StoreMode::Set | StoreMode::Replace, Some(cas), Some((item_cas, item_expiry, won))) => {
            if cas == item_cas {
                counters.cas_hits.add(1);
            } else if command.invalidate && cas < item_cas {
                counters.cas_hits.add(1);
                // An older writer's value may be served as stale, and does not take the newer one's place in time.
                new = NewItem { stale: true, won, expiry: item_expiry, ..new };
            } else {
                counters.cas_badval.add(1);
                return Outcome::Exists;
            }
            entry.insert(new)
        }
        (StoreMode::Append | StoreMode::Prepend, ..) if too_long => return Outcome::NotStored,
        (StoreMode::Append, ..) => entry.append(command.value, command.set_cas),
        (StoreMode::Prepend, ..) => entry.prepend(command.value, command.set_cas),
        (StoreMode::Set | StoreMode::Add | StoreMode::Replace, ..) => entry.insert(new),
    };
    match (is_join, result) {
        // memcached answers so where the longer value finds no room.
        (true, Err(_)) => Outcome::NotStored,
        (_, result) => {
            if result.is_err() {
                entry.remove();
            }
            stored(result, value_len, counters)
        }
    }
}

pub(super) fn delete_item(
    delete: &Delete<'_>,
    hash: Hash,
    store: &Store,
    counters: &Counters,
    now: Time,
) -> Outcome<'static> {
    let mut entry = store.entry(delete.key, hash, now);
    let Some(item) = entry.item() else {
        count_miss(&counters.delete_misses, &entry, counters);
        return Outcome::NotFound;
    };
    if delete.compare_cas.is_some_and(|cas| cas != item.cas) {
        counters.delete_misses.add(1);
        return Outcome::Exists;
    }
    let cas = item.cas;
    if delete.remove_value {
        let exptime = delete.touch.unwrap_or(Exptime(0));
        let empty = NewItem { cas: delete.set_cas.or(Some(cas)), ..NewItem::new(b"", 0, expiry(exptime, now)) };
        if entry.insert(empty).is_err() {
            return Outcome::Error(Error::Server("out of memory"));
        }
    }
    if delete.invalidate {
        if let Some(exptime) = delete.touch {
            entry.set_expiry(expiry(exptime, now));
        }
        entry.mark_stale(delete.set_cas);
        return Outcome::Deleted;
    }
    counters.delete_hits.add(1);
    if !delete.remove_value {
        entry.remove();
    }
    Outcome::Deleted
}

pub(super) fn calculate(
    arithmetic: &Arithmetic<'_>,
    hash: Hash,
    store: &Store,
    counters: &Counters,
    now: Time,
) -> Outcome<'static> {
    let (hits, misses) = match arithmetic.direction {
        Direction::Up => (&counters.incr_hits, &counters.incr_misses),
        Direction::Down => (&counters.decr_hits, &counters.decr_misses),
    };
    let mut entry = store.entry(arithmetic.key, hash, now);
    let mut buffer = itoa::Buffer::new();
    let Some(item) = entry.item() else {
        let Some(exptime) = arithmetic.vivify else {
            count_miss(misses, &entry, counters);
            return Outcome::NotFound;
        };
        let value = buffer.format(arithmetic.initial).as_bytes();
        let new = NewItem { cas: arithmetic.set_cas, ..NewItem::new(value, 0, expiry(exptime, now)) };
        return match entry.insert(new) {
            Ok(cas) => Outcome::Number {
                value: arithmetic.initial,
                cas,
                ttl: entry.item().and_then(|item| item.expiry.remaining(now)),
                old_ttl: None,
            },
            Err(_) => Outcome::Error(Error::Server("Out of memory allocating new item")),
        };
    };
    if item.value.is_empty() {
        return Outcome::Error(Error::NON_NUMERIC);
    }
    if arithmetic.compare_cas.is_some_and(|cas| cas != 0 && cas != item.cas) {
        return Outcome::Exists;
    }
    let Some(old) = parse_lenient_u64(item.value) else { return Outcome::Error(Error::NON_NUMERIC) };
    let value = match arithmetic.direction {
        Direction::Up => old.wrapping_add(arithmetic.delta),
        Direction::Down => old.saturating_sub(arithmetic.delta),
    };
    hits.add(1);
    let old_ttl = item.expiry.remaining(now);
    let digits = buffer.format(value).as_bytes();
    // A number that loses digits keeps its length, padded with blanks (protocol.txt, "Increment/Decrement").
    let padded;
    let bytes = if digits.len() < item.value.len() {
        padded = [digits, &vec![b' '; item.value.len() - digits.len()]].concat();
        &padded
    } else {
        digits
    };
    let Ok(cas) = entry.set_value(bytes, arithmetic.set_cas) else {
        return Outcome::Error(Error::Server("out of memory"));
    };
    if let Some(exptime) = arithmetic.touch {
        entry.set_expiry(expiry(exptime, now));
    }
    Outcome::Number { value, cas, ttl: entry.item().and_then(|item| item.expiry.remaining(now)), old_ttl }
}

pub(super) fn touch(
    key: &[u8],
    hash: Hash,
    exptime: Exptime,
    store: &Store,
    counters: &Counters,
    now: Time,
) -> Outcome<'static> {
    counters.cmd_touch.add(1);
    let mut entry = store.entry(key, hash, now);
    if entry.item().is_none() {
        count_miss(&counters.touch_misses, &entry, counters);
        return Outcome::NotFound;
    }
    counters.touch_hits.add(1);
    entry.set_expiry(expiry(exptime, now));
    entry.bump();
    Outcome::Touched
}

pub(super) fn debug(
    key: &[u8],
    hash: Hash,
    reply: &Reply<'_>,
    shared: &Shared,
    now: Time,
    output: &mut Output,
) -> Next {
    let entry = shared.store.entry(key, hash, now);
    match entry.item() {
        None => reply.outcome(&Outcome::Miss, &mut output.bytes),
        Some(item) => {
            let line = format!(
                "exp={} la={} cas={} fetch={} cls=1 size={}",
                item.expiry.remaining(now).map_or(-1, i64::from),
                now.0.saturating_sub(item.last_access.0),
                shared.told_cas(item.cas),
                if item.fetched { "yes" } else { "no" },
                item.size,
            );
            reply.outcome(&Outcome::Debug(&line), &mut output.bytes);
        }
    }
    Next::Continue
}
