//! Programs that are put together wrongly: how that looks from inside, and the line in the log that says so, once.
//!
//! A request that is none of ours costs one relaxed load here, once everything has been found in its place.

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

/// So long a page follows an entity, or writes are watched, before it is odd that nothing else comes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// GET requests that are looked at for a page's handshake: from the start, from the first write while no page has asked the
/// endpoint, and from when one has, since another may ask elsewhere. After them all others cost one load again.
const LOOKS: usize = 4096;
/// In `interest`: handshakes that go elsewhere are looked for. Below it the entities are counted that are searched for.
const STRAYS: usize = 1 << 24;
/// What a page names its token by in the handshake.
const REMOTE_TOKEN: HeaderName = HeaderName::from_static("remote-token");
/// Longer paths are not compared.
const MAX_PATH: usize = 512;

/// In `wiring`: a layer serves the endpoint.
const LAYER: u8 = 1;
/// The endpoint was given out as a service of its own.
const ENDPOINT: u8 = 1 << 1;
/// A page has asked the endpoint.
const REACHED: u8 = 1 << 2;
/// A task waits for that.
const AWAITED: u8 = 1 << 3;

/// What is known of how layer, endpoint, entities and pages are put together.
#[derive(Debug)]
pub(crate) struct Diagnosis {
    observer: Arc<Observer>,
    /// The endpoint's path.
    endpoint: Box<str>,
    entities: Box<[Usage]>,
    /// What is looked for in requests that are none of ours.
    interest: AtomicUsize,
    looks: AtomicUsize,
    /// Entities that are not settled.
    unsettled: AtomicUsize,
    wiring: AtomicU8,
}

impl Diagnosis {
    pub(crate) fn new(endpoint: &str, entities: &[Entity], observer: Arc<Observer>) -> Self {
        let usage = |entity: &Entity| {
            let routes = entity.routes.iter().map(|route| (route.method.clone(), route.path.as_str().into()));
            let lists = entity.lists.iter().map(|path| (Method::GET, path.as_str().into()));
            let is_settled = AtomicBool::new(entity.paths().next().is_none());
            Usage {
                name: entity.name.as_str().into(),
                payload_key: entity.payload_key.as_str().into(),
                routes: routes.chain(lists).collect(),
                is_watched: AtomicBool::new(false),
                is_settled,
                search: Mutex::default(),
            }
        };
        Self {
            observer,
            endpoint: if endpoint.is_empty() { "/" } else { endpoint }.into(),
            entities: entities.iter().map(usage).collect(),
            interest: AtomicUsize::new(STRAYS),
            looks: AtomicUsize::new(LOOKS),
            unsettled: AtomicUsize::new(entities.iter().filter(|entity| entity.paths().next().is_some()).count()),
            wiring: AtomicU8::new(0),
        }
    }

    fn usage(&self, entity: EntityIndex) -> Option<&Usage> {
        self.entities.get(usize::from(entity.0))
    }

    /// The whole layer has been made.
    pub(crate) fn layer_made(&self) {
        self.wiring.fetch_or(LAYER, Ordering::Relaxed);
        self.entities.iter().for_each(|usage| usage.is_watched.store(true, Ordering::Relaxed));
    }

    /// A layer that watches one entity has been made.
    pub(crate) fn watch_made(&self, entity: EntityIndex) {
        if let Some(usage) = self.usage(entity) {
            usage.is_watched.store(true, Ordering::Relaxed);
        }
    }

    /// The endpoint has been given out alone.
    pub(crate) fn endpoint_made(&self) {
        self.wiring.fetch_or(ENDPOINT, Ordering::Relaxed);
    }

    fn is(&self, wiring: u8) -> bool {
        self.wiring.load(Ordering::Relaxed) & wiring != 0
    }

    /// The endpoint is asked.
    pub(crate) fn endpoint_reached(&self) {
        if !self.is(REACHED) {
            self.wiring.fetch_or(REACHED, Ordering::Relaxed);
            self.look_again();
        }
    }

    fn look_again(&self) {
        self.looks.store(LOOKS, Ordering::Relaxed);
        self.interest.fetch_or(STRAYS, Ordering::Relaxed);
    }

    /// The application publishes.
    pub(crate) fn publishes(&self) {
        if !self.is(LAYER | ENDPOINT | REACHED) {
            self.observer.warn_once(
                "publishes",
                format_args!(
                    "something is published by a LiveUpdates of which neither layer() nor endpoint() is in use, so no page \
                     can receive it; build one LiveUpdates, wrap the application in its layer, and publish by clones of it"
                ),
            );
        }
    }

