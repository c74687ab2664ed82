//! Setters: how rows are read from the application's store.

use std::{fmt, future::Future, sync::Arc};

use futures_util::FutureExt;
use serde::Serialize;

use super::{definition::Entity, hooks::Everything};
use crate::{auth::Identity, change::Change, hook::BoxError, scope::Scopes};

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
    /// - If the scopes of an open page change, the hook is also called with the former scopes: rows that only these include
    ///   are retracted.
    /// - All connections of a principal with the same scopes share one result for two seconds. So a principal must name one
    ///   user, whatever its data. Four calls run at one time.
    /// - An error, a panic, or a call longer than the builder's `hook_timeout` is logged and counted, and the call is
    ///   repeated twice. After that pages are asked to load their list again, as without this hook: see
    ///   [delivery](crate::guide::delivery#pages-that-were-away-for-too-long).
    /// - A page receives the rows before anything else of this entity. More than 100 rows are sent in chunks, 24 updates a
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
    /// Leave out ids that this identity must not learn, and include those of rows it may no longer see.
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
