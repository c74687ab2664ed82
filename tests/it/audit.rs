//! The audit: a line for each change and for each of its recipients, without its content.

use std::{convert::Infallible, time::Duration};

use http::{Method, Request};
use serde_json::{Value, json};
use tower_live_updates::{
    AuthError, AuthRequest, Change, Entity, Identity, LiveUpdates, LiveUpdatesBuilder, Snapshot, builder::HasAuth,
};

use crate::support::{
    Server,
    client::{Client, Tab, WAYS, Way, wait},
    logs::{Logs, Record, Records},
    usual,
};

const TARGET: &str = "tower_live_updates::audit";
/// Stands in every object and message, and in no line.
const PAYLOAD: &str = "payload-6b1e";

/// Lets in whom the token names, with the scope behind the name: `ann@north`; `root` hears all.
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

/// A page that has heard all there was to be heard.
async fn page(server: &Server, way: Way, user: &str) -> Tab {
    let mut tab = Client::load_with(server, way, user).await.open().await;
    tab.hears_in(20.0).await;
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
fn sent(lines: &[String]) -> Vec<&str> {
    let mut sent: Vec<&str> = lines.iter().filter_map(|line| line.strip_prefix("sent ")).collect();
    sent.sort_unstable();
    sent
}

#[tokio::test(start_paused = true)]
async fn a_broadcast_is_audited_once_and_for_each_recipient() {
    for way in WAYS {
        let (live, server) = serve(builder(Entity::scheduler("/events"))).await;
        let (mut ann, mut bob) = (page(&server, way, "ann").await, page(&server, way, "bob").await);
        let mut other = Client::load_with(&server, way, "carl").await.connect().await;
        other.subscribe("calendars").await;
        let audit = audit();
        let mut everybody = async |published: &str, sent_of: &str| {
            let (ann, bob) = (ann.heard().await, bob.heard().await);
            assert!(!ann.is_empty() && ann == bob, "{way:?}: {ann:?} {bob:?}");
            let lines = lines(&audit);
            assert_eq!(lines[0], published, "{way:?}");
            assert_eq!(sent(&lines), [format!("ann {sent_of}"), format!("bob {sent_of}")], "{way:?}");
            assert_eq!(lines.len(), 3, "{way:?}: {lines:?}");
        };
        live.publish("events", add(1)).unwrap();
        everybody("published events 1 add * 2", "events 1 add *").await;
        let answer = server.write(Method::PUT, "/events/1", &object(1).to_string()).await;
        assert_eq!(answer.status(), 200);
        everybody("published events 1 update * 2", "events 1 update *").await;
        assert_eq!(server.write(Method::DELETE, "/events/1", "").await.status(), 200);
        everybody("published events 1 delete * 2", "events 1 delete *").await;
        live.send("events", PAYLOAD).unwrap();
        everybody("published events  message * 2", "events  message *").await;
        live.send("calendars", PAYLOAD).unwrap();
        assert_eq!(other.heard().await.len(), 1);
        assert_eq!(
            lines(&audit),
            ["published calendars  message * 1", "sent carl calendars  message *"],
            "{way:?}: an id is what an object has"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn what_nobody_hears_is_published_to_none() {
    let (live, _server) = serve(builder(Entity::scheduler("/events"))).await;
    let audit = audit();
    live.publish_many("events", [add(1), add(2)]).unwrap();
    live.refresh("events").unwrap();
    wait(60.0).await;
    assert_eq!(lines(&audit), ["published events 1 add * 0", "published events 2 add * 0"]);
}

#[tokio::test(start_paused = true)]
async fn a_replay_is_audited_when_it_is_sent() {
    for way in WAYS {
        let (live, server) = serve(builder(Entity::scheduler("/events").scoped())).await;
        let (ann, bob) =
            (Client::load_with(&server, way, "ann@north").await, Client::load_with(&server, way, "bob@south").await);
        let audit = audit();
        live.publish("events", add(1).scope("north")).unwrap();
        live.publish("events", add(2).scope("south").scope("west")).unwrap();
        live.publish("events", Change::delete(3).unwrap().scope("north")).unwrap();
        live.send_to("events", ["north"], PAYLOAD).unwrap();
        assert_eq!(sent(&lines(&audit)), [""; 0], "{way:?}");
        let mut ann = ann.open().await;
        ann.heard().await;
        let north = ["ann events  message north", "ann events 1 add north", "ann events 3 delete north"];
        assert_eq!(sent(&lines(&audit)), north, "{way:?}");
        let mut bob = bob.open().await;
        bob.heard().await;
        assert_eq!(sent(&lines(&audit)), ["bob events 2 add south,west"], "{way:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_resend_is_audited_again() {
    for way in WAYS {
        let (live, server) = serve(builder(Entity::scheduler("/events"))).await;
        let mut ann = page(&server, way, "ann").await;
        live.publish("events", add(1)).unwrap();
        live.publish("events", update(1)).unwrap();
        ann.heard().await;
        let audit = audit();
        assert!(!ann.hears_in(10.0).await.is_empty(), "{way:?}: it has settled");
        assert_eq!(lines(&audit), ["sent ann events 1 update *"], "{way:?}");
        live.publish("events", Change::delete(1).unwrap()).unwrap();
        ann.heard().await;
        assert_eq!(lines(&audit), ["published events 1 delete * 1", "sent ann events 1 delete *"], "{way:?}");
        let repeats = live.stats().repeats;
        ann.hears_in(100.0).await;
        let repeats = usize::try_from(live.stats().repeats - repeats).unwrap();
        assert!(repeats >= 2, "{way:?}");
        assert_eq!(lines(&audit), vec!["sent ann events 1 delete *"; repeats], "{way:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_store_says_is_written_down_row_by_row() {
    for way in WAYS {
        let hook = async |(), _: Identity| {
            let rows = Snapshot::new([object(1), object(2)]).scoped_by(|_| ["north"]);
            Ok::<_, Infallible>(rows.deleted([3]))
        };
        let (live, server) = serve(builder(Entity::scheduler("/events").snapshot((), hook).scoped())).await;
        let mut ann = page(&server, way, "ann@north").await;
        let audit = audit();
        live.refresh("events").unwrap();
        assert!(!ann.hears_in(1.0).await.is_empty(), "{way:?}");
        let rows = ["ann events 1 update north", "ann events 2 update north", "ann events 3 delete north"];
        let lines = lines(&audit);
        assert_eq!(sent(&lines), rows, "{way:?}");
        assert_eq!(lines.len(), 3, "{way:?}: a refresh is no change: {lines:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn pages_that_are_not_sent_a_change_are_not_audited() {
    for way in WAYS {
        let (live, server) = serve(builder(Entity::scheduler("/events").scoped())).await;
        let mut north = page(&server, way, "ann@north").await;
        let mut south = page(&server, way, "bob@south").await;
        let mut root = page(&server, way, "root").await;
        let audit = audit();
        live.publish("events", add(1).scope("north")).unwrap();
        let heard = (north.heard().await.len(), south.heard().await.len(), root.heard().await.len());
        assert_eq!(heard, (1, 0, 1), "{way:?}");
        let written = lines(&audit);
        assert_eq!(written[0], "published events 1 add north 2", "{way:?}");
        assert_eq!(sent(&written), ["ann events 1 add north", "root events 1 add north"], "{way:?}");

        // It moves out of the visibility of some, who are sent a delete.
        live.publish("events", update(1).scope("south")).unwrap();
        for tab in [&mut north, &mut south, &mut root] {
            assert!(!tab.heard().await.is_empty(), "{way:?}");
        }
        let expected = ["ann events 1 delete south", "bob events 1 update south", "root events 1 update south"];
        assert_eq!(sent(&lines(&audit)), expected, "{way:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_object_that_goes_out_of_sight_is_a_delete_to_those_who_lose_it() {
    for way in WAYS {
        let events =
            Entity::scheduler("/events").load((), no_rows).visible((), async |(), user: Identity, event: Value| {
                Ok::<_, Infallible>(event["owner"].is_null() || event["owner"] == user.principal())
            });
        let (live, server) = serve(builder(events)).await;
        let (mut ann, mut bob) = (page(&server, way, "ann").await, page(&server, way, "bob").await);
        let of = |id: u32, owner: Option<&str>| {
            let mut object = object(id);
            object["owner"] = json!(owner);
            object
        };
        let audit = audit();
        let mut hear = async || (ann.heard().await.len(), bob.heard().await.len());
        live.publish("events", Change::add(&of(1, None)).unwrap()).unwrap();
        live.publish("events", Change::add(&of(2, Some("bob"))).unwrap()).unwrap();
        assert_eq!(hear().await, (1, 2), "{way:?}");
        let expected = ["ann events 1 add *", "bob events 1 add *", "bob events 2 add *"];
        assert_eq!(sent(&lines(&audit)), expected, "{way:?}: nothing of ann and 2");
        wait(60.0).await;
        hear().await;
        lines(&audit);
        live.publish("events", Change::update(&of(1, Some("bob"))).unwrap()).unwrap();
        // Around the deletion there is what brings the page to take it.
        assert_eq!(hear().await, (3, 1), "{way:?}");
        assert_eq!(sent(&lines(&audit)), ["ann events 1 delete *", "bob events 1 update *"], "{way:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_deletion_is_resent_only_to_those_who_could_see_the_object() {
    for way in WAYS {
        let events = Entity::scheduler("/events")
            .load((), no_rows)
            .visible((), async |(), user: Identity, _: Value| Ok::<_, Infallible>(user.principal() == "bob"));
        let (live, server) = serve(builder(events)).await;
        let (mut ann, mut bob) = (page(&server, way, "ann").await, page(&server, way, "bob").await);
        live.publish("events", add(1)).unwrap();
        bob.heard().await;
        wait(10.0).await;
        let audit = audit();
        live.publish("events", Change::delete(1).unwrap()).unwrap();
        assert_eq!((ann.heard().await.len(), bob.heard().await.len() > 1), (0, true), "{way:?}");
        assert_eq!(lines(&audit), ["published events 1 delete * 2", "sent bob events 1 delete *"], "{way:?}");
        let repeats = live.stats().repeats;
        assert_eq!(ann.hears_in(65.0).await.len(), 0, "{way:?}");
        bob.heard().await;
        let repeats = usize::try_from(live.stats().repeats - repeats).unwrap();
        assert!(repeats >= 2, "{way:?}");
        assert_eq!(lines(&audit), vec!["sent bob events 1 delete *"; repeats], "{way:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn no_line_at_any_level_holds_a_byte_of_a_payload() {
    let logs = Logs::capture_all();
    for way in WAYS {
        let hook = async |(), _: Identity| Ok::<_, Infallible>(Snapshot::new([object(1), object(2)]));
        let (live, server) = serve(builder(Entity::scheduler("/events").snapshot((), hook))).await;
        let mut ann = page(&server, way, "ann").await;
        live.publish("events", add(1)).unwrap();
        live.send("events", PAYLOAD).unwrap();
        assert_eq!(server.write(Method::PUT, "/events/1", &object(1).to_string()).await.status(), 200);
        // Neither does a line about what is not sent.
        let broken = json!({"id": 9, "text": PAYLOAD, "rrule": PAYLOAD});
        assert!(live.publish("events", Change::update(&broken).unwrap()).is_err());
        server.write(Method::PUT, "/events/9", &broken.to_string()).await;
        server.write(Method::POST, "/events", &json!({"text": PAYLOAD}).to_string()).await;
        let form = Request::put("/events/8").body(format!("text={PAYLOAD}")).unwrap();
        server.send(form).await;
        live.refresh("events").unwrap();
        assert!(ann.hears_in(30.0).await.len() > 5, "{way:?}");
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
        for way in WAYS {
            let (live, server) = serve(builder(Entity::scheduler("/events"))).await;
            let mut ann = page(&server, way, "ann").await;
            let audit = Records::listen(filter);
            live.publish("events", add(1)).unwrap();
            live.send("events", PAYLOAD).unwrap();
            assert_eq!(ann.heard().await.len(), 2, "{filter}");
            assert_eq!(audit.take().iter().filter(|record| record.target == TARGET).count(), 0, "{filter}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn where_nobody_asked_for_it_nothing_is_written_however_much_is_listened_to() {
    for way in WAYS {
        let (live, server) = serve(unaudited(Entity::scheduler("/events"))).await;
        let mut ann = page(&server, way, "ann").await;
        let records = Records::listen("trace");
        live.publish("events", add(1)).unwrap();
        live.send("events", PAYLOAD).unwrap();
        assert_eq!(ann.heard().await.len(), 2, "{way:?}");
        assert_eq!(server.write(Method::DELETE, "/events/1", "").await.status(), 200);
        assert!(ann.hears_in(60.0).await.len() > 1, "{way:?}: resends are not audited either");
        assert_eq!(records.take().iter().filter(|record| record.target == TARGET).count(), 0, "{way:?}");
    }
}
