//! What is told again leaves the page time to draw: the stock client draws anew at each update, and adds together.

use std::time::Duration;

use http::Method;
use tower_live_updates::{Change, Entity, Identity, LiveUpdates, Snapshot};

use crate::support::{
    Server,
    client::{Client, Tab, WAYS, Way, added, adds, event, patient, publish, updated, upserts, wait},
    usual,
};

/// What tells a page to load its list again.
const MARKER: &str = r#"{"event":{"id":"$resync"},"type":"resync"}"#;
const RESYNC: &str = r#"$resync: {"entity":"events","type":"resync"}"#;

async fn served(live: LiveUpdates) -> (LiveUpdates, Server) {
    let server = Server::layered(&live.layer(), usual);
    wait(100.0).await;
    (live, server)
}

/// What it hears in so many seconds, and reads as it comes.
async fn reads(tab: &mut Tab, seconds: u32) -> Vec<String> {
    let mut heard = Vec::new();
    for _ in 0..seconds * 10 {
        heard.extend(tab.hears_in(0.1).await);
    }
    heard
}

fn updates(heard: &[String]) -> usize {
    heard.iter().filter(|told| told.starts_with("update ")).count()
}

/// Handlers of `$resync` and of events, as a page attaches them.
async fn opened_with_resync(page: &Client) -> Tab {
    let mut tab = page.connect().await;
    tab.subscribe("$resync").await;
    tab.subscribe("events").await;
    tab
}

#[tokio::test(start_paused = true)]
async fn an_import_is_told_again_as_adds_alone() {
    for way in WAYS {
        let (live, server) = served(patient().build().unwrap()).await;
        let mut tab = Client::load(&server, way).await.open().await;
        reads(&mut tab, 20).await;
        for id in 1..=60 {
            publish(&live, [added(id, "new")]);
        }
        let heard = reads(&mut tab, 300).await;
        assert!(heard.len() > 60, "{way:?}: it is told again");
        assert_eq!(updates(&heard), 0, "{way:?}: {heard:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_there_before_is_told_again_with_its_update() {
    let (live, server) = served(patient().build().unwrap()).await;
    publish(&live, [Change::delete(1).unwrap()]);
    wait(100.0).await;
    let page = Client::load(&server, Way::Tcp).await;
    page.open().await.cut(&live).await;
    publish(&live, [added(1, "again"), added(2, "new")]);
    wait(20.0).await;
    let heard = page.open().await.heard().await;
    assert_eq!(heard, [upserts(&[(1, "again")]), adds(&[(2, "new")])].concat());
}

#[tokio::test(start_paused = true)]
async fn an_add_whose_page_shows_something_else_is_told_again_with_its_update() {
    for (stored, is_updated) in [("as sent", false), ("AS SENT", true)] {
        let entity = Entity::scheduler("/events")
            .load((), move |(), _| async move { Ok::<_, std::convert::Infallible>(Some(event(7, stored))) });
        let (live, server) =
            served(LiveUpdates::builder("/api/v1").tokens(["demo"]).entity(entity).build().unwrap()).await;
        let page = Client::load(&server, Way::AnyStream).await;
        page.open().await.cut(&live).await;
        server.write(Method::POST, "/events", &event(99, "as sent").to_string()).await;
        wait(20.0).await;
        let heard = page.open().await.heard().await;
        assert_eq!((heard.len(), updates(&heard)), if is_updated { (2, 1) } else { (1, 0) }, "{heard:?}");
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
        Client::load(&server, Way::AnyStream).await.key
    };
    let (live, server) = served(build()).await;
    let page = Client::with_key(&server, Way::AnyStream, &key);
    (live, server, page)
}

#[tokio::test(start_paused = true)]
async fn many_rows_are_told_in_pieces_and_what_happens_meanwhile_at_once() {
    let (live, _server, page) = started(1000).await;
    let mut tab = page.open().await;
    let first = reads(&mut tab, 1).await;
    assert!((12..50).contains(&updates(&first)), "twenty-four in a second: {}", updates(&first));
    publish(&live, [updated(999, "meanwhile")]);
    assert!(tab.hears_in(0.1).await.contains(&"update 999 meanwhile".to_owned()));
    let rest = reads(&mut tab, 9).await;
    assert!((180..260).contains(&updates(&rest)), "{}", updates(&rest));
    let end = reads(&mut tab, 60).await;
    assert!(end.contains(&"update 1000 row".to_owned()));
    let newest = end.iter().rfind(|told| told.starts_with("update 999 "));
    assert_eq!(newest.map(String::as_str), Some("update 999 meanwhile"), "the row is older");
}

#[tokio::test(start_paused = true)]
async fn a_page_that_can_load_its_list_again_does_that_instead() {
    for (rows, expected) in [(100, None), (101, Some([MARKER, RESYNC]))] {
        let (_live, _server, page) = started(rows).await;
        let mut tab = opened_with_resync(&page).await;
        let heard = reads(&mut tab, 100).await;
        match expected {
            Some(expected) => assert_eq!(heard, expected, "{rows}"),
            None => assert!(updates(&heard) >= 100 && !heard.contains(&MARKER.to_owned()), "{rows}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn so_it_does_where_it_has_missed_very_much() {
    for missed in [50, 500] {
        let (live, server) = served(patient().build().unwrap()).await;
        let page = Client::load(&server, Way::Tcp).await;
        opened_with_resync(&page).await.cut(&live).await;
        for id in 1..=missed {
            publish(&live, [updated(id, "a")]);
        }
        wait(20.0).await;
        let mut tab = opened_with_resync(&page).await;
        let heard = reads(&mut tab, 100).await;
        assert_eq!(heard.contains(&RESYNC.to_owned()), missed > 100, "{missed}");
        assert!(updates(&heard) <= 101, "{missed}: {}", updates(&heard));
        publish(&live, [updated(1, "b")]);
        assert_eq!(tab.heard().await, ["update 1 b"], "{missed}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_among_much_that_was_missed_keeps_its_place() {
    let (live, server) = served(patient().build().unwrap()).await;
    let page = Client::load(&server, Way::Tcp).await;
    page.open().await.cut(&live).await;
    publish(&live, (1..=300).map(|id| updated(id, "a")));
    live.send("events", "behind").unwrap();
    wait(20.0).await;
    let mut tab = page.open().await;
    let heard = tab.heard().await;
    assert_eq!(heard.last().map(String::as_str), Some("behind"), "at once, as all that stands before it");
    assert_eq!(updates(&heard), 300);
    assert_eq!(reads(&mut tab, 100).await.iter().filter(|told| *told == "behind").count(), 0);
}

#[tokio::test(start_paused = true)]
async fn rows_that_are_broken_off_are_told_without_a_pause_the_next_time() {
    let (live, _server, page) = started(1000).await;
    let mut tab = page.open().await;
    assert!(!reads(&mut tab, 30).await.contains(&"update 1000 row".to_owned()));
    live.refresh("events").unwrap();
    assert!(reads(&mut tab, 10).await.contains(&"update 1000 row".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_message_that_waits_for_many_rows_is_told_once_and_soon() {
    let (live, _server, page) = started(1000).await;
    live.send("events", "waits").unwrap();
    let mut tab = page.open().await;
    let heard = reads(&mut tab, 10).await;
    assert!(heard.contains(&"update 1000 row".to_owned()));
    assert_eq!(heard.iter().filter(|told| *told == "waits").count(), 1);
    assert!(!reads(&mut tab, 100).await.contains(&"waits".to_owned()));
}
