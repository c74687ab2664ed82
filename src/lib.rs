#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod auth;
#[cfg(feature = "__bench")]
#[doc(hidden)]
pub mod bench;
mod body;
mod builder;
mod change;
mod connection;
mod diagnosis;
mod endpoint;
mod entity;
mod epoch;
mod error;
mod expiry;
mod frame;
mod future;
mod gate;
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

#[cfg(feature = "axum")]
#[cfg_attr(docsrs, doc(cfg(feature = "axum")))]
pub use self::way::AxumBody;
pub use self::{
    auth::{AuthError, AuthRequest, Authenticate, Credentials, Identity},
    body::{OwnBody, RequestBody, ResponseBody},
    builder::{Builder, Ready, Unauthenticated},
    change::{Change, ChangeKind},
    entity::{Entity, Snapshot},
    error::{ChangeError, ConfigError, PublishError},
    future::ResponseFuture,
    handle::LiveUpdates,
    hub::Delivery,
    layer::LiveUpdatesLayer,
    observe::Stats,
    service::{EndpointFuture, LiveUpdatesEndpoint, LiveUpdatesService},
    watch::write::LiveWrite,
    way::{AnyBody, RequestWay, ResponseWay},
};
