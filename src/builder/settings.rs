//! Setters: the limits of requests, sockets and refusals, how much history is kept, the log file, and how changes are
//! delivered.

use std::{path::PathBuf, time::Duration};

use tokio::sync::Semaphore;

use super::config::{LiveUpdatesBuilder, within_a_year};
use crate::{hub::Delivery, rate::Rate};

impl<A> LiveUpdatesBuilder<A> {
    /// Largest request body, and largest response body, that the layer reads, each. Default: 1 MiB. A larger body passes
    /// unread, and the change is derived from the other one.
    ///
    /// This also bounds objects. An object of more than this and 4 KiB as JSON is not broadcast, with a line in the log.
    /// Fields of earlier changes that would exceed the bound are left out of an update.
    pub fn max_body_bytes(mut self, bytes: usize) -> Self {
        self.config.watch.body_bytes = bytes;
        self
    }

    /// How long the layer waits for a complete response before it passes the response on as it arrives. Default: 5 s.
    pub fn response_timeout(mut self, time: Duration) -> Self {
        self.config.watch.response_time = time;
        self
    }

    /// How long a write waits for an earlier write of the same object. Default: 5 s. After that the write proceeds, and is
    /// counted in [`Stats::write_lock_timeouts`](crate::Stats::write_lock_timeouts). Writes whose bodies have arrived go
    /// before those without a body, and deletions without a body do not wait for each other.
    pub fn write_lock_timeout(mut self, time: Duration) -> Self {
        self.config.watch.write_lock = time;
        self
    }

    /// How long one call of an application's hook may take. Default: 5 s. A longer call counts as failed, in
    /// [`Stats::hooks_failed`](crate::Stats::hooks_failed).
    pub fn hook_timeout(mut self, time: Duration) -> Self {
        self.config.watch.hook = time;
        self
    }

    /// How many writes may run to completion at one time after their client has disconnected or an outer timeout has
    /// fired. Default: 1 024; 0 switches this off. Writes beyond that are cancelled with their clients and counted in
    /// [`Stats::writes_dropped`](crate::Stats::writes_dropped). A write whose handler waits for the rest of its request's
    /// body is cancelled after it has waited for 5 s.
    pub fn max_detached_writes(mut self, writes: usize) -> Self {
        self.config.watch.detached = writes.min(Semaphore::MAX_PERMITS);
        self
    }

