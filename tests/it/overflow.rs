//! Slow consumers: readers that stop, that are slow, that lag; no other page is affected.

use std::time::{Duration, Instant};

use serde_json::json;
use tower_live_updates::{Change, LiveUpdates, LiveUpdatesBuilder, builder::HasAuth};

use crate::support::{
    End, Server, builder,
    raw::{self, FIN, Raw},
    until, usual,
};

/// Each transport a socket can be written to.
const TRANSPORTS: [&str; 2] = ["any stream", "TCP"];

fn patient() -> LiveUpdatesBuilder<HasAuth> {
    builder().tokens(["demo"]).write_timeout(Duration::from_secs(60))
}

/// A subscribed socket whose stream holds little.
async fn narrow(server: &Server, transport: &str) -> Raw {
    let mut raw = match transport {
        "TCP" => Raw::socket(server.connect_tcp(Some(4 * 1024)).await).await,
        _ => Raw::socket(server.connect_with(4 * 1024)).await,
    };
    subscribe(&mut raw).await;
    raw
}

async fn subscribe(raw: &mut Raw) {
    raw.send_text(r#"{"action":"subscribe","name":"events"}"#).await;
    raw.barrier().await;
}

async fn wide(server: &Server, transport: &str) -> Raw {
    let mut raw = match transport {
        "TCP" => Raw::socket(server.connect_tcp(None).await).await,
        _ => Raw::socket(server.connect()).await,
    };
    subscribe(&mut raw).await;
    raw
}

/// An update of 20 KB with a number that identifies it.
fn update(number: usize) -> Change {
    Change::update(&json!({"id": 7, "number": number, "text": "z".repeat(20_000)})).unwrap()
}

/// The number in the next update, or how the socket ended. Pings do not count.
async fn number(raw: &mut Raw) -> Result<usize, End> {
    loop {
        let Some((first, payload)) = raw.frame().await else { return Err(End::Gone) };
        if first == FIN | raw::CLOSE {
            let code = u16::from_be_bytes([payload[0], payload[1]]);
            return Err(End::Close(code, String::from_utf8(payload[2..].to_vec()).unwrap()));
        }
        if first == FIN | raw::TEXT {
            let message: serde_json::Value = serde_json::from_slice(&payload).expect("a whole frame");
            return Ok(message["body"]["value"]["event"]["number"].as_u64().unwrap().try_into().unwrap());
        }
    }
}

async fn reads_in_order(raw: &mut Raw, numbers: std::ops::Range<usize>) {
    for expected in numbers {
        assert_eq!(number(raw).await, Ok(expected));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_readers_delay_neither_a_healthy_one_nor_the_publisher() {
    for transport in TRANSPORTS {
        let live = patient().build().unwrap();
        let server = Server::layered(&live.layer(), usual);
        let mut healthy = wide(&server, transport).await;
        let mut stopped = Vec::new();
        for stopped_transport in [transport, "any stream", "TCP"] {
            stopped.push(narrow(&server, stopped_transport).await);
        }
        let reading = tokio::spawn(async move {
            reads_in_order(&mut healthy, 0..300).await;
            healthy
        });
        let mut slowest = Duration::ZERO;
        for sent in 0..300 {
            let change = update(sent);
            let began = Instant::now();
            live.publish("events", change).unwrap();
            slowest = slowest.max(began.elapsed());
            tokio::task::yield_now().await;
        }
        let read = tokio::time::timeout(Duration::from_secs(20), reading).await;
        let _healthy = read.expect("all of it within 20 s").unwrap();
        assert!(slowest < Duration::from_secs(1), "{transport}: a publish took {slowest:?}");
        let stats = live.stats();
        assert_eq!((stats.connections, stats.sockets_closed_slow), (4, 0), "{transport}: the others still stand there");
        // What they find when they read again is whole and in order.
        for raw in &mut stopped {
            reads_in_order(raw, 0..300).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_go_on_beside_stopped_readers() {
    let live = patient().build().unwrap();
    let server = Server::layered(&live.layer(), usual);
    let _stopped = [narrow(&server, "TCP").await, narrow(&server, "any stream").await];
    let text = "z".repeat(20_000);
    let began = Instant::now();
    for _ in 0..100 {
        let answer = server.write(http::Method::PUT, "/events/7", &format!(r#"{{"text":"{text}"}}"#)).await;
        assert_eq!(answer.status(), 200);
    }
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!((live.stats().changes_published, live.stats().connections), (100, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_reader_is_closed_within_the_write_timeout_and_counted() {
    for transport in TRANSPORTS {
        let live = builder().tokens(["demo"]).write_timeout(Duration::from_millis(500)).build().unwrap();
        let server = Server::layered(&live.layer(), usual);
        let mut stopped = narrow(&server, transport).await;
        let mut healthy = wide(&server, transport).await;
        let reading = tokio::spawn(async move {
            reads_in_order(&mut healthy, 0..600).await;
            healthy
        });
        let began = Instant::now();
        for sent in 0..600 {
            live.publish("events", update(sent)).unwrap();
            if sent % 50 == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        let mut healthy = reading.await.unwrap();
        until("it is closed", || live.stats().sockets_closed_slow == 1).await;
        assert!(began.elapsed() < Duration::from_secs(10), "{transport}: {:?}", began.elapsed());
        until("its permit is free", || live.stats().connections == 1).await;
        assert_eq!((live.stats().subscriptions, live.stats().sockets_closed_idle), (1, 0), "{transport}");

        // What it had been sent is whole and in order; then it ends, with a word about it if there was time.
        let mut expected = 0;
        let end = loop {
            match number(&mut stopped).await {
                Ok(found) => assert_eq!(found, expected, "{transport}"),
                Err(end) => break end,
            }
            expected += 1;
        };
        assert!(end == End::Gone || end == End::Close(1013, "Too slow".into()), "{transport}: {end:?}");
        assert!(expected < 600, "{transport}: it stood still");
        live.publish("events", update(600)).unwrap();
        assert_eq!(number(&mut healthy).await, Ok(600), "{transport}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_write_timeout_is_measured_by_the_clock_and_not_by_the_amount() {
    let live = builder().tokens(["demo"]).write_timeout(Duration::from_secs(10)).build().unwrap();
    let server = Server::layered(&live.layer(), usual);
    let mut raw = narrow(&server, "any stream").await;
    let began = tokio::time::Instant::now();
    live.publish_many("events", (0..3).map(update)).unwrap();
    // A pipe's fill every nine seconds keeps it, however much there is to write.
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_secs(9)).await;
        assert!(raw.bytes(4 * 1024).await.is_some());
    }
    assert_eq!(live.stats().sockets_closed_slow, 0);
    until("nothing more is read", || live.stats().sockets_closed_slow == 1).await;
    let seconds = began.elapsed().as_secs_f64();
    assert!((45.9..=46.2).contains(&seconds), "ten seconds after the last read: {seconds}");
}

#[tokio::test]
async fn a_reader_that_lags_behind_the_log_is_closed_and_the_others_go_on() {
    for transport in TRANSPORTS {
        let live = patient()
            .max_log_records(100)
            .max_log_bytes(64 * 1024 * 1024)
            .log_retention(Duration::from_secs(3600))
            .build()
            .unwrap();
        let server = Server::layered(&live.layer(), usual);
        let mut behind = narrow(&server, transport).await;
        let mut healthy = wide(&server, transport).await;
        for start in (0..600).step_by(20) {
            for sent in start..start + 20 {
                live.publish("events", update(sent)).unwrap();
            }
            reads_in_order(&mut healthy, start..start + 20).await;
        }
        assert_eq!((live.stats().log_records, live.stats().connections), (100, 2));
        let mut expected = 0;
        let end = loop {
            match number(&mut behind).await {
                Ok(found) => assert_eq!(found, expected, "{transport}: no gap, no disorder"),
                Err(end) => break end,
            }
            expected += 1;
        };
        assert_eq!(end, End::Close(1013, "Too slow".into()), "{transport}");
        assert!(expected < 500, "{transport}: it was behind");
        drop(behind);
        until("its permit is free", || live.stats().connections == 1).await;
        assert_eq!(live.stats().sockets_closed_slow, 1, "{transport}");
        live.publish("events", update(600)).unwrap();
        assert_eq!(number(&mut healthy).await, Ok(600), "{transport}");
    }
}

#[tokio::test]
async fn a_reader_that_holds_much_of_what_the_log_has_dropped_is_closed_at_once() {
    for transport in TRANSPORTS {
        let live = patient().max_log_bytes(4 * 1024 * 1024).build().unwrap();
        let server = Server::layered(&live.layer(), usual);
        let _stopped = narrow(&server, transport).await;
        let mut healthy = wide(&server, transport).await;
        for sent in 0..10 {
            let large = json!({"id": 7, "number": sent, "text": "z".repeat(1_000_000)});
            live.publish("events", Change::update(&large).unwrap()).unwrap();
            assert_eq!(number(&mut healthy).await, Ok(sent), "{transport}");
        }
        until("it is closed", || live.stats().sockets_closed_slow == 1).await;
        until("and gone", || live.stats().connections == 1).await;
    }
}

#[tokio::test]
async fn a_page_without_subscriptions_never_lags() {
    let live = builder()
        .tokens(["demo"])
        .max_log_records(2)
        .max_log_bytes(1024 * 1024)
        .log_retention(Duration::from_secs(60))
        .build()
        .unwrap();
    let server = Server::layered(&live.layer(), usual);
    for transport in TRANSPORTS {
        let mut raw = match transport {
            "TCP" => Raw::socket(server.connect_tcp(None).await).await,
            _ => Raw::socket(server.connect()).await,
        };
        // More at one time than the log keeps, with nothing in between.
        for sent in 0..50 {
            live.publish("events", update(sent)).unwrap();
        }
        raw.barrier().await;
        subscribe(&mut raw).await;
        live.publish("events", update(50)).unwrap();
        assert_eq!(number(&mut raw).await, Ok(50), "{transport}");
    }
    assert_eq!(live.stats().sockets_closed_slow, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_that_keeps_reading_gets_everything_in_order() {
    for transport in TRANSPORTS {
        let live = builder().tokens(["demo"]).write_timeout(Duration::from_secs(2)).build().unwrap();
        let server = Server::layered(&live.layer(), usual);
        let mut slow = narrow(&server, transport).await;
        let publishing = tokio::spawn({
            let live = live.clone();
            async move {
                for sent in 0..300 {
                    live.publish("events", update(sent)).unwrap();
                    tokio::task::yield_now().await;
                }
            }
        });
        for expected in 0..300 {
            assert_eq!(number(&mut slow).await, Ok(expected), "{transport}");
            // Slower than the events come: this is what the test is about.
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        publishing.await.unwrap();
        // It is as good a reader as any again.
        live.publish("events", update(300)).unwrap();
        assert_eq!(number(&mut slow).await, Ok(300), "{transport}");
        assert_eq!(live.stats().sockets_closed_slow, 0, "{transport}");
    }
}

async fn bulk_arrives(live: &LiveUpdates, mut raw: Raw, transport: &str) {
    for round in 0..3 {
        let many: Vec<Change> = (0..3000)
            .map(|number| Change::update(&json!({"id": 7, "number": round * 3000 + number})).unwrap())
            .collect();
        live.publish_many("events", many).unwrap();
        for expected in round * 3000..(round + 1) * 3000 {
            assert_eq!(number(&mut raw).await, Ok(expected), "{transport}");
        }
    }
    assert_eq!(live.stats().sockets_closed_slow, 0, "{transport}");
}

#[tokio::test]
async fn many_changes_at_once_arrive_whole_and_in_order() {
    for transport in TRANSPORTS {
        let live = patient().build().unwrap();
        let server = Server::layered(&live.layer(), usual);
        let raw = wide(&server, transport).await;
        bulk_arrives(&live, raw, transport).await;
    }
}

#[tokio::test]
async fn many_large_changes_at_once_arrive_whole_and_in_order() {
    for transport in TRANSPORTS {
        let live = patient().build().unwrap();
        let server = Server::layered(&live.layer(), usual);
        let mut raw = wide(&server, transport).await;
        live.publish_many("events", (0..300).map(update)).unwrap();
        reads_in_order(&mut raw, 0..300).await;
    }
}

#[tokio::test]
async fn answers_keep_their_order_among_the_events() {
    for transport in TRANSPORTS {
        let live = patient().build().unwrap();
        let server = Server::layered(&live.layer(), usual);
        let mut raw = narrow(&server, transport).await;
        // The pipe is full in the middle of an event: a pong must not come in between.
        live.publish_many("events", (0..200).map(update)).unwrap();
        for _ in 0..10 {
            raw.write(&raw::frame(raw::PING, b"among")).await.unwrap();
            tokio::task::yield_now().await;
        }
        let (mut events, mut pongs) = (0, 0);
        while events < 200 || pongs == 0 {
            match raw.frame().await.expect("a whole frame") {
                (first, _) if first == FIN | raw::TEXT => events += 1,
                (first, payload) => {
                    assert_eq!((first, &payload[..]), (FIN | raw::PONG, &b"among"[..]), "{transport}");
                    pongs += 1;
                }
            }
        }
        assert_eq!(events, 200, "{transport}");
    }
}

#[cfg(feature = "axum")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_changes_at_once_arrive_through_axums_server_too() {
    let live = patient().build().unwrap();
    let app = axum::Router::<()>::new().layer(live.layer());
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(axum::serve(listener, app).into_future());
    let mut raw = Raw::socket(tokio::net::TcpStream::connect(address).await.unwrap()).await;
    subscribe(&mut raw).await;
    bulk_arrives(&live, raw, "axum").await;
    server.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_pages_that_connect_at_once_all_receive_the_next_event() {
    let live = patient().build().unwrap();
    let server = Server::layered(&live.layer(), usual);
    let herd: Vec<_> = (0..300)
        .map(|at| {
            let server = server.clone();
            tokio::spawn(async move { wide(&server, TRANSPORTS[at % 2]).await })
        })
        .collect();
    let mut sockets = Vec::new();
    for socket in herd {
        sockets.push(socket.await.unwrap());
    }
    live.publish("events", update(1)).unwrap();
    for raw in &mut sockets {
        assert_eq!(number(raw).await, Ok(1));
    }
    assert_eq!(live.stats().connections, 300);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sockets_that_come_and_go_disturb_no_other() {
    let live = patient().build().unwrap();
    let server = Server::layered(&live.layer(), usual);
    let mut steady = Vec::new();
    for transport in TRANSPORTS {
        steady.push(wide(&server, transport).await);
    }
    let _stopped = narrow(&server, "TCP").await;
    let coming_and_going = tokio::spawn({
        let server = server.clone();
        async move {
            for at in 0..100 {
                let mut raw = match TRANSPORTS[at % 2] {
                    "TCP" => Raw::socket(server.connect_tcp(None).await).await,
                    _ => Raw::socket(server.connect()).await,
                };
                raw.send_text(r#"{"action":"subscribe","name":"events"}"#).await;
                if at % 3 == 0 {
                    number(&mut raw).await.unwrap();
                }
            }
        }
    });
    let mut sent = 0;
    while sent < 1000 || !coming_and_going.is_finished() {
        live.publish("events", Change::update(&json!({"id": 7, "number": sent})).unwrap()).unwrap();
        sent += 1;
        tokio::task::yield_now().await;
    }
    coming_and_going.await.unwrap();
    for raw in &mut steady {
        reads_in_order(raw, 0..sent).await;
    }
    until("they are gone", || live.stats().connections == 3).await;
}
