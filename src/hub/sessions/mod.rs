//! Where pages stand: one session for each page, across its reconnects.
//!
//! A page makes its handshake once and names the same key at every reconnect. The key holds the session's id; what of
//! the log its page is known to have is kept here, and forgotten a while after its last connection has gone.

mod saved;
mod store;

pub(crate) use self::{
    saved::SavedSession,
    store::{Hold, SessionHolder, SessionId, SessionLimits, Sessions},
};
