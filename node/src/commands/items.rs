//! Commands on items: reads, writes, arithmetic, touches and flushes.

use arrayvec::ArrayVec;
use larder_protocol::{
    Arithmetic, Delete, Direction, Error, Exptime, Get, Hit, Keys, Limits, Outcome, Reply, Store, StoreMode, Ttls,
    parse_lenient_u64,
};

use crate::cluster::NotHere;
use crate::commands::turn::Turn;
use crate::net::output::Output;
use crate::statistics::counters::{Counter, Counters};
use crate::store::{Entry, Expiry, Hash, InsertError, Item, NewItem};

/// Keys whose memory is fetched at once.
pub(crate) const BATCH: usize = 16;

/// Counts a miss, and why the item is missing.
fn count_miss(misses: &Counter, entry: &Entry<'_, '_>, counters: &Counters) {
    misses.add(1);
    counters.count_lost(entry.lost());
}

/// Reads the items of `get` and writes the whole reply.
pub(super) fn get(get: &Get<'_>, turn: &mut Turn<'_>) -> Result<(), NotHere> {
    match get.keys {
        Keys::One(key) => get_item(key, turn.hash(key), get, turn)?,
        Keys::Line(_) => {
            let mut keys = get.keys.iter().map(|key| (key, turn.shared.store.hash(key)));
            loop {
                let batch: ArrayVec<_, BATCH> = keys.by_ref().take(BATCH).collect();
                if batch.is_empty() {
                    break;
                }
                turn.shared.store.prefetch(batch.iter().map(|&(_, hash)| hash));
                for (key, hash) in batch {
                    if let Err(why) = get_item(key, hash, get, turn)
                        && let Some(router) = turn.router
                    {
                        router.leave_part(get, key, hash, why, turn.reply, turn.output, turn.holes);
                    }
                }
            }
        }
    }
    turn.reply.end_of_get(&mut turn.output.bytes);
    Ok(())
}

#[inline]
fn get_item(key: &[u8], hash: Hash, get: &Get<'_>, turn: &mut Turn<'_>) -> Result<(), NotHere> {
    let (counters, now) = (turn.counters, turn.now);
    let mut entry = turn.entry_of(key, hash)?;
    entry.note_read();
    let mut ttls = Ttls::default();
    // Meta flag `N`: the first client that misses gets an empty item to fill. The others find that it is won. It never
    // expires here; its time is set last, with that of an item which was there.
    if get.vivify.is_some() && !entry.is_occupied() {
        counters.count_lost(entry.lost());
        let stub = NewItem { won: true, cas: get.set_cas, ..NewItem::new(b"", 0, Expiry::NEVER) };
        ttls.created = entry.insert(stub).is_ok();
    }
    let is_meta = matches!(turn.reply, Reply::Meta(_));
    let item = entry.item();
    // A read that touches counts as a touch only, as in memcached; but an `mg` with `T` that misses counts as a get.
    let (hits, misses) = if get.touch.is_some() && !(is_meta && item.is_none()) {
        counters.cmd_touch.add(1);
        (&counters.touch_hits, &counters.touch_misses)
    } else {
        counters.cmd_get.add(1);
        counters.hits_to_warm.add(item.as_ref().is_some_and(|item| item.warm).into());
        (&counters.get_hits, &counters.get_misses)
    };
    let Some(item) = item else {
        count_miss(misses, &entry, counters);
        turn.reply.miss(key, &mut turn.output.bytes);
        return Ok(());
    };
    // Read before the command changes it: meta flag `t` in front of `T` reports the time that was left.
    ttls.before = item.expiry.remaining(now);
    hits.add(1);
    let new_expiry = new_expiry(get.touch, get.vivify, get.touch_vivified, turn, &mut ttls);
    // Meta flag `R`: the item expires so soon that a client should load it again already. An item that never expires
    // (no `ttl`) is never due.
    let due = get.recache.is_some_and(|recache| {
        let limit = turn.expiry(recache).remaining(now);
        let ttl = if get.recache_touched { ttls.touched } else { ttls.before };
        !ttls.created && ttl.is_some_and(|left| limit.is_some_and(|limit| left < limit))
    });
    // One client wins the right to load a stale or due item. Only meta replies can say so, hence only meta commands
    // win.
    let won = ttls.created || (is_meta && !item.won && (item.stale || due));
    // Meta flag `C` of a client that has this version already.
    let with_value = get.want_value && get.unless_cas != Some(item.cas);
    let hit = Hit {
        key,
        flags: item.flags,
        cas: turn.shared.visible_cas(item.cas),
        value_len: item.value.len(),
        with_value,
        ttls,
        since_access: now.0.saturating_sub(item.last_access.0),
        fetched: item.fetched,
        won,
        already_won: item.won && !ttls.created,
        stale: item.stale,
    };
    turn.reply.hit(&hit, &mut turn.output.bytes);
    if with_value {
        append_value(&item, turn.output);
        turn.output.bytes.extend_from_slice(turn.reply.after_value());
    }
    if won && !ttls.created {
        entry.mark_won();
    }
    if !get.no_bump {
        entry.bump();
    }
    // Last: a negative time removes the item, and this reply still has it.
    if let Some(expiry) = new_expiry {
        entry.set_expiry(expiry);
    }
    Ok(())
}

