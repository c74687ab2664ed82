//! A record as everyone may receive it, and what one recipient receives of it.

use bytes::Bytes;

use super::{
    super::{
        core::Core,
        encoder::{EntityEncoder, LARGE},
        log::{
            Addressee, Broadcast, Log, ObjectChange, ObjectRef, Owner, PossiblyShown, Record, RecordKind, Tombstone,
        },
    },
    audit::{AuditBuffer, AuditEntry},
    frame::Cleared,
};
use crate::{
    auth::Identity,
    change::ChangeKind,
    entity::EntityIndex,
    frame::Frame,
    object::quoted,
    scope::{PastScopes, Scopes},
    sequence::Sequence,
    session::Session,
};

/// Who receives.
#[derive(Debug)]
pub(crate) struct Recipient {
    pub(crate) identity: Identity,
    /// The scopes it had before, on this page: what was sent in these the page may be showing still.
    pub(crate) past: PastScopes,
    /// Of its credentials, where they are known.
    pub(crate) owner: Option<Owner>,
    /// The session of its page.
    pub(crate) session: Session,
}

impl Recipient {
    pub(crate) fn receives(&self, scopes: &Scopes) -> bool {
        scopes.intersects(self.identity.receives())
    }

    /// Whether it is among those whom a message is for.
    pub(crate) fn is(&self, addressee: &Addressee) -> bool {
        match addressee {
            Addressee::Everyone => true,
            Addressee::Session(session) => self.session == *session,
            Addressee::Principal(principal) => self.identity.principal() == &**principal,
        }
    }

    /// Whether it has received what was published in these scopes at that place of the log.
    pub(super) fn has_received(&self, scopes: &Scopes, at: Option<Sequence>) -> bool {
        self.receives(scopes) || self.past.received(scopes, at)
    }

    /// Whether its page may be showing an object, by the scopes that was ever published in.
    pub(crate) fn may_show(&self, change: &ObjectChange) -> bool {
        self.receives(&change.ever) || change.ever.intersects(&self.past.scopes())
    }

    pub(super) fn has_received_any(&self, prior: &[PossiblyShown]) -> bool {
        prior.iter().any(|prior| self.has_received(&prior.scopes, prior.at))
    }

    /// Behind the newest record of an entity that went from the log and concerned it.
    pub(crate) fn log_start(&self, log: &Log, entity: EntityIndex) -> Sequence {
        let now = log.start_for(entity, self.identity.receives());
        if self.past.is_empty() { now } else { now.max(log.start_for(entity, &self.past.scopes())) }
    }

    /// The identity it had before, where that had other scopes.
    pub(crate) fn past_identity(&self) -> Option<Identity> {
        (!self.past.is_empty()).then(|| self.identity.clone().with_only(self.past.scopes()))
    }
}

/// Which pages receive a resend.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pages {
    /// They may have missed anything.
    Any,
    /// What was added before is there, and an update will do.
    ThatHave { everything_before: Sequence },
}

/// How a record is sent.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mode {
    /// As it is published, to pages that have received what came before.
    Live,
    /// The newest state, to pages that may have missed anything from a sequence number on.
    Resend { from: Sequence, pages: Pages },
    /// As a resend, but at the root of its tree, also where its newest place is held: pages that have an object where it was
    /// before can be sent nothing that hangs below it now. Its place follows.
    AtRoot { from: Sequence },
    /// Only that the object is gone, to pages that may be showing it and must not.
    Retract { from: Sequence },
    /// To a page that was sent before that it is gone: that again, or its newest state where it may be seen.
    Reminder,
}

impl Mode {
    /// What may be missing was published from there on; live, nothing before the record itself is.
    pub(super) fn from(self, sequence: Sequence) -> Sequence {
        match self {
            Self::Live => sequence,
            Self::Resend { from, pages: Pages::ThatHave { everything_before } } => from.min(everything_before),
            Self::Resend { from, pages: Pages::Any } | Self::AtRoot { from } | Self::Retract { from } => from,
            Self::Reminder => Sequence::MAX,
        }
    }

