//! One write per object at a time, so that the order told is the order committed.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use crate::{hub::EntityIndex, lock::lock};

type Key = (EntityIndex, Box<str>);

/// Whose turn it is, for every object that is being written.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    waiting: Mutex<HashMap<Key, Arc<tokio::sync::Mutex<()>>>>,
}

/// A turn; the next write of the object begins when it is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    // Dropped before the place, which then sees whether anybody else waits.
    _guard: tokio::sync::OwnedMutexGuard<()>,
    _place: Place,
}

/// A place in the queue of one object.
#[derive(Debug)]
struct Place {
    turns: Arc<Turns>,
    key: Key,
    /// Gone only while it is dropped.
    queue: Option<Arc<tokio::sync::Mutex<()>>>,
}

impl Turns {
    /// Waits for the object's turn; `None` when it does not come within `limit`.
    pub(crate) async fn take(self: Arc<Self>, entity: EntityIndex, id: &str, limit: Duration) -> Option<Turn> {
        let key: Key = (entity, id.into());
        let queue = lock(&self.waiting).entry(key.clone()).or_default().clone();
        let place = Place { turns: self, key, queue: Some(queue.clone()) };
        let guard = tokio::time::timeout(limit, queue.lock_owned()).await.ok()?;
        Some(Turn { _guard: guard, _place: place })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut waiting = lock(&self.turns.waiting);
        // Let go under the lock: of two places dropped at once, one sees that nobody is left.
        drop(self.queue.take());
        if waiting.get(&self.key).is_some_and(|queue| Arc::strong_count(queue) == 1) {
            waiting.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn one_at_a_time_and_nothing_is_left_behind() {
        let turns = Arc::new(Turns::default());
        let entity = EntityIndex(0);
        let first = turns.clone().take(entity, "7", LIMIT).await.unwrap();
        assert!(turns.clone().take(entity, "8", LIMIT).await.is_some(), "another object");
        assert!(turns.clone().take(EntityIndex(1), "7", LIMIT).await.is_some(), "another entity");
        assert!(turns.clone().take(entity, "7", LIMIT).await.is_none(), "taken");

        let next = tokio::spawn(turns.clone().take_owned(entity, "7"));
        tokio::task::yield_now().await;
        assert!(!next.is_finished());
        drop(first);
        let second = next.await.unwrap().unwrap();
        assert_eq!(lock(&turns.waiting).len(), 1);
        drop(second);
        assert_eq!(lock(&turns.waiting).len(), 0);
    }

    impl Turns {
        async fn take_owned(self: Arc<Self>, entity: EntityIndex, id: &'static str) -> Option<Turn> {
            self.take(entity, id, LIMIT).await
        }
    }
}
