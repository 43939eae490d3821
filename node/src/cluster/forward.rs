//! Commands on keys of other members: one hop to the owner, its answer in their place.
//!
//! A command that cannot be carried out at once leaves a hole in the connection's output. All holes of a turn are filled
//! together, before anything is sent. On links every worker has its own, so that nothing crosses threads.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use larder_protocol::peer::{Message, Purpose, View, answer};
use larder_protocol::{
    Admin, BinaryReply, Command, Decoded, Delete, Error, Get, Hit, Limits, Outcome, Protocol, Reply, Request, Scratch,
    TextReply, Ttls, binary,
};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout_at};

use super::link::{Incoming, Outgoing};
use super::membership::{Event, SILENCE};
use super::ownership::{Members, Standing};
use super::peers::Peer;
use super::routing::Routing;
use super::{Cluster, Counts, LEGACY_KEY};
use crate::commands::effect::Effect;
use crate::commands::turn::Context;
use crate::net::output::Output;
use crate::net::socket::Socket;
use crate::shared::Shared;
use crate::statistics::counters::Counters;
use crate::store::{Hash, Store};

/// A read waits so long for another node. Then it is a miss: its client loads the value elsewhere, and has time left.
const READ_PATIENCE: Duration = Duration::from_millis(500);

/// All else waits so long, since it can only fail then. A member that is silent for as long is not asked any more, and
/// memcached's proxy waits as long for a server.
pub(super) const PATIENCE: Duration = SILENCE;

/// Between two attempts to open a link.
const DIAL_AGAIN: Duration = Duration::from_millis(20);

/// Holes of one turn: with more the turn ends.
const HOLES_MAX: usize = 128;

/// Answers that wait to be sent to a member: with more bytes it is not read from.
const UNSENT_MAX: usize = 1 << 20;

/// A command that waits for another member.
pub(crate) struct Incomplete {
    /// Where its answer goes.
    hole: usize,
    hash: Hash,
    protocol: Protocol,
    /// The client's own bytes, or those of one key of its line.
    request: Vec<u8>,
    kind: Kind,
    /// So long it waits.
    patience: Duration,
    missing: Missing,
}

/// What becomes of the answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Whole,
    /// One key of a line with several: without the line's end.
    Part,
    /// Nobody asked for it.
    Unheard,
}

/// What a command waits for.
pub(crate) enum Missing {
    /// This member, which owns its key.
    Member(Arc<Peer>),
    /// Another routing than that of this epoch.
    Change(u64),
    /// The item under this key, from the old owners under this view.
    Items { key: Vec<u8>, view: Arc<View>, members: Members, epoch: u64 },
    /// That no item is on its way here any more.
    Quiet,
}

/// Why a command is not carried out here and now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotHere {
    /// So its key stands to this node.
    Key(Standing),
    /// It flushes, and an item that is on its way here would outlive that.
    Moving,
    /// It is about the list of nodes.
    Configuration,
}

/// Where keys are at home, for one turn.
pub(crate) struct Router<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) routing: &'a Routing,
    /// The view under which the old owners were asked for the command's item.
    pub(crate) taken: Option<&'a Arc<View>>,
}

