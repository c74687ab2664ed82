//! From a change to a record: under one lock, but for what is large.
//!
//! An object may have a megabyte and a hundred thousand fields. It is read, merged with what is known of it, and encoded
//! while nobody waits for the log; then it is looked whether what it was merged with is still the newest.

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use tokio::time::Instant;

use crate::{
    change::{Before, Change, ChangeKind},
    hub::{
        Delivery, EntityIndex, Hub, Published,
        batch::{Basis, Batch, Encoded, LARGE, Meanwhile},
        log::{Former, Log, Matter, Record, State, Subject, Was},
        voice::{key_within, keys_within},
    },
    lock::lock,
    object::Object,
    observe::audit,
    scope::Scopes,
};

/// So often is a large change encoded anew because its object has changed meanwhile.
const ATTEMPTS: usize = 8;

/// What is to be done with a change.
enum Plan {
    /// There is nothing to tell of it.
    Nothing,
    /// A request claims to have changed what is in other scopes.
    Elsewhere,
    Delete,
    /// An update of what is deleted, as far as anybody knows: for these scopes.
    Unconfirmed(Scopes),
    Changed {
        basis: Basis,
        scopes: Scopes,
        whole: bool,
    },
}

impl Plan {
    fn basis(&self) -> Option<&Basis> {
        match self {
            Self::Nothing | Self::Elsewhere | Self::Delete => None,
            Self::Unconfirmed(_) => Some(&Basis::Alone),
            Self::Changed { basis, .. } => Some(basis),
        }
    }
}

impl Hub {
    /// Tells changes, in this order and with nothing in between. Only where several large ones are of one object may
    /// others come in between.
    ///
    /// `began` is where the log stood when the write that made an add began: an object that was told since then is
    /// newer than the add. Its newest state goes out instead, or nothing where it was added or deleted since.
    pub(crate) fn publish(&self, entity: EntityIndex, changes: &[Change], began: Option<u64>) -> Published {
        let mut batch = Batch::of(changes, began);
        let mut attempts = 0;
        while batch.told < changes.len() {
            let mut log = lock(&self.log);
            let (told, waits) = (batch.told, attempts < ATTEMPTS);
            // Of several changes none is told before all that can be read are.
            let is_batch = waits && changes.len() > 1;
            let mut large = if is_batch { self.large(&log, entity, &batch) } else { Vec::new() };
            if large.is_empty() {
                large.extend(self.append(&mut log, entity, &mut batch, waits));
            }
            drop(log);
            attempts = if batch.told > told { 0 } else { attempts + 1 };
            for (at, basis) in large {
                batch.encoded[at] = Some(self.encode(entity, &changes[at], basis));
            }
        }
        let Batch { announced, published, .. } = batch;
        self.wake();
        if changes.iter().any(|change| change.kind() == ChangeKind::Delete) {
            self.settler.news.notify_one();
        }
        for (at, scopes) in announced {
            let change: &Change = &changes[at];
            let recipients = self.audience(entity, &scopes);
            audit::published(&self.voice(entity).entity, change.id(), change.kind().verb(), &scopes, recipients);
        }
        published
    }

    /// The changes that are too large to be encoded while others wait for the log, and are not encoded yet as it stands.
    fn large(&self, log: &Log, entity: EntityIndex, batch: &Batch<'_>) -> Vec<(usize, Basis)> {
        let meanwhile = batch.meanwhile(log.head());
        let large = (batch.told..batch.changes.len()).filter_map(|at| {
            let change = &batch.changes[at];
            let key = self.key_of(log, entity, change);
            let plan = self.plan(log, entity, &key, change, meanwhile);
            let basis = plan.basis().filter(|basis| batch.is_unread(at, basis))?;
            Some((at, basis.clone()))
        });
        large.collect()
    }

