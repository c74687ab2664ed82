//! Entities: what pages subscribe to, which routes change it, and what its widget can bear.

mod index;
mod rule;

pub(crate) use self::index::EntityIndex;

use std::{borrow::Cow, fmt, future::Future, sync::Arc};

use http::{Method, StatusCode, request::Parts};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    auth::Identity,
    change::{Change, ChangeKind},
    error::{ConfigError, PublishError},
    hook::{BoxError, BoxFuture},
    misnamed,
    object::{Object, string},
    scope::Scopes,
};

/// Names longer than this are refused; clients subscribe by them.
pub(crate) const MAX_NAME: usize = 64;

/// Reads an object back after the commit, by the scopes its request names and its id: JSON text, or `None` when the row
/// is gone.
pub(crate) type Load = Arc<dyn Fn(Vec<String>, String) -> BoxFuture<Result<Option<String>, BoxError>> + Send + Sync>;

/// Reads every row there is, and which are gone.
pub(crate) type ReadAll = Arc<dyn Fn(Identity) -> BoxFuture<Result<Everything, BoxError>> + Send + Sync>;

/// Whether somebody may subscribe.
pub(crate) type Authorize = Arc<dyn Fn(Identity) -> BoxFuture<Result<bool, BoxError>> + Send + Sync>;

/// Whether somebody may see an object, given as JSON text.
pub(crate) type Visible = Arc<dyn Fn(Identity, &str) -> BoxFuture<Result<bool, BoxError>> + Send + Sync>;

/// What of an object somebody may see, both as JSON text.
pub(crate) type Project = Arc<dyn Fn(Identity, &str) -> BoxFuture<Result<String, BoxError>> + Send + Sync>;

/// The scopes of a write, by its request.
pub(crate) type ScopesOf = Arc<dyn Fn(&Parts) -> Scopes + Send + Sync>;

/// How an entity's changes come by their scopes.
#[derive(Clone, Default)]
pub(crate) struct Scoping {
    /// Parameters of the routes that name one.
    pub(crate) params: Vec<String>,
    pub(crate) of_request: Option<ScopesOf>,
    /// An id names an object of its scope only.
    pub(crate) scoped_ids: bool,
}

/// The state of a store.
#[derive(Debug)]
pub(crate) struct Everything {
    pub(crate) rows: Vec<Change>,
    pub(crate) gone: Vec<Change>,
    /// What no page can be told, for want of a usable id.
    pub(crate) without_id: usize,
}

/// A named collection that pages subscribe to, and the routes that change it.
///
/// ```
/// use http::Method;
/// use tower_live_updates::{ChangeKind, Entity};
///
/// // The Scheduler's: POST /events, PUT|PATCH|DELETE /events/{id}
/// let events = Entity::scheduler("/events");
///
/// // The Gantt's tasks: payload key and paths are singular, the entity is plural
/// let tasks = Entity::new("tasks")
///     .payload_key("task")
///     .collection("/data/task")
///     .route(Method::POST, "/data/task/{id}/archive", ChangeKind::Delete);
///
/// // Only published by hand: no route changes it
/// let calendars = Entity::new("calendars").payload_key("calendar");
/// ```
#[derive(Clone)]
#[must_use = "an entity does nothing until a builder takes it"]
pub struct Entity {
    pub(crate) name: String,
    pub(crate) payload_key: String,
    pub(crate) routes: Vec<EntityRoute>,
    pub(crate) lists: Vec<String>,
    /// The application says what caches may do with them.
    pub(crate) has_cacheable_lists: bool,
    /// Writes may say in their bodies what they are.
    pub(crate) has_body_modes: bool,
    pub(crate) request_pointer: Option<String>,
    pub(crate) response_pointer: Option<String>,
    pub(crate) load: Option<Load>,
    /// The hook above is told whose row it is to read.
    load_knows_scopes: bool,
    pub(crate) snapshot: Option<ReadAll>,
    pub(crate) parent_key: Option<String>,
    /// `None` where everyone hears everything.
    pub(crate) scoping: Option<Scoping>,
    pub(crate) authorize: Option<Authorize>,
    pub(crate) visible: Option<Visible>,
    pub(crate) project: Option<Project>,
    pub(crate) widget: Widget,
}

/// One method and path that changes an entity.
#[derive(Clone, Debug)]
pub(crate) struct EntityRoute {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) kind: ChangeKind,
}

