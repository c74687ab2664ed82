//! From a watched HTTP write to what pages are told. Knows bodies, not tower, hyper or sockets.

pub(crate) mod capture;
pub(crate) mod derive;
pub(crate) mod order;
pub(crate) mod request_body;
pub(crate) mod route;
pub(crate) mod write;

use std::{
    borrow::Cow,
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Method, Request, Response, StatusCode, header, request, response::Parts};
use http_body::Body;
use pin_project::pin_project;
use tokio::sync::Semaphore;

use self::{
    capture::{Capture, Collected, Rest, collect},
    derive::{Draft, RequestFacts, ResponseFacts, Verdict, judge},
    order::{Turn, Turns},
    request_body::{Format, is_editing},
    route::{Matched, Routes},
    write::{LiveWrite, Said},
};
use crate::{
    change::{Before, Change, ChangeKind},
    entity::Load,
    hook::{BoxFuture, guarded},
    hub::{Activity, Delivery, EntityIndex},
    lock::lock,
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

/// How long a write may go on without its client when its request has not arrived whole.
const HALF_READ: Duration = Duration::from_secs(5);

/// Recognises writes and tells what they did.
#[derive(Debug)]
pub(crate) struct Watcher {
    publisher: Publisher,
    routes: Routes,
    turns: Arc<Turns>,
    limits: WatchLimits,
    lifecycle: Arc<Lifecycle>,
    detached: Arc<Semaphore>,
}

impl Watcher {
    pub(crate) fn new(publisher: Publisher, routes: Routes, limits: WatchLimits, lifecycle: Arc<Lifecycle>) -> Self {
        Self {
            publisher,
            routes,
            turns: Arc::default(),
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
            None => Some(self.listing(request, only)).filter(|listing| !listing.is_empty()).map(Concern::List),
        }
    }

    /// What this request changes. `None` too where an outer watcher of the same `LiveUpdates` has it in hand already.
    fn find<B>(&self, request: &Request<B>, only: Option<EntityIndex>) -> Option<Matched> {
        let matched = self.routes.find(request.method(), request.uri().path())?;
        let ours = only.is_none_or(|only| only == matched.route.entity);
        let outer = request.extensions().get::<LiveWrite>();
        (ours && outer.is_none_or(|outer| outer.watcher != self.mark())).then_some(matched)
    }

    /// What a request that reads a list must hold until its answer has left; empty when it is no such request.
    fn listing<B>(&self, request: &Request<B>, only: Option<EntityIndex>) -> Vec<Activity> {
        let hub = &self.publisher.hub;
        if request.method() != Method::GET || hub.delivery() == Delivery::Plain {
            return Vec::new();
        }
        let listed = self.routes.find_list(request.uri().path()).iter();
        let ours = listed.filter(|&&entity| only.is_none_or(|only| only == entity));
        ours.map(|&entity| hub.list_begins(entity)).collect()
    }

    /// Begins to watch a write, and gives its handler a say.
    pub(crate) fn begin<B: Body>(self: &Arc<Self>, matched: Matched, request: &mut request::Parts, body: &B) -> Write {
        let live_write = LiveWrite::new(self.mark());
        request.extensions.insert(live_write.clone());
        Write {
            capture: Capture::new(self.limits.body_bytes),
            activity: self.publisher.hub.write_begins(matched.route.entity),
            editing: request.method == Method::POST && is_editing(request.uri.query()),
            format: Format::of(&request.headers),
            method: request.method.clone(),
            without_body: body.is_end_stream() || body.size_hint().exact() == Some(0),
            target: Arc::new(Target {
                scopes: matched.scopes.and(&self.scopes_of(matched.route.entity, request)),
                watcher: self.clone(),
                matched,
                place: Mutex::default(),
            }),
            live_write,
        }
    }

    /// The scopes that the entity's hook finds in a request.
    fn scopes_of(&self, entity: EntityIndex, request: &request::Parts) -> Scopes {
        let scoping = self.publisher.entity(entity).scoping.as_ref();
        let Some(of_request) = scoping.and_then(|scoping| scoping.of_request.as_ref()) else {
            return Scopes::None;
        };
        let scopes = std::panic::catch_unwind(AssertUnwindSafe(|| of_request(request)));
        scopes.unwrap_or_else(|_| {
            self.observer().hooks_failed.up();
            let name = &self.publisher.entity(entity).name;
            self.observer()
                .warn(format_args!("scope_from of {name:?} panicked, and so this write has no scope from it"));
            Scopes::None
        })
    }

    /// Finishes a write whose client has gone, in a task of its own. One that was still reading its request gets a
    /// little time only: somebody who sends slowly must not hold a place for as long as they like.
    pub(crate) fn finish_detached(&self, request: &Capture, write: impl Future<Output = ()> + Send + 'static) {
        let time = if request.is_half_read() { HALF_READ } else { Duration::MAX };
        let observer = self.observer();
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
        self.lifecycle.spawn(async move {
            let _ = tokio::time::timeout(time, write).await;
            drop(permit);
        });
    }

    /// Writes being finished at the moment.
    pub(crate) fn detached_now(&self) -> usize {
        self.limits.detached - self.detached.available_permits()
    }

    fn mark(&self) -> usize {
        Arc::as_ptr(&self.turns).addr()
    }

    fn observer(&self) -> &Observer {
        &self.publisher.observer
    }
}

/// What a request is to the watcher.
pub(crate) enum Concern {
    /// It changes something.
    Write(Matched),
    /// It reads what there is. With what it must hold until its answer has left.
    List(Vec<Activity>),
}

/// What a write is of, and its place among the writes of that.
#[derive(Debug)]
pub(crate) struct Target {
    watcher: Arc<Watcher>,
    matched: Matched,
    /// As far as the request says.
    scopes: Scopes,
    place: Mutex<Placed>,
}

#[derive(Debug, Default)]
struct Placed {
    turn: Option<Turn>,
    /// The object as it was when the turn came.
    before: Before,
}

/// Takes a write's turn, as soon as it is asked.
pub(crate) enum Taking {
    Unasked(Arc<Target>),
    Waiting(BoxFuture<()>),
}

impl Taking {
    /// Ready when it is the write's turn.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Self::Unasked(target) = self {
            match target.take_turn() {
                None => return Poll::Ready(()),
                Some(waiting) => *self = Self::Waiting(waiting),
            }
        }
        match self {
            Self::Unasked(_) => Poll::Ready(()),
            Self::Waiting(waiting) => waiting.as_mut().poll(cx),
        }
    }
}

