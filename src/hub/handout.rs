//! What is handed to many at once.

use std::ops::Range;

use tokio::time::Instant;

use crate::hub::{EntityIndex, sight::Said};

/// A run of new records.
pub(super) struct Batch {
    pub(super) start: u64,
    pub(super) records: Vec<Said>,
    pub(super) now: Instant,
}

impl Batch {
    pub(super) fn end(&self) -> u64 {
        self.start + self.records.len() as u64
    }
}

/// What is to be told once more to everyone.
#[derive(Clone, Debug)]
pub(super) struct Repeat {
    pub(super) entity: EntityIndex,
    pub(super) told: Range<u64>,
    /// Where the log does not hold all of it, pages lose their place; otherwise they are told what it holds.
    pub(super) is_last: bool,
    /// What was added before is on every page.
    pub(super) known_before: u64,
    pub(super) only_deletions: bool,
}

impl Repeat {
    /// Takes another one along, if that is of the same kind.
    pub(super) fn merge(&mut self, other: &Self) -> bool {
        let fits = self.entity == other.entity && self.only_deletions == other.only_deletions;
        if fits {
            self.told = self.told.start.min(other.told.start)..self.told.end.max(other.told.end);
            self.is_last |= other.is_last;
            self.known_before = self.known_before.min(other.known_before);
        }
        fits
    }
}

/// The same, ready to be written.
pub(super) struct Repetition {
    pub(super) repeat: Repeat,
    /// Whoever has been handed everything before this, and nothing else, can hear it.
    pub(super) until: u64,
    /// The log does not hold all of it any more.
    pub(super) is_gone: bool,
    /// `None` where it is so much that each is told at its own pace.
    pub(super) frames: Option<Vec<Said>>,
}
