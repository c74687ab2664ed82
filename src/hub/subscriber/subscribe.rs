//! How a subscriber joins and resumes, begins and ends a subscription, and gets another identity.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    super::{
        core::{Core, Delivery},
        delivery::{late_list::LateList, resend::Resend},
        log::{Log, Owner, PriorState},
        retractions::{Retracted, Retractions},
        sessions::{Hold, SessionHolder, SessionId},
        snapshot::SnapshotFrames,
        visibility::Recipient,
    },
    sink::FrameSink,
    state::{PageState, Path, Subscriber, spread},
    subscription::{Ask, Phase, Subscription},
};
use crate::{
    auth::Identity, change::ChangeKind, entity::EntityIndex, lock::lock, object::quoted, scope::PastScopes,
    sequence::Sequence, session::Session,
};

/// The longest time before its first connection at which a page requests a list that may lack changes.
const LIST_BEFORE: Duration = Duration::from_secs(10);

/// Where a new subscriber was when the log last knew of it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ResumeFrom {
    /// It is unknown: it receives what is published from now on.
    Unknown,
    /// A page that comes, or comes back, with a key.
    Page {
        /// Its session; `None` where it has none of its own.
        session: Option<SessionId>,
        /// What it may have missed begins here; `None` when that was in another log.
        missed_from: Option<Sequence>,
    },
}

impl Subscriber {
    /// A subscriber without subscriptions, the `number`th of all. It takes over the session of its page.
    pub(crate) fn join(
        core: Arc<Core>,
        sink: Arc<dyn FrameSink>,
        identity: Identity,
        resume: ResumeFrom,
        number: usize,
    ) -> (Arc<Self>, Option<Arc<dyn SessionHolder>>) {
        let (now, end) = (Instant::now(), core.log_end());
        let (mut past, mut before, mut page) = (PastScopes::default(), None, None);
        let (mut taken, mut owner) = (None, None);
        if let ResumeFrom::Page { session, mut missed_from } = resume {
            owner = session.map(|session| Owner(session.owner));
            let mut retracted = Vec::new();
            if let Some(resumed) = session.and_then(|id| core.sessions.take(id, identity.receives(), end, now)) {
                past = resumed.past;
                missed_from = missed_from.filter(|_| !resumed.is_lost);
                retracted = resumed.before.as_ref().map_or(resumed.retracted, |before| before.retracted());
                (taken, before) = (Some(resumed.hold), resumed.before);
            }
            let connection = taken.map(|hold: Hold| hold.connection);
            page = Some(PageState { connection, missed_from, retracted });
        }
        let session = taken.map_or_else(Session::of_socket, |hold| hold.session());
        let ping_due = now + spread(number, core.times.acknowledge_every);
        let recipient = Recipient { identity, past, owner, session };
        let subscriber = Arc::new(Self::new(core, sink, recipient, page, ping_due));
        subscriber.holds_its_session();
        (subscriber, before)
    }

