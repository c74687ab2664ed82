//! What a resend consists of: deletions of the past, rows of the store, and what the log holds.

use std::ops::Range;

use tokio::time::Instant;

use super::{
    super::{
        chunk::{Chunk, Position},
        records::{Records, Rows},
    },
    Phase, Resend,
};
use crate::{
    entity::EntityIndex,
    hub::visibility::{Pages, Resolver},
    sequence::Sequence,
};

/// Of whom, and of what entity, a chunk is.
type Of<'r> = (Resolver<'r>, EntityIndex);

impl Resend {
    /// True when the log does not reach back to what is to be sent now.
    pub(crate) fn is_trimmed(&self, log_start: Sequence, now: Instant) -> bool {
        match self.phase {
            Phase::Due(due) => due <= now && self.records_from() < log_start,
            Phase::Sending(Position::Record(at) | Position::Below { record: at, .. }) => at < log_start,
            Phase::Sending(position) => !self.is_at_gone(position) && self.records_from() < log_start,
            Phase::Sent(_) => false,
        }
    }

    /// Leaves out what is gone from the log.
    pub(crate) fn skips_to(&mut self, log_start: Sequence) {
        self.from = self.from.max(log_start);
        self.messages_from = self.messages_from.max(log_start);
        if let Phase::Sending(Position::Record(at) | Position::Below { record: at, .. }) = &mut self.phase {
            *at = log_start.max(*at);
        }
    }

    /// Where it goes on instead of at `rest`, if nothing else has been sent of its entity up to `cursor`: with what was
    /// published while the rest of it was sent. The records have been `read_to` there with this chunk.
    pub(crate) fn rest_until(&mut self, rest: Position, read_to: Option<Sequence>, cursor: Sequence) -> Position {
        if rest.record().is_none() {
            self.read_to = read_to.unwrap_or(self.read_to);
        }
        if rest != Position::End || self.read_to >= cursor {
            return rest;
        }
        self.goes_on_from = Some(self.read_to);
        Position::Record(self.read_to)
    }

    /// The next chunk of it; `None` when nothing is to be sent at this time.
    pub(crate) fn chunk(&self, resolver: Resolver<'_>, entity: EntityIndex) -> Option<Chunk> {
        let Phase::Sending(position) = self.phase else { return None };
        if self.is_pausing() {
            return None;
        }
        let mut chunk = Chunk::new(self.pacing.room);
        let of = (resolver, entity);
        self.repeat_doubtful(&mut chunk, position, of);
        match self.gone_last() {
            // What the log itself holds comes last.
            None => {
                let _ = self.add_tombstones(&mut chunk, position, of)
                    && self.add_rows(&mut chunk, position, 0..usize::MAX, of)
                    && self.add_records(&mut chunk, position, of);
            }
            Some(gone) if self.is_at_gone(position) => {
                let _ =
                    self.add_tombstones(&mut chunk, position, of) && self.add_rows(&mut chunk, position, 0..gone, of);
            }
            Some(gone) => {
                let begin = Position::Tombstone(Sequence::ZERO);
                let _ = self.add_rows(&mut chunk, position, gone..usize::MAX, of)
                    && self.add_records(&mut chunk, position, of)
                    && self.goes_on_from.is_none()
                    && self.add_tombstones(&mut chunk, begin, of)
                    && self.add_rows(&mut chunk, begin, 0..gone, of);
            }
        }
        Some(chunk)
    }

    /// What was sent with other chunks, and what follows hangs on.
    fn repeat_doubtful(&self, chunk: &mut Chunk, position: Position, (resolver, entity): Of<'_>) {
        let hangs = !matches!(position, Position::Siblings(_) | Position::Deletion(_)) && !self.is_at_gone(position);
        let Some(snapshot) = self.snapshot.as_ref().filter(|_| hangs) else { return };
        let before = position.row().map(|row| row.saturating_sub(snapshot.gone.len()));
        let rows = Rows { snapshot, from: self.from, skips_marker: true };
        chunk.lines.extend(rows.doubtful(before, resolver, entity).into_iter().map(|line| (position, line)));
    }

    /// Where what is gone is sent behind everything else: how many ids the store has reported as gone.
    pub(super) fn gone_last(&self) -> Option<usize> {
        self.snapshot.as_ref().filter(|snapshot| snapshot.gone_last).map(|snapshot| snapshot.gone.len())
    }

    /// Whether nothing but what is gone is to be sent from a position on.
    pub(super) fn is_at_gone(&self, position: Position) -> bool {
        let is_row_of = |gone| position.row().is_some_and(|row| row < gone);
        self.gone_last().is_some_and(|gone| matches!(position, Position::Tombstone(_)) || is_row_of(gone))
    }

    fn add_tombstones(&self, chunk: &mut Chunk, position: Position, (resolver, entity): Of<'_>) -> bool {
        let Position::Tombstone(begin) = position else { return true };
        let end = if self.deletions.is_some() { self.from.max(begin) } else { begin };
        resolver.log.tombstones(entity, begin..end).all(|(sequence, tombstone)| {
            let line = resolver.tombstone(entity, sequence, tombstone, true);
            chunk.add(Position::Tombstone(sequence), line)
        })
    }

    fn add_rows(&self, chunk: &mut Chunk, position: Position, of: Range<usize>, (resolver, entity): Of<'_>) -> bool {
        let (Some(first), Some(snapshot)) = (position.row(), &self.snapshot) else { return true };
        let skips_marker = self.is_repeated || self.skips_marker;
        let rows = Rows { snapshot, from: self.from, skips_marker };
        rows.add_to(chunk, of.start.max(first)..of.end, resolver, entity)
    }

    fn add_records(&self, chunk: &mut Chunk, position: Position, (resolver, entity): Of<'_>) -> bool {
        let is_alone = resolver.core.encoder(entity).widget.family().is_none();
        let pages = match self.known_before {
            // Of what is resent besides its page may lack anything.
            Some(everything_before) if self.only_settles && is_alone => Pages::ThatHave { everything_before },
            _ => Pages::Any,
        };
        let records = Records {
            from: self.from,
            known_before: self.known_before.map_or(self.from, |known_before| known_before.min(self.from)),
            messages_from: self.messages_from,
            only_gone_before: self.only_gone_before,
            tail_from: self.goes_on_from.unwrap_or(self.from),
            gone_follow: self.gone_last().is_some() && self.deletions.is_some(),
            pages,
        };
        records.add_to(chunk, position, resolver, entity)
    }
}
