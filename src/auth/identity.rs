//! The authenticator's answer: an identity, or the reason why the page may not connect.

use std::{any::Any, fmt, sync::Arc, time::SystemTime};

use thiserror::Error;

use crate::{expiry::Expiry, scope::Scopes};

/// The user behind a connection: a principal, its scopes, and any data the application keeps with the connection.
///
/// ```
/// use tower_live_updates::Identity;
///
/// struct Account { tenant: u32 }
///
/// let identity = Identity::new("alice").with_data(Account { tenant: 7 });
/// assert_eq!(identity.principal(), "alice");
/// assert_eq!(identity.data::<Account>().map(|account| account.tenant), Some(7));
/// ```
#[derive(Clone)]
pub struct Identity {
    principal: Arc<str>,
    scopes: Scopes,
    data: Option<Arc<dyn Any + Send + Sync>>,
    expiry: Option<SystemTime>,
}

impl Identity {
    /// An identity named by a short opaque text, such as a user id or an account. The text may appear in logs, so it must
    /// not be a token.
    #[must_use]
    pub fn new(principal: impl Into<Arc<str>>) -> Self {
        Self { principal: principal.into(), scopes: Scopes::None, data: None, expiry: None }
    }

    /// Adds a scope, such as a tenant or a calendar. Of [scoped entities](crate::Entity::scoped) this identity receives
    /// what is published in one of its scopes, and nothing else. At most 256 bytes without control characters; other
    /// names are ignored.
    ///
    /// ```
    /// use tower_live_updates::Identity;
    ///
    /// let ann = Identity::new("ann").with_scope("north").with_scope("south");
    /// assert!(ann.scopes().eq(["north", "south"]));
    /// ```
    #[must_use]
    pub fn with_scope(mut self, scope: impl Into<Box<str>>) -> Self {
        self.scopes.add(scope);
        self
    }

    /// Adds several scopes; see [`with_scope`](Self::with_scope).
    #[must_use]
    pub fn with_scopes<N: Into<Box<str>>>(mut self, scopes: impl IntoIterator<Item = N>) -> Self {
        self.scopes = self.scopes.and(&scopes.into_iter().collect());
        self
    }

    /// Receives every scope: for an administrator, who sees all tenants.
    ///
    /// ```
    /// let root = tower_live_updates::Identity::new("root").with_all_scopes();
    /// ```
    #[must_use]
    pub fn with_all_scopes(mut self) -> Self {
        self.scopes = Scopes::All;
        self
    }

    /// The scopes added so far, sorted; none for an identity [with all scopes](Self::with_all_scopes).
    pub fn scopes(&self) -> impl Iterator<Item = &str> {
        self.scopes.names()
    }

    /// Keeps data of the application with the identity. A second call replaces the data.
    #[must_use]
    pub fn with_data<T: Any + Send + Sync>(mut self, data: T) -> Self {
        self.data = Some(Arc::new(data));
        self
    }

    /// The principal.
    #[must_use]
    pub fn principal(&self) -> &str {
        &self.principal
    }

    /// The same identity with these scopes only.
    pub(crate) fn with_only(self, scopes: Scopes) -> Self {
        Self { scopes, ..self }
    }

    /// The scopes in which it receives changes of scoped entities.
    pub(crate) fn receives(&self) -> &Scopes {
        &self.scopes
    }

    /// The application's data, when it is of this type.
    #[must_use]
    pub fn data<T: Any>(&self) -> Option<&T> {
        self.data.as_deref()?.downcast_ref()
    }

    /// Sets when the identity expires: when a JWT or a login session ends, for example. Default: never. A second call
    /// replaces the time.
    ///
    /// - At that time an open socket is closed, as by [`AuthError::Expired`], unless
    ///   [revalidation](crate::LiveUpdatesBuilder::revalidation_interval) has returned another time.
    /// - A sealed key (`LiveUpdatesBuilder::sealed_keys`) for the identity expires no later.
    /// - A time in the past counts as [`AuthError::Expired`] at once.
    ///
    /// ```
    /// use std::time::{Duration, SystemTime};
    /// use tower_live_updates::Identity;
    ///
    /// let end_of_shift = SystemTime::now() + Duration::from_secs(8 * 3600);
    /// let identity = Identity::new("alice").with_expiry(end_of_shift);
    /// assert_eq!(identity.expiry(), Some(end_of_shift));
    /// ```
    #[must_use]
    pub fn with_expiry(mut self, time: SystemTime) -> Self {
        self.expiry = Some(time);
        self
    }

    /// When the identity expires; `None` if it does not.
    #[must_use]
    pub fn expiry(&self) -> Option<SystemTime> {
        self.expiry
    }

    pub(crate) fn is_expired(&self) -> bool {
        self.expiry.is_some_and(|time| Expiry::at(time).is_over())
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("principal", &self.principal)
            .field("scopes", &self.scopes)
            .finish_non_exhaustive()
    }
}

/// Why a page may not connect. The stock client cannot back off by itself, so each kind is refused in another form.
///
/// ```
/// use tower_live_updates::AuthError;
///
/// # fn lookup() -> Result<(), std::io::Error> { Ok(()) }
/// // A database that cannot be reached is not the page's fault: the page keeps trying and is accepted later.
/// let verdict = lookup().map_err(|_| AuthError::Unavailable);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AuthError {
    /// The token is wrong, or access has been withdrawn.
    ///
    /// - Handshake: 403 `{"error":"Forbidden"}`; the page has no live updates until it is reloaded.
    /// - New socket: closed with 1008 `Unauthorized` after 1 to 2 s.
    /// - Open socket: closed with 1008 `Unauthorized` at once.
    #[error("the credentials are not accepted")]
    Denied,
    /// The token was valid once. As [`Denied`](Self::Denied), but a socket first receives one event of the entity
    /// `$session`, `{"type":"expired"}`, which the application's page can handle.
    #[error("the credentials have expired")]
    Expired,
    /// The answer is not known at the moment.
    ///
    /// - Handshake: 200, since the page makes only one.
    /// - New socket: refused with 503 after a delay; the page retries every 2 s.
    /// - Open socket: stays open.
    #[error("authentication is unavailable at the moment")]
    Unavailable,
}
