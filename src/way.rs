//! Which body types stand on either side of the layer: the mode that a marker of [`crate::body`] chooses.

use http::{Request, Response};
use http_body::Body;

#[cfg(feature = "axum")]
use crate::body::Axum;
use crate::{
    body::{EndpointBody, Generic, RequestBody, ResponseBody},
    hub::Activity,
    watch::{capture::Capture, exchange::Answer, turn::Taking},
};

mod sealed {
    /// Ways belong to this crate.
    pub trait Sealed {}
    impl Sealed for super::Generic {}
    #[cfg(feature = "axum")]
    impl Sealed for super::Axum {}
}

/// How a request's body goes in. Sealed; see [`Generic`].
pub trait RequestWay<Q>: sealed::Sealed {
    /// The body the inner service is given.
    type Request;

    /// A request that is nobody's business: whole, so that one whose body stays what it is need not be taken apart.
    #[doc(hidden)]
    fn pass(request: Request<Q>) -> Request<Self::Request>;

    /// A body that is listened to, and that waits for its turn.
    #[doc(hidden)]
    fn watch(body: Q, ear: Ear) -> Self::Request;
}

/// How a response's body comes out. Sealed; see [`Generic`].
pub trait ResponseWay<R>: sealed::Sealed {
    /// The body the client is given.
    type Response;

    /// A response that is nobody's business.
    #[doc(hidden)]
    fn pass(response: Response<R>) -> Response<Self::Response>;

    /// A list, with what must be held until it has left.
    #[doc(hidden)]
    fn listed(body: R, listing: Listed) -> Self::Response
    where
        R: Body;

    /// An answer of the crate's own.
    #[doc(hidden)]
    fn own(body: EndpointBody) -> Self::Response;

    /// The answer to a watched write.
    #[doc(hidden)]
    fn answer(answer: WatchedAnswer<R>) -> Self::Response
    where
        R: Body;
}

/// What listens to a request's body.
#[allow(missing_debug_implementations)]
#[doc(hidden)]
pub struct Ear {
    pub(crate) capture: Capture,
    pub(crate) turn: Option<Taking>,
}

/// What a list's body holds until it has left.
#[allow(missing_debug_implementations)]
#[doc(hidden)]
pub struct Listed(pub(crate) Vec<Activity>);

/// The body that answers a watched write.
#[allow(missing_debug_implementations)]
#[doc(hidden)]
pub struct WatchedAnswer<R: Body>(pub(crate) Answer<R>);

impl<Q: Body> RequestWay<Q> for Generic {
    type Request = RequestBody<Q>;

    fn pass(request: Request<Q>) -> Request<RequestBody<Q>> {
        request.map(RequestBody::passing)
    }

    fn watch(body: Q, ear: Ear) -> RequestBody<Q> {
        RequestBody::watched(body, ear.capture, ear.turn)
    }
}

impl<R: Body> ResponseWay<R> for Generic {
    type Response = ResponseBody<R>;

    fn pass(response: Response<R>) -> Response<ResponseBody<R>> {
        response.map(ResponseBody::inner)
    }

    fn listed(body: R, listing: Listed) -> ResponseBody<R> {
        ResponseBody::listed(body, listing.0)
    }

    fn own(body: EndpointBody) -> ResponseBody<R> {
        ResponseBody::own(body)
    }

    fn answer(answer: WatchedAnswer<R>) -> ResponseBody<R> {
        match answer.0 {
            Answer::AsItCame(body) => ResponseBody::inner(body),
            Answer::ReadAhead(collected, exact) => ResponseBody::replay(collected, exact),
        }
    }
}

#[cfg(feature = "axum")]
impl RequestWay<axum_core::body::Body> for Axum {
    type Request = axum_core::body::Body;

    fn pass(request: Request<axum_core::body::Body>) -> Request<axum_core::body::Body> {
        request
    }

    fn watch(body: axum_core::body::Body, ear: Ear) -> axum_core::body::Body {
        axum_core::body::Body::new(Generic::watch(body, ear))
    }
}

#[cfg(feature = "axum")]
impl ResponseWay<axum_core::body::Body> for Axum {
    type Response = axum_core::body::Body;

    fn pass(response: Response<axum_core::body::Body>) -> Response<axum_core::body::Body> {
        response
    }

    fn listed(body: axum_core::body::Body, listing: Listed) -> axum_core::body::Body {
        axum_core::body::Body::new(Generic::listed(body, listing))
    }

    fn own(body: EndpointBody) -> axum_core::body::Body {
        axum_core::body::Body::new(body)
    }

    fn answer(answer: WatchedAnswer<axum_core::body::Body>) -> axum_core::body::Body {
        match answer.0 {
            Answer::AsItCame(body) => body,
            read_ahead @ Answer::ReadAhead(..) => {
                axum_core::body::Body::new(Generic::answer(WatchedAnswer(read_ahead)))
            }
        }
    }
}
