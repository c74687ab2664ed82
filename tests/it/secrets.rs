//! Tokens and keys stay secret: not in a log line, not in `Debug`, not in an error.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use http::Request;
use serde_json::Value;
use tower::{Layer, ServiceBuilder, service_fn};
use tower_http::{
    classify::{ServerErrorsAsFailures, SharedClassifier},
    trace::{DefaultMakeSpan, DefaultOnRequest, DefaultOnResponse, MakeSpan, TraceLayer},
};
use tower_live_updates::{
    AuthError, AuthRequest, Credentials, Identity, LiveUpdates, LiveUpdatesBuilder, builder::HasAuth,
};
use tracing::{Level, Span};

use crate::support::{
    Server, builder, converging,
    logs::{Logs, Record, Records},
    raw::{Raw, frame, header, upgrade_request},
    until, usual,
};

const RIGHT: &str = "right-3f1c9a7e";
const WRONG: &str = "wrong-8b2d4c60";
const EXPIRED: &str = "expired-5e7f1a22";
const BUSY: &str = "busy-90c3d1b4";
const SPECIAL: &str = "sp+c/al=77aa";

/// Every secret of the session, and each form in which it might appear.
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

async fn request_with(server: &Server, request: &str) -> Raw {
    let mut raw = Raw::new(server.connect());
    raw.write(request.as_bytes()).await.unwrap();
    raw
}

#[tokio::test(start_paused = true)]
async fn a_whole_session_at_the_finest_level_leaves_no_secret_in_the_log() {
    let requests: Arc<Mutex<Vec<String>>> = Arc::default();
    let live = converging()
        .authenticate_fn(requests.clone(), async |requests: Arc<Mutex<Vec<String>>>, request: AuthRequest| {
            requests.lock().unwrap().push(format!("{request:?} {request:#?}"));
            match request.token() {
                RIGHT | SPECIAL => Ok(Identity::new("alice").with_data(request.token().to_owned())),
                EXPIRED => Err(AuthError::Expired),
                BUSY => Err(AuthError::Unavailable),
                "" => std::future::pending().await,
                _ => Err(AuthError::Denied),
            }
        })
        .refusal_delay(Duration::ZERO)
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
            request_with(&server, &upgrade_request(&address, lines)).await.head().await;
        }
        request_with(&server, &format!("DELETE {address} HTTP/1.1\r\nHost: x\r\nRemote-Token: {token}\r\n\r\n"))
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
    until("all pages are gone", || live.stats().connections == 0).await;

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

/// The layer most applications have outside this one, at its finest level.
type Tracing<M> = TraceLayer<SharedClassifier<ServerErrorsAsFailures>, M>;

fn tracing_with<M>(make_span: M) -> Tracing<M> {
    TraceLayer::new_for_http()
        .make_span_with(make_span)
        .on_request(DefaultOnRequest::new().level(Level::TRACE))
        .on_response(DefaultOnResponse::new().level(Level::TRACE))
}

/// The span of a layer with no fields about it.
fn usual_span() -> DefaultMakeSpan {
    DefaultMakeSpan::new().level(Level::TRACE)
}

/// The remedy that the documentation names.
fn span_of_the_path<B>(request: &Request<B>) -> Span {
    tracing::trace_span!("request", method = %request.method(), path = request.uri().path())
}

fn traced<M>(live: &LiveUpdates, make_span: M) -> Server
where
    M: MakeSpan<hyper::body::Incoming> + Clone + Send + Sync + 'static,
{
    let handler = service_fn(|request| async { Ok::<_, std::convert::Infallible>(usual(request).await) });
    Server::new(ServiceBuilder::new().layer(tracing_with(make_span)).layer(live.layer()).service(handler))
}

/// Knows alice, by her token and by her session.
fn alice() -> LiveUpdatesBuilder<HasAuth> {
    converging()
        .authenticate_fn((), async |(), request: AuthRequest| match request.credentials() {
            Credentials::Token(RIGHT) | Credentials::Principal("alice") => Ok(Identity::new("alice")),
            Credentials::Token(EXPIRED) => Err(AuthError::Expired),
            Credentials::Token(BUSY) => Err(AuthError::Unavailable),
            _ => Err(AuthError::Denied),
        })
        .refusal_delay(Duration::ZERO)
        .revalidation_interval(Duration::from_secs(60))
        .audit()
}

