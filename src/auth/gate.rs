//! Runs the `authenticate` and `authorize` hooks, with a bound on how many run at one time and for how long. A failure
//! never grants access.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use http::request::Parts;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};

use super::{
    backend::{AuthBackend, Authenticator},
    identity::{AuthError, Identity},
    request::{AuthRequest, OwnedCredentials},
};
use crate::{hook::guarded, observe::Observer};

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
                let extensions_read = request.extensions_read();
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

impl fmt::Debug for AuthGate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthGate").field("limits", &self.limits).finish_non_exhaustive()
    }
}
