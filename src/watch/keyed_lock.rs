//! One write per object at a time, so that the order published is the order committed.
//!
//! Whoever has sent a whole body goes before those that have none to send: of these nobody knows yet whether they will
//! be let in. Deletions without a body share the lock, since their order makes no difference, and go before what else
//! comes without one: no page sends that.

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

/// What a write asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Its body has arrived: it goes before the others.
    Arrived,
    /// It has no body.
    Bodiless,
    /// It has no body and deletes: it shares the lock with its like.
    BodilessDelete,
}

/// An object's lock, which somebody holds.
#[derive(Debug)]
struct Slot {
    holders: usize,
    /// The holders are deletions that share it.
    is_shared: bool,
    arrived: VecDeque<oneshot::Sender<KeyedGuard>>,
    deletes: VecDeque<oneshot::Sender<KeyedGuard>>,
    bodiless: VecDeque<oneshot::Sender<KeyedGuard>>,
}

/// Holds an object's lock until it is dropped.
#[derive(Debug)]
pub(crate) struct KeyedGuard(Option<Held>);

#[derive(Debug)]
struct Held {
    lock: Arc<KeyedLock>,
    key: Key,
}

/// A place among those who wait.
#[derive(Debug)]
pub(crate) struct Waiter(oneshot::Receiver<KeyedGuard>);

impl KeyedLock {
    /// Takes the object's lock, or else a place among those who wait for it.
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
                free.insert(Slot::new(access == Access::BodilessDelete));
                return Ok(self.guard(key));
            }
        };
        slot.forget_who_gave_up();
        let shares = access == Access::BodilessDelete;
        if shares && slot.is_shared && slot.arrived.is_empty() && slot.deletes.is_empty() {
            slot.holders += 1;
            return Ok(self.guard(key));
        }
        let (give, waiter) = oneshot::channel();
        match access {
            Access::Arrived => slot.arrived.push_back(give),
            Access::BodilessDelete => slot.deletes.push_back(give),
            Access::Bodiless => slot.bodiless.push_back(give),
        }
        Err(Waiter(waiter))
    }

    fn guard(self: &Arc<Self>, key: Key) -> KeyedGuard {
        KeyedGuard(Some(Held { lock: self.clone(), key }))
    }

    /// Some holders are through; the lock goes to the next who still wait.
    fn release(self: Arc<Self>, key: &Key, mut through: usize) {
        while through > 0 {
            let next = {
                let mut held = lock(&self.held);
                let Entry::Occupied(mut place) = held.entry(key.clone()) else { return };
                let slot = place.get_mut();
                slot.holders -= through;
                if slot.holders > 0 {
                    return;
                }
                let next = slot.next();
                if next.is_empty() {
                    place.remove();
                }
                next
            };
            // Given to one who gives up now, it is dropped there, and goes on. One who has given up sends it back.
            through = next
                .into_iter()
                .filter_map(|next| next.send(self.guard(key.clone())).err())
                .map(KeyedGuard::forget)
                .count();
        }
    }
}

impl Slot {
    fn new(is_shared: bool) -> Self {
        Self { holders: 1, is_shared, arrived: VecDeque::new(), deletes: VecDeque::new(), bodiless: VecDeque::new() }
    }

    /// Most who have given up stand in front; the others are skipped when the lock would go to them.
    fn forget_who_gave_up(&mut self) {
        for waiting in [&mut self.arrived, &mut self.deletes, &mut self.bodiless] {
            while waiting.front().is_some_and(oneshot::Sender::is_closed) {
                waiting.pop_front();
            }
        }
    }

    /// Who gets the lock next, counted as its holders: one, or deletions that share it.
    fn next(&mut self) -> Vec<oneshot::Sender<KeyedGuard>> {
        self.is_shared = self.arrived.is_empty() && !self.deletes.is_empty();
        let next: Vec<_> = if self.is_shared {
            self.deletes.drain(..).collect()
        } else {
            self.arrived.pop_front().or_else(|| self.bodiless.pop_front()).into_iter().collect()
        };
        self.holders = next.len();
        next
    }
}

