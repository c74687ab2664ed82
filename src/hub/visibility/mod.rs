//! The visibility filter: the one place where a record meets a recipient, and that decides who receives it, and as what.
//!
//! | file | holds |
//! |---|---|
//! | `frame` | [`Cleared`]: nothing but this folder makes one of a record, and a sink takes no other frames |
//! | `envelope` | [`Envelope`]: a record as everyone may receive it; [`Addressed`]: what one recipient receives of it |
//! | `check` | [`VisibilityCheck`]: what the hooks `visible` and `project` are asked, and what follows |
//! | `audit` | who was sent what |
//!
//! An object that moves to other scopes, or that a hook hides, *leaves* a recipient's visibility: its page is sent a
//! deletion. An object that becomes visible *enters*: the page is sent the whole object.

mod audit;
mod check;
mod envelope;
mod frame;

use std::sync::Arc;

use bytes::Bytes;

pub(crate) use self::{
    audit::AuditBuffer,
    check::{Deadline, Verdict, VisibilityCheck},
    envelope::{Addressed, Envelope, Mode, Pages, Recipient},
    frame::Cleared,
};
use self::{
    audit::AuditEntry,
    check::{Form, PriorView},
    envelope::{restricted_object, shown_before},
};
use super::{
    core::Core,
    log::{Log, ObjectChange, ObjectRef, PossiblyShown, PriorState, Record, RecordKind, Tombstone},
    snapshot::{Row, RowKind},
};
use crate::{change::ChangeKind, entity::EntityIndex, frame::Frame, lock::lock, object::quoted, sequence::Sequence};

/// What one recipient is sent, as far as no hook is needed for it.
#[derive(Debug)]
pub(crate) enum Resolved {
    Send(Envelope),
    /// The entity's hooks are asked first.
    Check(Box<VisibilityCheck>),
}

impl Resolved {
    /// Whether the page draws anew for it.
    pub(crate) fn is_drawn(&self) -> bool {
        match self {
            Self::Send(envelope) => envelope.is_drawn,
            Self::Check(_) => true,
        }
    }

    /// About what it costs to send.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Send(envelope) => envelope.frame_bytes(),
            Self::Check(check) => check.bytes(),
        }
    }
}

/// Resolves what the log and the store hold for one recipient.
#[derive(Clone, Copy)]
pub(crate) struct Resolver<'a> {
    pub(crate) core: &'a Core,
    pub(crate) log: &'a Log,
    pub(crate) recipient: &'a Recipient,
}

