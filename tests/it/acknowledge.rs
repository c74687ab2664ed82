//! What a page is known to have: a ping that rides behind what it was told, and its pong.

use std::time::Duration;

use tower_live_updates::{LiveUpdates, LiveUpdatesBuilder, builder::HasAuth};

use crate::support::{
    End, Server,
    client::{Client, Tab, WAYS, Way, added, adds, patient, publish, updated, upserts, wait},
    converging,
    raw::Raw,
    usual,
};

const NOTHING: [&str; 0] = [];
/// The same for handlers of `$resync`.
const RESYNC: &str = r#"$resync: {"entity":"events","type":"resync"}"#;
/// What tells a page to load its list again.
const MARKER: &str = r#"{"event":{"id":"$resync"},"type":"resync"}"#;

async fn serve(builder: LiveUpdatesBuilder<HasAuth>) -> (LiveUpdates, Server) {
    let live = builder.build().unwrap();
    let server = Server::layered(&live.layer(), usual);
    wait(100.0).await;
    (live, server)
}

/// A page that has been loaded, and whose list is long there.
async fn loaded(server: &Server, way: Way) -> (Client, Tab) {
    let page = Client::load(server, way).await;
    let mut tab = page.open().await;
    assert_eq!(tab.hears_in(20.0).await, NOTHING);
    (page, tab)
}

/// Tells three events six seconds apart, so that each is long settled when the next one comes, and then a last one;
/// the ping behind that covers the three.
async fn tell_four(live: &LiveUpdates, tab: &mut Tab) {
    for id in 1..=3 {
        publish(live, [added(id, "a")]);
        tab.heard().await;
        wait(6.0).await;
    }
    publish(live, [added(4, "a")]);
    tab.heard().await;
}

#[tokio::test(start_paused = true)]
async fn a_ping_of_eight_bytes_rides_behind_what_is_told_every_fifteen_seconds_at_most() {
    let (live, server) = serve(patient()).await;
    let (_, mut tab) = loaded(&server, Way::Tcp).await;
    assert!(tab.pings.is_empty(), "nothing was told");
    let mut seconds = Vec::new();
    for second in 0..40 {
        live.send("events", "something").unwrap();
        assert_eq!(tab.heard().await, ["something"]);
        for payload in tab.pings.drain(..) {
            assert_eq!(payload.len(), 8);
            seconds.push(second);
        }
        wait(1.0).await;
    }
    assert_eq!(seconds, [0, 15, 30]);
    tab.hears_in(100.0).await;
    assert!(tab.pings.is_empty(), "and none without something to ride behind");
}

#[tokio::test(start_paused = true)]
async fn after_its_pong_a_page_that_comes_back_hears_only_what_came_after() {
    let (live, server) = serve(patient()).await;
    let (page, mut tab) = loaded(&server, Way::Tcp).await;
    tell_four(&live, &mut tab).await;
    assert_eq!(tab.pings.len(), 2, "at the first and at the fourth");
    tab.cut(&live).await;
    publish(&live, [updated(2, "b")]);
    wait(20.0).await;
    // The fourth stood before the ping, but had not been there for five seconds.
    let expected = [adds(&[(4, "a")]), upserts(&[(2, "b")])].concat();
    assert_eq!(page.open().await.heard().await, expected);
}

