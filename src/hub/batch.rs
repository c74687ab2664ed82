//! Changes that are told together, and what the large ones of them were put together with.

use std::ops::Range;

use bytes::Bytes;

use crate::{change::Change, hub::Published, protocol::EventFrame, scope::Scopes};

/// Objects of so many bytes are not handled under the log's lock.
pub(super) const LARGE: usize = 16 * 1024;

/// What a change is put together with before it is encoded.
#[derive(Clone, Debug)]
pub(super) enum Basis {
    Alone,
    /// It is laid over what this record tells of its object.
    Over {
        sequence: u64,
        object: Bytes,
    },
    /// This record is newer, and lies over it.
    Under {
        sequence: u64,
        object: Bytes,
    },
}

impl Basis {
    pub(super) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Alone, Self::Alone) => true,
            (Self::Over { sequence, .. }, Self::Over { sequence: other, .. })
            | (Self::Under { sequence, .. }, Self::Under { sequence: other, .. }) => sequence == other,
            _ => false,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Alone => 0,
            Self::Over { object, .. } | Self::Under { object, .. } => object.len(),
        }
    }
}

/// An add or update, ready to be told.
pub(super) struct Encoded {
    pub(super) basis: Basis,
    pub(super) event: EventFrame,
    pub(super) parent: Option<String>,
    /// With what it was put together it would be too large: it stands alone, and so it is no whole object.
    pub(super) is_cut: bool,
    /// Whether pages can be told to add it, where that takes long to find out.
    pub(super) can_add: Option<bool>,
}

/// Changes that are told together.
pub(super) struct Batch<'a> {
    pub(super) changes: &'a [Change],
    /// So many of them are done with.
    pub(super) told: usize,
    pub(super) encoded: Vec<Option<Encoded>>,
    /// Where the log stood when their write began.
    pub(super) began: Option<u64>,
    /// The stretches of the log that hold what is told so far.
    pub(super) parts: Vec<Range<u64>>,
    /// The changes that are told, and to whom: for the audit.
    pub(super) announced: Vec<(usize, Scopes)>,
    pub(super) published: Published,
}

impl<'a> Batch<'a> {
    pub(super) fn of(changes: &'a [Change], began: Option<u64>) -> Self {
        let encoded = changes.iter().map(|_| None).collect();
        let published = Published { changes: 0, elsewhere: false };
        Self { changes, told: 0, encoded, began, parts: Vec::new(), announced: Vec::new(), published }
    }

    /// The time since their write began; `ended` is where the log stands before what is told next.
    pub(super) fn meanwhile(&self, ended: u64) -> Option<Meanwhile<'_>> {
        self.began.map(|began| Meanwhile { began, ended, parts: &self.parts })
    }

    /// Whether a change is large with what it is to be put together with, and has not been.
    pub(super) fn is_unread(&self, at: usize, basis: &Basis) -> bool {
        let is_ready = self.encoded[at].as_ref().is_some_and(|encoded| encoded.basis.is_same(basis));
        self.changes[at].object().len() + basis.bytes() >= LARGE && !is_ready
    }
}

/// The time from the begin of a write to the telling of what it changed.
#[derive(Clone, Copy)]
pub(super) struct Meanwhile<'a> {
    pub(super) began: u64,
    pub(super) ended: u64,
    /// What the same batch told is not of others.
    pub(super) parts: &'a [Range<u64>],
}

impl Meanwhile<'_> {
    pub(super) fn contains(&self, at: u64) -> bool {
        (self.began..self.ended).contains(&at) && !self.parts.iter().any(|part| part.contains(&at))
    }
}
