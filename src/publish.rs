//! The one door to the log: a change that would break pages does not pass it. Messages are the application's own.

use std::{borrow::Cow, collections::HashSet, sync::Arc};

use crate::{
    change::{Change, ChangeKind},
    diagnosis::Diagnosis,
    entity::{Entity, EntityIndex},
    error::PublishError,
    hub::{Delivery, Hub},
    observe::Observer,
    scope::Scopes,
};

/// Tells changes and messages of the configured entities.
#[derive(Clone, Debug)]
pub(crate) struct Publisher {
    pub(crate) entities: Arc<[Entity]>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) observer: Arc<Observer>,
    pub(crate) diagnosis: Arc<Diagnosis>,
}

impl Publisher {
    /// The configured entity of this name.
    pub(crate) fn find(&self, name: &str) -> Option<EntityIndex> {
        self.hub.find(name).filter(|index| usize::from(index.0) < self.entities.len())
    }

    pub(crate) fn entity(&self, index: EntityIndex) -> &Entity {
        &self.entities[usize::from(index.0)]
    }

    /// Tells `changes` together, unless one of them would break pages: then none is told.
    pub(crate) fn publish(
        &self,
        index: EntityIndex,
        changes: &[Change],
        began: Option<u64>,
    ) -> Result<(), PublishError> {
        let entity = self.entity(index);
        for change in changes {
            entity.check(change)?;
            self.check_size(entity, change)?;
            self.check_scopes(index, change)?;
        }
        let published = self.hub.publish(index, &self.with_those_that_go_along(index, changes), began);
        self.observer.changes_published.add(published.changes);
        if published.elsewhere { Err(PublishError::OtherScope { entity: entity.name.clone() }) } else { Ok(()) }
    }

    /// What a change costs in the log is bounded: a body of escapes is six times as large as JSON.
    fn check_size(&self, entity: &Entity, change: &Change) -> Result<(), PublishError> {
        let (bytes, limit) = (change.object().len(), self.hub.max_object_bytes());
        let too_large = || PublishError::TooLarge { entity: entity.name.clone(), bytes, limit };
        if bytes > limit { Err(too_large()) } else { Ok(()) }
    }

    /// A change is told to those who may hear it, or to nobody.
    fn check_scopes(&self, index: EntityIndex, change: &Change) -> Result<(), PublishError> {
        let entity = self.entity(index);
        let has_scope = !change.scopes().is_none();
        let is_known = || change.kind() == ChangeKind::Delete && self.hub.knows_scopes_of(index, change.id());
        match entity.scoping {
            None if has_scope || !change.former_scopes().is_none() => {
                Err(PublishError::NotScoped { entity: entity.name.clone() })
            }
            Some(_) if !has_scope && !is_known() => Err(PublishError::NoScope { entity: entity.name.clone() }),
            _ => Ok(()),
        }
    }

    /// Changes, each deletion after those of the objects that go with it, and each that came from a scope with ids of
    /// its own after its deletion there.
    fn with_those_that_go_along<'c>(&self, index: EntityIndex, changes: &'c [Change]) -> Cow<'c, [Change]> {
        let entity = self.entity(index);
        let have_children = entity.parent_key.is_some() && self.hub.delivery() == Delivery::Converging;
        let have_own_ids = entity.scoping.as_ref().is_some_and(|scoping| scoping.has_own_ids);
        let takes_along = |change: &Change| {
            (have_children && change.kind() == ChangeKind::Delete) || (have_own_ids && change.enters_namespace())
        };
        if !changes.iter().any(takes_along) {
            return Cow::Borrowed(changes);
        }
        let key = |change: &Change| self.hub.key(index, change.namespace(), change.id()).into_owned();
        let mut known: HashSet<String> = changes.iter().map(key).collect();
        let mut all: Vec<Change> = Vec::with_capacity(changes.len());
        for change in changes {
            if change.kind() == ChangeKind::Delete && have_children {
                let along = self.hub.descendants(index, change).into_iter();
                all.extend(along.filter(|along| known.insert(key(along))));
            }
            if have_own_ids && change.enters_namespace() {
                let left = change.former_scopes().names().filter(|from| !change.scopes().names().any(|to| to == *from));
                all.extend(
                    left.filter_map(|from| {
                        Some(Change::delete(change.id()).ok()?.scope(from).gone_to(change.scopes()))
                    }),
                );
            }
            all.push(change.clone());
        }
        Cow::Owned(all)
    }

    /// Tells a message, `value` being JSON text.
    pub(crate) fn send(&self, index: EntityIndex, scopes: Scopes, value: &str) -> Result<(), PublishError> {
        let entity = self.entity(index);
        let scopes = match (&entity.scoping, scopes.is_none()) {
            (None, true) => Scopes::All,
            (None, false) => return Err(PublishError::NotScoped { entity: entity.name.clone() }),
            (Some(_), true) => return Err(PublishError::NoScope { entity: entity.name.clone() }),
            (Some(_), false) => scopes,
        };
        self.hub.send(index, scopes, value);
        self.observer.messages_published.up();
        Ok(())
    }
}
