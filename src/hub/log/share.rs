//! Which records are dropped when the log is full, and which scopes miss them.
//!
//! A log that drops its oldest record lets one entity, or one tenant, displace the history of all others. So the log
//! drops the oldest record of the costliest share: of the entity with the costliest records, those of the costliest set
//! of scopes.

use std::collections::{BTreeSet, HashMap, VecDeque};

use serde::{Deserialize, Serialize};
use slab::Slab;

use crate::{scope::Scopes, sequence::Sequence};

/// Sets of scopes for which the trimmed records are counted apart.
const MAX_TRIMMED: usize = 1024;
/// Shares whose costs differ by less count as equal: not every record puts them into another order.
const GRAIN: usize = 16 * 1024;

/// What the records of one entity cost, by their scopes.
#[derive(Debug, Default)]
pub(super) struct Shares {
    cost: usize,
    numbers: HashMap<Scopes, usize>,
    shares: Slab<Share>,
    /// Costs, in grains, and numbers of shares.
    by_cost: BTreeSet<(usize, usize)>,
    /// The share that a record was added to last: the next is likely to be of the same.
    latest: usize,
}

#[derive(Debug)]
struct Share {
    scopes: Scopes,
    cost: usize,
    /// Its records, the oldest first.
    sequences: VecDeque<Sequence>,
}

impl Shares {
    pub(super) fn cost(&self) -> usize {
        self.cost
    }

    /// The oldest record of the costliest share.
    pub(super) fn next_to_drop(&self) -> Option<Sequence> {
        let (_, number) = self.by_cost.last()?;
        self.shares.get(*number)?.sequences.front().copied()
    }

    /// Counts a record; returns the number of its share.
    pub(super) fn add(&mut self, scopes: &Scopes, sequence: Sequence, cost: usize) -> usize {
        let is_same = self.shares.get(self.latest).is_some_and(|latest| latest.scopes == *scopes);
        let number = if is_same { self.latest } else { self.number(scopes) };
        self.latest = number;
        self.shares[number].sequences.push_back(sequence);
        self.set_cost(number, self.shares[number].cost + cost);
        number
    }

    /// The number of the share of these scopes, which may be a new one.
    fn number(&mut self, scopes: &Scopes) -> usize {
        *self.numbers.entry(scopes.clone()).or_insert_with_key(|scopes| {
            let number = self.shares.insert(Share { scopes: scopes.clone(), cost: 0, sequences: VecDeque::new() });
            self.by_cost.insert((0, number));
            number
        })
    }

    /// Takes a record off its share.
    pub(super) fn remove(&mut self, number: usize, sequence: Sequence, cost: usize) {
        let Some(share) = self.shares.get_mut(number) else { return };
        // For whatever reason a record is dropped, it is the oldest of its share.
        if share.sequences.front() == Some(&sequence) {
            share.sequences.pop_front();
        }
        let (is_empty, left) = (share.sequences.is_empty(), share.cost - cost);
        self.set_cost(number, left);
        if is_empty {
            let share = self.shares.remove(number);
            self.by_cost.remove(&(share.cost / GRAIN, number));
            self.numbers.remove(&share.scopes);
        }
    }

    fn set_cost(&mut self, number: usize, cost: usize) {
        let was = std::mem::replace(&mut self.shares[number].cost, cost);
        self.cost = self.cost - was + cost;
        if cost / GRAIN != was / GRAIN {
            self.by_cost.remove(&(was / GRAIN, number));
            self.by_cost.insert((cost / GRAIN, number));
        }
    }
}

/// Up to where the log lacks records of one entity.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Trimmed {
    /// Behind the newest dropped record of all scopes.
    pub(super) all: Sequence,
    /// The same, of records of some scopes.
    scopes: HashMap<Scopes, Sequence>,
}

impl Trimmed {
    pub(super) fn note(&mut self, audience: &Scopes, sequence: Sequence) {
        let behind = sequence.next();
        match audience {
            Scopes::None => {}
            Scopes::All => self.all = self.all.max(behind),
            some => {
                // Records of several shares may concern the same scopes, and are dropped in any order.
                let known = self.scopes.entry(some.clone()).or_default();
                *known = behind.max(*known);
                if self.scopes.len() > MAX_TRIMMED {
                    self.all = self.scopes.drain().map(|(_, behind)| behind).fold(self.all, Sequence::max);
                }
            }
        }
    }

    /// Behind the newest record that was dropped, of any scopes.
    pub(super) fn for_all(&self) -> Sequence {
        self.scopes.values().copied().fold(self.all, Sequence::max)
    }

    /// Behind the newest dropped record that a page with these scopes could receive.
    pub(super) fn for_scopes(&self, recipient: &Scopes) -> Sequence {
        let concerned = self.scopes.iter().filter(|(audience, _)| audience.intersects(recipient));
        concerned.map(|(_, behind)| *behind).fold(self.all, Sequence::max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scopes(name: &str) -> Scopes {
        [name].into_iter().collect()
    }

    #[test]
    fn the_oldest_record_of_the_costliest_share_is_dropped_first() {
        let mut shares = Shares::default();
        let records = [("a", 5), ("b", 3), ("a", 1), ("b", 4)].into_iter().enumerate();
        let add = |(sequence, (name, grains))| shares.add(&scopes(name), Sequence(sequence as u64), grains * GRAIN);
        let numbers: Vec<usize> = records.map(add).collect();
        let mut gone = Vec::new();
        for grains in [3, 5, 4, 1] {
            let next = shares.next_to_drop().unwrap();
            gone.push(next.0);
            shares.remove(numbers[next.0 as usize], next, grains * GRAIN);
        }
        assert_eq!(gone, [1, 0, 3, 2]);
        assert_eq!((shares.cost(), shares.next_to_drop(), shares.numbers.len(), shares.by_cost.len()), (0, None, 0, 0));
    }

    #[test]
    fn trimmed_records_count_for_the_scopes_that_could_receive_them() {
        let mut trimmed = Trimmed::default();
        trimmed.note(&scopes("a"), Sequence(4));
        trimmed.note(&scopes("b"), Sequence(7));
        trimmed.note(&scopes("b"), Sequence(5));
        let of = |trimmed: &Trimmed, name| trimmed.for_scopes(&scopes(name)).0;
        assert_eq!((of(&trimmed, "a"), of(&trimmed, "b"), of(&trimmed, "c")), (5, 8, 0));
        assert_eq!((trimmed.for_scopes(&Scopes::All), trimmed.for_all()), (Sequence(8), Sequence(8)));
        trimmed.note(&Scopes::All, Sequence(5));
        assert_eq!((of(&trimmed, "a"), of(&trimmed, "b"), of(&trimmed, "c")), (6, 8, 6));
        for number in 0..=MAX_TRIMMED as u64 {
            trimmed.note(&scopes(&number.to_string()), Sequence(number));
        }
        assert!(trimmed.scopes.len() <= MAX_TRIMMED && of(&trimmed, "c") >= 8, "too many to count apart: all scopes");
    }
}
