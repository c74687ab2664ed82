//! From a change to a record: under one lock, but for what is large.
//!
//! An object may have a megabyte and a hundred thousand fields. It is read, merged with what is known of it, and encoded
//! outside the lock; then the record that it was merged with must still be the newest.

mod batch;
mod hold;
mod order;
mod plan;
mod record;
mod release;

use tokio::time::Instant;

pub(crate) use self::{
    batch::{Announced, Published, Withheld, WriteContext},
    hold::is_ring,
    order::{is_at_root, is_broadcast, other_at_root},
    release::release,
};
use self::{
    batch::{Basis, Batch, Encoded},
    plan::{Appender, Plan},
    record::is_add,
};
use super::{
    core::Core,
    encoder::keys_within,
    log::{Addressee, Broadcast, Log, Record, RecordKind},
};
use crate::{
    change::{Change, ChangeKind},
    entity::EntityIndex,
    lock::lock,
    protocol,
    scope::Scopes,
};

/// So often is a large change encoded anew because its object has changed meanwhile.
const ATTEMPTS: usize = 8;

/// Publishes changes, in this order and with nothing in between. Only where several large ones are of one object may
/// others come in between. Returns the changes that are published, and to whom, where there is an audit.
///
/// Where an added object was published since its write began, that is newer than the add: its newest state goes out
/// instead, or nothing where it was added or deleted since.
pub(super) fn publish(
    core: &Core,
    entity: EntityIndex,
    changes: &[Change],
    write: WriteContext,
) -> (Published, Vec<Announced>) {
    let appender = Appender::new(core, entity);
    let mut batch = Batch::of(changes, write);
    let mut attempts = 0;
    while batch.done < changes.len() {
        let mut log = lock(&core.log);
        let (done, waits) = (batch.done, attempts < ATTEMPTS);
        // Of several changes none is published before all that can be read are.
        let is_batch = waits && changes.len() > 1;
        let mut large = if is_batch { appender.large(&log, &batch) } else { Vec::new() };
        if large.is_empty() {
            large.extend(appender.append(&mut log, &mut batch, waits));
        }
        drop(log);
        attempts = if batch.done > done { 0 } else { attempts + 1 };
        for (at, basis) in large {
            batch.encoded[at] = Some(appender.encode(&changes[at], basis));
        }
    }
    core.wake();
    if changes.iter().any(|change| change.kind() == ChangeKind::Delete) {
        core.settling.notify_one();
    }
    (batch.published, batch.announced)
}

/// Publishes a message: `value` is JSON text.
pub(super) fn send(core: &Core, entity: EntityIndex, scopes: &Scopes, addressee: Addressee, value: &str) {
    let frame = protocol::message(&core.encoder(entity).entity, value);
    let (scopes, kind) = (scopes.clone(), RecordKind::Message(addressee));
    lock(&core.log).append(Instant::now(), Record { entity, frame, scopes, broadcast: Broadcast::ToAll, kind });
    core.wake();
}

/// Brings every page of an entity to the store's state: by a snapshot, or by the marker after which it must load its
/// list again.
pub(super) fn refresh(core: &Core, entity: EntityIndex) {
    let now = Instant::now();
    lock(&core.settles).of_mut(entity).lists_may_be_older(now);
    append_refresh(core, &mut lock(&core.log), entity, now, &Scopes::All);
    core.wake();
}

pub(super) fn append_refresh(core: &Core, log: &mut Log, entity: EntityIndex, now: Instant, scopes: &Scopes) {
    let encoder = core.encoder(entity);
    if !encoder.has_snapshot {
        let (entity, frame, scopes) = (core.resync, encoder.resync_message(), scopes.clone());
        let kind = RecordKind::Message(Addressee::Everyone);
        log.append(now, Record { entity, frame, scopes, broadcast: Broadcast::ToAll, kind });
    }
    let (frame, scopes) = (encoder.resync_marker(), scopes.clone());
    log.append(now, Record { entity, frame, scopes, broadcast: Broadcast::ToAll, kind: RecordKind::Refresh });
}

