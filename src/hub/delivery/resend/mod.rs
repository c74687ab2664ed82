//! What one subscription is resent: the replay of what its page missed, what a saving page may have ignored, and the
//! snapshot for a page that lost its place.
//!
//! A resend is *due*, is *being sent*, and has been *sent*. When some page was saving meanwhile it is sent again, a few
//! times. When none was, the resend is done with, and its [`Remainder`] goes to the subscription's retractions.

mod parts;

use std::{ops::Range, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{chunk::Position, late_list::LateList, pacing::Pacing};
use crate::{
    entity::EntityIndex,
    hub::{
        core::{DeliveryTimes, Pace},
        log::Log,
        settle::{Settle, SettleTimes},
        snapshot::{RowKind, SnapshotFrames},
    },
    sequence::Sequence,
};

/// How often something is resent because some page was saving meanwhile …
const ATTEMPTS: u8 = 3;
/// … and how often that is put off because some page is saving just then.
const MAX_DELAYS: u8 = 15;
/// How soon it is looked again whether the requests have ended that it waits for.
const AGAIN: Duration = Duration::from_millis(100);

/// Everything from one sequence number on.
#[derive(Debug)]
pub(crate) struct Resend {
    pub(crate) from: Sequence,
    /// Messages from here on have not been sent: they follow the first time.
    messages_from: Sequence,
    /// What stands for everything before `from`.
    snapshot: Option<Arc<SnapshotFrames>>,
    /// The snapshot is sent without its marker.
    skips_marker: bool,
    /// Of the changes before this only deletions are sent.
    only_gone_before: Sequence,
    /// The deletions its page is reminded of later, by itself.
    deletions: Option<Range<Sequence>>,
    /// Where the log stood when this was known to be all.
    began_at: Sequence,
    phase: Phase,
    /// When it is sent a second time in any case: its page's list may arrive later than the first time.
    second: Option<Instant>,
    attempts: u8,
    /// How often it may still be put off.
    delays: u8,
    /// Its records have been read to here.
    read_to: Sequence,
    /// It goes on with what was published since: of the rest only what is new is sent once more.
    goes_on_from: Option<Sequence>,
    /// It has been sent to its end before.
    is_repeated: bool,
    /// All pages have what was added before this, and are sent the rest just now.
    known_before: Option<Sequence>,
    /// Its page has received everything besides what settles.
    only_settles: bool,
    /// What settled before the rows of the store have arrived, and is sent behind these.
    settles_then: Option<(Sequence, Sequence)>,
    /// When it began to be sent the last time.
    began: Instant,
    pacing: Pacing,
    /// Its page may get its list late.
    late: Option<LateList>,
    /// Until then it waits for lists that are on their way: its page may have none yet.
    awaits_list: Option<Instant>,
    /// It is not put off while some page is saving.
    is_punctual: bool,
    /// Nothing but what a late list may lack is resent.
    is_for_list: bool,
    /// It goes before everything else that is sent to its page.
    is_replay: bool,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    /// It is sent at this time.
    Due(Instant),
    /// It is being sent.
    Sending(Position),
    /// It was sent then, and is sent again if some page was saving.
    Sent(Instant),
}

/// What comes of a resend whose time has come.
pub(crate) enum Next {
    /// It goes on.
    GoesOn,
    /// Its page has received it. The rest is to be reminded of.
    Arrived(Remainder),
}

/// What a page that has received a resend is reminded of: deletions before a place of the log, and the ids that only the
/// store reported as gone.
pub(crate) struct Remainder {
    pub(crate) deletions: Option<Range<Sequence>>,
    pub(crate) gone: Option<Arc<SnapshotFrames>>,
    /// What settled meanwhile, and is resent now.
    pub(crate) settles: Option<Box<Resend>>,
}

impl Resend {
    /// What a page may have missed, before everything else and a second time: its list may arrive later than the first.
    /// Where it `comes_back`, a form may have been open all the while: then it is reminded of the deletions that no other
    /// page is reminded of. `end` is where the log stands.
    pub(crate) fn of_missed(
        from: Sequence,
        end: Sequence,
        second: Instant,
        comes_back: Option<Sequence>,
        now: Instant,
    ) -> Self {
        let later = Self::of_missed_later(from, comes_back, now, now);
        Self { second: Some(second), began_at: end, ..later.with_messages(from) }
    }

    /// The same, without messages, once, at that time.
    pub(crate) fn of_missed_later(from: Sequence, comes_back: Option<Sequence>, at: Instant, now: Instant) -> Self {
        Self {
            attempts: ATTEMPTS,
            delays: MAX_DELAYS,
            deletions: comes_back.map(|reminded| from..reminded.max(from)),
            began_at: from,
            ..Self::due(from, at, now)
        }
    }

    /// What settles, for a page that could not be sent it with the others.
    pub(crate) fn of_settled(from: Sequence, known_before: Sequence, now: Instant) -> Self {
        Self { only_settles: true, known_before: Some(known_before), ..Self::due(from, now, now) }
    }

    /// A snapshot, everything since `from`, and the messages since `messages_from`. `reminded` is where the
    /// deletions end of which everyone has had all reminders.
    pub(crate) fn of_snapshot(
        snapshot: Arc<SnapshotFrames>,
        from: Sequence,
        messages_from: Sequence,
        reminded: Sequence,
        now: Instant,
    ) -> Self {
        Self {
            messages_from,
            began_at: snapshot.at,
            snapshot: Some(snapshot),
            attempts: ATTEMPTS,
            delays: MAX_DELAYS,
            deletions: Some(Sequence::ZERO..reminded),
            ..Self::due(from, now, now)
        }
    }

    /// Everyone who is here, at once. Its page shows who was here at a place of the log or later, and is sent who has left
    /// since; where that is unknown, it forgets all first. Deletions are not repeated: no form is open. With `all_there`
    /// everyone receives all rows, so that nothing else is needed of what was published before.
    pub(crate) fn of_presence(
        everyone: Arc<SnapshotFrames>,
        shown_since: Option<Sequence>,
        messages_from: Sequence,
        all_there: bool,
        now: Instant,
    ) -> Self {
        let at = everyone.at;
        let mut resend = Self {
            messages_from,
            began_at: at,
            snapshot: Some(everyone),
            skips_marker: shown_since.is_some(),
            only_gone_before: if all_there { at } else { Sequence::ZERO },
            ..Self::due(shown_since.map_or(at, |from| from.min(at)), now, now)
        };
        resend.hurries();
        resend
    }

    /// Nothing has been missed; only the page's list may come late.
    pub(crate) fn of_late_list(late: LateList, now: Instant) -> Self {
        Self { phase: Phase::Sent(now), attempts: ATTEMPTS, delays: MAX_DELAYS, ..Self::due(late.from, now, now) }
            .expecting(Some(late))
    }

    fn due(from: Sequence, at: Instant, now: Instant) -> Self {
        Self {
            from,
            messages_from: Sequence::MAX,
            snapshot: None,
            skips_marker: false,
            only_gone_before: Sequence::ZERO,
            deletions: None,
            began_at: Sequence::MAX,
            phase: Phase::Due(at),
            second: None,
            attempts: 0,
            delays: 0,
            read_to: Sequence::MAX,
            goes_on_from: None,
            is_repeated: false,
            known_before: None,
            only_settles: false,
            settles_then: None,
            began: now,
            pacing: Pacing::default(),
            late: None,
            awaits_list: None,
            is_punctual: false,
            is_for_list: false,
            is_replay: false,
        }
    }

    /// What a young page's late list may lack is resent, too.
    pub(crate) fn expecting(self, late: Option<LateList>) -> Self {
        Self { late, ..self }
    }

    /// Its page has a tree, and may have no list until then.
    pub(crate) fn awaiting_list(self, until: Option<Instant>) -> Self {
        Self { awaits_list: until, ..self }
    }

    /// Messages from here on have not been sent: they go in their order with the first time, before everything else.
    pub(crate) fn with_messages(self, messages_from: Sequence) -> Self {
        Self { messages_from, is_replay: true, ..self }
    }

    /// Many rows are not sent before this time.
    pub(crate) fn begins_at(&mut self, at: Instant, pace: &Pace, now: Instant) {
        if self.has_many_rows(pace) && at > now {
            self.phase = Phase::Due(at);
        }
    }

    fn has_many_rows(&self, pace: &Pace) -> bool {
        let is_long = |snapshot: &Arc<SnapshotFrames>| snapshot.rows.len() > pace.long && !snapshot.takes_away;
        !self.is_repeated && self.snapshot.as_ref().is_some_and(is_long)
    }

    /// Where the log stood before a page loads its list anew that does that sooner than it draws all this; `end` is where it
    /// stands. `None` where it is not much, or something must be taken away.
    pub(crate) fn is_more_than_a_list(&self, pace: &Pace, end: Sequence) -> Option<Sequence> {
        match &self.snapshot {
            Some(snapshot) => self.has_many_rows(pace).then(|| snapshot.at.min(end)),
            None => (self.is_replay && !self.is_repeated && self.is_pausing()).then_some(end),
        }
    }

    /// Whether a part of it has been sent, and another is to follow.
    pub(crate) fn is_under_way(&self) -> bool {
        matches!(self.phase, Phase::Sending(_))
    }

    /// Whether it is in the middle of something long.
    pub(crate) fn is_pausing(&self) -> bool {
        self.pacing.pauses_until.is_some()
    }

    /// Whether messages wait to be sent with it. `marker` is behind the latest refresh that its page is sent as one.
    pub(crate) fn has_messages(&self, log: &Log, entity: EntityIndex, marker: Option<Sequence>) -> bool {
        log.has_messages_since(entity, self.messages_from) || marker.is_some_and(|behind| behind > self.messages_from)
    }

    /// Messages are sent as they are published from now on.
    pub(crate) fn leaves_messages(&mut self) {
        self.messages_from = Sequence::MAX;
    }

    /// From a place of the log on, nothing besides is sent to its page before its end.
    pub(crate) fn goes_first(&mut self, cursor: Sequence) {
        self.messages_from = self.messages_from.min(cursor);
        self.began_at = self.began_at.min(cursor);
        self.is_punctual = true;
    }

    /// It is sent without a pause: something else waits for it, or it has been broken off before.
    pub(crate) fn hurries(&mut self) {
        self.pacing.hurry();
    }

    /// It is to be sent the marker instead of rows.
    pub(crate) fn is_marker(&self) -> bool {
        let first = self.snapshot.as_ref().and_then(|snapshot| snapshot.rows.first());
        !self.is_repeated && !self.skips_marker && first.is_some_and(|row| row.kind == RowKind::Marker)
    }

    /// It has not been sent to its end yet, and holds a snapshot.
    pub(crate) fn is_broken_off(&self) -> bool {
        self.snapshot.is_some() && !self.is_repeated
    }

    /// What settles is sent with it; where it has rows of the store and is of no tree, behind them.
    pub(crate) fn settle(&mut self, from: Sequence, known_before: Sequence, is_tree: bool, now: Instant) {
        if self.wants_rows() && !is_tree {
            let (earlier, known) = self.settles_then.unwrap_or((from, known_before));
            self.settles_then = Some((from.min(earlier), known_before.min(known)));
            if !matches!(self.phase, Phase::Sending(_)) {
                // A good moment for the rows as well.
                self.phase = Phase::Due(now);
            }
            return;
        }
        self.known_before = Some(known_before.min(self.known_before.unwrap_or(known_before)));
        if std::mem::take(&mut self.is_for_list) && matches!(self.phase, Phase::Due(_)) {
            if let Some(late) = &mut self.late {
                late.put_off();
            }
        }
        self.from = self.from.min(from);
        self.goes_on_from = None;
        self.phase = match self.phase {
            Phase::Sending(position) if self.is_at_gone(position) => Phase::Sending(Position::Record(from)),
            Phase::Sending(position) => Phase::Sending(match position {
                Position::Record(at) | Position::Below { record: at, .. } if at <= from => position,
                // What is deleted may take along what settles.
                Position::Record(_) | Position::Below { .. } | Position::Siblings(_) | Position::Deletion(_) => {
                    Position::Record(from)
                }
                Position::Tombstone(_) | Position::Row(_) | Position::End => position,
            }),
            Phase::Due(_) | Phase::Sent(_) => Phase::Due(now),
        };
    }

    /// When something is to be done.
    pub(crate) fn next_due(&self, times: &SettleTimes) -> Option<Instant> {
        match self.phase {
            Phase::Due(due) => Some(due),
            Phase::Sent(then) => Some(then + times.overlap),
            Phase::Sending(_) => self.pacing.pauses_until,
        }
    }

    /// The first sequence number that its page may lack; `None` when only the store knows.
    pub(crate) fn missed_from(&self, cursor: Sequence) -> Option<Sequence> {
        match self.wants_rows() {
            true => None,
            // On another connection it is expected again.
            false if self.is_for_list => Some(cursor),
            false => Some(self.from),
        }
    }

    fn records_from(&self) -> Sequence {
        self.from.min(self.messages_from)
    }

    /// True when anything may have changed, behind this place, since it was known what is to be sent.
    pub(crate) fn is_stale(&self, refreshed: Sequence) -> bool {
        self.began_at < refreshed
    }

    /// Messages from here on have not been sent.
    pub(crate) fn messages_missed_from(&self, cursor: Sequence) -> Sequence {
        self.messages_from.min(cursor)
    }

    /// It has been sent to its end.
    pub(crate) fn is_repeated(&self) -> bool {
        self.is_repeated
    }

    /// True while the rows of a snapshot may not have reached the page.
    pub(crate) fn wants_rows(&self) -> bool {
        self.snapshot.is_some()
    }

    /// Moves on when its time has come.
    pub(crate) fn move_on(&mut self, settle: &Settle, times: &DeliveryTimes, now: Instant) -> Next {
        if self.next_due(&times.settle).is_none_or(|due| due > now) {
            return Next::GoesOn;
        }
        match self.phase {
            // Everyone is going to be sent it.
            Phase::Due(_) if self.known_before.is_none() && self.is_covered(settle) => self.arrive(settle, times, now),
            Phase::Due(_)
                if self.is_repeated
                    && !self.is_punctual
                    && self.delays > 0
                    && !settle.was_calm(&times.settle, now, now) =>
            {
                self.delays -= 1;
                self.put_off(times, now)
            }
            Phase::Due(_) if self.has_unpublished_rows(settle, now) || self.has_list_on_its_way(settle, now) => {
                self.phase = Phase::Due(now + AGAIN);
                Next::GoesOn
            }
            Phase::Due(_) => {
                let first = match (self.gone_last(), self.wants_rows(), &self.deletions) {
                    (Some(gone), ..) => Position::Row(gone),
                    (None, true, Some(_)) => Position::Tombstone(Sequence::ZERO),
                    (None, true, None) => Position::Row(0),
                    (None, false, _) => Position::Record(self.records_from()),
                };
                self.phase = Phase::Sending(first);
                let rows = self.snapshot.as_ref().map_or(0, |snapshot| snapshot.rows.len());
                self.pacing.begin(&times.pace, rows);
                (self.began, self.is_punctual) = (now, false);
                Next::GoesOn
            }
            Phase::Sent(_) if self.attempts > 0 && !settle.was_calm(&times.settle, self.began, now) => {
                self.attempts -= 1;
                self.put_off(times, now)
            }
            Phase::Sent(_) => self.arrive(settle, times, now),
            Phase::Sending(_) => {
                self.pacing.pauses_until = None;
                Next::GoesOn
            }
        }
    }

    /// Whether a row may be of a write that has not been published.
    fn has_unpublished_rows(&self, settle: &Settle, now: Instant) -> bool {
        let read = self.snapshot.as_ref().and_then(|snapshot| snapshot.read);
        read.is_some_and(|read| settle.is_written_since(read, now))
    }

    fn has_list_on_its_way(&self, settle: &Settle, now: Instant) -> bool {
        self.awaits_list.is_some_and(|until| now < until) && settle.has_list_on_its_way(now)
    }

    fn put_off(&mut self, times: &DeliveryTimes, now: Instant) -> Next {
        self.phase = Phase::Due(now + times.settle.overlap);
        Next::GoesOn
    }

    fn arrive(&mut self, settle: &Settle, times: &DeliveryTimes, now: Instant) -> Next {
        if let Some(late) = self.late.as_mut().filter(|late| late.is_expected(settle, times)) {
            if let Some(due) = late.next(now) {
                self.from = late.from;
                self.phase = Phase::Due(due);
                (self.is_punctual, self.is_for_list) = (true, true);
                return Next::GoesOn;
            }
        }
        // A whole store is much to keep for as long as forms stay open.
        let reminds = self.deletions.is_some();
        let gone = self.snapshot.take().filter(|_| reminds).map(|snapshot| Arc::new(snapshot.only_gone()));
        let settles = self
            .settles_then
            .take()
            .map(|(from, known_before)| Box::new(Self::of_settled(from.max(self.from), known_before, now)));
        Next::Arrived(Remainder { deletions: self.deletions.take(), gone, settles })
    }

    /// True when everyone is sent all this when the entity settles.
    fn is_covered(&self, settle: &Settle) -> bool {
        let has_messages = self.messages_from < Sequence::MAX;
        !self.wants_rows() && !has_messages && settle.will_repeat_from().is_some_and(|from| from <= self.from)
    }

    /// It goes on at `rest`; so many lines that are drawn have been sent.
    pub(crate) fn sent(&mut self, rest: Position, drawn: usize, times: &DeliveryTimes, now: Instant) {
        if !matches!(self.phase, Phase::Sending(_)) {
            return;
        }
        if rest == Position::End {
            (self.is_repeated, self.known_before, self.messages_from) = (true, None, Sequence::MAX);
            (self.read_to, self.goes_on_from) = (Sequence::MAX, None);
            self.phase = match self.second.take() {
                Some(second) => {
                    self.is_punctual = true;
                    Phase::Due(second)
                }
                None => Phase::Sent(now),
            };
            return;
        }
        if let Some(at) = rest.record() {
            self.messages_from = self.messages_from.max(at);
        }
        self.phase = Phase::Sending(rest);
        if self.pacing.pauses(drawn, &times.pace, now) {
            self.second = None;
        }
    }
}
