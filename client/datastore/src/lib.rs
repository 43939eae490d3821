#![doc = include_str!("../README.md")]
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
