//! Rate limits, as token buckets.

use std::time::Duration;

/// A burst, and a sustained rate; neither is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate {
    pub(crate) burst: u32,
    pub(crate) per_second: u32,
}

impl Rate {
    /// Nanoseconds until the next token.
    fn nanos_per_token(self) -> u64 {
        1_000_000_000 / u64::from(self.per_second)
    }
}

/// A bucket of `burst` tokens that refills at the rate. It keeps only when it is full again, in nanoseconds of its
/// owner's clock.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bucket {
    full_at: u64,
}

impl Bucket {
    /// Takes so many tokens, future ones included. `now` is the time of the owner's clock.
    pub(crate) fn take(&mut self, rate: Rate, now: Duration, tokens: u32) {
        if tokens > 0 {
            let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
            self.full_at =
                self.full_at.max(now).saturating_add(rate.nanos_per_token().saturating_mul(u64::from(tokens)));
        }
    }

    /// When there is a token again.
    pub(crate) fn next_at(self, rate: Rate) -> Duration {
        let all_but_one = rate.nanos_per_token().saturating_mul(u64::from(rate.burst).saturating_sub(1));
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
    fn a_burst_passes_at_once_and_then_the_sustained_rate() {
        let at = Duration::from_millis;
        let mut bucket = Bucket::default();
        assert_eq!(taken(&mut bucket, RATE, at(0)), 40);
        assert_eq!(taken(&mut bucket, RATE, at(199)), 0);
        assert_eq!(taken(&mut bucket, RATE, at(200)), 1);
        assert_eq!(taken(&mut bucket, RATE, at(1200)), 5);
        assert_eq!(taken(&mut bucket, RATE, at(3_600_000)), 40, "no more than a burst, however long it was idle");
    }

    #[test]
    fn a_page_within_the_rate_limit_is_never_paused() {
        let mut bucket = Bucket::default();
        assert_eq!(taken(&mut bucket, RATE, Duration::ZERO), 40);
        assert!((1..10_000).all(|n| taken(&mut bucket, RATE, Duration::from_millis(200) * n) == 1));
    }

    #[test]
    fn tokens_that_are_taken_early_are_waited_for() {
        let mut bucket = Bucket::default();
        bucket.take(RATE, Duration::ZERO, 50);
        assert_eq!(bucket.next_at(RATE), Duration::from_millis(11 * 200));
        bucket.take(RATE, Duration::ZERO, 0);
        assert_eq!(bucket.next_at(RATE), Duration::from_millis(11 * 200));
    }

    #[test]
    fn rates_of_every_size_are_accepted() {
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
