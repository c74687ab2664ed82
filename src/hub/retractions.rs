//! What one page is reminded to take away: objects that left its visibility, and what was deleted while it was away.
//!
//! A page cannot apply a deletion while the event's form is open, and nothing shows that. So each is resent at the times of
//! [`ReminderTimes`]. There are three kinds:
//! - *objects* that are there for others, and that this page must not see;
//! - *old deletions*: those of which everyone had the reminders before this page came back, and the ids that only the store
//!   reports as gone;
//! - *lists* of deletions that everyone is reminded of now, and this page could not be with the others.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::{Bound, Range},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::{log::ObjectRef, reminders::ReminderTimes, snapshot::SnapshotFrames};
use crate::sequence::Sequence;

/// The most objects that one subscription is reminded of. One change may move very many out of a page's visibility; of
/// more than these the page is sent the deletion once.
const MAX_OBJECTS: usize = 512;
/// Lists that wait for one subscriber. One that is far behind has the oldest forgotten: it will be replayed to.
const MAX_LISTS: usize = 4;
/// How long after they failed hooks are asked again where deletions have no reminders.
const ASK_AGAIN: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
pub(crate) struct Retractions {
    objects: BTreeMap<Arc<str>, Retraction>,
    /// How often the store was to be read because hooks had failed, since none had.
    reads: usize,
    /// Objects that have reminders.
    reminded: usize,
    /// The first object that is due.
    next: Option<Arc<str>>,
    old: Option<OldDeletions>,
    lists: VecDeque<Arc<[Sequence]>>,
    /// How many of the first list have been sent.
    sent_of_list: usize,
}

/// An object outside a page's visibility, found by its id: the page knows nothing else of it.
#[derive(Clone, Debug)]
pub(crate) struct Retraction {
    /// What the log finds it by.
    pub(crate) key: Arc<str>,
    /// What may only be showing is sent once, and has none.
    pub(crate) reminders: Option<Reminders>,
    /// No hook could decide whether it may be seen, and nothing was sent of what was published from there on.
    pub(crate) undecided_from: Option<Sequence>,
    /// A hook has failed when it was asked about it. It is asked again, if need be of what the store holds.
    has_failed: bool,
    /// The store has been read since.
    is_read: bool,
    /// Where its page stood in the log when it was noted.
    at: Sequence,
    is_due: bool,
}

impl Retraction {
    fn new(key: Arc<str>) -> Self {
        Self {
            key,
            reminders: None,
            undecided_from: None,
            has_failed: false,
            is_read: false,
            at: Sequence::MAX,
            is_due: false,
        }
    }

    /// When its page is reminded next. Hooks that failed are asked again in any case.
    fn next(&self, times: &ReminderTimes) -> Option<Instant> {
        let reminders = self.reminders.as_ref()?;
        let asks_again = self.has_failed && reminders.sent == 0;
        reminders.next(times).or_else(|| asks_again.then(|| reminders.last + ASK_AGAIN))
    }
}

/// The objects outside one page's visibility, as they outlive its connection.
pub(crate) type Retracted = BTreeMap<Arc<str>, Retraction>;

/// How often something was resent, and when the last time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reminders {
    last: Instant,
    sent: usize,
}

impl Reminders {
    fn new(now: Instant) -> Self {
        Self { last: now, sent: 0 }
    }

    fn next(&self, times: &ReminderTimes) -> Option<Instant> {
        times.wait(self.sent).map(|wait| self.last + wait)
    }
}

#[derive(Debug)]
pub(crate) struct OldDeletions {
    /// Those that the log holds as tombstones.
    pub(crate) tombstones: Range<Sequence>,
    /// Ids that only the store reported as gone.
    pub(crate) gone: Option<Arc<SnapshotFrames>>,
    reminders: Reminders,
    pub(crate) sending: Option<OldPosition>,
}

/// How far the old deletions are sent.
#[derive(Clone, Copy, Debug)]
pub(crate) enum OldPosition {
    Tombstone(Sequence),
    Row(usize),
}

impl OldDeletions {
    /// True when the page is to be reminded of ids that only the store reported as gone, and the log does not reach back to when
    /// that was: the objects may have come back.
    fn is_doubtful(&self, log_start: Sequence) -> bool {
        self.sending.is_some() && self.gone.as_ref().is_some_and(|gone| gone.at < log_start && !gone.gone.is_empty())
    }
}

