//! Routers in routers: the layer sees the path its own service sees, and a write is broadcast once.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use axum::{
    Extension, Json, Router,
    body::Body,
    extract::Path,
    routing::{MethodRouter, get, post, put},
};
use http::{Method, Request};
use serde_json::{Value, json};
use tower_live_updates::{Change, Entity, LiveUpdates, LiveWrite};

use crate::support::{Page, Server, TOKEN, live};

fn build(path: &str) -> LiveUpdates {
    LiveUpdates::builder("/api/v1").tokens([TOKEN]).entity(Entity::scheduler(path)).build().unwrap()
}

fn events() -> Router {
    let create = async |_: Json<Value>| Json(json!({"action": "inserted", "tid": "17"}));
    let update = async |Path(_): Path<String>, _: Json<Value>| Json(json!({"action": "updated"}));
    Router::new().route("/events", post(create)).route("/events/{id}", put(update))
}

/// Writes one update and checks that it is broadcast once.
async fn is_broadcast_once(router: Router, live: &LiveUpdates, path: &str) {
    let server = Server::new(router);
    let mut page = server.subscribed().await;
    one_write_is_broadcast(&server, &mut page, live, path).await;
}

async fn one_write_is_broadcast(server: &Server, page: &mut Page, live: &LiveUpdates, path: &str) {
    let response = server.write(Method::PUT, path, r#"{"text":"a"}"#).await;
    assert_eq!(response.status(), 200, "{path}");
    assert_eq!(
        page.received(live).await,
        [json!({"type": "update-event", "event": {"text": "a", "id": "7"}})],
        "{path}"
    );
}

#[tokio::test]
async fn outside_a_nest_the_layer_sees_the_whole_path() {
    let live = build("/calendar/events");
    let router = Router::new().nest("/calendar", events()).layer(live.layer());
    is_broadcast_once(router, &live, "/calendar/events/7").await;
}

#[tokio::test]
async fn inside_a_nest_a_watching_layer_sees_the_rest_of_the_path() {
    let live = build("/events");
    let calendar = events().layer(live.watch("events").unwrap());
    let router = Router::new().nest("/calendar", calendar).route_service("/api/v1", live.endpoint());
    is_broadcast_once(router, &live, "/calendar/events/7").await;
}

#[tokio::test]
async fn two_levels_down_it_is_the_same() {
    let live = build("/events");
    let calendar = events().layer(live.watch("events").unwrap());
    let router =
        Router::new().nest("/app", Router::new().nest("/calendar", calendar)).route_service("/api/v1", live.endpoint());
    is_broadcast_once(router, &live, "/app/calendar/events/7").await;

    let live = build("/app/calendar/events");
    let router = Router::new().nest("/app", Router::new().nest("/calendar", events())).layer(live.layer());
    is_broadcast_once(router, &live, "/app/calendar/events/7").await;
}

#[tokio::test]
async fn the_same_write_seen_outside_and_inside_is_broadcast_once() {
    // Both match: the one by the whole path, the other by what the nest leaves of it.
    let live = LiveUpdates::builder("/api/v1")
        .tokens([TOKEN])
        .entity(Entity::new("events").payload_key("event").collection("/events").collection("/calendar/events"))
        .build()
        .unwrap();
    let calendar = events().layer(live.watch("events").unwrap());
    let router = Router::new().nest("/calendar", calendar).layer(live.layer());
    is_broadcast_once(router, &live, "/calendar/events/7").await;
}

#[tokio::test]
async fn a_layer_applied_twice_broadcasts_once() {
    let live = live();
    let router = events().layer(live.layer()).layer(live.layer());
    is_broadcast_once(router, &live, "/events/7").await;

    let live = crate::support::live();
    let router = Router::new().merge(events().layer(live.watch("events").unwrap())).layer(live.layer());
    is_broadcast_once(router, &live, "/events/7").await;
}

#[tokio::test]
async fn two_live_updates_one_in_the_other_both_broadcast() {
    let (outer, inner) = (live(), live());
    let server = Server::new(events().layer(inner.layer()).layer(outer.layer()));
    let inner_server = Server::new(events().layer(inner.layer()));
    let (mut outside, mut inside) = (server.subscribed().await, inner_server.subscribed().await);
    server.write(Method::PUT, "/events/7", r#"{"text":"a"}"#).await;
    assert_eq!(outside.received(&outer).await.len(), 1);
    assert_eq!(inside.received(&inner).await.len(), 1);
}

#[tokio::test]
async fn a_live_write_reaches_every_live_updates_around_the_handler() {
    let (outer, inner) = (live(), live());
    let handler = async |Extension(write): Extension<LiveWrite>, _: Json<Value>| {
        write.publish(Change::delete(8).unwrap());
        Json(json!({"action": "updated"}))
    };
    let events = || Router::new().route("/events/{id}", put(handler)).layer(inner.layer());
    let (server, inner_server) = (Server::new(events().layer(outer.layer())), Server::new(events()));
    let (mut outside, mut inside) = (server.subscribed().await, inner_server.subscribed().await);
    server.write(Method::PUT, "/events/7", r#"{"text":"a"}"#).await;
    let received = [json!({"type": "delete-event", "event": {"id": "8"}})];
    assert_eq!(outside.received(&outer).await, received);
    assert_eq!(inside.received(&inner).await, received);
}

#[tokio::test]
async fn a_write_inside_a_write_is_broadcast_where_it_is_of_another_object() {
    let live = live();
    let layer = live.layer();
    // The handler saves another event through a service of its own, with everything its own request had.
    let handler = async move |request: axum::extract::Request| {
        let inner = Router::new()
            .route("/events/{id}", put(async |_: String| Json(json!({"action": "updated"}))))
            .layer(layer.clone());
        for id in ["8", "7"] {
            let mut other = Request::put(format!("/events/{id}")).body(Body::from(r#"{"text":"inner"}"#)).unwrap();
            *other.extensions_mut() = request.extensions().clone();
            assert_eq!(tower::ServiceExt::oneshot(inner.clone(), other).await.unwrap().status(), 200);
        }
        Json(json!({"action": "updated", "item": {"id": 7, "text": "outer"}}))
    };
    let server = Server::new(Router::new().route("/events/{id}", put(handler)).layer(live.layer()));
    let mut page = server.subscribed().await;
    server.write(Method::PUT, "/events/7", "{}").await;
    let received: Vec<Value> = page.received(&live).await.iter().map(|value| value["event"]["id"].clone()).collect();
    assert_eq!(received, [json!("8"), json!(7)], "the inner one of the same object is the same write");
}

#[tokio::test]
async fn a_watching_layer_watches_its_own_entity_alone_and_has_no_endpoint() {
    let live = LiveUpdates::builder("/api/v1")
        .tokens([TOKEN])
        .entity(Entity::scheduler("/events"))
        .entity(Entity::new("tasks").payload_key("task").collection("/tasks"))
        .build()
        .unwrap();
    let tasks = Router::new().route("/tasks/{id}", put(async |_: Json<Value>| Json(json!({"action": "updated"}))));
    let watched = events().merge(tasks).layer(live.watch("events").unwrap());
    let alone = Server::new(watched.clone());
    let handshake = Request::get("/api/v1").header("remote-token", TOKEN).body("").unwrap();
    assert_eq!(alone.send(handshake).await.status(), 404);

    let server = Server::new(watched.route_service("/api/v1", live.endpoint()));
    let mut page = server.subscribed().await;
    page.subscribe("tasks").await;
    server.write(Method::PUT, "/tasks/3", r#"{"text":"a"}"#).await;
    assert!(page.received(&live).await.is_empty());
    one_write_is_broadcast(&server, &mut page, &live, "/events/7").await;
    let error = live.watch("cards").unwrap_err();
    assert!(error.to_string().contains(r#"Entity::new("cards")"#), "{error}");
}

#[tokio::test]
async fn a_route_layer_leaves_the_endpoint_out() {
    let live = live();
    let server = Server::new(events().route_layer(live.layer()));
    assert_eq!(server.handshake(TOKEN).await.status(), 404, "there is no route of that path");
    assert_eq!(server.write(Method::PUT, "/events/7", r#"{"text":"a"}"#).await.status(), 200);
    assert_eq!(live.stats().changes_published, 1, "writes are watched all the same");
}

#[tokio::test]
async fn routes_added_after_the_layer_are_not_watched() {
    let live = live();
    let router = Router::new().route("/other", get(async || "")).layer(live.layer()).merge(events());
    let server = Server::new(router);
    assert_eq!(server.write(Method::PUT, "/events/7", r#"{"text":"a"}"#).await.status(), 200);
    assert_eq!(live.stats().changes_published, 0);
}

#[tokio::test]
async fn every_service_the_layer_makes_belongs_to_one_hub() {
    // A router calls `layer` once for every route it has; the socket comes in through the fallback.
    let layers = Arc::new(AtomicUsize::new(0));
    let live = live();
    let (counted, inner) = (layers.clone(), live.layer());
    let counting = tower::layer::layer_fn(move |service| {
        counted.fetch_add(1, Ordering::Relaxed);
        tower::Layer::layer(&inner, service)
    });
    let server = Server::new(events().route("/other", get(async || "")).layer(counting));
    assert!(layers.load(Ordering::Relaxed) > 1, "{layers:?}");
    let mut pages = [server.subscribed().await, server.subscribed().await];
    for page in &mut pages {
        one_write_is_broadcast(&server, page, &live, "/events/7").await;
    }
    assert_eq!(live.stats().connections, 2);
}

#[tokio::test]
async fn single_routes_can_be_layered_on_their_own() {
    let live = live();
    let update: MethodRouter = put(async |_: Json<Value>| Json(json!({"action": "updated"})));
    let router = Router::new()
        .route("/events/{id}", update.layer(live.watch("events").unwrap()))
        .route_service("/api/v1", live.endpoint());
    is_broadcast_once(router, &live, "/events/7").await;
}
