//! The bounded, numbered history of everything told: one order for everyone.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    ops::Range,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::time::Instant;

use crate::{
    change::ChangeKind,
    hub::{EntityIndex, upsert::Upsert},
    scope::Scopes,
};

/// How much history is kept; what comes first counts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogLimits {
    pub(crate) records: usize,
    pub(crate) bytes: usize,
    pub(crate) age: Duration,
    pub(crate) tombstones: usize,
    pub(crate) tombstone_age: Duration,
}

/// What one record costs besides its frame: the entry itself and its place in the index.
const OVERHEAD: usize = 224;

/// What a page may show of an object.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Seen<'l> {
    State(&'l State),
    /// Any of what this state or an earlier one was.
    Before(&'l State),
    Unknown,
}

/// States of one object that are looked at to find out what a page may be showing: everybody may change one often.
const STATES: usize = 64;

/// One change or message that was told.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) entity: EntityIndex,
    /// What those who listen are told, encoded once for everyone.
    pub(crate) frame: Bytes,
    /// Who may hear it; of a deletion, who has the object.
    pub(crate) scopes: Scopes,
    pub(crate) matter: Matter,
}

impl Record {
    /// Where the object of a deletion is now.
    pub(crate) fn went_to(&self) -> &Scopes {
        match &self.matter {
            Matter::Change(subject) => &subject.went_to,
            Matter::Message | Matter::Refresh => &Scopes::None,
        }
    }

    fn bytes(&self) -> usize {
        let former = match &self.matter {
            Matter::Change(Subject { former: Former::Known(state), ever, .. }) => state.bytes() + ever.bytes(),
            Matter::Change(_) | Matter::Message | Matter::Refresh => 0,
        };
        OVERHEAD + self.frame.len() + self.scopes.bytes() + former
    }
}

/// What a record is about.
#[derive(Clone, Debug)]
pub(crate) enum Matter {
    /// An object changed: only its newest state matters to those who come later.
    Change(Subject),
    /// Something else was said: everyone hears it once, in its place.
    Message,
    /// Anything may have changed: pages are brought to the store's state. In some scopes only, it stands for an object
    /// that came there and is not known whole.
    Refresh,
}

/// The object a change is about.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    pub(crate) kind: ChangeKind,
    pub(crate) id: Arc<str>,
    /// What the log finds it by: its id or, where ids are unique within a scope only, that and the scope.
    pub(crate) key: Arc<str>,
    pub(crate) former: Former,
    /// All scopes it was told in since it was last added, as far as the log knows.
    pub(crate) ever: Scopes,
    /// Of a deletion: where its object is now. Who hears that has it.
    pub(crate) went_to: Scopes,
    /// The object's JSON, a part of the frame; of a deleted one only its id.
    pub(crate) object: Bytes,
    /// Every field is known. Of one that is not whole, pages can be told only what changed.
    pub(crate) whole: bool,
    /// The sequence number of the record that added it, where that is known; of a deletion, of one at which it existed.
    pub(crate) added: Option<u64>,
    /// The key of the object this one goes with when that is deleted.
    pub(crate) parent: Option<Arc<str>>,
    /// Of a deletion: the object may have been an exception of a series.
    pub(crate) may_be_exception: bool,
}

/// What an object was before a change; kept where not everybody is told everything.
#[derive(Clone, Debug)]
pub(crate) enum Former {
    Unknown,
    /// There was none.
    Absent,
    Known(Arc<State>),
}

/// An object as it once was.
#[derive(Debug)]
pub(crate) struct State {
    /// The sequence number of the record that made it so, where there was one.
    pub(crate) at: Option<u64>,
    pub(crate) scopes: Scopes,
    /// All scopes it had been told in by then.
    pub(crate) ever: Scopes,
    pub(crate) was: Was,
}

/// Scopes that are remembered of one object: everybody may move one about.
const EVER: usize = 64;

impl Former {
    /// All scopes an object has been told in, with those it is told in now.
    pub(crate) fn ever_and(&self, now: &Scopes) -> Scopes {
        match self {
            Self::Known(state) if !matches!(state.was, Was::Gone) => {
                let ever = state.ever.and(&state.scopes).and(now);
                if ever.names().count() > EVER { state.scopes.and(now) } else { ever }
            }
            Self::Known(_) | Self::Unknown | Self::Absent => now.clone(),
        }
    }
}

