//! The `watch` command: events as they happen, a line each (protocol.txt, "Watchers").
//!
//! The worker that causes an event writes its line into the buffer of each watcher of its topic. A buffer is bounded: a
//! line that does not fit is skipped and counted, so a watcher that is slow to read delays nobody. Without watchers an
//! event costs one load ([`Watchers::wants`]).

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use larder_protocol::{Error, Outcome};
use parking_lot::{Mutex, RwLock};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, PercentEncode, percent_encode};
use tokio::sync::Notify;

use crate::net::open_sockets::{OpenSocket, Transport};
use crate::statistics::slab_classes::CLASS;
use crate::store::{Expiry, Lost, Store, Time};

/// Most watchers at a time, as in memcached.
const WATCHERS_MAX: usize = 20;

/// The topics of `watch`, one bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Topics(u32);

impl Topics {
    pub(crate) const NONE: Topics = Topics(0);
    pub(crate) const FETCHERS: Topics = Topics(1);
    pub(crate) const MUTATIONS: Topics = Topics(1 << 1);
    pub(crate) const DELETIONS: Topics = Topics(1 << 2);
    pub(crate) const EVICTIONS: Topics = Topics(1 << 3);
    pub(crate) const CONNECTIONS: Topics = Topics(1 << 4);
    /// Topics of what commands do.
    pub(crate) const COMMANDS: Topics = Topics::FETCHERS.and(Topics::MUTATIONS).and(Topics::DELETIONS);

    /// Parses the topics of a `watch` line. Returns `None` if a word is not a topic.
    pub(crate) fn parse(words: &[&str]) -> Option<Topics> {
        if words.is_empty() {
            return Some(Topics::FETCHERS);
        }
        words.iter().try_fold(Topics::NONE, |topics, &word| {
            let topic = match word {
                "fetchers" => Topics::FETCHERS,
                "mutations" => Topics::MUTATIONS,
                "deletions" => Topics::DELETIONS,
                "evictions" => Topics::EVICTIONS,
                "connevents" => Topics::CONNECTIONS,
                // These have no events here; memcached 1.6.45 has no line for a raw command either.
                "rawcmds" | "sysevents" | "proxyreqs" | "proxyevents" | "proxyuser" => Topics::NONE,
                _ => return None,
            };
            Some(topics.and(topic))
        })
    }

    const fn and(self, other: Topics) -> Topics {
        Topics(self.0 | other.0)
    }

    fn has(self, other: Topics) -> bool {
        self.0 & other.0 != 0
    }
}

/// All watchers.
#[derive(Debug)]
pub(crate) struct Watchers {
    /// Topics that any watcher has asked for.
    wanted: AtomicU32,
    list: RwLock<Vec<Arc<Watcher>>>,
    /// The number of the last event.
    last_id: AtomicU64,
    /// Whether the store records evictions.
    notes_evictions: AtomicBool,
    buffer_max: usize,
    written: AtomicU64,
    skipped: AtomicU64,
    sent: AtomicU64,
}

#[derive(Debug)]
struct Watcher {
    topics: Topics,
    buffer: Mutex<Buffer>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct Buffer {
    lines: Vec<u8>,
    /// Lines skipped since the last one was written.
    skipped: u64,
}

impl Watchers {
    /// `buffer_max`: bytes of lines that wait for one watcher.
    pub(crate) fn new(buffer_max: usize) -> Self {
        Watchers {
            wanted: AtomicU32::new(0),
            list: RwLock::default(),
            last_id: AtomicU64::new(0),
            notes_evictions: AtomicBool::new(false),
            buffer_max,
            written: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
            sent: AtomicU64::new(0),
        }
    }

    pub(crate) fn buffer_max(&self) -> usize {
        self.buffer_max
    }

    /// Whether a watcher has asked for one of `topics`.
    #[inline]
    pub(crate) fn wants(&self, topic: Topics) -> bool {
        self.wanted.load(Ordering::Relaxed) & topic.0 != 0
    }

