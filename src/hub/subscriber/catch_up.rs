//! The slow path: what a subscriber's own task sends, one chunk after the other, until it stands at the end of the log.
//!
//! A chunk is read and resolved under the locks, and sent. Where hooks must be asked first, the chunk leaves the subscriber
//! as a [`Check`]: until its answers are here, nothing else is sent to the page. What would change the answers ends
//! the check, and the chunk is read anew.

use std::{
    fmt,
    pin::pin,
    sync::{Arc, MutexGuard},
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, stream};
use tokio::time::Instant;

use super::{
    super::{
        core::{Core, Delivery},
        delivery::{
            chunk::{CHUNK_BYTES, CHUNK_RECORDS, Chunk, Position},
            resend::Next,
        },
        log::{ObjectRef, RecordKind},
        retractions::OldPosition,
        visibility::{Addressed, AuditBuffer, Cleared, Deadline, Envelope, Mode, Resolved, Resolver, Verdict},
    },
    sink::FrameSink,
    state::{Path, Subscriber, SubscriberState},
    subscription::{Ask, Phase, REPLAY_EVERY, Subscription},
};
use crate::{auth::Identity, entity::EntityIndex, lock::lock, sequence::Sequence};

/// How often the store is asked anew for the ids that it reported as gone.
const MAX_ASKED_ANEW: u8 = 5;
/// Objects of one recipient that hooks are asked about at one time.
const AT_ONCE: usize = 16;

/// How far a subscriber got on the slow path.
#[derive(Debug)]
pub(crate) enum Progress {
    /// It has everything; wait to be woken, or until this time.
    CaughtUp(Option<Instant>),
    /// There is more to read at once.
    More,
    /// The sink must be written out first.
    Blocked,
    /// Records it has not seen are gone from the log.
    Lagged,
    /// The entity needs a snapshot that is no older than a sequence number: see
    /// [`Subscriber::resynchronise`].
    NeedsSnapshot(EntityIndex, Sequence),
    /// Hooks must be asked first: see [`Check::run`].
    NeedsCheck(Box<Check>),
}

/// A chunk, and what follows when it has been sent.
#[derive(Debug)]
struct Sending {
    chunk: Chunk,
    of: Of,
}

/// What a chunk is of.
#[derive(Debug)]
enum Of {
    /// What is new: the log has been read so far.
    News {
        read_to: Sequence,
    },
    Entity(EntityIndex, OfEntity),
}

/// What is sent of one entity besides news.
#[derive(Debug)]
enum OfEntity {
    /// Its resend; with where the log stood behind the latest refresh that concerns its page.
    Resend { refreshed: Sequence },
    /// Objects outside the page's visibility, each line at the place of its id, and the id that follows.
    Objects { ids: Vec<Arc<str>>, next: Option<Arc<str>> },
    /// A list of deletions that everyone is reminded of.
    List,
    /// Old deletions.
    Old,
}

/// What is next for a subscriber that stands at the end of the log.
enum NextChunk {
    Send(Sending),
    /// Something has changed: it is to be looked once more.
    Again,
}

