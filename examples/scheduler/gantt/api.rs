//! The REST interface that the Gantt's DataProcessor saves through.
//!
//! What concerns live updates: a task takes along what hangs under it, and the links of all those. And where a write gives
//! siblings other numbers, these have changed as well.

use axum::{
    Extension, Json, Router,
    extract::{DefaultBodyLimit, Path, RawQuery, State},
    http::StatusCode,
    routing::{get, post, put},
};
use tower_live_updates::{Change, LiveWrite};

use super::store::{Changed, Chart, Contents, Deleted};
use crate::rest::{
    Answer, BodyWrite, LARGEST_BODY, Refusal, Sent, has, internal, refuse_writes_by_get, without_transport_fields,
};

type Write = Option<Extension<LiveWrite>>;
type Answered = Result<Json<Answer>, Refusal>;

pub(crate) fn routes(chart: Chart) -> Router {
    Router::new()
        .route("/data", get(list).post(post_any))
        .route("/data/task", post(create_task))
        .route("/data/task/{id}", put(update_task).patch(update_task).delete(delete_task))
        .route("/data/link", post(create_link))
        .route("/data/link/{id}", put(update_link).patch(update_link).delete(delete_link))
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .with_state(chart)
}

async fn list(State(chart): State<Chart>, RawQuery(query): RawQuery) -> Result<Json<Contents>, Refusal> {
    refuse_writes_by_get(query.as_deref())?;
    Ok(Json(chart.contents().await?))
}

/// The DataProcessor's modes JSON and POST send every write here.
async fn post_any(chart: State<Chart>, write: Write, RawQuery(query): RawQuery, Sent(body): Sent) -> Answered {
    let query = query.as_deref();
    if has(query, "gantt_mode=tasks") {
        match BodyWrite::read(query, body)? {
            BodyWrite::Insert(task) => create_task(chart, Sent(task)).await,
            BodyWrite::Update(id, task) => update_task(chart, Path(id), write, Sent(task)).await,
            BodyWrite::Delete(id) => delete_task(chart, Path(id), write).await,
        }
    } else if has(query, "gantt_mode=links") {
        match BodyWrite::read(query, body)? {
            BodyWrite::Insert(link) => create_link(chart, Sent(link)).await,
            BodyWrite::Update(id, link) => update_link(chart, Path(id), Sent(link)).await,
            BodyWrite::Delete(id) => delete_link(chart, Path(id), write).await,
        }
    } else {
        Err(Refusal(
            StatusCode::BAD_REQUEST,
            "a write to /data names gantt_mode=tasks or gantt_mode=links in its query".to_owned(),
        ))
    }
}

async fn create_task(State(chart): State<Chart>, Sent(task): Sent) -> Answered {
    let (id, task) = chart.create_task(without_transport_fields(task)).await?;
    Ok(Json(Answer::inserted(id, task)))
}

async fn update_task(
    State(chart): State<Chart>,
    Path(id): Path<String>,
    write: Write,
    Sent(changes): Sent,
) -> Answered {
    let Changed { task, siblings } = chart.update_task(&id, without_transport_fields(changes)).await?;
    if let (Some(Extension(write)), false) = (write, siblings.is_empty()) {
        for sibling in &siblings {
            write.publish(Change::update(sibling).map_err(internal)?);
        }
        write.publish(Change::update(&task).map_err(internal)?);
    }
    Ok(Json(Answer::updated(task)))
}

/// The page asks for the deletion of everything that it deletes: of a task with its children, for each of them. What is
/// gone already is a success, too.
async fn delete_task(State(chart): State<Chart>, Path(id): Path<String>, write: Write) -> Answered {
    let write = write.map(|Extension(write)| write).unwrap_or_default();
    let Some(Deleted { tasks, links, siblings }) = chart.delete_task(&id).await? else {
        write.skip();
        return Ok(Json(Answer::deleted(None)));
    };
    for link in &links {
        write.publish_to("links", Change::delete(link).map_err(internal)?);
    }
    for task in tasks.iter().chain([&id]) {
        write.publish(Change::delete(task).map_err(internal)?);
    }
    for sibling in &siblings {
        write.publish(Change::update(sibling).map_err(internal)?);
    }
    Ok(Json(Answer::deleted(None)))
}

async fn create_link(State(chart): State<Chart>, Sent(link): Sent) -> Answered {
    let (id, link) = chart.create_link(without_transport_fields(link)).await?;
    Ok(Json(Answer::inserted(id, link)))
}

async fn update_link(State(chart): State<Chart>, Path(id): Path<String>, Sent(changes): Sent) -> Answered {
    Ok(Json(Answer::updated(chart.update_link(&id, without_transport_fields(changes)).await?)))
}

async fn delete_link(State(chart): State<Chart>, Path(id): Path<String>, write: Write) -> Answered {
    if let (false, Some(Extension(write))) = (chart.delete_link(&id).await?, write) {
        write.skip();
    }
    Ok(Json(Answer::deleted(None)))
}
