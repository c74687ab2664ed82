use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use proptest::prelude::*;
use tokio::time::Instant;

use super::*;
use crate::{change::ChangeKind, entity::EntityIndex, hub::encoder::EntityEncoder, scope::Scopes, sequence::Sequence};

fn record(id: &str, size: usize) -> Record {
    let frame = Bytes::from(vec![b'x'; size]);
    Record {
        entity: EntityIndex(0),
        scopes: Scopes::All,
        broadcast: Broadcast::ToAll,
        kind: RecordKind::Change(ObjectChange {
            kind: ChangeKind::Update,
            id: id.into(),
            key: id.into(),
            prior: PriorState::Unknown,
            ever: Scopes::All,
            went_to: Scopes::None,
            object: frame.clone(),
            whole: true,
            is_only_added: false,
            added: None,
            parents: Box::default(),
            place: None,
            may_be_exception: false,
            is_claim: false,
            can_add: None,
        }),
        frame,
    }
}

fn log(records: usize, bytes: usize) -> Log {
    let limits = LogLimits {
        records,
        bytes,
        age: Duration::from_secs(3600),
        tombstones: 4,
        tombstone_age: Duration::from_secs(24 * 3600),
        object_bytes: usize::MAX,
    };
    Log::new(limits, 1)
}

#[test]
fn a_reader_that_lags_sees_where_the_log_starts() {
    let mut log = log(2, usize::MAX);
    for id in ["a", "b", "c"] {
        log.append(Instant::now(), record(id, 1));
    }
    assert_eq!((log.start(EntityIndex(0)), log.trimmed()), (Sequence(1), Sequence(1)), "record 0 is gone");
    let rest: Vec<u64> = log.since(Sequence::ZERO).map(|(sequence, _)| sequence.0).collect();
    assert_eq!(rest, [1, 2]);
    assert_eq!(log.since(Sequence(3)).count(), 0, "nothing stands at the end");
}

fn of(entity: u16, scope: &str, id: &str, size: usize) -> Record {
    let scopes: Scopes = [scope].into_iter().collect();
    let mut record = record(id, size);
    if let RecordKind::Change(change) = &mut record.kind {
        change.ever = scopes.clone();
    }
    Record { entity: EntityIndex(entity), scopes, ..record }
}

#[test]
fn neither_an_entity_nor_a_tenant_displaces_the_history_of_others() {
    let limits = LogLimits { bytes: 10_000, ..log(1000, 0).limits };
    let mut log = Log::new(limits, 2);
    log.append(Instant::now(), of(1, "south", "a", 1000));
    log.append(Instant::now(), of(0, "south", "b", 1000));
    for number in 0..100 {
        log.append(Instant::now(), of(0, "north", &number.to_string(), 2000));
    }
    assert!(log.newest(EntityIndex(1), "a").is_some() && log.newest(EntityIndex(0), "b").is_some());
    let start = |entity, scope: &str| log.start_for(EntityIndex(entity), &[scope].into_iter().collect());
    assert_eq!([start(0, "south"), start(1, "south"), start(1, "north")], [Sequence::ZERO; 3]);
    assert!(start(0, "north") > Sequence(90) && log.start(EntityIndex(0)) == start(0, "north"));
    assert!(log.size().1 <= 10_000);
}

#[test]
fn many_small_records_are_dropped_before_a_few_of_others() {
    let mut log = Log::new(LogLimits { bytes: 1 << 20, ..log(100, 0).limits }, 2);
    log.append(Instant::now(), of(1, "south", "a", 1000));
    for number in 0..1000 {
        log.append(Instant::now(), of(0, "north", &number.to_string(), 1));
    }
    assert!(log.newest(EntityIndex(1), "a").is_some());
    assert_eq!(log.size().0, 100);
}

