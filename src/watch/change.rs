//! Request and response to what changed. Knows neither HTTP bodies nor sockets.
//!
//! Request shapes are those of the stock DataProcessor (Scheduler 7.2, Gantt 10): flat JSON, form-encoded, and the
//! JSON and POST modes, in which every write is `POST …?editing=true` and its action stands in the body.

use std::borrow::Cow;

use http::{HeaderMap, StatusCode, header};
use percent_encoding::percent_decode_str;

use crate::{
    change::{Change, ChangeKind, usable_id},
    entity::Entity,
    object::{Object, pointed, quoted, string},
};

/// How a body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Json,
    Form,
    /// Another type, or an encoded (compressed) body.
    Other,
}

impl Format {
    /// By the headers; a body without a type is read as JSON, which shows whether it is.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let identity = headers
            .get_all(header::CONTENT_ENCODING)
            .iter()
            .all(|encoding| encoding.as_bytes().eq_ignore_ascii_case(b"identity"));
        if !identity {
            return Self::Other;
        }
        let Some(value) = headers.get(header::CONTENT_TYPE) else {
            return Self::Json;
        };
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

/// A watched request, once it is over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestFacts<'a> {
    /// What the route says the write does.
    pub(crate) kind: ChangeKind,
    /// The id in the path.
    pub(crate) path_id: Option<&'a str>,
    /// True for `?editing=true`.
    pub(crate) editing: bool,
    pub(crate) format: Format,
    /// The whole body, where it was seen to its end.
    pub(crate) body: Option<&'a [u8]>,
}

/// The answer to it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ResponseFacts<'a> {
    pub(crate) status: StatusCode,
    pub(crate) location: Option<&'a str>,
    /// The whole body, where it was collected; empty where there is none.
    pub(crate) body: Option<&'a [u8]>,
}

/// What a successful write comes to.
#[derive(Debug, PartialEq)]
pub(crate) enum Verdict<'a> {
    /// This changed.
    Changed(Draft<'a>),
    /// The answer says that it failed after all: `"action":"error"` or `"invalid"`.
    Failed,
    /// It cannot be told, for the reason given.
    Untold(Untold),
}

/// Why a successful write cannot be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Untold {
    NoId,
    NoObject,
    UnknownAction,
    Batch,
}

impl Untold {
    pub(crate) fn remedy(self) -> &'static str {
        match self {
            Self::NoId => {
                "neither answer nor request holds a usable id; answer JSON with `tid` or `id`, uncompressed and with \
                 content-type application/json, or publish from the handler with LiveWrite"
            }
            Self::NoObject => {
                "neither request nor answer holds a readable object; answer the stored row in `item`, give the entity \
                 a load hook, or publish from the handler with LiveWrite"
            }
            Self::UnknownAction => {
                "the request's action is neither inserted, updated nor deleted; publish from the handler with LiveWrite"
            }
            Self::Batch => {
                "several changes in one request; publish them from the handler with LiveWrite, or switch the page's \
                 DataProcessor to REST-JSON"
            }
        }
    }
}

/// A change as far as request and response tell.
#[derive(Debug, PartialEq)]
pub(crate) struct Draft<'a> {
    pub(crate) kind: ChangeKind,
    /// The id as JSON text.
    pub(crate) raw_id: Cow<'a, str>,
    /// The object with its id; `None` for a delete, or where only a load hook can tell.
    pub(crate) object: Option<Object<'a>>,
    /// True when the answer holds `tid`.
    pub(crate) tid: bool,
}

impl Draft<'_> {
    /// The id as text.
    pub(crate) fn id(&self) -> Option<Cow<'_, str>> {
        usable_id(&self.raw_id)
    }

    /// The change, with what the store holds now instead of what was sent.
    pub(crate) fn loaded(&self, row: Option<&str>) -> Option<Change> {
        let Some(row) = row else {
            return Change::deletion(&self.raw_id);
        };
        let row = Object::of(row)?;
        let row = match row.get("id").and_then(usable_id) {
            Some(_) => row,
            None => row.with("id", &*self.raw_id),
        };
        let kind = match self.kind {
            ChangeKind::Delete => ChangeKind::Update,
            other => other,
        };
        Change::of(kind, &row).map(Change::whole)
    }

    /// The change from request and response alone.
    pub(crate) fn into_change(self) -> Result<Change, Untold> {
        match (self.kind, &self.object) {
            (ChangeKind::Delete, _) => Change::deletion(&self.raw_id).ok_or(Untold::NoId),
            (kind, Some(object)) => Change::of(kind, object).ok_or(Untold::NoId),
            (_, None) => Err(Untold::NoObject),
        }
    }
}

