//! Methods that pages call: `api.rooms.book("north", 4)` on a page is `rooms.book` here.
//!
//! `cargo run --example calls -- --listen 127.0.0.1:3000 --token demo`
//!
//! A page calls them over its socket, with `new RemoteEvents("/api/v1", token)`, or by requests of their own, with
//! `new RemoteEvents("/api/calls", token)`. `tests/browser/calls.mjs` does both.

use std::{
    collections::BTreeMap,
    error::Error,
    fs,
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::Router;
use clap::Parser;
use serde::Deserialize;
use tokio::time::sleep;
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

/// Free seats, by room.
#[derive(Clone, Default)]
struct Rooms(Arc<Mutex<BTreeMap<String, u32>>>);

impl Rooms {
    fn with<T>(&self, act: impl FnOnce(&mut BTreeMap<String, u32>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Adds a room, or gives it other seats.
    async fn add(self, _: Caller, (room, seats): (String, u32)) -> Result<usize, BoxError> {
        Ok(self.with(|rooms| {
            rooms.insert(room, seats);
            rooms.len()
        }))
    }

    /// Takes seats, after a while that the page chooses: some stores are slow. Returns how many are left.
    async fn book(self, caller: Caller, Booking { room, seats, seconds }: Booking) -> Result<(String, u32), BoxError> {
        sleep(Duration::from_secs_f32(seconds.unwrap_or_default().clamp(0.0, 60.0))).await;
        let left = self.with(|rooms| {
            let free = rooms.get_mut(&room).ok_or_else(|| CallError::new(format!("there is no room {room:?}")))?;
            *free = free.checked_sub(seats).ok_or_else(|| CallError::new(format!("{room} has {free} free seats")))?;
            Ok::<_, CallError>(*free)
        });
        Ok((caller.identity.principal().to_owned(), left?))
    }

    /// Seats for each of so many people. Without people it divides by zero: a panic fails its call alone.
    async fn share(self, _: Caller, people: u32) -> Result<u32, BoxError> {
        Ok(self.with(|rooms| rooms.values().sum::<u32>() / people))
    }

    /// The plan of the building. Its page learns that there is none, and not where it would be.
    async fn plan(self, _: Caller, (): ()) -> Result<String, BoxError> {
        Ok(fs::read_to_string("/nonexistent/plan.svg")?)
    }

    /// The length of a note, which may be as long as a call.
    async fn note(self, _: Caller, note: String) -> Result<usize, BoxError> {
        Ok(note.len())
    }

    /// Forgets every room.
    async fn clear(self, _: Caller, (): ()) -> Result<(), BoxError> {
        self.with(BTreeMap::clear);
        Ok(())
    }
}

async fn is_manager(_: Rooms, user: Identity) -> Result<bool, BoxError> {
    Ok(user.principal() == "token-1")
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
    let live = LiveUpdates::builder("/api/v1")
        .tokens(options.tokens)
        .entity(Entity::new("rooms"))
        .call("rooms.add", rooms.clone(), Rooms::add)
        .call("rooms.book", rooms.clone(), Rooms::book)
        .call("rooms.share", rooms.clone(), Rooms::share)
        .call("rooms.plan", rooms.clone(), Rooms::plan)
        .call("rooms.note", rooms.clone(), Rooms::note)
        .call_if("rooms.clear", rooms, is_manager, Rooms::clear)
        .data((), async |(), user: Identity| Ok::<_, BoxError>(BTreeMap::from([("user", user.principal().to_owned())])))
        .build()?;
    let app = Router::new().route_service("/api/calls", live.calls()).layer(live.layer());

    let listener = tokio::net::TcpListener::bind(options.listen).await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, app).with_graceful_shutdown(live.shutdown_on_signals()).await?;
    Ok(())
}
