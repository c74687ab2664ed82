//! What is kept across a restart, as lines of JSON.
//!
//! Each line is an array. Objects and frames follow their line as they are, since they may hold line feeds; the line says
//! how many bytes each has.

use std::{
    collections::HashSet,
    fmt,
    io::{self, Write},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use data_encoding::HEXLOWER;
use serde::{
    Deserialize, Serialize, Serializer,
    de::{DeserializeOwned, Deserializer, Error as _, SeqAccess, Visitor},
};
use tokio::time::Instant;

use super::Saved;
use crate::{
    change::ChangeKind,
    epoch::{Epoch, Secret},
    hub::{
        EntityEncoder, EntityIndex,
        log::{
            ObjectChange, PriorState, Record, RecordKind, SavedIndex, SavedLog, SavedRecord, Tombstone, Version, Was,
        },
        sessions::SavedSession,
    },
    scope::Scopes,
};

/// What another release has written may mean something else, and its objects have passed other checks.
const RELEASE: &str = env!("CARGO_PKG_VERSION");

/// Release; time of writing, in milliseconds since 1970; epoch and its two secrets; where the log stands; behind the
/// newest record that went; how many entities, records, tombstones and sessions follow.
type HeadLine = (String, u64, String, String, String, u64, u64, [usize; 4]);
/// Name; how it was configured; behind its latest refresh and move; claims apart; refreshes of some scopes; trimmed for
/// everybody and for some scopes.
type EntityLine = (String, String, u64, u64, bool, Vec<(u64, Line<Scopes>)>, u64, Vec<(Line<Scopes>, u64)>);
/// Sequence number, age, entity, scopes, kind, bytes of the frame, and what a change has besides.
type RecordLine = (u64, u64, u16, Line<Scopes>, u8, usize, Option<ChangeLine>);
/// Kind; newest of its object; id; key where that is another; ever; went to; bytes of the object; whole; only added; added;
/// parent; may be an exception; claim; can be added; what it was before.
type ChangeLine = (
    u8,
    bool,
    String,
    Option<String>,
    Line<Scopes>,
    Line<Scopes>,
    usize,
    bool,
    bool,
    Option<u64>,
    Option<String>,
    bool,
    bool,
    Option<bool>,
    (u8, Option<StateLine>),
);
/// Its record, scopes, ever, and what was: a code and the bytes of the object.
type StateLine = (Option<u64>, Line<Scopes>, Line<Scopes>, u8, usize);
/// Sequence number, age, entity, id, key where that is another, bytes of the object, may be an exception, scopes, ever,
/// went to, claim, bytes of the last state, has settled.
type TombstoneLine = (
    u64,
    u64,
    u16,
    String,
    Option<String>,
    usize,
    bool,
    Line<Scopes>,
    Line<Scopes>,
    Line<Scopes>,
    bool,
    Option<usize>,
    bool,
);
/// Id, owner, how long it has been gone, how long ago it came, where the log stood when it went, scopes, those before, whether it is lost, and its
/// positions.
type SessionLine = (String, u64, u64, u64, u64, Line<Scopes>, Vec<(Line<Scopes>, u64)>, bool, Vec<(u16, u64)>);

/// A value as it stands in a line.
struct Line<T>(T);

fn scopes(scopes: &Scopes) -> Line<Scopes> {
    Line(scopes.clone())
}

/// `null`, `true` for all, or the names.
impl Serialize for Line<Scopes> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Scopes::None => serializer.serialize_unit(),
            Scopes::All => serializer.serialize_bool(true),
            some @ Scopes::Some(_) => serializer.collect_seq(some.names()),
        }
    }
}

impl<'de> Deserialize<'de> for Line<Scopes> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScopesVisitor)
    }
}

struct ScopesVisitor;

impl<'de> Visitor<'de> for ScopesVisitor {
    type Value = Line<Scopes>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("scopes")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Line(Scopes::None))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Line(Scopes::All))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut names: A) -> Result<Self::Value, A::Error> {
        let mut all: Vec<String> = Vec::new();
        while let Some(name) = names.next_element()? {
            all.push(name);
        }
        match all.into_iter().collect() {
            Scopes::None => Err(A::Error::custom("no scope")),
            scopes => Ok(Line(scopes)),
        }
    }
}

