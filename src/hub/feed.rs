//! One follower of the log: where it stands, what it follows, and what it must hear again.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use bytes::Bytes;
use tokio::time::Instant;

use crate::{
    hub::{
        Delivery, EntityIndex, Hub, Pages, SnapshotFrames,
        again::{Again, SHARE_BYTES, SHARE_RECORDS, Share},
        handout::{Batch, Repetition},
        log::{Log, Matter},
        session::{Hold, SessionId},
        settle::{Settle, SettleTimes},
    },
    lock::lock,
    protocol,
};

/// Where a subscriber's frames go.
pub(crate) trait Outlet: Send + Sync {
    /// Takes whole frames, in order, as many as it can without waiting. What it has taken it will deliver.
    fn offer(&self, frames: &[&Bytes]) -> Taken;
    /// True when the fan-out may offer frames; false where only the subscriber's own task can write.
    fn is_direct(&self) -> bool;
    /// Wakes the subscriber's own task: it has left the fast way, or there is news that only it can write.
    fn wake(&self);
}

/// How an offer went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    /// Frames taken, from the front.
    pub(crate) frames: usize,
    /// True when nothing waits to be written, so that more may be offered at once.
    pub(crate) clear: bool,
}

/// How far a subscriber got on the slow way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// It has everything; wait to be woken, or until this time.
    CaughtUp(Option<Instant>),
    /// There is more to read at once.
    More,
    /// The outlet must be written out first.
    Blocked,
    /// Records it has not seen are gone from the log.
    FellOff,
    /// Only the store can tell where this entity stands, by what it says from a sequence number on: see
    /// [`Hub::resynchronise`].
    Lost(EntityIndex, u64),
}

/// Where a new subscriber was when the log last knew of it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Origin {
    /// Nobody knows: it hears what happens from now on.
    Unknown,
    /// A page that comes, or comes back, with a key.
    Page {
        /// Its session; `None` where it has none of its own.
        session: Option<SessionId>,
        /// What it may have missed begins here; `None` when that was in another log.
        missed_from: Option<u64>,
    },
}

/// One follower of the log.
pub(crate) struct Subscriber {
    pub(super) feed: Mutex<Feed>,
    pub(super) outlet: Arc<dyn Outlet>,
    /// Its shard, and its place there.
    pub(super) seat: OnceLock<(usize, usize)>,
}

/// Where a subscriber stands and what it follows.
#[derive(Debug)]
pub(super) struct Feed {
    /// The sequence number of the first record it has not been handed.
    cursor: u64,
    subscriptions: Vec<Subscription>,
    way: Way,
    /// Nobody knows what a subscriber without one has missed.
    page: Option<PageFeed>,
    /// When a ping is to ride along next.
    ping_due: Instant,
    /// The latest ping, and what its pong will acknowledge.
    asked: Option<Asked>,
    pings: u64,
}

/// What is known of the page at the other end.
#[derive(Debug)]
pub(super) struct PageFeed {
    pub(super) hold: Option<Hold>,
    pub(super) missed_from: Option<u64>,
}

#[derive(Debug)]
struct Asked {
    payload: [u8; 8],
    positions: Vec<(EntityIndex, u64)>,
}

/// An entity, and how it is heard.
#[derive(Debug)]
struct Subscription {
    entity: EntityIndex,
    /// The first record of it that is wanted; none while it is lost, or told for the first time what the store says.
    from: u64,
    /// On the way to the head: of each object only the newest state is told, to pages that may have it or not.
    replaying: bool,
    lost: Option<Lost>,
    again: Option<Box<Again>>,
    /// From here on deletions are to be told again.
    buried_from: Option<u64>,
    /// While it is lost: messages from here on are kept for it.
    unheard_from: u64,
    /// What the store said before the log stood here is of no use.
    stale_before: u64,
}

/// What must come from the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lost {
    Unasked,
    Asked,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Fast,
    Slow,
    Left,
}

impl Feed {
    pub(super) fn new(head: u64, page: Option<PageFeed>, now: Instant) -> Self {
        Self {
            cursor: head,
            subscriptions: Vec::new(),
            // The first round of the slow way puts a direct outlet on the fast way.
            way: Way::Slow,
            page,
            ping_due: now,
            asked: None,
            pings: 0,
        }
    }

    fn find(&mut self, entity: EntityIndex) -> Option<&mut Subscription> {
        self.subscriptions.iter_mut().find(|known| known.entity == entity)
    }

