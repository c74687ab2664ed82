//! From a watched HTTP write to what pages are told. Knows bodies, not tower, hyper or sockets.

pub(crate) mod capture;
mod derive;
pub(crate) mod exchange;
mod hints;
mod keyed_lock;
mod request_body;
pub(crate) mod route;
pub(crate) mod turn;
pub(crate) mod write;

use std::{future::Future, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue, Method, Request, header};
use tokio::{sync::Semaphore, time::Instant};

use self::{
    capture::Capture,
    keyed_lock::KeyedLock,
    route::{Matched, Routes},
    write::{LiveWrite, Watched},
};
use crate::{
    diagnosis::{Diagnosis, PATIENCE},
    entity::EntityIndex,
    hook::within,
    hub::{Activity, Delivery},
    observe::Observer,
    publish::Publisher,
    scope::Scopes,
    shutdown::Lifecycle,
};

/// Bounds of what watching may cost.
#[derive(Clone, Debug)]
pub(crate) struct WatchLimits {
    pub(crate) body_bytes: usize,
    pub(crate) response_time: Duration,
    pub(crate) turn: Duration,
    pub(crate) hook: Duration,
    /// Writes finished at one time after their clients have gone; 0 where that is switched off.
    pub(crate) detached: usize,
}

/// Scopes as an application's hook is given them.
fn names(scopes: &Scopes) -> Vec<String> {
    scopes.names().map(str::to_owned).collect()
}

/// How long a write may wait without its client for parts of its request's body.
const READING: Duration = Duration::from_secs(5);
/// Whether it waits is looked at this often.
const LOOK: Duration = Duration::from_millis(500);

/// Recognises writes and tells what they did.
#[derive(Debug)]
pub(crate) struct Watcher {
    publisher: Publisher,
    routes: Routes,
    locks: Arc<KeyedLock>,
    limits: WatchLimits,
    lifecycle: Arc<Lifecycle>,
    detached: Arc<Semaphore>,
}

impl Watcher {
    pub(crate) fn new(publisher: Publisher, routes: Routes, limits: WatchLimits, lifecycle: Arc<Lifecycle>) -> Self {
        Self {
            publisher,
            routes,
            locks: Arc::default(),
            detached: Arc::new(Semaphore::new(limits.detached)),
            limits,
            lifecycle,
        }
    }

    /// What a request is to the watcher, of one entity or of any; nothing to it is nearly every one.
    pub(crate) fn concern<B>(&self, request: &Request<B>, only: Option<EntityIndex>) -> Option<Concern> {
        if !self.routes.may_know(request.uri().path()) {
            return None;
        }
        match self.find(request, only) {
            Some(matched) => Some(Concern::Write(matched)),
            None => self.listing(request, only).map(Concern::List),
        }
    }

    /// What this request changes. `None` too where an outer watcher of the same `LiveUpdates` has it in hand already.
    fn find<B>(&self, request: &Request<B>, only: Option<EntityIndex>) -> Option<Matched> {
        let matched = self.routes.find(request.method(), request.uri().path())?;
        if only.is_some_and(|only| only != matched.route.entity) {
            return None;
        }
        self.diagnosis().matches(matched.route.entity);
        let outer = request.extensions().get::<LiveWrite>();
        if outer.is_some_and(|outer| outer.is_of(&self.watched(&matched))) {
            self.diagnosis().watched_twice(request.method(), &matched.route.pattern);
            return None;
        }
        Some(matched)
    }

