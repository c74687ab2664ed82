//! An object's newest state, as it is told to those who come late.

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    frame::Frame,
    protocol::{self, EventHead},
};

/// Frames share objects of at least so many bytes with the log. Smaller objects are copied into a frame of one piece,
/// which is cheaper to write and to keep than several pieces.
const SHARED_FROM: usize = 4 * 1024;

/// An add, where that can be said, and an update.
#[derive(Debug)]
pub(crate) struct Upsert {
    frame: Frame,
    /// Where the update begins: at a byte of one piece, or at one of several pieces.
    update_at: usize,
}

impl Upsert {
    /// The two frames of one object; without an `add`, the update alone.
    pub(crate) fn of(add: Option<&EventHead>, update: &EventHead, object: &Bytes) -> Self {
        if object.len() < SHARED_FROM {
            let update = update.event(object).frame;
            return match add.map(|add| add.event(object).frame) {
                None => Self { frame: Frame::Whole(update), update_at: 0 },
                Some(add) => Self { update_at: add.len(), frame: Frame::Whole(protocol::glued(&[add, update])) },
            };
        }
        let add: Vec<Bytes> = add.into_iter().flat_map(|add| add.around(object)).collect();
        let update_at = add.len();
        Self { frame: Frame::Pieces(add.into_iter().chain(update.around(object)).collect()), update_at }
    }

    /// One frame, for whomever it is.
    pub(crate) fn alone(head: &EventHead, object: &Bytes) -> Self {
        Self { frame: event(head, object), update_at: 0 }
    }

    /// For pages that may have the object or not.
    pub(crate) fn for_anyone(&self) -> Frame {
        self.frame.clone()
    }

    /// For pages that have it.
    pub(crate) fn for_those_who_have_it(&self) -> Frame {
        match &self.frame {
            Frame::Whole(bytes) => Frame::Whole(bytes.slice(self.update_at..)),
            Frame::Pieces(pieces) if self.update_at == 0 => Frame::Pieces(pieces.clone()),
            Frame::Pieces(pieces) => Frame::Pieces(pieces[self.update_at..].into()),
        }
    }

    /// What it occupies besides a shared object.
    pub(crate) fn bytes(&self) -> usize {
        match &self.frame {
            Frame::Whole(bytes) => bytes.len(),
            pieces => pieces.own_bytes(|piece| piece.len() >= SHARED_FROM),
        }
    }
}

/// One frame of an object, which is shared where it is large.
pub(crate) fn event(head: &EventHead, object: &Bytes) -> Frame {
    match object.len() < SHARED_FROM {
        true => Frame::Whole(head.event(object).frame),
        false => Frame::Pieces(Arc::new(head.around(object))),
    }
}
