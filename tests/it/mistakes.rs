//! What newcomers get wrong. Each mistake ends in an error of `build()` or in one line of the log that names the
//! remedy; and docs/troubleshooting.md lists its words.

use std::{convert::Infallible, future::Future, time::Duration};

use crate::support::{
    Server, TOKEN, builder, converging, full, json as answer, live, logs::Logs, raw::Raw, read, usual,
};
use axum::{
    Router,
    response::IntoResponse,
    routing::{get, put},
};
use bytes::Bytes;
use futures_util::FutureExt;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use serde_json::json;
use tokio::time::sleep;
use tower::{Layer, ServiceExt};
use tower_live_updates::{
    Caller, Change, ChangeKind, Entity, Identity, LiveUpdates, LiveUpdatesBuilder, body::RequestBody, builder::HasAuth,
};

const LISTED: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/troubleshooting.md"));
const DATED: &str = r#"{"text":"a","start_date":"2025-04-21 10:00","end_date":"2025-04-21 11:00"}"#;
const MINUTE: Duration = Duration::from_secs(61);

/// The document lists these words.
#[track_caller]
fn is_listed(words: &str) {
    assert!(LISTED.contains(words), "docs/troubleshooting.md lacks {words:?}");
}

/// The log has one line with all of these words; the first of them are in the document, too.
#[track_caller]
fn logs_once(logs: &Logs, words: &[&str]) {
    let lines = logs.lines("WARN");
    assert_eq!(lines.len(), 1, "{words:?}: {lines:#?}");
    for words in words {
        assert!(lines[0].contains(words), "{words:?} in {lines:?}");
    }
    is_listed(words[0]);
}

fn of(entity: Entity) -> LiveUpdates {
    LiveUpdates::builder("/api/v1").tokens([TOKEN]).entity(entity).build().expect("nothing that build() could see")
}

/// An axum application as it stands in the README.
fn routes() -> Router {
    around(Router::new())
}

