//! Detects programs whose parts are assembled wrongly, and writes one line in the log with the remedy.
//!
//! Once every part has been found in its place, an unrelated request costs one relaxed load here.

mod likeness;
mod usage;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::{HeaderMap, HeaderName, Method, Uri};

use self::{
    likeness::{Likeness, likeness, nearest, shown},
    usage::{Like, MAX_LISTED, Usage},
};
use crate::{
    entity::{Entity, EntityIndex},
    lock::lock,
    observe::Observer,
};

/// How long a page is subscribed to an entity, or writes are watched, before missing requests are reported.
pub(crate) const SEARCH_TIMEOUT: Duration = Duration::from_secs(60);
/// How many GET requests are examined for a page's handshake. The count starts with the process, again at the first write
/// while the endpoint has had no request, and again at the endpoint's first request, since another page may ask elsewhere.
const LOOKS: usize = 4096;
/// In `interest`: stray handshakes are searched for. The bits below count the entities whose requests are searched for.
const STRAYS: usize = 1 << 24;
/// The header of a page's token in the handshake.
const REMOTE_TOKEN: HeaderName = HeaderName::from_static("remote-token");
/// Longer paths are not compared.
const MAX_PATH: usize = 512;

/// In `wiring`: a layer serves the endpoint.
const LAYER: u8 = 1;
/// The endpoint is in use as a service of its own.
const ENDPOINT: u8 = 1 << 1;
/// The endpoint has had a request.
const REACHED: u8 = 1 << 2;
/// A task waits for such a request.
const AWAITED: u8 = 1 << 3;

/// What is known about how layer, endpoint, entities and pages are assembled.
#[derive(Debug)]
pub(crate) struct Diagnosis {
    observer: Arc<Observer>,
    /// The endpoint's path.
    endpoint: Box<str>,
    entities: Box<[Usage]>,
    /// What is searched for in unrelated requests.
    interest: AtomicUsize,
    looks: AtomicUsize,
    wiring: AtomicU8,
}

impl Diagnosis {
    pub(crate) fn new(endpoint: &str, entities: &[Entity], observer: Arc<Observer>) -> Self {
        let usage = |entity: &Entity| Usage {
            entity: entity.clone(),
            is_watched: AtomicBool::new(false),
            is_settled: AtomicBool::new(entity.paths().next().is_none()),
            search: Mutex::default(),
        };
        Self {
            observer,
            endpoint: if endpoint.is_empty() { "/" } else { endpoint }.into(),
            entities: entities.iter().map(usage).collect(),
            interest: AtomicUsize::new(STRAYS),
            looks: AtomicUsize::new(LOOKS),
            wiring: AtomicU8::new(0),
        }
    }

    fn usage(&self, entity: EntityIndex) -> Option<&Usage> {
        self.entities.get(usize::from(entity.0))
    }

    /// The whole layer was created.
    pub(crate) fn layer_created(&self) {
        self.wiring.fetch_or(LAYER, Ordering::Relaxed);
        self.entities.iter().for_each(|usage| usage.is_watched.store(true, Ordering::Relaxed));
    }

    /// A layer that watches one entity was created.
    pub(crate) fn watch_created(&self, entity: EntityIndex) {
        if let Some(usage) = self.usage(entity) {
            usage.is_watched.store(true, Ordering::Relaxed);
        }
    }

    /// The endpoint alone was created.
    pub(crate) fn endpoint_created(&self) {
        self.wiring.fetch_or(ENDPOINT, Ordering::Relaxed);
    }

    fn is(&self, wiring: u8) -> bool {
        self.wiring.load(Ordering::Relaxed) & wiring != 0
    }

    /// The endpoint has got a request.
    pub(crate) fn endpoint_reached(&self) {
        if !self.is(REACHED) {
            self.wiring.fetch_or(REACHED, Ordering::Relaxed);
            self.restart_search();
        }
    }