impl Retractions {
    /// Those of a page that subscribes again. One that comes back is sent all of them, since they may have been lost.
    pub(crate) fn resumed(objects: Retracted, comes_back: bool, times: &ReminderTimes) -> Self {
        let mut resumed = Self { objects, ..Self::default() };
        resumed.objects.retain(|_, known| known.is_due || known.next(times).is_some());
        for known in resumed.objects.values_mut() {
            known.is_due |= comes_back && known.undecided_from.is_none();
            known.is_read = false;
        }
        resumed.count();
        resumed.look();
        resumed
    }

    /// What outlives the connection.
    pub(crate) fn retracted(&self) -> &Retracted {
        &self.objects
    }

    /// The page may show an object outside its visibility: the object is looked at after the next [`look`](Self::look).
    pub(crate) fn recheck(&mut self, key: Arc<str>, id: Arc<str>) {
        let retraction = Retraction { is_due: true, ..Retraction::new(key) };
        self.objects.entry(id).or_insert(retraction).is_due = true;
    }

    /// The page was sent a deletion of this object, when it stood at this place of the log.
    pub(crate) fn left(&mut self, object: &ObjectRef, (at, now): (Sequence, Instant)) {
        if let Some(known) = self.known(object) {
            (known.undecided_from, known.at) = (None, at);
            let is_new = known.reminders.replace(Reminders::new(now)).is_none();
            self.reminded += usize::from(is_new);
        }
    }

    /// No hook could decide whether an object may be seen that was published from a place of the log on. False where
    /// there is no room to remember it.
    pub(crate) fn undecided(&mut self, object: &ObjectRef, from: Sequence, (at, now): (Sequence, Instant)) -> bool {
        let Some(known) = self.known(object) else { return false };
        let was_read = std::mem::take(&mut known.is_read);
        (known.has_failed, known.at) = (true, at);
        // A page that was already sent the deletion is reminded of it in any case.
        if known.reminders.is_none() || known.undecided_from.is_some() {
            known.undecided_from = Some(known.undecided_from.map_or(from, |earlier| earlier.min(from)));
            // Where the store was read in vain, it is read less often.
            let reminders = known.reminders.filter(|_| was_read).unwrap_or_else(|| Reminders::new(now));
            let is_new = known.reminders.replace(reminders).is_none();
            self.reminded += usize::from(is_new);
        }
        true
    }

    fn known(&mut self, object: &ObjectRef) -> Option<&mut Retraction> {
        let has_reminders = |known: &Retraction| known.reminders.is_some();
        if self.reminded >= MAX_OBJECTS && !self.objects.get(&object.id).is_some_and(has_reminders) {
            return None;
        }
        let new = || Retraction::new(object.key.clone());
        let known = self.objects.entry(object.id.clone()).or_insert_with(new);
        known.key = object.key.clone();
        Some(known)
    }

    /// The page was sent an object, which is within its visibility.
    pub(crate) fn entered(&mut self, id: &str) {
        let removed = self.objects.remove(id);
        self.reminded -= usize::from(removed.is_some_and(|known| known.reminders.is_some()));
    }

    /// It is reminded of old deletions from now on.
    pub(crate) fn remind_of(
        &mut self,
        tombstones: Range<Sequence>,
        gone: Option<Arc<SnapshotFrames>>,
        times: &ReminderTimes,
        now: Instant,
    ) {
        let reminders = Reminders::new(now);
        self.old = reminders.next(times).map(|_| OldDeletions { tombstones, gone, reminders, sending: None });
    }

    /// The store is asked anew, and reports what is gone.
    pub(crate) fn forget_old(&mut self) {
        self.old = None;
    }

    /// What only the store reports as gone, its page is reminded of by this connection alone.
    pub(crate) fn knows_gone_ids(&self) -> bool {
        self.old.as_ref().and_then(|old| old.gone.as_ref()).is_some_and(|gone| !gone.gone.is_empty())
    }

    /// Everyone is reminded of these deletions, and this page was not with the others.
    pub(crate) fn add_list(&mut self, sequences: Arc<[Sequence]>) {
        if self.lists.len() >= MAX_LISTS {
            self.next_list();
        }
        self.lists.push_back(sequences);
    }

    fn next_list(&mut self) {
        self.lists.pop_front();
        self.sent_of_list = 0;
    }

    /// When there is something to send next.
    pub(crate) fn next_due(&self, times: &ReminderTimes) -> Option<Instant> {
        let idle = self.old.as_ref().filter(|old| old.sending.is_none());
        let old = idle.and_then(|old| old.reminders.next(times));
        self.objects.values().filter_map(|known| known.next(times)).chain(old).min()
    }