impl Router<'_> {
    /// Whether a command on `key` may be carried out here. `is_here`: this node has its item.
    #[inline]
    pub(crate) fn admit(&self, key: &[u8], is_here: bool) -> Result<(), NotHere> {
        // Where nothing is open, what is here is the node's own.
        if is_here && self.routing.moving.is_none() { Ok(()) } else { self.find_home(key, is_here) }
    }

    #[inline(never)]
    fn find_home(&self, key: &[u8], is_here: bool) -> Result<(), NotHere> {
        if key == LEGACY_KEY {
            return Err(NotHere::Configuration);
        }
        let is_taken = || self.taken.is_some_and(|view| Arc::ptr_eq(view, &self.routing.view));
        match self.routing.standing(key) {
            Standing::Mine => Ok(()),
            Standing::Take(_) if is_here || is_taken() => Ok(()),
            standing => Err(NotHere::Key(standing)),
        }
    }

    /// As [`Router::admit`], for a command that may write an item.
    #[inline]
    pub(crate) fn admit_write(&self, key: &[u8], is_here: bool) -> Result<(), NotHere> {
        match self.admit(key, is_here) {
            Err(NotHere::Key(Standing::Take(_))) if self.cluster.broken => Ok(()),
            admitted => admitted,
        }
    }

    /// Notes the key of a command that is measured.
    pub(crate) fn note(&self, request: &Request<'_>, hash: Option<Hash>, store: &Store) {
        match hash {
            Some(hash) => self.cluster.note_key(hash),
            None => match only_key(&request.command) {
                [] => {}
                key => self.cluster.note_key(store.hash(key)),
            },
        }
    }

    /// Whether all items may be flushed here and now.
    pub(crate) fn admit_flush(&self) -> Result<(), NotHere> {
        let is_moving = self.routing.moving.as_ref().is_some_and(|moving| !moving.is_complete());
        if is_moving { Err(NotHere::Moving) } else { Ok(()) }
    }

    /// What a command on `key` waits for.
    fn missing(&self, key: &[u8], why: NotHere) -> Missing {
        match why {
            NotHere::Key(Standing::Elsewhere(place)) => Missing::Member(self.routing.member(place).clone()),
            NotHere::Key(Standing::Take(members)) => Missing::Items {
                key: key.to_vec(),
                view: self.routing.view.clone(),
                members,
                epoch: self.routing.epoch,
            },
            NotHere::Moving => Missing::Quiet,
            NotHere::Key(_) | NotHere::Configuration => Missing::Change(self.routing.epoch),
        }
    }

    /// Leaves a hole for the reply to a request of a client. These are its bytes.
    #[expect(clippy::too_many_arguments, reason = "the request in both forms, and where its answer goes")]
    pub(crate) fn leave(
        &self,
        request: &Request<'_>,
        hash: Option<Hash>,
        protocol: Protocol,
        bytes: &[u8],
        why: NotHere,
        store: &Store,
        output: &mut Output,
        holes: &mut Vec<Incomplete>,
    ) {
        let key = request.command.key().unwrap_or_default();
        let hash = hash.unwrap_or_else(|| store.hash(key));
        let patience = if matches!(request.command, Command::Get(_)) { READ_PATIENCE } else { PATIENCE };
        let (kind, missing) = (Kind::Whole, self.missing(key, why));
        let request = bytes.to_vec();
        holes.push(Incomplete { hole: output.hole(), hash, protocol, request, kind, patience, missing });
    }

    /// Leaves a hole for one key of a line with several: the answers stand in the order of the keys.
    #[expect(clippy::too_many_arguments, reason = "the key, its line, and where its answer goes")]
    pub(crate) fn leave_part(
        &self,
        get: &Get<'_>,
        key: &[u8],
        hash: Hash,
        why: NotHere,
        reply: &Reply<'_>,
        output: &mut Output,
        holes: &mut Vec<Incomplete>,
    ) {
        match (reply, why) {
            (_, NotHere::Configuration) => push_list(key, &self.cluster.list(), reply, output),
            (Reply::Text(text), why) => {
                let (protocol, kind, missing) = (Protocol::Text, Kind::Part, self.missing(key, why));
                let (request, patience) = (line_of_one(get, *text, key), READ_PATIENCE);
                holes.push(Incomplete { hole: output.hole(), hash, protocol, request, kind, patience, missing });
            }
            // Lines with several keys are text.
            _ => {}
        }
    }

    /// Leaves a hole that nobody sees: the item of this key is deleted where it is.
    pub(crate) fn leave_delete(
        &self,
        key: &[u8],
        hash: Hash,
        why: NotHere,
        output: &mut Output,
        holes: &mut Vec<Incomplete>,
    ) {
        let reply = Reply::Binary(BinaryReply { opcode: binary::opcode::DELETE, opaque: 0 });
        let mut request = Vec::new();
        if (Request { command: Command::Delete(Delete::new(key)), reply }).encode(&mut request).is_ok() {
            let (protocol, kind, patience) = (Protocol::Binary, Kind::Unheard, PATIENCE);
            let missing = self.missing(key, why);
            holes.push(Incomplete { hole: output.hole(), hash, protocol, request, kind, patience, missing });
        }
    }

    /// Answers a command about the list of nodes.
    pub(crate) fn answer_configuration(&self, command: &Command<'_>, reply: &Reply<'_>, output: &mut Output) {
        match command {
            Command::Admin(Admin::Config { key: key @ b"cluster" }) => match reply {
                Reply::Binary(_) => push_list(key, &self.cluster.list(), reply, output),
                _ => output.bytes.extend_from_slice(self.cluster.config().as_bytes()),
            },
            Command::Admin(Admin::Config { .. }) => match reply {
                Reply::Binary(_) => reply.outcome(&Outcome::NotFound, &mut output.bytes),
                _ => output.bytes.extend_from_slice(b"END\r\n"),
            },
            // Under the key that older discovery clients read.
            Command::Get(_) => {
                push_list(LEGACY_KEY, &self.cluster.list(), reply, output);
                reply.end_of_get(&mut output.bytes);
            }
            _ => {
                let error = Outcome::Error(Error::Client("the cluster's configuration is its own"));
                reply.outcome(&error, &mut output.bytes);
            }
        }
    }
}

