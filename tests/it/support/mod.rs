//! What the tests share: a server on in-memory streams, and a small client that speaks the protocol.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]

pub mod calls;
pub mod client;
#[cfg(feature = "tracing")]
pub mod logs;
pub mod raw;

use std::{convert::Infallible, error::Error, fmt, time::Duration};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream},
    net::{TcpListener, TcpSocket, TcpStream},
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{self, Message, protocol::CloseFrame},
};
use tower::{Layer, Service, ServiceExt, util::BoxCloneSyncService};
use tower_live_updates::{
    Delivery, Entity, LiveUpdates, LiveUpdatesBuilder, LiveUpdatesLayer, body::RequestBody, builder::WantsAuth,
};

pub type BoxError = Box<dyn Error + Send + Sync>;
pub type AnyResponse = Response<UnsyncBoxBody<Bytes, BoxError>>;

/// The token every test server knows.
pub const TOKEN: &str = "demo";

/// A builder with the scheduler's events, without authentication yet: each change is sent once.
pub fn builder() -> LiveUpdatesBuilder<WantsAuth> {
    converging().delivery(Delivery::Plain)
}

/// The same with the default delivery: keys, replays, repeats.
pub fn converging() -> LiveUpdatesBuilder<WantsAuth> {
    LiveUpdates::builder("/api/v1").entity(Entity::scheduler("/events")).entity(Entity::new("calendars"))
}

/// The usual: scheduler events, one token.
pub fn live() -> LiveUpdates {
    builder().tokens([TOKEN]).build().expect("a good configuration")
}

/// A server whose connections are in-memory streams.
#[derive(Clone)]
pub struct Server {
    service: BoxCloneSyncService<Request<Incoming>, AnyResponse, BoxError>,
}

