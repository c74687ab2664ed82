//! The keyed lock: writes of one object take turns, so its last broadcast is the last commit.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, header};
use http_body::Body;
use http_body_util::{BodyExt, Channel, Full};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::{
    io::AsyncWriteExt,
    sync::Semaphore,
    task::JoinHandle,
    time::{Instant, timeout},
};
use tower::{Layer, ServiceExt, service_fn};
use tower_live_updates::{Change, LiveUpdates, body::RequestBody};

use crate::support::{BoxError, Page, Server, TOKEN, builder, json as answer, live, read, until};

/// A handler that commits what it reads; a request is held before that while the test has a gate for it.
#[derive(Clone, Default)]
struct Store {
    gates: Arc<Mutex<HashMap<String, Arc<Semaphore>>>>,
    /// What handlers have read, and what they have committed, in order.
    read: Arc<Mutex<Vec<String>>>,
    committed: Arc<Mutex<Vec<String>>>,
}

impl Store {
    fn hold(&self, name: &str) {
        self.gates.lock().unwrap().insert(name.to_owned(), Arc::new(Semaphore::new(0)));
    }

    fn let_go(&self, name: &str) {
        self.gates.lock().unwrap()[name].add_permits(1);
    }

    async fn handle(self, request: Request<RequestBody<Incoming>>) -> Response<Full<Bytes>> {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let body = read(request).await.expect("a whole request");
        let text = serde_json::from_slice::<Value>(&body)
            .map_or_else(|_| format!("{method} {path}"), |object| object["text"].as_str().expect("a text").to_owned());
        self.read.lock().unwrap().push(text.clone());
        let gate = self.gates.lock().unwrap().get(&text).cloned();
        if let Some(gate) = gate {
            gate.acquire().await.expect("an open gate").forget();
        }
        self.committed.lock().unwrap().push(text.clone());
        match method {
            Method::POST => answer(200, r#"{"action":"inserted","tid":"17"}"#),
            _ if text == "refused" => answer(409, "{}"),
            _ => answer(200, r#"{"action":"updated"}"#),
        }
    }

    fn server(&self, live: &LiveUpdates) -> Server {
        let store = self.clone();
        Server::layered(&live.layer(), move |request| store.clone().handle(request))
    }

    async fn has_read(&self, text: &str) {
        until(&format!("{text:?} is read"), || self.read.lock().unwrap().iter().any(|known| known == text)).await;
    }

    fn read(&self) -> Vec<String> {
        self.read.lock().unwrap().clone()
    }
}

fn write(server: &Server, method: Method, path: &str, text: &str) -> JoinHandle<Response<Bytes>> {
    let (server, path) = (server.clone(), path.to_owned());
    let body = if text.is_empty() {
        String::new()
    } else {
        json!({"text": text, "start_date": "2025-04-21 10:00", "end_date": "2025-04-21 11:00"}).to_string()
    };
    tokio::spawn(async move { server.write(method, &path, &body).await })
}

fn put(server: &Server, text: &str) -> JoinHandle<Response<Bytes>> {
    write(server, Method::PUT, "/events/7", text)
}

/// The clock stands still until every task waits: whatever could happen without the test's help has happened then.
async fn settled() {
    tokio::time::sleep(Duration::from_secs(1)).await;
}

async fn texts(page: &mut Page, live: &LiveUpdates) -> Vec<String> {
    let received = page.received(live).await;
    received.iter().map(|value| value["event"]["text"].as_str().unwrap_or("(deleted)").to_owned()).collect()
}

#[tokio::test(start_paused = true)]
async fn the_keyed_lock_runs_two_writes_of_one_object_one_after_the_other() {
    let (live, store) = (live(), Store::default());
    let server = store.server(&live);
    let mut page = server.subscribed().await;
    store.hold("first");
    let first = put(&server, "first");
    store.has_read("first").await;
    let second = put(&server, "second");
    settled().await;
    assert_eq!(store.read(), ["first"], "the second must not be read whole yet");
    assert!(!second.is_finished());

    store.let_go("first");
    first.await.unwrap();
    second.await.unwrap();
    assert_eq!(*store.committed.lock().unwrap(), ["first", "second"]);
    assert_eq!(texts(&mut page, &live).await, ["first", "second"]);
    assert_eq!(live.stats().write_lock_timeouts, 0);
}

#[tokio::test(start_paused = true)]
async fn a_delete_without_a_body_waits_before_its_handler_begins() {
    let (live, store) = (live(), Store::default());
    let server = store.server(&live);
    let mut page = server.subscribed().await;
    store.hold("first");
    let first = put(&server, "first");
    store.has_read("first").await;
    let delete = write(&server, Method::DELETE, "/events/7", "");
    settled().await;
    assert_eq!(store.read(), ["first"]);
    store.let_go("first");
    first.await.unwrap();
    delete.await.unwrap();
    assert_eq!(texts(&mut page, &live).await, ["first", "(deleted)"]);
}

#[tokio::test(start_paused = true)]
async fn other_objects_and_adds_wait_for_no_keyed_lock() {
    let (live, store) = (live(), Store::default());
    let server = store.server(&live);
    let mut page = server.subscribed().await;
    store.hold("held");
    store.hold("held add");
    let held = put(&server, "held");
    store.has_read("held").await;
    let held_add = write(&server, Method::POST, "/events", "held add");
    store.has_read("held add").await;
    let began = Instant::now();
    write(&server, Method::PUT, "/events/8", "other").await.unwrap();
    write(&server, Method::POST, "/events", "add").await.unwrap();
    write(&server, Method::DELETE, "/events/9", "").await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!(texts(&mut page, &live).await, ["other", "add", "(deleted)"]);
    store.let_go("held");
    store.let_go("held add");
    held.await.unwrap();
    held_add.await.unwrap();
    assert_eq!(live.stats().write_lock_timeouts, 0);
}

#[tokio::test(start_paused = true)]
async fn a_slow_sender_does_not_hold_the_keyed_lock() {
    let (live, store) = (live(), Store::default());
    let server = store.server(&live);
    let mut page = server.subscribed().await;
    let mut slow = server.connect();
    slow.write_all(b"PUT /events/7 HTTP/1.1\r\nhost: x\r\ncontent-length: 15\r\n\r\n{\"text\":").await.unwrap();
    settled().await;
    let began = Instant::now();
    put(&server, "quick").await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    slow.write_all(b"\"slow\"}").await.unwrap();
    assert_eq!(page.event().await.1["text"], "quick");
    assert_eq!(page.event().await.1["text"], "slow");
    assert_eq!(*store.committed.lock().unwrap(), ["quick", "slow"]);
}

#[tokio::test(start_paused = true)]
async fn the_last_piece_of_a_body_is_held_back_until_the_keyed_lock_is_free() {
    let live = live();
    let pieces: Arc<Mutex<Vec<String>>> = Arc::default();
    let go = Arc::new(Semaphore::new(0));
    let (seen, gate) = (pieces.clone(), go.clone());
    // A handler that knows the length stops reading at the last byte, and never asks for the end.
    let server = Server::layered(&live.layer(), move |request: Request<RequestBody<Incoming>>| {
        let (seen, gate) = (seen.clone(), gate.clone());
        async move {
            let mut left: usize = request.headers()[header::CONTENT_LENGTH].to_str().unwrap().parse().unwrap();
            let mut body = request.into_body();
            while left > 0 {
                let piece = body.frame().await.expect("more").unwrap().into_data().unwrap();
                left -= piece.len();
                seen.lock().unwrap().push(String::from_utf8(piece.to_vec()).unwrap());
            }
            gate.acquire().await.unwrap().forget();
            answer(200, r#"{"action":"updated"}"#)
        }
    });
    let mut page = server.subscribed().await;
    let first = put(&server, "first");
    until("the first is read", || pieces.lock().unwrap().len() == 1).await;
    pieces.lock().unwrap().clear();

    let (mut send, body) = Channel::<Bytes, BoxError>::new(4);
    let request = Request::put("/events/7").header(header::CONTENT_LENGTH, 17).body(body).unwrap();
    let second = tokio::spawn({
        let server = server.clone();
        async move { server.start(request).await.unwrap().into_body().collect().await.unwrap() }
    });
    send.send_data(Bytes::from_static(b"{\"text\":")).await.unwrap();
    until("the piece before the last is passed on", || !pieces.lock().unwrap().is_empty()).await;
    send.send_data(Bytes::from_static(b"\"second\"}")).await.unwrap();
    drop(send);
    settled().await;
    assert_eq!(*pieces.lock().unwrap(), ["{\"text\":"], "the last piece waits for the keyed lock");
    go.add_permits(1);
    first.await.unwrap();
    go.add_permits(1);
    second.await.unwrap();
    assert_eq!(pieces.lock().unwrap().concat(), "{\"text\":\"second\"}");
    assert_eq!(texts(&mut page, &live).await, ["first", "second"]);
}

#[tokio::test(start_paused = true)]
async fn a_body_held_back_still_reports_its_remaining_length() {
    let (live, store) = (live(), Store::default());
    let server = store.server(&live);
    store.hold("first");
    let first = put(&server, "first");
    store.has_read("first").await;
    let service = live.layer().layer(service_fn(|request: Request<RequestBody<Full<Bytes>>>| async {
        let mut body = request.into_body();
        assert!(timeout(Duration::from_secs(1), body.frame()).await.is_err(), "it does not hold the keyed lock");
        assert_eq!((body.size_hint().exact(), body.is_end_stream()), (Some(12), false));
        Ok::<_, Infallible>(answer(409, "{}"))
    }));
    let request = Request::put("/events/7").body(Full::from(r#"{"text":"a"}"#)).unwrap();
    assert_eq!(service.oneshot(request).await.unwrap().status(), 409);
    store.let_go("first");
    first.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn after_the_write_lock_timeout_a_write_goes_on_and_is_counted() {
    let live = builder().tokens([TOKEN]).write_lock_timeout(Duration::from_secs(3)).build().unwrap();
    let store = Store::default();
    let server = store.server(&live);
    let mut page = server.subscribed().await;
    store.hold("stuck");
    let stuck = put(&server, "stuck");
    store.has_read("stuck").await;
    for (method, text, received) in [(Method::PUT, "second", "second"), (Method::DELETE, "", "(deleted)")] {
        let began = Instant::now();
        write(&server, method, "/events/7", text).await.unwrap();
        assert_eq!(began.elapsed().as_secs(), 3);
        assert_eq!(texts(&mut page, &live).await, [received]);
    }
    assert_eq!(live.stats().write_lock_timeouts, 2);
    store.let_go("stuck");
    stuck.await.unwrap();
    assert_eq!(texts(&mut page, &live).await, ["stuck"]);
}

#[tokio::test(start_paused = true)]
async fn the_keyed_lock_is_held_until_the_write_is_published() {
    let live = live();
    let (mut give, body) = Channel::<Bytes, BoxError>::new(1);
    let slow = Arc::new(Mutex::new(Some(body)));
    // The first is committed, and yet its answer takes its time; the second is answered at once.
    let server = Server::layered(&live.layer(), move |request| {
        let slow = slow.clone();
        async move {
            read(request).await.expect("a whole request");
            let body = slow.lock().unwrap().take();
            let quick = || Full::from(r#"{"action":"updated"}"#).map_err(|never| match never {}).boxed_unsync();
            Response::new(body.map_or_else(quick, BodyExt::boxed_unsync))
        }
    });
    let mut page = server.subscribed().await;
    let first = put(&server, "first");
    give.send_data(Bytes::from_static(b"{\"action\":")).await.unwrap();
    settled().await;
    let second = put(&server, "second");
    settled().await;
    assert!(!second.is_finished());
    give.send_data(Bytes::from_static(b"\"updated\"}")).await.unwrap();
    drop(give);
    first.await.unwrap();
    second.await.unwrap();
    assert_eq!(texts(&mut page, &live).await, ["first", "second"]);
}

#[tokio::test(start_paused = true)]
async fn a_refused_write_releases_its_keyed_lock() {
    let (live, store) = (live(), Store::default());
    let server = store.server(&live);
    let mut page = server.subscribed().await;
    store.hold("refused");
    let refused = put(&server, "refused");
    store.has_read("refused").await;
    let next = put(&server, "next");
    store.let_go("refused");
    assert_eq!(refused.await.unwrap().status(), 409);
    assert!(timeout(Duration::from_secs(1), next).await.is_ok(), "not after the write lock timeout");
    assert_eq!(texts(&mut page, &live).await, ["next"]);
}

#[tokio::test(start_paused = true)]
async fn a_write_whose_client_has_gone_keeps_its_keyed_lock() {
    let (live, store) = (live(), Store::default());
    let server = store.server(&live);
    let mut page = server.subscribed().await;
    store.hold("left");
    let mut stream = server.connect();
    let request = b"PUT /events/7 HTTP/1.1\r\nhost: x\r\ncontent-length: 15\r\n\r\n{\"text\":\"left\"}";
    stream.write_all(request).await.unwrap();
    store.has_read("left").await;
    drop(stream);
    until("the client's departure is noticed", || live.stats().detached_writes == 1).await;
    let next = put(&server, "next");
    settled().await;
    assert_eq!(store.read(), ["left"]);
    store.let_go("left");
    next.await.unwrap();
    assert_eq!(texts(&mut page, &live).await, ["left", "next"]);
}

/// What happens to the new object while its POST is in flight, and what pages are sent after that.
#[tokio::test(start_paused = true)]
async fn an_add_never_overrides_a_broadcast_of_its_object_meanwhile() {
    let newer = json!({"id": "17", "text": "newer", "start_date": "2025-04-21 12:00", "end_date": "2025-04-21 13:00"});
    let update = Change::update(&newer).unwrap();
    let add = Change::add(&newer).unwrap();
    let delete = Change::delete(17).unwrap();
    let message = |kind: &str, object: &Value| json!({"type": format!("{kind}-event"), "event": object});
    let gone = message("delete", &json!({"id": "17"}));
    let updated = message("update", &newer);
    let added = message("add", &newer);
    for (meanwhile, expected) in [
        (vec![update.clone()], vec![updated.clone(), added.clone()]),
        (vec![delete.clone()], vec![gone.clone()]),
        (vec![add.clone()], vec![added.clone()]),
        (vec![update.clone(), delete.clone()], vec![updated.clone(), gone.clone()]),
        (vec![delete, update], vec![gone, updated, added]),
    ] {
        let (live, store) = (live(), Store::default());
        let server = store.server(&live);
        let mut page = server.subscribed().await;
        store.hold("sent");
        let post = write(&server, Method::POST, "/events", "sent");
        store.has_read("sent").await;
        live.publish_many("events", meanwhile.clone()).unwrap();
        store.let_go("sent");
        post.await.unwrap();
        assert_eq!(page.received(&live).await, expected, "{meanwhile:?}");
        assert_eq!(live.stats().changes_published, expected.len() as u64, "{meanwhile:?}");
    }
}

#[tokio::test]
async fn broadcasts_before_a_post_began_do_not_count_against_it() {
    let (live, store) = (live(), Store::default());
    let server = store.server(&live);
    let mut page = server.subscribed().await;
    live.publish("events", Change::delete(17).unwrap()).unwrap();
    write(&server, Method::POST, "/events", "again").await.unwrap();
    assert_eq!(texts(&mut page, &live).await, ["(deleted)", "again"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_writers_of_one_object_are_broadcast_in_the_order_they_committed() {
    let live = live();
    let committed: Arc<Mutex<Vec<String>>> = Arc::default();
    let store = committed.clone();
    let server = Server::layered(&live.layer(), move |request| {
        let store = store.clone();
        async move {
            let object: Value = serde_json::from_slice(&read(request).await.unwrap()).unwrap();
            let number: u64 = object["text"].as_str().unwrap().parse().unwrap();
            tokio::time::sleep(Duration::from_micros(number * 37 % 300)).await;
            store.lock().unwrap().push(number.to_string());
            // The window in which an unordered pair of writes would be broadcast in the wrong order.
            tokio::time::sleep(Duration::from_micros(number * 91 % 500)).await;
            answer(200, r#"{"action":"updated"}"#)
        }
    });
    let mut page = server.subscribed().await;
    let writes: Vec<_> = (0..200).map(|number| put(&server, &number.to_string())).collect();
    for write in writes {
        write.await.unwrap();
    }
    let received = texts(&mut page, &live).await;
    assert_eq!(received.len(), 200);
    assert_eq!(received, *committed.lock().unwrap());
    assert_eq!(live.stats().write_lock_timeouts, 0);
}
