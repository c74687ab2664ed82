//! Who may connect: what is asked, what comes back, and the built-in token list.

use std::{
    any::Any,
    borrow::Cow,
    fmt,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use http::{Extensions, HeaderMap, request::Parts};
use percent_encoding::percent_decode_str;
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use crate::{epoch::Secret, expiry::Expiry, hook::BoxFuture, scope::Scopes};

/// The header that carries the token in a handshake and in calls over HTTP.
pub(crate) const TOKEN_HEADER: &str = "remote-token";

/// What a page proves itself by.
///
/// `Debug` shows no token.
///
/// ```
/// use tower_live_updates::{AuthError, AuthRequest, Credentials, Identity};
///
/// async fn verify(request: AuthRequest) -> Result<Identity, AuthError> {
///     match request.credentials() {
///         Credentials::Token("alices-secret") => Ok(Identity::new("alice")),
///         // She came with the token before. May she still be here?
///         Credentials::Principal("alice") => Ok(Identity::new("alice")),
///         _ => Err(AuthError::Denied),
///     }
/// }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Credentials<'a> {
    /// The token the page was given; empty when it sent none.
    Token(&'a str),
    /// The [principal](Identity::principal) that the authenticator gave this page before, as a sealed key says whose
    /// signature and expiry are good. Only with `LiveUpdatesBuilder::sealed_keys`.
    Principal(&'a str),
}

impl fmt::Debug for Credentials<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token(_) => f.debug_tuple("Token").finish_non_exhaustive(),
            Self::Principal(principal) => f.debug_tuple("Principal").field(principal).finish(),
        }
    }
}

/// [`Credentials`] of their own.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum OwnedCredentials {
    Token(String),
    Principal(String),
}

impl OwnedCredentials {
    pub(crate) fn borrowed(&self) -> Credentials<'_> {
        match self {
            Self::Token(token) => Credentials::Token(token),
            Self::Principal(principal) => Credentials::Principal(principal),
        }
    }

    /// A number that tells them from others. A token and a principal of the same letters have different ones.
    pub(crate) fn owner(&self, secret: &Secret) -> u64 {
        match self {
            Self::Token(token) => secret.hash(0, token),
            Self::Principal(principal) => secret.hash(1, principal),
        }
    }

    /// Without room for more.
    pub(crate) fn shrunk(mut self) -> Self {
        match &mut self {
            Self::Token(text) | Self::Principal(text) => text.shrink_to_fit(),
        }
        self
    }
}

/// What an authenticator is asked: the credentials of a page, and the request around it.
///
/// A page sends its token twice: in the handshake's `Remote-Token` header, and in the address of the socket. The
/// header is read as Latin-1, as browsers write it. In the address the token stands raw between `token=` and the final
/// `&ws=1`; it is percent-decoded only, so `+` stays `+`. A `key` of this crate's own is unwrapped: the authenticator
/// sees the token in it or, with sealed keys, the principal: see [`credentials`](Self::credentials).
///
/// `Debug` shows neither token nor headers.
///
/// ```
/// use tower_live_updates::{AuthError, AuthRequest, Identity};
///
/// async fn verify(request: AuthRequest) -> Result<Identity, AuthError> {
///     match request.token() {
///         "alices-secret" => Ok(Identity::new("alice")),
///         _ => Err(AuthError::Denied),
///     }
/// }
/// ```
#[derive(Clone)]
pub struct AuthRequest {
    credentials: OwnedCredentials,
    query: String,
    headers: HeaderMap,
    extensions: Extensions,
    /// Whether anybody has looked at the extensions.
    reads_extensions: Arc<AtomicBool>,
}

impl AuthRequest {
    pub(crate) fn new(credentials: OwnedCredentials, parts: &Parts) -> Self {
        Self {
            reads_extensions: Arc::default(),
            credentials,
            query: own_query(parts.uri.query().unwrap_or_default()).to_owned(),
            headers: parts.headers.clone(),
            extensions: parts.extensions.clone(),
        }
    }

    /// One that is put together from what was kept.
    pub(crate) fn with(
        credentials: OwnedCredentials,
        query: String,
        headers: HeaderMap,
        extensions: Extensions,
    ) -> Self {
        Self { credentials, query, headers, extensions, reads_extensions: Arc::default() }
    }

