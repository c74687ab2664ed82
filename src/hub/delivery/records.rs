//! The part of a resend that the log holds.

use std::collections::HashSet;

use super::{
    chunk::{Chunk, Position},
    tree,
};
use crate::{
    change::ChangeKind,
    entity::EntityIndex,
    hub::{
        log::{ObjectChange, Record},
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
        if !matches!(position, Position::Deletion(_)) {
            let begin = if let Position::Record(at) = position { at } else { from.min(messages_from) };
            for (sequence, record) in core.newest(log, entity, begin, from, messages_from) {
                let is_needed = |record: &&Record| sequence >= only_gone_before || !record.shows_object();
                let record = record.filter(is_needed).filter(|record| !(is_tree && is_deletion(record)));
                let is_sent = |change: &ObjectChange| !sent.is_empty() && sent.contains(&change.key);
                let record = record.filter(|record| !record.change().is_some_and(is_sent));
                let may_be_twice = |change: &ObjectChange| {
                    known_before.is_some_and(|known| is_tree && tree::is_new(log, entity, change, known))
                };
                let mode = match record.and_then(Record::change).is_some_and(may_be_twice) {
                    true => Mode::Resend { from, pages: Pages::HaveItTwice },
                    false => mode,
                };
                let line = record.and_then(|record| resolver.record(sequence, record, mode));
                let place = chunk.lines.len();
                if !chunk.add(Position::Record(sequence), line) {
                    return;
                }
                if let Some(change) = record.and_then(Record::change).filter(|_| is_tree) {
                    let behind = tree::ancestors_behind(log, entity, (sequence, change), from, &mut sent);
                    let lines = behind.into_iter().filter_map(|(at, record)| resolver.record(at, record, mode));
                    let lines = lines.map(|line| (Position::Record(sequence), line));
                    chunk.lines.splice(place..place, lines);
                }
            }
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

fn is_deletion(record: &Record) -> bool {
    record.change().is_some_and(|change| change.kind == ChangeKind::Delete)
}
