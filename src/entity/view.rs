//! The visibility filter and the projection of an entity.

use std::{borrow::Cow, fmt};

use super::hooks::{Project, Visible};
use crate::{auth::Identity, hook::BoxError, object::Object};

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
        let Some(project) = &self.project else {
            return Ok(Some(Cow::Borrowed(object)));
        };
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
