//! Which identity was sent what: collected under locks, and written where there are none.

use std::sync::Arc;

use super::super::{
    core::Core,
    log::{Record, RecordKind},
};
use crate::{auth::Identity, change::ChangeKind, entity::EntityIndex, observe::audit, scope::Scopes};

/// What the audit records of a frame.
#[derive(Clone, Debug)]
pub(crate) struct AuditEntry {
    entity: EntityIndex,
    id: Arc<str>,
    kind: &'static str,
    scopes: Scopes,
}

impl AuditEntry {
    /// `None` where there is no audit.
    pub(super) fn new(
        core: &Core,
        entity: EntityIndex,
        kind: &'static str,
        about: impl FnOnce() -> (Arc<str>, Scopes),
    ) -> Option<Box<Self>> {
        core.is_audited().then(|| {
            let (id, scopes) = about();
            Box::new(Self { entity, id, kind, scopes })
        })
    }

    pub(super) fn of_record(core: &Core, record: &Record) -> Option<Box<Self>> {
        let (kind, id) = match &record.kind {
            RecordKind::Change(change) => (change.kind.verb(), Some(&change.id)),
            RecordKind::Unconfirmed(id) => (ChangeKind::Update.verb(), Some(id)),
            RecordKind::Message(_) | RecordKind::Refresh => (audit::MESSAGE, None),
        };
        Self::new(core, record.entity, kind, || (id.cloned().unwrap_or_default(), record.scopes.clone()))
    }
}

/// The entries of what one recipient was sent.
#[derive(Debug, Default)]
pub(crate) struct AuditBuffer(Vec<AuditEntry>);

impl AuditBuffer {
    pub(super) fn note(&mut self, entry: &AuditEntry, leaves: bool) {
        let kind = if leaves { ChangeKind::Delete.verb() } else { entry.kind };
        self.0.push(AuditEntry { kind, ..entry.clone() });
    }

    /// Writes the entries; `who` returns the identity that was sent them.
    pub(crate) fn write(self, core: &Core, who: impl FnOnce() -> Identity) {
        if self.0.is_empty() {
            return;
        }
        let who = who();
        for AuditEntry { entity, id, kind, scopes } in &self.0 {
            audit::sent(who.principal(), &core.encoder(*entity).entity, id, kind, scopes);
        }
    }
}
