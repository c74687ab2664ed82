//! One subscriber: who it is, where it stands in the log, and what it follows.

use std::{
    fmt,
    num::NonZeroU64,
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    super::{
        core::Core,
        delivery::{
            batch::{Repeat, Resent},
            late_list::LateList,
        },
        log::{Addressee, Log, ObjectRef},
        sessions::{Hold, SessionHolder},
        visibility::{Addressed, AuditBuffer, Cleared, Recipient},
    },
    sink::{Accepted, FrameSink},
    subscription::{Ask, Ended, Phase, Subscription},
};
use crate::{
    auth::Identity, entity::EntityIndex, hub::retractions::Retracted, lock::lock, scope::Scopes, sequence::Sequence,
    session::Session,
};

/// Repeats that wait until the hooks have answered; of more, those of an entity become one.
const MAX_WAITING: usize = 8;

/// One consumer of the log.
///
/// What the fast path needs of it comes first and lies together, here and in its state: it looks at thousands of them for
/// each record, and what it has to wait for is their memory.
#[repr(C)]
pub(crate) struct Subscriber {
    pub(super) sink: Arc<dyn FrameSink>,
    pub(super) state: Mutex<SubscriberState>,
    pub(super) core: Arc<Core>,
    /// Its shard, and its place there.
    pub(crate) slot: OnceLock<(usize, usize)>,
}

/// Where a subscriber stands and what it follows.
#[derive(Debug)]
#[repr(C)]
pub(super) struct SubscriberState {
    /// The sequence number of the first record it has not been sent.
    pub(super) cursor: Sequence,
    /// The entities that are wanted from the cursor on, since it last caught up; none while that may change.
    pub(super) live: Live,
    /// When a ping is to ride along next.
    pub(super) ping_due: Instant,
    pub(super) path: Path,
    pub(super) recipient: Recipient,
    pub(super) subscriptions: Vec<Subscription>,
    /// It is unknown what a subscriber without one has missed.
    pub(super) page: Option<PageState>,
    /// The latest ping, and what its pong will acknowledge.
    pub(super) pinged: Option<Box<Ping>>,
    pub(super) pings: u64,
    /// Entities whose subscription the page has ended.
    pub(super) ended: Option<Box<Ended>>,
}

/// Who sends to a subscriber.
#[derive(Debug)]
pub(super) enum Path {
    /// The fan-out: it has everything.
    Fast,
    /// Its own task, one chunk after the other.
    Slow,
    /// Neither, until the hooks have answered what a chunk may hold. What is to be resent meanwhile waits.
    Checking(Vec<Repeat>),
    /// It has left.
    Left,
}

/// Some entities, as one bit for each of the first that are configured.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Live {
    entities: u64,
    /// No other entity is wanted.
    is_all: bool,
}

impl Live {
    fn bit(entity: EntityIndex) -> u64 {
        1_u64.checked_shl(u32::from(entity.0)).unwrap_or(0)
    }

    /// Whether an entity is among them; `None` where the bits do not decide.
    fn has(self, entity: EntityIndex) -> Option<bool> {
        let is_one = self.entities & Self::bit(entity) != 0;
        (is_one || self.is_all).then_some(is_one)
    }
}

/// What is known of the page at the other end.
#[derive(Debug)]
pub(super) struct PageState {
    /// The number of its connection, while that holds the session.
    pub(super) connection: Option<NonZeroU64>,
    /// What it may have missed begins here; `None` where only the store knows.
    pub(super) missed_from: Option<Sequence>,
    /// What was outside the page's visibility on its earlier connection or subscription, until it subscribes.
    pub(super) retracted: Vec<(EntityIndex, Retracted)>,
}

/// A ping, and what its pong acknowledges.
#[derive(Debug)]
pub(super) struct Ping {
    pub(super) payload: [u8; 8],
    pub(super) positions: Box<[(EntityIndex, Sequence)]>,
    /// The page has been sent what it may receive as who it is now.
    pub(super) knows_identity: bool,
    pub(super) at: Instant,
}

