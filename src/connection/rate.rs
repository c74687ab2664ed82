//! How often a page may speak.

use std::time::Duration;

use tokio::time::Instant;

/// So many at once, and so many a second on the whole; neither is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate {
    pub(crate) burst: u32,
    pub(crate) per_second: u32,
}

/// A bucket with a token for each of a burst, which fills by the rate. All it remembers is when it is full again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    full_at: Instant,
}

impl Bucket {
    pub(super) fn full(now: Instant) -> Self {
        Self { full_at: now }
    }

    /// Takes a token; false where there is none.
    pub(super) fn take(&mut self, rate: Rate, now: Instant) -> bool {
        let each = Duration::from_secs(1) / rate.per_second;
        let full_at = self.full_at.max(now) + each;
        let is_there = full_at - now <= each * rate.burst;
        if is_there {
            self.full_at = full_at;
        }
        is_there
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { burst: 40, per_second: 5 };

    fn taken(bucket: &mut Bucket, rate: Rate, now: Instant) -> usize {
        (0..1000).take_while(|_| bucket.take(rate, now)).count()
    }

    #[test]
    fn a_burst_is_taken_at_once_and_then_what_the_time_brings() {
        let begin = Instant::now();
        let at = |millis| begin + Duration::from_millis(millis);
        let mut bucket = Bucket::full(begin);
        assert_eq!(taken(&mut bucket, RATE, at(0)), 40);
        assert_eq!(taken(&mut bucket, RATE, at(199)), 0);
        assert_eq!(taken(&mut bucket, RATE, at(200)), 1);
        assert_eq!(taken(&mut bucket, RATE, at(1200)), 5);
        assert_eq!(taken(&mut bucket, RATE, at(3_600_000)), 40, "no more than a burst, however long it was quiet");
    }

    #[test]
    fn whoever_keeps_to_the_rate_is_never_stopped() {
        let begin = Instant::now();
        let mut bucket = Bucket::full(begin);
        assert_eq!(taken(&mut bucket, RATE, begin), 40);
        assert!((1..10_000).all(|turn| bucket.take(RATE, begin + Duration::from_millis(200) * turn)));
    }

    #[test]
    fn rates_of_every_size_are_borne() {
        let begin = Instant::now();
        for (rate, expected) in [
            (Rate { burst: 1, per_second: 1 }, 1),
            (Rate { burst: u32::MAX, per_second: 1 }, 1000),
            (Rate { burst: 1, per_second: u32::MAX }, 1000),
            (Rate { burst: u32::MAX, per_second: u32::MAX }, 1000),
        ] {
            assert_eq!(taken(&mut Bucket::full(begin), rate, begin), expected, "{rate:?}");
        }
    }
}
