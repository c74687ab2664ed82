//! Where what is told meets a recipient: the one place that decides who hears a record, and as what.
//!
//! An outlet takes [`Cleared`] frames and no others, and nothing but this file makes them.

use std::{borrow::Cow, fmt, ops::Deref, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::time::Instant;

use crate::{
    auth::Identity,
    change::ChangeKind,
    entity::View,
    frame::Frame,
    hook::{BoxError, guarded},
    hub::{
        Delivery, EntityIndex, Hub, Pages, Row, RowKind,
        batch::LARGE,
        hidden::Mark,
        log::{self, Log, Matter, Record, Seen, Subject, Tombstone, Was},
        voice::Voice,
    },
    object::{Object, quoted},
    observe::audit,
    protocol,
    scope::{Earlier, Scopes},
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
    pub(super) identity: Identity,
    /// The scopes it had before, on this page: what was told in these it may be showing still.
    pub(super) earlier: Earlier,
}

impl Recipient {
    pub(super) fn hears(&self, scopes: &Scopes) -> bool {
        scopes.admit(self.identity.hears())
    }

    /// Whether it has been told of what was told in these scopes at that place of the log.
    fn has_heard(&self, scopes: &Scopes, at: Option<u64>) -> bool {
        self.hears(scopes) || self.earlier.heard(scopes, at)
    }

    /// Whether it may be showing an object, by the scopes that was ever told in.
    pub(super) fn may_show(&self, subject: &Subject) -> bool {
        self.hears(&subject.ever) || subject.ever.admit(&self.earlier.scopes())
    }

    fn has_heard_any(&self, former: &Former) -> bool {
        former.iter().any(|former| self.has_heard(&former.scopes, former.at))
    }

    /// Behind the newest record of an entity that went from the log and concerned it.
    pub(super) fn log_start(&self, log: &Log, entity: EntityIndex) -> u64 {
        let now = log.start_for(entity, self.identity.hears());
        if self.earlier.is_empty() { now } else { now.max(log.start_for(entity, &self.earlier.scopes())) }
    }

    /// Who it was, where that was somebody with other scopes.
    pub(super) fn earlier(&self) -> Option<Identity> {
        (!self.earlier.is_empty()).then(|| self.identity.clone().with_only(self.earlier.scopes()))
    }
}

/// How something is told.
#[derive(Clone, Copy, Debug)]
pub(super) enum How {
    /// As it happens, to those who know what came before.
    Live,
    /// Its newest state, to those who may have missed anything from a sequence number on.
    Again { from: u64, pages: Pages },
    /// Only that it is gone, to those who may be showing it and must not.
    Gone { from: u64 },
    /// To one who was told before that it is gone: that again, or its newest state where it may be seen.
    Reminder,
}

impl How {
    /// What may be missing was told from there on; live, nothing before the record itself is.
    fn from(self, sequence: u64) -> u64 {
        match self {
            Self::Live => sequence,
            Self::Again { from, pages: Pages::ThatHave { everything_before } } => from.min(everything_before),
            Self::Again { from, pages: Pages::Any } | Self::Gone { from } => from,
            Self::Reminder => u64::MAX,
        }
    }
}

/// What is known of a frame for the audit, where there is one.
#[derive(Clone, Debug)]
pub(super) struct About {
    entity: EntityIndex,
    id: Arc<str>,
    kind: &'static str,
    scopes: Scopes,
}

impl About {
    fn record(hub: &Hub, record: &Record, kind: &'static str) -> Option<Box<Self>> {
        hub.is_audited().then(|| {
            let id = match &record.matter {
                Matter::Change(subject) => subject.id.clone(),
                Matter::Unconfirmed(id) => id.clone(),
                Matter::Message | Matter::Refresh => Arc::default(),
            };
            Box::new(Self { entity: record.entity, id, kind, scopes: record.scopes.clone() })
        })
    }
}

/// Something that one recipient is told.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) frame: Cleared,
    /// The object it is about, where that is not for everyone.
    pub(super) mark: Option<Box<Mark>>,
    /// It goes out of sight.
    pub(super) loses: bool,
    /// The page draws anew for it.
    pub(super) is_drawn: bool,
    about: Option<Box<About>>,
}

impl Told {
    /// Notes for the audit that it was told.
    pub(super) fn is_told(&self, minutes: &mut Minutes) {
        if let Some(about) = &self.about {
            minutes.note(about, self.loses);
        }
    }
}

