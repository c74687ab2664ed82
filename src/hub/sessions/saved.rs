//! Sessions as they are kept across a restart.

use tokio::time::Instant;

use super::{Session, Sessions};
use crate::{
    entity::EntityIndex,
    lock::lock,
    scope::{PastScopes, Scopes},
};

/// One page, and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SavedSession {
    pub(crate) id: [u8; 16],
    pub(crate) owner: u64,
    pub(crate) gone: Instant,
    pub(crate) came: Instant,
    pub(crate) left_at: u64,
    pub(crate) scopes: Scopes,
    /// Those it had before, and until when.
    pub(crate) past: Vec<(Scopes, u64)>,
    /// What its page was not to see, and may be showing, is not kept.
    pub(crate) is_lost: bool,
    pub(crate) positions: Vec<(EntityIndex, u64)>,
}

impl Sessions {
    /// All sessions. What a page was not to see and may be showing is not kept: such a page has no position after that, and
    /// is brought to the store's state.
    pub(crate) fn saved(&self, now: Instant) -> Vec<SavedSession> {
        let known = lock(&self.known);
        let saved = known.sessions.iter().map(|(id, session)| {
            let Session { owner, gone, came, left_at, is_lost, scopes, past, positions, retracted, .. } = &**session;
            // While a connection is there, it alone knows.
            let is_lost = *is_lost || gone.is_none() || !retracted.is_empty();
            SavedSession {
                id: *id,
                owner: *owner,
                gone: gone.unwrap_or(now),
                came: *came,
                left_at: *left_at,
                scopes: scopes.clone(),
                past: past.0.clone(),
                is_lost,
                positions: if is_lost { Vec::new() } else { positions.clone() },
            }
        });
        saved.collect()
    }

    /// Takes up as many of these as the limits allow, those that went last.
    pub(crate) fn restore(&self, mut saved: Vec<SavedSession>) {
        saved.sort_by_key(|session| session.gone);
        let surplus = saved.len().saturating_sub(self.limits.sessions);
        {
            let mut known = lock(&self.known);
            for saved in saved.into_iter().skip(surplus) {
                let SavedSession { id, owner, gone, came, left_at, scopes, past, is_lost, mut positions } = saved;
                positions.shrink_to_fit();
                let session = Session {
                    owner,
                    connection: u64::MAX,
                    gone: Some(gone),
                    came,
                    taken: gone,
                    // Where it is, that shows again.
                    is_shared: false,
                    positions,
                    scopes,
                    past: PastScopes(past),
                    left_at,
                    is_lost,
                    retracted: Vec::new(),
                    holder: None,
                };
                known.sessions.insert(id, Box::new(session));
                known.gone.push_back((gone, id));
            }
        }
    }
}