/// Returns the new expiry, if there is one, of an item that a command touches or has created, and notes its times to
/// live. `T` and `N` take effect in their order: `T` holds for a created item only if it follows `N`.
#[inline]
fn new_expiry(
    touch: Option<Exptime>,
    vivify: Option<Exptime>,
    touch_vivified: bool,
    turn: &Turn<'_>,
    ttls: &mut Ttls,
) -> Option<Expiry> {
    let touched = touch.map(|exptime| turn.expiry(exptime));
    ttls.touched = touched.map_or(ttls.before, |expiry| expiry.remaining(turn.now));
    let vivified = vivify.filter(|_| ttls.created).map(|exptime| turn.expiry(exptime));
    ttls.vivified = vivified.and_then(|expiry| expiry.remaining(turn.now));
    if touch_vivified { touched.or(vivified) } else { vivified.or(touched) }
}

#[inline]
fn append_value(item: &Item<'_>, output: &mut Output) {
    match item.pin() {
        None => output.bytes.extend_from_slice(item.value),
        Some(value) => output.push_value(value),
    }
}

pub(super) fn store(command: &Store<'_>, turn: &Turn<'_>) -> Result<Outcome<'static>, NotHere> {
    let counters = turn.counters;
    let mut entry = turn.entry_for_write(command.key, command.value)?;
    counters.cmd_set.add(1);
    counters.count_lost(entry.lost());
    let is_join = matches!(command.mode, StoreMode::Append | StoreMode::Prepend);
    let limits = Limits { item_size_max: turn.shared.store.item_size_max(), ..Limits::default() };
    let item = entry.item();
    let found = item.as_ref().map(|item| (item.cas, item.expiry, item.won));
    let joined = item.filter(|_| is_join).map_or((0, 0), |item| (item.value.len(), item.flags));
    let value_len = joined.0 + command.value.len();
    let too_long = is_join && limits.too_large(command.key.len(), joined.1, value_len);
    let mut new =
        NewItem { cas: command.set_cas, ..NewItem::new(command.value, command.flags, turn.expiry(command.exptime)) };
    let result = match (command.mode, command.compare_cas, found) {
        // An add that loses is still a use of the item: memcached moves it to the front of its LRU.
        (StoreMode::Add, _, Some(_)) => {
            entry.promote();
            return Ok(Outcome::NotStored);
        }
        // There is nothing to join. Meta flag `N` creates the item instead, with a time of its own.
        (StoreMode::Append | StoreMode::Prepend, _, None) => {
            let Some(exptime) = command.vivify else { return Ok(Outcome::NotStored) };
            new.expiry = turn.expiry(exptime);
            entry.insert(new)
        }
        // A comparison with an item that is not there is a miss, which clients can tell from a mismatch.
        (StoreMode::Set | StoreMode::Replace, Some(_), None) => {
            counters.cas_misses.add(1);
            return Ok(Outcome::NotFound);
        }
        (StoreMode::Replace, None, None) => return Ok(Outcome::NotStored),
        // 0 is "any" in the binary protocol. Joins do not count in the statistics of cas.
        (StoreMode::Append | StoreMode::Prepend, Some(cas), Some((item_cas, ..))) if cas != 0 && cas != item_cas => {
            return Ok(Outcome::Exists);
        }
        (StoreMode::Set | StoreMode::Replace, Some(cas), Some((item_cas, item_expiry, won))) => {
            if cas == 0 {
                // 0 is no CAS unique: it neither matches nor is lower than another.
                counters.cas_badval.add(1);
                return Ok(Outcome::Exists);
            } else if cas == item_cas {
                counters.cas_hits.add(1);
            } else if command.invalidate && cas < item_cas {
                counters.cas_hits.add(1);
                // Meta flag `I`, an older writer: its value may be served as stale, but it neither lives longer than
                // the newer one would have, nor takes the right to load from the client that has won it.
                new = NewItem { stale: true, won, expiry: item_expiry, ..new };
            } else {
                counters.cas_badval.add(1);
                return Ok(Outcome::Exists);
            }
            entry.insert(new)
        }
        // The limit is on the joined value. The old one is still good, so it stays.
        (StoreMode::Append | StoreMode::Prepend, ..) if too_long => return Ok(Outcome::NotStored),
        (StoreMode::Append, ..) => entry.append(command.value, command.set_cas),
        (StoreMode::Prepend, ..) => entry.prepend(command.value, command.set_cas),
        // No condition, or one that holds: an add without an item, a replace with one.
        (StoreMode::Set | StoreMode::Add | StoreMode::Replace, ..) => entry.insert(new),
    };
    Ok(match (is_join, result) {
        // memcached's reply where the joined value finds no room. The old one stays here too.
        (true, Err(_)) => Outcome::NotStored,
        (_, result) => {
            // A value that was refused must not leave its predecessor to be served.
            if result.is_err() {
                entry.remove();
            }
            stored(result, value_len, counters)
        }
    })
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

