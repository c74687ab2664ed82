//! Who listens, and how what is told reaches them: one log, one cursor each, no queues. Knows no sockets.
//!
//! Publishing appends to the log and wakes the fan-out tasks, one per worker, each owning a shard of the subscribers.
//! A subscriber that took everything so far is on the *fast way*: the fan-out task hands it what is new and moves its
//! cursor. One that did not, or that must hear what it missed, is on the *slow way*: its own task reads the log by its
//! cursor, a bounded share at a time, until it has caught up.

mod activity;
mod again;
mod fanout;
mod feed;
mod handout;
mod hidden;
mod log;
#[cfg(test)]
mod proof;
mod session;
mod settle;
mod sight;
#[cfg(test)]
pub(crate) mod tests;
mod upsert;
mod view;
mod voice;

use std::{
    borrow::Cow,
    collections::HashSet,
    fmt,
    ops::Range,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::time::Instant;

pub(crate) use self::{
    activity::{Activity, Missed},
    feed::{Inquiry, Origin, Outlet, Progress, Subscriber, Taken},
    log::LogLimits,
    session::{SessionId, SessionLimits},
    settle::SettleTimes,
    sight::Cleared,
    view::View,
    voice::Voice,
};
use self::{
    fanout::{Settler, Shard},
    feed::{Feed, PageFeed},
    handout::{Batch, Repeat, Repetition},
    log::{Former, Log, Matter, Record, State, Subject, Was},
    session::Sessions,
    settle::{Due, Settle},
    sight::{How, Recipient, Said},
    upsert::Upsert,
};
use crate::{
    auth::Identity,
    change::{Before, Change, ChangeKind},
    lock::lock,
    object::{Object, quoted},
    observe::{Counter, audit},
    protocol,
    scope::{Earlier, Scopes},
};

/// The place of an entity in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct EntityIndex(pub(crate) u16);

/// What pages are promised.
///
/// ```
/// use tower_live_updates::{Delivery, Entity, LiveUpdates};
///
/// let live = LiveUpdates::builder("/api/v1")
///     .allow_anonymous()
///     .entity(Entity::scheduler("/events"))
///     .delivery(Delivery::Plain)
///     .build()?;
/// # Ok::<(), tower_live_updates::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Delivery {
    /// Every open page ends up equal to the server. The default.
    #[default]
    Converging,
    /// Each change is said once, in the words of the vendor's article and no others: no key, no history, no repeats.
    /// A page keeps what it missed, and what its own client dropped, until it is loaded again.
    Plain,
}

/// The times of delivering.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DeliveryTimes {
    pub(crate) settle: SettleTimes,
    /// A replay is told once more after this long: the page's list may arrive later than the replay.
    pub(crate) replay_again: Duration,
    /// A replay begins this long before what is known to have arrived.
    pub(crate) replay_overlap: Duration,
    /// What a page may have missed begins this long before its handshake.
    pub(crate) first_load: Duration,
    /// A ping that asks for an acknowledgement rides along at most this often.
    pub(crate) acknowledge_every: Duration,
    /// Deletions are told again this often …
    pub(crate) deletions_every: Duration,
    /// … and for this long, since the client cannot apply one while the event's form is open.
    pub(crate) deletions_for: Duration,
}

impl DeliveryTimes {
    /// Many deletions are told again less often than a few.
    fn deletions_after(&self, told: usize) -> Duration {
        let rounds = u32::try_from(told / REPEAT_FRAMES).unwrap_or(u32::MAX);
        let rare = (self.deletions_for / 3).max(self.deletions_every);
        self.deletions_every.saturating_mul(rounds.saturating_add(1)).min(rare)
    }
}

/// Records handed to the fast way at once.
const BATCH_RECORDS: usize = 256;
/// Frames that everyone is told again at once; more are told to each at its own pace.
const REPEAT_FRAMES: usize = 512;

/// The log and everyone who follows it.
pub(crate) struct Hub {
    delivery: Delivery,
    times: DeliveryTimes,
    /// One for each entity; the last is `$resync`.
    voices: Vec<Voice>,
    resync: EntityIndex,
    log: Mutex<Log>,
    settles: Mutex<Vec<Settle>>,
    sessions: Sessions,
    shards: OnceLock<Box<[Arc<Shard>]>>,
    /// Subscribers so far.
    joined: AtomicUsize,
    settler: Settler,
    pub(crate) tally: Tally,
}

