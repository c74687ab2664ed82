//! Setters: in which scopes changes are published, who may subscribe, and which objects an identity may see.

use std::{
    future::{Future, ready},
    sync::Arc,
};

use futures_util::{FutureExt, TryFutureExt};
use http::request::Parts;
use serde::{Serialize, de::DeserializeOwned};

use super::definition::Entity;
use crate::{
    auth::Identity,
    hook::{BoxError, BoxFuture},
};

impl Entity {
    /// Publishes each change in scopes: only identities that have one of them ([`Identity::with_scope`]) receive it.
    ///
    /// A change takes its scopes from the handler ([`LiveWrite::scope`](crate::LiveWrite::scope),
    /// [`Change::scope`](crate::Change::scope)), else from [`scope_param`](Self::scope_param) and
    /// [`scope_from`](Self::scope_from) together. An identity with any of them receives it. A change without a scope is
    /// not published: it is counted in [`Stats::writes_unpublished`](crate::Stats), and the log says so.
    ///
    /// All scopes are names in one namespace: a calendar `a` of one tenant and a calendar `a` of another are the same
    /// scope, unless their names differ. A name has at most 256 bytes and no control characters; other names are ignored.
    ///
    /// By default an id names one object of the entity:
    ///
    /// - An object that is published in other scopes than before has moved. Identities with only the former scopes receive
    ///   a delete. Identities with only the new scopes receive the whole object.
    /// - A deletion without a scope goes to the scopes of the object.
    /// - A request alone moves nothing. If the scopes of its write and of the object have nothing in common, the change is
    ///   not broadcast, unless [`LiveWrite::moved_from`](crate::LiveWrite::moved_from) or a row found by
    ///   [`load_scoped`](Self::load_scoped) confirms the move.
    ///
    /// If scopes come from requests, or with [`ids_per_scope`](Self::ids_per_scope), an id names an object of its scopes
    /// only, and a move needs [`Change::moved_from`](crate::Change::moved_from).
    ///
    /// ```
    /// use axum::{Extension, Json};
    /// use serde_json::{Value, json};
    /// use tower_live_updates::{Entity, LiveWrite};
    ///
    /// let events = Entity::scheduler("/events").scoped();
    ///
    /// async fn update(Extension(write): Extension<LiveWrite>, Json(event): Json<Value>) -> Json<Value> {
    ///     // … store it, and then:
    ///     write.scope(event["calendar"].as_str().unwrap_or_default());
    ///     Json(json!({"action": "updated"}))
    /// }
    /// ```
    pub fn scoped(mut self) -> Self {
        self.scoping.get_or_insert_default();
        self
    }

    /// Takes the [scope](Self::scoped) of each write from a parameter of its route, percent-decoded. Each call adds a
    /// parameter, and each parameter is a scope of its own. An identity with any of them receives the change.
    ///
    /// Ids are unique per scope then, as the paths are: `/north/events/7` and `/south/events/7` are two events. So an object
    /// moves to another scope only if the handler calls [`LiveWrite::moved_from`](crate::LiveWrite::moved_from).
    ///
    /// ```
    /// use tower_live_updates::Entity;
    ///
    /// let events = Entity::scheduler("/{tenant}/events").scope_param("tenant");
    /// ```
    pub fn scope_param(mut self, param: impl Into<String>) -> Self {
        let scoping = self.scoping.get_or_insert_default();
        scoping.params.push(param.into());
        scoping.scoped_ids = true;
        self
    }

