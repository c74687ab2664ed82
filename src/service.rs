//! The tower service: passes on, watches, or answers itself.

use std::{
    convert::Infallible,
    fmt,
    marker::PhantomData,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::TryFutureExt;
use http::{Method, Request, Response, header};
use http_body::Body;
use tower_service::Service;

use crate::{
    body::{EndpointBody, Generic},
    endpoint::Endpoint,
    entity::EntityIndex,
    future::{EndpointFuture, ResponseFuture},
    watch::{Concern, Watcher, route::Matched},
    way::{Ear, RequestWay, ResponseWay, WatchedAnswer},
};

/// A service with live updates, made by [`LiveUpdatesLayer`](crate::LiveUpdatesLayer).
///
/// Errors are the inner service's own; what this crate answers itself never fails. Readiness is the inner service's
/// too: where that is saturated, handshakes and sockets wait with everything else.
///
/// ```
/// use std::convert::Infallible;
///
/// use bytes::Bytes;
/// use http::{Request, Response};
/// use http_body_util::Full;
/// use tower::{Layer, service_fn};
/// use tower_live_updates::{Entity, LiveUpdates, body::RequestBody};
///
/// let live = LiveUpdates::builder("/api/v1")
///     .allow_anonymous()
///     .entity(Entity::scheduler("/events"))
///     .build()?;
/// let service = live.layer().layer(service_fn(async |_: Request<RequestBody<Full<Bytes>>>| {
///     Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
/// }));
/// # Ok::<(), tower_live_updates::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
pub struct LiveUpdatesService<S, W = Generic> {
    inner: S,
    parts: Parts<W>,
}

impl<S, W> LiveUpdatesService<S, W> {
    pub(crate) fn from_parts(inner: S, parts: Parts<W>) -> Self {
        Self { inner, parts }
    }

    /// The wrapped service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The wrapped service, to be changed.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The wrapped service alone.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, W, Q, R> Service<Request<Q>> for LiveUpdatesService<S, W>
where
    W: RequestWay<Q> + ResponseWay<R>,
    <W as ResponseWay<R>>::Response: 'static,
    S: Service<Request<<W as RequestWay<Q>>::Request>, Response = Response<R>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    Q: Body + Send + 'static,
    Q::Data: Send,
    R: Body + Send + 'static,
    R::Data: Send,
    R::Error: Send,
{
    type Response = Response<<W as ResponseWay<R>>::Response>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, W, R, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Q>) -> Self::Future {
        if let Some(endpoint) = self.parts.endpoint_for(&request) {
            return ResponseFuture::endpoint(Box::pin(endpoint.respond(request)));
        }
        match self.parts.concern(&request) {
            None => {
                self.parts.passes(&request);
                ResponseFuture::pass(self.inner.call(<W as RequestWay<Q>>::pass(request)))
            }
            Some(Concern::List(listing)) => {
                ResponseFuture::list(self.inner.call(<W as RequestWay<Q>>::pass(request)), listing)
            }
            Some(Concern::Write(matched)) => self.watch(matched, request),
        }
    }
}

impl<S, W> LiveUpdatesService<S, W> {
    fn watch<Q, R>(&mut self, matched: Matched, request: Request<Q>) -> ResponseFuture<S::Future, W, R, S::Error>
    where
        W: RequestWay<Q> + ResponseWay<R>,
        <W as ResponseWay<R>>::Response: 'static,
        S: Service<Request<<W as RequestWay<Q>>::Request>, Response = Response<R>>,
        S::Future: Send + 'static,
        S::Error: Send + 'static,
        Q: Body,
        R: Body + Send + 'static,
        R::Data: Send,
        R::Error: Send,
    {
        let watcher = &self.parts.shared.watcher;
        let (mut parts, body) = request.into_parts();
        let write = watcher.begin(matched, &mut parts, &body);
        let capture = write.capture();
        let ear = Ear { capture: capture.clone(), turn: write.turn() };
        let inner = self.inner.call(Request::from_parts(parts, W::watch(body, ear)));
        let answered = write.run(inner).map_ok(|response| response.map(|answer| W::answer(WatchedAnswer(answer))));
        ResponseFuture::watch(answered, capture, watcher.clone())
    }
}

/// What a layer and its services share. Routers clone their services for each request: it is one pointer.
pub(crate) struct Parts<W> {
    shared: Arc<Shared>,
    way: PhantomData<fn() -> W>,
}

struct Shared {
    watcher: Arc<Watcher>,
    /// The entity watched, where it is one alone.
    only: Option<EntityIndex>,
    endpoint: Option<Arc<Endpoint>>,
}

impl<W> Parts<W> {
    pub(crate) fn new(watcher: Arc<Watcher>, only: Option<EntityIndex>, endpoint: Option<Arc<Endpoint>>) -> Self {
        Self { shared: Arc::new(Shared { watcher, only, endpoint }), way: PhantomData }
    }

    /// The same, for other bodies.
    #[cfg(feature = "axum")]
    pub(crate) fn other_way<V>(self) -> Parts<V> {
        Parts { shared: self.shared, way: PhantomData }
    }

    /// The endpoint, where this request is for it. OPTIONS is the application's: its CORS layer answers.
    pub(crate) fn endpoint_for<B>(&self, request: &Request<B>) -> Option<Arc<Endpoint>> {
        let endpoint = self.shared.endpoint.as_ref()?;
        if !endpoint.is_at(request.uri().path()) {
            return None;
        }
        if request.method() == Method::OPTIONS {
            if request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD) {
                self.shared.watcher.diagnosis().preflight();
            }
            return None;
        }
        Some(endpoint.clone())
    }

    fn concern<B>(&self, request: &Request<B>) -> Option<Concern> {
        self.shared.watcher.concern(request, self.shared.only)
    }

    /// A request that is none of ours.
    fn passes<B>(&self, request: &Request<B>) {
        self.shared.watcher.passes(request, self.shared.endpoint.is_some());
    }
}

impl<W> Clone for Parts<W> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), way: PhantomData }
    }
}

impl<W> fmt::Debug for Parts<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts")
            .field("endpoint", &self.shared.endpoint.is_some())
            .field("only", &self.shared.only)
            .finish_non_exhaustive()
    }
}

/// The endpoint alone, as a service: handshake, socket and calls, for nested routers and custom servers.
///
/// From [`LiveUpdates::endpoint`](crate::LiveUpdates::endpoint); an example stands at
/// [`LiveUpdates::watch`](crate::LiveUpdates::watch). It takes every path for its own; mount it where the
/// client's `RemoteEvents` looks for it.
#[derive(Clone, Debug)]
pub struct LiveUpdatesEndpoint(Arc<Endpoint>);

impl LiveUpdatesEndpoint {
    pub(crate) fn new(endpoint: Arc<Endpoint>) -> Self {
        Self(endpoint)
    }
}

impl<Q> Service<Request<Q>> for LiveUpdatesEndpoint
where
    Q: Body + Send + 'static,
    Q::Data: Send,
{
    type Response = Response<EndpointBody>;
    type Error = Infallible;
    type Future = EndpointFuture;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Q>) -> EndpointFuture {
        EndpointFuture::new(Box::pin(self.0.clone().respond(request)))
    }
}
