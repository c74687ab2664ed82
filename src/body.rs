//! The body types on either side of the layer, and the markers that choose them.
//!
//! | the layer | gives the inner service | answers with |
//! |---|---|---|
//! | `live.layer()`: [`Generic`], for every HTTP service | [`RequestBody`] | [`ResponseBody`] |
//! | `live.layer().axum()`: `Axum`, with the feature `axum` | axum's `Body` | axum's `Body` |
//!
//! The endpoint alone answers with [`EndpointBody`].

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use futures_util::FutureExt;
use http_body::{Body, Frame, SizeHint};
use pin_project::pin_project;

use crate::{
    hub::Activity,
    watch::{
        capture::{Capture, Collected, Forwarded},
        object_lock::LockFuture,
    },
};

/// Chooses [`RequestBody`] and [`ResponseBody`], for every HTTP service; the default of
/// [`LiveUpdatesLayer`](crate::LiveUpdatesLayer).
#[derive(Clone, Copy, Debug, Default)]
pub struct Generic;

/// Chooses axum's own body on both sides, so that every neighbour in a `ServiceBuilder` fits; see
/// [`LiveUpdatesLayer::axum`](crate::LiveUpdatesLayer::axum).
#[cfg(feature = "axum")]
#[cfg_attr(docsrs, doc(cfg(feature = "axum")))]
#[derive(Clone, Copy, Debug, Default)]
pub struct Axum;

/// A request body on its way to the inner service, unchanged.
///
/// On watched routes the layer copies what the inner service reads, never ahead of it, and holds the last piece back
/// until this write has its object's lock. Read errors are the wrapped body's own.
///
/// The inner service of [`LiveUpdatesLayer`](crate::LiveUpdatesLayer) takes `Request<RequestBody<B>>`; handlers of
/// axum's `Router` need no change. [`LiveUpdatesService`](crate::LiveUpdatesService) has an example with a service of
/// your own. Where a neighbour in a `ServiceBuilder` insists on axum's `Body`, use `live.layer().axum()` (feature
/// `axum`).
#[pin_project]
pub struct RequestBody<B> {
    #[pin]
    inner: B,
    tee: Option<Tee>,
}

/// Copies what the inner service reads of a request body.
struct Tee {
    capture: Capture,
    /// The object's lock, until this write has it.
    lock: Option<LockFuture>,
    /// Bytes still to come, where the length is known.
    left: Option<u64>,
    held: Option<Frame<Bytes>>,
    /// The body has ended, and must not be polled again.
    has_ended: bool,
}

impl<B: Body> RequestBody<B> {
    pub(crate) fn unwatched(inner: B) -> Self {
        Self { inner, tee: None }
    }

    pub(crate) fn watched(inner: B, capture: Capture, lock: Option<LockFuture>) -> Self {
        let left = inner.size_hint().exact();
        if inner.is_end_stream() {
            capture.arrive();
            capture.end();
        }
        Self { inner, tee: Some(Tee { capture, lock, left, held: None, has_ended: false }) }
    }
}

impl Tee {
    /// Reads on, and notes a wait for the client.
    fn read<B: Body>(&self, body: Pin<&mut B>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let read = poll_bytes(body, cx);
        self.capture.await_more(read.is_pending());
        read
    }

    /// Copies a frame's data; true when it was the last data.
    fn copy(&mut self, frame: &Frame<Bytes>, is_end: bool) -> bool {
        let Some(data) = frame.data_ref() else { return true };
        self.capture.push(data);
        self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
        is_end || self.left == Some(0)
    }
}

/// A body that is gone waits for no client.
impl Drop for Tee {
    fn drop(&mut self) {
        self.capture.await_more(false);
    }
}

impl<B: Body> Body for RequestBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let mut this = self.project();
        let Some(tee) = this.tee else { return poll_bytes(this.inner, cx) };
        let frame = match tee.held.take() {
            Some(frame) => Some(frame),
            None if tee.has_ended => None,
            None => match ready!(tee.read(this.inner.as_mut(), cx)?) {
                Some(frame) => {
                    if !tee.copy(&frame, this.inner.is_end_stream()) {
                        return Poll::Ready(Some(Ok(frame)));
                    }
                    Some(frame)
                }
                None => {
                    tee.has_ended = true;
                    None
                }
            },
        };
        tee.capture.arrive();
        if let Some(lock) = &mut tee.lock {
            if lock.poll_unpin(cx).is_pending() {
                tee.held = frame;
                return Poll::Pending;
            }
            tee.lock = None;
        }
        tee.capture.end();
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        let waiting = self.tee.as_ref().is_some_and(|tee| tee.held.is_some());
        !waiting && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let held = self.tee.as_ref().and_then(|tee| tee.held.as_ref()?.data_ref());
        longer(self.inner.size_hint(), held.map_or(0, Bytes::len))
    }
}

