//! What the layer costs a request: time, and allocations.
//!
//! The same inner service bare, wrapped and asked for something unwatched, and wrapped and written to, with 0, 1, 100
//! and 10 000 subscribed pages. A page is a real WebSocket over an in-memory stream; its reading is not part of the
//! time. Ratios within one run are what counts; the allocations printed beside them do not wobble.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    hint::black_box,
    time::{Duration, Instant},
};

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use futures_util::{SinkExt, StreamExt};
use http::{Method, Request, Response, header};
use http_body_util::Full;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::runtime::{Builder, Runtime};
use tokio_tungstenite::{client_async, tungstenite::Message};
use tower::{Layer, Service, service_fn};
use tower_live_updates::{Entity, LiveUpdates};

type Body = Full<Bytes>;

const EVENT: &str = r#"{"text":"Standup","start_date":"2026-11-25 09:00","end_date":"2026-11-25 09:15"}"#;
const ANSWER: &str = r#"{"action":"updated","item":{"id":"7","text":"Standup"}}"#;

/// The inner service: answers at once, whatever the body type around the request.
fn answer<B>(_request: Request<B>) -> Ready<Result<Response<Body>, Infallible>> {
    let mut response = Response::new(Full::from(ANSWER));
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    ready(Ok(response))
}

fn request(method: Method, path: &'static str) -> Request<Body> {
    let body = if method == Method::GET { Full::default() } else { Full::from(EVENT) };
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = http::Uri::from_static(path);
    request.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    request
}

fn live() -> LiveUpdates {
    LiveUpdates::builder("/api/v1")
        .allow_anonymous()
        .entity(Entity::scheduler("/events"))
        .build()
        .expect("a good configuration")
}

/// Opens pages that subscribe `events` and read for ever.
async fn subscribe(live: &LiveUpdates, count: u64) {
    for _ in 0..count {
        let (near, far) = tokio::io::duplex(4096);
        let service = TowerToHyperService::new(live.layer().layer(service_fn(answer)));
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

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
}

/// Time of `count` calls, one after the other, without what goes on between them.
async fn time<S>(service: &mut S, method: &Method, path: &'static str, count: u64, pause: Duration) -> Duration
where
    S: Service<Request<Body>, Error = Infallible>,
{
    let mut total = Duration::ZERO;
    for _ in 0..count {
        let request = request(method.clone(), path);
        let began = Instant::now();
        let response = service.call(request).await;
        total += began.elapsed();
        let _ = black_box(response);
        if !pause.is_zero() {
            // The pages read what they were told, so that they are caught up before the next write.
            tokio::time::sleep(pause).await;
        }
    }
    total
}

/// Counts what the calling thread allocates for one call; the pages' tasks run on another.
fn allocations<S>(name: &str, runtime: &Runtime, service: &mut S, method: &Method, path: &'static str)
where
    S: Service<Request<Body>, Error = Infallible>,
{
    // The first call fills maps and buffers that stay.
    drop(runtime.block_on(service.call(request(method.clone(), path))));
    let request = request(method.clone(), path);
    let counted = allocation_counter::measure(|| drop(runtime.block_on(service.call(request))));
    println!("overhead/{name}: {} allocations, {} bytes", counted.count_total, counted.bytes_total);
}

fn overhead(criterion: &mut Criterion) {
    let runtime = runtime();
    let mut group = criterion.benchmark_group("overhead");
    allocations("bare", &runtime, &mut service_fn(answer::<Body>), &Method::GET, "/plain");
    group.bench_function("bare", |bencher| {
        bencher.to_async(&runtime).iter_custom(async |count| {
            time(&mut service_fn(answer::<Body>), &Method::GET, "/plain", count, Duration::ZERO).await
        });
    });
    let idle = live();
    let mut service = idle.layer().layer(service_fn(answer));
    allocations("wrapped, unwatched", &runtime, &mut service, &Method::GET, "/plain");
    group.bench_function("wrapped, unwatched", |bencher| {
        bencher.to_async(&runtime).iter_custom(|count| {
            let mut service = idle.layer().layer(service_fn(answer));
            async move { time(&mut service, &Method::GET, "/plain", count, Duration::ZERO).await }
        });
    });
    for pages in [0_u64, 1, 100, 10_000] {
        let live = live();
        runtime.block_on(subscribe(&live, pages));
        let name = format!("watched, {pages} subscribers");
        let mut service = live.layer().layer(service_fn(answer));
        allocations(&name, &runtime, &mut service, &Method::PUT, "/events/7");
        // About what it takes all of them to read one frame.
        let pause = Duration::from_micros(pages * 12);
        group.sample_size(10).measurement_time(Duration::from_secs(4));
        group.bench_function(name, |bencher| {
            bencher.to_async(&runtime).iter_custom(|count| {
                let mut service = live.layer().layer(service_fn(answer));
                async move { time(&mut service, &Method::PUT, "/events/7", count, pause).await }
            });
        });
        runtime.block_on(live.shutdown());
    }
    group.finish();
}

criterion_group!(benches, overhead);
criterion_main!(benches);
