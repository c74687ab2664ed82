//! The one door to the log: a change that would break pages does not pass it. Messages are the application's own.

use std::sync::Arc;

use crate::{
    change::Change,
    entity::Entity,
    error::PublishError,
    hub::{EntityIndex, Hub},
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
    /// The entity of this name.
    pub(crate) fn find(&self, name: &str) -> Option<EntityIndex> {
        let at = self.entities.iter().position(|entity| entity.name == name)?;
        u16::try_from(at).ok().map(EntityIndex)
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
        let told = self.hub.publish(index, changes, began);
        self.observer.changes_published.add(told);
        Ok(())
    }

    /// Tells a message, `value` being JSON text.
    pub(crate) fn send(&self, index: EntityIndex, value: &str) {
        self.hub.send(index, value);
        self.observer.messages_published.up();
    }
}
