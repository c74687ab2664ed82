//! Bounds of what pages may call.

use crate::rate::Rate;

#[derive(Clone, Debug)]
pub(crate) struct CallLimits {
    /// Of one call, or one message of calls.
    pub(crate) bytes: usize,
    /// Of one page.
    pub(crate) rate: Rate,
    /// Of one page.
    pub(crate) waiting: usize,
    /// Of one page.
    pub(crate) concurrent: usize,
    /// Of the calls of all pages, and as much again for results that are kept.
    pub(crate) memory: usize,
}
