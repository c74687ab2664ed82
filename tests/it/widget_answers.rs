//! Answers in the form that the DataProcessor understands, of an entity that asks for that.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderMap, HeaderName, Method, Request, Response, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use serde_json::json;
use tower_live_updates::{Change, Delivery, Entity, LiveUpdates, LiveWrite, body::RequestBody};

use crate::support::{BoxError, Server, TOKEN, full, logs::Logs, read};

const EVENT: &str = r#"{"text":"a","start_date":"2025-04-21 10:00","end_date":"2025-04-21 11:00"}"#;
const JSON: [(&str, &str); 1] = [("content-type", "application/json")];
const TEXT: [(&str, &str); 1] = [("content-type", "text/plain")];
const PLACE: [(&str, &str); 1] = [("location", "/events/17")];

type Answer = Response<UnsyncBoxBody<Bytes, BoxError>>;

fn answer(status: u16, headers: &[(&str, &str)], body: &str) -> Answer {
    let mut answer = Response::builder().status(status);
    for (name, value) in headers {
        answer = answer.header(*name, *value);
    }
    answer.body(full(body.to_owned()).map_err(|never| match never {}).boxed_unsync()).unwrap()
}

fn live(entity: Entity) -> LiveUpdates {
    let builder = LiveUpdates::builder("/api/v1").delivery(Delivery::Plain).tokens([TOKEN]).entity(entity);
    builder.max_body_bytes(1000).response_timeout(Duration::from_secs(5)).build().unwrap()
}

fn adapting() -> LiveUpdates {
    live(Entity::scheduler("/events").widget_answers())
}

/// A server whose handler reads the request and answers so.
fn server(live: &LiveUpdates, answer: impl Fn() -> Answer + Clone + Send + Sync + 'static) -> Server {
    Server::layered(&live.layer(), move |request: Request<RequestBody<Incoming>>| {
        let answer = answer();
        async {
            read(request).await.expect("a whole request");
            answer
        }
    })
}

fn write(method: Method, path: &str, client: &[(&str, &str)]) -> Request<&'static str> {
    let body = if method == Method::DELETE { "" } else { EVENT };
    let mut request = Request::builder().method(method).uri(path).header(header::CONTENT_TYPE, "application/json");
    for (name, value) in client {
        request = request.header(*name, *value);
    }
    request.body(body).unwrap()
}

const WIDGET: [(&str, &str); 1] = [("x-requested-with", "XMLHttpRequest")];

/// Without what the server adds.
fn own(headers: &HeaderMap) -> Vec<(HeaderName, String)> {
    let added = [header::DATE, header::CONTENT_LENGTH, header::TRANSFER_ENCODING];
    let own = headers.iter().filter(|(name, _)| !added.contains(name));
    own.map(|(name, value)| (name.clone(), value.to_str().unwrap().to_owned())).collect()
}

