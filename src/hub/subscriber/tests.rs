//! What may happen between two rounds of the slow path: while hooks are asked, while a replay is under way.

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Check, Progress, ResumeFrom, Subscriber};
use crate::{
    auth::Identity,
    change::Change,
    entity::{EntityIndex, View, hooks::Visible},
    hub::{
        Delivery, DeliveryTimes, Hub, Pace, SessionLimits,
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

/// A hub whose replays are long from the fourth line on.
fn slow(encoders: Vec<EntityEncoder>) -> Arc<Hub> {
    let hour = Duration::from_secs(3600);
    let log = LogLimits {
        records: 1000,
        bytes: usize::MAX,
        age: hour,
        tombstones: 1000,
        tombstone_age: 24 * hour,
        object_bytes: usize::MAX,
    };
    let pace = Pace { long: 3, at_once: 1, every: Duration::from_millis(700) };
    let times = DeliveryTimes { pace, ..times() };
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
