//! A server to measure from outside: events in memory behind the layer, and `GET /plain`, which is not watched.
//!
//! `cargo run --release --features axum --example bench_server -- 4000 2`: port, worker threads, and `plain` for
//! [`Delivery::Plain`]. The token is `token`; with `--scopes 10`, `token-7` has scope `7`, and an event is published
//! in the scope that its request's header `x-scope` names. What was measured with it stands in `docs/performance.md`.

use std::{
    collections::VecDeque,
    error::Error,
    net::SocketAddr,
    process::ExitCode,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use axum::{
    Json, Router,
    extract::State,
    http::request::Parts,
    routing::{get, post},
    serve::Listener,
};
use clap::{Parser, ValueEnum};
use serde_json::{Map, Value, json};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    runtime::Builder,
};
use tokio_util::either::Either;
use tower_live_updates::{AuthError, AuthRequest, Delivery, Entity, Identity, LiveUpdates};

/// Events kept: what is measured is the layer, and a list that grows would hide it.
const MAX_EVENTS: usize = 100;
/// Thousands of pages reconnect at once.
const BACKLOG: u32 = 4096;

#[derive(Parser)]
struct Options {
    /// Port to listen on, of the loopback address.
    port: u16,
    /// Worker threads.
    #[arg(default_value_t = 1)]
    workers: usize,
    /// The delivery guarantee.
    #[arg(default_value = "converging")]
    promise: Promise,
    /// Records kept for pages that lag or resume.
    #[arg(long, default_value_t = 50_000)]
    log_records: usize,
    /// Scopes, each with a token; without scopes every page receives everything.
    #[arg(long)]
    scopes: Option<usize>,
    /// Hides the TCP stream from the layer, as TLS does.
    #[arg(long)]
    hidden: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Promise {
    Converging,
    Plain,
}

#[derive(Default)]
struct Events {
    last: AtomicU64,
    newest: Mutex<VecDeque<Map<String, Value>>>,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    Builder::new_multi_thread().worker_threads(options.workers).enable_all().build()?.block_on(serve(options))
}

async fn serve(options: Options) -> Result<(), Box<dyn Error>> {
    let delivery = match options.promise {
        Promise::Converging => Delivery::Converging,
        Promise::Plain => Delivery::Plain,
    };
    let (builder, events) = (LiveUpdates::builder("/api/v1"), Entity::scheduler("/events"));
    let builder = match options.scopes {
        None => builder.tokens(["token"]).entity(events),
        Some(scopes) => builder.authenticate_fn(scopes, scope_of_token).entity(events.scope_from(scope_of_request)),
    };
    let live = builder.delivery(delivery).max_log_records(options.log_records).build()?;

    let app = Router::new()
        .route("/plain", get(async || "hello"))
        .route("/events", post(create).get(list))
        .with_state(Arc::<Events>::default())
        .layer(live.layer());

    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(([127, 0, 0, 1], options.port).into())?;
    let listener = socket.listen(BACKLOG)?;
    println!("listening on http://{}", listener.local_addr()?);
    if options.hidden {
        axum::serve(Hidden(listener), app).with_graceful_shutdown(live.shutdown_on_signals()).await?;
    } else {
        axum::serve(listener, app).with_graceful_shutdown(live.shutdown_on_signals()).await?;
    }
    Ok(())
}

/// Streams that are not plain TCP streams.
struct Hidden(TcpListener);

impl Listener for Hidden {
    type Io = Either<TcpStream, TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        let (stream, peer) = Listener::accept(&mut self.0).await;
        (Either::Left(stream), peer)
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

async fn scope_of_token(scopes: usize, request: AuthRequest) -> Result<Identity, AuthError> {
    let scope = request.token().strip_prefix("token-").and_then(|scope| scope.parse::<usize>().ok());
    let scope = scope.filter(|scope| *scope < scopes).ok_or(AuthError::Denied)?;
    Ok(Identity::new(request.token()).with_scope(scope.to_string()))
}

fn scope_of_request(request: &Parts) -> Option<String> {
    request.headers.get("x-scope")?.to_str().ok().map(str::to_owned)
}

async fn create(State(events): State<Arc<Events>>, Json(mut event): Json<Map<String, Value>>) -> Json<Value> {
    let id = events.last.fetch_add(1, Ordering::Relaxed).to_string();
    event.insert("id".into(), id.clone().into());
    let mut newest = events.newest.lock().unwrap_or_else(PoisonError::into_inner);
    newest.truncate(MAX_EVENTS - 1);
    newest.push_front(event);
    drop(newest);
    Json(json!({"action": "inserted", "tid": id}))
}

async fn list(State(events): State<Arc<Events>>) -> Json<Value> {
    let newest = events.newest.lock().unwrap_or_else(PoisonError::into_inner);
    Json(newest.iter().cloned().map(Value::from).collect())
}
