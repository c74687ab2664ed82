//! The records of the log: appended, read, and dropped when they no longer fit.

use std::{
    collections::BTreeMap,
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{
    index::Index,
    record::{Broadcast, ObjectChange, PriorState, Record, RecordKind},
    times::Times,
};
use crate::{change::ChangeKind, entity::EntityIndex, hub::upsert::Upsert, scope::Scopes, sequence::Sequence};

/// How much history is kept; the first limit that is reached counts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogLimits {
    pub(crate) records: usize,
    pub(crate) bytes: usize,
    pub(crate) age: Duration,
    pub(crate) tombstones: usize,
    pub(crate) tombstone_age: Duration,
    /// The most that one object may have, as JSON.
    pub(crate) object_bytes: usize,
}

/// Limits beyond this are none: sums of costs must not overflow.
const MOST_BYTES: usize = 1 << 40;

#[derive(Debug)]
pub(super) struct Stored {
    pub(super) at: Instant,
    pub(super) record: Record,
    /// The number of its share among those of its entity.
    share: usize,
    /// The record as a replay sends it, once a page has needed that.
    upsert: OnceLock<Upsert>,
}

/// A bounded sequence of records. Sequence numbers only grow. When the log is full, it drops the oldest record of the
/// entity and scopes that hold most, so that one entity or tenant cannot displace the history of others. Of a deleted
/// object a tombstone stays for longer.
#[derive(Debug)]
pub(crate) struct Log {
    pub(super) limits: LogLimits,
    /// Boxed, since a tree moves its entries about.
    pub(super) records: BTreeMap<Sequence, Box<Stored>>,
    /// The sequence number the next record will get.
    pub(super) end: Sequence,
    bytes: usize,
    /// The bytes of the cached upserts.
    upsert_bytes: AtomicUsize,
    pub(super) times: Times,
    /// One for each entity.
    pub(super) indexes: Vec<Index>,
    /// Behind the newest record that was dropped.
    pub(super) trimmed: Sequence,
}

impl Log {
    pub(crate) fn new(limits: LogLimits, entities: usize) -> Self {
        Self {
            limits,
            records: BTreeMap::new(),
            end: Sequence::ZERO,
            bytes: 0,
            upsert_bytes: AtomicUsize::new(0),
            times: Times::default(),
            indexes: (0..entities).map(|_| Index::default()).collect(),
            trimmed: Sequence::ZERO,
        }
    }

    /// The sequence number the next record will get.
    pub(crate) fn end(&self) -> Sequence {
        self.end
    }

    /// Behind the newest record that was dropped: from here on nothing is missing, of whichever entity.
    pub(crate) fn trimmed(&self) -> Sequence {
        self.trimmed
    }

    /// From here on no record of an entity is missing that a page with these scopes could receive.
    pub(crate) fn start_for(&self, entity: EntityIndex, scopes: &Scopes) -> Sequence {
        self.index(entity).trimmed.for_scopes(scopes)
    }

    /// From here on no record of an entity is missing.
    pub(crate) fn start(&self, entity: EntityIndex) -> Sequence {
        self.index(entity).trimmed.for_all()
    }

    /// Records kept, and the bytes they cost.
    pub(crate) fn size(&self) -> (usize, usize) {
        (self.records.len(), self.all_bytes())
    }

    /// The sequence number of the first record that was appended this long ago or later, or shortly before.
    pub(crate) fn position(&self, now: Instant, ago: Duration) -> Sequence {
        now.checked_sub(ago).map_or(Sequence::ZERO, |then| self.times.position(then).unwrap_or(self.end))
    }

    /// The records from `from` on that are kept, with their sequence numbers.
    pub(crate) fn since(&self, from: Sequence) -> impl Iterator<Item = (Sequence, &Record)> {
        self.records.range(from..).map(|(&sequence, stored)| (sequence, &stored.record))
    }

    /// The record of this sequence number, where that is a change and still kept.
    pub(crate) fn change(&self, sequence: Sequence) -> Option<(&Record, &ObjectChange)> {
        let record = &self.records.get(&sequence)?.record;
        Some((record, record.change()?))
    }

    /// A record as a replay sends it; `encode` is called the first time. `None` where the record is gone, or there is no
    /// room to keep what was encoded.
    pub(crate) fn upsert(&self, sequence: Sequence, encode: impl FnOnce() -> Upsert) -> Option<&Upsert> {
        let kept = &self.records.get(&sequence)?.upsert;
        // Far from the limit, else it would be dropped soon.
        if kept.get().is_none() && self.all_bytes() > self.limits.bytes / 4 * 3 {
            return None;
        }
        Some(kept.get_or_init(|| {
            let encoded = encode();
            self.upsert_bytes.fetch_add(encoded.bytes(), Ordering::Relaxed);
            encoded
        }))
    }

    /// The newest record of an object is held no more.
    pub(crate) fn release(&mut self, entity: EntityIndex, key: &str) {
        let newest = self.index(entity).newest.get(key).copied();
        if let Some(stored) = newest.and_then(|sequence| self.records.get_mut(&sequence)) {
            stored.record.broadcast = Broadcast::ToAll;
        }
    }

    pub(super) fn index(&self, entity: EntityIndex) -> &Index {
        &self.indexes[usize::from(entity.0)]
    }

    /// The oldest record that is kept, or else the next.
    pub(super) fn oldest(&self) -> Sequence {
        self.records.first_key_value().map_or(self.end, |(&oldest, _)| oldest)
    }

