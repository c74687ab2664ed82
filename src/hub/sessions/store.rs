//! The sessions in memory: taken over, acknowledged, left, forgotten.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    num::NonZeroU64,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    entity::EntityIndex,
    hub::retractions::Retracted,
    lock::lock,
    scope::{PastScopes, Scopes},
    sequence::Sequence,
    session,
};

/// How many sessions are kept, and for how long after their pages have gone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SessionLimits {
    pub(crate) sessions: usize,
    pub(crate) age: Duration,
}

/// Which page comes back: its session, and what proves that it is the same page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SessionId {
    /// A number as bytes, which need no room to be aligned.
    pub(crate) id: [u8; 16],
    /// Of the credentials: with other credentials, the id belongs to another page.
    pub(crate) owner: u64,
}

pub(crate) struct Sessions {
    pub(super) limits: SessionLimits,
    pub(super) known: Mutex<Known>,
    /// The number of the next connection.
    pub(super) connections: AtomicU64,
}

#[derive(Default)]
pub(super) struct Known {
    /// Boxed, since a table keeps room for more than it holds.
    pub(super) sessions: HashMap<[u8; 16], Box<Session>>,
    /// Those whose connection has gone, the longest gone first. Some may have come back.
    pub(super) gone: VecDeque<(Instant, [u8; 16])>,
    /// How many sessions each owner has.
    pub(super) owners: HashMap<u64, usize>,
}

pub(super) struct Session {
    pub(super) owner: u64,
    /// The newest connection: two may be open while the server has not noticed that the first is dead.
    pub(super) connection: NonZeroU64,
    pub(super) gone: Option<Instant>,
    /// When its page came for the first time.
    pub(super) came: Instant,
    /// When the newest connection took it over.
    pub(super) taken: Instant,
    /// Two pages have it: a cache has answered the handshake of one with the other's. What one acknowledges does not
    /// hold for the other.
    pub(super) is_shared: bool,
    /// Of each entity: everything before is known to have reached the page.
    pub(super) positions: Vec<(EntityIndex, Sequence)>,
    pub(super) scopes: Scopes,
    /// Those it had before: the page may be showing objects that were published in these.
    pub(super) past: PastScopes,
    /// Where the log stood when its connection went.
    pub(super) left_at: Sequence,
    /// The list of what its page may be showing, and must not see, was lost at a restart.
    pub(super) is_lost: bool,
    /// What its page may be showing, and must not see.
    pub(super) retracted: Vec<(EntityIndex, Retracted)>,
    /// Its newest connection, while that is there.
    pub(super) holder: Option<Weak<dyn SessionHolder>>,
}

/// A connection that holds a session.
pub(crate) trait SessionHolder: Send + Sync {
    /// What its page may be showing, and must not see.
    fn retracted(&self) -> Vec<(EntityIndex, Retracted)>;

    /// Asks its page for a pong, to see whether that is there still.
    fn ask(&self);

    /// Replays to its page all that it may have missed since its handshake, since its position is unknown.
    fn restart_replay(&self, now: Instant);
}

/// What is known of a page when it comes.
pub(crate) struct Resumed {
    pub(crate) hold: Hold,
    pub(crate) past: PastScopes,
    pub(crate) retracted: Vec<(EntityIndex, Retracted)>,
    /// What it may be showing is unknown: only a snapshot brings it up to date.
    pub(crate) is_lost: bool,
    /// Its past connection, where that is still open: the server may notice late that it is dead.
    pub(crate) before: Option<Arc<dyn SessionHolder>>,
}

/// One connection's hold on its session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hold {
    id: [u8; 16],
    /// Its number: never zero, so that where there is none takes no room.
    pub(crate) connection: NonZeroU64,
}

impl Hold {
    /// The hold of this connection on its session.
    pub(crate) fn of(session: &session::Session, connection: NonZeroU64) -> Self {
        Self { id: session.0, connection }
    }