/// True when the query holds `editing=true`, as in the client's JSON and POST modes.
pub(crate) fn is_editing(query: Option<&str>) -> bool {
    query.is_some_and(|query| query.split('&').any(|pair| pair == "editing=true"))
}

/// What this write changed.
pub(crate) fn judge<'a>(entity: &Entity, request: RequestFacts<'a>, response: ResponseFacts<'a>) -> Verdict<'a> {
    let answer = response.body.and_then(Object::parse).unwrap_or_default();
    let action = answer.get_str("action").unwrap_or_default();
    if matches!(action.as_ref(), "error" | "invalid") {
        return Verdict::Failed;
    }
    let said = match said_by_request(entity, request) {
        Ok(said) => said,
        Err(untold) => return Verdict::Untold(untold),
    };
    let stored = stored_object(entity, response.body, &answer);
    let kept = |object: &Option<Object<'_>>| object.as_ref().is_some_and(is_marked_deleted);

    let by_answer = match (request.kind, action.as_ref()) {
        (ChangeKind::Update, _) if response.status == StatusCode::CREATED => ChangeKind::Add,
        (ChangeKind::Update, "inserted") => ChangeKind::Add,
        (ChangeKind::Add, "updated") => ChangeKind::Update,
        (ChangeKind::Update, "deleted") if !kept(&stored) && !kept(&said.object) => ChangeKind::Delete,
        (ChangeKind::Add, "deleted") if request.editing && said.object.is_none() => ChangeKind::Delete,
        // An occurrence posted as deleted is answered "deleted", and yet it is a new object that pages need whole.
        (kind, _) => kind,
    };
    // An action in the request is the client's own word on what it meant.
    let kind = said.kind.unwrap_or(by_answer);
    let row_kept = kept(&stored) || (action == "updated" && stored.is_some());
    let kind = if kind == ChangeKind::Delete && row_kept { ChangeKind::Update } else { kind };

    let row_id = stored.as_ref().and_then(usable_raw_id);
    let request_id = said.object.as_ref().and_then(usable_raw_id);
    let path_id = || request.path_id.map(|id| Cow::Owned(quoted(id)));
    let raw_id = match kind {
        ChangeKind::Add => usable(&answer, "tid")
            // With a pointer to the row, an id beside it may be anything: that of a request, for one.
            .or_else(|| usable(&answer, "id").filter(|_| entity.response_pointer.is_none()))
            .or(row_id)
            .or_else(|| response.location.and_then(last_segment).map(Cow::Owned))
            .or_else(path_id)
            .or(said.id)
            .or(request_id),
        ChangeKind::Update | ChangeKind::Delete => {
            let meant = path_id().or(said.id);
            row_id.or_else(|| same_text(meant.as_deref(), request_id)).or(meant).or_else(|| usable(&answer, "tid"))
        }
    };
    let Some(raw_id) = raw_id.filter(|raw| usable_id(raw).is_some()) else {
        return Verdict::Untold(Untold::NoId);
    };

    let object = match (kind, said.object, stored) {
        (ChangeKind::Delete, _, _) | (_, None, None) => None,
        (_, Some(object), None) | (_, None, Some(object)) => Some(object),
        (_, Some(object), Some(row)) => Some(object.overlaid(row)),
    };
    Verdict::Changed(Draft {
        kind,
        object: object.map(|object| object.with("id", raw_id.clone())),
        tid: usable(&answer, "tid").is_some(),
        raw_id,
    })
}

/// What the request says by itself.
#[derive(Debug, Default)]
struct Said<'a> {
    /// The action in the body, in the modes that have one.
    kind: Option<ChangeKind>,
    /// The id in the envelope, as JSON text.
    id: Option<Cow<'a, str>>,
    object: Option<Object<'a>>,
}

