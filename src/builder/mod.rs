//! Configuration, and the assembly of all parts in [`build`](LiveUpdatesBuilder::build).

mod auth;
mod calls;
mod config;
mod presence;
mod settings;

use std::{sync::Arc, time::Duration};

use self::config::{CONTROL_FRAMES, Config};
pub use self::config::{HasAuth, LiveUpdatesBuilder, WantsAuth};
use crate::{
    auth::AuthGate,
    calls::{Calls, Methods},
    connection::{ConnectionLimits, Connections},
    diagnosis::Diagnosis,
    endpoint::Endpoint,
    entity::{Entity, View},
    epoch::Epoch,
    error::ConfigError,
    handle::{LiveUpdates, Shared},
    hub::{EntityEncoder, Hub, LogLimits, SessionLimits},
    log_file::LogFile,
    observe::Observer,
    path_check::covers,
    publish::Publisher,
    rate::Rate,
    shutdown::Lifecycle,
    watch::{route::Routes, watcher::Watcher},
};

/// What an object may have beyond a request's body: its id, for example.
const BEYOND_BODY: usize = 4 * 1024;

/// As many as messages, and the pongs to the server's own pings.
fn control_frames(messages: Rate, pings: [Duration; 2]) -> Rate {
    let answers = pings.map(|every| every.as_secs_f64().recip().ceil() as u32);
    let per_second = messages.per_second.max(CONTROL_FRAMES.per_second);
    Rate {
        burst: messages.burst.max(CONTROL_FRAMES.burst),
        per_second: answers.into_iter().fold(per_second, u32::saturating_add),
    }
}

/// A larger file cannot hold a log within these limits.
fn max_file_bytes(log: &LogLimits, sessions: &SessionLimits) -> u64 {
    const RESERVE: u64 = 16 * 1024 * 1024;
    const OF_SESSION: u64 = 1024;
    let of_log = u64::try_from(log.bytes).unwrap_or(u64::MAX).saturating_mul(4);
    let of_sessions = u64::try_from(sessions.sessions).unwrap_or(u64::MAX).saturating_mul(OF_SESSION);
    of_log.saturating_add(of_sessions).saturating_add(RESERVE)
}

impl LiveUpdates {
    /// Starts the configuration of live updates whose endpoint is at `path`: the first argument of the page's
    /// `new RemoteEvents("/api/v1", token)`.
    pub fn builder(path: impl Into<String>) -> LiveUpdatesBuilder {
        LiveUpdatesBuilder { config: Config::new(path.into()), auth: WantsAuth(()) }
    }
}

impl<A> LiveUpdatesBuilder<A> {
    /// Adds an entity that pages can subscribe to; see [`Entity`].
    pub fn entity(mut self, entity: Entity) -> Self {
        self.config.entities.push(entity);
        self
    }
}

impl LiveUpdatesBuilder<HasAuth> {
    /// Checks the configuration and builds the handle. Needs no runtime: tasks start with the first socket.
    ///
    /// # Errors
    /// [`ConfigError`] names the first value that cannot work.
    pub fn build(mut self) -> Result<LiveUpdates, ConfigError> {
        self.config.validate()?;
        let Config { path, entities, watch, times, sessions, .. } = self.config;
        let (backend, seal) = (self.auth.0?, self.config.seal.transpose()?);
        let log = LogLimits { object_bytes: watch.body_bytes.saturating_add(BEYOND_BODY), ..self.config.log };
        let origins = self.config.origins.validated()?;
        let routes = Routes::new(&entities)?;
        let (has_methods, methods) = (!self.config.methods.is_empty(), Methods::new(self.config.methods)?);
        for entity in &entities {
            if let Some(route) = entity.paths().find(|route| covers(route, &path)) {
                let (entity, route) = (entity.name.clone(), route.to_owned());
                return Err(ConfigError::EndpointConflict { endpoint: path, entity, route });
            }
        }

        let encoders = entities.iter().map(|entity| EntityEncoder {
            widget: entity.widget,
            parent_keys: entity.parent_keys(),
            order_key: entity.order_key.clone(),
            has_snapshot: entity.snapshot.is_some(),
            is_scoped: entity.scoping.is_some(),
            scoped_ids: entity.scoping.as_ref().is_some_and(|scoping| scoping.scoped_ids),
            view: View::of(entity.visible.as_ref(), entity.project.as_ref()),
            is_presence: entity.presence.is_some(),
            skips_writer: entity.skips_writer,
            ..EntityEncoder::new(&entity.name, &entity.payload_key)
        });
        let mut hub = Hub::new(self.config.delivery, encoders.collect(), log, times, sessions, self.config.audit);
        let bare = if path == "/" { String::new() } else { path.trim_end_matches('/').to_owned() };
        let observer = Arc::new(Observer::default());
        let epoch = match self.config.log_file {
            None => Epoch::new(),
            Some(path) => {
                let (file, found) = LogFile::open(&path, max_file_bytes(&log, &sessions))
                    .map_err(|source| ConfigError::LogFile { path, source })?;
                hub.keep_in(file, found, observer.clone())
            }
        };
        let publisher = Publisher {
            hub: Arc::new(hub),
            diagnosis: Arc::new(Diagnosis::new(&bare, &entities, observer.clone())),
            entities: entities.into(),
            observer: observer.clone(),
        };
        let lifecycle = Arc::new(Lifecycle { drain: self.config.drain_timeout, ..Lifecycle::default() });
        let gate = AuthGate::new(backend, self.config.gate, watch.hook, observer);
        let pings = [self.config.connection.ping_interval, times.acknowledge_every];
        let control_frames = control_frames(self.config.connection.messages, pings);
        let connection = ConnectionLimits { control_frames, ..self.config.connection };
        let calls = has_methods.then(|| {
            Arc::new(Calls::new(methods, self.config.calls, watch.hook, lifecycle.clone(), publisher.observer.clone()))
        });
        let connections =
            Arc::new(Connections::new(publisher.clone(), connection, watch.hook, gate, lifecycle.clone(), calls));
        let owners = epoch.owners;
        let endpoint = Endpoint::new(bare, origins, seal, self.config.endpoint, connections.clone(), epoch)
            .with_data(self.config.data);
        let watcher = Watcher::new(publisher.clone(), routes, watch, lifecycle, owners);
        let (watcher, endpoint) = (Arc::new(watcher), Arc::new(endpoint));
        Ok(LiveUpdates { shared: Arc::new(Shared { publisher, watcher, endpoint, connections }) })
    }
}
