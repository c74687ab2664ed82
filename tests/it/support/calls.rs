//! Methods for tests, and pages that call them.

use std::{convert::Infallible, error::Error, future::pending, sync::Arc};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{Semaphore, mpsc},
};
use tower_live_updates::{CallError, Caller, Identity, LiveUpdates, LiveUpdatesBuilder, builder::HasAuth};

use super::{End, Page, Server, converging, usual};

/// The text of errors that are not for pages.
pub const FAILED: &str = "the call failed";
pub const LOST: &str = "the connection was lost: the call may or may not have been carried out";

/// Holds the calls of `slow.wait`, and records which have begun.
#[derive(Clone, Debug)]
pub struct Gate {
    open: Arc<Semaphore>,
    begun: mpsc::UnboundedSender<u32>,
}

impl Gate {
    pub fn new() -> (Self, mpsc::UnboundedReceiver<u32>) {
        let (begun, receiver) = mpsc::unbounded_channel();
        (Self { open: Arc::new(Semaphore::new(0)), begun }, receiver)
    }

    /// Lets so many calls end.
    pub fn open(&self, calls: usize) {
        self.open.add_permits(calls);
    }

    /// Every call that may end has ended.
    pub fn is_used_up(&self) -> bool {
        self.open.available_permits() == 0
    }

    async fn wait(self, _: Caller, number: u32) -> Result<u32, Infallible> {
        let _ = self.begun.send(number);
        if let Ok(permit) = self.open.acquire().await {
            permit.forget();
        }
        Ok(number)
    }
}

async fn is_second(_: (), user: Identity) -> Result<bool, CallError> {
    match user.principal() {
        "token-3" => Err(CallError::new("come back tomorrow")),
        other => Ok(other == "token-2"),
    }
}

/// A builder with methods, and tokens of three users.
pub fn with_methods(gate: Gate) -> LiveUpdatesBuilder<HasAuth> {
    converging()
        .tokens(["demo", "second", "third"])
        .call("math.add", (), async |(), _: Caller, (a, b): (i64, i64)| Ok::<_, Infallible>(a + b))
        .call("text.length", (), async |(), _: Caller, text: String| Ok::<_, Infallible>(text.len()))
        .call("slow.wait", gate, Gate::wait)
        .call("slow.hang", (), async |(), _: Caller, ()| pending::<Result<(), Infallible>>().await)
        .call("bad.panic", (), async |(), _: Caller, (): ()| -> Result<(), Infallible> { panic!("in a method") })
        .call("bad.leak", (), async |(), _: Caller, (): ()| Err::<(), _>("password: hunter2"))
        .call("bad.tell", (), async |(), _: Caller, seats: u32| {
            let full = CallError::new(format!("{seats} seats are too many"));
            Err::<(), Box<dyn Error + Send + Sync>>(full.into())
        })
        .call("users.me", (), async |(), caller: Caller, ()| {
            Ok::<_, Infallible>((caller.identity.principal().to_owned(), caller.session.is_some()))
        })
        .call_if("admin.archive", (), is_second, async |(), _: Caller, year: u16| Ok::<_, Infallible>(year))
}

pub fn serve(live: &LiveUpdates) -> Server {
    Server::layered(&live.layer(), usual)
}

/// The address of a page's sockets: it names the key of its handshake.
pub async fn address(server: &Server, token: &str) -> String {
    let answer: Value = serde_json::from_slice(server.handshake(token).await.body()).expect("JSON");
    format!("/api/v1?token={}&ws=1", answer["key"].as_str().expect("a key"))
}

/// A call as the stock client writes it.
pub fn call(id: u64, name: &str, args: &Value) -> Value {
    json!({"id": id.to_string(), "name": name, "args": args})
}

/// A message of calls.
pub fn message(calls: &[Value]) -> String {
    // In the order of the stock client.
    format!(r#"{{"action":"call","body":{}}}"#, json!(calls))
}

impl<S: AsyncRead + AsyncWrite + Unpin> Page<S> {
    /// Makes a call.
    pub async fn call(&mut self, id: u64, name: &str, args: &Value) {
        self.send_text(&message(&[call(id, name, args)])).await;
    }

    /// The results in the next message.
    pub async fn results(&mut self) -> Result<Vec<(u64, Value)>, End> {
        let message = self.message().await?;
        assert_eq!(message["action"], "result", "{message}");
        Ok(message["body"].as_array().expect("results").iter().map(outcome).collect())
    }

    /// So many results, in the order of their ids.
    pub async fn all_results(&mut self, count: usize) -> Vec<(u64, Value)> {
        let mut results = Vec::new();
        while results.len() < count {
            results.extend(self.results().await.expect("an open socket"));
        }
        results.sort_by_key(|(id, _)| *id);
        results
    }

    /// The outcome of one call.
    pub async fn outcome(&mut self, id: u64, name: &str, args: &Value) -> Value {
        self.call(id, name, args).await;
        loop {
            let found = self.results().await.expect("an open socket").into_iter().find(|(of, _)| *of == id);
            if let Some((_, outcome)) = found {
                return outcome;
            }
        }
    }
}

/// A result as the stock client takes it: the id, and data or an error.
pub fn outcome(result: &Value) -> (u64, Value) {
    let id = result["id"].as_str().expect("an id").parse().expect("a number");
    let error = result.get("error").filter(|error| **error != "");
    (id, error.map_or_else(|| json!({"data": result["data"]}), |error| json!({"error": error})))
}

pub fn data(data: impl Into<Value>) -> Value {
    json!({"data": data.into()})
}

pub fn error(text: &str) -> Value {
    json!({"error": text})
}