    fn wanted(&self, entity: EntityIndex, sequence: u64) -> Option<&Subscription> {
        self.subscriptions.iter().find(|known| known.entity == entity && known.from <= sequence)
    }

    fn next_due(&self, times: &SettleTimes) -> Option<Instant> {
        self.subscriptions.iter().filter_map(|known| known.again.as_ref()?.next_due(times)).min()
    }
}

impl Subscription {
    /// Only the store can tell where it stands, by what it says from `stale_before` on. Messages from `unheard_from` on
    /// have not been heard.
    fn lose(&mut self, unheard_from: u64, stale_before: u64) {
        self.from = u64::MAX;
        self.unheard_from = unheard_from;
        self.replaying = false;
        self.again = None;
        self.stale_before = stale_before;
        self.lost = Some(Lost::Unasked);
    }

    /// Everything before this is known to be on the page once what was written so far has arrived.
    fn safe(&self, cursor: u64, settled: u64, unsettled_from: Option<u64>) -> Option<u64> {
        if self.lost.is_some() {
            return None;
        }
        let missed_from = self.again.as_ref().map_or(Some(cursor), |again| again.missed_from(cursor))?;
        let safe = cursor.min(settled).min(missed_from);
        Some(safe.min(unsettled_from.unwrap_or(u64::MAX)))
    }

    /// Tells what settles once more.
    fn settle(&mut self, from: u64, known_before: u64, now: Instant) {
        match &mut self.again {
            Some(again) => again.settle(from, known_before, now),
            None => self.again = Some(Box::new(Again::settled(from, known_before, now))),
        }
    }
}

impl Hub {
    /// Starts an entity for a subscriber: a page hears first what it missed, everyone what is told from now on. Doing
    /// so twice changes nothing.
    pub(crate) fn subscribe(&self, subscriber: &Subscriber, entity: EntityIndex, now: Instant) -> bool {
        let mut feed = lock(&subscriber.feed);
        let log = lock(&self.log);
        if feed.find(entity).is_some() {
            return false;
        }
        let head = log.head();
        let (missed_from, comes_back) = match &feed.page {
            _ if self.delivery == Delivery::Plain => (Some(head), true),
            None => (Some(head), true),
            // It has no state to be lost.
            Some(PageFeed { missed_from, .. }) if entity == self.resync => {
                (missed_from.filter(|&from| from >= log.base()).or(Some(head)), true)
            }
            Some(PageFeed { hold, missed_from }) => {
                let known = hold.as_ref().and_then(|hold| self.sessions.position(hold, entity));
                (known.or(*missed_from), known.is_some())
            }
        };
        let mut subscription = Subscription {
            entity,
            from: head,
            replaying: false,
            lost: None,
            again: None,
            buried_from: None,
            unheard_from: head,
            stale_before: 0,
        };
        match missed_from.map(|from| from.min(head)).filter(|&from| from >= log.base()) {
            None => subscription.lose(missed_from.unwrap_or(0).max(log.base()), 0),
            Some(from) => {
                if from < head {
                    // The others have been handed what lies between.
                    let cursor = feed.cursor;
                    for known in &mut feed.subscriptions {
                        known.from = known.from.max(cursor);
                    }
                    feed.cursor = cursor.min(from);
                    subscription.from = from;
                    subscription.replaying = true;
                    self.tally.replays.up();
                }
                if from < head || !comes_back {
                    // A list may arrive later than this, or the page be saving at the moment.
                    let again = Again::replayed(from, comes_back, &self.times, now);
                    subscription.again = Some(Box::new(again));
                }
            }
        }
        let is_live = !subscription.replaying && subscription.lost.is_none();
        let has_plans = subscription.again.is_some();
        feed.subscriptions.push(subscription);
        if !is_live {
            feed.way = Way::Slow;
        }
        drop(log);
        drop(feed);
        if !is_live || has_plans {
            subscriber.outlet.wake();
        }
        true
    }

