//! What one subscriber is told once more: what it may have missed, what may have met a page that was saving, and what
//! the store says to a page that lost its place.

use std::{ops::Range, sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::hub::{
    DeliveryTimes, EntityIndex, Hub, Pace, Pages, RowKind, SnapshotFrames,
    delivery::reminders::begin_of_reminders,
    log::Log,
    settle::{Settle, SettleTimes},
    visibility::{Line, Mode, Recipient},
};

/// Records looked at in one share of the slow way.
pub(crate) const SHARE_RECORDS: usize = 512;
/// Bytes in one share of the slow way, but for what goes beyond that in its last line: a stream that is no plain TCP
/// stream holds all of it until its page reads on.
pub(crate) const SHARE_BYTES: usize = 128 * 1024;
/// Mode often something is told again because somebody was saving meanwhile …
const ATTEMPTS: u8 = 3;
/// … and how often that is put off because somebody is saving just then.
const PATIENCE: u8 = 15;

/// Everything from one sequence number on, to be told once more.
#[derive(Debug)]
pub(crate) struct Resend {
    pub(crate) from: u64,
    /// Messages from here on were told while nobody knew where the page stands: they follow the first time.
    messages_from: u64,
    /// What stands for everything before `from`.
    snapshot: Option<Arc<SnapshotFrames>>,
    step: Step,
    attempts: u8,
    deadline: u8,
    /// It has been told to its end before.
    is_repeated: bool,
    /// It has been told while nobody was saving: of a snapshot only the deletions kind any more.
    has_arrived: bool,
    /// Everyone is told of it just now, and has what was added before this.
    settling: Option<u64>,
    /// What settled before what the store says has arrived, and is told behind that.
    settles_then: Option<(u64, u64)>,
    /// The deletions its page is reminded of, since a form may keep it from applying one.
    deletions: Option<Deletions>,
    /// When it began to be told the last time.
    began: Instant,
    /// So many lines that are drawn may be told before it pauses.
    room: usize,
    /// It does not pause.
    is_hurried: bool,
    /// So many have been told since it paused last.
    drawn: usize,
    /// It pauses until then, and leaves its page the time to draw.
    pauses_until: Option<Instant>,
    /// Its page may get its list late.
    late: Option<LateList>,
    /// It is not put off while somebody is saving.
    is_punctual: bool,
    /// Nothing but what a late list may lack is told again.
    is_for_list: bool,
}

/// The list of a young page: it may stand in the buffers of the kernel, or of a proxy, for much longer than anybody here
/// can see.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LateList {
    /// When the page came.
    pub(crate) came: Instant,
    /// Its list may lack what was told from there on.
    pub(crate) from: u64,
    /// When its list had left, as far as that can be seen; at first, when it came.
    left: Instant,
    /// Mode often the page was told of it again.
    told: usize,
}

/// Mode long after its list has left a young page is told again what that may lack.
const LATE_LISTS: [Duration; 2] = [Duration::from_secs(30), Duration::from_secs(120)];
/// Nobody can be told so soon that a list has left.
const SOON: Duration = Duration::from_secs(10);

impl LateList {
    pub(crate) fn new(came: Instant, from: u64) -> Self {
        Self { came, from, left: came, told: 0 }
    }

    /// Whether a page that came then is young.
    pub(crate) fn may_come(came: Instant, now: Instant) -> bool {
        now.saturating_duration_since(came) < LATE_LISTS[LATE_LISTS.len() - 1] + SOON
    }

    /// When its page is told again next; `now` it has been told all, and no list is on its way that can be seen.
    fn next(&mut self, now: Instant) -> Option<Instant> {
        if self.told == 0 && now > self.came + LATE_LISTS[0] {
            self.left = now.checked_sub(SOON).map_or(self.came, |then| then.max(self.came));
        }
        let wait = LATE_LISTS.get(self.told)?;
        self.told += 1;
        Some((self.left + *wait).max(now))
    }
}

