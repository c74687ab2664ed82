//! The WebSocket handshake to the byte, and the first frames.

use std::collections::HashSet;

use bytes::Bytes;
use http::{Method, Request, Version};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};

use crate::support::{
    Server, live,
    raw::{self, Raw, text, upgrade_request},
    usual,
};

const ADDRESS: &str = "/api/v1?token=demo&ws=1";

/// The status a request with these header lines gets, and the `Sec-WebSocket-Version` of the answer.
async fn answer(server: &Server, lines: &[(&str, &str)]) -> (u16, Option<String>) {
    let mut raw = Raw::new(server.connect());
    raw.write(upgrade_request(ADDRESS, lines).as_bytes()).await.unwrap();
    let head = raw.head().await;
    (head.status(), head.header("sec-websocket-version"))
}

#[tokio::test]
async fn connection_and_upgrade_are_lists_of_tokens_in_any_case_on_any_number_of_lines() {
    let server = Server::layered(&live().layer(), usual);
    for (connection, upgrade, status) in [
        (&["Upgrade"][..], &["websocket"][..], 101),
        (&["upgrade"], &["WebSocket"], 101),
        (&["UPGRADE"], &["WEBSOCKET"], 101),
        (&["keep-alive, Upgrade"], &["websocket"], 101),
        (&["Upgrade, keep-alive"], &["websocket"], 101),
        (&["keep-alive,upgrade,te"], &["websocket"], 101),
        (&["keep-alive", "Upgrade"], &["websocket"], 101),
        (&["Upgrade", "keep-alive"], &["websocket"], 101),
        (&["keep-alive ,\tUpgrade "], &["websocket"], 101),
        (&[", ,Upgrade,"], &["websocket"], 101),
        (&["Upgrade"], &["h2c, websocket"], 101),
        (&["Upgrade"], &["h2c", "websocket"], 101),
        (&["not-upgrade-really"], &["websocket"], 426),
        (&["upgrades"], &["websocket"], 426),
        (&["keep-alive"], &["websocket"], 426),
        (&["Upgrade"], &["websockets"], 426),
        (&["Upgrade"], &["web socket"], 426),
        (&["Upgrade"], &["h2c"], 426),
        (&["\"Upgrade\""], &["websocket"], 426),
    ] {
        let connection_lines = connection.iter().map(|value| ("Connection", *value));
        let lines: Vec<_> = connection_lines.chain(upgrade.iter().map(|value| ("Upgrade", *value))).collect();
        assert_eq!(answer(&server, &lines).await.0, status, "{lines:?}");
    }
}