pub(super) fn delete(delete: &Delete<'_>, turn: &Turn<'_>) -> Result<Outcome<'static>, NotHere> {
    let counters = turn.counters;
    let mut entry = turn.entry(delete.key)?;
    let Some(item) = entry.item() else {
        count_miss(&counters.delete_misses, &entry, counters);
        return Ok(Outcome::NotFound);
    };
    if delete.compare_cas.is_some_and(|cas| cas != item.cas) {
        counters.delete_misses.add(1);
        return Ok(Outcome::Exists);
    }
    let cas = item.cas;
    // Meta flag `x`: the item stays, empty.
    if delete.remove_value {
        let exptime = delete.touch.unwrap_or(Exptime(0));
        let empty =
            NewItem { cas: delete.set_cas.or(Some(cas)), ..NewItem::new(b"", delete.flags, turn.expiry(exptime)) };
        if entry.insert(empty).is_err() {
            return Ok(Outcome::Error(Error::Server("out of memory")));
        }
    }
    // Meta flag `I`: the item stays, to be served as stale until a client has loaded it again.
    if delete.invalidate {
        if let Some(exptime) = delete.touch {
            entry.set_expiry(turn.expiry(exptime));
        }
        entry.mark_stale(delete.set_cas);
        return Ok(Outcome::Deleted);
    }
    counters.delete_hits.add(1);
    if !delete.remove_value {
        entry.remove();
    }
    Ok(Outcome::Deleted)
}

