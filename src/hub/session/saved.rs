//! Sessions as they are kept across a restart.

use tokio::time::Instant;

use super::{Session, SessionLimits, Sessions};
use crate::{
    hub::EntityIndex,
    lock::lock,
    scope::{Earlier, Scopes},
};

/// One page, and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SavedSession {
    pub(crate) id: [u8; 16],
    pub(crate) owner: u64,
    pub(crate) gone: Instant,
    pub(crate) left_at: u64,
    pub(crate) scopes: Scopes,
    pub(crate) positions: Vec<(EntityIndex, u64)>,
}

impl Sessions {
    pub(crate) fn limits(&self) -> SessionLimits {
        self.limits
    }

    /// The sessions of pages that have gone, where a position says all that is known of the page. A page without a
    /// session is replayed to from its handshake.
    pub(crate) fn saved(&self) -> Vec<SavedSession> {
        let known = lock(&self.known);
        let saved = known.sessions.iter().filter_map(|(id, session)| {
            let Session { owner, gone, left_at, scopes, positions, .. } = &**session;
            let is_plain = session.earlier.is_empty() && session.hidden.is_empty();
            Some(SavedSession {
                id: *id,
                owner: *owner,
                gone: gone.filter(|_| is_plain)?,
                left_at: *left_at,
                scopes: scopes.clone(),
                positions: positions.clone(),
            })
        });
        saved.collect()
    }

    /// As many of these as the limits allow, those that went last.
    pub(crate) fn restored(limits: SessionLimits, mut saved: Vec<SavedSession>) -> Self {
        let sessions = Self::new(limits);
        saved.sort_by_key(|session| session.gone);
        let surplus = saved.len().saturating_sub(limits.sessions);
        {
            let mut known = lock(&sessions.known);
            for SavedSession { id, owner, gone, left_at, scopes, mut positions } in saved.into_iter().skip(surplus) {
                positions.shrink_to_fit();
                let session = Session {
                    owner,
                    connection: u64::MAX,
                    gone: Some(gone),
                    positions,
                    scopes,
                    earlier: Earlier::default(),
                    left_at,
                    hidden: Vec::new(),
                    holder: None,
                };
                known.sessions.insert(id, Box::new(session));
                known.gone.push_back((gone, id));
            }
        }
        sessions
    }
}
