//! Who listens, and how what is told reaches them: one log, one cursor each, no queues. Knows no sockets.
//!
//! Publishing appends to the log and wakes the fan-out tasks, one per worker, each owning a shard of the subscribers.
//! A subscriber that took everything so far is on the *fast way*: the fan-out task hands it what is new and moves its
//! cursor. One that did not is on the *slow way*: its own task reads the log by its cursor, a bounded share at a time,
//! until it has caught up.

mod log;

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use slab::Slab;
use tokio::{sync::Notify, time::Instant};

pub(crate) use self::log::LogLimits;
use self::log::{Log, Record, Subject};
use crate::{
    change::{Change, ChangeKind},
    protocol,
};

/// The place of an entity in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct EntityIndex(pub(crate) u16);

/// The names that go into an entity's frames.
#[derive(Debug)]
pub(crate) struct EntityNames {
    pub(crate) entity: String,
    pub(crate) payload_key: String,
}

/// Where a subscriber's frames go.
pub(crate) trait Outlet: Send + Sync {
    /// Takes whole frames, in order, as many as it can without waiting. What it has taken it will deliver.
    fn offer(&self, frames: &[&Bytes]) -> Taken;
    /// True when the fan-out may offer frames; false where only the subscriber's own task can write.
    fn is_direct(&self) -> bool;
    /// Wakes the subscriber's own task: it has left the fast way, or there is news that only it can write.
    fn wake(&self);
}

/// How an offer went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    /// Frames taken, from the front.
    pub(crate) frames: usize,
    /// True when nothing waits to be written, so that more may be offered at once.
    pub(crate) clear: bool,
}

/// How far a subscriber got on the slow way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// It has everything; wait to be woken.
    CaughtUp,
    /// There is more to read at once.
    More,
    /// The outlet must be written out first.
    Blocked,
    /// Records it has not seen are gone from the log.
    FellOff,
}

/// Records handed to the fast way at once.
const BATCH_RECORDS: usize = 256;
/// Sockets written to before a fan-out task lets others run.
const YIELD_EVERY: usize = 128;
/// Records looked at in one share of the slow way.
const SHARE_RECORDS: usize = 512;
/// Bytes in one share of the slow way.
const SHARE_BYTES: usize = 128 * 1024;

/// The log and everyone who follows it.
pub(crate) struct Hub {
    names: Vec<EntityNames>,
    log: Mutex<Log>,
    shards: OnceLock<Box<[Arc<Shard>]>>,
    next_shard: AtomicUsize,
}

impl Hub {
    pub(crate) fn new(names: Vec<EntityNames>, limits: LogLimits) -> Self {
        Self { names, log: Mutex::new(Log::new(limits)), shards: OnceLock::new(), next_shard: AtomicUsize::new(0) }
    }

    /// The sequence number the next record will get.
    pub(crate) fn head(&self) -> u64 {
        lock(&self.log).head()
    }

    /// Records kept, and the bytes they cost.
    pub(crate) fn log_size(&self) -> (usize, usize) {
        lock(&self.log).size()
    }

    /// Tells changes, in this order and with nothing in between.
    ///
    /// `began` is where the log stood when the write that made an add began: an object that was told since then is
    /// newer than the add. Its newest state goes out instead, or nothing where it was added or deleted since.
    pub(crate) fn publish(&self, entity: EntityIndex, changes: &[Change], began: Option<u64>) {
        let records: Vec<Record> =
            changes.iter().map(|change| self.record(entity, change.kind(), change.id(), change.object())).collect();
        {
            let mut log = lock(&self.log);
            let now = Instant::now();
            for (change, record) in changes.iter().zip(records) {
                let newer = began
                    .filter(|_| change.kind() == ChangeKind::Add)
                    .and_then(|began| log.newest(entity, change.id(), began).cloned());
                match newer {
                    None => log.append(now, record),
                    Some(Subject { kind: ChangeKind::Add | ChangeKind::Delete, .. }) => {}
                    Some(Subject { object, .. }) => {
                        if let Ok(object) = std::str::from_utf8(&object) {
                            let newest = self.record(entity, ChangeKind::Add, change.id(), object);
                            log.append(now, newest);
                        }
                    }
                }
            }
        }
        self.wake();
    }

    /// Tells a message: `value` is JSON text.
    pub(crate) fn send(&self, entity: EntityIndex, value: &str) {
        let record = Record {
            entity,
            frame: protocol::message(&self.names[usize::from(entity.0)].entity, value),
            subject: None,
        };
        lock(&self.log).append(Instant::now(), record);
        self.wake();
    }

