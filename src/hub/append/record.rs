//! From a change to its record.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    super::{
        core::Delivery,
        encoder::LARGE,
        log::{Log, ObjectChange, PriorState, Record, RecordKind, Version, Was},
    },
    batch::{Basis, Encoded},
    plan::Appender,
};
use crate::{
    change::{Before, Change, ChangeKind},
    object::Object,
    scope::Scopes,
};

impl Appender<'_> {
    /// Puts a change together with what is known of its object.
    pub(super) fn encode(&self, change: &Change, basis: Basis) -> Encoded {
        let sent = || Object::of(change.object()).unwrap_or_default();
        let merged = match &basis {
            Basis::Alone => None,
            Basis::Over { object, .. } => Some(Object::parse(object).unwrap_or_default().overlaid(sent())),
            Basis::Under { object, .. } => Some(sent().overlaid(Object::parse(object).unwrap_or_default())),
        };
        let merged = merged.map(|object| (object.to_json(), self.encoder.parent(&object)));
        let is_cut = merged.as_ref().is_some_and(|(json, _)| json.len() > self.core.max_object_bytes);
        let (event, parent) = match &merged {
            Some((json, parent)) if !is_cut => (self.encoder.encode(change.kind(), json), parent.clone()),
            _ => (self.encoder.encode(change.kind(), change.object()), self.encoder.parent_in(change.object())),
        };
        let can_add = (event.object.len() >= LARGE).then(|| self.encoder.can_add(&event.object, true));
        Encoded { basis, event, parent, is_cut, can_add }
    }

    /// A deletion is told where it is said to be told, and to those who have the object.
    pub(super) fn deleted(&self, log: &Log, key: &str, change: &Change) -> Record {
        let scopes = if self.encoder.is_scoped { change.scopes().clone() } else { Scopes::All };
        let known = log.known(self.entity, key).map(|(_, subject)| subject);
        let known = known.filter(|subject| subject.kind != ChangeKind::Delete);
        // What is large is not read while others wait for the log; to take it for an exception does no harm.
        let may_be_exception = match known {
            Some(known) if known.object.len() >= LARGE => self.encoder.may_be_exception(None),
            known => self.encoder.may_be_exception(known.map(|known| (&known.object[..], known.whole))),
        };
        let event = self.encoder.encode_delete(change.object(), may_be_exception);
        let is_claim = self.is_mere_claim(log, key, change);
        let key = Arc::from(key);
        let mut subject = ObjectChange {
            kind: ChangeKind::Delete,
            id: change.id().into(),
            prior: self.prior(log, &key, change),
            key,
            ever: Scopes::None,
            went_to: change.went_to.clone(),
            object: event.object,
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
        let scopes = match &subject.prior {
            // Who never had it learns nothing by somebody's wish to delete it.
            PriorState::Known(state)
                if change.is_claimed
                    && !matches!(state.was, Was::Doubtful)
                    && (scopes.is_none() || !scopes.common(&state.scopes).is_none()) =>
            {
                state.scopes.clone()
            }
            PriorState::Known(state) => scopes.and(&state.scopes),
            PriorState::Unknown | PriorState::Absent => scopes,
        };
        subject.ever = subject.prior.ever_and(&scopes);
        Record { entity: self.entity, frame: event.frame, scopes, kind: RecordKind::Change(subject) }
    }

    /// An add or update.
    #[allow(clippy::too_many_arguments, reason = "one step of what is above")]
    pub(super) fn changed(
        &self,
        log: &Log,
        key: &str,
        change: &Change,
        encoded: Encoded,
        scopes: Scopes,
        whole: bool,
    ) -> Record {
        let parent = encoded.parent.map(|parent| Arc::from(&*self.encoder.key(change.namespace(), &parent)));
        let is_claim = self.is_mere_claim(log, key, change);
        let id: Arc<str> = change.id().into();
        let key = if *key == *id { id.clone() } else { Arc::from(key) };
        let prior = self.prior(log, &key, change);
        let subject = ObjectChange {
            kind: change.kind(),
            ever: prior.ever_and(&scopes),
            went_to: Scopes::None,
            prior,
            id,
            key,
            object: encoded.event.object,
            whole,
            is_only_added: is_add(change) && !change.is_rewritten,
            added: None,
            parent,
            may_be_exception: false,
            is_claim,
            can_add: encoded.can_add,
        };
        Record { entity: self.entity, frame: encoded.event.frame, scopes, kind: RecordKind::Change(subject) }
    }

    /// What an object was before a change, where somebody may want to know.
    pub(super) fn prior(&self, log: &Log, key: &str, change: &Change) -> PriorState {
        if !self.encoder.is_restricted() {
            return PriorState::Unknown;
        }
        let known = log.newest_record(self.entity, key);
        // With ids of its own, a scope that was left has had a deletion of its own: nobody here has the object yet.
        let comes = self.encoder.scoped_ids && change.enters_namespace();
        let moved_from = if comes { &Scopes::None } else { change.former_scopes() };
        let scopes = match known {
            Some((_, record, _)) => record.scopes.and(moved_from),
            None if comes || !moved_from.is_none() => moved_from.clone(),
            None if self.encoder.is_scoped => change.scopes().clone(),
            None => Scopes::All,
        };
        // What was told before a refresh says who may have the object, and not what it is.
        let is_sure = |at: u64| at >= log.refreshed(self.entity);
        let was = match (known, &change.before) {
            (Some((at, _, ObjectChange { kind: ChangeKind::Delete, .. })), _) if is_sure(at) => Was::Gone,
            (Some((at, _, subject)), _) if self.encoder.view.is_some() && is_sure(at) => {
                Was::Object(subject.object.clone())
            }
            (Some((at, ..)), _) if !is_sure(at) => Was::Doubtful,
            (Some(_), _) => Was::Something,
            (None, Before::Object(object)) => Was::Object(Bytes::copy_from_slice(object.as_bytes())),
            (None, Before::Absent) => return PriorState::Absent,
            (None, Before::Unread) if comes || !moved_from.is_none() => Was::Something,
            (None, Before::Unread) if change.kind() == ChangeKind::Add => return PriorState::Absent,
            (None, Before::Unread) => return PriorState::Unknown,
        };
        let ever = known.map_or_else(|| scopes.clone(), |(_, _, subject)| subject.ever.clone());
        PriorState::Known(Arc::new(Version { at: known.map(|(at, ..)| at), scopes, ever, was }))
    }

    /// The scopes of an object that was in others before, where those who get it now cannot be told all of it.
    pub(super) fn moved_without_full_row(&self, record: &Record) -> Option<Scopes> {
        let RecordKind::Change(ObjectChange {
            kind: ChangeKind::Update,
            whole: false,
            prior: PriorState::Known(state),
            ..
        }) = &record.kind
        else {
            return None;
        };
        let came = self.encoder.is_scoped && record.scopes != state.scopes;
        (came && self.core.delivery == Delivery::Converging).then(|| record.scopes.clone())
    }
}

pub(super) fn is_add(change: &Change) -> bool {
    change.kind() == ChangeKind::Add
}
