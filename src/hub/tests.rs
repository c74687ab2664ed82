use std::{
    ops::Range,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::json;
use tokio::sync::Notify;

use super::{
    delivery::batch::{Batch, Repeat, Resent},
    subscriber::spread,
    *,
};
use crate::sequence::Sequence;

const EVENTS: EntityIndex = EntityIndex(0);
const CALENDARS: EntityIndex = EntityIndex(1);

pub(crate) fn hub(records: usize) -> Arc<Hub> {
    hub_with(records, Delivery::Plain)
}

pub(super) fn hub_with(records: usize, delivery: Delivery) -> Arc<Hub> {
    hub_of(vec![EntityEncoder::new("events", "event"), EntityEncoder::new("calendars", "calendar")], records, delivery)
}

pub(super) fn hub_of(encoders: Vec<EntityEncoder>, records: usize, delivery: Delivery) -> Arc<Hub> {
    hub_with_objects_of(usize::MAX, encoders, records, delivery)
}

/// A hub whose objects have so many bytes at most.
pub(super) fn hub_within(encoders: Vec<EntityEncoder>, object_bytes: usize) -> Arc<Hub> {
    hub_with_objects_of(object_bytes, encoders, 1000, Delivery::Converging)
}

fn hub_with_objects_of(
    object_bytes: usize,
    encoders: Vec<EntityEncoder>,
    records: usize,
    delivery: Delivery,
) -> Arc<Hub> {
    let hour = Duration::from_secs(3600);
    let log =
        LogLimits { records, bytes: usize::MAX, age: hour, tombstones: 1000, tombstone_age: 24 * hour, object_bytes };
    Arc::new(Hub::new(delivery, encoders, log, times(), SessionLimits { sessions: 100, age: hour }, false))
}

pub(super) fn times() -> DeliveryTimes {
    let seconds = Duration::from_secs;
    DeliveryTimes {
        settle: SettleTimes {
            quiet: seconds(2),
            overlap: seconds(4),
            longest: seconds(10),
            hold: Duration::from_millis(1500),
        },
        second_replay_delay: seconds(5),
        replay_overlap: seconds(5),
        first_load: seconds(60),
        acknowledge_every: seconds(15),
        reminders: ReminderTimes::doubling(seconds(30), 5),
        pace: Pace { long: usize::MAX, ..Pace::DEFAULT },
    }
}

/// A sink with so much room, and no more until it is given some.
#[derive(Default)]
pub(super) struct Pipe {
    direct: bool,
    pub(super) room: Mutex<usize>,
    out: Mutex<Vec<Bytes>>,
    /// How often something was offered.
    offers: AtomicUsize,
    news: Notify,
}

impl Pipe {
    pub(super) fn new(direct: bool, room: usize) -> Arc<Self> {
        Arc::new(Self { direct, room: Mutex::new(room), ..Self::default() })
    }

    pub(super) fn out(&self) -> Vec<Bytes> {
        lock(&self.out).clone()
    }

    /// Waits until so many frames have been taken.
    async fn received(&self, frames: usize) {
        while self.out().len() < frames {
            tokio::task::yield_now().await;
        }
    }
}

impl FrameSink for Pipe {
    fn try_send(&self, frames: &[&Cleared]) -> Accepted {
        self.offers.fetch_add(1, Ordering::Relaxed);
        let mut room = lock(&self.room);
        let taken = frames.len().min(*room);
        *room -= taken;
        lock(&self.out).extend(frames[..taken].iter().map(|frame| frame.to_bytes()));
        Accepted { frames: taken, clear: *room > 0 }
    }

    fn is_direct(&self) -> bool {
        self.direct
    }

    fn wake(&self) {
        self.news.notify_one();
    }
}

/// One round of what a subscriber's own task does when it has room.
pub(super) fn run_slow_path(subscriber: &Arc<Subscriber>) -> Progress {
    loop {
        match subscriber.catch_up(Instant::now()) {
            Progress::More => {}
            other => return other,
        }
    }
}

pub(super) fn what_is_lost(progress: &Progress) -> Option<(EntityIndex, Sequence)> {
    match progress {
        Progress::NeedsSnapshot(entity, since) => Some((*entity, *since)),
        _ => None,
    }
}

pub(super) fn update(id: u32) -> Change {
    Change::update(&json!({ "id": id + 1 })).unwrap()
}

fn frame(hub: &Hub, entity: EntityIndex, change: &Change) -> Bytes {
    hub.core.encoder(entity).encode(change.kind(), change.object()).frame
}

pub(crate) fn ann() -> Identity {
    Identity::new("ann")
}

pub(super) async fn let_others_run() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn the_fast_path_needs_only_the_fan_out() {
    let hub = hub(100);
    let pipe = Pipe::new(true, 100);
    let subscriber = hub.join(pipe.clone(), ann(), ResumeFrom::Unknown);
    assert!(matches!(run_slow_path(&subscriber), Progress::CaughtUp(None)));
    subscriber.subscribe(EVENTS, Instant::now());
    hub.publish(EVENTS, &[update(1), update(2)], None);
    let_others_run().await;
    assert_eq!(pipe.out(), [frame(&hub, EVENTS, &update(1)), frame(&hub, EVENTS, &update(2))]);
}

#[tokio::test]
async fn a_full_sink_wakes_its_task_and_loses_nothing() {
    let hub = hub(100);
    let pipe = Pipe::new(true, 2);
    let subscriber = hub.join(pipe.clone(), ann(), ResumeFrom::Unknown);
    run_slow_path(&subscriber);
    subscriber.subscribe(EVENTS, Instant::now());
    let changes: Vec<Change> = (0..5).map(update).collect();
    hub.publish(EVENTS, &changes, None);
    pipe.news.notified().await;
    assert_eq!(pipe.out().len(), 2);
    *lock(&pipe.room) = 100;
    assert!(matches!(run_slow_path(&subscriber), Progress::CaughtUp(None)));
    let all: Vec<Bytes> = changes.iter().map(|change| frame(&hub, EVENTS, change)).collect();
    assert_eq!(pipe.out(), all);
}

#[tokio::test]
async fn a_subscriber_behind_the_log_lags() {
    let hub = hub(3);
    let pipe = Pipe::new(true, 0);
    let subscriber = hub.join(pipe.clone(), ann(), ResumeFrom::Unknown);
    run_slow_path(&subscriber);
    subscriber.subscribe(EVENTS, Instant::now());
    hub.publish(EVENTS, &(0..10).map(update).collect::<Vec<_>>(), None);
    pipe.news.notified().await;
    *lock(&pipe.room) = 100;
    assert!(matches!(run_slow_path(&subscriber), Progress::Lagged));
}

#[tokio::test]
async fn what_was_published_before_a_subscription_is_not_sent() {
    let hub = hub(100);
    let pipe = Pipe::new(true, 100);
    let subscriber = hub.join(pipe.clone(), ann(), ResumeFrom::Unknown);
    run_slow_path(&subscriber);
    // The fan-out has not run yet when the subscription comes.
    hub.publish(EVENTS, &[update(1)], None);
    assert!(subscriber.subscribe(EVENTS, Instant::now()));
    assert!(!subscriber.subscribe(EVENTS, Instant::now()), "twice is once");
    hub.publish(EVENTS, &[update(2)], None);
    let_others_run().await;
    assert_eq!(pipe.out(), [frame(&hub, EVENTS, &update(2))]);
}

#[tokio::test]
async fn an_add_never_overrides_what_was_published_since_its_write_began() {
    let hub = hub(100);
    let pipe = Pipe::new(true, 100);
    let subscriber = hub.join(pipe.clone(), ann(), ResumeFrom::Unknown);
    run_slow_path(&subscriber);
    subscriber.subscribe(EVENTS, Instant::now());
    let object = |kind: fn(&serde_json::Value) -> Result<Change, crate::ChangeError>, id: u32, text: &str| {
        kind(&json!({ "id": id, "text": text })).unwrap()
    };
    let began = hub.core.log_end();
    hub.publish(EVENTS, &[object(Change::update, 1, "newer"), object(Change::add, 2, "newer")], None);
    hub.publish(EVENTS, &[Change::delete(3).unwrap()], None);
    let late = [1, 2, 3, 4].map(|id| object(Change::add, id, "older"));
    hub.publish(EVENTS, &late, Some(began));
    let_others_run().await;
    // A partial update is no whole object: what the add knows besides goes with it.
    hub.publish(EVENTS, &[Change::update(&json!({ "id": 5, "text": "newer" })).unwrap()], None);
    hub.publish(EVENTS, &[Change::add(&json!({ "id": 5, "text": "older", "x": 1 })).unwrap()], Some(began));
    // Changes that are published together do not override each other.
    let again = [Change::delete(6).unwrap(), object(Change::add, 6, "again")];
    hub.publish(EVENTS, &again, Some(began));
    let_others_run().await;
    let merged = Change::add(&json!({ "id": 5, "text": "newer", "x": 1 })).unwrap();
    let rest: Vec<Bytes> = pipe.out().split_off(6);
    assert_eq!(rest, [merged, again[0].clone(), again[1].clone()].map(|change| frame(&hub, EVENTS, &change)));
    let received: Vec<Bytes> = pipe.out()[3..5].to_vec();
    let expected = [object(Change::add, 1, "newer"), object(Change::add, 4, "older")];
    assert_eq!(received, expected.map(|change| frame(&hub, EVENTS, &change)));
}

#[tokio::test]
async fn a_subscriber_that_has_left_is_sent_nothing_even_by_a_fan_out_that_still_holds_it() {
    let hub = hub(100);
    let pipe = Pipe::new(true, 100);
    let subscriber = hub.join(pipe.clone(), ann(), ResumeFrom::Unknown);
    run_slow_path(&subscriber);
    subscriber.subscribe(EVENTS, Instant::now());
    hub.leave(&subscriber, Instant::now());
    hub.publish(EVENTS, &[update(1)], None);
    subscriber.deliver(&Batch::after(&hub.core, Sequence(0)), &mut Vec::new(), (&mut Vec::new(), &mut Vec::new()));
    assert!(pipe.out().is_empty());
}

#[tokio::test]
async fn the_fan_out_ends_with_its_hub() {
    let hub = hub(100);
    hub.join(Pipe::new(true, 1), ann(), ResumeFrom::Unknown);
    let shard = hub.fanout.shards()[0].clone();
    let_others_run().await;
    drop(hub);
    let_others_run().await;
    assert!(!shard.is_served());
}

#[derive(Clone, Debug)]
enum Step {
    Publish { entity: bool, count: u32 },
    Subscribe { page: usize, entity: bool },
    Unsubscribe { page: usize, entity: bool },
    Room { page: usize, room: usize },
    Rest,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (any::<bool>(), 1_u32..6).prop_map(|(entity, count)| Step::Publish { entity, count }),
        2 => (0_usize..4, any::<bool>()).prop_map(|(page, entity)| Step::Subscribe { page, entity }),
        1 => (0_usize..4, any::<bool>()).prop_map(|(page, entity)| Step::Unsubscribe { page, entity }),
        2 => (0_usize..4, 0_usize..5).prop_map(|(page, room)| Step::Room { page, room }),
        2 => Just(Step::Rest),
    ]
}

