//! Configuration, checked once.

use std::{fmt, future::Future, path::PathBuf, sync::Arc, time::Duration};

use http::HeaderName;
use tokio::sync::Semaphore;

use crate::{
    auth::{AuthError, AuthRequest, Authenticate, Authenticator, Decider, Identity, TokenList},
    connection::{ConnectionLimits, Connections, Rate},
    diagnosis::Diagnosis,
    endpoint::{Endpoint, EndpointLimits, key::Seal, origin::Origins},
    entity::Entity,
    epoch::Epoch,
    error::ConfigError,
    gate::{Gate, GateLimits},
    handle::LiveUpdates,
    hub::{
        Delivery, DeliveryTimes, EntityEncoder, Hub, LogLimits, MAX_REMINDERS, Pace, ReminderTimes, SessionLimits,
        SettleTimes, View,
    },
    log_file::LogFile,
    observe::Observer,
    path_check::{covers, endpoint_fault},
    publish::Publisher,
    revalidation::RevalidationKeeps,
    shutdown::Lifecycle,
    watch::{
        route::Routes,
        watcher::{WatchLimits, Watcher},
    },
};

const HOUR: Duration = Duration::from_secs(3600);
/// What an object may have besides a request's body: its id, for one.
const BESIDES_BODY: usize = 4 * 1024;
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// Pings and pongs that every page may send, whatever its messages: browsers send no other than pongs.
const CONTROL_FRAMES: Rate = Rate { burst: 40, per_second: 10 };

/// As many as messages, and the answers to pings that are sent so often.
fn control_frames(messages: Rate, pings: [Duration; 2]) -> Rate {
    let answers = pings.map(|every| every.as_secs_f64().recip().ceil() as u32);
    let per_second = messages.per_second.max(CONTROL_FRAMES.per_second);
    Rate {
        burst: messages.burst.max(CONTROL_FRAMES.burst),
        per_second: answers.into_iter().fold(per_second, u32::saturating_add),
    }
}

/// Longer times come to the same, and some clocks cannot be added to for ever.
fn within_a_year(time: Duration) -> Duration {
    time.min(YEAR)
}

/// Tokens that pages can send: a header's value has no white space at its ends, and browsers send no letters beyond
/// Latin-1 in one.
fn checked(tokens: Vec<String>) -> Result<Vec<String>, ConfigError> {
    if tokens.is_empty() || tokens.iter().any(String::is_empty) {
        return Err(ConfigError::Token);
    }
    for (token, place) in tokens.iter().zip(1..) {
        let reason = if token.trim() != token || token.contains(char::is_control) {
            "has white space at its ends or holds a control character (the line break of a file?), which no page can send; \
             trim it"
        } else if token.chars().any(|letter| u32::from(letter) > 0xff) {
            "holds a letter beyond Latin-1, which no browser sends in a header; make it of letters, digits, '-' and '_'"
        } else {
            continue;
        };
        return Err(ConfigError::UnsendableToken { place, reason });
    }
    Ok(tokens)
}

/// A larger log file is not one of a log within these limits.
fn most_file_bytes(log: &LogLimits, sessions: &SessionLimits) -> u64 {
    const BESIDES: u64 = 16 * 1024 * 1024;
    const OF_SESSION: u64 = 1024;
    let of_log = u64::try_from(log.bytes).unwrap_or(u64::MAX).saturating_mul(4);
    let of_sessions = u64::try_from(sessions.sessions).unwrap_or(u64::MAX).saturating_mul(OF_SESSION);
    of_log.saturating_add(of_sessions).saturating_add(BESIDES)
}

/// A [`LiveUpdatesBuilder`] that does not know yet who may connect.
#[derive(Debug)]
pub struct WantsAuth(());

/// A [`LiveUpdatesBuilder`] that knows who may connect, and can be finished.
pub struct HasAuth(Result<Decider, ConfigError>);

impl fmt::Debug for HasAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HasAuth")
    }
}

/// Configures a [`LiveUpdates`]; begun by [`LiveUpdates::builder`].
///
/// `build()` exists once [`authenticate`](LiveUpdatesBuilder::authenticate), [`authenticator`](LiveUpdatesBuilder::authenticate),
/// [`tokens`](LiveUpdatesBuilder::tokens) or [`allow_anonymous`](LiveUpdatesBuilder::allow_anonymous) has said who may connect:
///
/// ```compile_fail
/// use tower_live_updates::{Entity, LiveUpdates};
///
/// let live = LiveUpdates::builder("/api/v1").entity(Entity::scheduler("/events")).build();
/// ```
///
/// ```
/// use tower_live_updates::{Entity, LiveUpdates};
///
/// let live = LiveUpdates::builder("/api/v1")
///     .tokens(["a-long-random-token"])
///     .entity(Entity::scheduler("/events"))
///     .build()?;
/// # Ok::<(), tower_live_updates::ConfigError>(())
/// ```
///
/// Every limit has a default that suits most; to change some:
///
/// ```
/// use std::time::Duration;
/// use tower_live_updates::{Entity, LiveUpdates};
///
/// let live = LiveUpdates::builder("/api/v1")
///     .tokens(["a-long-random-token"])
///     .entity(Entity::scheduler("/events"))
///     .max_body_bytes(2 * 1024 * 1024)
///     .max_connections(5_000)
///     .max_log_records(10_000)
///     .drain_timeout(Duration::from_secs(2))
///     .build()?;
/// # Ok::<(), tower_live_updates::ConfigError>(())
/// ```
#[derive(Debug)]
#[must_use = "a builder does nothing until it is built"]
pub struct LiveUpdatesBuilder<A = WantsAuth> {
    path: String,
    auth: A,
    entities: Vec<Entity>,
    origins: Origins,
    watch: WatchLimits,
    refusal_delay: Duration,
    delayed_refusals: usize,
    seal: Option<Result<Seal, ConfigError>>,
    sealed_key_lifetime: Duration,
    authentications: usize,
    authentication_queue_timeout: Duration,
    connection: ConnectionLimits,
    delivery: Delivery,
    times: DeliveryTimes,
    reminders: Option<Vec<Duration>>,
    log: LogLimits,
    log_file: Option<PathBuf>,
    sessions: SessionLimits,
    drain: Duration,
    audit: bool,
    revalidation: RevalidationKeeps,
}

