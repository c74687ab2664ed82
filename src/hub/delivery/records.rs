//! What a resend consists of: rows of the store, and what the log holds.

use std::{collections::HashSet, ops::Range};

use super::{
    chunk::{Chunk, Position},
    order, tree,
};
use crate::{
    change::ChangeKind,
    entity::EntityIndex,
    hub::{
        log::{ObjectChange, Record},
        snapshot::{Row, RowKind, SnapshotFrames},
        visibility::{Mode, Pages, Resolved, Resolver},
    },
    sequence::Sequence,
};

/// The newest states of what changed from a sequence number on, and messages from another one on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Records {
    pub(super) from: Sequence,
    /// Pages have everything before this, and of what is between this and `from` they may lack something.
    pub(super) known_before: Sequence,
    pub(super) messages_from: Sequence,
    /// Of the changes before this only deletions are sent.
    pub(super) only_gone_before: Sequence,
    /// Deletions, and places of siblings, from here on follow.
    pub(super) tail_from: Sequence,
    /// Deletions follow that the log does not hold as records.
    pub(super) gone_follow: bool,
    pub(super) pages: Pages,
}

impl Records {
    /// Adds what follows a position; false where some of it must wait for the next chunk.
    pub(super) fn add_to(
        self,
        chunk: &mut Chunk,
        position: Position,
        resolver: Resolver<'_>,
        entity: EntityIndex,
    ) -> bool {
        let Self { from, known_before, messages_from, only_gone_before, tail_from, pages, .. } = self;
        let Resolver { core, log, .. } = resolver;
        let is_tree = core.encoder(entity).is_tree();
        // What the log holds from before is in the rows, or newer there.
        let mode = Mode::Resend { from, pages };
        let owner = resolver.recipient.owner;
        let mut sent = HashSet::new();
        if !matches!(position, Position::Siblings(_) | Position::Deletion(_)) {
            let begin = position.record().unwrap_or_else(|| from.min(messages_from));
            for (sequence, record) in core.newest(log, entity, begin, from, messages_from) {
                let is_needed = |record: &&Record| sequence >= only_gone_before || !record.shows_object();
                let record = record.filter(is_needed).filter(|record| !(is_tree && is_deletion(record)));
                let is_sent = |change: &ObjectChange| !sent.is_empty() && sent.contains(&change.key);
                let record = record.filter(|record| !record.change().is_some_and(is_sent));
                let mut place = Position::Record(sequence);
                let mut lines = Vec::new();
                if let Some(change) = record.and_then(Record::change).filter(|_| is_tree) {
                    let above = tree::Above { from: known_before, besides: begin..sequence };
                    let above = above.of(log, entity, change, |broadcast| broadcast.is_held_from(owner), &mut sent);
                    let done =
                        |(at, ..): &(Sequence, _, _)| position == Position::Below { record: sequence, ancestor: *at };
                    let rest = above.iter().position(done).map_or(0, |last| last + 1);
                    for (number, (at, ancestor, is_held)) in above.iter().enumerate() {
                        let mode = if *is_held { Mode::AtRoot { from } } else { mode };
                        let line = || resolver.record(*at, ancestor, mode);
                        let is_doubtful = |change: &ObjectChange| core.is_unsettled(entity, &change.key);
                        if number >= rest {
                            lines.push((place, line()));
                        } else if ancestor.change().is_some_and(is_doubtful) {
                            // What its page may have ignored meanwhile is sent once more.
                            chunk.lines.extend(line().map(|line| (position, line)));
                        }
                        place = Position::Below { record: sequence, ancestor: *at };
                    }
                }
                lines.push((place, record.and_then(|record| resolver.record(sequence, record, mode))));
                if !chunk.add_together(lines) {
                    return false;
                }
            }
        }
        if !matches!(position, Position::Siblings(_) | Position::Deletion(_)) {
            chunk.read_to = Some(log.end());
        }
        let is_ordered = is_tree && core.encoder(entity).order_key.is_some();
        if is_ordered
            && !matches!(position, Position::Deletion(_))
            && !self.add_steps(chunk, position, resolver, entity)
        {
            return false;
        }
        if is_tree {
            let begin = if let Position::Deletion(at) = position { at } else { tail_from };
            if !matches!(position, Position::Deletion(_)) && self.has_deletions(resolver, entity) {
                let held = tree::moved_and_held(core, log, entity, |broadcast| broadcast.is_held_from(owner));
                let at_root = held.filter_map(|(at, record)| resolver.record(at, record, Mode::AtRoot { from }));
                chunk.lines.extend(at_root.map(|line| (Position::Deletion(begin), line)));
            }
            for (sequence, record) in core.newest(log, entity, begin, from, Sequence::MAX) {
                let line = record.filter(|it| is_deletion(it)).and_then(|it| resolver.record(sequence, it, mode));
                if !chunk.add(Position::Deletion(sequence), line) {
                    return false;
                }
            }
        }
        true
    }
}

