//! One follower of the log: where it stands, what it follows, and what it must hear again.

use std::{
    collections::VecDeque,
    fmt,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, OnceLock},
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, stream};
use tokio::time::Instant;

use crate::{
    auth::Identity,
    change::ChangeKind,
    hub::{
        Delivery, EntityIndex, Hub, Pages, SnapshotFrames,
        delivery::batch::{Batch, RepeatBatch, Resent},
        delivery::resend::{Chunk, LateList, ReplayPosition, Resend, SHARE_BYTES, SHARE_RECORDS},
        delivery::retractions::{ObjectRef, Retractions},
        log::{Former, Log, RecordKind},
        sessions::{Hold, Holder, SessionId},
        settle::{Settle, SettleTimes},
        visibility::{Addressed, Answer, AuditBuffer, Cleared, Deadline, Line, Mode, Recipient, Told},
    },
    lock::lock,
    object::quoted,
    scope::Scopes,
};

/// Where a subscriber's frames go.
pub(crate) trait FrameSink: Send + Sync {
    /// Takes whole frames, in order, as many as it can without waiting. What it has taken it will deliver.
    fn try_send(&self, frames: &[&Cleared]) -> Accepted;
    /// True when the fan-out may offer frames; false where only the subscriber's own task can write.
    fn is_direct(&self) -> bool;
    /// Touches what an offer needs, so that the memory of several is fetched at one time.
    fn prefetch(&self) {}
    /// Has its page asked for a pong soon.
    fn ping(&self) {}
    /// Wakes the subscriber's own task: it has left the fast way, or there is news that only it can write.
    fn wake(&self);
}

/// Mode an offer went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Accepted {
    /// Frames taken, from the front.
    pub(crate) frames: usize,
    /// True when nothing waits to be written, so that more may be offered at once.
    pub(crate) clear: bool,
}

/// Mode far a subscriber got on the slow way.
#[derive(Debug)]
pub(crate) enum Progress {
    /// It has everything; wait to be woken, or until this time.
    CaughtUp(Option<Instant>),
    /// There is more to read at once.
    More,
    /// The sink must be written out first.
    Blocked,
    /// Records it has not seen are gone from the log.
    Lagged,
    /// Only the store can tell where this entity stands, by what it says from a sequence number on: see
    /// [`Hub::resynchronise`].
    NeedsSnapshot(EntityIndex, u64),
    /// What it may see must be asked first; then see [`Hub::tell`].
    NeedsCheck(Box<Inquiry>),
}

/// Where a new subscriber was when the log last knew of it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ResumeFrom {
    /// Nobody knows: it hears what happens from now on.
    Unknown,
    /// A page that comes, or comes back, with a key.
    Page {
        /// Its session; `None` where it has none of its own.
        session: Option<SessionId>,
        /// What it may have missed begins here; `None` when that was in another log.
        missed_from: Option<u64>,
    },
}

/// One follower of the log.
///
/// What the fast way needs of it comes first and lies together, here and in its feed: it looks at thousands of them for
/// each record, and what it has to wait for is their memory.
#[repr(C)]
pub(crate) struct Subscriber {
    pub(crate) sink: Arc<dyn FrameSink>,
    pub(crate) feed: Mutex<SubscriberState>,
    /// Its shard, and its place there.
    pub(crate) seat: OnceLock<(usize, usize)>,
}

/// Where a subscriber stands and what it follows.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct SubscriberState {
    /// The sequence number of the first record it has not been handed.
    cursor: u64,
    /// The entities that are wanted from the cursor on, since it last caught up; none while that may change.
    live: Live,
    /// When a ping is to ride along next.
    ping_due: Instant,
    way: Way,
    pub(crate) recipient: Recipient,
    subscriptions: Vec<Subscription>,
    /// Nobody knows what a subscriber without one has missed.
    page: Option<ResumeState>,
    /// The latest ping, and what its pong will acknowledge.
    asked: Option<Box<Asked>>,
    pings: u64,
    /// Entities whose subscription the page has ended.
    ended: Option<Box<Ended>>,
    /// Lines that are drawn, and that it was told of the replay it is in the middle of.
    replayed: usize,
    /// Counts what else than its own reading has changed who it is and what it follows.
    version: u64,
}

/// Some entities, as one bit for each of the first that are configured.
#[derive(Clone, Copy, Debug, Default)]
struct Live {
    entities: u64,
    /// No other entity is wanted.
    is_all: bool,
}

impl Live {
    fn bit(entity: EntityIndex) -> u64 {
        1_u64.checked_shl(u32::from(entity.0)).unwrap_or(0)
    }

    /// Whether an entity is among them; `None` where they cannot tell.
    fn has(self, entity: EntityIndex) -> Option<bool> {
        let is_one = self.entities & Self::bit(entity) != 0;
        (is_one || self.is_all).then_some(is_one)
    }
}

/// What an answer was found out with: where that has changed, the answer is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Version {
    feed: u64,
    subscription: u64,
}

/// What is known of the page at the other end.
#[derive(Debug)]
pub(crate) struct ResumeState {
    pub(crate) hold: Option<Hold>,
    pub(crate) missed_from: Option<u64>,
    /// Of its earlier connection.
    pub(crate) hidden: OutOfSight,
}

/// Of each entity, what a page was not to see, and was being told so.
type OutOfSight = Vec<(EntityIndex, Box<Retractions>)>;

#[derive(Debug)]
struct Asked {
    payload: [u8; 8],
    positions: Box<[(EntityIndex, u64)]>,
    /// The version of the feed then.
    feed: u64,
    at: Instant,
}

/// An entity, and how it is heard.
#[derive(Debug)]
struct Subscription {
    entity: EntityIndex,
    /// The first record of it that is wanted; none while it is lost, or told for the first time what the store says.
    from: u64,
    /// On the way to the head: of each object only the newest state is told, to pages that may have it or not.
    replaying: bool,
    /// What the store said was broken off: the next time it is told without a pause.
    is_hurried: bool,
    lost: Option<Lost>,
    again: Option<Box<Resend>>,
    /// Deletions before this are no news to its page: that was loaded later.
    deletions_from: u64,
    /// Mode often the store was asked anew for what it said to be gone.
    asked_anew: u8,
    /// Deletions that everybody is reminded of, and it could not be told with the others.
    reminders: Option<Box<PendingReminders>>,
    /// While it is lost: messages from here on are kept for it.
    messages_missed_from: u64,
    /// What the store said before the log stood here is of no use.
    stale_before: u64,
    hidden: Option<Box<Retractions>>,
    /// Counts what others than its own task have changed of it.
    version: u64,
}

/// What must come from the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lost {
    Unasked,
    Asked,
    /// It is asked at this time.
    Later(Instant),
}

/// A page that subscribes again and again is replayed to once in so long: a replay may be ten thousand times as large
/// as what asks for it.
const REPLAY_EVERY: Duration = Duration::from_secs(30);

/// Chromium keeps a page that was left for ten audit_buffer.
const KEPT_BY_BROWSERS: Duration = Duration::from_secs(11 * 60);

/// A page asks for its list so long before its handshake at most, as far as that list may lack what is told meanwhile.
const LIST_BEFORE: Duration = Duration::from_secs(10);

/// The entities whose subscription a page has ended, and when it is next replayed to should it subscribe again.
#[derive(Debug, Default)]
struct Ended(Vec<(EntityIndex, Option<Instant>)>);

