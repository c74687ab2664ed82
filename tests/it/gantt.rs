//! Changes of a Gantt that are held: the stock client cannot tell its own new object from another page's before its save
//! is answered, and loses what hangs below a task whose parent it does not have.

use std::time::Duration;

use http::Method;
use serde_json::json;
use tower_live_updates::{Change, Entity};

use crate::support::{
    TOKEN,
    client::{Client, Transport, wait},
    gantt::{
        Gantt, NOTHING, OTHER, Writer, added, builder, builder_of, in_order, link, named, open, outlines, received_in,
        task,
    },
};

#[tokio::test(start_paused = true)]
async fn a_new_task_is_held_from_its_writers_pages_until_its_answer_has_long_left() {
    let gantt = Gantt::with(&[], &[]).await;
    let (mut own, mut others) = (gantt.page().await, gantt.page_of(OTHER).await);
    gantt.writer(TOKEN).post("task", &task(5, 0)).await;
    assert_eq!(received_in(&mut others, 0.0).await, added(5), "they cannot be saving it");
    assert_eq!(received_in(&mut own, 1.4).await, NOTHING);
    assert_eq!(received_in(&mut own, 0.2).await, added(5));
    assert_eq!(received_in(&mut others, 0.0).await, NOTHING, "they have it");
    assert_eq!(received_in(&mut own, 100.0).await, NOTHING);
}

#[tokio::test(start_paused = true)]
async fn so_is_a_new_link() {
    let gantt = Gantt::with(&[(1, 0), (2, 0)], &[]).await;
    let (mut own, mut others) = (gantt.page().await, gantt.page_of(OTHER).await);
    gantt.writer(TOKEN).post("link", &link(7, 1, 2)).await;
    assert_eq!(received_in(&mut others, 0.0).await, ["add-link 7"]);
    assert_eq!(received_in(&mut own, 1.4).await, NOTHING);
    assert_eq!(received_in(&mut own, 0.2).await, ["add-link 7"]);
    assert_eq!(received_in(&mut others, 0.0).await, NOTHING);
}

