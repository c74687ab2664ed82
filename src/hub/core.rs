//! What every part below [`Hub`](super::Hub) may know: the log, the encoders, and what settling, reminders and sessions
//! keep.

use std::{
    borrow::Cow,
    collections::HashSet,
    fmt,
    sync::{Arc, Mutex, OnceLock, atomic::AtomicU64},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use super::{
    encoder::{EntityEncoder, RESYNC},
    log::{Log, LogLimits, Record, RecordKind},
    reminders::{ReminderTimes, Schedule},
    sessions::{SessionLimits, Sessions},
    settle::{SettleTimes, Settles},
};
use crate::{
    change::{Change, ChangeKind},
    entity::{EntityIndex, Widget},
    lock::lock,
    observe::{Counter, audit},
    scope::Scopes,
    sequence::Sequence,
};

/// What pages are promised. [Delivery guarantees](crate::guide::delivery) has the conditions and the costs.
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
    /// Each change is sent once, in the protocol of the vendor's article alone: no key, no history, no repeats.
    /// A page keeps what it missed, and what its own client dropped, until it is loaded again. Without keys,
    /// `sealed_keys` has no effect.
    Plain,
}

/// The times of delivery.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DeliveryTimes {
    pub(crate) settle: SettleTimes,
    /// A replay is sent once more after this long: the page's list may arrive later than the replay.
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

/// How fast a page is sent what it must draw: for each update the stock client draws the whole calendar anew, which takes
/// about 12 ms where that has a thousand events.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// The most lines that are sent without a pause. A longer replay is paced.
    pub(crate) long: usize,
    /// Lines in each further piece of a paced replay.
    pub(crate) at_once: usize,
    /// The pause after such a piece. After a larger piece the pause is longer in proportion.
    pub(crate) every: Duration,
}

impl Pace {
    /// Twenty lines in a second: the page draws for less than half of its time, on a busy machine too.
    pub(crate) const DEFAULT: Self = Self { long: 100, at_once: 5, every: Duration::from_millis(250) };

    /// How many lines are sent at once first, where so many rows are known to follow.
    pub(super) fn first(&self, rows: usize) -> usize {
        if rows > self.long { self.at_once } else { self.long }
    }

    /// How long a page is left alone that has been sent so many lines.
    pub(super) fn time_for(&self, drawn: usize) -> Duration {
        let times = u32::try_from(drawn.div_ceil(self.at_once.max(1))).unwrap_or(u32::MAX);
        self.every.saturating_mul(times)
    }
}

/// What was delivered besides what happened.
#[derive(Debug, Default)]
pub(crate) struct DeliveryCounters {
    /// Entities replayed to pages that came or came back.
    pub(crate) replays: Counter,
    /// Entities brought to the store's state.
    pub(crate) snapshots: Counter,
    /// Gaps in an entity that neither the log nor a snapshot could fill.
    pub(crate) gaps: Counter,
    /// Objects resent, each time and to each subscriber.
    pub(crate) repeats: Counter,
}

/// The log, and what is known of everything that follows it.
pub(crate) struct Core {
    pub(crate) delivery: Delivery,
    pub(super) times: DeliveryTimes,
    pub(super) started: Instant,
    /// What objects are merged to at most.
    pub(crate) max_object_bytes: usize,
    /// One for each entity; the last is `$resync`.
    pub(super) encoders: Vec<EntityEncoder>,
    pub(super) resync: EntityIndex,
    pub(crate) log: Mutex<Log>,
    pub(super) settles: Mutex<Settles>,
    /// One for each entity.
    pub(super) reminders: Mutex<Vec<Schedule>>,
    /// After a restart no deletion is resent before this.
    pub(super) reminds_from: OnceLock<Instant>,
    pub(crate) sessions: Sessions,
    pub(crate) counters: DeliveryCounters,
    /// Writes so far.
    pub(super) writes: AtomicU64,
    /// Whether the audit is enabled.
    pub(super) audit: bool,
    /// Wakes the fan-out tasks; there are none before the first subscriber.
    pub(super) fan_out: OnceLock<Box<[Arc<Notify>]>>,
    /// Wakes the settling task.
    pub(super) settling: Arc<Notify>,
}

