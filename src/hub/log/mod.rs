//! The bounded, numbered history of everything published: one order for all pages.

mod history;
mod index;
mod record;
mod saved;
mod share;
mod store;
#[cfg(test)]
mod tests;
mod times;
mod tombstones;

pub(crate) use self::{
    history::PossiblyShown,
    record::{ObjectChange, ObjectRef, PriorState, Record, RecordKind, Version, Was},
    saved::{SavedIndex, SavedLog, SavedRecord},
    store::{Log, LogLimits},
    tombstones::Tombstone,
};
