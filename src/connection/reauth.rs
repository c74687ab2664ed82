//! What a socket may go on doing. Whether it may stay open: when its key or identity expires, and what the authenticator
//! returns when it is asked again. And whether it may be subscribed: the `authorize` hook runs at each subscription, and
//! again later.

use std::{
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::time::Instant;

use super::{registry::Registration, signals::Signal};
use crate::{
    auth::{AuthError, Identity},
    entity::EntityIndex,
    expiry::Expiry,
    hook::RETRY_AFTER,
    hub::Subscriber,
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
        let wait =
            if is_overtaken { Duration::ZERO } else { random::within_half(connections.limits.revalidation_interval) };
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
                open.subscriber.becomes(identity.clone());
                open.outbox.signals.raise(Signal::RENEWED);
                self.is_overtaken = connections.disconnects() != self.terms.asked_at;
                if self.is_confirmed || !self.is_overtaken {
                    registration.is_here(&identity);
                }
            }
            Ok(_) => return Some(AuthError::Denied),
            Err(AuthError::Unavailable) => {}
            Err(why @ (AuthError::Denied | AuthError::Expired)) => return Some(why),
        }
        let wait = match (self.is_overtaken, self.is_confirmed) {
            (true, _) => OVERTAKEN_RETRY,
            (false, true) => connections.limits.revalidation_interval,
            (false, false) => random::within_half(connections.limits.revalidation_interval),
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

/// An expiry on the clock of timers.
fn deadline(expiry: Option<Expiry>, now: Instant) -> Option<Instant> {
    expiry.map(|expiry| now + expiry.remaining().min(FAR))
}

/// The subscriptions of one socket that need authorization.
#[derive(Default)]
pub(super) struct SubscriptionAuth {
    wanted: Vec<Wanted>,
    running: FuturesUnordered<BoxFuture<'static, Verdict>>,
    runs: u64,
}

/// An entity that the page has subscribed to.
pub(super) struct Wanted {
    entity: EntityIndex,
    /// The run of the hook whose verdict counts: an earlier one may be for a subscription that has ended since.
    run: u64,
    /// When the hook runs again; `None` while it does.
    due: Option<Instant>,
    failures: usize,
}

struct Verdict {
    entity: EntityIndex,
    run: u64,
    /// `None` where the hook failed.
    is_allowed: Option<bool>,
}

impl SubscriptionAuth {
    /// How many entities are wanted that this subscriber is not subscribed to.
    pub(super) fn waiting(&self, subscriber: &Subscriber) -> usize {
        self.wanted.iter().filter(|wanted| !subscriber.follows(wanted.entity)).count()
    }

    pub(super) fn wants(&self, entity: EntityIndex) -> bool {
        self.wanted.iter().any(|wanted| wanted.entity == entity)
    }

    pub(super) fn subscribe(&mut self, registration: &Registration, entity: EntityIndex) {
        if !self.wants(entity) {
            self.wanted.push(Wanted { entity, run: 0, due: None, failures: 0 });
            self.ask(registration, |wanted| wanted.entity == entity);
        }
    }

    pub(super) fn unsubscribe(&mut self, entity: EntityIndex) {
        self.wanted.retain(|wanted| wanted.entity != entity);
    }

    pub(super) fn ask(&mut self, registration: &Registration, is_due: impl Fn(&Wanted) -> bool) {
        for wanted in self.wanted.iter_mut().filter(|wanted| is_due(wanted)) {
            let (entity, connections) = (wanted.entity, registration.connections.clone());
            let Some(hook) = connections.authorize(entity).cloned() else { continue };
            self.runs += 1;
            let (run, identity) = (self.runs, registration.open.subscriber.identity());
            (wanted.run, wanted.due) = (run, None);
            self.running.push(Box::pin(async move {
                let is_allowed = connections.gate.authorize(|| hook(identity)).await;
                Verdict { entity, run, is_allowed }
            }));
        }
    }

    /// When the next hook is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.wanted.iter().filter_map(|wanted| wanted.due).min()
    }

    /// Runs the hooks that are due, and acts on their verdicts.
    pub(super) fn poll(&mut self, registration: &Registration, now: Instant, cx: &mut Context<'_>) {
        self.ask(registration, |wanted| wanted.due.is_some_and(|due| due <= now));
        while let Poll::Ready(Some(verdict)) = self.running.poll_next_unpin(cx) {
            self.act_on(registration, &verdict);
        }
    }

    fn act_on(&mut self, registration: &Registration, verdict: &Verdict) {
        let Registration { connections, open, .. } = registration;
        let mut current = self.wanted.iter_mut();
        let Some(wanted) = current.find(|it| it.entity == verdict.entity && it.run == verdict.run) else { return };
        let mut wait = random::within_half(connections.limits.revalidation_interval);
        if verdict.is_allowed.is_some() {
            wanted.failures = 0;
        } else {
            connections.observer().hooks_failed.up();
            let name = &connections.publisher.entity(verdict.entity).name;
            connections
                .observer()
                .warn(format_args!("the authorize hook of {name:?} failed: it counts as no, and is asked again"));
            wait = RETRY_AFTER.get(wanted.failures).copied().unwrap_or(wait);
            wanted.failures += 1;
        }
        wanted.due = Some(Instant::now() + wait);
        if verdict.is_allowed == Some(true) {
            connections.subscribe(&open.subscriber, verdict.entity);
        } else {
            connections.observer().subscriptions_refused.up();
            connections.unsubscribe(&open.subscriber, verdict.entity);
        }
    }
}
