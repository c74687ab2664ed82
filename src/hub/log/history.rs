//! What the log knows of an object: its newest record, its tombstone, and what it was before.

use std::{collections::HashSet, iter, ops::Range, sync::Arc};

use bytes::Bytes;

use super::{
    record::{ObjectChange, PriorObject, PriorState, Record},
    store::Log,
    tombstones::Tombstone,
};
use crate::{change::ChangeKind, entity::EntityIndex, scope::Scopes, sequence::Sequence};

/// Versions of one object that are compared to find out what a page may be showing. The bound is needed because any page
/// may change an object often.
const MAX_VERSIONS: usize = 64;

/// Ancestors of an object that are looked at. The bound is needed because any page may nest objects deeply.
const MAX_DEPTH: usize = 64;

/// Objects of one tree whose parents are known. The bound is needed because any page may create objects without end.
const MAX_PLACES: usize = 65_536;

/// What a page may show of an object, and which pages those are.
#[derive(Debug)]
pub(crate) struct PossiblyShown {
    /// Pages that received what was published in these scopes …
    pub(crate) scopes: Scopes,
    /// … at this place of the log; `None` before its beginning.
    pub(crate) at: Option<Sequence>,
    /// They all show it.
    pub(crate) is_sure: bool,
    /// The object as it was, where that is known.
    pub(crate) object: Option<Bytes>,
}

impl PossiblyShown {
    fn unknown(scopes: &Scopes, at: Option<Sequence>) -> Self {
        Self { scopes: scopes.clone(), at, is_sure: false, object: None }
    }

    /// All pages with these scopes have something of it.
    pub(crate) fn something(scopes: &Scopes, at: Sequence) -> Self {
        Self { is_sure: true, ..Self::unknown(scopes, Some(at)) }
    }
}

impl Log {
    /// The newest change of an object that is still kept, and its sequence number.
    pub(crate) fn newest(&self, entity: EntityIndex, key: &str) -> Option<(Sequence, &ObjectChange)> {
        self.newest_record(entity, key).map(|(sequence, _, change)| (sequence, change))
    }

    /// The same, with the record of the change.
    pub(crate) fn newest_record(&self, entity: EntityIndex, key: &str) -> Option<(Sequence, &Record, &ObjectChange)> {
        let sequence = *self.index(entity).newest.get(key)?;
        self.change(sequence).map(|(record, change)| (sequence, record, change))
    }

    /// The newest record of an object, where no refresh came since.
    pub(crate) fn current_record(&self, entity: EntityIndex, key: &str) -> Option<(Sequence, &Record)> {
        let (sequence, record, _) = self.newest_record(entity, key)?;
        (sequence >= self.index(entity).refreshed).then_some((sequence, record))
    }

    /// The changes that are the newest of their objects, of one entity.
    pub(crate) fn newest_of(&self, entity: EntityIndex) -> impl Iterator<Item = (Sequence, &Record, &ObjectChange)> {
        let newest = self.index(entity).newest.values();
        newest.filter_map(|&sequence| self.change(sequence).map(|(record, change)| (sequence, record, change)))
    }

    /// The newest change of an object, unless the entity was refreshed since: then what the object is now is unknown.
    pub(crate) fn known(&self, entity: EntityIndex, key: &str) -> Option<(Sequence, &ObjectChange)> {
        self.newest(entity, key).filter(|(sequence, _)| *sequence >= self.refreshed(entity))
    }

    /// The scopes in which an object or its deletion was published last, and whether that was only claimed.
    pub(crate) fn published_scopes(&self, entity: EntityIndex, key: &str) -> Option<(&Scopes, bool)> {
        match self.newest_record(entity, key) {
            Some((_, record, change)) => Some((&record.scopes, change.is_claim)),
            None => self.tombstone(entity, key).map(|(_, tombstone)| (&tombstone.scopes, tombstone.is_claim)),
        }
    }

    /// Whether some claims have been kept apart from others about the same id.
    pub(crate) fn has_claims_apart(&self, entity: EntityIndex) -> bool {
        self.index(entity).has_claims_apart
    }

    /// True where the log holds a change that published an object of an entity in other scopes than before.
    pub(crate) fn has_moves(&self, entity: EntityIndex) -> bool {
        self.index(entity).moved > self.oldest()
    }

    /// Whether a message was published from a sequence number on.
    pub(crate) fn has_messages_since(&self, entity: EntityIndex, from: Sequence) -> bool {
        self.index(entity).messages > from
    }

    /// True when nothing newer than this record is known of its object, nor was the entity refreshed since.
    pub(crate) fn is_newest(&self, entity: EntityIndex, key: &str, sequence: Sequence) -> bool {
        let index = self.index(entity);
        index.newest.get(key) == Some(&sequence) && sequence >= index.refreshed
    }