impl Resolver<'_> {
    /// A record for one recipient.
    pub(crate) fn record(&self, sequence: Sequence, record: &Record, mode: Mode) -> Option<Resolved> {
        let Self { core, log, recipient } = *self;
        if !mode.reaches(record.broadcast, recipient) || !recipient.is(record.addressee()) {
            // As below, it costs no frame.
            return None;
        }
        if let RecordKind::Change(change) = &record.kind {
            if core.encoder(record.entity).view.is_some() {
                if matches!(mode, Mode::AtRoot { .. }) {
                    return None;
                }
                return self.check(sequence, record, change, mode);
            }
        }
        let receives = recipient.receives(&record.scopes);
        let mut prior = shown_before(core, log, sequence, record, mode);
        if matches!(mode, Mode::Reminder) && !receives {
            return self.reminder(record).map(Resolved::Send);
        }
        if !receives && !matches!(mode, Mode::Live) {
            // The page may still show what was sent to its previous identity.
            prior.push(PossiblyShown::something(&record.scopes, sequence));
        }
        // A record that does not concern the recipient costs no frame.
        if !receives && !recipient.has_received_any(&prior) {
            return None;
        }
        let is_moved = !matches!(mode, Mode::AtRoot { .. });
        let moved =
            prior.iter().any(|prior| prior.scopes != record.scopes || !receives).then_some(prior).filter(|_| is_moved);
        let envelope = Envelope::new(core, Some((log, sequence)), record, mode, false, moved);
        let is_meant = envelope.to(recipient).is_some_and(|it| it.leaves || !matches!(mode, Mode::Retract { .. }));
        is_meant.then_some(Resolved::Send(envelope))
    }

    /// One step of the object of a record that is resent, to its place among its siblings.
    pub(crate) fn step(&self, record: &Record, step: Frame) -> Option<Resolved> {
        let is_received = self.recipient.receives(&record.scopes);
        is_received.then(|| Resolved::Send(Envelope::of_step(self.core, record, step)))
    }

    /// One step of the object of a row that its recipient has just been sent.
    pub(crate) fn row_step(&self, entity: EntityIndex, step: Frame) -> Resolved {
        Resolved::Send(Envelope::to_one(entity, step, None))
    }

    /// That an object is gone which the log does not know any more, to one who was sent that before.
    pub(crate) fn reminder_by_id(&self, entity: EntityIndex, id: &Arc<str>) -> Resolved {
        let audit = AuditEntry::new(self.core, entity, ChangeKind::Delete.verb(), || (id.clone(), Default::default()));
        let frame = self.core.encoder(entity).encode_leave_by_id(&quoted(id));
        Resolved::Send(Envelope::to_one(entity, frame, audit))
    }

    /// That an object is gone, to one who knows it: no new loss.
    fn reminder(&self, record: &Record) -> Option<Envelope> {
        let RecordKind::Change(change) = &record.kind else { return None };
        let frame = match change.kind {
            ChangeKind::Delete => record.frame.clone(),
            ChangeKind::Add | ChangeKind::Update => change.leave_frame(self.core.encoder(record.entity)),
        };
        let about = || (change.id.clone(), record.scopes.clone());
        let audit = AuditEntry::new(self.core, record.entity, ChangeKind::Delete.verb(), about);
        Some(Envelope::to_one(record.entity, frame, audit))
    }

    /// What the hooks are asked before a recipient is sent a change; `None` where it is sent nothing in any case.
    fn check(&self, sequence: Sequence, record: &Record, change: &ObjectChange, mode: Mode) -> Option<Resolved> {
        let Self { core, log, recipient } = *self;
        let is_deletion = change.kind == ChangeKind::Delete;
        if recipient.receives(&change.went_to) {
            return None;
        }
        let is_received = !is_deletion && recipient.receives(&record.scopes);
        let from = mode.from(sequence);
        let prior = log.shown_since((record, change), from).map(|shown| match shown.object {
            // No hook can be asked any more what it saw with another identity.
            Some(object) if recipient.receives(&shown.scopes) => PriorView::Object(object),
            _ if recipient.has_received(&shown.scopes, shown.at) => PriorView::Anything,
            _ => PriorView::Nothing,
        });
        let mut prior: Vec<PriorView> = prior.collect();
        let had = !matches!(mode, Mode::Live) && recipient.past.received(&record.scopes, Some(sequence));
        if matches!(mode, Mode::Reminder) || (!is_received && !is_deletion && had) {
            prior.push(PriorView::Anything);
        }
        if !is_received && prior.iter().all(|prior| matches!(prior, PriorView::Nothing)) {
            return None;
        }
        let is_add = change.kind == ChangeKind::Add && !matches!(change.prior, PriorState::Known(_));
        Some(Resolved::Check(Box::new(VisibilityCheck {
            is_received,
            prior,
            form: match mode {
                Mode::Live if is_add => Form::Add,
                Mode::Live | Mode::AtRoot { .. } => Form::Update,
                Mode::Resend { pages, .. } => {
                    Form::Resend { is_known: change.is_known_to(pages), is_only_added: change.is_only_added }
                }
                Mode::Retract { .. } => Form::Retract,
                Mode::Reminder => Form::Reminder,
            },
            about: restricted_object(core, record),
            from,
            whole: change.whole,
            deletion: is_deletion.then(|| record.frame.clone().into()),
            ..VisibilityCheck::of(record.entity, change.object.clone(), AuditEntry::of_record(core, record))
        })))
    }

    /// A deletion, long after it happened: to those who had the object or, where the recipient may be missing whatever was sent
    /// before, to `all` who have received it.
    pub(crate) fn tombstone(
        &self,
        entity: EntityIndex,
        sequence: Sequence,
        tombstone: &Tombstone,
        all: bool,
    ) -> Option<Resolved> {
        let Self { core, recipient, .. } = *self;
        let scopes = if all { &tombstone.ever } else { &tombstone.scopes };
        if !recipient.has_received(scopes, Some(sequence)) || recipient.receives(&tombstone.went_to) {
            return None;
        }
        if core.holds_deletion(entity, &tombstone.key) {
            return None;
        }
        let (frame, audit) = Envelope::of_tombstone(core, entity, sequence, tombstone).into_frame();
        let Some(last) = tombstone.last.as_ref().filter(|_| core.encoder(entity).view.is_some()) else {
            // Most pages have not had it for long.
            return Some(Resolved::Send(Envelope::to_one(entity, frame.into_frame(), audit).undrawn()));
        };
        Some(Resolved::Check(Box::new(VisibilityCheck {
            prior: vec![PriorView::Object(last.clone())],
            deletion: Some(frame.into_frame()),
            ..VisibilityCheck::of(entity, Bytes::copy_from_slice(&tombstone.object), audit)
        })))
    }

    /// Whether a row is new, and held from this recipient, which may hold it under a temporary id.
    pub(crate) fn is_held(&self, entity: EntityIndex, row: &Row) -> bool {
        let Self { core, recipient, .. } = *self;
        if core.encoder(entity).widget.family().is_none() {
            return false;
        }
        let settles = lock(&core.settles);
        let held = &settles.of(entity).held;
        let of = |key: &Arc<str>| held.get(&(entity, key.clone()));
        row.keys.iter().filter_map(of).filter_map(|held| held.added).any(|added| added.is_held_from(recipient.owner))
    }

    /// Whether the newest place of a row in its tree is held, as it was when the row was read.
    pub(crate) fn is_place_held(&self, entity: EntityIndex, row: &Row) -> bool {
        row.at_root.is_some() && {
            let settles = lock(&self.core.settles);
            let held = &settles.of(entity).held;
            row.keys.iter().any(|key| held.get(&(entity, key.clone())).is_some())
        }
    }

    /// A row of the store, as it was read for this recipient's identity; with what the log holds of its object `since`,
    /// where that is there.
    pub(crate) fn row(
        &self,
        entity: EntityIndex,
        row: &Row,
        since: Option<(&Record, &ObjectChange)>,
    ) -> Option<Resolved> {
        let Self { core, recipient, .. } = *self;
        let kind = match row.kind {
            RowKind::Object if self.is_held(entity, row) => return None,
            RowKind::Gone if row.keys.iter().any(|key| core.holds_deletion(entity, key)) => return None,
            RowKind::Object => ChangeKind::Update,
            RowKind::Gone => ChangeKind::Delete,
            RowKind::Marker => {
                return Some(Resolved::Send(Envelope::to_one(entity, row.frame.clone(), None).undrawn()));
            }
        };
        let about = || (Arc::from(&*row.id), recipient.identity.receives().clone());
        let audit = AuditEntry::new(core, entity, kind.verb(), about);
        let is_gone = row.kind == RowKind::Gone;
        let is_restricted = core.encoder(entity).is_restricted();
        let key = row.keys.first().filter(|_| is_restricted);
        let object_ref = key.map(|key| Box::new(ObjectRef { entity, key: key.clone(), id: Arc::from(&*row.id) }));
        let is_filtered = core.encoder(entity).view.is_some();
        let at_root = row.at_root.as_ref().filter(|_| self.is_place_held(entity, row));
        if at_root.is_some() && is_filtered {
            return None;
        }
        let (object, is_received, prior) = match (since.filter(|_| is_gone), &row.object) {
            // It is there again; for those who may see it.
            (Some((record, _)), _) if recipient.receives(&record.scopes) && !is_filtered => return None,
            (Some((record, change)), _) if is_filtered => {
                (&change.object, recipient.receives(&record.scopes), vec![PriorView::Anything])
            }
            // Who it was before may have seen it.
            (_, Some(object)) if is_gone => (object, false, vec![PriorView::Anything]),
            (_, Some(object)) => (object, true, Vec::new()),
            // What the store reports as gone, it reports for this identity.
            (_, None) => {
                let frame = at_root.unwrap_or(&row.frame).clone();
                let envelope = Envelope::to_one(entity, frame, audit).about(object_ref, is_gone);
                return Some(Resolved::Send(if is_gone { envelope.undrawn() } else { envelope }));
            }
        };
        let check = VisibilityCheck::of(entity, object.clone(), audit);
        Some(Resolved::Check(Box::new(VisibilityCheck {
            is_received,
            prior,
            form: if is_gone { Form::Retract } else { check.form },
            about: object_ref,
            whole: true,
            deletion: is_gone.then(|| row.frame.clone()),
            ..check
        })))
    }
}
