//! The servers of a client: which one owns a key, how each is reached, and how the list of them is found.

pub(crate) mod circuit;
pub(crate) mod discover;
pub(crate) mod node;
pub(crate) mod topology;
