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
        Delivery, Hub,
        delivery::batch::{Batch, Repeat},
        subscriber::Subscriber,
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
pub(crate) struct Shard {
    pub(crate) subscribers: Mutex<Slab<Arc<Subscriber>>>,
    pub(crate) news: Notify,
    repeats: Mutex<Vec<Repeat>>,
    served: AtomicBool,
    /// Where the fan-out stands: everything before it has been handed out or left to the slow way.
    position: OnceLock<AtomicU64>,
}

impl Shard {
    /// Starts the fan-out task unless one runs, on the runtime of whoever calls.
    pub(crate) fn serve(self: &Arc<Self>, hub: &Arc<Hub>) {
        // The flag is read first, since every subscriber that is woken does so.
        if !self.served.load(Ordering::Acquire) && !self.served.swap(true, Ordering::AcqRel) {
            // Fixed before anybody's first round of the slow way, which reads what came earlier.
            self.position.get_or_init(|| AtomicU64::new(hub.log_end()));
            tokio::spawn(fan_out(Arc::downgrade(hub), Served(self.clone())));
        }
    }

    /// Adds a subscriber, and says at which place.
    pub(crate) fn add(&self, subscriber: Arc<Subscriber>) -> usize {
        let mut subscribers = lock(&self.subscribers);
        if subscribers.is_empty() {
            // What waits was meant for subscribers that have left.
            lock(&self.repeats).clear();
        }
        subscribers.insert(subscriber)
    }

    /// Sends something once more to all subscribers. It waits while no task serves the shard. Takes no lock under which
    /// others are taken, since the caller may hold the log.
    pub(crate) fn repeat(&self, repeat: Repeat) {
        let mut repeats = lock(&self.repeats);
        let are_many = repeats.len() >= WAITING;
        if !(are_many && repeats.iter_mut().any(|known| known.merge(&repeat))) {
            repeats.push(repeat);
        }
        drop(repeats);
        self.news.notify_one();
    }

    /// Wakes the own tasks of all subscribers, under no lock.
    fn wake_subscribers(&self) {
        let subscribers: Vec<Arc<Subscriber>> =
            lock(&self.subscribers).iter().map(|(_, subscriber)| subscriber.clone()).collect();
        subscribers.iter().for_each(|subscriber| subscriber.sink.wake());
    }

    #[cfg(test)]
    pub(crate) fn is_served(&self) -> bool {
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
///
/// A task ends with its runtime, while subscribers on other runtimes go on. They are woken, and the first of them starts
/// the next task: see [`Hub::serve`].
struct Served(Arc<Shard>);

impl Drop for Served {
    fn drop(&mut self) {
        // Before the subscribers are woken: they look at this flag.
        self.0.served.store(false, Ordering::Release);
        self.0.wake_subscribers();
    }
}

impl Hub {
    /// Starts the tasks that serve a subscriber, on the runtime of whoever calls, unless they run.
    pub(crate) fn serve(self: &Arc<Self>, subscriber: &Subscriber) {
        if let Some(shard) = subscriber.seat.get().and_then(|&(at, _)| self.shards().get(at)) {
            shard.serve(self);
        }
        if self.delivery == Delivery::Converging {
            self.settler.serve(self);
        }
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
            // Before the batch is handed out: if this task ends meanwhile, all subscribers are woken and read it themselves.
            position.store(batch.end, Ordering::Release);
            shard.for_each(|some| deliver(&hub, some, &batch)).await;
            continue;
        }
        let Some(repeat) = lock(&shard.repeats).pop() else {
            shard.news.notified().await;
            continue;
        };
        let Some(repeat_batch) = hub.upgrade().map(|hub| hub.repeat_batch(&repeat)) else {
            return;
        };
        if repeat_batch.until == batch.start {
            let mut sending = Sending { shard, repeat: Some(repeat) };
            let say = |some: &[Arc<Subscriber>]| {
                if let Some(hub) = hub.upgrade() {
                    some.iter().for_each(|it| it.repeat(&hub, &repeat_batch, batch.now));
                }
            };
            shard.for_each(say).await;
            sending.repeat = None;
        } else {
            // Something new has come in between, which everybody must have first.
            shard.repeat(repeat);
        }
    }
}

/// A repeat that is being sent. If the task ends meanwhile, the next task sends it.
struct Sending<'s> {
    shard: &'s Shard,
    repeat: Option<Repeat>,
}

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        if let Some(repeat) = self.repeat.take() {
            self.shard.repeat(repeat);
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
        few.iter().for_each(|subscriber| subscriber.prefetch());
        for subscriber in few {
            subscriber.deliver(&hub, batch, &mut wanted, &mut frames);
        }
    }
}

/// The task that says again what has settled; there is one as long as somebody listens.
#[derive(Debug, Default)]
pub(crate) struct Settler {
    runs: Arc<AtomicBool>,
    pub(crate) news: Arc<Notify>,
}

impl Settler {
    pub(crate) fn serve(&self, hub: &Arc<Hub>) {
        if !self.runs.load(Ordering::Acquire) && !self.runs.swap(true, Ordering::AcqRel) {
            let turn = Running { runs: self.runs.clone(), hub: Arc::downgrade(hub) };
            tokio::spawn(settle(turn, self.news.clone(), hub.times.reminders.wait(0)));
        }
    }
}

/// Marks the settling task as running for as long as it lives. As with [`Served`], the subscribers start the next one.
struct Running {
    runs: Arc<AtomicBool>,
    hub: Weak<Hub>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.runs.store(false, Ordering::Release);
        if let Some(hub) = self.hub.upgrade() {
            hub.shards().iter().for_each(|shard| shard.wake_subscribers());
        }
    }
}

