//! One write per object at a time, so that the order told is the order committed.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::sync::oneshot;

use crate::{hub::EntityIndex, lock::lock};

type Key = (EntityIndex, Arc<str>);

/// Whose turn it is, for every object that is being written.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    /// Those who wait for each object whose turn is taken, the longest first.
    taken: Mutex<HashMap<Key, VecDeque<oneshot::Sender<Turn>>>>,
}

/// A turn; the next write of the object begins when it is dropped.
#[derive(Debug)]
pub(crate) struct Turn(Option<Held>);

#[derive(Debug)]
struct Held {
    turns: Arc<Turns>,
    key: Key,
}

/// A place among those who wait.
#[derive(Debug)]
pub(crate) struct Place(oneshot::Receiver<Turn>);

impl Turns {
    /// Takes the object's turn, or else a place among those who wait for it.
    pub(crate) fn take(self: &Arc<Self>, entity: EntityIndex, id: Arc<str>) -> Result<Turn, Place> {
        let key: Key = (entity, id);
        let mut taken = lock(&self.taken);
        let Some(waiting) = taken.get_mut(&key) else {
            taken.insert(key.clone(), VecDeque::new());
            return Ok(Turn(Some(Held { turns: self.clone(), key })));
        };
        // Most who have given up stand in front; the others are skipped when it would be their turn.
        while waiting.front().is_some_and(oneshot::Sender::is_closed) {
            waiting.pop_front();
        }
        let (give, place) = oneshot::channel();
        waiting.push_back(give);
        Err(Place(place))
    }

    /// Who is next; when nobody is, the object is free.
    fn next(&self, key: &Key) -> Option<oneshot::Sender<Turn>> {
        let mut taken = lock(&self.taken);
        let next = taken.get_mut(key)?.pop_front();
        if next.is_none() {
            taken.remove(key);
        }
        next
    }
}

impl Place {
    /// Waits for the turn; `None` when it does not come within `limit`.
    pub(crate) async fn wait(self, limit: Duration) -> Option<Turn> {
        tokio::time::timeout(limit, self.0).await.ok()?.ok()
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // It goes to the first who still waits. Given to one who gives up now, it is dropped there, and goes on.
        while let Some(held) = self.0.take() {
            let Some(next) = held.turns.next(&held.key) else {
                return;
            };
            if let Err(mut refused) = next.send(Self(Some(held))) {
                self.0 = refused.0.take();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    impl Turns {
        async fn wait(self: Arc<Self>, entity: u16, id: &str) -> Option<Turn> {
            match self.take(EntityIndex(entity), id.into()) {
                Ok(turn) => Some(turn),
                Err(place) => place.wait(LIMIT).await,
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_at_a_time_and_nothing_is_left_behind() {
        let turns = Arc::new(Turns::default());
        let first = turns.clone().wait(0, "7").await.unwrap();
        assert!(turns.clone().wait(0, "8").await.is_some(), "another object");
        assert!(turns.clone().wait(1, "7").await.is_some(), "another entity");
        assert!(turns.clone().wait(0, "7").await.is_none(), "taken");

        let next = tokio::spawn(turns.clone().wait(0, "7"));
        tokio::task::yield_now().await;
        assert!(!next.is_finished());
        drop(first);
        let second = next.await.unwrap().unwrap();
        assert_eq!(lock(&turns.taken).len(), 1);
        drop(second);
        assert_eq!(lock(&turns.taken).len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_goes_past_those_who_have_given_up_in_the_order_of_waiting() {
        let turns = Arc::new(Turns::default());
        let take = || turns.take(EntityIndex(0), "7".into());
        let first = take().unwrap();
        let mut waiting: Vec<Place> = (0..5).map(|_| take().unwrap_err()).collect();
        // The first two and the last give up, one of them when the turn is on its way to it already.
        drop(waiting.remove(0));
        drop(waiting.pop());
        drop(first);
        drop(waiting.remove(0));
        let mut last = waiting.pop().unwrap();
        let next = waiting.pop().unwrap().wait(LIMIT).await.expect("the turn");
        assert!(last.0.try_recv().is_err(), "one at a time");
        drop(next);
        drop(last.wait(LIMIT).await.expect("the turn"));
        assert_eq!(lock(&turns.taken).len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_have_given_up_are_forgotten_while_the_turn_is_taken() {
        let turns = Arc::new(Turns::default());
        let _held = turns.clone().wait(0, "7").await.unwrap();
        for _ in 0..100 {
            assert!(turns.clone().wait(0, "7").await.is_none());
        }
        assert_eq!(lock(&turns.taken).values().map(VecDeque::len).sum::<usize>(), 1);
    }
}
