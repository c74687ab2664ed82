//! Rows of the store, as the frames that pages which lost their place are sent.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use tokio::time::Instant;

use super::{
    encoder::{EntityEncoder, RESYNC},
    log::Log,
};
use crate::{
    auth::Identity,
    change::{Change, ChangeKind},
    entity::{EntityIndex, Place, ROOT},
    frame::Frame,
    lock::lock,
    object::Object,
    scope::Scopes,
    sequence::Sequence,
};

/// Keys looked up in the log at once.
const KEYS_AT_ONCE: usize = 1024;

/// The rows of a store at one time, as frames.
#[derive(Clone, Debug)]
pub(crate) struct SnapshotFrames {
    /// Where the log stood before the store was asked.
    pub(crate) at: Sequence,
    /// Of who it was asked for.
    pub(super) scopes: Scopes,
    pub(super) gone: Arc<[Row]>,
    pub(super) rows: Arc<[Row]>,
    /// It takes away what the page could see before, and not only what has changed.
    pub(super) takes_away: bool,
    /// What is gone is sent behind the rows: with an object the client deletes what it shows below it.
    pub(super) gone_last: bool,
    /// When it was read, where a page may take its own new object for another one among the rows: until the writes of then
    /// have ended it is not known which rows are such.
    pub(super) read: Option<Instant>,
}

impl SnapshotFrames {
    /// Rows of the store, and ids of what is gone, as they are sent to pages that lost their place. `at` is where the
    /// log stood before the store was asked. Rows that would break pages are left out; their number is returned. What has a row
    /// is not taken for deleted any more. `held` are the objects of a tree whose newest place is held.
    pub(super) fn new(
        (encoder, log, held): (&EntityEncoder, &Mutex<Log>, &HashSet<Arc<str>>),
        entity: EntityIndex,
        at: Sequence,
        identity: &Identity,
        rows: &[Change],
        gone: &[Change],
    ) -> (Self, usize) {
        let claims_apart = lock(log).has_claims_apart(entity);
        let keys = |scopes: &Scopes, id: &str| -> Box<[Arc<str>]> {
            encoder.keys(scopes, id, claims_apart).into_iter().map(|key| Arc::from(&*key)).collect()
        };
        let gone = gone.iter().map(|change| Row {
            id: change.id().into(),
            keys: keys(identity.receives(), change.id()),
            frame: encoder.encode_delete(change.object(), true).frame.into(),
            at_root: None,
            object: None,
            parent: None,
            place: None,
            kind: RowKind::Gone,
        });
        let received = rows.iter().filter(|row| !encoder.is_scoped || row.scopes().intersects(identity.receives()));
        let (usable, others): (Vec<&Change>, Vec<&Change>) = received.partition(|change| encoder.accepts_row(change));
        let usable = encoder.in_tree_order(usable);
        let unusable = others.len();
        let there: Vec<Box<[Arc<str>]>> =
            usable.iter().chain(&others).map(|row| keys(row.scopes(), row.id())).collect();
        for some in there.chunks(KEYS_AT_ONCE) {
            let mut log = lock(log);
            some.iter().flatten().for_each(|key| log.remove_tombstone(entity, key, at));
        }
        let parent = |row: &Change| {
            let parent = encoder.is_tree().then(|| encoder.parents_in(row.object()).into_iter().next())??;
            Some(Arc::from(&*encoder.key(row.scopes(), &parent)))
        };
        // Behind the marker, which empties a page that may show what the log does not know.
        let marker = encoder.is_presence.then(|| Row::marker(encoder.resync_marker()));
        let objects = usable.into_iter().zip(there).map(|(change, keys)| {
            let object = encoder.normal_form(change.object());
            let is_held = keys.iter().any(|key| held.contains(key));
            let at_root = is_held.then(|| encoder.encode_at_root(&object, encoder.can_add(&object, true)));
            let place = PlacedRow::of(encoder, &object);
            let (frame, object) = match encoder.view {
                Some(_) => (Bytes::new().into(), Some(object)),
                None if encoder.is_presence => (encoder.encode_shared(ChangeKind::Add, &object), None),
                None => (encoder.encode_upsert(&object, encoder.can_add(&object, true)).for_pages(false), None),
            };
            let (id, parent) = (change.id().into(), parent(change));
            Row { id, keys, frame, at_root, object, parent, place, kind: RowKind::Object }
        });
        let scopes = identity.receives().clone();
        let (gone, rows): (_, Arc<[Row]>) = (gone.collect(), marker.into_iter().chain(objects).collect());
        if encoder.is_tree() {
            for some in rows.chunks(KEYS_AT_ONCE) {
                let mut log = lock(log);
                for row in some.iter().filter(|row| row.kind == RowKind::Object) {
                    row.keys.iter().for_each(|key| log.set_stored_place(entity, key, row.parent.clone(), at));
                }
            }
        }
        let read = encoder.widget.family().map(|_| Instant::now());
        (Self { at, scopes, gone, rows, takes_away: false, gone_last: encoder.is_tree(), read }, unusable)
    }