fn index(calendars: bool) -> EntityIndex {
    if calendars { CALENDARS } else { EVENTS }
}

proptest! {
    /// Whatever the interleaving of publishing, subscribing and full sockets, on both paths: every page is sent
    /// what was published while it was subscribed, once and in order. An unsubscription may cut off what is still
    /// on its way, so what arrives is compared with what was published less such records.
    #[test]
    fn every_page_is_sent_everything_once_and_in_order(steps in proptest::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let hub = hub(10_000);
            let pipes = [true, true, false, false].map(|direct| Pipe::new(direct, 3));
            let subscribers = pipes.clone().map(|pipe| hub.join(pipe, ann(), ResumeFrom::Unknown));
            let mut expected: [Vec<Bytes>; 4] = Default::default();
            let mut follows = [[false; 2]; 4];
            let mut number = 0;
            let settle = async |room: Option<usize>| {
                let_others_run().await;
                for (subscriber, pipe) in subscribers.iter().zip(&pipes) {
                    if let Some(room) = room {
                        *lock(&pipe.room) = room;
                    }
                    if *lock(&pipe.room) > 0 {
                        run_slow_path(subscriber);
                    }
                }
            };
            for step in steps {
                match step {
                    Step::Publish { entity, count } => {
                        let changes: Vec<Change> = (0..count).map(|n| update(number + n)).collect();
                        number += count;
                        for (page, expected) in expected.iter_mut().enumerate() {
                            if follows[page][usize::from(entity)] {
                                expected.extend(changes.iter().map(|change| frame(&hub, index(entity), change)));
                            }
                        }
                        hub.publish(index(entity), &changes, None);
                    }
                    Step::Subscribe { page, entity } => {
                        subscribers[page].subscribe(index(entity), Instant::now());
                        follows[page][usize::from(entity)] = true;
                    }
                    Step::Unsubscribe { page, entity } => {
                        // Everything on its way arrives first, so that the model knows what was cut off: nothing.
                        settle(Some(usize::MAX)).await;
                        settle(None).await;
                        subscribers[page].unsubscribe(index(entity));
                        follows[page][usize::from(entity)] = false;
                    }
                    Step::Room { page, room } => *lock(&pipes[page].room) = room,
                    Step::Rest => settle(None).await,
                }
            }
            settle(Some(usize::MAX)).await;
            settle(None).await;
            for (pipe, expected) in pipes.iter().zip(&expected) {
                prop_assert_eq!(&pipe.out(), expected);
            }
            Ok(())
        })?;
    }
}

