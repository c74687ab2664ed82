//! The lock of the object that a write changes, and the object as it was when the write got the lock.

use std::{
    borrow::Cow,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use super::{
    keyed_lock::{Access, KeyedGuard},
    route::Matched,
    watcher::Watcher,
};
use crate::{
    change::Before,
    entity::{EntityIndex, Load},
    hook::{BoxError, BoxFuture, guarded},
    lock::lock,
    scope::Scopes,
};

/// The key of the lock of all objects together, which no object has.
const ALL: &str = "";

/// What a write changes, with that object's lock.
#[derive(Debug)]
pub(crate) struct Target {
    pub(super) watcher: Arc<Watcher>,
    pub(super) matched: Matched,
    /// The scopes that the request names.
    pub(super) scopes: Scopes,
    access: Access,
    state: Mutex<LockState>,
}

#[derive(Debug, Default)]
struct LockState {
    guard: Option<KeyedGuard>,
    before: Before,
}

impl Target {
    pub(super) fn new(watcher: Arc<Watcher>, matched: Matched, scopes: Scopes, access: Access) -> Self {
        Self { watcher, matched, scopes, access, state: Mutex::default() }
    }

    pub(super) fn entity(&self) -> EntityIndex {
        self.matched.route.entity
    }

    /// The object's key in the log and in the keyed lock; `None` for a new object.
    pub(super) fn key(&self) -> Option<Arc<str>> {
        let id = self.matched.id.as_ref()?;
        Some(match self.watcher.publisher.hub.core.key(self.entity(), &self.scopes, id) {
            Cow::Borrowed(_) => id.clone(),
            Cow::Owned(key) => key.into(),
        })
    }

    pub(super) fn release(&self) {
        let guard = lock(&self.state).guard.take();
        // Under no lock: the drop hands the object's lock to the next write.
        drop(guard);
    }

    pub(super) fn take_before(&self) -> Before {
        std::mem::take(&mut lock(&self.state).before)
    }

    /// Whether its write waits for others.
    pub(super) fn has_lock(&self) -> bool {
        self.is_ordered() || self.matched.id.is_some()
    }

    /// Whether a write may change other objects of the entity as well: their numbers among their siblings.
    fn is_ordered(&self) -> bool {
        self.watcher.publisher.entity(self.entity()).order_key.is_some()
    }

    /// The lock to take, and how: the object's, or that of all objects together. An add needs none otherwise.
    fn lock_key(&self) -> Option<(Arc<str>, Access)> {
        if !self.is_ordered() {
            return Some((self.key()?, self.access));
        }
        // Deletions change numbers, too.
        let access = if self.access == Access::BodilessDelete { Access::Bodiless } else { self.access };
        Some((ALL.into(), access))
    }

    /// Takes the object's lock; the future is what is left to wait for. When the wait takes too long, the write goes on
    /// without the lock.
    fn acquire(self: &Arc<Self>) -> Option<BoxFuture<()>> {
        let (key, access) = self.lock_key()?;
        let id = self.matched.id.as_deref().filter(|id| self.load_before(id).is_some()).map(str::to_owned);
        let taken = match self.watcher.locks.take(self.entity(), key, access) {
            Ok(guard) if id.is_none() => {
                lock(&self.state).guard = Some(guard);
                return None;
            }
            taken => taken,
        };
        let target = self.clone();
        Some(Box::pin(async move {
            let (observer, limit) = (target.watcher.observer(), target.watcher.limits.write_lock);
            let guard = match taken {
                Ok(guard) => Some(guard),
                Err(waiter) => waiter.wait(limit).await,
            };
            if guard.is_none() {
                observer.write_lock_timeouts.up();
                let what = if target.is_ordered() { "entity" } else { "object" };
                observer.warn(format_args!(
                    "a write waited {limit:?} for an earlier one of the same {what} and goes on without the {what}'s lock"
                ));
            }
            let before = match id {
                Some(id) => target.read_before(id).await,
                None => Before::Unread,
            };
            *lock(&target.state) = LockState { guard, before };
        }))
    }

    /// The hook that reads the object before the write: needed where visibility depends on the object and the log lacks
    /// it. Without a scope a scoped entity's object cannot be read.
    fn load_before(&self, id: &str) -> Option<&Load> {
        let Self { watcher, scopes, .. } = self;
        let configured = watcher.publisher.entity(self.entity());
        let is_readable = configured.scoping.is_none() || !scopes.is_none();
        let load = configured.load.as_ref().filter(|_| is_readable);
        load.filter(|_| watcher.publisher.hub.core.lacks(self.entity(), scopes, id))
    }

    async fn read_before(&self, id: String) -> Before {
        let Some(load) = self.load_before(&id) else { return Before::Unread };
        match self.load(load, &self.scopes, id).await {
            Ok(row) => row.map_or(Before::Absent, |row| Before::Object(row.into())),
            Err(error) => {
                let failure = format_args!("failed before a write: {error}");
                self.watcher.hook_failed("the load hook", self.entity(), failure);
                Before::Unread
            }
        }
    }

    /// Reads an object with the load hook. A panic and a timeout are errors too.
    pub(super) async fn load(&self, hook: &Load, scopes: &Scopes, id: String) -> Result<Option<String>, BoxError> {
        guarded(self.watcher.limits.hook, || hook(scopes.to_strings(), id)).await?
    }
}

/// Takes the lock of a write's object, from the first poll on.
pub(crate) enum LockFuture {
    Unpolled(Arc<Target>),
    /// The mutex is never locked: it makes a request body `Sync`, which some servers require.
    Waiting(Mutex<BoxFuture<()>>),
}

impl Future for LockFuture {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if let Self::Unpolled(target) = &*self {
            match target.acquire() {
                None => return Poll::Ready(()),
                Some(waiting) => *self = Self::Waiting(Mutex::new(waiting)),
            }
        }
        match &mut *self {
            Self::Unpolled(_) => Poll::Ready(()),
            Self::Waiting(future) => future.get_mut().unwrap_or_else(PoisonError::into_inner).as_mut().poll(cx),
        }
    }
}
