//! Authorization of subscriptions: the `authorize` hook runs at each subscribe, and again as often as the
//! authenticator.

use std::{
    future::{Future, pending},
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use tokio::time::Instant;
use tower_live_updates::{
    AuthError, AuthRequest, Entity, Identity, LiveUpdates, LiveUpdatesBuilder, builder::HasAuth, builder::WantsAuth,
};

use crate::support::{
    Server,
    client::{Client, TRANSPORTS, Tab, Transport, added, adds, publish, updated, wait},
    usual,
};

const NOTHING: [&str; 0] = [];
const ASK_EVERY: f64 = 300.0;

/// What the hook answers for a while.
#[derive(Clone, Copy, Debug)]
enum Mood {
    Yes,
    No,
    /// Yes to all but this one.
    YesBut(&'static str),
    /// Yes to identities that carry the right.
    AsTheIdentitySays,
    /// This, so many seconds later.
    Slow(u64, bool),
    Fails,
    PanicsAtOnce,
    Panics,
    Hangs,
}

const FAILURES: [Mood; 4] = [Mood::Fails, Mood::PanicsAtOnce, Mood::Panics, Mood::Hangs];

/// Authorizes subscriptions to `events`, and records when it was asked about whom.
#[derive(Clone)]
struct Guard(Arc<Inside>);

struct Inside {
    mood: Mutex<Mood>,
    asked: Mutex<Vec<(Instant, String)>>,
}

/// Of the identities that the authenticator gives.
struct MayFollow(bool);

impl Guard {
    fn new(mood: Mood) -> Self {
        Self(Arc::new(Inside { mood: Mutex::new(mood), asked: Mutex::default() }))
    }

    fn is(&self, mood: Mood) {
        *self.0.mood.lock().unwrap() = mood;
    }

    fn times_asked(&self) -> usize {
        self.0.asked.lock().unwrap().len()
    }

    /// How many seconds after `began` it was asked each time.
    fn asked_since(&self, began: Instant) -> Vec<f64> {
        let asked = self.0.asked.lock().unwrap();
        asked.iter().filter_map(|(at, _)| Some(at.checked_duration_since(began)?.as_secs_f64())).collect()
    }

    fn answer(self, user: Identity) -> impl Future<Output = Result<bool, io::Error>> + Send {
        self.0.asked.lock().unwrap().push((Instant::now(), user.principal().to_owned()));
        let mood = *self.0.mood.lock().unwrap();
        assert!(!matches!(mood, Mood::PanicsAtOnce), "before its future");
        async move {
            match mood {
                Mood::Yes => Ok(true),
                Mood::No => Ok(false),
                Mood::YesBut(name) => Ok(user.principal() != name),
                Mood::AsTheIdentitySays => Ok(user.data::<MayFollow>().unwrap().0),
                Mood::Slow(seconds, answer) => {
                    tokio::time::sleep(Duration::from_secs(seconds)).await;
                    Ok(answer)
                }
                Mood::Fails => Err(io::Error::other("no list of members")),
                Mood::PanicsAtOnce | Mood::Panics => panic!("in its future"),
                Mood::Hangs => pending().await,
            }
        }
    }

    fn events(&self) -> Entity {
        Entity::scheduler("/events").authorize(self.clone(), Self::answer)
    }

    /// Without what pages are let in by.
    fn unauthenticated(&self) -> LiveUpdatesBuilder<WantsAuth> {
        let hour = Duration::from_secs(3600);
        LiveUpdates::builder("/api/v1")
            .entity(self.events())
            .entity(Entity::new("calendars"))
            .hook_timeout(Duration::from_secs(2))
            .revalidation_interval(Duration::from_secs_f64(ASK_EVERY))
            .ping_interval(2 * hour)
            .pong_timeout(3 * hour)
    }

    /// The authenticator is not asked about these tokens again, so each question comes from the subscriptions.
    fn builder(&self) -> LiveUpdatesBuilder<HasAuth> {
        self.unauthenticated().tokens(["ann", "bob"])
    }

    async fn serve(&self) -> (LiveUpdates, Server) {
        serve(self.builder()).await
    }
}

async fn serve(builder: LiveUpdatesBuilder<HasAuth>) -> (LiveUpdates, Server) {
    let live = builder.build().unwrap();
    let server = Server::layered(&live.layer(), usual);
    // Nothing of what comes is as old as the server.
    wait(100.0).await;
    (live, server)
}

async fn page(server: &Server, transport: Transport, user: &str) -> Client {
    Client::load_with(server, transport, user).await
}

/// Waits until something has come true that happens once in an interval.
async fn within_an_interval(what: &str, is_true: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs_f64(ASK_EVERY + 3.0);
    while !is_true() {
        assert!(Instant::now() < end, "{what}");
        wait(0.01).await;
    }
}

/// Each object's newest state is repeated for a while; here it matters which are sent at all.
fn objects(received: &[String]) -> Vec<&str> {
    let mut objects: Vec<&str> = received.iter().filter_map(|message| message.split(' ').nth(1)).collect();
    objects.sort_unstable();
    objects.dedup();
    objects
}

#[tokio::test(start_paused = true)]
async fn an_unauthorized_page_receives_nothing_of_the_entity_and_everything_else() {
    for transport in TRANSPORTS {
        let guard = Guard::new(Mood::YesBut("token-1"));
        let (live, server) = guard.serve().await;
        let mut ann = page(&server, transport, "ann").await.open().await;
        ann.subscribe("calendars").await;
        let mut bob = page(&server, transport, "bob").await.open().await;
        publish(&live, [added(1, "lunch")]);
        live.send("events", "a message").unwrap();
        live.send("calendars", "blue").unwrap();
        assert_eq!(ann.received().await, ["calendars: blue"], "{transport:?}");
        assert_eq!(bob.received().await, ["add 1 lunch", "a message"], "{transport:?}");
        let stats = live.stats();
        assert_eq!((stats.subscriptions_refused, stats.subscriptions, stats.connections), (1, 2, 2), "{transport:?}");
        assert_eq!(stats.hooks_failed, 0, "{transport:?}: a no is no failure");
        assert_eq!(ann.received_in(60.0).await, NOTHING, "{transport:?}: nor later");
    }
}

#[tokio::test(start_paused = true)]
async fn an_authorized_page_receives_what_it_missed_until_the_answer() {
    for transport in TRANSPORTS {
        for mood in [Mood::Yes, Mood::Slow(1, true)] {
            let guard = Guard::new(mood);
            let (live, server) = guard.serve().await;
            let ann = page(&server, transport, "ann").await;
            publish(&live, [added(1, "before it came")]);
            let mut ann = ann.open().await;
            publish(&live, [added(2, "while it was asked about")]);
            if matches!(mood, Mood::Slow(..)) {
                assert_eq!(ann.received_in(0.9).await, NOTHING, "{transport:?}");
                wait(0.2).await;
            }
            let received = ann.received().await;
            assert_eq!(objects(&received), ["1", "2"], "{transport:?} {mood:?}: {received:?}");
            assert_eq!(received[..1], adds(&[(1, "before it came")]), "{transport:?} {mood:?}");
            publish(&live, [updated(1, "live")]);
            assert!(ann.received().await.contains(&"update 1 live".to_owned()), "{transport:?} {mood:?}");
            assert_eq!(
                (live.stats().subscriptions, live.stats().subscriptions_refused),
                (1, 0),
                "{transport:?} {mood:?}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_later_denial_ends_the_subscription_and_a_later_approval_replays_what_was_missed() {
    for transport in TRANSPORTS {
        let guard = Guard::new(Mood::Yes);
        let (live, server) = guard.serve().await;
        let mut ann = page(&server, transport, "ann").await.open().await;
        let mut calls = page(&server, transport, "bob").await.connect().await;
        calls.subscribe("calendars").await;
        let began = Instant::now();
        publish(&live, [added(1, "received")]);
        assert_eq!(ann.received().await, ["add 1 received"], "{transport:?}");
        guard.is(Mood::No);
        ann.received_in(ASK_EVERY + 1.0).await;
        let asked = guard.asked_since(began);
        assert!(
            asked.len() >= 2 && (ASK_EVERY / 2.0..=ASK_EVERY + 0.1).contains(&asked[1]),
            "{transport:?}: {asked:?}"
        );
        assert_eq!(live.stats().subscriptions, 1, "{transport:?}: that of bob");
        publish(&live, [updated(1, "missed"), added(2, "missed")]);
        live.send("calendars", "blue").unwrap();
        assert_eq!(ann.received_in(1.0).await, NOTHING, "{transport:?}");
        assert_eq!(calls.received().await, ["calendars: blue"], "{transport:?}");
        guard.is(Mood::Yes);
        let received = ann.received_in(ASK_EVERY + 1.0).await;
        for state in adds(&[(1, "missed"), (2, "missed")]) {
            assert!(received.contains(&state), "{transport:?}: {state} in {received:?}");
        }
        assert_eq!((live.stats().subscriptions, live.stats().hooks_failed), (2, 0), "{transport:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_authorize_hook_that_fails_counts_as_no_and_is_retried_soon() {
    for mood in FAILURES {
        let guard = Guard::new(mood);
        let (live, server) = guard.serve().await;
        let began = Instant::now();
        let mut ann = page(&server, Transport::Tcp, "ann").await.open().await;
        publish(&live, [added(1, "not for unknown pages")]);
        // What hangs is given up after two seconds.
        let takes = if matches!(mood, Mood::Hangs) { 2.0 } else { 0.0 };
        assert_eq!(ann.received_in(1.0 + 3.0 + 3.0 * takes + 1.0).await, NOTHING, "{mood:?}");
        let asked = guard.asked_since(began);
        let expected = [0.0, takes + 1.0, 2.0 * takes + 4.0];
        assert_eq!(asked.len(), 3, "{mood:?}: {asked:?}");
        let is_close = |(asked, expected): (&f64, &f64)| (asked - expected).abs() < 0.1;
        assert!(asked.iter().zip(&expected).all(is_close), "{mood:?}: {asked:?}");
        let stats = live.stats();
        assert_eq!((stats.hooks_failed, stats.subscriptions_refused, stats.subscriptions), (3, 3, 0), "{mood:?}");
        within_an_interval("it is asked again", || guard.times_asked() == 4).await;
        let asked = guard.asked_since(began);
        let between = asked[3] - asked[2] - takes;
        assert!((ASK_EVERY / 2.0..=ASK_EVERY + 0.1).contains(&between), "{mood:?}: {asked:?}");
        assert_eq!(ann.received_in(takes + 0.1).await, NOTHING, "{mood:?}");
        guard.is(Mood::Yes);
        let received = ann.received_in(ASK_EVERY + 3.0).await;
        assert_eq!(objects(&received), ["1"], "{mood:?}: once it works it is believed");
        assert_eq!((live.stats().hooks_failed, live.stats().connections), (4, 1), "{mood:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_authorize_hook_that_fails_later_ends_the_subscription_until_it_works_again() {
    for mood in FAILURES {
        let guard = Guard::new(Mood::Yes);
        let (live, server) = guard.serve().await;
        let mut ann = page(&server, Transport::AnyStream, "ann").await.open().await;
        guard.is(mood);
        within_an_interval("it has failed", || live.stats().hooks_failed == 1).await;
        assert_eq!(live.stats().subscriptions, 0, "{mood:?}");
        publish(&live, [added(1, "missed")]);
        assert_eq!(ann.received().await, NOTHING, "{mood:?}");
        guard.is(Mood::Yes);
        assert_eq!(ann.received_in(1.1).await, adds(&[(1, "missed")]), "{mood:?}");
        // A failure after a success is the first one again.
        guard.is(mood);
        within_an_interval("it has failed again", || live.stats().hooks_failed == 2).await;
        guard.is(Mood::Yes);
        wait(1.1).await;
        assert_eq!(live.stats().subscriptions, 1, "{mood:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_verdict_on_a_subscription_that_has_ended_does_nothing() {
    let guard = Guard::new(Mood::Slow(1, true));
    let (live, server) = guard.serve().await;
    let mut ann = page(&server, Transport::Tcp, "ann").await.open().await;
    ann.unsubscribe("events").await;
    publish(&live, [added(1, "nothing to it")]);
    assert_eq!(ann.received_in(2.0).await, NOTHING);
    assert_eq!((live.stats().subscriptions, guard.times_asked()), (0, 1));
    assert_eq!(ann.received_in(2.0 * ASK_EVERY).await, NOTHING);
    assert_eq!(guard.times_asked(), 1, "nor is it asked about again");
}

#[tokio::test(start_paused = true)]
async fn nor_does_it_answer_for_the_next_subscription() {
    for (first, then) in [(true, false), (false, true)] {
        let guard = Guard::new(Mood::Slow(1, first));
        let (live, server) = guard.serve().await;
        let mut ann = page(&server, Transport::Tcp, "ann").await.open().await;
        ann.unsubscribe("events").await;
        guard.is(Mood::Slow(2, then));
        wait(0.5).await;
        ann.subscribe("events").await;
        wait(1.0).await;
        let stats = live.stats();
        assert_eq!((stats.subscriptions, stats.subscriptions_refused), (0, 0), "the first answer is there: {first}");
        wait(1.1).await;
        assert_eq!((live.stats().subscriptions == 1, guard.times_asked()), (then, 2));
    }
}

#[tokio::test(start_paused = true)]
async fn a_page_that_subscribes_twice_is_authorized_once() {
    let guard = Guard::new(Mood::Slow(1, true));
    let (live, server) = guard.serve().await;
    let mut ann = page(&server, Transport::Tcp, "ann").await.open().await;
    ann.subscribe("events").await;
    wait(1.1).await;
    ann.subscribe("events").await;
    publish(&live, [added(1, "once")]);
    assert_eq!(ann.received().await, ["add 1 once"]);
    assert_eq!((live.stats().subscriptions, guard.times_asked()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_page_that_has_unsubscribed_is_authorized_anew() {
    let guard = Guard::new(Mood::Yes);
    let (live, server) = guard.serve().await;
    let mut ann = page(&server, Transport::Tcp, "ann").await.open().await;
    ann.received().await;
    ann.unsubscribe("events").await;
    assert_eq!(live.stats().subscriptions, 0);
    guard.is(Mood::No);
    ann.subscribe("events").await;
    publish(&live, [added(1, "not for ann")]);
    assert_eq!(ann.received().await, NOTHING);
    assert_eq!((guard.times_asked(), live.stats().subscriptions), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn an_entity_under_authorization_counts_against_max_subscriptions() {
    let guard = Guard::new(Mood::Slow(1, true));
    let (live, server) = serve(guard.builder().max_subscriptions(1)).await;
    let mut ann = page(&server, Transport::AnyStream, "ann").await.open().await;
    ann.subscribe("calendars").await;
    assert_eq!((live.stats().subscriptions, live.stats().subscriptions_refused), (0, 1));
    ann.subscribe("events").await;
    assert_eq!(live.stats().subscriptions_refused, 1, "it has its slot");
    wait(1.1).await;
    live.send("calendars", "blue").unwrap();
    live.send("events", "received").unwrap();
    assert_eq!(ann.received().await, ["received"]);
    ann.unsubscribe("events").await;
    ann.subscribe("calendars").await;
    assert_eq!((live.stats().subscriptions, live.stats().subscriptions_refused), (1, 1), "the slot is free again");
    ann.subscribe("events").await;
    assert_eq!((guard.times_asked(), live.stats().subscriptions_refused), (1, 2), "the hook does not run in vain");
}

#[tokio::test(start_paused = true)]
async fn a_page_that_leaves_while_it_is_asked_about_leaves_nothing_behind() {
    let guard = Guard::new(Mood::Slow(1, true));
    let (live, server) = guard.serve().await;
    let ann: Tab = page(&server, Transport::Tcp, "ann").await.open().await;
    ann.cut(&live).await;
    wait(2.0).await;
    assert_eq!((live.stats().connections, live.stats().subscriptions, guard.times_asked()), (0, 0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_hook_that_hangs_keeps_neither_its_page_nor_others_waiting() {
    let guard = Guard::new(Mood::Hangs);
    let (live, server) = guard.serve().await;
    let mut ann = page(&server, Transport::Tcp, "ann").await.open().await;
    guard.is(Mood::Yes);
    let mut bob = page(&server, Transport::Tcp, "bob").await.open().await;
    let asked = Instant::now();
    ann.subscribe("calendars").await;
    publish(&live, [added(1, "lunch")]);
    live.send("calendars", "blue").unwrap();
    assert_eq!(ann.received().await, ["calendars: blue"]);
    assert_eq!(bob.received().await, ["add 1 lunch"]);
    assert!(asked.elapsed() < Duration::from_millis(10), "{:?}", asked.elapsed());
    assert_eq!(live.stats().hooks_failed, 0, "it hangs still");
}

#[tokio::test(start_paused = true)]
async fn a_new_identity_is_authorized_at_once() {
    for (before, after) in [(true, false), (false, true)] {
        let guard = Guard::new(Mood::AsTheIdentitySays);
        let asked: Arc<Mutex<Vec<Instant>>> = Arc::default();
        let may: Arc<Mutex<bool>> = Arc::new(Mutex::new(before));
        let state = (asked.clone(), may.clone());
        let who = async |(asked, may): (Arc<Mutex<Vec<Instant>>>, Arc<Mutex<bool>>), _: AuthRequest| {
            asked.lock().unwrap().push(Instant::now());
            Ok::<_, AuthError>(Identity::new("ann").with_data(MayFollow(*may.lock().unwrap())))
        };
        let (live, server) = serve(guard.unauthenticated().authenticate_fn(state, who)).await;
        let mut ann = page(&server, Transport::AnyStream, "ann").await.open().await;
        ann.received().await;
        assert_eq!(live.stats().subscriptions == 1, before);
        *may.lock().unwrap() = after;
        // The handshake, the socket, and the socket again.
        let is_renewed = || asked.lock().unwrap().len() == 3;
        within_an_interval("the authenticator is asked again", is_renewed).await;
        ann.received().await;
        let renewed = asked.lock().unwrap()[2];
        let since = guard.asked_since(renewed);
        assert!(since.first().is_some_and(|after| *after < 0.01), "{since:?}");
        assert_eq!(live.stats().subscriptions == 1, after);
        publish(&live, [added(1, "lunch")]);
        let received = ann.received().await;
        assert_eq!(objects(&received) == ["1"], after, "{received:?}");
    }
}

/// How many hooks run, and how many have at one time.
#[derive(Clone, Default)]
struct Running(Arc<(AtomicUsize, AtomicUsize)>);

impl Running {
    /// Runs for so long.
    async fn run(self, time: Duration) -> Result<bool, io::Error> {
        let (now, most) = &*self.0;
        most.fetch_max(now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
        tokio::time::sleep(time).await;
        now.fetch_sub(1, Ordering::Relaxed);
        Ok(true)
    }

    fn most(&self) -> usize {
        self.0.1.load(Ordering::Relaxed)
    }

    /// Four hooks of either kind at one time; `authorize` takes a second each time.
    fn builder(
        &self,
        hook: impl Fn(Self, Identity) -> BoxFuture<'static, Answer> + Send + Sync + 'static,
    ) -> LiveUpdatesBuilder<HasAuth> {
        let hour = Duration::from_secs(3600);
        LiveUpdates::builder("/api/v1")
            .entity(Entity::scheduler("/events").authorize(self.clone(), hook))
            .ping_interval(2 * hour)
            .pong_timeout(3 * hour)
            .authenticate_fn((), async |(), request: AuthRequest| Ok::<_, AuthError>(Identity::new(request.token())))
            .max_concurrent_authentications(4)
            .hook_timeout(hour)
    }
}

type Answer = Result<bool, io::Error>;

async fn twenty(server: &Server) -> Vec<Tab> {
    let mut tabs = Vec::new();
    for name in 0..20 {
        tabs.push(page(server, Transport::AnyStream, &name.to_string()).await.open().await);
    }
    tabs
}

#[tokio::test(start_paused = true)]
async fn hooks_of_all_pages_run_a_few_at_a_time_and_new_pages_connect_meanwhile() {
    let running = Running::default();
    let (live, server) = serve(running.builder(|running, _| Box::pin(running.run(Duration::from_secs(1))))).await;
    let mut tabs = twenty(&server).await;
    let began = Instant::now();
    assert!(server.handshake("late").await.status().is_success());
    page(&server, Transport::AnyStream, "late").await.connect().await;
    assert!(began.elapsed() < Duration::from_millis(10), "a slot is left for it: {:?}", began.elapsed());
    assert_eq!(live.stats().subscriptions, 0);
    wait(7.1).await;
    assert_eq!((running.most(), live.stats().subscriptions), (3, 20));
    publish(&live, [added(1, "lunch")]);
    for tab in &mut tabs {
        assert_eq!(objects(&tab.received().await), ["1"]);
    }
    assert_eq!((live.stats().hooks_failed, live.stats().authentication_queue_timeouts), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_hook_that_waits_too_long_for_a_slot_counts_as_failed_and_is_retried() {
    let running = Running::default();
    let hook =
        |running: Running, _: Identity| -> BoxFuture<'static, Answer> { Box::pin(running.run(Duration::from_secs(5))) };
    let builder = running.builder(hook).authentication_queue_timeout(Duration::from_secs(2));
    let (live, server) = serve(builder).await;
    let _tabs = twenty(&server).await;
    wait(2.1).await;
    let stats = live.stats();
    assert_eq!((stats.authentication_queue_timeouts, stats.hooks_failed, stats.subscriptions), (17, 17, 0));
    let end = Instant::now() + Duration::from_secs(3600);
    while live.stats().subscriptions < 20 {
        assert!(Instant::now() < end, "{:?}", live.stats());
        wait(10.0).await;
    }
    assert_eq!(running.most(), 3);
}
