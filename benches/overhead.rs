//! What the layer costs a request: time, and allocations.
//!
//! The same axum `Router` under tower's `Identity` layer and under this crate's, with axum's bodies (`axum`), with
//! any (`any`), and wrapped from outside instead of layered (`outside`). Asked for something that is not watched, and
//! written to without subscribers; then written to with subscribers, whose reading is not part of the time. Each
//! answer is read to its end, as a server does. Differences within one run are what counts; the allocations printed
//! beside them do not wobble.

use std::{
    convert::Infallible,
    hint::black_box,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Body,
    extract::Request,
    response::Response,
    routing::{get, post, put},
};
use bytes::Bytes;
use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main, measurement::WallTime};
use futures_util::{SinkExt, StreamExt};
use http::{Method, header};
use http_body_util::BodyExt;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::runtime::{Builder, Runtime};
use tokio_tungstenite::{client_async, tungstenite::Message};
use tower::{Layer, Service, layer::util::Identity};
use tower_live_updates::{Entity, LiveUpdates};

const EVENT: &str = r#"{"text":"Standup","start_date":"2026-11-25 09:00","end_date":"2026-11-25 09:15"}"#;
const JSON: [(header::HeaderName, &str); 1] = [(header::CONTENT_TYPE, "application/json")];

const UNWATCHED: (Method, &str) = (Method::GET, "/plain");
const PUT: (Method, &str) = (Method::PUT, "/events/7");
const POST: (Method, &str) = (Method::POST, "/events");

/// The application: it reads what is written, and answers as the stock client wants it.
fn router() -> Router {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let create = async |event: Bytes| {
        black_box(event);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        (JSON, format!(r#"{{"action":"inserted","tid":"{id}"}}"#))
    };
    let update = async |event: Bytes| {
        black_box(event);
        (JSON, r#"{"action":"updated"}"#)
    };
    Router::new()
        .route("/plain", get(async || "plain"))
        .route("/events", post(create))
        .route("/events/{id}", put(update))
}

/// As `axum::serve` serves it: with its routes made once, and not again for each request.
fn served(router: Router) -> Router {
    router.with_state(())
}

fn live() -> LiveUpdates {
    LiveUpdates::builder("/api/v1")
        .allow_anonymous()
        .entity(Entity::scheduler("/events"))
        .build()
        .expect("a good configuration")
}

fn request((method, path): &(Method, &'static str)) -> Request {
    let body = if *method == Method::GET { Body::empty() } else { Body::from(EVENT) };
    let request = Request::builder().method(method).uri(*path).header(header::CONTENT_TYPE, "application/json");
    request.body(body).expect("a request")
}

async fn ask<S, B>(service: &mut S, request: Request)
where
    S: Service<Request, Response = Response<B>, Error = Infallible>,
    B: axum::body::HttpBody + Unpin,
{
    let Ok(mut response) = service.call(request).await;
    while let Some(frame) = response.frame().await {
        let _ = black_box(frame);
    }
}

/// One service asked for one thing, one request after the other.
fn bench<S, B>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    runtime: &Runtime,
    name: &str,
    service: &S,
    what: &(Method, &'static str),
    pause: Duration,
) where
    S: Service<Request, Response = Response<B>, Error = Infallible> + Clone,
    B: axum::body::HttpBody + Unpin,
{
    // The first request fills maps and buffers that stay.
    let mut once = service.clone();
    runtime.block_on(ask(&mut once, request(what)));
    let asked = request(what);
    // Of the calling thread: the subscribers' tasks run on another.
    let counted = allocation_counter::measure(|| runtime.block_on(ask(&mut once, asked)));
    println!("overhead/{name}: {} allocations, {} bytes", counted.count_total, counted.bytes_total);
    group.bench_function(name, |bencher| {
        bencher.to_async(runtime).iter_custom(|count| {
            let mut service = service.clone();
            async move {
                let at_once = if pause.is_zero() { 256 } else { 1 };
                let (mut left, mut total) = (count, Duration::ZERO);
                while left > 0 {
                    let requests: Vec<Request> = (0..left.min(at_once)).map(|_| request(what)).collect();
                    left -= requests.len() as u64;
                    let began = Instant::now();
                    for request in requests {
                        ask(&mut service, request).await;
                    }
                    total += began.elapsed();
                    if !pause.is_zero() {
                        // The subscribers read what they were sent, and are caught up before the next write.
                        tokio::time::sleep(pause).await;
                    }
                }
                total
            }
        });
    });
}

/// Opens pages that subscribe `events` and read for ever: real WebSockets over in-memory streams.
async fn subscribe(live: &LiveUpdates, count: u64) {
    for _ in 0..count {
        let (near, far) = tokio::io::duplex(4096);
        let service = TowerToHyperService::new(live.layer().layer(router()));
        let connection =
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(far), service).with_upgrades();
        tokio::spawn(connection);
        let (mut page, _) = client_async("ws://live.example/api/v1?token=x&ws=1", near).await.expect("an upgrade");
        page.send(Message::text(r#"{"action":"subscribe","name":"events"}"#)).await.expect("an open socket");
        tokio::spawn(async move { while let Some(Ok(_)) = page.next().await {} });
    }
    while live.stats().subscriptions < count {
        tokio::task::yield_now().await;
    }
}

fn overhead(criterion: &mut Criterion) {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let mut group = criterion.benchmark_group("overhead");
    for (name, what) in [("unwatched", UNWATCHED), ("PUT", PUT), ("POST", POST)] {
        let live = live();
        let none = Duration::ZERO;
        bench(
            &mut group,
            &runtime,
            &format!("{name}, Identity"),
            &served(router().layer(Identity::new())),
            &what,
            none,
        );
        bench(
            &mut group,
            &runtime,
            &format!("{name}, axum"),
            &served(router().layer(live.layer().axum())),
            &what,
            none,
        );
        bench(&mut group, &runtime, &format!("{name}, any"), &served(router().layer(live.layer())), &what, none);
        bench(&mut group, &runtime, &format!("{name}, bare"), &served(router()), &what, none);
        let outside = live.layer().axum().layer(served(router()));
        bench(&mut group, &runtime, &format!("{name}, axum outside"), &outside, &what, none);
        bench(
            &mut group,
            &runtime,
            &format!("{name}, any outside"),
            &live.layer().layer(served(router())),
            &what,
            none,
        );
    }
    group.sample_size(10).measurement_time(Duration::from_secs(4));
    for pages in [1_u64, 100, 10_000] {
        let live = live();
        runtime.block_on(subscribe(&live, pages));
        // About what it takes all of them to read one frame.
        let pause = Duration::from_micros(pages * 12);
        let name = format!("PUT, axum, {pages} subscribers");
        bench(&mut group, &runtime, &name, &served(router().layer(live.layer().axum())), &PUT, pause);
        runtime.block_on(live.shutdown());
    }
    group.finish();
}

criterion_group!(benches, overhead);
criterion_main!(benches);