/// Whose rules an entity follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Widget {
    /// None known: every object is sent, every answer is fine.
    Any,
    /// DHTMLX Scheduler 7.2.
    Scheduler,
}

impl Entity {
    /// An entity without routes: pages can subscribe to it, and the application publishes.
    ///
    /// `name` is what clients subscribe to and, until [`payload_key`](Self::payload_key) says otherwise, the payload
    /// key too. 64 bytes at most.
    pub fn new(name: impl Into<String>) -> Self {
        let name = name.into();
        Self {
            payload_key: name.clone(),
            name,
            routes: Vec::new(),
            lists: Vec::new(),
            has_cacheable_lists: false,
            has_body_modes: false,
            request_pointer: None,
            response_pointer: None,
            load: None,
            load_knows_scopes: false,
            snapshot: None,
            parent_key: None,
            scoping: None,
            authorize: None,
            visible: None,
            project: None,
            widget: Widget::Any,
        }
    }

    /// The DHTMLX Scheduler's `events` (payload key `event`) under the REST address `path`.
    ///
    /// Objects that would stop a page are not sent: an added event needs `start_date` and `end_date` as text, and an
    /// `rrule` must be one that the Scheduler draws (see [`check`](Self::check)). Answers the Scheduler takes for a
    /// failure (201 or 204 instead of 200, a create without `tid`) are named once in the log.
    ///
    /// ```
    /// let events = tower_live_updates::Entity::scheduler("/events");
    /// ```
    ///
    /// Exceptions of a recurring series go with it: the preset sets [`parent_key`](Self::parent_key) to
    /// `recurring_event_id`. Exceptions have none of their own.
    pub fn scheduler(path: impl AsRef<str>) -> Self {
        let events = Self::new("events").payload_key("event").collection(path).parent_key("recurring_event_id");
        Self { widget: Widget::Scheduler, ..events }
    }

    /// The singular key of the object in a message, and the tail of the message types: `event` gives
    /// `{"type":"add-event","event":{…}}`. Default: the entity's name.
    pub fn payload_key(mut self, key: impl Into<String>) -> Self {
        self.payload_key = key.into();
        self
    }

    /// The usual REST routes under `path`: POST on it adds, PUT and PATCH on `path/{id}` update, DELETE deletes, GET on
    /// it lists.
    ///
    /// The path may hold parameters: `/calendars/{calendar}/events`. One trailing slash more or less makes no
    /// difference. A path that no request can have (a query, `:id`, `*`, white space) is refused by `build()`.
    pub fn collection(self, path: impl AsRef<str>) -> Self {
        let given = path.as_ref();
        let bare = given.trim_end_matches('/');
        let item = format!("{bare}/{{id}}");
        // Inside `nest` the collection may be all that is left.
        let path = if bare.is_empty() { given } else { bare };
        self.route(Method::POST, path, ChangeKind::Add)
            .route(Method::PUT, &item, ChangeKind::Update)
            .route(Method::PATCH, &item, ChangeKind::Update)
            .route(Method::DELETE, &item, ChangeKind::Delete)
            .list_route(path)
    }

    /// One more route that pages GET their objects from. What changes while it answers is told once more, since the
    /// page shows the list when it arrives, however old it is by then. Several entities may share one.
    ///
    /// ```
    /// use tower_live_updates::Entity;
    ///
    /// let tasks = Entity::new("tasks").payload_key("task").collection("/data/task").list_route("/data");
    /// let links = Entity::new("links").payload_key("link").collection("/data/link").list_route("/data");
    /// ```
    pub fn list_route(mut self, path: impl Into<String>) -> Self {
        self.lists.push(path.into());
        self
    }

    /// Leaves the caching headers of this entity's list answers to the application. Default: an answer without
    /// `Cache-Control`, `Expires` and `Pragma` is given `Cache-Control: no-store`.
    ///
    /// A browser that goes back to a page takes its list from the cache however old it is, unless the answer said
    /// `no-store`: the page then shows old events, and the server cannot know. A list that is kept nevertheless must be no
    /// older than a minute when a page gets it.
    ///
    /// ```
    /// let events = tower_live_updates::Entity::scheduler("/events").cacheable_lists();
    /// ```
    pub fn cacheable_lists(mut self) -> Self {
        self.has_cacheable_lists = true;
        self
    }

