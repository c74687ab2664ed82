//! The subscribers of one fan-out task, and what it sends them.

use std::sync::{
    Arc, Mutex, OnceLock,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use slab::Slab;
use tokio::sync::Notify;

use super::super::{delivery::batch::Repeat, subscriber::Subscriber};
use crate::{lock::lock, sequence::Sequence};

/// Sockets written to before a fan-out task lets others run.
pub(super) const YIELD_EVERY: usize = 128;
/// Beyond so many repeats that wait, those of an entity become one.
const WAITING: usize = 16;

/// The subscribers one fan-out task serves.
#[derive(Default)]
pub(crate) struct Shard {
    pub(super) subscribers: Mutex<Slab<Arc<Subscriber>>>,
    pub(super) news: Arc<Notify>,
    repeats: Mutex<Vec<Repeat>>,
    served: AtomicBool,
    /// Where the fan-out stands: everything before it has been handed out or left to the slow path.
    position: OnceLock<AtomicU64>,
}

impl Shard {
    /// Begins to serve it, where no task does.
    pub(super) fn begin(self: &Arc<Self>, log_end: impl FnOnce() -> Sequence) -> Option<Served> {
        // The flag is read first, since every subscriber that is woken does so.
        if self.served.load(Ordering::Acquire) {
            return None;
        }
        // Fixed before any subscriber's first round of the slow path, which reads what came earlier.
        self.position.get_or_init(|| AtomicU64::new(log_end().0));
        (!self.served.swap(true, Ordering::AcqRel)).then(|| Served(self.clone()))
    }

    pub(super) fn position(&self) -> Sequence {
        self.position.get().map_or(Sequence::ZERO, |position| Sequence(position.load(Ordering::Acquire)))
    }

    pub(super) fn move_to(&self, end: Sequence) {
        if let Some(position) = self.position.get() {
            position.store(end.0, Ordering::Release);
        }
    }

    /// Adds a subscriber, and returns its place.
    pub(super) fn add(&self, subscriber: Arc<Subscriber>) -> usize {
        let mut subscribers = lock(&self.subscribers);
        if subscribers.is_empty() {
            // What waits was meant for subscribers that have left.
            lock(&self.repeats).clear();
        }
        subscribers.insert(subscriber)
    }

    pub(super) fn remove(&self, place: usize) {
        let removed = lock(&self.subscribers).try_remove(place);
        // It may be the last to hold the application's data, which ends under no lock.
        drop(removed);
    }

    /// Sends something once more to all subscribers. It waits while no task serves the shard. Takes no lock under which
    /// others are taken, since the caller may hold the log.
    pub(super) fn repeat(&self, repeat: Repeat) {
        let mut repeats = lock(&self.repeats);
        let are_many = repeats.len() >= WAITING;
        if !(are_many && repeats.iter_mut().any(|known| known.merge(&repeat))) {
            repeats.push(repeat);
        }
        drop(repeats);
        self.news.notify_one();
    }

    /// What was to be sent first.
    pub(super) fn next_repeat(&self) -> Option<Repeat> {
        let mut repeats = lock(&self.repeats);
        (!repeats.is_empty()).then(|| repeats.remove(0))
    }

    /// What could not be sent yet is the next again.
    pub(super) fn put_back(&self, repeat: Repeat) {
        lock(&self.repeats).insert(0, repeat);
        self.news.notify_one();
    }

    /// Keeps a repeat until it is sent: if the task ends meanwhile, the next task sends it.
    pub(super) fn sending(&self, repeat: Repeat) -> Sending<'_> {
        Sending { shard: self, repeat: Some(repeat) }
    }

    /// Wakes the own tasks of all subscribers, under no lock.
    pub(super) fn wake_subscribers(&self) {
        let subscribers: Vec<Arc<Subscriber>> =
            lock(&self.subscribers).iter().map(|(_, subscriber)| subscriber.clone()).collect();
        subscribers.iter().for_each(|subscriber| subscriber.wake());
    }

    #[cfg(test)]
    pub(crate) fn is_served(&self) -> bool {
        self.served.load(Ordering::Acquire)
    }

    /// Does something with everyone, letting others run in between.
    pub(super) async fn for_each(&self, mut act: impl FnMut(&[Arc<Subscriber>])) {
        let mut from = Some(0);
        let mut some = Vec::with_capacity(YIELD_EVERY);
        while let Some(place) = from {
            some.clear();
            from = self.some(place, &mut some);
            act(&some);
            tokio::task::yield_now().await;
        }
    }

    /// Up to `YIELD_EVERY` subscribers from a place on, and the place to go on from.
    fn some(&self, from: usize, into: &mut Vec<Arc<Subscriber>>) -> Option<usize> {
        let subscribers = lock(&self.subscribers);
        let until = from + YIELD_EVERY;
        into.extend((from..until).filter_map(|place| subscribers.get(place)).cloned());
        (until < subscribers.capacity()).then_some(until)
    }
}

/// Marks a shard as served for as long as its task lives.
///
/// A task ends with its runtime, while subscribers on other runtimes go on. They are woken, and the first of them starts
/// the next task.
pub(super) struct Served(Arc<Shard>);

impl Served {
    pub(super) fn shard(&self) -> &Shard {
        &self.0
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // Before the subscribers are woken: they look at this flag.
        self.0.served.store(false, Ordering::Release);
        self.0.wake_subscribers();
    }
}

/// A repeat that is being sent.
pub(super) struct Sending<'s> {
    shard: &'s Shard,
    repeat: Option<Repeat>,
}

impl Sending<'_> {
    pub(super) fn finish(mut self) {
        self.repeat = None;
    }
}

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        if let Some(repeat) = self.repeat.take() {
            self.shard.put_back(repeat);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_has_its_position_before_it_is_served() {
        let shard = Arc::new(Shard::default());
        let log_end = || {
            assert!(!shard.is_served());
            Sequence(7)
        };
        let served = shard.begin(log_end).unwrap();
        assert!(shard.is_served() && shard.position() == Sequence(7));
        assert!(shard.begin(|| Sequence(8)).is_none());
        drop(served);
        assert!(!shard.is_served() && shard.begin(|| Sequence(9)).is_some() && shard.position() == Sequence(7));
    }
}
