//! Capturing leaves requests and responses as they are, and each write is broadcast exactly once.

use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Channel, Empty, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{Notify, mpsc},
};
use tower::{Layer, ServiceExt, service_fn};
use tower_live_updates::{LiveUpdates, body::RequestBody};

use crate::support::{AnyResponse, BoxError, Server, builder, full, json as answer, live, read};

const MB: usize = 1024 * 1024;

/// What the client sends to `PUT /events/7`, and what is broadcast then, unless the response knows better.
const SENT: &str = r#"{"text":"a"}"#;

fn expected_broadcast() -> Vec<Value> {
    vec![json!({"type": "update-event", "event": {"text": "a", "id": "7"}})]
}

fn boxed<B>(response: Response<B>) -> AnyResponse
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    response.map(|body| body.map_err(Into::into).boxed_unsync())
}

fn of_type(kind: &str, body: UnsyncBoxBody<Bytes, BoxError>) -> AnyResponse {
    Response::builder().header(header::CONTENT_TYPE, kind).body(body).expect("a good response")
}

/// A body of these pieces, which promises no length.
fn chunks(pieces: Vec<Bytes>) -> UnsyncBoxBody<Bytes, BoxError> {
    let frames = pieces.into_iter().map(|piece| Ok::<_, BoxError>(Frame::data(piece)));
    StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync()
}

/// A body that ends in an error.
fn broken(piece: &'static [u8]) -> UnsyncBoxBody<Bytes, BoxError> {
    let frames = [Ok(Frame::data(Bytes::from_static(piece))), Err(BoxError::from("the disk is gone"))];
    StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync()
}

/// A server that reads the request and answers with `make`'s answer.
fn answering(live: &LiveUpdates, make: impl Fn() -> AnyResponse + Clone + Send + Sync + 'static) -> Server {
    Server::layered(&live.layer(), move |request| {
        let make = make.clone();
        async move {
            read(request).await.expect("a whole request");
            make()
        }
    })
}