    /// Adds a record and drops what no longer fits. The newest record always stays.
    pub(crate) fn append(&mut self, now: Instant, mut record: Record) {
        let (sequence, oldest) = (self.end, self.oldest());
        let index = &mut self.indexes[usize::from(record.entity.0)];
        match &mut record.kind {
            RecordKind::Change(change) => {
                let earlier = index.newest.insert(change.key.clone(), sequence);
                let known = earlier.and_then(|at| Some((at, self.records.get(&at)?.record.change()?)));
                let existing = known.filter(|(_, known)| known.kind != ChangeKind::Delete);
                change.is_only_added &= earlier.is_none();
                change.added = match change.kind {
                    ChangeKind::Add => Some(sequence),
                    ChangeKind::Update => existing.and_then(|(_, known)| known.added),
                    ChangeKind::Delete => existing.map(|(at, known)| known.added.unwrap_or(at)),
                };
                index.has_claims_apart |= change.is_claim && change.key != change.id;
                if matches!(&change.prior, PriorState::Known(state) if state.scopes != record.scopes) {
                    index.moved = sequence.next();
                }
                if let Some((_, known)) = known {
                    index.remove_child(known);
                }
                let earlier = earlier.and_then(|at| index.tombstones.remove(at));
                if change.kind == ChangeKind::Delete {
                    index.add_tombstone(now, sequence, change, &record.scopes, earlier);
                }
                index.add_child(change);
            }
            RecordKind::Refresh => index.refresh(&record.scopes, sequence, oldest),
            RecordKind::Message(_) | RecordKind::Unconfirmed(_) => {}
        }
        self.times.note(now, sequence);
        self.store(sequence, now, record);
        self.end = self.end.next();
        self.trim(now);
    }

    /// Keeps a record that its index knows.
    pub(super) fn store(&mut self, sequence: Sequence, at: Instant, record: Record) {
        let cost = self.cost(&record);
        let index = &mut self.indexes[usize::from(record.entity.0)];
        if matches!(record.kind, RecordKind::Message(_)) {
            index.messages = sequence.next();
        }
        let share = index.shares.add(&record.scopes, sequence, cost);
        self.bytes += record.bytes();
        self.records.insert(sequence, Box::new(Stored { at, record, share, upsert: OnceLock::new() }));
    }

    /// Drops what no longer fits. The newest record always stays.
    pub(super) fn trim(&mut self, now: Instant) {
        // History is worth more than what can be encoded anew.
        if self.all_bytes() > self.limits.bytes && *self.upsert_bytes.get_mut() > 0 {
            self.records.values_mut().for_each(|stored| drop(stored.upsert.take()));
            *self.upsert_bytes.get_mut() = 0;
        }
        while let Some((&oldest, stored)) = self.records.first_key_value() {
            let is_old = now.saturating_duration_since(stored.at) > self.limits.age && oldest.next() < self.end;
            let is_over = self.records.len() > self.limits.records || self.all_bytes() > self.limits.bytes;
            match is_old {
                true => self.drop_record(oldest),
                false if is_over && self.records.len() > 1 => self.drop_record(self.next_to_drop()),
                false => break,
            }
        }
        self.trim_tombstones(now);
    }

    /// The oldest record of the costliest share, or else the oldest.
    fn next_to_drop(&self) -> Sequence {
        let costliest = self.indexes.iter().max_by_key(|index| index.shares.cost());
        let next = costliest.and_then(|index| index.shares.next_to_drop()).filter(|next| next.next() < self.end);
        next.unwrap_or_else(|| self.oldest())
    }

    fn drop_record(&mut self, sequence: Sequence) {
        let Some(stored) = self.records.remove(&sequence) else { return };
        let Stored { record, share, upsert, .. } = &*stored;
        let cost = self.cost(record);
        self.bytes -= record.bytes();
        *self.upsert_bytes.get_mut() -= upsert.get().map_or(0, Upsert::bytes);
        self.trimmed = self.trimmed.max(sequence.next());
        self.times.forget_before(self.oldest());
        let index = &mut self.indexes[usize::from(record.entity.0)];
        index.shares.remove(*share, sequence, cost);
        index.trimmed.note(&record.audience(), sequence);
        if let Some(change) = record.change() {
            if index.newest.get(&change.key) == Some(&sequence) && !index.tombstones.by_sequence.contains_key(&sequence)
            {
                index.newest.remove(&change.key);
                index.remove_child(change);
            }
        }
    }

    /// Drops the tombstones that no longer fit: of the entity that holds most, the oldest first.
    fn trim_tombstones(&mut self, now: Instant) {
        let Self { limits, records, indexes, .. } = self;
        let drop_oldest = |index: &mut Index| {
            let dropped = index.tombstones.pop_oldest();
            if let Some((_, tombstone)) = dropped.filter(|(sequence, _)| !records.contains_key(sequence)) {
                index.newest.remove(&tombstone.key);
            }
        };
        for index in &mut *indexes {
            let is_over = |at: Instant| now.saturating_duration_since(at) > limits.tombstone_age;
            while index.tombstones.by_sequence.first_key_value().is_some_and(|(_, oldest)| is_over(oldest.at)) {
                drop_oldest(index);
            }
        }
        loop {
            let count: usize = indexes.iter().map(|index| index.tombstones.by_sequence.len()).sum();
            let bytes: usize = indexes.iter().map(|index| index.tombstones.bytes).sum();
            let costliest = indexes.iter_mut().max_by_key(|index| index.tombstones.bytes);
            match costliest.filter(|_| count > limits.tombstones || bytes > limits.bytes) {
                Some(costliest) => drop_oldest(costliest),
                None => return,
            }
        }
    }

    /// What a record takes of the log: its bytes, and its part of the records that may be kept.
    fn cost(&self, record: &Record) -> usize {
        record.bytes() + self.limits.bytes.min(MOST_BYTES) / self.limits.records.max(1)
    }

    fn all_bytes(&self) -> usize {
        self.bytes + self.upsert_bytes.load(Ordering::Relaxed)
    }
}
