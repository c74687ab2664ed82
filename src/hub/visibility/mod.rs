//! Where what is told meets a recipient: the one place that decides who hears a record, and as what.
//!
//! An sink takes [`Cleared`] frames and no others, and nothing but this file makes them.

use std::{borrow::Cow, fmt, ops::Deref, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::time::Instant;

use crate::{
    auth::Identity,
    change::ChangeKind,
    frame::Frame,
    hook::{BoxError, guarded},
    hub::{
        Delivery, EntityIndex, Hub, Pages, Row, RowKind,
        append::LARGE,
        delivery::retractions::ObjectRef,
        encoder::EntityEncoder,
        log::{self, Log, ObjectChange, Record, RecordKind, Seen, Tombstone, Was},
        view::View,
    },
    object::{Object, quoted},
    observe::audit,
    protocol,
    scope::{PastScopes, Scopes},
};

/// A frame that its recipient may hear.
#[derive(Clone, Debug)]
pub(crate) struct Cleared(Frame);

impl Cleared {
    /// A ping: it says nothing of any object.
    pub(crate) fn ping(payload: &[u8]) -> Self {
        Self(protocol::ping(payload).into())
    }

    /// Any frame at all, for tests of what happens to it behind this place.
    #[cfg(test)]
    pub(crate) fn unseen(frame: impl Into<Frame>) -> Self {
        Self(frame.into())
    }

    pub(crate) fn into_frame(self) -> Frame {
        self.0
    }
}

impl Deref for Cleared {
    type Target = Frame;

    fn deref(&self) -> &Frame {
        &self.0
    }
}

/// Who is told.
#[derive(Debug)]
pub(crate) struct Recipient {
    pub(crate) identity: Identity,
    /// The scopes it had before, on this page: what was told in these it may be showing still.
    pub(crate) earlier: PastScopes,
}

impl Recipient {
    pub(crate) fn receives(&self, scopes: &Scopes) -> bool {
        scopes.intersects(self.identity.receives())
    }

    /// Whether it has been told of what was told in these scopes at that place of the log.
    fn has_heard(&self, scopes: &Scopes, at: Option<u64>) -> bool {
        self.receives(scopes) || self.earlier.heard(scopes, at)
    }

    /// Whether it may be showing an object, by the scopes that was ever told in.
    pub(crate) fn may_show(&self, subject: &ObjectChange) -> bool {
        self.receives(&subject.ever) || subject.ever.intersects(&self.earlier.scopes())
    }

    fn has_heard_any(&self, former: &Former) -> bool {
        former.iter().any(|former| self.has_heard(&former.scopes, former.at))
    }

    /// Behind the newest record of an entity that went from the log and concerned it.
    pub(crate) fn log_start(&self, log: &Log, entity: EntityIndex) -> u64 {
        let now = log.start_for(entity, self.identity.receives());
        if self.earlier.is_empty() { now } else { now.max(log.start_for(entity, &self.earlier.scopes())) }
    }

    /// Who it was, where that was somebody with other scopes.
    pub(crate) fn earlier(&self) -> Option<Identity> {
        (!self.earlier.is_empty()).then(|| self.identity.clone().with_only(self.earlier.scopes()))
    }
}

/// Mode something is told.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mode {
    /// As it happens, to those who know what came before.
    Live,
    /// Its newest state, to those who may have missed anything from a sequence number on.
    Resend { from: u64, pages: Pages },
    /// Only that it is gone, to those who may be showing it and must not.
    Gone { from: u64 },
    /// To one who was told before that it is gone: that again, or its newest state where it may be seen.
    Reminder,
}

impl Mode {
    /// What may be missing was told from there on; live, nothing before the record itself is.
    fn from(self, sequence: u64) -> u64 {
        match self {
            Self::Live => sequence,
            Self::Resend { from, pages: Pages::ThatHave { everything_before } } => from.min(everything_before),
            Self::Resend { from, pages: Pages::Any } | Self::Gone { from } => from,
            Self::Reminder => u64::MAX,
        }
    }
}

/// What is known of a frame for the audit, where there is one.
#[derive(Clone, Debug)]
pub(crate) struct AuditEntry {
    entity: EntityIndex,
    id: Arc<str>,
    kind: &'static str,
    scopes: Scopes,
}

