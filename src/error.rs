//! The public errors. Each names what is wrong and the remedy.

use std::{borrow::Cow, error::Error, fmt, io, path::PathBuf, time::Duration};

use crate::{origin_check::origin_fault, path_check::endpoint_fault};

/// Configuration that cannot work, returned by `build()`. It names the value and what to write instead.
///
/// `Debug` writes the same text as `Display`: a `main` that returns `Result<(), Box<dyn Error>>` prints errors by `Debug`.
///
/// ```
/// use tower_live_updates::{ConfigError, Entity, LiveUpdates};
///
/// let error = LiveUpdates::builder("/api/v1")
///     .allow_anonymous()
///     .entity(Entity::scheduler("events"))
///     .build()
///     .unwrap_err();
/// assert!(matches!(error, ConfigError::RoutePath { .. }));
/// assert!(error.to_string().contains("\"events\""));
/// ```
#[non_exhaustive]
pub enum ConfigError {
    /// No request can have the endpoint's path. It must start with `/` and must not hold a query, a fragment, a parameter or
    /// white space.
    EndpointPath(String),
    /// The endpoint would answer requests of an entity's route.
    EndpointConflict {
        /// The endpoint's path as it was given.
        endpoint: String,
        /// The entity whose route it is.
        entity: String,
        /// The path of that route.
        route: String,
    },
    /// No request can have a route's path, or the router does not understand its pattern. A pattern is written
    /// `/events/{id}`.
    RoutePath {
        /// The entity the route belongs to.
        entity: String,
        /// The path as it was given.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A route that updates or deletes lacks the parameter `{id}`.
    RouteWithoutId {
        /// The entity the route belongs to.
        entity: String,
        /// The path as it was given.
        path: String,
    },
    /// Two routes have the same method and path.
    RouteConflict {
        /// The entity of the second route.
        entity: String,
        /// The method of both.
        method: http::Method,
        /// The path of both.
        path: String,
    },
    /// An entity's name or payload key is empty, longer than 64 bytes, starts with `$` or `/`, or has white space at its
    /// ends.
    Name(String),
    /// Two entities have the same name.
    DuplicateEntity(String),
    /// There are more than 65 535 entities.
    TooManyEntities(usize),
    /// A JSON pointer is not empty and does not start with `/`.
    Pointer {
        /// The entity the pointer belongs to.
        entity: String,
        /// The pointer as it was given.
        pointer: String,
    },
    /// The entity is scoped, so its load hook needs the scopes: use `load_scoped` instead of `load`.
    LoadWithoutScopes(String),
    /// The entity has routes and a `visible` or `project` hook, which must see whole rows: add a load hook.
    ViewWithoutLoad(String),
    /// No route of the entity has the parameter of `scope_param`.
    ScopeParam {
        /// The entity.
        entity: String,
        /// The parameter as it was given.
        param: String,
    },
    /// An origin is not `scheme://host` or `scheme://host:port`, as browsers send it.
    Origin(String),
    /// A token list is empty, or holds an empty token.
    Token,
    /// A token list holds a token that no page can send. The error does not contain the token, which is secret.
    UnsendableToken {
        /// Its position in the list, from 1.
        place: usize,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The list of `sealed_keys` is empty, or one of its secrets is shorter than 32 bytes.
    SealedKeySecret,
    /// The setting of this name must not be zero.
    Zero(&'static str),
    /// `pong_timeout` is not longer than `ping_interval`: every socket would be closed before it could answer a second ping.
    PongTimeout {
        /// The timeout as it was given.
        pong_timeout: Duration,
        /// The interval it must be longer than.
        ping_interval: Duration,
    },
    /// `settle_overlap` is shorter than `settle_quiet`.
    SettleOverlap {
        /// The overlap as it was given.
        settle_overlap: Duration,
        /// The quiet time it must not be shorter than.
        settle_quiet: Duration,
    },
    /// There are too many `deletion_reminders`.
    TooManyReminders {
        /// How many were given.
        given: usize,
        /// How many are allowed.
        most: usize,
    },
    /// No entity of this name is configured, so it cannot be watched.
    UnknownEntity(String),
    /// The [log file](crate::LiveUpdatesBuilder::log_file) cannot be read or written: its folder must exist and be writable.
    LogFile {
        /// The path as it was given.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// A log file was set with [`Delivery::Plain`](crate::Delivery::Plain), which has no history to keep.
    LogFileWithPlain,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EndpointPath(path) => {
                let reason = endpoint_fault(path).unwrap_or_default();
                write!(f, "endpoint path {path:?} cannot be used: {reason}")
            }
            Self::EndpointConflict { endpoint, entity, route } => write!(
                f,
                "endpoint path {endpoint:?} would answer requests of entity {entity:?} (route {route:?}); give the \
                 endpoint another path, \"/api/v1\" for example, and the page's RemoteEvents the same"
            ),
            Self::RoutePath { entity, path, reason } => {
                write!(f, "entity {entity:?}: route path {path:?} cannot be used: {reason}")
            }
            Self::RouteWithoutId { entity, path } => write!(
                f,
                "entity {entity:?}: route {path:?} updates or deletes, so it must name the id: \"{path}/{{id}}\""
            ),
            Self::RouteConflict { entity, method, path } => {
                write!(f, "entity {entity:?}: {method} {path:?} is claimed twice; give each route a path of its own")
            }
            Self::Name(name) => {
                write!(
                    f,
                    "entity name or payload key {name:?} must have 1 to 64 bytes, begin with neither '$' nor '/', and have \
                     no white space at its ends; a path goes to Entity::scheduler or Entity::collection"
                )
            }
            Self::DuplicateEntity(name) => {
                write!(
                    f,
                    "entity {name:?} is configured twice; give one Entity all of its routes, or each its own name"
                )
            }
            Self::TooManyEntities(count) => write!(f, "{count} entities are too many (65535 at most)"),
            Self::Pointer { entity, pointer } => {
                write!(f, "entity {entity:?}: JSON pointer {pointer:?} must be empty or start with '/'")
            }
            Self::LoadWithoutScopes(entity) => write!(
                f,
                "entity {entity:?}: it is scoped, and an id alone does not identify a row; use load_scoped instead of load"
            ),
            Self::ViewWithoutLoad(entity) => write!(
                f,
                "entity {entity:?}: visible and project must see whole rows, which requests need not hold; add a load hook"
            ),
            Self::ScopeParam { entity, param } => write!(
                f,
                "entity {entity:?}: no route has the parameter \"{{{param}}}\" of scope_param; add it to the paths, as in \"/{{{param}}}/events\""
            ),
            Self::Origin(origin) => {
                let reason = origin_fault(origin).unwrap_or_default();
                write!(
                    f,
                    "origin {origin:?} must be scheme://host or scheme://host:port, as browsers send it: {reason}"
                )
            }
            Self::UnsendableToken { place, reason } => write!(f, "token {place} of the token list {reason}"),
            Self::Token => f.write_str("the token list is empty or holds an empty token"),
            Self::SealedKeySecret => {
                f.write_str("sealed_keys needs at least one secret, and each secret at least 32 bytes")
            }
            Self::Zero(what) => write!(f, "{what} must not be zero"),
            Self::PongTimeout { pong_timeout, ping_interval } => {
                write!(f, "pong_timeout ({pong_timeout:?}) must be longer than ping_interval ({ping_interval:?})")
            }
            Self::SettleOverlap { settle_overlap, settle_quiet } => {
                write!(
                    f,
                    "settle_overlap ({settle_overlap:?}) must not be shorter than settle_quiet ({settle_quiet:?})"
                )
            }
            Self::TooManyReminders { given, most } => {
                write!(f, "{given} deletion_reminders are too many ({most} at most)")
            }
            Self::UnknownEntity(name) => f.write_str(&unknown(name)),
            Self::LogFile { path, source } => write!(
                f,
                "the log file {path:?} cannot be used ({source}): name a file in a folder that exists and can be written"
            ),
            Self::LogFileWithPlain => {
                f.write_str("log_file keeps the history that Delivery::Plain does not have; leave one of the two out")
            }
        }
    }
}

impl fmt::Debug for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        with_source(self, f)
    }
}

