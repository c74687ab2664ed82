//! What an application publishes outside HTTP.

use serde::{Serialize, Serializer, ser::Error};
use serde_json::{Value, json};
use tower_live_updates::{Change, ChangeError, ChangeKind, PublishError};

use crate::support::{Server, live, until, usual};

#[tokio::test]
async fn changes_reach_pages_as_the_stock_handlers_read_them() {
    let live = live();
    let server = Server::layered(&live.layer(), usual);
    let mut page = server.subscribed().await;
    let stored = json!({"id": 7, "text": "ä \"quoted\" \u{2028}", "start_date": "2025-04-21 10:00",
        "end_date": "2025-04-21 11:00", "nested": {"big": 9_007_199_254_740_993_u64}});
    live.publish("events", Change::add(&stored).unwrap()).unwrap();
    live.publish("events", Change::update(&json!({"id": "a/b", "text": ""})).unwrap()).unwrap();
    live.publish("events", Change::delete(7).unwrap()).unwrap();
    assert_eq!(
        page.received(&live).await,
        [
            json!({"type": "add-event", "event": stored}),
            json!({"type": "update-event", "event": {"id": "a/b", "text": ""}}),
            json!({"type": "delete-event", "event": {"id": "7"}}),
        ]
    );
    let stats = live.stats();
    assert_eq!((stats.changes_published, stats.messages_published), (3, 1), "and the marker");
}

#[tokio::test]
async fn many_changes_go_out_in_their_order_with_nothing_in_between() {
    let live = live();
    let server = Server::layered(&live.layer(), usual);
    let mut page = server.subscribed().await;
    let publishing: Vec<_> = (0..4)
        .map(|who| {
            let live = live.clone();
            std::thread::spawn(move || {
                for round in 0..20 {
                    let run = (0..5).map(|part| Change::update(&json!({"id": 1, "run": [who, round, part]})).unwrap());
                    live.publish_many("events", run).unwrap();
                }
            })
        })
        .collect();
    publishing.into_iter().for_each(|thread| thread.join().unwrap());
    let received = page.received(&live).await;
    assert_eq!(received.len(), 400);
    for run in received.chunks(5) {
        let first = &run[0]["event"]["run"];
        for (part, event) in run.iter().enumerate() {
            assert_eq!(event["event"]["run"], json!([first[0], first[1], part]));
        }
    }
}

#[tokio::test]
async fn publishing_no_change_is_fine() {
    let live = live();
    live.publish_many("events", []).unwrap();
    assert_eq!((live.stats().changes_published, live.stats().log_records), (0, 0));
}

#[tokio::test]
async fn messages_of_any_shape_go_out_as_they_are() {
    let live = live();
    let server = Server::layered(&live.layer(), usual);
    let mut page = server.subscribed().await;
    let values = [
        json!({"type": "custom-action", "event": {"id": 7}}),
        json!({"type": "custom-action", "value": "archived"}),
        json!("text"),
        json!(5),
        json!(null),
        json!([1, [2]]),
        json!({}),
    ];
    for value in &values {
        live.send("events", value).unwrap();
    }
    assert_eq!(page.received(&live).await, values);
    assert_eq!(live.stats().changes_published, 0);
}

