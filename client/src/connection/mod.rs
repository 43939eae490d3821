//! One connection to a server: opening it, encrypting it, and sharing it between tasks.

pub(crate) mod connect;
pub(crate) mod link;
#[cfg(feature = "tls")]
pub(crate) mod tls;

#[cfg(not(feature = "tls"))]
pub(crate) use crate::without::tls;