    /// Begins to send what is due at this time. What no hook could decide becomes due later where the store is being read, or
    /// its rows are being sent.
    pub(crate) fn remind(&mut self, times: &ReminderTimes, is_store_read: bool, now: Instant) {
        let is_due = |next: Option<Instant>| next.is_some_and(|next| next <= now);
        let mut any = false;
        for known in self.objects.values_mut().filter(|known| is_due(known.next(times))) {
            let sent = known.reminders.map_or(0, |reminders| reminders.sent);
            let waits = is_store_read && known.undecided_from.is_some();
            known.reminders = Some(Reminders { last: now, sent: sent + usize::from(!waits) });
            known.is_due |= !waits;
            any |= !waits;
        }
        if any {
            self.look();
        }
        if let Some(old) = self.old.as_mut().filter(|old| is_due(old.reminders.next(times))) {
            old.sending.get_or_insert(OldPosition::Tombstone(old.tombstones.start));
        }
    }

    /// Begins to look at the objects that are due.
    pub(crate) fn look(&mut self) {
        self.next = self.objects.iter().find(|(_, known)| known.is_due).map(|(id, _)| id.clone());
    }

    /// Forgets the objects that were noted before the page loaded its list again: they may have come back with that.
    pub(crate) fn forget_before(&mut self, reloaded: Sequence) {
        let before = self.objects.len();
        self.objects.retain(|_, known| known.at >= reloaded);
        if self.objects.len() < before {
            self.count();
            self.look();
        }
    }

    /// True when the store must be read to show whether a due object may be seen: a hook has failed, and the log does not
    /// hold the object. That is done as often as there are reminders, and once at least: a hook may fail for ever.
    pub(crate) fn need_the_store(&mut self, times: &ReminderTimes, is_in_log: impl Fn(&str) -> bool) -> bool {
        let is_needed = self.reads < times.count().max(1)
            && self.due_objects().any(|(_, known)| known.has_failed && !is_in_log(&known.key));
        self.reads += usize::from(is_needed);
        is_needed
    }

    /// The store has been read, and its rows are going to be sent; or reading it has failed.
    pub(crate) fn store_is_read(&mut self, has_rows: bool) {
        self.objects.values_mut().for_each(|known| known.is_read = has_rows && known.has_failed);
    }

    /// A hook failed on this object in the chunk that was sent, whatever that held of it besides.
    pub(crate) fn hook_failed(&mut self, id: &str) {
        if let Some(known) = self.objects.get_mut(id) {
            known.has_failed = true;
        }
    }

    /// The rows of the store have been sent: they decide what hooks had failed on, but for what they failed on again.
    pub(crate) fn rows_are_sent(&mut self) {
        self.objects.retain(|_, known| {
            let is_decided = std::mem::take(&mut known.is_read);
            known.has_failed &= !is_decided;
            !(is_decided && known.undecided_from.is_some())
        });
        if !self.objects.values().any(|known| known.has_failed) {
            self.reads = 0;
        }
        self.count();
        self.look();
    }

    /// The objects that are sent next.
    pub(crate) fn due_objects(&self) -> impl Iterator<Item = (&Arc<str>, &Retraction)> {
        let from = self.next.iter();
        let range = |from| self.objects.range::<Arc<str>, _>((Bound::Included(from), Bound::Unbounded));
        from.flat_map(range).filter(|(_, known)| known.is_due)
    }

    /// The list that is sent next, and how much of it has been sent.
    pub(crate) fn due_list(&self) -> Option<(&Arc<[Sequence]>, usize)> {
        self.lists.front().map(|list| (list, self.sent_of_list))
    }

    /// The old deletions, while they are sent.
    pub(crate) fn due_old(&self) -> Option<(&OldDeletions, OldPosition)> {
        self.old.as_ref().and_then(|old| Some((old, old.sending?)))
    }

    /// True when the store must be asked anew what is gone.
    pub(crate) fn are_doubtful(&self, log_start: Sequence) -> bool {
        self.old.as_ref().is_some_and(|old| old.is_doubtful(log_start))
    }

    /// The objects before `next` have been sent. What was only to be looked at is done with, and what has had its last
    /// reminder is forgotten.
    pub(crate) fn objects_sent(&mut self, next: Option<Arc<str>>, times: &ReminderTimes) {
        let is_ahead = |id: &Arc<str>| next.as_ref().is_some_and(|next| id >= next);
        self.objects.retain(|id, known| {
            known.is_due &= is_ahead(id);
            known.is_due || known.next(times).is_some()
        });
        self.count();
        self.next = next;
    }