impl LiveUpdates {
    /// Begins to configure live updates whose endpoint is at `path`: the first argument of the page's
    /// `new RemoteEvents("/api/v1", token)`.
    pub fn builder(path: impl Into<String>) -> LiveUpdatesBuilder {
        LiveUpdatesBuilder::new(path.into())
    }
}

impl LiveUpdatesBuilder {
    fn new(path: String) -> Self {
        Self {
            path,
            auth: WantsAuth(()),
            entities: Vec::new(),
            origins: Origins::default(),
            watch: WatchLimits {
                body_bytes: 1024 * 1024,
                response_time: Duration::from_secs(5),
                write_lock: Duration::from_secs(5),
                hook: Duration::from_secs(5),
                detached: 1024,
            },
            refusal_delay: Duration::from_secs(20),
            delayed_refusals: 1024,
            seal: None,
            sealed_key_lifetime: 12 * HOUR,
            authentications: 128,
            authentication_queue_timeout: Duration::from_secs(10),
            connection: ConnectionLimits {
                connections: 50_000,
                of_principal: None,
                subscriptions: 32,
                messages: Rate { burst: 1000, per_second: 100 },
                control_frames: CONTROL_FRAMES,
                revalidation_interval: Duration::from_secs(5 * 60),
                ping_interval: Duration::from_secs(25),
                pong_timeout: Duration::from_secs(75),
                write_timeout: Duration::from_secs(10),
                message_bytes: 4 * 1024,
            },
            delivery: Delivery::default(),
            times: DeliveryTimes {
                settle: SettleTimes {
                    quiet: Duration::from_secs(2),
                    overlap: Duration::from_secs(4),
                    longest: Duration::from_secs(30),
                },
                second_replay_delay: Duration::from_secs(5),
                replay_overlap: Duration::from_secs(5),
                first_load: Duration::from_secs(60),
                acknowledge_every: Duration::from_secs(15),
                reminders: ReminderTimes::doubling(Duration::from_secs(30), 5),
                pace: Pace::DEFAULT,
            },
            reminders: None,
            log: LogLimits {
                records: 50_000,
                bytes: 32 * 1024 * 1024,
                age: HOUR,
                tombstones: 100_000,
                tombstone_age: 24 * HOUR,
                object_bytes: 0,
            },
            log_file: None,
            sessions: SessionLimits { sessions: 100_000, age: HOUR },
            drain: Duration::from_secs(5),
            audit: false,
            revalidation: RevalidationKeeps::default(),
        }
    }

    /// Lets in whom an async closure lets in.
    ///
    /// The closure gets a clone of `state` and the request; it must not capture anything itself. See [`Authenticate`]
    /// for when it is asked, and [`AuthError`] for what its errors do.
    ///
    /// ```
    /// use std::{collections::HashMap, sync::Arc};
    /// use tower_live_updates::{AuthError, AuthRequest, Entity, Identity, LiveUpdates};
    ///
    /// let users = Arc::new(HashMap::from([("alices-token".to_owned(), "alice")]));
    /// let live = LiveUpdates::builder("/api/v1")
    ///     .authenticate_fn(users, async |users: Arc<HashMap<String, &str>>, request: AuthRequest| {
    ///         users.get(request.token()).map(|&name| Identity::new(name)).ok_or(AuthError::Denied)
    ///     })
    ///     .entity(Entity::scheduler("/events"))
    ///     .build()?;
    /// # Ok::<(), tower_live_updates::ConfigError>(())
    /// ```
    ///
    /// With `sessions`, which is recommended, pages come with their token once and by a session after that. So the
    /// closure is asked about [`Credentials::Principal`](crate::Credentials::Principal) too, and says whether this user is
    /// still welcome:
    ///
    /// ```
    /// use std::{collections::HashMap, sync::Arc};
    /// use tower_live_updates::{AuthError, AuthRequest, Credentials, Entity, Identity, LiveUpdates};
    ///
    /// # let secret = "read-from-the-environment-0123456789";
    /// let users = Arc::new(HashMap::from([("alices-token".to_owned(), "alice")]));
    /// let builder = LiveUpdates::builder("/api/v1")
    ///     .authenticate_fn(users, async |users: Arc<HashMap<String, &str>>, request: AuthRequest| {
    ///         let user = match request.credentials() {
    ///             Credentials::Token(token) => users.get(token),
    ///             Credentials::Principal(principal) => users.values().find(|name| **name == principal),
    ///             _ => None,
    ///         };
    ///         user.map(|&name| Identity::new(name)).ok_or(AuthError::Denied)
    ///     })
    ///     .entity(Entity::scheduler("/events"));
    /// # #[cfg(feature = "sealed-keys")]
    /// let builder = builder.sealed_keys([secret]);
    /// let live = builder.build()?;
    /// # Ok::<(), tower_live_updates::ConfigError>(())
    /// ```
    pub fn authenticate_fn<S, F, Fut>(self, state: S, hook: F) -> LiveUpdatesBuilder<HasAuth>
    where
        S: Clone + Send + Sync + 'static,
        F: Fn(S, AuthRequest) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Identity, AuthError>> + Send + 'static,
    {
        self.ready(Ok(Decider::Application(Arc::new(move |request| Box::pin(hook(state.clone(), request))))))
    }

