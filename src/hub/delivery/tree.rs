//! The order in which pages need the objects of a tree: each parent before its children, and deletions behind all, since
//! the client deletes with a task whatever it shows below that.

use std::{collections::HashSet, ops::Range, sync::Arc};

use crate::{
    change::ChangeKind,
    entity::EntityIndex,
    hub::{
        append::is_ring,
        core::Core,
        log::{Broadcast, Log, ObjectChange, Record},
    },
    sequence::Sequence,
};

/// Where a record stands among others that are sent together: sorted by this, each parent goes before its children.
pub(super) fn place(log: &Log, entity: EntityIndex, change: &ObjectChange) -> (bool, usize) {
    (change.kind == ChangeKind::Delete, log.ancestors(entity, change).count())
}

/// Which ancestors are sent before an object.
#[derive(Clone, Debug)]
pub(super) struct Above {
    /// Those that changed from here on, since pages may not know their places …
    pub(super) from: Sequence,
    /// … unless they are in this part of the log, which is sent in the order of the tree anyway.
    pub(super) besides: Range<Sequence>,
}

impl Above {
    /// The ancestors of an object that are to be sent before it, the highest first. What has been `sent` before with the same
    /// chunk is left out. One whose newest place `is_held` goes to the root for so long (true): pages have it where it was
    /// before, which may be below that object. What is above it does not matter then.
    pub(super) fn of<'l>(
        &self,
        log: &'l Log,
        entity: EntityIndex,
        change: &ObjectChange,
        is_held: impl Fn(Broadcast) -> bool,
        sent: &mut HashSet<Arc<str>>,
    ) -> Vec<(Sequence, &'l Record, bool)> {
        let mut above = Vec::new();
        for key in log.ancestors(entity, change) {
            let Some((at, record, ancestor)) = log.newest_record(entity, &key) else { continue };
            if ancestor.kind == ChangeKind::Delete || key == change.key {
                continue;
            }
            let is_held = is_held(record.broadcast);
            if is_held && (ancestor.kind == ChangeKind::Add || is_ring(log, entity, ancestor)) {
                break;
            }
            if (is_held || at >= self.from && !self.besides.contains(&at)) && sent.insert(key) {
                above.push((at, record, is_held));
            }
            if is_held {
                break;
            }
        }
        above.reverse();
        above
    }
}

/// The objects whose newest place `is_held`. Before a deletion they go to the root: a page may show them below what is deleted.
pub(super) fn moved_and_held<'l>(
    core: &Core,
    log: &'l Log,
    entity: EntityIndex,
    is_held: impl Fn(Broadcast) -> bool,
) -> impl Iterator<Item = (Sequence, &'l Record)> {
    let held = core.moved_and_held(entity).into_iter().filter_map(move |key| log.newest_record(entity, &key));
    let moved = held.filter(move |(_, record, change)| {
        change.kind == ChangeKind::Update && is_held(record.broadcast) && !is_ring(log, entity, change)
    });
    moved.map(|(at, record, _)| (at, record))
}