impl Server {
    /// Serves any service that takes what hyper gives.
    pub fn new<S, B>(service: S) -> Self
    where
        S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
        S::Error: Into<BoxError>,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let service = service
            .map_response(|response: Response<B>| response.map(|body| body.map_err(Into::into).boxed_unsync()))
            .map_err(Into::into);
        Self { service: BoxCloneSyncService::new(service) }
    }

    /// Serves a handler behind the layer, with generic bodies.
    pub fn layered<H, Fut, B>(layer: &LiveUpdatesLayer, handler: H) -> Self
    where
        H: Fn(Request<RequestBody<Incoming>>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Response<B>> + Send + 'static,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError> + Send,
    {
        let inner = tower::service_fn(move |request| {
            let answer = handler(request);
            async move { Ok::<_, Infallible>(answer.await) }
        });
        Self::new(layer.layer(inner))
    }

    /// Opens a connection; the server's end runs in a task of its own.
    pub fn connect(&self) -> DuplexStream {
        self.connect_with(64 * 1024)
    }

    /// Opens a connection whose stream holds this many bytes in each direction before it blocks.
    pub fn connect_with(&self, capacity: usize) -> DuplexStream {
        let (near, far) = tokio::io::duplex(capacity);
        let service = TowerToHyperService::new(self.service.clone());
        tokio::spawn(
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(far), service).with_upgrades(),
        );
        near
    }

    /// Opens a connection over loopback, as hyper serves it without anything in between: straight to the TCP
    /// stream. A small receive buffer makes a client that stops reading felt early.
    pub async fn connect_tcp(&self, receive_buffer: Option<u32>) -> TcpStream {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let socket = TcpSocket::new_v4().expect("a socket");
        if let Some(bytes) = receive_buffer {
            socket.set_recv_buffer_size(bytes).expect("a buffer of that size");
        }
        let address = listener.local_addr().expect("an address");
        let (near, far) = tokio::join!(socket.connect(address), listener.accept());
        self.serve(far.expect("a connection").0);
        near.expect("a connection")
    }

    /// Serves a connection in a task of its own.
    pub fn serve(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let service = TowerToHyperService::new(self.service.clone());
        let serving = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        tokio::spawn(serving.with_upgrades());
    }

    /// A connection over each transport: through any stream, and straight to TCP.
    pub async fn connect_both(&self) -> [(&'static str, raw::Raw); 2] {
        [("any stream", raw::Raw::new(self.connect())), ("TCP", raw::Raw::new(self.connect_tcp(None).await))]
    }

    /// A client on an HTTP/2 connection of its own.
    pub async fn h2<B>(&self) -> hyper::client::conn::http2::SendRequest<B>
    where
        B: http_body::Body + Send + Unpin + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let service = TowerToHyperService::new(self.service.clone());
        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .enable_connect_protocol()
            .serve_connection(TokioIo::new(far), service);
        tokio::spawn(server);
        let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(near))
            .await
            .expect("an HTTP/2 connection");
        tokio::spawn(connection);
        sender
    }

    /// One request on a connection of its own; the answer with its whole body.
    pub async fn send(&self, request: Request<impl Into<Bytes>>) -> Response<Bytes> {
        let response = self.start(request.map(|body| Full::new(body.into()))).await.expect("an answer");
        let (parts, body) = response.into_parts();
        let body = body.collect().await.expect("a whole body").to_bytes();
        Response::from_parts(parts, body)
    }

    /// One request with any body on a connection of its own; the answer as it comes.
    pub async fn start<B>(&self, mut request: Request<B>) -> Result<Response<Incoming>, hyper::Error>
    where
        B: http_body::Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        if !request.headers().contains_key(header::HOST) {
            request.headers_mut().insert(header::HOST, header::HeaderValue::from_static("live.example"));
        }
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(self.connect())).await?;
        tokio::spawn(connection);
        sender.send_request(request).await
    }

    /// A JSON write.
    pub async fn write(&self, method: Method, path: &str, body: &str) -> Response<Bytes> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::CONTENT_TYPE, "application/json")
            .body(body.to_owned())
            .expect("a good request");
        self.send(request).await
    }

    /// The handshake with a token.
    pub async fn handshake(&self, token: &str) -> Response<Bytes> {
        let request = Request::get("/api/v1").header("remote-token", token).body("").expect("a good request");
        self.send(request).await
    }

    /// A page: its socket is open and has had its start message, and nothing is subscribed yet.
    pub async fn page(&self) -> Page {
        self.page_at("/api/v1?token=demo&ws=1").await.expect("an accepted socket")
    }

    /// A page that has subscribed `events`.
    pub async fn subscribed(&self) -> Page {
        let mut page = self.page().await;
        page.subscribe("events").await;
        page
    }

    /// A page whose socket has this address.
    pub async fn page_at(&self, path: &str) -> Result<Page, tungstenite::Error> {
        Page::open(self.connect(), path, &[]).await
    }

    /// A page whose upgrade carries further headers.
    pub async fn page_with(&self, headers: &[(&str, &str)]) -> Result<Page, tungstenite::Error> {
        Page::open(self.connect(), "/api/v1?token=demo&ws=1", headers).await
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Server")
    }
}

/// How a socket ended.
#[derive(Debug, PartialEq)]
pub enum End {
    /// A close frame with its code and reason.
    Close(u16, String),
    /// The stream ended without one.
    Gone,
}

