//! Scopes: changes of a scoped entity reach the pages in their scope, and no others.

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http::{Method, Request, Response, request::Parts};
use http_body_util::Full;
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::io::DuplexStream;
use tower_live_updates::{
    AuthError, AuthRequest, Change, ConfigError, Delivery, Entity, Identity, LiveUpdates, LiveWrite, PublishError,
    Snapshot, body::RequestBody,
};

use crate::support::{Page, Server, full, read, usual};

/// Tokens are a name and scopes: `ann@north,south`, or `root@*`.
async fn by_token((): (), request: AuthRequest) -> Result<Identity, AuthError> {
    let (name, scopes) = request.token().split_once('@').ok_or(AuthError::Denied)?;
    let identity = Identity::new(name);
    Ok(if scopes == "*" {
        identity.with_all_scopes()
    } else {
        identity.with_scopes(scopes.split(',').filter(|scope| !scope.is_empty()))
    })
}

fn live(entity: Entity, delivery: Delivery) -> LiveUpdates {
    let builder = LiveUpdates::builder("/api/v1").authenticate_fn((), by_token).delivery(delivery);
    builder.entity(entity).entity(Entity::new("calendars")).build().expect("a good configuration")
}

async fn page(server: &Server, token: &str) -> Page {
    let mut page = server.page_at(&format!("/api/v1?token={token}&ws=1")).await.expect("an accepted socket");
    page.subscribe("events").await;
    page
}

fn event(id: u32, text: &str) -> Value {
    json!({"id": id, "text": text, "start_date": "2026-11-26 09:00", "end_date": "2026-11-26 10:00"})
}

/// What a page has received of events until now, each as kind and text or id. A marker in its own scopes comes last.
async fn received_by(page: &mut Page, live: &LiveUpdates, scopes: &[&str]) -> Vec<String> {
    static MARKERS: AtomicU64 = AtomicU64::new(0);
    let marker = MARKERS.fetch_add(1, Ordering::Relaxed);
    live.send_to("events", scopes.iter().copied(), &json!({"type": "marker", "number": marker})).unwrap();
    let mut received = Vec::new();
    loop {
        let message = page.message().await.expect("an open socket");
        let value = &message["body"]["value"];
        if value["type"] == "marker" {
            // Others receive the markers of their scopes, too.
            if value["number"] == marker {
                return received;
            }
            continue;
        }
        let event = &value["event"];
        let what = event["text"].as_str().map_or_else(|| event["id"].to_string(), str::to_owned);
        received.push(format!("{} {what}", value["type"].as_str().unwrap().trim_end_matches("-event")));
    }
}

/// A handler that stores nothing and answers as usual, wherever the events are.
async fn anywhere(request: Request<RequestBody<Incoming>>) -> Response<Full<bytes::Bytes>> {
    let (mut parts, body) = request.into_parts();
    let path = parts.uri.path();
    let events = path.find("/events").map_or(path, |at| &path[at..]).to_owned();
    parts.uri = events.parse().unwrap();
    usual(Request::from_parts(parts, body)).await
}

const EVENT: &str = r#"{"text":"standup","start_date":"2026-11-26 09:00","end_date":"2026-11-26 10:00"}"#;

