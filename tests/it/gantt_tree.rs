//! The order in which pages of a Gantt are sent its tree again, and what is sent again: each parent before its children,
//! deletions behind all, links afresh.

use serde_json::{Value, json};
use tower_live_updates::{Change, Entity, Snapshot};

use crate::support::{
    TOKEN,
    client::{Client, Tab, Transport, wait},
    gantt::{Gantt, NOTHING, added, builder_of, in_order, link, named, open, outlines, place, received_in, task},
};

/// A page that is away while something happens, and what it receives when it comes back.
async fn away(gantt: &Gantt, happens: impl AsyncFnOnce(&Gantt)) -> (Tab, Vec<Value>) {
    let client = Client::load_with(&gantt.server, Transport::AnyStream, TOKEN).await;
    let mut page = open(&client).await;
    wait(300.0).await;
    page.values().await;
    page.cut(&gantt.live).await;
    wait(20.0).await;
    happens(gantt).await;
    wait(60.0).await;
    let mut page = open(&client).await;
    // The second time is later.
    wait(4.0).await;
    let values = page.values().await;
    (page, values)
}

#[tokio::test(start_paused = true)]
async fn a_replay_has_each_parent_before_its_children_and_deletions_behind_all() {
    let gantt = Gantt::with(&[(1, 0), (2, 0), (3, 0), (4, 0), (8, 0)], &[]).await;
    let (mut page, values) = away(&gantt, async |gantt| {
        // Of the parents something newer is known than of their children.
        for change in [
            Change::delete(8).unwrap(),
            Change::update(&task(4, 3)).unwrap(),
            Change::add(&task(5, 4)).unwrap(),
            Change::update(&task(3, 2)).unwrap(),
            Change::update(&named(2, 1, "newer")).unwrap(),
            Change::update(&named(4, 3, "newer")).unwrap(),
            Change::update(&named(1, 0, "newest")).unwrap(),
        ] {
            gantt.publish(change);
            wait(20.0).await;
        }
    })
    .await;
    let received = outlines(&values);
    in_order(&received, &["update-task 1", "update-task 2", "update-task 3", "update-task 4", "update-task 5"]);
    in_order(&received, &["add-task 4", "add-task 5", "delete-task 8"]);
    assert_eq!(place(&received, "delete-task 8"), received.len() - 1, "{received:?}");
    let again = received_in(&mut page, 20.0).await;
    in_order(&again, &["update-task 1", "update-task 2", "update-task 3", "update-task 4", "update-task 5"]);
    assert_eq!(again.last().map(String::as_str), Some("delete-task 8"));
}

#[tokio::test(start_paused = true)]
async fn so_has_a_replay_of_several_pieces() {
    let gantt = Gantt::with(&[(1, 0), (2, 0), (3, 0)], &[]).await;
    let large = "x".repeat(12_000);
    let (mut page, values) = away(&gantt, async |gantt| {
        gantt.publish(Change::delete(3).unwrap());
        for number in 0..40 {
            gantt.publish(Change::add(&named(100 + number, 2, &large)).unwrap());
        }
        wait(20.0).await;
        gantt.publish(Change::update(&named(2, 1, "below")).unwrap());
        wait(20.0).await;
        gantt.publish(Change::update(&named(1, 0, "newest")).unwrap());
    })
    .await;
    let mut received = outlines(&values);
    received.extend(received_in(&mut page, 0.9).await);
    for number in 0..40 {
        let child = format!("add-task {}", 100 + number);
        let before = received.iter().position(|it| *it == child).unwrap_or_else(|| panic!("{child}: {received:?}"));
        for parent in ["update-task 1", "update-task 2"] {
            let parent = received.iter().position(|it| it == parent).expect("the parent");
            assert!(parent < before, "{child}: {received:?}");
        }
    }
    let gone = received.iter().position(|it| it == "delete-task 3").expect("the deletion");
    assert!(received[gone..].iter().all(|it| !it.starts_with("add")), "{received:?}");
}

#[tokio::test(start_paused = true)]
async fn so_have_the_rows_of_the_store() {
    let rows: Vec<Value> =
        [(4, 3), (3, 2), (9, 9), (2, 1), (5, 0), (1, 0), (6, 77)].map(|(id, parent)| task(id, parent)).into();
    let tasks = Entity::gantt_tasks("/data")
        .snapshot(rows, async |rows, _| Ok::<_, std::convert::Infallible>(Snapshot::new(rows)));
    let gantt = Gantt::new(builder_of(tasks, Entity::gantt_links("/data"))).having(&[], &[]).await;
    let mut page = gantt.page().await;
    gantt.live.refresh("tasks").unwrap();
    let received = received_in(&mut page, 1.0).await;
    in_order(&received, &["update-task 1", "update-task 2", "update-task 3", "update-task 4"]);
    for id in [5, 6] {
        in_order(&received, &[&format!("add-task {id}"), &format!("update-task {id}")]);
    }
    assert!(!received.contains(&"update-task 9".to_owned()), "its own parent: {received:?}");
}