impl Appender<'_> {
    /// The changes that are too large to be encoded while others wait for the log, and are not encoded yet as it stands.
    fn large(&self, log: &Log, batch: &Batch<'_>) -> Vec<(usize, Option<Basis>)> {
        let meanwhile = batch.meanwhile(log.end());
        let large = (batch.done..batch.changes.len()).filter_map(|at| {
            let change = &batch.changes[at];
            let key = self.key_of(log, change);
            let plan = self.plan(log, &key, change, meanwhile);
            let basis = plan.encodes().filter(|basis| batch.is_unread(at, *basis))?;
            Some((at, basis.cloned()))
        });
        large.collect()
    }

    /// Appends as many changes of a batch as are ready; which comes next, and is too large to be encoded here. Unless it
    /// `waits`, one is appended at least.
    fn append(&self, log: &mut Log, batch: &mut Batch<'_>, waits: bool) -> Option<(usize, Option<Basis>)> {
        let (first, first_record, now) = (batch.done, log.end(), Instant::now());
        let mut unread = None;
        let changes = batch.changes;
        for (at, change) in changes.iter().enumerate().skip(first) {
            let key = self.key_of(log, change);
            let plan = self.plan(log, &key, change, batch.meanwhile(first_record));
            if let Some(basis) = plan.encodes().filter(|basis| (waits || at > first) && batch.is_unread(at, *basis)) {
                unread = Some((at, basis.cloned()));
                break;
            }
            batch.done = at + 1;
            // The handler may have deleted nothing, and answered 200: then what came since the deletion is there still.
            let is_again = matches!(plan, Plan::Delete) && log.tombstone(self.entity, &key).is_some();
            let is_doubtful = is_again && self.encoder.has_snapshot;
            let mut doubtful_in: Option<Scopes> = None;
            let is_left = matches!(plan, Plan::Delete) && self.is_left(log, &key);
            let was_beside = matches!(plan, Plan::Delete) && self.was_beside(log, &key, now);
            if matches!(plan, Plan::Delete) {
                self.delete_links(log, now, &key, change, batch);
            }
            for along in self.taken_along(log, &key, change, &plan, batch) {
                let key = self.key_of(log, &along);
                if let Plan::Delete = self.plan(log, &key, &along, None) {
                    let record = self.deleted(log, &key, &along);
                    let scopes = doubtful_in.take().unwrap_or(Scopes::None).and(&record.scopes);
                    doubtful_in = is_doubtful.then_some(scopes);
                    batch.appended(self.append_record(log, now, record, &batch.write, (is_left, None, &along)), &along);
                }
            }
            let record = match plan {
                Plan::Nothing => continue,
                Plan::Elsewhere => {
                    batch.published.elsewhere = true;
                    continue;
                }
                Plan::Delete => self.deleted(log, &key, change),
                Plan::Unconfirmed(scopes) => {
                    let kind = RecordKind::Unconfirmed(change.id().into());
                    let frame = self.encoded(batch, at, None).event.frame;
                    Record { entity: self.entity, frame, scopes, broadcast: Broadcast::ToAll, kind }
                }
                Plan::Changed { basis, scopes, whole } => {
                    let encoded = self.encoded(batch, at, basis);
                    let record = self.changed(log, &key, change, encoded, (scopes, whole));
                    self.with_steps(log, change, record, batch)
                }
            };
            if let Some(scopes) = doubtful_in {
                append_refresh(self.core, log, self.entity, now, &scopes);
            }
            let withheld = self.withheld(log, &record);
            if let Some(why) = withheld {
                batch.published.withheld = Some((change.id().into(), why));
            }
            batch.appended(self.append_record(log, now, record, &batch.write, (is_left, withheld, change)), change);
            if was_beside || self.is_lost(log, change) {
                let members: Vec<EntityIndex> = lock(&self.core.settles).members(self.entity).collect();
                members
                    .into_iter()
                    .for_each(|member| append_refresh(self.core, log, member, now, &change.scopes_or_all()));
            }
        }
        batch.parts.push(first_record..log.end());
        if log.end() > first_record {
            // To who could not see it before, any change may add an object.
            let has_added = self.encoder.is_restricted() || batch.changes[first..batch.done].iter().any(is_add);
            let is_change_of = |key: &str| {
                log.since(first_record).any(|(_, record)| record.change().is_some_and(|change| *change.key == *key))
            };
            let mut settles = lock(&self.core.settles);
            let settle = settles.of_mut(self.entity);
            settle.published(now, log.end(), has_added, is_change_of);
            // Several have come to their places one by one, and pages may lack a sibling that is held.
            if batch.moved > 1 || (batch.moved > 0 && !settle.held.is_empty()) {
                settle.missed(now, first_record);
                self.core.settling.notify_one();
            }
        }
        unread
    }

    /// Appends one record, and what follows of it; returns its scopes, where there is an audit.
    fn append_record(
        &self,
        log: &mut Log,
        now: Instant,
        mut record: Record,
        write: &WriteContext,
        of: (bool, Option<Withheld>, &Change),
    ) -> Option<Scopes> {
        record.broadcast = self.hold(log, now, &record, write, of);
        let moved = self.moved_without_full_row(&record);
        let audited = self.core.is_audited().then(|| record.scopes.clone());
        self.end_claims(log, &record);
        if let Some(change) = record.change().filter(|_| self.encoder.is_tree()) {
            match change.kind {
                ChangeKind::Delete => log.forget_place(self.entity, &change.key),
                ChangeKind::Add | ChangeKind::Update => {
                    log.set_place(self.entity, &change.key, change.parents.first().cloned());
                }
            }
        }
        log.append(now, record);
        if let Some(scopes) = moved {
            append_refresh(self.core, log, self.entity, now, &scopes);
        }
        audited
    }

    fn encoded(&self, batch: &mut Batch<'_>, at: usize, basis: Option<Basis>) -> Encoded {
        let ready = batch.take_encoded(at, basis.as_ref());
        ready.unwrap_or_else(|| self.encode(&batch.changes[at], basis))
    }

    /// The deletions that go with a change, and before it: of the objects known to go with a deleted one, unless the batch names
    /// them; and of the object in the scopes with ids of their own that it has left.
    fn taken_along(&self, log: &Log, key: &str, change: &Change, plan: &Plan, batch: &mut Batch<'_>) -> Vec<Change> {
        let mut along = Vec::new();
        if matches!(plan, Plan::Delete) && self.encoder.has_children() && !self.encoder.is_plain {
            let found = self.descendants(log, key, change);
            if !found.is_empty() {
                let of = |change: &Change| self.encoder.key(change.namespace(), change.id()).into_owned();
                let keys = batch.keys.get_or_insert_with(|| batch.changes.iter().map(of).collect());
                along.extend(found.into_iter().filter(|along| keys.insert(of(along))));
            }
        }
        if self.encoder.scoped_ids && change.enters_namespace() {
            let left = change.former_scopes().names().filter(|from| !change.scopes().names().any(|to| to == *from));
            let deletion =
                |from| Some(Change { went_to: change.scopes.clone(), ..Change::delete(&change.id).ok()?.scope(from) });
            along.extend(left.filter_map(deletion));
        }
        along
    }

    /// What proves whose an object is ends what was only claimed of it in these scopes.
    fn end_claims(&self, log: &mut Log, record: &Record) {
        let RecordKind::Change(change) = &record.kind else { return };
        if !change.is_claim && log.has_claims_apart(record.entity) {
            for key in keys_within(&record.scopes, &change.id) {
                log.forget(record.entity, &key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use serde_json::{Value, json};

    use super::*;
    use crate::{
        auth::Identity,
        entity::Widget,
        hub::{
            Delivery, EntityEncoder, Hub,
            encoder::LARGE,
            tests::{self, hub_of},
        },
        sequence::Sequence,
    };

    const EVENTS: EntityIndex = EntityIndex(0);

    fn hub(encoder: EntityEncoder) -> Arc<Hub> {
        hub_of(vec![encoder], 1000, Delivery::Converging)
    }

    fn update(object: &Value) -> Change {
        Change::update(object).unwrap()
    }

    fn newest(hub: &Hub, id: &str) -> (ChangeKind, Value, bool) {
        let log = lock(&hub.core.log);
        let (_, change) = log.newest(EVENTS, id).unwrap();
        (change.kind, serde_json::from_slice(&change.object).unwrap(), change.whole)
    }

    #[test]
    fn after_a_deletion_an_update_needs_proof() {
        let row = json!({"id": 7, "text": "x"});
        for (change, is_there) in [
            (update(&row), false),
            (update(&row).claimed(), false),
            (update(&row).whole(), true),
            (Change { read_at: Some(Sequence(2)), ..update(&row) }, true),
            (Change { read_at: Some(Sequence(1)), ..update(&row) }, false),
            (Change::add(&row).unwrap().claimed(), true),
        ] {
            let hub = hub(EntityEncoder::new("events", "event"));
            hub.publish(EVENTS, &[Change::add(&row).unwrap(), Change::delete(7).unwrap()], None);
            let published = hub.publish(EVENTS, std::slice::from_ref(&change), None);
            assert_eq!(
                published,
                Published { changes: 1, elsewhere: false, withheld: None },
                "{change:?}: it is broadcast all the same"
            );
            assert_eq!(newest(&hub, "7").0 != ChangeKind::Delete, is_there, "{change:?}");
            assert_eq!(lock(&hub.core.log).tombstone(EVENTS, "7").is_none(), is_there, "{change:?}");
        }
    }

    #[test]
    fn what_was_deleted_before_a_refresh_may_be_there_again() {
        let hub = hub(EntityEncoder::new("events", "event"));
        hub.publish(EVENTS, &[Change::delete(7).unwrap()], None);
        hub.refresh(EVENTS);
        hub.publish(EVENTS, &[update(&json!({"id": 7}))], None);
        assert_eq!(newest(&hub, "7").0, ChangeKind::Update);
    }

    fn scoped() -> Arc<Hub> {
        hub(EntityEncoder { is_scoped: true, ..EntityEncoder::new("events", "event") })
    }

    #[test]
    fn a_claim_moves_no_object_to_another_scope_and_deletes_none_there() {
        let object = |text: &str| json!({"id": 7, "text": text});
        let known = Change::add(&object("south's")).unwrap().scope("south");
        for (change, published) in [
            (update(&object("north's")).claimed().scope("north"), false),
            (Change::delete(7).unwrap().claimed().scope("north"), false),
            (update(&object("south's")).claimed().scope("south"), true),
            (Change::delete(7).unwrap().claimed().scope("south"), true),
            (update(&object("moved")).claimed().scope("north").moved_from("south"), true),
            (update(&object("a row of north's")).whole().scope("north"), true),
            (update(&object("the application's word")).scope("north"), true),
        ] {
            let hub = scoped();
            hub.publish(EVENTS, std::slice::from_ref(&known), None);
            let elsewhere = hub.publish(EVENTS, std::slice::from_ref(&change), None).elsewhere;
            assert_eq!(!elsewhere, published, "{change:?} {}", change.object());
            assert_eq!(lock(&hub.core.log).end(), Sequence(1 + u64::from(published)), "{change:?}");
        }
    }

    #[test]
    fn a_deletion_without_a_scope_is_for_those_who_have_the_object() {
        let hub = scoped();
        let add = Change::add(&json!({"id": 7})).unwrap().scope("south");
        let published = hub.publish(EVENTS, &[add, Change::delete(7).unwrap().claimed()], None);
        assert_eq!(published, Published { changes: 2, elsewhere: false, withheld: None });
        let log = lock(&hub.core.log);
        assert_eq!(log.newest_record(EVENTS, "7").unwrap().1.scopes.to_string(), "south");
    }

    fn claim(scope: &str, text: &str) -> Change {
        update(&json!({"id": 7, scope: text})).claimed().scope(scope)
    }

    fn claimed_deletion(scope: &str) -> Change {
        Change::delete(7).unwrap().claimed().scope(scope)
    }

    /// What a page of these scopes that comes back receives of an object: its newest states, and who receives each.
    fn replayed(hub: &Hub) -> Vec<(String, ChangeKind)> {
        let log = lock(&hub.core.log);
        let newest = log.newest_of(EVENTS).map(|(at, record, change)| (at, record.scopes.to_string(), change.kind));
        let mut newest: Vec<_> = newest.collect();
        newest.sort_by_key(|(at, ..)| *at);
        newest.into_iter().map(|(_, scopes, kind)| (scopes, kind)).collect()
    }

    #[test]
    fn claims_of_one_scope_silence_no_writes_of_another_and_hide_none() {
        use ChangeKind::{Delete, Update};
        let of = |scope: &str, kind| (scope.to_owned(), kind);
        for (changes, expected) in [
            (vec![claimed_deletion("north"), claim("south", "x")], vec![of("north", Delete), of("south", Update)]),
            (vec![claim("north", "x"), claim("south", "x")], vec![of("north", Update), of("south", Update)]),
            (vec![claim("north", "x"), claimed_deletion("south")], vec![of("north", Update), of("south", Delete)]),
            (
                vec![claimed_deletion("north"), claim("south", "x"), claim("north", "y")],
                vec![of("north", Delete), of("south", Update)],
            ),
            (
                vec![claim("north", "x"), claim("south", "x"), claimed_deletion("north"), claimed_deletion("south")],
                vec![of("north", Delete), of("south", Delete)],
            ),
        ] {
            let hub = scoped();
            for change in &changes {
                let published = hub.publish(EVENTS, std::slice::from_ref(change), None);
                assert_eq!(published, Published { changes: 1, elsewhere: false, withheld: None }, "{changes:?}");
            }
            assert_eq!(replayed(&hub), expected, "{changes:?}");
        }
    }

    #[test]
    fn what_is_claimed_in_one_scope_is_laid_over_no_claim_of_another() {
        let hub = scoped();
        for change in [claim("north", "mine"), claim("south", "a"), claim("south", "b")] {
            hub.publish(EVENTS, std::slice::from_ref(&change), None);
        }
        let log = lock(&hub.core.log);
        let (_, record) = log.since(Sequence(2)).next().unwrap();
        let RecordKind::Change(change) = &record.kind else { panic!("a change") };
        assert_eq!(*change.object, *br#"{"id":7,"south":"b"}"#);
    }

    #[test]
    fn whose_an_object_is_ends_the_claims_of_these_scopes() {
        let hub = scoped();
        hub.publish(EVENTS, &[claim("north", "x"), claimed_deletion("south"), claimed_deletion("west")], None);
        hub.publish(EVENTS, &[Change::add(&json!({"id": 7})).unwrap().scope("south")], None);
        let of = |scope: &str, kind| (scope.to_owned(), kind);
        assert_eq!(replayed(&hub), [of("west", ChangeKind::Delete), of("south", ChangeKind::Add)]);
        assert!(hub.publish(EVENTS, &[claim("west", "x")], None).elsewhere, "it is known to be another's");
    }

    #[test]
    fn a_store_that_has_an_object_again_ends_what_is_claimed_of_its_deletion() {
        let hub = scoped();
        hub.publish(EVENTS, &[claim("north", "x"), claimed_deletion("south"), claimed_deletion("west")], None);
        let row = Change::update(&json!({"id": 7})).unwrap().scope("south");
        hub.snapshot(EVENTS, hub.core.log_end(), &Identity::new("page").with_scope("south"), &[row], &[]);
        let tombstones = lock(&hub.core.log).tombstones(EVENTS, Sequence(0)..Sequence(9)).count();
        assert_eq!(tombstones, 1, "that of the west");
    }

    #[test]
    fn what_a_claim_does_not_delete_takes_no_children_along() {
        let encoder =
            EntityEncoder { is_scoped: true, parent_keys: vec!["of".into()], ..EntityEncoder::new("events", "event") };
        let hub = hub(encoder);
        let of = |id: u32, parent: u32| Change::add(&json!({"id": id, "of": parent})).unwrap().scope("south");
        hub.publish(EVENTS, &[of(1, 0), of(2, 1)], None);
        let delete = |scope: &str| Change::delete(1).unwrap().claimed().scope(scope);
        assert_eq!(hub.publish(EVENTS, &[delete("north")], None).changes, 0);
        assert_eq!(hub.publish(EVENTS, &[delete("south")], None).changes, 2, "the child, and the object itself");
    }

    #[test]
    fn what_a_second_deletion_takes_along_is_read_from_the_store() {
        let parent_keys = vec!["of".into()];
        let hub = hub(EntityEncoder { parent_keys, has_snapshot: true, ..EntityEncoder::new("events", "event") });
        let of = |id: u32, parent: u32| Change::add(&json!({"id": id, "of": parent})).unwrap();
        let delete = || Change::delete(1).unwrap();
        let refreshes = |hub: &Hub| {
            let log = lock(&hub.core.log);
            log.since(Sequence(0)).filter(|(_, record)| matches!(record.kind, RecordKind::Refresh)).count()
        };
        hub.publish(EVENTS, &[of(1, 0), of(2, 1)], None);
        assert_eq!([(); 2].map(|()| hub.publish(EVENTS, &[delete()], None).changes), [2, 1]);
        assert_eq!(refreshes(&hub), 0);
        for id in [3, 4] {
            hub.publish(EVENTS, &[of(id, 1)], None);
            assert_eq!(hub.publish(EVENTS, &[delete()], None).changes, 2);
            assert_eq!(refreshes(&hub), id as usize - 2, "the child may be there still");
            assert_eq!(newest(&hub, &id.to_string()).0, ChangeKind::Delete);
            assert!(lock(&hub.core.log).tombstone(EVENTS, "1").is_some());
        }
    }

    #[test]
    fn exceptions_of_a_series_have_none_of_their_own() {
        for (widget, along) in [(Widget::Scheduler, ["2", ""]), (Widget::Any, ["3,2", "3"])] {
            let of = |id: u32, series: u32| Change::add(&json!({"id": id, "recurring_event_id": series})).unwrap();
            let gone = |id: u32| -> Vec<String> {
                let parent_keys = vec!["recurring_event_id".into()];
                let hub = hub(EntityEncoder { widget, parent_keys, ..EntityEncoder::new("events", "event") });
                hub.publish(EVENTS, &[of(1, 0), of(2, 1), of(3, 2)], None);
                hub.publish(EVENTS, &[Change::delete(id).unwrap()], None);
                let log = lock(&hub.core.log);
                let deleted: Vec<String> =
                    log.since(Sequence(3)).filter_map(|(_, record)| Some(record.object()?.id.to_string())).collect();
                assert_eq!(deleted.last(), Some(&id.to_string()), "itself behind the others");
                deleted[..deleted.len() - 1].to_vec()
            };
            assert_eq!([gone(1).join(","), gone(2).join(",")], along, "{widget:?}");
        }
    }

    #[test]
    fn a_claimed_deletion_reaches_only_the_scopes_that_had_the_object() {
        let hub = scoped();
        let delete = Change::delete(7).unwrap().claimed().scope("south").scope("west");
        let add = Change::add(&json!({"id": 7})).unwrap().scope("south").scope("north");
        hub.publish(EVENTS, &[add, delete], None);
        let log = lock(&hub.core.log);
        let (_, record, _) = log.newest_record(EVENTS, "7").unwrap();
        assert_eq!(record.scopes.to_string(), "north,south");
    }

    #[test]
    fn after_a_deletion_an_update_reaches_only_those_who_had_it() {
        let hub = scoped();
        let delete = Change::delete(7).unwrap().scope("south").scope("north");
        let claim = update(&json!({"id": 7})).claimed().scope("south").scope("west");
        hub.publish(EVENTS, &[delete, claim], None);
        let log = lock(&hub.core.log);
        let (_, record) = log.since(Sequence(1)).next().unwrap();
        assert!(matches!(record.kind, RecordKind::Unconfirmed(_)));
        assert_eq!(record.scopes.to_string(), "south");
    }

    fn large(key: &str) -> Value {
        json!({"id": 7, key: "x".repeat(LARGE)})
    }

    #[test]
    fn large_changes_of_one_object_are_put_together_as_small_ones_are() {
        let hub = hub(EntityEncoder::new("events", "event"));
        hub.publish(EVENTS, &[Change::add(&large("a")).unwrap(), update(&large("b")), update(&json!({"id": 7}))], None);
        hub.publish(EVENTS, &[update(&large("c"))], None);
        let (_, object, whole) = newest(&hub, "7");
        assert!(["a", "b", "c"].iter().all(|key| object[key] == "x".repeat(LARGE)) && whole);
    }

    #[test]
    fn large_changes_of_one_object_are_not_put_together_under_the_lock() {
        let hub = hub(EntityEncoder::new("events", "event"));
        let changes = [Change::add(&large("a")).unwrap(), update(&large("b")), Change::delete(8).unwrap()];
        let mut batch = Batch::of(&changes, Some(Sequence(0)).into());
        let mut log = lock(&hub.core.log);
        let done = [1, 3].map(|_| {
            let appender = Appender::new(&hub.core, EVENTS);
            for (at, basis) in appender.large(&log, &batch) {
                batch.encoded[at] = Some(appender.encode(&changes[at], basis));
            }
            appender.append(&mut log, &mut batch, true);
            batch.done
        });
        assert_eq!((done, log.end()), ([1, 3], Sequence(3)));
    }

    #[test]
    fn what_others_publish_between_parts_of_a_batch_is_newer_than_its_adds() {
        let hub = hub(EntityEncoder::new("events", "event"));
        let changes = [
            Change::add(&large("a")).unwrap(),
            update(&large("b")),
            Change::add(&json!({"id": 9, "text": "old"})).unwrap(),
        ];
        let mut batch = Batch::of(&changes, Some(Sequence(0)).into());
        Appender::new(&hub.core, EVENTS).append(&mut lock(&hub.core.log), &mut batch, false);
        assert_eq!(batch.done, 1);
        hub.publish(EVENTS, &[update(&json!({"id": 9, "text": "new"}))], None);
        Appender::new(&hub.core, EVENTS).append(&mut lock(&hub.core.log), &mut batch, false);
        assert_eq!((batch.done, newest(&hub, "9").1["text"].as_str()), (3, Some("new")));
    }

    #[test]
    fn large_changes_that_come_together_lose_nothing_of_each_other() {
        let hub = hub(EntityEncoder::new("events", "event"));
        hub.publish(EVENTS, &[Change::add(&json!({"id": 7})).unwrap()], None);
        let failed = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for key in 0..16 {
                let (hub, failed) = (&hub, &failed);
                scope.spawn(move || {
                    if hub.publish(EVENTS, &[update(&large(&key.to_string()))], None).changes != 1 {
                        lock(failed).push(key);
                    }
                });
            }
        });
        assert!(lock(&failed).is_empty());
        let (_, object, whole) = newest(&hub, "7");
        assert!((0..16).all(|key| object[key.to_string()].is_string()) && whole);
    }

    #[test]
    fn an_object_that_would_grow_too_large_is_known_in_part_only() {
        let hub = tests::hub_within(vec![EntityEncoder::new("events", "event")], 3 * LARGE);
        hub.publish(EVENTS, &[Change::add(&large("a")).unwrap(), update(&large("b"))], None);
        assert!(newest(&hub, "7").2, "so far");
        hub.publish(EVENTS, &[update(&large("c"))], None);
        let (_, object, whole) = newest(&hub, "7");
        assert!(object["c"].is_string() && object["a"].is_null() && !whole);
    }
}
