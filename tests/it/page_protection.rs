//! What would make the stock Scheduler stop saving is not sent, and responses it takes for failures are logged.

use http::Method;
use serde_json::{Value, json};
use tower_live_updates::{Change, Entity, LiveUpdates, PublishError};

use crate::support::{Server, TOKEN, json as answer, live, read};

fn server(live: &LiveUpdates, status: u16, body: &'static str) -> Server {
    Server::layered(&live.layer(), move |request| async move {
        read(request).await.expect("a whole request");
        answer(status, body)
    })
}

/// Objects that throw on a page while its saving is suspended, when they are added.
fn poison() -> Vec<Value> {
    let dates = |start: Value, end: Value| json!({"text": "a", "start_date": start, "end_date": end});
    let rule = |rule: Value| json!({"start_date": "2025-04-21", "end_date": "2025-04-22", "rrule": rule});
    vec![
        json!({"text": "a"}),
        json!({"text": "a", "start_date": "2025-04-21 10:00"}),
        dates(json!(null), json!(null)),
        dates(json!(1745226000), json!(1745229600)),
        dates(json!({}), json!({})),
        dates(json!("2025-04-21 10:00"), json!("")),
        rule(json!("EVERY DAY")),
        rule(json!("RRULE:FREQ=DAILY")),
        rule(json!("FREQ=DAILY;")),
        rule(json!("FREQ=DAILY;INTERVAL=-1")),
        rule(json!("FREQ=HOURLY;BYHOUR=25")),
        rule(json!("FREQ=DAILY;BYDAY=0MO")),
        rule(json!(5)),
    ]
}

