//! Upgrades that cannot be carried out: each is refused with the remedy, and leaves nothing behind.

use http::Request;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use serde_json::Value;
use tokio::io::DuplexStream;
use tower::ServiceExt;
use tower_live_updates::LiveUpdates;

use crate::support::{
    Server, builder,
    client::{Client, Transport, patient},
    full, live,
    raw::{Raw, upgrade_request},
    until, usual,
};

const ADDRESS: &str = "/api/v1?token=demo&ws=1";

/// The status and the error's words that a request without one of its header lines gets.
async fn without(server: &Server, line: &str) -> (u16, String) {
    let mut raw = Raw::new(server.connect());
    let request = upgrade_request(ADDRESS, &[]);
    let stripped = request.replace(line, "");
    assert_ne!(request, stripped);
    raw.write(stripped.as_bytes()).await.unwrap();
    let (head, body) = raw.answer().await;
    assert_eq!(head.header("content-type").as_deref(), Some("application/json"));
    let body: Value = serde_json::from_str(&body).unwrap();
    (head.status(), body["error"].as_str().unwrap().to_owned())
}

/// A connection of a server that answers requests but carries no upgrades out.
fn connect_without_upgrades(live: &LiveUpdates) -> DuplexStream {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let service = TowerToHyperService::new(live.endpoint());
    tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(far), service));
    near
}

#[tokio::test]
async fn a_proxy_that_drops_half_of_an_upgrade_is_named_in_the_answer() {
    let live = live();
    let server = Server::layered(&live.layer(), usual);
    for line in ["Connection: Upgrade\r\n", "Upgrade: websocket\r\n"] {
        let (status, words) = without(&server, line).await;
        assert_eq!(status, 426, "{line}");
        assert!(words.contains("proxy"), "{words}");
    }
    let (parts, body) = server.send(Request::get(ADDRESS).body("").unwrap()).await.into_parts();
    assert_eq!(parts.status, 426, "ws=1 and nothing of an upgrade");
    assert_eq!(parts.headers["upgrade"], "websocket");
    assert!(std::str::from_utf8(&body).unwrap().contains("proxy"));
    let stats = live.stats();
    assert_eq!((stats.handshakes, stats.sockets_opened), (0, 0));
}

#[tokio::test]
async fn half_an_upgrade_is_never_answered_with_a_handshake_or_its_key() {
    let server = Server::layered(&live().layer(), usual);
    for (address, name, value) in [
        ("/api/v1", "Upgrade", "websocket"),
        ("/api/v1", "Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("/api/v1?ws=1", "Accept", "application/json"),
        ("/api/v1?token=demo&ws=true", "Accept", "application/json"),
    ] {
        let request = Request::get(address).header("remote-token", "demo").header(name, value).body("").unwrap();
        let answer = server.send(request).await;
        assert_eq!(answer.status(), 426, "{address} {name}");
        let body: Value = serde_json::from_slice(answer.body()).unwrap();
        assert!(body["websocket"].is_null() && body["key"].is_null(), "the client reads bodies whatever the status");
    }
}

#[tokio::test]
async fn a_server_that_carries_no_upgrades_out_is_counted_and_nothing_is_left_behind() {
    let live = builder().tokens(["demo"]).max_connections(1).max_delayed_refusals(1).build().unwrap();
    for attempt in 1..=3 {
        let mut raw = Raw::new(connect_without_upgrades(&live));
        raw.upgrade(ADDRESS).await;
        assert!(raw.is_over().await, "the 101 is all there is");
        until("the failed upgrade is counted", || live.stats().upgrades_failed == attempt).await;
    }
    let mut raw = Raw::new(connect_without_upgrades(&live));
    raw.upgrade("/api/v1?token=wrong&ws=1").await;
    assert!(raw.is_over().await);
    until("a denied one is counted too", || live.stats().upgrades_failed == 4).await;

    let stats = live.stats();
    assert_eq!((stats.connections, stats.subscriptions, stats.sockets_opened), (0, 0, 0));
    // The only permit has been given back.
    let server = Server::layered(&live.layer(), usual);
    let page = server.subscribed().await;
    assert_eq!(live.stats().connections, 1);
    drop(page);
    let denied = &mut Raw::new(server.connect());
    denied.upgrade("/api/v1?token=wrong&ws=1").await;
}

#[tokio::test(start_paused = true)]
async fn sessions_begin_with_sockets_that_are_up() {
    let live = patient().build().unwrap();
    let page = Client::load(&Server::layered(&live.layer(), usual), Transport::AnyStream).await;
    let mut raw = Raw::new(connect_without_upgrades(&live));
    raw.upgrade(&format!("/api/v1?token={}&ws=1", page.key)).await;
    assert!(raw.is_over().await);
    until("the failed upgrade is counted", || live.stats().upgrades_failed == 1).await;
    assert_eq!(live.stats().sessions, 0);
    let _socket = page.open().await;
    assert_eq!(live.stats().sessions, 1);
}

#[cfg(feature = "tracing")]
#[tokio::test]
async fn the_log_names_what_the_server_lacks() {
    let live = live();
    let logs = crate::support::logs::Logs::capture();
    let mut raw = Raw::new(connect_without_upgrades(&live));
    raw.upgrade(ADDRESS).await;
    until("the failed upgrade is counted", || live.stats().upgrades_failed == 1).await;
    let lines = logs.lines("with_upgrades()");
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("WARN") && lines[0].contains("serve_connection_with_upgrades"), "{lines:?}");
}

