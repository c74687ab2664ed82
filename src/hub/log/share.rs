//! Whose records go when the log is full, and who has missed what went.
//!
//! A log that drops its oldest record lets one entity, or one tenant, take everybody's history. So the record that goes
//! is the oldest one of whoever holds most: of the entity with the costliest records, those that are told in the
//! costliest set of scopes.

use std::collections::{BTreeSet, HashMap, VecDeque};

use serde::{Deserialize, Serialize};
use slab::Slab;

use crate::scope::Scopes;

/// Sets of scopes that are told apart when it is asked what somebody has missed.
const MAX_TRIMMED: usize = 1024;
/// Shares whose costs differ by less count as equal: not every record puts them into another order.
const GRAIN: usize = 16 * 1024;

/// What the records of one entity cost, by the scopes they are told in.
#[derive(Debug, Default)]
pub(super) struct Shares {
    cost: usize,
    places: HashMap<Scopes, usize>,
    shares: Slab<Chunk>,
    /// Costs, in grains, and places.
    by_cost: BTreeSet<(usize, usize)>,
    /// The share that a record was added to last: the next is likely to be of the same.
    latest: usize,
}

#[derive(Debug)]
struct Chunk {
    scopes: Scopes,
    cost: usize,
    /// Its records, the oldest first.
    sequences: VecDeque<u64>,
}

impl Shares {
    pub(super) fn cost(&self) -> usize {
        self.cost
    }

    /// The oldest record of the costliest share.
    pub(super) fn next_to_go(&self) -> Option<u64> {
        let (_, place) = self.by_cost.last()?;
        self.shares.get(*place)?.sequences.front().copied()
    }

    /// Counts a record; says which share it belongs to.
    pub(super) fn add(&mut self, scopes: &Scopes, sequence: u64, cost: usize) -> usize {
        let is_same = self.shares.get(self.latest).is_some_and(|latest| latest.scopes == *scopes);
        let place = if is_same { self.latest } else { self.place(scopes) };
        self.latest = place;
        let share = &mut self.shares[place];
        let was = share.cost / GRAIN;
        share.cost += cost;
        share.sequences.push_back(sequence);
        self.cost += cost;
        let is = share.cost / GRAIN;
        if is != was {
            self.by_cost.remove(&(was, place));
            self.by_cost.insert((is, place));
        }
        place
    }

    /// The share of these scopes, which may be a new one.
    fn place(&mut self, scopes: &Scopes) -> usize {
        if let Some(&place) = self.places.get(scopes) {
            return place;
        }
        let place = self.shares.insert(Chunk { scopes: scopes.clone(), cost: 0, sequences: VecDeque::new() });
        self.places.insert(scopes.clone(), place);
        self.by_cost.insert((0, place));
        place
    }

    /// Takes a record off its share.
    pub(super) fn remove(&mut self, place: usize, sequence: u64, cost: usize) {
        let Some(share) = self.shares.get_mut(place) else {
            return;
        };
        let was = share.cost / GRAIN;
        share.cost -= cost;
        self.cost -= cost;
        // Whatever makes a record go, it is the oldest of its share.
        if share.sequences.front() == Some(&sequence) {
            share.sequences.pop_front();
        }
        let is = share.cost / GRAIN;
        if share.sequences.is_empty() {
            self.by_cost.remove(&(was, place));
            self.places.remove(&share.scopes);
            self.shares.remove(place);
        } else if is != was {
            self.by_cost.remove(&(was, place));
            self.by_cost.insert((is, place));
        }
    }
}

/// Up to where the log lacks records of one entity.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Trimmed {
    /// Behind the newest one that went and concerned everybody.
    pub(super) all: u64,
    /// The same, of those that concerned some scopes.
    scopes: HashMap<Scopes, u64>,
}

impl Trimmed {
    pub(super) fn note(&mut self, audience: &Scopes, sequence: u64) {
        let behind = sequence + 1;
        match audience {
            Scopes::None => {}
            Scopes::All => self.all = self.all.max(behind),
            some => {
                // Records of several shares may concern the same scopes, and go in any order.
                let known = self.scopes.entry(some.clone()).or_default();
                *known = behind.max(*known);
                if self.scopes.len() > MAX_TRIMMED {
                    self.all = self.scopes.drain().map(|(_, behind)| behind).fold(self.all, u64::max);
                }
            }
        }
    }

    /// Behind the newest record that went, whomever it concerned.
    pub(super) fn for_anybody(&self) -> u64 {
        self.scopes.values().copied().fold(self.all, u64::max)
    }

    /// Behind the newest record that went and concerned somebody with these scopes.
    pub(super) fn for_scopes(&self, recipient: &Scopes) -> u64 {
        let concerned = self.scopes.iter().filter(|(audience, _)| audience.intersects(recipient));
        concerned.map(|(_, behind)| *behind).fold(self.all, u64::max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scopes(name: &str) -> Scopes {
        [name].into_iter().collect()
    }

    #[test]
    fn the_oldest_of_whoever_holds_most_goes_first() {
        let mut shares = Shares::default();
        let records = [("a", 5), ("b", 3), ("a", 1), ("b", 4)].into_iter().enumerate();
        let add = |(sequence, (name, grains))| shares.add(&scopes(name), sequence as u64, grains * GRAIN);
        let places: Vec<usize> = records.map(add).collect();
        let mut gone = Vec::new();
        for grains in [3, 5, 4, 1] {
            let next = shares.next_to_go().unwrap();
            gone.push(next);
            shares.remove(places[next as usize], next, grains * GRAIN);
        }
        assert_eq!(gone, [1, 0, 3, 2]);
        assert_eq!((shares.cost(), shares.next_to_go(), shares.places.len(), shares.by_cost.len()), (0, None, 0, 0));
    }

    #[test]
    fn what_went_concerns_those_who_could_hear_it() {
        let mut trimmed = Trimmed::default();
        trimmed.note(&scopes("a"), 4);
        trimmed.note(&scopes("b"), 7);
        trimmed.note(&scopes("b"), 5);
        let of = |trimmed: &Trimmed, name| trimmed.for_scopes(&scopes(name));
        assert_eq!((of(&trimmed, "a"), of(&trimmed, "b"), of(&trimmed, "c")), (5, 8, 0));
        assert_eq!((trimmed.for_scopes(&Scopes::All), trimmed.for_anybody()), (8, 8));
        trimmed.note(&Scopes::All, 5);
        assert_eq!((of(&trimmed, "a"), of(&trimmed, "b"), of(&trimmed, "c")), (6, 8, 6));
        for number in 0..=MAX_TRIMMED as u64 {
            trimmed.note(&scopes(&number.to_string()), number);
        }
        assert!(trimmed.scopes.len() <= MAX_TRIMMED && of(&trimmed, "c") >= 8, "too many to tell apart: everybody");
    }
}
