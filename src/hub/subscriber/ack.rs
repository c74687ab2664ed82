//! What a page is known to have received: pings that ride along with data, and their pongs.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    super::{sessions::SessionHolder, visibility::Cleared},
    state::Subscriber,
    subscription::Subscription,
};
use crate::{lock::lock, scope::PastScopes};

/// Chromium keeps a page that was left for ten minutes.
const KEPT_BY_BROWSERS: Duration = Duration::from_secs(11 * 60);

impl Subscriber {
    /// A ping for the end of the line. Its pong will acknowledge what stands before it there.
    pub(crate) fn ping(&self, now: Instant) -> Cleared {
        let mut state = lock(&self.state);
        let cursor = state.cursor;
        match state.ping(&self.core, cursor, now) {
            Some(ping) => {
                let frame = Cleared::ping(&ping.payload);
                state.pinged = Some(ping);
                frame
            }
            None => Cleared::ping(&[]),
        }
    }

    /// Whether its page has been asked what it has received, and has not answered yet.
    pub(crate) fn awaits_pong(&self) -> bool {
        lock(&self.state).pinged.is_some()
    }

    /// The page has everything that was written before the ping of this payload.
    pub(crate) fn pong(&self, payload: &[u8]) {
        if let Some(sharer) = self.acknowledges(payload) {
            sharer.restart_replay(Instant::now());
        }
    }

    /// The page goes away. Chromium keeps some pages for a way back, and answers pings for them; a page that comes back has
    /// thrown away what came meanwhile (seen with version 156).
    pub(crate) fn goes_away(&self, now: Instant) {
        if let Some(hold) = lock(&self.state).hold() {
            let position = lock(&self.core.log).position(now, KEPT_BY_BROWSERS);
            self.core.sessions.reach_back(&hold, position);
        }
    }

    /// Another page's connection, where this one has shown that both have the same key.
    fn acknowledges(&self, payload: &[u8]) -> Option<Arc<dyn SessionHolder>> {
        let state = &mut *lock(&self.state);
        let ping = state.pinged.take_if(|ping| ping.payload == payload)?;
        let hold = state.hold()?;
        let sharer = self.core.sessions.acknowledge(&hold, &ping.positions, ping.at);
        // What its present identity may see has reached the page: it shows nothing else any more.
        let has_it = |known: &Subscription| ping.positions.iter().any(|(entity, _)| *entity == known.entity);
        let mut scoped = state.subscriptions.iter().filter(|known| self.core.encoder(known.entity).is_scoped);
        if ping.knows_identity && !state.recipient.past.is_empty() && scoped.all(has_it) {
            state.recipient.past = PastScopes::default();
            self.core.sessions.forget_past(&hold);
        }
        sharer
    }
}