    /// What stands for a snapshot where there is none. It goes to the handlers of `$resync` whether or not they are
    /// subscribed yet: pages without any ignore it.
    pub(super) fn marker(encoder: &EntityEncoder, at: Sequence) -> Self {
        let rows = [encoder.resync_marker(), encoder.resync_message()].map(Row::marker);
        Self {
            at,
            scopes: Scopes::None,
            gone: Arc::default(),
            rows: rows.into(),
            takes_away: false,
            gone_last: false,
            read: None,
        }
    }

    /// The same, for an identity that could see `earlier`: what is not among the rows any more is gone.
    pub(super) fn instead_of(&self, earlier: &Self, gone: impl Fn(&str) -> Frame) -> Self {
        let rows: HashSet<&str> = self.rows.iter().map(|row| &*row.id).collect();
        let lost = earlier.rows.iter().filter(|row| row.kind == RowKind::Object && !rows.contains(&*row.id));
        let lost = lost.map(|row| Row { frame: gone(&row.id), kind: RowKind::Gone, ..row.clone() });
        Self { gone: self.gone.iter().cloned().chain(lost).collect(), takes_away: true, ..self.clone() }
    }

    pub(super) fn only_gone(&self) -> Self {
        Self { rows: Arc::default(), ..self.clone() }
    }
}

/// A task with a place among its siblings, and the second step that brings it there.
#[derive(Debug)]
pub(crate) struct PlacedRow {
    pub(super) place: Arc<Place>,
    /// The task's id as JSON text.
    pub(super) id: String,
    pub(super) is_at_root: bool,
    pub(super) back: Frame,
}

impl PlacedRow {
    fn of(encoder: &EntityEncoder, object: &Bytes) -> Option<Arc<Self>> {
        let text = String::from_utf8_lossy(object);
        let place = encoder.place_of(&text)?;
        let id = Object::of(&text)?.get("id")?.to_owned();
        let is_at_root = encoder.parents_in(&text).first().is_none_or(|parent| parent == ROOT);
        Some(Arc::new(Self { place, id, is_at_root, back: encoder.encode_shared(ChangeKind::Update, object) }))
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(super) id: Box<str>,
    /// What the log may find its object by.
    pub(super) keys: Box<[Arc<str>]>,
    pub(super) frame: Frame,
    /// At the root of its tree, where its newest place was held as it was read.
    pub(super) at_root: Option<Frame>,
    /// The object itself, where it is asked who may see it.
    pub(super) object: Option<Bytes>,
    /// The key of its parent in a tree.
    pub(super) parent: Option<Arc<str>>,
    /// Where it stands among its siblings, if pages are to show that.
    pub(super) place: Option<Arc<PlacedRow>>,
    pub(super) kind: RowKind,
}

impl Row {
    /// Whether the log holds something newer, which is all there is to know.
    pub(super) fn is_outdated(&self, log: &Log, entity: EntityIndex, at: Sequence) -> bool {
        self.keys.iter().any(|key| log.is_whole_since(entity, key, at))
    }

    fn marker(frame: Bytes) -> Self {
        Self {
            id: RESYNC.into(),
            keys: Box::default(),
            frame: frame.into(),
            at_root: None,
            object: None,
            parent: None,
            place: None,
            kind: RowKind::Marker,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RowKind {
    Object,
    Gone,
    /// Asks the page to load its list again, once.
    Marker,
}
