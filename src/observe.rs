//! Observation: counters that are always on, log lines that name the remedy, and the audit.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hash},
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

/// Declares each number once. Those that the `Observer` counts become a [`Counter`] of it and a field of [`Stats`]; the
/// others are fields of [`Stats`] only.
macro_rules! stats {
    (
        $(#[$stats:meta])*
        pub struct Stats {
            given { $($(#[$given_meta:meta])* pub $given:ident: u64,)* }
            counted { $($(#[$counted_meta:meta])* pub $counted:ident: u64,)* }
        }
    ) => {
        $(#[$stats])*
        pub struct Stats {
            $($(#[$given_meta])* pub $given: u64,)*
            $($(#[$counted_meta])* pub $counted: u64,)*
        }

        /// Counters, and the budgets of log lines.
        #[derive(Debug, Default)]
        pub(crate) struct Observer {
            $(pub(crate) $counted: Counter,)*
            budgets: Mutex<WarningBudgets>,
            /// What [`Observer::warn_once`] has warned of.
            warned: Mutex<HashSet<u64>>,
            /// The same of [`Observer::warn_once_of`], whose lines outsiders cause: kept apart, so that outsiders cannot use
            /// up the others.
            warned_of: Mutex<HashMap<&'static str, HashSet<u64>>>,
        }

        impl Observer {
            /// The counters of this moment; every other field is 0.
            pub(crate) fn counted(&self) -> Stats {
                Stats { $($counted: self.$counted.get(),)* ..Stats::default() }
            }
        }
    };
}

stats! {
    /// A snapshot of the counters, from [`LiveUpdates::stats`](crate::LiveUpdates::stats).
    ///
    /// The first seven fields are the current state; the others count since the process started. Recipients are not
    /// counted; the [audit](crate::LiveUpdates#audit) lists them.
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
        given {
            /// Sockets open now.
            pub connections: u64,
            /// Subscriptions of all sockets together.
            pub subscriptions: u64,
            /// Records in the log.
            pub log_records: u64,
            /// Bytes the log takes.
            pub log_bytes: u64,
            /// Records that were read from the [log file](crate::LiveUpdatesBuilder::log_file) at the start.
            pub log_restored: u64,
            /// Sessions kept: one for each page, until
            /// [`session_retention`](crate::LiveUpdatesBuilder::session_retention) after it has disconnected. Expired sessions
            /// are dropped when the next page connects.
            pub sessions: u64,
            /// Writes that are running to completion at this moment, after their client has disconnected or an outer
            /// timeout has fired. [`writes_detached`](Self::writes_detached) counts all since the process started.
            pub detached_writes: u64,
            /// Replays to pages that were loaded or have returned, one for each subscribed entity.
            pub replays: u64,
            /// Objects and deletions that were sent besides new changes and first replays: debounced repeats, second
            /// replays, reminders of deletions, rows of snapshots, and the later parts of a long replay. One for each
            /// object, page and time.
            pub repeats: u64,
            /// Snapshots sent to pages, one for each page, entity and time.
            pub snapshots: u64,
            /// Subscriptions whose page could only be asked to load its list again: the log does not reach back to the page's
            /// position, and there is no snapshot hook or it has failed.
            pub unrecovered_gaps: u64,
        }
        counted {
            /// Handshakes answered with 200.
            pub handshakes: u64,
            /// Handshakes answered with 403 because their credentials were refused.
            pub handshakes_denied: u64,
            /// Sockets accepted.
            pub sockets_opened: u64,
            /// Sockets closed with 1008, or refused with 403, because their credentials were refused: at connection, at
            /// revalidation, or because they have expired.
            pub sockets_denied: u64,
            /// Sockets refused with 503 (too many in all or of one principal, authentication unavailable, shutting
            /// down) or with 414 (address too long).
            pub sockets_refused: u64,
            /// Requests refused because of their `Origin`.
            pub origins_refused: u64,
            /// Upgrades that were answered with 101 and then not carried out by the server.
            pub upgrades_failed: u64,
            /// Sockets closed because they did not read fast enough.
            pub sockets_closed_slow: u64,
            /// Sockets closed because nothing was received from them, not even a pong.
            pub sockets_closed_idle: u64,
            /// Sockets closed because their pages exceeded
            /// [`max_message_rate`](crate::LiveUpdatesBuilder::max_message_rate) for 30 s.
            pub sockets_closed_rate_limited: u64,
            /// Subscriptions beyond [`max_subscriptions`](crate::LiveUpdatesBuilder::max_subscriptions), which were ignored, and
            /// subscriptions that [`authorize`](crate::Entity::authorize) refused.
            pub subscriptions_refused: u64,
            /// Calls of the authenticator, or of an [`authorize`](crate::Entity::authorize) hook, that were given up because
            /// [`max_concurrent_authentications`](crate::LiveUpdatesBuilder::max_concurrent_authentications) others ran for
            /// longer than [`authentication_queue_timeout`](crate::LiveUpdatesBuilder::authentication_queue_timeout).
            /// Authentication then counted as unavailable, and the subscription waits for another call.
            pub authentication_queue_timeouts: u64,
            /// Messages from pages that were not understood or not expected.
            pub messages_ignored: u64,
            /// [Calls](crate::guide::calls) of pages, over HTTP or a socket. Without a method each is answered with an
            /// error.
            pub calls: u64,
            /// Calls that were not run, since the page had exceeded a limit of calls, and were answered with an error.
            pub calls_refused: u64,
            /// Calls that were answered with an error of another kind: no such method, wrong arguments, a refusal of the
            /// guard, or an error, a panic or a timeout of the method.
            pub calls_failed: u64,
            /// Results of calls that were sent a second time, to pages that had reconnected.
            pub call_results_resent: u64,
            /// Changes published.
            pub changes_published: u64,
            /// Messages published.
            pub messages_published: u64,
            /// Successful writes that could not be published; the reason is logged.
            pub writes_unpublished: u64,
            /// Writes that were answered with 301, 302 or 303 and so not published: the page follows the redirect, and takes
            /// what it finds there for success.
            pub writes_redirected: u64,
            /// Writes that were answered from an idempotency cache (`Idempotent-Replayed` or `Idempotency-Replayed`), and not
            /// published a second time.
            pub writes_deduplicated: u64,
            /// Writes that went on after their client had disconnected or an outer timeout had fired.
            /// [`detached_writes`](Self::detached_writes) has those that still run. Those that were then given up are
            /// also in [`writes_dropped`](Self::writes_dropped).
            pub writes_detached: u64,
            /// Writes given up after their client had disconnected or an outer timeout had fired: because too many were
            /// running without their clients, because
            /// [`max_detached_writes`](crate::LiveUpdatesBuilder::max_detached_writes) is 0, because the rest of the
            /// request's body did not arrive within 5 s, or because no tokio runtime was left.
            pub writes_dropped: u64,
            /// Writes that proceeded without the keyed lock of their object, after
            /// [`write_lock_timeout`](crate::LiveUpdatesBuilder::write_lock_timeout).
            pub write_lock_timeouts: u64,
            /// Panics, errors and timeouts in the application's hooks.
            pub hooks_failed: u64,
        }
    }
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

/// Different lines remembered for "once"; routes and entities are configuration, so this is never reached.
const MAX_ONCE: usize = 4096;
/// Different lines of one kind that outsiders cause.
const MAX_ONCE_OF: usize = 16;

/// Remembers `what`, and returns how many are remembered then; `None` where it was, or `most` are.
fn insert_some(warned: &mut HashSet<u64>, most: usize, what: impl Hash) -> Option<usize> {
    let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(what);
    (warned.len() < most && warned.insert(hash)).then_some(warned.len())
}

impl Observer {
    /// A warning that outsiders can cause again and again. Each place in the code that calls this has a budget of its own.
    /// Suppressed lines are counted, and the next line of that place gives their number.
    #[track_caller]
    pub(crate) fn warn(&self, line: fmt::Arguments<'_>) {
        let allowance = lock(&self.budgets).take(Location::caller(), Instant::now());
        let Some(Allowance { suppressed, is_last }) = allowance else { return };
        let note = match (suppressed, is_last) {
            (0, false) => String::new(),
            (0, true) => " (more like this are left out for up to 10 s)".to_owned(),
            (_, false) => format!(" ({suppressed} more like this were left out)"),
            (_, true) => format!(" ({suppressed} more like this were left out, and more are for up to 10 s)"),
        };
        write_warning(format_args!("{line}{note}"));
    }

    /// A warning about configuration or an application's responses: once for each place in the code that calls this.
    #[track_caller]
    pub(crate) fn warn_once(&self, line: fmt::Arguments<'_>) {
        self.warn_once_for((), line);
    }

    /// The same, once for each place and each `what`.
    #[track_caller]
    pub(crate) fn warn_once_for(&self, what: impl Hash, line: fmt::Arguments<'_>) {
        if insert_some(&mut lock(&self.warned), MAX_ONCE, (Location::caller(), what)).is_some() {
            write_warning(line);
        }
    }

    /// A warning about what pages send, which is unbounded: once for each `what`, and at most 16 of one kind. The last line
    /// is marked as the last.
    pub(crate) fn warn_once_of(&self, kind: &'static str, what: impl Hash, line: impl FnOnce() -> String) {
        let inserted = insert_some(lock(&self.warned_of).entry(kind).or_default(), MAX_ONCE_OF, what);
        let Some(count) = inserted else { return };
        let note = if count == MAX_ONCE_OF { " (no more like this are written)" } else { "" };
        write_warning(format_args!("{}{note}", line()));
    }
}

#[cfg_attr(not(feature = "tracing"), allow(unused_variables))]
fn write_warning(line: fmt::Arguments<'_>) {
    #[cfg(feature = "tracing")]
    tracing::warn!(target: "tower_live_updates", "{line}");
}

/// The audit: what was sent to whom, without its content.
#[cfg_attr(not(feature = "tracing"), allow(unused_variables))]
pub(crate) mod audit {
    use crate::scope::Scopes;

    /// Stands for a message where a change has its kind.
    pub(crate) const MESSAGE: &str = "message";

    /// The target of its lines.
    #[cfg(feature = "tracing")]
    pub(crate) const TARGET: &str = "tower_live_updates::audit";

    /// Whether a subscriber of `tracing` is interested in the audit.
    #[cfg(feature = "tracing")]
    pub(crate) fn is_read() -> bool {
        tracing::enabled!(target: TARGET, tracing::Level::INFO)
    }

    #[cfg(not(feature = "tracing"))]
    pub(crate) fn is_read() -> bool {
        false
    }

    /// A change or a message was handed over to be sent to one recipient.
    pub(crate) fn sent(who: &str, entity: &str, id: &str, kind: &str, scopes: &Scopes) {
        #[cfg(feature = "tracing")]
        tracing::info!(target: TARGET, who, entity, id, kind, scope = %scopes, "sent");
    }

    /// A change or a message was published; `recipients` subscribers have one of its scopes.
    pub(crate) fn published(entity: &str, id: &str, kind: &str, scopes: &Scopes, recipients: usize) {
        #[cfg(feature = "tracing")]
        tracing::info!(target: TARGET, entity, id, kind, scope = %scopes, recipients, "published");
    }
}
