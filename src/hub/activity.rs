//! Writes and lists that are on their way: what settling must know of them.

use std::sync::{Arc, Mutex, atomic::Ordering};

use tokio::time::Instant;

use super::{
    append::{self, WriteContext},
    core::{Core, Delivery},
    saved::OngoingWrite,
    settle::{HANGING, Settle, WriteNumber, WriteStart},
};
use crate::{entity::EntityIndex, lock::lock, sequence::Sequence};

/// A write or a list that is on its way.
#[derive(Debug)]
pub(crate) struct Activity {
    core: Arc<Core>,
    entity: EntityIndex,
    number: WriteNumber,
    of: Of,
    /// Dropped last: how a write ends may be logged, too.
    _ongoing: Option<OngoingWrite>,
}

#[derive(Debug)]
enum Of {
    List(Instant),
    Write(WriteStart, Mutex<Stage>),
}

/// How far a write has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Its body is not here: nothing can have changed.
    Pending,
    /// Its body is here: settling waits for it.
    Arrived,
    /// It may have changed something: pages that were saving meanwhile may have missed something.
    Confirmed,
    /// It was refused, and is forgotten.
    Refused,
}

/// What the page that sent a refused write may have missed while it was saving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missed<'k> {
    /// The write was not authenticated, or not authorized.
    Nothing,
    /// What was published of the object of this key while the write was on its way.
    Object(&'k str),
    /// What others added meanwhile or shortly before: the page defers these adds.
    Adds,
}

impl Activity {
    /// The request of a write is here. It has no effect yet, since its sender is not authenticated.
    pub(super) fn of_write(core: Arc<Core>, entity: EntityIndex, ongoing: Option<OngoingWrite>) -> Self {
        let (now, end) = (Instant::now(), core.log_end());
        let start = lock(&core.settles).of_mut(entity).start_write(now, end, &core.times.settle);
        let number = WriteNumber(core.writes.fetch_add(1, Ordering::Relaxed));
        Self { core, entity, number, of: Of::Write(start, Mutex::new(Stage::Pending)), _ongoing: ongoing }
    }

    /// A page reads an entity's list.
    pub(super) fn of_list(core: Arc<Core>, entity: EntityIndex) -> Self {
        let start = Instant::now();
        if core.delivery == Delivery::Converging {
            lock(&core.settles).of_mut(entity).list_begins(start);
        }
        Self { core, entity, number: WriteNumber(u64::MAX), of: Of::List(start), _ongoing: None }
    }

    /// Where the log stood when this write began.
    pub(crate) fn since(&self) -> Option<Sequence> {
        match &self.of {
            Of::List(_) => None,
            Of::Write(start, _) => Some(start.log_end),
        }
    }

    /// What publishing must know of this write.
    pub(crate) fn context(&self) -> WriteContext {
        WriteContext { began: self.since(), number: Some(self.number), writer: None }
    }

    /// The write's body is here.
    pub(crate) fn arrive(&self) {
        self.step(|stage, settle, start| {
            if *stage == Stage::Pending {
                *stage = Stage::Arrived;
                settle.write_arrives(start);
            }
        });
    }

    /// The write may have changed something. To be called before that is published.
    pub(crate) fn confirm(&self) {
        let Of::Write(start, stage) = &self.of else { return };
        if self.core.delivery == Delivery::Converging {
            self.confirm_at(start, &mut lock(stage));
        }
    }

    fn confirm_at(&self, start: &WriteStart, stage: &mut Stage) {
        if !matches!(stage, Stage::Pending | Stage::Arrived) {
            return;
        }
        let was = std::mem::replace(stage, Stage::Confirmed);
        let now = Instant::now();
        {
            let log = lock(&self.core.log);
            let settles = &mut lock(&self.core.settles);
            let settle = settles.of_mut(self.entity);
            if was == Stage::Pending {
                settle.write_arrives(start);
            }
            settle.write_confirmed(start, now, || log.position(now, HANGING));
        }
        self.core.settling.notify_one();
    }

    /// The write was refused, and has changed nothing; it leaves no trace unless its page may have missed something.
    pub(crate) fn refuse(&self, missed: Missed<'_>) {
        let Of::Write(start, _) = &self.of else { return };
        let has_missed = match missed {
            Missed::Nothing => false,
            Missed::Object(key) => lock(&self.core.log).may_have_changed_since(self.entity, key, start.log_end),
            Missed::Adds => lock(&self.core.settles).of_mut(self.entity).was_added_beside(start),
        };
        if has_missed {
            return self.confirm();
        }
        let now = Instant::now();
        let refreshes = self.step(|stage, settle, start| {
            let was = std::mem::replace(stage, Stage::Refused);
            match missed {
                Missed::Nothing => {}
                Missed::Object(key) => settle.save_refused(now, Some(key.into())),
                Missed::Adds => settle.save_refused(now, None),
            }
            was == Stage::Arrived && settle.write_refused(start)
        });
        // What waits for a quiet moment may find it earlier now.
        self.core.settling.notify_one();
        if refreshes == Some(true) {
            self.refresh();
        }
    }

    /// An earlier refresh is done again, of every entity that it may have been of.
    fn refresh(&self) {
        let entities: Vec<EntityIndex> = lock(&self.core.settles).members(self.entity).collect();
        entities.into_iter().for_each(|entity| append::refresh(&self.core, entity));
    }

    /// Changes the stage of a write. Does nothing with plain delivery.
    fn step<T>(&self, change: impl FnOnce(&mut Stage, &mut Settle, &WriteStart) -> T) -> Option<T> {
        let Of::Write(start, stage) = &self.of else { return None };
        if self.core.delivery == Delivery::Plain {
            return None;
        }
        let stage = &mut lock(stage);
        Some(change(stage, lock(&self.core.settles).of_mut(self.entity), start))
    }
}

impl Drop for Activity {
    fn drop(&mut self) {
        if self.core.delivery == Delivery::Plain {
            return;
        }
        let now = Instant::now();
        let start = match &self.of {
            Of::List(start) => return lock(&self.core.settles).of_mut(self.entity).list_ends(*start, now),
            Of::Write(start, stage) => {
                let stage = &mut lock(stage);
                if **stage == Stage::Arrived {
                    self.confirm_at(start, stage);
                }
                if **stage != Stage::Confirmed {
                    return;
                }
                start
            }
        };
        // What began behind the refresh is newer, so this one needs no other.
        let (refreshes, holds) = {
            let mut settles = lock(&self.core.settles);
            let settle = settles.of_mut(self.entity);
            let refreshes = settle.write_ends(start, now);
            (refreshes, settle.held.answered(self.number, now + self.core.times.settle.hold))
        };
        if holds {
            self.core.settling.notify_one();
        }
        if refreshes {
            self.refresh();
        }
    }
}
