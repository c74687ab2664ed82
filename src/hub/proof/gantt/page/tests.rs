//! The model does what `tests/browser/gantt_facts.mjs` sees of the real page. Names and figures are the same there.

use serde_json::json;

use super::*;

const TREE: &[(Id, Id)] = &[(1, ROOT), (2, 1), (3, 2), (4, ROOT)];
const FLAT: &[(Id, Id)] = &[(1, ROOT), (2, ROOT)];

fn task(id: Id, parent: Id) -> Value {
    json!({"id": id.to_string(), "text": format!("task {id}"), "start_date": "2025-04-07", "parent": parent})
}

fn add(id: Id, parent: Id) -> Value {
    json!({"type": "add-task", "task": task(id, parent)})
}

fn update(id: Id, parent: Id) -> Value {
    json!({"type": "update-task", "task": task(id, parent)})
}

fn with(mut message: Value, key: &str, value: &str) -> Value {
    message["task"][key] = value.into();
    message
}

fn remove(id: Id) -> Value {
    json!({"type": "delete-task", "task": {"id": id.to_string()}})
}

fn link(of: &str, id: Id, source: Id, target: Id) -> Value {
    json!({"type": of, "link": {"id": id.to_string(), "source": source, "target": target, "type": "0"}})
}

fn remove_link(id: Id) -> Value {
    json!({"type": "delete-link", "link": {"id": id.to_string()}})
}

fn page(tasks: &[(Id, Id)], links: &[(Id, Id, Id)]) -> Page {
    let mut page = Page::loaded(TEMPORARY, 0);
    let map = |value: Value| value.as_object().cloned().unwrap();
    let tasks: Vec<Map> = tasks.iter().map(|(id, parent)| map(task(*id, *parent))).collect();
    let links: Vec<Map> =
        links.iter().map(|(id, source, target)| map(link("", *id, *source, *target)["link"].clone())).collect();
    page.load(&tasks, &links);
    page
}

/// What it throws at one batch.
fn receive(page: &mut Page, messages: &[Value]) -> Vec<String> {
    page.thrown();
    let is_queued = messages.iter().fold(false, |any, message| page.receive(message) | any);
    if is_queued {
        page.apply();
    }
    page.thrown()
}

fn branch(page: &Page, of: Id) -> String {
    let one = |id: Id| match page.children(id)[..] {
        [] => format!("{id}"),
        _ => format!("{id}({})", branch(page, id)),
    };
    page.children(of).into_iter().map(one).collect::<Vec<_>>().join(" ")
}

fn tree(page: &Page) -> String {
    branch(page, ROOT)
}

fn lost(page: &Page) -> Vec<Id> {
    let tree = page.tree();
    page.tasks().map(|(id, ..)| id).filter(|id| !tree.contains(id)).collect()
}

fn sent(page: &mut Page) -> Vec<String> {
    page.requests().iter().map(|sent| format!("{:?} {:?} {}", sent.method, sent.kind, sent.id)).collect()
}

fn rename(page: &mut Page, id: Id) {
    page.change(id, [("text".to_owned(), "own".into())].into_iter().collect());
}

fn is_listed(page: &Page, link: Id) -> usize {
    page.listed_links().iter().filter(|listed| **listed == link).count()
}

/// A page that has received its own new link, 7, before the answer.
fn with_doubled_link() -> Page {
    let mut page = page(TREE, &[]);
    page.link(1, 4);
    let request = page.requests().remove(0);
    assert_eq!(receive(&mut page, &[link("add-link", 7, 1, 4)]), [""; 0]);
    page.answered(request.number, &Answer::Done { tid: Some(7), action: "inserted" });
    assert_eq!(is_listed(&page, 7), 2);
    page
}

const INSERTED: fn(Id) -> Answer = |tid| Answer::Done { tid: Some(tid), action: "inserted" };

#[test]
fn a_task_below_its_own_child_stops_the_page() {
    let mut page = page(TREE, &[]);
    receive(&mut page, &[update(4, 1)]);
    assert_eq!(page.hangs(), None);
    receive(&mut page, &[update(1, 3)]);
    assert_eq!(page.hangs(), Some(false));
}

#[test]
fn a_task_below_itself_overflows_the_stack_and_with_it_goes_its_branch() {
    let mut page = page(TREE, &[]);
    assert_eq!(receive(&mut page, &[update(1, 1)]), ["throws: Maximum call stack size exceeded"]);
    assert!(!page.can_save());
}

#[test]
fn a_task_below_an_unknown_parent_loses_its_children_also_when_that_comes() {
    let mut page = page(TREE, &[]);
    receive(&mut page, &[update(2, 9)]);
    assert_eq!((tree(&page), lost(&page)), ("1 4".to_owned(), vec![2, 3]));
    receive(&mut page, &[add(9, ROOT)]);
    assert_eq!((tree(&page), lost(&page)), ("1 4 9(2)".to_owned(), vec![3]));
    receive(&mut page, &[update(3, 2)]);
    assert_eq!(lost(&page), [3]);
}

#[test]
fn an_empty_rendered_parent_puts_a_lost_task_back_in_a_batch_or_alone() {
    let back = |id, parent| with(update(id, parent), "$rendered_parent", "");
    for batch in [vec![back(3, 2)], vec![back(2, 1), back(3, 2)]] {
        let mut page = page(TREE, &[]);
        receive(&mut page, &[update(2, 9)]);
        receive(&mut page, &[update(2, 1)]);
        assert_eq!((tree(&page), lost(&page)), ("1(2) 4".to_owned(), vec![3]));
        assert_eq!(receive(&mut page, &batch), [""; 0]);
        assert_eq!((tree(&page), lost(&page)), ("1(2(3)) 4".to_owned(), vec![]));
    }
}