    /// What the page proves itself by: its token, or with `LiveUpdatesBuilder::sealed_keys` a session of an earlier one.
    #[must_use]
    pub fn credentials(&self) -> Credentials<'_> {
        self.credentials.borrowed()
    }

    /// The token; empty when the page sent none, and for a [session](Credentials::Principal).
    #[must_use]
    pub fn token(&self) -> &str {
        match &self.credentials {
            OwnedCredentials::Token(token) => token,
            OwnedCredentials::Principal(_) => "",
        }
    }

    /// The query the page's own endpoint address has, without what the client appends: `tenant=7` for
    /// `new RemoteEvents("/api/v1?tenant=7", token)`. Empty where it has none.
    #[must_use]
    pub fn query(&self) -> &str {
        &self.query
    }

    /// The request's headers: cookies, forwarded addresses. When it is asked about an open socket again, only those that
    /// [`revalidation_headers`](crate::LiveUpdatesBuilder::revalidation_headers) names: `Cookie` and `Authorization` by default.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// True once somebody has looked at the extensions.
    pub(crate) fn extensions_read(&self) -> Arc<AtomicBool> {
        self.reads_extensions.clone()
    }

    /// What layers outside this one know about the request: the peer's address, a session. When it is asked about an
    /// open socket again they are still there if the authenticator looked at them when the socket was opened, or those
    /// that [`revalidation_extension`](crate::LiveUpdatesBuilder::revalidation_extension) names.
    #[must_use]
    pub fn extensions(&self) -> &Extensions {
        self.reads_extensions.store(true, Ordering::Relaxed);
        &self.extensions
    }
}

impl fmt::Debug for AuthRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthRequest").finish_non_exhaustive()
    }
}

/// The token of a handshake or call, read as Latin-1: browsers write other characters so, and refuse the rest.
pub(crate) fn header_token(headers: &HeaderMap) -> String {
    headers
        .get(TOKEN_HEADER)
        .map(|value| value.as_bytes().iter().copied().map(char::from).collect())
        .unwrap_or_default()
}

/// The token in a socket's address: raw between `token=` and the final `&ws=1`, percent-decoded only.
pub(crate) fn query_token(query: &str) -> Cow<'_, str> {
    let Some(at) = token_at(query) else {
        return Cow::Borrowed("");
    };
    let rest = &query[at + "token=".len()..];
    // Something in between may have added to the address, so what follows the client's last word is not the token's.
    let end = rest.rfind("&ws=1").filter(|end| matches!(rest.as_bytes().get(end + 5), None | Some(b'&')));
    let raw = end.map_or(rest, |end| &rest[..end]);
    percent_decode_str(raw).decode_utf8_lossy()
}

/// What stands in a query before the token that the client appended.
pub(crate) fn own_query(query: &str) -> &str {
    token_at(query).map_or(query, |at| query[..at].trim_end_matches('&'))
}

fn token_at(query: &str) -> Option<usize> {
    if query.starts_with("token=") { Some(0) } else { query.find("&token=").map(|at| at + 1) }
}

/// Who is asking: a principal, its scopes, and whatever else the application wants to remember of the connection.
///
/// ```
/// use tower_live_updates::Identity;
///
/// struct Session { tenant: u32 }
///
/// let identity = Identity::new("alice").with_data(Session { tenant: 7 });
/// assert_eq!(identity.principal(), "alice");
/// assert_eq!(identity.data::<Session>().map(|session| session.tenant), Some(7));
/// ```
#[derive(Clone)]
pub struct Identity {
    principal: Arc<str>,
    scopes: Scopes,
    data: Option<Arc<dyn Any + Send + Sync>>,
    expiry: Option<SystemTime>,
}

impl Identity {
    /// An identity named by a short opaque text: a user id, an account. It may appear in logs; a token must not.
    #[must_use]
    pub fn new(principal: impl Into<Arc<str>>) -> Self {
        Self { principal: principal.into(), scopes: Scopes::None, data: None, expiry: None }
    }

    /// Adds a scope, such as a tenant or a calendar: of [scoped entities](crate::Entity::scoped) this identity hears
    /// what is told in one of its scopes, and nothing else.
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

    /// Hears every scope: for an administrator, who sees all tenants.
    ///
    /// ```
    /// let root = tower_live_updates::Identity::new("root").with_all_scopes();
    /// ```
    #[must_use]
    pub fn with_all_scopes(mut self) -> Self {
        self.scopes = Scopes::All;
        self
    }

    /// The scopes added so far, sorted; none for one that is [in all](Self::with_all_scopes).
    pub fn scopes(&self) -> impl Iterator<Item = &str> {
        self.scopes.names()
    }

    /// Remembers data of the application's own with the identity. A second call replaces the first one's.
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

    /// The same with these scopes and no others.
    pub(crate) fn with_only(self, scopes: Scopes) -> Self {
        Self { scopes, ..self }
    }

