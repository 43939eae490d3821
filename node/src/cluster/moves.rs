//! Items on their way from a key's old owner to its new one.
//!
//! They move and are never copied: the old owner unlinks an item as it sends it. A new owner takes an item that a command
//! asks for, and pulls the rest in batches, over one link to each old owner. What comes over it is installed by one task in
//! the order in which it was sent: so an item that was pulled is in its place before a later take finds nothing.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use larder_protocol::peer::{BatchWriter, Message, Moved, Purpose, View};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{sleep_until, timeout};

use super::link::{Incoming, Outgoing, Remote};
use super::membership::Event;
use super::ownership::Place;
use super::peers::Peer;
use super::routing::Routing;
use super::{Cluster, Counts};
use crate::shared::Shared;
use crate::store::{Cursor, Expiry, NewItem, Time};

/// An old owner that is silent for so long is never asked again, under this view.
const SILENCE: Duration = Duration::from_secs(1);

/// Bytes asked for by one pull.
const BATCH: u32 = 64 * 1024;

/// Larger values are moved only when a command asks for them: takes do not wait behind them.
const PULLED_MAX: usize = 1024 * 1024;

/// Slices of the store that one pull looks at.
const SLICES: usize = 32;

/// Items used within so many seconds go first, then those within the next number. One scan of the store for each.
const AGES: [u32; 4] = [10, 60, 600, u32::MAX];

/// Items moved, for `stats cluster`.
#[derive(Debug, Default)]
pub(crate) struct MoveCounts {
    pub(crate) takes: AtomicU64,
    pub(crate) taken: AtomicU64,
    pub(crate) pulled: AtomicU64,
    pub(crate) given: AtomicU64,
    pub(crate) severed: AtomicU64,
}

/// The item under a key is wanted from an old owner.
struct Take {
    key: Vec<u8>,
    /// Told once the item is here, or is known not to be there.
    done: oneshot::Sender<()>,
}

/// The links on which this node gets items, under one view.
#[derive(Default)]
pub(crate) struct Movers {
    view: Arc<View>,
    by_place: HashMap<Place, (mpsc::UnboundedSender<Take>, tokio::task::AbortHandle)>,
}

impl Drop for Movers {
    fn drop(&mut self) {
        self.by_place.values().for_each(|(_, task)| task.abort());
    }
}

impl Cluster {
    /// Asks an old owner for the item under `key`. An error: the view is another by now, or the old owner is asked no more.
    pub(super) fn take(&self, view: &Arc<View>, from: Place, key: &[u8]) -> Option<oneshot::Receiver<()>> {
        let movers = self.movers.lock();
        let (queue, _) = movers.by_place.get(&from).filter(|_| Arc::ptr_eq(&movers.view, view))?;
        let (done, taken) = oneshot::channel();
        queue.send(Take { key: key.to_vec(), done }).ok()?;
        Counts::add(&self.moves.takes, 1);
        Some(taken)
    }

    /// Ends all moves to this node: what is on its way is discarded.
    pub(super) fn end_moves(&self) {
        drop(std::mem::take(&mut *self.movers.lock()));
    }

    /// Begins to get items from an old owner, where that has not begun.
    pub(super) fn begin_move(self: &Arc<Self>, shared: &Arc<Shared>, routing: &Routing, from: Place, sources: u32) {
        let mut movers = self.movers.lock();
        if !Arc::ptr_eq(&movers.view, &routing.view) {
            *movers = Movers { view: routing.view.clone(), by_place: HashMap::new() };
        }
        movers.by_place.entry(from).or_insert_with(|| {
            let (queue, takes) = mpsc::unbounded_channel();
            let mover = Mover {
                shared: shared.clone(),
                cluster: self.clone(),
                view: routing.view.clone(),
                peer: routing.member(from).clone(),
                expected: VecDeque::new(),
                rate: (self.options.move_rate / u64::from(sources.max(1))).max(1),
                next_pull: Instant::now(),
            };
            (queue, tokio::spawn(mover.run(from, takes)).abort_handle())
        });
    }
}

