//! One follower of the log: where it stands, what it follows, and what it must hear again.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use tokio::time::Instant;

use crate::{
    auth::Identity,
    change::ChangeKind,
    hub::{
        Delivery, EntityIndex, Hub, Pages, SnapshotFrames,
        again::{Again, Place, SHARE_BYTES, SHARE_RECORDS, Share},
        handout::{Batch, Repetition},
        hidden::{Hidden, Loss},
        log::{Log, Matter},
        session::{Hold, SessionId},
        settle::{Settle, SettleTimes},
        sight::{Cleared, Heard, How, Inquiry, Line, Recipient, Told},
    },
    lock::lock,
    object::quoted,
    scope::Scopes,
};

/// Where a subscriber's frames go.
pub(crate) trait Outlet: Send + Sync {
    /// Takes whole frames, in order, as many as it can without waiting. What it has taken it will deliver.
    fn offer(&self, frames: &[&Cleared]) -> Taken;
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
#[derive(Debug)]
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
    /// What it may see must be asked first; then see [`Hub::tell`].
    Unsure(Inquiry),
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
    pub(super) recipient: Recipient,
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
    /// Counts what others than its own task have changed here: what was found out before is of no use then.
    version: u64,
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
    hidden: Option<Box<Hidden>>,
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
    pub(super) fn new(head: u64, recipient: Recipient, page: Option<PageFeed>, now: Instant) -> Self {
        Self {
            recipient,
            cursor: head,
            subscriptions: Vec::new(),
            // The first round of the slow way puts a direct outlet on the fast way.
            way: Way::Slow,
            page,
            ping_due: now,
            asked: None,
            pings: 0,
            version: 0,
        }
    }

    fn find(&mut self, entity: EntityIndex) -> Option<&mut Subscription> {
        self.subscriptions.iter_mut().find(|known| known.entity == entity)
    }

    fn wanted(&self, entity: EntityIndex, sequence: u64) -> Option<&Subscription> {
        self.subscriptions.iter().find(|known| known.entity == entity && known.from <= sequence)
    }

    /// An object goes out of its sight.
    fn loses(&mut self, loss: &Loss, until: Instant) {
        if let Some(subscription) = self.find(loss.entity) {
            subscription.hidden().told(loss, until);
        }
    }

    fn next_due(&self, times: &SettleTimes) -> Option<Instant> {
        self.subscriptions.iter().filter_map(|known| known.again.as_ref()?.next_due(times)).min()
    }
}

impl Subscription {
    fn new(entity: EntityIndex, head: u64) -> Self {
        Self {
            entity,
            from: head,
            replaying: false,
            lost: None,
            again: None,
            buried_from: None,
            unheard_from: head,
            stale_before: 0,
            hidden: None,
        }
    }

    fn hidden(&mut self) -> &mut Hidden {
        self.hidden.get_or_insert_default()
    }

