//! What the store makes of the writes of pages.

use serde_json::{Value, json};

use super::{
    dates::Dates,
    store::{Chart, Deleted},
};
use crate::{
    database::{Database, Error},
    row::Row,
};

fn chart() -> Chart {
    Chart::open(Database::open(None).unwrap(), Dates::Iso).unwrap()
}

fn row(value: &Value) -> Row {
    Row::from_json(value.to_string().as_bytes()).unwrap()
}

async fn add(chart: &Chart, text: &str, parent: &str) -> String {
    let task = json!({ "text": text, "start_date": "2025-04-10", "duration": 1, "parent": parent });
    chart.create_task(row(&task)).await.unwrap().0
}

async fn update(chart: &Chart, id: &str, changes: Value) -> Result<Row, Error> {
    chart.update_task(id, row(&changes)).await.map(|changed| changed.task)
}

async fn link(chart: &Chart, source: &str, target: &str) -> Result<String, Error> {
    chart.create_link(row(&json!({ "source": source, "target": target, "type": "0" }))).await.map(|(id, _)| id)
}

/// What pages load, as JSON.
async fn contents(chart: &Chart) -> Value {
    serde_json::to_value(chart.contents().await.unwrap()).unwrap()
}

/// The tasks in their order, each with the name of its parent in front.
async fn tree(chart: &Chart) -> Vec<String> {
    let contents = contents(chart).await;
    let tasks = contents["tasks"].as_array().unwrap();
    let name =
        |id: &Value| tasks.iter().find(|task| task["id"] == *id).map_or("", |task| task["text"].as_str().unwrap());
    tasks.iter().map(|task| format!("{}/{}", name(&task["parent"]), name(&task["id"]))).collect()
}

#[tokio::test]
async fn a_task_keeps_its_parent_where_the_new_one_is_not_there() {
    let chart = chart();
    let (a, b) = (add(&chart, "a", "0").await, add(&chart, "b", "1795561158119").await);
    assert_eq!(tree(&chart).await, ["/a", "/b"], "a new task under nothing is a root");
    update(&chart, &b, json!({ "parent": a })).await.unwrap();
    update(&chart, &b, json!({ "parent": 1_795_561_158_119_i64, "text": "c" })).await.unwrap();
    assert_eq!(tree(&chart).await, ["/a", "a/c"]);
    update(&chart, &b, json!({ "parent": 0 })).await.unwrap();
    assert_eq!(tree(&chart).await, ["/a", "/c"]);
}

#[tokio::test]
async fn rings_are_refused_and_change_nothing() {
    let chart = chart();
    let a = add(&chart, "a", "0").await;
    let b = add(&chart, "b", &a).await;
    let c = add(&chart, "c", &b).await;
    for parent in [&a, &b, &c] {
        let refused = update(&chart, &a, json!({ "parent": parent, "text": "ring" })).await;
        assert!(matches!(refused, Err(Error::Conflict(_))), "{refused:?}");
    }
    assert_eq!(tree(&chart).await, ["/a", "a/b", "b/c"]);
}

#[tokio::test]
async fn siblings_stand_where_they_were_dragged_to() {
    let chart = chart();
    let (a, b, c) = (add(&chart, "a", "0").await, add(&chart, "b", "0").await, add(&chart, "c", "0").await);
    for (task, target, expected) in [
        (&c, a.clone(), ["/c", "/a", "/b"]),
        (&c, format!("next:{a}"), ["/a", "/c", "/b"]),
        (&a, format!("next:{b}"), ["/c", "/b", "/a"]),
        (&c, "next:null".to_owned(), ["/b", "/a", "/c"]),
        // What is not there, or the task itself, moves nothing.
        (&b, "7".to_owned(), ["/b", "/a", "/c"]),
        (&b, format!("next:{b}"), ["/b", "/a", "/c"]),
        (&b, String::new(), ["/b", "/a", "/c"]),
    ] {
        let task = update(&chart, task, json!({ "target": target })).await.unwrap();
        assert!(task.get("target").is_none());
        assert_eq!(tree(&chart).await, expected, "{target}");
    }
}

