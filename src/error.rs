//! The errors a program can meet, each naming what was wrong and what helps.

use std::{borrow::Cow, error::Error, fmt, io, path::PathBuf, time::Duration};

use crate::{origin_check::origin_fault, path_check::endpoint_fault};

/// Configuration that cannot work, found by `build()`. It names the value and what to write instead.
///
/// `Debug` writes the same words as `Display`: a `main` that returns `Result<(), Box<dyn Error>>` prints errors by `Debug`.
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
    /// No request can have the endpoint's path: it must start with `/` and hold neither query, fragment, parameter nor
    /// white space.
    EndpointPath(String),
    /// The endpoint would answer requests that an entity's route is for.
    EndpointConflict {
        /// The endpoint's path as it was given.
        endpoint: String,
        /// The entity whose route it is.
        entity: String,
        /// The path of that route.
        route: String,
    },
    /// A route's path must be one that requests can have, and a pattern the router understands: `/events/{id}`.
    RoutePath {
        /// The entity the route belongs to.
        entity: String,
        /// The path as it was given.
        path: String,
        /// What the router says about it.
        reason: String,
    },
    /// A route that updates or deletes must name the object's id: `{id}`.
    RouteWithoutId {
        /// The entity the route belongs to.
        entity: String,
        /// The path as it was given.
        path: String,
    },
    /// Two entities, or two routes of one, claim the same method and path.
    RouteConflict {
        /// The entity whose route came second.
        entity: String,
        /// The method both claim.
        method: http::Method,
        /// The path both claim.
        path: String,
    },
    /// An entity's name or payload key is empty, longer than 64 bytes, begins with `$` or `/`, or has white space at its
    /// ends.
    Name(String),
    /// Two entities have the same name.
    DuplicateEntity(String),
    /// More entities than one `LiveUpdates` can hold (65 535).
    TooManyEntities(usize),
    /// A JSON pointer must be empty or start with `/`.
    Pointer {
        /// The entity the pointer belongs to.
        entity: String,
        /// The pointer as it was given.
        pointer: String,
    },
    /// The entity takes scopes from requests, so its load hook must know them: use `load_scoped` instead of `load`.
    LoadWithoutScopes(String),
    /// The entity has routes and a `visible` or `project` hook, which must see whole rows: give it a load hook.
    ViewWithoutLoad(String),
    /// None of the entity's routes has the parameter that is to name the scope of its writes.
    ScopeParam {
        /// The entity whose writes it is to scope.
        entity: String,
        /// The parameter as it was given.
        param: String,
    },
    /// An origin must be `scheme://host` or `scheme://host:port`, as browsers send it.
    Origin(String),
    /// A token list is empty, or holds an empty token.
    Token,
    /// A token list holds a token that no page can send. Which one is not said: it is a secret.
    UnsendableToken {
        /// Its place in the list, from 1.
        place: usize,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The list of session secrets is empty, or one of them is shorter than 32 bytes.
    SealedKeySecret,
    /// A limit or a time that must not be zero is zero.
    Zero(&'static str),
    /// Every socket would be closed before it could answer a second ping.
    PongTimeout {
        /// The timeout as it was given.
        pong_timeout: Duration,
        /// The interval it must be longer than.
        ping_interval: Duration,
    },
    /// Writes would be told again after the time in which they count as overlapping.
    SettleOverlap {
        /// The overlap as it was given.
        settle_overlap: Duration,
        /// The quiet time it must not be shorter than.
        settle_quiet: Duration,
    },
    /// More reminders of a deletion than there may be.
    TooManyReminders {
        /// How many were given.
        given: usize,
        /// How many there may be.
        most: usize,
    },
    /// No entity of this name is configured, and so none can be watched.
    UnknownEntity(String),
    /// The [log file](crate::LiveUpdatesBuilder::log_file) cannot be read or written: its folder must exist and be writable.
    LogFile {
        /// The path as it was given.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// With [`Delivery::Plain`](crate::Delivery::Plain) there is no history that a log file could keep.
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
                "endpoint path {endpoint:?} takes requests of entity {entity:?} (route {route:?}) for its own; give the \
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
                "entity {entity:?}: it is scoped, and an id alone does not tell whose row it is; use load_scoped instead of load"
            ),
            Self::ViewWithoutLoad(entity) => write!(
                f,
                "entity {entity:?}: visible and project must see whole rows, which requests need not hold; add a load hook"
            ),
            Self::ScopeParam { entity, param } => write!(
                f,
                "entity {entity:?}: no route has the parameter \"{{{param}}}\" that is to name the scope of its writes"
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
            Self::SealedKeySecret => f.write_str("sessions needs a secret, and every secret at least 32 bytes"),
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

/// An error's words and those of its cause: what `Debug` writes, since that is what a `main` prints of the error that it
/// returns, and what `unwrap` panics with.
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

/// An object or id that pages could not use, found when a [`Change`](crate::Change) is made.
///
/// ```
/// use tower_live_updates::{Change, ChangeError};
///
/// let error = Change::add(&serde_json::json!({"id": 0, "text": "no page would show it"})).unwrap_err();
/// assert!(matches!(error, ChangeError::NoUsableId { .. }));
/// ```
#[non_exhaustive]
pub enum ChangeError {
    /// It serialises to something that is no JSON object.
    NotAnObject,
    /// Its `id` is missing, `null`, `0`, `""`, neither text nor number, or longer than 256 bytes.
    NoUsableId {
        /// The id as JSON text, `nothing`, or how long it is.
        found: String,
    },
    /// It cannot be serialised.
    Serialize(serde_json::Error),
}

impl fmt::Display for ChangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAnObject => f.write_str("a change needs a JSON object with an id"),
            Self::NoUsableId { found } => write!(
                f,
                "an id must be a non-empty text or a non-zero number of at most 256 bytes, others are thrown away by clients; \
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

/// Why something was not published.
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
    /// The entity is [scoped](crate::Entity::scoped), and nothing says who is to hear this: give the change a scope with
    /// [`Change::scope`](crate::Change::scope), or send the message with
    /// [`LiveUpdates::send_to`](crate::LiveUpdates::send_to).
    NoScope {
        /// The entity it was for.
        entity: String,
    },
    /// It names a scope, and everybody would hear it: the entity is not [scoped](crate::Entity::scoped).
    NotScoped {
        /// The entity it was for.
        entity: String,
    },
    /// A request claims to have changed an object that is in other scopes than the request's. An object does not move by
    /// itself: say so with [`LiveWrite::moved_from`](crate::LiveWrite::moved_from), or let
    /// [`Entity::load_scoped`](crate::Entity::load_scoped) show that its row is there.
    OtherScope {
        /// The entity it was for.
        entity: String,
    },
    /// The object is larger, as JSON, than [`max_body_bytes`](crate::LiveUpdatesBuilder::max_body_bytes) and 4 KiB.
    TooLarge {
        /// The entity it was for.
        entity: String,
        /// What it has.
        bytes: usize,
        /// What it may have.
        limit: usize,
    },
    /// The stock client would stop saving, or throw the message away.
    BreaksPages {
        /// The entity it was for.
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
                "{entity:?} is scoped, and nothing says who is to hear this; name a scope with Change::scope, \
                 LiveWrite::scope or LiveUpdates::send_to"
            ),
            Self::NotScoped { entity } => write!(
                f,
                "{entity:?} is not scoped, so everybody would hear this in spite of its scope; add .scoped() to the entity"
            ),
            Self::OtherScope { entity } => write!(
                f,
                "{entity:?}: the object is in other scopes than the write; say where it was with LiveWrite::moved_from, or \
                 give the entity a load_scoped hook that finds its row"
            ),
            Self::TooLarge { entity, bytes, limit } => write!(
                f,
                "an object of {entity:?} has {bytes} bytes as JSON, and {limit} are the most; raise max_body_bytes, or \
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
