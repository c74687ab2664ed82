//! What `benches/fanout.rs` needs of the hub: pages without sockets. No part of the API.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{sync::Notify, time::Instant};

use crate::{
    auth::Identity,
    change::Change,
    entity::{Entity, EntityIndex, View},
    hub::{
        Accepted, Cleared, Delivery, DeliveryTimes, EntityEncoder, FrameSink, Hub, LogLimits, Pace, Progress,
        ReminderTimes, ResumeFrom, SessionId, SessionLimits, SettleTimes, Subscriber,
    },
    lock::lock,
    sequence::Sequence,
};

const EVENTS: EntityIndex = EntityIndex(0);
/// What happens by itself after some time must not happen while something else is measured.
const NEVER: Duration = Duration::from_secs(24 * 3600);
/// Different objects that are published, and the scopes of [`Audience::OneIn100`].
const OBJECTS: usize = 100;
/// The first byte of a ping, which is no record's frame.
const PING: u8 = 0x89;

/// Which pages receive a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// All: there are no scopes.
    All,
    /// All: they are in the scope of every record.
    InScope,
    /// The last page alone, which shows that the fan-out has skipped all others.
    OutOfScope,
    /// One page in a hundred, each of them one record in a hundred.
    OneIn100,
    /// All, after a `visible` closure that reads the object has run for each.
    Visible,
}

/// A hub, and pages that accept every frame.
pub struct Bench {
    hub: Arc<Hub>,
    audience: Audience,
    count: usize,
    pages: Vec<Arc<Subscriber>>,
    changes: Vec<Change>,
    received: Arc<Received>,
    awaited: u64,
}

impl fmt::Debug for Bench {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bench").field("audience", &self.audience).finish_non_exhaustive()
    }
}

/// What all pages together have received.
#[derive(Debug, Default)]
struct Received {
    frames: AtomicU64,
    awaited: AtomicU64,
    /// The indices of pages on the slow path.
    woken: Mutex<Vec<usize>>,
    changed: Notify,
}

struct Page {
    index: usize,
    received: Arc<Received>,
}

impl FrameSink for Page {
    fn try_send(&self, frames: &[&Cleared]) -> Accepted {
        let records = frames.iter().filter(|frame| frame.first() != Some(PING)).count() as u64;
        let before = self.received.frames.fetch_add(records, Ordering::Relaxed);
        if before + records >= self.received.awaited.load(Ordering::Relaxed) {
            self.received.changed.notify_one();
        }
        Accepted { frames: frames.len(), clear: true }
    }

    fn is_direct(&self) -> bool {
        true
    }

    fn wake(&self) {
        lock(&self.received.woken).push(self.index);
        self.received.changed.notify_one();
    }
}

impl Bench {
    /// So many pages that are subscribed to one entity and at the end of the log. Needs a runtime with one worker,
    /// whose fan-out task then serves them in the order of their indices.
    pub async fn new(count: usize, audience: Audience) -> Self {
        let hub = Hub::new(
            Delivery::Converging,
            vec![encoder(audience)],
            LogLimits {
                records: 50_000,
                bytes: 32 * 1024 * 1024,
                age: NEVER,
                tombstones: 100_000,
                tombstone_age: NEVER,
                object_bytes: usize::MAX,
            },
            times(),
            SessionLimits { sessions: 100_000, age: NEVER },
            false,
        );
        let changes = (0..OBJECTS).map(|number| change(number, audience)).collect();
        let (hub, received) = (Arc::new(hub), Arc::default());
        let mut bench = Self { hub, audience, count, pages: Vec::new(), changes, received, awaited: 0 };
        bench.pages = (0..count).map(|index| bench.open(index, 0)).collect();
        bench.received().await;
        // The first frames fill every cache, and one page is pinged: that is not measured.
        bench.publish(OBJECTS);
        bench.received().await;
        bench
    }

    /// Publishes this many records, 100 at most, at once. With [`Audience::OneIn100`] there must be 100, and whole
    /// hundreds of pages.
    pub fn publish(&mut self, records: usize) {
        let frames = match self.audience {
            Audience::All | Audience::InScope | Audience::Visible => records * self.count,
            Audience::OutOfScope => records,
            Audience::OneIn100 => records * self.count / OBJECTS,
        };
        self.expect(frames);
        self.hub.publish(EVENTS, &self.changes[..records], None);
    }

    /// Every page reconnects, having missed this many records.
    pub fn reconnect_all(&mut self, records: usize) {
        self.expect(records * self.count);
        for index in 0..self.count {
            self.hub.leave(&self.pages[index], Instant::now());
            self.pages[index] = self.open(index, records as u64);
        }
    }

