//! Who is here: tells the presence of each entity which sockets are open and who they are, and publishes what changes.

use std::{
    sync::{Arc, MutexGuard, atomic::AtomicBool},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    auth::Identity,
    change::Change,
    entity::EntityIndex,
    lock::lock,
    presence::{Presence, Registry},
    publish::Publisher,
    shutdown::Lifecycle,
};

/// Sockets that are forgotten under one lock.
const FORGOTTEN_AT_ONCE: usize = 256;

/// How a socket leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Departure {
    /// Its page may not connect any more, or is disconnected by the application.
    ForGood,
    /// Its page may reconnect.
    ForNow,
}

/// The entities whose objects are those who are here.
pub(super) struct Presences {
    entities: Box<[EntityIndex]>,
    publisher: Publisher,
    lifecycle: Arc<Lifecycle>,
    timeout: Duration,
    /// Sockets that may be leaving at one time.
    most: usize,
    /// A task forgets those that have gone.
    pub(super) is_served: AtomicBool,
    /// The task has ended with its runtime, and there was more to do.
    pub(super) is_abandoned: AtomicBool,
}

impl Presences {
    pub(super) fn new(publisher: Publisher, lifecycle: Arc<Lifecycle>, timeout: Duration, most: usize) -> Self {
        let all = (0..).map(EntityIndex).zip(publisher.entities.iter());
        let entities = all.filter_map(|(index, entity)| entity.presence.as_ref().map(|_| index)).collect();
        let (is_served, is_abandoned) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { entities, publisher, lifecycle, timeout, most, is_served, is_abandoned }
    }

    fn each(&self) -> impl Iterator<Item = (EntityIndex, &Presence)> {
        self.entities.iter().filter_map(|index| Some((*index, self.publisher.entity(*index).presence.as_ref()?)))
    }

    /// A socket has this identity from now on, and its page may receive something.
    pub(super) fn is_here(&self, socket: usize, identity: &Identity) {
        if self.lifecycle.draining.is_cancelled() {
            return;
        }
        for (index, presence) in self.each() {
            let entity = self.publisher.entity(index);
            let described = presence.describe(identity, entity.scoping.is_some());
            let described = described.and_then(|shown| {
                shown.iter().try_for_each(|shown| self.publisher.check(index, shown))?;
                Ok(shown)
            });
            let shown = described.unwrap_or_else(|error| {
                let (observer, name) = (&self.publisher.observer, &entity.name);
                observer.hooks_failed.up();
                observer.warn(format_args!("the presence closure of {name:?} failed: {error}; the page is not shown"));
                None
            });
            let registry = lock(&presence.registry);
            self.publish(index, registry, |registry| registry.comes(socket, shown));
        }
    }

    /// A socket has closed. True where something is to be done later.
    pub(super) fn leaves(&self, socket: usize, departure: Departure, now: Instant) -> bool {
        // Nobody is left to see it.
        if self.entities.is_empty() || self.lifecycle.draining.is_cancelled() {
            return false;
        }
        let is_later = departure == Departure::ForNow && !self.timeout.is_zero();
        for (index, presence) in self.each() {
            let registry = lock(&presence.registry);
            self.publish(index, registry, |registry| match is_later {
                true => registry.leaves_at(socket, now + self.timeout, self.most).into_iter().collect(),
                false => registry.leaves(socket).into_iter().collect(),
            });
        }
        is_later
    }

    /// Forgets some of those that have gone; when to look next. `None` where nobody is leaving.
    pub(super) fn forget(&self, now: Instant) -> Option<Instant> {
        let mut next = None;
        for (index, presence) in self.each() {
            let mut next_here = None;
            let registry = lock(&presence.registry);
            self.publish(index, registry, |registry| {
                let (changes, next) = registry.forget(now, FORGOTTEN_AT_ONCE);
                next_here = next;
                changes
            });
            next = next.into_iter().chain(next_here).min();
        }
        next
    }

    /// Publishes under the lock: changes reach the log in the order in which they happen.
    fn publish(
        &self,
        index: EntityIndex,
        mut registry: MutexGuard<'_, Registry>,
        change: impl FnOnce(&mut Registry) -> Vec<Change>,
    ) {
        let changes = change(&mut registry);
        if !changes.is_empty() {
            self.publisher.publish_presence(index, &changes);
        }
    }
}
