//! Revocation: an open socket receives nothing more when its identity expires, when the authenticator denies it later,
//! and when the application disconnects it.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use http::Request;
use serde_json::{Value, json};
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep},
};
use tower_live_updates::{AuthError, AuthRequest, Change, Identity, LiveUpdates, LiveUpdatesBuilder, builder::HasAuth};

use crate::support::{
    End, Page, Server, builder,
    raw::{self, FIN, Raw},
    until, upgrade, usual,
};

const ASK_EVERY: Duration = Duration::from_secs(300);

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

type Answer = Arc<dyn Fn() -> Result<Identity, AuthError> + Send + Sync>;

/// Gives an answer that can be changed, and records when it was asked. While it is held, a question gets the
/// answer of that time, but only when it is let go.
#[derive(Clone)]
struct Door(Arc<Inside>);

struct Inside {
    answer: Mutex<Answer>,
    asked: Mutex<Vec<(Instant, String)>>,
    free: Semaphore,
}

impl Door {
    fn new(answer: impl Fn() -> Result<Identity, AuthError> + Send + Sync + 'static) -> Self {
        Self(Arc::new(Inside {
            answer: Mutex::new(Arc::new(answer)),
            asked: Mutex::default(),
            free: Semaphore::new(1),
        }))
    }

    fn open_to_alice() -> Self {
        Self::new(|| Ok(Identity::new("alice")))
    }

    fn set(&self, answer: impl Fn() -> Result<Identity, AuthError> + Send + Sync + 'static) {
        *self.0.answer.lock().unwrap() = Arc::new(answer);
    }

    fn times_asked(&self) -> usize {
        self.0.asked.lock().unwrap().len()
    }

    fn builder(&self) -> LiveUpdatesBuilder<HasAuth> {
        // Pings often enough for the test's client to see that time passes, and asks for no answer.
        let builder = builder().ping_interval(seconds(10)).pong_timeout(seconds(24 * 3600));
        builder.authenticate_fn(self.clone(), async |door: Self, request: AuthRequest| {
            door.0.asked.lock().unwrap().push((Instant::now(), request.token().to_owned()));
            let answer = door.0.answer.lock().unwrap().clone();
            let answer = answer();
            let _free = door.0.free.acquire().await.unwrap();
            answer
        })
    }

    fn serve(&self) -> (LiveUpdates, Server) {
        let live = self.builder().build().unwrap();
        let server = Server::layered(&live.layer(), usual);
        (live, server)
    }
}

fn unauthorized() -> End {
    End::Close(1008, "Unauthorized".into())
}

fn expired() -> Value {
    json!({"action": "event", "body": {"name": "$session", "value": {"type": "expired"}}})
}