/// Writes an error and its cause. `Debug` uses it, since a `main` prints the error it returns by `Debug`, and `unwrap` panics
/// with it.
fn with_source(error: &dyn Error, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match error.source() {
        Some(source) => write!(f, "{error}: {source}"),
        None => write!(f, "{error}"),
    }
}

impl Error for ConfigError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::LogFile { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// An object or id that pages could not use, returned when a [`Change`](crate::Change) is created.
///
/// ```
/// use tower_live_updates::{Change, ChangeError};
///
/// let error = Change::add(&serde_json::json!({"id": 0, "text": "no page would show it"})).unwrap_err();
/// assert!(matches!(error, ChangeError::NoUsableId { .. }));
/// ```
#[non_exhaustive]
pub enum ChangeError {
    /// The value does not serialise to a JSON object.
    NotAnObject,
    /// The `id` is missing, `null`, `0`, `""`, neither text nor number, or longer than 256 bytes.
    NoUsableId {
        /// The id as JSON text, `nothing`, or its length if it is too long.
        found: String,
    },
    /// The value cannot be serialised.
    Serialize(serde_json::Error),
}

impl fmt::Display for ChangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAnObject => f.write_str("a change needs a JSON object with an id"),
            Self::NoUsableId { found } => write!(
                f,
                "an id must be a non-empty text or a non-zero number of at most 256 bytes, since clients drop others; \
                 found {found}"
            ),
            Self::Serialize(_) => f.write_str("the object cannot be serialised to JSON"),
        }
    }
}

