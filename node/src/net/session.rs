//! A session carries out the commands at the front of a connection's input. Bytes in, bytes out; no socket.

use std::time::Instant;

use arrayvec::ArrayVec;
use larder_protocol::{Command, Decoded, Error, Limits, Outcome, Protocol, Request, Scratch};

use crate::cluster::{Incomplete, Router, waits_behind};
use crate::commands::dump::Dump;
use crate::commands::effect::Effect;
use crate::commands::events::Topics;
use crate::commands::items::BATCH;
use crate::commands::turn::Context;
use crate::net::auth::Asked;
use crate::net::buffers::Buffers;
use crate::net::open_sockets::OpenSocket;
use crate::net::output::Output;
use crate::shared::Shared;
use crate::statistics::counters::Counters;
use crate::store::{Hash, Store, Time};

/// Bytes of replies above which they are sent before further commands are carried out: a client that sends and does not
/// read is not read from either.
pub(crate) const OUTPUT_HIGH_WATER: usize = 256 * 1024;

/// Why a session has stopped carrying out commands for now.
pub(crate) enum Progress {
    /// The next command is incomplete: at least so many more bytes must come.
    NeedInput(usize),
    /// Replies are sent, and other connections are served, before the next command.
    OthersFirst,
    /// The connection ends when the replies are sent.
    Close(Ended),
    /// The connection shows events from now on.
    Watch(Topics),
    /// The connection lists items before the next command.
    Dump(Dump),
}

/// Why a connection ended, by memcached's names.
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

/// The state of one connection's conversation.
pub(crate) struct Session<'a> {
    /// Set by the listener, or by the first byte.
    protocol: Option<Protocol>,
    /// Bytes of a refused value that are still to come and are skipped.
    swallow: usize,
    authenticated: bool,
    open: &'a OpenSocket,
    limits: Limits,
    shared: &'a Shared,
    counters: &'a Counters,
}

/// A decoded request, about to be carried out.
struct Planned<'a> {
    request: Request<'a>,
    /// Hash of a single-key command's key.
    hash: Option<Hash>,
    /// Length of the request in the input, bytes.
    consumed: usize,
}

impl<'a> Session<'a> {
    pub(crate) fn new(
        protocol: Option<Protocol>,
        open: &'a OpenSocket,
        shared: &'a Shared,
        counters: &'a Counters,
    ) -> Self {
        let limits = Limits { item_size_max: shared.store.item_size_max() };
        Session { protocol, swallow: 0, authenticated: shared.users.is_none(), open, limits, shared, counters }
    }

    /// Carries out the whole commands at the front of the input, a batch at a time, and appends their replies to the
    /// output.
    pub(crate) fn work(&mut self, buffers: &mut Buffers) -> Progress {
        let requests_per_turn = self.shared.settings.requests_per_turn as usize;
        let mut now = self.shared.clock.now();
        self.open.begin(now);
        let shared = self.shared;
        let cluster = shared.cluster.as_deref();
        // Held for the turn: no other member hears of a newer routing before its commands are carried out.
        let gate = cluster.map(|cluster| cluster.enter());
        let router = cluster.zip(gate.as_deref()).map(|(cluster, routing)| Router { cluster, routing, taken: None });
        let context = Context { shared, counters: self.counters, descriptor: self.open.descriptor, router };
        let mut done = 0;
        while done < requests_per_turn {
            let skipped = self.swallow.min(buffers.end - buffers.start);
            self.swallow -= skipped;
            buffers.start += skipped;
            if buffers.start == buffers.end {
                return Progress::NeedInput(1);
            }
            let first = buffers.input[buffers.start];
            let protocol = *self.protocol.get_or_insert_with(|| Protocol::of_first_byte(first));
            if !self.authenticated {
                if let Some(stop) = self.authenticate(protocol, buffers) {
                    return stop;
                }
                done += 1;
                continue;
            }
            let most = BATCH.min(requests_per_turn - done);
            match self.carry_out_batch(protocol, most, buffers, &context, &mut now) {
                Ok(carried_out) => done += carried_out.max(1),
                Err(stop) => return stop,
            }
        }
        Progress::OthersFirst
    }

    /// Takes the next request of a connection that has not logged in. Returns why the session stops, if it does.
    fn authenticate(&mut self, protocol: Protocol, buffers: &mut Buffers) -> Option<Progress> {
        let Some(users) = &self.shared.users else {
            self.authenticated = true;
            return None;
        };
        let input = &buffers.input[buffers.start..buffers.end];
        match users.ask(protocol, input, self.counters, &mut buffers.output.bytes) {
            Asked::NeedInput(bytes) => Some(Progress::NeedInput(bytes)),
            Asked::Answered { consumed, authenticated } => {
                buffers.start += consumed;
                self.authenticated = authenticated;
                None
            }
            Asked::Close => Some(Progress::Close(Ended::Normal)),
        }
    }

