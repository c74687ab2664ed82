//! Which requests are writes, of which entity, and of which object.

use http::{Method, Request, header};
use serde_json::{Value, json};
use tower_live_updates::{ChangeKind, Delivery, Entity, LiveUpdates};

use crate::support::{Page, Server, TOKEN, json as answer, live, read};

fn build(entities: impl IntoIterator<Item = Entity>) -> LiveUpdates {
    let builder = LiveUpdates::builder("/api/v1").delivery(Delivery::Plain).tokens([TOKEN]);
    entities
        .into_iter()
        .fold(builder, tower_live_updates::LiveUpdatesBuilder::entity)
        .build()
        .expect("a good configuration")
}

fn server(live: &LiveUpdates) -> Server {
    Server::layered(&live.layer(), |request| async {
        read(request).await.expect("a whole request");
        answer(200, r#"{"tid":"17"}"#)
    })
}

/// The entity, type and id of everything sent to one socket that has subscribed everything.
async fn outline(page: &mut Page, live: &LiveUpdates) -> Vec<(String, String, Value)> {
    live.send("end", "marker").expect("a configured entity");
    let mut received = Vec::new();
    loop {
        let message = page.message().await.expect("an open socket");
        let (name, value) = (message["body"]["name"].as_str().unwrap().to_owned(), &message["body"]["value"]);
        if name == "end" {
            return received;
        }
        let kind = value["type"].as_str().unwrap();
        let (_, key) = kind.split_once('-').unwrap();
        received.push((name, kind.to_owned(), value[key]["id"].clone()));
    }
}

#[tokio::test]
async fn each_entity_is_broadcast_under_its_own_name_with_its_own_payload_key() {
    let live = build([
        Entity::scheduler("/events").route(Method::POST, "/events/{id}/cancel", ChangeKind::Update).route(
            Method::POST,
            "/events/{id}/purge",
            ChangeKind::Delete,
        ),
        Entity::new("tasks").payload_key("task").collection("/data/task"),
        Entity::new("links").payload_key("link").collection("/data/link"),
        Entity::new("cards").payload_key("card").collection("/boards/{board}/cards/"),
        Entity::new("files").payload_key("file").route(Method::PUT, "/files/{*id}", ChangeKind::Update),
        Entity::new("end"),
    ]);
    let server = server(&live);
    let mut page = server.page().await;
    for entity in ["events", "tasks", "links", "cards", "files", "end"] {
        page.subscribe(entity).await;
    }
    for (method, path, expected) in [
        (Method::POST, "/data/task", Some(("tasks", "add-task", "17"))),
        (Method::PUT, "/data/task/3", Some(("tasks", "update-task", "3"))),
        (Method::DELETE, "/data/task/3", Some(("tasks", "delete-task", "3"))),
        (Method::PUT, "/data/link/3", Some(("links", "update-link", "3"))),
        (Method::DELETE, "/data/link/3", Some(("links", "delete-link", "3"))),
        (Method::POST, "/boards/9/cards", Some(("cards", "add-card", "17"))),
        (Method::PATCH, "/boards/9/cards/4", Some(("cards", "update-card", "4"))),
        (Method::DELETE, "/boards/9/cards/4/", Some(("cards", "delete-card", "4"))),
        (Method::PUT, "/files/a/b.txt", Some(("files", "update-file", "a/b.txt"))),
        (Method::POST, "/events/7/cancel", Some(("events", "update-event", "7"))),
        (Method::POST, "/events/7/purge", Some(("events", "delete-event", "7"))),
        (Method::PUT, "/events/7/cancel", None),
        (Method::POST, "/events/7", None),
        (Method::PUT, "/events", None),
        (Method::DELETE, "/events", None),
        (Method::PUT, "/data/task/3/4", None),
        (Method::PUT, "/data/tasks/3", None),
        (Method::PUT, "/Events/7", None),
        (Method::PUT, "//events/7", None),
        (Method::POST, "/boards//cards", None),
        (Method::POST, "/api/v2", None),
    ] {
        server.write(method.clone(), path, r#"{"text":"a"}"#).await;
        let received = outline(&mut page, &live).await;
        let expected = expected.map(|(name, kind, id)| (name.to_owned(), kind.to_owned(), json!(id)));
        assert_eq!(received, Vec::from_iter(expected), "{method} {path}");
    }
}

async fn broadcast_for(request: Request<&'static str>) -> Vec<Value> {
    let live = live();
    let server = server(&live);
    let mut page = server.subscribed().await;
    assert_eq!(server.send(request).await.status(), 200);
    page.received(&live).await
}

#[tokio::test]
async fn ids_are_text_decoded_once() {
    for (path, id) in [
        ("/events/1234567890123456789", "1234567890123456789"),
        ("/events/007", "007"),
        ("/events/ID:1795560673191", "ID:1795560673191"),
        ("/events/a%2Fb", "a/b"),
        ("/events/%31%37", "17"),
        ("/events/%C3%A9%20x", "é x"),
        ("/events/a%252Fb", "a%2Fb"),
        ("/events/100%25", "100%"),
        ("/events/a+b", "a+b"),
        ("/events/a%2Bb", "a+b"),
        ("/%65vents/7", "7"),
        ("/events/7/", "7"),
        ("/events/a;b=c", "a;b=c"),
        ("/events/%22%5C", "\"\\"),
    ] {
        let received = broadcast_for(Request::put(path).body(r#"{"text":"a"}"#).unwrap()).await;
        assert_eq!(received, [json!({"type": "update-event", "event": {"text": "a", "id": id}})], "{path}");
        let received = broadcast_for(Request::delete(path).body("").unwrap()).await;
        assert_eq!(received, [json!({"type": "delete-event", "event": {"id": id}})], "{path}");
    }
}

#[tokio::test]
async fn a_number_in_the_object_keeps_its_digits() {
    let received =
        broadcast_for(Request::put("/events/12345678901234567890").body(r#"{"id":12345678901234567890}"#).unwrap())
            .await;
    assert_eq!(received[0]["event"]["id"], json!(12345678901234567890_u64));
}

#[tokio::test]
async fn a_query_changes_nothing() {
    for query in ["?id=8", "?editing=true&id=8&dhx_user=5", "?", "?a=/events/9", "?_method=DELETE", "?token=x&ws=1"] {
        let path = format!("/events/7{query}");
        let received = broadcast_for(Request::put(path).body(r#"{"text":"a"}"#).unwrap()).await;
        assert_eq!(received, [json!({"type": "update-event", "event": {"text": "a", "id": "7"}})], "{query}");
    }
    let body = r#"{"text":"a","start_date":"2025-04-21","end_date":"2025-04-22"}"#;
    let received = broadcast_for(Request::post("/events?editing=true&id=9").body(body).unwrap()).await;
    assert_eq!((&received[0]["type"], &received[0]["event"]["id"]), (&json!("add-event"), &json!("17")));
}

#[tokio::test]
async fn a_patch_is_broadcast_as_the_part_it_is() {
    let request = Request::patch("/events/7").header(header::CONTENT_TYPE, "application/merge-patch+json");
    let received = broadcast_for(request.body(r#"{"text":"b"}"#).unwrap()).await;
    assert_eq!(received, [json!({"type": "update-event", "event": {"text": "b", "id": "7"}})]);
}

#[tokio::test]
async fn the_method_is_the_requests_own_whatever_a_header_claims() {
    for header in ["x-http-method-override", "x-http-method", "x-method-override"] {
        let received =
            broadcast_for(Request::put("/events/7").header(header, "DELETE").body(r#"{"text":"a"}"#).unwrap()).await;
        assert_eq!(received[0]["type"], "update-event", "{header}");
        let received = broadcast_for(Request::get("/events/7").header(header, "DELETE").body("").unwrap()).await;
        assert!(received.is_empty(), "{header}");
    }
}

#[tokio::test]
async fn an_absolute_address_is_matched_by_its_path() {
    let received = broadcast_for(Request::delete("http://live.example/events/7").body("").unwrap()).await;
    assert_eq!(received, [json!({"type": "delete-event", "event": {"id": "7"}})]);
}

#[tokio::test]
async fn slashes_at_the_end_of_a_route_or_a_request_make_no_difference() {
    for collection in ["/events", "/events/"] {
        let live = build([Entity::new("events").payload_key("event").collection(collection)]);
        let server = server(&live);
        let mut page = server.subscribed().await;
        for path in ["/events", "/events/"] {
            server.write(Method::POST, path, r#"{"text":"a"}"#).await;
        }
        assert_eq!(page.received(&live).await.len(), 2, "{collection}");
    }
}