    /// True while it is being told what is out of its sight.
    fn hides(&self) -> bool {
        self.hidden.as_ref().is_some_and(|hidden| hidden.is_due())
    }

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
        if feed.find(entity).is_some() || feed.way == Way::Left {
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
        let mut subscription = Subscription::new(entity, head);
        let has_changed = self.voice(entity).is_scoped && feed.recipient.earlier().is_some();
        let missed_from = missed_from.filter(|_| !has_changed);
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
        feed.version += 1;
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

    /// Brings an entity that is [`Progress::Lost`] to what the store says, which said `earlier` to who its page was
    /// before; without a snapshot, only tells the page that it must load its list again.
    pub(crate) fn resynchronise(
        &self,
        subscriber: &Subscriber,
        entity: EntityIndex,
        snapshot: Option<Arc<SnapshotFrames>>,
        earlier: Option<&SnapshotFrames>,
        now: Instant,
    ) {
        let snapshot = match (snapshot, earlier) {
            (Some(snapshot), Some(earlier)) => {
                let gone = |id: &str| self.going_by_id(entity, &quoted(id));
                Some(Arc::new(snapshot.instead_of(earlier, gone)))
            }
            (snapshot, _) => snapshot,
        };
        let mut feed = lock(&subscriber.feed);
        let log = lock(&self.log);
        let it = &mut *feed;
        let (mut subscriptions, recipient) = (it.subscriptions.iter_mut(), &it.recipient);
        let found = subscriptions.find(|known| known.entity == entity);
        let Some(subscription) = found.filter(|known| known.lost.is_some() && it.way != Way::Left) else {
            return;
        };
        if self.voice(entity).is_choosy() {
            self.suspect(subscription, &log, recipient);
        }
        let oldest = subscription.stale_before.max(log.base());
        match &snapshot {
            // What happened since is gone from the log already; or it is what somebody else may see.
            Some(snapshot) if snapshot.at < oldest || snapshot.scopes != *recipient.identity.hears() => {
                subscription.lost = Some(Lost::Unasked);
                subscription.stale_before = oldest;
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
        feed.version += 1;
        drop(log);
        drop(feed);
        subscriber.outlet.wake();
    }

    /// A subscriber is known to be somebody else now, or the same with other rights. What it may not hear any more it
    /// is told to be gone, what it may hear now it is told from the store.
    pub(crate) fn becomes(&self, subscriber: &Subscriber, identity: Identity) {
        // It may hold the application's data, which ends under no lock: so it is dropped behind the guards.
        let had;
        let mut feed = lock(&subscriber.feed);
        let feed = &mut *feed;
        had = std::mem::replace(&mut feed.recipient.identity, identity);
        feed.version += 1;
        if had.hears() == feed.recipient.identity.hears() || feed.way == Way::Left {
            return;
        }
        let log = lock(&self.log);
        feed.recipient.earlier.add(had.hears().clone(), log.head());
        if let Some(PageFeed { hold: Some(hold), .. }) = &feed.page {
            self.sessions.change_to(hold, feed.recipient.identity.hears(), log.head());
        }
        let (cursor, recipient) = (feed.cursor, &feed.recipient);
        let is_told_again = self.delivery == Delivery::Converging;
        for subscription in feed.subscriptions.iter_mut().filter(|known| self.voice(known.entity).is_scoped) {
            self.suspect(subscription, &log, recipient);
            if is_told_again {
                let unheard_from = match subscription.lost {
                    Some(_) => subscription.unheard_from,
                    None => subscription.again.as_ref().map_or(cursor, |again| again.unheard_from(cursor)),
                };
                subscription.lose(unheard_from, log.head());
            }
        }
        feed.way = Way::Slow;
        drop(log);
        subscriber.outlet.wake();
    }

    /// What the log knows and this recipient must not see, it may be showing.
    fn suspect(&self, subscription: &mut Subscription, log: &Log, recipient: &Recipient) {
        let is_filtered = self.voice(subscription.entity).view.is_some();
        let known = log.newest_of(subscription.entity).filter(|(_, _, subject)| subject.kind != ChangeKind::Delete);
        for (_, record, subject) in known {
            if is_filtered || !recipient.hears(&record.scopes) {
                subscription.hidden().suspect(subject.key.clone());
            }
        }
        if let Some(hidden) = &mut subscription.hidden {
            hidden.look();
        }
    }

    /// One round of the slow way for a subscriber whose outlet is written out.
    pub(crate) fn catch_up(&self, subscriber: &Subscriber, now: Instant) -> Progress {
        // In this order everywhere: whoever holds the log waits for nobody.
        let mut feed = lock(&subscriber.feed);
        if feed.way == Way::Left {
            return Progress::CaughtUp(None);
        }
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
        let mut lines: Vec<(Place, Line)> = Vec::new();
        let mut bytes = 0;
        let mut read_to = feed.cursor;
        let mut lost = None;
        for (sequence, record) in unread.take(SHARE_RECORDS) {
            if let Some(subscription) = feed.wanted(record.entity, sequence) {
                if bytes > SHARE_BYTES {
                    break;
                }
                let how = match &record.matter {
                    Matter::Refresh if self.voice(record.entity).has_snapshot => {
                        if !feed.recipient.hears(&record.scopes) {
                            read_to = sequence + 1;
                            continue;
                        }
                        lost = Some((record.entity, sequence));
                        break;
                    }
                    Matter::Change(subject) if subscription.replaying => {
                        let how = How::Again { from: subscription.from, pages: Pages::Any };
                        log.is_newest(record.entity, &subject.key, sequence).then_some(how)
                    }
                    Matter::Change(_) | Matter::Message | Matter::Refresh => Some(How::Live),
                };
                if let Some(line) = how.and_then(|how| self.meet(&log, sequence, record, &feed.recipient, how)) {
                    bytes += record.frame.len();
                    lines.push((Place::record(sequence), line));
                }
            }
            read_to = sequence + 1;
        }
        let at_head = read_to == log.head();
        if lines.is_empty() {
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
        self.tell_lines(subscriber, feed, lines, Then::ReadTo(read_to), now)
    }

    /// Tells what an inquiry has come to; nothing, where something has changed since then.
    pub(crate) fn tell(&self, subscriber: &Subscriber, inquiry: Inquiry, now: Instant) -> Progress {
        let mut feed = lock(&subscriber.feed);
        if feed.version != inquiry.version || feed.way == Way::Left {
            return Progress::More;
        }
        for loss in &inquiry.unknown {
            if let Some(subscription) = feed.find(loss.entity) {
                subscription.hidden().unknown(loss, now + self.times.deletions_for);
            }
        }
        self.tell_lines(subscriber, feed, inquiry.lines, inquiry.then, now)
    }

    /// Tells some lines, unless it must be asked first what the recipient may see of them.
    fn tell_lines(
        &self,
        subscriber: &Subscriber,
        mut feed: MutexGuard<'_, Feed>,
        lines: Vec<(Place, Line)>,
        then: Then,
        now: Instant,
    ) -> Progress {
        let mut told: Vec<(Place, &Told)> = Vec::with_capacity(lines.len());
        for (place, line) in &lines {
            match line {
                Line::Told(it) => told.push((*place, it)),
                Line::Asked(_) => {
                    let (version, identity) = (feed.version, feed.recipient.identity.clone());
                    return Progress::Unsure(Inquiry { lines, then, version, identity, unknown: Vec::new() });
                }
            }
        }
        let frames: Vec<&Cleared> = told.iter().map(|(_, told)| &told.frame).collect();
        let taken = subscriber.outlet.offer(&frames);
        for (_, told) in &told[..taken.frames] {
            told.is_told(self, &feed.recipient);
            if let Some(loss) = &told.loses {
                feed.loses(loss, now + self.times.deletions_for);
            }
        }
        let rest = told.get(taken.frames).map(|(place, _)| *place);
        let are_all = taken.frames == frames.len();
        match then {
            Then::ReadTo(read_to) => feed.cursor = rest.and_then(Place::sequence).unwrap_or(read_to),
            Then::Again { at, end, refreshed } => {
                self.tally.repeats.add(taken.frames as u64);
                let cursor = feed.cursor;
                let subscription = &mut feed.subscriptions[at];
                if let Some(again) = &mut subscription.again {
                    again.told(rest.unwrap_or(end), taken.frames, &self.times, now);
                    // It was told what the store says, and all that followed until here.
                    if again.is_repeated() && subscription.from == u64::MAX {
                        if again.is_stale(refreshed) {
                            subscription.lose(cursor, refreshed);
                        } else {
                            subscription.from = cursor;
                        }
                    }
                }
            }
            Then::Deletions { at, end } => {
                self.tally.repeats.add(taken.frames as u64);
                feed.subscriptions[at].buried_from = rest.unwrap_or(end).tombstone_left();
            }
            Then::Hidden { at, keys, next } => {
                self.tally.repeats.add(taken.frames as u64);
                let left = rest.map(|rest| keys.get(rest.row()).cloned());
                feed.subscriptions[at].hidden().go_on(left.unwrap_or(next));
            }
        }
        if are_all && !frames.is_empty() {
            subscriber.ride_along(&mut feed, self, now);
        }
        if taken.clear {
            return Progress::More;
        }
        feed.way = Way::Slow;
        Progress::Blocked
    }

    /// Tells a subscriber that stands at the head what it is to hear once more.
    fn tell_again(
        &self,
        subscriber: &Subscriber,
        mut feed: MutexGuard<'_, Feed>,
        log: MutexGuard<'_, Log>,
        now: Instant,
    ) -> Progress {
        let it = &mut *feed;
        let (cursor, recipient) = (it.cursor, &it.recipient);
        let mut subscriptions = it.subscriptions.iter_mut().enumerate();
        let next =
            subscriptions.find_map(|(at, known)| Some((at, self.next_telling(known, recipient, &log, now, cursor)?)));
        // Writing takes time, and others tell things meanwhile.
        drop(log);
        let Some((at, telling)) = next else {
            if subscriber.outlet.is_direct() && feed.way == Way::Slow {
                feed.way = Way::Fast;
            }
            return Progress::CaughtUp(feed.next_due(&self.times.settle));
        };
        let (lines, then) = match telling {
            Telling::Lost => return Progress::More,
            Telling::Again(share, refreshed) => (share.lines, Then::Again { at, end: share.end, refreshed }),
            Telling::Deletions(share) => (share.lines, Then::Deletions { at, end: share.end }),
            Telling::Hidden { lines, keys, next } => (lines, Then::Hidden { at, keys, next }),
        };
        self.tell_lines(subscriber, feed, lines, then, now)
    }

    /// What a subscription is to hear once more at this time.
    fn next_telling(
        &self,
        known: &mut Subscription,
        recipient: &Recipient,
        log: &Log,
        now: Instant,
        cursor: u64,
    ) -> Option<Telling> {
        if let Some(hidden) = known.hidden.as_ref().filter(|hidden| hidden.is_due()) {
            return Some(self.share_of_hidden(known.entity, hidden, recipient, log));
        }
        if let Some(from) = known.buried_from.take() {
            return Some(Telling::Deletions(self.share_of_deletions(log, known.entity, from, recipient)));
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
        let refreshed = match self.voice(known.entity).has_snapshot {
            true => log.refreshed_for(known.entity, recipient.identity.hears()),
            false => 0,
        };
        self.share(log, known.entity, again, recipient, now).map(|share| Telling::Again(share, refreshed))
    }

    /// Some of what is out of a recipient's sight: that it is gone, or the object where it may see it again.
    fn share_of_hidden(&self, entity: EntityIndex, hidden: &Hidden, recipient: &Recipient, log: &Log) -> Telling {
        let mut due = hidden.due();
        let (mut lines, mut keys) = (Vec::new(), Vec::new());
        for (key, since) in due.by_ref().take(SHARE_RECORDS) {
            let how = match since.until {
                Some(_) => How::Again { from: since.from, pages: Pages::Any },
                None => How::Gone { from: since.from },
            };
            let newest = log.newest_record(entity, key).filter(|(at, ..)| log.is_newest(entity, key, *at));
            // Where it is gone for everybody, everybody is told who could see it last; these may have seen it before.
            let is_filtered = self.voice(entity).view.is_some();
            let is_meant = newest.filter(|(_, _, subject)| is_filtered || subject.kind != ChangeKind::Delete);
            let line = is_meant.and_then(|(at, record, _)| self.meet(log, at, record, recipient, how));
            lines.extend(line.map(|line| (Place::of_row(keys.len()), line)));
            keys.push(key.clone());
        }
        Telling::Hidden { lines, keys, next: due.next().map(|(key, _)| key.clone()) }
    }
}

/// What is told once more.
enum Telling {
    /// With where the log stood behind the latest refresh.
    Again(Share, u64),
    Deletions(Share),
    /// Each line stands at the place of its key.
    Hidden {
        lines: Vec<(Place, Line)>,
        keys: Vec<Arc<str>>,
        next: Option<Arc<str>>,
    },
    /// Only the store can tell it.
    Lost,
}

/// What follows when lines have been told, to the subscription at a place.
#[derive(Debug)]
pub(super) enum Then {
    /// The log has been read so far.
    ReadTo(u64),
    Again {
        at: usize,
        end: Place,
        refreshed: u64,
    },
    Deletions {
        at: usize,
        end: Place,
    },
    Hidden {
        at: usize,
        keys: Vec<Arc<str>>,
        next: Option<Arc<str>>,
    },
}

impl Subscriber {
    /// Ends an entity for this subscriber. False when there was nothing to end.
    pub(crate) fn unsubscribe(&self, entity: EntityIndex) -> bool {
        let mut feed = lock(&self.feed);
        let before = feed.subscriptions.len();
        feed.subscriptions.retain(|known| known.entity != entity);
        feed.version += 1;
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
    pub(crate) fn ping(&self, hub: &Hub, now: Instant) -> Cleared {
        let mut feed = lock(&self.feed);
        match feed.asking(hub, now) {
            Some(asked) => {
                let ping = Cleared::ping(&asked.payload);
                feed.asked = Some(asked);
                ping
            }
            None => Cleared::ping(&[]),
        }
    }

    /// Whether it follows an entity and hears what is told of it in these scopes.
    pub(super) fn would_hear(&self, entity: EntityIndex, scopes: &Scopes) -> bool {
        let mut feed = lock(&self.feed);
        feed.recipient.hears(scopes) && feed.find(entity).is_some()
    }

    /// Who it is.
    pub(crate) fn identity(&self) -> Identity {
        lock(&self.feed).recipient.identity.clone()
    }

    /// Who it was before on this page, where its scopes were others then.
    pub(crate) fn earlier_identity(&self) -> Option<Identity> {
        lock(&self.feed).recipient.earlier()
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
        wanted: &mut Vec<(u64, Heard<'b>)>,
        frames: &mut Vec<&'b Cleared>,
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
                if let Some(heard) = said.to(&feed.recipient) {
                    frames.push(heard.frame);
                    wanted.push((sequence, heard));
                }
            }
        }
        let mut taken = Taken { frames: 0, clear: true };
        if !frames.is_empty() {
            taken = self.outlet.offer(frames);
        }
        for (_, heard) in &wanted[..taken.frames] {
            heard.is_told(hub, &feed.recipient);
            if let Some(loss) = heard.loses {
                feed.loses(loss, batch.now + hub.times.deletions_for);
            }
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
        let it = &mut *feed;
        let (cursor, recipient) = (it.cursor, &it.recipient);
        let is_there = it.way == Way::Fast && cursor == repetition.until;
        let repeat = &repetition.repeat;
        let mut subscriptions = it.subscriptions.iter_mut();
        let Some(subscription) =
            subscriptions.find(|known| known.entity == repeat.entity).filter(|known| known.lost.is_none())
        else {
            return;
        };
        let mut is_told = false;
        if let Some(hidden) = subscription.hidden.as_mut().filter(|_| repeat.only_deletions) {
            hidden.begin(now);
        }
        if repetition.is_gone {
            let unheard_from = subscription.again.as_ref().map_or(cursor, |again| again.unheard_from(cursor));
            subscription.lose(unheard_from, 0);
            is_told = true;
        } else if let Some(said) = repetition.frames.as_ref().filter(|_| is_there) {
            let heard: Vec<Heard<'_>> = said.iter().filter_map(|said| said.to(recipient)).collect();
            let frames: Vec<&Cleared> = heard.iter().map(|heard| heard.frame).collect();
            let taken = self.outlet.offer(&frames);
            hub.tally.repeats.add(taken.frames as u64);
            for heard in &heard[..taken.frames] {
                heard.is_told(hub, recipient);
                if let Some(loss) = heard.loses {
                    subscription.hidden().told(loss, now + hub.times.deletions_for);
                }
            }
            is_told = taken.frames == frames.len();
            if is_told && taken.clear && !subscription.hides() {
                return;
            }
        }
        if !is_told && repeat.only_deletions {
            subscription.buried_from = Some(repeat.told.start);
        } else if !is_told {
            subscription.settle(repeat.told.start, repeat.known_before, now);
        }
        feed.way = Way::Slow;
        feed.version += 1;
        drop(feed);
        self.outlet.wake();
    }

    /// Sends a ping behind what was just written, when it is time for one.
    fn ride_along(&self, feed: &mut Feed, hub: &Hub, now: Instant) {
        if now < feed.ping_due {
            return;
        }
        if let Some(asked) = feed.asking(hub, now) {
            if self.outlet.offer(&[&Cleared::ping(&asked.payload)]).frames == 1 {
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
