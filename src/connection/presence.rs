//! Who is here: tells the presence of each entity which sockets are open and who they are, and publishes what changes.

use std::{
    sync::{
        Arc, MutexGuard, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    runtime::Handle,
    task::yield_now,
    time::{Instant, sleep_until},
};

use super::{registry::Connections, signals::Signal};
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
    is_served: AtomicBool,
    /// The task has ended with its runtime, and there was more to do.
    is_abandoned: AtomicBool,
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
    fn leaves(&self, socket: usize, departure: Departure, now: Instant) -> bool {
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
    fn forget(&self, now: Instant) -> Option<Instant> {
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

impl Connections {
    /// A socket has closed.
    pub(super) fn leaves(self: &Arc<Self>, socket: usize, departure: Departure) {
        if self.presences.leaves(socket, departure, Instant::now()) {
            self.serve_presence();
        }
    }

    /// Starts the task that forgets those that have gone, on the runtime of the caller, unless it runs.
    fn serve_presence(self: &Arc<Self>) {
        // A runtime that ends may drop the tasks of its sockets outside of itself.
        let Ok(runtime) = Handle::try_current() else { return self.abandon_presence() };
        if !self.presences.is_served.swap(true, Ordering::AcqRel) {
            let serving = Serving { connections: Arc::downgrade(self), is_abandoned: true };
            self.lifecycle.tasks.spawn_on(serving.run(self.lifecycle.clone()), &runtime);
        }
    }

    /// Sockets on other runtimes go on: the first that is woken starts the next task.
    fn abandon_presence(&self) {
        self.presences.is_abandoned.store(true, Ordering::Release);
        self.raise(Signal::SEND);
    }

    /// Starts the task again that has ended with another runtime.
    pub(super) fn resume_presence(self: &Arc<Self>) {
        let is_abandoned = &self.presences.is_abandoned;
        if is_abandoned.load(Ordering::Acquire) && is_abandoned.swap(false, Ordering::AcqRel) {
            self.serve_presence();
        }
    }
}

/// The task that forgets those that have gone.
struct Serving {
    connections: Weak<Connections>,
    /// It ends before its work is done.
    is_abandoned: bool,
}

impl Serving {
    async fn run(mut self, lifecycle: Arc<Lifecycle>) {
        while let Some(next) = self.forget() {
            tokio::select! {
                () = sleep_until(next) => yield_now().await,
                () = lifecycle.draining.cancelled() => break,
            }
        }
        self.is_abandoned = false;
    }

    /// When to look next; `None` where nobody is leaving any more.
    fn forget(&self) -> Option<Instant> {
        let connections = self.connections.upgrade()?;
        let presences = &connections.presences;
        if let Some(next) = presences.forget(Instant::now()) {
            return Some(next);
        }
        // One that leaves from now on starts the next task. One that has left meanwhile has found this one.
        presences.is_served.store(false, Ordering::Release);
        let next = presences.forget(Instant::now())?;
        (!presences.is_served.swap(true, Ordering::AcqRel)).then_some(next)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        if !self.is_abandoned {
            return;
        }
        if let Some(connections) = self.connections.upgrade() {
            connections.presences.is_served.store(false, Ordering::Release);
            connections.abandon_presence();
        }
    }
}
