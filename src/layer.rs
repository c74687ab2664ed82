//! The tower layer.

use std::{fmt, sync::Arc};

use tower::Layer;

use crate::{
    body::Generic,
    endpoint::Endpoint,
    entity::EntityIndex,
    service::{LiveUpdatesService, Parts},
    watch::Watcher,
};

/// Wraps any tower HTTP service: watches its writes, and serves the endpoint where it is the whole layer.
///
/// From [`LiveUpdates::layer`](crate::LiveUpdates::layer) or [`LiveUpdates::watch`](crate::LiveUpdates::watch). Cheap
/// to clone; every service made by it, and by its clones, belongs to the same `LiveUpdates`.
///
/// # Where to put it
/// Outside whatever answers the writes, inside whatever must see handshakes and sockets too: CORS, tracing. Compression
/// belongs outside (a compressed answer cannot be read); decompression of requests outside too, and so does a layer that
/// answers repeated requests from an idempotency cache. Wrap the whole `Router` with `layer`, after its routes:
/// `route_layer` would leave the endpoint out. What goes wrong, and the log's words for it, stands in
/// `docs/troubleshooting.md`.
///
/// # Order
/// Writes of one object (entity and id in the path) run one at a time, from the moment the request's body has arrived
/// until the change is told, so that the order told is the order committed. It holds on one node, for changes made by
/// these requests. It does not hold where the id stands in the body (`?editing=true`), nor for an inner service that
/// does its work in `call` instead of in the future it returns. An add waits for nobody; it never overrides what has
/// been told of the same object since its request came.
///
/// # What outer layers log
/// The stock client puts its key into the address of its socket: `/api/v1?token=KEY&ws=1`. This crate logs neither
/// addresses nor tokens nor keys, but others do: tower-http's `TraceLayer` has the whole address in the field `uri` of
/// its default span, and so have the access logs of proxies. A plain key holds the token, base64 being all that hides it.
/// Have them say the path alone (nginx: `$uri` instead of `$request` in its `log_format`):
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
/// Sealed keys (`LiveUpdatesBuilder::sealed_keys`) keep tokens out of addresses altogether. Whoever reads one of those may still connect
/// by it until it expires, so hide them as well.
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
#[must_use = "a layer does nothing until a service is wrapped in it"]
pub struct LiveUpdatesLayer<W = Generic> {
    parts: Parts<W>,
}

impl LiveUpdatesLayer {
    pub(crate) fn new(watcher: Arc<Watcher>, only: Option<EntityIndex>, endpoint: Option<Arc<Endpoint>>) -> Self {
        Self { parts: Parts::new(watcher, only, endpoint) }
    }

    /// Keeps axum's own `Body` on both sides: neighbours such as `axum::middleware::from_fn` fit next to it in a
    /// `ServiceBuilder`, and nothing is boxed once more.
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
        LiveUpdatesLayer { parts: self.parts.other_way() }
    }
}

impl<S, W> Layer<S> for LiveUpdatesLayer<W> {
    type Service = LiveUpdatesService<S, W>;

    fn layer(&self, inner: S) -> Self::Service {
        LiveUpdatesService::from_parts(inner, self.parts.clone())
    }
}

impl<W> Clone for LiveUpdatesLayer<W> {
    fn clone(&self) -> Self {
        Self { parts: self.parts.clone() }
    }
}

impl<W> fmt::Debug for LiveUpdatesLayer<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveUpdatesLayer").field("parts", &self.parts).finish()
    }
}
