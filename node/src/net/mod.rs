//! From sockets to bytes and back: listeners, the accept loop, connections and their buffers, sessions, logins, TLS.

pub(crate) mod acceptor;
pub(crate) mod auth;
pub(crate) mod buffers;
pub(crate) mod connection;
pub(crate) mod connection_limit;
pub(crate) mod listener;
pub(crate) mod open_sockets;
pub(crate) mod output;
pub(crate) mod session;
pub(crate) mod socket;
pub(crate) mod tls;
mod tls_session;
pub(crate) mod udp;
