//! What a command came to. Each protocol writes it in its own file.

use crate::error::Error;

/// An item that was found, without its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hit<'a> {
    /// The item's key.
    pub key: &'a [u8],
    /// The client's flags.
    pub flags: u32,
    /// The item's CAS unique.
    pub cas: u64,
    /// Length of the value in bytes.
    pub value_len: usize,
    /// Whether the value follows.
    pub with_value: bool,
    /// Seconds until the item expires; `None` is never.
    pub ttl: Option<u32>,
    /// The same before this command changed it.
    pub old_ttl: Option<u32>,
    /// Seconds since the item was last used, before this command.
    pub since_access: u32,
    /// Whether it had been read before this command.
    pub fetched: bool,
    /// This caller has won the right to recache.
    pub won: bool,
    /// Another caller had won it before.
    pub already_won: bool,
    /// The item is stale.
    pub stale: bool,
}

/// What a command other than a read came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome<'a> {
    /// The item was stored: its new CAS unique and size of its value in bytes.
    Stored {
        /// CAS unique.
        cas: u64,
        /// Bytes of the value.
        value_len: usize,
    },
    /// The condition of the command did not hold.
    NotStored,
    /// The CAS unique did not match.
    Exists,
    /// There is no such item.
    NotFound,
    /// A read found nothing.
    Miss,
    /// The item was removed or marked stale.
    Deleted,
    /// The expiration time was changed.
    Touched,
    /// Arithmetic's new value.
    Number {
        /// The value.
        value: u64,
        /// The item's CAS unique.
        cas: u64,
        /// Seconds until the item expires; `None` is never.
        ttl: Option<u32>,
        /// The same before this command changed it.
        old_ttl: Option<u32>,
    },
    /// Done.
    Ok,
    /// Statistics were set to zero.
    Reset,
    /// Answer to a no-op.
    Noop,
    /// The connection ends; only binary answers.
    Quit,
    /// A line of the server's own, without its end.
    Line(&'a str),
    /// The server's version.
    Version(&'a str),
    /// An item's metadata as one line (`me`).
    Debug(&'a str),
    /// It was refused.
    Error(Error),
}