    fn restart_search(&self) {
        self.looks.store(LOOKS, Ordering::Relaxed);
        self.interest.fetch_or(STRAYS, Ordering::Relaxed);
    }

    /// The application publishes.
    pub(crate) fn publishes(&self) {
        if !self.is(LAYER | ENDPOINT | REACHED) {
            self.observer.warn_once(format_args!(
                "something is published by a LiveUpdates of which neither layer() nor endpoint() is in use, so no page \
                 can receive it; build one LiveUpdates, wrap the application in its layer, and publish by clones of it"
            ));
        }
    }

    /// A write is watched. If this returns true, the caller waits for [`SEARCH_TIMEOUT`] and then calls
    /// [`unreached`](Self::unreached).
    pub(crate) fn write_watched(&self, method: &Method, pattern: &str) -> bool {
        let wiring = self.wiring.load(Ordering::Relaxed);
        if wiring & (REACHED | AWAITED) != 0 {
            return false;
        }
        if wiring & (LAYER | ENDPOINT) == 0 {
            let endpoint = &self.endpoint;
            self.observer.warn_once(format_args!(
                "{method} {pattern} is watched, and nothing serves the endpoint, so no page can receive it; mount \
                 live.endpoint() where pages ask, as in .route_service({endpoint:?}, live.endpoint()), or use \
                 live.layer() instead of live.watch()"
            ));
            return false;
        }
        let is_first = self.wiring.fetch_or(AWAITED, Ordering::Relaxed) & AWAITED == 0;
        if is_first {
            self.restart_search();
        }
        is_first
    }

    /// The wait was cancelled; the next write may start another.
    pub(crate) fn wait_cancelled(&self) {
        self.wiring.fetch_and(!AWAITED, Ordering::Relaxed);
    }

    /// Writes have been watched for [`SEARCH_TIMEOUT`]: by now the endpoint should have had a request.
    pub(crate) fn unreached(&self) {
        if self.is(REACHED) {
            return;
        }
        let endpoint = &self.endpoint;
        let how = if self.is(LAYER) {
            "call .layer(live.layer()) on the whole Router, outside of any nest; route_layer leaves the endpoint out"
        } else {
            "mount live.endpoint() at the path that they ask"
        };
        self.observer.warn_once(format_args!(
            "writes have been watched for a minute, and no page has asked for live updates at {endpoint:?}; if pages \
             are open, their requests do not reach the endpoint: {how}, and have them call new \
             RemoteEvents({endpoint:?}, token)"
        ));
    }

    /// A request of an entity has matched.
    pub(crate) fn matches(&self, entity: EntityIndex) {
        if let Some(usage) = self.unsettled(entity) {
            self.settle(usage);
        }
    }

    fn unsettled(&self, entity: EntityIndex) -> Option<&Usage> {
        self.usage(entity).filter(|usage| !usage.is_settled.load(Ordering::Relaxed))
    }

    fn settle(&self, usage: &Usage) {
        if !usage.is_settled.swap(true, Ordering::Relaxed) {
            self.end_search(usage);
        }
    }

