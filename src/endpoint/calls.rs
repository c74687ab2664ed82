//! Remote calls over HTTP, which the client makes with its `api` stubs while it has no socket.
//!
//! This crate offers no methods, so every call is answered with an error instead of being left unanswered.

use std::time::Duration;

use http::{Response, StatusCode};
use http_body::Body;

use super::handshake::{error, json};
use crate::{
    body::EndpointBody,
    observe::Observer,
    protocol::{CallId, call_results},
    watch::capture::collect,
};

/// Larger bodies are refused.
const MAX_BYTES: usize = 64 * 1024;
/// Slower bodies are refused.
const TIME: Duration = Duration::from_secs(10);

/// Answers an array of calls.
pub(crate) async fn answer<B: Body>(body: B, observer: &Observer) -> Response<EndpointBody> {
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
