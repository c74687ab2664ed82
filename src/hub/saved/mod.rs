//! What the hub keeps across a restart, in a file: see [`LogFile`].

#[cfg(test)]
pub(super) mod tests;
mod text;

use std::{io, path::Path, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    EntityIndex, Hub,
    log::{Log, SavedLog},
    sessions::{SavedSession, Sessions},
};
use crate::{
    epoch::Epoch,
    lock::lock,
    log_file::{self, Found, LogFile},
    observe::Observer,
};

/// After a restart, deletions are resent no sooner than this: until then most pages have not come back.
const PAGES_COME_BACK: Duration = Duration::from_secs(10);

/// A log file, and what the hub needs to write it.
pub(super) struct Keeping {
    file: LogFile,
    epoch: Epoch,
    observer: Arc<Observer>,
    /// Records read from it.
    restored: usize,
    /// When deletions may be resent.
    pub(super) reminds_from: Option<Instant>,
}

/// All that is kept, as it was at one time.
#[derive(Debug)]
struct Saved {
    at: Instant,
    /// The same by the wall clock, in milliseconds since 1970.
    written: u64,
    log: SavedLog,
    sessions: Vec<SavedSession>,
}

/// A write that is on its way: while there is one, the log file holds no log.
#[derive(Debug)]
pub(crate) struct OngoingWrite(Arc<Hub>);

impl Drop for OngoingWrite {
    fn drop(&mut self) {
        let is_due = self.0.keeping.as_ref().is_some_and(|keeping| keeping.file.write_ends());
        if !is_due {
            return;
        }
        // Here and now, although it waits for the disk: the process ends, and its runtime may be the first to.
        self.0.save_or_warn();
    }
}

impl Hub {
    /// Keeps the log in this file from now on, and takes up what the file holds. Returns the epoch of the log.
    pub(crate) fn keep_in(&mut self, file: LogFile, found: Found, observer: Arc<Observer>) -> Epoch {
        let now = Instant::now();
        let restored = match found {
            Found::Nothing => Err(None),
            Found::Unusable(reason) => Err(Some(reason)),
            Found::Log(text) => text::read(&text, &self.encoders, now, text::wall_clock()).map_err(Some),
        };
        let mut keeping = Keeping { file, epoch: Epoch::new(), observer, restored: 0, reminds_from: None };
        match restored {
            Ok(restored) => {
                keeping.epoch = restored.epoch;
                self.take_up(restored.saved, restored.downtime, now);
                keeping.restored = self.log_size().0;
                keeping.reminds_from = Some(now + PAGES_COME_BACK);
            }
            Err(None) => {}
            Err(Some(reason)) => warn_unusable(&keeping.observer, keeping.file.path(), &reason),
        }
        let epoch = keeping.epoch.clone();
        self.keeping = Some(keeping);
        epoch
    }

    fn take_up(&mut self, saved: Saved, downtime: Duration, now: Instant) {
        let log = lock(&self.log).limits();
        *lock(&self.log) = Log::restored(log, saved.log, now);
        self.sessions = Sessions::restored(self.sessions.limits(), saved.sessions);
        let written = now.checked_sub(downtime).unwrap_or(now);
        let log = lock(&self.log);
        for (entity, schedule) in (0..).map(EntityIndex).zip(lock(&self.reminders).iter_mut()) {
            // Everybody has had what was due by then.
            schedule.due(&log, entity, &self.times.reminders, 0, written);
        }
    }

    /// Whether the log is kept in a file.
    pub(crate) fn is_kept(&self) -> bool {
        self.keeping.is_some()
    }

    /// Records read from the log file.
    pub(crate) fn restored(&self) -> usize {
        self.keeping.as_ref().map_or(0, |keeping| keeping.restored)
    }

    /// A write begins. To be called before it can change anything.
    pub(crate) fn change_begins(self: &Arc<Self>) -> Option<OngoingWrite> {
        let keeping = self.keeping.as_ref()?;
        if let Err(error) = keeping.file.write_begins() {
            keeping.observer.warn(format_args!(
                "a write has begun after the log file {:?} was written, and the file can be neither replaced nor removed \
                 ({error}); remove it before the next start",
                keeping.file.path()
            ));
        }
        Some(OngoingWrite(self.clone()))
    }

    /// Writes the log file, when no write is on its way any more: now, or as often as the last of them ends.
    pub(crate) async fn close(self: &Arc<Self>) {
        if let Some(keeping) = &self.keeping {
            keeping.file.close();
            let hub = self.clone();
            // One that panics has said so.
            if let Ok(saved) = tokio::task::spawn_blocking(move || hub.save()).await {
                keeping.warn_unless(saved);
            }
        }
    }

    fn save_or_warn(&self) {
        if let Some(keeping) = &self.keeping {
            keeping.warn_unless(self.save());
        }
    }

    /// Waits for the disk.
    fn save(&self) -> io::Result<log_file::Saved> {
        let Some(Keeping { file, epoch, .. }) = &self.keeping else {
            return Ok(log_file::Saved::Done);
        };
        file.save(|| self.saved(), |saved, out| text::write(saved, &self.encoders, epoch, out))
    }

    /// A copy of all that is kept.
    fn saved(&self) -> Saved {
        let (at, written) = (Instant::now(), text::wall_clock());
        let (log, unsettled): (_, Vec<Option<u64>>) = {
            let log = lock(&self.log);
            let settles = lock(&self.settles);
            (log.saved(), settles.iter().map(|settle| settle.unsettled_from()).collect())
        };
        let mut sessions = self.sessions.saved(at);
        // What was to be sent again to pages that may have missed it, nobody will be sent any more: they are replayed to.
        for (entity, position) in sessions.iter_mut().flat_map(|session| &mut session.positions) {
            if let Some(from) = unsettled.get(usize::from(entity.0)).copied().flatten() {
                *position = from.min(*position);
            }
        }
        Saved { at, written, log, sessions }
    }
}

impl Keeping {
    fn warn_unless(&self, saved: io::Result<log_file::Saved>) {
        let path = self.file.path();
        match saved {
            Ok(log_file::Saved::Done) => {}
            Ok(log_file::Saved::Foreign) => self.observer.warn(format_args!(
                "the log file {path:?} is not written: a newer process uses it, and its history counts; to keep the \
                 history, end the old process before the new one starts"
            )),
            Err(error) => self.observer.warn(format_args!(
                "the log file {path:?} cannot be written ({error}); after the next start pages are brought up to date by \
                 snapshots"
            )),
        }
    }
}

fn warn_unusable(observer: &Observer, path: &Path, reason: &str) {
    observer.warn(format_args!(
        "the log file {path:?} is not used: {reason}. The log starts empty, and pages that come back are brought up to date \
         by snapshots; let one process use the file at a time, and end it with shutdown()"
    ));
}