    /// What it hears of scoped entities.
    pub(crate) fn receives(&self) -> &Scopes {
        &self.scopes
    }

    /// The application's data, when it is of this type.
    #[must_use]
    pub fn data<T: Any>(&self) -> Option<&T> {
        self.data.as_deref()?.downcast_ref()
    }

    /// Says until when the identity is good: when a JWT or a login session ends, for example. By default it does not
    /// end by itself. A second call replaces the first one's.
    ///
    /// An open socket is closed then, as by [`AuthError::Expired`], unless the authenticator has said another time
    /// when it was [asked again](crate::LiveUpdatesBuilder::revalidation_interval). A sealed key (`LiveUpdatesBuilder::sealed_keys`) that is made for
    /// the identity is good no longer than that. What is over already counts as [`AuthError::Expired`] at once.
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

    /// Until when the identity is good; `None` where it does not end by itself.
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

/// Why somebody may not connect. The stock client cannot back off by itself, so the kinds are refused differently.
///
/// ```
/// use tower_live_updates::AuthError;
///
/// # fn lookup() -> Result<(), std::io::Error> { Ok(()) }
/// // A database that cannot be reached is not the page's fault: the page keeps trying and is let in later.
/// let verdict = lookup().map_err(|_| AuthError::Unavailable);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AuthError {
    /// The token is wrong, or the session has been ended. Handshake: 403 `{"error":"Forbidden"}`, and the page stays
    /// without live updates until it is loaded again. Socket: closed with 1008 `Unauthorized` after 1 to 2 s; one that
    /// is open already, at once.
    Denied,
    /// The token was good once. As [`Denied`](Self::Denied), but a socket first hears one event on the entity
    /// `$session`, `{"type":"expired"}`, which the application's page can handle.
    Expired,
    /// Nobody can tell at the moment. Handshake: 200, since the page asks only once. Socket: refused with 503 after a
    /// delay; the page retries every 2 s. A socket that is open already stays so.
    Unavailable,
}

impl fmt::Display for AuthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Denied => "the credentials are not accepted",
            Self::Expired => "the session has expired",
            Self::Unavailable => "authentication is unavailable at the moment",
        })
    }
}

impl std::error::Error for AuthError {}

/// Decides who may connect. Implemented by types that hold their own state; a closure goes into
/// [`LiveUpdatesBuilder::authenticate`](crate::LiveUpdatesBuilder::authenticate).
///
/// It is asked at each handshake, at each (re)connect of a socket, at each call over HTTP, and about each open socket
/// every five minutes ([`revalidation_interval`](crate::LiveUpdatesBuilder::revalidation_interval)), with what is
/// [kept](crate::LiveUpdatesBuilder::revalidation_headers) of the request that opened it. It runs outside any lock, [`max_concurrent_authentications`](crate::LiveUpdatesBuilder::max_concurrent_authentications) times at once
/// at most. A panic, or more than the builder's `hook_timeout`, counts as [`AuthError::Unavailable`].
///
/// With `LiveUpdatesBuilder::sealed_keys` it must answer [`Credentials::Principal`] as well: there it is asked by principal at every
/// question after the handshake. What it knows of tokens alone denies sessions, and so every socket; an example stands
/// at [`LiveUpdatesBuilder::authenticate`](crate::LiveUpdatesBuilder::authenticate).
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
    /// Who sent this request?
    ///
    /// # Errors
    /// [`AuthError`] says why not.
    fn authenticate(&self, request: AuthRequest) -> impl Future<Output = Result<Identity, AuthError>> + Send;
}

/// Any authenticator, its type erased.
pub(crate) type Authenticator = Arc<dyn Fn(AuthRequest) -> BoxFuture<Result<Identity, AuthError>> + Send + Sync>;

/// Who decides.
pub(crate) enum Decider {
    /// Everybody may come in, under one name.
    Anyone(Identity),
    List(TokenList),
    /// The application: it may take its time, and change its mind.
    Application(Authenticator),
}

impl Decider {
    pub(crate) fn anyone() -> Self {
        Self::Anyone(Identity::new("anonymous"))
    }
}

/// A fixed list of tokens, each with the name of who has it. Every token is compared to its end, whatever the others say.
pub(crate) struct TokenList(Vec<(String, Arc<str>)>);

impl TokenList {
    pub(crate) fn new(tokens: Vec<String>) -> Self {
        Self(tokens.into_iter().zip(1_u64..).map(|(token, place)| (token, format!("token-{place}").into())).collect())
    }

