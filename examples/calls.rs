//! Methods that pages call: `api.rooms.book("north", 4)` on a page is `rooms.book` here.
//!
//! `cargo run --example calls -- --listen 127.0.0.1:3000 --token demo`
//!
//! A page calls them over its socket, with `new RemoteEvents("/api/v1", token)`, or by requests of their own, with
//! `new RemoteEvents("/api/calls", token)`. `tests/browser/calls.mjs` does both.

use std::{collections::BTreeMap, error::Error, process::ExitCode, sync::Arc, time::Duration};

use axum::Router;
use clap::Parser;
use serde::Deserialize;
use tokio::{sync::Mutex, time::sleep};
use tower_live_updates::{CallError, Caller, Entity, Identity, LiveUpdates};

type BoxError = Box<dyn Error + Send + Sync>;

#[derive(Parser)]
struct Options {
    /// Address to listen on; port 0 means any.
    #[arg(long, default_value = "127.0.0.1:3000")]
    listen: String,
    /// A token that pages may connect with; may be repeated. The first one belongs to the manager.
    #[arg(long = "token", default_value = "demo")]
    tokens: Vec<String>,
}

/// Free seats, by room. A program with more to do has a database instead.
#[derive(Clone, Default)]
struct Rooms(Arc<Mutex<BTreeMap<String, u32>>>);

impl Rooms {
    /// Adds a room, or gives it other seats. Returns how many rooms there are.
    async fn add(self, _: Caller, (room, seats): (String, u32)) -> Result<usize, BoxError> {
        let mut rooms = self.0.lock().await;
        rooms.insert(room, seats);
        Ok(rooms.len())
    }

    /// Takes seats, after a while that the page chooses: some stores are slow. Returns for whom, and how many are left.
    async fn book(self, caller: Caller, Booking { room, seats, seconds }: Booking) -> Result<(String, u32), BoxError> {
        sleep(Duration::from_secs_f32(seconds.unwrap_or_default().clamp(0.0, 60.0))).await;
        let mut rooms = self.0.lock().await;
        let free = rooms.get_mut(&room).ok_or_else(|| CallError::new(format!("there is no room {room:?}")))?;
        *free = free.checked_sub(seats).ok_or_else(|| CallError::new(format!("{room} has {free} free seats")))?;
        Ok((caller.identity.principal().to_owned(), *free))
    }

    /// Seats for each of so many people. Without people it divides by zero: a panic fails its call alone.
    async fn share(self, _: Caller, people: u32) -> Result<u32, BoxError> {
        Ok(self.0.lock().await.values().sum::<u32>() / people)
    }

    /// The plan of the building. Its page learns that there is none, and not where it would be.
    async fn plan(self, _: Caller, (): ()) -> Result<String, BoxError> {
        Ok(tokio::fs::read_to_string("/nonexistent/plan.svg").await?)
    }

    /// Forgets every room.
    async fn clear(self, _: Caller, (): ()) -> Result<(), BoxError> {
        self.0.lock().await.clear();
        Ok(())
    }
}

/// An argument with names.
#[derive(Deserialize)]
struct Booking {
    room: String,
    seats: u32,
    seconds: Option<f32>,
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
    let rooms = Rooms::default();
    let is_manager = async |_: Rooms, user: Identity| Ok::<_, BoxError>(user.principal() == "token-1");
    let live = LiveUpdates::builder("/api/v1")
        .tokens(options.tokens)
        .entity(Entity::new("rooms"))
        .call("rooms.add", rooms.clone(), Rooms::add)
        .call("rooms.book", rooms.clone(), Rooms::book)
        .call("rooms.share", rooms.clone(), Rooms::share)
        .call("rooms.plan", rooms.clone(), Rooms::plan)
        .call("rooms.note", (), async |(), _: Caller, note: String| Ok::<_, BoxError>(note.len()))
        .call_if("rooms.clear", rooms, is_manager, Rooms::clear)
        .data((), async |(), user: Identity| Ok::<_, BoxError>(BTreeMap::from([("user", user.principal().to_owned())])))
        .build()?;
    let app = Router::new().route_service("/api/calls", live.calls()).layer(live.layer());

    let listener = tokio::net::TcpListener::bind(options.listen).await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, app).with_graceful_shutdown(live.shutdown_on_signals()).await?;
    Ok(())
}
