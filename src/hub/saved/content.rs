//! The content of the file: the release in a line of its own, and then JSON.

use std::{
    collections::HashSet,
    io::{self, Write},
    mem,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::{
    change::ChangeKind,
    entity::EntityIndex,
    epoch::Epoch,
    hub::{
        clock::Clock,
        encoder::EntityEncoder,
        log::{Index, PriorObject, PriorState, RecordKind, SavedLog, SavedRecord, SavedTombstone},
        sessions::SavedSession,
    },
    random,
    scope::Scopes,
    sequence::Sequence,
};

/// What another release has written may mean something else, and its objects have passed other checks.
const RELEASE: &str = env!("CARGO_PKG_VERSION");

/// All that is kept, as it was at one time.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Content {
    /// The time by the wall clock, in milliseconds since 1970.
    pub(super) written: u64,
    pub(super) epoch: Epoch,
    /// How each entity was configured.
    pub(super) entities: Vec<String>,
    pub(super) log: SavedLog,
    pub(super) sessions: Vec<SavedSession>,
}

/// How an entity is configured: what was logged of it under another configuration means something else. So does what was
/// logged of who was here.
pub(super) fn fingerprint(encoder: &EntityEncoder) -> String {
    if encoder.is_presence {
        return random::id();
    }
    let EntityEncoder { entity, payload_key, widget, parent_keys, order_key, .. } = encoder;
    let EntityEncoder { has_snapshot, is_scoped, scoped_ids, view, .. } = encoder;
    let view = view.as_ref().map(|view| (view.visible.is_some(), view.project.is_some()));
    format!("{:?}", (entity, payload_key, widget, parent_keys, order_key, has_snapshot, is_scoped, scoped_ids, view))
}

impl Content {
    pub(super) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{RELEASE}")?;
        Ok(serde_json::to_writer(out, self)?)
    }

    /// Reads what was written, for the entities as they are configured now, or returns why it cannot be read; `today` is
    /// the time by the wall clock.
    pub(super) fn read(
        text: &[u8],
        encoders: &[EntityEncoder],
        now: Instant,
        today: u64,
    ) -> Result<(Self, Clock), String> {
        let end = text.iter().position(|byte| *byte == b'\n').ok_or("it ends too early")?;
        let (release, content) = (String::from_utf8_lossy(&text[..end]), &text[end..]);
        if release != RELEASE {
            // In a file of another format the line may hold anything, secrets too.
            let release: String = release.chars().take(16).collect();
            return Err(format!("release {release} has written it, and this is {RELEASE}"));
        }
        let mut content: Self =
            serde_json::from_slice(content).map_err(|error| format!("it cannot be read: {error}"))?;
        let records = &content.log.records;
        let is_sorted = records.is_sorted_by(|one, next| one.sequence < next.sequence);
        if !is_sorted || records.last().is_some_and(|last| last.sequence >= content.log.head) {
            return Err("its records are not in order".to_owned());
        }
        // Nor is it of the future where the clock was set back.
        let downtime = Duration::from_millis(today.saturating_sub(content.written));
        content.move_to(encoders);
        content.complete(encoders);
        Ok((content, Clock::new(now, downtime)))
    }

    /// Moves everything to the entities as they are configured now; what was of others goes.
    fn move_to(&mut self, encoders: &[EntityEncoder]) {
        let Self { entities, log, sessions, .. } = self;
        let configured: Vec<String> = encoders.iter().map(fingerprint).collect();
        let now_at = |entity| (0..).zip(&configured).find_map(|(at, it)| (it == entity).then_some(EntityIndex(at)));
        let places: Vec<Option<EntityIndex>> = entities.iter().map(now_at).collect();
        let is_kept = |entity: &mut EntityIndex| {
            let place = places.get(usize::from(entity.0)).copied().flatten();
            place.map(|place| *entity = place).is_some()
        };
        for session in sessions {
            session.positions.retain_mut(|(entity, position)| {
                *position = log.head.min(*position);
                is_kept(entity)
            });
        }
        log.records.retain_mut(|saved| is_kept(&mut saved.record.entity));
        log.tombstones.retain_mut(|saved| is_kept(&mut saved.entity));
        if configured.iter().any(|entity| !entities.contains(entity)) {
            // The log lacks what happened to an entity that is new, or was another. A page may stand at the end: it
            // has missed something all the same.
            log.head = log.head.next();
            log.trimmed = log.head;
        }
        let mut saved = mem::take(&mut log.indexes);
        let indexes = configured.iter().map(|entity| {
            let index = entities.iter().position(|it| it == entity).and_then(|at| saved.get_mut(at));
            index.map_or_else(|| Index::unknown_before(log.head), mem::take)
        });
        log.indexes = indexes.collect();
    }

    /// Encodes frames anew, and shares again what was shared before it was written.
    fn complete(&mut self, encoders: &[EntityEncoder]) {
        let Self { log, sessions, .. } = self;
        // Most sets of scopes are there many times.
        let mut known: HashSet<Scopes> = HashSet::new();
        let mut share = |scopes: &mut Scopes| match known.get(scopes) {
            Some(known) => *scopes = known.clone(),
            None => _ = known.insert(scopes.clone()),
        };
        for at in 0..log.records.len() {
            let (earlier, rest) = log.records.split_at_mut(at);
            let record = &mut rest[0].record;
            share(&mut record.scopes);
            let RecordKind::Change(change) = &mut record.kind else { continue };
            [&mut change.ever, &mut change.went_to].into_iter().for_each(&mut share);
            if let PriorState::Known(version) = &mut change.prior {
                let version = Arc::make_mut(version);
                [&mut version.scopes, &mut version.ever].into_iter().for_each(&mut share);
                if matches!(&version.was, PriorObject::Object(object) if object.is_empty()) {
                    let object = version.at.and_then(|at| object_of(at, earlier));
                    version.was = object.map_or(PriorObject::Something, |object| PriorObject::Object(object.clone()));
                }
            }
            share_id(&change.id, &mut change.key);
            let object = String::from_utf8_lossy(&change.object);
            let encoder = &encoders[usize::from(record.entity.0)];
            let encoded = match change.kind {
                ChangeKind::Add | ChangeKind::Update => encoder.encode(change.kind, &object),
                ChangeKind::Delete => encoder.encode_delete(&object, change.may_be_exception),
            };
            (change.object, record.frame) = (encoded.object, encoded.frame);
        }
        for SavedTombstone { tombstone, .. } in &mut log.tombstones {
            share_id(&tombstone.id, &mut tombstone.key);
            [&mut tombstone.scopes, &mut tombstone.ever, &mut tombstone.went_to].into_iter().for_each(&mut share);
        }
        sessions.iter_mut().for_each(|session| share(&mut session.scopes));
    }
}

/// Most objects are found by their id.
fn share_id(id: &Arc<str>, key: &mut Arc<str>) {
    if key == id {
        *key = id.clone();
    }
}

/// The object of the change of this sequence number.
fn object_of(sequence: Sequence, records: &[SavedRecord]) -> Option<&Bytes> {
    let at = records.binary_search_by_key(&sequence, |saved| saved.sequence).ok()?;
    match &records[at].record.kind {
        RecordKind::Change(change) => Some(&change.object),
        RecordKind::Unconfirmed(_) | RecordKind::Message(_) | RecordKind::Refresh => None,
    }
}
