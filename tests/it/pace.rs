//! Resends leave the page time to draw: the stock client draws anew at each update, and adds together.

use std::time::Duration;

use http::Method;
use tower_live_updates::{Change, Entity, Identity, LiveUpdates, Snapshot};

use crate::support::{
    Server,
    client::{Client, TRANSPORTS, Tab, Transport, added, adds, event, patient, publish, updated, upserts, wait},
    usual,
};

/// The message after which a page loads its list again.
const MARKER: &str = r#"{"event":{"id":"$resync"},"type":"resync"}"#;
const RESYNC: &str = r#"$resync: {"entity":"events","type":"resync"}"#;

async fn served(live: LiveUpdates) -> (LiveUpdates, Server) {
    let server = Server::layered(&live.layer(), usual);
    wait(100.0).await;
    (live, server)
}

/// What it receives in so many seconds, reading at once.
async fn reads(tab: &mut Tab, seconds: u32) -> Vec<String> {
    let mut received = Vec::new();
    for _ in 0..seconds * 10 {
        received.extend(tab.received_in(0.1).await);
    }
    received
}

fn updates(received: &[String]) -> usize {
    received.iter().filter(|message| message.starts_with("update ")).count()
}

/// Handlers of `$resync` and of events, as a page attaches them.
async fn opened_with_resync(page: &Client) -> Tab {
    let mut tab = page.connect().await;
    tab.subscribe("$resync").await;
    tab.subscribe("events").await;
    tab
}