/// Whether a request must wait until the holes of its turn are filled: a connection's commands on one key keep their order.
#[inline]
pub(crate) fn waits_behind(request: &Request<'_>, hash: Option<Hash>, store: &Store, holes: &[Incomplete]) -> bool {
    let has_hole = |hash: Hash| holes.iter().any(|hole| hole.hash == hash);
    !holes.is_empty()
        && (holes.len() >= HOLES_MAX
            || match &request.command {
                Command::Noop | Command::Version => false,
                Command::Get(Get { keys, .. }) => keys.iter().any(|key| has_hole(store.hash(key))),
                command => command.key().is_none_or(|key| has_hole(hash.unwrap_or_else(|| store.hash(key)))),
            })
}

/// A line as the client's, with one of its keys. It may hold bytes that a client would not send.
fn line_of_one(get: &Get<'_>, reply: TextReply, key: &[u8]) -> Vec<u8> {
    let uniques = if reply.with_cas { "s" } else { "" };
    let mut line = match get.touch {
        Some(exptime) => format!("gat{uniques} {} ", exptime.0),
        None => format!("get{uniques} "),
    }
    .into_bytes();
    line.extend_from_slice(key);
    line.extend_from_slice(b"\r\n");
    line
}

/// Appends the list of nodes as an item under `key`.
fn push_list(key: &[u8], list: &str, reply: &Reply<'_>, output: &mut Output) {
    let hit = Hit {
        key,
        flags: 0,
        cas: 0,
        value_len: list.len(),
        with_value: true,
        ttls: Ttls::default(),
        since_access: 0,
        fetched: true,
        won: false,
        already_won: false,
        stale: false,
    };
    reply.hit(&hit, &mut output.bytes);
    output.bytes.extend_from_slice(list.as_bytes());
    output.bytes.extend_from_slice(reply.after_value());
}

/// Why a command could not be carried out anywhere.
#[derive(Clone, Copy)]
enum Failure {
    Between,
    Unreachable,
}

