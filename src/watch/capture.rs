//! Bounded reading of bodies that belong to somebody else.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use http_body::{Body, Frame};
use http_body_util::BodyExt;

use crate::{hook::within, lock::lock};

/// What has been seen of a request body while the inner service read it.
#[derive(Clone, Debug)]
pub(crate) struct Capture {
    seen: Arc<Mutex<Seen>>,
    limit: usize,
}

#[derive(Debug, Default)]
struct Seen {
    whole: Whole,
    bytes: usize,
    over: bool,
    ended: bool,
}

impl Capture {
    pub(crate) fn new(limit: usize) -> Self {
        Self { seen: Arc::default(), limit }
    }

    /// One more piece went by.
    pub(crate) fn push(&self, chunk: &Bytes) {
        let mut seen = lock(&self.seen);
        seen.bytes += chunk.len();
        if seen.bytes > self.limit {
            seen.over = true;
            seen.whole = Whole::default();
        } else if !seen.over {
            seen.whole.push(chunk);
        }
    }

    /// The last piece went by.
    pub(crate) fn end(&self) {
        lock(&self.seen).ended = true;
    }

    /// True when some of the body has gone by, and its end has not.
    pub(crate) fn is_half_read(&self) -> bool {
        let seen = lock(&self.seen);
        seen.bytes > 0 && !seen.ended
    }

    /// The whole body; `None` where its end was not seen, or it was larger than the limit.
    pub(crate) fn take(&self) -> Option<Bytes> {
        let mut seen = lock(&self.seen);
        (seen.ended && !seen.over).then(|| std::mem::take(&mut seen.whole).bytes())
    }
}

/// What was read of a response body, and the rest of it.
pub(crate) struct Collected<B: Body> {
    /// Everything read, to be given on as it came.
    pub(crate) frames: VecDeque<Frame<Bytes>>,
    pub(crate) rest: Rest<B>,
}

/// What comes after the frames that were read.
pub(crate) enum Rest<B: Body> {
    /// Nothing: the body was read to its end.
    End,
    /// The body goes on: it is larger than the limit, or took too long.
    More(Pin<Box<B>>),
    /// The body broke off.
    Broken(B::Error),
}

/// Reads a body to its end, unless it is larger than `limit` bytes or takes longer than `time`.
pub(crate) async fn collect<B: Body>(body: B, limit: usize, time: Duration) -> Collected<B> {
    let mut body = Box::pin(body);
    // One piece is what nearly every answer is.
    let mut frames = VecDeque::with_capacity(1);
    let mut bytes = 0;
    let read = async {
        loop {
            if body.is_end_stream() {
                return Ok(true);
            }
            if body.size_hint().lower().saturating_add(bytes) > limit as u64 {
                return Ok(false);
            }
            match body.frame().await {
                None => return Ok(true),
                Some(Err(error)) => return Err(error),
                Some(Ok(frame)) => {
                    let frame = frame.map_data(|mut data| data.copy_to_bytes(data.remaining()));
                    bytes += frame.data_ref().map_or(0, Bytes::len) as u64;
                    frames.push_back(frame);
                    if bytes > limit as u64 {
                        return Ok(false);
                    }
                }
            }
        }
    };
    let outcome = within(time, read).await;
    let rest = match outcome {
        Some(Ok(true)) => Rest::End,
        Some(Ok(false)) | None => Rest::More(body),
        Some(Err(error)) => Rest::Broken(error),
    };
    Collected { frames, rest }
}

impl<B: Body> Collected<B> {
    /// The whole body, where it was read to its end.
    pub(crate) fn whole(&self) -> Option<Bytes> {
        matches!(self.rest, Rest::End).then(|| {
            let mut whole = Whole::default();
            self.frames.iter().filter_map(|frame| frame.data_ref()).for_each(|chunk| whole.push(chunk));
            whole.bytes()
        })
    }
}

/// A body put together. The first piece is nearly always all of it, and is not copied.
#[derive(Debug, Default)]
struct Whole {
    first: Bytes,
    more: Vec<Bytes>,
}

impl Whole {
    fn push(&mut self, chunk: &Bytes) {
        if self.first.is_empty() {
            self.first = chunk.clone();
        } else {
            self.more.push(chunk.clone());
        }
    }

    fn bytes(self) -> Bytes {
        if self.more.is_empty() {
            return self.first;
        }
        let chunks = || std::iter::once(&self.first).chain(&self.more);
        let mut all = BytesMut::with_capacity(chunks().map(Bytes::len).sum());
        chunks().for_each(|chunk| all.extend_from_slice(chunk));
        all.freeze()
    }
}
