//! Messages to one session or to one principal: sent in order and replayed as all messages are, and to others never.

use std::{collections::HashSet, time::Duration};

use serde_json::json;
use tower_live_updates::{
    AuthError, AuthRequest, Delivery, Entity, Identity, LiveUpdates, LiveUpdatesBuilder, PublishError, Session,
    builder::HasAuth,
};

use crate::support::{
    Server,
    client::{Client, TRANSPORTS, Tab, Transport, wait},
    usual,
};

const NOTHING: [&str; 0] = [];

/// The token names the principal.
fn builder() -> LiveUpdatesBuilder<HasAuth> {
    let hour = Duration::from_secs(3600);
    LiveUpdates::builder("/api/v1")
        .entity(Entity::scheduler("/events"))
        .entity(Entity::new("notices").scoped())
        .authenticate_fn((), async |(), request: AuthRequest| {
            Ok::<_, AuthError>(Identity::new(request.token().to_owned()))
        })
        .ping_interval(2 * hour)
        .pong_timeout(3 * hour)
}

async fn serve(builder: LiveUpdatesBuilder<HasAuth>) -> (LiveUpdates, Server) {
    let live = builder.build().unwrap();
    let server = Server::layered(&live.layer(), usual);
    wait(100.0).await;
    (live, server)
}

/// The session of the only page that has come since the others were there.
fn newest(live: &LiveUpdates, known: &[Session]) -> Session {
    let others: HashSet<&Session> = known.iter().collect();
    let mut new: Vec<Session> = live.sessions(|_| true).into_iter().filter(|it| !others.contains(it)).collect();
    assert_eq!(new.len(), 1);
    new.remove(0)
}

/// A page that has received all there was to receive, and its session.
async fn page(live: &LiveUpdates, server: &Server, transport: Transport, name: &str) -> (Client, Tab, Session) {
    let known = live.sessions(|_| true);
    let client = Client::load_with(server, transport, name).await;
    let mut tab = client.open().await;
    tab.subscribe("notices").await;
    tab.received_in(20.0).await;
    (client, tab, newest(live, &known))
}