/// An inner service's future, which begins when it is its write's turn.
#[pin_project]
struct Ordered<F> {
    turn: Option<Taking>,
    #[pin]
    inner: F,
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

/// One watched write, from its request to what it is told as.
#[derive(Debug)]
pub(crate) struct Write {
    target: Arc<Target>,
    method: Method,
    editing: bool,
    format: Format,
    without_body: bool,
    capture: Capture,
    live_write: LiveWrite,
    /// A page is saving.
    activity: Activity,
}

/// How the response's body goes on to the client.
pub(crate) enum Answer<B: Body> {
    /// Untouched.
    AsItCame(B),
    /// Read ahead; the flag says whether it had promised its length.
    ReadAhead(Collected<B>, bool),
}

impl Write {
    fn watcher(&self) -> &Watcher {
        &self.target.watcher
    }

    fn matched(&self) -> &Matched {
        &self.target.matched
    }

    /// The ear for the request's body.
    pub(crate) fn capture(&self) -> Capture {
        self.capture.clone()
    }

    /// Takes this write's turn, for the request's body to wait for. An add waits for nobody, and without a body the
    /// write itself waits.
    pub(crate) fn turn(&self) -> Option<Taking> {
        let is_ordered = self.target.matched.id.is_some() && !self.without_body;
        is_ordered.then(|| Taking::Unasked(self.target.clone()))
    }