fn said_by_request<'a>(entity: &Entity, request: RequestFacts<'a>) -> Result<Said<'a>, Untold> {
    let Some(body) = request.body else {
        return Ok(Said::default());
    };
    let post_mode = request.editing && request.kind == ChangeKind::Add;
    match request.format {
        Format::Other => Ok(Said::default()),
        Format::Form => said_by_form(body, post_mode),
        Format::Json => {
            let Some(fields) = Object::parse(body) else {
                return Ok(Said::default());
            };
            if let Some(said) = said_by_envelope(&fields, post_mode) {
                return said;
            }
            let object = match &entity.request_pointer {
                Some(pointer) => std::str::from_utf8(body)
                    .ok()
                    .and_then(|json| pointed(json, pointer))
                    .and_then(|raw| Some(Object::of(&raw)?.into_owned())),
                None => Some(fields.get_object(&entity.payload_key).unwrap_or(fields)),
            };
            Ok(Said { object: object.map(without_transport), ..Said::default() })
        }
    }
}

/// The JSON mode: `{"id":…,"action":"updated","data":{…}}`. A flat event is not taken for it: outside `?editing=true`
/// the body must be exactly that, within it `action` and `data` must be there.
fn said_by_envelope<'a>(fields: &Object<'a>, post_mode: bool) -> Option<Result<Said<'a>, Untold>> {
    let action = fields.get_str("action")?;
    let kind = kind_of_action(&action);
    let data = match fields.get_object("data") {
        Some(data) => data,
        None if post_mode && kind.is_some() => Object::default(),
        None => return None,
    };
    let bare = fields.keys().all(|key| matches!(key, "id" | "action" | "data")) && fields.get("id").is_some();
    let is_envelope = post_mode || (bare && kind.is_some());
    if !is_envelope {
        return None;
    }
    Some(match kind {
        None => Err(Untold::UnknownAction),
        Some(kind) => Ok(Said {
            kind: Some(kind),
            id: usable(fields, "id").filter(|_| kind != ChangeKind::Add),
            object: Some(without_transport(data)),
        }),
    })
}

/// The REST and POST modes: form fields are the object's, as text; `!nativeeditor_status` is the action.
fn said_by_form(body: &[u8], post_mode: bool) -> Result<Said<'static>, Untold> {
    let mut object = Object::default();
    let mut status = None;
    for pair in body.split(|&byte| byte == b'&').filter(|pair| !pair.is_empty()) {
        let Some((key, value)) = form_pair(pair) else {
            return Ok(Said::default());
        };
        match key.as_str() {
            "ids" if post_mode => return Err(Untold::Batch),
            "!nativeeditor_status" => status = Some(value),
            _ => object.push(key, quoted(&value)),
        }
    }
    let kind = match status.as_deref().filter(|_| post_mode) {
        None => None,
        Some(action) => Some(kind_of_action(action).ok_or(Untold::UnknownAction)?),
    };
    Ok(Said {
        kind,
        id: usable(&object, "id").filter(|_| kind.is_some_and(|kind| kind != ChangeKind::Add)),
        object: Some(without_transport(object)),
    })
}

fn form_pair(pair: &[u8]) -> Option<(String, String)> {
    let text = std::str::from_utf8(pair).ok()?.replace('+', " ");
    let (key, value) = text.split_once('=').unwrap_or((&text, ""));
    let decode = |text| percent_decode_str(text).decode_utf8().ok().map(Cow::into_owned);
    Some((decode(key)?, decode(value)?))
}

fn kind_of_action(action: &str) -> Option<ChangeKind> {
    match action {
        "inserted" => Some(ChangeKind::Add),
        "updated" => Some(ChangeKind::Update),
        "deleted" => Some(ChangeKind::Delete),
        _ => None,
    }
}