    /// Tells as many changes of a batch as are ready; which comes next, and is too large to be encoded here. Unless it
    /// `waits`, it tells one at least.
    fn append(&self, log: &mut Log, entity: EntityIndex, batch: &mut Batch<'_>, waits: bool) -> Option<(usize, Basis)> {
        let (first, head, now) = (batch.told, log.head(), Instant::now());
        let mut unread = None;
        for (at, change) in batch.changes.iter().enumerate().skip(first) {
            let key = self.key_of(log, entity, change);
            let plan = self.plan(log, entity, &key, change, batch.meanwhile(head));
            if let Some(basis) = plan.basis().filter(|basis| (waits || at > first) && batch.is_unread(at, basis)) {
                unread = Some((at, basis.clone()));
                break;
            }
            batch.told = at + 1;
            let mut event = |basis: &Basis| {
                let ready = batch.encoded[at].take().filter(|encoded| encoded.basis.is_same(basis));
                ready.unwrap_or_else(|| self.encode(entity, change, basis.clone()))
            };
            let record = match plan {
                Plan::Nothing => continue,
                Plan::Elsewhere => {
                    batch.published.elsewhere = true;
                    continue;
                }
                Plan::Delete => self.deleted(log, entity, &key, change),
                Plan::Unconfirmed(scopes) => {
                    let matter = Matter::Unconfirmed(change.id().into());
                    Record { entity, frame: event(&Basis::Alone).event.frame, scopes, matter }
                }
                Plan::Changed { basis, scopes, whole } => {
                    let encoded = event(&basis);
                    let whole = whole && !encoded.is_cut;
                    self.changed(log, entity, &key, change, encoded, scopes, whole)
                }
            };
            let came = self.came_in_part(&record);
            if self.is_audited() {
                batch.announced.push((at, record.scopes.clone()));
            }
            self.end_claims(log, &record);
            log.append(now, record);
            batch.published.changes += 1;
            if let Some(scopes) = came {
                if !self.voice(entity).has_snapshot {
                    let (entity, frame, scopes) = (self.resync, self.resync_message(entity), scopes.clone());
                    log.append(now, Record { entity, frame, scopes, matter: Matter::Message });
                }
                let frame = self.voice(entity).resync_marker();
                log.append(now, Record { entity, frame, scopes, matter: Matter::Refresh });
            }
        }
        batch.parts.push(head..log.head());
        if log.head() > head {
            // To who could not see it before, any change may add an object.
            let has_added = self.voice(entity).is_choosy() || batch.changes[first..batch.told].iter().any(is_add);
            let is_of = |key: &str| log.since(head).any(|(_, record)| record.is_of(key));
            lock(&self.settles)[usize::from(entity.0)].told(now, log.head(), has_added, is_of);
        }
        unread
    }

