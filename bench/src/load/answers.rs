//! The receiving half of a worker: answers, lost connections and time-outs.

use std::os::fd::AsFd;
use std::time::Duration;

use rustix::event::epoll;

use super::connection::{Connection, Input, Pending};
use super::phase_state::PhaseState;
use super::plan::{Plan, Schedule};
use super::transport::Transport;
use super::verify::Verifier;
use super::wire::{Answer, Decoded, Encoder, Ending};
use super::worker::Worker;
use crate::workload::Operation;

/// Pause before a lost connection is opened again, in nanoseconds.
const RETRY_PAUSE: u64 = 100_000_000;
/// How long opening a lost connection again may take: the worker's other connections wait in this time.
const RETRY_PATIENCE: Duration = Duration::from_millis(100);
/// Reads from one connection before the worker turns to the others.
const READS_IN_A_ROW: usize = 16;

/// Work that a batch of answers leaves behind.
#[derive(Default)]
struct FollowUp {
    /// Requests that are over.
    completed: u32,
    /// Slots of the open loop that are free again.
    freed: u32,
    /// Keys to set because a read or an increment missed them.
    fills: Vec<(Operation, u64)>,
}

impl Worker {
    /// Reads what a connection has received and gives the answers to their requests.
    pub(super) fn read(&mut self, state: &mut PhaseState, index: usize) {
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut follow_up = FollowUp::default();
        let (encoder, plan) = (self.encoder, self.plan.clone());
        let mut lost = None;
        for turn in 0.. {
            let connection = &mut self.connections[index];
            if connection.retry_at.is_some() || (turn >= READS_IN_A_ROW && !connection.transport.may_hold_input()) {
                break;
            }
            let result = connection.read(&mut buffer, |connection, input| {
                take_answers(encoder, &plan, state, connection, input, &mut follow_up)
            });
            match result {
                Ok(Input::More) => continue,
                Ok(Input::Drained) => {}
                Ok(Input::Closed) => lost = Some("the server closed a connection".to_owned()),
                Err(error) => lost = Some(format!("{error:#}")),
            }
            break;
        }
        self.buffer = buffer;
        let now = state.now();
        let group = self.connections[index].group;
        self.outstanding[group] -= follow_up.completed;
        if let Some(words) = lost {
            self.lose(state, index, now, &words);
        }
        for (operation, key) in follow_up.fills {
            self.fill(index, operation, key, now);
        }
        state.free.extend(std::iter::repeat_n(group, follow_up.freed as usize));
        if state.phase.schedule == Schedule::Closed && self.outstanding[group] == 0 {
            self.send_batch(state, group, now);
        }
    }

    /// Writes the encoded requests of a connection. Where the socket is full, the poll reports when it has room again.
    pub(super) fn flush(&mut self, state: &mut PhaseState, index: usize, now: u64) {
        let connection = &mut self.connections[index];
        connection.is_dirty = false;
        if connection.retry_at.is_some() {
            return;
        }
        match connection.flush() {
            Ok(blocked) => {
                if blocked != connection.watches_output {
                    connection.watches_output = blocked;
                    let output = if blocked { epoll::EventFlags::OUT } else { epoll::EventFlags::empty() };
                    let data = epoll::EventData::new_u64(index as u64);
                    let flags = epoll::EventFlags::IN | output;
                    if let Err(error) = epoll::modify(&self.epoll, connection.transport.as_fd(), data, flags) {
                        self.lose(state, index, now, &error.to_string());
                    }
                }
            }
            Err(error) => self.lose(state, index, now, &error.to_string()),
        }
    }

