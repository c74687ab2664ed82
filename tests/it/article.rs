//! The vendor's article about live updates, replayed with our server: each of its requests and frames, in its order.
//!
//! <https://docs.dhtmlx.com/scheduler/guides/multiuser-live-updates/>

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use serde_json::{Value, json};
use tower_live_updates::{Delivery, Entity, LiveUpdates, body::RequestBody};

use crate::support::{
    End, Server, json as answer,
    raw::{FIN, Raw, TEXT, text, upgrade_request},
    read,
};

const TOKEN: &str = "token";
const SOCKET: &str = "/api/v1?token=token&ws=1";

/// The article's `crud`: it keeps what it is given and makes ids.
#[derive(Clone, Default)]
struct Crud(Arc<Mutex<BTreeMap<String, Value>>>);

impl Crud {
    fn insert(&self, mut event: Value) -> Value {
        let mut rows = self.0.lock().unwrap();
        let id = (rows.len() + 1).to_string();
        event["id"] = json!(id);
        rows.insert(id, event.clone());
        event
    }

    fn update(&self, id: &str, event: Value) {
        self.0.lock().unwrap().insert(id.to_owned(), event);
    }

    fn delete(&self, id: &str) {
        self.0.lock().unwrap().remove(id);
    }
}

/// The article's three REST handlers, to the letter: bodies wrapped in `event`, a create answered with its id alone.
/// None of them broadcasts.
async fn rest(crud: Crud, request: Request<RequestBody<Incoming>>) -> Response<Full<Bytes>> {
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let body: Value = serde_json::from_slice(&read(request).await.unwrap()).unwrap_or_default();
    let id = path.strip_prefix("/events/").unwrap_or_default();
    match method {
        Method::POST => {
            let inserted = crud.insert(body["event"].clone());
            answer(200, &json!({"id": inserted["id"]}).to_string())
        }
        Method::PUT => {
            crud.update(id, body["event"].clone());
            Response::new(Full::default())
        }
        Method::DELETE => {
            crud.delete(id);
            Response::new(Full::default())
        }
        _ => answer(404, "{}"),
    }
}

/// The article's back end, with one line for everything it does by hand about live updates.
fn backend() -> (LiveUpdates, Server) {
    let live = LiveUpdates::builder("/api/v1")
        .delivery(Delivery::Plain)
        .tokens([TOKEN])
        .entity(Entity::scheduler("/events"))
        .entity(Entity::new("calendars"))
        .build()
        .unwrap();
    let crud = Crud::default();
    let server = Server::layered(&live.layer(), move |request| rest(crud.clone(), request));
    (live, server)
}

/// The next message to a page, exactly as it stands on the wire.
async fn frame(page: &mut Raw) -> String {
    let (first, payload) = page.frame().await.expect("a frame");
    assert_eq!(first, FIN | TEXT, "one whole text message");
    String::from_utf8(payload).unwrap()
}

async fn started(server: &Server) -> Raw {
    let mut page = Raw::new(server.connect());
    page.upgrade(SOCKET).await;
    frame(&mut page).await;
    page
}

async fn subscribed(server: &Server, name: &str) -> Raw {
    let mut page = started(server).await;
    page.send_text(&json!({"action": "subscribe", "name": name}).to_string()).await;
    page.barrier().await;
    page
}

// "Principle": every user sees what the others do.

#[tokio::test]
async fn the_workflow_from_one_users_change_to_every_users_screen() {
    let (live, server) = backend();
    // The client connects when the Scheduler starts ...
    assert_eq!(server.handshake(TOKEN).await.status(), 200);
    let mut pages = [subscribed(&server, "events").await, subscribed(&server, "events").await];
    // ... a user's change goes over REST ...
    assert_eq!(server.write(Method::DELETE, "/events/7", "").await.status(), 200);
    // ... and the server broadcasts it to all connected clients once it has been processed.
    for page in &mut pages {
        let received =
            r#"{"action":"event","body":{"name":"events","value":{"type":"delete-event","event":{"id":"7"}}}}"#;
        assert_eq!(frame(page).await, received);
    }
    assert_eq!(live.stats().changes_published, 1);
}

