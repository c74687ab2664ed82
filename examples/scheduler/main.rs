//! A calendar and a project plan that several people edit at once: the DHTMLX Scheduler and the DHTMLX Gantt over a
//! REST interface, kept live by one layer.
//!
//! ```text
//! cargo run --release --example scheduler
//! ```
//!
//! Then open the address it prints in two windows. `calendar`, `gantt` and what they share are the application as it
//! would be without live updates; what makes it live is in [`run`].

mod calendar;
mod database;
mod gantt;
mod page;
mod rest;
mod row;
mod widget;

use std::{
    error::Error,
    io::{self, IsTerminal, Write},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use axum::{
    Router,
    http::{HeaderName, HeaderValue, Method, header::CONTENT_TYPE},
};
use clap::{Parser, ValueEnum};
use tokio::{net::TcpListener, sync::oneshot};
use tower_http::cors::{AllowOrigin, CorsLayer};
use tower_live_updates::{Delivery, Identity, LiveUpdates};
use tracing_subscriber::EnvFilter;

use crate::{
    calendar::Events,
    database::Database,
    gantt::{Chart, Dates},
};

/// A calendar and a project plan that several people edit at once.
#[derive(Parser)]
struct Options {
    /// Where to listen; port 0 takes any free one.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:3000")]
    listen: SocketAddr,
    /// A token that opens the live connection; may be given several times. The page uses variants of the first.
    #[arg(long = "token", value_name = "TOKEN", default_value = "demo", allow_hyphen_values = true)]
    tokens: Vec<String>,
    /// Keep events, tasks and links in this SQLite file instead of in memory.
    #[arg(long, value_name = "FILE")]
    db: Option<PathBuf>,
    /// The delivery guarantee: pages end up equal to the server, or the vendor's bare broadcast.
    #[arg(long, value_enum, default_value_t = Promise::Converging)]
    delivery: Promise,
    /// How many changes are kept for pages that resume; others receive a snapshot of the store.
    #[arg(long, value_name = "COUNT", default_value_t = 50_000)]
    log_records: usize,
    /// Keep what is remembered in this file when the server is stopped with Ctrl-C or SIGTERM: after a restart pages receive
    /// only what they missed. Needs --db, since the rows must outlive the server, too.
    #[arg(long, value_name = "FILE", requires = "db")]
    log_file: Option<PathBuf>,
    /// The form that dates of tasks are stored and listed in.
    #[arg(long, value_enum, default_value_t = Dates::Iso, value_name = "FORM")]
    gantt_dates: Dates,
    /// Another origin whose pages may use this server, such as https://app.example; may be given several times.
    #[arg(long = "allow-origin", value_name = "ORIGIN")]
    origins: Vec<HeaderValue>,
}

/// Pages that are opened share this many tokens.
const PAGE_TOKENS: usize = 50;

#[derive(Clone, Copy, ValueEnum)]
enum Promise {
    Converging,
    Plain,
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
    log_to_stderr();
    let database = Database::open(options.db.as_deref())?;
    let events = Events::open(database.clone())?;
    let chart = Chart::open(database, options.gantt_dates)?;
    // Pages have tokens of their own, by which the layer tells the page that writes from the others.
    let first = options.tokens.first().map_or("", String::as_str);
    let page_tokens: Vec<String> = (1..=PAGE_TOKENS).map(|number| format!("{first}~{number}")).collect();
    let page = page::routes(page_tokens.clone()).await;

    // The endpoint that pages connect to, and what they receive: every write to /events and /data that succeeds.
    let mut live = LiveUpdates::builder("/api/v1")
        .tokens(options.tokens.iter().chain(&page_tokens))
        .delivery(match options.delivery {
            Promise::Converging => Delivery::Converging,
            Promise::Plain => Delivery::Plain,
        })
        .max_log_records(options.log_records)
        .entity(
            calendar::events()
                .load(events.clone(), async |events: Events, id: String| events.get(&id).await)
                .snapshot(events.clone(), async |events: Events, _: Identity| events.snapshot().await),
        )
        .entity(
            gantt::tasks()
                .load(chart.clone(), async |chart: Chart, id: String| chart.task(&id).await)
                .snapshot(chart.clone(), async |chart: Chart, _: Identity| chart.tasks_snapshot().await),
        )
        .entity(
            gantt::links()
                .load(chart.clone(), async |chart: Chart, id: String| chart.link(&id).await)
                .snapshot(chart.clone(), async |chart: Chart, _: Identity| chart.links_snapshot().await),
        );
    if let Some(file) = options.log_file {
        live = live.log_file(file);
    }
    for origin in &options.origins {
        live = live.allow_origin(origin.to_str()?);
    }
    let live = live.build()?;

    let app = Router::new()
        .merge(page)
        .merge(calendar::routes(events))
        .merge(gantt::routes(chart))
        .layer(live.layer())
        // Outside of the live layer, so that its answers get the CORS headers too.
        .layer(cors(&options.origins));

    let listener = TcpListener::bind(options.listen).await?;
    writeln!(io::stdout(), "listening on http://{}", listener.local_addr()?)?;
    serve(listener, app, live.shutdown_on_signals()).await
}

/// Lets pages of other origins use the REST interface and the handshake.
fn cors(origins: &[HeaderValue]) -> CorsLayer {
    if origins.is_empty() {
        return CorsLayer::new();
    }
    let origins: Vec<String> = origins.iter().filter_map(|origin| Some(as_sent(origin.to_str().ok()?))).collect();
    CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(move |origin, _| origins.iter().any(|known| *origin == **known)))
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
        .allow_headers([
            CONTENT_TYPE,
            HeaderName::from_static("remote-token"),
            HeaderName::from_static("x-requested-with"),
        ])
}

/// An origin as browsers send it, which `allow_origin` makes of it, too.
fn as_sent(origin: &str) -> String {
    let origin = origin.to_ascii_lowercase();
    let origin = origin.strip_suffix('/').unwrap_or(&origin);
    let usual = if origin.starts_with("https:") { ":443" } else { ":80" };
    origin.strip_suffix(usual).unwrap_or(origin).to_owned()
}

/// Serves until `shutdown` ends, and then lets requests in flight finish, though not for ever: one that was sent
/// half and then left hanging would keep the process alive.
async fn serve(
    listener: TcpListener,
    app: Router,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Box<dyn Error>> {
    const GRACE: Duration = Duration::from_secs(1);

    let (stopping, stopped) = oneshot::channel();
    let server = axum::serve(listener, app).with_graceful_shutdown(async move {
        shutdown.await;
        // The receiver is gone when the server has ended by itself.
        let _ = stopping.send(());
    });
    let out_of_patience = async {
        if stopped.await.is_ok() {
            tokio::time::sleep(GRACE).await;
        } else {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        result = server.into_future() => Ok(result?),
        () = out_of_patience => Ok(()),
    }
}

/// Standard output carries the address and nothing else.
fn log_to_stderr() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn,tower_live_updates=info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
}