/// The object as it is stored, where the answer holds it.
fn stored_object<'a>(entity: &Entity, body: Option<&'a [u8]>, answer: &Object<'a>) -> Option<Object<'a>> {
    if let Some(pointer) = &entity.response_pointer {
        let json = std::str::from_utf8(body?).ok()?;
        return Object::of(&pointed(json, pointer)?).map(Object::into_owned);
    }
    if let Some(row) = answer.get_object("item").or_else(|| answer.get_object(&entity.payload_key)) {
        return Some(row);
    }
    // Without an id it is some other kind of answer: {"ok":true}.
    usable(answer, "id")?;
    let mut bare = answer.clone();
    bare.retain(|key| !matches!(key, "action" | "tid" | "sid" | "status"));
    Some(bare)
}

fn without_transport(mut object: Object<'_>) -> Object<'_> {
    object.retain(|key| !matches!(key, "!nativeeditor_status" | "gr_id"));
    object
}

fn is_marked_deleted(object: &Object<'_>) -> bool {
    match object.get("deleted") {
        None => false,
        Some(raw) => match string(raw) {
            Some(text) => matches!(text.as_ref(), "true" | "1"),
            None => matches!(raw, "true" | "1"),
        },
    }
}

/// The value of a key, as JSON text, where it can be an id.
fn usable<'a>(object: &Object<'a>, key: &str) -> Option<Cow<'a, str>> {
    object.raw(key).filter(|raw| usable_id(raw).is_some()).cloned()
}

fn usable_raw_id<'a>(object: &Object<'a>) -> Option<Cow<'a, str>> {
    usable(object, "id")
}

/// `other` where it is the same id as `meant`: the path knows no types, the object does.
fn same_text<'a>(meant: Option<&str>, other: Option<Cow<'a, str>>) -> Option<Cow<'a, str>> {
    let other = other?;
    let same = usable_id(meant?)? == usable_id(&other)?;
    same.then_some(other)
}

