//! Who follows the log, and how what is published reaches them: one log, one cursor each, no queues. Knows no sockets.
//!
//! # The life of a record
//! 1. [`Hub::publish`] merges a change with what the log knows of its object and appends a record (`append`), under the
//!    log's lock. Large objects are merged before that, outside the lock. Deletions leave a tombstone.
//! 2. The fan-out tasks wake (`fanout`), one per worker, each with a shard of the subscribers. A task makes one envelope of
//!    each record, and sends every subscriber what the visibility filter (`visibility`) lets it receive.
//! 3. When the entity's writes have gone quiet (`settle`), what may have met a page that was saving is resent once, in its
//!    newest state: a debounced repeat. Deletions have reminders (`reminders`).
//! 4. The record is trimmed: the oldest of the entity and scopes that cost most. A live page that has not been sent the
//!    record is closed with 1013. A page whose replay needs the record gets a snapshot.
//!
//! # The phases of a subscription
//! ```text
//!       +---------------------------------------+
//!       |                                       v
//!   subscribe -------> CatchingUp -----------> Live
//!       |                ^     |                |
//!       |                |     v                |
//!       +------------> NeedsSnapshot <----------+
//! ```
//! - subscribe -> Live: nothing was missed, or its replay comes later.
//! - subscribe -> CatchingUp: something was missed, and the log reaches back.
//! - subscribe -> NeedsSnapshot: the log does not reach back, the entity was refreshed since, or the scopes have
//!   changed.
//! - CatchingUp -> Live: everything was sent to the end of the log, or the rest is paced.
//! - Live -> CatchingUp: in a tree, a resend is paced, or could not be sent with the others. What is new may hang below
//!   what is still to come, so that it waits for the end of that.
//! - NeedsSnapshot -> CatchingUp: the snapshot has come, or the marker in its place.
//! - CatchingUp or Live -> NeedsSnapshot: a refresh, new scopes, a last repeat that is torn, a resend whose records were
//!   trimmed, ids reported as gone that may be in use again, or hooks that failed for objects that the log does not
//!   hold, or for more than are remembered. Also, where the log does not reach back, a key that two pages share.
//!
//! Without a snapshot hook, a refresh is sent as the marker, and changes no phase.
//!
//! A subscriber itself is on the fast path (the fan-out sends), on the slow path (its own task sends, a bounded chunk at a
//! time), waits for hooks, or has left: see `subscriber`.
//!
//! # Invariants
//! - A subscriber's cursor never goes back. What is sent besides news is a resend, or a retraction.
//! - A sink takes [`Cleared`] frames only, and only the visibility filter makes them of records.
//! - Locks are taken in this order: a shard's list, a subscriber's state, then its sink or the log, and under the log
//!   settling, reminders or sessions. A write's stage, the log file's lock and the table of who is here come before all of
//!   these. No other lock
//!   is taken under a sink, settling, reminders or sessions. No lock is held across an await or while a hook runs. A
//!   sink takes what fits at once: it never waits.
//! - While hooks are asked about a chunk, nothing else is sent to its page.
//! - What is not acknowledged is replayed to the next connection of the page; what only the store knew is asked again.

mod activity;
#[cfg(test)]
mod addressed_tests;
mod append;
mod clock;
mod core;
mod delivery;
mod encoder;
mod fanout;
mod log;
#[cfg(test)]
mod memory_tests;
#[cfg(test)]
mod proof;
mod reminders;
mod retractions;
mod saved;
mod sessions;
mod settle;
mod snapshot;
mod subscriber;
#[cfg(test)]
pub(crate) mod tests;
mod upsert;
mod visibility;

use std::{fmt, sync::Arc};

use tokio::time::Instant;

pub use self::core::Delivery;
pub(crate) use self::{
    activity::{Activity, Missed},
    append::{Published, Withheld, WriteContext},
    core::{DeliveryTimes, Pace},
    encoder::EntityEncoder,
    log::{Addressee, LogLimits, Owner},
    reminders::{MAX_REMINDERS, ReminderTimes},
    sessions::{SessionId, SessionLimits},
    settle::SettleTimes,
    snapshot::SnapshotFrames,
    subscriber::{Accepted, Check, FrameSink, Progress, ResumeFrom, Subscriber},
    visibility::Cleared,
};
use self::{
    append::Announced,
    core::Core,
    fanout::Fanout,
    saved::{Keeper, OngoingWrite},
};
use crate::{
    auth::Identity,
    change::Change,
    entity::EntityIndex,
    epoch::Epoch,
    lock::lock,
    log_file::{Found, LogFile},
    observe::{Observer, audit},
    scope::Scopes,
    sequence::Sequence,
};

/// The log and everyone who follows it.
pub(crate) struct Hub {
    /// What the log knows; for reading.
    pub(crate) core: Arc<Core>,
    fanout: Arc<Fanout>,
    /// Keeps the log across a restart.
    keeper: Option<Arc<Keeper>>,
}

impl Hub {
    pub(crate) fn new(
        delivery: Delivery,
        encoders: Vec<EntityEncoder>,
        log: LogLimits,
        times: DeliveryTimes,
        sessions: SessionLimits,
        audits: bool,
    ) -> Self {
        let core = Arc::new(Core::new(delivery, encoders, log, times, sessions, audits));
        Self { fanout: Arc::new(Fanout::new(core.clone())), core, keeper: None }
    }

