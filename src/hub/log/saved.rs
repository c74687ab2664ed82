//! The log as it is kept across a restart: everything that cannot be found out again from the rest.

use tokio::time::Instant;

use super::{
    index::Index,
    record::Record,
    share::Trimmed,
    store::{Log, LogLimits, Stored},
    times::Times,
    tombstones::Tombstone,
};
use crate::{entity::EntityIndex, scope::Scopes};

/// A copy of a log. It shares objects and frames with the log, so that little is copied while others wait.
#[derive(Debug, Default)]
pub(crate) struct SavedLog {
    pub(crate) head: u64,
    pub(crate) trimmed: u64,
    /// When records came, from and until, and the first of them.
    pub(crate) times: Vec<(Instant, Instant, u64)>,
    /// One for each entity.
    pub(crate) indexes: Vec<SavedIndex>,
    /// The oldest first.
    pub(crate) records: Vec<SavedRecord>,
    /// The oldest of each entity first.
    pub(crate) tombstones: Vec<(EntityIndex, u64, Tombstone)>,
}

/// What is kept of one entity besides its records.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct SavedIndex {
    pub(crate) refreshed: u64,
    pub(crate) moved: u64,
    pub(crate) refreshed_scopes: Vec<(u64, Scopes)>,
    pub(crate) has_claims_apart: bool,
    /// Behind the newest record that went and concerned everybody, and those that concerned some scopes.
    pub(crate) trimmed: (u64, Vec<(Scopes, u64)>),
}

impl SavedIndex {
    /// Nothing is known of an entity before this.
    pub(crate) fn unknown_before(sequence: u64) -> Self {
        Self { trimmed: (sequence, Vec::new()), ..Self::default() }
    }
}

#[derive(Debug)]
pub(crate) struct SavedRecord {
    pub(crate) sequence: u64,
    pub(crate) at: Instant,
    /// It is a change, and the newest of its object.
    pub(crate) is_newest: bool,
    pub(crate) record: Record,
}

impl Log {
    pub(crate) fn limits(&self) -> LogLimits {
        self.limits
    }

    pub(crate) fn saved(&self) -> SavedLog {
        let records = self.records.iter().map(|(&sequence, stored)| {
            let Stored { at, record, .. } = &**stored;
            let index = self.index(record.entity);
            let is_newest = record.change().is_some_and(|change| index.newest.get(&change.key) == Some(&sequence));
            SavedRecord { sequence, at: *at, is_newest, record: record.clone() }
        });
        let indexes = self.indexes.iter().map(|index| SavedIndex {
            refreshed: index.refreshed,
            moved: index.moved,
            refreshed_scopes: index.refreshed_scopes.clone(),
            has_claims_apart: index.has_claims_apart,
            trimmed: index.trimmed.entries(),
        });
        let tombstones = (0_u16..).zip(&self.indexes).flat_map(|(entity, index)| {
            let all = index.tombstones.range(0..u64::MAX);
            all.map(move |(sequence, tombstone)| (EntityIndex(entity), sequence, tombstone.clone()))
        });
        SavedLog {
            head: self.head,
            trimmed: self.trimmed,
            times: self.times.entries(),
            indexes: indexes.collect(),
            records: records.collect(),
            tombstones: tombstones.collect(),
        }
    }

    /// The log that was saved, as far as it fits into these limits.
    pub(crate) fn restored(limits: LogLimits, saved: SavedLog, now: Instant) -> Self {
        let mut log = Self::new(limits, saved.indexes.len());
        log.head = saved.head;
        log.trimmed = saved.trimmed;
        log.times = Times::restored(saved.times);
        for (index, saved) in log.indexes.iter_mut().zip(saved.indexes) {
            let (all, scopes) = saved.trimmed;
            *index = Index {
                refreshed: saved.refreshed,
                moved: saved.moved,
                refreshed_scopes: saved.refreshed_scopes,
                has_claims_apart: saved.has_claims_apart,
                trimmed: Trimmed::restored(all, scopes),
                ..Index::default()
            };
        }
        for SavedRecord { sequence, at, is_newest, record } in saved.records {
            if let Some(change) = record.change().filter(|_| is_newest) {
                let index = &mut log.indexes[usize::from(record.entity.0)];
                index.newest.insert(change.key.clone(), sequence);
                index.add_child(change);
            }
            log.store(sequence, at, record);
        }
        for (entity, sequence, tombstone) in saved.tombstones {
            let index = &mut log.indexes[usize::from(entity.0)];
            index.newest.insert(tombstone.key.clone(), sequence);
            index.tombstones.insert(sequence, tombstone);
        }
        log.trim(now);
        log
    }
}
