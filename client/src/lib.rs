//! A memcache client that gets caching right.
//!
//! - [`Client`] spreads keys over nodes on a [`Ring`] that agrees with libmemcached, and shares one pipelined connection
//!   a node among all tasks.
//! - [`Client::get_or_load`] reads through the cache: one load for all concurrent callers, and no old value kept after a
//!   change.
//! - Every call has a time-out; a node that is down costs a quick error and comes back by itself.
#![forbid(unsafe_code)]

mod builder;
mod client;
mod connect;
mod error;
mod hash;
mod link;
mod load;
mod node;
mod ring;
mod topology;

pub use builder::Builder;
pub use client::{Client, Item, Stored};
pub use error::{Error, Result};
pub use node::{Circuit, NodeStatus};
pub use ring::{Hashing, KeyHash, Ring, Server};
pub use topology::Failover;

/// The README's examples compile.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