impl Ended {
    fn note(&mut self, entity: EntityIndex) {
        if !self.0.iter().any(|(known, _)| *known == entity) {
            self.0.push((entity, None));
        }
    }

    /// When its page is replayed to that subscribes now; `None` for at once.
    fn replays_at(&mut self, entity: EntityIndex, now: Instant) -> Option<Instant> {
        let (_, next) = self.0.iter_mut().find(|(known, _)| *known == entity)?;
        let waits = next.filter(|next| *next > now);
        if waits.is_none() {
            *next = Some(now + REPLAY_EVERY);
        }
        waits
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Fast,
    Slow,
    Left,
}

impl SubscriberState {
    pub(crate) fn new(head: u64, recipient: Recipient, page: Option<ResumeState>, ping_due: Instant) -> Self {
        Self {
            recipient,
            cursor: head,
            live: Live::default(),
            subscriptions: Vec::new(),
            // The first round of the slow way puts a direct sink on the fast way.
            way: Way::Slow,
            page,
            ping_due,
            asked: None,
            pings: 0,
            ended: None,
            replayed: 0,
            version: 0,
        }
    }

    fn find(&mut self, entity: EntityIndex) -> Option<&mut Subscription> {
        self.subscriptions.iter_mut().find(|known| known.entity == entity)
    }

    /// What is wanted of all that comes now.
    fn wanted_live(&self) -> Live {
        let wanted = self.subscriptions.iter().filter(|known| known.from <= self.cursor);
        let entities = wanted.fold(0, |entities, known| entities | Live::bit(known.entity));
        let is_all = u32::try_from(self.subscriptions.len()) == Ok(entities.count_ones());
        Live { entities, is_all }
    }

    fn is_wanted_live(&self, entity: EntityIndex, sequence: u64) -> bool {
        self.live.has(entity).unwrap_or_else(|| self.wanted(entity, sequence).is_some())
    }

    fn wanted(&self, entity: EntityIndex, sequence: u64) -> Option<&Subscription> {
        self.subscriptions.iter().find(|known| known.entity == entity && known.from <= sequence)
    }

    /// It was told an object, or that one has gone out of its sight.
    fn marks(&mut self, hub: &Hub, mark: &ObjectRef, leaves: bool, now: Instant) {
        if let Some(subscription) = self.find(mark.entity) {
            subscription.marks(hub, mark, leaves, now);
        }
    }

    /// What must not have changed for an answer to be of use that was found out for this.
    fn version(&self, then: &Then) -> Version {
        let subscription = then.subscription().and_then(|at| self.subscriptions.get(at));
        Version { feed: self.version, subscription: subscription.map_or(0, |known| known.version) }
    }

    fn lags_behind_log(&self, log: &Log) -> bool {
        // Whoever has been handed everything that ever went from the log need not look closer.
        let lacks = |known: &Subscription| {
            let next = known.from.max(self.cursor);
            next < log.trimmed() && next < self.recipient.log_start(log, known.entity)
        };
        self.subscriptions.iter().any(lacks)
    }

    fn next_due(&self, times: &SettleTimes) -> Option<Instant> {
        let again = self.subscriptions.iter().filter_map(|known| known.again.as_ref()?.next_due(times));
        again.chain(self.subscriptions.iter().filter_map(Subscription::asks_later)).min()
    }
}

impl Subscription {
    fn new(entity: EntityIndex, head: u64, deletions_from: u64) -> Self {
        Self {
            entity,
            from: head,
            replaying: false,
            is_hurried: false,
            lost: None,
            again: None,
            deletions_from,
            asked_anew: 0,
            reminders: None,
            messages_missed_from: head,
            stale_before: 0,
            hidden: None,
            version: 0,
        }
    }

    /// What goes out of its sight it is told so again, as deletions are.
    fn marks(&mut self, hub: &Hub, mark: &ObjectRef, leaves: bool, now: Instant) {
        if leaves && hub.delivery == Delivery::Converging {
            self.hidden().told(mark, now);
        } else if let Some(hidden) = self.hidden.as_mut().filter(|_| !leaves) {
            hidden.shown(&mark.id);
        }
    }

    /// Has it reminded of these deletions. One that is far behind has the oldest forgotten: it will be replayed to.
    fn remind(&mut self, sequences: &Arc<[u64]>) {
        let reminders = self.reminders.get_or_insert_default();
        if reminders.lists.len() >= WAITING_REMINDERS {
            reminders.next_list();
        }
        reminders.lists.push_back(sequences.clone());
    }

    fn hidden(&mut self) -> &mut Retractions {
        self.hidden.get_or_insert_default()
    }

    /// True while it is being told what is out of its sight.
    fn hides(&self) -> bool {
        self.hidden.as_ref().is_some_and(|hidden| hidden.is_due())
    }

    /// Whether the store is to be asked now.
    fn asks(&self, now: Instant) -> bool {
        match self.lost {
            Some(Lost::Unasked) => true,
            Some(Lost::Later(at)) => at <= now,
            Some(Lost::Asked) | None => false,
        }
    }

    /// When it is to be asked, if that is not now.
    fn asks_later(&self) -> Option<Instant> {
        match self.lost {
            Some(Lost::Later(at)) => Some(at),
            Some(Lost::Unasked | Lost::Asked) | None => None,
        }
    }

    /// Only the store can tell where it stands, by what it says from `stale_before` on. Messages from `messages_missed_from` on
    /// have not been heard.
    fn lose(&mut self, messages_missed_from: u64, stale_before: u64) {
        self.from = u64::MAX;
        self.messages_missed_from = messages_missed_from;
        self.replaying = false;
        self.is_hurried |= self.again.as_ref().is_some_and(|again| again.is_broken_off());
        self.again = None;
        self.stale_before = stale_before;
        self.lost = Some(Lost::Unasked);
    }

    /// Everything before this is known to be on the page once what was written so far has arrived.
    fn safe(&self, cursor: u64, settled: u64, unsettled_from: Option<u64>) -> Option<u64> {
        if self.lost.is_some() {
            return None;
        }
        let missed_from = self.again.as_ref().map_or(Some(cursor), |again| again.missed_from(cursor))?;
        let safe = cursor.min(settled).min(missed_from);
        Some(safe.min(unsettled_from.unwrap_or(u64::MAX)))
    }

