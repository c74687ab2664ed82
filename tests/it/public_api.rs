//! What users build on: types that can be shared and sent whatever the bodies are, and errors that name the value.

use std::{cell::Cell, convert::Infallible, error::Error, fmt::Debug, marker::PhantomData, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::Full;
use serde_json::json;
use tower::{Layer, Service};
use tower_live_updates::{
    AuthError, AuthRequest, Change, ChangeError, ChangeKind, ConfigError, Entity, Identity, LiveUpdates,
    LiveUpdatesBuilder, LiveUpdatesEndpoint, LiveUpdatesLayer, LiveUpdatesService, LiveWrite, PublishError, Stats,
    body::EndpointBody, body::RequestBody, body::ResponseBody, builder::HasAuth, future::EndpointFuture,
};

use crate::support::TOKEN;

/// A body that can be sent and not shared, as axum's are.
struct NotSync(PhantomData<Cell<u8>>);

impl http_body::Body for NotSync {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        std::task::Poll::Ready(None)
    }
}

fn shared<T: Clone + Debug + Send + Sync + 'static>() {}
fn sent<T: Debug + Send + 'static>() {}
fn both<T: Debug + Send + Sync + 'static>() {}
fn error<T: Error + Send + Sync + 'static>() {}

#[test]
fn handles_and_services_can_be_shared_whatever_the_bodies() {
    shared::<LiveUpdates>();
    shared::<LiveUpdatesLayer>();
    shared::<LiveUpdatesEndpoint>();
    shared::<LiveUpdatesService<()>>();
    shared::<LiveWrite>();
    shared::<Change>();
    shared::<ChangeKind>();
    shared::<Entity>();
    shared::<Identity>();
    shared::<Stats>();
    #[cfg(feature = "axum")]
    {
        shared::<LiveUpdatesLayer<tower_live_updates::body::Axum>>();
        shared::<LiveUpdatesService<(), tower_live_updates::body::Axum>>();
    }
    sent::<LiveUpdatesBuilder>();
    sent::<LiveUpdatesBuilder<HasAuth>>();
    sent::<EndpointFuture>();
    sent::<EndpointBody>();
    sent::<RequestBody<NotSync>>();
    sent::<ResponseBody<NotSync>>();
    both::<RequestBody<Full<Bytes>>>();
    both::<ResponseBody<Full<Bytes>>>();
    both::<EndpointBody>();
    sent::<AuthRequest>();
    error::<ConfigError>();
    error::<ChangeError>();
    error::<PublishError>();
    error::<AuthError>();
}

#[tokio::test]
async fn a_service_of_bodies_that_are_not_sync_is_itself_shared_and_its_futures_sent() {
    fn is_shared<T: Clone + Send + Sync + 'static>(_: &T) {}
    fn is_sent<T: Future + Send + 'static>(future: T) -> T {
        future
    }
    let live = crate::support::live();
    let mut service = live.layer().layer(tower::service_fn(|_: Request<RequestBody<NotSync>>| async {
        Ok::<_, Infallible>(Response::new(NotSync(PhantomData)))
    }));
    is_shared(&service);
    for (method, path) in [(Method::GET, "/"), (Method::PUT, "/events/7"), (Method::GET, "/api/v1")] {
        let request = Request::builder().method(method).uri(path).body(NotSync(PhantomData)).unwrap();
        // On another thread, if need be.
        assert!(tokio::spawn(is_sent(service.call(request))).await.unwrap().is_ok(), "{path}");
    }
}

#[test]
fn futures_of_the_handle_can_be_sent_and_own_what_they_need() {
    fn is_sent<T: Send>(_: &T) {}
    let live = crate::support::live();
    is_sent(&live.shutdown());
    let owned = live.shutdown_on_signals();
    drop(live);
    is_sent(&owned);
}

#[test]
fn configuring_and_publishing_need_no_runtime() {
    let live = crate::support::live();
    live.publish("events", Change::delete(7).unwrap()).unwrap();
    live.send("events", &json!({"type": "custom"})).unwrap();
    let _service = live.layer().layer(tower::service_fn(|_: Request<RequestBody<Full<Bytes>>>| async {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    }));
    assert_eq!((live.stats().changes_published, live.stats().messages_published), (1, 1));
}

