//! How sockets end: when the server shuts down, when the application disconnects them, and when a runtime ends.

use std::{
    collections::HashSet,
    convert::Infallible,
    io::{ErrorKind, Read},
    sync::Arc,
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    runtime::{Builder as Runtimes, Runtime},
    sync::Notify,
    time::Instant,
};
use tower_live_updates::{AuthError, AuthRequest, Change, Entity, Identity, LiveUpdates};

use crate::support::{
    End, Page, Server, builder,
    client::event,
    live,
    raw::{self, FIN, Raw, upgrade_request},
    until, usual,
};

#[tokio::test]
async fn sockets_receive_going_away_at_shutdown() {
    let live = live();
    let server = Server::layered(&live.layer(), usual);
    let mut pages = [server.page().await, server.subscribed().await];
    let shutdown = tokio::spawn({
        let live = live.clone();
        async move { live.shutdown().await }
    });
    for page in &mut pages {
        assert_eq!(page.end().await, End::Close(1001, "Going away".into()));
        assert_eq!(page.end().await, End::Gone, "and the connection ends");
    }
    shutdown.await.unwrap();
    let stats = live.stats();
    assert_eq!((stats.connections, stats.subscriptions), (0, 0));
}

#[tokio::test]
async fn changes_published_before_arrive_before_the_close() {
    // Again and again: it must not depend on who happens to come first.
    for round in 0..20 {
        for transport in ["any stream", "TCP"] {
            let live = live();
            let server = Server::layered(&live.layer(), usual);
            let mut raw = match transport {
                "TCP" => Raw::socket(server.connect_tcp(None).await).await,
                _ => Raw::socket(server.connect()).await,
            };
            raw.send_text(r#"{"action":"subscribe","name":"events"}"#).await;
            raw.barrier().await;
            for number in 0..10 {
                live.send("events", &json!(number)).unwrap();
            }
            let shutdown = tokio::spawn({
                let live = live.clone();
                async move { live.shutdown().await }
            });
            for number in 0..10 {
                let (first, payload) = raw.frame().await.expect("a frame");
                assert_eq!(first, FIN | raw::TEXT, "{transport}, round {round}: {number} of 10 came");
                let message: serde_json::Value = serde_json::from_slice(&payload).unwrap();
                assert_eq!(message["body"]["value"], number, "{transport}, round {round}");
            }
            assert_eq!(raw.end().await, End::Close(1001, "Going away".into()), "{transport}");
            drop(raw);
            shutdown.await.unwrap();
        }
    }
}

/// A hook that runs at the moment of the shutdown is waited for, on any transport.
#[tokio::test(start_paused = true)]
async fn what_a_hook_still_checks_arrives_before_the_close() {
    let asked = Arc::new(Notify::new());
    let entity =
        Entity::scheduler("/events").visible(asked.clone(), async |asked: Arc<Notify>, _: Identity, _: Value| {
            asked.notify_one();
            tokio::time::sleep(Duration::from_secs(1)).await;
            Ok::<_, Infallible>(true)
        });
    let entity = entity.load((), async |(), _: String| Ok::<_, Infallible>(None::<Value>));
    let live = LiveUpdates::builder("/api/v1").entity(entity).tokens(["demo"]).build().unwrap();
    let server = Server::layered(&live.layer(), usual);
    let mut page = server.subscribed().await;
    live.publish("events", Change::add(&event(1, "a")).unwrap()).unwrap();
    asked.notified().await;
    let shutdown = tokio::spawn({
        let live = live.clone();
        async move { live.shutdown().await }
    });
    let (kind, event) = page.event().await;
    assert_eq!((&*kind, &event["text"]), ("add-event", &json!("a")));
    assert_eq!(page.end().await, End::Close(1001, "Going away".into()));
    shutdown.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_hundred_sockets_all_receive_the_close_spread_over_half_the_drain() {
    let live = builder().tokens(["demo"]).drain_timeout(Duration::from_secs(10)).build().unwrap();
    let server = Server::layered(&live.layer(), usual);
    let mut pages = Vec::new();
    for _ in 0..100 {
        pages.push(server.page().await);
    }
    let began = Instant::now();
    let ends = pages.into_iter().map(|mut page| {
        tokio::spawn(async move {
            assert_eq!(page.end().await, End::Close(1001, "Going away".into()));
            began.elapsed()
        })
    });
    let ends: Vec<_> = ends.collect();
    live.shutdown().await;
    assert!(began.elapsed() < Duration::from_secs(6), "no longer than needed: {:?}", began.elapsed());
    let mut moments = Vec::new();
    for end in ends {
        moments.push(end.await.unwrap());
    }
    assert!(moments.iter().all(|moment| *moment <= Duration::from_millis(5010)), "{moments:?}");
    let seconds: HashSet<u64> = moments.iter().map(Duration::as_secs).collect();
    assert!(seconds.len() >= 4, "pages return two seconds later, and not all together: {moments:?}");
    assert_eq!(live.stats().connections, 0);
}

#[tokio::test(start_paused = true)]
async fn a_few_sockets_receive_the_close_at_once() {
    let live = live();
    let server = Server::layered(&live.layer(), usual);
    let pages: Vec<Page> = vec![server.page().await, server.page().await, server.page().await];
    let began = Instant::now();
    let reading = pages.into_iter().map(|mut page| tokio::spawn(async move { page.end().await }));
    let reading: Vec<_> = reading.collect();
    live.shutdown().await;
    assert!(began.elapsed() < Duration::from_millis(10), "{:?}", began.elapsed());
    for end in reading {
        assert!(matches!(end.await.unwrap(), End::Close(1001, _)));
    }
}

#[tokio::test]
async fn meanwhile_sockets_are_refused_and_http_goes_on() {
    let live = live();
    let server = Server::layered(&live.layer(), usual);
    live.shutdown().await;
    let mut raw = Raw::new(server.connect());
    raw.write(upgrade_request("/api/v1?token=demo&ws=1", &[]).as_bytes()).await.unwrap();
    let (head, body) = raw.answer().await;
    assert_eq!(head.status(), 503);
    assert!(body.contains("shutting down"), "{body}");
    assert_eq!(live.stats().sockets_refused, 1);

    let handshake = server.handshake("demo").await;
    assert_eq!(handshake.status(), 200, "a page asks only once");
    assert!(std::str::from_utf8(handshake.body()).unwrap().contains(r#""websocket":true"#));
    assert_eq!(server.write(http::Method::PUT, "/events/7", r#"{"text":"x"}"#).await.status(), 200);
}

#[tokio::test]
async fn a_second_call_waits_for_the_same_end() {
    let live = live();
    let server = Server::layered(&live.layer(), usual);
    let mut page = server.page().await;
    let reading = tokio::spawn(async move { page.end().await });
    tokio::join!(live.shutdown(), live.shutdown());
    assert!(matches!(reading.await.unwrap(), End::Close(1001, _)));
    live.shutdown().await;
    assert_eq!(live.stats().connections, 0);
}

#[tokio::test(start_paused = true)]
async fn shutdown_without_sockets_takes_no_time() {
    let live = live();
    let began = Instant::now();
    live.shutdown().await;
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_answer_is_left_when_the_drain_is_over() {
    // Left to themselves, the farewells would take two seconds.
    let live = builder().tokens(["demo"]).drain_timeout(Duration::from_secs(1)).build().unwrap();
    let server = Server::layered(&live.layer(), usual);
    let mut silent = Raw::socket(server.connect()).await;
    let mut stalled = Raw::socket(server.connect_with(512)).await;
    stalled.send_text(r#"{"action":"subscribe","name":"events"}"#).await;
    stalled.barrier().await;
    live.send("events", &"x".repeat(100_000)).unwrap();
    until("it stands still", || live.stats().log_records == 1).await;
    let began = Instant::now();
    live.shutdown().await;
    assert!(began.elapsed() <= Duration::from_millis(1100), "{:?}", began.elapsed());
    assert!(began.elapsed() >= Duration::from_millis(999), "they had their time");
    until("both are gone", || live.stats().connections == 0).await;
    assert_eq!(silent.end().await, End::Close(1001, "Going away".into()));
    assert!(silent.is_over().await);
}

#[tokio::test(start_paused = true)]
async fn denied_sockets_do_not_hold_the_end_up() {
    let live = live();
    let server = Server::layered(&live.layer(), usual);
    let mut denied = Raw::new(server.connect());
    denied.upgrade("/api/v1?token=wrong&ws=1").await;
    let reading = tokio::spawn(async move { denied.end().await });
    let began = Instant::now();
    live.shutdown().await;
    assert!(began.elapsed() < Duration::from_millis(10), "{:?}", began.elapsed());
    assert_eq!(reading.await.unwrap(), End::Close(1008, "Unauthorized".into()));
}

#[tokio::test(start_paused = true)]
async fn refusals_that_wait_are_given_at_once() {
    let live = builder().authenticate_fn((), async |(), _| Err(AuthError::Unavailable)).build().unwrap();
    let server = Server::layered(&live.layer(), usual);
    let began = Instant::now();
    let mut waiting = Vec::new();
    for _ in 0..10 {
        let mut raw = Raw::new(server.connect());
        raw.write(upgrade_request("/api/v1?token=demo&ws=1", &[]).as_bytes()).await.unwrap();
        waiting.push(raw);
    }
    until("all of them wait", || live.stats().sockets_refused == 10).await;
    live.shutdown().await;
    for raw in &mut waiting {
        assert_eq!(raw.head().await.status(), 503);
    }
    assert!(began.elapsed() < Duration::from_millis(500), "not up to 20 s: {:?}", began.elapsed());
}

#[tokio::test]
async fn disconnect_closes_the_chosen_and_no_others() {
    let live = builder()
        .authenticate_fn((), async |(), request: AuthRequest| Ok(Identity::new(request.token())))
        .build()
        .unwrap();
    let server = Server::layered(&live.layer(), usual);
    let mut alices = [
        server.page_at("/api/v1?token=alice&ws=1").await.unwrap(),
        server.page_at("/api/v1?token=alice&ws=1").await.unwrap(),
    ];
    let mut bob = server.page_at("/api/v1?token=bob&ws=1").await.unwrap();
    bob.subscribe("events").await;
    assert_eq!(live.disconnect(|identity| identity.principal() == "carol"), 0);
    assert_eq!(live.disconnect(|identity| identity.principal() == "alice"), 2);
    for page in &mut alices {
        assert_eq!(page.end().await, End::Close(1008, "Disconnected".into()));
    }
    assert!(bob.received(&live).await.is_empty(), "he stays");
    until("only he is left", || live.stats().connections == 1).await;
    assert!(server.page_at("/api/v1?token=alice&ws=1").await.is_ok(), "disconnecting takes no permission away");
}

#[tokio::test]
async fn disconnect_may_look_at_the_handle_it_was_called_on() {
    let live = live();
    let server = Server::layered(&live.layer(), usual);
    let mut page = server.page().await;
    let seen = live.disconnect(|_| live.stats().connections == 1 && live.disconnect(|_| false) == 0);
    assert_eq!(seen, 1, "the closure runs under no lock");
    assert!(matches!(page.end().await, End::Close(1008, _)));
}

#[tokio::test]
async fn a_connection_permit_is_given_back_when_a_socket_ends() {
    let live = builder().tokens(["demo"]).max_connections(2).refusal_delay(Duration::ZERO).build().unwrap();
    let server = Server::layered(&live.layer(), usual);
    let first = server.page().await;
    let _second = server.page().await;
    let mut third = Raw::new(server.connect());
    third.write(upgrade_request("/api/v1?token=demo&ws=1", &[]).as_bytes()).await.unwrap();
    let (head, body) = third.answer().await;
    assert_eq!(head.status(), 503);
    assert!(body.contains("too many connections"), "{body}");
    assert_eq!(live.stats().sockets_refused, 1);
    drop(first);
    until("one has left", || live.stats().connections == 1).await;
    // The permit is given back a moment after the socket is off the list.
    let mut again = None;
    for _ in 0..1000 {
        again = server.page_at("/api/v1?token=demo&ws=1").await.ok();
        if again.is_some() {
            break;
        }
        tokio::task::yield_now().await;
    }
    assert!(again.is_some());
}

fn runtimes() -> [Runtime; 3] {
    let one = || Runtimes::new_current_thread().enable_all().build().unwrap();
    let many = Runtimes::new_multi_thread().worker_threads(3).enable_all().build().unwrap();
    [one(), many, one()]
}

/// A page over each transport receives a change.
async fn pages_receive(live: &LiveUpdates, round: usize) {
    let server = Server::layered(&live.layer(), usual);
    // More than there are workers, so that every part of the fan-out is needed.
    for _ in 0..4 {
        let mut page = server.subscribed().await;
        let mut direct = Page::open(server.connect_tcp(None).await, "/api/v1?token=demo&ws=1", &[]).await.unwrap();
        direct.subscribe("events").await;
        live.send("events", &json!({ "round": round })).unwrap();
        assert_eq!(page.received(live).await, [json!({ "round": round })]);
        assert_eq!(direct.message().await.unwrap()["body"]["value"], json!({ "round": round }));
    }
}

#[test]
fn one_runtime_may_end_and_another_begin() {
    let live = builder()
        .tokens(["demo"])
        .max_log_records(50)
        .max_log_bytes(1024 * 1024)
        .log_retention(Duration::from_secs(60))
        .build()
        .unwrap();
    for (round, runtime) in runtimes().into_iter().enumerate() {
        runtime.block_on(pages_receive(&live, round));
        drop(runtime);
        // With no task to send anything, and more than the log keeps.
        for _ in 0..120 {
            live.send("events", &json!("between")).unwrap();
        }
    }
}

#[test]
fn a_runtime_that_ends_takes_its_sockets_along() {
    let live = live();
    let server = Server::layered(&live.layer(), usual);
    for (transport, runtime) in ["one", "many", "one"].into_iter().zip(runtimes()) {
        let mut stream = runtime.block_on(async {
            let stream = server.connect_tcp(None).await;
            let mut page = Page::open(stream, "/api/v1?token=demo&ws=1", &[]).await.unwrap();
            page.subscribe("events").await;
            page.socket.into_inner().into_std().unwrap()
        });
        assert_eq!((live.stats().connections, live.stats().subscriptions), (1, 1), "{transport}");
        drop(runtime);
        let stats = live.stats();
        assert_eq!((stats.connections, stats.subscriptions), (0, 0), "{transport}: nothing is left behind");
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut rest = Vec::new();
        let end = stream.read_to_end(&mut rest).map_err(|error| error.kind());
        assert!(matches!(end, Ok(_) | Err(ErrorKind::ConnectionReset)), "{transport}: the page notices: {end:?}");
    }
}
