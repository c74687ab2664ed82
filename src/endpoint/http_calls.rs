//! Calls over HTTP.
//!
//! The stock client does not look at the status of a response, and leaves promises pending where it finds JSON that is no
//! array of results. It fails them all where the body is no JSON. So a refusal is plain text.

use std::time::Duration;

use http::{HeaderValue, Response, StatusCode, header, request::Parts};
use http_body::Body;

use super::{Endpoint, responses::json};
use crate::{
    auth::{AuthError, Identity, header_token},
    body::EndpointBody,
    call_message::{Call, Outcome, array, results},
    calls::{Caller, Calls, NO_MEMORY},
    connection::NO_METHODS,
    watch::capture::collect,
};

/// Larger bodies are refused where there are no methods.
const MAX_BYTES: usize = 64 * 1024;
/// A body may hold several calls of the largest size.
const LARGEST_CALLS: usize = 16;
/// Slower bodies are refused.
const TIME: Duration = Duration::from_secs(10);

impl Endpoint {
    pub(super) async fn calls<B: Body>(&self, parts: &Parts, body: B) -> Response<EndpointBody> {
        if self.is_foreign(parts) {
            return refused(StatusCode::FORBIDDEN, "Forbidden");
        }
        let presented = self.keys.read(header_token(&parts.headers));
        match self.authenticated(&presented, parts).await.0 {
            Ok(identity) => self.answer_calls(identity, body).await,
            Err(AuthError::Unavailable) => refused(StatusCode::SERVICE_UNAVAILABLE, "authentication is unavailable"),
            Err(AuthError::Denied | AuthError::Expired) => refused(StatusCode::FORBIDDEN, "Forbidden"),
        }
    }

    async fn answer_calls<B: Body>(&self, identity: Identity, body: B) -> Response<EndpointBody> {
        let Some(calls) = self.connections.calls.clone() else {
            let Some(list) = read(body, MAX_BYTES).await else { return malformed(MAX_BYTES) };
            self.observer().calls.add(list.len() as u64);
            let failed = Outcome::Failed(NO_METHODS.into());
            return json(StatusCode::OK, results(list.iter().map(|call| &call.id), &failed));
        };
        let most = calls.limits.bytes.saturating_mul(LARGEST_CALLS);
        let announced = body.size_hint().upper().and_then(|bytes| usize::try_from(bytes).ok());
        let Some(memory) = calls.memory.take(announced.unwrap_or(most).min(most)) else {
            return refused(StatusCode::SERVICE_UNAVAILABLE, NO_MEMORY);
        };
        let Some(list) = read(body, most).await else { return malformed(most) };
        let caller = Caller { identity, session: None };
        match Calls::answer(calls, caller, list, memory).await {
            Some(results) => json(StatusCode::OK, array(results)),
            None => refused(StatusCode::SERVICE_UNAVAILABLE, "the server shuts down"),
        }
    }
}

async fn read<B: Body>(body: B, most: usize) -> Option<Vec<Call>> {
    let whole = collect(body, most, TIME).await.whole()?;
    Call::list(std::str::from_utf8(&whole).ok()?)
}

fn malformed(most: usize) -> Response<EndpointBody> {
    let reason = format!("calls are a JSON array of objects with an id each, {most} bytes at most");
    refused(StatusCode::BAD_REQUEST, reason)
}

fn refused(status: StatusCode, reason: impl Into<String>) -> Response<EndpointBody> {
    let mut response = Response::new(EndpointBody::new(reason.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
