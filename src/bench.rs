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
        Cleared, Delivery, DeliveryTimes, Hub, LogLimits, Origin, Outlet, Pace, Progress, ReminderTimes, SessionId,
        SessionLimits, SettleTimes, Subscriber, Taken, Voice,
    },
    lock::lock,
};

const EVENTS: EntityIndex = EntityIndex(0);
/// What happens by itself after some time must not happen while something else is measured.
const NEVER: Duration = Duration::from_secs(24 * 3600);
/// Different objects that records are told of, and the scopes of [`Hearing::OneIn100`].
const OBJECTS: usize = 100;
/// The first byte of a ping, which is no record's frame.
const PING: u8 = 0x89;

/// Who hears what is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hearing {
    /// Everybody: there are no scopes.
    Everybody,
    /// Everybody, since all are in the scope that everything is told in.
    InScope,
    /// The last page alone, which shows that all others have been passed over.
    OutOfScope,
    /// One page in a hundred, each of them one record in a hundred.
    OneIn100,
    /// Everybody, once a `visible` closure that reads the object has been asked about each.
    Asked,
}

/// A hub, and pages that take whatever they are offered.
pub struct Bench {
    hub: Arc<Hub>,
    hearing: Hearing,
    count: usize,
    pages: Vec<Arc<Subscriber>>,
    changes: Vec<Change>,
    heard: Arc<Heard>,
    awaited: u64,
}

impl fmt::Debug for Bench {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bench").field("hearing", &self.hearing).finish_non_exhaustive()
    }
}

/// What all pages have taken together.
#[derive(Debug, Default)]
struct Heard {
    frames: AtomicU64,
    awaited: AtomicU64,
    /// The places of those who have something to read.
    woken: Mutex<Vec<usize>>,
    news: Notify,
}

struct Page {
    place: usize,
    heard: Arc<Heard>,
}

impl Outlet for Page {
    fn offer(&self, frames: &[&Cleared]) -> Taken {
        let records = frames.iter().filter(|frame| frame.first() != Some(PING)).count() as u64;
        let before = self.heard.frames.fetch_add(records, Ordering::Relaxed);
        if before + records >= self.heard.awaited.load(Ordering::Relaxed) {
            self.heard.news.notify_one();
        }
        Taken { frames: frames.len(), clear: true }
    }

    fn is_direct(&self) -> bool {
        true
    }

    fn wake(&self) {
        lock(&self.heard.woken).push(self.place);
        self.heard.news.notify_one();
    }
}

impl Bench {
    /// So many pages that follow one entity and stand at the head of the log. Needs a runtime with one worker, whose
    /// fan-out task then serves them in the order of their places.
    pub async fn new(count: usize, hearing: Hearing) -> Self {
        let hub = Hub::new(
            Delivery::Converging,
            vec![voice(hearing)],
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
        );
        let changes = (0..OBJECTS).map(|number| change(number, hearing)).collect();
        let (hub, heard) = (Arc::new(hub), Arc::default());
        let mut bench = Self { hub, hearing, count, pages: Vec::new(), changes, heard, awaited: 0 };
        bench.pages = (0..count).map(|place| bench.open(place, 0)).collect();
        bench.heard().await;
        // With the first frames all that stays filled is filled, and one page is pinged: that is not measured.
        bench.publish(OBJECTS);
        bench.heard().await;
        bench
    }

    /// Tells this many records, 100 at most, in one go. With [`Hearing::OneIn100`] there must be 100, and whole
    /// hundreds of pages.
    pub fn publish(&mut self, records: usize) {
        let frames = match self.hearing {
            Hearing::Everybody | Hearing::InScope | Hearing::Asked => records * self.count,
            Hearing::OutOfScope => records,
            Hearing::OneIn100 => records * self.count / OBJECTS,
        };
        self.expect(frames);
        self.hub.publish(EVENTS, &self.changes[..records], None);
    }

    /// Every page goes and comes back, having missed this many records.
    pub fn reconnect_all(&mut self, records: usize) {
        self.expect(records * self.count);
        for place in 0..self.count {
            self.hub.leave(&self.pages[place], Instant::now());
            self.pages[place] = self.open(place, records as u64);
        }
    }

    /// Tells this many records, by two writes at once, as [`publish`](Self::publish) does. They are told again with
    /// [`settle`](Self::settle).
    pub fn publish_contended(&mut self, records: usize) {
        let _writes = [(); 2].map(|()| self.hub.write_begins(EVENTS));
        self.publish(records);
    }

