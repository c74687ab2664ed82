//! The handle: layers, publishing, counters and shutdown.

use std::{fmt, future::Future, sync::Arc};

use serde::Serialize;
use tower::Layer as _;

use crate::{
    auth::Identity,
    change::Change,
    connection::Connections,
    endpoint::Endpoint,
    entity::EntityIndex,
    error::{ConfigError, PublishError},
    hub::Addressee,
    layer::LiveUpdatesLayer,
    observe::Stats,
    publish::Publisher,
    scope::Scopes,
    service::{LiveUpdatesEndpoint, LiveUpdatesService},
    session::Session,
    shutdown::signal,
    watch::watcher::Watcher,
};

/// Live updates for one application: a cheap, cloneable handle.
///
/// Wrap the service in [`layer`](Self::layer), keep the handle (as axum state, for example) to publish what happens outside
/// HTTP, and end with [`shutdown`](Self::shutdown). Needs tokio with time and I/O enabled.
///
/// One handle may serve sockets on several runtimes. A runtime may end while others continue, and start again. The handle's
/// own tasks run on the runtime of one of the open sockets: one task for each worker thread of the first runtime, and one
/// more.
///
/// ```no_run
/// use axum::{Router, routing::{get, post, put}};
/// use tower_live_updates::{Entity, LiveUpdates};
/// # async fn list() {} async fn create() {} async fn update() {} async fn remove() {}
///
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let live = LiveUpdates::builder("/api/v1")
///     .tokens(["a-long-random-token"])
///     .entity(Entity::scheduler("/events"))
///     .build()?;
///
/// let app = Router::new()
///     .route("/events", get(list).post(create))
///     .route("/events/{id}", put(update).delete(remove))
///     .layer(live.layer());
///
/// let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
/// axum::serve(listener, app).with_graceful_shutdown(live.shutdown_on_signals()).await?;
/// # Ok(())
/// # }
/// ```
///
/// # Audit
/// With the feature `tracing` and [`audit`](crate::LiveUpdatesBuilder::audit) on the builder, the log records what was sent
/// to whom. At the target `tower_live_updates::audit` and level INFO there is
///
/// - one line `published` for each change and message, with `entity`, `id`, `kind` (`add`, `update`, `delete` or
///   `message`), `scope` (`*` for all), and `recipients`: the number of current subscribers that have one of its scopes;
/// - one line `sent` for each recipient, with `who` (its [principal](Identity::principal)), `entity`, `id`, `kind` and
///   `scope`: for a broadcast, a replay, a resend, and each row of a snapshot. When an object leaves the visibility of a
///   recipient, the `kind` is `delete`.
///
/// Neither line shows the content of an object or message. A `sent` line means that a frame was handed over to be sent, not
/// that it arrived. The audit is off by default, since it writes a line for each recipient of each change. While no
/// subscriber of `tracing` listens to the target, it costs next to nothing. This filter for `EnvFilter` drops it:
/// `info,tower_live_updates::audit=off`.
#[derive(Clone)]
pub struct LiveUpdates {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) publisher: Publisher,
    pub(crate) watcher: Arc<Watcher>,
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) connections: Arc<Connections>,
}

impl LiveUpdates {
    /// The layer, which watches the writes of every entity and serves the endpoint.
    pub fn layer(&self) -> LiveUpdatesLayer {
        self.shared.publisher.diagnosis.layer_created();
        LiveUpdatesLayer::new(self.shared.watcher.clone(), None, Some(self.shared.endpoint.clone()))
    }

