//! Acknowledgements: a ping follows what a page was sent, and its pong shows what the page has received.

use std::time::Duration;

use tower_live_updates::{LiveUpdates, LiveUpdatesBuilder, builder::HasAuth};

use crate::support::{
    End, Server,
    client::{Client, TRANSPORTS, Tab, Transport, added, adds, patient, publish, updated, upserts, wait},
    converging,
    raw::Raw,
    usual,
};

const NOTHING: [&str; 0] = [];
/// The same for handlers of `$resync`.
const RESYNC: &str = r#"$resync: {"entity":"events","type":"resync"}"#;
/// The message after which a page loads its list again.
const MARKER: &str = r#"{"event":{"id":"$resync"},"type":"resync"}"#;

async fn serve(builder: LiveUpdatesBuilder<HasAuth>) -> (LiveUpdates, Server) {
    let live = builder.build().unwrap();
    let server = Server::layered(&live.layer(), usual);
    wait(100.0).await;
    (live, server)
}

/// A page that has been loaded, and whose list is long there.
async fn loaded(server: &Server, transport: Transport) -> (Client, Tab) {
    let page = Client::load(server, transport).await;
    let mut tab = page.open().await;
    assert_eq!(tab.received_in(20.0).await, NOTHING);
    (page, tab)
}

/// Publishes three events six seconds apart, so that each is long settled when the next one comes, and then a last one;
/// the ping behind that covers the three.
async fn publish_four(live: &LiveUpdates, tab: &mut Tab) {
    for id in 1..=3 {
        publish(live, [added(id, "a")]);
        tab.received().await;
        wait(6.0).await;
    }
    publish(live, [added(4, "a")]);
    tab.received().await;
}

#[tokio::test(start_paused = true)]
async fn a_ping_of_eight_bytes_follows_a_broadcast_every_fifteen_seconds_at_most() {
    let (live, server) = serve(patient()).await;
    let (_, mut tab) = loaded(&server, Transport::Tcp).await;
    assert!(tab.pings.is_empty(), "nothing was sent");
    let mut seconds = Vec::new();
    for second in 0..40 {
        live.send("events", "something").unwrap();
        assert_eq!(tab.received().await, ["something"]);
        for payload in tab.pings.drain(..) {
            assert_eq!(payload.len(), 8);
            seconds.push(second);
        }
        wait(1.0).await;
    }
    assert_eq!(seconds, [0, 15, 30]);
    tab.received_in(100.0).await;
    assert!(tab.pings.is_empty(), "and none without something to ride behind");
}

#[tokio::test(start_paused = true)]
async fn after_its_pong_a_page_that_resumes_receives_only_what_came_after() {
    let (live, server) = serve(patient()).await;
    let (page, mut tab) = loaded(&server, Transport::Tcp).await;
    publish_four(&live, &mut tab).await;
    assert_eq!(tab.pings.len(), 2, "at the first and at the fourth");
    tab.cut(&live).await;
    publish(&live, [updated(2, "b")]);
    wait(20.0).await;
    // The fourth stood before the ping, but had not been there for five seconds.
    let expected = [adds(&[(4, "a")]), upserts(&[(2, "b")])].concat();
    assert_eq!(page.open().await.received().await, expected);
}

