//! Setters: how rows are read from the application's store, in which scopes changes are published, who may subscribe, and
//! which objects an identity may see.

use std::{
    fmt,
    future::{Future, ready},
    sync::Arc,
};

use futures_util::{FutureExt, TryFutureExt};
use http::request::Parts;
use serde::{Serialize, de::DeserializeOwned};

use super::{definition::Entity, hooks::Everything};
use crate::{
    auth::Identity,
    change::Change,
    hook::{BoxError, BoxFuture},
    scope::Scopes,
};

impl Entity {
    /// Reads the object back after each write, so that pages receive what the store holds.
    ///
    /// The hook gets its own clone of `state` and the object's id as text. `None` means that the row is gone, and is
    /// broadcast as a delete. An error, a panic, or a call longer than the builder's `hook_timeout` is logged and counted.
    /// Then the change is derived from request and response; an entity with [`visible`](Self::visible) or
    /// [`project`](Self::project), which must see the row, then publishes only deletions.
    ///
    /// ```
    /// use std::{collections::HashMap, convert::Infallible, sync::{Arc, Mutex}};
    /// use tower_live_updates::Entity;
    ///
    /// type Store = Arc<Mutex<HashMap<String, serde_json::Value>>>;
    /// let store = Store::default();
    ///
    /// let events = Entity::scheduler("/events").load(store, async |store: Store, id: String| {
    ///     Ok::<_, Infallible>(store.lock().unwrap().get(&id).cloned())
    /// });
    /// ```
    pub fn load<S, T, E, F, Fut>(self, state: S, hook: F) -> Self
    where
        S: Clone + Send + Sync + 'static,
        T: Serialize,
        E: Into<BoxError>,
        F: Fn(S, String) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Option<T>, E>> + Send + 'static,
    {
        let mut entity = self.load_scoped(state, move |state, _, id| hook(state, id));
        entity.load_knows_scopes = false;
        entity
    }

    /// As [`load`](Self::load), for a [scoped entity](Self::scoped), whose ids alone do not identify a row.
    ///
    /// The hook also gets the scopes in which the change is published, and must not read a row of another scope. The scopes
    /// are those that the handler names with [`LiveWrite::scope`](crate::LiveWrite::scope), else those of the request
    /// ([`scope_param`](Self::scope_param), [`scope_from`](Self::scope_from)). `None` means that no such row is in these
    /// scopes. Without any scope the hook is not called.
    ///
    /// A scoped entity cannot use `load`: a write that names an id of another scope may succeed without changing anything,
    /// and `load` would read the other scope's row.
    ///
    /// ```
    /// use std::{collections::HashMap, convert::Infallible, sync::{Arc, Mutex}};
    /// use tower_live_updates::Entity;
    ///
    /// /// Rows by tenant and id.
    /// type Store = Arc<Mutex<HashMap<(String, String), serde_json::Value>>>;
    /// let store = Store::default();
    ///
    /// let events = Entity::scheduler("/{tenant}/events").scope_param("tenant").load_scoped(
    ///     store,
    ///     async |store: Store, scopes: Vec<String>, id: String| {
    ///         let tenant = scopes.into_iter().next().unwrap_or_default();
    ///         Ok::<_, Infallible>(store.lock().unwrap().get(&(tenant, id)).cloned())
    ///     },
    /// );
    /// ```
    pub fn load_scoped<S, T, E, F, Fut>(mut self, state: S, hook: F) -> Self
    where
        S: Clone + Send + Sync + 'static,
        T: Serialize,
        E: Into<BoxError>,
        F: Fn(S, Vec<String>, String) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Option<T>, E>> + Send + 'static,
    {
        self.load_knows_scopes = true;
        self.load = Some(Arc::new(move |scopes, id| {
            let row = hook(state.clone(), scopes, id);
            row.map(|row| Ok(row.map_err(Into::into)?.as_ref().map(serde_json::to_string).transpose()?)).boxed()
        }));
        self
    }

    /// Reads every row, for pages that were away for longer than the log reaches back, or since before the server started.
    /// They receive the store's state without being reloaded.
    ///
    /// The hook gets its own clone of `state` and the page's identity.
    ///
    /// - Include the ids of recently deleted rows, and of rows this identity may no longer see; otherwise a returning page
    ///   keeps showing them.
    /// - Of a [scoped entity](Self::scoped) each row needs its scopes ([`Snapshot::scoped_by`]). A row is sent only to
    ///   identities that have one of them. [`visible`](Self::visible) is called for each row.
    /// - If the scopes of an open page change, the hook is also called with the previous scopes: rows that only these
    ///   include are retracted.
    /// - All connections of a principal with the same scopes share one result for two seconds. So a principal must name one
    ///   user, whatever its data. Four calls run at one time.
    /// - An error, a panic, or a call longer than the builder's `hook_timeout` is logged and counted, and the call is
    ///   repeated twice. After that pages are asked to load their list again, as without this hook: see
    ///   [delivery](crate::guide::delivery#pages-that-were-away-for-too-long).
    /// - A page receives the rows before anything else of this entity. More than 100 rows are sent in chunks, 20 updates a
    ///   second, with new changes between them. A page that handles `$resync` is asked to load its list instead.
    /// - The hook runs to completion even if its page disconnects.
    /// - Rows without a usable id, and rows that would break pages ([`Entity::check`]), are left out, with a line in the
    ///   log.
    ///
    /// ```
    /// use std::{collections::BTreeMap, convert::Infallible, sync::{Arc, Mutex}};
    /// use tower_live_updates::{Entity, Identity, Snapshot};
    ///
    /// #[derive(Default)]
    /// struct Store { rows: BTreeMap<u64, serde_json::Value>, deleted_lately: Vec<u64> }
    ///
    /// let store = Arc::new(Mutex::new(Store::default()));
    /// let events = Entity::scheduler("/events").snapshot(
    ///     store,
    ///     async |store: Arc<Mutex<Store>>, _identity: Identity| {
    ///         let store = store.lock().unwrap();
    ///         let rows: Vec<_> = store.rows.values().cloned().collect();
    ///         Ok::<_, Infallible>(Snapshot::new(rows).deleted(&store.deleted_lately))
    ///     },
    /// );
    /// ```
    pub fn snapshot<S, T, E, F, Fut>(mut self, state: S, hook: F) -> Self
    where
        S: Clone + Send + Sync + 'static,
        T: Serialize,
        E: Into<BoxError>,
        F: Fn(S, Identity) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Snapshot<T>, E>> + Send + 'static,
    {
        self.snapshot = Some(Arc::new(move |identity| {
            let snapshot = hook(state.clone(), identity);
            snapshot.map(|snapshot| Ok(snapshot.map_err(Into::into)?.into_changes())).boxed()
        }));
        self
    }

