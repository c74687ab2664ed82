//! Neighbours in a stack of layers: compression, limits, CORS, and axum's own middleware.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body;
use http_body_util::Full;
use hyper::body::Incoming;
use serde_json::{Value, json};
use tower::{Layer, ServiceBuilder, service_fn};
use tower_http::{
    catch_panic::CatchPanicLayer,
    compression::{CompressionLayer, predicate::SizeAbove},
    cors::CorsLayer,
    limit::RequestBodyLimitLayer,
    timeout::TimeoutLayer,
    trace::TraceLayer,
};
use tower_live_updates::{LiveUpdates, body::RequestBody};

use crate::support::{AnyResponse, BoxError, Page, Server, TOKEN, builder, json as answer, live, read};

const SENT: &str = r#"{"text":"a"}"#;

fn expected_broadcast() -> Vec<Value> {
    vec![json!({"type": "update-event", "event": {"text": "a", "id": "7"}})]
}

/// A handler that answers an update, and takes a request's failure for what it is.
async fn update<B>(request: Request<B>) -> Result<Response<Full<Bytes>>, Infallible>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    Ok(match read(request).await {
        Ok(_) => answer(200, r#"{"action":"updated","item":{"id":7,"stored":true}}"#),
        Err(_) => answer(413, "{}"),
    })
}

fn compressing() -> CompressionLayer<SizeAbove> {
    CompressionLayer::new().compress_when(SizeAbove::new(0))
}

fn accepting_gzip() -> Request<&'static str> {
    Request::put("/events/7").header(header::ACCEPT_ENCODING, "gzip").body(SENT).unwrap()
}

#[tokio::test]
async fn compression_outside_does_not_hide_the_answer() {
    let live = live();
    let server = Server::new(ServiceBuilder::new().layer(compressing()).layer(live.layer()).service_fn(update));
    let mut page = server.page_with(&[("accept-encoding", "gzip, deflate, br")]).await.expect("an accepted socket");
    page.subscribe("events").await;
    let response = server.send(accepting_gzip()).await;
    assert_eq!(response.headers()[header::CONTENT_ENCODING], "gzip");
    assert_eq!(&response.body()[..2], b"\x1f\x8b");
    let stored = json!({"type": "update-event", "event": {"text": "a", "id": 7, "stored": true}});
    assert_eq!(page.received(&live).await, [stored]);
}

#[tokio::test]
async fn with_compression_inside_the_change_comes_from_the_request() {
    let live = live();
    let server = Server::new(ServiceBuilder::new().layer(live.layer()).layer(compressing()).service_fn(update));
    let bare = Server::new(ServiceBuilder::new().layer(compressing()).service_fn(update::<Incoming>));
    let mut page = server.subscribed().await;
    let response = server.send(accepting_gzip()).await;
    assert_eq!(response.headers()[header::CONTENT_ENCODING], "gzip");
    assert_eq!(response.body(), bare.send(accepting_gzip()).await.body(), "byte for byte");
    assert_eq!(page.received(&live).await, expected_broadcast());
}

/// The usual stack of a service that faces the world.
fn stack(live: &LiveUpdates) -> Server {
    let service = ServiceBuilder::new()
        .layer(TraceLayer::new_for_http())
        .layer(CatchPanicLayer::new())
        .layer(TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, Duration::from_secs(2)))
        .layer(RequestBodyLimitLayer::new(1000))
        .layer(live.layer())
        .service_fn(update);
    Server::new(service)
}

#[tokio::test(start_paused = true)]
async fn sockets_and_writes_go_through_the_usual_stack_and_sockets_outlive_its_timeouts() {
    let live = live();
    let server = stack(&live);
    let mut page = server.subscribed().await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    page.barrier().await;
    assert_eq!(server.write(Method::PUT, "/events/7", SENT).await.status(), 200);
    assert_eq!(page.received(&live).await.len(), 1);
}

