//! The visibility filter: which pages may see which object, and what of it, in every case in which an object is sent.

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::{Method, Request};
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::{Value, json};
use tower_live_updates::{
    AuthError, AuthRequest, Change, ConfigError, Delivery, Entity, Identity, LiveUpdates, LiveUpdatesBuilder, Snapshot,
    body::RequestBody, builder::HasAuth,
};

use crate::support::{
    Page, Server,
    client::{Client, TRANSPORTS, Transport, adds, event, upserts},
    json as answer, read, usual,
};

const NOTHING: [&str; 0] = [];

/// The token is the name, and each has a scope of that name; all are in `all`.
async fn by_name((): (), request: AuthRequest) -> Result<Identity, AuthError> {
    let name = request.token();
    Ok(Identity::new(name).with_scope(name).with_scope("all"))
}

fn builder() -> LiveUpdatesBuilder<HasAuth> {
    let hour = Duration::from_secs(3600);
    let builder = LiveUpdates::builder("/api/v1").authenticate_fn((), by_name);
    builder.ping_interval(2 * hour).pong_timeout(3 * hour).revalidation_interval(100 * hour)
}

#[derive(Deserialize)]
struct Event {
    #[serde(default)]
    only: Option<String>,
}

/// An event for one alone, or for all.
fn of(id: u32, text: &str, only: Option<&str>) -> Value {
    let mut event = event(id, text);
    event["only"] = only.into();
    event
}

/// Changes are published by hand here; a hook that reads rows back is needed all the same.
async fn no_rows((): (), _: String) -> Result<Option<Value>, Infallible> {
    Ok(None)
}

fn by_owner() -> Entity {
    Entity::scheduler("/events").load((), no_rows).visible((), async |(), user: Identity, event: Event| {
        Ok::<_, Infallible>(event.only.is_none_or(|only| only == user.principal()))
    })
}

/// How pages are kept from seeing what is not theirs.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kept {
    ByScope,
    ByView,
}

/// What happens to events, and what the store holds in the end.
#[derive(Clone)]
struct World {
    live: LiveUpdates,
    rows: Arc<Mutex<Vec<Value>>>,
    kept: Kept,
}

impl World {
    fn new(kept: Kept, log_records: usize) -> Self {
        let rows = Arc::<Mutex<Vec<Value>>>::default();
        let entity = match kept {
            Kept::ByScope => Entity::scheduler("/events").scoped(),
            Kept::ByView => by_owner(),
        };
        // The application need not filter.
        let read = async |rows: Arc<Mutex<Vec<Value>>>, _: Identity| {
            let rows = rows.lock().unwrap().clone();
            let scope = |row: &Value| [row["only"].as_str().unwrap_or("all").to_owned()];
            Ok::<_, Infallible>(Snapshot::new(rows).scoped_by(scope))
        };
        let entity = entity.snapshot(rows.clone(), read);
        let live = builder().max_log_records(log_records).entity(entity).build().unwrap();
        Self { live, rows, kept }
    }

    fn publish_all(&self, change: Change, only: Option<&str>) {
        let change = match self.kept {
            Kept::ByScope => change.scope(only.unwrap_or("all")),
            Kept::ByView => change,
        };
        self.live.publish("events", change).unwrap();
    }

    fn add(&self, id: u32, text: &str, only: Option<&str>) {
        let row = of(id, text, only);
        self.publish_all(Change::add(&row).unwrap(), only);
        self.rows.lock().unwrap().push(row);
    }

    fn update(&self, id: u32, text: &str, only: Option<&str>) {
        let row = of(id, text, only);
        self.publish_all(Change::update(&row).unwrap(), only);
        self.rows.lock().unwrap().retain(|known| known["id"] != id);
        self.rows.lock().unwrap().push(row);
    }

    fn delete(&self, id: u32, only: Option<&str>) {
        self.publish_all(Change::delete(id).unwrap(), only);
        self.rows.lock().unwrap().retain(|known| known["id"] != id);
    }
}

/// Writes of what ben must not see, with something he sees among them.
fn secrets(world: &World, round: u32) {
    let ann = Some("ann");
    world.add(10 * round + 1, "secret", ann);
    world.update(10 * round + 1, "secret too", ann);
    world.add(10 * round + 2, "public", None);
    world.add(10 * round + 3, "secret", ann);
    world.delete(10 * round + 3, ann);
}

/// What a page receives of the rounds that sees only what is public.
fn is_clean(received: &[String]) -> bool {
    received.iter().all(|line| line.ends_with(" public") && line.contains("2 "))
}

