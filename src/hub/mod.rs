//! Who listens, and how what is told reaches them: one log, one cursor each, no queues. Knows no sockets.
//!
//! Publishing appends to the log and wakes the fan-out tasks, one per worker, each owning a shard of the subscribers.
//! A subscriber that took everything so far is on the *fast way*: the fan-out task hands it what is new and moves its
//! cursor. One that did not, or that must hear what it missed, is on the *slow way*: its own task reads the log by its
//! cursor, a bounded share at a time, until it has caught up.

mod activity;
mod again;
mod append;
mod batch;
mod fanout;
mod feed;
mod handout;
mod hidden;
mod log;
#[cfg(test)]
mod proof;
mod refusals;
mod reminders;
mod saved;
mod session;
mod settle;
#[cfg(test)]
mod sharing;
mod sight;
#[cfg(test)]
pub(crate) mod tests;
mod upsert;
mod voice;

use std::{
    borrow::Cow,
    collections::HashSet,
    fmt,
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
    reminders::{MAX_REMINDERS, ReminderTimes},
    saved::OngoingWrite,
    session::{SessionId, SessionLimits},
    settle::SettleTimes,
    sight::Cleared,
    voice::Voice,
};
use self::{
    fanout::{Settler, Shard},
    feed::{Feed, PageFeed},
    handout::{Batch, Repeat, Repetition, Resent},
    log::{Log, Matter, Record, Subject},
    reminders::Schedule,
    saved::Keeping,
    session::Sessions,
    settle::{Due, Settle},
    sight::{How, Recipient, Said},
    upsert::Upsert,
};
pub(crate) use crate::entity::EntityIndex;
use crate::{
    auth::Identity,
    change::{Change, ChangeKind},
    frame::Frame,
    lock::lock,
    object::quoted,
    observe::{Counter, audit},
    protocol,
    scope::{Earlier, Scopes},
};

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
    pub(crate) second_replay_delay: Duration,
    /// A replay begins this long before what is known to have arrived.
    pub(crate) replay_overlap: Duration,
    /// What a page may have missed begins this long before its handshake.
    pub(crate) first_load: Duration,
    /// A ping that asks for an acknowledgement rides along at most this often.
    pub(crate) acknowledge_every: Duration,
    /// When deletions are resent, since the client cannot apply one while the event's form is open.
    pub(crate) reminders: ReminderTimes,
    pub(crate) pace: Pace,
}

/// How fast a page is told what it must draw: for each update the stock client draws the whole calendar anew, which takes
/// about 12 ms where that has a thousand events.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// So many lines are told at once. A replay of more is a long one.
    pub(crate) long: usize,
    /// Of a long one, so many are told behind these …
    pub(crate) at_once: usize,
    /// … each time so long after the ones before.
    pub(crate) every: Duration,
}

impl Pace {
    /// Twenty-four lines in a second.
    pub(crate) const DEFAULT: Self = Self { long: 100, at_once: 6, every: Duration::from_millis(250) };

    /// How many lines are told at once first, where so many rows are known to follow.
    fn first(&self, rows: usize) -> usize {
        if rows > self.long { self.at_once } else { self.long }
    }

    /// How long a page is left alone that has been told so many lines.
    fn time_for(&self, drawn: usize) -> Duration {
        let times = u32::try_from(drawn.div_ceil(self.at_once.max(1))).unwrap_or(u32::MAX);
        self.every.saturating_mul(times)
    }
}

/// Records handed to the fast way at once.
const BATCH_RECORDS: usize = 256;
/// Frames that everyone is told again at once; more are told to each at its own pace.
const REPEAT_FRAMES: usize = 512;

/// The same, in bytes.
const REPEAT_BYTES: usize = 1024 * 1024;
/// Keys looked up in the log at once.
const KEYS_AT_ONCE: usize = 1024;

/// The log and everyone who follows it.
pub(crate) struct Hub {
    delivery: Delivery,
    times: DeliveryTimes,
    started: Instant,
    /// What objects are put together to at most.
    max_object_bytes: usize,
    /// One for each entity; the last is `$resync`.
    voices: Vec<Voice>,
    resync: EntityIndex,
    log: Mutex<Log>,
    settles: Mutex<Vec<Settle>>,
    /// One for each entity.
    reminders: Mutex<Vec<Schedule>>,
    sessions: Sessions,
    shards: OnceLock<Box<[Arc<Shard>]>>,
    /// Subscribers so far.
    joined: AtomicUsize,
    settler: Settler,
    pub(crate) tally: Tally,
    /// Whether the audit is asked for.
    pub(crate) audit: bool,
    /// Where the log is kept across a restart.
    keeping: Option<Keeping>,
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

/// What came of changes that were to be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Published {
    /// So many are in the log.
    pub(crate) changes: u64,
    /// Some are not, since a request claimed to change what is in other scopes.
    pub(crate) elsewhere: bool,
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
    /// It takes away what the page could see before, and not only what has changed.
    takes_away: bool,
}