    /// Starts an entity: a page is sent first what it missed, everyone what is published from now on. Doing so twice changes
    /// nothing.
    pub(crate) fn subscribe(&self, entity: EntityIndex, now: Instant) -> bool {
        let core = &*self.core;
        let mut state = lock(&self.state);
        let log = lock(&core.log);
        if state.find(entity).is_some() || matches!(state.path, Path::Left) {
            return false;
        }
        let end = log.end();
        let log_start = state.recipient.log_start(&log, entity);
        let is_resync = entity == core.resync;
        let hold = state.hold();
        let (missed_from, comes_back) = match &state.page {
            None => (Some(end), true),
            Some(_) if core.delivery == Delivery::Plain => (Some(end), true),
            // It has no state to be lost.
            Some(page) if is_resync => (page.missed_from.filter(|&from| from >= log_start).or(Some(end)), true),
            Some(page) => {
                let known = hold.and_then(|hold| core.sessions.position(&hold, entity));
                // What is resent to others may have been sent before it was loaded.
                (known.max(page.missed_from), known.is_some())
            }
        };
        let deletions_from = match &state.page {
            // What was deleted long before it came, its list did not hold.
            None => log.position(now, core.times.first_load),
            Some(page) => page.missed_from.unwrap_or_default(),
        };
        let page = state.page.as_ref().filter(|_| !is_resync && core.delivery == Delivery::Converging);
        let late = page.and_then(|_| {
            let came = hold.and_then(|hold| core.sessions.came(&hold)).unwrap_or(now);
            let age = now.saturating_duration_since(came);
            LateList::may_come(came, now).then(|| LateList::new(came, log.position(now, age + LIST_BEFORE)))
        });
        let awaits_list = state.awaits_list(core, entity);
        let mut subscription = Subscription::new(entity, end, deletions_from);
        if let Some(page) = &mut state.page {
            let kept = page.retracted.iter().position(|(of, _)| *of == entity);
            let kept = kept.map(|at| page.retracted.swap_remove(at).1);
            let comes_back = !state.ended.as_ref().is_some_and(|ended| ended.has(entity));
            let resumed = |kept| Box::new(Retractions::resumed(kept, comes_back, &core.times.reminders));
            subscription.retractions = kept.map(resumed);
        }
        let has_changed = core.encoder(entity).is_scoped && !state.recipient.past.is_empty();
        // Behind a refresh only the store knows.
        let reach = match core.encoder(entity).has_snapshot {
            true => log_start.max(log.refreshed_for(entity, state.recipient.identity.receives())),
            false => log_start,
        };
        // Who is here is sent whole.
        let is_replayed = !has_changed && !core.encoder(entity).is_presence;
        let reached = missed_from.map(|from| from.min(end)).filter(|&from| from >= reach && is_replayed);
        // Messages to the handlers of `$resync` are few, and are not replayed later.
        let ended = state.ended.as_mut().filter(|_| !is_resync);
        let replays_at = ended.and_then(|ended| ended.replays_at(entity, now));
        match reached {
            None => {
                let ask = replays_at.map_or(Ask::Now, Ask::At);
                subscription.lose(missed_from.unwrap_or_default().max(log_start), Sequence::ZERO, ask);
            }
            Some(from) if from < end || !comes_back => {
                let reminded = comes_back.then(|| core.reminded_before(entity));
                // A list may arrive later than this, or the page be saving at the moment.
                let second = replays_at.unwrap_or(now + core.times.second_replay_delay);
                let resend = if from < end && replays_at.is_none() {
                    subscription.phase = Phase::CatchingUp;
                    core.counters.replays.up();
                    Resend::of_missed(from, end, second, reminded, now)
                } else {
                    Resend::of_missed_later(from, reminded, second, now)
                };
                subscription.resend = Some(Box::new(resend.expecting(late).awaiting_list(awaits_list)));
            }
            Some(_) => subscription.resend = late.map(|late| Box::new(Resend::of_late_list(late, now))),
        }
        let is_live = matches!(subscription.phase, Phase::Live { .. });
        let has_plans = subscription.resend.is_some() || subscription.retractions.is_some();
        // Most pages follow few.
        state.subscriptions.reserve_exact(1);
        state.subscriptions.push(subscription);
        state.live = Default::default();
        if !is_live {
            state.goes_slow();
        }
        drop(log);
        drop(state);
        if !is_live || has_plans {
            self.wake();
        }
        true
    }

    /// Ends an entity. False when there was nothing to end.
    pub(crate) fn unsubscribe(&self, entity: EntityIndex) -> bool {
        let mut state = lock(&self.state);
        let Some(at) = state.subscriptions.iter().position(|known| known.entity == entity) else { return false };
        let ended = state.subscriptions.remove(at);
        // Its page may still show what it was not to see.
        let retracted = ended.retractions.map(|it| it.retracted().clone()).filter(|retracted| !retracted.is_empty());
        if let (Some(page), Some(retracted)) = (&mut state.page, retracted) {
            page.retracted.push((entity, retracted));
        }
        state.ended.get_or_insert_default().note(entity);
        state.live = Default::default();
        let wakes = state.cancel_check(&self.core, Instant::now());
        drop(state);
        if wakes {
            self.wake();
        }
        true
    }