#[test]
fn an_added_task_below_an_unknown_parent_goes_to_the_root() {
    let mut page = page(FLAT, &[]);
    receive(&mut page, &[add(8, 9)]);
    receive(&mut page, &[add(9, ROOT)]);
    assert_eq!((tree(&page), page.parent(8)), ("1 2 8 9".to_owned(), Some(ROOT)));
}

#[test]
fn a_task_that_was_moved_by_a_message_is_sent_with_a_target() {
    let mut page = page(TREE, &[]);
    receive(&mut page, &[update(3, 1)]);
    rename(&mut page, 3);
    assert_eq!(page.requests()[0].body["target"], "next:2");
}

#[test]
fn an_update_makes_the_page_forget_the_links_of_a_task() {
    let links = [(1, 1, 4), (2, 4, 3)];
    let mut fresh = page(TREE, &links);
    fresh.delete(4);
    assert_eq!(sent(&mut fresh), ["Delete Link 1", "Delete Link 2", "Delete Task 4"]);
    let mut updated = page(TREE, &links);
    receive(&mut updated, &[update(4, ROOT)]);
    updated.delete(4);
    assert_eq!(sent(&mut updated), ["Delete Task 4"]);
    assert_eq!(updated.links().count(), 2);
}

#[test]
fn an_own_link_before_its_answer_is_there_twice_and_once_deleted_every_change_throws() {
    let mut page = with_doubled_link();
    for message in [remove_link(7), update(1, ROOT), update(1, ROOT), update(1, ROOT)] {
        assert!(!receive(&mut page, &[message]).is_empty());
    }
    rename(&mut page, 1);
    assert_eq!(sent(&mut page), [""; 0]);
}

#[test]
fn a_doubled_link_that_is_sent_afresh_in_one_batch_is_there_once_or_not_at_all() {
    let mut there = with_doubled_link();
    assert_eq!(receive(&mut there, &[remove_link(7), link("add-link", 7, 1, 4)]), [""; 0]);
    assert_eq!(is_listed(&there, 7), 1);
    there.unlink(7);
    assert_eq!(sent(&mut there), ["Delete Link 7"]);

    let mut gone = with_doubled_link();
    let only_id = json!({"type": "add-link", "link": {"id": "7"}});
    assert_eq!(receive(&mut gone, &[remove_link(7), only_id, remove_link(7)]), [""; 0]);
    assert_eq!((is_listed(&gone, 7), gone.links().count()), (0, 0));
    rename(&mut gone, 1);
    assert_eq!(sent(&mut gone), ["Put Task 1"]);
}

#[test]
fn an_own_task_while_a_link_is_saved_is_there_twice() {
    let mut page = page(FLAT, &[(5, 1, 2)]);
    page.create(ROOT, Map::new());
    let request = page.requests().remove(0);
    page.link(2, 1);
    let link = page.requests().remove(0);
    receive(&mut page, &[add(9, ROOT)]);
    page.answered(link.number, &INSERTED(6));
    page.answered(request.number, &INSERTED(9));
    assert_eq!(tree(&page), "1 2 9 9");
}

#[test]
fn an_add_waits_for_a_new_object_that_is_saved_and_what_comes_of_it_meanwhile_is_dropped() {
    let mut page = page(FLAT, &[]);
    page.create(ROOT, Map::new());
    let request = page.requests().remove(0);
    receive(&mut page, &[add(8, ROOT)]);
    receive(&mut page, &[add(9, ROOT)]);
    receive(&mut page, &[with(update(8, ROOT), "text", "newer")]);
    receive(&mut page, &[remove(9)]);
    assert!(!page.objects().any(|it| it == (Kind::Task, 8)));
    page.answered(request.number, &INSERTED(7));
    assert_eq!(tree(&page), "1 2 7 8 9");
    assert_eq!(page.tasks().find(|(id, ..)| *id == 8).unwrap().2["text"], "task 8");
}

#[test]
fn while_link_2_is_saved_what_comes_of_task_2_is_dropped() {
    let mut page = page(FLAT, &[(2, 1, 2)]);
    page.unlink(2);
    assert!(!page.receive(&with(update(2, ROOT), "text", "newer")));
    receive(&mut page, &[with(update(1, ROOT), "text", "newer")]);
    let text = |id: Id| page.tasks().find(|(known, ..)| *known == id).unwrap().2["text"].clone();
    assert_eq!((text(1), text(2)), ("newer".into(), "task 2".into()));
}

#[test]
fn a_link_to_an_end_that_is_gone_throws_and_the_page_saves_nothing_until_a_later_change_applies() {
    let mut page = page(TREE, &[(7, 1, 2)]);
    receive(&mut page, &[remove(4)]);
    assert_eq!(receive(&mut page, &[link("update-link", 7, 1, 4)]).len(), 1);
    rename(&mut page, 1);
    assert_eq!(sent(&mut page), [""; 0]);
    receive(&mut page, &[update(2, 1)]);
    rename(&mut page, 2);
    assert_eq!(sent(&mut page), ["Put Task 2"]);
}

#[test]
fn a_change_that_waits_is_sent_of_a_task_that_is_deleted_elsewhere_as_it_was() {
    let mut page = page(TREE, &[]);
    rename(&mut page, 2);
    let request = page.requests().remove(0);
    page.drag(2, 0, 4);
    receive(&mut page, &[remove(4)]);
    assert_eq!(tree(&page), "1");
    page.answered(request.number, &Answer::Done { tid: None, action: "updated" });
    let again = page.requests().remove(0);
    assert_eq!(
        (again.method, again.id, &again.body["parent"], &again.body["text"]),
        (Method::Put, 2, &4.into(), &"own".into())
    );
}
