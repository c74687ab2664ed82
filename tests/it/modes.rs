//! The DataProcessor's modes in which all writes have one address: which writes are broadcast, and which the log names.

use http::{Method, Request, header};
use hyper::body::Incoming;
use serde_json::Value;
use tower_live_updates::{ChangeKind, Delivery, Entity, LiveUpdates, LiveUpdatesBuilder, body::RequestBody};

use crate::support::{Server, TOKEN, json as answer, logs::Logs, read};

const JSON: &str = "application/json";
const FORM: &str = "application/x-www-form-urlencoded";

const GET_MODE: &str = "in the DataProcessor's mode GET";
const OTHER_MODE: &str = "whose `gantt_mode` is another one";
const UNCONFIRMED: &str = "the answer names no action";
const BATCH: &str = "several changes in one request";

const UPDATED: &str = r#"{"action":"updated"}"#;
const DELETED: &str = r#"{"action":"deleted"}"#;
const TASKS: &str = "/data?editing=true&gantt_mode=tasks";
const LINKS: &str = "/data?editing=true&gantt_mode=links";
const TASK: &str = r#"{"id":7,"action":"updated","data":{"start_date":"2025-04-07 00:00","duration":3,"parent":0}}"#;
const TASK_GONE: &str = r#"{"id":7,"action":"deleted","data":{}}"#;
const LINK: &str = r#"{"id":7,"action":"updated","data":{"source":1,"target":2,"type":"0"}}"#;

fn live(entities: impl IntoIterator<Item = Entity>) -> LiveUpdates {
    let builder = LiveUpdates::builder("/api/v1").delivery(Delivery::Plain).tokens([TOKEN]);
    let marker = builder.entity(Entity::new("marker"));
    entities.into_iter().fold(marker, LiveUpdatesBuilder::entity).build().expect("a good configuration")
}

fn gantt() -> [Entity; 2] {
    [Entity::gantt_tasks("/data"), Entity::gantt_links("/data")]
}