    /// One more route that changes this entity; one that updates or deletes must name `{id}`.
    ///
    /// ```
    /// use http::Method;
    /// use tower_live_updates::{ChangeKind, Entity};
    ///
    /// let events = Entity::scheduler("/events")
    ///     .route(Method::POST, "/events/{id}/cancel", ChangeKind::Update);
    /// ```
    pub fn route(mut self, method: Method, path: impl Into<String>, kind: ChangeKind) -> Self {
        self.routes.push(EntityRoute { method, path: path.into(), kind });
        self
    }

    /// Reads the action in a request's body, for back ends that do so, too. Default: off.
    ///
    /// In the DHTMLX DataProcessor's modes `JSON` and `POST` every write is `POST …?editing=true`, and its action stands in
    /// the body: as `action` beside `id` and `data`, or as `!nativeeditor_status` among the fields. It is read only with
    /// that query, and only where a POST adds. It is a claim of the page: where the answer contradicts it (`inserted` or a
    /// `tid` for what claims to be an update or a deletion, another id), the answer counts; where that does not say
    /// enough, nothing is published, and the log says why. A back end that does not read the action must not have this.
    ///
    /// ```
    /// let events = tower_live_updates::Entity::scheduler("/events").body_modes();
    /// ```
    pub fn body_modes(mut self) -> Self {
        self.has_body_modes = true;
        self
    }

    /// Where in a request's JSON the object stands, as a JSON pointer (RFC 6901). Default: under the payload key
    /// when there is an object (the article's `{"event":{…}}`), else the whole body.
    pub fn request_pointer(mut self, pointer: impl Into<String>) -> Self {
        self.request_pointer = Some(pointer.into());
        self
    }

    /// Where in a response's JSON the stored object stands, as a JSON pointer. Default: `item`, else the payload
    /// key, else the whole answer when it has an `id`.
    pub fn response_pointer(mut self, pointer: impl Into<String>) -> Self {
        self.response_pointer = Some(pointer.into());
        self
    }

    /// Reads the object back after each write, so that pages are told what the store holds.
    ///
    /// The hook gets its own clone of `state` and the object's id as text. `None` means the row is gone and is told
    /// as a delete. An error, a panic, or more than the builder's `hook_timeout` is logged and counted, and the
    /// change is told from request and response instead; where [`visible`](Self::visible) or [`project`](Self::project)
    /// must see the row, only a deletion is.
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

