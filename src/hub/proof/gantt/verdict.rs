//! Whether every page equals the store.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    page::{Id, Kind, Map, Page, ROOT},
    store::{Store, id_in},
};

/// What is wrong with a page.
///
/// What the store has `refused` to create is its page's own.
pub(super) fn of(page: &Page, store: &Store, refused: &BTreeSet<(Kind, Id)>) -> Vec<String> {
    let mut wrong = Vec::new();
    if page.hangs().is_some() {
        return vec!["hangs".to_owned()];
    }
    let shown: BTreeMap<Id, (Id, &Map)> = page.tasks().map(|(id, parent, fields)| (id, (parent, fields))).collect();
    let tree = page.tree();
    for (id, row) in &store.tasks {
        let Some((parent, fields)) = shown.get(id) else {
            wrong.push(format!("lacks task {id}"));
            continue;
        };
        if *parent != id_in(row, "parent") {
            wrong.push(format!("has task {id} below {parent} instead of {}", id_in(row, "parent")));
        }
        let differs = row.iter().find(|(key, value)| *key != "parent" && fields.get(*key) != Some(*value));
        wrong.extend(
            differs.map(|(key, value)| format!("shows {key} of task {id} as {:?} instead of {value}", fields.get(key))),
        );
        match tree.iter().filter(|shown| *shown == id).count() {
            0 => wrong.push(format!("does not show task {id}, which is below {parent}: {}", path(page, *id))),
            1 => {}
            times => wrong.push(format!("shows task {id} {times} times")),
        }
    }
    wrong.extend(shown.keys().filter(|id| !store.tasks.contains_key(id)).map(|id| format!("still has task {id}")));
    let listed = |id: Id| page.listed_links().iter().filter(|listed| **listed == id).count();
    let links: BTreeMap<Id, (Id, Id)> = page.links().map(|(id, source, target)| (id, (source, target))).collect();
    for (id, row) in &store.links {
        let ends = (id_in(row, "source"), id_in(row, "target"));
        match links.get(id) {
            None => wrong.push(format!("lacks link {id}")),
            Some(shown) if *shown != ends => wrong.push(format!("has link {id} as {shown:?} instead of {ends:?}")),
            Some(_) if listed(*id) != 1 => wrong.push(format!("lists link {id} {} times", listed(*id))),
            Some(_) => {}
        }
    }
    let is_own = |id: &Id| store.links.contains_key(id) || refused.contains(&(Kind::Link, *id));
    wrong.extend(links.keys().filter(|id| !is_own(id)).map(|id| format!("still has link {id}")));
    let dangling = page.listed_links().iter().filter(|id| !links.contains_key(id));
    wrong.extend(dangling.map(|id| format!("lists link {id}, which is gone")));
    if !page.can_save() {
        wrong.push("cannot save any more".to_owned());
    }
    wrong
}

fn path(page: &Page, id: Id) -> String {
    let mut at = id;
    let mut path = Vec::new();
    while let Some(parent) = page.parent(at).filter(|_| at != ROOT && path.len() < 8) {
        path.push(format!("{at}"));
        at = parent;
    }
    format!("{} < {at}", path.join(" < "))
}
