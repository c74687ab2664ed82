//! Tasks that have moved among their siblings: pages are sent them below another parent first.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    super::{
        encoder::EntityEncoder,
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
        aside(self.encoder, log, self.entity, &mut settles.of_mut(self.entity).held, moved, scopes)
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

    /// Whether another task may have stood below this one for a moment, on pages that do not have it any more.
    pub(super) fn was_beside(&self, key: &str) -> bool {
        self.encoder.order_key.is_some()
            && lock(&self.core.settles).of(self.entity).held.was_beside(&(self.entity, key.into()))
    }
}

/// The first of the two steps of a task: below another parent that every page has. `None` where no such parent is known.
pub(super) fn aside(
    encoder: &EntityEncoder,
    log: &Log,
    entity: EntityIndex,
    held: &mut Held,
    moved: &ObjectChange,
    scopes: &Scopes,
) -> Option<Bytes> {
    let place = moved.place.as_deref()?;
    if !is_at_root(moved) {
        return Some(encoder.encode_aside(place, ROOT));
    }
    let (key, id) = other_at_root(log, entity, held, moved, scopes)?;
    held.stand_beside((entity, key), log.end());
    Some(encoder.encode_aside(place, &quoted(&id)))
}

pub(crate) fn is_at_root(change: &ObjectChange) -> bool {
    change.parents.first().is_none_or(|parent| **parent == *ROOT)
}

/// A task at the root, other than this one, that all pages have which have this one; with its id. One with children is
/// preferred: a page may take a task without any for one of another type once something stands below it.
pub(crate) fn other_at_root(
    log: &Log,
    entity: EntityIndex,
    held: &Held,
    moved: &ObjectChange,
    scopes: &Scopes,
) -> Option<(Arc<str>, Arc<str>)> {
    let mut found = None;
    for key in log.children_of(entity, ROOT).take(MAX_LOOKED_AT) {
        let Some((_, record, other)) = log.newest_record(entity, key) else { continue };
        let name: Named = (entity, key.clone());
        let is_everywhere = other.kind != ChangeKind::Delete
            && record.scopes == *scopes
            && is_broadcast(record)
            && held.get(&name).is_none()
            && !held.is_unsettled(&name);
        if *key == moved.key || !is_everywhere {
            continue;
        }
        let has_children = log.children_of(entity, key).next().is_some();
        if has_children || found.is_none() {
            found = Some((key.clone(), other.id.clone()));
        }
        if has_children {
            break;
        }
    }
    found
}

/// Whether no page waits for a record.
pub(crate) fn is_broadcast(record: &Record) -> bool {
    matches!(record.broadcast, Broadcast::ToAll | Broadcast::Only(_))
}
