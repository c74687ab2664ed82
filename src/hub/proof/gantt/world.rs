//! One schedule: users, Gantt pages, network, store and server in a time of their own.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    rc::Rc,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use super::{
    super::{
        dice::Dice,
        pipe::{Part, Pipe, read},
    },
    page::{Answer, Id, Kind, Map, Method, Page, ROOT, Request},
    rules::Rule,
    store::{Rings, Store, Written, id_in},
    users::{self, Habit},
    verdict,
};
use crate::{
    auth::Identity,
    change::{Change, ChangeKind, Drag},
    entity::{EntityIndex, Widget},
    hub::{
        Activity, Delivery, DeliveryTimes, EntityEncoder, FrameSink, Hub, LogLimits, Missed, Pace, Progress,
        ResumeFrom, SessionId, SessionLimits, SnapshotFrames, Subscriber, WriteContext,
        log::Owner,
        saved::tests::{kept, restarted},
        tests::times,
    },
    lock::lock,
    object::Object,
    sequence::Sequence,
};

const TASKS: EntityIndex = EntityIndex(0);
const LINKS: EntityIndex = EntityIndex(1);
/// After the last disturbance; deletions are resent 30, 90 and 210 s later.
const REST: Duration = Duration::from_secs(230);
const KEEP_ALIVE: Duration = Duration::from_secs(25);
const RECONNECT: Duration = Duration::from_secs(2);
/// So much later than others a page gets some answers about links: when it has received these links from others.
const LATE: Duration = Duration::from_secs(2);
const BATCH: Duration = Duration::from_millis(50);
/// Nearly every replay is a long one.
const SLOW: Pace = Pace { long: 3, at_once: 1, every: Duration::from_millis(700) };

pub(super) fn entity(kind: Kind) -> EntityIndex {
    match kind {
        Kind::Task => TASKS,
        Kind::Link => LINKS,
    }
}

struct Socket {
    client: usize,
    pipe: Arc<Pipe>,
    subscriber: Arc<Subscriber>,
    due: Option<Instant>,
    /// Nothing arrives any more, in either direction.
    dark: bool,
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
    /// Its user has noticed that it hangs.
    is_noticed: bool,
    /// So often its user has loaded it anew.
    loads: u64,
    /// Counts the messages: the 50 ms begin anew with each.
    messages: u64,
    /// Its requests about tasks that the store has not had yet, by their numbers.
    uncommitted: BTreeMap<u64, Id>,
    /// Objects that the store has refused to create.
    refused: BTreeSet<(Kind, Id)>,
    /// What was wrong with the page when its story was told last.
    flaws: BTreeSet<String>,
    /// The tasks and links that it had then.
    had: BTreeSet<(Kind, Id)>,
}

enum Event {
    /// The page is loaded: list and handshake are on their way.
    Open(usize),
    ListAsked(usize),
    ListRead(usize, [Activity; 2]),
    ListLeaves(usize, [Vec<Map>; 2], [Activity; 2]),
    ListArrives(usize, [Vec<Map>; 2]),
    Handshake(usize),
    Connect(usize),
    Subscribe(u64, EntityIndex),
    User(usize),
    Comes(usize, Request),
    /// Its body is here.
    Arrives(usize, Request, Activity, Sequence),
    Commits(usize, Request, Activity, Sequence),
    Publishes(usize, Request, Answer, Written, Activity, Sequence),
    Leaves(usize, u64, Answer, Activity),
    Answered(usize, u64, Answer),
    /// With the tasks whose change by its user the server did not know when they left.
    Frames(u64, Vec<Bytes>, BTreeSet<Id>),
    Batch(usize, u64),
    Pong(u64, Vec<u8>),
    KeepAlive(u64),
    Dark(usize),
    Cut(usize),
    FoundDead(u64),
    Asked(u64, EntityIndex, Sequence),
    Snapshot(u64, EntityIndex, Arc<SnapshotFrames>),
    /// A page that hangs is loaded anew.
    Reload(usize),
    Restart,
}

