//! The audit log: a line for each broadcast and each receiver, and nothing of the content.

use std::{convert::Infallible, time::Duration};

use http::{Method, Request};
use serde_json::{Value, json};
use tower_live_updates::{
    AuthError, AuthRequest, Change, Entity, Identity, LiveUpdates, LiveUpdatesBuilder, Snapshot, builder::HasAuth,
};

use crate::support::{
    Server,
    client::{Client, TRANSPORTS, Tab, Transport, wait},
    logs::{Logs, Record, Records},
    usual,
};

const TARGET: &str = "tower_live_updates::audit";
/// Stands in every object and message, and in no line.
const PAYLOAD: &str = "payload-6b1e";

/// The token names the principal and, behind it, the scope: `ann@north`; `root` has all scopes.
fn builder(events: Entity) -> LiveUpdatesBuilder<HasAuth> {
    unaudited(events).audit()
}

fn unaudited(events: Entity) -> LiveUpdatesBuilder<HasAuth> {
    let hour = Duration::from_secs(3600);
    LiveUpdates::builder("/api/v1")
        .entity(events)
        .entity(Entity::new("calendars"))
        .authenticate_fn((), async |(), request: AuthRequest| {
            Ok::<_, AuthError>(match request.token().split_once('@') {
                Some((name, scope)) => Identity::new(name).with_scope(scope),
                None => Identity::new(request.token()).with_all_scopes(),
            })
        })
        .ping_interval(2 * hour)
        .pong_timeout(3 * hour)
}

async fn serve(builder: LiveUpdatesBuilder<HasAuth>) -> (LiveUpdates, Server) {
    let live = builder.build().unwrap();
    let server = Server::layered(&live.layer(), usual);
    wait(100.0).await;
    (live, server)
}

/// A page that has received all there was to receive.
async fn page(server: &Server, transport: Transport, user: &str) -> Tab {
    let mut tab = Client::load_with(server, transport, user).await.open().await;
    tab.received_in(20.0).await;
    tab
}

/// An object with the marker in its text, and in a key.
fn object(id: u32) -> Value {
    json!({
        "id": id, "text": PAYLOAD, PAYLOAD: 1, "start_date": "2026-05-13 09:00", "end_date": "2026-05-13 10:00",
    })
}

/// Nothing here is written over HTTP.
async fn no_rows((): (), _: String) -> Result<Option<Value>, Infallible> {
    Ok(None)
}

fn add(id: u32) -> Change {
    Change::add(&object(id)).unwrap()
}

fn update(id: u32) -> Change {
    Change::update(&object(id)).unwrap()
}

fn audit() -> Records {
    Records::listen("off,tower_live_updates::audit=info")
}

/// The lines since the last time: `published events 1 add north 2`, `sent ann events 1 add north`.
fn lines(audit: &Records) -> Vec<String> {
    audit.take().iter().map(line).collect()
}

fn line(record: &Record) -> String {
    assert_eq!((record.target.as_str(), record.level, record.spans.len()), (TARGET, tracing::Level::INFO, 0));
    let message = record.field("message");
    let names: &[&str] = match message {
        "published" => &["entity", "id", "kind", "scope", "recipients"],
        "sent" => &["who", "entity", "id", "kind", "scope"],
        other => panic!("{other}"),
    };
    assert_eq!(record.fields.len(), names.len() + 1, "nothing else: {record:?}");
    assert!(!format!("{record:?}").contains(PAYLOAD), "{record:?}");
    names.iter().fold(message.to_owned(), |line, name| format!("{line} {}", record.field(name)))
}

/// Those of one kind, sorted.
fn deliveries(lines: &[String]) -> Vec<&str> {
    let mut received: Vec<&str> = lines.iter().filter_map(|line| line.strip_prefix("sent ")).collect();
    received.sort_unstable();
    received
}