    /// Tells what settles once more.
    fn settle(&mut self, from: u64, known_before: u64, now: Instant) {
        match &mut self.again {
            Some(again) => again.settle(from, known_before, now),
            None => self.again = Some(Box::new(Resend::settled(from, known_before, now))),
        }
    }
}

/// So often at most is the store asked anew for what it said to be gone.
const MAX_ASKED_ANEW: u8 = 5;
/// Reminders to everybody that wait for one subscriber.
const WAITING_REMINDERS: usize = 4;

/// Deletions that everybody is reminded of, on their way to one subscriber.
#[derive(Debug, Default)]
struct PendingReminders {
    lists: VecDeque<Arc<[u64]>>,
    /// Mode many of the first list it has been told.
    told: usize,
}

impl PendingReminders {
    fn next_list(&mut self) {
        self.lists.pop_front();
        self.told = 0;
    }
}

impl Hub {
    /// Starts an entity for a subscriber: a page hears first what it missed, everyone what is told from now on. Doing
    /// so twice changes nothing.
    pub(crate) fn subscribe(&self, subscriber: &Subscriber, entity: EntityIndex, now: Instant) -> bool {
        let mut feed = lock(&subscriber.feed);
        let log = lock(&self.log);
        if feed.find(entity).is_some() || feed.way == Way::Left {
            return false;
        }
        let head = log.end();
        let (missed_from, comes_back) = match &feed.page {
            _ if self.delivery == Delivery::Plain => (Some(head), true),
            None => (Some(head), true),
            // It has no state to be lost.
            Some(ResumeState { missed_from, .. }) if entity == self.resync => {
                let log_start = feed.recipient.log_start(&log, entity);
                (missed_from.filter(|&from| from >= log_start).or(Some(head)), true)
            }
            Some(ResumeState { hold, missed_from, .. }) => {
                let known = hold.as_ref().and_then(|hold| self.sessions.position(hold, entity));
                // What is sent again to others may have been told before it was loaded.
                (known.max(*missed_from), known.is_some())
            }
        };
        let log_start = feed.recipient.log_start(&log, entity);
        let deletions_from = match &feed.page {
            // What was deleted long before it came, its list did not hold.
            None => log.position(now, self.times.first_load),
            Some(page) => page.missed_from.unwrap_or(0),
        };
        let late = match &feed.page {
            Some(page) if entity != self.resync && self.delivery == Delivery::Converging => {
                let came = page.hold.as_ref().and_then(|hold| self.sessions.came(hold)).unwrap_or(now);
                let age = now.saturating_duration_since(came);
                LateList::may_come(came, now).then(|| LateList::new(came, log.position(now, age + LIST_BEFORE)))
            }
            _ => None,
        };
        let mut subscription = Subscription::new(entity, head, deletions_from);
        if let Some(page) = &mut feed.page {
            let kept = page.hidden.iter().position(|(of, _)| *of == entity);
            subscription.hidden = kept.map(|at| page.hidden.swap_remove(at).1);
        }
        if let Some(hidden) = &mut subscription.hidden {
            hidden.begin(&self.times.reminders);
        }
        let has_changed = self.encoder(entity).is_scoped && feed.recipient.earlier().is_some();
        let reached = missed_from.map(|from| from.min(head)).filter(|&from| from >= log_start && !has_changed);
        // Messages to the handlers of `$resync` are few, and are not replayed later.
        let ended = feed.ended.as_mut().filter(|_| entity != self.resync);
        let replays_at = ended.and_then(|ended| ended.replays_at(entity, now));
        match reached {
            None => {
                subscription.lose(missed_from.unwrap_or(0).max(log_start), 0);
                subscription.lost = Some(replays_at.map_or(Lost::Unasked, Lost::Later));
            }
            Some(from) => {
                if from < head && replays_at.is_none() {
                    // The others have been handed what lies between.
                    let cursor = feed.cursor;
                    for known in &mut feed.subscriptions {
                        known.from = known.from.max(cursor);
                    }
                    feed.cursor = cursor.min(from);
                    subscription.from = from;
                    subscription.replaying = true;
                    self.counters.replays.up();
                }
                if from < head || !comes_back {
                    // A list may arrive later than this, or the page be saving at the moment.
                    let reminded = self.reminded_before(entity);
                    let at = replays_at.unwrap_or(now + self.times.second_replay_delay);
                    let again = Resend::replayed(from, comes_back, reminded, at).beginning(now, late);
                    subscription.again = Some(Box::new(again));
                } else if let Some(late) = late {
                    subscription.again = Some(Box::new(Resend::only_expecting(late, now)));
                }
            }
        }
        let is_live = !subscription.replaying && subscription.lost.is_none();
        let has_plans = subscription.again.is_some() || subscription.hides();
        feed.version += 1;
        // Most pages follow few.
        feed.subscriptions.reserve_exact(1);
        feed.subscriptions.push(subscription);
        feed.live = Live::default();
        if !is_live {
            feed.way = Way::Slow;
        }
        drop(log);
        drop(feed);
        if !is_live || has_plans {
            subscriber.sink.wake();
        }
        true
    }

    /// Brings an entity that is [`Progress::NeedsSnapshot`] to what the store says, which said `earlier` to who its page was
    /// before; without a snapshot, only tells the page that it must load its list again.
    pub(crate) fn resynchronise(
        &self,
        subscriber: &Subscriber,
        entity: EntityIndex,
        snapshot: Option<Arc<SnapshotFrames>>,
        earlier: Option<&SnapshotFrames>,
        now: Instant,
    ) {
        let snapshot = match (snapshot, earlier) {
            (Some(snapshot), Some(earlier)) => {
                let gone = |id: &str| self.leave_frame_by_id(entity, &quoted(id)).into();
                Some(Arc::new(snapshot.instead_of(earlier, gone)))
            }
            (snapshot, _) => snapshot,
        };
        let mut feed = lock(&subscriber.feed);
        let log = lock(&self.log);
        let it = &mut *feed;
        let (mut subscriptions, recipient) = (it.subscriptions.iter_mut(), &it.recipient);
        let found = subscriptions.find(|known| known.entity == entity);
        let Some(subscription) = found.filter(|known| known.lost.is_some() && it.way != Way::Left) else {
            return;
        };
        if self.encoder(entity).is_restricted() {
            self.recheck(subscription, &log, recipient);
        }
        let log_start = recipient.log_start(&log, entity);
        let oldest = subscription.stale_before.max(log_start);
        match &snapshot {
            // What happened since is gone from the log already; or it is what somebody else may see.
            Some(snapshot) if snapshot.at < oldest || snapshot.scopes != *recipient.identity.receives() => {
                subscription.lost = Some(Lost::Unasked);
                subscription.stale_before = oldest;
            }
            _ => {
                let (counter, from) = match &snapshot {
                    Some(snapshot) => (&self.counters.snapshots, snapshot.at),
                    None => (&self.counters.gaps, log_start),
                };
                counter.up();
                let snapshot = snapshot.unwrap_or_else(|| Arc::new(self.marker(entity, log.end())));
                let messages_from = subscription.messages_missed_from.max(log_start);
                let reminded = self.reminded_before(entity);
                let mut again = Resend::resynchronised(snapshot, from, messages_from, reminded, &self.times.pace, now);
                // Soon after the start it would be told twice: answers of the process before may be on their way.
                again.begins_at(self.started + 2 * self.times.settle.quiet, &self.times.pace, now);
                if subscription.is_hurried {
                    again.hurries();
                }
                subscription.again = Some(Box::new(again));
                subscription.lost = None;
            }
        }
        feed.way = Way::Slow;
        feed.version += 1;
        drop(log);
        drop(feed);
        subscriber.sink.wake();
    }