/// Fills the holes of a turn.
pub(crate) async fn resolve(shared: &Shared, counters: &Counters, holes: &mut Vec<Incomplete>, output: &mut Output) {
    if holes.len() == 1 {
        let one = holes.remove(0);
        let answer = complete(shared, counters, &one, false).await;
        return output.fill(one.hole, answer.unwrap_or_default());
    }
    let all = futures_util::future::join_all(holes.iter().map(|one| complete(shared, counters, one, false))).await;
    for (one, answer) in holes.iter().zip(all) {
        output.fill(one.hole, answer.unwrap_or_default());
    }
    holes.clear();
}

/// The answer to a command that waited. `None`, where a member asked: the key is another one's.
async fn complete(shared: &Shared, counters: &Counters, one: &Incomplete, a_member_asked: bool) -> Option<Bytes> {
    let cluster = shared.cluster.as_deref().expect("only a cluster makes holes");
    let deadline = Instant::now() + one.patience;
    let mut refused = 0;
    let mut again;
    let mut taken = None;
    let mut missing = &one.missing;
    let failure = loop {
        match missing {
            Missing::Member(_) if a_member_asked => return None,
            Missing::Member(peer) => {
                if !peer.is_reachable() {
                    break Failure::Unreachable;
                }
                let reply = ask(cluster, peer, one.protocol, &one.request, deadline);
                match timeout_at(deadline, reply).await {
                    Ok(Ok(Answer::Bytes(answer))) => return Some(one.kind.cut(answer)),
                    // It knows another owner. Its view came before, and is this node's by now.
                    Ok(Ok(Answer::NotMine)) if refused < 2 => {
                        refused += 1;
                        // Where this node is ahead of it, it is given a moment.
                        if refused == 2 {
                            tokio::time::sleep(Duration::from_millis(20)).await;
                        }
                    }
                    Ok(Ok(Answer::NotMine)) => break Failure::Between,
                    // The link did not open, so nothing was sent: the member may have no processor, or be gone by now.
                    Ok(Ok(Answer::Unsent)) => {
                        if timeout_at(deadline, tokio::time::sleep(DIAL_AGAIN)).await.is_err() {
                            break Failure::Unreachable;
                        }
                    }
                    Ok(Err(_)) | Err(_) => break Failure::Unreachable,
                }
            }
            Missing::Items { key, view, members, epoch } => {
                let places = (0..64).filter(|place| members >> place & 1 == 1);
                let takes: Option<Vec<_>> = places.map(|place| cluster.take(view, place, key)).collect();
                let taking = async {
                    match takes {
                        Some(takes) => futures_util::future::join_all(takes).await.iter().all(Result::is_ok),
                        None => false,
                    }
                };
                match timeout_at(deadline, taking).await {
                    Ok(true) => taken = Some(view.clone()),
                    // The links are not there yet, or not any more.
                    Ok(false) => {
                        let pause = Duration::from_millis(5);
                        let _ = tokio::time::timeout(pause, cluster.changed(*epoch)).await;
                        if Instant::now() >= deadline {
                            break Failure::Between;
                        }
                    }
                    Err(_) => break Failure::Between,
                }
            }
            Missing::Quiet => {
                let (done, severed) = oneshot::channel();
                if cluster.events.send(Event::Sever(done)).is_ok() {
                    let _ = severed.await;
                }
            }
            Missing::Change(epoch) => {
                if timeout_at(deadline, cluster.changed(*epoch)).await.is_err() {
                    break Failure::Between;
                }
            }
        }
        let mut output = Output::default();
        match carry_out_again(shared, cluster, counters, one, taken.as_ref(), &mut output) {
            Ok(()) => return Some(one.kind.cut(output.to_vec().into())),
            Err(still) => {
                again = still;
                missing = &again;
            }
        }
    };
    Counts::add(
        match failure {
            Failure::Between => &cluster.counts.between,
            Failure::Unreachable => &cluster.counts.unreachable,
        },
        1,
    );
    let mut out = Vec::new();
    decode(one.protocol, &one.request, shared, |request| fail(request, failure, &mut out));
    Some(one.kind.cut(out.into()))
}

