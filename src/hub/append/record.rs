//! From a change to its record.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    super::{
        encoder::LARGE,
        log::{Broadcast, Log, ObjectChange, PriorObject, PriorState, Record, RecordKind, Version},
    },
    batch::{Basis, Encoded},
    plan::Appender,
};
use crate::{
    change::{Before, Change, ChangeKind},
    object::Object,
    scope::Scopes,
    sequence::Sequence,
};

impl Appender<'_> {
    /// Merges a change with what is known of its object.
    pub(super) fn encode(&self, change: &Change, basis: Option<Basis>) -> Encoded {
        let merged = basis.as_ref().map(|basis| {
            let sent = Object::of(change.object()).unwrap_or_default();
            let known = Object::parse(&basis.object).unwrap_or_default();
            let merged = if basis.is_newer { sent.overlaid(known) } else { known.overlaid(sent) };
            (merged.to_json(), self.encoder.parents(&merged))
        });
        let is_cut = merged.as_ref().is_some_and(|(json, _)| json.len() > self.core.max_object_bytes);
        let (event, parents, place) = match merged {
            Some((json, parents)) if !is_cut => {
                (self.encoder.encode_change(change, &json), parents, self.encoder.place_of(&json))
            }
            _ => {
                let json = change.object();
                (self.encoder.encode_change(change, json), self.encoder.parents_in(json), self.encoder.place_of(json))
            }
        };
        let can_add = (event.object.len() >= LARGE).then(|| self.encoder.can_add(&event.object, true));
        Encoded { basis, event, parents, place, is_cut, can_add }
    }

    /// A deletion is published in the scopes that it names, and to those who have the object.
    pub(super) fn deleted(&self, log: &Log, key: &str, change: &Change) -> Record {
        let scopes = if self.encoder.is_scoped { change.scopes().clone() } else { Scopes::All };
        let known = log.known(self.entity, key).map(|(_, known)| known);
        let known = known.filter(|known| known.kind != ChangeKind::Delete);
        // What is large is not read while others wait for the log; to take it for an exception does no harm.
        let may_be_exception = match known {
            Some(known) if known.object.len() >= LARGE => self.encoder.may_be_exception(None),
            known => self.encoder.may_be_exception(known.map(|known| (&known.object[..], known.whole))),
        };
        let event = self.encoder.encode_delete(change.object(), may_be_exception);
        let deleted = self.object_change(log, key, change, event.object);
        let scopes = match &deleted.prior {
            // Pages that never had the object receive nothing of a request to delete it.
            PriorState::Known(version)
                if change.is_claimed
                    && !matches!(version.was, PriorObject::Doubtful)
                    && (scopes.is_none() || !scopes.common(&version.scopes).is_none()) =>
            {
                version.scopes.clone()
            }
            PriorState::Known(version) => scopes.and(&version.scopes),
            PriorState::Unknown | PriorState::Absent => scopes,
        };
        let deleted = ObjectChange { ever: deleted.prior.ever_and(&scopes), may_be_exception, ..deleted };
        Record {
            entity: self.entity,
            frame: event.frame,
            scopes,
            broadcast: Broadcast::ToAll,
            kind: RecordKind::Change(deleted),
        }
    }

    /// An add or update.
    pub(super) fn changed(
        &self,
        log: &Log,
        key: &str,
        change: &Change,
        encoded: Encoded,
        (scopes, whole): (Scopes, bool),
    ) -> Record {
        let changed = self.object_change(log, key, change, encoded.event.object);
        let parents = encoded.parents.iter().map(|parent| Arc::from(&*self.encoder.key(change.namespace(), parent)));
        let changed = ObjectChange {
            ever: changed.prior.ever_and(&scopes),
            whole: whole && !encoded.is_cut,
            is_only_added: is_add(change) && !change.is_rewritten,
            parents: parents.collect(),
            place: encoded.place,
            can_add: encoded.can_add,
            ..changed
        };
        Record {
            entity: self.entity,
            frame: encoded.event.frame,
            scopes,
            broadcast: Broadcast::ToAll,
            kind: RecordKind::Change(changed),
        }
    }

    /// What any change and the log hold of its object.
    fn object_change(&self, log: &Log, key: &str, change: &Change, object: Bytes) -> ObjectChange {
        let id: Arc<str> = change.id().into();
        ObjectChange {
            kind: change.kind(),
            prior: self.prior(log, key, change),
            is_claim: self.is_mere_claim(log, key, change),
            key: if *key == *id { id.clone() } else { key.into() },
            id,
            ever: Scopes::None,
            went_to: change.went_to.clone(),
            object,
            whole: true,
            is_only_added: false,
            added: None,
            parents: Box::default(),
            place: None,
            may_be_exception: false,
            can_add: None,
        }
    }

    /// What an object was before a change, where a recipient may need to know.
    pub(super) fn prior(&self, log: &Log, key: &str, change: &Change) -> PriorState {
        if !self.encoder.is_restricted() {
            return PriorState::Unknown;
        }
        let known = log.newest_record(self.entity, key);
        // With ids of its own, a scope that was left has had a deletion of its own: no page here has the object yet.
        let comes = self.encoder.scoped_ids && change.enters_namespace();
        let moved_from = if comes { &Scopes::None } else { change.former_scopes() };
        let scopes = match known {
            Some((_, record, _)) => record.scopes.and(moved_from),
            None if comes || !moved_from.is_none() => moved_from.clone(),
            None if self.encoder.is_scoped => change.scopes().clone(),
            None => Scopes::All,
        };
        // What was published before a refresh shows who may have the object, and not what it is.
        let is_sure = |at: Sequence| at >= log.refreshed(self.entity);
        let was = match (known, &change.before) {
            (Some((at, _, ObjectChange { kind: ChangeKind::Delete, .. })), _) if is_sure(at) => PriorObject::Gone,
            (Some((at, _, known)), _) if self.encoder.view.is_some() && is_sure(at) => {
                PriorObject::Object(known.object.clone())
            }
            (Some((at, ..)), _) if !is_sure(at) => PriorObject::Doubtful,
            (Some(_), _) => PriorObject::Something,
            (None, Before::Object(object)) => PriorObject::Object(Bytes::copy_from_slice(object.as_bytes())),
            (None, Before::Absent) => return PriorState::Absent,
            (None, Before::Unread) if comes || !moved_from.is_none() => PriorObject::Something,
            (None, Before::Unread) if change.kind() == ChangeKind::Add => return PriorState::Absent,
            (None, Before::Unread) => return PriorState::Unknown,
        };
        let ever = known.map_or_else(|| scopes.clone(), |(_, _, known)| known.ever.clone());
        PriorState::Known(Arc::new(Version { at: known.map(|(at, ..)| at), scopes, ever, was }))
    }

    /// The scopes of an object that was in others before, where those who get it now cannot be sent all of it.
    pub(super) fn moved_without_full_row(&self, record: &Record) -> Option<Scopes> {
        match &record.kind {
            RecordKind::Change(ObjectChange { whole: false, prior: PriorState::Known(version), kind, .. }) => {
                let came = *kind == ChangeKind::Update && self.encoder.is_scoped && record.scopes != version.scopes;
                (came && !self.encoder.is_plain).then(|| record.scopes.clone())
            }
            _ => None,
        }
    }
}

pub(super) fn is_add(change: &Change) -> bool {
    change.kind() == ChangeKind::Add
}
