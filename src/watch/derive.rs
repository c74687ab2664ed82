//! Derives a change from a request and its response. Knows neither HTTP bodies nor sockets.
//!
//! The server decides: a request's action and ids are a claim, and the response must not contradict it.

use std::borrow::Cow;

use http::StatusCode;
use percent_encoding::percent_decode_str;

use super::request_body::{
    self, Action, BodyAction, Claim, Format, ParsedRequest, is_marked_deleted, is_occurrence_marker, kind_of_action,
    usable,
};
use crate::{
    change::{Change, ChangeKind, Drag, Placement, usable_id},
    entity::{Entity, MoveFields},
    object::{Object, quoted, string},
};

/// A watched request and its response, read to their ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WriteFacts<'a> {
    /// The kind that the route is configured for.
    pub(crate) kind: ChangeKind,
    /// The id in the path.
    pub(crate) path_id: Option<&'a str>,
    pub(crate) body_action: BodyAction,
    /// The route moves its object among its siblings.
    pub(crate) moves: Option<MoveFields>,
    pub(crate) format: Format,
    /// The request's whole body, where its end was seen.
    pub(crate) request: Option<&'a [u8]>,
    pub(crate) status: StatusCode,
    pub(crate) location: Option<&'a str>,
    /// The response's whole body, where it was collected; empty where there is none.
    pub(crate) response: Option<&'a [u8]>,
}

/// Why a successful write is not published, with the remedy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub(crate) enum NotPublished {
    #[error(
        "the answer holds no usable id; answer JSON with `tid` or `id`, uncompressed and with content-type \
         application/json, or publish from the handler with LiveWrite"
    )]
    NoId,
    #[error(
        "neither request nor answer holds a readable object; answer the stored row in `item`, give the entity a load \
         hook, or publish from the handler with LiveWrite"
    )]
    NoObject,
    #[error("the request's action is neither inserted, updated nor deleted; publish from the handler with LiveWrite")]
    UnknownAction,
    #[error(
        "several changes in one request; publish them from the handler with LiveWrite, or switch the page's \
         DataProcessor to REST-JSON"
    )]
    Batch,
    /// The response names an update or a deletion, and the object's id stands in the request's body alone.
    #[error(
        "the answer is updated or deleted, and only the request's body names the object; where the back end reads that \
         (the DataProcessor's modes JSON and POST), give the entity Entity::body_modes()"
    )]
    BodyMode,
    /// The request's body names the action, and nothing shows that the back end has read it.
    #[error(
        "the answer names no action, so the back end may not have read the one in the request's body; answer \
         {{\"action\":\"updated\"}}, \"deleted\" or \"inserted\" with `tid`, or give the entity Entity::body_modes()"
    )]
    Unconfirmed,
    /// A POST to the collection whose response is `deleted`.
    #[error(
        "a POST was answered with `deleted`, and its object is no occurrence of a series; publish from the handler with \
         LiveWrite"
    )]
    PostDeleted,
    /// Request and response name different objects.
    #[error(
        "the answer names another id than the request; answer the stored row in `item`, or publish from the handler \
         with LiveWrite"
    )]
    OtherId,
}

/// A change as far as request and response show it.
#[derive(Debug, PartialEq)]
pub(crate) struct DerivedChange<'a> {
    pub(crate) kind: ChangeKind,
    /// The id as JSON text.
    pub(crate) raw_id: Cow<'a, str>,
    /// The object with its id; `None` for a delete, or where only a load hook can read it.
    pub(crate) object: Option<Object<'a>>,
    /// True when the response holds `tid`.
    pub(crate) tid: bool,
    /// A new object as the page has sent it, and shows it.
    pub(crate) sent: Option<Object<'a>>,
    pub(crate) drag: Drag,
    /// The parent that the page has sent.
    pub(crate) shown_below: Option<Box<str>>,
    /// True when the response is empty, or an object whose action, if any, the stock client knows.
    pub(crate) is_usual: bool,
    /// Of an update that moved its object.
    pub(crate) placement: Option<Placement>,
}

impl DerivedChange<'_> {
    /// The id as text.
    pub(crate) fn id(&self) -> Option<Cow<'_, str>> {
        usable_id(&self.raw_id)
    }

    /// The change, with the stored row instead of what the page sent. A missing row is still a claim: the id may be the
    /// wrong one.
    pub(crate) fn loaded(&self, row: Option<&str>) -> Option<Change> {
        let Some(row) = row else { return Change::deletion(&self.raw_id).map(Change::claimed) };
        let row = Object::of(row)?;
        let row = match row.get("id").and_then(usable_id) {
            Some(_) => row,
            None => row.with("id", &*self.raw_id),
        };
        let kind = match self.kind {
            ChangeKind::Delete => ChangeKind::Update,
            other => other,
        };
        let is_rewritten = self.is_rewritten_as(&row);
        Some(Change {
            is_rewritten,
            drag: self.drag,
            shown_below: self.shown_below.clone(),
            placement: self.placement.clone(),
            ..Change::of(kind, &row)?.whole()
        })
    }

    /// Whether the store holds other values of a new object than its page has sent, and shows.
    fn is_rewritten_as(&self, stored: &Object<'_>) -> bool {
        self.sent.as_ref().is_some_and(|sent| {
            let is_field = |key: &str| key != "id" && !key.starts_with(['!', '$', '_']);
            let is_other = |key: &str| match (sent.get(key), stored.get(key)) {
                (Some(sent), Some(stored)) => shown(sent) != shown(stored),
                _ => false,
            };
            sent.keys().filter(|key| is_field(key)).any(is_other)
        })
    }

    /// The change from request and response alone.
    pub(crate) fn into_change(self) -> Result<Change, NotPublished> {
        let change = match (self.kind, &self.object) {
            (ChangeKind::Delete, _) => Change::deletion(&self.raw_id),
            (kind, Some(object)) => {
                let (is_rewritten, drag) = (self.is_rewritten_as(object), self.drag);
                let placement = self.placement;
                Change::of(kind, object).map(|change| Change { is_rewritten, drag, placement, ..change })
            }
            (_, None) => return Err(NotPublished::NoObject),
        };
        change.map(Change::claimed).ok_or(NotPublished::NoId)
    }
}