impl Kind {
    fn cut(self, answer: Bytes) -> Bytes {
        match self {
            Kind::Whole => answer,
            Kind::Part if answer.ends_with(b"END\r\n") => answer.slice(..answer.len() - b"END\r\n".len()),
            // An error in the middle of a list cannot be said: the key is as missing.
            Kind::Part | Kind::Unheard => Bytes::new(),
        }
    }
}

/// Reads of unreachable keys are misses, all else fails, as mcrouter has it.
fn fail(request: &Request<'_>, failure: Failure, out: &mut Vec<u8>) {
    if let Command::Get(get) = &request.command {
        get.keys.iter().for_each(|key| request.reply.miss(key, out));
        return request.reply.end_of_get(out);
    }
    let words = match failure {
        Failure::Between => "larder: the key is between two nodes",
        Failure::Unreachable => "larder: the key's node does not answer",
    };
    request.reply.outcome(&Outcome::Error(Error::Server(words)), out);
}

fn decode<T>(protocol: Protocol, bytes: &[u8], shared: &Shared, f: impl FnOnce(&Request<'_>) -> T) -> Option<T> {
    let limits = Limits { item_size_max: shared.store.item_size_max(), ..Limits::default() };
    match protocol.decode(bytes, &limits, &mut Scratch::new()) {
        Decoded::Request { request, consumed } if consumed == bytes.len() => Some(f(&request)),
        _ => None,
    }
}

/// Carries out a command that waited, if it need not wait any more.
fn carry_out_again(
    shared: &Shared,
    cluster: &Cluster,
    counters: &Counters,
    one: &Incomplete,
    taken: Option<&Arc<View>>,
    output: &mut Output,
) -> Result<(), Missing> {
    let gate = cluster.enter();
    let router = Some(Router { cluster, routing: &gate, taken });
    let context = Context { shared, counters, descriptor: -1, received: None, router };
    // A request was decoded before with the same limits.
    decode(one.protocol, &one.request, shared, |request| here(&context, request, output)).unwrap_or(Ok(()))
}

/// Carries out a command on one key here, or tells what it waits for.
fn here(context: &Context<'_>, request: &Request<'_>, output: &mut Output) -> Result<(), Missing> {
    let now = context.shared.clock.now();
    let mut holes = Vec::new();
    match (context.carry_out(request, None, now, output, &mut holes), &context.router) {
        (Effect::NotHere(why), Some(router)) => Err(router.missing(only_key(&request.command), why)),
        // A line has its one key's answer in a hole.
        _ => holes.pop().map_or(Ok(()), |hole| Err(hole.missing)),
    }
}

/// The key of a command that waits or was sent by a member.
fn only_key<'a>(command: &Command<'a>) -> &'a [u8] {
    match command {
        Command::Get(get) => get.keys.iter().next(),
        _ => command.key(),
    }
    .unwrap_or_default()
}

enum Answer {
    Bytes(Bytes),
    NotMine,
    /// There is no link.
    Unsent,
}

/// A worker's link to a member.
struct ForwardLink {
    state: Mutex<LinkState>,
    wake: Notify,
}

#[derive(Default)]
struct LinkState {
    out: Vec<u8>,
    /// The view that the other side was shown last.
    shown: Option<Arc<View>>,
    waiting: HashMap<u32, oneshot::Sender<Answer>>,
    next: u32,
    broken: bool,
}

thread_local! {
    /// By member and generation.
    static LINKS: RefCell<HashMap<(String, u32), Arc<ForwardLink>>> = RefCell::default();
}

