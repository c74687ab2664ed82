//! The futures of the services.

use std::{
    convert::Infallible,
    fmt,
    future::Future,
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::Response;
use http_body::Body;
use pin_project::pin_project;

use crate::{
    body::EndpointBody,
    hook::BoxFuture,
    watch::{Listing, Watcher, capture::Capture},
    way::{Listed, ResponseWay},
};

/// The future of [`LiveUpdatesService`](crate::LiveUpdatesService).
///
/// A request that is neither watched nor reads a list is passed on without an allocation, unless its path holds escapes.
/// A watched write that is dropped unfinished,
/// because its client went away or an outer timeout fired, goes on in a task of its own.
#[pin_project]
pub struct ResponseFuture<F, W, R, E>
where
    W: ResponseWay<R>,
    W::Response: 'static,
    E: 'static,
{
    #[pin]
    kind: Kind<F, Result<Response<W::Response>, E>>,
    way: PhantomData<fn() -> (W, R)>,
}

#[pin_project(project = KindProject)]
enum Kind<F, T: 'static> {
    Pass(#[pin] F),
    /// Until the inner service has answered.
    List(#[pin] F, Option<Listing>),
    Watch(Detachable<T>),
    Endpoint(BoxFuture<Response<EndpointBody>>),
}

impl<F, W, R, E> ResponseFuture<F, W, R, E>
where
    W: ResponseWay<R>,
{
    pub(crate) fn pass(inner: F) -> Self {
        Self::new(Kind::Pass(inner))
    }

    pub(crate) fn list(inner: F, listing: Listing) -> Self {
        Self::new(Kind::List(inner, Some(listing)))
    }

    pub(crate) fn endpoint(answer: BoxFuture<Response<EndpointBody>>) -> Self {
        Self::new(Kind::Endpoint(answer))
    }

    /// `request` is what listens to the write's request.
    pub(crate) fn watch(
        write: impl Future<Output = Result<Response<W::Response>, E>> + Send + 'static,
        request: Capture,
        watcher: Arc<Watcher>,
    ) -> Self {
        Self::new(Kind::Watch(Detachable::new(write, request, watcher)))
    }

    fn new(kind: Kind<F, Result<Response<W::Response>, E>>) -> Self {
        Self { kind, way: PhantomData }
    }
}

impl<F, W, R, E> Future for ResponseFuture<F, W, R, E>
where
    F: Future<Output = Result<Response<R>, E>>,
    W: ResponseWay<R>,
    R: Body,
{
    type Output = Result<Response<W::Response>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().kind.project() {
            KindProject::Pass(inner) => inner.poll(cx).map_ok(W::pass),
            KindProject::List(inner, listing) => inner.poll(cx).map_ok(|mut response| match listing.take() {
                Some(listing) => {
                    listing.keep_out_of_caches(response.headers_mut());
                    response.map(|body| W::listed(body, Listed(listing.activities)))
                }
                None => W::pass(response),
            }),
            KindProject::Watch(write) => write.poll(cx),
            KindProject::Endpoint(answer) => answer.as_mut().poll(cx).map(|response| Ok(response.map(W::own))),
        }
    }
}

impl<F, W, R, E> fmt::Debug for ResponseFuture<F, W, R, E>
where
    W: ResponseWay<R>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            Kind::Pass(_) | Kind::List(..) => "ResponseFuture(pass)",
            Kind::Watch(_) => "ResponseFuture(watch)",
            Kind::Endpoint(_) => "ResponseFuture(endpoint)",
        })
    }
}

/// The future of [`LiveUpdatesEndpoint`](crate::LiveUpdatesEndpoint).
#[must_use = "futures do nothing until they are polled"]
pub struct EndpointFuture(BoxFuture<Response<EndpointBody>>);

impl EndpointFuture {
    pub(crate) fn new(answer: BoxFuture<Response<EndpointBody>>) -> Self {
        Self(answer)
    }
}

impl Future for EndpointFuture {
    type Output = Result<Response<EndpointBody>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx).map(Ok)
    }
}

impl fmt::Debug for EndpointFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EndpointFuture")
    }
}

/// A write that, once begun, is run to its end even when nobody waits for it any more.
struct Detachable<T: 'static> {
    write: Option<Pin<Box<dyn Future<Output = T> + Send>>>,
    begun: bool,
    request: Capture,
    watcher: Arc<Watcher>,
    #[cfg(feature = "tracing")]
    span: tracing::Span,
}

impl<T> Detachable<T> {
    fn new(write: impl Future<Output = T> + Send + 'static, request: Capture, watcher: Arc<Watcher>) -> Self {
        Self {
            write: Some(Box::pin(write)),
            begun: false,
            request,
            watcher,
            #[cfg(feature = "tracing")]
            span: tracing::Span::current(),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<T> {
        self.begun = true;
        // Out of its place while it runs: one that panics must not be found there and run again.
        let Some(mut write) = self.write.take() else {
            return Poll::Pending;
        };
        let poll = write.as_mut().poll(cx);
        if poll.is_pending() {
            self.write = Some(write);
        }
        poll
    }
}

impl<T> Drop for Detachable<T> {
    fn drop(&mut self) {
        let Some(write) = self.write.take().filter(|_| self.begun) else {
            return;
        };
        let finish = async move {
            drop(write.await);
        };
        #[cfg(feature = "tracing")]
        let finish = tracing::Instrument::instrument(finish, self.span.clone());
        self.watcher.finish_detached(&self.request, finish);
    }
}
