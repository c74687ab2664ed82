//! The public errors. Each names what is wrong and the remedy.

use std::{borrow::Cow, fmt, io, path::PathBuf, time::Duration};

use thiserror::Error;

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
#[derive(Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// No request can have the endpoint's path. It must start with `/` and must not hold a query, a fragment, a parameter or
    /// white space.
    #[error("endpoint path {0:?} cannot be used: {reason}", reason = endpoint_fault(.0).unwrap_or_default())]
    EndpointPath(String),
    /// The endpoint would answer requests of an entity's route.
    #[error(
        "endpoint path {endpoint:?} would answer requests of entity {entity:?} (route {route:?}); give the endpoint another \
         path, \"/api/v1\" for example, and the page's RemoteEvents the same"
    )]
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
    #[error("entity {entity:?}: route path {path:?} cannot be used: {reason}")]
    RoutePath {
        /// The entity the route belongs to.
        entity: String,
        /// The path as it was given.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A route that updates or deletes lacks the parameter `{id}`.
    #[error("entity {entity:?}: route {path:?} updates or deletes, so it must name the id: \"{path}/{{id}}\"")]
    RouteWithoutId {
        /// The entity the route belongs to.
        entity: String,
        /// The path as it was given.
        path: String,
    },
    /// Two routes have the same method and path.
    #[error("entity {entity:?}: {method} {path:?} is claimed twice; give each route a path of its own")]
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
    #[error(
        "entity name or payload key {0:?} must have 1 to 64 bytes, begin with neither '$' nor '/', and have no white space at \
         its ends; a path goes to Entity::scheduler or Entity::collection"
    )]
    Name(String),
    /// Two entities have the same name.
    #[error("entity {0:?} is configured twice; give one Entity all of its routes, or each its own name")]
    DuplicateEntity(String),
    /// No page could call a method of this name.
    #[error("method {name:?} cannot be called: {reason}; a name is written \"service.method\", as in \"tasks.count\"")]
    MethodName {
        /// The name as it was given.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Two methods have the same name.
    #[error("method {0:?} is configured twice; give each method its own name")]
    DuplicateMethod(String),
    /// There are more than 65 535 entities.
    #[error("{0} entities are too many (65535 at most)")]
    TooManyEntities(usize),
    /// A JSON pointer is not empty and does not start with `/`.
    #[error("entity {entity:?}: JSON pointer {pointer:?} must be empty or start with '/'")]
    Pointer {
        /// The entity the pointer belongs to.
        entity: String,
        /// The pointer as it was given.
        pointer: String,
    },
    /// The entity is scoped, so its load hook needs the scopes: use `load_scoped` instead of `load`.
    #[error("entity {0:?}: it is scoped, and an id alone does not identify a row; use load_scoped instead of load")]
    LoadWithoutScopes(String),
    /// The entity has routes and a `visible` or `project` hook, which must see whole rows: add a load hook.
    #[error("entity {0:?}: visible and project must see whole rows, which requests need not hold; add a load hook")]
    ViewWithoutLoad(String),
    /// No route of the entity has the parameter of `scope_param`.
    #[error(
        "entity {entity:?}: no route has the parameter \"{{{param}}}\" of scope_param; add it to the paths, as in \
         \"/{{{param}}}/events\""
    )]
    ScopeParam {
        /// The entity.
        entity: String,
        /// The parameter as it was given.
        param: String,
    },
    /// [`Entity::order_key`](crate::Entity::order_key) has no meaning for this entity, or no name.
    #[error("entity {entity:?}: order_key cannot be used: {reason}")]
    OrderKey {
        /// The entity.
        entity: String,
        /// What is wrong, and the remedy.
        reason: &'static str,
    },
    /// An entity of [`presence`](crate::LiveUpdatesBuilder::presence) has a setter that says where its objects come from
    /// or who sees them: they come from identities, and only `payload_key`, `scoped`, `authorize`, `visible` and `project`
    /// have a meaning.
    #[error(
        "entity {entity:?} holds who is here, which comes from identities: leave {setter} out; payload_key, scoped, \
         authorize, visible and project remain"
    )]
    Presence {
        /// The entity.
        entity: String,
        /// The setter that is to be left out.
        setter: &'static str,
    },
    /// An origin is not `scheme://host` or `scheme://host:port`, as browsers send it.
    #[error(
        "origin {0:?} must be scheme://host or scheme://host:port, as browsers send it: {reason}",
        reason = origin_fault(.0).unwrap_or_default()
    )]
    Origin(String),
    /// A token list is empty, or holds an empty token.
    #[error("the token list is empty or holds an empty token")]
    Token,
    /// A token list holds a token that no page can send. The error does not contain the token, which is secret.
    #[error("token {place} of the token list {reason}")]
    UnsendableToken {
        /// Its position in the list, from 1.
        place: usize,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The list of `sealed_keys` is empty, or one of its secrets is shorter than 32 bytes.
    #[error("sealed_keys needs at least one secret, and each secret at least 32 bytes")]
    SealedKeySecret,
    /// The setting of this name must not be zero.
    #[error("{0} must not be zero")]
    Zero(&'static str),
    /// `pong_timeout` is not longer than `ping_interval`: every socket would be closed before it could answer a second ping.
    #[error("pong_timeout ({pong_timeout:?}) must be longer than ping_interval ({ping_interval:?})")]
    PongTimeout {
        /// The timeout as it was given.
        pong_timeout: Duration,
        /// The interval it must be longer than.
        ping_interval: Duration,
    },
    /// `settle_overlap` is shorter than `settle_quiet`.
    #[error("settle_overlap ({settle_overlap:?}) must not be shorter than settle_quiet ({settle_quiet:?})")]
    SettleOverlap {
        /// The overlap as it was given.
        settle_overlap: Duration,
        /// The quiet time it must not be shorter than.
        settle_quiet: Duration,
    },
    /// There are too many `deletion_reminders`.
    #[error("{given} deletion_reminders are too many ({most} at most)")]
    TooManyReminders {
        /// How many were given.
        given: usize,
        /// How many are allowed.
        most: usize,
    },
    /// No entity of this name is configured, so it cannot be watched.
    #[error("no entity {0:?} is configured; add .entity(Entity::new({0:?})) to the builder")]
    UnknownEntity(String),
    /// The [log file](crate::LiveUpdatesBuilder::log_file) cannot be read or written: its folder must exist and be writable.
    #[error("the log file {path:?} cannot be used ({source}): name a file in a folder that exists and can be written")]
    LogFile {
        /// The path as it was given.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// A log file was set with [`Delivery::Plain`](crate::Delivery::Plain), which has no history to keep.
    #[error("log_file keeps the history that Delivery::Plain does not have; leave one of the two out")]
    LogFileWithPlain,
}

impl fmt::Debug for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        with_source(self, f)
    }
}

