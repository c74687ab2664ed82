//! What one subscriber must not see, and may be showing still: objects that are there for others.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    ops::Bound,
    sync::Arc,
};

use tokio::time::Instant;

use crate::hub::EntityIndex;

/// That a subscriber is told that an object is gone which is there for others, or was when this one lost sight of it.
#[derive(Clone, Debug)]
pub(super) struct Loss {
    pub(super) entity: EntityIndex,
    /// The object, as the log finds it.
    pub(super) key: Arc<str>,
    /// What it may be showing of it was told from this record on, or before it.
    pub(super) from: u64,
}

/// The objects of one subscription that are out of its sight.
#[derive(Debug, Default)]
pub(super) struct Hidden {
    objects: BTreeMap<Arc<str>, Since>,
    /// Where the telling goes on that is under way.
    next: Option<Arc<str>>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Since {
    pub(super) from: u64,
    /// Until when it is told again, since a form may keep its page from hearing it. Of what only may be showing, once.
    pub(super) until: Option<Instant>,
}

impl Hidden {
    /// Something may be showing that is out of sight: it is looked at the next time.
    pub(super) fn suspect(&mut self, key: Arc<str>) {
        self.objects.entry(key).or_insert(Since { from: 0, until: None });
    }

    /// It was told that an object is gone.
    pub(super) fn told(&mut self, loss: &Loss, until: Instant) {
        match self.objects.entry(loss.key.clone()) {
            Entry::Vacant(entry) => {
                entry.insert(Since { from: loss.from, until: Some(until) });
            }
            Entry::Occupied(mut entry) => {
                entry.get_mut().until.get_or_insert(until);
            }
        }
    }

    /// Nobody could say whether an object is out of sight.
    pub(super) fn unknown(&mut self, loss: &Loss, until: Instant) {
        self.told(loss, until);
        if let Some(since) = self.objects.get_mut(&loss.key) {
            since.until = Some(until);
        }
    }

    /// Begins to tell all of it again, but for what that was long ago.
    pub(super) fn begin(&mut self, now: Instant) {
        self.objects.retain(|_, since| since.until.is_some_and(|until| until > now));
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
    pub(super) fn due(&self) -> impl Iterator<Item = (&Arc<str>, Since)> {
        let from = self.next.iter();
        let range = |from| self.objects.range::<Arc<str>, _>((Bound::Included(from), Bound::Unbounded));
        from.flat_map(range).map(|(key, since)| (key, *since))
    }

    /// It goes on from there.
    pub(super) fn go_on(&mut self, next: Option<Arc<str>>) {
        self.next = next;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn due(hidden: &Hidden) -> Vec<(&str, u64)> {
        hidden.due().map(|(key, since)| (&**key, since.from)).collect()
    }

    fn loss(key: &str, from: u64) -> Loss {
        Loss { entity: EntityIndex(0), key: key.into(), from }
    }

    #[test]
    fn what_was_told_is_told_again_for_a_while_and_what_is_suspected_once() {
        let (mut hidden, now) = (Hidden::default(), Instant::now());
        let later = |seconds| now + Duration::from_secs(seconds);
        hidden.suspect("a".into());
        hidden.suspect("b".into());
        hidden.told(&loss("c", 7), later(20));
        assert!(!hidden.is_due());
        hidden.look();
        assert_eq!(due(&hidden), [("a", 0), ("b", 0), ("c", 7)]);
        hidden.told(&loss("a", 3), later(10));
        hidden.told(&loss("c", 9), later(60));
        hidden.unknown(&loss("a", 5), later(12));
        hidden.go_on(Some("c".into()));
        assert_eq!(due(&hidden), [("c", 7)]);
        hidden.go_on(None);
        assert!(!hidden.is_due());
        for (seconds, expected) in [(11, &[("a", 0), ("c", 7)][..]), (15, &[("c", 7)]), (20, &[])] {
            hidden.begin(later(seconds));
            assert_eq!(due(&hidden), expected, "{seconds}");
        }
    }
}
