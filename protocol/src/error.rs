//! Errors that have a reply of their own.

/// What is wrong with a request, or why a command was not carried out. [`Error::encode`] writes the reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No such command.
    #[error("unknown command")]
    UnknownCommand,
    /// The client's fault; the words are memcached's.
    #[error("{0}")]
    Client(&'static str),
    /// The server cannot do it; the words are memcached's.
    #[error("{0}")]
    Server(&'static str),
}

impl Error {
    /// The command line has too few or unusable words, or its key is too long.
    pub const BAD_FORMAT: Error = Error::Client("bad command line format");
    /// The data block does not end where its length says.
    pub const BAD_DATA_CHUNK: Error = Error::Client("bad data chunk");
    /// An expiration time that is no number.
    pub const INVALID_EXPTIME: Error = Error::Client("invalid exptime argument");
    /// An amount to add that is no number.
    pub const INVALID_DELTA: Error = Error::Client("invalid numeric delta argument");
    /// Arithmetic on a value that is no number.
    pub const NON_NUMERIC: Error = Error::Client("cannot increment or decrement non-numeric value");
    /// A value above the item size limit.
    pub const TOO_LARGE: Error = Error::Server("object too large for cache");
    /// No memory could be freed for the item.
    pub const OUT_OF_MEMORY: Error = Error::Server("out of memory storing object");
    /// Nothing but authentication is served yet.
    pub const UNAUTHENTICATED: Error = Error::Client("unauthenticated");
    /// Wrong user name or password.
    pub const AUTHENTICATION_FAILED: Error = Error::Client("authentication failure");
    /// A binary packet's lengths do not fit its opcode.
    pub const INVALID_ARGUMENTS: Error = Error::Client("invalid arguments");
    /// A meta flag is there twice.
    pub(crate) const DUPLICATE_FLAG: Error = Error::Client("duplicate flag");
    /// No such meta flag.
    pub(crate) const INVALID_FLAG: Error = Error::Client("invalid flag");
    /// `ma` tells any wrong flag with these words.
    pub(crate) const INVALID_OR_DUPLICATE_FLAG: Error = Error::Client("invalid or duplicate flag");
    pub(crate) const TOO_MANY_FLAGS: Error = Error::Client("options flags are too long");
    /// A meta flag's token is no number.
    pub(crate) const BAD_TOKEN: Error = Error::Client("bad token in command line format");
    /// A key that is no base64.
    pub(crate) const BAD_KEY_ENCODING: Error = Error::Client("error decoding key");
    pub(crate) const INVALID_INITIAL: Error = Error::Client("invalid numeric initial value");
    pub(crate) const INVALID_META_DELTA: Error = Error::Client("invalid numeric delta value");
    pub(crate) const OPAQUE_TOO_LONG: Error = Error::Client("opaque token too long");
    pub(crate) const INVALID_SET_MODE: Error = Error::Client("invalid mode for ms M token");
    pub(crate) const INVALID_ARITHMETIC_MODE: Error = Error::Client("invalid mode for ma M token");

    /// Appends the text reply, for example `CLIENT_ERROR bad data chunk`.
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

/// Why [`Request::encode`](crate::Request::encode) cannot write a request in its protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The protocol has no such command, or no way to send one of its conditions or effects.
    #[error("the protocol cannot express this command")]
    Command,
    /// The key is empty, too long, or has bytes that the protocol cannot send in a key.
    #[error("the protocol cannot send this key")]
    Key,
}
