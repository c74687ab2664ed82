//! Entities: what pages subscribe to, which routes change it, and what its widget accepts.

mod definition;
mod gantt;
pub(crate) mod hooks;
mod order;
mod place;
mod presets;
mod rule;
mod setters;
mod widget;

pub use self::{definition::Entity, setters::Snapshot};
pub(crate) use self::{
    definition::{EntityRoute, MoveFields},
    hooks::{Authorize, EntityIndex, Everything, Load, ReadAll, View},
    place::{Place, ROOT},
    widget::{ResponseProblem, Widget},
};
