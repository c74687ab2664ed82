//! The application's hooks of an entity, their types erased.

use std::sync::Arc;

use http::request::Parts;

use crate::{
    auth::Identity,
    change::Change,
    hook::{BoxError, BoxFuture},
    scope::Scopes,
};

/// Reads an object back after the commit, by the scopes its request names and its id: JSON text, or `None` if the row is
/// gone.
pub(crate) type Load = Arc<dyn Fn(Vec<String>, String) -> BoxFuture<Result<Option<String>, BoxError>> + Send + Sync>;

/// Reads every row, and which rows are gone.
pub(crate) type ReadAll = Arc<dyn Fn(Identity) -> BoxFuture<Result<Everything, BoxError>> + Send + Sync>;

/// Whether an identity may subscribe.
pub(crate) type Authorize = Arc<dyn Fn(Identity) -> BoxFuture<Result<bool, BoxError>> + Send + Sync>;

/// Whether an identity may see an object, given as JSON text.
pub(crate) type Visible = Arc<dyn Fn(Identity, &str) -> BoxFuture<Result<bool, BoxError>> + Send + Sync>;

/// What of an object an identity may see, both as JSON text.
pub(crate) type Project = Arc<dyn Fn(Identity, &str) -> BoxFuture<Result<String, BoxError>> + Send + Sync>;

/// The scopes of a write, by its request.
pub(crate) type ScopesOf = Arc<dyn Fn(&Parts) -> Scopes + Send + Sync>;

/// Where an entity's changes get their scopes from.
#[derive(Clone, Default)]
pub(crate) struct Scoping {
    /// Parameters of the routes that name a scope.
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
    /// Rows that cannot be sent, for want of a usable id.
    pub(crate) without_id: usize,
}
