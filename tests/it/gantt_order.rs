//! The order of siblings: a task that has moved is sent below another one and back, and a page that has missed some of the
//! moves ends with the order of the store.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Value, json};
use tower_live_updates::{Change, ConfigError, Entity, Identity, LiveUpdates, Snapshot};

use crate::support::{
    TOKEN,
    client::{Client, Tab, Transport, wait},
    gantt::{Gantt, NOTHING, OTHER, added, builder, builder_of, open, outlines, received_in, task},
};

fn ordered() -> Entity {
    Entity::gantt_tasks("/data").order_key("sortorder")
}

/// A task at a place among its siblings.
fn at(id: u32, parent: u32, place: impl Into<Value>) -> Value {
    let mut task = task(id, parent);
    task["sortorder"] = place.into();
    task
}

fn update(task: &Value) -> Change {
    Change::update(task).unwrap()
}

/// Tasks by their parents, in their order; all of them were added long ago.
async fn with(tasks: Entity, all: &[(u32, &[u32])]) -> Gantt {
    let gantt = Gantt::new(builder_of(tasks, Entity::gantt_links("/data")));
    let first = gantt.client(TOKEN).await;
    for (parent, children) in all {
        for (place, child) in children.iter().enumerate() {
            gantt.publish(Change::add(&at(*child, *parent, place)).unwrap());
        }
    }
    wait(200.0).await;
    first.cut(&gantt.live).await;
    gantt
}

/// What the stock client makes of messages: the children of each task, in the order that it shows.
#[derive(Clone, Debug)]
struct Page {
    children: BTreeMap<String, Vec<String>>,
    parents: BTreeMap<String, String>,
}

fn id_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

impl Page {
    fn showing(all: &[(u32, &[u32])]) -> Self {
        let mut page = Self { children: BTreeMap::new(), parents: BTreeMap::new() };
        for (parent, children) in all {
            for child in *children {
                page.parents.insert(child.to_string(), parent.to_string());
                page.children.entry(parent.to_string()).or_default().push(child.to_string());
            }
        }
        page
    }

    fn children(&self, parent: u32) -> Vec<u32> {
        self.children.get(&parent.to_string()).into_iter().flatten().map(|id| id.parse().unwrap()).collect()
    }

    fn apply(&mut self, values: &[Value]) {
        for value in values {
            let (verb, task) = (value["type"].as_str().unwrap(), &value["task"]);
            let (id, parent) = (id_of(&task["id"]), id_of(&task["parent"]));
            match verb {
                "add-task" if !self.parents.contains_key(&id) => self.put(id, parent, None),
                "update-task" if self.parents[&id] != parent => {
                    assert!(!self.is_below(&parent, &id), "the page hangs at {task} with {self:?}");
                    self.take(&id);
                    // 0 is no place for the client.
                    let index = task["$index"].as_u64().filter(|index| *index > 0);
                    let index = index.or_else(|| task["$index"].as_str()?.parse().ok());
                    self.put(id, parent, index);
                }
                "delete-task" if self.parents.contains_key(&id) => {
                    self.take(&id);
                    self.parents.remove(&id);
                }
                _ => {}
            }
        }
    }

    fn is_below(&self, id: &str, above: &str) -> bool {
        id == above || self.parents.get(id).is_some_and(|parent| self.is_below(parent, above))
    }

    fn take(&mut self, id: &str) {
        let branch = self.children.get_mut(&self.parents[id]).expect("its branch");
        branch.retain(|child| child != id);
    }

    fn put(&mut self, id: String, parent: String, index: Option<u64>) {
        assert!(parent == "0" || self.parents.contains_key(&parent), "what hangs below {id} is lost below {parent}");
        let branch = self.children.entry(parent.clone()).or_default();
        let index = index.map_or(branch.len(), |index| usize::try_from(index).unwrap().min(branch.len()));
        branch.insert(index, id.clone());
        self.parents.insert(id, parent);
    }

    async fn receive(&mut self, tab: &mut Tab, seconds: f64) {
        wait(seconds).await;
        self.apply(&tab.values().await);
    }
}

