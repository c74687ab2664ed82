//! Setters: who may connect, from which pages, and for how long.

use std::{future::Future, sync::Arc, time::Duration};

use http::HeaderName;
use tokio::sync::Semaphore;

use super::config::{HasAuth, LiveUpdatesBuilder, within_a_year};
#[cfg(feature = "sealed-keys")]
use crate::endpoint::key::Seal;
use crate::{
    auth::{AuthBackend, AuthError, AuthRequest, Authenticate, Identity, TokenList},
    error::ConfigError,
};

impl LiveUpdatesBuilder {
    /// Authenticates pages with an async closure.
    ///
    /// The closure gets a clone of `state` and the request; it must not capture anything itself. See [`Authenticate`]
    /// for when the closure is called, and [`AuthError`] for what its errors do.
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
    /// With `sealed_keys`, which is recommended, a page sends its token once, in the handshake, and a sealed key from then
    /// on. So the closure must also accept [`Credentials::Principal`](crate::Credentials::Principal), and decide whether
    /// this user may still connect:
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
        self.with(Ok(AuthBackend::Application(Arc::new(move |request| Box::pin(hook(state.clone(), request))))))
    }

    /// Authenticates pages with a type of the application. [`Authenticate`] has an example.
    pub fn authenticate(self, authenticator: impl Authenticate) -> LiveUpdatesBuilder<HasAuth> {
        self.authenticate_fn(Arc::new(authenticator), async |shared: Arc<_>, request| {
            shared.authenticate(request).await
        })
    }

    /// Accepts pages that send one of these tokens. The principal of the first token is `token-1`, and so on. Tokens are
    /// compared in constant time; their lengths are not secret.
    ///
    /// Tokens of letters, digits and `-_.~` pass through every client and proxy unchanged. The builder refuses an empty
    /// list and empty tokens.
    ///
    /// With `sealed_keys`, a sealed key of `token-1` is good while the list has a first token, even if that token has
    /// changed. So change the secrets as well when you remove a token from the list.
    pub fn tokens<T: Into<String>>(self, tokens: impl IntoIterator<Item = T>) -> LiveUpdatesBuilder<HasAuth> {
        let tokens: Vec<String> = tokens.into_iter().map(Into::into).collect();
        self.with(checked(tokens).map(|tokens| AuthBackend::List(TokenList::new(tokens))))
    }

    /// Accepts every page, whatever its token. Pages of other hosts still need [`allow_origin`](Self::allow_origin).
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
        self.with(Ok(AuthBackend::Anyone(Identity::new("anonymous"))))
    }

    fn with(self, backend: Result<AuthBackend, ConfigError>) -> LiveUpdatesBuilder<HasAuth> {
        LiveUpdatesBuilder { config: self.config, auth: HasAuth(backend) }
    }
}

