//! The store of tasks: a pull of all, and branches that list the children of each (`treedatastore.js`).

use serde_json::Value;

use super::{Fault, Id, Kind, Map, Page, ROOT, Run, Task, id_of};

impl Page {
    fn branch(&self, id: Id) -> &[Id] {
        self.branches.get(&id).map_or(&[], |branch| branch)
    }

    fn is_there(&self, parent: Id) -> bool {
        parent == ROOT || self.tasks.contains_key(&parent)
    }

    /// `eachItem`: what stands below a task. Branches that form a ring have no end.
    pub(super) fn each_item(&self, start: Id) -> Run<Vec<Id>> {
        let mut stack: Vec<Id> = self.branch(start).iter().rev().copied().collect();
        let (mut items, most) = (Vec::new(), 8 * self.tasks.len() + 64);
        while let Some(id) = stack.pop() {
            if self.tasks.contains_key(&id) {
                items.push(id);
                stack.extend(self.branch(id).iter().rev());
            }
            if items.len() > most {
                return Err(Fault::Hung);
            }
        }
        Ok(items)
    }

    /// `calculateItemLevel`
    fn check_level(&self, mut parent: Id) -> Run {
        let mut level = 0;
        while let Some(task) = self.tasks.get(&parent) {
            parent = task.parent;
            level += 1;
            if level > self.tasks.len() {
                return Err(Fault::Thrown("Invalid tasks tree. Cyclic reference has been detected"));
            }
        }
        Ok(())
    }

    /// Whether drawing it ends: its parents are refreshed one by one.
    fn update_parents(&self, id: Id) -> Run {
        self.check_level(id).map_err(|_| Fault::Thrown("Maximum call stack size exceeded"))
    }

    fn replace_branch_child(&mut self, node: Option<Id>, old: Id, new: Option<Id>) {
        let Some(node) = node else { return };
        let branch = self.branches.entry(node).or_default();
        if let Some(at) = branch.iter().position(|id| *id == old) {
            match new {
                Some(new) => branch[at] = new,
                None => drop(branch.remove(at)),
            }
        }
    }

    fn add_branch(&mut self, id: Id, parent: Id, rendered: &mut Option<Id>) {
        let branch = self.branches.entry(parent).or_default();
        if !branch.contains(&id) {
            branch.push(id);
            *rendered = Some(parent);
        }
    }

    /// `_move_branch` of a task which is not in the store: its state is the caller's.
    fn move_branch_of(&mut self, id: Id, task: &mut Task, old: Option<Id>, new: Option<Id>) -> Run {
        self.replace_branch_child(old, id, None);
        match new.filter(|new| self.is_there(*new)) {
            Some(new) => self.add_branch(id, new, &mut task.rendered),
            None => {
                let children = self.branches.remove(&id).unwrap_or_default();
                if !children.is_empty() && self.tasks.contains_key(&id) {
                    self.thrown.push(format!("drops the branch {children:?} of {id}, which goes to {new:?}"));
                }
            }
        }
        self.check_level(task.parent)?;
        for child in self.each_item(id)? {
            self.check_level(self.tasks[&child].parent)?;
        }
        Ok(())
    }

    fn move_branch(&mut self, id: Id, old: Option<Id>, new: Option<Id>) -> Run {
        let Some(mut task) = self.tasks.get(&id).cloned() else { return Ok(()) };
        let done = self.move_branch_of(id, &mut task, old, new);
        if let Some(known) = self.tasks.get_mut(&id) {
            known.rendered = task.rendered;
        }
        done
    }

    /// `setParent`
    fn set_parent(&mut self, id: Id, parent: Id) -> Run {
        let task = &self.tasks[&id];
        let old = task.rendered.or(Some(task.parent));
        self.move_branch(id, old, Some(parent))?;
        if let Some(task) = self.tasks.get_mut(&id) {
            task.parent = parent;
        }
        Ok(())
    }