#[derive(Debug)]
pub(crate) enum Was {
    Object(Bytes),
    /// There was one.
    Something,
    /// There was one before a refresh: nobody knows what has become of it.
    Doubtful,
    Gone,
}

impl State {
    fn bytes(&self) -> usize {
        let object = match &self.was {
            Was::Object(object) => object.len(),
            Was::Something | Was::Doubtful | Was::Gone => 0,
        };
        size_of::<Self>() + self.scopes.bytes() + self.ever.bytes() + object
    }
}

/// What is left of an object that is gone.
#[derive(Debug)]
pub(crate) struct Tombstone {
    pub(crate) entity: EntityIndex,
    pub(crate) at: Instant,
    pub(crate) id: Arc<str>,
    key: Arc<str>,
    /// The object that told it: its id as JSON.
    pub(crate) object: Box<[u8]>,
    pub(crate) may_be_exception: bool,
    /// Who had the object.
    pub(crate) scopes: Scopes,
    /// All who have heard of it.
    pub(crate) ever: Scopes,
    pub(crate) went_to: Scopes,
    /// The object as it was; `None` where nobody knows, or everybody may see it.
    pub(crate) last: Option<Box<[u8]>>,
}

impl Tombstone {
    fn bytes(&self) -> usize {
        self.last.as_deref().map_or(0, <[u8]>::len) + self.key.len() + self.ever.bytes()
    }
}

#[derive(Debug)]
struct Stored {
    at: Instant,
    record: Record,
    /// How it is told once more, since the first page needed that.
    upsert: OnceLock<Upsert>,
}

/// What is known of one entity's objects.
#[derive(Debug, Default)]
struct Index {
    /// The newest record of each object by its key, for as long as that or a tombstone is kept.
    newest: HashMap<Arc<str>, u64>,
    /// The keys of the objects that go with another, by that one's.
    children: HashMap<Arc<str>, HashSet<Arc<str>>>,
    /// Behind its latest refresh.
    refreshed: u64,
    /// Behind the latest change that told an object in other scopes than before.
    moved: u64,
    /// Refreshes of some scopes only, each with the sequence number behind it.
    refreshed_scopes: Vec<(u64, Scopes)>,
}

/// A bounded sequence of records. Sequence numbers are dense and only grow; the oldest records go first. Of a deleted
/// object a tombstone stays for longer.
#[derive(Debug)]
pub(crate) struct Log {
    limits: LogLimits,
    records: VecDeque<Stored>,
    /// The sequence number of the oldest record kept.
    base: u64,
    bytes: usize,
    /// What is kept to tell records once more.
    upsert_bytes: AtomicUsize,
    /// One for each entity.
    indexes: Vec<Index>,
    /// The objects whose newest record is their deletion, by its sequence number.
    tombstones: BTreeMap<u64, Tombstone>,
    /// What they keep of objects.
    tombstone_bytes: usize,
}

impl Log {
    pub(crate) fn new(limits: LogLimits, entities: usize) -> Self {
        Self {
            limits,
            records: VecDeque::new(),
            base: 0,
            bytes: 0,
            upsert_bytes: AtomicUsize::new(0),
            indexes: (0..entities).map(|_| Index::default()).collect(),
            tombstones: BTreeMap::new(),
            tombstone_bytes: 0,
        }
    }

    /// The sequence number the next record will get.
    pub(crate) fn head(&self) -> u64 {
        self.base + self.records.len() as u64
    }

