//! HTTP/2: writes are broadcast and handshakes answered; a WebSocket is refused clearly, so that browsers use HTTP/1.1.

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn::http2::SendRequest, ext::Protocol};
use serde_json::{Value, json};
use tower_live_updates::body::RequestBody;

use crate::support::{Server, TOKEN, full, json as answer, live, usual};

async fn send(client: &mut SendRequest<Full<Bytes>>, request: Request<Full<Bytes>>) -> Response<Bytes> {
    let (parts, body) = client.send_request(request).await.expect("an answer").into_parts();
    Response::from_parts(parts, body.collect().await.expect("a whole body").to_bytes())
}

fn write(method: Method, path: &str, body: &'static str) -> Request<Full<Bytes>> {
    let request = Request::builder().method(method).uri(format!("https://live.example{path}"));
    request.header(header::CONTENT_TYPE, "application/json").body(full(body)).unwrap()
}

#[tokio::test]
async fn writes_are_broadcast() {
    let live = live();
    let server = Server::layered(&live.layer(), usual);
    let mut page = server.subscribed().await;
    let mut client = server.h2().await;
    let event = r#"{"start_date":"2025-04-21 10:00","end_date":"2025-04-21 11:00"}"#;
    send(&mut client, write(Method::POST, "/events", event)).await;
    send(&mut client, write(Method::PUT, "/events/17", r#"{"text":"b"}"#)).await;
    send(&mut client, write(Method::DELETE, "/events/17", "")).await;
    let received = page.received(&live).await;
    let kinds: Vec<&Value> = received.iter().map(|value| &value["type"]).collect();
    assert_eq!(kinds, ["add-event", "update-event", "delete-event"]);
    assert!(received.iter().all(|value| value["event"]["id"] == "17"), "{received:?}");
}

#[tokio::test]
async fn sequential_writes_on_one_connection_are_all_broadcast() {
    let live = live();
    let server = Server::layered(&live.layer(), usual);
    let mut page = server.subscribed().await;
    let client = server.h2().await;
    let writes: Vec<_> = (1..=50)
        .map(|id| {
            let mut client = client.clone();
            // Half of them write the same object.
            let path = format!("/events/{}", if id % 2 == 0 { id } else { 1 });
            tokio::spawn(async move { send(&mut client, write(Method::PUT, &path, r#"{"text":"b"}"#)).await })
        })
        .collect();
    for write in writes {
        assert_eq!(write.await.unwrap().status(), 200);
    }
    assert_eq!(page.received(&live).await.len(), 50);
    assert_eq!(live.stats().write_lock_timeouts, 0);
}

#[tokio::test]
async fn the_handshake_is_answered() {
    let live = live();
    let server = Server::layered(&live.layer(), usual);
    let mut client = server.h2().await;
    // No Host header: HTTP/2 names the host in the address.
    for (origin, status) in [(None, 200), (Some("https://live.example"), 200), (Some("https://evil.example"), 403)] {
        let mut request = Request::get("https://live.example/api/v1").header("remote-token", TOKEN);
        if let Some(origin) = origin {
            request = request.header(header::ORIGIN, origin);
        }
        let response = send(&mut client, request.body(full("")).unwrap()).await;
        assert_eq!(response.status(), status, "{origin:?}");
    }
}

/// The server's settings have come with its first answer.
async fn settled(server: &Server) -> SendRequest<Full<Bytes>> {
    let mut client = server.h2().await;
    send(&mut client, write(Method::GET, "/events", "")).await;
    client
}

fn extended_connect(uri: &str) -> Request<Full<Bytes>> {
    let request = Request::builder().method(Method::CONNECT).uri(uri).extension(Protocol::from_static("websocket"));
    request.header(header::SEC_WEBSOCKET_VERSION, "13").body(full("")).unwrap()
}

#[tokio::test]
async fn a_websocket_by_extended_connect_is_refused_clearly() {
    let live = live();
    let server = Server::layered(&live.layer(), usual);
    let mut client = settled(&server).await;
    let response = send(&mut client, extended_connect("https://live.example/api/v1?token=demo&ws=1")).await;
    assert!(response.status().is_client_error(), "{}", response.status());
    let body: Value = serde_json::from_slice(response.body()).expect("JSON");
    assert!(body["error"].as_str().is_some_and(|error| !error.is_empty()), "{body}");
    assert_eq!(live.stats().connections, 0);
    assert_eq!(send(&mut client, write(Method::GET, "/events", "")).await.status(), 200, "the connection goes on");
}

#[tokio::test]
async fn a_get_that_asks_for_an_upgrade_is_refused_clearly() {
    let live = live();
    let server = Server::layered(&live.layer(), usual);
    let mut client = server.h2().await;
    for request in [
        Request::get("https://live.example/api/v1?token=demo&ws=1"),
        Request::get("https://live.example/api/v1?token=demo")
            .header(header::SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ=="),
    ] {
        let response = send(&mut client, request.body(full("")).unwrap()).await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
        let body: Value = serde_json::from_slice(response.body()).expect("JSON");
        assert!(body["error"].as_str().is_some_and(|error| error.contains("HTTP/1.1")), "{body}");
    }
    assert_eq!((live.stats().connections, live.stats().sockets_opened), (0, 0));
}

#[tokio::test]
async fn a_websocket_of_the_applications_own_passes() {
    let live = live();
    let server = Server::layered(&live.layer(), |request: Request<RequestBody<Incoming>>| async move {
        let protocol = request.extensions().get::<Protocol>().map_or("none", Protocol::as_str);
        answer(200, &json!({"method": request.method().as_str(), "protocol": protocol}).to_string())
    });
    let mut client = settled(&server).await;
    for path in ["/chat", "/events/7"] {
        let mut request = extended_connect(&format!("https://live.example{path}"));
        *request.body_mut() = full("");
        let response = client.send_request(request).await.expect("an answer");
        assert_eq!(response.status(), 200, "{path}");
    }
    assert_eq!(live.stats().changes_published + live.stats().writes_unpublished, 0, "a CONNECT writes nothing");
}