#[tokio::test]
async fn a_widget_gets_an_answer_that_it_understands() {
    let inserted = r#"{"action":"inserted","tid":"17"}"#;
    for (method, (status, headers, body), adapted) in [
        (Method::POST, (201, &JSON, r#"{"id":17}"#), r#"{"id":17,"action":"inserted","tid":17}"#),
        (Method::POST, (200, &JSON, r#"{"id":"a","n":1.50}"#), r#"{"id":"a","n":1.50,"action":"inserted","tid":"a"}"#),
        (Method::POST, (201, &JSON, r#"{"event":{"id":17}}"#), r#"{"event":{"id":17},"action":"inserted","tid":17}"#),
        (Method::POST, (200, &JSON, r#"{"action":"saved","id":17}"#), r#"{"action":"saved","id":17,"tid":17}"#),
        (Method::POST, (200, &JSON, r#"{"tid":0,"id":17}"#), r#"{"tid":17,"id":17,"action":"inserted"}"#),
        (Method::POST, (201, &PLACE, ""), inserted),
        (Method::POST, (200, &PLACE, ""), inserted),
        (Method::POST, (204, &PLACE, ""), inserted),
        // Nothing is added to what is enough, nor to a failure, and the bytes stay.
        (Method::POST, (201, &JSON, r#"{ "tid": 17 }"#), r#"{ "tid": 17 }"#),
        (
            Method::POST,
            (200, &JSON, r#"{ "action": "inserted", "tid": 17 }"#),
            r#"{ "action": "inserted", "tid": 17 }"#,
        ),
        (Method::POST, (201, &JSON, r#"{ "action": "error", "id": 17 }"#), r#"{ "action": "error", "id": 17 }"#),
        (Method::POST, (201, &JSON, r#"{ "ok": true }"#), r#"{ "ok": true }"#),
        (Method::PUT, (201, &JSON, r#"{ "id": 7 }"#), r#"{ "id": 7 }"#),
        (Method::PUT, (204, &JSON, ""), ""),
        (Method::PUT, (201, &TEXT, ""), ""),
        (Method::DELETE, (204, &TEXT, ""), ""),
    ] {
        let name = format!("{method} {status} {body}");
        let path = if method == Method::POST { "/events" } else { "/events/7" };
        let server = server(&adapting(), move || answer(status, headers, body));
        let answered = server.send(write(method.clone(), path, &WIDGET)).await;
        assert_eq!((answered.status().as_u16(), &answered.body()[..]), (200, adapted.as_bytes()), "{name}");
        assert_eq!(answered.headers()[header::CONTENT_LENGTH], adapted.len().to_string(), "{name}");
        if adapted.starts_with('{') {
            assert_eq!(answered.headers()[header::CONTENT_TYPE], "application/json", "{name}");
        }

        let others = server.send(write(method, path, &[])).await;
        assert_eq!((others.status().as_u16(), &others.body()[..]), (status, body.as_bytes()), "{name}");
        assert_eq!(own(others.headers()), own(answer(status, headers, body).headers()), "{name}");
    }
}

#[tokio::test]
async fn other_clients_and_other_answers_are_left_alone() {
    let long = format!(r#"{{"id":17,"text":"{}"}}"#, "x".repeat(2000));
    let gzip = [JSON[0], ("content-encoding", "gzip")];
    let mut cases: Vec<(u16, &[(&str, &str)], &str)> = vec![
        (201, &JSON, "[17]"),
        (201, &JSON, "17"),
        (201, &JSON, "{\"id\":17"),
        (201, &TEXT, "created"),
        (201, &TEXT, r#"{"id":17}"#),
        (201, &gzip, r#"{"id":17}"#),
        (201, &JSON, &long),
        (202, &JSON, r#"{"id":17}"#),
        (303, &PLACE, ""),
    ];
    cases.extend([400, 401, 403, 404, 409, 422, 429, 500, 503].map(|status| (status, &JSON[..], r#"{"id":17}"#)));
    let same = |answered: &Response<Bytes>, (status, headers, body): (u16, &[(&str, &str)], &str)| {
        assert_eq!((answered.status().as_u16(), &answered.body()[..]), (status, body.as_bytes()));
        assert_eq!(own(answered.headers()), own(answer(status, headers, body).headers()), "{status} {body}");
    };
    for case in cases {
        let (status, headers, body) = (case.0, case.1.to_owned(), case.2.to_owned());
        let headers: Vec<_> = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let server = server(&adapting(), move || {
            let headers: Vec<_> = headers.iter().map(|(name, value)| (&**name, &**value)).collect();
            answer(status, &headers, &body)
        });
        same(&server.send(write(Method::POST, "/events", &WIDGET)).await, case);
    }
    let created = (201, &JSON[..], r#"{"id":17}"#);
    let as_created = || answer(201, &JSON, r#"{"id":17}"#);
    let unadapted = server(&live(Entity::scheduler("/events")), as_created);
    same(&unadapted.send(write(Method::POST, "/events", &WIDGET)).await, created);
    let adapted = server(&adapting(), as_created);
    same(&adapted.send(write(Method::POST, "/events", &[("x-requested-with", "com.example.app")])).await, created);
    same(&adapted.send(write(Method::POST, "/elsewhere", &WIDGET)).await, created);
    same(&adapted.send(write(Method::GET, "/elsewhere", &WIDGET)).await, created);
    same(&adapted.send(write(Method::POST, "/events/7", &WIDGET)).await, created);
}

#[tokio::test]
async fn what_is_broadcast_comes_from_the_handlers_own_answer() {
    for (method, path, status, body) in [
        (Method::POST, "/events", 201, r#"{"id":17}"#),
        (Method::PUT, "/events/7", 204, ""),
        (Method::PUT, "/events/7", 201, ""),
        (Method::DELETE, "/events/7", 204, ""),
        (Method::POST, "/events", 201, r#"{"action":"error"}"#),
    ] {
        let mut all = Vec::new();
        for client in [&WIDGET[..], &[]] {
            let live = adapting();
            let server = server(&live, move || answer(status, &JSON, body));
            let mut page = server.subscribed().await;
            server.send(write(method.clone(), path, client)).await;
            all.push(page.received(&live).await);
        }
        assert_eq!(all[0], all[1], "{method} {status}");
        let expected = usize::from(!body.contains("error"));
        assert_eq!(all[0].len(), expected, "{method} {status}: {all:?}");
    }
}

#[tokio::test]
async fn headers_follow_the_new_body_and_those_of_the_row_stay() {
    let given = [
        JSON[0],
        ("etag", r#""v1""#),
        ("location", "/events/17"),
        ("last-modified", "Wed, 21 Oct 2015 07:28:00 GMT"),
        ("set-cookie", "a=b"),
        ("content-length", "9"),
        ("content-digest", "sha-256=:x:"),
        ("repr-digest", "sha-256=:x:"),
        ("digest", "sha-256=x"),
        ("content-md5", "x"),
        ("content-location", "/events/17"),
    ];
    let kept: Vec<&str> = ["content-type", "etag", "location", "last-modified", "set-cookie"].into();
    for (body, is_changed) in [(r#"{"id":17}"#, true), (r#"{"tid":1}"#, false)] {
        let server = server(&adapting(), move || answer(201, &given, body));
        let answered = server.send(write(Method::POST, "/events", &WIDGET)).await;
        assert_eq!(answered.status(), 200);
        assert_eq!(answered.headers()[header::CONTENT_LENGTH], answered.body().len().to_string());
        let names: Vec<String> = own(answered.headers()).iter().map(|(name, _)| name.to_string()).collect();
        let all = given.iter().map(|(name, _)| *name).filter(|name| *name != "content-length");
        let expected: Vec<&str> = if is_changed { kept.clone() } else { all.collect() };
        assert_eq!(names, expected, "{body}");
    }
}

#[tokio::test]
async fn nothing_of_a_body_that_204_forbids_is_sent() {
    let hidden = [JSON[0], ("content-length", "21"), ("etag", r#""v1""#)];
    let server = server(&adapting(), move || answer(204, &hidden, r#"{"id":17,"secret":17}"#));
    for (method, path, body) in [
        (Method::POST, "/events", r#"{"action":"inserted","tid":17}"#),
        (Method::PUT, "/events/7", ""),
        (Method::DELETE, "/events/7", ""),
    ] {
        let answered = server.send(write(method, path, &WIDGET)).await;
        assert_eq!((answered.status().as_u16(), &answered.body()[..]), (200, body.as_bytes()));
        assert_eq!(answered.headers()[header::CONTENT_LENGTH], body.len().to_string());
        assert_eq!(answered.headers().contains_key(header::CONTENT_TYPE), !body.is_empty());
        assert_eq!(answered.headers()[header::ETAG], r#""v1""#);
    }
}

#[tokio::test]
async fn a_body_with_trailers_keeps_its_form() {
    let server = server(&adapting(), || {
        let trailers = HeaderMap::from_iter([(HeaderName::from_static("content-digest"), "x".parse().unwrap())]);
        let frames = [Frame::data(Bytes::from_static(br#"{"id":17}"#)), Frame::trailers(trailers)];
        let body = StreamBody::new(stream::iter(frames.map(Ok))).boxed_unsync();
        Response::builder().status(201).header("trailer", "content-digest").body(body).unwrap()
    });
    let answered = server.send(write(Method::POST, "/events", &WIDGET)).await;
    assert_eq!((answered.status().as_u16(), &answered.body()[..]), (200, &br#"{"id":17}"#[..]));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_takes_too_long_is_left_alone() {
    let server = server(&adapting(), || {
        let pieces = stream::iter([r#"{"id""#, ":17}"]).then(|piece| async move {
            tokio::time::sleep(Duration::from_secs(4)).await;
            Ok(Frame::data(Bytes::from_static(piece.as_bytes())))
        });
        Response::builder().status(201).body(StreamBody::new(pieces).boxed_unsync()).unwrap()
    });
    let answered = server.send(write(Method::POST, "/events", &WIDGET)).await;
    assert_eq!((answered.status().as_u16(), &answered.body()[..]), (201, &br#"{"id":17}"#[..]));
}

#[tokio::test]
async fn a_handler_that_publishes_itself_has_its_answer_adapted_too() {
    for skips in [false, true] {
        let live = adapting();
        let server = Server::layered(&live.layer(), move |request: Request<RequestBody<Incoming>>| async move {
            let write = request.extensions().get::<LiveWrite>().expect("a watched write").clone();
            read(request).await.expect("a whole request");
            if skips {
                write.skip();
            } else {
                let event = json!({"id": 17, "start_date": "2025-04-21 10:00", "end_date": "2025-04-21 11:00"});
                write.publish(Change::add(&event).expect("an event with an id"));
            }
            answer(201, &JSON, r#"{"id":17}"#)
        });
        let mut page = server.subscribed().await;
        let answered = server.send(write(Method::POST, "/events", &WIDGET)).await;
        assert_eq!(
            (answered.status().as_u16(), &answered.body()[..]),
            (200, &br#"{"id":17,"action":"inserted","tid":17}"#[..])
        );
        assert_eq!(page.received(&live).await.len(), usize::from(!skips));
    }
}

#[tokio::test]
async fn the_log_names_no_answer_that_is_adapted() {
    for (status, headers, body, lines) in [
        (201, &JSON, r#"{"id":17}"#, 0),
        (201, &PLACE, "", 0),
        (201, &TEXT, "created 17", 1),
        (200, &TEXT, "created 17", 1),
    ] {
        let logs = Logs::capture();
        let place = [headers[0], PLACE[0]];
        let server = server(&adapting(), move || answer(status, &place, body));
        server.send(write(Method::POST, "/events", &WIDGET)).await;
        assert_eq!(logs.lines("WARN").len(), lines, "{status} {body}: {:?}", logs.lines("WARN"));
    }
}

#[tokio::test]
async fn creates_of_the_body_modes_gain_their_id() {
    let live = live(Entity::gantt_tasks("/data").body_modes().widget_answers());
    for (action, status, adapted) in [
        ("inserted", 201, r#"{"id":8,"action":"inserted","tid":8}"#),
        ("updated", 200, r#"{"id":8}"#),
        ("deleted", 200, r#"{"id":8}"#),
    ] {
        let server = server(&live, move || answer(status, &JSON, r#"{"id":8}"#));
        let body = json!({"id": 8, "action": action, "data": {}}).to_string();
        let request = Request::post("/data?editing=true&gantt_mode=tasks").header(WIDGET[0].0, WIDGET[0].1);
        let answered = server.send(request.body(body).unwrap()).await;
        assert_eq!((answered.status().as_u16(), &answered.body()[..]), (200, adapted.as_bytes()), "{action}");
    }
}
