//! Which responses are broadcast, as what, and which the log has a line about.

use http::{Method, Request, header};
use serde_json::{Value, json};
use tower_live_updates::{Delivery, Entity, LiveUpdates};

use crate::support::{Server, TOKEN, full, json as answer, live, logs::Logs, read};

const DATED: &str = r#"{"text":"a","start_date":"2025-04-21 10:00","end_date":"2025-04-21 11:00"}"#;
const JSON: &str = "application/json";
const FORM: &str = "application/x-www-form-urlencoded";

/// A broadcast: the kind of message and the id.
type Broadcast = Option<(&'static str, &'static str)>;

const NOTHING: Broadcast = None;
const ADDED: Broadcast = Some(("add-event", "17"));
const UPDATED: Broadcast = Some(("update-event", "7"));
const DELETED: Broadcast = Some(("delete-event", "7"));

/// Log lines that name a remedy, by a part of them.
const NO_ID: &str = "the answer holds no usable id";
const NO_OBJECT: &str = "neither request nor answer holds a readable object";
const NOT_DONE: &str = "202 and 207 do not mean that the write is complete";
const NOT_200: &str = "takes only status 200 for success";
const NO_TID: &str = "needs the new id as `tid`";
const UNKNOWN_ACTION: &str = "action is neither inserted, updated nor deleted";
const BATCH: &str = "several changes in one request";
const BODY_MODE: &str = "Entity::body_modes()";
const POST_DELETED: &str = "a POST was answered with `deleted`";
const OTHER_ID: &str = "the answer names another id than the request";
const NO_DATES: &str = "an added event needs start_date and end_date";
const NOT_JSON: &str = "the Scheduler reads answers as JSON";
const REDIRECTED: &str = "and is not broadcast";
const ODD_ACTION: &str = "the answer's `action` is \"insert\"";
const NO_LINE: &str = "";

struct Case {
    method: Method,
    path: &'static str,
    request: (&'static str, &'static str),
    status: u16,
    answer: (&'static str, &'static str),
    location: Option<&'static str>,
    /// The entity reads the action in bodies.
    has_modes: bool,
}

fn post(status: u16, body: &'static str) -> Case {
    Case {
        method: Method::POST,
        path: "/events",
        request: (JSON, DATED),
        status,
        answer: (JSON, body),
        location: None,
        has_modes: true,
    }
}

fn put(status: u16, body: &'static str) -> Case {
    Case { method: Method::PUT, path: "/events/7", ..post(status, body) }
}

fn patch(status: u16, body: &'static str) -> Case {
    Case { method: Method::PATCH, path: "/events/7", ..post(status, body) }
}

fn delete(status: u16, body: &'static str) -> Case {
    Case { method: Method::DELETE, path: "/events/7", request: (JSON, ""), ..post(status, body) }
}

/// The client's JSON mode.
fn mode(body: &'static str, response: &'static str) -> Case {
    Case { path: "/events?editing=true", request: (JSON, body), ..post(200, response) }
}

/// The same, of an entity that does not read it.
fn without_modes(body: &'static str, response: &'static str) -> Case {
    Case { has_modes: false, ..mode(body, response) }
}

impl Case {
    fn sent(self, body: &'static str) -> Self {
        Self { request: (JSON, body), ..self }
    }

    fn form(self, body: &'static str) -> Self {
        Self { request: (FORM, body), ..self }
    }

    fn answered(self, kind: &'static str, body: &'static str) -> Self {
        Self { answer: (kind, body), ..self }
    }

    fn at(self, location: &'static str) -> Self {
        Self { location: Some(location), ..self }
    }

    fn request(&self) -> Request<&'static str> {
        let request = Request::builder().method(&self.method).uri(self.path);
        request.header(header::CONTENT_TYPE, self.request.0).body(self.request.1).unwrap()
    }

    fn name(&self) -> String {
        format!("{} {} {:?} -> {} {:?}", self.method, self.path, self.request.1, self.status, self.answer)
    }
}