    /// As [`load`](Self::load), for a [scoped entity](Self::scoped), where an id alone does not tell whose row it is: the hook
    /// gets the scopes, too, in which the change is published, and must read no row of another. These are what the handler
    /// names with [`LiveWrite::scope`](crate::LiveWrite::scope), else what the request does
    /// ([`scope_param`](Self::scope_param), [`scope_from`](Self::scope_from)). `None` says that the row is in none of these.
    /// Every scoped entity with a hook needs this one, since a write that names somebody else's id may well be answered with
    /// a success although it has changed nothing. Without any scope the hook is not called.
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
            Box::pin(async move {
                match row.await.map_err(Into::into)? {
                    None => Ok(None),
                    Some(row) => Ok(Some(serde_json::to_string(&row)?)),
                }
            })
        }));
        self
    }

    /// Reads every row, for pages that were away for longer than the log remembers, or since before the server was
    /// started: they are brought to the store's state without being loaded again.
    ///
    /// The hook gets its own clone of `state` and the identity that asks. Of a [scoped entity](Self::scoped) each row needs
    /// its scopes ([`Snapshot::scoped_by`]), and none is sent to who does not have them; [`visible`](Self::visible) is
    /// asked about each row. The answer is shared by all connections of a principal with the same scopes for two seconds
    /// (so a principal must name one user, whatever its data), and four are asked for at one time.
    /// The ids of rows that were deleted lately belong to it, and of those that this identity may not see any more:
    /// without them a page keeps the events that went while it was away. Where the scopes of an open page change, the
    /// hook is asked with the former ones, too: what only these showed is gone. An error, a panic, or more
    /// than the builder's `hook_timeout` is logged, counted and tried again twice; then, as without this hook, pages
    /// are told that they must load their list again (see the README, "Pages that were away for too long"). A page
    /// receives the rows before anything else of this entity; more than 100 of them are sent in pieces, 24 updates a second,
    /// and new changes go on meanwhile. A page that handles `$resync` is told to load its list instead of so many. The hook runs to its end although its page has
    /// gone. Rows without a usable id, and those that pages cannot bear ([`Entity::check`]), are left out, with a line
    /// in the log.
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
            Box::pin(async move {
                let Snapshot { rows, deleted, scopes } = snapshot.await.map_err(Into::into)?;
                let count = rows.len() + deleted.len();
                let rows = rows.iter().zip(scopes.into_iter().chain(std::iter::repeat(Scopes::None)));
                let change = |(row, scopes): (&T, Scopes)| {
                    Some(Change::update(row).ok()?.whole().told_in(&scopes, &Scopes::None))
                };
                let rows: Vec<Change> = rows.filter_map(change).collect();
                let gone: Vec<Change> = deleted.iter().filter_map(|id| Change::delete(id).ok()).collect();
                let without_id = count - rows.len() - gone.len();
                Ok(Everything { rows, gone, without_id })
            })
        }));
        self
    }

    /// The key under which an object names the one it goes with: `recurring_event_id` of the Scheduler's exceptions,
    /// `parent` of the Gantt's tasks. When that one is deleted, pages are told that this one is gone, too.
    ///
    /// The layer knows of the objects that are in its log. Where a store drops others as well, or when something else
    /// than a delete drops them, the handler says so with [`LiveWrite`](crate::LiveWrite).
    ///
    /// ```
    /// use tower_live_updates::Entity;
    ///
    /// let tasks = Entity::new("tasks").payload_key("task").collection("/task").parent_key("parent");
    /// ```
    pub fn parent_key(mut self, key: impl Into<String>) -> Self {
        self.parent_key = Some(key.into());
        self
    }

    /// Says that not everyone hears everything: each change is told in scopes, and only to identities that have one of
    /// them ([`Identity::scope`]).
    ///
    /// A change takes its scopes from what the handler says ([`LiveWrite::scope`](crate::LiveWrite::scope),
    /// [`Change::scope`]), else from [`scope_param`](Self::scope_param) and [`scope_from`](Self::scope_from) together: who
    /// has any of them hears it. A change without a scope is told to nobody: it is counted in
    /// [`Stats::writes_unpublished`](crate::Stats), and the log says so. Scopes are names of one kind: a calendar `a` of one
    /// tenant and one of another are the same scope, unless you name them apart. A name has 256 bytes at most and no
    /// control characters; others are no scope.
    ///
    /// By itself an id names one object of the entity. So one that is told in other scopes than before has moved: those
    /// who have only the former ones are told that it is gone, those who have only the new ones get it whole; and a
    /// deletion without a scope goes to those who have the object. What only a request claims moves nothing: where the
    /// scopes of its write and those of the object have nothing in common, it is not broadcast, unless
    /// [`LiveWrite::moved_from`](crate::LiveWrite::moved_from) or a row that [`load_scoped`](Self::load_scoped) finds says so.
    /// Where scopes come from requests, or with
    /// [`ids_per_scope`](Self::ids_per_scope), it names one in its scopes only, and moves are said with
    /// [`Change::moved_from`].
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

    /// [Scopes](Self::scoped) each write by a parameter of its route, percent-decoded. Several calls name several
    /// parameters, each a scope of its own; who has any of them hears the change.
    ///
    /// Ids are taken to be unique within these scopes only, as the paths are: `/north/events/7` and `/south/events/7` are
    /// two events. So an object does not move to another scope by itself; the handler says so with
    /// [`LiveWrite::moved_from`](crate::LiveWrite::moved_from).
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

    /// [Scopes](Self::scoped) each write by what its request says: by a header, or by what an outer layer has put into
    /// its extensions. An empty answer is no scope. As with [`scope_param`](Self::scope_param), ids are taken to be unique
    /// within these scopes only, so that a request cannot touch what others know of an object of the same id. The
    /// closure is called before the handler; it must not block. A panic in it is counted and gives no scope. A second call
    /// replaces the first one's closure.
    ///
    /// ```
    /// use http::request::Parts;
    /// use tower_live_updates::Entity;
    ///
    /// #[derive(Clone)]
    /// struct Tenant(String);
    ///
    /// // The authentication layer has found out whose request this is.
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

    /// Says that ids are unique within their [scope](Self::scoped) only, as where every tenant has a store of its own.
    /// Where scopes come from requests that is so anyway. Otherwise an id names one object of the entity, whatever its
    /// scope. With it, a deletion needs its scope too, an object moves only where somebody says so
    /// ([`Change::moved_from`], [`LiveWrite::moved_from`](crate::LiveWrite::moved_from)), and several scopes together are
    /// one place: what is published by hand must name those that its requests name.
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

    /// Asks who may subscribe to this entity: at each subscription, and as often as the authenticator is asked again
    /// about open sockets. Without it everybody may who has been let in.
    ///
    /// `false` ignores the subscription, or ends it; so does an error, a panic, or more than the builder's
    /// `hook_timeout`, which is counted, and asked about again. Each subscription gets its own clone of `state`. The hook
    /// shares the bound of the authenticator:
    /// [`max_concurrent_authentications`](crate::LiveUpdatesBuilder::max_concurrent_authentications) run at one time, three quarters
    /// of them for this hook, and one that cannot run in time counts as failed.
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
        self.authorize = Some(Arc::new(move |identity| {
            let may = hook(state.clone(), identity);
            Box::pin(async move { may.await.map_err(Into::into) })
        }));
        self
    }

    /// Asks which objects somebody may see, each time one is told: live, in a replay, once more, or from a snapshot.
    ///
    /// Who loses sight of an object by a change is told that it is gone, who gains sight gets it whole. The hook is
    /// asked about the object as it is now and, where that matters, as it was before. So it should judge by identity and
    /// object; rights that are kept elsewhere, and change, belong into the identity's [scopes](Self::scoped). It must see
    /// whole objects: an entity with routes needs a [load hook](Self::load), and what you publish by hand must be whole.
    /// What was before is known for as long as the log holds it, or is read before the write with the load hook; where
    /// nobody knows, those who may not see the object now are told its id as deleted, since they may be showing it.
    ///
    /// An error, a panic, more than the builder's `hook_timeout`, or an object that cannot be read as `T` is counted and
    /// means no. About what was told as a change it is asked again with the next
    /// [repeat](crate::LiveUpdatesBuilder::deletion_reminders), and then the object is there; a row of a snapshot has to wait for its
    /// next change. Sixteen objects are asked about at one time. While a hook takes its time, its page hears nothing of
    /// other entities either; other pages do not wait. Messages are no objects, and are not asked about. Pages of this
    /// entity are served by their own tasks instead of the common fan-out, which costs more for each of them.
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
        self.visible = Some(Arc::new(move |identity, object| match serde_json::from_str(object) {
            Ok(object) => {
                let sees = hook(state.clone(), identity, object);
                Box::pin(async move { sees.await.map_err(Into::into) })
            }
            Err(error) => Box::pin(std::future::ready(Err(unreadable(&error)))),
        }));
        self
    }

    /// Makes of an object what somebody may see of it, for fields that are not for everyone. Asked behind
    /// [`visible`](Self::visible), and as often.
    ///
    /// The answer serialises to a JSON object with the same `id`; an answer without one gets it. Whatever fails, as
    /// there, is counted, and means that this object is not to be seen; so does an answer that would break pages, or one
    /// that has another `id`.
    ///
    /// What the hook answers is made for one page and shared with no other. A page that stops reading keeps its own copy
    /// of one object, or of objects of 128 KiB together and one more where its stream is not plain TCP, until it is
    /// closed after the builder's [`write_timeout`](crate::LiveUpdatesBuilder::write_timeout). Without `project` a large object is
    /// shared with the log, and such a page keeps 256 kB at most.
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
        self.project = Some(Arc::new(move |identity, object| match serde_json::from_str(object) {
            Ok(object) => {
                let sees = hook(state.clone(), identity, object);
                Box::pin(async move { Ok(serde_json::to_string(&sees.await.map_err(Into::into)?)?) })
            }
            Err(error) => Box::pin(std::future::ready(Err(unreadable(&error)))),
        }));
        self
    }

    /// Whether pages can bear this change: what fails here is never sent. A store that refuses such objects keeps them
    /// from pages that load them, too.
    ///
    /// [`Entity::scheduler`] refuses, as seen with Scheduler 7.2.15:
    ///
    /// - an add whose `start_date` or `end_date` is no text;
    /// - an `rrule` on which the client throws, after which the page draws and saves no event any more: an unknown part or
    ///   `FREQ`, an `UNTIL` or a `BYDAY` that is not as RFC 5545 writes it, in capitals, a weekday's number or a `BYSETPOS`
    ///   of 0, a text for `BYHOUR`;
    /// - an `rrule` with which the client needs more than half a second to draw once, or never comes to an end: an
    ///   `INTERVAL` that is no whole number, hours that are never met, days that never come, `SECONDLY` without a `COUNT`.
    ///   It depends on the start of the series. The dates are gone through for the week in which it starts and, unless its
    ///   end has passed, for one year from today, which is where pages open. So a series that starts far in the past may be
    ///   refused because of the way to today. Where the object holds no readable `start_date`, the rule must do from any
    ///   start, and only the first week is gone through.
    ///
    /// All other rules pass, however odd: any `COUNT`, `WKST`, `TZID`, `BYYEARDAY` or `BYEASTER`, and numbers out of range.
    /// The check takes microseconds for usual rules, and tens of milliseconds for the worst. It looks at the object alone:
    /// an update that moves the start of a series without its `rrule` is not looked at.
    ///
    /// ```
    /// use serde_json::json;
    /// use tower_live_updates::{Change, Entity};
    ///
    /// let events = Entity::scheduler("/events");
    /// let event = json!({
    ///     "id": 7, "start_date": "2026-11-25 09:00", "end_date": "2026-11-25 09:15", "rrule": "every second Tuesday",
    /// });
    /// assert!(events.check(&Change::add(&event)?).is_err());
    /// # Ok::<(), tower_live_updates::ChangeError>(())
    /// ```
    ///
    /// # Errors
    /// [`PublishError::BreaksPages`] says why not. Entities without a preset bear everything.
    pub fn check(&self, change: &Change) -> Result<(), PublishError> {
        if !self.widget.may_refuse(change.kind(), change.object()) {
            return Ok(());
        }
        let object = Object::of(change.object()).unwrap_or_default();
        self.widget.check(change.kind(), &object).map_err(|hazard| PublishError::BreaksPages {
            entity: self.name.clone(),
            id: change.id().to_owned(),
            reason: hazard.reason_for(&object),
        })
    }

    /// True where it is asked who may see what.
    pub(crate) fn is_filtered(&self) -> bool {
        self.visible.is_some() || self.project.is_some()
    }

    /// The patterns of everything that is watched.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &str> {
        self.routes.iter().map(|route| &*route.path).chain(self.lists.iter().map(String::as_str))
    }

    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        for name in [&self.name, &self.payload_key] {
            if name.is_empty() || name.len() > MAX_NAME || name.starts_with(['$', '/']) || name.trim() != *name {
                return Err(ConfigError::Name(name.clone()));
            }
        }
        if self.scoping.is_some() && self.load.is_some() && !self.load_knows_scopes {
            return Err(ConfigError::LoadWithoutScopes(self.name.clone()));
        }
        if self.is_filtered() && self.load.is_none() && !self.routes.is_empty() {
            return Err(ConfigError::ViewWithoutLoad(self.name.clone()));
        }
        for param in self.scoping.iter().flat_map(|scoping| &scoping.params) {
            let names = |route: &EntityRoute| {
                [format!("{{{param}}}"), format!("{{*{param}}}")].iter().any(|it| route.path.contains(it))
            };
            if !self.routes.iter().any(names) {
                return Err(ConfigError::ScopeParam { entity: self.name.clone(), param: param.clone() });
            }
        }
        for pointer in [&self.request_pointer, &self.response_pointer].into_iter().flatten() {
            if !pointer.is_empty() && !pointer.starts_with('/') {
                return Err(ConfigError::Pointer { entity: self.name.clone(), pointer: pointer.clone() });
            }
        }
        Ok(())
    }
}