impl Subscriber {
    pub(super) fn new(
        core: Arc<Core>,
        sink: Arc<dyn FrameSink>,
        recipient: Recipient,
        page: Option<PageState>,
        ping_due: Instant,
    ) -> Self {
        let state = SubscriberState {
            recipient,
            cursor: core.log_end(),
            live: Live::default(),
            subscriptions: Vec::new(),
            // The first round of the slow path puts a direct sink on the fast path.
            path: Path::Slow,
            page,
            ping_due,
            pinged: None,
            pings: 0,
            ended: None,
        };
        Self { state: Mutex::new(state), sink, core, slot: OnceLock::new() }
    }

    pub(crate) fn wake(&self) {
        self.sink.wake();
    }

    /// Touches what sending needs, so that the memory of several is fetched at one time.
    pub(crate) fn prefetch(&self) {
        std::hint::black_box(self.state.is_poisoned());
        self.sink.prefetch();
    }

    /// Whether it follows this one.
    pub(crate) fn follows(&self, entity: EntityIndex) -> bool {
        lock(&self.state).find(entity).is_some()
    }

    /// How many entities it follows.
    pub(crate) fn subscriptions(&self) -> usize {
        lock(&self.state).subscriptions.len()
    }

    /// Whether it follows an entity and receives what is published in these scopes for this addressee.
    pub(crate) fn would_receive(&self, entity: EntityIndex, scopes: &Scopes, addressee: &Addressee) -> bool {
        let mut state = lock(&self.state);
        state.recipient.receives(scopes) && state.recipient.is(addressee) && state.find(entity).is_some()
    }

    /// Who it is.
    pub(crate) fn identity(&self) -> Identity {
        lock(&self.state).recipient.identity.clone()
    }

    /// The session of its page.
    pub(crate) fn session(&self) -> Session {
        lock(&self.state).recipient.session.clone()
    }

    /// Who it was before on this page, where its scopes were others then.
    pub(crate) fn past_identity(&self) -> Option<Identity> {
        lock(&self.state).recipient.past_identity()
    }

    /// True when records that it has not been sent are gone from the log, whether or not its sink is written out: what
    /// waits in the sink may be in memory for this page alone.
    pub(crate) fn lags_behind_log(&self) -> bool {
        let state = lock(&self.state);
        let log = lock(&self.core.log);
        let lacks = |known: &Subscription| match known.phase {
            Phase::Live { from } => state.lacks(&log, known.entity, from.max(state.cursor)),
            Phase::CatchingUp | Phase::NeedsSnapshot { .. } => state.lacks(&log, known.entity, state.cursor),
        };
        !matches!(state.path, Path::Left) && state.subscriptions.iter().any(lacks)
    }

    /// The subscriber that takes its session over finds it by that.
    pub(super) fn holds_its_session(self: &Arc<Self>) {
        if let Some(hold) = lock(&self.state).hold() {
            let holder: Arc<dyn SessionHolder> = self.clone();
            self.core.sessions.set_holder(&hold, Arc::downgrade(&holder));
        }
    }

    /// Nothing is sent to its sink any more, even by a fan-out task that holds it still. False where it has left before.
    pub(crate) fn leave(&self, now: Instant) -> bool {
        let mut state = lock(&self.state);
        if matches!(std::mem::replace(&mut state.path, Path::Left), Path::Left) {
            return false;
        }
        let hold = state.hold();
        // What arrives from now on acknowledges nothing.
        if let Some(page) = &mut state.page {
            page.connection = None;
        }
        let retracted = state.retracted();
        drop(state);
        if let Some(hold) = hold {
            self.core.sessions.leave(&hold, retracted, self.core.log_end(), now);
        }
        true
    }
}

impl SubscriberState {
    pub(super) fn find(&mut self, entity: EntityIndex) -> Option<&mut Subscription> {
        self.subscriptions.iter_mut().find(|known| known.entity == entity)
    }

    /// Until when its page may have no list of a tree yet.
    pub(super) fn awaits_list(&self, core: &Core, entity: EntityIndex) -> Option<Instant> {
        let hold = self.hold().filter(|_| core.encoder(entity).is_tree())?;
        core.sessions.came(&hold).map(LateList::awaited_until)
    }

