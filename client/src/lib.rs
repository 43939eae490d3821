//! A memcache client that gets caching right.
#![forbid(unsafe_code)]

mod ring;

pub use ring::{Hashing, Ring, Server};
