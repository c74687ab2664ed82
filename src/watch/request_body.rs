//! Reads a write's object from the request's body, and in the body modes its action. All of it is only a claim.
//!
//! Shapes are those of the stock DataProcessor (Scheduler 7.2, Gantt 10): flat JSON, form-encoded, and the JSON and
//! POST modes, in which every write is `POST …?editing=true` and its action stands in the body.

use std::borrow::Cow;

use http::{HeaderMap, header};
use percent_encoding::percent_decode_str;

use crate::{
    change::{ChangeKind, usable_id},
    entity::{Entity, MoveFields},
    object::{Object, quoted, string},
};

/// The format of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Json,
    Form,
    /// Another type.
    Other,
    /// Compressed, or with another content encoding.
    Encoded,
}

impl Format {
    /// By the headers. A body without a type may be JSON.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let identity = headers
            .get_all(header::CONTENT_ENCODING)
            .iter()
            .all(|encoding| encoding.as_bytes().eq_ignore_ascii_case(b"identity"));
        if !identity {
            return Self::Encoded;
        }
        let Some(value) = headers.get(header::CONTENT_TYPE) else { return Self::Json };
        let text = value.to_str().unwrap_or_default();
        let essence = text.split(';').next().unwrap_or_default().trim();
        let is = |name: &str| essence.eq_ignore_ascii_case(name);
        let is_json = || essence.rsplit_once('+').is_some_and(|(_, suffix)| suffix.eq_ignore_ascii_case("json"));
        if is("application/x-www-form-urlencoded") {
            Self::Form
        } else if is("application/json") || is("text/json") || is_json() {
            Self::Json
        } else {
            Self::Other
        }
    }
}

/// Whether the body of a write may name its action, as in the modes JSON and POST.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyAction {
    /// Method and path name the action.
    None,
    /// The query announces it (`?editing=true`) on a route that adds.
    Announced,
    /// The route is for such writes alone.
    Expected,
}

/// A request's body, parsed.
#[derive(Debug, Default)]
pub(crate) struct ParsedRequest<'a> {
    /// The claimed action, in the body modes.
    pub(crate) claim: Option<Claim<'a>>,
    pub(crate) object: Option<Object<'a>>,
    /// The id in `before`, as JSON text: of a move, the sibling that follows.
    pub(crate) before: Option<Cow<'a, str>>,
}

/// The action that a body claims for its write.
#[derive(Debug)]
pub(crate) struct Claim<'a> {
    pub(crate) action: Action,
    /// The claimed id, as JSON text; none for a new object.
    pub(crate) id: Option<Cow<'a, str>>,
}

/// An action in a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Known(ChangeKind),
    Unknown,
    /// Several at once.
    Batch,
}

impl<'a> Claim<'a> {
    fn of(action: &str, fields: &Object<'a>) -> Self {
        let action = claimed_kind(action).map_or(Action::Unknown, Action::Known);
        let id = usable(fields, "id").filter(|_| action != Action::Known(ChangeKind::Add));
        Self { action, id }
    }
}

/// Reads a body, and its action where the entity `has_modes`. In a mode (`is_mode`) it may be several changes. `row` is the stored object in the response: where that
/// has the payload key as a field, the key is no envelope in the request either.
pub(crate) fn read<'a>(
    entity: &Entity,
    body: &'a [u8],
    format: Format,
    (is_mode, has_modes): (bool, bool),
    row: Option<&Object<'_>>,
) -> ParsedRequest<'a> {
    match format {
        Format::Other | Format::Encoded => ParsedRequest::default(),
        Format::Form => read_form(body, is_mode, has_modes),
        Format::Json => {
            let Some(fields) = Object::parse(body) else { return ParsedRequest::default() };
            if let Some(parsed) = has_modes.then(|| read_mode(&fields)).flatten() {
                return parsed;
            }
            let before = usable(&fields, "before");
            let is_envelope = row.is_none_or(|row| row.get_object(&entity.payload_key).is_none());
            let object = match &entity.request_pointer {
                Some(pointer) => Object::at(body, pointer),
                None => {
                    let inner = is_envelope.then(|| fields.get_object(&entity.payload_key)).flatten();
                    Some(inner.unwrap_or(fields))
                }
            };
            ParsedRequest { object: object.map(without_transport), claim: None, before }
        }
    }
}

/// The JSON mode, `{"id":…,"action":"updated","data":{…}}`, or the POST mode's fields as JSON.
fn read_mode<'a>(fields: &Object<'a>) -> Option<ParsedRequest<'a>> {
    let text = |key| fields.get_str(key).filter(|text| !text.is_empty());
    if let Some(action) = text(STATUS) {
        return Some(ParsedRequest {
            claim: Some(Claim::of(&action, fields)),
            object: Some(without_transport(fields.clone())),
            before: None,
        });
    }
    let action = text("action")?;
    let object = match (claimed_kind(&action), fields.get_object("data")) {
        (Some(_), Some(data)) => data,
        (Some(ChangeKind::Delete), None) => Object::default(),
        (None, Some(_)) => fields.clone(),
        // A flat object with a field `action`.
        (_, None) => return None,
    };
    let (claim, object) = (Some(Claim::of(&action, fields)), Some(without_transport(object)));
    Some(ParsedRequest { claim, object, before: None })
}

