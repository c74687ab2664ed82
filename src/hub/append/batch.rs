//! Changes that are told together, and what the large ones of them were put together with.

use std::ops::Range;

use bytes::Bytes;

use crate::{change::Change, hub::Published, protocol::EventFrame, scope::Scopes};

/// Objects of so many bytes are not handled under the log's lock.
pub(crate) const LARGE: usize = 16 * 1024;

/// What a change is put together with before it is encoded.
#[derive(Clone, Debug)]
pub(crate) enum Basis {
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
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Alone, Self::Alone) => true,
            (Self::Over { sequence, .. }, Self::Over { sequence: other, .. })
            | (Self::Under { sequence, .. }, Self::Under { sequence: other, .. }) => sequence == other,
            _ => false,
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Alone => 0,
            Self::Over { object, .. } | Self::Under { object, .. } => object.len(),
        }
    }
}

/// An add or update, ready to be told.
pub(crate) struct Encoded {
    pub(crate) basis: Basis,
    pub(crate) event: EventFrame,
    pub(crate) parent: Option<String>,
    /// With what it was put together it would be too large: it stands alone, and so it is no whole object.
    pub(crate) is_cut: bool,
    /// Whether pages can be told to add it, where that takes long to find out.
    pub(crate) can_add: Option<bool>,
}

/// Changes that are told together.
pub(crate) struct Batch<'a> {
    pub(crate) changes: &'a [Change],
    /// So many of them are done with.
    pub(crate) told: usize,
    pub(crate) encoded: Vec<Option<Encoded>>,
    /// Where the log stood when their write began.
    pub(crate) began: Option<u64>,
    /// The stretches of the log that hold what is told so far.
    pub(crate) parts: Vec<Range<u64>>,
    /// The changes that are told, and to whom: for the audit.
    pub(crate) announced: Vec<(usize, Scopes)>,
    pub(crate) published: Published,
}

impl<'a> Batch<'a> {
    pub(crate) fn of(changes: &'a [Change], began: Option<u64>) -> Self {
        let encoded = changes.iter().map(|_| None).collect();
        let published = Published { changes: 0, elsewhere: false };
        Self { changes, told: 0, encoded, began, parts: Vec::new(), announced: Vec::new(), published }
    }

    /// The time since their write began; `ended` is where the log stands before what is told next.
    pub(crate) fn meanwhile(&self, ended: u64) -> Option<Meanwhile<'_>> {
        self.began.map(|began| Meanwhile { began, ended, parts: &self.parts })
    }

    /// Whether a change is large with what it is to be put together with, and has not been.
    pub(crate) fn is_unread(&self, at: usize, basis: &Basis) -> bool {
        let is_ready = self.encoded[at].as_ref().is_some_and(|encoded| encoded.basis.is_same(basis));
        self.changes[at].object().len() + basis.bytes() >= LARGE && !is_ready
    }
}

/// The time from the begin of a write to the telling of what it changed.
#[derive(Clone, Copy)]
pub(crate) struct Meanwhile<'a> {
    pub(crate) began: u64,
    pub(crate) ended: u64,
    /// What the same batch told is not of others.
    pub(crate) parts: &'a [Range<u64>],
}

impl Meanwhile<'_> {
    pub(crate) fn contains(&self, at: u64) -> bool {
        (self.began..self.ended).contains(&at) && !self.parts.iter().any(|part| part.contains(&at))
    }
}
