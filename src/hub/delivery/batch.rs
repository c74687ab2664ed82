//! What is handed to many at once.

use std::{ops::Range, sync::Arc};

use tokio::time::Instant;

use crate::hub::{EntityIndex, visibility::Envelope};

/// A run of new records.
pub(crate) struct Batch {
    pub(crate) start: u64,
    /// Behind the last of them.
    pub(crate) end: u64,
    pub(crate) records: Vec<(u64, Envelope)>,
    /// Some of the run went before it was handed out: each must find out itself whether that was for it.
    pub(crate) is_torn: bool,
    pub(crate) now: Instant,
}

/// What is to be told once more to everyone.
#[derive(Clone, Debug)]
pub(crate) struct Repeat {
    pub(crate) entity: EntityIndex,
    pub(crate) what: Resent,
}

#[derive(Clone, Debug)]
pub(crate) enum Resent {
    /// What settled.
    Settled {
        told: Range<u64>,
        /// Where the log does not hold all of it, pages lose their place; otherwise they are told what it holds.
        is_last: bool,
        /// What was added before is on every page.
        known_before: u64,
    },
    /// These deletions.
    Deletions(Arc<[u64]>),
    /// What each has lost sight of.
    Retractions,
}

impl Repeat {
    /// Takes another one along, if that is of the same kind.
    pub(crate) fn merge(&mut self, other: &Self) -> bool {
        if self.entity != other.entity {
            return false;
        }
        match (&mut self.what, &other.what) {
            (
                Resent::Settled { told, is_last, known_before },
                Resent::Settled { told: others, is_last: other_is_last, known_before: other_known_before },
            ) => {
                *told = told.start.min(others.start)..told.end.max(others.end);
                *is_last |= other_is_last;
                *known_before = (*known_before).min(*other_known_before);
                true
            }
            (Resent::Deletions(sequences), Resent::Deletions(others)) => {
                let mut all: Vec<u64> = sequences.iter().chain(&**others).copied().collect();
                all.sort_unstable();
                all.dedup();
                *sequences = all.into();
                true
            }
            (Resent::Retractions, Resent::Retractions) => true,
            _ => false,
        }
    }
}

/// The same, ready to be written.
pub(crate) struct RepeatBatch {
    pub(crate) repeat: Repeat,
    /// Whoever has been handed everything before this, and nothing else, can hear it.
    pub(crate) until: u64,
    /// The log may not hold all of it any more.
    pub(crate) is_torn: bool,
    /// With their sequence numbers; `None` where it is so much that each is told at its own pace.
    pub(crate) frames: Option<Vec<(u64, Envelope)>>,
}