impl AuditEntry {
    fn record(hub: &Hub, record: &Record, kind: &'static str) -> Option<Box<Self>> {
        hub.is_audited().then(|| {
            let id = match &record.kind {
                RecordKind::Change(subject) => subject.id.clone(),
                RecordKind::Unconfirmed(id) => id.clone(),
                RecordKind::Message | RecordKind::Refresh => Arc::default(),
            };
            Box::new(Self { entity: record.entity, id, kind, scopes: record.scopes.clone() })
        })
    }
}

/// Something that one recipient is told.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) frame: Cleared,
    /// The object it is about, where that is not for everyone.
    pub(crate) mark: Option<Box<ObjectRef>>,
    /// It goes out of sight.
    pub(crate) leaves: bool,
    /// The page draws anew for it.
    pub(crate) is_drawn: bool,
    about: Option<Box<AuditEntry>>,
}

impl Told {
    /// Notes for the audit that it was told.
    pub(crate) fn is_told(&self, audit_buffer: &mut AuditBuffer) {
        if let Some(about) = &self.about {
            audit_buffer.note(about, self.leaves);
        }
    }
}

/// Who was told what, for the audit: noted under locks, and written where there are none.
#[derive(Debug, Default)]
pub(crate) struct AuditBuffer(Vec<AuditEntry>);

impl AuditBuffer {
    fn note(&mut self, about: &AuditEntry, leaves: bool) {
        let kind = if leaves { ChangeKind::Delete.verb() } else { about.kind };
        self.0.push(AuditEntry { kind, ..about.clone() });
    }

    /// Writes them down; `who` says who was told.
    pub(crate) fn write(self, hub: &Hub, who: impl FnOnce() -> Identity) {
        if self.0.is_empty() {
            return;
        }
        let who = who();
        for AuditEntry { entity, id, kind, scopes } in &self.0 {
            audit::told(who.principal(), &hub.encoder(*entity).entity, id, kind, scopes);
        }
    }
}

/// Something on its way to one recipient.
#[derive(Debug)]
pub(crate) enum Line {
    Told(Told),
    /// First it is asked what the recipient may see.
    Asked(Box<VisibilityCheck>),
}

impl Line {
    /// Whether the page draws anew for it.
    pub(crate) fn is_drawn(&self) -> bool {
        match self {
            Self::Told(told) => told.is_drawn,
            Self::Asked(_) => true,
        }
    }

    /// AuditEntry what it will cost to tell.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Told(told) => told.frame.len(),
            Self::Asked(question) => question.bytes(),
        }
    }
}

/// One record, as it is told to everyone who may hear it.
#[derive(Debug)]
pub(crate) struct Envelope {
    pub(crate) entity: EntityIndex,
    /// Its subscribers must look at it themselves.
    pub(crate) only_slowly: bool,
    /// Pages draw anew for it: the stock client draws adds together, and for all else at once.
    pub(crate) is_drawn: bool,
    scopes: Scopes,
    /// It tells that an object is gone, which was told in these scopes.
    deletion: Option<Former>,
    /// Where that is now: who hears this has it.
    went_to: Scopes,
    frame: Cleared,
    moved: Option<Box<Moved>>,
    /// Where it is not for everyone.
    mark: Option<Box<ObjectRef>>,
    about: Option<Box<AuditEntry>>,
}

/// The scopes an object was told in.
#[derive(Debug)]
struct FormerScopes {
    scopes: Scopes,
    /// Where in the log; `None` before its beginning.
    at: Option<u64>,
    /// Who had these has the object.
    is_sure: bool,
}

type Former = Vec<FormerScopes>;

/// What an object that was told in other scopes before is told as to those who do not have both.
#[derive(Debug)]
struct Moved {
    from: Former,
    appears: Cleared,
    goes: Cleared,
}

/// What somebody hears of it.
pub(crate) struct Addressed<'s> {
    pub(crate) frame: &'s Cleared,
    /// The object it is about, where that is not for everyone.
    pub(crate) mark: Option<&'s ObjectRef>,
    /// It goes out of sight.
    pub(crate) leaves: bool,
    about: Option<&'s AuditEntry>,
}

impl Addressed<'_> {
    /// Notes for the audit that it was told.
    pub(crate) fn is_told(&self, audit_buffer: &mut AuditBuffer) {
        if let Some(about) = self.about {
            audit_buffer.note(about, self.leaves);
        }
    }
}

impl Envelope {
    /// What it is to most who hear it.
    pub(crate) fn frame_bytes(&self) -> usize {
        self.frame.len()
    }