#[tokio::test(start_paused = true)]
async fn only_its_addressee_receives_a_message_among_others_in_order() {
    for (delivery, transport) in [Delivery::Plain, Delivery::Converging].into_iter().zip(TRANSPORTS) {
        let (live, server) = serve(builder().delivery(delivery)).await;
        let (_, mut ann, of_ann) = page(&live, &server, transport, "ann").await;
        let (_, mut other_tab, _) = page(&live, &server, transport, "ann").await;
        let (_, mut bob, _) = page(&live, &server, transport, "bob").await;
        live.send("events", "1 to all").unwrap();
        live.send_to_session(&of_ann, "events", "2 to a tab").unwrap();
        live.send_to_principal("ann", "events", "3 to ann").unwrap();
        live.send_to_principal("bob", "events", "4 to bob").unwrap();
        live.send("events", "5 to all").unwrap();
        live.send_to_principal("an", "events", "to nobody").unwrap();
        assert_eq!(ann.received().await, ["1 to all", "2 to a tab", "3 to ann", "5 to all"], "{delivery:?}");
        assert_eq!(other_tab.received().await, ["1 to all", "3 to ann", "5 to all"], "{delivery:?}");
        assert_eq!(bob.received().await, ["1 to all", "4 to bob", "5 to all"], "{delivery:?}");
        assert_eq!(live.stats().messages_published, 6);
        for tab in [&mut ann, &mut other_tab, &mut bob] {
            assert_eq!(tab.received_in(100.0).await, NOTHING, "{delivery:?}: each once");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_page_that_was_away_for_a_moment_receives_what_was_addressed_to_it_and_no_other_does() {
    for transport in TRANSPORTS {
        let (live, server) = serve(builder()).await;
        let (ann, ann_tab, of_ann) = page(&live, &server, transport, "ann").await;
        let (second, second_tab, of_second) = page(&live, &server, transport, "ann").await;
        let (bob, bob_tab, _) = page(&live, &server, transport, "bob").await;
        for tab in [ann_tab, second_tab, bob_tab] {
            tab.cut(&live).await;
        }
        live.send_to_session(&of_ann, "events", "1").unwrap();
        live.send_to_principal("ann", "events", "2").unwrap();
        live.send_to_session(&of_second, "events", "3").unwrap();
        live.send("events", "4").unwrap();
        wait(5.0).await;
        for (client, expected) in
            [(&bob, &["4"][..]), (&ann, &["1", "2", "4"]), (&second, &["2", "3", "4"]), (&ann, &["1", "2", "4"])]
        {
            let known = live.sessions(|_| true);
            let mut tab = client.open().await;
            // Nothing was acknowledged, so the next connection is replayed it once more, as with `send`.
            assert_eq!(tab.received().await, expected, "{transport:?}");
            assert_eq!(tab.received_in(100.0).await, NOTHING, "{transport:?}: once on each connection");
            if std::ptr::eq(client, &ann) {
                assert!(newest(&live, &known) == of_ann, "{transport:?}: a page keeps its session");
            }
            tab.answers = false;
            tab.cut(&live).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_scoped_entity_needs_no_scope_for_an_addressed_message() {
    let (live, server) = serve(builder()).await;
    let (_, mut ann, of_ann) = page(&live, &server, Transport::Tcp, "ann").await;
    let (_, mut bob, _) = page(&live, &server, Transport::Tcp, "bob").await;
    assert!(matches!(live.send("notices", "1"), Err(PublishError::NoScope { .. })));
    live.send_to_session(&of_ann, "notices", "2").unwrap();
    live.send_to_principal("bob", "notices", "3").unwrap();
    assert_eq!(ann.received().await, ["notices: 2"]);
    assert_eq!(bob.received().await, ["notices: 3"]);
}

#[tokio::test(start_paused = true)]
async fn an_unknown_entity_and_a_value_that_is_no_json_are_errors_and_an_absent_addressee_is_none() {
    let (live, server) = serve(builder()).await;
    let (_, tab, of_ann) = page(&live, &server, Transport::Tcp, "ann").await;
    let bad = std::collections::BTreeMap::from([((1, 2), 3)]);
    for (known, sent) in [
        (true, live.send_to_session(&of_ann, "evnts", "x")),
        (true, live.send_to_principal("ann", "evnts", "x")),
        (false, live.send_to_session(&of_ann, "events", &bad)),
        (false, live.send_to_principal("ann", "events", &bad)),
    ] {
        let error = sent.unwrap_err();
        assert_eq!(matches!(error, PublishError::UnknownEntity(_)), known, "{error}");
        assert_eq!(matches!(error, PublishError::Serialize(_)), !known, "{error}");
    }
    tab.cut(&live).await;
    assert!(live.sessions(|_| true).is_empty());
    live.send_to_session(&of_ann, "events", "x").unwrap();
    live.send_to_principal("nobody", "events", "x").unwrap();
}

#[tokio::test(start_paused = true)]
async fn two_sockets_of_one_page_are_one_session_and_pages_without_a_key_have_one_for_each_socket() {
    let (live, server) = serve(builder()).await;
    let (ann, mut first, of_ann) = page(&live, &server, Transport::Tcp, "ann").await;
    let mut second = ann.open().await;
    assert_eq!(live.sessions(|_| true), std::slice::from_ref(&of_ann));
    live.send_to_session(&of_ann, "events", "x").unwrap();
    assert_eq!((first.received().await, second.received().await), (vec!["x".to_owned()], vec!["x".to_owned()]));
    let bare = || Client::with_key(&server, Transport::Tcp, "ann");
    let _tabs = [bare().open().await, bare().open().await];
    let sessions = live.sessions(|identity| identity.principal() == "ann");
    assert_eq!((sessions.len(), live.sessions(|_| false).len()), (3, 0));
}

#[tokio::test(start_paused = true)]
async fn a_session_named_with_other_credentials_is_another() {
    let (live, server) = serve(builder()).await;
    let (ann, mut tab, of_ann) = page(&live, &server, Transport::Tcp, "ann").await;
    let (bob, ..) = page(&live, &server, Transport::Tcp, "bob").await;
    // Bob's token, and the rest of Ann's key.
    let token = bob.key.split('.').nth(1).unwrap();
    let rest = ann.key.splitn(3, '.').nth(2).unwrap();
    let mut thief = Client::with_key(&server, Transport::Tcp, &format!("lu1.{token}.{rest}")).open().await;
    live.send_to_session(&of_ann, "events", "x").unwrap();
    live.send_to_principal("bob", "events", "y").unwrap();
    assert_eq!(thief.received().await, ["y"]);
    assert_eq!(tab.received().await, ["x"]);
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_with_a_log_file_the_addressee_alone_receives_what_it_missed() {
    let file = std::env::temp_dir().join(format!("tower-live-updates-addressed-{}", std::process::id()));
    let (live, server) = serve(builder().log_file(&file)).await;
    let (ann, ann_tab, of_ann) = page(&live, &server, Transport::Tcp, "ann").await;
    let (bob, bob_tab, _) = page(&live, &server, Transport::Tcp, "bob").await;
    for tab in [ann_tab, bob_tab] {
        tab.cut(&live).await;
    }
    live.send_to_session(&of_ann, "events", "to a tab").unwrap();
    live.send_to_principal("ann", "events", "to ann").unwrap();
    live.send("events", "to all").unwrap();
    live.shutdown().await;
    drop((live, server));
    let (_live, server) = serve(builder().log_file(&file)).await;
    for (client, expected) in [(&ann, &["to a tab", "to ann", "to all"][..]), (&bob, &["to all"])] {
        let mut tab = Client::with_key(&server, Transport::Tcp, &client.key).open().await;
        assert_eq!(tab.received().await, expected);
    }
    std::fs::remove_file(file).unwrap();
}

#[cfg(feature = "tracing")]
#[tokio::test(start_paused = true)]
async fn the_audit_counts_the_addressee_alone() {
    use crate::support::logs::{Record, Records};

    let (live, server) = serve(builder().audit()).await;
    let (_, mut ann, of_ann) = page(&live, &server, Transport::Tcp, "ann").await;
    let (_, mut bob, _) = page(&live, &server, Transport::Tcp, "bob").await;
    let audit = Records::listen("off,tower_live_updates::audit=info");
    live.send_to_session(&of_ann, "events", &json!({"secret": 1})).unwrap();
    live.send_to_principal("bob", "events", &json!({"secret": 2})).unwrap();
    (ann.received().await, bob.received().await);
    let audited = |record: &Record| match record.field("message") {
        "published" => format!("published to {}", record.field("recipients")),
        _ => format!("sent to {}", record.field("who")),
    };
    let mut lines: Vec<String> = audit.take().iter().map(audited).collect();
    lines.sort_unstable();
    assert_eq!(lines, ["published to 1", "published to 1", "sent to ann", "sent to bob"]);
}
