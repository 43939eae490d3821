//! Results of commands. Each format writes them in its own file.

use crate::error::Error;

/// A found item, without its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hit<'a> {
    /// The item's key.
    pub key: &'a [u8],
    /// The client flags.
    pub flags: u32,
    /// The item's CAS unique.
    pub cas: u64,
    /// Length of the value in bytes.
    pub value_len: usize,
    /// Whether the value follows.
    pub with_value: bool,
    /// The item's times to live.
    pub ttls: Ttls,
    /// Seconds between the item's last access and this command.
    pub since_access: u32,
    /// Whether the item was read before this command.
    pub fetched: bool,
    /// This command wins the right to recache the item (`W`).
    pub won: bool,
    /// An earlier command won that right (`Z`).
    pub already_won: bool,
    /// The item is stale (`X`).
    pub stale: bool,
}

/// Times to live of an item in seconds; `None` is never. Flag `t` reports the one that holds at its place in the line,
/// because flags take effect in the order sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ttls {
    /// Before flags `T` and `N` of the command.
    pub before: Option<u32>,
    /// After `T`.
    pub touched: Option<u32>,
    /// After `N`, if the command created the item.
    pub vivified: Option<u32>,
    /// Whether the command created the item. Otherwise `N` has no effect.
    pub created: bool,
}

/// Result of a command, except for found items ([`Hit`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome<'a> {
    /// The item was stored.
    Stored {
        /// The item's new CAS unique.
        cas: u64,
        /// Length of the value in bytes.
        value_len: usize,
    },
    /// The condition of the store mode did not hold.
    NotStored,
    /// The CAS unique differs.
    Exists,
    /// The item to change does not exist.
    NotFound,
    /// The item to read does not exist.
    Miss,
    /// The item was removed or marked stale.
    Deleted,
    /// The expiration time was changed.
    Touched,
    /// The item's number was changed.
    Number {
        /// The new number.
        value: u64,
        /// The item's new CAS unique.
        cas: u64,
        /// The item's times to live.
        ttls: Ttls,
    },
    /// The command succeeded and reports nothing else.
    Ok,
    /// The statistics were reset.
    Reset,
    /// The reply to a no-op.
    Noop,
    /// The connection ends. Only binary sends a reply.
    Quit,
    /// A line in the server's own words, without its end.
    Line(&'a str),
    /// The server's version.
    Version(&'a str),
    /// An item's metadata as one line (`me`).
    Debug(&'a str),
    /// The command was refused or failed.
    Error(Error),
}
