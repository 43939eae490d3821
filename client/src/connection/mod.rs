//! One connection to a server: opening it, encrypting it, and sharing it between tasks.

pub(crate) mod connect;
pub(crate) mod link;
pub(crate) mod tls;
