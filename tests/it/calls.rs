//! Calls of pages: what their promises are settled with.

use std::{convert::Infallible, time::Duration};

use serde_json::{Value, json};
use tokio::time::Instant;
use tower_live_updates::{Caller, Identity, LiveUpdates};

use crate::support::{
    End, Page, Server, builder,
    calls::{FAILED, Gate, LOST, address, call, data, error, message, serve, with_methods},
    live, until, usual,
};

const HOOK_TIMEOUT: Duration = Duration::from_secs(5);

fn body(answer: &http::Response<bytes::Bytes>) -> &str {
    std::str::from_utf8(answer.body()).unwrap()
}

#[tokio::test]
async fn without_methods_the_handshake_is_that_of_the_article() {
    let server = Server::layered(&live().layer(), usual);
    assert_eq!(body(&server.handshake("demo").await), r#"{"api":{},"data":{},"websocket":true}"#);
}

#[tokio::test]
async fn the_handshake_names_the_methods_and_what_the_application_tells_the_page() {
    let live = builder()
        .tokens(["demo", "second", "third"])
        .call("svc.Add", (), async |(), _: Caller, ()| Ok::<_, Infallible>(()))
        .call("svc.Fail", (), async |(), _: Caller, ()| Ok::<_, Infallible>(()))
        .data("1.0", async |version, user: Identity| match user.principal() {
            "token-1" => Ok(json!({"version": version, "user": {"id": 3}})),
            "token-2" => Ok(json!(["no object"])),
            _ => Err("password: hunter2"),
        })
        .build()
        .unwrap();
    let server = serve(&live);
    let api = r#"{"api":{"svc":{"Add":1,"Fail":1}},"data":"#;
    let told = format!(r#"{api}{{"user":{{"id":3}},"version":"1.0"}},"websocket":true}}"#);
    assert_eq!(body(&server.handshake("demo").await), told);
    for token in ["second", "third"] {
        assert_eq!(body(&server.handshake(token).await), format!(r#"{api}{{}},"websocket":true}}"#), "{token}");
    }
    assert_eq!(live.stats().hooks_failed, 2);
    assert_eq!(body(&server.handshake("wrong").await), r#"{"error":"Forbidden"}"#);
}

#[tokio::test]
async fn every_call_has_an_outcome() {
    let live = with_methods(Gate::new().0).build().unwrap();
    let server = serve(&live);
    let mut page = server.page().await;
    for (id, (name, args, expected)) in (2..).zip([
        ("math.add", json!([2, 3]), data(5)),
        ("text.length", json!(["four"]), data(4)),
        ("users.me", json!([]), json!({"data": ["token-1", true]})),
        ("math.nosuch", json!([]), error(r#"there is no method "math.nosuch""#)),
        ("", json!([]), error(r#"there is no method """#)),
        ("math.add", json!([1]), error("math.add: the method takes 2 arguments, and the call has 1")),
        ("math.add", json!({}), error("math.add: the arguments of a call are a JSON array")),
        ("bad.panic", json!([]), error(FAILED)),
        ("bad.leak", json!([]), error(FAILED)),
        ("bad.tell", json!([9]), error("9 seats are too many")),
        ("admin.archive", json!([1999]), error("not allowed")),
    ]) {
        assert_eq!(page.outcome(id, name, &args).await, expected, "{name} {args}");
    }
    for (token, expected) in [("second", data(1999)), ("third", error("come back tomorrow"))] {
        let mut other = server.page_at(&address(&server, token).await).await.unwrap();
        assert_eq!(other.outcome(2, "admin.archive", &json!([1999])).await, expected, "{token}");
    }
    let stats = live.stats();
    assert_eq!((stats.calls, stats.calls_failed, stats.calls_refused, stats.hooks_failed), (13, 9, 0, 2));
}

#[tokio::test(start_paused = true)]
async fn a_method_that_hangs_fails_in_time() {
    let live = with_methods(Gate::new().0).build().unwrap();
    let mut page = serve(&live).page().await;
    let begun = Instant::now();
    assert_eq!(page.outcome(2, "slow.hang", &json!([])).await, error("the call took too long"));
    assert_eq!(begun.elapsed().as_secs(), HOOK_TIMEOUT.as_secs());
    assert_eq!(live.stats().hooks_failed, 1);
}

#[tokio::test(start_paused = true)]
async fn calls_behind_others_that_hang_fail_in_ten_seconds() {
    let live = with_methods(Gate::new().0).build().unwrap();
    let mut page = serve(&live).page().await;
    let calls: Vec<Value> = (1..=50).map(|id| call(id, "slow.hang", &json!([]))).collect();
    let begun = Instant::now();
    page.send_text(&message(&calls)).await;
    let results = page.all_results(50).await;
    assert!(results.iter().map(|(id, _)| *id).eq(1..=50));
    assert!(results.iter().all(|(_, outcome)| outcome["error"].is_string()), "{results:?}");
    assert!(begun.elapsed() <= 2 * HOOK_TIMEOUT + Duration::from_millis(10), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn eight_calls_of_a_page_run_at_one_time_and_the_others_in_their_order() {
    let (gate, mut begun) = Gate::new();
    let live = with_methods(gate.clone()).build().unwrap();
    let server = serve(&live);
    let mut page = server.page().await;
    let calls: Vec<Value> = (1..=20).map(|id| call(id, "slow.wait", &json!([id]))).collect();
    page.send_text(&message(&calls)).await;
    page.barrier().await;
    until("eight have begun", || begun.len() == 8).await;
    // Another page is not held up by them.
    assert_eq!(server.page().await.outcome(2, "math.add", &json!([1, 1])).await, data(2));
    assert_eq!(begun.len(), 8);
    gate.open(20);
    let results = page.all_results(20).await;
    assert!(results.into_iter().eq((1..=20).map(|id| (id, data(id)))));
    let order: Vec<u32> = std::iter::from_fn(|| begun.try_recv().ok()).collect();
    assert_eq!(order, (1..=20).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_result_after_a_cut_comes_after_the_next_start() {
    let (gate, mut begun) = Gate::new();
    let live = with_methods(gate.clone()).build().unwrap();
    let server = serve(&live);
    let address = address(&server, "demo").await;
    let mut page = server.page_at(&address).await.unwrap();
    page.call(2, "slow.wait", &json!([7])).await;
    begun.recv().await.unwrap();
    assert_eq!(page.results().await.unwrap(), [(1, error(LOST))], "a handler of the page has this id");
    drop(page);
    until("the socket is gone", || live.stats().connections == 0).await;
    gate.open(1);

    let mut page = server.page_at(&address).await.unwrap();
    assert_eq!(page.results().await.unwrap(), [(2, data(7))]);
    // It may be lost again: until it is known to be old, each new socket brings it.
    drop(page);
    let mut page = server.page_at(&address).await.unwrap();
    assert_eq!(page.results().await.unwrap(), [(2, data(7))]);
    assert_eq!(live.stats().call_results_resent, 2);

    // Neither another page of the user nor another user has it.
    for token in ["demo", "second"] {
        let mut other = server.page_at(&self::address(&server, token).await).await.unwrap();
        other.call(1, "math.add", &json!([1, 1])).await;
        assert_eq!(other.results().await.unwrap(), [(1, data(2))], "{token}");
    }
}

#[tokio::test]
async fn a_call_that_ends_while_its_page_is_back_already_settles_there() {
    let (gate, mut begun) = Gate::new();
    let live = with_methods(gate.clone()).build().unwrap();
    let server = serve(&live);
    let address = address(&server, "demo").await;
    let mut page = server.page_at(&address).await.unwrap();
    page.call(1, "slow.wait", &json!([7])).await;
    begun.recv().await.unwrap();
    drop(page);
    let mut page = server.page_at(&address).await.unwrap();
    // It runs, so it is not lost.
    page.call(2, "math.add", &json!([1, 1])).await;
    assert_eq!(page.results().await.unwrap(), [(2, data(2))]);
    gate.open(1);
    assert_eq!(page.results().await.unwrap(), [(1, data(7))]);
}

#[tokio::test]
async fn calls_that_were_lost_before_they_arrived_fail_with_the_next_one() {
    let live = with_methods(Gate::new().0).build().unwrap();
    let server = serve(&live);
    let address = address(&server, "demo").await;
    let mut page = server.page_at(&address).await.unwrap();
    page.call(1, "math.add", &json!([1, 1])).await;
    page.results().await.unwrap();
    // On one socket none is lost: the page gives ids to its handlers, too.
    assert_eq!(page.outcome(5, "math.add", &json!([1, 1])).await, data(2));
    page.call(9, "math.add", &json!([1, 1])).await;
    assert_eq!(page.results().await.unwrap(), [(9, data(2))]);
    drop(page);

    let mut page = server.page_at(&address).await.unwrap();
    assert_eq!(page.all_results(3).await, [1, 5, 9].map(|id| (id, data(2))), "may not have arrived");
    page.call(12, "math.add", &json!([1, 1])).await;
    let lost: Vec<u64> = page
        .results()
        .await
        .unwrap()
        .into_iter()
        .map(|(id, outcome)| {
            assert_eq!(outcome, error(LOST));
            id
        })
        .collect();
    assert_eq!(lost, [2, 3, 4, 6, 7, 8, 10, 11]);
    assert_eq!(page.results().await.unwrap(), [(12, data(2))]);
    // A page answers for a thousand at most.
    drop(page);
    let mut page = server.page_at(&address).await.unwrap();
    page.all_results(4).await;
    page.call(u64::MAX, "math.add", &json!([1, 1])).await;
    assert_eq!(page.results().await.unwrap().len(), 1000);
}

#[tokio::test]
async fn a_call_that_arrives_after_it_was_answered_as_lost_is_not_run() {
    let (gate, mut begun) = Gate::new();
    let live = with_methods(gate.clone()).build().unwrap();
    let server = serve(&live);
    let address = address(&server, "demo").await;
    // A proxy may hold back what the page has sent on a socket that it has closed.
    let mut old = server.page_at(&address).await.unwrap();
    old.call(2, "math.add", &json!([1, 1])).await;
    old.all_results(2).await;
    let mut page = server.page_at(&address).await.unwrap();
    page.all_results(1).await;
    page.call(4, "math.add", &json!([1, 1])).await;
    assert_eq!(page.all_results(3).await, [(1, error(LOST)), (3, error(LOST)), (4, data(2))]);
    old.call(3, "slow.wait", &json!([3])).await;
    old.barrier().await;
    old.call(6, "slow.wait", &json!([6])).await;
    assert_eq!(begun.recv().await, Some(6), "this one was not");
    gate.open(1);
    assert_eq!(page.results().await.unwrap(), [(6, data(6))]);
    drop(old);
}

#[tokio::test(start_paused = true)]
async fn results_are_kept_for_a_minute_and_then_count_as_lost() {
    let live = with_methods(Gate::new().0).build().unwrap();
    let server = serve(&live);
    let address = address(&server, "demo").await;
    for (seconds, is_kept) in [(59, true), (61, false)] {
        let mut page = server.page_at(&address).await.unwrap();
        page.outcome(1, "math.add", &json!([1, 1])).await;
        drop(page);
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        let mut page = server.page_at(&address).await.unwrap();
        page.call(2, "math.add", &json!([1, 1])).await;
        let first = if is_kept { data(2) } else { error(LOST) };
        assert_eq!(page.results().await.unwrap(), [(1, first)], "after {seconds} s");
        drop(page);
        tokio::time::sleep(Duration::from_secs(61)).await;
    }
}

#[tokio::test]
async fn a_hundred_results_are_kept() {
    let live = with_methods(Gate::new().0).max_call_rate(1000, 1000).build().unwrap();
    let server = serve(&live);
    let address = address(&server, "demo").await;
    let mut page = server.page_at(&address).await.unwrap();
    for id in 1..=103 {
        page.outcome(id, "math.add", &json!([1, 1])).await;
    }
    drop(page);
    let mut page = server.page_at(&address).await.unwrap();
    let kept = page.all_results(100).await;
    assert!(kept.iter().map(|(id, _)| *id).eq(4..=103));
    page.call(104, "math.add", &json!([1, 1])).await;
    assert_eq!(page.results().await.unwrap(), [1, 2, 3].map(|id| (id, error(LOST))));
}

#[tokio::test]
async fn pages_without_keys_call_too() {
    let live = builder()
        .allow_anonymous()
        .call("math.add", (), async |(), _: Caller, (a, b): (i64, i64)| Ok::<_, Infallible>(a + b))
        .build()
        .unwrap();
    let server = serve(&live);
    let mut page = server.page().await;
    page.call(1, "math.add", &json!([1, 1])).await;
    assert_eq!(page.results().await.unwrap(), [(1, data(2))]);
    drop(page);
    let mut page = server.page().await;
    page.call(3, "math.add", &json!([1, 1])).await;
    assert_eq!(page.results().await.unwrap(), [(1, error(LOST)), (2, error(LOST))]);
    assert_eq!(page.results().await.unwrap(), [(3, data(2))]);
}

/// Shuts down in a task of its own.
fn shut_down(live: &LiveUpdates) -> tokio::task::JoinHandle<()> {
    let live = live.clone();
    tokio::spawn(async move { live.shutdown().await })
}

#[tokio::test(start_paused = true)]
async fn calls_that_run_are_answered_before_the_server_goes() {
    let (gate, mut begun) = Gate::new();
    let live = with_methods(gate.clone()).build().unwrap();
    let mut page = serve(&live).page().await;
    page.call(1, "slow.wait", &json!([7])).await;
    begun.recv().await.unwrap();
    let shutdown = shut_down(&live);
    tokio::time::sleep(Duration::from_millis(500)).await;
    gate.open(1);
    assert_eq!(page.results().await, Ok(vec![(1, data(7))]));
    assert_eq!(page.end().await, End::Close(1001, "Going away".into()));
    shutdown.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn calls_that_would_run_for_too_long_fail_before_the_server_goes() {
    let (gate, mut begun) = Gate::new();
    let live = with_methods(gate).hook_timeout(Duration::from_secs(60)).build().unwrap();
    let mut page = serve(&live).page().await;
    let calls: Vec<Value> = (1..=9).map(|id| call(id, "slow.wait", &json!([id]))).collect();
    page.send_text(&message(&calls)).await;
    begun.recv().await.unwrap();
    let (shutdown, began) = (shut_down(&live), Instant::now());
    let given_up = page.all_results(9).await;
    let text = "the server shuts down: the call may or may not have been carried out";
    assert!(given_up.into_iter().eq((1..=9).map(|id| (id, error(text)))));
    assert_eq!(page.end().await, End::Close(1001, "Going away".into()));
    shutdown.await.unwrap();
    assert!(began.elapsed() <= Duration::from_secs(6), "{:?}", began.elapsed());
}

#[tokio::test]
async fn calls_that_wait_are_not_run_for_an_identity_that_is_disconnected() {
    let (gate, mut begun) = Gate::new();
    let live = with_methods(gate.clone()).max_concurrent_calls(1).build().unwrap();
    let server = serve(&live);
    let address = address(&server, "demo").await;
    let mut page = server.page_at(&address).await.unwrap();
    page.send_text(&message(&[1, 2].map(|id| call(id, "slow.wait", &json!([id]))))).await;
    begun.recv().await.unwrap();
    page.barrier().await;
    assert_eq!(live.disconnect(|_| true), 1);
    assert_eq!(page.end().await, End::Close(1008, "Disconnected".into()));
    drop(page);
    until("the socket is gone", || live.stats().connections == 0).await;
    gate.open(2);
    // It has ended by then: its page is sent that.
    let mut page = server.page_at(&address).await.unwrap();
    assert_eq!(page.results().await.unwrap(), [(1, data(1))]);
    page.call(3, "math.add", &json!([1, 1])).await;
    assert_eq!(page.all_results(2).await, [(2, error(LOST)), (3, data(2))]);
    assert!(begun.try_recv().is_err());
}

#[tokio::test]
async fn the_captured_page_is_answered() {
    let add = async |(), _: Caller, (a, b): (i64, i64)| Ok::<_, Infallible>(a + b);
    let fail = async |(), _: Caller, _: Value| Err::<(), _>(tower_live_updates::CallError::new("boom"));
    let live = builder().tokens(["token"]).call("svc.Add", (), add).call("svc.Fail", (), fail).build().unwrap();
    let server = serve(&live);
    let fixture: Value = serde_json::from_str(include_str!("../fixtures/ws_rpc.json")).unwrap();
    let entries = fixture["entries"].as_array().unwrap();
    let messages = |from: &'static str| {
        let of_socket = entries.iter().filter(move |entry| entry["kind"] == "ws" && entry["from"] == from);
        of_socket.map(|entry| entry["body"].as_str().unwrap())
    };
    let mut page = Page::open(server.connect(), "/api/v1?token=token&ws=1", &[]).await.unwrap();
    for sent in messages("A") {
        page.send_text(sent).await;
    }
    let theirs: Vec<(u64, Value)> = messages("server")
        .map(|text| serde_json::from_str::<Value>(text).unwrap())
        .filter(|message| message["action"] == "result")
        .flat_map(|message| {
            message["body"].as_array().unwrap().iter().map(crate::support::calls::outcome).collect::<Vec<_>>()
        })
        .collect();
    let ours = page.all_results(3).await;
    assert_eq!(ours[0], (1, error(LOST)), "no call of the page has this id");
    assert_eq!(ours[1..], theirs);
}