    /// A request that is none of ours: it may show that something is put together wrongly.
    pub(crate) fn passes<B>(&self, request: &Request<B>, serves_endpoint: bool) {
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

    /// Waits whether a page asks the endpoint.
    fn await_page(&self) {
        let diagnosis = self.publisher.diagnosis.clone();
        let mut waiting = Awaiting { diagnosis, is_over: false };
        if tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        let lifecycle = self.lifecycle.clone();
        self.lifecycle.spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(PATIENCE) => {
                    waiting.is_over = true;
                    waiting.diagnosis.unreached();
                }
                () = lifecycle.draining() => {}
            }
        });
    }

    /// What tells this write from others, here and in other `LiveUpdates`.
    fn watched(&self, matched: &Matched) -> Watched {
        let watcher = Arc::as_ptr(&self.locks).addr();
        Watched { watcher, entity: matched.route.entity.0, id: matched.id.clone() }
    }

    /// What a request does that reads a list; `None` when it is no such request.
    fn listing<B>(&self, request: &Request<B>, only: Option<EntityIndex>) -> Option<Listing> {
        if request.method() != Method::GET {
            return None;
        }
        let listed = self.routes.find_list(request.uri().path()).iter();
        let ours = || listed.clone().copied().filter(|entity| only.is_none_or(|only| only == *entity));
        ours().next()?;
        if self.diagnosis().has_unsettled() {
            ours().for_each(|entity| self.diagnosis().matches(entity));
        }
        let hub = &self.publisher.hub;
        let is_cacheable = |entity: EntityIndex| {
            self.publisher.entities.get(usize::from(entity.0)).is_some_and(|entity| entity.has_cacheable_lists)
        };
        Some(Listing {
            is_cacheable: ours().all(is_cacheable),
            activities: match hub.delivery() {
                Delivery::Converging => ours().map(|entity| hub.list_begins(entity)).collect(),
                Delivery::Plain => Vec::new(),
            },
        })
    }

    /// Finishes a write whose client has gone, in a task of its own. While it reads its request it gets a little time only:
    /// somebody who sends nothing must not hold a place for as long as they like.
    pub(crate) fn finish_detached(
        self: &Arc<Self>,
        request: &Capture,
        write: impl Future<Output = ()> + Send + 'static,
    ) {
        let observer = self.observer();
        if tokio::runtime::Handle::try_current().is_err() {
            observer.writes_dropped.up();
            observer.warn(format_args!(
                "a write was dropped where no tokio runtime is left to finish it, and may have been committed"
            ));
            return;
        }
        let Ok(permit) = self.detached.clone().try_acquire_owned() else {
            observer.writes_dropped.up();
            if self.limits.detached > 0 {
                observer.warn(format_args!(
                    "{} writes whose clients have gone are being finished already; one more is given up with its \
                     client (raise max_detached_writes)",
                    self.limits.detached
                ));
            }
            return;
        };
        observer.writes_detached.up();
        let (watcher, request) = (self.clone(), request.clone());
        self.lifecycle.spawn(async move {
            if !finished(write, &request).await {
                watcher.observer().writes_dropped.up();
                watcher.observer().warn(format_args!(
                    "a write whose client has gone waited {READING:?} for its request's body and is given up"
                ));
            }
            drop(permit);
        });
    }

    /// Writes being finished at the moment.
    pub(crate) fn detached_now(&self) -> usize {
        self.limits.detached - self.detached.available_permits()
    }

    fn observer(&self) -> &Observer {
        &self.publisher.observer
    }
}

/// A wait for a page that asks the endpoint. Where it is given up with its runtime, the next write starts another.
struct Awaiting {
    diagnosis: Arc<Diagnosis>,
    is_over: bool,
}

impl Drop for Awaiting {
    fn drop(&mut self) {
        if !self.is_over {
            self.diagnosis.wait_cancelled();
        }
    }
}

/// What a request is to the watcher.
pub(crate) enum Concern {
    /// It changes something.
    Write(Matched),
    /// It reads what there is.
    List(Listing),
}

/// A request that reads a list.
#[derive(Debug)]
pub(crate) struct Listing {
    /// What it must hold until its answer has left.
    pub(crate) activities: Vec<Activity>,
    /// Its answer is the application's to keep in caches.
    is_cacheable: bool,
}

impl Listing {
    /// Keeps the answer out of caches, unless it says itself what they may do. A browser that goes back to a page takes
    /// its list from the cache however old that is, and nothing would repair that page.
    pub(crate) fn keep_out_of_caches(&self, headers: &mut HeaderMap) {
        let says_so =
            [header::CACHE_CONTROL, header::EXPIRES, header::PRAGMA].iter().any(|name| headers.contains_key(name));
        if !(self.is_cacheable || says_so) {
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        }
    }
}

/// Runs a write to its end; false where it has waited too long for its request's body.
async fn finished(write: impl Future<Output = ()>, request: &Capture) -> bool {
    let mut write = std::pin::pin!(write);
    let mut waited = Duration::ZERO;
    while waited < READING {
        if request.has_arrived() {
            write.await;
            return true;
        }
        let looked = Instant::now();
        if within(LOOK, write.as_mut()).await.is_some() {
            return true;
        }
        // What the handler does with the rest of its time is its own affair.
        if request.is_awaited() {
            waited += looked.elapsed();
        }
    }
    false
}
