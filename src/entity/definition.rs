//! An entity's names and routes, and the checks of its configuration and of the changes that are published to it.

use std::{borrow::Cow, fmt};

use http::Method;

use super::{
    hooks::{Authorize, Load, Project, ReadAll, Scoping, Visible},
    widget::Widget,
};
use crate::{
    change::{Change, ChangeKind, usable_id},
    error::{ConfigError, PublishError},
    object::Object,
    presence::Presence,
};

/// Longer names are refused; clients subscribe by them.
const MAX_NAME: usize = 64;

/// A named collection that pages subscribe to, and the routes that change it.
///
/// ```
/// use http::Method;
/// use tower_live_updates::{ChangeKind, Entity};
///
/// // The Scheduler's: POST /events, PUT|PATCH|DELETE /events/{id}
/// let events = Entity::scheduler("/events");
///
/// // The Gantt's tasks, with a route of the application's own: POST /data/task, PUT|PATCH|DELETE /data/task/{id}
/// let tasks = Entity::gantt_tasks("/data")
///     .route(Method::POST, "/data/task/{id}/archive", ChangeKind::Delete);
///
/// // Published by the application only: no route changes it
/// let calendars = Entity::new("calendars").payload_key("calendar");
/// ```
#[derive(Clone)]
#[must_use = "an entity does nothing until a builder takes it"]
pub struct Entity {
    pub(crate) name: String,
    pub(crate) payload_key: String,
    pub(crate) routes: Vec<EntityRoute>,
    pub(crate) lists: Vec<String>,
    /// The application sets the caching headers of its lists.
    pub(crate) has_cacheable_lists: bool,
    /// The body of a write may name its action.
    pub(crate) has_body_modes: bool,
    /// Answers are put into the form that the DataProcessor understands.
    pub(crate) has_widget_answers: bool,
    /// A page is not sent its own changes as they happen.
    pub(crate) skips_writer: bool,
    pub(crate) request_pointer: Option<String>,
    pub(crate) response_pointer: Option<String>,
    pub(crate) load: Option<Load>,
    /// The load hook takes scopes.
    pub(super) load_knows_scopes: bool,
    pub(crate) snapshot: Option<ReadAll>,
    pub(crate) parent_key: Option<String>,
    /// The field of a task that holds its place among its siblings.
    pub(crate) order_key: Option<String>,
    /// `None` if every subscriber receives everything.
    pub(crate) scoping: Option<Scoping>,
    pub(crate) authorize: Option<Authorize>,
    pub(crate) visible: Option<Visible>,
    pub(crate) project: Option<Project>,
    /// Its objects are those who are here.
    pub(crate) presence: Option<Presence>,
    pub(crate) widget: Widget,
}

/// One method and path that changes an entity.
#[derive(Clone, Debug)]
pub(crate) struct EntityRoute {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) kind: ChangeKind,
    /// Its query must name the entity, as in `?editing=true&gantt_mode=tasks`; the action is in the body.
    pub(crate) is_mode: bool,
    /// An update that moves its object among its siblings.
    pub(crate) moves: Option<MoveFields>,
}

/// Fields of a request that moves, each with the name that the object has it by.
pub(crate) type MoveFields = &'static [(&'static str, &'static str)];

impl Entity {
    /// An entity without routes: pages can subscribe to it, and the application publishes.
    ///
    /// Clients subscribe to `name`, which is also the payload key unless [`payload_key`](Self::payload_key) sets another.
    /// At most 64 bytes.
    pub fn new(name: impl Into<String>) -> Self {
        let name = name.into();
        Self {
            payload_key: name.clone(),
            name,
            routes: Vec::new(),
            lists: Vec::new(),
            has_cacheable_lists: false,
            has_body_modes: false,
            has_widget_answers: false,
            skips_writer: false,
            request_pointer: None,
            response_pointer: None,
            load: None,
            load_knows_scopes: false,
            snapshot: None,
            parent_key: None,
            order_key: None,
            scoping: None,
            authorize: None,
            visible: None,
            project: None,
            presence: None,
            widget: Widget::Any,
        }
    }

    /// The singular key of the object in a message, and the end of the message types: `event` gives
    /// `{"type":"add-event","event":{…}}`. At most 64 bytes. Default: the entity's name.
    pub fn payload_key(mut self, key: impl Into<String>) -> Self {
        self.payload_key = key.into();
        self
    }

    /// The usual REST routes under `path`: POST on it adds, PUT and PATCH on `path/{id}` update, DELETE deletes, GET on
    /// it lists.
    ///
    /// The path may hold parameters: `/calendars/{calendar}/events`. A trailing slash makes no difference. `build()` refuses
    /// a path that no request can have (with a query, `:id`, `*` or white space).
    pub fn collection(self, path: impl AsRef<str>) -> Self {
        let given = path.as_ref();
        let bare = given.trim_end_matches('/');
        // Inside `nest` the collection may be all that is left.
        let path = if bare.is_empty() { given } else { bare };
        self.write_routes(path).list_route(path)
    }

