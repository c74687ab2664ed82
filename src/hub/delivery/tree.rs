//! The order in which pages need the objects of a tree: each parent before its children, and deletions behind all, since
//! the client deletes with a task whatever it shows below that.

use std::{collections::HashSet, sync::Arc};

use crate::{
    change::ChangeKind,
    entity::EntityIndex,
    hub::log::{Broadcast, Log, ObjectChange, Owner, Record},
    sequence::Sequence,
};

/// Where a record stands among others that are sent together: sorted by this, each parent goes before its children.
pub(super) fn place(log: &Log, entity: EntityIndex, change: &ObjectChange) -> (bool, usize) {
    (change.kind == ChangeKind::Delete, log.ancestors(entity, change).count())
}

/// The ancestors of an object that are to be sent before it, the highest first: those that stand behind it in the log, since
/// they changed after it, or before the place at which this chunk begins, since its page may have read its list meanwhile.
/// What has been `sent` before with the same chunk is left out. One whose newest place is held goes to the root for so long
/// (true), and what is above it does not matter then.
pub(super) fn ancestors_to_send<'l>(
    log: &'l Log,
    entity: EntityIndex,
    (sequence, change): (Sequence, &ObjectChange),
    (from, begin, owner): (Sequence, Sequence, Option<Owner>),
    sent: &mut HashSet<Arc<str>>,
) -> Vec<(Sequence, &'l Record, bool)> {
    let mut above = Vec::new();
    for key in log.ancestors(entity, change) {
        let Some((at, record, ancestor)) = log.newest_record(entity, &key) else { continue };
        let is_there = ancestor.kind != ChangeKind::Delete && at >= from && key != change.key;
        let is_held = is_there && record.broadcast.is_held_from(owner);
        if is_held && ancestor.kind == ChangeKind::Add {
            break;
        }
        if is_there && (is_held || at > sequence || at < begin) && sent.insert(key) {
            above.push((at, record, is_held));
        }
        if is_held {
            break;
        }
    }
    above.reverse();
    above
}

/// The nearest ancestor of an object whose newest place is held from all pages: they have it where it was before, which may be
/// below that object.
pub(super) fn held_ancestor<'l>(
    log: &'l Log,
    entity: EntityIndex,
    change: &ObjectChange,
) -> Option<(Sequence, &'l Record)> {
    let records = log.ancestors(entity, change).filter_map(|key| log.newest_record(entity, &key));
    let mut held =
        records.filter(|(_, record, ancestor)| record.broadcast == Broadcast::Held && *ancestor.key != *change.key);
    held.next().filter(|(_, _, ancestor)| ancestor.kind == ChangeKind::Update).map(|(at, record, _)| (at, record))
}
