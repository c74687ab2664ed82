//! What the server of the proof keeps: tasks in a tree, and links, by the rules of the demo.

use std::collections::{BTreeMap, BTreeSet};

use super::page::{Answer, Id, Kind, Map, Method, ROOT, Request};

/// What the store does with a task that would stand below itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rings {
    /// The request is refused.
    Refused,
    /// The task keeps its parent, and the rest is done.
    Undone,
}

#[derive(Debug)]
pub(super) struct Store {
    pub(super) tasks: BTreeMap<Id, Map>,
    pub(super) links: BTreeMap<Id, Map>,
    pub(super) deleted: [BTreeSet<Id>; 2],
    pub(super) rings: Rings,
    next: [Id; 2],
}

/// What a write has changed, in the order in which it is published.
#[derive(Debug, Default)]
pub(super) struct Written {
    pub(super) added: Option<(Kind, Id)>,
    pub(super) updated: Option<(Kind, Id)>,
    pub(super) deleted: Vec<(Kind, Id)>,
}

pub(super) fn id_in(object: &Map, key: &str) -> Id {
    object.get(key).and_then(super::page::id_of).unwrap_or(ROOT)
}

impl Store {
    pub(super) fn new(rings: Rings) -> Self {
        // Numbers of tasks and links are the same.
        Self { tasks: BTreeMap::new(), links: BTreeMap::new(), deleted: Default::default(), rings, next: [100, 100] }
    }

    fn rows(&mut self, kind: Kind) -> &mut BTreeMap<Id, Map> {
        match kind {
            Kind::Task => &mut self.tasks,
            Kind::Link => &mut self.links,
        }
    }

    /// A row with its id, as it is sent.
    pub(super) fn get(&self, kind: Kind, id: Id) -> Option<Map> {
        let rows = if kind == Kind::Task { &self.tasks } else { &self.links };
        let mut row = rows.get(&id)?.clone();
        row.insert("id".to_owned(), id.to_string().into());
        Some(row)
    }

    pub(super) fn list(&self, kind: Kind) -> Vec<Map> {
        let rows = if kind == Kind::Task { &self.tasks } else { &self.links };
        rows.keys().filter_map(|id| self.get(kind, *id)).collect()
    }

    pub(super) fn parent(&self, id: Id) -> Id {
        self.tasks.get(&id).map_or(ROOT, |row| id_in(row, "parent"))
    }

    pub(super) fn is_below(&self, id: Id, above: Id) -> bool {
        std::iter::successors(Some(id), |id| Some(self.parent(*id)).filter(|id| *id != ROOT)).any(|id| id == above)
    }

    pub(super) fn insert(&mut self, kind: Kind, mut row: Map) -> Id {
        let next = &mut self.next[kind as usize];
        *next += 1;
        let id = *next;
        if kind == Kind::Task && !self.tasks.contains_key(&id_in(&row, "parent")) {
            row.insert("parent".to_owned(), ROOT.into());
        }
        row.retain(|key, _| key != "target" || kind == Kind::Link);
        self.rows(kind).insert(id, row);
        id
    }

    /// A task with all that is below it, and the links of these.
    pub(super) fn delete(&mut self, id: Id) -> Vec<(Kind, Id)> {
        let below: Vec<Id> = self.tasks.keys().copied().filter(|task| self.is_below(*task, id)).collect();
        let is_of = |row: &Map| ["source", "target"].iter().any(|end| below.contains(&id_in(row, end)));
        let links: Vec<Id> = self.links.iter().filter(|(_, row)| is_of(row)).map(|(id, _)| *id).collect();
        let gone =
            links.into_iter().map(|id| (Kind::Link, id)).chain(below.into_iter().rev().map(|id| (Kind::Task, id)));
        let gone: Vec<(Kind, Id)> = gone.collect();
        for (kind, id) in &gone {
            self.rows(*kind).remove(id);
            self.deleted[*kind as usize].insert(*id);
        }
        gone
    }

    /// One request, in one transaction.
    pub(super) fn write(&mut self, request: &Request) -> (Answer, Written) {
        let done = |action| Answer::Done { tid: None, action };
        let nothing = Written::default;
        let (kind, id) = (request.kind, request.id);
        match request.method {
            Method::Post if kind == Kind::Link && !self.has_ends(&request.body) => (Answer::Refused, nothing()),
            // Its page has lost what it wanted to save.
            Method::Post if kind == Kind::Task && !request.body.contains_key("start_date") => {
                (Answer::Refused, nothing())
            }
            Method::Post => {
                let id = self.insert(kind, request.body.clone());
                let written = Written { added: Some((kind, id)), ..nothing() };
                (Answer::Done { tid: Some(id), action: "inserted" }, written)
            }
            Method::Delete if !self.rows(kind).contains_key(&id) => (done("deleted"), nothing()),
            Method::Delete if kind == Kind::Link => {
                self.links.remove(&id);
                self.deleted[1].insert(id);
                (done("deleted"), Written { deleted: vec![(kind, id)], ..nothing() })
            }
            Method::Delete => (done("deleted"), Written { deleted: self.delete(id), ..nothing() }),
            Method::Put if !self.rows(kind).contains_key(&id) => (Answer::Refused, nothing()),
            Method::Put => {
                let mut row = request.body.clone();
                match kind {
                    Kind::Task => {
                        row.remove("target");
                        let (old, new) = (self.parent(id), id_in(&row, "parent"));
                        let is_ring = self.is_below(new, id);
                        if is_ring && self.rings == Rings::Refused {
                            return (Answer::Refused, nothing());
                        }
                        if is_ring || (new != ROOT && !self.tasks.contains_key(&new)) || !row.contains_key("parent") {
                            row.insert("parent".to_owned(), old.into());
                        }
                    }
                    Kind::Link if !self.has_ends(&row) => {
                        row.retain(|key, _| !matches!(key.as_str(), "source" | "target"));
                    }
                    Kind::Link => {}
                }
                self.rows(kind).entry(id).or_default().extend(row);
                (done("updated"), Written { updated: Some((kind, id)), ..nothing() })
            }
        }
    }

    /// A new link may name temporary ids: it is corrected when the page knows the real ones.
    fn has_ends(&self, row: &Map) -> bool {
        let is_known = |end: Id| super::page::Page::is_temporary(end) || self.tasks.contains_key(&end);
        ["source", "target"].iter().all(|end| is_known(id_in(row, end)))
    }
}
