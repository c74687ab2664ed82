//! The parts of a socket's request that are kept for its revalidation.

use std::sync::Arc;

use http::{Extensions, HeaderName, HeaderValue, header, request::Parts};

use crate::auth::{AuthRequest, OwnedCredentials, own_query};

/// Bytes of headers, names and values together, that are kept for a socket.
const MAX_HEADER_BYTES: usize = 4 * 1024;

/// Which parts of the requests that open sockets are kept.
#[derive(Clone, Debug)]
pub(crate) struct RevalidationKeeps {
    headers: Vec<HeaderName>,
    /// Each copies the extension of one type. If empty, all extensions are kept for an authenticator that reads them.
    extensions: Vec<fn(&Extensions, &mut Extensions)>,
}

impl Default for RevalidationKeeps {
    fn default() -> Self {
        Self { headers: vec![header::COOKIE, header::AUTHORIZATION], extensions: Vec::new() }
    }
}

impl RevalidationKeeps {
    /// Keeps the headers of these names only.
    pub(crate) fn headers(&mut self, names: impl IntoIterator<Item = HeaderName>) {
        self.headers.clear();
        for name in names {
            if !self.headers.contains(&name) {
                self.headers.push(name);
            }
        }
    }

    /// Adds a type of extensions to keep. Types that were not added are then dropped.
    pub(crate) fn extension<T: Clone + Send + Sync + 'static>(&mut self) {
        self.extensions.push(|from, to| {
            if let Some(extension) = from.get::<T>() {
                to.insert(extension.clone());
            }
        });
    }

    /// All extensions are kept only for an authenticator that reads them: one of them may hold the buffer that the whole
    /// request was read into, as axum's `OriginalUri` does.
    fn extensions_of(&self, extensions: &Extensions, are_read: bool) -> Extensions {
        let mut kept = Extensions::new();
        if self.extensions.is_empty() && are_read && !extensions.is_empty() {
            return extensions.clone();
        }
        self.extensions.iter().for_each(|copy| copy(extensions, &mut kept));
        kept
    }
}

/// The credentials, the page's own query, a few headers, and the extensions. Thousands of sockets each keep one, so it
/// holds no header map, whose tables alone are larger than all of this.
pub(crate) struct RevalidationRequest {
    credentials: OwnedCredentials,
    query: Box<str>,
    headers: Box<[(HeaderName, HeaderValue)]>,
    extensions: Extensions,
}