/// The parents and places that messages of a task name.
fn steps(values: &[Value], id: u32) -> Vec<(String, Value)> {
    let of_it = values.iter().map(|value| &value["task"]).filter(|task| id_of(&task["id"]) == id.to_string());
    of_it.map(|task| (id_of(&task["parent"]), task["$index"].clone())).collect()
}

#[tokio::test(start_paused = true)]
async fn a_task_that_has_moved_is_sent_below_another_parent_and_back() {
    let gantt = with(ordered(), &[(0, &[1, 2]), (1, &[3, 4, 5])]).await;
    let mut page = gantt.page().await;
    for (moved, aside, index) in [
        (at(5, 1, 0), "0", json!("0")),
        (at(5, 1, "2"), "0", json!(2)),
        (at(2, 0, 0), "1", json!("0")),
        (at(2, 0, 1.0), "1", json!(1)),
    ] {
        gantt.publish(update(&moved));
        wait(0.1).await;
        let values = page.values().await;
        let id = u32::try_from(moved["id"].as_u64().unwrap()).unwrap();
        assert_eq!(outlines(&values), [format!("update-task {id}"), format!("update-task {id}")]);
        assert_eq!(steps(&values, id), [(aside.to_owned(), Value::Null), (id_of(&moved["parent"]), index)]);
        let (first, last) = (&values[0]["task"], &values[1]["task"]);
        for key in ["start_date", "end_date", "duration"] {
            assert_eq!(first[key], last[key], "the client takes {key} for removed where it is missing");
        }
        assert_eq!((&first["text"], &last["text"]), (&Value::Null, &json!("a task")));
        wait(20.0).await;
    }
    assert_eq!(received_in(&mut page, 0.0).await, NOTHING);
}

#[tokio::test(start_paused = true)]
async fn what_has_not_moved_or_names_no_place_is_sent_once() {
    let gantt = with(ordered(), &[(0, &[1, 2])]).await;
    let mut page = gantt.page().await;
    let mut renamed = at(2, 0, 1);
    renamed["text"] = "renamed".into();
    for task in [renamed, at(2, 0, 1.5), at(2, 0, -1), at(2, 0, "first"), at(2, 0, Value::Null)] {
        gantt.publish(update(&task));
        assert_eq!(received_in(&mut page, 0.1).await, ["update-task 2"], "{task}");
        wait(20.0).await;
    }
}

#[tokio::test(start_paused = true)]
async fn without_an_order_key_every_task_is_sent_once() {
    let gantt = with(Entity::gantt_tasks("/data"), &[(0, &[1, 2])]).await;
    let mut page = gantt.page().await;
    gantt.publish(update(&at(2, 0, 0)));
    wait(0.1).await;
    let values = page.values().await;
    assert_eq!(steps(&values, 2), [("0".to_owned(), Value::Null)]);
}

#[tokio::test(start_paused = true)]
async fn a_task_at_the_root_needs_another_one_that_every_page_has() {
    let gantt = with(ordered(), &[(0, &[1]), (1, &[3])]).await;
    let mut page = gantt.page().await;
    gantt.publish(update(&at(1, 0, 1)));
    assert_eq!(received_in(&mut page, 0.1).await, ["update-task 1"], "none is known");
    // One that is held is not on every page, and neither is one that is gone.
    let writing = gantt.writer(TOKEN).waiting_in_its_answers();
    let post = writing.begin(async |writer| writer.post("task", &at(2, 0, 2)).await).await;
    gantt.publish(update(&at(1, 0, 0)));
    assert_eq!(received_in(&mut page, 0.1).await, ["update-task 1"]);
    gantt.let_go();
    post.await.unwrap();
    received_in(&mut page, 100.0).await;
    gantt.publish(update(&at(1, 0, 1)));
    assert_eq!(received_in(&mut page, 0.1).await, ["update-task 1", "update-task 1"]);
    wait(100.0).await;
    gantt.publish(Change::delete(2).unwrap());
    received_in(&mut page, 100.0).await;
    gantt.publish(update(&at(1, 0, 0)));
    assert_eq!(received_in(&mut page, 0.1).await, ["update-task 1"]);
}

