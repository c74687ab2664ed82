//! Recognises requests that write an object or read a list, and holds what all watched writes share.

use std::{fmt, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue, Method, Request, header};
use tokio::sync::Semaphore;

use super::{
    keyed_lock::KeyedLock,
    live_write::{LiveWrite, WriteIdentity},
    modes::is_get_mode,
    route::{Found, Matched, Route, Routes},
};
use crate::{
    auth::{OwnedCredentials, header_token},
    diagnosis::{Diagnosis, SEARCH_TIMEOUT},
    entity::EntityIndex,
    epoch::Secret,
    hub::{Activity, Delivery, Owner},
    observe::Observer,
    publish::Publisher,
    shutdown::Lifecycle,
};

/// Bounds of what watching may cost.
#[derive(Clone, Debug)]
pub(crate) struct WatchLimits {
    pub(crate) body_bytes: usize,
    pub(crate) response_time: Duration,
    /// How long a write waits for earlier ones of the same object.
    pub(crate) write_lock: Duration,
    pub(crate) hook: Duration,
    /// Writes that run on at one time after their clients have gone; 0 where that is switched off.
    pub(crate) detached: usize,
}

#[derive(Debug)]
pub(crate) struct Watcher {
    pub(super) publisher: Publisher,
    pub(super) limits: WatchLimits,
    pub(super) lifecycle: Arc<Lifecycle>,
    pub(super) locks: Arc<KeyedLock>,
    /// One permit for each write that may run on without its client.
    pub(super) detached: Arc<Semaphore>,
    routes: Routes,
    /// Distinguishes the credentials of pages.
    owners: Secret,
}

/// A request that matters here.
pub(crate) enum Watched {
    Write(Matched),
    List(ListRead),
}

impl Watcher {
    pub(crate) fn new(
        publisher: Publisher,
        routes: Routes,
        limits: WatchLimits,
        lifecycle: Arc<Lifecycle>,
        owners: Secret,
    ) -> Self {
        let detached = Arc::new(Semaphore::new(limits.detached));
        Self { publisher, limits, lifecycle, locks: Arc::default(), detached, routes, owners }
    }

    /// The pages that a write may come from: those of its token. `None` where no page has that, or it does not matter; and
    /// where the one page that wrote is meant and there are several.
    pub(super) fn writer(&self, entity: EntityIndex, headers: &HeaderMap) -> Option<Owner> {
        let skips = self.publisher.entity(entity).skips_writer;
        if !skips && self.publisher.entity(entity).widget.family().is_none() {
            return None;
        }
        let token = header_token(headers);
        let is_page = !token.is_empty();
        let owner = Owner(OwnedCredentials::Token(token).owner(&self.owners));
        let sessions = self.publisher.hub.core.sessions.count_of(owner.0);
        (if skips { is_page && sessions == 1 } else { sessions > 0 }).then_some(owner)
    }

    /// What a request is, of the entity `only` or of any; `None` for nearly every request.
    pub(crate) fn classify<B>(&self, request: &Request<B>, only: Option<EntityIndex>) -> Option<Watched> {
        if !self.routes.may_match(request.uri().path()) {
            return None;
        }
        match self.find_write(request, only) {
            Some(matched) => Some(Watched::Write(matched)),
            None if request.method() != Method::GET => None,
            None if is_get_mode(request.uri().query()) => {
                self.refuse_get_mode(request.uri().path(), only);
                None
            }
            None => self.find_list(request, only).map(Watched::List),
        }
    }

    /// What a request writes. `None` too where an outer layer of the same `LiveUpdates` watches the write already.
    fn find_write<B>(&self, request: &Request<B>, only: Option<EntityIndex>) -> Option<Matched> {
        let uri = request.uri();
        let matched = match self.routes.find(request.method(), uri.path(), uri.query()) {
            Found::Write(matched) => matched,
            Found::OtherMode(route) => {
                self.refuse_other_mode(&route, only);
                return None;
            }
            Found::Nothing => return None,
        };
        if only.is_some_and(|only| only != matched.route.entity) {
            return None;
        }
        self.diagnosis().matches(matched.route.entity);
        let outer = request.extensions().get::<LiveWrite>();
        if outer.is_some_and(|outer| outer.is_of(&self.identity(&matched))) {
            self.diagnosis().watched_twice(request.method(), &matched.route.pattern);
            return None;
        }
        Some(matched)
    }

    /// What a request reads that asks for a list.
    fn find_list<B>(&self, request: &Request<B>, only: Option<EntityIndex>) -> Option<ListRead> {
        let listed = self.routes.find_list(request.uri().path()).iter();
        let watched = || listed.clone().copied().filter(|entity| only.is_none_or(|only| only == *entity));
        watched().next()?;
        watched().for_each(|entity| self.diagnosis().matches(entity));
        let hub = &self.publisher.hub;
        Some(ListRead {
            is_cacheable: watched().all(|entity| self.publisher.entity(entity).has_cacheable_lists),
            activities: match hub.core.delivery {
                Delivery::Converging => watched().map(|entity| hub.list_begins(entity)).collect(),
                Delivery::Plain => Vec::new(),
            },
        })
    }

