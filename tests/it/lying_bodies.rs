//! Whatever a body claims about its action and ids: pages receive what the store did, or nothing.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{Method, Request, Response, header};
use http_body_util::Full;
use hyper::body::Incoming;
use serde_json::{Map, Value, json};
use tower_live_updates::{Delivery, Entity, LiveUpdates, body::RequestBody};

use crate::support::{Server, TOKEN, json as answer, read};

type Row = Map<String, Value>;

/// A back end with rows in memory.
#[derive(Clone)]
struct Store {
    rows: Arc<Mutex<BTreeMap<u64, Row>>>,
    /// It reads the action in bodies.
    has_modes: bool,
    /// It answers with the row it has stored.
    answers_rows: bool,
}

impl Store {
    fn new(has_modes: bool, answers_rows: bool) -> Self {
        let row = |id: u64| (id, row(&json!({"text": format!("row {id}")})));
        Self { rows: Arc::new(Mutex::new([1, 2].map(row).into())), has_modes, answers_rows }
    }

    fn snapshot(&self) -> BTreeMap<u64, Row> {
        self.rows.lock().unwrap().clone()
    }

    async fn handle(self, request: Request<RequestBody<Incoming>>) -> Response<Full<Bytes>> {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let is_editing = request.uri().query() == Some("editing=true");
        let Ok(body) = serde_json::from_slice::<Row>(&read(request).await.unwrap()) else {
            return answer(400, "{}");
        };
        let id = path.strip_prefix("/events/").and_then(|id| id.parse().ok());
        let number = |value: Option<&Value>| value.and_then(|id| id.to_string().trim_matches('"').parse().ok());
        let action = body.get("action").and_then(Value::as_str).filter(|_| self.has_modes && is_editing);
        let data = body.get("data").and_then(Value::as_object).cloned();
        match (method, id, action, data) {
            (Method::POST, None, Some("updated"), Some(data)) => self.update(number(body.get("id")), data),
            (Method::POST, None, Some("deleted"), _) => self.delete(number(body.get("id"))),
            (Method::POST, None, Some("inserted"), Some(data)) => self.insert(data),
            (Method::POST, None, ..) => self.insert(body),
            (Method::PUT | Method::PATCH, id, ..) => self.update(id, body),
            _ => answer(405, "{}"),
        }
    }

    fn insert(&self, mut fields: Row) -> Response<Full<Bytes>> {
        let mut rows = self.rows.lock().unwrap();
        let id = rows.last_key_value().map_or(1, |(last, _)| last + 1);
        fields.remove("id");
        rows.insert(id, fields.clone());
        self.respond("inserted", Some(id), &fields)
    }

    fn update(&self, id: Option<u64>, fields: Row) -> Response<Full<Bytes>> {
        let mut rows = self.rows.lock().unwrap();
        let Some((id, row)) = id.and_then(|id| Some((id, rows.get_mut(&id)?))) else { return answer(404, "{}") };
        row.extend(fields.into_iter().filter(|(key, _)| key != "id"));
        let mut stored = row.clone();
        stored.insert("id".to_owned(), id.into());
        self.respond("updated", None, &stored)
    }

