//! With a load hook, pages are sent what the store holds.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use http::Method;
use serde_json::{Value, json};
use tower_live_updates::{Delivery, Entity, LiveUpdates};

use crate::support::{Server, live, usual};

/// What the hook was asked for, and what it does with that.
#[derive(Clone)]
struct Hook {
    asked: Arc<Mutex<Vec<String>>>,
    answer: Answer,
}

#[derive(Clone, Debug)]
enum Answer {
    Row(Value),
    Gone,
    Error,
    Panic,
    Hang,
}

async fn load(hook: Hook, id: String) -> Result<Option<Value>, String> {
    hook.asked.lock().unwrap().push(id);
    match hook.answer {
        Answer::Row(row) => Ok(Some(row)),
        Answer::Gone => Ok(None),
        Answer::Error => Err("the database is gone".to_owned()),
        Answer::Panic => panic!("in the hook"),
        Answer::Hang => std::future::pending().await,
    }
}

struct Outcome {
    messages: Vec<Value>,
    asked: Vec<String>,
    live: LiveUpdates,
}

async fn write(answer: Answer, method: Method, path: &str, body: &str) -> Outcome {
    let asked = Arc::default();
    let hook = Hook { asked: Arc::clone(&asked), answer };
    let live = LiveUpdates::builder("/api/v1")
        .delivery(Delivery::Plain)
        .tokens(["demo"])
        .hook_timeout(Duration::from_secs(2))
        .entity(Entity::scheduler("/events").load(hook, load))
        .build()
        .unwrap();
    let server = Server::layered(&live.layer(), usual);
    let mut page = server.subscribed().await;
    assert_eq!(server.write(method, path, body).await.status(), 200);
    let messages = page.received(&live).await;
    let asked = asked.lock().unwrap().clone();
    Outcome { messages, asked, live }
}

fn message(kind: &str, object: &Value) -> Value {
    json!({"type": format!("{kind}-event"), "event": object})
}

const DATED: &str = r#"{"text":"sent","start_date":"2025-04-21 10:00","end_date":"2025-04-21 11:00"}"#;

fn row(id: &Value) -> Value {
    json!({"id": id, "text": "stored", "start_date": "2025-04-21 10:00", "end_date": "2025-04-21 11:00"})
}

#[tokio::test]
async fn the_loaded_row_is_broadcast_whatever_was_sent_and_answered() {
    for (method, path, id, kind) in [
        (Method::POST, "/events", "17", "add"),
        (Method::PUT, "/events/7", "7", "update"),
        (Method::PATCH, "/events/7", "7", "update"),
        (Method::PUT, "/events/a%2Fb", "a/b", "update"),
    ] {
        let row = row(&json!(id));
        let received = write(Answer::Row(row.clone()), method.clone(), path, DATED).await;
        assert_eq!(received.messages, [message(kind, &row)], "{method} {path}");
        assert_eq!(received.asked, [id], "asked once, for the id as text");
    }
}

#[tokio::test]
async fn a_row_may_spell_its_id_as_the_store_does() {
    let row = row(&json!(7));
    let received = write(Answer::Row(row.clone()), Method::PUT, "/events/7", DATED).await;
    assert_eq!(received.messages, [message("update", &row)]);
}

#[tokio::test]
async fn a_row_without_an_id_is_given_the_writes_own() {
    let received = write(Answer::Row(json!({"text": "stored"})), Method::PUT, "/events/7", DATED).await;
    assert_eq!(received.messages, [message("update", &json!({"text": "stored", "id": "7"}))]);
}

#[tokio::test]
async fn a_write_without_a_readable_object_is_broadcast_all_the_same() {
    let row = row(&json!("7"));
    let received = write(Answer::Row(row.clone()), Method::PUT, "/events/7", "").await;
    assert_eq!(received.messages, [message("update", &row)]);
}

