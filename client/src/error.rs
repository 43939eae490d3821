//! What can go wrong.

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

/// Why a call failed. A miss is not an error.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The key is empty, longer than 250 bytes (see [`Builder::hash_long_keys`](crate::Builder::hash_long_keys)), or holds a
    /// blank or control character.
    #[error("invalid key {0:?}: a key is 1 to 250 bytes without blanks or control characters")]
    InvalidKey(String),
    /// No answer within the operation time-out. Whether a write took effect is not known.
    #[error("{node} did not answer within {after:?}")]
    Timeout {
        /// The node's address.
        node: Arc<str>,
        /// The time-out that passed.
        after: Duration,
    },
    /// There is no connection to the node; one is being made in the background.
    #[error("{node} is down: {reason}")]
    Down {
        /// The node's address.
        node: Arc<str>,
        /// What the last attempt or the broken connection said.
        reason: Arc<str>,
    },
    /// The node refused the command, in its own words.
    #[error("{node} answered: {line}")]
    Refused {
        /// The node's address.
        node: Arc<str>,
        /// Its error line, for example `SERVER_ERROR object too large for cache`.
        line: String,
    },
    /// The loader given to `get_or_load` failed.
    #[error("the loader failed: {0}")]
    Load(Arc<dyn StdError + Send + Sync>),
    /// A value cannot be encoded, or the one in the cache not decoded.
    #[error("the value of {key:?}: {error}")]
    Codec {
        /// Its key.
        key: String,
        /// What the codec said.
        error: Arc<dyn StdError + Send + Sync>,
    },
    /// Others changed the item each time before this caller's change could be stored.
    #[error("{key:?} was changed by others in all of {tries} tries")]
    Contended {
        /// The item's key.
        key: String,
        /// How often it was tried.
        tries: u32,
    },
    /// The thread of a blocking client cannot be started.
    #[error("starting the client's thread: {0}")]
    Runtime(Arc<std::io::Error>),
    /// A certificate, key or name for TLS that cannot be used.
    #[error("TLS: {0}")]
    Tls(String),
    /// The list of servers could not be had.
    #[error("no servers from {from}: {reason}")]
    Discovery {
        /// The name or endpoint that was asked.
        from: String,
        /// What went wrong.
        reason: String,
    },
    /// A server list that is empty or has an address that is not `host:port`.
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