    pub(crate) fn session(&self) -> session::Session {
        session::Session(self.id)
    }
}

impl Sessions {
    pub(crate) fn new(limits: SessionLimits) -> Self {
        Self { limits, known: Mutex::default(), connections: AtomicU64::new(1) }
    }

    /// A connection takes its session over. `None` where the session belongs to other credentials, or there are too many
    /// sessions. `end` is where the log stands.
    pub(crate) fn take(&self, id: SessionId, scopes: &Scopes, end: Sequence, now: Instant) -> Option<Resumed> {
        let connection = NonZeroU64::new(self.connections.fetch_add(1, Ordering::Relaxed)).unwrap_or(NonZeroU64::MAX);
        let known = &mut *lock(&self.known);
        known.forget(now, self.limits);
        let is_new = !known.sessions.contains_key(&id.id);
        if is_new && known.sessions.len() >= self.limits.sessions && !known.forget_one() {
            return None;
        }
        let Known { sessions, owners, .. } = &mut *known;
        let session = sessions.entry(id.id).or_insert_with(|| {
            *owners.entry(id.owner).or_default() += 1;
            Box::new(Session {
                owner: id.owner,
                connection,
                gone: None,
                came: now,
                taken: now,
                is_shared: false,
                positions: Vec::new(),
                scopes: scopes.clone(),
                past: PastScopes::default(),
                left_at: end,
                is_lost: false,
                retracted: Vec::new(),
                holder: None,
            })
        });
        if session.owner != id.owner {
            return None;
        }
        session.connection = connection;
        session.taken = now;
        let until = if session.gone.take().is_some() { session.left_at } else { end };
        session.change_to(scopes, until);
        Some(Resumed {
            hold: Hold { id: id.id, connection },
            past: session.past.clone(),
            retracted: std::mem::take(&mut session.retracted),
            is_lost: session.is_lost,
            before: session.holder.take().and_then(|holder| holder.upgrade()),
        })
    }

    /// Changes the session of its newest connection; an older connection changes nothing.
    fn update(&self, hold: &Hold, change: impl FnOnce(&mut Session)) {
        let mut known = lock(&self.known);
        if let Some(session) = known.sessions.get_mut(&hold.id).filter(|it| it.connection == hold.connection) {
            change(session);
        }
    }

    /// Sets the connection that holds a session.
    pub(crate) fn set_holder(&self, hold: &Hold, holder: Weak<dyn SessionHolder>) {
        self.update(hold, |session| session.holder = Some(holder));
    }

    /// The page has these scopes from now on, where the log stands at `end`.
    pub(crate) fn change_to(&self, hold: &Hold, scopes: &Scopes, end: Sequence) {
        self.update(hold, |session| session.change_to(scopes, end));
    }

    /// Where the page stands with an entity, if it has ever acknowledged anything of it.
    pub(crate) fn position(&self, hold: &Hold, entity: EntityIndex) -> Option<Sequence> {
        let known = lock(&self.known);
        let session = known.sessions.get(&hold.id)?;
        session.positions.iter().find(|(of, _)| *of == entity).map(|(_, position)| *position)
    }

    /// When a page came for the first time.
    pub(crate) fn came(&self, hold: &Hold) -> Option<Instant> {
        lock(&self.known).sessions.get(&hold.id).map(|session| session.came)
    }

