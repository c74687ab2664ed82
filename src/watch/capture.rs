//! Bounded reading of request and response bodies.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use http_body::{Body, Frame};
use http_body_util::BodyExt;

use crate::{hook::within, hub::Activity, lock::lock};

/// A bounded copy of a request body, made while the inner service reads it.
#[derive(Clone, Debug)]
pub(crate) struct Capture {
    copy: Arc<Mutex<Copied>>,
    limit: usize,
    /// The write, which settling waits for once its body has arrived.
    activity: Weak<Activity>,
}

#[derive(Debug, Default)]
struct Copied {
    whole: Whole,
    bytes: usize,
    is_over: bool,
    /// The last piece has come from the client.
    has_arrived: bool,
    /// The inner service waits for a piece that has not come.
    is_awaited: bool,
    /// The last piece has gone on to the inner service.
    has_ended: bool,
}

impl Capture {
    pub(crate) fn new(limit: usize, activity: Weak<Activity>) -> Self {
        Self { copy: Arc::default(), limit, activity }
    }

    /// Copies one more piece.
    pub(crate) fn push(&self, chunk: &Bytes) {
        let mut copy = lock(&self.copy);
        copy.bytes += chunk.len();
        if copy.bytes > self.limit {
            copy.is_over = true;
            copy.whole = Whole::default();
        } else if !copy.is_over {
            copy.whole.push(chunk);
        }
    }

    /// Notes whether the inner service waits for the client to send more.
    pub(crate) fn await_more(&self, awaited: bool) {
        lock(&self.copy).is_awaited = awaited;
    }

    /// The last piece has come from the client, and may have to wait for the object's lock.
    pub(crate) fn arrive(&self) {
        let had_arrived = std::mem::replace(&mut lock(&self.copy).has_arrived, true);
        if let Some(activity) = self.activity.upgrade().filter(|_| !had_arrived) {
            activity.arrive();
        }
    }

    /// The last piece has gone on to the inner service.
    pub(crate) fn end(&self) {
        lock(&self.copy).has_ended = true;
    }

    /// True when nothing more of the body is to come from the client.
    pub(crate) fn has_arrived(&self) -> bool {
        lock(&self.copy).has_arrived
    }

    /// True when the inner service waits for a part of the body that has not come.
    pub(crate) fn is_awaited(&self) -> bool {
        let copy = lock(&self.copy);
        copy.is_awaited && !copy.has_arrived
    }

    /// True when the body was larger than the limit.
    pub(crate) fn is_over(&self) -> bool {
        lock(&self.copy).is_over
    }

    /// The whole body; `None` where it did not end, or was larger than the limit.
    pub(crate) fn take(&self) -> Option<Bytes> {
        let mut copy = lock(&self.copy);
        (copy.has_ended && !copy.is_over).then(|| std::mem::take(&mut copy.whole).bytes())
    }
}

/// A response body, read ahead as far as allowed.
pub(crate) struct Collected<B: Body> {
    /// Everything read, to be sent on unchanged.
    pub(crate) frames: VecDeque<Frame<Bytes>>,
    /// What was not read: the body is larger than the limit, or took too long.
    pub(crate) rest: Option<Pin<Box<B>>>,
    /// The body broke off.
    pub(crate) error: Option<B::Error>,
    /// The body promised its length. One that did not stays chunked, for its trailers' sake.
    pub(crate) is_exact: bool,
    /// Reading took too long.
    pub(crate) is_slow: bool,
}

/// A response body that goes on to the client.
pub(crate) enum Forwarded<B: Body> {
    Unread(B),
    Collected(Collected<B>),
}

/// Frames that are kept one by one. Data behind them is joined; other frames behind them end the reading ahead.
const MANY: usize = 16;

