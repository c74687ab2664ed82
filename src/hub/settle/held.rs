//! Changes that are not broadcast as they are published, but a little later.
//!
//! The stock Gantt client cannot tell its own new object from another page's before its save is answered, loses the
//! subtree of a task whose parent it does not have, and stops for ever at a task that is its own ancestor. So changes of
//! the tree are *held* for a while, and with them what names the objects they are about.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    entity::EntityIndex,
    hub::log::{Broadcast, Owner},
    sequence::Sequence,
};

/// Objects that are held at one time; what is beyond is broadcast at once.
const MAX_HELD: usize = 4096;

/// An object of an entity, by its key.
pub(crate) type Named = (EntityIndex, Arc<str>);

/// The write of an HTTP request, to know when it has been answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WriteNumber(pub(crate) u64);

/// For how long an object is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// Some time after the answer to this write has left.
    Answered(WriteNumber),
    At(Instant),
    /// No page is saving.
    Quiet,
}

#[derive(Clone, Debug)]
pub(crate) struct HeldObject {
    /// The first of its records that is held.
    pub(crate) first: Sequence,
    pub(crate) until: Until,
    /// From which pages it is held.
    pub(crate) broadcast: Broadcast,
    /// When it was held: no answer takes longer than the hold lasts at most.
    pub(crate) since: Instant,
    /// From which pages it is held that it was added.
    pub(crate) added: Option<Broadcast>,
}

#[derive(Debug, Default)]
pub(crate) struct Held {
    objects: BTreeMap<Named, HeldObject>,
    /// Objects that were added, or got another parent, since no page was saving; with the record of that.
    unsettled: HashMap<Named, Sequence>,
    /// Objects from which children were taken away since then: pages may show these there still.
    left: HashMap<Named, HashMap<Named, Sequence>>,
    /// The same may be so of any other object, since this record.
    something_left: Option<Sequence>,
    /// Objects below which another one has just stood for a moment, or was lost by a page.
    beside: HashMap<Named, Instant>,
}

impl Held {
    pub(crate) fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    pub(crate) fn get(&self, name: &Named) -> Option<&HeldObject> {
        self.objects.get(name)
    }

    /// The objects of an entity that are held, and were there before.
    pub(crate) fn moved(&self, entity: EntityIndex) -> impl Iterator<Item = Arc<str>> {
        let moved = self.objects.iter().filter(move |((of, _), held)| *of == entity && held.added.is_none());
        moved.map(|((_, key), _)| key.clone())
    }

    /// An object is held from the record at `at` on, or for longer than before. Returns how that record is broadcast.
    pub(crate) fn hold(
        &mut self,
        name: Named,
        at: Sequence,
        until: Until,
        from: Option<Owner>,
        (is_new, now): (bool, Instant),
    ) -> Broadcast {
        let broadcast = from.map_or(Broadcast::Held, Broadcast::HeldFrom);
        if self.objects.len() >= MAX_HELD && !self.objects.contains_key(&name) {
            return Broadcast::ToAll;
        }
        let added = is_new.then_some(broadcast);
        let known = self.objects.entry(name).or_insert(HeldObject { first: at, until, broadcast, since: now, added });
        if known.broadcast != broadcast {
            known.broadcast = Broadcast::Held;
        }
        known.until = known.until.later(until);
        known.broadcast
    }

    /// The answer to a write has left: what it added is held until then.
    pub(crate) fn answered(&mut self, write: WriteNumber, then: Instant) -> bool {
        let mut waits = self.objects.values_mut().filter(|held| held.until == Until::Answered(write)).peekable();
        let has_waited = waits.peek().is_some();
        waits.for_each(|held| held.until = Until::At(then));
        has_waited
    }