#[tokio::test]
async fn siblings_are_numbered_from_0_whatever_happens_to_one_of_them() {
    let chart = chart();
    let mut tasks = Vec::new();
    for name in ["a", "b", "c", "d"] {
        tasks.push(add(&chart, name, "0").await);
    }
    let [a, b, c, d] = &tasks[..] else { unreachable!() };
    let numbers = |siblings: Vec<Row>| -> Vec<(String, i64)> {
        let mut numbers: Vec<_> = siblings
            .iter()
            .map(|row| (row.text("id").unwrap(), row.text("sortorder").unwrap().parse().unwrap()))
            .collect();
        numbers.sort();
        numbers
    };
    for (task, change, own, others) in [
        (d, json!({ "target": b }), 1, vec![(b, 2), (c, 3)]),
        (a, json!({ "target": format!("next:{c}") }), 3, vec![(b, 1), (c, 2), (d, 0)]),
        (b, json!({ "parent": d }), 0, vec![(a, 2), (c, 1)]),
        (b, json!({ "text": "b" }), 0, vec![]),
        (b, json!({ "parent": 0, "target": "next:null" }), 3, vec![]),
        (b, json!({ "parent": c }), 0, vec![]),
    ] {
        let changed = chart.update_task(task, row(&change)).await.unwrap();
        assert_eq!(changed.task.text("sortorder"), Some(own.to_string()), "{change}");
        let expected: Vec<_> = others.into_iter().map(|(id, number)| (id.clone(), number)).collect();
        assert_eq!(numbers(changed.siblings), expected, "{change}");
    }
    let deleted = chart.delete_task(d).await.unwrap().unwrap();
    assert_eq!(numbers(deleted.siblings), [(a.clone(), 1), (c.clone(), 0)]);
    assert_eq!(tree(&chart).await, ["/c", "/a", "c/b"]);
}

#[tokio::test]
async fn a_deleted_task_takes_along_what_hangs_below_and_all_their_links() {
    let chart = chart();
    let (a, other) = (add(&chart, "a", "0").await, add(&chart, "other", "0").await);
    let b = add(&chart, "b", &a).await;
    let c = add(&chart, "c", &b).await;
    let mut links = Vec::new();
    for (source, target) in [(&a, &other), (&other, &c), (&b, &c)] {
        links.push(link(&chart, source, target).await.unwrap());
    }
    let Deleted { tasks, links: mut deleted, .. } = chart.delete_task(&a).await.unwrap().unwrap();
    assert_eq!(tasks, [c.clone(), b], "the lowest first");
    deleted.sort();
    assert_eq!(deleted, links);
    assert_eq!(tree(&chart).await, ["/other"]);
    assert_eq!(contents(&chart).await["links"], json!([]));
    assert!(chart.delete_task(&c).await.unwrap().is_none(), "it is gone already");
    assert!(!chart.delete_link(&links[0]).await.unwrap());
    let snapshot = format!("{:?}", chart.tasks_snapshot().await.unwrap());
    assert!(snapshot.contains(&a) && snapshot.contains(&c), "deletions are remembered: {snapshot}");
}

#[tokio::test]
async fn a_link_needs_two_tasks_that_are_there() {
    let chart = chart();
    let (a, b) = (add(&chart, "a", "0").await, add(&chart, "b", "0").await);
    for (source, target) in [(&*a, "1795561158119"), ("1795561158119", &b), (&a, &a)] {
        assert!(matches!(link(&chart, source, target).await, Err(Error::Conflict(_))), "{source} {target}");
    }
    let id = link(&chart, &a, &b).await.unwrap();
    let changed = chart.update_link(&id, row(&json!({ "type": "1" }))).await.unwrap();
    let expected = json!({ "id": id, "source": a, "target": b, "type": "1" });
    assert_eq!(serde_json::to_value(changed).unwrap(), expected, "fields that are not named are kept");
}

#[tokio::test]
async fn a_task_that_pages_could_not_show_is_refused() {
    let chart = chart();
    for task in [
        json!({ "text": "no day" }),
        json!({ "text": "a number", "start_date": 17 }),
        json!({ "text": "no date", "start_date": "tomorrow" }),
        json!({ "text": "no end", "start_date": "2025-04-10", "end_date": "2025-04-31" }),
        json!({ "text": "no number", "start_date": "2025-04-10", "duration": "long" }),
    ] {
        let refused = chart.create_task(row(&task)).await;
        assert!(matches!(refused, Err(Error::Invalid(_))), "{task}: {refused:?}");
    }
    chart.create_task(row(&json!({ "text": "some day", "unscheduled": true }))).await.unwrap();
}

#[tokio::test]
async fn form_encoded_text_becomes_what_it_stands_for_and_other_fields_stay_as_they_are() {
    let chart = chart();
    let form =
        b"text=a%26b&start_date=2025-04-10%2000%3A00&duration=3&progress=0.5&open=false&x=1&parent=0&$y=1&target=7";
    let (id, task) = chart.create_task(Row::from_form(form).unwrap()).await.unwrap();
    let expected = json!({
        "id": id, "text": "a&b", "start_date": "2025-04-10T00:00:00.000Z", "duration": 3, "progress": 0.5, "open": false,
        "x": "1", "parent": 0, "sortorder": 0,
    });
    assert_eq!(serde_json::to_value(task).unwrap(), expected);
}
