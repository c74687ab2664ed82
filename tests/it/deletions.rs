//! Deletions: a broadcast that leaves no page unable to save, and reminders for as long as forms stay open.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use tower_live_updates::{Change, Entity, LiveUpdates, LiveUpdatesBuilder, builder::HasAuth};

use crate::support::{
    Server, TOKEN,
    client::{Client, TRANSPORTS, Tab, Transport, added, deleted, event, patient, publish, updated, wait},
    converging, usual,
};

const NOTHING: [&str; 0] = [];

/// A server with one page whose list is long there.
async fn serve(builder: LiveUpdatesBuilder<HasAuth>, transport: Transport) -> (LiveUpdates, Server, Client, Tab) {
    let live = builder.build().unwrap();
    let server = Server::layered(&live.layer(), usual);
    wait(100.0).await;
    let page = Client::load(&server, transport).await;
    let mut tab = page.open().await;
    assert_eq!(tab.received_in(31.0).await, NOTHING);
    (live, server, page, tab)
}

/// An exception of the series 5.
fn exception(id: u32) -> Value {
    let mut exception = event(id, "moved");
    exception["recurring_event_id"] = json!("5");
    exception["original_start"] = json!("2026-05-14 09:00");
    exception
}

fn count(received: &[String], message: &str) -> usize {
    received.iter().filter(|received| *received == message).count()
}

