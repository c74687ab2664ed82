//! What an authenticator is given: the credentials of a page, and the request around them.

use std::{
    borrow::Cow,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use http::{Extensions, HeaderMap, request::Parts};
use percent_encoding::percent_decode_str;

use crate::epoch::Secret;

/// The header that carries the token in a handshake and in calls over HTTP.
const TOKEN_HEADER: &str = "remote-token";

/// What a page authenticates with. `Debug` shows no token.
///
/// ```
/// use tower_live_updates::{AuthError, AuthRequest, Credentials, Identity};
///
/// async fn verify(request: AuthRequest) -> Result<Identity, AuthError> {
///     match request.credentials() {
///         Credentials::Token("alices-secret") => Ok(Identity::new("alice")),
///         // The page has sent the token before. May she still connect?
///         Credentials::Principal("alice") => Ok(Identity::new("alice")),
///         _ => Err(AuthError::Denied),
///     }
/// }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Credentials<'a> {
    /// The token the page was given; empty if it sent none.
    Token(&'a str),
    /// The [principal](crate::Identity::principal) that the authenticator gave this page before. It comes from a sealed
    /// key with a valid signature that has not expired. Only with `LiveUpdatesBuilder::sealed_keys`.
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

/// [`Credentials`] that own their text.
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

    /// A number that distinguishes these credentials from others. A token and a principal of the same text have different
    /// numbers.
    pub(crate) fn owner(&self, secret: &Secret) -> u64 {
        match self {
            Self::Token(token) => secret.hash(0, token),
            Self::Principal(principal) => secret.hash(1, principal),
        }
    }

    /// Without spare capacity.
    pub(crate) fn shrunk(mut self) -> Self {
        match &mut self {
            Self::Token(text) | Self::Principal(text) => text.shrink_to_fit(),
        }
        self
    }
}

/// What an authenticator is given: the credentials of a page, and the request around them. `Debug` shows neither token
/// nor headers.
///
/// A page sends its token twice:
///
/// - in the handshake's `Remote-Token` header, which is read as Latin-1, as browsers write it;
/// - in the address of the socket, raw between `token=` and the final `&ws=1`. It is percent-decoded only, so `+` stays
///   `+`.
///
/// If the page sends a `key` of this crate, the authenticator gets the token inside it or, with sealed keys, the
/// principal; see [`credentials`](Self::credentials).
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
    pub(crate) credentials: OwnedCredentials,
    pub(crate) query: String,
    pub(crate) headers: HeaderMap,
    pub(crate) extensions: Extensions,
    /// Whether the authenticator has read the extensions.
    pub(crate) reads_extensions: Arc<AtomicBool>,
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

    /// The page's token or, with `LiveUpdatesBuilder::sealed_keys`, the principal of its sealed key.
    #[must_use]
    pub fn credentials(&self) -> Credentials<'_> {
        self.credentials.borrowed()
    }

    /// The token; empty if the page sent none, and for a [principal](Credentials::Principal).
    #[must_use]
    pub fn token(&self) -> &str {
        match &self.credentials {
            OwnedCredentials::Token(token) => token,
            OwnedCredentials::Principal(_) => "",
        }
    }

    /// The query of the page's own endpoint address, without what the client appends: `tenant=7` for
    /// `new RemoteEvents("/api/v1?tenant=7", token)`. Empty if it has none.
    #[must_use]
    pub fn query(&self) -> &str {
        &self.query
    }

    /// The request's headers, such as cookies and forwarded addresses. At revalidation of an open socket, only those that
    /// [`revalidation_headers`](crate::LiveUpdatesBuilder::revalidation_headers) names: `Cookie` and `Authorization` by
    /// default.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// What outer layers know about the request, such as the peer's address or a login session. At revalidation of an open
    /// socket they are present if the authenticator called this method when the socket was opened; or those that
    /// [`revalidation_extension`](crate::LiveUpdatesBuilder::revalidation_extension) names.
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
    let Some(at) = token_at(query) else { return Cow::Borrowed("") };
    let rest = &query[at + "token=".len()..];
    // A proxy may have appended to the address, so what follows the client's own end is not part of the token.
    let end = rest.rfind("&ws=1").filter(|end| matches!(rest.as_bytes().get(end + 5), None | Some(b'&')));
    let raw = end.map_or(rest, |end| &rest[..end]);
    percent_decode_str(raw).decode_utf8_lossy()
}

/// The part of a query before the token that the client appended.
pub(crate) fn own_query(query: &str) -> &str {
    token_at(query).map_or(query, |at| query[..at].trim_end_matches('&'))
}

fn token_at(query: &str) -> Option<usize> {
    if query.starts_with("token=") { Some(0) } else { query.find("&token=").map(|at| at + 1) }
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

    #[test]
    fn debug_shows_no_secret() {
        let (parts, ()) = http::Request::builder().header(TOKEN_HEADER, "secret").body(()).unwrap().into_parts();
        let request = AuthRequest::new(OwnedCredentials::Token("secret".into()), &parts);
        assert!(!format!("{request:?} {:?}", request.credentials()).contains("secret"));
    }

    #[test]
    fn a_principal_is_no_token() {
        let (parts, ()) = http::Request::new(()).into_parts();
        let request = AuthRequest::new(OwnedCredentials::Principal("alice".into()), &parts);
        assert_eq!((request.credentials(), request.token()), (Credentials::Principal("alice"), ""));
        let secret = Secret::new();
        let [principal, token] =
            [OwnedCredentials::Principal, OwnedCredentials::Token].map(|of| of("alice".to_owned()));
        assert_ne!(principal.owner(&secret), token.owner(&secret), "they own different sessions");
    }
}