    /// Lets in whom an [`Authenticate`] lets in; an example stands there.
    pub fn authenticate(self, authenticator: impl Authenticate) -> LiveUpdatesBuilder<HasAuth> {
        let shared = Arc::new(authenticator);
        let ask: Authenticator = Arc::new(move |request| {
            let shared = shared.clone();
            Box::pin(async move { shared.authenticate(request).await })
        });
        self.ready(Ok(Decider::Application(ask)))
    }

    /// Lets in whoever has one of these tokens, compared in constant time (their lengths are no secret). The principal
    /// of the first is `token-1`.
    ///
    /// Tokens of letters, digits and `-_.~` pass through every client and proxy unchanged. The builder refuses an empty
    /// list and empty tokens.
    ///
    /// With `sessions`, a session of `token-1` is good while the list has a first token, even another one than it was:
    /// change the secrets as well when you take a token off the list.
    pub fn tokens<T: Into<String>>(self, tokens: impl IntoIterator<Item = T>) -> LiveUpdatesBuilder<HasAuth> {
        let tokens: Vec<String> = tokens.into_iter().map(Into::into).collect();
        self.ready(checked(tokens).map(|tokens| Decider::List(TokenList::new(tokens))))
    }

    /// Lets everybody in, whatever their token. Pages of other hosts still need [`allow_origin`](Self::allow_origin).
    ///
    /// ```
    /// use tower_live_updates::{Entity, LiveUpdates};
    ///
    /// let live = LiveUpdates::builder("/api/v1")
    ///     .allow_anonymous()
    ///     .entity(Entity::scheduler("/events"))
    ///     .build()?;
    /// # Ok::<(), tower_live_updates::ConfigError>(())
    /// ```
    pub fn allow_anonymous(self) -> LiveUpdatesBuilder<HasAuth> {
        self.ready(Ok(Decider::anyone()))
    }

    fn ready(self, decider: Result<Decider, ConfigError>) -> LiveUpdatesBuilder<HasAuth> {
        LiveUpdatesBuilder {
            path: self.path,
            auth: HasAuth(decider),
            entities: self.entities,
            origins: self.origins,
            watch: self.watch,
            refusal_delay: self.refusal_delay,
            delayed_refusals: self.delayed_refusals,
            seal: self.seal,
            sealed_key_lifetime: self.sealed_key_lifetime,
            authentications: self.authentications,
            authentication_queue_timeout: self.authentication_queue_timeout,
            connection: self.connection,
            delivery: self.delivery,
            times: self.times,
            reminders: self.reminders,
            log: self.log,
            log_file: self.log_file,
            sessions: self.sessions,
            drain: self.drain,
            audit: self.audit,
            revalidation: self.revalidation,
        }
    }
}

impl<A> LiveUpdatesBuilder<A> {
    /// Adds an entity that pages can subscribe to; see [`Entity`].
    pub fn entity(mut self, entity: Entity) -> Self {
        self.entities.push(entity);
        self
    }

    /// Lets pages of another origin talk to the endpoint: `scheme://host` or `scheme://host:port`. Case, one trailing slash
    /// and the scheme's usual port make no difference (`https://app.example:443/`). A `*`, a path and `null` are refused by
    /// [`build`](Self::build): many origins are allowed by [`allow_origin_if`](Self::allow_origin_if). Pages of the
    /// server's own host (the `Host` header) need no entry, whatever their scheme. A cross-origin page needs a CORS layer
    /// outside this one, too.
    ///
    /// ```
    /// use tower_live_updates::{Entity, LiveUpdates};
    ///
    /// let origins = |origin| {
    ///     LiveUpdates::builder("/api/v1").allow_anonymous().allow_origin(origin).entity(Entity::scheduler("/events")).build()
    /// };
    /// assert!(origins("https://app.example:443").is_ok());
    /// assert!(origins("https://*.app.example").unwrap_err().to_string().contains("allow_origin_if"));
    /// ```
    pub fn allow_origin(mut self, origin: impl Into<String>) -> Self {
        self.origins.allow(origin.into());
        self
    }

    /// Lets pages talk to the endpoint whose origin, in lower case, this predicate accepts. A panic in it is counted and
    /// means no. A second call replaces the first one's predicate.
    ///
    /// ```
    /// use tower_live_updates::{Entity, LiveUpdates};
    ///
    /// let live = LiveUpdates::builder("/api/v1")
    ///     .allow_anonymous()
    ///     .allow_origin("https://app.example.com")
    ///     .allow_origin_if(|origin| origin.ends_with(".preview.example.com"))
    ///     .entity(Entity::scheduler("/events"))
    ///     .build()?;
    /// # Ok::<(), tower_live_updates::ConfigError>(())
    /// ```
    pub fn allow_origin_if(mut self, predicate: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        self.origins.allow_if(Arc::new(predicate));
        self
    }

    /// Largest request body listened to, and largest response body read ahead, each. Default: 1 MiB. A larger one
    /// passes untouched, and the change is told from the other one.
    ///
    /// An object is bounded too: what has more than this and 4 KiB as JSON is not broadcast, with a line in the log, and
    /// what an update is put together with from earlier changes is left out beyond that.
    pub fn max_body_bytes(mut self, bytes: usize) -> Self {
        self.watch.body_bytes = bytes;
        self
    }

    /// How long a response may take to arrive whole before it passes on as it comes. Default: 5 s.
    pub fn response_timeout(mut self, time: Duration) -> Self {
        self.watch.response_time = time;
        self
    }

    /// How long a write waits for an earlier write of the same object. Default: 5 s; then it goes on, and is counted. Writes
    /// whose bodies have arrived go before those without a body, and deletions without a body do not wait for each other.
    pub fn write_lock_timeout(mut self, time: Duration) -> Self {
        self.watch.write_lock = time;
        self
    }

