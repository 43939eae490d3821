//! What follows from a command.

use larder_protocol::Outcome;

use crate::cluster::NotHere;
use crate::commands::dump::Dump;
use crate::commands::events::Topics;

/// What the connection does after a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// It writes the reply for this outcome.
    Reply(Outcome<'static>),
    /// Nothing more: the command has written its reply.
    Replied,
    /// It waits for another member of the cluster. The command has done nothing yet.
    NotHere(NotHere),
    /// It ends.
    Close,
    /// It ends, with the whole server.
    ShutDown,
    /// It shows events from now on.
    Watch(Topics),
    /// It lists items, then goes on.
    Dump(Dump),
}