#[tokio::test(start_paused = true)]
async fn an_object_outside_the_visibility_filter_is_not_sent_in_any_case() {
    for kept in [Kept::ByScope, Kept::ByView] {
        for transport in TRANSPORTS {
            let world = World::new(kept, 20);
            let (live, server) = (&world.live, Server::layered(&world.live.layer(), usual));
            let [ann, ben] = [
                Client::load_with(&server, transport, "ann").await,
                Client::load_with(&server, transport, "ben").await,
            ];
            let mut at_ann = ann.open().await;
            let check = |path: &str, received: Vec<String>| {
                assert!(!received.is_empty() && is_clean(&received), "{kept:?} {transport:?} {path}: {received:?}");
            };

            secrets(&world, 1);
            let mut at_ben = ben.open().await;
            check("first replay", at_ben.received().await);
            assert!(live.stats().replays > 0);
            check("first replay, again, and settling", at_ben.received_in(12.0).await);
            secrets(&world, 2);
            check("live", at_ben.received().await);
            let repeats = live.stats().repeats;
            check("settling", at_ben.received_in(10.0).await);
            assert!(live.stats().repeats > repeats);
            let received = at_ben.received_in(65.0).await;
            assert!(received.is_empty(), "{kept:?} {transport:?} deletions, repeated: {received:?}");
            let deletions = at_ann.received().await;
            assert!(deletions.iter().filter(|line| *line == "delete 13").count() > 1, "to ann: {deletions:?}");

            at_ben.cut(live).await;
            secrets(&world, 3);
            let mut at_ben = ben.open().await;
            check("replay", at_ben.received().await);
            at_ben.cut(live).await;
            for round in 4..9 {
                secrets(&world, round);
            }
            let snapshots = live.stats().snapshots;
            let mut at_ben = ben.open().await;
            check("snapshot", at_ben.received_in(1.0).await);
            // Changes in scopes of others only take nothing of his history.
            assert_eq!(live.stats().snapshots > snapshots, kept == Kept::ByView);
            at_ben.received_in(60.0).await;
            live.refresh("events").unwrap();
            check("refresh", at_ben.received_in(1.0).await);
            let received = at_ben.received_in(1000.0).await;
            assert!(is_clean(&received), "{kept:?} {transport:?} after a refresh: {received:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_page_that_may_see_an_object_receives_it_in_every_case() {
    for kept in [Kept::ByScope, Kept::ByView] {
        for transport in TRANSPORTS {
            let world = World::new(kept, 20);
            let server = Server::layered(&world.live.layer(), usual);
            let ann = Client::load_with(&server, transport, "ann").await;
            world.add(1, "mine", Some("ann"));
            let mut tab = ann.open().await;
            assert_eq!(tab.received().await, adds(&[(1, "mine")]), "{kept:?} {transport:?} replay");
            let again = tab.received_in(6.0).await;
            assert!(
                !again.is_empty() && again.iter().all(|received| *received == adds(&[(1, "mine")])[0]),
                "{again:?}"
            );
            tab.received_in(20.0).await;
            world.update(1, "still mine", Some("ann"));
            assert_eq!(tab.received().await, ["update 1 still mine"], "{kept:?} {transport:?} live");
            tab.received_in(20.0).await;
            world.live.refresh("events").unwrap();
            assert_eq!(tab.received_in(1.0).await, upserts(&[(1, "still mine")]), "{kept:?} {transport:?} snapshot");
        }
    }
}

/// A deletion, as sent to a page that may lack anything.
fn gone(id: u32) -> Vec<String> {
    vec![format!("update {id} ordinary"), format!("delete {id}"), format!("update {id}")]
}

#[tokio::test(start_paused = true)]
async fn leaving_a_visibility_filter_deletes_and_entering_it_adds() {
    for kept in [Kept::ByScope, Kept::ByView] {
        for transport in TRANSPORTS {
            let world = World::new(kept, 1000);
            let (live, server) = (&world.live, Server::layered(&world.live.layer(), usual));
            let ben = Client::load_with(&server, transport, "ben").await;
            let mut tab = ben.open().await;
            world.add(1, "public", None);
            tab.received_in(30.0).await;

            world.update(1, "ann's", Some("ann"));
            assert_eq!(tab.received().await, gone(1), "{kept:?} {transport:?}");
            // A form may have been open.
            let again = tab.received_in(61.0).await;
            assert!(
                again.len() >= 3 && again.chunks(3).all(|message| message == gone(1)),
                "{kept:?} {transport:?} {again:?}"
            );
            world.update(1, "ann's own", Some("ann"));
            assert_eq!(tab.received().await, NOTHING, "{kept:?} {transport:?}: he knows of nothing");

            world.update(1, "public again", None);
            assert_eq!(tab.received().await, upserts(&[(1, "public again")]), "{kept:?} {transport:?}");
            let later = tab.received_in(100.0).await;
            assert!(later.iter().all(|message| message.ends_with("public again")), "{kept:?} {transport:?} {later:?}");

            // While he was away it left and entered his view: only its present state is sent.
            tab.cut(live).await;
            world.update(1, "ann's", Some("ann"));
            world.update(1, "for all", None);
            let mut tab = ben.open().await;
            assert_eq!(tab.received().await, upserts(&[(1, "for all")]), "{kept:?} {transport:?}");
            tab.received_in(100.0).await;

            // And left, and was changed, and is deleted for all.
            tab.cut(live).await;
            world.update(1, "ann's", Some("ann"));
            world.update(1, "ann's own", Some("ann"));
            let mut tab = ben.open().await;
            assert_eq!(tab.received().await, gone(1), "{kept:?} {transport:?} replayed");
            tab.received_in(20.0).await;
            world.delete(1, Some("ann"));
            let received = tab.received().await;
            assert!(received.is_empty(), "{kept:?} {transport:?} {received:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn scope_and_visibility_filter_must_both_allow_it() {
    let no_rows = async |(), _: Vec<String>, _: String| Ok::<Option<Value>, Infallible>(None);
    let live = builder().entity(by_owner().load_scoped((), no_rows).scoped()).build().unwrap();
    let server = Server::layered(&live.layer(), usual);
    let mut tab = Client::load_with(&server, Transport::Tcp, "ben").await.open().await;
    for (id, scope, only) in [(1, "ann", None), (2, "all", Some("ann")), (3, "all", None), (4, "ben", Some("ben"))] {
        live.publish("events", Change::add(&of(id, "x", only)).unwrap().scope(scope)).unwrap();
    }
    assert_eq!(tab.received().await, ["add 3 x", "add 4 x"]);
    // Out of his scope, and out of his view.
    live.publish("events", Change::update(&of(3, "y", None)).unwrap().scope("ann")).unwrap();
    live.publish("events", Change::update(&of(4, "y", Some("ann"))).unwrap().scope("all")).unwrap();
    assert_eq!(tab.received().await, [gone(3), gone(4)].concat());
}

async fn page(server: &Server, name: &str) -> Page {
    let mut page = server.page_at(&format!("/api/v1?token={name}&ws=1")).await.unwrap();
    page.subscribe("events").await;
    page
}

#[tokio::test(start_paused = true)]
async fn a_projection_keeps_fields_from_others_and_leaves_ids_alone() {
    let notes = async |(), user: Identity, mut event: Value| {
        if event["owner"] != user.principal() {
            event.as_object_mut().unwrap().remove("notes");
            // It answers without an id, and gets it back.
            event.as_object_mut().unwrap().remove("id");
        }
        Ok::<_, Infallible>(event)
    };
    let rows = async |(), _: Identity| {
        let mut row = event(5, "stored");
        row["notes"] = "hush".into();
        Ok::<_, Infallible>(Snapshot::new([row]))
    };
    let entity = Entity::scheduler("/events").load((), no_rows).project((), notes).snapshot((), rows);
    let live = builder().entity(entity).build().unwrap();
    let server = Server::layered(&live.layer(), usual);
    let (mut at_ann, mut at_ben) = (page(&server, "ann").await, page(&server, "ben").await);
    let mut planned = event(7, "plan");
    (planned["owner"], planned["notes"]) = ("ann".into(), "hush".into());
    live.publish("events", Change::add(&planned).unwrap()).unwrap();
    planned["text"] = "plan b".into();
    live.publish("events", Change::update(&planned).unwrap()).unwrap();
    for kind in ["add-event", "update-event"] {
        let (received, seen) = at_ann.event().await;
        assert_eq!((&*received, &seen["notes"]), (kind, &json!("hush")));
        let (received, seen) = at_ben.event().await;
        assert_eq!((&*received, &seen["id"], seen.get("notes")), (kind, &json!(7), None));
    }
    live.refresh("events").unwrap();
    for kind in ["add-event", "update-event"] {
        let (received, seen) = at_ben.event().await;
        assert_eq!((&*received, &seen["text"], seen.get("notes")), (kind, &json!("stored"), None));
    }
}

#[tokio::test(start_paused = true)]
async fn an_invalid_projection_is_not_sent() {
    let wrong = Arc::new(Mutex::new(json!({})));
    let entity = Entity::scheduler("/events").load((), no_rows).project(
        wrong.clone(),
        async |wrong: Arc<Mutex<Value>>, user, _: Value| {
            let _: Identity = user;
            Ok::<_, Infallible>(wrong.lock().unwrap().clone())
        },
    );
    let live = builder().delivery(Delivery::Plain).entity(entity).build().unwrap();
    let server = Server::layered(&live.layer(), usual);
    let mut tab = Client::load_with(&server, Transport::AnyStream, "ben").await.open().await;
    let mut failures = 0;
    for answer in [json!([1]), json!({"id": 8, "text": "another"}), json!({"text": "without dates"}), json!(null)] {
        *wrong.lock().unwrap() = answer;
        failures += 1;
        live.publish("events", Change::add(&event(failures, "x")).unwrap()).unwrap();
        assert_eq!(tab.received().await, NOTHING);
        assert_eq!(live.stats().hooks_failed, u64::from(failures));
    }
    *wrong.lock().unwrap() = event(7, "fine");
    live.publish("events", Change::add(&event(7, "x")).unwrap()).unwrap();
    assert_eq!(tab.received().await, ["add 7 fine"]);
}

#[tokio::test(start_paused = true)]
async fn before_a_write_a_row_that_the_log_does_not_know_is_loaded() {
    for was in [Some("ann"), None] {
        let stored = Arc::new(Mutex::new(of(7, "before", was)));
        let row = async |stored: Arc<Mutex<Value>>, _| Ok::<_, Infallible>(Some(stored.lock().unwrap().clone()));
        let entity = by_owner().load(stored.clone(), row);
        let live = builder().delivery(Delivery::Plain).entity(entity).build().unwrap();
        let server = Server::layered(&live.layer(), move |request: Request<RequestBody<Incoming>>| {
            let store = stored.clone();
            async move {
                let mut row: Value = serde_json::from_slice(&read(request).await.unwrap()).unwrap();
                row["id"] = 7.into();
                *store.lock().unwrap() = row;
                answer(200, r#"{"action":"updated"}"#)
            }
        });
        let mut tab = Client::load_with(&server, Transport::AnyStream, "ben").await.open().await;
        server.write(Method::PUT, "/events/7", &of(7, "private", Some("ann")).to_string()).await;
        let expected: &[&str] = if was.is_some() { &[] } else { &["delete 7"] };
        assert_eq!(tab.received().await, expected, "{was:?}");
    }
}

#[test]
fn the_visibility_hook_is_not_asked_about_part_of_a_row() {
    let build = |entity: Entity| builder().entity(entity).build();
    let sees = async |(), _: Identity, _: Value| Ok::<_, Infallible>(true);
    let error = build(Entity::scheduler("/events").visible((), sees)).unwrap_err();
    assert!(matches!(error, ConfigError::ViewWithoutLoad(_)) && error.to_string().contains("load hook"), "{error}");
    assert!(build(Entity::new("events").visible((), sees)).is_ok(), "what is published by hand is whole");
    assert!(build(Entity::scheduler("/events").visible((), sees).load((), no_rows)).is_ok());
}

#[tokio::test(start_paused = true)]
async fn pages_that_wait_for_a_visibility_hook_delay_no_other_page() {
    let is_slow = Arc::new(AtomicBool::new(true));
    let entity = Entity::scheduler("/events").load((), no_rows).visible(
        is_slow,
        async |is_slow: Arc<AtomicBool>, user: Identity, _: Value| {
            if user.principal() == "ben" && is_slow.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_secs(3)).await;
            }
            Ok::<_, Infallible>(true)
        },
    );
    let live = builder().delivery(Delivery::Plain).entity(entity).build().unwrap();
    let server = Server::layered(&live.layer(), usual);
    let [mut at_ann, mut at_ben] = [
        Client::load_with(&server, Transport::Tcp, "ann").await.open().await,
        Client::load_with(&server, Transport::Tcp, "ben").await.open().await,
    ];
    let changes = [1, 2].map(|id| Change::add(&event(id, "x")).unwrap());
    live.publish_many("events", changes).unwrap();
    assert_eq!(at_ann.received().await, ["add 1 x", "add 2 x"]);
    assert_eq!(at_ben.received().await, NOTHING);
    assert_eq!(at_ben.received_in(4.0).await, ["add 1 x", "add 2 x"]);
    assert_eq!(live.stats().hooks_failed, 0);
}
