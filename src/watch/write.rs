//! The handler's say in what is told.

use std::sync::{Arc, Mutex};

use crate::{change::Change, lock::lock, scope::Scopes};

/// A handle in the extensions of every watched request: the handler says what the write did.
///
/// Requests that are not watched have none: a handler that also serves such takes `Option<Extension<LiveWrite>>`. Where
/// several `LiveUpdates` watch one route, it speaks to all of them.
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
pub struct LiveWrite(Arc<Handle>);

#[derive(Debug, Default)]
struct Handle {
    said: Mutex<Said>,
    of: Watched,
    /// That of another `LiveUpdates` around this one, which watches the same write.
    outer: Option<LiveWrite>,
}

/// What is watched, and by whom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Watched {
    /// The `LiveUpdates`, as a number.
    pub(crate) watcher: usize,
    pub(crate) entity: u16,
    /// The id in the path.
    pub(crate) id: Option<Arc<str>>,
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
    /// A handle on this write. `outer` is what the request holds already: another watcher's of the same write is told
    /// everything, too; one that was copied from the request of a write with another id is not.
    pub(crate) fn new(of: Watched, outer: Option<&Self>) -> Self {
        let outer = outer.filter(|outer| outer.0.of.watcher != of.watcher && outer.0.of.id == of.id).cloned();
        Self(Arc::new(Handle { said: Mutex::default(), of, outer }))
    }

    /// True where this write is in hand already: an inner watcher of the same `LiveUpdates` steps aside.
    pub(crate) fn is_of(&self, write: &Watched) -> bool {
        self.and_outer().any(|handle| handle.of == *write)
    }

    /// True where another `LiveUpdates` watches the same write.
    pub(crate) fn has_outer(&self) -> bool {
        self.0.outer.is_some()
    }

    fn and_outer(&self) -> impl Iterator<Item = &Handle> {
        std::iter::successors(Some(&*self.0), |handle| Some(&*handle.outer.as_ref()?.0))
    }

    fn say(&self, say: impl Fn(&mut Said)) {
        self.and_outer().for_each(|handle| say(&mut lock(&handle.said)));
    }

    /// Tells this change instead of the automatic one. Several are told in the order of the calls, together.
    #[allow(clippy::needless_pass_by_value, reason = "a change is told once")]
    pub fn publish(&self, change: Change) {
        self.say(|said| said.changes.push(change.clone()));
    }

    /// Tells nothing for this write, unless [`publish`](Self::publish) is called too.
    pub fn skip(&self) {
        self.say(|said| said.skip = true);
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
        self.say(|said| said.scopes.add(scope.clone()));
    }

    /// Says in which scope the object was until now; see [`Change::moved_from`] and the example at
    /// [`scope`](Self::scope).
    pub fn moved_from(&self, scope: impl Into<Box<str>>) {
        let scope = scope.into();
        self.say(|said| said.moved_from.add(scope.clone()));
    }

    pub(crate) fn take(&self) -> Said {
        std::mem::take(&mut lock(&self.0.said))
    }
}