    /// `filter`, which sees to it first that each task stands in the branch of its parent, as far as `$rendered_parent`
    /// shows that it does not.
    fn filter_tasks(&mut self) -> Run {
        let ids: Vec<Id> = self.tasks.keys().copied().collect();
        for id in ids {
            let Task { rendered, parent, .. } = self.tasks[&id];
            if rendered != Some(parent) {
                self.move_branch(id, rendered, Some(parent))?;
            }
        }
        self.tasks_pending = false;
        self.each_item(ROOT).map(drop)
    }

    fn ensure_filter(&mut self) -> Run {
        if self.tasks_pending { self.filter_tasks() } else { Ok(()) }
    }

    fn request_filter(&mut self) -> Run {
        if self.is_batch {
            self.tasks_pending = true;
            return Ok(());
        }
        self.filter_tasks()
    }

    /// `refresh` of the store: of the links, too, unless a batch is being applied.
    pub(super) fn refresh_tasks(&mut self) -> Run {
        self.filter_tasks()?;
        if self.is_batch { Ok(()) } else { self.filter_links() }
    }

    /// `gantt.refreshTask`
    pub(super) fn refresh_task(&mut self, id: Id) -> Run {
        if self.is_batch {
            return Ok(());
        }
        self.ensure_filter()?;
        let Some(task) = self.tasks.get(&id) else { return Ok(()) };
        if self.each_item(ROOT)?.contains(&id) {
            return self.refresh_tasks();
        }
        if self.tasks.contains_key(&task.parent) {
            self.check_level(id).map_err(|_| Fault::Thrown("Maximum call stack size exceeded"))?;
            return self.refresh_task(task.parent);
        }
        Ok(())
    }

    /// `move`: to a place in a branch, or to its end.
    pub(super) fn move_task(&mut self, id: Id, index: Option<usize>, parent: Id) -> Run {
        if id == parent {
            return Ok(());
        }
        let Some(task) = self.tasks.get(&id) else { return Err(Fault::Thrown("move of an unknown task")) };
        let old = task.parent;
        let index = index.unwrap_or_else(|| self.branch(parent).len() + 1);
        if old == parent {
            let at = self.branch(old).iter().position(|known| *known == id);
            if at == Some(index) || (parent == ROOT && self.branch(ROOT).len() <= 1) {
                return Ok(());
            }
        }
        self.replace_branch_child(Some(old), id, None);
        // An array of its own replaces the branch in the end; a live one is the branch.
        let own = match self.branches.get_mut(&parent) {
            Some(branch) if index < branch.len() => {
                let mut own = branch.clone();
                own.insert(index, id);
                Some(own)
            }
            Some(branch) => {
                branch.push(id);
                None
            }
            None => Some(vec![id]),
        };
        if let Some(task) = self.tasks.get_mut(&id) {
            if task.rendered != Some(old) && old != parent {
                task.rendered = Some(old);
            }
        }
        // A branch that is empty for a moment is another array afterwards, and the empty one replaces it.
        let is_emptied =
            self.tasks[&id].rendered == Some(parent) && self.branch(parent).iter().all(|known| *known == id);
        let own = own.or_else(|| is_emptied.then(Vec::new));
        self.set_parent(id, parent)?;
        if let Some(own) = own {
            self.branches.insert(parent, own);
        }
        self.check_level(parent)?;
        self.each_item(id)?;
        self.ensure_filter()?;
        let branch = self.branch(parent);
        let at = branch.iter().position(|known| *known == id);
        let next = at.and_then(|at| branch.get(at + 1)).map(ToString::to_string);
        let before = at.and_then(|at| branch.get(at.checked_sub(1)?)).map(|before| format!("next:{before}"));
        let dropped = next.or(before).unwrap_or_else(|| "next:null".to_owned());
        if let Some(task) = self.tasks.get_mut(&id) {
            task.dropped = Some(dropped);
        }
        self.refresh_tasks()
    }

