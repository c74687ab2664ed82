//! An object's newest state, as replays and resends send it.

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    frame::Frame,
    protocol::{self, EventHead},
};

/// Frames share objects of at least so many bytes with the log. Smaller objects are copied into a frame of one piece,
/// which is cheaper to write and to keep than several pieces.
const SHARED_FROM: usize = 4 * 1024;

/// An add, where pages tolerate one, and an update.
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

    /// An update behind an add that names something else.
    pub(crate) fn behind(add: Option<Bytes>, update: &EventHead, object: &Bytes) -> Self {
        if object.len() < SHARED_FROM {
            let update = update.event(object).frame;
            let update_at = add.as_ref().map_or(0, Bytes::len);
            let frames: Vec<Bytes> = add.into_iter().chain([update]).collect();
            return Self { frame: Frame::Whole(protocol::glued(&frames)), update_at };
        }
        let add: Vec<Bytes> = add.into_iter().collect();
        let update_at = add.len();
        Self { frame: Frame::Pieces(add.into_iter().chain(update.around(object)).collect()), update_at }
    }

    /// An add behind a deletion, for every page.
    pub(crate) fn afresh(delete: Bytes, add: &EventHead, object: &Bytes) -> Self {
        Self { update_at: 0, ..Self::behind(Some(delete), add, object) }
    }

    /// One frame, the same for every page.
    pub(crate) fn alone(head: &EventHead, object: &Bytes) -> Self {
        Self { frame: event(head, object), update_at: 0 }
    }

    /// For pages that have the object, or for any.
    pub(crate) fn for_pages(&self, have_it: bool) -> Frame {
        match &self.frame {
            Frame::Whole(bytes) if have_it => Frame::Whole(bytes.slice(self.update_at..)),
            Frame::Pieces(pieces) if have_it && self.update_at > 0 => Frame::Pieces(pieces[self.update_at..].into()),
            frame => frame.clone(),
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
