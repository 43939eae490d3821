//! The kinds: conferences, their sessions (a conference is a session's parent) and registrations.
//!
//! A column that is part of no list has no index. What a list is found by and ordered by becomes a composite index.

use larder_client::NotFresh;
use larder_datastore::{Entity, Kind, List};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A conference.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, sqlx::FromRow, ToSchema)]
pub(crate) struct Conference {
    pub(crate) id: i64,
    pub(crate) organizer: String,
    pub(crate) name: String,
    pub(crate) city: String,
    /// 1 to 12.
    pub(crate) month: i64,
    pub(crate) seats: i64,
    pub(crate) seats_available: i64,
    pub(crate) about: String,
    /// Counts the changes of this conference.
    pub(crate) version: i64,
}

impl Entity for Conference {
    const KIND: Kind = Kind::table("conference")
        .list("by_city", List::on(&["city"]).order(&["name"]))
        .list("by_city_and_month", List::on(&["city", "month"]).order(&["name"]))
        .list("open", List::on(&["city"]).only("seats_available > 0").order(&["name"]))
        // Seats are never shown older than the bound, whatever fails.
        .not_fresh(NotFresh::Load);
}

/// A talk at a conference.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, sqlx::FromRow, ToSchema)]
pub(crate) struct Session {
    pub(crate) id: i64,
    pub(crate) conference: i64,
    pub(crate) title: String,
    pub(crate) speaker: String,
    /// As in `09:30`.
    pub(crate) starts: String,
}

impl Entity for Session {
    const KIND: Kind = Kind::table("session").list("of_conference", List::on(&["conference"]).order(&["starts"]));
}

/// A seat of a person at a conference.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, sqlx::FromRow, ToSchema)]
pub(crate) struct Registration {
    /// `conference:profile`.
    pub(crate) id: String,
    pub(crate) conference: i64,
    /// The person's mail address.
    pub(crate) profile: String,
}

impl Entity for Registration {
    const KIND: Kind = Kind::table("registration").list("of_profile", List::on(&["profile"]).order(&["conference"]));
}
