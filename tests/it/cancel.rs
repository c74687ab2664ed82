//! A write whose client goes away after the commit is finished and broadcast, once.

use std::{
    convert::Infallible,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Semaphore,
};
use tower::{Layer, Service, ServiceBuilder, service_fn, timeout::TimeoutLayer};
use tower_http::catch_panic::CatchPanicLayer;
use tower_live_updates::{LiveUpdates, body::RequestBody};

use crate::support::{BoxError, Server, TOKEN, builder, full, json as answer, live, read, until};

const PUT: &str = "PUT /events/7 HTTP/1.1\r\nhost: x\r\ncontent-length: 12\r\n\r\n{\"text\":\"a\"}";

/// A handler that commits, and is then held until the test lets it go on.
#[derive(Clone)]
struct Store {
    committed: Arc<AtomicUsize>,
    finished: Arc<AtomicUsize>,
    go: Arc<Semaphore>,
}

impl Store {
    fn new() -> Self {
        Self { committed: Arc::default(), finished: Arc::default(), go: Arc::new(Semaphore::new(0)) }
    }

    async fn commit<B>(self, request: Request<B>) -> Result<Response<Full<Bytes>>, Infallible>
    where
        B: http_body::Body,
        B::Error: Into<BoxError>,
    {
        read(request).await.expect("a whole request");
        self.committed.fetch_add(1, Ordering::Relaxed);
        self.go.acquire().await.expect("an open gate").forget();
        self.finished.fetch_add(1, Ordering::Relaxed);
        Ok(answer(200, r#"{"action":"updated"}"#))
    }

    fn server(&self, live: &LiveUpdates) -> Server {
        let store = self.clone();
        let inner = service_fn(move |request: Request<RequestBody<_>>| store.clone().commit(request));
        Server::new(live.layer().layer(inner))
    }

    async fn committed(&self, count: usize) {
        until("the commit", || self.committed.load(Ordering::Relaxed) == count).await;
    }

    /// Checks that the write goes on without its client, and is broadcast once.
    async fn finishes(&self, page: &mut crate::support::Page, live: &LiveUpdates) {
        until("the client's departure is noticed", || live.stats().detached_writes == 1).await;
        assert!(page.received(live).await.is_empty(), "not before the handler has answered");
        self.go.add_permits(1);
        assert_eq!(page.event().await, ("update-event".to_owned(), json!({"text": "a", "id": "7"})));
        assert!(page.received(live).await.is_empty(), "once");
        assert_eq!(self.finished.load(Ordering::Relaxed), 1);
        until("its permit is free", || live.stats().detached_writes == 0).await;
        assert_eq!((live.stats().writes_detached, live.stats().writes_dropped), (1, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_closes_its_connection_loses_nothing() {
    let (live, store) = (live(), Store::new());
    let server = store.server(&live);
    let mut page = server.subscribed().await;
    let mut stream = server.connect();
    stream.write_all(PUT.as_bytes()).await.unwrap();
    store.committed(1).await;
    drop(stream);
    store.finishes(&mut page, &live).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_closes_its_sending_side_loses_nothing() {
    let (live, store) = (live(), Store::new());
    let server = store.server(&live);
    let mut page = server.subscribed().await;
    let mut stream = server.connect();
    stream.write_all(PUT.as_bytes()).await.unwrap();
    store.committed(1).await;
    stream.shutdown().await.unwrap();
    store.finishes(&mut page, &live).await;
    assert_eq!(stream.read(&mut [0; 8]).await.unwrap(), 0, "hyper closes such a connection without an answer");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_resets_its_http2_stream_loses_nothing() {
    let (live, store) = (live(), Store::new());
    let server = store.server(&live);
    let mut page = server.subscribed().await;
    let mut client = server.h2::<Full<Bytes>>().await;
    let request = Request::put("http://x/events/7").body(full(r#"{"text":"a"}"#)).unwrap();
    let response = client.send_request(request);
    let waiting = tokio::spawn(response);
    store.committed(1).await;
    waiting.abort();
    store.finishes(&mut page, &live).await;
}

#[tokio::test(start_paused = true)]
async fn a_timeout_outside_the_layer_loses_nothing() {
    let (live, store) = (live(), Store::new());
    let held = store.clone();
    let service = ServiceBuilder::new()
        .layer(TimeoutLayer::new(Duration::from_millis(50)))
        .layer(live.layer())
        .service_fn(move |request: Request<RequestBody<_>>| held.clone().commit(request));
    let server = Server::new(service);
    let mut page = server.subscribed().await;
    let request = Request::put("/events/7").body(full(r#"{"text":"a"}"#)).unwrap();
    assert!(server.start(request).await.is_err(), "tower's timeout is an error, which ends the connection");
    assert_eq!(store.committed.load(Ordering::Relaxed), 1);
    store.finishes(&mut page, &live).await;
}

#[tokio::test(start_paused = true)]
async fn with_finishing_switched_off_such_a_write_is_given_up_and_counted() {
    let (live, store) = (builder().tokens([TOKEN]).max_detached_writes(0).build().unwrap(), Store::new());
    let server = store.server(&live);
    let mut page = server.subscribed().await;
    let mut stream = server.connect();
    stream.write_all(PUT.as_bytes()).await.unwrap();
    store.committed(1).await;
    drop(stream);
    until("it is given up", || live.stats().writes_dropped == 1).await;
    store.go.add_permits(1);
    assert!(page.received(&live).await.is_empty());
    assert_eq!((store.finished.load(Ordering::Relaxed), live.stats().writes_detached), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn more_than_the_allowed_number_are_given_up_and_counted() {
    let (live, store) = (builder().tokens([TOKEN]).max_detached_writes(2).build().unwrap(), Store::new());
    let server = store.server(&live);
    let mut page = server.subscribed().await;
    for id in 1..=3 {
        let mut stream = server.connect();
        stream.write_all(PUT.replace("/7", &format!("/{id}")).as_bytes()).await.unwrap();
        store.committed(id).await;
        drop(stream);
        let gone = || live.stats().writes_detached + live.stats().writes_dropped == id as u64;
        until("the client's departure is noticed", gone).await;
    }
    assert_eq!((live.stats().detached_writes, live.stats().writes_dropped), (2, 1));
    store.go.add_permits(3);
    let mut received = [page.event().await.1["id"].clone(), page.event().await.1["id"].clone()];
    received.sort_by_key(ToString::to_string);
    assert_eq!(received, ["1", "2"]);
    assert!(page.received(&live).await.is_empty());
    until("their permits are free again", || live.stats().detached_writes == 0).await;
}

#[tokio::test(start_paused = true)]
async fn shutting_down_waits_for_writes_without_a_client() {
    let (live, store) = (live(), Store::new());
    let server = store.server(&live);
    let mut stream = server.connect();
    stream.write_all(PUT.as_bytes()).await.unwrap();
    store.committed(1).await;
    drop(stream);
    until("the client's departure is noticed", || live.stats().detached_writes == 1).await;

    let mut shutdown = std::pin::pin!(live.shutdown());
    let early = tokio::time::timeout(Duration::from_secs(4), shutdown.as_mut()).await;
    assert!(early.is_err(), "a write is still being finished");
    store.go.add_permits(1);
    shutdown.await;
    assert_eq!((live.stats().detached_writes, live.stats().changes_published), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn shutting_down_does_not_wait_for_ever() {
    let (live, store) =
        (builder().tokens([TOKEN]).drain_timeout(Duration::from_secs(2)).build().unwrap(), Store::new());
    let server = store.server(&live);
    let mut stream = server.connect();
    stream.write_all(PUT.as_bytes()).await.unwrap();
    store.committed(1).await;
    drop(stream);
    until("the client's departure is noticed", || live.stats().detached_writes == 1).await;
    let began = tokio::time::Instant::now();
    live.shutdown().await;
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_panics_is_not_run_again_and_broadcasts_nothing() {
    let live = live();
    let runs = Arc::new(AtomicUsize::new(0));
    let count = runs.clone();
    let service = ServiceBuilder::new().layer(CatchPanicLayer::new()).layer(live.layer()).service_fn(
        move |request: Request<RequestBody<_>>| {
            let count = count.clone();
            async move {
                let body = read(request).await.expect("a whole request");
                count.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
                assert!(body != "\"panic\"", "this handler panics");
                Ok::<_, Infallible>(answer(200, r#"{"action":"updated"}"#))
            }
        },
    );
    let server = Server::new(service);
    let mut page = server.subscribed().await;
    let response = server.write(http::Method::PUT, "/events/7", "\"panic\"").await;
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert!(page.received(&live).await.is_empty());
    assert_eq!((runs.load(Ordering::Relaxed), live.stats().writes_detached), (1, 0));

    let began = tokio::time::Instant::now();
    server.write(http::Method::PUT, "/events/7", r#"{"text":"b"}"#).await;
    assert!(began.elapsed() < Duration::from_secs(1), "its keyed lock was released");
    assert_eq!(page.received(&live).await.len(), 1);
}

#[tokio::test]
async fn a_write_that_was_never_begun_is_not_run() {
    let live = live();
    let runs = Arc::new(AtomicUsize::new(0));
    let count = runs.clone();
    let mut service = live.layer().layer(service_fn(move |_: Request<RequestBody<Full<Bytes>>>| {
        let count = count.clone();
        async move {
            count.fetch_add(1, Ordering::Relaxed);
            Ok::<_, Infallible>(answer(200, r#"{"tid":1}"#))
        }
    }));
    drop(service.call(Request::post("/events").body(full("{}")).unwrap()));
    live.shutdown().await;
    assert_eq!(runs.load(Ordering::Relaxed), 0);
    assert_eq!((live.stats().writes_detached, live.stats().writes_dropped), (0, 0));
}

#[test]
fn a_write_dropped_where_no_runtime_is_left_is_counted() {
    let live = live();
    let mut service = live.layer().layer(service_fn(async |_: Request<RequestBody<Full<Bytes>>>| {
        std::future::pending::<()>().await;
        Ok::<_, Infallible>(answer(200, r#"{"tid":1}"#))
    }));
    let write = service.call(Request::post("/events").body(full("{}")).unwrap());
    assert!(write.now_or_never().is_none());
    assert_eq!((live.stats().writes_detached, live.stats().writes_dropped), (0, 1));
}

/// A handler that reads its body, or tries to, and then takes its time; counts the commits.
async fn slowly<B>(
    request: Request<B>,
    commits: Arc<AtomicUsize>,
    time: Duration,
) -> Result<Response<Full<Bytes>>, Infallible>
where
    B: http_body::Body,
    B::Error: Into<BoxError>,
{
    let Ok(body) = read(request).await else { return Ok(answer(400, "{}")) };
    commits.fetch_add(usize::from(!body.is_empty()), Ordering::Relaxed);
    tokio::time::sleep(time).await;
    Ok(answer(200, r#"{"action":"updated"}"#))
}

#[tokio::test(start_paused = true)]
async fn a_write_that_waits_for_the_keyed_lock_without_its_client_is_not_half_read() {
    let live = builder().tokens([TOKEN]).write_lock_timeout(Duration::from_secs(60)).build().unwrap();
    let commits = Arc::new(AtomicUsize::new(0));
    let count = commits.clone();
    let server = Server::layered(&live.layer(), move |request| {
        slowly(request, count.clone(), Duration::from_secs(8)).map(Result::unwrap)
    });
    let mut page = server.subscribed().await;
    let (mut first, mut second) = (server.connect(), server.connect());
    first.write_all(PUT.as_bytes()).await.unwrap();
    until("the commit", || commits.load(Ordering::Relaxed) == 1).await;
    second.write_all(PUT.as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    drop(second);
    until("the client's departure is noticed", || live.stats().detached_writes == 1).await;
    // Keyed lock and handler take longer together than a body may.
    for _ in 0..2 {
        assert_eq!(page.event().await.1["text"], "a");
    }
    assert_eq!((commits.load(Ordering::Relaxed), live.stats().writes_dropped), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_write_whose_body_does_not_arrive_holds_the_keyed_lock_only_briefly() {
    for sent in ["", "{\"text\":"] {
        let live = builder().tokens([TOKEN]).max_detached_writes(100).build().unwrap();
        let commits = Arc::new(AtomicUsize::new(0));
        let count = commits.clone();
        let service =
            ServiceBuilder::new().layer(TimeoutLayer::new(Duration::from_millis(50))).layer(live.layer()).service_fn(
                move |request: Request<RequestBody<_>>| slowly(request, count.clone(), Duration::from_secs(20)),
            );
        // The bodies stay open although their requests are over.
        let mut bodies = Vec::new();
        for _ in 0..100 {
            let (mut send, body) = http_body_util::Channel::<Bytes, BoxError>::new(2);
            send.send_data(Bytes::from_static(sent.as_bytes())).await.unwrap();
            bodies.push(send);
            let request = Request::post("/events").body(body).unwrap();
            assert!(tower::ServiceExt::oneshot(service.clone(), request).await.is_err());
        }
        assert!(live.stats().detached_writes > 0);
        until("they are given up", || live.stats().detached_writes == 0).await;
        assert_eq!((live.stats().writes_dropped, commits.load(Ordering::Relaxed)), (100, 0), "{sent:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_reads_nothing_or_has_read_all_has_its_own_time() {
    let live = live();
    let service = ServiceBuilder::new()
        .layer(TimeoutLayer::new(Duration::from_millis(50)))
        .layer(live.layer())
        .service_fn(async |request: Request<RequestBody<http_body_util::Channel<Bytes, BoxError>>>| {
            let (parts, mut body) = request.into_parts();
            if parts.uri.path().ends_with('7') {
                drop(tokio::time::timeout(Duration::from_millis(1), body.frame()).await);
                drop(body);
            }
            tokio::time::sleep(Duration::from_secs(12)).await;
            Ok::<_, Infallible>(answer(200, r#"{"item":{"id":7,"text":"a"}}"#))
        });
    let mut bodies = Vec::new();
    for path in ["/events/7", "/events/8"] {
        let (send, body) = http_body_util::Channel::<Bytes, BoxError>::new(2);
        bodies.push(send);
        assert!(tower::ServiceExt::oneshot(service.clone(), Request::put(path).body(body).unwrap()).await.is_err());
    }
    until("they are finished", || live.stats().detached_writes == 0).await;
    assert_eq!((live.stats().writes_dropped, live.stats().changes_published), (0, 2));
}

#[tokio::test(start_paused = true)]
async fn a_write_dropped_while_its_thread_unwinds_is_finished() {
    let (live, store) = (live(), Store::new());
    let server = store.server(&live);
    let mut page = server.subscribed().await;
    let held = store.clone();
    let service =
        live.layer().layer(service_fn(move |request: Request<RequestBody<Full<Bytes>>>| held.clone().commit(request)));
    let panicking = tokio::spawn(async move {
        let request = Request::put("/events/7").body(full(r#"{"text":"a"}"#)).unwrap();
        let mut write = Box::pin(tower::ServiceExt::oneshot(service, request));
        assert!(write.as_mut().now_or_never().is_none());
        panic!("beside its write");
    });
    assert!(panicking.await.unwrap_err().is_panic());
    store.finishes(&mut page, &live).await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_being_read_ahead_is_finished_too() {
    let live = live();
    let (mut give, body) = http_body_util::Channel::<Bytes, BoxError>::new(2);
    let body = Arc::new(std::sync::Mutex::new(Some(body)));
    let server = Server::layered(&live.layer(), move |request| {
        let body = body.clone();
        async move {
            read(request).await.expect("a whole request");
            Response::new(body.lock().unwrap().take().expect("one request").boxed_unsync())
        }
    });
    let mut page = server.subscribed().await;
    let mut stream = server.connect();
    stream.write_all(PUT.as_bytes()).await.unwrap();
    give.send_data(Bytes::from_static(br#"{"item":{"id":7,"#)).await.unwrap();
    // The second one fits only when the first has been read.
    give.send_data(Bytes::from_static(br#""text":"#)).await.unwrap();
    give.send_data(Bytes::from_static(br#""row""#)).await.unwrap();
    drop(stream);
    until("the client's departure is noticed", || live.stats().detached_writes == 1).await;
    give.send_data(Bytes::from_static(b"}}")).await.unwrap();
    drop(give);
    assert_eq!(page.event().await, ("update-event".to_owned(), json!({"id": 7, "text": "row"})));
    assert!(page.received(&live).await.is_empty(), "once");
}

#[cfg(feature = "tracing")]
#[tokio::test(start_paused = true)]
async fn a_write_goes_on_in_its_span() {
    let _logs = crate::support::logs::Logs::capture();
    let (live, store) = (live(), Store::new());
    let spans = Arc::new(std::sync::Mutex::new(Vec::new()));
    let (held, seen) = (store.clone(), spans.clone());
    let inner = live.layer().layer(service_fn(move |request: Request<RequestBody<_>>| {
        let (held, seen) = (held.clone(), seen.clone());
        async move {
            seen.lock().unwrap().push(current_span());
            let answer = held.commit(request).await;
            seen.lock().unwrap().push(current_span());
            answer
        }
    }));
    let service = service_fn(move |request: Request<_>| {
        let span = tracing::info_span!("the request");
        let answer = span.in_scope(|| inner.clone().call(request));
        tracing::Instrument::instrument(answer, span)
    });
    let server = Server::new(service);
    let mut page = server.subscribed().await;
    let mut stream = server.connect();
    stream.write_all(PUT.as_bytes()).await.unwrap();
    store.committed(1).await;
    drop(stream);
    store.finishes(&mut page, &live).await;
    assert_eq!(*spans.lock().unwrap(), [Some("the request"), Some("the request")]);
}

#[cfg(feature = "tracing")]
fn current_span() -> Option<&'static str> {
    tracing::Span::current().metadata().map(tracing::Metadata::name)
}

/// Only a static check: what is handed to the runtime must be `Send` whatever the handler's future is.
#[test]
fn the_future_of_a_write_can_be_sent_to_another_thread() {
    fn is_send(_: &(impl Future + Send)) {}
    let live = live();
    let mut service = live
        .layer()
        .layer(service_fn(async |_: Request<RequestBody<Full<Bytes>>>| Ok::<_, Infallible>(answer(200, ""))));
    let future = service.call(Request::put("/events/7").body(Full::<Bytes>::default()).unwrap());
    is_send(&future);
    assert!(format!("{future:?}").contains("watch"));
}
