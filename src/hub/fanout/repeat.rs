//! What is due to be resent to everyone.

use tokio::time::Instant;

use super::super::{
    append,
    core::Core,
    delivery::batch::{Repeat, Resent},
    settle::{Due, Named},
};
use crate::{entity::EntityIndex, lock::lock, scope::Scopes, sequence::Sequence};

/// What has settled, and when to look next.
pub(super) fn settled(core: &Core, now: Instant) -> (Vec<Repeat>, Option<Instant>) {
    let (mut repeats, mut next) = (Vec::new(), None);
    let groups: Vec<Vec<EntityIndex>> = {
        let settles = lock(&core.settles);
        settles.firsts().filter(|first| *first != core.resync).map(|first| settles.members(first).collect()).collect()
    };
    for group in groups {
        let mut log = lock(&core.log);
        let mut settles = lock(&core.settles);
        let settle = settles.of_mut(group[0]);
        let start = group.iter().map(|entity| log.start(*entity)).fold(Sequence::ZERO, Sequence::max);
        let due = settle.repeat(now, start..log.end(), &core.times.settle);
        next = next.into_iter().chain(settle.due(now, &core.times.settle)).min();
        let mut is_trimmed = false;
        for Due { held_before, .. } in &due {
            let is_deletion = |(entity, key): &Named| log.tombstone(*entity, key).is_some();
            let resent = settle.held.resent(*held_before, is_deletion);
            for (entity, key) in resent {
                let Some((_, change)) = log.newest(entity, &key) else {
                    is_trimmed |= log.tombstone(entity, &key).is_none();
                    continue;
                };
                // What closes a ring would make pages hang.
                let is_ring = core.encoder(entity).is_tree() && append::is_ring(&log, entity, change);
                if !is_ring {
                    log.release(entity, &key);
                }
            }
        }
        drop(settles);
        if is_trimmed {
            group.iter().for_each(|entity| append::append_refresh(core, &mut log, *entity, now, &Scopes::All));
        }
        for Due { range, is_last, known_before, .. } in due {
            for &entity in &group {
                log.tombstones_settled(entity, range.clone());
                let range = range.clone();
                repeats.push(Repeat { entity, what: Resent::Settled { range, is_last, known_before } });
            }
        }
    }
    (repeats, next)
}

/// The deletions that all pages are to be reminded of, and when to look next.
pub(super) fn deletions(core: &Core, now: Instant) -> (Vec<Repeat>, Option<Instant>) {
    if let Some(&from) = core.reminds_from.get().filter(|from| now < **from) {
        return (Vec::new(), Some(from));
    }
    let (mut repeats, mut next) = (Vec::new(), None);
    // No form keeps a page from applying that somebody has left.
    for entity in core.entities().filter(|entity| !core.encoder(*entity).is_presence) {
        let log = lock(&core.log);
        let from = core.reimported_before(&log, entity);
        let due = lock(&core.reminders)[usize::from(entity.0)].due(&log, entity, &core.times.reminders, from, now);
        drop(log);
        next = next.into_iter().chain(due.next).min();
        if !due.sequences.is_empty() {
            repeats.push(Repeat { entity, what: Resent::Deletions(due.sequences.into()) });
        }
    }
    (repeats, next)
}
