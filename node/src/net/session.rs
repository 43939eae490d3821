//! A session carries out the commands at the front of a connection's input. Bytes in, bytes out; no socket.

use std::time::Instant;

use arrayvec::ArrayVec;
use larder_protocol::{Command, Decoded, Error, Get, Keys, Limits, Outcome, Protocol, Reply, Request, Scratch};

use crate::cluster::{Incomplete, Router, waits_behind};
use crate::commands::dump::Dump;
use crate::commands::effect::Effect;
use crate::commands::events::Topics;
use crate::commands::items::BATCH;
use crate::commands::turn::Context;
use crate::net::auth::Asked;
use crate::net::buffers::{Buffers, INPUT};
use crate::net::open_sockets::{OpenSocket, Transport};
use crate::net::output::Output;
use crate::shared::Shared;
use crate::statistics::counters::Counters;
use crate::store::{Hash, Store, Time};

/// Bytes of replies above which they are sent before further commands are carried out: a client that sends and does not
/// read is not read from either. Where connections wait with much already, every reply is sent before the next command.
pub(crate) const OUTPUT_HIGH_WATER: usize = 256 * 1024;

/// Why a session has stopped carrying out commands for now.
pub(crate) enum Progress {
    /// The next command is incomplete.
    NeedInput,
    /// The next command has `len` bytes, more than the input has room for. It writes a key of this hash.
    Receive { hash: Hash, len: usize },
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

/// Where a list of keys is cut: what is carried out leaves the input, and the command's name, with the expiration time
/// of `gat` and `gats`, is copied in front of the keys that are left.
struct Cut {
    name: usize,
    carried_out: usize,
}

impl Cut {
    fn drop_from(&self, input: &mut [u8], start: &mut usize) {
        input.copy_within(*start..*start + self.name, *start + self.carried_out);
        *start += self.carried_out;
    }
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
        let limits = Limits { item_size_max: shared.store.item_size_max(), ..Limits::default() };
        Session { protocol, swallow: 0, authenticated: shared.users.is_none(), open, limits, shared, counters }
    }

    /// Makes the session refuse the value at the front of the input, which has not arrived: there is no memory for it.
    pub(crate) fn refuse_unfinished(&mut self) {
        self.limits.refuse_unfinished = true;
    }

