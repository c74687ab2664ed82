//! A bounded piece of what one subscriber is sent on the slow path.

use std::sync::Arc;

use crate::{
    entity::EntityIndex,
    hub::{
        reminders::begin_of_reminders,
        retractions::{OldDeletions, OldPosition, Retractions},
        visibility::{Mode, Pages, Resolved, Resolver},
    },
    sequence::Sequence,
};

/// Records looked at in one chunk.
pub(crate) const CHUNK_RECORDS: usize = 512;
/// Bytes in one chunk, but for what goes beyond that in its last line: a stream that is no plain TCP stream holds all of it
/// until its page reads on.
pub(crate) const CHUNK_BYTES: usize = 128 * 1024;

/// Where a line stands: in this order a resend sends deletions, then rows of the store, then the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Position {
    Tombstone(Sequence),
    /// One of some rows, ids or sequence numbers.
    Row(usize),
    Record(Sequence),
    /// The same, of a record whose ancestors up to this one have been sent before it.
    Below {
        record: Sequence,
        ancestor: Sequence,
    },
    /// Siblings, the first of which this is, that are brought to their places behind what else of them the log holds.
    Siblings(Sequence),
    /// A deletion of a tree, which follows what else the log holds.
    Deletion(Sequence),
    /// Behind everything.
    End,
}

impl Position {
    /// The record to go on from.
    pub(crate) fn record(self) -> Option<Sequence> {
        match self {
            Self::Record(at) | Self::Below { record: at, .. } => Some(at),
            Self::Tombstone(_) | Self::Row(_) | Self::Siblings(_) | Self::Deletion(_) | Self::End => None,
        }
    }

    /// The row to go on from; `None` where all are done with.
    pub(crate) fn row(self) -> Option<usize> {
        match self {
            Self::Row(row) => Some(row),
            Self::Tombstone(_) => Some(0),
            Self::Record(_) | Self::Below { .. } | Self::Siblings(_) | Self::Deletion(_) | Self::End => None,
        }
    }
}

/// What is sent next, each line with the position to go on from should it not be accepted.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) lines: Vec<(Position, Resolved)>,
    pub(crate) end: Position,
    /// Lines that are drawn, and how many of them there may be.
    pub(crate) drawn: usize,
    /// The records of a resend have been read to here, and what follows them begins.
    pub(crate) read_to: Option<Sequence>,
    room: usize,
    bytes: usize,
    looked_at: usize,
}

impl Chunk {
    pub(crate) fn new(room: usize) -> Self {
        Self { lines: Vec::new(), end: Position::End, drawn: 0, read_to: None, room, bytes: 0, looked_at: 0 }
    }

    /// Adds what stands at a position, if that is anything; false when it must wait for the next chunk.
    pub(crate) fn add(&mut self, position: Position, line: Option<Resolved>) -> bool {
        let is_drawn = line.as_ref().is_some_and(Resolved::is_drawn);
        let is_added = self.has_room(position, is_drawn) && self.push(position, line);
        self.drawn += usize::from(is_added && is_drawn);
        is_added
    }

    /// The same of lines that belong together: the pauses of a long resend do not come between them.
    pub(crate) fn add_together(&mut self, lines: Vec<(Position, Option<Resolved>)>) -> bool {
        let Some((first, _)) = lines.first() else { return true };
        let is_drawn = lines.iter().any(|(_, line)| line.as_ref().is_some_and(Resolved::is_drawn));
        let is_added =
            self.has_room(*first, is_drawn) && lines.into_iter().all(|(position, line)| self.push(position, line));
        self.drawn += usize::from(is_added && is_drawn);
        is_added
    }

    fn has_room(&mut self, position: Position, is_drawn: bool) -> bool {
        let has_room = !is_drawn || self.drawn < self.room;
        if !has_room {
            self.end = position;
        }
        has_room
    }

    fn push(&mut self, position: Position, line: Option<Resolved>) -> bool {
        if self.bytes > CHUNK_BYTES || self.looked_at >= CHUNK_RECORDS {
            self.end = position;
            return false;
        }
        self.looked_at += 1;
        if let Some(line) = line {
            self.bytes += line.bytes();
            self.lines.push((position, line));
        }
        true
    }

    /// Some of the objects outside a recipient's visibility: that each is gone, or the object where it may be seen
    /// again. With the ids in their order, and the one that follows.
    pub(crate) fn of_objects(
        resolver: Resolver<'_>,
        entity: EntityIndex,
        retractions: &Retractions,
    ) -> Option<(Self, Vec<Arc<str>>, Option<Arc<str>>)> {
        let mut due = retractions.due_objects().peekable();
        due.peek()?;
        let (mut chunk, mut ids) = (Self::new(usize::MAX), Vec::new());
        let log = resolver.log;
        while let Some((id, known)) = due.peek() {
            let line = match (log.current_record(entity, &known.key), known.reminders) {
                (Some((at, record)), Some(_)) => {
                    let undecided = known.undecided_from.map(|from| Mode::Resend { from, pages: Pages::Any });
                    resolver.record(at, record, undecided.unwrap_or(Mode::Reminder))
                }
                (Some((at, record)), None) => resolver.record(at, record, Mode::Retract { from: Sequence::ZERO }),
                (None, Some(_)) if known.undecided_from.is_none() => Some(resolver.reminder_by_id(entity, id)),
                (None, _) => None,
            };
            if !chunk.add(Position::Row(ids.len()), line) {
                break;
            }
            ids.push((*id).clone());
            due.next();
        }
        let next = due.next().map(|(id, _)| id.clone());
        Some((chunk, ids, next))
    }

    /// The deletions of a list, but for the first ones.
    pub(crate) fn of_list(resolver: Resolver<'_>, entity: EntityIndex, sequences: &[Sequence], from: usize) -> Self {
        let mut chunk = Self::new(usize::MAX);
        for (at, &sequence) in sequences.iter().enumerate().skip(from) {
            let tombstone = resolver.log.tombstone_at(entity, sequence);
            let line = tombstone.and_then(|tombstone| resolver.tombstone(entity, sequence, tombstone, false));
            if !chunk.add(Position::Row(at), line) {
                break;
            }
        }
        chunk
    }

    /// Old deletions, from a position on.
    pub(crate) fn of_old(
        resolver: Resolver<'_>,
        entity: EntityIndex,
        old: &OldDeletions,
        position: OldPosition,
    ) -> Self {
        let Resolver { core, log, recipient } = resolver;
        let mut chunk = Self::new(usize::MAX);
        let mut first_row = 0;
        match position {
            OldPosition::Row(row) => first_row = row,
            OldPosition::Tombstone(from) => {
                let end = old.tombstones.end;
                let from = begin_of_reminders(log, entity, from.max(core.reimported_before(log, entity)), end);
                for (sequence, tombstone) in log.tombstones(entity, from..end.max(from)) {
                    let line = resolver.tombstone(entity, sequence, tombstone, true);
                    if !chunk.add(Position::Tombstone(sequence), line) {
                        return chunk;
                    }
                }
            }
        }
        // Once the log does not reach back to where the store was asked, what was gone then may have come back.
        let log_start = recipient.log_start(log, entity);
        let Some(gone) = old.gone.as_ref().filter(|gone| gone.at >= log_start) else { return chunk };
        for (number, row) in gone.gone.iter().enumerate().skip(first_row) {
            let since = row.keys.iter().find_map(|key| log.there_since(entity, key, gone.at));
            if !chunk.add(Position::Row(number), resolver.row(entity, row, since)) {
                break;
            }
        }
        chunk
    }
}