async fn settle(turn: Running, news: Arc<Notify>, first_reminder: Option<Duration>) {
    let hub = &turn.hub;
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

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::runtime::{Builder, Runtime};

    use super::*;
    use crate::{
        change::Change,
        hub::{
            Accepted, Cleared, EntityEncoder, EntityIndex, FrameSink, Progress, ResumeFrom, delivery::batch::Resent,
            tests,
        },
    };

    const EVENTS: EntityIndex = EntityIndex(0);

    /// An sink that takes everything.
    #[derive(Default)]
    struct Page {
        frames: Mutex<usize>,
        woken: AtomicBool,
    }

    impl Page {
        fn heard(&self) -> usize {
            std::mem::take(&mut *lock(&self.frames))
        }

        fn is_woken(&self) -> bool {
            self.woken.swap(false, Ordering::Relaxed)
        }
    }

    impl FrameSink for Page {
        fn try_send(&self, frames: &[&Cleared]) -> Accepted {
            *lock(&self.frames) += frames.len();
            Accepted { frames: frames.len(), clear: true }
        }

        fn is_direct(&self) -> bool {
            true
        }

        fn wake(&self) {
            self.woken.store(true, Ordering::Relaxed);
        }
    }

    fn runtime() -> Runtime {
        Builder::new_current_thread().enable_time().build().unwrap()
    }

    fn run(runtime: &Runtime) {
        runtime.block_on(tests::let_others_run());
    }

    fn hub() -> Arc<Hub> {
        tests::hub_of(vec![EntityEncoder::new("events", "event")], 1000, Delivery::Converging)
    }

    /// A page whose task is on this runtime, and which stands at the head of the log.
    fn page(runtime: &Runtime, hub: &Arc<Hub>) -> (Arc<Page>, Arc<Subscriber>) {
        let page = Arc::new(Page::default());
        let subscriber = runtime.block_on(async {
            let subscriber = hub.join(page.clone(), tests::ann(), ResumeFrom::Unknown);
            hub.subscribe(&subscriber, EVENTS, Instant::now());
            assert!(matches!(hub.catch_up(&subscriber, Instant::now()), Progress::CaughtUp(_)));
            tests::let_others_run().await;
            subscriber
        });
        page.is_woken();
        (page, subscriber)
    }

    fn publish(hub: &Hub, id: u32) {
        hub.publish(EVENTS, &[Change::update(&json!({ "id": id })).unwrap()], None);
    }

    fn repeat(hub: &Hub) {
        let told = 0..hub.log_end();
        hub.repeat(&Repeat { entity: EVENTS, what: Resent::Settled { told, is_last: false, known_before: 0 } });
    }

    fn settles(hub: &Hub) -> bool {
        hub.settler.runs.load(Ordering::Acquire)
    }

    #[test]
    fn when_a_runtime_ends_subscribers_on_others_are_woken_and_start_the_tasks_again() {
        let (hub, [first, second]) = (hub(), [(); 2].map(|()| runtime()));
        let (_gone, gone) = page(&first, &hub);
        let (stays, subscriber) = page(&second, &hub);
        let shard = hub.shards()[0].clone();
        publish(&hub, 1);
        run(&first);
        assert_eq!(stays.heard(), 1, "the first runtime serves both");
        drop(first);
        hub.leave(&gone, Instant::now());
        assert!(!shard.is_served() && !settles(&hub));
        assert!(stays.is_woken());

        publish(&hub, 2);
        repeat(&hub);
        run(&second);
        assert_eq!(stays.heard(), 0, "no task serves it");
        second.block_on(async { hub.serve(&subscriber) });
        assert!(shard.is_served() && settles(&hub));
        run(&second);
        assert_eq!(stays.heard(), 3, "what is new, and both once more");
    }

    #[test]
    fn what_was_being_sent_when_a_runtime_ended_is_sent_by_the_next() {
        for what in [|hub: &Hub| publish(hub, 2), repeat] {
            let (hub, [first, second]) = (hub(), [(); 2].map(|()| runtime()));
            let (_gone, gone) = page(&first, &hub);
            // More than are told in one turn.
            let pages: Vec<_> = (0..=YIELD_EVERY).map(|_| page(&second, &hub)).collect();
            publish(&hub, 1);
            run(&first);
            assert!(pages.iter().all(|(page, _)| page.heard() == 1));
            what(&hub);
            first.block_on(tokio::task::yield_now());
            drop(first);
            hub.leave(&gone, Instant::now());
            let untold: Vec<_> = pages.iter().filter(|(page, _)| page.heard() == 0).collect();
            assert!(!untold.is_empty() && untold.len() < pages.len());

            assert!(pages.iter().all(|(page, _)| page.is_woken()));
            second.block_on(async {
                for (_, subscriber) in &pages {
                    hub.serve(subscriber);
                    hub.catch_up(subscriber, Instant::now());
                }
            });
            run(&second);
            assert!(untold.iter().all(|(page, _)| page.heard() == 1));
        }
    }

    #[test]
    fn repeats_for_subscribers_that_have_left_are_not_sent_to_new_ones() {
        let (hub, [first, second]) = (hub(), [(); 2].map(|()| runtime()));
        let (_gone, gone) = page(&first, &hub);
        publish(&hub, 1);
        drop(first);
        repeat(&hub);
        hub.leave(&gone, Instant::now());
        let (comes, _) = page(&second, &hub);
        run(&second);
        assert_eq!(comes.heard(), 0);
    }
}