    /// Whether a recipient is sent what is broadcast so, and may be held.
    pub(super) fn reaches(self, broadcast: Broadcast, recipient: &Recipient) -> bool {
        match self {
            Self::Live => broadcast.reaches(recipient.owner),
            Self::AtRoot { .. } => true,
            Self::Resend { .. } | Self::Retract { .. } | Self::Reminder => !broadcast.is_held_from(recipient.owner),
        }
    }
}

/// What pages may show of a record's object from before, where its scopes may matter.
pub(super) fn shown_before(
    core: &Core,
    log: &Log,
    sequence: Sequence,
    record: &Record,
    mode: Mode,
) -> Vec<PossiblyShown> {
    let change = record.change().filter(|_| core.encoder(record.entity).is_scoped);
    change.map(|change| log.shown_since((record, change), mode.from(sequence)).collect()).unwrap_or_default()
}

/// One record, as everyone may receive it; or what one recipient receives.
#[derive(Debug)]
pub(crate) struct Envelope {
    pub(crate) entity: EntityIndex,
    /// Each recipient must be resolved by itself.
    pub(crate) only_slowly: bool,
    /// Pages draw anew for it: the stock client draws adds together, and for all else at once.
    pub(crate) is_drawn: bool,
    scopes: Scopes,
    /// Which pages are left out, if any; boxed, since that is rare.
    left_out: Option<Box<(Mode, Broadcast)>>,
    /// Who it is for among those who receive its scopes.
    addressee: Addressee,
    /// It is the deletion of an object that was published in these scopes.
    deletion: Option<Vec<PossiblyShown>>,
    /// Where that is now: who receives this has it.
    went_to: Scopes,
    frame: Cleared,
    moved: Option<Box<Moved>>,
    /// The object leaves its recipient's visibility.
    leaves: bool,
    /// The object, where it is not for everyone.
    object: Option<Box<ObjectRef>>,
    audit: Option<Box<AuditEntry>>,
}

/// What is sent of an object that was published in other scopes before to those who do not have both.
#[derive(Debug)]
struct Moved {
    from: Vec<PossiblyShown>,
    enters: Cleared,
    leaves: Cleared,
}

/// What one recipient receives.
pub(crate) struct Addressed<'e> {
    pub(crate) frame: &'e Cleared,
    /// The object it is about, where that is not for everyone.
    pub(crate) object: Option<&'e ObjectRef>,
    /// The object leaves the recipient's visibility.
    pub(crate) leaves: bool,
    audit: Option<&'e AuditEntry>,
}

impl Addressed<'_> {
    /// Notes for the audit that it was sent.
    pub(crate) fn is_sent(&self, audit: &mut AuditBuffer) {
        if let Some(entry) = self.audit {
            audit.note(entry, self.leaves);
        }
    }
}

impl Envelope {
    /// A record for everyone: as it is sent in its scopes, and to those who are no longer in them, or only now.
    pub(crate) fn of_record(core: &Core, log: &Log, sequence: Sequence, record: &Record, mode: Mode) -> Self {
        let encoder = core.encoder(record.entity);
        let needs_snapshot = matches!(record.kind, RecordKind::Refresh) && encoder.has_snapshot;
        let is_filtered = matches!(record.kind, RecordKind::Change(_)) && encoder.view.is_some();
        let only_slowly = needs_snapshot || is_filtered;
        let prior = if only_slowly { Vec::new() } else { shown_before(core, log, sequence, record, mode) };
        let is_moved = !matches!(mode, Mode::AtRoot { .. });
        let moved = prior.iter().any(|prior| is_moved && prior.scopes != record.scopes).then_some(prior);
        Self::new(core, None, record, mode, only_slowly, moved)
    }