impl fmt::Debug for ChangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        with_source(self, f)
    }
}

impl Error for ChangeError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Serialize(error) => Some(error),
            Self::NotAnObject | Self::NoUsableId { .. } => None,
        }
    }
}

/// Why a change or message was not published.
///
/// ```
/// use tower_live_updates::{Change, Entity, LiveUpdates, PublishError};
///
/// let live = LiveUpdates::builder("/api/v1")
///     .allow_anonymous()
///     .entity(Entity::scheduler("/events"))
///     .build()?;
/// let undated = Change::add(&serde_json::json!({"id": 7, "text": "an add without dates stops pages from saving"}))?;
/// assert!(matches!(live.publish("events", undated), Err(PublishError::BreaksPages { .. })));
/// assert!(matches!(live.publish("evnts", Change::delete(7)?), Err(PublishError::UnknownEntity(_))));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[non_exhaustive]
pub enum PublishError {
    /// No entity of this name is configured: add `.entity(Entity::new(name))` to the builder.
    UnknownEntity(String),
    /// The message cannot be serialised.
    Serialize(serde_json::Error),
    /// The entity is [scoped](crate::Entity::scoped), and the change or message has no scope: give the change one with
    /// [`Change::scope`](crate::Change::scope), or send the message with
    /// [`LiveUpdates::send_to`](crate::LiveUpdates::send_to).
    NoScope {
        /// The entity.
        entity: String,
    },
    /// The change or message has a scope, but the entity is not [scoped](crate::Entity::scoped), so every page would receive
    /// it.
    NotScoped {
        /// The entity.
        entity: String,
    },
    /// A request claims to have changed an object that is in other scopes than the request's. Confirm a move with
    /// [`LiveWrite::moved_from`](crate::LiveWrite::moved_from), or with a row found by
    /// [`Entity::load_scoped`](crate::Entity::load_scoped).
    OtherScope {
        /// The entity.
        entity: String,
    },
    /// The object is larger, as JSON, than [`max_body_bytes`](crate::LiveUpdatesBuilder::max_body_bytes) and 4 KiB.
    TooLarge {
        /// The entity.
        entity: String,
        /// Its size as JSON.
        bytes: usize,
        /// The largest size allowed.
        limit: usize,
    },
    /// The stock client would stop saving, or drop the message.
    BreaksPages {
        /// The entity.
        entity: String,
        /// The object's id.
        id: String,
        /// What is wrong with the object.
        reason: Cow<'static, str>,
    },
}

impl fmt::Display for PublishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownEntity(name) => f.write_str(&unknown(name)),
            Self::Serialize(_) => f.write_str("the message cannot be serialised to JSON"),
            Self::NoScope { entity } => write!(
                f,
                "{entity:?} is scoped, and this has no scope; name one with Change::scope, \
                 LiveWrite::scope or LiveUpdates::send_to"
            ),
            Self::NotScoped { entity } => write!(
                f,
                "{entity:?} is not scoped, so every page would receive this in spite of its scope; add .scoped() to the entity"
            ),
            Self::OtherScope { entity } => write!(
                f,
                "{entity:?}: the object is in other scopes than the write; name its former scope with LiveWrite::moved_from, or \
                 give the entity a load_scoped hook that finds its row"
            ),
            Self::TooLarge { entity, bytes, limit } => write!(
                f,
                "an object of {entity:?} has {bytes} bytes as JSON, and at most {limit} are allowed; raise max_body_bytes, or \
                 keep large fields out of what pages are sent"
            ),
            Self::BreaksPages { entity, id, reason } => {
                write!(f, "{entity} {id:?} would break pages and was not sent: {reason}")
            }
        }
    }
}

impl fmt::Debug for PublishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        with_source(self, f)
    }
}

impl Error for PublishError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Serialize(error) => Some(error),
            Self::UnknownEntity(_)
            | Self::NoScope { .. }
            | Self::NotScoped { .. }
            | Self::OtherScope { .. }
            | Self::TooLarge { .. }
            | Self::BreaksPages { .. } => None,
        }
    }
}

fn unknown(entity: &str) -> String {
    format!("no entity {entity:?} is configured; add .entity(Entity::new({entity:?})) to the builder")
}
