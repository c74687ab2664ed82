//! The data processor (`data_processor.ts`, `data_processor_events.ts`): one saving state for each mode, and one mode at a
//! time.

use std::collections::{BTreeMap, BTreeSet};

use super::{Answer, Id, Kind, Map, Method, Page, Request, Run};

pub(super) type Mode = Kind;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Inserted,
    Updated,
    Order,
    Deleted,
    TrulyDeleted,
}

/// What is swapped when the mode changes.
#[derive(Debug, Default)]
pub(super) struct ModeState {
    /// `_in_progress`: true where a further change waits for the answer.
    pub(super) in_progress: BTreeMap<Id, bool>,
    pub(super) invalid: BTreeSet<Id>,
    /// `updatedRows`
    pub(super) updated: Vec<Id>,
    /// `_storage`: what was deleted, as it was.
    stored: BTreeMap<Id, Map>,
}

impl Page {
    pub(super) fn current(&self) -> &ModeState {
        &self.modes[self.mode as usize]
    }

    /// What is saved of an object that the page has deleted.
    pub(super) fn stored(&self, kind: Kind, id: Id) -> Map {
        self.modes[kind as usize].stored.get(&id).cloned().unwrap_or_default()
    }

    fn store(&mut self, id: Id, data: Map) {
        self.current_mut().stored.insert(id, data);
    }

    fn current_mut(&mut self) -> &mut ModeState {
        &mut self.modes[self.mode as usize]
    }

    /// `getState`
    pub(super) fn state(&self, id: Id) -> Option<Status> {
        self.status[self.mode as usize].get(&id).copied()
    }

    fn set_status(&mut self, id: Id, status: Option<Status>) {
        let known = &mut self.status[self.mode as usize];
        match status {
            Some(status) => drop(known.insert(id, status)),
            None => drop(known.remove(&id)),
        }
    }

    /// `setUpdated(id, true, mode)`
    pub(super) fn set_updated(&mut self, id: Id, status: Status) -> Run {
        if self.silent {
            return Ok(());
        }
        let status = if status == Status::Updated { self.state(id).unwrap_or(status) } else { status };
        let current = self.current_mut();
        current.invalid.remove(&id);
        if !current.updated.contains(&id) {
            current.updated.push(id);
        }
        if let Some(waits) = current.in_progress.get_mut(&id) {
            *waits = true;
        }
        self.set_status(id, Some(status));
        self.mark_row(id)?;
        if !self.is_off && !self.current().in_progress.contains_key(&id) {
            self.send(id);
        }
        Ok(())
    }

    /// `setUpdated(id, false)`
    fn set_saved(&mut self, id: Id) -> Run {
        if self.silent {
            return Ok(());
        }
        if !self.current().invalid.contains(&id) {
            self.current_mut().updated.retain(|known| *known != id);
            self.set_status(id, None);
        }
        self.mark_row(id)
    }

    fn mark_row(&mut self, id: Id) -> Run {
        match self.mode {
            Kind::Task if self.tasks.contains_key(&id) => self.refresh_task(id),
            _ => Ok(()),
        }
    }

    /// `_beforeSendData`, `_sendData`
    fn send(&mut self, id: Id) {
        let kind = self.mode;
        let data = match kind {
            Kind::Task => self.task_data(id),
            Kind::Link => self.link_data(id),
        };
        let (method, body) = match self.state(id) {
            Some(Status::Inserted) => (Method::Post, data),
            Some(Status::Deleted) => (Method::Delete, Map::new()),
            _ => (Method::Put, data),
        };
        self.current_mut().in_progress.insert(id, false);
        self.last_number += 1;
        let number = self.last_number;
        self.in_flight.insert(number, (kind, id));
        self.sent.push(Request { number, kind, method, id, body });
        self.wait_mode += 1;
    }

    /// `sendAllData`
    fn send_all(&mut self) {
        for id in self.current().updated.clone() {
            let current = self.current();
            let is_due = !current.in_progress.contains_key(&id) && !current.invalid.contains(&id);
            if is_due && self.state(id).is_some() {
                self.send(id);
            }
        }
    }

    /// `sendData()`
    fn send_pending(&mut self) {
        let pending = [Kind::Task, Kind::Link].map(|mode| !self.modes[mode as usize].updated.is_empty());
        for (mode, is_pending) in [Kind::Task, Kind::Link].into_iter().zip(pending) {
            if is_pending {
                self.mode = mode;
                self.send_all();
            }
        }
    }

    /// `ignore`: an exception leaves the page silent.
    pub(super) fn ignore(&mut self, code: impl FnOnce(&mut Self) -> Run) -> Run {
        self.silent = true;
        code(self)?;
        self.silent = false;
        Ok(())
    }

    /// `gantt.batchUpdate`: an exception in it is noted, and what was to follow in it is lost; one in the drawing that
    /// follows leaves saving off for good.
    pub(super) fn batch(&mut self, code: impl FnOnce(&mut Self) -> Run) -> Run {
        let was_on = !self.is_off;
        self.is_off = true;
        self.is_batch = true;
        let done = code(self);
        self.note(done)?;
        let released = self.release_tasks();
        self.note(released)?;
        let released = self.release_links();
        self.note(released)?;
        self.is_batch = false;
        self.refresh_tasks()?;
        self.filter_links()?;
        if was_on {
            self.is_off = false;
            self.mode = Kind::Task;
            self.send_pending();
            self.mode = Kind::Link;
            self.send_pending();
        }
        Ok(())
    }

    /// Passes on what is no exception.
    fn note(&mut self, done: Run) -> Run {
        match done {
            Err(super::Fault::Thrown(why)) => {
                self.has_thrown(why);
                Ok(())
            }
            done => done,
        }
    }

