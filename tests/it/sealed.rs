//! Sealed keys: pages reconnect by a key that names their principal, and stay for as long as their users may.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use data_encoding::BASE64URL_NOPAD;
use http::{Request, Response};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tower_live_updates::{
    AuthError, AuthRequest, Change, ConfigError, Credentials, Delivery, Identity, LiveUpdates, LiveUpdatesBuilder,
    builder::HasAuth, builder::WantsAuth,
};

use crate::support::{End, Page, Server, until, usual};

const TOKEN: &str = "token-of-alice-3f1c9a7e";
const SECRET: &str = "secret-5e7f1a22-8b2d4c60-90c3d1b4-77aa01fe";
const OTHER: &str = "another-5e7f1a22-8b2d4c60-90c3d1b4-77aa01fe";
const ASK_EVERY: Duration = Duration::from_secs(300);

/// What the authenticator does for a while.
#[derive(Clone, Copy)]
enum Mood {
    Welcoming,
    Refusing(AuthError),
    Panicking,
    Hanging,
}

/// Knows one user, and writes down what it was asked, and when.
#[derive(Clone)]
struct Door(Arc<Mutex<Inside>>);

struct Inside {
    mood: Mood,
    asked: Vec<(Instant, String)>,
}

impl Door {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(Inside { mood: Mood::Welcoming, asked: Vec::new() })))
    }

    fn set(&self, mood: Mood) {
        self.0.lock().unwrap().mood = mood;
    }

    /// What it was asked since the last time this was looked at.
    fn asked(&self) -> Vec<String> {
        self.times().into_iter().map(|(_, what)| what).collect()
    }

    fn times(&self) -> Vec<(Instant, String)> {
        std::mem::take(&mut self.0.lock().unwrap().asked)
    }

    fn builder(&self) -> LiveUpdatesBuilder<HasAuth> {
        builder().sealed_keys([SECRET]).authenticate_fn(self.clone(), async |door: Self, request: AuthRequest| {
            let (credentials, is_known) = match request.credentials() {
                Credentials::Token(token) => (format!("token {token}"), token == TOKEN),
                Credentials::Principal(principal) => (format!("session {principal}"), principal == "alice"),
                _ => unreachable!(),
            };
            let mood = {
                let mut inside = door.0.lock().unwrap();
                inside.asked.push((Instant::now(), credentials));
                inside.mood
            };
            match mood {
                Mood::Welcoming if is_known => Ok(Identity::new("alice")),
                Mood::Welcoming => Err(AuthError::Denied),
                Mood::Refusing(error) => Err(error),
                Mood::Panicking => panic!("in the authenticator"),
                Mood::Hanging => std::future::pending().await,
            }
        })
    }

    fn live(&self) -> LiveUpdates {
        self.builder().build().unwrap()
    }
}

/// Pings often enough for the test's client to see that time passes, and asks for no answer.
fn builder() -> LiveUpdatesBuilder<WantsAuth> {
    let builder = crate::support::builder().delivery(Delivery::Converging);
    builder.ping_interval(Duration::from_secs(10)).pong_timeout(Duration::from_secs(24 * 3600))
}

fn server(live: &LiveUpdates) -> Server {
    Server::layered(&live.layer(), usual)
}

fn key_in(handshake: &Response<Bytes>) -> Option<String> {
    assert_eq!(handshake.status(), 200);
    let answer: Value = serde_json::from_slice(handshake.body()).unwrap();
    assert_eq!(answer["websocket"], true);
    answer["key"].as_str().map(str::to_owned)
}

/// The key of a page that makes its handshake with this token.
async fn key_for(server: &Server, token: &str) -> String {
    key_in(&server.handshake(token).await).unwrap()
}

fn address(key: &str) -> String {
    format!("/api/v1?token={key}&ws=1")
}