    /// How long one run of an application's hook may take. Default: 5 s; longer counts as a failure.
    pub fn hook_timeout(mut self, time: Duration) -> Self {
        self.watch.hook = time;
        self
    }

    /// How many writes at one time are run to their end although their client has gone or an outer timeout fired.
    /// Default: 1 024; more are given up with their clients, and counted. 0 switches finishing off. One whose handler waits
    /// for the rest of its request's body is given up after 5 s of waiting.
    pub fn max_detached_writes(mut self, writes: usize) -> Self {
        self.watch.detached = writes.min(Semaphore::MAX_PERMITS);
        self
    }

    /// Gives pages sealed keys: signed sessions of their principal instead of their token. Recommended; by default keys
    /// hold the token itself.
    ///
    /// The stock client puts its key into the address of its socket, at every reconnect, as long as the page is open.
    /// With sealed keys
    ///
    /// - tokens are sent in a header, in the handshake, and stay out of addresses and so out of the logs of proxies and
    ///   [outer layers](crate::LiveUpdatesLayer#what-outer-layers-log);
    /// - a token may be short-lived, as JWTs are: it must be good at the handshake, and the session goes on without it;
    /// - a user who is not welcome any more loses open sockets too: every
    ///   [`revalidation_interval`](Self::revalidation_interval) the authenticator is asked about each of them again.
    ///
    /// For that the authenticator must answer [`Credentials::Principal`](crate::Credentials::Principal); see
    /// [`authenticate`](LiveUpdatesBuilder::authenticate). [`tokens`](LiveUpdatesBuilder::tokens) and
    /// [`allow_anonymous`](LiveUpdatesBuilder::allow_anonymous) do.
    ///
    /// The first secret signs, and all of them verify. To change secrets, put the new one in front and take the old
    /// one off the list a [`sealed_key_lifetime`](Self::sealed_key_lifetime) later; to end all sessions, take it off at once.
    /// Sessions are stored nowhere: they survive a restart, and other nodes know them, where secrets and path are the
    /// same. Each secret needs 32 bytes at least, as random as those of `openssl rand -base64 32`, and none is to be
    /// shared with other applications.
    ///
    /// ```
    /// use tower_live_updates::{Entity, LiveUpdates};
    ///
    /// // Both read from the environment.
    /// # let (new_secret, old_secret) = ("new-0123456789-0123456789-0123456", "old-0123456789-0123456789-0123456");
    /// let live = LiveUpdates::builder("/api/v1")
    ///     .tokens(["a-long-random-token"])
    ///     .sealed_keys([new_secret, old_secret])
    ///     .entity(Entity::scheduler("/events"))
    ///     .build()?;
    /// # Ok::<(), tower_live_updates::ConfigError>(())
    /// ```
    ///
    /// A key is signed and not encrypted: whoever has it can read the principal, and may connect until it expires or
    /// the authenticator says no. What else lets pages in still does: tokens, and plain keys that were given out before. A
    /// page whose handshake comes while the authenticator is [unavailable](AuthError::Unavailable) gets a plain key,
    /// since it makes no second one. With [`Delivery::Plain`] there are no keys: pages name their token, and sessions
    /// have no effect.
    #[cfg(feature = "sealed-keys")]
    #[cfg_attr(docsrs, doc(cfg(feature = "sealed-keys")))]
    pub fn sealed_keys<T: AsRef<[u8]>>(mut self, secrets: impl IntoIterator<Item = T>) -> Self {
        self.seal = Some(Seal::new(secrets));
        self
    }

    /// How long a session lasts after the page's handshake. Default: 12 h; a year at most. Then the socket hears
    /// [`AuthError::Expired`], and the page has to be loaded again.
    #[cfg(feature = "sealed-keys")]
    #[cfg_attr(docsrs, doc(cfg(feature = "sealed-keys")))]
    pub fn sealed_key_lifetime(mut self, time: Duration) -> Self {
        self.sealed_key_lifetime = within_a_year(time);
        self
    }

    /// How often the authenticator is asked whether an open socket may stay so. Default: 5 min, the first time after a
    /// random part of it, half at least; a year at most.
    ///
    /// It gets the request that opened the socket, with the token or the
    /// [session](crate::Credentials::Principal) in it. [`AuthError::Denied`] and [`AuthError::Expired`] close the socket
    /// at once, and so does an identity of another principal; else the new [`Identity`] takes the place of the old one.
    /// After [`AuthError::Unavailable`], a panic or a timeout the socket stays open and is asked about again after the
    /// same time. What is kept of the request for that stands at [`revalidation_headers`](Self::revalidation_headers).
    ///
    /// [`tokens`](LiveUpdatesBuilder::tokens) and [`allow_anonymous`](LiveUpdatesBuilder::allow_anonymous) would only say the same again and
    /// are not asked. [`Identity::with_expiry`] ends a socket without anybody being asked, and
    /// [`LiveUpdates::disconnect`] ends one at once.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_live_updates::{AuthError, AuthRequest, Entity, Identity, LiveUpdates};
    ///
    /// let live = LiveUpdates::builder("/api/v1")
    ///     .authenticate_fn((), async |(), request: AuthRequest| match request.token() {
    ///         "alices-token" => Ok(Identity::new("alice")),
    ///         _ => Err(AuthError::Denied),
    ///     })
    ///     .entity(Entity::scheduler("/events"))
    ///     .revalidation_interval(Duration::from_secs(60))
    ///     .build()?;
    /// # Ok::<(), tower_live_updates::ConfigError>(())
    /// ```
    pub fn revalidation_interval(mut self, time: Duration) -> Self {
        self.connection.revalidation_interval = within_a_year(time);
        self
    }

