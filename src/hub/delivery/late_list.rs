//! The list of a young page: it may stand in the buffers of the kernel, or of a proxy, for much longer than the server
//! can see.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    hub::{core::DeliveryTimes, settle::Settle},
    sequence::Sequence,
};

/// How long after its list has left a young page is resent what that may lack.
const LATE_LISTS: [Duration; 2] = [Duration::from_secs(30), Duration::from_secs(120)];
/// So soon it cannot be known that a list has left.
const SOON: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug)]
pub(crate) struct LateList {
    /// When the page came.
    came: Instant,
    /// Its list may lack what was published from there on.
    pub(crate) from: Sequence,
    /// When its list had left, as far as that can be seen; at first, when it came.
    left: Instant,
    /// How often the page was resent what it may lack.
    resent: usize,
}

impl LateList {
    pub(crate) fn new(came: Instant, from: Sequence) -> Self {
        Self { came, from, left: came, resent: 0 }
    }

    /// Whether a page that came then is young.
    pub(crate) fn may_come(came: Instant, now: Instant) -> bool {
        now.saturating_duration_since(came) < LATE_LISTS[LATE_LISTS.len() - 1] + SOON
    }

    /// How long a page that came then may be without its list. In a tree the list must come first: it is older than what is
    /// sent, and with some of both a task may stand below its own child.
    pub(crate) fn awaited_until(came: Instant) -> Instant {
        came + SOON
    }

    /// Whether a list was requested since shortly before the page came.
    pub(crate) fn is_expected(&self, settle: &Settle, times: &DeliveryTimes) -> bool {
        self.came.checked_sub(times.first_load).is_none_or(|since| settle.has_lists_since(since))
    }

    /// When its page is resent all next; `now` it has been sent all, and no list is on its way that can be seen.
    pub(crate) fn next(&mut self, now: Instant) -> Option<Instant> {
        if self.resent == 0 && now > self.came + LATE_LISTS[0] {
            self.left = now.checked_sub(SOON).map_or(self.came, |then| then.max(self.came));
        }
        let wait = LATE_LISTS.get(self.resent)?;
        self.resent += 1;
        Some((self.left + *wait).max(now))
    }

    /// The resend is done for another reason before its time: the list is still to come.
    pub(crate) fn put_off(&mut self) {
        self.resent = self.resent.saturating_sub(1);
    }
}
