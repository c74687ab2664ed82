//! A request that is refused costs others nothing: no frame, no waiting.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::join_all;
use http::{Method, Request, Response};
use http_body_util::{Channel, Full};
use hyper::body::Incoming;
use serde_json::Value;
use tokio::time::{Instant, sleep};
use tower::service_fn;
use tower_live_updates::{LiveUpdates, body::RequestBody};

use crate::support::{BoxError, Server, TOKEN, converging, json as answer, live, read, until};

/// Admits requests by a header; the others are refused before anything of their body is read.
async fn guarded(request: Request<RequestBody<Incoming>>) -> Response<Full<Bytes>> {
    let status = request.headers().get("x-refuse").map(|status| status.to_str().unwrap().parse().unwrap());
    match status {
        Some(status) => answer(status, "{}"),
        None => {
            read(request).await.unwrap();
            answer(200, r#"{"action":"updated"}"#)
        }
    }
}

fn refused(method: &Method, status: u16) -> Request<&'static str> {
    let path = if method == Method::POST { "/events" } else { "/events/7" };
    let body = if method == Method::DELETE { "" } else { r#"{"text":"refused"}"# };
    Request::builder().method(method).uri(path).header("x-refuse", status).body(body).unwrap()
}

fn server() -> (LiveUpdates, Server) {
    let live = converging().tokens([TOKEN]).build().unwrap();
    let server = Server::layered(&live.layer(), guarded);
    (live, server)
}

/// What a page receives within a minute, with its second, while twenty writes are made, each followed by `refusals`.
async fn received_among(gap: Duration, refusals: &[(Method, u16)]) -> Vec<(u64, Value)> {
    let (live, server) = server();
    let mut page = server.subscribed().await;
    sleep(Duration::from_secs(20)).await;
    let began = Instant::now();
    let writes = async {
        for number in 0..20 {
            server.write(Method::PUT, "/events/7", &format!(r#"{{"text":"{number}"}}"#)).await;
            for pause in [Duration::ZERO, gap / 2] {
                sleep(pause).await;
                for (method, status) in refusals {
                    assert_eq!(server.send(refused(method, *status)).await.status(), *status);
                }
            }
            sleep(gap / 2).await;
        }
        for _ in 0..6 {
            sleep(Duration::from_secs(10)).await;
            live.send("calendars", &"more").unwrap();
        }
        live.send("calendars", &"over").unwrap();
    };
    page.subscribe("calendars").await;
    let listen = async {
        let mut received = Vec::new();
        loop {
            let message = page.message().await.expect("an open socket");
            if message["body"]["name"] == "calendars" {
                match message["body"]["value"].as_str() {
                    Some("over") => return received,
                    _ => continue,
                }
            }
            received.push((began.elapsed().as_secs(), message["body"]["value"].clone()));
        }
    };
    tokio::join!(writes, listen).1
}

#[tokio::test(start_paused = true)]
async fn a_refusal_behind_each_write_changes_no_frame() {
    for gap in [100, 4500, 6000].map(Duration::from_millis) {
        let alone = received_among(gap, &[]).await;
        assert!(alone.len() >= 20);
        for refusals in [
            vec![(Method::PUT, 401)],
            vec![(Method::POST, 403), (Method::DELETE, 401)],
            vec![(Method::DELETE, 404), (Method::PUT, 409), (Method::POST, 302)],
            vec![(Method::POST, 422), (Method::POST, 409)],
        ] {
            assert_eq!(received_among(gap, &refusals).await, alone, "{gap:?} {refusals:?}");
        }
    }
}

/// How often a page receives a write that follows a refused save.
async fn received_behind(refused: (Method, &str, u16), gap: Duration) -> usize {
    let (live, server) = server();
    let mut page = server.subscribed().await;
    page.subscribe("calendars").await;
    sleep(Duration::from_secs(20)).await;
    let (method, path, status) = refused;
    let request = Request::builder().method(method).uri(path).header("x-refuse", status);
    let response = server.send(request.body(r#"{"text":"refused"}"#).unwrap()).await;
    assert_eq!(response.status(), status);
    sleep(gap).await;
    server.write(Method::PUT, "/events/7", r#"{"text":"new"}"#).await;
    sleep(Duration::from_secs(20)).await;
    live.send("calendars", &"over").unwrap();
    let mut count = 0;
    loop {
        let message = page.message().await.expect("an open socket");
        if message["body"]["name"] == "calendars" {
            return count;
        }
        count += 1;
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_page_may_miss_until_it_knows_of_its_refusal_is_resent() {
    for (refused, millis, is_resent) in [
        ((Method::PUT, "/events/7", 404), 1500, true),
        // It is of another object, holds only adds back, its page knows, or it is a stranger's.
        ((Method::POST, "/events", 422), 500, false),
        ((Method::PUT, "/events/8", 404), 500, false),
        ((Method::PUT, "/events/7", 404), 2500, false),
        ((Method::PUT, "/events/7", 401), 500, false),
        ((Method::POST, "/events", 403), 500, false),
    ] {
        let count = received_behind(refused.clone(), Duration::from_millis(millis)).await;
        assert_eq!(count > 1, is_resent, "{refused:?} {millis}: {count}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_never_comes_moves_nothing() {
    let received_beside = async |hangs: bool| {
        let (live, server) = server();
        let mut page = server.subscribed().await;
        sleep(Duration::from_secs(20)).await;
        let (_send, body) = Channel::<Bytes, BoxError>::new(1);
        let request = Request::post("/events").header("content-length", 20).body(body).unwrap();
        if hangs {
            let server = server.clone();
            tokio::spawn(async move { server.start(request).await });
            sleep(Duration::from_millis(10)).await;
        }
        let began = Instant::now();
        for text in ["a", "b"] {
            server.write(Method::PUT, "/events/7", &format!(r#"{{"text":"{text}"}}"#)).await;
        }
        for _ in 0..3 {
            page.event().await;
        }
        drop(live);
        began.elapsed()
    };
    let alone = received_beside(false).await;
    assert!(alone < Duration::from_secs(3), "{alone:?}");
    assert_eq!(received_beside(true).await, alone);
}

#[tokio::test(start_paused = true)]
async fn refused_deletions_keep_no_write_waiting() {
    let live = live();
    let over: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = over.clone();
    let server = Server::layered(&live.layer(), move |request: Request<RequestBody<Incoming>>| {
        let log = log.clone();
        async move {
            let method = request.method().clone();
            if method == Method::DELETE {
                sleep(Duration::from_millis(100)).await;
            } else {
                read(request).await.unwrap();
            }
            log.lock().unwrap().push(method.to_string());
            answer(if method == Method::DELETE { 401 } else { 200 }, r#"{"action":"updated"}"#)
        }
    });
    let mut page = server.subscribed().await;
    let send = |method: Method, body: &'static str| {
        let server = server.clone();
        tokio::spawn(async move { server.write(method, "/events/7", body).await })
    };
    let mut writes: Vec<_> = (0..30).map(|_| send(Method::DELETE, "")).collect();
    sleep(Duration::from_millis(50)).await;
    writes.push(send(Method::PUT, r#"{"text":"a"}"#));
    // Those that come later do not go before it.
    for _ in 0..30 {
        sleep(Duration::from_millis(1)).await;
        writes.push(send(Method::DELETE, ""));
    }
    join_all(writes).await;
    let over = over.lock().unwrap().clone();
    assert_eq!(over.iter().position(|method| method == "PUT"), Some(30));
    assert_eq!((over.len(), live.stats().write_lock_timeouts), (61, 0));
    assert_eq!(page.received(&live).await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_update_without_a_body_lets_one_with_a_body_go_first() {
    let live = live();
    let over: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = over.clone();
    let server = Server::new(tower::Layer::layer(
        &live.layer(),
        service_fn(move |request: Request<RequestBody<Incoming>>| {
            let log = log.clone();
            async move {
                sleep(Duration::from_millis(100)).await;
                let body = read(request).await.unwrap();
                log.lock().unwrap().push(format!("{} bytes", body.len()));
                Ok::<_, Infallible>(answer(401, "{}"))
            }
        }),
    ));
    let send = |body: &'static str| {
        let server = server.clone();
        tokio::spawn(async move { server.write(Method::PUT, "/events/7", body).await })
    };
    let mut writes: Vec<_> = (0..5).map(|_| send("")).collect();
    sleep(Duration::from_millis(10)).await;
    writes.push(send("{}"));
    until("all are answered", || over.lock().unwrap().len() == 6).await;
    let order = over.lock().unwrap().clone();
    assert_eq!(order.iter().position(|entry| entry == "2 bytes"), Some(2), "{order:?}");
}