#[tokio::test(start_paused = true)]
async fn the_pings_that_keep_a_socket_alive_ask_too() {
    for way in WAYS {
        let (live, server) = serve(converging().tokens(["demo"])).await;
        let (page, mut tab) = loaded(&server, way).await;
        publish(&live, [added(1, "a"), added(2, "a")]);
        // Two pings at least; the latest is answered last.
        tab.hears_in(60.0).await;
        assert!(tab.pings.iter().filter(|payload| payload.len() == 8).count() >= 2, "{way:?}: {:?}", tab.pings);
        tab.cut(&live).await;
        publish(&live, [updated(1, "b")]);
        wait(20.0).await;
        assert_eq!(page.open().await.heard().await, upserts(&[(1, "b")]), "{way:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn five_seconds_before_the_ping_are_heard_again() {
    for (seconds, expected) in [(4.8, adds(&[(2, "a"), (3, "a")])), (5.2, adds(&[(3, "a")]))] {
        // Longer than writes overlap: nothing but the overlap of replays holds it back.
        let (live, server) =
            serve(patient().settle_quiet(Duration::from_secs(1)).settle_overlap(Duration::from_secs(1))).await;
        let (page, mut tab) = loaded(&server, Way::Tcp).await;
        publish(&live, [added(1, "a")]);
        tab.hears_in(11.0).await;
        publish(&live, [added(2, "a")]);
        tab.hears_in(seconds).await;
        assert_eq!(tab.pings.len(), 1, "behind the first");
        publish(&live, [added(3, "a")]);
        tab.heard().await;
        assert_eq!(tab.pings.len(), 2, "behind the third");
        tab.cut(&live).await;
        assert_eq!(page.open().await.heard().await, expected, "{seconds}");
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_pong_a_page_hears_everything_since_its_handshake() {
    for way in WAYS {
        let (live, server) = serve(converging().tokens(["demo"])).await;
        let (page, mut tab) = loaded(&server, way).await;
        tab.answers = false;
        for id in 1..=3 {
            publish(&live, [added(id, "a")]);
            tab.hears_in(20.0).await;
        }
        assert!(!tab.pings.is_empty(), "{way:?}");
        tab.cut(&live).await;
        assert_eq!(page.open().await.heard().await, adds(&[(1, "a"), (2, "a"), (3, "a")]), "{way:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn pongs_that_nobody_asked_for_change_nothing() {
    let (live, server) = serve(patient()).await;
    let (page, mut tab) = loaded(&server, Way::Tcp).await;
    tab.answers = false;
    tell_four(&live, &mut tab).await;
    let asked = tab.pings.last().unwrap().clone();
    let next = (u64::from_be_bytes(asked[..].try_into().unwrap()) + 1).to_be_bytes();
    let longer = [&asked[..], &[0]].concat();
    for forged in [&b""[..], b"x", b"12345678", &[0xff; 8], &[0; 8], &4_u64.to_be_bytes(), &next, &longer, &[7; 125]] {
        tab.pong(forged).await;
    }
    tab.heard().await;
    tab.cut(&live).await;
    let everything = adds(&[(1, "a"), (2, "a"), (3, "a"), (4, "a")]);
    assert_eq!(page.open().await.heard().await, everything);
}

#[tokio::test(start_paused = true)]
async fn a_pong_is_good_once_and_for_its_own_socket() {
    let (live, server) = serve(patient()).await;
    let (page, mut tab) = loaded(&server, Way::Tcp).await;
    let (other_page, mut other) = loaded(&server, Way::Tcp).await;
    (tab.answers, other.answers) = (false, false);
    publish(&live, [added(1, "a")]);
    tab.heard().await;
    other.heard().await;
    wait(20.0).await;
    publish(&live, [added(2, "a")]);
    tab.heard().await;
    other.heard().await;
    let asked = tab.pings.last().unwrap().clone();
    // The other page's socket says it first, which is nothing to the page that was asked.
    let theirs = other.pings.pop().unwrap();
    tab.pong(&asked).await;
    tab.heard().await;
    tab.pong(&asked).await;
    tab.heard().await;
    tab.cut(&live).await;
    other.pong(&[theirs[0], 1, 2, 3, 4, 5, 6, 7]).await;
    other.heard().await;
    other.cut(&live).await;
    assert_eq!(page.open().await.heard().await, adds(&[(2, "a")]));
    assert_eq!(other_page.open().await.heard().await, adds(&[(1, "a"), (2, "a")]));
}

#[tokio::test(start_paused = true)]
async fn of_two_sockets_of_one_key_both_are_served_and_the_newest_is_believed() {
    let (live, server) = serve(patient()).await;
    let (page, mut old) = loaded(&server, Way::Tcp).await;
    let mut new = page.open().await;
    assert_eq!(new.hears_in(20.0).await, NOTHING);
    // Its page has gone, and the server has not noticed.
    old.answers = false;
    for id in 1..=2 {
        publish(&live, [added(id, "a")]);
        assert_eq!(old.heard().await, [format!("add {id} a")]);
        assert_eq!(new.heard().await, [format!("add {id} a")]);
        wait(20.0).await;
    }
    assert_eq!((old.pings.len(), new.pings.len()), (3, 2), "the first was asked when the second came");
    new.cut(&live).await;
    old.cut(&live).await;
    assert_eq!(page.open().await.heard().await, adds(&[(2, "a")]));
}

#[tokio::test(start_paused = true)]
async fn a_first_telling_that_may_be_undone_is_not_taken_for_had() {
    let (live, server) = serve(patient()).await;
    publish(&live, [added(1, "a")]);
    wait(10.0).await;
    let page = Client::load(&server, Way::Tcp).await;
    let mut tab = page.open().await;
    assert_eq!(tab.heard().await, adds(&[(1, "a")]));
    wait(1.0).await;
    publish(&live, [added(2, "a")]);
    tab.heard().await;
    assert_eq!(tab.pings.len(), 1, "answered, and yet its list may come later than all of this");
    tab.cut(&live).await;
    assert_eq!(page.open().await.heard().await, adds(&[(1, "a"), (2, "a")]));
}

#[tokio::test(start_paused = true)]
async fn what_is_to_be_told_again_is_not_taken_for_had() {
    let (live, server) = serve(patient()).await;
    let (page, mut tab) = loaded(&server, Way::Tcp).await;
    publish(&live, [added(1, "a")]);
    tab.hears_in(8.0).await;
    // Writes without a pause: some page may have missed the first of them until all are told again.
    for _ in 0..4 {
        publish(&live, [updated(1, "b")]);
        tab.hears_in(2.0).await;
    }
    publish(&live, [added(2, "a")]);
    tab.heard().await;
    assert_eq!(tab.pings.len(), 2);
    tab.cut(&live).await;
    assert_eq!(page.open().await.heard().await, [upserts(&[(1, "b")]), adds(&[(2, "a")])].concat());
}

#[tokio::test(start_paused = true)]
async fn keys_that_are_not_the_pages_own_do_harm_to_nobody() {
    let (live, server) = serve(converging().tokens(["demo", "other"])).await;
    let (page, mut tab) = loaded(&server, Way::Tcp).await;
    tell_four(&live, &mut tab).await;
    let parts = |page: &Client| -> Vec<String> { page.key.split('.').map(str::to_owned).collect() };
    let theirs = parts(&Client::load_with(&server, Way::Tcp, "other").await);
    let next = parts(&Client::load_with(&server, Way::Tcp, "other").await);
    let own = parts(&page);
    wait(20.0).await;
    // Both were loaded when the log had begun less than a minute before: their position is its start.
    let moved = |position: &str, by: u64| format!("{:016x}", u64::from_str_radix(position, 16).unwrap() ^ by);

    let key = |session: &str, epoch: &str, position: &str| format!("lu1.{}.{session}.{epoch}.{position}", theirs[1]);
    let (elsewhere, nobody) = ("0".repeat(32), "1".repeat(32));
    let everything = adds(&[(1, "a"), (2, "a"), (3, "a"), (4, "a")]);
    for (what, key, first) in [
        ("the session of somebody else", key(&own[2], &own[3], &own[4]), everything.clone()),
        ("a place further on", key(&next[2], &own[3], &moved(&next[4], 2)), adds(&[(3, "a"), (4, "a")])),
        ("a session nobody has, and so any place", key(&elsewhere, &own[3], &own[4]), vec![]),
        ("a place that is not reached yet", key(&theirs[2], &own[3], &moved(&theirs[4], u64::MAX)), vec![]),
        ("a place in the future", key(&theirs[2], &own[3], &moved(&theirs[4], 1 << 20)), vec![]),
        (
            "another log",
            key(&nobody, &elsewhere, &own[4]),
            [vec![MARKER.to_owned(), RESYNC.to_owned()], everything.clone()].concat(),
        ),
    ] {
        let mut forger = Client::with_key(&server, Way::Tcp, &key).open().await;
        let mut heard = forger.heard().await;
        // What the forgers before it were told.
        heard.retain(|told| told != "on");
        assert_eq!(heard, first, "{what}");
        wait(20.0).await;
        forger.heard().await;
        live.send("events", "on").unwrap();
        assert_eq!(forger.heard().await, ["on"], "{what}: it is served as anybody");
        tab.heard().await;
        forger.cut(&live).await;
    }
    // The page itself stands where it stood.
    tab.cut(&live).await;
    wait(1.0).await;
    publish(&live, [updated(1, "b")]);
    let heard = page.open().await.heard().await;
    assert!(!heard.contains(&"update 2 a".to_owned()) && heard.contains(&"update 1 b".to_owned()), "{heard:?}");
}

#[tokio::test(start_paused = true)]
async fn a_place_that_is_no_number_makes_no_key() {
    let (live, server) = serve(patient()).await;
    let page = Client::load(&server, Way::AnyStream).await;
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
    let mut tab = Client::with_key(&server, Way::Tcp, "demo").open().await;
    live.send("events", "something").unwrap();
    assert_eq!(tab.heard().await, ["something"]);
    assert!(tab.pings.is_empty());
    tab.hears_in(26.0).await;
    assert_eq!(tab.pings, [b""]);
}

#[tokio::test(start_paused = true)]
async fn how_often_a_ping_rides_along_can_be_set() {
    let (live, server) = serve(patient().acknowledge_interval(Duration::from_secs(3))).await;
    let (_, mut tab) = loaded(&server, Way::Tcp).await;
    for _ in 0..10 {
        live.send("events", "something").unwrap();
        tab.hears_in(1.0).await;
    }
    assert_eq!(tab.pings.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn the_overlap_of_replays_can_be_set() {
    for (overlap, expected) in [(0, adds(&[(4, "a")])), (15, adds(&[(2, "a"), (3, "a"), (4, "a")]))] {
        let (live, server) = serve(patient().replay_overlap(Duration::from_secs(overlap))).await;
        let (page, mut tab) = loaded(&server, Way::Tcp).await;
        tell_four(&live, &mut tab).await;
        tab.cut(&live).await;
        assert_eq!(page.open().await.heard().await, expected, "{overlap}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_is_forgotten_a_while_after_its_page_has_gone() {
    let everything = adds(&[(1, "a"), (2, "a"), (3, "a"), (4, "a")]);
    for (seconds, expected) in [(290.0, adds(&[(4, "a")])), (310.0, everything)] {
        let (live, server) = serve(patient().session_retention(Duration::from_secs(300))).await;
        let (page, mut tab) = loaded(&server, Way::Tcp).await;
        // A second socket of the same key is its page's, too: the first one's end is not the page's.
        let old = page.open().await;
        let mut new = page.open().await;
        // It is dead, and the server has not noticed.
        tab.answers = false;
        old.cut(&live).await;
        new.hears_in(400.0).await;
        tell_four(&live, &mut new).await;
        tab.heard().await;
        tab.cut(&live).await;
        new.cut(&live).await;
        wait(seconds).await;
        assert_eq!(page.open().await.heard().await, expected, "{seconds}");
        assert_eq!(live.stats().sessions, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn beyond_the_sessions_remembered_those_gone_for_longest_are_forgotten() {
    let (live, server) = serve(patient().max_sessions(2)).await;
    let mut pages = Vec::new();
    for _ in 0..2 {
        let (page, tab) = loaded(&server, Way::Tcp).await;
        pages.push((page, tab));
    }
    for id in 1..=2 {
        publish(&live, [added(id, "a")]);
        for (_, tab) in &mut pages {
            tab.heard().await;
        }
        wait(20.0).await;
    }
    // Both are open: a third page is served, and not remembered.
    let third = Client::load(&server, Way::Tcp).await;
    let mut tab = third.open().await;
    tab.hears_in(20.0).await;
    assert_eq!(live.stats().sessions, 2);
    live.send("events", "something").unwrap();
    assert_eq!(tab.heard().await, ["something"]);
    assert!(tab.pings.is_empty());
    tab.cut(&live).await;

    let mut gone = Vec::new();
    for (page, tab) in pages {
        tab.cut(&live).await;
        gone.push(page);
        wait(1.0).await;
    }
    third.open().await.cut(&live).await;
    let heard = [gone[1].open().await.heard().await, gone[0].open().await.heard().await];
    let something = vec!["something".to_owned()];
    let all = [adds(&[(1, "a"), (2, "a")]), something.clone()].concat();
    assert_eq!(heard, [[adds(&[(2, "a")]), something].concat(), all], "the first was forgotten for the third");
}

#[tokio::test(start_paused = true)]
async fn pings_ride_along_on_both_ways_and_behind_a_replay() {
    for way in WAYS {
        let (live, server) = serve(patient()).await;
        publish(&live, [added(1, "a")]);
        wait(10.0).await;
        let mut tab = Client::load(&server, way).await.open().await;
        tab.hears_in(20.0).await;
        assert_eq!(tab.pings.len(), 1, "{way:?}: a replay is data as well");
        for _ in 0..40 {
            live.send("events", "on").unwrap();
            tab.hears_in(1.0).await;
        }
        assert_eq!(tab.pings.len(), 4, "{way:?}");
    }
}
