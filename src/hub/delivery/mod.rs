//! What one subscription is sent besides what is published.
//!
//! | file | holds |
//! |---|---|
//! | `resend` | what its page may have missed, and snapshots |
//! | `pacing` | how fast |
//! | `late_list` | what a list may lack that arrives late |
//! | `chunk` | a bounded piece of these |
//! | `records` | the part of a resend that the log holds |
//! | `order` | siblings at their places, where pages are to show that |
//! | `tree` | parents before their children, where pages need that |
//! | `batch` | what is sent to many at once |

pub(crate) mod batch;
pub(crate) mod chunk;
pub(crate) mod late_list;
mod order;
mod pacing;
mod records;
pub(crate) mod resend;
mod tree;