    /// Carries out the whole commands at the front of the input, a batch at a time, and appends their replies to the
    /// output.
    pub(crate) fn work(&mut self, buffers: &mut Buffers) -> Progress {
        let requests_per_turn = self.shared.settings.requests_per_turn as usize;
        // The replies to a datagram go together, and nobody keeps them.
        let is_kept = self.open.transport != Transport::Udp;
        let high_water = if is_kept && self.shared.store.keeps_much() { 1 } else { OUTPUT_HIGH_WATER };
        let mut now = self.shared.clock.now();
        self.open.begin(now);
        let shared = self.shared;
        let cluster = shared.cluster.as_deref();
        // Held for the turn: no other member hears of a newer routing before its commands are carried out.
        let gate = cluster.map(|cluster| cluster.enter());
        let router = cluster.zip(gate.as_deref()).map(|(cluster, routing)| Router { cluster, routing, taken: None });
        let (counters, descriptor, received) = (self.counters, self.open.descriptor, buffers.long.clone());
        let context = Context { shared, counters, descriptor, received, router };
        let mut done = 0;
        while done < requests_per_turn {
            let skipped = self.swallow.min(buffers.end - buffers.start);
            self.swallow -= skipped;
            buffers.start += skipped;
            if buffers.start == buffers.end {
                (buffers.start, buffers.end, buffers.long) = (0, 0, None);
                return Progress::NeedInput;
            }
            let first = buffers.unread()[0];
            let protocol = *self.protocol.get_or_insert_with(|| Protocol::of_first_byte(first));
            if !self.authenticated {
                if let Some(stop) = self.authenticate(protocol, buffers) {
                    return stop;
                }
                done += 1;
                continue;
            }
            let most = BATCH.min(requests_per_turn - done);
            match self.carry_out_batch(protocol, most, high_water, buffers, &context, &mut now) {
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
            Asked::NeedInput => Some(Progress::NeedInput),
            Asked::Answered { consumed, authenticated } => {
                buffers.start += consumed;
                self.authenticated = authenticated;
                if authenticated && self.shared.settings.speaks_text_after_sasl() {
                    self.protocol = None;
                }
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
        high_water: usize,
        buffers: &mut Buffers,
        context: &Context<'_>,
        now: &mut Time,
    ) -> Result<usize, Progress> {
        let Buffers { input, long, start, end, scratches, output, holes, .. } = buffers;
        let whole: &[u8] = long.as_deref().unwrap_or(input);
        let store = &self.shared.store;
        let mut batch = ArrayVec::new();
        let other =
            decode_batch(protocol, &whole[*start..*end], &self.limits, &mut scratches[..most], store, &mut batch);
        if batch.len() > 1 {
            store.prefetch(batch.iter().filter_map(|planned| planned.hash));
        }
        // A list of keys is carried out a few keys at a time: its replies have no other bound. Returns the bytes of the
        // list that are left, because something else comes first. Keys of other members leave holes of their own.
        let carry_out_list =
            |get: &Get<'_>, reply: &Reply<'_>, now: Time, output: &mut Output, holes: &mut Vec<Incomplete>| {
                let mut list = list_of(get);
                loop {
                    let (keys, rest) = Keys::split(list, if high_water < OUTPUT_HIGH_WATER { 1 } else { BATCH });
                    let mut reply = reply.clone();
                    if let Reply::Text(text) = &mut reply {
                        text.unfinished |= !rest.is_empty();
                    }
                    let some = Request { command: Command::Get(Get { keys, ..get.clone() }), reply };
                    if waits_behind(&some, None, store, holes) {
                        return list.len();
                    }
                    context.carry_out(&some, None, now, output, holes);
                    if rest.is_empty() || output.len() >= high_water {
                        return rest.len();
                    }
                    list = rest;
                }
            };
        let mut cut = None;
        for Planned { request, hash, consumed } in &batch {
            if output.len() >= high_water {
                return Err(Progress::OthersFirst);
            }
            if self.shared.settings.debug_time {
                *now = self.shared.clock.now();
            }
            if waits_behind(request, *hash, store, holes) {
                return Err(Progress::OthersFirst);
            }
            let bytes = &whole[*start..*start + consumed];
            let began = self.counters.measured.is_due().then(Instant::now);
            let stop = match &request.command {
                Command::Get(get @ Get { keys: Keys::Line(line), .. }) => {
                    let left = carry_out_list(get, &request.reply, *now, output, holes);
                    if left > 0 {
                        let line_end = if bytes.ends_with(b"\r\n") { 2 } else { 1 };
                        cut = Some(Cut { name: consumed - line_end - line.len(), carried_out: line.len() - left });
                        break;
                    }
                    None
                }
                _ => carry_out(context, request, *hash, protocol, bytes, *now, output, holes),
            };
            if let Some(began) = began {
                let took = began.elapsed();
                self.counters.measured.record(&request.command, took);
                if let Some(router) = &context.router {
                    router.note(request, *hash, store);
                }
                if self.shared.prefixes.on()
                    && let Some(key) = request.command.key()
                {
                    self.shared.prefixes.add_time(key, took);
                }
            }
            *start += consumed;
            if let Some(stop) = stop {
                return Err(stop);
            }
        }
        let carried_out = batch.len();
        drop(batch);
        if let Some(cut) = cut {
            cut.drop_from(input, start);
            return Err(Progress::OthersFirst);
        }
        match other {
            // Requests are in the batch.
            None | Some(Decoded::Request { .. }) => {}
            Some(Decoded::Part { request, consumed, repeat }) => {
                let Command::Get(get) = &request.command else { unreachable!("a part is a list of keys") };
                let (len, left) = (list_of(get).len(), carry_out_list(get, &request.reply, *now, output, holes));
                let cut = match left {
                    0 => Cut { name: repeat, carried_out: consumed - repeat },
                    _ => Cut { name: consumed - len, carried_out: len - left },
                };
                cut.drop_from(input, start);
                if left > 0 {
                    return Err(Progress::OthersFirst);
                }
            }
            Some(Decoded::Incomplete { need, key }) => {
                let len = *end - *start + need;
                return Err(match key {
                    Some(key) if len > INPUT => Progress::Receive { hash: store.hash(key), len },
                    _ => Progress::NeedInput,
                });
            }
            Some(Decoded::Error { error, reply, consumed, swallow, outdated, close }) => {
                self.limits.refuse_unfinished = false;
                if let Some(key) = outdated {
                    context.forget(key, *now, output, holes);
                    if self.shared.watchers.wants(Topics::MUTATIONS) {
                        self.shared.watchers.refused(key, error, self.open.descriptor);
                    }
                }
                self.counters.store_too_large.add((error == Error::TOO_LARGE).into());
                self.counters.store_no_memory.add((error == Error::OUT_OF_MEMORY).into());
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

/// Returns the keys of a retrieval as they stand in its line.
fn list_of<'a>(get: &Get<'a>) -> &'a [u8] {
    match get.keys {
        Keys::One(list) | Keys::Line(list) => list,
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
    let mut buffers = Buffers::of(payload.to_vec());
    std::mem::swap(&mut buffers.output, output);
    let mut session = Session::new(protocol, open, shared, counters);
    // A command that is cut off is dropped: a datagram has no continuation. So is one that waits for another member.
    while let Progress::OthersFirst = session.work(&mut buffers)
        && buffers.holes.is_empty()
    {
        if buffers.output.len() >= OUTPUT_HIGH_WATER {
            buffers.output.clear();
            Error::Server("out of memory writing response").encode(&mut buffers.output.bytes);
            break;
        }
    }
    *output = buffers.output;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Settings;

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
        let mut buffers = Buffers::of(input.to_vec());
        let mut progress = Progress::NeedInput;
        buffers.end = 0;
        for piece in [&input[..split], &input[split..]] {
            // Nothing is left of what was carried out or skipped.
            buffers.input.copy_within(buffers.start..buffers.end, 0);
            (buffers.start, buffers.end) = (0, buffers.end - buffers.start);
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
            assert!(matches!(progress, Progress::NeedInput));
        }
    }

    #[test]
    fn a_session_asks_for_memory_for_a_command_that_is_longer_than_its_input() {
        let shared = node(settings());
        let line = format!("set a 0 0 {INPUT}\r\n");
        let (output, progress) = converse(&shared, format!("mn\r\n{line}abc").as_bytes(), 0);
        assert_eq!(output, "MN\r\n");
        let whole = line.len() + INPUT + b"\r\n".len();
        assert!(matches!(progress, Progress::Receive { len, .. } if len == whole));
        let (_, progress) = converse(&shared, b"set a 0 0 1000\r\nabc", 0);
        assert!(matches!(progress, Progress::NeedInput));
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