    /// The page has acknowledged this much, on its newest connection, with the answer to a ping of this time.
    ///
    /// A page that has a newer connection answers nothing on the one before. Where one does, two pages have the key; the
    /// newest connection of theirs comes back, since it may have begun where the other page stands.
    pub(crate) fn acknowledge(
        &self,
        hold: &Hold,
        positions: &[(EntityIndex, Sequence)],
        asked: Instant,
    ) -> Option<Arc<dyn SessionHolder>> {
        let mut known = lock(&self.known);
        let session = known.sessions.get_mut(&hold.id)?;
        if session.connection != hold.connection {
            let proves_sharing = session.gone.is_none() && asked >= session.taken;
            if !proves_sharing || session.is_shared {
                return None;
            }
            session.is_shared = true;
            session.positions = Vec::new();
            return session.holder.as_ref().and_then(Weak::upgrade);
        }
        if session.is_shared {
            return None;
        }
        for &(entity, position) in positions {
            match session.positions.iter_mut().find(|(of, _)| *of == entity) {
                Some((_, known)) => *known = position,
                None => {
                    session.positions.reserve_exact(1);
                    session.positions.push((entity, position));
                }
            }
        }
        None
    }

    /// The page may have dropped what it received from this position on, whatever it has acknowledged.
    pub(crate) fn reach_back(&self, hold: &Hold, position: Sequence) {
        self.update(hold, |session| {
            session.positions.iter_mut().for_each(|(_, known)| *known = position.min(*known));
        });
    }

    /// The page shows nothing any more that was published in its past scopes.
    pub(crate) fn forget_past(&self, hold: &Hold) {
        self.update(hold, |session| session.past = PastScopes::default());
    }

    /// A connection is over.
    pub(crate) fn leave(&self, hold: &Hold, retracted: Vec<(EntityIndex, Retracted)>, end: Sequence, now: Instant) {
        let known = &mut *lock(&self.known);
        if let Some(session) = known.sessions.get_mut(&hold.id).filter(|it| it.connection == hold.connection) {
            session.gone = Some(now);
            session.left_at = end;
            session.retracted = retracted;
            session.holder = None;
            known.gone.push_back((now, hold.id));
            known.tidy();
        }
    }

    /// The sessions of these credentials.
    pub(crate) fn count_of(&self, owner: u64) -> usize {
        lock(&self.known).owners.get(&owner).copied().unwrap_or_default()
    }

    /// Sessions remembered.
    pub(crate) fn len(&self) -> usize {
        lock(&self.known).sessions.len()
    }
}

impl Session {
    fn change_to(&mut self, scopes: &Scopes, until: Sequence) {
        if self.scopes != *scopes {
            let had = std::mem::replace(&mut self.scopes, scopes.clone());
            self.past.add(had, until);
        }
    }
}

impl Known {
    fn forget(&mut self, now: Instant, limits: SessionLimits) {
        while self.gone.front().is_some_and(|(gone, _)| now.saturating_duration_since(*gone) > limits.age) {
            self.forget_one();
        }
    }

    /// Drops the entries of those who came back, when they are many.
    fn tidy(&mut self) {
        if self.gone.len() > 2 * self.sessions.len() + 64 {
            let sessions = &self.sessions;
            self.gone.retain(|(gone, id)| sessions.get(id).is_some_and(|session| session.gone == Some(*gone)));
        }
    }

    fn remove_owner(&mut self, owner: u64) {
        if let Entry::Occupied(mut count) = self.owners.entry(owner) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }

