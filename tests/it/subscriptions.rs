//! Subscribers: a page receives an entity from subscribe to unsubscribe.

use serde_json::{Value, json};
use tower_live_updates::{Change, Entity};

use crate::support::{Server, builder, live, raw::Raw, usual};

#[tokio::test]
async fn subscribing_again_changes_nothing() {
    let live = live();
    let server = Server::layered(&live.layer(), usual);
    let mut page = server.page().await;
    for _ in 0..5 {
        page.subscribe("events").await;
    }
    assert_eq!(live.stats().subscriptions, 1);
    live.publish("events", Change::delete(7).unwrap()).unwrap();
    assert_eq!(page.received(&live).await, [json!({"type": "delete-event", "event": {"id": "7"}})], "one copy");
}

#[tokio::test]
async fn subscriptions_are_a_set_and_not_a_count() {
    let live = live();
    let server = Server::layered(&live.layer(), usual);
    let mut page = server.page().await;
    page.subscribe("calendars").await;
    for _ in 0..3 {
        page.subscribe("events").await;
    }
    page.send_text(r#"{"action":"unsubscribe","name":"events"}"#).await;
    page.barrier().await;
    assert_eq!(live.stats().subscriptions, 1);
    live.publish("events", Change::delete(7).unwrap()).unwrap();
    assert!(page.received_of("calendars", &live).await.is_empty(), "one word ends it");
}

#[tokio::test]
async fn nothing_between_unsubscribe_and_the_next_subscribe_is_received() {
    let live = live();
    let server = Server::layered(&live.layer(), usual);
    let mut page = server.page().await;
    live.send("events", &json!("before")).unwrap();
    for round in 0..3 {
        page.subscribe("events").await;
        live.send("events", &json!({"received": round})).unwrap();
        assert_eq!(page.received(&live).await, [json!({"received": round})]);
        page.send_text(r#"{"action":"unsubscribe","name":"events"}"#).await;
        page.barrier().await;
        live.send("events", &json!({"missed": round})).unwrap();
    }
    page.subscribe("events").await;
    assert!(page.received(&live).await.is_empty());
}

#[tokio::test]
async fn both_transports_receive_nothing_of_the_gap_either() {
    let live = live();
    let server = Server::layered(&live.layer(), usual);
    for (transport, stream) in [("any stream", None), ("TCP", Some(server.connect_tcp(None).await))] {
        let mut raw = match stream {
            None => Raw::socket(server.connect()).await,
            Some(stream) => Raw::socket(stream).await,
        };
        raw.send_text(r#"{"action":"subscribe","name":"events"}"#).await;
        raw.send_text(r#"{"action":"unsubscribe","name":"events"}"#).await;
        raw.barrier().await;
        live.send("events", &json!("missed")).unwrap();
        raw.barrier().await;
        raw.send_text(r#"{"action":"subscribe","name":"events"}"#).await;
        raw.barrier().await;
        live.send("events", &json!("received")).unwrap();
        assert_eq!(raw.json().await["body"]["value"], "received", "{transport}");
    }
}

#[tokio::test]
async fn a_page_receives_each_of_its_entities_in_one_order() {
    let live = live();
    let server = Server::layered(&live.layer(), usual);
    let mut both = server.subscribed().await;
    both.subscribe("calendars").await;
    let mut one = server.page().await;
    one.subscribe("calendars").await;
    for number in 0..50 {
        live.send("events", &json!(number)).unwrap();
        live.send("calendars", &json!(number)).unwrap();
    }
    let received = both.received(&live).await;
    let expected: Vec<Value> = (0..50).flat_map(|number| [json!(number), json!(number)]).collect();
    assert_eq!(received, expected);
    let expected: Vec<Value> = (0..50).map(Value::from).collect();
    assert_eq!(one.received_of("calendars", &live).await, expected);
}

#[tokio::test]
async fn the_name_of_an_entity_goes_out_with_its_messages() {
    let live = live();
    let server = Server::layered(&live.layer(), usual);
    let mut page = server.page().await;
    // No route changes calendars: an entity needs none.
    page.subscribe("calendars").await;
    live.publish("calendars", Change::update(&json!({"id": 3, "color": "red"})).unwrap()).unwrap();
    let expected = json!({"action": "event", "body": {
        "name": "calendars", "value": {"type": "update-calendars", "calendars": {"id": 3, "color": "red"}}}});
    assert_eq!(page.message().await.unwrap(), expected);
}

#[tokio::test]
async fn unknown_names_are_ignored_and_counted_and_cost_nothing() {
    let live = live();
    let server = Server::layered(&live.layer(), usual);
    let mut page = server.page().await;
    let names = ["nosuch", "", "Events", "events ", "event", "__proto__", "$session", "*"];
    for name in names {
        page.subscribe(name).await;
        page.send_text(&format!(r#"{{"action":"unsubscribe","name":"{name}"}}"#)).await;
    }
    page.barrier().await;
    let stats = live.stats();
    assert_eq!((stats.messages_ignored, stats.subscriptions), (2 * names.len() as u64, 0));
    page.subscribe("events").await;
    assert!(page.received(&live).await.is_empty(), "the socket works on");
}

#[tokio::test]
async fn names_are_read_as_json_reads_them() {
    let live = builder().entity(Entity::new("über \"alles\"")).tokens(["demo"]).build().unwrap();
    let server = Server::layered(&live.layer(), usual);
    let mut page = server.page().await;
    page.send_text(r#" {"name" : "\u00fcber \"alles\"", "other": [1, {"action": "x"}], "action":"subscr\u0069be"} "#)
        .await;
    page.barrier().await;
    assert!(page.received_of("über \"alles\"", &live).await.is_empty());
    assert_eq!(live.stats().subscriptions, 1);
}

#[tokio::test]
async fn a_page_that_leaves_takes_its_subscriptions_along() {
    let live = live();
    let server = Server::layered(&live.layer(), usual);
    let mut stays = server.subscribed().await;
    let mut leaves = server.subscribed().await;
    leaves.subscribe("calendars").await;
    assert_eq!((live.stats().connections, live.stats().subscriptions), (2, 3));
    drop(leaves);
    crate::support::until("one page is left", || live.stats().connections == 1).await;
    assert_eq!(live.stats().subscriptions, 1);
    assert!(stays.received(&live).await.is_empty());
}

#[tokio::test]
async fn detaching_everything_names_entities_under_key_as_captured() {
    let live = builder().tokens(["demo"]).build().unwrap();
    let server = Server::layered(&live.layer(), usual);
    let mut page = server.page().await;
    let mut subscriptions = Vec::new();
    for message in sent_by_page(include_str!("../fixtures/ws_detach.json")) {
        page.send_text(&message).await;
        page.barrier().await;
        subscriptions.push(live.stats().subscriptions);
    }
    assert_eq!(subscriptions, [1, 2, 1, 0, 1]);
    assert_eq!(live.stats().messages_ignored, 0);
    assert!(page.received(&live).await.is_empty(), "and events are subscribed again");
}

#[tokio::test]
async fn captured_calls_over_the_socket_are_answered_with_an_error_each() {
    let live = builder().tokens(["demo"]).build().unwrap();
    let server = Server::layered(&live.layer(), usual);
    let mut page = server.page().await;
    let mut answered = Vec::new();
    for message in sent_by_page(include_str!("../fixtures/ws_rpc.json")) {
        page.send_text(&message).await;
        if message.contains("\"call\"") {
            let answer = page.message().await.unwrap();
            assert_eq!(answer["action"], "result");
            for result in answer["body"].as_array().unwrap() {
                assert!(!result["error"].as_str().unwrap().is_empty(), "the page's promise is rejected: {result}");
                answered.push(result["id"].clone());
            }
        }
    }
    assert_eq!(answered, ["2", "3"]);
    assert_eq!((live.stats().calls, live.stats().messages_ignored), (2, 0));
}

#[tokio::test]
async fn calls_come_in_numbers_too() {
    let live = live();
    let server = Server::layered(&live.layer(), usual);
    let mut page = server.page().await;
    page.send_text(r#"{"action":"call","body":[{"id":"a\"b","name":"x"},{"id":7},{"id":1e3,"args":[]}]}"#).await;
    let answer = page.message().await.unwrap();
    let ids: Vec<&Value> = answer["body"].as_array().unwrap().iter().map(|result| &result["id"]).collect();
    assert_eq!(ids, [&json!("a\"b"), &json!(7), &json!(1e3)]);
    assert_eq!(live.stats().calls, 3);
}

/// What the page sent on its socket in a captured scenario.
fn sent_by_page(fixture: &str) -> Vec<String> {
    let fixture: Value = serde_json::from_str(fixture).unwrap();
    let entries = fixture["entries"].as_array().unwrap();
    let received = entries.iter().filter(|entry| entry["kind"] == "ws" && entry["from"] == "A");
    received.map(|entry| entry["body"].as_str().unwrap().to_owned()).collect()
}
