//! The stock clients' own traffic, captured from Scheduler 7.2 and Gantt 10: the same requests and answers bring the
//! same messages, in the same order. That of the Kanban and the Event Calendar is written after their documents.

use std::{
    collections::{BTreeSet, VecDeque},
    path::PathBuf,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use futures_util::StreamExt;
use http::{Request, Response, header};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tower_live_updates::{Delivery, Entity, LiveUpdates, body::RequestBody};

use crate::support::{BoxError, Page, Server, read};

/// Captures with messages to compare.
const COMPARED: [&str; 30] = [
    "gantt_after_cascade",
    "gantt_create_parent_child",
    "gantt_create_then_update",
    "gantt_indent",
    "gantt_link_create",
    "gantt_link_delete",
    "gantt_link_update",
    "gantt_reorder_drag",
    "gantt_reorder_to_end",
    "gantt_task_create",
    "gantt_task_delete_cascade",
    "gantt_task_delete_leaf",
    "gantt_task_rapid",
    "gantt_task_update",
    "scheduler_allday_multiday",
    "scheduler_create_api",
    "scheduler_create_lightbox",
    "scheduler_create_then_delete",
    "scheduler_create_then_update",
    "scheduler_custom_fields",
    "scheduler_delete",
    "scheduler_delete_numeric",
    "scheduler_drag",
    "scheduler_rapid_updates",
    "scheduler_recurring_create",
    "scheduler_recurring_delete_modified",
    "scheduler_recurring_delete_occurrence",
    "scheduler_recurring_delete_series",
    "scheduler_recurring_edit_occurrence",
    "scheduler_recurring_update_series",
];

/// Captures of a back end without live updates, and what is broadcast here: the action and the id of each write.
const WITHOUT_MESSAGES: [(&str, &[(&str, &str)]); 10] = [
    ("scheduler_mode_rest-json", SCHEDULER),
    ("scheduler_mode_rest", SCHEDULER),
    ("scheduler_mode_json", SCHEDULER),
    ("scheduler_mode_post", SCHEDULER),
    // Nothing of this mode is broadcast.
    ("scheduler_mode_get", &[]),
    ("gantt_mode_rest-json", GANTT),
    ("gantt_mode_rest", GANTT),
    ("gantt_mode_json", GANTT),
    ("gantt_mode_post", GANTT),
    ("gantt_mode_get", &[]),
];
const SCHEDULER: &[(&str, &str)] = &[("add-event", "500"), ("update-event", "500"), ("delete-event", "500")];
const GANTT: &[(&str, &str)] = &[
    ("add-task", "500"),
    ("update-task", "500"),
    ("update-task", "500"),
    ("add-link", "500"),
    ("delete-link", "500"),
    ("delete-task", "500"),
];

#[tokio::test]
async fn the_clients_requests_bring_the_captured_messages() {
    for name in COMPARED {
        let capture = Capture::read(name);
        let expected = capture.messages();
        assert!(!expected.is_empty(), "{name} holds no messages");
        let received = capture.replay(build()).await;
        assert_eq!(received, in_gantt_form(expected), "{name}");
    }
}

/// Messages in which tasks have the form that every page reads: an add names the bare day, an update follows it, and no task
/// has the place that a drag left it at.
fn in_gantt_form(messages: Vec<(String, Value)>) -> Vec<(String, Value)> {
    let one = |(entity, mut value): (String, Value)| {
        let Some(task) = value.get_mut("task").filter(|task| task.get("start_date").is_some()) else {
            return vec![(entity, value)];
        };
        let mut added = task.clone();
        for key in ["start_date", "end_date"] {
            let date = task[key].as_str().expect("a date").replace(' ', "T");
            added[key] = date[..10].into();
            task[key] = date.into();
        }
        added.as_object_mut().expect("an object").remove("end_date");
        for key in ["target", "$drop_target"] {
            (task[key], added[key]) = ("".into(), "".into());
        }
        task["$rendered_parent"] = "".into();
        let update = (entity.clone(), json!({"type": "update-task", "task": task}));
        match value["type"] == "add-task" {
            true => vec![(entity, json!({"type": "add-task", "task": added})), update],
            false => vec![update],
        }
    };
    messages.into_iter().flat_map(one).collect()
}

/// What is written after documents, and the preset that is for it. The live log merges changes of one object.
const DOCUMENTED: [(&str, fn() -> Entity); 6] = [
    ("kanban_cards", || Entity::kanban_cards("/")),
    ("kanban_columns", || Entity::kanban_columns("")),
    ("kanban_rows", || Entity::kanban_rows("/")),
    ("kanban_links", || Entity::kanban_links("/")),
    ("calendar_events", || Entity::calendar_events("/")),
    ("calendars", || Entity::calendars("/")),
];

#[tokio::test]
async fn documented_requests_bring_the_documented_messages() {
    for (name, preset) in DOCUMENTED {
        let capture = Capture::read(name);
        let expected = capture.messages();
        let live = LiveUpdates::builder("/api/v1").delivery(Delivery::Plain).tokens(["demo"]).entity(preset());
        let live = live.entity(Entity::new("marker")).build().expect("a good configuration");
        assert_eq!(capture.replay(live).await, expected, "{name}");
    }
}

#[tokio::test]
async fn the_clients_other_modes_are_broadcast_except_get() {
    for (name, expected) in WITHOUT_MESSAGES {
        let capture = Capture::read(name);
        assert!(capture.messages().is_empty(), "{name} holds messages");
        let received = capture.replay(build()).await;
        let received: Vec<(&str, String)> = received.iter().map(|(_, value)| outline(value)).collect();
        let expected: Vec<(&str, String)> = expected.iter().map(|(kind, id)| (*kind, (*id).to_owned())).collect();
        assert_eq!(received, expected, "{name}");
    }
}

#[tokio::test]
async fn form_fields_arrive_decoded() {
    for (name, nul) in [
        ("scheduler_mode_rest", json!("")),
        ("scheduler_mode_post", json!("")),
        ("scheduler_mode_json", json!(null)),
        ("scheduler_mode_rest-json", json!(null)),
    ] {
        let received = Capture::read(name).replay(build()).await;
        let added = &received[0].1["event"];
        assert_eq!(added["text"], "a&b=é \"q\" + x", "{name}");
        assert_eq!(added["start_date"], "2025-04-21 09:00", "{name}");
        assert_eq!(added["nul"], nul, "{name}");
        assert_eq!(added.get("!nativeeditor_status"), None, "{name}");
    }
    for (name, duration) in [("gantt_mode_post", json!("3")), ("gantt_mode_json", json!(3))] {
        let received = Capture::read(name).replay(build()).await;
        let added = &received[0].1["task"];
        assert_eq!((&added["text"], &added["duration"]), (&json!("a&b=é"), &duration), "{name}");
    }
}

#[test]
fn every_capture_with_writes_is_in_one_of_the_tables() {
    let named: BTreeSet<String> =
        COMPARED.into_iter().chain(WITHOUT_MESSAGES.iter().map(|(name, _)| *name)).map(str::to_owned).collect();
    let stored: BTreeSet<String> = std::fs::read_dir(fixtures())
        .expect("fixtures")
        .filter_map(|entry| entry.expect("a file").file_name().to_str()?.strip_suffix(".json").map(str::to_owned))
        .filter(|name| name.starts_with("scheduler_") || name.starts_with("gantt_"))
        .filter(|name| Capture::read(name).0.iter().any(Entry::is_write))
        .collect();
    assert_eq!(named, stored);
}

/// What a page subscribes to, as far as there is such an entity.
const ENTITIES: [&str; 8] = ["events", "tasks", "links", "cards", "columns", "rows", "calendars", "marker"];

fn build() -> LiveUpdates {
    LiveUpdates::builder("/api/v1")
        .delivery(Delivery::Plain)
        .tokens(["demo"])
        .entity(Entity::scheduler("/events").body_modes())
        .entity(Entity::gantt_tasks("/data"))
        .entity(Entity::gantt_links("/data"))
        .entity(Entity::new("marker"))
        .build()
        .expect("a good configuration")
}

/// The type of a message's value, and its object's id.
fn outline(value: &Value) -> (&str, String) {
    let kind = value["type"].as_str().expect("a type");
    let (_, key) = kind.split_once('-').expect("a verb");
    let id = &value[key]["id"];
    (kind, id.as_str().map_or_else(|| id.to_string(), str::to_owned))
}

fn fixtures() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "fixtures"].iter().collect()
}