#[tokio::test]
async fn a_route_parameter_is_the_scope_of_a_write() {
    let live = live(Entity::scheduler("/{tenant}/events").scope_param("tenant"), Delivery::Plain);
    let server = Server::layered(&live.layer(), anywhere);
    let (mut ann, mut cid, mut root) =
        (page(&server, "ann@north").await, page(&server, "cid@so%75th").await, page(&server, "root@*").await);
    server.write(Method::POST, "/north/events", EVENT).await;
    server.write(Method::PUT, "/s%6Futh/events/5", EVENT).await;
    server.write(Method::DELETE, "/north/events/6", "").await;
    assert_eq!(received_by(&mut ann, &live, &["north"]).await, ["add standup", r#"delete "6""#]);
    assert_eq!(received_by(&mut cid, &live, &["south"]).await, ["update standup"]);
    assert_eq!(received_by(&mut root, &live, &["x"]).await, ["add standup", "update standup", r#"delete "6""#]);
}

#[tokio::test]
async fn the_same_id_in_two_tenants_is_two_objects() {
    for delivery in [Delivery::Plain, Delivery::Converging] {
        let live = live(Entity::scheduler("/{tenant}/events").scope_param("tenant"), delivery);
        let server = Server::layered(&live.layer(), anywhere);
        let (mut ann, mut cid) = (page(&server, "ann@north").await, page(&server, "cid@south").await);
        for (tenant, body) in [
            ("north", r#"{"text":"north","start_date":"a","end_date":"b","secret":1}"#),
            ("south", r#"{"text":"south"}"#),
        ] {
            server.write(Method::PUT, &format!("/{tenant}/events/7"), body).await;
        }
        server.write(Method::DELETE, "/south/events/7", "").await;
        assert_eq!(received_by(&mut ann, &live, &["north"]).await, ["update north"]);
        let south = received_by(&mut cid, &live, &["south"]).await;
        assert_eq!(south[0], "update south");
        assert!(south[1..].contains(&r#"delete "7""#.to_owned()), "{south:?}");
        assert_eq!(live.stats().writes_unpublished, 0);
    }
}

#[tokio::test]
async fn scope_from_gives_the_scope_where_the_handler_names_none() {
    let by_header = |request: &Parts| request.headers.get("x-tenant").map(|tenant| tenant.to_str().unwrap().to_owned());
    let live = live(Entity::scheduler("/events").scope_from(by_header), Delivery::Plain);
    let server = Server::layered(&live.layer(), async |request: Request<RequestBody<Incoming>>| {
        let write = request.extensions().get::<LiveWrite>().cloned();
        if request.headers().contains_key("x-moved") {
            let write = write.unwrap();
            write.scope("south");
            write.moved_from("north");
        }
        usual(request).await
    });
    let (mut ann, mut cid) = (page(&server, "ann@north").await, page(&server, "cid@south").await);
    for (tenant, moved) in [("north", false), ("north", true)] {
        let mut request =
            Request::put("/events/7").header("content-type", "application/json").header("x-tenant", tenant);
        if moved {
            request = request.header("x-moved", "1");
        }
        server.send(request.body(EVENT).unwrap()).await;
    }
    assert_eq!(received_by(&mut ann, &live, &["north"]).await, ["update standup", r#"delete "7""#]);
    assert_eq!(received_by(&mut cid, &live, &["south"]).await, ["add standup"]);
}

#[tokio::test]
async fn a_change_without_a_scope_reaches_no_page() {
    let live = live(Entity::scheduler("/events").scoped(), Delivery::Plain);
    let server = Server::layered(&live.layer(), usual);
    let (mut ann, mut root) = (page(&server, "ann@north").await, page(&server, "root@*").await);
    for (method, path) in [(Method::POST, "/events"), (Method::PUT, "/events/7"), (Method::DELETE, "/events/8")] {
        assert_eq!(server.write(method, path, EVENT).await.status(), 200, "the write itself succeeds");
    }
    assert_eq!(live.stats().writes_unpublished, 3);
    let error = live.publish("events", Change::update(&event(7, "x")).unwrap()).unwrap_err();
    assert!(matches!(error, PublishError::NoScope { .. }) && error.to_string().contains("Change::scope"), "{error}");
    assert!(matches!(live.send("events", &1), Err(PublishError::NoScope { .. })));
    assert!(matches!(live.send_to("events", [] as [&str; 0], &1), Err(PublishError::NoScope { .. })));
    assert_eq!(received_by(&mut ann, &live, &["north"]).await, [""; 0]);
    assert_eq!(received_by(&mut root, &live, &["x"]).await, [""; 0]);
}

#[tokio::test]
async fn a_scope_on_an_unscoped_entity_is_an_error() {
    let live = live(Entity::scheduler("/events"), Delivery::Plain);
    let server = Server::layered(&live.layer(), usual);
    let mut ann = page(&server, "ann@north").await;
    for change in [
        Change::update(&event(7, "x")).unwrap().scope("north"),
        Change::update(&event(7, "x")).unwrap().moved_from("north"),
    ] {
        let error = live.publish("events", change).unwrap_err();
        assert!(matches!(error, PublishError::NotScoped { .. }) && error.to_string().contains(".scoped()"), "{error}");
    }
    assert!(matches!(live.send_to("events", ["north"], &1), Err(PublishError::NotScoped { .. })));
    assert_eq!(ann.received(&live).await, [Value::Null; 0]);
}

#[tokio::test]
async fn a_page_with_several_scopes_receives_a_change_in_any_of_them_once() {
    let live = live(Entity::scheduler("/events").scoped(), Delivery::Plain);
    let server = Server::layered(&live.layer(), usual);
    let mut pages = Vec::new();
    for token in ["ann@a", "ben@b,c", "cid@c", "dee@"] {
        pages.push(page(&server, token).await);
    }
    live.publish("events", Change::add(&event(1, "one")).unwrap().scope("a").scope("b")).unwrap();
    let own = [&["a"], &["b"], &["c"]];
    for ((page, own), expected) in pages.iter_mut().zip(own).zip([&["add one"][..], &["add one"], &[]]) {
        assert_eq!(received_by(page, &live, own).await, expected);
    }
    let dee = tokio::time::timeout(Duration::from_millis(50), pages[3].message()).await;
    assert!(dee.is_err(), "a page without a scope receives nothing: {dee:?}");
}

#[tokio::test]
async fn messages_have_scopes_too() {
    let live = live(Entity::scheduler("/events").scoped(), Delivery::Converging);
    let server = Server::layered(&live.layer(), usual);
    let (mut ann, mut cid) = (page(&server, "ann@north").await, page(&server, "cid@south").await);
    live.send_to("events", ["north"], &json!({"type": "custom", "event": {"id": 1}})).unwrap();
    assert_eq!(received_by(&mut cid, &live, &["south"]).await, [""; 0]);
    assert_eq!(received_by(&mut ann, &live, &["north"]).await, ["custom 1"]);
}

/// Pages with scopes a, b, both and another, on both transports.
async fn four(server: &Server) -> [Page; 4] {
    let mut pages = Vec::new();
    for token in ["ann@a", "ben@b", "cid@a,b", "dee@c"] {
        pages.push(page(server, token).await);
    }
    pages.try_into().expect("four")
}

async fn all_received(pages: &mut [Page<DuplexStream>; 4], live: &LiveUpdates) -> [Vec<String>; 4] {
    let mut all = Vec::new();
    for (page, own) in pages.iter_mut().zip(["a", "b", "a", "c"]) {
        all.push(received_by(page, live, &[own]).await);
    }
    all.try_into().expect("four")
}

#[tokio::test]
async fn leaving_a_scope_is_a_deletion_and_entering_it_the_whole_object() {
    let live = live(Entity::scheduler("/events").scoped(), Delivery::Plain);
    let server = Server::layered(&live.layer(), usual);
    let [ann, ben, cid, dee] = &mut four(&server).await;
    live.publish("events", Change::add(&event(7, "one")).unwrap().scope("a")).unwrap();
    assert_eq!(received_by(ann, &live, &["a"]).await, ["add one"]);
    assert_eq!(received_by(cid, &live, &["a"]).await, ["add one"]);
    live.publish("events", Change::update(&event(7, "two")).unwrap().scope("b")).unwrap();
    assert_eq!(received_by(ann, &live, &["a"]).await, ["delete 7"]);
    assert_eq!(received_by(ben, &live, &["b"]).await, ["add two"]);
    assert_eq!(received_by(cid, &live, &["a"]).await, ["update two"], "it has both");
    // Nothing is sent any more in the scope it has left, and a deletion goes where the object is.
    live.publish("events", Change::update(&event(7, "three")).unwrap().scope("b")).unwrap();
    live.publish("events", Change::delete(7).unwrap()).unwrap();
    assert_eq!(received_by(ann, &live, &["a"]).await, [""; 0]);
    assert_eq!(received_by(ben, &live, &["b"]).await, ["update three", r#"delete "7""#]);
    assert_eq!(received_by(dee, &live, &["c"]).await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn moved_objects_are_broadcast_to_both_scopes_in_the_converging_delivery() {
    let live = live(Entity::scheduler("/events").scoped(), Delivery::Converging);
    let server = Server::layered(&live.layer(), usual);
    let mut pages = four(&server).await;
    live.publish("events", Change::add(&event(7, "one")).unwrap().scope("a")).unwrap();
    all_received(&mut pages, &live).await;
    live.publish("events", Change::update(&event(7, "two")).unwrap().scope("b")).unwrap();
    let [ann, ben, cid, dee] = all_received(&mut pages, &live).await;
    assert!(ann.contains(&"delete 7".to_owned()), "{ann:?}");
    assert_eq!((ben, cid, dee), (vec!["add two".into(), "update two".into()], vec!["update two".into()], vec![]));
    // A form may have been open: it is repeated after half a minute.
    tokio::time::sleep(Duration::from_secs(31)).await;
    let [ann, _, _, dee] = all_received(&mut pages, &live).await;
    assert!(ann.contains(&"delete 7".to_owned()) && dee.is_empty(), "{ann:?} {dee:?}");
    // It comes back, and its delete is not repeated any more.
    live.publish("events", Change::update(&event(7, "three")).unwrap().scope("a").scope("b")).unwrap();
    let [ann, ben, _, _] = all_received(&mut pages, &live).await;
    assert_eq!((ann, ben), (vec!["add three".into(), "update three".into()], vec!["update three".into()]));
    tokio::time::sleep(Duration::from_secs(61)).await;
    let [ann, ..] = all_received(&mut pages, &live).await;
    assert!(!ann.contains(&"delete 7".to_owned()), "{ann:?}");
}

#[tokio::test]
async fn the_handler_names_the_former_scope_of_an_object_that_the_log_does_not_know() {
    let live = live(Entity::scheduler("/{calendar}/events").scope_param("calendar"), Delivery::Plain);
    let server = Server::layered(&live.layer(), async |request: Request<RequestBody<Incoming>>| {
        let write = request.extensions().get::<LiveWrite>().cloned().unwrap();
        write.scope("b");
        write.moved_from("a");
        anywhere(request).await
    });
    let (mut ann, mut ben) = (page(&server, "ann@a").await, page(&server, "ben@b").await);
    server.write(Method::PUT, "/a/events/7", EVENT).await;
    assert_eq!(received_by(&mut ann, &live, &["a"]).await, [r#"delete "7""#]);
    assert_eq!(received_by(&mut ben, &live, &["b"]).await, ["add standup"], "it is new there");
}

/// A handler that answers every write with a success, whether or not it was allowed to change anything.
#[tokio::test(start_paused = true)]
async fn a_write_of_one_tenant_reveals_nothing_of_an_object_of_another() {
    for delivery in [Delivery::Plain, Delivery::Converging] {
        let tenant = |request: &Parts| request.headers.get("x-tenant").map(|it| it.to_str().unwrap().to_owned());
        let live = live(Entity::scheduler("/events").scope_from(tenant), delivery);
        let server = Server::layered(&live.layer(), usual);
        let (mut ann, mut cid) = (page(&server, "ann@north").await, page(&server, "cid@south").await);
        let write = async |tenant: &str, method: Method, path: &str, body: &str| {
            let request = Request::builder().method(method).uri(path).header("x-tenant", tenant);
            let request = request.header("content-type", "application/json").body(body.to_owned()).unwrap();
            assert_eq!(server.send(request).await.status(), 200);
        };
        let secret = EVENT.replace("standup", "secret");
        write("north", Method::POST, "/events", &secret).await;
        write("south", Method::PUT, "/events/17", r#"{"text":"forged"}"#).await;
        write("south", Method::PATCH, "/events/17", r#"{"text":"forged"}"#).await;
        write("south", Method::DELETE, "/events/17", "").await;
        write("north", Method::PUT, "/events/17", r#"{"text":"still secret"}"#).await;
        assert_eq!(
            received_by(&mut ann, &live, &["north"]).await,
            ["add secret", "update still secret"],
            "{delivery:?}"
        );
        let at_cid = received_by(&mut cid, &live, &["south"]).await;
        assert!(
            at_cid.iter().all(|received| !received.contains("secret") && !received.starts_with("add")),
            "{at_cid:?}"
        );
        // Their object with the same id is untouched, whatever is repeated.
        tokio::time::sleep(Duration::from_secs(40)).await;
        for (page, own, word) in [(&mut ann, "north", "secret"), (&mut cid, "south", "")] {
            let later = received_by(page, &live, &[own]).await;
            let is_fine = |received: &String| {
                if word.is_empty() { !received.contains("secret") } else { received.contains(word) }
            };
            assert!(later.iter().all(is_fine), "{delivery:?} {own} {later:?}");
        }
    }
}

/// While a create of one tenant is in flight, another names the id that it will get.
#[tokio::test]
async fn an_add_is_broadcast_in_its_scope_whichever_tenant_has_named_its_id_meanwhile() {
    for entity in
        [Entity::scheduler("/{tenant}/events").scope_param("tenant"), Entity::scheduler("/{tenant}/events").scoped()]
    {
        let live = live(entity, Delivery::Converging);
        let publish = live.clone();
        let server = Server::layered(&live.layer(), move |request: Request<RequestBody<Incoming>>| {
            let live = publish.clone();
            async move {
                if let Some(write) = request.extensions().get::<LiveWrite>() {
                    write.scope("north");
                }
                live.publish("events", Change::update(&event(17, "forged")).unwrap().scope("south")).unwrap();
                live.publish("events", Change::delete(17).unwrap().scope("south")).unwrap();
                anywhere(request).await
            }
        });
        let mut ann = page(&server, "ann@north").await;
        server.write(Method::POST, "/north/events", EVENT).await;
        assert_eq!(received_by(&mut ann, &live, &["north"]).await, ["add standup"]);
    }
}

#[test]
fn a_load_hook_must_know_the_scope_of_the_row_it_reads() {
    let row = async |(), _: String| Ok::<_, Infallible>(None::<Value>);
    let build = |entity| LiveUpdates::builder("/api/v1").allow_anonymous().entity(entity).build();
    let scoped = || Entity::scheduler("/{tenant}/events").scope_param("tenant");
    let error = build(scoped().load((), row)).unwrap_err();
    assert!(matches!(error, ConfigError::LoadWithoutScopes(_)) && error.to_string().contains("load_scoped"), "{error}");
    for entity in [Entity::scheduler("/events").scoped(), Entity::scheduler("/events").ids_per_scope()] {
        let error = build(entity.load((), row)).unwrap_err();
        assert!(matches!(error, ConfigError::LoadWithoutScopes(_)), "where the handler names the scope, too: {error}");
    }
    let row = async |(), _: Vec<String>, _: String| Ok::<_, Infallible>(None::<Value>);
    assert!(build(scoped().load_scoped((), row)).is_ok());
}

#[tokio::test]
async fn a_load_hook_is_given_the_scopes_of_the_request() {
    let row = async |(), scopes: Vec<String>, id: String| {
        let row = (scopes == ["north"]).then(|| event(id.parse().unwrap(), "the north's"));
        Ok::<_, Infallible>(row)
    };
    let entity = Entity::scheduler("/{tenant}/events").scope_param("tenant").load_scoped((), row);
    let live = live(entity, Delivery::Plain);
    let server = Server::layered(&live.layer(), anywhere);
    let (mut ann, mut cid) = (page(&server, "ann@north").await, page(&server, "cid@south").await);
    for tenant in ["north", "south"] {
        server.write(Method::PUT, &format!("/{tenant}/events/7"), EVENT).await;
    }
    assert_eq!(received_by(&mut ann, &live, &["north"]).await, ["update the north's"]);
    assert_eq!(received_by(&mut cid, &live, &["south"]).await, [r#"delete "7""#]);
}

#[tokio::test]
async fn children_of_another_scope_stay() {
    let live = live(Entity::scheduler("/{tenant}/events").scope_param("tenant"), Delivery::Converging);
    let server = Server::layered(&live.layer(), usual);
    let (mut ann, mut cid) = (page(&server, "ann@north").await, page(&server, "cid@south").await);
    for tenant in ["north", "south"] {
        let mut exception = event(8, "exception");
        exception["recurring_event_id"] = "7".into();
        live.publish("events", Change::add(&exception).unwrap().scope(tenant)).unwrap();
    }
    received_by(&mut ann, &live, &["north"]).await;
    assert_eq!(received_by(&mut cid, &live, &["south"]).await, ["add exception"]);
    live.publish("events", Change::delete(7).unwrap().scope("north")).unwrap();
    let gone = received_by(&mut ann, &live, &["north"]).await;
    assert!(gone.contains(&r#"delete "8""#.to_owned()) && gone.contains(&r#"delete "7""#.to_owned()), "{gone:?}");
    assert_eq!(received_by(&mut cid, &live, &["south"]).await, [""; 0]);
}

#[tokio::test]
async fn a_write_of_one_tenant_does_not_wait_for_the_same_id_of_another() {
    let live = live(Entity::scheduler("/{tenant}/events").scope_param("tenant"), Delivery::Plain);
    let (hold, held) = (Arc::new(tokio::sync::Notify::new()), Arc::new(tokio::sync::Notify::new()));
    let (holds, is_held) = (hold.clone(), held.clone());
    let server = Server::layered(&live.layer(), move |request: Request<RequestBody<Incoming>>| {
        let (hold, held) = (holds.clone(), is_held.clone());
        async move {
            let is_north = request.uri().path().starts_with("/north");
            read(request).await.unwrap();
            if is_north {
                held.notify_one();
                hold.notified().await;
            }
            Response::new(full(r#"{"action":"updated"}"#))
        }
    });
    let slow = tokio::spawn({
        let server = server.clone();
        async move { server.write(Method::PUT, "/north/events/7", EVENT).await }
    });
    held.notified().await;
    let quick = tokio::time::timeout(Duration::from_secs(2), server.write(Method::PUT, "/south/events/7", EVENT));
    assert_eq!(quick.await.expect("its own turn").status(), 200);
    hold.notify_one();
    slow.await.unwrap();
}

#[test]
fn a_parameter_that_no_route_has_is_no_configuration() {
    let builder = LiveUpdates::builder("/api/v1").allow_anonymous();
    let error = builder.entity(Entity::scheduler("/events").scope_param("tenant")).build().unwrap_err();
    assert!(matches!(error, ConfigError::ScopeParam { .. }) && error.to_string().contains("{tenant}"), "{error}");
}

/// A page with both scopes of a move has the object all the while, whatever is repeated.
#[tokio::test(start_paused = true)]
async fn a_page_with_both_scopes_of_a_move_keeps_the_object() {
    let live = live(Entity::scheduler("/{calendar}/events").scope_param("calendar"), Delivery::Converging);
    let server = Server::layered(&live.layer(), usual);
    let (mut both, mut ann) = (page(&server, "cid@a,b").await, page(&server, "ann@a").await);
    live.publish("events", Change::add(&event(7, "one")).unwrap().scope("a")).unwrap();
    let moved = Change::update(&event(7, "two")).unwrap().scope("b").moved_from("a");
    live.publish("events", moved).unwrap();
    let mut at_both = received_by(&mut both, &live, &["a"]).await;
    // The rest of it may be unknown in the new calendar, as the change may be a part.
    at_both.retain(|received| !received.starts_with("resync"));
    assert!(at_both.iter().all(|received| !received.starts_with("delete")), "{at_both:?}");
    assert_eq!(at_both.last().unwrap(), "update two");
    let at_ann = received_by(&mut ann, &live, &["a"]).await;
    assert!(at_ann.iter().any(|received| received.starts_with("delete")), "{at_ann:?}");
    tokio::time::sleep(Duration::from_secs(65)).await;
    let later = received_by(&mut both, &live, &["a"]).await;
    assert!(later.iter().all(|received| received.ends_with("two") || received.starts_with("resync")), "{later:?}");
}

/// Ids of tenants are the same, and pages know nothing but ids: what was another's is not gone from whose it is now.
#[tokio::test(start_paused = true)]
async fn an_object_of_new_rights_is_not_taken_for_one_of_the_old_ones() {
    let scope = Arc::new(Mutex::new("north"));
    let rows = async |(), _: Identity| {
        let rows = ["north", "south"].map(|tenant| event(7, tenant));
        Ok::<_, Infallible>(Snapshot::new(rows).scoped_by(|row| row["text"].as_str().map(str::to_owned)))
    };
    let entity = Entity::scheduler("/{tenant}/events").scope_param("tenant").snapshot((), rows);
    let live = LiveUpdates::builder("/api/v1")
        .authenticate_fn(scope.clone(), async |scope: Arc<Mutex<&'static str>>, _: AuthRequest| {
            Ok::<_, AuthError>(Identity::new("ann").with_scope(*scope.lock().unwrap()))
        })
        .revalidation_interval(Duration::from_secs(60))
        .ping_interval(Duration::from_secs(7200))
        .pong_timeout(Duration::from_secs(9000))
        .entity(entity)
        .build()
        .unwrap();
    let server = Server::layered(&live.layer(), usual);
    live.publish("events", Change::add(&event(7, "north")).unwrap().scope("north")).unwrap();
    live.publish("events", Change::add(&event(7, "south")).unwrap().scope("south")).unwrap();
    let mut ann = page(&server, "ann").await;
    *scope.lock().unwrap() = "south";
    tokio::time::sleep(Duration::from_secs(70)).await;
    let received = received_by(&mut ann, &live, &["south"]).await;
    assert_eq!(received.last().unwrap(), "update south", "{received:?}");
    let left = received.iter().position(|received| received.starts_with("delete")).expect("north's is gone");
    assert!(!received[left..].iter().any(|received| received.ends_with(" north")), "{received:?}");
    tokio::time::sleep(Duration::from_secs(100)).await;
    let later = received_by(&mut ann, &live, &["south"]).await;
    assert!(later.iter().all(|received| received.ends_with("south")), "{later:?}");
}
