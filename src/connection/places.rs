//! How many sockets may be open: in all, and of each principal.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::lock::lock;

type Taken = Arc<Mutex<HashMap<Box<str>, usize>>>;

/// The places there are.
pub(super) struct Places {
    all: Arc<Semaphore>,
    /// Those of one principal; none where everybody may have all of them.
    each: Option<usize>,
    taken: Taken,
}

/// Why there is no place for one more socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    All,
    Principal,
}

impl Full {
    /// What the page is told.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::All => "too many connections",
            Self::Principal => "too many connections of one principal",
        }
    }

    /// The builder's method for it.
    pub(crate) fn limit(self) -> &'static str {
        match self {
            Self::All => "max_connections",
            Self::Principal => "max_connections_per_principal",
        }
    }
}

/// A socket's place, given back when dropped.
pub(crate) struct Place {
    _permit: OwnedSemaphorePermit,
    _of_principal: Option<Box<OfPrincipal>>,
}

struct OfPrincipal {
    principal: Box<str>,
    taken: Taken,
}

impl Places {
    pub(super) fn new(all: usize, each: Option<usize>) -> Self {
        Self { all: Arc::new(Semaphore::new(all)), each, taken: Arc::default() }
    }

    pub(super) fn take(&self, principal: &str) -> Result<Place, Full> {
        let permit = self.all.clone().try_acquire_owned().map_err(|_| Full::All)?;
        let of_principal = self.each.map(|each| self.take_of(principal, each)).transpose()?;
        Ok(Place { _permit: permit, _of_principal: of_principal.map(Box::new) })
    }

    fn take_of(&self, principal: &str, each: usize) -> Result<OfPrincipal, Full> {
        let principal: Box<str> = principal.into();
        let mut taken = lock(&self.taken);
        let count = taken.entry(principal.clone()).or_default();
        if *count >= each {
            return Err(Full::Principal);
        }
        *count += 1;
        Ok(OfPrincipal { principal, taken: self.taken.clone() })
    }
}

impl Drop for OfPrincipal {
    fn drop(&mut self) {
        let mut taken = lock(&self.taken);
        if let Some(count) = taken.get_mut(&self.principal) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.principal);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_come_back_and_nothing_is_remembered_of_who_has_none() {
        let places = Places::new(3, Some(2));
        let alices = [places.take("alice").unwrap(), places.take("alice").unwrap()];
        assert_eq!(places.take("alice").err(), Some(Full::Principal));
        let bobs = places.take("bob").unwrap();
        assert_eq!(places.take("carol").err(), Some(Full::All));
        drop(alices);
        assert!(places.take("alice").is_ok());
        drop(bobs);
        assert!(lock(&places.taken).is_empty());
        assert_eq!(places.all.available_permits(), 3);
    }
}