/// What was delivered besides what happened.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Entities replayed to pages that came or came back.
    pub(crate) replays: Counter,
    /// Entities brought to the store's state.
    pub(crate) snapshots: Counter,
    /// Entities of which nobody could say where they stand.
    pub(crate) gaps: Counter,
    /// Objects told again, each time and to each subscriber.
    pub(crate) repeats: Counter,
}

/// To whom something is told once more.
#[derive(Clone, Copy, Debug)]
enum Pages {
    /// They may have missed anything.
    Any,
    /// What was added before is there, and an update will do.
    ThatHave { everything_before: u64 },
}

/// The rows of a store at one time, as frames.
#[derive(Clone, Debug)]
pub(crate) struct SnapshotFrames {
    /// Where the log stood before the store was asked.
    pub(crate) at: u64,
    /// Of who it was asked for.
    scopes: Scopes,
    gone: Arc<[Row]>,
    rows: Arc<[Row]>,
}

impl SnapshotFrames {
    /// The same, to somebody who could see `earlier`: what is not among the rows any more is gone.
    fn instead_of(&self, earlier: &Self, gone: impl Fn(&str) -> Bytes) -> Self {
        let rows: HashSet<&str> = self.rows.iter().map(|row| &*row.id).collect();
        let lost = earlier.rows.iter().filter(|row| row.kind == RowKind::Object && !rows.contains(&*row.id));
        let lost = lost.map(|row| Row { frame: gone(&row.id), kind: RowKind::Gone, ..row.clone() });
        Self { gone: self.gone.iter().cloned().chain(lost).collect(), ..self.clone() }
    }

    fn only_gone(&self) -> Self {
        Self { rows: Arc::default(), ..self.clone() }
    }
}

#[derive(Clone, Debug)]
struct Row {
    id: Box<str>,
    /// What the log may find its object by.
    keys: Box<[Arc<str>]>,
    frame: Bytes,
    /// The object itself, where it is asked who may see it.
    object: Option<Bytes>,
    kind: RowKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RowKind {
    Object,
    Gone,
    /// Tells the page to load its list again, once.
    Marker,
}

impl Hub {
    pub(crate) fn new(
        delivery: Delivery,
        mut voices: Vec<Voice>,
        log: LogLimits,
        times: DeliveryTimes,
        sessions: SessionLimits,
    ) -> Self {
        let resync = EntityIndex(u16::try_from(voices.len()).unwrap_or(u16::MAX));
        voices.push(Voice::new(RESYNC, RESYNC));
        Self {
            delivery,
            times,
            resync,
            log: Mutex::new(Log::new(log, voices.len())),
            settles: Mutex::new(voices.iter().map(|_| Settle::new(Instant::now())).collect()),
            voices,
            sessions: Sessions::new(sessions),
            shards: OnceLock::new(),
            joined: AtomicUsize::new(0),
            settler: Settler::default(),
            tally: Tally::default(),
        }
    }

    pub(crate) fn delivery(&self) -> Delivery {
        self.delivery
    }

    /// The entity of this name, [`RESYNC`] among them.
    pub(crate) fn find(&self, name: &str) -> Option<EntityIndex> {
        let at = self.voices.iter().position(|voice| voice.entity == name)?;
        u16::try_from(at).ok().map(EntityIndex)
    }

    /// The sequence number the next record will get.
    pub(crate) fn head(&self) -> u64 {
        lock(&self.log).head()
    }

    /// Where a page that makes its handshake now may have begun to miss something: its list is a little older.
    pub(crate) fn handshake(&self, now: Instant) -> u64 {
        let log = lock(&self.log);
        log.position(now, self.times.first_load)
    }

    /// Records kept, and the bytes they cost.
    pub(crate) fn log_size(&self) -> (usize, usize) {
        lock(&self.log).size()
    }