#[tokio::test(start_paused = true)]
async fn so_has_what_is_sent_again_after_writes_close_together() {
    let gantt = Gantt::with(&[(1, 0), (2, 0), (3, 2), (8, 0)], &[(7, 1, 2)]).await;
    let mut page = gantt.page().await;
    let writer = gantt.stranger();
    writer.put("task", &named(3, 2, "a")).await;
    writer.delete("task", 8).await;
    writer.put("task", &named(2, 1, "b")).await;
    writer.put("task", &named(1, 0, "c")).await;
    writer.put("link", &link(7, 2, 3)).await;
    wait(1.9).await;
    page.values().await;
    let received = received_in(&mut page, 1.0).await;
    in_order(&received, &["update-task 1", "update-task 2", "update-task 3", "delete-task 8"]);
    in_order(&received, &["delete-link 7", "add-link 7"]);
}

#[tokio::test(start_paused = true)]
async fn a_link_is_sent_again_as_a_deletion_and_an_add_and_its_deletion_leaves_no_remainder() {
    let gantt = Gantt::with(&[(1, 0), (2, 0)], &[(7, 1, 2), (8, 1, 2)]).await;
    let (_, values) = away(&gantt, async |gantt| {
        gantt.live.publish("links", Change::update(&link(7, 2, 1)).unwrap()).unwrap();
        gantt.live.publish("links", Change::delete(8).unwrap()).unwrap();
    })
    .await;
    let gone = json!({"type": "delete-link", "link": {"id": "8"}});
    let expected = [
        json!({"type": "delete-link", "link": {"id": 7}}),
        json!({"type": "add-link", "link": link(7, 2, 1)}),
        gone.clone(),
        json!({"type": "add-link", "link": {"id": "8"}}),
        gone,
    ];
    assert_eq!(values, expected);
}

/// A deletion would take along what hangs below it, on this page alone.
#[tokio::test(start_paused = true)]
async fn no_task_is_deleted_to_be_sent_again() {
    let gantt = Gantt::with(&[(1, 0), (2, 1)], &[]).await;
    let mut page = gantt.page().await;
    let writer = gantt.stranger();
    writer.post("task", &task(5, 0)).await;
    writer.post("task", &task(6, 5)).await;
    writer.put("task", &task(1, 6)).await;
    wait(1.7).await;
    page.values().await;
    let received = received_in(&mut page, 3.0).await;
    in_order(&received, &["update-task 5", "update-task 6", "update-task 1"]);
    assert_eq!(received, [added(5), added(6), added(1)].concat());
}

#[tokio::test(start_paused = true)]
async fn a_link_that_is_saved_makes_tasks_be_sent_again() {
    let gantt = Gantt::with(&[(1, 0), (2, 0)], &[(7, 1, 2)]).await;
    let mut page = gantt.page().await;
    let writer = gantt.writer(TOKEN);
    for (link_after, is_again) in [(1.0, true), (6.0, false)] {
        writer.put("task", &named(1, 0, "a")).await;
        assert_eq!(received_in(&mut page, link_after).await, ["update-task 1"]);
        writer.put("link", &link(7, 2, 1)).await;
        assert_eq!(received_in(&mut page, 1.0).await, ["delete-link 7", "add-link 7"]);
        let received = received_in(&mut page, 20.0).await;
        let expected: &[&str] = if is_again {
            // A page that has lost it gets it back.
            &["add-task 1", "update-task 1", "delete-link 7", "add-link 7"]
        } else {
            &NOTHING
        };
        assert_eq!(received, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_is_sent_again_with_an_empty_place_which_heals_a_page_that_has_lost_it() {
    let gantt = Gantt::with(&[(1, 0), (2, 1)], &[]).await;
    let (_, values) = away(&gantt, async |gantt| gantt.publish(Change::update(&named(2, 1, "b")).unwrap())).await;
    assert_eq!(outlines(&values), added(2));
    assert_eq!(values[1]["task"]["$rendered_parent"], json!(""));
    assert_eq!(values[0]["task"].get("$rendered_parent"), None, "an add stands where it belongs");
}
