//! Requests and responses that do not concern live updates pass as if the layer were not there.

use std::{
    cell::Cell,
    convert::Infallible,
    io::Cursor,
    marker::PhantomData,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, handshake::derive_accept_key, protocol::Role},
};
use tower::{Layer, ServiceExt, service_fn};
use tower_live_updates::body::RequestBody;

use crate::support::{AnyResponse, BoxError, Server, full, json as answer, live, read, upgrade};

#[tokio::test]
async fn a_websocket_of_the_applications_own_keeps_its_upgrade() {
    let live = live();
    let server = Server::layered(&live.layer(), |mut request: Request<RequestBody<Incoming>>| async move {
        let key = request.headers()[header::SEC_WEBSOCKET_KEY].clone();
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let stream = TokioIo::new(upgrade.await.expect("an upgrade"));
            let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
            let received = socket.next().await.expect("a message").expect("a good one");
            socket.send(Message::text(format!("echo {received}"))).await.expect("an open socket");
        });
        Response::builder()
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header(header::CONNECTION, "upgrade")
            .header(header::UPGRADE, "websocket")
            .header(header::SEC_WEBSOCKET_ACCEPT, derive_accept_key(key.as_bytes()))
            .body(Empty::<Bytes>::new())
            .unwrap()
    });
    // Its query looks like the client's own, and one of its paths is a watched one.
    for path in ["/chat?token=demo&ws=1", "/events/7"] {
        let mut socket = upgrade(server.connect(), path, &[]).await.expect("an upgrade");
        socket.send(Message::text("hello")).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("echo hello"), "{path}");
    }
}

/// The whole answer to one request, as the bytes on the wire.
async fn on_the_wire(server: &Server, request: &str) -> String {
    let mut stream = server.connect();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    // The only thing that may differ between two runs.
    let lines = answer.split("\r\n").filter(|line| !line.to_ascii_lowercase().starts_with("date:"));
    lines.collect::<Vec<_>>().join("\r\n")
}

fn request(method: &Method, path: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
}

#[tokio::test]
async fn answers_are_the_same_on_the_wire_as_without_the_layer() {
    async fn handler<B: Body>(request: Request<B>) -> Result<AnyResponse, Infallible> {
        let path = request.uri().path();
        let empty = |status: u16| {
            let body = Empty::<Bytes>::new().map_err(|never| match never {}).boxed_unsync();
            Response::builder().status(status).body(body).unwrap()
        };
        let pieces = |pieces: &'static [&'static str]| {
            let frames =
                pieces.iter().map(|piece| Ok::<_, BoxError>(Frame::data(Bytes::from_static(piece.as_bytes()))));
            StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync()
        };
        Ok(match path.rsplit('/').next().unwrap() {
            "204" => empty(204),
            "304" => empty(304),
            "205" => empty(205),
            "500" => empty(500),
            "chunks" => Response::new(pieces(&["[1,", "2]"])),
            "stream-with-length" => {
                Response::builder().header(header::CONTENT_LENGTH, 5).body(pieces(&["[1,", "2]"])).unwrap()
            }
            _ => answer(200, "[1,2]").map(|body| body.map_err(|never| match never {}).boxed_unsync()),
        })
    }
    let live = live();
    let bare = Server::new(service_fn(handler::<Incoming>));
    let layered = Server::new(live.layer().layer(service_fn(handler::<RequestBody<Incoming>>)));
    for method in [Method::GET, Method::HEAD, Method::OPTIONS, Method::POST, Method::PUT, Method::DELETE] {
        for path in ["full", "chunks", "stream-with-length", "204", "205", "304", "500"] {
            // Under /events, PUT and DELETE are watched; /other never is.
            for collection in ["/events", "/other"] {
                let request = request(&method, &format!("{collection}/{path}"));
                assert_eq!(on_the_wire(&layered, &request).await, on_the_wire(&bare, &request).await, "{request}");
            }
        }
    }
    assert!(live.stats().changes_published > 0, "some of them were watched");
}

#[tokio::test]
async fn paths_beside_the_endpoint_are_the_applications_own() {
    let live = live();
    let server = Server::layered(&live.layer(), |_| async { answer(299, "") });
    for (path, own) in [("/api/v1x", true), ("/api/v1/x", true), ("/api", true), ("/", true), ("/api/v1", false)] {
        let response = server.send(Request::get(path).body("").unwrap()).await;
        assert_eq!(response.status().as_u16() == 299, own, "{path}");
    }
}

