//! What the log holds of one change or message, and what an object was before.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::text;
use crate::{
    change::ChangeKind,
    entity::{EntityIndex, Place},
    scope::Scopes,
    sequence::Sequence,
    session::Session,
};

/// What one record costs besides its frame: the entry itself and its place in the index.
const OVERHEAD: usize = 224;

/// One entry of the log.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) entity: EntityIndex,
    /// The frame that is broadcast, encoded once for all pages.
    #[serde(serialize_with = "text::serialize_frame", deserialize_with = "text::deserialize_frame")]
    pub(crate) frame: Bytes,
    /// The scopes whose pages receive it; of a deletion, the scopes whose pages have the object.
    pub(crate) scopes: Scopes,
    /// Which pages receive it as it is published.
    #[serde(skip)]
    pub(crate) broadcast: Broadcast,
    pub(crate) kind: RecordKind,
}

/// Which pages receive a record as it is published, of those that its scopes allow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Broadcast {
    #[default]
    ToAll,
    /// All but those of its writer.
    AllBut(Owner),
    /// None for now: it is held.
    Held,
    /// All but the pages that may be those of its writer, for which it is held.
    HeldFrom(Owner),
    /// Those from which it was held.
    Only(Owner),
}

/// What the sessions of one token have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Owner(pub(crate) u64);

impl Broadcast {
    /// Whether a page of this owner is not to receive the record before it is released.
    pub(crate) fn is_held_from(self, owner: Option<Owner>) -> bool {
        match self {
            Self::ToAll | Self::AllBut(_) | Self::Only(_) => false,
            Self::Held => true,
            Self::HeldFrom(writer) => owner.is_none_or(|owner| owner == writer),
        }
    }

    /// Whether a page of this owner receives the record as it is published.
    pub(crate) fn reaches(self, owner: Option<Owner>) -> bool {
        match self {
            Self::AllBut(writer) => owner != Some(writer),
            Self::Only(writer) => Self::HeldFrom(writer).is_held_from(owner),
            other => !other.is_held_from(owner),
        }
    }
}

impl Record {
    pub(crate) fn change(&self) -> Option<&ObjectChange> {
        match &self.kind {
            RecordKind::Change(change) => Some(change),
            RecordKind::Unconfirmed(_) | RecordKind::Message(_) | RecordKind::Refresh => None,
        }
    }

    /// Whether its object is there.
    pub(crate) fn shows_object(&self) -> bool {
        self.change().is_some_and(|change| change.kind != ChangeKind::Delete)
    }

    /// Who it is for, among those who have one of its scopes.
    pub(crate) fn addressee(&self) -> &Addressee {
        match &self.kind {
            RecordKind::Message(addressee) => addressee,
            RecordKind::Change(_) | RecordKind::Unconfirmed(_) | RecordKind::Refresh => &Addressee::Everyone,
        }
    }

    /// The object that changed.
    pub(crate) fn object(&self) -> Option<ObjectRef> {
        let change = self.change()?;
        Some(ObjectRef { entity: self.entity, key: change.key.clone(), id: change.id.clone() })
    }

    /// All scopes whose pages may have received this object, as far as the log knows.
    pub(super) fn audience(&self) -> Scopes {
        self.change().map_or_else(|| self.scopes.clone(), |change| self.scopes.and(&change.ever))
    }

    pub(super) fn bytes(&self) -> usize {
        let prior = match self.change() {
            Some(ObjectChange { prior: PriorState::Known(state), ever, .. }) => state.bytes() + ever.bytes(),
            _ => 0,
        };
        let place = self.change().and_then(|change| change.place.as_ref()).map_or(0, |place| place.bytes());
        OVERHEAD + self.frame.len() + self.scopes.bytes() + prior + place
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

/// What happened.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum RecordKind {
    /// An object changed: only its newest state matters to pages that come later.
    Change(ObjectChange),
    /// An update of the object of this id, which the log knows to be deleted and nothing has shown to exist again.
    /// It is broadcast once, and never replayed or resent: the tombstone stays in force.
    Unconfirmed(Arc<str>),
    /// Any other message: each page that it is for receives it once, in order.
    Message(Addressee),
    /// Anything may have changed: pages are brought to the store's state. In some scopes only, it stands for an object
    /// that moved there and is not known whole.
    Refresh,
}

/// Who a message is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Addressee {
    Everyone,
    /// One page.
    Session(#[serde(with = "SavedSession")] Session),
    /// The pages of one principal.
    Principal(Arc<str>),
}

/// A session as it is saved.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Session")]
struct SavedSession([u8; 16]);

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
    /// All scopes it was published in since it was last added, as far as the log knows.
    pub(crate) ever: Scopes,
    /// Of a deletion: the scopes its object moved to. Their pages have it.
    pub(crate) went_to: Scopes,
    /// The object's JSON, a part of the frame; of a deleted one only its id.
    #[serde(with = "text")]
    pub(crate) object: Bytes,
    /// Every field is known. Otherwise pages can only be sent what changed.
    pub(crate) whole: bool,
    /// It was added, and nothing else is known of its object: a page that has the object has this state, unless it is the
    /// page that created it and shows something else.
    pub(crate) is_only_added: bool,
    /// The sequence number of the record that added it, where that is known; of a deletion, of one at which it existed.
    pub(crate) added: Option<Sequence>,
    /// The keys of the objects that this one is deleted with: a parent, or both ends of a link.
    pub(crate) parents: Box<[Arc<str>]>,
    /// Where it stands among its siblings, if pages are to show that.
    pub(crate) place: Option<Arc<Place>>,
    /// Of a deletion: the object may have been an exception of a series.
    pub(crate) may_be_exception: bool,
    /// Only a request claims that there is such an object here: the log of other scopes does not rely on it.
    pub(crate) is_claim: bool,
    /// Of a large object, which is not parsed again for this: whether pages tolerate it in an add, where it is whole.
    pub(crate) can_add: Option<bool>,
}

/// What an object was before a change; kept where not every page receives every object.
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
    pub(crate) at: Option<Sequence>,
    pub(crate) scopes: Scopes,
    /// All scopes it had been published in by then.
    pub(crate) ever: Scopes,
    pub(crate) was: PriorObject,
}

/// Scopes that are remembered of one object. The bound is needed because any page may move an object often.
const MAX_EVER: usize = 64;

impl PriorState {
    /// All scopes an object has been published in, with those of now.
    pub(crate) fn ever_and(&self, now: &Scopes) -> Scopes {
        match self {
            Self::Known(state) if !matches!(state.was, PriorObject::Gone) => {
                let ever = state.ever.and(&state.scopes).and(now);
                if ever.names().count() > MAX_EVER { state.scopes.and(now) } else { ever }
            }
            Self::Known(_) | Self::Unknown | Self::Absent => now.clone(),
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum PriorObject {
    Object(#[serde(with = "text")] Bytes),
    /// There was one.
    Something,
    /// There was one before a refresh: what has become of it is unknown.
    Doubtful,
    Gone,
}

impl Version {
    fn bytes(&self) -> usize {
        let object = match &self.was {
            PriorObject::Object(object) => object.len(),
            PriorObject::Something | PriorObject::Doubtful | PriorObject::Gone => 0,
        };
        size_of::<Self>() + self.scopes.bytes() + self.ever.bytes() + object
    }
}