/// That a hook cannot read an object. What serde says of it may quote the object, and goes into no log.
fn unreadable(error: &serde_json::Error) -> BoxError {
    format!("it cannot read the object as its type ({:?} error at column {})", error.classify(), error.column()).into()
}

impl fmt::Debug for Entity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entity")
            .field("name", &self.name)
            .field("payload_key", &self.payload_key)
            .field("routes", &self.routes)
            .field("widget", &self.widget)
            .finish_non_exhaustive()
    }
}

/// Every row of a store, and the ids of what was deleted lately: the answer of a [snapshot hook](Entity::snapshot),
/// where an example stands.
#[derive(Clone, Debug)]
#[must_use = "a snapshot does nothing until a hook answers with it"]
pub struct Snapshot<T> {
    rows: Vec<T>,
    deleted: Vec<String>,
    /// One for each row, where they have any.
    scopes: Vec<Scopes>,
}

impl<T> Snapshot<T> {
    /// Every row: anything that serialises to a JSON object with an `id`.
    pub fn new(rows: impl IntoIterator<Item = T>) -> Self {
        Self { rows: rows.into_iter().collect(), deleted: Vec::new(), scopes: Vec::new() }
    }

    /// Says in which scopes each row is, of a [scoped entity](Entity::scoped): who asks gets those they have, and no row
    /// without a scope. So the hook may answer with rows that are not for everyone.
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