#[derive(Clone, Copy, Debug)]
struct Deletions {
    from: u64,
    /// From here on everybody is reminded.
    end: u64,
    /// Mode often it has been.
    sent: usize,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// It is told at this time.
    Due(Instant),
    /// It is being told.
    Telling(ReplayPosition),
    /// It was told then, and is told again if somebody was saving.
    Told(Instant),
    /// It has arrived. Only its deletions are told again, at this time.
    Arrived(Instant),
    /// They are being told.
    TellingDeletions(ReplayPosition),
}

/// Mode far a telling has got: deletions, then rows of the store, then the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ReplayPosition {
    tombstone: u64,
    row: usize,
    sequence: u64,
}

/// What is told next, each line with the place to go on from should it not be taken.
pub(crate) struct Chunk {
    pub(crate) lines: Vec<(ReplayPosition, Line)>,
    pub(crate) end: ReplayPosition,
    bytes: usize,
    looked_at: usize,
    /// Lines that are drawn, and how many of them there may be.
    pub(crate) drawn: usize,
    room: usize,
}

impl Chunk {
    pub(crate) fn from(place: ReplayPosition, room: usize) -> Self {
        Self { lines: Vec::new(), end: place, bytes: 0, looked_at: 0, drawn: 0, room }
    }

    /// Adds a line that stands at `place`, if there is one; false when it must wait for the next share.
    fn add(&mut self, place: ReplayPosition, line: Option<Line>) -> bool {
        let is_drawn = line.as_ref().is_some_and(Line::is_drawn);
        if self.bytes > SHARE_BYTES || self.looked_at >= SHARE_RECORDS || (is_drawn && self.drawn >= self.room) {
            self.end = place;
            return false;
        }
        self.looked_at += 1;
        if let Some(line) = line {
            self.bytes += line.bytes();
            self.drawn += usize::from(is_drawn);
            self.lines.push((place, line));
        }
        true
    }
}

impl ReplayPosition {
    /// Behind everything.
    pub(crate) const END: Self = Self { tombstone: u64::MAX, row: usize::MAX, sequence: u64::MAX };

    /// At a record of the log.
    pub(crate) fn record(sequence: u64) -> Self {
        Self { sequence, ..Self::END }
    }

    /// At one of some rows.
    pub(crate) fn of_row(row: usize) -> Self {
        Self { row, ..Self::END }
    }

    pub(crate) fn row(self) -> usize {
        self.row
    }

    /// The record to go on from, if it is one.
    pub(crate) fn sequence(self) -> Option<u64> {
        (self.tombstone == u64::MAX && self.row == usize::MAX).then_some(self.sequence)
    }
}

impl Resend {
    /// What a page may have missed is told a second time, since its list may arrive late. Where it `comes_back`, a form
    /// may have been open all the while.
    pub(crate) fn replayed(from: u64, comes_back: bool, reminded: u64, at: Instant) -> Self {
        let deletions = comes_back.then_some(Deletions { from, end: reminded, sent: 0 });
        Self { attempts: ATTEMPTS, deadline: PATIENCE, deletions, ..Self::due(from, at) }
    }

    /// What settles is told to one that could not be told with the others.
    pub(crate) fn settled(from: u64, known_before: u64, now: Instant) -> Self {
        Self { has_arrived: true, settling: Some(known_before), ..Self::due(from, now) }
    }

    /// What the store says, everything since `from`, and the messages since `messages_from`.
    pub(crate) fn resynchronised(
        snapshot: Arc<SnapshotFrames>,
        from: u64,
        messages_from: u64,
        reminded: u64,
        pace: &Pace,
        now: Instant,
    ) -> Self {
        Self {
            messages_from,
            step: Step::Telling(ReplayPosition { sequence: from.min(messages_from), ..ReplayPosition::default() }),
            room: pace.first(snapshot.rows.len()),
            snapshot: Some(snapshot),
            attempts: ATTEMPTS,
            deadline: PATIENCE,
            deletions: Some(Deletions { from: 0, end: reminded, sent: 0 }),
            ..Self::due(from, now)
        }
    }

