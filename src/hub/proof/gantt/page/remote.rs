//! The handlers of remote updates (`remote_events/handlers.js`), and the list.

use serde_json::Value;

use super::{Fault, Id, Kind, Link, Map, Page, Run, Task, id_of, processor::Status};

impl Page {
    /// Queues a message, holds it, or drops it; true where it is queued, and the 50 ms begin anew.
    pub(super) fn remote_update(&mut self, value: &Value) -> bool {
        let id = |key: &str| value.get(key).and_then(|object| object.get("id")).and_then(id_of);
        let Some(id) = id("task").or_else(|| id("link")) else { return false };
        if self.current().in_progress.contains_key(&id) {
            return false;
        }
        self.saved_then.extend(self.modes[Kind::Task as usize].in_progress.keys());
        if value["type"] == "add-task" {
            let is_inserted = |id: &Id| self.state(*id) == Some(Status::Inserted);
            if self.current().in_progress.keys().any(is_inserted) {
                self.held.push(value.clone());
                return false;
            }
        }
        self.queue.push(value.clone());
        true
    }

    pub(super) fn process_queue(&mut self) -> Run {
        let queue = self.queue.clone();
        match &queue[..] {
            [] => return Ok(()),
            [message] => self.process(message)?,
            messages => self.batch(|page| messages.iter().try_for_each(|message| page.process(message)))?,
        }
        self.queue.clear();
        self.forget_saved();
        Ok(())
    }

    fn forget_saved(&mut self) {
        if self.queue.is_empty() && self.held.is_empty() {
            self.saved_then.clear();
        }
    }

    /// `onFullSync`: an add that throws stays, and so do all behind it.
    pub(super) fn full_sync(&mut self) -> Run {
        while let Some(message) = self.held.first().cloned() {
            if !message["task"].get("id").and_then(id_of).is_some_and(|id| self.tasks.contains_key(&id)) {
                self.process(&message)?;
            }
            self.held.remove(0);
        }
        self.forget_saved();
        Ok(())
    }

    fn process(&mut self, message: &Value) -> Run {
        let nothing = Map::new();
        let object = |key: &str| message[key].as_object().unwrap_or(&nothing);
        let id = |key: &str| message[key].get("id").and_then(id_of).unwrap_or(Id::MAX);
        match message["type"].as_str().unwrap_or_default() {
            "add-task" => self.receive_task(id("task"), object("task")),
            "update-task" => self.receive_task_update(id("task"), object("task")),
            "delete-task" if self.tasks.contains_key(&id("task")) => self.ignore(|page| page.delete_task(id("task"))),
            "add-link" if !self.has(Kind::Link, id("link")) => {
                self.ignore(|page| page.add_link(id("link"), Link::of(object("link"))))
            }
            "update-link" if self.has(Kind::Link, id("link")) => self.ignore(|page| {
                let known = page.links.get_mut(&id("link")).expect("it is there");
                let Link { source, target, fields } = Link::of(object("link"));
                let of = |end: Id, was: Id| if end == Id::MAX { was } else { end };
                (known.source, known.target) = (of(source, known.source), of(target, known.target));
                known.fields.extend(fields);
                page.update_link(id("link"))
            }),
            "delete-link" if self.has(Kind::Link, id("link")) => self.ignore(|page| page.delete_link(id("link"))),
            _ => Ok(()),
        }
    }

    fn receive_task(&mut self, id: Id, object: &Map) -> Run {
        if self.tasks.contains_key(&id) {
            return Ok(());
        }
        if !object.get("start_date").is_some_and(Value::is_string) {
            return Err(Fault::Thrown("add of a task without a date"));
        }
        self.ignore(|page| {
            let task = page.init_task(id, object)?;
            page.add_task(id, Task { rendered: None, ..task })
        })
    }

    fn receive_task_update(&mut self, id: Id, object: &Map) -> Run {
        if !self.tasks.contains_key(&id) {
            self.boxes += 1;
            return Ok(());
        }
        self.ignore(|page| {
            let Task { fields, parent, dropped, rendered, .. } = page.init_task(id, object)?;
            let task = page.tasks.get_mut(&id).expect("it is there");
            task.fields.extend(fields);
            task.parent = parent;
            (task.source, task.target) = (Vec::new(), Vec::new());
            if dropped.is_some() {
                task.dropped = dropped;
            }
            if rendered.is_some() {
                task.rendered = rendered;
            }
            page.update_task(id)
        })
    }

    /// `gantt.parse`
    pub(super) fn parse(&mut self, tasks: &[Map], links: &[Map]) -> Run {
        self.parse_tasks(tasks)?;
        self.parse_links(links)?;
        self.sync_links();
        self.refresh_tasks()?;
        self.filter_links()
    }
}
