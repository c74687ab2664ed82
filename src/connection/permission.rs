//! Whether a socket may stay open: until when, and what the authenticator says of it later.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use tokio::time::Instant;

use super::{Connections, Open};
use crate::{
    auth::{AuthError, Identity},
    expiry::Expiry,
    random,
    revalidation::RevalidationRequest,
};

/// As good as for ever, and no clock overflows by it.
const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 3600);
/// A question that a `disconnect` has overtaken is asked once more after this long.
const OVERTAKEN: Duration = Duration::from_secs(1);

/// What a socket was let in by.
pub(crate) struct Permission {
    /// What the authenticator is asked again; none where it would only say the same.
    pub(crate) request: Option<RevalidationRequest>,
    /// When the key is over that the page came by.
    pub(crate) key_expires: Option<Expiry>,
    /// How often `disconnect` had been called when the authenticator was asked.
    pub(crate) asked_at: u64,
}

/// Ends a socket that may not stay open any longer. Its task polls it; it needs no timer and no future of its own while
/// nobody is asked.
pub(super) struct Revalidation {
    permission: Permission,
    key: Option<Instant>,
    identity: Option<Instant>,
    /// When the authenticator is asked next.
    ask_at: Option<Instant>,
    /// When there is something to do.
    due: Instant,
    asking: Option<BoxFuture<'static, Result<Identity, AuthError>>>,
    /// True once the page may hear something.
    is_confirmed: bool,
    /// True where a `disconnect` may have meant this socket, and did not know it yet.
    is_overtaken: bool,
}

impl Revalidation {
    /// Begins for a socket that others see already; none where it may stay open for ever.
    pub(super) fn new(
        permission: Permission,
        connections: &Connections,
        open: &Open,
        now: Instant,
    ) -> Option<Box<Self>> {
        let identity = deadline(open.identity().expiry().map(Expiry::at), now);
        let key = deadline(permission.key_expires, now);
        if permission.request.is_none() && key.is_none() && identity.is_none() {
            return None;
        }
        // Somebody was disconnected since the authenticator was asked: it may have been this one, that was not there yet.
        let is_overtaken = permission.request.is_some() && connections.disconnects() != permission.asked_at;
        // The first time anywhere within the interval: thousands of sockets must not ask together.
        let wait = if is_overtaken { Duration::ZERO } else { first_wait(connections) };
        let ask_at = permission.request.as_ref().map(|_| now + wait);
        let is_confirmed = !is_overtaken;
        Some(Box::new(Self { permission, key, identity, ask_at, due: now, asking: None, is_confirmed, is_overtaken }))
    }

    /// False while it is not known whether the page may be here at all.
    pub(super) fn is_confirmed(&self) -> bool {
        self.is_confirmed
    }

    /// When it must be polled.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// Ready when the socket may not stay open any longer.
    pub(super) fn poll(
        &mut self,
        connections: &Arc<Connections>,
        open: &Open,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> Poll<AuthError> {
        loop {
            if let Some(Poll::Ready(verdict)) = self.asking.as_mut().map(|asking| asking.poll_unpin(cx)) {
                self.asking = None;
                if let Some(why) = self.act_on(verdict, connections, open, now) {
                    return Poll::Ready(why);
                }
                self.due = now;
            }
            if self.due > now {
                return Poll::Pending;
            }
            let end = self.end(open, now);
            if end.is_some_and(|end| end <= now) {
                return Poll::Ready(AuthError::Expired);
            }
            let ask_at = self.ask_at.filter(|_| self.asking.is_none());
            match &self.permission.request {
                Some(kept) if ask_at.is_some_and(|ask_at| ask_at <= now) => {
                    self.permission.asked_at = connections.disconnects();
                    let (connections, request) = (connections.clone(), kept.request());
                    self.asking = Some(Box::pin(async move { connections.gate.revalidate(request).await }));
                }
                _ => self.due = [end, ask_at].into_iter().flatten().fold(now + FAR, Instant::min),
            }
        }
    }

    fn act_on(
        &mut self,
        verdict: Result<Identity, AuthError>,
        connections: &Connections,
        open: &Open,
        now: Instant,
    ) -> Option<AuthError> {
        match verdict {
            Ok(identity) if identity.principal() == open.identity().principal() => {
                self.identity = deadline(identity.expiry().map(Expiry::at), now);
                open.is_now(connections.hub(), identity);
                self.is_overtaken = connections.disconnects() != self.permission.asked_at;
            }
            Ok(_) => return Some(AuthError::Denied),
            Err(AuthError::Unavailable) => {}
            Err(why @ (AuthError::Denied | AuthError::Expired)) => return Some(why),
        }
        let wait = match (self.is_overtaken, self.is_confirmed) {
            (true, _) => OVERTAKEN,
            (false, true) => connections.limits.revalidation_interval,
            (false, false) => first_wait(connections),
        };
        self.is_confirmed |= !self.is_overtaken;
        self.ask_at = Some(now + wait);
        None
    }

    /// When key or identity are over. Looked at anew each time: a machine that was asleep finds its wall clock ahead of
    /// its timers.
    fn end(&mut self, open: &Open, now: Instant) -> Option<Instant> {
        let anew = |known: Option<Instant>, expiry| known.into_iter().chain(deadline(expiry, now)).min();
        self.key = anew(self.key, self.permission.key_expires);
        self.identity = anew(self.identity, open.identity().expiry().map(Expiry::at));
        self.key.into_iter().chain(self.identity).min()
    }
}

fn first_wait(connections: &Connections) -> Duration {
    let every = connections.limits.revalidation_interval;
    random::between(every / 2, every)
}

/// An expiry, as timers know it.
fn deadline(expiry: Option<Expiry>, now: Instant) -> Option<Instant> {
    expiry.map(|expiry| now + expiry.remaining().min(FAR))
}
