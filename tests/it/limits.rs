//! Limits: the connection limit, rate limits and others, for one page, one user, or all; a page that reaches one does
//! not affect others.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::join_all;
use http::Request;
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tower::ServiceExt;
use tower_live_updates::{
    AuthError, AuthRequest, Entity, Identity, LiveUpdates, LiveUpdatesBuilder, builder::HasAuth, builder::WantsAuth,
};

use crate::support::{
    End, Page, Server, TOKEN, builder, converging, full,
    raw::{self, FIN, Raw, frame, text, upgrade_request},
    until, usual,
};

const JUNK: &str = "junk";

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn too_many() -> End {
    End::Close(1008, "Too many messages".into())
}

/// The token is the principal.
fn open_to_all(builder: LiveUpdatesBuilder<WantsAuth>) -> LiveUpdatesBuilder<HasAuth> {
    builder.authenticate_fn((), async |(), request: AuthRequest| Ok::<_, AuthError>(Identity::new(request.token())))
}

fn serve(builder: LiveUpdatesBuilder<HasAuth>) -> (LiveUpdates, Server) {
    let live = builder.build().unwrap();
    let server = Server::layered(&live.layer(), usual);
    (live, server)
}

/// A page that must keep receiving.
async fn receives(live: &LiveUpdates, page: &mut Page) {
    live.send("events", &json!("received")).unwrap();
    assert_eq!(page.message().await.unwrap()["body"]["value"], "received");
}

/// The answer to an upgrade, and how long it took.
async fn refusal(server: &Server, address: &str) -> (u16, String, Duration) {
    let began = Instant::now();
    let mut raw = Raw::new(server.connect());
    raw.write(upgrade_request(address, &[]).as_bytes()).await.unwrap();
    let (head, body) = raw.answer().await;
    (head.status(), body, began.elapsed())
}