/// A whole session, from the handshake to the end: sockets accepted and refused, writes, and their broadcasts.
async fn session(live: &LiveUpdates, server: &Server) -> String {
    let answer: Value = serde_json::from_slice(server.handshake(RIGHT).await.body()).unwrap();
    let key = answer["key"].as_str().unwrap().to_owned();
    for token in [WRONG, EXPIRED, BUSY, SPECIAL] {
        server.handshake(token).await;
    }
    let mut page = server.page_at(&format!("/api/v1?token={key}&ws=1")).await.unwrap();
    page.subscribe("events").await;
    for token in [WRONG, EXPIRED, BUSY, SPECIAL, &format!("{key}x")] {
        let address = format!("/api/v1?token={token}&ws=1");
        for lines in [&[][..], &[("Origin", "https://evil.example")], &[("Connection", "close")]] {
            request_with(server, &upgrade_request(&address, lines)).await.head().await;
        }
    }
    let write = Request::put("/events/7").header("remote-token", RIGHT).header("content-type", "application/json");
    server.send(write.body(r#"{"text":"x"}"#).unwrap()).await;
    assert_eq!(page.event().await.0, "update-event");
    // It is asked about once more meanwhile.
    tokio::time::sleep(Duration::from_secs(61)).await;
    live.disconnect(|_| true);
    page.end().await;
    live.shutdown().await;
    until("all pages are gone", || live.stats().connections == 0).await;
    key
}

fn is_ours(record: &Record) -> bool {
    record.target.starts_with("tower_live_updates")
}

fn holds_any(secrets: &[String], text: &str) -> bool {
    secrets.iter().any(|secret| text.contains(secret))
}

#[tokio::test(start_paused = true)]
async fn under_a_trace_layer_no_line_of_this_crates_own_holds_a_secret() {
    let live = alice().build().unwrap();
    let server = traced(&live, usual_span());
    let records = Records::listen("trace");
    let key = session(&live, &server).await;
    let secrets = forms(&key);
    let records = records.take();
    let ours: Vec<&Record> = records.iter().filter(|record| is_ours(record)).collect();
    assert!(ours.iter().any(|record| record.spans == ["request"]), "some stand in the layer's span");
    assert!(ours.iter().any(|record| record.target.ends_with("audit")), "and some are of the audit");
    for record in ours {
        assert!(!holds_any(&secrets, &format!("{record:?}")), "{record:?}");
    }
    // Broadcasts to an open socket and hooks about it run in no span of a request that is long over.
    assert!(records.iter().filter(|it| it.target.ends_with("audit")).any(|it| it.spans.is_empty()));
    for debug in [format!("{live:?} {live:#?}"), format!("{:?}", live.layer())] {
        assert!(!holds_any(&secrets, &debug), "{debug}");
    }
    // The span of the layer outside is its own affair: it shows the whole address.
    let spans: Vec<&Record> =
        records.iter().filter(|it| it.target.starts_with("tower_http") && it.fields.contains_key("uri")).collect();
    assert!(spans.iter().any(|span| span.field("uri").contains(&key)), "{spans:?}");
    let token = data_encoding::BASE64URL_NOPAD.encode(RIGHT.as_bytes());
    assert!(spans.iter().any(|span| span.field("uri").contains(&token)), "the token with it");
}

#[tokio::test(start_paused = true)]
async fn a_span_of_the_path_alone_keeps_all_secrets_out_of_all_lines() {
    let live = alice().build().unwrap();
    let server = traced(&live, span_of_the_path::<hyper::body::Incoming>);
    let (key, lines) = {
        let logs = Logs::capture_all();
        (session(&live, &server).await, logs.lines(""))
    };
    assert!(lines.iter().any(|line| line.contains("request{method=GET path=\"/api/v1\"}")), "{lines:?}");
    let secrets = forms(&key);
    for line in lines {
        assert!(!holds_any(&secrets, &line), "{line}");
    }
}

#[cfg(feature = "sealed-keys")]
#[tokio::test(start_paused = true)]
async fn with_sealed_keys_not_even_the_usual_span_shows_a_good_token() {
    const SECRET: &str = "secret-5e7f1a22-8b2d4c60-90c3d1b4-77aa01fe";
    let live = alice().sealed_keys([SECRET]).build().unwrap();
    let server = traced(&live, usual_span());
    let records = Records::listen("trace");
    let key = session(&live, &server).await;
    let records = records.take();
    let bytes = data_encoding::BASE64.encode(SECRET.as_bytes());
    let unknown_tokens =
        [RIGHT.to_owned(), data_encoding::BASE64URL_NOPAD.encode(RIGHT.as_bytes()), SECRET.to_owned(), bytes];
    for record in &records {
        assert!(!holds_any(&unknown_tokens, &format!("{record:?}")), "{record:?}");
    }
    // A key is valid for a while only, and still a secret.
    let parts = key.split('.').filter(|part| part.len() > 8).map(str::to_owned);
    let secrets: Vec<String> = forms(&key).into_iter().chain(parts).collect();
    for record in records.iter().filter(|record| is_ours(record)) {
        assert!(!holds_any(&secrets, &format!("{record:?}")), "{record:?}");
    }
    assert!(records.iter().any(|it| it.fields.get("uri").is_some_and(|uri| uri.contains(&key))), "the span shows it");
    for debug in
        [format!("{live:?} {live:#?}"), format!("{:?}", live.layer()), format!("{:?}", alice().sealed_keys([SECRET]))]
    {
        assert!(!holds_any(&secrets, &debug) && !holds_any(&unknown_tokens, &debug), "{debug}");
    }
    let short = alice().sealed_keys(["short-5e7f1a22"]).build().unwrap_err();
    assert!(!format!("{short:?} {short}").contains("5e7f1a22"), "{short}");
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
        let (head, body) = request_with(&server, &request).await.answer().await;
        assert!(head.status() >= 400);
        assert!(!format!("{head:?} {body}").contains(WRONG), "{head:?} {body}");
    }
}
