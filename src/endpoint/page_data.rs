//! What the handshake tells a page besides its key.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use futures_util::FutureExt;
use serde::Serialize;

use crate::{
    auth::Identity,
    hook::{BoxError, BoxFuture, guarded},
    object::Object,
    observe::Observer,
};

/// The hook that answers what a page is told, by its identity: JSON text.
#[derive(Clone)]
pub(crate) struct PageData(Arc<dyn Fn(Identity) -> BoxFuture<Result<String, BoxError>> + Send + Sync>);

impl PageData {
    pub(crate) fn new<S, R, E, F, Fut>(state: S, hook: F) -> Self
    where
        S: Clone + Send + Sync + 'static,
        R: Serialize,
        E: Into<BoxError>,
        F: Fn(S, Identity) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, E>> + Send + 'static,
    {
        let written = |data: Result<R, E>| Ok(serde_json::to_string(&data.map_err(Into::into)?)?);
        Self(Arc::new(move |identity| hook(state.clone(), identity).map(written).boxed()))
    }

    /// A JSON object; `None` where the hook has failed.
    pub(super) async fn of(&self, identity: &Identity, limit: Duration, observer: &Observer) -> Option<String> {
        let why: BoxError = match guarded(limit, || self.0(identity.clone())).await {
            Ok(Ok(data)) if Object::of(&data).is_some() => return Some(data),
            Ok(Ok(_)) => "what it returned is no JSON object".into(),
            Ok(Err(error)) => error,
            Err(failure) => failure.into(),
        };
        observer.hooks_failed.up();
        observer.warn(format_args!("the data hook failed: {why}; a page is told nothing"));
        None
    }
}

impl fmt::Debug for PageData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PageData")
    }
}
