//! Who may follow what: the entities of one socket that a hook is asked about, at each subscription and again later.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::time::Instant;

use super::{Connections, Open};
use crate::{
    entity::{Authorize, EntityIndex},
    hub::Subscriber,
    random,
};

/// A hook that failed is asked again after these times, and then as often as any.
const AGAIN_AFTER: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(3)];

/// The subscriptions of one socket that need a yes.
#[derive(Default)]
pub(super) struct Authorizations {
    wanted: Vec<Wanted>,
    asking: FuturesUnordered<BoxFuture<'static, Answer>>,
    questions: u64,
}

/// An entity that the page has subscribed to.
struct Wanted {
    entity: EntityIndex,
    /// The question whose answer counts: an earlier one may be about a subscription that has ended since.
    question: u64,
    /// When it is asked about again; `None` while it is.
    due: Option<Instant>,
    failures: usize,
}

struct Answer {
    entity: EntityIndex,
    question: u64,
    /// `None` where the hook failed.
    may: Option<bool>,
}

impl Authorizations {
    /// How many entities are wanted that this subscriber does not follow.
    pub(super) fn waiting(&self, subscriber: &Subscriber) -> usize {
        self.wanted.iter().filter(|wanted| !subscriber.follows(wanted.entity)).count()
    }

    pub(super) fn wants(&self, entity: EntityIndex) -> bool {
        self.wanted.iter().any(|wanted| wanted.entity == entity)
    }

    /// Asks about an entity that the page subscribes to.
    pub(super) fn subscribe(&mut self, connections: &Arc<Connections>, open: &Open, entity: EntityIndex) {
        if !self.wants(entity) {
            self.wanted.push(Wanted { entity, question: 0, due: None, failures: 0 });
            self.ask(connections, open, entity);
        }
    }

    /// Forgets an entity that the page has ended.
    pub(super) fn unsubscribe(&mut self, entity: EntityIndex) {
        self.wanted.retain(|wanted| wanted.entity != entity);
    }

    /// Asks about everything again: the page's identity is a new one.
    pub(super) fn ask_again(&mut self, connections: &Arc<Connections>, open: &Open) {
        let entities: Vec<EntityIndex> = self.wanted.iter().map(|wanted| wanted.entity).collect();
        entities.into_iter().for_each(|entity| self.ask(connections, open, entity));
    }

    fn ask(&mut self, connections: &Arc<Connections>, open: &Open, entity: EntityIndex) {
        let Some(wanted) = self.wanted.iter_mut().find(|wanted| wanted.entity == entity) else {
            return;
        };
        let Some(hook) = connections.authorize(entity).cloned() else {
            return;
        };
        self.questions += 1;
        let question = self.questions;
        (wanted.question, wanted.due) = (question, None);
        let (connections, identity) = (connections.clone(), open.identity());
        self.asking.push(Box::pin(async move {
            let may = connections.gate.authorize(|| hook(identity)).await;
            Answer { entity, question, may }
        }));
    }

    /// When it is next to be asked about something.
    pub(super) fn due(&self) -> Option<Instant> {
        self.wanted.iter().filter_map(|wanted| wanted.due).min()
    }

    /// Asks what is due, and acts on the answers that have come.
    pub(super) fn go_on(&mut self, connections: &Arc<Connections>, open: &Open, now: Instant, cx: &mut Context<'_>) {
        let due = |wanted: &&Wanted| wanted.due.is_some_and(|due| due <= now);
        let entities: Vec<EntityIndex> = self.wanted.iter().filter(due).map(|wanted| wanted.entity).collect();
        entities.into_iter().for_each(|entity| self.ask(connections, open, entity));
        while let Poll::Ready(Some(answer)) = self.asking.poll_next_unpin(cx) {
            self.act_on(connections, open, &answer);
        }
    }

    fn act_on(&mut self, connections: &Arc<Connections>, open: &Open, answer: &Answer) {
        let mut meant = self.wanted.iter_mut();
        let Some(wanted) = meant.find(|it| it.entity == answer.entity && it.question == answer.question) else {
            return;
        };
        let every = connections.limits.revalidation_interval;
        let mut wait = random::between(every / 2, every);
        if answer.may.is_some() {
            wanted.failures = 0;
        } else {
            connections.authorization_failed(answer.entity);
            wait = AGAIN_AFTER.get(wanted.failures).copied().unwrap_or(wait);
            wanted.failures += 1;
        }
        wanted.due = Some(Instant::now() + wait);
        match answer.may {
            Some(true) => connections.follow(&open.subscriber, answer.entity),
            Some(false) | None => {
                connections.observer().subscriptions_refused.up();
                connections.unfollow(&open.subscriber, answer.entity);
            }
        }
    }
}

impl Connections {
    /// The hook that says who may follow an entity.
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
