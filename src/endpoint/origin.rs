//! Which web pages may use the endpoint.
//!
//! Browsers send cookies with a socket from any page, and the same-origin policy does not apply to sockets. So a page of
//! another host is refused before the upgrade unless its origin is allowed.

use std::{fmt, sync::Arc};

use http::{HeaderValue, Uri, header, request::Parts};

use crate::{
    error::ConfigError,
    observe::Observer,
    origin_check::{normal_origin, usual_port},
};

type Predicate = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// The origins allowed besides the server's own.
#[derive(Clone, Default)]
pub(crate) struct Origins {
    pub(crate) listed: Vec<String>,
    pub(crate) predicate: Option<Predicate>,
}

/// A refused origin, and the host it was compared with.
#[derive(Debug, PartialEq)]
pub(crate) struct Foreign {
    pub(crate) origin: String,
    pub(crate) host: String,
}

impl Origins {
    /// Brings the list into the form browsers send.
    pub(crate) fn validated(mut self) -> Result<Self, ConfigError> {
        for listed in &mut self.listed {
            *listed = normal_origin(listed).map_err(|_| ConfigError::Origin(listed.clone()))?;
        }
        Ok(self)
    }

    /// A request without `Origin` does not come from a web page and passes. The origin of a page must be this host, or
    /// allowed.
    pub(crate) fn check(&self, parts: &Parts, observer: &Observer) -> Result<(), Foreign> {
        let Some(value) = parts.headers.get(header::ORIGIN) else { return Ok(()) };
        if parts.headers.get(header::HOST).is_some_and(|host| is_plainly_same_host(value.as_bytes(), host.as_bytes())) {
            return Ok(());
        }
        let origin = String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase();
        let host = host(parts);
        if is_same_host(&origin, &host)
            || self.listed.contains(&origin)
            || normal_origin(&origin).is_ok_and(|normal| self.listed.contains(&normal))
            || self.predicate.as_ref().is_some_and(|allows| is_accepted(allows, &origin, observer))
        {
            return Ok(());
        }
        Err(Foreign { origin, host })
    }
}

impl Foreign {
    /// The line for the log: what differs, and what helps.
    pub(crate) fn line(&self, parts: &Parts) -> String {
        let Self { origin, host } = self;
        let refused = format!("a page of origin {origin:?} was refused at host {host:?}");
        let Some((scheme, authority)) = parse(origin) else {
            return format!(
                "{refused}: that is no origin of a host (pages of files and of sandboxed frames send \"null\"); serve the \
                 page over HTTP, or allow it with allow_origin_if; a proxy must forward the Host header"
            );
        };
        let forwarded = parts.headers.get("x-forwarded-host").and_then(|host| host.to_str().ok());
        let (name, port) = split_port(&authority);
        let difference = if forwarded.is_some_and(|forwarded| is_same_host(origin, &forwarded.to_ascii_lowercase())) {
            "a proxy in between has changed the Host header (its X-Forwarded-Host names the page's host)"
        } else if host.is_empty() {
            "the request has no Host header"
        } else if name != split_port(host).0 {
            "they have different hosts"
        } else if port.is_none() && usual_port(&scheme).is_some() {
            "they have different ports (the page's is its scheme's usual one)"
        } else {
            "they have different ports"
        };
        format!(
            "{refused}: {difference}; if the page is yours, allow it with allow_origin({origin:?}), or have the proxy in \
             between forward the Host header (nginx: proxy_set_header Host $host; or $http_host, which keeps the port)"
        )
    }
}

/// A host and its port.
fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (authority, None),
    }
}

/// A predicate that panics refuses.
fn is_accepted(allows: &Predicate, origin: &str, observer: &Observer) -> bool {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| allows(origin))).unwrap_or_else(|_| {
        observer.hooks_failed.up();
        observer.warn(format_args!("allow_origin_if panicked at the origin {origin:?}, so the page is refused"));
        false
    })
}

impl fmt::Debug for Origins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Origins").field("listed", &self.listed).field("predicate", &self.predicate.is_some()).finish()
    }
}

fn host(parts: &Parts) -> String {
    let named = parts.headers.get(header::HOST).map(HeaderValue::as_bytes);
    let host = named.or_else(|| parts.uri.authority().map(|authority| authority.as_str().as_bytes()));
    String::from_utf8_lossy(host.unwrap_or_default()).to_ascii_lowercase()
}

/// The common case, without parsing: the same host byte for byte.
fn is_plainly_same_host(origin: &[u8], host: &[u8]) -> bool {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b':');
    let authority = origin.strip_prefix(b"https://").or_else(|| origin.strip_prefix(b"http://"));
    authority == Some(host) && !host.is_empty() && host.iter().all(is_plain)
}