    /// Adds a record and drops what no longer fits. The newest record always stays.
    pub(crate) fn append(&mut self, now: Instant, mut record: Record) {
        let sequence = self.head();
        if let Matter::Change(subject) = &mut record.matter {
            let known = self.newest(record.entity, &subject.key);
            let parent = known.and_then(|(_, known)| known.parent.clone());
            let known = known.filter(|(_, known)| known.kind != ChangeKind::Delete);
            subject.added = match subject.kind {
                ChangeKind::Add => Some(sequence),
                ChangeKind::Update => known.and_then(|(_, known)| known.added),
                ChangeKind::Delete => known.map(|(at, known)| known.added.unwrap_or(at)),
            };
            let subject = &*subject;
            let has_moved = matches!(&subject.former, Former::Known(state) if state.scopes != record.scopes);
            if let Some(index) = self.indexes.get_mut(usize::from(record.entity.0)).filter(|_| has_moved) {
                index.moved = sequence + 1;
            }
            if let Some(parent) = parent {
                self.forget_child(record.entity, &parent, &subject.key);
            }
            self.note(now, sequence, record.entity, subject, &record.scopes);
        }
        let base = self.base;
        if let (Matter::Refresh, Some(index)) = (&record.matter, self.indexes.get_mut(usize::from(record.entity.0))) {
            index.refreshed_scopes.retain(|(behind, _)| *behind > base);
            match &record.scopes {
                Scopes::All => index.refreshed = sequence + 1,
                scopes => {
                    index.refreshed_scopes.retain(|(_, known)| known != scopes);
                    index.refreshed_scopes.push((sequence + 1, scopes.clone()));
                }
            }
        }
        self.bytes += record.bytes();
        self.records.push_back(Stored { at: now, record, upsert: OnceLock::new() });
        // History is worth more than what can be said anew.
        if self.all_bytes() > self.limits.bytes && *self.upsert_bytes.get_mut() > 0 {
            self.records.iter_mut().for_each(|stored| drop(stored.upsert.take()));
            *self.upsert_bytes.get_mut() = 0;
        }
        while self.records.len() > 1 && self.is_over(now) {
            self.drop_oldest();
        }
        while self.tombstones_are_over(now) {
            self.drop_oldest_tombstone();
        }
    }

    /// The records from `from` on with their sequence numbers; `None` when some of them are gone already.
    pub(crate) fn since(&self, from: u64) -> Option<impl Iterator<Item = (u64, &Record)>> {
        let skip = usize::try_from(from.checked_sub(self.base)?).ok()?;
        Some(
            self.records
                .range(skip.min(self.records.len())..)
                .zip(from..)
                .map(|(stored, sequence)| (sequence, &stored.record)),
        )
    }

    /// How a record is told once more; `say` says it the first time. `None` where it is gone, or there is no room to keep
    /// it.
    pub(crate) fn upsert(&self, sequence: u64, say: impl FnOnce() -> Upsert) -> Option<&Upsert> {
        let at = usize::try_from(sequence.checked_sub(self.base)?).ok()?;
        let kept = &self.records.get(at)?.upsert;
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
    pub(crate) fn newest(&self, entity: EntityIndex, key: &str) -> Option<(u64, &Subject)> {
        self.newest_record(entity, key).map(|(sequence, _, subject)| (sequence, subject))
    }

    /// The same, with who was told of it.
    pub(crate) fn newest_record(&self, entity: EntityIndex, key: &str) -> Option<(u64, &Record, &Subject)> {
        let sequence = *self.index(entity)?.newest.get(key)?;
        let (record, subject) = self.change(sequence)?;
        Some((sequence, record, subject))
    }

    /// The record of this sequence number, where that is a change and still kept.
    pub(crate) fn change(&self, sequence: u64) -> Option<(&Record, &Subject)> {
        let at = usize::try_from(sequence.checked_sub(self.base)?).ok()?;
        let record = &self.records.get(at)?.record;
        match &record.matter {
            Matter::Change(subject) => Some((record, subject)),
            Matter::Message | Matter::Refresh => None,
        }
    }

    /// What a page that has heard everything before `from` may show of an object, besides its newest state, newest first.
    pub(crate) fn shown_since<'l>(&'l self, newest: &'l Subject, from: u64) -> impl Iterator<Item = Seen<'l>> + 'l {
        let mut former = Some(&newest.former);
        let mut looked_at = 0;
        std::iter::from_fn(move || {
            loop {
                let state = match former.take()? {
                    Former::Unknown => return Some(Seen::Unknown),
                    Former::Absent => return None,
                    Former::Known(state) => &**state,
                };
                looked_at += 1;
                if looked_at > STATES {
                    return Some(Seen::Before(state));
                }
                let earlier = state.at.filter(|at| *at >= from).and_then(|at| self.change(at));
                former = earlier.map(|(_, subject)| &subject.former);
                if !matches!(state.was, Was::Gone) {
                    return Some(Seen::State(state));
                }
            }
        })
    }

    /// True where the log holds a change that told an object of an entity in other scopes than before.
    pub(crate) fn has_moves(&self, entity: EntityIndex) -> bool {
        self.index(entity).is_some_and(|index| index.moved > self.base)
    }

    /// The changes that are the newest of their objects, of one entity.
    pub(crate) fn newest_of(&self, entity: EntityIndex) -> impl Iterator<Item = (u64, &Record, &Subject)> {
        let newest = self.index(entity).into_iter().flat_map(|index| index.newest.values());
        newest.filter_map(|&sequence| self.change(sequence).map(|(record, subject)| (sequence, record, subject)))
    }