pub(super) fn arithmetic(arithmetic: &Arithmetic<'_>, turn: &Turn<'_>) -> Result<Outcome<'static>, NotHere> {
    let counters = turn.counters;
    let (hits, misses) = match arithmetic.direction {
        Direction::Up => (&counters.incr_hits, &counters.incr_misses),
        Direction::Down => (&counters.decr_hits, &counters.decr_misses),
    };
    let mut entry = turn.entry(arithmetic.key)?;
    let mut buffer = itoa::Buffer::new();
    let Some(item) = entry.item() else {
        if arithmetic.vivify.is_none() {
            count_miss(misses, &entry, counters);
            return Ok(Outcome::NotFound);
        }
        counters.count_lost(entry.lost());
        let value = buffer.format(arithmetic.initial).as_bytes();
        let mut ttls = Ttls { created: true, ..Ttls::default() };
        let Arithmetic { touch, vivify, touch_vivified, .. } = *arithmetic;
        let expiry = new_expiry(touch, vivify, touch_vivified, turn, &mut ttls).unwrap_or(Expiry::NEVER);
        let new = NewItem { cas: arithmetic.set_cas, ..NewItem::new(value, 0, expiry) };
        return Ok(match entry.insert(new) {
            Ok(cas) => Outcome::Number { value: arithmetic.initial, cas, ttls },
            Err(_) => Outcome::Error(Error::Server("Out of memory allocating new item")),
        });
    };
    if item.value.is_empty() {
        return Ok(Outcome::Error(Error::NON_NUMERIC));
    }
    if arithmetic.compare_cas.is_some_and(|cas| cas != 0 && cas != item.cas) {
        return Ok(Outcome::Exists);
    }
    let Some(old) = parse_lenient_u64(item.value) else { return Ok(Outcome::Error(Error::NON_NUMERIC)) };
    let value = match arithmetic.direction {
        Direction::Up => old.wrapping_add(arithmetic.delta),
        Direction::Down => old.saturating_sub(arithmetic.delta),
    };
    hits.add(1);
    let mut ttls = Ttls { before: item.expiry.remaining(turn.now), ..Ttls::default() };
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
        return Ok(Outcome::Error(Error::Server("out of memory")));
    };
    if let Some(expiry) = new_expiry(arithmetic.touch, None, false, turn, &mut ttls) {
        entry.set_expiry(expiry);
    }
    Ok(Outcome::Number { value, cas, ttls })
}

pub(super) fn touch(key: &[u8], exptime: Exptime, turn: &Turn<'_>) -> Result<Outcome<'static>, NotHere> {
    let counters = turn.counters;
    let mut entry = turn.entry(key)?;
    counters.cmd_touch.add(1);
    entry.note_read();
    if entry.item().is_none() {
        count_miss(&counters.touch_misses, &entry, counters);
        return Ok(Outcome::NotFound);
    }
    counters.touch_hits.add(1);
    entry.set_expiry(turn.expiry(exptime));
    entry.bump();
    Ok(Outcome::Touched)
}

/// Writes the metadata of an item (`me`).
pub(super) fn debug(key: &[u8], turn: &mut Turn<'_>) -> Result<(), NotHere> {
    let entry = turn.entry(key)?;
    let Some(item) = entry.item() else {
        turn.counters.count_lost(entry.lost());
        turn.write_reply(Outcome::Miss);
        return Ok(());
    };
    let line = format!(
        "exp={} la={} cas={} fetch={} cls=1 size={}",
        item.expiry.remaining(turn.now).map_or(-1, i64::from),
        turn.now.0.saturating_sub(item.last_access.0),
        turn.shared.visible_cas(item.cas),
        if item.fetched { "yes" } else { "no" },
        item.size,
    );
    turn.write_reply(Outcome::Debug(&line));
    Ok(())
}

pub(super) fn flush_all(at: Option<Exptime>, turn: &Turn<'_>) -> Result<Outcome<'static>, NotHere> {
    if let Some(router) = turn.router {
        router.admit_flush()?;
    }
    turn.counters.cmd_flush.add(1);
    if turn.shared.settings.no_flush_all {
        return Ok(Outcome::Error(Error::Client("flush_all not allowed")));
    }
    // As in memcached, a delay of 0 or less is at once.
    let at = at.filter(|at| at.0 > 0).and_then(|at| turn.expiry(at).time());
    turn.shared.store.flush_all(at.unwrap_or(turn.now), turn.now);
    Ok(Outcome::Ok)
}
