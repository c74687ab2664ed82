//! What the log holds of one change or message, and of what an object was before.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::text;
use crate::{change::ChangeKind, entity::EntityIndex, scope::Scopes};

/// What one record costs besides its frame: the entry itself and its place in the index.
const OVERHEAD: usize = 224;

/// What a page may show of an object.
#[derive(Clone, Copy, Debug)]
pub(crate) enum PossiblyShown<'l> {
    Version(&'l Version),
    /// Any of what this state or an earlier one was.
    UpTo(&'l Version),
    Unknown,
}

/// One change or message that was told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) entity: EntityIndex,
    /// What those who listen are told, encoded once for everyone.
    #[serde(serialize_with = "text::serialize_frame", deserialize_with = "text::deserialize_frame")]
    pub(crate) frame: Bytes,
    /// Who may hear it; of a deletion, who has the object.
    pub(crate) scopes: Scopes,
    pub(crate) kind: RecordKind,
}

impl Record {
    /// The object that it is about.
    pub(crate) fn object(&self) -> Option<ObjectRef> {
        match &self.kind {
            RecordKind::Change(change) => {
                Some(ObjectRef { entity: self.entity, key: change.key.clone(), id: change.id.clone() })
            }
            RecordKind::Unconfirmed(_) | RecordKind::Message | RecordKind::Refresh => None,
        }
    }

    /// Whether this is a change of the object of this key.
    pub(crate) fn is_of(&self, key: &str) -> bool {
        matches!(&self.kind, RecordKind::Change(subject) if *subject.key == *key)
    }

    /// Everybody who may have received this object, as far as the log knows.
    pub(super) fn audience(&self) -> Scopes {
        match &self.kind {
            RecordKind::Change(subject) => self.scopes.and(&subject.ever),
            RecordKind::Unconfirmed(_) | RecordKind::Message | RecordKind::Refresh => self.scopes.clone(),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        let prior = match &self.kind {
            RecordKind::Change(ObjectChange { prior: PriorState::Known(state), ever, .. }) => {
                state.bytes() + ever.bytes()
            }
            RecordKind::Change(_) | RecordKind::Unconfirmed(_) | RecordKind::Message | RecordKind::Refresh => 0,
        };
        OVERHEAD + self.frame.len() + self.scopes.bytes() + prior
    }
}

/// Which object is meant.
#[derive(Clone, Debug)]
pub(crate) struct ObjectRef {
    pub(crate) entity: EntityIndex,
    /// What the log finds it by.
    pub(crate) key: Arc<str>,
    pub(crate) id: Arc<str>,
}

/// What a record is about.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum RecordKind {
    /// An object changed: only its newest state matters to those who come later.
    Change(ObjectChange),
    /// An update of the object of this id, which the log knows to be deleted and nothing has shown to be there again.
    /// It is broadcast once, and never replayed or resent: the tombstone stays in force.
    Unconfirmed(Arc<str>),
    /// Something else was said: everyone hears it once, in its place.
    Message,
    /// Anything may have changed: pages are brought to the store's state. In some scopes only, it stands for an object
    /// that came there and is not known whole.
    Refresh,
}

/// A kind of change as it is saved.
#[derive(Serialize, Deserialize)]
#[serde(remote = "ChangeKind")]
enum SavedKind {
    Add,
    Update,
    Delete,
}

/// The object a change is about.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ObjectChange {
    #[serde(with = "SavedKind")]
    pub(crate) kind: ChangeKind,
    pub(crate) id: Arc<str>,
    /// What the log finds it by: its id or, where ids are unique within a scope only, that and the scope.
    pub(crate) key: Arc<str>,
    pub(crate) prior: PriorState,
    /// All scopes it was told in since it was last added, as far as the log knows.
    pub(crate) ever: Scopes,
    /// Of a deletion: where its object is now. Who hears that has it.
    pub(crate) went_to: Scopes,
    /// The object's JSON, a part of the frame; of a deleted one only its id.
    #[serde(with = "text")]
    pub(crate) object: Bytes,
    /// Every field is known. Of one that is not whole, pages can be told only what changed.
    pub(crate) whole: bool,
    /// It was added, and nothing else is known of its object: who has it has this, unless it is the page that made it and
    /// shows something else.
    pub(crate) is_only_added: bool,
    /// The sequence number of the record that added it, where that is known; of a deletion, of one at which it existed.
    pub(crate) added: Option<u64>,
    /// The key of the object this one goes with when that is deleted.
    pub(crate) parent: Option<Arc<str>>,
    /// Of a deletion: the object may have been an exception of a series.
    pub(crate) may_be_exception: bool,
    /// Only a request claims that there is such an object here: it is no knowledge of others'.
    pub(crate) is_claim: bool,
    /// Of a large object, which is not read again for that: whether pages can bear it in an add, where it is whole.
    pub(crate) can_add: Option<bool>,
}

/// What an object was before a change; kept where not everybody is told everything.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum PriorState {
    Unknown,
    /// There was none.
    Absent,
    Known(Arc<Version>),
}

/// An object as it once was.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Version {
    /// The sequence number of the record that made it so, where there was one.
    pub(crate) at: Option<u64>,
    pub(crate) scopes: Scopes,
    /// All scopes it had been told in by then.
    pub(crate) ever: Scopes,
    pub(crate) was: Was,
}

/// Scopes that are remembered of one object: everybody may move one about.
const EVER: usize = 64;

impl PriorState {
    /// All scopes an object has been told in, with those it is told in now.
    pub(crate) fn ever_and(&self, now: &Scopes) -> Scopes {
        match self {
            Self::Known(state) if !matches!(state.was, Was::Gone) => {
                let ever = state.ever.and(&state.scopes).and(now);
                if ever.names().count() > EVER { state.scopes.and(now) } else { ever }
            }
            Self::Known(_) | Self::Unknown | Self::Absent => now.clone(),
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Was {
    Object(#[serde(with = "text")] Bytes),
    /// There was one.
    Something,
    /// There was one before a refresh: nobody knows what has become of it.
    Doubtful,
    Gone,
}

impl Version {
    fn bytes(&self) -> usize {
        let object = match &self.was {
            Was::Object(object) => object.len(),
            Was::Something | Was::Doubtful | Was::Gone => 0,
        };
        size_of::<Self>() + self.scopes.bytes() + self.ever.bytes() + object
    }
}
