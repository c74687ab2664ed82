//! The session of a page: what a page keeps when its socket is another one.

use std::fmt;

use crate::random;

/// One open page, whatever socket it has at the moment: a value to compare, and to send messages to
/// ([`LiveUpdates::send_to_session`](crate::LiveUpdates::send_to_session)).
/// [`LiveUpdates::sessions`](crate::LiveUpdates::sessions) lists those of the open pages.
///
/// - A page keeps its session when it reconnects. A page that is loaded again has another session.
/// - Two tabs of a user are two sessions with one [principal](crate::Identity::principal).
/// - Where a page sends no key, each of its sockets is a session of its own: with
///   [`Delivery::Plain`](crate::Delivery::Plain), for a page that makes no handshake, and beyond
///   [`max_sessions`](crate::LiveUpdatesBuilder::max_sessions).
///
/// `Debug` does not show its id, which is a part of the page's key.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Session(pub(crate) [u8; 16]);

impl Session {
    /// The session of a socket whose page has no key.
    pub(crate) fn of_socket() -> Self {
        Self(random::bits())
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_of_sockets_differ_and_show_no_id() {
        assert_ne!(Session::of_socket(), Session::of_socket());
        assert_eq!(format!("{:?}", Session([7; 16])), "Session { .. }");
    }
}