    /// The routes of a [`collection`](Self::collection) without its list. `path` has no slash at its end, or is one.
    pub(super) fn write_routes(self, path: &str) -> Self {
        let item = format!("{}/{{id}}", path.trim_end_matches('/'));
        self.route(Method::POST, path, ChangeKind::Add)
            .route(Method::PUT, &item, ChangeKind::Update)
            .route(Method::PATCH, &item, ChangeKind::Update)
            .route(Method::DELETE, &item, ChangeKind::Delete)
    }

    /// Adds a route that pages GET their objects from. Changes during the request are resent after its response, since the
    /// page shows the list as it was read. Several entities may share a route.
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

    /// Leaves the caching headers of this entity's list responses to the application. Default: a response without
    /// `Cache-Control`, `Expires` and `Pragma` gets `Cache-Control: no-store`.
    ///
    /// A browser that goes back to a page takes its list from the cache, however old the list is, unless the response had
    /// `no-store`. The page then shows old events, and the server cannot know. A cached list must be at most a minute old
    /// when a page gets it.
    ///
    /// ```
    /// let events = tower_live_updates::Entity::scheduler("/events").cacheable_lists();
    /// ```
    pub fn cacheable_lists(mut self) -> Self {
        self.has_cacheable_lists = true;
        self
    }

    /// Adds a route that changes this entity. The path of an update or a deletion must contain `{id}`.
    ///
    /// ```
    /// use http::Method;
    /// use tower_live_updates::{ChangeKind, Entity};
    ///
    /// let events = Entity::scheduler("/events")
    ///     .route(Method::POST, "/events/{id}/cancel", ChangeKind::Update);
    /// ```
    pub fn route(mut self, method: Method, path: impl Into<String>, kind: ChangeKind) -> Self {
        self.routes.push(EntityRoute { method, path: path.into(), kind, is_mode: false, moves: None });
        self
    }

    /// A change is not sent to the page that made it as it happens, for a widget whose client does not expect that. The page
    /// is the session of the token in the request's `Remote-Token`. Where several sessions share this token, or none has
    /// it, every page is sent the change: give each page a token of its own. Replays and resends include the page's own
    /// changes.
    ///
    /// ```
    /// use tower_live_updates::Entity;
    ///
    /// let reservations =
    ///     Entity::new("reservations").payload_key("reservation").collection("/doctors/reservations").skip_writer();
    /// ```
    pub fn skip_writer(mut self) -> Self {
        self.skips_writer = true;
        self
    }

    /// Adds a route that moves an object among its siblings. Its path must contain `{id}`.
    ///
    /// Such a write is an update, whose message as it happens is `move-card` instead of `update-card` (for the payload key
    /// `card`). `before` in the request's body, the id of the sibling that follows, is sent beside the object:
    /// `{"type":"move-card","card":{…},"before":5}`. Without a usable `before` the object has moved to the end, and the
    /// message has none.
    ///
    /// Replays and resends hold the newest state of an object, as `update-card`, and not its place among siblings. A page
    /// whose order must be that of the server after an interruption loads its list again. The same holds for pages of an
    /// entity with [`visible`](Self::visible) or [`project`](Self::project), and for changes that a handler publishes itself.
    ///
    /// ```
    /// use http::Method;
    /// use tower_live_updates::Entity;
    ///
    /// let cards = Entity::new("cards")
    ///     .payload_key("card")
    ///     .collection("/cards")
    ///     .move_route(Method::PUT, "/cards/{id}/move");
    /// ```
    pub fn move_route(self, method: Method, path: impl Into<String>) -> Self {
        self.move_route_with(method, path, &[])
    }

    /// The same, of requests that name these fields otherwise than the object.
    pub(super) fn move_route_with(mut self, method: Method, path: impl Into<String>, fields: MoveFields) -> Self {
        let (path, kind) = (path.into(), ChangeKind::Update);
        self.routes.push(EntityRoute { method, path, kind, is_mode: false, moves: Some(fields) });
        self
    }