    /// What this recipient hears of it.
    pub(crate) fn to(&self, recipient: &Recipient) -> Option<Addressed<'_>> {
        let (mark, about) = (self.mark.as_deref(), self.about.as_deref());
        let heard = |frame, leaves| Some(Addressed { frame, mark, leaves, about });
        let hears = recipient.receives(&self.scopes);
        if let Some(former) = &self.deletion {
            if recipient.receives(&self.went_to) {
                return None;
            }
            // Who had the object is told again with everybody; who had lost it before is told apart.
            return match hears {
                true => Some(Addressed { frame: &self.frame, mark: None, leaves: false, about }),
                false if recipient.has_heard_any(former) => heard(&self.frame, true),
                false => None,
            };
        }
        let Some(moved) = &self.moved else {
            return if hears { heard(&self.frame, false) } else { None };
        };
        if hears {
            let stays = moved.from.iter().all(|former| former.is_sure && recipient.receives(&former.scopes));
            return heard(if stays { &self.frame } else { &moved.appears }, false);
        }
        if recipient.has_heard_any(&moved.from) { heard(&moved.goes, true) } else { None }
    }

    fn into_told(self, recipient: &Recipient) -> Option<Told> {
        let Addressed { frame, leaves, mark, .. } = self.to(recipient)?;
        let mark = mark.cloned().map(Box::new);
        Some(Told { frame: frame.clone(), leaves, mark, is_drawn: self.is_drawn, about: self.about })
    }
}

impl Hub {
    /// A record for everyone: how it is told to those in its scopes, and to those who are no longer, or only now.
    pub(crate) fn said(&self, log: &Log, sequence: u64, record: &Record, how: Mode) -> Envelope {
        let encoder = self.encoder(record.entity);
        let is_asked_for = matches!(record.kind, RecordKind::Refresh) && encoder.has_snapshot;
        let is_filtered = matches!(record.kind, RecordKind::Change(_)) && encoder.view.is_some();
        let only_slowly = is_asked_for || is_filtered;
        let former = if only_slowly { Vec::new() } else { self.former_scopes(log, sequence, record, how) };
        let moved = former.iter().any(|former| former.scopes != record.scopes).then_some(former);
        self.said_of(None, record, how, only_slowly, moved)
    }