    /// Fails requests that have waited longer than the time-out, and opens lost connections again when their pause is
    /// over.
    pub(super) fn expire(&mut self, state: &mut PhaseState, now: u64) {
        let timeout = self.plan.timeout.as_nanos() as u64;
        for index in 0..self.connections.len() {
            let connection = &mut self.connections[index];
            if connection.pending.front().is_some_and(|pending| pending.sent.saturating_add(timeout) < now) {
                self.lose(state, index, now, "a request had no answer in time (--timeout)");
            } else if connection.retry_at.is_some_and(|at| at <= now) {
                self.reconnect(state, index, now);
            }
        }
    }

    fn reconnect(&mut self, state: &mut PhaseState, index: usize, now: u64) {
        let connection = &mut self.connections[index];
        let address = &self.plan.servers[connection.server];
        let fresh = Transport::connect(address, &self.plan.opening, RETRY_PATIENCE).and_then(|transport| {
            let data = epoll::EventData::new_u64(index as u64);
            epoll::add(&self.epoll, transport.as_fd(), data, epoll::EventFlags::IN)?;
            Ok(transport)
        });
        match fresh {
            Ok(transport) => {
                let out = std::mem::take(&mut connection.out);
                let (pending, keys) = (std::mem::take(&mut connection.pending), std::mem::take(&mut connection.keys));
                connection.replace(transport);
                // Requests that were encoded while the connection was lost go out now.
                (connection.out, connection.pending, connection.keys) = (out, pending, keys);
                self.flush(state, index, now);
                let group = self.connections[index].group;
                if state.phase.schedule == Schedule::Closed && self.outstanding[group] == 0 {
                    self.send_batch(state, group, now);
                }
            }
            Err(error) => {
                tracing::debug!("{error:#}");
                connection.retry_at = Some(now + RETRY_PAUSE);
                // The requests that wait for this connection have failed.
                self.fail_pending(state, index, now);
            }
        }
    }

    /// Closes a connection that does not work; its requests have failed. `words` say why.
    pub(super) fn lose(&mut self, state: &mut PhaseState, index: usize, now: u64, words: &str) {
        let connection = &mut self.connections[index];
        if connection.retry_at.is_none() {
            let address = &self.plan.servers[connection.server];
            state.note(|| format!("{address}: {words}"));
            connection.retry_at = Some(now + RETRY_PAUSE);
            // The poll may have dropped the socket already.
            let _ = epoll::delete(&self.epoll, connection.transport.as_fd());
            connection.forget_input();
        }
        self.fail_pending(state, index, now);
    }

    /// Counts every request of a connection that waits for an answer as failed.
    pub(super) fn fail_pending(&mut self, state: &mut PhaseState, index: usize, now: u64) {
        let connection = &mut self.connections[index];
        connection.out.clear();
        connection.written = 0;
        let group = connection.group;
        while let Some(pending) = connection.pending.pop_front() {
            for (key, _) in connection.keys.drain(..pending.keys as usize) {
                if let (Some(verifier), Operation::Set | Operation::Delete) = (&self.plan.verifier, pending.operation) {
                    verifier.write_unknown(key);
                }
            }
            self.outstanding[group] -= 1;
            if pending.frees_slot {
                state.free.push_back(group);
            }
            state.count(connection.server, &Pending { errors: pending.requests, hits: 0, ..pending }, now);
        }
    }
}