/// What the old owner has yet to answer, in order.
enum Expected {
    Take(Take),
    Pull,
}

struct Mover {
    shared: Arc<Shared>,
    cluster: Arc<Cluster>,
    view: Arc<View>,
    peer: Arc<Peer>,
    expected: VecDeque<Expected>,
    /// Bytes a second.
    rate: u64,
    next_pull: Instant,
}

/// What waits to be written to a link.
#[derive(Default)]
struct Outbox {
    bytes: Mutex<Vec<u8>>,
    wake: Notify,
}

impl Outbox {
    fn push(&self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.bytes.lock());
        self.wake.notify_one();
    }

    async fn write_to(&self, mut half: Outgoing) -> io::Result<()> {
        loop {
            let bytes = std::mem::take(&mut *self.bytes.lock());
            match bytes.is_empty() {
                true => self.wake.notified().await,
                false => half.write_all(&bytes).await?,
            }
        }
    }
}

impl Mover {
    async fn run(mut self, place: Place, mut takes: mpsc::UnboundedReceiver<Take>) {
        let mut heard = Instant::now();
        loop {
            match self.get(&mut takes, &mut heard).await {
                Ok(()) => break,
                Err(error) => {
                    tracing::debug!(member = self.peer.id, %error, "a link for items broke");
                    if heard.elapsed() >= SILENCE {
                        tracing::warn!(
                            member = self.peer.id,
                            "the member is silent: its items are left where they are"
                        );
                        Counts::add(&self.cluster.moves.severed, 1);
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
        // The link is closed. Whoever still waits looks again once the source is.
        let _ = self.cluster.events.send(Event::Closed { view: self.view.clone(), place });
    }

    /// Gets items until there are no further ones.
    async fn get(&mut self, takes: &mut mpsc::UnboundedReceiver<Take>, heard: &mut Instant) -> io::Result<()> {
        let dialled = timeout(SILENCE, self.cluster.identity.dial(&self.peer.address, Purpose::Move)).await;
        let (mut incoming, write, _) = dialled.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        let outbox = Outbox::default();
        outbox.push(|out| Message::View(View::clone(&self.view)).encode(0, out));
        // Of what was asked on a link that broke, nobody knows whether it was heard.
        self.expected.retain(|expected| matches!(expected, Expected::Take(_)));
        for expected in &self.expected {
            if let Expected::Take(take) = expected {
                outbox.push(|out| Message::Take { key: &take.key }.encode(0, out));
            }
        }
        let mut asked = Instant::now();
        let writing = outbox.write_to(write);
        tokio::pin!(writing);
        loop {
            let pulling = self.expected.iter().any(|expected| matches!(expected, Expected::Pull));
            tokio::select! {
                biased;
                written = &mut writing => return written,
                filled = incoming.fill() => {
                    filled?;
                    *heard = Instant::now();
                    asked = *heard;
                    while let Some(frame) = incoming.next()? {
                        if self.receive(frame.message)? {
                            return Ok(());
                        }
                    }
                    tokio::task::yield_now().await;
                }
                take = takes.recv() => match take {
                    Some(take) => {
                        if self.expected.is_empty() {
                            asked = Instant::now();
                        }
                        outbox.push(|out| Message::Take { key: &take.key }.encode(0, out));
                        self.expected.push_back(Expected::Take(take));
                    }
                    None => return Ok(()),
                },
                () = sleep_until(self.next_pull.into()), if !pulling => {
                    if self.expected.is_empty() {
                        asked = Instant::now();
                    }
                    let idle = self.idle();
                    outbox.push(|out| Message::Pull { idle, bytes: BATCH }.encode(0, out));
                    self.expected.push_back(Expected::Pull);
                }
                () = sleep_until((asked + SILENCE).into()), if !self.expected.is_empty() => {
                    return Err(io::ErrorKind::TimedOut.into());
                }
            }
        }
    }

    /// Items that were not used for so many seconds would be evicted at once, but for those that eviction has kept before.
    fn idle(&self) -> u32 {
        let store = &self.shared.store;
        let used = store.statistics().memory_used;
        if (used as f64) < store.memory_limit() as f64 * 0.95 {
            return u32::MAX;
        }
        let now = self.shared.clock.now();
        store.oldest_use(now).map_or(u32::MAX, |oldest| now.0.saturating_sub(oldest.0))
    }

    /// Installs what came. True: that was all.
    fn receive(&mut self, message: Message<'_>) -> io::Result<bool> {
        let unexpected = || io::Error::from(io::ErrorKind::InvalidData);
        match message {
            Message::Taken(item) => {
                let Some(Expected::Take(take)) = self.expected.pop_front() else { return Err(unexpected()) };
                if let Some(item) = item {
                    if item.key != take.key {
                        return Err(unexpected());
                    }
                    self.install(&item);
                    Counts::add(&self.cluster.moves.taken, 1);
                }
                let _ = take.done.send(());
            }
            Message::Pulled(batch) => {
                let Some(Expected::Pull) = self.expected.pop_front() else { return Err(unexpected()) };
                let mut items = 0;
                for item in batch.iter() {
                    self.install(&item);
                    items += 1;
                }
                Counts::add(&self.cluster.moves.pulled, items);
                let pause = Duration::from_secs_f64(batch.bytes() as f64 / self.rate as f64);
                self.next_pull = self.next_pull.max(Instant::now() - Duration::from_millis(100)) + pause;
            }
            Message::Done => {
                let Some(Expected::Pull) = self.expected.pop_front() else { return Err(unexpected()) };
                return Ok(true);
            }
            Message::View(_) => {}
            _ => return Err(unexpected()),
        }
        Ok(false)
    }

    /// Puts an item in its place, where there is none that was written since.
    fn install(&self, item: &Moved<'_>) {
        let gate = self.cluster.enter();
        if !Arc::ptr_eq(&gate.view, &self.view) || !gate.standing(item.key).is_authority() {
            return;
        }
        let store = &self.shared.store;
        let now = self.shared.clock.now();
        let expiry = item.ttl.map_or(Expiry::NEVER, |ttl| Expiry::at(Time(now.0.saturating_add(ttl))));
        let mut entry = store.entry_for_write(item.key, store.hash(item.key), now, item.value);
        if entry.item().is_none() {
            // No room is as an eviction.
            let new = NewItem::new(item.value, item.flags, expiry);
            let _ = entry.insert(NewItem { stale: item.stale, past: Some(item.past), ..new });
        }
    }
}

/// Hands items on to the member at the other end.
pub(super) async fn give(
    shared: &Shared,
    cluster: &Cluster,
    mut incoming: Incoming,
    write: Outgoing,
    remote: Remote,
) -> io::Result<()> {
    let outbox = Outbox::default();
    let giving = async {
        let mut scan = Scan::default();
        loop {
            while let Some(frame) = incoming.next()? {
                let id = frame.id;
                match frame.message {
                    Message::View(view) => cluster.hear(None, view).await,
                    Message::Take { key } => outbox.push(|out| give_one(shared, cluster, &remote.id, key, id, out)),
                    Message::Pull { idle, bytes } => {
                        outbox.push(|out| scan.give(shared, cluster, &remote.id, id, idle, bytes, out));
                    }
                    _ => return Err(io::ErrorKind::InvalidData.into()),
                }
            }
            incoming.fill().await?;
        }
    };
    tokio::select! {
        ended = outbox.write_to(write) => ended,
        ended = giving => ended,
    }
}

/// Whether the item under `key` is another member's, and whose it is is this one.
fn belongs_to(routing: &Routing, member: &str, key: &[u8]) -> bool {
    let owner = routing.owner(key);
    owner.is_some() && owner == routing.place(member) && !routing.standing(key).is_authority()
}

fn give_one(shared: &Shared, cluster: &Cluster, to: &str, key: &[u8], id: u32, out: &mut Vec<u8>) {
    let gate = cluster.enter();
    let given = belongs_to(&gate, to, key)
        && unlink(shared, key, usize::MAX, |item| Message::Taken(Some(*item)).encode(id, out)) == Unlinked::Shown;
    match given {
        true => Counts::add(&cluster.moves.given, 1),
        false => Message::Taken(None).encode(id, out),
    }
}

/// What became of an item that is to be handed on.
#[derive(PartialEq, Eq)]
enum Unlinked {
    Shown,
    /// There is nothing to hand on.
    Nothing,
    /// It stays, since its value is longer than was asked for.
    TooLong,
}

/// Shows an item and removes it. A stub that a reader is about to fill is removed unseen: that fill finds nothing, and the
/// next reader loads.
fn unlink(shared: &Shared, key: &[u8], value_max: usize, show: impl FnOnce(&Moved<'_>)) -> Unlinked {
    let store = &shared.store;
    let now = shared.clock.now();
    let mut entry = store.entry(key, store.hash(key), now);
    let Some(item) = entry.item() else { return Unlinked::Nothing };
    if item.value.len() > value_max {
        return Unlinked::TooLong;
    }
    let is_stub = item.won && item.value.is_empty();
    if !is_stub {
        let ttl = item.expiry.remaining(now);
        let past = entry.past();
        show(&Moved { key, flags: item.flags, ttl, stale: item.stale, past, value: item.value });
    }
    entry.remove();
    if is_stub { Unlinked::Nothing } else { Unlinked::Shown }
}

/// How far a member has pulled.
#[derive(Default)]
struct Scan {
    pass: usize,
    cursor: Cursor,
    /// Keys that were found, and for which the last batch had no room.
    found: VecDeque<Vec<u8>>,
    /// The routing under which they belonged to the member.
    epoch: u64,
}

impl Scan {
    /// Appends the next batch, or that there is none.
    #[expect(clippy::too_many_arguments, reason = "the request's three fields, and where to find and put items")]
    fn give(
        &mut self,
        shared: &Shared,
        cluster: &Cluster,
        to: &str,
        id: u32,
        idle: u32,
        bytes: u32,
        out: &mut Vec<u8>,
    ) {
        let store = &shared.store;
        let gate = cluster.enter();
        let now = shared.clock.now();
        let start = out.len();
        let mut batch = BatchWriter::begin(id, out);
        let mut given = 0;
        if self.epoch != gate.epoch {
            self.epoch = gate.epoch;
            self.found.retain(|key| belongs_to(&gate, to, key));
        }
        'batch: for _ in 0..SLICES {
            while let Some(key) = self.found.front() {
                if batch.bytes() >= bytes as usize {
                    break 'batch;
                }
                // A frame has room for one item of any size, or for about as many bytes as were asked for.
                let room = if batch.bytes() == 0 { PULLED_MAX } else { (bytes as usize).saturating_sub(batch.bytes()) };
                match unlink(shared, key, room, |item| batch.push(item)) {
                    Unlinked::Shown => given += 1,
                    Unlinked::TooLong if batch.bytes() > 0 => break 'batch,
                    Unlinked::TooLong | Unlinked::Nothing => {}
                }
                self.found.pop_front();
            }
            let Some(&age) = AGES.get(self.pass) else { break };
            let more = store.scan(&mut self.cursor, now, |item| {
                let unused = now.0.saturating_sub(item.last_access.0);
                if unused <= age && (item.warm || unused <= idle) && belongs_to(&gate, to, item.key) {
                    self.found.push_back(item.key.to_vec());
                }
            });
            if !more {
                self.pass += 1;
                self.cursor = Cursor::default();
            }
        }
        Counts::add(&cluster.moves.given, given);
        let nothing = batch.bytes() == 0;
        batch.end();
        if nothing && self.found.is_empty() && self.pass >= AGES.len() {
            out.truncate(start);
            Message::Done.encode(id, out);
        }
    }
}