/// A value as a page shows it: the text `5` looks like the number, and null like an empty text.
fn shown(raw: &str) -> Cow<'_, str> {
    match string(raw) {
        Some(text) => text,
        None if raw == "null" => Cow::Borrowed(""),
        None => Cow::Borrowed(raw),
    }
}

/// What a successful write changed; `None` where the response body reports that the write failed after all:
/// `"action":"error"` or `"invalid"`.
pub(crate) fn derive_change<'a>(
    entity: &Entity,
    facts: WriteFacts<'a>,
) -> Result<Option<DerivedChange<'a>>, NotPublished> {
    let answer = ParsedResponse::read(entity, &facts);
    if answer.has_failed {
        return Ok(None);
    }
    let is_mode = facts.body_action != BodyAction::None && facts.kind == ChangeKind::Add;
    let is_expected = facts.body_action == BodyAction::Expected;
    let has_modes = is_mode && (entity.has_body_modes || is_expected);
    let ParsedRequest { claim, object, before } = match facts.request {
        Some(body) => request_body::read(entity, body, facts.format, (is_mode, has_modes), answer.row.as_ref()),
        None => ParsedRequest::default(),
    };
    let claim = believed(claim, &answer)?;
    if is_expected && !(entity.has_body_modes || answer.is_confirmed()) {
        return Err(NotPublished::Unconfirmed);
    }
    let claimed = claim.as_ref().map_or(facts.kind, |(kind, _)| *kind);
    let kind = kind_of(claimed, claim.is_some(), &answer, object.as_ref())?;

    let tid = answer.tid.is_some();
    let raw_id = match kind {
        ChangeKind::Add => answer.id_of_new().or_else(|| facts.path_id.map(|id| Cow::Owned(quoted(id)))),
        ChangeKind::Update | ChangeKind::Delete => match claim {
            Some((_, Some(id))) => Some(answer.confirmed(id)?),
            // Without an action, the id in a response may be that of a new object.
            Some((_, None)) if answer.action.is_none() => None,
            Some((_, None)) | None => answer.id_of_known(facts.path_id, object.as_ref()),
        },
    };
    // The back end may read an action and an id in this body, which are not read here.
    let is_unread_mode = is_mode && !has_modes;
    let adds = kind == ChangeKind::Add;
    let raw_id = raw_id.ok_or(if is_unread_mode && !adds { NotPublished::BodyMode } else { NotPublished::NoId })?;

    // A deletion sends no object.
    let is_object = claimed != ChangeKind::Delete && (!is_unread_mode || (adds && answer.row.is_none()));
    let sent = object.filter(|_| is_object).map(|sent| match facts.moves {
        Some(fields) => request_body::without_move(sent, fields),
        None => sent,
    });
    let shown = sent.clone().filter(|_| adds);
    let drag = sent.as_ref().map_or(Drag::Unknown, |sent| entity.widget.drag(sent));
    let shown_below = sent.as_ref().and_then(|sent| entity.shown_below(sent));
    let object = match (kind, sent, answer.row) {
        (ChangeKind::Delete, _, _) | (_, None, None) => None,
        (_, Some(object), None) | (_, None, Some(object)) => Some(object),
        (_, Some(object), Some(row)) => Some(object.overlaid(row)),
    };
    let object = object.map(|object| object.with("id", raw_id.clone()));
    let before = before.map(|raw| raw.as_ref().into());
    let placement = facts.moves.filter(|_| kind == ChangeKind::Update).map(|_| Placement { before });
    Ok(Some(DerivedChange {
        kind,
        object,
        tid,
        is_usual: answer.is_usual,
        raw_id,
        sent: shown,
        drag,
        shown_below,
        placement,
    }))
}

/// Whether an answer says that its write failed, whatever its status.
pub(super) fn has_failed(answer: &[u8]) -> bool {
    let action = Object::parse(answer).and_then(|fields| fields.get_str("action").map(Cow::into_owned));
    action.is_some_and(|action| matches!(&*action, "error" | "invalid"))
}