    fn due(from: u64, at: Instant) -> Self {
        Self {
            from,
            messages_from: u64::MAX,
            snapshot: None,
            step: Step::Due(at),
            attempts: 0,
            deadline: 0,
            is_repeated: false,
            has_arrived: false,
            settling: None,
            settles_then: None,
            deletions: None,
            began: at,
            room: 0,
            is_hurried: false,
            drawn: 0,
            pauses_until: None,
            late: None,
            is_punctual: false,
            is_for_list: false,
        }
    }

    /// It is told for the first time from now on; what a young page's late list may lack is told again, too.
    pub(crate) fn beginning(self, now: Instant, late: Option<LateList>) -> Self {
        Self { late, began: now, ..self }
    }

    /// Nothing has been missed; only its list may come late.
    pub(crate) fn only_expecting(late: LateList, now: Instant) -> Self {
        Self { step: Step::Told(now), attempts: ATTEMPTS, deadline: PATIENCE, ..Self::due(late.from, now) }
            .beginning(now, Some(late))
    }

    /// The rest of a long replay, of which so much has been told, in pieces.
    pub(crate) fn goes_on_slowly(&mut self, replay: Range<u64>, pace: &Pace, now: Instant) {
        // What settles besides, or is in doubt, may begin before that.
        let reaches_back = self.settling.is_some() || self.from < replay.start;
        let next = if reaches_back { replay.end.min(self.from) } else { replay.end };
        self.step = Step::Telling(ReplayPosition::record(next));
        self.pause(pace.long, pace, now);
    }

    /// Many rows are not told before this time.
    pub(crate) fn begins_at(&mut self, at: Instant, pace: &Pace, now: Instant) {
        if self.has_many_rows(pace) && at > now {
            self.step = Step::Due(at);
        }
    }

    /// Whether it is in the middle of something long.
    pub(crate) fn is_pausing(&self) -> bool {
        self.pauses_until.is_some()
    }

    /// Whether many rows of the store are to be told, and nothing is to be taken away.
    pub(crate) fn has_many_rows(&self, pace: &Pace) -> bool {
        let is_long = |snapshot: &Arc<SnapshotFrames>| snapshot.rows.len() > pace.long && !snapshot.takes_away;
        !self.is_repeated && self.snapshot.as_ref().is_some_and(is_long)
    }

    /// When the store was asked, as a place of the log.
    pub(crate) fn asked_at(&self) -> Option<u64> {
        self.snapshot.as_ref().map(|snapshot| snapshot.at)
    }

    /// Messages from this one on are told as they come.
    pub(crate) fn leaves_messages(&mut self) {
        self.messages_from = u64::MAX;
    }

    /// No message waits to be told with it, of those that were told before a sequence number.
    pub(crate) fn has_no_messages(&self, log: &Log, entity: EntityIndex) -> bool {
        !log.has_messages_since(entity, self.messages_from)
    }

    fn rows(&self) -> usize {
        self.snapshot.as_ref().map_or(0, |snapshot| snapshot.rows.len())
    }

    /// It is told without a pause: something else waits for it, or it has been broken off before.
    pub(crate) fn hurries(&mut self) {
        (self.is_hurried, self.room, self.pauses_until) = (true, usize::MAX, None);
    }

    /// It has not been told to its end yet, and holds what the store says.
    pub(crate) fn is_broken_off(&self) -> bool {
        self.snapshot.is_some() && !self.is_repeated
    }

    /// Leaves its page the time to draw so many lines.
    fn pause(&mut self, drawn: usize, pace: &Pace, now: Instant) {
        if self.is_hurried {
            return self.hurries();
        }
        self.room = pace.at_once;
        self.pauses_until = Some(now + pace.time_for(drawn));
    }