/// One page's socket.
#[derive(Debug)]
pub struct Page<S = DuplexStream> {
    pub socket: WebSocketStream<S>,
    /// The body of the start message.
    pub id: String,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Page<S> {
    /// Upgrades a stream and reads the start message.
    pub async fn open(stream: S, path: &str, headers: &[(&str, &str)]) -> Result<Self, tungstenite::Error> {
        let mut page = Self { socket: upgrade(stream, path, headers).await?, id: String::new() };
        let start = page.message().await.expect("a start message");
        assert_eq!(start["action"], "start");
        page.id = start["body"].as_str().expect("an id").to_owned();
        Ok(page)
    }

    /// Sends a text message.
    pub async fn send_text(&mut self, text: &str) {
        self.socket.send(Message::text(text)).await.expect("an open socket");
    }

    /// Subscribes, and waits until that is done.
    pub async fn subscribe(&mut self, name: &str) {
        self.send_text(&format!(r#"{{"action":"subscribe","name":"{name}"}}"#)).await;
        self.barrier().await;
    }

    /// The next message, or how the socket ended.
    pub async fn message(&mut self) -> Result<Value, End> {
        loop {
            let next = tokio::time::timeout(Duration::from_secs(20), self.socket.next());
            match next.await.expect("a message within 20 s") {
                Some(Ok(Message::Text(text))) => return Ok(serde_json::from_str(&text).expect("JSON")),
                Some(Ok(Message::Close(Some(CloseFrame { code, reason })))) => {
                    return Err(End::Close(code.into(), reason.to_string()));
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(other)) => panic!("unexpected {other:?}"),
                Some(Err(_)) | None => return Err(End::Gone),
            }
        }
    }

    /// The type and the object of the next event, which must be one of `events`.
    pub async fn event(&mut self) -> (String, Value) {
        let message = self.message().await.expect("an event");
        assert_eq!(message["action"], "event", "{message}");
        assert_eq!(message["body"]["name"], "events", "{message}");
        let value = &message["body"]["value"];
        (value["type"].as_str().expect("a type").to_owned(), value["event"].clone())
    }

    /// Waits until the server has acted on everything sent so far.
    pub async fn barrier(&mut self) {
        let tag = Bytes::from_static(b"barrier");
        self.socket.send(Message::Ping(tag.clone())).await.expect("an open socket");
        loop {
            let next = tokio::time::timeout(Duration::from_secs(20), self.socket.next());
            match next.await.expect("a pong within 20 s").expect("an open socket").expect("a good frame") {
                Message::Pong(payload) if payload == tag => return,
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("unexpected {other:?}"),
            }
        }
    }

    /// Everything received of `events` up to this moment: the values in order. A marker sent now comes last, so that
    /// nothing can still be in flight.
    pub async fn received(&mut self, live: &LiveUpdates) -> Vec<Value> {
        self.received_of("events", live).await
    }

    /// As `received`, with the marker on another entity that the page has subscribed.
    pub async fn received_of(&mut self, entity: &str, live: &LiveUpdates) -> Vec<Value> {
        live.send(entity, &serde_json::json!({"type": "marker"})).expect("a configured entity");
        let mut received = Vec::new();
        loop {
            let message = self.message().await.expect("an open socket");
            if message["body"]["value"]["type"] == "marker" {
                return received;
            }
            received.push(message["body"]["value"].clone());
        }
    }

    /// Reads on until the socket ends.
    pub async fn end(&mut self) -> End {
        loop {
            if let Err(end) = self.message().await {
                return end;
            }
        }
    }
}

/// The upgrade alone.
pub async fn upgrade<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    path: &str,
    headers: &[(&str, &str)],
) -> Result<WebSocketStream<S>, tungstenite::Error> {
    let mut request = Request::get(format!("ws://live.example{path}"))
        .header(header::HOST, "live.example")
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_VERSION, "13")
        .header(header::SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ==");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let (socket, _) = client_async(request.body(()).expect("a good request"), stream).await?;
    Ok(socket)
}

/// Waits until something has come true on the server's side that no message shows.
pub async fn until(what: &str, is_true: impl Fn() -> bool) {
    let wait = async {
        while !is_true() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap_or_else(|_| panic!("{what} within 20 s"));
}

/// A body whose length is known.
pub fn full(body: impl Into<Bytes>) -> Full<Bytes> {
    Full::new(body.into())
}

/// A JSON answer.
pub fn json(status: u16, body: &str) -> Response<Full<Bytes>> {
    Response::builder()
        .status(StatusCode::from_u16(status).expect("a status"))
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::from(body.to_owned()))
        .expect("a good response")
}

/// Reads a request's body whole, as a handler does.
pub async fn read<B>(request: Request<B>) -> Result<Bytes, BoxError>
where
    B: http_body::Body,
    B::Error: Into<BoxError>,
{
    Ok(request.into_body().collect().await.map_err(Into::into)?.to_bytes())
}

/// A handler that reads the body and answers as DHTMLX back ends do: a create gets the id 17.
pub async fn usual(request: Request<RequestBody<Incoming>>) -> Response<Full<Bytes>> {
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    if !path.starts_with("/events") {
        return json(404, r#"{"error":"not here"}"#);
    }
    if read(request).await.is_err() {
        return json(400, r#"{"action":"error"}"#);
    }
    match method {
        Method::POST => json(200, r#"{"action":"inserted","tid":"17"}"#),
        Method::PUT | Method::PATCH => json(200, r#"{"action":"updated"}"#),
        Method::DELETE => json(200, r#"{"action":"deleted"}"#),
        _ => json(200, "[]"),
    }
}
