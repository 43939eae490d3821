//! The sending half of a worker: draws requests from the workload and encodes them.

use larder_protocol::Keys;
use rand::RngExt;

use super::connection::Pending;
use super::phase_state::PhaseState;
use super::wire::{Ending, Protocol};
use super::worker::Worker;
use crate::workload::Operation;

/// What the requests of one batch have in common.
#[derive(Clone, Copy)]
struct Batch {
    operation: Operation,
    /// The server holds back answers without news, and a no-op ends the batch.
    quiet: bool,
    /// When the requests were due, in nanoseconds since the phase began.
    due: u64,
    /// The current time, in nanoseconds since the phase began.
    now: u64,
    /// The requests set keys that were missed.
    is_fill: bool,
}

impl Worker {
    /// Draws and encodes one request of `group`, or `requests` quiet ones, due at `due`. `due` may lie before `now`.
    pub(super) fn send(&mut self, state: &mut PhaseState, group: usize, due: u64, now: u64, requests: u32) {
        let plan = self.plan.clone();
        let workload = &plan.workload;
        let populate = state.phase.populate;
        let operation = if populate { Operation::Set } else { workload.mix.draw(&mut self.scratch.rng) };
        let per_request = if operation == Operation::Get { workload.multiget } else { 1 };
        for _ in 0..requests * per_request {
            let key = state.sampler.next(&mut self.scratch.rng);
            let name = workload.keys.name(key, &mut self.scratch.name);
            let (numbers, names) = &mut self.scratch.chosen[plan.ring.owner(name)];
            numbers.push(key);
            if operation == Operation::Get {
                if !names.is_empty() {
                    names.push(b' ');
                }
                names.extend_from_slice(name);
            }
        }
        let batch = Batch { operation, quiet: plan.quiet && !populate, due, now, is_fill: false };
        let mut last = None;
        for server in 0..plan.servers.len() {
            let (mut numbers, mut names) = std::mem::take(&mut self.scratch.chosen[server]);
            if !numbers.is_empty() {
                let index = group * plan.servers.len() + server;
                match operation {
                    Operation::Get => self.encode_reads(index, batch, &numbers, &names),
                    _ => self.encode_writes(index, batch, &numbers),
                }
                last = Some(index);
            }
            numbers.clear();
            names.clear();
            self.scratch.chosen[server] = (numbers, names);
        }
        // A request that goes to several servers takes one slot.
        if let Some(pending) = last.and_then(|index| self.connections[index].pending.back_mut()) {
            pending.frees_slot = true;
        }
    }

    /// Encodes a read of `keys` on connection `index`. `names` holds their names, separated by blanks.
    fn encode_reads(&mut self, index: usize, batch: Batch, keys: &[u64], names: &[u8]) {
        let connection = &mut self.connections[index];
        let is_text = self.encoder.protocol == Protocol::Text;
        let quiet = !is_text && (batch.quiet || keys.len() > 1);
        match keys {
            _ if !is_text => {
                let names = Keys::Line(names).iter();
                names.for_each(|name| self.encoder.get(Keys::One(name), quiet, &mut connection.out));
            }
            [_] => self.encoder.get(Keys::One(names), false, &mut connection.out),
            _ => self.encoder.get(Keys::Line(names), false, &mut connection.out),
        }
        let verifier = self.plan.verifier.as_ref();
        let notes = keys.iter().map(|&key| (key, verifier.map_or(0, |verifier| verifier.floor(key))));
        connection.keys.extend(notes);
        let ending = match quiet {
            true => Ending::Noop,
            false if is_text => Ending::End,
            false => Ending::One,
        };
        let requests = keys.len().div_ceil(self.plan.workload.multiget as usize);
        self.enqueue(index, batch, keys.len(), requests, ending);
    }