    /// What settles is told with it.
    pub(crate) fn settle(&mut self, from: u64, known_before: u64, now: Instant) {
        if self.wants_rows() {
            let (earlier, known) = self.settles_then.unwrap_or((from, known_before));
            self.settles_then = Some((from.min(earlier), known_before.min(known)));
            if !matches!(self.step, Step::Telling(_)) {
                // A good moment for the rows as well.
                self.step = Step::Due(now);
            }
            return;
        }
        self.settling = Some(known_before.min(self.settling.unwrap_or(known_before)));
        if std::mem::take(&mut self.is_for_list) && matches!(self.step, Step::Due(_)) {
            // It is told sooner; the late list is still to come.
            if let Some(late) = &mut self.late {
                late.told = late.told.saturating_sub(1);
            }
        }
        match &mut self.step {
            Step::Arrived(_) | Step::TellingDeletions(_) => {
                // Of what came before only the deletions kind, and there is a next time for these.
                (self.from, self.attempts, self.deadline) = (from, 0, 0);
                self.step = Step::Due(now);
            }
            Step::Telling(place) => {
                place.sequence = place.sequence.min(from);
                self.from = self.from.min(from);
            }
            Step::Due(_) | Step::Told(_) => {
                self.from = self.from.min(from);
                self.step = Step::Due(now);
            }
        }
    }

    /// When something is to be done.
    pub(crate) fn next_due(&self, times: &SettleTimes) -> Option<Instant> {
        match self.step {
            Step::Due(due) | Step::Arrived(due) => Some(due),
            Step::Told(then) => Some(then + times.overlap),
            Step::Telling(_) => self.pauses_until,
            Step::TellingDeletions(_) => None,
        }
    }

    /// The first sequence number that its page may lack; `None` when nobody knows.
    pub(crate) fn missed_from(&self, cursor: u64) -> Option<u64> {
        match self.step {
            // What only the store says to be gone its page is reminded of by this connection alone: on another one the store
            // is asked again.
            Step::Arrived(_) | Step::TellingDeletions(_) if self.knows_gone_ids() => None,
            Step::Arrived(_) | Step::TellingDeletions(_) => Some(cursor),
            Step::Due(_) | Step::Telling(_) | Step::Told(_) if self.wants_rows() => None,
            // On another connection it is expected again.
            Step::Due(_) | Step::Telling(_) | Step::Told(_) if self.is_for_list => Some(cursor),
            Step::Due(_) | Step::Telling(_) | Step::Told(_) => Some(self.from),
        }
    }

    /// True when the log does not reach back to what is to be told now.
    pub(crate) fn is_gone(&self, log_start: u64, now: Instant) -> bool {
        match self.step {
            Step::Due(due) => due <= now && self.from < log_start,
            Step::Telling(place) => place.sequence < log_start,
            Step::Told(_) | Step::Arrived(_) | Step::TellingDeletions(_) => false,
        }
    }

    /// True when its page is to be reminded of what only the store says to be gone, and the log does not reach back to when
    /// that was said: it may have come back.
    pub(crate) fn doubts_gone_ids(&self, log_start: u64, now: Instant) -> bool {
        let is_due = matches!(self.step, Step::Arrived(due) if due <= now);
        is_due && self.knows_gone_ids() && self.is_stale(log_start)
    }

    /// True when what the store said is older than this.
    pub(crate) fn is_stale(&self, refreshed: u64) -> bool {
        self.snapshot.as_ref().is_some_and(|snapshot| snapshot.at < refreshed)
    }

    /// Messages from here on have not been told.
    pub(crate) fn messages_missed_from(&self, cursor: u64) -> u64 {
        self.messages_from.min(cursor)
    }

    /// It has been told to its end.
    pub(crate) fn is_repeated(&self) -> bool {
        self.is_repeated
    }

