//! One page with the stock DHTMLX Gantt 10.0.3: what its stores of tasks and links, its data processor (mode REST-JSON) and
//! its handlers of remote updates do, down to their faults. Nothing here is improved.
//!
//! The order of statements follows the client's code, because an exception in the middle of it (`Fault::Thrown`) leaves
//! the page in a state which only that order explains. An endless loop (`Fault::Hung`) ends the page for good. Left out:
//! the clock, the network, the drawing (as far as it cannot throw), forms, dates (they are texts) and the order in which
//! siblings were read. Ids are numbers; the root is 0.

mod links;
mod processor;
mod remote;
mod tasks;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use self::processor::{Mode, ModeState, Status};

pub(super) type Map = serde_json::Map<String, Value>;
pub(super) type Id = u64;

pub(super) const ROOT: Id = 0;
/// Ids from here on are temporary.
const TEMPORARY: Id = 1_000_000_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// An exception in the page's script. Its caller (socket, timer, request, mouse) drops it, as a browser does.
    Thrown(&'static str),
    /// A loop without an end.
    Hung,
}

type Run<T = ()> = Result<T, Fault>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Task,
    Link,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Post,
    Put,
    Delete,
}

/// A request of the data processor. `body` is empty for a DELETE.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Request {
    pub(super) number: u64,
    pub(super) kind: Kind,
    pub(super) method: Method,
    pub(super) id: Id,
    pub(super) body: Map,
}

#[derive(Clone, Debug)]
pub(super) enum Answer {
    /// JSON, of any status; without an action the client takes the request for done.
    Done { tid: Option<Id>, action: &'static str },
    /// JSON with `"action":"error"`.
    Refused,
}

#[derive(Clone, Debug, Default)]
struct Task {
    /// What the server knows of it, besides its id and its parent.
    fields: Map,
    parent: Id,
    /// `$rendered_parent`, which says in whose branch it stands.
    rendered: Option<Id>,
    /// `$source` and `$target`: the links from and to it.
    source: Vec<Id>,
    target: Vec<Id>,
    /// `$drop_target`
    dropped: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Link {
    source: Id,
    target: Id,
    fields: Map,
}

#[derive(Debug)]
pub(super) struct Page {
    tasks: BTreeMap<Id, Task>,
    branches: BTreeMap<Id, Vec<Id>>,
    links: BTreeMap<Id, Link>,
    /// `fullOrder` of the store of links.
    link_order: Vec<Id>,
    /// `visibleOrder` of the same.
    visible_links: BTreeSet<Id>,
    /// A batch is being applied: drawing and filtering wait for its end.
    is_batch: bool,
    tasks_pending: bool,
    links_pending: bool,
    /// The data processor's current mode, and what it keeps for each.
    mode: Mode,
    modes: [ModeState; 2],
    /// `!nativeeditor_status`, which is never forgotten.
    status: [BTreeMap<Id, Status>; 2],
    silent: bool,
    /// `updateMode` is "off".
    is_off: bool,
    wait_mode: u32,
    /// What named a temporary id, and is saved again.
    corrected: [BTreeSet<Id>; 2],
    /// Messages that wait for 50 ms of silence.
    queue: Vec<Value>,
    /// Adds that wait for everything to be saved.
    held: Vec<Value>,
    /// The tasks that were being saved when something was queued or held: a ring that this closes is theirs.
    saved_then: BTreeSet<Id>,
    sent: Vec<Request>,
    in_flight: BTreeMap<u64, (Kind, Id)>,
    last_number: u64,
    last_temporary_id: Id,
    /// It has thrown and does not save any more, by a ring in which a task stands that is being saved.
    is_unusable: bool,
    /// It hangs; true where a change of its own that is not answered has to do with it.
    hung: Option<bool>,
    /// Exceptions, and updates of what is unknown.
    thrown: Vec<String>,
    boxes: usize,
}

/// What a user and the world do.
impl Page {
    /// The client counts temporary ids up from the clock, so those of two pages differ.
    pub(super) fn loaded(last_temporary_id: Id, last_number: u64) -> Self {
        assert!(last_temporary_id >= TEMPORARY);
        Self {
            tasks: BTreeMap::new(),
            branches: BTreeMap::new(),
            links: BTreeMap::new(),
            link_order: Vec::new(),
            visible_links: BTreeSet::new(),
            is_batch: false,
            tasks_pending: false,
            links_pending: false,
            mode: Kind::Task,
            modes: Default::default(),
            status: Default::default(),
            silent: false,
            is_off: false,
            wait_mode: 0,
            corrected: Default::default(),
            queue: Vec::new(),
            held: Vec::new(),
            saved_then: BTreeSet::new(),
            sent: Vec::new(),
            in_flight: BTreeMap::new(),
            last_number,
            last_temporary_id,
            is_unusable: false,
            hung: None,
            thrown: Vec::new(),
            boxes: 0,
        }
    }

