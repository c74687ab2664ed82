//! Who decides (a fixed answer, a token list, or the application), and the gate that runs the `authenticate` and `authorize`
//! hooks, with a bound on how many run at one time and for how long. A failure never grants access.

use std::{
    future::Future,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use http::request::Parts;
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};

use super::{
    identity::{AuthError, Identity},
    request::{AuthRequest, Credentials, OwnedCredentials},
};
use crate::{
    hook::{BoxFuture, guarded},
    observe::Observer,
};

/// Decides who may connect. For types that hold their own state; a closure goes to
/// [`authenticate_fn`](crate::LiveUpdatesBuilder::authenticate_fn).
///
/// It is called
///
/// - at each handshake, at each (re)connect of a socket, and at each call over HTTP;
/// - again for each open socket, every five minutes
///   ([`revalidation_interval`](crate::LiveUpdatesBuilder::revalidation_interval)), with
///   [the parts that are kept](crate::LiveUpdatesBuilder::revalidation_headers) of the request that opened the socket.
///
/// No lock is held during a call, and at most
/// [`max_concurrent_authentications`](crate::LiveUpdatesBuilder::max_concurrent_authentications) calls run at one time. A
/// panic, or a call longer than [`hook_timeout`](crate::LiveUpdatesBuilder::hook_timeout), counts as
/// [`AuthError::Unavailable`].
///
/// With `LiveUpdatesBuilder::sealed_keys` it must also accept
/// [`Credentials::Principal`](crate::Credentials::Principal): every call after the handshake names the principal. An
/// authenticator that knows only tokens refuses sealed keys, and so every socket;
/// [`authenticate_fn`](crate::LiveUpdatesBuilder::authenticate_fn) has an example.
///
/// ```
/// use tower_live_updates::{AuthError, Authenticate, AuthRequest, Entity, Identity, LiveUpdates};
///
/// struct OneUser { token: String }
///
/// impl Authenticate for OneUser {
///     async fn authenticate(&self, request: AuthRequest) -> Result<Identity, AuthError> {
///         (request.token() == self.token).then(|| Identity::new("me")).ok_or(AuthError::Denied)
///     }
/// }
///
/// let live = LiveUpdates::builder("/api/v1")
///     .authenticate(OneUser { token: "secret".into() })
///     .entity(Entity::scheduler("/events"))
///     .build()?;
/// # Ok::<(), tower_live_updates::ConfigError>(())
/// ```
pub trait Authenticate: Send + Sync + 'static {
    /// The identity of the page that sent this request.
    ///
    /// # Errors
    /// [`AuthError`] gives the reason why the page may not connect.
    fn authenticate(&self, request: AuthRequest) -> impl Future<Output = Result<Identity, AuthError>> + Send;
}

/// Any authenticator, its type erased.
type Authenticator = Arc<dyn Fn(AuthRequest) -> BoxFuture<Result<Identity, AuthError>> + Send + Sync>;

pub(crate) enum AuthBackend {
    /// Every page is accepted, as one identity.
    Anyone(Identity),
    List(TokenList),
    /// The application, which may take its time and change its answer.
    Application(Authenticator),
}

/// A fixed list of tokens, each with its principal. Every comparison runs to the end, whatever the others found.
pub(crate) struct TokenList(Vec<(String, Arc<str>)>);

impl TokenList {
    pub(crate) fn new(tokens: Vec<String>) -> Self {
        Self(tokens.into_iter().zip(1_u64..).map(|(token, place)| (token, format!("token-{place}").into())).collect())
    }

    pub(crate) fn verify(&self, credentials: Credentials<'_>) -> Result<Identity, AuthError> {
        let found = match credentials {
            Credentials::Token(token) => find(&self.0, token),
            Credentials::Principal(principal) => self.0.iter().map(|(_, name)| name).find(|name| ***name == *principal),
        };
        found.cloned().map(Identity::new).ok_or(AuthError::Denied)
    }
}

fn find<'n>(named: &'n [(String, Arc<str>)], token: &str) -> Option<&'n Arc<str>> {
    let mut is_found = Choice::from(0);
    let mut index = 0_u64;
    for ((candidate, _), place) in named.iter().zip(0_u64..) {
        let is_same = candidate.as_bytes().ct_eq(token.as_bytes());
        index.conditional_assign(&place, is_same);
        is_found |= is_same;
    }
    let index = bool::from(is_found).then(|| usize::try_from(index).ok())??;
    named.get(index).map(|(_, name)| name)
}

/// Bounds of the calls of an application's hooks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GateLimits {
    /// How many hooks run at one time.
    pub(crate) concurrent: usize,
    /// How long a call waits for its slot.
    pub(crate) queue_timeout: Duration,
}

/// Every handshake, socket, call and subscription passes this gate, and every open socket again at its revalidation.
pub(crate) struct AuthGate {
    backend: AuthBackend,
    limits: GateLimits,
    hook_timeout: Duration,
    permits: Semaphore,
    /// How many of the permits `authorize` hooks may take. The rest is for pages that connect.
    for_authorize: Semaphore,
    observer: Arc<Observer>,
}

