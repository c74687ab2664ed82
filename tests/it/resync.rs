//! Pages that lag behind the log: away for longer than the log keeps, or since before the server was started. A
//! snapshot brings them to the store's state, or they are sent resync and load it again.

use std::{
    collections::{BTreeMap, HashSet},
    future::pending,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tower_live_updates::{
    AuthError, AuthRequest, Change, Entity, Identity, LiveUpdates, LiveUpdatesBuilder, Snapshot, builder::HasAuth,
};

use crate::support::{
    End, Server, TOKEN,
    client::{Client, TRANSPORTS, Tab, Transport, added, deleted, event, patient, publish, updated, upserts, wait},
    usual,
};

const NOTHING: [&str; 0] = [];
/// The message after which a page loads its list again.
const MARKER: &str = r#"{"event":{"id":"$resync"},"type":"resync"}"#;

/// A store, and how often it was asked for everything.
#[derive(Clone, Default)]
struct Store {
    rows: Arc<Mutex<BTreeMap<u32, Value>>>,
    deleted: Arc<Mutex<Vec<u32>>>,
    asked: Arc<Mutex<Vec<String>>>,
    /// What the next answers are; when there are no more of them, the rows.
    mood: Arc<Mutex<Vec<Mood>>>,
}

#[derive(Clone, Copy, Debug)]
enum Mood {
    Fails,
    Panics,
    Hangs,
    /// Answers with the rows as they are now, this many seconds later.
    Slow(u64),
}

impl Store {
    fn put(&self, id: u32, text: &str) {
        self.rows.lock().unwrap().insert(id, event(id, text));
    }

    fn delete(&self, id: u32) {
        self.rows.lock().unwrap().remove(&id);
        self.deleted.lock().unwrap().push(id);
    }

    fn is(&self, moods: impl IntoIterator<Item = Mood>) {
        *self.mood.lock().unwrap() = moods.into_iter().collect();
    }

    fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    async fn answer(self, identity: Identity) -> Result<Snapshot<Value>, io::Error> {
        self.asked.lock().unwrap().push(identity.principal().to_owned());
        let mood = {
            let mut moods = self.mood.lock().unwrap();
            if moods.is_empty() { None } else { Some(moods.remove(0)) }
        };
        let rows: Vec<Value> = self.rows.lock().unwrap().values().cloned().collect();
        let deleted = self.deleted.lock().unwrap().clone();
        match mood {
            Some(Mood::Fails) => return Err(io::Error::other("no store")),
            Some(Mood::Panics) => panic!("a store that panics"),
            Some(Mood::Hangs) => pending().await,
            Some(Mood::Slow(seconds)) => tokio::time::sleep(Duration::from_secs(seconds)).await,
            None => {}
        }
        Ok(Snapshot::new(rows).deleted(deleted))
    }

    fn entity(&self) -> Entity {
        Entity::scheduler("/events").snapshot(self.clone(), Self::answer)
    }
}

fn builder(events: Entity) -> LiveUpdatesBuilder<HasAuth> {
    let hour = Duration::from_secs(3600);
    let builder = LiveUpdates::builder("/api/v1").entity(events).entity(Entity::new("calendars"));
    // The token is the principal's name.
    let builder = builder.authenticate_fn((), async |(), request: AuthRequest| {
        if request.token().is_empty() { Err(AuthError::Denied) } else { Ok(Identity::new(request.token())) }
    });
    builder.ping_interval(2 * hour).pong_timeout(3 * hour)
}

async fn serve(builder: LiveUpdatesBuilder<HasAuth>) -> (LiveUpdates, Server) {
    let live = builder.build().unwrap();
    let server = Server::layered(&live.layer(), usual);
    wait(100.0).await;
    (live, server)
}

/// A server with a store, and a page that is away for longer than the log remembers.
async fn away(store: &Store, transport: Transport, records: usize) -> (LiveUpdates, Server, Client) {
    let (live, server) = serve(builder(store.entity()).max_log_records(records)).await;
    let page = Client::load(&server, transport).await;
    page.open().await.cut(&live).await;
    for number in 0..=records {
        store.put(100, &number.to_string());
        publish(&live, [updated(100, &number.to_string())]);
        wait(0.1).await;
    }
    wait(20.0).await;
    (live, server, page)
}

/// The final state of each object, as the stock client reads it.
fn state(received: &[String]) -> BTreeMap<u32, String> {
    let mut state = BTreeMap::new();
    for message in received {
        let words: Vec<&str> = message.splitn(3, ' ').collect();
        let Some(id) = words.get(1).and_then(|id| id.parse().ok()) else {
            continue;
        };
        match words[0] {
            "add" if !state.contains_key(&id) => drop(state.insert(id, words[2].to_owned())),
            "update" if state.contains_key(&id) => drop(state.insert(id, words[2].to_owned())),
            "delete" => drop(state.remove(&id)),
            _ => {}
        }
    }
    state
}

fn texts(rows: &[(u32, &str)]) -> BTreeMap<u32, String> {
    rows.iter().map(|(id, text)| (*id, (*text).to_owned())).collect()
}

/// Everything received until nothing has come for so long.
async fn received_until_quiet(tab: &mut Tab, seconds: f64) -> Vec<String> {
    let mut all = tab.received().await;
    loop {
        let received = tab.received_in(seconds).await;
        if received.is_empty() {
            return all;
        }
        all.extend(received);
    }
}

#[tokio::test(start_paused = true)]
async fn a_page_away_for_longer_than_the_log_receives_a_snapshot() {
    for transport in TRANSPORTS {
        let store = Store::default();
        store.put(1, "a");
        store.put(2, "b");
        store.delete(3);
        let (live, _, page) = away(&store, transport, 5).await;
        let mut tab = page.open().await;
        let expected = [
            vec!["update 3 ordinary".to_owned(), "delete 3".to_owned(), "update 3".to_owned()],
            upserts(&[(1, "a"), (2, "b"), (100, "5")]),
        ];
        assert_eq!(tab.received().await, expected.concat(), "{transport:?}");
        assert_eq!((live.stats().snapshots, live.stats().unrecovered_gaps, store.asked()), (1, 0, 1), "{transport:?}");
        assert_eq!(tab.received_in(25.0).await, NOTHING, "{transport:?}: no page was saving");
        publish(&live, [updated(1, "live")]);
        assert_eq!(tab.received().await, ["update 1 live"], "{transport:?}: and from then on as it happens");
    }
}

#[tokio::test(start_paused = true)]
async fn deletions_that_the_log_no_longer_holds_are_replayed_from_their_tombstones() {
    let store = Store::default();
    let (live, server) = serve(builder(store.entity()).max_log_records(2)).await;
    let page = Client::load(&server, Transport::Tcp).await;
    page.open().await.cut(&live).await;
    publish(&live, [added(1, "a"), added(2, "a"), deleted(1), deleted(2), added(2, "again")]);
    publish(&live, [updated(9, "x"), updated(9, "y")]);
    store.put(2, "again");
    store.put(9, "y");
    wait(20.0).await;
    let mut tab = page.open().await;
    let expected = [vec!["delete 1".to_owned(), "update 1".to_owned()], upserts(&[(2, "again"), (9, "y")])];
    assert_eq!(tab.received().await, expected.concat());
}

#[tokio::test(start_paused = true)]
async fn how_many_tombstones_are_kept_and_for_how_long_can_be_set() {
    for (count, seconds, expected) in [(2, 1000, ["delete 2", "delete 3"].as_slice()), (9, 60, &["delete 3"])] {
        let store = Store::default();
        let limits = builder(store.entity())
            .max_log_records(1)
            .max_tombstones(count)
            .tombstone_retention(Duration::from_secs(seconds));
        let (live, server) = serve(limits).await;
        let page = Client::load(&server, Transport::AnyStream).await;
        page.open().await.cut(&live).await;
        for id in 1..=3 {
            publish(&live, [deleted(id)]);
            wait(50.0).await;
        }
        publish(&live, [updated(9, "x")]);
        wait(5.0).await;
        let received = page.open().await.received().await;
        let deletions: Vec<&String> = received.iter().filter(|message| message.starts_with("delete")).collect();
        assert_eq!(deletions, expected, "{count} for {seconds} s");
    }
}

#[tokio::test(start_paused = true)]
async fn a_page_of_a_former_server_process_receives_a_snapshot() {
    for transport in TRANSPORTS {
        let store = Store::default();
        store.put(1, "a");
        let (_, before) = serve(builder(store.entity())).await;
        let key = Client::load(&before, transport).await.key;
        let (live, server) = serve(builder(store.entity())).await;
        let page = Client::with_key(&server, transport, &key);
        let mut tab = page.open().await;
        assert_eq!(tab.received().await, upserts(&[(1, "a")]), "{transport:?}");
        publish(&live, [updated(1, "live")]);
        store.put(1, "live");
        assert_eq!(tab.received().await, ["update 1 live"], "{transport:?}");
        assert_eq!((live.stats().snapshots, live.stats().unrecovered_gaps), (1, 0), "{transport:?}");
        // Its position is one of this log from now on, once it has acknowledged it.
        wait(60.0).await;
        tab.received().await;
        publish(&live, [updated(1, "later")]);
        tab.received().await;
        wait(20.0).await;
        publish(&live, [updated(1, "last")]);
        tab.received().await;
        assert!(!tab.pings.is_empty());
        tab.cut(&live).await;
        let mut tab = page.open().await;
        let received = received_until_quiet(&mut tab, 1.0).await;
        assert_eq!(received, ["update 1 last"]);
        assert_eq!(live.stats().snapshots, 1, "it need not be asked again");
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_too_slow_for_the_log_reconnects_and_receives_a_snapshot() {
    for transport in TRANSPORTS {
        let store = Store::default();
        let (live, server) =
            serve(builder(store.entity()).max_log_records(50).write_timeout(Duration::from_secs(60))).await;
        let page = Client::load(&server, transport).await;
        let mut tab = page.open().await;
        wait(20.0).await;
        let long = "long ".repeat(20_000);
        store.put(1, "short");
        for number in 0..300 {
            publish(&live, [updated(1, &format!("{number} {long}"))]);
            tokio::task::yield_now().await;
        }
        publish(&live, [updated(1, "short")]);
        let (received, end) = tab.end().await;
        assert!(received.len() < 300, "{transport:?}");
        assert_eq!(end, End::Close(1013, "Too slow".into()), "{transport:?}");
        drop(tab);
        wait(20.0).await;
        let mut tab = page.open().await;
        let received = received_until_quiet(&mut tab, 4.0).await;
        assert_eq!(state(&received), texts(&[(1, "short")]), "{transport:?}");
        assert_eq!((live.stats().sockets_closed_slow, live.stats().snapshots), (1, 1), "{transport:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refresh_brings_every_page_to_the_stores_state() {
    let store = Store::default();
    let (live, server) = serve(builder(store.entity())).await;
    let mut tabs = Vec::new();
    for transport in TRANSPORTS {
        tabs.push(Client::load(&server, transport).await.open().await);
        // Pages with a raw token stand in the same log.
        tabs.push(Client::with_key(&server, transport, TOKEN).open().await);
    }
    let mut other = Client::load(&server, Transport::Tcp).await.connect().await;
    other.subscribe("calendars").await;
    for tab in &mut tabs {
        assert_eq!(tab.received_in(20.0).await, NOTHING);
    }
    publish(&live, [added(1, "before")]);
    store.put(2, "imported");
    live.refresh("events").unwrap();
    store.put(3, "behind");
    publish(&live, [added(3, "behind")]);
    for tab in &mut tabs {
        let received = tab.received().await;
        assert_eq!(received[0], "add 1 before");
        assert_eq!(state(&received[1..]), texts(&[(2, "imported"), (3, "behind")]), "{received:?}");
    }
    assert_eq!(other.received().await, NOTHING);
    assert_eq!((store.asked(), live.stats().snapshots, live.stats().unrecovered_gaps), (1, 4, 0));
    assert!(live.refresh("cards").is_err());
}

#[tokio::test(start_paused = true)]
async fn without_a_snapshot_hook_pages_are_sent_resync() {
    for transport in TRANSPORTS {
        let (live, server) = serve(builder(Entity::scheduler("/events")).max_log_records(3)).await;
        let page = Client::load(&server, transport).await;
        page.open().await.cut(&live).await;
        publish(&live, (0..5).map(|number| updated(1, &number.to_string())));
        wait(20.0).await;
        let mut tab = page.connect().await;
        tab.subscribe("$resync").await;
        tab.received().await;
        let gaps = live.stats().unrecovered_gaps;
        tab.subscribe("events").await;
        let received = tab.received().await;
        assert_eq!(received[..2], [MARKER, r#"$resync: {"entity":"events","type":"resync"}"#], "{transport:?}");
        assert_eq!(received.last().unwrap(), "update 1 4", "{transport:?}: what the log knows all the same");
        assert_eq!((live.stats().snapshots, live.stats().unrecovered_gaps - gaps), (0, 1), "{transport:?}");
        let later = tab.received_in(60.0).await;
        assert!(!later.iter().any(|message| message.contains("resync")), "{transport:?}: once: {later:?}");

        live.refresh("events").unwrap();
        let mut received = tab.received().await;
        received.sort();
        assert_eq!(received, [r#"$resync: {"entity":"events","type":"resync"}"#, MARKER], "{transport:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_marker_on_the_wire() {
    let (live, server) = serve(builder(Entity::scheduler("/events"))).await;
    let mut page = server.subscribed().await;
    page.subscribe("$resync").await;
    live.refresh("events").unwrap();
    let mut bodies = [page.message().await.unwrap()["body"].clone(), page.message().await.unwrap()["body"].clone()];
    bodies.sort_by_key(|body| body["name"].to_string());
    let expected = [
        json!({"name": "$resync", "value": {"type": "resync", "entity": "events"}}),
        json!({"name": "events", "value": {"type": "resync", "event": {"id": "$resync"}}}),
    ];
    assert_eq!(bodies, expected);
}

#[tokio::test(start_paused = true)]
async fn changes_during_a_snapshot_are_newer_than_its_rows() {
    for transport in TRANSPORTS {
        let store = Store::default();
        for id in 1..=3 {
            store.put(id, "stored");
        }
        let (live, _, page) = away(&store, transport, 50).await;
        store.is([Mood::Slow(3)]);
        let mut tab = page.open().await;
        assert_eq!(tab.received_in(1.0).await, NOTHING, "{transport:?}");
        publish(&live, [updated(1, "newer"), deleted(2), added(4, "new"), deleted(4), added(5, "new")]);
        let received = received_until_quiet(&mut tab, 5.0).await;
        // Of the first only the update was sent, on top of the row.
        let expected = texts(&[(1, "newer"), (3, "stored"), (5, "new"), (100, "50")]);
        assert_eq!(state(&received), expected, "{transport:?}: {received:?}");
        assert!(!received.contains(&"add 2 stored".to_owned()), "{transport:?}: {received:?}");
        assert_eq!(live.stats().snapshots, 1, "{transport:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_twice_is_asked_a_third_time() {
    for mood in [Mood::Fails, Mood::Panics] {
        let store = Store::default();
        store.put(1, "a");
        let (live, _, page) = away(&store, Transport::AnyStream, 3).await;
        store.is([mood, mood]);
        let mut tab = page.open().await;
        assert_eq!(tab.received_in(3.9).await, NOTHING, "{mood:?}: one second, and three");
        assert_eq!(tab.received_in(0.2).await, upserts(&[(1, "a"), (100, "3")]), "{mood:?}");
        let stats = live.stats();
        assert_eq!((stats.hooks_failed, stats.snapshots, stats.unrecovered_gaps), (2, 1, 0), "{mood:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_for_good_leaves_it_to_the_page() {
    for (mood, seconds) in [(Mood::Fails, 4.0), (Mood::Panics, 4.0), (Mood::Hangs, 19.0)] {
        let store = Store::default();
        let (live, server, page) = away(&store, Transport::Tcp, 3).await;
        store.is([mood; 3]);
        let mut tab = page.open().await;
        tab.subscribe("calendars").await;
        // The other pages go on, and so does this page with everything else.
        let mut other = Client::with_key(&server, Transport::Tcp, "other").open().await;
        publish(&live, [added(1, "live")]);
        live.send("calendars", "live").unwrap();
        assert_eq!(other.received().await, ["add 1 live"], "{mood:?}");
        assert_eq!(tab.received().await, ["calendars: live"], "{mood:?}");
        assert_eq!(tab.received_in(seconds - 0.1).await, NOTHING, "{mood:?}");
        let received = tab.received_in(0.2).await;
        assert_eq!(received[0], MARKER, "{mood:?}");
        assert!(received.contains(&"add 1 live".to_owned()), "{mood:?}: {received:?}");
        publish(&live, [updated(1, "on")]);
        assert!(tab.received().await.contains(&"update 1 on".to_owned()), "{mood:?}");
        let stats = live.stats();
        assert_eq!(
            (stats.hooks_failed, stats.snapshots, stats.unrecovered_gaps, stats.connections),
            (3, 0, 1, 2),
            "{mood:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_page_that_leaves_during_a_snapshot_does_not_disturb_others() {
    let store = Store::default();
    store.put(1, "a");
    let (live, _, page) = away(&store, Transport::AnyStream, 3).await;
    store.is([Mood::Slow(2)]);
    let leaves = page.open().await;
    wait(0.5).await;
    let mut stays = page.open().await;
    leaves.cut(&live).await;
    assert_eq!(stays.received_in(2.0).await, upserts(&[(1, "a"), (100, "3")]), "they have asked together");
    assert_eq!(store.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_answer_is_shared_by_the_sockets_of_one_principal() {
    let store = Store::default();
    store.put(1, "a");
    let (_, before) = serve(builder(store.entity())).await;
    let (live, server) = serve(builder(store.entity())).await;
    let mut keys = Vec::new();
    for number in 0..20 {
        keys.push(
            Client::load_with(&before, Transport::AnyStream, if number % 2 == 0 { "alice" } else { "bob" }).await.key,
        );
    }
    let mut tabs = Vec::new();
    for key in &keys {
        tabs.push(Client::with_key(&server, Transport::AnyStream, key).open().await);
    }
    for tab in &mut tabs {
        assert_eq!(tab.received().await, upserts(&[(1, "a")]));
    }
    let mut asked = store.asked.lock().unwrap().clone();
    asked.sort();
    assert_eq!(asked, ["alice", "bob"], "each sees what is theirs");
    assert_eq!(live.stats().snapshots, 20);
    wait(2.1).await;
    Client::with_key(&server, Transport::AnyStream, &keys[0]).open().await.received().await;
    assert_eq!(store.asked(), 3, "it is good for two seconds");
}

#[tokio::test(start_paused = true)]
async fn a_store_is_asked_four_times_at_once_at_most() {
    let store = Store::default();
    let busy = Arc::new((AtomicUsize::new(0), AtomicUsize::new(0)));
    let events =
        Entity::scheduler("/events").snapshot(busy.clone(), async |busy: Arc<(AtomicUsize, AtomicUsize)>, _| {
            let now = busy.0.fetch_add(1, Ordering::Relaxed) + 1;
            busy.1.fetch_max(now, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_secs(1)).await;
            busy.0.fetch_sub(1, Ordering::Relaxed);
            Ok::<_, io::Error>(Snapshot::<Value>::new([]))
        });
    let (_, before) = serve(builder(store.entity())).await;
    let (live, server) = serve(builder(events)).await;
    let mut tabs = Vec::new();
    for number in 0..10 {
        let key = Client::load_with(&before, Transport::AnyStream, &format!("user-{number}")).await.key;
        tabs.push(Client::with_key(&server, Transport::AnyStream, &key).open().await);
    }
    wait(2.5).await;
    assert_eq!(live.stats().snapshots, 8);
    wait(1.0).await;
    assert_eq!((live.stats().snapshots, busy.1.load(Ordering::Relaxed)), (10, 4));
    drop(tabs);
}

#[tokio::test(start_paused = true)]
async fn rows_that_would_break_pages_are_left_out() {
    let store = Store::default();
    store.put(1, "a");
    store.rows.lock().unwrap().insert(2, {
        let mut poison = event(2, "poison");
        poison["rrule"] = json!("every second Tuesday");
        poison
    });
    store.rows.lock().unwrap().insert(5, {
        let mut poison = event(5, "endless");
        poison["rrule"] = json!("FREQ=DAILY;INTERVAL=-1");
        poison
    });
    // A row without an id cannot be sent.
    store.rows.lock().unwrap().insert(4, json!({"id": 0, "text": "no id"}));
    // Without dates it can be changed and not be added.
    store.rows.lock().unwrap().insert(3, json!({"id": 3, "text": "undated"}));
    let (live, server) = serve(builder(store.entity())).await;
    let mut tab = Client::load(&server, Transport::AnyStream).await.open().await;
    live.refresh("events").unwrap();
    let received = tab.received_in(1.0).await;
    assert_eq!(received, [upserts(&[(1, "a")]), vec!["update 3 undated".to_owned()]].concat());
}

#[tokio::test(start_paused = true)]
async fn a_large_snapshot_reaches_a_slow_reader_whole() {
    for transport in TRANSPORTS {
        let store = Store::default();
        for id in 1000..6000 {
            store.put(id, "row");
        }
        for id in 10_000..11_000 {
            store.delete(id);
        }
        let (live, server) = serve(builder(store.entity())).await;
        let mut tab = Client::load(&server, transport).await.open().await;
        wait(20.0).await;
        live.refresh("events").unwrap();
        wait(1.0).await;
        publish(&live, [updated(1000, "newest")]);
        let mut received = tab.received().await;
        for _ in 0..2600 {
            received.extend(tab.received_in(0.1).await);
        }
        let state = state(&received);
        assert_eq!((state.len(), &state[&1000][..], &state[&5999][..]), (5000, "newest", "row"), "{transport:?}");
        let deleted: HashSet<&String> = received.iter().filter(|message| message.starts_with("delete ")).collect();
        assert_eq!(deleted.len(), 1000, "{transport:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_log_bounded_by_bytes_or_by_age_has_gaps_as_well() {
    let store = Store::default();
    store.put(1, "a");
    for (builder, gap) in [
        (builder(store.entity()), false),
        (builder(store.entity()).max_log_bytes(2000), true),
        (builder(store.entity()).log_retention(Duration::from_secs(30)), true),
    ] {
        let (live, server) = serve(builder).await;
        let page = Client::load(&server, Transport::Tcp).await;
        page.open().await.cut(&live).await;
        for number in 0..20 {
            publish(&live, [updated(1, &number.to_string())]);
            wait(2.0).await;
        }
        let mut tab = page.open().await;
        tab.received().await;
        assert_eq!(live.stats().snapshots, u64::from(gap));
    }
}

#[tokio::test(start_paused = true)]
async fn each_entity_needs_a_snapshot_by_itself() {
    let store = Store::default();
    store.put(1, "a");
    let (live, _, page) = away(&store, Transport::Tcp, 3).await;
    live.publish("calendars", Change::update(&json!({"id": 1, "text": "blue"})).unwrap()).unwrap();
    wait(5.0).await;
    let mut tab = page.open().await;
    assert_eq!(tab.received().await, upserts(&[(1, "a"), (100, "3")]));
    tab.subscribe("calendars").await;
    // What others wrote has taken nothing of its history.
    assert_eq!(tab.received().await, ["calendars: update 1 blue"]);
    assert_eq!((live.stats().snapshots, live.stats().unrecovered_gaps), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn messages_sent_during_a_snapshot_are_received_after_its_rows() {
    for transport in TRANSPORTS {
        let store = Store::default();
        store.put(1, "a");
        store.is([Mood::Slow(3)]);
        let (live, server) = serve(builder(store.entity())).await;
        let mut tab = Client::load(&server, transport).await.open().await;
        tab.received_in(20.0).await;
        live.send("events", "before").unwrap();
        live.refresh("events").unwrap();
        live.send("events", "behind").unwrap();
        wait(1.0).await;
        live.send("events", "meanwhile").unwrap();
        let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        let expected = [words(&["before"]), upserts(&[(1, "a")]), words(&["behind", "meanwhile"])];
        assert_eq!(tab.received_in(10.0).await, expected.concat(), "{transport:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refresh_among_what_a_page_missed_comes_before_the_messages_behind_it() {
    for transport in TRANSPORTS {
        let store = Store::default();
        store.put(1, "a");
        let (live, server) = serve(builder(store.entity())).await;
        let page = Client::load(&server, transport).await;
        page.open().await.cut(&live).await;
        publish(&live, [added(1, "a")]);
        live.refresh("events").unwrap();
        live.send("events", "behind").unwrap();
        wait(20.0).await;
        let received = page.open().await.received_in(3.0).await;
        assert_eq!(received.last().map(String::as_str), Some("behind"), "{transport:?}: {received:?}");
        assert_eq!(received.iter().filter(|message| *message == "behind").count(), 1, "{transport:?}");
        assert_eq!(live.stats().snapshots, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn messages_that_the_log_still_holds_outlive_a_gap() {
    let (live, server) = serve(patient().max_log_records(3)).await;
    let page = Client::load(&server, Transport::AnyStream).await;
    page.open().await.cut(&live).await;
    publish(&live, (0..5).map(|number| updated(1, &number.to_string())));
    live.send("events", "kept").unwrap();
    wait(20.0).await;
    let received = page.open().await.received().await;
    assert_eq!((&received[0], received.last().map(String::as_str)), (&MARKER.to_owned(), Some("kept")));
}

#[tokio::test(start_paused = true)]
async fn handlers_of_resync_receive_it_at_each_subscribe_and_need_no_snapshot_themselves() {
    for resync_first in [true, false] {
        let (live, server) = serve(patient().max_log_records(3)).await;
        let page = Client::load(&server, Transport::AnyStream).await;
        page.open().await.cut(&live).await;
        publish(&live, (0..5).map(|number| updated(1, &number.to_string())));
        wait(20.0).await;
        let mut tab = page.connect().await;
        let names = if resync_first { ["$resync", "events"] } else { ["events", "$resync"] };
        for name in names {
            tab.subscribe(name).await;
        }
        let received = tab.received_in(10.0).await;
        let resyncs: Vec<&String> = received.iter().filter(|message| message.starts_with("$resync")).collect();
        assert_eq!(resyncs, [r#"$resync: {"entity":"events","type":"resync"}"#], "{names:?}");
        assert_eq!(live.stats().unrecovered_gaps, 1, "{names:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_older_than_a_refresh_does_not_answer_it() {
    let store = Store::default();
    store.put(1, "before");
    let (_, before) = serve(builder(store.entity())).await;
    let key = Client::load(&before, Transport::Tcp).await.key;
    let (live, server) = serve(builder(store.entity())).await;
    let mut tab = Client::with_key(&server, Transport::Tcp, &key).open().await;
    assert_eq!(tab.received().await, upserts(&[(1, "before")]));
    // An import, a second later.
    store.put(1, "after");
    live.refresh("events").unwrap();
    assert_eq!(tab.received_in(1.0).await, upserts(&[(1, "after")]));
    assert_eq!(store.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_refresh_while_the_store_answers_another_is_not_lost() {
    for transport in TRANSPORTS {
        let store = Store::default();
        store.put(1, "first import");
        let (live, server) = serve(builder(store.entity())).await;
        let mut tab = Client::load(&server, transport).await.open().await;
        tab.received_in(10.0).await;
        store.is([Mood::Slow(2)]);
        live.refresh("events").unwrap();
        wait(0.5).await;
        store.put(1, "second import");
        live.refresh("events").unwrap();
        let received = received_until_quiet(&mut tab, 120.0).await;
        assert_eq!(state(&received), texts(&[(1, "second import")]), "{transport:?}: {received:?}");
        assert_eq!(store.asked(), 2, "{transport:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_hook_runs_to_its_end_although_no_page_waits_for_it() {
    let pool = Arc::new(tokio::sync::Mutex::new(()));
    let hook = async |pool: Arc<tokio::sync::Mutex<()>>, _: Identity| {
        let _connection = pool.lock().await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        Ok::<_, io::Error>(Snapshot::new(vec![event(1, "one")]))
    };
    let events = Entity::scheduler("/events").snapshot(pool.clone(), hook);
    let (live, server) = serve(builder(events)).await;
    let mut tab = Client::load(&server, Transport::Tcp).await.open().await;
    tab.received_in(10.0).await;
    live.refresh("events").unwrap();
    wait(0.5).await;
    assert!(pool.try_lock().is_err());
    tab.cut(&live).await;
    wait(2.0).await;
    assert!(pool.try_lock().is_ok());
}

#[tokio::test(start_paused = true)]
async fn an_import_is_not_undone_by_an_earlier_broadcast() {
    for transport in TRANSPORTS {
        let store = Store::default();
        let (live, server) = serve(builder(store.entity())).await;
        let page = Client::load(&server, transport).await;
        page.open().await.cut(&live).await;
        let mut open = Client::load(&server, transport).await.open().await;
        // Close together, so that both are repeated later on.
        publish(&live, [added(1, "old"), added(2, "old")]);
        publish(&live, [updated(1, "old")]);
        store.put(1, "imported");
        store.delete(2);
        live.refresh("events").unwrap();
        let mut back = page.open().await;
        for tab in [&mut open, &mut back] {
            let received = received_until_quiet(tab, 120.0).await;
            assert_eq!(state(&received), texts(&[(1, "imported")]), "{transport:?}: {received:?}");
        }
    }
}
