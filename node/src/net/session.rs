//! A session: the commands at the front of what a connection has read are carried out. Bytes in, bytes out; no socket.

use arrayvec::ArrayVec;
use larder_protocol::{Command, Decoded, Error, Limits, Outcome, Protocol, Request, Scratch};

use crate::commands::dump::Dump;
use crate::commands::effect::Next;
use crate::commands::events::Topics;
use crate::commands::execute;
use crate::commands::items::BATCH;
use crate::commands::items::forget;
use crate::counters::Counters;
use crate::net::auth::Asked;
use crate::net::buffers::Buffers;
use crate::net::open_sockets::OpenSocket;
use crate::net::output::Output;
use crate::shared::Shared;
use crate::store::{Hash, Store};

/// Answers are written before further commands are carried out once there are this many bytes of them: a client that
/// sends and does not read is not read from either.
pub(crate) const OUTPUT_HIGH_WATER: usize = 256 * 1024;
/// Why a connection's input was left for now.
pub(crate) enum Progress {
    /// More bytes must come, at least so many.
    NeedInput(usize),
    /// Answers are to be written, and other connections to be served, first.
    OthersFirst,
    /// The connection ends when the answers are written.
    Close(Ended),
    /// Events are shown from now on.
    Watch(Topics),
    /// Keys are listed, then other commands carried out.
    Dump(Dump),
}

/// Why a connection ended. memcached's names for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Normal,
    Error,
    IdleTimeout,
    Shutdown,
}

impl Ended {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Ended::Normal => "normal",
            Ended::Error => "error",
            Ended::IdleTimeout => "idle_timeout",
            Ended::Shutdown => "shutdown",
        }
    }
}

/// What a connection has said of itself.
pub(crate) struct Session<'a> {
    /// Found by the first byte unless the listener told.
    protocol: Option<Protocol>,
    /// Bytes of a refused body that are still to come.
    swallow: usize,
    authenticated: bool,
    open: &'a OpenSocket,
}

impl<'a> Session<'a> {
    pub(crate) fn new(protocol: Option<Protocol>, shared: &Shared, open: &'a OpenSocket) -> Self {
        Session { protocol, swallow: 0, authenticated: shared.users.is_none(), open }
    }
}

/// A decoded command, about to be carried out.
struct Planned<'a> {
    request: Request<'a>,
    /// Of its key; of nothing where it has none.
    hash: Hash,
    /// Bytes of input it took.
    consumed: usize,
}

/// Carries out the whole commands at the front of the input, a batch at a time.
pub(crate) fn work(
    buffers: &mut Buffers,
    session: &mut Session<'_>,
    limits: &Limits,
    shared: &Shared,
    counters: &Counters,
) -> Progress {
    let Buffers { input, start, end, scratches, output } = buffers;
    let mut now = shared.clock.now();
    session.open.begin(now);
    let mut done = 0;
    while done < shared.settings.requests_per_turn as usize {
        let skipped = session.swallow.min(*end - *start);
        session.swallow -= skipped;
        *start += skipped;
        if start == end {
            return Progress::NeedInput(1);
        }
        let protocol = *session.protocol.get_or_insert_with(|| Protocol::of_first_byte(input[*start]));
        if let (Some(users), false) = (&shared.users, session.authenticated) {
            match users.ask(protocol, &input[*start..*end], counters, &mut output.bytes) {
                Asked::NeedInput(bytes) => return Progress::NeedInput(bytes),
                Asked::Answered { consumed, authenticated } => {
                    *start += consumed;
                    session.authenticated = authenticated;
                }
                Asked::Close => return Progress::Close(Ended::Normal),
            }
            done += 1;
            continue;
        }
        let most = BATCH.min(shared.settings.requests_per_turn as usize - done);
        let mut batch = ArrayVec::new();
        let other =
            decode_batch(protocol, &input[*start..*end], limits, &mut scratches[..most], &shared.store, &mut batch);
        if batch.len() > 1 {
            shared.store.prefetch(batch.iter().map(|planned| planned.hash));
        }
        for Planned { request, hash, consumed } in &batch {
            if output.len() >= OUTPUT_HIGH_WATER {
                return Progress::OthersFirst;
            }
            if shared.settings.debug_time {
                now = shared.clock.now();
            }
            let next = match (&request.command, &shared.users) {
                (Command::Sasl(sasl), Some(users)) => {
                    request.reply.outcome(&users.sasl(sasl, counters).0, &mut output.bytes);
                    Next::Continue
                }
                _ => execute(request, *hash, shared, counters, now, session.open.descriptor, output),
            };
            *start += consumed;
            match next {
                Next::Continue => {}
                Next::Close => return Progress::Close(Ended::Normal),
                Next::ShutDown => return Progress::Close(Ended::Shutdown),
                Next::Watch(topics) => return Progress::Watch(topics),
                Next::Dump(asked) => return Progress::Dump(asked),
            }
        }
        done += batch.len().max(1);
        drop(batch);
        match other {
            // Requests are in the batch.
            None | Some(Decoded::Request { .. }) => {}
            Some(Decoded::Part { request, consumed, repeat }) => {
                execute(&request, shared.store.hash(b""), shared, counters, now, session.open.descriptor, output);
                // The command's name goes before the keys that are left.
                let front = *start;
                *start += consumed - repeat;
                input.copy_within(front..front + repeat, *start);
            }
            Some(Decoded::Incomplete { need }) => return Progress::NeedInput(need),
            Some(Decoded::Error { error, reply, consumed, swallow, outdated, close }) => {
                counters.store_too_large.add((error == Error::TOO_LARGE).into());
                if let Some(key) = outdated {
                    forget(key, &shared.store, now);
                    if shared.watchers.wants(Topics::MUTATIONS) {
                        shared.watchers.refused(key, session.open.descriptor);
                    }
                }
                reply.outcome(&Outcome::Error(error), &mut output.bytes);
                *start += consumed;
                session.swallow = swallow;
                if close {
                    return Progress::Close(Ended::Error);
                }
            }
            Some(Decoded::Close) => return Progress::Close(Ended::Error),
        }
    }
    Progress::OthersFirst
}

/// Decodes the commands at the front of `input`, as many as there are `scratches`; tells what comes instead of one more.
#[inline]
fn decode_batch<'a>(
    protocol: Protocol,
    input: &'a [u8],
    limits: &Limits,
    scratches: &'a mut [Scratch],
    store: &Store,
    batch: &mut ArrayVec<Planned<'a>, BATCH>,
) -> Option<Decoded<'a>> {
    let mut at = 0;
    for scratch in scratches {
        if at == input.len() {
            break;
        }
        match protocol.decode(&input[at..], limits, scratch) {
            Decoded::Request { request, consumed } => {
                at += consumed;
                let hash = store.hash(request.command.key().unwrap_or(b""));
                batch.push(Planned { request, hash, consumed });
            }
            other => return Some(other),
        }
    }
    None
}

/// Carries out the commands of a datagram.
pub(crate) fn work_on_datagram(
    payload: &[u8],
    protocol: Option<Protocol>,
    open: &OpenSocket,
    shared: &Shared,
    counters: &Counters,
    output: &mut Output,
) {
    let mut buffers = Buffers { end: payload.len(), output: std::mem::take(output), ..Buffers::new(payload.to_vec()) };
    let limits = Limits { item_size_max: shared.store.item_size_max() };
    // What is cut off is lost, as everything is in a datagram.
    work(&mut buffers, &mut Session::new(protocol, shared, open), &limits, shared, counters);
    *output = buffers.output;
}
