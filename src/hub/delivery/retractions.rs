//! What one subscriber must not see, and may be showing still: objects that are there for others.

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use tokio::time::Instant;

use crate::hub::{EntityIndex, delivery::reminders::ReminderTimes};

/// Objects that one subscription is reminded of at most. Somebody may move very many out of sight; of more than these
/// a page is told once.
const MOST: usize = 512;

/// An object that may be there for some and not for others.
#[derive(Clone, Debug)]
pub(crate) struct ObjectRef {
    pub(crate) entity: EntityIndex,
    /// What the log finds it by.
    pub(crate) key: Arc<str>,
    pub(crate) id: Arc<str>,
}

/// The objects of one subscription that are out of its sight, by their ids: those are all that its page knows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Retractions {
    objects: BTreeMap<Arc<str>, Retraction>,
    /// Mode many of them have reminders.
    reminded: usize,
    /// Where the telling goes on that is under way.
    next: Option<Arc<str>>,
}

#[derive(Clone, Debug)]
pub(crate) struct Retraction {
    /// What the log finds it by.
    pub(crate) key: Arc<str>,
    /// Mode often it is resent, since a form may keep its page from applying it. What only may be showing is sent once.
    pub(crate) reminders: Option<Reminders>,
    /// Nobody could say whether it may be seen, and nothing was told: of what was told from there on.
    pub(crate) undecided_from: Option<u64>,
    /// It is looked at next.
    is_due: bool,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Reminders {
    last: Instant,
    sent: usize,
}

impl Reminders {
    fn new(now: Instant) -> Self {
        Self { last: now, sent: 0 }
    }

    fn are_over(&self, times: &ReminderTimes) -> bool {
        self.sent >= times.count()
    }
}

impl Retractions {
    /// Something may be showing that is out of sight: it is looked at the next time.
    pub(crate) fn recheck(&mut self, key: Arc<str>, id: Arc<str>) {
        let since = Retraction { key, reminders: None, undecided_from: None, is_due: true };
        self.objects.entry(id).or_insert(since).is_due = true;
    }

    /// It was told that an object is gone.
    pub(crate) fn told(&mut self, mark: &ObjectRef, now: Instant) {
        if let Some(known) = self.known(mark) {
            known.undecided_from = None;
            let is_new = known.reminders.replace(Reminders::new(now)).is_none();
            self.reminded += usize::from(is_new);
        }
    }

    /// Nobody could say whether an object may be seen that was told from a place of the log on. False where there is no
    /// room to remember it.
    pub(crate) fn undecided(&mut self, mark: &ObjectRef, from: u64, now: Instant) -> bool {
        let Some(known) = self.known(mark) else {
            return false;
        };
        // To one that was told before that it is gone, this is no news.
        if known.reminders.is_none() || known.undecided_from.is_some() {
            known.undecided_from = Some(known.undecided_from.map_or(from, |earlier| earlier.min(from)));
            let is_new = known.reminders.replace(Reminders::new(now)).is_none();
            self.reminded += usize::from(is_new);
        }
        true
    }

    fn known(&mut self, mark: &ObjectRef) -> Option<&mut Retraction> {
        let has_reminders = |since: &Retraction| since.reminders.is_some();
        if self.reminded >= MOST && !self.objects.get(&mark.id).is_some_and(has_reminders) {
            return None;
        }
        let since = || Retraction { key: mark.key.clone(), reminders: None, undecided_from: None, is_due: false };
        let known = self.objects.entry(mark.id.clone()).or_insert_with(since);
        known.key = mark.key.clone();
        Some(known)
    }

    /// It was told an object: that is in its sight.
    pub(crate) fn shown(&mut self, id: &str) {
        let removed = self.objects.remove(id);
        self.reminded -= usize::from(removed.is_some_and(|since| since.reminders.is_some()));
    }

    /// Begins to resend what is due; false where that is nothing.
    pub(crate) fn remind(&mut self, times: &ReminderTimes, now: Instant) -> bool {
        for since in self.objects.values_mut() {
            let Some(reminders) = &mut since.reminders else {
                continue;
            };
            let wait = times.wait(reminders.sent);
            if wait.is_some_and(|wait| reminders.last + wait <= now) {
                *reminders = Reminders { last: now, sent: reminders.sent + 1 };
                since.is_due = true;
            }
        }
        self.look();
        self.is_due()
    }

    /// Its page has come back: it is told all of it.
    pub(crate) fn begin(&mut self, times: &ReminderTimes) {
        self.objects.retain(|_, since| since.is_due || since.reminders.is_some_and(|it| !it.are_over(times)));
        self.objects.values_mut().for_each(|since| since.is_due = true);
        self.count();
        self.look();
    }

    /// Begins to look at what is due.
    pub(crate) fn look(&mut self) {
        self.next = self.objects.iter().find(|(_, since)| since.is_due).map(|(id, _)| id.clone());
    }

