//! The errors of the client.

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

/// The reason why a call failed. A miss is not an error.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The key is empty, longer than 250 bytes (see [`Builder::hash_long_keys`](crate::Builder::hash_long_keys)), or
    /// contains a blank or control character.
    #[error("invalid key {0:?}: a key is 1 to 250 bytes without blanks or control characters")]
    InvalidKey(String),
    /// No answer arrived within the operation time-out. Whether a write took effect is unknown.
    #[error("{node} did not answer within {after:?}")]
    Timeout {
        /// The node's address.
        node: Arc<str>,
        /// The time-out that passed.
        after: Duration,
    },
    /// There is no connection to the node. The client tries to connect in the background.
    #[error("{node} is down: {reason}")]
    Down {
        /// The node's address.
        node: Arc<str>,
        /// The reason why the last connection ended or failed.
        reason: Arc<str>,
    },
    /// The node refused the command.
    #[error("{node} answered: {line}")]
    Refused {
        /// The node's address.
        node: Arc<str>,
        /// The node's error line, for example `SERVER_ERROR object too large for cache`.
        line: String,
    },
    /// The loader given to `get_or_load` failed.
    #[error("the loader failed: {0}")]
    Load(Arc<dyn StdError + Send + Sync>),
    /// A value was found, and may be older than the reader allows ([`NotFresh::Fail`](crate::NotFresh::Fail)).
    #[error("the value that {node} has may be older than allowed")]
    NotFresh {
        /// The node's address.
        node: Arc<str>,
    },
    /// A value cannot be encoded, or a cached value cannot be decoded.
    #[error("the value of {key:?}: {error}")]
    Codec {
        /// The key of the value.
        key: String,
        /// The codec's error.
        error: Arc<dyn StdError + Send + Sync>,
    },
    /// Other callers changed the item each time before this caller's change could be stored.
    #[error("{key:?} was changed by others in all of {tries} tries")]
    Contended {
        /// The key of the item.
        key: String,
        /// Number of tries.
        tries: u32,
    },
    /// The node gives no CAS uniques (memcached's `-C`), which [`Client::update`](crate::Client::update) needs.
    #[error("{node} gives no CAS uniques (it runs with -C), which an update needs")]
    NoCas {
        /// The node's address.
        node: Arc<str>,
    },
    /// The thread of a blocking client cannot be started.
    #[error("starting the client's thread: {0}")]
    Runtime(Arc<std::io::Error>),
    /// A certificate, key or name for TLS cannot be used.
    #[error("TLS: {0}")]
    Tls(String),
    /// The list of servers could not be obtained.
    #[error("no servers from {from}: {reason}")]
    Discovery {
        /// The name or endpoint of the list.
        from: String,
        /// The reason.
        reason: String,
    },
    /// The list of servers is empty or contains an entry that is not `host:port`, with a weight and a name if given.
    #[error("invalid server {0:?}: expected host or host:port")]
    InvalidServer(String),
}

impl Error {
    pub(crate) fn codec(key: &[u8], error: crate::CodecError) -> Error {
        Error::Codec { key: String::from_utf8_lossy(key).into_owned(), error: Arc::from(error) }
    }
}

/// Shorthand for this crate's results.
pub type Result<T, E = Error> = std::result::Result<T, E>;