    /// Brings an entity that is [`Progress::Lost`] to what the store says; without a snapshot, only tells the page that
    /// it must load its list again.
    pub(crate) fn resynchronise(
        &self,
        subscriber: &Subscriber,
        entity: EntityIndex,
        snapshot: Option<Arc<SnapshotFrames>>,
        now: Instant,
    ) {
        let mut feed = lock(&subscriber.feed);
        let log = lock(&self.log);
        let Some(subscription) = feed.find(entity).filter(|known| known.lost.is_some()) else {
            return;
        };
        match &snapshot {
            // What happened since is gone from the log already.
            Some(snapshot) if snapshot.at < log.base() => {
                subscription.lost = Some(Lost::Unasked);
                subscription.stale_before = log.base();
            }
            _ => {
                let (counter, from) = match &snapshot {
                    Some(snapshot) => (&self.tally.snapshots, snapshot.at),
                    None => (&self.tally.gaps, log.base()),
                };
                counter.up();
                let snapshot = snapshot.unwrap_or_else(|| Arc::new(self.marker(entity, log.head())));
                let messages_from = subscription.unheard_from.max(log.base());
                let again = Again::resynchronised(snapshot, from, messages_from, &self.times, now);
                subscription.again = Some(Box::new(again));
                subscription.lost = None;
            }
        }
        feed.way = Way::Slow;
        drop(log);
        drop(feed);
        subscriber.outlet.wake();
    }

    /// One round of the slow way for a subscriber whose outlet is written out.
    pub(crate) fn catch_up(&self, subscriber: &Subscriber, now: Instant) -> Progress {
        // In this order everywhere: whoever holds the log waits for nobody.
        let mut feed = lock(&subscriber.feed);
        if let Some(lost) = feed.subscriptions.iter_mut().find(|known| known.lost == Some(Lost::Unasked)) {
            lost.lost = Some(Lost::Asked);
            return Progress::Lost(lost.entity, lost.stale_before);
        }
        let log = lock(&self.log);
        let someone_wants_it = |known: &Subscription| known.from < log.base();
        if !feed.subscriptions.iter().any(someone_wants_it) {
            // What is gone from the log was nothing to it.
            feed.cursor = feed.cursor.max(log.base());
        }
        let Some(unread) = log.since(feed.cursor) else {
            return Progress::FellOff;
        };
        let mut share: Vec<(u64, Bytes)> = Vec::new();
        let mut bytes = 0;
        let mut read_to = feed.cursor;
        let mut lost = None;
        for (sequence, record) in unread.take(SHARE_RECORDS) {
            if let Some(subscription) = feed.wanted(record.entity, sequence) {
                if bytes > SHARE_BYTES {
                    break;
                }
                let frame = match &record.matter {
                    Matter::Refresh if self.voice(record.entity).has_snapshot => {
                        lost = Some((record.entity, sequence));
                        break;
                    }
                    Matter::Message | Matter::Refresh => Some(record.frame.clone()),
                    Matter::Change(_) if !subscription.replaying => Some(record.frame.clone()),
                    Matter::Change(subject) => {
                        let is_newest = log.is_newest(record.entity, &subject.id, sequence);
                        is_newest.then(|| self.once_more(record.entity, subject, &record.frame, Pages::Any))
                    }
                };
                if let Some(frame) = frame {
                    bytes += frame.len();
                    share.push((sequence, frame));
                }
            }
            read_to = sequence + 1;
        }
        let at_head = read_to == log.head();
        if share.is_empty() {
            feed.cursor = read_to;
            if let Some((entity, sequence)) = lost {
                drop(log);
                if let Some(subscription) = feed.find(entity) {
                    subscription.lose(sequence + 1, sequence + 1);
                    feed.cursor = sequence + 1;
                }
                return Progress::More;
            }
            if !at_head {
                return Progress::More;
            }
            for subscription in &mut feed.subscriptions {
                subscription.replaying = false;
            }
            return self.tell_again(subscriber, feed, log, now);
        }
        drop(log);
        let frames: Vec<&Bytes> = share.iter().map(|(_, frame)| frame).collect();
        let taken = subscriber.outlet.offer(&frames);
        feed.cursor = match share.get(taken.frames) {
            Some((sequence, _)) => *sequence,
            None => read_to,
        };
        if taken.frames == frames.len() {
            subscriber.ride_along(&mut feed, self, now);
        }
        if taken.clear { Progress::More } else { Progress::Blocked }
    }