#[tokio::test]
async fn the_broadcast_and_the_log_line_of_each_response() {
    let mut cases = vec![
        // A create is broadcast with the id of the response, else of Location, else of the request.
        (post(200, r#"{"action":"inserted","tid":"17"}"#), ADDED, NO_LINE),
        (post(200, r#"{"tid":17}"#), ADDED, NO_LINE),
        (post(200, r#"{"id":17}"#), ADDED, NO_TID),
        (post(200, r#"{"tid":17,"item":{"id":17,"text":"stored"}}"#), ADDED, NO_LINE),
        (post(200, r#"{"event":{"id":17}}"#), ADDED, NO_TID),
        (post(201, r#"{"tid":17}"#), ADDED, NOT_200),
        (post(201, "").at("/events/17"), ADDED, NOT_200),
        (post(201, "created").answered("text/plain", "created").at("https://x/events/17?v=1"), ADDED, NOT_200),
        (post(200, "").sent(r#"{"id":17,"start_date":"2025-04-21","end_date":"2025-04-22"}"#), NOTHING, NO_ID),
        (post(200, r#"{"action":"deleted","tid":17}"#), NOTHING, POST_DELETED),
        (post(200, r#"{"action":"updated","tid":7}"#), UPDATED, NO_LINE),
        (put(200, r#"{"action":"updated","tid":9}"#), UPDATED, NO_LINE),
        (put(200, r#"{"action":"deleted"}"#).sent(r#"{"deleted":true}"#), DELETED, NO_LINE),
        (put(200, r#"{"action":"deleted"}"#).sent(r#"{"deleted":true,"recurring_event_id":"5"}"#), UPDATED, NO_LINE),
        (post(200, r#"{"tid":null}"#), NOTHING, NO_ID),
        (post(200, r#"{"tid":""}"#), NOTHING, NO_ID),
        (post(200, r#"{"tid":0}"#), NOTHING, NO_ID),
        (post(200, r#"{"tid":{"$oid":"17"}}"#), NOTHING, NO_ID),
        (post(200, "{}"), NOTHING, NO_ID),
        (post(200, "[]"), NOTHING, NO_ID),
        (post(200, "null"), NOTHING, NO_ID),
        (post(200, ""), NOTHING, NO_ID),
        (post(204, ""), NOTHING, NO_ID),
        (post(200, r#"{"tid":17"#), NOTHING, NO_ID),
        (post(200, "").answered("text/plain", r#"{"tid":17}"#), NOTHING, NO_ID),
        (post(200, "").answered("text/html", "<p>saved"), NOTHING, NO_ID),
        (post(200, "").answered("application/problem+json; charset=utf-8", r#"{"tid":17}"#), ADDED, NO_LINE),
        (post(200, r#"{"tid":17}"#).sent(r#"{"text":"a"}"#), NOTHING, NO_DATES),
        (post(200, r#"{"tid":17}"#).sent(""), NOTHING, NO_OBJECT),
        // 2xx that do not mean that anything is done.
        (post(202, r#"{"tid":17}"#), NOTHING, NOT_DONE),
        (put(202, ""), NOTHING, NOT_DONE),
        (put(207, ""), NOTHING, NOT_DONE),
        (delete(202, ""), NOTHING, NOT_DONE),
        // Failures that call themselves success.
        (post(200, r#"{"action":"error","tid":"17"}"#), NOTHING, NO_LINE),
        (post(200, r#"{"action":"invalid","tid":"17"}"#), NOTHING, NO_LINE),
        (put(200, r#"{"action":"error"}"#), NOTHING, NO_LINE),
        (put(200, r#"{"action":"invalid"}"#), NOTHING, NO_LINE),
        (delete(200, r#"{"action":"error"}"#), NOTHING, NO_LINE),
        // An update needs no more than its path and an object.
        (put(200, r#"{"action":"updated"}"#), UPDATED, NO_LINE),
        (put(200, ""), UPDATED, NO_LINE),
        (put(200, "[]"), UPDATED, NO_LINE),
        (put(200, "").answered("text/plain", "saved"), UPDATED, NOT_JSON),
        (put(200, "saved"), UPDATED, NOT_JSON),
        (put(200, "null"), UPDATED, NOT_JSON),
        (post(200, r#"{"action":"insert","tid":17}"#), ADDED, ODD_ACTION),
        (put(200, r#"{"action":"delete"}"#), DELETED, "the answer's `action` is \"delete\""),
        // An action of the application's own is a success.
        (put(200, r#"{"action":"approved"}"#), UPDATED, NO_LINE),
        (delete(200, r#"{"action":"archived"}"#), DELETED, "the answer's `action` is \"archived\""),
        (put(204, ""), UPDATED, NOT_200),
        (put(201, ""), Some(("add-event", "7")), NOT_200),
        (put(200, r#"{"action":"inserted","tid":"17"}"#), ADDED, NO_LINE),
        (put(200, r#"{"action":"deleted"}"#), DELETED, NO_LINE),
        (put(200, r#"{"action":"updated"}"#).sent(""), NOTHING, NO_OBJECT),
        (put(200, r#"{"action":"updated"}"#).sent("{\"text\":"), NOTHING, NO_OBJECT),
        (put(200, r#"{"item":{"id":7,"text":"stored"}}"#).sent(""), UPDATED, NO_LINE),
        (put(200, r#"{"item":{"id":8}}"#).sent(r#"{"id":8}"#), Some(("update-event", "8")), NO_LINE),
        (patch(200, r#"{"action":"updated"}"#).sent(r#"{"text":"b"}"#), UPDATED, NO_LINE),
        (delete(200, r#"{"action":"deleted"}"#), DELETED, NO_LINE),
        (delete(200, ""), DELETED, NO_LINE),
        (delete(200, "").answered("text/plain", "gone"), DELETED, NOT_JSON),
        (delete(204, ""), DELETED, NOT_200),
        (delete(200, r#"{"action":"updated","item":{"id":7,"deleted":true}}"#), UPDATED, NO_LINE),
        // The modes that send everything as POST name their action.
        (mode(r#"{"id":7,"action":"updated","data":{"text":"b"}}"#, r#"{"action":"updated"}"#), UPDATED, NO_LINE),
        (mode(r#"{"id":7,"action":"deleted","data":{}}"#, r#"{"action":"deleted"}"#), DELETED, NO_LINE),
        (mode(r#"{"id":7,"action":"moved","data":{}}"#, "{}"), NOTHING, UNKNOWN_ACTION),
        (mode("", "{}").form("id=7&text=b&!nativeeditor_status=updated"), UPDATED, NO_LINE),
        (mode("", "{}").form("id=7&!nativeeditor_status=deleted"), DELETED, NO_LINE),
        (mode("", "{}").form("id=7&!nativeeditor_status=moved"), NOTHING, UNKNOWN_ACTION),
        (mode(r#"{"id":7,"action":"updated","data":{"text":"b"}}"#, r#"{"action":"approved"}"#), UPDATED, NO_LINE),
        (mode("", "{}").form("7_id=7&7_text=b&ids=7"), NOTHING, BATCH),
        (mode("", r#"{"action":"updated"}"#).form("7_id=7&7_text=b&8_id=8&8_text=c&ids=7,8"), NOTHING, BATCH),
        (mode("", r#"{"action":"inserted","tid":17}"#).form("7_id=7&7_text=b&ids=7"), NOTHING, BATCH),
        (without_modes("", r#"{"action":"inserted","tid":17}"#).form("7_id=7&7_text=b&ids=7"), NOTHING, BATCH),
        // And the action counts unless the response contradicts it.
        (
            mode(
                r#"{"id":7,"action":"deleted","data":{}}"#,
                r#"{"tid":17,"item":{"id":17,"start_date":"a","end_date":"b"}}"#,
            ),
            ADDED,
            NO_LINE,
        ),
        (mode(r#"{"id":7,"action":"updated","data":{}}"#, r#"{"action":"updated","tid":8}"#), NOTHING, OTHER_ID),
        (mode(r#"{"id":7,"action":"updated","data":{"text":"b"}}"#, r#"{"action":"deleted"}"#), DELETED, NO_LINE),
        (mode(r#"{"id":7,"action":"inserted","data":{}}"#, r#"{"action":"deleted"}"#), NOTHING, POST_DELETED),
        (without_modes(r#"{"id":7,"action":"updated","data":{}}"#, r#"{"action":"updated"}"#), NOTHING, BODY_MODE),
        (without_modes(r#"{"id":7,"action":"deleted","data":{}}"#, r#"{"action":"deleted"}"#), NOTHING, POST_DELETED),
        (
            Case { path: "/events", ..mode(r#"{"id":7,"action":"deleted","data":{}}"#, r#"{"action":"deleted"}"#) },
            NOTHING,
            POST_DELETED,
        ),
        (put(200, "{}").sent(r#"{"id":7,"action":"deleted","data":{}}"#), UPDATED, NO_LINE),
    ];
    for status in [301, 302, 303, 304, 307, 400, 401, 403, 404, 405, 409, 410, 422, 429, 500, 502, 503] {
        let body = if status == 304 { "" } else { r#"{"action":"inserted","tid":"17"}"# };
        let line = if matches!(status, 301..=303) { REDIRECTED } else { NO_LINE };
        cases.extend([post, put, patch, delete].map(|case| (case(status, body), NOTHING, line)));
    }

    for (case, expected, line) in cases {
        let logs = Logs::capture();
        let events = Entity::scheduler("/events");
        let events = if case.has_modes { events.body_modes() } else { events };
        let live =
            LiveUpdates::builder("/api/v1").delivery(Delivery::Plain).tokens([TOKEN]).entity(events).build().unwrap();
        let (status, (kind, body), location) = (case.status, case.answer, case.location);
        let server = Server::layered(&live.layer(), move |request| async move {
            read(request).await.expect("a whole request");
            let mut response = answer(status, body);
            response.headers_mut().insert(header::CONTENT_TYPE, kind.parse().unwrap());
            if let Some(location) = location {
                response.headers_mut().insert(header::LOCATION, location.parse().unwrap());
            }
            response
        });
        let mut page = server.subscribed().await;
        for round in 1..=2_u64 {
            let response = server.send(case.request()).await;
            assert_eq!(
                (response.status().as_u16(), &response.body()[..]),
                (status, body.as_bytes()),
                "{}",
                case.name()
            );
            let received = page.received(&live).await;
            let received: Vec<_> = received.iter().map(outline).collect();
            let expected: Vec<_> = expected.iter().map(|(kind, id)| ((*kind).to_owned(), (*id).to_owned())).collect();
            assert_eq!(received, expected, "{}", case.name());
            let failed = !(200..300).contains(&status) || body.contains("error") || body.contains("invalid");
            let unpublished = if expected.is_empty() && !failed { round } else { 0 };
            assert_eq!(live.stats().writes_unpublished, unpublished, "{}", case.name());
        }
        let lines = logs.lines("WARN");
        if line.is_empty() {
            assert!(lines.is_empty(), "{}: {lines:?}", case.name());
        } else {
            assert_eq!(lines.len(), 1, "once for two writes: {}: {lines:?}", case.name());
            assert!(lines[0].contains(line), "{}: {lines:?}", case.name());
            assert!(lines[0].contains(case.method.as_str()) && lines[0].contains("/events"), "the route: {lines:?}");
        }
    }
}

fn outline(value: &Value) -> (String, String) {
    let id = &value["event"]["id"];
    let id = id.as_str().map_or_else(|| id.to_string(), str::to_owned);
    (value["type"].as_str().unwrap().to_owned(), id)
}

#[tokio::test]
async fn reading_changes_nothing() {
    let live = live();
    let server = Server::layered(&live.layer(), |_| async { answer(200, r#"{"action":"inserted","tid":"17"}"#) });
    let mut page = server.subscribed().await;
    for method in [Method::GET, Method::HEAD, Method::OPTIONS] {
        for path in ["/events", "/events/7"] {
            let request = Request::builder().method(&method).uri(path).body(full(DATED)).unwrap();
            assert_eq!(server.start(request).await.unwrap().status(), 200);
        }
    }
    assert!(page.received(&live).await.is_empty());
    assert_eq!(live.stats().writes_unpublished, 0);
}

#[tokio::test]
async fn an_id_in_the_answer_replaces_the_clients_own() {
    for id in [json!(1713000000123_u64), json!("temporary"), json!(0), json!(null)] {
        let live = live();
        let server = Server::layered(&live.layer(), |request| async {
            read(request).await.unwrap();
            answer(200, r#"{"action":"inserted","tid":"17"}"#)
        });
        let mut page = server.subscribed().await;
        let body = json!({"id": id, "start_date": "2025-04-21 10:00", "end_date": "2025-04-21 11:00"});
        server.write(Method::POST, "/events", &body.to_string()).await;
        let received = page.received(&live).await;
        assert_eq!(received.len(), 1);
        assert_eq!(received[0]["event"]["id"], "17", "{id}");
    }
}

#[tokio::test]
async fn text_and_dates_are_broadcast_exactly_as_they_were_sent() {
    let object = json!({
        "text": "😀 \u{2028}\u{feff}\u{0} مرحبا <b>&amp;</b> \"\\/",
        "start_date": "2025-04-21T10:00:00.000Z", "end_date": "04/21/2025 11:00", "when": "2025-04-21 10:00:00",
        "big": 12345678901234567890_u64, "nested": {"list": [1, {"deep": null}], "empty": {}},
    });
    let live = live();
    let server = Server::layered(&live.layer(), |request| async {
        read(request).await.unwrap();
        answer(200, r#"{"action":"inserted","tid":"17"}"#)
    });
    let mut page = server.subscribed().await;
    server.write(Method::POST, "/events", &object.to_string()).await;
    let mut expected = object;
    expected["id"] = json!("17");
    assert_eq!(page.received(&live).await, [json!({"type": "add-event", "event": expected})]);
}

#[tokio::test]
async fn content_types_are_read_whatever_their_case_and_parameters() {
    for kind in
        ["application/json;charset=utf-8", "APPLICATION/JSON; Charset=\"UTF-8\"", "text/json", "application/ld+json"]
    {
        let live = live();
        let server = Server::layered(&live.layer(), |request| async {
            read(request).await.unwrap();
            answer(200, "")
        });
        let mut page = server.subscribed().await;
        let request = Request::put("/events/7").header(header::CONTENT_TYPE, kind).body(r#"{"text":"a"}"#).unwrap();
        server.send(request).await;
        assert_eq!(page.received(&live).await.len(), 1, "{kind}");
    }
}
