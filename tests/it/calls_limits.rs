//! The limits of calls: what exceeds them has an error for its outcome, and the socket stays open.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;
use tower_live_updates::ConfigError;

use crate::support::{
    End, Page, Server,
    calls::{Gate, call, data, error, message, outcome, serve, with_methods},
    live,
    raw::{BINARY, CONTINUATION, FIN, Raw, TEXT, frame, header, masked, text},
    until, usual,
};

const SUBSCRIBE: &str = r#"{"action":"subscribe","name":"events"}"#;

fn length_of(bytes: usize) -> String {
    message(&[call(1, "text.length", &json!(["x".repeat(bytes)]))])
}

async fn outcomes(raw: &mut Raw, count: usize) -> Vec<(u64, Value)> {
    let mut results = Vec::new();
    while results.len() < count {
        let message = raw.json().await;
        assert_eq!(message["action"], "result", "{message}");
        results.extend(message["body"].as_array().unwrap().iter().map(outcome));
    }
    results.sort_by_key(|(id, _)| *id);
    results
}

#[tokio::test]
async fn of_two_hundred_calls_at_once_each_has_an_outcome() {
    // One by one, as a page makes them on an open socket; and in one message, as one that waits for its `start` does.
    for together in [false, true] {
        let live = with_methods(Gate::new().0).build().unwrap();
        let mut page = serve(&live).page().await;
        let calls: Vec<Value> = (1..=200).map(|id| call(id, "math.add", &json!([id, 0]))).collect();
        let messages = if together {
            vec![message(&calls)]
        } else {
            calls.iter().map(|one| message(std::slice::from_ref(one))).collect()
        };
        for message in messages {
            page.send_text(&message).await;
        }
        let results = page.all_results(200).await;
        assert!(results.iter().map(|(id, _)| *id).eq(1..=200), "{together}");
        let refused = results.iter().filter(|(_, outcome)| *outcome == error("too many calls in a short time")).count();
        let returned = results.iter().filter(|(id, outcome)| *outcome == data(*id)).count();
        assert_eq!((returned + refused, live.stats().calls_refused), (200, refused as u64), "{together}");
        assert!((95..=100).contains(&refused), "{refused}");
        page.barrier().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_page_may_make_twenty_calls_a_second() {
    let live = with_methods(Gate::new().0).build().unwrap();
    let mut page = serve(&live).page().await;
    let mut id = 0;
    let mut returned = async |page: &mut Page, calls: u64| {
        let calls: Vec<Value> = (id + 1..=id + calls).map(|id| call(id, "math.add", &json!([1, 1]))).collect();
        id += calls.len() as u64;
        page.send_text(&message(&calls)).await;
        let results = page.all_results(calls.len()).await;
        results.iter().filter(|(_, outcome)| *outcome == data(2)).count()
    };
    assert_eq!(returned(&mut page, 150).await, 100);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(returned(&mut page, 50).await, 20);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(returned(&mut page, 150).await, 100);
}

#[tokio::test]
async fn a_hundred_calls_of_a_page_wait() {
    let (gate, begun) = Gate::new();
    let live = with_methods(gate.clone()).max_call_rate(1000, 1000).build().unwrap();
    let mut page = serve(&live).page().await;
    page.send_text(&message(&(1..=8).map(|id| call(id, "slow.wait", &json!([id]))).collect::<Vec<_>>())).await;
    until("they run", || begun.len() == 8).await;
    page.send_text(&message(&(9..=110).map(|id| call(id, "slow.wait", &json!([id]))).collect::<Vec<_>>())).await;
    let refused = page.all_results(2).await;
    assert_eq!(refused, [109, 110].map(|id| (id, error("too many calls wait for others to end"))));
    gate.open(108);
    assert!(page.all_results(108).await.into_iter().eq((1..=108).map(|id| (id, data(id)))));
}

#[tokio::test(start_paused = true)]
async fn a_page_that_calls_without_a_pause_is_slowed_down_and_not_closed() {
    let live = with_methods(Gate::new().0).build().unwrap();
    let (mut sends, mut receives) = serve(&live).page().await.socket.split();
    let begun = Instant::now();
    let calls = tokio::spawn(async move {
        let mut id = 0;
        while begun.elapsed() < Duration::from_secs(90) {
            id += 1;
            sends.send(Message::text(message(&[call(id, "math.add", &json!([1, 1]))]))).await.expect("an open socket");
        }
        id
    });
    let mut settled = 0;
    let mut count = async |at_least: u64| {
        while settled < at_least {
            if let Message::Text(text) = receives.next().await.expect("an open socket").expect("a good frame") {
                let results: Value = serde_json::from_str(&text).unwrap();
                settled += results["body"].as_array().unwrap().len() as u64;
            }
        }
    };
    count(9000).await;
    assert!(begun.elapsed() > Duration::from_secs(60), "{:?}", begun.elapsed());
    // What has been sent and not read yet is in the stream alone.
    let reads = async { count(u64::MAX).await };
    let id = tokio::select! {
        id = calls => id.unwrap(),
        () = reads => unreachable!(),
    };
    count(id).await;
    assert_eq!(live.stats().sockets_closed_rate_limited, 0);
}

#[tokio::test]
async fn a_call_may_have_64_kib() {
    let live = with_methods(Gate::new().0).build().unwrap();
    let server = serve(&live);
    for (transport, mut raw) in server.connect_both().await {
        raw.upgrade("/api/v1?token=demo&ws=1").await;
        raw.json().await;
        let envelope = length_of(0).len();
        for (bytes, expected) in [
            (60 * 1024, data(60 * 1024)),
            (64 * 1024 - envelope, data(64 * 1024 - envelope)),
            (64 * 1024 - envelope + 1, error("the call is larger than 65536 bytes")),
            (70 * 1024, error("the call is larger than 65536 bytes")),
            (1024 * 1024, error("the call is larger than 65536 bytes")),
            (5, data(5)),
        ] {
            raw.send_text(&length_of(bytes)).await;
            assert_eq!(outcomes(&mut raw, 1).await.pop().unwrap().1, expected, "{transport} {bytes}");
            raw.barrier().await;
        }
    }
}

/// A message in fragments, with other frames between.
fn fragmented(opcode: u8, message: &[u8], size: usize, between: &[u8]) -> Vec<u8> {
    let chunks: Vec<&[u8]> = message.chunks(size).collect();
    let fragments = chunks.iter().enumerate().flat_map(|(place, chunk)| {
        let fin = if place + 1 == chunks.len() { FIN } else { 0 };
        let opcode = if place == 0 { opcode } else { CONTINUATION };
        [
            header(fin | opcode, true, chunk.len() as u64),
            masked(chunk),
            if fin == 0 { between.to_vec() } else { Vec::new() },
        ]
        .concat()
    });
    fragments.collect()
}

#[tokio::test]
async fn large_calls_keep_their_place_however_their_bytes_arrive() {
    let live = with_methods(Gate::new().0).max_concurrent_calls(1).max_call_rate(1000, 1000).build().unwrap();
    let server = serve(&live);
    let sum = |id: u64| text(&message(&[call(id, "math.add", &json!([id, 0]))]));
    let length = message(&[call(3, "text.length", &json!(["ä".repeat(5000)]))]);
    for size in [1000, 4097, 20_000] {
        for chunk in [1, 7, 127, 100_000] {
            let mut raw = Raw::socket(server.connect()).await;
            let bytes = [
                text(SUBSCRIBE),
                sum(1),
                sum(2),
                fragmented(TEXT, length.as_bytes(), size, &frame(0x9, b"between")),
                sum(4),
                fragmented(TEXT, message(&[call(5, "math.add", &json!([5, 0]))]).as_bytes(), 11, &[]),
                sum(6),
            ]
            .concat();
            for part in bytes.chunks(chunk) {
                raw.write(part).await.unwrap();
            }
            let mut order = Vec::new();
            while order.len() < 6 {
                let (first, payload) = raw.frame().await.unwrap();
                if first == FIN | TEXT {
                    let message: Value = serde_json::from_slice(&payload).unwrap();
                    order.extend(message["body"].as_array().unwrap().iter().map(outcome));
                } else {
                    assert_eq!((first, &payload[..]), (FIN | 0xA, &b"between"[..]));
                }
            }
            let expected = [(1, 1), (2, 2), (3, 10_000), (4, 4), (5, 5), (6, 6)].map(|(id, value)| (id, data(value)));
            assert_eq!(order, expected, "{size} {chunk}");
        }
    }
    assert_eq!(live.stats().messages_ignored, 0);
}

#[tokio::test]
async fn only_calls_may_be_large() {
    let live = with_methods(Gate::new().0).build().unwrap();
    let server = serve(&live);
    let spaces = " ".repeat(5000);
    let one = |message: String| frame(TEXT, message.as_bytes());
    for (what, bytes, code) in [
        ("a subscription", one(format!(r#"{{"action":"subscribe","name":"events"{spaces}}}"#)), 1009),
        ("no JSON", one(spaces.clone()), 1009),
        ("an action behind the body", one(format!(r#"{{"body":[{{"id":"1"}}],{spaces}"action":"call"}}"#)), 1009),
        ("a binary message", frame(BINARY, &[0; 5000]), 1009),
        ("no UTF-8", frame(TEXT, &[br#"{"action":"call","body":""#, &[0xff; 5000][..], br#""}"#].concat()), 1007),
        ("a message within a message", [fragmented(TEXT, &[b' '; 20], 10, &text(SUBSCRIBE))].concat(), 1002),
        ("a continuation of nothing", frame(CONTINUATION, b"x"), 1002),
        ("fragments of a subscription", fragmented(TEXT, spaces.as_bytes(), 100, &[]), 1009),
    ] {
        let mut raw = Raw::socket(server.connect()).await;
        raw.write(&bytes).await.unwrap();
        assert_eq!(raw.end().await, End::Close(code, String::new()), "{what}");
    }
    // And without methods no message is.
    let server = Server::layered(&self::live().layer(), usual);
    let mut raw = Raw::socket(server.connect()).await;
    raw.send_text(&length_of(5000)).await;
    assert_eq!(raw.end().await, End::Close(1009, String::new()));
}

#[tokio::test]
async fn small_messages_in_fragments_are_messages() {
    let live = with_methods(Gate::new().0).build().unwrap();
    let mut raw = Raw::socket(serve(&live).connect()).await;
    raw.write(&fragmented(TEXT, SUBSCRIBE.as_bytes(), 5, &frame(0x9, b""))).await.unwrap();
    until("it is subscribed", || live.stats().subscriptions == 1).await;
    raw.write(&fragmented(BINARY, &[7; 30], 9, &[])).await.unwrap();
    until("it is ignored", || live.stats().messages_ignored == 1).await;
}

#[tokio::test]
async fn calls_of_all_pages_share_their_memory_and_give_it_back() {
    let (gate, mut begun) = Gate::new();
    let live = with_methods(gate.clone()).max_call_memory(100 * 1024).build().unwrap();
    let server = serve(&live);
    let no_room = error("the server has no room for more calls at the moment");
    let mut pages = [server.page().await, server.page().await];
    // One that arrives, and one that waits in a method.
    let mut raw = Raw::socket(server.connect()).await;
    let half = text(&length_of(60 * 1024));
    raw.write(&half[..half.len() - 10]).await.unwrap();
    let big = json!(["x".repeat(50 * 1024)]);
    // Until the bytes have arrived, there is room.
    let mut id = 0;
    loop {
        id += 1;
        if pages[0].outcome(id, "text.length", &big).await == no_room {
            break;
        }
    }
    id += 1;
    pages[0].call(id, "slow.wait", &json!([3])).await;
    begun.recv().await.unwrap();
    raw.write(&half[half.len() - 10..]).await.unwrap();
    assert_eq!(outcomes(&mut raw, 1).await.pop().unwrap().1, data(60 * 1024));
    gate.open(1);
    assert_eq!(pages[0].results().await.unwrap(), [(id, data(3))]);
    for id in 2..50 {
        assert_eq!(pages[1].outcome(id, "text.length", &big).await, data(50 * 1024));
    }
    // The memory of a page that goes in the middle of a call.
    for _ in 0..5 {
        let mut raw = Raw::socket(server.connect()).await;
        raw.write(&half[..half.len() - 10]).await.unwrap();
        drop(raw);
    }
    until("they are gone", || live.stats().connections == 3).await;
    assert_eq!(pages[1].outcome(50, "text.length", &big).await, data(50 * 1024));
}

#[test]
fn limits_of_zero_are_refused() {
    let zero = |builder: tower_live_updates::LiveUpdatesBuilder<_>| builder.build().unwrap_err();
    let with = || with_methods(Gate::new().0);
    for (setting, error) in [
        ("max_call_bytes", zero(with().max_call_bytes(0))),
        ("max_call_rate", zero(with().max_call_rate(0, 1))),
        ("max_call_rate", zero(with().max_call_rate(1, 0))),
        ("max_waiting_calls", zero(with().max_waiting_calls(0))),
        ("max_concurrent_calls", zero(with().max_concurrent_calls(0))),
        ("max_call_memory", zero(with().max_call_memory(0))),
    ] {
        assert!(matches!(error, ConfigError::Zero(name) if name == setting), "{setting}: {error}");
    }
}