#[tokio::test]
async fn no_row_is_a_delete_whatever_was_written() {
    for (method, path, id) in
        [(Method::POST, "/events", "17"), (Method::PUT, "/events/7", "7"), (Method::DELETE, "/events/7", "7")]
    {
        let received = write(Answer::Gone, method.clone(), path, DATED).await;
        assert_eq!(received.messages, [message("delete", &json!({"id": id}))], "{method}");
    }
}

#[tokio::test]
async fn a_deleted_row_that_is_still_there_is_an_update() {
    let kept = json!({"id": "7", "text": "kept", "deleted": true});
    let received = write(Answer::Row(kept.clone()), Method::DELETE, "/events/7", "").await;
    assert_eq!(received.messages, [message("update", &kept)]);
}

#[tokio::test(start_paused = true)]
async fn a_load_hook_that_fails_is_counted_and_the_change_comes_from_the_request() {
    for answer in [Answer::Error, Answer::Panic, Answer::Hang, Answer::Row(json!("no object")), Answer::Row(json!([1]))]
    {
        let received = write(answer.clone(), Method::PUT, "/events/7", r#"{"text":"sent"}"#).await;
        assert_eq!(received.messages, [message("update", &json!({"text": "sent", "id": "7"}))], "{answer:?}");
        assert_eq!(received.live.stats().hooks_failed, 1, "{answer:?}");
        let received = write(answer.clone(), Method::DELETE, "/events/7", "").await;
        assert_eq!(received.messages, [message("delete", &json!({"id": "7"}))], "{answer:?}");
    }
}

#[cfg(feature = "tracing")]
#[tokio::test(start_paused = true)]
async fn the_log_names_the_reason_of_a_failed_hook() {
    for (answer, why) in [
        (Answer::Error, "the database is gone"),
        (Answer::Panic, "it panicked"),
        (Answer::Hang, "it took longer than hook_timeout"),
        (Answer::Row(json!("no object")), "its row is no JSON object with an id"),
    ] {
        let logs = crate::support::logs::Logs::capture();
        write(answer.clone(), Method::PUT, "/events/7", r#"{"text":"sent"}"#).await;
        let lines = logs.lines("the load hook of \"events\" failed");
        assert_eq!(lines.len(), 1, "{answer:?}");
        assert!(lines[0].contains(why), "{lines:?}");
        assert!(lines[0].contains("WARN"), "{lines:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_hang_in_a_hook_ends_at_the_hook_timeout() {
    let began = tokio::time::Instant::now();
    write(Answer::Hang, Method::PUT, "/events/7", DATED).await;
    assert_eq!(began.elapsed().as_secs(), 2);
}

#[tokio::test]
async fn a_row_that_would_break_pages_is_not_broadcast() {
    let received =
        write(Answer::Row(json!({"id": "17", "text": "without dates"})), Method::POST, "/events", DATED).await;
    assert!(received.messages.is_empty());
    assert_eq!(received.live.stats().writes_unpublished, 1);
}

#[tokio::test]
async fn the_load_hook_is_not_run_for_a_write_that_failed() {
    let asked = Arc::default();
    let hook = Hook { asked: Arc::clone(&asked), answer: Answer::Gone };
    let live = LiveUpdates::builder("/api/v1")
        .delivery(Delivery::Plain)
        .tokens(["demo"])
        .entity(Entity::scheduler("/events").load(hook, load))
        .build()
        .unwrap();
    let server = Server::layered(&live.layer(), |_| async { crate::support::json(409, "{}") });
    let mut page = server.subscribed().await;
    server.write(Method::PUT, "/events/7", DATED).await;
    assert!(page.received(&live).await.is_empty());
    assert!(asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn an_entity_without_a_load_hook_is_broadcast_from_request_and_response() {
    let live = live();
    let server = Server::layered(&live.layer(), usual);
    let mut page = server.subscribed().await;
    server.write(Method::PUT, "/events/7", r#"{"text":"sent"}"#).await;
    assert_eq!(page.received(&live).await, [message("update", &json!({"text": "sent", "id": "7"}))]);
}
