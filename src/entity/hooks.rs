//! The application's hooks of an entity, their types erased, and the visibility filter and projection that they are.

use std::{borrow::Cow, fmt, sync::Arc};

use http::request::Parts;

use serde::{Deserialize, Serialize};

use crate::{
    auth::Identity,
    change::Change,
    hook::{BoxError, BoxFuture},
    object::Object,
    scope::Scopes,
};

/// The position of an entity in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct EntityIndex(pub(crate) u16);

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

/// The hooks that decide what an identity may see of an entity's objects.
#[derive(Clone)]
pub(crate) struct View {
    pub(crate) visible: Option<Visible>,
    pub(crate) project: Option<Project>,
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("View")
    }
}

impl View {
    /// The view of an entity with these hooks; `None` without any.
    pub(crate) fn of(visible: Option<&Visible>, project: Option<&Project>) -> Option<Self> {
        (visible.is_some() || project.is_some()).then(|| Self { visible: visible.cloned(), project: project.cloned() })
    }

    pub(crate) async fn may_see(&self, identity: &Identity, object: &str) -> Result<bool, BoxError> {
        match &self.visible {
            Some(visible) => visible(identity.clone(), object).await,
            None => Ok(true),
        }
    }

    /// What this identity sees of an object; `None` if the object is hidden from it.
    pub(crate) async fn seen<'o>(
        &self,
        identity: &Identity,
        object: &'o str,
    ) -> Result<Option<Cow<'o, str>>, BoxError> {
        if !self.may_see(identity, object).await? {
            return Ok(None);
        }
        let Some(project) = &self.project else { return Ok(Some(Cow::Borrowed(object))) };
        let projected = project(identity.clone(), object).await?;
        let (was, now) = (Object::of(object).unwrap_or_default(), Object::of(&projected));
        let now = now.ok_or("what project answered is no JSON object")?;
        match (was.get("id"), now.get("id")) {
            (Some(was), None) => Ok(Some(Cow::Owned(now.with("id", was).to_json()))),
            (was, now) if was == now => Ok(Some(Cow::Owned(projected))),
            _ => Err("what project answered has another id".into()),
        }
    }
}
