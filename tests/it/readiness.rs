//! The inner service is asked whether it is ready before it is called, and its answer counts.

use std::{convert::Infallible, pin::pin, task::Poll, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::Full;
use tower::{
    Layer, Service, ServiceBuilder, ServiceExt, buffer::BufferLayer, limit::ConcurrencyLimitLayer,
    load_shed::LoadShedLayer, load_shed::error::Overloaded, service_fn,
};
use tower_live_updates::body::RequestBody;

use crate::support::{BoxError, Server, TOKEN, full, json as answer, live, read};

type Inner = Request<RequestBody<Full<Bytes>>>;

/// Whether a future waits when it is polled now.
async fn pending<F: Future>(future: F) -> bool {
    let mut future = pin!(future);
    std::future::poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_pending())).await
}

fn put() -> Request<Full<Bytes>> {
    Request::put("/events/7").body(full(r#"{"text":"a"}"#)).unwrap()
}

#[tokio::test]
async fn the_service_that_was_ready_is_the_one_that_is_called() {
    // The mock panics when it is called before it was ready.
    let live = live();
    let (mock, mut handle) = tower_test::mock::pair::<Inner, Response<Full<Bytes>>>();
    let mut service = live.layer().layer(mock);
    handle.allow(0);
    assert!(pending(service.ready()).await, "the inner service's readiness is the layer's");
    for request in [put(), Request::get("/events").body(full("")).unwrap(), put()] {
        handle.allow(1);
        let called = tokio::spawn(service.ready().await.unwrap().call(request));
        let (request, respond) = handle.next_request().await.expect("a call");
        read(request).await.unwrap();
        respond.send_response(answer(200, r#"{"action":"updated"}"#));
        assert_eq!(called.await.unwrap().unwrap().status(), 200);
    }
    assert_eq!(live.stats().changes_published, 2);
}

#[tokio::test]
async fn an_inner_service_that_fails_to_become_ready_returns_its_error() {
    let live = live();
    let (mock, mut handle) = tower_test::mock::pair::<Inner, Response<Full<Bytes>>>();
    let mut service = live.layer().layer(mock);
    handle.send_error("the pool is closed");
    let Err(error) = service.ready().await else { panic!("it is not ready") };
    assert_eq!(error.to_string(), "the pool is closed");
}

#[tokio::test]
async fn services_that_reserve_when_ready_work_inside() {
    let live = live();
    let service = ServiceBuilder::new()
        .layer(live.layer())
        .layer(BufferLayer::new(4))
        .layer(ConcurrencyLimitLayer::new(1))
        .service_fn(|request: Request<RequestBody<_>>| async {
            read(request).await.unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
            Ok::<_, BoxError>(answer(200, r#"{"action":"updated"}"#))
        });
    let server = Server::new(service);
    let mut page = server.subscribed().await;
    let writes = (0..20).map(|id| {
        let server = server.clone();
        tokio::spawn(async move { server.write(Method::PUT, &format!("/events/{}", id + 1), "{}").await })
    });
    for write in writes.collect::<Vec<_>>() {
        assert_eq!(write.await.unwrap().status(), 200);
    }
    assert_eq!(page.received(&live).await.len(), 20);
}

#[tokio::test]
async fn a_shedding_service_inside_refuses_writes_and_endpoint_alike() {
    let live = live();
    let (mock, mut handle) = tower_test::mock::pair::<Inner, Response<Full<Bytes>>>();
    let service = ServiceBuilder::new().layer(live.layer()).layer(LoadShedLayer::new()).service(mock);
    handle.allow(0);
    let error = service.clone().oneshot(put()).await.expect_err("overload");
    assert!(error.is::<Overloaded>(), "{error}");
    assert_eq!(live.stats().changes_published, 0);
    // Load shedding reports ready, so the endpoint, which needs no inner service, goes on.
    let handshake = Request::get("/api/v1").header("remote-token", TOKEN).body(full("")).unwrap();
    assert_eq!(service.oneshot(handshake).await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_saturated_inner_service_makes_the_endpoint_wait_with_everything_else() {
    let live = live();
    let (mock, mut handle) = tower_test::mock::pair::<Inner, Response<Full<Bytes>>>();
    let mut service = live.layer().layer(mock);
    let handshake = || Request::get("/api/v1").header("remote-token", TOKEN).body(full("")).unwrap();
    handle.allow(0);
    assert!(pending(service.clone().oneshot(handshake())).await);
    handle.allow(1);
    assert_eq!(service.ready().await.unwrap().call(handshake()).await.unwrap().status(), 200);
}

#[tokio::test]
async fn the_layer_needs_no_cloneable_service() {
    let live = live();
    let mut service = live.layer().layer(tower::util::BoxService::new(service_fn(|_: Inner| async {
        Ok::<_, Infallible>(answer(200, r#"{"action":"deleted"}"#))
    })));
    let response = service.ready().await.unwrap().call(Request::delete("/events/7").body(full("")).unwrap()).await;
    assert_eq!(response.unwrap().status(), 200);
    assert_eq!(live.stats().changes_published, 1);
}
