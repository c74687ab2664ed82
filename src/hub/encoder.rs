//! Encodes an entity's changes as frames: for the live broadcast, and for replays and resends.
//!
//! The stock client ignores the `add` of an object it has and the `update` of one it does not have, so the two
//! together bring any page to the object's state. What the Scheduler needs besides was seen with version 7.2.15.

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use bytes::Bytes;

use crate::{
    change::{Change, ChangeKind, Placement},
    entity::{EntityIndex, Place, ROOT, View, Widget},
    frame::Frame,
    hub::{
        log::Tombstone,
        upsert::{self, Upsert},
    },
    object::{Object, string},
    protocol::{self, EventFrame, EventHead},
    scope::Scopes,
};

/// The entity whose subscribers receive notice that other entities must be loaded again.
pub(crate) const RESYNC: &str = "$resync";
/// Objects of so many bytes are not parsed under the log's lock.
pub(super) const LARGE: usize = 16 * 1024;
/// The most scopes that are tried one by one for an id.
const MAX_KEYS: usize = 16;

/// What is needed to encode the changes of one entity.
#[derive(Debug)]
pub(crate) struct EntityEncoder {
    pub(crate) entity: String,
    pub(crate) payload_key: String,
    pub(crate) widget: Widget,
    /// The keys under which an object names others that it is deleted with.
    pub(crate) parent_keys: Vec<String>,
    /// The field of a task that holds its place among its siblings.
    pub(crate) order_key: Option<String>,
    /// The entity of those others, if it is another one.
    pub(crate) parents_of: Option<EntityIndex>,
    /// The entity whose objects name this one's, if that is another one.
    pub(crate) named_by: Option<EntityIndex>,
    /// True when the store can be asked for all its rows.
    pub(crate) has_snapshot: bool,
    /// Not every page receives every change.
    pub(crate) is_scoped: bool,
    /// An id names an object of its scope only.
    pub(crate) scoped_ids: bool,
    pub(crate) view: Option<View>,
    /// Nothing is sent but the messages of the vendor's article.
    pub(crate) is_plain: bool,
    /// Its objects are those who are here: no page holds them in a form or a list.
    pub(crate) is_presence: bool,
    /// A page is not sent its own changes as they happen.
    pub(crate) skips_writer: bool,
    /// How the frames of its changes begin, by their kind: add, update, delete.
    pub(crate) heads: [EventHead; 3],
    /// How the frames of its moves begin.
    pub(crate) move_head: EventHead,
}

impl EntityEncoder {
    /// For any widget, without a snapshot, scopes or a view.
    pub(crate) fn new(entity: impl Into<String>, payload_key: impl Into<String>) -> Self {
        let (entity, payload_key) = (entity.into(), payload_key.into());
        Self {
            heads: [ChangeKind::Add, ChangeKind::Update, ChangeKind::Delete]
                .map(|kind| EventHead::new(&entity, kind.verb(), &payload_key)),
            move_head: EventHead::new(&entity, "move", &payload_key),
            entity,
            payload_key,
            widget: Widget::Any,
            parent_keys: Vec::new(),
            order_key: None,
            parents_of: None,
            named_by: None,
            has_snapshot: false,
            is_scoped: false,
            scoped_ids: false,
            view: None,
            is_plain: false,
            is_presence: false,
            skips_writer: false,
        }
    }

