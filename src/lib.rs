//! One [tower](https://docs.rs/tower) layer that adds DHTMLX Live Updates to any HTTP service. It broadcasts each change that
//! one page saves to every other open page, with the unmodified client and without a line in your handlers.
//!
//! The layer watches successful POST, PUT, PATCH and DELETE requests on the routes of each [`Entity`], broadcasts them as
//! `add-event`, `update-event` and `delete-event` messages, and serves the handshake and the WebSocket itself. Every open
//! page ends up equal to the server: through lost connections, slow readers, the gap while a page loads, and several users
//! editing one event at once. See [delivery guarantees](guide::delivery) for the conditions and the costs.
//!
//! ```no_run
//! use axum::{Router, routing::{get, put}};
//! use tower_live_updates::{Entity, LiveUpdates};
//! # async fn list() {} async fn create() {} async fn update() {} async fn remove() {}
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let live = LiveUpdates::builder("/api/v1")
//!         .tokens(["a-long-random-token"])
//!         .entity(Entity::scheduler("/events"))
//!         .build()?;
//!
//!     let app = Router::new()
//!         .route("/events", get(list).post(create))
//!         .route("/events/{id}", put(update).delete(remove))
//!         .layer(live.layer());
//!
//!     let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
//!     axum::serve(listener, app).with_graceful_shutdown(live.shutdown_on_signals()).await?;
//!     Ok(())
//! }
//! ```
//!
//! | to | see |
//! |---|---|
//! | name the routes that change an entity, and read rows back | [`Entity`], [`guide::writes`] |
//! | decide who may connect | [`LiveUpdatesBuilder`], [`guide::authorization`] |
//! | set limits and times | [`LiveUpdatesBuilder`], [`guide::limits`] |
//! | place the layer, also in nested routers and without axum | [`LiveUpdatesLayer`], [`LiveUpdates::watch`] |
//! | publish what happens outside HTTP | [`LiveUpdates::publish`], [`Change`] |
//! | decide in a handler what is published | [`LiveWrite`] |
//! | let pages call methods | [`LiveUpdatesBuilder::call`], [`guide::calls`] |
//! | keep tenants and users apart: scopes, visibility filter | [`Entity::scope_from`], [`Entity::visible`], [`Identity`] |
//! | bring pages up to date after a long absence or a restart | [`Entity::snapshot`], [`LiveUpdatesBuilder::log_file`] |
//! | know what is promised: replay, resume, repeats, tombstones | [`guide::delivery`] |
//! | count what happens | [`Stats`] |
//! | see the protocol on one page | [`guide::protocol`] |
//! | find out why a page receives nothing | [`guide::troubleshooting`] |
//! | know what the layer costs | `docs/performance.md` in the repository |
//! | follow the life of a write and of a page in the code | [`guide::architecture`] |
//!
//! # Features
//!
//! | feature | default | |
//! |---|---|---|
//! | `tracing` | yes | log lines and spans through `tracing`, and the audit |
//! | `sealed-keys` | no | keys that are signed and hold no token |
//! | `axum` | no | [`LiveUpdatesLayer::axum`], and direct writes to the TCP stream under `axum::serve` |
#![cfg_attr(docsrs, feature(doc_cfg))]

mod auth;
#[cfg(feature = "__bench")]
#[doc(hidden)]
pub mod bench;
pub mod body;
mod body_mode;
pub mod builder;
mod call_message;
mod call_scanner;
mod calls;
mod change;
mod connection;
mod diagnosis;
mod endpoint;
mod entity;
mod epoch;
mod error;
mod expiry;
mod frame;
pub mod future;
mod handle;
mod hook;
mod hub;
mod layer;
mod lock;
mod log_file;
mod misnamed;
mod object;
mod observe;
mod origin_check;
mod path_check;
mod presence;
mod protocol;
mod publish;
mod random;
mod rate;
mod revalidation;
mod scope;
mod sequence;
mod service;
mod session;
mod shutdown;
mod warnings;
mod watch;

pub use self::{
    auth::{AuthError, AuthRequest, Authenticate, Credentials, Identity},
    builder::LiveUpdatesBuilder,
    calls::{CallError, Caller},
    change::{Change, ChangeKind},
    entity::{Entity, Snapshot},
    error::{ChangeError, ConfigError, PublishError},
    handle::LiveUpdates,
    hub::Delivery,
    layer::LiveUpdatesLayer,
    observe::Stats,
    service::{LiveUpdatesEndpoint, LiveUpdatesService},
    session::Session,
    watch::live_write::LiveWrite,
};

/// Pages besides the reference.
// In each page the links to other pages are defined twice: here for rustdoc, where the first definition counts, and at the
// end of the page for readers of the repository.
#[cfg(any(doc, doctest))]
pub mod guide {
    /// [delivery]: crate::guide::delivery
    #[doc = include_str!("../docs/writes.md")]
    pub mod writes {}

    /// [limits]: crate::guide::limits
    /// [writes]: crate::guide::writes
    #[doc = include_str!("../docs/delivery.md")]
    pub mod delivery {}

    /// [protocol]: crate::guide::protocol
    #[doc = include_str!("../docs/authorization.md")]
    pub mod authorization {}

    /// [authorization]: crate::guide::authorization
    /// [writes]: crate::guide::writes
    #[doc = include_str!("../docs/calls.md")]
    pub mod calls {}

    /// [authorization]: crate::guide::authorization
    #[doc = include_str!("../docs/limits.md")]
    pub mod limits {}

    /// [calls]: crate::guide::calls
    #[doc = include_str!("../docs/protocol.md")]
    pub mod protocol {}

    /// [limits]: crate::guide::limits
    /// [troubleshooting]: crate::guide::troubleshooting
    #[doc = include_str!("../docs/architecture.md")]
    pub mod architecture {}

    #[doc = include_str!("../docs/troubleshooting.md")]
    pub mod troubleshooting {}
}

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