/// A claim of an update or a deletion, with its id, unless the response contradicts it. The claim of a new object adds
/// nothing to the route.
fn believed<'a>(
    claim: Option<Claim<'a>>,
    answer: &ParsedResponse<'_>,
) -> Result<Option<(ChangeKind, Option<Cow<'a, str>>)>, NotPublished> {
    let is_add = answer.is_add();
    match claim {
        Some(Claim { action: Action::Known(kind @ (ChangeKind::Update | ChangeKind::Delete)), id }) if !is_add => {
            Ok(Some((kind, id)))
        }
        Some(Claim { action: Action::Unknown, .. }) if !is_add && answer.action.is_none() => {
            Err(NotPublished::UnknownAction)
        }
        Some(Claim { action: Action::Batch, .. }) => Err(NotPublished::Batch),
        _ => Ok(None),
    }
}

/// The kind of a change that the route, or a claim, calls an add, an update or a deletion.
fn kind_of(
    claimed: ChangeKind,
    is_claim: bool,
    answer: &ParsedResponse<'_>,
    sent: Option<&Object<'_>>,
) -> Result<ChangeKind, NotPublished> {
    use ChangeKind::{Add, Delete, Update};
    let is_marker = sent.is_some_and(is_occurrence_marker);
    let row_is_marked = answer.row.as_ref().is_some_and(is_marked_deleted);
    Ok(match (claimed, answer.action) {
        (Add, Some(Delete)) if is_marker => Add,
        (Add, Some(Delete)) => return Err(NotPublished::PostDeleted),
        (Update, Some(Delete)) if is_marker || row_is_marked => Update,
        (Delete, None | Some(Delete)) if row_is_marked => Update,
        // A successful DELETE has deleted, unless the response holds a row.
        (Delete, Some(Update)) if !is_claim && answer.row.is_none() => Delete,
        (Update, None | Some(Update)) if answer.status == StatusCode::CREATED => Add,
        (claimed, action) => action.unwrap_or(claimed),
    })
}

/// A response, parsed.
struct ParsedResponse<'a> {
    status: StatusCode,
    is_usual: bool,
    has_failed: bool,
    action: Option<ChangeKind>,
    /// It names an action, though perhaps one that the application has defined.
    has_action: bool,
    tid: Option<Cow<'a, str>>,
    /// Its `id`, where that can be the object's.
    id: Option<Cow<'a, str>>,
    /// The object as it is stored.
    row: Option<Object<'a>>,
    location: Option<&'a str>,
}

impl<'a> ParsedResponse<'a> {
    fn read(entity: &Entity, facts: &WriteFacts<'a>) -> Self {
        let parsed = facts.response.and_then(Object::parse);
        let is_empty = facts.response.is_none_or(<[u8]>::is_empty);
        let is_object = parsed.is_some();
        let fields = parsed.unwrap_or_default();
        let action = fields.get_str("action").unwrap_or_default();
        let is_known = matches!(action.as_ref(), "inserted" | "updated" | "deleted" | "error" | "invalid");
        Self {
            status: facts.status,
            is_usual: is_empty || (is_object && (is_known || fields.get("action").is_none())),
            has_failed: matches!(action.as_ref(), "error" | "invalid"),
            has_action: !action.is_empty(),
            action: match action.as_ref() {
                // Not documented, but understood by the stock client.
                "insert" => Some(ChangeKind::Add),
                "delete" => Some(ChangeKind::Delete),
                documented => kind_of_action(documented),
            },
            tid: usable(&fields, "tid"),
            // With a pointer to the row, an id beside the row may be anything: a request's, for example.
            id: usable(&fields, "id").filter(|_| entity.response_pointer.is_none()),
            row: stored_object(entity, facts.response, &fields),
            location: facts.location,
        }
    }

    /// True where the response reports that an object was added.
    fn is_add(&self) -> bool {
        match self.action {
            Some(action) => action == ChangeKind::Add,
            None => self.tid.is_some() || self.status == StatusCode::CREATED,
        }
    }

    /// True where the response shows that the back end has read the action in the request's body.
    fn is_confirmed(&self) -> bool {
        self.has_action || self.tid.is_some()
    }

