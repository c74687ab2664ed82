//! Which records of a tree of objects are held when they are published, and until when.

use std::sync::Arc;

use tokio::time::Instant;

use super::{
    super::{
        log::{Broadcast, Log, ObjectChange, Record, RecordKind},
        settle::{Named, Until},
    },
    batch::{Batch, Withheld, WriteContext},
    plan::Appender,
};
use crate::{
    change::{Change, ChangeKind, Drag},
    entity::EntityIndex,
    lock::lock,
    scope::Scopes,
};

impl Appender<'_> {
    /// Whether pages hang on the order in which this entity's changes are broadcast.
    pub(super) fn holds(&self) -> bool {
        self.encoder.widget.family().is_some() && !self.encoder.is_plain
    }

    /// Which pages receive a record of a change as it is published. `is_left`: of a deletion, a page may still show under
    /// what is deleted what was moved away from there.
    pub(super) fn hold(
        &self,
        log: &Log,
        now: Instant,
        record: &Record,
        write: &WriteContext,
        (is_left, withheld, sent): (bool, Option<Withheld>, &Change),
    ) -> Broadcast {
        if self.encoder.skips_writer {
            return write.writer.map_or(Broadcast::ToAll, Broadcast::AllBut);
        }
        if !self.holds() {
            return Broadcast::ToAll;
        }
        let change = match &record.kind {
            RecordKind::Change(change) => change,
            // Pages show an error at an update of what they have deleted.
            RecordKind::Unconfirmed(_) => return Broadcast::Held,
            RecordKind::Message(_) | RecordKind::Refresh => return Broadcast::ToAll,
        };
        let mut settles = lock(&self.core.settles);
        let settle = settles.of_mut(self.entity);
        let (name, at) = ((self.entity, change.key.clone()), log.end());
        let is_node = self.encoder.parents_of.is_none();
        let soon = now + self.core.times.settle.hold;
        let answered = write.number.map_or(Until::At(soon), Until::Answered);
        let known = log.known(self.entity, &change.key).map(|(_, known)| known);
        let known = known.filter(|known| known.kind != ChangeKind::Delete);
        let is_new_here = known.is_none() && change.kind == ChangeKind::Update;
        let place = known.map(|known| known.parents.first().cloned()).or_else(|| log.place(self.entity, &change.key));
        if sent.is_refused {
            settle.held.unsettle(name.clone(), at);
            settle.contend();
        }
        // A new object is often sent with a parent that does not exist yet.
        let is_elsewhere = |below: &&str| {
            let is_gone = || log.tombstone(self.entity, below).is_some();
            !change.parents.iter().any(|it| **it == **below) && (change.kind != ChangeKind::Add || is_gone())
        };
        if let Some(below) = sent.shown_below.as_deref().filter(is_elsewhere) {
            settle.held.unsettle(name.clone(), at);
            settle.held.leave((self.entity, below.into()), name.clone(), at);
            settle.contend();
        }
        // Pages have deleted it, and show an error at an update alone.
        let is_back = change.kind == ChangeKind::Update && log.tombstone(self.entity, &change.key).is_some();
        if let Some(parent) = change.parents.first().filter(|_| is_node && sent.drag == Drag::Detached) {
            // Its page has lost it, and what hangs below it, until it is sent this.
            let (then, overlap) = (now + self.core.times.settle.hold, self.core.times.settle.overlap);
            settle.held.stand_beside((self.entity, parent.clone()), then, overlap);
        }
        let mut writer = None;
        let own = match change.kind {
            ChangeKind::Add => {
                settle.held.unsettle(name.clone(), at);
                writer = write.writer;
                (write.number.is_some() || settle.is_written()).then_some(answered)
            }
            ChangeKind::Delete if is_left => {
                // With what that hung below, pages delete it too.
                if let Some(parent) = place.flatten() {
                    settle.held.leave((self.entity, parent), name.clone(), at);
                }
                Some(Until::Quiet)
            }
            ChangeKind::Delete => {
                // Where it stood does not matter any more.
                settle.held.needs_no_quiet(&name, now);
                is_node.then_some(answered)
            }
            ChangeKind::Update if withheld == Some(Withheld::NoEnd) => return Broadcast::Held,
            ChangeKind::Update if withheld == Some(Withheld::Ring) => Some(Until::Quiet),
            ChangeKind::Update if is_back => Some(answered),
            ChangeKind::Update if !is_node => None,
            ChangeKind::Update => match place {
                Some(parent) if parent == change.parents.first().cloned() => {
                    (sent.drag == Drag::Detached).then_some(answered)
                }
                Some(parent) => {
                    settle.held.unsettle(name.clone(), at);
                    if let Some(parent) = parent {
                        settle.held.leave((self.entity, parent), name.clone(), at);
                    }
                    Some(answered)
                }
                // It may have been somewhere else before.
                None if sent.drag != Drag::None => {
                    settle.held.unsettle(name.clone(), at);
                    settle.held.leave_something(at);
                    (sent.drag != Drag::Unknown).then_some(answered)
                }
                None => None,
            },
        };
        let own = own.or_else(|| {
            let is_below = |ancestor| settle.held.is_unsettled(&(self.entity, ancestor));
            let may_be_below = is_node && is_new_here && log.ancestors(self.entity, change).any(is_below);
            may_be_below.then_some(Until::Quiet)
        });
        let named = self.named(change);
        // A page may show what it stands below, also further up, below it.
        let above = (is_node && change.kind == ChangeKind::Update).then(|| log.ancestors(self.entity, change).skip(1));
        let above = above.into_iter().flatten().map(|ancestor| (self.entity, ancestor));
        let waits = named.iter().cloned().chain(above).find_map(|name| settle.held.get(&name));
        let follows = waits.or_else(|| settle.held.get(&name)).cloned();
        let until = match (own, &follows) {
            (Some(own), _) => own,
            (None, Some(_)) => Until::At(now),
            (None, None) => return Broadcast::ToAll,
        };
        if own.is_none() {
            writer = follows.and_then(|held| match held.broadcast {
                Broadcast::HeldFrom(owner) => Some(owner),
                Broadcast::ToAll | Broadcast::AllBut(_) | Broadcast::Held | Broadcast::Only(_) => None,
            });
        }
        if until == Until::Quiet {
            settle.contend();
        }
        let broadcast = settle.held.hold(name, at, until, writer, (change.kind == ChangeKind::Add || is_back, now));
        self.core.settling.notify_one();
        broadcast
    }

    /// Whether the page that made a write has lost what it shows below a deleted object: with this one all that hangs below
    /// it, and the links of these. Where that deletion is not broadcast yet, it follows what is resent at a quiet moment.
    pub(super) fn is_lost(&self, log: &Log, sent: &Change) -> bool {
        let Some(below) = sent.shown_below.as_deref().filter(|_| self.holds()) else { return false };
        if log.tombstone(self.entity, below).is_none() {
            return false;
        }
        let mut settles = lock(&self.core.settles);
        let settle = settles.of_mut(self.entity);
        let is_held = settle.held.get(&(self.entity, below.into())).is_some();
        if is_held {
            let is_deletion = |(entity, key): &Named| log.tombstone(*entity, key).is_some();
            settle.held.put_off_where(is_deletion);
            settle.contend();
        }
        !is_held
    }

    /// Why a record is not broadcast although its change is published.
    pub(super) fn withheld(&self, log: &Log, record: &Record) -> Option<Withheld> {
        let change = record.change().filter(|change| self.holds() && change.kind != ChangeKind::Delete)?;
        let is_link = self.encoder.parents_of.is_some();
        let is_gone = |(of, end): &Named| log.tombstone(*of, end).is_some();
        match is_link {
            // Pages hang.
            false => is_ring(log, self.entity, change).then_some(Withheld::Ring),
            // Pages throw.
            true => {
                (change.kind == ChangeKind::Update && self.named(change).iter().any(is_gone)).then_some(Withheld::NoEnd)
            }
        }
    }

    /// The objects that this one names.
    pub(super) fn named(&self, change: &ObjectChange) -> Vec<Named> {
        let of = self.encoder.parents_of.unwrap_or(self.entity);
        change.parents.iter().map(|parent| (of, parent.clone())).collect()
    }

    /// Whether a child was taken away from an object, or from one that is deleted with it, while pages may have been saving.
    pub(super) fn is_left(&self, log: &Log, key: &str) -> bool {
        if !self.holds() {
            return false;
        }
        let with_it = log.descendants(self.entity, key).into_iter().chain([Arc::from(key)]);
        let settles = lock(&self.core.settles);
        let held = &settles.of(self.entity).held;
        with_it.into_iter().any(|key| held.was_left(&(self.entity, key)))
    }

    /// The links that name a deleted object, or what is deleted with it, are deleted before it.
    pub(super) fn delete_links(&self, log: &mut Log, now: Instant, key: &str, change: &Change, batch: &mut Batch<'_>) {
        let Some(links) = self.encoder.named_by.filter(|_| self.holds()) else { return };
        let appender = Appender::new(self.core, links);
        let ends = log.descendants(self.entity, key).into_iter().chain([Arc::from(key)]);
        let named: Vec<Arc<str>> = ends.flat_map(|end| log.children(links, &end)).collect();
        for key in named {
            let Some((_, record, known)) = log.newest_record(links, &key) else { continue };
            if known.kind == ChangeKind::Delete {
                continue;
            }
            let scopes = if appender.encoder.is_scoped { record.scopes.clone() } else { Scopes::None };
            let Ok(deletion) = Change::delete(&known.id) else { continue };
            let deletion = deletion.unique_in(change.namespace()).in_scopes(&scopes, &Scopes::None);
            let record = appender.deleted(log, &key, &deletion);
            let audited = appender.append_record(log, now, record, &batch.write, (false, None, &deletion));
            batch.appended(audited, &deletion);
        }
    }
}

/// Whether an object is its own ancestor, as far as the log knows.
pub(crate) fn is_ring(log: &Log, entity: EntityIndex, change: &ObjectChange) -> bool {
    log.ancestors(entity, change).any(|ancestor| ancestor == change.key)
}
