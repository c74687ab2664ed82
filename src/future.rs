//! The futures of the services.

use std::{
    convert::Infallible,
    fmt,
    future::Future,
    marker::PhantomData,
    pin::Pin,
    task::{Context, Poll},
};

use http::Response;
use http_body::Body;
use pin_project::pin_project;

use crate::{
    body::{EndpointBody, ResponseBody},
    body_mode::BodyMode,
    hook::BoxFuture,
    watch::{detached::Detachable, watcher::ListRead},
};

/// The future of [`LiveUpdatesService`](crate::LiveUpdatesService).
///
/// Requests that are neither watched writes nor reads of a list pass without an allocation, unless the path holds
/// escapes. A watched write always runs to completion and is broadcast, even if this future is dropped because the
/// client disconnects or an outer timeout fires: it goes on in a task of its own, within
/// [`max_detached_writes`](crate::LiveUpdatesBuilder::max_detached_writes).
///
/// `F` is the inner service's future, `M` the body mode, and `T` the result.
#[must_use = "futures do nothing until they are polled"]
#[pin_project]
pub struct ResponseFuture<F, M, T> {
    #[pin]
    kind: Kind<F, T>,
    mode: PhantomData<fn() -> M>,
}

#[pin_project(project = KindProject)]
pub(crate) enum Kind<F, T> {
    Pass(#[pin] F),
    /// The list's activities go on in the response's body.
    List(#[pin] F, Option<ListRead>),
    Watch(Detachable<T>),
    Endpoint(BoxFuture<Response<EndpointBody>>),
}

impl<F, M, T> ResponseFuture<F, M, T> {
    pub(crate) fn new(kind: Kind<F, T>) -> Self {
        Self { kind, mode: PhantomData }
    }
}

impl<F, M, R, E> Future for ResponseFuture<F, M, Result<Response<M::ResponseBody>, E>>
where
    F: Future<Output = Result<Response<R>, E>>,
    M: BodyMode<R>,
    R: Body,
{
    type Output = Result<Response<M::ResponseBody>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().kind.project() {
            KindProject::Pass(inner) => inner.poll(cx).map_ok(M::pass_response),
            KindProject::List(inner, list) => inner.poll(cx).map_ok(|mut response| match list.take() {
                Some(list) => {
                    list.keep_out_of_caches(response.headers_mut());
                    response.map(|body| M::wrap_response(ResponseBody::listed(body, list.activities)))
                }
                None => M::pass_response(response),
            }),
            KindProject::Watch(write) => write.poll(cx),
            KindProject::Endpoint(answer) => answer
                .as_mut()
                .poll(cx)
                .map(|response| Ok(response.map(|body| M::wrap_response(ResponseBody::endpoint(body))))),
        }
    }
}

impl<F, M, T> fmt::Debug for ResponseFuture<F, M, T> {
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
pub struct EndpointFuture(pub(crate) BoxFuture<Response<EndpointBody>>);

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
