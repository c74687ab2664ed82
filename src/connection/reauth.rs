//! Whether a socket may stay open: when its key or identity expires, and what the authenticator returns when it is
//! asked again.

use std::{
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use tokio::time::Instant;

use super::{
    registry::{Connections, Registration},
    signals::Signal,
};
use crate::{
    auth::{AuthError, Identity},
    expiry::Expiry,
    random,
    revalidation::RevalidationRequest,
};

/// In place of "never": no clock overflows by it.
const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 3600);
/// How soon the authenticator is asked again when `disconnect` was called while it ran.
const OVERTAKEN_RETRY: Duration = Duration::from_secs(1);

/// What a socket was authenticated by.
pub(crate) struct AccessTerms {
    /// The request that the authenticator is asked about again; none where its answer cannot change.
    pub(crate) request: Option<RevalidationRequest>,
    /// When the page's key expires.
    pub(crate) key_expires: Option<Expiry>,
    /// The calls of `disconnect` before the authenticator was asked.
    pub(crate) asked_at: u64,
}

/// Ends a socket that may not stay open any longer. The socket's task polls it, so it needs no timer of its own, and no
/// future but while the authenticator is asked.
pub(super) struct Reauth {
    terms: AccessTerms,
    /// When the page's key expires.
    key: Option<Instant>,
    /// When its identity expires.
    identity: Option<Instant>,
    /// When the authenticator is asked next.
    ask_at: Option<Instant>,
    /// When there is something to do.
    pub(super) due: Instant,
    asking: Option<BoxFuture<'static, Result<Identity, AuthError>>>,
    /// True once the page may receive something.
    pub(super) is_confirmed: bool,
    /// True where a `disconnect` may have meant this socket, which was not registered yet.
    is_overtaken: bool,
}

impl Reauth {
    /// For a registered socket; none where it may stay open for ever.
    pub(super) fn new(terms: AccessTerms, registration: &Registration, now: Instant) -> Option<Box<Self>> {
        let Registration { connections, open, .. } = registration;
        let identity = deadline(open.subscriber.identity().expiry().map(Expiry::at), now);
        let key = deadline(terms.key_expires, now);
        if terms.request.is_none() && key.is_none() && identity.is_none() {
            return None;
        }
        // `disconnect` was called since the authenticator was asked, and this socket was not registered yet.
        let is_overtaken = terms.request.is_some() && connections.disconnects() != terms.asked_at;
        // The first time anywhere within the interval: thousands of sockets must not ask together.
        let wait = if is_overtaken { Duration::ZERO } else { first_wait(connections) };
        let ask_at = terms.request.as_ref().map(|_| now + wait);
        let is_confirmed = !is_overtaken;
        Some(Box::new(Self { terms, key, identity, ask_at, due: now, asking: None, is_confirmed, is_overtaken }))
    }

    /// Ready when the socket may not stay open any longer.
    pub(super) fn poll(&mut self, registration: &Registration, now: Instant, cx: &mut Context<'_>) -> Poll<AuthError> {
        let Registration { connections, open, .. } = registration;
        loop {
            if let Some(Poll::Ready(verdict)) = self.asking.as_mut().map(|asking| asking.poll_unpin(cx)) {
                self.asking = None;
                if let Some(why) = self.act_on(verdict, registration, now) {
                    return Poll::Ready(why);
                }
                self.due = now;
            }
            if self.due > now {
                return Poll::Pending;
            }
            let expires = self.expires(&open.subscriber.identity(), now);
            if expires.is_some_and(|at| at <= now) {
                return Poll::Ready(AuthError::Expired);
            }
            let ask_at = self.ask_at.filter(|_| self.asking.is_none());
            match &self.terms.request {
                Some(request) if ask_at.is_some_and(|ask_at| ask_at <= now) => {
                    self.terms.asked_at = connections.disconnects();
                    let (connections, request) = (connections.clone(), request.request());
                    self.asking = Some(Box::pin(async move { connections.gate.revalidate(request).await }));
                }
                _ => self.due = [expires, ask_at].into_iter().flatten().fold(now + FAR, Instant::min),
            }
        }
    }

    fn act_on(
        &mut self,
        verdict: Result<Identity, AuthError>,
        registration: &Registration,
        now: Instant,
    ) -> Option<AuthError> {
        let Registration { connections, open, .. } = registration;
        match verdict {
            Ok(identity) if identity.principal() == open.subscriber.identity().principal() => {
                self.identity = deadline(identity.expiry().map(Expiry::at), now);
                open.subscriber.becomes(identity);
                open.outbox.signals.raise(Signal::RENEWED);
                self.is_overtaken = connections.disconnects() != self.terms.asked_at;
            }
            Ok(_) => return Some(AuthError::Denied),
            Err(AuthError::Unavailable) => {}
            Err(why @ (AuthError::Denied | AuthError::Expired)) => return Some(why),
        }
        let wait = match (self.is_overtaken, self.is_confirmed) {
            (true, _) => OVERTAKEN_RETRY,
            (false, true) => connections.limits.revalidation_interval,
            (false, false) => first_wait(connections),
        };
        self.is_confirmed |= !self.is_overtaken;
        self.ask_at = Some(now + wait);
        None
    }

    /// When key or identity expires. Computed anew each time: after a machine was suspended, its wall clock is ahead of
    /// its timers.
    fn expires(&mut self, identity: &Identity, now: Instant) -> Option<Instant> {
        let earlier = |known: Option<Instant>, expiry| known.into_iter().chain(deadline(expiry, now)).min();
        self.key = earlier(self.key, self.terms.key_expires);
        self.identity = earlier(self.identity, identity.expiry().map(Expiry::at));
        self.key.into_iter().chain(self.identity).min()
    }
}

fn first_wait(connections: &Connections) -> Duration {
    let every = connections.limits.revalidation_interval;
    random::between(every / 2, every)
}

/// An expiry on the clock of timers.
fn deadline(expiry: Option<Expiry>, now: Instant) -> Option<Instant> {
    expiry.map(|expiry| now + expiry.remaining().min(FAR))
}
