//! `lru_crawler metadump` and `mgdump`: all keys, a slice of the store at a time.
//!
//! A slice is written before the next is read, so a client that does not read holds up its own connection and nothing
//! else: no memory grows, and the store is locked for one slice only.

use std::io::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use larder_protocol::{Command, Get, Keys, MetaCommand, MetaReply, Reply, Request};

use crate::store::{ItemInfo, Time};
use crate::watch::url;

/// A dump that a client asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dump {
    pub(crate) format: Format,
    /// Of all items, not of a slab class without any.
    pub(crate) all: bool,
}

/// What is told of each item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// All that is known (protocol.txt, "LRU_Crawler").
    Metadata,
    /// A command that reads it.
    Get,
}

impl Format {
    /// Appends one item's line.
    pub(crate) fn item(self, info: &ItemInfo<'_>, out: &mut Vec<u8>) {
        match self {
            Format::Metadata => {
                let ItemInfo { key, cas, size, flags, .. } = *info;
                let (key, access) = (url(key), info.last_access.0);
                let expiry = info.expiry.time().map_or(-1, |Time(time)| i64::from(time));
                let fetched = if info.fetched { "yes" } else { "no" };
                // The blank at the end is memcached's.
                let _ = writeln!(
                    out,
                    "key={key} exp={expiry} la={access} cas={cas} fetch={fetched} cls=1 size={size} flags={flags} "
                );
            }
            Format::Get => {
                let get = Get { want_value: false, ..Get::new(Keys::One(info.key)) };
                let reply = MetaReply { command: MetaCommand::Get, flags: b"", key: b"", quiet: false, value_len: 0 };
                Request { command: Command::Get(get), reply: Reply::Meta(reply) }.encode(out);
            }
        }
    }

    /// What ends a dump.
    pub(crate) fn end(self) -> &'static [u8] {
        match self {
            Format::Metadata => b"END\r\n",
            Format::Get => b"EN\r\n",
        }
    }
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

    /// Begins a dump; `None` where one is on its way.
    pub(crate) fn begin(&self) -> Option<Running<'_>> {
        if self.running.swap(true, Ordering::Acquire) {
            return None;
        }
        self.starts.fetch_add(1, Ordering::Relaxed);
        Some(Running(self))
    }
}

/// A dump on its way, until this is dropped.
pub(crate) struct Running<'a>(&'a Crawler);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.store(false, Ordering::Release);
    }
}
