//! Who is here: every page is sent everyone who has a page open, and each who comes and goes.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::{Value, json};
use tower_live_updates::{
    AuthError, AuthRequest, Change, ConfigError, Delivery, Entity, Identity, LiveUpdates, LiveUpdatesBuilder,
    PublishError, Snapshot, builder::HasAuth,
};

use tokio::sync::Semaphore;

use crate::support::{
    End, Server,
    client::{Client, TRANSPORTS, Tab, Transport, wait},
    until, upgrade, usual,
};

const NOTHING: [&str; 0] = [];
/// Before everyone, to a page that may show people whom the server does not know.
const FORGET: &str = r#"people: {"people":{"id":"$resync"},"type":"resync"}"#;

/// Tokens are a name, what it is shown with, and scopes: `ann`, `ann:phone`, `ann@north,south`.
fn identity(token: &str) -> Identity {
    let (who, scopes) = token.split_once('@').unwrap_or((token, ""));
    let (name, text) = who.split_once(':').unwrap_or((who, ""));
    let scopes = scopes.split(',').filter(|scope| !scope.is_empty());
    Identity::new(name).with_scopes(scopes).with_data(text.to_owned())
}

fn describe(identity: &Identity) -> Option<Value> {
    let text = identity.data::<String>()?;
    Some(if text.is_empty() {
        json!({"id": identity.principal()})
    } else {
        json!({"id": identity.principal(), "text": text})
    })
}

fn bare() -> LiveUpdatesBuilder<HasAuth> {
    let hour = Duration::from_secs(3600);
    LiveUpdates::builder("/api/v1")
        .entity(Entity::scheduler("/events"))
        .authenticate_fn((), async |(), request: AuthRequest| Ok::<_, AuthError>(identity(request.token())))
        .ping_interval(2 * hour)
        .pong_timeout(3 * hour)
}

fn builder() -> LiveUpdatesBuilder<HasAuth> {
    bare().presence("people", describe)
}

async fn serve(builder: LiveUpdatesBuilder<HasAuth>) -> (LiveUpdates, Server) {
    let live = builder.build().unwrap();
    let server = Server::layered(&live.layer(), usual);
    wait(100.0).await;
    (live, server)
}

/// A socket that has subscribed who is here, and what it has received by then.
async fn open(client: &Client) -> (Tab, Vec<String>) {
    let mut tab = client.connect().await;
    tab.subscribe("people").await;
    let received = tab.received_in(0.1).await;
    (tab, received)
}

async fn page(server: &Server, transport: Transport, token: &str) -> (Client, Tab, Vec<String>) {
    let client = Client::load_with(server, transport, token).await;
    let (tab, received) = open(&client).await;
    (client, tab, received)
}

/// What a page shows that has received this, as an application would write it.
#[derive(Debug, Default)]
struct Shown(BTreeMap<String, String>);