    /// Tells a subscriber that stands at the head what it is to hear once more.
    fn tell_again(
        &self,
        subscriber: &Subscriber,
        mut feed: MutexGuard<'_, Feed>,
        log: MutexGuard<'_, Log>,
        now: Instant,
    ) -> Progress {
        let cursor = feed.cursor;
        let mut subscriptions = feed.subscriptions.iter_mut().enumerate();
        let next = subscriptions.find_map(|(at, known)| Some((at, self.next_telling(known, &log, now, cursor)?)));
        // Writing takes time, and others tell things meanwhile.
        drop(log);
        let Some((at, telling)) = next else {
            if subscriber.outlet.is_direct() && feed.way == Way::Slow {
                feed.way = Way::Fast;
            }
            return Progress::CaughtUp(feed.next_due(&self.times.settle));
        };
        let share = match &telling {
            Telling::Lost => return Progress::More,
            Telling::Deletions(share) | Telling::Again(share, _) => share,
        };
        let frames: Vec<&Bytes> = share.frames.iter().map(|(_, frame)| frame).collect();
        let taken = subscriber.outlet.offer(&frames);
        self.tally.repeats.add(taken.frames as u64);
        let subscription = &mut feed.subscriptions[at];
        match (&telling, &mut subscription.again) {
            (&Telling::Again(ref share, refreshed), Some(again)) => {
                again.told(share, taken.frames, &self.times, now);
                // It was told what the store says, and all that followed until here.
                if again.is_repeated() && subscription.from == u64::MAX {
                    if again.is_stale(refreshed) {
                        subscription.lose(cursor, refreshed);
                    } else {
                        subscription.from = cursor;
                    }
                }
            }
            (Telling::Deletions(share), _) => subscription.buried_from = share.deletions_left(taken.frames),
            (Telling::Again(..) | Telling::Lost, _) => {}
        }
        if taken.frames == frames.len() && !frames.is_empty() {
            subscriber.ride_along(&mut feed, self, now);
        }
        if taken.clear {
            return Progress::More;
        }
        feed.way = Way::Slow;
        Progress::Blocked
    }

    /// What a subscription is to hear once more at this time.
    fn next_telling(&self, known: &mut Subscription, log: &Log, now: Instant, cursor: u64) -> Option<Telling> {
        if let Some(from) = known.buried_from.take() {
            return Some(Telling::Deletions(self.share_of_deletions(log, known.entity, from)));
        }
        let again = known.again.as_mut()?;
        if again.is_gone(log, now) {
            let unheard_from = again.unheard_from(cursor);
            known.lose(unheard_from, 0);
            return Some(Telling::Lost);
        }
        let goes_on = again.move_on(&lock(&self.settles)[usize::from(known.entity.0)], &self.times, now);
        if !goes_on {
            known.again = None;
            return None;
        }
        let refreshed = if self.voice(known.entity).has_snapshot { log.refreshed(known.entity) } else { 0 };
        self.share(log, known.entity, again, now).map(|share| Telling::Again(share, refreshed))
    }
}

/// What is told once more.
enum Telling {
    /// With where the log stood behind the latest refresh.
    Again(Share, u64),
    Deletions(Share),
    /// Only the store can tell it.
    Lost,
}

impl Subscriber {
    /// Ends an entity for this subscriber. False when there was nothing to end.
    pub(crate) fn unsubscribe(&self, entity: EntityIndex) -> bool {
        let mut feed = lock(&self.feed);
        let before = feed.subscriptions.len();
        feed.subscriptions.retain(|known| known.entity != entity);
        feed.subscriptions.len() < before
    }

    /// Whether it follows this one.
    pub(crate) fn follows(&self, entity: EntityIndex) -> bool {
        lock(&self.feed).find(entity).is_some()
    }

    /// How many entities it follows.
    pub(crate) fn subscriptions(&self) -> usize {
        lock(&self.feed).subscriptions.len()
    }

    /// Nothing is handed to its outlet any more, even by a fan-out task that holds it still. Gives its session back.
    pub(super) fn leave(&self) -> Option<Hold> {
        let mut feed = lock(&self.feed);
        feed.way = Way::Left;
        feed.page.as_mut()?.hold.take()
    }

    /// A ping for the end of the line. Its pong will acknowledge what stands before it there.
    pub(crate) fn ping(&self, hub: &Hub, now: Instant) -> Bytes {
        let mut feed = lock(&self.feed);
        match feed.asking(hub, now) {
            Some(asked) => {
                let ping = protocol::ping(&asked.payload);
                feed.asked = Some(asked);
                ping
            }
            None => protocol::ping(&[]),
        }
    }

    /// The page has everything that was written before the ping of this payload.
    pub(crate) fn pong(&self, hub: &Hub, payload: &[u8]) {
        let mut feed = lock(&self.feed);
        let Some(asked) = feed.asked.take_if(|asked| asked.payload == payload) else {
            return;
        };
        if let Some(PageFeed { hold: Some(hold), .. }) = &feed.page {
            hub.sessions.acknowledge(hold, &asked.positions);
        }
    }