    /// Publishes each change in scopes: only identities that have one of them ([`Identity::with_scope`]) receive it.
    ///
    /// A change takes its scopes from the handler ([`LiveWrite::scope`](crate::LiveWrite::scope),
    /// [`Change::scope`](crate::Change::scope)), else from [`scope_param`](Self::scope_param) and
    /// [`scope_from`](Self::scope_from) together. An identity with any of them receives it. A change without a scope is
    /// not published: it is counted in [`Stats::writes_unpublished`](crate::Stats), and logged.
    ///
    /// All scopes are names in one namespace: a calendar `a` of one tenant and a calendar `a` of another are the same
    /// scope, unless their names differ. A name has at most 256 bytes and no control characters; other names are ignored.
    ///
    /// By default an id names one object of the entity:
    ///
    /// - An object that is published in other scopes than before has moved. Identities with only the previous scopes
    ///   receive a delete. Identities with only the new scopes receive the whole object.
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
    ///   counted and means no. The hook is called again with the next
    ///   [reminder](crate::LiveUpdatesBuilder::deletion_reminders), or after 30 s where there are none, and a visible object
    ///   is then sent. For a row of a snapshot, and for a change that the log no longer holds, the
    ///   [`snapshot`](Self::snapshot) hook is called again as well. After the last reminder such a row waits for its next
    ///   change.
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

/// Every row of a store, and the ids of recently deleted rows: the result of a [snapshot hook](Entity::snapshot), which
/// has an example.
#[derive(Clone, Debug)]
#[must_use = "a snapshot does nothing until a hook returns it"]
pub struct Snapshot<T> {
    rows: Vec<T>,
    deleted: Vec<String>,
    /// One for each row; empty without scopes.
    scopes: Vec<Scopes>,
}

impl<T> Snapshot<T> {
    /// Every row: anything that serialises to a JSON object with an `id`.
    pub fn new(rows: impl IntoIterator<Item = T>) -> Self {
        Self { rows: rows.into_iter().collect(), deleted: Vec::new(), scopes: Vec::new() }
    }

    /// Sets the scopes of each row, for a [scoped entity](Entity::scoped). An identity is sent the rows of its scopes, and no
    /// row without a scope. So the hook may return rows of every scope.
    ///
    /// ```
    /// use serde_json::json;
    /// use tower_live_updates::Snapshot;
    ///
    /// let rows = [json!({"id": 1, "tenant": "north"}), json!({"id": 2, "tenant": "south"})];
    /// let snapshot = Snapshot::new(rows).scoped_by(|row| row["tenant"].as_str().map(str::to_owned));
    /// ```
    pub fn scoped_by<I, N>(mut self, scopes: impl Fn(&T) -> I) -> Self
    where
        I: IntoIterator<Item = N>,
        N: Into<Box<str>>,
    {
        self.scopes = self.rows.iter().map(|row| scopes(row).into_iter().collect()).collect();
        self
    }

    /// The ids of deleted rows, as far back as pages can have been away: a day is plenty. All of them are sent to the page.
    /// Leave out ids that this identity must not receive, and include those of rows it may no longer see.
    pub fn deleted<I: fmt::Display>(mut self, ids: impl IntoIterator<Item = I>) -> Self {
        self.deleted.extend(ids.into_iter().map(|id| id.to_string()));
        self
    }

    fn into_changes(self) -> Everything
    where
        T: Serialize,
    {
        let Self { rows, deleted, scopes } = self;
        let count = rows.len() + deleted.len();
        let rows = rows.iter().zip(scopes.into_iter().chain(std::iter::repeat(Scopes::None)));
        let change =
            |(row, scopes): (&T, Scopes)| Some(Change::update(row).ok()?.whole().in_scopes(&scopes, &Scopes::None));
        let rows: Vec<Change> = rows.filter_map(change).collect();
        let gone: Vec<Change> = deleted.iter().filter_map(|id| Change::delete(id).ok()).collect();
        Everything { without_id: count - rows.len() - gone.len(), rows, gone }
    }
}
