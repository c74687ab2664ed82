//! A keyed lock: one write per object at a time, so that the order published is the order committed.
//!
//! Waiting writes have three classes, in this order:
//! - Writes whose body has arrived.
//! - Deletions without a body. They share the lock, since their order makes no difference.
//! - Other writes without a body. No page sends these.
//!
//! Writes without a body come last because any client can send one, authorized or not, at no cost.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::sync::oneshot;

use crate::{entity::EntityIndex, lock::lock};

type Key = (EntityIndex, Arc<str>);

/// A mutex for every object that is being written: fair within each class of writes.
#[derive(Debug, Default)]
pub(crate) struct KeyedLock {
    held: Mutex<HashMap<Key, Slot>>,
}

/// The class of a write, in the order in which classes get the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Its body has arrived.
    Arrived,
    /// It has no body and deletes: it shares the lock with others of this class.
    BodilessDelete,
    /// It has no body.
    Bodiless,
}

/// An object's lock while it is held, with those who wait.
#[derive(Debug)]
struct Slot {
    holders: usize,
    /// The holders are deletions that share it.
    is_shared: bool,
    /// The queue of each class.
    waiting: [VecDeque<oneshot::Sender<KeyedGuard>>; 3],
}

/// Holds an object's lock until it is dropped.
#[derive(Debug)]
pub(crate) struct KeyedGuard {
    /// `None` where the lock is released already.
    lock: Option<Arc<KeyedLock>>,
    key: Key,
}

/// A place in the queue for an object's lock.
#[derive(Debug)]
pub(crate) struct Waiter(oneshot::Receiver<KeyedGuard>);

impl KeyedLock {
    /// Takes the object's lock, or else a place in its queue.
    pub(crate) fn take(
        self: &Arc<Self>,
        entity: EntityIndex,
        id: Arc<str>,
        access: Access,
    ) -> Result<KeyedGuard, Waiter> {
        let key: Key = (entity, id);
        let mut held = lock(&self.held);
        let slot = match held.entry(key.clone()) {
            Entry::Occupied(slot) => slot.into_mut(),
            Entry::Vacant(free) => {
                let is_shared = access == Access::BodilessDelete;
                free.insert(Slot { holders: 1, is_shared, waiting: Default::default() });
                return Ok(self.guard(key));
            }
        };
        // Most cancelled waiters are the oldest; the others are skipped when the lock would go to them.
        for waiting in &mut slot.waiting {
            while waiting.front().is_some_and(oneshot::Sender::is_closed) {
                waiting.pop_front();
            }
        }
        let [arrived, deletes, _] = &slot.waiting;
        if access == Access::BodilessDelete && slot.is_shared && arrived.is_empty() && deletes.is_empty() {
            slot.holders += 1;
            return Ok(self.guard(key));
        }
        let (give, waiter) = oneshot::channel();
        slot.waiting[access as usize].push_back(give);
        Err(Waiter(waiter))
    }

    fn guard(self: &Arc<Self>, key: Key) -> KeyedGuard {
        KeyedGuard { lock: Some(self.clone()), key }
    }

    /// Some holders have released the lock; it goes to the next waiters that are still there.
    fn release(self: Arc<Self>, key: &Key, mut released: usize) {
        while released > 0 {
            let next = {
                let mut held = lock(&self.held);
                let Entry::Occupied(mut entry) = held.entry(key.clone()) else { return };
                let slot = entry.get_mut();
                slot.holders -= released;
                if slot.holders > 0 {
                    return;
                }
                let next = slot.next();
                if next.is_empty() {
                    entry.remove();
                }
                next
            };
            // A waiter that is cancelled now drops the guard, which passes the lock on. One cancelled before returns
            // it.
            released = next
                .into_iter()
                .filter_map(|next| next.send(self.guard(key.clone())).err())
                .map(|mut unclaimed| unclaimed.lock = None)
                .count();
        }
    }
}

impl Slot {
    /// The waiters that get the lock next, counted as its holders: one, or all deletions, which share it.
    fn next(&mut self) -> Vec<oneshot::Sender<KeyedGuard>> {
        let [arrived, deletes, bodiless] = &mut self.waiting;
        self.is_shared = arrived.is_empty() && !deletes.is_empty();
        let next: Vec<_> = if self.is_shared {
            deletes.drain(..).collect()
        } else {
            arrived.pop_front().or_else(|| bodiless.pop_front()).into_iter().collect()
        };
        self.holders = next.len();
        next
    }
}

impl Waiter {
    /// Waits for the lock; `None` after `limit`.
    pub(crate) async fn wait(self, limit: Duration) -> Option<KeyedGuard> {
        tokio::time::timeout(limit, self.0).await.ok()?.ok()
    }
}