/// Writes an error and its cause. `Debug` uses it, since a `main` prints the error it returns by `Debug`, and `unwrap` panics
/// with it.
fn with_source(error: &dyn std::error::Error, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match error.source() {
        Some(source) => write!(f, "{error}: {source}"),
        None => write!(f, "{error}"),
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
#[derive(Error)]
#[non_exhaustive]
pub enum ChangeError {
    /// The value does not serialise to a JSON object.
    #[error("a change needs a JSON object with an id")]
    NotAnObject,
    /// The `id` is missing, `null`, `0`, `""`, neither text nor number, or longer than 256 bytes.
    #[error(
        "an id must be a non-empty text or a non-zero number of at most 256 bytes, since clients drop others; found {found}"
    )]
    NoUsableId {
        /// The id as JSON text, `nothing`, or its length if it is too long.
        found: String,
    },
    /// The value cannot be serialised.
    #[error("the object cannot be serialised to JSON")]
    Serialize(#[source] serde_json::Error),
}

impl fmt::Debug for ChangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        with_source(self, f)
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
#[derive(Error)]
#[non_exhaustive]
pub enum PublishError {
    /// No entity of this name is configured: add `.entity(Entity::new(name))` to the builder.
    #[error("no entity {0:?} is configured; add .entity(Entity::new({0:?})) to the builder")]
    UnknownEntity(String),
    /// The message cannot be serialised.
    #[error("the message cannot be serialised to JSON")]
    Serialize(#[source] serde_json::Error),
    /// The entity is [scoped](crate::Entity::scoped), and the change or message has no scope: give the change one with
    /// [`Change::scope`](crate::Change::scope), or send the message with
    /// [`LiveUpdates::send_to`](crate::LiveUpdates::send_to).
    #[error(
        "{entity:?} is scoped, and this has no scope; name one with Change::scope, LiveWrite::scope or LiveUpdates::send_to"
    )]
    NoScope {
        /// The entity.
        entity: String,
    },
    /// The change or message has a scope, but the entity is not [scoped](crate::Entity::scoped), so every page would receive
    /// it.
    #[error(
        "{entity:?} is not scoped, so every page would receive this in spite of its scope; add .scoped() to the entity"
    )]
    NotScoped {
        /// The entity.
        entity: String,
    },
    /// The entity holds who is here ([`presence`](crate::LiveUpdatesBuilder::presence)): nothing else is published to it. Use
    /// another entity, or [`LiveUpdates::send`](crate::LiveUpdates::send) for messages.
    #[error(
        "{entity:?} holds who is here, and nothing else is published to it; use another entity, or send for messages"
    )]
    Presence {
        /// The entity.
        entity: String,
    },
    /// A request claims to have changed an object that is in other scopes than the request's. Confirm a move with
    /// [`LiveWrite::moved_from`](crate::LiveWrite::moved_from), or with a row found by
    /// [`Entity::load_scoped`](crate::Entity::load_scoped).
    #[error(
        "{entity:?}: the object is in other scopes than the write; name its previous scope with LiveWrite::moved_from, \
         or give the entity a load_scoped hook that finds its row"
    )]
    OtherScope {
        /// The entity.
        entity: String,
    },
    /// The object is larger, as JSON, than [`max_body_bytes`](crate::LiveUpdatesBuilder::max_body_bytes) and 4 KiB.
    #[error(
        "an object of {entity:?} has {bytes} bytes as JSON, and at most {limit} are allowed; raise max_body_bytes, or keep \
         large fields out of what pages are sent"
    )]
    TooLarge {
        /// The entity.
        entity: String,
        /// Its size as JSON.
        bytes: usize,
        /// The largest size allowed.
        limit: usize,
    },
    /// The stock client would stop saving, or drop the message.
    #[error("{entity} {id:?} would break pages and was not sent: {reason}")]
    BreaksPages {
        /// The entity.
        entity: String,
        /// The object's id.
        id: String,
        /// What is wrong with the object.
        reason: Cow<'static, str>,
    },
}

impl fmt::Debug for PublishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        with_source(self, f)
    }
}
