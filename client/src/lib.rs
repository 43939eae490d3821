//! A memcache client that gets caching right.
//!
//! ```no_run
//! use std::time::Duration;
//! use larder_client::Client;
//! # async fn select_user(id: u32) -> std::io::Result<String> { Ok(id.to_string()) }
//! # async fn update_user(id: u32) -> std::io::Result<()> { Ok(()) }
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let cache = Client::builder().servers(["10.0.1.1:11211", "10.0.1.2:11211"]).build()?;
//!
//! // Read: from the cache, or from the loader, which runs once however many ask, in however many processes.
//! let user = cache.get_or_load("user:1", Duration::from_secs(300), || select_user(1)).await?;
//!
//! // Write: commit, then delete. No caller keeps, or will store, what was read before.
//! update_user(1).await?;
//! cache.delete("user:1").await?;
//! # let _ = user;
//! # Ok(())
//! # }
//! ```
//!
//! # Two rules
//!
//! A cache in front of a datastore goes wrong in one way above all: a reader loads a value, a writer changes it, and
//! then the reader stores what it had loaded. The old value stays until it expires. With this client that cannot happen
//! as long as you
//!
//! 1. **fill the cache by reading through it** ([`Client::get_or_load`], [`ReadThrough`]), never by [`Client::set`]
//!    after a read of your own. The client takes a *lease* on the missing key before it calls the loader, and the node
//!    takes the value only if nothing happened to the key since. The loader reads from the primary, not from a replica
//!    that may lag behind;
//! 2. **delete after the commit** ([`Client::delete`], or [`Client::invalidate`] if the old value may be served for a
//!    moment), and try again if that fails.
//!
//! # What do you want to do?
//!
//! | | |
//! | --- | --- |
//! | read a value through the cache | [`Client::get_or_load`] |
//! | the same with early refresh, stale values on failure, jitter, "there is none" | [`Client::read_through`] |
//! | read many through the cache, with one query for those missing | [`Client::get_or_load_many`], [`ReadThrough::get_many`] |
//! | store structs, strings, numbers | [`Client::typed`] with [`Json`], [`MessagePack`], [`Plain`], or your own [`Codec`] |
//! | compress large values | [`Compressed`] |
//! | share values with Python programs | [`Plain`], and [`Compression::Zlib`] |
//! | invalidate many keys at once | [`Client::namespace`] |
//! | keep the hottest values in the process | [`Builder::near_cache`] |
//! | count | [`Client::incr`], [`Client::incr_or_init`] |
//! | change a value that others change too | [`Client::update`], [`Client::cas`] |
//! | get, set and delete many | [`Client::get_many`], [`Client::set_many`], [`Client::delete_many`] |
//! | use any flag of the meta protocol | [`Client::meta_get`], [`Client::meta_set`], [`Client::meta_delete`], [`Client::meta_arithmetic`] |
//! | send any other command | [`Client::open`] |
//! | work without an async runtime | [`blocking::Client`] |
//! | delete at every node, or ask a chosen node | [`Client::delete_everywhere`], [`Client::one_node`] |
//! | take only hits of a known age | [`ReadThrough::fresh`] |
//! | watch it | [`metrics`], [`Client::nodes`], [`Client::stats`] |
//! | share a cluster with clients of other languages | [`Builder::hashing`] |
//! | follow a service's name, or the list of a managed cluster | [`Builder::dns`], [`Builder::discover`] |
//! | encrypt and log in | [`Builder::tls`], [`Builder::login`] |
//! | choose what a lost or slow node means | [`Failover`], [`Builder::eject_after`], [`Builder::hedge`] |
//!
//! The [`cookbook`] has a whole example for each.
//!
//! # What to rely on
//!
//! - A miss is `Ok(None)`, and never an error in disguise: a time-out or a node that is down is an [`Error`]. Reading
//!   through goes on without the cache.
//! - Every call has a time-out. A caller that times out or is dropped leaves nothing behind that could reach another
//!   caller.
//! - A node that is down costs a quick error, or another node stands in ([`Failover`]), and it comes back by itself.
//! - Keys are checked: what cannot be one key is refused before it is sent.
//! - Plain readers do not see what reading through leaves in the cache on its way: a load that goes on, an invalidated
//!   value, or the note that there is none are misses to them.
//!
//! # Features
//!
//! `json` is on by default; nothing that is built from C is.
//!
//! | feature | adds |
//! | --- | --- |
//! | `json` | the codec [`Json`] |
//! | `msgpack` | the codec [`MessagePack`] |
//! | `compression` | the codec [`Compressed`]: zstd (a C library) and zlib |
//! | `tls` | [`Tls`] and [`Builder::tls`]: rustls with ring (C and assembly) |
//! | `metrics` | [`Builder::metrics`] |
//! | `near-cache` | [`Builder::near_cache`] |
//!
//! # Rust versions
//!
//! The crate is for Rust 1.90 and later. A newer one is required only in a minor version (a patch never does), and
//! only once it is half a year old.
#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod blocking;
mod builder;
mod cluster;
mod connection;
mod error;
mod exchange;
mod key;
#[cfg(feature = "metrics")]
pub mod metrics;
#[cfg(feature = "near-cache")]
mod near_cache;
mod one_node;
mod operations;
mod read_through;
mod single_flight;
mod ttl;
mod value;
mod without;

pub use builder::Builder;
pub use cluster::circuit::Circuit;
pub use cluster::node::NodeStatus;
pub use cluster::topology::Failover;
#[cfg(feature = "tls")]
pub use connection::tls::Tls;
pub use error::{Error, Result};
pub use exchange::{Item, Stored};
pub use key::short_key;
pub use larder_protocol::ring::{Hashing, KeyHash, Ring, Server};
pub use one_node::OneNode;
pub use operations::client::Client;
pub use operations::meta::{MetaArithmetic, MetaDelete, MetaGet, MetaReply, MetaSet, MetaStatus};
pub use operations::namespace::Namespace;
pub use operations::typed::Typed;
pub use read_through::{Freshness, NotFresh, ReadThrough};
#[cfg(feature = "json")]
pub use value::Json;
#[cfg(feature = "msgpack")]
pub use value::MessagePack;
pub use value::{Codec, CodecError, Encoded, Plain};
#[cfg(feature = "compression")]
pub use value::{Compressed, Compression};
#[cfg(not(feature = "metrics"))]
use without::metrics;
#[cfg(not(feature = "near-cache"))]
use without::near_cache;

// Its examples use every feature.
#[cfg(all(
    feature = "tls",
    feature = "json",
    feature = "msgpack",
    feature = "compression",
    feature = "metrics",
    feature = "near-cache"
))]
#[doc = include_str!("../cookbook.md")]
pub mod cookbook {}

/// The README's example compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