impl Drop for KeyedGuard {
    fn drop(&mut self) {
        if let Some(lock) = self.lock.take() {
            lock.release(&self.key, 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Access::{Arrived, Bodiless, BodilessDelete};
    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    impl KeyedLock {
        async fn wait(self: Arc<Self>, entity: u16, id: &str) -> Option<KeyedGuard> {
            match self.take(EntityIndex(entity), id.into(), Arrived) {
                Ok(guard) => Some(guard),
                Err(waiter) => waiter.wait(LIMIT).await,
            }
        }
    }

    /// The guard, where the lock has come to this waiter.
    fn guard_of(waiter: &mut Waiter) -> Option<KeyedGuard> {
        waiter.0.try_recv().ok()
    }

    #[tokio::test(start_paused = true)]
    async fn one_at_a_time_and_nothing_is_left_behind() {
        let locks = Arc::new(KeyedLock::default());
        let first = locks.clone().wait(0, "7").await.unwrap();
        assert!(locks.clone().wait(0, "8").await.is_some(), "another object");
        assert!(locks.clone().wait(1, "7").await.is_some(), "another entity");
        assert!(locks.clone().wait(0, "7").await.is_none(), "taken");

        let next = tokio::spawn(locks.clone().wait(0, "7"));
        tokio::task::yield_now().await;
        assert!(!next.is_finished());
        drop(first);
        let second = next.await.unwrap().unwrap();
        assert_eq!(lock(&locks.held).len(), 1);
        drop(second);
        assert_eq!(lock(&locks.held).len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_lock_skips_cancelled_waiters_and_keeps_their_order() {
        for access in [Arrived, Bodiless] {
            let locks = Arc::new(KeyedLock::default());
            let take = || locks.take(EntityIndex(0), "7".into(), access);
            let first = take().unwrap();
            let mut waiting: Vec<Waiter> = (0..5).map(|_| take().unwrap_err()).collect();
            // The first two and the last are cancelled, one of them when the lock is on its way to it already.
            drop(waiting.remove(0));
            drop(waiting.pop());
            drop(first);
            drop(waiting.remove(0));
            let mut last = waiting.pop().unwrap();
            let next = waiting.pop().unwrap().wait(LIMIT).await.expect("the lock");
            assert!(guard_of(&mut last).is_none(), "one at a time");
            drop(next);
            drop(last.wait(LIMIT).await.expect("the lock"));
            assert_eq!(lock(&locks.held).len(), 0);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn cancelled_waiters_are_forgotten_while_the_lock_is_held() {
        let locks = Arc::new(KeyedLock::default());
        let _held = locks.clone().wait(0, "7").await.unwrap();
        for access in [Arrived, Bodiless, BodilessDelete] {
            for _ in 0..100 {
                drop(locks.take(EntityIndex(0), "7".into(), access).unwrap_err());
            }
        }
        assert!(lock(&locks.held).values().flat_map(|slot| &slot.waiting).map(VecDeque::len).sum::<usize>() <= 3);
    }

    #[test]
    fn writes_with_a_body_go_first_and_then_deletions() {
        let locks = Arc::new(KeyedLock::default());
        let take = |access| locks.take(EntityIndex(0), "7".into(), access);
        let first = take(Bodiless).unwrap();
        let mut bodiless = take(Bodiless).unwrap_err();
        let mut delete = take(BodilessDelete).unwrap_err();
        let mut put = take(Arrived).unwrap_err();
        drop(first);
        let held = guard_of(&mut put).expect("overtakes");
        assert!(guard_of(&mut bodiless).is_none() && guard_of(&mut delete).is_none());
        drop(held);
        let held = guard_of(&mut delete).expect("overtakes");
        assert!(guard_of(&mut bodiless).is_none());
        drop(held);
        drop(guard_of(&mut bodiless).expect("the lock"));
        assert_eq!(lock(&locks.held).len(), 0);
    }

    #[test]
    fn deletions_share_the_lock_until_another_class_waits() {
        let locks = Arc::new(KeyedLock::default());
        let take = |access| locks.take(EntityIndex(0), "7".into(), access);
        let sharing: Vec<KeyedGuard> = (0..3).map(|_| take(BodilessDelete).unwrap()).collect();
        let mut put = take(Arrived).unwrap_err();
        let mut late: Vec<Waiter> = (0..3).map(|_| take(BodilessDelete).unwrap_err()).collect();
        let mut bodiless = take(Bodiless).unwrap_err();
        drop(late.remove(1));
        for guard in sharing {
            assert!(guard_of(&mut put).is_none(), "one of them still holds it");
            drop(guard);
        }
        let held = guard_of(&mut put).expect("the lock");
        assert!(late.iter_mut().all(|waiter| guard_of(waiter).is_none()));
        drop(held);
        let sharing: Vec<KeyedGuard> = late.iter_mut().map(|waiter| guard_of(waiter).expect("together")).collect();
        assert!(guard_of(&mut bodiless).is_none());
        drop(sharing);
        drop(guard_of(&mut bodiless).expect("the lock"));
        assert_eq!(lock(&locks.held).len(), 0);
    }
}