/// Decodes the whole answers in `input` and gives each to its request. Returns the bytes consumed and how many more
/// bytes the next answer needs.
///
/// # Errors
///
/// The server does not speak the protocol, or answers without a request.
fn take_answers(
    encoder: Encoder,
    plan: &Plan,
    state: &mut PhaseState,
    connection: &mut Connection,
    input: &[u8],
    follow_up: &mut FollowUp,
) -> anyhow::Result<(usize, usize)> {
    let now = state.now();
    let mut at = 0;
    loop {
        if at == input.len() {
            return Ok((at, 0));
        }
        let (answer, consumed) = match encoder.decode(&input[at..]) {
            Decoded::Answer { answer, consumed } => (answer, consumed),
            Decoded::Incomplete { need, .. } => return Ok((at, need)),
            Decoded::Malformed => anyhow::bail!("the server's answer is not of this protocol (--protocol)"),
        };
        at += consumed;
        let Some(pending) = connection.pending.front_mut() else {
            anyhow::bail!("the server sent an answer to nothing");
        };
        let over = match answer {
            Answer::Value { key, value } => {
                pending.hits += 1;
                if encoder.with_keys {
                    let note = match_key(plan, &mut connection.keys, pending, key, follow_up);
                    if let (Some(verifier), Some((key, floor))) = (&plan.verifier, note) {
                        verifier.hit(key, floor, plan.workload.value_len(key), &plan.filler, value);
                    }
                }
                pending.ending == Ending::One
            }
            Answer::End => true,
            Answer::Done => {
                pending.hits += 1;
                pending.ending == Ending::One
            }
            Answer::Missing => pending.ending == Ending::One,
            Answer::Refused => {
                pending.errors += 1;
                pending.ending == Ending::One
            }
            Answer::Error(words) => {
                pending.errors += 1;
                state.note(|| format!("a server answered: {}", words.escape_ascii()));
                pending.ending != Ending::Noop
            }
        };
        if over {
            let mut pending = connection.pending.pop_front().expect("a request was at the front");
            finish_keys(plan, connection, &mut pending, answer, follow_up);
            state.count(connection.server, &pending, now);
            follow_up.completed += 1;
            follow_up.freed += u32::from(pending.frees_slot);
        }
    }
}

/// Finds the key of a value among the keys of its request, with the verifier's note. A server answers in the order of
/// the request, so the keys before it were missed.
fn match_key(
    plan: &Plan,
    keys: &mut std::collections::VecDeque<(u64, u64)>,
    pending: &mut Pending,
    name: &[u8],
    follow_up: &mut FollowUp,
) -> Option<(u64, u64)> {
    let mut buffer = [0; larder_protocol::KEY_MAX_LEN];
    while pending.keys > 0 {
        pending.keys -= 1;
        let (key, note) = keys.pop_front()?;
        if name.is_empty() || plan.workload.keys.name(key, &mut buffer) == name {
            return Some((key, note));
        }
        miss(plan, plan.verifier.as_ref(), key, note, follow_up);
    }
    None
}

/// Notes that a read missed `key`, and fills the key if the workload says so.
fn miss(plan: &Plan, verifier: Option<&Verifier>, key: u64, note: u64, follow_up: &mut FollowUp) {
    if let Some(verifier) = verifier
        && plan.workload.ttl.is_never()
    {
        verifier.miss(key, note);
    }
    if plan.workload.fill {
        follow_up.fills.push((Operation::Set, key));
    }
}

/// Handles the keys that have no answer of their own when the last answer of a request has come.
fn finish_keys(
    plan: &Plan,
    connection: &mut Connection,
    pending: &mut Pending,
    answer: Answer<'_>,
    follow_up: &mut FollowUp,
) {
    let verifier = plan.verifier.as_ref();
    let quiet = pending.ending == Ending::Noop;
    let failed = pending.errors > 0;
    for (key, note) in connection.keys.drain(..pending.keys as usize) {
        match pending.operation {
            Operation::Get if !failed && (verifier.is_some() || plan.workload.fill) => {
                miss(plan, verifier, key, note, follow_up);
            }
            Operation::Set | Operation::Delete if verifier.is_some() => {
                let verifier = verifier.expect("just looked");
                if failed || quiet {
                    verifier.write_unknown(key);
                } else {
                    verifier.written(key, note, pending.operation == Operation::Set);
                }
            }
            Operation::Incr if answer == Answer::Missing => follow_up.fills.push((Operation::Incr, key)),
            _ => {}
        }
    }
    // A server answers quiet writes only where they fail.
    if quiet && pending.operation != Operation::Get {
        pending.hits = pending.keys_asked.saturating_sub(pending.errors);
    }
}