#[tokio::test]
async fn the_101_has_the_headers_of_the_standard_and_none_about_a_body() {
    let server = Server::layered(&live().layer(), usual);
    for (transport, mut raw) in server.connect_both().await {
        let offers = [
            ("Sec-WebSocket-Protocol", "chat, superchat"),
            ("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits"),
            ("Accept-Encoding", "gzip, deflate, br"),
        ];
        raw.write(upgrade_request(ADDRESS, &offers).as_bytes()).await.unwrap();
        let head = raw.head().await;
        assert_eq!(head.status(), 101, "{transport}");
        let mut names: Vec<String> = head.headers().into_iter().map(|(name, _)| name).collect();
        names.sort();
        assert_eq!(names, ["connection", "date", "sec-websocket-accept", "upgrade"], "{transport}");
        // The sample of RFC 6455 1.3.
        assert_eq!(head.header("sec-websocket-accept").as_deref(), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        assert_eq!(head.header("connection").map(|value| value.to_lowercase()).as_deref(), Some("upgrade"));
        assert_eq!(head.header("upgrade").as_deref(), Some("websocket"));
        let (first, start) = raw.frame().await.unwrap();
        assert_eq!(first, raw::FIN | raw::TEXT, "not compressed, and nothing before it");
        assert_eq!(serde_json::from_slice::<Value>(&start).unwrap()["action"], "start");
    }
}

#[tokio::test]
async fn another_version_is_answered_with_the_supported_one() {
    let server = Server::layered(&live().layer(), usual);
    for version in ["8", "7", "14", "0", "", "thirteen", "13.0", "13, 8"] {
        let (status, spoken) = answer(&server, &[("Sec-WebSocket-Version", version)]).await;
        assert_eq!((status, spoken.as_deref()), (426, Some("13")), "{version:?}");
    }
    let mut raw = Raw::new(server.connect());
    let request = upgrade_request(ADDRESS, &[]).replace("Sec-WebSocket-Version: 13\r\n", "");
    raw.write(request.as_bytes()).await.unwrap();
    let (head, body) = raw.answer().await;
    assert_eq!((head.status(), head.header("sec-websocket-version").as_deref()), (426, Some("13")), "none at all");
    assert!(serde_json::from_str::<Value>(&body).unwrap()["error"].as_str().unwrap().contains("13"));
}

#[tokio::test]
async fn a_key_that_is_not_16_bytes_in_base64_is_a_bad_request() {
    let server = Server::layered(&live().layer(), usual);
    for key in [
        "",
        "x",
        "dGhlIHNhbXBsZSBub25jZQ",
        "dGhlIHNhbXBsZSBub25jZQ=",
        "dGhlIHNhbXBsZSBub25jZQ===",
        "dGhlIHNhbXBsZSBub25j",
        "dGhlIHNhbXBsZSBub25jZSE=",
        "dGhlIHNhbXBsZSBub25jZQ!=",
        "dGhlIHNhbXBs ZSBub25jZQ==",
    ] {
        assert_eq!(answer(&server, &[("Sec-WebSocket-Key", key)]).await.0, 400, "{key:?}");
    }
    let mut raw = Raw::new(server.connect());
    let request = upgrade_request(ADDRESS, &[]).replace("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", "");
    raw.write(request.as_bytes()).await.unwrap();
    assert_eq!(raw.head().await.status(), 400, "none at all");
}

#[tokio::test]
async fn the_old_protocol_version_of_http_cannot_upgrade() {
    let live = live();
    let server = Server::layered(&live.layer(), usual);
    let mut raw = Raw::new(server.connect());
    raw.write(upgrade_request(ADDRESS, &[]).replace("HTTP/1.1", "HTTP/1.0").as_bytes()).await.unwrap();
    assert_eq!(raw.head().await.status(), 400);
    assert_eq!(live.stats().sockets_opened, 0);
}

#[tokio::test]
async fn http_2_is_refused_with_the_setting_that_helps() {
    let live = live();
    let server = Server::layered(&live.layer(), usual);
    let mut client = server.h2::<Full<Bytes>>().await;
    let mut connect = Request::builder().method(Method::CONNECT).uri(format!("http://live.example{ADDRESS}"));
    connect.extensions_mut().unwrap().insert(hyper::ext::Protocol::from_static("websocket"));
    let connect = connect.header("sec-websocket-version", "13").version(Version::HTTP_2);
    let get = Request::get(format!("http://live.example{ADDRESS}")).header("sec-websocket-version", "13");
    for (request, status, words) in [(connect, 405, "enable_connect_protocol"), (get, 400, "HTTP/1.1")] {
        let answer = client.send_request(request.body(Full::default()).unwrap()).await.unwrap();
        assert_eq!(answer.status(), status);
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert!(body["error"].as_str().unwrap().contains(words), "{body}");
    }
    assert_eq!(live.stats().sockets_opened, 0);
}

#[tokio::test]
async fn frames_that_arrive_together_with_the_request_are_read() {
    let live = live();
    let server = Server::layered(&live.layer(), usual);
    for (transport, mut raw) in server.connect_both().await {
        let mut together = upgrade_request(ADDRESS, &[]).into_bytes();
        together.extend(text(r#"{"action":"subscribe","name":"events"}"#));
        // More than the buffer of the frame reader, and the last one cut in two.
        let long = text(&format!(r#"{{"action":"subscribe","name":"calendars","padding":"{}"}}"#, "x".repeat(1000)));
        together.extend(&long[..700]);
        raw.write(&together).await.unwrap();
        assert_eq!(raw.head().await.status(), 101, "{transport}");
        assert_eq!(raw.json().await["action"], "start", "{transport}");
        raw.write(&long[700..]).await.unwrap();
        raw.barrier().await;
        live.send("events", &json!(1)).unwrap();
        live.send("calendars", &json!(2)).unwrap();
        assert_eq!(raw.json().await["body"], json!({"name": "events", "value": 1}), "{transport}");
        assert_eq!(raw.json().await["body"], json!({"name": "calendars", "value": 2}), "{transport}");
    }
}

#[tokio::test]
async fn frames_that_arrive_byte_by_byte_are_read() {
    let live = live();
    let server = Server::layered(&live.layer(), usual);
    for (transport, mut raw) in server.connect_both().await {
        for byte in upgrade_request(ADDRESS, &[]).as_bytes() {
            raw.write(&[*byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        assert_eq!(raw.head().await.status(), 101, "{transport}");
        assert_eq!(raw.json().await["action"], "start", "{transport}");
        for byte in text(r#"{"action":"subscribe","name":"events"}"#) {
            raw.write(&[byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        raw.barrier().await;
        live.send("events", &json!("received")).unwrap();
        assert_eq!(raw.json().await["body"]["value"], "received", "{transport}");
    }
}

#[tokio::test]
async fn the_start_message_comes_first_whatever_is_going_on() {
    let live = live();
    let server = Server::layered(&live.layer(), usual);
    for (transport, mut raw) in server.connect_both().await {
        let mut together = upgrade_request(ADDRESS, &[]).into_bytes();
        together.extend(raw::frame(raw::PING, b"early"));
        together.extend(text(r#"{"action":"call","body":[{"id":"2","name":"a.b","args":[]}]}"#));
        raw.write(&together).await.unwrap();
        live.send("events", &json!("no page has subscribed")).unwrap();
        assert_eq!(raw.head().await.status(), 101, "{transport}");
        assert_eq!(raw.json().await["action"], "start", "{transport}");
        assert_eq!(raw.frame().await.unwrap(), (raw::FIN | raw::PONG, b"early".to_vec()), "{transport}");
        assert_eq!(raw.json().await["action"], "result", "{transport}");
    }
}

#[tokio::test]
async fn no_two_sockets_have_the_same_id_and_none_can_be_guessed() {
    let live = live();
    let server = Server::layered(&live.layer(), usual);
    let mut ids = HashSet::new();
    let mut halves = HashSet::new();
    for _ in 0..300 {
        let page = server.page().await;
        assert!(page.id.len() == 32 && page.id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{}", page.id);
        halves.extend([page.id[..16].to_owned(), page.id[16..].to_owned()]);
        ids.insert(page.id);
    }
    assert_eq!((ids.len(), halves.len()), (300, 600), "no part of one counts or stands still");
    assert_eq!(live.stats().sockets_opened, 300);
}

#[tokio::test]
async fn offered_extensions_are_declined_however_odd_they_are() {
    let server = Server::layered(&live().layer(), usual);
    for offer in [
        "permessage-deflate; client_max_window_bits",
        "permessage-deflate; server_no_context_takeover; client_max_window_bits=15, x-webkit-deflate-frame",
        "constructor, __proto__; toString=1",
        ";;;,,,===",
        "",
    ] {
        let mut raw = Raw::new(server.connect());
        raw.write(upgrade_request(ADDRESS, &[("Sec-WebSocket-Extensions", offer)]).as_bytes()).await.unwrap();
        let head = raw.head().await;
        assert_eq!((head.status(), head.header("sec-websocket-extensions")), (101, None), "{offer}");
        assert_eq!(raw.json().await["action"], "start", "{offer}");
    }
}

#[tokio::test]
async fn a_request_with_thousands_of_headers_is_harmless() {
    let server = Server::layered(&live().layer(), usual);
    let many: Vec<(String, &str)> = (0..2000).map(|at| (format!("X-{at:04}"), "x")).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    let mut raw = Raw::new(server.connect());
    raw.write(upgrade_request(ADDRESS, &many).as_bytes()).await.unwrap();
    assert_eq!(raw.head().await.status(), 431, "hyper's own limit");
    assert_eq!(server.page().await.id.len(), 32);
}

#[cfg(feature = "axum")]
#[tokio::test]
async fn axums_server_carries_sockets_too() {
    let live = live();
    let app = axum::Router::<()>::new().layer(live.layer());
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(axum::serve(listener, app).into_future());
    let mut together = upgrade_request(ADDRESS, &[]).into_bytes();
    together.extend(text(r#"{"action":"subscribe","name":"events"}"#));
    let mut raw = Raw::new(tokio::net::TcpStream::connect(address).await.unwrap());
    raw.write(&together).await.unwrap();
    assert_eq!(raw.head().await.status(), 101);
    assert_eq!(raw.json().await["action"], "start");
    raw.barrier().await;
    live.send("events", &json!("received")).unwrap();
    assert_eq!(raw.json().await["body"]["value"], "received");
    server.abort();
}
