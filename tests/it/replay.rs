//! Replay: a page receives what it missed while it was loading, and resumes after it was disconnected.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use tower_live_updates::{Change, LiveUpdates};

use crate::support::{
    Server,
    client::{Client, TRANSPORTS, Tab, Transport, added, adds, deleted, patient, publish, updated, upserts, wait},
    raw::{CLOSE, FIN, TEXT, frame},
    usual,
};

/// A server whose writes, if there were any, are long past.
async fn aged(live: &LiveUpdates) -> Server {
    let server = Server::layered(&live.layer(), usual);
    wait(100.0).await;
    server
}

async fn served() -> (LiveUpdates, Server) {
    let live = patient().build().unwrap();
    let server = aged(&live).await;
    (live, server)
}

fn send_message(live: &LiveUpdates, message: &str) {
    live.send("events", message).unwrap();
}

/// The object of the next event of this kind, whole.
async fn object(tab: &mut Tab, kind: &str) -> Value {
    loop {
        let (first, payload) = tab.raw.frame().await.expect("an open socket");
        if first != FIN | TEXT {
            continue;
        }
        let message: Value = serde_json::from_slice(&payload).unwrap();
        let value = &message["body"]["value"];
        if value["type"] == kind {
            return value["event"].clone();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_page_that_resumes_receives_the_newest_state_of_what_it_missed() {
    for transport in TRANSPORTS {
        let (live, server) = served().await;
        publish(&live, [added(1, "there"), added(2, "there"), added(3, "there")]);
        wait(100.0).await;
        let page = Client::load(&server, transport).await;
        let tab = page.open().await;
        wait(20.0).await;
        tab.cut(&live).await;

        publish(&live, [updated(1, "a"), added(4, "b"), updated(1, "c"), deleted(2), updated(4, "d")]);
        publish(&live, [added(5, "e"), deleted(5), updated(3, "f")]);
        wait(20.0).await;
        let mut tab = page.open().await;
        let expected = [
            &upserts(&[(1, "c")])[..],
            &["delete 2".into(), "update 2".into()],
            &upserts(&[(4, "d")]),
            &["delete 5".into(), "update 5".into()],
            &upserts(&[(3, "f")]),
        ]
        .concat();
        assert_eq!(tab.received().await, expected, "{transport:?}");
        // Its list, or a save of its own, may have undone some of it.
        assert_eq!(tab.received_in(4.5).await, [""; 0], "{transport:?}");
        assert_eq!(tab.received_in(1.0).await, expected, "{transport:?}: once more after five seconds");
        assert_eq!(live.stats().replays, 1, "{transport:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn messages_are_replayed_in_order_and_neither_conflated_nor_repeated() {
    for transport in TRANSPORTS {
        let (live, server) = served().await;
        let page = Client::load(&server, transport).await;
        page.open().await.cut(&live).await;
        send_message(&live, "one");
        publish(&live, [added(1, "a")]);
        send_message(&live, "two");
        send_message(&live, "two");
        publish(&live, [added(2, "b")]);
        send_message(&live, "three");
        wait(20.0).await;
        let mut tab = page.open().await;
        let (a, b) = (adds(&[(1, "a")]), adds(&[(2, "b")]));
        let messages = |messages: &[&str]| messages.iter().map(|&message| message.to_owned()).collect::<Vec<_>>();
        let expected = [messages(&["one"]), a.clone(), messages(&["two", "two"]), b.clone(), messages(&["three"])];
        assert_eq!(tab.received().await, expected.concat(), "{transport:?}");
        assert_eq!(tab.received_in(20.0).await, [a, b].concat(), "{transport:?}: the second time without them");
    }
}

#[tokio::test(start_paused = true)]
async fn a_page_that_is_loaded_receives_the_last_minute_twice() {
    for transport in TRANSPORTS {
        let (live, server) = served().await;
        publish(&live, [added(1, "old"), added(2, "old")]);
        send_message(&live, "old");
        wait(30.0).await;
        publish(&live, [updated(2, "young"), deleted(3)]);
        send_message(&live, "young");
        wait(31.0).await;
        let page = Client::load(&server, transport).await;
        // Its list may be as old as its handshake, however late its socket is.
        wait(8.0).await;
        let mut tab = page.open().await;
        // An unknown id may have been an exception of a series.
        let deletion = ["update 3 ordinary", "delete 3", "update 3"].map(str::to_owned);
        let expected = [&upserts(&[(2, "young")])[..], &deletion].concat();
        assert_eq!(tab.received().await, [&expected[..], &["young".to_owned()]].concat(), "{transport:?}");
        assert_eq!(tab.received_in(4.9).await, [""; 0], "{transport:?}");
        assert_eq!(tab.received_in(0.2).await, expected, "{transport:?}");
        // The deletion settled, so that the reminder after 90 s is spared.
        assert_eq!(tab.received_in(150.0).await, [""; 0], "{transport:?}");
        assert_eq!(tab.received_in(20.0).await, deletion, "{transport:?}: deletions alone go on");
    }
}

#[tokio::test(start_paused = true)]
async fn changes_between_handshake_and_socket_are_not_lost() {
    let (live, server) = served().await;
    let page = Client::load(&server, Transport::AnyStream).await;
    let mut tab = page.connect().await;
    publish(&live, [added(1, "between")]);
    assert_eq!(tab.received().await, [""; 0], "nothing is subscribed");
    tab.subscribe("events").await;
    assert_eq!(tab.received().await, adds(&[(1, "between")]));
    publish(&live, [added(2, "live")]);
    assert_eq!(tab.received().await, ["add 2 live"], "and from now on as it happens");
}

#[tokio::test(start_paused = true)]
async fn a_load_without_recent_writes_replays_nothing() {
    for transport in TRANSPORTS {
        let (live, server) = served().await;
        publish(&live, [added(1, "old")]);
        wait(61.0).await;
        let mut tab = Client::load(&server, transport).await.open().await;
        assert_eq!(tab.received().await, [""; 0], "{transport:?}");
        assert_eq!(tab.received_in(100.0).await, [""; 0], "{transport:?}");
        assert_eq!((live.stats().replays, live.stats().repeats), (0, 0), "{transport:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_raw_token_receives_nothing_of_the_past() {
    let (live, server) = served().await;
    publish(&live, [added(1, "young")]);
    wait(10.0).await;
    let mut tab = Client::with_key(&server, Transport::Tcp, "demo").open().await;
    assert_eq!(tab.received_in(20.0).await, [""; 0]);
    assert_eq!(live.stats().sessions, 0);
}

#[tokio::test(start_paused = true)]
async fn an_update_that_leaves_fields_out_is_completed_with_what_was_known() {
    let (live, server) = served().await;
    let page = Client::load(&server, Transport::AnyStream).await;
    page.open().await.cut(&live).await;
    let mut whole = crate::support::client::event(7, "first");
    whole["color"] = json!("red");
    publish(&live, [Change::add(&whole).unwrap()]);
    server.write(Method::PUT, "/events/7", r#"{"text":"second"}"#).await;
    server.write(Method::PATCH, "/events/7", r#"{"color":"blue"}"#).await;
    wait(20.0).await;
    let mut tab = page.open().await;
    let expected = json!({
        "id": "7", "text": "second", "color": "blue",
        "start_date": "2026-05-13 09:00", "end_date": "2026-05-13 10:00",
    });
    assert_eq!(object(&mut tab, "add-event").await, expected);
    assert_eq!(object(&mut tab, "update-event").await, expected);
}

#[tokio::test(start_paused = true)]
async fn an_object_of_which_only_a_part_is_known_is_never_added() {
    let (live, server) = served().await;
    let page = Client::load(&server, Transport::AnyStream).await;
    page.open().await.cut(&live).await;
    server.write(Method::PATCH, "/events/7", r#"{"text":"renamed"}"#).await;
    // With dates it could be added, and would be an event without all its other fields.
    server.write(Method::PUT, "/events/8", &crate::support::client::event(8, "moved").to_string()).await;
    wait(20.0).await;
    let mut tab = page.open().await;
    assert_eq!(tab.received().await, ["update 7 renamed", "update 8 moved"]);
}

#[tokio::test(start_paused = true)]
async fn a_row_read_back_from_the_store_is_whole() {
    let events = tower_live_updates::Entity::scheduler("/events").load((), async |(), id: String| {
        Ok::<_, std::io::Error>(Some(crate::support::client::event(id.parse().unwrap_or(0), "stored")))
    });
    let live = LiveUpdates::builder("/api/v1").entity(events).tokens([crate::support::TOKEN]).build().unwrap();
    let server = aged(&live).await;
    let page = Client::load(&server, Transport::AnyStream).await;
    page.open().await.cut(&live).await;
    server.write(Method::PATCH, "/events/7", r#"{"text":"sent"}"#).await;
    wait(20.0).await;
    assert_eq!(page.open().await.received().await, upserts(&[(7, "stored")]));
}

#[tokio::test(start_paused = true)]
async fn an_object_whose_id_is_used_again_exists() {
    let (live, server) = served().await;
    publish(&live, [added(1, "first")]);
    wait(100.0).await;
    let page = Client::load(&server, Transport::AnyStream).await;
    page.open().await.cut(&live).await;
    publish(&live, [deleted(1), added(1, "second")]);
    wait(20.0).await;
    let mut tab = page.open().await;
    assert_eq!(tab.received().await, upserts(&[(1, "second")]));
    assert_eq!(tab.received_in(100.0).await, upserts(&[(1, "second")]), "and its deletion is never repeated");
}

#[tokio::test(start_paused = true)]
async fn what_is_subscribed_later_on_the_same_socket_has_a_start_of_its_own() {
    for transport in TRANSPORTS {
        let (live, server) = served().await;
        live.publish("calendars", Change::add(&json!({"id": 1, "text": "blue"})).unwrap()).unwrap();
        publish(&live, [added(1, "a")]);
        wait(10.0).await;
        let mut tab = Client::load(&server, transport).await.open().await;
        assert_eq!(tab.received().await, adds(&[(1, "a")]), "{transport:?}");
        wait(60.0).await;
        tab.received().await;
        live.publish("calendars", Change::update(&json!({"id": 1, "text": "red"})).unwrap()).unwrap();
        publish(&live, [updated(1, "b")]);
        assert_eq!(tab.received().await, ["update 1 b"], "{transport:?}");
        wait(10.0).await;
        tab.subscribe("calendars").await;
        let expected = ["calendars: add 1 red", "calendars: update 1 red"];
        assert_eq!(tab.received().await, expected, "{transport:?}: since its handshake, and of events nothing anew");
        publish(&live, [updated(1, "c")]);
        assert_eq!(tab.received().await, ["update 1 c"], "{transport:?}");
        assert_eq!(tab.received_in(5.1).await, expected, "{transport:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn subscribing_twice_sends_nothing_twice() {
    for transport in TRANSPORTS {
        let (live, server) = served().await;
        publish(&live, [added(1, "a")]);
        wait(10.0).await;
        let page = Client::load(&server, transport).await;
        let mut tab = page.open().await;
        tab.subscribe("events").await;
        assert_eq!(tab.received().await, adds(&[(1, "a")]), "{transport:?}");
        tab.subscribe("events").await;
        assert_eq!(tab.received().await, [""; 0], "{transport:?}");
        publish(&live, [updated(1, "b")]);
        assert_eq!(tab.received().await, ["update 1 b"], "{transport:?}");
        assert_eq!((live.stats().subscriptions, live.stats().replays), (1, 1), "{transport:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_entity_subscribed_anew_is_received_from_the_pages_position_on() {
    let (live, server) = served().await;
    let page = Client::load(&server, Transport::AnyStream).await;
    let mut tab = page.open().await;
    wait(20.0).await;
    tab.unsubscribe("events").await;
    tab.received().await;
    publish(&live, [added(1, "meanwhile")]);
    wait(10.0).await;
    assert_eq!(tab.received().await, [""; 0]);
    tab.subscribe("events").await;
    assert_eq!(tab.received().await, adds(&[(1, "meanwhile")]));
}

#[tokio::test(start_paused = true)]
async fn a_long_replay_comes_whole_in_chunks_and_changes_meanwhile_come_at_once() {
    for transport in TRANSPORTS {
        let (live, server) = served().await;
        let page = Client::load(&server, transport).await;
        page.open().await.cut(&live).await;
        let text = "long ".repeat(40);
        live.publish_many("events", (1..=3000).map(|id| added(id, &text))).unwrap();
        live.publish_many("events", (1..=3000).filter(|id| id % 3 == 0).map(|id| updated(id, "new"))).unwrap();
        wait(20.0).await;
        let mut tab = page.open().await;
        // Far more than the stream holds, so this is published while the replay waits.
        for _ in 0..5 {
            tokio::task::yield_now().await;
        }
        publish(&live, [updated(3000, "newer")]);
        let mut received = tab.received_in(1.0).await;
        publish(&live, [updated(1, "newest")]);
        received.extend(tab.received().await);
        let drawn = |received: &[String]| received.iter().filter(|message| message.starts_with("update ")).count();
        assert!((100..200).contains(&drawn(&received)), "{transport:?}: {} updates in a second", drawn(&received));
        assert!(received.contains(&"update 1 newest".to_owned()), "{transport:?}");
        for _ in 0..200 {
            received.extend(tab.received_in(0.1).await);
        }
        assert!(drawn(&received) < 1000, "{transport:?}: its page must have time to draw");
        for _ in 0..600 {
            received.extend(tab.received_in(0.1).await);
        }
        let mut state: Vec<Option<&str>> = vec![None; 3001];
        for message in &received {
            let [verb, id, text] = message.splitn(3, ' ').collect::<Vec<_>>().try_into().expect("three words");
            let known = &mut state[id.parse::<usize>().unwrap()];
            // As the stock client does it: an add of what is there and an update of what is not are nothing.
            if (verb == "add") == known.is_none() {
                *known = Some(text);
            }
        }
        for (id, text) in state.iter().enumerate().skip(1) {
            let expected = match id {
                1 => "newest",
                3000 => "newer",
                id if id % 3 == 0 => "new",
                _ => text.as_ref().map_or("nothing", |text| *text),
            };
            assert_eq!(*text, Some(expected), "{transport:?}: event {id}");
            assert_ne!(expected, "nothing");
        }
        // Once, and once more, since a write was in flight when it began.
        assert!(received.len() <= 2 * (3000 + 1000) + 10, "{transport:?}: {} frames", received.len());
    }
}

#[tokio::test(start_paused = true)]
async fn the_load_margin_and_the_second_replay_delay_can_be_set() {
    let live = patient()
        .first_load_margin(Duration::from_secs(200))
        .second_replay_delay(Duration::from_secs(2))
        .build()
        .unwrap();
    let server = aged(&live).await;
    publish(&live, [added(1, "a")]);
    wait(5.0).await;
    publish(&live, [added(2, "b")]);
    wait(198.0).await;
    let mut tab = Client::load(&server, Transport::AnyStream).await.open().await;
    assert_eq!(tab.received().await, adds(&[(2, "b")]));
    assert_eq!(tab.received_in(1.9).await, [""; 0]);
    assert_eq!(tab.received_in(0.2).await, adds(&[(2, "b")]));
    assert_eq!(tab.received_in(60.0).await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn without_a_load_margin_a_replay_starts_at_the_handshake() {
    let live = patient().first_load_margin(Duration::ZERO).build().unwrap();
    let server = aged(&live).await;
    publish(&live, [added(1, "before")]);
    wait(1.0).await;
    let page = Client::load(&server, Transport::AnyStream).await;
    publish(&live, [added(2, "after")]);
    assert_eq!(page.open().await.received().await, adds(&[(2, "after")]));
}

/// Chromium keeps a page that was left for a way back and answers its pings; when the page comes back, it closes its
/// socket with 1001 and has thrown away what came meanwhile.
#[tokio::test(start_paused = true)]
async fn a_page_that_left_receives_again_what_its_browser_may_have_discarded() {
    for transport in TRANSPORTS {
        let message = "and its pong acknowledges them";
        let kept = [adds(&[(2, "b"), (3, "c")]), vec![message.to_owned()]].concat();
        for (code, expected) in [(1001_u16, kept), (1000, vec![message.to_owned()])] {
            let (live, server) = served().await;
            let page = Client::load(&server, transport).await;
            let mut tab = page.open().await;
            publish(&live, [added(1, "a")]);
            tab.received_in(700.0).await;
            for change in [added(2, "b"), added(3, "c")] {
                publish(&live, [change]);
                tab.received_in(20.0).await;
            }
            live.send("events", message).unwrap();
            tab.received_in(20.0).await;
            tab.raw.write(&frame(CLOSE, &code.to_be_bytes())).await.unwrap();
            tab.end().await;
            assert_eq!(page.open().await.received().await, expected, "{transport:?} {code}");
        }
    }
}
