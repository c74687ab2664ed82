//! What a handler publishes through `LiveWrite` replaces the automatic change.

use http::{Method, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use serde_json::{Value, json};
use tower_live_updates::{Change, ChangeKind, Delivery, Entity, LiveUpdates, LiveWrite, body::RequestBody};

use crate::support::{Page, Server, json as answer, live, read};

type Handle = fn(&LiveWrite);

/// A server whose handler publishes something and then answers with this status.
fn server_with(live: &LiveUpdates, handle: Handle, status: u16) -> Server {
    Server::layered(&live.layer(), move |request: Request<RequestBody<Incoming>>| async move {
        let write = request.extensions().get::<LiveWrite>().expect("a watched request").clone();
        read(request).await.expect("a whole request");
        handle(&write);
        answer(status, r#"{"action":"updated","tid":"7"}"#)
    })
}

async fn published_by(handle: Handle, status: u16) -> (Vec<Value>, LiveUpdates) {
    let live = live();
    let server = server_with(&live, handle, status);
    let mut page: Page = server.subscribed().await;
    let response = server.write(Method::PUT, "/events/7", r#"{"text":"sent"}"#).await;
    let body = if matches!(status, 204 | 304) { "" } else { r#"{"action":"updated","tid":"7"}"# };
    assert_eq!(
        (response.status().as_u16(), &response.body()[..]),
        (status, body.as_bytes()),
        "the answer is left alone"
    );
    (page.received(&live).await, live)
}

#[tokio::test]
async fn a_published_change_replaces_the_automatic_one() {
    let (received, live) =
        published_by(|write| write.publish(Change::update(&json!({"id": 7, "text": "stored"})).unwrap()), 200).await;
    assert_eq!(received, [json!({"type": "update-event", "event": {"id": 7, "text": "stored"}})]);
    assert_eq!(live.stats().changes_published, 1);
}

#[tokio::test]
async fn several_changes_are_broadcast_in_the_order_they_were_published() {
    let handle: Handle = |write| {
        for id in [18, 19] {
            write.publish(Change::delete(id).unwrap());
        }
        write.clone().publish(Change::delete("17").unwrap());
        write.publish(Change::update(&json!({"id": 7})).unwrap());
    };
    let (received, _) = published_by(handle, 200).await;
    let outline: Vec<(&Value, &Value)> = received.iter().map(|value| (&value["type"], &value["event"]["id"])).collect();
    let (delete, update) = (json!("delete-event"), json!("update-event"));
    assert_eq!(
        outline,
        [(&delete, &json!("18")), (&delete, &json!("19")), (&delete, &json!("17")), (&update, &json!(7))]
    );
}

#[tokio::test]
async fn a_skipped_write_is_not_broadcast() {
    let (received, live) = published_by(LiveWrite::skip, 200).await;
    assert!(received.is_empty(), "{received:?}");
    assert_eq!(live.stats().writes_unpublished, 0, "nothing is wrong with that");
}

#[tokio::test]
async fn a_published_change_is_broadcast_although_the_write_is_skipped() {
    let handle: Handle = |write| {
        write.publish(Change::delete(9).unwrap());
        write.skip();
    };
    assert_eq!(published_by(handle, 200).await.0, [json!({"type": "delete-event", "event": {"id": "9"}})]);
}

#[tokio::test]
async fn only_a_success_publishes_what_the_handler_named() {
    let handle: Handle = |write| write.publish(Change::delete(9).unwrap());
    for status in [302, 304, 400, 404, 409, 500, 503] {
        assert!(published_by(handle, status).await.0.is_empty(), "{status}");
    }
    for status in [200, 201, 202, 204, 207] {
        assert_eq!(published_by(handle, status).await.0.len(), 1, "{status}");
    }
}

#[tokio::test]
async fn a_deleted_series_takes_its_exceptions_along() {
    let live = live();
    let server = Server::layered(&live.layer(), |request: Request<RequestBody<Incoming>>| async move {
        let write = request.extensions().get::<LiveWrite>().expect("a watched request").clone();
        for id in ["18", "19", "17"] {
            write.publish(Change::delete(id).unwrap());
        }
        Response::new(Full::<bytes::Bytes>::default())
    });
    let mut page = server.subscribed().await;
    server.write(Method::DELETE, "/events/17", "").await;
    let received = page.received(&live).await;
    let ids: Vec<&str> = received.iter().map(|value| value["event"]["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["18", "19", "17"], "and the series itself only once");
}

#[tokio::test]
async fn a_change_that_would_break_pages_is_held_back_with_all_published_beside_it() {
    let handle: Handle = |write| {
        write.publish(Change::delete(9).unwrap());
        write.publish(Change::add(&json!({"id": 8, "text": "an event without dates"})).unwrap());
    };
    let (received, live) = published_by(handle, 200).await;
    assert!(received.is_empty(), "{received:?}");
    assert_eq!((live.stats().writes_unpublished, live.stats().changes_published), (1, 0));
}

#[tokio::test]
async fn an_action_of_the_applications_own_is_broadcast_as_what_it_does() {
    let events = Entity::scheduler("/events").route(Method::POST, "/events/{id}/cancel", ChangeKind::Update);
    let live =
        LiveUpdates::builder("/api/v1").delivery(Delivery::Plain).tokens(["demo"]).entity(events).build().unwrap();
    let server = server_with(&live, |write| write.publish(Change::delete(7).unwrap()), 200);
    let mut page = server.subscribed().await;
    server.write(Method::POST, "/events/7/cancel", "").await;
    assert_eq!(page.received(&live).await, [json!({"type": "delete-event", "event": {"id": "7"}})]);
}

#[tokio::test]
async fn requests_that_are_not_watched_carry_no_handle() {
    let live = live();
    let server = Server::layered(&live.layer(), |request: Request<RequestBody<Incoming>>| async move {
        answer(200, if request.extensions().get::<LiveWrite>().is_some() { "true" } else { "false" })
    });
    for (method, path, watched) in
        [(Method::GET, "/events", "false"), (Method::POST, "/other", "false"), (Method::POST, "/events", "true")]
    {
        assert_eq!(server.write(method.clone(), path, "").await.body(), watched, "{method} {path}");
    }
}