    /// Decodes up to `most` requests and carries them out. Decoding comes first, so that the memory of all their keys
    /// is fetched at once. Returns how many requests were carried out, or why the session stops.
    #[inline]
    fn carry_out_batch(
        &mut self,
        protocol: Protocol,
        most: usize,
        buffers: &mut Buffers,
        context: &Context<'_>,
        now: &mut Time,
    ) -> Result<usize, Progress> {
        let Buffers { input, start, end, scratches, output, holes } = buffers;
        let store = &self.shared.store;
        let mut batch = ArrayVec::new();
        let other =
            decode_batch(protocol, &input[*start..*end], &self.limits, &mut scratches[..most], store, &mut batch);
        if batch.len() > 1 {
            store.prefetch(batch.iter().filter_map(|planned| planned.hash));
        }
        for Planned { request, hash, consumed } in &batch {
            if output.len() >= OUTPUT_HIGH_WATER {
                return Err(Progress::OthersFirst);
            }
            if self.shared.settings.debug_time {
                *now = self.shared.clock.now();
            }
            if waits_behind(request, *hash, store, holes) {
                return Err(Progress::OthersFirst);
            }
            let bytes = &input[*start..*start + consumed];
            let began = self.counters.measured.is_due().then(Instant::now);
            let stop = carry_out(context, request, *hash, protocol, bytes, *now, output, holes);
            if let Some(began) = began {
                self.counters.measured.record(&request.command, began.elapsed());
            }
            *start += consumed;
            if let Some(stop) = stop {
                return Err(stop);
            }
        }
        let carried_out = batch.len();
        drop(batch);
        match other {
            // Requests are in the batch.
            None | Some(Decoded::Request { .. }) => {}
            Some(Decoded::Part { request, consumed, repeat }) => {
                if waits_behind(&request, None, store, holes) {
                    return Err(Progress::OthersFirst);
                }
                // Keys of other members leave holes of their own; a part with a single key does not do so itself.
                if let Effect::NotHere(why) = context.carry_out(&request, None, *now, output, holes)
                    && let (Some(router), Command::Get(get)) = (&context.router, &request.command)
                {
                    for key in get.keys.iter() {
                        router.leave_part(get, key, store.hash(key), why, &request.reply, output, holes);
                    }
                }
                // The command's name is copied in front of the keys that are left.
                let front = *start;
                *start += consumed - repeat;
                input.copy_within(front..front + repeat, *start);
            }
            Some(Decoded::Incomplete { need }) => return Err(Progress::NeedInput(need)),
            Some(Decoded::Error { error, reply, consumed, swallow, outdated, close }) => {
                if let Some(key) = outdated {
                    context.forget(key, *now, output, holes);
                    if self.shared.watchers.wants(Topics::MUTATIONS) {
                        self.shared.watchers.refused(key, self.open.descriptor);
                    }
                }
                self.counters.store_too_large.add((error == Error::TOO_LARGE).into());
                reply.outcome(&Outcome::Error(error), &mut output.bytes);
                *start += consumed;
                self.swallow = swallow;
                if close {
                    return Err(Progress::Close(Ended::Error));
                }
            }
            Some(Decoded::Close) => return Err(Progress::Close(Ended::Error)),
        }
        Ok(carried_out)
    }
}

/// Carries out one request and appends its reply, or leaves a hole for it. Returns why the session stops, if it does.
#[inline]
#[expect(clippy::too_many_arguments, reason = "the request in both forms, and where its answer goes")]
fn carry_out(
    context: &Context<'_>,
    request: &Request<'_>,
    hash: Option<Hash>,
    protocol: Protocol,
    bytes: &[u8],
    now: Time,
    output: &mut Output,
    holes: &mut Vec<Incomplete>,
) -> Option<Progress> {
    match context.carry_out(request, hash, now, output, holes) {
        Effect::Reply(_) | Effect::Replied => None,
        Effect::NotHere(why) => {
            if let Some(router) = &context.router {
                router.leave(request, hash, protocol, bytes, why, &context.shared.store, output, holes);
            }
            None
        }
        Effect::Close => Some(Progress::Close(Ended::Normal)),
        Effect::ShutDown => Some(Progress::Close(Ended::Shutdown)),
        Effect::Watch(topics) => Some(Progress::Watch(topics)),
        Effect::Dump(dump) => Some(Progress::Dump(dump)),
    }
}

