//! What happened: counters that are always on, and log lines that name the remedy.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    panic::Location,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::time::Instant;

use crate::{
    lock::lock,
    warnings::{Allowance, WarningBudgets},
};

/// Everything that is counted, in one place.
#[derive(Debug, Default)]
pub(crate) struct Observer {
    pub(crate) handshakes: Counter,
    pub(crate) handshakes_denied: Counter,
    pub(crate) sockets_opened: Counter,
    pub(crate) sockets_denied: Counter,
    pub(crate) sockets_refused: Counter,
    pub(crate) origins_refused: Counter,
    pub(crate) upgrades_failed: Counter,
    pub(crate) sockets_closed_slow: Counter,
    pub(crate) sockets_closed_idle: Counter,
    pub(crate) sockets_closed_rate_limited: Counter,
    pub(crate) subscriptions_refused: Counter,
    pub(crate) authentication_queue_timeouts: Counter,
    pub(crate) messages_ignored: Counter,
    pub(crate) calls: Counter,
    pub(crate) changes_published: Counter,
    pub(crate) messages_published: Counter,
    pub(crate) writes_unpublished: Counter,
    pub(crate) writes_redirected: Counter,
    pub(crate) writes_replayed: Counter,
    pub(crate) writes_detached: Counter,
    pub(crate) writes_dropped: Counter,
    pub(crate) write_lock_timeouts: Counter,
    pub(crate) hooks_failed: Counter,
    budgets: Mutex<WarningBudgets>,
    /// What [`Observer::warn_once`] has warned of.
    warned: Mutex<HashSet<u64>>,
    /// The same of [`Observer::warn_once_of`], which outsiders name: apart, so that they cannot use the others up.
    warned_of: Mutex<HashMap<&'static str, HashSet<u64>>>,
}

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn up(&self) {
        self.add(1);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Different lines remembered for "once"; routes and entities are configuration, so this is far off.
const MAX_ONCE: usize = 4096;
/// Different lines of one kind about what outsiders send.
const MAX_ONCE_OF: usize = 16;

fn hash_of(what: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}

impl Observer {
    /// A warning somebody outside can cause again and again. Each place in the code that calls this has a budget of its
    /// own; what is left out is counted, and the next line of that place says how much it was.
    #[track_caller]
    pub(crate) fn warn(&self, line: fmt::Arguments<'_>) {
        let allowance = lock(&self.budgets).take(Location::caller(), Instant::now());
        match allowance {
            Allowance::Write { suppressed: 0 } => write_warning(line),
            Allowance::Write { suppressed } => {
                write_warning(format_args!("{line} ({suppressed} more like this were left out)"));
            }
            Allowance::WriteLast { suppressed: 0 } => {
                write_warning(format_args!("{line} (more like this are left out for up to 10 s)"));
            }
            Allowance::WriteLast { suppressed } => {
                write_warning(format_args!(
                    "{line} ({suppressed} more like this were left out, and more are for up to 10 s)"
                ));
            }
            Allowance::Suppress => {}
        }
    }

    /// A warning about configuration or an application's answers: once for each `what`.
    pub(crate) fn warn_once(&self, what: impl Hash, line: fmt::Arguments<'_>) {
        let hash = hash_of(what);
        let first = {
            let mut warned = lock(&self.warned);
            warned.len() < MAX_ONCE && warned.insert(hash)
        };
        if first {
            write_warning(line);
        }
    }

    /// A warning about what pages send, of which there is no end: once for each `what`, and for 16 of one kind at most.
    /// The last of them says that it is.
    pub(crate) fn warn_once_of(&self, kind: &'static str, what: impl Hash, line: impl FnOnce() -> String) {
        let hash = hash_of(what);
        let count = {
            let mut warned = lock(&self.warned_of);
            let of_kind = warned.entry(kind).or_default();
            if of_kind.len() >= MAX_ONCE_OF || !of_kind.insert(hash) {
                return;
            }
            of_kind.len()
        };
        let line = line();
        if count == MAX_ONCE_OF {
            write_warning(format_args!("{line} (no more like this are written)"));
        } else {
            write_warning(format_args!("{line}"));
        }
    }
}

#[cfg(feature = "tracing")]
fn write_warning(line: fmt::Arguments<'_>) {
    tracing::warn!(target: "tower_live_updates", "{line}");
}

#[cfg(not(feature = "tracing"))]
fn write_warning(_line: fmt::Arguments<'_>) {}

/// The audit: who was told of what, and not what was said of it.
pub(crate) mod audit {
    use crate::scope::Scopes;

    /// What is said of a message instead of the kind of its change.
    pub(crate) const MESSAGE: &str = "message";

    /// The target of its lines.
    #[cfg(feature = "tracing")]
    pub(crate) const TARGET: &str = "tower_live_updates::audit";

    /// Whether somebody reads it, where it is asked for at all.
    #[cfg(feature = "tracing")]
    pub(crate) fn is_read() -> bool {
        tracing::enabled!(target: TARGET, tracing::Level::INFO)
    }

    #[cfg(not(feature = "tracing"))]
    pub(crate) fn is_read() -> bool {
        false
    }

    /// Somebody was told of an object, or sent a message.
    #[cfg(feature = "tracing")]
    pub(crate) fn told(who: &str, entity: &str, id: &str, kind: &str, scopes: &Scopes) {
        tracing::info!(target: TARGET, who, entity, id, kind, scope = %scopes, "told");
    }

    #[cfg(not(feature = "tracing"))]
    pub(crate) fn told(_who: &str, _entity: &str, _id: &str, _kind: &str, _scopes: &Scopes) {}

    /// Something happened to an object, or a message is sent; so many subscribers are there that may hear it.
    #[cfg(feature = "tracing")]
    pub(crate) fn published(entity: &str, id: &str, kind: &str, scopes: &Scopes, recipients: usize) {
        tracing::info!(target: TARGET, entity, id, kind, scope = %scopes, recipients, "published");
    }

    #[cfg(not(feature = "tracing"))]
    pub(crate) fn published(_entity: &str, _id: &str, _kind: &str, _scopes: &Scopes, _recipients: usize) {}
}

/// A snapshot of the counters, from [`LiveUpdates::stats`](crate::LiveUpdates::stats).
///
/// Counts start with the process; the first seven are the state of this moment. Who was told what is not counted but written
/// down, for those who want to know: see [Audit](crate::LiveUpdates#audit).
///
/// ```
/// use tower_live_updates::{Change, Entity, LiveUpdates};
///
/// let live = LiveUpdates::builder("/api/v1")
///     .allow_anonymous()
///     .entity(Entity::scheduler("/events"))
///     .build()?;
/// live.publish("events", Change::delete(7)?)?;
/// assert_eq!(live.stats().changes_published, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Sockets open now.
    pub connections: u64,
    /// Subscriptions of all of them together.
    pub subscriptions: u64,
    /// Records in the log.
    pub log_records: u64,
    /// Bytes the log takes.
    pub log_bytes: u64,
    /// Records that were read from the [log file](crate::LiveUpdatesBuilder::log_file) at the start.
    pub log_restored: u64,
    /// Sessions remembered: one for each page, and for [`session_retention`](crate::LiveUpdatesBuilder::session_retention) after it has gone,
    /// or until somebody else connects after that.
    pub sessions: u64,
    /// Writes being finished now although their client has gone.
    pub detached_writes: u64,
    /// Handshakes answered with 200.
    pub handshakes: u64,
    /// Handshakes answered with 403.
    pub handshakes_denied: u64,
    /// Sockets accepted.
    pub sockets_opened: u64,
    /// Sockets closed with 1008, or refused with 403, because nobody was let in by their token, or not any more: the
    /// authenticator said so when it was asked again, or an expiry has come.
    pub sockets_denied: u64,
    /// Sockets refused with 503: too many in all or of one principal, authentication unavailable, or shutting down.
    pub sockets_refused: u64,
    /// Requests refused because of their `Origin`.
    pub origins_refused: u64,
    /// Upgrades that were answered with 101 and then not carried out by the server.
    pub upgrades_failed: u64,
    /// Sockets closed because they did not read fast enough.
    pub sockets_closed_slow: u64,
    /// Sockets closed because nothing was heard of them, not even a pong.
    pub sockets_closed_idle: u64,
    /// Sockets closed because their pages sent more than [`max_message_rate`](crate::LiveUpdatesBuilder::max_message_rate) allows for
    /// 30 s.
    pub sockets_closed_rate_limited: u64,
    /// Subscriptions beyond [`max_subscriptions`](crate::LiveUpdatesBuilder::max_subscriptions), which were ignored, and answers of
    /// [`authorize`](crate::Entity::authorize) that were no.
    pub subscriptions_refused: u64,
    /// Times the authenticator, or an [`authorize`](crate::Entity::authorize) hook, was not asked, since
    /// [`max_concurrent_authentications`](crate::LiveUpdatesBuilder::max_concurrent_authentications) ran for longer than
    /// [`authentication_queue_timeout`](crate::LiveUpdatesBuilder::authentication_queue_timeout): authentication was unavailable then, and the
    /// subscription waits to be asked about again.
    pub authentication_queue_timeouts: u64,
    /// Messages from pages that were not understood or not wanted.
    pub messages_ignored: u64,
    /// Calls answered, each with an error.
    pub calls: u64,
    /// Changes told.
    pub changes_published: u64,
    /// Messages told.
    pub messages_published: u64,
    /// Entities of pages that came, or came back, and were told what they may have missed.
    pub replays: u64,
    /// Objects that were told once more, because some page may have been saving when they were told.
    pub repeats: u64,
    /// Entities of pages that were brought to the store's state by a snapshot, once for each page and time.
    pub snapshots: u64,
    /// Entities of pages that could only be told to load their list again: the log does not reach back to where they
    /// were, and there is no snapshot hook or it has failed.
    pub unrecovered_gaps: u64,
    /// Successful writes that could not be told; the log says why.
    pub writes_unpublished: u64,
    /// Writes that were answered with 301, 302 or 303, and so not broadcast: the page takes what it finds there for success.
    pub writes_redirected: u64,
    /// Writes that were answered from an idempotency cache (`Idempotent-Replayed` or `Idempotency-Replayed`), and not
    /// broadcast a second time.
    pub writes_replayed: u64,
    /// Writes finished after their client had gone.
    pub writes_detached: u64,
    /// Writes given up with their client, because too many were being finished or finishing is switched off.
    pub writes_dropped: u64,
    /// Writes that went on without their turn after waiting for it.
    pub write_lock_timeouts: u64,
    /// Panics, errors and timeouts in the application's hooks.
    pub hooks_failed: u64,
}
