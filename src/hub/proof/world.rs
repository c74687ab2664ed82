//! One schedule: users, pages, network, store and server in a time of their own.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    rc::Rc,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt;
use serde_json::{Value, json};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use super::{
    dice::Dice,
    page::{Answer, Map, Method, Page, Request},
    pipe::{Part, Pipe, read},
};
use crate::{
    auth::Identity,
    change::{Before, Change},
    entity::{EntityIndex, View, Widget, hooks::Visible},
    hub::{
        Activity, Check, Delivery, DeliveryTimes, EntityEncoder, FrameSink, Hub, LogLimits, Missed, Pace, Progress,
        ResumeFrom, SessionId, SessionLimits, SnapshotFrames, Subscriber,
        saved::tests::{kept, restarted},
        tests::times,
    },
    lock::lock,
    scope::Scopes,
    sequence::Sequence,
};

const EVENTS: EntityIndex = EntityIndex(0);
/// After the last disturbance; deletions are resent 30, 90 and 210 s later.
const REST: Duration = Duration::from_secs(230);
const KEEP_ALIVE: Duration = Duration::from_secs(25);
const RECONNECT: Duration = Duration::from_secs(2);
/// Nearly every replay is a long one.
const SLOW: Pace = Pace { long: 3, at_once: 1, every: Duration::from_millis(700) };
const STARTS: [&str; 4] = ["09:00", "10:30", "12:00", "15:15"];

/// Which user may see what: every event is in a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Privacy {
    /// Every user sees everything.
    Open,
    /// Changes are published in the scope of their room.
    Scoped,
    /// A hook decides which user sees what.
    Viewed,
}

const ROOMS: [&str; 3] = ["a", "b", "c"];

/// What the server keeps.
#[derive(Default)]
struct Store {
    rows: BTreeMap<u64, Map>,
    deleted: BTreeSet<u64>,
    /// The rooms every event was ever in.
    rooms: HashMap<String, BTreeSet<&'static str>>,
    next: u64,
    /// When the latest write of an object commits.
    turns: BTreeMap<String, Instant>,
}

impl Store {
    fn get(&self, id: &str) -> Option<Map> {
        let mut row = self.rows.get(&id.parse().ok()?)?.clone();
        row.insert("id".to_owned(), id.into());
        Some(row)
    }

    fn list(&self) -> Vec<Map> {
        self.rows.keys().filter_map(|id| self.get(&id.to_string())).collect()
    }

    fn remove(&mut self, id: &str) -> bool {
        let Ok(number) = id.parse() else { return false };
        let removed = self.rows.remove(&number).is_some();
        if removed {
            self.deleted.insert(number);
        }
        removed
    }

    /// Exceptions do not outlive a change of their series.
    fn drop_exceptions(&mut self, series: &str) -> Vec<String> {
        let of_it = |row: &Map| row.get("recurring_event_id").and_then(Value::as_str) == Some(series);
        let dropped: Vec<String> =
            self.rows.iter().filter(|(_, row)| of_it(row)).map(|(id, _)| id.to_string()).collect();
        for id in &dropped {
            self.remove(id);
        }
        dropped
    }
}

fn text<'m>(row: &'m Map, key: &str) -> &'m str {
    row.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn is_series(row: &Map) -> bool {
    !text(row, "rrule").is_empty() && text(row, "recurring_event_id").is_empty()
}

struct Socket {
    client: usize,
    pipe: Arc<Pipe>,
    subscriber: Arc<Subscriber>,
    due: Option<Instant>,
    /// Nothing arrives any more, in either direction.
    dark: bool,
    /// What the hooks are asked.
    check: Option<Box<Check>>,
    /// When what was sent before arrives: order is kept.
    arrives: Instant,
}

/// A page and the browser around it.
struct Client {
    page: Page,
    session: u128,
    /// Epoch and sequence number of its handshake.
    key: Option<(u64, Sequence)>,
    socket: Option<u64>,
    has_list: bool,
    direct: bool,
    capacity: usize,
    /// Where its user may see events.
    rooms: Vec<&'static str>,
    /// Ids of events its user has ever been allowed to see.
    seen: BTreeSet<String>,
    /// Rooms its user has ever been allowed to see.
    known_rooms: BTreeSet<&'static str>,
}

impl Client {
    fn sees(&self, row: &Map) -> bool {
        row.get("room").is_none_or(|room| self.rooms.iter().any(|known| room == known))
    }

    fn identity(&self) -> Identity {
        Identity::new("user").with_scopes(self.rooms.iter().copied()).with_data(self.rooms.clone())
    }
}

enum Event {
    /// The page is loaded: list and handshake are on their way.
    Open(usize),
    ListAsked(usize),
    ListRead(usize, Activity),
    ListLeaves(usize, Vec<Map>, Activity),
    ListArrives(usize, Vec<Map>),
    Handshake(usize),
    Connect(usize),
    Subscribe(u64),
    User(usize),
    CloseForm(usize),
    /// The head of a request; its body may take longer.
    Comes(usize, Request),
    Arrives(usize, Request, Activity, Sequence),
    Commits(usize, Request, Activity, Sequence),
    Publishes(Vec<Change>, Sequence),
    Leaves(usize, u64, Answer, Activity),
    Answered(usize, u64, Answer),
    Frames(u64, Vec<Bytes>),
    Pong(u64, Vec<u8>),
    KeepAlive(u64),
    Dark(usize),
    Cut(usize),
    FoundDead(u64),
    Asked(u64, Sequence),
    Snapshot(u64, Arc<SnapshotFrames>, Option<SnapshotFrames>),
    /// The hooks have answered.
    Checked(u64),
    Import,
    /// Its user may see other rooms from now on.
    Rights(usize),
    Restart,
}

