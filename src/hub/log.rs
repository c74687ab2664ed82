//! The bounded, numbered history of everything told: one order for everyone.

use std::{
    collections::{HashMap, VecDeque},
    ops::Range,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use tokio::time::Instant;

use crate::{change::ChangeKind, hub::EntityIndex};

/// How much history is kept; what comes first counts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogLimits {
    pub(crate) records: usize,
    pub(crate) bytes: usize,
    pub(crate) age: Duration,
}

/// What one record costs besides its frame: the entry itself and its place in the index.
const OVERHEAD: usize = 160;

/// One change or message that was told.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) entity: EntityIndex,
    /// The frame that tells it, encoded once for everyone.
    pub(crate) frame: Bytes,
    /// What changed; `None` for a message.
    pub(crate) subject: Option<Subject>,
}

/// The object a change is about.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    pub(crate) kind: ChangeKind,
    pub(crate) id: Arc<str>,
    /// The object's JSON, a part of the frame.
    pub(crate) object: Bytes,
}

#[derive(Debug)]
struct Stored {
    at: Instant,
    record: Record,
}

/// A bounded sequence of records. Sequence numbers are dense and only grow; the oldest records go first.
#[derive(Debug)]
pub(crate) struct Log {
    limits: LogLimits,
    records: VecDeque<Stored>,
    /// The sequence number of the oldest record kept.
    base: u64,
    bytes: usize,
    /// The newest record of each object, as long as it is kept.
    newest: HashMap<(EntityIndex, Arc<str>), u64>,
}

impl Log {
    pub(crate) fn new(limits: LogLimits) -> Self {
        Self { limits, records: VecDeque::new(), base: 0, bytes: 0, newest: HashMap::new() }
    }

    /// The sequence number the next record will get.
    pub(crate) fn head(&self) -> u64 {
        self.base + self.records.len() as u64
    }

    /// Adds a record and drops what no longer fits. The newest record always stays.
    pub(crate) fn append(&mut self, now: Instant, record: Record) {
        if let Some(subject) = &record.subject {
            self.newest.insert((record.entity, subject.id.clone()), self.head());
        }
        self.bytes += record.frame.len() + OVERHEAD;
        self.records.push_back(Stored { at: now, record });
        while self.records.len() > 1 && self.is_over(now) {
            self.drop_oldest();
        }
    }

    /// The records from `from` on with their sequence numbers; `None` when some of them are gone already.
    pub(crate) fn since(&self, from: u64) -> Option<impl Iterator<Item = (u64, &Record)>> {
        let skip = usize::try_from(from.checked_sub(self.base)?).ok()?;
        Some(
            self.records
                .range(skip.min(self.records.len())..)
                .zip(from..)
                .map(|(stored, sequence)| (sequence, &stored.record)),
        )
    }

    /// The newest record of an object, where its sequence number is one of these.
    pub(crate) fn newest(&self, entity: EntityIndex, id: &str, within: Range<u64>) -> Option<&Subject> {
        let sequence = *self.newest.get(&(entity, Arc::from(id)))?;
        if !within.contains(&sequence) {
            return None;
        }
        let at = usize::try_from(sequence.checked_sub(self.base)?).ok()?;
        self.records.get(at)?.record.subject.as_ref()
    }

    /// The oldest sequence number that can still be read.
    pub(crate) fn base(&self) -> u64 {
        self.base
    }

    /// Records kept, and the bytes they cost.
    pub(crate) fn size(&self) -> (usize, usize) {
        (self.records.len(), self.bytes)
    }

    fn is_over(&self, now: Instant) -> bool {
        self.records.len() > self.limits.records
            || self.bytes > self.limits.bytes
            || self.records.front().is_some_and(|oldest| now.saturating_duration_since(oldest.at) > self.limits.age)
    }

    fn drop_oldest(&mut self) {
        let Some(Stored { record, .. }) = self.records.pop_front() else {
            return;
        };
        self.bytes -= record.frame.len() + OVERHEAD;
        if let Some(subject) = record.subject {
            let key = (record.entity, subject.id);
            if self.newest.get(&key) == Some(&self.base) {
                self.newest.remove(&key);
            }
        }
        self.base += 1;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(id: &str, size: usize) -> Record {
        let frame = Bytes::from(vec![b'x'; size]);
        Record {
            entity: EntityIndex(0),
            subject: Some(Subject { kind: ChangeKind::Update, id: id.into(), object: frame.clone() }),
            frame,
        }
    }

    fn log(records: usize, bytes: usize) -> Log {
        Log::new(LogLimits { records, bytes, age: Duration::from_secs(3600) })
    }

    #[test]
    fn a_reader_that_fell_behind_is_told_so() {
        let mut log = log(2, usize::MAX);
        for id in ["a", "b", "c"] {
            log.append(Instant::now(), record(id, 1));
        }
        assert!(log.since(0).is_none(), "record 0 is gone");
        let rest: Vec<u64> = log.since(1).unwrap().map(|(sequence, _)| sequence).collect();
        assert_eq!(rest, [1, 2]);
        assert_eq!(log.since(3).unwrap().count(), 0, "the head reads nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_older_than_the_age_goes_with_the_next_record() {
        let mut log = log(10, usize::MAX);
        log.append(Instant::now(), record("a", 1));
        tokio::time::advance(Duration::from_secs(3601)).await;
        log.append(Instant::now(), record("b", 1));
        assert_eq!(log.base(), 1);
    }

    #[test]
    fn one_record_larger_than_the_log_is_still_told() {
        let mut log = log(10, 100);
        log.append(Instant::now(), record("a", 5000));
        assert_eq!(log.since(0).unwrap().count(), 1);
    }

    #[test]
    fn the_newest_record_of_an_object_is_found_while_it_is_kept() {
        let mut log = log(2, usize::MAX);
        log.append(Instant::now(), record("a", 1));
        log.append(Instant::now(), record("a", 2));
        assert_eq!(log.newest(EntityIndex(0), "a", 0..u64::MAX).unwrap().object.len(), 2);
        assert!(log.newest(EntityIndex(0), "a", 2..u64::MAX).is_none(), "older than asked for");
        log.append(Instant::now(), record("b", 1));
        log.append(Instant::now(), record("c", 1));
        assert!(log.newest(EntityIndex(0), "a", 0..u64::MAX).is_none(), "dropped");
        assert_eq!(log.newest.len(), 2);
    }

    proptest! {
        #[test]
        fn bounds_hold_and_numbers_stay_dense(
            writes in proptest::collection::vec((0_u8..8, 1_usize..400), 1..200),
            records in 1_usize..20,
            bytes in 200_usize..4000,
        ) {
            let mut log = log(records, bytes);
            for (count, (id, size)) in writes.iter().enumerate() {
                log.append(Instant::now(), record(&id.to_string(), *size));
                let (kept, cost) = log.size();
                prop_assert_eq!(log.head(), count as u64 + 1);
                prop_assert!(kept == 1 || (kept <= records && cost <= bytes));
                let sequences: Vec<u64> = log.since(log.base()).unwrap().map(|(s, _)| s).collect();
                prop_assert_eq!(sequences, (log.base()..log.head()).collect::<Vec<_>>());
                let newest = log.newest(EntityIndex(0), &id.to_string(), 0..u64::MAX).unwrap();
                prop_assert_eq!(newest.object.len(), *size);
                prop_assert!(log.newest.len() <= kept);
            }
        }
    }
}