#[tokio::test(start_paused = true)]
async fn a_deletion_is_followed_by_an_update_that_switches_saving_on_again() {
    for transport in TRANSPORTS {
        let (live, server, _, mut tab) = serve(patient(), transport).await;
        publish(&live, [added(7, "a")]);
        tab.received_in(10.0).await;
        assert_eq!(server.write(Method::DELETE, "/events/7", "").await.status(), 200);
        assert_eq!(tab.received().await, ["delete 7", "update 7"], "{transport:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_frames_of_a_deletion_on_the_wire() {
    let live = converging().tokens([TOKEN]).build().unwrap();
    let server = Server::layered(&live.layer(), usual);
    let mut page = server.subscribed().await;
    server.write(Method::DELETE, "/events/7", "").await;
    live.publish("events", Change::delete("a\"b").unwrap()).unwrap();
    let ordinary = |id: &str| json!({"id": id, "recurring_event_id": "", "original_start": null, "rrule": ""});
    for id in ["7", "a\"b"] {
        for expected in [
            json!({"type": "update-event", "event": ordinary(id)}),
            json!({"type": "delete-event", "event": {"id": id}}),
            json!({"type": "update-event", "event": {"id": id}}),
        ] {
            assert_eq!(page.message().await.unwrap()["body"], json!({"name": "events", "value": expected}));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_may_be_an_exception_of_a_series_is_made_an_event_like_others_first() {
    let empty = |value: Value| {
        let mut event = event(7, "plain");
        event["recurring_event_id"] = value;
        event
    };
    let series = {
        let mut series = event(7, "series");
        series["rrule"] = json!("FREQ=DAILY");
        series
    };
    for (known, first) in [
        (Some(exception(7)), true),
        (None, true),
        (Some(event(7, "plain")), false),
        (Some(series), false),
        (Some(empty(json!(""))), false),
        (Some(empty(json!(null))), false),
        (Some(empty(json!(0))), false),
        (Some(empty(json!(5))), true),
    ] {
        let (live, _server, _, mut tab) = serve(patient(), Transport::AnyStream).await;
        if let Some(known) = &known {
            publish(&live, [Change::add(known).unwrap()]);
        }
        tab.received_in(10.0).await;
        publish(&live, [deleted(7)]);
        let expected =
            if first { &["update 7 ordinary", "delete 7", "update 7"][..] } else { &["delete 7", "update 7"] };
        assert_eq!(tab.received().await, expected, "{known:?}");
        assert_eq!(tab.received_in(30.0).await, expected, "{known:?}: and so it stays");
        // A page that subscribes later receives the same.
        assert_eq!(
            Client::load(&live_server(&live), Transport::Tcp).await.open().await.received().await[..2],
            expected[..2]
        );
    }
}

/// Another server of the same pages.
fn live_server(live: &LiveUpdates) -> Server {
    Server::layered(&live.layer(), usual)
}

#[tokio::test(start_paused = true)]
async fn a_deletion_is_resent_further_and_further_apart_for_a_quarter_of_an_hour() {
    for transport in TRANSPORTS {
        let (live, _server, _, mut tab) = serve(patient(), transport).await;
        publish(&live, [added(7, "a")]);
        tab.received_in(20.0).await;
        publish(&live, [deleted(7)]);
        assert_eq!(tab.received().await, ["delete 7", "update 7"], "{transport:?}");
        let mut times = Vec::new();
        for second in 21..1200 {
            wait(1.0).await;
            let received = tab.received().await;
            if !received.is_empty() {
                assert_eq!(received, ["delete 7", "update 7"], "{transport:?}");
                times.push(second);
            }
        }
        // It was deleted in second 20.
        assert_eq!(times, [30, 90, 210, 450, 930].map(|age| 20 + age), "{transport:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_while_no_page_is_connected() {
    let (live, _server, page, tab) = serve(patient(), Transport::Tcp).await;
    publish(&live, [deleted(7)]);
    tab.cut(&live).await;
    let before = live.stats().repeats;
    wait(300.0).await;
    assert_eq!(live.stats().repeats, before);
    let mut tab = page.open().await;
    let deletion = ["update 7 ordinary", "delete 7", "update 7"];
    assert_eq!(tab.received().await, deletion, "it has missed it");
    let received = tab.received_in(700.0).await;
    assert_eq!(count(&received, "delete 7"), 3, "and it may have a form open, as any page: {received:?}");
}

#[tokio::test(start_paused = true)]
async fn an_id_that_is_added_again_loses_its_tombstone() {
    for transport in TRANSPORTS {
        let (live, _server, _, mut tab) = serve(patient(), transport).await;
        publish(&live, [added(7, "a"), added(8, "a")]);
        tab.received_in(10.0).await;
        publish(&live, [deleted(7), deleted(8)]);
        tab.received_in(10.0).await;
        publish(&live, [added(7, "again")]);
        let received = tab.received_in(90.0).await;
        assert_eq!(count(&received, "delete 7"), 0, "{transport:?}: {received:?}");
        assert_eq!(count(&received, "delete 8"), 1, "{transport:?}: it was resent when both had settled: {received:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_deletion_older_than_the_log_is_repeated_too() {
    let (live, _server, _, mut tab) = serve(patient().max_log_records(3), Transport::AnyStream).await;
    publish(&live, [deleted(7)]);
    for number in 0..5 {
        tab.received_in(10.0).await;
        publish(&live, [updated(1, &number.to_string())]);
    }
    tab.received().await;
    assert_eq!(live.stats().log_records, 3);
    assert_eq!(tab.received_in(45.0).await, ["update 7 ordinary", "delete 7", "update 7"]);
}

#[tokio::test(start_paused = true)]
async fn a_page_with_a_raw_token_receives_the_repeats_too() {
    let (live, server, _, tab) = serve(patient(), Transport::Tcp).await;
    tab.cut(&live).await;
    let mut tab = Client::with_key(&server, Transport::Tcp, TOKEN).open().await;
    publish(&live, [deleted(7)]);
    tab.received().await;
    assert_eq!(count(&tab.received_in(100.0).await, "delete 7"), 2);
}

#[tokio::test(start_paused = true)]
async fn exceptions_of_a_deleted_series_are_broadcast_before_it() {
    let (live, server, _, mut tab) = serve(patient(), Transport::AnyStream).await;
    let mut elsewhere = exception(10);
    elsewhere["recurring_event_id"] = json!("6");
    publish(&live, [added(5, "series"), added(6, "other series"), added(9, "alone")]);
    let exceptions = [exception(7), exception(8), exception(9), elsewhere];
    publish(&live, exceptions.iter().map(|exception| Change::add(exception).unwrap()));
    // One of them has gone already, and another no longer belongs to it.
    publish(&live, [deleted(8), updated(9, "alone again")]);
    publish(&live, [Change::update(&json!({"id": 9, "recurring_event_id": ""})).unwrap()]);
    tab.received_in(20.0).await;
    server.write(Method::DELETE, "/events/5", "").await;
    let expected = ["update 7 ordinary", "delete 7", "update 7", "delete 5", "update 5"];
    assert_eq!(tab.received().await, expected);
    // Late pages receive it in the same order, and no page receives an exception again.
    let mut late = Client::load(&server, Transport::AnyStream).await.open().await;
    let received = late.received().await;
    assert_eq!(received[received.len() - 5..], expected);
    assert!(!received.contains(&"add 7 moved".to_owned()), "{received:?}");
}

#[tokio::test(start_paused = true)]
async fn what_goes_with_what_goes_along_comes_first() {
    let tasks = Entity::new("tasks").payload_key("task").collection("/tasks").parent_key("parent");
    let (live, server, _, mut tab) = serve(converging().entity(tasks).tokens([TOKEN]), Transport::Tcp).await;
    tab.subscribe("tasks").await;
    let task = |id: u32, parent: u32| Change::add(&json!({"id": id, "parent": parent})).unwrap();
    // Two that go with each other are no reason to go round for ever.
    live.publish_many("tasks", [task(1, 0), task(2, 1), task(3, 2), task(4, 1), task(5, 6), task(6, 5)]).unwrap();
    tab.received_in(10.0).await;
    let request = http::Request::delete("/tasks/1").body("").unwrap();
    server.send(request).await;
    live.publish("tasks", deleted(1)).unwrap();
    let received = tab.received().await;
    let at = |id: u32| received.iter().position(|message| *message == format!("tasks: delete {id}")).unwrap();
    assert!(at(3) < at(2) && at(2) < at(1) && at(4) < at(1), "{received:?}");
    assert_eq!(received.len(), 4, "of other widgets the bare delete: {received:?}");
    live.publish("tasks", deleted(6)).unwrap();
    assert_eq!(tab.received().await, ["tasks: delete 5", "tasks: delete 6"]);
}

#[tokio::test(start_paused = true)]
async fn changes_of_the_application_itself_are_sent_once() {
    let (live, _server, _, mut tab) = serve(patient(), Transport::AnyStream).await;
    publish(&live, [added(5, "series"), Change::add(&exception(7)).unwrap()]);
    tab.received_in(20.0).await;
    live.publish_many("events", [deleted(7), deleted(5)]).unwrap();
    let expected = ["update 7 ordinary", "delete 7", "update 7", "delete 5", "update 5"];
    assert_eq!(tab.received().await, expected);
    assert_eq!(live.stats().changes_published, 4);
}

#[tokio::test(start_paused = true)]
async fn other_widgets_receive_the_bare_delete() {
    for transport in TRANSPORTS {
        let (live, _server, _, mut tab) = serve(patient(), transport).await;
        tab.subscribe("calendars").await;
        tab.received_in(20.0).await;
        live.publish("calendars", deleted(3)).unwrap();
        assert_eq!(tab.received().await, ["calendars: delete 3"], "{transport:?}");
        assert_eq!(tab.received_in(30.0).await, ["calendars: delete 3"], "{transport:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn when_they_are_resent_can_be_set() {
    let repeating = patient().deletion_reminders([7, 10, 10].map(Duration::from_secs));
    let (live, _server, _, mut tab) = serve(repeating, Transport::Tcp).await;
    publish(&live, [deleted(7)]);
    tab.received().await;
    for (seconds, resent) in [(6.9, 0), (0.2, 1), (9.8, 0), (0.2, 1), (9.8, 0), (0.2, 1), (1000.0, 0)] {
        assert_eq!(count(&tab.received_in(seconds).await, "delete 7"), resent, "{seconds}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_old_page_receives_each_deletion_six_times_and_one_loaded_later_none() {
    let (live, server, _, mut old) = serve(patient(), Transport::Tcp).await;
    let deletions: Vec<Change> = (1..=80).map(deleted).collect();
    for deletion in &deletions {
        live.publish("events", deletion.clone()).unwrap();
    }
    wait(75.0).await;
    let mut new = Client::load(&server, Transport::Tcp).await.open().await;
    assert_eq!(new.received_in(40.0).await, NOTHING);
    let received = old.received_in(1000.0).await;
    for number in 1..=80 {
        let times = count(&received, &format!("delete {number}"));
        assert!((5..=6).contains(&times), "{number}: {times}");
    }
    assert_eq!(new.received_in(1000.0).await, NOTHING);
}

#[tokio::test(start_paused = true)]
async fn no_reminders_switch_it_off() {
    for transport in TRANSPORTS {
        let once = patient().deletion_reminders([]);
        let (live, _server, page, mut tab) = serve(once, transport).await;
        publish(&live, [deleted(7)]);
        tab.received().await;
        assert_eq!(tab.received_in(1000.0).await, NOTHING, "{transport:?}");
        tab.cut(&live).await;
        publish(&live, [deleted(8)]);
        wait(20.0).await;
        let mut tab = page.open().await;
        tab.received_in(20.0).await;
        assert_eq!(tab.received_in(1000.0).await, NOTHING, "{transport:?}: nor for a page that came back");
    }
}

#[tokio::test(start_paused = true)]
async fn an_object_known_in_part_may_be_an_exception() {
    let live = patient().build().unwrap();
    let server = Server::layered(&live.layer(), usual);
    wait(100.0).await;
    let mut tab = Client::load(&server, Transport::AnyStream).await.open().await;
    tab.received_in(20.0).await;
    publish(&live, [updated(8, "a part"), deleted(8)]);
    assert_eq!(tab.received().await, ["update 8 a part", "update 8 ordinary", "delete 8", "update 8"]);
}