    /// A layer that only watches one entity, for a nested router. It matches the entity's paths with the path that the wrapped
    /// service receives. Serve the endpoint with [`endpoint`](Self::endpoint).
    ///
    /// ```
    /// use axum::{Router, routing::post};
    /// use tower_live_updates::{Entity, LiveUpdates};
    ///
    /// let live = LiveUpdates::builder("/api/v1")
    ///     .allow_anonymous()
    ///     .entity(Entity::scheduler("/events"))
    ///     .build()?;
    /// let calendar = Router::new()
    ///     .route("/events", post(async || r#"{"action":"inserted","tid":"1"}"#))
    ///     .layer(live.watch("events")?);
    /// let app: Router = Router::new()
    ///     .nest("/calendar", calendar) // POST /calendar/events is broadcast
    ///     .route_service("/api/v1", live.endpoint());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`ConfigError::UnknownEntity`] if no entity of this name is configured.
    pub fn watch(&self, entity: &str) -> Result<LiveUpdatesLayer, ConfigError> {
        let found = self.shared.publisher.find(entity);
        let index = found.ok_or_else(|| ConfigError::UnknownEntity(entity.to_owned()))?;
        self.shared.publisher.diagnosis.watch_created(index);
        Ok(LiveUpdatesLayer::new(self.shared.watcher.clone(), Some(index), None))
    }

    /// The endpoint alone, as a service for a route of its own; [`watch`](Self::watch) has an example.
    #[must_use]
    pub fn endpoint(&self) -> LiveUpdatesEndpoint {
        self.shared.publisher.diagnosis.endpoint_created();
        LiveUpdatesEndpoint { endpoint: self.shared.endpoint.clone(), is_for_calls: false }
    }

    /// The [methods](crate::LiveUpdatesBuilder::call) alone, as a service for a route of its own, whose pages have no
    /// socket: each call is an HTTP request. Such a call fails by itself when the network does;
    /// [`guide::calls`](crate::guide::calls) says which to choose.
    ///
    /// ```
    /// use std::convert::Infallible;
    /// use axum::Router;
    /// use tower_live_updates::{Caller, Entity, LiveUpdates};
    ///
    /// let live = LiveUpdates::builder("/api/v1")
    ///     .allow_anonymous()
    ///     .entity(Entity::scheduler("/events"))
    ///     .call("tasks.count", (), async |(), _: Caller, ()| Ok::<_, Infallible>(7))
    ///     .build()?;
    /// // On the page: new RemoteEvents("/api/calls", token)
    /// let app: Router = Router::new().route_service("/api/calls", live.calls()).layer(live.layer());
    /// # Ok::<(), tower_live_updates::ConfigError>(())
    /// ```
    #[must_use]
    pub fn calls(&self) -> LiveUpdatesEndpoint {
        LiveUpdatesEndpoint { endpoint: self.shared.endpoint.clone(), is_for_calls: true }
    }

    /// Publishes a change to every subscribed page, for what happens outside HTTP. Neither waits for a socket nor needs a
    /// runtime.
    ///
    /// ```
    /// use serde_json::json;
    /// use tower_live_updates::{Change, Entity, LiveUpdates};
    ///
    /// let live = LiveUpdates::builder("/api/v1")
    ///     .allow_anonymous()
    ///     .entity(Entity::scheduler("/events"))
    ///     .build()?;
    /// live.publish("events", Change::update(&json!({"id": 7, "text": "Moved by the import"}))?)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`PublishError`] if the entity is not configured, the object would break pages or is too large, or a scope is missing
    /// or cannot be used.
    #[allow(clippy::needless_pass_by_value, reason = "a change is published once")]
    pub fn publish(&self, entity: &str, change: Change) -> Result<(), PublishError> {
        self.publish_many(entity, [change])
    }

