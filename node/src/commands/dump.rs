//! `lru_crawler metadump` and `mgdump`, and `stats sizes`: all items, a slice of the store at a time.
//!
//! A slice is sent before the next is read, so a client that does not read stops its own connection and nothing
//! else: no memory grows, and the store is locked for one slice only.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::atomic::Ordering;

use larder_protocol::Error;
use larder_protocol::meta::Line;

use crate::commands::events::url;
use crate::shared::Shared;
use crate::statistics::slab_classes::{CLASS, CLASSES};
use crate::store::{Cursor, ItemInfo, Time};

/// A dump that a client has requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dump {
    pub(crate) format: Format,
    /// `false` lists nothing: the request names slab classes without items.
    pub(crate) all: bool,
}

/// The form of a dump.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// A line of metadata for each item (protocol.txt, "LRU_Crawler").
    Metadata,
    /// For each item a command that reads it.
    Get,
    /// How many items there are of each size (protocol.txt, "Item size statistics").
    Sizes,
}

/// Bytes of one step of item sizes.
const SIZE_STEP: usize = 32;

/// A running dump. There is one at a time.
pub(crate) struct Listing<'a> {
    dump: Dump,
    shared: &'a Shared,
    cursor: Cursor,
    sizes: BTreeMap<usize, u64>,
}

impl<'a> Listing<'a> {
    /// Starts a dump and writes its head to `out`. Returns `None` if another dump is running.
    pub(crate) fn begin(dump: Dump, shared: &'a Shared, out: &mut Vec<u8>) -> Option<Self> {
        if !shared.crawler.begin() {
            return None;
        }
        if dump.format != Format::Sizes {
            out.extend_from_slice(b"OK\r\n");
        }
        Some(Listing { dump, shared, cursor: Cursor::default(), sizes: BTreeMap::new() })
    }

    /// Appends a slice. Returns `false` after the last one.
    pub(crate) fn slice(&mut self, out: &mut Vec<u8>) -> bool {
        let Listing { dump: Dump { format, all }, shared, cursor, sizes } = self;
        let mut items = 0;
        let show = |info: &ItemInfo<'_>| {
            items += 1;
            match format {
                Format::Metadata => metadata(info, out),
                Format::Get => Line::get(out, info.key).end(),
                Format::Sizes => *sizes.entry(info.size.div_ceil(SIZE_STEP) * SIZE_STEP).or_default() += 1,
            }
        };
        let more = *all && shared.store.scan(cursor, shared.clock.now(), show);
        shared.crawler.checked.fetch_add(items, Ordering::Relaxed);
        if !more {
            for (size, count) in sizes {
                let _ = write!(out, "STAT {size} {count}\r\n");
            }
            out.extend_from_slice(if *format == Format::Get { b"EN\r\n" } else { b"END\r\n" });
        }
        more
    }
}

impl Drop for Listing<'_> {
    fn drop(&mut self) {
        self.shared.crawler.end();
    }
}

fn metadata(info: &ItemInfo<'_>, out: &mut Vec<u8>) {
    let ItemInfo { key, cas, size, flags, .. } = *info;
    let (key, access) = (url(key), info.last_access.0);
    let expiry = info.expiry.time().map_or(-1, |Time(time)| i64::from(time));
    let fetched = if info.fetched { "yes" } else { "no" };
    // memcached ends the line with a blank, too.
    let _ = writeln!(
        out,
        "key={key} exp={expiry} la={access} cas={cas} fetch={fetched} cls={CLASS} size={size} flags={flags} "
    );
}

/// Longest reply to `stats cachedump` in bytes, and the most items that it examines.
const CACHE_DUMP_MAX: usize = 2 * 1024 * 1024;
const CACHE_DUMP_ITEMS: u32 = 1 << 17;

/// `stats cachedump class limit`: some keys, with the bytes of their values and when they expire.
pub(crate) fn cache_dump(words: &[&[u8]], shared: &Shared, now: Time, out: &mut Vec<u8>) -> Result<(), Error> {
    if shared.settings.no_dumping {
        return Err(Error::Client("stats cachedump not allowed"));
    }
    let &[class, limit, ..] = words else { return Err(Error::Client("bad command line")) };
    let number = |word| std::str::from_utf8(word).ok().and_then(|word| word.parse::<u32>().ok());
    let (Some(class), Some(limit)) = (number(class), number(limit)) else { return Err(Error::BAD_FORMAT) };
    if class >= CLASSES {
        return Err(Error::Client("Illegal slab id"));
    }
    if class != CLASS {
        return Ok(());
    }
    let mut left = if limit == 0 { u32::MAX } else { limit };
    let most = out.len() + CACHE_DUMP_MAX;
    let (mut looked_at, mut more) = (0, true);
    let mut cursor = Cursor::default();
    while more && left > 0 && looked_at < CACHE_DUMP_ITEMS {
        more = shared.store.scan(&mut cursor, now, |info| {
            looked_at += 1;
            let is_text = !info.key.iter().any(|&byte| byte <= b' ' || byte == 0x7f);
            if left > 0 && is_text {
                let expiry = info.expiry.time().map_or(0, |time| time.0);
                out.extend_from_slice(b"ITEM ");
                out.extend_from_slice(info.key);
                out.extend_from_slice(format!(" [{} b; {expiry} s]\r\n", info.value_len).as_bytes());
                left = if out.len() < most { left - 1 } else { 0 };
            }
        });
    }
    Ok(())
}