    /// What is to be released at this time, unless something that it names is held, and when to look next.
    pub(crate) fn due(&self, now: Instant, longest: Duration) -> (Vec<(Named, HeldObject)>, Option<Instant>) {
        let mut next: Option<Instant> = None;
        let mut due = Vec::new();
        for (name, held) in &self.objects {
            let at = match held.until {
                Until::At(at) => at,
                Until::Answered(_) => held.since + longest,
                Until::Quiet => continue,
            };
            if at <= now {
                due.push((name.clone(), held.clone()));
            } else {
                next = next.into_iter().chain([at]).min();
            }
        }
        (due, next)
    }

    pub(crate) fn release(&mut self, name: &Named) {
        self.objects.remove(name);
    }

    /// It is held until no page is saving.
    pub(crate) fn put_off(&mut self, name: &Named) {
        if let Some(held) = self.objects.get_mut(name) {
            held.until = Until::Quiet;
        }
    }

    /// It is held for no quiet moment any more.
    pub(crate) fn needs_no_quiet(&mut self, name: &Named, now: Instant) {
        if let Some(held) = self.objects.get_mut(name).filter(|held| held.until == Until::Quiet) {
            held.until = Until::At(now);
        }
    }

    /// All that are of a kind are held until no page is saving.
    pub(crate) fn put_off_where(&mut self, is_of_it: impl Fn(&Named) -> bool) {
        self.objects.iter_mut().filter(|(name, _)| is_of_it(name)).for_each(|(_, held)| held.until = Until::Quiet);
    }

    /// An object was added, or has another parent now.
    pub(crate) fn unsettle(&mut self, name: Named, at: Sequence) {
        self.unsettled.insert(name, at);
    }

    pub(crate) fn is_unsettled(&self, name: &Named) -> bool {
        self.unsettled.contains_key(name)
    }

    pub(crate) fn unsettled(&self, entity: EntityIndex) -> impl Iterator<Item = Arc<str>> {
        self.unsettled.keys().filter(move |(of, _)| *of == entity).map(|(_, key)| key.clone())
    }

    pub(crate) fn has_unsettled_besides(&self, name: &Named) -> bool {
        self.unsettled.keys().any(|unsettled| unsettled != name)
    }

    /// A child was taken away from an object.
    pub(crate) fn leave(&mut self, parent: Named, child: Named, at: Sequence) {
        if self.left.len() >= MAX_HELD && !self.left.contains_key(&parent) {
            return self.leave_something(at);
        }
        self.left.entry(parent).or_default().insert(child, at);
    }

    /// A child may have been taken away from some object.
    pub(crate) fn leave_something(&mut self, at: Sequence) {
        self.something_left = Some(at);
    }

    pub(crate) fn was_left(&self, name: &Named) -> bool {
        self.something_left.is_some() || self.left.contains_key(name)
    }

    /// A page may lose what hangs below another object with the deletion of this one, which it sends within `overlap`.
    pub(crate) fn stand_beside(&mut self, name: Named, now: Instant, overlap: Duration) {
        self.beside.retain(|_, then| now.saturating_duration_since(*then) < overlap);
        self.beside.insert(name, now);
    }

    /// Whether a page may have lost something with the deletion of this one.
    pub(crate) fn was_beside(&self, name: &Named, now: Instant, overlap: Duration) -> bool {
        self.beside.get(name).is_some_and(|then| now.saturating_duration_since(*then) < overlap)
    }

    /// The first record that some page has not been sent.
    pub(crate) fn first(&self) -> Option<Sequence> {
        self.objects.values().map(|held| held.first).min()
    }

    /// True while something is held that is not for a quiet moment.
    pub(crate) fn is_timed(&self) -> bool {
        self.objects.values().any(|held| held.until != Until::Quiet)
    }

    /// The first record of what waits for a quiet moment and was held before `before`.
    pub(crate) fn first_of_quiet(&self, before: Sequence) -> Option<Sequence> {
        let waiting = self.objects.values().filter(|held| held.until == Until::Quiet && held.first < before);
        waiting.map(|held| held.first).min()
    }

