//! What the log knows of one entity's objects: which records are the newest, and which objects belong together.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{
    record::{ObjectChange, PriorObject, PriorState},
    share::{Shares, Trimmed},
    tombstones::{Tombstone, Tombstones},
};
use crate::{change::ChangeKind, scope::Scopes, sequence::Sequence};

#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Index {
    /// The newest record of each object by its key, for as long as that record or a tombstone is kept.
    #[serde(skip)]
    pub(super) newest: HashMap<Arc<str>, Sequence>,
    /// The keys of the objects that are deleted with another, by the key of that one.
    #[serde(skip)]
    pub(super) children: HashMap<Arc<str>, BTreeSet<Arc<str>>>,
    /// The keys of the parents of objects in a tree, also of such that no record is kept of; none of an object at the root.
    #[serde(default)]
    pub(super) places: HashMap<Arc<str>, Option<Arc<str>>>,
    /// Behind its latest refresh of all scopes.
    pub(super) refreshed: Sequence,
    /// Behind its latest message.
    #[serde(skip)]
    pub(super) messages: Sequence,
    /// Behind the latest change that published an object in other scopes than before.
    pub(super) moved: Sequence,
    /// Refreshes of some scopes only, each with the sequence number behind it.
    pub(super) refreshed_scopes: Vec<(Sequence, Scopes)>,
    /// The objects whose newest record is their deletion.
    #[serde(skip)]
    pub(super) tombstones: Tombstones,
    /// Some claims have been kept apart from others about the same id.
    pub(super) has_claims_apart: bool,
    #[serde(skip)]
    pub(super) shares: Shares,
    pub(super) trimmed: Trimmed,
}

impl Index {
    /// Notes a refresh of these scopes, where the log is kept from `oldest` on.
    pub(super) fn refresh(&mut self, scopes: &Scopes, sequence: Sequence, oldest: Sequence) {
        self.refreshed_scopes.retain(|(behind, known)| *behind > oldest && known != scopes);
        match scopes {
            Scopes::All => {
                self.refreshed = sequence.next();
                self.places.clear();
            }
            scopes => self.refreshed_scopes.push((sequence.next(), scopes.clone())),
        }
    }

    pub(super) fn add_child(&mut self, child: &ObjectChange) {
        let parents = child.parents.iter().filter(|_| child.kind != ChangeKind::Delete);
        for parent in parents {
            self.children.entry(parent.clone()).or_default().insert(child.key.clone());
        }
    }

    pub(super) fn remove_child(&mut self, child: &ObjectChange) {
        for parent in &child.parents {
            if let Some(children) = self.children.get_mut(parent) {
                children.remove(&child.key);
                if children.is_empty() {
                    self.children.remove(parent);
                }
            }
        }
    }

    /// Adds the tombstone of an object, which may have had an earlier one.
    pub(super) fn add_tombstone(
        &mut self,
        at: Instant,
        sequence: Sequence,
        deletion: &ObjectChange,
        scopes: &Scopes,
        earlier: Option<Tombstone>,
    ) {
        let (earlier_last, earlier_ever) = earlier.map_or((None, Scopes::None), |earlier| (earlier.last, earlier.ever));
        let last = match &deletion.prior {
            PriorState::Known(state) => match &state.was {
                PriorObject::Object(object) => Some(object.clone()),
                // Deleted twice: the earlier tombstone knows what the object was.
                PriorObject::Gone => earlier_last,
                PriorObject::Something | PriorObject::Doubtful => None,
            },
            PriorState::Unknown | PriorState::Absent => None,
        };
        let tombstone = Tombstone {
            at,
            id: deletion.id.clone(),
            key: deletion.key.clone(),
            object: deletion.object.to_vec().into(),
            may_be_exception: deletion.may_be_exception,
            scopes: scopes.clone(),
            ever: earlier_ever.and(&deletion.ever),
            went_to: deletion.went_to.clone(),
            is_claim: deletion.is_claim,
            last,
            has_settled: false,
        };
        self.tombstones.insert(sequence, tombstone);
    }
}
