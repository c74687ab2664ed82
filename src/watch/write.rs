//! The handler's say in what is told.

use std::sync::{Arc, Mutex};

use crate::{change::Change, lock::lock, scope::Scopes};

/// A handle in the extensions of every watched request: the handler says what the write did.
///
/// Requests that are not watched have none: a handler that also serves such takes `Option<Extension<LiveWrite>>`.
///
/// What it says replaces what the layer would have found in request and response, and is told after the handler has
/// answered with a success (2xx); an answer that is none tells nothing. For what must be told whatever the answer, use
/// [`LiveUpdates::publish`](crate::LiveUpdates::publish).
///
/// ```
/// use axum::{Extension, Json, extract::Path};
/// use serde_json::{Value, json};
/// use tower_live_updates::{Change, ChangeError, LiveWrite};
///
/// // Deleting a series deletes its exceptions too, which nobody could guess from the request.
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
pub struct LiveWrite {
    said: Arc<Mutex<Said>>,
    /// The `LiveUpdates` that watches this request, so that an inner watcher of the same one steps aside.
    pub(crate) watcher: usize,
}

/// What a handler said.
#[derive(Debug, Default)]
pub(crate) struct Said {
    pub(crate) skip: bool,
    pub(crate) changes: Vec<Change>,
    pub(crate) scopes: Scopes,
    pub(crate) moved_from: Scopes,
}

impl LiveWrite {
    pub(crate) fn new(watcher: usize) -> Self {
        Self { watcher, ..Self::default() }
    }

    /// Tells this change instead of the automatic one. Several are told in the order of the calls, together.
    pub fn publish(&self, change: Change) {
        lock(&self.said).changes.push(change);
    }

    /// Tells nothing for this write, unless [`publish`](Self::publish) is called too.
    pub fn skip(&self) {
        lock(&self.said).skip = true;
    }

    /// Tells what this write did in this scope, of a [scoped entity](crate::Entity::scoped). Several calls name several.
    /// It stands instead of the scopes that the layer would have found in the request, and holds for every change that
    /// names none of its own.
    ///
    /// ```
    /// use axum::{Extension, Json};
    /// use serde_json::{Value, json};
    /// use tower_live_updates::LiveWrite;
    ///
    /// // An event moves to another calendar: in the one it has left, pages are told that it is gone.
    /// async fn move_to(Extension(write): Extension<LiveWrite>) -> Json<Value> {
    ///     write.scope("calendar-b");
    ///     write.moved_from("calendar-a");
    ///     Json(json!({"action": "updated"}))
    /// }
    /// ```
    pub fn scope(&self, scope: impl Into<Box<str>>) {
        let scope = scope.into();
        lock(&self.said).scopes.add(scope);
    }

    /// Says in which scope the object was until now; see [`Change::moved_from`] and the example at
    /// [`scope`](Self::scope).
    pub fn moved_from(&self, scope: impl Into<Box<str>>) {
        let scope = scope.into();
        lock(&self.said).moved_from.add(scope);
    }

    pub(crate) fn take(&self) -> Said {
        std::mem::take(&mut lock(&self.said))
    }
}