    /// What the log knows the object of a change by. Where nobody has shown whose object it is, those of disjoint scopes
    /// that claim to have changed it may each mean one of their own: no claim hides what was told elsewhere.
    pub(super) fn key_of<'c>(&self, log: &Log, entity: EntityIndex, change: &'c Change) -> Cow<'c, str> {
        let voice = self.voice(entity);
        let key = voice.key(change.namespace(), change.id());
        if !self.may_be_mere_claim(entity, change) || change.scopes().is_none() {
            return key;
        }
        let is_disjoint = |known: &Scopes| change.scopes().common(known).is_none();
        match log.said_of(entity, &key) {
            Some((_, false)) => key,
            Some((known, true)) if is_disjoint(known) => Cow::Owned(key_within(change.scopes(), change.id())),
            _ => {
                let apart = log.has_claims_apart(entity).then(|| key_within(change.scopes(), change.id()));
                match apart.filter(|apart| log.said_of(entity, apart).is_some()) {
                    Some(apart) => Cow::Owned(apart),
                    None => key,
                }
            }
        }
    }

    /// What shows whose an object is ends what was only claimed of it in these scopes.
    fn end_claims(&self, log: &mut Log, record: &Record) {
        let Matter::Change(subject) = &record.matter else { return };
        if !subject.is_claim && log.has_claims_apart(record.entity) {
            for key in keys_within(&record.scopes, &subject.id) {
                log.forget(record.entity, &key);
            }
        }
    }

    /// What a change comes to, by what the log knows of its object.
    fn plan(
        &self,
        log: &Log,
        entity: EntityIndex,
        key: &str,
        change: &Change,
        meanwhile: Option<Meanwhile<'_>>,
    ) -> Plan {
        let voice = self.voice(entity);
        let scopes = if voice.is_scoped { change.scopes().clone() } else { Scopes::All };
        if self.is_elsewhere(log, entity, key, change) {
            return Plan::Elsewhere;
        }
        if change.kind() == ChangeKind::Delete {
            return Plan::Delete;
        }
        if self.delivery == Delivery::Plain {
            return self.plan_add(log, entity, key, change, meanwhile).unwrap_or(Plan::Changed {
                basis: Basis::Alone,
                scopes,
                whole: false,
            });
        }
        if let Some(plan) = self.plan_add(log, entity, key, change, meanwhile) {
            return plan;
        }
        let known = log.known(entity, key).filter(|(_, subject)| subject.kind != ChangeKind::Delete);
        if known.is_none() && self.is_unconfirmed(log, entity, key, change) {
            // To who may have had it; and nobody can be asked who may see it.
            let had = log.tombstone(entity, key).map_or(Scopes::None, |(_, tombstone)| tombstone.scopes.clone());
            let scopes = if voice.is_scoped { scopes.common(&had) } else { scopes };
            let is_nobodys = scopes.is_none() || voice.view.is_some();
            return if is_nobodys { Plan::Nothing } else { Plan::Unconfirmed(scopes) };
        }
        match known {
            Some((sequence, known)) if change.kind() == ChangeKind::Update && !change.is_whole() => {
                let basis = Basis::Over { sequence, object: known.object.clone() };
                Plan::Changed { basis, scopes, whole: known.whole }
            }
            _ => {
                let whole = change.kind() == ChangeKind::Add || change.is_whole();
                Plan::Changed { basis: Basis::Alone, scopes, whole }
            }
        }
    }

    /// The same of an add whose object was told while its write was on its way.
    fn plan_add(
        &self,
        log: &Log,
        entity: EntityIndex,
        key: &str,
        change: &Change,
        meanwhile: Option<Meanwhile<'_>>,
    ) -> Option<Plan> {
        let meanwhile = meanwhile.filter(|_| change.kind() == ChangeKind::Add)?;
        let (sequence, newer, subject) = log.newest_record(entity, key).filter(|(at, ..)| meanwhile.contains(*at))?;
        // What was told elsewhere is nothing to it.
        if self.voice(entity).is_scoped && newer.scopes != *change.scopes() {
            return None;
        }
        match subject {
            // The id of an object that was deleted meanwhile has been given to this one.
            Subject { kind: ChangeKind::Delete, added: Some(added), .. } if *added < meanwhile.began => None,
            Subject { kind: ChangeKind::Add | ChangeKind::Delete, .. } => Some(Plan::Nothing),
            // An update may leave fields out that pages need of an add.
            Subject { object, .. } => {
                let basis = Basis::Under { sequence, object: object.clone() };
                Some(Plan::Changed { basis, scopes: newer.scopes.clone(), whole: true })
            }
        }
    }

    /// Puts a change together with what is known of its object.
    fn encode(&self, entity: EntityIndex, change: &Change, basis: Basis) -> Encoded {
        let voice = self.voice(entity);
        let sent = || Object::of(change.object()).unwrap_or_default();
        let merged = match &basis {
            Basis::Alone => None,
            Basis::Over { object, .. } => Some(Object::parse(object).unwrap_or_default().overlaid(sent())),
            Basis::Under { object, .. } => Some(sent().overlaid(Object::parse(object).unwrap_or_default())),
        };
        let merged = merged.map(|object| (object.to_json(), voice.parent(&object)));
        let is_cut = merged.as_ref().is_some_and(|(json, _)| json.len() > self.max_object_bytes);
        let (event, parent) = match &merged {
            Some((json, parent)) if !is_cut => (voice.plainly(change.kind(), json), parent.clone()),
            _ => (voice.plainly(change.kind(), change.object()), voice.parent_in(change.object())),
        };
        let can_add = (event.object.len() >= LARGE).then(|| voice.can_add(&event.object, true));
        Encoded { basis, event, parent, is_cut, can_add }
    }

    /// Whether a request claims to have changed, in its scopes, an object that the log knows in others. An object does not
    /// move to another scope by itself: the application says so, or the store shows it there.
    pub(super) fn is_elsewhere(&self, log: &Log, entity: EntityIndex, key: &str, change: &Change) -> bool {
        let voice = self.voice(entity);
        let may_be = voice.is_scoped && !voice.has_own_ids && change.is_claimed();
        // A deletion without a scope is for those who have the object.
        let is_told_where = !change.scopes().is_none() && change.former_scopes().is_none();
        if !may_be || change.kind() == ChangeKind::Add || !is_told_where {
            return false;
        }
        // What was itself only claimed says nothing of whose the object is.
        log.said_of(entity, key).is_some_and(|(known, is_claim)| !is_claim && change.scopes().common(known).is_none())
    }

    /// Whether this is an update of an object that the log knows to be deleted, and nothing shows that it is there again:
    /// most back ends answer an update of a row that is gone with 200.
    fn is_unconfirmed(&self, log: &Log, entity: EntityIndex, key: &str, change: &Change) -> bool {
        let is_update = change.kind() == ChangeKind::Update && self.delivery == Delivery::Converging;
        let tombstone = is_update.then(|| log.tombstone(entity, key)).flatten();
        tombstone.is_some_and(|(deleted, tombstone)| {
            let is_others = tombstone.is_claim && change.scopes().common(&tombstone.scopes).is_none();
            !is_others && !change.is_read_behind(deleted)
        })
    }

    /// The scopes of an object that was in others before, where those who get it now cannot be told all of it.
    fn came_in_part(&self, record: &Record) -> Option<Scopes> {
        let Matter::Change(Subject { kind: ChangeKind::Update, whole: false, former: Former::Known(state), .. }) =
            &record.matter
        else {
            return None;
        };
        let came = self.voice(record.entity).is_scoped && record.scopes != state.scopes;
        (came && self.delivery == Delivery::Converging).then(|| record.scopes.clone())
    }

    /// A deletion is told where it is said to be told, and to those who have the object.
    fn deleted(&self, log: &Log, entity: EntityIndex, key: &str, change: &Change) -> Record {
        let voice = self.voice(entity);
        let scopes = if voice.is_scoped { change.scopes().clone() } else { Scopes::All };
        let known = log.known(entity, key).map(|(_, subject)| subject);
        let known = known.filter(|subject| subject.kind != ChangeKind::Delete);
        let (may_be_exception, said) = match self.delivery {
            Delivery::Plain => (false, voice.plainly(ChangeKind::Delete, change.object())),
            Delivery::Converging => {
                // What is large is not read while others wait for the log; to take it for an exception does no harm.
                let known = known.map(|subject| (&subject.object[..], subject.whole && subject.object.len() < LARGE));
                let may_be_exception = match known {
                    Some((object, _)) if object.len() >= LARGE => voice.may_be_exception(None),
                    known => voice.may_be_exception(known),
                };
                (may_be_exception, voice.gone(change.object(), may_be_exception))
            }
        };
        let is_claim = self.is_mere_claim(log, entity, key, change);
        let key = Arc::from(key);
        let mut subject = Subject {
            kind: ChangeKind::Delete,
            id: change.id().into(),
            former: self.former(log, entity, &key, change),
            key,
            ever: Scopes::None,
            went_to: change.went_to().clone(),
            object: said.object,
            whole: true,
            is_only_added: false,
            added: None,
            parent: None,
            may_be_exception,
            is_claim,
            can_add: None,
        };
        if subject.id == subject.key {
            subject.key = subject.id.clone();
        }
        let scopes = match &subject.former {
            // Who never had it learns nothing by somebody's wish to delete it.
            Former::Known(state)
                if change.is_claimed()
                    && !matches!(state.was, Was::Doubtful)
                    && (scopes.is_none() || !scopes.common(&state.scopes).is_none()) =>
            {
                state.scopes.clone()
            }
            Former::Known(state) => scopes.and(&state.scopes),
            Former::Unknown | Former::Absent => scopes,
        };
        subject.ever = subject.former.ever_and(&scopes);
        Record { entity, frame: said.frame, scopes, matter: Matter::Change(subject) }
    }

    /// An add or update.
    #[allow(clippy::too_many_arguments, reason = "one step of what is above")]
    fn changed(
        &self,
        log: &Log,
        entity: EntityIndex,
        key: &str,
        change: &Change,
        encoded: Encoded,
        scopes: Scopes,
        whole: bool,
    ) -> Record {
        let voice = self.voice(entity);
        let parent = encoded.parent.map(|parent| Arc::from(&*voice.key(change.namespace(), &parent)));
        let is_claim = self.is_mere_claim(log, entity, key, change);
        let id: Arc<str> = change.id().into();
        let key = if *key == *id { id.clone() } else { Arc::from(key) };
        let former = self.former(log, entity, &key, change);
        let subject = Subject {
            kind: change.kind(),
            ever: former.ever_and(&scopes),
            went_to: Scopes::None,
            former,
            id,
            key,
            object: encoded.event.object,
            whole,
            is_only_added: is_add(change) && !change.is_rewritten(),
            added: None,
            parent,
            may_be_exception: false,
            is_claim,
            can_add: encoded.can_add,
        };
        Record { entity, frame: encoded.event.frame, scopes, matter: Matter::Change(subject) }
    }

    /// Whether nothing but this claim, and claims before it, says that its object is one of the change's scopes.
    fn is_mere_claim(&self, log: &Log, entity: EntityIndex, key: &str, change: &Change) -> bool {
        self.may_be_mere_claim(entity, change) && log.said_of(entity, key).is_none_or(|(_, is_claim)| is_claim)
    }

    /// Whether a change is a request's word alone, where that says nothing of whose its object is.
    fn may_be_mere_claim(&self, entity: EntityIndex, change: &Change) -> bool {
        let voice = self.voice(entity);
        let is_claim = change.is_claimed() && change.kind() != ChangeKind::Add && change.former_scopes().is_none();
        voice.is_scoped && !voice.has_own_ids && is_claim
    }

    /// What an object was before a change, where somebody may want to know.
    fn former(&self, log: &Log, entity: EntityIndex, key: &str, change: &Change) -> Former {
        let voice = self.voice(entity);
        if !voice.is_choosy() {
            return Former::Unknown;
        }
        let known = log.newest_record(entity, key);
        // With ids of its own, a scope that was left has had a deletion of its own: nobody here has the object yet.
        let comes = voice.has_own_ids && change.enters_namespace();
        let moved_from = if comes { &Scopes::None } else { change.former_scopes() };
        let scopes = match known {
            Some((_, record, _)) => record.scopes.and(moved_from),
            None if comes || !moved_from.is_none() => moved_from.clone(),
            None if voice.is_scoped => change.scopes().clone(),
            None => Scopes::All,
        };
        // What was told before a refresh says who may have the object, and not what it is.
        let is_sure = |at: u64| at >= log.refreshed(entity);
        let was = match (known, change.before()) {
            (Some((at, _, Subject { kind: ChangeKind::Delete, .. })), _) if is_sure(at) => Was::Gone,
            (Some((at, _, subject)), _) if voice.view.is_some() && is_sure(at) => Was::Object(subject.object.clone()),
            (Some((at, ..)), _) if !is_sure(at) => Was::Doubtful,
            (Some(_), _) => Was::Something,
            (None, Before::Object(object)) => Was::Object(Bytes::copy_from_slice(object.as_bytes())),
            (None, Before::Absent) => return Former::Absent,
            (None, Before::Unread) if comes || !moved_from.is_none() => Was::Something,
            (None, Before::Unread) if change.kind() == ChangeKind::Add => return Former::Absent,
            (None, Before::Unread) => return Former::Unknown,
        };
        let ever = known.map_or_else(|| scopes.clone(), |(_, _, subject)| subject.ever.clone());
        Former::Known(Arc::new(State { at: known.map(|(at, ..)| at), scopes, ever, was }))
    }
}

