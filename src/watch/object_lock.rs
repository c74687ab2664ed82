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

    /// Takes the object's lock; the future is what is left to wait for. When the wait takes too long, the write goes on
    /// without the lock. An add needs no lock.
    fn acquire(self: &Arc<Self>) -> Option<BoxFuture<()>> {
        let (id, key) = (self.matched.id.as_ref()?, self.key()?);
        let taken = match self.watcher.locks.take(self.entity(), key, self.access) {
            Ok(guard) if self.load_before(id).is_none() => {
                lock(&self.state).guard = Some(guard);
                return None;
            }
            taken => taken,
        };
        let (target, id) = (self.clone(), id.to_string());
        Some(Box::pin(async move {
            let (observer, limit) = (target.watcher.observer(), target.watcher.limits.write_lock);
            let guard = match taken {
                Ok(guard) => Some(guard),
                Err(waiter) => waiter.wait(limit).await,
            };
            if guard.is_none() {
                observer.write_lock_timeouts.up();
                observer.warn(format_args!(
                    "a write waited {limit:?} for an earlier one of the same object and goes on without the object's lock"
                ));
            }
            let before = target.read_before(id).await;
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
