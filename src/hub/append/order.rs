//! Tasks that have moved among their siblings: pages are sent them below another parent first.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use super::{
    super::{
        core::Core,
        log::{Broadcast, Log, ObjectChange, Record, RecordKind},
        settle::{Held, Named},
    },
    batch::Batch,
    plan::Appender,
};
use crate::{
    change::{Change, ChangeKind},
    entity::{EntityIndex, Place, ROOT},
    lock::lock,
    object::quoted,
    scope::Scopes,
    sequence::Sequence,
};

/// Tasks at the root that are looked at for one that another may stand below for a moment.
const MAX_LOOKED_AT: usize = 64;

impl Appender<'_> {
    /// The first of the two steps of a task that has moved, as far as the log knows; none where it has not.
    fn aside_of(&self, log: &Log, moved: &ObjectChange, scopes: &Scopes) -> Option<Bytes> {
        let place = moved.place.as_deref()?;
        let known = log.known(self.entity, &moved.key).map(|(_, known)| known);
        let known = known.filter(|known| known.kind != ChangeKind::Delete && moved.kind == ChangeKind::Update);
        let is_there = known.is_some_and(|known| {
            known.parents == moved.parents && known.place.as_ref().is_some_and(|known| known.index == place.index)
        });
        if is_there {
            return None;
        }
        let mut settles = lock(&self.core.settles);
        aside(self.core, log, self.entity, &mut settles.of_mut(self.entity).held, moved, scopes)
    }

    /// The record of a task, in two steps where it has moved.
    pub(super) fn with_steps(&self, log: &Log, change: &Change, record: Record, batch: &mut Batch<'_>) -> Record {
        let RecordKind::Change(moved) = &record.kind else { return record };
        let Some(place) = moved.place.as_deref() else { return record };
        if self.is_shift(log, moved, place, change, batch) {
            return record;
        }
        let Some(aside) = self.aside_of(log, moved, &record.scopes) else { return record };
        batch.moved += 1;
        let event = self.encoder.encode_moved(moved.kind, &String::from_utf8_lossy(&moved.object), Some(aside));
        let moved = ObjectChange { object: event.object, ..moved.clone() };
        Record { frame: event.frame, kind: RecordKind::Change(moved), ..record }
    }

    /// Whether a change gives a task another number only since the task that its write is about has moved. Pages count
    /// anew by themselves.
    fn is_shift(&self, log: &Log, moved: &ObjectChange, place: &Place, change: &Change, batch: &Batch<'_>) -> bool {
        if change.is_target || change.kind() != ChangeKind::Update || !batch.has_target() {
            return false;
        }
        log.known(self.entity, &moved.key).is_none_or(|(_, known)| {
            let is_near = |known: &Arc<Place>| known.index.abs_diff(place.index) <= 1;
            known.parents == moved.parents && known.place.as_ref().is_none_or(is_near)
        })
    }

    /// Whether a page that deletes this task may lose what hangs below another one: which has just stood below it, or below what
    /// goes with it, for a moment; or which that page has lost there by dragging it.
    pub(super) fn was_beside(&self, log: &Log, key: &str, now: Instant) -> bool {
        if !self.holds() {
            return false;
        }
        let with_it = log.descendants(self.entity, key).into_iter().chain([Arc::from(key)]);
        let (settles, overlap) = (lock(&self.core.settles), self.core.times.settle.overlap);
        let held = &settles.of(self.entity).held;
        with_it.into_iter().any(|key| held.was_beside(&(self.entity, key), now, overlap))
    }
}

/// The first of the two steps of a task: below another parent that every page has. `None` where no such parent is known.
pub(super) fn aside(
    core: &Core,
    log: &Log,
    entity: EntityIndex,
    held: &mut Held,
    moved: &ObjectChange,
    scopes: &Scopes,
) -> Option<Bytes> {
    let encoder = core.encoder(entity);
    let place = moved.place.as_deref()?;
    if !is_at_root(moved) {
        return Some(encoder.encode_aside(place, ROOT));
    }
    let below = other_at_root(core, log, entity, held, moved, scopes, Sequence::MAX)?;
    Some(encoder.encode_aside(place, &below))
}

pub(crate) fn is_at_root(change: &ObjectChange) -> bool {
    change.parents.first().is_none_or(|parent| **parent == *ROOT)
}

/// The id of a task at the root, other than this one, that all pages have which have this one, as JSON text: this one is to
/// stand below it for a moment. Where a user has just moved that task below this one, the page would show a ring. So it is the one
/// that has not changed for the longest time, and not since `before`.
pub(crate) fn other_at_root(
    core: &Core,
    log: &Log,
    entity: EntityIndex,
    held: &mut Held,
    moved: &ObjectChange,
    scopes: &Scopes,
    before: Sequence,
) -> Option<String> {
    let is_everywhere = |key: &&Arc<str>| {
        let name: Named = (entity, (*key).clone());
        **key != moved.key && held.get(&name).is_none() && !held.is_unsettled(&name)
    };
    let others = log.children_of(entity, ROOT).filter(is_everywhere).take(MAX_LOOKED_AT);
    let others = others
        .filter_map(|key| log.newest_record(entity, key))
        .filter(|(_, record, _)| record.shows_object() && record.scopes == *scopes && is_broadcast(record));
    let (_, _, other) = others.min_by_key(|(at, ..)| *at).filter(|(at, ..)| *at < before)?;
    held.stand_beside((entity, other.key.clone()), Instant::now(), core.times.settle.overlap);
    Some(quoted(&other.id))
}

/// Whether no page waits for a record.
pub(crate) fn is_broadcast(record: &Record) -> bool {
    matches!(record.broadcast, Broadcast::ToAll | Broadcast::Only(_))
}