    /// A write is watched. True where the caller should wait, and then call
    /// [`unreached`](Self::unreached).
    pub(crate) fn write_comes(&self, method: &Method, pattern: &str) -> bool {
        let wiring = self.wiring.load(Ordering::Relaxed);
        if wiring & (REACHED | AWAITED) != 0 {
            return false;
        }
        if wiring & (LAYER | ENDPOINT) == 0 {
            let endpoint = &self.endpoint;
            self.observer.warn_once(
                "no endpoint",
                format_args!(
                    "{method} {pattern} is watched, and nothing serves the endpoint, so no page can receive it; mount \
                     live.endpoint() where pages ask, as in .route_service({endpoint:?}, live.endpoint()), or use \
                     live.layer() instead of live.watch()"
                ),
            );
            return false;
        }
        let is_first = self.wiring.fetch_or(AWAITED, Ordering::Relaxed) & AWAITED == 0;
        if is_first {
            self.look_again();
        }
        is_first
    }

    /// The wait was given up; the next write may start another.
    pub(crate) fn waits_no_more(&self) {
        self.wiring.fetch_and(!AWAITED, Ordering::Relaxed);
    }

    /// Writes have been watched for a while: by now a page should have asked the endpoint.
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
        self.observer.warn_once(
            "unreached",
            format_args!(
                "writes have been watched for a minute, and no page has asked for live updates at {endpoint:?}; if pages \
                 are open, their requests do not reach the endpoint: {how}, and have them call new \
                 RemoteEvents({endpoint:?}, token)"
            ),
        );
    }

    /// A request of an entity has matched.
    pub(crate) fn matches(&self, entity: EntityIndex) {
        if let Some(usage) = self.unsettled(entity) {
            self.settle(usage);
        }
    }

    /// True where some entity's requests are still to come.
    pub(crate) fn has_unsettled(&self) -> bool {
        self.unsettled.load(Ordering::Relaxed) > 0
    }

    fn unsettled(&self, entity: EntityIndex) -> Option<&Usage> {
        self.usage(entity).filter(|usage| !usage.is_settled.load(Ordering::Relaxed))
    }

    fn settle(&self, usage: &Usage) {
        if !usage.is_settled.swap(true, Ordering::Relaxed) {
            self.unsettled.fetch_sub(1, Ordering::Relaxed);
            self.end_search(usage);
        }
    }

    /// A page follows an entity. True where the caller should wait, and then call
    /// [`unmatched`](Self::unmatched).
    pub(crate) fn follows(&self, entity: EntityIndex) -> bool {
        if let Some(usage) = self.usage(entity) {
            self.check_payload_key(usage);
        }
        let Some(usage) = self.unsettled(entity) else {
            return false;
        };
        if !usage.is_watched.load(Ordering::Relaxed) {
            let name = &usage.name;
            self.observer.warn_once(
                ("unwatched", name),
                format_args!(
                    "a page follows {name:?}, and no layer watches its routes ({}); wrap them in live.layer(), or in \
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

    /// The stock handlers know their payload in the singular only, and throw everything else away.
    fn check_payload_key(&self, usage: &Usage) {
        let singular = match &*usage.name {
            "events" => "event",
            "tasks" => "task",
            "links" => "link",
            _ => return,
        };
        if usage.payload_key == usage.name {
            let name = &usage.name;
            self.observer.warn_once(
                ("payload key", name),
                format_args!(
                    "{name:?} is broadcast as \"add-{name}\", and the stock client understands \"add-{singular}\"; use the \
                     preset, Entity::scheduler(path), or add .payload_key({singular:?})"
                ),
            );
        }
    }

    /// A page has followed an entity for a while, and follows it still: by now some request should have matched.
    pub(crate) fn unmatched(&self, entity: EntityIndex) {
        let Some(usage) = self.unsettled(entity) else {
            return;
        };
        let like = lock(&usage.search).like.take();
        let remedy = usage.remedy(like.as_ref());
        let name = &usage.name;
        self.observer.warn_once(
            ("unmatched", name),
            format_args!(
                "a page has followed {name:?} for a minute, and no request has matched its routes ({}): {remedy}",
                usage.listed_routes()
            ),
        );
        self.settle(usage);
    }

    /// The wait for requests of an entity is over.
    pub(crate) fn searches_no_more(&self, entity: EntityIndex) {
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

    /// True where requests that are none of ours are worth a look.
    #[inline]
    pub(crate) fn is_interested(&self) -> bool {
        self.interest.load(Ordering::Relaxed) != 0
    }

    /// A request that passes: of no route, or of a list (`is_list`) in `Delivery::Plain`.
    pub(crate) fn passes(
        &self,
        (method, uri, headers): (&Method, &Uri, &HeaderMap),
        is_list: impl FnOnce() -> bool,
        serves_endpoint: bool,
    ) {
        let (interest, path) = (self.interest.load(Ordering::Relaxed), uri.path());
        if path.len() > MAX_PATH {
            return;
        }
        // Where the endpoint is mounted by itself, it may well be behind this layer.
        let may_stray = if serves_endpoint { !self.is(ENDPOINT) } else { !self.is(LAYER | ENDPOINT) };
        if interest & STRAYS != 0 && method == Method::GET && may_stray {
            self.look_for_handshake(uri, headers, is_list);
        }
        if interest & (STRAYS - 1) != 0 {
            self.look_for_routes(method, path);
        }
    }

    fn look_for_handshake(&self, uri: &Uri, headers: &HeaderMap, is_list: impl FnOnce() -> bool) {
        let is_socket = uri.query().is_some_and(|query| query.split('&').any(|pair| pair == "ws=1"));
        if (is_socket || headers.contains_key(REMOTE_TOKEN)) && !is_list() {
            let seen = shown(uri.path());
            self.observer.warn_once_of("stray", &seen, || self.stray(uri.path(), &seen));
        }
        if self.looks.fetch_sub(1, Ordering::Relaxed) <= 1 {
            self.interest.fetch_and(!STRAYS, Ordering::Relaxed);
        }
    }

    /// A page looks for the endpoint somewhere else.
    fn stray(&self, path: &str, seen: &str) -> String {
        let endpoint = &*self.endpoint;
        let bare = path.trim_end_matches('/');
        let remedy = if !self.is(LAYER | ENDPOINT) {
            "nothing serves the endpoint: mount live.endpoint() at that path, or use live.layer() instead of live.watch()"
                .to_owned()
        } else if endpoint.ends_with(bare) && !bare.is_empty() {
            "the layer stands inside a nest, which takes the beginning of each path away; put it around the whole Router, or \
             watch inside with live.watch() and mount live.endpoint() outside"
                .to_owned()
        } else {
            format!(
                "have the page call new RemoteEvents({endpoint:?}, token), or begin with LiveUpdates::builder({seen:?}), the \
                 path as the layer sees it"
            )
        };
        format!("a page asks for live updates at {seen:?}, and the endpoint is at {endpoint:?}: {remedy}")
    }

    fn look_for_routes(&self, method: &Method, path: &str) {
        for usage in self.entities.iter().filter(|usage| !usage.is_settled.load(Ordering::Relaxed)) {
            let alike = usage.routes.iter().filter_map(|(known, pattern)| {
                let (likeness, path) = likeness(pattern, path)?;
                // Of another method the path itself must be one that is known, or it shows nothing.
                let counts = if known == method { likeness != Likeness::Same } else { likeness == Likeness::Same };
                (counts && (known == method || *method != Method::GET)).then(|| Like {
                    method: method.clone(),
                    likeness,
                    path,
                })
            });
            let Some(like) = alike.max_by_key(Like::rank) else {
                continue;
            };
            let mut search = lock(&usage.search);
            if search.is_on && search.like.as_ref().is_none_or(|known| known.rank() < like.rank()) {
                search.like = Some(like);
            }
        }
    }

    /// A page subscribes to a name that no entity has. What begins with `$` is this crate's own.
    pub(crate) fn unknown_name(&self, name: &str) {
        if name.starts_with('$') {
            return;
        }
        self.observer.warn_once_of("unknown name", name, || {
            let shown = if name.len() > 64 { format!("a name of {} bytes", name.len()) } else { format!("{name:?}") };
            let known: Vec<String> =
                self.entities.iter().take(MAX_LISTED).map(|usage| format!("{:?}", usage.name)).collect();
            let more = self.entities.len().saturating_sub(MAX_LISTED);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            let near = nearest(name, self.entities.iter().map(|usage| (&*usage.name, &*usage.payload_key)));
            let remedy = match near {
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

    /// Cross-origin pages ask first whether they may ask, and a layer outside should have answered that.
    pub(crate) fn preflight(&self) {
        let endpoint = &self.endpoint;
        self.observer.warn_once(
            "preflight",
            format_args!(
                "a page of another origin asks whether it may use {endpoint:?} (OPTIONS), and no CORS layer outside the \
                 live layer has answered; put CorsLayer outside (a later .layer(…) on the Router), have it allow the \
                 headers Remote-Token and Content-Type, and allow the page with allow_origin"
            ),
        );
    }

    /// A watched write has been watched before, by this `LiveUpdates`.
    pub(crate) fn watched_twice(&self, method: &Method, pattern: &str) {
        self.observer.warn_once(
            "watched twice",
            format_args!(
                "{method} {pattern} passes two layers of one LiveUpdates, of which the inner one does nothing; keep one of \
                 them: live.layer() around everything, or live.watch() inside and live.endpoint()"
            ),
        );
    }

    /// The same, by another one.
    pub(crate) fn watched_by_two(&self, method: &Method, pattern: &str) {
        self.observer.warn_once(
            "watched by two",
            format_args!(
                "{method} {pattern} is watched by two LiveUpdates, and pages of the one receive nothing that only the other \
                 publishes; build one LiveUpdates with all entities, and clone it"
            ),
        );
    }
}
