//! Writes and lists that are on their way: what settling must know of them.

use std::sync::{Arc, Mutex};

use tokio::time::Instant;

use super::{
    append,
    core::{Core, Delivery},
    saved::OngoingWrite,
    settle::{Begun, HANGING, Settle},
};
use crate::{entity::EntityIndex, lock::lock};

/// A write or a list that is on its way.
#[derive(Debug)]
pub(crate) struct Activity {
    core: Arc<Core>,
    entity: EntityIndex,
    of: Of,
    /// Dropped last: how a write ends may be logged, too.
    _ongoing: Option<OngoingWrite>,
}

#[derive(Debug)]
enum Of {
    List(Instant),
    Write(Begun, Mutex<Stage>),
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
    /// It is a stranger's, or one that nobody let in.
    Nothing,
    /// What was published of the object of this key while the write was on its way.
    Object(&'k str),
    /// What others added meanwhile or shortly before: it holds that back.
    Adds,
}

impl Activity {
    /// The request of a write is here. It counts for nothing yet: anybody can send one.
    pub(super) fn of_write(core: Arc<Core>, entity: EntityIndex, ongoing: Option<OngoingWrite>) -> Self {
        let (now, end) = (Instant::now(), core.log_end());
        let begun = lock(&core.settles)[usize::from(entity.0)].write_comes(now, end, &core.times.settle);
        Self { core, entity, of: Of::Write(begun, Mutex::new(Stage::Pending)), _ongoing: ongoing }
    }

    /// A page reads an entity's list.
    pub(super) fn of_list(core: Arc<Core>, entity: EntityIndex) -> Self {
        let begun = Instant::now();
        if core.delivery == Delivery::Converging {
            lock(&core.settles)[usize::from(entity.0)].list_begins(begun);
        }
        Self { core, entity, of: Of::List(begun), _ongoing: None }
    }

    /// Where the log stood when this write began.
    pub(crate) fn since(&self) -> Option<u64> {
        match &self.of {
            Of::List(_) => None,
            Of::Write(begun, _) => Some(begun.head),
        }
    }

    /// The write's body is here.
    pub(crate) fn arrive(&self) {
        self.step(|stage, settle, begun| {
            if *stage == Stage::Pending {
                *stage = Stage::Arrived;
                settle.write_arrives(begun);
            }
        });
    }

    /// The write may have changed something. To be called before that is published.
    pub(crate) fn confirm(&self) {
        let Of::Write(begun, stage) = &self.of else { return };
        if self.core.delivery == Delivery::Converging {
            self.confirm_at(begun, &mut lock(stage));
        }
    }

    fn confirm_at(&self, begun: &Begun, stage: &mut Stage) {
        let was = std::mem::replace(stage, Stage::Confirmed);
        if !matches!(was, Stage::Pending | Stage::Arrived) {
            *stage = was;
            return;
        }
        let now = Instant::now();
        {
            let log = lock(&self.core.log);
            let settles = &mut lock(&self.core.settles);
            let settle = &mut settles[usize::from(self.entity.0)];
            if was == Stage::Pending {
                settle.write_arrives(begun);
            }
            settle.write_confirmed(begun, now, || log.position(now, HANGING));
        }
        self.core.settling.notify_one();
    }

    /// The write was refused, and has changed nothing; it leaves no trace unless its page may have missed something.
    pub(crate) fn refuse(&self, missed: Missed<'_>) {
        let Of::Write(begun, _) = &self.of else { return };
        let has_missed = match missed {
            Missed::Nothing => false,
            Missed::Object(key) => lock(&self.core.log).may_have_changed_since(self.entity, key, begun.head),
            Missed::Adds => self.settle(|settle| settle.was_added_beside(begun)),
        };
        if has_missed {
            return self.confirm();
        }
        let now = Instant::now();
        let refreshes = self.step(|stage, settle, begun| {
            let was = std::mem::replace(stage, Stage::Refused);
            match missed {
                Missed::Nothing => {}
                Missed::Object(key) => settle.save_refused(now, Some(key.into())),
                Missed::Adds => settle.save_refused(now, None),
            }
            was == Stage::Arrived && settle.write_refused(begun)
        });
        // What waits for a quiet moment may find it earlier now.
        self.core.settling.notify_one();
        if refreshes == Some(true) {
            append::refresh(&self.core, self.entity);
        }
    }

    fn settle<T>(&self, look: impl FnOnce(&Settle) -> T) -> T {
        look(&lock(&self.core.settles)[usize::from(self.entity.0)])
    }

    /// Something happens to a write, where that is of interest.
    fn step<T>(&self, happen: impl FnOnce(&mut Stage, &mut Settle, &Begun) -> T) -> Option<T> {
        let Of::Write(begun, stage) = &self.of else { return None };
        if self.core.delivery == Delivery::Plain {
            return None;
        }
        let stage = &mut lock(stage);
        Some(happen(stage, &mut lock(&self.core.settles)[usize::from(self.entity.0)], begun))
    }
}

impl Drop for Activity {
    fn drop(&mut self) {
        if self.core.delivery == Delivery::Plain {
            return;
        }
        let now = Instant::now();
        let begun = match &self.of {
            Of::List(begun) => return lock(&self.core.settles)[usize::from(self.entity.0)].list_ends(*begun, now),
            Of::Write(begun, stage) => {
                let stage = &mut lock(stage);
                if **stage == Stage::Arrived {
                    self.confirm_at(begun, stage);
                }
                if **stage != Stage::Confirmed {
                    return;
                }
                begun
            }
        };
        // What began behind the refresh is newer, so this one needs no other.
        if lock(&self.core.settles)[usize::from(self.entity.0)].write_ends(begun, now) {
            append::refresh(&self.core, self.entity);
        }
    }
}