    /// Moves on when its time has come; false when nothing is left to be told.
    pub(crate) fn move_on(&mut self, settle: &Settle, times: &DeliveryTimes, now: Instant) -> bool {
        if self.next_due(&times.settle).is_none_or(|due| due > now) {
            return true;
        }
        match self.step {
            // Everyone is leave_frame to be told of it.
            Step::Due(_) if self.settling.is_none() && self.is_covered(settle) => self.arrive(settle, times, now),
            Step::Due(_)
                if self.is_repeated && !self.is_punctual && self.deadline > 0 && !was_calm(settle, times, now, now) =>
            {
                self.deadline -= 1;
                self.put_off(times, now)
            }
            Step::Due(_) => {
                let first = if self.wants_rows() { ReplayPosition::default() } else { ReplayPosition::END };
                self.step = Step::Telling(ReplayPosition { sequence: self.from.min(self.messages_from), ..first });
                let room = if self.is_hurried { usize::MAX } else { times.pace.first(self.rows()) };
                (self.room, self.began, self.is_punctual) = (room, now, false);
                true
            }
            Step::Told(_) if self.attempts > 0 && !was_calm(settle, times, self.began, now) => {
                self.attempts -= 1;
                self.put_off(times, now)
            }
            Step::Told(_) => self.arrive(settle, times, now),
            Step::Arrived(_) => match &self.deletions {
                None => false,
                Some(Deletions { from, .. }) => {
                    self.step = Step::TellingDeletions(ReplayPosition { tombstone: *from, row: 0, sequence: u64::MAX });
                    true
                }
            },
            Step::Telling(_) => {
                self.pauses_until = None;
                true
            }
            Step::TellingDeletions(_) => true,
        }
    }

    fn put_off(&mut self, times: &DeliveryTimes, now: Instant) -> bool {
        self.step = Step::Due(now + times.settle.overlap);
        true
    }

    fn arrive(&mut self, settle: &Settle, times: &DeliveryTimes, now: Instant) -> bool {
        if let Some(due) = self.expects_list(settle, times).and_then(|late| late.next(now)) {
            self.from = self.late.map_or(self.from, |late| late.from);
            self.step = Step::Due(due);
            (self.is_punctual, self.is_for_list) = (true, true);
            return true;
        }
        self.has_arrived = true;
        // A whole store is much to keep for as long as forms stay open.
        self.snapshot = self.snapshot.take().map(|snapshot| Arc::new(snapshot.only_gone()));
        let is_reminded = self.await_reminder(times, now);
        if let Some((from, known_before)) = self.settles_then.take() {
            self.settle(from.max(self.from), known_before, now);
            return true;
        }
        is_reminded
    }

    /// The list of a young page, where somebody has asked for one since shortly before it came.
    fn expects_list(&mut self, settle: &Settle, times: &DeliveryTimes) -> Option<&mut LateList> {
        let is_there =
            |late: &LateList| late.came.checked_sub(times.first_load).is_none_or(|since| settle.has_lists_since(since));
        self.late.as_mut().filter(|late| is_there(late))
    }

    /// Waits for its next reminder; false where there is none.
    fn await_reminder(&mut self, times: &DeliveryTimes, now: Instant) -> bool {
        let wait = self.deletions.and_then(|deletions| times.reminders.wait(deletions.sent));
        self.step = Step::Arrived(now + wait.unwrap_or_default());
        if wait.is_none() {
            self.deletions = None;
        }
        wait.is_some()
    }

    fn knows_gone_ids(&self) -> bool {
        self.snapshot.as_ref().is_some_and(|snapshot| !snapshot.gone.is_empty())
    }

    /// True while the rows of a snapshot may not have reached the page.
    pub(crate) fn wants_rows(&self) -> bool {
        self.snapshot.is_some() && !self.has_arrived
    }

    /// True when everyone is told of all this when the entity settles.
    fn is_covered(&self, settle: &Settle) -> bool {
        !self.wants_rows() && settle.will_repeat_from().is_some_and(|from| from <= self.from)
    }

