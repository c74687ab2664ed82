//! Tombstones: a deletion stays in force until something shows that the row exists again. Most back ends answer an
//! update of a row that is gone with 200.

use http::{Method, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use serde_json::json;
use tower_live_updates::{Change, LiveUpdates, body::RequestBody};

use crate::support::{
    Server,
    client::{Client, Transport, added, patient, publish, wait},
    full, json, read, usual,
};

const NOTHING: [&str; 0] = [];
const DRAGGED: &str = r#"{"text":"dragged","start_date":"2026-05-14 09:00","end_date":"2026-05-14 10:00"}"#;

fn kinds<'h>(received: &'h [String], id: &str) -> Vec<&'h str> {
    let of_it = received.iter().filter(|line| line.split(' ').nth(1) == Some(id));
    // Around a deletion there are updates without a state.
    let states = of_it.filter(|line| line.starts_with("delete ") || line.split(' ').count() > 2);
    states.filter(|line| !line.ends_with(" ordinary")).map(|line| line.split(' ').next().unwrap()).collect()
}

/// The server of pages that have an event 7, before it is deleted and another page drags it.
async fn serve(live: &LiveUpdates) -> Server {
    let server = Server::layered(&live.layer(), usual);
    wait(100.0).await;
    publish(live, [added(7, "a")]);
    wait(100.0).await;
    server
}

#[tokio::test(start_paused = true)]
async fn a_deletion_is_what_is_replayed_and_resent_whatever_is_updated_after_it() {
    for method in [Method::PUT, Method::PATCH] {
        let live = patient().build().unwrap();
        let server = serve(&live).await;
        let mut open = Client::load(&server, Transport::Tcp).await.open().await;
        open.received_in(20.0).await;
        server.write(Method::DELETE, "/events/7", "").await;
        assert_eq!(server.write(method.clone(), "/events/7", DRAGGED).await.status(), 200);
        assert_eq!(kinds(&open.received().await, "7"), ["delete", "update"], "{method}: live it may go out");
        let mut late = Client::load(&server, Transport::Tcp).await.open().await;
        let received = late.received_in(1000.0).await;
        assert!(
            kinds(&received, "7").len() > 2 && kinds(&received, "7").iter().all(|kind| *kind == "delete"),
            "{received:?}"
        );
        let received = open.received_in(1.0).await;
        assert!(
            kinds(&received, "7").len() > 2 && kinds(&received, "7").iter().all(|kind| *kind == "delete"),
            "{received:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_page_that_resumes_receives_the_deletion() {
    let live = patient().build().unwrap();
    let server = serve(&live).await;
    let page = Client::load(&server, Transport::Tcp).await;
    let mut tab = page.open().await;
    tab.received_in(20.0).await;
    tab.cut(&live).await;
    server.write(Method::DELETE, "/events/7", "").await;
    server.write(Method::PUT, "/events/7", DRAGGED).await;
    let received = page.open().await.received_in(20.0).await;
    assert!(
        !kinds(&received, "7").is_empty() && kinds(&received, "7").iter().all(|kind| *kind == "delete"),
        "{received:?}"
    );
}

/// Answers an update with the action that the request's path names.
async fn honest(request: Request<RequestBody<Incoming>>) -> Response<Full<bytes::Bytes>> {
    let answer = request.uri().query().map(str::to_owned);
    let _ = read(request).await;
    match answer.as_deref() {
        Some("created") => json(201, "{}"),
        Some("inserted") => json(200, r#"{"action":"inserted","tid":"7"}"#),
        _ => {
            let mut response = Response::new(full("{}"));
            response.headers_mut().insert("content-type", "application/json".parse().unwrap());
            response
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_response_that_restores_the_object_removes_the_tombstone() {
    for (path, is_back) in [("/events/7?created", true), ("/events/7?inserted", true), ("/events/7", false)] {
        let live = patient().build().unwrap();
        let server = Server::layered(&live.layer(), honest);
        wait(100.0).await;
        publish(&live, [added(7, "a")]);
        server.write(Method::DELETE, "/events/7", "").await;
        server.write(Method::PUT, path, DRAGGED).await;
        let received = Client::load(&server, Transport::Tcp).await.open().await.received_in(20.0).await;
        assert_eq!(kinds(&received, "7").contains(&"add"), is_back, "{path}: {received:?}");
        assert_eq!(kinds(&received, "7").contains(&"delete"), !is_back, "{path}: {received:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_application_adds_is_back() {
    let live = patient().build().unwrap();
    let server = serve(&live).await;
    server.write(Method::DELETE, "/events/7", "").await;
    publish(&live, [Change::update(&json!({"id": 7, "text": "b"})).unwrap()]);
    let received = Client::load(&server, Transport::Tcp).await.open().await.received_in(20.0).await;
    assert!(kinds(&received, "7").iter().all(|kind| *kind == "delete"), "an update alone is no proof: {received:?}");
    publish(&live, [added(7, "back")]);
    let received = Client::load(&server, Transport::Tcp).await.open().await.received_in(20.0).await;
    assert!(!kinds(&received, "7").contains(&"delete") && kinds(&received, "7").contains(&"add"), "{received:?}");
}

#[tokio::test(start_paused = true)]
async fn ids_that_cost_too_much_memory_are_not_remembered() {
    let live = patient().build().unwrap();
    let server = Server::layered(&live.layer(), usual);
    wait(100.0).await;
    let mut tab = Client::load(&server, Transport::Tcp).await.open().await;
    for number in 0..100 {
        let id = format!("{number:02}{}", "%01".repeat(254));
        assert_eq!(server.write(Method::DELETE, &format!("/events/{id}"), "").await.status(), 200);
    }
    assert_eq!(tab.received_in(40.0).await, NOTHING);
    assert_eq!((live.stats().writes_unpublished, live.stats().log_records), (100, 0));
}
