//! Makes the answer of an ordinary REST back end one that the DataProcessor understands, where the entity asks for it.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header, response::Parts};
use http_body::{Body, Frame};

use super::{
    capture::{Collected, Forwarded},
    derive::{WriteFacts, derive_change},
    request_body::Format,
};
use crate::{change::ChangeKind, entity::Entity, object::Object};

/// Headers that describe the bytes of a body, or the resource that it is a copy of.
const OF_BODY: [&str; 6] =
    ["content-digest", "repr-digest", "digest", "content-md5", "content-location", "content-encoding"];

/// True of a request that the DataProcessor makes, and other scripts that name themselves so.
pub(super) fn is_for_widget(headers: &HeaderMap) -> bool {
    let value = headers.get("x-requested-with").map(HeaderValue::as_bytes);
    value.is_some_and(|value| value.eq_ignore_ascii_case(b"XMLHttpRequest"))
}

/// True of statuses whose answers a widget can be given in another form.
pub(super) fn is_adaptable(status: StatusCode) -> bool {
    matches!(status, StatusCode::OK | StatusCode::CREATED | StatusCode::NO_CONTENT)
}

/// True of bodies that can be given in another form: a JSON object, or none.
pub(super) fn is_adaptable_body(body: &[u8]) -> bool {
    let text = body.trim_ascii();
    text.is_empty() || Object::parse(text).is_some()
}

/// How an answer differs for a widget: its status is 200.
#[derive(Debug)]
pub(super) struct WidgetAnswer {
    /// The whole body, where that differs too.
    body: Option<Bytes>,
}

impl WidgetAnswer {
    /// `None` where the answer is to stay as it is.
    pub(super) fn of(entity: &Entity, facts: WriteFacts<'_>) -> Option<Self> {
        // Servers send no body after 204, whatever the handler has written.
        let is_bodiless = facts.status == StatusCode::NO_CONTENT;
        let text = if is_bodiless { b"" } else { facts.response?.trim_ascii() };
        let given = if text.is_empty() { Object::default() } else { Object::parse(text)? };
        let added = match derive_change(entity, facts) {
            Ok(Some(derived)) if facts.kind == ChangeKind::Add && derived.kind == ChangeKind::Add && !derived.tid => {
                let has_action = given.get("action").is_some();
                let given = if has_action { given } else { given.with("action", r#""inserted""#) };
                Some(given.with("tid", derived.raw_id).to_json().into())
            }
            _ => None,
        };
        let body = added.or_else(|| is_bodiless.then(Bytes::new));
        (body.is_some() || facts.status != StatusCode::OK).then_some(Self { body })
    }

    /// The answer in the widget's form.
    pub(super) fn apply<B: Body>(self, mut parts: Parts, forwarded: Forwarded<B>) -> Response<Forwarded<B>> {
        parts.status = StatusCode::OK;
        let body = self.body.filter(|_| !has_trailers(&forwarded));
        let Some(body) = body else { return Response::from_parts(parts, forwarded) };
        let headers = &mut parts.headers;
        OF_BODY.iter().for_each(|name| drop(headers.remove(*name)));
        if body.is_empty() {
            headers.remove(header::CONTENT_TYPE);
        } else if !headers.contains_key(header::CONTENT_TYPE) || Format::of(headers) != Format::Json {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        if let Some(length) = headers.get_mut(header::CONTENT_LENGTH) {
            *length = body.len().into();
        }
        let frames = if body.is_empty() { [].into() } else { [Frame::data(body)].into() };
        let collected = Collected { frames, rest: None, error: None, is_exact: true, is_slow: false };
        Response::from_parts(parts, Forwarded::Collected(collected))
    }
}

/// Trailers may describe the body that was sent before them.
fn has_trailers<B: Body>(forwarded: &Forwarded<B>) -> bool {
    match forwarded {
        Forwarded::Unread(_) => false,
        Forwarded::Collected(collected) => collected.frames.iter().any(Frame::is_trailers),
    }
}
