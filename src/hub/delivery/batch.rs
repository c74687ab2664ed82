//! What is handed to many at once.

use std::{collections::HashSet, ops::Range, sync::Arc};

use tokio::time::Instant;

use super::{
    super::{
        core::Core,
        log::{Broadcast, Log, Record},
        visibility::{Envelope, Mode, Pages},
    },
    order, tree,
};
use crate::{entity::EntityIndex, lock::lock, sequence::Sequence};

/// Records handed to the fast path at once.
const BATCH_RECORDS: usize = 256;
/// Frames that everyone is resent at once; more are sent to each at its own pace.
const REPEAT_FRAMES: usize = 512;
/// The same, in bytes.
const REPEAT_BYTES: usize = 1024 * 1024;

/// A run of new records.
pub(crate) struct Batch {
    pub(crate) start: Sequence,
    /// Behind the last of them.
    pub(crate) end: Sequence,
    pub(crate) records: Vec<(Sequence, Envelope)>,
    /// Some of the run went before it was handed out: each must find out itself whether that was for it.
    pub(crate) is_torn: bool,
    pub(crate) now: Instant,
}

impl Batch {
    /// What is new from a place of the log on.
    pub(crate) fn after(core: &Core, from: Sequence) -> Self {
        let log = lock(&core.log);
        let unread = log.since(from).take(BATCH_RECORDS);
        let envelope = |(sequence, record)| (sequence, Envelope::of_record(core, &log, sequence, record, Mode::Live));
        let records: Vec<(Sequence, Envelope)> = unread.map(envelope).collect();
        let end =
            if records.len() < BATCH_RECORDS { log.end() } else { records.last().map_or(from, |(at, _)| at.next()) };
        Self { start: from, end, records, is_torn: log.trimmed() > from, now: Instant::now() }
    }
}

/// What is to be resent to everyone.
#[derive(Clone, Debug)]
pub(crate) struct Repeat {
    pub(crate) entity: EntityIndex,
    pub(crate) what: Resent,
}

#[derive(Clone, Debug)]
pub(crate) enum Resent {
    /// What settled.
    Settled {
        range: Range<Sequence>,
        /// Where the log does not hold all of it, pages lose their place; otherwise they are sent what it holds.
        is_last: bool,
        /// What was added before is on every page.
        known_before: Sequence,
    },
    /// These deletions.
    Deletions(Arc<[Sequence]>),
}

impl Repeat {
    /// Takes another one along, if that is of the same kind.
    pub(crate) fn merge(&mut self, other: &Self) -> bool {
        if self.entity != other.entity {
            return false;
        }
        match (&mut self.what, &other.what) {
            (
                Resent::Settled { range, is_last, known_before },
                Resent::Settled { range: others, is_last: other_is_last, known_before: other_known_before },
            ) => {
                *range = range.start.min(others.start)..range.end.max(others.end);
                *is_last |= other_is_last;
                *known_before = (*known_before).min(*other_known_before);
                true
            }
            (Resent::Deletions(sequences), Resent::Deletions(others)) => {
                let mut all: Vec<Sequence> = sequences.iter().chain(&**others).copied().collect();
                all.sort_unstable();
                all.dedup();
                *sequences = all.into();
                true
            }
            _ => false,
        }
    }
}

/// Records, or as many of them as are sent at once, with each parent before its children where pages need that.
fn in_tree_order<'l>(
    core: &Core,
    log: &'l Log,
    entity: EntityIndex,
    records: impl Iterator<Item = (Sequence, Option<&'l Record>)>,
) -> Vec<(Sequence, Option<&'l Record>)> {
    let mut few: Vec<_> = records.filter(|(_, record)| record.is_some()).take(REPEAT_FRAMES + 1).collect();
    if core.encoder(entity).is_tree() {
        few.sort_by_cached_key(|(_, record)| {
            record.and_then(Record::change).map_or((false, 0), |change| tree::place(log, entity, change))
        });
    }
    few
}

