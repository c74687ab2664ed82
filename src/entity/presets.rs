//! Entities as the DHTMLX widgets name them: a line for each.

use http::Method;

use super::{
    definition::{Entity, EntityRoute, MoveFields},
    widget::Widget,
};
use crate::change::ChangeKind;

impl Entity {
    /// The DHTMLX Scheduler's `events` (payload key `event`) under the REST address `path`.
    ///
    /// - Objects that would stop a page are not broadcast: an added event needs `start_date` and `end_date` as text, and an
    ///   `rrule` must be one that the Scheduler draws (see [`check`](Self::check)).
    /// - Responses that the Scheduler takes for a failure (201 or 204 instead of 200, a create without `tid`) are named
    ///   once in the log.
    /// - The exceptions of a recurring series are deleted with it: the preset sets [`parent_key`](Self::parent_key) to
    ///   `recurring_event_id`.
    ///
    /// ```
    /// let events = tower_live_updates::Entity::scheduler("/events");
    /// ```
    pub fn scheduler(path: impl AsRef<str>) -> Self {
        let events = Self::new("events").payload_key("event").collection(path).parent_key("recurring_event_id");
        Self { widget: Widget::Scheduler, ..events }
    }

    /// The DHTMLX Gantt's `tasks` (payload key `task`) under `base`, the address that the page loads its data from.
    ///
    /// - Writes: POST on `{base}/task`, PUT, PATCH and DELETE on `{base}/task/{id}`. The list is read at `{base}`.
    /// - In the DataProcessor's modes `JSON` and `POST` every write is `POST {base}?editing=true&gantt_mode=tasks`, and its
    ///   action is in the body. Such a write is published where the response names an action as well
    ///   (`{"action":"updated"}`), or holds a `tid`: the back end has then read the action, too. Other responses need
    ///   [`body_modes`](Self::body_modes).
    /// - The children of a task are deleted with it: the preset sets [`parent_key`](Self::parent_key) to `parent`.
    ///
    /// A page needs [`gantt_links`](Self::gantt_links) as well:
    ///
    /// ```
    /// use tower_live_updates::{Entity, LiveUpdates};
    ///
    /// let live = LiveUpdates::builder("/api/v1")
    ///     .allow_anonymous()
    ///     .entity(Entity::gantt_tasks("/data"))
    ///     .entity(Entity::gantt_links("/data"))
    ///     .build()?;
    /// # Ok::<(), tower_live_updates::ConfigError>(())
    /// ```
    pub fn gantt_tasks(base: impl AsRef<str>) -> Self {
        let tasks = Self::new("tasks").payload_key("task").parent_key("parent");
        Self { widget: Widget::GanttTasks, ..tasks.gantt_routes(base.as_ref()) }
    }

    /// The DHTMLX Gantt's `links` (payload key `link`) under `base`, the address that the page loads its data from. Writes
    /// go to `{base}/link` and `{base}/link/{id}`, and in the modes `JSON` and `POST` to
    /// `{base}?editing=true&gantt_mode=links`; the list is read at `{base}`.
    ///
    /// [`gantt_tasks`](Self::gantt_tasks) has an example.
    pub fn gantt_links(base: impl AsRef<str>) -> Self {
        let links = Self::new("links").payload_key("link");
        Self { widget: Widget::GanttLinks, ..links.gantt_routes(base.as_ref()) }
    }

    /// The DHTMLX Kanban's `cards` (payload key `card`) under `base`, the address of its `RestDataProvider`: `{base}/cards`,
    /// `{base}/cards/{id}`, and PUT on `{base}/cards/{id}/move`. *Not run: the client is not on npm.* The routes, bodies
    /// and messages are those of its maker's guide and Go back end.
    ///
    /// - Requests hold the object in an envelope, `{"card":{…}}`. The answer to a create names the id, `{"id":17}`.
    /// - A move is sent as `move-card`, with `before` beside the card; its `columnId` and `rowId` are the card's `column` and
    ///   `row`. See [`move_route`](Self::move_route) for what pages receive of the order.
    /// - As by the maker's back end, a change is not sent to the page that made it: see [`skip_writer`](Self::skip_writer).
    ///
    /// ```
    /// use tower_live_updates::{Entity, LiveUpdates};
    ///
    /// let live = LiveUpdates::builder("/api/v1")
    ///     .allow_anonymous()
    ///     .entity(Entity::kanban_cards("/"))
    ///     .entity(Entity::kanban_columns("/"))
    ///     .entity(Entity::kanban_rows("/"))
    ///     .entity(Entity::kanban_links("/"))
    ///     .build()?;
    /// # Ok::<(), tower_live_updates::ConfigError>(())
    /// ```
    pub fn kanban_cards(base: impl AsRef<str>) -> Self {
        Self::moved_under("cards", "card", base.as_ref(), &[("columnId", "column"), ("rowId", "row")])
    }

