//! The handshake: the one request a page makes before its socket, once in its life.
//!
//! The stock client reads the body whatever the status and tries only once, so a refusal must not carry
//! `"websocket":true`, and nothing that may pass is a reason to refuse.

use http::{HeaderValue, Response, StatusCode, header};

use crate::{body::EndpointBody, object::quoted};

/// The answer that lets a page in: the article's, and the key its socket will name.
pub(crate) fn welcome(key: Option<&str>) -> Response<EndpointBody> {
    let key = key.map(|key| format!(r#","key":{}"#, quoted(key))).unwrap_or_default();
    json(StatusCode::OK, format!(r#"{{"api":{{}},"data":{{}},"websocket":true{key}}}"#))
}

/// The answer that does not; the article's too.
pub(crate) fn forbidden() -> Response<EndpointBody> {
    error(StatusCode::FORBIDDEN, "Forbidden")
}

/// `{"error":…}` with a status.
pub(crate) fn error(status: StatusCode, reason: &str) -> Response<EndpointBody> {
    json(status, format!(r#"{{"error":{}}}"#, quoted(reason)))
}

/// A JSON answer that no cache keeps: it may hold a key.
pub(crate) fn json(status: StatusCode, body: String) -> Response<EndpointBody> {
    let mut response = Response::new(EndpointBody::new(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
