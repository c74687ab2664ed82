//! A file that holds the log while no process does: read at the start, written at the end.
//!
//! The file holds either a log or a *claim*. A process replaces what it has read by its claim at once, and its claim by
//! its log when it ends. So a process that dies leaves a claim, and the next one begins with an empty log: it never takes
//! a history for whole that is not.
//!
//! HTTP goes on while a server shuts down, so a write may begin when the log is written already. Then the file holds a
//! claim again before that write goes on.

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

use self::disk::{Header, Holds, Place};
use crate::{lock::lock, random};

/// What was in the file.
#[derive(Debug, PartialEq)]
pub(crate) enum Found {
    /// There was none, or it was empty.
    Nothing,
    /// A log, whole: what [`LogFile::save`] was given.
    Log(Vec<u8>),
    /// Something that cannot be used, and why.
    Unusable(String),
}

/// One process's hold on its log file.
#[derive(Debug)]
pub(crate) struct LogFile {
    place: Place,
    claim: Header,
    /// The process is about to end: the log is in the file whenever no write is on its way.
    closing: AtomicBool,
    /// Writes that are on their way.
    ongoing: AtomicUsize,
    state: Mutex<State>,
    /// Held by whoever writes the log.
    saving: Mutex<()>,
}

#[derive(Debug)]
struct State {
    holds: Mine,
    /// Counts the writes that have begun since the process is about to end.
    begun: u64,
}

/// What this process has put into the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mine {
    Claim,
    Log,
    /// A log, behind which a write has begun: no claim could be put in its place.
    Stale,
    /// Nothing any more: a newer process uses it, or it could not be written.
    Nothing,
}

/// What came of saving the log.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Saved {
    /// The file holds it, or writes are on their way and it will be saved when the last of them ends.
    Done,
    /// A newer process uses the file.
    Foreign,
}

impl LogFile {
    /// Reads the file, and claims it. Where it has more than `limit` bytes, it is not read.
    pub(crate) fn open(path: &Path, limit: u64) -> io::Result<(Self, Found)> {
        let place = Place::new(path)?;
        let generation = place.header().map_or(0, |header| header.generation);
        let found = match place.read(limit)? {
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
        place.tidy();
        let claim = Header { holds: Holds::Claim, holder: random::id(), generation: generation.saturating_add(1) };
        place.write(&claim, |_| Ok(()))?.install()?;
        let file = Self {
            place,
            claim,
            closing: AtomicBool::new(false),
            ongoing: AtomicUsize::new(0),
            state: Mutex::new(State { holds: Mine::Claim, begun: 0 }),
            saving: Mutex::default(),
        };
        Ok((file, found))
    }

    pub(crate) fn path(&self) -> &Path {
        self.place.path()
    }

    /// A write begins, and will [end](Self::write_ends): what the log is now is not all there is to know. To be called
    /// before the write can change anything. Only while the process ends does this touch the disk.
    pub(crate) fn write_begins(&self) -> io::Result<()> {
        self.ongoing.fetch_add(1, Ordering::SeqCst);
        if !self.closing.load(Ordering::SeqCst) {
            return Ok(());
        }
        let mut state = lock(&self.state);
        state.begun += 1;
        match state.holds {
            Mine::Claim | Mine::Nothing => return Ok(()),
            Mine::Log | Mine::Stale if !self.is_newest() => {
                state.holds = Mine::Nothing;
                return Ok(());
            }
            Mine::Log | Mine::Stale => state.holds = Mine::Stale,
        }
        let claimed = self.place.write(&self.claim, |_| Ok(())).and_then(disk::Written::install);
        // On a full disk a file can still be removed, and none is as good as a claim.
        claimed.or_else(|_| self.place.remove())?;
        state.holds = Mine::Claim;
        Ok(())
    }

    /// A write has ended. True when the log is to be saved now.
    pub(crate) fn write_ends(&self) -> bool {
        self.ongoing.fetch_sub(1, Ordering::SeqCst) == 1 && self.closing.load(Ordering::SeqCst)
    }

    /// The process is about to end. The log is to be saved now, and each time that [`write_ends`](Self::write_ends) says
    /// so.
    pub(crate) fn close(&self) {
        self.closing.store(true, Ordering::SeqCst);
    }

    /// Puts the log into the file: what `copy` takes of it, as `write` writes it. Waits for the disk.
    pub(crate) fn save<T>(
        &self,
        copy: impl Fn() -> T,
        write: impl Fn(&T, &mut dyn Write) -> io::Result<()>,
    ) -> io::Result<Saved> {
        let _saving = lock(&self.saving);
        loop {
            let begun = {
                let state = lock(&self.state);
                match state.holds {
                    Mine::Log | Mine::Nothing => return Ok(Saved::Done),
                    Mine::Claim | Mine::Stale => state.begun,
                }
            };
            // Looked at after the number was taken: whoever begins later counts.
            if self.ongoing.load(Ordering::SeqCst) != 0 {
                return Ok(Saved::Done);
            }
            let copied = copy();
            let header = Header { holds: Holds::Log, ..self.claim.clone() };
            let written = self.place.write(&header, |out| write(&copied, out))?;
            let mut state = lock(&self.state);
            if state.begun != begun {
                continue;
            }
            if !self.is_newest() {
                state.holds = Mine::Nothing;
                return Ok(Saved::Foreign);
            }
            written.install()?;
            state.holds = Mine::Log;
            return Ok(Saved::Done);
        }
    }

    /// Whether no newer process uses the file. One that began earlier may have written its log later: that is no history
    /// any more.
    fn is_newest(&self) -> bool {
        self.place
            .header()
            .is_none_or(|found| found.holder == self.claim.holder || found.generation < self.claim.generation)
    }
}