    /// A subscriber is known to be somebody else now, or the same with other rights. What it may not hear any more it
    /// is told to be gone, what it may hear now it is told from the store.
    pub(crate) fn becomes(&self, subscriber: &Subscriber, identity: Identity) {
        // It may hold the application's data, which ends under no lock: so it is dropped behind the guards.
        let had;
        let mut feed = lock(&subscriber.feed);
        let feed = &mut *feed;
        had = std::mem::replace(&mut feed.recipient.identity, identity);
        feed.version += 1;
        if had.receives() == feed.recipient.identity.receives() || feed.way == Way::Left {
            return;
        }
        let log = lock(&self.log);
        feed.recipient.earlier.add(had.receives().clone(), log.end());
        if let Some(ResumeState { hold: Some(hold), .. }) = &feed.page {
            self.sessions.change_to(hold, feed.recipient.identity.receives(), log.end());
        }
        let (cursor, recipient) = (feed.cursor, &feed.recipient);
        let is_told_again = self.delivery == Delivery::Converging;
        for subscription in feed.subscriptions.iter_mut().filter(|known| self.encoder(known.entity).is_scoped) {
            self.recheck(subscription, &log, recipient);
            if is_told_again {
                let messages_missed_from = match subscription.lost {
                    Some(_) => subscription.messages_missed_from,
                    None => subscription.again.as_ref().map_or(cursor, |again| again.messages_missed_from(cursor)),
                };
                subscription.lose(messages_missed_from, log.end());
            }
        }
        feed.way = Way::Slow;
        drop(log);
        subscriber.sink.wake();
    }

    /// What the log knows and this recipient must not see, it may be showing: of what has moved, or was told to who it was
    /// before.
    fn recheck(&self, subscription: &mut Subscription, log: &Log, recipient: &Recipient) {
        let encoder = self.encoder(subscription.entity);
        let is_filtered = encoder.view.is_some();
        if !is_filtered && recipient.earlier.is_empty() && !log.has_moves(subscription.entity) {
            return;
        }
        for (_, record, subject) in log.newest_of(subscription.entity) {
            let is_there = subject.kind != ChangeKind::Delete;
            let may_show = recipient.may_show(subject);
            let has_changed = is_filtered && !matches!(subject.former, Former::Absent);
            if is_there && may_show && (has_changed || !recipient.receives(&record.scopes)) {
                subscription.hidden().recheck(subject.key.clone(), subject.id.clone());
            }
        }
        if let Some(hidden) = &mut subscription.hidden {
            hidden.look();
        }
    }

    /// True when records that it has not seen are gone from the log, whether or not its sink is written out.
    pub(crate) fn lags_behind_log(&self, subscriber: &Subscriber) -> bool {
        let feed = lock(&subscriber.feed);
        feed.way != Way::Left && feed.lags_behind_log(&lock(&self.log))
    }

    /// One round of the slow way for a subscriber whose sink is written out.
    pub(crate) fn catch_up(&self, subscriber: &Subscriber, now: Instant) -> Progress {
        // In this order everywhere: whoever holds the log waits for nobody.
        let mut feed = lock(&subscriber.feed);
        if feed.way == Way::Left {
            return Progress::CaughtUp(None);
        }
        feed.live = Live::default();
        if let Some(lost) = feed.subscriptions.iter_mut().find(|known| known.asks(now)) {
            lost.lost = Some(Lost::Asked);
            return Progress::NeedsSnapshot(lost.entity, lost.stale_before);
        }
        let log = lock(&self.log);
        if feed.lags_behind_log(&log) {
            return Progress::Lagged;
        }
        if feed.replayed >= self.times.pace.long {
            feed.replayed = 0;
            self.goes_on_slowly(&mut feed, &log, now);
        }
        let room = self.times.pace.long.saturating_sub(feed.replayed);
        let unread = log.since(feed.cursor);
        let mut lines: Vec<(ReplayPosition, Line)> = Vec::new();
        let mut bytes = 0;
        let mut drawn = 0;
        let mut read_to = feed.cursor;
        let mut lost = None;
        for (sequence, record) in unread.take(SHARE_RECORDS) {
            if let Some(subscription) = feed.wanted(record.entity, sequence) {
                if bytes > SHARE_BYTES || (subscription.replaying && drawn >= room) {
                    break;
                }
                let is_replayed = subscription.replaying;
                let how = match &record.kind {
                    RecordKind::Refresh if self.encoder(record.entity).has_snapshot => {
                        if !feed.recipient.receives(&record.scopes) {
                            read_to = sequence + 1;
                            continue;
                        }
                        lost = Some((record.entity, sequence));
                        break;
                    }
                    RecordKind::Change(subject) if subscription.replaying => {
                        let how = Mode::Resend { from: subscription.from, pages: Pages::Any };
                        log.is_newest(record.entity, &subject.key, sequence).then_some(how)
                    }
                    RecordKind::Unconfirmed(_) if subscription.replaying => None,
                    RecordKind::Change(_) | RecordKind::Unconfirmed(_) | RecordKind::Message | RecordKind::Refresh => {
                        Some(Mode::Live)
                    }
                };
                if let Some(line) =
                    how.and_then(|how| self.resolve_record(&log, sequence, record, &feed.recipient, how))
                {
                    bytes += line.bytes();
                    drawn += usize::from(is_replayed && line.is_drawn());
                    lines.push((ReplayPosition::record(sequence), line));
                }
            }
            read_to = sequence + 1;
        }
        let at_head = read_to == log.end();
        if lines.is_empty() {
            feed.cursor = read_to;
            if let Some((entity, sequence)) = lost {
                drop(log);
                if let Some(subscription) = feed.find(entity) {
                    subscription.lose(sequence + 1, sequence + 1);
                    feed.cursor = sequence + 1;
                }
                return Progress::More;
            }
            if !at_head {
                return Progress::More;
            }
            for subscription in &mut feed.subscriptions {
                subscription.replaying = false;
            }
            feed.replayed = 0;
            return self.tell_again(subscriber, feed, log, now);
        }
        drop(log);
        self.tell_lines(subscriber, feed, lines, None, Then::ReadTo { read_to, drawn }, now)
    }

    /// The rest of a replay that has turned out to be long is told in pieces, while what happens goes on as it comes; or
    /// its page is told to load its list again, where it says that it can.
    fn goes_on_slowly(&self, feed: &mut SubscriberState, log: &Log, now: Instant) {
        let (cursor, head) = (feed.cursor, log.end());
        let loads_again = feed.find(self.resync).is_some();
        let (subscriptions, recipient) = (&mut feed.subscriptions, &feed.recipient);
        for known in subscriptions.iter_mut().filter(|known| known.replaying) {
            // Messages are told in their order, with all that comes between; and behind a refresh only the store knows.
            let is_refreshed = log.refreshed_for(known.entity, recipient.identity.receives()) > cursor;
            let is_in_order = is_refreshed || log.has_messages_since(known.entity, cursor);
            if is_in_order || known.entity == self.resync {
                continue;
            }
            known.replaying = false;
            let replayed_from = std::mem::replace(&mut known.from, head);
            let reminded = self.reminded_before(known.entity);
            let mut again = match known.again.take() {
                Some(again) if !loads_again => again,
                _ if loads_again => {
                    let marker = Arc::new(self.marker(known.entity, head));
                    let again = Resend::resynchronised(marker, head, u64::MAX, reminded, &self.times.pace, now);
                    // It asks for its list now.
                    Box::new(again.beginning(now, Some(LateList::new(now, head))))
                }
                _ => Box::new(Resend::replayed(cursor, true, reminded, now)),
            };
            if !loads_again {
                again.goes_on_slowly(replayed_from.min(cursor)..cursor, &self.times.pace, now);
            }
            known.again = Some(again);
        }
    }

