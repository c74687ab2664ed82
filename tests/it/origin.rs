//! Which web pages may talk to the endpoint.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use http::{Request, Response};
use tower_live_updates::{Identity, LiveUpdates};

use crate::support::{
    Server, builder, live,
    raw::{Raw, upgrade_request},
    usual,
};

/// The answers to the handshake and to the socket request of a page of this origin.
async fn statuses(server: &Server, host: &str, origin: Option<&str>) -> (u16, u16) {
    let mut request = Request::get("/api/v1").header("remote-token", "demo").header("host", host);
    let mut lines = vec![("Host", host)];
    if let Some(origin) = origin {
        request = request.header("origin", origin);
        lines.push(("Origin", origin));
    }
    let handshake = server.send(request.body("").unwrap()).await;
    if handshake.status() == 403 {
        assert_eq!(handshake.body(), r#"{"error":"Forbidden"}"#);
    }
    let mut raw = Raw::new(server.connect());
    raw.write(upgrade_request("/api/v1?token=demo&ws=1", &lines).as_bytes()).await.unwrap();
    let head = raw.head().await;
    if head.status() == 101 {
        assert_eq!(raw.json().await["action"], "start");
    }
    (handshake.status().as_u16(), head.status())
}

async fn check(live: &LiveUpdates, rows: &[(&str, Option<&str>, bool)]) {
    let server = Server::layered(&live.layer(), usual);
    let mut refused = 0;
    for (host, origin, passes) in rows {
        let expected = if *passes { (200, 101) } else { (403, 403) };
        assert_eq!(statuses(&server, host, *origin).await, expected, "{origin:?} at {host}");
        refused += if *passes { 0 } else { 2 };
    }
    assert_eq!(live.stats().origins_refused, refused);
    assert_eq!(live.stats().handshakes_denied, 0, "that counter is about tokens");
}

#[tokio::test]
async fn pages_of_the_servers_own_host_pass_and_others_do_not() {
    check(
        &live(),
        &[
            ("live.example", None, true),
            ("live.example", Some("http://live.example"), true),
            ("live.example", Some("https://live.example"), true),
            ("live.example:443", Some("https://live.example"), true),
            ("live.example", Some("https://LIVE.example"), true),
            ("127.0.0.1:3000", Some("http://127.0.0.1:3000"), true),
            ("[::1]:3000", Some("http://[::1]:3000"), true),
            ("127.0.0.1:3000", Some("http://127.0.0.1:3001"), false),
            ("127.0.0.1:3000", Some("http://localhost:3000"), false),
            ("live.example", Some("https://evil.example"), false),
            ("live.example", Some("https://live.example.evil.example"), false),
            ("live.example", Some("https://evil.example/live.example"), false),
            ("live.example", Some("https://evillive.example"), false),
            ("live.example", Some("https://sub.live.example"), false),
            ("live.example", Some("https://live.example@evil.example"), false),
            ("live.example", Some("https://live.example:8443"), false),
            ("live.example", Some("null"), false),
            ("live.example", Some(""), false),
            ("live.example", Some("file://"), false),
            ("live.example", Some("live.example"), false),
            ("null", Some("null"), false),
        ],
    )
    .await;
}

#[tokio::test]
async fn listed_origins_pass_exactly() {
    let live = builder()
        .allow_origin("https://app.example")
        .allow_origin("HTTP://Dev.example:5173/")
        .tokens(["demo"])
        .build()
        .unwrap();
    check(
        &live,
        &[
            ("live.example", Some("https://app.example"), true),
            ("live.example", Some("http://dev.example:5173"), true),
            ("live.example", Some("https://live.example"), true),
            ("live.example", Some("http://app.example"), false),
            ("live.example", Some("https://app.example:8443"), false),
            ("live.example", Some("https://app.example.evil.example"), false),
            ("live.example", Some("http://dev.example"), false),
            ("live.example", Some("null"), false),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_predicate_decides_the_rest_and_a_panic_in_it_is_a_no() {
    let live = builder()
        .allow_origin("https://app.example")
        .allow_origin_if(|origin| {
            assert!(!origin.contains("panic"), "in the predicate");
            origin.ends_with(".preview.example")
        })
        .tokens(["demo"])
        .build()
        .unwrap();
    check(
        &live,
        &[
            ("live.example", Some("https://app.example"), true),
            ("live.example", Some("https://live.example"), true),
            ("live.example", Some("https://PR-7.Preview.example"), true),
            ("live.example", Some("https://panic.preview.example"), false),
            ("live.example", Some("https://preview.example.evil.example"), false),
            ("live.example", Some("null"), false),
        ],
    )
    .await;
}

#[tokio::test]
async fn the_authenticator_is_not_asked_about_the_token_of_a_foreign_page() {
    let asked = Arc::new(AtomicUsize::new(0));
    let live = builder()
        .authenticate_fn(asked.clone(), async |asked: Arc<AtomicUsize>, _| {
            asked.fetch_add(1, Ordering::Relaxed);
            Ok(Identity::new("anybody"))
        })
        .build()
        .unwrap();
    let server = Server::layered(&live.layer(), usual);
    assert_eq!(statuses(&server, "live.example", Some("https://evil.example")).await, (403, 403));
    assert_eq!(asked.load(Ordering::Relaxed), 0);
    assert_eq!(statuses(&server, "live.example", None).await, (200, 101));
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn writes_are_the_applications_to_protect() {
    let live = live();
    let server = Server::layered(&live.layer(), usual);
    let mut page = server.subscribed().await;
    let request = Request::put("/events/7").header("origin", "https://evil.example");
    let request = request.header("content-type", "application/json").body(r#"{"text":"x"}"#).unwrap();
    let answer: Response<_> = server.send(request).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(page.received(&live).await.len(), 1);
    assert_eq!(live.stats().origins_refused, 0);
}

#[cfg(feature = "tracing")]
#[tokio::test]
async fn the_log_names_origin_host_and_remedy() {
    let live = live();
    let server = Server::layered(&live.layer(), usual);
    let logs = crate::support::logs::Logs::capture();
    statuses(&server, "live.example", Some("https://evil.example")).await;
    let lines = logs.lines("evil.example");
    assert_eq!(lines.len(), 1, "handshake and socket are refused, and it is logged once: {lines:?}");
    for line in lines {
        for part in ["WARN", "\"https://evil.example\"", "\"live.example\"", "allow_origin", "Host header"] {
            assert!(line.contains(part), "{part} in {line}");
        }
    }
}

#[cfg(feature = "tracing")]
#[tokio::test]
async fn an_origin_cannot_write_lines_of_its_own_into_the_log() {
    let live = live();
    let server = Server::layered(&live.layer(), usual);
    let logs = crate::support::logs::Logs::capture();
    let mut raw = Raw::new(server.connect());
    let request = b"GET /api/v1 HTTP/1.1\r\nHost: live.example\r\nOrigin: a\x1b[31m\xc2\x85WARN forged\t\r\n\r\n";
    raw.write(request).await.unwrap();
    let (head, _) = raw.answer().await;
    if head.status() == 403 {
        let line = logs.lines("forged").pop().expect("a line");
        assert!(!line.contains('\u{1b}') && !line.contains('\u{85}'), "{line:?}");
    } else {
        assert_eq!(head.status(), 400, "hyper takes no control characters");
    }
}
