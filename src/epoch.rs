//! The epoch: the id of one log, and the secrets in keys that refer to it. Both survive a restart together with the
//! log.

use std::{fmt, hash::Hasher};

use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher13;

use crate::{random, sequence::Sequence};

/// Identifies a log in keys, so that positions in one log are never taken for positions in another.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Epoch {
    pub(crate) id: String,
    /// Masks the positions in keys.
    pub(crate) positions: Secret,
    /// Distinguishes the credentials of different sessions.
    pub(crate) owners: Secret,
}

impl Epoch {
    pub(crate) fn new() -> Self {
        Self { id: random::id(), positions: Secret::new(), owners: Secret::new() }
    }
}

/// A position in the log of one epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    /// The id of the epoch.
    pub(crate) epoch: String,
    pub(crate) sequence: Sequence,
}

impl Position {
    /// The sequence number in the log of this epoch; `None` if the position is one of another log.
    pub(crate) fn sequence_in(&self, epoch: &Epoch) -> Option<Sequence> {
        (self.epoch == epoch.id).then_some(self.sequence)
    }
}

/// The secret of a keyed hash. Unlike `RandomState` it can be saved, and hashes the same in every build.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Secret([u8; 16]);

impl Secret {
    pub(crate) fn new() -> Self {
        Self(random::bits())
    }

    /// The hash of a text of one kind.
    pub(crate) fn hash(&self, kind: u8, text: &str) -> u64 {
        let mut hasher = SipHasher13::new_with_key(&self.0);
        hasher.write(&[kind]);
        hasher.write(text.as_bytes());
        hasher.finish()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_saved_secret_hashes_as_before() {
        let secret = Secret::new();
        let kept: Secret = serde_json::from_str(&serde_json::to_string(&secret).unwrap()).unwrap();
        assert_eq!(kept.hash(1, "text"), secret.hash(1, "text"));
        assert_ne!(secret.hash(0, "text"), secret.hash(1, "text"));
        assert_ne!(Secret::new().hash(1, "text"), secret.hash(1, "text"));
        // In every build.
        assert_eq!(Secret([7; 16]).hash(1, "text"), 0xb0a88690600f862e);
        assert!(serde_json::from_str::<Secret>("[12]").is_err());
        assert_eq!(format!("{secret:?}"), "Secret");
    }
}