    /// Tells what an inquiry has come to; nothing, where something has changed since then.
    pub(crate) fn tell(&self, subscriber: &Subscriber, inquiry: Inquiry, now: Instant) -> Progress {
        let mut feed = lock(&subscriber.feed);
        if feed.version(&inquiry.then) != inquiry.version || feed.way == Way::Left {
            return Progress::More;
        }
        let cursor = feed.cursor;
        for (mark, from) in inquiry.undecided.iter().filter(|_| self.delivery == Delivery::Converging) {
            if let Some(subscription) = feed.find(mark.entity) {
                let is_remembered = subscription.hidden().undecided(mark, *from, now);
                if !is_remembered && subscription.lost.is_none() {
                    let messages_missed_from =
                        subscription.again.as_ref().map_or(cursor, |again| again.messages_missed_from(cursor));
                    subscription.lose(messages_missed_from, 0);
                    // The hook that fails would be asked about all of it at once again.
                    subscription.lost = Some(Lost::Later(now + REPLAY_EVERY));
                }
            }
        }
        self.tell_lines(subscriber, feed, inquiry.lines, inquiry.cut, inquiry.then, now)
    }

    /// Tells some lines, unless it must be asked first what the recipient may see of them. It goes on at `cut`, where that
    /// is not the end.
    fn tell_lines(
        &self,
        subscriber: &Subscriber,
        mut feed: MutexGuard<'_, SubscriberState>,
        lines: Vec<(ReplayPosition, Line)>,
        cut: Option<ReplayPosition>,
        then: Then,
        now: Instant,
    ) -> Progress {
        if lines.iter().any(|(_, line)| matches!(line, Line::Asked(_))) {
            // Nobody else tells it anything meanwhile.
            feed.way = Way::Slow;
            let (version, identity) = (feed.version(&then), feed.recipient.identity.clone());
            let undecided = Vec::new();
            return Progress::NeedsCheck(Box::new(Inquiry { lines, cut, then, version, identity, undecided }));
        }
        let mut audit_buffer = AuditBuffer::default();
        let progress = self.tell_known(subscriber, feed, &lines, cut, then, now, &mut audit_buffer);
        audit_buffer.write(self, || subscriber.identity());
        progress
    }

    #[allow(clippy::too_many_arguments, reason = "one step of what is above")]
    fn tell_known(
        &self,
        subscriber: &Subscriber,
        mut feed: MutexGuard<'_, SubscriberState>,
        lines: &[(ReplayPosition, Line)],
        cut: Option<ReplayPosition>,
        then: Then,
        now: Instant,
        audit_buffer: &mut AuditBuffer,
    ) -> Progress {
        let told = lines.iter().filter_map(|(place, line)| match line {
            Line::Told(told) => Some((*place, told)),
            Line::Asked(_) => None,
        });
        let told: Vec<(ReplayPosition, &Told)> = told.collect();
        let frames: Vec<&Cleared> = told.iter().map(|(_, told)| &told.frame).collect();
        // Where nothing but the cursor moves, it is known before the write what a ping would ask about.
        let asked = match then {
            Then::ReadTo { read_to, .. } if cut.is_none() && !frames.is_empty() => {
                feed.asking_when_due(self, read_to, now)
            }
            _ => None,
        };
        let has_asked = asked.is_some();
        let taken = subscriber.try_send(&mut feed, &frames, asked, now);
        for (_, told) in &told[..taken.frames] {
            told.is_told(audit_buffer);
            if let Some(mark) = &told.mark {
                feed.marks(self, mark, told.leaves, now);
            }
        }
        let rest = told.get(taken.frames).map(|(place, _)| *place).or(cut);
        let are_all = taken.frames == frames.len();
        match then {
            Then::ReadTo { read_to, drawn } => {
                feed.cursor = rest.and_then(ReplayPosition::sequence).unwrap_or(read_to);
                feed.replayed += drawn;
            }
            Then::Resend { at, end, refreshed, drawn } => {
                self.counters.repeats.add(taken.frames as u64);
                let cursor = feed.cursor;
                let subscription = &mut feed.subscriptions[at];
                if let Some(again) = &mut subscription.again {
                    again.told(rest.unwrap_or(end), drawn, &self.times, now);
                    // It was told what the store says, and all that followed until here; or the rest takes time.
                    let is_open = subscription.from != u64::MAX;
                    if again.is_pausing() && !is_open && !again.has_no_messages(&lock(&self.log), subscription.entity) {
                        // Messages follow what it says, and news follow them.
                        again.hurries();
                    }
                    let opens = again.is_repeated() || again.is_pausing();
                    subscription.is_hurried &= !again.is_repeated();
                    if opens && !is_open {
                        if again.is_stale(refreshed) {
                            let messages_missed_from = again.messages_missed_from(cursor);
                            subscription.lose(messages_missed_from, refreshed);
                        } else {
                            again.leaves_messages();
                            subscription.from = cursor;
                        }
                    }
                }
            }
            Then::Deletions { at, end } => {
                self.counters.repeats.add(taken.frames as u64);
                let subscription = &mut feed.subscriptions[at];
                if let Some(reminders) = &mut subscription.reminders {
                    match rest.unwrap_or(end) {
                        ReplayPosition::END => reminders.next_list(),
                        rest => reminders.told = rest.row(),
                    }
                    subscription.reminders.take_if(|reminders| reminders.lists.is_empty());
                }
            }
            Then::Retractions { at, ids, next } => {
                self.counters.repeats.add(taken.frames as u64);
                let left = rest.map(|rest| ids.get(rest.row()).cloned());
                feed.subscriptions[at].hidden().go_on(left.unwrap_or(next), &self.times.reminders);
            }
        }
        let cursor = feed.cursor;
        let may_ask = are_all && !frames.is_empty() && !has_asked;
        if let Some(asked) = may_ask.then(|| feed.asking_when_due(self, cursor, now)).flatten() {
            subscriber.try_send(&mut feed, &[], Some(asked), now);
        }
        if taken.clear {
            return Progress::More;
        }
        feed.way = Way::Slow;
        Progress::Blocked
    }

    /// Tells a subscriber that stands at the head what it is to hear once more.
    fn tell_again(
        &self,
        subscriber: &Subscriber,
        mut feed: MutexGuard<'_, SubscriberState>,
        log: MutexGuard<'_, Log>,
        now: Instant,
    ) -> Progress {
        let it = &mut *feed;
        let (cursor, recipient) = (it.cursor, &it.recipient);
        let loads_again = it.subscriptions.iter().any(|known| known.entity == self.resync);
        for known in it.subscriptions.iter_mut().filter(|_| loads_again) {
            self.instead_of_many_rows(known, &log, now);
        }
        let mut subscriptions = it.subscriptions.iter_mut().enumerate();
        let next =
            subscriptions.find_map(|(at, known)| Some((at, self.next_telling(known, recipient, &log, now, cursor)?)));
        // Writing takes time, and others tell things meanwhile.
        drop(log);
        let Some((at, telling)) = next else {
            feed.live = feed.wanted_live();
            if subscriber.sink.is_direct() && feed.way == Way::Slow {
                feed.way = Way::Fast;
            }
            return Progress::CaughtUp(feed.next_due(&self.times.settle));
        };
        let (lines, then) = match telling {
            Telling::Lost => return Progress::More,
            Telling::Resend(share, refreshed) => {
                let Chunk { lines, end, drawn, .. } = share;
                (lines, Then::Resend { at, end, refreshed, drawn })
            }
            Telling::Deletions(share) => (share.lines, Then::Deletions { at, end: share.end }),
            Telling::Retractions { lines, ids, next } => (lines, Then::Retractions { at, ids, next }),
        };
        self.tell_lines(subscriber, feed, lines, None, then, now)
    }

