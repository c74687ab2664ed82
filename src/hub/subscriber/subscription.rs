//! One entity that a subscriber follows.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::super::{
    core::{Core, Delivery},
    delivery::{late_list::LateList, resend::Resend},
    log::{Log, ObjectRef},
    retractions::Retractions,
    snapshot::SnapshotFrames,
};
use crate::{entity::EntityIndex, sequence::Sequence};

/// A page that subscribes again and again is replayed to once in so long: a replay may be ten thousand times as large
/// as what asks for it.
pub(super) const REPLAY_EVERY: Duration = Duration::from_secs(30);

/// An entity, and what its page receives of it.
#[derive(Debug)]
pub(super) struct Subscription {
    pub(super) entity: EntityIndex,
    pub(super) phase: Phase,
    /// Deletions before this are no news to its page: that was loaded later.
    pub(super) deletions_from: Sequence,
    /// How often the store was asked anew for the ids that it reported as gone.
    pub(super) asked_anew: u8,
    /// A snapshot was broken off: the next time it is sent without a pause.
    pub(super) is_hurried: bool,
    pub(super) resend: Option<Box<Resend>>,
    pub(super) retractions: Option<Box<Retractions>>,
}

/// How a subscription stands to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// What is published from here on is sent as it comes.
    Live { from: Sequence },
    /// Its resend goes first, to the end of the log.
    CatchingUp,
    /// Only the store knows what its page lacks.
    NeedsSnapshot {
        ask: Ask,
        /// Messages from here on are kept for it.
        messages_from: Sequence,
        /// A snapshot from before the log stood here is of no use.
        stale_before: Sequence,
    },
}

/// When the store is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    Now,
    At(Instant),
    /// It has been.
    Asked,
}

impl Subscription {
    pub(super) fn new(entity: EntityIndex, from: Sequence, deletions_from: Sequence) -> Self {
        Self {
            entity,
            phase: Phase::Live { from },
            deletions_from,
            asked_anew: 0,
            is_hurried: false,
            resend: None,
            retractions: None,
        }
    }

    /// Whether a record at this place of the log is sent as it comes.
    pub(super) fn is_live_at(&self, sequence: Sequence) -> bool {
        matches!(self.phase, Phase::Live { from } if from <= sequence)
    }

    pub(super) fn needs_snapshot(&self) -> bool {
        matches!(self.phase, Phase::NeedsSnapshot { .. })
    }

    pub(super) fn retractions(&mut self) -> &mut Retractions {
        self.retractions.get_or_insert_default()
    }

    /// The page was sent an object, or that one has left its visibility; true where it is reminded of that later.
    pub(super) fn marks(&mut self, core: &Core, object: &ObjectRef, leaves: bool, at: (Sequence, Instant)) -> bool {
        if leaves && core.delivery == Delivery::Converging {
            self.retractions().left(object, at);
            return true;
        }
        if let Some(retractions) = self.retractions.as_mut().filter(|_| !leaves) {
            retractions.entered(&object.id);
        }
        false
    }

    /// If the store is to be asked now: the place of the log that the snapshot must not be older than.
    pub(super) fn asks(&mut self, now: Instant) -> Option<Sequence> {
        let Phase::NeedsSnapshot { ask, stale_before, .. } = &mut self.phase else { return None };
        let is_due = match ask {
            Ask::Now => true,
            Ask::At(at) => *at <= now,
            Ask::Asked => false,
        };
        is_due.then(|| {
            *ask = Ask::Asked;
            *stale_before
        })
    }

    /// When the store is to be asked, if that is not now.
    pub(super) fn asks_at(&self) -> Option<Instant> {
        match self.phase {
            Phase::NeedsSnapshot { ask: Ask::At(at), .. } => Some(at),
            _ => None,
        }
    }

    /// Messages from here on have not been sent, where its subscriber has the others before `cursor`.
    pub(super) fn messages_missed_from(&self, cursor: Sequence) -> Sequence {
        match self.phase {
            Phase::NeedsSnapshot { messages_from, .. } => messages_from,
            _ => self.resend.as_ref().map_or(cursor, |resend| resend.messages_missed_from(cursor)),
        }
    }

