//! What may happen between two rounds of the slow path: while hooks are asked, while a replay is under way.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Check, Progress, ResumeFrom, Subscriber};
use crate::{
    auth::Identity,
    change::{Change, ChangeKind},
    entity::{EntityIndex, View, hooks::Visible},
    hub::{
        Delivery, DeliveryTimes, Hub, Pace, ReminderTimes, SessionLimits,
        encoder::EntityEncoder,
        log::LogLimits,
        sessions::{SessionHolder, SessionId},
        tests::{Pipe, ann, hub_of, hub_with, run_slow_path, texts, times, update, what_is_lost},
    },
    lock::lock,
    scope::Scopes,
    sequence::Sequence,
};

const EVENTS: EntityIndex = EntityIndex(0);
const CALENDARS: EntityIndex = EntityIndex(1);
const TASKS: EntityIndex = EntityIndex(2);
const ROOM: usize = usize::MAX / 2;
const MARKER: &str = r#""name":"$resync""#;

fn page() -> ResumeFrom {
    ResumeFrom::Page { session: Some(SessionId { id: [1; 16], owner: 1 }), missed_from: Some(Sequence(0)) }
}

fn restricted() -> Arc<Hub> {
    let visible: Visible = Arc::new(|_: Identity, object: &str| {
        let object: Value = serde_json::from_str(object).unwrap();
        Box::pin(std::future::ready(Ok(object["hidden"].is_null())))
    });
    let view = View::of(Some(&visible), None);
    let encoder = EntityEncoder { has_snapshot: true, view, ..EntityEncoder::new("events", "event") };
    hub_of(vec![encoder], 1000, Delivery::Converging)
}

/// A visibility filter that fails while the flag is set, and hides nothing.
fn failing() -> (Arc<AtomicBool>, EntityEncoder) {
    let fails = Arc::<AtomicBool>::default();
    let hook = fails.clone();
    let visible: Visible = Arc::new(move |_: Identity, _: &str| {
        let fails = hook.load(Ordering::Relaxed);
        Box::pin(std::future::ready(if fails { Err("not now".into()) } else { Ok(true) }))
    });
    let view = View::of(Some(&visible), None);
    (fails, EntityEncoder { has_snapshot: true, view, ..EntityEncoder::new("events", "event") })
}

fn scoped() -> EntityEncoder {
    EntityEncoder { is_scoped: true, ..EntityEncoder::new("events", "event") }
}

/// A hub whose replays are long from the fourth line on.
fn slow(encoders: Vec<EntityEncoder>) -> Arc<Hub> {
    let pace = Pace { long: 3, at_once: 1, every: Duration::from_millis(700) };
    with_times(encoders, DeliveryTimes { pace, ..times() })
}

fn with_times(encoders: Vec<EntityEncoder>, times: DeliveryTimes) -> Arc<Hub> {
    let hour = Duration::from_secs(3600);
    let log = LogLimits {
        records: 1000,
        bytes: usize::MAX,
        age: hour,
        tombstones: 1000,
        tombstone_age: 24 * hour,
        object_bytes: usize::MAX,
    };
    let sessions = SessionLimits { sessions: 100, age: hour };
    Arc::new(Hub::new(Delivery::Converging, encoders, log, times, sessions, false))
}

fn visible(id: u32) -> Change {
    Change::update(&json!({ "id": id })).unwrap().whole()
}

fn hidden(id: u32) -> Change {
    Change::update(&json!({ "id": id, "hidden": true })).unwrap().whole()
}

fn answer(check: Box<Check>) {
    check.run(Duration::MAX, |entity, why| panic!("{entity}: {why}")).now_or_never().unwrap();
}

/// Goes on until it has caught up or needs a snapshot, with hooks that answer at once.
fn run(subscriber: &Arc<Subscriber>) -> Progress {
    loop {
        match run_slow_path(subscriber) {
            Progress::NeedsCheck(check) => answer(check),
            other => return other,
        }
    }
}

/// The same, with hooks that may fail.
fn run_despite_failures(subscriber: &Arc<Subscriber>) -> Progress {
    loop {
        match run_slow_path(subscriber) {
            Progress::NeedsCheck(check) => check.run(Duration::MAX, |_, _| {}).now_or_never().unwrap(),
            other => return other,
        }
    }
}