    /// Brings an entity that needs one to what a snapshot holds, which held `past` for who its page was before; without a
    /// snapshot, only sends the page that it must load its list again.
    pub(crate) fn resynchronise(
        &self,
        entity: EntityIndex,
        snapshot: Option<Arc<SnapshotFrames>>,
        past: Option<&SnapshotFrames>,
        now: Instant,
    ) {
        let core = &*self.core;
        let snapshot = match (snapshot, past) {
            (Some(snapshot), Some(past)) => {
                let gone = |id: &str| core.encoder(entity).encode_leave_by_id(&quoted(id)).into();
                Some(Arc::new(snapshot.instead_of(past, gone)))
            }
            (snapshot, _) => snapshot,
        };
        let mut state = lock(&self.state);
        if matches!(state.path, Path::Left) {
            return;
        }
        let phase = state.find(entity).map(|known| known.phase);
        let Some(Phase::NeedsSnapshot { messages_from, stale_before, .. }) = phase else { return };
        // The objects that are asked about are others now.
        state.cancel_check(core, now);
        let log = lock(&core.log);
        let log_start = state.recipient.log_start(&log, entity);
        // Where only the log knows what its page shows: who was here at that place, or later.
        let shown_since = state.page.as_ref().and_then(|page| {
            let known = state.hold().and_then(|hold| core.sessions.position(&hold, entity));
            known.max(page.missed_from).filter(|from| *from >= log_start)
        });
        let awaits_list = state.awaits_list(core, entity);
        let it = &mut *state;
        let (mut subscriptions, recipient) = (it.subscriptions.iter_mut(), &it.recipient);
        let Some(subscription) = subscriptions.find(|known| known.entity == entity) else { return };
        if core.encoder(entity).is_restricted() {
            recheck(core, subscription, &log, recipient);
        }
        let oldest = stale_before.max(log_start);
        match &snapshot {
            // What happened since is gone from the log already; or it is what another identity may see.
            Some(snapshot) if snapshot.at < oldest || snapshot.scopes != *recipient.identity.receives() => {
                subscription.phase = Phase::NeedsSnapshot { ask: Ask::Now, messages_from, stale_before: oldest };
            }
            _ => {
                let messages_from = messages_from.max(log_start);
                let has_all = snapshot.is_some() || !core.encoder(entity).has_snapshot;
                let encoder = core.encoder(entity);
                let resend = match &snapshot {
                    Some(everyone) if encoder.is_presence => {
                        let all_there = !encoder.is_restricted();
                        Resend::of_presence(everyone.clone(), shown_since, messages_from, all_there, now)
                    }
                    _ => {
                        let (counter, from) = match &snapshot {
                            Some(snapshot) => (&core.counters.snapshots, snapshot.at),
                            None => (&core.counters.gaps, log_start),
                        };
                        counter.up();
                        let marker = || Arc::new(SnapshotFrames::marker(core.encoder(entity), log.end()));
                        let snapshot = snapshot.clone().unwrap_or_else(marker);
                        let reminded = core.reminded_before(entity);
                        let mut resend = Resend::of_snapshot(snapshot, from, messages_from, reminded, now)
                            .awaiting_list(awaits_list);
                        // Soon after the start it would be sent twice: answers of the process before may be on their way.
                        resend.begins_at(core.started + 2 * core.times.settle.quiet, &core.times.pace, now);
                        if subscription.is_hurried {
                            resend.hurries();
                        }
                        resend
                    }
                };
                subscription.resend = Some(Box::new(resend));
                subscription.phase = Phase::CatchingUp;
                if let Some(retractions) = &mut subscription.retractions {
                    retractions.store_is_read(has_all);
                }
            }
        }
        state.goes_slow();
        drop(log);
        drop(state);
        self.wake();
    }