/// Who was told what, for the audit: noted under locks, and written where there are none.
#[derive(Debug, Default)]
pub(super) struct Minutes(Vec<About>);

impl Minutes {
    fn note(&mut self, about: &About, loses: bool) {
        let kind = if loses { ChangeKind::Delete.verb() } else { about.kind };
        self.0.push(About { kind, ..about.clone() });
    }

    /// Writes them down; `who` says who was told.
    pub(super) fn write(self, hub: &Hub, who: impl FnOnce() -> Identity) {
        if self.0.is_empty() {
            return;
        }
        let who = who();
        for About { entity, id, kind, scopes } in &self.0 {
            audit::sent(who.principal(), &hub.voice(*entity).entity, id, kind, scopes);
        }
    }
}

/// Something on its way to one recipient.
#[derive(Debug)]
pub(super) enum Line {
    Told(Told),
    /// First it is asked what the recipient may see.
    Asked(Box<Question>),
}

impl Line {
    /// Whether the page draws anew for it.
    pub(super) fn is_drawn(&self) -> bool {
        match self {
            Self::Told(told) => told.is_drawn,
            Self::Asked(_) => true,
        }
    }

    /// About what it will cost to tell.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Told(told) => told.frame.len(),
            Self::Asked(question) => question.bytes(),
        }
    }
}

/// One record, as it is told to everyone who may hear it.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) entity: EntityIndex,
    /// Its subscribers must look at it themselves.
    pub(super) only_slowly: bool,
    /// Pages draw anew for it: the stock client draws adds together, and for all else at once.
    pub(super) is_drawn: bool,
    scopes: Scopes,
    /// It tells that an object is gone, which was told in these scopes.
    deletion: Option<Former>,
    /// Where that is now: who hears this has it.
    went_to: Scopes,
    frame: Cleared,
    moved: Option<Box<Moved>>,
    /// Where it is not for everyone.
    mark: Option<Box<Mark>>,
    about: Option<Box<About>>,
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
pub(super) struct Heard<'s> {
    pub(super) frame: &'s Cleared,
    /// The object it is about, where that is not for everyone.
    pub(super) mark: Option<&'s Mark>,
    /// It goes out of sight.
    pub(super) loses: bool,
    about: Option<&'s About>,
}

impl Heard<'_> {
    /// Notes for the audit that it was told.
    pub(super) fn is_told(&self, minutes: &mut Minutes) {
        if let Some(about) = self.about {
            minutes.note(about, self.loses);
        }
    }
}

impl Said {
    /// What it is to most who hear it.
    pub(super) fn frame_bytes(&self) -> usize {
        self.frame.len()
    }

    /// What this recipient hears of it.
    pub(super) fn to(&self, recipient: &Recipient) -> Option<Heard<'_>> {
        let (mark, about) = (self.mark.as_deref(), self.about.as_deref());
        let heard = |frame, loses| Some(Heard { frame, mark, loses, about });
        let hears = recipient.hears(&self.scopes);
        if let Some(former) = &self.deletion {
            if recipient.hears(&self.went_to) {
                return None;
            }
            // Who had the object is told again with everybody; who had lost it before is told apart.
            return match hears {
                true => Some(Heard { frame: &self.frame, mark: None, loses: false, about }),
                false if recipient.has_heard_any(former) => heard(&self.frame, true),
                false => None,
            };
        }
        let Some(moved) = &self.moved else {
            return if hears { heard(&self.frame, false) } else { None };
        };
        if hears {
            let stays = moved.from.iter().all(|former| former.is_sure && recipient.hears(&former.scopes));
            return heard(if stays { &self.frame } else { &moved.appears }, false);
        }
        if recipient.has_heard_any(&moved.from) { heard(&moved.goes, true) } else { None }
    }

    fn into_told(self, recipient: &Recipient) -> Option<Told> {
        let Heard { frame, loses, mark, .. } = self.to(recipient)?;
        let mark = mark.cloned().map(Box::new);
        Some(Told { frame: frame.clone(), loses, mark, is_drawn: self.is_drawn, about: self.about })
    }
}