#[tokio::test]
async fn a_request_over_an_outer_limit_is_refused_and_not_broadcast() {
    let live = live();
    let server = stack(&live);
    let mut page = server.subscribed().await;
    let large = format!(r#"{{"text":"{}"}}"#, "x".repeat(2000));
    assert_eq!(server.write(Method::PUT, "/events/7", &large).await.status(), 413);
    assert!(page.received(&live).await.is_empty());
}

#[tokio::test]
async fn a_request_limit_inside_works_too() {
    let live = live();
    let service = ServiceBuilder::new().layer(live.layer()).layer(RequestBodyLimitLayer::new(1000)).service_fn(update);
    let server = Server::new(service);
    let mut page = server.subscribed().await;
    let large = format!(r#"{{"text":"{}"}}"#, "x".repeat(2000));
    assert_eq!(server.write(Method::PUT, "/events/7", &large).await.status(), 413);
    assert!(page.received(&live).await.is_empty());
    assert_eq!(server.write(Method::PUT, "/events/7", SENT).await.status(), 200);
    assert_eq!(page.received(&live).await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_answer_of_an_outer_timeout_does_not_silence_the_write() {
    let live = live();
    let service = ServiceBuilder::new()
        .layer(TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, Duration::from_millis(50)))
        .layer(live.layer())
        .service_fn(|request: Request<RequestBody<_>>| async {
            let committed = read(request).await.expect("a whole request");
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert_eq!(committed, SENT);
            Ok::<_, Infallible>(answer(200, r#"{"action":"updated"}"#))
        });
    let server = Server::new(service);
    let mut page = server.subscribed().await;
    assert_eq!(server.write(Method::PUT, "/events/7", SENT).await.status(), 408);
    let (kind, event) = page.event().await;
    assert_eq!(json!({"type": kind, "event": event}), expected_broadcast()[0]);
    assert!(page.received(&live).await.is_empty(), "once");
}

#[tokio::test]
async fn cors_outside_answers_preflights_and_marks_refusals() {
    let live = builder().tokens([TOKEN]).allow_origin("http://app.example").build().unwrap();
    let cors = CorsLayer::new()
        .allow_origin(HeaderValue::from_static("http://app.example"))
        .allow_methods([Method::GET, Method::PUT])
        .allow_headers([header::CONTENT_TYPE, header::HeaderName::from_static("remote-token")]);
    let server = Server::new(ServiceBuilder::new().layer(cors).layer(live.layer()).service_fn(update));

    for path in ["/api/v1", "/events", "/events/7"] {
        let preflight = Request::options(path)
            .header(header::ORIGIN, "http://app.example")
            .header(header::ACCESS_CONTROL_REQUEST_METHOD, "PUT")
            .header(header::ACCESS_CONTROL_REQUEST_HEADERS, "content-type,remote-token");
        let response = server.send(preflight.body("").unwrap()).await;
        assert_eq!(response.status(), 200, "{path}");
        assert_eq!(response.headers()[header::ACCESS_CONTROL_ALLOW_ORIGIN], "http://app.example", "{path}");
        assert_eq!(response.headers()[header::ACCESS_CONTROL_ALLOW_HEADERS], "content-type,remote-token", "{path}");
    }
    for (token, status) in [(TOKEN, 200), ("wrong", 403)] {
        let handshake = Request::get("/api/v1").header(header::ORIGIN, "http://app.example");
        let response = server.send(handshake.header("remote-token", token).body("").unwrap()).await;
        assert_eq!(response.status(), status);
        assert_eq!(response.headers()[header::ACCESS_CONTROL_ALLOW_ORIGIN], "http://app.example", "{status}");
    }
    let mut page = server.page_with(&[("origin", "http://app.example")]).await.expect("an accepted socket");
    page.subscribe("events").await;
    server.write(Method::PUT, "/events/7", SENT).await;
    assert_eq!(page.received(&live).await.len(), 1);
}

#[tokio::test]
async fn a_preflight_that_no_layer_answers_reaches_the_application() {
    let live = live();
    let server = Server::layered(&live.layer(), |request: Request<RequestBody<Incoming>>| async move {
        answer(if request.method() == Method::OPTIONS { 299 } else { 200 }, "")
    });
    for path in ["/api/v1", "/events/7"] {
        let response = server.send(Request::options(path).body("").unwrap()).await;
        assert_eq!(response.status().as_u16(), 299, "{path}");
    }
}

#[tokio::test]
async fn the_answer_to_an_upgrade_stays_bare_behind_a_compressor() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let live = live();
    let server = Server::new(ServiceBuilder::new().layer(compressing()).layer(live.layer()).service_fn(update));
    let mut stream = server.connect();
    let request = [
        "GET /api/v1?token=demo&ws=1 HTTP/1.1",
        "host: x",
        "connection: Upgrade",
        "upgrade: websocket",
        "accept-encoding: gzip",
        "sec-websocket-version: 13",
        "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
        "\r\n",
    ]
    .join("\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    for name in ["content-length", "transfer-encoding"] {
        assert!(!head.contains(name), "{head}");
    }
    // A clean first frame: text, not compressed.
    assert_eq!(stream.read_u8().await.unwrap(), 0x81);
}

#[tokio::test]
async fn a_panic_between_two_layers_is_a_500_and_the_next_write_is_broadcast() {
    let live = live();
    let panics = |request: Request<RequestBody<Incoming>>| async {
        assert!(request.headers().get("x-panic").is_none(), "this one panics");
        update(request).await
    };
    let service = ServiceBuilder::new().layer(live.layer()).layer(CatchPanicLayer::new()).service_fn(panics);
    let server = Server::new(service);
    let mut page: Page = server.subscribed().await;
    let request = Request::put("/events/7").header("x-panic", "1").body(SENT).unwrap();
    assert_eq!(server.send(request).await.status(), 500);
    assert!(page.received(&live).await.is_empty());
    server.write(Method::PUT, "/events/7", SENT).await;
    assert_eq!(page.received(&live).await.len(), 1);
}

#[cfg(feature = "axum")]
#[tokio::test]
async fn axums_own_middleware_fits_on_either_side() {
    use axum::{
        Router,
        extract::Request,
        middleware::{Next, from_fn},
        routing::put,
    };
    let live = live();
    let mark = |name: &'static str| {
        from_fn(move |mut request: Request, next: Next| async move {
            request.headers_mut().append("x-way-in", HeaderValue::from_static(name));
            let mut response = next.run(request).await;
            response.headers_mut().append("x-way-out", HeaderValue::from_static(name));
            response
        })
    };
    let router = Router::new()
        .route(
            "/events/{id}",
            put(async |request: Request| {
                let transport: Vec<_> = request.headers().get_all("x-way-in").iter().collect();
                assert_eq!(transport, ["outside", "inside"]);
                read(request).await.unwrap();
                r#"{"action":"updated"}"#
            }),
        )
        .layer(
            ServiceBuilder::new()
                .layer(TraceLayer::new_for_http())
                .layer(mark("outside"))
                .layer(live.layer().axum())
                .layer(mark("inside")),
        );
    let server = Server::new(router);
    let mut page = server.subscribed().await;
    let response = server.write(Method::PUT, "/events/7", SENT).await;
    let transport: Vec<_> = response.headers().get_all("x-way-out").iter().collect();
    assert_eq!(transport, ["inside", "outside"]);
    assert_eq!(page.received(&live).await, expected_broadcast());
}

/// The type the layer answers with is a body like any other, so that layers outside need no help.
#[tokio::test]
async fn the_layers_own_answers_are_bodies_like_any_other() {
    let live = live();
    let inner = live.layer().layer(service_fn(update::<RequestBody<Incoming>>));
    let boxed = tower::util::MapResponse::new(inner, |response: Response<_>| -> AnyResponse {
        use http_body_util::BodyExt;
        response.map(|body: tower_live_updates::body::ResponseBody<Full<Bytes>>| {
            body.map_err(|never| match never {}).boxed_unsync()
        })
    });
    let server = Server::new(boxed);
    let response = server.handshake(TOKEN).await;
    let handshake: Value = serde_json::from_slice(response.body()).unwrap();
    assert_eq!(handshake["websocket"], true);
    assert_eq!(response.headers()[header::CONTENT_LENGTH], response.body().len().to_string());
}