    /// Headers that the authenticator needs when it is [asked again](Self::revalidation_interval) about an open socket. Default:
    /// `Cookie` and `Authorization`. A second call replaces the first one's names.
    ///
    /// A server keeps thousands of sockets open, and so it keeps of each request only what it asks with later: the
    /// [credentials](AuthRequest::credentials), the page's own [query](AuthRequest::query), the
    /// [extensions](Self::revalidation_extension) that are used, and the headers of these names, names and values 4 KiB
    /// at most together. A header that does not fit is left out as a whole, with a line in the log. Credentials and query
    /// stand in the socket's address, which may have 16 KiB after its path. With [`tokens`](LiveUpdatesBuilder::tokens) and
    /// [`allow_anonymous`](LiveUpdatesBuilder::allow_anonymous) nothing is kept.
    ///
    /// ```
    /// use http::{HeaderName, header};
    /// use tower_live_updates::{AuthError, AuthRequest, Entity, Identity, LiveUpdates};
    ///
    /// let live = LiveUpdates::builder("/api/v1")
    ///     .authenticate_fn((), async |(), request: AuthRequest| match request.headers().get("x-user") {
    ///         Some(user) => Ok(Identity::new(String::from_utf8_lossy(user.as_bytes()))),
    ///         None => Err(AuthError::Denied),
    ///     })
    ///     .revalidation_headers([header::COOKIE, HeaderName::from_static("x-user")])
    ///     .entity(Entity::scheduler("/events"))
    ///     .build()?;
    /// # Ok::<(), tower_live_updates::ConfigError>(())
    /// ```
    pub fn revalidation_headers(mut self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        self.revalidation.headers(names);
        self
    }