#[tokio::test(start_paused = true)]
async fn siblings_with_other_numbers_are_not_moved_where_the_write_has_moved_a_task() {
    let tree: [(u32, &[u32]); 2] = [(0, &[1, 2]), (1, &[3, 4, 5, 6])];
    let gantt = with(ordered(), &tree).await;
    let (mut tab, mut page) = (gantt.page().await, Page::showing(&tree));
    gantt.handle(|write| {
        for task in [at(4, 1, 2), at(5, 1, 3), at(6, 1, 1)] {
            write.publish(update(&task));
        }
    });
    gantt.stranger().put("task", &at(6, 1, 1)).await;
    wait(0.1).await;
    let values = tab.values().await;
    assert_eq!(outlines(&values), ["update-task 4", "update-task 5", "update-task 6", "update-task 6"]);
    page.apply(&values);
    assert_eq!(page.children(1), [3, 6, 4, 5]);
    gantt.handle(|write| {
        for change in [Change::delete(3).unwrap(), update(&at(6, 1, 0)), update(&at(4, 1, 1)), update(&at(5, 1, 2))] {
            write.publish(change);
        }
    });
    gantt.stranger().delete("task", 3).await;
    page.receive(&mut tab, 100.0).await;
    assert_eq!(page.children(1), [6, 4, 5]);
    assert_eq!(received_in(&mut tab, 100.0).await, NOTHING);
}

#[tokio::test(start_paused = true)]
async fn a_new_task_goes_to_its_place_and_so_does_one_with_another_parent() {
    let tree: [(u32, &[u32]); 3] = [(0, &[1, 2]), (1, &[3, 4]), (2, &[5, 6])];
    let gantt = with(ordered(), &tree).await;
    let (mut tab, mut page) = (gantt.page_of(OTHER).await, Page::showing(&tree));
    gantt.handle(|write| {
        for task in [at(4, 1, 2), at(3, 1, 1)] {
            write.publish(update(&task));
        }
        write.publish(Change::add(&at(7, 1, 0)).unwrap());
    });
    gantt.writer(TOKEN).post("task", &at(7, 1, 0)).await;
    page.receive(&mut tab, 0.1).await;
    assert_eq!(page.children(1), [7, 3, 4]);
    gantt.handle(|write| {
        for task in [at(3, 1, 0), at(4, 1, 1), at(6, 2, 2), at(7, 2, 1)] {
            write.publish(update(&task));
        }
    });
    wait(100.0).await;
    gantt.writer(TOKEN).put("task", &at(7, 2, 1)).await;
    page.receive(&mut tab, 2.0).await;
    assert_eq!((page.children(1), page.children(2)), (vec![3, 4], vec![5, 7, 6]));
}