    pub(crate) fn verify(&self, credentials: Credentials<'_>) -> Result<Identity, AuthError> {
        let found = match credentials {
            Credentials::Token(token) => find(&self.0, token),
            Credentials::Principal(principal) => self.0.iter().map(|(_, name)| name).find(|name| ***name == *principal),
        };
        found.cloned().map(Identity::new).ok_or(AuthError::Denied)
    }
}

fn find<'n>(named: &'n [(String, Arc<str>)], token: &str) -> Option<&'n Arc<str>> {
    let mut is_found = Choice::from(0);
    let mut index = 0_u64;
    for ((candidate, _), place) in named.iter().zip(0_u64..) {
        let is_same = candidate.as_bytes().ct_eq(token.as_bytes());
        index.conditional_assign(&place, is_same);
        is_found |= is_same;
    }
    let index = bool::from(is_found).then(|| usize::try_from(index).ok())??;
    named.get(index).map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_arrive_as_the_captured_client_sends_them() {
        for (query, token) in [
            ("token=a+b/c=d==&ws=1", "a+b/c=d=="),
            ("token=a%20b&ws=1", "a b"),
            ("token=a&b=c&ws=1", "a&b=c"),
            ("token=cl%C3%A9&ws=1", "clé"),
            ("token=&ws=1", ""),
            ("tenant=7&token=demo&ws=1", "demo"),
            ("token=demo", "demo"),
            ("token=demo&ws=1&via=proxy", "demo"),
            ("token=demo&ws=1&", "demo"),
            ("token=a&ws=1&ws=1", "a&ws=1"),
            ("token=a&ws=10", "a&ws=10"),
            ("ws=1", ""),
            ("mytoken=x&ws=1", ""),
            ("", ""),
        ] {
            assert_eq!(query_token(query), token, "{query}");
        }
    }

    #[test]
    fn the_pages_own_query_is_what_stands_before_the_token() {
        for (query, own) in [
            ("tenant=7&token=demo&ws=1", "tenant=7"),
            ("tenant=7", "tenant=7"),
            ("token=demo&ws=1", ""),
            ("a=1&b=2&token=x&token=y&ws=1", "a=1&b=2"),
            ("", ""),
        ] {
            assert_eq!(own_query(query), own, "{query}");
        }
    }

    #[test]
    fn a_header_is_latin_1() {
        let mut headers = HeaderMap::new();
        assert_eq!(header_token(&headers), "");
        headers.insert(TOKEN_HEADER, http::HeaderValue::from_bytes(b"cl\xe9").unwrap());
        assert_eq!(header_token(&headers), "clé");
    }

    fn named(list: &TokenList, credentials: Credentials<'_>) -> Result<String, AuthError> {
        list.verify(credentials).map(|identity| identity.principal().to_owned())
    }

    #[test]
    fn the_list_knows_its_tokens_and_nothing_else() {
        let list = TokenList::new(vec!["demo".into(), "a+b/c==".into()]);
        let named = |token: &str| named(&list, Credentials::Token(token));
        assert_eq!(named("demo").unwrap(), "token-1");
        assert_eq!(named("a+b/c==").unwrap(), "token-2");
        for wrong in ["", "dem", "demox", "Demo", "a b/c==", "token-1"] {
            assert_eq!(named(wrong).unwrap_err(), AuthError::Denied, "{wrong}");
        }
    }

    #[test]
    fn the_list_knows_the_sessions_of_its_tokens_and_nothing_else() {
        let list = TokenList::new(vec!["demo".into(), "a+b/c==".into()]);
        let named = |principal: &str| named(&list, Credentials::Principal(principal));
        for right in ["token-1", "token-2"] {
            assert_eq!(named(right).unwrap(), right);
        }
        for wrong in ["", "demo", "token-0", "token-3", "token-01", "token-+1", "anonymous"] {
            assert_eq!(named(wrong).unwrap_err(), AuthError::Denied, "{wrong}");
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        let (parts, ()) = http::Request::builder().header(TOKEN_HEADER, "secret").body(()).unwrap().into_parts();
        let request = AuthRequest::new(OwnedCredentials::Token("secret".into()), &parts);
        assert!(!format!("{request:?} {:?}", request.credentials()).contains("secret"));
    }

    #[test]
    fn a_session_is_no_token() {
        let (parts, ()) = http::Request::new(()).into_parts();
        let request = AuthRequest::new(OwnedCredentials::Principal("alice".into()), &parts);
        assert_eq!((request.credentials(), request.token()), (Credentials::Principal("alice"), ""));
        let secret = Secret::new();
        let [session, token] = [OwnedCredentials::Principal, OwnedCredentials::Token].map(|of| of("alice".to_owned()));
        assert_ne!(session.owner(&secret), token.owner(&secret), "they own different sessions");
    }
}
