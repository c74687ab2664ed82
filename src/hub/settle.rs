//! When to say it again: once an entity's writes have gone quiet.
//!
//! The stock client drops what is said of an object while it saves that object itself, and holds new objects back
//! while it saves a new one of its own. Nothing shows which page that was. What was told while some page may have been
//! saving is a *stretch*: it is told once more, each object in its newest state, when nobody can be saving any more.
//!
//! Callers say what time it is; nothing here waits.

use std::time::Duration;

use tokio::time::Instant;

/// The times of settling.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SettleTimes {
    /// Quiet for this long, and the stretch is told again.
    pub(crate) quiet: Duration,
    /// Writes closer than this overlap: a page begins to save some time before its write arrives here, and learns some
    /// time after the answer left that it is saved.
    pub(crate) overlap: Duration,
    /// Without a quiet moment, what is new is told again this often.
    pub(crate) longest: Duration,
}

/// A page shows its list this long after the answer left.
const LIST_ON_ITS_WAY: Duration = Duration::from_secs(2);
/// A write or a list that takes longer than this is not waited for.
const HANGING: Duration = Duration::from_secs(60);
/// How often a whole stretch may be told again although writes follow at once each time.
const MOST_CLOSINGS: u32 = 3;

/// What is to be told again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Due {
    pub(crate) from: u64,
    /// Nothing will be told of it after this.
    pub(crate) is_last: bool,
}

/// One entity's writes, and what of them must be told again.
#[derive(Debug)]
pub(crate) struct Settle {
    writes: InFlight,
    lists: InFlight,
    stretch: Option<Stretch>,
}

/// Requests of one kind.
#[derive(Debug, Default)]
struct InFlight {
    begun: Vec<Instant>,
    ended: Option<Instant>,
}

impl InFlight {
    fn end(&mut self, begun: Instant, now: Instant) {
        if let Some(at) = self.begun.iter().position(|known| *known == begun) {
            self.begun.swap_remove(at);
        }
        self.ended = Some(now);
    }

