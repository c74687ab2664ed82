//! The fast way: one task per worker hands what is new to the subscribers of its shard, and one says again what has
//! settled.

use std::{
    sync::{
        Arc, Mutex, OnceLock, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use slab::Slab;
use tokio::{
    sync::Notify,
    time::{Instant, MissedTickBehavior, interval_at, sleep_until},
};

use crate::{
    hub::{
        Hub,
        feed::Subscriber,
        handout::{Batch, Repeat},
    },
    lock::lock,
};

/// Sockets written to before a fan-out task lets others run.
const YIELD_EVERY: usize = 128;
/// Subscribers whose memory is fetched at one time: between two visits it has left the processor's caches.
const TOUCH_AT_ONCE: usize = 16;
/// Beyond so many that wait to be told again, those of an entity become one.
const WAITING: usize = 16;
/// As good as never.
const FAR: Duration = Duration::from_secs(365 * 24 * 3600);
/// While writes come, it is looked this often whether they have gone quiet.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// The subscribers one fan-out task serves.
#[derive(Default)]
pub(super) struct Shard {
    pub(super) subscribers: Mutex<Slab<Arc<Subscriber>>>,
    pub(super) news: Notify,
    repeats: Mutex<Vec<Repeat>>,
    served: AtomicBool,
    /// Where the fan-out stands: everything before it has been handed out or left to the slow way.
    position: OnceLock<AtomicU64>,
}

impl Shard {
    /// Starts the fan-out task unless one runs. A runtime that went away has taken its task along; the next
    /// subscriber's runtime then starts another.
    pub(super) fn serve(self: &Arc<Self>, hub: &Arc<Hub>) {
        if !self.served.swap(true, Ordering::AcqRel) {
            // Fixed before anybody's first round of the slow way, which reads what came earlier.
            self.position.get_or_init(|| AtomicU64::new(hub.head()));
            tokio::spawn(fan_out(Arc::downgrade(hub), Served(self.clone())));
        }
    }

    /// Has everyone told once more, unless nobody is served here.
    pub(super) fn repeat(&self, repeat: Repeat) {
        let mut repeats = lock(&self.repeats);
        let are_many = repeats.len() >= WAITING;
        let is_served = self.served.load(Ordering::Acquire);
        if is_served && !(are_many && repeats.iter_mut().any(|known| known.merge(&repeat))) {
            repeats.push(repeat);
        }
        drop(repeats);
        self.news.notify_one();
    }

    #[cfg(test)]
    pub(super) fn is_served(&self) -> bool {
        self.served.load(Ordering::Acquire)
    }

    /// Up to `YIELD_EVERY` subscribers from a place on, and the place to go on from.
    fn some(&self, from: usize, into: &mut Vec<Arc<Subscriber>>) -> Option<usize> {
        let subscribers = lock(&self.subscribers);
        let until = from + YIELD_EVERY;
        into.extend((from..until).filter_map(|place| subscribers.get(place)).cloned());
        (until < subscribers.capacity()).then_some(until)
    }

    /// Does something with everyone, letting others run in between.
    async fn for_each(&self, mut act: impl FnMut(&[Arc<Subscriber>])) {
        let mut from = Some(0);
        let mut some = Vec::with_capacity(YIELD_EVERY);
        while let Some(place) = from {
            some.clear();
            from = self.some(place, &mut some);
            act(&some);
            tokio::task::yield_now().await;
        }
    }
}

/// Marks a shard as served for as long as its task lives.
struct Served(Arc<Shard>);

impl Drop for Served {
    fn drop(&mut self) {
        let mut repeats = lock(&self.0.repeats);
        repeats.clear();
        self.0.served.store(false, Ordering::Release);
    }
}

async fn fan_out(hub: Weak<Hub>, turn: Served) {
    let shard = &turn.0;
    let Some(position) = shard.position.get() else {
        return;
    };
    loop {
        let Some(batch) = hub.upgrade().map(|hub| hub.batch(position.load(Ordering::Acquire))) else {
            return;
        };
        if !batch.records.is_empty() || batch.is_torn {
            shard.for_each(|some| deliver(&hub, some, &batch)).await;
            position.store(batch.end, Ordering::Release);
            continue;
        }
        let Some(repeat) = lock(&shard.repeats).pop() else {
            shard.news.notified().await;
            continue;
        };
        let Some(repetition) = hub.upgrade().map(|hub| hub.repetition(&repeat)) else {
            return;
        };
        if repetition.until == batch.start {
            let say = |some: &[Arc<Subscriber>]| {
                if let Some(hub) = hub.upgrade() {
                    some.iter().for_each(|it| it.repeat(&hub, &repetition, batch.now));
                }
            };
            shard.for_each(say).await;
        } else {
            // Something new has come in between, which everybody must have first.
            shard.repeat(repeat);
        }
    }
}

/// Hands a batch to some of a shard's subscribers.
fn deliver(hub: &Weak<Hub>, some: &[Arc<Subscriber>], batch: &Batch) {
    let Some(hub) = hub.upgrade() else {
        return;
    };
    let (mut wanted, mut frames) = (Vec::new(), Vec::new());
    for few in some.chunks(TOUCH_AT_ONCE) {
        few.iter().for_each(|subscriber| subscriber.touch());
        for subscriber in few {
            subscriber.deliver(&hub, batch, &mut wanted, &mut frames);
        }
    }
}

/// The task that says again what has settled; there is one as long as somebody listens.
#[derive(Debug, Default)]
pub(super) struct Settler {
    runs: Arc<AtomicBool>,
    pub(super) news: Arc<Notify>,
}

impl Settler {
    pub(super) fn serve(&self, hub: &Arc<Hub>) {
        if !self.runs.swap(true, Ordering::AcqRel) {
            let turn = Running(self.runs.clone());
            tokio::spawn(settle(Arc::downgrade(hub), self.news.clone(), hub.times.reminders.wait(0), turn));
        }
    }
}

struct Running(Arc<AtomicBool>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

async fn settle(hub: Weak<Hub>, news: Arc<Notify>, first_reminder: Option<Duration>, _turn: Running) {
    // Twice as often as the first reminder: each page's own may be due at any time.
    let every = first_reminder.unwrap_or(FAR).max(Duration::from_millis(2)) / 2;
    let mut hidden = interval_at(Instant::now() + every, every);
    hidden.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let now = Instant::now();
        let Some((settles, reminds)) = hub.upgrade().map(|hub| (hub.settle(now), hub.remind_of_deletions(now))) else {
            return;
        };
        let due = settles.map(|due| due.min(now + LOOK_EVERY)).into_iter().chain(reminds).min();
        tokio::select! {
            () = news.notified() => {}
            () = sleep_until(due.unwrap_or(now)), if due.is_some() => {}
            _ = hidden.tick() => {
                if let Some(hub) = hub.upgrade() {
                    hub.remind_of_hidden();
                }
            }
        }
    }
}