    /// `clientSideDelete`
    fn client_side_delete(&mut self, id: Id) -> Run<bool> {
        let known = self.current().updated.clone();
        let mut client_only = false;
        if self.state(id) == Some(Status::TrulyDeleted) {
            client_only = true;
            self.set_saved(id)?;
        }
        if known.contains(&id) && !self.current().in_progress.contains_key(&id) {
            client_only |= self.state(id) == Some(Status::Inserted);
            self.set_saved(id)?;
        }
        Ok(client_only)
    }
}

/// What the stores report.
impl Page {
    pub(super) fn task_added(&mut self, id: Id) -> Run {
        self.mode = Kind::Task;
        self.set_updated(id, Status::Inserted)
    }

    pub(super) fn task_updated(&mut self, id: Id) -> Run {
        self.mode = Kind::Task;
        self.set_updated(id, Status::Updated)?;
        self.send_task_order(id)
    }

    /// With what stood below it, and the links of all of these.
    pub(super) fn task_deleted(&mut self, (id, own): (Id, Map), below: Vec<(Id, Map)>, links: Vec<(Id, Map)>) -> Run {
        self.mode = Kind::Task;
        let needs_delete = !self.client_side_delete(id)?;
        let was_off = std::mem::replace(&mut self.is_off, true);
        let mut below = below;
        below.sort_unstable_by_key(|(child, _)| *child);
        for (mode, gone) in [(Kind::Task, below), (Kind::Link, links)] {
            self.mode = mode;
            for (id, data) in gone {
                if !self.client_side_delete(id)? {
                    self.store(id, data);
                    self.set_updated(id, Status::Deleted)?;
                }
            }
        }
        if !was_off {
            self.send_all();
        }
        self.mode = Kind::Task;
        self.is_off = was_off;
        if needs_delete {
            self.store(id, own);
            self.set_updated(id, Status::Deleted)?;
        }
        if !self.is_off {
            self.send_all();
        }
        Ok(())
    }

    pub(super) fn link_added(&mut self, id: Id) -> Run {
        self.mode = Kind::Link;
        self.set_updated(id, Status::Inserted)
    }

    pub(super) fn link_updated(&mut self, id: Id) -> Run {
        self.mode = Kind::Link;
        self.set_updated(id, Status::Updated)
    }

    pub(super) fn link_deleted(&mut self, id: Id, data: Map) -> Run {
        self.mode = Kind::Link;
        if self.client_side_delete(id)? {
            return Ok(());
        }
        self.store(id, data);
        self.set_updated(id, Status::Deleted)
    }

    /// What names its temporary id is to be saved once more.
    pub(super) fn task_id_changed(&mut self, new: Id) -> Run {
        if self.wait_mode == 0 {
            return Ok(());
        }
        self.corrected[0].extend(self.children(new));
        let task = &self.tasks[&new];
        let links: Vec<Id> = task.source.iter().chain(&task.target).copied().collect();
        if links.iter().any(|link| !self.links.contains_key(link)) {
            return Err(super::Fault::Thrown("Cannot read properties of undefined (reading 'id')"));
        }
        self.corrected[1].extend(links);
        Ok(())
    }
}

/// Answers.
impl Page {
    pub(super) fn after_update(&mut self, kind: Kind, id: Id, answer: &Answer) -> Run {
        self.mode = kind;
        self.after_update_callback(id, answer)?;
        self.finalize()?;
        self.mode = kind;
        Ok(())
    }

    fn after_update_callback(&mut self, sid: Id, answer: &Answer) -> Run {
        if matches!(answer, Answer::Refused) {
            self.current_mut().invalid.insert(sid);
        }
        let waits = |page: &Self| page.current().in_progress.get(&sid) == Some(&true);
        if !waits(self) {
            self.set_saved(sid)?;
        }
        let mut id = sid;
        let mut tid = sid;
        if let Answer::Done { tid: given, action } = answer {
            tid = given.unwrap_or(sid);
            match *action {
                "inserted" if tid != sid => {
                    self.set_saved(sid)?;
                    match self.mode {
                        Kind::Task => self.change_task_id(sid, tid)?,
                        Kind::Link => self.change_link_id(sid, tid)?,
                    }
                    id = tid;
                }
                "deleted" => {
                    self.set_status(sid, Some(Status::TrulyDeleted));
                    self.current_mut().in_progress.remove(&sid);
                    return Ok(());
                }
                _ => {}
            }
        }
        if waits(self) {
            self.current_mut().in_progress.remove(&sid);
            let status = self.state(id).unwrap_or(Status::Updated);
            return self.set_updated(tid, status);
        }
        if matches!(answer, Answer::Done { .. }) {
            self.set_status(id, None);
        }
        self.current_mut().in_progress.remove(&sid);
        Ok(())
    }

    /// `finalizeUpdate`
    fn finalize(&mut self) -> Run {
        self.wait_mode = self.wait_mode.saturating_sub(1);
        if self.corrected.iter().any(|some| !some.is_empty()) {
            self.batch(|page| {
                for id in page.corrected[0].clone() {
                    page.update_task(id)?;
                }
                for id in page.corrected[1].clone() {
                    if !page.has(Kind::Link, id) {
                        return Err(super::Fault::Thrown("update of an unknown link"));
                    }
                    page.update_link(id)?;
                }
                page.corrected = Default::default();
                Ok(())
            })?;
            self.mode = if self.corrected[0].is_empty() { Kind::Link } else { Kind::Task };
        }
        if self.current().updated.is_empty() { self.full_sync() } else { Ok(()) }
    }
}