impl SnapshotFrames {
    /// The same, to somebody who could see `earlier`: what is not among the rows any more is gone.
    fn instead_of(&self, earlier: &Self, gone: impl Fn(&str) -> Frame) -> Self {
        let rows: HashSet<&str> = self.rows.iter().map(|row| &*row.id).collect();
        let lost = earlier.rows.iter().filter(|row| row.kind == RowKind::Object && !rows.contains(&*row.id));
        let lost = lost.map(|row| Row { frame: gone(&row.id), kind: RowKind::Gone, ..row.clone() });
        Self { gone: self.gone.iter().cloned().chain(lost).collect(), takes_away: true, ..self.clone() }
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
    frame: Frame,
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
            started: Instant::now(),
            max_object_bytes: log.object_bytes,
            resync,
            log: Mutex::new(Log::new(log, voices.len())),
            settles: Mutex::new(voices.iter().map(|_| Settle::new(Instant::now())).collect()),
            reminders: Mutex::new(vec![Schedule::default(); voices.len()]),
            voices,
            sessions: Sessions::new(sessions),
            shards: OnceLock::new(),
            joined: AtomicUsize::new(0),
            settler: Settler::default(),
            tally: Tally::default(),
            audit: false,
            keeping: None,
        }
    }

    /// What one object may have, as JSON.
    pub(crate) fn max_object_bytes(&self) -> usize {
        self.max_object_bytes
    }

    fn is_audited(&self) -> bool {
        self.audit && audit::is_read()
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

    /// Tells a message: `value` is JSON text.
    pub(crate) fn send(self: &Arc<Self>, entity: EntityIndex, scopes: Scopes, value: &str) {
        let _ongoing = self.change_begins();
        let name = &self.voice(entity).entity;
        let frame = protocol::message(name, value);
        let announced = self.is_audited().then(|| scopes.clone());
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
    pub(crate) fn refresh(self: &Arc<Self>, entity: EntityIndex) {
        let _ongoing = self.change_begins();
        lock(&self.settles)[usize::from(entity.0)].refreshed();
        self.refresh_once(entity);
    }

    fn refresh_once(&self, entity: EntityIndex) {
        let voice = self.voice(entity);
        let marker = Record { entity, frame: voice.resync_marker(), scopes: Scopes::All, matter: Matter::Refresh };
        let now = Instant::now();
        lock(&self.settles)[usize::from(entity.0)].lists_may_be_older(now);
        let mut log = lock(&self.log);
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
        let key = self.key_of(&log, entity, change);
        // What is not deleted takes nothing along.
        if self.is_elsewhere(&log, entity, &key, change) {
            return Vec::new();
        }
        let newest = log.newest_record(entity, &key);
        let known = newest.map_or(Scopes::None, |(_, record, _)| record.scopes.clone());
        let scopes = if self.voice(entity).is_scoped { known.and(change.scopes()) } else { Scopes::All };
        let along = match newest {
            _ if self.voice(entity).has_trees() => log.descendants(entity, &key),
            Some((_, _, subject)) if subject.parent.is_some() => Vec::new(),
            _ => log.children(entity, &key),
        };
        let deletion = |key: Arc<str>| {
            let (_, record, subject) = log.newest_record(entity, &key)?;
            // What is told elsewhere does not go with it.
            if !record.scopes.admit(&scopes) {
                return None;
            }
            let deletion = Change::delete(&subject.id).ok()?.unique_in(change.namespace());
            let scopes = if self.voice(entity).is_scoped { &record.scopes } else { &Scopes::None };
            Some(deletion.in_scopes(scopes, &Scopes::None))
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

    /// True where the log knows of an object, or of its deletion.
    pub(crate) fn has_published(&self, entity: EntityIndex, namespace: &Scopes, id: &str) -> bool {
        let (key, log) = (self.key(entity, namespace, id), lock(&self.log));
        log.newest(entity, &key).is_some() || log.tombstone(entity, &key).is_some()
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
        let mut before = None;
        let page = match origin {
            Origin::Unknown => None,
            Origin::Page { session, missed_from } => {
                let taken = session.and_then(|id| self.sessions.take(id, identity.hears(), head, now));
                let mut missed_from = missed_from;
                let (hold, hidden) = match taken {
                    Some(taken) => {
                        earlier = taken.earlier;
                        before = taken.before;
                        missed_from = missed_from.filter(|_| !taken.is_lost);
                        let hidden = before.as_ref().map_or(taken.hidden, |before| before.hidden());
                        (Some(taken.hold), hidden)
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
        let place = shard.add(subscriber.clone());
        subscriber.seat.get_or_init(|| (at, place));
        subscriber.holds_its_session(self);
        // Where its page answers still, another page has the same key.
        if let Some(before) = before {
            before.ask();
        }
        self.serve(&subscriber);
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
        let claims_apart = lock(&self.log).has_claims_apart(entity);
        let keys = |scopes: &Scopes, id: &str| -> Box<[Arc<str>]> {
            voice.keys(scopes, id, claims_apart).into_iter().map(|key| Arc::from(&*key)).collect()
        };
        let gone = gone.iter().map(|change| Row {
            id: change.id().into(),
            keys: keys(identity.hears(), change.id()),
            frame: voice.gone(change.object(), true).frame.into(),
            object: None,
            kind: RowKind::Gone,
        });
        let heard = rows.iter().filter(|row| !voice.is_scoped || row.scopes().admit(identity.hears()));
        let (bearable, others): (Vec<&Change>, Vec<&Change>) = heard.partition(|change| voice.bears(change));
        let unbearable = others.len();
        let there: Vec<Box<[Arc<str>]>> =
            bearable.iter().chain(&others).map(|row| keys(row.scopes(), row.id())).collect();
        for some in there.chunks(KEYS_AT_ONCE) {
            let mut log = lock(&self.log);
            some.iter().flatten().for_each(|key| log.unbury(entity, key, at));
        }
        let objects = bearable.into_iter().zip(there).map(|(change, keys)| {
            let object = Bytes::copy_from_slice(change.object().as_bytes());
            let (frame, object) = match voice.view {
                Some(_) => (Bytes::new().into(), Some(object)),
                None => (voice.upsert(&object, voice.can_add(&object, true)).for_anyone(), None),
            };
            Row { id: change.id().into(), keys, frame, object, kind: RowKind::Object }
        });
        let scopes = identity.hears().clone();
        let (gone, rows) = (gone.collect(), objects.collect());
        (SnapshotFrames { at, scopes, gone, rows, takes_away: false }, unbearable)
    }

    /// What stands for a snapshot where there is none. It speaks to the handlers of `$resync` whether or not they are
    /// subscribed yet: pages without any ignore it.
    fn marker(&self, entity: EntityIndex, at: u64) -> SnapshotFrames {
        let marker = |frame: Bytes| {
            let frame = frame.into();
            Row { id: RESYNC.into(), keys: Box::default(), frame, object: None, kind: RowKind::Marker }
        };
        let rows = [marker(self.voice(entity).resync_marker()), marker(self.resync_message(entity))];
        SnapshotFrames { at, scopes: Scopes::None, gone: Arc::default(), rows: rows.into(), takes_away: false }
    }

    fn resync_message(&self, entity: EntityIndex) -> Bytes {
        let name = quoted(&self.voice(entity).entity);
        protocol::message(RESYNC, &format!(r#"{{"type":"resync","entity":{name}}}"#))
    }

    /// Says again what has settled; returns when to look next.
    pub(crate) fn settle(&self, now: Instant) -> Option<Instant> {
        let mut next = None;
        for entity in self.entities() {
            let mut log = lock(&self.log);
            let mut settles = lock(&self.settles);
            let settle = &mut settles[usize::from(entity.0)];
            let again = settle.repeat(now, log.start(entity)..log.head(), &self.times.settle);
            let due = settle.due(now, &self.times.settle);
            drop(settles);
            next = next.into_iter().chain(due).min();
            for Due { told, is_last, known_before } in again {
                log.tombstones_settled(entity, told.clone());
                self.repeat(&Repeat { entity, what: Resent::Settled { told, is_last, known_before } });
            }
        }
        next
    }

    /// Resends what was deleted lately; returns when to look next.
    fn remind_of_deletions(&self, now: Instant) -> Option<Instant> {
        let reminds_from = self.keeping.as_ref().and_then(|keeping| keeping.reminds_from);
        if reminds_from.is_some_and(|from| now < from) {
            return reminds_from;
        }
        let mut next = None;
        for entity in self.entities() {
            let log = lock(&self.log);
            let from = self.reimported_before(&log, entity);
            let mut schedules = lock(&self.reminders);
            let schedule = &mut schedules[usize::from(entity.0)];
            let due = schedule.due(&log, entity, &self.times.reminders, from, now);
            drop(schedules);
            drop(log);
            next = next.into_iter().chain(due.next).min();
            if !due.sequences.is_empty() {
                self.repeat(&Repeat { entity, what: Resent::Deletions(due.sequences.into()) });
            }
        }
        next
    }

    /// Resends to each what it has lost sight of.
    fn remind_of_hidden(&self) {
        for entity in self.entities().filter(|entity| self.voice(*entity).is_choosy()) {
            self.repeat(&Repeat { entity, what: Resent::Hidden });
        }
    }

    /// Everybody has had every reminder of an entity's deletions before this.
    fn reminded_before(&self, entity: EntityIndex) -> u64 {
        lock(&self.reminders)[usize::from(entity.0)].done_before(&self.times.reminders)
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
        let entity = repeat.entity;
        let log = lock(&self.log);
        let until = log.head();
        let is_filtered = self.voice(entity).view.is_some();
        let (is_torn, frames) = match &repeat.what {
            Resent::Hidden => (false, None),
            // Each is asked what it may see.
            Resent::Settled { told, is_last, .. } if is_filtered => (*is_last && told.start < log.start(entity), None),
            Resent::Deletions(_) if is_filtered => (false, None),
            Resent::Deletions(sequences) => {
                let tombstone = |&at: &u64| Some((at, self.said_tombstone(entity, at, log.tombstone_at(entity, at)?)));
                let few = sequences.len() <= REPEAT_FRAMES;
                (false, few.then(|| sequences.iter().filter_map(tombstone).collect()))
            }
            Resent::Settled { told, is_last, known_before } => {
                let pages = Pages::ThatHave { everything_before: *known_before };
                let how = How::Again { from: told.start, pages };
                let newest = self.newest(&log, entity, told.start, told.start, u64::MAX);
                let newest = newest.take_while(|(at, _)| *at < told.end);
                let records = newest.filter_map(|(at, record)| Some((at, self.said(&log, at, record?, how))));
                let mut bytes = 0;
                let records = records.take_while(|(_, said)| {
                    let is_little = bytes <= REPEAT_BYTES;
                    bytes += said.frame_bytes();
                    is_little
                });
                let frames: Vec<(u64, Said)> = records.take(REPEAT_FRAMES + 1).collect();
                let is_torn = *is_last && told.start < log.start(entity);
                (is_torn, (frames.len() <= REPEAT_FRAMES && bytes <= REPEAT_BYTES).then_some(frames))
            }
        };
        Repetition { repeat: repeat.clone(), until, is_torn, frames }
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
        log.since(from).map(move |(sequence, record)| {
            let is_wanted = record.entity == entity
                && match &record.matter {
                    Matter::Change(subject) => {
                        changes_from <= sequence && log.is_newest(entity, &subject.key, sequence)
                    }
                    Matter::Message => messages_from <= sequence,
                    Matter::Unconfirmed(_) => false,
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

    /// The newest state of a record's object, for pages that know it or not. Where thousands may come back at once and
    /// each needs it, the record's `place` keeps it.
    fn once_more(&self, place: Option<(&Log, u64)>, record: &Record, subject: &Subject, pages: Pages) -> Frame {
        if subject.kind == ChangeKind::Delete {
            return record.frame.clone().into();
        }
        let voice = self.voice(record.entity);
        let say = || match subject.can_be_added(voice, subject.whole) {
            true if subject.is_only_added => voice.add_once_more(&subject.object),
            can_add => voice.upsert(&subject.object, can_add),
        };
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

    /// What is new from `from` on, for the fast way.
    fn batch(&self, from: u64) -> Batch {
        let log = lock(&self.log);
        let unread = log.since(from).take(BATCH_RECORDS);
        let records: Vec<(u64, Said)> =
            unread.map(|(sequence, record)| (sequence, self.said(&log, sequence, record, How::Live))).collect();
        let end =
            if records.len() < BATCH_RECORDS { log.head() } else { records.last().map_or(from, |(at, _)| at + 1) };
        Batch { start: from, end, records, is_torn: log.trimmed() > from, now: Instant::now() }
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
