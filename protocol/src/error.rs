//! Errors: those that a server answers with, and those of encoding a request.

/// Why a request is refused or a command failed. [`Reply::outcome`](crate::Reply::outcome) writes it as a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The command does not exist: `ERROR`.
    #[error("unknown command")]
    UnknownCommand,
    /// The client made a mistake: `CLIENT_ERROR` with memcached's words.
    #[error("{0}")]
    Client(&'static str),
    /// The server cannot execute the command: `SERVER_ERROR` with memcached's words.
    #[error("{0}")]
    Server(&'static str),
}

impl Error {
    /// The line has too few words or a malformed one, or the key is too long.
    pub const BAD_FORMAT: Error = Error::Client("bad command line format");
    /// The value does not end where its length says.
    pub const BAD_DATA_CHUNK: Error = Error::Client("bad data chunk");
    /// The expiration time is not a number.
    pub const INVALID_EXPTIME: Error = Error::Client("invalid exptime argument");
    /// The amount of an `incr` or `decr` is not a number.
    pub const INVALID_DELTA: Error = Error::Client("invalid numeric delta argument");
    /// The value to increment or decrement is not a number.
    pub const NON_NUMERIC: Error = Error::Client("cannot increment or decrement non-numeric value");
    /// The item exceeds [`Limits::item_size_max`](crate::Limits::item_size_max).
    pub const TOO_LARGE: Error = Error::Server("object too large for cache");
    /// No memory could be freed for the item.
    pub const OUT_OF_MEMORY: Error = Error::Server("out of memory storing object");
    /// The connection must authenticate first.
    pub const UNAUTHENTICATED: Error = Error::Client("unauthenticated");
    /// The user name or the password is wrong.
    pub const AUTHENTICATION_FAILED: Error = Error::Client("authentication failure");
    /// A binary packet's lengths do not fit its opcode.
    pub const INVALID_ARGUMENTS: Error = Error::Client("invalid arguments");
    /// A meta flag occurs twice.
    pub(crate) const DUPLICATE_FLAG: Error = Error::Client("duplicate flag");
    /// The meta flag does not exist.
    pub(crate) const INVALID_FLAG: Error = Error::Client("invalid flag");
    /// `ma` reports every wrong flag with these words.
    pub(crate) const INVALID_OR_DUPLICATE_FLAG: Error = Error::Client("invalid or duplicate flag");
    pub(crate) const TOO_MANY_FLAGS: Error = Error::Client("options flags are too long");
    /// The token of a meta flag is not a number.
    pub(crate) const BAD_TOKEN: Error = Error::Client("bad token in command line format");
    /// The key is not base64, though flag `b` says so.
    pub(crate) const BAD_KEY_ENCODING: Error = Error::Client("error decoding key");
    pub(crate) const INVALID_INITIAL: Error = Error::Client("invalid numeric initial value");
    pub(crate) const INVALID_META_DELTA: Error = Error::Client("invalid numeric delta value");
    pub(crate) const OPAQUE_TOO_LONG: Error = Error::Client("opaque token too long");
    pub(crate) const INVALID_SET_MODE: Error = Error::Client("invalid mode for ms M token");
    pub(crate) const INVALID_ARITHMETIC_MODE: Error = Error::Client("invalid mode for ma M token");

    /// Appends the line of the text protocol, for example `CLIENT_ERROR bad data chunk`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let (kind, words) = match self {
            Error::UnknownCommand => ("ERROR", ""),
            Error::Client(words) => ("CLIENT_ERROR ", *words),
            Error::Server(words) => ("SERVER_ERROR ", *words),
        };
        out.extend_from_slice(kind.as_bytes());
        out.extend_from_slice(words.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

/// Why [`Request::encode`](crate::Request::encode) cannot encode a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The protocol does not have the command, or cannot express one of its conditions or effects.
    #[error("the protocol cannot express this command")]
    Command,
    /// The key is empty, longer than [`KEY_MAX_LEN`](crate::KEY_MAX_LEN), or has bytes that the protocol cannot send.
    #[error("the protocol cannot send this key")]
    Key,
}
