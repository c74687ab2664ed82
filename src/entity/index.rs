//! The number of an entity.

/// The position of an entity in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct EntityIndex(pub(crate) u16);