    /// `gantt.addTask` of a task that is not there.
    pub(super) fn add_task(&mut self, id: Id, mut task: Task) -> Run {
        let parent = if self.is_there(task.parent) { task.parent } else { ROOT };
        let old = Some(task.parent);
        self.move_branch_of(id, &mut task, old, Some(parent))?;
        task.parent = parent;
        let rendered = task.rendered;
        self.tasks.insert(id, task);
        self.request_filter()?;
        self.set_parent(id, parent)?;
        // A branch that waited for it goes here.
        self.move_branch(id, rendered, None)?;
        let mut rendered = self.tasks[&id].rendered;
        self.add_branch(id, parent, &mut rendered);
        if let Some(task) = self.tasks.get_mut(&id) {
            task.rendered = rendered;
        }
        self.task_added(id)?;
        self.refresh_task(id)
    }

    /// `gantt.updateTask`
    pub(super) fn update_task(&mut self, id: Id) -> Run {
        self.update_parents(id)?;
        let Some(task) = self.tasks.get(&id) else { return Ok(()) };
        if !self.is_batch && (!task.source.is_empty() || !task.target.is_empty()) {
            self.filter_links()?;
        }
        self.task_updated(id)?;
        self.refresh_task(id)
    }

    /// `gantt.deleteTask`: with what stands below it, and with the links that its tasks know of.
    pub(super) fn delete_task(&mut self, id: Id) -> Run {
        if !self.tasks.contains_key(&id) {
            return Err(Fault::Thrown("deletion of an unknown task"));
        }
        let below = self.each_item(id)?;
        let known = |id: &Id| self.tasks[id].source.iter().chain(&self.tasks[id].target);
        let links: Vec<Id> = [id].iter().chain(&below).flat_map(known).copied().collect();
        let mut links: Vec<Id> = links.into_iter().filter(|link| self.links.contains_key(link)).collect();
        links.sort_unstable();
        links.dedup();
        let gone: Vec<(Id, Task)> = below.iter().chain([&id]).map(|id| (*id, self.tasks[id].clone())).collect();
        let mut below: Vec<(Id, Map)> = below.iter().chain([&id]).map(|id| (*id, self.task_data(*id))).collect();
        let links: Vec<(Id, Map)> = links.into_iter().map(|link| (link, self.link_data(link))).collect();
        let own = below.pop().map(|(_, own)| own).unwrap_or_default();
        for (item, mut task) in gone {
            let parent = Some(task.parent);
            self.move_branch(item, parent, None)?;
            self.tasks.remove(&item);
            self.move_branch_of(item, &mut task, parent, None)?;
        }
        self.request_filter()?;
        for (link, _) in &links {
            self.take_link(*link);
        }
        self.task_deleted((id, own), below, links)
    }

    /// `gantt.changeTaskId`
    pub(super) fn change_task_id(&mut self, old: Id, new: Id) -> Run {
        let children = self.branch(old).to_vec();
        let moved = self.tasks.get(&old).cloned();
        if let Some(task) = moved {
            self.tasks.insert(new, task);
        }
        let Some(task) = self.tasks.get(&new) else {
            return Err(Fault::Thrown("Cannot set properties of undefined (setting 'id')"));
        };
        let parent = task.parent;
        if old != new {
            self.tasks.remove(&old);
        }
        self.replace_branch_child(Some(parent), old, Some(new));
        if let Some(branch) = self.branches.remove(&old) {
            self.branches.insert(new, branch);
        }
        for child in &children {
            let Some(child) = self.tasks.get_mut(child) else {
                return Err(Fault::Thrown("Cannot set properties of undefined (setting 'parent')"));
            };
            (child.parent, child.rendered) = (new, Some(new));
        }
        self.task_id_changed(new)?;
        let task = &self.tasks[&new];
        let known: Vec<Id> = task.source.iter().chain(&task.target).copied().collect();
        for link in known {
            let Some(link) = self.links.get_mut(&link) else {
                return Err(Fault::Thrown("Cannot read properties of undefined (reading 'source')"));
            };
            for end in [&mut link.source, &mut link.target] {
                if *end == old {
                    *end = new;
                }
            }
        }
        Ok(())
    }

