//! Beats: up to which moment all changes are known to have been deleted at a node.
//!
//! The leading invalidator counts on each node: it reads the counter, then reads the outbox, delivers what it found to
//! that node, and then adds one to the counter, unless somebody else did. A reader looks at the counter now and then
//! and notes when. When it sees n + 2, all that was committed before it first saw n has been deleted at that node: n +
//! 1 appeared after it saw n, the invalidator read the outbox for n + 2 after it had read n + 1, and wrote n + 2 after
//! it had delivered. (n + 1 would not do: its outbox may have been read before the commit, and written after the look.)
//! Only the reader's own clock is read. An invalidator that was paused, or a second one, finds the counter changed.
//!
//! A counter that begins anew, after a restart or a flush, or where it was evicted, has another epoch: nothing before
//! it counts.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use larder_client::{Client, Freshness, NotFresh};
use larder_protocol::peer::LOCAL_KEYS;
use metrics::counter;
use parking_lot::Mutex;
use tokio::task::JoinHandle;

/// How often readers look at the beats, and invalidators make them.
pub(crate) const PACE: Duration = Duration::from_millis(100);

/// How many beats must follow the one that was seen.
const LATER: u64 = 2;

/// The key of a datastore's beats. Every node has its own item under it, in a cluster too.
pub(crate) fn beat_key(store: &str) -> String {
    format!("{LOCAL_KEYS}{store}")
}

/// A counter and its epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Beat {
    pub(crate) epoch: u64,
    pub(crate) count: u64,
}

impl Beat {
    /// The first of a new epoch.
    pub(crate) fn first() -> Beat {
        Beat { epoch: rand::random(), count: 1 }
    }

    pub(crate) fn next(self) -> Beat {
        Beat { count: self.count + 1, ..self }
    }

    pub(crate) fn parse(value: &[u8]) -> Option<Beat> {
        let (epoch, count) = std::str::from_utf8(value).ok()?.split_once(':')?;
        Some(Beat { epoch: u64::from_str_radix(epoch, 16).ok()?, count: count.parse().ok()? })
    }
}

impl fmt::Display for Beat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}:{}", self.epoch, self.count)
    }
}

/// What a reader has seen of a node's beats.
#[derive(Debug)]
pub(crate) struct Seen {
    /// How many beats must follow; the model tries fewer.
    later: u64,
    epoch: u64,
    /// Counts, rising, and when the last look that saw each was sent.
    looks: VecDeque<(u64, Instant)>,
}

impl Default for Seen {
    fn default() -> Self {
        Seen::after(LATER)
    }
}

impl Seen {
    pub(crate) fn after(later: u64) -> Seen {
        Seen { later, epoch: 0, looks: VecDeque::new() }
    }

    /// A look that was sent then found this.
    pub(crate) fn note(&mut self, sent: Instant, beat: Option<Beat>) {
        let Some(beat) = beat else {
            self.looks.clear();
            return;
        };
        let last = self.looks.back().map(|(count, _)| *count);
        if self.epoch != beat.epoch || last.is_some_and(|last| last > beat.count) {
            self.looks.clear();
            self.epoch = beat.epoch;
        }
        match self.looks.back_mut() {
            Some((count, last)) if *count == beat.count => *last = sent,
            _ => self.looks.push_back((beat.count, sent)),
        }
        while self.looks.get(1).is_some_and(|(count, _)| count + self.later <= beat.count) {
            self.looks.pop_front();
        }
    }

    /// All that was committed before this moment has been deleted.
    pub(crate) fn as_of(&self) -> Option<Instant> {
        let (current, _) = self.looks.back()?;
        let (count, sent) = self.looks.front()?;
        (count + self.later <= *current).then_some(*sent)
    }
}

/// What is known of all nodes, for all readers of a process.
#[derive(Debug, Default)]
pub(crate) struct Beats {
    nodes: Mutex<HashMap<String, Seen>>,
    pub(crate) bound: Duration,
    /// As [`Seen::after`].
    later: u64,
    /// Hits that were not known to be within the bound.
    pub(crate) not_fresh: AtomicU64,
}