impl<A> LiveUpdatesBuilder<A> {
    /// Allows pages of another origin to use the endpoint: `scheme://host` or `scheme://host:port`.
    ///
    /// - Case, one trailing slash and the scheme's default port make no difference (`https://app.example:443/`).
    /// - [`build`](LiveUpdatesBuilder::build) refuses `*`, `null` and an origin with a path. Use
    ///   [`allow_origin_if`](Self::allow_origin_if) to allow many origins.
    /// - Pages of the server's own host (the `Host` header) need no entry, whatever their scheme.
    /// - A cross-origin page also needs a CORS layer outside this one.
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
        self.config.origins.listed.push(origin.into());
        self
    }

    /// Allows pages whose origin this predicate accepts. The predicate gets the origin in lower case. A panic is counted
    /// in [`Stats::hooks_failed`](crate::Stats::hooks_failed) and refuses the page. A second call replaces the predicate.
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
        self.config.origins.predicate = Some(Arc::new(predicate));
        self
    }

    /// Gives pages sealed keys, which are signed and name the page's principal, instead of keys that hold its token.
    /// Recommended. Default: off.
    ///
    /// The stock client puts its key into the address of its socket, at every reconnect, as long as the page is open. With
    /// sealed keys
    ///
    /// - tokens are sent only in a header of the handshake. They do not appear in addresses, so the logs of proxies and
    ///   [outer layers](crate::LiveUpdatesLayer#what-outer-layers-log) do not hold them;
    /// - a token may be short-lived, as JWTs are: it must be valid at the handshake, and the sealed key stays valid after it;
    /// - a user who loses access also loses open sockets: the authenticator is called again for each socket every
    ///   [`revalidation_interval`](Self::revalidation_interval).
    ///
    /// The authenticator must accept [`Credentials::Principal`](crate::Credentials::Principal); see
    /// [`authenticate_fn`](LiveUpdatesBuilder::authenticate_fn). [`tokens`](LiveUpdatesBuilder::tokens) and
    /// [`allow_anonymous`](LiveUpdatesBuilder::allow_anonymous) do.
    ///
    /// The first secret signs, and all of them verify. To change secrets, add the new one at the front, and remove the old
    /// one a [`sealed_key_lifetime`](Self::sealed_key_lifetime) later. To revoke all keys, remove it at once. Sealed keys are
    /// stored nowhere: they survive a restart, and other nodes with the same secrets and path accept them. Each secret needs
    /// at least 32 bytes, as random as those of `openssl rand -base64 32`, and must not be shared with other applications.
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
    /// - A key is signed and not encrypted. Its holder can read the principal, and may connect until the key expires or the
    ///   authenticator refuses.
    /// - Tokens, and plain keys that were issued before, are still accepted.
    /// - A page whose handshake arrives while the authenticator is [unavailable](AuthError::Unavailable) gets a plain key,
    ///   since the page makes no second handshake.
    /// - With [`Delivery::Plain`](crate::Delivery::Plain) there are no keys: pages send their token, and `sealed_keys` has no
    ///   effect.
    #[cfg(feature = "sealed-keys")]
    #[cfg_attr(docsrs, doc(cfg(feature = "sealed-keys")))]
    pub fn sealed_keys<T: AsRef<[u8]>>(mut self, secrets: impl IntoIterator<Item = T>) -> Self {
        self.config.seal = Some(Seal::new(secrets));
        self
    }

    /// How long a sealed key is valid after the page's handshake. Default: 12 h; at most a year. Then the page receives
    /// [`AuthError::Expired`] and must be reloaded.
    #[cfg(feature = "sealed-keys")]
    #[cfg_attr(docsrs, doc(cfg(feature = "sealed-keys")))]
    pub fn sealed_key_lifetime(mut self, time: Duration) -> Self {
        self.config.endpoint.sealed_key_lifetime = within_a_year(time);
        self
    }

    /// How often the authenticator is called again for each open socket. Default: 5 min; at most a year. The first call
    /// comes after a random part of the interval, at least half of it.
    ///
    /// The authenticator gets the request that opened the socket, with its [token or principal](crate::Credentials).
    ///
    /// - [`AuthError::Denied`], [`AuthError::Expired`] and an identity of another principal close the socket at once.
    /// - Another identity of the same principal replaces the old [`Identity`].
    /// - After [`AuthError::Unavailable`], a panic or a timeout the socket stays open, and the authenticator is called again
    ///   after the same interval.
    ///
    /// [`revalidation_headers`](Self::revalidation_headers) describes which parts of the request are kept.
    ///
    /// [`tokens`](LiveUpdatesBuilder::tokens) and [`allow_anonymous`](LiveUpdatesBuilder::allow_anonymous) always give the
    /// same answer and are not called again. [`Identity::with_expiry`] closes a socket without a call, and
    /// [`LiveUpdates::disconnect`](crate::LiveUpdates::disconnect) closes it at once.
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
        self.config.connection.revalidation_interval = within_a_year(time);
        self
    }

    /// Headers that the authenticator needs at [revalidation](Self::revalidation_interval). Default: `Cookie` and
    /// `Authorization`. A second call replaces the names.
    ///
    /// A server keeps thousands of sockets open, so only these parts of each request are kept:
    ///
    /// - the [credentials](AuthRequest::credentials) and the page's own [query](AuthRequest::query). Both are in the socket's
    ///   address, which may have 16 KiB after its path;
    /// - the [extensions](Self::revalidation_extension) in use;
    /// - the headers of these names, at most 4 KiB of names and values together. A header that does not fit is left out as a
    ///   whole, with a line in the log.
    ///
    /// With [`tokens`](LiveUpdatesBuilder::tokens) and [`allow_anonymous`](LiveUpdatesBuilder::allow_anonymous) nothing is
    /// kept.
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
        self.config.endpoint.revalidation.headers(names);
        self
    }

    /// An extension that the authenticator needs at [revalidation](Self::revalidation_interval). Each call adds a type;
    /// extensions of other types are then dropped.
    ///
    /// Default: all extensions of a request are kept if the authenticator called [`AuthRequest::extensions`] when the
    /// socket was opened, and none if it did not. The size of what outer layers and servers put there is not bounded: one
    /// extension of axum's own keeps the whole buffer that the request was read into, 8 KiB or all of its headers. So name
    /// the types you need.
    ///
    /// ```
    /// use tower_live_updates::{AuthError, AuthRequest, Entity, Identity, LiveUpdates};
    ///
    /// /// An outer layer has identified the user.
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
        self.config.endpoint.revalidation.extension::<T>();
        self
    }

    /// How many calls of the authenticator and of [`authorize`](crate::Entity::authorize) hooks run at one time. Default:
    /// 128. Others wait, for at most [`authentication_queue_timeout`](Self::authentication_queue_timeout).
    ///
    /// Handshakes, sockets, HTTP calls and revalidation share this limit. `authorize` hooks get three quarters of it at
    /// most, so that pages can connect while others subscribe. After a restart every page reconnects at once, and this
    /// limit bounds the load on your user database. [`tokens`](LiveUpdatesBuilder::tokens) and
    /// [`allow_anonymous`](LiveUpdatesBuilder::allow_anonymous) are not limited, since they take no time.
    pub fn max_concurrent_authentications(mut self, authentications: usize) -> Self {
        self.config.gate.concurrent = authentications.min(Semaphore::MAX_PERMITS);
        self
    }

    /// How long a request waits for an authentication slot
    /// ([`max_concurrent_authentications`](Self::max_concurrent_authentications)). Default: 10 s; at most a year; zero
    /// does not wait. After that time the request is counted in
    /// [`Stats::authentication_queue_timeouts`](crate::Stats::authentication_queue_timeouts), and
    ///
    /// - the result is [`AuthError::Unavailable`]: handshakes are accepted and checked again with their sockets, sockets are
    ///   refused with 503 after a delay, and open sockets stay open;
    /// - an [`authorize`](crate::Entity::authorize) hook counts as failed, and is called again later.
    ///
    /// [`hook_timeout`](Self::hook_timeout) starts after the wait.
    pub fn authentication_queue_timeout(mut self, time: Duration) -> Self {
        self.config.gate.queue_timeout = within_a_year(time);
        self
    }
}

/// Refuses tokens that pages cannot send: a header's value has no white space at its ends, and browsers send no letters
/// beyond Latin-1 in one.
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
