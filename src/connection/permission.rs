//! Whether a socket may stay open: until when, and what the authenticator says of it later.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::{Connections, Open};
use crate::{
    auth::{AuthError, AuthRequest, Identity},
    expiry::Expiry,
    random,
};

/// As good as for ever, and no clock overflows by it.
const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 3600);
/// A question that a `disconnect` has overtaken is asked once more after this long.
const OVERTAKEN: Duration = Duration::from_secs(1);

/// What a socket was let in by.
pub(crate) struct Permission {
    /// What the authenticator is asked again; none where it would only say the same.
    pub(crate) request: Option<AuthRequest>,
    /// When the key is over that the page came by.
    pub(crate) key_expires: Option<Expiry>,
    /// How often `disconnect` had been called when the authenticator was asked.
    pub(crate) asked_at: u64,
}

impl Permission {
    /// Asks once more, before the page hears anything, where somebody was disconnected since the authenticator was asked:
    /// it may have been this one, that was not there yet.
    pub(super) async fn confirm(&mut self, connections: &Connections, open: &Open) -> Result<(), AuthError> {
        let Some(request) = &self.request else {
            return Ok(());
        };
        loop {
            let asked_at = connections.disconnects();
            if asked_at == self.asked_at {
                return Ok(());
            }
            match connections.gate.ask_again(request).await {
                Ok(now) if now.principal() == open.identity().principal() => {
                    open.is_now(connections.hub(), now);
                    self.asked_at = asked_at;
                }
                Ok(_) => return Err(AuthError::Denied),
                Err(AuthError::Unavailable) => sleep(OVERTAKEN).await,
                Err(why @ (AuthError::Denied | AuthError::Expired)) => return Err(why),
            }
        }
    }

    /// False where the socket may stay open for ever.
    pub(super) fn may_end(&self, identity: &Identity) -> bool {
        self.request.is_some() || self.key_expires.is_some() || identity.expiry().is_some()
    }

    /// Resolves when the socket may not stay open any longer.
    pub(super) async fn over(self, connections: Arc<Connections>, open: Open) -> AuthError {
        let every = connections.limits.reask_interval;
        let mut is_overtaken = connections.disconnects() != self.asked_at;
        let mut key = Deadline::of(self.key_expires);
        let mut identity = Deadline::of_identity(&open);
        // The first time anywhere within the interval: thousands of sockets must not ask together.
        let mut wait = if is_overtaken { Duration::ZERO } else { random::between(every / 2, every) };
        loop {
            sleep_until(key.instant().min(identity.instant()).min(Instant::now() + wait)).await;
            let end = key.instant().min(identity.instant());
            if end <= Instant::now() {
                return AuthError::Expired;
            }
            wait = every;
            let Some(request) = &self.request else {
                continue;
            };
            let asked_at = connections.disconnects();
            // Boxed, since nobody asks most of the time.
            let asking = Box::pin(connections.gate.ask_again(request));
            let Ok(verdict) = timeout_at(end, asking).await else {
                return AuthError::Expired;
            };
            match verdict {
                Ok(now) if now.principal() == open.identity().principal() => {
                    open.is_now(connections.hub(), now);
                    identity = Deadline::of_identity(&open);
                    is_overtaken = connections.disconnects() != asked_at;
                }
                Ok(_) => return AuthError::Denied,
                Err(AuthError::Unavailable) => {}
                Err(why @ (AuthError::Denied | AuthError::Expired)) => return why,
            }
            if is_overtaken {
                wait = OVERTAKEN;
            }
        }
    }
}

/// An expiry, as timers know it.
struct Deadline {
    expiry: Option<Expiry>,
    at: Instant,
}

impl Deadline {
    fn of(expiry: Option<Expiry>) -> Self {
        Self { expiry, at: Instant::now() + remaining(expiry) }
    }

    fn of_identity(open: &Open) -> Self {
        Self::of(open.identity().expiry().map(Expiry::at))
    }

    /// Looked at anew each time: a machine that was asleep finds its wall clock ahead of its timers.
    fn instant(&mut self) -> Instant {
        self.at = self.at.min(Instant::now() + remaining(self.expiry));
        self.at
    }
}

fn remaining(expiry: Option<Expiry>) -> Duration {
    expiry.map_or(FAR, |expiry| expiry.remaining().min(FAR))
}