impl<B> fmt::Debug for RequestBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestBody").field("watched", &self.tee.is_some()).finish_non_exhaustive()
    }
}

/// A response body: the inner service's, unchanged, or the endpoint's own small one.
///
/// The inner service's body reaches the client byte for byte, trailers and errors included. Errors are the wrapped
/// body's own. [`LiveUpdatesService`](crate::LiveUpdatesService) answers with it.
#[pin_project]
pub struct ResponseBody<B: Body>(#[pin] Kind<B>);

#[pin_project(project = KindProject)]
enum Kind<B: Body> {
    Inner(#[pin] B),
    Listed(#[pin] Listed<B>),
    Collected(Collected<B>),
    Endpoint(EndpointBody),
}

/// A list, with the activities that end when it has left. It is sent in pieces: a server takes a whole body of one
/// piece at once, however long its client then takes to read it.
#[pin_project]
struct Listed<B> {
    #[pin]
    inner: B,
    /// The rest of a piece that was too large.
    rest: Bytes,
    activities: Vec<Activity>,
}

/// The largest piece of a list, in bytes.
const LIST_PIECE: usize = 16 * 1024;

impl<B: Body> Listed<B> {
    fn poll_piece(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        if this.rest.is_empty() {
            match ready!(poll_bytes(this.inner, cx)?).map(Frame::into_data) {
                Some(Ok(data)) => *this.rest = data,
                Some(Err(other)) => return Poll::Ready(Some(Ok(other))),
                None => {
                    this.activities.clear();
                    return Poll::Ready(None);
                }
            }
        }
        let piece = this.rest.split_to(this.rest.len().min(LIST_PIECE));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }
}

impl<B: Body> ResponseBody<B> {
    pub(crate) fn inner(body: B) -> Self {
        Self(Kind::Inner(body))
    }

    pub(crate) fn listed(body: B, activities: Vec<Activity>) -> Self {
        Self(Kind::Listed(Listed { inner: body, rest: Bytes::new(), activities }))
    }

    pub(crate) fn endpoint(body: EndpointBody) -> Self {
        Self(Kind::Endpoint(body))
    }

    pub(crate) fn forwarded(body: Forwarded<B>) -> Self {
        Self(match body {
            Forwarded::Unread(body) => Kind::Inner(body),
            Forwarded::Collected(collected) => Kind::Collected(collected),
        })
    }

    /// The inner service's body, where nothing was read of it and nothing depends on its end.
    #[cfg(feature = "axum")]
    pub(crate) fn into_inner(self) -> Result<B, Self> {
        match self.0 {
            Kind::Inner(body) => Ok(body),
            watched => Err(Self(watched)),
        }
    }
}

/// Empty, as outer layers need it for their own responses (CORS, timeouts).
impl<B: Body> Default for ResponseBody<B> {
    fn default() -> Self {
        Self::endpoint(EndpointBody::default())
    }
}

impl<B: Body> Body for ResponseBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.project().0.project() {
            KindProject::Inner(body) => poll_bytes(body, cx),
            KindProject::Listed(listed) => listed.poll_piece(cx),
            KindProject::Endpoint(body) => Poll::Ready(body.0.take().map(|data| Ok(Frame::data(data)))),
            KindProject::Collected(collected) => {
                if let Some(frame) = collected.frames.pop_front() {
                    return Poll::Ready(Some(Ok(frame)));
                }
                match &mut collected.rest {
                    Some(body) => poll_bytes(body.as_mut(), cx),
                    None => Poll::Ready(collected.error.take().map(Err)),
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Inner(body) => body.is_end_stream(),
            Kind::Listed(listed) => listed.rest.is_empty() && listed.inner.is_end_stream(),
            Kind::Endpoint(body) => body.0.is_none(),
            Kind::Collected(collected) => {
                collected.frames.is_empty()
                    && match &collected.rest {
                        Some(body) => body.is_end_stream(),
                        // Without a promised length only reading on shows the end, as with the body itself.
                        None => collected.is_exact && collected.error.is_none(),
                    }
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Inner(body) => body.size_hint(),
            Kind::Listed(listed) => longer(listed.inner.size_hint(), listed.rest.len()),
            Kind::Endpoint(body) => body.size_hint(),
            Kind::Collected(collected) => {
                let read = collected.frames.iter().filter_map(|frame| frame.data_ref()).map(Bytes::len).sum();
                let rest = match &collected.rest {
                    Some(body) => body.size_hint(),
                    None if collected.is_exact && collected.error.is_none() => SizeHint::with_exact(0),
                    None => SizeHint::default(),
                };
                longer(rest, read)
            }
        }
    }
}

impl<B: Body> fmt::Debug for ResponseBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0 {
            Kind::Inner(_) | Kind::Listed(_) => "ResponseBody(inner)",
            Kind::Collected(_) => "ResponseBody(read ahead)",
            Kind::Endpoint(_) => "ResponseBody(endpoint)",
        })
    }
}

/// The body of the endpoint's responses: a few bytes at most.
///
/// ```
/// use tower_live_updates::{Entity, LiveUpdates};
///
/// let live = LiveUpdates::builder("/api/v1")
///     .allow_anonymous()
///     .entity(Entity::scheduler("/events"))
///     .build()?;
/// // The endpoint as a service of its own answers with it.
/// let app: axum::Router = axum::Router::new().route_service("/api/v1", live.endpoint());
/// # Ok::<(), tower_live_updates::ConfigError>(())
/// ```
#[derive(Debug, Default)]
pub struct EndpointBody(Option<Bytes>);

impl EndpointBody {
    pub(crate) fn new(data: impl Into<Bytes>) -> Self {
        Self(Some(data.into()).filter(|data| !data.is_empty()))
    }
}

impl Body for EndpointBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Poll::Ready(self.0.take().map(|data| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.as_ref().map_or(0, |data| data.len() as u64))
    }
}