/// Sends a command to a member, from this thread's link to it. An error: the link broke, and nobody knows what was done.
fn ask(
    cluster: &Cluster,
    peer: &Arc<Peer>,
    protocol: Protocol,
    request: &[u8],
    deadline: Instant,
) -> oneshot::Receiver<Answer> {
    let link = LINKS.with_borrow_mut(|links| {
        let name = (peer.id.clone(), peer.generation);
        match links.get(&name) {
            Some(link) if !link.state.lock().broken => link.clone(),
            _ => {
                links.retain(|_, link| !link.state.lock().broken);
                let link = Arc::new(ForwardLink { state: Mutex::default(), wake: Notify::new() });
                links.insert(name, link.clone());
                link
            }
        }
    });
    let (answer, answered) = oneshot::channel();
    let mut state = link.state.lock();
    let first = state.next == 0;
    let view = cluster.enter().view.clone();
    if state.shown.as_ref().is_none_or(|shown| !Arc::ptr_eq(shown, &view)) {
        Message::View(View::clone(&view)).encode(0, &mut state.out);
        state.shown = Some(view);
    }
    state.next = state.next.wrapping_add(1).max(1);
    let id = state.next;
    let milliseconds = deadline.saturating_duration_since(Instant::now()).as_millis() as u32;
    Message::Ask { protocol, milliseconds, request }.encode(id, &mut state.out);
    state.waiting.insert(id, answer);
    drop(state);
    peer.forwarded_out.fetch_add(1, Ordering::Relaxed);
    if first {
        spawn_link(link, peer.clone());
    } else {
        link.wake.notify_one();
    }
    answered
}

thread_local! {
    /// The node's part in a cluster, for links that this thread starts.
    static CLUSTER: RefCell<Option<Arc<Cluster>>> = const { RefCell::new(None) };
}

/// Links that this thread starts are this node's.
pub(crate) fn set_cluster(cluster: Arc<Cluster>) {
    CLUSTER.set(Some(cluster));
}

fn spawn_link(link: Arc<ForwardLink>, peer: Arc<Peer>) {
    let cluster = CLUSTER.with_borrow(|cluster| cluster.clone()).expect("a worker of a cluster");
    tokio::spawn(async move {
        let dialled = cluster.identity.dial(&peer.address, Purpose::Forward).await;
        let is_open = dialled.is_ok();
        let ended = match dialled {
            Ok((incoming, write, _)) => tokio::select! {
                ended = write_out(&link, write) => ended,
                ended = read_answers(&link, &cluster, incoming) => ended,
            },
            Err(error) => Err(error),
        };
        tracing::debug!(member = peer.id, error = ?ended.err(), "a link for commands ended");
        let mut state = link.state.lock();
        state.broken = true;
        // Whoever waits learns it.
        for (_, waiting) in state.waiting.drain().filter(|_| !is_open) {
            let _ = waiting.send(Answer::Unsent);
        }
    });
}

async fn write_out(link: &ForwardLink, mut write: Outgoing) -> io::Result<()> {
    let mut out = Vec::new();
    loop {
        std::mem::swap(&mut out, &mut link.state.lock().out);
        if out.is_empty() {
            link.wake.notified().await;
            continue;
        }
        write.write_all(&out).await?;
        out.clear();
        if out.capacity() > UNSENT_MAX {
            out = Vec::new();
        }
    }
}

async fn read_answers(link: &ForwardLink, cluster: &Cluster, mut incoming: Incoming) -> io::Result<()> {
    loop {
        while let Some(frame) = incoming.next()? {
            let answer = match frame.message {
                Message::View(view) => {
                    cluster.hear(None, view).await;
                    continue;
                }
                Message::Answer(bytes) => Answer::Bytes(Bytes::copy_from_slice(bytes)),
                Message::NotMine => Answer::NotMine,
                _ => return Err(io::ErrorKind::InvalidData.into()),
            };
            if let Some(waiting) = link.state.lock().waiting.remove(&frame.id) {
                // It may have given up.
                let _ = waiting.send(answer);
            }
        }
        incoming.fill().await?;
    }
}