    /// Sessions remembered.
    pub(crate) fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Tells changes, in this order and with nothing in between.
    ///
    /// `began` is where the log stood when the write that made an add began: an object that was told since then is
    /// newer than the add. Its newest state goes out instead, or nothing where it was added or deleted since.
    /// Returns how many there was something to tell of.
    pub(crate) fn publish(&self, entity: EntityIndex, changes: &[Change], began: Option<u64>) -> u64 {
        let mut announced = Vec::new();
        let told = {
            let mut log = lock(&self.log);
            let before = log.head();
            let now = Instant::now();
            let mut told = 0;
            for change in changes {
                let key = self.voice(entity).key(change.namespace(), change.id());
                let newer = began
                    .filter(|_| change.kind() == ChangeKind::Add)
                    .and_then(|began| log.newest_record(entity, &key).filter(|(at, ..)| (began..before).contains(at)))
                    // What was told elsewhere is nothing to it.
                    .filter(|(_, record, _)| !self.voice(entity).is_scoped || record.scopes == *change.scopes());
                let record = match newer.map(|(_, record, subject)| (record, subject)) {
                    None => self.record(&log, entity, change),
                    // The id of an object that was deleted meanwhile has been given to this one.
                    Some((_, Subject { kind: ChangeKind::Delete, added: Some(added), .. }))
                        if began.is_some_and(|began| *added < began) =>
                    {
                        self.record(&log, entity, change)
                    }
                    Some((_, Subject { kind: ChangeKind::Add | ChangeKind::Delete, .. })) => continue,
                    Some((newer, Subject { object, .. })) => {
                        // An update may leave fields out that pages need of an add.
                        let sent = Object::of(change.object()).unwrap_or_default();
                        let object = sent.overlaid(Object::parse(object).unwrap_or_default());
                        self.changed(&log, entity, change, Some(object), newer.scopes.clone(), true)
                    }
                };
                let came = self.came_in_part(&record);
                if audit::is_on() {
                    announced.push((change.id(), change.kind().verb(), record.scopes.clone()));
                }
                log.append(now, record);
                told += 1;
                if let Some(scopes) = came {
                    if !self.voice(entity).has_snapshot {
                        let (entity, frame, scopes) = (self.resync, self.resync_message(entity), scopes.clone());
                        log.append(now, Record { entity, frame, scopes, matter: Matter::Message });
                    }
                    let frame = self.voice(entity).resync_marker();
                    log.append(now, Record { entity, frame, scopes, matter: Matter::Refresh });
                }
            }
            lock(&self.settles)[usize::from(entity.0)].told(now, log.head());
            told
        };
        self.wake();
        for (id, kind, scopes) in announced {
            audit::published(&self.voice(entity).entity, id, kind, &scopes, self.audience(entity, &scopes));
        }
        told
    }

    /// Tells a message: `value` is JSON text.
    pub(crate) fn send(&self, entity: EntityIndex, scopes: Scopes, value: &str) {
        let name = &self.voice(entity).entity;
        let frame = protocol::message(name, value);
        let announced = audit::is_on().then(|| scopes.clone());
        let mut log = lock(&self.log);
        log.append(Instant::now(), Record { entity, frame, scopes, matter: Matter::Message });
        drop(log);
        self.wake();
        if let Some(scopes) = announced {
            audit::published(name, "", audit::MESSAGE, &scopes, self.audience(entity, &scopes));
        }
    }

    /// How many follow an entity at the moment who hear what is told in these scopes.
    fn audience(&self, entity: EntityIndex, scopes: &Scopes) -> usize {
        let of_shard = |shard: &Arc<Shard>| {
            let subscribers = lock(&shard.subscribers);
            subscribers.iter().filter(|(_, subscriber)| subscriber.would_hear(entity, scopes)).count()
        };
        self.shards().iter().map(of_shard).sum()
    }

    /// Has every page of an entity brought to the store's state, or told to load its list again; once more when the
    /// writes are answered that are on their way.
    pub(crate) fn refresh(&self, entity: EntityIndex) {
        lock(&self.settles)[usize::from(entity.0)].refreshed();
        self.refresh_once(entity);
    }