    /// True while there is something to be told.
    pub(crate) fn is_due(&self) -> bool {
        self.next.is_some()
    }

    /// What is to be told next.
    pub(crate) fn due(&self) -> impl Iterator<Item = (&Arc<str>, &Retraction)> {
        let from = self.next.iter();
        let range = |from| self.objects.range::<Arc<str>, _>((Bound::Included(from), Bound::Unbounded));
        from.flat_map(range).filter(|(_, since)| since.is_due)
    }

    /// It goes on from there. What was only suspected has been looked at before that, and what has had its last reminder
    /// is forgotten.
    pub(crate) fn go_on(&mut self, next: Option<Arc<str>>, times: &ReminderTimes) {
        let is_ahead = |id: &Arc<str>| next.as_ref().is_some_and(|next| id >= next);
        self.objects.retain(|id, since| {
            since.is_due &= is_ahead(id);
            since.is_due || since.reminders.is_some_and(|reminders| !reminders.are_over(times))
        });
        self.count();
        self.next = next;
    }

    fn count(&mut self) {
        self.reminded = self.objects.values().filter(|since| since.reminders.is_some()).count();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn due(hidden: &Retractions) -> Vec<&str> {
        hidden.due().map(|(key, _)| &**key).collect()
    }

    fn mark(key: &str) -> ObjectRef {
        ObjectRef { entity: EntityIndex(0), key: key.into(), id: key.into() }
    }

    fn times() -> ReminderTimes {
        ReminderTimes::doubling(Duration::from_secs(10), 2)
    }

    #[test]
    fn what_was_told_is_told_again_further_and_further_apart_and_what_is_suspected_once() {
        let (mut hidden, now, times) = (Retractions::default(), Instant::now(), times());
        let later = |seconds| now + Duration::from_secs(seconds);
        ["a", "b"].into_iter().for_each(|key| hidden.recheck(key.into(), key.into()));
        hidden.told(&mark("c"), now);
        hidden.told(&mark("d"), now);
        assert!(!hidden.is_due());
        hidden.look();
        assert_eq!(due(&hidden), ["a", "b"]);
        hidden.told(&mark("a"), later(5));
        hidden.shown("d");
        hidden.go_on(Some("b".into()), &times);
        assert_eq!(due(&hidden), ["b"]);
        hidden.go_on(None, &times);
        assert!(!hidden.is_due());
        for (seconds, expected) in
            [(9, &[][..]), (10, &["c"]), (15, &["a"]), (29, &[]), (30, &["c"]), (35, &["a"]), (99, &[])]
        {
            assert_eq!(hidden.remind(&times, later(seconds)), !expected.is_empty());
            assert_eq!(due(&hidden), expected, "{seconds}");
            hidden.go_on(None, &times);
        }
        assert!(hidden.objects.is_empty());
    }

    #[test]
    fn a_page_that_comes_back_is_told_what_it_may_not_have_heard() {
        let (mut hidden, now, times) = (Retractions::default(), Instant::now(), times());
        hidden.told(&mark("a"), now);
        hidden.recheck("b".into(), "b".into());
        hidden.begin(&times);
        assert_eq!(due(&hidden), ["a", "b"]);
        hidden.go_on(None, &times);
        hidden.begin(&times);
        assert_eq!(due(&hidden), ["a"]);
    }

    #[test]
    fn what_nobody_could_say_is_asked_about_until_something_is_told() {
        let (mut hidden, now) = (Retractions::default(), Instant::now());
        let from = |hidden: &Retractions| hidden.objects["a"].undecided_from;
        hidden.undecided(&mark("a"), 7, now);
        hidden.undecided(&mark("a"), 9, now);
        assert_eq!(from(&hidden), Some(7));
        hidden.told(&mark("a"), now);
        hidden.undecided(&mark("a"), 11, now);
        assert_eq!(from(&hidden), None);
    }

    #[test]
    fn what_is_suspected_stays_until_it_was_looked_at() {
        let (mut hidden, times) = (Retractions::default(), times());
        ["a", "b", "c"].into_iter().for_each(|key| hidden.recheck(key.into(), key.into()));
        hidden.look();
        hidden.go_on(Some("b".into()), &times);
        assert_eq!(due(&hidden), ["b", "c"]);
        hidden.go_on(None, &times);
        assert!(hidden.objects.is_empty() && !hidden.is_due());
    }

    #[test]
    fn however_many_go_out_of_sight_only_so_many_are_remembered() {
        let (mut hidden, now) = (Retractions::default(), Instant::now());
        for number in 0..5000 {
            hidden.told(&mark(&number.to_string()), now);
        }
        assert_eq!(hidden.objects.len(), MOST);
        assert!(!hidden.undecided(&mark("another"), 0, now), "the store must be asked");
        assert!(hidden.undecided(&mark("7"), 0, now));
    }
}
