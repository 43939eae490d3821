//! The meta commands, protocol.txt "Meta Commands": `mg`, `ms`, `md`, `ma`, `mn`, `me`.

mod reply;
mod request;
mod response;

pub use request::Line;
pub(crate) use request::{decode_request, encode_request, is_request};
pub use response::*;
