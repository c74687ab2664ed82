//! The order in which pages need the objects of a tree: each parent before its children, and deletions behind all, since
//! the client deletes with a task whatever it shows below that.

use std::{collections::HashSet, ops::Range, sync::Arc};

use crate::{
    change::ChangeKind,
    entity::EntityIndex,
    hub::{
        core::Core,
        log::{Log, ObjectChange, Record},
    },
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

/// Whether an object was added from `known_before` on, and so was all that hangs below it. A page that was saving other things
/// when its own new object was broadcast may hold it twice. What is taken away with it must be sent behind it: what hangs below
/// it, known whole, from `position` on, and the links of all these, within the range that is resent.
pub(super) fn is_new(
    (core, log): (&Core, &Log),
    entity: EntityIndex,
    change: &ObjectChange,
    known_before: Sequence,
    (resent, position): (&Range<Sequence>, Sequence),
) -> bool {
    // What belongs to an object from before a refresh, the store alone knows.
    let from = known_before.max(log.refreshed(entity));
    let is_new = |change: &ObjectChange| change.added.is_some_and(|added| added >= from);
    let is_resent = |at: Sequence| resent.contains(&at) && at >= position;
    let is_known_new = |key: &Arc<str>| {
        log.newest(entity, key).is_some_and(|(at, below)| is_resent(at) && below.whole && is_new(below))
    };
    let has_links_resent = |key: &Arc<str>| {
        core.encoder(entity).named_by.is_none_or(|links| {
            let is_resent = |link: &Arc<str>| log.newest(links, link).is_some_and(|(at, _)| resent.contains(&at));
            log.children_of(links, key).all(is_resent)
        })
    };
    if !is_new(change) || !has_links_resent(&change.key) {
        return false;
    }
    log.descendants(entity, &change.key).iter().all(|key| is_known_new(key) && has_links_resent(key))
}