impl Core {
    pub(super) fn new(
        delivery: Delivery,
        mut encoders: Vec<EntityEncoder>,
        log: LogLimits,
        times: DeliveryTimes,
        sessions: SessionLimits,
        audit: bool,
    ) -> Self {
        let resync = EntityIndex(u16::try_from(encoders.len()).unwrap_or(u16::MAX));
        encoders.push(EntityEncoder::new(RESYNC, RESYNC));
        encoders.iter_mut().for_each(|encoder| encoder.is_plain = delivery == Delivery::Plain);
        let of = |widget| encoders.iter().position(|encoder| encoder.widget == widget);
        if let (Some(tasks), Some(links)) = (of(Widget::GanttTasks), of(Widget::GanttLinks)) {
            let index = |at| u16::try_from(at).ok().map(EntityIndex);
            (encoders[links].parents_of, encoders[tasks].named_by) = (index(tasks), index(links));
        }
        Self {
            delivery,
            times,
            started: Instant::now(),
            max_object_bytes: log.object_bytes,
            resync,
            log: Mutex::new(Log::new(log, encoders.len())),
            settles: Mutex::new(Settles::new(encoders.iter().map(|encoder| encoder.widget.family()), Instant::now())),
            reminders: Mutex::new(vec![Schedule::default(); encoders.len()]),
            reminds_from: OnceLock::new(),
            encoders,
            sessions: Sessions::new(sessions),
            counters: DeliveryCounters::default(),
            writes: AtomicU64::new(0),
            audit,
            fan_out: OnceLock::new(),
            settling: Arc::default(),
        }
    }

    pub(super) fn is_audited(&self) -> bool {
        self.audit && audit::is_read()
    }

    /// The entity of this name, [`RESYNC`] among them.
    pub(crate) fn find(&self, name: &str) -> Option<EntityIndex> {
        let at = self.encoders.iter().position(|encoder| encoder.entity == name)?;
        u16::try_from(at).ok().map(EntityIndex)
    }

    /// Where a page that makes its handshake now may have begun to miss something: its list is a little older.
    pub(crate) fn handshake(&self, now: Instant) -> Sequence {
        let log = lock(&self.log);
        log.position(now, self.times.first_load)
    }

