//! How fast a resend goes on: its page needs the time to draw.

use tokio::time::Instant;

use crate::hub::core::Pace;

/// How far the lines of a resend are from its next pause.
#[derive(Debug, Default)]
pub(super) struct Pacing {
    /// So many lines that are drawn may be sent before it pauses.
    pub(super) room: usize,
    /// So many have been sent since it paused last.
    drawn: usize,
    /// It does not pause.
    is_hurried: bool,
    /// It pauses until then.
    pub(super) pauses_until: Option<Instant>,
}

impl Pacing {
    /// It begins to send, where so many rows are known to follow.
    pub(super) fn begin(&mut self, pace: &Pace, rows: usize) {
        self.room = if self.is_hurried { usize::MAX } else { pace.first(rows) };
    }

    pub(super) fn hurry(&mut self) {
        *self = Self { room: usize::MAX, is_hurried: true, ..Self::default() };
    }

    /// So many lines are drawn. True where it pauses, and leaves its page the time for these.
    pub(super) fn pauses(&mut self, drawn: usize, pace: &Pace, now: Instant) -> bool {
        self.drawn += drawn;
        self.room = self.room.saturating_sub(drawn);
        if self.room > 0 || self.is_hurried {
            return false;
        }
        self.room = pace.at_once;
        self.pauses_until = Some(now + pace.time_for(std::mem::take(&mut self.drawn)));
        true
    }
}
