//! What a change comes to, by what the log knows of its object.

use std::{borrow::Cow, sync::Arc};

use super::{
    super::{
        core::Core,
        encoder::{EntityEncoder, key_within},
        log::Log,
    },
    batch::{Basis, Meanwhile},
};
use crate::{
    change::{Change, ChangeKind},
    entity::EntityIndex,
    scope::Scopes,
};

/// What is to be done with a change.
pub(super) enum Plan {
    /// There is nothing to publish.
    Nothing,
    /// A request claims to have changed what is in other scopes.
    Elsewhere,
    Delete,
    /// An update of what is deleted, as far as the log knows: for these scopes.
    Unconfirmed(Scopes),
    Changed {
        basis: Option<Basis>,
        scopes: Scopes,
        whole: bool,
    },
}

impl Plan {
    /// What the change is merged with; none where nothing is encoded.
    pub(super) fn encodes(&self) -> Option<Option<&Basis>> {
        match self {
            Self::Nothing | Self::Elsewhere | Self::Delete => None,
            Self::Unconfirmed(_) => Some(None),
            Self::Changed { basis, .. } => Some(basis.as_ref()),
        }
    }
}

/// Publishes changes of one entity.
pub(super) struct Appender<'a> {
    pub(super) core: &'a Core,
    pub(super) entity: EntityIndex,
    pub(super) encoder: &'a EntityEncoder,
}

impl<'a> Appender<'a> {
    pub(super) fn new(core: &'a Core, entity: EntityIndex) -> Self {
        Self { core, entity, encoder: core.encoder(entity) }
    }

    /// What a change comes to, by what the log knows of its object.
    pub(super) fn plan(&self, log: &Log, key: &str, change: &Change, meanwhile: Option<Meanwhile<'_>>) -> Plan {
        let scopes = if self.encoder.is_scoped { change.scopes().clone() } else { Scopes::All };
        if self.is_elsewhere(log, key, change) {
            return Plan::Elsewhere;
        }
        if change.kind() == ChangeKind::Delete {
            return Plan::Delete;
        }
        if let Some(plan) = self.plan_add(log, key, change, meanwhile) {
            return plan;
        }
        if self.encoder.is_plain {
            return Plan::Changed { basis: None, scopes, whole: false };
        }
        let known = log.known(self.entity, key).filter(|(_, known)| known.kind != ChangeKind::Delete);
        if known.is_none() && self.is_unconfirmed(log, key, change) {
            // To who may have had it; and no hook can be asked who may see it.
            let had = log.tombstone(self.entity, key).map_or(Scopes::None, |(_, tombstone)| tombstone.scopes.clone());
            let scopes = if self.encoder.is_scoped { scopes.common(&had) } else { scopes };
            let reaches_no_page = scopes.is_none() || self.encoder.view.is_some();
            return if reaches_no_page { Plan::Nothing } else { Plan::Unconfirmed(scopes) };
        }
        let is_whole = change.kind() == ChangeKind::Add || change.is_whole();
        match known.filter(|_| !is_whole) {
            Some((sequence, known)) => {
                let basis = Some(Basis { sequence, object: known.object.clone(), is_newer: false });
                Plan::Changed { basis, scopes, whole: known.whole }
            }
            None => Plan::Changed { basis: None, scopes, whole: is_whole },
        }
    }

    /// The same of an add whose object was published while its write was on its way.
    fn plan_add(&self, log: &Log, key: &str, change: &Change, meanwhile: Option<Meanwhile<'_>>) -> Option<Plan> {
        let meanwhile = meanwhile.filter(|_| change.kind() == ChangeKind::Add)?;
        let (sequence, newer, known) =
            log.newest_record(self.entity, key).filter(|(at, ..)| meanwhile.contains(*at))?;
        // A record of other scopes does not affect this add.
        if self.encoder.is_scoped && newer.scopes != *change.scopes() {
            return None;
        }
        match known.kind {
            // The id of an object that was deleted meanwhile has been given to this one.
            ChangeKind::Delete if known.added.is_some_and(|added| added < meanwhile.began) => None,
            ChangeKind::Add | ChangeKind::Delete => Some(Plan::Nothing),
            // An update may leave fields out that pages need of an add.
            ChangeKind::Update => {
                let basis = Some(Basis { sequence, object: known.object.clone(), is_newer: true });
                Some(Plan::Changed { basis, scopes: newer.scopes.clone(), whole: true })
            }
        }
    }