#[tokio::test]
async fn an_add_that_would_stop_a_page_from_saving_is_not_sent() {
    for object in poison() {
        let live = live();
        let server = server(&live, 200, r#"{"action":"inserted","tid":"17"}"#);
        let mut page = server.subscribed().await;
        let response = server.write(Method::POST, "/events", &object.to_string()).await;
        assert_eq!(response.status(), 200, "the write itself is the application's");
        assert!(page.received(&live).await.is_empty(), "{object}");
        assert_eq!((live.stats().writes_unpublished, live.stats().changes_published), (1, 0), "{object}");
    }
}

#[tokio::test]
async fn nor_is_it_published_by_hand() {
    for mut object in poison() {
        object["id"] = json!(17);
        let live = live();
        let refused = live.publish("events", Change::add(&object).unwrap()).unwrap_err();
        assert!(matches!(refused, PublishError::BreaksPages { .. }), "{refused}");
        let text = refused.to_string();
        assert!(text.contains("events") && text.contains("17"), "{text}");
        assert_eq!(live.stats().changes_published, 0);
    }
}

#[tokio::test]
async fn an_update_needs_no_dates_but_a_readable_rule() {
    for (object, received) in [
        (json!({"text": "a"}), true),
        (json!({"rrule": "FREQ=WEEKLY;INTERVAL=2;BYDAY=MO,WE"}), true),
        (json!({"rrule": ""}), true),
        (json!({"rrule": null}), true),
        (json!({"rrule": "EVERY DAY"}), false),
        (json!({"rrule": "FREQ=DAILY;INTERVAL=-1"}), false),
        (json!({"rrule": "FREQ=HOURLY;INTERVAL=2;BYHOUR=3", "start_date": "2025-04-21 11:00"}), true),
        (json!({"rrule": "FREQ=HOURLY;INTERVAL=2;BYHOUR=3", "start_date": "2025-04-21 10:00"}), false),
    ] {
        for method in [Method::PUT, Method::PATCH] {
            let live = live();
            let server = server(&live, 200, r#"{"action":"updated"}"#);
            let mut page = server.subscribed().await;
            server.write(method, "/events/7", &object.to_string()).await;
            assert_eq!(page.received(&live).await.len(), usize::from(received), "{object}");
        }
    }
}

#[tokio::test]
async fn neither_is_a_row_that_a_hook_reads_back() {
    let row = |rule: &str| json!({"id": 7, "start_date": "2025-04-21 10:00", "end_date": "2026-04-21 00:00", "duration": 3600, "rrule": rule});
    for (rule, received) in [("FREQ=DAILY", true), ("FREQ=DAILY;INTERVAL=-1", false)] {
        let events = Entity::scheduler("/events")
            .load(row(rule), async |row, _id: String| Ok::<_, std::convert::Infallible>(Some(row)));
        let live = LiveUpdates::builder("/api/v1").tokens([TOKEN]).entity(events).build().unwrap();
        let server = server(&live, 200, r#"{"action":"updated"}"#);
        let mut page = server.subscribed().await;
        // The write itself does not contain the rule.
        server.write(Method::PATCH, "/events/7", r#"{"text":"a"}"#).await;
        assert_eq!(page.received(&live).await.len(), usize::from(received), "{rule}");
    }
}

#[cfg(feature = "tracing")]
#[tokio::test]
async fn the_log_names_the_part_of_a_rule_that_is_wrong() {
    let logs = crate::support::logs::Logs::capture();
    let live = live();
    let server = server(&live, 200, r#"{"action":"updated"}"#);
    server.write(Method::PUT, "/events/7", r#"{"rrule":"FREQ=DAILY;INTERVAL=-1"}"#).await;
    let line = "its rrule's INTERVAL=-1 stops the Scheduler; send a whole number of 1 or more";
    assert_eq!(logs.lines(line).len(), 1, "{:?}", logs.lines(""));
}

#[tokio::test]
async fn the_stored_row_completes_what_was_sent() {
    let live = live();
    let row = r#"{"tid":17,"item":{"id":17,"start_date":"2025-04-21 10:00","end_date":"2025-04-21 11:00"}}"#;
    let server = server(&live, 200, row);
    let mut page = server.subscribed().await;
    server.write(Method::POST, "/events", r#"{"text":"a"}"#).await;
    assert_eq!(page.received(&live).await.len(), 1);
}

#[tokio::test]
async fn a_deleted_occurrence_is_sent_whole() {
    let live = live();
    let server = server(&live, 200, r#"{"action":"deleted","tid":"17"}"#);
    let mut page = server.subscribed().await;
    let occurrence = json!({
        "recurring_event_id": "5", "original_start": "2025-04-22 10:00", "deleted": true,
        "start_date": "2025-04-22 10:00", "end_date": "2025-04-22 11:00", "rrule": null,
    });
    server.write(Method::POST, "/events", &occurrence.to_string()).await;
    let mut expected = occurrence;
    expected["id"] = json!("17");
    assert_eq!(page.received(&live).await, [json!({"type": "add-event", "event": expected})]);
}

#[tokio::test]
async fn other_entities_are_sent_as_they_are() {
    let live = LiveUpdates::builder("/api/v1")
        .tokens([TOKEN])
        .entity(Entity::new("events").payload_key("event").collection("/events"))
        .build()
        .unwrap();
    let server = server(&live, 200, r#"{"tid":"17"}"#);
    let mut page = server.subscribed().await;
    for object in poison() {
        server.write(Method::POST, "/events", &object.to_string()).await;
    }
    assert_eq!(page.received(&live).await.len(), poison().len());
    assert_eq!(live.stats().writes_unpublished, 0);
}

#[cfg(feature = "tracing")]
#[tokio::test]
async fn answers_the_scheduler_takes_for_failures_are_named_once_each() {
    const DATED: &str = r#"{"start_date":"2025-04-21 10:00","end_date":"2025-04-21 11:00"}"#;
    for (method, path, status, body, line) in [
        (Method::POST, "/events", 201, r#"{"tid":17}"#, "POST /events: the Scheduler takes only status 200"),
        (Method::POST, "/events", 200, r#"{"id":17}"#, "POST /events: the Scheduler needs the new id as `tid`"),
        (Method::DELETE, "/events/7", 204, "", "DELETE /events/{id}: the Scheduler takes only status 200"),
    ] {
        let logs = crate::support::logs::Logs::capture();
        let live = live();
        let server = server(&live, status, body);
        let mut page = server.subscribed().await;
        for _ in 0..3 {
            server.write(method.clone(), path, DATED).await;
        }
        assert_eq!(page.received(&live).await.len(), 3, "they are broadcast all the same");
        assert_eq!(logs.lines(line).len(), 1, "{:?}", logs.lines(""));
        assert_eq!(logs.lines("WARN").len(), 1, "{:?}", logs.lines(""));
    }
}