/// Decodes up to as many requests as there are `scratches`. Returns what stands in the input in place of one more.
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
                let hash = request.command.key().map(|key| store.hash(key));
                batch.push(Planned { request, hash, consumed });
            }
            other => return Some(other),
        }
    }
    None
}

/// Carries out the commands of a datagram and appends their replies to `output`.
pub(crate) fn work_on_datagram(
    payload: &[u8],
    protocol: Option<Protocol>,
    open: &OpenSocket,
    shared: &Shared,
    counters: &Counters,
    output: &mut Output,
) {
    let mut buffers = Buffers { end: payload.len(), output: std::mem::take(output), ..Buffers::new(payload.to_vec()) };
    // A command that is cut off is dropped: a datagram has no continuation.
    Session::new(protocol, open, shared, counters).work(&mut buffers);
    *output = buffers.output;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Settings;
    use crate::net::open_sockets::Transport;

    /// A node that nobody can connect to.
    fn node(settings: Settings) -> Shared {
        Shared::new(settings, None, None, tokio::sync::watch::channel(false).1, None).unwrap()
    }

    fn settings() -> Settings {
        let mut settings = Settings::default();
        (settings.memory_mebibytes, settings.item_size_max) = (4, 64 * 1024);
        settings
    }

    /// Gives `input` to a session in two pieces, and returns the replies to both and the last progress.
    fn converse(shared: &Shared, input: &[u8], split: usize) -> (String, Progress) {
        let open = OpenSocket::connection(&std::io::stdin(), Transport::Tcp, None, None, shared.clock.now());
        let mut session = Session::new(None, &open, shared, &shared.workers[0]);
        let mut buffers = Buffers::new(Vec::new());
        let mut progress = Progress::NeedInput(1);
        for piece in [&input[..split], &input[split..]] {
            buffers.make_room(piece.len());
            buffers.input[buffers.end..][..piece.len()].copy_from_slice(piece);
            buffers.end += piece.len();
            progress = session.work(&mut buffers);
        }
        (String::from_utf8(buffers.output.to_vec()).unwrap(), progress)
    }

    #[test]
    fn the_replies_are_the_same_however_the_input_is_split() {
        let shared = node(settings());
        let input = b"set a 0 0 3\r\nabc\r\nget a b\r\nmn\r\nno such command\r\nincr a 1\r\ndelete a\r\n";
        let replies = "STORED\r\nVALUE a 0 3\r\nabc\r\nEND\r\nMN\r\nERROR\r\n\
                       CLIENT_ERROR cannot increment or decrement non-numeric value\r\nDELETED\r\n";
        for split in 0..=input.len() {
            let (output, progress) = converse(&shared, input, split);
            assert_eq!(output, replies, "split at {split}");
            assert!(matches!(progress, Progress::NeedInput(1)));
        }
    }

    #[test]
    fn a_session_says_how_many_bytes_of_a_value_are_missing() {
        let shared = node(settings());
        let (output, progress) = converse(&shared, b"mn\r\nset a 0 0 100\r\nabc", 0);
        assert_eq!(output, "MN\r\n");
        assert!(matches!(progress, Progress::NeedInput(need) if need == 100 + b"\r\n".len() - b"abc".len()));
    }

    #[test]
    fn the_bytes_of_a_refused_value_are_skipped_wherever_they_are_split() {
        let shared = node(settings());
        let value = "mn\r\n".repeat(50_000);
        let input = format!("set a 0 0 {}\r\n{value}\r\nmn\r\n", value.len());
        for split in [1, 12, 20, 100_000, input.len() - 6, input.len() - 1] {
            let (output, _) = converse(&shared, input.as_bytes(), split);
            assert_eq!(output, "SERVER_ERROR object too large for cache\r\nMN\r\n", "split at {split}");
        }
    }

    #[test]
    fn other_connections_are_served_after_the_requests_of_one_turn() {
        let mut settings = settings();
        settings.requests_per_turn = 2;
        let shared = node(settings);
        let (output, progress) = converse(&shared, b"mn\r\nmn\r\nmn\r\n", 0);
        assert_eq!(output, "MN\r\nMN\r\n");
        assert!(matches!(progress, Progress::OthersFirst));
    }

    #[test]
    fn quit_ends_a_session_before_the_commands_behind_it() {
        let (output, progress) = converse(&node(settings()), b"mn\r\nquit\r\nmn\r\n", 0);
        assert_eq!(output, "MN\r\n");
        assert!(matches!(progress, Progress::Close(Ended::Normal)));
    }
}