    /// Its page has another identity now, or the same with other rights. What that may not receive any more is
    /// retracted, what it may receive now comes from the store.
    pub(crate) fn becomes(&self, identity: Identity) {
        let core = &*self.core;
        // It may hold the application's data, which ends under no lock: so it is dropped behind the guards.
        let had;
        let now = Instant::now();
        let mut state = lock(&self.state);
        had = std::mem::replace(&mut state.recipient.identity, identity);
        let wakes = state.cancel_check(core, now);
        let state = &mut *state;
        if had.receives() == state.recipient.identity.receives() || matches!(state.path, Path::Left) {
            if wakes {
                self.wake();
            }
            return;
        }
        if let Some(ping) = &mut state.pinged {
            ping.knows_identity = false;
        }
        let log = lock(&core.log);
        state.recipient.past.add(had.receives().clone(), log.end());
        if let Some(hold) = state.hold() {
            core.sessions.change_to(&hold, state.recipient.identity.receives(), log.end());
        }
        let (cursor, recipient) = (state.cursor, &state.recipient);
        for subscription in state.subscriptions.iter_mut().filter(|known| core.encoder(known.entity).is_scoped) {
            recheck(core, subscription, &log, recipient);
            if core.delivery == Delivery::Converging {
                subscription.lose(subscription.messages_missed_from(cursor), log.end(), Ask::Now);
            }
        }
        state.goes_slow();
        drop(log);
        self.wake();
    }
}

/// Rechecks the objects that the page may still show and that this recipient may have to lose: those that moved or
/// changed, and those that were sent to its previous identity.
fn recheck(core: &Core, subscription: &mut Subscription, log: &Log, recipient: &Recipient) {
    let is_filtered = core.encoder(subscription.entity).view.is_some();
    if !is_filtered && recipient.past.is_empty() && !log.has_moves(subscription.entity) {
        return;
    }
    for (_, record, change) in log.newest_of(subscription.entity) {
        let is_there = change.kind != ChangeKind::Delete;
        let may_show = recipient.may_show(change);
        let has_changed = is_filtered && !matches!(change.prior, PriorState::Absent);
        if is_there && may_show && (has_changed || !recipient.receives(&record.scopes)) {
            subscription.retractions().recheck(change.key.clone(), change.id.clone());
        }
    }
    if let Some(retractions) = &mut subscription.retractions {
        retractions.look();
    }
}

impl SessionHolder for Subscriber {
    fn retracted(&self) -> Vec<(EntityIndex, Retracted)> {
        lock(&self.state).retracted()
    }

    fn ask(&self) {
        self.sink.ping();
    }

    fn restart_replay(&self, now: Instant) {
        let core = &*self.core;
        let mut state = lock(&self.state);
        let Some(missed_from) = state.page.as_ref().map(|page| page.missed_from) else { return };
        if matches!(state.path, Path::Left) {
            return;
        }
        state.cancel_check(core, now);
        let log = lock(&core.log);
        let it = &mut *state;
        for known in it.subscriptions.iter_mut().filter(|known| known.entity != core.resync && !known.needs_snapshot())
        {
            if known.resend.as_ref().is_some_and(|resend| resend.wants_rows()) {
                continue;
            }
            // Behind a refresh only the store knows.
            let refreshed = log.refreshed_for(known.entity, it.recipient.identity.receives());
            let reach = it.recipient.log_start(&log, known.entity).max(refreshed);
            let messages_from = known.messages_missed_from(it.cursor);
            let earlier = known.resend.take();
            match missed_from.filter(|from| *from >= reach) {
                Some(from) => {
                    let from = earlier.as_ref().and_then(|it| it.missed_from(from)).unwrap_or(from).min(from);
                    let reminded = Some(core.reminded_before(known.entity));
                    let resend = Resend::of_missed_later(from, reminded, now, now);
                    if known.phase == Phase::CatchingUp {
                        known.resend = Some(Box::new(resend.with_messages(messages_from)));
                    } else {
                        known.resend = Some(Box::new(resend));
                    }
                    if let Some(retractions) = &mut known.retractions {
                        retractions.forget_old();
                    }
                }
                None => {
                    known.resend = earlier;
                    known.lose(messages_from, Sequence::ZERO, Ask::Now);
                }
            }
        }
        state.goes_slow();
        drop(log);
        drop(state);
        self.wake();
    }
}