    /// How many sockets may be open at one time. Default: 50 000. One more is refused with 503 after a random delay, which
    /// spreads clients that retry every two seconds. It is counted in
    /// [`Stats::sockets_refused`](crate::Stats::sockets_refused).
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.config.connection.connections = connections.min(Semaphore::MAX_PERMITS);
        self
    }

    /// How many sockets of one [principal](crate::Identity::principal) may be open at one time. Default: no limit. One more
    /// is refused as with [`max_connections`](Self::max_connections).
    ///
    /// Every tab of a user is a socket, and a socket that has lost its network may keep its permit for the
    /// [`pong_timeout`](Self::pong_timeout). So allow for more than you expect. With
    /// [`allow_anonymous`](LiveUpdatesBuilder::allow_anonymous) all pages are one principal.
    pub fn max_connections_per_principal(mut self, connections: usize) -> Self {
        self.config.connection.of_principal = Some(connections);
        self
    }

    /// How many entities a page may subscribe to on its socket, `$resync` among them. Default: 32. A subscription beyond
    /// that is ignored, logged, and counted in [`Stats::subscriptions_refused`](crate::Stats::subscriptions_refused).
    pub fn max_subscriptions(mut self, subscriptions: usize) -> Self {
        self.config.connection.subscriptions = subscriptions;
        self
    }

    /// How many messages a page may send on its socket: `burst` at once, and `per_second` on average. Default: 1000 and
    /// 100.
    ///
    /// A page that sends faster is read at this rate, and TCP makes it wait. A page that has more to send for 30 s without
    /// a pause is closed with 1008 `Too many messages`, and counted in
    /// [`Stats::sockets_closed_rate_limited`](crate::Stats::sockets_closed_rate_limited).
    ///
    /// - Each fragment of a message counts as a message, even an empty one.
    /// - A page sends one message for each entity it subscribes to, all at once. So `burst` must not be less than that.
    /// - Pings and pongs have a bucket of their own: 40 at once and 10 per second, or as many as messages if that is more,
    ///   and the answers to the server's own pings.
    /// - What arrives byte by byte may take as many reads as messages of
    ///   [`max_message_bytes`](Self::max_message_bytes) take.
    pub fn max_message_rate(mut self, burst: u32, per_second: u32) -> Self {
        self.config.connection.messages = Rate { burst, per_second };
        self
    }

    /// How many refused sockets are delayed at one time. Default: 1 024. Beyond that, sockets are refused at once (403 or
    /// 503).
    pub fn max_delayed_refusals(mut self, refusals: usize) -> Self {
        self.config.endpoint.delayed_refusals = refusals.min(Semaphore::MAX_PERMITS);
        self
    }

    /// Longest delay of a refusal for a temporary reason (too many sockets, authentication unavailable). Default: 20 s.
    /// Each refusal waits a random part of it. The stock client retries every two seconds and never gives up.
    pub fn refusal_delay(mut self, time: Duration) -> Self {
        self.config.endpoint.refusal_delay = time;
        self
    }

    /// How often a socket is pinged. Default: 25 s, since proxies close sockets that are idle for 60 s; at most a year.
    pub fn ping_interval(mut self, time: Duration) -> Self {
        self.config.connection.ping_interval = within_a_year(time);
        self
    }

    /// How long a socket may send nothing, not even a pong, before its next ping closes it instead. Default: 75 s. It must
    /// be longer than [`ping_interval`](Self::ping_interval). A busy or frozen tab stops answering although it is healthy,
    /// so shorter is not better. A socket that is closed is counted in
    /// [`Stats::sockets_closed_idle`](crate::Stats::sockets_closed_idle).
    pub fn pong_timeout(mut self, time: Duration) -> Self {
        self.config.connection.pong_timeout = time;
        self
    }

    /// How long a write to a socket may make no progress before the socket is closed with 1013. Default: 10 s; at most a
    /// year. A socket that lags behind the log is closed at once if it still has to read more than 256 kB of records that
    /// the log has dropped. Both are counted in [`Stats::sockets_closed_slow`](crate::Stats::sockets_closed_slow).
    pub fn write_timeout(mut self, time: Duration) -> Self {
        self.config.connection.write_timeout = within_a_year(time);
        self
    }

    /// Largest message that is read from a page. Default: 4 KiB. A larger one closes the socket with 1009.
    pub fn max_message_bytes(mut self, bytes: usize) -> Self {
        self.config.connection.message_bytes = bytes;
        self
    }

    /// How long [`shutdown`](crate::LiveUpdates::shutdown) takes at most. Default: 5 s; at most a year. Up to 32 sockets are
    /// closed at once; more are spread over half of this time.
    pub fn drain_timeout(mut self, time: Duration) -> Self {
        self.config.drain_timeout = within_a_year(time);
        self
    }

    /// How many records the log keeps. Default: 50 000. A socket that lags behind the start of the log is closed with
    /// 1013 and counted in [`Stats::sockets_closed_slow`](crate::Stats::sockets_closed_slow).
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
    ///   logs a line (WARN). To keep the history, stop the old process before the new one starts.
    /// - HTTP goes on during `shutdown`. A write that starts after the file was written first takes the log out of the file.
    ///   When the last such write has ended, the log is written again, on the runtime's blocking threads. So let the runtime
    ///   end, and do not call `std::process::exit`.
    /// - A file that is damaged, of another release of this crate, or not a log file is ignored: a line in the log (WARN)
    ///   names path, reason and remedy. An entity that is new, or configured differently, starts with an empty log.
    /// - The store must outlive the process, too. If it is restored from a backup, remove the file, or call
    ///   [`refresh`](crate::LiveUpdates::refresh).
    /// - `build` returns [`ConfigError::LogFile`](crate::ConfigError::LogFile) if the folder does not exist or cannot
    ///   be written, or if the file cannot be read.
    /// - With [`Delivery::Plain`] there is no history to keep, and `build` returns
    ///   [`ConfigError::LogFileWithPlain`](crate::ConfigError::LogFileWithPlain).
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

    /// What pages are guaranteed. Default: [`Delivery::Converging`]; [`Delivery`] has an example.
    pub fn delivery(mut self, delivery: Delivery) -> Self {
        self.config.delivery = delivery;
        self
    }

    /// How long an entity's writes must pause before the objects they changed are resent. Default: 2 s; at most a year.
    ///
    /// The stock client ignores updates to an object while it saves that object itself. So after writes that overlapped
    /// ([`settle_overlap`](Self::settle_overlap)), each object they changed is resent in its latest state: as an update, and
    /// as an add before it if some page may lack the object. This is a debounced repeat. While the writes never pause, it
    /// happens every [`settle_max_wait`](Self::settle_max_wait).
    pub fn settle_quiet(mut self, time: Duration) -> Self {
        self.config.times.settle.quiet = within_a_year(time);
        self
    }

    /// Writes closer together than this count as overlapping and are resent. Default: 4 s; at most a year. It must not be
    /// shorter than [`settle_quiet`](Self::settle_quiet), and should exceed the round trip of a save.
    pub fn settle_overlap(mut self, time: Duration) -> Self {
        self.config.times.settle.overlap = within_a_year(time);
        self
    }

    /// How often changes are resent while writes never pause. Default: 30 s; at most a year.
    ///
    /// Each change is resent a last time at ten to twenty times this age. So the log should hold that much. With a shorter
    /// log, pages that return before a pause are sent a snapshot, as after a long absence.
    pub fn settle_max_wait(mut self, time: Duration) -> Self {
        self.config.times.settle.longest = within_a_year(time);
        self
    }

    /// How long after the answer to its write a change of the Gantt's tree is broadcast: a new task or link, another parent,
    /// the deletion of a task. Default: 1.5 s; at most a year.
    ///
    /// It should exceed the time that answers take to reach the pages. The stock client cannot tell its own new task or link
    /// from another page's before the answer to its save has come, and stops at a task that two pages move below each other.
    /// Pages with another token than the writer's `Remote-Token` receive new tasks and links at once. Changes of other
    /// fields are never held.
    pub fn tree_delay(mut self, time: Duration) -> Self {
        self.config.times.settle.hold = within_a_year(time);
        self
    }

    /// How far before its handshake the replay of a loaded page starts. Default: 60 s; at most a year. The page's list may
    /// be that old when the handshake arrives. Pages that create their `RemoteEvents` long after they were loaded need more.
    pub fn first_load_margin(mut self, time: Duration) -> Self {
        self.config.times.first_load = within_a_year(time);
        self
    }

    /// How long after the first replay, of a page that was loaded or has returned, the replay is repeated. Default: 5 s; at
    /// most a year. A list response that arrives after the first replay overwrites it.
    pub fn second_replay_delay(mut self, time: Duration) -> Self {
        self.config.times.second_replay_delay = within_a_year(time);
        self
    }

    /// How far before its last acknowledged position the replay of a returning page starts. Default: 5 s; at most a year.
    /// The overlap covers proxies that answer pings themselves.
    pub fn replay_overlap(mut self, time: Duration) -> Self {
        self.config.times.replay_overlap = within_a_year(time);
        self
    }

    /// How often a ping is sent with a broadcast, at most. Default: 15 s; at most a year. The pong acknowledges everything
    /// before the ping.
    pub fn acknowledge_interval(mut self, time: Duration) -> Self {
        self.config.times.acknowledge_every = within_a_year(time);
        self
    }

    /// When deletions are resent, as the waits between one time and the next. Default: after 30 s, then after 1, 2, 4 and 8
    /// minutes. At most 8 waits; none switches reminders off. A deletion that is also resent because writes overlapped
    /// skips the second and the fourth.
    ///
    /// The Scheduler cannot apply a deletion while the event's form is open. A form that stays open for longer than all the
    /// waits together leaves the event on its page until the page is reloaded. The same reminders cover objects that leave a
    /// page's visibility, at most 512 for each page at one time. One page is sent at most 1 MiB of reminders at one time;
    /// beyond that the oldest are left out.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_live_updates::{Entity, LiveUpdates};
    ///
    /// let live = LiveUpdates::builder("/api/v1")
    ///     .allow_anonymous()
    ///     .entity(Entity::scheduler("/events"))
    ///     .deletion_reminders([30, 60, 300].map(Duration::from_secs))
    ///     .build()?;
    /// # Ok::<(), tower_live_updates::ConfigError>(())
    /// ```
    pub fn deletion_reminders(mut self, waits: impl IntoIterator<Item = Duration>) -> Self {
        self.config.deletion_reminders = Some(waits.into_iter().map(within_a_year).collect());
        self
    }

    /// Writes an audit: at the `tracing` target `tower_live_updates::audit` and level INFO, one line for each change, and
    /// one line for each recipient of each change. Default: off, because one write to 500 pages makes 501 lines.
    /// [Audit](crate::LiveUpdates#audit) describes the lines. Without the feature `tracing` it has no effect.
    ///
    /// ```
    /// use tower_live_updates::{Entity, LiveUpdates};
    ///
    /// let live = LiveUpdates::builder("/api/v1")
    ///     .tokens(["a-long-random-token"])
    ///     .entity(Entity::scheduler("/events"))
    ///     .audit()
    ///     .build()?;
    /// # Ok::<(), tower_live_updates::ConfigError>(())
    /// ```
    pub fn audit(mut self) -> Self {
        self.config.audit = true;
        self
    }
}
