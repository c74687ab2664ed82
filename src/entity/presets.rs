//! Entities as the DHTMLX widgets name them: a line for each.

use http::Method;

use super::{
    definition::{Entity, EntityRoute},
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

    /// Paths end in the payload key. At `base` are the list of both entities, and in some modes their writes.
    fn gantt_routes(self, base: &str) -> Self {
        let collection = format!("{}/{}", base.trim_end_matches('/'), self.payload_key);
        let mut entity = self.write_routes(&collection).list_route(base);
        let (method, path, kind) = (Method::POST, base.to_owned(), ChangeKind::Add);
        entity.routes.push(EntityRoute { method, path, kind, is_mode: true });
        entity
    }
}