#[tokio::test]
async fn every_shape_of_response_arrives_as_it_was_made_and_is_broadcast_once() {
    const UPDATED: &[u8] = br#"{"action":"updated"}"#;
    let pieces = || vec![Bytes::from_static(&UPDATED[..5]), Bytes::new(), Bytes::from_static(&UPDATED[5..])];
    let shapes: [(&str, Option<&str>, &[u8], Arc<dyn Fn() -> AnyResponse + Send + Sync>); 5] = [
        ("of known length", Some("20"), UPDATED, Arc::new(|| boxed(answer(200, r#"{"action":"updated"}"#)))),
        (
            "a stream with a content-length",
            Some("20"),
            UPDATED,
            Arc::new(move || {
                let mut response = of_type("application/json", chunks(pieces()));
                response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from_static("20"));
                response
            }),
        ),
        ("chunked", None, UPDATED, Arc::new(move || of_type("application/json", chunks(pieces())))),
        ("empty", Some("0"), b"", Arc::new(|| boxed(Response::new(Empty::new())))),
        ("an empty stream", None, b"", Arc::new(|| of_type("application/json", chunks(vec![])))),
    ];
    for (shape, length, body, make) in shapes {
        let live = live();
        let server = answering(&live, move || make());
        let mut page = server.subscribed().await;
        let response = server.write(Method::PUT, "/events/7", SENT).await;
        assert_eq!(response.body(), body, "{shape}");
        let stated = response.headers().get(header::CONTENT_LENGTH).map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(stated.as_deref(), length, "{shape}");
        assert_eq!(response.headers().contains_key(header::TRANSFER_ENCODING), length.is_none(), "{shape}");
        assert_eq!(page.received(&live).await, expected_broadcast(), "{shape}");
    }
}

#[tokio::test]
async fn trailers_are_kept() {
    let live = live();
    let server = answering(&live, || {
        let mut trailers = HeaderMap::new();
        trailers.insert("checksum", HeaderValue::from_static("abc"));
        let frames = [Ok::<_, BoxError>(Frame::data(Bytes::from_static(b"{}"))), Ok(Frame::trailers(trailers))];
        let body = StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync();
        let mut response = of_type("application/json", body);
        response.headers_mut().insert(header::TRAILER, HeaderValue::from_static("checksum"));
        response
    });
    let mut page = server.subscribed().await;
    let request = Request::put("/events/7").header(header::TE, "trailers").body(full(SENT)).unwrap();
    let body = server.start(request).await.unwrap().into_body().collect().await.unwrap();
    assert_eq!(body.trailers().expect("trailers")["checksum"], "abc");
    assert_eq!(body.to_bytes(), "{}");
    assert_eq!(page.received(&live).await, expected_broadcast());
}

#[tokio::test]
async fn a_response_over_the_limit_arrives_whole_and_the_change_comes_from_the_request() {
    let large = format!(r#"{{"item":{{"id":7,"text":"{}"}}}}"#, "x".repeat(10 * MB));
    for declared in [true, false] {
        let live = live();
        let body = Bytes::from(large.clone());
        let given = body.clone();
        let server = answering(&live, move || {
            let body = given.clone();
            if declared {
                of_type("application/json", Full::new(body).map_err(|never| match never {}).boxed_unsync())
            } else {
                let pieces = (0..body.len()).step_by(100_000);
                let end = |at: usize| usize::min(at + 100_000, body.len());
                of_type("application/json", chunks(pieces.map(|at| body.slice(at..end(at))).collect()))
            }
        });
        let mut page = server.subscribed().await;
        let response = server.write(Method::PUT, "/events/7", SENT).await;
        assert!(*response.body() == body, "declared: {declared}");
        assert_eq!(response.headers().contains_key(header::CONTENT_LENGTH), declared);
        assert_eq!(page.received(&live).await, expected_broadcast(), "declared: {declared}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_endless_stream_of_events_begins_at_once() {
    for (method, path) in [(Method::POST, "/events"), (Method::GET, "/events"), (Method::POST, "/feed")] {
        let live = live();
        let open: Arc<std::sync::Mutex<Vec<_>>> = Arc::default();
        let kept = open.clone();
        let server = Server::layered(&live.layer(), move |request| {
            let kept = kept.clone();
            async move {
                read(request).await.expect("a whole request");
                let (mut sender, body) = Channel::<Bytes, BoxError>::new(2);
                sender.send_data(Bytes::from_static(b"data: 1\n\n")).await.expect("a reader");
                kept.lock().unwrap().push(sender);
                let mut response = of_type("text/event-stream", body.boxed_unsync());
                response.headers_mut().insert(header::LOCATION, "/events/17".parse().unwrap());
                response
            }
        });
        let mut page = server.subscribed().await;
        let sent = r#"{"id":"mine","start_date":"2025-04-21 10:00","end_date":"2025-04-21 11:00"}"#;
        let request = Request::builder().method(&method).uri(path).body(full(sent)).unwrap();
        let began = tokio::time::Instant::now();
        let mut body = server.start(request).await.unwrap().into_body();
        assert!(began.elapsed() < Duration::from_secs(1), "{method} {path}");
        let first = body.frame().await.expect("a frame").unwrap().into_data().unwrap();
        assert_eq!(first, "data: 1\n\n");
        assert_eq!(open.lock().unwrap().len(), 1, "the stream goes on");
        let received = page.received(&live).await;
        if (&method, path) == (&Method::POST, "/events") {
            assert_eq!(received.len(), 1, "{received:?}");
            assert_eq!(received[0]["event"]["id"], "17");
        } else {
            assert!(received.is_empty(), "{method} {path}: {received:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn json_that_never_ends_passes_on_after_the_response_timeout() {
    let live = builder().tokens(["demo"]).response_timeout(Duration::from_secs(3)).build().unwrap();
    let (give, take) = mpsc::channel::<Frame<Bytes>>(4);
    let take = Arc::new(std::sync::Mutex::new(Some(take)));
    let server = Server::layered(&live.layer(), move |request| {
        let take = take.clone();
        async move {
            read(request).await.expect("a whole request");
            let mut frames = take.lock().unwrap().take().expect("one request");
            let frames = futures_util::stream::poll_fn(move |cx| frames.poll_recv(cx)).map(Ok::<_, BoxError>);
            of_type("application/json", StreamBody::new(frames).boxed_unsync())
        }
    });
    let mut page = server.subscribed().await;
    give.send(Frame::data(Bytes::from_static(b"{\"action\":"))).await.unwrap();
    let began = tokio::time::Instant::now();
    let request = Request::put("/events/7").body(full(SENT)).unwrap();
    let mut body = server.start(request).await.unwrap().into_body();
    assert_eq!(began.elapsed().as_secs(), 3);
    assert_eq!(
        page.received(&live).await,
        expected_broadcast(),
        "broadcast from the request, before the response goes on"
    );
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "{\"action\":");
    give.send(Frame::data(Bytes::from_static(b"\"updated\"}"))).await.unwrap();
    drop(give);
    assert_eq!(body.collect().await.unwrap().to_bytes(), "\"updated\"}");
    assert!(page.received(&live).await.is_empty(), "once");
}

#[tokio::test]
async fn a_response_that_breaks_off_breaks_off_at_the_client_and_is_not_broadcast() {
    let live = live();
    let server = answering(&live, || of_type("application/json", broken(b"{\"action\":")));
    let mut page = server.subscribed().await;
    let request = Request::put("/events/7").body(full(SENT)).unwrap();
    // hyper closes the connection, at once where nothing of the answer is written yet.
    let arrived = match server.start(request).await {
        Ok(response) => response.into_body().collect().await,
        Err(error) => Err(error),
    };
    assert!(arrived.is_err(), "{arrived:?}");
    assert!(page.received(&live).await.is_empty());
    assert_eq!(live.stats().writes_unpublished, 1);
}

#[tokio::test]
async fn the_error_that_breaks_an_answer_off_is_the_inner_services_own() {
    let live = live();
    let service = live.layer().layer(service_fn(|request: Request<RequestBody<Full<Bytes>>>| async move {
        read(request).await.expect("a whole request");
        Ok::<_, Infallible>(of_type("application/json", broken(b"{")))
    }));
    let request = Request::put("/events/7").body(full(SENT)).unwrap();
    let mut body = service.oneshot(request).await.unwrap().into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "{", "what came before it is given on");
    assert_eq!(body.collect().await.unwrap_err().to_string(), "the disk is gone");
}

#[tokio::test]
async fn a_compressed_response_is_left_alone_and_the_change_comes_from_the_request() {
    const COMPRESSED: &[u8] =
        b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xab\xae\x05\x00\x43\xbf\xa6\xa3\x02\x00\x00\x00";
    let live = live();
    let server = answering(&live, || {
        let body = full(COMPRESSED).map_err(|never: Infallible| match never {}).boxed_unsync();
        let mut response = of_type("application/json", body);
        response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        response
    });
    let mut page = server.subscribed().await;
    for method in [Method::PUT, Method::DELETE, Method::POST] {
        let path = if method == Method::POST { "/events" } else { "/events/7" };
        let sent = if method == Method::DELETE { "" } else { SENT };
        assert_eq!(server.write(method, path, sent).await.body(), COMPRESSED);
    }
    let mut expected = expected_broadcast();
    expected.push(json!({"type": "delete-event", "event": {"id": "7"}}));
    assert_eq!(page.received(&live).await, expected);
    assert_eq!(live.stats().writes_unpublished, 1, "the create's id is in the compressed answer alone");
}

#[tokio::test]
async fn a_client_that_never_reads_its_answer_holds_nothing_up() {
    let live = live();
    let server =
        answering(&live, || boxed(answer(200, &format!(r#"{{"action":"updated","x":"{}"}}"#, "x".repeat(500_000)))));
    let mut page = server.subscribed().await;
    let mut stream = server.connect_with(512);
    let request = format!("PUT /events/7 HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{SENT}", SENT.len());
    stream.write_all(request.as_bytes()).await.unwrap();
    assert_eq!(page.event().await, ("update-event".to_owned(), json!({"text": "a", "id": "7"})));
    drop(stream);
}

#[tokio::test]
async fn a_client_that_expects_100_continue_gets_it_when_the_handler_reads() {
    tokio::time::pause();
    let live = live();
    let go = Arc::new(Notify::new());
    let wait = go.clone();
    let server = Server::layered(&live.layer(), move |request| {
        let wait = wait.clone();
        async move {
            wait.notified().await;
            read(request).await.expect("a whole request");
            answer(200, r#"{"action":"updated"}"#)
        }
    });
    let mut page = server.subscribed().await;
    let mut stream = server.connect();
    let head = format!(
        "PUT /events/7 HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        SENT.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // The clock stands still until every task waits for something: by then, nothing can come any more.
    let early = tokio::time::timeout(Duration::from_secs(1), stream.read_u8()).await;
    assert!(early.is_err(), "the interim response came before the handler read");
    go.notify_one();
    let mut interim = [0; 25];
    stream.read_exact(&mut interim).await.unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(SENT.as_bytes()).await.unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    assert!(rest.starts_with("HTTP/1.1 200 OK\r\n"), "{rest}");
    assert_eq!(page.received(&live).await, expected_broadcast());
}

#[tokio::test]
async fn a_chunked_request_is_broadcast_whole() {
    let live = live();
    let server = answering(&live, || boxed(answer(200, r#"{"action":"updated"}"#)));
    let mut page = server.subscribed().await;
    let pieces = SENT.as_bytes().chunks(1).map(Bytes::copy_from_slice).collect();
    let request = Request::put("/events/7").body(chunks(pieces)).unwrap();
    server.start(request).await.unwrap().into_body().collect().await.unwrap();
    assert_eq!(page.received(&live).await, expected_broadcast());
}

/// How much of a request a handler reads, and what can be broadcast without its object.
#[tokio::test]
async fn a_request_that_was_not_read_to_its_end_is_no_object() {
    #[derive(Clone, Copy, Debug)]
    enum Reads {
        All,
        FirstFrame,
        Nothing,
    }
    let long = format!(r#"{{"text":"{}"}}"#, "x".repeat(100));
    // All of the object, and yet not all of the body.
    let padded = format!("{SENT} ");
    for (reads, sent) in [(Reads::All, &long), (Reads::FirstFrame, &padded), (Reads::Nothing, &padded)] {
        for with_item in [true, false] {
            let live = builder().tokens(["demo"]).max_body_bytes(64).build().unwrap();
            let got = Arc::new(AtomicUsize::new(0));
            let count = got.clone();
            let server = Server::layered(&live.layer(), move |request: Request<RequestBody<Incoming>>| {
                let count = count.clone();
                async move {
                    let mut body = request.into_body();
                    let most = match reads {
                        Reads::All => usize::MAX,
                        Reads::FirstFrame => 1,
                        Reads::Nothing => 0,
                    };
                    for _ in 0..most {
                        let Some(frame) = body.frame().await else { break };
                        count.fetch_add(frame.unwrap().into_data().unwrap().len(), Ordering::Relaxed);
                    }
                    answer(200, if with_item { r#"{"item":{"id":7,"text":"row"}}"# } else { r#"{"action":"updated"}"# })
                }
            });
            let mut page = server.subscribed().await;
            let (first, second) = sent.split_at(SENT.len());
            let pieces = vec![Bytes::from(first.to_owned()), Bytes::from(second.to_owned())];
            let request = Request::put("/events/7").body(chunks(pieces)).unwrap();
            server.start(request).await.unwrap().into_body().collect().await.unwrap();
            let received = page.received(&live).await;
            if with_item {
                let row = json!({"type": "update-event", "event": {"id": 7, "text": "row"}});
                assert_eq!(received, [row], "{reads:?}");
            } else {
                assert!(received.is_empty(), "{reads:?}: {received:?}");
                assert_eq!(live.stats().writes_unpublished, 1, "{reads:?}");
            }
            if let Reads::All = reads {
                assert_eq!(got.load(Ordering::Relaxed), long.len(), "all of it reached the handler");
            }
        }
    }
}

#[tokio::test]
async fn a_delete_needs_no_body_read() {
    let live = live();
    let server = Server::layered(&live.layer(), |_| async { answer(200, "") });
    let mut page = server.subscribed().await;
    server.write(Method::DELETE, "/events/7", "{\"reason\":\"x\"}").await;
    assert_eq!(page.received(&live).await, [json!({"type": "delete-event", "event": {"id": "7"}})]);
}

#[tokio::test]
async fn a_request_that_breaks_off_is_not_broadcast() {
    for status in [200, 400] {
        let live = live();
        let server = Server::layered(&live.layer(), |_| async { answer(200, "") });
        let mut page = server.subscribed().await;
        let service = live.layer().layer(service_fn(move |request: Request<RequestBody<_>>| async move {
            let error = read(request).await.expect_err("a broken request");
            assert_eq!(error.to_string(), "the disk is gone", "the body's own error");
            Ok::<_, Infallible>(answer(status, r#"{"action":"updated"}"#))
        }));
        let request = Request::put("/events/7").body(broken(b"{\"text\"")).unwrap();
        assert_eq!(service.oneshot(request).await.unwrap().status(), status);
        assert!(page.received(&live).await.is_empty());
        assert_eq!(live.stats().writes_unpublished, u64::from(status == 200));
    }
}

/// A body of given frames; its size hint varies.
#[derive(Clone, Debug)]
struct Script {
    frames: VecDeque<Piece>,
    exact: bool,
    /// Whether it knows its end before it is asked for one more frame.
    knows_end: bool,
}

#[derive(Clone, Debug, PartialEq)]
enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
}

impl Script {
    fn bytes(&self) -> u64 {
        self.frames.iter().map(|piece| if let Piece::Data(data) = piece { data.len() as u64 } else { 0 }).sum()
    }
}

impl Body for Script {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.frames.pop_front().map(|piece| {
            Ok(match piece {
                Piece::Data(data) => Frame::data(data),
                Piece::Trailers(trailers) => Frame::trailers(trailers),
            })
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.knows_end && self.frames.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        if self.exact { SizeHint::with_exact(self.bytes()) } else { SizeHint::default() }
    }
}

/// Reads a body to its end, checking its size hints.
async fn truthful<B>(body: B, exact: bool) -> Vec<Piece>
where
    B: Body<Data = Bytes>,
    B::Error: std::fmt::Debug,
{
    let mut body = std::pin::pin!(body);
    let mut hints = Vec::new();
    let mut pieces = Vec::new();
    loop {
        hints.push((pieces.len(), body.size_hint()));
        let over = body.is_end_stream();
        let Some(frame) = body.frame().await else { break };
        assert!(!over, "a frame after the end of the stream");
        pieces.push(match frame.expect("no error").into_data() {
            Ok(data) => Piece::Data(data),
            Err(frame) => Piece::Trailers(frame.into_trailers().expect("data or trailers")),
        });
    }
    for (at, hint) in hints {
        let rest: u64 =
            pieces[at..].iter().map(|piece| if let Piece::Data(data) = piece { data.len() as u64 } else { 0 }).sum();
        assert!(hint.lower() <= rest, "at least {} promised, {rest} came", hint.lower());
        assert!(hint.upper().is_none_or(|upper| rest <= upper), "at most {:?} promised, {rest} came", hint.upper());
        assert_eq!(hint.exact().is_some_and(|_| exact), exact, "a known length stays known, an unknown one unknown");
    }
    pieces
}

fn scripts() -> impl Strategy<Value = Script> {
    // Sizes around the limit of 64 bytes.
    (proptest::collection::vec(0_usize..40, 0..6), any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
        |(sizes, exact, knows_end, trailers)| {
            let mut frames: VecDeque<Piece> =
                sizes.into_iter().map(|size| Piece::Data(Bytes::from(vec![b'1'; size]))).collect();
            if trailers {
                frames
                    .push_back(Piece::Trailers(HeaderMap::from_iter([(header::ETAG, HeaderValue::from_static("x"))])));
            }
            Script { frames, exact, knows_end }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bodies_pass_frame_by_frame_with_true_size_hints(request in scripts(), response in scripts(), json: bool) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let live = builder().tokens(["demo"]).max_body_bytes(64).build().unwrap();
            let (sent, given) = (request.clone(), response.clone());
            let service = live.layer().layer(service_fn(move |got: Request<RequestBody<Script>>| {
                let (sent, given) = (sent.clone(), given.clone());
                async move {
                    let pieces = truthful(got.into_body(), sent.exact).await;
                    assert_eq!(pieces, Vec::from(sent.frames));
                    let kind = if json { "application/json" } else { "text/plain" };
                    Ok::<_, Infallible>(Response::builder().header(header::CONTENT_TYPE, kind).body(given).unwrap())
                }
            }));
            let answered = service.oneshot(Request::put("/events/7").body(request).unwrap()).await.unwrap();
            let pieces = truthful(answered.into_body(), response.exact).await;
            assert_eq!(pieces, Vec::from(response.frames));
        });
    }
}
