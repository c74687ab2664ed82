//! Entities: what pages subscribe to, which routes change it, and what its widget accepts.

mod access;
mod check;
mod definition;
pub(crate) mod hooks;
mod index;
mod rule;
mod store;
mod view;
mod widget;

pub use self::{definition::Entity, store::Snapshot};
pub(crate) use self::{
    hooks::{Authorize, Load, ReadAll},
    index::EntityIndex,
    view::View,
    widget::{ResponseProblem, Widget},
};
