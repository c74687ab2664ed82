//! The fast path of the broadcast: one task per worker sends new records and repeats to the subscribers of its shard.
//! One more task decides what is repeated: what has settled, and deletions.

mod repeat;
mod shard;

use std::{
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

use self::shard::{Served, Shard};
use super::{
    append,
    core::{Core, Delivery},
    delivery::batch::{Batch, Repeat},
    log::Addressee,
    subscriber::{FrameSink, ResumeFrom, Subscriber},
};
use crate::{auth::Identity, entity::EntityIndex, lock::lock, scope::Scopes};

/// Subscribers whose memory is fetched at one time: between two visits it has left the processor's caches.
const PREFETCHED: usize = 16;
/// While writes come, it is looked this often whether they have gone quiet.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// All subscribers, and the tasks that serve them. The tasks end with it.
pub(super) struct Fanout {
    core: Arc<Core>,
    shards: OnceLock<Box<[Arc<Shard>]>>,
    /// Subscribers so far.
    joined: AtomicUsize,
    settles: Arc<AtomicBool>,
}

impl Fanout {
    pub(super) fn new(core: Arc<Core>) -> Self {
        Self { core, shards: OnceLock::new(), joined: AtomicUsize::new(0), settles: Arc::default() }
    }

    /// Adds a subscriber, with no subscriptions yet, and makes sure that a task serves it. Needs a runtime.
    pub(super) fn join(
        self: &Arc<Self>,
        sink: Arc<dyn FrameSink>,
        identity: Identity,
        resume: ResumeFrom,
    ) -> Arc<Subscriber> {
        let shards = self.shards.get_or_init(|| {
            let workers = tokio::runtime::Handle::current().metrics().num_workers();
            let shards: Box<[_]> = (0..workers).map(|_| Arc::new(Shard::default())).collect();
            self.core.fan_out.get_or_init(|| shards.iter().map(|shard| shard.news.clone()).collect());
            shards
        });
        let number = self.joined.fetch_add(1, Ordering::Relaxed);
        let at = number % shards.len();
        let (subscriber, before) = Subscriber::join(self.core.clone(), sink, identity, resume, number);
        let place = shards[at].add(subscriber.clone());
        subscriber.slot.get_or_init(|| (at, place));
        // Where its page answers still, another page has the same key.
        if let Some(before) = before {
            before.ask();
        }
        self.serve(&subscriber);
        subscriber
    }

    /// Takes a subscriber off its shard.
    pub(super) fn remove(&self, subscriber: &Subscriber) {
        if let Some(&(shard, place)) = subscriber.slot.get() {
            self.shards()[shard].remove(place);
        }
    }

    /// Starts the tasks that serve a subscriber, on the runtime of the caller, unless they run.
    pub(super) fn serve(self: &Arc<Self>, subscriber: &Subscriber) {
        if let Some(shard) = subscriber.slot.get().and_then(|&(at, _)| self.shards().get(at)) {
            if let Some(served) = shard.begin(|| self.core.log_end()) {
                tokio::spawn(fan_out(Arc::downgrade(self), self.core.clone(), served));
            }
        }
        let settles = self.core.delivery == Delivery::Converging;
        if settles && !self.settles.load(Ordering::Acquire) && !self.settles.swap(true, Ordering::AcqRel) {
            let running = Running { runs: self.settles.clone(), fanout: Arc::downgrade(self) };
            tokio::spawn(settle(running, self.core.clone()));
        }
    }

    /// How many follow an entity at the moment who receive what is published in these scopes for this addressee.
    pub(super) fn audience(&self, entity: EntityIndex, scopes: &Scopes, addressee: &Addressee) -> usize {
        let would_receive = |subscriber: &Subscriber| subscriber.would_receive(entity, scopes, addressee);
        let of_shard = |shard: &Arc<Shard>| {
            let subscribers = lock(&shard.subscribers);
            subscribers.iter().filter(|(_, subscriber)| would_receive(subscriber)).count()
        };
        self.shards().iter().map(of_shard).sum()
    }

    pub(super) fn shards(&self) -> &[Arc<Shard>] {
        self.shards.get().map_or(&[], |shards| shards)
    }

    /// Resends what has settled; returns when to look next.
    pub(super) fn settle(&self, now: Instant) -> Option<Instant> {
        let (repeats, next) = repeat::settled(&self.core, now);
        repeats.iter().for_each(|repeat| self.repeat(repeat));
        next
    }

    /// Resends what was deleted lately; returns when to look next.
    fn remind(&self, now: Instant) -> Option<Instant> {
        let (repeats, next) = repeat::deletions(&self.core, now);
        repeats.iter().for_each(|repeat| self.repeat(repeat));
        next
    }

    pub(super) fn repeat(&self, repeat: &Repeat) {
        for shard in self.shards() {
            shard.repeat(repeat.clone());
        }
    }
}

impl Drop for Fanout {
    fn drop(&mut self) {
        // The tasks wake, find it gone, and end.
        self.core.wake();
        self.core.settling.notify_one();
    }
}

async fn fan_out(fanout: Weak<Fanout>, core: Arc<Core>, served: Served) {
    let shard = served.shard();
    while fanout.strong_count() > 0 {
        let batch = Batch::after(&core, shard.position());
        if !batch.records.is_empty() || batch.is_torn {
            // Before the batch is handed out: if this task ends meanwhile, all subscribers are woken and read it themselves.
            shard.move_to(batch.end);
            shard.for_each(|some| deliver(some, &batch)).await;
            continue;
        }
        let Some(repeat) = shard.next_repeat() else {
            shard.news.notified().await;
            continue;
        };
        let prepared = repeat.prepare(&core);
        if prepared.until == batch.start {
            let sending = shard.sending(repeat);
            shard.for_each(|some| some.iter().for_each(|it| it.repeat(&prepared, batch.now))).await;
            sending.finish();
        } else {
            // Something new has come in between, which every page must have first.
            shard.put_back(repeat);
        }
    }
}

/// Hands a batch to some of a shard's subscribers.
fn deliver(some: &[Arc<Subscriber>], batch: &Batch) {
    let (mut addressed, mut sequences, mut frames) = (Vec::new(), Vec::new(), Vec::new());
    for few in some.chunks(PREFETCHED) {
        few.iter().for_each(|subscriber| subscriber.prefetch());
        for subscriber in few {
            subscriber.deliver(batch, &mut addressed, (&mut sequences, &mut frames));
        }
    }
}

/// Marks the settling task as running for as long as it lives. As with a shard's task, the subscribers start the next one.
struct Running {
    runs: Arc<AtomicBool>,
    fanout: Weak<Fanout>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.runs.store(false, Ordering::Release);
        if let Some(fanout) = self.fanout.upgrade() {
            fanout.shards().iter().for_each(|shard| shard.wake_subscribers());
        }
    }
}