    fn delete(&self, id: Option<u64>) -> Response<Full<Bytes>> {
        let removed = id.and_then(|id| self.rows.lock().unwrap().remove(&id));
        if removed.is_some() { answer(200, r#"{"action":"deleted"}"#) } else { answer(404, "{}") }
    }

    fn respond(&self, action: &str, tid: Option<u64>, row: &Row) -> Response<Full<Bytes>> {
        let mut send_text = json!({"action": action});
        if let Some(tid) = tid {
            send_text["tid"] = tid.into();
        }
        if self.answers_rows {
            send_text["item"] = Value::Object(row.clone());
            if let Some(tid) = tid {
                send_text["item"]["id"] = tid.into();
            }
        }
        answer(200, &send_text.to_string())
    }
}

fn row(value: &Value) -> Row {
    value.as_object().cloned().unwrap_or_default()
}

/// A page that applies what it receives.
fn apply(rows: &mut BTreeMap<u64, Row>, message: &Value) {
    let event = row(&message["event"]);
    let id = event["id"].to_string().trim_matches('"').parse().expect("a number");
    let fields = event.into_iter().filter(|(key, _)| key != "id");
    match message["type"].as_str() {
        Some("add-event") => drop(rows.insert(id, fields.collect())),
        Some("update-event") => rows.get_mut(&id).expect("an update of what is there").extend(fields),
        Some("delete-event") => assert!(rows.remove(&id).is_some(), "a deletion of what is there"),
        other => panic!("{other:?}"),
    }
}

const DATES: &str = r#""start_date":"2025-04-21 10:00","end_date":"2025-04-21 11:00""#;

fn lies() -> Vec<(Method, &'static str, String)> {
    let bodies = [
        r#"{"id":1,"action":"deleted","data":{},DATES}"#,
        r#"{"id":1,"action":"deleted","data":{}}"#,
        r#"{"id":1,"action":"deleted","DATES}"#,
        r#"{"id":1,"action":"updated","data":{"text":"lie",DATES},DATES}"#,
        r#"{"id":1,"action":"updated","data":{"text":"lie",DATES}}"#,
        r#"{"id":9,"action":"updated","data":{"text":"lie",DATES},DATES}"#,
        r#"{"id":3,"action":"updated","data":{"text":"lie",DATES},DATES}"#,
        r#"{"id":1,"action":"inserted","data":{"text":"lie",DATES},DATES}"#,
        r#"{"id":1,"action":"moved","data":{"text":"lie"},DATES}"#,
        r#"{"id":1,"action":"moved",DATES}"#,
        r#"{"id":1,"deleted":true,DATES}"#,
        r#"{"id":2,"text":"lie","tid":2,DATES}"#,
        r#"{"id":"","text":"lie",DATES}"#,
    ];
    let routes = [
        (Method::POST, "/events"),
        (Method::POST, "/events?editing=true"),
        (Method::PUT, "/events/1"),
        (Method::PUT, "/events/1?editing=true"),
        (Method::PATCH, "/events/2"),
    ];
    routes
        .into_iter()
        .flat_map(|(method, path)| bodies.map(|body| (method.clone(), path, body.replace("DATES", DATES))))
        .filter(|(.., body)| serde_json::from_str::<Value>(body).is_ok())
        .collect()
}

async fn pages_receive_what_the_store_did(store: Store, has_option: bool) {
    let events = Entity::scheduler("/events");
    let events = if has_option { events.body_modes() } else { events };
    let live =
        LiveUpdates::builder("/api/v1").delivery(Delivery::Plain).tokens([TOKEN]).entity(events).build().unwrap();
    let handler = store.clone();
    let server = Server::layered(&live.layer(), move |request| handler.clone().handle(request));
    let mut page = server.subscribed().await;
    for (method, path, body) in lies() {
        let request = Request::builder().method(&method).uri(path).header(header::CONTENT_TYPE, "application/json");
        let before = store.snapshot();
        server.send(request.body(body.clone()).unwrap()).await;
        let mut shown = before.clone();
        let received = page.received(&live).await;
        for message in &received {
            apply(&mut shown, message);
        }
        let after = store.snapshot();
        let name = format!("{method} {path} {body} {received:?}");
        // Without its option a back end's own modes are not understood, and an event without dates is never broadcast.
        let is_unpublished = received.is_empty() && live.stats().writes_unpublished > 0;
        let is_undated = after.get(&3).is_some_and(|added| !added.contains_key("start_date"));
        let may_be_silent = (store.has_modes && !has_option) || is_undated;
        assert!(shown == after || (is_unpublished && may_be_silent), "{name}: {after:?}");
        assert!(received.len() <= 1, "{name}");
        // Each lie finds the rows it lies about.
        *store.rows.lock().unwrap() = Store::new(true, true).snapshot();
    }
}

#[tokio::test]
async fn of_a_back_end_that_takes_every_body_for_data() {
    for answers_rows in [true, false] {
        pages_receive_what_the_store_did(Store::new(false, answers_rows), false).await;
    }
}

#[tokio::test]
async fn of_a_back_end_that_reads_the_action_in_bodies() {
    for answers_rows in [true, false] {
        pages_receive_what_the_store_did(Store::new(true, answers_rows), true).await;
    }
}

#[tokio::test]
async fn of_one_that_reads_it_without_the_option() {
    pages_receive_what_the_store_did(Store::new(true, true), false).await;
}

/// A lying page of one tenant makes the layer read no row of another.
#[tokio::test]
async fn what_is_read_back_is_read_where_it_is_published() {
    let asked: Arc<Mutex<Vec<(Vec<String>, String)>>> = Arc::default();
    let rows = async |asked: Arc<Mutex<Vec<(Vec<String>, String)>>>, scopes: Vec<String>, id: String| {
        asked.lock().unwrap().push((scopes.clone(), id.clone()));
        let is_there = scopes == ["north"] && id == "7";
        Ok::<_, std::convert::Infallible>(is_there.then(|| json!({"id": 7, "text": "of north"})))
    };
    let events = Entity::scheduler("/events").scoped().body_modes().load_scoped(asked.clone(), rows);
    let live = LiveUpdates::builder("/api/v1").delivery(Delivery::Plain);
    let live = live
        .authenticate_fn((), async |(), request: tower_live_updates::AuthRequest| {
            let scope = request.token().to_owned();
            Ok(tower_live_updates::Identity::new(scope.clone()).with_scope(scope))
        })
        .entity(events)
        .build()
        .unwrap();
    let server = Server::layered(&live.layer(), |request: Request<RequestBody<Incoming>>| async move {
        let scope = request.headers().get("x-scope").map(|scope| scope.to_str().unwrap().to_owned());
        if let Some(scope) = scope {
            request.extensions().get::<tower_live_updates::LiveWrite>().unwrap().scope(scope);
        }
        read(request).await.unwrap();
        answer(200, r#"{"action":"updated"}"#)
    });
    let put =
        |scope: &'static str| Request::put("/events/7").header("x-scope", scope).body(r#"{"text":"lie"}"#).unwrap();
    server.send(put("south")).await;
    server.send(put("north")).await;
    server.send(Request::put("/events/7").body(r#"{"text":"lie"}"#).unwrap()).await;
    let asked = asked.lock().unwrap().clone();
    assert_eq!(asked, [(vec!["south".to_owned()], "7".to_owned()), (vec!["north".to_owned()], "7".to_owned())]);
    assert_eq!(live.stats().writes_unpublished, 1, "without a scope nothing is read, and nothing broadcast");
}
