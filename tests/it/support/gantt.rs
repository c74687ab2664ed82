//! A Gantt behind the layer: a server that answers as each write asks for, and pages that have been open for long.

use std::{
    fmt,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{Method, Request, Response, header};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::{sync::Semaphore, task::JoinHandle};
use tower_live_updates::{
    Change, Entity, LiveUpdates, LiveUpdatesBuilder, LiveWrite, body::RequestBody, builder::HasAuth,
};

use super::{
    BoxError, Server, TOKEN,
    client::{Client, Tab, Transport, wait},
    read,
};

/// The token of pages that no test writes from.
pub const OTHER: &str = "other";

const WAITS: &str = "x-waits";
const STATUS: &str = "x-status";
const ANSWER: &str = "x-answer";

type Handle = Box<dyn Fn(&LiveWrite) + Send>;

/// A server of tasks and links.
pub struct Gantt {
    pub live: LiveUpdates,
    pub server: Server,
    /// What the handler does with each write.
    handle: Arc<Mutex<Handle>>,
    gate: Arc<Semaphore>,
}

impl fmt::Debug for Gantt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gantt")
    }
}

/// Both entities, of pages that answer pings and need none.
pub fn builder() -> LiveUpdatesBuilder<HasAuth> {
    builder_of(Entity::gantt_tasks("/data"), Entity::gantt_links("/data"))
}

pub fn builder_of(tasks: Entity, links: Entity) -> LiveUpdatesBuilder<HasAuth> {
    let hour = std::time::Duration::from_secs(3600);
    let builder = LiveUpdates::builder("/api/v1").entity(tasks).entity(links).tokens([TOKEN, OTHER]);
    builder.ping_interval(2 * hour).pong_timeout(3 * hour)
}

impl Gantt {
    pub fn new(builder: LiveUpdatesBuilder<HasAuth>) -> Self {
        let live = builder.build().expect("a good configuration");
        let handle: Arc<Mutex<Handle>> = Arc::new(Mutex::new(Box::new(|_: &LiveWrite| {})));
        let gate = Arc::new(Semaphore::new(0));
        let (handles, waits) = (handle.clone(), gate.clone());
        let server = Server::layered(&live.layer(), move |request| serve(request, handles.clone(), waits.clone()));
        Self { live, server, handle, gate }
    }

    /// With these tasks, each below its parent, and these links; all of them were added long ago.
    pub async fn with(tasks: &[(u32, u32)], links: &[(u32, u32, u32)]) -> Self {
        Self::new(builder()).having(tasks, links).await
    }

    pub async fn having(self, tasks: &[(u32, u32)], links: &[(u32, u32, u32)]) -> Self {
        // Nothing is released before a page has come.
        let first = self.client(TOKEN).await;
        for &(id, parent) in tasks {
            self.publish(Change::add(&task(id, parent)).expect("a task"));
        }
        for &(id, source, target) in links {
            self.live.publish("links", Change::add(&link(id, source, target)).expect("a link")).expect("a good link");
        }
        wait(200.0).await;
        first.cut(&self.live).await;
        self
    }

    /// Publishes a change of a task.
    pub fn publish(&self, change: Change) {
        self.live.publish("tasks", change).expect("a good task");
    }

    /// A page of the usual token that has been open for long.
    pub async fn page(&self) -> Tab {
        self.page_of(TOKEN).await
    }

    pub async fn page_of(&self, token: &str) -> Tab {
        let mut tab = self.client(token).await;
        wait(300.0).await;
        assert_eq!(outlines(&tab.values().await), NOTHING, "the list has it all");
        tab
    }

    /// A page of this token that has just been loaded.
    pub async fn client(&self, token: &str) -> Tab {
        open(&Client::load_with(&self.server, Transport::AnyStream, token).await).await
    }

    /// What a page of this token writes.
    pub fn writer(&self, token: &'static str) -> Writer {
        Writer { server: self.server.clone(), token: Some(token), waits: "" }
    }

    /// What comes from no page that is known.
    pub fn stranger(&self) -> Writer {
        Writer { token: None, ..self.writer("") }
    }

    /// Handlers do this with the writes that follow.
    pub fn handle(&self, handle: impl Fn(&LiveWrite) + Send + 'static) {
        *self.handle.lock().unwrap() = Box::new(handle);
    }

    /// Lets a write go on that waits.
    pub fn let_go(&self) {
        self.gate.add_permits(1);
    }
}

