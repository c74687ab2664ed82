//! The calendar: events, and series of events with exceptions.

mod api;
mod event;
mod store;

use tower_live_updates::Entity;

pub(crate) use self::{api::routes, store::Events};

/// What pages subscribe to. The store asks it, too, which events pages can show.
pub(crate) fn events() -> Entity {
    // `rest.rs` reads the action in the bodies of the modes JSON and POST, so the layer may, too.
    Entity::scheduler("/events").body_modes()
}
