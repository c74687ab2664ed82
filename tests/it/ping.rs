//! Pings keep proxies from cutting idle sockets, and detect dead peers.

use std::time::Duration;

use tokio::time::Instant;

use crate::support::{
    Server, builder, live,
    raw::{self, FIN, Raw, frame, text},
    until, usual,
};

const PONG: [u8; 6] = [FIN | raw::PONG, 0x80, 0, 0, 0, 0];

/// The next frame must be a ping; the seconds until it came.
async fn ping(raw: &mut Raw) -> f64 {
    let began = Instant::now();
    let (first, payload) = raw.frame().await.expect("a ping");
    assert_eq!(first, FIN | raw::PING);
    assert!(payload.len() <= 125);
    began.elapsed().as_secs_f64()
}

/// Reads until the socket is given up, which must happen; how many frames came until then.
async fn given_up(raw: &mut Raw) -> usize {
    let mut frames = 0;
    while raw.frame().await.is_some() {
        frames += 1;
        assert!(frames < 1000, "it stays open");
    }
    frames
}

#[tokio::test(start_paused = true)]
async fn every_socket_is_pinged_within_the_interval_and_then_at_every_one() {
    let server = Server::layered(&live().layer(), usual);
    let mut firsts = Vec::new();
    for _ in 0..20 {
        let mut raw = Raw::socket(server.connect()).await;
        let first = ping(&mut raw).await;
        assert!((12.0..=25.01).contains(&first), "{first}");
        firsts.push(first);
        for _ in 0..2 {
            raw.write(&PONG).await.unwrap();
            let next = ping(&mut raw).await;
            assert!((24.9..=25.1).contains(&next), "{next}");
        }
    }
    let (low, high) = (firsts.iter().copied().fold(f64::MAX, f64::min), firsts.iter().copied().fold(0.0, f64::max));
    assert!(high - low > 2.0, "thousands of sockets must not be pinged together: {firsts:?}");
}

#[tokio::test(start_paused = true)]
async fn the_interval_is_the_configured_one() {
    let live = builder().tokens(["demo"]).ping_interval(Duration::from_secs(4)).build().unwrap();
    let server = Server::layered(&live.layer(), usual);
    let mut raw = Raw::socket(server.connect()).await;
    assert!(ping(&mut raw).await <= 4.01);
    assert!((3.9..=4.1).contains(&ping(&mut raw).await));
}

#[tokio::test(start_paused = true)]
async fn an_idle_peer_is_closed_after_the_pong_timeout() {
    let live = live();
    let server = Server::layered(&live.layer(), usual);
    let began = Instant::now();
    let mut raw = Raw::socket(server.connect()).await;
    let pings = given_up(&mut raw).await;
    let silent = began.elapsed().as_secs_f64();
    // Noticed at the first ping that is due after the timeout.
    assert!((75.0..=100.1).contains(&silent), "{silent}");
    assert!(pings >= 3, "it had {pings} chances to answer");
    until("it is gone", || live.stats().connections == 0).await;
    assert_eq!(live.stats().sockets_closed_idle, 1);
    assert_eq!(live.stats().sockets_closed_slow, 0);
}

#[tokio::test(start_paused = true)]
async fn an_idle_peer_does_not_disturb_others() {
    let quick = builder().ping_interval(Duration::from_secs(10)).pong_timeout(Duration::from_secs(30));
    let live = quick.tokens(["demo"]).build().unwrap();
    let server = Server::layered(&live.layer(), usual);
    let mut silent = Raw::socket(server.connect()).await;
    silent.send_text(r#"{"action":"subscribe","name":"events"}"#).await;
    let mut page = server.subscribed().await;
    // A page answers pings while it reads.
    let reading = tokio::spawn(async move { page.end().await });
    given_up(&mut silent).await;
    until("it is gone", || live.stats().connections == 1).await;
    assert_eq!((live.stats().sockets_closed_idle, live.stats().subscriptions), (1, 1));
    reading.abort();
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_answers_stays_for_as_long_as_it_likes() {
    let live = live();
    let server = Server::layered(&live.layer(), usual);
    let mut raw = Raw::socket(server.connect()).await;
    let began = Instant::now();
    let mut pings = 0;
    while began.elapsed() < Duration::from_secs(600) {
        ping(&mut raw).await;
        raw.write(&PONG).await.unwrap();
        pings += 1;
    }
    assert!((24..=25).contains(&pings), "{pings} pings in ten minutes");
    raw.barrier().await;
    assert_eq!((live.stats().connections, live.stats().sockets_closed_idle), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn every_frame_of_a_peer_counts_as_a_sign_of_life() {
    let live = live();
    let server = Server::layered(&live.layer(), usual);
    for sign in [text("junk"), frame(raw::BINARY, b"x"), frame(raw::PONG, b"unasked"), text("{}")] {
        let mut raw = Raw::socket(server.connect()).await;
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(600) {
            // Never an answer to a ping.
            tokio::time::sleep(Duration::from_secs(70)).await;
            raw.write(&sign).await.unwrap();
        }
        given_up(&mut raw).await;
        let lived = began.elapsed().as_secs();
        assert!(lived >= 700, "it lived for {lived} s");
    }
    assert_eq!(live.stats().sockets_closed_idle, 4, "once nothing was received any more");
}

#[tokio::test(start_paused = true)]
async fn writing_to_a_peer_is_no_sign_of_life() {
    let live = live();
    let server = Server::layered(&live.layer(), usual);
    let mut raw = Raw::socket(server.connect()).await;
    raw.send_text(r#"{"action":"subscribe","name":"events"}"#).await;
    let began = Instant::now();
    let talking = tokio::spawn({
        let live = live.clone();
        async move {
            loop {
                live.send("events", "something").unwrap();
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    });
    given_up(&mut raw).await;
    assert!(began.elapsed() <= Duration::from_secs(101), "{:?}", began.elapsed());
    assert_eq!(live.stats().sockets_closed_idle, 1);
    talking.abort();
}

#[tokio::test(start_paused = true)]
async fn a_page_on_a_real_client_answers_by_itself() {
    let live = live();
    let server = Server::layered(&live.layer(), usual);
    let mut page = server.subscribed().await;
    let marker = live.clone();
    let publishing = tokio::spawn(async move {
        for _ in 0..60 {
            tokio::time::sleep(Duration::from_secs(10)).await;
            marker.send("events", "received").unwrap();
        }
    });
    for _ in 0..60 {
        assert_eq!(page.message().await.unwrap()["body"]["value"], "received");
    }
    publishing.await.unwrap();
    assert_eq!(live.stats().sockets_closed_idle, 0);
}
