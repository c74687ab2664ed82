//! Tokens and keys are nobody's business: not in a log line, not in `Debug`, not in an error.
#![cfg(feature = "tracing")]

mod support;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use http::Request;
use serde_json::Value;
use support::{
    Server, builder, converging,
    logs::Logs,
    raw::{Raw, frame, header, upgrade_request},
    until, usual,
};
use tower::Layer;
use tower_live_updates::{AuthError, AuthRequest, Identity};

const RIGHT: &str = "right-3f1c9a7e";
const WRONG: &str = "wrong-8b2d4c60";
const EXPIRED: &str = "expired-5e7f1a22";
const BUSY: &str = "busy-90c3d1b4";
const SPECIAL: &str = "sp+c/al=77aa";

/// Every secret of the session, and each form in which somebody might come across it.
fn forms(key: &str) -> Vec<String> {
    let mut forms =
        vec![key.to_owned(), key.split('.').nth(1).unwrap().to_owned(), key.split('.').nth(2).unwrap().to_owned()];
    for token in [RIGHT, WRONG, EXPIRED, BUSY, SPECIAL] {
        forms.push(token.to_owned());
        forms.push(data_encoding::BASE64URL_NOPAD.encode(token.as_bytes()));
        forms.push(token.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D"));
    }
    forms
}

async fn say(server: &Server, request: &str) -> Raw {
    let mut raw = Raw::new(server.connect());
    raw.write(request.as_bytes()).await.unwrap();
    raw
}

#[tokio::test(start_paused = true)]
async fn a_whole_session_at_the_finest_level_leaves_no_secret_in_the_log() {
    let requests: Arc<Mutex<Vec<String>>> = Arc::default();
    let live = converging()
        .authenticate(requests.clone(), async |requests: Arc<Mutex<Vec<String>>>, request: AuthRequest| {
            requests.lock().unwrap().push(format!("{request:?} {request:#?}"));
            match request.token() {
                RIGHT | SPECIAL => Ok(Identity::new("alice").with_data(request.token().to_owned())),
                EXPIRED => Err(AuthError::Expired),
                BUSY => Err(AuthError::Unavailable),
                "" => std::future::pending().await,
                _ => Err(AuthError::Denied),
            }
        })
        .retry_delay(Duration::ZERO)
        .max_delayed_refusals(2)
        .build()
        .unwrap();
    let layer = live.layer();
    let server = Server::layered(&layer, usual);
    let logs = Logs::capture_all();

    let answer: Value = serde_json::from_slice(server.handshake(RIGHT).await.body()).unwrap();
    let key = answer["key"].as_str().unwrap().to_owned();
    for token in [WRONG, EXPIRED, BUSY, SPECIAL, ""] {
        server.handshake(token).await;
        let call = Request::post("/api/v1").header("remote-token", token).body("junk").unwrap();
        server.send(call).await;
    }
    let mut page = server.page_at(&format!("/api/v1?token={key}&ws=1")).await.unwrap();
    page.subscribe("events").await;
    let tampered = format!("{key}x");
    for token in [RIGHT, WRONG, EXPIRED, BUSY, SPECIAL, "", &tampered, &key] {
        let address = format!("/api/v1?token={token}&ws=1");
        for lines in [
            &[][..],
            &[("Origin", "https://evil.example")],
            &[("Sec-WebSocket-Version", "8")],
            &[("Sec-WebSocket-Key", "x")],
            &[("Connection", "close")],
        ] {
            say(&server, &upgrade_request(&address, lines)).await.head().await;
        }
        say(&server, &format!("DELETE {address} HTTP/1.1\r\nHost: x\r\nRemote-Token: {token}\r\n\r\n"))
            .await
            .head()
            .await;
    }
    for method in [http::Method::PUT, http::Method::DELETE] {
        let write = Request::builder().method(method).uri(format!("/events/7?token={RIGHT}"));
        let write = write.header("remote-token", RIGHT).header("content-type", "application/json");
        server.send(write.body(r#"{"text":"x"}"#).unwrap()).await;
    }
    // Sockets that end badly.
    for bytes in [frame(0x3, RIGHT.as_bytes()), header(0x81, true, 1 << 40)] {
        let mut raw = Raw::new(server.connect());
        raw.upgrade(&format!("/api/v1?token={key}&ws=1")).await;
        raw.write(&bytes).await.unwrap();
        while raw.frame().await.is_some() {}
    }
    live.disconnect(|identity| identity.data::<String>().is_some());
    page.end().await;
    drop(page);
    live.shutdown().await;
    until("everybody is gone", || live.stats().connections == 0).await;

    let debugs = [
        format!("{live:?} {live:#?}"),
        format!("{layer:?} {layer:#?}"),
        format!("{:?} {:?}", live.endpoint(), layer.layer(())),
        format!("{:?}", live.stats()),
        format!("{:?}", Identity::new("alice").with_data(RIGHT.to_owned())),
        requests.lock().unwrap().join("\n"),
    ];
    assert!(requests.lock().unwrap().len() > 20);
    let lines = logs.lines("");
    assert!(lines.iter().any(|line| line.contains("WARN") && line.contains("tower_live_updates")), "it has spoken");
    for secret in forms(&key) {
        for line in &lines {
            assert!(!line.contains(&secret), "{secret} in {line}");
        }
        for debug in &debugs {
            assert!(!debug.contains(&secret), "{secret} in {debug}");
        }
    }
}

#[test]
fn builders_and_their_errors_show_no_token() {
    let ready = builder().tokens([RIGHT]);
    assert!(!format!("{ready:?} {ready:#?}").contains(RIGHT));
    let error = builder().tokens([RIGHT, ""]).build().unwrap_err();
    assert!(!format!("{error:?} {error}").contains(RIGHT), "{error}");
}

#[tokio::test]
async fn refusals_echo_nothing_of_what_was_sent() {
    let live = builder().tokens([RIGHT]).max_delayed_refusals(0).build().unwrap();
    let server = Server::layered(&live.layer(), usual);
    let address = format!("/api/v1?token={WRONG}&ws=1");
    for request in [
        upgrade_request(&address, &[]),
        upgrade_request(&address, &[("Sec-WebSocket-Version", WRONG)]),
        upgrade_request(&address, &[("Sec-WebSocket-Key", WRONG)]),
        upgrade_request(&address, &[("Origin", "https://wrong-8b2d4c60.example")]),
        format!("GET /api/v1 HTTP/1.1\r\nHost: x\r\nRemote-Token: {WRONG}\r\n\r\n"),
        format!("PUT {address} HTTP/1.1\r\nHost: x\r\n\r\n"),
    ] {
        let (head, body) = say(&server, &request).await.answer().await;
        assert!(head.status() >= 400);
        assert!(!format!("{head:?} {body}").contains(WRONG), "{head:?} {body}");
    }
}
