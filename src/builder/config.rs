//! The builder's state, the defaults, and the checks of single settings and of settings against each other.

use std::{fmt, path::PathBuf, time::Duration};

use crate::{
    auth::{AuthBackend, GateLimits},
    calls::{CallLimits, Method},
    connection::ConnectionLimits,
    endpoint::{EndpointLimits, PageData, key::Seal, origin::Origins},
    entity::Entity,
    error::ConfigError,
    hub::{Delivery, DeliveryTimes, LogLimits, MAX_REMINDERS, Pace, ReminderTimes, SessionLimits, SettleTimes},
    path_check::endpoint_fault,
    rate::Rate,
    revalidation::RevalidationKeeps,
    watch::watcher::WatchLimits,
};

const HOUR: Duration = Duration::from_secs(3600);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// Pings and pongs that a page may send besides its messages. Browsers send only pongs.
pub(super) const CONTROL_FRAMES: Rate = Rate { burst: 40, per_second: 10 };

/// Bounds a time, since some clocks overflow when a very long time is added.
pub(super) fn within_a_year(time: Duration) -> Duration {
    time.min(YEAR)
}

/// A [`LiveUpdatesBuilder`] without authentication, which cannot be built yet.
#[derive(Debug)]
pub struct WantsAuth(pub(super) ());

/// A [`LiveUpdatesBuilder`] with authentication, which can be built.
pub struct HasAuth(pub(super) Result<AuthBackend, ConfigError>);

impl fmt::Debug for HasAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HasAuth")
    }
}

/// Configures a [`LiveUpdates`](crate::LiveUpdates). [`LiveUpdates::builder`](crate::LiveUpdates::builder) creates one.
///
/// `build()` exists only after one of these calls, which decide who may connect:
/// [`authenticate`](LiveUpdatesBuilder::authenticate), [`authenticate_fn`](LiveUpdatesBuilder::authenticate_fn),
/// [`tokens`](LiveUpdatesBuilder::tokens) or [`allow_anonymous`](LiveUpdatesBuilder::allow_anonymous).
///
/// ```compile_fail
/// use tower_live_updates::{Entity, LiveUpdates};
///
/// let live = LiveUpdates::builder("/api/v1").entity(Entity::scheduler("/events")).build();
/// ```
///
/// ```
/// use tower_live_updates::{Entity, LiveUpdates};
///
/// let live = LiveUpdates::builder("/api/v1")
///     .tokens(["a-long-random-token"])
///     .entity(Entity::scheduler("/events"))
///     .build()?;
/// # Ok::<(), tower_live_updates::ConfigError>(())
/// ```
///
/// Every limit has a default that suits most applications. To change some:
///
/// ```
/// use std::time::Duration;
/// use tower_live_updates::{Entity, LiveUpdates};
///
/// let live = LiveUpdates::builder("/api/v1")
///     .tokens(["a-long-random-token"])
///     .entity(Entity::scheduler("/events"))
///     .max_body_bytes(2 * 1024 * 1024)
///     .max_connections(5_000)
///     .max_log_records(10_000)
///     .drain_timeout(Duration::from_secs(2))
///     .build()?;
/// # Ok::<(), tower_live_updates::ConfigError>(())
/// ```
///
/// [`build`](LiveUpdatesBuilder::build) returns [`ConfigError::Zero`](crate::ConfigError::Zero) for a zero where
/// nothing could work:
///
/// - numbers and sizes: `max_connections`, `max_connections_per_principal`, `max_subscriptions`, both numbers of
///   `max_message_rate`, `max_message_bytes`, `max_call_bytes`, both numbers of `max_call_rate`,
///   `max_concurrent_calls`, `max_waiting_calls`, `max_call_memory`, `max_body_bytes`, `max_concurrent_authentications`, `max_log_records`,
///   `max_log_bytes`;
/// - times: `ping_interval`, `pong_timeout`, `write_timeout`, `hook_timeout`, `revalidation_interval`,
///   `sealed_key_lifetime`, `log_retention`, `settle_max_wait`, and each wait of `deletion_reminders`.
#[derive(Debug)]
#[must_use = "a builder does nothing until it is built"]
pub struct LiveUpdatesBuilder<A = WantsAuth> {
    pub(super) config: Config,
    pub(super) auth: A,
}

/// What the setters have set so far.
#[derive(Debug)]
pub(super) struct Config {
    pub(super) path: String,
    pub(super) entities: Vec<Entity>,
    pub(super) methods: Vec<(String, Method)>,
    pub(super) data: Option<PageData>,
    pub(super) calls: CallLimits,
    pub(super) origins: Origins,
    pub(super) seal: Option<Result<Seal, ConfigError>>,
    pub(super) gate: GateLimits,
    pub(super) endpoint: EndpointLimits,
    pub(super) watch: WatchLimits,
    pub(super) connection: ConnectionLimits,
    pub(super) delivery: Delivery,
    pub(super) times: DeliveryTimes,
    pub(super) deletion_reminders: Option<Vec<Duration>>,
    pub(super) log: LogLimits,
    pub(super) log_file: Option<PathBuf>,
    pub(super) sessions: SessionLimits,
    pub(super) drain_timeout: Duration,
    pub(super) audit: bool,
}

