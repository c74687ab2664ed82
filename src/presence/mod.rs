//! Who is here: an entity whose objects are what the open pages are shown as. Knows neither sockets nor the log: it
//! returns what is to be published.

mod registry;

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex},
};

pub(crate) use self::registry::Registry;
use crate::{
    auth::Identity,
    change::Change,
    hook::{BoxError, HookFailure},
    scope::Scopes,
};

/// What an identity is shown as; `None` for one that is not shown.
type Describe = Arc<dyn Fn(&Identity) -> Option<Result<Change, BoxError>> + Send + Sync>;

/// The presence of one entity: what pages are shown as, and who is here.
#[derive(Clone)]
pub(crate) struct Presence {
    describe: Describe,
    pub(crate) registry: Arc<Mutex<Registry>>,
    /// A setter of the entity that has no meaning where the objects are those who are here.
    pub(crate) misplaced: Option<&'static str>,
}

impl Presence {
    pub(crate) fn new(
        describe: impl Fn(&Identity) -> Option<Result<Change, BoxError>> + Send + Sync + 'static,
        misplaced: Option<&'static str>,
    ) -> Self {
        Self { describe: Arc::new(describe), registry: Arc::default(), misplaced }
    }

    /// What an identity is shown as, in its scopes where the entity is scoped: then nobody sees one without any.
    pub(crate) fn describe(&self, identity: &Identity, is_scoped: bool) -> Result<Option<Change>, BoxError> {
        let scopes = if is_scoped { identity.receives() } else { &Scopes::None };
        if is_scoped && scopes.is_none() {
            return Ok(None);
        }
        let described = catch_unwind(AssertUnwindSafe(|| (self.describe)(identity)));
        let described = described.map_err(|_| HookFailure::Panicked)?.transpose()?;
        Ok(described.map(|change| change.in_scopes(scopes, &Scopes::None)))
    }
}

impl fmt::Debug for Presence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Presence")
    }
}
