//! The WebSocket handshake over HTTP/1.1 (RFC 6455 4.2).

use data_encoding::BASE64;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Version, header, request::Parts};
use hyper::upgrade::OnUpgrade;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::body::EndpointBody;

/// A valid request for an upgrade.
#[derive(Debug)]
pub(crate) struct Upgrade {
    on_upgrade: OnUpgrade,
    accept: String,
}

/// Why an upgrade is refused, with the remedy for the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) reason: &'static str,
}

/// True if a GET means the socket and not the page's handshake: it has a part of an upgrade, or the client's `ws=1`.
pub(crate) fn is_wanted(parts: &Parts) -> bool {
    let marked = parts.uri.query().is_some_and(|query| {
        query.split('&').any(|pair| pair.strip_prefix("ws=").is_some_and(|value| !value.is_empty()))
    });
    marked
        || lists(&parts.headers, &header::UPGRADE, "websocket")
        || parts.headers.contains_key(header::SEC_WEBSOCKET_KEY)
}

/// A WebSocket over HTTP/2 (RFC 8441), which browsers use if a server offers it.
pub(crate) const EXTENDED_CONNECT: Refusal = Refusal {
    status: StatusCode::METHOD_NOT_ALLOWED,
    reason: "WebSockets are served over HTTP/1.1 only; leave extended CONNECT (enable_connect_protocol) off in the server, \
             or h2 out of its ALPN, and browsers open a connection of their own",
};

impl Upgrade {
    /// Checks the request, and takes from it what the server needs for the upgrade.
    pub(crate) fn of(parts: &mut Parts) -> Result<Self, Refusal> {
        let refuse = |status, reason| Err(Refusal { status, reason });
        if parts.version < Version::HTTP_11 {
            return refuse(
                StatusCode::BAD_REQUEST,
                "the request came over HTTP/1.0, which has no WebSockets; a proxy in between must speak HTTP/1.1 and forward \
                 both headers (nginx: proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header \
                 Connection \"upgrade\";)",
            );
        }
        if parts.version > Version::HTTP_11 {
            return refuse(
                StatusCode::BAD_REQUEST,
                "the request came over HTTP/2, and this form of the WebSocket handshake belongs to HTTP/1.1; have the proxy in \
                 between speak HTTP/1.1 to this server",
            );
        }
        let upgrading = lists(&parts.headers, &header::UPGRADE, "websocket")
            && lists(&parts.headers, &header::CONNECTION, "upgrade");
        if !upgrading {
            return refuse(
                StatusCode::UPGRADE_REQUIRED,
                "this is the address of a WebSocket, and the request lacks `Upgrade: websocket` or `Connection: \
                 Upgrade`; a proxy in between must forward both (nginx: proxy_http_version 1.1; proxy_set_header Upgrade \
                 $http_upgrade; proxy_set_header Connection \"upgrade\";)",
            );
        }
        if parts.headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
            return refuse(StatusCode::UPGRADE_REQUIRED, "only version 13 of the WebSocket protocol is supported");
        }
        let key = parts.headers.get(header::SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes);
        let Some(key) = key.filter(|key| BASE64.decode(key).is_ok_and(|nonce| nonce.len() == 16)) else {
            return refuse(StatusCode::BAD_REQUEST, "Sec-WebSocket-Key must be 16 bytes in base64");
        };
        let accept = derive_accept_key(key);
        let Some(on_upgrade) = parts.extensions.remove::<OnUpgrade>() else {
            return refuse(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the server offers no upgrade for this request; serve connections with hyper's with_upgrades() or \
                 hyper-util's serve_connection_with_upgrades, and keep request extensions",
            );
        };
        Ok(Self { on_upgrade, accept })
    }

    /// The 101, without a body or a header about one, and the stream that follows it.
    pub(crate) fn accept(self) -> (Response<EndpointBody>, OnUpgrade) {
        let mut response = Response::new(EndpointBody::default());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        if let Ok(accept) = HeaderValue::try_from(self.accept) {
            headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        }
        (response, self.on_upgrade)
    }
}

/// True when a header of comma-separated tokens, on one line or several, holds `token` in any case.
fn lists(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|item| item.trim().eq_ignore_ascii_case(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lists_all(values: &[&str]) -> bool {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::CONNECTION, value.parse().unwrap());
        }
        lists(&headers, &header::CONNECTION, "upgrade")
    }

    #[test]
    fn headers_are_lists_of_tokens() {
        for (values, expected) in [
            (&["Upgrade"][..], true),
            (&["upgrade"], true),
            (&["UPGRADE"], true),
            (&["keep-alive, Upgrade"], true),
            (&["Upgrade, keep-alive"], true),
            (&["keep-alive,upgrade"], true),
            (&["keep-alive", "Upgrade"], true),
            (&[" \tUpgrade "], true),
            (&["not-upgrade-really"], false),
            (&["upgrades"], false),
            (&["keep-alive"], false),
            (&[], false),
        ] {
            assert_eq!(lists_all(values), expected, "{values:?}");
        }
    }

    #[test]
    fn the_socket_is_distinguished_from_the_handshake() {
        let wanted = |uri: &str, header: Option<(&str, &str)>| {
            let mut request = http::Request::get(uri);
            if let Some((name, value)) = header {
                request = request.header(name, value);
            }
            is_wanted(&request.body(()).unwrap().into_parts().0)
        };
        assert!(!wanted("/api/v1", None));
        assert!(!wanted("/api/v1?ws=", None));
        assert!(!wanted("/api/v1?aws=1", None));
        assert!(wanted("/api/v1?token=x&ws=1", None));
        assert!(wanted("/api/v1", Some(("upgrade", "h2c, WebSocket"))));
        assert!(wanted("/api/v1", Some(("sec-websocket-key", "x"))));
        assert!(!wanted("/api/v1", Some(("upgrade", "h2c"))));
    }
}
