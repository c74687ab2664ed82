//! How often a page may speak.

use std::time::Duration;

/// So many at once, and so many a second on the whole; neither is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate {
    pub(crate) burst: u32,
    pub(crate) per_second: u32,
}

/// A bucket with a token for each of a burst, which fills by the rate. All it remembers is when it is full again, in
/// nanoseconds of a clock of its owner's.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bucket {
    full_at: u64,
}

impl Bucket {
    /// Takes a token; false where there is none. `now` is what the clock says.
    pub(super) fn take(&mut self, rate: Rate, now: Duration) -> bool {
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let each = 1_000_000_000 / u64::from(rate.per_second);
        let full_at = self.full_at.max(now).saturating_add(each);
        let is_there = full_at - now <= each.saturating_mul(u64::from(rate.burst));
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

    fn taken(bucket: &mut Bucket, rate: Rate, now: Duration) -> usize {
        (0..1000).take_while(|_| bucket.take(rate, now)).count()
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
        assert!((1..10_000).all(|turn| bucket.take(RATE, Duration::from_millis(200) * turn)));
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
