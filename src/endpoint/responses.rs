//! The answers of the endpoint to the handshake, which a page makes once, before its socket.
//!
//! The stock client reads the body of a handshake whatever the status, and makes only one. So a refusal must not contain
//! `"websocket":true`, and a temporary failure is no reason to refuse.

use http::{HeaderValue, Response, StatusCode, header};

use crate::{body::EndpointBody, object::quoted};

/// The answer that accepts a page: the article's, with the key that its socket will present.
pub(crate) struct Welcome<'w> {
    /// The methods that it may call, as a JSON object.
    pub(crate) api: Option<&'w str>,
    /// What the application tells it, as a JSON object.
    pub(crate) data: Option<&'w str>,
    pub(crate) has_socket: bool,
    pub(crate) key: Option<&'w str>,
}

impl Welcome<'_> {
    pub(crate) fn response(&self) -> Response<EndpointBody> {
        let (api, data) = (self.api.unwrap_or("{}"), self.data.unwrap_or("{}"));
        let key = self.key.map(|key| format!(r#","key":{}"#, quoted(key))).unwrap_or_default();
        json(StatusCode::OK, format!(r#"{{"api":{api},"data":{data},"websocket":{}{key}}}"#, self.has_socket))
    }
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