async fn call(server: &Server, key: &str) -> u16 {
    let request = Request::post("/api/v1").header("remote-token", key).body(r#"[{"id":"2"}]"#).unwrap();
    server.send(request).await.status().as_u16()
}

fn unauthorized() -> End {
    End::Close(1008, "Unauthorized".into())
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

/// How a socket ends at this address that comes up only to be closed.
async fn rejected(server: &Server, address: &str) -> (Vec<Value>, End) {
    let socket = crate::support::upgrade(server.connect(), address, &[]).await.unwrap();
    ending(&mut Page { socket, id: String::new() }).await
}

fn expired() -> Value {
    json!({"action": "event", "body": {"name": "$session", "value": {"type": "expired"}}})
}

#[tokio::test(start_paused = true)]
async fn a_page_names_its_token_once_and_its_session_from_then_on() {
    let door = Door::new();
    let live = door.live();
    let server = server(&live);
    let key = key_for(&server, TOKEN).await;
    assert_eq!(door.asked(), [format!("token {TOKEN}")]);

    let parts: Vec<&str> = key.split('.').collect();
    assert_eq!((parts[0], parts.len()), ("lu2", 3));
    assert!(key.len() <= 8 * 1024 && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte)));
    let payload = String::from_utf8(BASE64URL_NOPAD.decode(parts[1].as_bytes()).unwrap()).unwrap();
    assert!(payload.ends_with(".alice"), "{payload}");
    for form in [TOKEN.to_owned(), BASE64URL_NOPAD.encode(TOKEN.as_bytes())] {
        assert!(!payload.contains(&form) && !address(&key).contains(&form), "{payload} in {key}");
    }

    // The socket, a call, and the handshake of a client that has forgotten its token for the key.
    assert!(server.page_at(&address(&key)).await.is_ok());
    assert_eq!(call(&server, &key).await, 200);
    let again = key_for(&server, &key).await;
    assert!(again.starts_with("lu2.") && again != key);
    assert!(server.page_at(&address(&again)).await.is_ok());
    assert_eq!(door.asked(), ["session alice"; 4]);
}

#[tokio::test(start_paused = true)]
async fn a_page_denied_at_connect_or_in_a_call_gets_no_access() {
    let door = Door::new();
    let live = door.live();
    let server = server(&live);
    let key = key_for(&server, TOKEN).await;
    door.set(Mood::Refusing(AuthError::Denied));
    assert_eq!(rejected(&server, &address(&key)).await, (vec![], unauthorized()));
    assert_eq!(call(&server, &key).await, 403);
    assert_eq!(server.handshake(&key).await.status(), 403);
}

#[tokio::test(start_paused = true)]
async fn a_page_denied_later_loses_the_open_socket_within_the_interval() {
    let door = Door::new();
    let live = door.live();
    let server = server(&live);
    let mut page = server.page_at(&address(&key_for(&server, TOKEN).await)).await.unwrap();
    let began = Instant::now();
    door.set(Mood::Refusing(AuthError::Denied));
    assert_eq!(ending(&mut page).await, (vec![], unauthorized()));
    let took = began.elapsed();
    assert!(took >= ASK_EVERY / 2 && took <= ASK_EVERY + Duration::from_secs(1), "{took:?}");
    until("it is gone", || live.stats().connections == 0).await;
    assert_eq!(live.stats().sockets_denied, 1);
}

