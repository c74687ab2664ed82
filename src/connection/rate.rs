//! How often a page may speak.

use std::time::Duration;

/// So many at once, and so many a second on the whole; neither is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate {
    pub(crate) burst: u32,
    pub(crate) per_second: u32,
}

impl Rate {
    /// Nanoseconds in which one token comes.
    fn each(self) -> u64 {
        1_000_000_000 / u64::from(self.per_second)
    }
}

/// A bucket with a token for each of a burst, which fills by the rate. All it remembers is when it is full again, in
/// nanoseconds of a clock of its owner's.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bucket {
    full_at: u64,
}

impl Bucket {
    /// Takes so many tokens, those that are not there yet included. `now` is what the clock says.
    pub(super) fn take(&mut self, rate: Rate, now: Duration, tokens: u32) {
        if tokens > 0 {
            let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
            self.full_at = self.full_at.max(now).saturating_add(rate.each().saturating_mul(u64::from(tokens)));
        }
    }

    /// From when on there is a token in it.
    pub(super) fn next_at(self, rate: Rate) -> Duration {
        let all_but_one = rate.each().saturating_mul(u64::from(rate.burst).saturating_sub(1));
        Duration::from_nanos(self.full_at.saturating_sub(all_but_one))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { burst: 40, per_second: 5 };

    fn taken(bucket: &mut Bucket, rate: Rate, now: Duration) -> usize {
        let is_taken = |_: &u32| {
            let is_there = bucket.next_at(rate) <= now;
            if is_there {
                bucket.take(rate, now, 1);
            }
            is_there
        };
        (0..1000).take_while(is_taken).count()
    }

    #[test]
    fn a_burst_is_taken_at_once_and_then_what_the_time_brings() {
        let at = Duration::from_millis;
        let mut bucket = Bucket::default();
        assert_eq!(taken(&mut bucket, RATE, at(0)), 40);
        assert_eq!(taken(&mut bucket, RATE, at(199)), 0);
        assert_eq!(taken(&mut bucket, RATE, at(200)), 1);
        assert_eq!(taken(&mut bucket, RATE, at(1200)), 5);
        assert_eq!(taken(&mut bucket, RATE, at(3_600_000)), 40, "no more than a burst, however long it was quiet");
    }

    #[test]
    fn whoever_keeps_to_the_rate_is_never_stopped() {
        let mut bucket = Bucket::default();
        assert_eq!(taken(&mut bucket, RATE, Duration::ZERO), 40);
        assert!((1..10_000).all(|turn| taken(&mut bucket, RATE, Duration::from_millis(200) * turn) == 1));
    }

    #[test]
    fn what_is_taken_too_early_is_waited_for() {
        let mut bucket = Bucket::default();
        bucket.take(RATE, Duration::ZERO, 50);
        assert_eq!(bucket.next_at(RATE), Duration::from_millis(11 * 200));
        bucket.take(RATE, Duration::ZERO, 0);
        assert_eq!(bucket.next_at(RATE), Duration::from_millis(11 * 200));
    }

    #[test]
    fn rates_of_every_size_are_borne() {
        for (rate, expected) in [
            (Rate { burst: 1, per_second: 1 }, 1),
            (Rate { burst: u32::MAX, per_second: 1 }, 1000),
            (Rate { burst: 1, per_second: u32::MAX }, 1000),
            (Rate { burst: u32::MAX, per_second: u32::MAX }, 1000),
        ] {
            assert_eq!(taken(&mut Bucket::default(), rate, Duration::from_secs(1)), expected, "{rate:?}");
        }
    }
}
