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
    object::Object,
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
    /// Returns how many there was something to tell of.
    pub(crate) fn publish(&self, entity: EntityIndex, changes: &[Change], began: Option<u64>) -> u64 {
        let records: Vec<Record> =
            changes.iter().map(|change| self.record(entity, change.kind(), change.id(), change.object())).collect();
        let told = {
            let mut log = lock(&self.log);
            let before = log.head();
            let now = Instant::now();
            for (change, record) in changes.iter().zip(records) {
                let newer = began
                    .filter(|_| change.kind() == ChangeKind::Add)
                    .and_then(|began| log.newest(entity, change.id(), began..before).cloned());
                match newer {
                    None => log.append(now, record),
                    Some(Subject { kind: ChangeKind::Add | ChangeKind::Delete, .. }) => {}
                    Some(Subject { object, .. }) => {
                        // An update may leave fields out that pages need of an add.
                        let sent = Object::of(change.object()).unwrap_or_default();
                        let newer = Object::parse(&object).unwrap_or_default();
                        let whole = sent.overlaid(newer).to_json();
                        let newest = self.record(entity, ChangeKind::Add, change.id(), &whole);
                        log.append(now, newest);
                    }
                }
            }
            log.head() - before
        };
        self.wake();
        told
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
        if !feed.subscriptions.iter().any(|known| known.from < log.base()) {
            // What is gone from the log was nothing to it.
            feed.cursor = feed.cursor.max(log.base());
        }
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

    /// Takes it off the list; nothing is handed to its outlet any more.
    pub(crate) fn leave(&self) {
        // A fan-out task may hold it still.
        lock(&self.feed).way = Way::Left;
        if let Some(&place) = self.place.get() {
            lock(&self.shard.subscribers).try_remove(place);
        }
    }

    /// Hands over a batch on the fast way, or moves to the slow way.
    fn deliver<'b>(&self, batch: &'b Batch, wanted: &mut Vec<(u64, &'b Bytes)>, frames: &mut Vec<&'b Bytes>) {
        let mut feed = lock(&self.feed);
        if feed.way == Way::Left {
            return;
        }
        if feed.way == Way::Slow || feed.cursor < batch.start {
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
    Left,
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const EVENTS: EntityIndex = EntityIndex(0);
    const CALENDARS: EntityIndex = EntityIndex(1);

    fn hub(records: usize) -> Arc<Hub> {
        let names = |entity: &str, key: &str| EntityNames { entity: entity.to_owned(), payload_key: key.to_owned() };
        let limits = LogLimits { records, bytes: usize::MAX, age: Duration::from_secs(3600) };
        Arc::new(Hub::new(vec![names("events", "event"), names("calendars", "calendar")], limits))
    }

    /// An outlet with so much room, and no more until it is given some.
    #[derive(Default)]
    struct Pipe {
        direct: bool,
        room: Mutex<usize>,
        out: Mutex<Vec<Bytes>>,
        news: Notify,
    }

    impl Pipe {
        fn new(direct: bool, room: usize) -> Arc<Self> {
            Arc::new(Self { direct, room: Mutex::new(room), ..Self::default() })
        }

        fn out(&self) -> Vec<Bytes> {
            lock(&self.out).clone()
        }
    }

    impl Outlet for Pipe {
        fn offer(&self, frames: &[&Bytes]) -> Taken {
            let mut room = lock(&self.room);
            let taken = frames.len().min(*room);
            *room -= taken;
            lock(&self.out).extend(frames[..taken].iter().map(|&frame| frame.clone()));
            Taken { frames: taken, clear: *room > 0 }
        }

        fn is_direct(&self) -> bool {
            self.direct
        }

        fn wake(&self) {
            self.news.notify_one();
        }
    }

    /// One round of what a subscriber's own task does when it has room.
    fn run_slow_way(hub: &Hub, subscriber: &Subscriber) -> Progress {
        loop {
            match hub.catch_up(subscriber) {
                Progress::More => {}
                other => return other,
            }
        }
    }

    fn update(id: u32) -> Change {
        Change::update(&json!({ "id": id + 1 })).unwrap()
    }

    fn frame(hub: &Hub, entity: EntityIndex, change: &Change) -> Bytes {
        hub.record(entity, change.kind(), change.id(), change.object()).frame
    }

    async fn let_others_run() {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn the_fast_way_needs_nobody_but_the_fan_out() {
        let hub = hub(100);
        let pipe = Pipe::new(true, 100);
        let subscriber = hub.join(pipe.clone());
        assert_eq!(run_slow_way(&hub, &subscriber), Progress::CaughtUp);
        hub.subscribe(&subscriber, EVENTS);
        hub.publish(EVENTS, &[update(1), update(2)], None);
        let_others_run().await;
        assert_eq!(pipe.out(), [frame(&hub, EVENTS, &update(1)), frame(&hub, EVENTS, &update(2))]);
    }

    #[tokio::test]
    async fn a_full_outlet_wakes_its_task_and_loses_nothing() {
        let hub = hub(100);
        let pipe = Pipe::new(true, 2);
        let subscriber = hub.join(pipe.clone());
        run_slow_way(&hub, &subscriber);
        hub.subscribe(&subscriber, EVENTS);
        let changes: Vec<Change> = (0..5).map(update).collect();
        hub.publish(EVENTS, &changes, None);
        pipe.news.notified().await;
        assert_eq!(pipe.out().len(), 2);
        *lock(&pipe.room) = 100;
        assert_eq!(run_slow_way(&hub, &subscriber), Progress::CaughtUp);
        let all: Vec<Bytes> = changes.iter().map(|change| frame(&hub, EVENTS, change)).collect();
        assert_eq!(pipe.out(), all);
    }

    #[tokio::test]
    async fn a_reader_behind_the_log_is_told_that_it_fell_off() {
        let hub = hub(3);
        let pipe = Pipe::new(true, 0);
        let subscriber = hub.join(pipe.clone());
        run_slow_way(&hub, &subscriber);
        hub.subscribe(&subscriber, EVENTS);
        hub.publish(EVENTS, &(0..10).map(update).collect::<Vec<_>>(), None);
        pipe.news.notified().await;
        *lock(&pipe.room) = 100;
        assert_eq!(run_slow_way(&hub, &subscriber), Progress::FellOff);
    }

    #[tokio::test]
    async fn what_was_told_before_a_subscription_stays_untold() {
        let hub = hub(100);
        let pipe = Pipe::new(true, 100);
        let subscriber = hub.join(pipe.clone());
        run_slow_way(&hub, &subscriber);
        // The fan-out has not run yet when the subscription comes.
        hub.publish(EVENTS, &[update(1)], None);
        assert!(hub.subscribe(&subscriber, EVENTS));
        assert!(!hub.subscribe(&subscriber, EVENTS), "twice is once");
        hub.publish(EVENTS, &[update(2)], None);
        let_others_run().await;
        assert_eq!(pipe.out(), [frame(&hub, EVENTS, &update(2))]);
    }

    #[tokio::test]
    async fn an_add_never_overrides_what_was_told_since_its_write_began() {
        let hub = hub(100);
        let pipe = Pipe::new(true, 100);
        let subscriber = hub.join(pipe.clone());
        run_slow_way(&hub, &subscriber);
        hub.subscribe(&subscriber, EVENTS);
        let object = |kind: fn(&serde_json::Value) -> Result<Change, crate::ChangeError>, id: u32, text: &str| {
            kind(&json!({ "id": id, "text": text })).unwrap()
        };
        let began = hub.head();
        hub.publish(EVENTS, &[object(Change::update, 1, "newer"), object(Change::add, 2, "newer")], None);
        hub.publish(EVENTS, &[Change::delete(3).unwrap()], None);
        let late = [1, 2, 3, 4].map(|id| object(Change::add, id, "older"));
        hub.publish(EVENTS, &late, Some(began));
        let_others_run().await;
        // A partial update is no whole object: what the add knows besides goes with it.
        hub.publish(EVENTS, &[Change::update(&json!({ "id": 5, "text": "newer" })).unwrap()], None);
        hub.publish(EVENTS, &[Change::add(&json!({ "id": 5, "text": "older", "x": 1 })).unwrap()], Some(began));
        // Changes told together do not stand in each other's way.
        let again = [Change::delete(6).unwrap(), object(Change::add, 6, "again")];
        hub.publish(EVENTS, &again, Some(began));
        let_others_run().await;
        let merged = Change::add(&json!({ "id": 5, "text": "newer", "x": 1 })).unwrap();
        let rest: Vec<Bytes> = pipe.out().split_off(6);
        assert_eq!(rest, [merged, again[0].clone(), again[1].clone()].map(|change| frame(&hub, EVENTS, &change)));
        let told: Vec<Bytes> = pipe.out()[3..5].to_vec();
        let expected = [object(Change::add, 1, "newer"), object(Change::add, 4, "older")];
        assert_eq!(told, expected.map(|change| frame(&hub, EVENTS, &change)));
    }

    #[tokio::test]
    async fn whoever_has_left_is_handed_nothing_even_by_a_fan_out_that_holds_it_still() {
        let hub = hub(100);
        let pipe = Pipe::new(true, 100);
        let subscriber = hub.join(pipe.clone());
        run_slow_way(&hub, &subscriber);
        hub.subscribe(&subscriber, EVENTS);
        subscriber.leave();
        hub.publish(EVENTS, &[update(1)], None);
        subscriber.deliver(&hub.batch(0), &mut Vec::new(), &mut Vec::new());
        assert!(pipe.out().is_empty());
    }

    #[tokio::test]
    async fn the_fan_out_ends_with_its_hub() {
        let hub = hub(100);
        hub.join(Pipe::new(true, 1));
        let shard = hub.shards()[0].clone();
        let_others_run().await;
        drop(hub);
        let_others_run().await;
        assert!(!shard.served.load(Ordering::Acquire));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Publish { entity: bool, count: u32 },
        Subscribe { who: usize, entity: bool },
        Unsubscribe { who: usize, entity: bool },
        Room { who: usize, room: usize },
        Rest,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (any::<bool>(), 1_u32..6).prop_map(|(entity, count)| Step::Publish { entity, count }),
            2 => (0_usize..4, any::<bool>()).prop_map(|(who, entity)| Step::Subscribe { who, entity }),
            1 => (0_usize..4, any::<bool>()).prop_map(|(who, entity)| Step::Unsubscribe { who, entity }),
            2 => (0_usize..4, 0_usize..5).prop_map(|(who, room)| Step::Room { who, room }),
            2 => Just(Step::Rest),
        ]
    }

    fn index(calendars: bool) -> EntityIndex {
        if calendars { CALENDARS } else { EVENTS }
    }

    proptest! {
        /// Whatever the interleaving of publishing, subscribing and full sockets, on both ways: everybody is handed
        /// what was told while they were subscribed, once and in order. An unsubscription may cut off what is still
        /// on its way, so what arrives is compared with what was told less such records.
        #[test]
        fn everybody_is_handed_everything_once_and_in_order(steps in proptest::collection::vec(step(), 1..60)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let hub = hub(10_000);
                let pipes = [true, true, false, false].map(|direct| Pipe::new(direct, 3));
                let subscribers = pipes.clone().map(|pipe| hub.join(pipe));
                let mut told: [Vec<Bytes>; 4] = Default::default();
                let mut follows = [[false; 2]; 4];
                let mut number = 0;
                let settle = async |room: Option<usize>| {
                    let_others_run().await;
                    for (subscriber, pipe) in subscribers.iter().zip(&pipes) {
                        if let Some(room) = room {
                            *lock(&pipe.room) = room;
                        }
                        if *lock(&pipe.room) > 0 {
                            run_slow_way(&hub, subscriber);
                        }
                    }
                };
                for step in steps {
                    match step {
                        Step::Publish { entity, count } => {
                            let changes: Vec<Change> = (0..count).map(|n| update(number + n)).collect();
                            number += count;
                            for (who, told) in told.iter_mut().enumerate() {
                                if follows[who][usize::from(entity)] {
                                    told.extend(changes.iter().map(|change| frame(&hub, index(entity), change)));
                                }
                            }
                            hub.publish(index(entity), &changes, None);
                        }
                        Step::Subscribe { who, entity } => {
                            hub.subscribe(&subscribers[who], index(entity));
                            follows[who][usize::from(entity)] = true;
                        }
                        Step::Unsubscribe { who, entity } => {
                            // Everything on its way arrives first, so that the model knows what was cut off: nothing.
                            settle(Some(usize::MAX)).await;
                            settle(None).await;
                            subscribers[who].unsubscribe(index(entity));
                            follows[who][usize::from(entity)] = false;
                        }
                        Step::Room { who, room } => *lock(&pipes[who].room) = room,
                        Step::Rest => settle(None).await,
                    }
                }
                settle(Some(usize::MAX)).await;
                settle(None).await;
                for (pipe, told) in pipes.iter().zip(&told) {
                    prop_assert_eq!(&pipe.out(), told);
                }
                Ok(())
            })?;
        }
    }
}