#[tokio::test(start_paused = true)]
async fn the_audit_records_a_broadcast_once_and_each_of_its_receivers() {
    for transport in TRANSPORTS {
        let (live, server) = serve(builder(Entity::scheduler("/events"))).await;
        let (mut ann, mut bob) = (page(&server, transport, "ann").await, page(&server, transport, "bob").await);
        let mut other = Client::load_with(&server, transport, "carl").await.connect().await;
        other.subscribe("calendars").await;
        let audit = audit();
        let mut all_pages = async |published: &str, entry: &str| {
            let (ann, bob) = (ann.received().await, bob.received().await);
            assert!(!ann.is_empty() && ann == bob, "{transport:?}: {ann:?} {bob:?}");
            let lines = lines(&audit);
            assert_eq!(lines[0], published, "{transport:?}");
            assert_eq!(deliveries(&lines), [format!("ann {entry}"), format!("bob {entry}")], "{transport:?}");
            assert_eq!(lines.len(), 3, "{transport:?}: {lines:?}");
        };
        live.publish("events", add(1)).unwrap();
        all_pages("published events 1 add * 2", "events 1 add *").await;
        let answer = server.write(Method::PUT, "/events/1", &object(1).to_string()).await;
        assert_eq!(answer.status(), 200);
        all_pages("published events 1 update * 2", "events 1 update *").await;
        assert_eq!(server.write(Method::DELETE, "/events/1", "").await.status(), 200);
        all_pages("published events 1 delete * 2", "events 1 delete *").await;
        live.send("events", PAYLOAD).unwrap();
        all_pages("published events  message * 2", "events  message *").await;
        live.send("calendars", PAYLOAD).unwrap();
        assert_eq!(other.received().await.len(), 1);
        assert_eq!(
            lines(&audit),
            ["published calendars  message * 1", "sent carl calendars  message *"],
            "{transport:?}: an id is what an object has"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_audit_records_a_change_without_receivers() {
    let (live, _server) = serve(builder(Entity::scheduler("/events"))).await;
    let audit = audit();
    live.publish_many("events", [add(1), add(2)]).unwrap();
    live.refresh("events").unwrap();
    wait(60.0).await;
    assert_eq!(lines(&audit), ["published events 1 add * 0", "published events 2 add * 0"]);
}

#[tokio::test(start_paused = true)]
async fn the_audit_records_a_replay_when_it_is_sent() {
    for transport in TRANSPORTS {
        let (live, server) = serve(builder(Entity::scheduler("/events").scoped())).await;
        let (ann, bob) = (
            Client::load_with(&server, transport, "ann@north").await,
            Client::load_with(&server, transport, "bob@south").await,
        );
        let audit = audit();
        live.publish("events", add(1).scope("north")).unwrap();
        live.publish("events", add(2).scope("south").scope("west")).unwrap();
        live.publish("events", Change::delete(3).unwrap().scope("north")).unwrap();
        live.send_to("events", ["north"], PAYLOAD).unwrap();
        assert_eq!(deliveries(&lines(&audit)), [""; 0], "{transport:?}");
        let mut ann = ann.open().await;
        ann.received().await;
        let north = ["ann events  message north", "ann events 1 add north", "ann events 3 delete north"];
        assert_eq!(deliveries(&lines(&audit)), north, "{transport:?}");
        let mut bob = bob.open().await;
        bob.received().await;
        assert_eq!(deliveries(&lines(&audit)), ["bob events 2 add south,west"], "{transport:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_audit_records_each_resend() {
    for transport in TRANSPORTS {
        let (live, server) = serve(builder(Entity::scheduler("/events"))).await;
        let mut ann = page(&server, transport, "ann").await;
        live.publish("events", add(1)).unwrap();
        live.publish("events", update(1)).unwrap();
        ann.received().await;
        let audit = audit();
        assert!(!ann.received_in(10.0).await.is_empty(), "{transport:?}: it has settled");
        assert_eq!(lines(&audit), ["sent ann events 1 update *"], "{transport:?}");
        live.publish("events", Change::delete(1).unwrap()).unwrap();
        ann.received().await;
        assert_eq!(lines(&audit), ["published events 1 delete * 1", "sent ann events 1 delete *"], "{transport:?}");
        let repeats = live.stats().repeats;
        ann.received_in(100.0).await;
        let repeats = usize::try_from(live.stats().repeats - repeats).unwrap();
        assert!(repeats >= 2, "{transport:?}");
        assert_eq!(lines(&audit), vec!["sent ann events 1 delete *"; repeats], "{transport:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_audit_records_a_snapshot_row_by_row() {
    for transport in TRANSPORTS {
        let hook = async |(), _: Identity| {
            let rows = Snapshot::new([object(1), object(2)]).scoped_by(|_| ["north"]);
            Ok::<_, Infallible>(rows.deleted([3]))
        };
        let (live, server) = serve(builder(Entity::scheduler("/events").snapshot((), hook).scoped())).await;
        let mut ann = page(&server, transport, "ann@north").await;
        let audit = audit();
        live.refresh("events").unwrap();
        assert!(!ann.received_in(1.0).await.is_empty(), "{transport:?}");
        let rows = ["ann events 1 update north", "ann events 2 update north", "ann events 3 delete north"];
        let lines = lines(&audit);
        assert_eq!(deliveries(&lines), rows, "{transport:?}");
        assert_eq!(lines.len(), 3, "{transport:?}: a refresh is no change: {lines:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_audit_names_no_page_that_receives_nothing() {
    for transport in TRANSPORTS {
        let (live, server) = serve(builder(Entity::scheduler("/events").scoped())).await;
        let mut north = page(&server, transport, "ann@north").await;
        let mut south = page(&server, transport, "bob@south").await;
        let mut root = page(&server, transport, "root").await;
        let audit = audit();
        live.publish("events", add(1).scope("north")).unwrap();
        let received = (north.received().await.len(), south.received().await.len(), root.received().await.len());
        assert_eq!(received, (1, 0, 1), "{transport:?}");
        let written = lines(&audit);
        assert_eq!(written[0], "published events 1 add north 2", "{transport:?}");
        assert_eq!(deliveries(&written), ["ann events 1 add north", "root events 1 add north"], "{transport:?}");

        // It moves: pages that may not see it any more receive a delete.
        live.publish("events", update(1).scope("south")).unwrap();
        for tab in [&mut north, &mut south, &mut root] {
            assert!(!tab.received().await.is_empty(), "{transport:?}");
        }
        let expected = ["ann events 1 delete south", "bob events 1 update south", "root events 1 update south"];
        assert_eq!(deliveries(&lines(&audit)), expected, "{transport:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_object_that_leaves_a_visibility_filter_is_a_delete() {
    for transport in TRANSPORTS {
        let events =
            Entity::scheduler("/events").load((), no_rows).visible((), async |(), user: Identity, event: Value| {
                Ok::<_, Infallible>(event["owner"].is_null() || event["owner"] == user.principal())
            });
        let (live, server) = serve(builder(events)).await;
        let (mut ann, mut bob) = (page(&server, transport, "ann").await, page(&server, transport, "bob").await);
        let of = |id: u32, owner: Option<&str>| {
            let mut object = object(id);
            object["owner"] = json!(owner);
            object
        };
        let audit = audit();
        let mut receive = async || (ann.received().await.len(), bob.received().await.len());
        live.publish("events", Change::add(&of(1, None)).unwrap()).unwrap();
        live.publish("events", Change::add(&of(2, Some("bob"))).unwrap()).unwrap();
        assert_eq!(receive().await, (1, 2), "{transport:?}");
        let expected = ["ann events 1 add *", "bob events 1 add *", "bob events 2 add *"];
        assert_eq!(deliveries(&lines(&audit)), expected, "{transport:?}: nothing of ann and 2");
        wait(60.0).await;
        receive().await;
        lines(&audit);
        live.publish("events", Change::update(&of(1, Some("bob"))).unwrap()).unwrap();
        // Around the deletion there is what brings the page to take it.
        assert_eq!(receive().await, (3, 1), "{transport:?}");
        assert_eq!(deliveries(&lines(&audit)), ["ann events 1 delete *", "bob events 1 update *"], "{transport:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_deletion_is_repeated_only_to_pages_that_could_see_the_object() {
    for transport in TRANSPORTS {
        let events = Entity::scheduler("/events")
            .load((), no_rows)
            .visible((), async |(), user: Identity, _: Value| Ok::<_, Infallible>(user.principal() == "bob"));
        let (live, server) = serve(builder(events)).await;
        let (mut ann, mut bob) = (page(&server, transport, "ann").await, page(&server, transport, "bob").await);
        live.publish("events", add(1)).unwrap();
        bob.received().await;
        wait(10.0).await;
        let audit = audit();
        live.publish("events", Change::delete(1).unwrap()).unwrap();
        assert_eq!((ann.received().await.len(), bob.received().await.len() > 1), (0, true), "{transport:?}");
        assert_eq!(lines(&audit), ["published events 1 delete * 2", "sent bob events 1 delete *"], "{transport:?}");
        let repeats = live.stats().repeats;
        assert_eq!(ann.received_in(65.0).await.len(), 0, "{transport:?}");
        bob.received().await;
        let repeats = usize::try_from(live.stats().repeats - repeats).unwrap();
        assert!(repeats >= 2, "{transport:?}");
        assert_eq!(lines(&audit), vec!["sent bob events 1 delete *"; repeats], "{transport:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn no_line_at_any_level_holds_a_byte_of_a_payload() {
    let logs = Logs::capture_all();
    for transport in TRANSPORTS {
        let hook = async |(), _: Identity| Ok::<_, Infallible>(Snapshot::new([object(1), object(2)]));
        let (live, server) = serve(builder(Entity::scheduler("/events").snapshot((), hook))).await;
        let mut ann = page(&server, transport, "ann").await;
        live.publish("events", add(1)).unwrap();
        live.send("events", PAYLOAD).unwrap();
        assert_eq!(server.write(Method::PUT, "/events/1", &object(1).to_string()).await.status(), 200);
        // Neither does a line about what is not broadcast.
        let broken = json!({"id": 9, "text": PAYLOAD, "rrule": PAYLOAD});
        assert!(live.publish("events", Change::update(&broken).unwrap()).is_err());
        server.write(Method::PUT, "/events/9", &broken.to_string()).await;
        server.write(Method::POST, "/events", &json!({"text": PAYLOAD}).to_string()).await;
        let form = Request::put("/events/8").body(format!("text={PAYLOAD}")).unwrap();
        server.send(form).await;
        live.refresh("events").unwrap();
        assert!(ann.received_in(30.0).await.len() > 5, "{transport:?}");
        assert!(live.stats().writes_unpublished >= 2);
    }
    let lines = logs.lines("tower_live_updates");
    assert!(lines.iter().filter(|line| line.contains("::audit: sent")).count() > 10, "{lines:?}");
    assert!(lines.iter().any(|line| line.contains("WARN")), "{lines:?}");
    assert_eq!(logs.lines(PAYLOAD), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn where_the_target_is_filtered_off_nothing_is_written() {
    for filter in ["trace,tower_live_updates::audit=off", "trace,tower_live_updates::audit=warn", "off"] {
        for transport in TRANSPORTS {
            let (live, server) = serve(builder(Entity::scheduler("/events"))).await;
            let mut ann = page(&server, transport, "ann").await;
            let audit = Records::listen(filter);
            live.publish("events", add(1)).unwrap();
            live.send("events", PAYLOAD).unwrap();
            assert_eq!(ann.received().await.len(), 2, "{filter}");
            assert_eq!(audit.take().iter().filter(|record| record.target == TARGET).count(), 0, "{filter}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn without_an_audit_nothing_is_recorded_however_much_is_received() {
    for transport in TRANSPORTS {
        let (live, server) = serve(unaudited(Entity::scheduler("/events"))).await;
        let mut ann = page(&server, transport, "ann").await;
        let records = Records::listen("trace");
        live.publish("events", add(1)).unwrap();
        live.send("events", PAYLOAD).unwrap();
        assert_eq!(ann.received().await.len(), 2, "{transport:?}");
        assert_eq!(server.write(Method::DELETE, "/events/1", "").await.status(), 200);
        assert!(ann.received_in(60.0).await.len() > 1, "{transport:?}: repeats are not recorded either");
        assert_eq!(records.take().iter().filter(|record| record.target == TARGET).count(), 0, "{transport:?}");
    }
}
