//! The log as it is kept across a restart: everything that cannot be found out again from the rest.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    index::Index,
    record::{PriorObject, PriorState, Record, RecordKind, Version},
    store::Log,
    times::Times,
    tombstones::Tombstone,
};
use crate::{entity::EntityIndex, hub::clock::Clock, sequence::Sequence};

/// A copy of a log. It shares objects and frames with the log, so that little is copied while others wait.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedLog {
    /// The end of the log, by its name in the file.
    pub(crate) head: Sequence,
    pub(crate) trimmed: Sequence,
    /// When records came, from and until, and the first of them.
    times: Vec<(u64, u64, Sequence)>,
    /// One for each entity.
    pub(crate) indexes: Vec<Index>,
    /// The oldest first.
    pub(crate) records: Vec<SavedRecord>,
    /// The oldest of each entity first.
    pub(crate) tombstones: Vec<SavedTombstone>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedRecord {
    pub(crate) sequence: Sequence,
    age: u64,
    /// It is a change, and the newest of its object.
    is_newest: bool,
    /// Of a change the frame is empty: it is encoded anew. A prior object is empty where it is that of an earlier record.
    pub(crate) record: Record,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedTombstone {
    sequence: Sequence,
    age: u64,
    pub(crate) entity: EntityIndex,
    pub(crate) tombstone: Tombstone,
}

impl Log {
    pub(crate) fn saved(&self, clock: &Clock) -> SavedLog {
        let records = self.records.iter().map(|(&sequence, stored)| {
            let mut record = stored.record.clone();
            let mut is_newest = false;
            if let RecordKind::Change(change) = &mut record.kind {
                record.frame = Bytes::new();
                is_newest = self.index(record.entity).newest.get(&change.key) == Some(&sequence);
                if let PriorState::Known(version) = &mut change.prior {
                    if self.has_object_of(version) {
                        *version = Arc::new(Version { was: PriorObject::Object(Bytes::new()), ..(**version).clone() });
                    }
                }
            }
            SavedRecord { sequence, age: clock.age(stored.at), is_newest, record }
        });
        let tombstones = (0_u16..).map(EntityIndex).zip(&self.indexes).flat_map(|(entity, index)| {
            let all = index.tombstones.range(Sequence::ZERO..Sequence::MAX);
            all.map(move |(sequence, tombstone)| SavedTombstone {
                sequence,
                age: clock.age(tombstone.at),
                entity,
                tombstone: tombstone.clone(),
            })
        });
        SavedLog {
            head: self.end,
            trimmed: self.trimmed,
            times: self.times.saved(clock),
            indexes: self.indexes.iter().map(Index::without_objects).collect(),
            records: records.collect(),
            tombstones: tombstones.collect(),
        }
    }

    /// Whether the object of this version is in memory once, as that of its record.
    fn has_object_of(&self, version: &Version) -> bool {
        match (&version.was, version.at.and_then(|at| self.change(at))) {
            (PriorObject::Object(object), Some((_, change))) => {
                change.object.as_ptr() == object.as_ptr() && change.object.len() == object.len()
            }
            _ => false,
        }
    }

    /// Takes up the log that was saved, as far as it fits into the limits.
    pub(crate) fn restore(&mut self, saved: SavedLog, clock: &Clock) {
        self.end = saved.head;
        self.trimmed = saved.trimmed;
        self.times = Times::restored(saved.times, clock);
        self.indexes = saved.indexes;
        for SavedRecord { sequence, age, is_newest, record } in saved.records {
            let Some(index) = self.indexes.get_mut(usize::from(record.entity.0)) else { continue };
            if let (true, RecordKind::Change(change)) = (is_newest, &record.kind) {
                index.newest.insert(change.key.clone(), sequence);
                index.add_child(change);
            }
            self.store(sequence, clock.at(age), record);
        }
        for SavedTombstone { sequence, age, entity, tombstone } in saved.tombstones {
            if let Some(index) = self.indexes.get_mut(usize::from(entity.0)) {
                index.newest.insert(tombstone.key.clone(), sequence);
                index.tombstones.insert(sequence, Tombstone { at: clock.at(age), ..tombstone });
            }
        }
        self.trim(clock.now);
    }
}

impl Index {
    /// Nothing is known of an entity before this.
    pub(crate) fn unknown_before(sequence: Sequence) -> Self {
        let mut unknown = Self::default();
        unknown.trimmed.all = sequence;
        unknown
    }

    /// What cannot be found out again from records and tombstones.
    fn without_objects(&self) -> Self {
        Self {
            refreshed: self.refreshed,
            places: self.places.clone(),
            moved: self.moved,
            refreshed_scopes: self.refreshed_scopes.clone(),
            has_claims_apart: self.has_claims_apart,
            trimmed: self.trimmed.clone(),
            ..Self::default()
        }
    }
}
