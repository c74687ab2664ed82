//! Changes that are published together, and what the large ones of them were merged with.

use std::{collections::HashSet, ops::Range, sync::Arc};

use bytes::Bytes;

use super::super::{encoder::LARGE, log::Owner, settle::WriteNumber};
use crate::{
    change::{Change, ChangeKind},
    entity::Place,
    protocol::EventFrame,
    scope::Scopes,
    sequence::Sequence,
};

/// The write that changes come from; by default none that is known.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct WriteContext {
    /// Where the log stood when it began: an object that was published since then is newer than one it adds.
    pub(crate) began: Option<Sequence>,
    pub(crate) number: Option<WriteNumber>,
    /// The pages it may come from, where others can be told from them.
    pub(crate) writer: Option<Owner>,
}

impl From<Option<Sequence>> for WriteContext {
    fn from(began: Option<Sequence>) -> Self {
        Self { began, ..Self::default() }
    }
}

/// What came of changes that were to be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Published {
    /// So many are in the log.
    pub(crate) changes: u64,
    /// Some are not, since a request claimed to change what is in other scopes.
    pub(crate) elsewhere: bool,
}

/// What a change is merged with before it is encoded: what a record of the log holds of its object.
#[derive(Clone, Debug)]
pub(crate) struct Basis {
    pub(crate) sequence: Sequence,
    pub(crate) object: Bytes,
    /// The record is newer than the change, and lies over it.
    pub(crate) is_newer: bool,
}

fn is_same(one: Option<&Basis>, other: Option<&Basis>) -> bool {
    let record = |basis: &Basis| (basis.sequence, basis.is_newer);
    one.map(record) == other.map(record)
}

/// An add or update, ready to be published.
pub(crate) struct Encoded {
    pub(crate) basis: Option<Basis>,
    pub(crate) event: EventFrame,
    pub(crate) parents: Vec<String>,
    /// Where it stands among its siblings.
    pub(crate) place: Option<Arc<Place>>,
    /// Merged it would be too large: it stands alone, and so it is no whole object.
    pub(crate) is_cut: bool,
    /// Whether pages can be sent an add, where that takes long to find out.
    pub(crate) can_add: Option<bool>,
}

/// A change that is published, and to whom: for the audit.
pub(crate) struct Announced {
    pub(crate) id: String,
    pub(crate) kind: ChangeKind,
    pub(crate) scopes: Scopes,
}

/// Changes that are published together.
pub(crate) struct Batch<'a> {
    pub(crate) changes: &'a [Change],
    /// So many of them are done with.
    pub(crate) done: usize,
    pub(crate) encoded: Vec<Option<Encoded>>,
    pub(crate) write: WriteContext,
    /// The ranges of the log that hold what is published so far.
    pub(crate) parts: Vec<Range<Sequence>>,
    pub(crate) announced: Vec<Announced>,
    /// The keys of all its objects, once that is asked.
    pub(crate) keys: Option<HashSet<String>>,
    pub(crate) published: Published,
    /// So many tasks were moved among their siblings.
    pub(crate) moved: usize,
}

impl<'a> Batch<'a> {
    pub(crate) fn of(changes: &'a [Change], write: WriteContext) -> Self {
        let encoded = changes.iter().map(|_| None).collect();
        let published = Published { changes: 0, elsewhere: false };
        Self {
            changes,
            done: 0,
            encoded,
            write,
            parts: Vec::new(),
            announced: Vec::new(),
            keys: None,
            published,
            moved: 0,
        }
    }

    /// Whether it is known which object its write is about: others may have changed along.
    pub(crate) fn has_target(&self) -> bool {
        self.changes.iter().any(|change| change.is_target || change.kind() != ChangeKind::Update)
    }

    /// A record is appended; with its scopes where there is an audit.
    pub(crate) fn appended(&mut self, audited: Option<Scopes>, change: &Change) {
        self.published.changes += 1;
        let announce = |scopes| Announced { id: change.id().to_owned(), kind: change.kind(), scopes };
        self.announced.extend(audited.map(announce));
    }

    /// The time since their write began; `ended` is where the log stands before what is published next.
    pub(crate) fn meanwhile(&self, ended: Sequence) -> Option<Meanwhile<'_>> {
        self.write.began.map(|began| Meanwhile { began, ended, parts: &self.parts })
    }

    /// What a change was encoded to, if that was with the same basis.
    pub(crate) fn take_encoded(&mut self, at: usize, basis: Option<&Basis>) -> Option<Encoded> {
        self.encoded[at].take().filter(|encoded| is_same(encoded.basis.as_ref(), basis))
    }

    /// Whether a change is large with what it is to be merged with, and has not been.
    pub(crate) fn is_unread(&self, at: usize, basis: Option<&Basis>) -> bool {
        let is_ready = self.encoded[at].as_ref().is_some_and(|encoded| is_same(encoded.basis.as_ref(), basis));
        self.changes[at].object().len() + basis.map_or(0, |basis| basis.object.len()) >= LARGE && !is_ready
    }
}

/// The time from the begin of a write to the publication of what it changed.
#[derive(Clone, Copy)]
pub(crate) struct Meanwhile<'a> {
    pub(crate) began: Sequence,
    pub(crate) ended: Sequence,
    /// What the same batch published is not of others.
    pub(crate) parts: &'a [Range<Sequence>],
}

impl Meanwhile<'_> {
    pub(crate) fn contains(&self, at: Sequence) -> bool {
        (self.began..self.ended).contains(&at) && !self.parts.iter().any(|part| part.contains(&at))
    }
}
