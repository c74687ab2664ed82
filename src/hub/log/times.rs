//! Which sequence number was the first at a time.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use crate::hub::clock::Clock;

/// Records this close together are not told apart: a day of history must not need an entry for each.
const TOGETHER: Duration = Duration::from_millis(100);
/// Entries at most. With more, each two become one.
const MOST: usize = 32 * 1024;

/// When records were appended, some at a time.
#[derive(Debug, Default)]
pub(super) struct Times(VecDeque<ContendedWindow>);

#[derive(Clone, Copy, Debug)]
struct ContendedWindow {
    from: Instant,
    until: Instant,
    sequence: u64,
}

impl Times {
    pub(super) fn note(&mut self, now: Instant, sequence: u64) {
        match self.0.back_mut().filter(|last| now < last.from + TOGETHER) {
            Some(last) => last.until = last.until.max(now),
            None => self.0.push_back(ContendedWindow { from: now, until: now, sequence }),
        }
        if self.0.len() > MOST {
            let mut single = self.0.drain(..);
            let mut pairs = VecDeque::with_capacity(MOST);
            while let Some(first) = single.next() {
                let until = single.next().map_or(first.until, |second| second.until);
                pairs.push_back(ContendedWindow { until, ..first });
            }
            drop(single);
            self.0 = pairs;
        }
    }

    /// The first record that is no older than this, or one shortly before it; `None` where all are older.
    pub(super) fn position(&self, time: Instant) -> Option<u64> {
        let at = self.0.partition_point(|window| window.until < time);
        self.0.get(at).map(|window| window.sequence)
    }

    /// When records came, from and until, and the first of them.
    pub(super) fn saved(&self, clock: &Clock) -> Vec<(u64, u64, u64)> {
        self.0.iter().map(|window| (clock.age(window.from), clock.age(window.until), window.sequence)).collect()
    }

    pub(super) fn restored(saved: Vec<(u64, u64, u64)>, clock: &Clock) -> Self {
        let windows = saved.into_iter().map(|(from, until, sequence)| ContendedWindow {
            from: clock.at(from),
            until: clock.at(until),
            sequence,
        });
        Self(windows.collect())
    }

    /// What came before this record is gone.
    pub(super) fn forget_before(&mut self, sequence: u64) {
        while self.0.get(1).is_some_and(|next| next.sequence <= sequence) {
            self.0.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_close_together_has_one_place() {
        let (mut times, begin) = (Times::default(), Instant::now());
        let at = |millis| begin + Duration::from_millis(millis);
        for (sequence, millis) in [0, 99, 100, 500].into_iter().enumerate() {
            times.note(at(millis), sequence as u64);
        }
        let positions = |times: &Times| [0, 50, 100, 101, 500, 501].map(|millis| times.position(at(millis)));
        assert_eq!(positions(&times), [Some(0), Some(0), Some(2), Some(3), Some(3), None]);
        times.forget_before(3);
        assert_eq!(times.0.len(), 1);
        assert_eq!(positions(&times)[0], Some(3));
    }

    #[test]
    fn however_long_the_history_is_there_are_only_so_many_entries() {
        let (mut times, begin) = (Times::default(), Instant::now());
        let at = |number: u64| begin + TOGETHER * u32::try_from(number).unwrap();
        for number in 0..100_000 {
            times.note(at(number), number);
        }
        assert!(times.0.len() <= MOST);
        let position = times.position(at(50_000)).unwrap();
        assert!((49_990..=50_000).contains(&position), "{position}");
    }
}