#[test]
fn trimmed_records_count_for_the_past_scopes_of_their_object() {
    let mut log = log(1, usize::MAX);
    let scopes = |name: &str| [name].into_iter().collect::<Scopes>();
    let mut moved = of(0, "south", "a", 1);
    if let RecordKind::Change(change) = &mut moved.kind {
        change.ever = scopes("north");
    }
    log.append(Instant::now(), moved);
    log.append(Instant::now(), of(0, "south", "b", 1));
    let start = |scope: &str| log.start_for(EntityIndex(0), &scopes(scope)).0;
    assert_eq!((start("north"), start("south"), start("west")), (1, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn expired_records_are_dropped_with_the_next_append() {
    let mut log = log(10, usize::MAX);
    log.append(Instant::now(), record("a", 1));
    tokio::time::advance(Duration::from_secs(3601)).await;
    log.append(Instant::now(), record("b", 1));
    assert_eq!((log.start(EntityIndex(0)), log.size().0), (Sequence(1), 1));
}

#[test]
fn cached_upserts_count_as_bytes_and_are_dropped_first() {
    let mut log = log(10, 4000);
    log.append(Instant::now(), record("a", 100));
    let before = log.size().1;
    let encoder = EntityEncoder::new("events", "event");
    let object = Bytes::from(format!(r#"{{"id":"a","text":"{}"}}"#, "x".repeat(1000)));
    for _ in 0..2 {
        log.upsert(Sequence(0), || encoder.encode_upsert(&object, true)).unwrap();
    }
    let after = log.size().1;
    assert!(after > before + 2000 && after < before + 2500, "cached once, as add and update: {before} {after}");
    assert!(log.upsert(Sequence(1), || encoder.encode_upsert(&object, true)).is_none(), "there is no such record");
    log.append(Instant::now(), record("b", 2000));
    assert_eq!(log.size(), (2, 2 * before + 1900), "no record has to go for it");
    log.append(Instant::now(), record("c", 1000));
    assert!(log.upsert(Sequence(2), || encoder.encode_upsert(&object, true)).is_none(), "there is little room");
    assert_eq!(log.size().0, 3);
}

#[test]
fn one_record_larger_than_the_log_is_kept() {
    let mut log = log(10, 100);
    log.append(Instant::now(), record("a", 5000));
    assert_eq!(log.since(Sequence(0)).count(), 1);
}

#[test]
fn the_newest_record_of_an_object_is_found_while_it_is_kept() {
    let mut log = log(2, usize::MAX);
    log.append(Instant::now(), record("a", 1));
    log.append(Instant::now(), record("a", 2));
    assert_eq!(log.newest(EntityIndex(0), "a").unwrap().1.object.len(), 2);
    assert!(log.is_newest(EntityIndex(0), "a", Sequence(1)) && !log.is_newest(EntityIndex(0), "a", Sequence(0)));
    log.append(Instant::now(), record("b", 1));
    log.append(Instant::now(), record("c", 1));
    assert!(log.newest(EntityIndex(0), "a").is_none(), "dropped");
    assert_eq!(log.indexes[0].newest.len(), 2);
}

fn change(kind: ChangeKind, id: &str, parent: Option<&str>) -> Record {
    let object = Bytes::from(format!(r#"{{"id":"{id}"}}"#));
    Record {
        entity: EntityIndex(0),
        frame: object.clone(),
        scopes: Scopes::All,
        broadcast: Broadcast::ToAll,
        kind: RecordKind::Change(ObjectChange {
            kind,
            id: id.into(),
            key: id.into(),
            prior: PriorState::Unknown,
            ever: Scopes::All,
            went_to: Scopes::None,
            object,
            whole: kind != ChangeKind::Update,
            added: None,
            parents: parent.map(Arc::from).into_iter().collect(),
            place: None,
            may_be_exception: false,
            is_claim: false,
            can_add: None,
            is_only_added: false,
        }),
    }
}

fn tombstone(log: &Log) -> Vec<(u64, String)> {
    log.tombstones(EntityIndex(0), Sequence(0)..Sequence::MAX)
        .map(|(at, tombstone)| (at.0, tombstone.id.to_string()))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn tombstones_outlive_their_records() {
    let mut log = log(2, usize::MAX);
    for id in ["a", "b", "c", "d", "e"] {
        log.append(Instant::now(), change(ChangeKind::Delete, id, None));
        tokio::time::advance(Duration::from_secs(10)).await;
    }
    let kept = [(1, "b"), (2, "c"), (3, "d"), (4, "e")].map(|(at, id)| (at, id.to_owned()));
    assert_eq!(tombstone(&log), kept, "four at most");
    assert_eq!([5, 15, 500].map(|seconds| log.position(Instant::now(), Duration::from_secs(seconds)).0), [5, 4, 3]);
    // One is used again, of another the day is over.
    log.append(Instant::now(), change(ChangeKind::Add, "c", None));
    tokio::time::advance(Duration::from_secs(24 * 3600 - 25)).await;
    log.append(Instant::now(), change(ChangeKind::Add, "x", None));
    assert_eq!(tombstone(&log), [(3, "d".to_owned()), (4, "e".to_owned())]);
    assert_eq!(log.indexes[0].newest.len(), 3, "x, and two that are gone");
}

#[tokio::test(start_paused = true)]
async fn tombstones_are_bounded_by_bytes_and_one_entity_displaces_no_others() {
    let limits = LogLimits { bytes: 100_000, tombstones: 1000, ..log(10, 0).limits };
    let mut log = Log::new(limits, 2);
    let delete = |entity, id: &str| Record { entity: EntityIndex(entity), ..change(ChangeKind::Delete, id, None) };
    log.append(Instant::now(), delete(1, "kept"));
    for number in 0..2000 {
        log.append(Instant::now(), delete(0, &format!("{number}{}", "x".repeat(250))));
    }
    let kept = |entity| log.tombstones(EntityIndex(entity), Sequence(0)..Sequence::MAX).count();
    assert_eq!((kept(0), kept(1)), (100_000 / (300 + 3 * 254 + 9), 1), "id, key and object");
    assert_eq!(log.indexes[0].newest.len(), kept(0));
}

#[test]
fn an_update_knows_when_its_object_was_added_and_is_whole_only_if_marked_so() {
    let mut log = log(10, usize::MAX);
    for (kind, id) in [(ChangeKind::Add, "a"), (ChangeKind::Update, "a"), (ChangeKind::Update, "b")] {
        log.append(Instant::now(), change(kind, id, None));
    }
    let added = |log: &Log, id| log.newest(EntityIndex(0), id).unwrap().1.added.map(|at| at.0);
    assert_eq!((added(&log, "a"), added(&log, "b")), (Some(0), None));
    assert!(!log.is_whole_since(EntityIndex(0), "a", Sequence(0)), "the update is a part");
    log.append(Instant::now(), change(ChangeKind::Delete, "a", None));
    assert!(
        log.is_whole_since(EntityIndex(0), "a", Sequence(3)) && !log.is_whole_since(EntityIndex(0), "a", Sequence(4))
    );
}

#[test]
fn children_follow_their_newest_record() {
    let mut log = log(3, usize::MAX);
    let children = |log: &Log, id: &str| {
        let mut children: Vec<String> =
            log.descendants(EntityIndex(0), id).iter().map(|child| child.to_string()).collect();
        children.sort();
        children
    };
    log.append(Instant::now(), change(ChangeKind::Add, "x", Some("p")));
    log.append(Instant::now(), change(ChangeKind::Add, "y", Some("p")));
    assert_eq!(children(&log, "p"), ["x", "y"]);
    log.append(Instant::now(), change(ChangeKind::Update, "x", Some("q")));
    assert_eq!((children(&log, "p"), children(&log, "q")), (vec!["y".to_owned()], vec!["x".to_owned()]));
    log.append(Instant::now(), change(ChangeKind::Delete, "x", None));
    log.append(Instant::now(), change(ChangeKind::Add, "z", None));
    assert!(log.indexes[0].children.is_empty(), "deleted, and gone from the log: {:?}", log.indexes[0].children);
}

#[test]
fn descendants_precede_their_parents_at_any_depth() {
    let mut log = log(50_000, usize::MAX);
    for id in 1..40_000 {
        log.append(Instant::now(), change(ChangeKind::Add, &(id + 1).to_string(), Some(&id.to_string())));
    }
    let order: Vec<String> = (2..=40_000).rev().map(|id| id.to_string()).collect();
    assert!(log.descendants(EntityIndex(0), "1").iter().map(|id| &**id).eq(&order));
    log.append(Instant::now(), change(ChangeKind::Update, "39999", Some("40000")));
    assert_eq!(log.descendants(EntityIndex(0), "39999").len(), 1, "they go with each other");
}

#[test]
fn an_object_back_in_the_store_loses_its_tombstone() {
    let mut log = log(2, usize::MAX);
    for id in ["a", "b", "c", "d"] {
        log.append(Instant::now(), change(ChangeKind::Delete, id, None));
    }
    log.append(Instant::now(), change(ChangeKind::Add, "x", None));
    for id in ["a", "d", "unknown"] {
        log.remove_tombstone(EntityIndex(0), id, Sequence(4));
    }
    // Deleted since the store was asked.
    log.remove_tombstone(EntityIndex(0), "c", Sequence(2));
    let tombstone: Vec<&str> =
        log.tombstones(EntityIndex(0), Sequence(0)..Sequence(9)).map(|(_, tombstone)| &*tombstone.id).collect();
    assert_eq!(tombstone, ["b", "c"]);
    log.append(Instant::now(), change(ChangeKind::Add, "y", None));
    let mut known: Vec<&str> = log.indexes[0].newest.keys().map(|id| &**id).collect();
    known.sort_unstable();
    assert_eq!(known, ["b", "c", "x", "y"], "nothing is left of the others when their records go");
}

#[test]
fn a_deletion_knows_since_when_its_object_existed() {
    let mut log = log(10, usize::MAX);
    for (kind, id) in [(ChangeKind::Add, "a"), (ChangeKind::Update, "a"), (ChangeKind::Update, "b")] {
        log.append(Instant::now(), change(kind, id, None));
    }
    for (id, since) in [("a", Some(0)), ("b", Some(2)), ("c", None), ("a", None)] {
        log.append(Instant::now(), change(ChangeKind::Delete, id, None));
        assert_eq!(log.newest(EntityIndex(0), id).unwrap().1.added.map(|at| at.0), since, "{id}");
    }
}

proptest! {
    #[test]
    fn bounds_hold_and_numbers_stay_dense(
        writes in proptest::collection::vec((0_u8..8, 1_usize..400), 1..200),
        records in 1_usize..20,
        bytes in 200_usize..4000,
    ) {
        let mut log = log(records, bytes);
        for (count, (id, size)) in writes.iter().enumerate() {
            log.append(Instant::now(), record(&id.to_string(), *size));
            let (kept, cost) = log.size();
            prop_assert_eq!(log.end().0, count as u64 + 1);
            prop_assert!(kept == 1 || (kept <= records && cost <= bytes));
            let sequences: Vec<u64> = log.since(Sequence::ZERO).map(|(at, _)| at.0).collect();
            prop_assert_eq!(sequences, (log.start(EntityIndex(0)).0..log.end().0).collect::<Vec<_>>());
            let (sequence, newest) = log.newest(EntityIndex(0), &id.to_string()).unwrap();
            prop_assert_eq!((sequence.0, newest.object.len()), (count as u64, *size));
            prop_assert!(log.indexes[0].newest.len() <= kept);
        }
    }
}