    /// Reads the action in a request's body. Only for back ends that read it too. Default: off.
    ///
    /// In the DHTMLX DataProcessor's modes `JSON` and `POST` every write is `POST …?editing=true`, and its action is in the
    /// body: as `action` beside `id` and `data`, or as `!nativeeditor_status` among the fields. The action is read only with
    /// that query, and only on a route whose POST adds.
    ///
    /// The Gantt's presets read the action without this option, where the response names an action as well: see
    /// [`gantt_tasks`](Self::gantt_tasks). With it, other responses suffice: `{}`, or an empty one.
    ///
    /// The action is a claim of the page. If the response contradicts it (`inserted` or a `tid` for an update or a deletion,
    /// another id), the response counts. If the response does not contain enough, nothing is published, and the reason
    /// is logged.
    ///
    /// ```
    /// let events = tower_live_updates::Entity::scheduler("/events").body_modes();
    /// ```
    pub fn body_modes(mut self) -> Self {
        self.has_body_modes = true;
        self
    }

    /// Puts the answers of an ordinary REST back end into the form that the DataProcessor understands. Default: off.
    ///
    /// Only answers to this entity's writes that come with `X-Requested-With: XMLHttpRequest`, as from the DataProcessor,
    /// differ:
    ///
    /// - The statuses 201 and 204 become 200. The Scheduler takes them for failures.
    /// - The answer to a create gains `"action":"inserted"`, unless it names an action, and `"tid"`. The id is that of the
    ///   change that is broadcast: from `id`, the stored row, or `Location`.
    ///
    /// An answer passes unchanged to all other clients, and if its body is neither empty nor a JSON object: text, a list, a
    /// compressed body, one over `max_body_bytes`, or one that takes longer than `response_timeout`. Other statuses pass
    /// unchanged, too. What is broadcast comes from the handler's own answer.
    ///
    /// With a new body `Content-Length` and `Content-Type` follow. Digests of the old body, `Content-Location` and
    /// `Content-Encoding` are removed. `ETag` and `Location` stay, since they name the stored row, and so do all others.
    /// A body with trailers keeps its form. An empty body stays empty after an update or a deletion.
    ///
    /// ```
    /// // 201 with {"id":17} reaches the Scheduler as 200 with {"id":17,"action":"inserted","tid":17}
    /// let events = tower_live_updates::Entity::scheduler("/events").widget_answers();
    /// ```
    pub fn widget_answers(mut self) -> Self {
        self.has_widget_answers = true;
        self
    }

    /// Where in a request's JSON the object is, as a JSON pointer (RFC 6901). Default: under the payload key if that
    /// holds an object (the article's `{"event":{…}}`), else the whole body. `build()` returns
    /// [`ConfigError::Pointer`] for a pointer that is neither empty nor starts with `/`.
    ///
    /// ```
    /// use tower_live_updates::Entity;
    ///
    /// // PUT /events/7 with {"data":{"text":"Standup", …}}
    /// let events = Entity::scheduler("/events").request_pointer("/data");
    /// ```
    pub fn request_pointer(mut self, pointer: impl Into<String>) -> Self {
        self.request_pointer = Some(pointer.into());
        self
    }

    /// Where in a response's JSON the stored object is, as a JSON pointer. Default: `item`, else the payload key, else
    /// the whole response if it has an `id`. `build()` returns [`ConfigError::Pointer`] for a pointer that is neither
    /// empty nor starts with `/`.
    ///
    /// ```
    /// use tower_live_updates::Entity;
    ///
    /// // 200 with {"data":{"row":{"id":7,"text":"Standup", …}}}
    /// let events = Entity::scheduler("/events").response_pointer("/data/row");
    /// ```
    pub fn response_pointer(mut self, pointer: impl Into<String>) -> Self {
        self.response_pointer = Some(pointer.into());
        self
    }

    /// The key under which an object names its parent: `recurring_event_id` of the Scheduler's exceptions, `parent` of the
    /// Gantt's tasks. When the parent is deleted, the deletion of its children is broadcast too.
    ///
    /// The layer knows the children whose last change is in its log. If the store deletes others as well, or deletes them
    /// for another reason, the handler publishes that with [`LiveWrite`](crate::LiveWrite).
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