    /// An extension that the authenticator needs when it is [asked again](Self::revalidation_interval) about an open socket.
    /// Each call adds a type; those of other types are not kept then.
    ///
    /// By default all extensions of a request are kept if the authenticator called
    /// [`AuthRequest::extensions`] when the socket was opened, and none if it did not. What outer layers and servers put
    /// there is not bounded: one extension of axum's own keeps the whole buffer that the request was read into, 8 KiB or
    /// as much as all its headers. So name what you need.
    ///
    /// ```
    /// use tower_live_updates::{AuthError, AuthRequest, Entity, Identity, LiveUpdates};
    ///
    /// /// A layer outside has found out who it is.
    /// #[derive(Clone)]
    /// struct User(String);
    ///
    /// let live = LiveUpdates::builder("/api/v1")
    ///     .authenticate_fn((), async |(), request: AuthRequest| match request.extensions().get::<User>() {
    ///         Some(User(name)) => Ok(Identity::new(name.as_str())),
    ///         None => Err(AuthError::Denied),
    ///     })
    ///     .revalidation_extension::<User>()
    ///     .entity(Entity::scheduler("/events"))
    ///     .build()?;
    /// # Ok::<(), tower_live_updates::ConfigError>(())
    /// ```
    pub fn revalidation_extension<T: Clone + Send + Sync + 'static>(mut self) -> Self {
        self.revalidation.extension::<T>();
        self
    }

    /// Runs of the authenticator at one time: for handshakes, sockets, calls and open sockets together; with those of the
    /// [`authorize`](Entity::authorize) hooks, which get three quarters of them at most, so that pages can come in while
    /// others subscribe. Default: 128; others wait, for [`authentication_queue_timeout`](Self::authentication_queue_timeout). After a restart
    /// every page comes at once, and this is all of it that your user database feels. [`tokens`](LiveUpdatesBuilder::tokens) and
    /// [`allow_anonymous`](LiveUpdatesBuilder::allow_anonymous) are not bounded, since they take no time.
    pub fn max_concurrent_authentications(mut self, authentications: usize) -> Self {
        self.authentications = authentications.min(Semaphore::MAX_PERMITS);
        self
    }

    /// How long it is waited for one of the
    /// [`max_concurrent_authentications`](Self::max_concurrent_authentications) to end. Default: 10 s, a year at most;
    /// zero waits for none. After that it is as if the authenticator had said [`AuthError::Unavailable`]: handshakes
    /// are let in and asked about with their sockets, sockets are refused with 503 after a delay, and open ones stay. An
    /// [`authorize`](Entity::authorize) hook that has waited so long counts as failed, and is asked again.
    /// [`hook_timeout`](Self::hook_timeout) counts only after the wait.
    pub fn authentication_queue_timeout(mut self, time: Duration) -> Self {
        self.authentication_queue_timeout = within_a_year(time);
        self
    }

    /// Sockets open at one time. Default: 50 000; one more is refused with 503 after a random delay, which spreads
    /// clients that retry every two seconds.
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.connection.connections = connections.min(Semaphore::MAX_PERMITS);
        self
    }

    /// Sockets of one [principal](Identity::principal) open at one time. By default there is no such limit; one more is
    /// refused as [`max_connections`](Self::max_connections) says. Every tab of a user is a socket, and one that has
    /// lost its network may take the [`pong_timeout`](Self::pong_timeout) to give its place back, so allow for more than
    /// you expect. With [`allow_anonymous`](LiveUpdatesBuilder::allow_anonymous) everybody is one principal.
    pub fn max_connections_per_principal(mut self, connections: usize) -> Self {
        self.connection.of_principal = Some(connections);
        self
    }

    /// Entities a page may hear at one time on its socket, `$resync` among them. Default: 32; one more is ignored,
    /// counted and logged.
    pub fn max_subscriptions(mut self, subscriptions: usize) -> Self {
        self.connection.subscriptions = subscriptions;
        self
    }

    /// How many messages a page may send on its socket: `burst` at once, and `per_second` on the whole. Default: 1000 and
    /// 100. A page that sends faster is read no faster than that, and TCP has it wait. One that has had more to send for
    /// 30 s without a pause is closed with 1008 `Too many messages`, and counted.
    ///
    /// Each fragment of a message counts as one, even an empty one. A page sends one message for each entity it
    /// subscribes, all of them at once, so `burst` must not be less than that. Pings and pongs have a bucket of their own:
    /// 40 at once and 10 per second, or as many as messages where that is more, and what the server's own pings are
    /// answered with. What comes byte by byte may take as many reads as messages of
    /// [`max_message_bytes`](Self::max_message_bytes) take.
    pub fn max_message_rate(mut self, burst: u32, per_second: u32) -> Self {
        self.connection.messages = Rate { burst, per_second };
        self
    }

    /// Refused sockets kept waiting at one time. Default: 1 024; beyond that, refusing is immediate (403 or 503).
    pub fn max_delayed_refusals(mut self, refusals: usize) -> Self {
        self.delayed_refusals = refusals.min(Semaphore::MAX_PERMITS);
        self
    }

    /// Longest delay of a refusal for a passing reason (too many sockets, authentication unavailable). Default: 20 s;
    /// each one waits a random part of it.
    pub fn refusal_delay(mut self, time: Duration) -> Self {
        self.refusal_delay = time;
        self
    }

    /// How often a socket is pinged. Default: 25 s; proxies cut sockets that are idle for 60 s. A year at most.
    pub fn ping_interval(mut self, time: Duration) -> Self {
        self.connection.ping_interval = within_a_year(time);
        self
    }

    /// How long nothing, not even a pong, may be heard of a socket before its next ping closes it instead. Default:
    /// 75 s; it must be longer than the ping interval. A busy or frozen tab stops answering although it is healthy, so
    /// shorter is not better.
    pub fn pong_timeout(mut self, time: Duration) -> Self {
        self.connection.pong_timeout = time;
        self
    }

    /// How long a write to a socket may stand still before the socket is closed with 1013. Default: 10 s; a year at most.
    /// A socket that is behind the log is closed at once where more than 256 kB of what the log has dropped wait for it.
    pub fn write_timeout(mut self, time: Duration) -> Self {
        self.connection.write_timeout = within_a_year(time);
        self
    }

    /// Largest message read from a page. Default: 4 KiB; a larger one closes the socket with 1009.
    pub fn max_message_bytes(mut self, bytes: usize) -> Self {
        self.connection.message_bytes = bytes;
        self
    }

    /// What pages are promised. Default: [`Delivery::Converging`]; an example stands at [`Delivery`].
    pub fn delivery(mut self, delivery: Delivery) -> Self {
        self.delivery = delivery;
        self
    }

    /// How long an entity's writes must have been quiet before what they changed is told once more. Default: 2 s.
    ///
    /// The stock client drops what others say of an object while it saves that object itself. So after writes that
    /// came close together ([`settle_overlap`](Self::settle_overlap)) each object they touched is told again in its
    /// newest state: as an update, and as an add before it where some page may lack the object. Without a quiet moment
    /// that happens every [`settle_max_wait`](Self::settle_max_wait).
    pub fn settle_quiet(mut self, time: Duration) -> Self {
        self.times.settle.quiet = within_a_year(time);
        self
    }

    /// How far apart writes must be for nothing to be told again. Default: 4 s, and never shorter than
    /// [`settle_quiet`](Self::settle_quiet). It stands for the time a save may be
    /// on its way from a page, and its answer back.
    pub fn settle_overlap(mut self, time: Duration) -> Self {
        self.times.settle.overlap = within_a_year(time);
        self
    }

    /// How often things are told again while writes never go quiet. Default: 30 s. When they are ten to twenty times as
    /// old they are told a last time. So the log should hold that much; with a shorter one, pages that come back before
    /// a quiet moment are brought to the store's state, as after a long absence.
    pub fn settle_max_wait(mut self, time: Duration) -> Self {
        self.times.settle.longest = within_a_year(time);
        self
    }

    /// How far back a page that is loaded hears what happened before its handshake. Default: 60 s. Its list may be
    /// that old by then; pages that create their `RemoteEvents` long after they were loaded need more.
    pub fn first_load_margin(mut self, time: Duration) -> Self {
        self.times.first_load = within_a_year(time);
        self
    }

    /// After which time a page that was loaded, or that came back, is told once more what it may have missed. Default:
    /// 5 s. A list that arrives later than the first telling undoes it.
    pub fn second_replay_delay(mut self, time: Duration) -> Self {
        self.times.second_replay_delay = within_a_year(time);
        self
    }

    /// How far before what it acknowledged a page that comes back hears what it may have missed. Default: 5 s; it
    /// covers proxies that answer pings themselves.
    pub fn replay_overlap(mut self, time: Duration) -> Self {
        self.times.replay_overlap = within_a_year(time);
        self
    }

    /// How often a ping rides along with what is told, at most. Default: 15 s. Its pong acknowledges everything before
    /// it.
    pub fn acknowledge_interval(mut self, time: Duration) -> Self {
        self.times.acknowledge_every = within_a_year(time);
        self
    }

    /// When deletions are resent, each time so long after the time before. Default: after 30 s, then 1, 2, 4 and 8
    /// minutes; 8 at most, none switches it off. A deletion that was resent besides, because writes overlapped, is spared
    /// the second and the fourth.
    ///
    /// The Scheduler cannot apply a deletion while the event's form is open; a form that stays open for longer than all
    /// of them together leaves the event on its page until that is loaded again. So it is with objects that leave a
    /// page's sight, of 512 of a page at one time. One page is reminded of 1 MiB of deletions at one time; beyond that
    /// the oldest are left out.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_live_updates::{Entity, LiveUpdates};
    ///
    /// let live = LiveUpdates::builder("/api/v1")
    ///     .allow_anonymous()
    ///     .entity(Entity::scheduler("/events"))
    ///     .deletion_reminders([30, 60, 300].map(Duration::from_secs))
    ///     .build()?;
    /// # Ok::<(), tower_live_updates::ConfigError>(())
    /// ```
    pub fn deletion_reminders(mut self, waits: impl IntoIterator<Item = Duration>) -> Self {
        self.reminders = Some(waits.into_iter().map(within_a_year).collect());
        self
    }

    /// Tombstones the log keeps beyond its records at most: ids of deleted objects. Default: 100 000.
    pub fn max_tombstones(mut self, ids: usize) -> Self {
        self.log.tombstones = ids;
        self
    }

    /// How long the log keeps a tombstone at most. Default: one day.
    pub fn tombstone_retention(mut self, time: Duration) -> Self {
        self.log.tombstone_age = time;
        self
    }

    /// Sessions remembered. Default: 100 000; beyond that, those gone for longest are forgotten first, and a page
    /// without one hears everything since its handshake again when it comes back.
    pub fn max_sessions(mut self, sessions: usize) -> Self {
        self.sessions.sessions = sessions;
        self
    }

    /// How long a session is remembered after its page has gone. Default: one hour.
    pub fn session_retention(mut self, age: Duration) -> Self {
        self.sessions.age = age;
        self
    }

    /// Records the log keeps at most. Default: 50 000. A reader that falls behind the log is closed with 1013.
    pub fn max_log_records(mut self, records: usize) -> Self {
        self.log.records = records;
        self
    }

    /// Bytes the log keeps at most, what each record costs included. Default: 32 MiB. What is free of it holds what
    /// pages that come back are told, so that it is made once for all of them; records never go for that.
    pub fn max_log_bytes(mut self, bytes: usize) -> Self {
        self.log.bytes = bytes;
        self
    }

    /// How long the log keeps a record at most. Default: one hour.
    pub fn log_retention(mut self, age: Duration) -> Self {
        self.log.age = age;
        self
    }

    /// Keeps the log across a restart: [`shutdown`](LiveUpdates::shutdown) writes it to this file, and the next process
    /// reads it in [`build`](Self::build). So pages that come back after a deploy receive only what they missed, and not
    /// everything. Default: none, and each process begins with an empty log.
    ///
    /// The file holds the log with its tombstones, where each page stands, and the secrets that mask positions in keys: the
    /// application's data. It can be read and written by its owner only (mode 0600 on Unix). It is about as large as the log
    /// ([`max_log_bytes`](Self::max_log_bytes)) and its tombstones; one of more than four times that, 1 KiB for each session, and
    /// 16 MiB is not read. It is replaced in one step: a temporary file beside it is renamed, so the folder must exist and
    /// be writable.
    ///
    /// - **One process uses a file at a time**, and ends it with `shutdown` or
    ///   [`shutdown_on_signals`](LiveUpdates::shutdown_on_signals). In a container, the file belongs on a volume that
    ///   outlives it.
    /// - While a process runs, the file holds a claim instead of a log. So a process that dies leaves no log, and the next
    ///   begins with an empty one: pages are brought up to date by a snapshot, as without a file.
    /// - Where deploys overlap, the newer process finds a claim and begins with an empty log; the older one writes nothing,
    ///   and a line in the log (WARN) says so. To keep the history, stop the old process before the new one starts.
    /// - A write that begins when the file is written already, since HTTP goes on during `shutdown`, takes the log out of
    ///   the file first. When the last such write has ended, the log is written again, on the runtime's blocking threads:
    ///   let the runtime end, and do not call `std::process::exit`.
    /// - A file that is damaged, of another release of this crate, or no log file is not used: a line in the log (WARN)
    ///   names path, reason and remedy. An entity that is new, or configured differently, begins with an empty log.
    /// - The store must outlive the process, too. Where it is restored from a backup, remove the file, or call [`refresh`](LiveUpdates::refresh).
    ///
    /// ```no_run
    /// use tower_live_updates::{Entity, LiveUpdates};
    ///
    /// let live = LiveUpdates::builder("/api/v1")
    ///     .tokens(["a-long-random-token"])
    ///     .entity(Entity::scheduler("/events"))
    ///     .log_file("/var/lib/calendar/live-updates.log")
    ///     .build()?;
    /// # Ok::<(), tower_live_updates::ConfigError>(())
    /// ```
    pub fn log_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.log_file = Some(path.into());
        self
    }

    /// How long [`shutdown`](LiveUpdates::shutdown) takes at most. Default: 5 s; a year at most. Up to 32 sockets are told at once; more
    /// are spread over half of it.
    pub fn drain_timeout(mut self, time: Duration) -> Self {
        self.drain = within_a_year(time);
        self
    }

    /// Writes down who was told of what, at the `tracing` target `tower_live_updates::audit` and level INFO: a line for
    /// each change, and a line for each recipient of each change. Off by default, because 500 pages make 501 lines of one
    /// write. The lines are described at [Audit](LiveUpdates#audit). Without the feature `tracing` it has no effect.
    ///
    /// ```
    /// use tower_live_updates::{Entity, LiveUpdates};
    ///
    /// let live = LiveUpdates::builder("/api/v1")
    ///     .tokens(["a-long-random-token"])
    ///     .entity(Entity::scheduler("/events"))
    ///     .audit()
    ///     .build()?;
    /// # Ok::<(), tower_live_updates::ConfigError>(())
    /// ```
    pub fn audit(mut self) -> Self {
        self.audit = true;
        self
    }
}