    /// Whether an object was published from `sequence` on, or the log does not reach back to that.
    pub(crate) fn may_have_changed_since(&self, entity: EntityIndex, key: &str, sequence: Sequence) -> bool {
        self.index(entity).newest.get(key).is_some_and(|newest| *newest >= sequence) || self.start(entity) > sequence
    }

    /// True when what was published of an object from `sequence` on is all there is to know of it.
    pub(crate) fn is_whole_since(&self, entity: EntityIndex, key: &str, sequence: Sequence) -> bool {
        let index = self.index(entity);
        let is_new = |newest: &Sequence| *newest >= sequence.max(index.refreshed);
        index.newest.get(key).is_some_and(is_new) && self.newest(entity, key).is_none_or(|(_, change)| change.whole)
    }

    /// The newest change of an object that was published from `sequence` on and shows that the object exists. A part of
    /// an object shows nothing: it is what a page wanted the object to be.
    pub(crate) fn there_since(
        &self,
        entity: EntityIndex,
        key: &str,
        sequence: Sequence,
    ) -> Option<(&Record, &ObjectChange)> {
        let (newest, record, change) = self.newest_record(entity, key)?;
        let is_there = newest >= sequence.max(self.refreshed(entity)) && change.kind != ChangeKind::Delete;
        (is_there && change.whole).then_some((record, change))
    }

    /// The newest change of an object, where that was published from `sequence` on and is only a part of the object.
    pub(crate) fn part_since(&self, entity: EntityIndex, key: &str, sequence: Sequence) -> Option<(Sequence, &Record)> {
        let (newest, record, change) = self.newest_record(entity, key)?;
        (newest >= sequence && !change.whole).then_some((newest, record))
    }

