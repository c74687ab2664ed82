//! Where a subscriber's frames go.

use super::super::visibility::Cleared;

/// Where a subscriber's frames go.
pub(crate) trait FrameSink: Send + Sync {
    /// Accepts whole frames, in order, as many as it can without waiting. What it has accepted it will deliver.
    fn try_send(&self, frames: &[&Cleared]) -> Accepted;
    /// True when the fan-out may send frames; false where only the subscriber's own task can write.
    fn is_direct(&self) -> bool;
    /// Touches what sending needs, so that the memory of several is fetched at one time.
    fn prefetch(&self) {}
    /// Pings the page soon.
    fn ping(&self) {}
    /// Wakes the subscriber's own task: it has left the fast path, or there is news that only it can write.
    fn wake(&self);
}

/// How sending went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Accepted {
    /// Frames accepted, from the front.
    pub(crate) frames: usize,
    /// True when nothing waits to be written, so that more may be sent at once.
    pub(crate) clear: bool,
}
