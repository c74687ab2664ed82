//! Setters: what is broadcast, and when it is replayed and resent.

use std::time::Duration;

use super::config::{LiveUpdatesBuilder, within_a_year};
use crate::hub::Delivery;

impl<A> LiveUpdatesBuilder<A> {
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
