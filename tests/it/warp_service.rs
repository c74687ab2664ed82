//! A warp filter as the inner service. Warp asks more of request bodies than hyper and axum do: they must be `Sync`.

use std::{convert::Infallible, sync::Arc, time::Duration};

use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::{
    sync::{Semaphore, mpsc},
    time::sleep,
};
use tower::Layer;
use warp::Filter;

use crate::support::{Server, TOKEN, client::event, live};

#[tokio::test]
async fn a_warp_filter_needs_no_line_of_its_own() {
    let live = live();
    let create = warp::path!("events")
        .and(warp::post())
        .and(warp::body::json())
        .map(|_: Value| warp::reply::json(&json!({"action": "inserted", "tid": "17"})));
    let update = warp::path!("events" / u64)
        .and(warp::put())
        .and(warp::body::json())
        .map(|_: u64, _: Value| warp::reply::json(&json!({"action": "updated"})));
    let server = Server::new(live.layer().layer(warp::service(create.or(update))));
    assert_eq!(server.handshake(TOKEN).await.status(), 200);
    let mut page = server.subscribed().await;

    let created = server.write(Method::POST, "/events", &event(0, "new").to_string()).await;
    assert_eq!(created.body(), r#"{"action":"inserted","tid":"17"}"#);
    let updated = server.write(Method::PUT, "/events/17", r#"{"text":"moved"}"#).await;
    assert_eq!(updated.body(), r#"{"action":"updated"}"#);
    let mut stored = event(0, "new");
    stored["id"] = "17".into();
    assert_eq!(
        page.received(&live).await,
        [
            json!({"type": "add-event", "event": stored}),
            json!({"type": "update-event", "event": {"text": "moved", "id": "17"}}),
        ]
    );

    let refused = server.write(Method::PUT, "/events/17", "no JSON").await;
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST, "warp's own");
}

#[tokio::test(start_paused = true)]
async fn a_body_waits_for_an_earlier_write_of_its_object() {
    let live = live();
    let (begins, mut begun) = mpsc::unbounded_channel();
    let may_end = Arc::new(Semaphore::new(0));
    let gate = may_end.clone();
    let update =
        warp::path!("events" / u64).and(warp::put()).and(warp::body::json()).and_then(move |_: u64, event: Value| {
            begins.send(event["text"].clone()).expect("a listening test");
            let gate = gate.clone();
            async move {
                gate.acquire().await.expect("an open gate").forget();
                Ok::<_, Infallible>(warp::reply::json(&json!({"action": "updated"})))
            }
        });
    let server = Server::new(live.layer().layer(warp::service(update)));
    let mut page = server.subscribed().await;
    let write = |text: &'static str| {
        let server = server.clone();
        let body = json!({"text": text}).to_string();
        tokio::spawn(async move { server.write(Method::PUT, "/events/17", &body).await.status() })
    };

    let first = write("first");
    assert_eq!(begun.recv().await, Some("first".into()));
    let second = write("second");
    // The clock stands still for as long as anything can go on.
    sleep(Duration::from_secs(1)).await;
    assert!(begun.try_recv().is_err(), "the second write has not got the end of its body");
    may_end.add_permits(2);
    assert_eq!((first.await.unwrap(), second.await.unwrap()), (StatusCode::OK, StatusCode::OK));
    assert_eq!(page.event().await.1["text"], "first");
    assert_eq!(page.event().await.1["text"], "second");
}
