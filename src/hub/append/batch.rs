//! Changes that are done together, and what the large ones of them were put together with.

use std::{collections::HashSet, ops::Range};

use bytes::Bytes;

use super::super::encoder::LARGE;
use crate::{
    change::{Change, ChangeKind},
    protocol::EventFrame,
    scope::Scopes,
};

/// What came of changes that were to be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Published {
    /// So many are in the log.
    pub(crate) changes: u64,
    /// Some are not, since a request claimed to change what is in other scopes.
    pub(crate) elsewhere: bool,
}

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

/// An add or update, ready to be done.
pub(crate) struct Encoded {
    pub(crate) basis: Basis,
    pub(crate) event: EventFrame,
    pub(crate) parent: Option<String>,
    /// With what it was put together it would be too large: it stands alone, and so it is no whole object.
    pub(crate) is_cut: bool,
    /// Whether pages can be done to add it, where that takes long to find out.
    pub(crate) can_add: Option<bool>,
}

/// A change that is published, and to whom: for the audit.
pub(crate) struct Announced {
    pub(crate) id: String,
    pub(crate) kind: ChangeKind,
    pub(crate) scopes: Scopes,
}

/// Changes that are done together.
pub(crate) struct Batch<'a> {
    pub(crate) changes: &'a [Change],
    /// So many of them are done with.
    pub(crate) done: usize,
    pub(crate) encoded: Vec<Option<Encoded>>,
    /// Where the log stood when their write began.
    pub(crate) began: Option<u64>,
    /// The stretches of the log that hold what is done so far.
    pub(crate) parts: Vec<Range<u64>>,
    pub(crate) announced: Vec<Announced>,
    /// The keys of all its objects, once that is asked.
    pub(crate) keys: Option<HashSet<String>>,
    pub(crate) published: Published,
}

impl<'a> Batch<'a> {
    pub(crate) fn of(changes: &'a [Change], began: Option<u64>) -> Self {
        let encoded = changes.iter().map(|_| None).collect();
        let published = Published { changes: 0, elsewhere: false };
        Self { changes, done: 0, encoded, began, parts: Vec::new(), announced: Vec::new(), keys: None, published }
    }

    /// A record is appended; with its scopes where there is an audit.
    pub(crate) fn appended(&mut self, audited: Option<Scopes>, change: &Change) {
        self.published.changes += 1;
        let announce = |scopes| Announced { id: change.id().to_owned(), kind: change.kind(), scopes };
        self.announced.extend(audited.map(announce));
    }

    /// The time since their write began; `ended` is where the log stands before what is done next.
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
    /// What the same batch done is not of others.
    pub(crate) parts: &'a [Range<u64>],
}

impl Meanwhile<'_> {
    pub(crate) fn contains(&self, at: u64) -> bool {
        (self.began..self.ended).contains(&at) && !self.parts.iter().any(|part| part.contains(&at))
    }
}