fn last_segment(location: &str) -> Option<String> {
    let path = location.split(['?', '#']).next()?.trim_end_matches('/');
    let (_, raw) = path.rsplit_once('/')?;
    let text = percent_decode_str(raw).decode_utf8().ok()?;
    (!text.is_empty()).then(|| quoted(&text))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    const OK: StatusCode = StatusCode::OK;

    struct Case {
        kind: ChangeKind,
        path_id: Option<&'static str>,
        editing: bool,
        format: Format,
        request: &'static str,
        status: StatusCode,
        location: Option<&'static str>,
        response: &'static str,
    }

    fn case(kind: ChangeKind, request: &'static str, response: &'static str) -> Case {
        Case {
            kind,
            path_id: (kind != ChangeKind::Add).then_some("7"),
            editing: false,
            format: Format::Json,
            request,
            status: OK,
            location: None,
            response,
        }
    }

    impl Case {
        fn verdict(&self, entity: &Entity) -> Verdict<'static> {
            judge(
                entity,
                RequestFacts {
                    kind: self.kind,
                    path_id: self.path_id,
                    editing: self.editing,
                    format: self.format,
                    body: Some(self.request.as_bytes()),
                },
                ResponseFacts { status: self.status, location: self.location, body: Some(self.response.as_bytes()) },
            )
        }

        fn told(&self) -> (ChangeKind, Value) {
            self.told_by(&Entity::scheduler("/events"))
        }

        fn told_by(&self, entity: &Entity) -> (ChangeKind, Value) {
            match self.verdict(entity) {
                Verdict::Changed(draft) => {
                    let change = draft.into_change().unwrap();
                    (change.kind(), serde_json::from_str(change.object()).unwrap())
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn the_id_of_an_add_comes_from_the_answer_first() {
        for (response, id) in [
            (r#"{"action":"inserted","tid":"17"}"#, json!("17")),
            (r#"{"tid":17}"#, json!(17)),
            (r#"{"id":18}"#, json!(18)),
            (r#"{"action":"inserted","tid":19,"item":{"id":19}}"#, json!(19)),
            (r#"{"item":{"id":"a"}}"#, json!("a")),
            (r#"{"event":{"id":"b"}}"#, json!("b")),
            (r#"{"tid":0,"id":20}"#, json!(20)),
        ] {
            let add = case(ChangeKind::Add, r#"{"text":"x","id":1713000000123}"#, response);
            let (kind, object) = add.told();
            assert_eq!(kind, ChangeKind::Add);
            assert_eq!(object["id"], id, "{response}");
            assert_eq!(object["text"], "x", "{response}");
        }
    }

    #[test]
    fn then_from_location_then_from_the_request() {
        let mut add = case(ChangeKind::Add, r#"{"text":"x","id":"mine"}"#, "");
        assert_eq!(add.told().1["id"], "mine");
        add.location = Some("https://example.com/events/a%2Fb/?x=1");
        assert_eq!(add.told().1["id"], "a/b");
    }

    #[test]
    fn without_a_usable_id_nothing_is_told() {
        for (request, response) in [
            (r#"{"text":"x"}"#, ""),
            (r#"{"text":"x"}"#, r#"{"tid":null}"#),
            (r#"{"text":"x","id":0}"#, r#"{"tid":"","id":0}"#),
            (r#"{"text":"x"}"#, "not json"),
            (r#"{"text":"x"}"#, "[]"),
        ] {
            let verdict = case(ChangeKind::Add, request, response).verdict(&Entity::scheduler("/events"));
            assert_eq!(verdict, Verdict::Untold(Untold::NoId), "{request} {response}");
        }
    }

    #[test]
    fn the_id_of_an_update_is_the_paths_unless_the_row_says_otherwise() {
        for (request, response, id) in [
            (r#"{"text":"x"}"#, "", json!("7")),
            (r#"{"text":"x"}"#, r#"{"action":"updated"}"#, json!("7")),
            (r#"{"text":"x","id":7}"#, "", json!(7)),
            (r#"{"text":"x","id":8}"#, r#"{"action":"updated","tid":9}"#, json!("7")),
            (r#"{"text":"x","id":8}"#, r#"{"item":{"id":8}}"#, json!(8)),
            (r#"{"text":"x"}"#, r#"{"id":7}"#, json!(7)),
        ] {
            let (kind, object) = case(ChangeKind::Update, request, response).told();
            assert_eq!(kind, ChangeKind::Update);
            assert_eq!(object["id"], id, "{request} {response}");
        }
    }

    #[test]
    fn the_stored_object_lies_over_the_sent_one() {
        let update =
            case(ChangeKind::Update, r#"{"text":"a","extra":1}"#, r#"{"action":"updated","item":{"id":7,"text":"b"}}"#);
        assert_eq!(update.told().1, json!({"text": "b", "extra": 1, "id": 7}));
    }

    #[test]
    fn an_answer_without_an_id_is_no_object() {
        let update = case(ChangeKind::Update, r#"{"text":"a"}"#, r#"{"ok":true,"message":"saved"}"#);
        assert_eq!(update.told().1, json!({"text": "a", "id": "7"}));
    }

    #[test]
    fn envelopes_are_opened() {
        let article = case(ChangeKind::Add, r#"{"event":{"text":"a"}}"#, r#"{"id":5}"#);
        assert_eq!(article.told().1, json!({"text": "a", "id": 5}));

        let entity = Entity::scheduler("/events").request_pointer("/payload/0/row").response_pointer("/data/row");
        let pointed = case(ChangeKind::Add, r#"{"payload":[{"row":{"text":"a"}}]}"#, r#"{"data":{"row":{"id":6}}}"#);
        assert_eq!(pointed.told_by(&entity).1, json!({"text": "a", "id": 6}));

        let field = case(ChangeKind::Add, r#"{"event":"party","text":"a"}"#, r#"{"tid":5}"#);
        assert_eq!(field.told().1, json!({"event": "party", "text": "a", "id": 5}), "a field is no envelope");
    }

    #[test]
    fn a_failure_in_the_answer_is_a_failure() {
        for action in ["error", "invalid"] {
            let response = if action == "error" { r#"{"action":"error"}"# } else { r#"{"action":"invalid"}"# };
            let verdict = case(ChangeKind::Add, r#"{"id":1}"#, response).verdict(&Entity::scheduler("/events"));
            assert_eq!(verdict, Verdict::Failed, "{action}");
        }
    }

    #[test]
    fn deletes_tell_the_bare_id_unless_the_row_is_kept() {
        let row = r#"{"action":"deleted","item":{"id":7,"text":"a"}}"#;
        assert_eq!(case(ChangeKind::Delete, "", row).told(), (ChangeKind::Delete, json!({"id": 7})));
        assert_eq!(case(ChangeKind::Delete, "", "").told(), (ChangeKind::Delete, json!({"id": "7"})));
        let marked = r#"{"action":"deleted","item":{"id":7,"text":"a","deleted":true}}"#;
        let (kind, object) = case(ChangeKind::Delete, "", marked).told();
        assert_eq!(kind, ChangeKind::Update);
        assert_eq!(object["text"], "a");
    }

    #[test]
    fn a_deleted_occurrence_is_a_whole_new_object() {
        let occurrence = case(
            ChangeKind::Add,
            r#"{"recurring_event_id":"5","original_start":"2025-04-22 10:00","deleted":true}"#,
            r#"{"action":"deleted","tid":"9"}"#,
        );
        let (kind, object) = occurrence.told();
        assert_eq!(kind, ChangeKind::Add);
        assert_eq!(object["recurring_event_id"], "5");
        assert_eq!(object["deleted"], true);
    }

    #[test]
    fn an_upsert_is_told_as_what_it_did() {
        let mut put = case(ChangeKind::Update, r#"{"text":"a"}"#, "");
        put.status = StatusCode::CREATED;
        assert_eq!(put.told(), (ChangeKind::Add, json!({"text": "a", "id": "7"})));
        let inserted = case(ChangeKind::Update, r#"{"text":"a"}"#, r#"{"action":"inserted","tid":"8"}"#);
        assert_eq!(inserted.told(), (ChangeKind::Add, json!({"text": "a", "id": "8"})));
        let updated = case(ChangeKind::Add, r#"{"text":"a"}"#, r#"{"action":"updated","tid":"8"}"#);
        assert_eq!(updated.told(), (ChangeKind::Update, json!({"text": "a", "id": "8"})));
        let deleted = case(ChangeKind::Update, r#"{"text":"a"}"#, r#"{"action":"deleted"}"#);
        assert_eq!(deleted.told(), (ChangeKind::Delete, json!({"id": "7"})));
    }

    #[test]
    fn the_json_mode_says_what_it_does() {
        let mode = |request, response| Case { editing: true, ..case(ChangeKind::Add, request, response) };
        let inserted = mode(r#"{"id":1795561153299,"action":"inserted","data":{"text":"a"}}"#, r#"{"tid":"500"}"#);
        assert_eq!(inserted.told(), (ChangeKind::Add, json!({"text": "a", "id": "500"})));
        let updated = mode(r#"{"id":500,"action":"updated","data":{"text":"b"}}"#, r#"{"action":"updated"}"#);
        assert_eq!(updated.told(), (ChangeKind::Update, json!({"text": "b", "id": 500})));
        let deleted = mode(r#"{"id":500,"action":"deleted","data":{}}"#, r#"{"action":"deleted"}"#);
        assert_eq!(deleted.told(), (ChangeKind::Delete, json!({"id": 500})));
        let bare = mode(r#"{"id":500,"action":"deleted"}"#, r#"{"action":"deleted"}"#);
        assert_eq!(bare.told(), (ChangeKind::Delete, json!({"id": 500})));
        let other = mode(r#"{"id":500,"action":"moved","data":{}}"#, "").verdict(&Entity::scheduler("/events"));
        assert_eq!(other, Verdict::Untold(Untold::UnknownAction));
        let plain = mode(r#"{"text":"a"}"#, r#"{"tid":5}"#);
        assert_eq!(plain.told(), (ChangeKind::Add, json!({"text": "a", "id": 5})), "editing=true alone says nothing");
    }

    #[test]
    fn an_event_with_an_action_of_its_own_stays_an_event() {
        let own = case(ChangeKind::Add, r#"{"text":"a","action":"deleted","data":{"x":1}}"#, r#"{"tid":5}"#);
        assert_eq!(own.told().0, ChangeKind::Add);
        let mode = case(ChangeKind::Add, r#"{"id":5,"action":"deleted","data":{}}"#, r#"{"action":"deleted"}"#);
        assert_eq!(mode.told(), (ChangeKind::Delete, json!({"id": 5})), "but this is the mode, with its query lost");
    }

    #[test]
    fn the_post_mode_says_what_it_does() {
        let mode = |request, response| Case {
            editing: true,
            format: Format::Form,
            ..case(ChangeKind::Add, request, response)
        };
        let inserted = mode(
            "text=a%26b%3D%C3%A9+%2B&nul=&id=1795561156497&!nativeeditor_status=inserted",
            r#"{"action":"inserted","tid":"500"}"#,
        );
        assert_eq!(inserted.told(), (ChangeKind::Add, json!({"text": "a&b=é +", "nul": "", "id": "500"})));
        let updated = mode("text=upd&id=500&!nativeeditor_status=updated", r#"{"action":"updated"}"#);
        assert_eq!(updated.told(), (ChangeKind::Update, json!({"text": "upd", "id": "500"})));
        let deleted = mode("id=500&!nativeeditor_status=deleted", r#"{"action":"deleted"}"#);
        assert_eq!(deleted.told(), (ChangeKind::Delete, json!({"id": "500"})));
        let batch = mode("1_text=a&1_id=1&2_text=b&2_id=2&ids=1,2", "").verdict(&Entity::scheduler("/events"));
        assert_eq!(batch, Verdict::Untold(Untold::Batch));
    }

    #[test]
    fn the_rest_mode_is_told_by_method() {
        let rest = Case {
            format: Format::Form,
            ..case(ChangeKind::Add, "text=a+b&id=17&!nativeeditor_status=inserted", r#"{"tid":"5"}"#)
        };
        assert_eq!(rest.told(), (ChangeKind::Add, json!({"text": "a b", "id": "5"})));
    }

    #[test]
    fn only_a_load_hook_can_tell_what_nobody_sent() {
        let entity = Entity::scheduler("/events");
        let Verdict::Changed(draft) = case(ChangeKind::Update, "", r#"{"action":"updated"}"#).verdict(&entity) else {
            panic!("the id is known");
        };
        let row = draft.loaded(Some(r#"{"id":7,"text":"row"}"#)).unwrap();
        assert_eq!((row.kind(), row.object()), (ChangeKind::Update, r#"{"id":7,"text":"row"}"#));
        assert_eq!(draft.loaded(Some(r#"{"text":"row"}"#)).unwrap().object(), r#"{"text":"row","id":"7"}"#);
        assert_eq!(draft.loaded(None).unwrap().kind(), ChangeKind::Delete);
        assert_eq!(draft.into_change(), Err(Untold::NoObject));
    }

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
        assert_eq!(format(header::CONTENT_ENCODING, "gzip"), Format::Other);
        assert_eq!(format(header::CONTENT_ENCODING, "identity"), Format::Json);
        assert_eq!(Format::of(&HeaderMap::new()), Format::Json);
    }

    proptest! {
        #[test]
        fn any_bodies_are_judged(
            request in ".{0,80}",
            response in ".{0,80}",
            editing: bool,
            form: bool,
            kind in prop_oneof![Just(ChangeKind::Add), Just(ChangeKind::Update), Just(ChangeKind::Delete)],
        ) {
            let _ = judge(
                &Entity::scheduler("/events"),
                RequestFacts {
                    kind,
                    path_id: Some("1"),
                    editing,
                    format: if form { Format::Form } else { Format::Json },
                    body: Some(request.as_bytes()),
                },
                ResponseFacts { status: OK, location: None, body: Some(response.as_bytes()) },
            );
        }

        #[test]
        fn form_fields_come_out_as_they_went_in(fields in proptest::collection::vec(("[a-z]{1,5}", ".{0,20}"), 0..6)) {
            let escape = |text: &str| {
                percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
            };
            let body: Vec<String> =
                fields.iter().map(|(key, value)| format!("x_{}={}", key, escape(value))).collect();
            let said = said_by_form(body.join("&").as_bytes(), false).unwrap();
            let object = said.object.unwrap();
            let last: std::collections::HashMap<_, _> = fields.into_iter().collect();
            for (key, value) in last {
                let key = format!("x_{key}");
                let read = object.get_str(&key);
                prop_assert_eq!(read.as_deref(), Some(value.as_str()));
            }
        }
    }
}
