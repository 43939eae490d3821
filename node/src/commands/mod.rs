//! What each command means, once for all protocols.

pub(crate) mod admin;
pub(crate) mod dump;
pub(crate) mod events;
pub(crate) mod items;
pub(crate) mod observe;
