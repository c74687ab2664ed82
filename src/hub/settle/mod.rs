//! The debounced repeat ("settling"): when an entity's changes are resent, once its writes have gone quiet.
//!
//! The stock client drops updates of an object while it saves that object, and defers the adds of others while it saves
//! a new object. The server cannot see which page that was. What was published while some page may have been saving is a
//! *window*: it is resent, each object in its newest state, when no page can be saving any more.
//!
//! Callers pass the time; nothing here waits.

mod groups;
mod held;
mod refusals;

use std::{ops::Range, sync::Arc, time::Duration};

use tokio::time::Instant;

pub(crate) use self::groups::Settles;
pub(crate) use self::held::{Held, HeldObject, Named, Until, WriteNumber};
use self::refusals::Refusals;
use crate::sequence::Sequence;

/// The times of settling.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SettleTimes {
    /// After so long a quiet time, the window is resent.
    pub(crate) quiet: Duration,
    /// Writes closer than this overlap: a page begins to save some time before its write arrives here, and receives the
    /// answer some time after it left.
    pub(crate) overlap: Duration,
    /// Without a quiet moment, what is new is resent this often.
    pub(crate) longest: Duration,
    /// Changes of a tree of objects are broadcast so long after the answer to their write has left.
    pub(crate) hold: Duration,
}

/// A page shows its list this long after the answer left.
const LIST_ON_ITS_WAY: Duration = Duration::from_secs(2);
/// Settling does not wait for a write or a list that takes longer than this, and the window reaches no further back.
pub(crate) const HANGING: Duration = Duration::from_secs(60);
/// How soon it is looked again whether what is held has gone out.
const HELD_TICK: Duration = Duration::from_millis(250);
/// How often changes are resent at the end of a window, when writes follow at once each time.
const CLOSINGS: usize = 3;

/// After so many repeats without a quiet moment, what is older than as many repeats is resent a last time. Without an end
/// the window would outgrow the log.
const FORCED: u32 = 10;

/// What is to be resent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Due {
    pub(crate) range: Range<Sequence>,
    /// It is not resent after this: where the log does not reach back to its beginning, pages can only be
    /// brought to the store's state.
    pub(crate) is_last: bool,
    /// What was added before this has been resent a last time.
    pub(crate) known_before: Sequence,
    /// What waits for a quiet moment, and was held before this, is resent now.
    pub(crate) held_before: Sequence,
}

/// One entity's writes, and what of them must be resent.
#[derive(Debug)]
pub(crate) struct Settle {
    writes: InFlight,
    lists: InFlight,
    /// When the latest list left that may be older than the latest change.
    stale_list: Option<Instant>,
    /// When a page asked for a list last.
    latest_list: Option<Instant>,
    /// When something was published last: a list that is asked for later holds it.
    published_at: Instant,
    refusals: Refusals,
    window: Option<ContendedWindow>,
    /// Writes that were on their way at the latest refresh, and are still: their changes may be older than it.
    doubtful: Vec<Instant>,
    /// One that was has ended, and not by being refused: the refresh must be done again.
    refreshes: bool,
    /// Where the log stood behind what was published last …
    published: Sequence,
    /// … and behind what some page had to add to what it shows.
    added: Sequence,
    /// Counts what writes have done to the window.
    marks: u64,
    pub(crate) held: Held,
}

/// A write, and the state of the log and the window when its request came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WriteStart {
    at: Instant,
    /// Where the log stood.
    pub(crate) log_end: Sequence,
    /// What pages may have missed then, its own among them, which was saving already; and the number of the window.
    unsettled: Option<(Sequence, u64)>,
    /// The mark of a window that was over then, and not put away yet.
    over: Option<u64>,
}

/// Requests of one kind.
#[derive(Debug, Default)]
struct InFlight {
    begun: Vec<Instant>,
    ended: Option<Instant>,
}

impl InFlight {
    fn end(&mut self, begun: Instant, now: Instant) {
        self.forget(begun);
        self.ended = Some(now);
    }

    fn forget(&mut self, begun: Instant) {
        if let Some(at) = self.begun.iter().position(|known| *known == begun) {
            self.begun.swap_remove(at);
        }
    }

