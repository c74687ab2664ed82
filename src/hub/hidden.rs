//! What one subscriber must not see, and may be showing still: objects that are there for others.

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use tokio::time::Instant;

use crate::hub::EntityIndex;

/// An object that may be there for some and not for others.
#[derive(Clone, Debug)]
pub(super) struct Mark {
    pub(super) entity: EntityIndex,
    /// What the log finds it by.
    pub(super) key: Arc<str>,
    pub(super) id: Arc<str>,
}

/// The objects of one subscription that are out of its sight, by their ids: those are all that its page knows.
#[derive(Debug, Default)]
pub(super) struct Hidden {
    objects: BTreeMap<Arc<str>, Since>,
    /// Where the telling goes on that is under way.
    next: Option<Arc<str>>,
}

#[derive(Clone, Debug)]
pub(super) struct Since {
    /// What the log finds it by.
    pub(super) key: Arc<str>,
    /// Until when it is told again, since a form may keep its page from hearing it. Of what only may be showing, once.
    pub(super) until: Option<Instant>,
    /// Nobody could say whether it may be seen, and nothing was told: of what was told from there on.
    pub(super) unsaid_from: Option<u64>,
}

impl Hidden {
    /// Something may be showing that is out of sight: it is looked at the next time.
    pub(super) fn suspect(&mut self, key: Arc<str>, id: Arc<str>) {
        self.objects.entry(id).or_insert(Since { key, until: None, unsaid_from: None });
    }

    /// It was told that an object is gone.
    pub(super) fn told(&mut self, mark: &Mark, until: Instant) {
        let known = self.known(mark);
        known.until = Some(known.until.map_or(until, |earlier| earlier.max(until)));
        known.unsaid_from = None;
    }

    /// Nobody could say whether an object may be seen that was told from a place of the log on.
    pub(super) fn unsaid(&mut self, mark: &Mark, from: u64, until: Instant) {
        let known = self.known(mark);
        // To one that was told before that it is gone, this is no news.
        if known.until.is_none() || known.unsaid_from.is_some() {
            known.until = Some(until);
            known.unsaid_from = Some(known.unsaid_from.map_or(from, |earlier| earlier.min(from)));
        }
    }

    fn known(&mut self, mark: &Mark) -> &mut Since {
        let known = self.objects.entry(mark.id.clone());
        let known = known.or_insert_with(|| Since { key: mark.key.clone(), until: None, unsaid_from: None });
        known.key = mark.key.clone();
        known
    }

    /// It was told an object: that is in its sight.
    pub(super) fn shown(&mut self, id: &str) {
        self.objects.remove(id);
    }

    /// Begins to tell all of it again, but for what that was long ago.
    pub(super) fn begin(&mut self, now: Instant) {
        let unseen = self.next.take();
        let is_unseen = |id: &Arc<str>| unseen.as_ref().is_some_and(|next| id >= next);
        self.objects.retain(|id, since| since.until.map_or_else(|| is_unseen(id), |until| until > now));
        self.look();
    }

    /// Begins to look at all of it.
    pub(super) fn look(&mut self) {
        self.next = self.objects.keys().next().cloned();
    }

    /// True while there is something to be told.
    pub(super) fn is_due(&self) -> bool {
        self.next.is_some()
    }

    /// What is to be told next.
    pub(super) fn due(&self) -> impl Iterator<Item = (&Arc<str>, &Since)> {
        let from = self.next.iter();
        let range = |from| self.objects.range::<Arc<str>, _>((Bound::Included(from), Bound::Unbounded));
        from.flat_map(range)
    }

    /// It goes on from there. What was only suspected has been looked at before that.
    pub(super) fn go_on(&mut self, next: Option<Arc<str>>) {
        let is_ahead = |id: &Arc<str>| next.as_ref().is_some_and(|next| id >= next);
        self.objects.retain(|id, since| since.until.is_some() || is_ahead(id));
        self.next = next;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn due(hidden: &Hidden) -> Vec<&str> {
        hidden.due().map(|(key, _)| &**key).collect()
    }

    fn mark(key: &str) -> Mark {
        Mark { entity: EntityIndex(0), key: key.into(), id: key.into() }
    }

    #[test]
    fn what_was_told_is_told_again_for_a_while_and_what_is_suspected_once() {
        let (mut hidden, now) = (Hidden::default(), Instant::now());
        let later = |seconds| now + Duration::from_secs(seconds);
        ["a", "b"].into_iter().for_each(|key| hidden.suspect(key.into(), key.into()));
        hidden.told(&mark("c"), later(20));
        hidden.told(&mark("d"), later(20));
        assert!(!hidden.is_due());
        hidden.look();
        assert_eq!(due(&hidden), ["a", "b", "c", "d"]);
        hidden.told(&mark("a"), later(10));
        hidden.told(&mark("c"), later(18));
        hidden.shown("d");
        hidden.go_on(Some("c".into()));
        assert_eq!(due(&hidden), ["c"]);
        hidden.go_on(None);
        assert!(!hidden.is_due());
        for (seconds, expected) in [(5, &["a", "c"][..]), (15, &["c"]), (20, &[])] {
            hidden.begin(later(seconds));
            assert_eq!(due(&hidden), expected, "{seconds}");
        }
    }

    #[test]
    fn what_nobody_could_say_is_asked_about_until_something_is_told() {
        let (mut hidden, now) = (Hidden::default(), Instant::now());
        let until = now + Duration::from_secs(10);
        let from = |hidden: &Hidden| hidden.objects["a"].unsaid_from;
        hidden.unsaid(&mark("a"), 7, until);
        hidden.unsaid(&mark("a"), 9, until);
        assert_eq!(from(&hidden), Some(7));
        hidden.told(&mark("a"), until);
        hidden.unsaid(&mark("a"), 11, until);
        assert_eq!(from(&hidden), None);
    }

    #[test]
    fn what_is_suspected_stays_until_it_was_looked_at() {
        let (mut hidden, now) = (Hidden::default(), Instant::now());
        ["a", "b", "c"].into_iter().for_each(|key| hidden.suspect(key.into(), key.into()));
        hidden.look();
        hidden.go_on(Some("b".into()));
        hidden.begin(now);
        assert_eq!(due(&hidden), ["b", "c"]);
        hidden.go_on(None);
        hidden.begin(now);
        assert!(!hidden.is_due());
    }
}