impl Records {
    fn has_deletions(self, Resolver { core, log, .. }: Resolver<'_>, entity: EntityIndex) -> bool {
        let mut records = core.newest(log, entity, self.tail_from, self.from, Sequence::MAX);
        self.gone_follow || records.any(|(_, record)| record.is_some_and(is_deletion))
    }

    /// Adds the steps that bring siblings to their places; false where some of them must wait for the next chunk.
    fn add_steps(self, chunk: &mut Chunk, position: Position, resolver: Resolver<'_>, entity: EntityIndex) -> bool {
        let Resolver { core, log, .. } = resolver;
        let begin = if let Position::Siblings(at) = position { at } else { self.tail_from };
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
    /// Adds rows of a range; false where some of them must wait for the next chunk.
    pub(super) fn add_to(
        self,
        chunk: &mut Chunk,
        range: Range<usize>,
        resolver: Resolver<'_>,
        entity: EntityIndex,
    ) -> bool {
        let Self { snapshot, from, skips_marker } = self;
        let (core, log, at) = (resolver.core, resolver.log, snapshot.at);
        let is_ordered = core.encoder(entity).order_key.is_some();
        let steady_roots = is_ordered.then(|| order::steady_roots(resolver, entity, snapshot)).flatten();
        let mut are_sent = false;
        let all = snapshot.gone.iter().chain(snapshot.rows.iter()).enumerate();
        for (number, row) in all.take(range.end).skip(range.start) {
            let is_wanted = row.kind != RowKind::Marker || !skips_marker;
            let is_old = row.kind != RowKind::Gone && row.is_outdated(log, entity, at);
            let line = if is_wanted { self.line(row, resolver, entity) } else { None };
            let is_sent = line.is_some() && row.kind == RowKind::Object;
            if !chunk.add(Position::Row(number), line) {
                return false;
            }
            let is_placed = is_sent && !is_old && !resolver.is_place_held(entity, row);
            if let Some(place) = row.place.as_deref().filter(|_| is_placed) {
                let steady = steady_roots.as_ref().filter(|_| place.is_at_root);
                // They may come later themselves, or have come with another chunk.
                let before = steady.filter(|_| !std::mem::replace(&mut are_sent, true)).into_iter().flatten();
                let before = before.filter_map(|(other, _)| resolver.row(entity, other, None));
                let steps = order::steps_of_row(core.encoder(entity), place, steady_roots.as_ref());
                let lines = before.chain(steps.into_iter().map(|step| resolver.row_step(entity, step)));
                chunk.lines.extend(lines.map(|line| (Position::Row(number), line)));
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

impl Rows<'_> {
    /// What is sent of a row: of one that the log knows something newer of, what else may hang below it. All there is to know
    /// of that comes later.
    fn line(self, row: &Row, resolver: Resolver<'_>, entity: EntityIndex) -> Option<Resolved> {
        let (core, log, at) = (resolver.core, resolver.log, self.snapshot.at);
        let is_old = row.kind != RowKind::Gone && row.is_outdated(log, entity, at);
        if is_old && row.kind == RowKind::Object && core.encoder(entity).is_tree() {
            return self.instead_of(row, resolver, entity);
        }
        if is_old {
            return None;
        }
        let since = row.keys.iter().find_map(|key| log.there_since(entity, key, at));
        resolver.row(entity, row, since)
    }

    /// The rows before this one whose places some page may not know: what follows may hang below them, and its page may have
    /// ignored them. Once all rows have been sent (`None`), the log has the places of the others.
    pub(super) fn doubtful(self, before: Option<usize>, resolver: Resolver<'_>, entity: EntityIndex) -> Vec<Resolved> {
        let (log, at) = (resolver.log, self.snapshot.at);
        let doubtful = resolver.core.unsettled(entity);
        let count = if doubtful.is_empty() { 0 } else { before.unwrap_or(usize::MAX) };
        let rows = self.snapshot.rows.iter().take(count).filter(|row| {
            let is_doubtful = row.kind == RowKind::Object && row.keys.iter().any(|key| doubtful.contains(key));
            is_doubtful && (before.is_some() || !row.is_outdated(log, entity, at))
        });
        rows.filter_map(|row| self.line(row, resolver, entity)).collect()
    }

    /// What is sent instead of an object in a tree of which the log knows something newer: what follows may hang below it.
    fn instead_of(self, row: &Row, resolver: Resolver<'_>, entity: EntityIndex) -> Option<Resolved> {
        let newest = row.keys.iter().find_map(|key| resolver.log.newest_record(entity, key));
        let (sequence, record, change) = newest.filter(|(_, _, change)| change.kind != ChangeKind::Delete)?;
        if record.broadcast.is_held_from(resolver.recipient.owner) && change.kind == ChangeKind::Add {
            return None;
        }
        let stays = change.parents.first() == row.parent.as_ref();
        let mode = match stays && !record.broadcast.is_held_from(resolver.recipient.owner) {
            true => Mode::Resend { from: self.from, pages: Pages::Any },
            false => Mode::AtRoot { from: self.from },
        };
        resolver.record(sequence, record, mode)
    }
}

fn is_deletion(record: &Record) -> bool {
    record.change().is_some_and(|change| change.kind == ChangeKind::Delete)
}