    /// A page that can load its list again does that sooner than it draws many rows one by one.
    fn instead_of_many_rows(&self, known: &mut Subscription, log: &Log, now: Instant) {
        let Some(again) = known.again.as_ref().filter(|again| again.has_many_rows(&self.times.pace)) else {
            return;
        };
        let asked_at = again.asked_at().unwrap_or_default();
        let messages_from = again.messages_missed_from(u64::MAX);
        let marker = Arc::new(self.marker(known.entity, asked_at.min(log.end())));
        let reminded = self.reminded_before(known.entity);
        let again = Resend::resynchronised(marker, asked_at, messages_from, reminded, &self.times.pace, now);
        // It asks for its list now.
        known.again = Some(Box::new(again.beginning(now, Some(LateList::new(now, asked_at)))));
    }

    /// What a subscription is to hear once more at this time.
    fn next_telling(
        &self,
        known: &mut Subscription,
        recipient: &Recipient,
        log: &Log,
        now: Instant,
        cursor: u64,
    ) -> Option<Telling> {
        if let Some(hidden) = known.hidden.as_ref().filter(|hidden| hidden.is_due()) {
            return Some(self.share_of_hidden(known.entity, hidden, recipient, log));
        }
        if let Some((sequences, told)) = known.reminders.as_ref().and_then(|it| Some((it.lists.front()?, it.told))) {
            let old = sequences.partition_point(|sequence| *sequence < known.deletions_from);
            let share = self.share_of_deletions(log, known.entity, sequences, told.max(old), recipient);
            return Some(Telling::Deletions(share));
        }
        let again = known.again.as_mut()?;
        let log_start = recipient.log_start(log, known.entity);
        let doubts = known.asked_anew < MAX_ASKED_ANEW && again.doubts_gone_ids(log_start, now);
        known.asked_anew += u8::from(doubts);
        if doubts || again.is_gone(log_start, now) {
            let messages_missed_from = again.messages_missed_from(cursor);
            known.lose(messages_missed_from, 0);
            return Some(Telling::Lost);
        }
        let goes_on = again.move_on(&lock(&self.settles)[usize::from(known.entity.0)], &self.times, now);
        if !goes_on {
            known.again = None;
            return None;
        }
        let refreshed = match self.encoder(known.entity).has_snapshot {
            true => log.refreshed_for(known.entity, recipient.identity.receives()),
            false => 0,
        };
        self.share(log, known.entity, again, recipient).map(|share| Telling::Resend(share, refreshed))
    }

    /// Some of what is out of a recipient's sight: that it is gone, or the object where it may see it again.
    fn share_of_hidden(&self, entity: EntityIndex, hidden: &Retractions, recipient: &Recipient, log: &Log) -> Telling {
        let mut due = hidden.due().peekable();
        let (mut lines, mut ids, mut bytes) = (Vec::new(), Vec::new(), 0);
        while let Some((id, since)) = due.next_if(|_| ids.len() < SHARE_RECORDS && bytes <= SHARE_BYTES) {
            let newest =
                log.newest_record(entity, &since.key).filter(|(at, ..)| log.is_newest(entity, &since.key, *at));
            let line = match (newest, since.reminders) {
                (Some((at, record, _)), Some(_)) => {
                    let undecided = since.undecided_from.map(|from| Mode::Resend { from, pages: Pages::Any });
                    self.resolve_record(log, at, record, recipient, undecided.unwrap_or(Mode::Reminder))
                }
                (Some((at, record, _)), None) => {
                    self.resolve_record(log, at, record, recipient, Mode::Gone { from: 0 })
                }
                (None, Some(_)) if since.undecided_from.is_none() => Some(self.remind_by_id(entity, id)),
                (None, _) => None,
            };
            bytes += line.as_ref().map_or(0, Line::bytes);
            lines.extend(line.map(|line| (ReplayPosition::of_row(ids.len()), line)));
            ids.push(id.clone());
        }
        Telling::Retractions { lines, ids, next: due.next().map(|(id, _)| id.clone()) }
    }
}

/// What the hooks of entities are asked for one recipient before it is told more, and what it is told then.
#[derive(Debug)]
pub(crate) struct Inquiry {
    lines: Vec<(ReplayPosition, Line)>,
    /// Where it goes on, if there was no time to ask all of it.
    cut: Option<ReplayPosition>,
    then: Then,
    version: Version,
    identity: Identity,
    /// What a hook has failed to say, with where in the log it was told from: it is looked at again.
    undecided: Vec<(Box<ObjectRef>, u64)>,
}

/// Questions of one recipient that are asked at one time.
const AT_ONCE: usize = 16;

impl Inquiry {
    /// Asks all of it, each hook for `limit` at most; when it has taken that long in all, the rest is left for another
    /// time. What has no answer is not to be seen; `failed` is told of it, with the entity's name.
    pub(crate) async fn ask(&mut self, hub: &Hub, limit: Duration, failed: impl Fn(&str, &dyn fmt::Display)) {
        let begun = Instant::now();
        let places: Vec<ReplayPosition> = self.lines.iter().map(|(place, _)| *place).collect();
        let (identity, failed) = (self.identity.clone(), &failed);
        let identity = &identity;
        let lines = std::mem::take(&mut self.lines);
        let answers = lines.into_iter().map(|(place, line)| async move {
            let answer = match line {
                Line::Told(told) => Answer::Told(told),
                Line::Asked(question) => question.answer(hub, identity, Deadline::new(limit), failed).await,
            };
            (place, answer)
        });
        let mut answers = pin!(stream::iter(answers).buffered(AT_ONCE));
        let mut answered = Vec::with_capacity(places.len());
        let mut bytes = 0;
        for next in 1..=places.len() {
            // Behind the limit only what is there already. And what a hook makes of a small object may be large.
            let answer = match begun.elapsed() >= limit && next > 1 {
                _ if bytes > SHARE_BYTES => None,
                true => answers.next().now_or_never().flatten(),
                false => answers.next().await,
            };
            let Some((place, answer)) = answer else {
                self.cut = places.get(next - 1).copied();
                break;
            };
            match answer {
                Answer::Told(told) => {
                    bytes += told.frame.len();
                    answered.push((place, Line::Told(told)));
                }
                Answer::Nothing => {}
                Answer::Unsaid(mark, from) => self.undecided.push((mark, from)),
            }
        }
        self.lines = answered;
    }
}

/// What is told once more.
enum Telling {
    /// With where the log stood behind the latest refresh.
    Resend(Chunk, u64),
    Deletions(Chunk),
    /// Each line stands at the place of its id.
    Retractions {
        lines: Vec<(ReplayPosition, Line)>,
        ids: Vec<Arc<str>>,
        next: Option<Arc<str>>,
    },
    /// Only the store can tell it.
    Lost,
}

/// What follows when lines have been told, to the subscription at a place.
#[derive(Debug)]
enum Then {
    /// The log has been read so far. Of what was replayed, so many lines are drawn.
    ReadTo {
        read_to: u64,
        drawn: usize,
    },
    Resend {
        at: usize,
        end: ReplayPosition,
        refreshed: u64,
        drawn: usize,
    },
    Deletions {
        at: usize,
        end: ReplayPosition,
    },
    Retractions {
        at: usize,
        ids: Vec<Arc<str>>,
        next: Option<Arc<str>>,
    },
}

impl Then {
    /// The place of the subscription that it is about, where it is one alone.
    fn subscription(&self) -> Option<usize> {
        match self {
            Self::ReadTo { .. } => None,
            Self::Resend { at, .. } | Self::Deletions { at, .. } | Self::Retractions { at, .. } => Some(*at),
        }
    }
}

impl Holder for Subscriber {
    fn hidden(&self) -> OutOfSight {
        let feed = lock(&self.feed);
        let waiting = feed.page.iter().flat_map(|page| page.hidden.iter().cloned());
        let told = feed.subscriptions.iter().filter_map(|known| Some((known.entity, known.hidden.clone()?)));
        waiting.chain(told).collect()
    }