/// The REST and POST modes: form fields are the object's, as text; `!nativeeditor_status` is the action.
pub(crate) fn read_form(body: &[u8], is_mode: bool, has_modes: bool) -> ParsedRequest<'static> {
    let mut object = Object::default();
    let mut status = None;
    for pair in body.split(|&byte| byte == b'&').filter(|pair| !pair.is_empty()) {
        let Some((key, value)) = form_pair(pair) else { return ParsedRequest::default() };
        match key.as_str() {
            STATUS => status = Some(value),
            _ => object.push(key, quoted(&value)),
        }
    }
    let claim = match status.as_deref().filter(|status| has_modes && !status.is_empty()) {
        _ if is_mode && is_batch(&object) => Some(Claim { action: Action::Batch, id: None }),
        Some(action) => Some(Claim::of(action, &object)),
        None => None,
    };
    ParsedRequest { claim, before: usable(&object, "before"), object: Some(without_transport(object)) }
}

/// Several changes at once: `ids` names them, and each field's name begins with its object's id. With one id and bare
/// fields it is an ordinary form.
fn is_batch(object: &Object<'_>) -> bool {
    object.get_str("ids").is_some_and(|ids| {
        let has_fields =
            |id: &str| object.keys().any(|key| key.strip_prefix(id).is_some_and(|rest| rest.starts_with('_')));
        ids.contains(',') || has_fields(&ids)
    })
}

/// The field that holds the action in the POST mode.
const STATUS: &str = "!nativeeditor_status";

fn form_pair(pair: &[u8]) -> Option<(String, String)> {
    let text = std::str::from_utf8(pair).ok()?.replace('+', " ");
    let (key, value) = text.split_once('=').unwrap_or((&text, ""));
    let decode = |text| percent_decode_str(text).decode_utf8().ok().map(Cow::into_owned);
    Some((decode(key)?, decode(value)?))
}

/// The kind of a change by the DataProcessor's name for it, in requests and responses.
pub(crate) fn kind_of_action(action: &str) -> Option<ChangeKind> {
    match action {
        "inserted" => Some(ChangeKind::Add),
        "updated" => Some(ChangeKind::Update),
        "deleted" => Some(ChangeKind::Delete),
        _ => None,
    }
}

/// The same of a request: a task that was dragged to another place is sent as `order`.
fn claimed_kind(action: &str) -> Option<ChangeKind> {
    kind_of_action(action).or_else(|| (action == "order").then_some(ChangeKind::Update))
}

/// The object in a request that moves it, whose fields have other names there.
pub(crate) fn without_move<'a>(mut object: Object<'a>, fields: MoveFields) -> Object<'a> {
    object.retain(|key| !matches!(key, "before" | "$meta"));
    fields.iter().fold(object, |object, (sent, stored)| match object.raw(sent).cloned() {
        Some(raw) => {
            let mut object = object.with(stored, raw);
            object.retain(|key| key != *sent);
            object
        }
        None => object,
    })
}

fn without_transport(mut object: Object<'_>) -> Object<'_> {
    object.retain(|key| !matches!(key, STATUS | "gr_id"));
    object
}

/// True of an object that is marked as deleted: a store may keep such objects.
pub(crate) fn is_marked_deleted(object: &Object<'_>) -> bool {
    object.get("deleted").is_some_and(|raw| matches!(string(raw).as_deref().unwrap_or(raw), "true" | "1"))
}

/// True of an occurrence that was removed from its series: the store keeps it as an object, and calls the write
/// `deleted`.
pub(crate) fn is_occurrence_marker(object: &Object<'_>) -> bool {
    let is_text_or_number = |raw: &str| match string(raw) {
        Some(text) => !text.is_empty(),
        None => raw.starts_with(|first: char| first == '-' || first.is_ascii_digit()),
    };
    is_marked_deleted(object) && object.get("recurring_event_id").is_some_and(is_text_or_number)
}

/// The value of a key, as JSON text, where it can be an id.
pub(crate) fn usable<'a>(object: &Object<'a>, key: &str) -> Option<Cow<'a, str>> {
    object.raw(key).filter(|raw| usable_id(raw).is_some()).cloned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn formats_are_read_from_the_headers() {
        let format = |name: header::HeaderName, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            Format::of(&headers)
        };
        for (value, expected) in [
            ("application/json", Format::Json),
            ("APPLICATION/JSON; charset=UTF-8", Format::Json),
            ("application/problem+json", Format::Json),
            ("application/x-www-form-urlencoded;charset=utf-8", Format::Form),
            ("text/plain", Format::Other),
            ("text/event-stream", Format::Other),
        ] {
            assert_eq!(format(header::CONTENT_TYPE, value), expected, "{value}");
        }
        assert_eq!(format(header::CONTENT_ENCODING, "gzip"), Format::Encoded);
        assert_eq!(format(header::CONTENT_ENCODING, "identity"), Format::Json);
        assert_eq!(Format::of(&HeaderMap::new()), Format::Json);
    }

    proptest! {
        #[test]
        fn form_fields_come_out_as_they_went_in(fields in proptest::collection::vec(("[a-z]{1,5}", ".{0,20}"), 0..6)) {
            let escape = |text: &str| {
                percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
            };
            let body: Vec<String> =
                fields.iter().map(|(key, value)| format!("x_{}={}", key, escape(value))).collect();
            let parsed = read_form(body.join("&").as_bytes(), false, false);
            let object = parsed.object.unwrap();
            let last: std::collections::HashMap<_, _> = fields.into_iter().collect();
            for (key, value) in last {
                let key = format!("x_{key}");
                let read = object.get_str(&key);
                prop_assert_eq!(read.as_deref(), Some(value.as_str()));
            }
        }
    }
}