#[tokio::test(start_paused = true)]
async fn a_new_task_of_an_unknown_page_is_held_from_all() {
    let gantt = Gantt::with(&[], &[]).await;
    let mut pages = [gantt.page().await, gantt.page_of(OTHER).await];
    for (at, writer) in [gantt.stranger(), gantt.writer("a token of no page")].into_iter().enumerate() {
        let id = 5 + u32::try_from(at).unwrap();
        writer.post("task", &task(id, 0)).await;
        wait(1.4).await;
        for page in &mut pages {
            assert_eq!(received_in(page, 0.0).await, NOTHING);
        }
        wait(0.2).await;
        for page in &mut pages {
            assert_eq!(received_in(page, 0.0).await, added(id));
        }
        wait(20.0).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_delay_begins_with_the_answer() {
    // An answer that is read to its end before it goes on: it is put into the form of widgets.
    let tasks = Entity::gantt_tasks("/data").widget_answers();
    let gantt = Gantt::new(builder_of(tasks, Entity::gantt_links("/data"))).having(&[], &[]).await;
    let mut page = gantt.page().await;
    gantt.handle(|write| write.publish(Change::add(&task(5, 0)).unwrap()));
    let writer = gantt.stranger().waiting_in_its_answers();
    let answer = json!({"id": 5});
    let write = async move |writer: Writer| writer.send(Method::POST, "task", &task(5, 0), 201, &answer).await;
    let write = writer.begin(write).await;
    assert_eq!(received_in(&mut page, 4.0).await, NOTHING, "its answer is on its way");
    gantt.let_go();
    assert_eq!(write.await.unwrap(), 200);
    assert_eq!(received_in(&mut page, 1.4).await, NOTHING);
    assert_eq!(received_in(&mut page, 0.2).await, added(5));
}

#[tokio::test(start_paused = true)]
async fn the_delay_is_a_setting() {
    let gantt = Gantt::new(builder().tree_delay(Duration::from_secs(7))).having(&[], &[]).await;
    let mut page = gantt.page().await;
    gantt.stranger().post("task", &task(5, 0)).await;
    assert_eq!(received_in(&mut page, 6.9).await, NOTHING);
    assert_eq!(received_in(&mut page, 0.2).await, added(5));
}

#[tokio::test(start_paused = true)]
async fn a_page_that_comes_meanwhile_receives_a_held_task_when_others_do() {
    let gantt = Gantt::with(&[(1, 0)], &[]).await;
    let mut page = gantt.page().await;
    gantt.stranger().post("task", &task(5, 1)).await;
    gantt.publish(Change::update(&named(1, 0, "new")).unwrap());
    assert_eq!(received_in(&mut page, 0.5).await, ["update-task 1"]);
    let mut comes = gantt.client(TOKEN).await;
    assert_eq!(received_in(&mut comes, 0.9).await, ["add-task 1", "update-task 1"], "its replay leaves it out");
    assert_eq!(received_in(&mut comes, 0.2).await, added(5));
    assert_eq!(received_in(&mut page, 0.0).await, added(5));
}

#[tokio::test(start_paused = true)]
async fn so_does_a_page_that_comes_back() {
    let gantt = Gantt::with(&[(1, 0)], &[]).await;
    let client = Client::load_with(&gantt.server, Transport::AnyStream, TOKEN).await;
    let mut page = open(&client).await;
    wait(300.0).await;
    outlines(&page.values().await);
    page.cut(&gantt.live).await;
    wait(20.0).await;
    gantt.writer(TOKEN).post("task", &task(5, 1)).await;
    let mut page = open(&client).await;
    assert_eq!(received_in(&mut page, 1.4).await, NOTHING);
    assert_eq!(received_in(&mut page, 0.2).await, added(5));
}

#[tokio::test(start_paused = true)]
async fn what_names_a_held_task_waits_behind_it_and_comes_parents_first() {
    let gantt = Gantt::with(&[(1, 0)], &[]).await;
    let mut page = gantt.page().await;
    let writer = gantt.stranger();
    writer.post("task", &task(5, 1)).await;
    wait(0.5).await;
    writer.post("link", &link(7, 1, 6)).await;
    writer.post("task", &task(6, 5)).await;
    writer.put("link", &link(7, 5, 6)).await;
    writer.put("task", &named(5, 1, "renamed")).await;
    assert_eq!(received_in(&mut page, 0.9).await, NOTHING);
    wait(0.2).await;
    let values = page.values().await;
    assert_eq!(outlines(&values), added(5), "the newest state, once");
    assert_eq!(values[0]["task"]["text"], "renamed");
    assert_eq!(received_in(&mut page, 0.5).await, [added(6), vec!["add-link 7".to_owned()]].concat());
}

#[tokio::test(start_paused = true)]
async fn a_link_that_comes_before_its_task_waits_for_it() {
    // A page saves a task and its link at once, and corrects the link when it knows the task.
    let gantt = Gantt::with(&[(1, 0)], &[]).await;
    let mut page = gantt.page().await;
    let writer = gantt.stranger();
    writer.post("link", &link(7, 1, 5)).await;
    wait(1.0).await;
    writer.post("task", &task(5, 1)).await;
    assert_eq!(received_in(&mut page, 1.4).await, NOTHING);
    assert_eq!(received_in(&mut page, 0.3).await, [added(5), vec!["add-link 7".to_owned()]].concat());
}

#[tokio::test(start_paused = true)]
async fn a_task_that_is_deleted_meanwhile_is_never_added() {
    for is_others in [false, true] {
        let gantt = Gantt::with(&[], &[]).await;
        let mut page = gantt.page().await;
        let writer = gantt.stranger();
        writer.post("task", &task(5, 0)).await;
        writer.post("link", &link(7, 5, 6)).await;
        wait(1.0).await;
        if is_others {
            gantt.publish(Change::delete(5).unwrap());
        } else {
            writer.delete("task", 5).await;
        }
        let received = received_in(&mut page, 20.0).await;
        assert!(received.iter().all(|message| !message.starts_with("add-task")), "{received:?}");
        assert!(received.contains(&"delete-task 5".to_owned()), "pages with another token may have it: {received:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_moved_task_and_a_deleted_one_are_held_and_other_updates_are_not() {
    let gantt = Gantt::with(&[(1, 0), (2, 0), (3, 0)], &[(7, 1, 2)]).await;
    let mut page = gantt.page().await;
    let writer = gantt.writer(TOKEN);
    writer.put("task", &named(2, 0, "renamed")).await;
    assert_eq!(received_in(&mut page, 0.0).await, ["update-task 2"]);
    wait(20.0).await;
    writer.put("link", &link(7, 2, 1)).await;
    assert_eq!(received_in(&mut page, 0.0).await, ["delete-link 7", "add-link 7"]);
    wait(20.0).await;
    page.values().await;
    writer.put("task", &named(2, 1, "moved")).await;
    assert_eq!(received_in(&mut page, 1.4).await, NOTHING);
    assert_eq!(received_in(&mut page, 0.2).await, ["update-task 2"]);
    wait(20.0).await;
    page.values().await;
    writer.delete("task", 3).await;
    assert_eq!(received_in(&mut page, 1.4).await, NOTHING);
    assert_eq!(received_in(&mut page, 0.2).await, ["delete-task 3"]);
    wait(20.0).await;
    page.values().await;
    writer.delete("link", 7).await;
    assert_eq!(received_in(&mut page, 0.0).await, ["delete-link 7", "add-link 7", "delete-link 7"]);
}

#[tokio::test(start_paused = true)]
async fn a_move_is_held_from_others_too() {
    let gantt = Gantt::with(&[(1, 0), (2, 0)], &[]).await;
    let mut others = gantt.page_of(OTHER).await;
    let _own = gantt.page().await;
    gantt.writer(TOKEN).put("task", &task(2, 1)).await;
    assert_eq!(received_in(&mut others, 1.4).await, NOTHING, "its user may drag the parent");
    assert_eq!(received_in(&mut others, 0.2).await, ["update-task 2"]);
}

#[tokio::test(start_paused = true)]
async fn a_save_without_a_place_among_siblings_is_held_since_its_page_may_have_lost_the_task() {
    let gantt = Gantt::with(&[(1, 0), (2, 1)], &[]).await;
    let mut page = gantt.page().await;
    let mut dragged = task(2, 1);
    dragged["target"] = json!("next:null");
    gantt.writer(TOKEN).put("task", &dragged).await;
    assert_eq!(received_in(&mut page, 1.4).await, NOTHING);
    assert_eq!(received_in(&mut page, 0.2).await, ["update-task 2"]);
}

#[tokio::test(start_paused = true)]
async fn a_move_below_what_has_just_moved_waits_for_a_quiet_moment_and_all_that_waits_for_it_comes_then() {
    let gantt = Gantt::with(&[(1, 0), (2, 0), (3, 0)], &[]).await;
    let mut page = gantt.page().await;
    let writer = gantt.stranger();
    writer.put("task", &task(2, 1)).await;
    writer.put("task", &task(3, 2)).await;
    assert_eq!(received_in(&mut page, 1.7).await, ["update-task 2"], "pages that save it have not received it");
    // What waits for it, and what waits for that.
    writer.post("task", &task(4, 3)).await;
    writer.post("task", &task(5, 4)).await;
    writer.post("link", &link(7, 4, 5)).await;
    assert_eq!(received_in(&mut page, 1.9).await, NOTHING);
    let received = received_in(&mut page, 3.0).await;
    in_order(&received, &["update-task 3", "add-task 4", "add-task 5", "add-link 7"]);
    let settled = gantt.live.stats().repeats;
    wait(100.0).await;
    assert_eq!(outlines(&page.values().await), NOTHING, "it is over");
    assert_eq!(gantt.live.stats().repeats, settled);
}

#[tokio::test(start_paused = true)]
async fn a_move_below_a_task_that_is_new_waits_for_a_quiet_moment() {
    let gantt = Gantt::with(&[(3, 0)], &[]).await;
    let mut page = gantt.page().await;
    let writer = gantt.stranger();
    writer.post("task", &task(5, 0)).await;
    assert_eq!(received_in(&mut page, 1.6).await, added(5));
    writer.put("task", &task(3, 5)).await;
    assert_eq!(received_in(&mut page, 1.9).await, NOTHING, "a page that saves a new task defers it");
    in_order(&received_in(&mut page, 3.0).await, &["add-task 5", "update-task 3"]);
}

#[tokio::test(start_paused = true)]
async fn without_a_quiet_moment_a_move_comes_with_the_second_repeat() {
    let gantt = Gantt::with(&[(1, 0), (2, 0), (3, 0), (9, 0)], &[]).await;
    let mut page = gantt.page().await;
    let writer = gantt.stranger();
    writer.put("task", &task(2, 1)).await;
    writer.put("task", &task(3, 2)).await;
    let mut came = None;
    for second in 0..90 {
        writer.put("task", &named(9, 0, &second.to_string())).await;
        let received = received_in(&mut page, 1.0).await;
        if let Some(place) = received.iter().position(|it| it == "update-task 3") {
            assert!(received[..place].contains(&"update-task 2".to_owned()), "{received:?}");
            came = came.or(Some(second));
        }
    }
    assert!(came.is_some_and(|second| (30..65).contains(&second)), "{came:?}");
}

#[tokio::test(start_paused = true)]
async fn a_deletion_waits_until_what_was_moved_away_has_surely_left() {
    for is_above in [false, true] {
        let gantt = Gantt::with(&[(8, 0), (1, 8), (2, 1)], &[]).await;
        let mut page = gantt.page().await;
        let writer = gantt.stranger();
        writer.put("task", &task(2, 0)).await;
        writer.delete("task", if is_above { 8 } else { 1 }).await;
        assert_eq!(received_in(&mut page, 1.6).await, ["update-task 2"]);
        assert_eq!(received_in(&mut page, 0.3).await, NOTHING, "a page that has not moved it would delete it, too");
        let received = received_in(&mut page, 3.0).await;
        in_order(&received, &["update-task 2", "delete-task 1"]);
        assert_eq!(received.contains(&"delete-task 8".to_owned()), is_above);
        assert!(!received.contains(&"delete-task 2".to_owned()), "{received:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_stands_below_a_moved_task_waits_with_it() {
    let gantt = Gantt::with(&[(1, 0), (2, 0), (3, 2), (4, 3)], &[]).await;
    let mut page = gantt.page().await;
    let writer = gantt.stranger();
    writer.put("task", &task(2, 1)).await;
    for child in [3, 4] {
        writer.put("task", &named(child, child - 1, "renamed")).await;
        assert_eq!(received_in(&mut page, 0.0).await, NOTHING, "a page may show 2 below {child}");
    }
    let received = received_in(&mut page, 10.0).await;
    let first = |message: &str| received.iter().position(|it| it == message);
    let firsts = ["update-task 2", "update-task 3", "update-task 4"].map(first);
    assert!(firsts.is_sorted() && !firsts.contains(&None), "{received:?}");
    writer.put("task", &named(4, 3, "renamed again")).await;
    assert_eq!(received_in(&mut page, 0.0).await, ["update-task 4"]);
}

#[tokio::test(start_paused = true)]
async fn a_save_of_the_text_with_another_parent_than_the_store_had_is_a_move() {
    let gantt = Gantt::with(&[(1, 0), (2, 1), (3, 2)], &[]).await;
    let mut page = gantt.page().await;
    // The store is read for the parent of 3, so that the log knows where 2 stands.
    let writer = gantt.stranger();
    writer.put("task", &named(3, 2, "renamed")).await;
    page.values().await;
    writer.put("task", &named(2, 0, "of a page that shows it at the root")).await;
    assert_eq!(received_in(&mut page, 1.4).await, NOTHING);
    assert_eq!(received_in(&mut page, 0.2).await, ["update-task 2"]);
}