    /// Tells everybody once more what this many records of [`publish_contended`](Self::publish_contended) said.
    pub fn settle(&mut self, records: usize) {
        self.expect(records * self.count);
        let quiet = Instant::now() + 2 * NEVER;
        self.hub.settle(quiet);
        // And that was the last word.
        self.hub.settle(quiet + 2 * NEVER);
    }

    /// What tells an update of an object of so many fields each time it is called, from any thread. For a hub without
    /// pages.
    pub fn large(&self, fields: usize) -> impl Fn() + Send + Sync + use<> {
        let hub = self.hub.clone();
        let fields = (0..fields).map(|number| (format!("f{number}"), Value::from(number % 10)));
        let object: Value = fields.chain([("id".to_owned(), Value::from("large"))]).collect();
        let change = Change::update(&object).expect("an object with an id");
        move || {
            hub.publish(EVENTS, std::slice::from_ref(&change), None);
        }
    }

    /// Waits until everything has been heard, and reads for those who are on the slow way.
    ///
    /// # Panics
    /// When a page has lost its place in the log, or heard more than it was to hear.
    pub async fn heard(&self) {
        loop {
            let woken = std::mem::take(&mut *lock(&self.heard.woken));
            for place in &woken {
                self.catch_up(&self.pages[*place]).await;
            }
            let frames = self.heard.frames.load(Ordering::Relaxed);
            assert!(frames <= self.awaited, "{frames} frames, where there should be {}", self.awaited);
            if frames == self.awaited && woken.is_empty() {
                return;
            }
            if woken.is_empty() {
                self.heard.news.notified().await;
            }
        }
    }

    fn expect(&mut self, frames: usize) {
        self.awaited += frames as u64;
        self.heard.awaited.store(self.awaited, Ordering::Relaxed);
    }

    /// A page that follows the entity, and has missed this many records of it.
    fn open(&self, place: usize, missed: u64) -> Arc<Subscriber> {
        let identity = match self.hearing {
            Hearing::OutOfScope if place + 1 < self.count => Identity::new("page").with_scope("elsewhere"),
            Hearing::OneIn100 => Identity::new("page").with_scope((place % OBJECTS).to_string()),
            _ => Identity::new("page").with_scope("0"),
        };
        let session = Some(SessionId { id: (place as u128).to_ne_bytes(), owner: 0 });
        let origin = Origin::Page { session, missed_from: Some(self.hub.head() - missed) };
        let page = Arc::new(Page { place, heard: self.heard.clone() });
        let subscriber = self.hub.join(page.clone(), identity, origin);
        self.hub.subscribe(&subscriber, EVENTS, Instant::now());
        // The first round of the slow way leads to the fast way.
        page.wake();
        subscriber
    }

    /// What a page's own task does.
    async fn catch_up(&self, page: &Subscriber) {
        let mut progress = self.hub.catch_up(page, Instant::now());
        loop {
            progress = match progress {
                Progress::CaughtUp(_) => return,
                Progress::More => self.hub.catch_up(page, Instant::now()),
                Progress::Unsure(mut inquiry) => {
                    inquiry.ask(&self.hub, NEVER, |entity, why| panic!("{entity}: {why}")).await;
                    self.hub.tell(page, *inquiry, Instant::now())
                }
                other => panic!("a page that takes everything has lost its place: {other:?}"),
            };
        }
    }
}

fn voice(hearing: Hearing) -> Voice {
    let asked = Entity::new("events")
        .visible((), async |(), _: Identity, event: BTreeMap<String, Value>| Ok::<_, Infallible>(event.len() > 1));
    Voice {
        is_scoped: matches!(hearing, Hearing::InScope | Hearing::OutOfScope | Hearing::OneIn100),
        view: View::of(asked.visible.as_ref().filter(|_| hearing == Hearing::Asked), None),
        ..Voice::new("events", "event")
    }
}

fn change(number: usize, hearing: Hearing) -> Change {
    let event = json!({
        "id": number.to_string(),
        "text": "A meeting of some people about something that takes them an hour",
        "start_date": "2026-11-25 09:00",
        "end_date": "2026-11-25 10:00",
    });
    let change = Change::add(&event).expect("an object with an id");
    change.scope(if hearing == Hearing::OneIn100 { number.to_string() } else { "0".to_owned() })
}

fn times() -> DeliveryTimes {
    DeliveryTimes {
        settle: SettleTimes { quiet: NEVER, overlap: NEVER, longest: NEVER },
        second_replay_delay: NEVER,
        replay_overlap: NEVER,
        first_load: NEVER,
        acknowledge_every: NEVER,
        reminders: ReminderTimes::doubling(NEVER, 0),
        pace: Pace { long: usize::MAX, ..Pace::DEFAULT },
    }
}
