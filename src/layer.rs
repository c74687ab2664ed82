//! The tower layer.

use std::{marker::PhantomData, sync::Arc};

use tower::Layer;

use crate::{
    body::Generic,
    endpoint::Endpoint,
    entity::EntityIndex,
    service::{LiveUpdatesService, Shared},
    watch::watcher::Watcher,
};

/// Wraps any tower HTTP service: watches its writes and, unless it watches one entity only, serves the endpoint.
///
/// Created by [`LiveUpdates::layer`](crate::LiveUpdates::layer) or [`LiveUpdates::watch`](crate::LiveUpdates::watch). Cheap
/// to clone; all services made by it and its clones belong to the same `LiveUpdates`.
///
/// # Where to put it
/// Wrap the whole `Router` with `layer`, after its routes: `route_layer` would leave the endpoint out.
///
/// | layer | place |
/// |---|---|
/// | CORS, tracing, and all that must see handshakes and sockets | outside |
/// | authentication, if [`Entity::scope_from`](crate::Entity::scope_from) reads its extension | outside |
/// | compression of responses (a compressed response cannot be read) | outside |
/// | decompression of requests | outside |
/// | an idempotency cache, which answers repeated requests itself | outside |
/// | whatever answers the writes | inside |
///
/// [Troubleshooting](crate::guide::troubleshooting) lists common mistakes, and the log lines about each.
///
/// # Order
/// Writes of one object (entity and id in the path) run one at a time: from the arrival of the request's body until the
/// change is published, a keyed lock is held. So changes are published in the order in which they were committed. This
/// holds on one node, for changes made by these requests. It does not hold
///
/// - if the id is in the body (`?editing=true`);
/// - for an inner service that works in `call` instead of in the future it returns;
/// - for a write that waits longer than [`write_lock_timeout`](crate::LiveUpdatesBuilder::write_lock_timeout) for an
///   earlier one.
///
/// An add takes no lock. It never overrides a change of the same object that was published after the add's request arrived.
///
/// # What outer layers log
/// The stock client puts its key into the address of its socket: `/api/v1?token=KEY&ws=1`. This crate logs neither addresses
/// nor tokens nor keys, but others do: tower-http's `TraceLayer` has the whole address in the field `uri` of its default
/// span, and the access logs of proxies have it too. A plain key holds the token, encoded in base64 only. Configure them to
/// log the path alone (nginx: `$uri` instead of `$request` in its `log_format`):
///
/// ```
/// use axum::{Router, extract::Request, routing::post};
/// use tower_http::trace::TraceLayer;
/// use tower_live_updates::{Entity, LiveUpdates};
///
/// let live = LiveUpdates::builder("/api/v1")
///     .tokens(["a-long-random-token"])
///     .entity(Entity::scheduler("/events"))
///     .build()?;
/// # #[cfg(feature = "tracing")]
/// let spans = TraceLayer::new_for_http().make_span_with(|request: &Request| {
///     tracing::debug_span!("request", method = %request.method(), path = request.uri().path())
/// });
/// # #[cfg(feature = "tracing")]
/// let app: Router = Router::new()
///     .route("/events", post(async || r#"{"action":"inserted","tid":"1"}"#))
///     .layer(live.layer())
///     .layer(spans);
/// # Ok::<(), tower_live_updates::ConfigError>(())
/// ```
///
/// Sealed keys (`LiveUpdatesBuilder::sealed_keys`) keep tokens out of addresses altogether. The holder of a sealed key may
/// still connect until the key expires, so hide these addresses as well.
///
/// # Example
/// ```
/// use axum::{Router, routing::post};
/// use tower_live_updates::{Entity, LiveUpdates};
///
/// let live = LiveUpdates::builder("/api/v1")
///     .allow_anonymous()
///     .entity(Entity::scheduler("/events"))
///     .build()?;
/// let app: Router = Router::new()
///     .route("/events", post(async || r#"{"action":"inserted","tid":"1"}"#))
///     .layer(live.layer());
/// # Ok::<(), tower_live_updates::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "a layer does nothing until a service is wrapped in it"]
pub struct LiveUpdatesLayer<M = Generic> {
    shared: Arc<Shared>,
    mode: PhantomData<fn() -> M>,
}

impl LiveUpdatesLayer {
    pub(crate) fn new(watcher: Arc<Watcher>, only: Option<EntityIndex>, endpoint: Option<Arc<Endpoint>>) -> Self {
        Self { shared: Arc::new(Shared { watcher, only, endpoint }), mode: PhantomData }
    }

    /// Keeps axum's own `Body` on both sides. Neighbours such as `axum::middleware::from_fn` then fit next to this layer in a
    /// `ServiceBuilder`, and no body is boxed a second time.
    ///
    /// ```
    /// use axum::{Router, extract::Request, middleware::{Next, from_fn}, routing::post};
    /// use tower::ServiceBuilder;
    /// use tower_live_updates::{Entity, LiveUpdates};
    ///
    /// let live = LiveUpdates::builder("/api/v1")
    ///     .allow_anonymous()
    ///     .entity(Entity::scheduler("/events"))
    ///     .build()?;
    /// let app: Router = Router::new().route("/events", post(async || "{}")).layer(
    ///     ServiceBuilder::new()
    ///         .layer(from_fn(async |request: Request, next: Next| next.run(request).await))
    ///         .layer(live.layer().axum())
    ///         .layer(from_fn(async |request: Request, next: Next| next.run(request).await)),
    /// );
    /// # Ok::<(), tower_live_updates::ConfigError>(())
    /// ```
    #[cfg(feature = "axum")]
    #[cfg_attr(docsrs, doc(cfg(feature = "axum")))]
    pub fn axum(self) -> LiveUpdatesLayer<crate::body::Axum> {
        LiveUpdatesLayer { shared: self.shared, mode: PhantomData }
    }
}

impl<S, M> Layer<S> for LiveUpdatesLayer<M> {
    type Service = LiveUpdatesService<S, M>;

    fn layer(&self, inner: S) -> Self::Service {
        LiveUpdatesService { inner, shared: self.shared.clone(), mode: PhantomData }
    }
}