/// A frame with its data as `Bytes`; data that is `Bytes` already is not copied.
fn poll_bytes<B: Body>(body: Pin<&mut B>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
    body.poll_frame(cx).map_ok(|frame| frame.map_data(|mut data| data.copy_to_bytes(data.remaining())))
}

fn longer(mut hint: SizeHint, by: usize) -> SizeHint {
    if let Some(upper) = hint.upper() {
        hint.set_upper(upper.saturating_add(by as u64));
    }
    hint.set_lower(hint.lower().saturating_add(by as u64));
    hint
}

#[cfg(test)]
mod tests {
    use std::{
        collections::VecDeque,
        future::poll_fn,
        sync::{Mutex, Weak},
    };

    use http_body_util::BodyExt;

    use super::*;

    /// Chunks of unknown number. It panics when polled after its end, as a stream may.
    struct Stream(Option<VecDeque<Bytes>>);

    impl Stream {
        fn new(chunks: &[&'static str]) -> Self {
            Self(Some(chunks.iter().map(|chunk| Bytes::from_static(chunk.as_bytes())).collect()))
        }
    }

    impl Body for Stream {
        type Data = Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            let chunk = self.0.as_mut().expect("not polled after the end").pop_front();
            if chunk.is_none() {
                self.0 = None;
            }
            Poll::Ready(chunk.map(|chunk| Ok(Frame::data(chunk))))
        }
    }

    fn lock() -> (tokio::sync::oneshot::Sender<()>, LockFuture) {
        let (give, lock) = tokio::sync::oneshot::channel();
        (give, LockFuture::Waiting(Mutex::new(Box::pin(async { lock.await.expect("the lock") }))))
    }

    #[tokio::test]
    async fn an_end_that_waits_for_the_lock_is_not_polled_for_again() {
        let (give, lock) = lock();
        let capture = Capture::new(100, Weak::new());
        let mut body = RequestBody::watched(Stream::new(&["ab", "c"]), capture.clone(), Some(lock));
        for chunk in ["ab", "c"] {
            assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), chunk);
        }
        let mut pinned = Pin::new(&mut body);
        for _ in 0..2 {
            let pending = poll_fn(|cx| Poll::Ready(pinned.as_mut().poll_frame(cx).is_pending())).await;
            assert!(pending && capture.has_arrived() && !capture.is_awaited());
            assert!(capture.take().is_none(), "the inner service has not received the end");
        }
        give.send(()).unwrap();
        assert!(body.frame().await.is_none());
        assert_eq!(capture.take().as_deref(), Some(&b"abc"[..]));
    }

    #[tokio::test]
    async fn the_last_piece_of_a_known_length_is_held_back_until_the_lock_is_held() {
        let (give, lock) = lock();
        let inner = http_body_util::Full::new(Bytes::from_static(b"abc"));
        let capture = Capture::new(100, Weak::new());
        let mut body = RequestBody::watched(inner, capture.clone(), Some(lock));
        let mut pinned = Pin::new(&mut body);
        let pending = poll_fn(|cx| Poll::Ready(pinned.as_mut().poll_frame(cx).is_pending())).await;
        assert!(pending && capture.has_arrived());
        assert_eq!((body.is_end_stream(), body.size_hint().exact()), (false, Some(3)), "the piece is still to come");
        give.send(()).unwrap();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "abc");
        assert!(body.is_end_stream());
    }
}
