//! Calls over HTTP: to the endpoint, and to a service of their own whose pages have no socket.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use serde_json::{Value, json};

use crate::support::{
    Server,
    calls::{Gate, call, data, error, outcome, serve, with_methods},
    live, until,
};

fn post(path: &str, token: &str, calls: &[Value]) -> Request<String> {
    Request::post(path).header("remote-token", token).body(json!(calls).to_string()).unwrap()
}

fn outcomes(answer: &Response<Bytes>) -> Vec<(u64, Value)> {
    let results: Vec<Value> = serde_json::from_slice(answer.body()).unwrap();
    results.iter().map(outcome).collect()
}

/// The stock client fails the promises of a request whose answer is no JSON, and no others.
fn fails_all(answer: &Response<Bytes>) -> bool {
    serde_json::from_slice::<Value>(answer.body()).is_err()
}

#[tokio::test]
async fn a_request_answers_each_of_its_calls() {
    let live = with_methods(Gate::new().0).build().unwrap();
    let server = serve(&live);
    let answer = server.send(post(
        "/api/v1",
        "second",
        &[
            call(2, "math.add", &json!([2, 3])),
            call(3, "nosuch.method", &json!([])),
            call(4, "users.me", &json!([])),
            call(5, "bad.panic", &json!([])),
            call(6, "admin.archive", &json!([1999])),
            call(7, "text.length", &json!(["x".repeat(60 * 1024)])),
            call(8, "text.length", &json!(["x".repeat(70 * 1024)])),
        ],
    ));
    assert_eq!(
        outcomes(&answer.await),
        [
            (2, data(5)),
            (3, error(r#"there is no method "nosuch.method""#)),
            (4, json!({"data": ["token-2", false]})),
            (5, error("the call failed")),
            (6, data(1999)),
            (7, data(60 * 1024)),
            (8, error("the call is larger than 65536 bytes")),
        ]
    );
    let stats = live.stats();
    assert_eq!((stats.calls, stats.calls_failed, stats.calls_refused), (7, 2, 1));
}

#[tokio::test]
async fn two_hundred_calls_in_one_request_have_an_outcome_each() {
    let live = with_methods(Gate::new().0).build().unwrap();
    let calls: Vec<Value> = (1..=200).map(|id| call(id, "math.add", &json!([id, 0]))).collect();
    let results = outcomes(&serve(&live).send(post("/api/v1", "demo", &calls)).await);
    assert!(results.iter().map(|(id, _)| *id).eq(1..=200));
    assert_eq!(results.iter().filter(|(id, outcome)| *outcome == data(*id)).count(), 108);
}

#[tokio::test(start_paused = true)]
async fn a_request_whose_calls_hang_is_answered_in_ten_seconds() {
    let live = with_methods(Gate::new().0).build().unwrap();
    let calls: Vec<Value> = (1..=50).map(|id| call(id, "slow.hang", &json!([]))).collect();
    let begun = tokio::time::Instant::now();
    let results = outcomes(&serve(&live).send(post("/api/v1", "demo", &calls)).await);
    assert!(results.iter().all(|(_, outcome)| outcome["error"].is_string()));
    assert!(begun.elapsed() <= Duration::from_millis(10_010), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn what_is_refused_fails_the_promises_of_the_stock_client() {
    let live = with_methods(Gate::new().0).max_call_memory(1000).build().unwrap();
    let server = serve(&live);
    let calls = [call(2, "math.add", &json!([2, 3]))];
    assert_eq!(server.send(post("/api/v1", "demo", &calls)).await.status(), 200);
    let foreign = |mut request: Request<String>| {
        request.headers_mut().insert("origin", "https://other.example".parse().unwrap());
        request
    };
    for (status, request) in [
        (403, post("/api/v1", "wrong", &calls)),
        (403, foreign(post("/api/v1", "demo", &calls))),
        (400, Request::post("/api/v1").header("remote-token", "demo").body("{}".to_owned()).unwrap()),
        (503, post("/api/v1", "demo", &[call(2, "text.length", &json!(["x".repeat(1000)]))])),
    ] {
        let answer = server.send(request).await;
        assert_eq!(answer.status(), status);
        assert!(fails_all(&answer), "{answer:?}");
    }
    assert_eq!((live.stats().calls, live.stats().origins_refused), (1, 1));
}

#[tokio::test]
async fn a_call_goes_on_when_its_request_is_given_up() {
    let (gate, mut begun) = Gate::new();
    let live = with_methods(gate.clone()).build().unwrap();
    let server = serve(&live);
    let request = tokio::spawn({
        let server = server.clone();
        async move {
            server
                .send(post("/api/v1", "demo", &[call(2, "slow.wait", &json!([1])), call(3, "slow.wait", &json!([2]))]))
                .await
        }
    });
    begun.recv().await.unwrap();
    request.abort();
    assert!(request.await.is_err());
    gate.open(2);
    until("both have ended", || gate.is_used_up()).await;
}

#[tokio::test]
async fn a_service_of_its_own_offers_the_same_methods_without_a_socket() {
    let live = with_methods(Gate::new().0)
        .data((), async |(), user: tower_live_updates::Identity| {
            Ok::<_, std::convert::Infallible>(json!({"who": user.principal()}))
        })
        .build()
        .unwrap();
    let server = Server::new(live.calls());
    let handshake = server.send(Request::get("/calls").header("remote-token", "demo").body("").unwrap()).await;
    let told: Value = serde_json::from_slice(handshake.body()).unwrap();
    assert_eq!(told["websocket"], false);
    assert_eq!(told["data"], json!({"who": "token-1"}));
    assert_eq!(told["api"]["math"], json!({"add": 1}));
    assert_eq!(told.get("key"), None, "a page without a socket keeps its token");
    let answer = server.send(post("/calls", "demo", &[call(1, "math.add", &json!([2, 3]))])).await;
    assert_eq!(outcomes(&answer), [(1, data(5))]);

    assert_eq!(
        server.send(Request::get("/calls").header("remote-token", "wrong").body("").unwrap()).await.status(),
        403
    );
    assert!(fails_all(&server.send(post("/calls", "wrong", &[])).await));
    assert_eq!(server.send(Request::options("/calls").body("").unwrap()).await.status(), 204);
    assert_eq!(server.send(Request::delete("/calls").body("").unwrap()).await.status(), 405);
    assert!(server.page_at("/calls?token=demo&ws=1").await.is_err());
    assert_eq!(live.stats().sockets_opened, 0);
    // Without methods, it offers none.
    let empty = Server::new(self::live().calls());
    let handshake = empty.send(Request::get("/calls").header("remote-token", "demo").body("").unwrap()).await;
    assert_eq!(&handshake.body()[..], br#"{"api":{},"data":{},"websocket":false}"#);
}

#[cfg(feature = "sealed-keys")]
#[tokio::test]
async fn a_page_without_a_socket_gets_a_sealed_key_that_its_calls_name() {
    let live = with_methods(Gate::new().0).sealed_keys(["0123456789-0123456789-0123456789"]).build().unwrap();
    let server = Server::new(live.calls());
    let handshake = server.send(Request::get("/calls").header("remote-token", "second").body("").unwrap()).await;
    let told: Value = serde_json::from_slice(handshake.body()).unwrap();
    let key = told["key"].as_str().unwrap();
    let answer = server.send(post("/calls", key, &[call(1, "users.me", &json!([]))])).await;
    assert_eq!(outcomes(&answer), [(1, json!({"data": ["token-2", false]}))]);
}