    /// The scopes an object was told in before, where that may kind.
    fn former_scopes(&self, log: &Log, sequence: u64, record: &Record, how: Mode) -> Former {
        match &record.kind {
            RecordKind::Change(subject) if self.encoder(record.entity).is_scoped => {
                let former = |seen: Seen<'_>| match seen {
                    Seen::State(state) => Some(FormerScopes {
                        scopes: state.scopes.clone(),
                        at: state.at,
                        is_sure: !matches!(state.was, Was::Doubtful),
                    }),
                    Seen::Before(state) => {
                        Some(FormerScopes { scopes: state.ever.clone(), at: state.at, is_sure: false })
                    }
                    Seen::Unknown => None,
                };
                log.shown_since(subject, how.from(sequence)).filter_map(former).collect()
            }
            RecordKind::Change(_) | RecordKind::Unconfirmed(_) | RecordKind::Message | RecordKind::Refresh => {
                Vec::new()
            }
        }
    }

    /// `place`: where the record is, when this is for one of many who will need the same.
    fn said_of(
        &self,
        place: Option<(&Log, u64)>,
        record: &Record,
        how: Mode,
        only_slowly: bool,
        moved: Option<Former>,
    ) -> Envelope {
        let (deletion, kind, frame, moved) = match &record.kind {
            RecordKind::Message | RecordKind::Refresh => (None, audit::MESSAGE, record.frame.clone().into(), None),
            RecordKind::Unconfirmed(_) => (None, ChangeKind::Update.verb(), record.frame.clone().into(), None),
            RecordKind::Change(subject) => {
                let frame = match how {
                    Mode::Resend { pages, .. } if !only_slowly => self.replay_frame(place, record, subject, pages),
                    Mode::Live | Mode::Resend { .. } | Mode::Gone { .. } => record.frame.clone().into(),
                    Mode::Reminder => self.replay_frame(place, record, subject, Pages::Any),
                };
                if subject.kind == ChangeKind::Delete {
                    (Some(moved.unwrap_or_default()), subject.kind.verb(), frame, None)
                } else {
                    let moved = moved.map(|from| {
                        Box::new(Moved {
                            from,
                            appears: Cleared(self.enter_frame_from_log(record.entity, subject)),
                            goes: Cleared(self.leave_frame_from_log(record.entity, subject).into()),
                        })
                    });
                    (None, subject.kind.verb(), frame, moved)
                }
            }
        };
        let is_drawn = match &record.kind {
            RecordKind::Change(subject) => !subject.is_only_added || !matches!(how, Mode::Live | Mode::Resend { .. }),
            RecordKind::Unconfirmed(_) | RecordKind::Message | RecordKind::Refresh => false,
        };
        Envelope {
            entity: record.entity,
            only_slowly,
            is_drawn,
            scopes: record.scopes.clone(),
            deletion,
            went_to: record.went_to().clone(),
            frame: Cleared(frame),
            moved,
            mark: self.mark(record),
            about: AuditEntry::record(self, record, kind),
        }
    }

    /// A record for one recipient.
    pub(crate) fn resolve_record(
        &self,
        log: &Log,
        sequence: u64,
        record: &Record,
        recipient: &Recipient,
        how: Mode,
    ) -> Option<Line> {
        match &record.kind {
            RecordKind::Change(subject) if self.encoder(record.entity).view.is_some() => {
                return self.question(log, sequence, record, subject, recipient, how);
            }
            RecordKind::Change(_) | RecordKind::Unconfirmed(_) | RecordKind::Message | RecordKind::Refresh => {}
        }
        let is_heard = recipient.receives(&record.scopes);
        let mut former = self.former_scopes(log, sequence, record, how);
        if matches!(how, Mode::Reminder) && !is_heard {
            return self.remind(record).map(Line::Told);
        }
        if !is_heard && !matches!(how, Mode::Live) {
            // What was told to who it was before, it may be showing.
            former.push(FormerScopes { scopes: record.scopes.clone(), at: Some(sequence), is_sure: true });
        }
        // What is nothing to it costs no frame.
        if !is_heard && !recipient.has_heard_any(&former) {
            return None;
        }
        let moved = former.iter().any(|former| former.scopes != record.scopes || !is_heard).then_some(former);
        let told = self.said_of(Some((log, sequence)), record, how, false, moved).into_told(recipient)?;
        let is_meant = !matches!(how, Mode::Gone { .. }) || told.leaves;
        is_meant.then_some(Line::Told(told))
    }

    /// The object of a record, where that is not for everyone.
    fn mark(&self, record: &Record) -> Option<Box<ObjectRef>> {
        match &record.kind {
            RecordKind::Change(subject) if self.encoder(record.entity).is_restricted() => {
                let (key, id) = (subject.key.clone(), subject.id.clone());
                Some(Box::new(ObjectRef { entity: record.entity, key, id }))
            }
            RecordKind::Change(_) | RecordKind::Unconfirmed(_) | RecordKind::Message | RecordKind::Refresh => None,
        }
    }

    /// The object of a row, as far as the log could find it.
    fn mark_of_row(&self, entity: EntityIndex, row: &Row) -> Option<ObjectRef> {
        let key = row.keys.first().filter(|_| self.encoder(entity).is_restricted())?;
        Some(ObjectRef { entity, key: key.clone(), id: Arc::from(&*row.id) })
    }

    /// That an object is gone which the log does not know any more, to one who was told so before.
    pub(crate) fn remind_by_id(&self, entity: EntityIndex, id: &Arc<str>) -> Line {
        let kind = ChangeKind::Delete.verb();
        let about =
            self.is_audited().then(|| Box::new(AuditEntry { entity, id: id.clone(), kind, scopes: Scopes::None }));
        let frame = Cleared(self.leave_frame_by_id(entity, &quoted(id)).into());
        Line::Told(Told { frame, mark: None, leaves: false, is_drawn: true, about })
    }

    /// That an object is gone, to one who knows it.
    fn remind(&self, record: &Record) -> Option<Told> {
        let RecordKind::Change(subject) = &record.kind else {
            return None;
        };
        let frame = match subject.kind {
            ChangeKind::Delete => record.frame.clone(),
            ChangeKind::Add | ChangeKind::Update => self.leave_frame_from_log(record.entity, subject),
        };
        let about = AuditEntry::record(self, record, ChangeKind::Delete.verb());
        // It is no new loss.
        Some(Told { frame: Cleared(frame.into()), mark: None, leaves: false, is_drawn: true, about })
    }

    /// What must be asked before a recipient is told of a change; `None` where it is told nothing in any case.
    fn question(
        &self,
        log: &Log,
        sequence: u64,
        record: &Record,
        subject: &ObjectChange,
        recipient: &Recipient,
        how: Mode,
    ) -> Option<Line> {
        let is_deletion = subject.kind == ChangeKind::Delete;
        if recipient.receives(&subject.went_to) {
            return None;
        }
        let now = (!is_deletion && recipient.receives(&record.scopes)).then(|| subject.object.clone());
        let from = how.from(sequence);
        let shown = log.shown_since(subject, from).map(|seen| match seen {
            Seen::Unknown if recipient.has_heard(&record.scopes, subject.added) => PriorView::Anything,
            Seen::Before(state) if recipient.has_heard(&state.ever, state.at) => PriorView::Anything,
            Seen::State(state) if recipient.receives(&state.scopes) => match &state.was {
                Was::Object(object) => PriorView::Object(object.clone()),
                Was::Something | Was::Doubtful | Was::Gone => PriorView::Anything,
            },
            // Nobody can be asked any more what it saw when it was somebody else.
            Seen::State(state) if recipient.has_heard(&state.scopes, state.at) => PriorView::Anything,
            Seen::Unknown | Seen::Before(_) | Seen::State(_) => PriorView::Nothing,
        });
        let mut shown: Vec<PriorView> = shown.collect();
        let had = !matches!(how, Mode::Live) && recipient.earlier.heard(&record.scopes, Some(sequence));
        if matches!(how, Mode::Reminder) || (now.is_none() && !is_deletion && had) {
            shown.push(PriorView::Anything);
        }
        if now.is_none() && shown.iter().all(|shown| matches!(shown, PriorView::Nothing)) {
            return None;
        }
        Some(Line::Asked(Box::new(VisibilityCheck {
            entity: record.entity,
            object: subject.object.clone(),
            is_heard: now.is_some(),
            shown,
            telling: match how {
                Mode::Live if subject.kind == ChangeKind::Add && matches!(subject.former, log::Former::Known(_)) => {
                    Telling::Update
                }
                Mode::Live if subject.kind == ChangeKind::Add => Telling::Add,
                Mode::Live => Telling::Update,
                Mode::Resend { pages, .. } => {
                    Telling::Resend { is_known: subject.is_known_to(pages), is_only_added: subject.is_only_added }
                }
                Mode::Gone { .. } => Telling::Gone,
                Mode::Reminder => Telling::Reminder,
            },
            mark: self.mark(record),
            from,
            whole: subject.whole,
            deletion: is_deletion.then(|| record.frame.clone().into()),
            about: AuditEntry::record(self, record, subject.kind.verb()),
        })))
    }

    /// A deletion, long after it happened: to those who had the object or, where somebody may be missing whatever was told
    /// before, to `all` who have heard of it.
    pub(crate) fn resolve_tombstone(
        &self,
        entity: EntityIndex,
        sequence: u64,
        tombstone: &Tombstone,
        recipient: &Recipient,
        all: bool,
    ) -> Option<Line> {
        let scopes = if all { &tombstone.ever } else { &tombstone.scopes };
        if !recipient.has_heard(scopes, Some(sequence)) || recipient.receives(&tombstone.went_to) {
            return None;
        }
        let encoder = self.encoder(entity);
        let said = self.said_tombstone(entity, sequence, tombstone);
        let Some(last) = tombstone.last.as_ref().filter(|_| encoder.view.is_some()) else {
            let (frame, about) = (said.frame, said.about);
            // Most pages have not had it for long.
            return Some(Line::Told(Told { frame, mark: None, leaves: false, is_drawn: false, about }));
        };
        Some(Line::Asked(Box::new(VisibilityCheck {
            entity,
            object: Bytes::copy_from_slice(&tombstone.object),
            is_heard: false,
            shown: vec![PriorView::Object(last.clone())],
            telling: Telling::Resend { is_known: false, is_only_added: false },
            mark: None,
            from: 0,
            whole: false,
            deletion: Some(said.frame.into_frame()),
            about: said.about,
        })))
    }

    /// The same, for everyone.
    pub(crate) fn said_tombstone(&self, entity: EntityIndex, sequence: u64, tombstone: &Tombstone) -> Envelope {
        let kind = ChangeKind::Delete.verb();
        let about = self.is_audited().then(|| {
            let (id, scopes) = (tombstone.id.clone(), tombstone.scopes.clone());
            Box::new(AuditEntry { entity, id, kind, scopes })
        });
        Envelope {
            entity,
            only_slowly: false,
            scopes: tombstone.scopes.clone(),
            went_to: tombstone.went_to.clone(),
            deletion: Some(vec![FormerScopes { scopes: tombstone.scopes.clone(), at: Some(sequence), is_sure: true }]),
            mark: None,
            is_drawn: true,
            frame: Cleared(self.encoder(entity).tombstone(tombstone).into()),
            moved: None,
            about,
        }
    }

    /// A row of the store, as it was read for this recipient's identity; with what the log tells of its object since,
    /// where that is there.
    pub(crate) fn resolve_row(
        &self,
        entity: EntityIndex,
        row: &Row,
        since: Option<(&Record, &ObjectChange)>,
        recipient: &Recipient,
    ) -> Option<Line> {
        let kind = match row.kind {
            RowKind::Object => ChangeKind::Update.verb(),
            RowKind::Gone => ChangeKind::Delete.verb(),
            RowKind::Marker => {
                return Some(Line::Told(Told {
                    frame: Cleared(row.frame.clone()),
                    mark: None,
                    leaves: false,
                    is_drawn: false,
                    about: None,
                }));
            }
        };
        let about = self.is_audited().then(|| {
            let (id, scopes) = (Arc::from(&*row.id), recipient.identity.receives().clone());
            Box::new(AuditEntry { entity, id, kind, scopes })
        });
        let is_gone = row.kind == RowKind::Gone;
        let mark = self.mark_of_row(entity, row).map(Box::new);
        let is_filtered = self.encoder(entity).view.is_some();
        let (object, is_heard, shown) = match (since.filter(|_| is_gone), &row.object) {
            // It is there again; for those who may see it.
            (Some((record, _)), _) if recipient.receives(&record.scopes) && !is_filtered => return None,
            (Some((record, subject)), _) if is_filtered => {
                (&subject.object, recipient.receives(&record.scopes), vec![PriorView::Anything])
            }
            // Who it was before may have seen it.
            (_, Some(object)) if is_gone => (object, false, vec![PriorView::Anything]),
            (_, Some(object)) => (object, true, Vec::new()),
            // What the store says is gone, it says to this identity.
            (_, None) => {
                let frame = Cleared(row.frame.clone());
                return Some(Line::Told(Told { frame, mark, leaves: is_gone, is_drawn: !is_gone, about }));
            }
        };
        Some(Line::Asked(Box::new(VisibilityCheck {
            entity,
            object: object.clone(),
            is_heard,
            shown,
            telling: if is_gone { Telling::Gone } else { Telling::Resend { is_known: false, is_only_added: false } },
            mark,
            from: 0,
            whole: true,
            deletion: is_gone.then(|| row.frame.clone()),
            about,
        })))
    }

    /// An object of the log that comes in sight.
    fn enter_frame_from_log(&self, entity: EntityIndex, subject: &ObjectChange) -> Frame {
        let whole = subject.whole || self.delivery == Delivery::Plain;
        self.enter_frame(entity, &subject.object, subject.can_be_added(self.encoder(entity), whole))
    }

    /// An object that comes in sight.
    fn enter_frame(&self, entity: EntityIndex, object: &Bytes, can_add: bool) -> Frame {
        let encoder = self.encoder(entity);
        match self.delivery {
            Delivery::Converging => encoder.upsert(object, can_add).for_anyone(),
            Delivery::Plain if can_add => encoder.encode_shared(ChangeKind::Add, object),
            Delivery::Plain => encoder.encode_shared(ChangeKind::Update, object),
        }
    }

    /// An object of the log that goes out of sight. A large one is not read for its id while others wait for the log:
    /// pages compare ids as text.
    fn leave_frame_from_log(&self, entity: EntityIndex, subject: &ObjectChange) -> Bytes {
        if subject.object.len() < LARGE {
            self.leave_frame(entity, &subject.object)
        } else {
            self.leave_frame_by_id(entity, &quoted(&subject.id))
        }
    }

    /// An object that goes out of sight.
    fn leave_frame(&self, entity: EntityIndex, object: &[u8]) -> Bytes {
        let object = Object::parse(object).unwrap_or_default();
        self.leave_frame_by_id(entity, object.get("id").unwrap_or("null"))
    }

    /// The same, with its id as JSON text.
    pub(crate) fn leave_frame_by_id(&self, entity: EntityIndex, raw_id: &str) -> Bytes {
        let only_id = format!(r#"{{"id":{raw_id}}}"#);
        let encoder = self.encoder(entity);
        match self.delivery {
            Delivery::Converging => encoder.gone(&only_id, true).frame,
            Delivery::Plain => encoder.encode(ChangeKind::Delete, &only_id).frame,
        }
    }
}