    fn refresh_once(&self, entity: EntityIndex) {
        let voice = self.voice(entity);
        let marker = Record { entity, frame: voice.resync_marker(), scopes: Scopes::All, matter: Matter::Refresh };
        let mut log = lock(&self.log);
        let now = Instant::now();
        if !voice.has_snapshot {
            let frame = self.resync_message(entity);
            log.append(now, Record { entity: self.resync, frame, scopes: Scopes::All, matter: Matter::Message });
        }
        log.append(now, marker);
        drop(log);
        self.wake();
    }

    /// The deletions of the objects known to go with this one, each before the one it goes with.
    pub(crate) fn descendants(&self, entity: EntityIndex, change: &Change) -> Vec<Change> {
        let log = lock(&self.log);
        let key = self.voice(entity).key(change.namespace(), change.id());
        let known = log.newest_record(entity, &key).map_or(Scopes::None, |(_, record, _)| record.scopes.clone());
        let scopes = if self.voice(entity).is_scoped { known.and(change.scopes()) } else { Scopes::All };
        let along = log.descendants(entity, &key);
        let deletion = |key: Arc<str>| {
            let (_, record, subject) = log.newest_record(entity, &key)?;
            // What is told elsewhere does not go with it.
            if !record.scopes.admit(&scopes) {
                return None;
            }
            let deletion = Change::delete(&subject.id).ok()?.unique_in(change.namespace());
            let scopes = if self.voice(entity).is_scoped { &record.scopes } else { &Scopes::None };
            Some(deletion.told_in(scopes, &Scopes::None))
        };
        along.into_iter().filter_map(deletion).collect()
    }

