//! Which record was the first at a time.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use crate::{hub::clock::Clock, sequence::Sequence};

/// Records this close together share an entry: a day of history must not need one for each.
const TOGETHER: Duration = Duration::from_millis(100);
/// Entries at most. With more, each two become one.
const MOST: usize = 32 * 1024;

/// When records were appended, the records of a short period together.
#[derive(Debug, Default)]
pub(super) struct Times(VecDeque<Period>);

#[derive(Clone, Copy, Debug)]
struct Period {
    from: Instant,
    until: Instant,
    sequence: Sequence,
}

impl Times {
    pub(super) fn note(&mut self, now: Instant, sequence: Sequence) {
        match self.0.back_mut().filter(|last| now < last.from + TOGETHER) {
            Some(last) => last.until = last.until.max(now),
            None => self.0.push_back(Period { from: now, until: now, sequence }),
        }
        if self.0.len() > MOST {
            let mut single = self.0.drain(..);
            let mut pairs = VecDeque::with_capacity(MOST);
            while let Some(first) = single.next() {
                let until = single.next().map_or(first.until, |second| second.until);
                pairs.push_back(Period { until, ..first });
            }
            drop(single);
            self.0 = pairs;
        }
    }

    /// The first record that is no older than this, or one shortly before it; `None` where all are older.
    pub(super) fn position(&self, time: Instant) -> Option<Sequence> {
        let at = self.0.partition_point(|period| period.until < time);
        self.0.get(at).map(|period| period.sequence)
    }

    /// When records came, from and until, and the first of them.
    pub(super) fn saved(&self, clock: &Clock) -> Vec<(u64, u64, Sequence)> {
        self.0.iter().map(|period| (clock.age(period.from), clock.age(period.until), period.sequence)).collect()
    }

    pub(super) fn restored(saved: Vec<(u64, u64, Sequence)>, clock: &Clock) -> Self {
        let period = |(from, until, sequence)| Period { from: clock.at(from), until: clock.at(until), sequence };
        Self(saved.into_iter().map(period).collect())
    }

    /// Every record before this one has been dropped.
    pub(super) fn forget_before(&mut self, sequence: Sequence) {
        while self.0.get(1).is_some_and(|next| next.sequence <= sequence) {
            self.0.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_close_together_share_an_entry() {
        let (mut times, begin) = (Times::default(), Instant::now());
        let at = |millis| begin + Duration::from_millis(millis);
        for (sequence, millis) in [0, 99, 100, 500].into_iter().enumerate() {
            times.note(at(millis), Sequence(sequence as u64));
        }
        let positions =
            |times: &Times| [0, 50, 100, 101, 500, 501].map(|millis| times.position(at(millis)).map(|at| at.0));
        assert_eq!(positions(&times), [Some(0), Some(0), Some(2), Some(3), Some(3), None]);
        times.forget_before(Sequence(3));
        assert_eq!(times.0.len(), 1);
        assert_eq!(positions(&times)[0], Some(3));
    }

    #[test]
    fn the_number_of_entries_is_bounded() {
        let (mut times, begin) = (Times::default(), Instant::now());
        let at = |number: u64| begin + TOGETHER * u32::try_from(number).unwrap();
        for number in 0..100_000 {
            times.note(at(number), Sequence(number));
        }
        assert!(times.0.len() <= MOST);
        let position = times.position(at(50_000)).unwrap().0;
        assert!((49_990..=50_000).contains(&position), "{position}");
    }
}
