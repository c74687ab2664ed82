//! A write's place among the writes of its object, and what the object was when its turn came.

use std::{
    borrow::Cow,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use pin_project::pin_project;

use super::{
    Watcher,
    keyed_lock::{Access, KeyedGuard},
    names,
    route::Matched,
};
use crate::{
    change::Before,
    entity::{EntityIndex, Load},
    hook::{BoxFuture, guarded},
    lock::lock,
    scope::Scopes,
};

/// What a write is of, and its place among the writes of that.
#[derive(Debug)]
pub(crate) struct Target {
    pub(super) watcher: Arc<Watcher>,
    pub(super) matched: Matched,
    /// As far as the request says.
    pub(super) scopes: Scopes,
    access: Access,
    place: Mutex<Placed>,
}

#[derive(Debug, Default)]
struct Placed {
    turn: Option<KeyedGuard>,
    /// The object as it was when the turn came.
    before: Before,
}

impl Target {
    pub(super) fn new(watcher: Arc<Watcher>, matched: Matched, scopes: Scopes, access: Access) -> Self {
        Self { watcher, matched, scopes, access, place: Mutex::default() }
    }

    /// What the log and the keyed lock know its object by; `None` of a new one.
    pub(super) fn key(&self) -> Option<Arc<str>> {
        let id = self.matched.id.as_ref()?;
        Some(match self.watcher.publisher.hub.key(self.matched.route.entity, &self.scopes, id) {
            Cow::Borrowed(_) => id.clone(),
            Cow::Owned(key) => key.into(),
        })
    }

    /// Gives the turn to the next.
    pub(super) fn give_turn_back(&self) {
        let turn = lock(&self.place).turn.take();
        drop(turn);
    }

    pub(super) fn take_before(&self) -> Before {
        std::mem::take(&mut lock(&self.place).before)
    }

    /// Takes this write's turn, and what is left to be waited for; the write goes on without its turn when that takes
    /// too long. An add waits for nobody.
    fn take_turn(self: &Arc<Self>) -> Option<BoxFuture<()>> {
        let (id, key) = (self.matched.id.as_ref()?, self.key()?);
        let (watcher, entity) = (&self.watcher, self.matched.route.entity);
        let taken = match watcher.locks.take(entity, key, self.access) {
            Ok(turn) if watcher.load_before(entity, &self.scopes, id).is_none() => {
                lock(&self.place).turn = Some(turn);
                return None;
            }
            taken => taken,
        };
        let (target, id) = (self.clone(), id.to_string());
        Some(Box::pin(async move {
            let Self { watcher, scopes, place, .. } = &*target;
            let turn = match taken {
                Ok(turn) => Some(turn),
                Err(waiting) => waiting.wait(watcher.limits.turn).await,
            };
            if turn.is_none() {
                watcher.observer().write_lock_timeouts.up();
                watcher.observer().warn(format_args!(
                    "a write waited {:?} for an earlier one of the same object and goes on without its turn",
                    watcher.limits.turn
                ));
            }
            let before = watcher.read_before(entity, scopes, id).await;
            *lock(place) = Placed { turn, before };
        }))
    }
}

/// Takes a write's turn, as soon as it is asked.
pub(crate) enum Taking {
    Unasked(Arc<Target>),
    Waiting(Waiting),
}

/// A future in a mutex that is never locked: it makes a request body `Sync`, which some servers ask of bodies.
pub(crate) struct Waiting(Mutex<BoxFuture<()>>);

impl Waiting {
    pub(crate) fn new(future: BoxFuture<()>) -> Self {
        Self(Mutex::new(future))
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner).as_mut().poll(cx)
    }
}

impl Taking {
    /// Ready when it is the write's turn.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Self::Unasked(target) = self {
            match target.take_turn() {
                None => return Poll::Ready(()),
                Some(waiting) => *self = Self::Waiting(Waiting::new(waiting)),
            }
        }
        match self {
            Self::Unasked(_) => Poll::Ready(()),
            Self::Waiting(waiting) => waiting.poll(cx),
        }
    }
}

/// An inner service's future, which begins when it is its write's turn.
#[pin_project]
pub(super) struct Ordered<F> {
    turn: Option<Taking>,
    #[pin]
    inner: F,
}

impl<F> Ordered<F> {
    pub(super) fn new(turn: Option<Taking>, inner: F) -> Self {
        Self { turn, inner }
    }
}

impl<F: Future> Future for Ordered<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        if let Some(turn) = this.turn {
            ready!(turn.poll(cx));
            *this.turn = None;
        }
        this.inner.poll(cx)
    }
}

impl Watcher {
    /// What reads an object before a write, where somebody may be asked who could see it, and the log does not know.
    /// Where nobody knows whose object it is, none is read.
    fn load_before(&self, entity: EntityIndex, scopes: &Scopes, id: &str) -> Option<&Load> {
        let configured = self.publisher.entity(entity);
        let is_askable = configured.scoping.is_none() || !scopes.is_none();
        let load = configured.load.as_ref().filter(|_| is_askable);
        load.filter(|_| self.publisher.hub.lacks(entity, scopes, id))
    }

    async fn read_before(&self, entity: EntityIndex, scopes: &Scopes, id: String) -> Before {
        let Some(load) = self.load_before(entity, scopes, &id) else {
            return Before::Unread;
        };
        match guarded(self.limits.hook, || load(names(scopes), id)).await {
            Ok(Ok(row)) => row.map_or(Before::Absent, |row| Before::Object(row.into())),
            Ok(Err(error)) => self.load_failed(entity, &error),
            Err(failure) => self.load_failed(entity, &failure),
        }
    }

    fn load_failed(&self, entity: EntityIndex, failure: &dyn std::fmt::Display) -> Before {
        self.observer().hooks_failed.up();
        let name = &self.publisher.entity(entity).name;
        self.observer().warn(format_args!("the load hook of {name:?} failed before a write: {failure}"));
        Before::Unread
    }
}