impl Subscriber {
    /// One round for a subscriber whose sink is written out.
    pub(crate) fn catch_up(self: &Arc<Self>, now: Instant) -> Progress {
        let mut state = lock(&self.state);
        if matches!(state.path, Path::Left | Path::Checking(_)) {
            return Progress::CaughtUp(None);
        }
        state.goes_slow();
        let asks = |known: &mut Subscription| Some((known.entity, known.asks(now)?));
        if let Some((entity, stale_before)) = state.subscriptions.iter_mut().find_map(asks) {
            return Progress::NeedsSnapshot(entity, stale_before);
        }
        let core = &*self.core;
        let log = lock(&core.log);
        if state.lags(&log) {
            return Progress::Lagged;
        }
        let resolver = Resolver { core, log: &log, recipient: &state.recipient };
        let mut chunk = Chunk::new(usize::MAX);
        let mut bytes = 0;
        let mut read_to = state.cursor;
        let mut refreshed = None;
        for (sequence, record) in log.since(state.cursor).take(CHUNK_RECORDS) {
            if state.is_wanted_live(record.entity, sequence) {
                if bytes > CHUNK_BYTES {
                    break;
                }
                let needs_snapshot =
                    matches!(record.kind, RecordKind::Refresh) && core.encoder(record.entity).has_snapshot;
                if needs_snapshot && state.recipient.receives(&record.scopes) {
                    refreshed = Some((record.entity, sequence.next()));
                    break;
                }
                let line = if needs_snapshot { None } else { resolver.record(sequence, record, Mode::Live) };
                if let Some(line) = line {
                    bytes += line.bytes();
                    chunk.lines.push((Position::Record(sequence), line));
                }
            }
            read_to = sequence.next();
        }
        if !chunk.lines.is_empty() {
            drop(log);
            return self.send(state, Sending { chunk, of: Of::News { read_to } }, now);
        }
        let is_at_end = read_to == log.end();
        state.cursor = read_to;
        if let Some((entity, behind)) = refreshed {
            drop(log);
            state.cursor = behind;
            if let Some(subscription) = state.find(entity) {
                subscription.lose(behind, behind, Ask::Now);
            }
            return Progress::More;
        }
        if !is_at_end {
            return Progress::More;
        }
        let it = &mut *state;
        let loads_again = it.subscriptions.iter().any(|known| known.entity == core.resync);
        let (cursor, recipient) = (it.cursor, &it.recipient);
        let next = it.subscriptions.iter_mut().find_map(|known| {
            if loads_again && !core.encoder(known.entity).is_presence {
                known.load_again_instead(core, &log, now);
            }
            known.next_chunk(Resolver { core, log: &log, recipient }, cursor, now)
        });
        // Writing takes time, and others publish meanwhile.
        drop(log);
        match next {
            Some(NextChunk::Send(sending)) => self.send(state, sending, now),
            Some(NextChunk::Again) => Progress::More,
            None => {
                state.live = state.wanted_live();
                if self.sink.is_direct() {
                    state.path = Path::Fast;
                }
                Progress::CaughtUp(state.next_due(core))
            }
        }
    }

    /// Sends a chunk, unless hooks must be asked first.
    fn send(self: &Arc<Self>, mut state: MutexGuard<'_, SubscriberState>, sending: Sending, now: Instant) -> Progress {
        if sending.chunk.lines.iter().any(|(_, line)| matches!(line, Resolved::Check(_))) {
            state.path = Path::Checking(Vec::new());
            let identity = state.recipient.identity.clone();
            return Progress::NeedsCheck(Box::new(Check { subscriber: self.clone(), sending, identity }));
        }
        let mut audit = AuditBuffer::default();
        let is_clear = state.send(&self.core, &*self.sink, sending, now, &mut audit);
        drop(state);
        audit.write(&self.core, || self.identity());
        if is_clear { Progress::More } else { Progress::Blocked }
    }

    /// Sends a chunk that hooks were asked about, unless its answers are of no use any more.
    fn answered(&self, sending: Sending, undecided: &[(Box<ObjectRef>, Sequence)]) {
        let (core, now) = (&*self.core, Instant::now());
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        let Path::Checking(waiting) = &mut state.path else { return };
        let waiting = std::mem::take(waiting);
        state.path = Path::Slow;
        let cursor = state.cursor;
        let undecided = if core.delivery == Delivery::Converging { undecided } else { &[] };
        let remembers = |(object, from): &(Box<ObjectRef>, Sequence)| {
            let subscription = state.find(object.entity);
            subscription.is_none_or(|it| it.retractions().undecided(object, *from, (cursor, now)))
        };
        let remembered: Vec<bool> = undecided.iter().map(remembers).collect();
        let mut audit = AuditBuffer::default();
        state.send(core, &*self.sink, sending, now, &mut audit);
        let cursor = state.cursor;
        for ((object, _), is_remembered) in undecided.iter().zip(remembered) {
            let Some(subscription) = state.find(object.entity) else { continue };
            subscription.retractions().hook_failed(&object.id);
            if !is_remembered && !subscription.needs_snapshot() {
                // The hook that fails would be asked about all of it at once again.
                let ask = Ask::At(now + REPLAY_EVERY);
                subscription.lose(subscription.messages_missed_from(cursor), Sequence::ZERO, ask);
                state.pinged = None;
            }
        }
        waiting.iter().for_each(|repeat| state.postpone(core, repeat, now));
        drop(guard);
        audit.write(core, || self.identity());
    }
}

