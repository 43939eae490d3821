//! What becomes of a connection after a command.

use crate::commands::dump::Dump;
use crate::commands::events::Topics;

/// What becomes of the connection after a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// It goes on.
    Continue,
    /// It ends.
    Close,
    /// It ends with the server.
    ShutDown,
    /// It shows events.
    Watch(Topics),
    /// It lists keys, then goes on.
    Dump(Dump),
}