/// Reads a body to its end, unless it is larger than `limit` bytes or takes longer than `time`.
pub(crate) async fn collect<B: Body>(body: B, limit: usize, time: Duration) -> Collected<B> {
    let is_exact = body.size_hint().exact().is_some();
    let mut body = Box::pin(body);
    // Nearly every response has one piece.
    let mut frames = VecDeque::with_capacity(1);
    // Data behind the frames that are kept one by one.
    let mut together = BytesMut::new();
    let mut bytes = 0;
    let read = async {
        loop {
            if body.is_end_stream() {
                return Ok(true);
            }
            if body.size_hint().lower().saturating_add(bytes) > limit as u64 {
                return Ok(false);
            }
            let Some(frame) = body.frame().await.transpose()? else { return Ok(true) };
            let frame = frame.map_data(|mut data| data.copy_to_bytes(data.remaining()));
            bytes += frame.data_ref().map_or(0, Bytes::len) as u64;
            match frame.data_ref() {
                Some(data) if frames.len() >= MANY => together.extend_from_slice(data),
                _ => {
                    if !together.is_empty() {
                        frames.push_back(Frame::data(together.split().freeze()));
                    }
                    frames.push_back(frame);
                }
            }
            if bytes > limit as u64 || frames.len() > 2 * MANY {
                return Ok(false);
            }
        }
    };
    let outcome = within(time, read).await;
    if !together.is_empty() {
        frames.push_back(Frame::data(together.freeze()));
    }
    let is_slow = outcome.is_none();
    let (rest, error) = match outcome {
        Some(Ok(true)) => (None, None),
        Some(Ok(false)) | None => (Some(body), None),
        Some(Err(error)) => (None, Some(error)),
    };
    Collected { frames, rest, error, is_exact, is_slow }
}

impl<B: Body> Collected<B> {
    /// The whole body, where it was read to its end.
    pub(crate) fn whole(&self) -> Option<Bytes> {
        (self.rest.is_none() && self.error.is_none()).then(|| {
            let mut whole = Whole::default();
            self.frames.iter().filter_map(|frame| frame.data_ref()).for_each(|chunk| whole.push(chunk));
            whole.bytes()
        })
    }
}

/// A body in one piece. The first piece is nearly always all of it, and is not copied. Later pieces are, so that a body
/// of many small pieces costs no more than its bytes.
#[derive(Debug, Default)]
struct Whole {
    first: Bytes,
    /// All pieces, once there are two.
    all: BytesMut,
}

impl Whole {
    fn push(&mut self, chunk: &Bytes) {
        if self.all.is_empty() {
            if self.first.is_empty() {
                self.first = chunk.clone();
                return;
            }
            self.all.extend_from_slice(&std::mem::take(&mut self.first));
        }
        self.all.extend_from_slice(chunk);
    }

    fn bytes(self) -> Bytes {
        if self.all.is_empty() { self.first } else { self.all.freeze() }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::HeaderMap;
    use http_body_util::StreamBody;

    use super::*;

    fn body(frames: Vec<Frame<Bytes>>) -> impl Body<Data = Bytes, Error = Infallible> {
        StreamBody::new(futures_util::stream::iter(frames.into_iter().map(Ok)))
    }

    fn data(text: &'static str) -> Frame<Bytes> {
        Frame::data(Bytes::from_static(text.as_bytes()))
    }

    async fn collected<B: Body>(body: B) -> Collected<B> {
        collect(body, 1 << 20, Duration::from_secs(5)).await
    }

    #[tokio::test]
    async fn a_body_in_single_bytes_costs_its_bytes() {
        let read = collected(body((0..100_000).map(|_| data("x")).collect())).await;
        assert_eq!(read.frames.len(), MANY + 1);
        assert_eq!(read.whole().unwrap(), "x".repeat(100_000));

        let capture = Capture::new(1 << 20, Weak::new());
        let mut seen = 0;
        for _ in 0..100_000 {
            capture.push(&Bytes::from_static(b"x"));
            seen += 1;
        }
        capture.end();
        assert_eq!(capture.take().unwrap().len(), seen);
    }

    #[tokio::test]
    async fn data_and_trailers_keep_their_order() {
        let mut frames: Vec<Frame<Bytes>> = (0..40).map(|_| data("ab")).collect();
        frames.insert(30, data(""));
        frames.insert(3, data(""));
        frames.push(Frame::trailers(HeaderMap::from_iter([("x".parse().unwrap(), "1".parse().unwrap())])));
        let read = collected(body(frames)).await;
        assert_eq!(read.whole().unwrap(), "ab".repeat(40));
        assert_eq!(read.frames.len(), MANY + 2);
        assert!(read.frames.back().unwrap().is_trailers());
    }

    #[tokio::test]
    async fn frames_without_data_and_without_end_are_not_kept() {
        let trailers = || Frame::trailers(HeaderMap::new());
        let read = collected(body((0..1000).map(|_| trailers()).collect())).await;
        assert!(read.rest.is_some() && read.frames.len() <= 2 * MANY + 1);
        let read = collected(body((0..1000).map(|_| data("")).collect())).await;
        assert!(read.frames.len() <= MANY && read.whole().unwrap().is_empty());
    }
}
