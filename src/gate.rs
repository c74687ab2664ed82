//! Runs the hooks that say who may connect and who may subscribe: so many at one time, each for so long. Nobody is let in
//! by a failure.

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

use crate::{
    auth::{AuthError, AuthRequest, Authenticator, Decider, Identity, OwnedCredentials},
    hook::guarded,
    observe::Observer,
};

/// Bounds of asking an application's hooks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GateLimits {
    /// How many hooks run at one time.
    pub(crate) concurrent: usize,
    /// How long a call waits for its slot.
    pub(crate) queue_timeout: Duration,
}

/// What everybody passes: at a handshake, with a socket, with calls, with a subscription, and again while a socket is
/// open.
pub(crate) struct Gate {
    decider: Decider,
    limits: GateLimits,
    hook_timeout: Duration,
    permits: Semaphore,
    /// Those of the permits that `authorize` hooks may take: whoever comes first must get in to subscribe.
    for_authorize: Semaphore,
    observer: Arc<Observer>,
}

impl Gate {
    pub(crate) fn new(decider: Decider, limits: GateLimits, hook_timeout: Duration, observer: Arc<Observer>) -> Self {
        let for_authorize = (limits.concurrent - limits.concurrent / 4).max(1);
        Self {
            decider,
            permits: Semaphore::new(limits.concurrent),
            for_authorize: Semaphore::new(for_authorize),
            limits,
            hook_timeout,
            observer,
        }
    }

    /// False where the same question always gets the same answer.
    pub(crate) fn may_change(&self) -> bool {
        matches!(self.decider, Decider::Application(_))
    }

    /// Asks about these credentials, which came with a request. Also says whether the authenticator has looked at the
    /// request's extensions.
    pub(crate) async fn ask(
        &self,
        credentials: &OwnedCredentials,
        parts: &Parts,
    ) -> (Result<Identity, AuthError>, bool) {
        match &self.decider {
            Decider::Anyone(identity) => (Ok(identity.clone()), false),
            Decider::List(list) => (list.verify(credentials.borrowed()), false),
            Decider::Application(ask) => {
                let request = AuthRequest::new(credentials.clone(), parts);
                let extensions_read = request.extensions_read();
                // Boxed, since those who have a list must not bear what this needs.
                let verdict = Box::pin(self.ask_application(ask, request)).await;
                (verdict, extensions_read.load(Ordering::Relaxed))
            }
        }
    }

    /// Asks the same again, of a socket that is open.
    pub(crate) async fn ask_again(&self, request: AuthRequest) -> Result<Identity, AuthError> {
        match &self.decider {
            Decider::Anyone(identity) => Ok(identity.clone()),
            Decider::List(list) => list.verify(request.credentials()),
            Decider::Application(ask) => self.ask_application(ask, request).await,
        }
    }

    async fn ask_application(&self, ask: &Authenticator, request: AuthRequest) -> Result<Identity, AuthError> {
        let Ok(Ok(_permit)) = timeout(self.limits.queue_timeout, self.permits.acquire()).await else {
            self.observer.authentication_queue_timeouts.up();
            self.observer.warn(format_args!(
                "as many hooks run as max_concurrent_authentications allows, for longer than authentication_queue_timeout; who \
                 waits is asked to come back"
            ));
            return Err(AuthError::Unavailable);
        };
        match guarded(self.hook_timeout, || ask(request)).await {
            Ok(Ok(identity)) if identity.is_expired() => Err(AuthError::Expired),
            Ok(verdict) => verdict,
            Err(failure) => {
                self.observer.hooks_failed.up();
                self.observer.warn(format_args!("the authenticator failed: {failure}; nobody is let in by it"));
                Err(AuthError::Unavailable)
            }
        }
    }

    /// Asks an `authorize` hook, among all that are asked; `None` where it failed, or had to wait for too long.
    pub(crate) async fn ask_authorize<Fut, E>(&self, hook: impl FnOnce() -> Fut) -> Option<bool>
    where
        Fut: Future<Output = Result<bool, E>>,
    {
        let Ok(Some(_permits)) = timeout(self.limits.queue_timeout, self.authorize_permits()).await else {
            self.observer.authentication_queue_timeouts.up();
            self.observer.warn(format_args!(
                "as many hooks run as max_concurrent_authentications allows, for longer than authentication_queue_timeout; an \
                 authorize hook that waits for that counts as failed"
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

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("limits", &self.limits).finish_non_exhaustive()
    }
}