    /// Takes the [scopes](Self::scoped) of each write from its request: from a header, or from an extension of an outer
    /// layer. An empty name is no scope.
    ///
    /// As with [`scope_param`](Self::scope_param), ids are unique per scope, so a request cannot affect an object of the
    /// same id in another scope. The closure is called before the handler, and must not block. A panic in it is counted and
    /// gives no scope. A second call replaces the closure.
    ///
    /// ```
    /// use http::request::Parts;
    /// use tower_live_updates::Entity;
    ///
    /// #[derive(Clone)]
    /// struct Tenant(String);
    ///
    /// // The authentication layer has identified the tenant.
    /// let events = Entity::scheduler("/events")
    ///     .scope_from(|request: &Parts| request.extensions.get::<Tenant>().map(|tenant| tenant.0.clone()));
    /// ```
    pub fn scope_from<I, N>(mut self, scopes: impl Fn(&Parts) -> I + Send + Sync + 'static) -> Self
    where
        I: IntoIterator<Item = N>,
        N: Into<Box<str>>,
    {
        let scoping = self.scoping.get_or_insert_default();
        scoping.scoped_ids = true;
        scoping.of_request = Some(Arc::new(move |request| scopes(request).into_iter().collect()));
        self
    }

    /// Makes ids unique per [scope](Self::scoped), for stores that number the rows of each tenant. Default: off, unless
    /// scopes come from requests; then an id names one object of the entity, whatever its scope. With it
    ///
    /// - a deletion needs its scope too;
    /// - an object moves only by [`Change::moved_from`](crate::Change::moved_from) or
    ///   [`LiveWrite::moved_from`](crate::LiveWrite::moved_from);
    /// - several scopes together are one namespace: a change published by the application must name the same scopes as the
    ///   requests do.
    ///
    /// ```
    /// use tower_live_updates::Entity;
    ///
    /// let events = Entity::scheduler("/events").scoped().ids_per_scope();
    /// ```
    pub fn ids_per_scope(mut self) -> Self {
        self.scoping.get_or_insert_default().scoped_ids = true;
        self
    }

    /// Decides who may subscribe to this entity. The hook is called at each subscription, and again at each revalidation of
    /// an open socket. Default: every authenticated page may subscribe.
    ///
    /// `false` ignores the subscription, or ends it. So does an error, a panic, or a call longer than the builder's
    /// `hook_timeout`; these are counted, and the hook is called again later. Each call gets its own clone of `state`.
    ///
    /// The hook shares the limit of the authenticator,
    /// [`max_concurrent_authentications`](crate::LiveUpdatesBuilder::max_concurrent_authentications), and gets three
    /// quarters of it at most. A call that cannot start in time counts as failed.
    ///
    /// ```
    /// use std::{collections::HashSet, convert::Infallible, sync::Arc};
    /// use tower_live_updates::{Entity, Identity};
    ///
    /// let planners = Arc::new(HashSet::from(["ann".to_owned()]));
    /// let tasks = Entity::new("tasks").authorize(planners, async |planners: Arc<HashSet<String>>, user: Identity| {
    ///     Ok::<_, Infallible>(planners.contains(user.principal()))
    /// });
    /// ```
    pub fn authorize<S, E, F, Fut>(mut self, state: S, hook: F) -> Self
    where
        S: Clone + Send + Sync + 'static,
        E: Into<BoxError>,
        F: Fn(S, Identity) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<bool, E>> + Send + 'static,
    {
        self.authorize = Some(Arc::new(move |identity| hook(state.clone(), identity).err_into().boxed()));
        self
    }

    /// A visibility filter: decides which objects an identity may see, each time an object is sent: live, in a replay, in a
    /// resend, or from a snapshot.
    ///
    /// When a change makes an object leave the visibility of an identity, that identity receives a delete. When an object
    /// enters it, the identity receives the whole object.
    ///
    /// - The hook is called with the object as it is now and, if that matters, as it was before. So decide by identity and
    ///   object. Rights that are kept elsewhere, and change, belong into the identity's [scopes](Self::scoped).
    /// - The hook must see whole objects. An entity with routes needs a [load hook](Self::load), and changes that the
    ///   application publishes must be whole.
    /// - The previous state of an object is taken from the log, or read with the load hook before the write. Limitation: if
    ///   the previous state is unknown, identities that cannot see the object now are sent a delete with its id, even if
    ///   they never saw it.
    /// - An error, a panic, a call longer than the builder's `hook_timeout`, or an object that cannot be read as `T` is
    ///   counted and means no. For a change the hook is called again with the next
    ///   [reminder](crate::LiveUpdatesBuilder::deletion_reminders), and a visible object is then sent. A row of a snapshot
    ///   waits for its next change.
    /// - At most sixteen calls run at one time for each page. While they run, that page receives nothing of other entities
    ///   either; other pages do not wait.
    /// - Messages are not objects, and are not filtered.
    /// - Pages of this entity are served by their own tasks instead of the common fan-out, which costs more for each of
    ///   them.
    ///
    /// ```
    /// use std::convert::Infallible;
    /// use serde::Deserialize;
    /// use tower_live_updates::{Entity, Identity};
    ///
    /// #[derive(Deserialize)]
    /// struct Event { owner: String, private: bool }
    ///
    /// # use serde_json::Value;
    /// # type Store = ();
    /// # async fn read(_: Store, id: String) -> Result<Option<Value>, Infallible> { Ok(None) }
    /// # let store = ();
    /// let events = Entity::scheduler("/events").load(store, read).visible((), async |(), user: Identity, event: Event| {
    ///     Ok::<_, Infallible>(!event.private || event.owner == user.principal())
    /// });
    /// ```
    pub fn visible<S, T, E, F, Fut>(mut self, state: S, hook: F) -> Self
    where
        S: Clone + Send + Sync + 'static,
        T: DeserializeOwned,
        E: Into<BoxError>,
        F: Fn(S, Identity, T) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<bool, E>> + Send + 'static,
    {
        self.visible = Some(Arc::new(move |identity, object| {
            with_object(object, |object| hook(state.clone(), identity, object).err_into())
        }));
        self
    }

    /// Reduces an object to the fields an identity may see. Called after [`visible`](Self::visible), and as often.
    ///
    /// The result must serialise to a JSON object with the same `id`; if it has no `id`, the object's is added. A failure of
    /// the hook, a result that would break pages, and a result with another `id` are counted, and hide the object.
    ///
    /// Each result is made for one page and not shared. A page that stops reading keeps its own copy of one object (or of
    /// objects of 128 KiB together and one more, if its stream is not plain TCP), until it is closed after the builder's
    /// [`write_timeout`](crate::LiveUpdatesBuilder::write_timeout). Without `project` a large object is shared with the log,
    /// and such a page keeps at most 256 kB.
    ///
    /// ```
    /// use std::convert::Infallible;
    /// use serde_json::Value;
    /// use tower_live_updates::{Entity, Identity};
    ///
    /// # type Store = ();
    /// # async fn read(_: Store, id: String) -> Result<Option<Value>, Infallible> { Ok(None) }
    /// # let store = ();
    /// let events = Entity::scheduler("/events").load(store, read).project((), async |(), user: Identity, mut event: Value| {
    ///     if event["owner"] != user.principal() {
    ///         event["notes"] = Value::Null;
    ///     }
    ///     Ok::<_, Infallible>(event)
    /// });
    /// ```
    pub fn project<S, T, U, E, F, Fut>(mut self, state: S, hook: F) -> Self
    where
        S: Clone + Send + Sync + 'static,
        T: DeserializeOwned,
        U: Serialize,
        E: Into<BoxError>,
        F: Fn(S, Identity, T) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<U, E>> + Send + 'static,
    {
        self.project = Some(Arc::new(move |identity, object| {
            with_object(object, |object| {
                let seen = hook(state.clone(), identity, object);
                seen.map(|seen| Ok(serde_json::to_string(&seen.map_err(Into::into)?)?))
            })
        }));
        self
    }
}

/// Calls a hook with the object as its type. The message of serde may quote the object, so it is not logged.
fn with_object<T, O, Fut>(json: &str, hook: impl FnOnce(T) -> Fut) -> BoxFuture<Result<O, BoxError>>
where
    T: DeserializeOwned,
    O: Send + 'static,
    Fut: Future<Output = Result<O, BoxError>> + Send + 'static,
{
    let why = match serde_json::from_str(json) {
        Ok(object) => return hook(object).boxed(),
        Err(error) => error,
    };
    let line = format!("it cannot read the object as its type ({:?} error at column {})", why.classify(), why.column());
    ready(Err(line.into())).boxed()
}