impl ObjectChange {
    /// Whether pages can be told to add the object, where it is `whole`.
    pub(crate) fn can_be_added(&self, encoder: &EntityEncoder, whole: bool) -> bool {
        match self.can_add {
            Some(can_add) => whole && can_add,
            None => encoder.can_add(&self.object, whole),
        }
    }

    /// Whether these pages have the object.
    pub(crate) fn is_known_to(&self, pages: Pages) -> bool {
        match pages {
            Pages::Any => false,
            Pages::ThatHave { everything_before } => self.added.is_none_or(|added| added < everything_before),
        }
    }
}

/// What an entity's hooks are asked about one object and one recipient.
#[derive(Debug)]
pub(crate) struct VisibilityCheck {
    entity: EntityIndex,
    /// The object as it is now; of one that is gone only its id.
    object: Bytes,
    /// It is told in the recipient's scopes.
    is_heard: bool,
    /// What the recipient may have been shown of it.
    shown: Vec<PriorView>,
    telling: Telling,
    mark: Option<Box<ObjectRef>>,
    /// Where in the log it begins what the recipient may be missing.
    from: u64,
    whole: bool,
    /// What tells that it is gone for everybody.
    deletion: Option<Frame>,
    about: Option<Box<AuditEntry>>,
}

#[derive(Debug)]
enum PriorView {
    Object(Bytes),
    /// Nobody knows what.
    Anything,
    /// It was not told of it.
    Nothing,
}

