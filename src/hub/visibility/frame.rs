//! Frames that their recipient may receive.

use std::ops::Deref;

use crate::{frame::Frame, protocol};

/// A frame that its recipient may receive. Nothing but the visibility filter makes one of a record, and a sink takes no
/// other frames.
#[derive(Clone, Debug)]
pub(crate) struct Cleared(Frame);

impl Cleared {
    pub(super) fn new(frame: impl Into<Frame>) -> Self {
        Self(frame.into())
    }

    /// A ping: it holds nothing of any object.
    pub(crate) fn ping(payload: &[u8]) -> Self {
        Self(protocol::ping(payload).into())
    }

    /// Any frame at all, for tests of what happens to it behind the filter.
    #[cfg(test)]
    pub(crate) fn unseen(frame: impl Into<Frame>) -> Self {
        Self(frame.into())
    }

    pub(crate) fn into_frame(self) -> Frame {
        self.0
    }
}

impl Deref for Cleared {
    type Target = Frame;

    fn deref(&self) -> &Frame {
        &self.0
    }
}
