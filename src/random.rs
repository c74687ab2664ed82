//! Unguessable ids, and spread.

use std::{
    hash::{BuildHasher, RandomState},
    time::{Duration, Instant},
};

use data_encoding::HEXLOWER;

/// 128 random bits as 32 hexadecimal digits.
pub(crate) fn id() -> String {
    HEXLOWER.encode(&bits())
}

/// 128 random bits.
pub(crate) fn bits() -> [u8; 16] {
    let mut bits = [0; 16];
    if getrandom::fill(&mut bits).is_err() {
        // The standard library's hasher is seeded by the same source, once: a fallback for a source that fails later.
        bits = (u128::from(hashed()) << 64 | u128::from(hashed())).to_ne_bytes();
    }
    bits
}

/// A time between `from` and `to`, every one as likely. It can be guessed.
pub(crate) fn between(from: Duration, to: Duration) -> Duration {
    let share = (hashed() >> 11) as f64 / (1_u64 << 53) as f64;
    from + to.saturating_sub(from).mul_f64(share)
}

/// A time between half of this and all of it: what many pages do at intervals they do not all do at once.
pub(crate) fn within_half(time: Duration) -> Duration {
    between(time / 2, time)
}

fn hashed() -> u64 {
    RandomState::new().hash_one(Instant::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_and_times_stay_within() {
        let ids: std::collections::HashSet<String> = (0..1000).map(|_| id()).collect();
        assert_eq!(ids.len(), 1000);
        assert!(ids.iter().all(|id| id.len() == 32));
        let (from, to) = (Duration::from_secs(1), Duration::from_secs(2));
        assert!((0..1000).all(|_| (from..=to).contains(&between(from, to))));
        assert_eq!(between(to, from), to);
    }
}