    fn ask(&self) {
        self.sink.ping();
    }

    fn doubt(&self, hub: &Hub, now: Instant) {
        let mut feed = lock(&self.feed);
        let log = lock(&hub.log);
        let it = &mut *feed;
        let Some(ResumeState { missed_from, .. }) = it.page.as_ref().filter(|_| it.way != Way::Left) else {
            return;
        };
        for known in it.subscriptions.iter_mut().filter(|known| known.entity != hub.resync && known.lost.is_none()) {
            if known.again.as_ref().is_some_and(|again| again.wants_rows()) {
                continue;
            }
            let log_start = it.recipient.log_start(&log, known.entity);
            let earlier = known.again.take();
            // Behind a refresh only the store knows.
            let reach = log_start.max(log.refreshed_for(known.entity, it.recipient.identity.receives()));
            match missed_from.filter(|from| *from >= reach) {
                Some(from) => {
                    let from = earlier.as_ref().and_then(|again| again.missed_from(from)).unwrap_or(from).min(from);
                    let again = Resend::replayed(from, true, hub.reminded_before(known.entity), now);
                    known.again = Some(Box::new(again));
                }
                None => known.lose(earlier.map_or(it.cursor, |again| again.messages_missed_from(it.cursor)), 0),
            }
            known.version += 1;
        }
        it.way = Way::Slow;
        it.live = Live::default();
        it.version += 1;
        drop(log);
        drop(feed);
        self.sink.wake();
    }
}

impl Subscriber {
    /// Whoever takes its session over finds it by that.
    pub(crate) fn holds_its_session(self: &Arc<Self>, hub: &Hub) {
        if let Some(ResumeState { hold: Some(hold), .. }) = &lock(&self.feed).page {
            let holder: Arc<dyn Holder> = self.clone();
            hub.sessions.is_held_by(hold, Arc::downgrade(&holder));
        }
    }

    /// Ends an entity for this subscriber. False when there was nothing to end.
    pub(crate) fn unsubscribe(&self, entity: EntityIndex) -> bool {
        let mut feed = lock(&self.feed);
        let before = feed.subscriptions.len();
        feed.subscriptions.retain(|known| known.entity != entity);
        if feed.subscriptions.len() < before {
            feed.ended.get_or_insert_default().note(entity);
        }
        feed.live = Live::default();
        feed.version += 1;
        feed.subscriptions.len() < before
    }

    /// Whether it follows this one.
    pub(crate) fn follows(&self, entity: EntityIndex) -> bool {
        lock(&self.feed).find(entity).is_some()
    }

    /// Mode many entities it follows.
    pub(crate) fn subscriptions(&self) -> usize {
        lock(&self.feed).subscriptions.len()
    }

    /// Nothing is handed to its sink any more, even by a fan-out task that holds it still. Gives its session back, if it
    /// has one, with what is out of its sight; `None` where it has left before.
    pub(crate) fn leave(&self) -> Option<Option<(Hold, OutOfSight)>> {
        let mut feed = lock(&self.feed);
        if std::mem::replace(&mut feed.way, Way::Left) == Way::Left {
            return None;
        }
        let Some(page) = &mut feed.page else {
            return Some(None);
        };
        let Some(hold) = page.hold.take() else {
            return Some(None);
        };
        // Of what it has not subscribed yet, too.
        let mut hidden = std::mem::take(&mut page.hidden);
        hidden.extend(feed.subscriptions.iter_mut().filter_map(|known| Some((known.entity, known.hidden.take()?))));
        Some(Some((hold, hidden)))
    }

    /// A ping for the end of the line. Its pong will acknowledge what stands before it there.
    pub(crate) fn ping(&self, hub: &Hub, now: Instant) -> Cleared {
        let mut feed = lock(&self.feed);
        let cursor = feed.cursor;
        match feed.asking(hub, cursor, now) {
            Some(asked) => {
                let ping = Cleared::ping(&asked.payload);
                feed.asked = Some(asked);
                ping
            }
            None => Cleared::ping(&[]),
        }
    }

    /// Whether its page has been asked what it has received, and has not answered yet.
    pub(crate) fn awaits_pong(&self) -> bool {
        lock(&self.feed).asked.is_some()
    }

    /// Whether it follows an entity and hears what is told of it in these scopes.
    pub(crate) fn would_hear(&self, entity: EntityIndex, scopes: &Scopes) -> bool {
        let mut feed = lock(&self.feed);
        feed.recipient.receives(scopes) && feed.find(entity).is_some()
    }

    /// Who it is.
    pub(crate) fn identity(&self) -> Identity {
        lock(&self.feed).recipient.identity.clone()
    }

    /// Who it was before on this page, where its scopes were others then.
    pub(crate) fn earlier_identity(&self) -> Option<Identity> {
        lock(&self.feed).recipient.earlier()
    }

    /// The page has everything that was written before the ping of this payload.
    pub(crate) fn pong(&self, hub: &Hub, payload: &[u8]) {
        if let Some(sharer) = self.acknowledges(hub, payload) {
            sharer.doubt(hub, Instant::now());
        }
    }

    /// The page goes away. Chromium keeps some pages for a way back, and answers pings for them; a page that comes back has
    /// thrown away what came meanwhile (seen with version 156).
    pub(crate) fn goes_away(&self, hub: &Hub, now: Instant) {
        let feed = lock(&self.feed);
        if let Some(ResumeState { hold: Some(hold), .. }) = &feed.page {
            let position = lock(&hub.log).position(now, KEPT_BY_BROWSERS);
            hub.sessions.reach_back(hold, position);
        }
    }

    /// Another page's connection, where this one has shown that both have the same key.
    fn acknowledges(&self, hub: &Hub, payload: &[u8]) -> Option<Arc<dyn Holder>> {
        let mut feed = lock(&self.feed);
        let asked = feed.asked.take_if(|asked| asked.payload == payload)?;
        let feed = &mut *feed;
        let Some(ResumeState { hold: Some(hold), .. }) = &feed.page else {
            return None;
        };
        let sharer = hub.sessions.acknowledge(hold, &asked.positions, asked.at);
        // What the store said to who it is now has reached its page: it shows nothing else any more.
        let has_it = |known: &Subscription| asked.positions.iter().any(|(entity, _)| *entity == known.entity);
        let mut scoped = feed.subscriptions.iter().filter(|known| hub.encoder(known.entity).is_scoped);
        if asked.feed == feed.version && !feed.recipient.earlier.is_empty() && scoped.all(has_it) {
            feed.recipient.earlier.forget();
            hub.sessions.forget_earlier(hold);
        }
        sharer
    }

    /// Touches what handing over needs, so that the memory of several is fetched at one time.
    pub(crate) fn prefetch(&self) {
        std::hint::black_box(self.feed.is_poisoned());
        self.sink.prefetch();
    }

