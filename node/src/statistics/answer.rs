//! The lines of an answer to `stats`.

use std::fmt::Display;

use larder_protocol::Reply;

/// Writes statistics in the protocol of a reply.
pub(super) struct Answer<'a> {
    pub(super) reply: &'a Reply<'a>,
    pub(super) bytes: &'a mut Vec<u8>,
}

impl Answer<'_> {
    /// Appends a statistic.
    pub(super) fn stat(&mut self, name: &str, value: impl Display) {
        self.reply.statistic(name, &value.to_string(), self.bytes);
    }
}