/// One captured scenario.
struct Capture(Vec<Entry>);

/// One request, answer or message.
struct Entry(Value);

impl Entry {
    fn str(&self, key: &str) -> &str {
        self.0[key].as_str().unwrap_or_default()
    }

    fn is_request(&self) -> bool {
        self.str("kind") == "http" && self.str("to") == "server"
    }

    fn is_answer(&self) -> bool {
        self.str("kind") == "http" && self.str("from") == "server"
    }

    fn is_write(&self) -> bool {
        let editing = self.str("path").contains("editing=true");
        self.is_request() && (editing || matches!(self.str("method"), "POST" | "PUT" | "DELETE"))
    }

    /// What identifies the exchange it belongs to.
    fn exchange(&self) -> (String, String) {
        (self.str("method").to_owned(), self.str("path").to_owned())
    }

    fn request(&self) -> Request<String> {
        let mut request = Request::builder().method(self.str("method")).uri(self.str("path"));
        for (name, value) in self.0["headers"].as_object().expect("headers") {
            if name != "connection" {
                request = request.header(name, value.as_str().expect("a header value"));
            }
        }
        request.body(self.str("body").to_owned()).expect("a good request")
    }

    fn answer(&self) -> Response<UnsyncBoxBody<Bytes, BoxError>> {
        let headers = &self.0["headers"];
        let status = self.0["status"].as_u64().and_then(|status| u16::try_from(status).ok()).expect("a status");
        let mut answer = Response::builder().status(status);
        if let Some(kind) = headers[header::CONTENT_TYPE.as_str()].as_str() {
            answer = answer.header(header::CONTENT_TYPE, kind);
        }
        let body = Full::new(Bytes::from(self.str("body").to_owned())).map_err(|never| match never {});
        let body = match headers[header::TRANSFER_ENCODING.as_str()].as_str() {
            Some("chunked") => {
                StreamBody::new(body.into_data_stream().map(|data| data.map(http_body::Frame::data))).boxed_unsync()
            }
            _ => body.boxed_unsync(),
        };
        answer.body(body).expect("a good answer")
    }
}

