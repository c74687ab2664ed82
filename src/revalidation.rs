//! What is kept of the request that opened a socket, to ask the authenticator about it again.

use http::{Extensions, HeaderMap, HeaderName, HeaderValue, request::Parts};

use crate::auth::{AuthRequest, OwnedCredentials, own_query};

/// Bytes of headers, names and values together, that are kept for a socket.
const MAX_HEADER_BYTES: usize = 4 * 1024;

/// The credentials, the page's own query, a few headers, and the extensions. Thousands of sockets each keep one, so it
/// holds no header map, whose tables alone are larger than all of this.
pub(crate) struct RevalidationRequest {
    credentials: OwnedCredentials,
    query: Box<str>,
    headers: Box<[(HeaderName, HeaderValue)]>,
    extensions: Extensions,
}

impl RevalidationRequest {
    /// Keeps the headers of these names, with how many did not fit.
    pub(crate) fn of(credentials: OwnedCredentials, parts: &Parts, names: &[HeaderName]) -> (Self, usize) {
        let (mut headers, mut bytes, mut left_out) = (Vec::new(), 0, 0);
        for name in names {
            for value in parts.headers.get_all(name) {
                let size = name.as_str().len() + value.len();
                match copy(value).filter(|_| bytes + size <= MAX_HEADER_BYTES) {
                    Some(value) => {
                        bytes += size;
                        headers.push((name.clone(), value));
                    }
                    None => left_out += 1,
                }
            }
        }
        let query = own_query(parts.uri.query().unwrap_or_default()).into();
        let extensions = if parts.extensions.is_empty() { Extensions::new() } else { parts.extensions.clone() };
        (Self { credentials: credentials.shrunk(), query, headers: headers.into(), extensions }, left_out)
    }

    /// The request as the authenticator is asked it.
    pub(crate) fn request(&self) -> AuthRequest {
        let mut headers = HeaderMap::with_capacity(self.headers.len());
        for (name, value) in &self.headers {
            headers.append(name, value.clone());
        }
        AuthRequest::with(self.credentials.clone(), self.query.clone().into(), headers, self.extensions.clone())
    }
}

/// A value of its own: a server reads a request into one buffer, which lives for as long as any value in it does.
fn copy(value: &HeaderValue) -> Option<HeaderValue> {
    let mut copy = HeaderValue::from_bytes(value.as_bytes()).ok()?;
    copy.set_sensitive(value.is_sensitive());
    Some(copy)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{Request, header};

    use super::*;
    use crate::auth::Credentials;

    const USUAL: [HeaderName; 2] = [header::COOKIE, header::AUTHORIZATION];

    fn parts(uri: &str, headers: &[(&'static str, Vec<u8>)]) -> Parts {
        let mut parts = Request::get(uri).body(()).unwrap().into_parts().0;
        for (name, value) in headers {
            parts.headers.append(*name, HeaderValue::from_bytes(value).unwrap());
        }
        parts
    }

    fn kept(parts: &Parts, names: &[HeaderName]) -> (RevalidationRequest, usize) {
        RevalidationRequest::of(OwnedCredentials::Token("demo".into()), parts, names)
    }

    #[test]
    fn what_is_asked_for_again_is_kept_and_nothing_else() {
        #[derive(Clone, Debug, PartialEq)]
        struct Peer(u8);

        let lines = [("cookie", &b"a=1"[..]), ("x-device", b"7"), ("user-agent", b"x"), ("cookie", b"b=\xe9")];
        let mut parts = parts("/api/v1?tenant=7&token=demo&ws=1", &lines.map(|(name, value)| (name, value.to_vec())));
        parts.headers.get_mut("x-device").unwrap().set_sensitive(true);
        parts.extensions.insert(Peer(7));
        for (names, expected) in [(&USUAL[..], 2), (&[HeaderName::from_static("x-device")], 1), (&[], 0)] {
            let (kept, left_out) = kept(&parts, names);
            let request = kept.request();
            assert_eq!((request.headers().len(), left_out), (expected, 0));
            for name in names {
                assert!(request.headers().get_all(name).iter().eq(parts.headers.get_all(name)));
            }
            assert!(request.headers().get("x-device").is_none_or(HeaderValue::is_sensitive));
            assert_eq!((request.credentials(), request.query()), (Credentials::Token("demo"), "tenant=7"));
            assert_eq!(request.extensions().get::<Peer>(), Some(&Peer(7)));
        }
    }

    #[test]
    fn headers_beyond_the_bound_are_left_out_each_as_a_whole() {
        let line = |name, length| (name, vec![b'x'; length]);
        let parts = parts(
            "/api/v1",
            &[
                line("cookie", 3000),
                line("cookie", 1500),
                line("cookie", 500),
                line("authorization", 4096),
                line("authorization", 500),
            ],
        );
        let (kept, left_out) = kept(&parts, &USUAL);
        let lengths: Vec<usize> = kept.request().headers().values().map(HeaderValue::len).collect();
        assert_eq!((lengths, left_out), (vec![3000, 500, 500], 2));
    }

    #[test]
    fn the_buffer_that_the_request_was_read_into_is_free() {
        let buffer = Bytes::from(vec![b'x'; 8192]);
        let mut parts = parts("/api/v1", &[]);
        for name in ["cookie", "x-one"] {
            parts.headers.insert(name, HeaderValue::from_maybe_shared(buffer.slice(..9)).unwrap());
        }
        let (kept, _) = kept(&parts, &[header::COOKIE, HeaderName::from_static("x-one")]);
        drop(parts);
        assert!(buffer.is_unique());
        assert_eq!(kept.headers.len(), 2);
    }

    #[test]
    fn it_is_small() {
        assert!(size_of::<RevalidationRequest>() <= 72, "{}", size_of::<RevalidationRequest>());
    }
}