#[test]
fn a_configuration_that_cannot_work_is_refused_with_the_value_that_is_wrong() {
    fn at(path: &str) -> LiveUpdatesBuilder<HasAuth> {
        LiveUpdates::builder(path).tokens([TOKEN])
    }
    fn with(entity: Entity) -> LiveUpdatesBuilder<HasAuth> {
        at("/api/v1").entity(entity)
    }
    let plain = || Entity::new("cards");
    let never = Duration::ZERO;
    let long = "n".repeat(65);
    let many = (0..=u16::MAX).fold(at("/api/v1"), |builder, _| builder.entity(plain()));
    let table: Vec<(LiveUpdatesBuilder<HasAuth>, &str)> = vec![
        (at("api/v1"), "\"api/v1\""),
        (at(""), "\"\""),
        (at("/api?x=1"), "\"/api?x=1\""),
        (at("/api#x"), "\"/api#x\""),
        (at("/{tenant}/api"), "\"/{tenant}/api\""),
        (LiveUpdates::builder("/").tokens(Vec::<String>::new()), "token list is empty"),
        (LiveUpdates::builder("/").tokens(["good", ""]), "empty token"),
        (at("/").max_connections(0), "max_connections"),
        (at("/").max_message_bytes(0), "max_message_bytes"),
        (at("/").max_body_bytes(0), "max_body_bytes"),
        (at("/").ping_interval(never), "ping_interval"),
        (at("/").pong_timeout(never), "pong_timeout"),
        (at("/").write_timeout(never), "write_timeout"),
        (at("/").hook_timeout(never), "hook_timeout"),
        (at("/").max_log_records(0), "max_log_records"),
        (at("/").max_log_bytes(0), "max_log_bytes"),
        (at("/").log_retention(never), "log_retention"),
        (at("/").pong_timeout(Duration::from_secs(25)), "pong_timeout (25s)"),
        (with(Entity::new("")), "\"\""),
        (with(Entity::new(long.clone())), &long),
        (with(plain().payload_key("")), "\"\""),
        (with(plain().payload_key(long.clone())), &long),
        (with(plain()).entity(plain()), "\"cards\""),
        (many, "65536"),
        (with(plain().request_pointer("data")), "\"data\""),
        (with(plain().response_pointer("data/0")), "\"data/0\""),
        (with(plain().collection("cards")), "\"cards\""),
        (with(plain().route(Method::PUT, "/cards", ChangeKind::Update)), "\"/cards/{id}\""),
        (with(plain().route(Method::DELETE, "/cards/{card}", ChangeKind::Delete)), "\"/cards/{card}\""),
        (with(plain().route(Method::GET, "/cards/{id}", ChangeKind::Delete)), "GET"),
        (with(plain().route(Method::HEAD, "/cards", ChangeKind::Add)), "\"/cards\""),
        (with(plain().route(Method::POST, "/cards/{", ChangeKind::Add)), "\"/cards/{\""),
        (with(plain().route(Method::POST, "/{*a}/cards", ChangeKind::Add)), "\"/{*a}/cards\""),
        (with(plain().collection("/x")).entity(Entity::new("rows").collection("/x")), "\"rows\""),
        (with(plain().collection("/x").route(Method::PUT, "/x/{id}", ChangeKind::Delete)), "PUT \"/x/{id}\""),
        (at("/").allow_origin("app.example"), "\"app.example\""),
        (at("/").allow_origin("https://app.example/path"), "\"https://app.example/path\""),
        (at("/").allow_origin("*"), "\"*\""),
        (at("/").allow_origin("null"), "\"null\""),
        (at("/").allow_origin(""), "\"\""),
    ];
    for (builder, value) in table {
        let error = builder.build().expect_err(value);
        let text = error.to_string();
        assert!(text.contains(value), "{value} is missing in {text:?}");
        assert!(!text.ends_with('.') && text.lines().count() == 1, "{text:?}");
    }
}

#[test]
fn a_configuration_that_can_work_is_taken() {
    for path in ["/", "/api/v1", "/api/v1/"] {
        assert!(LiveUpdates::builder(path).allow_anonymous().build().is_ok(), "{path}");
    }
    let live = LiveUpdates::builder("/api/v1")
        .tokens([TOKEN])
        .allow_origin("https://app.example:8443")
        .max_detached_writes(0)
        .max_delayed_refusals(0)
        .refusal_delay(Duration::ZERO)
        .drain_timeout(Duration::ZERO)
        .write_lock_timeout(Duration::ZERO)
        .response_timeout(Duration::ZERO)
        .entity(Entity::new("n".repeat(64)).request_pointer("").response_pointer("/data"))
        .build();
    assert!(live.is_ok(), "{live:?}");
}

#[test]
fn errors_of_publishing_name_the_remedy() {
    let live = crate::support::live();
    let unknown = live.publish("cards", Change::delete(1).unwrap()).unwrap_err().to_string();
    assert!(unknown.contains("\"cards\"") && unknown.contains("Entity::new"), "{unknown}");
    let poison = live.publish("events", Change::add(&json!({"id": 7})).unwrap()).unwrap_err().to_string();
    assert!(poison.contains("\"7\"") && poison.contains("start_date"), "{poison}");
    let no_id = Change::update(&json!({"id": {"$oid": 1}})).unwrap_err().to_string();
    assert!(no_id.contains("$oid"), "{no_id}");
    let impossible = Change::add(&std::collections::HashMap::from([((1, 2), 3)])).unwrap_err();
    assert!(impossible.source().is_some(), "the cause is kept: {impossible}");
}
