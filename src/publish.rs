//! The one door to the log: a change that would break pages does not pass it. Messages are the application's own.

use std::sync::Arc;

use crate::{
    change::Change,
    entity::{Entity, Hazard},
    error::PublishError,
    hub::{EntityIndex, Hub},
    object::Object,
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
            check(entity, change).map_err(|hazard| PublishError::BreaksPages {
                entity: entity.name.clone(),
                id: change.id().to_owned(),
                reason: hazard.reason(),
            })?;
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

fn check(entity: &Entity, change: &Change) -> Result<(), Hazard> {
    let object = Object::of(change.object()).unwrap_or_default();
    entity.widget.check(change.kind(), &object)
}
