//! The bounded, numbered history of everything told: one order for everyone.

mod record;
mod saved;
mod share;
mod text;
mod times;
mod tombstones;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    ops::Range,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

pub(crate) use self::{
    record::{ObjectChange, ObjectRef, PossiblyShown, PriorState, Record, RecordKind, Version, Was},
    saved::{SavedLog, SavedRecord, SavedTombstone},
    tombstones::Tombstone,
};
use self::{
    share::{Shares, Trimmed},
    times::Times,
    tombstones::Tombstones,
};
use crate::{change::ChangeKind, entity::EntityIndex, hub::upsert::Upsert, scope::Scopes};

/// How much history is kept; what comes first counts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogLimits {
    pub(crate) records: usize,
    pub(crate) bytes: usize,
    pub(crate) age: Duration,
    pub(crate) tombstones: usize,
    pub(crate) tombstone_age: Duration,
    /// What one object may have, as JSON.
    pub(crate) object_bytes: usize,
}

/// States of one object that are looked at to find out what a page may be showing: everybody may change one often.
const STATES: usize = 64;

/// Limits beyond this are none: sums of costs must not overflow.
const MOST_BYTES: usize = 1 << 40;

#[derive(Debug)]
struct Stored {
    at: Instant,
    record: Record,
    /// Its place among the shares of its entity.
    share: usize,
    /// How it is told once more, since the first page needed that.
    upsert: OnceLock<Upsert>,
}

/// What is known of one entity's objects.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Index {
    /// The newest record of each object by its key, for as long as that or a tombstone is kept.
    #[serde(skip)]
    newest: HashMap<Arc<str>, u64>,
    /// The keys of the objects that go with another, by that one's.
    #[serde(skip)]
    children: HashMap<Arc<str>, BTreeSet<Arc<str>>>,
    /// Behind its latest refresh.
    refreshed: u64,
    /// Behind its latest message.
    #[serde(skip)]
    messages: u64,
    /// Behind the latest change that told an object in other scopes than before.
    moved: u64,
    /// Refreshes of some scopes only, each with the sequence number behind it.
    refreshed_scopes: Vec<(u64, Scopes)>,
    /// The objects whose newest record is their deletion.
    #[serde(skip)]
    tombstones: Tombstones,
    /// Some claims have been kept apart from others about the same id.
    has_claims_apart: bool,
    #[serde(skip)]
    shares: Shares,
    trimmed: Trimmed,
}

/// A bounded sequence of records. Sequence numbers only grow. When it is full, the oldest record of whoever holds most
/// goes, so that one entity or tenant cannot take everybody's history. Of a deleted object a tombstone stays for longer.
#[derive(Debug)]
pub(crate) struct Log {
    limits: LogLimits,
    /// Boxed, since a tree moves its entries about.
    records: BTreeMap<u64, Box<Stored>>,
    /// The sequence number the next record will get.
    head: u64,
    bytes: usize,
    /// What is kept to tell records once more.
    upsert_bytes: AtomicUsize,
    times: Times,
    /// One for each entity.
    indexes: Vec<Index>,
    /// Behind the newest record that went.
    trimmed: u64,
}

impl Log {
    pub(crate) fn new(limits: LogLimits, entities: usize) -> Self {
        Self {
            limits,
            records: BTreeMap::new(),
            head: 0,
            bytes: 0,
            upsert_bytes: AtomicUsize::new(0),
            times: Times::default(),
            indexes: (0..entities).map(|_| Index::default()).collect(),
            trimmed: 0,
        }
    }

    /// The sequence number the next record will get.
    pub(crate) fn end(&self) -> u64 {
        self.head
    }

    /// Behind the newest record that went: from here on nothing is missing, whoever asks.
    pub(crate) fn trimmed(&self) -> u64 {
        self.trimmed
    }

    /// From here on no record of an entity is missing that concerned somebody with these scopes.
    pub(crate) fn start_for(&self, entity: EntityIndex, scopes: &Scopes) -> u64 {
        self.index(entity).map_or(0, |index| index.trimmed.for_scopes(scopes))
    }

    /// From here on no record of an entity is missing.
    pub(crate) fn start(&self, entity: EntityIndex) -> u64 {
        self.index(entity).map_or(0, |index| index.trimmed.for_anybody())
    }

