//! Which body types stand on either side of the layer: one mode for each marker of [`crate::body`].

use http::{Request, Response};
use http_body::Body;

#[cfg(feature = "axum")]
use {crate::body::Axum, axum_core::body::Body as AxumBody};

use crate::body::{Generic, RequestBody, ResponseBody};

mod sealed {
    /// Modes belong to this crate.
    pub trait Sealed {}
    impl Sealed for super::Generic {}
    #[cfg(feature = "axum")]
    impl Sealed for super::Axum {}
}

/// What becomes of bodies of the type `B`, in requests and in responses. Sealed; see [`Generic`].
///
/// A service's request and response bodies are two types, so it asks for the mode of each.
pub trait BodyMode<B>: sealed::Sealed {
    /// The body the inner service receives.
    type RequestBody;

    /// The body the client receives.
    type ResponseBody;

    /// The body of a watched request.
    #[doc(hidden)]
    fn wrap_request(body: RequestBody<B>) -> Self::RequestBody;

    /// An unwatched request, whole: a mode that keeps the body need not take the request apart.
    #[doc(hidden)]
    fn pass_request(request: Request<B>) -> Request<Self::RequestBody>;

    /// The body of a watched response, or of the endpoint's own.
    #[doc(hidden)]
    fn wrap_response(body: ResponseBody<B>) -> Self::ResponseBody
    where
        B: Body;

    /// An unwatched response, whole.
    #[doc(hidden)]
    fn pass_response(response: Response<B>) -> Response<Self::ResponseBody>;
}

impl<B: Body> BodyMode<B> for Generic {
    type RequestBody = RequestBody<B>;
    type ResponseBody = ResponseBody<B>;

    fn wrap_request(body: RequestBody<B>) -> RequestBody<B> {
        body
    }

    fn pass_request(request: Request<B>) -> Request<RequestBody<B>> {
        request.map(RequestBody::unwatched)
    }

    fn wrap_response(body: ResponseBody<B>) -> ResponseBody<B> {
        body
    }

    fn pass_response(response: Response<B>) -> Response<ResponseBody<B>> {
        response.map(ResponseBody::inner)
    }
}

#[cfg(feature = "axum")]
impl BodyMode<AxumBody> for Axum {
    type RequestBody = AxumBody;
    type ResponseBody = AxumBody;

    fn wrap_request(body: RequestBody<AxumBody>) -> AxumBody {
        AxumBody::new(body)
    }

    fn pass_request(request: Request<AxumBody>) -> Request<AxumBody> {
        request
    }

    fn wrap_response(body: ResponseBody<AxumBody>) -> AxumBody {
        match body.into_inner() {
            Ok(unwatched) => unwatched,
            Err(watched) => AxumBody::new(watched),
        }
    }

    fn pass_response(response: Response<AxumBody>) -> Response<AxumBody> {
        response
    }
}
