//! What is left of one entity's deleted objects.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::text;
use crate::{scope::Scopes, sequence::Sequence};

/// What one tombstone costs besides its texts: the entry, its entry in the index, and what an allocation needs.
const OVERHEAD: usize = 300;

/// What is left of a deleted object.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Tombstone {
    #[serde(skip, default = "Instant::now")]
    pub(crate) at: Instant,
    pub(crate) id: Arc<str>,
    pub(crate) key: Arc<str>,
    /// The object of the deletion: its id as JSON.
    #[serde(with = "text")]
    pub(crate) object: Box<[u8]>,
    pub(crate) may_be_exception: bool,
    /// The scopes whose pages had the object.
    pub(crate) scopes: Scopes,
    /// All scopes it was published in.
    pub(crate) ever: Scopes,
    /// The scopes it moved to: their pages have it.
    pub(crate) went_to: Scopes,
    /// Only a request claims that there was such an object here.
    pub(crate) is_claim: bool,
    /// The object as it was; `None` where that is unknown, or every page may see it.
    #[serde(serialize_with = "text::serialize_option", deserialize_with = "text::deserialize_option")]
    pub(crate) last: Option<Bytes>,
    /// The deletion has been resent to every page that was open, when it settled.
    pub(crate) has_settled: bool,
}

impl Tombstone {
    fn bytes(&self) -> usize {
        let key = if Arc::ptr_eq(&self.id, &self.key) { 0 } else { self.key.len() };
        let scopes = self.scopes.bytes() + self.ever.bytes() + self.went_to.bytes();
        let last = self.last.as_ref().map_or(0, Bytes::len);
        OVERHEAD + self.id.len() + key + self.object.len() + scopes + last
    }

    /// About what it costs to send: up to three messages that name the id.
    pub(crate) fn frame_bytes(&self) -> usize {
        3 * (self.object.len() + 100)
    }
}

/// The tombstones of one entity, by the sequence numbers of the deletions.
#[derive(Debug, Default)]
pub(super) struct Tombstones {
    pub(super) by_sequence: BTreeMap<Sequence, Tombstone>,
    pub(super) bytes: usize,
}

impl Tombstones {
    pub(super) fn insert(&mut self, sequence: Sequence, tombstone: Tombstone) {
        self.bytes += tombstone.bytes();
        self.by_sequence.insert(sequence, tombstone);
    }

    pub(super) fn remove(&mut self, sequence: Sequence) -> Option<Tombstone> {
        let removed = self.by_sequence.remove(&sequence)?;
        self.bytes -= removed.bytes();
        Some(removed)
    }

    pub(super) fn pop_oldest(&mut self) -> Option<(Sequence, Tombstone)> {
        let (sequence, removed) = self.by_sequence.pop_first()?;
        self.bytes -= removed.bytes();
        Some((sequence, removed))
    }

    pub(super) fn range(&self, within: Range<Sequence>) -> impl DoubleEndedIterator<Item = (Sequence, &Tombstone)> {
        self.by_sequence.range(within).map(|(&sequence, tombstone)| (sequence, tombstone))
    }
}