/// All orders of some tasks, and orders in which some have been mistaken for others.
fn orders(of: &[u32]) -> Vec<Vec<u32>> {
    match of {
        [] => vec![Vec::new()],
        of => (0..of.len())
            .flat_map(|first| {
                let others: Vec<u32> = of.iter().copied().filter(|other| *other != of[first]).collect();
                orders(&others).into_iter().map(move |order| [vec![of[first]], order].concat())
            })
            .collect(),
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_resent_ends_in_the_order_of_the_store_whatever_a_page_shows_of_it() {
    for parent in [0, 1] {
        let (others, siblings): (&[u32], &[u32]) =
            if parent == 0 { (&[], &[1, 2, 3, 4]) } else { (&[1], &[2, 3, 4, 5]) };
        let roots = if parent == 0 { siblings } else { others };
        let gantt = with(ordered(), &[(0, roots), (1, if parent == 0 { &[9] } else { siblings })]).await;
        let mut tab = gantt.page_of(OTHER).await;
        let [a, b, c, d] = siblings[..] else { unreachable!() };
        // Overlapping writes, of which a page may miss any: at the end a stands before b, and c and d have moved.
        let first =
            gantt.stranger().waiting().begin(async move |writer| writer.put("task", &at(c, parent, 0)).await).await;
        let second =
            gantt.stranger().waiting().begin(async move |writer| writer.put("task", &at(d, parent, 2)).await).await;
        gantt.let_go();
        first.await.unwrap();
        gantt.let_go();
        second.await.unwrap();
        wait(0.5).await;
        tab.values().await;
        wait(20.0).await;
        let resent = tab.values().await;
        assert!(!resent.is_empty(), "it is resent");
        for order in orders(siblings) {
            // Those that have not moved stand in their order.
            let place = |id| order.iter().position(|it| *it == id).unwrap();
            if place(a) > place(b) {
                continue;
            }
            let mut page = Page::showing(&[
                (0, if parent == 0 { &order } else { others }),
                (1, if parent == 0 { &[9] } else { &order }),
            ]);
            page.apply(&resent);
            assert_eq!(page.children(parent), [c, a, d, b], "from {order:?}");
            if parent == 0 {
                assert_eq!(page.children(1), [9]);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn several_that_are_published_together_end_in_their_order() {
    for parent in [0, 1] {
        let tree: [(u32, &[u32]); 2] =
            if parent == 0 { [(0, &[1, 2, 3, 4]), (1, &[9])] } else { [(0, &[1, 8]), (1, &[2, 3, 4, 5])] };
        let gantt = with(ordered(), &tree).await;
        let (mut tab, mut page) = (gantt.page().await, Page::showing(&tree));
        let ids = page.children(parent);
        // One after the other, they would pass the one that stays.
        let order = [ids[2], ids[1], ids[3], ids[0]];
        let moved = order.iter().enumerate().filter(|(_, id)| **id != ids[1]);
        let moved = moved.map(|(place, id)| update(&at(*id, parent, place)));
        gantt.live.publish_many("tasks", moved).unwrap();
        page.receive(&mut tab, 0.1).await;
        page.receive(&mut tab, 20.0).await;
        assert_eq!(page.children(parent), order);
        assert_eq!(received_in(&mut tab, 100.0).await, NOTHING);
    }
}

/// A page that is away while something happens, and comes back.
async fn away(gantt: &Gantt, happens: impl AsyncFnOnce(&Gantt)) -> Tab {
    let client = Client::load_with(&gantt.server, Transport::AnyStream, TOKEN).await;
    let mut page = open(&client).await;
    wait(300.0).await;
    page.values().await;
    page.cut(&gantt.live).await;
    wait(20.0).await;
    happens(gantt).await;
    wait(60.0).await;
    open(&client).await
}

#[tokio::test(start_paused = true)]
async fn a_replay_brings_siblings_to_their_places() {
    let tree: [(u32, &[u32]); 3] = [(0, &[1, 2, 3]), (1, &[4, 5, 6, 7]), (2, &[8])];
    let gantt = with(ordered(), &tree).await;
    let mut tab = away(&gantt, async |gantt| {
        // 3 to the front, 7 and then 4 to the front, 8 between others.
        for task in [at(1, 0, 1), at(2, 0, 2), at(3, 0, 0)] {
            gantt.publish(update(&task));
        }
        for task in [at(7, 1, 0), at(4, 1, 0), at(8, 1, 2), at(7, 1, 1), at(5, 1, 3), at(6, 1, 4)] {
            gantt.publish(update(&task));
        }
    })
    .await;
    let mut page = Page::showing(&tree);
    page.receive(&mut tab, 30.0).await;
    assert_eq!((page.children(0), page.children(1)), (vec![3, 1, 2], vec![4, 7, 8, 5, 6]));
}

#[tokio::test(start_paused = true)]
async fn so_does_a_snapshot() {
    let rows: Arc<Vec<Value>> = Arc::new(vec![
        at(6, 1, 0),
        at(5, 1, 1),
        at(4, 1, 2),
        at(3, 0, 0),
        at(2, 0, 2),
        at(1, 0, 1),
        at(7, 0, 3),
        at(8, 7, 0),
    ]);
    let tasks = ordered().snapshot(rows, async |rows: Arc<Vec<Value>>, _: Identity| {
        Ok::<_, std::convert::Infallible>(Snapshot::new(rows.to_vec()))
    });
    let gantt = Gantt::new(builder_of(tasks, Entity::gantt_links("/data")));
    let mut tab = gantt.page().await;
    gantt.live.refresh("tasks").unwrap();
    wait(20.0).await;
    let values = tab.values().await;
    for roots in orders(&[1, 2, 3]) {
        let mut page = Page::showing(&[(0, &roots), (1, &[4, 5]), (2, &[6])]);
        page.apply(&values);
        assert_eq!((page.children(0), page.children(1)), (vec![3, 1, 2, 7], vec![6, 5, 4]), "from {roots:?}");
        assert_eq!(page.children(7), [8]);
    }
}

#[tokio::test(start_paused = true)]
async fn after_the_deletion_of_the_task_that_another_stood_below_pages_are_brought_to_the_stores_state() {
    let gantt = with(ordered(), &[(0, &[1, 2])]).await;
    let mut page = gantt.page().await;
    gantt.stranger().put("task", &at(2, 0, 0)).await;
    wait(0.1).await;
    assert_eq!(steps(&page.values().await, 2)[0].0, "1");
    // Its page may have deleted 1 before it received that, and lost what hangs below 2.
    gantt.stranger().delete("task", 1).await;
    wait(0.1).await;
    assert!(page.values().await.iter().any(|value| value["type"] == "resync"));
    wait(300.0).await;
    gantt.publish(Change::add(&at(3, 0, 1)).unwrap());
    wait(300.0).await;
    page.values().await;
    gantt.stranger().delete("task", 3).await;
    assert_eq!(received_in(&mut page, 20.0).await, ["delete-task 3"]);
}

#[tokio::test(start_paused = true)]
async fn the_writes_of_an_ordered_entity_run_one_at_a_time() {
    for (tasks, waits) in [(ordered(), true), (Entity::gantt_tasks("/data"), false)] {
        let gantt = with(tasks, &[(0, &[1, 2])]).await;
        let mut page = gantt.page().await;
        let first = gantt.stranger().waiting().begin(async |writer| writer.put("task", &at(1, 0, 0)).await).await;
        let second = gantt.stranger().begin(async |writer| writer.put("task", &at(2, 0, 1)).await).await;
        let third = gantt
            .stranger()
            .begin(async |writer| writer.post("link", &crate::support::gantt::link(5, 1, 2)).await)
            .await;
        assert!(third.is_finished(), "another entity");
        assert_eq!(second.is_finished(), !waits);
        let fourth = gantt.stranger().begin(async |writer| writer.post("task", &at(3, 0, 2)).await).await;
        let fifth = gantt.stranger().begin(async |writer| writer.delete("task", 2).await).await;
        assert_eq!((fourth.is_finished(), fifth.is_finished()), (!waits, !waits));
        gantt.let_go();
        for write in [first, second, third, fourth, fifth] {
            write.await.unwrap();
        }
        let received = received_in(&mut page, 20.0).await;
        assert!(received.contains(&added(3)[0]));
    }
}

#[test]
fn an_order_key_needs_a_name_and_the_tasks_of_a_gantt() {
    let build = |tasks: Entity| LiveUpdates::builder("/api/v1").allow_anonymous().entity(tasks).build().unwrap_err();
    let load =
        |tasks: Entity| tasks.load((), async |(): (), _: String| Ok::<Option<Value>, std::convert::Infallible>(None));
    let seen = |tasks: Entity| {
        tasks.visible((), async |(): (), _: Identity, _: Value| Ok::<_, std::convert::Infallible>(true))
    };
    for (entity, reason) in [
        (Entity::gantt_tasks("/data").order_key(""), "needs the name of a field"),
        (Entity::gantt_links("/data").order_key("sortorder"), "only the tasks of Entity::gantt_tasks"),
        (Entity::scheduler("/events").order_key("sortorder"), "only the tasks of Entity::gantt_tasks"),
        (seen(load(ordered())), "hide siblings"),
    ] {
        let error = build(entity);
        assert!(matches!(error, ConfigError::OrderKey { .. }) && error.to_string().contains(reason), "{error}");
    }
    assert!(builder().build().is_ok());
}