    /// What is resent now is held no more: of what waits for a quiet moment that which was held before `before`. Deletions go
    /// on waiting while something is held that pages may show below one of them.
    pub(crate) fn resent(&mut self, before: Sequence, is_deletion: impl Fn(&Named) -> bool) -> Vec<Named> {
        let is_resent = |held: &HeldObject| held.until == Until::Quiet && held.first < before;
        let (resent, others): (Vec<_>, Vec<_>) = self.objects.iter().partition(|(_, held)| is_resent(held));
        let moved: HashSet<&Named> = self.left.values().flat_map(HashMap::keys).collect();
        let has_left = |name: &Named| self.something_left.is_some() || moved.contains(name);
        let keeps_deletions = others.iter().any(|(name, _)| !is_deletion(name) && has_left(name));
        let names = resent.into_iter().map(|(name, _)| name).filter(|name| !(keeps_deletions && is_deletion(name)));
        let names: Vec<Named> = names.cloned().collect();
        names.iter().for_each(|name| self.release(name));
        self.settled(before);
        names
    }

    /// All pages know what was before `before`.
    pub(crate) fn settled(&mut self, before: Sequence) {
        self.unsettled.retain(|_, at| *at >= before);
        self.left.retain(|_, left| {
            left.retain(|_, at| *at >= before);
            !left.is_empty()
        });
        self.something_left = self.something_left.filter(|at| *at >= before);
    }
}

impl Until {
    fn later(self, other: Self) -> Self {
        match (self, other) {
            (Self::Quiet, _) | (_, Self::Quiet) => Self::Quiet,
            (Self::Answered(_), _) => self,
            (_, Self::Answered(_)) => other,
            (Self::At(one), Self::At(other)) => Self::At(one.max(other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TASKS: EntityIndex = EntityIndex(0);

    fn task(key: &str) -> Named {
        (TASKS, key.into())
    }

    /// What is held for a quiet moment, from these places of the log on.
    fn held(tasks: &[(&str, u64)]) -> Held {
        let mut held = Held::default();
        for (key, first) in tasks {
            held.hold(task(key), Sequence(*first), Until::Quiet, None, (false, Instant::now()));
        }
        held
    }

    #[test]
    fn a_deletion_waits_for_what_pages_may_show_below_it() {
        let is_deletion = |name: &Named| *name == task("deleted");
        for (moved, is_resent) in [(Some(4), false), (Some(2), true), (None, true)] {
            let mut held = held(&[("deleted", 1)]);
            held.leave(task("deleted"), task("moved"), Sequence(2));
            if let Some(first) = moved {
                held.hold(task("moved"), Sequence(first), Until::Quiet, None, (false, Instant::now()));
            }
            let resent = held.resent(Sequence(3), is_deletion);
            assert_eq!(resent.contains(&task("deleted")), is_resent, "the other is held from {moved:?} on");
        }
    }

    #[test]
    fn a_deletion_waits_for_nothing_that_was_never_below_it() {
        let mut held = held(&[("deleted", 1), ("moved", 4)]);
        assert_eq!(held.resent(Sequence(3), |name| *name == task("deleted")), [task("deleted")]);
        assert!(held.get(&task("moved")).is_some());
    }

    #[test]
    fn what_needs_no_quiet_is_due_at_once() {
        let now = Instant::now();
        let mut held = held(&[("deleted", 1)]);
        assert!(held.due(now, Duration::from_secs(60)).0.is_empty());
        held.needs_no_quiet(&task("deleted"), now);
        assert_eq!(held.due(now, Duration::from_secs(60)).0.len(), 1);
    }

    #[test]
    fn objects_that_are_new_have_not_been_moved() {
        let mut held = held(&[("moved", 1)]);
        held.hold(task("new"), Sequence(2), Until::Quiet, None, (true, Instant::now()));
        assert_eq!(held.moved(TASKS).collect::<Vec<_>>(), [Arc::from("moved")]);
    }
}
