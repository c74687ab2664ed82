//! Where what is told meets a recipient: the one place that decides who hears a record, and as what.
//!
//! An outlet takes [`Cleared`] frames and no others, and nothing but this file makes them.

use std::{borrow::Cow, fmt, ops::Deref, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::time::Instant;

use crate::{
    auth::Identity,
    change::ChangeKind,
    entity::{Project, Visible},
    hook::{BoxError, guarded},
    hub::{
        Delivery, EntityIndex, Hub, Pages, Row, RowKind,
        log::{Former, Log, Matter, Record, Subject, Tombstone, Was},
    },
    object::Object,
    observe::audit,
    protocol,
    scope::Scopes,
};

/// A frame that its recipient may hear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cleared(Bytes);

impl Cleared {
    /// A ping: it says nothing of any object.
    pub(crate) fn ping(payload: &[u8]) -> Self {
        Self(protocol::ping(payload))
    }

    /// Any frame at all, for tests of what happens to it behind this place.
    #[cfg(test)]
    pub(crate) fn unseen(frame: Bytes) -> Self {
        Self(frame)
    }

    /// The frame from a byte on.
    pub(crate) fn rest(&self, from: usize) -> Bytes {
        self.0.slice(from..)
    }

    pub(crate) fn into_frame(self) -> Bytes {
        self.0
    }
}

impl Deref for Cleared {
    type Target = Bytes;

    fn deref(&self) -> &Bytes {
        &self.0
    }
}

/// Who is told.
#[derive(Debug)]
pub(crate) struct Recipient {
    pub(super) identity: Identity,
    /// The scopes it had before, on this page: what was told in these it may be showing still.
    pub(super) earlier: Scopes,
}

impl Recipient {
    fn hears(&self, scopes: &Scopes) -> bool {
        scopes.admit(self.identity.hears())
    }

    /// Whether it has been told of an object that was told in these scopes.
    pub(super) fn has_heard(&self, scopes: &Scopes) -> bool {
        self.hears(scopes) || scopes.admit(&self.earlier)
    }

    /// True when its scopes are not what they were on this page.
    pub(super) fn has_changed(&self) -> bool {
        !self.earlier.is_none() && self.earlier != *self.identity.hears()
    }
}

/// How something is told.
#[derive(Clone, Copy, Debug)]
pub(super) enum How {
    /// As it happens, to those who know what came before.
    Live,
    /// Its newest state, to those who may have missed anything from a sequence number on.
    Again { from: u64, pages: Pages },
}

/// What of an entity's objects somebody may see.
#[derive(Clone)]
pub(crate) struct View {
    pub(crate) visible: Option<Visible>,
    pub(crate) project: Option<Project>,
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("View")
    }
}

impl View {
    /// The view of an entity with these hooks; `None` where everybody sees everything that they hear of.
    pub(crate) fn of(visible: Option<&Visible>, project: Option<&Project>) -> Option<Self> {
        (visible.is_some() || project.is_some()).then(|| Self { visible: visible.cloned(), project: project.cloned() })
    }

    async fn may_see(&self, identity: &Identity, object: &str) -> Result<bool, BoxError> {
        match &self.visible {
            Some(visible) => visible(identity.clone(), object).await,
            None => Ok(true),
        }
    }

