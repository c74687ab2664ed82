//! The REST interface that the scheduler's DataProcessor saves through.
//!
//! Nothing here concerns live updates but one case: a change of a series takes its exceptions with it, which the
//! layer cannot know.

use axum::{
    Extension, Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, FromRequest, Path, RawQuery, Request, State, rejection::BytesRejection},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::{get, put},
};
use serde::Serialize;
use tower_live_updates::{Change, LiveWrite};

use crate::{
    event::Event,
    store::{self, Changed, Deleted, Store},
};

const LARGEST_BODY: usize = 1024 * 1024;

pub(crate) fn routes(store: Store) -> Router {
    Router::new()
        .route("/events", get(list).post(post))
        .route("/events/{id}", put(update).patch(update).delete(delete))
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .with_state(store)
}

async fn list(State(store): State<Store>) -> Result<Json<Vec<Event>>, Refusal> {
    Ok(Json(store.list().await?))
}

/// Creates an event. In the DataProcessor's modes JSON and POST every write comes here, and names itself in its body.
async fn post(
    store: State<Store>,
    write: Extension<LiveWrite>,
    RawQuery(query): RawQuery,
    Sent(event): Sent,
) -> Result<Json<Answer>, Refusal> {
    let editing = query.is_some_and(|query| query.split('&').any(|pair| pair == "editing=true"));
    match editing.then(|| BodyWrite::read(&event)).flatten() {
        None => create(&store, event).await,
        Some(BodyWrite::Insert(event)) => create(&store, event).await,
        Some(BodyWrite::Update(id, event)) => update(store, Path(id), write, Sent(event)).await,
        Some(BodyWrite::Delete(id)) => delete(store, Path(id), write).await,
    }
}

async fn create(store: &Store, event: Event) -> Result<Json<Answer>, Refusal> {
    // An occurrence that is taken out of its series is kept as an event of its own.
    let action = if event.is_deleted() && event.series().is_some() { "deleted" } else { "inserted" };
    let (id, event) = store.create(without_transport_fields(event)).await?;
    Ok(Json(Answer { action, tid: Some(id), item: Some(event) }))
}

async fn update(
    State(store): State<Store>,
    Path(id): Path<String>,
    Extension(write): Extension<LiveWrite>,
    Sent(changes): Sent,
) -> Result<Json<Answer>, Refusal> {
    let Changed { event, dropped } = store.update(&id, without_transport_fields(changes)).await?;
    if !dropped.is_empty() {
        publish_with(&write, &dropped, Change::update(&event).map_err(internal)?)?;
    }
    Ok(Json(Answer { action: "updated", tid: None, item: Some(event) }))
}

async fn delete(
    State(store): State<Store>,
    Path(id): Path<String>,
    Extension(write): Extension<LiveWrite>,
) -> Result<Json<Answer>, Refusal> {
    let item = match store.delete(&id).await? {
        Deleted::Marked(event) => Some(event),
        Deleted::Gone { dropped } => {
            if !dropped.is_empty() {
                publish_with(&write, &dropped, Change::delete(&id).map_err(internal)?)?;
            }
            None
        }
    };
    Ok(Json(Answer { action: "deleted", tid: None, item }))
}

/// Publishes the deletions of exceptions that went with a series. Pages hold those as events of their own, and would
/// show them for ever. Then it publishes the change itself, which the layer now leaves to us.
fn publish_with(write: &LiveWrite, dropped: &[String], own: Change) -> Result<(), Refusal> {
    for id in dropped {
        write.publish(Change::delete(id).map_err(internal)?);
    }
    write.publish(own);
    Ok(())
}

/// The body's id is at best the page's temporary one: the address names the event, and the store names
/// new ones.
fn without_transport_fields(mut event: Event) -> Event {
    event.remove("id");
    event.remove("!nativeeditor_status");
    event
}

/// A write whose body names its action.
enum BodyWrite {
    Insert(Event),
    Update(String, Event),
    Delete(String),
}

impl BodyWrite {
    fn read(body: &Event) -> Option<Self> {
        let (action, event) = match body.text("!nativeeditor_status") {
            Some(status) => (status, body.clone()),
            None => (body.text("action")?, serde_json::from_str(body.get("data")?.get()).ok()?),
        };
        match action.as_str() {
            "inserted" => Some(Self::Insert(event)),
            "updated" => Some(Self::Update(body.text("id")?, event)),
            "deleted" => Some(Self::Delete(body.text("id")?)),
            _ => None,
        }
    }
}

/// The event in a request's body, JSON or form-encoded.
struct Sent(Event);

impl<S: Send + Sync> FromRequest<S> for Sent {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        let kind = request.headers().get(CONTENT_TYPE).map_or(&b""[..], |value| value.as_bytes());
        let kind = kind.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        let read = if kind.eq_ignore_ascii_case(b"application/x-www-form-urlencoded") {
            Event::from_form
        } else if kind.is_empty() || kind.eq_ignore_ascii_case(b"application/json") {
            Event::from_json
        } else {
            return Err(Refusal(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "an event is sent as application/json or application/x-www-form-urlencoded".to_owned(),
            ));
        };
        let body = Bytes::from_request(request, state).await?;
        read(&body).map(Self).map_err(|error| Refusal(StatusCode::BAD_REQUEST, error.to_string()))
    }
}

/// What a DataProcessor understands; it takes no status but 200 for success.
#[derive(Serialize)]
struct Answer {
    action: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    item: Option<Event>,
}

/// A request that was not carried out: the status and the reason in the response.
struct Refusal(StatusCode, String);

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

impl From<store::Error> for Refusal {
    fn from(error: store::Error) -> Self {
        match error {
            store::Error::NotFound => Self(StatusCode::NOT_FOUND, error.to_string()),
            store::Error::Invalid(why) => Self(StatusCode::BAD_REQUEST, why),
            store::Error::Internal(source) => internal(source),
        }
    }
}

/// What went wrong inside goes to the log; the response only reports that something did.
fn internal(error: impl std::fmt::Display) -> Refusal {
    eprintln!("a request failed: {error}");
    Refusal(StatusCode::INTERNAL_SERVER_ERROR, "something went wrong here".to_owned())
}
