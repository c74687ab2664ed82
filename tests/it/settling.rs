//! Debounced repeats: pages drop what they receive while they save, so writes close together are repeated once they
//! settle.

use std::{sync::Arc, time::Duration};

use http::{Method, Request};
use serde_json::json;
use tokio::{sync::Semaphore, task::JoinHandle};
use tower_live_updates::{Change, Entity, LiveUpdates, LiveUpdatesBuilder, builder::HasAuth};

use crate::support::{
    Server,
    client::{
        Client, TRANSPORTS, Tab, Transport, added, adds, deleted, event, patient, publish, updated, upserts, wait,
    },
    full, json as answer, read, usual,
};

const NOTHING: [&str; 0] = [];

/// A server with one page whose list is long there.
async fn serve(builder: LiveUpdatesBuilder<HasAuth>, transport: Transport) -> (LiveUpdates, Server, Tab) {
    let live = builder.build().unwrap();
    let server = Server::layered(&live.layer(), usual);
    let tab = listener(&server, transport).await;
    (live, server, tab)
}

async fn listener(server: &Server, transport: Transport) -> Tab {
    wait(100.0).await;
    let mut tab = Client::load(server, transport).await.open().await;
    assert_eq!(tab.received_in(20.0).await, NOTHING);
    tab
}

/// A server whose requests wait at a gate, except those of the object 1.
struct Gated {
    live: LiveUpdates,
    server: Server,
    gate: Arc<Semaphore>,
}

