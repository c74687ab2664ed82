//! The shortest useful program: an axum router with events in memory, and one layer.
//!
//! `cargo run --example axum_router -- --listen 127.0.0.1:3000 --token demo`

use std::{collections::BTreeMap, error::Error, process::ExitCode, sync::Arc, sync::Mutex, sync::PoisonError};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Path, State},
    http::StatusCode,
    routing::{get, put},
};
use clap::Parser;
use serde_json::{Map, Value, json};
use tower_live_updates::{Change, Entity, LiveUpdates};

type Events = Arc<Mutex<BTreeMap<u64, Map<String, Value>>>>;
type Answer = (StatusCode, Json<Value>);

#[derive(Parser)]
struct Options {
    /// Address to listen on; port 0 means any.
    #[arg(long, default_value = "127.0.0.1:3000")]
    listen: String,
    /// A token that pages may connect with; may be repeated.
    #[arg(long = "token", default_value = "demo")]
    tokens: Vec<String>,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    let live = LiveUpdates::builder("/api/v1").tokens(options.tokens).entity(Entity::scheduler("/events")).build()?;

    let app = Router::new()
        .route("/events", get(list).post(create))
        .route("/events/{id}", put(update).patch(update).delete(remove))
        .with_state(Events::default())
        // As much as the layer captures by default; axum alone takes 2 MB.
        .layer(DefaultBodyLimit::max(1024 * 1024))
        .layer(live.layer());

    let listener = tokio::net::TcpListener::bind(options.listen).await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, app).with_graceful_shutdown(live.shutdown_on_signals()).await?;
    Ok(())
}

async fn list(State(events): State<Events>) -> Json<Value> {
    Json(lock(&events).values().cloned().map(Value::from).collect())
}

async fn create(State(events): State<Events>, Json(mut event): Json<Map<String, Value>>) -> Answer {
    let mut events = lock(&events);
    let id = events.last_key_value().map_or(1, |(last, _)| last + 1);
    event.insert("id".into(), id.to_string().into());
    if !is_bearable(&event) {
        return failure(StatusCode::UNPROCESSABLE_ENTITY);
    }
    events.insert(id, event.clone());
    (StatusCode::OK, Json(json!({"action": "inserted", "tid": id.to_string(), "item": event})))
}

async fn update(
    State(events): State<Events>,
    Path(id): Path<String>,
    Json(fields): Json<Map<String, Value>>,
) -> Answer {
    let mut events = lock(&events);
    let Some(event) = row_id(&id).and_then(|id| events.get_mut(&id)) else {
        return failure(StatusCode::NOT_FOUND);
    };
    let mut changed = event.clone();
    changed.extend(fields.into_iter().filter(|(key, _)| key != "id"));
    if !is_bearable(&changed) {
        return failure(StatusCode::UNPROCESSABLE_ENTITY);
    }
    event.clone_from(&changed);
    (StatusCode::OK, Json(json!({"action": "updated", "item": changed})))
}

async fn remove(State(events): State<Events>, Path(id): Path<String>) -> Answer {
    let mut events = lock(&events);
    let Some(event) = row_id(&id).and_then(|id| events.remove(&id)) else {
        return failure(StatusCode::NOT_FOUND);
    };
    // Exceptions go with their series, and have none of their own.
    if series(&event).is_none() {
        events.retain(|_, other| series(other).as_ref() != Some(&id));
    }
    (StatusCode::OK, Json(json!({"action": "deleted"})))
}

fn failure(status: StatusCode) -> Answer {
    (status, Json(json!({"action": "error"})))
}

/// An event that pages cannot show would not be broadcast, and so it is not stored.
fn is_bearable(event: &Map<String, Value>) -> bool {
    Change::add(event).is_ok_and(|change| Entity::scheduler("/events").check(&change).is_ok())
}

/// The series that an exception belongs to.
fn series(event: &Map<String, Value>) -> Option<String> {
    match event.get("recurring_event_id")? {
        Value::String(id) if !id.is_empty() => Some(id.clone()),
        Value::Number(id) if id.as_f64() > Some(0.0) => Some(id.to_string()),
        _ => None,
    }
}

/// Ids are text outside; `007` is not the event `7`.
fn row_id(id: &str) -> Option<u64> {
    id.parse().ok().filter(|number: &u64| number.to_string() == id)
}

fn lock(events: &Events) -> std::sync::MutexGuard<'_, BTreeMap<u64, Map<String, Value>>> {
    events.lock().unwrap_or_else(PoisonError::into_inner)
}