    /// Publishes this many records as [`publish`](Self::publish) does, by two concurrent writes.
    /// [`settle`](Self::settle) repeats them.
    pub fn publish_contended(&mut self, records: usize) {
        let _writes = [(); 2].map(|()| self.hub.write_begins(EVENTS));
        self.publish(records);
    }

    /// Sends the debounced repeat of this many records of [`publish_contended`](Self::publish_contended).
    pub fn settle(&mut self, records: usize) {
        self.expect(records * self.count);
        let quiet = Instant::now() + 2 * NEVER;
        self.hub.settle(quiet);
        // Nothing is left to repeat.
        self.hub.settle(quiet + 2 * NEVER);
    }

    /// A function that publishes an update of an object of so many fields, from any thread. For a hub without pages.
    pub fn large(&self, fields: usize) -> impl Fn() + Send + Sync + use<> {
        let hub = self.hub.clone();
        let fields = (0..fields).map(|number| (format!("f{number}"), Value::from(number % 10)));
        let object: Value = fields.chain([("id".to_owned(), Value::from("large"))]).collect();
        let change = Change::update(&object).expect("an object with an id");
        move || {
            hub.publish(EVENTS, std::slice::from_ref(&change), None);
        }
    }

    /// Waits until everything has been received, and catches up for pages on the slow path.
    ///
    /// # Panics
    /// When a page lags behind the start of the log, or receives more than it should.
    pub async fn received(&self) {
        loop {
            let woken = std::mem::take(&mut *lock(&self.received.woken));
            for index in &woken {
                self.catch_up(&self.pages[*index]).await;
            }
            let frames = self.received.frames.load(Ordering::Relaxed);
            assert!(frames <= self.awaited, "{frames} frames, where there should be {}", self.awaited);
            if frames == self.awaited && woken.is_empty() {
                return;
            }
            if woken.is_empty() {
                self.received.changed.notified().await;
            }
        }
    }

    fn expect(&mut self, frames: usize) {
        self.awaited += frames as u64;
        self.received.awaited.store(self.awaited, Ordering::Relaxed);
    }

    /// A page that is subscribed to the entity, and has missed this many records of it.
    fn open(&self, index: usize, missed: u64) -> Arc<Subscriber> {
        let identity = match self.audience {
            Audience::OutOfScope if index + 1 < self.count => Identity::new("page").with_scope("elsewhere"),
            Audience::OneIn100 => Identity::new("page").with_scope((index % OBJECTS).to_string()),
            _ => Identity::new("page").with_scope("0"),
        };
        let session = Some(SessionId { id: (index as u128).to_ne_bytes(), owner: 0 });
        let origin = ResumeFrom::Page { session, missed_from: Some(Sequence(self.hub.core.log_end().0 - missed)) };
        let page = Arc::new(Page { index, received: self.received.clone() });
        let subscriber = self.hub.join(page.clone(), identity, origin);
        subscriber.subscribe(EVENTS, Instant::now());
        // The first round of the slow path leads to the fast path.
        page.wake();
        subscriber
    }

    /// What a page's own task does.
    async fn catch_up(&self, page: &Arc<Subscriber>) {
        loop {
            match page.catch_up(Instant::now()) {
                Progress::CaughtUp(_) => return,
                Progress::More => {}
                Progress::NeedsCheck(check) => check.run(NEVER, |entity, why| panic!("{entity}: {why}")).await,
                other => panic!("a page that accepts everything lags behind the log: {other:?}"),
            }
        }
    }
}

fn encoder(audience: Audience) -> EntityEncoder {
    let visible = Entity::new("events")
        .visible((), async |(), _: Identity, event: BTreeMap<String, Value>| Ok::<_, Infallible>(event.len() > 1));
    EntityEncoder {
        is_scoped: matches!(audience, Audience::InScope | Audience::OutOfScope | Audience::OneIn100),
        view: View::of(visible.visible.as_ref().filter(|_| audience == Audience::Visible), None),
        ..EntityEncoder::new("events", "event")
    }
}

fn change(number: usize, audience: Audience) -> Change {
    let event = json!({
        "id": number.to_string(),
        "text": "A meeting of some people about something that takes them an hour",
        "start_date": "2026-11-25 09:00",
        "end_date": "2026-11-25 10:00",
    });
    let change = Change::add(&event).expect("an object with an id");
    change.scope(if audience == Audience::OneIn100 { number.to_string() } else { "0".to_owned() })
}

fn times() -> DeliveryTimes {
    DeliveryTimes {
        settle: SettleTimes { quiet: NEVER, overlap: NEVER, longest: NEVER, hold: NEVER },
        second_replay_delay: NEVER,
        replay_overlap: NEVER,
        first_load: NEVER,
        acknowledge_every: NEVER,
        reminders: ReminderTimes::doubling(NEVER, 0),
        pace: Pace { long: usize::MAX, ..Pace::DEFAULT },
    }
}