// "Front-End Integration": a DataProcessor in REST-JSON mode, which needs no token to save.

#[tokio::test]
async fn saving_asks_for_no_token() {
    let (_, server) = backend();
    for token in ["", "wrong"] {
        let request =
            Request::put("/events/1").header("remote-token", token).header("content-type", "application/json");
        let request = request.body(r#"{"event":{"text":"x"}}"#).unwrap();
        assert_eq!(server.send(request).await.status(), 200, "that is the application's to decide");
    }
}

// "1. Handshake Request"

#[tokio::test]
async fn the_handshake_is_answered_with_the_three_fields_of_the_article() {
    let (_, server) = backend();
    let request = Request::get("/api/v1").header("Remote-Token", TOKEN).body("").unwrap();
    let response = server.send(request).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.body(), r#"{"api":{},"data":{},"websocket":true}"#);
}

#[tokio::test]
async fn a_token_that_is_missing_or_wrong_is_forbidden() {
    let (_, server) = backend();
    let missing = server.send(Request::get("/api/v1").body("").unwrap()).await;
    let wrong = server.handshake("wrong").await;
    for response in [missing, wrong] {
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
        assert_eq!(response.body(), r#"{"error":"Forbidden"}"#);
    }
}

// "2. WebSocket Connection"

#[tokio::test]
async fn the_socket_at_the_endpoint_with_token_and_ws_begins_with_start() {
    let (_, server) = backend();
    let mut page = Raw::new(server.connect());
    page.upgrade(SOCKET).await;
    let start: Value = serde_json::from_str(&frame(&mut page).await).unwrap();
    let id = start["body"].as_str().expect("a connection id").to_owned();
    assert_eq!(start, json!({"action": "start", "body": id}));
    assert!(!id.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_socket_whose_token_is_missing_or_wrong_is_closed_with_1008_unauthorized() {
    let (_, server) = backend();
    for address in ["/api/v1?ws=1", "/api/v1?token=&ws=1", "/api/v1?token=wrong&ws=1"] {
        let mut page = Raw::new(server.connect());
        page.upgrade(address).await;
        // Without a start before it: `end` takes nothing else.
        assert_eq!(page.end().await, End::Close(1008, "Unauthorized".into()), "{address}");
    }
}

// "3. Subscription"

#[tokio::test]
async fn a_page_receives_an_entity_from_subscribe_to_unsubscribe() {
    let (live, server) = backend();
    let mut page = started(&server).await;
    live.send("events", "too early").unwrap();
    page.send_text(r#"{"action":"subscribe","name":"events"}"#).await;
    page.barrier().await;
    live.send("events", "received").unwrap();
    assert_eq!(frame(&mut page).await, r#"{"action":"event","body":{"name":"events","value":"received"}}"#);
    page.send_text(r#"{"action":"unsubscribe","name":"events"}"#).await;
    page.barrier().await;
    live.send("events", "too late").unwrap();
    page.barrier().await;
    assert_eq!(live.stats().subscriptions, 0);
}

#[tokio::test]
async fn each_widget_of_an_application_receives_its_own_entities_only() {
    let (live, server) = backend();
    let mut scheduler = subscribed(&server, "events").await;
    let mut other = subscribed(&server, "calendars").await;
    live.send("events", &1).unwrap();
    live.send("calendars", &2).unwrap();
    live.send("events", &3).unwrap();
    let value = |number| format!(r#"{{"action":"event","body":{{"name":"events","value":{number}}}}}"#);
    assert_eq!([frame(&mut scheduler).await, frame(&mut scheduler).await], [value(1), value(3)]);
    assert_eq!(frame(&mut other).await, value(2).replace("events", "calendars"));
}

#[tokio::test]
async fn a_message_that_cannot_be_parsed_ends_nothing() {
    let (live, server) = backend();
    let mut page = subscribed(&server, "events").await;
    page.send_text("{ no JSON").await;
    page.barrier().await;
    live.send("events", "received").unwrap();
    assert_eq!(frame(&mut page).await, r#"{"action":"event","body":{"name":"events","value":"received"}}"#);
    assert_eq!(live.stats().messages_ignored, 1);
}

// "4. Broadcasting Updates", with the article's own handlers.

#[tokio::test]
async fn an_event_created_is_broadcast_with_the_id_of_the_store() {
    let (_, server) = backend();
    let mut page = subscribed(&server, "events").await;
    let body = r#"{"event":{"text":"New","start_date":"2025-04-21 10:00","end_date":"2025-04-21 11:00"}}"#;
    let response = server.write(Method::POST, "/events", body).await;
    assert_eq!(
        (response.status().as_u16(), &response.body()[..]),
        (200, &br#"{"id":"1"}"#[..]),
        "as the article answers"
    );
    let received: Value = serde_json::from_str(&frame(&mut page).await).unwrap();
    let event = json!({"id": "1", "text": "New", "start_date": "2025-04-21 10:00", "end_date": "2025-04-21 11:00"});
    let value = json!({"type": "add-event", "event": event});
    assert_eq!(received, json!({"action": "event", "body": {"name": "events", "value": value}}));
}

#[tokio::test]
async fn an_event_updated_is_broadcast_with_the_object_of_the_request() {
    let (_, server) = backend();
    let mut page = subscribed(&server, "events").await;
    let response = server.write(Method::PUT, "/events/7", r#"{"event":{"id":"7","text":"Moved"}}"#).await;
    assert_eq!((response.status().as_u16(), response.body().len()), (200, 0), "as the article answers");
    let value = r#"{"type":"update-event","event":{"id":"7","text":"Moved"}}"#;
    assert_eq!(frame(&mut page).await, format!(r#"{{"action":"event","body":{{"name":"events","value":{value}}}}}"#));
}

#[tokio::test]
async fn an_event_deleted_is_broadcast_with_its_id_alone() {
    let (_, server) = backend();
    let mut page = subscribed(&server, "events").await;
    let response = server.write(Method::DELETE, "/events/7", "").await;
    assert_eq!((response.status().as_u16(), response.body().len()), (200, 0), "as the article answers");
    assert_eq!(
        frame(&mut page).await,
        r#"{"action":"event","body":{"name":"events","value":{"type":"delete-event","event":{"id":"7"}}}}"#
    );
}

#[tokio::test]
async fn broadcasts_go_to_open_subscribed_sockets_only() {
    let (live, server) = backend();
    let mut subscribed_page = subscribed(&server, "events").await;
    let mut silent = started(&server).await;
    drop(subscribed(&server, "events").await);
    server.write(Method::DELETE, "/events/7", "").await;
    assert!(frame(&mut subscribed_page).await.contains("delete-event"));
    // Its next word is the answer to a ping, so nothing came before.
    silent.barrier().await;
    assert_eq!(live.stats().messages_ignored, 0);
}

// "Custom Handlers"

#[tokio::test]
async fn a_custom_action_on_events_reaches_their_handlers() {
    let (live, server) = backend();
    let mut page = subscribed(&server, "events").await;
    live.send("events", &json!({"type": "custom-action", "event": {"id": 5}})).unwrap();
    let received: Value = serde_json::from_str(&frame(&mut page).await).unwrap();
    let value = json!({"type": "custom-action", "event": {"id": 5}});
    assert_eq!(received, json!({"action": "event", "body": {"name": "events", "value": value}}));
}

#[tokio::test]
async fn custom_entities_are_subscribed_and_broadcast_like_any_other() {
    let (live, server) = backend();
    let mut page = Raw::new(server.connect());
    // A page whose only handler is for calendars subscribes to them first.
    page.write(upgrade_request(SOCKET, &[]).as_bytes()).await.unwrap();
    assert_eq!(page.head().await.status(), 101);
    assert!(frame(&mut page).await.starts_with(r#"{"action":"start","body":""#));
    page.write(&text(r#"{"action":"subscribe","name":"calendars"}"#)).await.unwrap();
    page.barrier().await;
    live.send("calendars", &json!({"type": "custom-action", "value": "archived"})).unwrap();
    let received: Value = serde_json::from_str(&frame(&mut page).await).unwrap();
    let value = json!({"type": "custom-action", "value": "archived"});
    assert_eq!(received, json!({"action": "event", "body": {"name": "calendars", "value": value}}));
}