/// Records in the order of a tree, each behind those of its ancestors that pages need before it.
fn with_ancestors<'l>(
    core: &Core,
    log: &'l Log,
    entity: EntityIndex,
    records: &[(Sequence, Option<&'l Record>)],
    above: &tree::Above,
) -> Vec<(Sequence, &'l Record, bool)> {
    let is_tree = core.encoder(entity).is_tree();
    let mut sent = HashSet::new();
    let mut all = Vec::with_capacity(records.len());
    for (at, record) in records.iter().filter_map(|(at, record)| Some((*at, (*record)?))) {
        if let Some(change) = record.change().filter(|_| is_tree) {
            all.extend(above.of(log, entity, change, |broadcast| broadcast == Broadcast::Held, &mut sent));
        }
        all.push((at, record, false));
    }
    all
}

/// What brings the siblings among these records, and what changed of others since, to their places.
fn steps(
    core: &Core,
    log: &Log,
    entity: EntityIndex,
    records: &[(Sequence, Option<&Record>)],
    from: Sequence,
) -> Vec<(Sequence, Envelope)> {
    if core.encoder(entity).order_key.is_none() {
        return Vec::new();
    }
    let changes = records.iter().filter_map(|(_, record)| record.filter(|record| record.shows_object())?.change());
    let mut parents = HashSet::new();
    let firsts = changes.filter(|change| change.parents.first().is_some_and(|parent| parents.insert(parent)));
    let steps = firsts.filter_map(|change| order::steps(core, log, entity, change, from));
    let envelope = |(at, record, step)| (at, Envelope::of_step(core, record, step));
    steps.flat_map(|(_, steps)| steps.into_iter().map(envelope)).collect()
}

impl Repeat {
    /// What is resent, as it is now.
    pub(crate) fn prepare(&self, core: &Core) -> RepeatBatch {
        let entity = self.entity;
        let log = lock(&core.log);
        let until = log.end();
        let is_filtered = core.encoder(entity).view.is_some();
        let frames = match &self.what {
            // Hooks are asked what each recipient may see.
            _ if is_filtered => None,
            Resent::Settled { range, is_last: true, .. } if range.start < log.start(entity) => None,
            Resent::Deletions(sequences) => {
                let envelope = |&at: &Sequence| {
                    let tombstone = log.tombstone_at(entity, at);
                    let tombstone = tombstone.filter(|tombstone| !core.holds_deletion(entity, &tombstone.key))?;
                    Some((at, Envelope::of_tombstone(core, entity, at, tombstone)))
                };
                let few = sequences.len() <= REPEAT_FRAMES;
                few.then(|| sequences.iter().filter_map(envelope).collect())
            }
            Resent::Settled { range, known_before, .. } => {
                let pages = match core.encoder(entity).widget.family() {
                    // The client may have deleted anything with something else.
                    Some(_) => Pages::Any,
                    None => Pages::ThatHave { everything_before: *known_before },
                };
                let newest = core.newest(&log, entity, range.start, range.start, Sequence::MAX);
                let newest = newest.take_while(|(at, _)| *at < range.end);
                let newest = in_tree_order(core, &log, entity, newest);
                let mode = Mode::Resend { from: range.start, pages };
                let envelope = |(at, record): (Sequence, Option<_>)| {
                    Some((at, Envelope::of_record(core, &log, at, record?, mode)))
                };
                let steps = steps(core, &log, entity, &newest, range.start);
                let deletions = newest.partition_point(|(_, record)| record.is_some_and(Record::shows_object));
                let (there, gone) = newest.split_at(deletions);
                let above = tree::Above { from: *known_before, besides: range.clone() };
                let all =
                    with_ancestors(core, &log, entity, there, &above).into_iter().map(|(at, record, is_at_root)| {
                        let from = if at < range.start { *known_before } else { range.start };
                        let mode = if is_at_root { Mode::AtRoot { from } } else { Mode::Resend { from, pages } };
                        (at, Envelope::of_record(core, &log, at, record, mode))
                    });
                let held = (!gone.is_empty())
                    .then(|| tree::moved_and_held(core, &log, entity, |broadcast| broadcast == Broadcast::Held));
                let at_root = held.into_iter().flatten().map(|(at, record)| {
                    (at, Envelope::of_record(core, &log, at, record, Mode::AtRoot { from: range.start }))
                });
                let all = all.chain(steps).chain(at_root);
                let all = all.chain(gone.iter().copied().filter_map(envelope));
                let mut bytes = 0;
                let records = all.take_while(|(_, envelope)| {
                    let is_little = bytes <= REPEAT_BYTES;
                    bytes += envelope.frame_bytes();
                    is_little
                });
                let frames: Vec<(Sequence, Envelope)> = records.take(REPEAT_FRAMES + 1).collect();
                (frames.len() <= REPEAT_FRAMES && bytes <= REPEAT_BYTES).then_some(frames)
            }
        };
        RepeatBatch { repeat: self.clone(), until, frames }
    }
}

/// The same, ready to be written.
pub(crate) struct RepeatBatch {
    pub(crate) repeat: Repeat,
    /// A subscriber that has been sent everything before this, and nothing else, can be sent it.
    pub(crate) until: Sequence,
    /// With their sequence numbers; `None` where each subscriber's own task sends it: it is much, hooks must be asked, or
    /// the log does not hold all of it.
    pub(crate) frames: Option<Vec<(Sequence, Envelope)>>,
}
