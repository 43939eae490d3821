//! The meta commands `mg`, `ms`, `md`, `ma`, `mn` and `me` (protocol.txt, "Meta Commands").

mod line;
mod reply;
mod request;
mod response;

pub use line::Line;
pub(crate) use request::{decode_request, encode_request, is_request};
pub use response::*;