    /// What happens in one turn of the page's event loop.
    fn turn(&mut self, code: impl FnOnce(&mut Self) -> Run) {
        if self.hung.is_some() {
            return;
        }
        match code(self) {
            Ok(()) => {}
            Err(Fault::Thrown(why)) => self.has_thrown(why),
            Err(Fault::Hung) => self.hung = Some(self.is_own_ring()),
        }
    }

    fn has_thrown(&mut self, why: &str) {
        self.thrown.push(format!("throws: {why}"));
        self.is_unusable |= self.silent && self.is_own_ring();
    }

    /// `gantt.parse`
    pub(super) fn load(&mut self, tasks: &[Map], links: &[Map]) {
        self.turn(|page| page.parse(tasks, links));
    }

    /// The `value` of one frame, of either entity. True when the 50 ms begin anew.
    pub(super) fn receive(&mut self, value: &Value) -> bool {
        let mut waits = false;
        self.turn(|page| {
            waits = page.remote_update(value);
            Ok(())
        });
        waits
    }

    /// What arrives left the server before it knew of the user's changes of these tasks: a ring that it closes is theirs.
    pub(super) fn overtakes(&mut self, changed: BTreeSet<Id>) {
        self.saved_then.extend(changed);
    }

    /// The 50 ms are over.
    pub(super) fn apply(&mut self) {
        self.turn(Self::process_queue);
    }

    pub(super) fn answered(&mut self, number: u64, answer: &Answer) {
        if let Some((kind, id)) = self.in_flight.remove(&number) {
            self.turn(|page| page.after_update(kind, id, answer));
        }
    }

    /// What a request that is not answered is about.
    pub(super) fn saves(&self, number: u64) -> Option<Kind> {
        self.in_flight.get(&number).map(|(kind, _)| *kind)
    }

    /// The user makes a task. Returns its temporary id.
    pub(super) fn create(&mut self, parent: Id, fields: Map) -> Id {
        let id = self.temporary_id();
        self.turn(|page| page.add_task(id, Task { fields, parent, ..Task::default() }));
        id
    }

    pub(super) fn change(&mut self, id: Id, fields: Map) {
        self.turn(|page| {
            let Some(task) = page.tasks.get_mut(&id) else { return Ok(()) };
            task.fields.extend(fields);
            page.update_task(id)
        });
    }

    /// The user drags a row to a place in a branch. The grid lets nobody drop a task under itself.
    pub(super) fn drag(&mut self, id: Id, index: usize, parent: Id) {
        self.turn(|page| {
            page.move_task(id, Some(index), parent)?;
            page.send_task_order(id)
        });
    }

    pub(super) fn delete(&mut self, id: Id) {
        self.turn(|page| page.delete_task(id));
    }

    pub(super) fn link(&mut self, source: Id, target: Id) -> Id {
        let id = self.temporary_id();
        let link = Link { source, target, fields: [("type".to_owned(), "0".into())].into_iter().collect() };
        self.turn(|page| page.add_link(id, link));
        id
    }

    pub(super) fn unlink(&mut self, id: Id) {
        self.turn(|page| page.delete_link(id));
    }

    /// What the data processor has sent since the last call, in order.
    pub(super) fn requests(&mut self) -> Vec<Request> {
        std::mem::take(&mut self.sent)
    }

