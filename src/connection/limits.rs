//! Connection limits: how many sockets may be open, in all and of each principal.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::lock::lock;

type Counts = Arc<Mutex<HashMap<Box<str>, usize>>>;

pub(crate) struct ConnectionLimiter {
    all: Arc<Semaphore>,
    /// The limit of one principal; none where only the limit of all counts.
    of_principal: Option<usize>,
    counts: Counts,
}

/// Which connection limit one more socket would exceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LimitReached {
    /// The builder's method that sets the limit.
    pub(crate) limit: &'static str,
    /// The reason in the refusal.
    pub(crate) reason: &'static str,
}

impl LimitReached {
    const ALL: Self = Self { limit: "max_connections", reason: "too many connections" };
    const PRINCIPAL: Self =
        Self { limit: "max_connections_per_principal", reason: "too many connections of one principal" };
}

/// Lets one socket be open; given back when dropped.
pub(crate) struct ConnectionPermit {
    _permit: OwnedSemaphorePermit,
    _of_principal: Option<Box<OfPrincipal>>,
}

struct OfPrincipal {
    principal: Box<str>,
    counts: Counts,
}

impl ConnectionLimiter {
    pub(super) fn new(all: usize, of_principal: Option<usize>) -> Self {
        Self { all: Arc::new(Semaphore::new(all)), of_principal, counts: Arc::default() }
    }

    pub(crate) fn acquire(&self, principal: &str) -> Result<ConnectionPermit, LimitReached> {
        let permit = self.all.clone().try_acquire_owned().map_err(|_| LimitReached::ALL)?;
        let of_principal = self.of_principal.map(|limit| self.acquire_of(principal, limit)).transpose()?;
        Ok(ConnectionPermit { _permit: permit, _of_principal: of_principal.map(Box::new) })
    }

    fn acquire_of(&self, principal: &str, limit: usize) -> Result<OfPrincipal, LimitReached> {
        let principal: Box<str> = principal.into();
        let mut counts = lock(&self.counts);
        let count = counts.entry(principal.clone()).or_default();
        if *count >= limit {
            return Err(LimitReached::PRINCIPAL);
        }
        *count += 1;
        Ok(OfPrincipal { principal, counts: self.counts.clone() })
    }
}

impl Drop for OfPrincipal {
    fn drop(&mut self) {
        let mut counts = lock(&self.counts);
        if let Some(count) = counts.get_mut(&self.principal) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.principal);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permits_are_given_back_and_principals_without_any_are_forgotten() {
        let limiter = ConnectionLimiter::new(3, Some(2));
        let alices = [limiter.acquire("alice").unwrap(), limiter.acquire("alice").unwrap()];
        assert_eq!(limiter.acquire("alice").err(), Some(LimitReached::PRINCIPAL));
        let bobs = limiter.acquire("bob").unwrap();
        assert_eq!(limiter.acquire("carol").err(), Some(LimitReached::ALL));
        drop(alices);
        assert!(limiter.acquire("alice").is_ok());
        drop(bobs);
        assert!(lock(&limiter.counts).is_empty());
        assert_eq!(limiter.all.available_permits(), 3);
    }
}
