//! Hooks that fail: each failure is caught and counted, counts as no, and stops nothing else; a hook that works again
//! is used again.
//!
//! For a failing load hook behind a write see `load.rs`, for `snapshot` `resync.rs`, for `authorize` `authorize.rs`,
//! and for the authenticator also `auth.rs` and `revocation.rs`.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    future::{Future, pending},
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::{Method, Request};
use serde_json::{Value, json};
use tokio::time::Instant;
use tower_live_updates::{
    AuthError, AuthRequest, Entity, Identity, LiveUpdates, LiveUpdatesBuilder, Snapshot, builder::HasAuth,
};

use crate::support::{
    Page, Server,
    client::{Client, TRANSPORTS, Tab, Transport, added, adds, event, publish, updated, upserts, wait},
    raw::{Raw, upgrade_request},
    usual,
};

const NOTHING: [&str; 0] = [];
/// What a hook may take.
const LIMIT: f64 = 2.0;

/// How a hook fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    Fails,
    PanicsAtOnce,
    Panics,
    Hangs,
}

const FAILURES: [Failure; 4] = [Failure::Fails, Failure::PanicsAtOnce, Failure::Panics, Failure::Hangs];

impl Failure {
    /// How long it takes until it counts.
    fn takes(self) -> f64 {
        if self == Self::Hangs { LIMIT } else { 0.0 }
    }
}

/// Whether the hooks fail just now.
#[derive(Clone, Default)]
struct Trouble(Arc<Mutex<Option<Failure>>>);

impl Trouble {
    fn begins(&self, failure: Failure) {
        *self.0.lock().unwrap() = Some(failure);
    }

    fn ends(&self) {
        *self.0.lock().unwrap() = None;
    }

    /// None for other principals.
    fn of_ann(self, user: &Identity) -> Self {
        if user.principal() == "ann" { self } else { Self::default() }
    }

    /// What a hook does: it answers, or fails.
    fn hook<T: Send + 'static>(&self, answer: T) -> impl Future<Output = Result<T, io::Error>> + Send + use<T> {
        let failure = *self.0.lock().unwrap();
        assert!(failure != Some(Failure::PanicsAtOnce), "before its future");
        async move {
            match failure {
                None => Ok(answer),
                Some(Failure::Fails) => Err(io::Error::other("not now")),
                Some(Failure::Panics | Failure::PanicsAtOnce) => panic!("in its future"),
                Some(Failure::Hangs) => pending().await,
            }
        }
    }
}

/// The token is the principal's name, and the scope it has.
fn builder(events: Entity) -> LiveUpdatesBuilder<HasAuth> {
    let hour = Duration::from_secs(3600);
    LiveUpdates::builder("/api/v1")
        .entity(events)
        .entity(Entity::new("calendars"))
        .authenticate_fn((), async |(), request: AuthRequest| {
            Ok::<_, AuthError>(Identity::new(request.token()).with_scope(request.token()))
        })
        .hook_timeout(Duration::from_secs_f64(LIMIT))
        .ping_interval(2 * hour)
        .pong_timeout(3 * hour)
}

async fn serve(builder: LiveUpdatesBuilder<HasAuth>) -> (LiveUpdates, Server) {
    let live = builder.build().unwrap();
    let server = Server::layered(&live.layer(), usual);
    wait(100.0).await;
    (live, server)
}

/// A page that has received all there was to receive.
async fn page(server: &Server, transport: Transport, user: &str) -> Tab {
    let mut tab = Client::load_with(server, transport, user).await.open().await;
    tab.received_in(20.0).await;
    tab
}

thread_local! {
    /// The rows of the store, as they were written last: each test has a thread of its own.
    static STORED: RefCell<BTreeMap<String, Value>> = RefCell::default();
}

async fn stored((): (), id: String) -> Result<Option<Value>, io::Error> {
    Ok(STORED.with_borrow(|rows| rows.get(&id).cloned()))
}