/// Goes on for half an hour, in which the store need not be asked.
async fn run_for_long(subscriber: &Arc<Subscriber>) {
    for _ in 0..1800 {
        let progress = run_despite_failures(subscriber);
        assert!(matches!(progress, Progress::CaughtUp(_)), "{progress:?}");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Goes on until the store is asked, and returns after how many seconds.
async fn asks_after(subscriber: &Arc<Subscriber>) -> Option<u64> {
    for second in 0..1800 {
        if let Progress::NeedsSnapshot(..) = run_despite_failures(subscriber) {
            return Some(second);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    None
}

fn has_deletion(pipe: &Pipe, id: u32) -> bool {
    texts(pipe).iter().any(|text| text.contains("delete-event") && text.contains(&format!(r#""id":{id}"#)))
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_comes_while_hooks_are_asked_loses_no_retraction() {
    let hub = restricted();
    hub.publish(EVENTS, &[visible(1), visible(2)], None);
    let pipe = Pipe::new(true, ROOM);
    let subscriber = hub.join(pipe.clone(), ann(), page());
    subscriber.subscribe(EVENTS, Instant::now());
    run(&subscriber);
    hub.publish(EVENTS, &[hidden(2)], None);
    run(&subscriber);
    assert!(has_deletion(&pipe, 2));
    // It comes back to another log's key: that the second is gone is resent, while the store is asked and the first hidden.
    hub.leave(&subscriber, Instant::now());
    let ResumeFrom::Page { session, .. } = page() else { panic!("a page") };
    let subscriber = hub.join(pipe.clone(), ann(), ResumeFrom::Page { session, missed_from: None });
    subscriber.subscribe(EVENTS, Instant::now());
    assert!(what_is_lost(&run_slow_path(&subscriber)).is_some());
    let Progress::NeedsCheck(check) = run_slow_path(&subscriber) else { panic!("it is reminded") };
    hub.publish(EVENTS, &[hidden(1)], None);
    let snapshot = hub.snapshot(EVENTS, hub.core.log_end(), &ann(), &[], &[]).0;
    subscriber.resynchronise(EVENTS, Some(Arc::new(snapshot)), None, Instant::now());
    answer(check);
    run(&subscriber);
    assert!(has_deletion(&pipe, 1), "{:?}", texts(&pipe));
}

#[tokio::test(start_paused = true)]
async fn a_first_replay_that_is_restarted_is_sent_although_all_of_it_will_settle() {
    let hub = hub_with(1000, Delivery::Converging);
    let writes = [hub.write_begins(EVENTS), hub.write_begins(EVENTS)];
    hub.publish(EVENTS, &[update(0), update(1)], None);
    hub.send(EVENTS, &Scopes::All, r#""a message""#);
    drop(writes);
    let pipe = Pipe::new(true, 0);
    let page = ResumeFrom::Page { session: None, missed_from: Some(Sequence(0)) };
    let subscriber = hub.join(pipe.clone(), ann(), page);
    subscriber.subscribe(EVENTS, Instant::now());
    assert!(matches!(run_slow_path(&subscriber), Progress::Blocked));
    subscriber.restart_replay(Instant::now());
    *lock(&pipe.room) = ROOM;
    assert!(matches!(run_slow_path(&subscriber), Progress::CaughtUp(_)));
    assert_eq!(texts(&pipe).len(), 3, "{:?}", texts(&pipe));
    hub.publish(EVENTS, &[update(2)], None);
    run_slow_path(&subscriber);
    assert_eq!(texts(&pipe).len(), 4, "and what is published later");
}

#[tokio::test(start_paused = true)]
async fn the_marker_of_a_refresh_is_sent_behind_a_long_replay() {
    let encoder = EntityEncoder { is_scoped: true, ..EntityEncoder::new("events", "event") };
    let hub = slow(vec![encoder]);
    let event = |id: u32| Change::update(&json!({ "id": id })).unwrap();
    hub.publish(EVENTS, &(1..9).map(|id| event(id).whole().scope("a")).collect::<Vec<_>>(), None);
    // A part of a row that the log does not know comes into its scope.
    hub.publish(EVENTS, &[event(9).scope("a").moved_from("b")], None);
    let pipe = Pipe::new(true, ROOM);
    let subscriber = hub.join(pipe.clone(), ann().with_scope("a"), page());
    subscriber.subscribe(EVENTS, Instant::now());
    let end = Instant::now() + Duration::from_secs(60);
    while Instant::now() < end {
        run_slow_path(&subscriber);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert!(texts(&pipe).iter().any(|text| text.contains("resync")), "{:?}", texts(&pipe));
}

#[tokio::test(start_paused = true)]
async fn only_a_long_first_replay_has_a_page_load_its_list_again() {
    let hub = slow(vec![EntityEncoder::new("events", "event")]);
    hub.publish(EVENTS, &(0..9).map(|id| update(id).whole()).collect::<Vec<_>>(), None);
    let pipe = Pipe::new(true, ROOM);
    let page = ResumeFrom::Page { session: None, missed_from: Some(Sequence(0)) };
    let subscriber = hub.join(pipe.clone(), ann(), page);
    subscriber.subscribe(hub.core.resync, Instant::now());
    let subscribe_again = || {
        subscriber.unsubscribe(EVENTS);
        subscriber.subscribe(EVENTS, Instant::now());
        run_slow_path(&subscriber);
        texts(&pipe).iter().filter(|text| text.contains(MARKER)).count()
    };
    assert_eq!([(); 2].map(|()| subscribe_again()), [1, 2], "it draws its list at once");
    let sent = texts(&pipe).len();
    let mut markers = subscribe_again();
    let end = Instant::now() + Duration::from_secs(60);
    while Instant::now() < end {
        run_slow_path(&subscriber);
        tokio::time::sleep(Duration::from_millis(500)).await;
        markers = texts(&pipe).iter().filter(|text| text.contains(MARKER)).count();
    }
    assert!(texts(&pipe).len() >= sent + 9, "a while later it is replayed to once more");
    assert_eq!(markers, 2);
}

#[tokio::test]
async fn behind_a_refresh_the_store_is_asked_from_there_on_also_where_records_before_it_are_gone() {
    let encoder = |name, key| EntityEncoder { has_snapshot: true, ..EntityEncoder::new(name, key) };
    let encoders = vec![encoder("events", "event"), encoder("calendars", "calendar"), encoder("tasks", "task")];
    let hub = hub_of(encoders, 2, Delivery::Converging);
    let subscriber = hub.join(Pipe::new(true, ROOM), ann(), ResumeFrom::Unknown);
    subscriber.subscribe(EVENTS, Instant::now());
    hub.publish(CALENDARS, &[update(1)], None);
    run_slow_path(&subscriber);
    // The largest goes first.
    let large = Change::add(&json!({ "id": 1, "text": "x".repeat(10_000) })).unwrap();
    hub.publish(TASKS, &[large], None);
    hub.refresh(EVENTS);
    let kept: Vec<u64> = lock(&hub.core.log).since(Sequence::ZERO).map(|(at, _)| at.0).collect();
    assert_eq!(kept, [0, 2]);
    assert_eq!(what_is_lost(&run_slow_path(&subscriber)), Some((EVENTS, Sequence(3))));
}

#[tokio::test(start_paused = true)]
async fn rows_whose_hook_failed_are_read_from_the_store_again_further_and_further_apart() {
    for failures in [1, 3, 100] {
        let (fails, encoder) = failing();
        let hub = hub_of(vec![encoder], 1000, Delivery::Converging);
        // Many rows wait until the process has run for some time.
        tokio::time::sleep(Duration::from_secs(10)).await;
        let pipe = Pipe::new(true, ROOM);
        let subscriber = hub.join(pipe.clone(), ann(), ResumeFrom::Page { session: None, missed_from: None });
        subscriber.subscribe(EVENTS, Instant::now());
        let mut asked_after = Vec::new();
        while let Some(seconds) = asks_after(&subscriber).await {
            asked_after.push(seconds);
            fails.store(asked_after.len() <= failures, Ordering::Relaxed);
            let snapshot = hub.snapshot(EVENTS, hub.core.log_end(), &ann(), &[visible(1), visible(2)], &[]).0;
            subscriber.resynchronise(EVENTS, Some(Arc::new(snapshot)), None, Instant::now());
        }
        let all = [0, 30, 60, 120, 240, 480];
        assert_eq!(
            asked_after,
            all[..all.len().min(failures + 1)],
            "a hook that fails for ever does not cost for ever"
        );
        let rows = [1, 2].map(|id| texts(&pipe).iter().any(|text| text.contains(&format!(r#""id":{id}"#))));
        assert_eq!(rows, [failures < 100; 2]);
    }
}

#[tokio::test(start_paused = true)]
async fn an_object_whose_hook_failed_and_whose_record_is_gone_is_read_from_the_store() {
    for change in [Change::add(&json!({ "id": 1 })).unwrap(), visible(1)] {
        let (fails, encoder) = failing();
        let hub = hub_of(vec![encoder], 3, Delivery::Converging);
        let pipe = Pipe::new(true, ROOM);
        let subscriber = hub.join(pipe.clone(), ann(), ResumeFrom::Unknown);
        subscriber.subscribe(EVENTS, Instant::now());
        run_despite_failures(&subscriber);
        fails.store(true, Ordering::Relaxed);
        let is_gone = change.kind() == ChangeKind::Update;
        hub.publish(EVENTS, &[change], None);
        run_despite_failures(&subscriber);
        assert_eq!(has_deletion(&pipe, 1), is_gone, "a page that may be showing the object is sent that it is gone");
        fails.store(false, Ordering::Relaxed);
        for id in 10..20 {
            hub.publish(EVENTS, &[visible(id)], None);
            run_despite_failures(&subscriber);
        }
        let asks = asks_after(&subscriber).await;
        assert_eq!(asks, Some(30), "{:?}", texts(&pipe));
        let snapshot = hub.snapshot(EVENTS, hub.core.log_end(), &ann(), &[], &[]).0;
        subscriber.resynchronise(EVENTS, Some(Arc::new(snapshot)), None, Instant::now());
        let at_once = texts(&pipe).len();
        run_for_long(&subscriber).await;
        let later = texts(&pipe).split_off(at_once);
        let deletions = later.iter().filter(|text| text.contains("delete-event")).count();
        assert_eq!(deletions, if is_gone { 5 } else { 0 }, "a page with an open form is reminded: {later:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn hooks_that_failed_are_asked_again_although_deletions_have_no_reminders() {
    let (fails, encoder) = failing();
    let hub = with_times(vec![encoder], DeliveryTimes { reminders: ReminderTimes::new(&[]).unwrap(), ..times() });
    let pipe = Pipe::new(true, ROOM);
    let subscriber = hub.join(pipe.clone(), ann(), page());
    subscriber.subscribe(EVENTS, Instant::now());
    run_for_long(&subscriber).await;
    fails.store(true, Ordering::Relaxed);
    hub.publish(EVENTS, &[Change::add(&json!({ "id": 1 })).unwrap()], None);
    run_for_long(&subscriber).await;
    assert!(texts(&pipe).is_empty());
    fails.store(false, Ordering::Relaxed);
    run_for_long(&subscriber).await;
    assert!(texts(&pipe).iter().any(|text| text.contains("add-event")), "{:?}", texts(&pipe));
}

#[tokio::test(start_paused = true)]
async fn an_object_that_left_is_not_deleted_from_a_page_that_has_loaded_its_list_again() {
    for direct in [true, false] {
        let hub = hub_of(vec![scoped()], 1000, Delivery::Converging);
        let pipe = Pipe::new(direct, ROOM);
        let north = ResumeFrom::Page { session: None, missed_from: Some(Sequence(0)) };
        let subscriber = hub.join(pipe.clone(), ann().with_scope("north"), north);
        [EVENTS, hub.core.resync].iter().for_each(|&entity| assert!(subscriber.subscribe(entity, Instant::now())));
        run(&subscriber);
        hub.publish(EVENTS, &[visible(7).scope("north")], None);
        hub.publish(EVENTS, &[visible(7).scope("south"), visible(8).scope("north")], None);
        hub.refresh(EVENTS);
        run(&subscriber);
        let at_once = texts(&pipe);
        assert!(has_deletion(&pipe, 7) && at_once.iter().any(|text| text.contains("resync")), "{at_once:?}");
        hub.publish(EVENTS, &[visible(8).scope("south")], None);
        run_for_long(&subscriber).await;
        let later = texts(&pipe).split_off(at_once.len());
        let deletions = later.iter().filter(|text| text.contains("delete-event"));
        let (of_8, others): (Vec<&String>, Vec<_>) = deletions.partition(|text| text.contains(r#""id":8"#));
        assert!(of_8.len() > 5 && others.is_empty(), "{others:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_object_that_left_is_not_deleted_from_a_page_that_is_sent_the_marker_instead_of_rows() {
    let hub = slow(vec![EntityEncoder { has_snapshot: true, ..scoped() }]);
    tokio::time::sleep(Duration::from_secs(100)).await;
    let pipe = Pipe::new(true, ROOM);
    let north = ResumeFrom::Page { session: None, missed_from: Some(Sequence(0)) };
    let subscriber = hub.join(pipe.clone(), ann().with_scope("north"), north);
    [EVENTS, hub.core.resync].iter().for_each(|&entity| assert!(subscriber.subscribe(entity, Instant::now())));
    run(&subscriber);
    hub.publish(EVENTS, &[visible(7).scope("north")], None);
    hub.publish(EVENTS, &[visible(7).scope("south")], None);
    run(&subscriber);
    hub.refresh(EVENTS);
    assert!(asks_after(&subscriber).await.is_some());
    let at_once = texts(&pipe).len();
    let rows: Vec<Change> = (5..10).map(|id| visible(id).scope("north")).collect();
    let north = ann().with_scope("north");
    let snapshot = hub.snapshot(EVENTS, hub.core.log_end(), &north, &rows, &[]).0;
    subscriber.resynchronise(EVENTS, Some(Arc::new(snapshot)), None, Instant::now());
    run_for_long(&subscriber).await;
    let later = texts(&pipe).split_off(at_once);
    assert!(later.iter().any(|text| text.contains("resync")), "{later:?}");
    assert!(!later.iter().any(|text| text.contains("delete-event")), "{later:?}");
}

#[tokio::test(start_paused = true)]
async fn a_page_has_no_gap_where_what_it_missed_of_resync_is_trimmed() {
    let hub = hub_with(3, Delivery::Converging);
    hub.refresh(EVENTS);
    let pipe = Pipe::new(true, ROOM);
    let page = ResumeFrom::Page { session: None, missed_from: Some(Sequence(0)) };
    let subscriber = hub.join(pipe.clone(), ann(), page);
    subscriber.subscribe(hub.core.resync, Instant::now());
    (0..2).for_each(|_| hub.refresh(EVENTS));
    run_for_long(&subscriber).await;
    assert_eq!(hub.core.counters.gaps.get(), 0);
    hub.refresh(EVENTS);
    run(&subscriber);
    let is_of_events = |text: &String| text.contains(MARKER) && text.contains(r#""entity":"events""#);
    assert!(texts(&pipe).len() > 1 && texts(&pipe).iter().all(is_of_events), "{:?}", texts(&pipe));
}

#[tokio::test(start_paused = true)]
async fn a_page_that_subscribes_again_is_still_reminded_of_what_left() {
    let hub = hub_of(vec![scoped()], 1000, Delivery::Converging);
    let pipe = Pipe::new(true, ROOM);
    let subscriber = hub.join(pipe.clone(), ann().with_scope("north"), page());
    subscriber.subscribe(EVENTS, Instant::now());
    run_for_long(&subscriber).await;
    hub.publish(EVENTS, &[visible(7).scope("north")], None);
    hub.publish(EVENTS, &[visible(7).scope("south")], None);
    run(&subscriber);
    tokio::time::sleep(Duration::from_secs(20)).await;
    run(&subscriber);
    let ping = subscriber.ping(Instant::now());
    subscriber.pong(&ping.to_bytes()[2..]);
    assert!(subscriber.unsubscribe(EVENTS) && !subscriber.unsubscribe(EVENTS));
    subscriber.subscribe(EVENTS, Instant::now());
    let at_once = texts(&pipe).len();
    run_for_long(&subscriber).await;
    let later = texts(&pipe).split_off(at_once);
    assert_eq!(later.iter().filter(|text| text.contains("delete-event")).count(), 5, "{later:?}");
}

#[tokio::test(start_paused = true)]
async fn a_repeat_that_more_follow_takes_no_page_its_place() {
    let (_, encoder) = failing();
    let hub = hub_of(vec![encoder], 5, Delivery::Converging);
    let pipe = Pipe::new(true, ROOM);
    let subscriber = hub.join(pipe.clone(), ann(), ResumeFrom::Unknown);
    subscriber.subscribe(EVENTS, Instant::now());
    run(&subscriber);
    tokio::time::advance(Duration::from_secs(100)).await;
    for id in 1..=400 {
        let write = hub.write_begins(EVENTS);
        hub.publish(EVENTS, &[visible(id)], None);
        tokio::time::sleep(Duration::from_millis(500)).await;
        drop(write);
        let progress = run(&subscriber);
        assert!(matches!(progress, Progress::CaughtUp(_)), "{id}: {progress:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_comes_too_late_ends_no_check() {
    let hub = restricted();
    hub.publish(EVENTS, &[visible(1)], None);
    let pipe = Pipe::new(true, ROOM);
    let subscriber = hub.join(pipe.clone(), ann(), page());
    subscriber.subscribe(EVENTS, Instant::now());
    run(&subscriber);
    hub.publish(EVENTS, &[hidden(1)], None);
    let Progress::NeedsCheck(check) = run_slow_path(&subscriber) else { panic!("hooks are asked") };
    let snapshot = hub.snapshot(EVENTS, hub.core.log_end(), &ann(), &[], &[]).0;
    subscriber.resynchronise(EVENTS, Some(Arc::new(snapshot)), None, Instant::now());
    answer(check);
    assert!(has_deletion(&pipe, 1), "{:?}", texts(&pipe));
}