    /// It goes on at `rest`; so many lines that are drawn have been told.
    pub(crate) fn told(&mut self, rest: ReplayPosition, drawn: usize, times: &DeliveryTimes, now: Instant) {
        match self.step {
            Step::Telling(_) if rest == ReplayPosition::END => {
                (self.is_repeated, self.settling, self.messages_from) = (true, None, u64::MAX);
                self.step = Step::Told(now);
            }
            Step::Telling(_) => {
                self.messages_from = self.messages_from.max(rest.sequence);
                self.step = Step::Telling(rest);
                self.drawn += drawn;
                self.room = self.room.saturating_sub(drawn);
                if self.room == 0 {
                    let drawn = std::mem::take(&mut self.drawn);
                    self.pause(drawn, &times.pace, now);
                }
            }
            Step::TellingDeletions(_) if rest == ReplayPosition::END => {
                if let Some(deletions) = &mut self.deletions {
                    deletions.sent += 1;
                }
                self.await_reminder(times, now);
            }
            Step::TellingDeletions(_) => self.step = Step::TellingDeletions(rest),
            Step::Due(_) | Step::Told(_) | Step::Arrived(_) => {}
        }
    }
}

/// Whether nobody was saving while something was told. An answer that left shortly before may have been on its way.
fn was_calm(settle: &Settle, times: &DeliveryTimes, then: Instant, now: Instant) -> bool {
    settle.is_still_since(then.checked_sub(times.settle.quiet).unwrap_or(then), now)
}

impl Hub {
    /// The next share of what is told once more; `None` when nothing is to be told at this time.
    pub(crate) fn share(&self, log: &Log, entity: EntityIndex, again: &Resend, recipient: &Recipient) -> Option<Chunk> {
        let (mut place, only_deletions) = match again.step {
            Step::Telling(_) if again.is_pausing() => return None,
            Step::Telling(place) => (place, false),
            Step::TellingDeletions(place) => (place, true),
            Step::Due(_) | Step::Told(_) | Step::Arrived(_) => return None,
        };
        let room = if only_deletions { usize::MAX } else { again.room };
        let mut share = Chunk::from(place, room);
        // What the log itself tells comes last.
        let (begin, end) = match &again.deletions {
            Some(Deletions { end, .. }) if only_deletions => {
                let begin = place.tombstone.max(self.reimported_before(log, entity));
                (begin_of_reminders(log, entity, begin, *end), *end)
            }
            _ => (place.tombstone, again.from),
        };
        let tombstones = begin..end.max(begin);
        for (sequence, tombstone) in log.tombstones(entity, tombstones) {
            if !share.add(
                ReplayPosition { tombstone: sequence, ..place },
                self.resolve_tombstone(entity, sequence, tombstone, recipient, true),
            ) {
                return Some(share);
            }
        }
        place.tombstone = u64::MAX;
        // Once the log does not reach back to where the store was asked, what was gone then may have come back.
        let log_start = recipient.log_start(log, entity);
        let snapshot = again.snapshot.iter().filter(|snapshot| !only_deletions || snapshot.at >= log_start);
        let rows = snapshot.flat_map(|snapshot| snapshot.gone.iter().chain(snapshot.rows.iter()));
        for (row, known) in rows.enumerate().skip(place.row) {
            let is_wanted = match known.kind {
                RowKind::Object => !only_deletions,
                RowKind::Gone => true,
                RowKind::Marker => !again.is_repeated,
            };
            let at = again.snapshot.as_ref().map_or(0, |snapshot| snapshot.at);
            let is_newer = |key: &Arc<str>| log.is_whole_since(entity, key, at);
            let is_old = known.kind != RowKind::Gone && known.keys.iter().any(is_newer);
            // What the log tells of it is newer, and comes later.
            let line = if is_wanted && !is_old {
                let since = known.keys.iter().find_map(|key| log.there_since(entity, key, at));
                self.resolve_row(entity, known, since, recipient)
            } else {
                None
            };
            let is_told = line.is_some() && known.kind == RowKind::Object;
            if !share.add(ReplayPosition { row, ..place }, line) {
                return Some(share);
            }
            // A part of it is newer, and may be on the page already.
            let newer = known.keys.iter().filter(|_| is_told).find_map(|key| log.part_since(entity, key, at));
            let how = Mode::Resend { from: again.from, pages: Pages::Any };
            let newer = newer.and_then(|(sequence, record)| self.resolve_record(log, sequence, record, recipient, how));
            share.lines.extend(newer.map(|line| (ReplayPosition { row, ..place }, line)));
        }
        place.row = usize::MAX;
        let pages = match again.settling {
            // Of what is told besides it may lack anything.
            Some(everything_before) if again.has_arrived => Pages::ThatHave { everything_before },
            _ => Pages::Any,
        };
        // What the log holds from before is in the rows, or newer there.
        let how = Mode::Resend { from: again.from, pages };
        for (sequence, record) in self.newest(log, entity, place.sequence, again.from, again.messages_from) {
            let line = record.and_then(|record| self.resolve_record(log, sequence, record, recipient, how));
            if !share.add(ReplayPosition { sequence, ..place }, line) {
                return Some(share);
            }
        }
        share.end = ReplayPosition::END;
        Some(share)
    }