/// Any scheme: TLS may end at a proxy. A port that is the scheme's own may be left out on either side.
fn is_same_host(origin: &str, host: &str) -> bool {
    let Some((scheme, authority)) = parse(origin) else { return false };
    let usual = if scheme == "https" { ":443" } else { ":80" };
    let bare = |authority: &str| authority.strip_suffix(usual).unwrap_or(authority).to_owned();
    !host.is_empty() && bare(&authority) == bare(host)
}

/// Scheme and authority of an origin; `None` for `null` and for everything that is no origin.
fn parse(origin: &str) -> Option<(String, String)> {
    let (scheme, rest) = origin.split_once("://")?;
    let uri: Uri = origin.parse().ok()?;
    let authority = uri.authority()?.as_str();
    (authority == rest && !rest.contains('@') && !scheme.is_empty()).then(|| (scheme.to_owned(), authority.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(origins: &Origins, origin: Option<&str>, host: &str) -> bool {
        let mut request = http::Request::get("/api/v1").header(header::HOST, host);
        if let Some(origin) = origin {
            request = request.header(header::ORIGIN, origin);
        }
        origins.check(&request.body(()).unwrap().into_parts().0, &Observer::default()).is_ok()
    }

    #[test]
    fn own_host_and_the_listed_pass() {
        let mut origins = Origins::default();
        origins.listed.push("https://App.example".into());
        origins.listed.push("http://dev.example:5173/".into());
        origins.listed.push("https://port.example:443".into());
        origins.listed.push("capacitor://localhost".into());
        let origins = origins.validated().unwrap();
        for (origin, host, passes) in [
            (None, "a.example", true),
            (Some("http://a.example"), "a.example", true),
            (Some("https://a.example"), "a.example", true),
            (Some("https://a.example"), "A.Example:443", true),
            (Some("http://a.example:80"), "a.example", true),
            (Some("https://a.example"), "a.example:80", false),
            (Some("http://127.0.0.1:3000"), "127.0.0.1:3000", true),
            (Some("http://[::1]:3000"), "[::1]:3000", true),
            (Some("http://127.0.0.1:3001"), "127.0.0.1:3000", false),
            (Some("http://evil.example"), "a.example", false),
            (Some("http://a.example.evil.example"), "a.example", false),
            (Some("http://a.example@evil.example"), "evil.example", false),
            (Some("null"), "a.example", false),
            (Some(""), "a.example", false),
            (Some("null"), "null", false),
            (Some("https://app.example"), "a.example", true),
            (Some("http://app.example"), "a.example", false),
            (Some("http://dev.example:5173"), "a.example", true),
            (Some("http://dev.example"), "a.example", false),
            (Some("https://port.example"), "a.example", true),
            (Some("https://port.example:443"), "a.example", true),
            (Some("http://port.example"), "a.example", false),
            (Some("capacitor://localhost"), "a.example", true),
            (Some("tauri://localhost"), "a.example", false),
        ] {
            assert_eq!(check(&origins, origin, host), passes, "{origin:?} at {host}");
        }
    }

    #[test]
    fn a_refusal_names_the_difference() {
        for (origin, host, forwarded, words) in [
            ("https://a.example", "b.example", "", "different hosts"),
            ("https://a.example", "127.0.0.1:3000", "a.example", "X-Forwarded-Host"),
            ("https://a.example:8443", "a.example", "", "different ports"),
            ("https://a.example", "a.example:3000", "", "usual one"),
            ("https://a.example", "", "", "no Host header"),
            ("null", "a.example", "", "sandboxed"),
            ("", "a.example", "", "sandboxed"),
        ] {
            let request = http::Request::get("/api/v1").header("x-forwarded-host", forwarded);
            let foreign = Foreign { origin: origin.into(), host: host.into() };
            let line = foreign.line(&request.body(()).unwrap().into_parts().0);
            for part in [words, "allow_origin", &format!("{origin:?}"), &format!("{host:?}")] {
                assert!(line.contains(part), "{part} in {line}");
            }
        }
    }

    #[test]
    fn a_predicate_decides_the_rest() {
        let predicate: Predicate = Arc::new(|origin| {
            assert!(!origin.contains("panic"));
            origin.ends_with(".example.com")
        });
        let origins = Origins { predicate: Some(predicate), ..Origins::default() };
        assert!(check(&origins, Some("https://x.example.com"), "a.example"));
        assert!(!check(&origins, Some("https://example.org"), "a.example"));
        assert!(!check(&origins, Some("https://panic.example.com"), "a.example"));
    }

    #[test]
    fn malformed_origins_are_refused_at_build() {
        for bad in ["", "*", "https://*.example", "app.example", "https://app.example/path", "null", "https://"] {
            let mut origins = Origins::default();
            origins.listed.push(bad.into());
            assert!(matches!(origins.validated(), Err(ConfigError::Origin(_))), "{bad}");
        }
    }
}
