//! Datastore reads through memcache nodes that are never older than promised.
//!
//! A cache goes wrong in two ways. A reader stores what it read before a change: leases keep that out
//! ([`larder_client`]). And a writer dies, or cannot reach a node, between its commit and the delete that should
//! follow: the old value stays until it expires. This crate closes the second hole. Triggers write down which keys a
//! change touches, in an *outbox*, within the writer's own transaction, whoever writes: this crate, `psql`, a
//! migration, another language. The writer deletes them after the commit, and an *invalidator* delivers what a writer
//! left behind. *Beats* tell readers up to which moment all changes have been delivered to a node; a strict reader
//! takes a hit only where that moment is recent enough.
//!
//! ```no_run
//! use std::time::Duration;
//! use larder_client::{Client, NotFresh};
//! use larder_datastore::{Datastore, Entity, Kind, List, sqlx};
//!
//! #[derive(Clone, serde::Serialize, serde::Deserialize, sqlx::FromRow)]
//! struct Conference { id: i64, name: String, city: String, seats: i64 }
//!
//! impl Entity for Conference {
//!     const KIND: Kind = Kind::table("conference")
//!         .key("id")
//!         .list("by_city", List::on(&["city"]).order(&["name"]))
//!         .not_fresh(NotFresh::Load);
//! }
//!
//! # async fn example(pool: sqlx::PgPool, cache: Client) -> Result<(), larder_datastore::Error> {
//! let store = Datastore::postgres(pool, cache).kind::<Conference>().bound(Duration::from_secs(1)).start().await?;
//!
//! let conference: Option<Conference> = store.get(7).await?;
//! let in_london: Vec<Conference> = store.list("by_city", ("London",))?.fetch(5).await?;
//!
//! let mut tx = store.begin().await?;
//! sqlx::query("update conference set seats = seats - 1 where id = $1").bind(7i64).execute(&mut **tx).await?;
//! tx.commit().await?; // nothing to invalidate by hand
//! # let _ = (conference, in_london);
//! # Ok(())
//! # }
//! ```
//!
//! What is promised, on which conditions, and at what cost: `docs/datastore.md`.
#![forbid(unsafe_code)]

mod beat;
pub mod check;
mod ddl;
mod entity;
mod error;
mod invalidator;
mod list;
#[cfg(test)]
mod model;
mod outbox;
mod rule;
mod store;
mod transaction;

pub use ddl::{Migrations, ensure};
pub use entity::{Entity, Kind, List};
pub use error::{Error, Result};
pub use invalidator::{Invalidator, Setup};
pub use list::{Listing, Page};
pub use outbox::Backend;
pub use rule::{Rule, Source, Value, Values};
pub use sqlx;
pub use store::{Broken, Builder, Counts, Datastore};
pub use transaction::{Delivered, Step, Transaction};