/// How an entity was configured: what was logged of it under another configuration says something else.
fn fingerprint(encoder: &EntityEncoder) -> String {
    let EntityEncoder { payload_key, widget, parent_key, has_snapshot, is_scoped, scoped_ids, view, .. } = encoder;
    let view = view.as_ref().map(|view| (view.visible.is_some(), view.project.is_some()));
    format!("{:?}", (payload_key, widget, parent_key, has_snapshot, is_scoped, scoped_ids, view))
}

/// Where times stood when the file was written, or stand now.
struct Clock {
    now: Instant,
    /// How long ago it was written.
    downtime: Duration,
}

impl Clock {
    fn age(&self, at: Instant) -> u64 {
        millis(self.now.saturating_duration_since(at))
    }

    /// The time that was so long before the file was written. Some clocks do not go back as far: then it is later, and not
    /// before `earliest`.
    fn at(&self, age: u64, earliest: Option<Instant>) -> Instant {
        let mut ago = Duration::from_millis(age).saturating_add(self.downtime);
        loop {
            match self.now.checked_sub(ago) {
                Some(at) => return earliest.map_or(at, |earliest| earliest.max(at)),
                None => ago /= 2,
            }
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The time by the wall clock, in milliseconds since 1970.
pub(super) fn wall_clock() -> u64 {
    millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

const KINDS: [ChangeKind; 3] = [ChangeKind::Add, ChangeKind::Update, ChangeKind::Delete];

fn code_of_kind(kind: ChangeKind) -> u8 {
    match kind {
        ChangeKind::Add => 0,
        ChangeKind::Update => 1,
        ChangeKind::Delete => 2,
    }
}

const CHANGE: u8 = 0;
const MESSAGE: u8 = 1;
const REFRESH: u8 = 2;
const UNCONFIRMED: u8 = 3;

const UNKNOWN: u8 = 0;
const ABSENT: u8 = 1;
const KNOWN: u8 = 2;

const SOMETHING: u8 = 0;
const DOUBTFUL: u8 = 1;
const GONE: u8 = 2;
const OBJECT: u8 = 3;
/// The object of the record that made it so.
const OBJECT_OF_RECORD: u8 = 4;

/// Writes lines, and what follows them.
struct Writer<'w>(&'w mut dyn Write);

impl Writer<'_> {
    fn line(&mut self, line: &impl Serialize, blobs: &[&[u8]]) -> io::Result<()> {
        serde_json::to_writer(&mut *self.0, line)?;
        self.0.write_all(b"\n")?;
        for blob in blobs {
            self.0.write_all(blob)?;
        }
        if blobs.iter().any(|blob| !blob.is_empty()) { self.0.write_all(b"\n") } else { Ok(()) }
    }
}

/// Writes all that is kept.
pub(super) fn write(saved: &Saved, encoders: &[EntityEncoder], epoch: &Epoch, out: &mut dyn Write) -> io::Result<()> {
    let Saved { at, written, log, sessions } = saved;
    let clock = Clock { now: *at, downtime: Duration::ZERO };
    let mut out = Writer(out);
    let counts = [log.indexes.len(), log.records.len(), log.tombstones.len(), sessions.len()];
    let (positions, owners) = (epoch.positions.to_hex(), epoch.owners.to_hex());
    let head: HeadLine =
        (RELEASE.to_owned(), *written, epoch.id.clone(), positions, owners, log.head, log.trimmed, counts);
    out.line(&head, &[])?;
    for (encoder, index) in encoders.iter().zip(&log.indexes) {
        let refreshed = index.refreshed_scopes.iter().map(|(behind, of)| (*behind, scopes(of)));
        let (trimmed_all, trimmed) = &index.trimmed;
        let trimmed = trimmed.iter().map(|(of, behind)| (scopes(of), *behind));
        let line: EntityLine = (
            encoder.entity.clone(),
            fingerprint(encoder),
            index.refreshed,
            index.moved,
            index.has_claims_apart,
            refreshed.collect(),
            *trimmed_all,
            trimmed.collect(),
        );
        out.line(&line, &[])?;
    }
    let times = log.times.iter().map(|(from, until, sequence)| (clock.age(*from), clock.age(*until), *sequence));
    out.line(&times.collect::<Vec<_>>(), &[])?;
    for (at, saved) in log.records.iter().enumerate() {
        write_record(saved, &log.records[..at], &clock, &mut out)?;
    }
    for (entity, sequence, tombstone) in &log.tombstones {
        let line: TombstoneLine = (
            *sequence,
            clock.age(tombstone.at),
            entity.0,
            tombstone.id.to_string(),
            (tombstone.key != tombstone.id).then(|| tombstone.key.to_string()),
            tombstone.object.len(),
            tombstone.may_be_exception,
            scopes(&tombstone.scopes),
            scopes(&tombstone.ever),
            scopes(&tombstone.went_to),
            tombstone.is_claim,
            tombstone.last.as_ref().map(Bytes::len),
            tombstone.has_settled,
        );
        out.line(&line, &[&tombstone.object, tombstone.last.as_deref().unwrap_or_default()])?;
    }
    for session in sessions {
        let positions = session.positions.iter().map(|(entity, position)| (entity.0, *position));
        let line: SessionLine = (
            HEXLOWER.encode(&session.id),
            session.owner,
            clock.age(session.gone),
            clock.age(session.came),
            session.left_at,
            scopes(&session.scopes),
            session.past.iter().map(|(had, until)| (scopes(had), *until)).collect(),
            session.is_lost,
            positions.collect(),
        );
        out.line(&line, &[])?;
    }
    Ok(())
}

/// Writes a record. What it shares with one of those `before` is written once.
fn write_record(saved: &SavedRecord, before: &[SavedRecord], clock: &Clock, out: &mut Writer<'_>) -> io::Result<()> {
    let SavedRecord { sequence, at, is_newest, record } = saved;
    let Record { entity, frame, scopes: told_in, kind } = record;
    let line = |kind, frame: usize, change: Option<ChangeLine>| -> RecordLine {
        (*sequence, clock.age(*at), entity.0, scopes(told_in), kind, frame, change)
    };
    let subject = match kind {
        RecordKind::Change(subject) => subject,
        RecordKind::Message => return out.line(&line(MESSAGE, frame.len(), None), &[frame]),
        RecordKind::Refresh => return out.line(&line(REFRESH, frame.len(), None), &[frame]),
        RecordKind::Unconfirmed(id) => {
            return out
                .line(&line(UNCONFIRMED, id.len(), None), &[id.as_bytes()])
                .and_then(|()| out.line(&frame.len(), &[frame]));
        }
    };
    let (mut was_bytes, mut prior) = (&[][..], (UNKNOWN, None));
    match &subject.prior {
        PriorState::Unknown => {}
        PriorState::Absent => prior.0 = ABSENT,
        PriorState::Known(state) => {
            let code = match &state.was {
                Was::Something => SOMETHING,
                Was::Doubtful => DOUBTFUL,
                Was::Gone => GONE,
                Was::Object(object) if is_of_record(object, state.at, before) => OBJECT_OF_RECORD,
                Was::Object(object) => {
                    was_bytes = object;
                    OBJECT
                }
            };
            prior = (KNOWN, Some((state.at, scopes(&state.scopes), scopes(&state.ever), code, was_bytes.len())));
        }
    }
    let change: ChangeLine = (
        code_of_kind(subject.kind),
        *is_newest,
        subject.id.to_string(),
        (subject.key != subject.id).then(|| subject.key.to_string()),
        scopes(&subject.ever),
        scopes(&subject.went_to),
        subject.object.len(),
        subject.whole,
        subject.is_only_added,
        subject.added,
        subject.parent.as_ref().map(ToString::to_string),
        subject.may_be_exception,
        subject.is_claim,
        subject.can_add,
        prior,
    );
    // Its frame is encoded anew.
    out.line(&line(CHANGE, 0, Some(change)), &[&subject.object, was_bytes])
}

fn is_of_record(object: &Bytes, at: Option<u64>, records: &[SavedRecord]) -> bool {
    let known = at.and_then(|at| object_of(at, records));
    known.is_some_and(|known| known.as_ptr() == object.as_ptr() && known.len() == object.len())
}

/// The object of the change of this sequence number.
fn object_of(sequence: u64, records: &[SavedRecord]) -> Option<&Bytes> {
    let at = records.binary_search_by_key(&sequence, |saved| saved.sequence).ok()?;
    match &records[at].record.kind {
        RecordKind::Change(subject) => Some(&subject.object),
        RecordKind::Unconfirmed(_) | RecordKind::Message | RecordKind::Refresh => None,
    }
}

/// What was read.
pub(super) struct Restored {
    pub(super) saved: Saved,
    pub(super) epoch: Epoch,
    /// How long ago it was written.
    pub(super) downtime: Duration,
}

/// Why something cannot be read.
pub(super) type Reason = String;

/// Reads what [`write`] has written, for the entities as they are configured now; `today` is the time by the wall clock.
pub(super) fn read(text: &[u8], encoders: &[EntityEncoder], now: Instant, today: u64) -> Result<Restored, Reason> {
    let mut reader = Reader { rest: text, names: HashSet::new() };
    let (release, written, id, positions, owners, head, trimmed, counts): HeadLine = reader.line()?;
    if release != RELEASE {
        return Err(format!("release {release} has written it, and this is {RELEASE}"));
    }
    let [positions, owners] = [positions, owners].map(|secret| Secret::from_hex(&secret));
    let epoch = positions.zip(owners).map(|(positions, owners)| Epoch { id, positions, owners });
    let epoch = epoch.ok_or("its secrets are damaged")?;
    // Nor is it of the future where the clock was set back.
    let downtime = Duration::from_millis(today.saturating_sub(written));
    let clock = Clock { now, downtime };
    let [entities, records, tombstones, sessions] = counts;

    let mut log = SavedLog { head, trimmed, ..SavedLog::default() };
    let mut indexes: Vec<Option<SavedIndex>> = vec![None; encoders.len()];
    let mut map: Vec<Option<EntityIndex>> = Vec::new();
    for _ in 0..entities {
        let (name, configured, refreshed, moved, has_claims_apart, refreshed_scopes, all, some): EntityLine =
            reader.line()?;
        let at = encoders.iter().position(|encoder| encoder.entity == name && fingerprint(encoder) == configured);
        map.push(at.and_then(|at| u16::try_from(at).ok()).map(EntityIndex));
        if let Some(index) = at.and_then(|at| indexes.get_mut(at)) {
            let refreshed_scopes = refreshed_scopes.into_iter().map(|(behind, of)| (behind, of.0)).collect();
            let trimmed = (all, some.into_iter().map(|(of, behind)| (of.0, behind)).collect());
            *index = Some(SavedIndex { refreshed, moved, refreshed_scopes, has_claims_apart, trimmed });
        }
    }
    if indexes.iter().any(Option::is_none) {
        // Nobody has logged what happened to an entity that is new, or was another. A page may stand at the head: it has
        // missed something all the same.
        log.head += 1;
        log.trimmed = log.head;
    }
    log.indexes = indexes.into_iter().map(|it| it.unwrap_or_else(|| SavedIndex::unknown_before(log.head))).collect();

    let mut latest = None;
    let mut at = |age| {
        let at = clock.at(age, latest);
        latest = Some(at);
        at
    };
    let times: Vec<(u64, u64, u64)> = reader.line()?;
    log.times = times.into_iter().map(|(from, until, sequence)| (at(from), at(until), sequence)).collect();

    let entity = |at: u16| map.get(usize::from(at)).copied().flatten();
    let mut next = 0;
    let mut latest = None;
    for _ in 0..records {
        let (sequence, age, of, told_in, kind, bytes, change): RecordLine = reader.line()?;
        if sequence < next || sequence >= head {
            return Err("its records are not in order".to_owned());
        }
        next = sequence + 1;
        let at = clock.at(age, latest);
        latest = Some(at);
        let scopes = reader.known(told_in);
        let (kind, frame, is_newest) = match (kind, change) {
            (CHANGE, Some(change)) => {
                // Of what is configured no more, nothing but the place in the text is of interest.
                let encoder = entity(of).and_then(|of| encoders.get(usize::from(of.0)));
                let is_newest = change.1;
                let (subject, frame) = read_change(change, encoder, &log.records, &mut reader)?;
                (RecordKind::Change(subject), frame, is_newest)
            }
            (MESSAGE, None) => (RecordKind::Message, reader.blobs([bytes])?[0].clone(), false),
            (REFRESH, None) => (RecordKind::Refresh, reader.blobs([bytes])?[0].clone(), false),
            (UNCONFIRMED, None) => {
                let [id] = reader.blobs([bytes])?;
                let bytes = reader.line()?;
                (RecordKind::Unconfirmed(text_of(&id)?.into()), reader.blobs([bytes])?[0].clone(), false)
            }
            _ => return Err("it holds an unknown kind of record".to_owned()),
        };
        if let Some(entity) = entity(of) {
            log.records.push(SavedRecord { sequence, at, is_newest, record: Record { entity, frame, scopes, kind } });
        }
    }
    let mut latest: Option<(u16, Instant)> = None;
    for _ in 0..tombstones {
        let (sequence, age, of, id, key, object, may_be_exception, told_in, ever, went_to, is_claim, last, has_settled): TombstoneLine =
            reader.line()?;
        let at = clock.at(age, latest.filter(|(last, _)| *last == of).map(|(_, at)| at));
        latest = Some((of, at));
        let [object, last_object] = reader.blobs([object, last.unwrap_or(0)])?;
        let id: Arc<str> = id.into();
        let tombstone = Tombstone {
            at,
            key: key.map_or_else(|| id.clone(), Arc::from),
            id,
            object: object.to_vec().into(),
            may_be_exception,
            scopes: reader.known(told_in),
            ever: reader.known(ever),
            went_to: reader.known(went_to),
            is_claim,
            last: last.map(|_| last_object),
            has_settled,
        };
        if let Some(entity) = entity(of) {
            log.tombstones.push((entity, sequence, tombstone));
        }
    }
    let mut known_sessions = Vec::new();
    for _ in 0..sessions {
        let (id, owner, gone, came, left_at, hears, earlier, is_lost, positions): SessionLine = reader.line()?;
        let positions = positions.into_iter().filter_map(|(of, position)| Some((entity(of)?, position.min(head))));
        known_sessions.push(SavedSession {
            id: HEXLOWER.decode(id.as_bytes()).ok().and_then(|id| id.try_into().ok()).ok_or("an id is damaged")?,
            owner,
            gone: clock.at(gone, None),
            came: clock.at(came, None),
            left_at,
            scopes: reader.known(hears),
            past: earlier.into_iter().map(|(had, until)| (reader.known(had), until)).collect(),
            is_lost,
            positions: positions.collect(),
        });
    }
    Ok(Restored { saved: Saved { at: now, written, log, sessions: known_sessions }, epoch, downtime })
}

/// A change, and its frame.
fn read_change(
    change: ChangeLine,
    encoder: Option<&EntityEncoder>,
    before: &[SavedRecord],
    reader: &mut Reader<'_>,
) -> Result<(ObjectChange, Bytes), Reason> {
    let (
        kind,
        _,
        id,
        key,
        ever,
        went_to,
        bytes,
        whole,
        is_only_added,
        added,
        parent,
        may_be_exception,
        is_claim,
        can_add,
        prior,
    ) = change;
    let kind = *KINDS.get(usize::from(kind)).ok_or("it holds an unknown kind of change")?;
    let was_bytes = prior.1.as_ref().map_or(0, |(.., bytes)| *bytes);
    let [object, was_object] = reader.blobs([bytes, was_bytes])?;
    let prior = match prior {
        (UNKNOWN, None) => PriorState::Unknown,
        (ABSENT, None) => PriorState::Absent,
        (KNOWN, Some((at, told_in, ever, was, _))) => {
            let was = match was {
                SOMETHING => Was::Something,
                DOUBTFUL => Was::Doubtful,
                GONE => Was::Gone,
                OBJECT => Was::Object(was_object),
                OBJECT_OF_RECORD => match at.and_then(|at| object_of(at, before)) {
                    Some(object) => Was::Object(object.clone()),
                    // It was of an entity that is configured no more, and so is this.
                    None => Was::Something,
                },
                _ => return Err("it holds an unknown prior state".to_owned()),
            };
            PriorState::Known(Arc::new(Version { at, scopes: reader.known(told_in), ever: reader.known(ever), was }))
        }
        _ => return Err("it holds an unknown prior state".to_owned()),
    };
    let text = text_of(&object)?;
    let event = encoder.map(|encoder| match kind {
        ChangeKind::Add | ChangeKind::Update => encoder.encode(kind, text),
        ChangeKind::Delete => encoder.encode_delete(text, may_be_exception),
    });
    let (object, frame) = event.map_or_else(Default::default, |event| (event.object, event.frame));
    let id: Arc<str> = id.into();
    let subject = ObjectChange {
        kind,
        key: key.map_or_else(|| id.clone(), Arc::from),
        id,
        prior,
        ever: reader.known(ever),
        went_to: reader.known(went_to),
        object,
        whole,
        is_only_added,
        added,
        parent: parent.map(Arc::from),
        may_be_exception,
        is_claim,
        can_add,
    };
    Ok((subject, frame))
}

fn text_of(bytes: &Bytes) -> Result<&str, Reason> {
    std::str::from_utf8(bytes).map_err(|_| "it is no text".to_owned())
}

/// Reads lines, and what follows them.
struct Reader<'t> {
    rest: &'t [u8],
    /// Sets of scopes that were read: most records have the same.
    names: HashSet<Scopes>,
}

impl Reader<'_> {
    fn line<T: DeserializeOwned>(&mut self) -> Result<T, Reason> {
        let end = self.rest.iter().position(|byte| *byte == b'\n').ok_or("it ends too early")?;
        let (line, rest) = (&self.rest[..end], &self.rest[end + 1..]);
        self.rest = rest;
        serde_json::from_slice(line).map_err(|error| format!("a line cannot be read: {error}"))
    }

