//! The operations of a client, one file for each kind.

pub(crate) mod admin;
pub(crate) mod client;
pub(crate) mod many;
pub(crate) mod meta;
pub(crate) mod namespace;
pub(crate) mod typed;
pub(crate) mod update;
