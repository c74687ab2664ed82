//! Limits the warnings of one kind, so that one page can neither fill the log nor suppress other warnings.

use std::{collections::HashMap, panic::Location, time::Duration};

use tokio::time::Instant;

/// Lines of one kind that are written within [`WINDOW`].
const LINES_PER_WINDOW: u32 = 20;
const WINDOW: Duration = Duration::from_secs(10);
/// Kinds that have a budget of their own; further kinds share one. Kinds are places in this crate's code, which has far
/// fewer.
const MAX_KINDS: usize = 256;

/// The budget of each kind of warning. The kind is the place in the code that warns.
#[derive(Debug, Default)]
pub(crate) struct WarningBudgets {
    kinds: HashMap<&'static Location<'static>, Budget>,
    shared: Budget,
}

#[derive(Debug, Default)]
struct Budget {
    window: Option<Instant>,
    in_window: u32,
    /// Suppressed lines that no later line has mentioned yet.
    suppressed: u64,
}

/// A line that may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Allowance {
    /// Lines that were suppressed before it.
    pub(crate) suppressed: u64,
    /// The rest of this window is suppressed.
    pub(crate) is_last: bool,
}

impl WarningBudgets {
    pub(crate) fn take(&mut self, kind: &'static Location<'static>, now: Instant) -> Option<Allowance> {
        if self.kinds.len() >= MAX_KINDS && !self.kinds.contains_key(kind) {
            return self.shared.take(now);
        }
        self.kinds.entry(kind).or_default().take(now)
    }
}

impl Budget {
    fn take(&mut self, now: Instant) -> Option<Allowance> {
        if self.window.is_none_or(|since| now.saturating_duration_since(since) > WINDOW) {
            self.window = Some(now);
            self.in_window = 0;
        }
        if self.in_window >= LINES_PER_WINDOW {
            self.suppressed += 1;
            return None;
        }
        self.in_window += 1;
        let is_last = self.in_window == LINES_PER_WINDOW;
        Some(Allowance { suppressed: std::mem::take(&mut self.suppressed), is_last })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[allow(clippy::unnecessary_wraps, reason = "what `take` returns")]
    fn written(suppressed: u64, is_last: bool) -> Option<Allowance> {
        Some(Allowance { suppressed, is_last })
    }

    #[track_caller]
    fn here() -> &'static Location<'static> {
        Location::caller()
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_one_kind_leaves_other_kinds_their_budget() {
        let (flooding, quiet) = (here(), here());
        assert_ne!(flooding, quiet);
        let mut budgets = WarningBudgets::default();
        let taken: Vec<Option<Allowance>> = (0..25).map(|_| budgets.take(flooding, Instant::now())).collect();
        assert!(taken[..19].iter().all(|it| *it == written(0, false)), "{taken:?}");
        assert_eq!(taken[19], written(0, true));
        assert!(taken[20..].iter().all(|it| it.is_none()), "{taken:?}");
        assert_eq!(budgets.take(quiet, Instant::now()), written(0, false));
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_window_reports_once_how_many_were_suppressed() {
        let kind = here();
        let mut budgets = WarningBudgets::default();
        for _ in 0..57 {
            budgets.take(kind, Instant::now());
        }
        tokio::time::advance(WINDOW).await;
        assert_eq!(budgets.take(kind, Instant::now()), None, "the same window still");
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(budgets.take(kind, Instant::now()), written(38, false));
        assert_eq!(budgets.take(kind, Instant::now()), written(0, false));
    }
}
