//! The bounded, numbered history of everything published: one order for all pages.

mod history;
mod index;
mod record;
mod saved;
mod share;
mod store;
#[cfg(test)]
mod tests;
mod text;
mod times;
mod tombstones;

pub(crate) use self::{
    history::PossiblyShown,
    index::Index,
    record::{
        Addressee, Broadcast, ObjectChange, ObjectRef, Owner, PriorObject, PriorState, Record, RecordKind, Version,
    },
    saved::{SavedLog, SavedRecord, SavedTombstone},
    store::{Log, LogLimits},
    tombstones::Tombstone,
};
