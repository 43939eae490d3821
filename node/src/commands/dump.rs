//! `lru_crawler metadump` and `mgdump`, and `stats sizes`: all items, a slice of the store at a time.
//!
//! A slice is written before the next is read, so a client that does not read holds up its own connection and nothing
//! else: no memory grows, and the store is locked for one slice only.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use larder_protocol::meta::Line;

use crate::commands::events::url;
use crate::server::Shared;
use crate::statistics::CLASS;
use crate::store::{Cursor, ItemInfo, Time};

/// A dump that a client asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dump {
    pub(crate) format: Format,
    /// Of all items, not of a slab class without any.
    pub(crate) all: bool,
}

/// What is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// Of each item all that is known (protocol.txt, "LRU_Crawler").
    Metadata,
    /// For each item a command that reads it.
    Get,
    /// How many items there are of each size (protocol.txt, "Item size statistics").
    Sizes,
}

/// Bytes of one step of item sizes.
const SIZE_STEP: usize = 32;

/// A dump on its way: one at a time.
pub(crate) struct Listing<'a> {
    dump: Dump,
    shared: &'a Shared,
    cursor: Cursor,
    sizes: BTreeMap<usize, u64>,
}

impl<'a> Listing<'a> {
    /// Begins to write to `out`; `None` where another dump is on its way.
    pub(crate) fn begin(dump: Dump, shared: &'a Shared, out: &mut Vec<u8>) -> Option<Self> {
        if !shared.crawler.begin() {
            return None;
        }
        if dump.format != Format::Sizes {
            out.extend_from_slice(b"OK\r\n");
        }
        Some(Listing { dump, shared, cursor: Cursor::default(), sizes: BTreeMap::new() })
    }

    /// Appends a slice; false where it was the last.
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
        self.shared.crawler.running.store(false, Ordering::Release);
    }
}

fn metadata(info: &ItemInfo<'_>, out: &mut Vec<u8>) {
    let ItemInfo { key, cas, size, flags, .. } = *info;
    let (key, access) = (url(key), info.last_access.0);
    let expiry = info.expiry.time().map_or(-1, |Time(time)| i64::from(time));
    let fetched = if info.fetched { "yes" } else { "no" };
    // The blank at the end is memcached's.
    let _ = writeln!(
        out,
        "key={key} exp={expiry} la={access} cas={cas} fetch={fetched} cls={CLASS} size={size} flags={flags} "
    );
}

/// The answer while another dump is on its way.
pub(crate) const BUSY: &str = "BUSY currently processing crawler request";

/// What memcached calls its LRU crawler. Here it lists items; expired ones are reclaimed without it.
#[derive(Debug, Default)]
pub(crate) struct Crawler {
    enabled: AtomicBool,
    running: AtomicBool,
    /// Dumps and crawls ever begun.
    pub(crate) starts: AtomicU64,
    /// Items listed.
    pub(crate) checked: AtomicU64,
}

impl Crawler {
    pub(crate) fn new(enabled: bool) -> Self {
        Crawler { enabled: enabled.into(), ..Crawler::default() }
    }

    pub(crate) fn enabled(&self) -> bool {
        self.enabled.load(Ordering::Relaxed)
    }

    pub(crate) fn enable(&self, enabled: bool) {
        self.enabled.store(enabled, Ordering::Relaxed);
    }

    pub(crate) fn running(&self) -> bool {
        self.running.load(Ordering::Relaxed)
    }

    /// Begins a dump; false where a dump is on its way.
    fn begin(&self) -> bool {
        let free = !self.running.swap(true, Ordering::Acquire);
        self.starts.fetch_add(free.into(), Ordering::Relaxed);
        free
    }

    /// Counts a crawl, which is done at once.
    pub(crate) fn count_crawl(&self) {
        self.starts.fetch_add(1, Ordering::Relaxed);
    }
}
