//! The behaviours of the whole layer, one module each, in one binary: it is compiled and linked once. Tests that need a
//! process of their own stand beside this folder.

mod acknowledge;
mod addressed;
#[cfg(feature = "tracing")]
mod answers;
mod architecture;
mod article;
#[cfg(feature = "tracing")]
mod audit;
mod auth;
mod authorize;
mod broadcast;
mod calls;
mod calls_http;
mod calls_limits;
mod cancel;
mod capture;
mod deletions;
mod frames;
mod gantt;
mod gantt_objects;
mod gantt_order;
mod gantt_tree;
mod handshake;
mod hooks;
mod http2;
mod keyed_lock;
mod layers;
mod limits;
mod lists;
mod live_write;
mod load;
mod log_file;
mod lying_bodies;
#[cfg(feature = "tracing")]
mod mistakes;
#[cfg(feature = "tracing")]
mod modes;
mod moves;
mod nesting;
mod origin;
mod overflow;
mod pace;
mod page_protection;
mod ping;
mod placement;
mod plain;
mod presence;
mod public_api;
mod public_api_list;
mod publish;
mod readiness;
mod refusals;
mod replay;
mod resync;
mod revocation;
mod routes;
mod runtimes;
mod scopes;
#[cfg(feature = "sealed-keys")]
mod sealed;
#[cfg(feature = "tracing")]
mod secrets;
mod settling;
mod shared_key;
mod shutdown;
mod subscriptions;
mod support;
mod tenant_ids;
mod tombstones;
mod traffic;
mod transparency;
mod upgrade_refused;
mod visible;
mod warp_service;
mod websocket;
#[cfg(feature = "tracing")]
mod widget_answers;