#[test]
fn an_entity_that_is_not_configured_is_named_with_the_remedy() {
    let live = live();
    for error in [
        live.publish("nosuch", Change::delete(7).unwrap()).unwrap_err(),
        live.publish_many("nosuch", []).unwrap_err(),
        live.send("nosuch", "x").unwrap_err(),
    ] {
        assert!(matches!(&error, PublishError::UnknownEntity(name) if name == "nosuch"), "{error:?}");
        assert!(error.to_string().contains(r#"Entity::new("nosuch")"#), "{error}");
    }
    assert_eq!(live.stats().log_records, 0);
}

#[tokio::test]
async fn what_would_break_pages_is_refused_and_holds_its_companions_back() {
    let live = live();
    let server = Server::layered(&live.layer(), usual);
    let mut page = server.subscribed().await;
    let dated = |id: u32, rrule: Value| {
        let (start, end) = ("2025-04-21 10:00", "2025-04-21 11:00");
        json!({"id": id, "start_date": start, "end_date": end, "rrule": rrule})
    };
    for (hazard, word) in [
        (Change::add(&json!({"id": 8, "text": "no dates"})), "start_date"),
        (Change::add(&dated(8, json!("EVERY DAY"))), "rrule"),
        (Change::update(&dated(8, json!(5))), "rrule"),
    ] {
        let run = [Change::delete(1).unwrap(), hazard.unwrap(), Change::delete(2).unwrap()];
        let error = live.publish_many("events", run).unwrap_err();
        let PublishError::BreaksPages { entity, id, reason } = &error else { panic!("{error:?}") };
        assert_eq!((entity.as_str(), id.as_str()), ("events", "8"));
        assert!(reason.contains(word), "{reason}");
        assert!(error.to_string().contains("was not sent"), "{error}");
    }
    assert!(page.received(&live).await.is_empty(), "none of the three runs");
    live.publish("events", Change::add(&dated(8, json!("FREQ=DAILY"))).unwrap()).unwrap();
    assert_eq!(page.received(&live).await.len(), 1);
    // A widget whose rules are unknown accepts everything.
    live.publish("calendars", Change::add(&json!({"id": 8, "rrule": 5})).unwrap()).unwrap();
}

#[test]
fn objects_pages_could_not_use_never_become_changes() {
    for id in [json!(null), json!(0), json!(""), json!(false), json!({}), json!([1]), json!(-0.0)] {
        let error = Change::update(&json!({ "id": id })).unwrap_err();
        assert!(
            matches!(&error, ChangeError::NoUsableId { found } if id == serde_json::from_str::<Value>(found).unwrap()),
            "{error:?}"
        );
    }
    assert!(matches!(Change::add(&json!({"text": "x"})), Err(ChangeError::NoUsableId { .. })));
    assert!(matches!(Change::add("text"), Err(ChangeError::NotAnObject)));
    assert!(matches!(Change::delete(""), Err(ChangeError::NoUsableId { .. })));
    let change = Change::delete("ä\"\\").unwrap();
    assert_eq!((change.kind(), change.id(), change.object()), (ChangeKind::Delete, "ä\"\\", r#"{"id":"ä\"\\"}"#));
}

struct Broken;

impl Serialize for Broken {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(S::Error::custom("broken on purpose"))
    }
}

#[test]
fn what_cannot_be_serialised_is_an_error_with_its_cause() {
    let error = live().send("events", &Broken).unwrap_err();
    assert!(matches!(error, PublishError::Serialize(_)));
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("broken on purpose"));
    let error = Change::add(&Broken).unwrap_err();
    assert!(matches!(error, ChangeError::Serialize(_)));
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("broken on purpose"));
}

#[test]
fn publishing_needs_neither_a_runtime_nor_a_page() {
    let live = live();
    for number in 0..100 {
        live.publish("events", Change::update(&json!({"id": 7, "number": number})).unwrap()).unwrap();
    }
    live.send("calendars", "x").unwrap();
    let stats = live.stats();
    assert_eq!((stats.changes_published, stats.messages_published, stats.log_records), (100, 1, 101));
    assert!(stats.log_bytes > 0);

    // A later subscriber receives later changes, from a thread without a runtime too.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let server = Server::layered(&live.layer(), usual);
        let mut page = server.subscribed().await;
        let elsewhere = live.clone();
        std::thread::spawn(move || elsewhere.publish("events", Change::delete(9).unwrap()).unwrap()).join().unwrap();
        assert_eq!(page.received(&live).await, [json!({"type": "delete-event", "event": {"id": "9"}})]);
    });
}

#[tokio::test]
async fn changes_published_by_handlers_arrive_beside_those_of_the_layer() {
    let live = live();
    let handle = live.clone();
    let server = Server::layered(&live.layer(), move |request: http::Request<_>| {
        let handle = handle.clone();
        async move {
            handle.send("events", &json!({"type": "custom-action", "event": 1})).unwrap();
            usual(request).await
        }
    });
    let mut page = server.subscribed().await;
    server.write(http::Method::DELETE, "/events/7", "").await;
    assert_eq!(
        page.received(&live).await,
        [json!({"type": "custom-action", "event": 1}), json!({"type": "delete-event", "event": {"id": "7"}}),]
    );
}

#[tokio::test]
async fn every_clone_of_the_handle_is_the_same_live_updates() {
    let live = live();
    let other = live.clone();
    let layer = live.layer();
    let servers = [
        Server::layered(&layer, usual),
        Server::layered(&layer.clone(), usual),
        Server::layered(&other.layer(), usual),
    ];
    for server in &servers {
        let mut page = server.subscribed().await;
        other.send("events", "received").unwrap();
        assert_eq!(page.received(&live).await, ["received"]);
    }
    until("the pages are gone", || other.stats().connections == 0).await;
}
