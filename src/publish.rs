//! Checks changes and messages before they enter the log and are broadcast: a change that would break pages is refused.

use std::sync::Arc;

use crate::{
    change::{Change, ChangeKind},
    diagnosis::Diagnosis,
    entity::{Entity, EntityIndex, Widget},
    error::PublishError,
    hub::{Addressee, Hub, Published, Withheld, WriteContext},
    observe::Observer,
    scope::Scopes,
};

/// Publishes changes and messages of the configured entities.
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
        self.hub.core.find(name).filter(|index| usize::from(index.0) < self.entities.len())
    }

    pub(crate) fn entity(&self, index: EntityIndex) -> &Entity {
        &self.entities[usize::from(index.0)]
    }

    /// Publishes `changes` together. If one of them would break pages, none is published. They come from
    /// this write.
    pub(crate) fn publish(
        &self,
        index: EntityIndex,
        changes: &[Change],
        write: WriteContext,
    ) -> Result<(), PublishError> {
        let entity = self.entity(index);
        if entity.presence.is_some() {
            return Err(PublishError::Presence { entity: entity.name.clone() });
        }
        changes.iter().try_for_each(|change| self.check(index, change))?;
        let published = self.append(index, changes, write);
        if published.elsewhere { Err(PublishError::OtherScope { entity: entity.name.clone() }) } else { Ok(()) }
    }

    /// Publishes who is here, and no more: changes that pass [`check`](Self::check).
    pub(crate) fn publish_presence(&self, index: EntityIndex, changes: &[Change]) {
        self.append(index, changes, None.into());
    }

    /// Checks that a change can be published.
    pub(crate) fn check(&self, index: EntityIndex, change: &Change) -> Result<(), PublishError> {
        let entity = self.entity(index);
        entity.check(change)?;
        // A body of escapes is six times as large as JSON.
        let (bytes, limit) = (change.object().len(), self.hub.core.max_object_bytes);
        if bytes > limit {
            return Err(PublishError::TooLarge { entity: entity.name.clone(), bytes, limit });
        }
        if entity.widget.is_part(change.kind(), change.object()) && !self.hub.core.knows_whole(index, change) {
            return Err(PublishError::BreaksPages {
                entity: entity.name.clone(),
                id: change.id().to_owned(),
                reason: Widget::part_reason().into(),
            });
        }
        let has_scope = !change.scopes().is_none();
        let is_known = || change.kind() == ChangeKind::Delete && self.hub.core.knows_scopes_of(index, change.id());
        let names_scope = has_scope || !change.former_scopes().is_none();
        check_scopes(entity, names_scope, || has_scope || is_known())
    }

    fn append(&self, index: EntityIndex, changes: &[Change], write: WriteContext) -> Published {
        let changes = self.entity(index).normal(changes);
        let published = self.hub.publish(index, &changes, write);
        self.observer.changes_published.add(published.changes);
        if let Some((id, why)) = &published.withheld {
            let entity = &self.entity(index).name;
            let why = match why {
                Withheld::Ring => {
                    "is below itself, as far as the log knows, and pages that draw it hang; refuse such a write with 409"
                }
                Withheld::NoEnd => {
                    "names a task that is deleted, as far as the log knows, and pages that draw it throw; delete the links \
                     of a deleted task in its transaction"
                }
            };
            self.observer.warn_once_for(
                (index, why),
                format_args!("{id:?} of {entity:?} is stored and not broadcast: it {why}"),
            );
        }
        published
    }

    /// Publishes a message to everyone; `value` is JSON text.
    pub(crate) fn send(&self, index: EntityIndex, scopes: Scopes, value: &str) -> Result<(), PublishError> {
        let entity = self.entity(index);
        let has_scope = !scopes.is_none();
        check_scopes(entity, has_scope, || has_scope)?;
        let scopes = if has_scope { scopes } else { Scopes::All };
        self.hub.send(index, &scopes, value);
        self.observer.messages_published.up();
        Ok(())
    }

    /// Publishes a message to this addressee alone, who needs no scope besides; `value` is JSON text.
    pub(crate) fn send_to(&self, index: EntityIndex, addressee: &Addressee, value: &str) {
        self.hub.send_to(index, &Scopes::All, addressee, value);
        self.observer.messages_published.up();
    }
}

/// A change or a message of a scoped entity needs a scope, and one of another entity names none.
fn check_scopes(entity: &Entity, names_scope: bool, has_scope: impl FnOnce() -> bool) -> Result<(), PublishError> {
    match entity.scoping {
        None if names_scope => Err(PublishError::NotScoped { entity: entity.name.clone() }),
        Some(_) if !has_scope() => Err(PublishError::NoScope { entity: entity.name.clone() }),
        _ => Ok(()),
    }
}
