//! Frames that are sent together: in one piece, or in several pieces so that frames share a large object.

use std::{mem::size_of_val, slice, sync::Arc};

use bytes::Bytes;

/// One WebSocket frame, or several with nothing in between.
///
/// A clone copies no bytes. It is as large as `Bytes`, since the fan-out handles one for each record and subscriber.
#[derive(Clone, Debug)]
pub(crate) enum Frame {
    Whole(Bytes),
    Pieces(Arc<[Bytes]>),
}

impl Frame {
    /// Its bytes, in order.
    pub(crate) fn pieces(&self) -> &[Bytes] {
        match self {
            Self::Whole(bytes) => slice::from_ref(bytes),
            Self::Pieces(pieces) => pieces,
        }
    }

    /// The number of bytes sent.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Whole(bytes) => bytes.len(),
            Self::Pieces(pieces) => pieces.iter().map(Bytes::len).sum(),
        }
    }

    /// The first byte, which holds the frame's opcode.
    pub(crate) fn first(&self) -> Option<u8> {
        self.pieces().iter().find_map(|piece| piece.first().copied())
    }

    /// The memory it occupies, without the `shared` pieces.
    pub(crate) fn own_bytes(&self, shared: impl Fn(&Bytes) -> bool) -> usize {
        let own: usize = self.pieces().iter().filter(|piece| !shared(piece)).map(Bytes::len).sum();
        match self {
            Self::Whole(_) => own,
            Self::Pieces(pieces) => own + size_of_val::<[Bytes]>(pieces),
        }
    }

    /// All of it in one piece.
    #[cfg(test)]
    pub(crate) fn to_bytes(&self) -> Bytes {
        match self {
            Self::Whole(bytes) => bytes.clone(),
            Self::Pieces(pieces) => pieces.concat().into(),
        }
    }
}

impl From<Bytes> for Frame {
    fn from(bytes: Bytes) -> Self {
        Self::Whole(bytes)
    }
}

/// Equal where the same is sent.
#[cfg(test)]
impl PartialEq for Frame {
    fn eq(&self, other: &Self) -> bool {
        self.to_bytes() == other.to_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_as_large_as_bytes() {
        assert_eq!(size_of::<Frame>(), size_of::<Bytes>());
    }

    #[test]
    fn pieces_equal_the_whole_frame() {
        let object = Bytes::from(vec![b'o'; 100]);
        let pieces = [Bytes::new(), Bytes::from_static(b"head"), object.clone(), Bytes::from_static(b"tail")];
        let frame = Frame::Pieces(Arc::new(pieces));
        assert_eq!((frame.len(), frame.first()), (108, Some(b'h')));
        assert_eq!(frame, Frame::Whole(frame.to_bytes()));
        assert_eq!(frame.own_bytes(|piece| piece.as_ptr() == object.as_ptr()), 8 + 4 * size_of::<Bytes>());
        assert_eq!(Frame::from(object).own_bytes(|_| false), 100);
        assert_eq!(Frame::from(Bytes::new()).first(), None);
    }
}
