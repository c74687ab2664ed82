//! Sessions as they are kept across a restart.

use std::{cmp::Reverse, num::NonZeroU64};

use serde::{Deserialize, Serialize};

use super::store::{Session, Sessions};
use crate::{
    entity::EntityIndex,
    hub::clock::Clock,
    lock::lock,
    scope::{PastScopes, Scopes},
    sequence::Sequence,
};

/// One page, and where it stands.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedSession {
    pub(crate) id: [u8; 16],
    owner: u64,
    /// How long its page has been gone.
    gone: u64,
    /// How long ago its page came.
    came: u64,
    left_at: Sequence,
    pub(crate) scopes: Scopes,
    past: PastScopes,
    /// What its page was not to see, and may be showing, is not kept.
    is_lost: bool,
    pub(crate) positions: Vec<(EntityIndex, Sequence)>,
}

impl Sessions {
    /// All sessions. What a page was not to see and may be showing is not kept: such a page has no position after that, and
    /// is brought to the store's state.
    pub(crate) fn saved(&self, clock: &Clock) -> Vec<SavedSession> {
        let known = lock(&self.known);
        let saved = known.sessions.iter().map(|(id, session)| {
            let Session { owner, gone, came, left_at, is_lost, scopes, past, positions, retracted, .. } = &**session;
            // While a connection is there, it alone knows.
            let is_lost = *is_lost || gone.is_none() || !retracted.is_empty();
            SavedSession {
                id: *id,
                owner: *owner,
                gone: gone.map_or(0, |gone| clock.age(gone)),
                came: clock.age(*came),
                left_at: *left_at,
                scopes: scopes.clone(),
                past: past.clone(),
                is_lost,
                positions: if is_lost { Vec::new() } else { positions.clone() },
            }
        });
        saved.collect()
    }

    /// Takes up as many of these as the limits allow, those that went last.
    pub(crate) fn restore(&self, mut saved: Vec<SavedSession>, clock: &Clock) {
        saved.sort_by_key(|session| Reverse(session.gone));
        let surplus = saved.len().saturating_sub(self.limits.sessions);
        let mut known = lock(&self.known);
        for mut saved in saved.into_iter().skip(surplus) {
            let gone = clock.at(saved.gone);
            saved.positions.shrink_to_fit();
            let session = Session {
                owner: saved.owner,
                connection: NonZeroU64::MAX,
                gone: Some(gone),
                came: clock.at(saved.came),
                taken: gone,
                // Where it is, that shows again.
                is_shared: false,
                positions: saved.positions,
                scopes: saved.scopes,
                past: saved.past,
                left_at: saved.left_at,
                is_lost: saved.is_lost,
                retracted: Vec::new(),
                holder: None,
            };
            *known.owners.entry(saved.owner).or_default() += 1;
            known.sessions.insert(saved.id, Box::new(session));
            known.gone.push_back((gone, saved.id));
        }
    }
}