    /// Forgets the session that has been gone for longest; false where every page is connected.
    fn forget_one(&mut self) -> bool {
        while let Some((gone, id)) = self.gone.pop_front() {
            if self.sessions.get(&id).is_some_and(|session| session.gone == Some(gone)) {
                if let Some(session) = self.sessions.remove(&id) {
                    self.remove_owner(session.owner);
                }
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTS: EntityIndex = EntityIndex(0);
    const TASKS: EntityIndex = EntityIndex(1);

    fn sessions(count: usize) -> Sessions {
        Sessions::new(SessionLimits { sessions: count, age: Duration::from_secs(60) })
    }

    fn id(number: u8) -> SessionId {
        SessionId { id: [number; 16], owner: 7 }
    }

    #[test]
    fn each_entity_has_its_own_position() {
        let (sessions, now) = (sessions(10), Instant::now());
        let hold = sessions.take(id(1), &Scopes::None, Sequence(0), now).unwrap().hold;
        assert_eq!(sessions.position(&hold, EVENTS), None);
        sessions.acknowledge(&hold, &[(EVENTS, Sequence(5))], now);
        sessions.acknowledge(&hold, &[(TASKS, Sequence(3)), (EVENTS, Sequence(6))], now);
        sessions.leave(&hold, Vec::new(), Sequence(0), now);
        let again = sessions.take(id(1), &Scopes::None, Sequence(0), now).unwrap().hold;
        assert_eq!(
            (sessions.position(&again, EVENTS), sessions.position(&again, TASKS)),
            (Some(Sequence(6)), Some(Sequence(3)))
        );
    }

    #[test]
    fn past_scopes_are_kept_with_the_position_up_to_which_the_page_received_them() {
        let (sessions, now) = (sessions(10), Instant::now());
        let scopes = |name: &str| [name].into_iter().collect::<Scopes>();
        let received = |past: &PastScopes, name: &str, at| past.received(&scopes(name), Some(at));
        let Resumed { hold, past, .. } = sessions.take(id(1), &scopes("a"), Sequence(5), now).unwrap();
        assert!(past.is_empty());
        sessions.leave(&hold, Vec::new(), Sequence(7), now);
        let Resumed { hold, past, .. } = sessions.take(id(1), &scopes("b"), Sequence(20), now).unwrap();
        assert!(received(&past, "a", Sequence(6)) && !received(&past, "a", Sequence(7)), "it had gone");
        sessions.change_to(&hold, &scopes("c"), Sequence(30));
        let Resumed { past, .. } = sessions.take(id(1), &scopes("c"), Sequence(40), now).unwrap();
        assert!(
            received(&past, "b", Sequence(29))
                && !received(&past, "b", Sequence(30))
                && !received(&past, "c", Sequence(0))
        );
    }

    #[test]
    fn a_session_belongs_to_its_credentials() {
        let (sessions, now) = (sessions(10), Instant::now());
        let hold = sessions.take(id(1), &Scopes::None, Sequence(0), now).unwrap().hold;
        sessions.acknowledge(&hold, &[(EVENTS, Sequence(5))], now);
        assert!(sessions.take(SessionId { owner: 8, ..id(1) }, &Scopes::None, Sequence(0), now).is_none());
        assert_eq!(sessions.position(&hold, EVENTS), Some(Sequence(5)));
    }

    #[test]
    fn of_two_connections_the_newest_counts() {
        let (sessions, now) = (sessions(10), Instant::now());
        let before = now.checked_sub(Duration::from_secs(1)).unwrap();
        let [old, new] = [(); 2].map(|()| sessions.take(id(1), &Scopes::None, Sequence(0), now).unwrap().hold);
        sessions.acknowledge(&new, &[(EVENTS, Sequence(5))], now);
        sessions.acknowledge(&old, &[(EVENTS, Sequence(9))], before);
        assert_eq!(sessions.position(&new, EVENTS), Some(Sequence(5)), "the pong was on its way when the newest came");
        sessions.leave(&old, Vec::new(), Sequence(0), now);
        sessions.take(id(2), &Scopes::None, Sequence(0), now + Duration::from_secs(61)).unwrap();
        assert_eq!(sessions.position(&new, EVENTS), Some(Sequence(5)), "it has a connection still");
    }

    #[test]
    fn if_the_earlier_of_two_connections_answers_two_pages_share_the_session_and_it_has_no_position() {
        let (sessions, now) = (sessions(10), Instant::now());
        let [old, new] = [(); 2].map(|()| sessions.take(id(1), &Scopes::None, Sequence(0), now).unwrap().hold);
        sessions.acknowledge(&new, &[(EVENTS, Sequence(5))], now);
        let newest: Arc<dyn SessionHolder> = Arc::new(Dead);
        sessions.set_holder(&new, Arc::downgrade(&newest));
        let sharer = sessions.acknowledge(&old, &[(EVENTS, Sequence(9))], now + Duration::from_secs(1));
        assert!(sharer.is_some_and(|sharer| Arc::ptr_eq(&sharer, &newest)), "its replay must restart");
        sessions.acknowledge(&new, &[(EVENTS, Sequence(10))], now + Duration::from_secs(2));
        assert_eq!(sessions.position(&new, EVENTS), None, "for good");
        let third = sessions.take(id(1), &Scopes::None, Sequence(0), now).unwrap().hold;
        assert_eq!(sessions.position(&third, EVENTS), None);
    }

    #[test]
    fn sessions_are_forgotten_some_time_after_their_pages_have_gone() {
        let (sessions, now) = (sessions(10), Instant::now());
        let hold = sessions.take(id(1), &Scopes::None, Sequence(0), now).unwrap().hold;
        sessions.leave(&hold, Vec::new(), Sequence(0), now);
        sessions.take(id(2), &Scopes::None, Sequence(0), now + Duration::from_secs(60)).unwrap();
        assert_eq!(sessions.len(), 2);
        sessions.take(id(2), &Scopes::None, Sequence(0), now + Duration::from_secs(61)).unwrap();
        assert_eq!(sessions.len(), 1);
    }

    struct Dead;

    impl SessionHolder for Dead {
        fn retracted(&self) -> Vec<(EntityIndex, Retracted)> {
            vec![(EVENTS, Retracted::default())]
        }

        fn ask(&self) {}

        fn restart_replay(&self, _now: Instant) {}
    }

    #[test]
    fn a_page_that_comes_back_before_its_end_was_noticed_finds_its_earlier_connection() {
        let (sessions, now) = (sessions(10), Instant::now());
        let take = || sessions.take(id(1), &Scopes::None, Sequence(0), now).unwrap();
        let dead: Arc<dyn SessionHolder> = Arc::new(Dead);
        let hold = take().hold;
        sessions.set_holder(&hold, Arc::downgrade(&dead));
        let again = take();
        assert_eq!(again.before.map(|before| before.retracted().len()), Some(1));
        sessions.set_holder(&again.hold, Arc::downgrade(&dead));
        sessions.set_holder(&hold, Arc::downgrade(&dead));
        sessions.leave(&again.hold, Vec::new(), Sequence(0), now);
        assert!(take().before.is_none(), "it has left what it knew with the session");
    }

    #[test]
    fn when_there_are_too_many_those_gone_for_longest_go_first() {
        let (sessions, now) = (sessions(2), Instant::now());
        let [first, second] =
            [1, 2].map(|number| sessions.take(id(number), &Scopes::None, Sequence(0), now).unwrap().hold);
        assert!(sessions.take(id(3), &Scopes::None, Sequence(0), now).is_none(), "every page is connected");
        sessions.leave(&second, Vec::new(), Sequence(0), now);
        sessions.leave(&first, Vec::new(), Sequence(0), now + Duration::from_secs(1));
        sessions.take(id(3), &Scopes::None, Sequence(0), now + Duration::from_secs(2)).unwrap();
        let known: Vec<u8> = lock(&sessions.known).sessions.keys().map(|id| id[0]).collect();
        assert!(known.contains(&1) && known.contains(&3), "{known:?}");
    }

    #[test]
    fn a_page_that_comes_and_goes_costs_no_more_each_time() {
        let (sessions, now) = (sessions(10), Instant::now());
        for milliseconds in 0..10_000 {
            let now = now + Duration::from_millis(milliseconds);
            let hold = sessions.take(id(1), &Scopes::None, Sequence(0), now).unwrap().hold;
            sessions.leave(&hold, Vec::new(), Sequence(0), now);
        }
        assert!(lock(&sessions.known).gone.len() < 1000);
    }
}
