//! The order in which pages need the objects of a tree: each parent before its children, and deletions behind all, since
//! the client deletes with a task whatever it shows below that.

use std::{collections::HashSet, sync::Arc};

use crate::{
    change::ChangeKind,
    entity::EntityIndex,
    hub::log::{Log, ObjectChange, Record},
    sequence::Sequence,
};

/// Where a record stands among others that are sent together: sorted by this, each parent goes before its children.
pub(super) fn place(log: &Log, entity: EntityIndex, change: &ObjectChange) -> (bool, usize) {
    (change.kind == ChangeKind::Delete, log.ancestors(entity, change).count())
}

/// The ancestors of an object that are to be sent before it, the highest first: those that changed after it, and so stand
/// behind it in the log. What has been `sent` before with the same chunk is left out.
pub(super) fn ancestors_behind<'l>(
    log: &'l Log,
    entity: EntityIndex,
    (sequence, change): (Sequence, &ObjectChange),
    from: Sequence,
    sent: &mut HashSet<Arc<str>>,
) -> Vec<(Sequence, &'l Record)> {
    let mut behind = Vec::new();
    for key in log.ancestors(entity, change) {
        let Some((at, record, ancestor)) = log.newest_record(entity, &key) else { break };
        let is_there = ancestor.kind != ChangeKind::Delete && at >= from && key != change.key;
        if is_there && at > sequence && sent.insert(key) {
            behind.push((at, record));
        }
    }
    behind.reverse();
    behind
}

/// Whether an object was added from a sequence number on, and so was all that hangs below it, which is known whole. A page
/// that was saving other things when its own new object was broadcast may hold it twice.
pub(super) fn is_new(log: &Log, entity: EntityIndex, change: &ObjectChange, from: Sequence) -> bool {
    // What belongs to an object from before a refresh, the store alone knows.
    let from = from.max(log.refreshed(entity));
    let is_new = |change: &ObjectChange| change.added.is_some_and(|added| added >= from);
    let is_known_new = |key: Arc<str>| log.newest(entity, &key).is_some_and(|(_, below)| below.whole && is_new(below));
    is_new(change) && log.descendants(entity, &change.key).into_iter().all(is_known_new)
}
