//! The meta commands, protocol.txt "Meta Commands": `mg`, `ms`, `md`, `ma`, `mn`, `me`.

mod reply;
mod request;
mod response;

pub use request::*;
pub use response::*;
