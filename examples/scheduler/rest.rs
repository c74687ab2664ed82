//! What the REST interfaces of all widgets share: how a DataProcessor sends its writes, and what it understands.

use axum::{
    Json,
    body::Bytes,
    extract::{FromRequest, Request, rejection::BytesRejection},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use serde::Serialize;

use crate::{database, row::Row};

pub(crate) const LARGEST_BODY: usize = 1024 * 1024;

/// The object in a request's body, JSON or form-encoded.
pub(crate) struct Sent(pub(crate) Row);

impl<S: Send + Sync> FromRequest<S> for Sent {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        let kind = request.headers().get(CONTENT_TYPE).map_or(&b""[..], |value| value.as_bytes());
        let kind = kind.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        let read = if kind.eq_ignore_ascii_case(b"application/x-www-form-urlencoded") {
            Row::from_form
        } else if kind.is_empty() || kind.eq_ignore_ascii_case(b"application/json") {
            Row::from_json
        } else {
            return Err(Refusal(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "an object is sent as application/json or application/x-www-form-urlencoded".to_owned(),
            ));
        };
        let body = Bytes::from_request(request, state).await?;
        read(&body).map(Self).map_err(|error| Refusal(StatusCode::BAD_REQUEST, error.to_string()))
    }
}

/// A write whose body names its action, as in the DataProcessor's modes JSON and POST.
pub(crate) enum BodyWrite {
    Insert(Row),
    Update(String, Row),
    Delete(String),
}

impl BodyWrite {
    /// What a POST to the collection asks for: an insert, unless the body names its action.
    pub(crate) fn read(query: Option<&str>, body: Row) -> Result<Self, Refusal> {
        if !has(query, "editing=true") {
            return Ok(Self::Insert(body));
        }
        Self::named(&body).ok_or_else(|| {
            Refusal(
                StatusCode::BAD_REQUEST,
                "a write with editing=true names its action (inserted, updated or deleted) and the id of one object; \
                 save with the mode REST-JSON, REST, JSON or POST, and not in batches"
                    .to_owned(),
            )
        })
    }

    fn named(body: &Row) -> Option<Self> {
        let (action, object) = match body.text("!nativeeditor_status") {
            Some(status) => (status, body.clone()),
            None => (body.text("action")?, serde_json::from_str(body.get("data")?.get()).ok()?),
        };
        match action.as_str() {
            "inserted" => Some(Self::Insert(object)),
            // The Gantt names a task that was dragged to another row so.
            "updated" | "order" => Some(Self::Update(body.text("id")?, object)),
            "deleted" => Some(Self::Delete(body.text("id")?)),
            _ => None,
        }
    }
}

/// Refuses the mode GET, in which a page would take any list for the answer to a write.
pub(crate) fn refuse_writes_by_get(query: Option<&str>) -> Result<(), Refusal> {
    if !has(query, "editing=true") {
        return Ok(());
    }
    Err(Refusal(
        StatusCode::METHOD_NOT_ALLOWED,
        "nothing is saved by GET; save with the mode REST-JSON, REST, JSON or POST".to_owned(),
    ))
}

pub(crate) fn has(query: Option<&str>, pair: &str) -> bool {
    query.is_some_and(|query| query.split('&').any(|each| each == pair))
}

/// The body's id is at best the page's temporary one: the address names the object, and the store names new ones.
pub(crate) fn without_transport_fields(mut object: Row) -> Row {
    object.remove("id");
    object.remove("!nativeeditor_status");
    object
}

/// What a DataProcessor understands; it takes no status but 200 for success.
#[derive(Serialize)]
pub(crate) struct Answer {
    action: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    item: Option<Row>,
}

impl Answer {
    pub(crate) fn inserted(id: String, item: Row) -> Self {
        Self { action: "inserted", tid: Some(id), item: Some(item) }
    }

    pub(crate) fn updated(item: Row) -> Self {
        Self { action: "updated", tid: None, item: Some(item) }
    }

    pub(crate) fn deleted(item: Option<Row>) -> Self {
        Self { action: "deleted", tid: None, item }
    }

    /// The new object stands for a deletion, which is what pages are to make of it.
    pub(crate) fn inserted_deletion(id: String, item: Row) -> Self {
        Self { action: "deleted", tid: Some(id), item: Some(item) }
    }
}

/// A request that was not carried out: the status and the reason in the response.
pub(crate) struct Refusal(pub(crate) StatusCode, pub(crate) String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Self(status, message) = self;
        (status, Json(serde_json::json!({ "action": "error", "message": message }))).into_response()
    }
}

impl From<BytesRejection> for Refusal {
    fn from(rejection: BytesRejection) -> Self {
        Self(rejection.status(), rejection.body_text())
    }
}

impl From<database::Error> for Refusal {
    fn from(error: database::Error) -> Self {
        match error {
            database::Error::NotFound => Self(StatusCode::NOT_FOUND, error.to_string()),
            database::Error::Invalid(why) => Self(StatusCode::BAD_REQUEST, why),
            database::Error::Conflict(why) => Self(StatusCode::CONFLICT, why),
            database::Error::Internal(source) => internal(source),
        }
    }
}

/// What went wrong inside goes to the log; the response only reports that something did.
pub(crate) fn internal(error: impl std::fmt::Display) -> Refusal {
    eprintln!("a request failed: {error}");
    Refusal(StatusCode::INTERNAL_SERVER_ERROR, "something went wrong here".to_owned())
}