type Waiting = Arc<Mutex<VecDeque<((String, String), oneshot::Receiver<Response<UnsyncBoxBody<Bytes, BoxError>>>)>>>;

impl Capture {
    fn read(name: &str) -> Self {
        let text = std::fs::read_to_string(fixtures().join(format!("{name}.json"))).expect(name);
        let mut capture: Value = serde_json::from_str(&text).expect(name);
        let Value::Array(entries) = capture["entries"].take() else { panic!("{name} has no entries") };
        Self(entries.into_iter().map(Entry).collect())
    }

    /// What page A received: the entity and the value of each message.
    fn messages(&self) -> Vec<(String, Value)> {
        let received = self.0.iter().filter(|entry| entry.str("kind") == "ws" && entry.str("to") == "A");
        received.map(|entry| entity_and_value(&serde_json::from_str(entry.str("body")).expect("JSON"))).collect()
    }

    /// Sends the captured requests and gives the captured responses, interleaved as they were; returns what a page
    /// receives.
    async fn replay(&self, live: LiveUpdates) -> Vec<(String, Value)> {
        let waiting = Waiting::default();
        let answers = waiting.clone();
        let server = Server::layered(&live.layer(), move |request: Request<RequestBody<Incoming>>| {
            let uri = request.uri().path_and_query().expect("a path").to_string();
            let exchange = (request.method().to_string(), uri);
            let answers = answers.clone();
            async move {
                read(request).await.expect("a whole body");
                let answer = {
                    let mut answers = answers.lock().unwrap();
                    let at = answers.iter().position(|(known, _)| *known == exchange).expect("a captured request");
                    answers.remove(at).expect("it was there").1
                };
                answer.await.expect("an answer")
            }
        });
        let mut page = server.page().await;
        for entity in ENTITIES {
            page.subscribe(entity).await;
        }

        let mut open = VecDeque::new();
        for entry in &self.0 {
            if entry.is_request() {
                let (give, answer) = oneshot::channel();
                waiting.lock().unwrap().push_back((entry.exchange(), answer));
                let (server, request) = (server.clone(), entry.request());
                let answered = tokio::spawn(async move { server.send(request).await });
                open.push_back((entry.exchange(), give, answered));
            } else if entry.is_answer() {
                let at =
                    open.iter().position(|(known, ..)| *known == entry.exchange()).expect("its request came first");
                let (_, give, answered) = open.remove(at).expect("it was there");
                give.send(entry.answer()).expect("a waiting handler");
                let answer = answered.await.expect("an answer");
                assert_eq!(answer.body(), entry.str("body").as_bytes());
            }
        }
        everything_received(&mut page, &live).await
    }
}

/// A message's entity and value.
fn entity_and_value(message: &Value) -> (String, Value) {
    assert_eq!(message["action"], "event", "{message}");
    (message["body"]["name"].as_str().expect("a name").to_owned(), message["body"]["value"].clone())
}

async fn everything_received(page: &mut Page, live: &LiveUpdates) -> Vec<(String, Value)> {
    live.send("marker", &json!({"type": "marker"})).expect("a configured entity");
    let mut received = Vec::new();
    loop {
        let message = entity_and_value(&page.message().await.expect("an open socket"));
        if message.1["type"] == "marker" {
            return received;
        }
        received.push(message);
    }
}
