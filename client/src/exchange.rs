//! One exchange with a node: a meta command is sent, and its reply is read.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use larder_protocol::StoreMode;
use larder_protocol::meta::{Code, Line};

use crate::cluster::node::Node;
use crate::cluster::topology::{Hedge, hedged};
use crate::connection::link::{Answer, ReplyFlags};
use crate::error::{Error, Result};
use crate::ttl::{clamped, exptime};
use crate::value::flag;

/// A value with its flags and CAS unique.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// The value.
    pub value: Bytes,
    /// The flags that the item was stored with.
    pub flags: u32,
    /// The CAS unique, for [`Client::cas`](crate::Client::cas).
    pub cas: u64,
}

/// The result of a conditional write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// The value was stored.
    Yes,
    /// The condition did not hold: the item existed (add), or did not exist (replace, append, prepend).
    No,
    /// Another writer changed the item since it was read (cas).
    Changed,
    /// The item does not exist any more (cas).
    Gone,
}

/// A meta command without a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    /// `mg`
    Get,
    /// `md`
    Delete,
    /// `ma`
    Arithmetic,
}

impl Verb {
    /// The operation's name in the metrics.
    fn name(self) -> &'static str {
        match self {
            Verb::Get => "get",
            Verb::Delete => "delete",
            Verb::Arithmetic => "arithmetic",
        }
    }

    #[inline]
    pub(crate) fn begin<'o>(self, out: &'o mut Vec<u8>, key: &[u8]) -> Line<'o> {
        match self {
            Verb::Get => Line::get(out, key),
            Verb::Delete => Line::delete(out, key),
            Verb::Arithmetic => Line::arithmetic(out, key),
        }
    }
}

/// A reply that is not an error.
pub(crate) struct Reply {
    pub(crate) code: Code,
    pub(crate) value: Option<Bytes>,
    pub(crate) flags: ReplyFlags,
}

impl Reply {
    pub(crate) const MISS: Reply = Reply { code: Code::Nf, value: None, flags: ReplyFlags::NONE };

    /// Returns whether the value, if any, can be returned as it is. An empty or stale value needs
    /// [`Reply::item`], and the flags for it.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        self.value.as_ref().is_none_or(|value| !value.is_empty() && !self.flags.stale)
    }

    /// Returns the item. `None` if a plain reader sees none: a placeholder (the empty value of a load under way), a
    /// stale value, or the note that the datastore has no such thing.
    pub(crate) fn item(self) -> Option<Item> {
        let ReplyFlags { cas, client_flags, won, already_won, stale, .. } = self.flags;
        let hidden =
            |value: &Bytes| stale || value.is_empty() && (won || already_won || client_flags & flag::ABSENT != 0);
        let value = self.value.filter(|value| !hidden(value))?;
        Some(Item { value, flags: client_flags, cas })
    }
}

/// Returns the reply, or [`Error::Refused`] for an error line.
pub(crate) fn accepted(node: &Node, answer: Answer) -> Result<Reply> {
    match answer {
        Answer::Code { code, value, flags } => Ok(Reply { code, value, flags }),
        Answer::Refused(line) => Err(Error::Refused { node: node.address().clone(), line }),
    }
}