impl SubscriberState {
    /// Sends a chunk without open checks; true when its sink accepts more at once.
    fn send(
        &mut self,
        core: &Core,
        sink: &dyn FrameSink,
        sending: Sending,
        now: Instant,
        audit: &mut AuditBuffer,
    ) -> bool {
        let Sending { chunk: Chunk { lines, end, drawn, read_to, .. }, of } = sending;
        let addressed = lines.iter().filter_map(|(position, line)| match line {
            Resolved::Send(envelope) => Some((*position, envelope.to(&self.recipient)?)),
            Resolved::Check(_) => None,
        });
        let (positions, addressed): (Vec<Position>, Vec<Addressed<'_>>) = addressed.unzip();
        let frames: Vec<&Cleared> = addressed.iter().map(|it| it.frame).collect();
        // Where nothing but the cursor moves, it is known before the write what a ping acknowledges.
        let ping = match of {
            Of::News { read_to } if end == Position::End && !frames.is_empty() => {
                self.ping_when_due(core, read_to, now)
            }
            _ => None,
        };
        let has_pinged = ping.is_some();
        let (accepted, _) = self.hand_over((core, sink), &addressed, &frames, ping, now, audit);
        let rest = positions.get(accepted.frames).copied().unwrap_or(end);
        self.goes_on(core, of, rest, (drawn, read_to), accepted.frames, now);
        let cursor = self.cursor;
        let may_ping = accepted.frames == frames.len() && !frames.is_empty() && !has_pinged;
        if let Some(ping) = may_ping.then(|| self.ping_when_due(core, cursor, now)).flatten() {
            self.hand_over((core, sink), &[], &[], Some(ping), now, audit);
        }
        accepted.clear
    }

    /// Notes how far a chunk was sent, up to `rest`.
    fn goes_on(
        &mut self,
        core: &Core,
        of: Of,
        rest: Position,
        read: (usize, Option<Sequence>),
        sent: usize,
        now: Instant,
    ) {
        let (entity, of) = match of {
            Of::News { read_to } => {
                self.cursor = if let Position::Record(sequence) = rest { sequence } else { read_to };
                return;
            }
            Of::Entity(entity, of) => (entity, of),
        };
        let (cursor, reminders) = (self.cursor, &core.times.reminders);
        let Some(subscription) = self.find(entity) else { return };
        // The first replay is no repeat.
        if !matches!(of, OfEntity::Resend { .. }) || !subscription.is_replayed() {
            core.counters.repeats.add(sent as u64);
        }
        match of {
            OfEntity::Resend { refreshed } => subscription.resent(core, refreshed, (rest, read), cursor, now),
            OfEntity::Objects { ids, next } => {
                let next = rest.row().and_then(|row| ids.get(row).cloned()).or(next);
                subscription.retractions().objects_sent(next, reminders);
            }
            OfEntity::List => subscription.retractions().list_sent(rest.row()),
            OfEntity::Old => {
                let next = match rest {
                    Position::Tombstone(sequence) => Some(OldPosition::Tombstone(sequence)),
                    rest => rest.row().map(OldPosition::Row),
                };
                subscription.retractions().old_sent(next, reminders, now);
            }
        }
    }
}

impl Subscription {
    /// Whether its page is sent what it missed, from the log alone, before everything else.
    fn is_replayed(&self) -> bool {
        self.phase == Phase::CatchingUp && self.resend.as_ref().is_some_and(|resend| !resend.wants_rows())
    }