    /// The list is sent, or so many of it.
    pub(crate) fn list_sent(&mut self, sent: Option<usize>) {
        match sent {
            None => self.next_list(),
            Some(sent) => self.sent_of_list = sent,
        }
    }

    /// The old deletions are sent, or those before a place.
    pub(crate) fn old_sent(&mut self, next: Option<OldPosition>, times: &ReminderTimes, now: Instant) {
        if let Some(old) = &mut self.old {
            old.sending = next;
            if next.is_none() {
                old.reminders = Reminders { last: now, sent: old.reminders.sent + 1 };
            }
        }
        self.old.take_if(|old| old.reminders.next(times).is_none());
    }

    fn count(&mut self) {
        self.reminded = self.objects.values().filter(|known| known.reminders.is_some()).count();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;
    use crate::{
        entity::EntityIndex,
        frame::Frame,
        hub::snapshot::{Row, RowKind},
        scope::Scopes,
    };

    fn due(retractions: &Retractions) -> Vec<&str> {
        retractions.due_objects().map(|(key, _)| &**key).collect()
    }

    fn object(key: &str) -> ObjectRef {
        ObjectRef { entity: EntityIndex(0), key: key.into(), id: key.into() }
    }

    fn times() -> ReminderTimes {
        ReminderTimes::doubling(Duration::from_secs(10), 2)
    }

    #[test]
    fn what_left_is_resent_further_and_further_apart_and_what_is_rechecked_once() {
        let (mut retractions, now, times) = (Retractions::default(), Instant::now(), times());
        let later = |seconds| now + Duration::from_secs(seconds);
        ["a", "b"].into_iter().for_each(|key| retractions.recheck(key.into(), key.into()));
        retractions.left(&object("c"), (Sequence::ZERO, now));
        retractions.left(&object("d"), (Sequence::ZERO, now));
        assert!(due(&retractions).is_empty());
        retractions.look();
        assert_eq!(due(&retractions), ["a", "b"]);
        retractions.left(&object("a"), (Sequence::ZERO, later(5)));
        retractions.entered("d");
        retractions.objects_sent(Some("b".into()), &times);
        assert_eq!(due(&retractions), ["b"]);
        retractions.objects_sent(None, &times);
        assert!(due(&retractions).is_empty());
        for (seconds, expected) in
            [(9, &[][..]), (10, &["c"]), (15, &["a"]), (29, &[]), (30, &["c"]), (35, &["a"]), (99, &[])]
        {
            retractions.remind(&times, false, later(seconds));
            assert_eq!(due(&retractions), expected, "{seconds}");
            retractions.objects_sent(None, &times);
        }
        assert!(retractions.objects.is_empty());
    }

    #[test]
    fn a_page_that_comes_back_is_sent_what_it_may_not_have_received() {
        let (mut retractions, now, times) = (Retractions::default(), Instant::now(), times());
        retractions.left(&object("a"), (Sequence::ZERO, now));
        retractions.recheck("b".into(), "b".into());
        let mut retractions = Retractions::resumed(retractions.retracted().clone(), true, &times);
        assert_eq!(due(&retractions), ["a", "b"]);
        retractions.objects_sent(None, &times);
        let retractions = Retractions::resumed(retractions.retracted().clone(), true, &times);
        assert_eq!(due(&retractions), ["a"]);
    }

    #[test]
    fn what_no_hook_could_decide_is_asked_again_until_something_is_sent() {
        let (mut retractions, now) = (Retractions::default(), Instant::now());
        let from = |retractions: &Retractions| retractions.objects["a"].undecided_from;
        retractions.undecided(&object("a"), Sequence(7), (Sequence::ZERO, now));
        retractions.undecided(&object("a"), Sequence(9), (Sequence::ZERO, now));
        assert_eq!(from(&retractions), Some(Sequence(7)));
        retractions.left(&object("a"), (Sequence::ZERO, now));
        retractions.undecided(&object("a"), Sequence(11), (Sequence::ZERO, now));
        assert_eq!(from(&retractions), None);
    }

    #[test]
    fn what_no_hook_could_decide_stays_until_rows_of_the_store_are_sent() {
        let (mut retractions, now, times) = (Retractions::default(), Instant::now(), times());
        retractions.undecided(&object("a"), Sequence(7), (Sequence::ZERO, now));
        retractions.store_is_read(true);
        let mut retractions = Retractions::resumed(retractions.retracted().clone(), true, &times);
        retractions.rows_are_sent();
        assert_eq!(retractions.objects.len(), 1, "another connection has sent none");
        retractions.store_is_read(true);
        retractions.store_is_read(false);
        retractions.rows_are_sent();
        assert_eq!(retractions.objects.len(), 1, "the store could not be read the second time");
        retractions.store_is_read(true);
        retractions.undecided(&object("a"), Sequence(7), (Sequence::ZERO, now));
        retractions.rows_are_sent();
        assert_eq!(retractions.objects.len(), 1, "the hook has failed again");
        retractions.store_is_read(true);
        retractions.rows_are_sent();
        assert!(retractions.objects.is_empty());
    }

    #[test]
    fn what_is_rechecked_stays_until_it_was_looked_at() {
        let (mut retractions, times) = (Retractions::default(), times());
        ["a", "b", "c"].into_iter().for_each(|key| retractions.recheck(key.into(), key.into()));
        retractions.look();
        retractions.objects_sent(Some("b".into()), &times);
        assert_eq!(due(&retractions), ["b", "c"]);
        retractions.objects_sent(None, &times);
        assert!(retractions.objects.is_empty() && due(&retractions).is_empty());
    }

    #[test]
    fn however_many_leave_only_so_many_are_remembered() {
        let (mut retractions, now) = (Retractions::default(), Instant::now());
        for number in 0..5000 {
            retractions.left(&object(&number.to_string()), (Sequence::ZERO, now));
        }
        assert_eq!(retractions.objects.len(), MAX_OBJECTS);
        assert!(
            !retractions.undecided(&object("another"), Sequence(0), (Sequence::ZERO, now)),
            "the store must be asked"
        );
        assert!(retractions.undecided(&object("7"), Sequence(0), (Sequence::ZERO, now)));
    }

    /// Ids that the store reported as gone when the log stood at 10.
    fn snapshot(gone: &[&str]) -> Arc<SnapshotFrames> {
        let row = |id: &&str| Row {
            id: (*id).into(),
            keys: Box::default(),
            frame: Frame::from(Bytes::from_static(b"{}")),
            at_root: None,
            object: None,
            parent: None,
            place: None,
            kind: RowKind::Gone,
        };
        let gone = gone.iter().map(row).collect();
        Arc::new(SnapshotFrames {
            at: Sequence(10),
            scopes: Scopes::All,
            gone,
            rows: Arc::default(),
            takes_away: false,
            gone_last: false,
            read: None,
        })
    }

    #[test]
    fn what_only_the_store_reports_as_gone_is_doubted_once_the_log_does_not_reach_back_to_it() {
        let (now, times) = (Instant::now(), times());
        let later = now + Duration::from_secs(10);
        for (gone, log_start, at, doubts) in [
            (&["7"][..], 11, later, true),
            (&["7"], 10, later, false),
            (&["7"], 11, now, false),
            (&[], 11, later, false),
        ] {
            let mut retractions = Retractions::default();
            retractions.remind_of(Sequence::ZERO..Sequence::ZERO, Some(snapshot(gone)), &times, now);
            assert_eq!(retractions.knows_gone_ids(), !gone.is_empty(), "the next connection asks the store again");
            retractions.remind(&times, false, at);
            assert_eq!(retractions.are_doubtful(Sequence(log_start)), doubts, "{gone:?} {log_start}");
        }
    }

    #[test]
    fn old_deletions_have_each_reminder_once() {
        let (mut retractions, now, times) = (Retractions::default(), Instant::now(), times());
        let later = |seconds| now + Duration::from_secs(seconds);
        retractions.remind_of(Sequence(5)..Sequence(9), None, &times, now);
        let mut sent_at = Vec::new();
        for second in 0..100 {
            retractions.remind(&times, false, later(second));
            if let Some((_, position)) = retractions.due_old() {
                assert!(matches!(position, OldPosition::Tombstone(Sequence(5))));
                sent_at.push(second);
                retractions.old_sent(None, &times, later(second));
            }
        }
        assert_eq!(sent_at, [10, 30]);
        assert!(retractions.old.is_none() && retractions.next_due(&times).is_none());
    }

    #[test]
    fn of_lists_that_wait_the_oldest_is_forgotten() {
        let mut retractions = Retractions::default();
        for first in 0..=MAX_LISTS as u64 {
            retractions.add_list([first, 100].map(Sequence).into());
        }
        retractions.list_sent(Some(1));
        let (list, sent) = retractions.due_list().unwrap();
        assert_eq!((&**list, sent), (&[Sequence(1), Sequence(100)][..], 1));
        (0..MAX_LISTS).for_each(|_| retractions.list_sent(None));
        assert!(retractions.due_list().is_none());
    }
}