#[cfg(feature = "tracing")]
#[tokio::test]
async fn a_client_that_leaves_before_its_socket_is_up_is_no_fault_of_the_server() {
    let live = live();
    let server = Server::layered(&live.layer(), usual);
    let logs = crate::support::logs::Logs::capture();
    // A pipe that holds less than the head of the 101, and a client that leaves in the middle of it.
    let mut raw = Raw::new(server.connect_with(32));
    raw.write(upgrade_request(ADDRESS, &[]).as_bytes()).await.unwrap();
    assert_eq!(raw.bytes(12).await.unwrap(), b"HTTP/1.1 101");
    drop(raw);
    until("the failed upgrade is counted", || live.stats().upgrades_failed == 1).await;
    assert_eq!(live.stats().connections, 0);
    assert!(logs.lines("with_upgrades").is_empty(), "there is nothing to mend");
}

#[tokio::test]
async fn a_request_that_lost_its_upgrade_in_a_proxy_is_answered_with_the_remedy() {
    let live = live();
    // What a test harness, or a layer that makes requests anew, hands over: every header, and no extension.
    let request = || {
        let mut request = Request::get(ADDRESS);
        for (name, value) in [
            ("host", "live.example"),
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ] {
            request = request.header(name, value);
        }
        request.body(full("")).unwrap()
    };
    let answer = live.endpoint().oneshot(request()).await.unwrap();
    assert_eq!(answer.status(), 500);
    let body = http_body_util::BodyExt::collect(answer.into_body()).await.unwrap().to_bytes();
    let body: Value = serde_json::from_slice(&body).unwrap();
    let words = body["error"].as_str().unwrap();
    assert!(words.contains("with_upgrades()") && words.contains("extensions"), "{words}");
    assert_eq!(live.stats().sockets_opened, 0);
}

#[cfg(feature = "tracing")]
#[tokio::test]
async fn each_refusal_leaves_a_line_that_names_path_and_remedy() {
    let live = live();
    let server = Server::layered(&live.layer(), usual);
    let logs = crate::support::logs::Logs::capture();
    for (line, words) in [
        ("Connection: Upgrade\r\n", "a proxy in between must forward both"),
        ("Sec-WebSocket-Version: 13\r\n", "only version 13"),
        ("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", "16 bytes in base64"),
    ] {
        without(&server, line).await;
        let lines = logs.lines(words);
        assert_eq!(lines.len(), 1, "{line}");
        assert!(lines[0].contains("/api/v1") && lines[0].contains("WARN"), "{lines:?}");
    }
}