    /// Its resend was sent up to `rest`; so many lines of that are drawn.
    fn resent(
        &mut self,
        core: &Core,
        refreshed: Sequence,
        (rest, (drawn, read_to)): (Position, (usize, Option<Sequence>)),
        cursor: Sequence,
        now: Instant,
    ) {
        let Some(resend) = &mut self.resend else { return };
        let is_tree = core.encoder(self.entity).is_tree();
        let skips = is_tree && self.phase == Phase::CatchingUp;
        let rest = if skips { resend.rest_until(rest, read_to, cursor) } else { rest };
        resend.sent(rest, drawn, &core.times, now);
        if let Some(retractions) = self.retractions.as_mut().filter(|_| resend.is_repeated()) {
            retractions.rows_are_sent();
        }
        if is_tree && resend.is_pausing() {
            self.resend_goes_first(cursor);
        }
        let Some(resend) = &mut self.resend else { return };
        let is_ahead = self.phase == Phase::CatchingUp;
        let has_snapshot = core.encoder(self.entity).has_snapshot;
        if is_ahead && resend.is_pausing() {
            let marker = (!has_snapshot).then_some(refreshed);
            if resend.has_messages(&lock(&core.log), self.entity, marker) {
                // Messages follow what it holds, and new records follow them.
                resend.hurries();
            }
        }
        self.is_hurried &= !resend.is_repeated();
        // It was sent all until here; or the rest takes time.
        let is_on_its_way = resend.is_pausing() && !is_tree;
        if is_ahead && (!resend.is_under_way() || is_on_its_way) {
            if has_snapshot && resend.is_stale(refreshed) {
                self.lose(self.messages_missed_from(cursor), refreshed, Ask::Now);
            } else {
                resend.leaves_messages();
                self.phase = Phase::Live { from: cursor };
            }
        }
    }

    /// Whether nothing else may be sent to its page before the rest of its resend: in a tree that may hang below what is still
    /// to come, and a deletion may take along what the rest puts somewhere else.
    pub(super) fn awaits_rest(&self, core: &Core) -> bool {
        let is_under_way = self.resend.as_ref().is_some_and(|resend| resend.is_under_way());
        core.encoder(self.entity).is_tree() && (is_under_way || self.phase == Phase::CatchingUp)
    }