#[tokio::test(start_paused = true)]
async fn keepalive_pings_ask_for_acknowledgement_too() {
    for transport in TRANSPORTS {
        let (live, server) = serve(converging().tokens(["demo"])).await;
        let (page, mut tab) = loaded(&server, transport).await;
        publish(&live, [added(1, "a"), added(2, "a")]);
        // Two pings at least; the latest is answered last.
        tab.received_in(60.0).await;
        assert!(tab.pings.iter().filter(|payload| payload.len() == 8).count() >= 2, "{transport:?}: {:?}", tab.pings);
        tab.cut(&live).await;
        publish(&live, [updated(1, "b")]);
        wait(20.0).await;
        assert_eq!(page.open().await.received().await, upserts(&[(1, "b")]), "{transport:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn five_seconds_before_the_ping_are_replayed() {
    for (seconds, expected) in [(4.8, adds(&[(2, "a"), (3, "a")])), (5.2, adds(&[(3, "a")]))] {
        // Longer than writes overlap: nothing but the overlap of replays holds it back.
        let (live, server) =
            serve(patient().settle_quiet(Duration::from_secs(1)).settle_overlap(Duration::from_secs(1))).await;
        let (page, mut tab) = loaded(&server, Transport::Tcp).await;
        publish(&live, [added(1, "a")]);
        tab.received_in(11.0).await;
        publish(&live, [added(2, "a")]);
        tab.received_in(seconds).await;
        assert_eq!(tab.pings.len(), 1, "behind the first");
        publish(&live, [added(3, "a")]);
        tab.received().await;
        assert_eq!(tab.pings.len(), 2, "behind the third");
        tab.cut(&live).await;
        assert_eq!(page.open().await.received().await, expected, "{seconds}");
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_pong_a_page_receives_everything_since_its_handshake() {
    for transport in TRANSPORTS {
        let (live, server) = serve(converging().tokens(["demo"])).await;
        let (page, mut tab) = loaded(&server, transport).await;
        tab.answers = false;
        for id in 1..=3 {
            publish(&live, [added(id, "a")]);
            tab.received_in(20.0).await;
        }
        assert!(!tab.pings.is_empty(), "{transport:?}");
        tab.cut(&live).await;
        assert_eq!(page.open().await.received().await, adds(&[(1, "a"), (2, "a"), (3, "a")]), "{transport:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn unsolicited_pongs_change_nothing() {
    let (live, server) = serve(patient()).await;
    let (page, mut tab) = loaded(&server, Transport::Tcp).await;
    tab.answers = false;
    publish_four(&live, &mut tab).await;
    let asked = tab.pings.last().unwrap().clone();
    let next = (u64::from_be_bytes(asked[..].try_into().unwrap()) + 1).to_be_bytes();
    let longer = [&asked[..], &[0]].concat();
    for forged in [&b""[..], b"x", b"12345678", &[0xff; 8], &[0; 8], &4_u64.to_be_bytes(), &next, &longer, &[7; 125]] {
        tab.pong(forged).await;
    }
    tab.received().await;
    tab.cut(&live).await;
    let everything = adds(&[(1, "a"), (2, "a"), (3, "a"), (4, "a")]);
    assert_eq!(page.open().await.received().await, everything);
}

#[tokio::test(start_paused = true)]
async fn a_pong_is_good_once_and_for_its_own_socket() {
    let (live, server) = serve(patient()).await;
    let (page, mut tab) = loaded(&server, Transport::Tcp).await;
    let (other_page, mut other) = loaded(&server, Transport::Tcp).await;
    (tab.answers, other.answers) = (false, false);
    publish(&live, [added(1, "a")]);
    tab.received().await;
    other.received().await;
    wait(20.0).await;
    publish(&live, [added(2, "a")]);
    tab.received().await;
    other.received().await;
    let asked = tab.pings.last().unwrap().clone();
    // The other page's socket answers first, which does not count for the page that was asked.
    let theirs = other.pings.pop().unwrap();
    tab.pong(&asked).await;
    tab.received().await;
    tab.pong(&asked).await;
    tab.received().await;
    tab.cut(&live).await;
    other.pong(&[theirs[0], 1, 2, 3, 4, 5, 6, 7]).await;
    other.received().await;
    other.cut(&live).await;
    assert_eq!(page.open().await.received().await, adds(&[(2, "a")]));
    assert_eq!(other_page.open().await.received().await, adds(&[(1, "a"), (2, "a")]));
}

#[tokio::test(start_paused = true)]
async fn of_two_sockets_of_one_key_both_are_served_and_the_newest_acknowledges() {
    let (live, server) = serve(patient()).await;
    let (page, mut old) = loaded(&server, Transport::Tcp).await;
    let mut new = page.open().await;
    assert_eq!(new.received_in(20.0).await, NOTHING);
    // Its page has gone, and the server has not noticed.
    old.answers = false;
    for id in 1..=2 {
        publish(&live, [added(id, "a")]);
        assert_eq!(old.received().await, [format!("add {id} a")]);
        assert_eq!(new.received().await, [format!("add {id} a")]);
        wait(20.0).await;
    }
    assert_eq!((old.pings.len(), new.pings.len()), (3, 2), "the first was asked when the second came");
    new.cut(&live).await;
    old.cut(&live).await;
    assert_eq!(page.open().await.received().await, adds(&[(2, "a")]));
}

#[tokio::test(start_paused = true)]
async fn a_first_send_that_may_be_undone_does_not_count_as_received() {
    let (live, server) = serve(patient()).await;
    publish(&live, [added(1, "a")]);
    wait(10.0).await;
    let page = Client::load(&server, Transport::Tcp).await;
    let mut tab = page.open().await;
    assert_eq!(tab.received().await, adds(&[(1, "a")]));
    wait(1.0).await;
    publish(&live, [added(2, "a")]);
    tab.received().await;
    assert_eq!(tab.pings.len(), 1, "answered, and yet its list may come later than all of this");
    tab.cut(&live).await;
    assert_eq!(page.open().await.received().await, adds(&[(1, "a"), (2, "a")]));
}

#[tokio::test(start_paused = true)]
async fn an_object_due_for_a_repeat_does_not_count_as_received() {
    let (live, server) = serve(patient()).await;
    let (page, mut tab) = loaded(&server, Transport::Tcp).await;
    publish(&live, [added(1, "a")]);
    tab.received_in(8.0).await;
    // Writes without a pause: some page may have missed the first of them until all are repeated.
    for _ in 0..4 {
        publish(&live, [updated(1, "b")]);
        tab.received_in(2.0).await;
    }
    publish(&live, [added(2, "a")]);
    tab.received().await;
    assert_eq!(tab.pings.len(), 2);
    tab.cut(&live).await;
    assert_eq!(page.open().await.received().await, [upserts(&[(1, "b")]), adds(&[(2, "a")])].concat());
}

#[tokio::test(start_paused = true)]
async fn keys_of_other_pages_are_harmless() {
    let (live, server) = serve(converging().tokens(["demo", "other"])).await;
    let (page, mut tab) = loaded(&server, Transport::Tcp).await;
    publish_four(&live, &mut tab).await;
    let parts = |page: &Client| -> Vec<String> { page.key.split('.').map(str::to_owned).collect() };
    let theirs = parts(&Client::load_with(&server, Transport::Tcp, "other").await);
    let next = parts(&Client::load_with(&server, Transport::Tcp, "other").await);
    let own = parts(&page);
    wait(20.0).await;
    // Both were loaded when the log had begun less than a minute before: their position is its start.
    let moved = |position: &str, by: u64| format!("{:016x}", u64::from_str_radix(position, 16).unwrap() ^ by);

    let key = |session: &str, epoch: &str, position: &str| format!("lu1.{}.{session}.{epoch}.{position}", theirs[1]);
    let (elsewhere, unknown) = ("0".repeat(32), "1".repeat(32));
    let everything = adds(&[(1, "a"), (2, "a"), (3, "a"), (4, "a")]);
    for (what, key, first) in [
        ("the session of another page", key(&own[2], &own[3], &own[4]), everything.clone()),
        ("a later position", key(&next[2], &own[3], &moved(&next[4], 2)), adds(&[(3, "a"), (4, "a")])),
        ("an unknown session, and any position", key(&elsewhere, &own[3], &own[4]), vec![]),
        ("a position that is not reached yet", key(&theirs[2], &own[3], &moved(&theirs[4], u64::MAX)), vec![]),
        ("a position in the future", key(&theirs[2], &own[3], &moved(&theirs[4], 1 << 20)), vec![]),
        (
            "another log",
            key(&unknown, &elsewhere, &own[4]),
            [vec![MARKER.to_owned(), RESYNC.to_owned()], everything.clone()].concat(),
        ),
    ] {
        let mut forger = Client::with_key(&server, Transport::Tcp, &key).open().await;
        let mut received = forger.received().await;
        // What the forgers before it were sent.
        received.retain(|message| message != "on");
        assert_eq!(received, first, "{what}");
        wait(20.0).await;
        forger.received().await;
        live.send("events", "on").unwrap();
        assert_eq!(forger.received().await, ["on"], "{what}: it is served like any page");
        tab.received().await;
        forger.cut(&live).await;
    }
    // The page itself stands where it stood.
    tab.cut(&live).await;
    wait(1.0).await;
    publish(&live, [updated(1, "b")]);
    let received = page.open().await.received().await;
    assert!(
        !received.contains(&"update 2 a".to_owned()) && received.contains(&"update 1 b".to_owned()),
        "{received:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_position_that_is_no_number_makes_no_key() {
    let (live, server) = serve(patient()).await;
    let page = Client::load(&server, Transport::AnyStream).await;
    let (head, _) = page.key.rsplit_once('.').unwrap();
    for place in ["", "-1", "1e3", "18446744073709551616", "x", "0x1", "5", "000000000000000g", "+00000000000001f"] {
        let mut raw = Raw::new(server.connect());
        raw.upgrade(&format!("/api/v1?token={head}.{place}&ws=1")).await;
        assert_eq!(raw.end().await, End::Close(1008, "Unauthorized".into()), "{place}");
    }
    assert_eq!(live.stats().sessions, 0);
}

#[tokio::test(start_paused = true)]
async fn a_raw_token_is_pinged_but_asked_nothing() {
    let (live, server) = serve(converging().tokens(["demo"])).await;
    let mut tab = Client::with_key(&server, Transport::Tcp, "demo").open().await;
    live.send("events", "something").unwrap();
    assert_eq!(tab.received().await, ["something"]);
    assert!(tab.pings.is_empty());
    tab.received_in(26.0).await;
    assert_eq!(tab.pings, [b""]);
}

#[tokio::test(start_paused = true)]
async fn the_acknowledge_interval_can_be_set() {
    let (live, server) = serve(patient().acknowledge_interval(Duration::from_secs(3))).await;
    let (_, mut tab) = loaded(&server, Transport::Tcp).await;
    for _ in 0..10 {
        live.send("events", "something").unwrap();
        tab.received_in(1.0).await;
    }
    assert_eq!(tab.pings.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn the_overlap_of_replays_can_be_set() {
    for (overlap, expected) in [(0, adds(&[(4, "a")])), (15, adds(&[(2, "a"), (3, "a"), (4, "a")]))] {
        let (live, server) = serve(patient().replay_overlap(Duration::from_secs(overlap))).await;
        let (page, mut tab) = loaded(&server, Transport::Tcp).await;
        publish_four(&live, &mut tab).await;
        tab.cut(&live).await;
        assert_eq!(page.open().await.received().await, expected, "{overlap}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_is_forgotten_a_while_after_its_page_has_gone() {
    let everything = adds(&[(1, "a"), (2, "a"), (3, "a"), (4, "a")]);
    for (seconds, expected) in [(290.0, adds(&[(4, "a")])), (310.0, everything)] {
        let (live, server) = serve(patient().session_retention(Duration::from_secs(300))).await;
        let (page, mut tab) = loaded(&server, Transport::Tcp).await;
        // A second socket of the same key is its page's, too: the first one's end is not the page's.
        let old = page.open().await;
        let mut new = page.open().await;
        // It is dead, and the server has not noticed.
        tab.answers = false;
        old.cut(&live).await;
        new.received_in(400.0).await;
        publish_four(&live, &mut new).await;
        tab.received().await;
        tab.cut(&live).await;
        new.cut(&live).await;
        wait(seconds).await;
        assert_eq!(page.open().await.received().await, expected, "{seconds}");
        assert_eq!(live.stats().sessions, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn beyond_the_sessions_remembered_those_gone_for_longest_are_forgotten() {
    let (live, server) = serve(patient().max_sessions(2)).await;
    let mut pages = Vec::new();
    for _ in 0..2 {
        let (page, tab) = loaded(&server, Transport::Tcp).await;
        pages.push((page, tab));
    }
    for id in 1..=2 {
        publish(&live, [added(id, "a")]);
        for (_, tab) in &mut pages {
            tab.received().await;
        }
        wait(20.0).await;
    }
    // Both are open: a third page is served, and not remembered.
    let third = Client::load(&server, Transport::Tcp).await;
    let mut tab = third.open().await;
    tab.received_in(20.0).await;
    assert_eq!(live.stats().sessions, 2);
    live.send("events", "something").unwrap();
    assert_eq!(tab.received().await, ["something"]);
    assert!(tab.pings.is_empty());
    tab.cut(&live).await;

    let mut gone = Vec::new();
    for (page, tab) in pages {
        tab.cut(&live).await;
        gone.push(page);
        wait(1.0).await;
    }
    third.open().await.cut(&live).await;
    let received = [gone[1].open().await.received().await, gone[0].open().await.received().await];
    let something = vec!["something".to_owned()];
    let all = [adds(&[(1, "a"), (2, "a")]), something.clone()].concat();
    assert_eq!(received, [[adds(&[(2, "a")]), something].concat(), all], "the first was forgotten for the third");
}

#[tokio::test(start_paused = true)]
async fn pings_follow_broadcasts_on_both_transports_and_a_replay() {
    for transport in TRANSPORTS {
        let (live, server) = serve(patient()).await;
        publish(&live, [added(1, "a")]);
        wait(10.0).await;
        let mut tab = Client::load(&server, transport).await.open().await;
        tab.received_in(20.0).await;
        assert_eq!(tab.pings.len(), 1, "{transport:?}: a replay is data as well");
        for _ in 0..40 {
            live.send("events", "on").unwrap();
            tab.received_in(1.0).await;
        }
        assert_eq!(tab.pings.len(), 4, "{transport:?}");
    }
}