#[derive(Clone, Copy, Debug)]
enum Telling {
    Add,
    Update,
    Resend {
        is_known: bool,
        /// There is nothing to be told but the add.
        is_only_added: bool,
    },
    /// Only that it is gone, if it is to be.
    Gone,
    /// That it is gone, once more, or what it is if it may be seen again.
    Reminder,
}

/// Mode long the hooks may take that are asked about one object.
#[derive(Clone, Copy)]
pub(crate) struct Deadline {
    since: Instant,
    limit: Duration,
}

impl Deadline {
    pub(crate) fn new(limit: Duration) -> Self {
        Self { since: Instant::now(), limit }
    }

    fn left(self) -> Duration {
        self.limit.saturating_sub(self.since.elapsed())
    }
}

/// What a question comes to.
pub(crate) enum Answer {
    Told(Told),
    Nothing,
    /// A hook has failed.
    Unsaid(Box<ObjectRef>, u64),
}

impl VisibilityCheck {
    /// What is read, and may be told.
    fn bytes(&self) -> usize {
        let shown = self.shown.iter().map(|shown| match shown {
            PriorView::Object(object) => object.len(),
            PriorView::Anything | PriorView::Nothing => 0,
        });
        self.object.len() + shown.sum::<usize>()
    }

    pub(crate) async fn answer(
        self,
        hub: &Hub,
        identity: &Identity,
        deadline: Deadline,
        failed: &impl Fn(&str, &dyn fmt::Display),
    ) -> Answer {
        let encoder = hub.encoder(self.entity);
        let Some(view) = encoder.view.as_ref() else {
            return Answer::Nothing;
        };
        let object = String::from_utf8_lossy(&self.object);
        let kind = if matches!(self.telling, Telling::Add) { ChangeKind::Add } else { ChangeKind::Update };
        let mut seen = None;
        let mut has_failed = false;
        if self.is_heard {
            let answer = guarded(deadline.left(), || view.seen(identity, &object)).await;
            let said = match answer {
                // What is seen as it is, is shared with all who see it so.
                Ok(Ok(Some(seen))) if encoder.accepts(kind, &seen) => Ok(Some(match seen {
                    Cow::Borrowed(_) => self.object.clone(),
                    Cow::Owned(own) => Bytes::from(own),
                })),
                Ok(Ok(None)) => Ok(None),
                Ok(Ok(Some(_))) => Err("what project answered would break pages".into()),
                Ok(Err(error)) => Err(error),
                Err(failure) => Err(failure.to_string().into()),
            };
            seen = said.unwrap_or_else(|error: BoxError| {
                failed(&encoder.entity, &error);
                has_failed = true;
                None
            });
        }
        let (frame, leaves) = match (seen, self.telling) {
            (None, _) if !self.was_shown(view, identity, &encoder.entity, deadline, failed).await => {
                return match self.mark.filter(|_| has_failed) {
                    Some(mark) => Answer::Unsaid(mark, self.from),
                    None => Answer::Nothing,
                };
            }
            (None, _) => match self.deletion {
                Some(frame) => (frame, true),
                None => (hub.leave_frame(self.entity, &self.object).into(), true),
            },
            (Some(_), Telling::Gone) => return Answer::Nothing,
            (Some(object), Telling::Reminder) => {
                (encoder.upsert(&object, encoder.can_add(&object, self.whole)).for_anyone(), false)
            }
            (Some(object), Telling::Add) => (encoder.encode_shared(ChangeKind::Add, &object), false),
            (Some(object), Telling::Update) => {
                match self.has_stayed(view, identity, &encoder.entity, deadline, failed).await {
                    true => (encoder.encode_shared(ChangeKind::Update, &object), false),
                    false => {
                        let can_add = encoder.can_add(&object, self.whole || hub.delivery == Delivery::Plain);
                        (hub.enter_frame(self.entity, &object, can_add), false)
                    }
                }
            }
            // What a projection shows may have changed although the object has not.
            (Some(object), Telling::Resend { is_only_added: true, .. })
                if view.project.is_none() && encoder.can_add(&object, self.whole) =>
            {
                (encoder.encode_shared(ChangeKind::Add, &object), false)
            }
            (Some(object), Telling::Resend { is_known, .. }) => {
                let has_stayed = is_known && self.has_stayed(view, identity, &encoder.entity, deadline, failed).await;
                (encoder.upsert(&object, encoder.can_add(&object, self.whole && !has_stayed)).for_anyone(), false)
            }
        };
        // To be reminded is no new loss.
        let is_new = !(leaves && matches!(self.telling, Telling::Reminder));
        let mark = self.mark.filter(|_| is_new);
        Answer::Told(Told { frame: Cleared(frame), mark, leaves, is_drawn: true, about: self.about })
    }

