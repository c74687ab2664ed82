//! When deletions are resent: a page cannot apply one while the event's form is open, and nothing shows that.

use std::time::Duration;

use tokio::time::Instant;

use crate::hub::{EntityIndex, log::Log};

/// Reminders of one deletion at most.
pub(crate) const MAX_REMINDERS: usize = 8;
/// The reminder that is left out where a deletion was resent besides: the first comes soon after, and the last when the
/// longest form closes.
const SPARED: usize = 1;
/// Bytes of deletions that one page is reminded of at one time; beyond that the oldest are left out.
const MAX_BYTES: usize = 1024 * 1024;

/// How long after a deletion it is resent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReminderTimes {
    waits: [Duration; MAX_REMINDERS],
    count: usize,
}

impl ReminderTimes {
    /// Reminders each so long after the one before, the first after the deletion; `None` where they are too many.
    pub(crate) fn new(waits: &[Duration]) -> Option<Self> {
        let mut times = Self { waits: [Duration::ZERO; MAX_REMINDERS], count: waits.len() };
        times.waits.get_mut(..waits.len())?.copy_from_slice(waits);
        Some(times)
    }

    /// Each twice as long after the one before: `count` of them, [`MAX_REMINDERS`] at most.
    pub(crate) fn doubling(first: Duration, count: usize) -> Self {
        let count = count.min(MAX_REMINDERS);
        let mut times = Self { waits: [Duration::ZERO; MAX_REMINDERS], count };
        let mut wait = first;
        for place in &mut times.waits[..count] {
            *place = wait;
            wait = wait.saturating_mul(2);
        }
        times
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }

    pub(crate) fn waits(&self) -> &[Duration] {
        &self.waits[..self.count]
    }

    /// How long after the one before a reminder is sent; the first is number 0.
    pub(super) fn wait(&self, number: usize) -> Option<Duration> {
        self.waits().get(number).copied()
    }

    /// How long after the deletion.
    fn age(&self, number: usize) -> Duration {
        self.waits().iter().take(number + 1).fold(Duration::ZERO, |sum, wait| sum.saturating_add(*wait))
    }
}

/// Which deletions of one entity everybody has been reminded of, and how often.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Schedule {
    /// For each reminder: the deletions before this have had it.
    next: [u64; MAX_REMINDERS],
}

/// The deletions to be resent now, and when to look again.
pub(super) struct DueReminders {
    pub(super) sequences: Vec<u64>,
    pub(super) next: Option<Instant>,
}

impl Schedule {
    /// Takes what is due at this time, of the deletions from a sequence number on.
    pub(super) fn due(
        &mut self,
        log: &mut Log,
        entity: EntityIndex,
        times: &ReminderTimes,
        from: u64,
        now: Instant,
    ) -> DueReminders {
        let (mut sequences, mut next_time) = (Vec::new(), None);
        for (number, next) in self.next.iter_mut().enumerate().take(times.count()) {
            *next = from.max(*next);
            let age = times.age(number);
            for (sequence, tombstone) in log.tombstones(entity, *next..u64::MAX) {
                let at = tombstone.at + age;
                if at > now {
                    next_time = Some(next_time.map_or(at, |earlier: Instant| earlier.min(at)));
                    break;
                }
                *next = sequence + 1;
                // What settled was resent then, and needs one less.
                if number != SPARED || usize::from(tombstone.sent) <= SPARED + 1 {
                    sequences.push(sequence);
                }
            }
        }
        sequences.sort_unstable();
        sequences.dedup();
        let mut bytes = 0;
        let too_many = sequences.iter().rposition(|sequence| {
            bytes += log.tombstone_at(entity, *sequence).map_or(0, |tombstone| tombstone.frame_bytes());
            bytes > MAX_BYTES
        });
        sequences.drain(..too_many.map_or(0, |at| at + 1));
        sequences.iter().for_each(|sequence| log.tombstone_resent(entity, *sequence));
        DueReminders { sequences, next: next_time }
    }

    /// Everybody has had every reminder of the deletions before this.
    pub(super) fn done_before(&self, times: &ReminderTimes) -> u64 {
        times.count().checked_sub(1).map_or(u64::MAX, |last| self.next[last])
    }
}

/// Where the deletions of a range begin of which a page is reminded at one time.
pub(super) fn begin_of_reminders(log: &Log, entity: EntityIndex, from: u64, end: u64) -> u64 {
    let mut bytes = 0;
    let too_many = log.tombstones(entity, from..end.max(from)).rev().find(|(_, tombstone)| {
        bytes += tombstone.frame_bytes();
        bytes > MAX_BYTES
    });
    too_many.map_or(from, |(sequence, _)| sequence + 1)
}