impl Shown {
    fn receives(&mut self, messages: &[String]) -> Vec<&str> {
        for message in messages {
            let words: Vec<&str> = message.split(' ').collect();
            match words[..] {
                _ if message == FORGET => self.0.clear(),
                ["people:", "add" | "update", id] => _ = self.0.insert(id.to_owned(), String::new()),
                ["people:", "add" | "update", id, text] => _ = self.0.insert(id.to_owned(), text.to_owned()),
                ["people:", "delete", id] => _ = self.0.remove(id),
                _ => panic!("{message}"),
            }
        }
        self.0.keys().map(String::as_str).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn everyone_who_comes_is_added_once_and_deleted_five_seconds_after_the_last_page_has_gone() {
    for delivery in [Delivery::Plain, Delivery::Converging] {
        for transport in TRANSPORTS {
            let (live, server) = serve(builder().delivery(delivery)).await;
            let first = |everyone: &[&str]| -> Vec<String> {
                let forgets = (delivery == Delivery::Plain).then_some(FORGET);
                forgets.iter().chain(everyone).map(|message| (*message).to_owned()).collect()
            };
            let (_, mut ann, received) = page(&server, transport, "ann").await;
            assert_eq!(received, first(&["people: add ann"]), "{delivery:?}");
            let (_, bob, mut received) = page(&server, transport, "bob").await;
            received.sort_unstable();
            let mut both = first(&["people: add ann", "people: add bob"]);
            both.sort_unstable();
            assert_eq!(received, both, "{delivery:?}");
            assert_eq!(ann.received().await, ["people: add bob"], "{delivery:?}");
            let (_, second, _) = page(&server, transport, "bob").await;
            assert_eq!(ann.received().await, NOTHING, "{delivery:?}: he is here already");
            bob.cut(&live).await;
            assert_eq!(ann.received_in(60.0).await, NOTHING, "{delivery:?}: another page of his is open");
            second.cut(&live).await;
            assert_eq!(ann.received_in(4.9).await, NOTHING, "{delivery:?}");
            assert_eq!(ann.received_in(0.2).await, ["people: delete bob"], "{delivery:?}");
            assert_eq!(ann.received_in(1000.0).await, NOTHING, "{delivery:?}: no form could keep her from applying it");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_page_that_reconnects_in_time_has_never_left() {
    for delivery in [Delivery::Plain, Delivery::Converging] {
        let (live, server) = serve(builder().delivery(delivery)).await;
        let (_, mut ann, _) = page(&server, Transport::Tcp, "ann").await;
        let (bob, mut tab, _) = page(&server, Transport::Tcp, "bob").await;
        ann.received().await;
        for _ in 0..3 {
            tab.cut(&live).await;
            wait(4.0).await;
            (tab, _) = open(&bob).await;
        }
        assert_eq!(ann.received_in(60.0).await, NOTHING, "{delivery:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_page_that_was_away_shows_who_is_here_whoever_has_come_and_gone_meanwhile() {
    for (delivery, answers) in [(Delivery::Plain, true), (Delivery::Converging, true), (Delivery::Converging, false)] {
        for (away, known_after) in [(10.0, true), (1800.0, true), (2.0 * 3600.0, false)] {
            let (live, server) = serve(builder().delivery(delivery)).await;
            let mut shown = Shown::default();
            let (ann, mut tab, received) = page(&server, Transport::Tcp, "ann").await;
            tab.answers = answers;
            shown.receives(&received);
            let (_, stays, _) = page(&server, Transport::Tcp, "stays:before").await;
            let (_, goes, _) = page(&server, Transport::Tcp, "goes").await;
            shown.receives(&tab.received_in(20.0).await);
            tab.cut(&live).await;
            goes.cut(&live).await;
            let (_, flits, _) = page(&server, Transport::Tcp, "flits").await;
            flits.cut(&live).await;
            let (_, _comes, _) = page(&server, Transport::Tcp, "comes").await;
            stays.cut(&live).await;
            let (_, _stays, _) = page(&server, Transport::Tcp, "stays:after").await;
            wait(away).await;
            let (mut tab, received) = open(&ann).await;
            let case = format!("{delivery:?} {answers} {away}: {received:?}");
            assert_eq!(shown.receives(&received), ["ann", "comes", "stays"], "{case}");
            assert_eq!(shown.0["stays"], "after", "{case}");
            let is_known = delivery == Delivery::Converging && known_after;
            assert_eq!(!received.iter().any(|it| it == FORGET), is_known, "{case}");
            assert_eq!(tab.received_in(100.0).await, NOTHING, "{case}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_those_who_do_not_come_back_are_forgotten() {
    let file = std::env::temp_dir().join(format!("tower-live-updates-presence-{}", std::process::id()));
    for keeps_log in [false, true] {
        let build = || if keeps_log { builder().log_file(&file) } else { builder() };
        let (live, server) = serve(build()).await;
        let mut shown = Shown::default();
        let (ann, mut tab, received) = page(&server, Transport::Tcp, "ann").await;
        shown.receives(&received);
        let (_, bob, _) = page(&server, Transport::Tcp, "bob").await;
        shown.receives(&tab.received_in(20.0).await);
        for tab in [tab, bob] {
            tab.cut(&live).await;
        }
        live.shutdown().await;
        drop((live, server));
        let (_live, server) = serve(build()).await;
        let (_, _carl, _) = page(&server, Transport::Tcp, "carl").await;
        let (_, received) = open(&Client::with_key(&server, Transport::Tcp, &ann.key)).await;
        assert_eq!(shown.receives(&received), ["ann", "carl"], "{keeps_log}: {received:?}");
    }
    std::fs::remove_file(file).unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_newest_page_of_a_user_is_shown_and_then_the_one_before_it() {
    let (live, server) = serve(builder()).await;
    let (_, mut bob, _) = page(&server, Transport::Tcp, "bob").await;
    let (_, _desk, _) = page(&server, Transport::Tcp, "ann:desk").await;
    let (_, phone, _) = page(&server, Transport::Tcp, "ann:phone").await;
    assert_eq!(bob.received().await, ["people: add ann desk", "people: update ann phone"]);
    phone.cut(&live).await;
    assert_eq!(bob.received_in(4.9).await, NOTHING);
    assert_eq!(bob.received_in(0.2).await, ["people: update ann desk"]);
}

/// Tokens of which the authenticator's answers may change.
#[derive(Clone, Default)]
struct Answers(Arc<Mutex<BTreeMap<String, Result<String, AuthError>>>>);

impl Answers {
    fn set(&self, token: &str, answer: Result<&str, AuthError>) {
        self.0.lock().unwrap().insert(token.to_owned(), answer.map(str::to_owned));
    }

    fn builder(&self, people: impl Into<Entity>) -> LiveUpdatesBuilder<HasAuth> {
        let hour = Duration::from_secs(3600);
        LiveUpdates::builder("/api/v1")
            .authenticate_fn(self.clone(), async |answers: Self, request: AuthRequest| {
                let answers = answers.0.lock().unwrap();
                let known = answers.get(request.token()).cloned();
                known.unwrap_or_else(|| Ok(request.token().to_owned())).map(|token| identity(&token))
            })
            .presence(people, |identity| {
                let text = identity.data::<String>()?;
                (text != "hidden").then(|| describe(identity)).flatten()
            })
            .revalidation_interval(Duration::from_secs(60))
            .ping_interval(2 * hour)
            .pong_timeout(3 * hour)
    }
}

#[tokio::test(start_paused = true)]
async fn who_may_not_connect_any_more_leaves_at_once() {
    for delivery in [Delivery::Plain, Delivery::Converging] {
        let answers = Answers::default();
        // So late that nobody leaves by it.
        let builder = answers.builder("people").presence_timeout(Duration::from_secs(10_000)).delivery(delivery);
        let (live, server) = serve(builder).await;
        let (_, mut ann, _) = page(&server, Transport::Tcp, "ann").await;
        let (_, _bob, _) = page(&server, Transport::Tcp, "bob").await;
        let (_, _carl, _) = page(&server, Transport::Tcp, "carl").await;
        let (_, _dora, _) = page(&server, Transport::Tcp, "dora").await;
        ann.received().await;
        assert_eq!(live.disconnect(|identity| identity.principal() == "bob"), 1);
        assert_eq!(ann.received().await, ["people: delete bob"], "{delivery:?}");
        answers.set("carl", Err(AuthError::Denied));
        assert_eq!(ann.received_in(60.0).await, ["people: delete carl"], "{delivery:?}");
        answers.set("dora", Ok("another"));
        assert_eq!(ann.received_in(60.0).await, ["people: delete dora"], "{delivery:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_revalidation_returns_is_shown() {
    let answers = Answers::default();
    let (_live, server) = serve(answers.builder("people")).await;
    let (_, mut ann, _) = page(&server, Transport::Tcp, "ann").await;
    let (_, _bob, _) = page(&server, Transport::Tcp, "bob").await;
    assert_eq!(ann.received_in(100.0).await, ["people: add bob"]);
    for (answer, expected) in
        [("bob:away", "people: update bob away"), ("bob:hidden", "people: delete bob"), ("bob", "people: add bob")]
    {
        answers.set("bob", Ok(answer));
        assert_eq!(ann.received_in(100.0).await, [expected], "{answer}");
    }
}

#[tokio::test(start_paused = true)]
async fn people_are_seen_by_those_who_share_a_scope() {
    for delivery in [Delivery::Plain, Delivery::Converging] {
        let answers = Answers::default();
        let people = Entity::new("people").scoped();
        let (live, server) = serve(answers.builder(people).delivery(delivery)).await;
        let mut of = BTreeMap::new();
        for token in ["ann@north", "bob@south", "carl@north,south", "none"] {
            let (_, tab, _) = page(&server, Transport::Tcp, token).await;
            of.insert(token, tab);
        }
        for (token, expected) in [
            ("ann@north", &["ann", "carl"][..]),
            ("bob@south", &["bob", "carl"]),
            ("carl@north,south", &["ann", "bob", "carl"]),
            ("none", &[]),
        ] {
            let client = Client::load_with(&server, Transport::Tcp, token).await;
            let (tab, received) = open(&client).await;
            assert_eq!(Shown::default().receives(&received), expected, "{delivery:?} {token}");
            tab.cut(&live).await;
        }
        wait(10.0).await;
        for tab in of.values_mut() {
            tab.received().await;
        }
        // Carl moves to the south alone.
        answers.set("carl@north,south", Ok("carl@south"));
        wait(100.0).await;
        let mut received = BTreeMap::new();
        for (token, tab) in &mut of {
            received.insert(*token, tab.received().await);
        }
        assert_eq!(received["ann@north"].first().map(String::as_str), Some("people: delete carl"), "{delivery:?}");
        assert!(received["ann@north"].iter().all(|it| it == "people: delete carl"), "{delivery:?}: {received:?}");
        assert!(received["bob@south"].iter().all(|it| it.ends_with(" carl") && !it.contains("delete")), "{received:?}");
        assert_eq!(received["none"], NOTHING, "{delivery:?}");
        if delivery == Delivery::Converging {
            let seen = Shown(["ann", "bob", "carl"].map(|name| (name.to_owned(), String::new())).into())
                .receives(&received["carl@north,south"])
                .join(" ");
            assert_eq!(seen, "bob carl", "{received:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_page_whose_description_fails_is_served_and_not_shown() {
    let builder = bare()
        .presence("people", |identity: &Identity| match identity.principal() {
            "panics" => panic!("in the closure"),
            "no object" => Some(json!("text")),
            "no id" => Some(json!({"name": "x"})),
            "large" => Some(json!({"id": "large", "text": "x".repeat(2000)})),
            "nobody" => None,
            name => Some(json!({"id": name})),
        })
        .max_body_bytes(1);
    let (live, server) = serve(builder.presence("others", |_: &Identity| Some(json!({"id": 7})))).await;
    let (_, mut ann, _) = page(&server, Transport::Tcp, "ann").await;
    ann.subscribe("others").await;
    assert_eq!(ann.received().await, ["others: add 7"]);
    for (failed, token) in (1..).zip(["panics", "no object", "no id"]) {
        let (_, mut tab, received) = page(&server, Transport::Tcp, token).await;
        assert_eq!(received, ["people: add ann"], "{token}");
        assert_eq!(live.stats().hooks_failed, failed, "{token}");
        live.send("people", "to all").unwrap();
        assert_eq!(tab.received().await, ["people: to all"]);
        assert_eq!(ann.received().await, ["people: to all"]);
        // So long ago that no new page receives it.
        wait(100.0).await;
    }
    let (_, _tab, received) = page(&server, Transport::Tcp, "nobody").await;
    assert_eq!((received, live.stats().hooks_failed), (vec!["people: add ann".to_owned()], 3));
    // An object may have 4 KiB beyond the body.
    let (_, _tab, _) = page(&server, Transport::Tcp, "large").await;
    assert_eq!(ann.received().await, [format!("people: add large {}", "x".repeat(2000))]);
}

#[tokio::test(start_paused = true)]
async fn an_object_that_is_too_large_is_not_shown() {
    let large = |identity: &Identity| Some(json!({"id": identity.principal(), "text": "x".repeat(5000)}));
    let (live, server) = serve(bare().presence("people", large).max_body_bytes(1)).await;
    let (_, _tab, received) = page(&server, Transport::Tcp, "ann").await;
    assert_eq!((received, live.stats().hooks_failed), (Vec::new(), 1));
}

#[tokio::test(start_paused = true)]
async fn everyone_comes_at_once_however_many_are_here_and_whatever_the_page_can_reload() {
    let (_live, server) = serve(builder()).await;
    let mut tabs = Vec::new();
    for number in 0..300 {
        tabs.push(page(&server, Transport::AnyStream, &format!("p{number}")).await);
    }
    wait(100.0).await;
    let client = Client::load_with(&server, Transport::Tcp, "ann").await;
    let mut tab = client.connect().await;
    tab.subscribe("$resync").await;
    tab.subscribe("people").await;
    let received = tab.received().await;
    assert_eq!((received.len(), Shown::default().receives(&received).len()), (301, 301));
    assert_eq!(tab.received_in(100.0).await, NOTHING);
}

#[tokio::test(start_paused = true)]
async fn who_may_subscribe_and_who_sees_whom_is_decided_as_of_every_entity() {
    let people = Entity::new("people")
        .payload_key("person")
        .authorize((), async |(), identity: Identity| Ok::<_, Infallible>(identity.principal() != "guest"))
        .visible((), async |(), identity: Identity, person: Value| {
            Ok::<_, Infallible>(person["id"] != "spy" || identity.principal() == "spy")
        });
    let (_live, server) = serve(bare().presence(people, describe)).await;
    let (_, mut ann, _) = page(&server, Transport::Tcp, "ann").await;
    let (_, _spy, received) = page(&server, Transport::Tcp, "spy").await;
    assert_eq!(Shown::default().receives(&received), ["ann", "spy"]);
    let (_, _guest, received) = page(&server, Transport::Tcp, "guest").await;
    assert_eq!(received, NOTHING);
    assert_eq!(Shown::default().receives(&ann.received().await), ["guest"]);
}

#[tokio::test(start_paused = true)]
async fn nothing_else_is_published_to_it_and_a_refresh_sends_everyone_again() {
    let (live, server) = serve(builder()).await;
    let (_, mut ann, _) = page(&server, Transport::Tcp, "ann").await;
    for change in [Change::add(&json!({"id": 7})), Change::delete("ann")] {
        let error = live.publish("people", change.unwrap()).unwrap_err();
        assert!(matches!(error, PublishError::Presence { .. }), "{error}");
    }
    assert_eq!(ann.received_in(1.0).await, NOTHING);
    let (_, bob, _) = page(&server, Transport::Tcp, "bob").await;
    bob.cut(&live).await;
    ann.received_in(4.9).await;
    live.refresh("people").unwrap();
    wait(1.0).await;
    live.send_to_principal("ann", "people", "a message").unwrap();
    let mut received = ann.received().await;
    assert_eq!(received.pop().unwrap(), "people: a message");
    assert_eq!(Shown([("bob".to_owned(), String::new())].into()).receives(&received), ["ann"], "{received:?}");
}

#[tokio::test(start_paused = true)]
async fn a_page_that_subscribes_again_is_sent_everyone_again_and_who_has_left() {
    let (live, server) = serve(builder()).await;
    let mut shown = Shown::default();
    let (_, mut ann, received) = page(&server, Transport::Tcp, "ann").await;
    shown.receives(&received);
    let (_, bob, _) = page(&server, Transport::Tcp, "bob").await;
    shown.receives(&ann.received().await);
    ann.unsubscribe("people").await;
    bob.cut(&live).await;
    wait(10.0).await;
    ann.subscribe("people").await;
    assert_eq!(shown.receives(&ann.received().await), ["ann"]);
}

#[tokio::test(start_paused = true)]
async fn a_timeout_of_zero_is_none() {
    let (live, server) = serve(builder().presence_timeout(Duration::ZERO)).await;
    let (_, mut ann, _) = page(&server, Transport::Tcp, "ann").await;
    let (_, bob, _) = page(&server, Transport::Tcp, "bob").await;
    ann.received().await;
    bob.cut(&live).await;
    assert_eq!(ann.received().await, ["people: delete bob"]);
}

#[tokio::test(start_paused = true)]
async fn as_many_may_be_leaving_as_may_be_here() {
    let (live, server) = serve(builder().max_connections(2)).await;
    let (_, mut ann, _) = page(&server, Transport::Tcp, "ann").await;
    for name in ["bob", "carl", "dora"] {
        let (_, tab, _) = page(&server, Transport::Tcp, name).await;
        tab.cut(&live).await;
    }
    let received = ann.received().await;
    let expected = ["people: add bob", "people: add carl", "people: add dora", "people: delete bob"];
    assert_eq!(received, expected);
}

#[tokio::test(start_paused = true)]
async fn a_page_that_a_disconnect_may_have_meant_is_not_shown_until_it_is_authenticated_again() {
    /// Whether Bob may connect, which takes until it is let go.
    type Door = Arc<(Semaphore, Mutex<Vec<Result<(), AuthError>>>)>;
    let answers = vec![Ok(()), Err(AuthError::Unavailable), Ok(())];
    let door: Door = Arc::new((Semaphore::new(1), Mutex::new(answers)));
    let builder =
        LiveUpdates::builder("/api/v1").authenticate_fn(door.clone(), async |door: Door, request: AuthRequest| {
            if request.token() == "bob" {
                let answer = door.1.lock().unwrap().remove(0);
                drop(door.0.acquire().await.unwrap());
                answer?;
            }
            Ok::<_, AuthError>(identity(request.token()))
        });
    let (live, server) = serve(builder.presence("people", describe)).await;
    let (_, mut ann, _) = page(&server, Transport::AnyStream, "ann").await;
    let held = door.0.acquire().await.unwrap();
    let coming = tokio::spawn(async move { upgrade(server.connect(), "/api/v1?token=bob&ws=1", &[]).await });
    until("it is asked about", || door.1.lock().unwrap().len() == 2).await;
    live.disconnect(|identity| identity.principal() == "bob");
    drop(held);
    let _bob = coming.await.unwrap().unwrap();
    until("it is asked about again", || door.1.lock().unwrap().len() == 1).await;
    assert_eq!(ann.received().await, NOTHING);
    until("it is asked about once more", || door.1.lock().unwrap().is_empty()).await;
    assert_eq!(ann.received_in(0.1).await, ["people: add bob"]);
}

#[tokio::test(start_paused = true)]
async fn nobody_is_reported_gone_while_the_server_shuts_down() {
    let (live, server) = serve(builder()).await;
    let (_, mut ann, _) = page(&server, Transport::Tcp, "ann").await;
    let (_, bob, _) = page(&server, Transport::Tcp, "bob").await;
    ann.received().await;
    bob.cut(&live).await;
    let shutdown = tokio::spawn(async move { live.shutdown().await });
    let (received, end) = ann.end().await;
    assert_eq!((received.len(), end), (0, End::Close(1001, "Going away".into())));
    drop(ann);
    shutdown.await.unwrap();
}

#[test]
fn setters_that_have_no_meaning_are_refused() {
    let read = async |(): (), _: String| Ok::<_, Infallible>(None::<Value>);
    let rows = async |(): (), _: Identity| Ok::<_, Infallible>(Snapshot::new(Vec::<Value>::new()));
    let people = || Entity::new("people");
    for (entity, setter) in [
        (people().collection("/people"), "route or collection"),
        (people().list_route("/people"), "list_route"),
        (people().load((), read), "load"),
        (people().snapshot((), rows), "snapshot"),
        (people().parent_key("boss"), "parent_key"),
        (people().scope_from(|_| Some("north")), "scope_from"),
        (people().ids_per_scope(), "ids_per_scope"),
    ] {
        let error = bare().presence(entity, describe).build().unwrap_err();
        assert!(matches!(&error, ConfigError::Presence { setter: found, .. } if *found == setter), "{error}");
        assert!(error.to_string().contains(setter), "{error}");
    }
    assert!(matches!(bare().presence("events", describe).build(), Err(ConfigError::DuplicateEntity(_))));
    assert!(bare().presence(people().payload_key("person").scoped(), describe).build().is_ok());
}
