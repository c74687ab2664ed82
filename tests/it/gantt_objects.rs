//! What pages of a Gantt are sent of each task and link: in a form that every page reads, whole, or not at all.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    future::{Ready, ready},
    sync::{Arc, Mutex},
};

use http::Method;
use serde_json::{Value, json};
use tower_live_updates::{Change, Entity, PublishError};

#[cfg(feature = "tracing")]
use crate::support::logs::Logs;
use crate::support::{
    client::wait,
    gantt::{Gantt, NOTHING, added, builder, builder_of, in_order, link, named, outlines, received_in, task},
};

/// Rows of a store, which a load hook reads.
#[derive(Clone, Default)]
struct Rows(Arc<Mutex<BTreeMap<String, Value>>>);

impl Rows {
    fn put(&self, row: &Value) {
        self.0.lock().unwrap().insert(row["id"].to_string(), row.clone());
    }

    #[expect(clippy::needless_pass_by_value, reason = "the hook's signature")]
    fn load(self, id: String) -> Ready<Result<Option<Value>, Infallible>> {
        ready(Ok(self.0.lock().unwrap().get(&id).cloned()))
    }

    fn gantt(&self) -> Gantt {
        let tasks = Entity::gantt_tasks("/data").load(self.clone(), Self::load);
        Gantt::new(builder_of(tasks, Entity::gantt_links("/data")))
    }
}

/// What a page receives of a new task with these fields.
async fn of_new(fields: Value) -> Vec<Value> {
    let gantt = Gantt::with(&[], &[]).await;
    let mut page = gantt.page().await;
    gantt.stranger().send(Method::POST, "task", &fields, 200, &json!({"action": "inserted", "tid": 5})).await;
    wait(1.6).await;
    page.values().await
}

/// An add and an update of one task, with these fields besides those that are emptied.
fn pair(add: Value, update: Value) -> Vec<Value> {
    let emptied = |mut task: Value, keys: &[&str]| {
        for key in keys {
            task[*key] = json!("");
        }
        task
    };
    let add = emptied(add, &["target", "$drop_target"]);
    let update = emptied(update, &["target", "$drop_target", "$rendered_parent"]);
    vec![json!({"type": "add-task", "task": add}), json!({"type": "update-task", "task": update})]
}