impl LiveUpdatesBuilder<HasAuth> {
    /// Checks everything. Needs no runtime: tasks start with the first socket.
    ///
    /// # Errors
    /// [`ConfigError`] names the first value that cannot work.
    pub fn build(self) -> Result<LiveUpdates, ConfigError> {
        let path = self.path;
        if endpoint_fault(&path).is_some() {
            return Err(ConfigError::EndpointPath(path));
        }
        let decider = self.auth.0?;
        let seal = self.seal.transpose()?;
        let zero = [
            ("max_connections", self.connection.connections == 0),
            ("max_connections_per_principal", self.connection.of_principal == Some(0)),
            ("max_subscriptions", self.connection.subscriptions == 0),
            ("max_message_rate", self.connection.messages.burst == 0 || self.connection.messages.per_second == 0),
            ("max_concurrent_authentications", self.authentications == 0),
            ("max_message_bytes", self.connection.message_bytes == 0),
            ("max_body_bytes", self.watch.body_bytes == 0),
            ("ping_interval", self.connection.ping_interval.is_zero()),
            ("pong_timeout", self.connection.pong_timeout.is_zero()),
            ("write_timeout", self.connection.write_timeout.is_zero()),
            ("hook_timeout", self.watch.hook.is_zero()),
            ("sealed_key_lifetime", self.sealed_key_lifetime.is_zero()),
            ("revalidation_interval", self.connection.revalidation_interval.is_zero()),
            ("max_log_records", self.log.records == 0),
            ("max_log_bytes", self.log.bytes == 0),
            ("log_retention", self.log.age.is_zero()),
            ("deletion_reminders", self.reminders.iter().flatten().any(Duration::is_zero)),
            ("settle_max_wait", self.times.settle.longest.is_zero()),
        ];
        if let Some((what, _)) = zero.into_iter().find(|(_, is_zero)| *is_zero) {
            return Err(ConfigError::Zero(what));
        }
        let mut times = self.times;
        if let Some(waits) = &self.reminders {
            times.reminders = ReminderTimes::new(waits)
                .ok_or(ConfigError::TooManyReminders { given: waits.len(), most: MAX_REMINDERS })?;
        }
        let settle = times.settle;
        if settle.overlap < settle.quiet {
            return Err(ConfigError::SettleOverlap { settle_overlap: settle.overlap, settle_quiet: settle.quiet });
        }
        let (ping, pong) = (self.connection.ping_interval, self.connection.pong_timeout);
        if pong <= ping {
            return Err(ConfigError::PongTimeout { pong_timeout: pong, ping_interval: ping });
        }
        if self.entities.len() > usize::from(u16::MAX) {
            return Err(ConfigError::TooManyEntities(self.entities.len()));
        }
        for (at, entity) in self.entities.iter().enumerate() {
            entity.validate()?;
            if self.entities[..at].iter().any(|earlier| earlier.name == entity.name) {
                return Err(ConfigError::DuplicateEntity(entity.name.clone()));
            }
        }
        if self.log_file.is_some() && self.delivery == Delivery::Plain {
            return Err(ConfigError::LogFileWithPlain);
        }
        let log = LogLimits { object_bytes: self.watch.body_bytes.saturating_add(BESIDES_BODY), ..self.log };
        let origins = self.origins.validated()?;
        let routes = Routes::new(&self.entities)?;
        for entity in &self.entities {
            if let Some(route) = entity.paths().find(|route| covers(route, &path)) {
                let (entity, route) = (entity.name.clone(), route.to_owned());
                return Err(ConfigError::EndpointConflict { endpoint: path, entity, route });
            }
        }

        let encoders = self.entities.iter().map(|entity| EntityEncoder {
            widget: entity.widget,
            parent_key: entity.parent_key.clone(),
            has_snapshot: entity.snapshot.is_some(),
            is_scoped: entity.scoping.is_some(),
            scoped_ids: entity.scoping.as_ref().is_some_and(|scoping| scoping.scoped_ids),
            view: View::of(entity.visible.as_ref(), entity.project.as_ref()),
            ..EntityEncoder::new(&entity.name, &entity.payload_key)
        });
        let mut hub = Hub::new(self.delivery, encoders.collect(), log, times, self.sessions);
        hub.audit = self.audit;
        let bare = if path == "/" { String::new() } else { path.trim_end_matches('/').to_owned() };
        let observer = Arc::new(Observer::default());
        let epoch = match self.log_file {
            None => Epoch::new(),
            Some(path) => {
                let most = most_file_bytes(&log, &self.sessions);
                let (file, found) =
                    LogFile::open(&path, most).map_err(|source| ConfigError::LogFile { path, source })?;
                hub.keep_in(file, found, observer.clone())
            }
        };
        let publisher = Publisher {
            hub: Arc::new(hub),
            diagnosis: Arc::new(Diagnosis::new(&bare, &self.entities, observer.clone())),
            entities: self.entities.into(),
            observer,
        };
        let lifecycle = Arc::new(Lifecycle::new(self.drain));
        let gate_limits = GateLimits {
            hook: self.watch.hook,
            at_once: self.authentications,
            queue: self.authentication_queue_timeout,
        };
        let gate = Gate::new(decider, gate_limits, publisher.observer.clone());
        let control_frames = control_frames(self.connection.messages, [ping, self.times.acknowledge_every]);
        let connection = ConnectionLimits { control_frames, ..self.connection };
        let connections =
            Arc::new(Connections::new(publisher.clone(), connection, self.watch.hook, gate, lifecycle.clone()));
        let limits = EndpointLimits {
            delayed_refusals: self.delayed_refusals,
            refusal_delay: self.refusal_delay,
            session: self.sealed_key_lifetime,
            revalidation: self.revalidation,
        };
        let endpoint = Endpoint::new(bare, origins, seal, limits, connections.clone(), epoch);
        let watcher = Watcher::new(publisher.clone(), routes, self.watch, lifecycle);
        Ok(LiveUpdates::new(publisher, watcher, endpoint, connections))
    }
}