    /// Runs the inner service to its answer and tells what it did before the answer goes on.
    pub(crate) fn run<F, B, E>(self, inner: F) -> impl Future<Output = Result<Response<Answer<B>>, E>>
    where
        F: Future<Output = Result<Response<B>, E>>,
        B: Body,
    {
        let is_ordered = self.target.matched.id.is_some() && self.without_body;
        let turn = is_ordered.then(|| Taking::Unasked(self.target.clone()));
        // The inner future is gone before what follows begins: the two take the same room.
        Ordered { turn, inner }.then(|answered| async move {
            let answer = match answered {
                Ok(response) => Ok(self.answered(response).await),
                Err(error) => Err(error),
            };
            // The request's body may still be held by somebody, and must not keep the turn with it.
            let turn = lock(&self.target.place).turn.take();
            drop(turn);
            answer
        })
    }

    async fn answered<B: Body>(&self, response: Response<B>) -> Response<Answer<B>> {
        let (parts, body) = response.into_parts();
        let said = self.live_write.take();
        if !parts.status.is_success() {
            return Response::from_parts(parts, Answer::AsItCame(body));
        }
        if said.skip || !said.changes.is_empty() {
            self.publish(said);
            return Response::from_parts(parts, Answer::AsItCame(body));
        }
        // Neither says that anything is done.
        if matches!(parts.status, StatusCode::ACCEPTED | StatusCode::MULTI_STATUS) {
            self.untold(
                "status",
                "202 and 207 do not say that the write is done; publish from the handler with LiveWrite, or later \
                 with LiveUpdates::publish",
            );
            return Response::from_parts(parts, Answer::AsItCame(body));
        }
        let (answer, whole) = self.read_answer(&parts, body).await;
        if let Answer::ReadAhead(Collected { rest: Rest::Broken(_), .. }, _) = &answer {
            self.untold("broken", "the inner service's answer broke off");
        } else {
            let request = self.capture.take();
            match &self.watcher().publisher.entity(self.matched().route.entity).load {
                None => {
                    if let Some(draft) = self.draft(&parts, request.as_deref(), whole.as_deref()) {
                        self.tell(draft, None, said);
                    }
                }
                // Apart, so that writes without one are no larger for it.
                Some(hook) => Box::pin(self.tell_stored(hook, &parts, request, whole, said)).await,
            }
        }
        Response::from_parts(parts, answer)
    }

    /// Reads the answer where it can say something: JSON or empty, neither too large nor too slow.
    async fn read_answer<B: Body>(&self, parts: &Parts, body: B) -> (Answer<B>, Option<Bytes>) {
        if body.is_end_stream() {
            return (Answer::AsItCame(body), Some(Bytes::new()));
        }
        if Format::of(&parts.headers) != Format::Json {
            return (Answer::AsItCame(body), None);
        }
        let limits = &self.watcher().limits;
        let exact = body.size_hint().exact().is_some();
        let collected = collect(body, limits.body_bytes, limits.response_time).await;
        let whole = collected.whole();
        (Answer::ReadAhead(collected, exact), whole)
    }

    /// What the write changed, as far as request and answer tell.
    fn draft<'a>(&'a self, parts: &'a Parts, request: Option<&'a [u8]>, answer: Option<&'a [u8]>) -> Option<Draft<'a>> {
        let entity = self.watcher().publisher.entity(self.matched().route.entity);
        let verdict = judge(
            entity,
            RequestFacts {
                kind: self.matched().route.kind,
                path_id: self.matched().id.as_deref(),
                editing: self.editing,
                format: self.format,
                body: request,
            },
            ResponseFacts {
                status: parts.status,
                location: parts.headers.get(header::LOCATION).and_then(|value| value.to_str().ok()),
                body: answer,
            },
        );
        let draft = match verdict {
            Verdict::Changed(draft) => draft,
            Verdict::Failed => return None,
            Verdict::Untold(reason) => {
                self.untold(reason, reason.remedy());
                return None;
            }
        };
        if let Some(misfit) = entity.widget.misfit(draft.kind, parts.status, draft.tid) {
            self.watcher().observer().warn_once(
                ("misfit", &self.matched().route.pattern, misfit),
                format_args!("{} {}: {}", self.method, self.matched().route.pattern, misfit.remedy()),
            );
        }
        Some(draft)
    }

    async fn tell_stored(&self, hook: &Load, parts: &Parts, request: Option<Bytes>, answer: Option<Bytes>, said: Said) {
        if let Some(draft) = self.draft(parts, request.as_deref(), answer.as_deref()) {
            let loaded = self.load(hook, &draft).await;
            self.tell(draft, loaded, said);
        }
    }