    /// What this identity sees of an object.
    async fn seen<'o>(&self, identity: &Identity, object: &'o str) -> Result<Option<Cow<'o, str>>, BoxError> {
        if !self.may_see(identity, object).await? {
            return Ok(None);
        }
        let Some(project) = &self.project else {
            return Ok(Some(Cow::Borrowed(object)));
        };
        let projected = project(identity.clone(), object).await?;
        let (was, now) = (Object::of(object).unwrap_or_default(), Object::of(&projected));
        let now = now.ok_or("what project answered is no JSON object")?;
        match (was.get("id"), now.get("id")) {
            (Some(was), None) => Ok(Some(Cow::Owned(now.with("id", was).to_json()))),
            (was, now) if was == now => Ok(Some(Cow::Owned(projected))),
            _ => Err("what project answered has another id".into()),
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
    fn record(record: &Record, kind: &'static str) -> Option<Box<Self>> {
        audit::is_on().then(|| {
            let id = match &record.matter {
                Matter::Change(subject) => subject.id.clone(),
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
    /// The entity, where it is told that an object of it is gone which is still there for others.
    loses: Option<EntityIndex>,
    about: Option<Box<About>>,
}

impl Told {
    pub(super) fn loses(&self) -> Option<EntityIndex> {
        self.loses
    }

    /// The marker of an entity, or anything else that holds no object.
    pub(super) fn marker(frame: Bytes) -> Self {
        Self { frame: Cleared(frame), loses: None, about: None }
    }

    /// Writes down for the audit that it was told.
    pub(super) fn is_told(&self, hub: &Hub, recipient: &Recipient) {
        if let Some(about) = &self.about {
            about.is_told(hub, recipient, self.loses.is_some());
        }
    }
}

impl About {
    fn is_told(&self, hub: &Hub, recipient: &Recipient, loses: bool) {
        let kind = if loses { ChangeKind::Delete.verb() } else { self.kind };
        audit::told(recipient.identity.principal(), &hub.voice(self.entity).entity, &self.id, kind, &self.scopes);
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
    /// About what it will cost to tell.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Told(told) => told.frame.len(),
            Self::Asked(question) => question.object.len(),
        }
    }
}

/// One record, as it is told to everyone who may hear it.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) entity: EntityIndex,
    /// Its subscribers must look at it themselves.
    pub(super) only_slowly: bool,
    scopes: Scopes,
    /// It tells that an object is gone.
    is_deletion: bool,
    frame: Cleared,
    moved: Option<Box<Moved>>,
    about: Option<Box<About>>,
}

/// What an object that was told in other scopes before is told as to those who do not have both.
#[derive(Debug)]
struct Moved {
    from: Scopes,
    appears: Cleared,
    goes: Cleared,
}

/// What somebody hears of it.
pub(super) struct Heard<'s> {
    pub(super) frame: &'s Cleared,
    /// The entity, where it hears that an object of it is gone which is still there for others.
    pub(super) loses: Option<EntityIndex>,
    about: Option<&'s About>,
}

impl Heard<'_> {
    /// Writes down for the audit that it was told.
    pub(super) fn is_told(&self, hub: &Hub, recipient: &Recipient) {
        if let Some(about) = self.about {
            about.is_told(hub, recipient, self.loses.is_some());
        }
    }
}

impl Said {
    /// What this recipient hears of it.
    pub(super) fn to(&self, recipient: &Recipient) -> Option<Heard<'_>> {
        let heard = |frame, loses: bool| {
            Some(Heard { frame, loses: loses.then_some(self.entity), about: self.about.as_deref() })
        };
        if self.is_deletion {
            return if recipient.has_heard(&self.scopes) { heard(&self.frame, false) } else { None };
        }
        let hears = recipient.hears(&self.scopes);
        let had = self.moved.as_ref().map(|moved| (moved, recipient.has_heard(&moved.from)));
        match had {
            Some((moved, false)) if hears => heard(&moved.appears, false),
            _ if hears => heard(&self.frame, false),
            Some((moved, true)) => heard(&moved.goes, true),
            _ => None,
        }
    }

    fn into_told(self, recipient: &Recipient) -> Option<Told> {
        let Heard { frame, loses, .. } = self.to(recipient)?;
        Some(Told { frame: frame.clone(), loses, about: self.about })
    }
}

impl Hub {
    /// A record for everyone: how it is told to those in its scopes, and to those who are no longer, or only now.
    pub(super) fn said(&self, log: &Log, sequence: u64, record: &Record, how: How) -> Said {
        let voice = self.voice(record.entity);
        let is_asked_for = matches!(record.matter, Matter::Refresh) && voice.has_snapshot;
        let is_filtered = matches!(record.matter, Matter::Change(_)) && voice.view.is_some();
        let only_slowly = is_asked_for || is_filtered;
        let moved = match &record.matter {
            Matter::Change(subject) if !only_slowly => self.moved(log, sequence, record, subject, how),
            Matter::Change(_) | Matter::Message | Matter::Refresh => None,
        };
        self.said_of(record, how, only_slowly, moved)
    }

