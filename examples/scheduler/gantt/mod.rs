//! The Gantt chart: tasks in a tree, and links between them.

mod api;
mod dates;
mod order;
mod store;
mod task;
#[cfg(test)]
mod tests;

use tower_live_updates::Entity;

pub(crate) use self::{api::routes, dates::Dates, store::Chart};

/// What pages subscribe to for tasks.
pub(crate) fn tasks() -> Entity {
    Entity::gantt_tasks("/data").order_key("sortorder")
}

/// What pages subscribe to for links.
pub(crate) fn links() -> Entity {
    Entity::gantt_links("/data")
}