    /// The ids of rows that are gone, as far back as pages can have been away: a day is plenty. They are told to who asks
    /// as they are: leave out what is not for this identity, and name what it may not see any more.
    pub fn deleted<I: fmt::Display>(mut self, ids: impl IntoIterator<Item = I>) -> Self {
        self.deleted.extend(ids.into_iter().map(|id| id.to_string()));
        self
    }
}

/// What would make the stock client stop saving if it were sent.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Hazard {
    Dates,
    Rule(rule::Fault),
    /// Its rule is no text.
    NoRule,
}

impl Hazard {
    /// The reason, as precise as this object allows.
    fn reason_for(&self, object: &Object<'_>) -> Cow<'static, str> {
        match self {
            Self::Dates => misnamed::dates(object).map_or_else(|| self.reason(), Cow::Borrowed),
            Self::Rule(_) | Self::NoRule => self.reason(),
        }
    }

    pub(crate) fn reason(&self) -> Cow<'static, str> {
        match self {
            Self::Dates => Cow::Borrowed(
                "an added event needs start_date and end_date as text; answer the create with the stored row in \
                 `item`, or give the entity a load hook",
            ),
            Self::Rule(fault) => Cow::Owned(fault.to_string()),
            Self::NoRule => {
                Cow::Borrowed("its rrule is no text; send \"\" or an RFC 5545 rule without its RRULE: prefix")
            }
        }
    }
}