pub(super) struct World {
    dice: Dice,
    delivery: Delivery,
    privacy: Privacy,
    hub: Arc<Hub>,
    epoch: u64,
    log_records: usize,
    pace: Pace,
    /// The application has a `load` hook.
    reads_back: bool,
    /// It answers 200 for rows that are gone.
    lies: bool,
    has_series: bool,
    news: Arc<Notify>,
    store: Store,
    clients: Vec<Client>,
    sockets: BTreeMap<u64, Socket>,
    /// Requests that are not answered yet; a list counts until it has left.
    requests: usize,
    events: BTreeMap<(Instant, u64), Event>,
    counter: u64,
    writes: u64,
    begun: Instant,
    /// Frames that were read before: most go to several pages.
    read: HashMap<Bytes, Rc<[Part]>>,
    /// What a page received that its user must not see.
    leaks: Vec<String>,
    /// What happened, where `LIVE_UPDATES_STORY` asks for it.
    story: Option<Vec<String>>,
}

impl World {
    pub(super) fn new(seed: u64, delivery: Delivery, privacy: Privacy) -> Self {
        let mut dice = Dice(seed);
        let log_records = [1000, 1000, 12][dice.below(3)];
        let pace = if seed % 2 == 0 { Pace::DEFAULT } else { SLOW };
        Self {
            delivery,
            privacy,
            hub: hub(delivery, privacy, log_records, pace),
            epoch: 1,
            log_records,
            pace,
            reads_back: dice.one_in(2) || privacy == Privacy::Viewed,
            lies: dice.one_in(2),
            // The model's exceptions know nothing of rooms.
            has_series: dice.one_in(3) && privacy == Privacy::Open,
            news: Arc::default(),
            store: Store { next: 100, ..Store::default() },
            clients: Vec::new(),
            sockets: BTreeMap::new(),
            requests: 0,
            events: BTreeMap::new(),
            counter: 0,
            writes: 0,
            begun: Instant::now(),
            read: HashMap::new(),
            leaks: Vec::new(),
            story: std::env::var_os("LIVE_UPDATES_STORY").map(|_| Vec::new()),
            dice,
        }
    }

    /// Runs the schedule to its end.
    pub(super) async fn run(mut self) -> Result<(), String> {
        // There has been a time before: everything that looks back finds one.
        tokio::time::advance(Duration::from_secs(7200)).await;
        self.begun = Instant::now();
        let end = self.begin() + REST;
        loop {
            for _ in 0..4 {
                tokio::task::yield_now().await;
            }
            self.write_out(Instant::now());
            let due = self.sockets.values().filter_map(|socket| socket.due).min();
            let next = self.events.first_key_value().map(|((at, _), _)| *at);
            let next = next.into_iter().chain(due).min().unwrap_or(end).min(end);
            tokio::select! {
                biased;
                () = self.news.notified() => continue,
                () = sleep_until(next) => {}
            }
            let now = Instant::now();
            if now >= end {
                return self.verdict();
            }
            while let Some(entry) = self.events.first_entry().filter(|entry| entry.key().0 <= now) {
                let event = entry.remove();
                self.happen(event, now);
            }
        }
    }

    /// Plans the disturbances; returns when the last one is over.
    fn begin(&mut self) -> Instant {
        let seconds = 6 + self.dice.roll() % 14;
        for _ in 0..4 + self.dice.below(6) {
            let row = self.new_event();
            self.store.next += 1;
            self.store.rows.insert(self.store.next, row);
        }
        let pages = 2 + self.dice.below(3);
        for at in 0..pages {
            let client = Client {
                page: Page::with_temporary_ids_after(1_700_000_000_000 + 1_000_000 * at as u64),
                session: 77 + at as u128,
                key: None,
                socket: None,
                has_list: false,
                direct: !self.dice.one_in(4),
                capacity: if self.dice.one_in(5) { 3 } else { usize::MAX },
                rooms: self.rooms(),
                seen: BTreeSet::new(),
                known_rooms: BTreeSet::new(),
            };
            self.clients.push(client);
            let late = if self.dice.one_in(4) { Duration::from_secs(seconds / 2) } else { Duration::ZERO };
            let opens = late + self.dice.millis(0, 800);
            self.later(opens, Event::Open(at));
            let pace = [200, 700, 2500][self.dice.below(3)];
            let mut acts = late + self.dice.millis(1000, 3000);
            while acts < Duration::from_secs(seconds) {
                self.later(acts, Event::User(at));
                acts += self.dice.millis(pace / 4, pace * 2);
            }
            if self.dice.one_in(2) {
                for _ in 0..1 + self.dice.below(3) {
                    let fault = if self.dice.one_in(2) { Event::Cut(at) } else { Event::Dark(at) };
                    let when = self.dice.millis(1500, seconds * 1000);
                    self.later(when, fault);
                }
            }
        }
        if self.dice.one_in(5) {
            let when = self.dice.millis(3000, seconds * 1000);
            self.later(when, Event::Restart);
        }
        if self.dice.one_in(5) {
            for _ in 0..1 + self.dice.below(3) {
                let when = self.dice.millis(1000, seconds * 1000);
                self.later(when, Event::Import);
            }
        }
        // It is unknown what a page still shows of a room whose changes the log has forgotten.
        if self.privacy == Privacy::Scoped {
            for _ in 0..self.dice.below(3) {
                let (at, when) = (self.dice.below(pages), self.dice.millis(1000, seconds * 1000));
                self.later(when, Event::Rights(at));
            }
        }
        self.look_around();
        // Forms and dark sockets last on for a while.
        self.begun + Duration::from_secs(seconds + 25)
    }