impl Waiter {
    /// Waits for the lock; `None` when it does not come within `limit`.
    pub(crate) async fn wait(self, limit: Duration) -> Option<KeyedGuard> {
        tokio::time::timeout(limit, self.0).await.ok()?.ok()
    }
}

impl KeyedGuard {
    fn forget(mut self) {
        self.0 = None;
    }
}

impl Drop for KeyedGuard {
    fn drop(&mut self) {
        if let Some(Held { lock, key }) = self.0.take() {
            lock.release(&key, 1);
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

    /// True when the lock has come to somebody who waits.
    fn has_it(waiter: &mut Waiter) -> Option<KeyedGuard> {
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
    async fn the_lock_goes_past_those_who_have_given_up_in_the_order_of_waiting() {
        for access in [Arrived, Bodiless] {
            let locks = Arc::new(KeyedLock::default());
            let take = || locks.take(EntityIndex(0), "7".into(), access);
            let first = take().unwrap();
            let mut waiting: Vec<Waiter> = (0..5).map(|_| take().unwrap_err()).collect();
            // The first two and the last give up, one of them when the lock is on its way to it already.
            drop(waiting.remove(0));
            drop(waiting.pop());
            drop(first);
            drop(waiting.remove(0));
            let mut last = waiting.pop().unwrap();
            let next = waiting.pop().unwrap().wait(LIMIT).await.expect("the lock");
            assert!(has_it(&mut last).is_none(), "one at a time");
            drop(next);
            drop(last.wait(LIMIT).await.expect("the lock"));
            assert_eq!(lock(&locks.held).len(), 0);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_have_given_up_are_forgotten_while_the_lock_is_held() {
        let locks = Arc::new(KeyedLock::default());
        let _held = locks.clone().wait(0, "7").await.unwrap();
        for access in [Arrived, Bodiless, BodilessDelete] {
            for _ in 0..100 {
                drop(locks.take(EntityIndex(0), "7".into(), access).unwrap_err());
            }
        }
        let waiting = |slot: &Slot| slot.arrived.len() + slot.deletes.len() + slot.bodiless.len();
        assert!(lock(&locks.held).values().map(waiting).sum::<usize>() <= 3);
    }

    #[test]
    fn a_whole_body_goes_first_and_then_deletions() {
        let locks = Arc::new(KeyedLock::default());
        let take = |access| locks.take(EntityIndex(0), "7".into(), access);
        let first = take(Bodiless).unwrap();
        let mut bodiless = take(Bodiless).unwrap_err();
        let mut delete = take(BodilessDelete).unwrap_err();
        let mut put = take(Arrived).unwrap_err();
        drop(first);
        let held = has_it(&mut put).expect("overtakes");
        assert!(has_it(&mut bodiless).is_none() && has_it(&mut delete).is_none());
        drop(held);
        let held = has_it(&mut delete).expect("overtakes");
        assert!(has_it(&mut bodiless).is_none());
        drop(held);
        drop(has_it(&mut bodiless).expect("the lock"));
        assert_eq!(lock(&locks.held).len(), 0);
    }

    #[test]
    fn deletions_share_the_lock_until_somebody_else_waits() {
        let locks = Arc::new(KeyedLock::default());
        let take = |access| locks.take(EntityIndex(0), "7".into(), access);
        let sharing: Vec<KeyedGuard> = (0..3).map(|_| take(BodilessDelete).unwrap()).collect();
        let mut put = take(Arrived).unwrap_err();
        let mut late: Vec<Waiter> = (0..3).map(|_| take(BodilessDelete).unwrap_err()).collect();
        let mut bodiless = take(Bodiless).unwrap_err();
        drop(late.remove(1));
        for guard in sharing {
            assert!(has_it(&mut put).is_none(), "one of them is not through");
            drop(guard);
        }
        let held = has_it(&mut put).expect("the lock");
        assert!(late.iter_mut().all(|waiter| has_it(waiter).is_none()));
        drop(held);
        let sharing: Vec<KeyedGuard> = late.iter_mut().map(|waiter| has_it(waiter).expect("together")).collect();
        assert!(has_it(&mut bodiless).is_none());
        drop(sharing);
        drop(has_it(&mut bodiless).expect("the lock"));
        assert_eq!(lock(&locks.held).len(), 0);
    }
}
