//! What a handler says through `LiveWrite` replaces what the layer would have told.

use http::{Method, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use serde_json::{Value, json};
use tower_live_updates::{Change, ChangeKind, Delivery, Entity, LiveUpdates, LiveWrite, body::RequestBody};

use crate::support::{Page, Server, json as answer, live, read};

type Say = fn(&LiveWrite);

/// A server whose handler says something and then answers with this status.
fn saying(live: &LiveUpdates, say: Say, status: u16) -> Server {
    Server::layered(&live.layer(), move |request: Request<RequestBody<Incoming>>| async move {
        let write = request.extensions().get::<LiveWrite>().expect("a watched request").clone();
        read(request).await.expect("a whole request");
        say(&write);
        answer(status, r#"{"action":"updated","tid":"7"}"#)
    })
}

async fn told_by(say: Say, status: u16) -> (Vec<Value>, LiveUpdates) {
    let live = live();
    let server = saying(&live, say, status);
    let mut page: Page = server.subscribed().await;
    let response = server.write(Method::PUT, "/events/7", r#"{"text":"sent"}"#).await;
    let body = if matches!(status, 204 | 304) { "" } else { r#"{"action":"updated","tid":"7"}"# };
    assert_eq!(
        (response.status().as_u16(), &response.body()[..]),
        (status, body.as_bytes()),
        "the answer is left alone"
    );
    (page.told(&live).await, live)
}

#[tokio::test]
async fn a_published_change_is_told_instead_of_the_automatic_one() {
    let (told, live) =
        told_by(|write| write.publish(Change::update(&json!({"id": 7, "text": "stored"})).unwrap()), 200).await;
    assert_eq!(told, [json!({"type": "update-event", "event": {"id": 7, "text": "stored"}})]);
    assert_eq!(live.stats().changes_published, 1);
}

#[tokio::test]
async fn several_changes_are_told_in_the_order_they_were_published() {
    let say: Say = |write| {
        for id in [18, 19] {
            write.publish(Change::delete(id).unwrap());
        }
        write.clone().publish(Change::delete("17").unwrap());
        write.publish(Change::update(&json!({"id": 7})).unwrap());
    };
    let (told, _) = told_by(say, 200).await;
    let outline: Vec<(&Value, &Value)> = told.iter().map(|value| (&value["type"], &value["event"]["id"])).collect();
    let (delete, update) = (json!("delete-event"), json!("update-event"));
    assert_eq!(
        outline,
        [(&delete, &json!("18")), (&delete, &json!("19")), (&delete, &json!("17")), (&update, &json!(7))]
    );
}

#[tokio::test]
async fn a_skipped_write_is_not_told() {
    let (told, live) = told_by(LiveWrite::skip, 200).await;
    assert!(told.is_empty(), "{told:?}");
    assert_eq!(live.stats().writes_unpublished, 0, "nothing is wrong with that");
}

#[tokio::test]
async fn what_is_published_is_told_although_the_write_is_skipped() {
    let say: Say = |write| {
        write.publish(Change::delete(9).unwrap());
        write.skip();
    };
    assert_eq!(told_by(say, 200).await.0, [json!({"type": "delete-event", "event": {"id": "9"}})]);
}

#[tokio::test]
async fn only_a_success_tells_what_the_handler_said() {
    let say: Say = |write| write.publish(Change::delete(9).unwrap());
    for status in [302, 304, 400, 404, 409, 500, 503] {
        assert!(told_by(say, status).await.0.is_empty(), "{status}");
    }
    for status in [200, 201, 202, 204, 207] {
        assert_eq!(told_by(say, status).await.0.len(), 1, "{status}");
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
    let told = page.told(&live).await;
    let ids: Vec<&str> = told.iter().map(|value| value["event"]["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["18", "19", "17"], "and the series itself only once");
}

#[tokio::test]
async fn what_would_break_pages_is_held_back_with_everything_said_beside_it() {
    let say: Say = |write| {
        write.publish(Change::delete(9).unwrap());
        write.publish(Change::add(&json!({"id": 8, "text": "an event without dates"})).unwrap());
    };
    let (told, live) = told_by(say, 200).await;
    assert!(told.is_empty(), "{told:?}");
    assert_eq!((live.stats().writes_unpublished, live.stats().changes_published), (1, 0));
}

#[tokio::test]
async fn an_action_of_the_applications_own_is_told_as_what_it_does() {
    let events = Entity::scheduler("/events").route(Method::POST, "/events/{id}/cancel", ChangeKind::Update);
    let live =
        LiveUpdates::builder("/api/v1").delivery(Delivery::Plain).tokens(["demo"]).entity(events).build().unwrap();
    let server = saying(&live, |write| write.publish(Change::delete(7).unwrap()), 200);
    let mut page = server.subscribed().await;
    server.write(Method::POST, "/events/7/cancel", "").await;
    assert_eq!(page.told(&live).await, [json!({"type": "delete-event", "event": {"id": "7"}})]);
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