    /// Names in the log a write by GET. It is no read of a list either.
    fn refuse_get_mode(&self, path: &str, only: Option<EntityIndex>) {
        let Some((pattern, entities)) = self.routes.find_get_mode(path) else { return };
        let mut watched = entities.iter().filter(|entity| only.is_none_or(|only| only == **entity)).peekable();
        if watched.peek().is_some() {
            self.observer().warn_once_for(
                ("mode GET", pattern),
                format_args!(
                    "GET {pattern}?editing=true: a page saves in the DataProcessor's mode GET, and such writes are not \
                     broadcast; switch the page's DataProcessor to REST-JSON"
                ),
            );
        }
        watched.for_each(|entity| self.diagnosis().matches(*entity));
    }

    /// Names in the log a write whose query names another entity than its route has.
    fn refuse_other_mode(&self, route: &Route, only: Option<EntityIndex>) {
        if only.is_some_and(|only| only != route.entity) {
            return;
        }
        let (pattern, name) = (&route.pattern, &self.publisher.entity(route.entity).name);
        self.observer().warn_once_for(
            ("other mode", pattern),
            format_args!(
                "POST {pattern} is a route of {name:?}, and a write whose `gantt_mode` is another one is not broadcast; let \
                 Entity::gantt_tasks(base) and Entity::gantt_links(base) have the Gantt's routes"
            ),
        );
    }

    /// Looks at an unwatched request: it may reveal a mistake in the configuration.
    pub(crate) fn observe_unwatched<B>(&self, request: &Request<B>, serves_endpoint: bool) {
        if self.diagnosis().is_interested() {
            let uri = request.uri();
            let is_list = || !self.routes.find_list(uri.path()).is_empty();
            self.diagnosis().examine((request.method(), uri, request.headers()), is_list, serves_endpoint);
        }
    }

    #[inline]
    pub(crate) fn diagnosis(&self) -> &Diagnosis {
        &self.publisher.diagnosis
    }

    pub(super) fn observer(&self) -> &Observer {
        &self.publisher.observer
    }

    /// Counts a failed hook, and warns of it.
    #[track_caller]
    pub(super) fn hook_failed(&self, hook: &str, entity: EntityIndex, failure: fmt::Arguments<'_>) {
        self.observer().hooks_failed.up();
        self.observer().warn(format_args!("{hook} of {:?} {failure}", self.publisher.entity(entity).name));
    }

    /// Warns where no page connects within a while.
    pub(super) fn await_page(&self) {
        let mut wait = PageWait { diagnosis: self.publisher.diagnosis.clone(), is_over: false };
        if tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        let lifecycle = self.lifecycle.clone();
        self.lifecycle.tasks.spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(SEARCH_TIMEOUT) => {
                    wait.is_over = true;
                    wait.diagnosis.unreached();
                }
                () = lifecycle.draining.cancelled() => {}
            }
        });
    }

    /// What distinguishes a write from others, here and in other `LiveUpdates`.
    pub(super) fn identity(&self, matched: &Matched) -> WriteIdentity {
        let watcher = Arc::as_ptr(&self.locks).addr();
        WriteIdentity { watcher, entity: matched.route.entity.0, id: matched.id.clone() }
    }

    /// Writes that run on without their clients at the moment.
    pub(crate) fn detached_now(&self) -> usize {
        self.limits.detached - self.detached.available_permits()
    }
}

/// The wait for a page that connects. If its runtime ends first, the next write starts another wait.
struct PageWait {
    diagnosis: Arc<Diagnosis>,
    is_over: bool,
}

impl Drop for PageWait {
    fn drop(&mut self) {
        if !self.is_over {
            self.diagnosis.wait_cancelled();
        }
    }
}

/// A request that reads a list.
#[derive(Debug)]
pub(crate) struct ListRead {
    /// Held until the response has left.
    pub(crate) activities: Vec<Activity>,
    /// The application decides which caches keep the response.
    is_cacheable: bool,
}

impl ListRead {
    /// Keeps the response out of caches, unless its own headers name a policy. A browser that goes back to a page takes
    /// the list from its cache however old that is, and nothing would repair that page.
    pub(crate) fn keep_out_of_caches(&self, headers: &mut HeaderMap) {
        let has_policy =
            [header::CACHE_CONTROL, header::EXPIRES, header::PRAGMA].iter().any(|name| headers.contains_key(name));
        if !(self.is_cacheable || has_policy) {
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        }
    }
}
