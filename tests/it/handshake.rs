//! The handshake, and everything else the endpoint answers besides sockets.

use std::collections::HashSet;

use bytes::Bytes;
use http::{Method, Request, Response, header};
use serde_json::{Value, json};
use tower::ServiceExt;
use tower_live_updates::LiveUpdates;

use crate::support::{
    Server, builder, converging, full, live,
    raw::{self, Raw},
    usual,
};

fn body(response: &Response<Bytes>) -> Value {
    serde_json::from_slice(response.body()).expect("JSON")
}

fn key(response: &Response<Bytes>) -> String {
    body(response)["key"].as_str().expect("a key").to_owned()
}

/// A server that gives keys.
fn keyed() -> LiveUpdates {
    converging().tokens(["demo"]).build().unwrap()
}

#[tokio::test]
async fn the_answer_is_the_articles_with_a_key_of_harmless_characters() {
    let live = keyed();
    let server = Server::layered(&live.layer(), usual);
    let answer = server.handshake("demo").await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()[header::CONTENT_TYPE], "application/json");
    assert_eq!(answer.headers()[header::CACHE_CONTROL], "no-store");

    let key = key(&answer);
    let exact = format!(r#"{{"api":{{}},"data":{{}},"websocket":true,"key":"{key}"}}"#);
    assert_eq!(answer.body(), &exact);
    assert!(
        !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte)),
        "{key}"
    );
    assert_eq!(live.stats().handshakes, 1);
}