    fn temporary_id(&mut self) -> Id {
        self.last_temporary_id += 1;
        self.last_temporary_id
    }
}

/// What can be seen of a page.
impl Page {
    /// The tasks that stand in its tree, in the tree's order.
    pub(super) fn tree(&self) -> Vec<Id> {
        self.each_item(ROOT).unwrap_or_default()
    }

    pub(super) fn tasks(&self) -> impl Iterator<Item = (Id, Id, &Map)> {
        self.tasks.iter().map(|(id, task)| (*id, task.parent, &task.fields))
    }

    pub(super) fn links(&self) -> impl Iterator<Item = (Id, Id, Id)> {
        self.links.iter().map(|(id, link)| (*id, link.source, link.target))
    }

    /// The ids of all that it has.
    pub(super) fn objects(&self) -> impl Iterator<Item = (Kind, Id)> {
        let tasks = self.tasks.keys().map(|id| (Kind::Task, *id));
        tasks.chain(self.links.keys().map(|id| (Kind::Link, *id)))
    }

    pub(super) fn listed_links(&self) -> &[Id] {
        &self.link_order
    }

    pub(super) fn parent(&self, id: Id) -> Option<Id> {
        self.tasks.get(&id).map(|task| task.parent)
    }

    /// Whether it hangs, or does nothing any more; and if so, whether a change of its own that is not answered has to do with it.
    pub(super) fn hangs(&self) -> Option<bool> {
        self.hung.or_else(|| self.is_unusable.then_some(true))
    }

    /// Whether one of the tasks that stand in a ring is being saved.
    fn is_own_ring(&self) -> bool {
        let saved = &self.modes[Kind::Task as usize];
        let is_in_branches = |id: Id| self.branches.get(&id).is_some_and(|_| self.each_item(id).is_err());
        let above = |id: Id| std::iter::successors(Some(id), |id| self.parent(*id)).skip(1).take(self.tasks.len());
        let is_in_ring = |id: &&Id| is_in_branches(**id) || above(**id).any(|above| above == **id);
        let then = self.saved_then.iter();
        saved
            .in_progress
            .keys()
            .chain(&saved.updated)
            .chain(then)
            .filter(|id| self.tasks.contains_key(id))
            .any(|id| is_in_ring(&id))
    }

    /// False while the page drops the user's changes.
    pub(super) fn can_save(&self) -> bool {
        !self.silent && !self.is_off && self.hung.is_none()
    }

    pub(super) fn is_temporary(id: Id) -> bool {
        id >= TEMPORARY
    }

    /// What is wrong with a page as it stands, whatever the server has.
    pub(super) fn flaws(&self) -> BTreeSet<String> {
        let tree = self.tree();
        let listed = |id: &Id| self.link_order.iter().filter(|listed| *listed == id).count();
        let lost = self.tasks.keys().filter(|id| !tree.contains(id));
        let lost = lost.map(|id| format!("has lost task {id} below {}", self.tasks[id].parent));
        let doubled = self.tasks.keys().filter(|id| tree.iter().filter(|shown| shown == id).count() > 1);
        let doubled = doubled.map(|id| format!("shows task {id} twice"));
        let links = self.link_order.iter().filter(|id| listed(id) > 1).map(|id| format!("lists link {id} twice"));
        let dangling = self.link_order.iter().filter(|id| !self.links.contains_key(id));
        let dangling = dangling.map(|id| format!("lists link {id}, which is gone"));
        let silent = self.silent.then(|| "is silent".to_owned());
        let off = self.is_off.then(|| "is off".to_owned());
        lost.chain(doubled).chain(links).chain(dangling).chain(silent).chain(off).collect()
    }

    /// Exceptions since the last call.
    pub(super) fn thrown(&mut self) -> Vec<String> {
        std::mem::take(&mut self.thrown)
    }
}

/// An id as the messages name it.
pub(super) fn id_of(value: &Value) -> Option<Id> {
    match value {
        Value::String(text) => text.parse().ok(),
        Value::Number(number) => number.as_u64(),
        _ => None,
    }
}