    /// Hands over a batch on the fast way, or moves to the slow way.
    pub(crate) fn deliver<'b>(
        &self,
        hub: &Hub,
        batch: &'b Batch,
        wanted: &mut Vec<(u64, Addressed<'b>)>,
        frames: &mut Vec<&'b Cleared>,
    ) {
        let mut feed = lock(&self.feed);
        if feed.way == Way::Left {
            return;
        }
        if feed.way == Way::Slow || feed.cursor < batch.start || batch.is_torn {
            feed.way = Way::Slow;
            drop(feed);
            self.sink.wake();
            return;
        }
        wanted.clear();
        frames.clear();
        let mut end = batch.end;
        let mut is_fast = true;
        let seen =
            if feed.cursor == batch.start { 0 } else { batch.records.partition_point(|(at, _)| *at < feed.cursor) };
        for &(sequence, ref said) in &batch.records[seen..] {
            if feed.is_wanted_live(said.entity, sequence) {
                if said.only_slowly {
                    (end, is_fast) = (sequence, false);
                    break;
                }
                if let Some(heard) = said.to(&feed.recipient) {
                    frames.push(heard.frame);
                    wanted.push((sequence, heard));
                }
            }
        }
        let mut taken = Accepted { frames: 0, clear: true };
        if !frames.is_empty() {
            let cursor = feed.cursor.max(end);
            let asked = feed.asking_when_due(hub, cursor, batch.now);
            taken = self.try_send(&mut feed, frames, asked, batch.now);
        }
        let mut audit_buffer = AuditBuffer::default();
        for (_, heard) in &wanted[..taken.frames] {
            heard.is_told(&mut audit_buffer);
            if let Some(mark) = heard.mark {
                feed.marks(hub, mark, heard.leaves, batch.now);
            }
        }
        feed.cursor = match wanted.get(taken.frames) {
            Some((sequence, _)) => *sequence,
            None => feed.cursor.max(end),
        };
        let stays = is_fast && taken.frames == frames.len() && taken.clear;
        if !stays {
            feed.way = Way::Slow;
        }
        drop(feed);
        audit_buffer.write(hub, || self.identity());
        if !stays {
            self.sink.wake();
        }
    }

    /// Offers frames and, in the same write, a ping behind them. What is taken of the frames is what counts.
    fn try_send(
        &self,
        feed: &mut SubscriberState,
        frames: &[&Cleared],
        asked: Option<Box<Asked>>,
        now: Instant,
    ) -> Accepted {
        let Some(asked) = asked else {
            return self.sink.try_send(frames);
        };
        let ping = Cleared::ping(&asked.payload);
        let with_ping: Vec<&Cleared> = frames.iter().copied().chain([&ping]).collect();
        let taken = self.sink.try_send(&with_ping);
        if taken.frames > frames.len() {
            feed.asked = Some(asked);
        } else {
            feed.ping_due = now;
        }
        Accepted { frames: taken.frames.min(frames.len()), ..taken }
    }

    /// Says again what has settled, to one that stands at the head; others hear it when they get there.
    pub(crate) fn repeat(&self, hub: &Hub, repeat_batch: &RepeatBatch, now: Instant) {
        let mut feed = lock(&self.feed);
        if feed.way == Way::Left {
            return;
        }
        let it = &mut *feed;
        let (cursor, recipient) = (it.cursor, &it.recipient);
        let is_there = it.way == Way::Fast && cursor == repeat_batch.until;
        let entity = repeat_batch.repeat.entity;
        let mut subscriptions = it.subscriptions.iter_mut();
        let Some(subscription) =
            subscriptions.find(|known| known.entity == entity).filter(|known| known.lost.is_none())
        else {
            return;
        };
        let from = match &repeat_batch.repeat.what {
            Resent::Settled { .. } => 0,
            Resent::Deletions(_) => subscription.deletions_from,
            Resent::Retractions => {
                let hidden = subscription.hidden.as_mut();
                if !hidden.is_some_and(|hidden| hidden.remind(&hub.times.reminders, now)) {
                    return;
                }
                u64::MAX
            }
        };
        let is_torn = repeat_batch.is_torn
            && match &repeat_batch.repeat.what {
                Resent::Settled { told, .. } => told.start < recipient.log_start(&lock(&hub.log), entity),
                Resent::Deletions(_) | Resent::Retractions => false,
            };
        let (mut is_told, mut audit_buffer) = (false, AuditBuffer::default());
        if is_torn {
            let messages_missed_from =
                subscription.again.as_ref().map_or(cursor, |again| again.messages_missed_from(cursor));
            subscription.lose(messages_missed_from, 0);
            is_told = true;
        } else if let Some(said) = repeat_batch.frames.as_ref().filter(|_| is_there) {
            let said = said.iter().filter(|(at, _)| *at >= from);
            let heard: Vec<Addressed<'_>> = said.filter_map(|(_, said)| said.to(recipient)).collect();
            let frames: Vec<&Cleared> = heard.iter().map(|heard| heard.frame).collect();
            let taken =
                if frames.is_empty() { Accepted { frames: 0, clear: true } } else { self.sink.try_send(&frames) };
            hub.counters.repeats.add(taken.frames as u64);
            for heard in &heard[..taken.frames] {
                heard.is_told(&mut audit_buffer);
                if let Some(mark) = heard.mark {
                    subscription.marks(hub, mark, heard.leaves, now);
                }
            }
            is_told = taken.frames == frames.len();
            if is_told && taken.clear && !subscription.hides() {
                drop(feed);
                audit_buffer.write(hub, || self.identity());
                return;
            }
        }
        match &repeat_batch.repeat.what {
            _ if is_told => {}
            Resent::Settled { told, known_before, .. } => subscription.settle(told.start, *known_before, now),
            Resent::Deletions(sequences) => subscription.remind(sequences),
            Resent::Retractions => {}
        }
        subscription.version += 1;
        feed.live = Live::default();
        feed.way = Way::Slow;
        drop(feed);
        audit_buffer.write(hub, || self.identity());
        self.sink.wake();
    }
}

impl SubscriberState {
    /// What a ping has acknowledged behind which everything before `cursor` is written; `None` for one without a session.
    fn asking(&mut self, hub: &Hub, cursor: u64, now: Instant) -> Option<Box<Asked>> {
        let Some(ResumeState { hold: Some(_), .. }) = &self.page else {
            return None;
        };
        self.ping_due = now + hub.times.acknowledge_every;
        let settled = {
            let log = lock(&hub.log);
            log.position(now, hub.times.replay_overlap)
        };
        let settles = lock(&hub.settles);
        let positions: Box<[(EntityIndex, u64)]> = self
            .subscriptions
            .iter()
            .filter_map(|known| {
                let unsettled_from = settles.get(usize::from(known.entity.0)).and_then(Settle::unsettled_from);
                Some((known.entity, known.safe(cursor, settled, unsettled_from)?))
            })
            .collect();
        drop(settles);
        if positions.is_empty() {
            return None;
        }
        self.pings += 1;
        Some(Box::new(Asked { payload: self.pings.to_be_bytes(), positions, feed: self.version, at: now }))
    }

    /// The same, where it is time for a ping.
    fn asking_when_due(&mut self, hub: &Hub, cursor: u64, now: Instant) -> Option<Box<Asked>> {
        if now < self.ping_due { None } else { self.asking(hub, cursor, now) }
    }
}
