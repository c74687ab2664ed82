use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;
use tokio::time::advance;

use super::*;
use crate::{
    auth::Identity,
    change::Change,
    entity::View,
    entity::Widget,
    hub::{
        Delivery, EntityEncoder, Hub, LogLimits, SessionId, SessionLimits,
        log::{ObjectChange, PriorObject, PriorState, RecordKind},
        retractions::Retractions,
        tests::times,
    },
    scope::Scopes,
    sequence::Sequence,
};

const EVENTS: EntityIndex = EntityIndex(0);
const TASKS: EntityIndex = EntityIndex(1);
const WHEN: u64 = 1_800_000_000_000;

fn series() -> EntityEncoder {
    let parent_keys = vec!["recurring_event_id".into()];
    EntityEncoder { widget: Widget::Scheduler, parent_keys, ..EntityEncoder::new("events", "event") }
}

/// An entity of which each identity receives and sees something else.
fn restricted() -> EntityEncoder {
    let visible: crate::entity::hooks::Visible = Arc::new(|_, _| Box::pin(async { Ok(true) }));
    EntityEncoder {
        is_scoped: true,
        parent_keys: vec!["of".into()],
        view: View::of(Some(&visible), None),
        ..EntityEncoder::new("tasks", "task")
    }
}

fn limits(records: usize) -> LogLimits {
    let hour = Duration::from_secs(3600);
    LogLimits { records, bytes: 1 << 20, age: hour, tombstones: 4, tombstone_age: 24 * hour, object_bytes: usize::MAX }
}

fn hub_of(encoders: Vec<EntityEncoder>, records: usize) -> Arc<Hub> {
    let sessions = SessionLimits { sessions: 10, age: Duration::from_secs(3600) };
    Arc::new(Hub::new(Delivery::Converging, encoders, limits(records), times(), sessions, false))
}

fn hub() -> Arc<Hub> {
    hub_of(vec![series(), restricted()], 12)
}

fn saved(hub: &Hub) -> Content {
    Content { written: WHEN, ..content(&hub.core, &Epoch::new()) }
}

/// What a hub keeps, as it stands in a file.
pub(in crate::hub) fn kept(hub: &Hub) -> Vec<u8> {
    let mut out = Vec::new();
    saved(hub).write(&mut out).unwrap();
    out
}

/// A hub that takes up what another has kept, after so long.
pub(in crate::hub) fn restarted(hub: Arc<Hub>, text: &[u8], downtime: Duration) -> Arc<Hub> {
    let today = WHEN + u64::try_from(downtime.as_millis()).unwrap();
    let (content, clock) = Content::read(text, &hub.core.encoders, Instant::now(), today).unwrap();
    take_up(&hub.core, content, &clock);
    hub
}

/// All that a hub's log and sessions know, in an order that does not depend on hashes.
fn known(hub: &Hub) -> String {
    let Content { log, mut sessions, .. } = saved(hub);
    sessions.sort_by_key(|session| session.id);
    format!("{:#}", json!([log, sessions]))
}

