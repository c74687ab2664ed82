//! Times as they stand in a file: in milliseconds before it was written.

use std::{
    iter,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::time::Instant;

/// When a file is written or read, and how long ago it was written.
#[derive(Debug)]
pub(crate) struct Clock {
    pub(crate) now: Instant,
    downtime: Duration,
    /// Some clocks do not go back further. What was before counts as this old.
    reach: Duration,
}

impl Clock {
    pub(crate) fn new(now: Instant, downtime: Duration) -> Self {
        let mut halves = iter::successors(Some(Duration::MAX), |reach| Some(*reach / 2));
        let reach = halves.find(|reach| now.checked_sub(*reach).is_some()).unwrap_or_default();
        Self { now, downtime, reach }
    }

    pub(crate) fn age(&self, at: Instant) -> u64 {
        millis(self.now.saturating_duration_since(at))
    }

    /// The time that was so long before the file was written.
    pub(crate) fn at(&self, age: u64) -> Instant {
        self.now - self.downtime.saturating_add(Duration::from_millis(age)).min(self.reach)
    }
}

/// The time by the wall clock, in milliseconds since 1970.
pub(crate) fn wall_clock() -> u64 {
    millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
