//! An object does not move to another scope by itself, whatever a page claims of it.

use std::{
    convert::Infallible,
    sync::atomic::{AtomicU64, Ordering},
};

use http::{Method, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use serde_json::{Value, json};
use tower_live_updates::{
    AuthError, AuthRequest, Change, ConfigError, Entity, Identity, LiveUpdates, LiveWrite, body::RequestBody,
};

use crate::support::{Page, Server, json as answer, read, usual};

async fn by_token((): (), request: AuthRequest) -> Result<Identity, AuthError> {
    Ok(Identity::new("user").with_scope(request.token()))
}

fn event(id: u32, text: &str) -> Value {
    json!({"id": id, "text": text, "start_date": "2026-11-26 09:00", "end_date": "2026-11-26 10:00"})
}

fn live(entity: Entity) -> LiveUpdates {
    LiveUpdates::builder("/api/v1").authenticate_fn((), by_token).entity(entity).build().unwrap()
}

async fn pages(server: &Server) -> [Page; 2] {
    let mut pages = [
        server.page_at("/api/v1?token=north&ws=1").await.unwrap(),
        server.page_at("/api/v1?token=south&ws=1").await.unwrap(),
    ];
    for page in &mut pages {
        page.subscribe("events").await;
    }
    pages
}

/// What a page has received until now.
async fn received_by(page: &mut Page, live: &LiveUpdates) -> Vec<Value> {
    static MARKERS: AtomicU64 = AtomicU64::new(0);
    let marker = MARKERS.fetch_add(1, Ordering::Relaxed);
    live.send_to("events", ["north", "south"], &json!({"type": "marker", "number": marker})).unwrap();
    let mut received = Vec::new();
    loop {
        let mut message = page.message().await.expect("an open socket");
        let value = message["body"]["value"].take();
        match &value["type"] {
            kind if kind == "marker" && value["number"] == marker => return received,
            // Each page receives the markers of the other, too.
            kind if kind == "marker" => {}
            _ => received.push(value),
        }
    }
}

/// Names the scopes that its query asks for, and answers as if all were well.
async fn handler(request: Request<RequestBody<Incoming>>) -> Response<Full<bytes::Bytes>> {
    let write = request.extensions().get::<LiveWrite>().cloned();
    match (request.uri().query(), write) {
        (Some("publish=update"), Some(write)) => {
            write.publish(Change::update(&json!({"id": 7, "text": "news"})).unwrap().scope("south"));
        }
        (Some("publish=delete"), Some(write)) => write.publish(Change::delete(7).unwrap().scope("south")),
        (Some(query), Some(write)) => query.split('&').for_each(|scope| write.scope(scope)),
        _ => {}
    }
    let action = if request.method() == Method::DELETE { "deleted" } else { "updated" };
    let _ = read(request).await;
    answer(200, &json!({ "action": action }).to_string())
}

#[tokio::test]
async fn with_ids_per_scope_a_handlers_change_for_another_scope_is_of_that_scope() {
    for (method, query) in [(Method::PUT, "publish=update"), (Method::PUT, "south"), (Method::DELETE, "publish=delete")]
    {
        let live = live(Entity::scheduler("/{tenant}/events").scope_param("tenant"));
        let server = Server::layered(&live.layer(), handler);
        for scope in ["north", "south"] {
            let add = Change::add(&event(7, scope)).unwrap().scope(scope);
            live.publish("events", add).unwrap();
        }
        let [mut north, mut south] = pages(&server).await;
        let path = format!("/north/events/7?{query}");
        server.write(method.clone(), &path, r#"{"text":"news"}"#).await;
        assert_eq!(received_by(&mut north, &live).await, [Value::Null; 0], "{query}: it keeps its own");
        let received = received_by(&mut south, &live).await;
        assert!(
            !received.is_empty() && received.iter().all(|value| value["event"]["text"] != "north"),
            "{query}: {received:?}"
        );
        if method == Method::PUT {
            assert_eq!(received[0]["event"]["text"], "news", "{query}: {received:?}");
        }
    }
}

#[tokio::test]
async fn a_write_that_names_an_object_of_another_scope_reaches_no_page() {
    for method in [Method::PUT, Method::DELETE] {
        let live = live(Entity::scheduler("/events").scoped());
        let server = Server::layered(&live.layer(), handler);
        live.publish("events", Change::add(&event(7, "south's own")).unwrap().scope("south")).unwrap();
        let [mut north, mut south] = pages(&server).await;
        assert_eq!(server.write(method.clone(), "/events/7?north", r#"{"text":"mine"}"#).await.status(), 200);
        assert_eq!(received_by(&mut north, &live).await, [Value::Null; 0], "{method}");
        assert_eq!(received_by(&mut south, &live).await, [Value::Null; 0], "{method}");
        assert_eq!(live.stats().writes_unpublished, 1);
        // In its own scope it is received.
        server.write(method.clone(), "/events/7?south", r#"{"text":"mine"}"#).await;
        assert!(!received_by(&mut south, &live).await.is_empty(), "{method}");
    }
}

#[tokio::test]
async fn what_a_load_hook_does_not_find_in_the_writers_scope_is_not_deleted_elsewhere() {
    let load = async |(), scopes: Vec<String>, _: String| {
        Ok::<_, Infallible>((scopes == ["south"]).then(|| event(7, "a row of the south")))
    };
    let live = live(Entity::scheduler("/events").scoped().load_scoped((), load));
    let server = Server::layered(&live.layer(), handler);
    live.publish("events", Change::add(&event(7, "south's own")).unwrap().scope("south")).unwrap();
    let [mut north, mut south] = pages(&server).await;
    for method in [Method::PUT, Method::DELETE] {
        server.write(method, "/events/7?north", r#"{"text":"mine"}"#).await;
        assert_eq!(received_by(&mut north, &live).await, [Value::Null; 0]);
        assert_eq!(received_by(&mut south, &live).await, [Value::Null; 0]);
    }
    server.write(Method::PUT, "/events/7?south", r#"{"text":"mine"}"#).await;
    assert_eq!(received_by(&mut north, &live).await, [Value::Null; 0]);
    assert_eq!(received_by(&mut south, &live).await[0]["event"]["text"], "a row of the south");
}

#[tokio::test]
async fn every_scoped_entity_reads_rows_with_their_scopes() {
    let load = async |(), _: String| Ok::<Option<Value>, Infallible>(None);
    for entity in [
        Entity::scheduler("/events").scoped().load((), load),
        Entity::scheduler("/events").load((), load).scoped(),
        Entity::scheduler("/events").scoped().ids_per_scope().load((), load),
        Entity::scheduler("/{tenant}/events").scope_param("tenant").load((), load),
    ] {
        let built = LiveUpdates::builder("/api/v1").authenticate_fn((), by_token).entity(entity).build();
        assert!(matches!(built, Err(ConfigError::LoadWithoutScopes(name)) if name == "events"));
    }
}

#[tokio::test]
async fn one_tenant_takes_no_history_of_another() {
    let entity = Entity::scheduler("/{tenant}/events").scope_param("tenant");
    let live = LiveUpdates::builder("/api/v1")
        .authenticate_fn((), by_token)
        .entity(entity)
        .entity(Entity::new("calendars").collection("/calendars"))
        .max_log_bytes(1_000_000)
        .build()
        .unwrap();
    let server = Server::layered(&live.layer(), usual);
    let handshake = server.handshake("south").await;
    let key: Value = serde_json::from_slice(handshake.body()).unwrap();
    live.publish("events", Change::add(&event(1, "missed")).unwrap().scope("south")).unwrap();
    live.publish("calendars", Change::add(&json!({"id": 1})).unwrap()).unwrap();
    for id in 0..20 {
        let large = json!({"id": id + 1, "text": "x".repeat(200_000), "start_date": "a", "end_date": "b"});
        live.publish("events", Change::update(&large).unwrap().scope("north")).unwrap();
    }
    let mut page = server.page_at(&format!("/api/v1?token={}&ws=1", key["key"].as_str().unwrap())).await.unwrap();
    for name in ["events", "calendars"] {
        page.send_text(&json!({"action": "subscribe", "name": name}).to_string()).await;
    }
    for name in ["events", "calendars"] {
        let message = page.message().await.unwrap();
        assert_eq!(message["body"]["name"], name, "each is added, and nothing else");
        assert!(message["body"]["value"]["event"]["text"] == "missed" || name == "calendars");
    }
    assert_eq!((live.stats().unrecovered_gaps, live.stats().snapshots), (0, 0));
    assert!(live.stats().log_bytes <= 1_000_000);
}
