//! An object's newest state, as it is told to those who come late.

use bytes::Bytes;

use crate::protocol;

/// An add, where that can be said, and an update.
#[derive(Debug)]
pub(crate) struct Upsert {
    frames: Bytes,
    update_at: usize,
}

impl Upsert {
    pub(crate) fn of(add: Bytes, update: Bytes) -> Self {
        let update_at = add.len();
        Self { update_at, frames: if add.is_empty() { update } else { protocol::glued(&[add, update]) } }
    }

    /// For pages that may have the object or not.
    pub(crate) fn for_anyone(&self) -> Bytes {
        self.frames.clone()
    }

    /// For pages that have it.
    pub(crate) fn for_those_who_have_it(&self) -> Bytes {
        self.frames.slice(self.update_at..)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.frames.len()
    }
}