    /// A page has subscribed to an entity. If this returns true, the caller waits for [`SEARCH_TIMEOUT`] and then calls
    /// [`unmatched`](Self::unmatched).
    pub(crate) fn subscribed(&self, entity: EntityIndex) -> bool {
        if let Some(usage) = self.usage(entity) {
            self.check_payload_key(usage);
        }
        let Some(usage) = self.unsettled(entity) else { return false };
        if !usage.is_watched.load(Ordering::Relaxed) {
            let name = &usage.entity.name;
            self.observer.warn_once_for(
                name,
                format_args!(
                    "a page has subscribed to {name:?}, and no layer watches its routes ({}); wrap them in live.layer(), or in \
                     live.watch({name:?}) where the endpoint is mounted by itself",
                    usage.listed_routes()
                ),
            );
            return false;
        }
        let mut search = lock(&usage.search);
        if search.is_on {
            return false;
        }
        search.is_on = true;
        self.interest.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// The stock handlers know their payload key in the singular only, and drop other messages.
    fn check_payload_key(&self, usage: &Usage) {
        let (singular, preset) = match &*usage.entity.name {
            "events" => ("event", "Entity::scheduler(path)"),
            "tasks" => ("task", "Entity::gantt_tasks(base)"),
            "links" => ("link", "Entity::gantt_links(base)"),
            _ => return,
        };
        if usage.entity.payload_key == usage.entity.name {
            let name = &usage.entity.name;
            self.observer.warn_once_for(
                name,
                format_args!(
                    "{name:?} is broadcast as \"add-{name}\", and the stock client understands \"add-{singular}\"; use the \
                     preset, {preset}, or add .payload_key({singular:?})"
                ),
            );
        }
    }

    /// A page has been subscribed to an entity for [`SEARCH_TIMEOUT`]: by now some request should have matched.
    pub(crate) fn unmatched(&self, entity: EntityIndex) {
        let Some(usage) = self.unsettled(entity) else { return };
        let like = lock(&usage.search).like.take();
        let remedy = usage.remedy(like.as_ref());
        let name = &usage.entity.name;
        self.observer.warn_once_for(
            name,
            format_args!(
                "a page has been subscribed to {name:?} for a minute, and no request has matched its routes ({}): {remedy}",
                usage.listed_routes()
            ),
        );
        self.settle(usage);
    }

    /// The wait for requests of an entity was cancelled.
    pub(crate) fn search_cancelled(&self, entity: EntityIndex) {
        if let Some(usage) = self.usage(entity) {
            self.end_search(usage);
        }
    }

    fn end_search(&self, usage: &Usage) {
        let mut search = lock(&usage.search);
        if std::mem::take(&mut *search).is_on {
            self.interest.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// True if unrelated requests are examined.
    #[inline]
    pub(crate) fn is_interested(&self) -> bool {
        self.interest.load(Ordering::Relaxed) != 0
    }

    /// Examines an unrelated request: of no route, or of a list (`is_list`) in `Delivery::Plain`.
    pub(crate) fn examine(
        &self,
        (method, uri, headers): (&Method, &Uri, &HeaderMap),
        is_list: impl FnOnce() -> bool,
        serves_endpoint: bool,
    ) {
        let (interest, path) = (self.interest.load(Ordering::Relaxed), uri.path());
        if path.len() > MAX_PATH {
            return;
        }
        // An endpoint that is mounted by itself may be behind this layer.
        let may_stray = if serves_endpoint { !self.is(ENDPOINT) } else { !self.is(LAYER | ENDPOINT) };
        if interest & STRAYS != 0 && method == Method::GET && may_stray {
            self.search_handshake(uri, headers, is_list);
        }
        if interest & (STRAYS - 1) != 0 {
            self.search_routes(method, path);
        }
    }

    fn search_handshake(&self, uri: &Uri, headers: &HeaderMap, is_list: impl FnOnce() -> bool) {
        let is_socket = uri.query().is_some_and(|query| query.split('&').any(|pair| pair == "ws=1"));
        if (is_socket || headers.contains_key(REMOTE_TOKEN)) && !is_list() {
            let seen = shown(uri.path());
            self.observer.warn_once_of("stray", &seen, || self.stray(uri.path(), &seen));
        }
        if self.looks.fetch_sub(1, Ordering::Relaxed) <= 1 {
            self.interest.fetch_and(!STRAYS, Ordering::Relaxed);
        }
    }

    /// The line about a page that asks for the endpoint at another path.
    fn stray(&self, path: &str, seen: &str) -> String {
        let endpoint = &*self.endpoint;
        let bare = path.trim_end_matches('/');
        let remedy: &str = if !self.is(LAYER | ENDPOINT) {
            "nothing serves the endpoint: mount live.endpoint() at that path, or use live.layer() instead of live.watch()"
        } else if endpoint.ends_with(bare) && !bare.is_empty() {
            "the layer stands inside a nest, which takes the beginning of each path away; put it around the whole Router, or \
             watch inside with live.watch() and mount live.endpoint() outside"
        } else {
            &format!(
                "have the page call new RemoteEvents({endpoint:?}, token), or begin with LiveUpdates::builder({seen:?}), the \
                 path as the layer sees it"
            )
        };
        format!("a page asks for live updates at {seen:?}, and the endpoint is at {endpoint:?}: {remedy}")
    }

    fn search_routes(&self, method: &Method, path: &str) {
        for usage in self.entities.iter().filter(|usage| !usage.is_settled.load(Ordering::Relaxed)) {
            let alike = usage.routes().filter_map(|(known, pattern)| {
                let (likeness, path) = likeness(pattern, path)?;
                // With another method only the exact path is evidence.
                let counts = if known == method { likeness != Likeness::Same } else { likeness == Likeness::Same };
                (counts && (known == method || *method != Method::GET)).then(|| Like {
                    method: method.clone(),
                    likeness,
                    path,
                })
            });
            let Some(like) = alike.max_by_key(Like::rank) else { continue };
            let mut search = lock(&usage.search);
            if search.is_on && search.like.as_ref().is_none_or(|known| known.rank() < like.rank()) {
                search.like = Some(like);
            }
        }
    }

    /// A page has subscribed to a name that no entity has. Names that start with `$` belong to this crate.
    pub(crate) fn unknown_name(&self, name: &str) {
        if name.starts_with('$') {
            return;
        }
        self.observer.warn_once_of("unknown name", name, || {
            let shown = if name.len() > 64 { format!("a name of {} bytes", name.len()) } else { format!("{name:?}") };
            let entities = || self.entities.iter().map(|usage| &usage.entity);
            let known: Vec<String> = entities().take(MAX_LISTED).map(|entity| format!("{:?}", entity.name)).collect();
            let more = self.entities.len().saturating_sub(MAX_LISTED);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            let remedy = match nearest(name, entities().map(|entity| (&*entity.name, &*entity.payload_key))) {
                Some(near) => format!("the page should subscribe to {near:?}, as in remote.on({near:?}, …)"),
                None if self.entities.is_empty() => {
                    "add entities to the builder: .entity(Entity::scheduler(\"/events\"))".into()
                }
                None => {
                    format!("name it on the page as it is here, or add .entity(Entity::new({shown})) to this builder")
                }
            };
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            format!("a page subscribes to {shown}, and there is no such entity (there are: {known}{more}): {remedy}")
        });
    }

    /// A preflight request of a cross-origin page has reached the endpoint; an outer CORS layer should have answered it.
    pub(crate) fn preflight(&self) {
        let endpoint = &self.endpoint;
        self.observer.warn_once(format_args!(
            "a page of another origin asks whether it may use {endpoint:?} (OPTIONS), and no CORS layer outside the \
             live layer has answered; put CorsLayer outside (a later .layer(…) on the Router), have it allow the \
             headers Remote-Token and Content-Type, and allow the page with allow_origin"
        ));
    }

    /// A write passes two layers of this `LiveUpdates`.
    pub(crate) fn watched_twice(&self, method: &Method, pattern: &str) {
        self.observer.warn_once(format_args!(
            "{method} {pattern} passes two layers of one LiveUpdates, of which the inner one does nothing; keep one of \
             them: live.layer() around everything, or live.watch() inside and live.endpoint()"
        ));
    }

    /// A write passes a layer of this `LiveUpdates` and one of another.
    pub(crate) fn watched_by_two(&self, method: &Method, pattern: &str) {
        self.observer.warn_once(format_args!(
            "{method} {pattern} is watched by two LiveUpdates, and pages of the one receive nothing that only the \
             other publishes; build one LiveUpdates with all entities, and clone it"
        ));
    }
}
