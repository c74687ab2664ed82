//! What the hub keeps across a restart, in a file: see [`LogFile`].

mod content;
#[cfg(test)]
pub(super) mod tests;

use std::{fmt, io, path::Path, sync::Arc, time::Duration};

use tokio::time::Instant;

use self::content::Content;
use super::{
    clock::{Clock, wall_clock},
    core::Core,
};
use crate::{
    entity::EntityIndex,
    epoch::Epoch,
    lock::lock,
    log_file::{self, Found, LogFile},
    observe::Observer,
    sequence::Sequence,
};

/// After a restart, deletions are resent no sooner than this: until then most pages have not come back.
const PAGES_COME_BACK: Duration = Duration::from_secs(10);

/// A log file, and what is needed to write it.
pub(super) struct Keeper {
    core: Arc<Core>,
    file: LogFile,
    /// Of the log in it.
    pub(super) epoch: Epoch,
    observer: Arc<Observer>,
    /// Records read from it.
    pub(super) restored: usize,
}

/// A write that is on its way: while there is one, the log file holds no log.
pub(super) struct OngoingWrite(Arc<Keeper>);

impl fmt::Debug for OngoingWrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OngoingWrite")
    }
}

impl Drop for OngoingWrite {
    fn drop(&mut self) {
        if self.0.file.write_ends() {
            // Here and now, although it waits for the disk: the process ends, and its runtime may be the first to.
            self.0.warn_unless(self.0.save());
        }
    }
}

impl Keeper {
    /// Takes up what the file holds, and keeps the log in it from now on.
    pub(super) fn new(core: Arc<Core>, file: LogFile, found: Found, observer: Arc<Observer>) -> Self {
        let read = match found {
            Found::Nothing => None,
            Found::Unusable(reason) => Some(Err(reason)),
            Found::Log(text) => Some(Content::read(&text, &core.encoders, Instant::now(), wall_clock())),
        };
        let (epoch, restored) = match read {
            Some(Ok((content, clock))) => (content.epoch.clone(), take_up(&core, content, &clock)),
            Some(Err(reason)) => {
                warn_unusable(&observer, file.path(), &reason);
                (Epoch::new(), 0)
            }
            None => (Epoch::new(), 0),
        };
        Self { core, file, epoch, observer, restored }
    }

    /// A write begins. To be called before it can change anything.
    pub(super) fn write_begins(self: &Arc<Self>) -> OngoingWrite {
        if let Err(error) = self.file.write_begins() {
            self.observer.warn(format_args!(
                "a write has begun after the log file {:?} was written, and the file can be neither replaced nor removed \
                 ({error}); remove it before the next start",
                self.file.path()
            ));
        }
        OngoingWrite(self.clone())
    }

    /// Writes the file, when no write is on its way any more: now, or as often as the last of them ends.
    pub(super) async fn close(self: &Arc<Self>) {
        self.file.close();
        let keeper = self.clone();
        // A panic has been reported.
        if let Ok(saved) = tokio::task::spawn_blocking(move || keeper.save()).await {
            self.warn_unless(saved);
        }
    }

    /// Waits for the disk.
    fn save(&self) -> io::Result<log_file::Saved> {
        self.file.save(|| content(&self.core, &self.epoch), Content::write)
    }

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

/// Takes up what was kept; returns how many records that are.
fn take_up(core: &Core, content: Content, clock: &Clock) -> usize {
    let mut log = lock(&core.log);
    log.restore(content.log, clock);
    for (entity, schedule) in (0..).map(EntityIndex).zip(lock(&core.reminders).iter_mut()) {
        // Every page has had what was due by then.
        schedule.due(&log, entity, &core.times.reminders, Sequence::ZERO, clock.at(0));
    }
    core.sessions.restore(content.sessions, clock);
    core.reminds_from.get_or_init(|| clock.now + PAGES_COME_BACK);
    log.size().0
}

/// A copy of all that is kept.
fn content(core: &Core, epoch: &Epoch) -> Content {
    let clock = Clock::new(Instant::now(), Duration::ZERO);
    let written = wall_clock();
    let (log, unsettled): (_, Vec<Option<Sequence>>) = {
        let log = lock(&core.log);
        let settles = lock(&core.settles);
        (log.saved(&clock), core.entities().map(|entity| settles.of(entity).unsettled_from()).collect())
    };
    let mut sessions = core.sessions.saved(&clock);
    // What was to be resent to pages that may have missed it, is sent to no connection any more: those pages are replayed to.
    for (entity, position) in sessions.iter_mut().flat_map(|session| &mut session.positions) {
        if let Some(from) = unsettled.get(usize::from(entity.0)).copied().flatten() {
            *position = from.min(*position);
        }
    }
    let entities = core.encoders.iter().map(content::fingerprint).collect();
    Content { written, epoch: epoch.clone(), entities, log, sessions }
}