    /// Changes in the form that every page reads.
    pub(crate) fn normal<'c>(&self, changes: &'c [Change]) -> Cow<'c, [Change]> {
        let normal = |change: &Change| {
            let object = (change.kind() != ChangeKind::Delete)
                .then(|| self.widget.normal_form(change.object(), self.order_key.as_deref()))??;
            Some(Change { object: object.into(), ..change.clone() })
        };
        match self.widget.family() {
            None => Cow::Borrowed(changes),
            Some(_) => changes.iter().map(|change| normal(change).unwrap_or_else(|| change.clone())).collect(),
        }
    }

    /// The parent of an object in a tree that a page must show whole.
    pub(crate) fn shown_below(&self, sent: &Object<'_>) -> Option<Box<str>> {
        let key = self.parent_key.as_deref().filter(|_| self.widget.is_tree())?;
        sent.get(key).and_then(usable_id).map(Into::into)
    }

    /// The keys under which an object names what it is deleted with.
    pub(crate) fn parent_keys(&self) -> Vec<String> {
        match self.widget {
            Widget::GanttLinks => ["source", "target"].map(str::to_owned).into(),
            Widget::Any | Widget::Scheduler | Widget::GanttTasks => self.parent_key.iter().cloned().collect(),
        }
    }

    /// Checks that a change does not break pages. A change that fails is never broadcast. A store that also refuses such
    /// objects keeps them out of its lists.
    ///
    /// [`Entity::scheduler`] refuses, as observed with Scheduler 7.2.15:
    ///
    /// - an add whose `start_date` or `end_date` is not text;
    /// - an `rrule` on which the client throws, after which the page draws and saves no more events: an unknown part or
    ///   `FREQ`, an `UNTIL` or a `BYDAY` that is not written as in RFC 5545, in capitals, a weekday's number or a `BYSETPOS`
    ///   of 0, a text for `BYHOUR`;
    /// - an `rrule` that the client draws for more than half a second, or for ever: an `INTERVAL` that is not a whole number,
    ///   hours or days that never occur, `SECONDLY` without a `COUNT`.
    ///
    /// The time to draw depends on the start of the series. The check expands the week in which the series starts and,
    /// unless its end has passed, the year from today, where pages open. So a series that starts far in the past may be
    /// refused because of the years up to today. Without a readable `start_date` the rule is checked from several starts, for
    /// the first week only.
    ///
    /// All other rules pass, however odd: any `COUNT`, `WKST`, `TZID`, `BYYEARDAY` or `BYEASTER`, and numbers out of range.
    /// The check takes microseconds for usual rules, and tens of milliseconds for the worst. It checks the object alone, so
    /// an update that moves the start of a series and holds no `rrule` passes.
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
    /// [`PublishError::BreaksPages`] holds the reason. Entities without a preset accept every change.
    pub fn check(&self, change: &Change) -> Result<(), PublishError> {
        if !self.widget.may_refuse(change.kind(), change.object()) {
            return Ok(());
        }
        let object = Object::of(change.object()).unwrap_or_default();
        self.widget.check(change.kind(), &object).map_err(|problem| PublishError::BreaksPages {
            entity: self.name.clone(),
            id: change.id().to_owned(),
            reason: problem.reason_for(&object),
        })
    }

    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        for name in [&self.name, &self.payload_key] {
            if name.is_empty() || name.len() > MAX_NAME || name.starts_with(['$', '/']) || name.trim() != *name {
                return Err(ConfigError::Name(name.clone()));
            }
        }
        self.validate_order()?;
        if let Some(setter) = self.presence.as_ref().and_then(|presence| presence.misplaced) {
            return Err(ConfigError::Presence { entity: self.name.clone(), setter });
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

    /// A setter in use that has no meaning for an entity whose objects are those who are here.
    pub(crate) fn misplaced_of_presence(&self) -> Option<&'static str> {
        let scoping = self.scoping.as_ref();
        let misplaced = [
            ("route or collection", !self.routes.is_empty()),
            ("list_route", !self.lists.is_empty()),
            ("load", self.load.is_some()),
            ("snapshot", self.snapshot.is_some()),
            ("parent_key", self.parent_key.is_some()),
            ("scope_param", scoping.is_some_and(|scoping| !scoping.params.is_empty())),
            ("scope_from", scoping.is_some_and(|scoping| scoping.of_request.is_some())),
            ("ids_per_scope", scoping.is_some_and(|scoping| scoping.scoped_ids)),
        ];
        misplaced.into_iter().find_map(|(setter, is_used)| is_used.then_some(setter))
    }

    /// True if a hook decides which identity may see which object.
    pub(crate) fn is_filtered(&self) -> bool {
        self.visible.is_some() || self.project.is_some()
    }

    /// The patterns of all watched routes.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &str> {
        self.routes.iter().map(|route| &*route.path).chain(self.lists.iter().map(String::as_str))
    }
}

/// An entity without routes, as [`Entity::new`] makes it.
impl From<&str> for Entity {
    fn from(name: &str) -> Self {
        Self::new(name)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_found_however_its_key_was_written() {
        let (events, tasks) = (Entity::scheduler("/events"), Entity::new("tasks"));
        for key in ["rrule", r"\u0072rule", r"rrul\u0065"] {
            let json = format!(r#"{{"id":1,"{key}":"nonsense"}}"#);
            let change = Change::of(ChangeKind::Update, &Object::parse(json.as_bytes()).unwrap()).unwrap();
            assert!(events.check(&change).is_err() && tasks.check(&change).is_ok(), "{key}");
        }
    }
}
