//! `Delivery::Plain`: each change is sent once, and nothing else.

use http::Method;
use serde_json::{Value, json};
use tower_live_updates::{Change, Entity, LiveUpdates};

use crate::support::{
    Server, builder,
    client::{Client, TRANSPORTS, Transport, added, deleted, event, publish, updated, wait},
    converging, live, usual,
};

const NOTHING: [&str; 0] = [];

fn served() -> (LiveUpdates, Server) {
    let live = live();
    let server = Server::layered(&live.layer(), usual);
    (live, server)
}

/// Writes by hand and over HTTP, close together, some of one object.
async fn traffic(live: &LiveUpdates, server: &Server) {
    publish(live, [added(1, "a"), added(2, "b"), updated(1, "c")]);
    server.write(Method::PUT, "/events/2", &event(2, "d").to_string()).await;
    server.write(Method::PATCH, "/events/3", r#"{"text":"part"}"#).await;
    live.send("events", "message").unwrap();
    server.write(Method::DELETE, "/events/2", "").await;
    publish(live, [deleted(9)]);
}

const AS_IT_HAPPENED: [&str; 8] =
    ["add 1 a", "add 2 b", "update 1 c", "update 2 d", "update 3 part", "message", "delete 2", "delete 9"];

#[tokio::test(start_paused = true)]
async fn each_write_is_one_frame_and_nothing_is_repeated() {
    for transport in TRANSPORTS {
        let (live, server) = served();
        let mut tab = Client::with_key(&server, transport, "demo").open().await;
        traffic(&live, &server).await;
        assert_eq!(tab.received().await, AS_IT_HAPPENED, "{transport:?}");
        for _ in 0..40 {
            assert_eq!(tab.received_in(30.0).await, NOTHING, "{transport:?}");
        }
        assert!(tab.pings.iter().all(Vec::is_empty), "{transport:?}: nothing is acknowledged");
        let stats = live.stats();
        assert_eq!(
            (stats.repeats, stats.replays, stats.snapshots, stats.unrecovered_gaps),
            (0, 0, 0, 0),
            "{transport:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_same_traffic_is_broadcast_with_resends_by_default() {
    let live = converging().tokens(["demo"]).build().unwrap();
    let server = Server::layered(&live.layer(), usual);
    let mut tab = Client::load(&server, Transport::AnyStream).await.open().await;
    traffic(&live, &server).await;
    let received = tab.received().await;
    assert_ne!(received, AS_IT_HAPPENED);
    let mut rest = received.iter();
    assert!(
        AS_IT_HAPPENED.iter().all(|message| rest.any(|received| received == message)),
        "all of them in this order: {received:?}"
    );
    assert!(!tab.received_in(30.0).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_handshake_gives_no_key_and_a_page_that_reconnects_receives_new_changes_only() {
    let (live, server) = served();
    assert_eq!(server.handshake("demo").await.body(), r#"{"api":{},"data":{},"websocket":true}"#);
    // One that another server gave it stands for its token, and for nothing else.
    let elsewhere = converging().tokens(["demo"]).build().unwrap();
    let key = Client::load(&Server::layered(&elsewhere.layer(), usual), Transport::AnyStream).await.key;
    assert!(key.starts_with("lu1."));
    for key in ["demo", &key] {
        let page = Client::with_key(&server, Transport::Tcp, key);
        page.open().await.cut(&live).await;
        traffic(&live, &server).await;
        let mut tab = page.open().await;
        assert_eq!(tab.received().await, NOTHING, "{key}");
        publish(&live, [updated(1, "then")]);
        assert_eq!(tab.received().await, ["update 1 then"], "{key}");
        assert_eq!(tab.received_in(60.0).await, NOTHING, "{key}");
        tab.cut(&live).await;
    }
}

#[tokio::test(start_paused = true)]
async fn lists_and_failed_writes_make_no_difference() {
    let live = live();
    let server = Server::layered(&live.layer(), |request| async {
        let is_list = request.method() == Method::GET;
        crate::support::read(request).await.unwrap();
        crate::support::json(if is_list { 200 } else { 404 }, "[]")
    });
    let mut tab = Client::with_key(&server, Transport::AnyStream, "demo").open().await;
    server.write(Method::GET, "/events", "").await;
    server.write(Method::PUT, "/events/1", "{}").await;
    publish(&live, [added(1, "a")]);
    server.write(Method::PUT, "/events/1", "{}").await;
    server.write(Method::GET, "/events", "").await;
    assert_eq!(tab.received().await, ["add 1 a"]);
    assert_eq!(tab.received_in(60.0).await, NOTHING);
}

#[tokio::test(start_paused = true)]
async fn the_application_names_what_a_delete_cascades_to() {
    let entity = Entity::new("tasks").payload_key("task").parent_key("parent");
    let live = builder().entity(entity).tokens(["demo"]).build().unwrap();
    let server = Server::layered(&live.layer(), usual);
    let mut tab = Client::with_key(&server, Transport::AnyStream, "demo").connect().await;
    tab.subscribe("tasks").await;
    tab.received().await;
    let child = Change::add(&json!({"id": 2, "parent": 1})).unwrap();
    live.publish_many("tasks", [child, deleted(1)]).unwrap();
    assert_eq!(tab.received().await, ["tasks: add 2", "tasks: delete 1"]);
}

#[tokio::test(start_paused = true)]
async fn an_update_is_broadcast_as_it_was_sent() {
    let (live, server) = served();
    let mut page = server.subscribed().await;
    publish(&live, [added(1, "a")]);
    let sent = json!({"id": 1, "text": "part"});
    publish(&live, [Change::update(&sent).unwrap()]);
    let received: Vec<Value> = page.received(&live).await;
    assert_eq!(
        received[1],
        json!({"type": "update-event", "event": sent}),
        "nothing of what was known before is added"
    );
}

#[tokio::test(start_paused = true)]
async fn a_refresh_asks_pages_to_load_their_lists() {
    let (live, server) = served();
    let mut tab = Client::with_key(&server, Transport::AnyStream, "demo").open().await;
    live.refresh("events").unwrap();
    wait(1.0).await;
    assert_eq!(tab.received().await, [r#"{"event":{"id":"$resync"},"type":"resync"}"#]);
}
