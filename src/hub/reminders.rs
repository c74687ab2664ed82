//! When deletions are resent: a page cannot apply one while the event's form is open, and nothing shows that.

use std::time::Duration;

use tokio::time::Instant;

use crate::{entity::EntityIndex, hub::log::Log, sequence::Sequence};

/// Reminders of one deletion at most.
pub(crate) const MAX_REMINDERS: usize = 8;
/// The reminders that are left out where a deletion was resent besides: the first comes soon after, and the last when the
/// longest form closes.
const SPARED: [usize; 2] = [1, 3];
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
        for slot in &mut times.waits[..count] {
            *slot = wait;
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
    pub(crate) fn wait(&self, number: usize) -> Option<Duration> {
        self.waits().get(number).copied()
    }

    /// How long after the deletion.
    fn age(&self, number: usize) -> Duration {
        self.waits().iter().take(number + 1).fold(Duration::ZERO, |sum, wait| sum.saturating_add(*wait))
    }
}

/// Which deletions of one entity have been resent as reminders, and how often.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Schedule {
    /// For each reminder: the deletions before this have had it.
    next: [Sequence; MAX_REMINDERS],
}

/// The deletions to be resent now, and when to look again.
pub(crate) struct DueReminders {
    pub(crate) sequences: Vec<Sequence>,
    pub(crate) next: Option<Instant>,
}

impl Schedule {
    /// Takes what is due at this time, of the deletions from a sequence number on.
    pub(crate) fn due(
        &mut self,
        log: &Log,
        entity: EntityIndex,
        times: &ReminderTimes,
        from: Sequence,
        now: Instant,
    ) -> DueReminders {
        let (mut sequences, mut next_time) = (Vec::new(), None);
        for (number, next) in self.next.iter_mut().enumerate().take(times.count()) {
            *next = from.max(*next);
            let age = times.age(number);
            for (sequence, tombstone) in log.tombstones(entity, *next..Sequence::MAX) {
                let at = tombstone.at + age;
                if at > now {
                    next_time = Some(next_time.map_or(at, |earlier: Instant| earlier.min(at)));
                    break;
                }
                *next = sequence.next();
                if !(tombstone.has_settled && SPARED.contains(&number)) {
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
        DueReminders { sequences, next: next_time }
    }

    /// Every reminder of the deletions before this has been sent.
    pub(crate) fn done_before(&self, times: &ReminderTimes) -> Sequence {
        times.count().checked_sub(1).map_or(Sequence::MAX, |last| self.next[last])
    }
}

/// Where the deletions of a range begin of which a page is reminded at one time.
pub(crate) fn begin_of_reminders(log: &Log, entity: EntityIndex, from: Sequence, end: Sequence) -> Sequence {
    let mut bytes = 0;
    let too_many = log.tombstones(entity, from..end.max(from)).rev().find(|(_, tombstone)| {
        bytes += tombstone.frame_bytes();
        bytes > MAX_BYTES
    });
    too_many.map_or(from, |(sequence, _)| sequence.next())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::{
        change::Change,
        hub::{Delivery, EntityEncoder, Hub, tests::hub_of},
        lock::lock,
    };

    const EVENTS: EntityIndex = EntityIndex(0);

    fn hub() -> Arc<Hub> {
        hub_of(vec![EntityEncoder::new("events", "event")], 10_000, Delivery::Converging)
    }

    fn delete(hub: &Hub, ids: std::ops::Range<u32>) {
        let deletions: Vec<Change> = ids.map(|id| Change::delete(id + 1).unwrap()).collect();
        hub.publish(EVENTS, &deletions, None);
    }

    fn times() -> ReminderTimes {
        ReminderTimes::new(&[10, 20, 40].map(Duration::from_secs)).unwrap()
    }

    /// What is due at each of these seconds after now.
    fn due_at(hub: &Hub, schedule: &mut Schedule, seconds: &[u64]) -> Vec<Vec<u64>> {
        let now = Instant::now();
        let log = lock(&hub.core.log);
        let at = |seconds| now + Duration::from_secs(seconds);
        let mut due = |second| schedule.due(&log, EVENTS, &times(), Sequence::ZERO, at(second)).sequences;
        seconds.iter().map(|&second| due(second).iter().map(|at| at.0).collect()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn each_deletion_has_each_reminder_once() {
        let (hub, mut schedule) = (hub(), Schedule::default());
        delete(&hub, 0..1);
        tokio::time::advance(Duration::from_secs(5)).await;
        delete(&hub, 1..3);
        // Five seconds after the first, and just after the second and third.
        let due = due_at(&hub, &mut schedule, &[4, 5, 9, 10, 24, 30, 31, 64, 65, 70, 1000]);
        let expected: [&[u64]; 11] = [&[], &[0], &[], &[1, 2], &[], &[0, 1, 2], &[], &[], &[0], &[1, 2], &[]];
        assert_eq!(due, expected);
        assert_eq!(schedule.done_before(&times()), Sequence(3));
    }

    #[tokio::test(start_paused = true)]
    async fn what_settled_and_what_is_there_again_need_fewer() {
        let (hub, mut schedule) = (hub(), Schedule::default());
        delete(&hub, 0..3);
        lock(&hub.core.log).tombstones_settled(EVENTS, Sequence(1)..Sequence(2));
        assert_eq!(due_at(&hub, &mut schedule, &[10]), [[0, 1, 2]]);
        hub.publish(EVENTS, &[Change::add(&json!({"id": 3})).unwrap()], None);
        let expected: [&[u64]; 2] = [&[0], &[0, 1]];
        assert_eq!(due_at(&hub, &mut schedule, &[30, 70]), expected);
    }

    #[tokio::test(start_paused = true)]
    async fn what_one_page_is_reminded_of_at_one_time_is_bounded_by_bytes() {
        let (hub, mut schedule) = (hub(), Schedule::default());
        let deletions = (0..1000).map(|id| Change::delete(format!("{id:04}{}", "x".repeat(250))).unwrap());
        hub.publish(EVENTS, &deletions.collect::<Vec<_>>(), None);
        let due = due_at(&hub, &mut schedule, &[10]).remove(0);
        let frame = lock(&hub.core.log).tombstone_at(EVENTS, Sequence(999)).unwrap().frame_bytes();
        assert_eq!((due.len(), due.last()), (MAX_BYTES / frame, Some(&999)), "the latest");
        assert_eq!(begin_of_reminders(&lock(&hub.core.log), EVENTS, Sequence::ZERO, Sequence(1000)).0, due[0]);
    }

    #[test]
    fn reminders_are_bounded_in_number() {
        assert!(ReminderTimes::new(&[Duration::from_secs(1); MAX_REMINDERS + 1]).is_none());
        let doubling = ReminderTimes::doubling(Duration::from_secs(30), 5);
        assert_eq!(doubling.waits().iter().map(Duration::as_secs).collect::<Vec<_>>(), [30, 60, 120, 240, 480]);
        assert_eq!(ReminderTimes::new(doubling.waits()), Some(doubling));
        assert_eq!(Schedule::default().done_before(&ReminderTimes::new(&[]).unwrap()), Sequence::MAX);
    }
}