    /// What pages that have received everything before `from` may show of an object besides its newest state, which is
    /// this change: newest first.
    pub(crate) fn shown_since<'l>(
        &'l self,
        (record, newest): (&'l Record, &'l ObjectChange),
        from: Sequence,
    ) -> impl Iterator<Item = PossiblyShown> + 'l {
        let mut prior = Some(&newest.prior);
        let mut compared = 0;
        iter::from_fn(move || {
            loop {
                let version = match prior.take()? {
                    PriorState::Unknown => return Some(PossiblyShown::unknown(&record.scopes, newest.added)),
                    PriorState::Absent => return None,
                    PriorState::Known(version) => &**version,
                };
                compared += 1;
                let earlier = version.at.filter(|at| *at >= from).map(|at| self.change(at));
                // Too many; or its record was dropped, and with it what was before.
                if compared > MAX_VERSIONS || matches!(earlier, Some(None)) {
                    return Some(PossiblyShown::unknown(&version.ever, version.at));
                }
                prior = earlier.flatten().map(|(_, change)| &change.prior);
                let (is_sure, object) = match &version.was {
                    PriorObject::Gone => continue,
                    PriorObject::Object(object) => (true, Some(object.clone())),
                    PriorObject::Something => (true, None),
                    PriorObject::Doubtful => (false, None),
                };
                return Some(PossiblyShown { scopes: version.scopes.clone(), at: version.at, is_sure, object });
            }
        })
    }

    /// The keys of the objects known to be deleted with this one, its descendants not among them.
    pub(crate) fn children(&self, entity: EntityIndex, key: &str) -> Vec<Arc<str>> {
        self.index(entity).children.get(key).into_iter().flatten().cloned().collect()
    }

    /// The same, one by one.
    pub(crate) fn children_of(&self, entity: EntityIndex, key: &str) -> impl Iterator<Item = &Arc<str>> {
        self.index(entity).children.get(key).into_iter().flatten()
    }

    /// The keys of the objects known to be deleted with this one, each before its parent.
    pub(crate) fn descendants(&self, entity: EntityIndex, key: &str) -> Vec<Arc<str>> {
        let children = &self.index(entity).children;
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

    /// The key of the parent of an object, of the parent of that, and so on, as far as the log knows.
    pub(crate) fn ancestors<'l>(
        &'l self,
        entity: EntityIndex,
        change: &'l ObjectChange,
    ) -> impl Iterator<Item = Arc<str>> + 'l {
        let parent = change.parents.first().cloned();
        iter::successors(parent, move |key| self.place(entity, key)?).take(MAX_DEPTH)
    }

    /// The first ancestor of an object whose own parent the log does not know.
    pub(crate) fn unplaced(&self, entity: EntityIndex, parent: Option<Arc<str>>) -> Option<Arc<str>> {
        let mut above = parent;
        for _ in 0..MAX_DEPTH {
            let key = above?;
            match self.place(entity, &key) {
                Some(parent) => above = parent,
                None => return Some(key),
            }
        }
        None
    }

    /// The key of the parent of an object, where that is known.
    pub(crate) fn place(&self, entity: EntityIndex, key: &str) -> Option<Option<Arc<str>>> {
        match self.newest(entity, key) {
            Some((_, change)) => Some(change.parents.first().cloned()),
            None => self.index(entity).places.get(key).cloned(),
        }
    }

    /// Notes the parent of an object in a tree.
    pub(crate) fn set_place(&mut self, entity: EntityIndex, key: &Arc<str>, parent: Option<Arc<str>>) {
        let places = &mut self.indexes[usize::from(entity.0)].places;
        if places.len() >= MAX_PLACES && !places.contains_key(key) {
            places.clear();
        }
        places.insert(key.clone(), parent);
    }

    /// The same of an object that was read from the store when the log stood at `read_at`.
    pub(crate) fn set_stored_place(
        &mut self,
        entity: EntityIndex,
        key: &Arc<str>,
        parent: Option<Arc<str>>,
        read_at: Sequence,
    ) {
        let is_newer = self.index(entity).newest.get(key).is_some_and(|newest| *newest >= read_at);
        if !is_newer && self.start(entity) <= read_at {
            self.set_place(entity, key, parent);
        }
    }

    /// An object was deleted.
    pub(crate) fn forget_place(&mut self, entity: EntityIndex, key: &str) {
        self.indexes[usize::from(entity.0)].places.remove(key);
    }

    /// Behind the latest refresh of all scopes: what was published before this may be outdated.
    pub(crate) fn refreshed(&self, entity: EntityIndex) -> Sequence {
        self.index(entity).refreshed
    }

    /// The same, with the refreshes of these scopes.
    pub(crate) fn refreshed_for(&self, entity: EntityIndex, scopes: &Scopes) -> Sequence {
        let index = self.index(entity);
        let of_scopes = index.refreshed_scopes.iter().filter(|(_, refreshed)| refreshed.intersects(scopes));
        of_scopes.map(|(behind, _)| *behind).fold(index.refreshed, Sequence::max)
    }

    /// The tombstone of an object, where its deletion is the last that is known of it.
    pub(crate) fn tombstone(&self, entity: EntityIndex, key: &str) -> Option<(Sequence, &Tombstone)> {
        let index = self.index(entity);
        let sequence = index.newest.get(key).copied().filter(|sequence| *sequence >= index.refreshed)?;
        index.tombstones.by_sequence.get(&sequence).map(|tombstone| (sequence, tombstone))
    }

    /// The tombstone of this sequence number, for as long as it is in force.
    pub(crate) fn tombstone_at(&self, entity: EntityIndex, sequence: Sequence) -> Option<&Tombstone> {
        self.index(entity).tombstones.by_sequence.get(&sequence)
    }

    /// The tombstones of an entity, by the sequence numbers of the deletions.
    pub(crate) fn tombstones(
        &self,
        entity: EntityIndex,
        within: Range<Sequence>,
    ) -> impl DoubleEndedIterator<Item = (Sequence, &Tombstone)> {
        self.index(entity).tombstones.range(within)
    }

    /// Notes that these deletions have been resent to every page that was open.
    pub(crate) fn tombstones_settled(&mut self, entity: EntityIndex, within: Range<Sequence>) {
        let tombstones = &mut self.indexes[usize::from(entity.0)].tombstones;
        tombstones.by_sequence.range_mut(within).for_each(|(_, tombstone)| tombstone.has_settled = true);
    }

    /// Removes the tombstone of an object that was deleted before `before` and is in the store again.
    pub(crate) fn remove_tombstone(&mut self, entity: EntityIndex, key: &str, before: Sequence) {
        let index = &mut self.indexes[usize::from(entity.0)];
        let Some(sequence) = index.newest.get(key).copied().filter(|sequence| *sequence < before) else { return };
        if index.tombstones.remove(sequence).is_some() && !self.records.contains_key(&sequence) {
            index.newest.remove(key);
        }
    }

    /// Forgets which record is the newest of an object.
    pub(crate) fn forget(&mut self, entity: EntityIndex, key: &str) {
        let index = &mut self.indexes[usize::from(entity.0)];
        let Some(sequence) = index.newest.remove(key) else { return };
        index.tombstones.remove(sequence);
        if let Some(change) = self.records.get(&sequence).and_then(|stored| stored.record.change()) {
            index.remove_child(change);
        }
    }
}