    /// Encodes a write of each of `keys` on connection `index`.
    fn encode_writes(&mut self, index: usize, batch: Batch, keys: &[u64]) {
        for &key in keys {
            let version = match (&self.plan.verifier, batch.operation) {
                (Some(verifier), Operation::Set | Operation::Delete) => match verifier.begin_write(key) {
                    Some(version) => Some(version),
                    None => {
                        // Another write of this key is under way. Versions of two writes at once would have no order,
                        // so read the key instead.
                        let mut names = std::mem::take(&mut self.scratch.value);
                        names.clear();
                        names.extend_from_slice(self.plan.workload.keys.name(key, &mut self.scratch.name));
                        self.encode_reads(index, Batch { operation: Operation::Get, ..batch }, &[key], &names);
                        self.scratch.value = names;
                        continue;
                    }
                },
                _ => None,
            };
            self.encode_write(index, batch, key, version);
            if !batch.quiet {
                self.enqueue(index, batch, 1, 1, Ending::One);
            }
        }
        if batch.quiet {
            self.enqueue(index, batch, keys.len(), keys.len(), Ending::Noop);
        }
    }

    /// Encodes one write; `version` goes into the value of a verified run.
    fn encode_write(&mut self, index: usize, batch: Batch, key: u64, version: Option<u64>) {
        let (workload, scratch) = (&self.plan.workload, &mut self.scratch);
        let Batch { operation, quiet, .. } = batch;
        let connection = &mut self.connections[index];
        let out = &mut connection.out;
        let name = workload.keys.name(key, &mut scratch.name);
        let ttl = match operation {
            Operation::Set | Operation::Touch => workload.ttl.draw(scratch.rng.random()),
            _ => 0,
        };
        match operation {
            Operation::Set => {
                let len = workload.value_len(key);
                let value = match version {
                    Some(version) => {
                        self.plan.filler.write(key, version, len, &mut scratch.value);
                        &scratch.value
                    }
                    None => self.plan.filler.slice(key, len),
                };
                self.encoder.set(name, value, ttl, quiet, out);
            }
            Operation::Delete => self.encoder.delete(name, quiet, out),
            Operation::Touch => self.encoder.touch(name, ttl, quiet, out),
            Operation::Incr => {
                number_name(name, &mut scratch.value);
                self.encoder.incr(&scratch.value, quiet, out);
            }
            Operation::Get => {}
        }
        connection.keys.push_back((key, version.unwrap_or(0)));
    }

    /// Sets a key that was missed: to its value after a read, to 0 after an increment.
    pub(super) fn fill(&mut self, index: usize, operation: Operation, key: u64, now: u64) {
        let batch = Batch { operation: Operation::Set, quiet: false, due: now, now, is_fill: true };
        if operation == Operation::Incr {
            number_name(self.plan.workload.keys.name(key, &mut self.scratch.name), &mut self.scratch.value);
            let connection = &mut self.connections[index];
            self.encoder.set(&self.scratch.value, b"0", 0, false, &mut connection.out);
            connection.keys.push_back((key, 0));
            return self.enqueue(index, batch, 1, 1, Ending::One);
        }
        let version = match &self.plan.verifier {
            None => None,
            // Another write of this key is under way, which fills it too.
            Some(verifier) => match verifier.begin_write(key) {
                None => return,
                version => version,
            },
        };
        self.encode_write(index, batch, key, version);
        self.enqueue(index, batch, 1, 1, Ending::One);
    }

    /// Notes a request that was just encoded: it waits for its answer, and its connection for a flush.
    fn enqueue(&mut self, index: usize, batch: Batch, keys: usize, requests: usize, ending: Ending) {
        let connection = &mut self.connections[index];
        if ending == Ending::Noop {
            self.encoder.noop(&mut connection.out);
        }
        let (requests, keys) = (requests as u32, keys as u32);
        connection.pending.push_back(Pending {
            operation: batch.operation,
            ending,
            requests,
            keys,
            keys_asked: keys,
            due: batch.due,
            sent: batch.now,
            hits: 0,
            errors: 0,
            frees_slot: false,
            is_fill: batch.is_fill,
        });
        self.outstanding[connection.group] += 1;
        if !connection.is_dirty {
            connection.is_dirty = true;
            self.dirty.push(index);
        }
    }
}

/// Writes the key of a number to `out`: the key's name with `#` in the first place. Increments need keys of their own,
/// since values are not numbers.
fn number_name(name: &[u8], out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(name);
    out[0] = b'#';
}