/// Pages that were loaded anew since they hung.
pub(super) static RELOADS: AtomicU64 = AtomicU64::new(0);

/// What tells the pages of a writer from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tokens {
    None,
    /// All have the same.
    Shared,
    /// Each page has its own.
    Own,
}

pub(super) struct World {
    dice: Dice,
    delivery: Delivery,
    without: Option<Rule>,
    late: bool,
    habit: Habit,
    tokens: Tokens,
    /// Refusals have status 422, not 200.
    has_statuses: bool,
    hub: Arc<Hub>,
    epoch: u64,
    log_records: usize,
    pace: Pace,
    news: Arc<Notify>,
    store: Store,
    /// When the latest write of an object commits.
    turns: BTreeMap<(Kind, Id), Instant>,
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
    /// What happened, where `LIVE_UPDATES_STORY` asks for it.
    story: Option<Vec<String>>,
}

impl World {
    /// A world in which the layer does all it should, or all `without` one rule. With `late` answers pages receive some of
    /// their own links before these are theirs.
    pub(super) fn new(seed: u64, delivery: Delivery, without: Option<Rule>, late: bool) -> Self {
        let mut dice = Dice(seed);
        let log_records = [1000, 1000, 12][dice.below(3)];
        let pace = if seed % 2 == 0 { Pace::DEFAULT } else { SLOW };
        let habits = [Habit::Editors, Habit::Reorder, Habit::Cascade, Habit::Builders];
        let rings = if dice.one_in(2) { Rings::Refused } else { Rings::Undone };
        let tokens = [Tokens::None, Tokens::Shared, Tokens::Own][dice.below(3)];
        Self {
            delivery,
            without,
            late,
            habit: habits[dice.below(habits.len())],
            tokens,
            has_statuses: dice.one_in(2),
            hub: hub(delivery, log_records, pace, without),
            epoch: 1,
            log_records,
            pace,
            news: Arc::default(),
            store: Store::new(rings),
            turns: BTreeMap::new(),
            clients: Vec::new(),
            sockets: BTreeMap::new(),
            requests: 0,
            events: BTreeMap::new(),
            counter: 0,
            writes: 0,
            begun: Instant::now(),
            read: HashMap::new(),
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
        self.first_rows();
        let pages = 2 + self.dice.below(3);
        let is_still = self.dice.one_in(2);
        for at in 0..pages {
            let client = Client {
                page: new_page(at, 0),
                session: 77 + at as u128,
                is_noticed: false,
                loads: 0,
                key: None,
                socket: None,
                has_list: false,
                direct: !self.dice.one_in(4),
                capacity: if self.dice.one_in(5) { 3 } else { usize::MAX },
                messages: 0,
                uncommitted: BTreeMap::new(),
                refused: BTreeSet::new(),
                flaws: BTreeSet::new(),
                had: BTreeSet::new(),
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
            if !is_still && self.dice.one_in(2) {
                for _ in 0..1 + self.dice.below(3) {
                    let fault = if self.dice.one_in(2) { Event::Cut(at) } else { Event::Dark(at) };
                    let when = self.dice.millis(1500, seconds * 1000);
                    self.later(when, fault);
                }
            }
        }
        if !is_still && self.dice.one_in(5) {
            let when = self.dice.millis(3000, seconds * 1000);
            self.later(when, Event::Restart);
        }
        self.begun + Duration::from_secs(seconds + 25)
    }

    fn first_rows(&mut self) {
        let mut made = Vec::new();
        for _ in 0..2 + self.dice.below(4) {
            let root = self.new_row(ROOT);
            made.push(root);
            for _ in 0..self.dice.below(4) {
                let below = made[self.dice.below(made.len())];
                made.push(self.new_row(below));
            }
        }
        for _ in 0..self.dice.below(4) {
            let (source, target) = (made[self.dice.below(made.len())], made[self.dice.below(made.len())]);
            if source != target {
                let mut link = Map::new();
                link.insert("source".to_owned(), source.into());
                link.insert("target".to_owned(), target.into());
                link.insert("type".to_owned(), "0".into());
                self.store.insert(Kind::Link, link);
            }
        }
    }

    fn new_row(&mut self, parent: Id) -> Id {
        self.writes += 1;
        let mut row = users::new_task(&mut self.dice, self.writes);
        row.insert("parent".to_owned(), parent.into());
        self.store.insert(Kind::Task, row)
    }

    fn later(&mut self, after: Duration, event: Event) {
        self.at(Instant::now() + after, event);
    }

    fn at(&mut self, when: Instant, event: Event) {
        self.counter += 1;
        self.events.insert((when, self.counter), event);
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
            // A full one is woken when it has room again.
            let is_ready = *lock(&socket.pipe.room) > 0;
            if is_ready && socket.pipe.woken.swap(false, Ordering::Relaxed) {
                loop {
                    match socket.subscriber.catch_up(now) {
                        Progress::More => {}
                        Progress::NeedsCheck(_) => unreachable!("there are no hooks"),
                        Progress::Blocked => break,
                        Progress::CaughtUp(due) => {
                            socket.due = due;
                            break;
                        }
                        Progress::Lagged => {
                            self.close(number);
                            break;
                        }
                        Progress::NeedsSnapshot(entity, ..) => {
                            let at = self.hub.core.log_end();
                            let asks = self.dice.millis(0, 300);
                            self.counter += 1;
                            self.events.insert((now + asks, self.counter), Event::Asked(number, entity, at));
                        }
                    }
                }
            }
            let Some(socket) = self.sockets.get_mut(&number) else { continue };
            let frames = std::mem::take(&mut *lock(&socket.pipe.out));
            if !frames.is_empty() && !socket.dark {
                socket.arrives = socket.arrives.max(now + self.dice.millis(1, 200));
                let unknown = self.clients[socket.client].uncommitted.values().copied().collect();
                self.counter += 1;
                self.events.insert((socket.arrives, self.counter), Event::Frames(number, frames, unknown));
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
                let activities = [TASKS, LINKS].map(|entity| self.hub.list_begins(entity));
                let reads = self.dice.millis(0, 300);
                self.later(reads, Event::ListRead(at, activities));
            }
            Event::ListRead(at, activities) => {
                let lists = [Kind::Task, Kind::Link].map(|kind| self.store.list(kind));
                let slow = if self.dice.one_in(4) { 6000 } else { 200 };
                let leaves = self.dice.millis(0, slow);
                self.later(leaves, Event::ListLeaves(at, lists, activities));
            }
            Event::ListLeaves(at, lists, activities) => {
                drop(activities);
                self.requests -= 1;
                let arrives = self.dice.millis(1, 1500);
                self.later(arrives, Event::ListArrives(at, lists));
            }
            Event::ListArrives(at, [tasks, links]) => {
                self.note(|| format!("page {at} has its list: {}", outline(&tasks)));
                self.clients[at].page.load(&tasks, &links);
                self.clients[at].has_list = true;
                self.send(at);
            }
            Event::Handshake(at) => {
                self.clients[at].key = Some((self.epoch, self.hub.core.handshake(now)));
                let connects = self.dice.millis(10, 500);
                self.later(connects, Event::Connect(at));
            }
            // Its key is asked for still.
            Event::Connect(at) if self.clients[at].key.is_none() || self.clients[at].socket.is_some() => {}
            Event::Connect(at) => self.connect(at, now),
            Event::Subscribe(number, entity) => {
                if let Some(socket) = self.sockets.get(&number) {
                    socket.subscriber.subscribe(entity, now);
                }
            }
            Event::User(at) => self.act(at),
            Event::Comes(at, request) => {
                let began = self.hub.core.log_end();
                let activity = self.hub.start_write(entity(request.kind));
                let slow = if self.dice.one_in(8) { 2000 } else { 0 };
                let arrives = self.dice.millis(0, slow);
                self.later(arrives, Event::Arrives(at, request, activity, began));
            }
            Event::Arrives(at, request, activity, began) => {
                activity.arrive();
                let ready = now + self.dice.millis(0, 400);
                let when = match request.method {
                    Method::Post => ready,
                    _ => {
                        let turn = self.turns.entry((request.kind, request.id)).or_insert(ready);
                        *turn = ready.max(*turn + Duration::from_micros(1));
                        *turn
                    }
                };
                self.at(when, Event::Commits(at, request, activity, began));
            }
            Event::Commits(at, request, activity, began) => self.commit(at, &request, activity, began),
            Event::Publishes(at, request, answer, written, activity, began) => {
                self.publish(at, &request, &answer, &written, &activity, began);
                let leaves = self.dice.millis(0, 200);
                self.later(leaves, Event::Leaves(at, request.number, answer, activity));
            }
            Event::Leaves(at, number, answer, activity) => {
                drop(activity);
                let is_late = self.late && number % 4 == 0 && self.clients[at].page.saves(number) == Some(Kind::Link);
                let late = if is_late { LATE } else { Duration::ZERO };
                let arrives = late + self.dice.millis(1, 800);
                self.later(arrives, Event::Answered(at, number, answer));
            }
            Event::Answered(at, number, answer) => {
                self.requests -= 1;
                self.note(|| format!("page {at} is answered {number}: {answer:?}"));
                self.clients[at].page.answered(number, &answer);
                self.send(at);
            }
            Event::Frames(number, frames, unknown) => self.arrive(number, &frames, unknown),
            Event::Batch(at, messages) => {
                if self.clients[at].messages == messages {
                    self.note(|| format!("page {at} applies what it has received"));
                    self.clients[at].page.apply();
                    self.send(at);
                }
            }
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
            Event::Asked(number, entity, at) => {
                let Some(socket) = self.sockets.get(&number) else { return };
                let snapshot = self.snapshot(entity, at, &socket.subscriber.identity());
                let comes = self.dice.millis(0, 300);
                self.later(comes, Event::Snapshot(number, entity, Arc::new(snapshot)));
            }
            Event::Snapshot(number, entity, snapshot) => {
                if let Some(socket) = self.sockets.get(&number) {
                    socket.subscriber.resynchronise(entity, Some(snapshot), None, now);
                }
            }
            Event::Reload(at) => {
                self.note(|| format!("page {at} is loaded anew"));
                if let Some(number) = self.clients[at].socket.take() {
                    self.close(number);
                }
                let client = &mut self.clients[at];
                client.loads += 1;
                client.page = new_page(at, client.loads);
                client.session += 1000;
                (client.key, client.has_list, client.is_noticed) = (None, false, false);
                client.messages += 1;
                RELOADS.fetch_add(1, Ordering::Relaxed);
                self.later(Duration::ZERO, Event::Open(at));
            }
            // What is lost of requests is their pages' affair.
            Event::Restart if self.requests > 0 => self.later(Duration::from_millis(50), Event::Restart),
            Event::Restart => self.restart(),
        }
    }

    /// What the application's hook reads.
    fn snapshot(&self, entity: EntityIndex, at: Sequence, identity: &Identity) -> SnapshotFrames {
        let kind = if entity == TASKS { Kind::Task } else { Kind::Link };
        let rows: Vec<Change> = self.store.list(kind).iter().filter_map(|row| Change::update(row).ok()).collect();
        let gone = self.store.deleted[kind as usize].iter();
        let gone: Vec<Change> = gone.filter_map(|id| Change::delete(id).ok()).collect();
        self.hub.snapshot(entity, at, identity, &rows, &gone).0
    }

    fn connect(&mut self, at: usize, now: Instant) {
        let client = &mut self.clients[at];
        let pipe = Arc::new(Pipe {
            direct: client.direct,
            capacity: client.capacity,
            room: Mutex::new(client.capacity),
            out: Mutex::default(),
            woken: AtomicBool::new(true),
            news: self.news.clone(),
        });
        let owner = self.tokens.owner(at).map_or(0, |owner| owner.0);
        let session = Some(SessionId { id: client.session.to_ne_bytes(), owner });
        let missed_from = client.key.filter(|(epoch, _)| *epoch == self.epoch).map(|(_, sequence)| sequence);
        let resume = ResumeFrom::Page { session, missed_from };
        let subscriber = self.hub.join(pipe.clone(), Identity::new("user"), resume);
        self.counter += 1;
        let number = self.counter;
        client.socket = Some(number);
        let socket = Socket { client: at, pipe, subscriber, due: None, dark: false, arrives: now };
        self.sockets.insert(number, socket);
        self.note(|| format!("page {at} is connected"));
        let subscribes = self.dice.millis(2, 300);
        self.later(subscribes, Event::Subscribe(number, TASKS));
        self.later(subscribes, Event::Subscribe(number, LINKS));
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
        let next = hub(self.delivery, self.log_records, self.pace, self.without);
        if is_kept {
            self.hub = restarted(next, &kept(&self.hub), Duration::ZERO);
        } else {
            self.epoch += 1;
            self.hub = next;
        }
    }

    fn act(&mut self, at: usize) {
        if !self.clients[at].has_list {
            return;
        }
        self.writes += 1;
        let page = &mut self.clients[at].page;
        if let Some(done) = users::act(&mut self.dice, self.habit, page, self.writes) {
            self.note(|| format!("page {at} {done}"));
        }
        self.send(at);
    }

    /// What the page's data processor sends is on its way.
    fn send(&mut self, at: usize) {
        for why in self.clients[at].page.thrown() {
            self.note(|| format!("page {at} {why}"));
        }
        if self.story.is_some() {
            let flaws = self.clients[at].page.flaws();
            let new: Vec<String> = flaws.difference(&self.clients[at].flaws).cloned().collect();
            let healed: Vec<String> = self.clients[at].flaws.difference(&flaws).cloned().collect();
            new.iter().for_each(|flaw| self.note(|| format!("! page {at} {flaw}")));
            healed.iter().for_each(|flaw| self.note(|| format!("  page {at} is healed: {flaw}")));
            self.clients[at].flaws = flaws;
            let has: BTreeSet<(Kind, Id)> = self.clients[at].page.objects().collect();
            let had = std::mem::replace(&mut self.clients[at].had, has.clone());
            for (word, some) in [("gains", &has - &had), ("loses", &had - &has)] {
                if !some.is_empty() {
                    self.note(|| format!("  page {at} {word} {some:?}"));
                }
            }
        }
        if let Some(is_own) = self.clients[at].page.hangs().filter(|_| !self.clients[at].is_noticed) {
            self.note(|| format!("! page {at} hangs, by its own unanswered change: {is_own}"));
            self.clients[at].is_noticed = true;
            if is_own {
                let notices = self.dice.millis(1000, 4000);
                self.later(notices, Event::Reload(at));
            }
        }
        for request in self.clients[at].page.requests() {
            self.requests += 1;
            if request.kind == Kind::Task {
                self.clients[at].uncommitted.insert(request.number, request.id);
            }
            self.note(|| {
                let body = serde_json::to_string(&request.body).unwrap_or_default();
                format!(
                    "page {at} sends {}: {:?} {:?} {} {body}",
                    request.number, request.method, request.kind, request.id
                )
            });
            let arrives = self.dice.millis(1, 800);
            self.later(arrives, Event::Comes(at, request));
        }
    }

    fn commit(&mut self, at: usize, request: &Request, activity: Activity, began: Sequence) {
        self.clients[at].uncommitted.remove(&request.number);
        let (answer, written) = self.store.write(request);
        self.note(|| {
            format!("{:?} {:?} {} of page {at} commits: {answer:?}", request.method, request.kind, request.id)
        });
        if matches!((&answer, request.method), (Answer::Refused, Method::Post)) {
            self.clients[at].refused.insert((request.kind, request.id));
        }
        let is_in_tree = request.kind == Kind::Task && request.method != Method::Post;
        match answer {
            Answer::Refused if self.has_statuses && !is_in_tree => {
                let key = request.id.to_string();
                activity.refuse(if request.method == Method::Post { Missed::Adds } else { Missed::Object(&key) });
            }
            _ => activity.confirm(),
        }
        if written.added.is_some() && self.dice.one_in(3) {
            // Its handler takes its time after the commit, and others may change the row meanwhile.
            let publishes = self.dice.millis(1, 300);
            self.later(publishes, Event::Publishes(at, request.clone(), answer, written, activity, began));
            return;
        }
        self.publish(at, request, &answer, &written, &activity, began);
        let leaves = self.dice.millis(0, 200);
        self.later(leaves, Event::Leaves(at, request.number, answer, activity));
    }

    /// What the layer makes of a write.
    fn publish(
        &mut self,
        at: usize,
        request: &Request,
        answer: &Answer,
        written: &Written,
        activity: &Activity,
        began: Sequence,
    ) {
        let row = |kind, id| self.store.get(kind, id);
        let body = serde_json::to_string(&request.body).unwrap_or_default();
        let drag = Object::of(&body).map_or(Drag::Unknown, |body| Widget::GanttTasks.drag(&body));
        let is_task = request.kind == Kind::Task;
        let shown_below = Some(id_in(&request.body, "parent")).filter(|below| is_task && *below != ROOT);
        let shown_below = shown_below.map(|below| below.to_string().into());
        let mut all: Vec<(Kind, Change)> = Vec::new();
        all.extend(written.deleted.iter().filter_map(|(kind, id)| Some((*kind, Change::delete(id).ok()?))));
        all.extend(written.added.iter().filter_map(|(kind, id)| {
            let change = Change::add(&row(*kind, *id)?).ok()?.whole();
            Some((*kind, Change { shown_below: shown_below.clone(), ..change }))
        }));
        all.extend(written.updated.iter().filter_map(|(kind, id)| {
            let change = Change::update(&row(*kind, *id)?).ok()?.whole();
            Some((*kind, Change { drag, shown_below: shown_below.clone(), ..change }))
        }));
        if matches!(answer, Answer::Refused) && request.kind == Kind::Task && request.method != Method::Post {
            // Its page shows still what it has sent.
            let kept = row(request.kind, request.id).and_then(|row| Change::update(&row).ok());
            all.extend(kept.map(|change| (request.kind, Change { is_refused: true, shown_below, ..change.whole() })));
        }
        for (kind, change) in &all {
            self.note(|| format!("published: {:?} {kind:?} {}", change.kind(), change.object()));
        }
        for of in [Kind::Link, Kind::Task] {
            let changes: Vec<Change> =
                all.iter().filter(|(kind, _)| *kind == of).map(|(_, change)| in_normal_form(of, change)).collect();
            for change in changes.iter().filter(|change| change.kind() != ChangeKind::Delete) {
                self.find_places(entity(of), change);
            }
            if !changes.is_empty() {
                let began = written.added.is_some().then_some(began);
                let write = WriteContext { began, writer: self.tokens.owner(at), ..activity.context() };
                let write = self.without.map_or(write, |rule| rule.context(write, written.added.is_some()));
                self.hub.publish(entity(of), &changes, write);
            }
        }
    }

    /// The layer reads the ancestors of a task that it does not know.
    fn find_places(&self, entity: EntityIndex, change: &Change) {
        let core = &self.hub.core;
        while let Some(id) = core.unplaced(entity, change.object()) {
            let row = id.parse().ok().and_then(|id| self.store.get(Kind::Task, id));
            let row = row.map(|row| serde_json::to_string(&row).unwrap_or_default());
            core.set_place(entity, &id, row.as_deref(), core.log_end());
        }
    }

    /// Frames reach a page.
    fn arrive(&mut self, number: u64, frames: &[Bytes], unknown: BTreeSet<Id>) {
        let Some(socket) = self.sockets.get(&number).filter(|socket| !socket.dark) else { return };
        let at = socket.client;
        if socket.pipe.capacity < usize::MAX {
            *lock(&socket.pipe.room) = socket.pipe.capacity;
            socket.pipe.wake();
        }
        if self.clients[at].socket != Some(number) {
            return;
        }
        let mut messages = Vec::new();
        for frame in frames {
            let parts = self.read.entry(frame.clone()).or_insert_with(|| read(frame)).clone();
            for part in parts.iter() {
                match part {
                    Part::Ping(payload) => {
                        let back = self.dice.millis(1, 200);
                        self.later(back, Event::Pong(number, payload.clone()));
                    }
                    Part::Message(value) => messages.push(value.clone()),
                }
            }
        }
        let messages = match self.without {
            Some(rule) => rule.messages(messages),
            None => messages,
        };
        let mut waits = false;
        for value in &messages {
            let is_queued = self.clients[at].page.receive(value);
            waits |= is_queued;
            self.note(|| {
                let fate = if is_queued { "" } else { ", which does not queue it" };
                format!("page {at} receives {value}{fate}")
            });
        }
        if waits {
            self.clients[at].page.overtakes(unknown);
            self.clients[at].messages += 1;
            let messages = self.clients[at].messages;
            self.later(BATCH, Event::Batch(at, messages));
        }
    }

    /// Whether every page equals the store.
    fn verdict(&self) -> Result<(), String> {
        let mut wrong = Vec::new();
        for (at, client) in self.clients.iter().enumerate() {
            wrong.extend(
                verdict::of(&client.page, &self.store, &client.refused)
                    .into_iter()
                    .map(|what| format!("page {at} {what}")),
            );
        }
        if wrong.is_empty() {
            return Ok(());
        }
        let story = self.story.as_ref().map(|story| story.join("\n")).unwrap_or_default();
        let Self { habit, tokens, log_records, store: Store { rings, .. }, .. } = self;
        let what = wrong.join("; ");
        Err(format!("{habit:?}, rings {rings:?}, tokens {tokens:?}, {log_records} records: {what}\n{story}"))
    }
}

impl Tokens {
    fn owner(self, client: usize) -> Option<Owner> {
        match self {
            Self::None => None,
            Self::Shared => Some(Owner(7)),
            Self::Own => Some(Owner(8 + client as u64)),
        }
    }
}

fn new_page(client: usize, loads: u64) -> Page {
    Page::loaded(1_700_000_000_000 + 1_000_000 * client as Id + 10_000 * loads, 100_000 * loads)
}

/// A change in the form that every page reads.
fn in_normal_form(kind: Kind, change: &Change) -> Change {
    let is_there = kind == Kind::Task && change.kind() != ChangeKind::Delete;
    let object = is_there.then(|| Widget::GanttTasks.normal_form(change.object(), None)).flatten();
    object.map_or_else(|| change.clone(), |object| Change { object: object.into(), ..change.clone() })
}

/// Ids and parents.
fn outline(tasks: &[Map]) -> String {
    let of = |task: &Map| format!("{}<{}", task["id"].as_str().unwrap_or_default(), task["parent"]);
    tasks.iter().map(of).collect::<Vec<_>>().join(" ")
}

fn hub(delivery: Delivery, records: usize, pace: Pace, without: Option<Rule>) -> Arc<Hub> {
    let hour = Duration::from_secs(3600);
    let log = LogLimits {
        records,
        bytes: usize::MAX,
        age: hour,
        tombstones: 1000,
        tombstone_age: 24 * hour,
        object_bytes: usize::MAX,
    };
    let tasks = EntityEncoder {
        widget: Widget::GanttTasks,
        parent_keys: vec!["parent".to_owned()],
        has_snapshot: true,
        ..EntityEncoder::new("tasks", "task")
    };
    let links = EntityEncoder {
        widget: Widget::GanttLinks,
        parent_keys: vec!["source".to_owned(), "target".to_owned()],
        has_snapshot: true,
        ..EntityEncoder::new("links", "link")
    };
    let times = DeliveryTimes { pace, ..times() };
    let settle = without.map_or(times.settle, |rule| rule.times(times.settle));
    let (times, sessions) = (DeliveryTimes { settle, ..times }, SessionLimits { sessions: 100, age: hour });
    Arc::new(Hub::new(delivery, vec![tasks, links], log, times, sessions, false))
}