    /// Of these deletions, those from a place on.
    pub(crate) fn share_of_deletions(
        &self,
        log: &Log,
        entity: EntityIndex,
        sequences: &[u64],
        from: usize,
        recipient: &Recipient,
    ) -> Chunk {
        let mut share = Chunk::from(ReplayPosition::of_row(from), usize::MAX);
        for (at, &sequence) in sequences.iter().enumerate().skip(from) {
            let tombstone = log.tombstone_at(entity, sequence);
            let line =
                tombstone.and_then(|tombstone| self.resolve_tombstone(entity, sequence, tombstone, recipient, false));
            if !share.add(ReplayPosition::of_row(at), line) {
                return share;
            }
        }
        share.end = ReplayPosition::END;
        share
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;
    use crate::{
        frame::Frame,
        hub::{Row, tests::times},
        scope::Scopes,
    };

    /// What a page was told that lost its place at 10, when all of it has arrived.
    fn arrived(gone: &[&str], now: Instant) -> Resend {
        let row = |id: &&str| Row {
            id: (*id).into(),
            keys: Box::default(),
            frame: Frame::from(Bytes::from_static(b"{}")),
            object: None,
            kind: RowKind::Gone,
        };
        let gone = gone.iter().map(row).collect();
        let snapshot = SnapshotFrames { at: 10, scopes: Scopes::All, gone, rows: Arc::default(), takes_away: false };
        let mut again = Resend::resynchronised(Arc::new(snapshot), 10, 10, 10, &times().pace, now);
        again.told(ReplayPosition::END, 0, &times(), now);
        let settle = Settle::new(now - Duration::from_secs(60));
        again.move_on(&settle, &times(), now + times().settle.overlap);
        assert!(matches!(again.step, Step::Arrived(_)), "{:?}", again.step);
        again
    }

    #[test]
    fn what_only_the_store_says_to_be_gone_is_not_forgotten_by_the_next_connection() {
        let now = Instant::now() + Duration::from_secs(60);
        assert_eq!(arrived(&[], now).missed_from(20), Some(20));
        assert_eq!(arrived(&["7"], now).missed_from(20), None, "the store is asked again");
    }

    #[test]
    fn what_the_store_said_to_be_gone_is_doubted_once_the_log_does_not_reach_back_to_it() {
        let now = Instant::now() + Duration::from_secs(60);
        let later = now + Duration::from_secs(60);
        for (gone, log_start, at, doubts) in [
            (&["7"][..], 11, later, true),
            (&["7"], 10, later, false),
            (&["7"], 11, now, false),
            (&[], 11, later, false),
        ] {
            assert_eq!(arrived(gone, now).doubts_gone_ids(log_start, at), doubts, "{gone:?} {log_start}");
        }
    }
}
