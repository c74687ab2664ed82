//! Sequence numbers: the places in the log.

use serde::{Deserialize, Serialize};

/// The number of a record: one order for all entities. As a bound it means everything from this record on, or everything
/// before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Sequence(pub(crate) u64);

impl Sequence {
    /// Of the first record.
    pub(crate) const ZERO: Self = Self(0);
    /// Behind every record.
    pub(crate) const MAX: Self = Self(u64::MAX);

    /// The place behind this record.
    pub(crate) fn next(self) -> Self {
        Self(self.0 + 1)
    }
}