    /// The DHTMLX Kanban's `columns` (payload key `column`) under `base`: `{base}/columns`, `{base}/columns/{id}`, and PUT on
    /// `{base}/columns/{id}/move`. *Not run*, and with an example at [`kanban_cards`](Self::kanban_cards).
    pub fn kanban_columns(base: impl AsRef<str>) -> Self {
        Self::moved_under("columns", "column", base.as_ref(), &[])
    }

    /// The DHTMLX Kanban's `rows` (payload key `row`) under `base`: `{base}/rows`, `{base}/rows/{id}`, and PUT on
    /// `{base}/rows/{id}/move`. *Not run*, and with an example at [`kanban_cards`](Self::kanban_cards).
    pub fn kanban_rows(base: impl AsRef<str>) -> Self {
        Self::moved_under("rows", "row", base.as_ref(), &[])
    }

    /// The DHTMLX Kanban's `links` (payload key `link`) under `base`: POST on `{base}/links`, DELETE on `{base}/links/{id}`.
    /// *Not run*, and with an example at [`kanban_cards`](Self::kanban_cards). One `LiveUpdates` cannot have the `links` of the
    /// Gantt as well.
    pub fn kanban_links(base: impl AsRef<str>) -> Self {
        let path = under(base.as_ref(), "links");
        let links = Self::new("links").payload_key("link").list_route(&path).skip_writer();
        let item = format!("{path}/{{id}}");
        links.route(Method::POST, path, ChangeKind::Add).route(Method::DELETE, item, ChangeKind::Delete)
    }

    /// The DHTMLX Event Calendar's `events` (payload key `event`) under `base`, the address of its `RestDataProvider`:
    /// `{base}/events`, `{base}/events/{id}`. *Not run: the client is not on npm.* The routes, bodies and messages are those
    /// of its maker's guide and Go back end. The answer to a create names the id, `{"id":17}`.
    ///
    /// Its changes are not checked, unlike those of [`scheduler`](Self::scheduler). As by the maker's back end, a change is
    /// not sent to the page that made it: see [`skip_writer`](Self::skip_writer).
    ///
    /// ```
    /// use tower_live_updates::{Entity, LiveUpdates};
    ///
    /// let live = LiveUpdates::builder("/api/v1")
    ///     .allow_anonymous()
    ///     .entity(Entity::calendar_events("/"))
    ///     .entity(Entity::calendars("/"))
    ///     .build()?;
    /// # Ok::<(), tower_live_updates::ConfigError>(())
    /// ```
    pub fn calendar_events(base: impl AsRef<str>) -> Self {
        Self::new("events").payload_key("event").collection(under(base.as_ref(), "events")).skip_writer()
    }

    /// The DHTMLX Event Calendar's `calendars` (payload key `calendar`) under `base`: `{base}/calendars`,
    /// `{base}/calendars/{id}`. *Not run*, and with an example at [`calendar_events`](Self::calendar_events).
    pub fn calendars(base: impl AsRef<str>) -> Self {
        Self::new("calendars").payload_key("calendar").collection(under(base.as_ref(), "calendars")).skip_writer()
    }

    /// An entity whose objects have an order.
    fn moved_under(name: &str, key: &str, base: &str, fields: MoveFields) -> Self {
        let path = under(base, name);
        let moving = format!("{path}/{{id}}/move");
        Self::new(name).payload_key(key).collection(path).move_route_with(Method::PUT, moving, fields).skip_writer()
    }

    /// Paths end in the payload key. At `base` are the list of both entities, and in some modes their writes.
    fn gantt_routes(self, base: &str) -> Self {
        let collection = under(base, &self.payload_key);
        let mut entity = self.write_routes(&collection).list_route(base);
        let (method, path, kind) = (Method::POST, base.to_owned(), ChangeKind::Add);
        entity.routes.push(EntityRoute { method, path, kind, is_mode: true, moves: None });
        entity
    }
}

/// A path under another, which may end in a slash or be one.
fn under(base: &str, name: &str) -> String {
    format!("{}/{name}", base.trim_end_matches('/'))
}