    /// Only a snapshot that is no older than `stale_before` brings its page up to date. Messages from `messages_from` on
    /// have not been sent.
    pub(super) fn lose(&mut self, messages_from: Sequence, stale_before: Sequence, ask: Ask) {
        self.is_hurried |= self.resend.as_ref().is_some_and(|resend| resend.is_broken_off());
        self.resend = None;
        if let Some(retractions) = &mut self.retractions {
            retractions.forget_old();
        }
        self.phase = Phase::NeedsSnapshot { ask, messages_from, stale_before };
    }

    /// Everything before this is known to be on the page once what was written so far has arrived.
    pub(super) fn safe(
        &self,
        cursor: Sequence,
        settled: Sequence,
        unsettled_from: Option<Sequence>,
    ) -> Option<Sequence> {
        if self.needs_snapshot() || self.retractions.as_ref().is_some_and(|it| it.knows_gone_ids()) {
            return None;
        }
        let missed_from = self.resend.as_ref().map_or(Some(cursor), |resend| resend.missed_from(cursor))?;
        Some(cursor.min(settled).min(missed_from).min(unsettled_from.unwrap_or(Sequence::MAX)))
    }

    /// A page that can load its list again does that sooner than it draws many rows one by one.
    pub(super) fn load_again_instead(&mut self, core: &Core, log: &Log, now: Instant) {
        let pace = &core.times.pace;
        let resend = self.resend.as_deref();
        if let Some(asked_at) = resend.and_then(|resend| resend.is_more_than_a_list(pace, log.end())) {
            let messages_from = self.messages_missed_from(Sequence::MAX);
            let marker = Arc::new(SnapshotFrames::marker(core.encoder(self.entity), asked_at));
            let reminded = core.reminded_before(self.entity);
            let resend = Resend::of_snapshot(marker, asked_at, messages_from, reminded, now);
            // It asks for its list now.
            self.resend = Some(Box::new(resend.expecting(Some(LateList::new(now, asked_at)))));
        }
        // The list shows what the page was to take away before, where that may be seen again.
        let is_marker = self.resend.as_ref().is_some_and(|resend| resend.is_marker());
        let reloaded = if is_marker { Sequence::MAX } else { core.reimported_before(log, self.entity) };
        if let Some(retractions) = &mut self.retractions {
            retractions.forget_before(reloaded);
        }
    }

    /// What settles is resent to it.
    pub(super) fn settle(&mut self, from: Sequence, known_before: Sequence, is_tree: bool, now: Instant) {
        match &mut self.resend {
            Some(resend) => resend.settle(from, known_before, is_tree, now),
            None => self.resend = Some(Box::new(Resend::of_settled(from, known_before, now))),
        }
    }

    /// Nothing of this entity is sent to its page before the end of its resend: in a tree what is new may hang below what is
    /// still to come.
    pub(super) fn resend_goes_first(&mut self, cursor: Sequence) {
        if let (Some(resend), Phase::Live { from }) = (&mut self.resend, self.phase) {
            resend.goes_first(cursor.max(from));
            self.phase = Phase::CatchingUp;
        }
    }
}

/// The entities whose subscription a page has ended, and when it is next replayed to should it subscribe again.
#[derive(Debug, Default)]
pub(super) struct Ended(Vec<(EntityIndex, Option<Instant>)>);

impl Ended {
    pub(super) fn note(&mut self, entity: EntityIndex) {
        if !self.has(entity) {
            self.0.push((entity, None));
        }
    }

    pub(super) fn has(&self, entity: EntityIndex) -> bool {
        self.0.iter().any(|(known, _)| *known == entity)
    }

    /// When its page is replayed to that subscribes now; `None` for at once.
    pub(super) fn replays_at(&mut self, entity: EntityIndex, now: Instant) -> Option<Instant> {
        let (_, next) = self.0.iter_mut().find(|(known, _)| *known == entity)?;
        let waits = next.filter(|next| *next > now);
        if waits.is_none() {
            *next = Some(now + REPLAY_EVERY);
        }
        waits
    }
}