impl Config {
    pub(super) fn new(path: String) -> Self {
        Self {
            path,
            entities: Vec::new(),
            methods: Vec::new(),
            data: None,
            calls: CallLimits {
                bytes: 64 * 1024,
                rate: Rate { burst: 100, per_second: 20 },
                waiting: 100,
                concurrent: 8,
                memory: 32 * 1024 * 1024,
            },
            origins: Origins::default(),
            seal: None,
            gate: GateLimits { concurrent: 128, queue_timeout: Duration::from_secs(10) },
            endpoint: EndpointLimits {
                delayed_refusals: 1024,
                refusal_delay: Duration::from_secs(20),
                sealed_key_lifetime: 12 * HOUR,
                revalidation: RevalidationKeeps::default(),
            },
            watch: WatchLimits {
                body_bytes: 1024 * 1024,
                response_time: Duration::from_secs(5),
                write_lock: Duration::from_secs(5),
                hook: Duration::from_secs(5),
                detached: 1024,
            },
            connection: ConnectionLimits {
                connections: 50_000,
                of_principal: None,
                subscriptions: 32,
                messages: Rate { burst: 1000, per_second: 100 },
                control_frames: CONTROL_FRAMES,
                revalidation_interval: Duration::from_secs(5 * 60),
                ping_interval: Duration::from_secs(25),
                pong_timeout: Duration::from_secs(75),
                write_timeout: Duration::from_secs(10),
                presence_timeout: Duration::from_secs(5),
                message_bytes: 4 * 1024,
            },
            delivery: Delivery::default(),
            times: DeliveryTimes {
                settle: SettleTimes {
                    quiet: Duration::from_secs(2),
                    overlap: Duration::from_secs(4),
                    longest: Duration::from_secs(30),
                    hold: Duration::from_millis(1500),
                },
                second_replay_delay: Duration::from_secs(5),
                replay_overlap: Duration::from_secs(5),
                first_load: Duration::from_secs(60),
                acknowledge_every: Duration::from_secs(15),
                reminders: ReminderTimes::doubling(Duration::from_secs(30), 5),
                pace: Pace::DEFAULT,
            },
            deletion_reminders: None,
            log: LogLimits {
                records: 50_000,
                bytes: 32 * 1024 * 1024,
                age: HOUR,
                tombstones: 100_000,
                tombstone_age: 24 * HOUR,
                object_bytes: 0,
            },
            log_file: None,
            sessions: SessionLimits { sessions: 100_000, age: HOUR },
            drain_timeout: Duration::from_secs(5),
            audit: false,
        }
    }

    pub(super) fn validate(&mut self) -> Result<(), ConfigError> {
        if endpoint_fault(&self.path).is_some() {
            return Err(ConfigError::EndpointPath(self.path.clone()));
        }
        let Self { connection, watch, gate, endpoint, log, times, calls, .. } = self;
        let zero = [
            ("max_connections", connection.connections == 0),
            ("max_connections_per_principal", connection.of_principal == Some(0)),
            ("max_subscriptions", connection.subscriptions == 0),
            ("max_message_rate", connection.messages.burst == 0 || connection.messages.per_second == 0),
            ("max_concurrent_authentications", gate.concurrent == 0),
            ("max_message_bytes", connection.message_bytes == 0),
            ("max_call_bytes", calls.bytes == 0),
            ("max_call_rate", calls.rate.burst == 0 || calls.rate.per_second == 0),
            ("max_concurrent_calls", calls.concurrent == 0),
            ("max_waiting_calls", calls.waiting == 0),
            ("max_call_memory", calls.memory == 0),
            ("max_body_bytes", watch.body_bytes == 0),
            ("ping_interval", connection.ping_interval.is_zero()),
            ("pong_timeout", connection.pong_timeout.is_zero()),
            ("write_timeout", connection.write_timeout.is_zero()),
            ("hook_timeout", watch.hook.is_zero()),
            ("sealed_key_lifetime", endpoint.sealed_key_lifetime.is_zero()),
            ("revalidation_interval", connection.revalidation_interval.is_zero()),
            ("max_log_records", log.records == 0),
            ("max_log_bytes", log.bytes == 0),
            ("log_retention", log.age.is_zero()),
            ("deletion_reminders", self.deletion_reminders.iter().flatten().any(Duration::is_zero)),
            ("settle_max_wait", times.settle.longest.is_zero()),
        ];
        if let Some((what, _)) = zero.into_iter().find(|(_, is_zero)| *is_zero) {
            return Err(ConfigError::Zero(what));
        }
        if let Some(waits) = &self.deletion_reminders {
            times.reminders = ReminderTimes::new(waits)
                .ok_or(ConfigError::TooManyReminders { given: waits.len(), most: MAX_REMINDERS })?;
        }
        let settle = times.settle;
        if settle.overlap < settle.quiet {
            return Err(ConfigError::SettleOverlap { settle_overlap: settle.overlap, settle_quiet: settle.quiet });
        }
        let (ping, pong) = (connection.ping_interval, connection.pong_timeout);
        if pong <= ping {
            return Err(ConfigError::PongTimeout { pong_timeout: pong, ping_interval: ping });
        }
        if self.entities.len() > usize::from(u16::MAX) {
            return Err(ConfigError::TooManyEntities(self.entities.len()));
        }
        for (at, entity) in self.entities.iter().enumerate() {
            entity.validate()?;
            if self.entities[..at].iter().any(|earlier| earlier.name == entity.name) {
                return Err(ConfigError::DuplicateEntity(entity.name.clone()));
            }
        }
        if self.log_file.is_some() && self.delivery == Delivery::Plain {
            return Err(ConfigError::LogFileWithPlain);
        }
        Ok(())
    }
}