/// What a socket sends before it ends, and how it ends.
async fn ending(page: &mut Page) -> (Vec<Value>, End) {
    let mut received = Vec::new();
    loop {
        match page.message().await {
            Ok(message) => received.push(message),
            Err(end) => return (received, end),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_socket_ends_with_its_identity_and_receives_the_reason() {
    let door = Door::new(|| Ok(Identity::new("alice").with_expiry(SystemTime::now() + seconds(90))));
    let (live, server) = door.serve();
    let mut page = server.page().await;
    let began = Instant::now();
    assert_eq!(ending(&mut page).await, (vec![expired()], unauthorized()));
    let took = began.elapsed().as_secs_f64();
    assert!((89.0..=90.1).contains(&took), "{took}");
    assert_eq!((door.times_asked(), live.stats().sockets_denied), (1, 1), "no hook need run");
}

#[tokio::test(start_paused = true)]
async fn an_expired_identity_opens_no_socket() {
    let door = Door::new(|| Ok(Identity::new("alice").with_expiry(SystemTime::now() - seconds(1))));
    let (live, server) = door.serve();
    assert_eq!(server.handshake("demo").await.status(), 403);
    let call = Request::post("/api/v1").header("remote-token", "demo").body(r#"[{"id":"2"}]"#).unwrap();
    assert_eq!(server.send(call).await.status(), 403);
    let socket = upgrade(server.connect(), "/api/v1?token=demo&ws=1", &[]).await.unwrap();
    assert_eq!(ending(&mut Page { socket, id: String::new() }).await, (vec![expired()], unauthorized()));
    assert_eq!(live.stats().sockets_opened, 0);
}

#[tokio::test(start_paused = true)]
async fn an_authenticator_may_return_a_later_expiry_when_it_is_asked_again() {
    let good_for = seconds(400);
    let door = Door::new(move || Ok(Identity::new("alice").with_expiry(SystemTime::now() + good_for)));
    let (_live, server) = door.serve();
    let mut page = server.page().await;
    let began = Instant::now();
    let stop = async {
        sleep(seconds(3000)).await;
        door.set(|| Err(AuthError::Unavailable));
    };
    let (end, ()) = tokio::join!(ending(&mut page), stop);
    assert_eq!(end, (vec![expired()], unauthorized()));
    let took = began.elapsed();
    assert!(took >= seconds(3000) && took <= seconds(3401), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn an_identity_that_ends_while_the_authenticator_hangs_ends_in_time() {
    let door = Door::new(|| Ok(Identity::new("alice").with_expiry(SystemTime::now() + seconds(400))));
    let live = door.builder().hook_timeout(seconds(3600)).build().unwrap();
    let server = Server::layered(&live.layer(), usual);
    let mut page = server.page().await;
    let began = Instant::now();
    let _held = door.0.free.acquire().await.unwrap();
    assert_eq!(ending(&mut page).await, (vec![expired()], unauthorized()));
    assert!(began.elapsed() <= seconds(401), "{:?}", began.elapsed());
    assert_eq!(door.times_asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_far_away_expiry_is_accepted() {
    let end = SystemTime::now() + seconds(1000 * 365 * 24 * 3600);
    let (_live, server) = Door::new(move || Ok(Identity::new("alice").with_expiry(end))).serve();
    let mut page = server.page().await;
    sleep(3 * ASK_EVERY).await;
    page.barrier().await;
}

#[tokio::test(start_paused = true)]
async fn every_socket_is_reauthenticated_with_its_original_request() {
    for (no, received) in [(AuthError::Denied, vec![]), (AuthError::Expired, vec![expired()])] {
        let door = Door::open_to_alice();
        let (live, server) = door.serve();
        let mut page = server.page().await;
        let began = Instant::now();
        door.set(move || Err(no));
        assert_eq!(ending(&mut page).await, (received, unauthorized()));
        let took = began.elapsed();
        assert!(took >= ASK_EVERY / 2 && took <= ASK_EVERY + seconds(1), "{took:?}");
        let tokens: Vec<String> = door.0.asked.lock().unwrap().iter().map(|(_, token)| token.clone()).collect();
        assert_eq!(tokens, ["demo", "demo"]);
        until("it is gone", || live.stats().connections == 0).await;
        assert_eq!(live.stats().sockets_denied, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn an_unavailable_authenticator_closes_no_open_socket() {
    let door = Door::open_to_alice();
    let (live, server) = door.serve();
    let mut page = server.page().await;
    let trouble: [fn() -> Result<Identity, AuthError>; 2] = [|| Err(AuthError::Unavailable), || panic!("in the hook")];
    for answer in trouble {
        let before = door.times_asked();
        door.set(answer);
        sleep(ASK_EVERY + seconds(1)).await;
        assert!(door.times_asked() > before);
        page.barrier().await;
    }
    let held = door.0.free.acquire().await.unwrap();
    door.set(|| Err(AuthError::Denied));
    sleep(ASK_EVERY + seconds(6)).await;
    page.barrier().await;
    drop(held);
    assert_eq!(page.end().await, unauthorized());
    assert_eq!(live.stats().hooks_failed, 2, "a panic and a timeout");
}

#[tokio::test(start_paused = true)]
async fn another_principal_than_before_is_denied() {
    let door = Door::open_to_alice();
    let (_live, server) = door.serve();
    let mut page = server.page().await;
    door.set(|| Ok(Identity::new("bob")));
    assert_eq!(ending(&mut page).await, (vec![], unauthorized()));
}

#[tokio::test(start_paused = true)]
async fn a_renewed_identity_of_the_same_principal_replaces_the_former() {
    let door = Door::new(|| Ok(Identity::new("alice").with_data("reader")));
    let (live, server) = door.serve();
    let mut page = server.page().await;
    door.set(|| Ok(Identity::new("alice").with_data("writer")));
    let writers = |identity: &Identity| identity.data::<&str>() == Some(&"writer");
    assert_eq!(live.disconnect(writers), 0);
    sleep(ASK_EVERY + seconds(1)).await;
    assert_eq!(live.disconnect(writers), 1);
    assert_eq!(page.end().await, End::Close(1008, "Disconnected".into()));
}

#[tokio::test(start_paused = true)]
async fn a_socket_admitted_just_before_a_disconnect_is_reauthenticated_at_once() {
    for is_disconnected in [true, false] {
        let door = Door::open_to_alice();
        let (live, server) = door.serve();
        let held = door.0.free.acquire().await.unwrap();
        let coming = tokio::spawn(async move { upgrade(server.connect(), "/api/v1?token=demo&ws=1", &[]).await });
        until("it is asked about", || door.times_asked() == 1).await;
        door.set(|| Err(AuthError::Denied));
        if is_disconnected {
            assert_eq!(live.disconnect(|_| true), 0, "it is not there yet");
        }
        drop(held);
        let mut page = Page { socket: coming.await.unwrap().unwrap(), id: String::new() };
        let opened = Instant::now();
        assert_eq!(page.end().await, unauthorized());
        let took = opened.elapsed();
        if is_disconnected {
            assert!(took < seconds(1), "{took:?}");
        } else {
            assert!(took >= ASK_EVERY / 2, "{took:?}: nothing has happened in between");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn nor_does_a_disconnect_miss_a_socket_under_reauthentication() {
    let door = Door::new(|| Ok(Identity::new("alice").with_data("reader")));
    let live = door.builder().hook_timeout(seconds(3600)).build().unwrap();
    let server = Server::layered(&live.layer(), usual);
    let mut page = server.page().await;
    door.set(|| Ok(Identity::new("alice").with_data("writer")));
    let held = door.0.free.acquire().await.unwrap();
    sleep(ASK_EVERY + seconds(1)).await;
    assert_eq!(door.times_asked(), 2, "it is asked about again");
    door.set(|| Err(AuthError::Denied));
    assert_eq!(live.disconnect(|identity| identity.data::<&str>() == Some(&"writer")), 0, "it is a reader still");
    drop(held);
    let answered = Instant::now();
    assert_eq!(page.end().await, unauthorized());
    assert!(answered.elapsed() <= seconds(2), "{:?}", answered.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_socket_that_a_disconnect_may_have_missed_is_reauthenticated_often_until_confirmed() {
    let door = Door::open_to_alice();
    let (live, server) = door.serve();
    let held = door.0.free.acquire().await.unwrap();
    let coming = tokio::spawn(async move { upgrade(server.connect(), "/api/v1?token=demo&ws=1", &[]).await });
    until("it is asked about", || door.times_asked() == 1).await;
    live.disconnect(|_| true);
    door.set(|| Err(AuthError::Unavailable));
    drop(held);
    let mut page = Page { socket: coming.await.unwrap().unwrap(), id: String::new() };
    page.send_text(r#"{"action":"subscribe","name":"events"}"#).await;
    let early = tokio::time::timeout(seconds(10), page.message()).await;
    assert!(early.is_err(), "it receives nothing before the authenticator answers: {early:?}");
    assert_eq!(live.stats().subscriptions, 0);
    assert!((9..=13).contains(&door.times_asked()), "{}", door.times_asked());
    door.set(|| Ok(Identity::new("alice")));
    sleep(seconds(2)).await;
    let asked = door.times_asked();
    // The next time is within the second half of the interval.
    sleep(ASK_EVERY / 2 - seconds(3)).await;
    assert_eq!(door.times_asked(), asked, "the authenticator has answered");
    assert_eq!(page.message().await.unwrap()["action"], "start");
    assert_eq!(live.stats().subscriptions, 1);
}

/// An update of 20 KB with a number that identifies it.
fn update(number: usize) -> Change {
    Change::update(&json!({"id": 7, "number": number, "text": "z".repeat(20_000)})).unwrap()
}

/// The numbers that are received, and how the socket ends.
async fn numbers(raw: &mut Raw) -> (Vec<u64>, End) {
    let mut numbers = Vec::new();
    loop {
        let Some((first, payload)) = raw.frame().await else { return (numbers, End::Gone) };
        if first == FIN | raw::CLOSE {
            let code = u16::from_be_bytes([payload[0], payload[1]]);
            return (numbers, End::Close(code, String::from_utf8(payload[2..].to_vec()).unwrap()));
        }
        if first == FIN | raw::TEXT {
            let message: Value = serde_json::from_slice(&payload).expect("a whole frame");
            numbers.extend(message["body"]["value"]["event"]["number"].as_u64());
        }
    }
}

#[tokio::test]
async fn after_a_disconnect_nothing_is_sent_that_was_not_on_its_way() {
    let live = builder().tokens(["demo"]).build().unwrap();
    let server = Server::layered(&live.layer(), usual);
    // Of 300 updates the pipe holds the beginning of one, and the kernel some.
    for (transport, at_most) in [("any stream", 1), ("TCP", 299)] {
        let mut raw = match transport {
            "TCP" => Raw::socket(server.connect_tcp(Some(4 * 1024)).await).await,
            _ => Raw::socket(server.connect_with(4 * 1024)).await,
        };
        raw.send_text(r#"{"action":"subscribe","name":"events"}"#).await;
        raw.barrier().await;
        live.publish_many("events", (0..300).map(update)).unwrap();
        // Until its reader stands still and frames wait.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(live.disconnect(|_| true), 1);
        live.publish_many("events", (300..400).map(update)).unwrap();
        let (received, end) = numbers(&mut raw).await;
        assert_eq!(end, End::Close(1008, "Disconnected".into()), "{transport}");
        assert!((1..=at_most).contains(&received.len()), "{transport}: {received:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_page_denied_while_many_frames_wait_receives_none_of_them() {
    let door = Door::open_to_alice();
    let live = door.builder().revalidation_interval(seconds(8)).build().unwrap();
    let server = Server::layered(&live.layer(), usual);
    let mut raw = Raw::socket(server.connect_with(4 * 1024)).await;
    raw.send_text(r#"{"action":"subscribe","name":"events"}"#).await;
    raw.barrier().await;
    live.publish_many("events", (0..300).map(update)).unwrap();
    door.set(|| Err(AuthError::Expired));
    until("it is denied", || live.stats().sockets_denied == 1).await;
    let (received, end) = numbers(&mut raw).await;
    assert_eq!((received, end), (vec![0], unauthorized()));
}

#[tokio::test]
async fn others_keep_receiving_after_a_disconnect() {
    let live = builder()
        .authenticate_fn((), async |(), request: AuthRequest| Ok::<_, AuthError>(Identity::new(request.token())));
    let live = live.build().unwrap();
    let server = Server::layered(&live.layer(), usual);
    let mut stays = Page::open(server.connect_tcp(None).await, "/api/v1?token=stays&ws=1", &[]).await.unwrap();
    stays.subscribe("events").await;
    for _ in 0..20 {
        let goes = Page::open(server.connect_tcp(None).await, "/api/v1?token=goes&ws=1", &[]).await.unwrap();
        assert_eq!(live.disconnect(|identity| identity.principal() == "goes"), 1);
        let mut next = Page::open(server.connect_tcp(None).await, "/api/v1?token=next&ws=1", &[]).await.unwrap();
        next.subscribe("events").await;
        drop(goes);
        until("it is gone", || live.stats().connections == 2).await;
        live.send("events", &json!("received")).unwrap();
        assert_eq!(next.message().await.unwrap()["body"]["value"], "received");
        assert_eq!(stays.message().await.unwrap()["body"]["value"], "received");
        drop(next);
        until("it is gone too", || live.stats().connections == 1).await;
    }
}

/// The headers that an authenticator was shown, each time.
#[derive(Clone, Default)]
struct Shown(Arc<Mutex<Vec<Vec<String>>>>);

impl Shown {
    fn builder(&self) -> LiveUpdatesBuilder<HasAuth> {
        builder().ping_interval(seconds(10)).pong_timeout(seconds(24 * 3600)).authenticate_fn(
            self.clone(),
            async |shown: Self, request: AuthRequest| {
                let mut lines: Vec<String> =
                    request.headers().iter().map(|(name, value)| format!("{name} {}", value.len())).collect();
                lines.sort();
                lines.push(request.query().to_owned());
                shown.0.lock().unwrap().push(lines);
                Ok::<_, AuthError>(Identity::new(request.token()))
            },
        )
    }

    /// What it is shown when it is asked about an open socket that came with these headers again.
    async fn again(&self, builder: LiveUpdatesBuilder<HasAuth>, headers: &[(&str, &str)]) -> Vec<String> {
        let live = builder.build().unwrap();
        let server = Server::layered(&live.layer(), usual);
        let page = Page::open(server.connect(), "/api/v1?tenant=7&token=demo&ws=1", headers).await.unwrap();
        sleep(ASK_EVERY + seconds(1)).await;
        assert_eq!((live.stats().connections, live.stats().hooks_failed), (1, 0));
        drop(page);
        let mut shown = std::mem::take(&mut *self.0.lock().unwrap());
        assert!(shown.len() >= 2 && shown[0].len() > headers.len(), "all of them at first: {shown:?}");
        shown.pop().unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn of_the_headers_only_those_that_are_named_are_kept_and_no_more_than_fit() {
    let (four, five) = ("x".repeat(4000), "x".repeat(5000));
    let usual = [("cookie", "a=1"), ("authorization", "b"), ("x-device", "7"), ("x-large", &*five)];
    let shown = Shown::default();
    let again = shown.again(shown.builder(), &usual).await;
    assert_eq!(again, ["authorization 1", "cookie 3", "tenant=7"]);
    let named = ["x-device", "x-large"].map(http::HeaderName::from_static);
    let again = shown.again(shown.builder().revalidation_headers(named), &usual).await;
    assert_eq!(again, ["x-device 1", "tenant=7"]);
    let again = shown.again(shown.builder().revalidation_headers([]), &usual).await;
    assert_eq!(again, ["tenant=7"]);
    // What fits is kept, whatever does not.
    let large = [("cookie", &*four), ("cookie", &*four), ("authorization", "b")];
    let again = shown.again(shown.builder(), &large).await;
    assert_eq!(again, ["authorization 1", "cookie 4000", "tenant=7"]);
}

#[tokio::test(start_paused = true)]
async fn extensions_are_kept_for_authenticators_that_read_or_name_them() {
    #[derive(Clone)]
    struct Peer;
    #[derive(Clone)]
    struct Other;

    type Seen = Arc<Mutex<Vec<(bool, bool)>>>;
    let seen = Seen::default();
    let looking = || {
        builder().authenticate_fn(seen.clone(), async |seen: Seen, request: AuthRequest| {
            let extensions = request.extensions();
            seen.lock().unwrap().push((extensions.get::<Peer>().is_some(), extensions.get::<Other>().is_some()));
            Ok::<_, AuthError>(Identity::new("alice"))
        })
    };
    for (builder, again) in [(looking(), (true, true)), (looking().revalidation_extension::<Peer>(), (true, false))] {
        let live = builder.ping_interval(seconds(10)).pong_timeout(seconds(24 * 3600)).build().unwrap();
        let inner = tower::service_fn(async |_| Ok::<_, std::convert::Infallible>(crate::support::json(200, "")));
        let outer = tower::ServiceBuilder::new()
            .map_request(|mut request: Request<hyper::body::Incoming>| {
                request.extensions_mut().insert(Peer);
                request.extensions_mut().insert(Other);
                request
            })
            .layer(live.layer());
        let page = Server::new(outer.service(inner)).page().await;
        sleep(ASK_EVERY + seconds(1)).await;
        assert_eq!(live.stats().connections, 1);
        assert_eq!(seen.lock().unwrap()[..2], [(true, true), again]);
        seen.lock().unwrap().clear();
        drop(page);
    }
}