    /// Adds a subscriber, with no subscriptions yet, and makes sure that somebody serves it. Needs a runtime.
    pub(crate) fn join(self: &Arc<Self>, outlet: Arc<dyn Outlet>) -> Arc<Subscriber> {
        let shards = self.shards.get_or_init(|| {
            let workers = tokio::runtime::Handle::current().metrics().num_workers();
            (0..workers).map(|_| Arc::new(Shard::default())).collect()
        });
        let shard = &shards[self.next_shard.fetch_add(1, Ordering::Relaxed) % shards.len()];
        let subscriber = Arc::new(Subscriber {
            feed: Mutex::new(Feed {
                cursor: self.head(),
                subscriptions: Vec::new(),
                // The first round of the slow way puts a direct outlet on the fast way.
                way: Way::Slow,
            }),
            outlet,
            shard: shard.clone(),
            place: OnceLock::new(),
        });
        let place = lock(&shard.subscribers).insert(subscriber.clone());
        subscriber.place.get_or_init(|| place);
        shard.serve(self);
        subscriber
    }

    /// Starts an entity for a subscriber: it hears everything told from now on. Doing so twice changes nothing.
    pub(crate) fn subscribe(&self, subscriber: &Subscriber, entity: EntityIndex) -> bool {
        let mut feed = lock(&subscriber.feed);
        let log = lock(&self.log);
        if feed.subscriptions.iter().any(|known| known.entity == entity) {
            return false;
        }
        feed.subscriptions.push(Subscription { entity, from: log.head() });
        true
    }

    /// One round of the slow way for a subscriber whose outlet is written out.
    pub(crate) fn catch_up(&self, subscriber: &Subscriber) -> Progress {
        // In this order everywhere: whoever holds the log waits for nobody.
        let mut feed = lock(&subscriber.feed);
        let log = lock(&self.log);
        let Some(unread) = log.since(feed.cursor) else {
            return Progress::FellOff;
        };
        let mut share: Vec<(u64, Bytes)> = Vec::new();
        let mut bytes = 0;
        let mut read_to = feed.cursor;
        for (sequence, record) in unread.take(SHARE_RECORDS) {
            if feed.wants(record.entity, sequence) {
                if bytes > SHARE_BYTES {
                    break;
                }
                bytes += record.frame.len();
                share.push((sequence, record.frame.clone()));
            }
            read_to = sequence + 1;
        }
        let at_head = read_to == log.head();
        if share.is_empty() && at_head {
            feed.cursor = read_to;
            if subscriber.outlet.is_direct() {
                feed.way = Way::Fast;
            }
            return Progress::CaughtUp;
        }
        drop(log);
        let frames: Vec<&Bytes> = share.iter().map(|(_, frame)| frame).collect();
        let taken = subscriber.outlet.offer(&frames);
        feed.cursor = match share.get(taken.frames) {
            Some((sequence, _)) => *sequence,
            None => read_to,
        };
        if taken.clear { Progress::More } else { Progress::Blocked }
    }

    fn record(&self, entity: EntityIndex, kind: ChangeKind, id: &str, object: &str) -> Record {
        let names = &self.names[usize::from(entity.0)];
        let event = protocol::event(&names.entity, kind.verb(), &names.payload_key, object);
        Record { entity, frame: event.frame, subject: Some(Subject { kind, id: id.into(), object: event.object }) }
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
        let records = log
            .since(start)
            .into_iter()
            .flatten()
            .take(BATCH_RECORDS)
            .map(|(_, record)| (record.entity, record.frame.clone()))
            .collect();
        Batch { start, records }
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        // The fan-out tasks wake, find the hub gone, and end.
        self.wake();
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").finish_non_exhaustive()
    }
}

/// One follower of the log.
pub(crate) struct Subscriber {
    feed: Mutex<Feed>,
    outlet: Arc<dyn Outlet>,
    shard: Arc<Shard>,
    place: OnceLock<usize>,
}

impl Subscriber {
    /// Ends an entity for this subscriber. False when there was nothing to end.
    pub(crate) fn unsubscribe(&self, entity: EntityIndex) -> bool {
        let mut feed = lock(&self.feed);
        let before = feed.subscriptions.len();
        feed.subscriptions.retain(|known| known.entity != entity);
        feed.subscriptions.len() < before
    }

    /// How many entities it follows.
    pub(crate) fn subscriptions(&self) -> usize {
        lock(&self.feed).subscriptions.len()
    }

    /// Takes it off the list.
    pub(crate) fn leave(&self) {
        if let Some(&place) = self.place.get() {
            lock(&self.shard.subscribers).try_remove(place);
        }
    }