    /// Adds a record and drops what no longer fits. The newest record always stays.
    pub(crate) fn append(&mut self, now: Instant, mut record: Record) {
        let sequence = self.end();
        if let RecordKind::Change(subject) = &mut record.kind {
            let index = self.indexes.get_mut(usize::from(record.entity.0));
            let earlier = index.and_then(|index| index.newest.insert(subject.key.clone(), sequence));
            subject.is_only_added &= earlier.is_none();
            let known = earlier.and_then(|earlier| Some((earlier, self.change(earlier)?.1)));
            let parent = known.and_then(|(_, known)| known.parent.clone());
            let known = known.filter(|(_, known)| known.kind != ChangeKind::Delete);
            subject.added = match subject.kind {
                ChangeKind::Add => Some(sequence),
                ChangeKind::Update => known.and_then(|(_, known)| known.added),
                ChangeKind::Delete => known.map(|(at, known)| known.added.unwrap_or(at)),
            };
            let subject = &*subject;
            if subject.is_claim && subject.key != subject.id {
                if let Some(index) = self.indexes.get_mut(usize::from(record.entity.0)) {
                    index.has_claims_apart = true;
                }
            }
            let has_moved = matches!(&subject.prior, PriorState::Known(state) if state.scopes != record.scopes);
            if let Some(index) = self.indexes.get_mut(usize::from(record.entity.0)).filter(|_| has_moved) {
                index.moved = sequence + 1;
            }
            if let Some(parent) = parent {
                self.forget_child(record.entity, &parent, &subject.key);
            }
            self.note(now, sequence, earlier, &record);
        }
        let oldest = self.records.first_key_value().map_or(sequence, |(&oldest, _)| oldest);
        if let (RecordKind::Refresh, Some(index)) = (&record.kind, self.indexes.get_mut(usize::from(record.entity.0))) {
            index.refreshed_scopes.retain(|(behind, _)| *behind > oldest);
            match &record.scopes {
                Scopes::All => index.refreshed = sequence + 1,
                scopes => {
                    index.refreshed_scopes.retain(|(_, known)| known != scopes);
                    index.refreshed_scopes.push((sequence + 1, scopes.clone()));
                }
            }
        }
        self.times.note(now, sequence);
        self.insert(sequence, now, record);
        self.head += 1;
        self.trim(now);
    }

    fn insert(&mut self, sequence: u64, at: Instant, record: Record) {
        self.bytes += record.bytes();
        let cost = self.cost(&record);
        let share = self.indexes.get_mut(usize::from(record.entity.0)).map_or(0, |index| {
            if matches!(record.kind, RecordKind::Message) {
                index.messages = sequence + 1;
            }
            index.shares.add(&record.scopes, sequence, cost)
        });
        self.records.insert(sequence, Box::new(Stored { at, record, share, upsert: OnceLock::new() }));
    }

    /// Drops what no longer fits. The newest record always stays.
    fn trim(&mut self, now: Instant) {
        // History is worth more than what can be said anew.
        if self.all_bytes() > self.limits.bytes && *self.upsert_bytes.get_mut() > 0 {
            self.records.values_mut().for_each(|stored| drop(stored.upsert.take()));
            *self.upsert_bytes.get_mut() = 0;
        }
        while let Some(oldest) = self.too_old(now) {
            self.drop_record(oldest);
        }
        while self.records.len() > 1 && self.is_over() {
            let next = self.next_to_go();
            self.drop_record(next);
        }
        self.drop_tombstones(now);
    }

    /// The records from `from` on that are kept, with their sequence numbers.
    pub(crate) fn since(&self, from: u64) -> impl Iterator<Item = (u64, &Record)> {
        self.records.range(from..).map(|(&sequence, stored)| (sequence, &stored.record))
    }

    /// How a record is told once more; `say` says it the first time. `None` where it is gone, or there is no room to keep
    /// it.
    pub(crate) fn upsert(&self, sequence: u64, say: impl FnOnce() -> Upsert) -> Option<&Upsert> {
        let kept = &self.records.get(&sequence)?.upsert;
        // Far from the limit, else it would be forgotten soon.
        if kept.get().is_none() && self.all_bytes() > self.limits.bytes / 4 * 3 {
            return None;
        }
        Some(kept.get_or_init(|| {
            let said = say();
            self.upsert_bytes.fetch_add(said.bytes(), Ordering::Relaxed);
            said
        }))
    }

    /// The newest change of an object that is still kept, and its sequence number.
    pub(crate) fn newest(&self, entity: EntityIndex, key: &str) -> Option<(u64, &ObjectChange)> {
        self.newest_record(entity, key).map(|(sequence, _, subject)| (sequence, subject))
    }

    /// The same, with who was told of it.
    pub(crate) fn newest_record(&self, entity: EntityIndex, key: &str) -> Option<(u64, &Record, &ObjectChange)> {
        let sequence = *self.index(entity)?.newest.get(key)?;
        let (record, subject) = self.change(sequence)?;
        Some((sequence, record, subject))
    }

    /// Where an object was told last, or its deletion; and whether that was only claimed.
    pub(crate) fn said_of(&self, entity: EntityIndex, key: &str) -> Option<(&Scopes, bool)> {
        match self.newest_record(entity, key) {
            Some((_, record, subject)) => Some((&record.scopes, subject.is_claim)),
            None => self.tombstone(entity, key).map(|(_, tombstone)| (&tombstone.scopes, tombstone.is_claim)),
        }
    }

    /// Whether some claims have been kept apart from others about the same id.
    pub(crate) fn has_claims_apart(&self, entity: EntityIndex) -> bool {
        self.index(entity).is_some_and(|index| index.has_claims_apart)
    }