/// A page of another log: only a snapshot can bring it up to date.
fn lost(hub: &Arc<Hub>, pipe: &Arc<Pipe>) -> Arc<Subscriber> {
    let subscriber = hub.join(pipe.clone(), ann(), ResumeFrom::Page { session: None, missed_from: None });
    subscriber.subscribe(EVENTS, Instant::now());
    assert_eq!(what_is_lost(&run_slow_path(&subscriber)), Some((EVENTS, Sequence(0))));
    subscriber
}

/// A snapshot of a store with so many rows.
fn rows(hub: &Hub, count: u32) -> Arc<SnapshotFrames> {
    let rows: Vec<Change> = (0..count).map(|id| update(id).whole()).collect();
    Arc::new(hub.snapshot(EVENTS, hub.core.log_end(), &ann(), &rows, &[]).0)
}

pub(super) fn texts(pipe: &Pipe) -> Vec<String> {
    pipe.out().iter().map(|frame| String::from_utf8_lossy(frame).into_owned()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_is_being_sent_is_not_overtaken_by_the_logs_end() {
    let hub = hub_with(20, Delivery::Converging);
    let pipe = Pipe::new(false, 0);
    let subscriber = lost(&hub, &pipe);
    let frames = rows(&hub, 600);
    hub.publish(EVENTS, &[Change::update(&json!({"id": 600, "text": "new"})).unwrap()], None);
    subscriber.resynchronise(EVENTS, Some(frames), None, Instant::now());
    *lock(&pipe.room) = 100;
    assert!(matches!(run_slow_path(&subscriber), Progress::Blocked));
    // Another entity takes nothing of this one's history.
    for _ in 0..30 {
        hub.send(CALENDARS, &Scopes::All, "0");
    }
    *lock(&pipe.room) = 50;
    assert!(matches!(run_slow_path(&subscriber), Progress::Blocked));
    // The log turns over.
    for _ in 0..30 {
        hub.send(EVENTS, &Scopes::All, "0");
    }
    *lock(&pipe.room) = usize::MAX / 2;
    assert_eq!(
        what_is_lost(&run_slow_path(&subscriber)),
        Some((EVENTS, Sequence(0))),
        "the update is not in the log any more"
    );
    subscriber.resynchronise(EVENTS, Some(rows(&hub, 600)), None, Instant::now());
    assert!(matches!(run_slow_path(&subscriber), Progress::CaughtUp(_)));
    assert_eq!(pipe.out().iter().filter(|frame| frame.ends_with(br#""value":0}}"#)).count(), 10);
    assert_eq!(pipe.out().len(), 150 + 600 + 10, "half of the log is the other's");
}

#[tokio::test(start_paused = true)]
async fn messages_keep_their_order_while_a_snapshot_is_sent() {
    let hub = hub_with(1000, Delivery::Converging);
    let pipe = Pipe::new(false, 0);
    let subscriber = lost(&hub, &pipe);
    let frames = rows(&hub, 600);
    hub.send(EVENTS, &Scopes::All, "101");
    subscriber.resynchronise(EVENTS, Some(frames), None, Instant::now());
    hub.send(EVENTS, &Scopes::All, "102");
    for number in 103..108 {
        *lock(&pipe.room) = 100;
        assert!(matches!(run_slow_path(&subscriber), Progress::Blocked));
        hub.send(EVENTS, &Scopes::All, &number.to_string());
    }
    *lock(&pipe.room) = usize::MAX / 2;
    assert!(matches!(run_slow_path(&subscriber), Progress::CaughtUp(_)));
    hub.send(EVENTS, &Scopes::All, "108");
    run_slow_path(&subscriber);
    let texts = texts(&pipe);
    let received = texts.iter().filter_map(|text| text.split_once(r#""value":1"#)?.1.strip_suffix("}}"));
    assert_eq!(received.collect::<Vec<_>>(), ["01", "02", "03", "04", "05", "06", "07", "08"]);
    assert_eq!(texts.len(), 608);
}

#[tokio::test(start_paused = true)]
async fn a_refresh_while_a_snapshot_is_sent_has_the_store_asked_again() {
    let mut encoder = EntityEncoder::new("events", "event");
    encoder.has_snapshot = true;
    let hub = hub_of(vec![encoder], 1000, Delivery::Converging);
    let pipe = Pipe::new(false, 0);
    let subscriber = lost(&hub, &pipe);
    let older = rows(&hub, 300);
    hub.refresh(EVENTS);
    subscriber.resynchronise(EVENTS, Some(older), None, Instant::now());
    for number in 0..5 {
        *lock(&pipe.room) = 50;
        assert!(matches!(run_slow_path(&subscriber), Progress::Blocked));
        hub.send(EVENTS, &Scopes::All, &number.to_string());
    }
    *lock(&pipe.room) = usize::MAX / 2;
    assert_eq!(
        what_is_lost(&run_slow_path(&subscriber)),
        Some((EVENTS, Sequence(1))),
        "the store was asked before the refresh"
    );
    assert_eq!(pipe.out().len(), 305, "but the snapshot is sent, and the messages");
    hub.refresh(EVENTS);
    subscriber.resynchronise(EVENTS, Some(rows(&hub, 300)), None, Instant::now());
    assert!(matches!(run_slow_path(&subscriber), Progress::CaughtUp(_)));
    assert_eq!(pipe.out().len(), 605);
    assert_eq!(hub.core.counters.snapshots.get(), 2);
    hub.refresh(EVENTS);
    assert_eq!(what_is_lost(&run_slow_path(&subscriber)), Some((EVENTS, hub.core.log_end())));
    subscriber.resynchronise(EVENTS, None, None, Instant::now());
    assert!(matches!(run_slow_path(&subscriber), Progress::CaughtUp(_)), "the store is out of order");
}

#[tokio::test(start_paused = true)]
async fn a_page_that_has_the_store_keeps_no_rows() {
    let hub = hub_with(1000, Delivery::Converging);
    let pipe = Pipe::new(false, usize::MAX / 2);
    let subscriber = lost(&hub, &pipe);
    let frames = rows(&hub, 10);
    subscriber.resynchronise(EVENTS, Some(frames.clone()), None, Instant::now());
    while let Progress::CaughtUp(Some(due)) = run_slow_path(&subscriber) {
        if Arc::strong_count(&frames) == 1 {
            return;
        }
        tokio::time::sleep_until(due).await;
    }
    panic!("the rows are kept for as long as there is something to send");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_repeat_is_kept_where_there_is_no_subscriber() {
    let hub = hub_with(1000, Delivery::Converging);
    let first = Pipe::new(true, usize::MAX / 2);
    let subscriber = hub.join(first.clone(), ann(), ResumeFrom::Unknown);
    subscriber.subscribe(EVENTS, Instant::now());
    run_slow_path(&subscriber);
    hub.publish(EVENTS, &[update(1)], None);
    let settled = Resent::Settled { range: Sequence(0)..Sequence(1), is_last: true, known_before: Sequence(0) };
    let again = || hub.fanout.repeat(&Repeat { entity: EVENTS, what: settled.clone() });
    for _ in 0..10 {
        again();
    }
    let second = Pipe::new(true, usize::MAX / 2);
    let subscriber = hub.join(second.clone(), ann(), ResumeFrom::Unknown);
    subscriber.subscribe(EVENTS, Instant::now());
    run_slow_path(&subscriber);
    hub.send(EVENTS, &Scopes::All, "0");
    second.received(1).await;
    assert_eq!(second.out().len(), 1, "what was resent before it came");
    again();
    second.received(2).await;
}

#[test]
fn repeats_that_wait_are_sent_as_one() {
    let repeat = |what| Repeat { entity: EVENTS, what };
    let settled = |range: Range<u64>, known_before| {
        let (range, known_before) = (Sequence(range.start)..Sequence(range.end), Sequence(known_before));
        repeat(Resent::Settled { range, is_last: false, known_before })
    };
    let deletions = |sequences: &[u64]| repeat(Resent::Deletions(sequences.iter().copied().map(Sequence).collect()));
    let mut waits = settled(5..9, 5);
    assert!(waits.merge(&settled(2..4, 3)) && waits.merge(&settled(7..12, 7)));
    let Resent::Settled { range, known_before, .. } = &waits.what else { panic!("{waits:?}") };
    assert_eq!((range.clone(), *known_before), (Sequence(2)..Sequence(12), Sequence(3)));
    assert!(!waits.merge(&deletions(&[1])));
    assert!(!waits.merge(&Repeat { entity: CALENDARS, ..settled(0..20, 0) }));
    let mut waits = deletions(&[1, 4]);
    assert!(waits.merge(&deletions(&[2])) && !waits.merge(&settled(0..20, 0)));
    assert!(matches!(&waits.what, Resent::Deletions(sequences) if **sequences == [1, 2, 4].map(Sequence)));
}

#[test]
fn those_who_come_at_once_are_not_asked_at_once() {
    let over = Duration::from_secs(15);
    let mut turns: Vec<Duration> = (0..1500).map(|turn| spread(turn, over)).collect();
    assert_eq!(turns[0], Duration::ZERO);
    turns.sort();
    assert!(turns.last().is_some_and(|last| *last <= over));
    let widest = turns.windows(2).map(|pair| pair[1] - pair[0]).max();
    assert!(widest.is_some_and(|gap| gap < Duration::from_millis(30)), "{widest:?}");
}

#[tokio::test(start_paused = true)]
async fn a_ping_rides_in_the_write_of_its_data_or_else_in_the_next() {
    let hub = hub_with(100, Delivery::Converging);
    let session = Some(SessionId { id: [1; 16], owner: 1 });
    let pipe = Pipe::new(true, 1);
    let subscriber = hub.join(pipe.clone(), ann(), ResumeFrom::Page { session, missed_from: Some(Sequence(0)) });
    subscriber.subscribe(EVENTS, Instant::now());
    assert!(matches!(run_slow_path(&subscriber), Progress::CaughtUp(_)));
    let is_ping = |frame: &Bytes| frame[0] == 0x89;
    hub.publish(EVENTS, &[update(1)], None);
    pipe.received(1).await;
    assert!(!pipe.out().iter().any(is_ping), "there was no room");
    *lock(&pipe.room) = usize::MAX / 2;
    assert!(matches!(run_slow_path(&subscriber), Progress::CaughtUp(_)));
    let offers = pipe.offers.load(Ordering::Relaxed);
    hub.publish(EVENTS, &[update(2)], None);
    pipe.received(3).await;
    assert_eq!(pipe.offers.load(Ordering::Relaxed), offers + 1);
    assert!(is_ping(&pipe.out()[2]), "behind the data");
    hub.publish(EVENTS, &[update(3)], None);
    pipe.received(4).await;
    assert!(!is_ping(&pipe.out()[3]), "not with each");
}

#[tokio::test]
async fn an_id_that_was_given_away_again_is_added() {
    let hub = hub_with(100, Delivery::Converging);
    hub.publish(EVENTS, &[Change::add(&json!({"id": 5, "text": "first"})).unwrap()], None);
    let began = hub.core.log_end();
    hub.publish(EVENTS, &[Change::delete(5).unwrap()], None);
    let second = Change::add(&json!({"id": 5, "text": "second"})).unwrap();
    assert_eq!(hub.publish(EVENTS, std::slice::from_ref(&second), Some(began)).changes, 1);
    // One that was made and deleted while its create was being answered stays away.
    hub.publish(EVENTS, &[Change::delete(5).unwrap()], None);
    assert_eq!(hub.publish(EVENTS, &[second], Some(began)).changes, 0);
}

#[tokio::test(start_paused = true)]
async fn a_page_of_an_entity_that_is_never_quiet_stays_within_the_log() {
    let hub = hub_with(1_000_000, Delivery::Converging);
    let page =
        || ResumeFrom::Page { session: Some(SessionId { id: [1; 16], owner: 1 }), missed_from: Some(Sequence(0)) };
    let subscriber = hub.join(Pipe::new(true, usize::MAX / 2), ann(), page());
    subscriber.subscribe(EVENTS, Instant::now());
    // For longer than the log remembers.
    for second in 0..70 * 60 {
        let write = hub.write_begins(EVENTS);
        tokio::time::sleep(Duration::from_millis(100)).await;
        hub.publish(EVENTS, &[update(second % 10)], None);
        drop(write);
        tokio::time::sleep(Duration::from_millis(900)).await;
        assert!(matches!(run_slow_path(&subscriber), Progress::CaughtUp(_)));
        if second % 15 == 0 {
            let ping = subscriber.ping(Instant::now());
            subscriber.pong(&ping.to_bytes()[2..]);
        }
    }
    for _ in 0..50 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(matches!(run_slow_path(&subscriber), Progress::CaughtUp(_)), "when all is quiet");
    }
    hub.leave(&subscriber, Instant::now());
    let subscriber = hub.join(Pipe::new(true, usize::MAX / 2), ann(), page());
    subscriber.subscribe(EVENTS, Instant::now());
    assert!(matches!(run_slow_path(&subscriber), Progress::CaughtUp(_)), "when it comes back");
}

#[tokio::test(start_paused = true)]
async fn what_the_log_has_from_before_a_refresh_is_never_resent() {
    let mut encoder = EntityEncoder::new("events", "event");
    encoder.has_snapshot = true;
    let hub = hub_of(vec![encoder], 1000, Delivery::Converging);
    let pipe = Pipe::new(true, usize::MAX / 2);
    let subscriber = lost(&hub, &pipe);
    let event = |text: &str| json!({"id": 1, "text": text});
    // Writes that settle later, and an import in between: it changes one, brings one back and drops one.
    let changes = [Change::add(&event("old")).unwrap(), Change::delete(2).unwrap(), update(2)];
    for change in changes {
        let write = hub.write_begins(EVENTS);
        hub.publish(EVENTS, &[change], None);
        drop(write);
    }
    let refresh = |text: &str| {
        hub.refresh(EVENTS);
        let rows = [Change::update(&event(text)).unwrap().whole(), update(1).whole()];
        Some(Arc::new(hub.snapshot(EVENTS, hub.core.log_end(), &ann(), &rows, &[Change::delete(3).unwrap()]).0))
    };
    let snapshot = refresh("imported");
    subscriber.resynchronise(EVENTS, snapshot, None, Instant::now());
    let end = Instant::now() + Duration::from_secs(1000);
    while Instant::now() < end {
        match run_slow_path(&subscriber) {
            Progress::NeedsSnapshot(..) => subscriber.resynchronise(EVENTS, refresh("again"), None, Instant::now()),
            _ => tokio::time::sleep(Duration::from_secs(1)).await,
        }
    }
    for text in texts(&pipe) {
        assert!(!text.contains("old"), "{text}");
        assert!(!text.contains(r#""event":{"id":3}"#), "{text}");
    }
    let last = texts(&pipe).into_iter().rfind(|text| text.contains(r#""id":2}"#) || text.contains(r#""id":"2""#));
    assert!(last.is_some_and(|text| text.contains("add-event")), "its deletion is sent only before the row");
    // A part of what it was before is no part of what it is now.
    hub.publish(EVENTS, &[Change::update(&json!({"id": 1, "x": 2})).unwrap()], None);
    assert!(!lock(&hub.core.log).newest(EVENTS, "1").unwrap().1.whole);
}

#[tokio::test(start_paused = true)]
async fn a_write_that_meets_an_import_does_not_undo_it() {
    let mut encoder = EntityEncoder::new("events", "event");
    encoder.has_snapshot = true;
    let hub = hub_of(vec![encoder], 1000, Delivery::Converging);
    let subscriber = lost(&hub, &Pipe::new(true, usize::MAX / 2));
    subscriber.resynchronise(EVENTS, Some(rows(&hub, 1)), None, Instant::now());
    assert!(matches!(run_slow_path(&subscriber), Progress::CaughtUp(_)));
    let write = hub.write_begins(EVENTS);
    // Committed already, and published later.
    hub.refresh(EVENTS);
    assert_eq!(what_is_lost(&run_slow_path(&subscriber)), Some((EVENTS, Sequence(1))));
    subscriber.resynchronise(EVENTS, Some(rows(&hub, 1)), None, Instant::now());
    assert!(matches!(run_slow_path(&subscriber), Progress::CaughtUp(_)));
    let another = hub.write_begins(EVENTS);
    hub.publish(EVENTS, &[update(0)], None);
    drop(write);
    assert_eq!(what_is_lost(&run_slow_path(&subscriber)), Some((EVENTS, Sequence(3))), "the store is asked once more");
    // What begins behind the import is newer, however many writes there are.
    drop(another);
    assert_eq!(hub.core.log_end(), Sequence(3));
}

#[tokio::test(start_paused = true)]
async fn a_page_that_subscribes_again_and_again_is_replayed_to_once_in_a_while() {
    let hub = hub_with(1000, Delivery::Converging);
    let page =
        || ResumeFrom::Page { session: Some(SessionId { id: [1; 16], owner: 1 }), missed_from: Some(Sequence(0)) };
    hub.publish(EVENTS, &(0..50).map(|id| update(id).whole()).collect::<Vec<_>>(), None);
    let pipe = Pipe::new(true, usize::MAX / 2);
    let subscriber = hub.join(pipe.clone(), ann(), page());
    let is_ping = |frame: &Bytes| frame[0] == 0x89;
    let received = |pipe: &Pipe| std::mem::take(&mut *lock(&pipe.out)).iter().filter(|frame| !is_ping(frame)).count();
    let subscribe = |expected: usize, why: &str| {
        subscriber.subscribe(EVENTS, Instant::now());
        run_slow_path(&subscriber);
        assert_eq!(received(&pipe), expected, "{why}");
        subscriber.unsubscribe(EVENTS);
    };
    subscribe(50, "when it comes");
    subscribe(50, "when it comes back");
    for _ in 0..100 {
        subscribe(0, "and no more");
    }
    tokio::time::advance(Duration::from_secs(31)).await;
    subscribe(50, "a while later");
    // It is replayed to later instead of at once, and receives what is published meanwhile.
    subscriber.subscribe(EVENTS, Instant::now());
    let Progress::CaughtUp(Some(due)) = run_slow_path(&subscriber) else { panic!("it has caught up") };
    hub.publish(EVENTS, &[update(7)], None);
    pipe.received(1).await;
    assert_eq!(received(&pipe), 1);
    tokio::time::sleep_until(due).await;
    run_slow_path(&subscriber);
    assert_eq!(received(&pipe), 50);
}

#[tokio::test(start_paused = true)]
async fn a_page_that_is_lost_again_and_again_has_the_store_asked_once_in_a_while() {
    let hub = hub_with(1000, Delivery::Converging);
    let pipe = Pipe::new(true, usize::MAX / 2);
    let subscriber = lost(&hub, &pipe);
    let again = || {
        subscriber.unsubscribe(EVENTS);
        subscriber.subscribe(EVENTS, Instant::now());
        run_slow_path(&subscriber)
    };
    assert!(matches!(again(), Progress::NeedsSnapshot(..)), "once more");
    let Progress::CaughtUp(Some(due)) = again() else { panic!("not at will") };
    tokio::time::sleep_until(due).await;
    assert!(matches!(run_slow_path(&subscriber), Progress::NeedsSnapshot(..)));
}

#[tokio::test(start_paused = true)]
async fn after_a_deletion_a_claimed_update_is_sent_live_and_only_the_deletion_is_resent() {
    let hub = hub_with(1000, Delivery::Converging);
    let page = || ResumeFrom::Page { session: None, missed_from: Some(Sequence(0)) };
    let pipe = Pipe::new(true, usize::MAX / 2);
    let subscriber = hub.join(pipe.clone(), ann(), page());
    subscriber.subscribe(EVENTS, Instant::now());
    run_slow_path(&subscriber);
    hub.publish(EVENTS, &[Change::add(&json!({"id": 7})).unwrap(), Change::delete(7).unwrap()], None);
    hub.publish(EVENTS, &[Change::update(&json!({"id": 7, "text": "dragged"})).unwrap().claimed()], None);
    pipe.received(3).await;
    let kinds = |pipe: &Pipe| -> Vec<&str> {
        let kind = |text: &String| {
            ["add", "update", "delete"].into_iter().find(|kind| text.contains(&format!("{kind}-event")))
        };
        texts(pipe).iter().filter_map(kind).collect()
    };
    assert_eq!(kinds(&pipe), ["add", "delete", "update"]);
    let late = Pipe::new(true, usize::MAX / 2);
    let subscriber = hub.join(late.clone(), ann(), page());
    subscriber.subscribe(EVENTS, Instant::now());
    let end = Instant::now() + Duration::from_secs(1000);
    while Instant::now() < end {
        run_slow_path(&subscriber);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(kinds(&late).len() > 3 && kinds(&late).iter().all(|kind| *kind == "delete"), "{:?}", kinds(&late));
}
