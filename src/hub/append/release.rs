//! What was held is published once more, in its newest state, when its time has come.

use std::cmp::Reverse;

use bytes::Bytes;
use tokio::time::Instant;

use super::{
    super::{
        core::Core,
        log::{Broadcast, Log, ObjectChange, Record, RecordKind},
        settle::{HANGING, Held, HeldObject, Named, Until},
    },
    append_refresh,
    hold::is_ring,
    order::aside,
    plan::Appender,
};
use crate::{change::ChangeKind, entity::EntityIndex, lock::lock, scope::Scopes};

/// How soon it is looked again whether what an object names has been released.
const AGAIN: std::time::Duration = std::time::Duration::from_millis(100);

/// Publishes what need not be held any more; returns when to look next.
pub(crate) fn release(core: &Core, now: Instant) -> Option<Instant> {
    let firsts: Vec<EntityIndex> = lock(&core.settles).firsts().collect();
    let mut next: Option<Instant> = None;
    let mut has_published = false;
    for first in firsts {
        let mut log = lock(&core.log);
        let (mut due, later) = {
            let settles = lock(&core.settles);
            let held = &settles.of(first).held;
            if held.is_empty() {
                continue;
            }
            held.due(now, HANGING)
        };
        next = next.into_iter().chain(later).min();
        // Parents go before their children, links behind both, and deletions behind all.
        due.sort_by_cached_key(|(name, held)| place(core, &log, name, held));
        for (name, held) in due {
            match release_one(core, &mut log, &name, &held, now) {
                Outcome::Published => has_published = true,
                Outcome::Waits => next = next.into_iter().chain([now + AGAIN]).min(),
                Outcome::WaitsForQuiet => {}
            }
        }
    }
    if has_published {
        core.wake();
    }
    next
}

enum Outcome {
    Published,
    /// Something that it names is held still.
    Waits,
    WaitsForQuiet,
}

fn place(core: &Core, log: &Log, (entity, key): &Named, held: &HeldObject) -> (bool, bool, usize, Reverse<u64>) {
    let newest = log.newest(*entity, key).map(|(_, change)| change);
    let is_gone = newest.is_none_or(|change| change.kind == ChangeKind::Delete);
    let depth = newest.map_or(0, |change| log.ancestors(*entity, change).count());
    let is_link = core.encoder(*entity).parents_of.is_some();
    (is_gone, is_link != is_gone, depth, Reverse(u64::MAX - held.first.0))
}

/// Whether some page may not know the place of one of an object's ancestors.
fn may_be_unsettled(log: &Log, held: &Held, name: &Named, change: &ObjectChange) -> bool {
    let (entity, _) = name;
    let is_unplaced = log.unplaced(*entity, change.parents.first().cloned()).is_some();
    is_unplaced && held.has_unsettled_besides(name)
        || log.ancestors(*entity, change).any(|ancestor| held.is_unsettled(&(*entity, ancestor)))
}

fn release_one(core: &Core, log: &mut Log, name: &Named, held: &HeldObject, now: Instant) -> Outcome {
    let (entity, key) = name;
    let appender = Appender::new(core, *entity);
    let mut settles = lock(&core.settles);
    let settle = settles.of_mut(*entity);
    let Some((_, newest, change)) = log.newest_record(*entity, key) else {
        // The log was too short for it.
        settle.held.release(name);
        drop(settles);
        append_refresh(core, log, *entity, now, &Scopes::All);
        return Outcome::Published;
    };
    if change.kind != ChangeKind::Delete {
        let named = appender.named(change);
        let awaited: Vec<Until> = named.iter().filter_map(|named| Some(settle.held.get(named)?.until)).collect();
        let awaits_quiet = awaited.contains(&Until::Quiet);
        if !awaited.is_empty() && !awaits_quiet {
            return Outcome::Waits;
        }
        let first = log.change(held.first).map_or(change.kind, |(_, first)| first.kind);
        // What no page has is below nothing, and nothing is below it.
        let is_new = first == ChangeKind::Add && held.added.is_none_or(|added| added == held.broadcast);
        let is_node = appender.encoder.parents_of.is_none();
        let waits = awaits_quiet
            || is_node
                && (is_ring(log, *entity, change) || (!is_new && may_be_unsettled(log, &settle.held, name, change)));
        if waits {
            settle.held.put_off(name);
            settle.contend();
            core.settling.notify_one();
            return Outcome::WaitsForQuiet;
        }
    }
    let first = log.change(held.first).map(|(_, first)| first);
    let aside = match change.kind {
        ChangeKind::Delete => None,
        _ => aside(core, log, *entity, &mut settle.held, change, &newest.scopes),
    };
    let record = released(&appender, newest, change, first, (held, aside));
    settle.held.release(name);
    let (is_added, key) = (change.kind == ChangeKind::Add, key.clone());
    log.append(now, record);
    settle.published(now, log.end(), is_added, |known| *known == *key);
    Outcome::Published
}

/// The newest state of an object, for pages that know what was before its first held record.
fn released(
    appender: &Appender<'_>,
    newest: &Record,
    change: &ObjectChange,
    first: Option<&ObjectChange>,
    (held, aside): (&HeldObject, Option<Bytes>),
) -> Record {
    let kind = match (change.kind, first) {
        (ChangeKind::Delete, _) => ChangeKind::Delete,
        (_, Some(first)) if first.kind == ChangeKind::Update && held.added.is_none() => ChangeKind::Update,
        // It may be new to them.
        _ => ChangeKind::Add,
    };
    let object = String::from_utf8_lossy(&change.object);
    let event = match kind {
        ChangeKind::Delete => appender.encoder.encode_delete(&object, change.may_be_exception),
        kind => appender.encoder.encode_moved(kind, &object, aside),
    };
    let broadcast = match held.broadcast {
        Broadcast::HeldFrom(writer) => Broadcast::Only(writer),
        Broadcast::ToAll | Broadcast::AllBut(_) | Broadcast::Held | Broadcast::Only(_) => Broadcast::ToAll,
    };
    let prior = first.map_or_else(|| change.prior.clone(), |first| first.prior.clone());
    let change = ObjectChange { kind, prior, object: event.object, ..change.clone() };
    Record {
        entity: newest.entity,
        frame: event.frame,
        scopes: newest.scopes.clone(),
        broadcast,
        kind: RecordKind::Change(change),
    }
}