impl AuthGate {
    pub(crate) fn new(
        backend: AuthBackend,
        limits: GateLimits,
        hook_timeout: Duration,
        observer: Arc<Observer>,
    ) -> Self {
        let for_authorize = (limits.concurrent - limits.concurrent / 4).max(1);
        Self {
            backend,
            permits: Semaphore::new(limits.concurrent),
            for_authorize: Semaphore::new(for_authorize),
            limits,
            hook_timeout,
            observer,
        }
    }

    /// False where the same credentials always get the same answer.
    pub(crate) fn may_change(&self) -> bool {
        matches!(self.backend, AuthBackend::Application(_))
    }

    /// Authenticates a request by these credentials. Also returns whether the authenticator has read the request's
    /// extensions.
    pub(crate) async fn authenticate(
        &self,
        credentials: &OwnedCredentials,
        parts: &Parts,
    ) -> (Result<Identity, AuthError>, bool) {
        match &self.backend {
            AuthBackend::Anyone(identity) => (Ok(identity.clone()), false),
            AuthBackend::List(list) => (list.verify(credentials.borrowed()), false),
            AuthBackend::Application(authenticator) => {
                let request = AuthRequest::new(credentials.clone(), parts);
                let extensions_read = request.reads_extensions.clone();
                // Boxed, since requests that a list decides must not carry this future's size.
                let verdict = Box::pin(self.call(authenticator, request)).await;
                (verdict, extensions_read.load(Ordering::Relaxed))
            }
        }
    }

    /// Authenticates an open socket again.
    pub(crate) async fn revalidate(&self, request: AuthRequest) -> Result<Identity, AuthError> {
        match &self.backend {
            AuthBackend::Anyone(identity) => Ok(identity.clone()),
            AuthBackend::List(list) => list.verify(request.credentials()),
            AuthBackend::Application(authenticator) => self.call(authenticator, request).await,
        }
    }

    async fn call(&self, authenticator: &Authenticator, request: AuthRequest) -> Result<Identity, AuthError> {
        let Ok(Ok(_permit)) = timeout(self.limits.queue_timeout, self.permits.acquire()).await else {
            self.observer.authentication_queue_timeouts.up();
            self.observer.warn(format_args!(
                "as many hooks run as max_concurrent_authentications allows, for longer than authentication_queue_timeout; \
                 authentication counts as unavailable, and pages retry"
            ));
            return Err(AuthError::Unavailable);
        };
        match guarded(self.hook_timeout, || authenticator(request)).await {
            Ok(Ok(identity)) if identity.is_expired() => Err(AuthError::Expired),
            Ok(verdict) => verdict,
            Err(failure) => {
                self.observer.hooks_failed.up();
                self.observer
                    .warn(format_args!("the authenticator failed: {failure}; authentication counts as unavailable"));
                Err(AuthError::Unavailable)
            }
        }
    }

    /// Calls an `authorize` hook; `None` if it failed, or had to wait for too long.
    pub(crate) async fn authorize<Fut, E>(&self, hook: impl FnOnce() -> Fut) -> Option<bool>
    where
        Fut: Future<Output = Result<bool, E>>,
    {
        let Ok(Some(_permits)) = timeout(self.limits.queue_timeout, self.authorize_permits()).await else {
            self.observer.authentication_queue_timeouts.up();
            self.observer.warn(format_args!(
                "as many hooks run as max_concurrent_authentications allows, for longer than authentication_queue_timeout; an \
                 authorize hook that waits counts as failed"
            ));
            return None;
        };
        guarded(self.hook_timeout, hook).await.ok()?.ok()
    }

    async fn authorize_permits(&self) -> Option<[SemaphorePermit<'_>; 2]> {
        let of_authorize = self.for_authorize.acquire().await.ok()?;
        Some([of_authorize, self.permits.acquire().await.ok()?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(list: &TokenList, credentials: Credentials<'_>) -> Result<String, AuthError> {
        list.verify(credentials).map(|identity| identity.principal().to_owned())
    }

    #[test]
    fn the_list_knows_its_tokens_and_nothing_else() {
        let list = TokenList::new(vec!["demo".into(), "a+b/c==".into()]);
        let named = |token: &str| named(&list, Credentials::Token(token));
        assert_eq!(named("demo").unwrap(), "token-1");
        assert_eq!(named("a+b/c==").unwrap(), "token-2");
        for wrong in ["", "dem", "demox", "Demo", "a b/c==", "token-1"] {
            assert_eq!(named(wrong).unwrap_err(), AuthError::Denied, "{wrong}");
        }
    }

    #[test]
    fn the_list_knows_the_principals_of_its_tokens_and_nothing_else() {
        let list = TokenList::new(vec!["demo".into(), "a+b/c==".into()]);
        let named = |principal: &str| named(&list, Credentials::Principal(principal));
        for right in ["token-1", "token-2"] {
            assert_eq!(named(right).unwrap(), right);
        }
        for wrong in ["", "demo", "token-0", "token-3", "token-01", "token-+1", "anonymous"] {
            assert_eq!(named(wrong).unwrap_err(), AuthError::Denied, "{wrong}");
        }
    }
}