    /// What the log finds an object by, whose id is unique in these scopes.
    pub(crate) fn key<'k>(&self, namespace: &Scopes, id: &'k str) -> Cow<'k, str> {
        if self.scoped_ids { Cow::Owned(key_within(namespace, id)) } else { Cow::Borrowed(id) }
    }

    /// The keys that the log may know an object of these scopes by: the id may be unique within all scopes, or within each.
    /// With `claims_apart`, a request may also claim to have changed it within each.
    pub(crate) fn keys<'k>(&self, scopes: &Scopes, id: &'k str, claims_apart: bool) -> Vec<Cow<'k, str>> {
        let one = (!self.scoped_ids).then_some(Cow::Borrowed(id));
        let within = if self.scoped_ids || claims_apart { keys_within(scopes, id) } else { Vec::new() };
        one.into_iter().chain(within.into_iter().map(Cow::Owned)).collect()
    }

    /// True where some pages receive what others may not.
    pub(crate) fn is_restricted(&self) -> bool {
        self.is_scoped || self.view.is_some()
    }

    /// Whether pages tolerate a row of this kind.
    pub(crate) fn accepts_row(&self, change: &Change) -> bool {
        self.widget.check(change.kind(), &Object::of(change.object()).unwrap_or_default()).is_ok()
    }

    /// Whether pages tolerate this object in a change of this kind.
    pub(crate) fn accepts(&self, kind: ChangeKind, object: &str) -> bool {
        Object::of(object).is_some_and(|object| self.widget.check(kind, &object).is_ok())
    }

    /// As [`accepts`](Self::accepts), for an add, of which enough must be known: see [`is_enough`](Self::is_enough).
    pub(crate) fn can_add(&self, object: &[u8], whole: bool) -> bool {
        self.is_enough(whole) && std::str::from_utf8(object).is_ok_and(|object| self.accepts(ChangeKind::Add, object))
    }

    /// Whether so much of an object is known that pages can be sent an add. Plain delivery has no other message for an
    /// object that enters.
    pub(crate) fn is_enough(&self, whole: bool) -> bool {
        whole || self.is_plain
    }

    fn head(&self, kind: ChangeKind) -> &EventHead {
        &self.heads[kind as usize]
    }

    /// A change as it happens, in the protocol of the vendor's article alone.
    pub(crate) fn encode(&self, kind: ChangeKind, object: &str) -> EventFrame {
        // The client throws where it draws an updated link of which it does not know an end, and not at an added one.
        let is_link = kind == ChangeKind::Update && self.widget == Widget::GanttLinks && !self.is_plain;
        if is_link && self.accepts(ChangeKind::Add, object) {
            return glued_around(Some(self.delete_by_id(object)), self.head(ChangeKind::Add).event(object), None);
        }
        self.encode_moved(kind, object, None)
    }

    /// The same of a task that steps `aside` before it comes to its place.
    pub(crate) fn encode_moved(&self, kind: ChangeKind, object: &str, aside: Option<Bytes>) -> EventFrame {
        let added = (kind == ChangeKind::Add).then(|| self.widget.added_form(object)).flatten();
        let add = added.map(|added| self.head(ChangeKind::Add).event(&added).frame);
        if add.is_none() && aside.is_none() {
            return self.head(kind).event(object);
        }
        let before: Vec<Bytes> = add.into_iter().chain(aside).collect();
        glued_around(Some(protocol::glued(&before)), self.head(ChangeKind::Update).event(object), None)
    }

    /// The place of a task among its siblings, where that is to be kept on pages.
    pub(crate) fn place_of(&self, object: &str) -> Option<Arc<Place>> {
        let is_ordered = self.order_key.is_some() && !self.is_plain;
        is_ordered.then(|| Object::of(object).and_then(|task| Place::of(&task))).flatten().map(Arc::new)
    }

    /// A task below another parent, whose id is JSON text.
    pub(crate) fn encode_aside(&self, place: &Place, parent: &str) -> Bytes {
        self.head(ChangeKind::Update).event(place.aside(parent)).frame
    }

    /// The same of this change, with another object. A move among siblings is a message of its own.
    pub(crate) fn encode_change(&self, change: &Change, object: &str) -> EventFrame {
        match &change.placement {
            None => self.encode(change.kind(), object),
            Some(Placement { before }) => self.move_head.moved(object, before.as_deref()),
        }
    }

    /// The same of an object that is kept besides, and not copied where it is large.
    pub(crate) fn encode_shared(&self, kind: ChangeKind, object: &Bytes) -> Frame {
        if kind == ChangeKind::Add && self.widget == Widget::GanttTasks {
            return self.encode(kind, &String::from_utf8_lossy(object)).frame.into();
        }
        upsert::event(self.head(kind), object)
    }

    /// The newest state of an object, which is not copied where it is large; see [`can_add`](Self::can_add).
    pub(crate) fn encode_upsert(&self, object: &Bytes, can_add: bool) -> Upsert {
        let (add, update) = (self.head(ChangeKind::Add), self.head(ChangeKind::Update));
        let text = || String::from_utf8_lossy(object);
        match self.widget {
            Widget::Any | Widget::Scheduler => Upsert::of(can_add.then_some(add), update, object),
            Widget::GanttTasks => {
                let added = can_add.then(|| self.widget.added_form(&text())).flatten();
                Upsert::behind(added.map(|added| add.event(added).frame), update, object)
            }
            // A link that a page holds twice, or without an end, stands there once after this.
            Widget::GanttLinks if can_add => Upsert::afresh(self.delete_by_id(&text()), add, object),
            Widget::GanttLinks => Upsert::of(None, update, object),
        }
    }

    /// The deletion of an object in JSON text, by its id.
    fn delete_by_id(&self, object: &str) -> Bytes {
        let id = Object::of(object).and_then(|object| object.get("id").map(str::to_owned)).unwrap_or_default();
        self.head(ChangeKind::Delete).event(format!(r#"{{"id":{id}}}"#)).frame
    }

    /// The newest state of an object in a tree, but at the root.
    pub(crate) fn encode_at_root(&self, object: &Bytes, can_add: bool) -> Frame {
        let text = String::from_utf8_lossy(object);
        let at_root =
            Object::of(&text).zip(self.parent_keys.first()).map(|(object, key)| object.with(key, "0").to_json());
        self.encode_upsert(&at_root.map_or_else(|| object.clone(), Bytes::from), can_add).for_pages(false)
    }

    /// As [`encode_upsert`](Self::encode_upsert), for an object that was only added: a page that has it needs nothing,
    /// and the client applies a thousand adds in the time of four updates.
    pub(crate) fn encode_add(&self, object: &Bytes) -> Upsert {
        match self.widget {
            Widget::Any | Widget::Scheduler => Upsert::alone(self.head(ChangeKind::Add), object),
            Widget::GanttTasks | Widget::GanttLinks => self.encode_upsert(object, true),
        }
    }

    /// A deletion; `object` holds the id.
    ///
    /// The Scheduler does not remove a deleted exception of a series, so that the occurrence stays hidden: where
    /// `may_be_exception`, it is made an event like others first. A delete that meets the open form of its event
    /// throws and leaves saving switched off; an update of what is not there any more is skipped by the others and
    /// switches saving on again.
    pub(crate) fn encode_delete(&self, object: &str, may_be_exception: bool) -> EventFrame {
        let delete = self.encode(ChangeKind::Delete, object);
        let Some(id) = Object::of(object).and_then(|object| object.get("id").map(str::to_owned)) else { return delete };
        match self.widget {
            Widget::Scheduler if !self.is_plain => {
                let awake = self.encode(ChangeKind::Update, &format!(r#"{{"id":{id}}}"#)).frame;
                let ordinary = format!(r#"{{"id":{id},"recurring_event_id":"","original_start":null,"rrule":""}}"#);
                let first = may_be_exception.then(|| self.encode(ChangeKind::Update, &ordinary).frame);
                glued_around(first, delete, Some(awake))
            }
            // A page that holds the link twice keeps a remainder of it, which the second deletion takes along.
            Widget::GanttLinks if !self.is_plain => {
                let add = self.head(ChangeKind::Add).event(object).frame;
                let again = protocol::glued(&[add, delete.frame.clone()]);
                glued_around(None, delete, Some(again))
            }
            _ => delete,
        }
    }

    /// A deletion, as a replay or a resend sends it.
    pub(crate) fn encode_tombstone(&self, tombstone: &Tombstone) -> Bytes {
        self.encode_delete(&String::from_utf8_lossy(&tombstone.object), tombstone.may_be_exception).frame
    }

    /// An object that enters what a page may see; see [`can_add`](Self::can_add).
    pub(crate) fn encode_enter(&self, object: &Bytes, can_add: bool) -> Frame {
        match (self.is_plain, can_add) {
            (false, _) => self.encode_upsert(object, can_add).for_pages(false),
            (true, true) => self.encode_shared(ChangeKind::Add, object),
            (true, false) => self.encode_shared(ChangeKind::Update, object),
        }
    }

    /// An object that leaves what a page may see.
    pub(crate) fn encode_leave(&self, object: &[u8]) -> Bytes {
        let object = Object::parse(object).unwrap_or_default();
        self.encode_leave_by_id(object.get("id").unwrap_or("null"))
    }

    /// The same, with its id as JSON text.
    pub(crate) fn encode_leave_by_id(&self, raw_id: &str) -> Bytes {
        self.encode_delete(&format!(r#"{{"id":{raw_id}}}"#), true).frame
    }

    /// Whether an object can be an exception of a series, where so much of it is known, and whether that is all of it.
    pub(crate) fn may_be_exception(&self, known: Option<(&[u8], bool)>) -> bool {
        let known = known.and_then(|(object, whole)| Some((Object::parse(object)?, whole)));
        match (self.widget, known) {
            (Widget::Scheduler, None) => true,
            (Widget::Scheduler, Some((object, whole))) => !whole || named(&object, "recurring_event_id").is_some(),
            (_, _) => false,
        }
    }

    /// Whether children of an object may have children themselves: exceptions of a series have none.
    pub(crate) fn has_trees(&self) -> bool {
        self.widget != Widget::Scheduler || self.parent_keys.first().is_none_or(|key| key != "recurring_event_id")
    }

    /// An object in the form that every page reads.
    pub(crate) fn normal_form(&self, object: &str) -> Bytes {
        let normal = self.widget.normal_form(object, self.order_key.as_deref());
        normal.map_or_else(|| Bytes::copy_from_slice(object.as_bytes()), Bytes::from)
    }

    /// Rows with each parent before its children, where pages need that.
    pub(crate) fn in_tree_order<'c>(&self, rows: Vec<&'c Change>) -> Vec<&'c Change> {
        if !self.is_tree() {
            return rows;
        }
        let parent = |row: &Change| self.parents_in(row.object()).into_iter().next();
        let parents: Vec<Option<String>> = rows.iter().map(|row| parent(row)).collect();
        let place: HashMap<&str, usize> = rows.iter().enumerate().map(|(at, row)| (row.id(), at)).collect();
        let mut depths: Vec<Option<usize>> = vec![None; rows.len()];
        let mut is_seen = vec![false; rows.len()];
        for at in 0..rows.len() {
            let mut path = Vec::new();
            let mut next = Some(at);
            // A ring ends where it comes back to its path.
            while let Some(row) = next.filter(|row| depths[*row].is_none() && !is_seen[*row]) {
                is_seen[row] = true;
                path.push(row);
                next = parents[row].as_deref().and_then(|parent| place.get(parent).copied());
            }
            let above = next.and_then(|row| depths[row]).map_or(0, |depth| depth + 1);
            for (depth, row) in (above..).zip(path.into_iter().rev()) {
                depths[row] = Some(depth);
            }
        }
        let places = rows.iter().map(|row| Place::index_in(row.object(), self.order_key.as_deref()?));
        let keys = depths.into_iter().zip(parents).zip(places);
        let mut ordered: Vec<_> = keys.zip(rows.iter().copied()).collect();
        match self.order_key {
            None => ordered.sort_by_key(|(((depth, _), _), _)| *depth),
            // Those without a place come last.
            Some(_) => ordered.sort_by(|(((depth, parent), place), _), (((other_depth, other_parent), other), _)| {
                let key = (depth, parent, place.is_none(), place);
                key.cmp(&(other_depth, other_parent, other.is_none(), other))
            }),
        }
        ordered.into_iter().map(|(_, row)| row).collect()
    }

    /// Whether pages need each parent before its children.
    pub(crate) fn is_tree(&self) -> bool {
        self.widget.family().is_some() && self.parents_of.is_none()
    }

    /// Whether objects of this entity may be deleted with others of it.
    pub(crate) fn has_children(&self) -> bool {
        !self.parent_keys.is_empty() && self.parents_of.is_none()
    }

    /// The ids of the objects that this one is deleted with. Where siblings have an order, those at the root are siblings too.
    pub(crate) fn parents(&self, object: &Object<'_>) -> Vec<String> {
        let named: Vec<String> = self.parent_keys.iter().filter_map(|key| named(object, key)).collect();
        if named.is_empty() && self.order_key.is_some() { vec![ROOT.to_owned()] } else { named }
    }

    /// The same, of an object as JSON text, which is parsed only where the entity has parents.
    pub(crate) fn parents_in(&self, object: &str) -> Vec<String> {
        if self.parent_keys.is_empty() {
            return Vec::new();
        }
        Object::of(object).map(|object| self.parents(&object)).unwrap_or_default()
    }

    /// The message for handlers of `$resync`, whether or not they are subscribed yet: pages without any ignore it.
    pub(crate) fn resync_message(&self) -> Bytes {
        let name = crate::object::quoted(&self.entity);
        protocol::message(RESYNC, &format!(r#"{{"type":"resync","entity":{name}}}"#))
    }

    /// The message after which a page must load its list again.
    pub(crate) fn resync_marker(&self) -> Bytes {
        let key = crate::object::quoted(&self.payload_key);
        protocol::message(&self.entity, &format!(r#"{{"type":"resync",{key}:{{"id":"$resync"}}}}"#))
    }
}

/// A frame between others, in one write.
fn glued_around(before: Option<Bytes>, event: EventFrame, behind: Option<Bytes>) -> EventFrame {
    let start =
        before.as_ref().map_or(0, Bytes::len) + event.frame.len() - event.object.len() - protocol::EVENT_TAIL.len();
    let frames: Vec<Bytes> = before.into_iter().chain([event.frame]).chain(behind).collect();
    let frame = protocol::glued(&frames);
    EventFrame { object: frame.slice(start..start + event.object.len()), frame }
}

/// The key of an object in these scopes, which differs from that of the same id elsewhere.
pub(crate) fn key_within(scopes: &Scopes, id: &str) -> String {
    // With their lengths, so that no two can be mistaken for each other.
    let names = scopes.names().map(|name| format!("{}.{name}", name.len()));
    format!("{}|{id}", names.collect::<String>())
}

/// The same of each of the scopes, and of all together.
pub(crate) fn keys_within(scopes: &Scopes, id: &str) -> Vec<String> {
    let of_one = scopes.names().map(|name| key_within(&std::iter::once(name).collect(), id));
    let mut keys: Vec<String> = of_one.take(MAX_KEYS).collect();
    if keys.len() != 1 {
        keys.push(key_within(scopes, id));
    }
    keys
}

/// The id another object is named by, unless it is empty.
fn named(object: &Object<'_>, key: &str) -> Option<String> {
    let raw = object.get(key)?;
    match string(raw) {
        Some(text) => (!text.is_empty()).then(|| text.into_owned()),
        None => (raw.starts_with(|first: char| first.is_ascii_digit()) && raw != "0").then(|| raw.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scheduler() -> EntityEncoder {
        EntityEncoder {
            widget: Widget::Scheduler,
            parent_keys: vec!["recurring_event_id".into()],
            ..EntityEncoder::new("events", "event")
        }
    }

    fn upsert(encoder: &EntityEncoder, object: &str, whole: bool) -> Upsert {
        let object = Bytes::copy_from_slice(object.as_bytes());
        encoder.encode_upsert(&object, encoder.can_add(&object, whole))
    }

    /// The values of the messages in some frames.
    fn values(frames: &Bytes) -> Vec<String> {
        let mut rest = &frames[..];
        let mut values = Vec::new();
        while !rest.is_empty() {
            let (length, head) = match rest[1] {
                126 => (usize::from(u16::from_be_bytes([rest[2], rest[3]])), 4),
                short => (usize::from(short), 2),
            };
            let text = String::from_utf8(rest[head..head + length].to_vec()).unwrap();
            let value = text.split_once(r#","value":"#).unwrap().1;
            values.push(value.strip_suffix("}}").unwrap().to_owned());
            rest = &rest[head + length..];
        }
        values
    }

    const WHOLE: &str = r#"{"id":1,"start_date":"2026-11-25 09:00","end_date":"2026-11-25 10:00"}"#;

    #[test]
    fn a_whole_object_is_added_and_updated() {
        let upsert = upsert(&scheduler(), WHOLE, true);
        let frames = values(&upsert.for_pages(false).to_bytes());
        let expected = ["add", "update"].map(|verb| format!(r#"{{"type":"{verb}-event","event":{WHOLE}}}"#));
        assert_eq!(frames, expected);
        assert_eq!(values(&upsert.for_pages(true).to_bytes()), expected[1..]);
    }

    #[test]
    fn a_large_object_is_shared_and_not_copied() {
        let dates = &WHOLE[1..WHOLE.len() - 1];
        let object = Bytes::from(format!(r#"{{{dates},"text":"{}"}}"#, "x".repeat(40_000)));
        let text = std::str::from_utf8(&object).unwrap();
        let expected = ["add", "update"].map(|verb| format!(r#"{{"type":"{verb}-event","event":{text}}}"#));
        let encoder = scheduler();
        let whole = encoder.encode_upsert(&object, encoder.can_add(&object, true));
        let partial = encoder.encode_upsert(&object, encoder.can_add(&object, false));
        for (frame, expected_values) in [
            (whole.for_pages(false), &expected[..]),
            (whole.for_pages(true), &expected[1..]),
            (partial.for_pages(false), &expected[1..]),
            (partial.for_pages(true), &expected[1..]),
            (encoder.encode_shared(ChangeKind::Add, &object), &expected[..1]),
        ] {
            assert_eq!(values(&frame.to_bytes()), expected_values);
            let own = frame.own_bytes(|piece| piece.as_ptr() == object.as_ptr());
            assert!(own < 600, "{own}");
        }
        assert!(whole.bytes() < 600);
    }

    #[test]
    fn what_would_poison_a_page_is_only_updated() {
        let undated = r#"{"id":1,"text":"x"}"#;
        for (object, whole) in [(undated, true), (WHOLE, false)] {
            let frame = upsert(&scheduler(), object, whole).for_pages(false);
            assert_eq!(values(&frame.to_bytes()).len(), 1, "{object}");
        }
        let link = upsert(&EntityEncoder::new("links", "link"), undated, true).for_pages(false);
        assert_eq!(values(&link.to_bytes()).len(), 2);
    }

    #[test]
    fn a_deletion_leaves_no_page_unable_to_save_and_no_occurrence_hidden() {
        let gone = scheduler().encode_delete(r#"{"id":"7"}"#, true);
        let expected = [
            r#"{"type":"update-event","event":{"id":"7","recurring_event_id":"","original_start":null,"rrule":""}}"#,
            r#"{"type":"delete-event","event":{"id":"7"}}"#,
            r#"{"type":"update-event","event":{"id":"7"}}"#,
        ];
        assert_eq!(values(&gone.frame), expected);
        assert_eq!(&gone.object[..], br#"{"id":"7"}"#);
        assert_eq!(values(&scheduler().encode_delete(r#"{"id":"7"}"#, false).frame), expected[1..]);
        let bare = EntityEncoder::new("links", "link").encode_delete(r#"{"id":7}"#, true);
        assert_eq!(values(&bare.frame), [r#"{"type":"delete-link","link":{"id":7}}"#]);
        assert_eq!(&bare.object[..], br#"{"id":7}"#);
    }

    #[test]
    fn only_a_whole_object_without_a_series_is_surely_no_exception() {
        let encoder = scheduler();
        for (object, whole, may_be) in [
            (r#"{"id":1}"#, true, false),
            (r#"{"id":1}"#, false, true),
            (r#"{"id":1,"recurring_event_id":""}"#, true, false),
            (r#"{"id":1,"recurring_event_id":null}"#, true, false),
            (r#"{"id":1,"recurring_event_id":"5"}"#, true, true),
            (r#"{"id":1,"recurring_event_id":5}"#, true, true),
        ] {
            assert_eq!(encoder.may_be_exception(Some((object.as_bytes(), whole))), may_be, "{object}");
        }
        assert!(encoder.may_be_exception(None));
        assert!(!EntityEncoder::new("links", "link").may_be_exception(None));
    }

    #[test]
    fn the_marker_is_what_stock_handlers_ignore() {
        assert_eq!(values(&scheduler().resync_marker()), [r#"{"type":"resync","event":{"id":"$resync"}}"#]);
    }
}