fn around(router: Router) -> Router {
    let saved = async |_: Bytes| answer(200, r#"{"action":"updated"}"#).map(axum::body::Body::new).into_response();
    let created =
        async || answer(200, r#"{"action":"inserted","tid":"17"}"#).map(axum::body::Body::new).into_response();
    router.route("/events", get(async || "[]").post(created)).route("/events/{id}", put(saved).delete(saved))
}

/// A page that has followed `events` for a minute, while others saved twice to `path`.
async fn followed(server: &Server, method: Method, path: &str) {
    let mut page = server.subscribed().await;
    for _ in 0..2 {
        server.write(method.clone(), path, r#"{"text":"a"}"#).await;
    }
    sleep(MINUTE).await;
    page.subscribe("events").await;
}

// Configuration.

fn at(path: &str) -> LiveUpdatesBuilder<HasAuth> {
    LiveUpdates::builder(path).tokens([TOKEN])
}

fn on(path: &str) -> LiveUpdatesBuilder<HasAuth> {
    at("/api/v1").entity(Entity::scheduler(path))
}

#[test]
fn what_cannot_match_is_refused_by_build() {
    let route = |method: &[u8], path: &str| {
        let method = Method::from_bytes(method).unwrap();
        at("/api/v1").entity(Entity::scheduler("/events").route(method, path, ChangeKind::Update))
    };
    for (builder, value, remedy) in [
        (on("events"), "\"events\"", "it must start with '/'"),
        (on(""), "\"\"", "it is empty"),
        (on("http://localhost:3000/events"), "localhost", "it is a whole address"),
        (on("/events/:id"), "\"/events/:id\"", "a parameter is written {id}, not :id"),
        (on("/events/<id>"), "\"/events/<id>\"", "a parameter is written {id}, not <id>"),
        (on("/events/[id]"), "\"/events/[id]\"", "a parameter is written {id}, not [id]"),
        (on("/events/*"), "\"/events/*\"", "a wildcard is written {*rest}, not *"),
        (on("/events/*path"), "\"/events/*path\"", "a wildcard is written"),
        (on("/events/{id}"), "\"/events/{id}/{id}\"", "add /{id} themselves"),
        (on("/events?tenant=7"), "\"/events?tenant=7\"", "it holds a query"),
        (on("/events#all"), "\"/events#all\"", "it holds a fragment"),
        (on("/api//events"), "\"/api//events\"", "it has an empty segment"),
        (on("/events "), "\"/events \"", "it holds white space"),
        (on("/%65vents"), "\"/%65vents\"", "it escapes a letter that needs none"),
        (on("/événements"), "événements", "clients send some of its letters escaped"),
        (route(b"PUT", "/events/{id:int}/move"), "{id:int}", "a parameter has a name and nothing else"),
        (route(b"post", "/events/{id}/move"), "\"/events/{id}/move\"", "methods are written in capitals"),
        (route(b"GET", "/events/{id}/move"), "\"/events/{id}/move\"", "change nothing"),
        (route(b"POST", "/events/move"), "\"/events/move\"", "so it must name the id"),
        (on("/events").entity(Entity::scheduler("/meetings")), "\"events\"", "is configured twice"),
        (on("/events").entity(Entity::new("rows").collection("/events")), "\"rows\"", "is claimed twice"),
        (on("/events").entity(Entity::new("/rows")), "\"/rows\"", "a path goes to Entity::scheduler"),
        (at("api/v1"), "\"api/v1\"", "it must start with '/'"),
        (at("ws://localhost:3000/api/v1"), "\"ws://localhost:3000/api/v1\"", "it is a whole address"),
        (at("/api/v1?x=1"), "\"/api/v1?x=1\"", "it holds a query"),
        (at("/api/*"), "\"/api/*\"", "a wildcard is written"),
        (at("/{tenant}/api"), "\"/{tenant}/api\"", "the endpoint has one address"),
        (at("/events").entity(Entity::scheduler("/events")), "\"/events\"", "give the endpoint another path"),
        (at("/events/live").entity(Entity::scheduler("/events")), "\"/events/live\"", "give the endpoint another path"),
        (on("/events").allow_origin("*"), "\"*\"", "'*' stands for nothing here"),
        (on("/events").allow_origin("https://*.app.example"), "*.app", "'*' stands for nothing here"),
        (on("/events").allow_origin("https://app.example:*"), ":*", "'*' stands for nothing here"),
        (on("/events").allow_origin("app.example"), "\"app.example\"", "it lacks its scheme"),
        (on("/events").allow_origin("https://app.example/cal"), "/cal\"", "it goes on behind the host"),
        (on("/events").allow_origin("null"), "\"null\"", "pages of files and of sandboxed frames"),
        (on("/events").allow_origin("wss://app.example"), "\"wss://app.example\"", "not that of its socket"),
        (on("/events").allow_origin("https://a.example, https://b.example"), "b.example", "one origin a call"),
        (method("count"), "\"count\"", "it has no dot between a service and a method"),
        (method("api.tasks.count"), "\"api.tasks.count\"", "it has more than one dot"),
        (method("tasks.mark-done"), "\"tasks.mark-done\"", "both parts must be JavaScript identifiers"),
        (
            method("tasks.constructor"),
            "\"tasks.constructor\"",
            "every JavaScript object has a property of that name already",
        ),
        (method("tasks.then"), "\"tasks.then\"", "JavaScript takes an object with the method `then` for a promise"),
        (
            method("tasks.count").call("tasks.count", (), count),
            "\"tasks.count\"",
            "configured twice; give each method its own name",
        ),
        (LiveUpdates::builder("/api/v1").tokens(["secret\n"]), "token 1", "has white space at its ends"),
        (
            LiveUpdates::builder("/api/v1").tokens([""]),
            "empty token",
            "the token list is empty or holds an empty token",
        ),
        (on("/events").pong_timeout(Duration::from_secs(5)), "5s", "must be longer than ping_interval"),
    ] {
        let error = builder.build().expect_err(value);
        let text = error.to_string();
        assert!(text.contains(value) && text.contains(remedy), "{value}, {remedy}: {text}");
        assert_eq!(format!("{error:?}"), text, "what a main prints that returns it");
        assert!(!text.contains("secret"), "{text}");
        is_listed(remedy);
    }
}

async fn count(_: (), _: Caller, _: ()) -> Result<u32, Infallible> {
    Ok(7)
}

fn method(name: &str) -> LiveUpdatesBuilder<HasAuth> {
    on("/events").call(name, (), count)
}

#[test]
fn what_can_match_is_taken() {
    for path in ["/", "/events", "/events/", "/{tenant}/events", "/api/v1/events", "/a-b_c.d~e", "/%C3%A4"] {
        assert!(on(path).build().is_ok(), "{path}");
    }
    for origin in ["https://app.example:443", "HTTPS://App.Example/", "capacitor://localhost", "http://[::1]:3000"] {
        assert!(on("/events").allow_origin(origin).build().is_ok(), "{origin}");
    }
}

#[tokio::test]
async fn the_usual_port_of_an_origin_makes_no_difference() {
    let live =
        on("/events").allow_origin("https://app.example:443").allow_origin("http://App.Example:80/").build().unwrap();
    let server = Server::layered(&live.layer(), usual);
    for (origin, status) in [
        ("https://app.example", 200),
        ("http://app.example", 200),
        ("https://app.example:8443", 403),
        ("https://other.example", 403),
    ] {
        let request = Request::get("/api/v1").header("remote-token", TOKEN).header("origin", origin).body("").unwrap();
        assert_eq!(server.send(request).await.status(), status, "{origin}");
    }
}

// Routes that no request has.

#[tokio::test(start_paused = true)]
async fn an_entity_without_requests_is_named_after_a_minute_with_what_came_instead() {
    for (entity, method, path, words) in [
        ("/event", Method::PUT, "/events/7", ["name one path in entity, router and page", "PUT", "\"/events/{id}\""]),
        ("/Events", Method::PUT, "/events/7", ["capitals count", "PUT", "\"/events/{id}\""]),
        (
            "/events",
            Method::PUT,
            "/calendar/events/7",
            ["with \"/calendar\" before it", "live.watch", "/calendar/events/{id}"],
        ),
        ("/events", Method::PUT, "/0f8fad5bd9cb/events/7", ["name the path as the layer sees it", "…", "live.watch"]),
        ("/calendar/events", Method::POST, "/events", ["which takes \"/calendar\" away", "POST", "nest"]),
        ("/events", Method::PUT, "/events//7", ["with an empty segment in it", "//", "saving"]),
        ("/events", Method::PUT, "/events?tenant=7/5", ["which has no route of this method", "PUT", "query"]),
        (
            "/events",
            Method::PUT,
            "/tasks/7",
            ["its routes are not behind the layer", ".layer(live.layer()) last", "nest"],
        ),
    ] {
        let live = of(Entity::scheduler(entity));
        let server = Server::layered(&live.layer(), |request: Request<RequestBody<Incoming>>| async move {
            read(request).await.unwrap();
            answer(200, r#"{"action":"updated"}"#)
        });
        let logs = Logs::capture();
        followed(&server, method.clone(), path).await;
        followed(&server, method, path).await;
        logs_once(&logs, &words);
        let line = &logs.lines("WARN")[0];
        assert!(line.contains("\"events\"") && line.contains(&format!("PUT {entity}/{{id}}")), "{line}");
        assert!(
            !line.contains("tenant=") && !line.contains("0f8f") && !line.contains("7/5"),
            "no query and no id: {line}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_entity_with_requests_is_named_nowhere() {
    for (method, path) in [(Method::PUT, "/events/7"), (Method::POST, "/events"), (Method::GET, "/events")] {
        for builder in [converging(), builder()] {
            let live = builder.tokens([TOKEN]).build().unwrap();
            let server = Server::layered(&live.layer(), usual);
            let logs = Logs::capture();
            let mut page = server.subscribed().await;
            page.subscribe("calendars").await;
            server.write(method.clone(), path, DATED).await;
            sleep(2 * MINUTE).await;
            assert_eq!(logs.lines("WARN"), [""; 0], "{method}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_page_that_leaves_within_the_minute_proves_nothing() {
    let live = live();
    let server = Server::layered(&live.layer(), usual);
    let logs = Logs::capture();
    drop(server.subscribed().await);
    sleep(2 * MINUTE).await;
    assert_eq!(logs.lines("WARN"), [""; 0]);
    // And the next one is looked at anew.
    let _page = server.subscribed().await;
    sleep(MINUTE).await;
    logs_once(&logs, &["its routes are not behind the layer"]);
}

#[tokio::test(start_paused = true)]
async fn a_layer_before_the_routes_is_named() {
    let live = of(Entity::scheduler("/events"));
    let server = Server::new(around(Router::new().layer(live.layer())));
    let logs = Logs::capture();
    followed(&server, Method::PUT, "/events/7").await;
    logs_once(&logs, &["its routes are not behind the layer", "call .layer(live.layer()) last"]);
}

// An endpoint that no page finds.

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_no_page_reaches_is_named() {
    let route_layer = |live: &LiveUpdates| routes().route_layer(live.layer());
    let in_a_nest = |live: &LiveUpdates| Router::new().nest("/calendar", routes().layer(live.layer()));
    let elsewhere = |live: &LiveUpdates| {
        routes().route_layer(live.watch("events").unwrap()).route_service("/live", live.endpoint())
    };
    let apps: [(&str, &dyn Fn(&LiveUpdates) -> Router); 3] =
        [("/events/7", &route_layer), ("/calendar/events/7", &in_a_nest), ("/events/7", &elsewhere)];
    for (path, app) in apps {
        let live = of(Entity::scheduler("/events"));
        let server = Server::new(app(&live));
        let logs = Logs::capture();
        assert_eq!(server.handshake(TOKEN).await.status(), 404, "the router knows no such path");
        for _ in 0..2 {
            server.write(Method::PUT, path, r#"{"text":"a"}"#).await;
            sleep(MINUTE).await;
        }
        logs_once(&logs, &["no page has asked for live updates at", "\"/api/v1\"", "new RemoteEvents"]);
    }
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_a_page_reaches_is_named_nowhere() {
    let live = live();
    let server = Server::layered(&live.layer(), usual);
    let logs = Logs::capture();
    server.write(Method::PUT, "/events/7", r#"{"text":"a"}"#).await;
    sleep(MINUTE / 2).await;
    server.handshake(TOKEN).await;
    sleep(2 * MINUTE).await;
    assert_eq!(logs.lines("WARN"), [""; 0]);
}

#[tokio::test]
async fn a_page_that_asks_elsewhere_is_named_with_both_paths() {
    for (asked, is_socket, words) in [
        ("/api/v2", false, ["a page asks for live updates at", "\"/api/v2\"", "RemoteEvents(\"/api/v1\", token)"]),
        (
            "/api/v1/live?token=hidden&ws=1",
            true,
            ["a page asks for live updates at", "\"/api/v1/live\"", "\"/api/v1\""],
        ),
        ("/calendar/api/v1", false, ["builder(\"/calendar/api/v1\")", "\"/api/v1\"", "RemoteEvents"]),
        ("/v1", false, ["the layer stands inside a nest", "\"/v1\"", "live.endpoint() outside"]),
        ("/0f8fad5bd9cb/api", false, ["a page asks for live updates at", "\"/…/api\"", "\"/api/v1\""]),
    ] {
        let live = live();
        let server = Server::layered(&live.layer(), |_| async { answer(404, "{}") });
        let logs = Logs::capture();
        for _ in 0..3 {
            let request = Request::get(asked);
            let request = if is_socket { request } else { request.header("remote-token", "hidden") };
            assert_eq!(server.send(request.body("").unwrap()).await.status(), 404, "it passes");
        }
        logs_once(&logs, &words);
        assert!(!logs.lines("WARN")[0].contains("hidden"), "{:?}", logs.lines("WARN"));
    }
}

#[tokio::test]
async fn requests_that_only_carry_the_token_are_no_handshakes() {
    for builder in [converging(), builder()] {
        let live = builder.tokens([TOKEN]).build().unwrap();
        let server = Server::layered(&live.layer(), usual);
        let logs = Logs::capture();
        let _page = server.subscribed().await;
        for (method, path) in [
            (Method::GET, "/events"),
            (Method::GET, "/api/v1"),
            (Method::PUT, "/events/7"),
            (Method::POST, "/login"),
            (Method::GET, "/shop?ws=&aws=1"),
        ] {
            let request = Request::builder().method(&method).uri(path);
            let is_plain = path.contains('?');
            let request = if is_plain { request } else { request.header("remote-token", TOKEN) };
            server.send(request.header("content-type", "application/json").body(DATED).unwrap()).await;
        }
        assert_eq!(logs.lines("WARN"), [""; 0]);
    }
}

#[tokio::test]
async fn pages_are_looked_for_elsewhere_as_long_as_it_is_likely() {
    let live = live();
    let mut service = live
        .layer()
        .layer(tower::service_fn(async |_: Request<RequestBody<Full<Bytes>>>| Ok::<_, Infallible>(answer(404, "{}"))));
    let logs = Logs::capture();
    let mut ask = async |path: &str, token: bool| {
        let request = Request::get(path);
        let request = if token { request.header("remote-token", TOKEN) } else { request };
        service.ready().await.unwrap();
        tower::Service::call(&mut service, request.body(full("")).unwrap()).await.unwrap().status()
    };
    for begins in ["start", "ask"] {
        if begins == "ask" {
            assert_eq!(ask("/api/v1", true).await, StatusCode::OK);
        }
        assert_eq!(ask(&format!("/{begins}"), true).await, StatusCode::NOT_FOUND);
        assert_eq!(logs.lines(&format!("\"/{begins}\"")).len(), 1, "a page may look elsewhere");
        for _ in 0..5000 {
            ask("/plain", false).await;
        }
        ask(&format!("/late-{begins}"), true).await;
        assert_eq!(logs.lines("late"), [""; 0], "requests that are none of ours cost a load by now");
    }
}

// Layers and endpoints that do not belong together.

#[tokio::test]
async fn watching_without_an_endpoint_is_named() {
    let live = of(Entity::scheduler("/events"));
    let server = Server::new(routes().layer(live.watch("events").unwrap()));
    let logs = Logs::capture();
    for _ in 0..2 {
        server.write(Method::PUT, "/events/7", r#"{"text":"a"}"#).await;
    }
    logs_once(
        &logs,
        &["nothing serves the endpoint, so no page can receive it", "route_service(\"/api/v1\", live.endpoint())"],
    );
    // A request of a page is not answered either.
    server.handshake(TOKEN).await;
    let lines = logs.lines("a page asks for live updates");
    assert!(lines.len() == 1 && lines[0].contains("mount live.endpoint()"), "{lines:?}");
}

#[tokio::test]
async fn an_endpoint_without_a_layer_is_named() {
    let live = of(Entity::scheduler("/events"));
    let server = Server::new(routes().route_service("/api/v1", live.endpoint()));
    let logs = Logs::capture();
    for _ in 0..2 {
        let _page = server.subscribed().await;
    }
    logs_once(&logs, &["no layer watches its routes", "live.layer()", "live.watch(\"events\")"]);
}

#[tokio::test]
async fn two_live_updates_around_one_route_are_named() {
    let (outer, inner) = (of(Entity::scheduler("/events")), of(Entity::scheduler("/events")));
    let server = Server::new(routes().layer(inner.layer()).layer(outer.layer()));
    let logs = Logs::capture();
    let _page = server.subscribed().await;
    for _ in 0..2 {
        server.write(Method::PUT, "/events/7", r#"{"text":"a"}"#).await;
    }
    logs_once(&logs, &["is watched by two LiveUpdates", "build one LiveUpdates with all entities"]);
}

#[tokio::test]
async fn one_layer_twice_is_named() {
    let live = of(Entity::scheduler("/events"));
    let server = Server::new(routes().layer(live.layer()).layer(live.layer()));
    let logs = Logs::capture();
    let _page = server.subscribed().await;
    for _ in 0..2 {
        server.write(Method::PUT, "/events/7", r#"{"text":"a"}"#).await;
    }
    logs_once(&logs, &["passes two layers of one LiveUpdates", "keep one of them"]);
}

#[test]
fn publishing_by_a_live_updates_without_layer_and_endpoint_is_logged() {
    let live = of(Entity::scheduler("/events"));
    let logs = Logs::capture();
    for _ in 0..2 {
        live.publish("events", Change::delete(7).unwrap()).unwrap();
        live.send("events", &"x").unwrap();
    }
    logs_once(&logs, &["of which neither layer() nor endpoint() is in use", "publish by clones of it"]);
    let live = of(Entity::scheduler("/events"));
    let _layer = live.layer();
    live.publish("events", Change::delete(7).unwrap()).unwrap();
    assert_eq!(logs.lines("WARN").len(), 1);
}

// Pages.

#[tokio::test]
async fn a_name_that_no_entity_has_is_named_with_the_one_that_was_meant() {
    for (name, words) in [
        ("event", ["there is no such entity", "\"event\"", "remote.on(\"events\""]),
        ("Events", ["there is no such entity", "\"Events\"", "remote.on(\"events\""]),
        ("evnets", ["there is no such entity", "\"evnets\"", "remote.on(\"events\""]),
        ("tasks", ["there is no such entity", "\"events\", \"calendars\"", "Entity::new(\"tasks\")"]),
        ("a\\u001b\\nb", ["there is no such entity", "\\u{1b}", "\\n"]),
    ] {
        let live = live();
        let server = Server::layered(&live.layer(), usual);
        let logs = Logs::capture();
        let mut page = server.page().await;
        for _ in 0..3 {
            page.send_text(&format!(r#"{{"action":"subscribe","name":"{name}"}}"#)).await;
        }
        page.subscribe("$resync").await;
        page.send_text(r#"{"action":"subscribe","name":"$other"}"#).await;
        page.subscribe("events").await;
        logs_once(&logs, &words);
    }
}

#[tokio::test]
async fn names_that_never_end_fill_no_log() {
    let live = live();
    let server = Server::layered(&live.layer(), usual);
    let logs = Logs::capture();
    let mut page = server.page().await;
    for number in 0..100 {
        page.send_text(&format!(r#"{{"action":"subscribe","name":"{}{number}"}}"#, "x".repeat(number))).await;
    }
    page.subscribe("events").await;
    let lines = logs.lines("there is no such entity");
    assert_eq!(lines.len(), 16);
    assert!(lines[15].contains("no more like this are written"), "{}", lines[15]);
    assert_eq!(live.stats().messages_ignored, 100);
}

#[tokio::test]
async fn a_payload_key_in_the_plural_is_named() {
    for (name, key) in [("events", "event"), ("tasks", "task"), ("links", "link")] {
        let live = of(Entity::new(name).collection("/rows"));
        let server = Server::layered(&live.layer(), usual);
        let logs = Logs::capture();
        for _ in 0..2 {
            server.page().await.subscribe(name).await;
        }
        logs_once(
            &logs,
            &["the stock client understands", &format!("\"add-{key}\""), &format!(".payload_key(\"{key}\")")],
        );
    }
}

#[tokio::test]
async fn a_preflight_that_no_cors_layer_answers_is_named() {
    let live = live();
    for server in [Server::layered(&live.layer(), usual), Server::new(live.endpoint())] {
        for _ in 0..2 {
            let logs = Logs::capture();
            let request = Request::options("/api/v1").header("origin", "https://app.example");
            server.send(request.body("").unwrap()).await;
            assert_eq!(logs.lines("WARN"), [""; 0], "that is none");
        }
    }
    let logs = Logs::capture();
    let server = Server::layered(&live.layer(), usual);
    for _ in 0..2 {
        let request = Request::options("/api/v1").header("origin", "https://app.example");
        server.send(request.header("access-control-request-method", "GET").body("").unwrap()).await;
    }
    logs_once(
        &logs,
        &["no CORS layer outside the live layer has answered", "Remote-Token and Content-Type", "allow_origin"],
    );
}

#[tokio::test]
async fn a_wrong_token_is_named() {
    let live = live();
    let server = Server::layered(&live.layer(), usual);
    let logs = Logs::capture();
    assert_eq!(server.handshake("wrong").await.status(), 403);
    logs_once(&logs, &["refused: the credentials are not accepted", "/api/v1"]);
    assert!(!logs.lines("WARN")[0].contains("wrong"));
}

// Proxies and servers.

/// What a server answers to these bytes, and its body.
async fn answered(server: &Server, request: &str) -> (u16, String) {
    let mut raw = Raw::new(server.connect());
    raw.write(request.as_bytes()).await.unwrap();
    let (head, body) = raw.answer().await;
    (head.status(), body)
}

#[tokio::test]
async fn a_proxy_that_takes_the_upgrade_away_is_named() {
    const KEY: &str = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    for (version, headers, words) in [
        ("1.0", String::from("Connection: close\r\n"), "the request came over HTTP/1.0"),
        ("1.0", format!("Connection: close\r\n{KEY}"), "the request came over HTTP/1.0"),
        ("1.1", format!("Connection: close\r\n{KEY}"), "the request lacks `Upgrade: websocket`"),
        ("1.1", format!("Upgrade: websocket\r\n{KEY}"), "the request lacks `Upgrade: websocket`"),
    ] {
        let live = live();
        let server = Server::layered(&live.layer(), usual);
        let logs = Logs::capture();
        for _ in 0..3 {
            let request = format!("GET /api/v1?token=demo&ws=1 HTTP/{version}\r\nHost: live.example\r\n{headers}\r\n");
            let (status, body) = answered(&server, &request).await;
            assert!(matches!(status, 400 | 426), "{status}");
            for part in ["proxy_http_version 1.1", "Upgrade $http_upgrade", "Connection \\\"upgrade\\\""] {
                assert!(body.contains(part), "{part} in {body}");
            }
        }
        logs_once(&logs, &[words, "proxy_http_version 1.1", "Upgrade $http_upgrade", "Connection \"upgrade\""]);
    }
}

#[tokio::test]
async fn a_proxy_that_speaks_http2_is_named() {
    let live = live();
    let server = Server::layered(&live.layer(), usual);
    let logs = Logs::capture();
    for _ in 0..2 {
        let mut sender = server.h2::<Full<Bytes>>().await;
        let request = Request::get("http://live.example/api/v1?token=demo&ws=1").body(full("")).unwrap();
        assert_eq!(sender.send_request(request).await.unwrap().status(), 400);
    }
    logs_once(&logs, &["the request came over HTTP/2", "speak HTTP/1.1 to this server"]);
}

#[tokio::test]
async fn a_proxy_that_changes_the_host_is_named() {
    for (host, origin, forwarded, words) in [
        ("127.0.0.1:3000", "https://app.example", None, ["they have different hosts", "proxy_set_header Host $host"]),
        (
            "backend",
            "https://app.example",
            Some("app.example"),
            ["a proxy in between has changed the Host header", "$host"],
        ),
        ("app.example", "https://app.example:8443", None, ["they have different ports", "$http_host"]),
        ("app.example", "null", None, ["that is no origin of a host", "allow_origin_if"]),
    ] {
        let live = live();
        let server = Server::layered(&live.layer(), usual);
        let logs = Logs::capture();
        for _ in 0..2 {
            let request = Request::get("/api/v1").header("host", host).header("origin", origin);
            let request = match forwarded {
                Some(forwarded) => request.header("x-forwarded-host", forwarded),
                None => request,
            };
            let response = server.send(request.header("remote-token", TOKEN).body("").unwrap()).await;
            assert_eq!(response.status(), 403);
        }
        logs_once(&logs, &words);
        let line = &logs.lines("WARN")[0];
        assert!(line.contains(&format!("{host:?}")) && line.contains(&format!("{origin:?}")), "{line}");
    }
}

// Answers.

/// Two writes that are answered like this.
async fn written<Fut>(live: &LiveUpdates, request: impl Fn() -> Request<Bytes>, answer: fn(Bytes) -> Fut) -> Logs
where
    Fut: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let server = Server::layered(&live.layer(), move |request: Request<RequestBody<Incoming>>| {
        read(request).then(move |body| answer(body.unwrap_or_default()))
    });
    // So that no test waits for one.
    server.handshake(TOKEN).await;
    let logs = Logs::capture();
    for _ in 0..2 {
        server.send(request()).await;
    }
    logs
}

fn request(method: Method, path: &str, body: &str) -> Request<Bytes> {
    let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
    request.body(Bytes::from(body.to_owned())).unwrap()
}

fn create() -> Request<Bytes> {
    request(Method::POST, "/events", DATED)
}

fn save() -> Request<Bytes> {
    request(Method::PUT, "/events/7", r#"{"text":"a"}"#)
}

fn updated() -> Response<Full<Bytes>> {
    answer(200, r#"{"action":"updated"}"#)
}

/// An answer with one more header, or another one.
fn with(name: header::HeaderName, value: &'static str, body: &str) -> Response<Full<Bytes>> {
    let mut response = answer(200, body);
    response.headers_mut().insert(name, value.parse().unwrap());
    response
}

macro_rules! answered_with {
    ($request:expr, $answer:expr, $($words:expr),+) => {{
        let live = builder().tokens([TOKEN]).max_body_bytes(1000).build().unwrap();
        let logs = written(&live, || $request, |_| async { $answer }).await;
        logs_once(&logs, &[$($words),+]);
    }};
}

#[tokio::test]
async fn answers_that_pages_do_not_understand_are_named() {
    answered_with!(create(), answer(201, r#"{"tid":17}"#), "takes only status 200 for success", "answer 200");
    let delete = || request(Method::DELETE, "/events/7", "");
    answered_with!(delete(), answer(204, ""), "takes only status 200 for success");
    answered_with!(create(), answer(200, r#"{"id":17}"#), "needs the new id as `tid`", "\"tid\":ID");
    answered_with!(
        create(),
        answer(200, r#"{"action":"insert","tid":17}"#),
        "the answer's `action` is",
        "\"inserted\""
    );
    answered_with!(delete(), answer(200, r#"{"action":"ok"}"#), "the answer's `action` is", "\"ok\"", "\"updated\"");
    answered_with!(save(), answer(200, "saved"), "the Scheduler reads answers as JSON");
    answered_with!(
        save(),
        with(header::CONTENT_TYPE, "text/plain", "saved"),
        "the Scheduler reads answers as JSON",
        "not \"text/plain\""
    );
}

#[tokio::test]
async fn responses_that_lack_information_are_logged() {
    for (body, words) in [
        ("", "the answer is empty"),
        ("[17]", "the answer is no JSON object"),
        (r#"{"newId":17}"#, "where `tid` is wanted"),
        (r#"{"tid":null}"#, "`tid` is null, which is no id"),
        (r#"{"data":{"id":17}}"#, "Entity::response_pointer(\"/data\")"),
    ] {
        let live = live();
        let server = Server::layered(&live.layer(), move |_| async move { answer(200, body) });
        server.handshake(TOKEN).await;
        let logs = Logs::capture();
        for _ in 0..2 {
            server.send(create()).await;
        }
        logs_once(&logs, &[words, "POST /events", "the answer holds no usable id"]);
    }
    answered_with!(
        create(),
        with(header::CONTENT_TYPE, "text/plain", r#"{"tid":17}"#),
        "the answer's content-type is \"text/plain\"",
        "application/json"
    );
    answered_with!(
        create(),
        with(header::CONTENT_ENCODING, "gzip", "gzip"),
        "the answer is compressed; put the compression layer outside"
    );
    answered_with!(
        create(),
        answer(200, &format!(r#"{{"tid":17,"x":"{}"}}"#, "x".repeat(2000))),
        "the answer is larger than max_body_bytes",
        "1000 bytes"
    );
    answered_with!(
        save(),
        answer(202, ""),
        "202 and 207 do not mean that the write is complete",
        "LiveUpdates::publish"
    );
    answered_with!(create(), answer(200, r#"{"action":"deleted"}"#), "a POST was answered with `deleted`");
    let mode = || request(Method::POST, "/events?editing=true", r#"{"id":7,"action":"updated","data":{}}"#);
    answered_with!(mode(), answer(200, r#"{"action":"updated"}"#), "Entity::body_modes()");
}

#[tokio::test]
async fn half_of_an_exchange_that_cannot_be_read_is_named() {
    answered_with!(
        save(),
        with(header::CONTENT_ENCODING, "gzip", "gzip"),
        "what is broadcast comes from the request alone",
        "compression layer outside"
    );
    let long = || request(Method::PUT, "/events/7", &format!(r#"{{"text":"{}"}}"#, "x".repeat(2000)));
    answered_with!(
        long(),
        answer(200, r#"{"item":{"id":7,"text":"stored"}}"#),
        "what is broadcast comes from the answer alone",
        "max_body_bytes, 1000 bytes"
    );
    answered_with!(
        long(),
        answer(200, r#"{"action":"updated"}"#),
        "the request's body is larger than max_body_bytes",
        "1000 bytes",
        "neither request nor answer holds a readable object"
    );
}

#[tokio::test]
async fn requests_without_an_object_are_logged() {
    let of_type = |name: header::HeaderName, value: &'static str| {
        let mut request = save();
        request.headers_mut().insert(name, value.parse().unwrap());
        request
    };
    answered_with!(
        of_type(header::CONTENT_TYPE, "text/plain"),
        updated(),
        "the request's content-type is neither JSON nor a form"
    );
    answered_with!(
        of_type(header::CONTENT_ENCODING, "gzip"),
        updated(),
        "the request's body is compressed; put the layer that decompresses it outside"
    );
    answered_with!(request(Method::PUT, "/events/7", ""), updated(), "the request has no body");
    answered_with!(request(Method::PUT, "/events/7", "{"), updated(), "the request's body is no JSON object");

    let live = live();
    let server = Server::layered(&live.layer(), |_| async { answer(200, r#"{"action":"updated"}"#) });
    server.handshake(TOKEN).await;
    let logs = Logs::capture();
    for _ in 0..2 {
        server.send(save()).await;
    }
    logs_once(&logs, &["the handler has not read the request's body to its end"]);
}

#[tokio::test]
async fn fields_under_other_names_are_named() {
    for (event, words) in [
        (
            r#"{"startDate":"2025-04-21 10:00","endDate":"2025-04-21 11:00"}"#,
            "it has `startDate` or `endDate` in their place",
        ),
        (r#"{"start":"2025-04-21 10:00","end":"2025-04-21 11:00"}"#, "`start` or `end`"),
        (r#"{"start_date":1745226000000,"end_date":1745229600000}"#, "not as numbers or objects"),
        (r#"{"text":"no dates"}"#, "an added event needs start_date and end_date"),
    ] {
        let live = live();
        let post = || request(Method::POST, "/events", event);
        let logs = written(&live, post, |_| async { answer(200, r#"{"action":"inserted","tid":17}"#) }).await;
        logs_once(&logs, &[words, "start_date", "POST /events"]);
    }
    let dated = r#"{"start_date":"2025-04-21 10:00","end_date":"2025-04-21 11:00","rrule":"every second Tuesday"}"#;
    answered_with!(
        request(Method::POST, "/events", dated),
        answer(200, r#"{"action":"inserted","tid":17}"#),
        "its rrule cannot be read by the Scheduler"
    );
}

#[tokio::test]
async fn redirects_are_named_once_a_route_and_counted() {
    for status in [301, 302, 303] {
        for request in [create, save] {
            let live = live();
            let server = Server::layered(&live.layer(), move |_| async move { answer(status, "") });
            server.handshake(TOKEN).await;
            let logs = Logs::capture();
            for _ in 0..2 {
                server.send(request()).await;
            }
            logs_once(&logs, &["and is not broadcast", &format!("is answered with {status}"), "200 and JSON"]);
            assert_eq!((live.stats().writes_redirected, live.stats().changes_published), (2, 0));
        }
    }
    for status in [304, 307, 308] {
        let live = live();
        let server = Server::layered(&live.layer(), move |_| async move { answer(status, "") });
        server.handshake(TOKEN).await;
        let logs = Logs::capture();
        server.send(save()).await;
        assert_eq!((logs.lines("WARN").len(), live.stats().writes_redirected), (0, 0), "{status}");
    }
}

#[tokio::test]
async fn a_load_hook_that_finds_nothing_is_named() {
    let events = Entity::scheduler("/events").load((), async |(), _: String| Ok::<_, Infallible>(None::<()>));
    let logs = written(&of(events), save, |_| async { answer(200, r#"{"action":"updated"}"#) }).await;
    logs_once(&logs, &["its load hook finds no row", "PUT /events/{id}", "as text"]);
}

#[tokio::test]
async fn authentication_inside_the_layer_leaves_a_write_without_scope_and_is_named() {
    let events = Entity::scheduler("/events")
        .scope_from(|parts: &http::request::Parts| parts.extensions.get::<String>().cloned());
    let logs = written(&of(events), save, |_| async { answer(200, r#"{"action":"updated"}"#) }).await;
    logs_once(&logs, &["scope_from has found none in the request", "a layer outside the live layer"]);
}

// Idempotency.

#[tokio::test]
async fn a_response_replayed_from_a_cache_is_not_broadcast() {
    for name in ["idempotent-replayed", "idempotency-replayed"] {
        let live = live();
        let server = Server::layered(&live.layer(), move |request: Request<RequestBody<Incoming>>| async move {
            let is_replayed = request.headers().contains_key("x-again");
            let method = request.method().clone();
            read(request).await.unwrap();
            let body = if method == Method::POST { r#"{"action":"inserted","tid":"17"}"# } else { "{}" };
            let mut response = answer(200, body);
            let value = if is_replayed { "true" } else { "false" };
            response.headers_mut().insert(header::HeaderName::from_static(name), value.parse().unwrap());
            response
        });
        let mut page = server.subscribed().await;
        let again = |mut request: Request<Bytes>| {
            request.headers_mut().insert("x-again", "1".parse().unwrap());
            request
        };
        // A create that was not broadcast is news all the same: its first response was lost with its process.
        server.send(again(create())).await;
        let added = page.received(&live).await;
        assert_eq!((added.len(), &added[0]["type"]), (1, &json!("add-event")), "{name}");
        server.send(again(create())).await;
        server.send(again(save())).await;
        assert!(page.received(&live).await.is_empty(), "{name}");
        // Nor does it bring back what was deleted meanwhile.
        server.send(request(Method::DELETE, "/events/17", "")).await;
        server.send(again(create())).await;
        assert_eq!(page.received(&live).await.len(), 1, "{name}: the deletion");
        assert_eq!(live.stats().writes_deduplicated, 3, "{name}");
        server.send(save()).await;
        assert_eq!(page.received(&live).await.len(), 1, "{name}: the header marks it as a first answer");
    }
}

// Methods.

#[tokio::test]
async fn a_method_that_fails_is_named_with_its_error_and_its_page_is_not_shown_that() {
    let fails = async |(), _: Caller, ()| Err::<(), _>("no such table: tasks");
    let live = builder().tokens([TOKEN]).call("tasks.count", (), fails).build().unwrap();
    let server = Server::layered(&live.layer(), usual);
    let logs = Logs::capture();
    let calls = r#"[{"id":"1","name":"tasks.count","args":[]}]"#;
    let request = Request::post("/api/v1").header("remote-token", TOKEN).body(calls).unwrap();
    assert_eq!(&server.send(request).await.body()[..], br#"[{"id":"1","error":"the call failed"}]"#);
    logs_once(&logs, &["the method", "\"tasks.count\" failed: no such table: tasks"]);
}

#[tokio::test]
async fn data_that_is_no_object_is_named() {
    let list = async |(), _: Identity| Ok::<_, Infallible>([1, 2]);
    let live = builder().tokens([TOKEN]).data((), list).build().unwrap();
    let server = Server::layered(&live.layer(), usual);
    let logs = Logs::capture();
    server.handshake(TOKEN).await;
    logs_once(&logs, &["the data hook failed", "no JSON object"]);
}
