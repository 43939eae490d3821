//! The context that every command is carried out in.

use std::os::fd::RawFd;

use bytes::Bytes;
use larder_protocol::{Exptime, Outcome, Reply, Request};

use crate::clock;
use crate::cluster::{Incomplete, NotHere, Router};
use crate::commands::effect::Effect;
use crate::commands::execute;
use crate::net::output::Output;
use crate::shared::Shared;
use crate::statistics::counters::Counters;
use crate::store::{Entry, Expiry, Hash, Store, Time};

/// What the requests have in common that are carried out one after the other.
pub(crate) struct Context<'a> {
    pub(crate) shared: &'a Shared,
    /// Counters of the worker that serves the connection.
    pub(crate) counters: &'a Counters,
    /// Descriptor of the connection's socket: events name a connection by it.
    pub(crate) descriptor: RawFd,
    /// The whole request, if it was received into memory that the store lent for its key. Then it is the only one.
    pub(crate) received: Option<Bytes>,
    /// Where keys are at home, for a node in a cluster.
    pub(crate) router: Option<Router<'a>>,
}

impl Context<'_> {
    /// Carries out one request and appends its reply, or those of its keys that are here: the others leave holes.
    /// [`Effect::NotHere`] has no reply yet. `hash` is as in [`Turn::hash`].
    #[inline]
    pub(crate) fn carry_out(
        &self,
        request: &Request<'_>,
        hash: Option<Hash>,
        now: Time,
        output: &mut Output,
        holes: &mut Vec<Incomplete>,
    ) -> Effect {
        let mut turn = Turn {
            shared: self.shared,
            counters: self.counters,
            now,
            descriptor: self.descriptor,
            reply: &request.reply,
            hash,
            received: self.received.as_ref(),
            output,
            router: self.router.as_ref(),
            holes,
        };
        match execute(&request.command, &mut turn) {
            Effect::Reply(outcome) => turn.write_reply(outcome),
            Effect::NotHere(NotHere::Configuration) => {
                if let Some(router) = turn.router {
                    router.answer_configuration(&request.command, &request.reply, turn.output);
                }
            }
            effect => return effect,
        }
        Effect::Replied
    }

    /// Removes the item of a key whose new value was refused, wherever it is: its old value is out of date.
    pub(crate) fn forget(&self, key: &[u8], now: Time, output: &mut Output, holes: &mut Vec<Incomplete>) {
        let hash = self.shared.store.hash(key);
        let mut entry = self.shared.store.entry(key, hash, now);
        match &self.router {
            Some(router) => match router.admit(key, entry.is_occupied()) {
                Ok(()) => entry.remove(),
                Err(why) => {
                    drop(entry);
                    router.leave_delete(key, hash, why, output, holes);
                }
            },
            None => entry.remove(),
        }
    }
}

/// One request's turn: the state that its command reads and changes, and the place of its reply.
pub(crate) struct Turn<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) counters: &'a Counters,
    /// The same for all steps of a command, so that an item cannot expire between two of them.
    pub(crate) now: Time,
    pub(crate) descriptor: RawFd,
    pub(crate) reply: &'a Reply<'a>,
    /// Hash of the request's only key; `None` if nobody has computed it yet, or if there are several keys or none.
    pub(crate) hash: Option<Hash>,
    /// As in [`Context`].
    received: Option<&'a Bytes>,
    /// Replies that wait to be sent; this request's is appended.
    pub(crate) output: &'a mut Output,
    /// Where keys are at home, for a node in a cluster.
    pub(crate) router: Option<&'a Router<'a>>,
    /// Keys whose replies other members bring.
    pub(crate) holes: &'a mut Vec<Incomplete>,
}

impl<'a> Turn<'a> {
    /// Returns the hash of `key`, the request's only key.
    #[inline]
    pub(crate) fn hash(&self, key: &[u8]) -> Hash {
        let hash = self.hash.unwrap_or_else(|| self.shared.store.hash(key));
        debug_assert_eq!(hash, self.shared.store.hash(key), "another key than the request's");
        hash
    }

    /// Locks the entry of `key`, the request's only key, unless the command is not to be carried out here.
    #[inline]
    pub(crate) fn entry<'k>(&self, key: &'k [u8]) -> Result<Entry<'a, 'k>, NotHere> {
        self.entry_of(key, self.hash(key))
    }

    /// Locks the entry of a key with this hash, unless the command is not to be carried out here.
    #[inline]
    pub(crate) fn entry_of<'k>(&self, key: &'k [u8], hash: Hash) -> Result<Entry<'a, 'k>, NotHere> {
        let entry = self.shared.store.entry(key, hash, self.now);
        if let Some(router) = self.router {
            router.admit(key, entry.is_occupied())?;
        }
        Ok(entry)
    }

    /// Like [`Turn::entry`], for a command that may insert `value`.
    #[inline]
    pub(crate) fn entry_for_write<'k>(&self, key: &'k [u8], value: &[u8]) -> Result<Entry<'a, 'k>, NotHere> {
        let hash = self.hash(key);
        let store = &self.shared.store;
        let entry = || match self.received {
            None => store.entry_for_write(key, hash, self.now, value),
            Some(request) => store.entry_received(key, hash, self.now, request.slice_ref(value)),
        };
        let Some(router) = self.router else { return Ok(entry()) };
        // A large value gets its memory before its entry is locked: not for the item of another member.
        if self.received.is_none() && Store::may_be_large(value) {
            router.admit_write(key, store.entry(key, hash, self.now).is_occupied())?;
        }
        let entry = entry();
        router.admit_write(key, entry.is_occupied())?;
        Ok(entry)
    }

    /// Returns when an item with this expiration time expires.
    #[inline]
    pub(crate) fn expiry(&self, exptime: Exptime) -> Expiry {
        clock::expiry(exptime, self.now)
    }

    /// Whether replies to earlier commands wait to be sent.
    pub(crate) fn is_pipelined(&self) -> bool {
        !self.output.is_empty()
    }

    /// Appends the reply for `outcome`, with the CAS unique as clients may see it.
    #[inline]
    pub(crate) fn write_reply(&mut self, mut outcome: Outcome<'_>) {
        if let Outcome::Stored { cas, .. } | Outcome::Number { cas, .. } = &mut outcome {
            *cas = self.shared.visible_cas(*cas);
        }
        self.reply.outcome(&outcome, &mut self.output.bytes);
    }
}
