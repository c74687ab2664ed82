//! The store of links (`datastore.js`, `datastore_hooks.js`).

use super::{Fault, Id, Kind, Link, Map, Page, Run, id_of};

impl Link {
    pub(super) fn of(object: &Map) -> Self {
        let end = |key: &str| object.get(key).and_then(id_of).unwrap_or(Id::MAX);
        let mut fields = object.clone();
        fields.retain(|key, _| !matches!(key.as_str(), "id" | "source" | "target"));
        Self { source: end("source"), target: end("target"), fields }
    }
}

impl Page {
    /// `filter`: what is listed and gone makes it throw.
    pub(super) fn filter_links(&mut self) -> Run {
        let tree = self.each_item(super::ROOT)?;
        self.visible_links.clear();
        self.links_pending = true;
        for id in &self.link_order {
            let Some(link) = self.links.get(id) else {
                return Err(Fault::Thrown("Cannot read properties of undefined (reading 'id')"));
            };
            if tree.contains(&link.source) && tree.contains(&link.target) {
                self.visible_links.insert(*id);
            }
        }
        self.links_pending = false;
        Ok(())
    }

    fn request_link_filter(&mut self) -> Run {
        if self.is_batch {
            self.links_pending = true;
            return Ok(());
        }
        self.filter_links()
    }

    pub(super) fn release_links(&mut self) -> Run {
        if self.links_pending { self.filter_links() } else { Ok(()) }
    }

    fn sync_link(&mut self, id: Id) {
        let Some(Link { source, target, .. }) = self.links.get(&id) else { return };
        let (source, target) = (*source, *target);
        if let Some(task) = self.tasks.get_mut(&source).filter(|task| !task.source.contains(&id)) {
            task.source.push(id);
        }
        if let Some(task) = self.tasks.get_mut(&target).filter(|task| !task.target.contains(&id)) {
            task.target.push(id);
        }
    }

    fn unsync_link(&mut self, id: Id, link: &Link) {
        let forget = |known: &mut Vec<Id>| {
            if let Some(at) = known.iter().position(|known| *known == id) {
                known.remove(at);
            }
        };
        if let Some(task) = self.tasks.get_mut(&link.source) {
            forget(&mut task.source);
        }
        if let Some(task) = self.tasks.get_mut(&link.target) {
            forget(&mut task.target);
        }
    }

    /// `sync_links`
    pub(super) fn sync_links(&mut self) {
        for task in self.tasks.values_mut() {
            (task.source, task.target) = (Vec::new(), Vec::new());
        }
        let ids: Vec<Id> = self.links.keys().copied().collect();
        ids.into_iter().for_each(|id| self.sync_link(id));
    }

    /// `gantt.addLink`
    pub(super) fn add_link(&mut self, id: Id, link: Link) -> Run {
        self.links.insert(id, link);
        if !self.link_order.contains(&id) {
            self.link_order.push(id);
        }
        self.request_link_filter()?;
        self.sync_link(id);
        self.link_added(id)
    }

    /// `gantt.updateLink`
    pub(super) fn update_link(&mut self, id: Id) -> Run {
        self.sync_links();
        self.link_updated(id)?;
        if self.is_batch {
            return Ok(());
        }
        self.release_links()?;
        let Some(link) = self.links.get(&id).filter(|_| self.visible_links.contains(&id)) else { return Ok(()) };
        if self.tasks.contains_key(&link.source) && self.tasks.contains_key(&link.target) {
            return Ok(());
        }
        Err(Fault::Thrown("drawing of a link whose end is gone"))
    }

    fn take(&mut self, id: Id) -> Option<Link> {
        if let Some(at) = self.link_order.iter().position(|known| *known == id) {
            self.link_order.remove(at);
        }
        self.visible_links.remove(&id);
        self.links.remove(&id)
    }

    /// Removes a link without a word, with its task.
    pub(super) fn take_link(&mut self, id: Id) {
        if let Some(link) = self.take(id) {
            self.unsync_link(id, &link);
        }
    }

    /// `gantt.deleteLink`
    pub(super) fn delete_link(&mut self, id: Id) -> Run {
        let data = self.link_data(id);
        let Some(link) = self.take(id) else { return Err(Fault::Thrown("deletion of an unknown link")) };
        self.request_link_filter()?;
        self.unsync_link(id, &link);
        for end in [link.source, link.target] {
            if self.tasks.contains_key(&end) {
                self.refresh_task(end)?;
            }
        }
        self.link_deleted(id, data)
    }

    /// `gantt.changeLinkId`
    pub(super) fn change_link_id(&mut self, old: Id, new: Id) -> Run {
        if let Some(link) = self.links.get(&old).cloned() {
            self.links.insert(new, link);
        }
        let Some(link) = self.links.get(&new).cloned() else {
            return Err(Fault::Thrown("Cannot set properties of undefined (setting 'id')"));
        };
        if let Some(at) = self.link_order.iter().position(|known| *known == old) {
            self.link_order[at] = new;
        }
        if old != new {
            self.links.remove(&old);
        }
        self.unsync_link(old, &link);
        self.sync_link(new);
        Ok(())
    }

    /// `parse` of the store of links.
    pub(super) fn parse_links(&mut self, list: &[Map]) -> Run {
        for object in list {
            let Some(id) = object.get("id").and_then(id_of) else { continue };
            if self.links.insert(id, Link::of(object)).is_none() {
                self.link_order.push(id);
            }
        }
        self.filter_links()
    }

    /// What the data processor sends of a link: of a deleted one, what it was.
    pub(super) fn link_data(&self, id: Id) -> Map {
        let Some(link) = self.links.get(&id) else { return self.stored(Kind::Link, id) };
        let mut data = link.fields.clone();
        data.insert("source".to_owned(), link.source.into());
        data.insert("target".to_owned(), link.target.into());
        data
    }

    pub(super) fn has(&self, kind: Kind, id: Id) -> bool {
        match kind {
            Kind::Task => self.tasks.contains_key(&id),
            Kind::Link => self.links.contains_key(&id),
        }
    }
}
