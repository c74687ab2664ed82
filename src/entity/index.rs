//! The number of an entity.

use serde::{Deserialize, Serialize};

/// The position of an entity in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct EntityIndex(pub(crate) u16);