/// An update over HTTP, which must be answered as if no page were subscribed.
async fn put(server: &Server, id: u32, text: &str) {
    STORED.with_borrow_mut(|rows| rows.insert(id.to_string(), event(id, text)));
    let answer = server.write(Method::PUT, &format!("/events/{id}"), &event(id, text).to_string()).await;
    assert_eq!((answer.status().as_u16(), &answer.body()[..]), (200, &br#"{"action":"updated"}"#[..]));
}

fn assert_published(count: u64, live: &LiveUpdates) {
    assert_eq!((live.stats().changes_published, live.stats().writes_unpublished), (count, 0));
}

/// Events with a hook that fails for ann only.
fn about_ann(hook: &str, trouble: &Trouble) -> Entity {
    let events = Entity::scheduler("/events").load((), stored);
    match hook {
        "visible" => events
            .visible(trouble.clone(), |trouble: Trouble, user: Identity, _: Value| trouble.of_ann(&user).hook(true)),
        _ => events.project(trouble.clone(), |trouble: Trouble, user: Identity, event: Value| {
            trouble.of_ann(&user).hook(event)
        }),
    }
}

#[tokio::test(start_paused = true)]
async fn an_object_is_retracted_while_its_visibility_hook_fails() {
    let of_hooks = ["visible", "project"].into_iter().flat_map(|hook| FAILURES.map(|failure| (hook, failure)));
    for (hook, failure, transport) in
        of_hooks.flat_map(|(hook, failure)| TRANSPORTS.map(|transport| (hook, failure, transport)))
    {
        let case = format!("{hook} {failure:?} {transport:?}");
        let trouble = Trouble::default();
        let (live, server) = serve(builder(about_ann(hook, &trouble))).await;
        let (mut ann, mut bob) = (page(&server, transport, "ann").await, page(&server, transport, "bob").await);
        let mut other = Client::load_with(&server, transport, "ann").await.connect().await;
        other.subscribe("calendars").await;
        publish(&live, [added(1, "seen")]);
        assert_eq!(
            (ann.received().await, bob.received().await),
            (vec!["add 1 seen".into()], vec!["add 1 seen".into()]),
            "{case}"
        );

        // Writes close together would be repeated by themselves.
        wait(10.0).await;
        trouble.begins(failure);
        let began = Instant::now();
        put(&server, 1, "hidden").await;
        live.send("calendars", "blue").unwrap();
        assert_eq!(bob.received().await, ["update 1 hidden"], "{case}");
        assert_eq!(other.received().await, ["calendars: blue"], "{case}");
        assert!(began.elapsed() < Duration::from_millis(10), "{case}: no other page waits: {:?}", began.elapsed());
        let gone = ["update 1 ordinary", "delete 1", "update 1"];
        assert_eq!(ann.received_in(failure.takes() + 0.1).await, gone, "{case}: it counts as no");
        assert!(live.stats().hooks_failed >= 1, "{case}");
        assert_published(2, &live);

        trouble.ends();
        let received = ann.received_in(46.0).await;
        assert_eq!(received, upserts(&[(1, "hidden")]), "{case}: with the next repeat");
        publish(&live, [updated(1, "on")]);
        assert_eq!(
            (ann.received().await, bob.received().await),
            (vec!["update 1 on".into()], vec!["update 1 on".into()]),
            "{case}"
        );
        assert_eq!(live.stats().connections, 3, "{case}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_page_that_resumes_meanwhile_receives_what_it_missed_once_the_hook_answers() {
    for failure in FAILURES {
        let trouble = Trouble::default();
        let (live, server) = serve(builder(about_ann("visible", &trouble))).await;
        let ann = Client::load_with(&server, Transport::Tcp, "ann").await;
        publish(&live, [added(1, "missed")]);
        trouble.begins(failure);
        let mut ann = ann.connect().await;
        ann.raw.send_text(r#"{"action":"subscribe","name":"events"}"#).await;
        let received = ann.received_in(failure.takes() + 0.1).await;
        assert!(!received.iter().any(|message| message.contains("missed")), "{failure:?}: {received:?}");
        trouble.ends();
        let received = ann.received_in(31.0).await;
        let missed = adds(&[(1, "missed")]);
        assert!(missed.iter().all(|message| received.contains(message)), "{failure:?}: {received:?}");
        publish(&live, [updated(1, "on")]);
        assert!(ann.received().await.contains(&"update 1 on".to_owned()), "{failure:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_else_a_page_follows_goes_on_when_a_hook_that_hangs_is_given_up() {
    for transport in TRANSPORTS {
        let trouble = Trouble::default();
        let (live, server) = serve(builder(about_ann("visible", &trouble))).await;
        let mut ann = page(&server, transport, "ann").await;
        ann.subscribe("calendars").await;
        trouble.begins(Failure::Hangs);
        publish(&live, [added(1, "not to be seen")]);
        live.send("calendars", "blue").unwrap();
        assert_eq!(ann.received_in(LIMIT + 0.1).await, ["calendars: blue"], "{transport:?}");
        live.send("calendars", "green").unwrap();
        assert_eq!(ann.received().await, ["calendars: green"], "{transport:?}");
        assert_eq!(live.stats().connections, 1, "{transport:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_object_added_while_the_hook_failed_arrives_with_the_next_repeat() {
    for (failure, hook) in FAILURES.into_iter().flat_map(|failure| [(failure, "visible"), (failure, "project")]) {
        let case = format!("{hook} {failure:?}");
        let trouble = Trouble::default();
        let (live, server) = serve(builder(about_ann(hook, &trouble))).await;
        let mut ann = page(&server, Transport::Tcp, "ann").await;
        trouble.begins(failure);
        publish(&live, [added(1, "new")]);
        assert_eq!(ann.received_in(failure.takes() + 0.1).await, NOTHING, "{case}");
        // Longer than retractions are repeated.
        wait(20.0 * 60.0).await;
        assert!(!ann.received().await.iter().any(|received| received.contains("new")), "{case}");
        trouble.ends();
        assert_eq!(ann.received_in(31.0).await[0], "add 1 new", "{case}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_load_that_fails_before_a_write_keeps_neither_the_write_nor_its_pages_waiting_for_ever() {
    for failure in FAILURES {
        let trouble = Trouble::default();
        let events = about_ann("visible", &Trouble::default());
        let events = events.load(trouble.clone(), |trouble: Trouble, id: String| {
            trouble.hook(Some(event(id.parse().unwrap(), "stored")))
        });
        let (live, server) = serve(builder(events)).await;
        let mut bob = page(&server, Transport::Tcp, "bob").await;
        trouble.begins(failure);
        let began = Instant::now();
        put(&server, 7, "sent").await;
        let took = began.elapsed().as_secs_f64();
        assert!((took - 2.0 * failure.takes()).abs() < 0.1, "{failure:?}: before the write and behind it: {took}");
        assert_eq!(live.stats().hooks_failed, 2, "{failure:?}");
        assert_eq!(bob.received().await, NOTHING, "{failure:?}: the request does not show who may see it");
        assert_eq!((live.stats().changes_published, live.stats().writes_unpublished), (0, 1), "{failure:?}");
        trouble.ends();
        put(&server, 8, "sent").await;
        assert_eq!(bob.received().await.last().unwrap(), "update 8 stored", "{failure:?}");
        assert_eq!((live.stats().hooks_failed, live.stats().write_lock_timeouts), (2, 0), "{failure:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_scope_from_that_panics_gives_no_scope_and_its_write_reaches_no_page() {
    let events = Entity::scheduler("/events").scope_from(|request: &http::request::Parts| {
        let tenant = request.headers["tenant"].to_str().unwrap();
        assert!(!request.headers.contains_key("trouble"), "in the closure");
        Some(tenant.to_owned())
    });
    let (live, server) = serve(builder(events)).await;
    let (mut north, mut south) =
        (page(&server, Transport::Tcp, "north").await, page(&server, Transport::AnyStream, "south").await);
    let put = |tenant: &str, has_trouble: bool| {
        let mut request = Request::put("/events/7").header("content-type", "application/json");
        request = request.header("tenant", tenant);
        if has_trouble {
            request = request.header("trouble", "yes");
        }
        server.send(request.body(event(7, tenant).to_string()).unwrap())
    };
    for (round, tenant) in (1..).zip(["north", "south"]) {
        let answer = put(tenant, true).await;
        assert_eq!((answer.status().as_u16(), &answer.body()[..]), (200, &br#"{"action":"updated"}"#[..]));
        assert_eq!((north.received().await, south.received().await), (vec![], vec![]));
        assert_eq!((live.stats().hooks_failed, live.stats().writes_unpublished), (round, round));
    }
    put("north", false).await;
    assert_eq!((north.received().await, south.received().await), (vec!["update 7 north".to_owned()], vec![]));
    assert_eq!((live.stats().changes_published, live.stats().connections), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_hook_that_panics_before_its_future_is_retried() {
    let trouble = Trouble::default();
    let events = Entity::scheduler("/events")
        .snapshot(trouble.clone(), |trouble: Trouble, _| trouble.hook(Snapshot::new([event(1, "stored")])));
    let (live, server) = serve(builder(events)).await;
    let (mut ann, mut bob) =
        (page(&server, Transport::Tcp, "ann").await, page(&server, Transport::AnyStream, "bob").await);
    trouble.begins(Failure::PanicsAtOnce);
    live.refresh("events").unwrap();
    assert_eq!((ann.received_in(0.5).await, bob.received().await), (vec![], vec![]));
    assert_eq!(live.stats().hooks_failed, 2, "once for each of them");
    trouble.ends();
    wait(1.0).await;
    put(&server, 1, "on").await;
    for tab in [&mut ann, &mut bob] {
        assert_eq!(tab.received().await, [upserts(&[(1, "stored")]), vec!["update 1 on".to_owned()]].concat());
    }
    assert_eq!((live.stats().snapshots, live.stats().unrecovered_gaps, live.stats().connections), (2, 0, 2));
}

/// The status of an upgrade; a socket that comes up stays up.
async fn socket(server: &Server, lines: &[(&str, &str)]) -> (u16, Raw) {
    let mut raw = Raw::new(server.connect());
    raw.write(upgrade_request("/api/v1?token=ann&ws=1", lines).as_bytes()).await.unwrap();
    (raw.head().await.status(), raw)
}

#[tokio::test(start_paused = true)]
async fn an_authenticator_that_fails_admits_no_socket_and_closes_none() {
    let every = Duration::from_secs(60);
    // It has no errors of its own kind: `AuthError::Unavailable` is an answer.
    for failure in [Failure::PanicsAtOnce, Failure::Panics, Failure::Hangs] {
        let trouble = Trouble::default();
        let live = crate::support::builder()
            .authenticate_fn(trouble.clone(), |trouble: Trouble, _| {
                let identity = trouble.hook(Identity::new("ann"));
                async move { identity.await.map_err(|_| AuthError::Denied) }
            })
            .hook_timeout(Duration::from_secs_f64(LIMIT))
            .refusal_delay(Duration::ZERO)
            .revalidation_interval(every)
            .build()
            .unwrap();
        let server = Server::layered(&live.layer(), usual);
        let mut page: Page = server.subscribed().await;
        trouble.begins(failure);
        assert_eq!(server.handshake("ann").await.status(), 200, "{failure:?}: its socket is asked about");
        assert_eq!(socket(&server, &[]).await.0, 503, "{failure:?}");
        let call = Request::post("/api/v1").header("remote-token", "ann").body(r#"[{"id":"2"}]"#).unwrap();
        assert_eq!(server.send(call).await.status(), 503, "{failure:?}");
        assert_eq!((live.stats().hooks_failed, live.stats().sockets_opened), (3, 1), "{failure:?}");
        tokio::time::sleep(every + Duration::from_secs(1)).await;
        assert!(live.stats().hooks_failed >= 4, "{failure:?}: it was asked about the open socket");
        put(&server, 7, "received").await;
        assert_eq!(page.event().await.0, "update-event", "{failure:?}");
        trouble.ends();
        assert_eq!(socket(&server, &[]).await.0, 101, "{failure:?}");
        tokio::time::sleep(every).await;
        page.barrier().await;
        assert_eq!(live.stats().connections, 1, "{failure:?}: that of the page");
    }
}

#[tokio::test]
async fn an_origin_whose_predicate_panics_is_refused_and_the_panic_counted() {
    let trouble = Trouble::default();
    let asked = trouble.clone();
    let live = crate::support::builder()
        .allow_origin_if(move |_| asked.0.lock().unwrap().is_none() || panic!("in the predicate"))
        .tokens(["ann"])
        .build()
        .unwrap();
    let server = Server::layered(&live.layer(), usual);
    let foreign = [("Origin", "https://other.example")];
    let (status, mut open) = socket(&server, &foreign).await;
    assert_eq!((status, &open.json().await["action"]), (101, &json!("start")));
    open.send_text(r#"{"action":"subscribe","name":"events"}"#).await;
    open.barrier().await;
    trouble.begins(Failure::PanicsAtOnce);
    assert_eq!(socket(&server, &foreign).await.0, 403);
    let handshake = Request::get("/api/v1").header("remote-token", "ann").header("origin", foreign[0].1);
    assert_eq!(server.send(handshake.body("").unwrap()).await.status(), 403);
    assert_eq!((live.stats().hooks_failed, live.stats().origins_refused), (2, 2));
    assert_eq!(socket(&server, &[]).await.0, 101, "pages of the own host are not asked about");
    put(&server, 7, "received").await;
    assert_eq!(open.json().await["body"]["value"]["event"]["text"], "received");
    trouble.ends();
    assert_eq!(socket(&server, &foreign).await.0, 101);
    assert_eq!(live.stats().hooks_failed, 2);
}