    /// What the log knows the object of a change by. Where nothing proves whose object it is, requests of disjoint scopes
    /// that claim to have changed it may each mean one of their own: no claim hides what was published elsewhere.
    pub(super) fn key_of<'c>(&self, log: &Log, change: &'c Change) -> Cow<'c, str> {
        let key = self.encoder.key(change.namespace(), change.id());
        if !self.may_be_mere_claim(change) || change.scopes().is_none() {
            return key;
        }
        let is_disjoint = |known: &Scopes| change.scopes().common(known).is_none();
        match log.published_scopes(self.entity, &key) {
            Some((_, false)) => key,
            Some((known, true)) if is_disjoint(known) => Cow::Owned(key_within(change.scopes(), change.id())),
            _ => {
                let apart = log.has_claims_apart(self.entity).then(|| key_within(change.scopes(), change.id()));
                match apart.filter(|apart| log.published_scopes(self.entity, apart).is_some()) {
                    Some(apart) => Cow::Owned(apart),
                    None => key,
                }
            }
        }
    }

    /// Whether a request claims to have changed, in its scopes, an object that the log knows in others. An object does not
    /// move to another scope by itself: the application moves it, or the store shows it there.
    pub(super) fn is_elsewhere(&self, log: &Log, key: &str, change: &Change) -> bool {
        let may_be = self.encoder.is_scoped && !self.encoder.scoped_ids && change.is_claimed;
        // A deletion without a scope is for those who have the object.
        let names_scopes = !change.scopes().is_none() && change.former_scopes().is_none();
        if !may_be || change.kind() == ChangeKind::Add || !names_scopes {
            return false;
        }
        // What was itself only claimed proves nothing of whose the object is.
        log.published_scopes(self.entity, key)
            .is_some_and(|(known, is_claim)| !is_claim && change.scopes().common(known).is_none())
    }

    /// Whether this is an update of an object that the log knows to be deleted, and nothing shows that it is there again:
    /// most back ends answer an update of a row that is gone with 200.
    pub(super) fn is_unconfirmed(&self, log: &Log, key: &str, change: &Change) -> bool {
        let is_update = change.kind() == ChangeKind::Update && !self.encoder.is_plain;
        let tombstone = is_update.then(|| log.tombstone(self.entity, key)).flatten();
        tombstone.is_some_and(|(deleted, tombstone)| {
            let is_others = tombstone.is_claim && change.scopes().common(&tombstone.scopes).is_none();
            !is_others && change.read_at.is_none_or(|end| end <= deleted)
        })
    }

    /// Whether only this claim, and claims before it, place its object in the change's scopes.
    pub(super) fn is_mere_claim(&self, log: &Log, key: &str, change: &Change) -> bool {
        self.may_be_mere_claim(change) && log.published_scopes(self.entity, key).is_none_or(|(_, is_claim)| is_claim)
    }

    /// Whether a change rests on a request alone, where that does not prove whose its object is.
    pub(super) fn may_be_mere_claim(&self, change: &Change) -> bool {
        let is_claim = change.is_claimed && change.kind() != ChangeKind::Add && change.former_scopes().is_none();
        self.encoder.is_scoped && !self.encoder.scoped_ids && is_claim
    }

    /// The deletions of the objects known to go with a deleted one, each before the one it goes with.
    pub(super) fn descendants(&self, log: &Log, key: &str, change: &Change) -> Vec<Change> {
        let newest = log.newest_record(self.entity, key);
        let known = newest.map_or(Scopes::None, |(_, record, _)| record.scopes.clone());
        let scopes = if self.encoder.is_scoped { known.and(change.scopes()) } else { Scopes::All };
        let along = match newest {
            _ if self.encoder.has_trees() => log.descendants(self.entity, key),
            Some((_, _, known)) if !known.parents.is_empty() => Vec::new(),
            _ => log.children(self.entity, key),
        };
        let deletion = |key: Arc<str>| {
            let (_, record, known) = log.newest_record(self.entity, &key)?;
            // What is published elsewhere does not go with it.
            if !record.scopes.intersects(&scopes) {
                return None;
            }
            let deletion = Change::delete(&known.id).ok()?.unique_in(change.namespace());
            let scopes = if self.encoder.is_scoped { &record.scopes } else { &Scopes::None };
            Some(deletion.in_scopes(scopes, &Scopes::None))
        };
        along.into_iter().filter_map(deletion).collect()
    }
}
