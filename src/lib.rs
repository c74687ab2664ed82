//! One [tower](https://docs.rs/tower) layer that makes any HTTP service speak DHTMLX Live Updates: a change saved by one
//! page shows on every other, with the unmodified client and without a line in your handlers.
//!
//! The layer watches successful POST, PUT, PATCH and DELETE requests on the routes of each [`Entity`], broadcasts them as
//! `add-event`, `update-event` and `delete-event` messages, and serves the handshake and the WebSocket itself. Every open
//! page ends up equal to the server, despite lost connections, slow readers, the gap while a page loads, and several users
//! editing one event at once.
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
//! | declare which routes change an entity, and read rows back | [`Entity`] |
//! | decide who may connect, and set limits | [`LiveUpdatesBuilder`] |
//! | place the layer, also in nested routers and without axum | [`LiveUpdatesLayer`], [`LiveUpdates::watch`] |
//! | publish what happens outside HTTP | [`LiveUpdates::publish`], [`Change`] |
//! | decide in a handler what is published | [`LiveWrite`] |
//! | keep tenants and users apart | [`Entity::scope_from`], [`Entity::visible`], [`Identity`] |
//! | keep the history across a restart | [`LiveUpdatesBuilder::log_file`], [`Entity::snapshot`] |
//! | count what happens | [`Stats`] |
//! | read the protocol on one page | [`guide::protocol`] |
//! | find out why a page shows no changes | [`guide::troubleshooting`] |
//!
//! The README explains what is broadcast and when; the pages under `docs/` explain the delivery guarantees, their conditions
//! and their cost.
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
pub mod builder;
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
mod protocol;
mod publish;
mod random;
mod revalidation;
mod scope;
mod service;
mod shutdown;
mod warnings;
mod watch;
mod way;

pub use self::{
    auth::{AuthError, AuthRequest, Authenticate, Credentials, Identity},
    builder::LiveUpdatesBuilder,
    change::{Change, ChangeKind},
    entity::{Entity, Snapshot},
    error::{ChangeError, ConfigError, PublishError},
    handle::LiveUpdates,
    hub::Delivery,
    layer::LiveUpdatesLayer,
    observe::Stats,
    service::{LiveUpdatesEndpoint, LiveUpdatesService},
    watch::write::LiveWrite,
};

/// Pages beside the reference.
#[cfg(any(doc, doctest))]
pub mod guide {
    #[doc = include_str!("../docs/protocol.md")]
    pub mod protocol {}

    #[doc = include_str!("../docs/troubleshooting.md")]
    pub mod troubleshooting {}
}

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