    fn quiet_since(&self, now: Instant) -> Quiet {
        quiet_since(self.begun.iter(), self.ended, now)
    }
}

/// Since when nothing has been on its way; what hangs counts for a while only.
fn quiet_since<'a>(begun: impl Iterator<Item = &'a Instant>, ended: Option<Instant>, now: Instant) -> Quiet {
    match begun.map(|begun| *begun + HANGING).max() {
        Some(until) if now < until => Quiet::NotNow,
        hanging => hanging.max(ended).map_or(Quiet::Always, Quiet::Since),
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
struct ContendedWindow {
    /// The first sequence number that some page may have missed.
    from: Sequence,
    /// Where the latest repeat ended, and the next one begins.
    repeated: Sequence,
    /// Where the latest quiet repeat began: what came before may have been missed with every repeat so far.
    unsure_until: Sequence,
    state: WindowState,
    /// The latest repeat, or the beginning.
    since: Instant,
    /// Where the log stood when all was resent at the end, and writes followed.
    closed: [Sequence; CLOSINGS],
    /// Repeats without a quiet moment.
    forced: u32,
    /// Where the log stood when it was last time to end something without one.
    young_from: Sequence,
    /// The first and the latest write that belong to it.
    born: u64,
    mark: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WindowState {
    /// One write, which no other overlapped: no page can have missed it.
    Uncontended,
    /// Writes overlapped, or a list was read meanwhile: some page may have missed something.
    Missed,
    /// All was resent in a quiet moment, and nothing has happened since.
    Resent,
}

impl ContendedWindow {
    fn new(now: Instant, from: Sequence, mark: u64) -> Self {
        Self {
            from,
            repeated: from,
            unsure_until: from,
            state: WindowState::Uncontended,
            since: now,
            closed: [from; CLOSINGS],
            forced: 0,
            young_from: from,
            born: mark,
            mark,
        }
    }
}

impl Settle {
    /// Answers of a server before this one may be on their way still.
    pub(crate) fn new(now: Instant) -> Self {
        let ended = || InFlight { ended: Some(now), ..InFlight::default() };
        Self {
            writes: ended(),
            lists: ended(),
            stale_list: Some(now),
            latest_list: None,
            published_at: now,
            refusals: Refusals::default(),
            window: None,
            doubtful: Vec::new(),
            refreshes: false,
            published: Sequence::ZERO,
            added: Sequence::ZERO,
            marks: 0,
            held: Held::default(),
        }
    }

    /// The request of a write comes. It leaves no trace here: it may be refused. `log_end` is where the log stands.
    pub(crate) fn start_write(&self, now: Instant, log_end: Sequence, times: &SettleTimes) -> WriteStart {
        let (mut unsettled, mut over) = (None, None);
        match &self.window {
            Some(window) if self.is_over(now, times) => over = Some(window.mark),
            Some(window) => unsettled = Some((window.from, window.born)),
            None => {}
        }
        WriteStart { at: now, log_end, unsettled, over }
    }

    /// Its body is here: until it ends, it is not quiet.
    pub(crate) fn write_arrives(&mut self, write: &WriteStart) {
        self.writes.begun.push(write.at);
    }

    /// True when something was published while it was on its way.
    fn was_overtaken(&self, write: &WriteStart) -> bool {
        self.published > write.log_end
    }

    /// True when something was added while it was on its way, or had not settled when it came.
    pub(crate) fn was_added_beside(&self, write: &WriteStart) -> bool {
        let from = write.unsettled.map_or(write.log_end, |(from, _)| from.min(write.log_end));
        self.added > from
    }

    /// A write may have changed something. It counts from the arrival of its request. `reach` is where the log stood so
    /// long ago that settling waits for no write of then.
    pub(crate) fn write_confirmed(&mut self, write: &WriteStart, now: Instant, reach: impl FnOnce() -> Sequence) {
        if self.window.as_ref().is_some_and(|window| Some(window.mark) == write.over) {
            self.window = None;
        }
        self.marks += 1;
        let mark = self.marks;
        let hangs = now.saturating_duration_since(write.at) > HANGING;
        // A window that has ended since was resent a last time while this page was saving.
        let born = self.window.as_ref().map(|window| window.born);
        let missed = write.unsettled.filter(|(_, known)| born != Some(*known)).map(|(from, _)| from);
        let from = missed.map_or(write.log_end, |from| from.min(write.log_end));
        let from = if hangs || missed.is_some() { from.max(reach()) } else { from };
        let is_contended = born.is_some() || missed.is_some() || self.was_overtaken(write);
        let window = self.window.get_or_insert_with(|| ContendedWindow::new(now, from, mark));
        window.from = window.from.min(from);
        window.mark = mark;
        if is_contended {
            window.state = WindowState::Missed;
        }
    }

    /// A refused write leaves no trace. True when an earlier refresh must be done again.
    pub(crate) fn write_refused(&mut self, write: &WriteStart) -> bool {
        self.writes.forget(write.at);
        self.end_doubt(write.at, false)
    }

    /// What was refused was a page's save, of the object of this key; without one, of a new object.
    pub(crate) fn save_refused(&mut self, now: Instant, key: Option<Arc<str>>) {
        self.refusals.note(now, key);
    }

    /// A write has ended. True when an earlier refresh must be done again.
    pub(crate) fn write_ends(&mut self, write: &WriteStart, now: Instant) -> bool {
        self.writes.end(write.at, now);
        self.end_doubt(write.at, true)
    }

    fn end_doubt(&mut self, begun: Instant, may_have_changed: bool) -> bool {
        let Some(at) = self.doubtful.iter().position(|known| *known == begun) else { return false };
        self.doubtful.swap_remove(at);
        self.refreshes |= may_have_changed;
        self.doubtful.is_empty() && std::mem::take(&mut self.refreshes)
    }

    /// Anything may have changed.
    pub(crate) fn refreshed(&mut self) {
        self.doubtful.clone_from(&self.writes.begun);
        self.refreshes = false;
    }

    /// A page asks for the list.
    pub(crate) fn list_begins(&mut self, now: Instant) {
        self.latest_list = Some(now);
        self.lists.begun.push(now);
    }

    /// A list's response has left, or nearly so.
    pub(crate) fn list_ends(&mut self, begun: Instant, now: Instant) {
        self.lists.end(begun, now);
        if begun <= self.published_at {
            self.stale_list = Some(now);
        }
    }

    /// Whether a page has asked for a list from then on.
    pub(crate) fn has_lists_since(&self, then: Instant) -> bool {
        self.latest_list.is_some_and(|latest| latest >= then)
    }

    /// Lists that are on their way at this time may not hold what is published now.
    pub(crate) fn lists_may_be_older(&mut self, now: Instant) {
        self.published_at = now;
        self.stale_list = self.stale_list.max(self.lists.ended);
    }

    /// Something was published, and the log stands at `log_end`. A list that is read at the same time may be older, and
    /// undo it on its page; and a page may be saving that object still. `has_added`: some page had to add something;
    /// `is_change_of` returns whether the object of a key was published.
    pub(crate) fn published(
        &mut self,
        now: Instant,
        log_end: Sequence,
        has_added: bool,
        is_change_of: impl Fn(&str) -> bool,
    ) {
        self.published = log_end;
        self.lists_may_be_older(now);
        if has_added {
            self.added = log_end;
        }
        let undone = self.has_list_on_its_way(now) || self.refusals.concern(now, has_added, is_change_of);
        if let Some(window) = self.window.as_mut().filter(|it| undone && it.state == WindowState::Uncontended) {
            window.state = WindowState::Missed;
        }
    }

    /// When to look at it next.
    pub(crate) fn due(&self, now: Instant, times: &SettleTimes) -> Option<Instant> {
        let Some(window) = &self.window else {
            return self.held.first_of_quiet(Sequence::MAX).map(|_| now);
        };
        let forced = window.since + times.longest;
        // What is held for a while goes out first.
        let patient = |due: Instant| if self.held.is_timed() { due.max(now + HELD_TICK) } else { due };
        match self.quiet_since(now) {
            Quiet::NotNow => Some(forced),
            Quiet::Always => Some(patient(now)),
            Quiet::Since(since) if window.state == WindowState::Missed => {
                Some(patient(since + times.quiet).min(forced))
            }
            Quiet::Since(since) => Some(patient((since + times.overlap).max(window.since + times.quiet))),
        }
    }

    /// What is to be resent at this time, of what the log holds.
    pub(crate) fn repeat(&mut self, now: Instant, log: Range<Sequence>, times: &SettleTimes) -> Vec<Due> {
        if self.due(now, times).is_none_or(|due| due > now) {
            return Vec::new();
        }
        let is_calm = now.checked_sub(times.quiet).is_some_and(|then| self.is_calm_since(then, now));
        let is_quiet = is_calm && !self.held.is_timed();
        let Some(window) = &mut self.window else {
            let first = self.held.first_of_quiet(Sequence::MAX);
            let due = |first| Due { range: first..log.end, is_last: true, known_before: first, held_before: log.end };
            return first.map(due).into_iter().collect();
        };
        let known_before = window.from;
        let mut held_before = Sequence::ZERO;
        let mut again = Vec::new();
        if window.state == WindowState::Missed {
            let from = std::mem::replace(&mut window.repeated, log.end);
            window.unsure_until = from;
            // Without a quiet moment, what is resent with the second repeat has had what it hangs on with the first.
            held_before = if is_quiet { log.end } else { from };
            let first = self.held.first_of_quiet(held_before).map_or(from, |first| first.min(from));
            again.push((first..log.end, is_quiet));
            if is_quiet {
                window.state = WindowState::Resent;
            } else {
                window.forced += 1;
                if window.forced % FORCED == 0 {
                    // A log that is too short for this is left for a quiet moment.
                    if window.young_from >= log.start {
                        again.push((window.from..window.young_from, true));
                        window.from = window.young_from;
                    }
                    window.young_from = log.end;
                }
            }
        } else if !is_quiet {
            // No page has missed anything yet.
        } else if window.from < window.unsure_until {
            // There has been no write for so long that no page was saving at the latest repeat, nor is now.
            again.push((window.from..window.unsure_until, true));
            window.closed.rotate_left(1);
            window.closed[CLOSINGS - 1] = log.end;
            window.from = window.from.max(window.closed[0]);
            window.unsure_until = window.from;
            window.young_from = window.young_from.max(window.from);
        } else {
            self.window = None;
            self.held.settled(log.end);
            return Vec::new();
        }
        window.since = now;
        again.retain(|(range, _)| !range.is_empty());
        again.into_iter().map(|(range, is_last)| Due { range, is_last, known_before, held_before }).collect()
    }

    /// Some page may have missed what was published from a place of the log on, whether or not a write did that.
    pub(crate) fn missed(&mut self, now: Instant, from: Sequence) {
        self.marks += 1;
        let mark = self.marks;
        let window = self.window.get_or_insert_with(|| ContendedWindow::new(now, from, mark));
        (window.mark, window.state) = (mark, WindowState::Missed);
    }

    /// Something is resent at the next quiet moment in any case.
    pub(crate) fn contend(&mut self) {
        if let Some(window) = &mut self.window {
            window.state = WindowState::Missed;
        }
    }

    /// Whether a write is on its way.
    pub(crate) fn is_written(&self) -> bool {
        !self.writes.begun.is_empty()
    }

    /// Whether a write is on its way that was so at an earlier time.
    pub(crate) fn is_written_since(&self, then: Instant, now: Instant) -> bool {
        self.writes.begun.iter().any(|begun| *begun <= then && now < *begun + HANGING)
    }

    /// The first sequence number that some page may have missed, until it has been resent.
    pub(crate) fn unsettled_from(&self) -> Option<Sequence> {
        self.window.as_ref().map(|window| window.from).into_iter().chain(self.held.first()).min()
    }

    /// From here on all pages will be sent everything again without anything more happening.
    pub(crate) fn will_repeat_from(&self) -> Option<Sequence> {
        self.window.as_ref().filter(|window| window.state == WindowState::Missed).map(|window| window.repeated)
    }

    /// True when there has been no write, nor a list on its way, from then on.
    pub(crate) fn is_calm_since(&self, then: Instant, now: Instant) -> bool {
        self.quiet_since(now) <= Quiet::Since(then)
    }

    /// The same, and no save of a page has been refused since then either.
    fn is_still_since(&self, then: Instant, now: Instant) -> bool {
        self.is_calm_since(then, now) && !self.refusals.are_newer_than(then)
    }

    /// Whether no page was saving while something was sent, from `then` on. An answer that left shortly before may have
    /// been on its way.
    pub(crate) fn was_calm(&self, times: &SettleTimes, then: Instant, now: Instant) -> bool {
        self.is_still_since(then.checked_sub(times.quiet).unwrap_or(then), now)
    }

    fn is_over(&self, now: Instant, times: &SettleTimes) -> bool {
        self.will_repeat_from().is_none() && self.due(now, times).is_some_and(|due| due < now)
    }

    fn quiet_since(&self, now: Instant) -> Quiet {
        self.writes.quiet_since(now).max(self.lists_quiet_since(now))
    }

    /// Whether a page may be about to show a list that is older than what was published last.
    pub(crate) fn has_list_on_its_way(&self, now: Instant) -> bool {
        self.lists_quiet_since(now) > Quiet::Since(now)
    }

    fn lists_quiet_since(&self, now: Instant) -> Quiet {
        let stale = self.lists.begun.iter().filter(|begun| **begun <= self.published_at);
        quiet_since(stale, self.stale_list.map(|left| left + LIST_ON_ITS_WAY), now)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TIMES: SettleTimes = SettleTimes {
        quiet: Duration::from_secs(2),
        overlap: Duration::from_secs(4),
        longest: Duration::from_secs(10),
        hold: Duration::from_millis(1500),
    };

    /// One entity in a time of its own; each change makes the log longer by one.
    struct World {
        start: Instant,
        settle: Settle,
        end: u64,
        base: u64,
        /// When something was resent, and from where on.
        repeats: Vec<(f64, Due)>,
    }

    fn numbers(due: &Due) -> Range<u64> {
        due.range.start.0..due.range.end.0
    }

    impl World {
        fn new() -> Self {
            let start = Instant::now();
            let before = start.checked_sub(Duration::from_secs(100)).unwrap_or(start);
            Self { start, settle: Settle::new(before), end: 0, base: 0, repeats: Vec::new() }
        }

        fn at(&self, seconds: f64) -> Instant {
            self.start + Duration::from_secs_f64(seconds)
        }

        /// A request whose body is there at once.
        fn begins(&mut self, from: f64) -> WriteStart {
            let write = self.settle.start_write(self.at(from), Sequence(self.end), &TIMES);
            self.settle.write_arrives(&write);
            write
        }

        /// It is answered with a success, and published.
        fn succeeds(&mut self, write: &WriteStart, to: f64) {
            self.until(to);
            self.settle.write_confirmed(write, self.at(to), || Sequence::ZERO);
            self.settle.published(self.at(to), Sequence(self.end + 1), true, |_| true);
            self.end += 1;
            assert!(!self.settle.write_ends(write, self.at(to)));
        }

        /// A write from then to then, which is published at its end.
        fn write(&mut self, from: f64, to: f64) {
            self.until(from);
            let write = self.begins(from);
            self.succeeds(&write, to);
        }

        /// One that is refused.
        fn refused(&mut self, from: f64, to: f64) {
            self.until(from);
            let write = self.begins(from);
            self.until(to);
            assert!(!self.settle.write_refused(&write));
        }

        /// Lets the time pass, and resends what is due.
        fn until(&mut self, seconds: f64) {
            let end = self.at(seconds);
            let mut now = self.start;
            while let Some(due) = self.settle.due(now, &TIMES).filter(|due| *due <= end) {
                now = due.max(now);
                let again = self.settle.repeat(now, Sequence(self.base)..Sequence(self.end), &TIMES);
                self.repeats.extend(again.into_iter().map(|due| ((now - self.start).as_secs_f64(), due)));
            }
        }

        fn repeats(&self) -> Vec<(f64, Range<u64>)> {
            self.repeats.iter().map(|(at, due)| ((at * 10.0).round() / 10.0, numbers(due))).collect()
        }
    }

    #[test]
    fn a_write_alone_is_never_resent() {
        let mut world = World::new();
        for at in [0.0, 5.0, 10.0, 15.0] {
            world.write(at, at + 0.5);
        }
        world.until(60.0);
        assert_eq!(world.repeats(), []);
        assert!(world.settle.window.is_none());
    }

    #[test]
    fn overlapping_writes_are_resent_when_both_are_long_answered() {
        let mut world = World::new();
        world.write(0.0, 0.5);
        world.write(4.0, 4.3);
        assert_eq!(world.settle.unsettled_from(), Some(Sequence(0)));
        world.until(60.0);
        assert_eq!(world.repeats(), [(6.3, 0..2)]);
        assert_eq!((world.settle.unsettled_from(), world.settle.will_repeat_from()), (None, None));
    }

    #[test]
    fn without_a_quiet_moment_everything_is_resent_once_and_all_of_it_at_the_end() {
        let mut world = World::new();
        for second in 0..35 {
            world.write(f64::from(second), f64::from(second) + 0.2);
        }
        world.until(100.0);
        let expected = [(10.2, 0..10), (20.2, 10..20), (30.2, 20..30), (36.2, 30..35), (38.2, 0..30)];
        assert_eq!(world.repeats(), expected);
    }

    #[test]
    fn in_traffic_that_never_ends_everything_is_resent_twice_and_is_settled_then() {
        let mut world = World::new();
        for second in 0..450 {
            world.write(f64::from(second), f64::from(second) + 0.2);
        }
        assert_eq!(world.settle.unsettled_from(), Some(Sequence(300)));
        let times = |sequence| world.repeats.iter().filter(|(_, due)| numbers(due).contains(&sequence)).count();
        assert!((0..300).all(|sequence| times(sequence) == 2), "{:?}", world.repeats());
        assert!((300..440).all(|sequence| times(sequence) == 1), "{:?}", world.repeats());
        world.until(500.0);
        assert_eq!(world.repeats().last(), Some(&(453.2, 300..450)));
        assert!(world.settle.window.is_none());
    }

    #[test]
    fn the_last_repeat_covers_what_the_log_has_dropped_before_it() {
        let mut world = World::new();
        for second in 0..250 {
            world.write(f64::from(second), f64::from(second) + 0.2);
            world.base = world.end.saturating_sub(8);
        }
        world.until(300.0);
        let last: Vec<Range<u64>> =
            world.repeats.iter().filter(|(_, due)| due.is_last).map(|(_, due)| numbers(due)).collect();
        assert_eq!(last, std::slice::from_ref(&(0..250)), "when all is quiet");
    }

    #[test]
    fn a_log_that_is_long_enough_again_ends_what_it_was_too_short_for() {
        let mut world = World::new();
        for second in 0..450 {
            world.write(f64::from(second), f64::from(second) + 0.2);
            world.base = world.base.max(if second < 150 { world.end } else { 0 });
        }
        assert_eq!(world.settle.unsettled_from(), Some(Sequence(300)));
    }

    #[test]
    fn a_write_on_its_way_defers_the_last_repeat_for_a_minute() {
        let mut world = World::new();
        let _hangs = world.begins(0.0);
        world.write(1.0, 1.2);
        world.write(2.0, 2.2);
        assert_eq!(world.settle.will_repeat_from(), Some(Sequence(0)));
        world.until(59.0);
        assert_eq!(world.repeats(), [(11.2, 0..2)]);
        world.until(100.0);
        assert_eq!(world.repeats().last().map(|(_, range)| range.clone()), Some(0..2));
        assert!(world.settle.window.is_none());
    }

    #[test]
    fn refused_writes_leave_no_trace() {
        let repeats = |refused: &[(f64, f64)]| {
            let mut world = World::new();
            for at in [0.0, 5.0, 10.0, 11.0, 30.0] {
                world.write(at, at + 0.5);
                for (after, length) in refused {
                    world.refused(at + 0.5 + after, at + 0.5 + after + length);
                }
            }
            world.until(100.0);
            world.repeats()
        };
        let alone = repeats(&[]);
        assert_eq!(alone, [(13.5, 2..4)]);
        assert_eq!(repeats(&[(0.0, 0.1)]), alone);
        assert_eq!(repeats(&[(0.0, 0.0), (0.1, 0.2), (0.3, 0.1)]), alone);
    }

    #[test]
    fn a_write_counts_from_its_beginning_however_late_its_body_comes() {
        let mut world = World::new();
        world.write(0.0, 0.5);
        world.until(1.0);
        let slow = world.settle.start_write(world.at(1.0), Sequence(world.end), &TIMES);
        world.until(20.0);
        assert_eq!((world.repeats(), world.settle.unsettled_from()), (vec![], None), "it has not come");
        world.settle.write_arrives(&slow);
        world.succeeds(&slow, 21.0);
        assert_eq!(
            world.settle.unsettled_from(),
            Some(Sequence(0)),
            "its page was saving when the first was published"
        );
        world.until(100.0);
        assert_eq!(world.repeats(), [(23.0, 0..2)]);
    }

    #[test]
    fn what_was_published_while_a_body_was_on_its_way_is_resent() {
        let mut world = World::new();
        let slow = world.settle.start_write(world.at(0.0), Sequence(world.end), &TIMES);
        world.write(1.0, 1.5);
        world.until(20.0);
        assert!(world.settle.window.is_none());
        world.settle.write_arrives(&slow);
        world.succeeds(&slow, 20.0);
        world.until(100.0);
        assert_eq!(world.repeats(), [(22.0, 0..2)]);
    }

    #[test]
    fn a_body_that_takes_for_ever_reaches_back_a_minute() {
        let mut world = World::new();
        let slow = world.settle.start_write(world.at(0.0), Sequence(0), &TIMES);
        for at in [1.0, 50.0, 120.0] {
            world.write(at, at + 0.5);
        }
        world.settle.write_arrives(&slow);
        world.until(140.0);
        world.settle.write_confirmed(&slow, world.at(140.0), || Sequence(2));
        assert_eq!(world.settle.unsettled_from(), Some(Sequence(2)));
    }

    #[test]
    fn what_is_published_while_a_list_is_read_is_resent_when_the_page_has_the_list() {
        for (list, resent) in [((0.5, 3.0), vec![(7.0, 0..1)]), ((5.0, 6.0), vec![])] {
            let mut world = World::new();
            let (begins, ends) = (world.at(list.0), world.at(list.1));
            if list.0 < 1.0 {
                world.settle.list_begins(begins);
            }
            world.write(1.0, 1.1);
            world.until(list.1);
            if list.0 < 1.0 {
                world.settle.list_ends(begins, ends);
            }
            world.until(100.0);
            assert_eq!(world.repeats(), resent, "{list:?}");
        }
    }

    #[test]
    fn a_refresh_is_done_again_behind_the_writes_that_met_it() {
        let mut world = World::new();
        let end = world.at(3.0);
        let [first, second] = [0.0, 1.0].map(|seconds| world.begins(seconds));
        world.settle.refreshed();
        let third = world.begins(2.0);
        assert!(!world.settle.write_ends(&second, end));
        assert!(!world.settle.write_ends(&third, end), "it began behind it");
        assert!(world.settle.write_ends(&first, end));
        world.settle.refreshed();
        assert!(world.settle.doubtful.is_empty(), "and nothing is left to resolve_record it");
    }

    #[test]
    fn a_refused_write_makes_no_refresh_of_its_own() {
        let mut world = World::new();
        let refused = world.begins(0.0);
        world.settle.refreshed();
        assert!(!world.settle.write_refused(&refused));
        let (write, refused) = (world.begins(1.0), world.begins(2.0));
        world.settle.refreshed();
        assert!(!world.settle.write_ends(&write, world.at(3.0)));
        assert!(world.settle.write_refused(&refused), "the other one does");
    }

    #[test]
    fn an_entity_is_not_calm_while_answers_may_be_on_their_way() {
        let mut world = World::new();
        assert!(world.settle.is_calm_since(world.start, world.at(1.0)));
        world.write(0.0, 1.0);
        assert!(!world.settle.is_calm_since(world.at(0.9), world.at(9.0)));
        assert!(world.settle.is_calm_since(world.at(1.0), world.at(9.0)));
        world.settle.list_begins(world.at(2.0));
        assert!(world.settle.is_calm_since(world.at(1.0), world.at(9.0)), "it holds what was published before");
        world.write(2.0, 2.5);
        assert!(!world.settle.is_calm_since(world.at(3.0), world.at(9.0)));
        world.settle.list_ends(world.at(2.0), world.at(9.0));
        assert!(!world.settle.is_calm_since(world.at(10.9), world.at(20.0)), "a list shows a little later");
        assert!(world.settle.is_calm_since(world.at(11.0), world.at(20.0)));
    }

    proptest! {
        /// However writes come: what was published while another was near is resent when there was no write for the
        /// quiet time, and then all is over.
        #[test]
        fn everything_contended_has_a_last_repeat(
            gaps in proptest::collection::vec((0.0_f64..7.0, 0.01_f64..3.0), 1..40),
        ) {
            let mut world = World::new();
            let mut writes = Vec::new();
            let mut now = 0.0;
            for (gap, length) in gaps {
                let begins = now + gap;
                world.write(begins, begins + length);
                writes.push((begins, begins + length));
                now = begins + length;
            }
            world.until(now + 60.0);
            prop_assert!(world.settle.window.is_none());
            for (sequence, pair) in writes.windows(2).enumerate() {
                let [(_, ended), (begins, later)] = [pair[0], pair[1]];
                if begins - ended < 2.0 {
                    let is_resent = world.repeats.iter().any(|(at, due)| {
                        let quiet = writes.iter().all(|(from, to)| !(*from < *at && *to > at - 1.999));
                        *at >= later + 1.999 && numbers(due).contains(&(sequence as u64)) && quiet
                    });
                    prop_assert!(is_resent, "{sequence} of {writes:?}: {:?}", world.repeats());
                }
            }
        }
    }

    #[test]
    fn lists_that_are_read_later_put_nothing_off() {
        let mut world = World::new();
        world.write(1.0, 2.0);
        world.write(2.1, 2.2);
        let polls: Vec<f64> = (0..10).map(|number| 2.3 + 0.5 * f64::from(number)).collect();
        for poll in polls {
            world.until(poll);
            world.settle.list_begins(world.at(poll));
            world.settle.list_ends(world.at(poll), world.at(poll + 0.1));
        }
        assert_eq!(world.repeats(), [(4.2, 0..2)], "as if no page had read a list");
        world.until(30.0);
        let mut other = World::new();
        other.write(1.0, 2.0);
        other.settle.list_begins(other.at(2.1));
        other.write(2.1, 2.2);
        other.settle.list_ends(other.at(2.1), other.at(3.0));
        other.until(6.9);
        assert_eq!(other.repeats(), [], "this list may be older");
        other.until(7.0);
        assert_eq!(other.repeats(), [(7.0, 0..2)]);
    }

    #[test]
    fn what_is_published_before_a_page_knows_that_its_save_was_refused_is_resent() {
        for (key, write, is_repeated) in [(Some("7"), 10.5, true), (None, 10.5, true), (Some("7"), 12.5, false)] {
            let mut world = World::new();
            world.until(10.0);
            world.settle.save_refused(world.at(10.0), key.map(Arc::from));
            world.write(write, write);
            world.until(30.0);
            assert_eq!(!world.repeats.is_empty(), is_repeated, "{key:?} {write}");
        }
    }

    #[test]
    fn a_refused_save_makes_no_page_wait_and_yet_its_page_may_have_missed_what_it_was_sent() {
        let mut world = World::new();
        world.refused(9.0, 10.0);
        world.settle.save_refused(world.at(10.0), None);
        let (then, now) = (world.at(9.5), world.at(12.0));
        assert!(world.settle.is_calm_since(then, now) && !world.settle.is_still_since(then, now));
        assert!(world.settle.is_still_since(world.at(10.5), now));
    }
}