    /// The same, unless the entity was refreshed since then: who knows what the object is now.
    pub(crate) fn known(&self, entity: EntityIndex, key: &str) -> Option<(u64, &Subject)> {
        self.newest(entity, key).filter(|(sequence, _)| *sequence >= self.refreshed(entity))
    }

    /// True when nothing newer than this record is known of its object, nor was the entity refreshed since.
    pub(crate) fn is_newest(&self, entity: EntityIndex, key: &str, sequence: u64) -> bool {
        self.index(entity).is_some_and(|index| index.newest.get(key) == Some(&sequence) && sequence >= index.refreshed)
    }

    /// True when what was told of an object from `sequence` on says all there is to say of it.
    pub(crate) fn is_whole_since(&self, entity: EntityIndex, key: &str, sequence: u64) -> bool {
        let newest = self.index(entity).and_then(|index| index.newest.get(key));
        newest.is_some_and(|&newest| {
            let is_partial = self.newest(entity, key).is_some_and(|(_, subject)| !subject.whole);
            newest >= sequence.max(self.refreshed(entity)) && !is_partial
        })
    }

    /// The newest change of an object, where that was told from `sequence` on, and not that it is gone.
    pub(crate) fn there_since(&self, entity: EntityIndex, key: &str, sequence: u64) -> Option<(&Record, &Subject)> {
        let (newest, record, subject) = self.newest_record(entity, key)?;
        let is_there = newest >= sequence.max(self.refreshed(entity)) && subject.kind != ChangeKind::Delete;
        is_there.then_some((record, subject))
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

    /// The same, with the refreshes of these scopes.
    pub(crate) fn refreshed_for(&self, entity: EntityIndex, scopes: &Scopes) -> u64 {
        let of_scopes = self.index(entity).into_iter().flat_map(|index| &index.refreshed_scopes);
        let of_scopes = of_scopes.filter(|(_, refreshed)| refreshed.admit(scopes)).map(|(behind, _)| *behind);
        of_scopes.max().unwrap_or(0).max(self.refreshed(entity))
    }

    /// Objects of an entity that are gone, by the sequence numbers of their deletions.
    pub(crate) fn tombstones(
        &self,
        entity: EntityIndex,
        within: Range<u64>,
    ) -> impl Iterator<Item = (u64, &Tombstone)> {
        self.tombstones
            .range(within)
            .filter(move |(_, tombstone)| tombstone.entity == entity)
            .map(|(&sequence, tombstone)| (sequence, tombstone))
    }

    /// An object that was deleted before this is in the store again.
    pub(crate) fn unbury(&mut self, entity: EntityIndex, key: &str, before: u64) {
        let Some(index) = self.indexes.get_mut(usize::from(entity.0)) else {
            return;
        };
        let buried = index.newest.get(key).copied().filter(|sequence| *sequence < before);
        if let Some((sequence, tombstone)) =
            buried.and_then(|sequence| Some((sequence, self.tombstones.remove(&sequence)?)))
        {
            self.tombstone_bytes -= tombstone.bytes();
            if sequence < self.base {
                index.newest.remove(key);
            }
        }
    }

    /// From here on tombstones are no older than this.
    pub(crate) fn tombstones_since(&self, time: Instant) -> u64 {
        let young = self.position_at(time);
        if young > self.base {
            return young;
        }
        let beyond_the_log = self.tombstones.range(..self.base).rev();
        let as_young = beyond_the_log.take_while(|(_, tombstone)| tombstone.at >= time).last();
        as_young.map_or(young, |(&sequence, _)| sequence)
    }

    /// The sequence number of the first record that was told this long ago or later.
    pub(crate) fn position(&self, now: Instant, ago: Duration) -> u64 {
        now.checked_sub(ago).map_or(self.base, |then| self.position_at(then))
    }

    /// The sequence number of the first record that is no older than this.
    fn position_at(&self, time: Instant) -> u64 {
        self.base + self.records.partition_point(|stored| stored.at < time) as u64
    }

    /// The oldest sequence number that can still be read.
    pub(crate) fn base(&self) -> u64 {
        self.base
    }

    /// Records kept, and the bytes they cost.
    pub(crate) fn size(&self) -> (usize, usize) {
        (self.records.len(), self.all_bytes())
    }

    fn index(&self, entity: EntityIndex) -> Option<&Index> {
        self.indexes.get(usize::from(entity.0))
    }

    /// Remembers a change as the newest of its object.
    fn note(&mut self, now: Instant, sequence: u64, entity: EntityIndex, subject: &Subject, scopes: &Scopes) {
        let Some(index) = self.indexes.get_mut(usize::from(entity.0)) else {
            return;
        };
        let earlier = index.newest.insert(subject.key.clone(), sequence);
        let forgotten = earlier.and_then(|earlier| self.tombstones.remove(&earlier));
        if let Some(forgotten) = &forgotten {
            self.tombstone_bytes -= forgotten.bytes();
        }
        if subject.kind == ChangeKind::Delete {
            let last = match &subject.former {
                Former::Known(state) => match &state.was {
                    Was::Object(object) => Some(object.to_vec().into()),
                    // Deleted twice, it is what it was.
                    Was::Gone => forgotten.as_ref().and_then(|forgotten| forgotten.last.clone()),
                    Was::Something | Was::Doubtful => None,
                },
                Former::Unknown | Former::Absent => None,
            };
            let ever = forgotten.map_or(Scopes::None, |forgotten| forgotten.ever).and(&subject.ever);
            let tombstone = Tombstone {
                entity,
                at: now,
                id: subject.id.clone(),
                key: subject.key.clone(),
                object: subject.object.to_vec().into(),
                may_be_exception: subject.may_be_exception,
                scopes: scopes.clone(),
                ever,
                went_to: subject.went_to.clone(),
                last,
            };
            self.tombstone_bytes += tombstone.bytes();
            self.tombstones.insert(sequence, tombstone);
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

    fn is_over(&self, now: Instant) -> bool {
        self.records.len() > self.limits.records
            || self.all_bytes() > self.limits.bytes
            || self.records.front().is_some_and(|oldest| now.saturating_duration_since(oldest.at) > self.limits.age)
    }

    fn drop_oldest(&mut self) {
        let of_change = match self.records.front() {
            Some(Stored { record: Record { entity, matter: Matter::Change(subject), .. }, .. }) => {
                Some((*entity, subject.key.clone(), subject.parent.clone()))
            }
            _ => None,
        };
        if let Some((entity, key, parent)) = of_change {
            let is_buried = self.tombstones.contains_key(&self.base);
            let is_newest = self.index(entity).is_some_and(|index| index.newest.get(&key) == Some(&self.base));
            if is_newest && !is_buried {
                if let Some(parent) = parent {
                    self.forget_child(entity, &parent, &key);
                }
                if let Some(index) = self.indexes.get_mut(usize::from(entity.0)) {
                    index.newest.remove(&key);
                }
            }
        }
        if let Some(Stored { record, upsert, .. }) = self.records.pop_front() {
            self.bytes -= record.bytes();
            *self.upsert_bytes.get_mut() -= upsert.get().map_or(0, Upsert::bytes);
            self.base += 1;
        }
    }

    fn tombstones_are_over(&self, now: Instant) -> bool {
        self.tombstones.len() > self.limits.tombstones
            || self.tombstone_bytes > self.limits.bytes
            || self
                .tombstones
                .first_key_value()
                .is_some_and(|(_, oldest)| now.saturating_duration_since(oldest.at) > self.limits.tombstone_age)
    }

    fn drop_oldest_tombstone(&mut self) {
        let Some((sequence, tombstone)) = self.tombstones.pop_first() else {
            return;
        };
        self.tombstone_bytes -= tombstone.bytes();
        if let Some(index) = self.indexes.get_mut(usize::from(tombstone.entity.0)).filter(|_| sequence < self.base) {
            index.newest.remove(&tombstone.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::hub::voice::Voice;

    fn record(id: &str, size: usize) -> Record {
        let frame = Bytes::from(vec![b'x'; size]);
        Record {
            entity: EntityIndex(0),
            scopes: Scopes::All,
            matter: Matter::Change(Subject {
                kind: ChangeKind::Update,
                id: id.into(),
                key: id.into(),
                former: Former::Unknown,
                ever: Scopes::All,
                went_to: Scopes::None,
                object: frame.clone(),
                whole: true,
                added: None,
                parent: None,
                may_be_exception: false,
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
        };
        Log::new(limits, 1)
    }

    #[test]
    fn a_reader_that_fell_behind_is_told_so() {
        let mut log = log(2, usize::MAX);
        for id in ["a", "b", "c"] {
            log.append(Instant::now(), record(id, 1));
        }
        assert!(log.since(0).is_none(), "record 0 is gone");
        let rest: Vec<u64> = log.since(1).unwrap().map(|(sequence, _)| sequence).collect();
        assert_eq!(rest, [1, 2]);
        assert_eq!(log.since(3).unwrap().count(), 0, "the head reads nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_older_than_the_age_goes_with_the_next_record() {
        let mut log = log(10, usize::MAX);
        log.append(Instant::now(), record("a", 1));
        tokio::time::advance(Duration::from_secs(3601)).await;
        log.append(Instant::now(), record("b", 1));
        assert_eq!(log.base(), 1);
    }

    #[test]
    fn what_is_kept_to_tell_records_once_more_counts_and_goes_with_them() {
        let mut log = log(10, 4000);
        log.append(Instant::now(), record("a", 100));
        let before = log.size().1;
        let voice = Voice::new("events", "event");
        let object = Bytes::from(format!(r#"{{"id":"a","text":"{}"}}"#, "x".repeat(1000)));
        for _ in 0..2 {
            log.upsert(0, || voice.upsert(&object, true)).unwrap();
        }
        let after = log.size().1;
        assert!(after > before + 2000 && after < before + 2500, "said once, as add and update: {before} {after}");
        assert!(log.upsert(1, || voice.upsert(&object, true)).is_none(), "there is no such record");
        log.append(Instant::now(), record("b", 2000));
        assert_eq!(log.size(), (2, 2 * before + 1900), "no record has to go for it");
        log.append(Instant::now(), record("c", 1000));
        assert!(log.upsert(2, || voice.upsert(&object, true)).is_none(), "there is little room");
        assert_eq!(log.size().0, 3);
    }

    #[test]
    fn one_record_larger_than_the_log_is_still_told() {
        let mut log = log(10, 100);
        log.append(Instant::now(), record("a", 5000));
        assert_eq!(log.since(0).unwrap().count(), 1);
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
            matter: Matter::Change(Subject {
                kind,
                id: id.into(),
                key: id.into(),
                former: Former::Unknown,
                ever: Scopes::All,
                went_to: Scopes::None,
                object,
                whole: kind != ChangeKind::Update,
                added: None,
                parent: parent.map(Arc::from),
                may_be_exception: false,
            }),
        }
    }

    fn buried(log: &Log) -> Vec<(u64, String)> {
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
        assert_eq!(buried(&log), kept, "four at most");
        let ago = |seconds| Instant::now() - Duration::from_secs(seconds);
        assert_eq!([15, 25, 35, 500].map(|seconds| log.tombstones_since(ago(seconds))), [4, 3, 2, 1]);
        assert_eq!([5, 15, 500].map(|seconds| log.position(Instant::now(), Duration::from_secs(seconds))), [5, 4, 3]);
        // One is used again, of another the day is over.
        log.append(Instant::now(), change(ChangeKind::Add, "c", None));
        tokio::time::advance(Duration::from_secs(24 * 3600 - 25)).await;
        log.append(Instant::now(), change(ChangeKind::Add, "x", None));
        assert_eq!(buried(&log), [(3, "d".to_owned()), (4, "e".to_owned())]);
        assert_eq!(log.indexes[0].newest.len(), 3, "x, and two that are gone");
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
            log.unbury(EntityIndex(0), id, 4);
        }
        // Deleted since the store was asked.
        log.unbury(EntityIndex(0), "c", 2);
        let buried: Vec<&str> = log.tombstones(EntityIndex(0), 0..9).map(|(_, tombstone)| &*tombstone.id).collect();
        assert_eq!(buried, ["b", "c"]);
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
                prop_assert_eq!(log.head(), count as u64 + 1);
                prop_assert!(kept == 1 || (kept <= records && cost <= bytes));
                let sequences: Vec<u64> = log.since(log.base()).unwrap().map(|(s, _)| s).collect();
                prop_assert_eq!(sequences, (log.base()..log.head()).collect::<Vec<_>>());
                let (sequence, newest) = log.newest(EntityIndex(0), &id.to_string()).unwrap();
                prop_assert_eq!((sequence, newest.object.len()), (count as u64, *size));
                prop_assert!(log.indexes[0].newest.len() <= kept);
            }
        }
    }
}