impl RevalidationRequest {
    /// Also returns how many headers did not fit. `reads_extensions`: the authenticator has read this request's extensions.
    pub(crate) fn of(
        credentials: OwnedCredentials,
        parts: &Parts,
        keeps: &RevalidationKeeps,
        reads_extensions: bool,
    ) -> (Self, usize) {
        let (mut headers, mut bytes, mut left_out) = (Vec::new(), 0, 0);
        for name in &keeps.headers {
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
        let extensions = keeps.extensions_of(&parts.extensions, reads_extensions);
        (Self { credentials: credentials.shrunk(), query, headers: headers.into(), extensions }, left_out)
    }

    /// The request as the authenticator gets it at revalidation.
    pub(crate) fn request(&self) -> AuthRequest {
        AuthRequest {
            credentials: self.credentials.clone(),
            query: self.query.clone().into(),
            headers: self.headers.iter().cloned().collect(),
            extensions: self.extensions.clone(),
            reads_extensions: Arc::default(),
        }
    }
}

/// A copy with a buffer of its own. A server reads a request into one buffer, which lives as long as any value in it.
fn copy(value: &HeaderValue) -> Option<HeaderValue> {
    let mut copy = HeaderValue::from_bytes(value.as_bytes()).ok()?;
    copy.set_sensitive(value.is_sensitive());
    Some(copy)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::Request;

    use super::*;
    use crate::auth::Credentials;

    fn parts(uri: &str, headers: &[(&'static str, Vec<u8>)]) -> Parts {
        let mut parts = Request::get(uri).body(()).unwrap().into_parts().0;
        for (name, value) in headers {
            parts.headers.append(*name, HeaderValue::from_bytes(value).unwrap());
        }
        parts
    }

    #[derive(Clone, Debug, PartialEq)]
    struct Peer(u8);

    #[derive(Clone, Debug, PartialEq)]
    struct Other;

    fn keeps(names: &[HeaderName]) -> RevalidationKeeps {
        let mut keeps = RevalidationKeeps::default();
        keeps.headers(names.iter().cloned());
        keeps
    }

    fn kept(parts: &Parts, keeps: &RevalidationKeeps) -> (RevalidationRequest, usize) {
        RevalidationRequest::of(OwnedCredentials::Token("demo".into()), parts, keeps, false)
    }

    #[test]
    fn only_the_parts_of_a_revalidation_are_kept() {
        let lines = [("cookie", &b"a=1"[..]), ("x-device", b"7"), ("user-agent", b"x"), ("cookie", b"b=\xe9")];
        let mut parts = parts("/api/v1?tenant=7&token=demo&ws=1", &lines.map(|(name, value)| (name, value.to_vec())));
        parts.headers.get_mut("x-device").unwrap().set_sensitive(true);
        for (names, expected) in
            [(&RevalidationKeeps::default().headers[..], 2), (&[HeaderName::from_static("x-device")], 1), (&[], 0)]
        {
            let (kept, left_out) = kept(&parts, &keeps(names));
            let request = kept.request();
            assert_eq!((request.headers().len(), left_out), (expected, 0));
            for name in names {
                assert!(request.headers().get_all(name).iter().eq(parts.headers.get_all(name)));
            }
            assert!(request.headers().get("x-device").is_none_or(HeaderValue::is_sensitive));
            assert_eq!((request.credentials(), request.query()), (Credentials::Token("demo"), "tenant=7"));
        }
    }

    #[test]
    fn extensions_are_kept_if_they_were_read_or_by_type() {
        let mut parts = parts("/api/v1", &[]);
        parts.extensions.insert(Peer(7));
        parts.extensions.insert(Other);
        let mut by_type = RevalidationKeeps::default();
        by_type.extension::<Peer>();
        by_type.extension::<String>();
        for (keeps, are_read, expected) in [
            (RevalidationKeeps::default(), false, (None, None)),
            (RevalidationKeeps::default(), true, (Some(&Peer(7)), Some(&Other))),
            (by_type.clone(), false, (Some(&Peer(7)), None)),
            (by_type, true, (Some(&Peer(7)), None)),
        ] {
            let credentials = OwnedCredentials::Token("demo".into());
            let (kept, _) = RevalidationRequest::of(credentials, &parts, &keeps, are_read);
            let request = kept.request();
            let extensions = request.extensions();
            assert_eq!((extensions.get(), extensions.get()), expected, "{keeps:?} {are_read}");
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
        let (kept, left_out) = kept(&parts, &RevalidationKeeps::default());
        let lengths: Vec<usize> = kept.request().headers().values().map(HeaderValue::len).collect();
        assert_eq!((lengths, left_out), (vec![3000, 500, 500], 2));
    }

    #[test]
    fn the_buffer_of_the_request_is_freed() {
        let buffer = Bytes::from(vec![b'x'; 8192]);
        let mut parts = parts("/api/v1", &[]);
        for name in ["cookie", "x-one"] {
            parts.headers.insert(name, HeaderValue::from_maybe_shared(buffer.slice(..9)).unwrap());
        }
        let (kept, _) = kept(&parts, &keeps(&[header::COOKIE, HeaderName::from_static("x-one")]));
        drop(parts);
        assert!(buffer.is_unique());
        assert_eq!(kept.headers.len(), 2);
    }

    #[test]
    fn a_kept_request_is_small() {
        assert!(size_of::<RevalidationRequest>() <= 72, "{}", size_of::<RevalidationRequest>());
    }
}