impl Beats {
    /// Nothing is known yet.
    pub(crate) fn within(bound: Duration) -> Beats {
        Beats { bound, later: LATER, ..Beats::default() }
    }

    /// A protocol that must fail.
    pub(crate) fn broken(self) -> Beats {
        Beats { later: LATER - 1, ..self }
    }

    /// Looks at the beats of all nodes, for as long as it is polled.
    pub(crate) async fn watch(self: Arc<Self>, cache: Client, store: String) {
        let key = beat_key(&store);
        let mut looking: HashMap<Arc<str>, JoinHandle<()>> = HashMap::new();
        loop {
            let nodes = cache.every_node();
            looking.retain(|address, _| nodes.iter().any(|node| node.address() == address));
            self.nodes.lock().retain(|address, _| nodes.iter().any(|node| **node.address() == **address));
            for node in nodes {
                // A node that does not answer keeps no other waiting.
                let busy = looking.get(node.address()).is_some_and(|look| !look.is_finished());
                if !busy {
                    let (beats, key, address) = (self.clone(), key.clone(), node.address().clone());
                    let look = async move {
                        let sent = Instant::now();
                        if let Ok(item) = node.peek(key).await {
                            beats.note(node.address(), sent, item);
                        }
                    };
                    looking.insert(address, tokio::spawn(look));
                }
            }
            tokio::time::sleep(PACE).await;
        }
    }

    fn note(&self, node: &str, sent: Instant, item: Option<larder_client::Item>) {
        let beat = item.and_then(|item| Beat::parse(&item.value));
        let mut nodes = self.nodes.lock();
        match nodes.get_mut(node) {
            Some(seen) => seen.note(sent, beat),
            None => nodes.entry(node.to_owned()).or_insert(Seen::after(self.later)).note(sent, beat),
        }
    }

    pub(crate) fn as_of(&self, node: &str) -> Option<Instant> {
        self.nodes.lock().get(node)?.as_of()
    }
}

/// The beats, and what becomes of a hit that they do not cover.
#[derive(Debug)]
pub(crate) struct Strictness {
    pub(crate) beats: Arc<Beats>,
    pub(crate) not_fresh: NotFresh,
}

impl Freshness for Strictness {
    fn as_of(&self, node: &str) -> Option<Instant> {
        self.beats.as_of(node)
    }

    fn bound(&self) -> Duration {
        self.beats.bound
    }

    fn not_fresh(&self, _: &str) -> NotFresh {
        self.beats.not_fresh.fetch_add(1, Ordering::Relaxed);
        counter!("larder_not_fresh_total").increment(1);
        self.not_fresh
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_beats_must_follow_what_was_seen_within_one_epoch() {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let beat = |epoch, count| Some(Beat { epoch, count });
        let mut seen = Seen::default();
        seen.note(at(0), beat(1, 5));
        seen.note(at(50), beat(1, 5));
        seen.note(at(100), beat(1, 6));
        assert_eq!(seen.as_of(), None);
        seen.note(at(200), beat(1, 7));
        assert_eq!(seen.as_of(), Some(at(50)));
        // A look may miss beats.
        seen.note(at(600), beat(1, 20));
        assert_eq!(seen.as_of(), Some(at(200)));
        // Nothing new, nothing known beyond.
        seen.note(at(900), beat(1, 20));
        assert_eq!(seen.as_of(), Some(at(200)));
        for other in [beat(2, 21), beat(1, 3), None] {
            let mut seen = Seen::default();
            for (time, count) in [(0, 1), (1, 2), (2, 3)] {
                seen.note(at(time), beat(1, count));
            }
            assert!(seen.as_of().is_some());
            seen.note(at(10), if other == beat(1, 3) { beat(1, 2) } else { other });
            assert_eq!(seen.as_of(), None, "{other:?}");
        }
    }

    #[test]
    fn a_beat_is_read_as_it_is_written() {
        let beat = Beat::first().next();
        assert_eq!(Beat::parse(beat.to_string().as_bytes()), Some(beat));
        for wrong in [&b""[..], b"1", b"x:1", b"1:x", &[0xff, b':', b'1']] {
            assert_eq!(Beat::parse(wrong), None);
        }
    }
}
