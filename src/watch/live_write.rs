//! What a handler decides to publish.

use std::sync::{Arc, Mutex};

use crate::{change::Change, lock::lock, scope::Scopes};

/// A handle in the extensions of every watched request: with it the handler publishes the write's changes itself.
///
/// Unwatched requests have none: a handler that also serves those takes `Option<Extension<LiveWrite>>`. Where several
/// `LiveUpdates` watch one route, the handle publishes to all of them.
///
/// The handler's changes replace those that the layer would derive from request and response. They are published after
/// the handler has answered with a success (2xx), and discarded after any other status. To publish whatever the status,
/// use [`LiveUpdates::publish`](crate::LiveUpdates::publish).
///
/// ```
/// use axum::{Extension, Json, extract::Path};
/// use serde_json::{Value, json};
/// use tower_live_updates::{Change, ChangeError, LiveWrite};
///
/// // Deleting a series deletes its exceptions too, which the request does not show.
/// async fn delete_series(
///     Path(id): Path<String>,
///     Extension(write): Extension<LiveWrite>,
/// ) -> Json<Value> {
///     for exception in ["18", "19"] {
///         write.publish(Change::delete(exception).expect("a literal id"));
///     }
///     if let Ok(series) = Change::delete(&id) {
///         write.publish(series);
///     }
///     Json(json!({"action": "deleted"}))
/// }
/// ```
#[derive(Clone, Debug, Default)]
pub struct LiveWrite(Arc<Handle>);

#[derive(Debug, Default)]
struct Handle {
    decision: Mutex<HandlerDecision>,
    of: WriteIdentity,
    /// The handle of another `LiveUpdates` around this one, which watches the same write.
    outer: Option<LiveWrite>,
}

/// What distinguishes a watched write from others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct WriteIdentity {
    /// The `LiveUpdates`, as a number.
    pub(crate) watcher: usize,
    pub(crate) entity: u16,
    /// The id in the path.
    pub(crate) id: Option<Arc<str>>,
}

/// What a handler decided.
#[derive(Debug, Default)]
pub(crate) struct HandlerDecision {
    pub(crate) skip: bool,
    pub(crate) changes: Vec<Change>,
    /// Changes of other entities, by their names.
    pub(crate) elsewhere: Vec<(Arc<str>, Change)>,
    pub(crate) scopes: Scopes,
    pub(crate) moved_from: Scopes,
}

impl LiveWrite {
    /// A handle on this write. `outer` is the handle in the request: one of another `LiveUpdates` for the same write
    /// receives every change too. One copied from the request of a write with another id does not.
    pub(crate) fn new(of: WriteIdentity, outer: Option<&Self>) -> Self {
        let outer = outer.filter(|outer| outer.0.of.watcher != of.watcher && outer.0.of.id == of.id).cloned();
        Self(Arc::new(Handle { decision: Mutex::default(), of, outer }))
    }

    /// True where the same `LiveUpdates` watches this write already, in an outer layer.
    pub(crate) fn is_of(&self, write: &WriteIdentity) -> bool {
        self.and_outer().any(|handle| handle.of == *write)
    }

    /// True where another `LiveUpdates` watches the same write.
    pub(crate) fn has_outer(&self) -> bool {
        self.0.outer.is_some()
    }

    fn and_outer(&self) -> impl Iterator<Item = &Handle> {
        std::iter::successors(Some(&*self.0), |handle| Some(&*handle.outer.as_ref()?.0))
    }

    fn decide(&self, decide: impl Fn(&mut HandlerDecision)) {
        self.and_outer().for_each(|handle| decide(&mut lock(&handle.decision)));
    }

    /// Publishes this change instead of the derived one. Several are published together, in the order of the calls.
    #[allow(clippy::needless_pass_by_value, reason = "a change is published once")]
    pub fn publish(&self, change: Change) {
        self.decide(|decision| decision.changes.push(change.clone()));
    }

    /// Publishes a change of another entity of the same `LiveUpdates` with this write, which is published besides. Deletions
    /// are published before it, other changes behind it. A name that is not configured is counted and logged; nothing is
    /// published for it.
    ///
    /// ```
    /// use axum::{Extension, Json, extract::Path};
    /// use serde_json::{Value, json};
    /// use tower_live_updates::{Change, LiveWrite};
    ///
    /// // Deleting a task deletes its links, too.
    /// async fn delete_task(Path(id): Path<String>, Extension(write): Extension<LiveWrite>) -> Json<Value> {
    ///     for link in ["4", "9"] {
    ///         write.publish_to("links", Change::delete(link).expect("a literal id"));
    ///     }
    ///     Json(json!({"action": "deleted"}))
    /// }
    /// ```
    #[allow(clippy::needless_pass_by_value, reason = "a change is published once")]
    pub fn publish_to(&self, entity: impl Into<Arc<str>>, change: Change) {
        let entity = entity.into();
        self.decide(|decision| decision.elsewhere.push((entity.clone(), change.clone())));
    }

    /// Publishes nothing for this write, unless [`publish`](Self::publish) is called too.
    pub fn skip(&self) {
        self.decide(|decision| decision.skip = true);
    }

    /// Publishes this write's changes in this scope, for a [scoped entity](crate::Entity::scoped). Several calls name
    /// several scopes. They replace the scopes that the layer would find in the request, and hold for every change that
    /// names no scope itself. A scope has at most 256 bytes and no control characters; other names are ignored.
    ///
    /// ```
    /// use axum::{Extension, Json};
    /// use serde_json::{Value, json};
    /// use tower_live_updates::LiveWrite;
    ///
    /// // An event moves to another calendar: pages of the calendar it has left receive a deletion.
    /// async fn move_to(Extension(write): Extension<LiveWrite>) -> Json<Value> {
    ///     write.scope("calendar-b");
    ///     write.moved_from("calendar-a");
    ///     Json(json!({"action": "updated"}))
    /// }
    /// ```
    pub fn scope(&self, scope: impl Into<Box<str>>) {
        let scope = scope.into();
        self.decide(|decision| decision.scopes.add(scope.clone()));
    }

    /// Names the scope that the object was in until now; see [`Change::moved_from`] and the example at
    /// [`scope`](Self::scope).
    pub fn moved_from(&self, scope: impl Into<Box<str>>) {
        let scope = scope.into();
        self.decide(|decision| decision.moved_from.add(scope.clone()));
    }

    pub(crate) fn take(&self) -> HandlerDecision {
        std::mem::take(&mut lock(&self.0.decision))
    }
}