    /// The scopes an object was told in before, where they are others than now.
    fn moved(&self, log: &Log, sequence: u64, record: &Record, subject: &Subject, how: How) -> Option<Scopes> {
        if !self.voice(record.entity).is_scoped || subject.kind == ChangeKind::Delete {
            return None;
        }
        let from = match how {
            How::Live => sequence,
            How::Again { from, .. } => from,
        };
        let known = log.shown_since(subject, from).flatten();
        let former = known.fold(Scopes::None, |scopes, state| scopes.and(&state.scopes));
        (!former.is_none() && former != record.scopes).then_some(former)
    }

    fn said_of(&self, record: &Record, how: How, only_slowly: bool, moved: Option<Scopes>) -> Said {
        let (is_deletion, kind, frame, moved) = match &record.matter {
            Matter::Message | Matter::Refresh => (false, "message", record.frame.clone(), None),
            Matter::Change(subject) => {
                let frame = match how {
                    How::Again { pages, .. } if !only_slowly => {
                        self.once_more(record.entity, subject, &record.frame, pages)
                    }
                    How::Live | How::Again { .. } => record.frame.clone(),
                };
                let moved = moved.map(|from| {
                    Box::new(Moved {
                        from,
                        appears: Cleared(self.appearing(record.entity, &subject.object, subject.whole)),
                        goes: Cleared(self.going(record.entity, &subject.object)),
                    })
                });
                (subject.kind == ChangeKind::Delete, subject.kind.verb(), frame, moved)
            }
        };
        Said {
            entity: record.entity,
            only_slowly,
            scopes: record.scopes.clone(),
            is_deletion,
            frame: Cleared(frame),
            moved,
            about: About::record(record, kind),
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
        let moved = match &record.matter {
            Matter::Change(subject) if self.voice(record.entity).view.is_some() => {
                return self.question(log, sequence, record, subject, recipient, how);
            }
            Matter::Change(subject) => self.moved(log, sequence, record, subject, how),
            Matter::Message | Matter::Refresh => None,
        };
        // What is nothing to it costs no frame.
        if moved.is_none() && !recipient.has_heard(&record.scopes) {
            return None;
        }
        self.said_of(record, how, false, moved).into_told(recipient).map(Line::Told)
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
        let now = (!is_deletion && recipient.hears(&record.scopes)).then(|| subject.object.clone());
        let from = match how {
            How::Live => sequence,
            How::Again { from, .. } => from,
        };
        let mut shown: Vec<Shown> = log
            .shown_since(subject, from)
            .filter_map(|state| match state {
                None => recipient.has_heard(&record.scopes).then_some(Shown::Anything),
                Some(state) => recipient.has_heard(&state.scopes).then(|| match &state.was {
                    Was::Object(object) => Shown::Object(object.clone()),
                    Was::Something | Was::Gone => Shown::Anything,
                }),
            })
            .collect();
        if now.is_none() && !is_deletion && record.scopes.admit(&recipient.earlier) {
            shown.push(Shown::Anything);
        }
        if now.is_none() && shown.is_empty() {
            return None;
        }
        Some(Line::Asked(Box::new(Question {
            entity: record.entity,
            object: subject.object.clone(),
            is_heard: now.is_some(),
            shown,
            telling: match how {
                How::Live if subject.kind == ChangeKind::Add && matches!(subject.former, Former::Known(_)) => {
                    Telling::Update
                }
                How::Live if subject.kind == ChangeKind::Add => Telling::Add,
                How::Live => Telling::Update,
                How::Again { pages, .. } => Telling::Again { is_known: subject.is_known_to(pages) },
            },
            whole: subject.whole,
            deletion: is_deletion.then(|| record.frame.clone()),
            about: About::record(record, subject.kind.verb()),
        })))
    }

    /// A deletion, long after it happened.
    pub(super) fn meet_tombstone(&self, tombstone: &Tombstone, recipient: &Recipient) -> Option<Line> {
        if !recipient.has_heard(&tombstone.scopes) {
            return None;
        }
        let voice = self.voice(tombstone.entity);
        let said = self.said_tombstone(tombstone);
        let Some(last) = tombstone.last.as_ref().filter(|_| voice.view.is_some()) else {
            return said.into_told(recipient).map(Line::Told);
        };
        Some(Line::Asked(Box::new(Question {
            entity: tombstone.entity,
            object: Bytes::copy_from_slice(&tombstone.object),
            is_heard: false,
            shown: vec![Shown::Object(Bytes::copy_from_slice(last))],
            telling: Telling::Again { is_known: false },
            whole: false,
            deletion: Some(said.frame.into_frame()),
            about: said.about,
        })))
    }

    /// The same, for everyone.
    pub(super) fn said_tombstone(&self, tombstone: &Tombstone) -> Said {
        let kind = ChangeKind::Delete.verb();
        let about = audit::is_on().then(|| {
            let (id, scopes) = (tombstone.id.clone(), tombstone.scopes.clone());
            Box::new(About { entity: tombstone.entity, id, kind, scopes })
        });
        Said {
            entity: tombstone.entity,
            only_slowly: false,
            scopes: tombstone.scopes.clone(),
            is_deletion: true,
            frame: Cleared(self.voice(tombstone.entity).buried(tombstone)),
            moved: None,
            about,
        }
    }

    /// A row of the store, as it was read for this recipient's identity.
    pub(super) fn meet_row(&self, entity: EntityIndex, row: &Row, recipient: &Recipient) -> Line {
        let kind = match row.kind {
            RowKind::Object => ChangeKind::Update.verb(),
            RowKind::Gone => ChangeKind::Delete.verb(),
            RowKind::Marker => return Line::Told(Told::marker(row.frame.clone())),
        };
        let about = audit::is_on().then(|| {
            let (id, scopes) = (Arc::from(&*row.id), recipient.identity.hears().clone());
            Box::new(About { entity, id, kind, scopes })
        });
        match &row.object {
            // What the store says is gone, it says to this identity.
            None => Line::Told(Told { frame: Cleared(row.frame.clone()), loses: None, about }),
            Some(object) => Line::Asked(Box::new(Question {
                entity,
                object: object.clone(),
                is_heard: true,
                shown: Vec::new(),
                telling: Telling::Again { is_known: false },
                whole: true,
                deletion: None,
                about,
            })),
        }
    }

    /// An object that comes in sight.
    fn appearing(&self, entity: EntityIndex, object: &[u8], whole: bool) -> Bytes {
        let object = String::from_utf8_lossy(object);
        let voice = self.voice(entity);
        match self.delivery {
            Delivery::Converging => voice.upsert(&object, whole),
            Delivery::Plain if voice.can_say(ChangeKind::Add, &object) => voice.plainly(ChangeKind::Add, &object).frame,
            Delivery::Plain => voice.plainly(ChangeKind::Update, &object).frame,
        }
    }

    /// An object that goes out of sight.
    fn going(&self, entity: EntityIndex, object: &[u8]) -> Bytes {
        let object = Object::parse(object).unwrap_or_default();
        let only_id = format!(r#"{{"id":{}}}"#, object.get("id").unwrap_or("null"));
        let voice = self.voice(entity);
        match self.delivery {
            Delivery::Converging => voice.gone(&only_id, true).frame,
            Delivery::Plain => voice.plainly(ChangeKind::Delete, &only_id).frame,
        }
    }
}

impl Subject {
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
    whole: bool,
    /// What tells that it is gone for everybody.
    deletion: Option<Bytes>,
    about: Option<Box<About>>,
}

#[derive(Debug)]
enum Shown {
    Object(Bytes),
    /// Nobody knows what.
    Anything,
}

#[derive(Clone, Copy, Debug)]
enum Telling {
    Add,
    Update,
    Again { is_known: bool },
}

/// What the hooks of entities are asked for one recipient before it is told more, and what it is told then.
#[derive(Debug)]
pub(crate) struct Inquiry {
    pub(super) lines: Vec<(super::again::Place, Line)>,
    pub(super) then: super::feed::Then,
    pub(super) version: u64,
    pub(super) identity: Identity,
}

impl Inquiry {
    /// Asks all of it, for `limit` at most. What has no answer by then is not to be seen; `failed` is told of it, with
    /// the entity's name.
    pub(crate) async fn ask(&mut self, hub: &Hub, limit: Duration, failed: impl Fn(&str, &dyn fmt::Display)) {
        let patience = Patience { since: Instant::now(), limit };
        let mut answered = Vec::with_capacity(self.lines.len());
        for (place, line) in self.lines.drain(..) {
            let told = match line {
                Line::Told(told) => Some(told),
                Line::Asked(question) => question.answer(hub, &self.identity, &patience, &failed).await,
            };
            answered.extend(told.map(|told| (place, Line::Told(told))));
        }
        self.lines = answered;
    }
}

/// How long all the hooks may take that are asked together.
struct Patience {
    since: Instant,
    limit: Duration,
}

impl Patience {
    fn left(&self) -> Duration {
        self.limit.saturating_sub(self.since.elapsed())
    }
}

impl Question {
    async fn answer(
        self,
        hub: &Hub,
        identity: &Identity,
        patience: &Patience,
        failed: &impl Fn(&str, &dyn fmt::Display),
    ) -> Option<Told> {
        let voice = hub.voice(self.entity);
        let view = voice.view.as_ref()?;
        let object = String::from_utf8_lossy(&self.object);
        let kind = if matches!(self.telling, Telling::Add) { ChangeKind::Add } else { ChangeKind::Update };
        let mut seen = None;
        if self.is_heard {
            let answer = guarded(patience.left(), || view.seen(identity, &object)).await;
            seen = match answer {
                Ok(Ok(Some(object))) if voice.can_say(kind, &object) => Some(object),
                Ok(Ok(None)) => None,
                Ok(Ok(Some(_))) => {
                    failed(&voice.entity, &"what project answered would break pages");
                    None
                }
                Ok(Err(error)) => {
                    failed(&voice.entity, &error);
                    None
                }
                Err(failure) => {
                    failed(&voice.entity, &failure);
                    None
                }
            };
        }
        let matters = match (&seen, self.telling) {
            (None, _) | (_, Telling::Update | Telling::Again { is_known: true }) => true,
            (Some(_), Telling::Add | Telling::Again { is_known: false }) => false,
        };
        let was_shown = matters && self.was_shown(view, identity, &voice.entity, patience, failed).await;
        let (frame, loses) = match (seen, self.telling) {
            (None, _) if !was_shown => return None,
            (None, _) => match self.deletion {
                Some(frame) => (frame, false),
                None => (hub.going(self.entity, &self.object), true),
            },
            (Some(object), Telling::Add) => (voice.plainly(ChangeKind::Add, &object).frame, false),
            (Some(object), Telling::Update) if was_shown => (voice.plainly(ChangeKind::Update, &object).frame, false),
            (Some(object), Telling::Update) => (hub.appearing(self.entity, object.as_bytes(), self.whole), false),
            (Some(object), Telling::Again { is_known }) => {
                (voice.upsert(&object, self.whole && !(is_known && was_shown)), false)
            }
        };
        Some(Told { frame: Cleared(frame), loses: loses.then_some(self.entity), about: self.about })
    }

    /// Whether the recipient may be showing the object. A hook that fails does not know, and so it may.
    async fn was_shown(
        &self,
        view: &View,
        identity: &Identity,
        entity: &str,
        patience: &Patience,
        failed: &impl Fn(&str, &dyn fmt::Display),
    ) -> bool {
        for shown in &self.shown {
            let Shown::Object(object) = shown else {
                return true;
            };
            let object = String::from_utf8_lossy(object);
            match guarded(patience.left(), || view.may_see(identity, &object)).await {
                Ok(Ok(false)) => {}
                Ok(Ok(true)) => return true,
                Ok(Err(error)) => {
                    failed(entity, &error);
                    return true;
                }
                Err(failure) => {
                    failed(entity, &failure);
                    return true;
                }
            }
        }
        false
    }
}
