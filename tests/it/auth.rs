//! Authentication: who may connect, and how refusals are delayed.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::Request;
use serde_json::{Value, json};
use tokio::time::Instant;
use tower::{Layer, ServiceExt};
use tower_live_updates::{
    AuthError, AuthRequest, Authenticate, Identity, LiveUpdates, LiveUpdatesBuilder, builder::HasAuth,
};

use crate::support::{
    End, Server, builder, converging, full,
    raw::{Raw, upgrade_request},
    until, usual,
};

const WRONG: &str = "/api/v1?token=wrong&ws=1";

/// Answers every question with the same error, and counts nothing.
fn refusing(error: AuthError) -> LiveUpdatesBuilder<HasAuth> {
    builder().authenticate_fn(error, async |error: AuthError, _| Err(error))
}

/// Writes down every token it is asked about, and lets `demo` in.
#[derive(Clone, Default)]
struct Notes(Arc<Mutex<Vec<String>>>);

impl Notes {
    fn live(&self) -> LiveUpdates {
        converging()
            .authenticate_fn(self.clone(), async |notes: Self, request: AuthRequest| {
                let token = request.token().to_owned();
                notes.0.lock().unwrap().push(token.clone());
                if token == "demo" { Ok(Identity::new("alice")) } else { Err(AuthError::Denied) }
            })
            .build()
            .unwrap()
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

async fn status(server: &Server, address: &str) -> u16 {
    let mut raw = Raw::new(server.connect());
    raw.write(upgrade_request(address, &[]).as_bytes()).await.unwrap();
    raw.head().await.status()
}

#[tokio::test(start_paused = true)]
async fn a_denied_socket_opens_and_receives_only_a_delayed_close() {
    let live = builder().tokens(["demo"]).build().unwrap();
    let server = Server::layered(&live.layer(), usual);
    let mut delays = Vec::new();
    for address in [WRONG, "/api/v1?token=&ws=1", "/api/v1?ws=1", "/api/v1?token=demo1&ws=1", "/api/v1?token=dem&ws=1"]
    {
        let mut raw = Raw::new(server.connect());
        raw.upgrade(address).await;
        let began = Instant::now();
        raw.send_text(r#"{"action":"subscribe","name":"events"}"#).await;
        live.send("events", &json!("not for every page")).unwrap();
        assert_eq!(raw.end().await, End::Close(1008, "Unauthorized".into()), "{address}");
        delays.push(began.elapsed());
        assert_eq!((live.stats().connections, live.stats().sockets_opened), (0, 0));
    }
    // A millisecond is the timer's grain.
    assert!(delays.iter().all(|delay| (1000..=2001).contains(&delay.as_millis())), "{delays:?}");
    assert!(delays.iter().any(|delay| *delay != delays[0]), "spread: {delays:?}");
    assert_eq!(live.stats().sockets_denied, 5);
}

#[tokio::test(start_paused = true)]
async fn a_denied_socket_is_gone_two_seconds_after_its_close_even_when_the_peer_does_not_answer() {
    let live = refusing(AuthError::Denied).build().unwrap();
    let server = Server::layered(&live.layer(), usual);
    let mut raw = Raw::new(server.connect());
    raw.upgrade(WRONG).await;
    raw.end().await;
    let closed = Instant::now();
    assert!(raw.is_over().await);
    assert!(closed.elapsed() <= Duration::from_millis(2001), "{:?}", closed.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_denied_socket_is_gone_in_time_even_when_the_peer_keeps_talking() {
    let live = refusing(AuthError::Denied).build().unwrap();
    let server = Server::layered(&live.layer(), usual);
    let mut raw = Raw::new(server.connect());
    raw.upgrade(WRONG).await;
    let began = Instant::now();
    // Half a frame a tenth of a second, until the server does not read any more.
    while raw.write(&[0x81, 0x85]).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(began.elapsed() < Duration::from_secs(5), "after {:?}", began.elapsed());
    }
    assert_eq!(raw.end().await, End::Close(1008, "Unauthorized".into()));
    assert!(raw.is_over().await);
}

#[tokio::test(start_paused = true)]
async fn beyond_the_cap_of_waiting_refusals_the_403_comes_at_once() {
    let live = refusing(AuthError::Denied).max_delayed_refusals(2).build().unwrap();
    let server = Server::layered(&live.layer(), usual);
    let mut waiting = [Raw::new(server.connect()), Raw::new(server.connect())];
    for raw in &mut waiting {
        raw.upgrade(WRONG).await;
    }
    let began = Instant::now();
    let mut third = Raw::new(server.connect());
    third.write(upgrade_request(WRONG, &[]).as_bytes()).await.unwrap();
    let (head, body) = third.answer().await;
    assert_eq!((head.status(), body.as_str()), (403, r#"{"error":"Forbidden"}"#));
    assert!(began.elapsed() < Duration::from_millis(1), "at once");
    assert_eq!(live.stats().sockets_denied, 3);

    for raw in &mut waiting {
        raw.end().await;
        assert!(raw.is_over().await);
    }
    assert_eq!(status(&server, WRONG).await, 101, "their permits are free again");
}

#[tokio::test(start_paused = true)]
async fn an_expired_sealed_key_is_reported_once_before_the_close() {
    let live = refusing(AuthError::Expired).build().unwrap();
    let server = Server::layered(&live.layer(), usual);
    assert_eq!(server.handshake("old").await.body(), r#"{"error":"Forbidden"}"#);
    for mut raw in [Raw::new(server.connect()), Raw::new(server.connect())] {
        let began = Instant::now();
        raw.upgrade(WRONG).await;
        let expired = json!({"action": "event", "body": {"name": "$session", "value": {"type": "expired"}}});
        assert_eq!(raw.json().await, expired);
        assert!(began.elapsed() < Duration::from_millis(100), "the message does not wait for the close");
        assert_eq!(raw.end().await, End::Close(1008, "Unauthorized".into()));
        assert!((1000..=2001).contains(&began.elapsed().as_millis()));
    }
}

#[tokio::test(start_paused = true)]
async fn an_unavailable_authenticator_refuses_no_handshake_and_delays_a_socket() {
    let live = refusing(AuthError::Unavailable).refusal_delay(Duration::from_secs(20)).build().unwrap();
    let server = Server::layered(&live.layer(), usual);
    let handshake = server.handshake("demo").await;
    assert_eq!(handshake.status(), 200);
    assert_eq!(serde_json::from_slice::<Value>(handshake.body()).unwrap()["websocket"], true);

    let mut delays = Vec::new();
    for _ in 0..30 {
        let began = Instant::now();
        assert_eq!(status(&server, "/api/v1?token=demo&ws=1").await, 503);
        delays.push(began.elapsed().as_secs_f64());
    }
    assert!(delays.iter().all(|delay| *delay <= 20.002), "{delays:?}");
    let (first, last) = (delays.iter().copied().fold(f64::MAX, f64::min), delays.iter().copied().fold(0.0, f64::max));
    assert!(last - first > 5.0, "spread over the whole time: {delays:?}");
    assert_eq!(live.stats().sockets_refused, 30);
}

#[tokio::test(start_paused = true)]
async fn beyond_the_cap_of_delayed_refusals_an_unavailable_authenticator_refuses_at_once() {
    let live = refusing(AuthError::Unavailable).max_delayed_refusals(0).build().unwrap();
    let server = Server::layered(&live.layer(), usual);
    let began = Instant::now();
    assert_eq!(status(&server, WRONG).await, 503);
    assert!(began.elapsed() < Duration::from_millis(1));
}

#[tokio::test]
async fn calls_are_refused_while_the_authenticator_is_unavailable() {
    let live = refusing(AuthError::Unavailable).build().unwrap();
    let server = Server::layered(&live.layer(), usual);
    let request = Request::post("/api/v1").header("remote-token", "demo").body(r#"[{"id":"2"}]"#).unwrap();
    assert_eq!(server.send(request).await.status(), 503);
    assert_eq!(live.stats().calls, 0);
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_the_authenticator_counts_as_unavailable() {
    async fn panics((): (), _: AuthRequest) -> Result<Identity, AuthError> {
        panic!("in the authenticator")
    }
    let live = builder().authenticate_fn((), panics).refusal_delay(Duration::ZERO).build().unwrap();
    let server = Server::layered(&live.layer(), usual);
    assert_eq!(server.handshake("demo").await.status(), 200);
    assert_eq!(status(&server, "/api/v1?token=demo&ws=1").await, 503);
    assert_eq!((live.stats().hooks_failed, live.stats().sockets_opened), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn an_authenticator_that_hangs_counts_as_unavailable() {
    let live = builder()
        .authenticate_fn((), async |(), _| std::future::pending().await)
        .hook_timeout(Duration::from_secs(3))
        .refusal_delay(Duration::ZERO)
        .build()
        .unwrap();
    let server = Server::layered(&live.layer(), usual);
    let began = Instant::now();
    assert_eq!(server.handshake("demo").await.status(), 200);
    assert_eq!(began.elapsed().as_secs(), 3);
    assert_eq!(status(&server, "/api/v1?token=demo&ws=1").await, 503);
    assert_eq!((live.stats().hooks_failed, live.stats().sockets_opened), (2, 0));
}

#[tokio::test]
async fn a_token_arrives_from_the_address_as_the_captured_client_wrote_it() {
    let notes = Notes::default();
    let server = Server::layered(&notes.live().layer(), usual);
    for (address, token) in [
        ("token=a+b/c=d==&ws=1", "a+b/c=d=="),
        ("token=a%20b&ws=1", "a b"),
        ("token=a%2Bb&ws=1", "a+b"),
        ("token=a&b=c&ws=1", "a&b=c"),
        ("token=a&token=b&ws=1", "a&token=b"),
        ("token=a&ws=1&ws=1", "a&ws=1"),
        ("token=cl%C3%A9&ws=1", "clé"),
        ("token=100%&ws=1", "100%"),
        ("token=%zz&ws=1", "%zz"),
        ("token=&ws=1", ""),
        ("ws=1", ""),
        ("tenant=7&token=x&ws=1", "x"),
        ("mytoken=y&ws=1", ""),
        ("ws=1&token=x", "x"),
    ] {
        assert_eq!(status(&server, &format!("/api/v1?{address}")).await, 101);
        assert_eq!(notes.take(), [token], "{address}");
    }
}

#[tokio::test]
async fn a_token_in_the_header_is_read_as_browsers_write_it() {
    let notes = Notes::default();
    let server = Server::layered(&notes.live().layer(), usual);
    for (bytes, token) in [
        (&b"a+b/c=d=="[..], "a+b/c=d=="),
        (b"a%2Bb", "a%2Bb"),
        (b"a&b=c", "a&b=c"),
        (b"a b", "a b"),
        (b"cl\xe9", "clé"),
        (b"\xff\xa0", "ÿ\u{a0}"),
        (b"", ""),
    ] {
        for method in ["GET", "POST"] {
            let mut raw = Raw::new(server.connect());
            let head =
                format!("{method} /api/v1 HTTP/1.1\r\nHost: live.example\r\nContent-Length: 0\r\nRemote-Token: ");
            raw.write(&[head.as_bytes(), bytes, b"\r\n\r\n"].concat()).await.unwrap();
            assert_eq!(raw.answer().await.0.status(), 403, "{token}");
            assert_eq!(notes.take(), [token], "{method}");
        }
    }
}

#[tokio::test]
async fn the_authenticator_sees_the_token_inside_a_key() {
    let notes = Notes::default();
    let server = Server::layered(&notes.live().layer(), usual);
    let answer: Value = serde_json::from_slice(server.handshake("demo").await.body()).unwrap();
    let key = answer["key"].as_str().unwrap();
    server.page_at(&format!("/api/v1?token={key}&ws=1")).await.unwrap();
    assert_eq!(notes.take(), ["demo", "demo"]);
}

#[tokio::test]
async fn a_key_stands_for_its_token_in_a_header_too() {
    let notes = Notes::default();
    let server = Server::layered(&notes.live().layer(), usual);
    let answer: Value = serde_json::from_slice(server.handshake("demo").await.body()).unwrap();
    let key = answer["key"].as_str().unwrap();
    // The client forgets its token for the key: its calls, and a handshake it makes anew, name that.
    let request = Request::post("/api/v1").header("remote-token", key).body(r#"[{"id":"2"}]"#).unwrap();
    assert_eq!(server.send(request).await.status(), 200);
    let again: Value = serde_json::from_slice(server.handshake(key).await.body()).unwrap();
    let key = again["key"].as_str().unwrap();
    assert!(server.page_at(&format!("/api/v1?token={key}&ws=1")).await.is_ok());
    assert_eq!(notes.take(), ["demo", "demo", "demo", "demo"], "a key never holds a key");
}

#[tokio::test(start_paused = true)]
async fn tokens_that_an_address_would_break_get_through_inside_a_key() {
    // `#` ends an address, `%` begins an escape, `+` is a space to many, and `é` travels as two bytes.
    for token in ["a#b", "100%25", "a+b/c=d==", "clé", "a&ws=1", "lu1.x"] {
        let live = converging().tokens([token]).build().unwrap();
        let server = Server::layered(&live.layer(), usual);
        let mut raw = Raw::new(server.connect());
        let latin: Vec<u8> = token.chars().map(|char| u8::try_from(u32::from(char)).unwrap()).collect();
        raw.write(&[&b"GET /api/v1 HTTP/1.1\r\nHost: x\r\nRemote-Token: "[..], &latin, b"\r\n\r\n"].concat())
            .await
            .unwrap();
        let answer: Value = serde_json::from_str(&raw.answer().await.1).unwrap();
        let key = answer["key"].as_str().unwrap();
        assert!(server.page_at(&format!("/api/v1?token={key}&ws=1")).await.is_ok(), "{token}");
    }
}

#[tokio::test(start_paused = true)]
async fn keys_that_this_server_did_not_seal_open_no_socket() {
    let notes = Notes::default();
    let live = notes.live();
    let server = Server::layered(&live.layer(), usual);
    let answer: Value = serde_json::from_slice(server.handshake("demo").await.body()).unwrap();
    let good = answer["key"].as_str().unwrap().to_owned();
    let parts: Vec<&str> = good.split('.').collect();
    notes.take();

    // A forged one counts as a token, nothing more: the authenticator is asked about it like about any other.
    let forged = [parts[0], "d3Jvbmc", parts[2], parts[3], parts[4]].join(".");
    assert_eq!(status(&server, &format!("/api/v1?token={forged}&ws=1")).await, 101);
    assert_eq!(notes.take(), ["wrong"]);

    let oversized = format!("lu1.{}.{}.{}.0", "A".repeat(9000), parts[2], parts[3]);
    for broken in [
        good.replace("lu1.", "lu2."),
        format!("{good}.1"),
        good.rsplit_once('.').unwrap().0.to_owned(),
        format!("{good}x"),
        good.replace(parts[2], "0123"),
        good.replace(parts[1], "*"),
        good.replace(parts[1], "____"),
        "lu1.".to_owned(),
        oversized,
    ] {
        let mut raw = Raw::new(server.connect());
        raw.upgrade(&format!("/api/v1?token={broken}&ws=1")).await;
        assert_eq!(raw.end().await, End::Close(1008, "Unauthorized".into()), "{broken}");
        assert_eq!(notes.take(), [broken], "taken for a token, and a wrong one");
    }
    assert_eq!(live.stats().sockets_opened, 0);
}

#[tokio::test(start_paused = true)]
async fn a_key_outlives_no_permission() {
    let allowed = Arc::new(AtomicBool::new(true));
    let live = converging()
        .authenticate_fn(allowed.clone(), async |allowed: Arc<AtomicBool>, _| {
            if allowed.load(Ordering::Relaxed) { Ok(Identity::new("alice")) } else { Err(AuthError::Denied) }
        })
        .build()
        .unwrap();
    let server = Server::layered(&live.layer(), usual);
    let answer: Value = serde_json::from_slice(server.handshake("demo").await.body()).unwrap();
    let address = format!("/api/v1?token={}&ws=1", answer["key"].as_str().unwrap());
    assert!(server.page_at(&address).await.is_ok());
    allowed.store(false, Ordering::Relaxed);
    let mut raw = Raw::new(server.connect());
    raw.upgrade(&address).await;
    assert_eq!(raw.end().await, End::Close(1008, "Unauthorized".into()));
}

#[tokio::test]
async fn a_token_too_long_for_a_key_still_gets_in_by_itself() {
    let token = "x".repeat(7000);
    let live = converging().tokens([token.clone()]).build().unwrap();
    let server = Server::layered(&live.layer(), usual);
    assert_eq!(server.handshake(&token).await.body(), r#"{"api":{},"data":{},"websocket":true}"#);
    assert!(server.page_at(&format!("/api/v1?token={token}&ws=1")).await.is_ok());
}

struct Device {
    number: u32,
}

/// Knows one user, and which of her devices asks.
struct OneUser {
    token: String,
}

impl Authenticate for OneUser {
    async fn authenticate(&self, request: AuthRequest) -> Result<Identity, AuthError> {
        let number = request.headers().get("x-device").and_then(|number| number.to_str().ok()?.parse().ok());
        match (request.token() == self.token, number) {
            (true, Some(number)) => Ok(Identity::new("alice").with_data(Device { number })),
            _ => Err(AuthError::Denied),
        }
    }
}

#[tokio::test]
async fn what_an_authenticator_remembers_of_a_connection_reaches_disconnect() {
    let live = builder().authenticate(OneUser { token: "demo".into() }).build().unwrap();
    let server = Server::layered(&live.layer(), usual);
    let mut phone = server.page_with(&[("x-device", "1")]).await.unwrap();
    let mut laptop = server.page_with(&[("x-device", "2")]).await.unwrap();
    laptop.subscribe("events").await;

    assert_eq!(live.disconnect(|identity| identity.data::<u32>().is_some()), 0, "it is no number");
    let closed = live.disconnect(|identity| {
        identity.principal() == "alice" && identity.data::<Device>().is_some_and(|device| device.number == 1)
    });
    assert_eq!(closed, 1);
    assert!(matches!(phone.end().await, End::Close(1008, _)));
    assert!(laptop.received(&live).await.is_empty(), "the other one stays");
    until("one is left", || live.stats().connections == 1).await;
}

#[tokio::test]
async fn a_token_list_gives_each_of_its_tokens_a_name() {
    let live = builder().tokens(["first", "second"]).build().unwrap();
    let server = Server::layered(&live.layer(), usual);
    let _first = server.page_at("/api/v1?token=first&ws=1").await.unwrap();
    let mut second = server.page_at("/api/v1?token=second&ws=1").await.unwrap();
    assert_eq!(live.disconnect(|identity| identity.principal() == "token-2"), 1);
    assert!(matches!(second.end().await, End::Close(1008, _)));
}

#[tokio::test(start_paused = true)]
async fn anonymous_access_needs_no_credentials() {
    let live = builder().allow_anonymous().build().unwrap();
    let server = Server::layered(&live.layer(), usual);
    assert_eq!(server.handshake("").await.status(), 200);
    for address in ["/api/v1?token=anything&ws=1", "/api/v1?token=&ws=1", "/api/v1?ws=1"] {
        assert!(server.page_at(address).await.is_ok(), "{address}");
    }
}

#[tokio::test]
async fn what_layers_outside_know_of_a_request_is_there_to_be_asked() {
    #[derive(Clone)]
    struct Peer(&'static str);

    let live = builder()
        .authenticate_fn((), async |(), request: AuthRequest| {
            assert_eq!(request.headers()["cookie"], "session=7");
            match request.extensions().get::<Peer>() {
                Some(Peer("198.51.100.7")) => Ok(Identity::new("alice")),
                _ => Err(AuthError::Denied),
            }
        })
        .build()
        .unwrap();
    let inner = live
        .layer()
        .layer(tower::service_fn(async |_| Ok::<_, std::convert::Infallible>(http::Response::new(full("")))));
    let server = Server::new(inner.map_request(|mut request: Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(Peer("198.51.100.7"));
        request
    }));
    assert!(server.page_with(&[("cookie", "session=7")]).await.is_ok());
    assert_eq!(live.stats().hooks_failed, 0);
}