    /// Publishes several changes in order, with no other change between them. If one is refused, none is published.
    ///
    /// Exception: other changes may come before a large one (16 KiB or more, with what the log knows of its object).
    /// This happens if an earlier one of `changes` is of the same object, or if other writers keep changing that
    /// object.
    ///
    /// ```
    /// use tower_live_updates::{Change, Entity, LiveUpdates};
    ///
    /// let live = LiveUpdates::builder("/api/v1")
    ///     .allow_anonymous()
    ///     .entity(Entity::scheduler("/events"))
    ///     .build()?;
    /// live.publish_many("events", [Change::delete(18)?, Change::delete(19)?, Change::delete(17)?])?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub fn publish_many(&self, entity: &str, changes: impl IntoIterator<Item = Change>) -> Result<(), PublishError> {
        let index = self.index(entity)?;
        let changes: Vec<Change> = changes.into_iter().collect();
        self.shared.publisher.diagnosis.publishes();
        let _write = self.shared.publisher.hub.write_begins(index);
        self.shared.publisher.publish(index, &changes, Default::default())
    }

    /// Sends a message to an entity's handlers on the page, which receive `value` unchanged. A message is sent once and
    /// in order. The size of a message is not limited; each takes room in the log.
    ///
    /// ```
    /// use serde_json::json;
    /// use tower_live_updates::{Entity, LiveUpdates};
    ///
    /// let live = LiveUpdates::builder("/api/v1")
    ///     .allow_anonymous()
    ///     .entity(Entity::scheduler("/events"))
    ///     .entity(Entity::new("calendars"))
    ///     .build()?;
    /// live.send("events", &json!({"type": "custom-action", "event": {"id": 7}}))?;
    /// live.send("calendars", &json!({"type": "custom-action", "value": "archived"}))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`PublishError`] if the entity is not configured or is scoped, or the value cannot be serialised.
    pub fn send(&self, entity: &str, value: &(impl Serialize + ?Sized)) -> Result<(), PublishError> {
        self.send_in(entity, Scopes::None, value)
    }

    /// As [`send`](Self::send), to identities with one of these scopes, for a [scoped](crate::Entity::scoped) entity.
    ///
    /// ```
    /// use serde_json::json;
    /// use tower_live_updates::{Entity, LiveUpdates};
    ///
    /// let live = LiveUpdates::builder("/api/v1")
    ///     .allow_anonymous()
    ///     .entity(Entity::scheduler("/events").scoped())
    ///     .build()?;
    /// live.send_to("events", ["team-a"], &json!({"type": "custom-action", "event": {"id": 7}}))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`send`](Self::send); also [`PublishError::NoScope`] without any scope, and [`PublishError::NotScoped`] if the
    /// entity is not scoped.
    pub fn send_to<N: Into<Box<str>>>(
        &self,
        entity: &str,
        scopes: impl IntoIterator<Item = N>,
        value: &(impl Serialize + ?Sized),
    ) -> Result<(), PublishError> {
        self.send_in(entity, scopes.into_iter().collect(), value)
    }

    /// As [`send`](Self::send), to one open page alone. [`sessions`](Self::sessions) lists the sessions of the open pages.
    ///
    /// A page that is away for a moment receives the message when it comes back, as it does with `send`. If the page does not
    /// come back, nobody receives the message, and the result is `Ok` all the same. A [scoped](crate::Entity::scoped) entity
    /// needs no scope here, and an [`authorize`](crate::Entity::authorize) hook decides who may subscribe, as ever.
    ///
    /// ```
    /// use serde_json::json;
    /// use tower_live_updates::{Entity, LiveUpdates};
    ///
    /// let live = LiveUpdates::builder("/api/v1")
    ///     .allow_anonymous()
    ///     .entity(Entity::new("exports"))
    ///     .build()?;
    /// for session in live.sessions(|identity| identity.principal() == "alice") {
    ///     live.send_to_session(&session, "exports", &json!({"type": "export-ready", "url": "/exports/7"}))?;
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`PublishError`] if the entity is not configured, or the value cannot be serialised.
    pub fn send_to_session(
        &self,
        session: &Session,
        entity: &str,
        value: &(impl Serialize + ?Sized),
    ) -> Result<(), PublishError> {
        self.send_to_addressee(&Addressee::Session(session.clone()), entity, value)
    }

    /// As [`send_to_session`](Self::send_to_session), to every open page of one
    /// [principal](crate::Identity::principal).
    ///
    /// ```
    /// use serde_json::json;
    /// use tower_live_updates::{Entity, LiveUpdates};
    ///
    /// let live = LiveUpdates::builder("/api/v1")
    ///     .allow_anonymous()
    ///     .entity(Entity::new("notices"))
    ///     .build()?;
    /// live.send_to_principal("alice", "notices", &json!({"type": "mention", "event": 7}))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`send_to_session`](Self::send_to_session).
    pub fn send_to_principal(
        &self,
        principal: &str,
        entity: &str,
        value: &(impl Serialize + ?Sized),
    ) -> Result<(), PublishError> {
        self.send_to_addressee(&Addressee::Principal(principal.into()), entity, value)
    }

    fn send_to_addressee(
        &self,
        addressee: &Addressee,
        entity: &str,
        value: &(impl Serialize + ?Sized),
    ) -> Result<(), PublishError> {
        let index = self.index(entity)?;
        let value = serde_json::to_string(value).map_err(PublishError::Serialize)?;
        self.shared.publisher.diagnosis.publishes();
        self.shared.publisher.send_to(index, addressee, &value);
        Ok(())
    }

    fn send_in(&self, entity: &str, scopes: Scopes, value: &(impl Serialize + ?Sized)) -> Result<(), PublishError> {
        let index = self.index(entity)?;
        let value = serde_json::to_string(value).map_err(PublishError::Serialize)?;
        self.shared.publisher.diagnosis.publishes();
        self.shared.publisher.send(index, scopes, &value)
    }

    /// Brings every page of an entity to the store's state: after an import, a restore, or any change too large to publish.
    /// With a [snapshot hook](crate::Entity::snapshot) pages are sent every row. Without one they are asked to load their
    /// list again, which their own handler must do (see
    /// [delivery](crate::guide::delivery#pages-that-were-away-for-too-long)).
    ///
    /// Call it after the change is committed. Earlier records are not replayed any more. Writes in flight at that moment may
    /// be older or newer than the change, so the refresh is repeated after their responses.
    ///
    /// ```
    /// use tower_live_updates::{Entity, LiveUpdates};
    ///
    /// let live = LiveUpdates::builder("/api/v1")
    ///     .allow_anonymous()
    ///     .entity(Entity::scheduler("/events"))
    ///     .build()?;
    /// live.refresh("events")?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`PublishError::UnknownEntity`] if the entity is not configured.
    pub fn refresh(&self, entity: &str) -> Result<(), PublishError> {
        let index = self.index(entity)?;
        self.shared.publisher.hub.refresh(index);
        Ok(())
    }

    /// The counters of this moment.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let (connections, subscriptions) = self.shared.connections.count();
        let hub = &self.shared.publisher.hub;
        let (log_records, log_bytes) = crate::lock::lock(&hub.core.log).size();
        Stats {
            connections: connections as u64,
            subscriptions: subscriptions as u64,
            log_records: log_records as u64,
            log_bytes: log_bytes as u64,
            log_restored: hub.restored() as u64,
            sessions: hub.core.sessions.len() as u64,
            detached_writes: self.shared.watcher.detached_now() as u64,
            replays: hub.core.counters.replays.get(),
            repeats: hub.core.counters.repeats.get(),
            snapshots: hub.core.counters.snapshots.get(),
            unrecovered_gaps: hub.core.counters.gaps.get(),
            ..self.shared.publisher.observer.counted()
        }
    }

    /// Closes the sockets of the identities that `chosen` selects, with 1008, and returns how many. Their pages reconnect
    /// after two seconds and are authenticated again, so withdraw access first.
    ///
    /// When it returns, nothing more is sent to them: frames that wait for a slow reader are dropped. A page that was
    /// authenticated just before, and whose socket is not open yet, is authenticated again as soon as it is open. HTTP calls
    /// and handshakes that have started are answered.
    ///
    /// ```
    /// # use tower_live_updates::{Entity, LiveUpdates};
    /// # let live = LiveUpdates::builder("/api/v1").allow_anonymous().build()?;
    /// let closed = live.disconnect(|identity| identity.principal() == "alice");
    /// # Ok::<(), tower_live_updates::ConfigError>(())
    /// ```
    pub fn disconnect(&self, chosen: impl Fn(&Identity) -> bool) -> usize {
        self.shared.connections.disconnect(chosen)
    }

    /// The sessions of the open pages whose identities `chosen` selects. A page that is away for the moment, to reconnect, is
    /// not among them.
    ///
    /// ```
    /// # use tower_live_updates::{Entity, LiveUpdates};
    /// # let live = LiveUpdates::builder("/api/v1").allow_anonymous().build()?;
    /// let tabs_of_alice = live.sessions(|identity| identity.principal() == "alice");
    /// assert!(tabs_of_alice.is_empty());
    /// # Ok::<(), tower_live_updates::ConfigError>(())
    /// ```
    #[must_use]
    pub fn sessions(&self, chosen: impl Fn(&Identity) -> bool) -> Vec<Session> {
        self.shared.connections.sessions(chosen)
    }

    /// Closes every socket (1001) and waits for writes that run without their clients, for at most the builder's
    /// [`drain_timeout`](crate::LiveUpdatesBuilder::drain_timeout), 5 s by default.
    ///
    /// With a [log file](crate::LiveUpdatesBuilder::log_file), pages are pinged a last time and have up to a second to
    /// acknowledge what they have received. Then the file is written.
    ///
    /// Meanwhile HTTP goes on and handshakes are answered; new sockets are refused with 503. A second call waits for the same
    /// end. Servers do not track upgraded connections, so without this call the sockets are cut without a close frame.
    ///
    /// ```
    /// # use tower_live_updates::{Entity, LiveUpdates};
    /// # async fn run() -> Result<(), tower_live_updates::ConfigError> {
    /// # let live = LiveUpdates::builder("/api/v1").allow_anonymous().build()?;
    /// live.shutdown().await;
    /// assert_eq!(live.stats().connections, 0);
    /// # Ok(())
    /// # }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run()).unwrap();
    /// ```
    pub async fn shutdown(&self) {
        self.shared.connections.shutdown().await;
        self.shared.publisher.hub.close().await;
    }

    /// Waits for SIGINT or SIGTERM (Ctrl-C on other systems than Unix), then calls [`shutdown`](Self::shutdown).
    ///
    /// For `axum::serve(…).with_graceful_shutdown(live.shutdown_on_signals())`: the future owns its handle. If the signal
    /// handlers cannot be installed, it never resolves, and a line is logged.
    pub fn shutdown_on_signals(&self) -> impl Future<Output = ()> + Send + 'static {
        let live = self.clone();
        async move {
            if let Err(error) = signal().await {
                live.shared.publisher.observer.warn(format_args!(
                    "the signal handlers cannot be installed, so shutdown_on_signals never resolves: {error}"
                ));
                std::future::pending::<()>().await;
            }
            live.shutdown().await;
        }
    }

    fn index(&self, entity: &str) -> Result<EntityIndex, PublishError> {
        let found = self.shared.publisher.find(entity);
        found.ok_or_else(|| PublishError::UnknownEntity(entity.to_owned()))
    }
}

impl fmt::Debug for LiveUpdates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveUpdates").field("endpoint", &self.shared.endpoint).finish_non_exhaustive()
    }
}

impl<S> LiveUpdatesService<S> {
    /// `inner` with live updates; the same as `live.layer().layer(inner)`.
    pub fn new(inner: S, live: &LiveUpdates) -> Self {
        live.layer().layer(inner)
    }
}