    /// Its hold on the session of its page.
    pub(super) fn hold(&self) -> Option<Hold> {
        let connection = self.page.as_ref()?.connection?;
        Some(Hold::of(&self.recipient.session, connection))
    }

    /// What is wanted of all that comes now.
    pub(super) fn wanted_live(&self) -> Live {
        let wanted = self.subscriptions.iter().filter(|known| known.is_live_at(self.cursor));
        let entities = wanted.fold(0, |entities, known| entities | Live::bit(known.entity));
        let is_all = u32::try_from(self.subscriptions.len()) == Ok(entities.count_ones());
        Live { entities, is_all }
    }

    pub(super) fn is_wanted_live(&self, entity: EntityIndex, sequence: Sequence) -> bool {
        let is_wanted = || self.subscriptions.iter().any(|known| known.entity == entity && known.is_live_at(sequence));
        self.live.has(entity).unwrap_or_else(is_wanted)
    }

    /// Whether something was published live that it has not been sent, and is gone from the log. What else is gone, a
    /// snapshot stands for.
    pub(super) fn lags(&self, log: &Log) -> bool {
        self.subscriptions.iter().any(|known| match known.phase {
            Phase::Live { from } => self.lacks(log, known.entity, from.max(self.cursor)),
            Phase::CatchingUp | Phase::NeedsSnapshot { .. } => false,
        })
    }

    /// Whether records of an entity from this one on are gone from the log.
    fn lacks(&self, log: &Log, entity: EntityIndex, next: Sequence) -> bool {
        // One that has been sent everything that ever went from the log need not look closer.
        next < log.trimmed() && next < self.recipient.log_start(log, entity)
    }

    /// What is outside its page's visibility, also of entities that the page is not subscribed to.
    pub(super) fn retracted(&self) -> Vec<(EntityIndex, Retracted)> {
        let waiting = self.page.iter().flat_map(|page| page.retracted.iter().cloned());
        let sent = self.subscriptions.iter().filter_map(|known| {
            let retracted = known.retractions.as_ref()?.retracted();
            (!retracted.is_empty()).then(|| (known.entity, retracted.clone()))
        });
        waiting.chain(sent).collect()
    }

    /// Its own task goes on with it, unless that waits for the hooks.
    pub(super) fn goes_slow(&mut self) {
        self.live = Live::default();
        if matches!(self.path, Path::Fast) {
            self.path = Path::Slow;
        }
    }

    /// What the hooks are asked is of no use any more; false where they are not asked.
    pub(super) fn cancel_check(&mut self, core: &Core, now: Instant) -> bool {
        let Path::Checking(waiting) = &mut self.path else { return false };
        let waiting = std::mem::take(waiting);
        self.path = Path::Slow;
        waiting.iter().for_each(|repeat| self.postpone(core, repeat, now));
        true
    }

    /// Something is resent to it by its own task.
    pub(super) fn postpone(&mut self, core: &Core, repeat: &Repeat, now: Instant) {
        if let Path::Checking(waiting) = &mut self.path {
            let are_many = waiting.len() >= MAX_WAITING;
            if !(are_many && waiting.iter_mut().any(|known| known.merge(repeat))) {
                waiting.push(repeat.clone());
            }
            return;
        }
        let (cursor, recipient) = (self.cursor, &self.recipient);
        let mut subscriptions = self.subscriptions.iter_mut();
        let found = subscriptions.find(|known| known.entity == repeat.entity && !known.needs_snapshot());
        let Some(subscription) = found else { return };
        match &repeat.what {
            Resent::Settled { range, is_last, known_before } => {
                let log_start = recipient.log_start(&lock(&core.log), repeat.entity);
                if *is_last && range.start < log_start {
                    subscription.lose(subscription.messages_missed_from(cursor), Sequence::ZERO, Ask::Now);
                } else {
                    let is_tree = core.encoder(repeat.entity).is_tree();
                    subscription.settle(range.start.max(log_start), *known_before, is_tree, now);
                    if is_tree {
                        subscription.resend_goes_first(cursor);
                    }
                }
            }
            Resent::Deletions(sequences) => subscription.retractions().add_list(sequences.clone()),
        }
        self.goes_slow();
    }