    fn new_event(&mut self) -> Map {
        self.writes += 1;
        let start = STARTS[self.dice.below(STARTS.len())];
        let mut event = json!({
            "text": format!("event {}", self.writes),
            "start_date": format!("2026-11-25 {start}"),
            "end_date": "2026-11-25 18:00",
        });
        if self.privacy != Privacy::Open {
            event["room"] = ROOMS[self.dice.below(ROOMS.len())].into();
        }
        event.as_object().cloned().unwrap_or_default()
    }

    /// As `new_event`, where the user of this page sees it.
    fn new_event_of(&mut self, at: usize) -> Map {
        let mut event = self.new_event();
        if self.privacy != Privacy::Open {
            let rooms = &self.clients[at].rooms;
            event.insert("room".to_owned(), rooms[self.dice.below(rooms.len())].into());
        }
        event
    }

    /// The rooms that one user may see.
    fn rooms(&mut self) -> Vec<&'static str> {
        if self.privacy == Privacy::Open {
            return Vec::new();
        }
        let out = self.dice.below(2 * ROOMS.len());
        ROOMS.into_iter().enumerate().filter(|(at, _)| *at != out).map(|(_, room)| room).skip(out / 4).collect()
    }

    /// Notes what everyone may see at this moment.
    fn look_around(&mut self) {
        for (id, row) in &self.store.rows {
            let rooms = ROOMS.into_iter().filter(|room| *room == text(row, "room"));
            self.store.rooms.entry(id.to_string()).or_default().extend(rooms);
        }
        for client in &mut self.clients {
            client.known_rooms.extend(&client.rooms);
            let seen = self.store.rows.iter().filter(|(_, row)| client.sees(row)).map(|(id, _)| id.to_string());
            client.seen.extend(seen.collect::<Vec<_>>());
        }
    }

    fn later(&mut self, after: Duration, event: Event) {
        self.counter += 1;
        self.events.insert((Instant::now() + after, self.counter), event);
    }

    fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(story) = &mut self.story {
            story.push(format!("{:8.3} {}", (Instant::now() - self.begun).as_secs_f64(), line()));
        }
    }

    /// Every socket's own task: what it does when it is woken, or its time has come.
    fn write_out(&mut self, now: Instant) {
        let numbers: Vec<u64> = self.sockets.keys().copied().collect();
        for number in numbers {
            let Some(socket) = self.sockets.get_mut(&number) else { continue };
            if socket.due.take_if(|due| *due <= now).is_some() {
                socket.pipe.woken.store(true, Ordering::Relaxed);
            }
            // A full one is woken when it has room again, and one whose hooks are asked when they have answered.
            let is_ready = socket.check.is_none() && *lock(&socket.pipe.room) > 0;
            if is_ready && socket.pipe.woken.swap(false, Ordering::Relaxed) {
                loop {
                    match socket.subscriber.catch_up(now) {
                        Progress::More => {}
                        Progress::NeedsCheck(check) => {
                            let takes = if self.dice.one_in(2) { Duration::ZERO } else { self.dice.millis(0, 400) };
                            socket.check = Some(check);
                            self.counter += 1;
                            self.events.insert((now + takes, self.counter), Event::Checked(number));
                            break;
                        }
                        Progress::Blocked => break,
                        Progress::CaughtUp(due) => {
                            socket.due = due;
                            break;
                        }
                        Progress::Lagged => {
                            self.close(number);
                            break;
                        }
                        Progress::NeedsSnapshot(..) => {
                            let at = self.hub.core.log_end();
                            let asks = self.dice.millis(0, 300);
                            self.counter += 1;
                            self.events.insert((now + asks, self.counter), Event::Asked(number, at));
                        }
                    }
                }
            }
            let Some(socket) = self.sockets.get_mut(&number) else { continue };
            let frames = std::mem::take(&mut *lock(&socket.pipe.out));
            if !frames.is_empty() && !socket.dark {
                socket.arrives = socket.arrives.max(now + self.dice.millis(1, 200));
                self.counter += 1;
                self.events.insert((socket.arrives, self.counter), Event::Frames(number, frames));
            }
        }
    }

    fn happen(&mut self, event: Event, now: Instant) {
        match event {
            Event::Open(at) => {
                let (list, handshake) = (self.dice.millis(1, 300), self.dice.millis(1, 300));
                self.later(list, Event::ListAsked(at));
                self.later(handshake, Event::Handshake(at));
            }
            Event::ListAsked(at) => {
                self.requests += 1;
                let activity = self.hub.list_begins(EVENTS);
                let reads = self.dice.millis(0, 300);
                self.later(reads, Event::ListRead(at, activity));
            }
            Event::ListRead(at, activity) => {
                let mut list = self.store.list();
                list.retain(|row| self.clients[at].sees(row));
                let slow = if self.dice.one_in(4) { 6000 } else { 200 };
                let leaves = self.dice.millis(0, slow);
                self.later(leaves, Event::ListLeaves(at, list, activity));
            }
            Event::ListLeaves(at, list, activity) => {
                drop(activity);
                self.requests -= 1;
                let arrives = self.dice.millis(1, 1500);
                self.later(arrives, Event::ListArrives(at, list));
            }
            Event::ListArrives(at, list) => {
                self.note(|| format!("page {at} has its list"));
                self.clients[at].page.load(&list);
                self.clients[at].has_list = true;
            }
            Event::Handshake(at) => {
                self.clients[at].key = Some((self.epoch, self.hub.core.handshake(now)));
                let connects = self.dice.millis(10, 500);
                self.later(connects, Event::Connect(at));
            }
            Event::Connect(at) => self.connect(at, now),
            Event::Subscribe(number) => {
                if let Some(socket) = self.sockets.get(&number) {
                    socket.subscriber.subscribe(EVENTS, now);
                }
            }
            Event::User(at) => self.act(at),
            Event::CloseForm(at) => {
                self.note(|| format!("page {at} closes its form"));
                if self.dice.one_in(2) {
                    let fields = self.new_event();
                    self.clients[at].page.save_form(fields);
                } else {
                    self.clients[at].page.cancel_form();
                }
                if self.dice.one_in(2) {
                    let fields = self.new_event_of(at);
                    self.clients[at].page.create(fields);
                }
                self.send(at);
            }
            Event::Comes(at, request) => {
                let began = self.hub.core.log_end();
                let activity = self.hub.start_write(EVENTS);
                // One that takes longer than a replay is only promised what is published meanwhile: any client can let
                // others wait for a body.
                let slow = if self.dice.one_in(8) { 2000 } else { 0 };
                let arrives = self.dice.millis(0, slow);
                self.later(arrives, Event::Arrives(at, request, activity, began));
            }
            Event::Arrives(at, request, activity, began) => {
                activity.arrive();
                let key = request.id.clone().unwrap_or_else(|| format!("new {at} {}", request.number));
                let ready = now + self.dice.millis(0, 400);
                let turn = self.store.turns.entry(key).or_insert(ready);
                *turn = ready.max(*turn + Duration::from_micros(1));
                let when = *turn;
                self.counter += 1;
                self.events.insert((when, self.counter), Event::Commits(at, request, activity, began));
            }
            Event::Commits(at, request, activity, began) => self.commit(at, &request, activity, began),
            Event::Publishes(changes, began) => self.publish(&changes, Some(began)),
            Event::Leaves(at, number, answer, activity) => {
                drop(activity);
                let arrives = self.dice.millis(1, 800);
                self.later(arrives, Event::Answered(at, number, answer));
            }
            Event::Answered(at, number, answer) => {
                self.requests -= 1;
                self.note(|| format!("page {at} is answered: {answer:?}"));
                self.clients[at].page.answered(number, answer);
                self.send(at);
            }
            Event::Frames(number, frames) => self.arrive(number, &frames),
            Event::Pong(number, payload) => {
                if let Some(socket) = self.sockets.get(&number).filter(|socket| !socket.dark) {
                    socket.subscriber.pong(&payload);
                }
            }
            Event::KeepAlive(number) => {
                if let Some(socket) = self.sockets.get(&number) {
                    let ping = socket.subscriber.ping(now);
                    lock(&socket.pipe.out).push(ping.to_bytes());
                    self.later(KEEP_ALIVE, Event::KeepAlive(number));
                }
            }
            Event::Dark(at) => {
                if let Some(socket) = self.clients[at].socket.and_then(|number| self.sockets.get_mut(&number)) {
                    socket.dark = true;
                    self.note(|| format!("page {at} is in the dark"));
                    let cut = self.dice.millis(500, 5000);
                    self.later(cut, Event::Cut(at));
                }
            }
            Event::Cut(at) => {
                if let Some(number) = self.clients[at].socket.take() {
                    self.note(|| format!("page {at} is cut off"));
                    if let Some(socket) = self.sockets.get_mut(&number) {
                        socket.dark = true;
                    }
                    // The server may notice long after the page has come back.
                    let notices = if self.dice.one_in(2) { Duration::ZERO } else { self.dice.millis(0, 8000) };
                    self.later(notices, Event::FoundDead(number));
                    self.later(RECONNECT, Event::Connect(at));
                }
            }
            Event::FoundDead(number) => self.close(number),
            Event::Asked(number, at) => {
                let Some(socket) = self.sockets.get(&number) else { return };
                let client = socket.client;
                let snapshot = self.snapshot(client, at, &socket.subscriber.identity());
                let earlier = socket.subscriber.past_identity();
                let earlier = earlier.map(|earlier| self.snapshot(client, at, &earlier));
                let comes = self.dice.millis(0, 300);
                self.later(comes, Event::Snapshot(number, Arc::new(snapshot), earlier));
            }
            Event::Snapshot(number, snapshot, earlier) => {
                if let Some(socket) = self.sockets.get(&number) {
                    socket.subscriber.resynchronise(EVENTS, Some(snapshot), earlier.as_ref(), now);
                }
            }
            // A list that was read with other rights is loaded anew by its user.
            Event::Rights(at) if !self.clients[at].has_list || self.clients[at].socket.is_none() => {}
            Event::Rights(at) => {
                self.clients[at].rooms = self.rooms();
                let identity = self.clients[at].identity();
                self.note(|| format!("the user of page {at} may see {identity:?}"));
                self.look_around();
                for socket in self.sockets.values().filter(|socket| socket.client == at) {
                    socket.subscriber.becomes(identity.clone());
                }
            }
            Event::Checked(number) => {
                if let Some(socket) = self.sockets.get_mut(&number) {
                    let check = socket.check.take().expect("one at a time");
                    check.run(Duration::MAX, |_, _| {}).now_or_never().expect("hooks that answer at once");
                    socket.pipe.woken.store(true, Ordering::Relaxed);
                }
            }
            Event::Import => self.import(),
            // What is lost of requests is their pages' affair.
            Event::Restart if self.requests > 0 => self.later(Duration::from_millis(50), Event::Restart),
            Event::Restart => self.restart(),
        }
    }

    /// What the application's hook reads for one identity; where a view filters, it reads everything.
    fn snapshot(&self, client: usize, at: Sequence, identity: &Identity) -> SnapshotFrames {
        let mut rows = self.store.list();
        if self.privacy == Privacy::Scoped {
            rows.retain(|row| identity.scopes().any(|scope| text(row, "room") == scope));
        }
        let change = |row: &Map| {
            let room = std::iter::once(text(row, "room")).collect::<Scopes>();
            let scopes = if self.privacy == Privacy::Scoped { room } else { Scopes::None };
            Some(Change::update(row).ok()?.in_scopes(&scopes, &Scopes::None))
        };
        let rows: Vec<Change> = rows.iter().filter_map(change).collect();
        // It knows what this user has seen and may not see any more.
        let gone: Vec<Change> = if self.privacy == Privacy::Open {
            self.store.deleted.iter().filter_map(|id| Change::delete(id).ok()).collect()
        } else {
            let client = &self.clients[client];
            let is_gone = |id: &&String| self.store.get(id).is_none_or(|row| !client.sees(&row));
            client.seen.iter().filter(is_gone).filter_map(|id| Change::delete(id).ok()).collect()
        };
        self.hub.snapshot(EVENTS, at, identity, &rows, &gone).0
    }

    fn connect(&mut self, at: usize, now: Instant) {
        let identity = self.clients[at].identity();
        let client = &mut self.clients[at];
        let pipe = Arc::new(Pipe {
            direct: client.direct,
            capacity: client.capacity,
            room: Mutex::new(client.capacity),
            out: Mutex::default(),
            woken: AtomicBool::new(true),
            news: self.news.clone(),
        });
        let session = Some(SessionId { id: client.session.to_ne_bytes(), owner: 1 });
        let missed_from = client.key.filter(|(epoch, _)| *epoch == self.epoch).map(|(_, sequence)| sequence);
        let subscriber = self.hub.join(pipe.clone(), identity, ResumeFrom::Page { session, missed_from });
        self.counter += 1;
        let number = self.counter;
        client.socket = Some(number);
        let socket = Socket { client: at, pipe, subscriber, check: None, due: None, dark: false, arrives: now };
        self.sockets.insert(number, socket);
        self.note(|| format!("page {at} is connected"));
        let subscribes = self.dice.millis(2, 300);
        self.later(subscribes, Event::Subscribe(number));
        let first = self.dice.millis(12_500, 25_000);
        self.later(first, Event::KeepAlive(number));
    }

    /// The server gives a socket up; a page that still had it comes back.
    fn close(&mut self, number: u64) {
        let Some(socket) = self.sockets.remove(&number) else { return };
        self.hub.leave(&socket.subscriber, Instant::now());
        if self.clients[socket.client].socket == Some(number) {
            self.clients[socket.client].socket = None;
            self.later(RECONNECT, Event::Connect(socket.client));
        }
    }

    /// The server is started anew, and everyone comes back: every other time to a log that was kept, or else to an empty
    /// one.
    fn restart(&mut self) {
        let is_kept = self.counter % 2 == 0;
        self.note(|| format!("the server starts anew, its log kept: {is_kept}"));
        let numbers: Vec<u64> = self.sockets.keys().copied().collect();
        for number in numbers {
            self.close(number);
        }
        let next = hub(self.delivery, self.privacy, self.log_records, self.pace);
        if is_kept {
            self.hub = restarted(next, &kept(&self.hub), Duration::ZERO);
        } else {
            self.epoch += 1;
            self.hub = next;
        }
    }

    /// The store changes past the layer: rows are new, changed, gone, or back again.
    fn import(&mut self) {
        let plain = |row: &Map| !is_series(row) && text(row, "recurring_event_id").is_empty();
        let plain: Vec<u64> = self.store.rows.iter().filter(|(_, row)| plain(row)).map(|(id, _)| *id).collect();
        let row = self.new_event();
        self.store.next += 1;
        self.store.rows.insert(self.store.next, row);
        if !plain.is_empty() {
            let changed = plain[self.dice.below(plain.len())];
            let row = self.new_event();
            self.store.rows.insert(changed, row);
            let gone = plain[self.dice.below(plain.len())];
            self.store.remove(&gone.to_string());
            self.note(|| format!("an import changes {changed} and drops {gone}"));
        }
        let deleted: Vec<u64> = self.store.deleted.iter().copied().collect();
        if !deleted.is_empty() && self.dice.one_in(2) {
            let back = deleted[self.dice.below(deleted.len())];
            let row = self.new_event();
            self.store.deleted.remove(&back);
            self.store.rows.insert(back, row);
            self.note(|| format!("an import brings {back} back"));
        }
        self.look_around();
        self.hub.refresh(EVENTS);
    }

    /// A user does something.
    fn act(&mut self, at: usize) {
        if !self.clients[at].has_list || self.clients[at].page.form().is_some() {
            return;
        }
        let real = |id: &str| id.len() < 10;
        let page = &self.clients[at].page;
        let plain: Vec<String> = page
            .events()
            .filter(|(_, row)| text(row, "rrule").is_empty() && text(row, "recurring_event_id").is_empty())
            .map(|(id, _)| id.to_owned())
            .collect();
        let series: Vec<String> =
            page.events().filter(|(id, row)| real(id) && is_series(row)).map(|(id, _)| id.to_owned()).collect();
        let is_idle = page.is_idle();
        // Most of what people do is done to the same few events.
        let hot = if self.dice.one_in(3) { plain.len() } else { plain.len().min(3) };
        let chosen = plain.get(self.dice.below(hot)).cloned();
        let mut fields = self.new_event();
        if self.dice.one_in(3) {
            fields.retain(|key, _| key == "text");
        }
        let page = &mut self.clients[at].page;
        let done = match (self.dice.below(20), chosen) {
            (0..=3, _) => {
                let fields = self.new_event_of(at);
                format!("creates {}", self.clients[at].page.create(fields))
            }
            (4..=5, Some(id)) if plain.len() > 3 => {
                page.delete(&id);
                format!("deletes {id}")
            }
            // Whose form is open when it goes by its own page's wish stays, form and all: the client's own affair.
            (6..=7, Some(id)) if !page.being_saved().any(|(saved, _)| saved == id) && page.open_form(&id) => {
                let open = self.dice.millis(300, 20_000);
                self.later(open, Event::CloseForm(at));
                format!("opens the form of {id}")
            }
            (8..=10, _) if self.has_series && is_idle => self.act_on_series(at, &series),
            (_, Some(id)) => {
                let text = text(&fields, "text").to_owned();
                page.change(&id, fields);
                format!("changes {id} to {text}")
            }
            (_, None) => return,
        };
        self.note(|| format!("page {at} {done}"));
        self.send(at);
    }

    fn act_on_series(&mut self, at: usize, series: &[String]) -> String {
        let mut fields = self.new_event();
        let chosen = series.get(self.dice.below(series.len())).cloned();
        let dice = self.dice.below(6);
        let page = &mut self.clients[at].page;
        let (Some(id), 1..) = (chosen, dice) else {
            fields.insert("rrule".to_owned(), "FREQ=DAILY;INTERVAL=1".into());
            fields.insert("duration".to_owned(), 3600.into());
            fields.insert("end_date".to_owned(), "2027-01-01 00:00".into());
            return format!("creates the series {}", page.create(fields));
        };
        let day = format!("2026-11-{:02} 09:00", 25 + self.dice.below(4));
        match dice {
            1 => {
                page.delete(&id);
                format!("deletes the series {id}")
            }
            2 => {
                fields.retain(|key, _| key == "text");
                page.change(&id, fields);
                format!("changes the series {id}")
            }
            3 => format!("deletes an occurrence of {id}: {:?}", page.delete_occurrence(&id, &day, fields)),
            _ => format!("changes an occurrence of {id}: {:?}", page.change_occurrence(&id, &day, fields)),
        }
    }

    /// What the page's data processor sends is on its way.
    fn send(&mut self, at: usize) {
        for request in self.clients[at].page.requests() {
            self.requests += 1;
            let arrives = self.dice.millis(1, 800);
            self.later(arrives, Event::Comes(at, request));
        }
    }

    fn commit(&mut self, at: usize, request: &Request, activity: Activity, began: Sequence) {
        let ok = |action| Answer::Ok { tid: None, action: Some(action) };
        let before = request.id.as_deref().and_then(|id| self.store.get(id));
        let seen = before.as_ref().is_some_and(|row| self.clients[at].sees(row));
        let is_known = match (self.privacy, request.id.as_deref()) {
            (Privacy::Scoped, Some(id)) => {
                let log = lock(&self.hub.core.log);
                // The claims of others do not show it either.
                log.known(EVENTS, id).is_some_and(|(_, known)| !known.is_claim)
                    || log.tombstone(EVENTS, id).is_some_and(|(_, tombstone)| !tombstone.is_claim)
            }
            _ => before.is_none(),
        };
        let mut written = Vec::new();
        let answer = match (request.method, request.id.as_deref()) {
            (Method::Post, _) if !self.clients[at].sees(&request.body) => Answer::Failed,
            (Method::Post, _) => {
                self.store.next += 1;
                let id = self.store.next.to_string();
                self.store.rows.insert(self.store.next, request.body.clone());
                let action = if request.body.get("deleted") == Some(&true.into()) { "deleted" } else { "inserted" };
                written.push((id.clone(), true));
                Answer::Ok { tid: Some(id), action: Some(action) }
            }
            // It changes nothing, and reports success. Only the log shows such a layer whose an object is.
            (method, Some(id)) if self.lies && !seen && is_known => {
                written.push((id.to_owned(), false));
                ok(if method == Method::Put { "updated" } else { "deleted" })
            }
            (_, Some(_)) if before.as_ref().is_none_or(|row| !self.clients[at].sees(row)) => Answer::Failed,
            (Method::Put, Some(id)) => {
                let row = id.parse().ok().and_then(|number: u64| self.store.rows.get_mut(&number));
                let series = row.map(|row| {
                    let was_series = is_series(row);
                    row.extend(request.body.clone());
                    was_series && request.body.contains_key("rrule")
                });
                if series == Some(true) {
                    written.extend(self.store.drop_exceptions(id).into_iter().map(|id| (id, false)));
                }
                written.push((id.to_owned(), false));
                ok("updated")
            }
            (Method::Delete, Some(id)) => {
                let row = self.store.get(id).unwrap_or_default();
                if text(&row, "recurring_event_id").is_empty() {
                    written.extend(self.store.drop_exceptions(id).into_iter().map(|id| (id, false)));
                    self.store.remove(id);
                } else if let Some(row) = id.parse().ok().and_then(|number: u64| self.store.rows.get_mut(&number)) {
                    row.insert("deleted".to_owned(), true.into());
                }
                written.push((id.to_owned(), false));
                ok("deleted")
            }
            (_, None) => Answer::Failed,
        };
        match answer {
            // 404 or 422: no stranger's request.
            Answer::Failed => activity.refuse(request.id.as_deref().map_or(Missed::Adds, Missed::Object)),
            Answer::Ok { .. } => activity.confirm(),
        }
        self.look_around();
        self.note(|| format!("{:?} {:?} of page {at} commits: {answer:?}", request.method, request.id));
        let lied = self.lies && request.method != Method::Post && !seen;
        let changes = written.iter().filter_map(|(id, is_new)| self.change(id, *is_new, lied, request));
        let before = before.filter(|_| !lied);
        let changes: Vec<Change> = changes.map(|change| self.in_its_room(at, change, lied, before.as_ref())).collect();
        let is_new = written.iter().any(|(_, is_new)| *is_new);
        if is_new && self.dice.one_in(3) {
            // Its handler takes its time after the commit, and others may change the row meanwhile.
            let publishes = self.dice.millis(1, 300);
            self.later(publishes, Event::Publishes(changes, began));
            self.later(publishes, Event::Leaves(at, request.number, answer, activity));
            return;
        }
        self.publish(&changes, is_new.then_some(began));
        let leaves = self.dice.millis(0, 200);
        self.later(leaves, Event::Leaves(at, request.number, answer, activity));
    }

    /// What the layer would make of a write.
    fn change(&self, id: &str, is_new: bool, lied: bool, request: &Request) -> Option<Change> {
        let of_request = request.id.as_deref() == Some(id);
        let claimed = |change: Change| if of_request { change.claimed() } else { change };
        let Some(row) = self.store.get(id).filter(|_| !lied || self.privacy != Privacy::Scoped) else {
            if of_request && request.method == Method::Put && !self.reads_back {
                let mut sent = request.body.clone();
                sent.insert("id".to_owned(), id.into());
                return Change::update(&sent).ok().map(claimed);
            }
            return Change::delete(id).ok().map(claimed);
        };
        if is_new {
            return Change::add(&row).ok();
        }
        if self.reads_back || request.method == Method::Delete {
            return Change::update(&row).ok().map(Change::whole);
        }
        let mut sent = request.body.clone();
        sent.insert("id".to_owned(), id.into());
        Change::update(&sent).ok().map(claimed)
    }

    /// A change as the layer publishes it, which may have read what its object was before.
    fn in_its_room(&self, at: usize, change: Change, lied: bool, before: Option<&Map>) -> Change {
        let room = |row: Option<&Map>| row.map(|row| text(row, "room").to_owned());
        let (now, was) = (room(self.store.get(change.id()).filter(|_| !lied).as_ref()), room(before));
        match self.privacy {
            Privacy::Scoped => {
                let change = match was.clone() {
                    // Where the log knows the former room, the change need not name it.
                    // A claim moves nothing.
                    Some(was) if change.is_claimed && now.as_ref().is_some_and(|now| *now != was) => {
                        change.moved_from(was)
                    }
                    Some(was) if lock(&self.hub.core.log).known(EVENTS, change.id()).is_none() => {
                        change.moved_from(was)
                    }
                    _ => change,
                };
                let writers = || self.clients[at].rooms.first().map(|&room| room.to_owned());
                now.or(was).or_else(writers).into_iter().fold(change, Change::scope)
            }
            Privacy::Viewed if self.hub.core.lacks(EVENTS, &Scopes::None, change.id()) => {
                let before = before.map(|row| Value::Object(row.clone()).to_string());
                Change { before: before.map_or(Before::Absent, |row| Before::Object(row.into())), ..change }
            }
            Privacy::Open | Privacy::Viewed => change,
        }
    }

    fn publish(&mut self, changes: &[Change], began: Option<Sequence>) {
        for change in changes {
            self.note(|| format!("published: {:?} {}", change.kind(), change.object()));
        }
        self.hub.publish(EVENTS, changes, began);
    }

    /// Frames reach a page.
    fn arrive(&mut self, number: u64, frames: &[Bytes]) {
        let Some(socket) = self.sockets.get(&number).filter(|socket| !socket.dark) else { return };
        let at = socket.client;
        if socket.pipe.capacity < usize::MAX {
            *lock(&socket.pipe.room) = socket.pipe.capacity;
            socket.pipe.wake();
        }
        if self.clients[at].socket != Some(number) {
            return;
        }
        for frame in frames {
            let parts = self.read.entry(frame.clone()).or_insert_with(|| read(frame)).clone();
            for part in parts.iter() {
                match part {
                    Part::Ping(payload) => {
                        let back = self.dice.millis(1, 200);
                        self.later(back, Event::Pong(number, payload.clone()));
                    }
                    Part::Message(value) => {
                        let id = value["event"]["id"].as_str().unwrap_or_default();
                        if self.is_leak(at, id, value["event"].get("text").is_some()) {
                            self.leaks.push(format!("page {at} receives {value}"));
                        }
                        self.note(|| format!("page {at} receives {value}"));
                        self.clients[at].page.receive(value);
                    }
                }
            }
        }
        self.send(at);
    }

    /// Whether a page must not receive this of an event.
    fn is_leak(&self, at: usize, id: &str, is_content: bool) -> bool {
        let client = &self.clients[at];
        let was_near = || {
            let rooms = self.store.rooms.get(id);
            rooms.is_some_and(|rooms| !rooms.is_disjoint(&client.known_rooms))
        };
        match self.privacy {
            Privacy::Open => false,
            _ if client.seen.contains(id) => false,
            // A user who has come to its room since then may receive its deletion,
            // and, as its last state, what a user there wanted it to be.
            Privacy::Scoped if self.lies && self.store.get(id).is_none() => !was_near(),
            Privacy::Scoped => is_content || !was_near(),
            // Where the former state is unknown, only the id is sent.
            Privacy::Viewed => is_content,
        }
    }

    /// Whether every page equals the store.
    fn verdict(&self) -> Result<(), String> {
        let mut wrong = self.leaks.clone();
        for (at, client) in self.clients.iter().enumerate() {
            let rows = self.store.list().into_iter().filter(|row| client.sees(row));
            let rows: BTreeMap<String, Map> = rows.map(|row| (text(&row, "id").to_owned(), row)).collect();
            let shown: BTreeMap<&str, &Map> = client.page.events().collect();
            for (id, row) in &rows {
                match shown.get(id.as_str()) {
                    None => wrong.push(format!("page {at} lacks {id}")),
                    Some(shown) => {
                        let differs = row.iter().find(|(key, value)| *key != "id" && shown.get(*key) != Some(*value));
                        wrong.extend(differs.map(|(key, value)| {
                            format!("page {at} shows {key} of {id} as {:?} instead of {value}", shown.get(key))
                        }));
                    }
                }
            }
            for (id, row) in shown.iter().filter(|(id, _)| !rows.contains_key(**id)) {
                // What the server refused to create where its user may see nothing any more is its page's own.
                if self.privacy == Privacy::Scoped && id.len() >= 10 {
                    continue;
                }
                // The client keeps, unseen, what it hides of a series that is gone.
                if row.get("deleted") != Some(&true.into()) {
                    wrong.push(format!("page {at} still shows {id}"));
                }
            }
            if !client.page.can_save() {
                wrong.push(format!("page {at} cannot save any more"));
            }
        }
        if wrong.is_empty() {
            return Ok(());
        }
        let story = self.story.as_ref().map(|story| story.join("\n")).unwrap_or_default();
        Err(format!("{}\n{story}", wrong.join("; ")))
    }
}

fn hub(delivery: Delivery, privacy: Privacy, records: usize, pace: Pace) -> Arc<Hub> {
    let hour = Duration::from_secs(3600);
    let log = LogLimits {
        records,
        bytes: usize::MAX,
        age: hour,
        tombstones: 1000,
        tombstone_age: 24 * hour,
        object_bytes: usize::MAX,
    };
    let visible: Visible = Arc::new(|identity: Identity, object: &str| {
        let row: Map = serde_json::from_str(object).unwrap_or_default();
        let rooms = identity.data::<Vec<&str>>();
        let sees = rooms.is_some_and(|rooms| rooms.contains(&text(&row, "room")));
        Box::pin(std::future::ready(Ok(sees)))
    });
    let encoder = EntityEncoder {
        widget: Widget::Scheduler,
        parent_keys: vec!["recurring_event_id".to_owned()],
        has_snapshot: true,
        is_scoped: privacy == Privacy::Scoped,
        view: View::of((privacy == Privacy::Viewed).then_some(&visible), None),
        ..EntityEncoder::new("events", "event")
    };
    let times = DeliveryTimes { pace, ..times() };
    Arc::new(Hub::new(delivery, vec![encoder], log, times, SessionLimits { sessions: 100, age: hour }, false))
}