fn is_add(change: &Change) -> bool {
    change.kind() == ChangeKind::Add
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use serde_json::{Value, json};

    use super::*;
    use crate::{
        auth::Identity,
        entity::Widget,
        hub::{Voice, tests::hub_of},
    };

    const EVENTS: EntityIndex = EntityIndex(0);

    fn hub(voice: Voice) -> Arc<Hub> {
        hub_of(vec![voice], 1000, Delivery::Converging)
    }

    fn update(object: &Value) -> Change {
        Change::update(object).unwrap()
    }

    fn newest(hub: &Hub, id: &str) -> (ChangeKind, Value, bool) {
        let log = lock(&hub.log);
        let (_, subject) = log.newest(EVENTS, id).unwrap();
        (subject.kind, serde_json::from_slice(&subject.object).unwrap(), subject.whole)
    }

    #[test]
    fn after_a_deletion_an_update_needs_proof() {
        let row = json!({"id": 7, "text": "x"});
        for (change, is_there) in [
            (update(&row), false),
            (update(&row).claimed(), false),
            (update(&row).whole(), true),
            (update(&row).whole().read_at(2), true),
            (update(&row).whole().read_at(1), false),
            (Change::add(&row).unwrap().claimed(), true),
        ] {
            let hub = hub(Voice::new("events", "event"));
            hub.publish(EVENTS, &[Change::add(&row).unwrap(), Change::delete(7).unwrap()], None);
            let published = hub.publish(EVENTS, std::slice::from_ref(&change), None);
            assert_eq!(
                published,
                Published { changes: 1, elsewhere: false },
                "{change:?}: it is broadcast all the same"
            );
            assert_eq!(newest(&hub, "7").0 != ChangeKind::Delete, is_there, "{change:?}");
            assert_eq!(lock(&hub.log).tombstone(EVENTS, "7").is_none(), is_there, "{change:?}");
        }
    }

    #[test]
    fn what_was_deleted_before_a_refresh_may_be_there_again() {
        let hub = hub(Voice::new("events", "event"));
        hub.publish(EVENTS, &[Change::delete(7).unwrap()], None);
        hub.refresh(EVENTS);
        hub.publish(EVENTS, &[update(&json!({"id": 7}))], None);
        assert_eq!(newest(&hub, "7").0, ChangeKind::Update);
    }

    fn scoped() -> Arc<Hub> {
        hub(Voice { is_scoped: true, ..Voice::new("events", "event") })
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
            assert_eq!(lock(&hub.log).head(), 1 + u64::from(published), "{change:?}");
        }
    }

    #[test]
    fn a_deletion_without_a_scope_is_for_those_who_have_the_object() {
        let hub = scoped();
        let add = Change::add(&json!({"id": 7})).unwrap().scope("south");
        let published = hub.publish(EVENTS, &[add, Change::delete(7).unwrap().claimed()], None);
        assert_eq!(published, Published { changes: 2, elsewhere: false });
        let log = lock(&hub.log);
        assert_eq!(log.newest_record(EVENTS, "7").unwrap().1.scopes.to_string(), "south");
    }

    fn claim(scope: &str, text: &str) -> Change {
        update(&json!({"id": 7, scope: text})).claimed().scope(scope)
    }

    fn claimed_deletion(scope: &str) -> Change {
        Change::delete(7).unwrap().claimed().scope(scope)
    }

    /// What a page of these scopes that comes back is told of an object: its newest states, and who hears of each.
    fn replayed(hub: &Hub) -> Vec<(String, ChangeKind)> {
        let log = lock(&hub.log);
        let newest = log.newest_of(EVENTS).map(|(at, record, subject)| (at, record.scopes.to_string(), subject.kind));
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
                assert_eq!(published, Published { changes: 1, elsewhere: false }, "{changes:?}");
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
        let log = lock(&hub.log);
        let (_, record) = log.since(2).next().unwrap();
        let Matter::Change(subject) = &record.matter else { panic!("a change") };
        assert_eq!(*subject.object, *br#"{"id":7,"south":"b"}"#);
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
        hub.snapshot(EVENTS, hub.head(), &Identity::new("page").with_scope("south"), &[row], &[]);
        let tombstones = lock(&hub.log).tombstones(EVENTS, 0..9).count();
        assert_eq!(tombstones, 1, "that of the west");
    }

    #[test]
    fn what_a_claim_does_not_delete_takes_no_children_along() {
        let voice = Voice { is_scoped: true, parent_key: Some("of".into()), ..Voice::new("events", "event") };
        let hub = hub(voice);
        let of = |id: u32, parent: u32| Change::add(&json!({"id": id, "of": parent})).unwrap().scope("south");
        hub.publish(EVENTS, &[of(1, 0), of(2, 1)], None);
        let delete = |scope: &str| Change::delete(1).unwrap().claimed().scope(scope);
        assert_eq!(hub.descendants(EVENTS, &delete("south")).len(), 1);
        assert!(hub.descendants(EVENTS, &delete("north")).is_empty());
    }

    #[test]
    fn exceptions_of_a_series_have_none_of_their_own() {
        for (widget, along) in [(Widget::Scheduler, ["2", ""]), (Widget::Any, ["3,2", "3"])] {
            let parent_key = Some("recurring_event_id".into());
            let hub = hub(Voice { widget, parent_key, ..Voice::new("events", "event") });
            let of = |id: u32, series: u32| Change::add(&json!({"id": id, "recurring_event_id": series})).unwrap();
            hub.publish(EVENTS, &[of(1, 0), of(2, 1), of(3, 2)], None);
            let gone = |id: u32| -> Vec<String> {
                let gone = hub.descendants(EVENTS, &Change::delete(id).unwrap());
                gone.iter().map(|change| change.id().to_owned()).collect()
            };
            assert_eq!([gone(1).join(","), gone(2).join(",")], along, "{widget:?}");
        }
    }

    #[test]
    fn what_somebody_wants_deleted_is_news_only_to_those_who_had_it() {
        let hub = scoped();
        let delete = Change::delete(7).unwrap().claimed().scope("south").scope("west");
        let add = Change::add(&json!({"id": 7})).unwrap().scope("south").scope("north");
        hub.publish(EVENTS, &[add, delete], None);
        let log = lock(&hub.log);
        let (_, record, _) = log.newest_record(EVENTS, "7").unwrap();
        assert_eq!(record.scopes.to_string(), "north,south");
    }

    #[test]
    fn after_a_deletion_an_update_reaches_only_those_who_had_it() {
        let hub = scoped();
        let delete = Change::delete(7).unwrap().scope("south").scope("north");
        let claim = update(&json!({"id": 7})).claimed().scope("south").scope("west");
        hub.publish(EVENTS, &[delete, claim], None);
        let log = lock(&hub.log);
        let (_, record) = log.since(1).next().unwrap();
        assert!(matches!(record.matter, Matter::Unconfirmed(_)));
        assert_eq!(record.scopes.to_string(), "south");
    }

    fn large(key: &str) -> Value {
        json!({"id": 7, key: "x".repeat(LARGE)})
    }

    #[test]
    fn large_changes_of_one_object_are_put_together_as_small_ones_are() {
        let hub = hub(Voice::new("events", "event"));
        hub.publish(EVENTS, &[Change::add(&large("a")).unwrap(), update(&large("b")), update(&json!({"id": 7}))], None);
        hub.publish(EVENTS, &[update(&large("c"))], None);
        let (_, object, whole) = newest(&hub, "7");
        assert!(["a", "b", "c"].iter().all(|key| object[key] == "x".repeat(LARGE)) && whole);
    }

    #[test]
    fn large_changes_of_one_object_are_not_put_together_under_the_lock() {
        let hub = hub(Voice::new("events", "event"));
        let changes = [Change::add(&large("a")).unwrap(), update(&large("b")), Change::delete(8).unwrap()];
        let mut batch = Batch::of(&changes, Some(0));
        let mut log = lock(&hub.log);
        let told = [1, 3].map(|_| {
            for (at, basis) in hub.large(&log, EVENTS, &batch) {
                batch.encoded[at] = Some(hub.encode(EVENTS, &changes[at], basis));
            }
            hub.append(&mut log, EVENTS, &mut batch, true);
            batch.told
        });
        assert_eq!((told, log.head()), ([1, 3], 3));
    }

    #[test]
    fn what_others_tell_between_parts_of_a_batch_is_newer_than_its_adds() {
        let hub = hub(Voice::new("events", "event"));
        let changes = [
            Change::add(&large("a")).unwrap(),
            update(&large("b")),
            Change::add(&json!({"id": 9, "text": "old"})).unwrap(),
        ];
        let mut batch = Batch::of(&changes, Some(0));
        hub.append(&mut lock(&hub.log), EVENTS, &mut batch, false);
        assert_eq!(batch.told, 1);
        hub.publish(EVENTS, &[update(&json!({"id": 9, "text": "new"}))], None);
        hub.append(&mut lock(&hub.log), EVENTS, &mut batch, false);
        assert_eq!((batch.told, newest(&hub, "9").1["text"].as_str()), (3, Some("new")));
    }

    #[test]
    fn large_changes_that_come_together_lose_nothing_of_each_other() {
        let hub = hub(Voice::new("events", "event"));
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
        let mut hub = hub(Voice::new("events", "event"));
        Arc::get_mut(&mut hub).unwrap().max_object_bytes = 3 * LARGE;
        hub.publish(EVENTS, &[Change::add(&large("a")).unwrap(), update(&large("b"))], None);
        assert!(newest(&hub, "7").2, "so far");
        hub.publish(EVENTS, &[update(&large("c"))], None);
        let (_, object, whole) = newest(&hub, "7");
        assert!(object["c"].is_string() && object["a"].is_null() && !whole);
    }
}