#[tokio::test]
async fn a_key_opens_any_number_of_sockets_instead_of_the_token() {
    let live = keyed();
    let server = Server::layered(&live.layer(), usual);
    let key = key(&server.handshake("demo").await);
    let mut ids = HashSet::new();
    for round in 0..2 {
        let mut page = server.page_at(&format!("/api/v1?token={key}&ws=1")).await.unwrap();
        // The second socket receives again what the first did not acknowledge.
        page.send_text(r#"{"action":"subscribe","name":"events"}"#).await;
        live.send("events", &json!({"received": round})).unwrap();
        while page.message().await.expect("an event")["body"]["value"] != json!({"received": round}) {}
        ids.insert(page.id);
    }
    assert_eq!(ids.len(), 2);
}

#[tokio::test]
async fn no_two_handshakes_get_the_same_key() {
    let server = Server::layered(&keyed().layer(), usual);
    let mut keys = HashSet::new();
    for _ in 0..50 {
        keys.insert(key(&server.handshake("demo").await));
    }
    assert_eq!(keys.len(), 50);
}

#[tokio::test]
async fn a_page_without_access_receives_the_articles_403() {
    let live = live();
    let server = Server::layered(&live.layer(), usual);
    for token in ["wrong", "", "demo1", "dem", "Demo", "demo ", "lu1.ZGVtbw", "demo&x=1"] {
        let answer = server.handshake(token).await;
        // A trailing space is no part of a header's value.
        if token == "demo " {
            assert_eq!(answer.status(), 200);
            continue;
        }
        assert_eq!(answer.status(), 403, "{token}");
        assert_eq!(answer.headers()[header::CONTENT_TYPE], "application/json");
        assert_eq!(answer.body(), r#"{"error":"Forbidden"}"#);
    }
    let answer = server.send(Request::get("/api/v1").body("").unwrap()).await;
    assert_eq!((answer.status().as_u16(), &answer.body()[..]), (403, &br#"{"error":"Forbidden"}"#[..]), "no token");
    assert_eq!(live.stats().handshakes_denied, 8);
}

#[tokio::test]
async fn the_address_names_no_token_for_a_handshake() {
    let server = Server::layered(&live().layer(), usual);
    let answer = server.send(Request::get("/api/v1?token=demo").body("").unwrap()).await;
    assert_eq!(answer.status(), 403, "the token of a handshake is in its header");
    let request = Request::get("/api/v1?tenant=7").header("remote-token", "demo").body("").unwrap();
    assert_eq!(server.send(request).await.status(), 200, "an address may have a query of its own");
}

#[tokio::test]
async fn head_answers_as_get_does_without_the_body() {
    let server = Server::layered(&live().layer(), usual);
    for (token, status) in [("demo", 200), ("wrong", 403)] {
        let mut raw = Raw::new(server.connect());
        let request = format!("HEAD /api/v1 HTTP/1.1\r\nHost: live.example\r\nRemote-Token: {token}\r\n\r\n");
        // Twice on one connection: a body would be taken for the second answer.
        for _ in 0..2 {
            raw.write(request.as_bytes()).await.unwrap();
            let head = raw.head().await;
            assert_eq!(head.status(), status, "{token}");
            assert_eq!(head.header("content-type").as_deref(), Some("application/json"));
        }
    }
}

#[tokio::test]
async fn calls_over_http_are_answered_with_an_error_each() {
    let live = live();
    let server = Server::layered(&live.layer(), usual);
    for (calls, ids) in [
        (r#"[{"id":"2","name":"svc.Add","args":[2,3]},{"id":"3","name":"svc.Add","args":[9]}]"#, json!(["2", "3"])),
        (r#"[{"id":7,"name":"x","args":[]}]"#, json!([7])),
        ("[]", json!([])),
    ] {
        let request = Request::post("/api/v1").header("remote-token", "demo").body(calls).unwrap();
        let answer = server.send(request).await;
        assert_eq!(answer.status(), 200, "{calls}");
        let results = body(&answer);
        let results = results.as_array().unwrap();
        assert_eq!(results.iter().map(|result| result["id"].clone()).collect::<Value>(), ids);
        assert!(results.iter().all(|result| !result["error"].as_str().unwrap().is_empty()), "{results:?}");
    }
    assert_eq!(live.stats().calls, 3);
}

#[tokio::test]
async fn calls_that_are_none_are_a_bad_request() {
    let live = live();
    let server = Server::layered(&live.layer(), usual);
    let too_large = format!(r#"[{{"id":"1","name":"{}"}}]"#, "x".repeat(64 * 1024));
    let deep = "[".repeat(60_000);
    for junk in [
        "",
        "null",
        "{}",
        "7",
        "\"x\"",
        "[",
        "[null]",
        "[[]]",
        r#"[{"name":"x"}]"#,
        r#"[{"id":null}]"#,
        r#"[{"id":{}}]"#,
        r#"[{"id":[1]}]"#,
        r#"[{"id":true}]"#,
        "\u{feff}[]",
        &too_large,
        &deep,
    ] {
        let request = Request::post("/api/v1").header("remote-token", "demo").body(junk.to_owned()).unwrap();
        let answer = server.send(request).await;
        assert_eq!(answer.status(), 400, "{}", &junk[..junk.len().min(40)]);
        // JSON that is no array of results would leave the promises of the stock client pending.
        assert!(serde_json::from_slice::<Value>(answer.body()).is_err());
    }
    let request = Request::post("/api/v1").header("remote-token", "demo").body(&b"[\"\xff\"]"[..]).unwrap();
    assert_eq!(server.send(request).await.status(), 400, "no UTF-8");
    assert_eq!(live.stats().calls, 0);
}

#[tokio::test]
async fn calls_need_the_token_too() {
    let live = live();
    let server = Server::layered(&live.layer(), usual);
    for token in ["wrong", ""] {
        let request = Request::post("/api/v1").header("remote-token", token).body(r#"[{"id":"2"}]"#).unwrap();
        let answer = server.send(request).await;
        assert_eq!((answer.status().as_u16(), &answer.body()[..]), (403, &b"Forbidden"[..]));
    }
    assert_eq!(live.stats().calls, 0);
}

#[tokio::test]
async fn other_methods_are_answered_with_the_allowed_ones() {
    let live = live();
    let server =
        Server::layered(&live.layer(), |_| async { panic!("nothing here is for the inner service") as Answer });
    for method in [Method::PUT, Method::PATCH, Method::DELETE, Method::TRACE, Method::from_bytes(b"PURGE").unwrap()] {
        let request = Request::builder().method(method.clone()).uri("/api/v1").header("remote-token", "demo");
        let answer = server.send(request.body("").unwrap()).await;
        assert_eq!(answer.status(), 405, "{method}");
        assert_eq!(answer.headers()[header::ALLOW], "GET, HEAD, POST, OPTIONS", "{method}");
        assert!(body(&answer)["websocket"].is_null());
    }
}

type Answer = Response<http_body_util::Full<Bytes>>;

#[tokio::test]
async fn options_is_the_applications_to_answer() {
    let live = live();
    let server = Server::layered(&live.layer(), async |request: Request<_>| -> Answer {
        let seen =
            (request.method().as_str(), request.uri().path(), &request.headers()["access-control-request-headers"]);
        assert_eq!(seen, ("OPTIONS", "/api/v1", &header::HeaderValue::from_static("remote-token")));
        Response::builder().status(207).header("x-cors", "the application's").body(full("as it is")).unwrap()
    });
    // A preflight: no token, and a page of any origin.
    let request = Request::builder()
        .method(Method::OPTIONS)
        .uri("/api/v1")
        .header(header::ORIGIN, "https://elsewhere.example")
        .header(header::ACCESS_CONTROL_REQUEST_HEADERS, "remote-token")
        .body("")
        .unwrap();
    let answer = server.send(request).await;
    assert_eq!((answer.status().as_u16(), &answer.body()[..]), (207, &b"as it is"[..]));
    assert_eq!(answer.headers()["x-cors"], "the application's");
    assert!(!answer.headers().contains_key(header::ALLOW));
}

#[tokio::test]
async fn the_endpoint_alone_answers_options_itself() {
    let request = Request::builder().method(Method::OPTIONS).uri("/anywhere").body(full("")).unwrap();
    let answer = live().endpoint().oneshot(request).await.unwrap();
    assert_eq!(answer.status(), 204);
    assert_eq!(answer.headers()[header::ALLOW], "GET, HEAD, POST, OPTIONS");
    assert!(!answer.headers().contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN), "CORS is a layer's outside");
}

#[tokio::test]
async fn a_trailing_slash_makes_no_difference_on_either_side() {
    for configured in ["/api/v1", "/api/v1/"] {
        let live = LiveUpdates::builder(configured).tokens(["demo"]).build().unwrap();
        let server = Server::layered(&live.layer(), usual);
        for path in ["/api/v1", "/api/v1/"] {
            let request = Request::get(path).header("remote-token", "demo").body("").unwrap();
            assert_eq!(server.send(request).await.status(), 200, "{path} at {configured}");
            let page = server.page_at(&format!("{path}?token=demo&ws=1")).await.unwrap();
            assert_eq!(page.id.len(), 32);
        }
    }
}

#[tokio::test]
async fn a_path_that_merely_looks_alike_passes_inward() {
    let server = Server::layered(&live().layer(), async |request: Request<_>| -> Answer {
        Response::new(full(format!("inner {}", request.uri().path())))
    });
    for path in
        ["/api/v10", "/api/v1x", "/api/v1/x", "/api/v1//", "/api/v", "/api", "/", "/API/v1", "//api/v1", "/x/api/v1"]
    {
        let request = Request::get(format!("{path}?ws=1")).header("remote-token", "demo").body("").unwrap();
        let answer = server.send(request).await;
        assert_eq!(answer.body(), &format!("inner {path}"));
    }
}

#[tokio::test]
async fn captured_pages_get_in_as_they_did_with_the_vendors_server() {
    for (name, fixture) in [
        ("scheduler_connect", include_str!("../fixtures/scheduler_connect.json")),
        ("gantt_connect", include_str!("../fixtures/gantt_connect.json")),
        ("handshake_key", include_str!("../fixtures/handshake_key.json")),
        ("token_special", include_str!("../fixtures/token_special.json")),
        ("ws_reconnect", include_str!("../fixtures/ws_reconnect.json")),
    ] {
        let live = builder()
            .entity(tower_live_updates::Entity::new("tasks"))
            .entity(tower_live_updates::Entity::new("links"))
            .tokens(["token", "a+b/c=d=="])
            .build()
            .unwrap();
        let server = Server::layered(&live.layer(), usual);
        let mut pages: Vec<(String, Raw)> = Vec::new();
        let mut sockets = 0;
        let fixture: Value = serde_json::from_str(fixture).unwrap();
        for entry in fixture["entries"].as_array().unwrap() {
            let text = |field: &str| entry[field].as_str().unwrap_or_default();
            let from = text("from").to_owned();
            if from == "server" {
                continue;
            }
            if text("kind") == "ws" {
                let (_, page) = pages.iter_mut().rev().find(|(page, _)| *page == from).unwrap();
                page.send_text(text("body")).await;
                page.barrier().await;
                continue;
            }
            let headers = entry["headers"].as_object().unwrap();
            let lines: Vec<(&str, &str)> =
                headers.iter().map(|(name, value)| (name.as_str(), value.as_str().unwrap())).collect();
            if !text("path").starts_with("/api/v1") {
                continue;
            }
            let mut raw = Raw::new(server.connect());
            if headers.contains_key("upgrade") {
                // The captured key is that of another server.
                let address = text("path").replace("session-9", "token");
                raw.write(raw::upgrade_request(&address, &lines).as_bytes()).await.unwrap();
                assert_eq!(raw.head().await.status(), 101, "{name}");
                assert_eq!(raw.json().await["action"], "start", "{name}");
                pages.push((from, raw));
                sockets += 1;
            } else {
                let lines: String = lines.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
                raw.write(format!("GET {} HTTP/1.1\r\n{lines}\r\n", text("path")).as_bytes()).await.unwrap();
                let (head, answer) = raw.answer().await;
                assert_eq!(head.status(), 200, "{name}");
                let answer: Value = serde_json::from_str(&answer).unwrap();
                assert_eq!(
                    (&answer["api"], &answer["data"], &answer["websocket"]),
                    (&json!({}), &json!({}), &json!(true))
                );
            }
        }
        assert!(sockets > 0, "{name}");
        assert_eq!(live.stats().sockets_opened, sockets, "{name}");
        assert!(live.stats().subscriptions > 0, "{name}");
        assert_eq!(live.stats().messages_ignored, 0, "{name}");
    }
}

#[tokio::test]
async fn captured_calls_over_http_are_settled() {
    let live = builder().tokens(["token"]).build().unwrap();
    let server = Server::layered(&live.layer(), usual);
    let fixture: Value = serde_json::from_str(include_str!("../fixtures/http_rpc.json")).unwrap();
    let entries = fixture["entries"].as_array().unwrap();
    let call = entries.iter().find(|entry| entry["from"] == "A" && entry["method"] == "POST").unwrap();
    let theirs = entries.iter().find(|entry| entry["from"] == "server" && entry["method"] == "POST").unwrap();

    let mut request = Request::post(call["path"].as_str().unwrap());
    for (name, value) in call["headers"].as_object().unwrap() {
        request = request.header(name, value.as_str().unwrap());
    }
    let ours = server.send(request.body(call["body"].as_str().unwrap().to_owned()).unwrap()).await;
    let ids = |results: &Value| -> Vec<Value> {
        results.as_array().unwrap().iter().map(|result| result["id"].clone()).collect()
    };
    let theirs = serde_json::from_str(theirs["body"].as_str().unwrap()).unwrap();
    assert_eq!(ids(&body(&ours)), ids(&theirs), "every call of the page is settled");
}
