//! What pages, and others, may send as frames.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tower_live_updates::LiveUpdates;

use crate::support::{
    End, Server, builder, live,
    raw::{self, FIN, Raw, frame, header, masked, text},
    until, usual,
};

const SUBSCRIBE: &str = r#"{"action":"subscribe","name":"events"}"#;

/// With pages that may send what they like.
fn talkative() -> LiveUpdates {
    builder().tokens(["demo"]).max_message_rate(u32::MAX, u32::MAX).build().unwrap()
}

/// A socket over each transport.
async fn sockets(server: &Server) -> [(&'static str, Raw); 2] {
    let through_any = Raw::socket(server.connect()).await;
    [("any stream", through_any), ("TCP", Raw::socket(server.connect_tcp(None).await).await)]
}

/// The socket must still do its work.
async fn works(live: &LiveUpdates, raw: &mut Raw, after: &str) {
    raw.send_text(SUBSCRIBE).await;
    raw.barrier().await;
    live.send("events", &json!("received")).unwrap();
    assert_eq!(raw.json().await["body"]["value"], "received", "after {after:?}");
}

/// These bytes must end the socket with this code, at once, and affect no other.
async fn ends(code: u16, bytes: &[u8]) {
    let live = live();
    let server = Server::layered(&live.layer(), usual);
    let mut other = Raw::socket(server.connect()).await;
    for (transport, mut raw) in sockets(&server).await {
        let began = Instant::now();
        raw.write(bytes).await.unwrap();
        assert_eq!(raw.end().await, End::Close(code, String::new()), "{transport}");
        drop(raw);
        assert!(began.elapsed() < Duration::from_secs(1), "{transport}: {:?}", began.elapsed());
    }
    works(&live, &mut other, "others have broken the rules").await;
    until("only the other is left", || live.stats().connections == 1).await;
}

#[tokio::test]
async fn messages_that_make_no_sense_are_ignored_and_the_socket_works_on() {
    let live = live();
    let server = Server::layered(&live.layer(), usual);
    let junk = [
        "null",
        "[]",
        "42",
        "\"x\"",
        "{",
        "",
        "{}",
        r#"{"action":null}"#,
        r#"{"action":"subscribe"}"#,
        r#"{"action":"subscribe","name":null}"#,
        r#"{"action":"subscribe","name":7}"#,
        r#"{"action":"subscribe","name":{}}"#,
        r#"{"action":"subscribe","name":["events"]}"#,
        r#"{"action":"call","body":[{"name":"a.b","args":[]}]}"#,
        r#"{"action":"nosuch"}"#,
        r#"{"action":{"a":1}}"#,
        r#"{"action":"unsubscribe"}"#,
        "\0",
        r#"{"action":"subscribe","name":"events"#,
        r#"{"action":"subscribe","name":"events"} x"#,
        "\u{feff}{\"action\":\"subscribe\",\"name\":\"events\"}",
        r#"{"Action":"subscribe","name":"events"}"#,
        r#"{"action":"event","body":{"name":"events","value":{"type":"delete-event","event":{"id":7}}}}"#,
        r#"{"action":"start","body":"x"}"#,
    ];
    for message in junk {
        let mut raw = Raw::socket(server.connect()).await;
        raw.send_text(message).await;
        works(&live, &mut raw, message).await;
    }
    assert_eq!(live.stats().messages_ignored, junk.len() as u64);
    assert_eq!(live.stats().changes_published, 0, "pages cannot send to pages");
}

#[tokio::test]
async fn binary_messages_are_ignored() {
    let live = live();
    let server = Server::layered(&live.layer(), usual);
    for (transport, mut raw) in sockets(&server).await {
        raw.write(&frame(raw::BINARY, SUBSCRIBE.as_bytes())).await.unwrap();
        raw.write(&frame(raw::BINARY, &(0..=255).collect::<Vec<u8>>())).await.unwrap();
        raw.barrier().await;
        assert_eq!(live.stats().subscriptions, 0, "{transport}");
        works(&live, &mut raw, "binary").await;
        drop(raw);
        until("the socket is gone", || live.stats().connections < 2 && live.stats().subscriptions == 0).await;
    }
    assert_eq!(live.stats().messages_ignored, 4);
}

#[tokio::test]
async fn a_ping_between_the_fragments_of_a_message_is_answered_at_once() {
    let live = live();
    let server = Server::layered(&live.layer(), usual);
    let fragment = |first: u8, part: &str| [header(first, true, part.len() as u64), masked(part.as_bytes())].concat();
    for (transport, mut raw) in sockets(&server).await {
        raw.write(&fragment(raw::TEXT, &SUBSCRIBE[..7])).await.unwrap();
        raw.write(&frame(raw::PING, b"mid")).await.unwrap();
        assert_eq!(raw.frame().await.unwrap(), (FIN | raw::PONG, b"mid".to_vec()), "{transport}");
        raw.write(&fragment(raw::CONTINUATION, &SUBSCRIBE[7..20])).await.unwrap();
        raw.write(&fragment(raw::CONTINUATION, "")).await.unwrap();
        raw.write(&fragment(FIN | raw::CONTINUATION, &SUBSCRIBE[20..])).await.unwrap();
        raw.barrier().await;
        live.send("events", &json!("received")).unwrap();
        assert_eq!(raw.json().await["body"]["value"], "received", "{transport}");
    }
}

#[tokio::test]
async fn pings_of_every_allowed_size_come_back_as_they_were() {
    let live = live();
    let server = Server::layered(&live.layer(), usual);
    for (transport, mut raw) in sockets(&server).await {
        for size in [0, 1, 5, 124, 125] {
            let payload: Vec<u8> = (0..size).collect();
            raw.write(&frame(raw::PING, &payload)).await.unwrap();
            assert_eq!(raw.frame().await.unwrap(), (FIN | raw::PONG, payload), "{transport}");
        }
    }
}

#[tokio::test]
async fn a_flood_of_pings_from_a_peer_that_does_not_read_takes_little_memory() {
    let live = talkative();
    let server = Server::layered(&live.layer(), usual);
    // Small pipes: what the peer does not read stands still soon.
    let mut raw = Raw::socket(server.connect_with(4 * 1024)).await;
    let ping = frame(raw::PING, &[7; 125]);
    for _ in 0..5000 {
        raw.write(&ping).await.unwrap();
    }
    raw.write(&frame(raw::PING, b"the last")).await.unwrap();
    let mut answered = 0;
    while raw.frame().await.unwrap() != (FIN | raw::PONG, b"the last".to_vec()) {
        answered += 1;
    }
    // A pong may answer several pings (RFC 6455 5.5.3); 635 KB of them have not been kept.
    assert!((1..1000).contains(&answered), "{answered} pongs were waiting");
    works(&live, &mut raw, "a flood of pings").await;
}

#[tokio::test]
async fn text_that_is_no_utf_8_ends_the_socket() {
    ends(1007, &frame(raw::TEXT, b"{\"action\":\"\xce\xba\xed\xa0\x80\"}")).await;
    ends(1007, &frame(raw::TEXT, b"\xff")).await;
    ends(1007, &frame(raw::TEXT, b"\xc3")).await;
}

#[tokio::test]
async fn unmasked_frames_end_the_socket() {
    ends(1002, &[header(FIN | raw::TEXT, false, SUBSCRIBE.len() as u64), SUBSCRIBE.into()].concat()).await;
    ends(1002, &header(FIN | raw::PING, false, 0)).await;
}

#[tokio::test]
async fn reserved_opcodes_and_bits_end_the_socket() {
    for opcode in [0x3, 0x4, 0x5, 0x6, 0x7, 0xB, 0xC, 0xD, 0xE, 0xF] {
        ends(1002, &frame(opcode, b"x")).await;
    }
    for bit in [0x40, 0x20, 0x10] {
        ends(1002, &frame(bit | raw::TEXT, b"x")).await;
    }
}

#[tokio::test]
async fn control_frames_that_are_too_long_or_in_pieces_end_the_socket() {
    ends(1002, &frame(raw::PING, &[b'x'; 126])).await;
    ends(1002, &frame(raw::PONG, &[b'x'; 126])).await;
    ends(1002, &[header(raw::PING, true, 1), masked(b"x")].concat()).await;
}

#[tokio::test]
async fn fragments_out_of_order_end_the_socket() {
    ends(1002, &frame(raw::CONTINUATION, b"x")).await;
    ends(1002, &[header(raw::TEXT, true, 1), masked(b"x"), frame(raw::TEXT, b"y")].concat()).await;
}

#[tokio::test]
async fn a_frame_that_announces_a_huge_length_ends_the_socket_before_its_payload() {
    for length in [1 << 30, u64::from(u32::MAX), u64::MAX >> 1] {
        ends(1009, &[header(FIN | raw::TEXT, true, length), masked(&[b'x'; 100])].concat()).await;
    }
}

#[tokio::test]
async fn a_message_may_be_as_large_as_configured_and_no_larger() {
    let live = builder().tokens(["demo"]).max_message_bytes(300).build().unwrap();
    let server = Server::layered(&live.layer(), usual);
    let padded = |length: usize| format!("{SUBSCRIBE:<length$}");
    for (transport, mut raw) in sockets(&server).await {
        raw.send_text(&padded(300)).await;
        raw.barrier().await;
        live.send("events", &json!("received")).unwrap();
        assert_eq!(raw.json().await["body"]["value"], "received", "{transport}");
        raw.send_text(&padded(301)).await;
        assert_eq!(raw.end().await, End::Close(1009, String::new()), "{transport}");
    }
    for (transport, mut raw) in sockets(&server).await {
        // The same in pieces that are each small enough.
        let message = padded(301);
        let fragment =
            |first: u8, part: &str| [header(first, true, part.len() as u64), masked(part.as_bytes())].concat();
        raw.write(&fragment(raw::TEXT, &message[..200])).await.unwrap();
        raw.write(&fragment(FIN | raw::CONTINUATION, &message[200..])).await.unwrap();
        assert_eq!(raw.end().await, End::Close(1009, String::new()), "{transport}");
    }
}

#[tokio::test]
async fn the_usual_limit_is_four_kibibytes() {
    let live = live();
    let server = Server::layered(&live.layer(), usual);
    let mut raw = Raw::socket(server.connect()).await;
    raw.send_text(&format!("{SUBSCRIBE:<4096}")).await;
    raw.barrier().await;
    assert_eq!(live.stats().subscriptions, 1);
    raw.send_text(&format!("{SUBSCRIBE:<4097}")).await;
    assert_eq!(raw.end().await, End::Close(1009, String::new()));
}

#[tokio::test]
async fn a_page_that_closes_gets_its_close_back_and_the_connection_ends() {
    let live = live();
    let server = Server::layered(&live.layer(), usual);
    for payload in [&b"\x03\xe8bye"[..], &b"\x03\xe9"[..]] {
        for (transport, mut raw) in sockets(&server).await {
            let began = Instant::now();
            raw.write(&frame(raw::CLOSE, payload)).await.unwrap();
            let (first, answer) = raw.frame().await.expect("a close frame");
            assert_eq!((first, &answer[..2]), (FIN | raw::CLOSE, &payload[..2]), "{transport}");
            assert!(raw.is_over().await, "{transport}");
            assert!(began.elapsed() < Duration::from_secs(1), "{transport}: {:?}", began.elapsed());
        }
    }
    until("all sockets have ended", || live.stats().connections == 0).await;
}

#[tokio::test]
async fn a_close_without_a_code_is_answered_too() {
    let live = live();
    let server = Server::layered(&live.layer(), usual);
    for (transport, mut raw) in sockets(&server).await {
        raw.write(&frame(raw::CLOSE, b"")).await.unwrap();
        let (first, answer) = raw.frame().await.expect("a close frame");
        assert_eq!((first, answer.len()), (FIN | raw::CLOSE, 0), "{transport}");
        assert!(raw.is_over().await, "{transport}");
    }
}

#[tokio::test]
async fn a_close_that_is_none_ends_the_socket_all_the_same() {
    for payload in [&b"\x03"[..], b"\x00\x00", b"\x03\xed", b"\x03\xe8\xff"] {
        let live = live();
        let server = Server::layered(&live.layer(), usual);
        for (transport, mut raw) in sockets(&server).await {
            raw.write(&frame(raw::CLOSE, payload)).await.unwrap();
            assert!(matches!(raw.end().await, End::Close(1002 | 1007, _)), "{transport} {payload:?}");
        }
    }
}

#[tokio::test]
async fn when_the_server_closes_and_the_page_answers_the_connection_ends_at_once() {
    let live = live();
    let server = Server::layered(&live.layer(), usual);
    for (transport, mut raw) in sockets(&server).await {
        let began = Instant::now();
        live.disconnect(|_| true);
        let End::Close(code, _) = raw.end().await else { panic!("{transport}: a close frame") };
        raw.write(&frame(raw::CLOSE, &code.to_be_bytes())).await.unwrap();
        assert!(raw.is_over().await, "{transport}");
        assert!(began.elapsed() < Duration::from_secs(1), "{transport}: {:?}", began.elapsed());
    }
}

#[tokio::test]
async fn messages_after_the_close_are_ignored() {
    let live = live();
    let server = Server::layered(&live.layer(), usual);
    for (transport, mut raw) in sockets(&server).await {
        let closing = [frame(raw::CLOSE, b"\x03\xe8"), text(SUBSCRIBE), frame(raw::PING, b"x")].concat();
        raw.write(&closing).await.unwrap();
        assert_eq!(raw.end().await, End::Close(1000, String::new()), "{transport}");
        assert!(raw.is_over().await, "{transport}: no pong");
        assert_eq!((live.stats().subscriptions, live.stats().messages_ignored), (0, 0), "{transport}");
    }
}

#[tokio::test]
async fn json_nested_as_deep_as_a_message_can_hold_is_ignored() {
    let live = builder().tokens(["demo"]).max_message_bytes(1024 * 1024).build().unwrap();
    let server = Server::layered(&live.layer(), usual);
    let levels = 100_000;
    let (open, close) = ("[".repeat(levels), "]".repeat(levels));
    let objects = format!("{}1{}", r#"{"a":"#.repeat(levels), "}".repeat(levels));
    for message in [
        format!("{open}{close}"),
        open.clone(),
        objects.clone(),
        format!(r#"{{"action":"subscribe","name":{open}{close}}}"#),
        format!(r#"{{"action":"call","body":[{{"id":{open}{close}}}]}}"#),
        format!(r#"{{"action":"call","body":{open}{close}}}"#),
        format!(r#"{{"action":{objects}}}"#),
    ] {
        let mut raw = Raw::socket(server.connect()).await;
        raw.send_text(&message).await;
        works(&live, &mut raw, &message[..40]).await;
    }
    assert_eq!(live.stats().messages_ignored, 7);
}

#[tokio::test]
async fn a_flood_of_names_leaves_nothing_behind() {
    let live = talkative();
    let server = Server::layered(&live.layer(), usual);
    let mut raw = Raw::socket(server.connect()).await;
    for thousands in 0..30 {
        let flood: Vec<u8> = (0..1000)
            .flat_map(|one| text(&format!(r#"{{"action":"subscribe","name":"name-{thousands}-{one}"}}"#)))
            .collect();
        raw.write(&flood).await.unwrap();
    }
    works(&live, &mut raw, "a flood of names").await;
    assert_eq!((live.stats().subscriptions, live.stats().messages_ignored), (1, 30_000));
}

#[tokio::test]
async fn hundreds_of_half_sent_upgrades_delay_no_other_page() {
    let live = live();
    let server = Server::layered(&live.layer(), usual);
    let mut half = Vec::new();
    for _ in 0..300 {
        let mut raw = Raw::new(server.connect());
        raw.write(b"GET /api/v1?token=x&ws=1 HTTP/1.1\r\nHost: live.example\r\nUpgra").await.unwrap();
        half.push(raw);
    }
    let mut page = server.subscribed().await;
    assert_eq!(page.received(&live).await, Vec::<Value>::new());
}
