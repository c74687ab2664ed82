//! The REST interface that the scheduler's DataProcessor saves through. Nothing here concerns live updates.

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, put},
};
use serde::Serialize;

use crate::{
    event::{Draft, Event},
    login::Login,
    store::{Error, Store},
};

const LARGEST_BODY: usize = 64 * 1024;
const NOT_FOUND: Refusal = Refusal(StatusCode::NOT_FOUND, "there is no event of this id");

pub(crate) fn routes(store: Store) -> Router {
    Router::new()
        .route("/events", get(list).post(create))
        .route("/events/{id}", put(update).delete(delete))
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .with_state(store)
}

async fn list(State(store): State<Store>, login: Login) -> Result<Json<Vec<Event>>, Refusal> {
    Ok(Json(store.list(login.user).await?))
}

async fn create(State(store): State<Store>, login: Login, Json(draft): Json<Draft>) -> Result<Json<Answer>, Refusal> {
    let event = store.create(login.user, readable(draft)?).await?;
    Ok(Json(Answer { action: "inserted", tid: Some(event.id.clone()), item: Some(event) }))
}

async fn update(
    State(store): State<Store>,
    login: Login,
    Path(id): Path<String>,
    Json(draft): Json<Draft>,
) -> Result<Json<Answer>, Refusal> {
    let event = store.update(login.user, &id, readable(draft)?).await?.ok_or(NOT_FOUND)?;
    Ok(Json(Answer { action: "updated", tid: None, item: Some(event) }))
}

async fn delete(State(store): State<Store>, login: Login, Path(id): Path<String>) -> Result<Json<Answer>, Refusal> {
    if !store.delete(login.user, &id).await? {
        return Err(NOT_FOUND);
    }
    Ok(Json(Answer { action: "deleted", tid: None, item: None }))
}

fn readable(draft: Draft) -> Result<Draft, Refusal> {
    if !draft.has_dates() {
        return Err(Refusal(StatusCode::BAD_REQUEST, "dates are written as 2026-05-13 10:00"));
    }
    Ok(draft)
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
#[derive(Debug)]
pub(crate) struct Refusal(pub(crate) StatusCode, pub(crate) &'static str);

impl Refusal {
    /// What went wrong inside goes to the log; the response only reports that something did.
    pub(crate) fn internal(error: &Error) -> Self {
        eprintln!("a request failed: {error}");
        Self(StatusCode::INTERNAL_SERVER_ERROR, "something went wrong here")
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::internal(&error)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Self(status, message) = self;
        (status, Json(serde_json::json!({ "action": "error", "message": message }))).into_response()
    }
}