fn json(path: &str, body: &'static str) -> Request<&'static str> {
    request(Method::POST, path, JSON, body)
}

fn form(path: &str, body: &'static str) -> Request<&'static str> {
    request(Method::POST, path, FORM, body)
}

fn request(method: Method, path: &str, kind: &str, body: &'static str) -> Request<&'static str> {
    Request::builder().method(method).uri(path).header(header::CONTENT_TYPE, kind).body(body).unwrap()
}

/// What pages of tasks, links and events receive of these writes, and the log's lines.
async fn broadcast(
    live: &LiveUpdates,
    writes: impl IntoIterator<Item = (Request<&'static str>, &'static str)>,
) -> (Vec<String>, Vec<String>) {
    let logs = Logs::capture();
    let server = Server::layered(&live.layer(), |request| async move {
        let wanted = request.headers()["x-answer"].to_str().unwrap().to_owned();
        read(request).await.expect("a whole request");
        answer(200, &wanted)
    });
    let mut page = server.page().await;
    for entity in ["tasks", "links", "events", "marker"] {
        page.subscribe(entity).await;
    }
    for (mut write, wanted) in writes {
        write.headers_mut().insert("x-answer", wanted.parse().unwrap());
        let answered = server.send(write).await;
        assert_eq!(answered.body(), wanted.as_bytes(), "the answer is passed on");
        assert_eq!(answered.headers().get(header::CACHE_CONTROL), None, "no list");
    }
    let received = page.received_of("marker", live).await.iter().map(outline).collect();
    let lines = logs.lines("WARN").into_iter().filter(|line| !line.contains("there is no such entity"));
    (received, lines.collect())
}

fn outline(value: &Value) -> String {
    let kind = value["type"].as_str().unwrap();
    let id = &value[kind.split_once('-').unwrap().1]["id"];
    format!("{kind} {}", id.as_str().map_or_else(|| id.to_string(), str::to_owned))
}

#[tokio::test]
async fn the_query_decides_between_tasks_and_links() {
    for (path, body, received) in [
        (TASKS, TASK, vec!["update-task 7"]),
        (LINKS, LINK, vec!["update-link 7"]),
        ("/data/?gantt_mode=links&tenant=5&editing=true", LINK, vec!["update-link 7"]),
        ("/data?editing=true", TASK, vec![]),
        ("/data?gantt_mode=tasks", TASK, vec![]),
        ("/data?editing=true&gantt_mode=resources", TASK, vec![]),
        ("/data?editing=true&gantt_mode=tasks&gantt_mode=links", LINK, vec![]),
        ("/data?editing=true&gantt_mode=links&gantt%5Fmode=tasks", LINK, vec![]),
        ("/data", TASK, vec![]),
        // In these modes nothing is sent to the routes of the other ones.
        ("/data/task?editing=true&gantt_mode=links", LINK, vec![]),
        ("/data/link?editing=true&gantt_mode=tasks", TASK, vec![]),
    ] {
        let (found, _) = broadcast(&live(gantt()), [(json(path, body), UPDATED)]).await;
        assert_eq!(found, received, "{path}");
    }
}

#[tokio::test]
async fn the_answer_confirms_that_the_action_was_read() {
    for (write, answered, received, line) in [
        (json(TASKS, TASK), UPDATED, Some("update-task 7"), None),
        (json(TASKS, TASK), r#"{"action":"approved"}"#, Some("update-task 7"), None),
        (json(TASKS, TASK), "{}", None, Some(UNCONFIRMED)),
        (json(TASKS, TASK), "", None, Some(UNCONFIRMED)),
        (json(TASKS, TASK), r#"{"id":7}"#, None, Some(UNCONFIRMED)),
        (json(TASKS, TASK_GONE), DELETED, Some("delete-task 7"), None),
        (json(TASKS, TASK_GONE), "[]", None, Some(UNCONFIRMED)),
        (json(TASKS, TASK_GONE), r#"{"action":"error"}"#, None, None),
        (json(TASKS, TASK), r#"{"action":"updated","tid":8}"#, None, Some("another id")),
        (
            json(TASKS, r#"{"id":1,"action":"inserted","data":{"start_date":"2025-04-07 00:00"}}"#),
            r#"{"tid":8}"#,
            Some("add-task 8, update-task 8"),
            None,
        ),
        (json(TASKS, r#"{"id":1,"action":"inserted","data":{}}"#), r#"{"id":8}"#, None, Some(UNCONFIRMED)),
        // A task that was dragged to another place.
        (
            json(
                TASKS,
                r#"{"id":7,"action":"order","data":{"start_date":"2025-04-07 00:00","parent":0,"target":"3"}}"#,
            ),
            UPDATED,
            Some("update-task 7"),
            None,
        ),
        (
            form(TASKS, "id=7&start_date=2025-04-07 00:00&parent=0&target=3&!nativeeditor_status=order"),
            UPDATED,
            Some("update-task 7"),
            None,
        ),
        (form(LINKS, "id=7&source=1&target=2&!nativeeditor_status=updated"), UPDATED, Some("update-link 7"), None),
        (form(LINKS, "id=7&!nativeeditor_status=deleted"), DELETED, Some("delete-link 7"), None),
        (form(TASKS, "7_id=7&7_!nativeeditor_status=updated&ids=7"), UPDATED, None, Some(BATCH)),
        (form(TASKS, "7_id=7&8_id=8&ids=7,8"), r#"{"action":"inserted","tid":9}"#, None, Some(BATCH)),
    ] {
        let name = format!("{} {answered}", write.body());
        let writes = [(write.clone(), answered), (write.clone(), answered)];
        let (found, lines) = broadcast(&live(gantt()), writes).await;
        let received: Vec<_> = received.map_or_else(Vec::new, |received| received.split(", ").collect()).repeat(2);
        assert_eq!(found, received, "{name}");
        assert_eq!(lines.len(), usize::from(line.is_some()), "once for two writes: {name}: {lines:?}");
        if let Some(line) = line {
            assert!(lines[0].contains(line), "{name}: {lines:?}");
            assert!(lines[0].contains("POST /data?editing=true&gantt_mode="), "the route: {lines:?}");
        }
    }
    // With the option such answers are enough.
    let modes = || live(gantt().map(Entity::body_modes));
    let (found, lines) = broadcast(&modes(), [(json(TASKS, TASK), "{}"), (json(TASKS, TASK_GONE), "")]).await;
    assert_eq!((found, lines), (vec!["update-task 7".to_owned(), "delete-task 7".to_owned()], vec![]));
    // But not at the routes of the other modes, where back ends read no action.
    let stored = (json("/data/task?editing=true", TASK_GONE), "{}");
    let (found, lines) = broadcast(&modes(), [stored]).await;
    assert!(found.is_empty() && lines[0].contains("no usable id"), "{found:?} {lines:?}");
}

#[tokio::test]
async fn a_route_of_one_entity_is_not_that_of_another_mode() {
    let tasks = || Entity::new("tasks").payload_key("task").route(Method::POST, "/data", ChangeKind::Add).body_modes();
    let writes = [(json(TASKS, TASK), UPDATED), (json(LINKS, LINK), UPDATED), (json(LINKS, LINK), UPDATED)];
    let (found, lines) = broadcast(&live([tasks()]), writes).await;
    assert_eq!(found, ["update-task 7"]);
    assert!(lines.len() == 1 && lines[0].contains(OTHER_MODE) && lines[0].contains("POST /data"), "{lines:?}");
}

#[tokio::test]
async fn a_write_by_get_is_no_read_of_a_list_and_is_named_once_a_route() {
    let copies = Entity::new("copies").route(Method::POST, "/copies", ChangeKind::Add);
    let entities = gantt().into_iter().chain([Entity::scheduler("/events"), copies]);
    let live = live(entities);
    let get = |path| (request(Method::GET, path, FORM, ""), UPDATED);
    let writes = [
        get("/events?editing=true&id=7&text=a&!nativeeditor_status=updated"),
        get("/events?editing=true&7_id=7&7_text=a&7_!nativeeditor_status=updated&ids=7"),
        get("/data?editing=true&gantt_mode=tasks&id=7&!nativeeditor_status=deleted&dhxr1795561161877=1"),
        get("/data?editing=true&gantt_mode=links&id=7&%21nativeeditor_status=deleted"),
        get("/copies?editing=true&id=7&!nativeeditor_status=inserted"),
        get("/elsewhere?editing=true&id=7&!nativeeditor_status=inserted"),
    ];
    let (found, lines) = broadcast(&live, writes).await;
    assert!(found.is_empty(), "{found:?}");
    assert_eq!(lines.len(), 3, "{lines:?}");
    for (line, path) in lines.iter().zip(["/events", "/data", "/copies"]) {
        assert!(line.contains(&format!("GET {path}?editing=true: ")) && line.contains(GET_MODE), "{line}");
        assert!(line.contains("switch the page's DataProcessor to REST-JSON"), "{line}");
    }
}

#[tokio::test]
async fn one_entity_of_a_shared_route_is_watched_alone() {
    let live = live(gantt());
    let server = Server::new(tower::Layer::layer(
        &live.watch("links").expect("a configured entity"),
        tower::service_fn(|request: Request<RequestBody<Incoming>>| async {
            read(request).await.expect("a whole request");
            Ok::<_, std::convert::Infallible>(answer(200, UPDATED))
        }),
    ));
    server.send(json(TASKS, TASK)).await;
    assert_eq!(live.stats().changes_published, 0);
    server.send(json(LINKS, LINK)).await;
    assert_eq!(live.stats().changes_published, 1);
}