    /// Whether the recipient may be showing the object. A hook that fails does not know, and so it may.
    async fn was_shown(
        &self,
        view: &View,
        identity: &Identity,
        entity: &str,
        deadline: Deadline,
        failed: &impl Fn(&str, &dyn fmt::Display),
    ) -> bool {
        for shown in &self.shown {
            let was_shown = match shown {
                PriorView::Nothing => false,
                PriorView::Anything => true,
                PriorView::Object(object) => {
                    let may_see = may_see(view, identity, object, deadline);
                    may_see.await.map_err(|failure| failed(entity, &failure)).unwrap_or(true)
                }
            };
            if was_shown {
                return true;
            }
        }
        false
    }

    /// Whether the recipient has seen the object all the time. A hook that fails does not know, and so it may not.
    async fn has_stayed(
        &self,
        view: &View,
        identity: &Identity,
        entity: &str,
        deadline: Deadline,
        failed: &impl Fn(&str, &dyn fmt::Display),
    ) -> bool {
        if self.shown.is_empty() {
            return false;
        }
        for shown in &self.shown {
            let was_shown = match shown {
                PriorView::Nothing | PriorView::Anything => false,
                PriorView::Object(object) => {
                    let may_see = may_see(view, identity, object, deadline);
                    may_see.await.map_err(|failure| failed(entity, &failure)).unwrap_or(false)
                }
            };
            if !was_shown {
                return false;
            }
        }
        true
    }
}

/// Asks who may see an object as it was.
async fn may_see(view: &View, identity: &Identity, object: &[u8], deadline: Deadline) -> Result<bool, String> {
    let object = String::from_utf8_lossy(object);
    match guarded(deadline.left(), || view.may_see(identity, &object)).await {
        Ok(Ok(may_see)) => Ok(may_see),
        Ok(Err(error)) => Err(error.to_string()),
        Err(failure) => Err(failure.to_string()),
    }
}