    /// Tells what the write changed: as the store has it, or else as request and answer tell.
    fn tell(&self, draft: Draft<'_>, loaded: Option<Change>, said: Said) {
        let entity = self.watcher().publisher.entity(self.matched().route.entity);
        let change = match loaded {
            Some(change) => Ok(change),
            // Who may see it cannot be told from what was sent.
            None if entity.is_filtered() && draft.kind != ChangeKind::Delete => {
                return self.untold("load", "its load hook failed");
            }
            None => draft.into_change(),
        };
        match change {
            Ok(change) => self.publish(Said { changes: vec![change], ..said }),
            Err(reason) => self.untold(reason, reason.remedy()),
        }
    }

    /// What the store holds now, as the entity's hook tells.
    async fn load(&self, hook: &Load, draft: &Draft<'_>) -> Option<Change> {
        let id = draft.id()?.into_owned();
        let failure = match guarded(self.watcher().limits.hook, || hook(names(&self.target.scopes), id)).await {
            Ok(Ok(row)) => match draft.loaded(row.as_deref()) {
                Some(change) => return Some(change),
                None => "its row is no JSON object with an id".to_owned(),
            },
            Ok(Err(error)) => error.to_string(),
            Err(failure) => failure.to_string(),
        };
        self.watcher().observer().hooks_failed.up();
        let name = &self.watcher().publisher.entity(self.matched().route.entity).name;
        self.watcher().observer().warn(format_args!("the load hook of {name:?} failed: {failure}"));
        None
    }

    fn publish(&self, said: Said) {
        if said.changes.is_empty() {
            return;
        }
        let Target { matched, scopes: asked, place, .. } = &*self.target;
        let adds = said.changes.iter().any(|change| change.kind() == ChangeKind::Add);
        // With an id in the path the write had its turn: what was told before is older.
        let began = self.activity.since().filter(|_| adds && matched.id.is_none());
        let scopes = if said.scopes.is_none() { asked } else { &said.scopes };
        let before = std::mem::take(&mut lock(place).before);
        let told = said.changes.into_iter().map(|change| {
            let is_meant = matched.id.as_deref() == Some(change.id());
            let before = if is_meant { before.clone() } else { Before::Unread };
            let change = change.told_in(scopes, &said.moved_from).after(before);
            // What leaves the scopes of requests is found where it comes to.
            let stays = !asked.is_none() && !asked.admit(change.former_scopes());
            if stays { change.unique_in(asked) } else { change }
        });
        let told: Vec<Change> = told.collect();
        if let Err(error) = self.watcher().publisher.publish(matched.route.entity, &told, began) {
            self.untold(std::mem::discriminant(&error), &error.to_string());
        }
    }

    fn untold(&self, what: impl std::hash::Hash, why: &str) {
        let observer = self.watcher().observer();
        observer.writes_untold.up();
        observer.warn_once(
            ("untold", &self.matched().route.pattern, self.method.as_str(), what),
            format_args!(
                "{} {}: a successful write is not told to pages: {why}",
                self.method,
                self.matched().route.pattern
            ),
        );
    }
}

impl Target {
    /// Takes this write's turn, and what is left to be waited for; the write goes on without its turn when that takes
    /// too long. An add waits for nobody.
    fn take_turn(self: &Arc<Self>) -> Option<BoxFuture<()>> {
        let id = self.matched.id.as_ref()?;
        let (watcher, entity) = (&self.watcher, self.matched.route.entity);
        let key = match watcher.publisher.hub.key(entity, &self.scopes, id) {
            Cow::Borrowed(_) => id.clone(),
            Cow::Owned(key) => key.into(),
        };
        let taken = match watcher.turns.take(entity, key) {
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
                watcher.observer().turns_timed_out.up();
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

impl Watcher {
    /// What tells what an object is before a write, where somebody may be asked who could see it, and the log does not
    /// know.
    fn load_before(&self, entity: EntityIndex, scopes: &Scopes, id: &str) -> Option<&Load> {
        let load = self.publisher.entity(entity).load.as_ref();
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