#[tokio::test]
async fn a_head_has_no_body_and_keeps_its_length() {
    let live = live();
    let server = Server::layered(&live.layer(), |_| async { answer(200, "[1,2]") });
    let answer = on_the_wire(&server, &request(&Method::HEAD, "/events")).await;
    assert!(answer.contains("content-length: 5\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn trailers_of_unwatched_answers_and_requests_pass() {
    let live = live();
    let server = Server::layered(&live.layer(), |request: Request<RequestBody<Incoming>>| async {
        let sent = request.into_body().collect().await.unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("checksum", sent.trailers().expect("trailers")["checksum"].clone());
        let frames = [Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"x"))), Ok(Frame::trailers(trailers))];
        let mut response = Response::new(StreamBody::new(futures_util::stream::iter(frames)));
        response.headers_mut().insert(header::TRAILER, HeaderValue::from_static("checksum"));
        response
    });
    for (method, path) in [(Method::POST, "/other"), (Method::PUT, "/events/7")] {
        let mut trailers = HeaderMap::new();
        trailers.insert("checksum", HeaderValue::from_static("abc"));
        let frames = [Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"{}"))), Ok(Frame::trailers(trailers))];
        let request = Request::builder()
            .method(&method)
            .uri(path)
            .header(header::TRAILER, "checksum")
            .header(header::TE, "trailers")
            .body(StreamBody::new(futures_util::stream::iter(frames)))
            .unwrap();
        let body = server.start(request).await.unwrap().into_body().collect().await.unwrap();
        assert_eq!(body.trailers().expect("trailers")["checksum"], "abc", "{method} {path}");
    }
}

#[derive(Debug, PartialEq)]
struct Refused;

#[tokio::test]
async fn errors_of_the_inner_service_are_its_own() {
    let live = live();
    let server = Server::layered(&live.layer(), |_| async { answer(200, "") });
    let mut page = server.subscribed().await;
    let service = live
        .layer()
        .layer(service_fn(async |_: Request<RequestBody<Full<Bytes>>>| Err::<Response<Full<Bytes>>, _>(Refused)));
    for (method, path) in [(Method::GET, "/events"), (Method::PUT, "/events/7"), (Method::POST, "/events")] {
        let request = Request::builder().method(&method).uri(path).body(full("{}")).unwrap();
        assert_eq!(service.clone().oneshot(request).await.unwrap_err(), Refused, "{method}");
    }
    assert!(page.received(&live).await.is_empty());
}

/// A body of another kind of data, which is neither `Sync` nor cloneable.
struct Pieces {
    pieces: Vec<&'static [u8]>,
    _not_sync: PhantomData<Cell<u8>>,
}

impl Pieces {
    fn new(pieces: &[&'static [u8]]) -> Self {
        Self { pieces: pieces.iter().rev().copied().collect(), _not_sync: PhantomData }
    }
}

impl Body for Pieces {
    type Data = bytes::buf::Chain<Cursor<&'static [u8]>, Cursor<&'static [u8]>>;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Infallible>>> {
        Poll::Ready(self.pieces.pop().map(|piece| {
            let (head, tail) = piece.split_at(piece.len() / 2);
            Ok(Frame::data(Buf::chain(Cursor::new(head), Cursor::new(tail))))
        }))
    }
}

#[tokio::test]
async fn bodies_of_other_data_that_are_not_sync_pass_and_are_broadcast() {
    let live = live();
    let server = Server::layered(&live.layer(), |_| async { answer(200, "") });
    let mut page = server.subscribed().await;
    let service = live.layer().layer(service_fn(|request: Request<RequestBody<Pieces>>| async {
        assert_eq!(read(request).await.unwrap(), r#"{"text":"a"}"#);
        Ok::<_, Infallible>(Response::new(Pieces::new(&[b"{\"action\":", b"\"updated\"}"])))
    }));
    let request = Request::put("/events/7").body(Pieces::new(&[b"{\"text\"", b":\"a\"}"])).unwrap();
    let response = service.oneshot(request).await.unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), r#"{"action":"updated"}"#);
    assert_eq!(page.received(&live).await, [json!({"type": "update-event", "event": {"text": "a", "id": "7"}})]);
}

#[tokio::test]
async fn extensions_and_headers_pass_in_both_directions() {
    #[derive(Clone, Debug, PartialEq)]
    struct Mark(u8);
    let live = live();
    let service = live.layer().layer(service_fn(|request: Request<RequestBody<Full<Bytes>>>| async move {
        assert_eq!(request.extensions().get(), Some(&Mark(1)));
        assert_eq!(request.headers()["x-mark"], "in");
        let mut response = answer(200, r#"{"action":"updated"}"#);
        response.headers_mut().insert("x-mark", HeaderValue::from_static("out"));
        response.extensions_mut().insert(Mark(2));
        Ok::<_, Infallible>(response)
    }));
    for (method, path) in [(Method::GET, "/events"), (Method::PUT, "/events/7")] {
        let request = Request::builder().method(method).uri(path).header("x-mark", "in").extension(Mark(1));
        let response = service.clone().oneshot(request.body(full("{}")).unwrap()).await.unwrap();
        assert_eq!(response.extensions().get(), Some(&Mark(2)));
        assert_eq!(response.headers()["x-mark"], "out");
    }
}
