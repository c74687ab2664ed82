//! Two companies share one calendar server, and neither receives anything of the other's.
//!
//! ```text
//! cargo run --release --example tenants --features sealed-keys
//! ```
//!
//! Open the address it prints in several windows and log in: `ann` and `ben` are with the company north, `cid` and
//! `dee` with south, and each password is the name and `-demo`, as in `ann-demo`. Within one browser, log out in
//! one window to log in as another user in another: until they are loaded again, windows stay with their users.
//!
//! [`main`] decides in three steps which page receives what:
//!
//! * **Scopes.** Both companies save to the same address and share one table. [`login`] stands outside the live layer
//!   and puts into each request whose it is; from there `scope_from` takes the company that a write is broadcast to.
//! * **`visible`.** A private event is its owner's alone. When a public one becomes private, it leaves the others'
//!   pages; when it becomes public again, it enters them.
//! * **`project`.** An event's notes are its owner's alone, although the others see the event.
//!
//! Pages prove themselves by a JSON Web Token that is good for a quarter of an hour. The socket outlives it, since its
//! key is sealed: it holds the user and no token, and the server asks [`login`] whether that login is still valid.

mod api;
mod event;
mod login;
mod page;
mod store;
mod users;
#[path = "../scheduler/widget.rs"]
mod widget;

use std::{
    io::{self, IsTerminal, Write},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use axum::{Router, http::request::Parts, middleware};
use clap::Parser;
use data_encoding::HEXLOWER;
use tokio::net::TcpListener;
use tower_live_updates::{AuthError, AuthRequest, Credentials, Entity, Identity, LiveUpdates};
use tracing_subscriber::EnvFilter;

use crate::{
    event::Event,
    login::{Login, Logins},
    store::{Error, Store},
};

/// Shorter secrets can be guessed from a single token.
const SHORTEST_SECRET: usize = 32;

/// Two companies share one calendar server.
#[derive(Parser)]
struct Options {
    /// Where to listen; port 0 takes any free one.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:3001")]
    listen: SocketAddr,
    /// Keep events and logins in this SQLite file instead of in memory.
    #[arg(long, value_name = "FILE")]
    db: Option<PathBuf>,
    /// How long a token is good for.
    #[arg(long, value_name = "MINUTES", default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..=1440))]
    token_minutes: u64,
    /// Signs tokens. Without it they end with this process.
    #[arg(long, value_name = "SECRET", env = "TENANTS_TOKEN_SECRET", hide_env_values = true)]
    #[arg(value_parser = long_enough)]
    token_secret: Option<String>,
    /// Seals the keys of sockets. Without it they end with this process.
    #[arg(long, value_name = "SECRET", env = "TENANTS_SESSION_SECRET", hide_env_values = true)]
    #[arg(value_parser = long_enough)]
    session_secret: Option<String>,
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

async fn run() -> Result<(), Error> {
    let options = Options::parse();
    log_to_stderr();
    let store = Store::open(options.db.as_deref())?;
    let token_secret = options.token_secret.map_or_else(new_secret, Ok)?;
    let session_secret = options.session_secret.map_or_else(new_secret, Ok)?;
    let logins = Logins::new(store.clone(), &token_secret, Duration::from_secs(60 * options.token_minutes));

    let live = LiveUpdates::builder("/api/v1")
        .authenticate_fn(logins.clone(), async |logins: Logins, request: AuthRequest| {
            let login = match request.credentials() {
                Credentials::Token(token) => logins.by_token(token).await,
                // The token may have expired since: what counts is that this login has not been ended.
                Credentials::Principal(principal) => logins.by_principal(principal).await,
                _ => Ok(None),
            };
            let login = login.map_err(|_| AuthError::Unavailable)?.ok_or(AuthError::Denied)?;
            Ok(Identity::new(login.principal()).with_scope(login.user.tenant).with_data(login))
        })
        .sealed_keys([session_secret])
        .entity(
            Entity::scheduler("/events")
                .scope_from(|request: &Parts| request.extensions.get().map(|login: &Login| login.user.tenant))
                .load_scoped(store.clone(), async |store: Store, tenants: Vec<String>, id: String| {
                    store.load(&tenants.concat(), &id).await
                })
                .snapshot(store.clone(), async |store: Store, who: Identity| {
                    store.snapshot(Login::of(&who)?.user).await
                })
                .visible((), async |(), who: Identity, event: Event| {
                    Login::of(&who).map(|login| event.is_visible_to(login.user.name))
                })
                .project((), async |(), who: Identity, event: Event| {
                    Login::of(&who).map(|login| event.seen_by(login.user.name))
                }),
        )
        .build()?;

    let app = Router::new()
        .merge(page::routes().await)
        .merge(login::routes(logins.clone(), live.clone()))
        .merge(api::routes(store))
        .layer(live.layer())
        // Outside of the live layer, which takes from it whose write it watches.
        .layer(middleware::from_fn_with_state(logins, login::recognise));

    let listener = TcpListener::bind(options.listen).await?;
    writeln!(io::stdout(), "listening on http://{}", listener.local_addr()?)?;
    axum::serve(listener, app).with_graceful_shutdown(live.shutdown_on_signals()).await?;
    Ok(())
}

fn long_enough(secret: &str) -> Result<String, String> {
    if secret.len() < SHORTEST_SECRET {
        return Err(format!("a secret has {SHORTEST_SECRET} characters at least"));
    }
    Ok(secret.to_owned())
}

fn new_secret() -> Result<String, getrandom::Error> {
    let mut secret = [0; SHORTEST_SECRET];
    getrandom::fill(&mut secret)?;
    Ok(HEXLOWER.encode(&secret))
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