async fn serve(
    request: Request<RequestBody<Incoming>>,
    handle: Arc<Mutex<Handle>>,
    gate: Arc<Semaphore>,
) -> Response<UnsyncBoxBody<Bytes, BoxError>> {
    let headers = request.headers().clone();
    let text = |name: &str| headers.get(name).map_or("", |value| value.to_str().expect("text")).to_owned();
    let write = request.extensions().get::<LiveWrite>().cloned();
    read(request).await.expect("a whole request");
    if text(WAITS) == "before its answer" {
        gate.acquire().await.unwrap().forget();
    }
    if let Some(write) = write {
        handle.lock().unwrap()(&write);
    }
    let answer = Bytes::from(text(ANSWER));
    let body = if text(WAITS) == "in its answer" {
        let late = async move {
            gate.acquire().await.unwrap().forget();
            Ok::<_, BoxError>(Frame::data(answer))
        };
        StreamBody::new(futures_util::stream::once(late)).boxed_unsync()
    } else {
        Full::new(answer).map_err(|never| match never {}).boxed_unsync()
    };
    let status = text(STATUS).parse().unwrap_or(200_u16);
    Response::builder().status(status).header(header::CONTENT_TYPE, "application/json").body(body).expect("an answer")
}

/// Who writes, and how its writes go.
#[derive(Clone, Debug)]
pub struct Writer {
    server: Server,
    token: Option<&'static str>,
    waits: &'static str,
}

impl Writer {
    /// Its writes wait before they are answered.
    pub fn waiting(&self) -> Self {
        Self { waits: "before its answer", ..self.clone() }
    }

    /// The answers to its writes do not end at once.
    pub fn waiting_in_its_answers(&self) -> Self {
        Self { waits: "in its answer", ..self.clone() }
    }

    /// Adds a task or link, whose id the store chooses.
    pub async fn post(&self, kind: &str, object: &Value) {
        let answer = json!({"action": "inserted", "tid": object["id"]});
        assert_eq!(self.send(Method::POST, kind, object, 200, &answer).await, 200);
    }

    pub async fn put(&self, kind: &str, object: &Value) {
        let path = format!("{kind}/{}", object["id"]);
        assert_eq!(self.send(Method::PUT, &path, object, 200, &json!({"action": "updated"})).await, 200);
    }

    pub async fn delete(&self, kind: &str, id: u32) {
        let path = format!("{kind}/{id}");
        assert_eq!(self.send(Method::DELETE, &path, &Value::Null, 200, &json!({"action": "deleted"})).await, 200);
    }

    /// Sends a write, which is answered like this.
    pub async fn send(&self, method: Method, path: &str, body: &Value, status: u16, answer: &Value) -> u16 {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("/data/{path}"))
            .header(header::CONTENT_TYPE, "application/json")
            .header("x-requested-with", "XMLHttpRequest")
            .header(STATUS, status)
            .header(ANSWER, answer.to_string());
        if let Some(token) = self.token {
            request = request.header("remote-token", token);
        }
        if !self.waits.is_empty() {
            request = request.header(WAITS, self.waits);
        }
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.server.send(request.body(body).expect("a good request")).await.status().as_u16()
    }

    /// The same, without waiting for the answer.
    pub async fn begin<F>(&self, write: impl FnOnce(Self) -> F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let begun = tokio::spawn(write(self.clone()));
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
        begun
    }
}

/// A socket that has subscribed both entities.
pub async fn open(client: &Client) -> Tab {
    let mut tab = client.connect().await;
    tab.subscribe("tasks").await;
    tab.subscribe("links").await;
    tab
}

pub const NOTHING: [&str; 0] = [];

/// Messages in few words.
pub fn outlines(values: &[Value]) -> Vec<String> {
    values.iter().map(outline).collect()
}

fn outline(value: &Value) -> String {
    let kind = value["type"].as_str().expect("a type");
    let object = &value[kind.split_once('-').expect("a verb and a key").1];
    let id = object["id"].as_str().map_or_else(|| object["id"].to_string(), str::to_owned);
    format!("{kind} {id}")
}

/// What it has received in so many seconds.
pub async fn received_in(tab: &mut Tab, seconds: f64) -> Vec<String> {
    wait(seconds).await;
    outlines(&tab.values().await)
}

/// The place of a message, which must have come once.
#[track_caller]
pub fn place(received: &[String], message: &str) -> usize {
    let mut places = received.iter().enumerate().filter(|(_, it)| *it == message).map(|(at, _)| at);
    match (places.next(), places.next()) {
        (Some(place), None) => place,
        _ => panic!("{message} once in {received:?}"),
    }
}

/// These messages, each of which must have come once, came in this order.
#[track_caller]
pub fn in_order(received: &[String], messages: &[&str]) {
    let places: Vec<usize> = messages.iter().map(|message| place(received, message)).collect();
    assert!(places.is_sorted(), "{messages:?} in {received:?}");
}

/// A task as new ones and known ones are sent to pages.
pub fn added(id: u32) -> Vec<String> {
    vec![format!("add-task {id}"), format!("update-task {id}")]
}

pub fn task(id: u32, parent: u32) -> Value {
    named(id, parent, "a task")
}

pub fn named(id: u32, parent: u32, text: &str) -> Value {
    json!({"id": id, "text": text, "start_date": "2025-04-10 09:00", "end_date": "2025-04-11 09:00", "duration": 1,
           "parent": parent})
}

pub fn link(id: u32, source: u32, target: u32) -> Value {
    json!({"id": id, "source": source, "target": target, "type": "0"})
}