    pub(super) fn children(&self, id: Id) -> Vec<Id> {
        self.branch(id).to_vec()
    }

    /// `$initItem` of an object that the page was sent: a task whose parent has changed is moved.
    pub(super) fn init_task(&mut self, id: Id, object: &Map) -> Run<Task> {
        let mut fields = object.clone();
        fields.remove("id");
        let parent = fields.remove("parent").as_ref().and_then(id_of).unwrap_or(ROOT);
        let index = fields.remove("$index").as_ref().and_then(id_of).filter(|_| object["$index"] != 0);
        let dropped = fields.remove("$drop_target").as_ref().and_then(Value::as_str).map(str::to_owned);
        let rendered = fields.remove("$rendered_parent");
        let rendered = rendered.as_ref().map(|rendered| id_of(rendered).unwrap_or(Id::MAX));
        fields.retain(|key, _| !key.starts_with('$'));
        for key in ["start_date", "end_date"] {
            if let Some(Value::String(date)) = fields.get_mut(key) {
                *date = as_sent(date);
            }
        }
        if self.tasks.get(&id).is_some_and(|known| known.parent != parent) {
            self.move_task(id, index.and_then(|index| usize::try_from(index).ok()), parent)?;
        }
        Ok(Task { fields, parent, dropped, rendered, ..Task::default() })
    }

    /// `parse` of the store of tasks.
    pub(super) fn parse_tasks(&mut self, list: &[Map]) -> Run {
        let mut loaded = Vec::new();
        for object in list {
            let Some(id) = object.get("id").and_then(id_of) else { continue };
            let task = self.init_task(id, object)?;
            // What the page knew of it besides is gone with the old object.
            self.tasks.insert(id, task);
            loaded.push(id);
        }
        for id in &loaded {
            self.set_parent(*id, self.tasks[id].parent)?;
        }
        for id in loaded {
            let Task { mut rendered, parent, .. } = self.tasks[&id];
            self.add_branch(id, parent, &mut rendered);
            if let Some(task) = self.tasks.get_mut(&id) {
                task.rendered = rendered;
            }
            self.check_level(parent)?;
        }
        self.filter_tasks()
    }

    /// What a batch has put off.
    pub(super) fn release_tasks(&mut self) -> Run {
        self.ensure_filter()
    }

    /// What the data processor sends of a task: of a deleted one, what it was.
    pub(super) fn task_data(&self, id: Id) -> Map {
        let Some(task) = self.tasks.get(&id) else { return self.stored(Kind::Task, id) };
        let mut data = task.fields.clone();
        data.insert("parent".to_owned(), task.parent.into());
        data
    }

    /// `gantt._sendTaskOrder`
    pub(super) fn send_task_order(&mut self, id: Id) -> Run {
        let Some(dropped) = self.tasks.get(&id).and_then(|task| task.dropped.clone()) else { return Ok(()) };
        if dropped.is_empty() {
            return Ok(());
        }
        self.mode = Kind::Task;
        if let Some(task) = self.tasks.get_mut(&id) {
            task.fields.insert("target".to_owned(), dropped.into());
        }
        self.set_updated(id, super::Status::Order)?;
        if let Some(task) = self.tasks.get_mut(&id) {
            task.dropped = None;
        }
        Ok(())
    }
}

/// A date in the page's own form: a bare day is its beginning.
fn as_sent(date: &str) -> String {
    match date.len() {
        10 => format!("{date} 00:00"),
        16.. => format!("{} {}", &date[..10], &date[11..16]),
        _ => date.to_owned(),
    }
}