#[tokio::test(start_paused = true)]
async fn one_socket_over_the_connection_limit_waits_for_its_503_and_the_others_keep_receiving() {
    // No pings are answered while the test looks at the others.
    let patient = builder().tokens([TOKEN]).pong_timeout(seconds(24 * 3600));
    let (live, server) = serve(patient.max_connections(3));
    let mut pages = [server.subscribed().await, server.subscribed().await, server.subscribed().await];
    let mut delays = Vec::new();
    for _ in 0..10 {
        let (status, body, delay) = refusal(&server, "/api/v1?token=demo&ws=1").await;
        assert_eq!((status, body.as_str()), (503, r#"{"error":"too many connections"}"#));
        delays.push(delay.as_secs_f64());
    }
    assert!(delays.iter().all(|delay| *delay <= 20.01), "{delays:?}");
    assert!(delays.iter().any(|delay| *delay > 1.0), "a client that retries every two seconds is kept: {delays:?}");
    live.send("events", &json!("received")).unwrap();
    for page in &mut pages {
        assert_eq!(page.message().await.unwrap()["body"]["value"], "received");
    }
    assert_eq!((live.stats().connections, live.stats().sockets_refused), (3, 10));
}

#[tokio::test]
async fn the_connection_limit_of_one_principal_does_not_affect_others() {
    let limited = open_to_all(builder()).max_connections_per_principal(2).refusal_delay(Duration::ZERO);
    let (live, server) = serve(limited);
    let alice = "/api/v1?token=alice&ws=1";
    let mut first = Raw::new(server.connect());
    first.upgrade(alice).await;
    let second = server.page_at(alice).await.unwrap();
    let (status, body, _) = refusal(&server, alice).await;
    assert_eq!((status, body.as_str()), (503, r#"{"error":"too many connections of one principal"}"#));
    let mut bob = server.page_at("/api/v1?token=bob&ws=1").await.unwrap();
    bob.subscribe("events").await;
    receives(&live, &mut bob).await;
    assert_eq!((live.stats().connections, live.stats().sockets_refused), (3, 1));

    // However a socket ends, its permit is given back: here by the page, by the server, and by neither.
    first.write(&frame(raw::CLOSE, b"\x03\xe8")).await.unwrap();
    let third = comes_in(&server, alice).await;
    assert_eq!(live.disconnect(|identity| identity.principal() == "alice"), 2);
    drop([second, third]);
    let mut raw = Raw::new(server.connect_with(32));
    raw.write(upgrade_request(alice, &[]).as_bytes()).await.unwrap();
    assert_eq!(raw.bytes(12).await.unwrap(), b"HTTP/1.1 101");
    drop(raw);
    until("the failed upgrade is counted", || live.stats().upgrades_failed == 1).await;
    let both = [comes_in(&server, alice).await, comes_in(&server, alice).await];
    assert_eq!(refusal(&server, alice).await.0, 503);
    drop(both);
}

/// A socket that opens as soon as a permit is free, which is a moment after another one is off the list.
async fn comes_in(server: &Server, address: &str) -> Page {
    for _ in 0..1000 {
        if let Ok(page) = server.page_at(address).await {
            return page;
        }
        tokio::task::yield_now().await;
    }
    panic!("no permit");
}

#[tokio::test(start_paused = true)]
async fn a_principal_over_its_connection_limit_waits_for_its_503() {
    let (_live, server) =
        serve(builder().allow_anonymous().pong_timeout(seconds(24 * 3600)).max_connections_per_principal(1));
    let _page = server.page().await;
    let mut longest = Duration::ZERO;
    for _ in 0..10 {
        longest = longest.max(refusal(&server, "/api/v1?token=x&ws=1").await.2);
    }
    assert!(longest > seconds(1) && longest <= seconds(21), "{longest:?}");
}

/// So many entities besides `events` and `calendars`: `entity-0`, `entity-1` …
fn with_entities(count: usize) -> LiveUpdatesBuilder<HasAuth> {
    (0..count).fold(builder(), |builder, at| builder.entity(Entity::new(format!("entity-{at}")))).tokens([TOKEN])
}

fn subscription(name: &str) -> String {
    json!({"action": "subscribe", "name": name}).to_string()
}

#[tokio::test]
async fn a_page_subscribes_thirty_two_entities_at_once_and_no_more() {
    let (live, server) = serve(with_entities(40));
    let mut page = server.page().await;
    for at in 0..32 {
        page.send_text(&subscription(&format!("entity-{at}"))).await;
    }
    page.barrier().await;
    assert_eq!((live.stats().subscriptions, live.stats().subscriptions_refused), (32, 0));

    for one_more in ["entity-32", "$resync"] {
        page.subscribe(one_more).await;
    }
    page.subscribe("entity-0").await;
    let stats = live.stats();
    assert_eq!((stats.subscriptions, stats.subscriptions_refused, stats.messages_ignored), (32, 2, 0));
    live.send("entity-32", &json!("not subscribed")).unwrap();
    assert_eq!(page.received_of("entity-31", &live).await, Vec::<Value>::new());

    page.send_text(r#"{"action":"unsubscribe","name":"entity-0"}"#).await;
    page.subscribe("entity-32").await;
    assert_eq!(page.received_of("entity-32", &live).await, Vec::<Value>::new());
    assert_eq!((live.stats().subscriptions, live.stats().subscriptions_refused), (32, 2));
}

#[tokio::test]
async fn how_many_a_page_subscribes_is_its_own_business_and_can_be_set() {
    let (live, server) = serve(with_entities(0).max_subscriptions(1));
    let mut pages = [server.page().await, server.page().await];
    for page in &mut pages {
        page.subscribe("events").await;
        page.subscribe("calendars").await;
    }
    assert_eq!((live.stats().subscriptions, live.stats().subscriptions_refused), (2, 2));
}

#[tokio::test]
async fn names_too_long_or_unknown_are_ignored_and_counted() {
    let longest = "n".repeat(64);
    let (live, server) = serve(builder().entity(Entity::new(longest.clone())).tokens([TOKEN]));
    let mut page = server.page().await;
    for name in ["n".repeat(65), "n".repeat(63), "nosuch".to_owned(), "n".repeat(4000)] {
        page.subscribe(&name).await;
    }
    assert_eq!((live.stats().subscriptions, live.stats().messages_ignored), (0, 4));
    page.subscribe(&longest).await;
    assert_eq!((live.stats().subscriptions, live.stats().messages_ignored), (1, 4));
}

#[tokio::test]
async fn forty_one_subscriptions_in_a_row_close_no_page() {
    let (live, server) = serve(with_entities(41));
    let mut page = server.subscribed().await;
    for at in 0..41 {
        page.send_text(&subscription(&format!("entity-{at}"))).await;
        page.send_text(&subscription(&format!("entity-{at}")).replace("subscribe", "unsubscribe")).await;
    }
    page.barrier().await;
    receives(&live, &mut page).await;
    let stats = live.stats();
    assert_eq!((stats.connections, stats.sockets_closed_rate_limited, stats.messages_ignored), (1, 0, 0));
}

/// Frames that a page may send a thousand of at once, and a hundred a second.
fn floods() -> [(&'static str, Vec<u8>); 4] {
    [
        ("text", text(JUNK)),
        ("binary", frame(raw::BINARY, b"junk")),
        ("pongs", frame(raw::PONG, b"flood")),
        ("empty fragments", [raw::header(raw::CONTINUATION, true, 0)].concat()),
    ]
}

/// What must come before the first of them.
fn beginning(what: &str) -> Vec<u8> {
    if what == "empty fragments" { raw::header(raw::TEXT, true, 0) } else { Vec::new() }
}

/// Waits until the server has read all of it.
async fn is_read(raw: &mut Raw) -> Duration {
    let began = Instant::now();
    raw.write(&frame(raw::PING, b"read")).await.unwrap();
    while raw.frame().await.expect("an open socket") != (FIN | raw::PONG, b"read".to_vec()) {}
    began.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_thousand_messages_are_read_at_once_and_more_of_them_at_the_rate() {
    for (what, flood) in floods() {
        let (live, server) = serve(builder().tokens([TOKEN]));
        let mut raw = Raw::socket(server.connect()).await;
        raw.write(&beginning(what)).await.unwrap();
        raw.write(&flood.repeat(998)).await.unwrap();
        assert_eq!(is_read(&mut raw).await, Duration::ZERO, "{what}");
        raw.write(&flood.repeat(500)).await.unwrap();
        let took = is_read(&mut raw).await.as_secs_f64();
        assert!((4.7..=5.1).contains(&took), "{what}: {took}");
        sleep(seconds(11)).await;
        raw.write(&flood.repeat(999)).await.unwrap();
        assert_eq!(is_read(&mut raw).await, Duration::ZERO, "{what}: after a pause as before");
        assert_eq!((live.stats().connections, live.stats().sockets_closed_rate_limited), (1, 0), "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_page_that_exceeds_the_rate_limit_is_closed_after_half_a_minute_and_others_are_not_affected() {
    for (what, flood) in floods() {
        let (live, server) = serve(builder().tokens([TOKEN]).pong_timeout(seconds(24 * 3600)));
        let mut other = server.subscribed().await;
        let mut raw = Raw::socket(server.connect()).await;
        let began = Instant::now();
        raw.write(&beginning(what)).await.unwrap();
        let floods = async {
            let flood = flood.repeat(100);
            while raw.write(&flood).await.is_ok() {
                sleep(Duration::from_millis(1)).await;
            }
        };
        let goes_on = async {
            while live.stats().connections == 2 {
                let sent = Instant::now();
                receives(&live, &mut other).await;
                assert_eq!(sent.elapsed(), Duration::ZERO, "{what}");
                sleep(Duration::from_millis(100)).await;
            }
            began.elapsed().as_secs_f64()
        };
        let ((), took) = tokio::join!(floods, goes_on);
        assert!((30.0..=32.2).contains(&took), "{what}: {took}");
        assert_eq!(raw.end().await, too_many(), "{what}");
        let stats = live.stats();
        assert_eq!((stats.sockets_closed_rate_limited, stats.sockets_closed_idle), (1, 0), "{what}");
        // As many as 31 s allow, and what one read takes too many.
        assert!(stats.messages_ignored <= 1000 + 3100 + 20, "{what}: {}", stats.messages_ignored);
    }
}

#[tokio::test(start_paused = true)]
async fn a_page_that_pauses_now_and_then_is_never_closed() {
    let (live, server) = serve(builder().tokens([TOKEN]));
    let mut raw = Raw::socket(server.connect()).await;
    for _ in 0..10 {
        raw.write(&text(JUNK).repeat(2000)).await.unwrap();
        assert!(is_read(&mut raw).await > seconds(9));
        sleep(seconds(1)).await;
    }
    assert_eq!((live.stats().messages_ignored, live.stats().sockets_closed_rate_limited), (20_000, 0));
}

#[tokio::test(start_paused = true)]
async fn a_page_may_go_on_at_the_rate_for_ever() {
    let (live, server) = serve(builder().tokens([TOKEN]));
    let mut raw = Raw::socket(server.connect()).await;
    raw.write(&text(JUNK).repeat(990)).await.unwrap();
    for _ in 0..10_000 {
        sleep(Duration::from_millis(10)).await;
        raw.send_text(JUNK).await;
    }
    assert_eq!(is_read(&mut raw).await, Duration::ZERO);
    assert_eq!((live.stats().messages_ignored, live.stats().sockets_closed_rate_limited), (10_990, 0));
}

#[tokio::test]
async fn the_rate_can_be_set() {
    let (live, server) = serve(builder().tokens([TOKEN]).max_message_rate(3, 2));
    for (transport, mut raw) in server.connect_both().await {
        let before = live.stats().messages_ignored;
        let ignored = || live.stats().messages_ignored - before;
        raw.upgrade("/api/v1?token=demo&ws=1").await;
        // Larger than what is read at one time.
        raw.write(&text(&"x".repeat(300)).repeat(5)).await.unwrap();
        until("as many as may come at once", || ignored() == 3).await;
        until("one more", || ignored() == 4).await;
        until("and the last", || ignored() == 5).await;
        assert_eq!((live.stats().connections >= 1, live.stats().sockets_closed_rate_limited), (true, 0), "{transport}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_page_that_is_not_read_does_not_count_as_idle() {
    let rare = builder().tokens([TOKEN]).max_message_rate(1, 1);
    let (live, server) = serve(rare.ping_interval(seconds(5)).pong_timeout(seconds(12)));
    let mut raw = Raw::socket(server.connect()).await;
    // In one read, and so twenty seconds' worth of it.
    raw.write(&text("").repeat(20)).await.unwrap();
    sleep(seconds(19)).await;
    assert_eq!((live.stats().connections, live.stats().sockets_closed_idle), (1, 0), "its pongs would not be read");
    sleep(seconds(20)).await;
    assert_eq!((live.stats().connections, live.stats().sockets_closed_idle), (0, 1), "but then they are missed");
}

#[cfg(feature = "tracing")]
#[tokio::test(start_paused = true)]
async fn many_warnings_of_one_kind_silence_no_other() {
    let logs = crate::support::logs::Logs::capture();
    let (_live, server) = serve(builder().tokens([TOKEN]).max_delayed_refusals(0).max_subscriptions(1));
    for _ in 0..25 {
        assert_eq!(refusal(&server, "/api/v1?token=wrong&ws=1").await.0, 403);
    }
    let mut page = server.subscribed().await;
    page.subscribe("calendars").await;
    assert_eq!(logs.lines("max_subscriptions").len(), 1);
    let refused = logs.lines("refused: the credentials");
    assert_eq!(refused.len(), 20);
    assert!(refused[19].contains("more like this are left out"), "{}", refused[19]);
    sleep(seconds(11)).await;
    refusal(&server, "/api/v1?token=wrong&ws=1").await;
    assert!(logs.lines("5 more like this were left out").len() == 1, "{:?}", logs.lines("left out"));
}

#[tokio::test]
async fn an_address_that_would_take_too_much_to_keep_is_refused() {
    let (live, server) = serve(open_to_all(builder()));
    let address = |length: usize| format!("/api/v1?tenant={}&token=demo&ws=1", "x".repeat(length));
    let (status, body, _) = refusal(&server, &address(16 * 1024)).await;
    assert_eq!(status, 414, "{body}");
    assert_eq!((live.stats().sockets_opened, live.stats().sockets_refused), (0, 1));
    assert!(server.page_at(&address(16 * 1024 - 50)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn answers_to_the_servers_own_pings_are_never_too_many() {
    // Pinged with every message it receives, and then some.
    let often = converging().tokens([TOKEN]).acknowledge_interval(Duration::ZERO).max_message_rate(1, 1);
    let (live, server) = serve(often.ping_interval(Duration::from_millis(20)));
    let key = server.handshake(TOKEN).await;
    let key: Value = serde_json::from_slice(key.body()).unwrap();
    let mut page = server.page_at(&format!("/api/v1?token={}&ws=1", key["key"].as_str().unwrap())).await.unwrap();
    page.subscribe("events").await;
    for _ in 0..1000 {
        live.send("events", &json!("received")).unwrap();
        assert_eq!(page.message().await.unwrap()["body"]["value"], "received");
    }
    page.barrier().await;
    assert_eq!(live.stats().sockets_closed_rate_limited, 0);
}

fn handshake() -> Request<Full<Bytes>> {
    Request::get("/api/v1").header("remote-token", TOKEN).body(full("")).unwrap()
}

/// Handshakes that all come at once: how each is answered.
async fn herd(live: &LiveUpdates, count: usize) -> Vec<(u16, Value)> {
    join_all((0..count).map(|_| async {
        let (parts, body) = live.endpoint().oneshot(handshake()).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (parts.status.as_u16(), serde_json::from_slice(&body).unwrap())
    }))
    .await
}

fn all_are_welcome(answers: &[(u16, Value)]) {
    assert!(answers.iter().all(|(status, answer)| *status == 200 && answer["websocket"] == true));
}

/// How many authenticators run, and how many have at one time.
#[derive(Clone, Default)]
struct Running(Arc<(AtomicUsize, AtomicUsize)>);

impl Running {
    fn builder(&self) -> LiveUpdatesBuilder<HasAuth> {
        builder().authenticate_fn(self.clone(), async |running: Self, _| {
            let (now, most) = &*running.0;
            most.fetch_max(now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
            sleep(Duration::from_millis(10)).await;
            now.fetch_sub(1, Ordering::Relaxed);
            Ok::<_, AuthError>(Identity::new("alice"))
        })
    }

    fn most(&self) -> usize {
        self.0.1.load(Ordering::Relaxed)
    }
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_handshakes_at_once_are_all_admitted_and_few_are_authenticated_at_a_time() {
    let running = Running::default();
    let live = running.builder().build().unwrap();
    let began = Instant::now();
    all_are_welcome(&herd(&live, 10_000).await);
    assert_eq!(running.most(), 128);
    assert!(began.elapsed() < seconds(2), "79 rounds: {:?}", began.elapsed());
    let stats = live.stats();
    assert_eq!((stats.handshakes, stats.authentication_queue_timeouts, stats.hooks_failed), (10_000, 0, 0));
}

fn hanging() -> LiveUpdatesBuilder<HasAuth> {
    builder().authenticate_fn((), async |(), _| std::future::pending().await)
}

#[tokio::test(start_paused = true)]
async fn an_authenticator_that_hangs_refuses_no_handshake() {
    let live = hanging().build().unwrap();
    let began = Instant::now();
    all_are_welcome(&herd(&live, 10_000).await);
    assert!(began.elapsed() <= seconds(16), "queued for 10 s, asked for 5 s: {:?}", began.elapsed());
    let stats = live.stats();
    assert_eq!(stats.handshakes, 10_000);
    // Two rounds begin before the others have waited for too long, and the third may at that very moment.
    assert!((256..=384).contains(&stats.hooks_failed), "{}", stats.hooks_failed);
    assert_eq!(stats.authentication_queue_timeouts + stats.hooks_failed, 10_000);
}

#[tokio::test(start_paused = true)]
async fn queued_authentications_run_in_order_with_the_whole_hook_timeout() {
    let order = Arc::<std::sync::Mutex<Vec<String>>>::default();
    let live = builder()
        .authenticate_fn(order.clone(), async |order: Arc<std::sync::Mutex<Vec<String>>>, request: AuthRequest| {
            order.lock().unwrap().push(request.token().to_owned());
            sleep(seconds(4)).await;
            Ok::<_, AuthError>(Identity::new("alice"))
        })
        .max_concurrent_authentications(1)
        .authentication_queue_timeout(seconds(13))
        .build()
        .unwrap();
    let ask = |token: &'static str| {
        let request = Request::post("/api/v1").header("remote-token", token).body(full("[]")).unwrap();
        let endpoint = live.endpoint();
        async move { endpoint.oneshot(request).await.unwrap().status().as_u16() }
    };
    let answers = join_all(["first", "second", "third", "fourth", "too late"].map(ask)).await;
    assert_eq!(answers, [200, 200, 200, 200, 503]);
    assert_eq!(*order.lock().unwrap(), ["first", "second", "third", "fourth"]);
    assert_eq!((live.stats().hooks_failed, live.stats().authentication_queue_timeouts), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn without_a_queue_a_socket_is_refused_at_once_with_the_usual_delay() {
    let live = hanging()
        .hook_timeout(seconds(60))
        .max_concurrent_authentications(1)
        .authentication_queue_timeout(Duration::ZERO)
        .build()
        .unwrap();
    let server = Server::layered(&live.layer(), usual);
    let asking = tokio::spawn(live.endpoint().oneshot(handshake()));
    tokio::task::yield_now().await;
    let (status, body, delay) = refusal(&server, "/api/v1?token=demo&ws=1").await;
    assert_eq!((status, body.as_str()), (503, r#"{"error":"authentication is unavailable"}"#));
    assert!(delay <= seconds(21), "{delay:?}");
    assert_eq!(live.stats().authentication_queue_timeouts, 1);
    // A client that leaves gives its permit back.
    asking.abort();
    let _ = asking.await;
    assert_eq!(refusal(&server, "/api/v1?token=demo&ws=1").await.0, 503);
    assert_eq!(live.stats().authentication_queue_timeouts, 1, "it was asked about this time");
}

#[tokio::test(start_paused = true)]
async fn an_open_socket_stays_when_reauthentication_finds_no_slot() {
    let live = Running::default()
        .builder()
        .max_concurrent_authentications(1)
        .revalidation_interval(seconds(60))
        .hook_timeout(seconds(3600))
        .ping_interval(seconds(10))
        .build()
        .unwrap();
    let server = Server::layered(&live.layer(), usual);
    let mut page = server.page().await;
    let busy = herds_for_ever(&live);
    let quiet = tokio::time::timeout(seconds(100), page.end());
    assert!(quiet.await.is_err(), "it stays");
    assert!(live.stats().authentication_queue_timeouts >= 1);
    busy.abort();
}

/// Keeps the one authenticator there is busy: handshake after handshake.
fn herds_for_ever(live: &LiveUpdates) -> tokio::task::JoinHandle<()> {
    let live = live.clone();
    tokio::spawn(async move {
        loop {
            herd(&live, 5000).await;
        }
    })
}

#[tokio::test(start_paused = true)]
async fn lists_of_tokens_are_not_bounded() {
    let live = builder()
        .tokens([TOKEN])
        .max_concurrent_authentications(1)
        .authentication_queue_timeout(Duration::ZERO)
        .build()
        .unwrap();
    all_are_welcome(&herd(&live, 1000).await);
    assert_eq!(live.stats().authentication_queue_timeouts, 0);
}

#[test]
fn limits_of_nothing_are_no_configuration() {
    let ready = || builder().tokens([TOKEN]);
    for (builder, name) in [
        (ready().max_connections_per_principal(0), "max_connections_per_principal"),
        (ready().max_subscriptions(0), "max_subscriptions"),
        (ready().max_message_rate(0, 5), "max_message_rate"),
        (ready().max_message_rate(40, 0), "max_message_rate"),
        (ready().max_concurrent_authentications(0), "max_concurrent_authentications"),
        (ready().revalidation_interval(Duration::ZERO), "revalidation_interval"),
    ] {
        let error = builder.build().unwrap_err().to_string();
        assert_eq!(error, format!("{name} must not be zero"));
    }
    let most = ready()
        .max_connections_per_principal(usize::MAX)
        .max_subscriptions(usize::MAX)
        .max_message_rate(u32::MAX, u32::MAX)
        .max_concurrent_authentications(usize::MAX)
        .authentication_queue_timeout(Duration::MAX)
        .revalidation_interval(Duration::MAX);
    assert!(most.build().is_ok());
}