impl Hub {
    /// A record for everyone: how it is told to those in its scopes, and to those who are no longer, or only now.
    pub(super) fn said(&self, log: &Log, sequence: u64, record: &Record, how: How) -> Said {
        let voice = self.voice(record.entity);
        let is_asked_for = matches!(record.matter, Matter::Refresh) && voice.has_snapshot;
        let is_filtered = matches!(record.matter, Matter::Change(_)) && voice.view.is_some();
        let only_slowly = is_asked_for || is_filtered;
        let former = if only_slowly { Vec::new() } else { self.former_scopes(log, sequence, record, how) };
        let moved = former.iter().any(|former| former.scopes != record.scopes).then_some(former);
        self.said_of(None, record, how, only_slowly, moved)
    }

    /// The scopes an object was told in before, where that may matter.
    fn former_scopes(&self, log: &Log, sequence: u64, record: &Record, how: How) -> Former {
        match &record.matter {
            Matter::Change(subject) if self.voice(record.entity).is_scoped => {
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
            Matter::Change(_) | Matter::Unconfirmed(_) | Matter::Message | Matter::Refresh => Vec::new(),
        }
    }

    /// `place`: where the record is, when this is for one of many who will need the same.
    fn said_of(
        &self,
        place: Option<(&Log, u64)>,
        record: &Record,
        how: How,
        only_slowly: bool,
        moved: Option<Former>,
    ) -> Said {
        let (deletion, kind, frame, moved) = match &record.matter {
            Matter::Message | Matter::Refresh => (None, audit::MESSAGE, record.frame.clone().into(), None),
            Matter::Unconfirmed(_) => (None, ChangeKind::Update.verb(), record.frame.clone().into(), None),
            Matter::Change(subject) => {
                let frame = match how {
                    How::Again { pages, .. } if !only_slowly => self.once_more(place, record, subject, pages),
                    How::Live | How::Again { .. } | How::Gone { .. } => record.frame.clone().into(),
                    How::Reminder => self.once_more(place, record, subject, Pages::Any),
                };
                if subject.kind == ChangeKind::Delete {
                    (Some(moved.unwrap_or_default()), subject.kind.verb(), frame, None)
                } else {
                    let moved = moved.map(|from| {
                        Box::new(Moved {
                            from,
                            appears: Cleared(self.appearing(record.entity, subject)),
                            goes: Cleared(self.going_from_log(record.entity, subject).into()),
                        })
                    });
                    (None, subject.kind.verb(), frame, moved)
                }
            }
        };
        let is_drawn = match &record.matter {
            Matter::Change(subject) => !subject.is_only_added || !matches!(how, How::Live | How::Again { .. }),
            Matter::Unconfirmed(_) | Matter::Message | Matter::Refresh => false,
        };
        Said {
            entity: record.entity,
            only_slowly,
            is_drawn,
            scopes: record.scopes.clone(),
            deletion,
            went_to: record.went_to().clone(),
            frame: Cleared(frame),
            moved,
            mark: self.mark(record),
            about: About::record(self, record, kind),
        }
    }

    /// A record for one recipient.
    pub(super) fn meet(
        &self,
        log: &Log,
        sequence: u64,
        record: &Record,
        recipient: &Recipient,
        how: How,
    ) -> Option<Line> {
        match &record.matter {
            Matter::Change(subject) if self.voice(record.entity).view.is_some() => {
                return self.question(log, sequence, record, subject, recipient, how);
            }
            Matter::Change(_) | Matter::Unconfirmed(_) | Matter::Message | Matter::Refresh => {}
        }
        let is_heard = recipient.hears(&record.scopes);
        let mut former = self.former_scopes(log, sequence, record, how);
        if matches!(how, How::Reminder) && !is_heard {
            return self.remind(record).map(Line::Told);
        }
        if !is_heard && !matches!(how, How::Live) {
            // What was told to who it was before, it may be showing.
            former.push(FormerScopes { scopes: record.scopes.clone(), at: Some(sequence), is_sure: true });
        }
        // What is nothing to it costs no frame.
        if !is_heard && !recipient.has_heard_any(&former) {
            return None;
        }
        let moved = former.iter().any(|former| former.scopes != record.scopes || !is_heard).then_some(former);
        let told = self.said_of(Some((log, sequence)), record, how, false, moved).into_told(recipient)?;
        let is_meant = !matches!(how, How::Gone { .. }) || told.loses;
        is_meant.then_some(Line::Told(told))
    }

    /// The object of a record, where that is not for everyone.
    fn mark(&self, record: &Record) -> Option<Box<Mark>> {
        match &record.matter {
            Matter::Change(subject) if self.voice(record.entity).is_choosy() => {
                let (key, id) = (subject.key.clone(), subject.id.clone());
                Some(Box::new(Mark { entity: record.entity, key, id }))
            }
            Matter::Change(_) | Matter::Unconfirmed(_) | Matter::Message | Matter::Refresh => None,
        }
    }

    /// The object of a row, as far as the log could find it.
    fn mark_of_row(&self, entity: EntityIndex, row: &Row) -> Option<Mark> {
        let key = row.keys.first().filter(|_| self.voice(entity).is_choosy())?;
        Some(Mark { entity, key: key.clone(), id: Arc::from(&*row.id) })
    }

    /// That an object is gone which the log does not know any more, to one who was told so before.
    pub(super) fn remind_by_id(&self, entity: EntityIndex, id: &Arc<str>) -> Line {
        let kind = ChangeKind::Delete.verb();
        let about = self.is_audited().then(|| Box::new(About { entity, id: id.clone(), kind, scopes: Scopes::None }));
        let frame = Cleared(self.going_by_id(entity, &quoted(id)).into());
        Line::Told(Told { frame, mark: None, loses: false, is_drawn: true, about })
    }

    /// That an object is gone, to one who knows it.
    fn remind(&self, record: &Record) -> Option<Told> {
        let Matter::Change(subject) = &record.matter else {
            return None;
        };
        let frame = match subject.kind {
            ChangeKind::Delete => record.frame.clone(),
            ChangeKind::Add | ChangeKind::Update => self.going_from_log(record.entity, subject),
        };
        let about = About::record(self, record, ChangeKind::Delete.verb());
        // It is no new loss.
        Some(Told { frame: Cleared(frame.into()), mark: None, loses: false, is_drawn: true, about })
    }

    /// What must be asked before a recipient is told of a change; `None` where it is told nothing in any case.
    fn question(
        &self,
        log: &Log,
        sequence: u64,
        record: &Record,
        subject: &Subject,
        recipient: &Recipient,
        how: How,
    ) -> Option<Line> {
        let is_deletion = subject.kind == ChangeKind::Delete;
        if recipient.hears(&subject.went_to) {
            return None;
        }
        let now = (!is_deletion && recipient.hears(&record.scopes)).then(|| subject.object.clone());
        let from = how.from(sequence);
        let shown = log.shown_since(subject, from).map(|seen| match seen {
            Seen::Unknown if recipient.has_heard(&record.scopes, subject.added) => Shown::Anything,
            Seen::Before(state) if recipient.has_heard(&state.ever, state.at) => Shown::Anything,
            Seen::State(state) if recipient.hears(&state.scopes) => match &state.was {
                Was::Object(object) => Shown::Object(object.clone()),
                Was::Something | Was::Doubtful | Was::Gone => Shown::Anything,
            },
            // Nobody can be asked any more what it saw when it was somebody else.
            Seen::State(state) if recipient.has_heard(&state.scopes, state.at) => Shown::Anything,
            Seen::Unknown | Seen::Before(_) | Seen::State(_) => Shown::Nothing,
        });
        let mut shown: Vec<Shown> = shown.collect();
        let had = !matches!(how, How::Live) && recipient.earlier.heard(&record.scopes, Some(sequence));
        if matches!(how, How::Reminder) || (now.is_none() && !is_deletion && had) {
            shown.push(Shown::Anything);
        }
        if now.is_none() && shown.iter().all(|shown| matches!(shown, Shown::Nothing)) {
            return None;
        }
        Some(Line::Asked(Box::new(Question {
            entity: record.entity,
            object: subject.object.clone(),
            is_heard: now.is_some(),
            shown,
            telling: match how {
                How::Live if subject.kind == ChangeKind::Add && matches!(subject.former, log::Former::Known(_)) => {
                    Telling::Update
                }
                How::Live if subject.kind == ChangeKind::Add => Telling::Add,
                How::Live => Telling::Update,
                How::Again { pages, .. } => {
                    Telling::Again { is_known: subject.is_known_to(pages), is_only_added: subject.is_only_added }
                }
                How::Gone { .. } => Telling::Gone,
                How::Reminder => Telling::Reminder,
            },
            mark: self.mark(record),
            from,
            whole: subject.whole,
            deletion: is_deletion.then(|| record.frame.clone().into()),
            about: About::record(self, record, subject.kind.verb()),
        })))
    }

    /// A deletion, long after it happened: to those who had the object or, where somebody may be missing whatever was told
    /// before, to `all` who have heard of it.
    pub(super) fn meet_tombstone(
        &self,
        entity: EntityIndex,
        sequence: u64,
        tombstone: &Tombstone,
        recipient: &Recipient,
        all: bool,
    ) -> Option<Line> {
        let scopes = if all { &tombstone.ever } else { &tombstone.scopes };
        if !recipient.has_heard(scopes, Some(sequence)) || recipient.hears(&tombstone.went_to) {
            return None;
        }
        let voice = self.voice(entity);
        let said = self.said_tombstone(entity, sequence, tombstone);
        let Some(last) = tombstone.last.as_ref().filter(|_| voice.view.is_some()) else {
            let (frame, about) = (said.frame, said.about);
            // Most pages have not had it for long.
            return Some(Line::Told(Told { frame, mark: None, loses: false, is_drawn: false, about }));
        };
        Some(Line::Asked(Box::new(Question {
            entity,
            object: Bytes::copy_from_slice(&tombstone.object),
            is_heard: false,
            shown: vec![Shown::Object(last.clone())],
            telling: Telling::Again { is_known: false, is_only_added: false },
            mark: None,
            from: 0,
            whole: false,
            deletion: Some(said.frame.into_frame()),
            about: said.about,
        })))
    }

    /// The same, for everyone.
    pub(super) fn said_tombstone(&self, entity: EntityIndex, sequence: u64, tombstone: &Tombstone) -> Said {
        let kind = ChangeKind::Delete.verb();
        let about = self.is_audited().then(|| {
            let (id, scopes) = (tombstone.id.clone(), tombstone.scopes.clone());
            Box::new(About { entity, id, kind, scopes })
        });
        Said {
            entity,
            only_slowly: false,
            scopes: tombstone.scopes.clone(),
            went_to: tombstone.went_to.clone(),
            deletion: Some(vec![FormerScopes { scopes: tombstone.scopes.clone(), at: Some(sequence), is_sure: true }]),
            mark: None,
            is_drawn: true,
            frame: Cleared(self.voice(entity).buried(tombstone).into()),
            moved: None,
            about,
        }
    }

    /// A row of the store, as it was read for this recipient's identity; with what the log tells of its object since,
    /// where that is there.
    pub(super) fn meet_row(
        &self,
        entity: EntityIndex,
        row: &Row,
        since: Option<(&Record, &Subject)>,
        recipient: &Recipient,
    ) -> Option<Line> {
        let kind = match row.kind {
            RowKind::Object => ChangeKind::Update.verb(),
            RowKind::Gone => ChangeKind::Delete.verb(),
            RowKind::Marker => {
                return Some(Line::Told(Told {
                    frame: Cleared(row.frame.clone()),
                    mark: None,
                    loses: false,
                    is_drawn: false,
                    about: None,
                }));
            }
        };
        let about = self.is_audited().then(|| {
            let (id, scopes) = (Arc::from(&*row.id), recipient.identity.hears().clone());
            Box::new(About { entity, id, kind, scopes })
        });
        let is_gone = row.kind == RowKind::Gone;
        let mark = self.mark_of_row(entity, row).map(Box::new);
        let is_filtered = self.voice(entity).view.is_some();
        let (object, is_heard, shown) = match (since.filter(|_| is_gone), &row.object) {
            // It is there again; for those who may see it.
            (Some((record, _)), _) if recipient.hears(&record.scopes) && !is_filtered => return None,
            (Some((record, subject)), _) if is_filtered => {
                (&subject.object, recipient.hears(&record.scopes), vec![Shown::Anything])
            }
            // Who it was before may have seen it.
            (_, Some(object)) if is_gone => (object, false, vec![Shown::Anything]),
            (_, Some(object)) => (object, true, Vec::new()),
            // What the store says is gone, it says to this identity.
            (_, None) => {
                let frame = Cleared(row.frame.clone());
                return Some(Line::Told(Told { frame, mark, loses: is_gone, is_drawn: !is_gone, about }));
            }
        };
        Some(Line::Asked(Box::new(Question {
            entity,
            object: object.clone(),
            is_heard,
            shown,
            telling: if is_gone { Telling::Gone } else { Telling::Again { is_known: false, is_only_added: false } },
            mark,
            from: 0,
            whole: true,
            deletion: is_gone.then(|| row.frame.clone()),
            about,
        })))
    }

    /// An object of the log that comes in sight.
    fn appearing(&self, entity: EntityIndex, subject: &Subject) -> Frame {
        let whole = subject.whole || self.delivery == Delivery::Plain;
        self.entering(entity, &subject.object, subject.can_be_added(self.voice(entity), whole))
    }

    /// An object that comes in sight.
    fn entering(&self, entity: EntityIndex, object: &Bytes, can_add: bool) -> Frame {
        let voice = self.voice(entity);
        match self.delivery {
            Delivery::Converging => voice.upsert(object, can_add).for_anyone(),
            Delivery::Plain if can_add => voice.sharing(ChangeKind::Add, object),
            Delivery::Plain => voice.sharing(ChangeKind::Update, object),
        }
    }

    /// An object of the log that goes out of sight. A large one is not read for its id while others wait for the log:
    /// pages compare ids as text.
    fn going_from_log(&self, entity: EntityIndex, subject: &Subject) -> Bytes {
        if subject.object.len() < LARGE {
            self.going(entity, &subject.object)
        } else {
            self.going_by_id(entity, &quoted(&subject.id))
        }
    }

    /// An object that goes out of sight.
    fn going(&self, entity: EntityIndex, object: &[u8]) -> Bytes {
        let object = Object::parse(object).unwrap_or_default();
        self.going_by_id(entity, object.get("id").unwrap_or("null"))
    }

    /// The same, with its id as JSON text.
    pub(super) fn going_by_id(&self, entity: EntityIndex, raw_id: &str) -> Bytes {
        let only_id = format!(r#"{{"id":{raw_id}}}"#);
        let voice = self.voice(entity);
        match self.delivery {
            Delivery::Converging => voice.gone(&only_id, true).frame,
            Delivery::Plain => voice.plainly(ChangeKind::Delete, &only_id).frame,
        }
    }
}

impl Subject {
    /// Whether pages can be told to add the object, where it is `whole`.
    pub(super) fn can_be_added(&self, voice: &Voice, whole: bool) -> bool {
        match self.can_add {
            Some(can_add) => whole && can_add,
            None => voice.can_add(&self.object, whole),
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

/// What an entity's hooks are asked about one object and one recipient.
#[derive(Debug)]
pub(super) struct Question {
    entity: EntityIndex,
    /// The object as it is now; of one that is gone only its id.
    object: Bytes,
    /// It is told in the recipient's scopes.
    is_heard: bool,
    /// What the recipient may have been shown of it.
    shown: Vec<Shown>,
    telling: Telling,
    mark: Option<Box<Mark>>,
    /// Where in the log it begins what the recipient may be missing.
    from: u64,
    whole: bool,
    /// What tells that it is gone for everybody.
    deletion: Option<Frame>,
    about: Option<Box<About>>,
}

#[derive(Debug)]
enum Shown {
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
    Again {
        is_known: bool,
        /// There is nothing to be told but the add.
        is_only_added: bool,
    },
    /// Only that it is gone, if it is to be.
    Gone,
    /// That it is gone, once more, or what it is if it may be seen again.
    Reminder,
}

/// How long the hooks may take that are asked about one object.
#[derive(Clone, Copy)]
pub(super) struct Patience {
    since: Instant,
    limit: Duration,
}

impl Patience {
    pub(super) fn new(limit: Duration) -> Self {
        Self { since: Instant::now(), limit }
    }

    fn left(self) -> Duration {
        self.limit.saturating_sub(self.since.elapsed())
    }
}

/// What a question comes to.
pub(super) enum Answer {
    Told(Told),
    Nothing,
    /// A hook has failed.
    Unsaid(Box<Mark>, u64),
}

impl Question {
    /// What is read, and may be told.
    fn bytes(&self) -> usize {
        let shown = self.shown.iter().map(|shown| match shown {
            Shown::Object(object) => object.len(),
            Shown::Anything | Shown::Nothing => 0,
        });
        self.object.len() + shown.sum::<usize>()
    }

    pub(super) async fn answer(
        self,
        hub: &Hub,
        identity: &Identity,
        patience: Patience,
        failed: &impl Fn(&str, &dyn fmt::Display),
    ) -> Answer {
        let voice = hub.voice(self.entity);
        let Some(view) = voice.view.as_ref() else {
            return Answer::Nothing;
        };
        let object = String::from_utf8_lossy(&self.object);
        let kind = if matches!(self.telling, Telling::Add) { ChangeKind::Add } else { ChangeKind::Update };
        let mut seen = None;
        let mut has_failed = false;
        if self.is_heard {
            let answer = guarded(patience.left(), || view.seen(identity, &object)).await;
            let said = match answer {
                // What is seen as it is, is shared with all who see it so.
                Ok(Ok(Some(seen))) if voice.can_say(kind, &seen) => Ok(Some(match seen {
                    Cow::Borrowed(_) => self.object.clone(),
                    Cow::Owned(own) => Bytes::from(own),
                })),
                Ok(Ok(None)) => Ok(None),
                Ok(Ok(Some(_))) => Err("what project answered would break pages".into()),
                Ok(Err(error)) => Err(error),
                Err(failure) => Err(failure.to_string().into()),
            };
            seen = said.unwrap_or_else(|error: BoxError| {
                failed(&voice.entity, &error);
                has_failed = true;
                None
            });
        }
        let (frame, loses) = match (seen, self.telling) {
            (None, _) if !self.was_shown(view, identity, &voice.entity, patience, failed).await => {
                return match self.mark.filter(|_| has_failed) {
                    Some(mark) => Answer::Unsaid(mark, self.from),
                    None => Answer::Nothing,
                };
            }
            (None, _) => match self.deletion {
                Some(frame) => (frame, true),
                None => (hub.going(self.entity, &self.object).into(), true),
            },
            (Some(_), Telling::Gone) => return Answer::Nothing,
            (Some(object), Telling::Reminder) => {
                (voice.upsert(&object, voice.can_add(&object, self.whole)).for_anyone(), false)
            }
            (Some(object), Telling::Add) => (voice.sharing(ChangeKind::Add, &object), false),
            (Some(object), Telling::Update) => {
                match self.has_stayed(view, identity, &voice.entity, patience, failed).await {
                    true => (voice.sharing(ChangeKind::Update, &object), false),
                    false => {
                        let can_add = voice.can_add(&object, self.whole || hub.delivery == Delivery::Plain);
                        (hub.entering(self.entity, &object, can_add), false)
                    }
                }
            }
            // What a projection shows may have changed although the object has not.
            (Some(object), Telling::Again { is_only_added: true, .. })
                if view.project.is_none() && voice.can_add(&object, self.whole) =>
            {
                (voice.sharing(ChangeKind::Add, &object), false)
            }
            (Some(object), Telling::Again { is_known, .. }) => {
                let has_stayed = is_known && self.has_stayed(view, identity, &voice.entity, patience, failed).await;
                (voice.upsert(&object, voice.can_add(&object, self.whole && !has_stayed)).for_anyone(), false)
            }
        };
        // To be reminded is no new loss.
        let is_new = !(loses && matches!(self.telling, Telling::Reminder));
        let mark = self.mark.filter(|_| is_new);
        Answer::Told(Told { frame: Cleared(frame), mark, loses, is_drawn: true, about: self.about })
    }

    /// Whether the recipient may be showing the object. A hook that fails does not know, and so it may.
    async fn was_shown(
        &self,
        view: &View,
        identity: &Identity,
        entity: &str,
        patience: Patience,
        failed: &impl Fn(&str, &dyn fmt::Display),
    ) -> bool {
        for shown in &self.shown {
            let was_shown = match shown {
                Shown::Nothing => false,
                Shown::Anything => true,
                Shown::Object(object) => {
                    let may_see = may_see(view, identity, object, patience);
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
        patience: Patience,
        failed: &impl Fn(&str, &dyn fmt::Display),
    ) -> bool {
        if self.shown.is_empty() {
            return false;
        }
        for shown in &self.shown {
            let was_shown = match shown {
                Shown::Nothing | Shown::Anything => false,
                Shown::Object(object) => {
                    let may_see = may_see(view, identity, object, patience);
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
async fn may_see(view: &View, identity: &Identity, object: &[u8], patience: Patience) -> Result<bool, String> {
    let object = String::from_utf8_lossy(object);
    match guarded(patience.left(), || view.may_see(identity, &object)).await {
        Ok(Ok(may_see)) => Ok(may_see),
        Ok(Err(error)) => Err(error.to_string()),
        Err(failure) => Err(failure.to_string()),
    }
}