async fn settle(running: Running, core: Arc<Core>) {
    loop {
        let now = Instant::now();
        let look = |fanout: Arc<Fanout>| (fanout.settle(now), fanout.remind(now));
        let releases = append::release(&core, now);
        let Some((settles, reminds)) = running.fanout.upgrade().map(look) else { return };
        let due = settles.map(|due| due.min(now + LOOK_EVERY)).into_iter().chain(reminds).chain(releases).min();
        tokio::select! {
            () = core.settling.notified() => {}
            () = sleep_until(due.unwrap_or(now)), if due.is_some() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use serde_json::json;
    use tokio::runtime::{Builder, Runtime};

    use super::{shard::YIELD_EVERY, *};
    use crate::{
        change::Change,
        hub::{Accepted, Cleared, EntityEncoder, FrameSink, Hub, Progress, ResumeFrom, delivery::batch::Resent, tests},
        sequence::Sequence,
    };

    const EVENTS: EntityIndex = EntityIndex(0);

    /// A sink that takes everything.
    #[derive(Default)]
    struct Page {
        frames: Mutex<usize>,
        woken: AtomicBool,
    }

    impl Page {
        fn received(&self) -> usize {
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

    /// A page whose task is on this runtime, and which stands at the end of the log.
    fn page(runtime: &Runtime, hub: &Arc<Hub>) -> (Arc<Page>, Arc<Subscriber>) {
        let page = Arc::new(Page::default());
        let subscriber = runtime.block_on(async {
            let subscriber = hub.join(page.clone(), tests::ann(), ResumeFrom::Unknown);
            subscriber.subscribe(EVENTS, Instant::now());
            assert!(matches!(subscriber.catch_up(Instant::now()), Progress::CaughtUp(_)));
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
        let range = Sequence::ZERO..hub.core.log_end();
        hub.fanout.repeat(&Repeat {
            entity: EVENTS,
            what: Resent::Settled { range, is_last: false, known_before: Sequence::ZERO },
        });
    }

    fn settles(hub: &Hub) -> bool {
        hub.fanout.settles.load(Ordering::Acquire)
    }

    #[test]
    fn when_a_runtime_ends_subscribers_on_others_are_woken_and_start_the_tasks_again() {
        let (hub, [first, second]) = (hub(), [(); 2].map(|()| runtime()));
        let (_gone, gone) = page(&first, &hub);
        let (stays, subscriber) = page(&second, &hub);
        let shard = hub.fanout.shards()[0].clone();
        publish(&hub, 1);
        run(&first);
        assert_eq!(stays.received(), 1, "the first runtime serves both");
        drop(first);
        hub.leave(&gone, Instant::now());
        assert!(!shard.is_served() && !settles(&hub));
        assert!(stays.is_woken());

        publish(&hub, 2);
        repeat(&hub);
        run(&second);
        assert_eq!(stays.received(), 0, "no task serves it");
        second.block_on(async { hub.serve(&subscriber) });
        assert!(shard.is_served() && settles(&hub));
        run(&second);
        assert_eq!(stays.received(), 3, "what is new, and both once more");
    }

    #[test]
    fn what_was_being_sent_when_a_runtime_ended_is_sent_by_the_next() {
        for what in [|hub: &Hub| publish(hub, 2), repeat] {
            let (hub, [first, second]) = (hub(), [(); 2].map(|()| runtime()));
            let (_gone, gone) = page(&first, &hub);
            // More than are sent to in one turn.
            let pages: Vec<_> = (0..=YIELD_EVERY).map(|_| page(&second, &hub)).collect();
            publish(&hub, 1);
            run(&first);
            assert!(pages.iter().all(|(page, _)| page.received() == 1));
            what(&hub);
            first.block_on(tokio::task::yield_now());
            drop(first);
            hub.leave(&gone, Instant::now());
            let unsent: Vec<_> = pages.iter().filter(|(page, _)| page.received() == 0).collect();
            assert!(!unsent.is_empty() && unsent.len() < pages.len());

            assert!(pages.iter().all(|(page, _)| page.is_woken()));
            second.block_on(async {
                for (_, subscriber) in &pages {
                    hub.serve(subscriber);
                    subscriber.catch_up(Instant::now());
                }
            });
            run(&second);
            assert!(unsent.iter().all(|(page, _)| page.received() == 1));
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
        assert_eq!(comes.received(), 0);
    }
}
