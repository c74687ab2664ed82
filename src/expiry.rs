//! Expiry times by the wall clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A time on the wall clock, as a duration since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Expiry(Duration);

impl Expiry {
    pub(crate) fn at(time: SystemTime) -> Self {
        Self(time.duration_since(UNIX_EPOCH).unwrap_or_default())
    }

    pub(crate) fn at_second(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// The time `time` from now.
    pub(crate) fn after(time: Duration) -> Self {
        Self(Self::at(SystemTime::now()).0.saturating_add(time))
    }

    /// Whole seconds since 1970, rounded down.
    pub(crate) fn seconds(self) -> u64 {
        self.0.as_secs()
    }

    pub(crate) fn remaining(self) -> Duration {
        self.0.saturating_sub(Self::at(SystemTime::now()).0)
    }

    pub(crate) fn is_over(self) -> bool {
        self.remaining().is_zero()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_every_size_are_valid() {
        let second = Duration::from_secs(1);
        assert!(Expiry::at(UNIX_EPOCH - second).is_over());
        assert!(Expiry::at(SystemTime::now()).is_over());
        assert!(!Expiry::at(SystemTime::now() + 60 * second).is_over());
        assert!(!Expiry::after(Duration::MAX).is_over());
        assert_eq!(Expiry::at_second(u64::MAX).seconds(), u64::MAX);
        assert_eq!(Expiry::at(UNIX_EPOCH + Duration::from_millis(1999)).seconds(), 1);
    }
}
