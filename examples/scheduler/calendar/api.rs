//! The REST interface that the scheduler's DataProcessor saves through.
//!
//! Nothing here concerns live updates but one case: a change of a series takes its exceptions with it, which the
//! layer cannot know.

use axum::{
    Extension, Json, Router,
    extract::{DefaultBodyLimit, Path, RawQuery, State},
    routing::{get, put},
};
use tower_live_updates::{Change, LiveWrite};

use super::{
    event,
    store::{Changed, Deleted, Events},
};
use crate::{
    rest::{Answer, BodyWrite, LARGEST_BODY, Refusal, Sent, internal, refuse_writes_by_get, without_transport_fields},
    row::Row,
};

pub(crate) fn routes(events: Events) -> Router {
    Router::new()
        .route("/events", get(list).post(post))
        .route("/events/{id}", put(update).patch(update).delete(delete))
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .with_state(events)
}

async fn list(State(events): State<Events>, RawQuery(query): RawQuery) -> Result<Json<Vec<Row>>, Refusal> {
    refuse_writes_by_get(query.as_deref())?;
    Ok(Json(events.list().await?))
}

/// Creates an event. In the DataProcessor's modes JSON and POST every write comes here, and names itself in its body.
async fn post(
    events: State<Events>,
    write: Extension<LiveWrite>,
    RawQuery(query): RawQuery,
    Sent(event): Sent,
) -> Result<Json<Answer>, Refusal> {
    match BodyWrite::read(query.as_deref(), event)? {
        BodyWrite::Insert(event) => create(&events, event).await,
        BodyWrite::Update(id, event) => update(events, Path(id), write, Sent(event)).await,
        BodyWrite::Delete(id) => delete(events, Path(id), write).await,
    }
}

async fn create(events: &Events, event: Row) -> Result<Json<Answer>, Refusal> {
    let is_deletion = event::is_deleted(&event) && event::series(&event).is_some();
    let (id, event) = events.create(without_transport_fields(event)).await?;
    // An occurrence that is taken out of its series is kept as an event of its own.
    Ok(Json(if is_deletion { Answer::inserted_deletion(id, event) } else { Answer::inserted(id, event) }))
}

async fn update(
    State(events): State<Events>,
    Path(id): Path<String>,
    Extension(write): Extension<LiveWrite>,
    Sent(changes): Sent,
) -> Result<Json<Answer>, Refusal> {
    let Changed { event, dropped } = events.update(&id, without_transport_fields(changes)).await?;
    if !dropped.is_empty() {
        publish_with(&write, &dropped, Change::update(&event).map_err(internal)?)?;
    }
    Ok(Json(Answer::updated(event)))
}

async fn delete(
    State(events): State<Events>,
    Path(id): Path<String>,
    Extension(write): Extension<LiveWrite>,
) -> Result<Json<Answer>, Refusal> {
    let item = match events.delete(&id).await? {
        Deleted::Marked(event) => Some(event),
        Deleted::Gone { dropped } => {
            if !dropped.is_empty() {
                publish_with(&write, &dropped, Change::delete(&id).map_err(internal)?)?;
            }
            None
        }
    };
    Ok(Json(Answer::deleted(item)))
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
