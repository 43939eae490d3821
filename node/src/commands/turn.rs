//! The context that every command is carried out in.

use std::os::fd::RawFd;

use larder_protocol::{Exptime, Outcome, Reply};

use crate::clock;
use crate::net::output::Output;
use crate::shared::Shared;
use crate::statistics::counters::Counters;
use crate::store::{Entry, Expiry, Hash, Time};

/// One request's turn: the state that its command reads and changes, and the place of its reply.
pub(crate) struct Turn<'a> {
    pub(crate) shared: &'a Shared,
    /// Counters of the worker that serves the connection.
    pub(crate) counters: &'a Counters,
    /// The same for all steps of a command, so that an item cannot expire between two of them.
    pub(crate) now: Time,
    /// Descriptor of the connection's socket: events name a connection by it.
    pub(crate) descriptor: RawFd,
    pub(crate) reply: &'a Reply<'a>,
    /// Hash of the request's only key; `None` if nobody has computed it yet, or if there are several keys or none.
    pub(crate) hash: Option<Hash>,
    /// Replies that wait to be sent; this request's is appended.
    pub(crate) output: &'a mut Output,
}

impl<'a> Turn<'a> {
    /// Returns the hash of `key`, the request's only key.
    #[inline]
    pub(crate) fn hash(&self, key: &[u8]) -> Hash {
        let hash = self.hash.unwrap_or_else(|| self.shared.store.hash(key));
        debug_assert_eq!(hash, self.shared.store.hash(key), "another key than the request's");
        hash
    }

    /// Locks the entry of `key`, the request's only key.
    #[inline]
    pub(crate) fn entry<'k>(&self, key: &'k [u8]) -> Entry<'a, 'k> {
        self.shared.store.entry(key, self.hash(key), self.now)
    }

    /// Returns when an item with this expiration time expires.
    #[inline]
    pub(crate) fn expiry(&self, exptime: Exptime) -> Expiry {
        clock::expiry(exptime, self.now)
    }

    /// Whether replies to earlier commands wait to be sent.
    pub(crate) fn is_pipelined(&self) -> bool {
        self.output.len() > 0
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