    fn blobs<const N: usize>(&mut self, sizes: [usize; N]) -> Result<[Bytes; N], Reason> {
        let mut is_any = false;
        let mut blobs = sizes.map(|_| Bytes::new());
        for (blob, size) in blobs.iter_mut().zip(sizes) {
            let (bytes, rest) = self.rest.split_at_checked(size).ok_or("it ends too early")?;
            *blob = Bytes::copy_from_slice(bytes);
            self.rest = rest;
            is_any |= size > 0;
        }
        if is_any {
            self.rest = self.rest.strip_prefix(b"\n").ok_or("it is not divided into lines")?;
        }
        Ok(blobs)
    }

    /// The same scopes, sharing their names with those that were read before.
    fn known(&mut self, scopes: Line<Scopes>) -> Scopes {
        match self.names.get(&scopes.0) {
            Some(known) => known.clone(),
            None => {
                self.names.insert(scopes.0.clone());
                scopes.0
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Whether no object of an earlier record is there twice.
    pub(in crate::hub::saved) fn shares_all(records: &[SavedRecord]) -> bool {
        records.iter().enumerate().all(|(at, saved)| match &saved.record.kind {
            RecordKind::Change(ObjectChange { prior: PriorState::Known(state), .. }) => match &state.was {
                Was::Object(object) => is_of_record(object, state.at, &records[..at]),
                Was::Something | Was::Doubtful | Was::Gone => true,
            },
            _ => true,
        })
    }
}
