//! Saves that were refused a moment ago: their pages may not know yet.
//!
//! The stock client drops updates of an object while it saves that object, and defers the adds of others while it saves a
//! new object. A refused save changes nothing, so nothing is resent to other pages because of it; only what is published before its page can have learned of the refusal is resent.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::time::Instant;

/// A page, be it a busy one, knows this long after the answer that its save was refused.
const ON_ITS_WAY: Duration = Duration::from_secs(2);
/// Refusals that are kept. The bound is needed because any page can provoke them.
const MAX_REFUSALS: usize = 256;

/// The refused saves of one entity.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    /// When, and of which object; of a new one without a key.
    recent: VecDeque<(Instant, Option<Arc<str>>)>,
    latest: Option<Instant>,
}

impl Refusals {
    pub(crate) fn note(&mut self, now: Instant, key: Option<Arc<str>>) {
        self.latest = Some(now);
        self.forget_old(now);
        if self.recent.len() == MAX_REFUSALS {
            self.recent.pop_front();
        }
        self.recent.push_back((now, key));
    }

    /// Whether a page that does not know yet may have missed a change; `is_change_of` returns
    /// whether that is of an object.
    pub(crate) fn concern(&mut self, now: Instant, has_added: bool, is_change_of: impl Fn(&str) -> bool) -> bool {
        self.forget_old(now);
        self.recent.iter().any(|(_, key)| key.as_deref().map_or(has_added, &is_change_of))
    }

    /// Whether some page may have been saving since then.
    pub(crate) fn are_newer_than(&self, then: Instant) -> bool {
        self.latest.is_some_and(|latest| latest > then)
    }

    fn forget_old(&mut self, now: Instant) {
        while self.recent.front().is_some_and(|(at, _)| *at + ON_ITS_WAY < now) {
            self.recent.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_concerns_its_object_and_for_a_moment() {
        let (mut refusals, begin) = (Refusals::default(), Instant::now());
        let at = |millis| begin + Duration::from_millis(millis);
        refusals.note(at(0), Some("7".into()));
        for (millis, changed, concerned) in [(1900, "7", true), (1900, "8", false), (2100, "7", false)] {
            assert_eq!(refusals.concern(at(millis), true, |key| key == changed), concerned, "{changed} at {millis}");
        }
        refusals.note(at(3000), None);
        let concern = |refusals: &mut Refusals, has_added| refusals.concern(at(3500), has_added, |_| false);
        assert!(concern(&mut refusals, true) && !concern(&mut refusals, false), "a new object holds adds back");
        assert!(refusals.are_newer_than(at(2999)) && !refusals.are_newer_than(at(3000)));
    }

    #[test]
    fn the_number_of_refusals_is_bounded() {
        let (mut refusals, now) = (Refusals::default(), Instant::now());
        for number in 0..10_000 {
            refusals.note(now, Some(number.to_string().into()));
        }
        assert_eq!(refusals.recent.len(), MAX_REFUSALS);
        assert!(refusals.concern(now, false, |key| key == "9999"));
    }
}
