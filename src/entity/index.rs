//! Which entity is meant, without its name.

/// The place of an entity in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct EntityIndex(pub(crate) u16);
