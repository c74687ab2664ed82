//! Setters: the methods that pages may call, what the handshake tells them, and the limits of calls.

use std::future::Future;

use serde::{Serialize, de::DeserializeOwned};

use super::config::LiveUpdatesBuilder;
use crate::{
    auth::Identity,
    calls::{Caller, Method},
    endpoint::PageData,
    hook::BoxError,
    rate::Rate,
};

impl<A> LiveUpdatesBuilder<A> {
    /// Adds a method that pages may call: `tasks.count` is `api.tasks.count()` on the page. [`guide::calls`] has the
    /// page's side, and the limits.
    ///
    /// The handler gets a clone of `state`, the [`Caller`], and the arguments of the call:
    ///
    /// - a tuple takes the arguments one by one, up to 16; those that the page leaves out at the end are `null`;
    /// - `()` takes none;
    /// - any other type takes the only argument.
    ///
    /// The page's promise is resolved with the result as JSON, or rejected with a text:
    ///
    /// - that of a [`CallError`](crate::CallError);
    /// - `the call failed` after another error or a panic, which are counted in
    ///   [`Stats::hooks_failed`](crate::Stats::hooks_failed) and logged;
    /// - `the call took too long` after [`hook_timeout`](Self::hook_timeout); the handler is dropped then.
    ///
    /// A call runs in a task of its own, without a lock, and goes on if its page goes away. The writes of a method are not
    /// watched: [publish](crate::LiveUpdates::publish) what it changes.
    ///
    /// A name is a service and a method, both JavaScript identifiers. [`build`](LiveUpdatesBuilder::build) returns
    /// [`ConfigError::MethodName`](crate::ConfigError::MethodName) for another one, and
    /// [`ConfigError::DuplicateMethod`](crate::ConfigError::DuplicateMethod) for one that was added before.
    ///
    /// ```
    /// use std::{convert::Infallible, sync::{Arc, atomic::{AtomicU64, Ordering}}};
    /// use tower_live_updates::{Caller, Entity, LiveUpdates};
    ///
    /// let votes = Arc::new(AtomicU64::new(0));
    /// let live = LiveUpdates::builder("/api/v1")
    ///     .allow_anonymous()
    ///     .entity(Entity::scheduler("/events"))
    ///     .call("votes.add", votes, async |votes: Arc<AtomicU64>, _: Caller, (count, note): (u64, Option<String>)| {
    ///         Ok::<_, Infallible>((votes.fetch_add(count, Ordering::Relaxed) + count, note))
    ///     })
    ///     .call("users.me", (), async |(), caller: Caller, ()| {
    ///         Ok::<_, Infallible>(caller.identity.principal().to_owned())
    ///     })
    ///     .build()?;
    /// # Ok::<(), tower_live_updates::ConfigError>(())
    /// ```
    ///
    /// [`guide::calls`]: crate::guide::calls
    pub fn call<S, P, R, E, F, Fut>(mut self, name: impl Into<String>, state: S, handler: F) -> Self
    where
        S: Clone + Send + Sync + 'static,
        P: DeserializeOwned,
        R: Serialize,
        E: Into<BoxError>,
        F: Fn(S, Caller, P) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, E>> + Send + 'static,
    {
        self.config.methods.push((name.into(), Method::new(state, handler)));
        self
    }

