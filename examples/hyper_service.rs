//! No framework: a hand-written tower service with events in memory, served by hyper alone.
//!
//! `cargo run --example hyper_service -- --listen 127.0.0.1:3000 --token demo`

use std::{
    collections::BTreeMap,
    convert::Infallible,
    error::Error,
    pin::{Pin, pin},
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use clap::Parser;
use http::{Method, Request, Response, StatusCode, header, request::Parts};
use http_body::Body;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use serde_json::{Map, Value, json};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::{Layer, Service};
use tower_live_updates::{Change, Entity, LiveUpdates};

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
    let service = live.layer().layer(Calendar::default());

    let listener = tokio::net::TcpListener::bind(options.listen).await?;
    println!("listening on http://{}", listener.local_addr()?);

    let (connections, ending) = (TaskTracker::new(), CancellationToken::new());
    let mut stop = pin!(live.shutdown_on_signals());
    loop {
        let (stream, _) = tokio::select! {
            accepted = listener.accept() => accepted?,
            () = &mut stop => break,
        };
        let connection = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service.clone()))
            // Without this line hyper answers 101 and then carries no WebSocket.
            .with_upgrades();
        let ending = ending.clone();
        connections.spawn(async move {
            let mut connection = pin!(connection);
            tokio::select! {
                _ = connection.as_mut() => return,
                () = ending.cancelled() => connection.as_mut().graceful_shutdown(),
            }
            let _ = connection.await;
        });
    }
    // The sockets are closed by now; requests in flight get a moment.
    ending.cancel();
    connections.close();
    let _ = tokio::time::timeout(Duration::from_secs(2), connections.wait()).await;
    Ok(())
}

/// `/events` in memory.
#[derive(Clone, Default)]
struct Calendar {
    events: Arc<Mutex<BTreeMap<u64, Map<String, Value>>>>,
}

impl<B> Service<Request<B>> for Calendar
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let calendar = self.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let path = parts.uri.path().strip_suffix('/').unwrap_or_else(|| parts.uri.path());
            let id = path.strip_prefix("/events/").map(row_id);
            let (status, answer) = match (&parts.method, path, id) {
                (&Method::GET, "/events", None) => calendar.list(),
                (&Method::POST, "/events", None) => match read(&parts, body).await {
                    Ok(event) => calendar.create(event),
                    Err(status) => failure(status),
                },
                (&Method::PUT | &Method::PATCH, _, Some(Some(id))) => match read(&parts, body).await {
                    Ok(fields) => calendar.update(id, fields),
                    Err(status) => failure(status),
                },
                (&Method::DELETE, _, Some(Some(id))) => calendar.remove(id),
                _ => failure(StatusCode::NOT_FOUND),
            };
            let mut response = Response::new(Full::from(answer.to_string()));
            *response.status_mut() = status;
            let json = header::HeaderValue::from_static("application/json");
            response.headers_mut().insert(header::CONTENT_TYPE, json);
            Ok(response)
        })
    }
}

impl Calendar {
    fn list(&self) -> (StatusCode, Value) {
        (StatusCode::OK, self.lock().values().cloned().map(Value::from).collect())
    }

    fn create(&self, mut event: Map<String, Value>) -> (StatusCode, Value) {
        let mut events = self.lock();
        let id = events.last_key_value().map_or(1, |(last, _)| last + 1);
        event.insert("id".into(), id.to_string().into());
        if !is_bearable(&event) {
            return failure(StatusCode::UNPROCESSABLE_ENTITY);
        }
        events.insert(id, event.clone());
        (StatusCode::OK, json!({"action": "inserted", "tid": id.to_string(), "item": event}))
    }

    fn update(&self, id: u64, fields: Map<String, Value>) -> (StatusCode, Value) {
        let mut events = self.lock();
        let Some(event) = events.get_mut(&id) else {
            return failure(StatusCode::NOT_FOUND);
        };
        let mut changed = event.clone();
        changed.extend(fields.into_iter().filter(|(key, _)| key != "id"));
        if !is_bearable(&changed) {
            return failure(StatusCode::UNPROCESSABLE_ENTITY);
        }
        event.clone_from(&changed);
        (StatusCode::OK, json!({"action": "updated", "item": changed}))
    }

    fn remove(&self, id: u64) -> (StatusCode, Value) {
        let mut events = self.lock();
        let Some(event) = events.remove(&id) else {
            return failure(StatusCode::NOT_FOUND);
        };
        // Exceptions go with their series, and have none of their own.
        if series(&event).is_none() {
            events.retain(|_, other| series(other) != Some(id.to_string()));
        }
        (StatusCode::OK, json!({"action": "deleted"}))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Map<String, Value>>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn failure(status: StatusCode) -> (StatusCode, Value) {
    (status, json!({"action": "error"}))
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

/// A JSON object of 1 MiB at most, by its content type too: the layer goes by that.
async fn read<B>(parts: &Parts, body: B) -> Result<Map<String, Value>, StatusCode>
where
    B: Body,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let content_type = parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = content_type.and_then(|value| value.split(';').next()).unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/json") {
        return Err(StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
    let body = Limited::new(body, 1024 * 1024).collect().await.map_err(|_| StatusCode::PAYLOAD_TOO_LARGE)?;
    serde_json::from_slice(&body.to_bytes()).map_err(|_| StatusCode::BAD_REQUEST)
}