    /// The key that the log knows an object of an entity by.
    pub(crate) fn key<'k>(&self, entity: EntityIndex, namespace: &Scopes, id: &'k str) -> Cow<'k, str> {
        self.encoder(entity).key(namespace, id)
    }

    /// True where the log knows the scopes that an object was published in.
    pub(crate) fn knows_scopes_of(&self, entity: EntityIndex, id: &str) -> bool {
        !self.encoder(entity).scoped_ids && lock(&self.log).newest(entity, id).is_some()
    }

    /// True where the log knows all of an object that a change is about.
    pub(crate) fn knows_whole(&self, entity: EntityIndex, change: &Change) -> bool {
        let key = self.key(entity, change.namespace(), change.id());
        let log = lock(&self.log);
        log.known(entity, &key).is_some_and(|(_, known)| known.kind != ChangeKind::Delete && known.whole)
    }

    /// An object as it was published last, where the log knows all of it.
    pub(crate) fn published_object(&self, entity: EntityIndex, namespace: &Scopes, id: &str) -> Option<String> {
        let (key, log) = (self.key(entity, namespace, id), lock(&self.log));
        let (_, known) = log.known(entity, &key)?;
        let is_there = known.kind != ChangeKind::Delete && known.whole;
        is_there.then(|| String::from_utf8_lossy(&known.object).into_owned())
    }

    /// True where the log knows of an object, or of its deletion.
    pub(crate) fn has_published(&self, entity: EntityIndex, namespace: &Scopes, id: &str) -> bool {
        let (key, log) = (self.key(entity, namespace, id), lock(&self.log));
        log.newest(entity, &key).is_some() || log.tombstone(entity, &key).is_some()
    }

    /// An ancestor of an object in a tree whose own parent the log does not know, by its id.
    pub(crate) fn unplaced(&self, entity: EntityIndex, object: &str) -> Option<Arc<str>> {
        let encoder = self.encoder(entity);
        let parent =
            encoder.parents_in(object).into_iter().next().filter(|_| encoder.is_tree() && !encoder.scoped_ids)?;
        lock(&self.log).unplaced(entity, Some(parent.into()))
    }

    /// The place of an object, as JSON text, in its tree, read from the store when the log stood at `read_at`; of one that is
    /// not there, none.
    pub(crate) fn set_place(&self, entity: EntityIndex, id: &Arc<str>, object: Option<&str>, read_at: Sequence) {
        let parent = object.and_then(|object| self.encoder(entity).parents_in(object).into_iter().next());
        lock(&self.log).set_stored_place(entity, id, parent.map(Arc::from), read_at);
    }

    /// The objects of a tree whose newest place is held.
    pub(super) fn moved_and_held(&self, entity: EntityIndex) -> HashSet<Arc<str>> {
        match self.encoder(entity).is_tree() {
            true => lock(&self.settles).of(entity).held.moved(entity).collect(),
            false => HashSet::new(),
        }
    }

    /// Whether some page may not know the place of an object of a tree.
    pub(super) fn is_unsettled(&self, entity: EntityIndex, key: &Arc<str>) -> bool {
        lock(&self.settles).of(entity).held.is_unsettled(&(entity, key.clone()))
    }

    /// The objects of a tree whose places some page may not know.
    pub(super) fn unsettled(&self, entity: EntityIndex) -> HashSet<Arc<str>> {
        match self.encoder(entity).is_tree() {
            true => lock(&self.settles).of(entity).held.unsettled(entity).collect(),
            false => HashSet::new(),
        }
    }

    /// Whether an object that is deleted is held, so that pages are sent its deletion later.
    pub(super) fn holds_deletion(&self, entity: EntityIndex, key: &Arc<str>) -> bool {
        let may_be = self.encoder(entity).widget.family().is_some();
        may_be && lock(&self.settles).of(entity).held.get(&(entity, key.clone())).is_some()
    }

    /// True where the visibility filter may need what this object was before, and the log does not know.
    pub(crate) fn lacks(&self, entity: EntityIndex, scopes: &Scopes, id: &str) -> bool {
        let encoder = self.encoder(entity);
        encoder.view.is_some() && lock(&self.log).newest(entity, &encoder.key(scopes, id)).is_none()
    }

    /// Every reminder of an entity's deletions before this has been sent.
    pub(super) fn reminded_before(&self, entity: EntityIndex) -> Sequence {
        lock(&self.reminders)[usize::from(entity.0)].done_before(&self.times.reminders)
    }

    /// Ids that were deleted before this may be in use again. Where there is a snapshot, it has shown which.
    pub(super) fn reimported_before(&self, log: &Log, entity: EntityIndex) -> Sequence {
        if self.encoder(entity).has_snapshot { Sequence::ZERO } else { log.refreshed(entity) }
    }

    /// The sequence numbers from one on; with those from `changes_from` on the record that is the newest of one of this
    /// entity's objects, with those from `messages_from` on the messages.
    pub(super) fn newest<'l>(
        &'l self,
        log: &'l Log,
        entity: EntityIndex,
        from: Sequence,
        changes_from: Sequence,
        messages_from: Sequence,
    ) -> impl Iterator<Item = (Sequence, Option<&'l Record>)> + 'l {
        log.since(from).map(move |(sequence, record)| {
            let is_wanted = record.entity == entity
                && match &record.kind {
                    RecordKind::Change(change) => {
                        changes_from <= sequence && log.is_newest(entity, &change.key, sequence)
                    }
                    RecordKind::Message(_) => messages_from <= sequence,
                    RecordKind::Unconfirmed(_) => false,
                    // Where the store can be asked, that is done instead.
                    RecordKind::Refresh => messages_from <= sequence && !self.encoder(entity).has_snapshot,
                };
            (sequence, is_wanted.then_some(record))
        })
    }

    pub(super) fn entities(&self) -> impl Iterator<Item = EntityIndex> {
        (0..self.resync.0).map(EntityIndex)
    }

    pub(super) fn encoder(&self, entity: EntityIndex) -> &EntityEncoder {
        &self.encoders[usize::from(entity.0)]
    }

    /// The sequence number the next record will get.
    pub(crate) fn log_end(&self) -> Sequence {
        lock(&self.log).end()
    }

    /// There is something new for the fan-out tasks.
    pub(super) fn wake(&self) {
        for shard in self.fan_out.get().into_iter().flatten() {
            shard.notify_one();
        }
    }
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core").finish_non_exhaustive()
    }
}