#[tokio::test(start_paused = true)]
async fn the_interval_is_the_builders() {
    let door = Door::new();
    let live = door.builder().revalidation_interval(Duration::from_secs(8)).build().unwrap();
    let server = server(&live);
    let mut page = server.page_at(&address(&key_for(&server, TOKEN).await)).await.unwrap();
    let began = Instant::now();
    door.set(Mood::Refusing(AuthError::Denied));
    assert_eq!(page.end().await, unauthorized());
    assert!(began.elapsed() <= Duration::from_millis(8100), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_user_whose_sealed_key_expires_receives_a_message_before_the_close() {
    let door = Door::new();
    let live = door.live();
    let server = server(&live);
    let mut page = server.page_at(&address(&key_for(&server, TOKEN).await)).await.unwrap();
    door.set(Mood::Refusing(AuthError::Expired));
    assert_eq!(ending(&mut page).await, (vec![expired()], unauthorized()));
}

#[tokio::test(start_paused = true)]
async fn an_expired_key_ends_its_socket_whatever_the_authenticator_returns() {
    for (lifetime, asked) in [(3600, 11..=12), (90, 0..=0)] {
        let door = Door::new();
        let live = door.builder().sealed_key_lifetime(Duration::from_secs(lifetime)).build().unwrap();
        let server = server(&live);
        let mut page = server.page_at(&address(&key_for(&server, TOKEN).await)).await.unwrap();
        let began = Instant::now();
        door.asked();
        assert_eq!(ending(&mut page).await, (vec![expired()], unauthorized()));
        // The expiry is in whole seconds.
        let took = began.elapsed().as_secs_f64();
        let lifetime = lifetime as f64;
        assert!(took > lifetime - 5.0 && took < lifetime + 0.1, "{took} of {lifetime}");
        let times = door.asked().len();
        assert!(asked.contains(&times), "asked {times} times in {lifetime} s");
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_ends_with_the_identity_it_was_made_for() {
    let live = builder()
        .sealed_keys([SECRET])
        .authenticate_fn((), async |(), request: AuthRequest| {
            let alice = Identity::new("alice");
            Ok::<_, AuthError>(match request.credentials() {
                Credentials::Token(_) => alice.with_expiry(SystemTime::now() + Duration::from_secs(90)),
                // The expiry of the token is not kept.
                _ => alice,
            })
        })
        .build()
        .unwrap();
    let server = server(&live);
    let mut page = server.page_at(&address(&key_for(&server, TOKEN).await)).await.unwrap();
    let began = Instant::now();
    assert_eq!(ending(&mut page).await, (vec![expired()], unauthorized()));
    let took = began.elapsed().as_secs_f64();
    assert!((85.0..=90.1).contains(&took), "{took}");
}

#[tokio::test(start_paused = true)]
async fn an_expired_key_is_reported_without_asking_the_authenticator() {
    let door = Door::new();
    let live = door.builder().sealed_key_lifetime(Duration::from_nanos(1)).build().unwrap();
    let server = server(&live);
    let key = key_for(&server, TOKEN).await;
    door.asked();
    assert_eq!(rejected(&server, &address(&key)).await, (vec![expired()], unauthorized()));
    assert_eq!(call(&server, &key).await, 403);
    assert_eq!(server.handshake(&key).await.status(), 403);
    assert_eq!(door.asked(), [""; 0]);
    assert_eq!(live.stats().sockets_opened, 0);
}

#[tokio::test(start_paused = true)]
async fn an_unavailable_authenticator_closes_no_open_socket_and_is_asked_again() {
    let door = Door::new();
    let live = door.live();
    let server = server(&live);
    let mut page = server.page_at(&address(&key_for(&server, TOKEN).await)).await.unwrap();
    door.asked();
    let moods = [Mood::Refusing(AuthError::Unavailable), Mood::Panicking, Mood::Hanging, Mood::Welcoming];
    let watch = async {
        for mood in moods {
            door.set(mood);
            until_asked(&door, ASK_EVERY + Duration::from_secs(10)).await;
        }
        door.set(Mood::Refusing(AuthError::Denied));
    };
    let (ended, ()) = tokio::join!(ending(&mut page), watch);
    assert_eq!(ended, (vec![], unauthorized()));
    assert_eq!(door.asked(), ["session alice"], "once more, and not after the close");
    assert_eq!(live.stats().hooks_failed, 2);
}

/// Waits until the authenticator has been asked, and forgets that it was.
async fn until_asked(door: &Door, at_most: Duration) {
    let wait = async {
        while door.asked().is_empty() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(at_most, wait).await.expect("a question in time");
}

#[tokio::test(start_paused = true)]
async fn sockets_that_came_together_are_not_asked_about_together() {
    let door = Door::new();
    let live = door.live();
    let server = server(&live);
    let address = address(&key_for(&server, TOKEN).await);
    let mut pages = Vec::new();
    for _ in 0..20 {
        pages.push(server.page_at(&address).await.unwrap());
    }
    let began = Instant::now();
    door.asked();

    sleep(ASK_EVERY + Duration::from_secs(1)).await;
    let first: Vec<Duration> = door.times().into_iter().map(|(at, _)| at - began).collect();
    assert_eq!(first.len(), 20, "each once");
    assert!(first.iter().all(|at| *at >= ASK_EVERY / 2), "{first:?}");
    assert!(first[19] - first[0] > ASK_EVERY / 8, "spread: {first:?}");
    sleep(ASK_EVERY).await;
    let second: Vec<Duration> = door.times().into_iter().map(|(at, _)| at - began).collect();
    let late = first.iter().zip(&second).map(|(first, second)| *second - *first - ASK_EVERY);
    assert!(second.len() == 20 && late.max() < Some(Duration::from_millis(10)), "{first:?} {second:?}");
    assert_eq!(live.stats().connections, 20);
}

#[tokio::test(start_paused = true)]
async fn a_page_that_has_gone_is_not_asked_about_any_more() {
    let door = Door::new();
    let live = door.live();
    let server = server(&live);
    let page = server.page_at(&address(&key_for(&server, TOKEN).await)).await.unwrap();
    door.asked();
    drop(page);
    sleep(3 * ASK_EVERY).await;
    assert_eq!(door.asked(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn shutting_down_does_not_wait_for_an_authenticator_that_hangs() {
    let door = Door::new();
    let live = door.builder().hook_timeout(Duration::from_secs(3600)).build().unwrap();
    let server = server(&live);
    let mut page = server.page_at(&address(&key_for(&server, TOKEN).await)).await.unwrap();
    door.asked();
    door.set(Mood::Hanging);
    let leave = async {
        until_asked(&door, ASK_EVERY + Duration::from_secs(1)).await;
        live.shutdown().await;
    };
    let (end, ()) = tokio::join!(page.end(), leave);
    assert_eq!(end, End::Close(1001, "Going away".into()));
}

#[tokio::test(start_paused = true)]
async fn a_key_that_was_tampered_with_is_a_wrong_token() {
    let door = Door::new();
    let live = door.live();
    let server = server(&live);
    let good = key_for(&server, TOKEN).await;
    let parts: Vec<&str> = good.split('.').collect();
    let payload = String::from_utf8(BASE64URL_NOPAD.decode(parts[1].as_bytes()).unwrap()).unwrap();
    let other_user = BASE64URL_NOPAD.encode(payload.replace("alice", "admin").as_bytes());
    let elsewhere = LiveUpdates::builder("/api/v1").sealed_keys([OTHER]).allow_anonymous().build().unwrap();
    let foreign = key_for(&self::server(&elsewhere), TOKEN).await;
    door.asked();
    for bad in [
        format!("lu2.{other_user}.{}", parts[2]),
        format!("lu2.{}.", parts[1]),
        format!("lu2.{}", parts[1]),
        format!("lu2.{}.{}", parts[1], "A".repeat(43)),
        format!("lu2.{}.{}", parts[2], parts[1]),
        good.replacen("lu2", "lu1", 1),
        format!("{good}A"),
        good[..good.len() - 1].to_owned(),
        format!("lu2.{}.{}", "A".repeat(9000), parts[2]),
        "lu2.".to_owned(),
        foreign,
    ] {
        assert_eq!(rejected(&server, &address(&bad)).await, (vec![], unauthorized()), "{bad}");
        assert_eq!(call(&server, &bad).await, 403);
        assert_eq!(server.handshake(&bad).await.status(), 403);
        assert_eq!(door.asked(), vec![format!("token {bad}"); 3]);
    }
    assert_eq!(live.stats().sockets_opened, 0);
}

#[tokio::test(start_paused = true)]
async fn a_page_that_resumes_by_its_key_receives_what_it_missed() {
    let door = Door::new();
    let live = door.live();
    let server = server(&live);
    let sealed = address(&key_for(&server, TOKEN).await);
    let mut page = server.page_at(&sealed).await.unwrap();
    page.subscribe("events").await;
    drop(page);
    until("it is gone", || live.stats().connections == 0).await;

    live.publish("events", Change::delete(7).unwrap()).unwrap();
    assert_eq!(live.stats().sessions, 1, "it is remembered");
    let mut page = server.page_at(&sealed).await.unwrap();
    page.send_text(r#"{"action":"subscribe","name":"events"}"#).await;
    let missed = async { while page.event().await.0 != "delete-event" {} };
    tokio::time::timeout(Duration::from_secs(3), missed).await.expect("what it missed");
    assert_eq!(live.stats().sessions, 1, "and recognised");

    let mut stranger = server.page_at(&address(TOKEN)).await.unwrap();
    stranger.subscribe("events").await;
    let received = tokio::time::timeout(Duration::from_secs(3), stranger.message()).await;
    assert!(received.is_err(), "a page without a key has missed nothing: {received:?}");
}

#[tokio::test(start_paused = true)]
async fn servers_with_the_same_secret_know_each_others_keys() {
    let door = Door::new();
    let key = key_for(&server(&door.live()), TOKEN).await;
    door.asked();
    for (secrets, is_known) in
        [(&[SECRET][..], true), (&[OTHER, SECRET], true), (&[SECRET, OTHER], true), (&[OTHER], false)]
    {
        let live = door.builder().sealed_keys(secrets).build().unwrap();
        let server = server(&live);
        if is_known {
            assert!(server.page_at(&address(&key)).await.is_ok(), "{secrets:?}");
            assert_eq!(door.asked(), ["session alice"]);
        } else {
            assert_eq!(rejected(&server, &address(&key)).await, (vec![], unauthorized()));
        }
    }
    let without = crate::support::builder().tokens([TOKEN]).build().unwrap();
    assert_eq!(rejected(&server(&without), &address(&key)).await, (vec![], unauthorized()));
}

#[tokio::test(start_paused = true)]
async fn plain_keys_and_tokens_still_let_pages_in_and_are_asked_about_as_such() {
    let door = Door::new();
    let before = builder().tokens([TOKEN]).build().unwrap();
    let plain = key_for(&server(&before), TOKEN).await;
    assert!(plain.starts_with("lu1."));
    let live = door.live();
    let server = server(&live);
    let mut by_key = server.page_at(&address(&plain)).await.unwrap();
    let mut by_token = server.page_at(&address(TOKEN)).await.unwrap();
    assert_eq!(door.asked(), [format!("token {TOKEN}"), format!("token {TOKEN}")]);

    door.set(Mood::Refusing(AuthError::Denied));
    let ends = tokio::join!(ending(&mut by_key), ending(&mut by_token));
    assert_eq!(ends, ((vec![], unauthorized()), (vec![], unauthorized())));
    assert_eq!(door.asked(), [format!("token {TOKEN}"), format!("token {TOKEN}")]);
}

#[tokio::test(start_paused = true)]
async fn a_handshake_without_the_authenticator_gets_the_best_key_there_is() {
    let door = Door::new();
    let live = door.live();
    let server = server(&live);
    let sealed = key_for(&server, TOKEN).await;
    door.set(Mood::Refusing(AuthError::Unavailable));
    let plain = key_for(&server, TOKEN).await;
    assert!(plain.starts_with("lu1."), "its principal is unknown");
    let again = key_for(&server, &sealed).await;
    assert!(again.starts_with("lu2."), "its key names its principal");
    door.set(Mood::Welcoming);
    for key in [plain, again] {
        assert!(server.page_at(&address(&key)).await.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn the_built_in_lists_know_their_sessions() {
    let server_of = |builder: LiveUpdatesBuilder<HasAuth>| server(&builder.sealed_keys([SECRET]).build().unwrap());
    let two = server_of(builder().tokens(["first", "second"]));
    let (first, second) = (key_for(&two, "first").await, key_for(&two, "second").await);
    let one = server_of(builder().tokens(["first"]));
    assert!(one.page_at(&address(&first)).await.is_ok());
    assert_eq!(rejected(&one, &address(&second)).await, (vec![], unauthorized()), "it is off the list");
    let all_pages = server_of(builder().allow_anonymous());
    for key in [&first, &key_for(&all_pages, "").await] {
        assert!(all_pages.page_at(&address(key)).await.is_ok());
    }
}

#[tokio::test]
async fn without_keys_there_are_no_sessions() {
    let door = Door::new();
    let live = door.builder().delivery(Delivery::Plain).build().unwrap();
    let server = server(&live);
    assert_eq!(key_in(&server.handshake(TOKEN).await), None);
    assert!(server.page_at(&address(TOKEN)).await.is_ok());
}

#[test]
fn what_cannot_work_is_no_configuration() {
    let build = |builder: LiveUpdatesBuilder<WantsAuth>| builder.allow_anonymous().build().unwrap_err();
    let weak = &SECRET[..31];
    let none: [&str; 0] = [];
    for error in [
        build(builder().sealed_keys(none)),
        build(builder().sealed_keys([weak])),
        build(builder().sealed_keys([SECRET, weak])),
        build(builder().sealed_keys([""])),
    ] {
        assert!(matches!(error, ConfigError::SealedKeySecret));
        let text = format!("{error} {error:?}");
        assert!(text.contains("32 bytes") && !text.contains(weak), "{text}");
    }
    let zero = build(builder().sealed_keys([SECRET]).sealed_key_lifetime(Duration::ZERO));
    assert!(matches!(zero, ConfigError::Zero("sealed_key_lifetime")));
    let zero = build(builder().sealed_keys([SECRET]).revalidation_interval(Duration::ZERO));
    assert!(matches!(zero, ConfigError::Zero("revalidation_interval")));
    let longest =
        builder().sealed_keys([[7_u8; 32]]).sealed_key_lifetime(Duration::MAX).revalidation_interval(Duration::MAX);
    assert!(longest.allow_anonymous().build().is_ok());
}

#[cfg(feature = "tracing")]
#[tokio::test(start_paused = true)]
async fn neither_debug_nor_the_log_shows_a_secret() {
    let door = Door::new();
    let builder = door.builder().sealed_keys([SECRET, OTHER]);
    let mut shown = vec![format!("{builder:?} {builder:#?}")];
    let live = builder.build().unwrap();
    let server = server(&live);
    shown.push(format!("{live:?} {live:#?} {:?} {:?}", live.layer(), live.endpoint()));
    shown.push(format!("{:?}", Credentials::Token(TOKEN)));
    let logs = crate::support::logs::Logs::capture_all();

    let key = key_for(&server, TOKEN).await;
    let mut page = server.page_at(&address(&key)).await.unwrap();
    let tampered = format!("{key}A");
    for key in [&key, &tampered] {
        call(&server, key).await;
        server.handshake(key).await;
    }
    rejected(&server, &address(&tampered)).await;
    for mood in [Mood::Panicking, Mood::Refusing(AuthError::Unavailable)] {
        door.set(mood);
        until_asked(&door, ASK_EVERY + Duration::from_secs(1)).await;
    }
    door.set(Mood::Refusing(AuthError::Expired));
    page.end().await;
    rejected(&server, &address(&key)).await;
    live.shutdown().await;

    let lines = logs.lines("");
    assert!(lines.iter().any(|line| line.contains("an open socket of \"alice\" is closed")), "it has spoken");
    shown.extend(lines);
    let parts = key.split('.').skip(1).map(str::to_owned);
    let secrets = [SECRET, OTHER, TOKEN].map(|secret| [secret.to_owned(), BASE64URL_NOPAD.encode(secret.as_bytes())]);
    for secret in secrets.concat().into_iter().chain(parts) {
        for text in &shown {
            assert!(!text.contains(&secret), "{secret} in {text}");
        }
    }
}
