//! What a resend consists of: rows of the store, and what the log holds.

use std::collections::HashSet;

use super::{
    chunk::{Chunk, Position},
    order, tree,
};
use crate::{
    change::ChangeKind,
    entity::EntityIndex,
    hub::{
        log::{ObjectChange, Record},
        snapshot::{RowKind, SnapshotFrames},
        visibility::{Mode, Pages, Resolver},
    },
    sequence::Sequence,
};

/// The newest states of what changed from a sequence number on, and messages from another one on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Records {
    pub(super) from: Sequence,
    pub(super) messages_from: Sequence,
    /// Of the changes before this only deletions are sent.
    pub(super) only_gone_before: Sequence,
    pub(super) pages: Pages,
    /// Of what settles: what was added before is on every page.
    pub(super) known_before: Option<Sequence>,
}

impl Records {
    /// Adds what follows a position, as much as there is room for.
    pub(super) fn add_to(self, chunk: &mut Chunk, position: Position, resolver: Resolver<'_>, entity: EntityIndex) {
        let Self { from, messages_from, only_gone_before, pages, known_before } = self;
        let Resolver { core, log, .. } = resolver;
        let is_tree = core.encoder(entity).is_tree();
        // What the log holds from before is in the rows, or newer there.
        let mode = Mode::Resend { from, pages };
        let mut sent = HashSet::new();
        if !matches!(position, Position::Siblings(_) | Position::Deletion(_)) {
            let begin = if let Position::Record(at) = position { at } else { from.min(messages_from) };
            for (sequence, record) in core.newest(log, entity, begin, from, messages_from) {
                let is_needed = |record: &&Record| sequence >= only_gone_before || !record.shows_object();
                let record = record.filter(is_needed).filter(|record| !(is_tree && is_deletion(record)));
                let is_sent = |change: &ObjectChange| !sent.is_empty() && sent.contains(&change.key);
                let record = record.filter(|record| !record.change().is_some_and(is_sent));
                let may_be_twice = |change: &ObjectChange| {
                    let resent = from..Sequence::MAX;
                    let is_new = |known| tree::is_new((core, log), entity, change, known, (&resent, sequence));
                    is_tree && known_before.is_some_and(is_new)
                };
                let mode_of = |record: &Record| match record.change().is_some_and(may_be_twice) {
                    true => Mode::Resend { from, pages: Pages::HaveItTwice },
                    false => mode,
                };
                let line = record.and_then(|record| resolver.record(sequence, record, mode_of(record)));
                let place = chunk.lines.len();
                if !chunk.add(Position::Record(sequence), line) {
                    return;
                }
                if let Some(change) = record.and_then(Record::change).filter(|_| is_tree) {
                    let behind = tree::ancestors_behind(log, entity, (sequence, change), from, &mut sent);
                    let lines =
                        behind.into_iter().filter_map(|(at, record)| resolver.record(at, record, mode_of(record)));
                    let lines = lines.map(|line| (Position::Record(sequence), line));
                    chunk.lines.splice(place..place, lines);
                }
            }
        }
        let is_ordered = is_tree && core.encoder(entity).order_key.is_some();
        if is_ordered
            && !matches!(position, Position::Deletion(_))
            && !self.add_steps(chunk, position, resolver, entity)
        {
            return;
        }
        if is_tree {
            let begin = if let Position::Deletion(at) = position { at } else { from };
            for (sequence, record) in core.newest(log, entity, begin, from, Sequence::MAX) {
                let line = record.filter(|it| is_deletion(it)).and_then(|it| resolver.record(sequence, it, mode));
                if !chunk.add(Position::Deletion(sequence), line) {
                    return;
                }
            }
        }
    }
}

impl Records {
    /// Adds the steps that bring siblings to their places; false where some of them must wait for the next chunk.
    fn add_steps(self, chunk: &mut Chunk, position: Position, resolver: Resolver<'_>, entity: EntityIndex) -> bool {
        let Resolver { core, log, .. } = resolver;
        let begin = if let Position::Siblings(at) = position { at } else { self.from };
        let mut placed = HashSet::new();
        for (sequence, record) in core.newest(log, entity, begin, self.from, Sequence::MAX) {
            let Some(change) = record.and_then(Record::change).filter(|change| change.kind != ChangeKind::Delete)
            else {
                continue;
            };
            if change.parents.first().is_none_or(|parent| !placed.insert(parent)) {
                continue;
            }
            let Some((first, steps)) = order::steps(core, log, entity, change, self.from) else { continue };
            // The others have been placed with the chunk before.
            if first != sequence {
                continue;
            }
            let mut steps = steps.into_iter().filter_map(|(_, record, step)| resolver.step(record, step));
            if !chunk.add(Position::Siblings(sequence), steps.next()) {
                return false;
            }
            chunk.lines.extend(steps.map(|line| (Position::Siblings(sequence), line)));
        }
        true
    }
}

/// The rows of the store in a resend.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rows<'r> {
    pub(super) snapshot: &'r SnapshotFrames,
    /// The log is resent from here on.
    pub(super) from: Sequence,
    pub(super) skips_marker: bool,
}

impl Rows<'_> {
    /// Adds the rows from one on; false where some of them must wait for the next chunk.
    pub(super) fn add_to(self, chunk: &mut Chunk, first: usize, resolver: Resolver<'_>, entity: EntityIndex) -> bool {
        let Self { snapshot, from, skips_marker } = self;
        let (log, at) = (resolver.log, snapshot.at);
        let is_ordered = resolver.core.encoder(entity).order_key.is_some();
        let steady_roots = is_ordered.then(|| order::steady_roots(resolver, entity, snapshot)).flatten();
        let mut are_sent = false;
        for (number, row) in snapshot.gone.iter().chain(snapshot.rows.iter()).enumerate().skip(first) {
            let is_wanted = row.kind != RowKind::Marker || !skips_marker;
            let is_old = row.kind != RowKind::Gone && row.is_outdated(log, entity, at);
            // What the log holds of it is newer, and comes later.
            let line = if is_wanted && !is_old {
                let since = row.keys.iter().find_map(|key| log.there_since(entity, key, at));
                resolver.row(entity, row, since)
            } else {
                None
            };
            let is_sent = line.is_some() && row.kind == RowKind::Object;
            if !chunk.add(Position::Row(number), line) {
                return false;
            }
            if let Some(place) = row.place.as_deref().filter(|_| is_sent) {
                let steady = steady_roots.as_ref().filter(|_| place.is_at_root);
                // They may come later themselves, or have come with another chunk.
                let before = steady.filter(|_| !std::mem::replace(&mut are_sent, true));
                let before = before.into_iter().flatten().filter(|(other, _)| other.id != row.id);
                chunk.lines.extend(
                    before.filter_map(|(other, _)| Some((Position::Row(number), resolver.row(entity, other, None)?))),
                );
                let steps = order::steps_of_row(resolver.core.encoder(entity), place, steady_roots.as_ref());
                chunk
                    .lines
                    .extend(steps.into_iter().map(|step| (Position::Row(number), resolver.row_step(entity, step))));
            }
            // A part of it is newer, and may be on the page already.
            let newer = row.keys.iter().filter(|_| is_sent).find_map(|key| log.part_since(entity, key, at));
            let mode = Mode::Resend { from, pages: Pages::Any };
            let newer = newer.and_then(|(sequence, record)| resolver.record(sequence, record, mode));
            chunk.lines.extend(newer.map(|line| (Position::Row(number), line)));
        }
        true
    }
}

fn is_deletion(record: &Record) -> bool {
    record.change().is_some_and(|change| change.kind == ChangeKind::Delete)
}