#[derive(Clone, Debug)]
enum Op {
    Add(u16, u32, u32, usize),
    Update(u16, u32, usize, bool),
    Delete(u16, u32, usize, bool),
    Message(u16),
    Refresh(u16),
    /// A page is sent a snapshot: these objects.
    Snapshot(u16, u32),
    Wait(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let (entity, id, scope) = (0_u16..2, 1_u32..6, 0_usize..4);
    prop_oneof![
        3 => (entity.clone(), id.clone(), 0_u32..4, scope.clone()).prop_map(|(e, id, of, s)| Op::Add(e, id, of, s)),
        4 => (entity.clone(), id.clone(), scope.clone(), any::<bool>()).prop_map(|(e, id, s, c)| Op::Update(e, id, s, c)),
        3 => (entity.clone(), id.clone(), scope, any::<bool>()).prop_map(|(e, id, s, c)| Op::Delete(e, id, s, c)),
        1 => entity.clone().prop_map(Op::Message),
        1 => entity.clone().prop_map(Op::Refresh),
        1 => (entity, id).prop_map(|(entity, id)| Op::Snapshot(entity, id)),
        1 => (1_u64..100_000).prop_map(Op::Wait),
    ]
}

const SCOPES: [&[&str]; 4] = [&["north"], &["south"], &["north", "south"], &["west"]];

fn in_scopes(change: Change, entity: u16, scopes: usize) -> Change {
    if entity == 0 { change } else { SCOPES[scopes].iter().fold(change, |change, scope| change.scope(*scope)) }
}

async fn run(hub: &Arc<Hub>, op: &Op) {
    let claimed = |change: Change, is_claim| if is_claim { change.claimed() } else { change };
    let object = |id: u32, of: u32| json!({"id": id, "of": of, "recurring_event_id": of, "text": "a\n\"b\"" });
    let (entity, change) = match *op {
        Op::Add(entity, id, of, scopes) => (entity, in_scopes(Change::add(&object(id, of)).unwrap(), entity, scopes)),
        Op::Update(entity, id, scopes, is_claim) => {
            let change = Change::update(&json!({"id": id, "changed": [1, {"by": "x"}]})).unwrap();
            (entity, claimed(in_scopes(change, entity, scopes), is_claim))
        }
        Op::Delete(entity, id, scopes, is_claim) => {
            (entity, claimed(in_scopes(Change::delete(id).unwrap(), entity, scopes), is_claim))
        }
        Op::Message(entity) => return hub.send(EntityIndex(entity), &Scopes::All, r#""hello""#),
        Op::Refresh(entity) => return hub.refresh(EntityIndex(entity)),
        Op::Snapshot(entity, id) => {
            let row = in_scopes(Change::update(&object(id, 0)).unwrap(), entity, 0);
            let reader = Identity::new("reader").with_all_scopes();
            hub.snapshot(EntityIndex(entity), hub.core.log_end(), &reader, &[row], &[]);
            return;
        }
        Op::Wait(millis) => return advance(Duration::from_millis(millis)).await,
    };
    hub.publish(EntityIndex(entity), &[change], None);
    advance(Duration::from_millis(7)).await;
}

fn in_paused_time<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(test)
}

fn answers(hub: &Hub) -> Vec<String> {
    let log = lock(&hub.core.log);
    let mut answers = vec![format!("{:?} {:?}", log.end(), log.size())];
    for millis in [0, 1, 50, 1000, 60_000, 1_000_000] {
        answers.push(format!("{:?}", log.position(Instant::now(), Duration::from_millis(millis))));
    }
    for entity in [EVENTS, TASKS] {
        for names in SCOPES {
            let scopes: Scopes = names.iter().copied().collect();
            answers.push(format!("{:?} {:?}", log.start_for(entity, &scopes), log.refreshed_for(entity, &scopes)));
        }
        answers.push(format!("{} {}", log.has_moves(entity), log.has_claims_apart(entity)));
        for id in 1..6 {
            let id = id.to_string();
            let mut children: Vec<_> = log.children(entity, &id);
            children.sort();
            answers.push(format!("{children:?} {:?}", log.published_scopes(entity, &id)));
            answers.push(format!("{:?} {:?}", log.newest(entity, &id), log.tombstone(entity, &id)));
        }
        answers.push(format!("{:?}", log.tombstones(entity, Sequence(0)..Sequence::MAX).collect::<Vec<_>>()));
    }
    let records: Vec<_> = log.since(Sequence(0)).collect();
    answers.push(format!("{records:?}"));
    answers
}

/// What is in a log, but for its times.
fn logged(hub: &Hub) -> Vec<String> {
    let log = lock(&hub.core.log);
    let records = log.since(Sequence(0)).map(|record| format!("{record:?}"));
    let of = |entity| (1..6).map(move |id| (entity, id.to_string()));
    let objects = of(EVENTS).chain(of(TASKS)).map(|(entity, id)| {
        let tombstone = log.tombstone(entity, &id).map(|(at, tombstone)| (at, &tombstone.scopes, &tombstone.last));
        format!("{:?} {:?} {tombstone:?}", log.newest(entity, &id), log.published_scopes(entity, &id))
    });
    records.chain(objects).collect()
}

proptest! {
    #[test]
    fn whatever_happened_is_known_after_a_restart(ops in prop::collection::vec(op(), 0..60)) {
        in_paused_time(async {
            let first = hub();
            for op in &ops {
                run(&first, op).await;
            }
            let second = restarted(hub(), &kept(&first), Duration::ZERO);
            prop_assert_eq!(known(&second), known(&first));
            prop_assert_eq!(answers(&second), answers(&first));
            Ok(())
        })?;
    }

    #[test]
    fn what_happens_after_a_restart_comes_to_the_same(
        before in prop::collection::vec(op(), 0..30),
        after in prop::collection::vec(op(), 0..20),
    ) {
        in_paused_time(async {
            // With room for all: which share gives way first depends on their order in memory.
            let roomy = || hub_of(vec![series(), restricted()], 1000);
            let first = roomy();
            for op in &before {
                run(&first, op).await;
            }
            let second = restarted(roomy(), &kept(&first), Duration::ZERO);
            for op in after.iter().filter(|op| !matches!(op, Op::Wait(_))) {
                run(&first, op).await;
                run(&second, op).await;
            }
            prop_assert_eq!(logged(&second), logged(&first));
            Ok(())
        })?;
    }
}

#[test]
fn each_kind_of_record_comes_back_as_it_was() {
    in_paused_time(async {
        let hub = hub_of(vec![series(), restricted()], 100);
        let object = |text: &str| json!({"id": 7, "text": text, "recurring_event_id": "5"});
        let ours = |change: Change| change.scope("north");
        hub.publish(EVENTS, &[Change::add(&object("x")).unwrap(), Change::delete(7).unwrap()], None);
        hub.publish(EVENTS, &[Change::update(&object("late")).unwrap().claimed()], None);
        hub.publish(TASKS, &[ours(Change::add(&object("x")).unwrap())], None);
        hub.publish(TASKS, &[Change::update(&object("y")).unwrap().scope("south").moved_from("north")], None);
        hub.publish(TASKS, &[Change::delete(7).unwrap().scope("south")], None);
        hub.send(EVENTS, &Scopes::All, "1");
        hub.refresh(TASKS);
        let matters = |hub: &Hub| {
            let log = lock(&hub.core.log);
            let name = |kind: &RecordKind| match kind {
                RecordKind::Change(change) => change.kind.verb(),
                RecordKind::Unconfirmed(_) => "unconfirmed",
                RecordKind::Message(_) => "message",
                RecordKind::Refresh => "refresh",
            };
            log.since(Sequence(0)).map(|(_, record)| name(&record.kind)).collect::<Vec<_>>()
        };
        let expected = ["add", "delete", "unconfirmed", "add", "update", "delete", "message", "message", "refresh"];
        assert_eq!(matters(&hub), expected);
        let second = restarted(hub_of(vec![series(), restricted()], 100), &kept(&hub), Duration::ZERO);
        assert_eq!(answers(&second), answers(&hub));
        assert_eq!(known(&second), known(&hub));
    });
}

#[test]
fn objects_that_records_share_are_written_and_kept_once() {
    in_paused_time(async {
        let hub = hub_of(vec![series(), restricted()], 100);
        let large = "x".repeat(10_000);
        let change = |verb: fn(&serde_json::Value) -> _, at: usize| -> Change {
            let change: Result<Change, crate::ChangeError> = verb(&json!({"id": 7, "text": large, "at": at}));
            change.unwrap().scope("north")
        };
        hub.publish(TASKS, &[change(Change::add, 0), change(Change::update, 1), change(Change::update, 2)], None);
        let text = kept(&hub);
        assert!(text.len() < 35_000, "{}", text.len());
        let second = restarted(hub_of(vec![series(), restricted()], 100), &text, Duration::ZERO);
        assert_eq!(known(&second), known(&hub));
        let copies = saved(&second).log.records.into_iter().filter(|saved| match &saved.record.kind {
            RecordKind::Change(ObjectChange { prior: PriorState::Known(version), .. }) => {
                matches!(&version.was, PriorObject::Object(object) if !object.is_empty())
            }
            _ => false,
        });
        assert_eq!(copies.count(), 0, "an object that an earlier record has is not there twice");
    });
}

#[test]
fn downtime_counts() {
    in_paused_time(async {
        advance(Duration::from_secs(10_000)).await;
        let first = hub();
        first.publish(EVENTS, &[Change::add(&json!({"id": 1})).unwrap(), Change::delete(2).unwrap()], None);
        advance(Duration::from_secs(30)).await;
        first.publish(EVENTS, &[Change::add(&json!({"id": 3})).unwrap()], None);
        let kept = kept(&first);
        let position = |downtime, ago| {
            let hub = restarted(hub(), &kept, Duration::from_secs(downtime));
            let log = lock(&hub.core.log);
            log.position(Instant::now(), Duration::from_secs(ago)).0
        };
        assert_eq!([position(0, 10), position(0, 60)], [2, 0]);
        assert_eq!([position(10, 9), position(10, 10), position(10, 60)], [3, 2, 0]);
        let sizes = |downtime| {
            let hub = restarted(hub(), &kept, Duration::from_secs(downtime));
            let log = lock(&hub.core.log);
            (log.size().0, log.tombstones(EVENTS, Sequence(0)..Sequence::MAX).count(), log.start(EVENTS).0)
        };
        assert_eq!([sizes(0), sizes(3590)], [(3, 1, 0), (1, 1, 2)], "the first are older than an hour");
        assert_eq!(sizes(24 * 3600).1, 0, "and the tombstone is older than a day");
    });
}

#[test]
fn what_does_not_fit_into_new_limits_goes_as_if_it_had_come_then() {
    in_paused_time(async {
        let first = hub();
        for id in 0..10 {
            first.publish(EVENTS, &[Change::add(&json!({ "id": id + 1 })).unwrap()], None);
        }
        let second = restarted(hub_of(vec![series(), restricted()], 4), &kept(&first), Duration::ZERO);
        let log = lock(&second.core.log);
        assert_eq!((log.size().0, log.start(EVENTS).0, log.start(TASKS).0, log.end().0), (4, 6, 0, 10));
    });
}

#[test]
fn of_an_entity_that_was_another_or_is_new_nothing_is_known() {
    in_paused_time(async {
        let first = hub();
        first.publish(EVENTS, &[Change::add(&json!({"id": 1})).unwrap()], None);
        first.publish(TASKS, &[Change::add(&json!({"id": 1})).unwrap().scope("north")], None);
        let kept = kept(&first);
        let other = || EntityEncoder { scoped_ids: true, ..restricted() };
        for encoders in
            [vec![series(), other()], vec![other(), series()], vec![series(), EntityEncoder::new("links", "link")]]
        {
            let second = restarted(hub_of(encoders, 12), &kept, Duration::ZERO);
            let log = lock(&second.core.log);
            let events = second.core.find("events").unwrap();
            let new = EntityIndex(1 - events.0);
            assert_eq!(
                (log.start(events), log.newest(events, "1").map(|(at, _)| at)),
                (Sequence(0), Some(Sequence(0)))
            );
            assert_eq!(log.size().0, 1);
            // Of a page that stood at the end as well.
            assert!(log.start(new) > first.core.log_end() && log.start(new) == log.end());
        }
        let second = restarted(hub_of(vec![series()], 12), &kept, Duration::ZERO);
        let start = lock(&second.core.log).start(EVENTS);
        assert_eq!((start, second.core.log_end()), (Sequence::ZERO, first.core.log_end()), "one is configured no more");
    });
}

#[test]
fn pages_stand_where_they_stood() {
    in_paused_time(async {
        let first = hub();
        for id in 1..5 {
            first.publish(EVENTS, &[Change::add(&json!({ "id": id })).unwrap()], None);
        }
        let now = Instant::now();
        let scopes: Scopes = ["north"].into_iter().collect();
        let id = |id: u8| SessionId { id: [id; 16], owner: 9 };
        let take = |hub: &Hub, id, scopes: &Scopes| hub.core.sessions.take(id, scopes, Sequence(4), Instant::now());
        let hold = [1, 2, 3, 4].map(|number| take(&first, id(number), &scopes).unwrap().hold);
        for hold in &hold {
            first.core.sessions.acknowledge(hold, &[(EVENTS, Sequence(3)), (TASKS, Sequence(2))], Instant::now());
        }
        let other: Scopes = ["south"].into_iter().collect();
        first.core.sessions.change_to(&hold[1], &other, Sequence(4));
        for hold in &hold[..2] {
            first.core.sessions.leave(hold, Vec::new(), Sequence(4), now);
        }
        let mut hidden = Retractions::default();
        hidden.recheck("7".into(), "7".into());
        first.core.sessions.leave(&hold[2], vec![(EVENTS, hidden.retracted().clone())], Sequence(4), now);
        let second = restarted(hub(), &kept(&first), Duration::ZERO);
        assert!(take(&second, SessionId { owner: 8, ..id(1) }, &scopes).is_none(), "it is not theirs");
        let taken = take(&second, id(1), &other).unwrap();
        assert_eq!(second.core.sessions.position(&taken.hold, EVENTS), Some(Sequence(3)));
        assert_eq!(second.core.sessions.position(&taken.hold, TASKS), Some(Sequence(2)));
        assert!(
            taken.past.received(&scopes, Some(Sequence(3))) && !taken.past.received(&scopes, Some(Sequence(4))),
            "until it had gone"
        );
        assert!(!taken.is_lost);
        let taken = take(&second, id(2), &other).unwrap();
        assert!(taken.past.received(&scopes, Some(Sequence(3))) && !taken.is_lost, "its rights were others before");
        for number in [3, 4] {
            let taken = take(&second, id(number), &scopes).unwrap();
            assert!(taken.is_lost, "it is unknown what page {number} may be showing");
            assert_eq!(second.core.sessions.position(&taken.hold, EVENTS), None);
        }
        let late = restarted(hub(), &kept(&first), Duration::from_secs(3601));
        assert!(
            late.core.sessions.position(&take(&late, id(1), &scopes).unwrap().hold, EVENTS).is_none(),
            "too long ago"
        );
    });
}

#[test]
fn what_was_to_be_sent_again_is_replayed_after_a_restart() {
    in_paused_time(async {
        let first = hub();
        let slow = first.start_write(EVENTS);
        first.publish(EVENTS, &[Change::add(&json!({"id": 1})).unwrap()], None);
        let hold = first
            .core
            .sessions
            .take(SessionId { id: [1; 16], owner: 9 }, &Scopes::None, Sequence(1), Instant::now())
            .unwrap()
            .hold;
        first.core.sessions.acknowledge(&hold, &[(EVENTS, Sequence(1)), (TASKS, Sequence(1))], Instant::now());
        // Its page may have dropped what came while it was saving.
        slow.confirm();
        drop(slow);
        first.core.sessions.leave(&hold, Vec::new(), Sequence(1), Instant::now());
        let positions = saved(&first).sessions[0].positions.clone();
        assert_eq!(positions, [(EVENTS, Sequence(0)), (TASKS, Sequence(1))]);
    });
}

#[test]
fn deletions_are_not_resent_all_at_once_but_when_they_are_due() {
    in_paused_time(async {
        let first = hub();
        let delete = |hub: &Hub, id: u32| hub.publish(EVENTS, &[Change::delete(id).unwrap()], None);
        delete(&first, 1);
        advance(Duration::from_secs(25)).await;
        delete(&first, 2);
        advance(Duration::from_secs(10)).await;
        let kept = kept(&first);
        let second = restarted(hub(), &kept, Duration::from_secs(5));
        let due = |hub: &Hub| {
            let log = lock(&hub.core.log);
            lock(&hub.core.reminders)[0]
                .due(&log, EVENTS, &hub.core.times.reminders, Sequence(0), Instant::now())
                .sequences
        };
        assert_eq!(due(&second), [], "the first has been resent before, and the second is not due");
        advance(Duration::from_secs(16)).await;
        assert_eq!(due(&second), [Sequence(1)]);
    });
}

#[test]
fn another_release_and_junk_are_not_read() {
    in_paused_time(async {
        let first = hub();
        let ours = Change::add(&json!({"id": 1})).unwrap().scope("north");
        first.publish(TASKS, &[ours.clone(), Change::delete(1).unwrap().scope("north"), ours], None);
        let good = kept(&first);
        let read = |text: &[u8]| Content::read(text, &first.core.encoders, Instant::now(), WHEN).map(|_| ());
        assert_eq!(read(&good), Ok(()));
        let other = String::from_utf8(good.clone()).unwrap().replacen(env!("CARGO_PKG_VERSION"), "0.0.9", 1);
        assert!(read(other.as_bytes()).unwrap_err().contains("release 0.0.9"));
        let secrets = format!("[{}]\n{{}}", "5".repeat(99));
        assert!(!read(secrets.as_bytes()).unwrap_err().contains(&"5".repeat(20)), "nor is much of it shown");
        for end in 0..good.len() - 1 {
            assert!(read(&good[..end]).is_err(), "{end}");
        }
        for at in 0..good.len() {
            for byte in [b'0', b'9', b'\n', b'"', 0xff] {
                let mut bad = good.clone();
                bad[at] = byte;
                // Anything but a panic: the checksum is looked at before.
                let _ = read(&bad);
            }
        }
    });
}