/// Sends a meta command with the flags that `flags` writes, and returns the reply.
pub(crate) async fn call_node(node: &Node, verb: Verb, key: &[u8], flags: impl FnOnce(&mut Line<'_>)) -> Result<Reply> {
    let answer = node
        .call(verb.name(), |out| {
            let mut line = verb.begin(out, key);
            flags(&mut line);
            line.end();
        })
        .await?;
    accepted(node, answer)
}

/// Writes the flags `v`, `c` and `f` of a read.
pub(crate) fn value_cas_and_flags(line: &mut Line<'_>) {
    line.flag(b'v').flag(b'c').flag(b'f');
}

/// Writes the client flags of an item. Zero is the default and needs no flag.
pub(crate) fn client_flags(line: &mut Line<'_>, flags: u32) {
    if flags != 0 {
        line.number(b'F', flags.into());
    }
}

/// Reads at a node with the flags that `flags` writes. With `ttl`, the item gets a new time to live.
///
/// A reader of an item that was invalidated wins the right to load it, asked for or not: here it is given back.
pub(crate) async fn read_at(node: &Node, key: &[u8], flags: fn(&mut Line<'_>), ttl: Option<Duration>) -> Result<Reply> {
    let reply = call_node(node, Verb::Get, key, |line| {
        flags(line);
        if let Some(ttl) = ttl {
            line.exptime(b'T', exptime(ttl));
        }
    })
    .await?;
    if reply.flags.stale && (ttl.is_some() || reply.flags.won) {
        // A stale value must not live longer than its writer allowed.
        give_back(node, key, None, ttl.is_none()).await;
    }
    Ok(reply)
}

/// Reads at a node, and at a second one too if the first is slow ([`Builder::hedge`](crate::Builder::hedge)).
///
/// The right to load is given back where either read wins it.
pub(crate) async fn read_hedged(node: Arc<Node>, hedge: Hedge, key: &[u8], flags: fn(&mut Line<'_>)) -> Result<Reply> {
    let at = |node: Arc<Node>| {
        let key = key.to_vec();
        async move {
            let mut reply = call_node(&node, Verb::Get, &key, flags).await?;
            if std::mem::take(&mut reply.flags.won) {
                give_back(&node, &key, None, true).await;
            }
            Ok(reply)
        }
    };
    hedged(hedge.after, at(node), at(hedge.node)).await
}

/// What a store sends beside the key.
pub(crate) struct Storing<'a> {
    pub(crate) value: &'a [u8],
    pub(crate) ttl: Duration,
    pub(crate) client_flags: u32,
    pub(crate) mode: StoreMode,
    /// Store only if the item has this CAS unique.
    pub(crate) cas: Option<u64>,
}

impl<'a> Storing<'a> {
    pub(crate) fn set(value: &'a [u8], ttl: Duration, client_flags: u32) -> Self {
        Storing { value, ttl, client_flags, mode: StoreMode::Set, cas: None }
    }
}

/// Stores at a node, which keeps items for at most `ttl_max`. Returns the reply, with the CAS unique and size of an
/// item that was appended or prepended to.
pub(crate) async fn store_reply(
    node: &Node,
    ttl_max: Option<Duration>,
    key: &[u8],
    storing: &Storing<'_>,
) -> Result<Reply> {
    let answer = node
        .call("set", |out| {
            let mut line = Line::set(out, key, storing.value);
            line.exptime(b'T', exptime(clamped(storing.ttl, ttl_max)));
            client_flags(&mut line, storing.client_flags);
            line.store_mode(storing.mode);
            if let Some(cas) = storing.cas {
                line.number(b'C', cas);
            }
            if matches!(storing.mode, StoreMode::Append | StoreMode::Prepend) {
                line.flag(b'c').flag(b's');
            }
            line.end();
        })
        .await?;
    accepted(node, answer)
}

/// Stores at a node, which keeps items for at most `ttl_max`.
pub(crate) async fn store_at(
    node: &Node,
    ttl_max: Option<Duration>,
    key: &[u8],
    storing: &Storing<'_>,
) -> Result<Stored> {
    Ok(stored(store_reply(node, ttl_max, key, storing).await?.code))
}

/// Returns what the reply to a store means.
pub(crate) fn stored(code: Code) -> Stored {
    match code {
        Code::Hd => Stored::Yes,
        Code::Ex => Stored::Changed,
        Code::Nf => Stored::Gone,
        _ => Stored::No,
    }
}

/// Gives the right to load a key back. With `keep`, the value stays as a stale one.
///
/// Without a CAS unique, an item stored since may be deleted: it is then loaded once more than necessary.
pub(crate) async fn give_back(node: &Node, key: &[u8], cas: Option<u64>, keep: bool) {
    let returned = call_node(node, Verb::Delete, key, |line| {
        if let Some(cas) = cas {
            line.number(b'C', cas);
        }
        if keep {
            line.flag(b'I');
        }
    });
    if let Err(error) = returned.await {
        tracing::debug!(%error, "a lease was not given back");
    }
}
