//! Setters: who is here.

use std::{future::ready, sync::Arc, time::Duration};

use futures_util::FutureExt;
use serde::Serialize;

use super::config::{LiveUpdatesBuilder, within_a_year};
use crate::{
    auth::Identity,
    change::Change,
    entity::{Entity, Everything},
    lock::lock,
    presence::Presence,
};

impl<A> LiveUpdatesBuilder<A> {
    /// Adds an entity whose objects are the users who have a page open, as `describe` shows them to each other.
    /// [Who is here](crate::guide::presence) is a guide.
    ///
    /// `describe` gets the identity of a page when its socket opens and at each
    /// [revalidation](Self::revalidation_interval). It returns an object with an `id`, or `None` to show nothing of this page.
    ///
    /// - Pages with the same id are one object: added with the first page, shown as the newest page is, and deleted after
    ///   the last. So an id such as the [principal](Identity::principal) makes one object of all tabs of a user.
    /// - A page that subscribes receives everyone who is here, and each change from then on.
    /// - A page that disconnects is here for another [`presence_timeout`](Self::presence_timeout), and may reconnect
    ///   meanwhile. A page that is closed by the server because it may not connect any more, or by
    ///   [`disconnect`](crate::LiveUpdates::disconnect), leaves at once.
    /// - `entity` is a name, or an [`Entity`] with `payload_key`, `authorize`, `visible` or `project`. If it is
    ///   [`scoped`](Entity::scoped), users see those with whom they share a scope. `build()` returns
    ///   [`ConfigError::Presence`](crate::ConfigError::Presence) for routes, `load`, `snapshot`, `parent_key` and other
    ///   scopes than those of identities.
    /// - The application cannot publish to it. It can [`send`](crate::LiveUpdates::send) messages.
    /// - `describe` must be fast, must not block, and should depend on nothing but the identity. A panic, a value without a
    ///   usable id, and an object that is [too large](Self::max_body_bytes) are counted in
    ///   [`Stats::hooks_failed`](crate::Stats::hooks_failed) and logged, and the page is not shown.
    ///
    /// ```
    /// use serde_json::json;
    /// use tower_live_updates::{AuthError, AuthRequest, Entity, Identity, LiveUpdates};
    ///
    /// let live = LiveUpdates::builder("/api/v1")
    ///     .authenticate_fn((), async |(), request: AuthRequest| match request.token() {
    ///         "alices-token" => Ok(Identity::new("alice").with_data("Alice Liddell")),
    ///         _ => Err(AuthError::Denied),
    ///     })
    ///     .entity(Entity::scheduler("/events"))
    ///     .presence("people", |identity| {
    ///         let name = identity.data::<&str>()?;
    ///         Some(json!({"id": identity.principal(), "name": name}))
    ///     })
    ///     .build()?;
    /// # Ok::<(), tower_live_updates::ConfigError>(())
    /// ```
    pub fn presence<T: Serialize>(
        mut self,
        entity: impl Into<Entity>,
        describe: impl Fn(&Identity) -> Option<T> + Send + Sync + 'static,
    ) -> Self {
        let mut entity = entity.into();
        let misplaced = entity.misplaced_of_presence();
        let describe = move |identity: &Identity| Some(Change::add(&describe(identity)?).map_err(Into::into));
        let presence = Presence::new(describe, misplaced);
        let (registry, is_scoped) = (presence.registry.clone(), entity.scoping.is_some());
        entity.snapshot = Some(Arc::new(move |identity: Identity| {
            let rows = lock(&registry).all(is_scoped.then(|| identity.receives()));
            ready(Ok(Everything { rows, gone: Vec::new(), without_id: 0 })).boxed()
        }));
        entity.presence = Some(presence);
        self.config.entities.push(entity);
        self
    }

    /// How long a page is [here](Self::presence) after its socket has closed. Default: 5 s; at most a year. The stock client
    /// reconnects after two seconds, so a shorter time makes users disappear and come back. Zero means at once.
    ///
    /// As many pages as [`max_connections`](Self::max_connections) may be leaving at one time. Of more, the first leaves at
    /// once.
    pub fn presence_timeout(mut self, time: Duration) -> Self {
        self.config.connection.presence_timeout = within_a_year(time);
        self
    }
}