    /// Hands over a batch on the fast way, or moves to the slow way.
    fn deliver<'b>(&self, batch: &'b Batch, wanted: &mut Vec<(u64, &'b Bytes)>, frames: &mut Vec<&'b Bytes>) {
        let mut feed = lock(&self.feed);
        if feed.way == Way::Slow {
            drop(feed);
            self.outlet.wake();
            return;
        }
        if feed.cursor < batch.start {
            feed.way = Way::Slow;
            drop(feed);
            self.outlet.wake();
            return;
        }
        wanted.clear();
        frames.clear();
        let end = batch.end();
        let unseen = batch
            .records
            .iter()
            .zip(batch.start..)
            .skip(usize::try_from(feed.cursor - batch.start).unwrap_or(usize::MAX));
        for ((entity, frame), sequence) in unseen {
            if feed.wants(*entity, sequence) {
                wanted.push((sequence, frame));
                frames.push(frame);
            }
        }
        if frames.is_empty() {
            feed.cursor = feed.cursor.max(end);
            return;
        }
        let taken = self.outlet.offer(frames);
        feed.cursor = match wanted.get(taken.frames) {
            Some((sequence, _)) => *sequence,
            None => end,
        };
        if taken.frames < frames.len() || !taken.clear {
            feed.way = Way::Slow;
            drop(feed);
            self.outlet.wake();
        }
    }
}

/// Where a subscriber stands and what it follows.
#[derive(Debug)]
struct Feed {
    /// The sequence number of the first record it has not been handed.
    cursor: u64,
    subscriptions: Vec<Subscription>,
    way: Way,
}

impl Feed {
    fn wants(&self, entity: EntityIndex, sequence: u64) -> bool {
        self.subscriptions.iter().any(|known| known.entity == entity && known.from <= sequence)
    }
}

/// An entity, and the first record of it that is wanted.
#[derive(Debug)]
struct Subscription {
    entity: EntityIndex,
    from: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Fast,
    Slow,
}

/// A run of new records.
struct Batch {
    start: u64,
    records: Vec<(EntityIndex, Bytes)>,
}

impl Batch {
    fn end(&self) -> u64 {
        self.start + self.records.len() as u64
    }
}

/// The subscribers one fan-out task serves.
#[derive(Default)]
struct Shard {
    subscribers: Mutex<Slab<Arc<Subscriber>>>,
    news: Notify,
    served: AtomicBool,
    /// Where the fan-out stands: everything before it has been handed out or left to the slow way.
    position: OnceLock<AtomicU64>,
}

impl Shard {
    /// Starts the fan-out task unless one runs. A runtime that went away has taken its task along; the next
    /// subscriber's runtime then starts another.
    fn serve(self: &Arc<Self>, hub: &Arc<Hub>) {
        if !self.served.swap(true, Ordering::AcqRel) {
            // Fixed before anybody's first round of the slow way, which reads what came earlier.
            self.position.get_or_init(|| AtomicU64::new(hub.head()));
            tokio::spawn(fan_out(Arc::downgrade(hub), Served(self.clone())));
        }
    }

    /// Up to `YIELD_EVERY` subscribers from a place on, and the place to go on from.
    fn some(&self, from: usize, into: &mut Vec<Arc<Subscriber>>) -> Option<usize> {
        let subscribers = lock(&self.subscribers);
        let until = from + YIELD_EVERY;
        into.extend((from..until).filter_map(|place| subscribers.get(place)).cloned());
        (until < subscribers.capacity()).then_some(until)
    }
}

/// Marks a shard as served for as long as its task lives.
struct Served(Arc<Shard>);

impl Drop for Served {
    fn drop(&mut self) {
        self.0.served.store(false, Ordering::Release);
    }
}

async fn fan_out(hub: Weak<Hub>, turn: Served) {
    let shard = &turn.0;
    let Some(position) = shard.position.get() else {
        return;
    };
    loop {
        let Some(batch) = hub.upgrade().map(|hub| hub.batch(position.load(Ordering::Acquire))) else {
            return;
        };
        if batch.records.is_empty() {
            shard.news.notified().await;
            continue;
        }
        let mut from = Some(0);
        while let Some(place) = from {
            from = deliver_some(shard, place, &batch);
            tokio::task::yield_now().await;
        }
        position.store(batch.end(), Ordering::Release);
    }
}

/// Hands a batch to some of a shard's subscribers; says where to go on.
fn deliver_some(shard: &Shard, place: usize, batch: &Batch) -> Option<usize> {
    let mut some = Vec::with_capacity(YIELD_EVERY);
    let next = shard.some(place, &mut some);
    let (mut wanted, mut frames) = (Vec::new(), Vec::new());
    for subscriber in &some {
        subscriber.deliver(batch, &mut wanted, &mut frames);
    }
    next
}

/// Locks ignoring poison: every value behind these locks is whole between two statements.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
