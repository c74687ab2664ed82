//! What an application's hooks say of who may see an object, and what of it.

use std::{borrow::Cow, fmt};

use crate::{
    auth::Identity,
    entity::{Project, Visible},
    hook::BoxError,
    object::Object,
};

/// What of an entity's objects somebody may see.
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
    /// The view of an entity with these hooks; `None` where everybody sees everything that they hear of.
    pub(crate) fn of(visible: Option<&Visible>, project: Option<&Project>) -> Option<Self> {
        (visible.is_some() || project.is_some()).then(|| Self { visible: visible.cloned(), project: project.cloned() })
    }

    pub(super) async fn may_see(&self, identity: &Identity, object: &str) -> Result<bool, BoxError> {
        match &self.visible {
            Some(visible) => visible(identity.clone(), object).await,
            None => Ok(true),
        }
    }

    /// What this identity sees of an object.
    pub(super) async fn seen<'o>(
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