    /// What tells an object of an entity from others.
    pub(crate) fn key<'k>(&self, entity: EntityIndex, namespace: &Scopes, id: &'k str) -> Cow<'k, str> {
        self.voice(entity).key(namespace, id)
    }

    /// True where the log knows who has heard of an object.
    pub(crate) fn knows_scopes_of(&self, entity: EntityIndex, id: &str) -> bool {
        !self.voice(entity).has_own_ids && lock(&self.log).newest(entity, id).is_some()
    }

    /// True where somebody may ask what this object was before, and the log does not know.
    pub(crate) fn lacks(&self, entity: EntityIndex, scopes: &Scopes, id: &str) -> bool {
        let voice = self.voice(entity);
        voice.view.is_some() && lock(&self.log).newest(entity, &voice.key(scopes, id)).is_none()
    }

    /// Adds a subscriber, with no subscriptions yet, and makes sure that somebody serves it. Needs a runtime.
    pub(crate) fn join(
        self: &Arc<Self>,
        outlet: Arc<dyn Outlet>,
        identity: Identity,
        origin: Origin,
    ) -> Arc<Subscriber> {
        let shards = self.shards.get_or_init(|| {
            let workers = tokio::runtime::Handle::current().metrics().num_workers();
            (0..workers).map(|_| Arc::new(Shard::default())).collect()
        });
        let now = Instant::now();
        let head = self.head();
        let mut earlier = Earlier::default();
        let page = match origin {
            Origin::Unknown => None,
            Origin::Page { session, missed_from } => {
                let taken = session.and_then(|id| self.sessions.take(id, identity.hears(), head, now));
                let (hold, hidden) = match taken {
                    Some(taken) => {
                        earlier = taken.earlier;
                        (Some(taken.hold), taken.hidden)
                    }
                    None => (None, Vec::new()),
                };
                Some(PageFeed { hold, missed_from, hidden })
            }
        };
        let turn = self.joined.fetch_add(1, Ordering::Relaxed);
        let at = turn % shards.len();
        let shard = &shards[at];
        let recipient = Recipient { identity, earlier };
        let ping_due = now + spread(turn, self.times.acknowledge_every);
        let feed = Mutex::new(Feed::new(head, recipient, page, ping_due));
        let subscriber = Arc::new(Subscriber { feed, outlet, seat: OnceLock::new() });
        let place = lock(&shard.subscribers).insert(subscriber.clone());
        subscriber.seat.get_or_init(|| (at, place));
        shard.serve(self);
        if self.delivery == Delivery::Converging {
            self.settler.serve(self);
        }
        subscriber
    }

    /// Takes a subscriber off the list, once: somebody else may have its seat after that. Nothing is handed to its outlet
    /// any more.
    pub(crate) fn leave(&self, subscriber: &Subscriber, now: Instant) {
        let Some(left) = subscriber.leave() else {
            return;
        };
        if let Some((hold, hidden)) = left {
            self.sessions.leave(&hold, hidden, self.head(), now);
        }
        if let Some(&(shard, place)) = subscriber.seat.get() {
            let seat = lock(&self.shards()[shard].subscribers).try_remove(place);
            // It may be the last to hold the application's data, which ends under no lock.
            drop(seat);
        }
    }

    /// Rows of the store, and ids of what is gone, as they are told to pages that lost their place. `at` is where the
    /// log stood before the store was asked. Rows that would break pages are left out; how many is said. What has a row
    /// is not taken for deleted any more.
    pub(crate) fn snapshot(
        &self,
        entity: EntityIndex,
        at: u64,
        identity: &Identity,
        rows: &[Change],
        gone: &[Change],
    ) -> (SnapshotFrames, usize) {
        let voice = self.voice(entity);
        let keys = |scopes: &Scopes, id: &str| -> Box<[Arc<str>]> {
            voice.keys(scopes, id).into_iter().map(|key| Arc::from(&*key)).collect()
        };
        let gone = gone.iter().map(|change| Row {
            id: change.id().into(),
            keys: keys(identity.hears(), change.id()),
            frame: voice.gone(change.object(), true).frame,
            object: None,
            kind: RowKind::Gone,
        });
        let heard = rows.iter().filter(|row| !voice.is_scoped || row.scopes().admit(identity.hears()));
        let (bearable, others): (Vec<&Change>, Vec<&Change>) = heard.partition(|change| voice.bears(change));
        let unbearable = others.len();
        let there: Vec<Box<[Arc<str>]>> =
            bearable.iter().chain(&others).map(|row| keys(row.scopes(), row.id())).collect();
        {
            let mut log = lock(&self.log);
            there.iter().flatten().for_each(|key| log.unbury(entity, key, at));
        }
        let objects = bearable.into_iter().zip(there).map(|(change, keys)| {
            let object = voice.view.is_some().then(|| Bytes::copy_from_slice(change.object().as_bytes()));
            let frame = if object.is_some() { Bytes::new() } else { voice.upsert(change.object(), true).for_anyone() };
            Row { id: change.id().into(), keys, frame, object, kind: RowKind::Object }
        });
        let scopes = identity.hears().clone();
        (SnapshotFrames { at, scopes, gone: gone.collect(), rows: objects.collect() }, unbearable)
    }

    /// What stands for a snapshot where there is none. It speaks to the handlers of `$resync` whether or not they are
    /// subscribed yet: pages without any ignore it.
    fn marker(&self, entity: EntityIndex, at: u64) -> SnapshotFrames {
        let marker =
            |frame| Row { id: RESYNC.into(), keys: Box::default(), frame, object: None, kind: RowKind::Marker };
        let rows = [marker(self.voice(entity).resync_marker()), marker(self.resync_message(entity))];
        SnapshotFrames { at, scopes: Scopes::None, gone: Arc::default(), rows: rows.into() }
    }

    fn resync_message(&self, entity: EntityIndex) -> Bytes {
        let name = quoted(&self.voice(entity).entity);
        protocol::message(RESYNC, &format!(r#"{{"type":"resync","entity":{name}}}"#))
    }

    /// Says again what has settled; returns when to look next.
    pub(crate) fn settle(&self, now: Instant) -> Option<Instant> {
        let mut next = None;
        for entity in self.entities() {
            let log = lock(&self.log);
            let mut settles = lock(&self.settles);
            let settle = &mut settles[usize::from(entity.0)];
            let again = settle.repeat(now, log.base()..log.head(), &self.times.settle);
            let due = settle.due(now, &self.times.settle);
            drop(settles);
            next = next.into_iter().chain(due).min();
            for Due { told, is_last, known_before } in again {
                self.repeat(&Repeat { entity, told, is_last, known_before, only_deletions: false });
            }
        }
        next
    }

    /// Says again what was deleted lately.
    fn repeat_deletions(&self, now: Instant) {
        if self.shards().iter().all(|shard| lock(&shard.subscribers).is_empty()) {
            return;
        }
        for entity in self.entities() {
            let log = lock(&self.log);
            let from = self.young_tombstones(&log, now).max(self.reimported_before(&log, entity));
            let count = log.tombstones(entity, from..log.head()).count();
            drop(log);
            let rest = self.times.deletions_after(count).saturating_sub(self.times.deletions_every);
            // Some may have lost sight of objects that are there for others.
            let are_there = count > 0 || self.voice(entity).is_choosy();
            if are_there && lock(&self.settles)[usize::from(entity.0)].repeats_deletions(now, rest) {
                let told = from..u64::MAX;
                self.repeat(&Repeat { entity, told, is_last: false, known_before: 0, only_deletions: true });
            }
        }
    }

    /// Where the deletions begin that are told again.
    fn young_tombstones(&self, log: &Log, now: Instant) -> u64 {
        now.checked_sub(self.times.deletions_for).map_or(0, |then| log.tombstones_since(then))
    }

    /// Ids that were deleted before this may be there again. Where the store can be asked, it has said which.
    fn reimported_before(&self, log: &Log, entity: EntityIndex) -> u64 {
        if self.voice(entity).has_snapshot { 0 } else { log.refreshed(entity) }
    }

    fn repeat(&self, repeat: &Repeat) {
        for shard in self.shards() {
            shard.repeat(repeat.clone());
        }
    }

    /// What is told once more, as it is now.
    fn repetition(&self, repeat: &Repeat) -> Repetition {
        let Repeat { entity, is_last, only_deletions, known_before, told: Range { start, end } } = *repeat;
        let log = lock(&self.log);
        let until = log.head();
        let start = if is_last || only_deletions { start } else { start.max(log.base()) };
        let at_most = REPEAT_FRAMES + 1;
        let frames: Vec<Said> = if self.voice(entity).view.is_some() {
            // Each is asked what it may see.
            return Repetition {
                repeat: Repeat { told: start..end, ..repeat.clone() },
                until,
                is_gone: !only_deletions && start < log.base(),
                frames: None,
            };
        } else if only_deletions {
            let buried = |(sequence, tombstone)| self.said_tombstone(sequence, tombstone);
            log.tombstones(entity, start..until.max(start)).map(buried).take(at_most).collect()
        } else {
            let how = How::Again { from: start, pages: Pages::ThatHave { everything_before: known_before } };
            let newest = self.newest(&log, entity, start, start, u64::MAX);
            let newest = newest.take_while(|(at, _)| *at < end);
            let records = newest.filter_map(|(at, record)| record.map(|record| self.said(&log, at, record, how)));
            records.take(at_most).collect()
        };
        Repetition {
            repeat: Repeat { told: start..end, ..repeat.clone() },
            until,
            is_gone: !only_deletions && start < log.base(),
            frames: (frames.len() <= REPEAT_FRAMES).then_some(frames),
        }
    }

    /// The sequence numbers from one on; with those from `changes_from` on the record that is the newest of one of this
    /// entity's objects, with those from `messages_from` on what else was said.
    fn newest<'l>(
        &'l self,
        log: &'l Log,
        entity: EntityIndex,
        from: u64,
        changes_from: u64,
        messages_from: u64,
    ) -> impl Iterator<Item = (u64, Option<&'l Record>)> + 'l {
        log.since(from).into_iter().flatten().map(move |(sequence, record)| {
            let is_wanted = record.entity == entity
                && match &record.matter {
                    Matter::Change(subject) => {
                        changes_from <= sequence && log.is_newest(entity, &subject.key, sequence)
                    }
                    Matter::Message => messages_from <= sequence,
                    // Where the store can be asked, that is done instead.
                    Matter::Refresh => messages_from <= sequence && !self.voice(entity).has_snapshot,
                };
            (sequence, is_wanted.then_some(record))
        })
    }

    fn entities(&self) -> impl Iterator<Item = EntityIndex> {
        (0..self.resync.0).map(EntityIndex)
    }

    fn voice(&self, entity: EntityIndex) -> &Voice {
        &self.voices[usize::from(entity.0)]
    }

    /// A change as it is told, with what the log knows of its object.
    fn record(&self, log: &Log, entity: EntityIndex, change: &Change) -> Record {
        let voice = self.voice(entity);
        let scopes = if voice.is_scoped { change.scopes().clone() } else { Scopes::All };
        if self.delivery == Delivery::Plain && change.kind() != ChangeKind::Delete {
            return self.changed(log, entity, change, None, scopes, false);
        }
        let known = log.known(entity, &voice.key(change.namespace(), change.id())).map(|(_, subject)| subject);
        let known = known.filter(|subject| subject.kind != ChangeKind::Delete);
        match (change.kind(), known) {
            (ChangeKind::Delete, _) => self.deleted(log, entity, change, scopes, known),
            (ChangeKind::Update, Some(known)) if !change.is_whole() => {
                let earlier = Object::parse(&known.object).unwrap_or_default();
                let later = Object::of(change.object()).unwrap_or_default();
                self.changed(log, entity, change, Some(earlier.overlaid(later)), scopes, known.whole)
            }
            (kind, _) => {
                let whole = kind == ChangeKind::Add || change.is_whole();
                self.changed(log, entity, change, None, scopes, whole)
            }
        }
    }

    /// The scopes of an object that was in others before, where those who get it now cannot be told all of it.
    fn came_in_part(&self, record: &Record) -> Option<Scopes> {
        let Matter::Change(Subject { kind: ChangeKind::Update, whole: false, former: Former::Known(state), .. }) =
            &record.matter
        else {
            return None;
        };
        let came = self.voice(record.entity).is_scoped && record.scopes != state.scopes;
        (came && self.delivery == Delivery::Converging).then(|| record.scopes.clone())
    }

    /// A deletion is told where it is said to be told, and to those who have the object.
    fn deleted(
        &self,
        log: &Log,
        entity: EntityIndex,
        change: &Change,
        scopes: Scopes,
        known: Option<&Subject>,
    ) -> Record {
        let voice = self.voice(entity);
        let (may_be_exception, said) = match self.delivery {
            Delivery::Plain => (false, voice.plainly(ChangeKind::Delete, change.object())),
            Delivery::Converging => {
                let known = known.map(|subject| (&subject.object[..], subject.whole));
                let may_be_exception = voice.may_be_exception(known);
                (may_be_exception, voice.gone(change.object(), may_be_exception))
            }
        };
        let key = Arc::from(&*voice.key(change.namespace(), change.id()));
        let mut subject = Subject {
            kind: ChangeKind::Delete,
            id: change.id().into(),
            former: self.former(log, entity, &key, change),
            key,
            ever: Scopes::None,
            went_to: change.went_to().clone(),
            object: said.object,
            whole: true,
            added: None,
            parent: None,
            may_be_exception,
        };
        if subject.id == subject.key {
            subject.key = subject.id.clone();
        }
        let scopes = match &subject.former {
            Former::Known(state) => scopes.and(&state.scopes),
            Former::Unknown | Former::Absent => scopes,
        };
        subject.ever = subject.former.ever_and(&scopes);
        Record { entity, frame: said.frame, scopes, matter: Matter::Change(subject) }
    }

    /// An add or update, `merged` being its object with what was known of it, where that is more than the change says.
    fn changed(
        &self,
        log: &Log,
        entity: EntityIndex,
        change: &Change,
        merged: Option<Object<'_>>,
        scopes: Scopes,
        whole: bool,
    ) -> Record {
        let voice = self.voice(entity);
        let (said, parent) = match merged {
            None => (voice.plainly(change.kind(), change.object()), voice.parent_in(change.object())),
            Some(object) => (voice.plainly(change.kind(), &object.to_json()), voice.parent(&object)),
        };
        let parent = parent.map(|parent| Arc::from(&*voice.key(change.namespace(), &parent)));
        let id: Arc<str> = change.id().into();
        let key = if voice.has_own_ids { Arc::from(&*voice.key(change.namespace(), &id)) } else { id.clone() };
        let former = self.former(log, entity, &key, change);
        let subject = Subject {
            kind: change.kind(),
            ever: former.ever_and(&scopes),
            went_to: Scopes::None,
            former,
            id,
            key,
            object: said.object,
            whole,
            added: None,
            parent,
            may_be_exception: false,
        };
        Record { entity, frame: said.frame, scopes, matter: Matter::Change(subject) }
    }

    /// What an object was before a change, where somebody may want to know.
    fn former(&self, log: &Log, entity: EntityIndex, key: &str, change: &Change) -> Former {
        let voice = self.voice(entity);
        if !voice.is_choosy() {
            return Former::Unknown;
        }
        let known = log.newest_record(entity, key);
        // With ids of its own, a scope that was left has had a deletion of its own: nobody here has the object yet.
        let comes = voice.has_own_ids && change.comes();
        let moved_from = if comes { &Scopes::None } else { change.former_scopes() };
        let scopes = match known {
            Some((_, record, _)) => record.scopes.and(moved_from),
            None if comes || !moved_from.is_none() => moved_from.clone(),
            None if voice.is_scoped => change.scopes().clone(),
            None => Scopes::All,
        };
        // What was told before a refresh says who may have the object, and not what it is.
        let is_sure = |at: u64| at >= log.refreshed(entity);
        let was = match (known, change.before()) {
            (Some((at, _, Subject { kind: ChangeKind::Delete, .. })), _) if is_sure(at) => Was::Gone,
            (Some((at, _, subject)), _) if voice.view.is_some() && is_sure(at) => Was::Object(subject.object.clone()),
            (Some((at, ..)), _) if !is_sure(at) => Was::Doubtful,
            (Some(_), _) => Was::Something,
            (None, Before::Object(object)) => Was::Object(Bytes::copy_from_slice(object.as_bytes())),
            (None, Before::Absent) => return Former::Absent,
            (None, Before::Unread) if comes || !moved_from.is_none() => Was::Something,
            (None, Before::Unread) if change.kind() == ChangeKind::Add => return Former::Absent,
            (None, Before::Unread) => return Former::Unknown,
        };
        let ever = known.map_or_else(|| scopes.clone(), |(_, _, subject)| subject.ever.clone());
        Former::Known(Arc::new(State { at: known.map(|(at, ..)| at), scopes, ever, was }))
    }

    /// The newest state of a record's object, for pages that know it or not. Where thousands may come back at once and
    /// each needs it, the record's `place` keeps it.
    fn once_more(&self, place: Option<(&Log, u64)>, record: &Record, subject: &Subject, pages: Pages) -> Bytes {
        if subject.kind == ChangeKind::Delete {
            return record.frame.clone();
        }
        let voice = self.voice(record.entity);
        let say = || voice.upsert(&String::from_utf8_lossy(&subject.object), subject.whole);
        let is_known = subject.is_known_to(pages);
        let of = |upsert: &Upsert| if is_known { upsert.for_those_who_have_it() } else { upsert.for_anyone() };
        let kept = place.and_then(|(log, sequence)| log.upsert(sequence, say));
        kept.map_or_else(|| of(&say()), of)
    }

    fn shards(&self) -> &[Arc<Shard>] {
        self.shards.get().map_or(&[], |shards| shards)
    }

    fn wake(&self) {
        for shard in self.shards() {
            shard.news.notify_one();
        }
    }

    /// What is new from `from` on, for the fast way; where that is gone, what is left.
    fn batch(&self, from: u64) -> Batch {
        let log = lock(&self.log);
        let start = from.max(log.base());
        let unread = log.since(start).into_iter().flatten().take(BATCH_RECORDS);
        let records = unread.map(|(sequence, record)| self.said(&log, sequence, record, How::Live)).collect();
        Batch { start, records, now: Instant::now() }
    }
}

/// The turns of many, spread evenly over a time, the first at its beginning: thousands that come back at once must not
/// be asked at once.
fn spread(turn: usize, over: Duration) -> Duration {
    // Multiples of the golden ratio, less their whole parts, lie nowhere close together.
    let share = (turn as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    over.mul_f64(share as f64 / f64::from(u32::MAX))
}

/// The entity whose subscribers are told that others must be loaded again.
pub(crate) const RESYNC: &str = "$resync";

impl Drop for Hub {
    fn drop(&mut self) {
        // The tasks wake, find the hub gone, and end.
        self.wake();
        self.settler.news.notify_one();
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").finish_non_exhaustive()
    }
}
