//! The tower service: passes a request on, watches it, or answers it.

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
    body::{EndpointBody, Generic, RequestBody, ResponseBody},
    body_mode::BodyMode,
    endpoint::Endpoint,
    entity::EntityIndex,
    future::{EndpointFuture, Kind, ResponseFuture},
    watch::{
        detached::Detachable,
        exchange::Exchange,
        watcher::{Watched, Watcher},
    },
};

/// A service with live updates, made by [`LiveUpdatesLayer`](crate::LiveUpdatesLayer).
///
/// Errors are the inner service's own; the endpoint's responses never fail. Readiness is the inner service's too: while
/// that is saturated, handshakes and sockets wait like every request.
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
pub struct LiveUpdatesService<S, M = Generic> {
    pub(crate) inner: S,
    pub(crate) shared: Arc<Shared>,
    pub(crate) mode: PhantomData<fn() -> M>,
}

impl<S, M> LiveUpdatesService<S, M> {
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

impl<S, M, Q, R> Service<Request<Q>> for LiveUpdatesService<S, M>
where
    M: BodyMode<Q> + BodyMode<R>,
    S: Service<Request<<M as BodyMode<Q>>::RequestBody>, Response = Response<R>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    Q: Body + Send + 'static,
    Q::Data: Send,
    R: Body + Send + 'static,
    R::Data: Send,
    R::Error: Send,
{
    type Response = Response<<M as BodyMode<R>>::ResponseBody>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, M, Result<Self::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Q>) -> Self::Future {
        if let Some(endpoint) = self.shared.endpoint_for(&request) {
            return ResponseFuture::new(Kind::Endpoint(Box::pin(endpoint.respond(request))));
        }
        let Shared { watcher, only, endpoint } = &*self.shared;
        // Wrapped in each arm: moved out of the match, the large future would be copied once more.
        match watcher.classify(&request, *only) {
            None => {
                watcher.observe_unwatched(&request, endpoint.is_some());
                ResponseFuture::new(Kind::Pass(self.inner.call(<M as BodyMode<Q>>::pass_request(request))))
            }
            Some(Watched::List(list)) => {
                let inner = self.inner.call(<M as BodyMode<Q>>::pass_request(request));
                ResponseFuture::new(Kind::List(inner, Some(list)))
            }
            Some(Watched::Write(matched)) => {
                let (mut parts, body) = request.into_parts();
                let exchange = Exchange::begin(watcher, matched, &mut parts, &body);
                let capture = exchange.capture.clone();
                let body = RequestBody::watched(body, capture.clone(), exchange.lock());
                let inner = self.inner.call(Request::from_parts(parts, <M as BodyMode<Q>>::wrap_request(body)));
                let wrap = |body| <M as BodyMode<R>>::wrap_response(ResponseBody::forwarded(body));
                let write = exchange.run(inner).map_ok(move |response| response.map(wrap));
                ResponseFuture::new(Kind::Watch(Detachable::new(write, capture, watcher.clone())))
            }
        }
    }
}

/// What a layer and its services share. Routers clone their services for each request: it is one pointer.
pub(crate) struct Shared {
    pub(crate) watcher: Arc<Watcher>,
    /// The entity watched, where it is only one.
    pub(crate) only: Option<EntityIndex>,
    pub(crate) endpoint: Option<Arc<Endpoint>>,
}

impl Shared {
    /// The endpoint, where this request is for it. OPTIONS goes to the application, whose CORS layer answers it.
    pub(crate) fn endpoint_for<B>(&self, request: &Request<B>) -> Option<Arc<Endpoint>> {
        let endpoint = self.endpoint.as_ref().filter(|endpoint| endpoint.is_at(request.uri().path()))?;
        if request.method() == Method::OPTIONS {
            if request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD) {
                self.watcher.diagnosis().preflight();
            }
            return None;
        }
        Some(endpoint.clone())
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let has_endpoint = self.endpoint.is_some();
        f.debug_struct("Shared").field("endpoint", &has_endpoint).field("only", &self.only).finish_non_exhaustive()
    }
}

/// The endpoint alone, as a service: handshake, socket and calls, for nested routers and custom servers.
///
/// Created by [`LiveUpdates::endpoint`](crate::LiveUpdates::endpoint), and without sockets by
/// [`LiveUpdates::calls`](crate::LiveUpdates::calls);
/// [`LiveUpdates::watch`](crate::LiveUpdates::watch) has an example. The endpoint answers on every path: mount it where
/// the client's `RemoteEvents` expects it.
#[derive(Clone, Debug)]
pub struct LiveUpdatesEndpoint {
    pub(crate) endpoint: Arc<Endpoint>,
    /// Its pages make calls only, and have no socket.
    pub(crate) is_for_calls: bool,
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
        let endpoint = self.endpoint.clone();
        EndpointFuture(match self.is_for_calls {
            false => Box::pin(endpoint.respond(request)),
            true => Box::pin(endpoint.respond_to_calls(request)),
        })
    }
}
