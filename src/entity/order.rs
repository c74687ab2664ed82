//! The order key: which field of a task is its place, and for which entities that has a meaning.

use super::{definition::Entity, widget::Widget};
use crate::error::ConfigError;

impl Entity {
    /// The field of a Gantt's task that holds its place among the children of its parent: a whole number, counted from 0.
    /// Pages then show a new order of siblings as it is saved. Default: pages show a new order only with a new parent, or
    /// after they have loaded their list.
    ///
    /// The stock client moves a task only when an update names another parent. So a task whose place has changed is sent
    /// twice in one write: below another task that every page has (at the root, if it has a parent), and back at its
    /// place. Pages keep its children, the selection and open branches. A task at the root is moved so only if the log
    /// knows another one that has been at the root since the latest quiet moment.
    ///
    /// The back end has three duties:
    ///
    /// - The siblings have the numbers 0, 1, 2 and so on, in the order of the list. A task without such a number keeps its
    ///   place on pages.
    /// - A write that changes the numbers of other tasks publishes these as well ([`LiveWrite::publish`]): after a move, a
    ///   deletion, or a new task between others. The task that the write is about is published with them.
    /// - Numbers are changed within a transaction. The layer passes on one write of the entity at a time, a deletion
    ///   included, so that numbers are published in the order in which they are committed. After the builder's
    ///   `write_lock_timeout` a write goes on without the others' leave, as one of the same object does otherwise.
    ///
    /// Siblings that are published together outside a request
    /// ([`LiveUpdates::publish_many`](crate::LiveUpdates::publish_many)) end at their places when they are resent, in the next
    /// quiet moment. With [`scoped`](Self::scoped) the numbers are counted within each scope.
    ///
    /// `build()` returns [`ConfigError::OrderKey`] if `field` is empty, if the entity is not made by
    /// [`gantt_tasks`](Self::gantt_tasks), and if it has [`visible`](Self::visible) or [`project`](Self::project): pages
    /// that show some of the siblings count differently.
    ///
    /// ```
    /// let tasks = tower_live_updates::Entity::gantt_tasks("/data").order_key("sortorder");
    /// ```
    ///
    /// [`LiveWrite::publish`]: crate::LiveWrite::publish
    pub fn order_key(mut self, field: impl Into<String>) -> Self {
        self.order_key = Some(field.into());
        self
    }

    pub(super) fn validate_order(&self) -> Result<(), ConfigError> {
        let Some(field) = &self.order_key else { return Ok(()) };
        let reason = match self.widget {
            _ if field.is_empty() => "it needs the name of a field, such as \"sortorder\"",
            Widget::GanttTasks if self.is_filtered() => {
                "visible and project hide siblings, so that each page counts differently; leave one of them out"
            }
            Widget::GanttTasks => return Ok(()),
            Widget::Any | Widget::Scheduler | Widget::GanttLinks => {
                "only the tasks of Entity::gantt_tasks have a place among siblings; leave it out"
            }
        };
        Err(ConfigError::OrderKey { entity: self.name.clone(), reason })
    }
}
