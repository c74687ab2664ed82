//! Setters: how much history is kept, and the log file.

use std::{path::PathBuf, time::Duration};

use super::config::LiveUpdatesBuilder;

impl<A> LiveUpdatesBuilder<A> {
    /// How many records the log keeps. Default: 50 000. A socket that lags behind the start of the log is closed with 1013.
    pub fn max_log_records(mut self, records: usize) -> Self {
        self.config.log.records = records;
        self
    }

    /// How many bytes the log takes, including the overhead of each record. Default: 32 MiB. Free bytes cache the replays
    /// of returning pages, so that a replay is made once for all of them. Records are never dropped for the cache.
    pub fn max_log_bytes(mut self, bytes: usize) -> Self {
        self.config.log.bytes = bytes;
        self
    }

    /// How long the log keeps a record. Default: one hour.
    pub fn log_retention(mut self, age: Duration) -> Self {
        self.config.log.age = age;
        self
    }

    /// How many tombstones, the ids of deleted objects, the log keeps beyond its records. Default: 100 000.
    pub fn max_tombstones(mut self, ids: usize) -> Self {
        self.config.log.tombstones = ids;
        self
    }

    /// How long the log keeps a tombstone. Default: one day.
    pub fn tombstone_retention(mut self, time: Duration) -> Self {
        self.config.log.tombstone_age = time;
        self
    }

    /// How many sessions, the acknowledged positions of pages, are kept. Default: 100 000. Beyond that, the sessions whose
    /// pages have been away longest are dropped first. A returning page without a session is replayed everything since its
    /// handshake.
    pub fn max_sessions(mut self, sessions: usize) -> Self {
        self.config.sessions.sessions = sessions;
        self
    }

    /// How long a session is kept after its page has disconnected. Default: one hour.
    pub fn session_retention(mut self, age: Duration) -> Self {
        self.config.sessions.age = age;
        self
    }

    /// Keeps the log across a restart: [`shutdown`](crate::LiveUpdates::shutdown) writes it to this file, and the next
    /// process reads it in [`build`](LiveUpdatesBuilder::build). So pages that return after a deploy receive only what they
    /// missed. Default: none, and each process starts with an empty log.
    ///
    /// The file holds data of the application: the log with its tombstones, the position of each page, and the secrets that
    /// mask positions in keys. Only its owner can read and write it (mode 0600 on Unix). It is about as large as the log
    /// ([`max_log_bytes`](Self::max_log_bytes)) and its tombstones. A file of more than four times that, 1 KiB for each
    /// session, and 16 MiB is not read. The file is replaced in one step: a temporary file beside it is renamed, so the
    /// folder must exist and be writable.
    ///
    /// - **One process uses a file at a time**, and ends with `shutdown` or
    ///   [`shutdown_on_signals`](crate::LiveUpdates::shutdown_on_signals). In a container, the file belongs on a volume that
    ///   outlives the container.
    /// - While a process runs, the file holds a claim instead of a log. So a process that crashes leaves no log. The next
    ///   process starts with an empty one, and pages are sent a snapshot, as without a file.
    /// - If deploys overlap, the newer process finds a claim and starts with an empty log. The older one writes nothing, and
    ///   a line in the log (WARN) says so. To keep the history, stop the old process before the new one starts.
    /// - HTTP goes on during `shutdown`. A write that starts after the file was written first takes the log out of the file.
    ///   When the last such write has ended, the log is written again, on the runtime's blocking threads. So let the runtime
    ///   end, and do not call `std::process::exit`.
    /// - A file that is damaged, of another release of this crate, or not a log file is ignored: a line in the log (WARN)
    ///   names path, reason and remedy. An entity that is new, or configured differently, starts with an empty log.
    /// - The store must outlive the process, too. If it is restored from a backup, remove the file, or call
    ///   [`refresh`](crate::LiveUpdates::refresh).
    ///
    /// ```no_run
    /// use tower_live_updates::{Entity, LiveUpdates};
    ///
    /// let live = LiveUpdates::builder("/api/v1")
    ///     .tokens(["a-long-random-token"])
    ///     .entity(Entity::scheduler("/events"))
    ///     .log_file("/var/lib/calendar/live-updates.log")
    ///     .build()?;
    /// # Ok::<(), tower_live_updates::ConfigError>(())
    /// ```
    pub fn log_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.config.log_file = Some(path.into());
        self
    }
}
