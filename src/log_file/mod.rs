//! A file that keeps the log across a restart: read at the start, written at the end.
//!
//! The file holds either a log or a *claim*. At the start a process replaces the log by its claim, and at the end the
//! claim by its log. A process that crashes leaves a claim, and the next one begins with an empty log. So a history
//! with gaps is never taken for a complete one.
//!
//! HTTP goes on while a server shuts down, so a write may begin after the log is saved. Then the file holds a claim
//! again before that write goes on.

mod disk;
#[cfg(test)]
mod tests;

use std::{
    io::{self, Write},
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use self::disk::{Header, Holds, Location};
use crate::{lock::lock, random};

/// The file's content at the start.
#[derive(Debug, PartialEq)]
pub(crate) enum Found {
    /// There was no file, or it was empty.
    Nothing,
    /// A complete log, as [`LogFile::save`] wrote it.
    Log(Vec<u8>),
    /// It cannot be used, for the reason given.
    Unusable(String),
}

/// One process's hold on its log file.
#[derive(Debug)]
pub(crate) struct LogFile {
    location: Location,
    claim: Header,
    /// The process is about to end: the log is in the file whenever no write is ongoing.
    closing: AtomicBool,
    /// The number of ongoing writes.
    ongoing: AtomicUsize,
    state: Mutex<State>,
    /// Held while the log is written.
    saving: Mutex<()>,
}

#[derive(Debug)]
struct State {
    content: Content,
    /// The number of writes that have begun since [`LogFile::close`].
    begun: u64,
}

/// What this process last wrote to the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    Claim,
    Log,
    /// A log that misses a write: the claim could not be written.
    Stale,
    /// Nothing: a newer process uses the file.
    Foreign,
}

/// The result of saving the log.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Saved {
    /// The file holds the log, or will hold it when the last ongoing write ends.
    Done,
    /// A newer process uses the file.
    Foreign,
}

impl LogFile {
    /// Reads the file, and replaces it by a claim. A file of more than `limit` bytes is not read.
    pub(crate) fn open(path: &Path, limit: u64) -> io::Result<(Self, Found)> {
        let location = Location::new(path)?;
        let generation = location.header().map_or(0, |header| header.generation);
        let found = match location.read(limit)? {
            None => Found::Nothing,
            Some(Err(reason)) => Found::Unusable(reason),
            Some(Ok(content)) => match disk::decode(&content) {
                Err(reason) => Found::Unusable(reason),
                Ok((Header { holds: Holds::Log, .. }, body)) => Found::Log(body.to_vec()),
                Ok((Header { holds: Holds::Claim, .. }, _)) => Found::Unusable(
                    "the process that used it before did not end with shutdown, or still runs".to_owned(),
                ),
            },
        };
        location.remove_leftovers();
        let claim = Header { holds: Holds::Claim, holder: random::id(), generation: generation.saturating_add(1) };
        location.write(&claim, |_| Ok(()))?.install()?;
        let file = Self {
            location,
            claim,
            closing: AtomicBool::new(false),
            ongoing: AtomicUsize::new(0),
            state: Mutex::new(State { content: Content::Claim, begun: 0 }),
            saving: Mutex::default(),
        };
        Ok((file, found))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.location.path
    }

    /// A write begins, and will [end](Self::write_ends): until then the log is incomplete. To be called before the
    /// write can change anything. Touches the disk only after [`close`](Self::close).
    pub(crate) fn write_begins(&self) -> io::Result<()> {
        self.ongoing.fetch_add(1, Ordering::SeqCst);
        if !self.closing.load(Ordering::SeqCst) {
            return Ok(());
        }
        let mut state = lock(&self.state);
        state.begun += 1;
        match state.content {
            Content::Claim | Content::Foreign => return Ok(()),
            Content::Log | Content::Stale if !self.is_newest() => {
                state.content = Content::Foreign;
                return Ok(());
            }
            Content::Log | Content::Stale => state.content = Content::Stale,
        }
        let claimed = self.location.write(&self.claim, |_| Ok(())).and_then(disk::Written::install);
        // On a full disk a file can still be removed, and no file is as good as a claim.
        claimed.or_else(|_| self.location.remove())?;
        state.content = Content::Claim;
        Ok(())
    }

    /// A write has ended. True when the caller must save the log now.
    pub(crate) fn write_ends(&self) -> bool {
        self.ongoing.fetch_sub(1, Ordering::SeqCst) == 1 && self.closing.load(Ordering::SeqCst)
    }

    /// The process is about to end. The caller must save the log now, and each time that
    /// [`write_ends`](Self::write_ends) returns true.
    pub(crate) fn close(&self) {
        self.closing.store(true, Ordering::SeqCst);
    }

    /// Saves the log: `copy` takes a copy of it, and `write` writes that. Waits for the disk.
    pub(crate) fn save<T>(
        &self,
        copy: impl Fn() -> T,
        write: impl Fn(&T, &mut dyn Write) -> io::Result<()>,
    ) -> io::Result<Saved> {
        let _saving = lock(&self.saving);
        loop {
            let begun = {
                let state = lock(&self.state);
                match state.content {
                    Content::Log | Content::Foreign => return Ok(Saved::Done),
                    Content::Claim | Content::Stale => state.begun,
                }
            };
            // Read after `begun`: a write that begins later changes that number.
            if self.ongoing.load(Ordering::SeqCst) != 0 {
                return Ok(Saved::Done);
            }
            let copied = copy();
            let header = Header { holds: Holds::Log, ..self.claim.clone() };
            let written = self.location.write(&header, |out| write(&copied, out))?;
            let mut state = lock(&self.state);
            if state.begun != begun {
                continue;
            }
            if !self.is_newest() {
                state.content = Content::Foreign;
                return Ok(Saved::Foreign);
            }
            written.install()?;
            state.content = Content::Log;
            return Ok(Saved::Done);
        }
    }

    /// Whether no newer process uses the file. An older process may have saved its log later: that log is not this
    /// process's history.
    fn is_newest(&self) -> bool {
        self.location
            .header()
            .is_none_or(|found| found.holder == self.claim.holder || found.generation < self.claim.generation)
    }
}