#[tokio::test(start_paused = true)]
async fn an_import_is_repeated_as_adds_alone() {
    for transport in TRANSPORTS {
        let (live, server) = served(patient().build().unwrap()).await;
        let mut tab = Client::load(&server, transport).await.open().await;
        reads(&mut tab, 20).await;
        for id in 1..=60 {
            publish(&live, [added(id, "new")]);
        }
        let received = reads(&mut tab, 300).await;
        assert!(received.len() > 60, "{transport:?}: it is sent again");
        assert_eq!(updates(&received), 0, "{transport:?}: {received:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_object_that_existed_before_is_repeated_with_its_update() {
    let (live, server) = served(patient().build().unwrap()).await;
    publish(&live, [Change::delete(1).unwrap()]);
    wait(100.0).await;
    let page = Client::load(&server, Transport::Tcp).await;
    page.open().await.cut(&live).await;
    publish(&live, [added(1, "again"), added(2, "new")]);
    wait(20.0).await;
    let received = page.open().await.received().await;
    assert_eq!(received, [upserts(&[(1, "again")]), adds(&[(2, "new")])].concat());
}

#[tokio::test(start_paused = true)]
async fn an_add_whose_page_shows_something_else_is_repeated_with_its_update() {
    for (stored, is_updated) in [("as sent", false), ("AS SENT", true)] {
        let entity = Entity::scheduler("/events")
            .load((), move |(), _| async move { Ok::<_, std::convert::Infallible>(Some(event(7, stored))) });
        let (live, server) =
            served(LiveUpdates::builder("/api/v1").tokens(["demo"]).entity(entity).build().unwrap()).await;
        let page = Client::load(&server, Transport::AnyStream).await;
        page.open().await.cut(&live).await;
        server.write(Method::POST, "/events", &event(99, "as sent").to_string()).await;
        wait(20.0).await;
        let received = page.open().await.received().await;
        assert_eq!((received.len(), updates(&received)), if is_updated { (2, 1) } else { (1, 0) }, "{received:?}");
    }
}

/// A server that knows nothing of its pages, with a store of so many rows.
async fn started(rows: u32) -> (LiveUpdates, Server, Client) {
    let entity = Entity::scheduler("/events").snapshot((), move |(), _: Identity| async move {
        Ok::<_, std::convert::Infallible>(Snapshot::new((1..=rows).map(|id| event(id, "row"))))
    });
    let hour = Duration::from_secs(3600);
    let build = || {
        let builder = LiveUpdates::builder("/api/v1").tokens(["demo"]).entity(entity.clone());
        builder.ping_interval(hour).pong_timeout(2 * hour).build().unwrap()
    };
    let key = {
        let (_before, server) = served(build()).await;
        Client::load(&server, Transport::AnyStream).await.key
    };
    let (live, server) = served(build()).await;
    let page = Client::with_key(&server, Transport::AnyStream, &key);
    (live, server, page)
}

#[tokio::test(start_paused = true)]
async fn many_rows_are_sent_in_chunks_and_changes_meanwhile_at_once() {
    let (live, _server, page) = started(1000).await;
    let mut tab = page.open().await;
    let first = reads(&mut tab, 1).await;
    assert!((12..50).contains(&updates(&first)), "twenty in a second: {}", updates(&first));
    publish(&live, [updated(999, "meanwhile")]);
    assert!(tab.received_in(0.1).await.contains(&"update 999 meanwhile".to_owned()));
    let rest = reads(&mut tab, 9).await;
    assert!((180..260).contains(&updates(&rest)), "{}", updates(&rest));
    let end = reads(&mut tab, 60).await;
    assert!(end.contains(&"update 1000 row".to_owned()));
    let newest = end.iter().rfind(|received| received.starts_with("update 999 "));
    assert_eq!(newest.map(String::as_str), Some("update 999 meanwhile"), "the row is older");
}

#[tokio::test(start_paused = true)]
async fn a_page_that_handles_resync_reloads_its_list_instead() {
    for (rows, expected) in [(100, None), (101, Some([MARKER, RESYNC]))] {
        let (_live, _server, page) = started(rows).await;
        let mut tab = opened_with_resync(&page).await;
        let received = reads(&mut tab, 100).await;
        match expected {
            Some(expected) => assert_eq!(received, expected, "{rows}"),
            None => assert!(updates(&received) >= 100 && !received.contains(&MARKER.to_owned()), "{rows}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn so_it_does_where_it_has_missed_very_much() {
    for missed in [50, 500] {
        let (live, server) = served(patient().build().unwrap()).await;
        let page = Client::load(&server, Transport::Tcp).await;
        opened_with_resync(&page).await.cut(&live).await;
        for id in 1..=missed {
            publish(&live, [updated(id, "a")]);
        }
        wait(20.0).await;
        let mut tab = opened_with_resync(&page).await;
        let received = reads(&mut tab, 100).await;
        assert_eq!(received.contains(&RESYNC.to_owned()), missed > 100, "{missed}");
        assert!(updates(&received) <= 101, "{missed}: {}", updates(&received));
        publish(&live, [updated(1, "b")]);
        assert_eq!(tab.received().await, ["update 1 b"], "{missed}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_in_a_long_replay_keeps_its_position() {
    let (live, server) = served(patient().build().unwrap()).await;
    let page = Client::load(&server, Transport::Tcp).await;
    page.open().await.cut(&live).await;
    publish(&live, (1..=300).map(|id| updated(id, "a")));
    live.send("events", "behind").unwrap();
    wait(20.0).await;
    let mut tab = page.open().await;
    let received = tab.received().await;
    assert_eq!(received.last().map(String::as_str), Some("behind"), "at once, as all that stands before it");
    assert_eq!(updates(&received), 300);
    assert_eq!(reads(&mut tab, 100).await.iter().filter(|message| *message == "behind").count(), 0);
}

#[tokio::test(start_paused = true)]
async fn rows_that_are_broken_off_are_sent_without_a_pause_the_next_time() {
    let (live, _server, page) = started(1000).await;
    let mut tab = page.open().await;
    assert!(!reads(&mut tab, 30).await.contains(&"update 1000 row".to_owned()));
    live.refresh("events").unwrap();
    assert!(reads(&mut tab, 10).await.contains(&"update 1000 row".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_message_that_waits_for_many_rows_is_sent_once_and_soon() {
    let (live, _server, page) = started(1000).await;
    live.send("events", "waits").unwrap();
    let mut tab = page.open().await;
    let received = reads(&mut tab, 10).await;
    assert!(received.contains(&"update 1000 row".to_owned()));
    assert_eq!(received.iter().filter(|message| *message == "waits").count(), 1);
    assert!(!reads(&mut tab, 100).await.contains(&"waits".to_owned()));
}
