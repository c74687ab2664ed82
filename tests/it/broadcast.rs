//! Broadcast: every subscribed page receives a write, once and in order.

use http::Method;
use serde_json::json;

use crate::support::{Server, live, usual};

#[tokio::test]
async fn every_subscribed_page_receives_every_write_once_and_in_order() {
    let live = live();
    let server = Server::layered(&live.layer(), usual);
    let mut pages = [server.subscribed().await, server.subscribed().await];

    let event = r#"{"text":"a","start_date":"2025-04-21 10:00","end_date":"2025-04-21 11:00"}"#;
    server.write(Method::POST, "/events", event).await;
    server.write(Method::PUT, "/events/17", r#"{"text":"b"}"#).await;
    server.write(Method::DELETE, "/events/17", "").await;

    for page in &mut pages {
        assert_eq!(
            page.received(&live).await,
            [
                json!({"type": "add-event", "event": {
                    "text": "a", "start_date": "2025-04-21 10:00", "end_date": "2025-04-21 11:00", "id": "17"}}),
                json!({"type": "update-event", "event": {"text": "b", "id": "17"}}),
                json!({"type": "delete-event", "event": {"id": "17"}}),
            ]
        );
    }
    assert_eq!(live.stats().changes_published, 3);
}

#[tokio::test]
async fn a_page_that_has_not_subscribed_receives_nothing() {
    let live = live();
    let server = Server::layered(&live.layer(), usual);
    let mut page = server.page().await;
    page.subscribe("calendars").await;
    server.write(Method::PUT, "/events/17", r#"{"text":"b"}"#).await;
    assert!(page.received_of("calendars", &live).await.is_empty());
}