/// Carries out the commands of a member, until its link ends.
pub(crate) async fn answer_peer(
    socket: Socket,
    rest: Vec<u8>,
    member: String,
    shared: Arc<Shared>,
    counters: Arc<Counters>,
) {
    let cluster = shared.cluster.clone().expect("it listens for members");
    let ended = async {
        let (incoming, write) = Incoming::resume(socket, rest, cluster.identity.payload_max)?;
        let link = Arc::new(ForwardLink { state: Mutex::default(), wake: Notify::new() });
        tokio::select! {
            ended = write_out(&link, write) => ended,
            ended = read_asked(&link, incoming, &member, &shared, &counters) => ended,
        }
    };
    let error: Option<io::Error> = ended.await.err();
    tracing::debug!(member, ?error, "a link for commands ended");
}

async fn read_asked(
    link: &Arc<ForwardLink>,
    mut incoming: Incoming,
    member: &str,
    shared: &Arc<Shared>,
    counters: &Arc<Counters>,
) -> io::Result<()> {
    let cluster = shared.cluster.as_deref().expect("it listens for members");
    let mut output = Output::default();
    loop {
        let mut count = 0;
        while let Some(frame) = incoming.next()? {
            match frame.message {
                Message::View(view) => cluster.hear(None, view).await,
                Message::Ask { protocol, milliseconds, request } => {
                    count += 1;
                    let gate = cluster.enter();
                    let router = Some(Router { cluster, routing: &gate, taken: None });
                    let context = Context { shared, counters, descriptor: -1, received: None, router };
                    output.clear();
                    let id = frame.id;
                    let carried_out = decode(protocol, request, shared, |request| {
                        if counters.measured.is_due()
                            && let Some(router) = &context.router
                        {
                            router.note(request, None, &shared.store);
                        }
                        let missing = here(&context, request, &mut output);
                        missing.map_err(|missing| (missing, shared.store.hash(only_key(&request.command))))
                    });
                    let view = gate.view.clone();
                    drop(gate);
                    let mut state = link.state.lock();
                    match carried_out {
                        Some(Ok(())) => answer(id, &mut state.out, |out| output.append_to(out)),
                        Some(Err((Missing::Member(_), _))) => not_mine(id, &view, &mut state),
                        Some(Err((missing, hash))) => {
                            drop(state);
                            let request = request.to_vec();
                            let patience = Duration::from_millis(milliseconds.into()).min(PATIENCE);
                            let kind = Kind::Whole;
                            let one = Incomplete { hole: 0, hash, protocol, request, kind, patience, missing };
                            answer_later(link, id, one, shared, counters);
                        }
                        // A node of another version may know commands that this one does not.
                        None => answer(id, &mut state.out, |out| Error::UnknownCommand.encode(out)),
                    }
                }
                _ => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
        if let Some(peer) = cluster.peer(member) {
            peer.forwarded_in.fetch_add(count, Ordering::Relaxed);
        }
        if count > 0 {
            link.wake.notify_one();
        }
        // A member that sends and does not read is not read from either.
        while link.state.lock().out.len() > UNSENT_MAX {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        incoming.fill().await?;
    }
}

fn not_mine(id: u32, view: &Arc<View>, state: &mut LinkState) {
    Message::View(View::clone(view)).encode(0, &mut state.out);
    Message::NotMine.encode(id, &mut state.out);
}

fn answer_later(link: &Arc<ForwardLink>, id: u32, one: Incomplete, shared: &Arc<Shared>, counters: &Arc<Counters>) {
    let (link, shared, counters) = (link.clone(), shared.clone(), counters.clone());
    tokio::spawn(async move {
        let completed = complete(&shared, &counters, &one, true).await;
        let view = shared.cluster.as_ref().map(|cluster| cluster.enter().view.clone()).unwrap_or_default();
        let mut state = link.state.lock();
        match completed {
            Some(bytes) => answer(id, &mut state.out, |out| out.extend_from_slice(&bytes)),
            None => not_mine(id, &view, &mut state),
        }
        drop(state);
        link.wake.notify_one();
    });
}
