//! The one door to the log: a change that would break pages does not pass it. Messages are the application's own.

use std::{borrow::Cow, collections::HashSet, sync::Arc};

use crate::{
    change::{Change, ChangeKind},
    entity::Entity,
    error::PublishError,
    hub::{Delivery, EntityIndex, Hub},
    observe::Observer,
};

/// Tells changes and messages of the configured entities.
#[derive(Clone, Debug)]
pub(crate) struct Publisher {
    pub(crate) entities: Arc<[Entity]>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) observer: Arc<Observer>,
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
        }
        let told = self.hub.publish(index, &self.with_those_that_go_along(index, changes), began);
        self.observer.changes_published.add(told);
        Ok(())
    }

    /// Changes, each deletion after those of the objects that go with it.
    fn with_those_that_go_along<'c>(&self, index: EntityIndex, changes: &'c [Change]) -> Cow<'c, [Change]> {
        if self.entity(index).parent_key.is_none() || self.hub.delivery() == Delivery::Plain {
            return Cow::Borrowed(changes);
        }
        let mut all = Vec::with_capacity(changes.len());
        let mut known: HashSet<String> = changes.iter().map(|change| change.id().to_owned()).collect();
        for change in changes {
            if change.kind() == ChangeKind::Delete {
                let along = self.hub.descendants(index, change.id());
                let unknown = along.into_iter().filter(|id| known.insert(id.to_string()));
                all.extend(unknown.filter_map(|id| Change::delete(id).ok()));
            }
            all.push(change.clone());
        }
        Cow::Owned(all)
    }

    /// Tells a message, `value` being JSON text.
    pub(crate) fn send(&self, index: EntityIndex, value: &str) {
        self.hub.send(index, value);
        self.observer.messages_published.up();
    }
}