    /// As [`call`](Self::call), for the identities that `guard` accepts. `false` rejects the page's promise with `not
    /// allowed`. An error of the guard counts as one of the method. Guard and handler together have one
    /// [`hook_timeout`](Self::hook_timeout).
    ///
    /// The handshake names the method to every page.
    ///
    /// ```
    /// use std::convert::Infallible;
    /// use tower_live_updates::{Caller, Entity, Identity, LiveUpdates};
    ///
    /// async fn is_admin(_: (), user: Identity) -> Result<bool, Infallible> {
    ///     Ok(user.principal() == "ann")
    /// }
    ///
    /// let live = LiveUpdates::builder("/api/v1")
    ///     .allow_anonymous()
    ///     .entity(Entity::scheduler("/events"))
    ///     .call_if("admin.archive", (), is_admin, async |(), _: Caller, year: u16| Ok::<_, Infallible>(year))
    ///     .build()?;
    /// # Ok::<(), tower_live_updates::ConfigError>(())
    /// ```
    pub fn call_if<S, P, R, E, G, GE, GFut, F, Fut>(
        mut self,
        name: impl Into<String>,
        state: S,
        guard: G,
        handler: F,
    ) -> Self
    where
        S: Clone + Send + Sync + 'static,
        P: DeserializeOwned,
        R: Serialize,
        E: Into<BoxError>,
        G: Fn(S, Identity) -> GFut + Send + Sync + 'static,
        GE: Into<BoxError>,
        GFut: Future<Output = Result<bool, GE>> + Send + 'static,
        F: Fn(S, Caller, P) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, E>> + Send + 'static,
    {
        self.config.methods.push((name.into(), Method::new(state.clone(), handler).guarded(state, guard)));
        self
    }

    /// What the handshake tells each page, as `data` of the client: a JSON object, such as a struct. Default: an empty
    /// object.
    ///
    /// The hook gets a clone of `state`, and the page's identity. After an error, a panic, a call longer than
    /// [`hook_timeout`](Self::hook_timeout), or a result that is no JSON object, the page gets an empty object. So does a
    /// page whose authentication is [unavailable](crate::AuthError::Unavailable) at its handshake. A second call replaces
    /// the hook.
    ///
    /// ```
    /// use std::convert::Infallible;
    /// use serde_json::json;
    /// use tower_live_updates::{Entity, Identity, LiveUpdates};
    ///
    /// let live = LiveUpdates::builder("/api/v1")
    ///     .allow_anonymous()
    ///     .entity(Entity::scheduler("/events"))
    ///     .data((), async |(), user: Identity| Ok::<_, Infallible>(json!({"user": user.principal()})))
    ///     .build()?;
    /// # Ok::<(), tower_live_updates::ConfigError>(())
    /// ```
    pub fn data<S, R, E, F, Fut>(mut self, state: S, hook: F) -> Self
    where
        S: Clone + Send + Sync + 'static,
        R: Serialize,
        E: Into<BoxError>,
        F: Fn(S, Identity) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, E>> + Send + 'static,
    {
        self.config.data = Some(PageData::new(state, hook));
        self
    }

    /// Largest call: bytes of its message on the socket, or of its arguments over HTTP. Default: 64 KiB. A larger one is
    /// answered with an error. A request with calls may have 16 times as many bytes.
    pub fn max_call_bytes(mut self, bytes: usize) -> Self {
        self.config.calls.bytes = bytes;
        self
    }

    /// How many calls a page may make on its sockets: `burst` at once, and `per_second` on average. Default: 100 and 20.
    /// A call beyond that is answered with an error.
    pub fn max_call_rate(mut self, burst: u32, per_second: u32) -> Self {
        self.config.calls.rate = Rate { burst, per_second };
        self
    }

    /// How many calls of one page, or of one request, run at one time. Default: 8. Others wait, for at most
    /// [`hook_timeout`](Self::hook_timeout).
    pub fn max_concurrent_calls(mut self, calls: usize) -> Self {
        self.config.calls.concurrent = calls;
        self
    }

    /// How many calls of one page, or of one request, wait for others to end. Default: 100. A call beyond that is answered
    /// with an error.
    pub fn max_waiting_calls(mut self, calls: usize) -> Self {
        self.config.calls.waiting = calls;
        self
    }

    /// How many bytes the calls of all pages take, while they arrive, wait and run; and, once more as many, the results
    /// that are kept for pages that may have lost them. Default: 32 MiB. A call beyond that is answered with an error, and
    /// a result is not kept.
    pub fn max_call_memory(mut self, bytes: usize) -> Self {
        self.config.calls.memory = bytes;
        self
    }
}