impl Gated {
    fn new(builder: LiveUpdatesBuilder<HasAuth>) -> Self {
        let live = builder.build().unwrap();
        let gate = Arc::new(Semaphore::new(0));
        let waiting = gate.clone();
        let server = Server::layered(&live.layer(), move |request: Request<_>| {
            let gate = waiting.clone();
            async move {
                let (method, path) = (request.method().clone(), request.uri().path().to_owned());
                read(request).await.unwrap();
                if path != "/events/1" {
                    gate.acquire().await.unwrap().forget();
                }
                match (method, path.as_str()) {
                    (Method::GET, _) => answer(200, "[]"),
                    (_, "/events/404") => answer(404, "{}"),
                    _ => answer(200, r#"{"action":"updated"}"#),
                }
            }
        });
        Self { live, server, gate }
    }

    /// Sends a request, which stays at the gate.
    async fn send(&self, method: Method, path: &'static str, body: String) -> JoinHandle<u16> {
        let server = self.server.clone();
        let sent = tokio::spawn(async move { server.write(method, path, &body).await.status().as_u16() });
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
        sent
    }

    fn open(&self) {
        self.gate.add_permits(1);
    }
}

/// Whether more was sent than the one change.
fn is_repeated(received: &[String]) -> bool {
    received.len() > 1
}

#[tokio::test(start_paused = true)]
async fn writes_close_together_get_a_debounced_repeat_after_two_quiet_seconds() {
    for transport in TRANSPORTS {
        let (live, server, mut tab) = serve(patient(), transport).await;
        publish(&live, [added(1, "a")]);
        tab.received_in(3.5).await;
        server.write(Method::PUT, "/events/2", &event(2, "b").to_string()).await;
        assert_eq!(tab.received().await, ["update 2 b"], "{transport:?}");
        assert_eq!(tab.received_in(1.95).await, NOTHING, "{transport:?}");
        let expected = ["add 1 a", "update 2 b"];
        assert_eq!(tab.received_in(0.1).await, expected, "{transport:?}: of the second only what was sent is known");
        assert_eq!(tab.received_in(100.0).await, NOTHING, "{transport:?}: and then it is settled");
        assert!(live.stats().repeats > 0, "{transport:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn writes_five_seconds_apart_are_sent_once() {
    for transport in TRANSPORTS {
        let (live, server, mut tab) = serve(patient(), transport).await;
        for number in 0..4 {
            publish(&live, [updated(1, &number.to_string())]);
            assert_eq!(tab.received_in(5.0).await, [format!("update 1 {number}")], "{transport:?}");
            server.write(Method::PUT, "/events/1", &event(1, "b").to_string()).await;
            assert_eq!(tab.received_in(5.0).await, ["update 1 b"], "{transport:?}");
        }
        assert_eq!(tab.received_in(100.0).await, NOTHING, "{transport:?}");
        assert_eq!(live.stats().repeats, 0, "{transport:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_page_that_saves_while_others_do_ends_up_with_their_newest_state() {
    // As the stock client does it: what arrives about an object is dropped while the page saves that object.
    let gated = Gated::new(patient());
    let mut tab = listener(&gated.server, Transport::AnyStream).await;
    publish(&gated.live, [added(9, "a")]);
    tab.received_in(20.0).await;
    let save = gated.send(Method::PUT, "/events/9", event(9, "mine").to_string()).await;
    publish(&gated.live, [updated(9, "theirs")]);
    assert_eq!(tab.received().await, ["update 9 theirs"], "dropped by the page");
    gated.open();
    assert_eq!(save.await.unwrap(), 200);
    assert_eq!(tab.received().await, ["update 9 mine"], "dropped, too: its answer comes a moment later");
    assert_eq!(tab.received_in(2.1).await, ["update 9 mine"], "it was added long before: an update will do");
}

#[tokio::test(start_paused = true)]
async fn under_continuous_writes_everything_is_repeated_every_half_minute() {
    for transport in TRANSPORTS {
        let (live, _server, mut tab) = serve(patient(), transport).await;
        publish(&live, [added(1, "there"), added(2, "there"), added(3, "there")]);
        tab.received_in(20.0).await;
        let mut seconds = Vec::new();
        for second in 0..95 {
            publish(&live, [updated(second % 3 + 1, &second.to_string())]);
            if is_repeated(&tab.received().await) {
                seconds.push(second);
            }
            wait(1.0).await;
        }
        assert_eq!(seconds, [30, 60, 90], "{transport:?}");
        let received = tab.received_in(10.0).await;
        for (id, text) in [(1, "93"), (2, "94"), (3, "92")] {
            assert!(received.contains(&format!("update {id} {text}")), "{transport:?}: {received:?}");
        }
        assert_eq!(tab.received_in(100.0).await, NOTHING, "{transport:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_object_is_repeated_once_while_other_writes_go_on() {
    let (live, _server, mut tab) = serve(patient(), Transport::Tcp).await;
    publish(&live, [added(1, "once")]);
    let mut times = 0;
    for second in 0..45 {
        publish(&live, [updated(2, &second.to_string())]);
        times += tab.received().await.iter().filter(|message| *message == "add 1 once").count();
        wait(1.0).await;
    }
    assert_eq!(times, 2, "as it happened, and once more");
    tab.received().await;
    // When all is quiet, everything that was written since the last quiet moment.
    let received = tab.received_in(20.0).await;
    assert_eq!(received.iter().filter(|message| *message == "add 1 once").count(), 1, "{received:?}");
}

#[tokio::test(start_paused = true)]
async fn a_write_in_flight_delays_the_debounced_repeat() {
    for transport in TRANSPORTS {
        let gated = Gated::new(patient());
        let mut tab = listener(&gated.server, transport).await;
        let write = gated.send(Method::PUT, "/events/9", event(9, "slow").to_string()).await;
        publish(&gated.live, [added(1, "a"), added(2, "b")]);
        assert_eq!(tab.received().await, ["add 1 a", "add 2 b"], "{transport:?}");
        assert_eq!(tab.received_in(8.0).await, NOTHING, "{transport:?}");
        gated.open();
        assert_eq!(write.await.unwrap(), 200);
        assert_eq!(tab.received_in(1.9).await, ["update 9 slow"], "{transport:?}");
        let expected = [adds(&[(1, "a"), (2, "b")]), vec!["update 9 slow".to_owned()]].concat();
        assert_eq!(tab.received_in(0.2).await, expected, "{transport:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_that_never_ends_is_not_waited_for() {
    let gated = Gated::new(patient());
    let mut tab = listener(&gated.server, Transport::AnyStream).await;
    let hanging = gated.send(Method::PUT, "/events/9", String::new()).await;
    publish(&gated.live, [added(1, "a")]);
    publish(&gated.live, [added(2, "b")]);
    tab.received().await;
    assert_eq!(tab.received_in(29.0).await, NOTHING);
    assert_eq!(tab.received_in(1.5).await, adds(&[(1, "a"), (2, "b")]), "as without a quiet moment");
    assert_eq!(tab.received_in(25.0).await, NOTHING, "and once is enough");
    // After a minute it counts no more, and all changes of that time are repeated a last time.
    assert_eq!(tab.received_in(15.0).await, adds(&[(1, "a"), (2, "b")]));
    assert_eq!(tab.received_in(100.0).await, NOTHING);
    hanging.abort();
}

#[tokio::test(start_paused = true)]
async fn a_later_record_of_an_object_replaces_its_repeat() {
    for transport in TRANSPORTS {
        let (live, _server, mut tab) = serve(patient(), transport).await;
        publish(&live, [added(1, "a"), added(2, "a"), added(3, "a"), added(4, "a")]);
        wait(1.5).await;
        publish(&live, [updated(1, "b"), deleted(2), deleted(3), added(3, "again")]);
        tab.received().await;
        let expected = [
            adds(&[(4, "a")]),
            upserts(&[(1, "b")]),
            vec!["delete 2".to_owned(), "update 2".to_owned()],
            upserts(&[(3, "again")]),
        ];
        assert_eq!(tab.received_in(2.1).await, expected.concat(), "{transport:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn messages_are_never_repeated() {
    for transport in TRANSPORTS {
        let (live, _server, mut tab) = serve(patient(), transport).await;
        for second in 0..15 {
            publish(&live, [added(1, "a")]);
            live.send("events", &json!({"number": second})).unwrap();
            let received = tab.received_in(1.0).await;
            let numbers = received.iter().filter(|message| message.contains("number")).count();
            assert_eq!(numbers, 1, "{transport:?}: {received:?}");
        }
        let received = tab.received_in(60.0).await;
        assert!(
            is_repeated(&received) && !received.iter().any(|message| message.contains("number")),
            "{transport:?}: {received:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn messages_are_no_writes() {
    let (live, _server, mut tab) = serve(patient(), Transport::Tcp).await;
    live.send("events", "before").unwrap();
    publish(&live, [added(1, "a")]);
    live.send("events", "behind").unwrap();
    assert_eq!(tab.received_in(60.0).await, ["before", "add 1 a", "behind"]);
}

#[tokio::test(start_paused = true)]
async fn after_a_late_list_the_changes_it_may_undo_are_sent_again() {
    for transport in TRANSPORTS {
        let gated = Gated::new(patient());
        let mut tab = listener(&gated.server, transport).await;
        let list = gated.send(Method::GET, "/events", String::new()).await;
        wait(1.0).await;
        publish(&gated.live, [added(1, "a")]);
        assert_eq!(tab.received().await, ["add 1 a"], "{transport:?}");
        assert_eq!(tab.received_in(4.0).await, NOTHING, "{transport:?}: its list is not there yet");
        gated.open();
        assert_eq!(list.await.unwrap(), 200);
        assert_eq!(
            tab.received_in(3.9).await,
            NOTHING,
            "{transport:?}: two seconds for it to arrive, and two of quiet"
        );
        assert_eq!(tab.received_in(0.2).await, adds(&[(1, "a")]), "{transport:?}");
        assert_eq!(tab.received_in(60.0).await, NOTHING, "{transport:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_counts_for_two_seconds_after_it_has_left() {
    for (seconds, again) in [(1.8, adds(&[(1, "a")])), (2.2, vec![])] {
        let gated = Gated::new(patient());
        let mut tab = listener(&gated.server, Transport::Tcp).await;
        gated.open();
        gated.server.write(Method::GET, "/events", "").await;
        wait(seconds).await;
        publish(&gated.live, [added(1, "a")]);
        assert_eq!(tab.received().await, ["add 1 a"]);
        assert_eq!(tab.received_in(60.0).await, again, "{seconds}");
    }
}

#[tokio::test(start_paused = true)]
async fn only_lists_of_the_entity_count() {
    for (method, path, counts) in [
        (Method::GET, "/events", true),
        (Method::GET, "/events/", true),
        (Method::GET, "/all", true),
        (Method::GET, "/events/7", false),
        (Method::GET, "/other", false),
        (Method::HEAD, "/events", false),
        (Method::OPTIONS, "/events", false),
    ] {
        let live = LiveUpdates::builder("/api/v1").entity(Entity::scheduler("/events").list_route("/all"));
        let live = live.tokens(["demo"]).ping_interval(Duration::from_secs(60)).build().unwrap();
        let server = Server::layered(&live.layer(), |_| async { http::Response::new(full("[]")) });
        let mut tab = listener(&server, Transport::AnyStream).await;
        server.write(method.clone(), path, "").await;
        publish(&live, [added(1, "a")]);
        tab.received().await;
        assert_eq!(!tab.received_in(20.0).await.is_empty(), counts, "{method} {path}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_save_that_the_store_refuses_may_have_missed_a_broadcast_meanwhile() {
    let missed = || vec!["update 404 a".to_owned()];
    for (path, id, again) in
        [("/events/404", 404, missed()), ("/events/404", 1, vec![]), ("/elsewhere/404", 404, vec![])]
    {
        let gated = Gated::new(patient());
        let mut tab = listener(&gated.server, Transport::AnyStream).await;
        let refused = gated.send(Method::PUT, path, "{}".to_owned()).await;
        publish(&gated.live, [updated(id, "a")]);
        assert_eq!(tab.received().await, [format!("update {id} a")]);
        gated.open();
        assert_eq!(refused.await.unwrap(), if path.starts_with("/events") { 404 } else { 200 });
        assert_eq!(tab.received_in(60.0).await, again, "{path} {id}");
        // What comes later is none of its business.
        gated.open();
        gated.server.write(Method::PUT, path, "{}").await;
        publish(&gated.live, [added(2, "b")]);
        assert_eq!(tab.received().await, ["add 2 b"]);
        assert_eq!(tab.received_in(60.0).await, NOTHING, "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn entities_are_settled_each_for_itself() {
    let (live, _server, mut tab) = serve(patient(), Transport::Tcp).await;
    tab.subscribe("calendars").await;
    tab.received_in(20.0).await;
    let calendar = |text: &str| Change::update(&json!({"id": 1, "text": text})).unwrap();
    live.publish("calendars", calendar("a")).unwrap();
    wait(1.0).await;
    publish(&live, [added(1, "a")]);
    tab.received().await;
    assert_eq!(tab.received_in(20.0).await, NOTHING, "no page saves an event and a calendar at one time");
    live.publish("calendars", calendar("b")).unwrap();
    live.publish("calendars", calendar("c")).unwrap();
    tab.received().await;
    assert_eq!(tab.received_in(2.1).await, ["calendars: update 1 c"]);
}

#[tokio::test(start_paused = true)]
async fn a_lagging_page_receives_the_repeat_when_it_reaches_it() {
    for transport in TRANSPORTS {
        let live = patient().write_timeout(Duration::from_secs(600)).build().unwrap();
        let server = Server::layered(&live.layer(), usual);
        let mut tab = listener(&server, transport).await;
        let long = "long ".repeat(20_000);
        let texts: Vec<String> = (0..60).map(|number| format!("{number} {long}")).collect();
        publish(&live, texts.iter().map(|text| updated(1, text)));
        publish(&live, [added(2, "a")]);
        // The repeat is due, and it has read nothing yet.
        wait(5.0).await;
        let received = tab.received().await;
        let words: Vec<&str> = received.iter().map(|message| message.split(" long").next().unwrap()).collect();
        let mut expected: Vec<String> = (0..60).map(|number| format!("update 1 {number}")).collect();
        expected.extend(["add 2 a", "update 1 59", "add 2 a"].map(str::to_owned));
        assert_eq!(words, expected, "{transport:?}");
        assert_eq!(tab.received_in(100.0).await, NOTHING, "{transport:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_times_can_be_set() {
    let seconds = Duration::from_secs;
    let settling = patient().settle_quiet(seconds(1)).settle_overlap(seconds(8)).settle_max_wait(seconds(20));
    let (live, _server, mut tab) = serve(settling, Transport::Tcp).await;
    publish(&live, [added(1, "a")]);
    tab.received_in(8.5).await;
    publish(&live, [added(2, "a")]);
    tab.received().await;
    assert_eq!(tab.received_in(60.0).await, NOTHING, "they do not overlap");
    publish(&live, [updated(1, "b")]);
    tab.received_in(7.5).await;
    publish(&live, [updated(2, "b")]);
    tab.received().await;
    assert_eq!(tab.received_in(0.9).await, NOTHING);
    assert_eq!(tab.received_in(0.2).await, ["update 1 b", "update 2 b"]);
    wait(60.0).await;
    let mut longest = 0.0;
    while !is_repeated(&tab.received().await) {
        publish(&live, [updated(1, "c")]);
        wait(0.5).await;
        longest += 0.5;
    }
    assert!((20.0..=20.5).contains(&longest), "{longest}");
}

#[tokio::test(start_paused = true)]
async fn a_write_that_hangs_ages_although_others_come() {
    let gated = Gated::new(patient());
    let mut tab = listener(&gated.server, Transport::Tcp).await;
    let hanging = gated.send(Method::PUT, "/events/9", String::new()).await;
    wait(100.0).await;
    tab.received().await;
    for text in ["a", "b", "c"] {
        publish(&gated.live, [updated(1, text)]);
        assert_eq!(tab.received_in(30.0).await, [format!("update 1 {text}")]);
    }
    hanging.abort();
}

#[tokio::test(start_paused = true)]
async fn after_concurrent_writes_those_five_seconds_apart_are_sent_once() {
    let (live, _server, mut tab) = serve(patient(), Transport::Tcp).await;
    publish(&live, [added(1, "a")]);
    publish(&live, [updated(1, "b")]);
    tab.received_in(5.0).await;
    for text in ["c", "d", "e"] {
        publish(&live, [updated(1, text)]);
        assert_eq!(tab.received_in(5.0).await, [format!("update 1 {text}")]);
    }
}

#[tokio::test(start_paused = true)]
async fn unlimited_times_are_accepted() {
    let ever = Duration::MAX;
    let settling = patient().settle_quiet(ever).settle_overlap(ever).settle_max_wait(ever);
    let replays =
        settling.first_load_margin(ever).second_replay_delay(ever).replay_overlap(ever).acknowledge_interval(ever);
    let kept = replays
        .deletion_reminders([ever; 8])
        .max_tombstones(usize::MAX)
        .tombstone_retention(ever)
        .session_retention(ever)
        .log_retention(ever);
    let live = kept.hook_timeout(ever).write_timeout(ever).build().unwrap();
    let server = Server::layered(&live.layer(), usual);
    wait(100.0).await;
    let page = Client::load(&server, Transport::Tcp).await;
    let mut tab = page.open().await;
    for _ in 0..2 {
        publish(&live, [added(1, "a"), deleted(1)]);
        assert_eq!(tab.received_in(20.0).await.len(), 3);
        tab.cut(&live).await;
        tab = page.open().await;
        tab.received_in(20.0).await;
    }
}