    /// Nothing that was told of an object is its newest state any more.
    pub(crate) fn forget(&mut self, entity: EntityIndex, key: &str) {
        let Some(index) = self.indexes.get_mut(usize::from(entity.0)) else {
            return;
        };
        let Some(sequence) = index.newest.remove(key) else {
            return;
        };
        index.tombstones.remove(sequence);
        let subject =
            self.change(sequence).and_then(|(_, subject)| Some((subject.key.clone(), subject.parent.clone()?)));
        if let Some((key, parent)) = subject {
            self.forget_child(entity, &parent, &key);
        }
    }

    /// The record of this sequence number, where that is a change and still kept.
    pub(crate) fn change(&self, sequence: u64) -> Option<(&Record, &ObjectChange)> {
        let record = &self.records.get(&sequence)?.record;
        match &record.kind {
            RecordKind::Change(subject) => Some((record, subject)),
            RecordKind::Unconfirmed(_) | RecordKind::Message | RecordKind::Refresh => None,
        }
    }

    /// What a page that has heard everything before `from` may show of an object, besides its newest state, newest first.
    pub(crate) fn shown_since<'l>(
        &'l self,
        newest: &'l ObjectChange,
        from: u64,
    ) -> impl Iterator<Item = PossiblyShown<'l>> + 'l {
        let mut prior = Some(&newest.prior);
        let mut looked_at = 0;
        std::iter::from_fn(move || {
            loop {
                let state = match prior.take()? {
                    PriorState::Unknown => return Some(PossiblyShown::Unknown),
                    PriorState::Absent => return None,
                    PriorState::Known(state) => &**state,
                };
                looked_at += 1;
                if looked_at > STATES {
                    return Some(PossiblyShown::UpTo(state));
                }
                if let Some(at) = state.at.filter(|at| *at >= from) {
                    match self.change(at) {
                        Some((_, subject)) => prior = Some(&subject.prior),
                        // Its record went, and with it what was before.
                        None => return Some(PossiblyShown::UpTo(state)),
                    }
                }
                if !matches!(state.was, Was::Gone) {
                    return Some(PossiblyShown::Version(state));
                }
            }
        })
    }

    /// True where the log holds a change that told an object of an entity in other scopes than before.
    pub(crate) fn has_moves(&self, entity: EntityIndex) -> bool {
        let oldest = self.records.first_key_value().map_or(self.head, |(&oldest, _)| oldest);
        self.index(entity).is_some_and(|index| index.moved > oldest)
    }

    /// The changes that are the newest of their objects, of one entity.
    pub(crate) fn newest_of(&self, entity: EntityIndex) -> impl Iterator<Item = (u64, &Record, &ObjectChange)> {
        let newest = self.index(entity).into_iter().flat_map(|index| index.newest.values());
        newest.filter_map(|&sequence| self.change(sequence).map(|(record, subject)| (sequence, record, subject)))
    }

    /// The same, unless the entity was refreshed since then: who knows what the object is now.
    pub(crate) fn known(&self, entity: EntityIndex, key: &str) -> Option<(u64, &ObjectChange)> {
        self.newest(entity, key).filter(|(sequence, _)| *sequence >= self.refreshed(entity))
    }

    /// True when nothing newer than this record is known of its object, nor was the entity refreshed since.
    pub(crate) fn is_newest(&self, entity: EntityIndex, key: &str, sequence: u64) -> bool {
        self.index(entity).is_some_and(|index| index.newest.get(key) == Some(&sequence) && sequence >= index.refreshed)
    }

    /// Whether an object was told from `sequence` on, as far as the log reaches back.
    pub(crate) fn is_told_since(&self, entity: EntityIndex, key: &str, sequence: u64) -> bool {
        let newest = self.index(entity).and_then(|index| index.newest.get(key));
        newest.is_some_and(|newest| *newest >= sequence) || self.start(entity) > sequence
    }

    /// True when what was told of an object from `sequence` on says all there is to say of it.
    pub(crate) fn is_whole_since(&self, entity: EntityIndex, key: &str, sequence: u64) -> bool {
        let newest = self.index(entity).and_then(|index| index.newest.get(key));
        newest.is_some_and(|&newest| {
            let is_partial = self.newest(entity, key).is_some_and(|(_, subject)| !subject.whole);
            newest >= sequence.max(self.refreshed(entity)) && !is_partial
        })
    }

    /// The newest change of an object, where that was told from `sequence` on, not that it is gone, and something shows
    /// that it is there: a part of an object is what a page wanted it to be.
    pub(crate) fn there_since(
        &self,
        entity: EntityIndex,
        key: &str,
        sequence: u64,
    ) -> Option<(&Record, &ObjectChange)> {
        let (newest, record, subject) = self.newest_record(entity, key)?;
        let is_there = newest >= sequence.max(self.refreshed(entity)) && subject.kind != ChangeKind::Delete;
        (is_there && subject.whole).then_some((record, subject))
    }

    /// The newest change of an object, where that was told from `sequence` on and is a part of the object only.
    pub(crate) fn part_since(&self, entity: EntityIndex, key: &str, sequence: u64) -> Option<(u64, &Record)> {
        let (newest, record, subject) = self.newest_record(entity, key)?;
        (newest >= sequence && !subject.whole).then_some((newest, record))
    }

    /// The keys of the objects known to go with this one alone.
    pub(crate) fn children(&self, entity: EntityIndex, key: &str) -> Vec<Arc<str>> {
        let children = self.index(entity).and_then(|index| index.children.get(key));
        children.into_iter().flatten().cloned().collect()
    }

    /// The keys of the objects known to go with this one, each before the one it goes with.
    pub(crate) fn descendants(&self, entity: EntityIndex, key: &str) -> Vec<Arc<str>> {
        let Some(children) = self.index(entity).map(|index| &index.children) else {
            return Vec::new();
        };
        let of = |key: &str| children.get(key).into_iter().flatten();
        let mut found: Vec<&Arc<str>> = of(key).collect();
        let mut known: HashSet<&str> = found.iter().map(|child| &***child).chain([key]).collect();
        let mut next = 0;
        while let Some(&parent) = found.get(next) {
            found.extend(of(parent).filter(|child| known.insert(child)));
            next += 1;
        }
        found.into_iter().rev().cloned().collect()
    }

    /// What was said before this may be older than the latest refresh.
    pub(crate) fn refreshed(&self, entity: EntityIndex) -> u64 {
        self.index(entity).map_or(0, |index| index.refreshed)
    }

    /// Whether a message was told from a sequence number on.
    pub(crate) fn has_messages_since(&self, entity: EntityIndex, from: u64) -> bool {
        self.index(entity).is_some_and(|index| index.messages > from)
    }

    /// The same, with the refreshes of these scopes.
    pub(crate) fn refreshed_for(&self, entity: EntityIndex, scopes: &Scopes) -> u64 {
        let of_scopes = self.index(entity).into_iter().flat_map(|index| &index.refreshed_scopes);
        let of_scopes = of_scopes.filter(|(_, refreshed)| refreshed.intersects(scopes)).map(|(behind, _)| *behind);
        of_scopes.max().unwrap_or(0).max(self.refreshed(entity))
    }

    /// The tombstone of an object, where its deletion is the last that is known of it.
    pub(crate) fn tombstone(&self, entity: EntityIndex, key: &str) -> Option<(u64, &Tombstone)> {
        let index = self.index(entity)?;
        let sequence = *index.newest.get(key)?;
        let tombstone = index.tombstones.get(sequence).filter(|_| sequence >= index.refreshed)?;
        Some((sequence, tombstone))
    }

    /// The tombstone of this sequence number, for as long as it is in force.
    pub(crate) fn tombstone_at(&self, entity: EntityIndex, sequence: u64) -> Option<&Tombstone> {
        self.index(entity)?.tombstones.get(sequence)
    }

    /// Objects of an entity that are gone, by the sequence numbers of their deletions.
    pub(crate) fn tombstones(
        &self,
        entity: EntityIndex,
        within: Range<u64>,
    ) -> impl DoubleEndedIterator<Item = (u64, &Tombstone)> {
        self.index(entity).into_iter().flat_map(move |index| index.tombstones.range(within.clone()))
    }

    /// Everybody who was there has been sent these deletions again.
    pub(crate) fn tombstones_settled(&mut self, entity: EntityIndex, within: Range<u64>) {
        if let Some(index) = self.indexes.get_mut(usize::from(entity.0)) {
            index.tombstones.range_mut(within).for_each(|it| it.has_settled = true);
        }
    }

    /// An object that was deleted before this is in the store again.
    pub(crate) fn remove_tombstone(&mut self, entity: EntityIndex, key: &str, before: u64) {
        let Some(index) = self.indexes.get_mut(usize::from(entity.0)) else {
            return;
        };
        let tombstone = index.newest.get(key).copied().filter(|sequence| *sequence < before);
        if let Some(sequence) = tombstone.filter(|sequence| index.tombstones.remove(*sequence).is_some()) {
            if !self.records.contains_key(&sequence) {
                index.newest.remove(key);
            }
        }
    }

    /// The sequence number of the first record that was told this long ago or later, or shortly before.
    pub(crate) fn position(&self, now: Instant, ago: Duration) -> u64 {
        now.checked_sub(ago).map_or(0, |then| self.times.position(then).unwrap_or(self.head))
    }

    /// Records kept, and the bytes they cost.
    pub(crate) fn size(&self) -> (usize, usize) {
        (self.records.len(), self.all_bytes())
    }

    fn index(&self, entity: EntityIndex) -> Option<&Index> {
        self.indexes.get(usize::from(entity.0))
    }

    /// Remembers a change as the newest of its object, of which `earlier` was.
    fn note(&mut self, now: Instant, sequence: u64, earlier: Option<u64>, record: &Record) {
        let (RecordKind::Change(subject), Some(index)) =
            (&record.kind, self.indexes.get_mut(usize::from(record.entity.0)))
        else {
            return;
        };
        let forgotten = earlier.and_then(|earlier| index.tombstones.remove(earlier));
        if subject.kind == ChangeKind::Delete {
            let last = match &subject.prior {
                PriorState::Known(state) => match &state.was {
                    Was::Object(object) => Some(object.clone()),
                    // Deleted twice, it is what it was.
                    Was::Gone => forgotten.as_ref().and_then(|forgotten| forgotten.last.clone()),
                    Was::Something | Was::Doubtful => None,
                },
                PriorState::Unknown | PriorState::Absent => None,
            };
            let ever = forgotten.map_or(Scopes::None, |forgotten| forgotten.ever).and(&subject.ever);
            let tombstone = Tombstone {
                at: now,
                id: subject.id.clone(),
                key: subject.key.clone(),
                object: subject.object.to_vec().into(),
                may_be_exception: subject.may_be_exception,
                scopes: record.scopes.clone(),
                ever,
                went_to: subject.went_to.clone(),
                is_claim: subject.is_claim,
                last,
                has_settled: false,
            };
            index.tombstones.insert(sequence, tombstone);
        } else if let Some(parent) = &subject.parent {
            index.children.entry(parent.clone()).or_default().insert(subject.key.clone());
        }
    }

    /// Takes an object off the list of those that go with another.
    fn forget_child(&mut self, entity: EntityIndex, parent: &Arc<str>, key: &Arc<str>) {
        let Some(index) = self.indexes.get_mut(usize::from(entity.0)) else {
            return;
        };
        if let Some(children) = index.children.get_mut(parent) {
            children.remove(key);
            if children.is_empty() {
                index.children.remove(parent);
            }
        }
    }

    fn all_bytes(&self) -> usize {
        self.bytes + self.upsert_bytes.load(Ordering::Relaxed)
    }

    /// What a record takes of the log: its bytes, and its part of the records that may be kept.
    fn cost(&self, record: &Record) -> usize {
        record.bytes() + self.limits.bytes.min(MOST_BYTES) / self.limits.records.max(1)
    }

    fn is_over(&self) -> bool {
        self.records.len() > self.limits.records || self.all_bytes() > self.limits.bytes
    }

    /// The oldest record, where its time is over. The newest always stays.
    fn too_old(&self, now: Instant) -> Option<u64> {
        let (&oldest, stored) = self.records.first_key_value()?;
        let is_over = now.saturating_duration_since(stored.at) > self.limits.age;
        (is_over && oldest + 1 < self.head).then_some(oldest)
    }

    /// The oldest record of whoever holds most, or else the oldest.
    fn next_to_go(&self) -> u64 {
        let costliest = self.indexes.iter().max_by_key(|index| index.shares.cost());
        let next = costliest.and_then(|index| index.shares.next_to_go()).filter(|next| next + 1 < self.head);
        next.or_else(|| self.records.first_key_value().map(|(&oldest, _)| oldest)).unwrap_or(self.head)
    }

    fn drop_record(&mut self, sequence: u64) {
        let Some(stored) = self.records.remove(&sequence) else {
            return;
        };
        let Stored { record, share, upsert, .. } = &*stored;
        let cost = self.cost(record);
        self.bytes -= record.bytes();
        *self.upsert_bytes.get_mut() -= upsert.get().map_or(0, Upsert::bytes);
        self.trimmed = self.trimmed.max(sequence + 1);
        let oldest = self.records.first_key_value().map_or(self.head, |(&oldest, _)| oldest);
        self.times.forget_before(oldest);
        let Some(index) = self.indexes.get_mut(usize::from(record.entity.0)) else {
            return;
        };
        index.shares.remove(*share, sequence, cost);
        index.trimmed.note(&record.audience(), sequence);
        let RecordKind::Change(subject) = &record.kind else {
            return;
        };
        let is_buried = index.tombstones.get(sequence).is_some();
        if index.newest.get(&subject.key) == Some(&sequence) && !is_buried {
            index.newest.remove(&subject.key);
            if let Some(parent) = &subject.parent {
                self.forget_child(record.entity, parent, &subject.key);
            }
        }
    }

    /// Drops the tombstones that no longer fit: of the entity that holds most, the oldest first.
    fn drop_tombstones(&mut self, now: Instant) {
        let (limits, records) = (self.limits, &self.records);
        let drop_oldest = |index: &mut Index| {
            let oldest = index.tombstones.oldest().map(|(sequence, _)| sequence);
            let Some((sequence, tombstone)) = oldest.and_then(|at| Some((at, index.tombstones.remove(at)?))) else {
                return;
            };
            if !records.contains_key(&sequence) {
                index.newest.remove(&tombstone.key);
            }
        };
        for index in &mut self.indexes {
            let is_over = |at: Instant| now.saturating_duration_since(at) > limits.tombstone_age;
            while index.tombstones.oldest().is_some_and(|(_, at)| is_over(at)) {
                drop_oldest(index);
            }
        }
        let size = |indexes: &[Index]| {
            let add =
                |(count, bytes), index: &Index| (count + index.tombstones.len(), bytes + index.tombstones.bytes());
            indexes.iter().fold((0, 0), add)
        };
        loop {
            let (count, bytes) = size(&self.indexes);
            let costliest = self.indexes.iter_mut().max_by_key(|index| index.tombstones.bytes());
            match costliest.filter(|_| count > limits.tombstones || bytes > limits.bytes) {
                Some(costliest) => drop_oldest(costliest),
                None => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::hub::encoder::EntityEncoder;

    fn record(id: &str, size: usize) -> Record {
        let frame = Bytes::from(vec![b'x'; size]);
        Record {
            entity: EntityIndex(0),
            scopes: Scopes::All,
            kind: RecordKind::Change(ObjectChange {
                kind: ChangeKind::Update,
                id: id.into(),
                key: id.into(),
                prior: PriorState::Unknown,
                ever: Scopes::All,
                went_to: Scopes::None,
                object: frame.clone(),
                whole: true,
                is_only_added: false,
                added: None,
                parent: None,
                may_be_exception: false,
                is_claim: false,
                can_add: None,
            }),
            frame,
        }
    }

    fn log(records: usize, bytes: usize) -> Log {
        let limits = LogLimits {
            records,
            bytes,
            age: Duration::from_secs(3600),
            tombstones: 4,
            tombstone_age: Duration::from_secs(24 * 3600),
            object_bytes: usize::MAX,
        };
        Log::new(limits, 1)
    }

    #[test]
    fn a_reader_that_fell_behind_is_told_so() {
        let mut log = log(2, usize::MAX);
        for id in ["a", "b", "c"] {
            log.append(Instant::now(), record(id, 1));
        }
        assert_eq!((log.start(EntityIndex(0)), log.trimmed()), (1, 1), "record 0 is gone");
        let rest: Vec<u64> = log.since(0).map(|(sequence, _)| sequence).collect();
        assert_eq!(rest, [1, 2]);
        assert_eq!(log.since(3).count(), 0, "the head reads nothing");
    }

    fn of(entity: u16, scope: &str, id: &str, size: usize) -> Record {
        let scopes: Scopes = [scope].into_iter().collect();
        let mut record = record(id, size);
        if let RecordKind::Change(subject) = &mut record.kind {
            subject.ever = scopes.clone();
        }
        Record { entity: EntityIndex(entity), scopes, ..record }
    }

    #[test]
    fn neither_an_entity_nor_a_tenant_takes_the_history_of_others() {
        let limits = LogLimits { bytes: 10_000, ..log(1000, 0).limits };
        let mut log = Log::new(limits, 2);
        log.append(Instant::now(), of(1, "south", "a", 1000));
        log.append(Instant::now(), of(0, "south", "b", 1000));
        for number in 0..100 {
            log.append(Instant::now(), of(0, "north", &number.to_string(), 2000));
        }
        assert!(log.newest(EntityIndex(1), "a").is_some() && log.newest(EntityIndex(0), "b").is_some());
        let start = |entity, scope: &str| log.start_for(EntityIndex(entity), &[scope].into_iter().collect());
        assert_eq!([start(0, "south"), start(1, "south"), start(1, "north")], [0; 3]);
        assert!(start(0, "north") > 90 && log.start(EntityIndex(0)) == start(0, "north"));
        assert!(log.size().1 <= 10_000);
    }

    #[test]
    fn many_small_records_go_before_a_few_of_others_too() {
        let mut log = Log::new(LogLimits { bytes: 1 << 20, ..log(100, 0).limits }, 2);
        log.append(Instant::now(), of(1, "south", "a", 1000));
        for number in 0..1000 {
            log.append(Instant::now(), of(0, "north", &number.to_string(), 1));
        }
        assert!(log.newest(EntityIndex(1), "a").is_some());
        assert_eq!(log.size().0, 100);
    }

    #[test]
    fn who_was_told_of_an_object_that_went_has_missed_something() {
        let mut log = log(1, usize::MAX);
        let scopes = |name: &str| [name].into_iter().collect::<Scopes>();
        let mut moved = of(0, "south", "a", 1);
        if let RecordKind::Change(subject) = &mut moved.kind {
            subject.ever = scopes("north");
        }
        log.append(Instant::now(), moved);
        log.append(Instant::now(), of(0, "south", "b", 1));
        let start = |scope: &str| log.start_for(EntityIndex(0), &scopes(scope));
        assert_eq!((start("north"), start("south"), start("west")), (1, 1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_older_than_the_age_goes_with_the_next_record() {
        let mut log = log(10, usize::MAX);
        log.append(Instant::now(), record("a", 1));
        tokio::time::advance(Duration::from_secs(3601)).await;
        log.append(Instant::now(), record("b", 1));
        assert_eq!((log.start(EntityIndex(0)), log.size().0), (1, 1));
    }

    #[test]
    fn what_is_kept_to_tell_records_once_more_counts_and_goes_with_them() {
        let mut log = log(10, 4000);
        log.append(Instant::now(), record("a", 100));
        let before = log.size().1;
        let encoder = EntityEncoder::new("events", "event");
        let object = Bytes::from(format!(r#"{{"id":"a","text":"{}"}}"#, "x".repeat(1000)));
        for _ in 0..2 {
            log.upsert(0, || encoder.encode_upsert(&object, true)).unwrap();
        }
        let after = log.size().1;
        assert!(after > before + 2000 && after < before + 2500, "said once, as add and update: {before} {after}");
        assert!(log.upsert(1, || encoder.encode_upsert(&object, true)).is_none(), "there is no such record");
        log.append(Instant::now(), record("b", 2000));
        assert_eq!(log.size(), (2, 2 * before + 1900), "no record has to go for it");
        log.append(Instant::now(), record("c", 1000));
        assert!(log.upsert(2, || encoder.encode_upsert(&object, true)).is_none(), "there is little room");
        assert_eq!(log.size().0, 3);
    }

    #[test]
    fn one_record_larger_than_the_log_is_still_told() {
        let mut log = log(10, 100);
        log.append(Instant::now(), record("a", 5000));
        assert_eq!(log.since(0).count(), 1);
    }

    #[test]
    fn the_newest_record_of_an_object_is_found_while_it_is_kept() {
        let mut log = log(2, usize::MAX);
        log.append(Instant::now(), record("a", 1));
        log.append(Instant::now(), record("a", 2));
        assert_eq!(log.newest(EntityIndex(0), "a").unwrap().1.object.len(), 2);
        assert!(log.is_newest(EntityIndex(0), "a", 1) && !log.is_newest(EntityIndex(0), "a", 0));
        log.append(Instant::now(), record("b", 1));
        log.append(Instant::now(), record("c", 1));
        assert!(log.newest(EntityIndex(0), "a").is_none(), "dropped");
        assert_eq!(log.indexes[0].newest.len(), 2);
    }

    fn change(kind: ChangeKind, id: &str, parent: Option<&str>) -> Record {
        let object = Bytes::from(format!(r#"{{"id":"{id}"}}"#));
        Record {
            entity: EntityIndex(0),
            frame: object.clone(),
            scopes: Scopes::All,
            kind: RecordKind::Change(ObjectChange {
                kind,
                id: id.into(),
                key: id.into(),
                prior: PriorState::Unknown,
                ever: Scopes::All,
                went_to: Scopes::None,
                object,
                whole: kind != ChangeKind::Update,
                added: None,
                parent: parent.map(Arc::from),
                may_be_exception: false,
                is_claim: false,
                can_add: None,
                is_only_added: false,
            }),
        }
    }

    fn tombstone(log: &Log) -> Vec<(u64, String)> {
        log.tombstones(EntityIndex(0), 0..u64::MAX).map(|(at, tombstone)| (at, tombstone.id.to_string())).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn deleted_objects_are_known_for_longer_than_their_records() {
        let mut log = log(2, usize::MAX);
        for id in ["a", "b", "c", "d", "e"] {
            log.append(Instant::now(), change(ChangeKind::Delete, id, None));
            tokio::time::advance(Duration::from_secs(10)).await;
        }
        let kept = [(1, "b"), (2, "c"), (3, "d"), (4, "e")].map(|(at, id)| (at, id.to_owned()));
        assert_eq!(tombstone(&log), kept, "four at most");
        assert_eq!([5, 15, 500].map(|seconds| log.position(Instant::now(), Duration::from_secs(seconds))), [5, 4, 3]);
        // One is used again, of another the day is over.
        log.append(Instant::now(), change(ChangeKind::Add, "c", None));
        tokio::time::advance(Duration::from_secs(24 * 3600 - 25)).await;
        log.append(Instant::now(), change(ChangeKind::Add, "x", None));
        assert_eq!(tombstone(&log), [(3, "d".to_owned()), (4, "e".to_owned())]);
        assert_eq!(log.indexes[0].newest.len(), 3, "x, and two that are gone");
    }

    #[tokio::test(start_paused = true)]
    async fn tombstones_are_bounded_by_what_they_cost_and_one_entity_takes_no_others() {
        let limits = LogLimits { bytes: 100_000, tombstones: 1000, ..log(10, 0).limits };
        let mut log = Log::new(limits, 2);
        let delete = |entity, id: &str| Record { entity: EntityIndex(entity), ..change(ChangeKind::Delete, id, None) };
        log.append(Instant::now(), delete(1, "kept"));
        for number in 0..2000 {
            log.append(Instant::now(), delete(0, &format!("{number}{}", "x".repeat(250))));
        }
        let kept = |entity| log.tombstones(EntityIndex(entity), 0..u64::MAX).count();
        assert_eq!((kept(0), kept(1)), (100_000 / (300 + 3 * 254 + 9), 1), "id, key and object");
        assert_eq!(log.indexes[0].newest.len(), kept(0));
    }

    #[test]
    fn an_update_knows_when_its_object_was_added_and_says_all_only_where_it_is_whole() {
        let mut log = log(10, usize::MAX);
        for (kind, id) in [(ChangeKind::Add, "a"), (ChangeKind::Update, "a"), (ChangeKind::Update, "b")] {
            log.append(Instant::now(), change(kind, id, None));
        }
        let added = |log: &Log, id| log.newest(EntityIndex(0), id).unwrap().1.added;
        assert_eq!((added(&log, "a"), added(&log, "b")), (Some(0), None));
        assert!(!log.is_whole_since(EntityIndex(0), "a", 0), "the update is a part");
        log.append(Instant::now(), change(ChangeKind::Delete, "a", None));
        assert!(log.is_whole_since(EntityIndex(0), "a", 3) && !log.is_whole_since(EntityIndex(0), "a", 4));
    }

    #[test]
    fn children_follow_their_newest_record() {
        let mut log = log(3, usize::MAX);
        let children = |log: &Log, id: &str| {
            let mut children: Vec<String> =
                log.descendants(EntityIndex(0), id).iter().map(|child| child.to_string()).collect();
            children.sort();
            children
        };
        log.append(Instant::now(), change(ChangeKind::Add, "x", Some("p")));
        log.append(Instant::now(), change(ChangeKind::Add, "y", Some("p")));
        assert_eq!(children(&log, "p"), ["x", "y"]);
        log.append(Instant::now(), change(ChangeKind::Update, "x", Some("q")));
        assert_eq!((children(&log, "p"), children(&log, "q")), (vec!["y".to_owned()], vec!["x".to_owned()]));
        log.append(Instant::now(), change(ChangeKind::Delete, "x", None));
        log.append(Instant::now(), change(ChangeKind::Add, "z", None));
        assert!(log.indexes[0].children.is_empty(), "deleted, and gone from the log: {:?}", log.indexes[0].children);
    }

    #[test]
    fn what_goes_with_an_object_goes_before_it_however_deep() {
        let mut log = log(50_000, usize::MAX);
        for id in 1..40_000 {
            log.append(Instant::now(), change(ChangeKind::Add, &(id + 1).to_string(), Some(&id.to_string())));
        }
        let order: Vec<String> = (2..=40_000).rev().map(|id| id.to_string()).collect();
        assert!(log.descendants(EntityIndex(0), "1").iter().map(|id| &**id).eq(&order));
        log.append(Instant::now(), change(ChangeKind::Update, "39999", Some("40000")));
        assert_eq!(log.descendants(EntityIndex(0), "39999").len(), 1, "they go with each other");
    }

    #[test]
    fn what_the_store_has_again_is_not_buried() {
        let mut log = log(2, usize::MAX);
        for id in ["a", "b", "c", "d"] {
            log.append(Instant::now(), change(ChangeKind::Delete, id, None));
        }
        log.append(Instant::now(), change(ChangeKind::Add, "x", None));
        for id in ["a", "d", "unknown"] {
            log.remove_tombstone(EntityIndex(0), id, 4);
        }
        // Deleted since the store was asked.
        log.remove_tombstone(EntityIndex(0), "c", 2);
        let tombstone: Vec<&str> = log.tombstones(EntityIndex(0), 0..9).map(|(_, tombstone)| &*tombstone.id).collect();
        assert_eq!(tombstone, ["b", "c"]);
        log.append(Instant::now(), change(ChangeKind::Add, "y", None));
        let mut known: Vec<&str> = log.indexes[0].newest.keys().map(|id| &**id).collect();
        known.sort_unstable();
        assert_eq!(known, ["b", "c", "x", "y"], "nothing is left of the others when their records go");
    }

    #[test]
    fn a_deletion_knows_since_when_its_object_had_been_there() {
        let mut log = log(10, usize::MAX);
        for (kind, id) in [(ChangeKind::Add, "a"), (ChangeKind::Update, "a"), (ChangeKind::Update, "b")] {
            log.append(Instant::now(), change(kind, id, None));
        }
        for (id, since) in [("a", Some(0)), ("b", Some(2)), ("c", None), ("a", None)] {
            log.append(Instant::now(), change(ChangeKind::Delete, id, None));
            assert_eq!(log.newest(EntityIndex(0), id).unwrap().1.added, since, "{id}");
        }
    }

    proptest! {
        #[test]
        fn bounds_hold_and_numbers_stay_dense(
            writes in proptest::collection::vec((0_u8..8, 1_usize..400), 1..200),
            records in 1_usize..20,
            bytes in 200_usize..4000,
        ) {
            let mut log = log(records, bytes);
            for (count, (id, size)) in writes.iter().enumerate() {
                log.append(Instant::now(), record(&id.to_string(), *size));
                let (kept, cost) = log.size();
                prop_assert_eq!(log.end(), count as u64 + 1);
                prop_assert!(kept == 1 || (kept <= records && cost <= bytes));
                let sequences: Vec<u64> = log.since(0).map(|(s, _)| s).collect();
                prop_assert_eq!(sequences, (log.start(EntityIndex(0))..log.end()).collect::<Vec<_>>());
                let (sequence, newest) = log.newest(EntityIndex(0), &id.to_string()).unwrap();
                prop_assert_eq!((sequence, newest.object.len()), (count as u64, *size));
                prop_assert!(log.indexes[0].newest.len() <= kept);
            }
        }
    }
}