    /// Adds a watcher. Returns `None` if there are [`WATCHERS_MAX`] already.
    pub(crate) fn add(self: &Arc<Self>, topics: Topics) -> Option<Watching> {
        let mut list = self.list.write();
        if list.len() >= WATCHERS_MAX {
            return None;
        }
        let watcher = Arc::new(Watcher { topics, buffer: Mutex::default(), filled: Notify::new() });
        list.push(watcher.clone());
        self.count_wanted(&list);
        Some(Watching { watchers: self.clone(), watcher })
    }

    fn count_wanted(&self, list: &[Arc<Watcher>]) {
        let all = list.iter().fold(Topics::NONE, |topics, watcher| topics.and(watcher.topics));
        self.wanted.store(all.0, Ordering::Relaxed);
    }

    /// Writes an event to the watchers of its topic. `line` is the text after the event's number.
    fn log(&self, topic: Topics, line: std::fmt::Arguments<'_>) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let id = self.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        let line = format!("ts={}.{:06} gid={id} {line}\n", since.as_secs(), since.subsec_micros());
        self.written.fetch_add(1, Ordering::Relaxed);
        for watcher in self.list.read().iter().filter(|watcher| watcher.topics.has(topic)) {
            let mut buffer = watcher.buffer.lock();
            // Room for a line with the number of skipped events.
            if buffer.lines.len() + line.len() + 32 > self.buffer_max {
                buffer.skipped += 1;
                self.skipped.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            buffer.tell_skipped();
            buffer.lines.extend_from_slice(line.as_bytes());
            self.sent.fetch_add(1, Ordering::Relaxed);
            drop(buffer);
            watcher.filled.notify_one();
        }
    }

    /// Reports the look-up of a key and what it found.
    pub(crate) fn fetched(&self, key: &[u8], found: Found, descriptor: i32) {
        let (status, class, size) = match found {
            Found::Item { size } => ("found", CLASS, size),
            Found::Lost(Lost::Expired) => ("expired", 0, 0),
            Found::Lost(Lost::Flushed) => ("flushed", 0, 0),
            Found::Nothing => ("not_found", 0, 0),
        };
        let key = url(key);
        self.log(
            Topics::FETCHERS,
            format_args!("type=item_get key={key} status={status} clsid={class} cfd={descriptor} size={size}"),
        );
    }

    /// Reports a store and its outcome.
    pub(crate) fn stored(
        &self,
        store: &larder_protocol::Store<'_>,
        outcome: &Outcome<'_>,
        expiry: Expiry,
        now: Time,
        descriptor: i32,
    ) {
        use larder_protocol::StoreMode;
        let command = match store.mode {
            StoreMode::Set if store.compare_cas.is_some() => "cas",
            StoreMode::Set => "set",
            StoreMode::Add => "add",
            StoreMode::Replace => "replace",
            StoreMode::Append => "append",
            StoreMode::Prepend => "prepend",
        };
        let (status, size) = match *outcome {
            Outcome::Stored { value_len, .. } => ("stored", value_len),
            Outcome::Exists => ("exists", store.value.len()),
            Outcome::NotFound => ("not_found", store.value.len()),
            Outcome::Error(Error::TOO_LARGE) => ("too_large", 0),
            Outcome::Error(Error::OUT_OF_MEMORY) => ("no_memory", 0),
            _ => ("not_stored", store.value.len()),
        };
        let (key, ttl) = (url(store.key), expiry.remaining(now).unwrap_or(0));
        self.log(
            Topics::MUTATIONS,
            format_args!(
                "type=item_store key={key} status={status} cmd={command} ttl={ttl} clsid={CLASS} cfd={descriptor} size={size}"
            ),
        );
    }

    /// Reports a value that was refused before it was read.
    pub(crate) fn refused(&self, key: &[u8], error: Error, descriptor: i32) {
        let key = url(key);
        let status = if error == Error::TOO_LARGE { "too_large" } else { "no_memory" };
        self.log(
            Topics::MUTATIONS,
            format_args!("type=item_store key={key} status={status} cmd=set ttl=0 clsid=0 cfd={descriptor} size=0"),
        );
    }

    /// Reports an item that a client has removed.
    pub(crate) fn deleted(&self, key: &[u8], command: &str, size: usize) {
        let key = url(key);
        self.log(Topics::DELETIONS, format_args!("type=deleted key={key} cmd={command} clsid={CLASS} size={size}"));
    }

    /// Reports the items evicted since the last call.
    pub(crate) fn show_evictions(&self, store: &Store, now: Time) {
        let wanted = self.wants(Topics::EVICTIONS);
        if self.notes_evictions.swap(wanted, Ordering::Relaxed) != wanted {
            store.watch_evictions(wanted);
        }
        if !wanted {
            return;
        }
        let more = store.take_evictions(|item| {
            let key = url(item.key);
            let fetched = if item.fetched { "yes" } else { "no" };
            let ttl = item.expiry.remaining(now).map_or(-1, i64::from);
            let idle = now.0.saturating_sub(item.last_access.0);
            let size = item.value_len;
            self.log(
                Topics::EVICTIONS,
                format_args!("type=eviction key={key} fetch={fetched} ttl={ttl} la={idle} clsid={CLASS} size={size}"),
            );
        });
        for watcher in self.list.read().iter().filter(|watcher| watcher.topics.has(Topics::EVICTIONS)) {
            watcher.buffer.lock().skipped += more;
            self.skipped.fetch_add(more, Ordering::Relaxed);
        }
    }

    /// Reports a new connection.
    pub(crate) fn connected(&self, socket: &OpenSocket) {
        self.log(Topics::CONNECTIONS, format_args!("type=conn_new {} cfd={}", whence(socket), socket.descriptor));
    }

    /// Reports the end of a connection, with the reason in memcached's words.
    pub(crate) fn closed(&self, socket: &OpenSocket, reason: &str) {
        let (whence, descriptor) = (whence(socket), socket.descriptor);
        self.log(Topics::CONNECTIONS, format_args!("type=conn_close {whence} reason={reason} cfd={descriptor}"));
    }

    /// Reports the statistics of watchers for `stats`.
    pub(crate) fn statistics(&self, mut show: impl FnMut(&str, u64)) {
        show("log_worker_written", self.written.load(Ordering::Relaxed));
        show("log_watcher_skipped", self.skipped.load(Ordering::Relaxed));
        show("log_watcher_sent", self.sent.load(Ordering::Relaxed));
        show("log_watchers", self.list.read().len() as u64);
    }

    pub(crate) fn reset_statistics(&self) {
        for counter in [&self.written, &self.skipped, &self.sent] {
            counter.store(0, Ordering::Relaxed);
        }
    }
}

impl Buffer {
    fn tell_skipped(&mut self) {
        if self.skipped > 0 {
            let _ = writeln!(self.lines, "skipped={}", self.skipped);
            self.skipped = 0;
        }
    }
}

/// One watcher. It is removed when this drops.
#[derive(Debug)]
pub(crate) struct Watching {
    watchers: Arc<Watchers>,
    watcher: Arc<Watcher>,
}

impl Watching {
    /// Waits for lines, then swaps all of them into the empty `lines`.
    pub(crate) async fn take(&self, lines: &mut Vec<u8>) {
        loop {
            std::mem::swap(&mut self.watcher.buffer.lock().lines, lines);
            if !lines.is_empty() {
                return;
            }
            self.watcher.filled.notified().await;
        }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let mut list = self.watchers.list.write();
        list.retain(|watcher| !Arc::ptr_eq(watcher, &self.watcher));
        self.watchers.count_wanted(&list);
    }
}

/// The result of a look-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// An item with a value of `size` bytes.
    Item {
        size: usize,
    },
    /// An item that had expired or was flushed.
    Lost(Lost),
    Nothing,
}

fn whence(socket: &OpenSocket) -> String {
    let transport = match socket.transport {
        Transport::Local => "local",
        Transport::Tcp => "tcp",
        Transport::Udp => "udp",
    };
    let (ip, port) = socket.peer.map_or(("unix".to_owned(), 0), |peer| (peer.ip().to_string(), peer.port()));
    format!("rip={ip} rport={port} transport={transport}")
}

/// Bytes of a key that stand for themselves; others are written as percent and two hexadecimal digits (RFC 3986).
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Returns a key as one word without blanks.
pub(crate) fn url(key: &[u8]) -> PercentEncode<'_> {
    percent_encode(key, ENCODED)
}