    fn row_id(&self) -> Option<Cow<'a, str>> {
        self.row.as_ref().and_then(|row| usable(row, "id"))
    }

    /// The id of what was added.
    fn id_of_new(&self) -> Option<Cow<'a, str>> {
        let named = self.tid.clone().or_else(|| self.id.clone()).or_else(|| self.row_id());
        named.or_else(|| self.location.and_then(last_segment).map(Cow::Owned))
    }

    /// The id of an object that existed before. The row's is best; a `tid` beside a path may be anything.
    fn id_of_known(&self, path_id: Option<&str>, sent: Option<&Object<'a>>) -> Option<Cow<'a, str>> {
        let Some(meant) = path_id else { return self.row_id().or_else(|| self.tid.clone()) };
        let is_meant = |raw: &Cow<'_, str>| usable_id(raw).is_some_and(|id| id == meant);
        // The path knows no types, the object does.
        let sent_id = || sent.and_then(|sent| usable(sent, "id")).filter(is_meant);
        let named = self.row_id().or_else(sent_id).unwrap_or_else(|| Cow::Owned(quoted(meant)));
        Some(named).filter(|raw| usable_id(raw).is_some())
    }

    /// A claimed id, unless the response names another one.
    fn confirmed(&self, claimed: Cow<'a, str>) -> Result<Cow<'a, str>, NotPublished> {
        let is_claimed = |raw: &Cow<'_, str>| usable_id(raw) == usable_id(&claimed);
        let row_id = self.row_id();
        if ![&self.tid, &self.id, &row_id].into_iter().flatten().all(is_claimed) {
            return Err(NotPublished::OtherId);
        }
        Ok(row_id.unwrap_or(claimed))
    }
}

/// The stored object, where the response holds it.
fn stored_object<'a>(entity: &Entity, body: Option<&'a [u8]>, answer: &Object<'a>) -> Option<Object<'a>> {
    if let Some(pointer) = &entity.response_pointer {
        return Object::at(body?, pointer);
    }
    if let Some(row) = answer.get_object("item").or_else(|| answer.get_object(&entity.payload_key)) {
        return Some(row);
    }
    // Without an id it is no row: {"ok":true}.
    usable(answer, "id")?;
    let mut bare = answer.clone();
    bare.retain(|key| !matches!(key, "action" | "tid" | "sid" | "status"));
    Some(bare)
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
        moves: Option<MoveFields>,
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
            moves: None,
            format: Format::Json,
            request,
            status: OK,
            location: None,
            response,
        }
    }

    impl Case {
        fn derive(&self, entity: &Entity) -> Result<Option<DerivedChange<'static>>, NotPublished> {
            derive_change(
                entity,
                WriteFacts {
                    kind: self.kind,
                    path_id: self.path_id,
                    body_action: if self.editing { BodyAction::Announced } else { BodyAction::None },
                    moves: self.moves,
                    format: self.format,
                    request: Some(self.request.as_bytes()),
                    status: self.status,
                    location: self.location,
                    response: Some(self.response.as_bytes()),
                },
            )
        }

        fn published(&self) -> (ChangeKind, Value) {
            self.published_by(&Entity::scheduler("/events"))
        }

        fn published_by(&self, entity: &Entity) -> (ChangeKind, Value) {
            match self.derive(entity) {
                Ok(Some(derived)) => {
                    let change = derived.into_change().unwrap();
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
            let (kind, object) = add.published();
            assert_eq!(kind, ChangeKind::Add);
            assert_eq!(object["id"], id, "{response}");
            assert_eq!(object["text"], "x", "{response}");
        }
    }

    #[test]
    fn the_id_of_an_add_comes_from_location_next_and_never_from_the_request() {
        let mut add = case(ChangeKind::Add, r#"{"text":"x","id":"mine"}"#, "");
        assert_eq!(add.derive(&Entity::scheduler("/events")), Err(NotPublished::NoId));
        add.location = Some("https://example.com/events/a%2Fb/?x=1");
        assert_eq!(add.published().1["id"], "a/b");
    }

    #[test]
    fn without_a_usable_id_nothing_is_published() {
        for (request, response) in [
            (r#"{"text":"x"}"#, ""),
            (r#"{"text":"x"}"#, r#"{"tid":null}"#),
            (r#"{"text":"x","id":0}"#, r#"{"tid":"","id":0}"#),
            (r#"{"text":"x"}"#, "not json"),
            (r#"{"text":"x"}"#, "[]"),
        ] {
            let derived = case(ChangeKind::Add, request, response).derive(&Entity::scheduler("/events"));
            assert_eq!(derived, Err(NotPublished::NoId), "{request} {response}");
        }
    }

    #[test]
    fn the_id_of_an_update_is_the_paths_unless_the_row_has_another() {
        for (request, response, id) in [
            (r#"{"text":"x"}"#, "", json!("7")),
            (r#"{"text":"x"}"#, r#"{"action":"updated"}"#, json!("7")),
            (r#"{"text":"x","id":7}"#, "", json!(7)),
            (r#"{"text":"x","id":8}"#, r#"{"action":"updated","tid":9}"#, json!("7")),
            (r#"{"text":"x","id":8}"#, r#"{"item":{"id":8}}"#, json!(8)),
            (r#"{"text":"x"}"#, r#"{"id":7}"#, json!(7)),
        ] {
            let (kind, object) = case(ChangeKind::Update, request, response).published();
            assert_eq!(kind, ChangeKind::Update);
            assert_eq!(object["id"], id, "{request} {response}");
        }
    }

    #[test]
    fn the_stored_object_overlays_the_sent_one() {
        let update =
            case(ChangeKind::Update, r#"{"text":"a","extra":1}"#, r#"{"action":"updated","item":{"id":7,"text":"b"}}"#);
        assert_eq!(update.published().1, json!({"text": "b", "extra": 1, "id": 7}));
    }

    #[test]
    fn an_answer_without_an_id_is_no_object() {
        let update = case(ChangeKind::Update, r#"{"text":"a"}"#, r#"{"ok":true,"message":"saved"}"#);
        assert_eq!(update.published().1, json!({"text": "a", "id": "7"}));
    }

    #[test]
    fn envelopes_are_opened() {
        let article = case(ChangeKind::Add, r#"{"event":{"text":"a"}}"#, r#"{"id":5}"#);
        assert_eq!(article.published().1, json!({"text": "a", "id": 5}));

        let entity = Entity::scheduler("/events").request_pointer("/payload/0/row").response_pointer("/data/row");
        let pointed = case(ChangeKind::Add, r#"{"payload":[{"row":{"text":"a"}}]}"#, r#"{"data":{"row":{"id":6}}}"#);
        assert_eq!(pointed.published_by(&entity).1, json!({"text": "a", "id": 6}));

        let field = case(ChangeKind::Add, r#"{"event":"party","text":"a"}"#, r#"{"tid":5}"#);
        assert_eq!(field.published().1, json!({"event": "party", "text": "a", "id": 5}), "a field is no envelope");
    }

    #[test]
    fn a_failure_in_the_response_body_is_a_failure() {
        for action in ["error", "invalid"] {
            let response = if action == "error" { r#"{"action":"error"}"# } else { r#"{"action":"invalid"}"# };
            let derived = case(ChangeKind::Add, r#"{"id":1}"#, response).derive(&Entity::scheduler("/events"));
            assert_eq!(derived, Ok(None), "{action}");
        }
    }

    #[test]
    fn a_delete_publishes_the_bare_id_unless_the_row_is_kept() {
        let row = r#"{"action":"deleted","item":{"id":7,"text":"a"}}"#;
        assert_eq!(case(ChangeKind::Delete, "", row).published(), (ChangeKind::Delete, json!({"id": 7})));
        assert_eq!(case(ChangeKind::Delete, "", "").published(), (ChangeKind::Delete, json!({"id": "7"})));
        let marked = r#"{"action":"deleted","item":{"id":7,"text":"a","deleted":true}}"#;
        let (kind, object) = case(ChangeKind::Delete, "", marked).published();
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
        let (kind, object) = occurrence.published();
        assert_eq!(kind, ChangeKind::Add);
        assert_eq!(object["recurring_event_id"], "5");
        assert_eq!(object["deleted"], true);
    }

    #[test]
    fn an_upsert_is_published_as_add_or_update() {
        let mut put = case(ChangeKind::Update, r#"{"text":"a"}"#, "");
        put.status = StatusCode::CREATED;
        assert_eq!(put.published(), (ChangeKind::Add, json!({"text": "a", "id": "7"})));
        let inserted = case(ChangeKind::Update, r#"{"text":"a"}"#, r#"{"action":"inserted","tid":"8"}"#);
        assert_eq!(inserted.published(), (ChangeKind::Add, json!({"text": "a", "id": "8"})));
        let updated = case(ChangeKind::Add, r#"{"text":"a"}"#, r#"{"action":"updated","tid":"8"}"#);
        assert_eq!(updated.published(), (ChangeKind::Update, json!({"text": "a", "id": "8"})));
        let deleted = case(ChangeKind::Update, r#"{"text":"a"}"#, r#"{"action":"deleted"}"#);
        assert_eq!(deleted.published(), (ChangeKind::Delete, json!({"id": "7"})));
    }

    fn modes() -> Entity {
        Entity::scheduler("/events").body_modes()
    }

    fn json_mode(request: &'static str, response: &'static str) -> Case {
        Case { editing: true, ..case(ChangeKind::Add, request, response) }
    }

    #[test]
    fn the_json_mode_names_the_action_in_the_body() {
        for (request, response, kind, object) in [
            (
                r#"{"id":1795561153299,"action":"inserted","data":{"text":"a"}}"#,
                r#"{"tid":"500"}"#,
                ChangeKind::Add,
                json!({"text": "a", "id": "500"}),
            ),
            (
                r#"{"id":500,"action":"updated","data":{"text":"b"}}"#,
                r#"{"action":"updated"}"#,
                ChangeKind::Update,
                json!({"text": "b", "id": 500}),
            ),
            (
                r#"{"id":500,"action":"updated","data":{"text":"b"}}"#,
                r#"{"action":"updated","tid":"500"}"#,
                ChangeKind::Update,
                json!({"text": "b", "id": 500}),
            ),
            (r#"{"id":500,"action":"deleted","data":{}}"#, "", ChangeKind::Delete, json!({"id": 500})),
            (r#"{"id":500,"action":"deleted"}"#, r#"{"action":"deleted"}"#, ChangeKind::Delete, json!({"id": 500})),
            (
                r#"{"id":500,"!nativeeditor_status":"deleted"}"#,
                r#"{"action":"deleted"}"#,
                ChangeKind::Delete,
                json!({"id": 500}),
            ),
            // Without an action it is an add like any other.
            (r#"{"text":"a"}"#, r#"{"tid":5}"#, ChangeKind::Add, json!({"text": "a", "id": 5})),
        ] {
            assert_eq!(json_mode(request, response).published_by(&modes()), (kind, object), "{request} {response}");
        }
        let other = json_mode(r#"{"id":500,"action":"moved","data":{}}"#, "");
        assert_eq!(other.derive(&modes()), Err(NotPublished::UnknownAction));
    }

    #[test]
    fn without_modes_or_their_query_the_action_in_a_body_is_ignored() {
        let request = r#"{"id":1,"action":"deleted","data":{}}"#;
        let stored = (ChangeKind::Add, json!({"id": 3, "action": "deleted", "data": {}}));
        for editing in [false, true] {
            let answered = Case { editing, ..json_mode(request, r#"{"action":"inserted","tid":3}"#) };
            assert_eq!(answered.published(), stored, "modes are off");
            let silent = Case { editing, ..json_mode(request, "{}") };
            assert_eq!(silent.derive(&Entity::scheduler("/events")), Err(NotPublished::NoId));
        }
        let without_query = case(ChangeKind::Add, request, r#"{"action":"inserted","tid":3}"#);
        assert_eq!(without_query.published_by(&modes()), stored, "no query");
        let put = Case { editing: true, ..case(ChangeKind::Update, request, r#"{"action":"updated"}"#) };
        assert_eq!(
            put.published_by(&modes()),
            (ChangeKind::Update, json!({"id": "7", "action": "deleted", "data": {}}))
        );
    }

    #[test]
    fn a_back_end_that_reads_body_modes_needs_the_option() {
        for (action, response) in [("updated", r#"{"action":"updated"}"#), ("deleted", r#"{"action":"deleted"}"#)] {
            let request = if action == "updated" {
                r#"{"id":5,"action":"updated","data":{"text":"a"}}"#
            } else {
                r#"{"id":5,"action":"deleted","data":{}}"#
            };
            let derived = json_mode(request, response).derive(&Entity::scheduler("/events"));
            let expected = if action == "updated" { NotPublished::BodyMode } else { NotPublished::PostDeleted };
            assert_eq!(derived, Err(expected), "{action}");
        }
        let stored = json_mode(
            r#"{"id":5,"action":"updated","data":{"text":"a"}}"#,
            r#"{"action":"updated","item":{"id":5,"text":"b"}}"#,
        );
        assert_eq!(
            stored.published(),
            (ChangeKind::Update, json!({"id": 5, "text": "b"})),
            "the row, and nothing else"
        );
    }

    /// Every claim with every response: what is published matches the response, or nothing is.
    #[test]
    fn no_request_body_overrides_its_response() {
        let claims = [
            "",
            "{}",
            r#"{"id":5,"text":"flat"}"#,
            r#"{"id":5,"action":"inserted","data":{"text":"sent"}}"#,
            r#"{"id":5,"action":"updated","data":{"text":"sent"}}"#,
            r#"{"id":5,"action":"deleted","data":{}}"#,
            r#"{"id":5,"action":"deleted"}"#,
            r#"{"id":5,"action":"moved","data":{}}"#,
            r#"{"id":0,"action":"updated","data":{}}"#,
            r#"{"id":5,"!nativeeditor_status":"updated"}"#,
            r#"{"id":5,"!nativeeditor_status":"deleted","action":"inserted","data":{}}"#,
            r#"{"id":5,"deleted":true}"#,
            r#"{"id":5,"deleted":true,"recurring_event_id":""}"#,
            r#"{"event":{"id":5,"deleted":true}}"#,
            r#"{"id":5,"action":"deleted","data":{"id":5,"deleted":true}}"#,
        ];
        // Each with the changes it may lead to: the kind, and the id where the response names one.
        let answers: [(&str, &[(ChangeKind, Option<&str>)]); 12] = [
            ("", &[(ChangeKind::Update, None), (ChangeKind::Delete, None)]),
            ("{}", &[(ChangeKind::Update, None), (ChangeKind::Delete, None)]),
            (r#"{"tid":3}"#, &[(ChangeKind::Add, Some("3"))]),
            (r#"{"id":3}"#, &[(ChangeKind::Add, Some("3"))]),
            (r#"{"action":"inserted"}"#, &[]),
            (r#"{"action":"inserted","tid":3}"#, &[(ChangeKind::Add, Some("3"))]),
            (r#"{"action":"inserted","tid":5}"#, &[(ChangeKind::Add, Some("5"))]),
            (r#"{"action":"updated"}"#, &[(ChangeKind::Update, None)]),
            (r#"{"action":"updated","tid":3}"#, &[(ChangeKind::Update, Some("3"))]),
            (r#"{"action":"updated","item":{"id":3,"text":"row"}}"#, &[(ChangeKind::Update, Some("3"))]),
            (r#"{"action":"deleted"}"#, &[(ChangeKind::Delete, None)]),
            (r#"{"action":"deleted","tid":3}"#, &[(ChangeKind::Delete, Some("3"))]),
        ];
        for claim in claims {
            for (response, may_be) in answers {
                for (editing, entity) in [true, false]
                    .map(|editing| (editing, [Entity::scheduler("/events"), modes()]))
                    .into_iter()
                    .flat_map(|(editing, entities)| entities.map(|entity| (editing, entity)))
                {
                    let post = Case { editing, ..case(ChangeKind::Add, claim, response) };
                    let Ok(Some(derived)) = post.derive(&entity) else { continue };
                    let id = derived.id().expect("a usable id").into_owned();
                    let is_expected = may_be.iter().any(|(kind, named)| {
                        *kind == derived.kind
                            && named.map_or(editing && entity.has_body_modes && id == "5", |named| named == id)
                    });
                    assert!(is_expected, "{claim} {response} {editing} {}: {derived:?}", entity.has_body_modes);
                }
                // A path with an id, by PUT and DELETE: the object's id is the path's or the response's.
                for kind in [ChangeKind::Update, ChangeKind::Delete] {
                    let Ok(Some(derived)) = case(kind, claim, response).derive(&modes()) else { continue };
                    let id = derived.id().expect("a usable id");
                    assert!(response.contains(&format!(":{id}")) || id == "7", "{claim} {response}: {derived:?}");
                    let is_vague = !response.contains("inserted") && !response.contains("item");
                    let deletes = response.contains("deleted") || (kind == ChangeKind::Delete && is_vague);
                    assert_eq!(derived.kind == ChangeKind::Delete, deletes, "{claim} {response}: {derived:?}");
                }
            }
        }
    }

    #[test]
    fn only_an_occurrence_of_a_series_is_an_object_although_its_write_is_called_deleted() {
        let marker = r#"{"deleted":true,"recurring_event_id":5}"#;
        let deleted = r#"{"action":"deleted","tid":9}"#;
        assert_eq!(case(ChangeKind::Add, marker, deleted).published().0, ChangeKind::Add);
        assert_eq!(case(ChangeKind::Update, marker, r#"{"action":"deleted"}"#).published().0, ChangeKind::Update);
        for request in [r#"{"deleted":true}"#, r#"{"deleted":true,"recurring_event_id":""}"#, "{}"] {
            let post = case(ChangeKind::Add, request, deleted).derive(&modes());
            assert_eq!(post, Err(NotPublished::PostDeleted), "{request}");
            let put = case(ChangeKind::Update, request, r#"{"action":"deleted"}"#).published();
            assert_eq!(put, (ChangeKind::Delete, json!({"id": "7"})), "{request}");
        }
        let claimed = r#"{"id":1,"action":"inserted","data":{"deleted":true,"recurring_event_id":"5"}}"#;
        assert_eq!(json_mode(claimed, deleted).published_by(&modes()).0, ChangeKind::Add);
    }

    #[test]
    fn a_delete_answered_by_updated_keeps_the_row() {
        let kept = case(ChangeKind::Delete, "", r#"{"action":"updated","item":{"id":7,"text":"a"}}"#);
        assert_eq!(kept.published(), (ChangeKind::Update, json!({"id": 7, "text": "a"})));
        let deleted = case(ChangeKind::Delete, "", r#"{"action":"updated"}"#);
        assert_eq!(deleted.published().0, ChangeKind::Delete, "a DELETE that succeeded");
        let claimed = json_mode(r#"{"id":7,"action":"deleted","data":{"text":"x"}}"#, r#"{"action":"updated"}"#);
        let Ok(Some(derived)) = claimed.derive(&modes()) else { panic!("a load hook can read it") };
        assert_eq!(derived.into_change(), Err(NotPublished::NoObject));
    }

    #[test]
    fn a_row_that_has_the_payload_key_for_a_field_was_no_envelope() {
        let request = r#"{"event":{"text":"inner"}}"#;
        let add = case(ChangeKind::Add, request, r#"{"tid":5,"item":{"id":5,"event":{"text":"inner"}}}"#);
        assert_eq!(add.published().1, json!({"event": {"text": "inner"}, "id": 5}));
    }

    #[test]
    fn changes_from_requests_are_claims_and_loaded_rows_are_not() {
        let derived = || match case(ChangeKind::Update, r#"{"text":"a"}"#, "").derive(&modes()) {
            Ok(Some(derived)) => derived,
            other => panic!("{other:?}"),
        };
        assert!(derived().into_change().unwrap().is_claimed);
        assert!(!derived().loaded(Some(r#"{"text":"row"}"#)).unwrap().is_claimed);
        assert!(derived().loaded(None).unwrap().is_claimed);
        let scopes = ["a"].into_iter().collect();
        let scoped = derived().into_change().unwrap().in_scopes(&scopes, &scopes).unique_in(&scopes);
        assert!(scoped.is_claimed && !Change::delete(7).unwrap().is_claimed);
    }

    #[test]
    fn the_post_mode_names_the_action_in_the_body() {
        let mode = |request, response| Case {
            editing: true,
            format: Format::Form,
            ..case(ChangeKind::Add, request, response)
        };
        let inserted = mode(
            "text=a%26b%3D%C3%A9+%2B&nul=&id=1795561156497&!nativeeditor_status=inserted",
            r#"{"action":"inserted","tid":"500"}"#,
        );
        assert_eq!(
            inserted.published_by(&modes()),
            (ChangeKind::Add, json!({"text": "a&b=é +", "nul": "", "id": "500"}))
        );
        let updated = mode("text=upd&id=500&!nativeeditor_status=updated", r#"{"action":"updated"}"#);
        assert_eq!(updated.published_by(&modes()), (ChangeKind::Update, json!({"text": "upd", "id": "500"})));
        let deleted = mode("id=500&!nativeeditor_status=deleted", r#"{"action":"deleted"}"#);
        assert_eq!(deleted.published_by(&modes()), (ChangeKind::Delete, json!({"id": "500"})));
        let named = mode("ids=500&id=500&!nativeeditor_status=deleted", r#"{"action":"deleted"}"#);
        assert_eq!(named.published_by(&modes()), (ChangeKind::Delete, json!({"id": "500"})));
        let one = mode("5_text=a&5_id=5&ids=5&5_!nativeeditor_status=deleted", "").derive(&modes());
        assert_eq!(one, Err(NotPublished::Batch));
        let batch = mode("1_text=a&1_id=1&2_text=b&2_id=2&ids=1,2", "").derive(&modes());
        assert_eq!(batch, Err(NotPublished::Batch));
        let one = mode("ids=1&text=a&!nativeeditor_status=inserted", r#"{"action":"inserted","tid":3}"#);
        assert_eq!(one.published_by(&modes()).1["id"], 3, "the response is enough");
    }

    #[test]
    fn a_move_is_an_update_with_a_place_among_its_siblings() {
        let cards = Entity::kanban_cards("/");
        let fields = Some(&[("columnId", "column"), ("rowId", "row")][..]);
        let card = json!({"column": 2, "row": "a", "id": "7"});
        for (request, before, object) in [
            (r#"{"columnId":2,"rowId":"a","before":5,"$meta":{"x":1}}"#, Some("5"), card.clone()),
            (r#"{"columnId":2,"rowId":"a","before":"b"}"#, Some(r#""b""#), card.clone()),
            (r#"{"card":{"columnId":2,"rowId":"a"},"before":5}"#, Some("5"), card.clone()),
            (r#"{"columnId":2,"rowId":"a","before":0}"#, None, card.clone()),
            (r#"{"columnId":2,"rowId":"a","before":null}"#, None, card.clone()),
            (r#"{"columnId":2,"rowId":"a","before":{"id":5}}"#, None, card.clone()),
            (r#"{"columnId":2,"rowId":"a"}"#, None, card),
            (r#"{"before":5}"#, Some("5"), json!({"id": "7"})),
        ] {
            let moved = Case { moves: fields, ..case(ChangeKind::Update, request, r#"{"id":"7"}"#) };
            let Ok(Some(derived)) = moved.derive(&cards) else { panic!("{request}") };
            let placement = Some(Placement { before: before.map(Box::from) });
            let stored = derived.loaded(Some(r#"{"id":7,"label":"row"}"#)).unwrap();
            assert_eq!((stored.kind(), &stored.placement), (ChangeKind::Update, &placement), "{request}");
            assert_eq!(derived.loaded(None).unwrap().placement, None, "a deletion has no place");
            let change = derived.into_change().unwrap();
            assert_eq!((change.kind(), &change.placement), (ChangeKind::Update, &placement), "{request}");
            assert_eq!(serde_json::from_str::<Value>(change.object()).unwrap(), object, "{request}");
        }
        let Ok(Some(plain)) = case(ChangeKind::Update, r#"{"columnId":2,"before":5}"#, "").derive(&cards) else {
            panic!("an update");
        };
        assert_eq!(plain.placement, None);
        assert_eq!(plain.object.unwrap().to_json(), r#"{"columnId":2,"before":5,"id":"7"}"#);
    }

    #[test]
    fn the_rest_mode_is_read_by_method() {
        let rest = Case {
            format: Format::Form,
            ..case(ChangeKind::Add, "text=a+b&id=17&!nativeeditor_status=inserted", r#"{"tid":"5"}"#)
        };
        assert_eq!(rest.published(), (ChangeKind::Add, json!({"text": "a b", "id": "5"})));
    }

    #[test]
    fn only_a_load_hook_can_supply_an_object_that_was_not_sent() {
        let entity = Entity::scheduler("/events");
        let Ok(Some(derived)) = case(ChangeKind::Update, "", r#"{"action":"updated"}"#).derive(&entity) else {
            panic!("the id is known");
        };
        let row = derived.loaded(Some(r#"{"id":7,"text":"row"}"#)).unwrap();
        assert_eq!((row.kind(), row.object()), (ChangeKind::Update, r#"{"id":7,"text":"row"}"#));
        assert_eq!(derived.loaded(Some(r#"{"text":"row"}"#)).unwrap().object(), r#"{"text":"row","id":"7"}"#);
        assert_eq!(derived.loaded(None).unwrap().kind(), ChangeKind::Delete);
        assert_eq!(derived.into_change(), Err(NotPublished::NoObject));
    }

    proptest! {
        #[test]
        fn any_bodies_are_read_without_panic(
            request in ".{0,80}",
            response in ".{0,80}",
            editing: bool,
            form: bool,
            kind in prop_oneof![Just(ChangeKind::Add), Just(ChangeKind::Update), Just(ChangeKind::Delete)],
        ) {
            let _ = derive_change(
                &Entity::scheduler("/events"),
                WriteFacts {
                    kind,
                    path_id: Some("1"),
                    body_action: if editing { BodyAction::Announced } else { BodyAction::None },
                    moves: form.then_some(&[]),
                    format: if form { Format::Form } else { Format::Json },
                    request: Some(request.as_bytes()),
                    status: OK,
                    location: None,
                    response: Some(response.as_bytes()),
                },
            );
        }
    }
}