    /// `place`: where the record is, when this is for one of many who will need the same.
    pub(super) fn new(
        core: &Core,
        place: Option<(&Log, Sequence)>,
        record: &Record,
        mode: Mode,
        only_slowly: bool,
        moved: Option<Vec<PossiblyShown>>,
    ) -> Self {
        let encoder = core.encoder(record.entity);
        let audit = AuditEntry::of_record(core, record);
        let envelope = Self {
            only_slowly,
            is_drawn: false,
            scopes: record.scopes.clone(),
            left_out: (record.broadcast != Broadcast::ToAll).then(|| Box::new((mode, record.broadcast))),
            addressee: record.addressee().clone(),
            object: restricted_object(core, record),
            ..Self::to_one(record.entity, record.frame.clone(), audit)
        };
        let RecordKind::Change(change) = &record.kind else { return envelope };
        let frame = match mode {
            Mode::Resend { pages, .. } if !only_slowly => {
                Cleared::new(replay_frame(core, place, record, change, pages))
            }
            Mode::Reminder => Cleared::new(replay_frame(core, place, record, change, Pages::Any)),
            Mode::AtRoot { .. } => Cleared::new(encoder.encode_at_root(&change.object, change.can_be_added(encoder))),
            Mode::Live | Mode::Resend { .. } | Mode::Retract { .. } => envelope.frame,
        };
        let is_drawn = !change.is_only_added || !matches!(mode, Mode::Live | Mode::Resend { .. });
        let envelope = Self { frame, is_drawn, went_to: change.went_to.clone(), ..envelope };
        if change.kind == ChangeKind::Delete {
            return Self { deletion: Some(moved.unwrap_or_default()), ..envelope };
        }
        let moved = moved.map(|from| {
            let enters = Cleared::new(encoder.encode_enter(&change.object, change.can_be_added(encoder)));
            Box::new(Moved { from, enters, leaves: Cleared::new(change.leave_frame(encoder)) })
        });
        Self { moved, ..envelope }
    }

    /// One step of the object of a record that is resent, to its place among its siblings: for those who have the object.
    pub(crate) fn of_step(core: &Core, record: &Record, step: Frame) -> Self {
        let object = restricted_object(core, record);
        Self { scopes: record.scopes.clone(), object, ..Self::to_one(record.entity, step, None) }
    }

    /// A deletion that the log holds as a tombstone.
    pub(crate) fn of_tombstone(core: &Core, entity: EntityIndex, sequence: Sequence, tombstone: &Tombstone) -> Self {
        let scopes = &tombstone.scopes;
        let prior = PossiblyShown::something(scopes, sequence);
        let about = || (tombstone.id.clone(), scopes.clone());
        let frame = core.encoder(entity).encode_tombstone(tombstone);
        Self {
            scopes: scopes.clone(),
            went_to: tombstone.went_to.clone(),
            deletion: Some(vec![prior]),
            ..Self::to_one(entity, frame, AuditEntry::new(core, entity, ChangeKind::Delete.verb(), about))
        }
    }

    /// What one recipient receives, who has been found to be allowed to.
    pub(super) fn to_one(entity: EntityIndex, frame: impl Into<Frame>, audit: Option<Box<AuditEntry>>) -> Self {
        Self {
            entity,
            only_slowly: false,
            is_drawn: true,
            scopes: Scopes::All,
            left_out: None,
            addressee: Addressee::Everyone,
            deletion: None,
            went_to: Scopes::None,
            frame: Cleared::new(frame),
            moved: None,
            leaves: false,
            object: None,
            audit,
        }
    }

    /// The same, about an object that is not for everyone; and whether that leaves the recipient's visibility.
    pub(super) fn about(self, object: Option<Box<ObjectRef>>, leaves: bool) -> Self {
        Self { object, leaves, ..self }
    }

    /// Pages do not draw anew for it.
    pub(super) fn undrawn(self) -> Self {
        Self { is_drawn: false, ..self }
    }