    /// Since when there has been none; one that hangs counts for a while only.
    fn quiet_since(&self, now: Instant) -> Quiet {
        let hanging = self.begun.iter().map(|begun| *begun + HANGING).max();
        match hanging {
            Some(until) if now < until => Quiet::NotNow,
            hanging => hanging.max(self.ended).map_or(Quiet::Always, Quiet::Since),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Quiet {
    Always,
    Since(Instant),
    NotNow,
}

/// Writes so close together that pages may have missed something of them.
#[derive(Debug)]
struct Stretch {
    /// The first sequence number that somebody may have missed.
    from: u64,
    /// Where the latest two repeats ended; the next one begins at the earlier, so that everything is told twice again.
    repeated: [u64; 2],
    /// There was more than one write, or a list that was read meanwhile.
    contended: bool,
    /// Something has happened since the latest quiet repeat.
    fresh: bool,
    /// The latest repeat, or the beginning.
    since: Instant,
    /// Something older than the latest quiet repeat may have been missed with every repeat of it.
    uncovered: bool,
    closings: u32,
}

impl Settle {
    /// Answers of a server before this one may be on their way still.
    pub(crate) fn new(now: Instant) -> Self {
        let ended = || InFlight { ended: Some(now), ..InFlight::default() };
        Self { writes: ended(), lists: ended(), stretch: None }
    }

    /// A write arrives, or something is published by hand. `head` is where the log stands.
    pub(crate) fn write_begins(&mut self, now: Instant, head: u64, times: &SettleTimes) {
        if self.is_over(now, times) {
            self.stretch = None;
        }
        self.writes.begun.push(now);
        match &mut self.stretch {
            Some(stretch) => {
                stretch.contended = true;
                stretch.fresh = true;
            }
            None => {
                self.stretch = Some(Stretch {
                    from: head,
                    repeated: [head; 2],
                    contended: false,
                    fresh: true,
                    since: now,
                    uncovered: false,
                    closings: 0,
                });
            }
        }
    }

    /// The write that began then is answered.
    pub(crate) fn write_ends(&mut self, begun: Instant, now: Instant) {
        self.writes.end(begun, now);
    }

    /// A page asks for the list.
    pub(crate) fn list_begins(&mut self, now: Instant) {
        self.lists.begun.push(now);
    }

    /// It has the list, or nearly so.
    pub(crate) fn list_ends(&mut self, begun: Instant, now: Instant) {
        self.lists.end(begun, now);
    }

    /// Something was told. A list that is read at the same time may be older, and undo it on its page.
    pub(crate) fn told(&mut self, now: Instant) {
        let undone = self.lists_quiet_since(now) > Quiet::Since(now);
        if let Some(stretch) = self.stretch.as_mut().filter(|_| undone) {
            stretch.contended = true;
        }
    }

    /// When to look at it next.
    pub(crate) fn due(&self, now: Instant, times: &SettleTimes) -> Option<Instant> {
        let stretch = self.stretch.as_ref()?;
        let forced = stretch.since + times.longest;
        match self.quiet_since(now) {
            Quiet::NotNow => Some(forced),
            Quiet::Always => Some(now),
            Quiet::Since(since) if stretch.contended && stretch.fresh => Some((since + times.quiet).min(forced)),
            Quiet::Since(since) => Some((since + times.overlap).max(stretch.since + times.quiet)),
        }
    }

    /// From where on things are to be told again at this time.
    pub(crate) fn repeat(&mut self, now: Instant, head: u64, times: &SettleTimes) -> Option<Due> {
        if self.due(now, times).is_none_or(|due| due > now) {
            return None;
        }
        let is_quiet = self.quiet_since(now) <= Quiet::Since(now.checked_sub(times.quiet)?);
        let stretch = self.stretch.as_mut()?;
        let from = if stretch.contended && stretch.fresh {
            let from = stretch.repeated[0];
            stretch.repeated = [stretch.repeated[1], head];
            stretch.fresh = !is_quiet;
            stretch.uncovered = stretch.from < from;
            from
        } else if !is_quiet {
            head
        } else if stretch.uncovered && stretch.closings < MOST_CLOSINGS {
            // For so long has nobody written that nobody is saving.
            stretch.uncovered = false;
            stretch.closings += 1;
            stretch.from
        } else {
            self.stretch = None;
            return None;
        };
        stretch.since = now;
        (from < head).then_some(Due { from, is_last: is_quiet })
    }

    /// The first sequence number that somebody may have missed, until it has been told again.
    pub(crate) fn unsettled_from(&self) -> Option<u64> {
        self.stretch.as_ref().map(|stretch| stretch.from)
    }

    /// From where on everyone will be told again without anything more happening.
    pub(crate) fn will_repeat_from(&self) -> Option<u64> {
        let stretch = self.stretch.as_ref()?;
        let closes = stretch.uncovered.then_some(stretch.from);
        if stretch.contended && stretch.fresh { Some(stretch.repeated[0]) } else { closes }
    }

    /// True when nobody has been writing, or reading a list, from then on.
    pub(crate) fn is_calm_since(&self, then: Instant, now: Instant) -> bool {
        self.quiet_since(now) <= Quiet::Since(then)
    }

    fn is_over(&self, now: Instant, times: &SettleTimes) -> bool {
        let settled = self.stretch.as_ref().is_some_and(|stretch| !(stretch.contended && stretch.fresh));
        settled && self.due(now, times).is_some_and(|due| due < now)
    }

    fn quiet_since(&self, now: Instant) -> Quiet {
        self.writes.quiet_since(now).max(self.lists_quiet_since(now))
    }

    fn lists_quiet_since(&self, now: Instant) -> Quiet {
        match self.lists.quiet_since(now) {
            Quiet::Since(ended) => Quiet::Since(ended + LIST_ON_ITS_WAY),
            other => other,
        }
    }
}