    /// Hands frames over, with a ping behind them in the same write. Of those that are accepted it is noted what its page
    /// shows; true besides where there is something to be reminded of.
    pub(super) fn hand_over(
        &mut self,
        (core, sink): (&Core, &dyn FrameSink),
        addressed: &[Addressed<'_>],
        frames: &[&Cleared],
        ping: Option<Box<Ping>>,
        now: Instant,
        audit: &mut AuditBuffer,
    ) -> (Accepted, bool) {
        let accepted = match ping {
            None if frames.is_empty() => Accepted { frames: 0, clear: true },
            None => sink.try_send(frames),
            Some(ping) => {
                let frame = Cleared::ping(&ping.payload);
                let with_ping: Vec<&Cleared> = frames.iter().copied().chain([&frame]).collect();
                let accepted = sink.try_send(&with_ping);
                if accepted.frames > frames.len() {
                    self.pinged = Some(ping);
                } else {
                    self.ping_due = now;
                }
                Accepted { frames: accepted.frames.min(frames.len()), ..accepted }
            }
        };
        let mut reminds = false;
        for addressed in &addressed[..accepted.frames] {
            addressed.is_sent(audit);
            if let Some(object) = addressed.object {
                reminds |= self.marks(core, object, addressed.leaves, now);
            }
        }
        (accepted, reminds)
    }

    fn marks(&mut self, core: &Core, object: &ObjectRef, leaves: bool, now: Instant) -> bool {
        let cursor = self.cursor;
        self.find(object.entity).is_some_and(|subscription| subscription.marks(core, object, leaves, (cursor, now)))
    }

    /// What a ping acknowledges behind which everything before `cursor` is written; `None` for one without a session.
    pub(super) fn ping(&mut self, core: &Core, cursor: Sequence, now: Instant) -> Option<Box<Ping>> {
        self.hold()?;
        self.ping_due = now + core.times.acknowledge_every;
        let settled = lock(&core.log).position(now, core.times.replay_overlap);
        let settles = lock(&core.settles);
        let position = |known: &Subscription| {
            let unsettled_from = settles.of(known.entity).unsettled_from();
            Some((known.entity, known.safe(cursor, settled, unsettled_from)?))
        };
        let positions: Box<[(EntityIndex, Sequence)]> = self.subscriptions.iter().filter_map(position).collect();
        drop(settles);
        if positions.is_empty() {
            return None;
        }
        self.pings += 1;
        Some(Box::new(Ping { payload: self.pings.to_be_bytes(), positions, knows_identity: true, at: now }))
    }

    /// The same, where it is time for one.
    pub(super) fn ping_when_due(&mut self, core: &Core, cursor: Sequence, now: Instant) -> Option<Box<Ping>> {
        if now < self.ping_due { None } else { self.ping(core, cursor, now) }
    }

    /// When its own task is to look next.
    pub(super) fn next_due(&self, core: &Core) -> Option<Instant> {
        let resends = self.subscriptions.iter().filter_map(|known| known.resend.as_ref()?.next_due(&core.times.settle));
        let retractions =
            self.subscriptions.iter().filter_map(|known| known.retractions.as_ref()?.next_due(&core.times.reminders));
        let asks = self.subscriptions.iter().filter_map(Subscription::asks_at);
        resends.chain(retractions).chain(asks).min()
    }
}

impl fmt::Debug for Subscriber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscriber").finish_non_exhaustive()
    }
}

/// The turns of many, spread evenly over a time, the first at its beginning: thousands that come back at once must not
/// be asked at once.
pub(crate) fn spread(number: usize, over: Duration) -> Duration {
    // Multiples of the golden ratio, less their whole parts, lie nowhere close together.
    let share = (number as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    over.mul_f64(share as f64 / f64::from(u32::MAX))
}
