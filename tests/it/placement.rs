//! One suite, three placements: a router, a stack with axum's middleware on either side, and a bare hyper service.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, header};
use http_body_util::Full;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tower::Layer;
use tower_live_updates::{Change, LiveUpdates, LiveWrite};

use crate::support::{BoxError, Server, TOKEN, builder, full, json as answer, read, until};

/// The application, whatever its bodies are.
async fn application<B>(request: Request<B>) -> Response<Full<Bytes>>
where
    B: http_body::Body,
    B::Error: Into<BoxError>,
{
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let write = request.extensions().get::<LiveWrite>().cloned();
    let body = read(request).await.unwrap_or_default();
    match (method, path.as_str()) {
        (Method::GET, "/large") => answer(200, &"x".repeat(100_000)),
        (Method::GET, _) => answer(200, "[]"),
        (Method::POST, "/events") => answer(200, r#"{"action":"inserted","tid":"17"}"#),
        (Method::PUT, "/events/refused") => answer(409, "{}"),
        (Method::PUT, "/events/failed") => answer(200, r#"{"action":"error"}"#),
        (Method::PUT, "/events/slow") => {
            tokio::time::sleep(Duration::from_secs(2)).await;
            answer(200, r#"{"action":"updated"}"#)
        }
        (Method::PUT, "/events/large") => answer(200, &format!(r#"{{"x":"{}"}}"#, "x".repeat(3000))),
        (Method::PUT, "/events/published") => {
            write.expect("a watched write").publish(Change::delete("other").unwrap());
            answer(200, "")
        }
        (Method::PUT, _) if body.is_empty() => answer(400, "{}"),
        (Method::PUT | Method::PATCH, _) => answer(200, r#"{"action":"updated","item":{"id":7,"stored":true}}"#),
        (Method::DELETE, _) => answer(204, ""),
        _ => answer(405, "{}"),
    }
}

fn build() -> LiveUpdates {
    builder().tokens([TOKEN]).max_body_bytes(1000).build().unwrap()
}

/// Everything a client and a page can observe of one server. The same for all of them.
async fn suite(placement: &str, server: Server, live: LiveUpdates) {
    let handshake = server.handshake(TOKEN).await;
    assert_eq!(handshake.status(), 200, "{placement}");
    assert_eq!(serde_json::from_slice::<Value>(handshake.body()).unwrap()["websocket"], true, "{placement}");
    assert_eq!(server.handshake("wrong").await.status(), 403, "{placement}");
    let mut page = server.subscribed().await;

    let dated = r#"{"start_date":"2025-04-21 10:00","end_date":"2025-04-21 11:00"}"#;
    let long = format!(r#"{{"text":"{}"}}"#, "x".repeat(2000));
    let stored = json!({"type": "update-event", "event": {"text": "a", "id": 7, "stored": true}});
    let deleted = |id: &str| json!({"type": "delete-event", "event": {"id": id}});
    let update = |id: &str| json!({"type": "update-event", "event": {"text": "a", "id": id}});
    let add = json!({"type": "add-event",
        "event": {"id": "17", "start_date": "2025-04-21 10:00", "end_date": "2025-04-21 11:00"}});
    let sent = r#"{"text":"a"}"#;
    for (method, path, body, status, received) in [
        (Method::GET, "/events", "", 200, vec![]),
        (Method::GET, "/large", "", 200, vec![]),
        (Method::POST, "/events", dated, 200, vec![add]),
        (Method::PUT, "/events/7", sent, 200, vec![stored.clone()]),
        (Method::PATCH, "/events/7", sent, 200, vec![stored]),
        (Method::PUT, "/events/7", "", 400, vec![]),
        (
            Method::PUT,
            "/events/7",
            &long,
            200,
            vec![json!({"type": "update-event", "event": {"id": 7, "stored": true}})],
        ),
        (Method::PUT, "/events/refused", sent, 409, vec![]),
        (Method::PUT, "/events/failed", sent, 200, vec![]),
        (Method::PUT, "/events/large", sent, 200, vec![update("large")]),
        (Method::PUT, "/events/published", sent, 200, vec![deleted("other")]),
        (Method::DELETE, "/events/a%2Fb", "", 204, vec![deleted("a/b")]),
        (Method::POST, "/other", sent, 405, vec![]),
    ] {
        let response = server.write(method.clone(), path, body).await;
        assert_eq!(response.status(), status, "{placement}: {method} {path}");
        if path == "/events/large" {
            assert_eq!(response.body().len(), 3008, "{placement}: every byte");
        }
        assert_eq!(page.received(&live).await, received, "{placement}: {method} {path}");
    }

    let mut stream = server.connect();
    let head = format!("PUT /events/slow HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{sent}", sent.len());
    stream.write_all(head.as_bytes()).await.unwrap();
    let chunked = Request::put("/events/slow").header(header::TRANSFER_ENCODING, "chunked").body(full(sent)).unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    drop(stream);
    until("the client's departure is noticed", || live.stats().writes_detached == 1).await;
    server.start(chunked).await.unwrap();
    assert_eq!(page.received(&live).await, [update("slow"), update("slow")], "{placement}: one after the other");

    let stats = live.stats();
    assert_eq!((stats.changes_published, stats.writes_dropped, stats.write_lock_timeouts), (9, 0, 0), "{placement}");
    let (goodbye, ()) = tokio::join!(page.end(), live.shutdown());
    assert!(matches!(goodbye, crate::support::End::Close(1001, _)), "{placement}: {goodbye:?}");
}

fn router() -> axum::Router {
    use axum::{body::Body, extract::Request, routing::any};
    let handler = async |request: Request| application(request).await.map(Body::new);
    axum::Router::new().route("/events", any(handler)).route("/events/{id}", any(handler)).fallback(handler)
}

#[tokio::test(start_paused = true)]
async fn around_a_router() {
    let live = build();
    suite("Router::layer", Server::new(router().layer(live.layer())), live).await;
}

#[tokio::test(start_paused = true)]
async fn around_a_bare_hyper_service() {
    let live = build();
    let inner = tower::service_fn(|request| async { Ok::<_, std::convert::Infallible>(application(request).await) });
    suite("a bare service", Server::new(live.layer().layer(inner)), live).await;
}

#[cfg(feature = "axum")]
#[tokio::test(start_paused = true)]
async fn between_axums_middleware_in_a_stack() {
    use axum::{
        extract::Request,
        middleware::{Next, from_fn},
    };
    let neighbour = || from_fn(async |request: Request, next: Next| next.run(request).await);
    let live = build();
    let stack = tower::ServiceBuilder::new().layer(neighbour()).layer(live.layer().axum()).layer(neighbour());
    suite("a ServiceBuilder", Server::new(router().layer(stack)), live).await;
}

#[cfg(feature = "axum")]
#[tokio::test(start_paused = true)]
async fn around_a_router_with_axums_own_bodies() {
    let live = build();
    suite("Router::layer with axum()", Server::new(router().layer(live.layer().axum())), live).await;
}