    /// Keeps the log in this file from now on, and takes up what the file holds. Returns the epoch of the log.
    pub(crate) fn keep_in(&mut self, file: LogFile, found: Found, observer: Arc<Observer>) -> Epoch {
        let keeper = Keeper::new(self.core.clone(), file, found, observer);
        let epoch = keeper.epoch.clone();
        self.keeper = Some(Arc::new(keeper));
        epoch
    }

    /// Publishes changes: see [`append::publish`].
    pub(crate) fn publish(&self, entity: EntityIndex, changes: &[Change], write: impl Into<WriteContext>) -> Published {
        let (published, announced) = append::publish(&self.core, entity, changes, write.into());
        for Announced { id, kind, scopes } in announced {
            self.announce(entity, &id, kind.verb(), (&scopes, &Addressee::Everyone));
        }
        published
    }

    /// Publishes a message to everyone who has one of these scopes: `value` is JSON text.
    pub(crate) fn send(&self, entity: EntityIndex, scopes: &Scopes, value: &str) {
        self.send_to(entity, scopes, &Addressee::Everyone, value);
    }

    /// Publishes a message: `value` is JSON text.
    pub(crate) fn send_to(&self, entity: EntityIndex, scopes: &Scopes, addressee: &Addressee, value: &str) {
        let _ongoing = self.change_begins();
        append::send(&self.core, entity, scopes, addressee.clone(), value);
        if self.core.is_audited() {
            self.announce(entity, "", audit::MESSAGE, (scopes, addressee));
        }
    }

    fn announce(&self, entity: EntityIndex, id: &str, kind: &str, (scopes, addressee): (&Scopes, &Addressee)) {
        let recipients = self.fanout.audience(entity, scopes, addressee);
        audit::published(&self.core.encoder(entity).entity, id, kind, scopes, recipients);
    }

    /// Brings every page of an entity to the store's state: by a snapshot, or by the marker after which it must load
    /// its list again. Does so once more when the writes in flight have ended, unless all of them are refused.
    pub(crate) fn refresh(&self, entity: EntityIndex) {
        let _ongoing = self.change_begins();
        lock(&self.core.settles).of_mut(entity).refreshed();
        append::refresh(&self.core, entity);
    }

    /// The application publishes by hand, until what comes back is dropped.
    pub(crate) fn write_begins(&self, entity: EntityIndex) -> Activity {
        let activity = self.start_write(entity);
        activity.confirm();
        activity
    }

    /// The request of a write is here. It counts for nothing yet: any client can send one.
    pub(crate) fn start_write(&self, entity: EntityIndex) -> Activity {
        let ongoing = self.change_begins();
        Activity::of_write(self.core.clone(), entity, ongoing)
    }

    /// A page reads an entity's list, until what comes back is dropped.
    pub(crate) fn list_begins(&self, entity: EntityIndex) -> Activity {
        Activity::of_list(self.core.clone(), entity)
    }

    /// A write begins. To be called before it can change anything.
    fn change_begins(&self) -> Option<OngoingWrite> {
        self.keeper.as_ref().map(Keeper::write_begins)
    }

    /// Adds a subscriber, with no subscriptions yet, and makes sure that a task serves it. Needs a runtime.
    pub(crate) fn join(&self, sink: Arc<dyn FrameSink>, identity: Identity, resume: ResumeFrom) -> Arc<Subscriber> {
        self.fanout.join(sink, identity, resume)
    }

    /// Makes sure that a task serves a subscriber: a runtime may have ended, and its tasks with it.
    pub(crate) fn serve(&self, subscriber: &Subscriber) {
        self.fanout.serve(subscriber);
    }

    /// Removes a subscriber once: its slot may belong to another one afterwards. Nothing more is sent to its sink.
    pub(crate) fn leave(&self, subscriber: &Subscriber, now: Instant) {
        if subscriber.leave(now) {
            self.fanout.remove(subscriber);
        }
    }

    /// Rows of the store, and ids of what is gone, for pages that lost their place: see [`SnapshotFrames::new`].
    pub(crate) fn snapshot(
        &self,
        entity: EntityIndex,
        at: Sequence,
        identity: &Identity,
        rows: &[Change],
        gone: &[Change],
    ) -> (SnapshotFrames, usize) {
        let held = self.core.moved_and_held(entity);
        SnapshotFrames::new((self.core.encoder(entity), &self.core.log, &held), entity, at, identity, rows, gone)
    }

    /// Resends what has settled; returns when to look next.
    #[cfg(feature = "__bench")]
    pub(crate) fn settle(&self, now: Instant) -> Option<Instant> {
        self.fanout.settle(now)
    }

    /// Whether the log is kept in a file.
    pub(crate) fn is_kept(&self) -> bool {
        self.keeper.is_some()
    }

    /// Records read from the log file.
    pub(crate) fn restored(&self) -> usize {
        self.keeper.as_ref().map_or(0, |keeper| keeper.restored)
    }

    /// Writes the log file, when no write is on its way any more: now, or as often as the last of them ends.
    pub(crate) async fn close(&self) {
        if let Some(keeper) = &self.keeper {
            keeper.close().await;
        }
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").finish_non_exhaustive()
    }
}
