//! The answers of the endpoint: to the handshake, which a page makes once, before its socket, and to remote calls.
//!
//! The stock client reads the body of a handshake whatever the status, and makes only one. So a refusal must not contain
//! `"websocket":true`, and a temporary failure is no reason to refuse.

use std::time::Duration;

use http::{HeaderValue, Response, StatusCode, header};
use http_body::Body;

use crate::{
    body::EndpointBody,
    object::quoted,
    observe::Observer,
    protocol::{CallId, call_results},
    watch::capture::collect,
};

/// Larger bodies of calls are refused.
const MAX_BYTES: usize = 64 * 1024;
/// Slower bodies of calls are refused.
const TIME: Duration = Duration::from_secs(10);

/// The answer that accepts a page: the article's, with the key that its socket will present.
pub(crate) fn welcome(key: Option<&str>) -> Response<EndpointBody> {
    let key = key.map(|key| format!(r#","key":{}"#, quoted(key))).unwrap_or_default();
    json(StatusCode::OK, format!(r#"{{"api":{{}},"data":{{}},"websocket":true{key}}}"#))
}

/// The answer that refuses a page; the article's too.
pub(crate) fn forbidden() -> Response<EndpointBody> {
    error(StatusCode::FORBIDDEN, "Forbidden")
}

/// `{"error":…}` with a status.
pub(crate) fn error(status: StatusCode, reason: &str) -> Response<EndpointBody> {
    json(status, format!(r#"{{"error":{}}}"#, quoted(reason)))
}

/// A JSON answer with `no-store`, since it may hold a key.
pub(crate) fn json(status: StatusCode, body: String) -> Response<EndpointBody> {
    let mut response = Response::new(EndpointBody::new(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Answers an array of calls, which the client makes with its `api` stubs while it has no socket. This crate offers no
/// methods, so every call is answered with an error instead of being left unanswered.
pub(crate) async fn answer_calls<B: Body>(body: B, observer: &Observer) -> Response<EndpointBody> {
    let whole = collect(body, MAX_BYTES, TIME).await.whole();
    let calls = whole.as_deref().and_then(|body| std::str::from_utf8(body).ok()).and_then(CallId::list);
    match calls {
        Some(calls) => {
            observer.calls.add(calls.len() as u64);
            json(StatusCode::OK, call_results(&calls))
        }
        None => error(StatusCode::BAD_REQUEST, "calls are a JSON array of objects with an id each, 64 KiB at most"),
    }
}