    /// Hands over a batch on the fast way, or moves to the slow way.
    pub(super) fn deliver<'b>(
        &self,
        hub: &Hub,
        batch: &'b Batch,
        wanted: &mut Vec<(u64, &'b Bytes)>,
        frames: &mut Vec<&'b Bytes>,
    ) {
        let mut feed = lock(&self.feed);
        if feed.way == Way::Left {
            return;
        }
        if feed.way == Way::Slow || feed.cursor < batch.start {
            feed.way = Way::Slow;
            drop(feed);
            self.outlet.wake();
            return;
        }
        wanted.clear();
        frames.clear();
        let mut end = batch.end();
        let mut is_fast = true;
        let unseen = batch
            .records
            .iter()
            .zip(batch.start..)
            .skip(usize::try_from(feed.cursor - batch.start).unwrap_or(usize::MAX));
        for (said, sequence) in unseen {
            if feed.wanted(said.entity, sequence).is_some() {
                if said.only_slowly {
                    (end, is_fast) = (sequence, false);
                    break;
                }
                wanted.push((sequence, &said.frame));
                frames.push(&said.frame);
            }
        }
        let mut taken = Taken { frames: 0, clear: true };
        if !frames.is_empty() {
            taken = self.outlet.offer(frames);
        }
        feed.cursor = match wanted.get(taken.frames) {
            Some((sequence, _)) => *sequence,
            None => feed.cursor.max(end),
        };
        if is_fast && taken.frames == frames.len() && taken.clear {
            if !frames.is_empty() {
                self.ride_along(&mut feed, hub, batch.now);
            }
            return;
        }
        feed.way = Way::Slow;
        drop(feed);
        self.outlet.wake();
    }

    /// Says again what has settled, to one that stands at the head; others hear it when they get there.
    pub(super) fn repeat(&self, hub: &Hub, repetition: &Repetition, now: Instant) {
        let mut feed = lock(&self.feed);
        if feed.way == Way::Left {
            return;
        }
        let cursor = feed.cursor;
        let is_there = feed.way == Way::Fast && cursor == repetition.until;
        let repeat = &repetition.repeat;
        let Some(subscription) = feed.find(repeat.entity).filter(|known| known.lost.is_none()) else {
            return;
        };
        let mut is_told = false;
        if repetition.is_gone {
            let unheard_from = subscription.again.as_ref().map_or(cursor, |again| again.unheard_from(cursor));
            subscription.lose(unheard_from, 0);
            is_told = true;
        } else if let Some(frames) = repetition.frames.as_ref().filter(|_| is_there) {
            let frames: Vec<&Bytes> = frames.iter().collect();
            let taken = self.outlet.offer(&frames);
            hub.tally.repeats.add(taken.frames as u64);
            is_told = taken.frames == frames.len();
            if is_told && taken.clear {
                return;
            }
        }
        if !is_told && repeat.only_deletions {
            subscription.buried_from = Some(repeat.told.start);
        } else if !is_told {
            subscription.settle(repeat.told.start, repeat.known_before, now);
        }
        feed.way = Way::Slow;
        drop(feed);
        self.outlet.wake();
    }

    /// Sends a ping behind what was just written, when it is time for one.
    fn ride_along(&self, feed: &mut Feed, hub: &Hub, now: Instant) {
        if now < feed.ping_due {
            return;
        }
        if let Some(asked) = feed.asking(hub, now) {
            if self.outlet.offer(&[&protocol::ping(&asked.payload)]).frames == 1 {
                feed.asked = Some(asked);
            }
        }
    }
}

impl Feed {
    /// What a ping sent now would have acknowledged; `None` for one without a session.
    fn asking(&mut self, hub: &Hub, now: Instant) -> Option<Asked> {
        let Some(PageFeed { hold: Some(_), .. }) = &self.page else {
            return None;
        };
        self.ping_due = now + hub.times.acknowledge_every;
        let settled = {
            let log = lock(&hub.log);
            log.position(now, hub.times.replay_overlap)
        };
        let settles = lock(&hub.settles);
        let positions: Vec<(EntityIndex, u64)> = self
            .subscriptions
            .iter()
            .filter_map(|known| {
                let unsettled_from = settles.get(usize::from(known.entity.0)).and_then(Settle::unsettled_from);
                Some((known.entity, known.safe(self.cursor, settled, unsettled_from)?))
            })
            .collect();
        drop(settles);
        if positions.is_empty() {
            return None;
        }
        self.pings += 1;
        Some(Asked { payload: self.pings.to_be_bytes(), positions })
    }
}