    pub(super) fn into_frame(self) -> (Cleared, Option<Box<AuditEntry>>) {
        (self.frame, self.audit)
    }

    /// What it is to a recipient at most.
    pub(crate) fn frame_bytes(&self) -> usize {
        self.moved.as_ref().map_or(0, |moved| moved.enters.len()).max(self.frame.len())
    }

    /// What this recipient receives of it.
    pub(crate) fn to(&self, recipient: &Recipient) -> Option<Addressed<'_>> {
        if self.left_out.as_ref().is_some_and(|left_out| !left_out.0.reaches(left_out.1, recipient)) {
            return None;
        }
        let (object, audit) = (self.object.as_deref(), self.audit.as_deref());
        let addressed = |frame, leaves| Some(Addressed { frame, object, leaves, audit });
        if !recipient.is(&self.addressee) {
            return None;
        }
        let receives = recipient.receives(&self.scopes);
        if let Some(prior) = &self.deletion {
            if recipient.receives(&self.went_to) {
                return None;
            }
            // Recipients that have the object are reminded with all others; recipients that lost it earlier are
            // reminded separately.
            return match receives {
                true => Some(Addressed { frame: &self.frame, object: None, leaves: false, audit }),
                false if recipient.has_received_any(prior) => addressed(&self.frame, true),
                false => None,
            };
        }
        let Some(moved) = &self.moved else {
            return if receives { addressed(&self.frame, self.leaves) } else { None };
        };
        if receives {
            let stays = moved.from.iter().all(|prior| prior.is_sure && recipient.receives(&prior.scopes));
            return addressed(if stays { &self.frame } else { &moved.enters }, false);
        }
        if recipient.has_received_any(&moved.from) { addressed(&moved.leaves, true) } else { None }
    }
}

/// The newest state of a record's object, for pages that have it or not. Where thousands may come back at once and each
/// needs it, the record's `place` keeps it.
fn replay_frame(
    core: &Core,
    place: Option<(&Log, Sequence)>,
    record: &Record,
    change: &ObjectChange,
    pages: Pages,
) -> Frame {
    let encoder = core.encoder(record.entity);
    if change.kind == ChangeKind::Delete {
        return record.frame.clone().into();
    }
    let encode = || match change.can_be_added(encoder) {
        true if change.is_only_added => encoder.encode_add(&change.object),
        can_add => encoder.encode_upsert(&change.object, can_add),
    };
    let is_known = change.is_known_to(pages);
    let kept = place.and_then(|(log, sequence)| log.upsert(sequence, encode));
    match kept {
        Some(upsert) => upsert.for_pages(is_known),
        None => encode().for_pages(is_known),
    }
}

/// The object of a record, where that is not for everyone.
pub(super) fn restricted_object(core: &Core, record: &Record) -> Option<Box<ObjectRef>> {
    let is_restricted = core.encoder(record.entity).is_restricted();
    record.object().filter(|_| is_restricted).map(Box::new)
}

impl ObjectChange {
    /// What a page is sent when the object leaves its visibility. A large object is not read for its id while others
    /// wait for the log: pages compare ids as text.
    pub(super) fn leave_frame(&self, encoder: &EntityEncoder) -> Bytes {
        if self.object.len() < LARGE {
            encoder.encode_leave(&self.object)
        } else {
            encoder.encode_leave_by_id(&quoted(&self.id))
        }
    }

    /// Whether pages can be sent an add of the object.
    pub(super) fn can_be_added(&self, encoder: &EntityEncoder) -> bool {
        match self.can_add {
            Some(can_add) => encoder.is_enough(self.whole) && can_add,
            None => encoder.can_add(&self.object, self.whole),
        }
    }

    /// Whether these pages have the object.
    pub(super) fn is_known_to(&self, pages: Pages) -> bool {
        match pages {
            Pages::Any => false,
            Pages::ThatHave { everything_before } => self.added.is_none_or(|added| added < everything_before),
        }
    }
}
