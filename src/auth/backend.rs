//! Where the decision comes from: a fixed answer, a token list, or the application.

use std::{future::Future, sync::Arc};

use super::{
    identity::{AuthError, Identity},
    request::AuthRequest,
    tokens::TokenList,
};
use crate::hook::BoxFuture;

/// Decides who may connect. For types that hold their own state; a closure goes to
/// [`authenticate_fn`](crate::LiveUpdatesBuilder::authenticate_fn).
///
/// It is called
///
/// - at each handshake, at each (re)connect of a socket, and at each call over HTTP;
/// - again for each open socket, every five minutes
///   ([`revalidation_interval`](crate::LiveUpdatesBuilder::revalidation_interval)), with
///   [the parts that are kept](crate::LiveUpdatesBuilder::revalidation_headers) of the request that opened the socket.
///
/// No lock is held during a call, and at most
/// [`max_concurrent_authentications`](crate::LiveUpdatesBuilder::max_concurrent_authentications) calls run at one time. A
/// panic, or a call longer than [`hook_timeout`](crate::LiveUpdatesBuilder::hook_timeout), counts as
/// [`AuthError::Unavailable`].
///
/// With `LiveUpdatesBuilder::sealed_keys` it must also accept
/// [`Credentials::Principal`](crate::Credentials::Principal): every call after the handshake names the principal. An
/// authenticator that knows only tokens refuses sealed keys, and so every socket;
/// [`authenticate_fn`](crate::LiveUpdatesBuilder::authenticate_fn) has an example.
///
/// ```
/// use tower_live_updates::{AuthError, Authenticate, AuthRequest, Entity, Identity, LiveUpdates};
///
/// struct OneUser { token: String }
///
/// impl Authenticate for OneUser {
///     async fn authenticate(&self, request: AuthRequest) -> Result<Identity, AuthError> {
///         (request.token() == self.token).then(|| Identity::new("me")).ok_or(AuthError::Denied)
///     }
/// }
///
/// let live = LiveUpdates::builder("/api/v1")
///     .authenticate(OneUser { token: "secret".into() })
///     .entity(Entity::scheduler("/events"))
///     .build()?;
/// # Ok::<(), tower_live_updates::ConfigError>(())
/// ```
pub trait Authenticate: Send + Sync + 'static {
    /// The identity of the page that sent this request.
    ///
    /// # Errors
    /// [`AuthError`] says why the page may not connect.
    fn authenticate(&self, request: AuthRequest) -> impl Future<Output = Result<Identity, AuthError>> + Send;
}

/// Any authenticator, its type erased.
pub(super) type Authenticator = Arc<dyn Fn(AuthRequest) -> BoxFuture<Result<Identity, AuthError>> + Send + Sync>;

pub(crate) enum AuthBackend {
    /// Every page is accepted, as one identity.
    Anyone(Identity),
    List(TokenList),
    /// The application, which may take its time and change its answer.
    Application(Authenticator),
}

impl AuthBackend {
    pub(crate) fn anyone() -> Self {
        Self::Anyone(Identity::new("anonymous"))
    }
}
