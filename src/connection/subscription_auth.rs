//! Authorization of subscriptions: the `authorize` hook runs at each subscription of a socket, and again later.

use std::{
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::time::Instant;

use super::registry::{Connections, Registration};
use crate::{entity::Authorize, entity::EntityIndex, hub::Subscriber, random};

/// A hook that failed runs again after these times, and then as often as any.
const RETRY_AFTER: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(3)];

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
            let Some(hook) = connections.authorize(entity).cloned() else {
                continue;
            };
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
        let Some(wanted) = current.find(|it| it.entity == verdict.entity && it.run == verdict.run) else {
            return;
        };
        let every = connections.limits.revalidation_interval;
        let mut wait = random::between(every / 2, every);
        if verdict.is_allowed.is_some() {
            wanted.failures = 0;
        } else {
            connections.authorization_failed(verdict.entity);
            wait = RETRY_AFTER.get(wanted.failures).copied().unwrap_or(wait);
            wanted.failures += 1;
        }
        wanted.due = Some(Instant::now() + wait);
        match verdict.is_allowed {
            Some(true) => connections.subscribe(&open.subscriber, verdict.entity),
            Some(false) | None => {
                connections.observer().subscriptions_refused.up();
                connections.unsubscribe(&open.subscriber, verdict.entity);
            }
        }
    }
}

impl Connections {
    /// The hook that authorizes subscriptions to an entity.
    pub(super) fn authorize(&self, entity: EntityIndex) -> Option<&Authorize> {
        self.publisher.entities.get(usize::from(entity.0))?.authorize.as_ref()
    }

    fn authorization_failed(&self, entity: EntityIndex) {
        self.observer().hooks_failed.up();
        if let Some(entity) = self.publisher.entities.get(usize::from(entity.0)) {
            let name = &entity.name;
            self.observer()
                .warn(format_args!("the authorize hook of {name:?} failed: it counts as no, and is asked again"));
        }
    }
}