#[tokio::test(start_paused = true)]
async fn a_new_task_is_added_with_the_bare_day_and_updated_whole() {
    for (start, end, iso_start, iso_end) in [
        ("2025-04-10 09:30", "2025-04-11 18:00", "2025-04-10T09:30", "2025-04-11T18:00"),
        ("2025-04-10T07:30:00.000Z", "2025-04-11T16:00:00Z", "2025-04-10T07:30:00.000Z", "2025-04-11T16:00:00Z"),
        ("2025-04-10", "2025-04-11", "2025-04-10", "2025-04-11"),
    ] {
        let sent = json!({"text": "a", "start_date": start, "end_date": end, "duration": 1, "parent": 0});
        let expected = pair(
            json!({"id": 5, "text": "a", "start_date": "2025-04-10", "duration": 1, "parent": 0}),
            json!({"id": 5, "text": "a", "start_date": iso_start, "end_date": iso_end, "duration": 1, "parent": 0}),
        );
        assert_eq!(of_new(sent).await, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_without_a_time_is_sent_as_unscheduled() {
    for start in [json!(null), json!(""), Value::Null] {
        let mut sent = json!({"text": "a", "unscheduled": true, "parent": 0});
        if !start.is_null() {
            sent["start_date"] = start;
        }
        let update = json!({"id": 5, "text": "a", "unscheduled": true, "parent": 0});
        let mut add = update.clone();
        add["start_date"] = json!("2000-01-01");
        assert_eq!(of_new(sent).await, pair(add, update));
    }
}

#[tokio::test(start_paused = true)]
async fn where_a_drag_has_left_a_task_stays_with_its_request() {
    let gantt = Gantt::with(&[(1, 0), (2, 0)], &[]).await;
    let mut page = gantt.page().await;
    for target in ["next:1", "1", "next:null"] {
        let mut dragged = task(2, 0);
        dragged["target"] = json!(target);
        dragged["$drop_target"] = json!(target);
        dragged["$rendered_parent"] = json!("1");
        gantt.stranger().put("task", &dragged).await;
        wait(10.0).await;
        let values = page.values().await;
        assert!(!values.is_empty());
        for value in values {
            for key in ["target", "$drop_target", "$rendered_parent"] {
                assert_eq!(value["task"][key], json!(""), "{target} {value}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn dates_of_updates_are_iso_and_text_of_links_is_left_alone() {
    let gantt = Gantt::with(&[(1, 0), (2, 0)], &[(7, 1, 2)]).await;
    let mut page = gantt.page().await;
    let mut changed = task(2, 0);
    changed["deadline"] = json!("2025-05-01 10:00");
    gantt.stranger().put("task", &changed).await;
    let value = page.values().await.remove(0);
    let dates = ["start_date", "end_date", "deadline"].map(|key| value["task"][key].as_str().unwrap().to_owned());
    assert_eq!(dates, ["2025-04-10T09:00", "2025-04-11T09:00", "2025-05-01T10:00"]);
    let mut changed = link(7, 2, 1);
    changed["note"] = json!("2025-05-01 10:00");
    gantt.stranger().put("link", &changed).await;
    assert_eq!(page.values().await[1], json!({"type": "add-link", "link": changed}));
}

const PART: &str = "an update of a task needs all its fields";

#[cfg(feature = "tracing")]
#[tokio::test(start_paused = true)]
async fn an_update_of_a_part_is_completed_from_the_log_or_withheld() {
    let logs = Logs::capture();
    let gantt = Gantt::with(&[(1, 0)], &[]).await;
    let mut page = gantt.page().await;
    for part in [json!({"id": 1, "text": "new"}), json!({"id": 1, "text": "newer", "start_date": "2025-04-12"})] {
        gantt.stranger().put("task", &part).await;
        let value = page.values().await.remove(0);
        let mut whole = named(1, 0, part["text"].as_str().unwrap());
        whole["start_date"] = part.get("start_date").cloned().unwrap_or_else(|| json!("2025-04-10T09:00"));
        for key in ["text", "start_date", "duration", "parent"] {
            assert_eq!(value["task"][key], whole[key], "{value}");
        }
        wait(20.0).await;
        page.values().await;
    }
    assert_eq!(logs.lines(PART).len(), 0);
    let unpublished = gantt.live.stats().writes_unpublished;
    for (number, part) in [
        json!({"id": 2, "text": "new"}),
        json!({"id": 2, "start_date": "2025-04-12"}),
        json!({"id": 2, "parent": 1}),
        json!({"id": 3, "text": "another"}),
    ]
    .into_iter()
    .enumerate()
    {
        gantt.stranger().put("task", &part).await;
        assert_eq!(received_in(&mut page, 20.0).await, NOTHING, "{part}");
        assert_eq!(gantt.live.stats().writes_unpublished, unpublished + 1 + number as u64);
        assert_eq!(logs.lines(PART).len(), 1, "{:?}", logs.lines("WARN"));
    }
    let refused = gantt.live.publish("tasks", Change::update(&json!({"id": 2, "text": "a"})).unwrap()).unwrap_err();
    assert!(matches!(&refused, PublishError::BreaksPages { reason, .. } if reason.contains(PART)), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn an_update_of_a_part_is_completed_by_the_load_hook() {
    let rows = Rows::default();
    let gantt = rows.gantt().having(&[], &[]).await;
    let mut page = gantt.page().await;
    rows.put(&named(1, 0, "stored"));
    gantt.stranger().put("task", &json!({"id": 1, "text": "sent"})).await;
    let values = page.values().await;
    assert_eq!(outlines(&values), ["update-task 1"]);
    assert_eq!((&values[0]["task"]["text"], &values[0]["task"]["parent"]), (&json!("stored"), &json!(0)));
}

#[tokio::test(start_paused = true)]
async fn no_update_follows_a_deletion() {
    for update in [named(1, 0, "late"), json!({"id": 1, "text": "late"})] {
        let gantt = Gantt::with(&[(1, 0), (2, 0)], &[(7, 1, 2)]).await;
        let mut page = gantt.page().await;
        gantt.stranger().delete("task", 1).await;
        wait(20.0).await;
        page.values().await;
        gantt.stranger().put("task", &update).await;
        let received = received_in(&mut page, 20.0).await;
        assert!(!received.contains(&"update-task 1".to_owned()), "an error box on each page: {received:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_deleted_task_that_is_there_again_is_sent_as_an_add_and_an_update() {
    let rows = Rows::default();
    let gantt = rows.gantt().having(&[(1, 0), (2, 0)], &[]).await;
    let mut page = gantt.page().await;
    gantt.stranger().delete("task", 1).await;
    wait(20.0).await;
    page.values().await;
    rows.put(&named(1, 0, "restored"));
    gantt.stranger().put("task", &named(1, 0, "restored")).await;
    let received = received_in(&mut page, 20.0).await;
    assert!(received.starts_with(&added(1)), "an update alone shows an error box: {received:?}");
}

/// What makes pages throw, hang or show something else, with the words of the log's line.
fn never_sent() -> Vec<(Method, &'static str, Value, Value, &'static str)> {
    const NO_DAY: &str = "an added task needs start_date as text";
    const DATE: &str = "a date of a task must be ISO 8601";
    let (inserted, updated) = (json!({"action": "inserted", "tid": 5}), json!({"action": "updated"}));
    let mut rows = Vec::new();
    for (start, line) in [
        (None, NO_DAY),
        (Some(json!(null)), NO_DAY),
        (Some(json!(1_745_226_000)), NO_DAY),
        (Some(json!({})), NO_DAY),
        (Some(json!("")), NO_DAY),
        (Some(json!("10-04-2025 00:00")), NO_DAY),
        (Some(json!("tomorrow")), NO_DAY),
    ] {
        let mut new = json!({"text": "a", "duration": 1, "parent": 0});
        if let Some(start) = start {
            new["start_date"] = start;
        }
        rows.push((Method::POST, "task", new, inserted.clone(), line));
    }
    let with = |key: &str, value: Value| {
        let mut task = task(1, 0);
        task[key] = value;
        task
    };
    rows.push((Method::POST, "task", with("end_date", json!("soon")), inserted.clone(), DATE));
    rows.push((Method::POST, "task", with("deadline", json!(5)), inserted.clone(), DATE));
    for date in [json!(null), json!("soon"), json!(5), json!("10-04-2025 00:00"), json!("")] {
        rows.push((Method::PUT, "task/1", with("start_date", date), updated.clone(), DATE));
    }
    rows.push((Method::PUT, "task/1", with("end_date", json!("soon")), updated.clone(), DATE));
    rows.push((Method::PUT, "task/1", with("parent", json!(1)), updated.clone(), "a task is its own parent"));
    rows.push((Method::PUT, "task/1", with("parent", json!("1")), updated, "a task is its own parent"));
    rows.push((
        Method::POST,
        "link",
        json!({"source": 1, "type": "0"}),
        inserted.clone(),
        "an added link needs source",
    ));
    rows.push((Method::POST, "link", json!({"source": "", "target": 1}), inserted, "an added link needs source"));
    let object_id = json!({"action": "inserted", "tid": {"a": 1}});
    rows.push((Method::POST, "task", task(1, 0), object_id.clone(), "the answer holds no usable id"));
    rows.push((Method::POST, "link", link(1, 1, 2), object_id, "the answer holds no usable id"));
    rows
}

#[cfg(feature = "tracing")]
#[tokio::test(start_paused = true)]
async fn what_would_break_pages_is_not_sent_and_the_log_says_why_once() {
    for (method, path, body, answer, line) in never_sent() {
        let logs = Logs::capture();
        let gantt = Gantt::with(&[(1, 0), (2, 0)], &[]).await;
        let mut page = gantt.page().await;
        for number in 1..=3 {
            assert_eq!(
                gantt.stranger().send(method.clone(), path, &body, 200, &answer).await,
                200,
                "the application's"
            );
            assert_eq!(gantt.live.stats().writes_unpublished, number, "{method} {path} {body}");
        }
        assert_eq!(received_in(&mut page, 100.0).await, NOTHING, "{method} {path} {body}");
        assert_eq!(logs.lines(line).len(), 1, "{method} {path} {body}: {:?}", logs.lines("WARN"));
    }
}

#[test]
fn nor_is_it_published_by_hand() {
    let live = builder().build().unwrap();
    for (method, path, mut object, answer, _) in never_sent() {
        object["id"] = answer["tid"].as_u64().map_or_else(|| json!(1), Value::from);
        if answer["tid"].is_object() {
            object["id"] = answer["tid"].clone();
        }
        let change = if method == Method::POST { Change::add(&object) } else { Change::update(&object) };
        let name = if path.starts_with("link") { "links" } else { "tasks" };
        match change {
            Err(_) => assert!(object["id"].is_object(), "{object}"),
            Ok(change) => {
                let refused = live.publish(name, change).unwrap_err();
                assert!(matches!(refused, PublishError::BreaksPages { .. }), "{object}: {refused}");
            }
        }
    }
}

#[cfg(feature = "tracing")]
#[tokio::test(start_paused = true)]
async fn a_ring_is_never_sent() {
    let logs = Logs::capture();
    let gantt = Gantt::with(&[(1, 0), (2, 1), (3, 2)], &[]).await;
    let mut page = gantt.page().await;
    for number in 1..=2 {
        gantt.stranger().put("task", &task(1, 3)).await;
        assert_eq!(received_in(&mut page, 100.0).await, NOTHING, "{number}: it makes the page hang");
        assert_eq!(logs.lines("below itself").len(), 1, "{:?}", logs.lines("WARN"));
    }
    // Nor does a page receive it that comes later, or anything else that closes it.
    let mut comes = gantt.client("demo").await;
    assert_eq!(received_in(&mut comes, 100.0).await, NOTHING);
    gantt.stranger().put("task", &named(3, 2, "of the ring")).await;
    let received = received_in(&mut page, 100.0).await;
    assert!(!received.contains(&"update-task 1".to_owned()), "{received:?}");
}

#[tokio::test(start_paused = true)]
async fn a_ring_that_is_opened_again_is_sent_open() {
    let gantt = Gantt::with(&[(1, 0), (2, 1), (3, 2)], &[]).await;
    let mut page = gantt.page().await;
    let writer = gantt.stranger();
    writer.put("task", &task(1, 3)).await;
    wait(0.5).await;
    writer.put("task", &task(2, 0)).await;
    let received = received_in(&mut page, 20.0).await;
    let first = |message: &str| received.iter().position(|it| it == message);
    assert!(first("update-task 2") < first("update-task 1") && first("update-task 2").is_some(), "{received:?}");
}

#[cfg(feature = "tracing")]
#[tokio::test(start_paused = true)]
async fn a_link_to_a_task_that_is_gone_is_not_sent() {
    let logs = Logs::capture();
    let gantt = Gantt::with(&[(1, 0), (2, 0), (3, 0)], &[(7, 1, 2)]).await;
    let mut page = gantt.page().await;
    gantt.stranger().delete("task", 3).await;
    wait(20.0).await;
    page.values().await;
    for _ in 0..2 {
        gantt.stranger().put("link", &link(7, 1, 3)).await;
        let received = received_in(&mut page, 20.0).await;
        assert!(!received.iter().any(|it| it.ends_with("link 7")), "it throws: {received:?}");
    }
    assert_eq!(logs.lines("is stored and not broadcast").len(), 1, "{:?}", logs.lines("WARN"));
}

#[tokio::test(start_paused = true)]
async fn a_deleted_task_takes_its_children_and_their_links_along() {
    let tasks = [(1, 0), (2, 1), (3, 2), (4, 0), (5, 0)];
    let gantt = Gantt::with(&tasks, &[(6, 1, 4), (7, 3, 4), (8, 4, 2), (9, 4, 5)]).await;
    let mut page = gantt.page().await;
    gantt.stranger().delete("task", 1).await;
    let received = received_in(&mut page, 1.6).await;
    in_order(&received, &["delete-task 3", "delete-task 2", "delete-task 1"]);
    for link in [6, 7, 8] {
        assert_eq!(received.iter().filter(|it| **it == format!("delete-link {link}")).count(), 2, "{received:?}");
    }
    let others = ["task 4", "task 5", "link 9"];
    assert!(!received.iter().any(|it| others.iter().any(|other| it.ends_with(other))), "{received:?}");
}

#[tokio::test(start_paused = true)]
async fn what_the_log_does_not_know_of_a_cascade_is_published_to_the_other_entity() {
    let gantt = Gantt::with(&[], &[]).await;
    let mut page = gantt.page().await;
    gantt.handle(|write| {
        write.publish_to("links", Change::delete(7).unwrap());
        write.publish_to("links", Change::add(&link(8, 1, 2)).unwrap());
        write.publish_to("tasks", Change::delete(2).unwrap());
    });
    gantt.stranger().delete("task", 1).await;
    let received = received_in(&mut page, 1.7).await;
    in_order(&received, &["delete-task 2"]);
    in_order(&received, &["delete-task 1", "add-link 8"]);
    assert_eq!(received.iter().filter(|it| *it == "delete-link 7").count(), 2, "{received:?}");
    gantt.handle(|write| write.publish_to("links", Change::delete(9).unwrap()));
    gantt.stranger().send(Method::DELETE, "task/3", &Value::Null, 404, &json!({})).await;
    let received = received_in(&mut page, 20.0).await;
    assert!(!received.contains(&"delete-link 9".to_owned()), "a refused write publishes nothing: {received:?}");
}

#[cfg(feature = "tracing")]
#[tokio::test(start_paused = true)]
async fn an_entity_that_is_not_configured_is_named_in_the_log() {
    let logs = Logs::capture();
    let gantt = Gantt::with(&[(1, 0)], &[]).await;
    let mut page = gantt.page().await;
    gantt.handle(|write| write.publish_to("lines", Change::delete(7).unwrap()));
    for number in 1..=2 {
        gantt.stranger().put("task", &named(1, 0, "new")).await;
        assert_eq!(gantt.live.stats().writes_unpublished, number);
        assert_eq!(logs.lines(r#"there is no entity "lines""#).len(), 1, "{:?}", logs.lines("WARN"));
    }
    assert_eq!(received_in(&mut page, 0.1).await, ["update-task 1", "update-task 1"], "the write itself is published");
}

#[tokio::test(start_paused = true)]
async fn a_refused_save_makes_its_task_be_sent_as_it_is() {
    let (error, invalid) = (json!({"action": "error"}), json!({"action": "invalid"}));
    for (status, answer) in
        [(409, &error), (422, &json!({})), (404, &json!({})), (400, &error), (200, &error), (200, &invalid)]
    {
        let rows = Rows::default();
        rows.put(&named(2, 1, "stored"));
        // What the log holds, and what a hook reads.
        for (gantt, text) in [(Gantt::new(builder()), "a task"), (rows.gantt(), "stored")] {
            let gantt = gantt.having(&[(1, 0), (2, 1)], &[]).await;
            let mut page = gantt.page().await;
            let answered = gantt.stranger().send(Method::PUT, "task/2", &named(2, 0, "wanted"), status, answer).await;
            assert_eq!(answered, status, "the answer is left alone");
            wait(20.0).await;
            let values = page.values().await;
            assert!(outlines(&values).contains(&"update-task 2".to_owned()), "{status} {answer} {values:?}");
            for value in &values {
                assert_eq!((&value["task"]["text"], &value["task"]["parent"]), (&json!(text), &json!(1)), "{value}");
            }
            assert_eq!(gantt.live.stats().writes_unpublished, 0);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_save_that_is_refused_for_its_sender_is_answered_by_nothing() {
    for status in [401, 403, 429] {
        let gantt = Gantt::with(&[(1, 0)], &[]).await;
        let mut page = gantt.page().await;
        gantt.stranger().send(Method::PUT, "task/1", &named(1, 0, "wanted"), status, &json!({})).await;
        gantt.stranger().send(Method::POST, "task", &named(5, 0, "wanted"), 409, &json!({})).await;
        gantt.stranger().send(Method::PUT, "task/99", &named(99, 0, "unknown"), 409, &json!({})).await;
        assert_eq!(received_in(&mut page, 100.0).await, NOTHING, "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_move_below_a_task_whose_own_move_was_refused_waits() {
    // The page that was refused shows 1 below 2 until it receives where 1 is.
    let gantt = Gantt::with(&[(1, 0), (2, 0)], &[]).await;
    let mut page = gantt.page().await;
    gantt.stranger().send(Method::PUT, "task/1", &task(1, 2), 409, &json!({})).await;
    gantt.stranger().put("task", &task(2, 1)).await;
    let received = received_in(&mut page, 1.7).await;
    assert_eq!(received, ["update-task 1"]);
    in_order(&received_in(&mut page, 3.0).await, &["update-task 1", "update-task 2"]);
}