    /// What it is to be sent besides news at this time.
    fn next_chunk(&mut self, resolver: Resolver<'_>, cursor: Sequence, now: Instant) -> Option<NextChunk> {
        let (core, log, entity) = (resolver.core, resolver.log, self.entity);
        let send = |chunk, of| Some(NextChunk::Send(Sending { chunk, of: Of::Entity(entity, of) }));
        let log_start = resolver.recipient.log_start(log, entity);
        let needs_snapshot = self.needs_snapshot();
        let awaits_rest = self.awaits_rest(core);
        if let Some(retractions) = &mut self.retractions {
            let is_read = needs_snapshot || self.resend.as_ref().is_some_and(|resend| resend.is_broken_off());
            retractions.remind(&core.times.reminders, is_read, now);
            let is_in_log =
                |key: &str| log.current_record(entity, key).is_some() || log.tombstone(entity, key).is_some();
            if !is_read && retractions.need_the_store(&core.times.reminders, is_in_log) {
                self.lose(self.messages_missed_from(cursor), Sequence::ZERO, Ask::Now);
                return Some(NextChunk::Again);
            }
            if let Some((chunk, ids, next)) = Chunk::of_objects(resolver, entity, retractions).filter(|_| !awaits_rest)
            {
                return send(chunk, OfEntity::Objects { ids, next });
            }
            if let Some((sequences, sent)) = retractions.due_list().filter(|_| !awaits_rest) {
                let old = sequences.partition_point(|sequence| *sequence < self.deletions_from);
                return send(Chunk::of_list(resolver, entity, sequences, sent.max(old)), OfEntity::List);
            }
            if retractions.are_doubtful(log_start) && self.asked_anew < MAX_ASKED_ANEW {
                self.asked_anew += 1;
                self.lose(self.messages_missed_from(cursor), Sequence::ZERO, Ask::Now);
                return Some(NextChunk::Again);
            }
            if let Some((old, position)) = retractions.due_old().filter(|_| !awaits_rest) {
                return send(Chunk::of_old(resolver, entity, old, position), OfEntity::Old);
            }
        }
        let resend = self.resend.as_mut()?;
        if resend.is_trimmed(log_start, now) {
            if entity != core.resync {
                self.lose(self.messages_missed_from(cursor), Sequence::ZERO, Ask::Now);
                return Some(NextChunk::Again);
            }
            // It has no state to be lost.
            resend.skips_to(log_start);
        }
        let refreshed = log.refreshed_for(entity, resolver.recipient.identity.receives());
        let encoder = core.encoder(entity);
        let is_ahead = self.phase == Phase::CatchingUp;
        if is_ahead && encoder.is_tree() && encoder.has_snapshot && resend.is_stale(refreshed) {
            // What a refresh has left to the store is neither in its rows nor resent from the log.
            self.lose(self.messages_missed_from(cursor), refreshed, Ask::Now);
            return Some(NextChunk::Again);
        }
        let next = resend.move_on(lock(&core.settles).of(entity), &core.times, now);
        if let Next::Arrived(remainder) = next {
            debug_assert!(self.phase != Phase::CatchingUp, "what goes first is sent");
            self.resend = remainder.settles;
            if remainder.deletions.is_some() || remainder.gone.is_some() {
                let deletions = remainder.deletions.unwrap_or_default();
                self.retractions().remind_of(deletions, remainder.gone, &core.times.reminders, now);
            }
            return self.resend.is_some().then_some(NextChunk::Again);
        }
        send(resend.chunk(resolver, entity)?, OfEntity::Resend { refreshed })
    }
}

/// A chunk that hooks are asked about before it is sent.
#[derive(Debug)]
pub(crate) struct Check {
    subscriber: Arc<Subscriber>,
    sending: Sending,
    identity: Identity,
}

impl Check {
    /// Asks all of it, each hook for `limit` at most, and sends what its recipient may see; when it has taken that long in
    /// all, the rest is left for another time. What has no answer is not to be seen; `failed` is given the entity's name and
    /// the reason.
    pub(crate) async fn run(self, limit: Duration, failed: impl Fn(&str, &dyn fmt::Display)) {
        let Self { subscriber, mut sending, identity } = self;
        let undecided = sending.chunk.decide(&subscriber.core, &identity, limit, &failed).await;
        subscriber.answered(sending, &undecided);
    }
}

impl Chunk {
    /// Has its checks answered; returns the objects that no hook could decide on.
    async fn decide(
        &mut self,
        core: &Core,
        identity: &Identity,
        limit: Duration,
        failed: &impl Fn(&str, &dyn fmt::Display),
    ) -> Vec<(Box<ObjectRef>, Sequence)> {
        let begun = Instant::now();
        let lines = std::mem::take(&mut self.lines);
        let positions: Vec<Position> = lines.iter().map(|(position, _)| *position).collect();
        let verdicts = lines.into_iter().map(|(_, line)| async move {
            match line {
                Resolved::Send(envelope) => Verdict::Send(envelope),
                Resolved::Check(check) => check.run(core, identity, Deadline::after(limit), failed).await,
            }
        });
        let mut verdicts = pin!(stream::iter(verdicts).buffered(AT_ONCE));
        let (mut undecided, mut bytes) = (Vec::new(), 0);
        for (number, position) in positions.into_iter().enumerate() {
            // Behind the limit only what is there already. And what a hook makes of a small object may be large.
            let verdict = match begun.elapsed() >= limit && number > 0 {
                _ if bytes > CHUNK_BYTES => None,
                true => verdicts.next().now_or_never().flatten(),
                false => verdicts.next().await,
            };
            match verdict {
                Some(verdict) => {
                    let envelope = match verdict {
                        Verdict::Send(envelope) => Some(envelope),
                        Verdict::Nothing => None,
                        Verdict::Undecided(object, from, meanwhile) => {
                            undecided.push((object, from));
                            meanwhile
                        }
                    };
                    bytes += envelope.as_ref().map_or(0, Envelope::frame_bytes);
                    self.lines.extend(envelope.map(|envelope| (position, Resolved::Send(envelope))));
                }
                None => {
                    self.end = position;
                    break;
                }
            }
        }
        undecided
    }
}
