//! Which entities settle together: a page keeps one saving state for them.

use tokio::time::Instant;

use super::Settle;
use crate::entity::EntityIndex;

/// What is kept of each group of entities.
#[derive(Debug)]
pub(crate) struct Settles {
    groups: Vec<Settle>,
    /// The group of each entity.
    of: Vec<usize>,
}

impl Settles {
    /// Entities of one family are one group, every other entity is a group of its own.
    pub(crate) fn new<F: PartialEq>(families: impl Iterator<Item = Option<F>>, now: Instant) -> Self {
        let mut known: Vec<(Option<F>, usize)> = Vec::new();
        let mut groups = Vec::new();
        for family in families {
            let same = known.iter().find(|(known, _)| family.is_some() && *known == family).map(|(_, group)| *group);
            let group = same.unwrap_or_else(|| {
                groups.push(Settle::new(now));
                groups.len() - 1
            });
            known.push((family, group));
        }
        Self { groups, of: known.into_iter().map(|(_, group)| group).collect() }
    }

    pub(crate) fn of(&self, entity: EntityIndex) -> &Settle {
        &self.groups[self.of[usize::from(entity.0)]]
    }

    pub(crate) fn of_mut(&mut self, entity: EntityIndex) -> &mut Settle {
        &mut self.groups[self.of[usize::from(entity.0)]]
    }

    /// The entities that settle together with this one, itself among them.
    pub(crate) fn members(&self, entity: EntityIndex) -> impl Iterator<Item = EntityIndex> + '_ {
        let group = self.of[usize::from(entity.0)];
        (0..).map(EntityIndex).zip(&self.of).filter(move |(_, of)| **of == group).map(|(member, _)| member)
    }

    /// The first entity of each group.
    pub(crate) fn firsts(&self) -> impl Iterator<Item = EntityIndex> + '_ {
        let of = |group| self.of.iter().position(|of| *of == group).and_then(|at| u16::try_from(at).ok());
        (0..self.groups.len()).filter_map(of).map(EntityIndex)
    }
}