/// What in an answer a widget takes for a failure although the server succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Misfit {
    Status,
    NoTid,
}

impl Misfit {
    pub(crate) fn remedy(self) -> &'static str {
        match self {
            Self::Status => {
                "the Scheduler takes only status 200 for success (201 and 204 leave the event unsaved on the page); \
                 answer 200"
            }
            Self::NoTid => {
                "the Scheduler needs the new id as `tid` to replace its temporary one, else the event appears twice; \
                 answer {\"action\":\"inserted\",\"tid\":ID}"
            }
        }
    }
}

impl Widget {
    /// False where `check` finds nothing, which needs no reading of the object: a change writes its keys without needless
    /// escapes.
    fn may_refuse(self, kind: ChangeKind, json: &str) -> bool {
        self != Self::Any && (kind == ChangeKind::Add || (kind == ChangeKind::Update && json.contains(r#""rrule""#)))
    }

    /// Whether pages bear an object of this kind of change. Facts: Scheduler 7.2.15 in Chromium; an add without
    /// textual dates, or an unreadable rule, throws while saving is suspended and leaves it off.
    pub(crate) fn check(self, kind: ChangeKind, object: &Object<'_>) -> Result<(), Hazard> {
        if self == Self::Any || kind == ChangeKind::Delete {
            return Ok(());
        }
        let dated = |key| object.get(key).and_then(string).is_some_and(|date| !date.is_empty());
        if kind == ChangeKind::Add && !(dated("start_date") && dated("end_date")) {
            return Err(Hazard::Dates);
        }
        let Some(raw) = object.get("rrule").filter(|raw| !is_nothing(raw)) else { return Ok(()) };
        let rule = string(raw).ok_or(Hazard::NoRule)?;
        let date = |key| object.get(key).and_then(string).and_then(|date| rule::event_date(&date));
        let span = rule::Span { start: date("start_date"), end: date("end_date") };
        rule::check(&rule, span).map_err(Hazard::Rule)
    }

    /// What the widget will not understand about a successful answer.
    pub(crate) fn misfit(self, kind: ChangeKind, status: StatusCode, tid: bool) -> Option<Misfit> {
        match self {
            Self::Any => None,
            Self::Scheduler if status != StatusCode::OK => Some(Misfit::Status),
            Self::Scheduler => (kind == ChangeKind::Add && !tid).then_some(Misfit::NoTid),
        }
    }
}

/// What JavaScript takes for nothing.
fn is_nothing(raw: &str) -> bool {
    matches!(raw, "null" | "false" | "\"\"") || raw.parse() == Ok(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(kind: ChangeKind, json: &str) -> Result<(), Hazard> {
        Widget::Scheduler.check(kind, &Object::parse(json.as_bytes()).unwrap())
    }

    #[test]
    fn an_add_without_textual_dates_is_held_back() {
        for dates in [
            r#""text":"x""#,
            r#""start_date":null,"end_date":null"#,
            r#""start_date":1745226000000,"end_date":1745229600000"#,
            r#""start_date":{},"end_date":{}"#,
            r#""start_date":"2025-04-21 10:00""#,
        ] {
            let json = format!(r#"{{"id":1,{dates}}}"#);
            assert_eq!(check(ChangeKind::Add, &json), Err(Hazard::Dates), "{json}");
            assert_eq!(check(ChangeKind::Update, &json), Ok(()), "an update merges: {json}");
        }
    }

    #[test]
    fn dates_in_any_textual_form_pass() {
        for date in ["2025-04-21 10:00", "2025-04-21T10:00:00.000Z", "04/21/2025 10:00"] {
            let json = format!(r#"{{"id":1,"start_date":"{date}","end_date":"{date}"}}"#);
            assert_eq!(check(ChangeKind::Add, &json), Ok(()));
        }
    }

    #[test]
    fn what_is_no_text_is_no_rule() {
        let update = |rule: &str| check(ChangeKind::Update, &format!(r#"{{"id":1,"rrule":{rule}}}"#));
        for nothing in ["null", "false", "\"\"", "0", "-0", "0.0", "0e5"] {
            assert_eq!(update(nothing), Ok(()), "JavaScript takes it for nothing: {nothing}");
        }
        for other in ["5", "{}", "[]", "[\"FREQ=DAILY\"]", "true"] {
            assert_eq!(update(other), Err(Hazard::NoRule), "{other}");
        }
        assert_eq!(update("\"FREQ=DAILY\""), Ok(()));
        assert!(matches!(update("\"EVERY DAY\""), Err(Hazard::Rule(_))));
    }

    #[test]
    fn the_dates_of_a_series_are_looked_at_with_its_rule() {
        let add = |start: &str, rule: &str| {
            let (end, rule) = ("2026-04-21 00:00", serde_json::to_string(rule).unwrap());
            check(ChangeKind::Add, &format!(r#"{{"id":1,"start_date":"{start}","end_date":"{end}","rrule":{rule}}}"#))
        };
        // Every second hour from ten o'clock on there is no odd one.
        assert_eq!(add("2025-04-21 10:00", "FREQ=HOURLY;INTERVAL=2;BYHOUR=4"), Ok(()));
        assert!(add("2025-04-21 10:00", "FREQ=HOURLY;INTERVAL=2;BYHOUR=3").is_err());
        assert_eq!(add("2025-04-21 11:00", "FREQ=HOURLY;INTERVAL=2;BYHOUR=3"), Ok(()));
    }

    #[test]
    fn a_rule_is_found_however_its_key_was_written() {
        let (events, tasks) = (Entity::scheduler("/events"), Entity::new("tasks"));
        for key in ["rrule", r"\u0072rule", r"rrul\u0065"] {
            let json = format!(r#"{{"id":1,"{key}":"nonsense"}}"#);
            let change = Change::of(ChangeKind::Update, &Object::parse(json.as_bytes()).unwrap()).unwrap();
            assert!(events.check(&change).is_err() && tasks.check(&change).is_ok(), "{key}");
        }
    }

    #[test]
    fn other_widgets_bear_everything() {
        let object = Object::parse(br#"{"id":1,"rrule":"nonsense"}"#).unwrap();
        assert_eq!(Widget::Any.check(ChangeKind::Add, &object), Ok(()));
        assert_eq!(Widget::Any.misfit(ChangeKind::Add, StatusCode::CREATED, false), None);
    }

    #[test]
    fn answers_the_scheduler_takes_for_failures_are_named() {
        let misfit = |kind, status, tid| Widget::Scheduler.misfit(kind, status, tid);
        assert_eq!(misfit(ChangeKind::Add, StatusCode::CREATED, true), Some(Misfit::Status));
        assert_eq!(misfit(ChangeKind::Add, StatusCode::OK, false), Some(Misfit::NoTid));
        assert_eq!(misfit(ChangeKind::Delete, StatusCode::NO_CONTENT, false), Some(Misfit::Status));
        assert_eq!(misfit(ChangeKind::Update, StatusCode::OK, false), None);
    }
}
