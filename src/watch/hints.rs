//! Why a write cannot be broadcast well, in words for the log: the field or header that was found, and the one that is
//! needed.

use http::{HeaderMap, StatusCode, header, response::Parts};

use super::derive::NotPublished;
use crate::{
    change::{ChangeKind, usable_id},
    entity::Entity,
    object::{Object, string},
};

/// Why a body was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Obstacle {
    TooLarge,
    TooSlow,
    /// Compressed, or with another content encoding.
    Encoded,
    Type,
    /// The inner service has not read the body to its end.
    Unread,
}

/// A watched request and its response, as far as their bodies could be read.
#[derive(Clone, Copy)]
pub(super) struct Transcript<'a> {
    pub(super) parts: &'a Parts,
    /// The request's body, where its end was seen.
    pub(super) request: Option<&'a [u8]>,
    pub(super) request_obstacle: Option<Obstacle>,
    /// The response's body, empty where there is none; or why it was not collected.
    pub(super) answer: Result<&'a [u8], Obstacle>,
    /// `max_body_bytes`.
    pub(super) limit: usize,
}

impl Transcript<'_> {
    /// Details of why a write is not broadcast, to follow the remedy.
    pub(super) fn clues(&self, reason: NotPublished, entity: &Entity) -> String {
        let clues = match reason {
            NotPublished::NoId => [self.answer_clue().or_else(|| self.id_clue(entity)), None],
            NotPublished::NoObject => [self.request_clue().or_else(|| self.object_clue(entity)), self.answer_clue()],
            _ => [None, None],
        };
        let clues: Vec<String> = clues.into_iter().flatten().collect();
        if clues.is_empty() { String::new() } else { format!(" ({})", clues.join("; ")) }
    }

    /// Names the body that was not read of a write that is broadcast without it.
    pub(super) fn half(&self) -> Option<String> {
        let is_worth_a_line = |obstacle: &Obstacle| !matches!(obstacle, Obstacle::Type | Obstacle::Unread);
        let request = self.request_obstacle.filter(is_worth_a_line).and_then(|_| self.request_clue());
        let answer = self.answer.err().filter(is_worth_a_line).and_then(|_| self.answer_clue());
        let request = request.map(|clue| format!("what is broadcast comes from the answer alone: {clue}"));
        request.or_else(|| Some(format!("what is broadcast comes from the request alone: {}", answer?)))
    }

    fn request_clue(&self) -> Option<String> {
        Some(match self.request_obstacle? {
            Obstacle::TooLarge => format!("the request's body is larger than max_body_bytes, {} bytes", self.limit),
            Obstacle::Encoded => {
                "the request's body is compressed; put the layer that decompresses it outside the live layer".to_owned()
            }
            Obstacle::Type => "the request's content-type is neither JSON nor a form".to_owned(),
            Obstacle::Unread | Obstacle::TooSlow => "the handler has not read the request's body to its end".to_owned(),
        })
    }

    fn answer_clue(&self) -> Option<String> {
        Some(match self.answer.err()? {
            Obstacle::TooLarge => format!("the answer is larger than max_body_bytes, {} bytes", self.limit),
            Obstacle::TooSlow | Obstacle::Unread => "the answer did not end within response_timeout".to_owned(),
            Obstacle::Encoded => {
                "the answer is compressed; put the compression layer outside the live layer".to_owned()
            }
            Obstacle::Type => {
                let given = content_type(&self.parts.headers);
                format!("the answer's content-type is {given:?}, not \"application/json\"")
            }
        })
    }

    /// The field of the response that was meant to be the id.
    fn id_clue(&self, entity: &Entity) -> Option<String> {
        let answer = self.answer.ok()?;
        if answer.trim_ascii().is_empty() {
            return Some("the answer is empty".to_owned());
        }
        let Some(fields) = Object::parse(answer) else { return Some("the answer is no JSON object".to_owned()) };
        if let Some(pointer) =
            entity.response_pointer.as_deref().filter(|pointer| Object::at(answer, pointer).is_none())
        {
            return Some(format!("response_pointer {pointer:?} leads to no object in the answer"));
        }
        if let Some((key, raw)) = ["tid", "id"].into_iter().find_map(|key| Some((key, fields.get(key)?))) {
            return Some(format!("its `{key}` is {}, which is no id", sort_of(raw)));
        }
        let holds_id =
            |key: &&str| fields.get_object(key).is_some_and(|inner| ["tid", "id"].iter().any(|id| is_id(&inner, id)));
        if let Some(key) = fields.keys().find(holds_id) {
            return Some(format!("its `{}` holds one: Entity::response_pointer(\"/{}\")", brief(key), brief(key)));
        }
        let key = fields.keys().find(|key| is_like_an_id(key) && is_id(&fields, key))?;
        Some(format!("it has `{}` where `tid` is wanted", brief(key)))
    }

    /// Why the request holds no object.
    fn object_clue(&self, entity: &Entity) -> Option<String> {
        let request = self.request.unwrap_or_default();
        if request.trim_ascii().is_empty() {
            return Some("the request has no body".to_owned());
        }
        if Object::parse(request).is_none() {
            return Some("the request's body is no JSON object".to_owned());
        }
        let pointer = entity.request_pointer.as_deref().filter(|pointer| Object::at(request, pointer).is_none())?;
        Some(format!("request_pointer {pointer:?} leads to no object in the request"))
    }

    /// What the Scheduler takes for a failure, or does not understand, in the body of a response with status 200.
    pub(super) fn oddity(&self, kind: ChangeKind) -> Option<(&'static str, String)> {
        if self.parts.status != StatusCode::OK {
            return None;
        }
        let failure = "the Scheduler reads answers as JSON and takes everything else for a failure";
        match self.answer {
            Err(Obstacle::Type) => {
                let given = content_type(&self.parts.headers);
                Some(("type", format!("{failure}; answer JSON with content-type application/json, not {given:?}")))
            }
            Err(_) => None,
            Ok(answer) => {
                let text = answer.trim_ascii();
                match Object::parse(text) {
                    // After an update, an action of the application's own changes nothing on the page.
                    Some(_) if kind == ChangeKind::Update => None,
                    Some(fields) => odd_action(&fields).map(|line| ("action", line)),
                    None if text.is_empty() || is_other_json(text) => None,
                    None => Some(("json", format!("{failure}; answer {{\"action\":\"updated\"}}, for example"))),
                }
            }
        }
    }

    /// True where the response may hold more than was read of it.
    pub(super) fn is_answer_hidden(&self) -> bool {
        self.answer.is_err()
    }
}

/// An action that the DataProcessor does not know.
fn odd_action(fields: &Object<'_>) -> Option<String> {
    let raw = fields.get("action")?;
    let text = string(raw).unwrap_or_default();
    match text.as_ref() {
        "inserted" | "updated" | "deleted" | "error" | "invalid" => None,
        _ => Some(format!(
            "the answer's `action` is {}, and \"inserted\", \"updated\", \"deleted\", \"error\" and \"invalid\" are understood; \
             answer {{\"action\":\"inserted\",\"tid\":ID}} to a create",
            if text.is_empty() { sort_of(raw).to_owned() } else { format!("{:?}", brief(&text)) }
        )),
    }
}

/// Whether a browser follows this status elsewhere, so that its page takes another response for that of the write.
pub(super) fn is_redirect(status: StatusCode) -> bool {
    matches!(status, StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND | StatusCode::SEE_OTHER)
}

/// True of a response that an idempotency cache repeats.
pub(super) fn is_replayed(headers: &HeaderMap) -> bool {
    // Few headers, whose names are compared sooner than hashed.
    headers.iter().any(|(name, value)| {
        matches!(name.as_str(), "idempotent-replayed" | "idempotency-replayed")
            && !matches!(value.as_bytes().trim_ascii(), b"" | b"false" | b"0")
    })
}

/// The log line for a row that a load hook does not find right behind a write.
pub(super) fn finds_nothing(kind: ChangeKind) -> String {
    let (named, given) = match kind {
        ChangeKind::Add => ("that the answer names", "the new id"),
        ChangeKind::Update | ChangeKind::Delete => ("in the path", "that id"),
    };
    format!(
        "its load hook finds no row of the id {named}, so a deletion is broadcast; the hook is given {given} as text, and \
         must see what has just been committed"
    )
}

fn content_type(headers: &HeaderMap) -> String {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    brief(value.split(';').next().unwrap_or_default().trim())
}

/// JSON that is no object: pages understand an empty list, for example.
fn is_other_json(text: &[u8]) -> bool {
    text != b"null" && serde_json::from_slice::<serde::de::IgnoredAny>(text).is_ok()
}

fn is_id(object: &Object<'_>, key: &str) -> bool {
    object.get(key).is_some_and(|raw| usable_id(raw).is_some())
}

/// True of keys that are ids in other systems.
fn is_like_an_id(key: &str) -> bool {
    let plain: String = key.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    matches!(plain.as_str(), "id" | "tid" | "uuid" | "guid" | "key" | "pk" | "rowid")
        || (plain.len() <= 24 && plain.ends_with("id"))
}

/// The sort of a value that cannot be an id.
fn sort_of(raw: &str) -> &'static str {
    match raw.as_bytes().first() {
        Some(b'"') if raw == "\"\"" => "an empty text",
        Some(b'"') => "a text",
        Some(b'{') => "an object",
        Some(b'[') => "a list",
        Some(b'n') => "null",
        Some(b't' | b'f') => "true or false",
        _ if raw == "0" => "0",
        _ => "a number",
    }
}

/// The application's text, shortened for a log line.
fn brief(text: &str) -> String {
    text.chars().take(32).flat_map(char::escape_default).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with<T>(status: u16, kind: &str, answer: &str, look: impl FnOnce(&Transcript<'_>) -> T) -> T {
        let response = http::Response::builder().status(status).header("content-type", kind).body(()).unwrap();
        look(&Transcript {
            parts: &response.into_parts().0,
            request: None,
            request_obstacle: None,
            answer: if kind.contains("json") { Ok(answer.as_bytes()) } else { Err(Obstacle::Type) },
            limit: 1000,
        })
    }

    #[test]
    fn what_was_meant_for_an_id_is_named() {
        let events = Entity::scheduler("/events");
        for (answer, clue) in [
            ("", "empty"),
            ("[17]", "no JSON object"),
            ("17", "no JSON object"),
            (r#"{"tid":null}"#, "`tid` is null"),
            (r#"{"id":0}"#, "`id` is 0"),
            (r#"{"id":{"$oid":"17"}}"#, "`id` is an object"),
            (r#"{"newId":17}"#, "`newId` where `tid` is wanted"),
            (r#"{"event_id":17}"#, "`event_id`"),
            (r#"{"ID":17}"#, "`ID`"),
            (r#"{"ok":true,"data":{"id":17}}"#, "response_pointer(\"/data\")"),
        ] {
            let clues = with(200, "application/json", answer, |seen| seen.clues(NotPublished::NoId, &events));
            assert!(clues.contains(clue), "{answer}: {clues:?}");
        }
        let nowhere = with(200, "application/json", r#"{"row":{"id":1}}"#, |seen| {
            seen.clues(NotPublished::NoId, &events.clone().response_pointer("/data"))
        });
        assert!(nowhere.contains("\"/data\" leads to no object"), "{nowhere}");
        let typed = with(200, "text/plain; charset=utf-8", "{}", |seen| seen.clues(NotPublished::NoId, &events));
        assert!(typed.contains("\"text/plain\", not \"application/json\""), "{typed}");
    }

    #[test]
    fn bodies_the_scheduler_does_not_understand_are_odd() {
        for (kind, answer, odd) in [
            ("application/json", r#"{"action":"updated"}"#, None),
            ("application/json", r#"{"ok":true}"#, None),
            ("application/json", "[]", None),
            ("application/json", "", None),
            ("application/json", "null", Some("json")),
            ("application/json", "OK", Some("json")),
            ("application/json", r#"{"action":"insert","tid":1}"#, Some("action")),
            ("application/json", r#"{"action":"success"}"#, Some("action")),
            ("application/json", r#"{"action":5}"#, Some("action")),
            ("text/html", "<p>", Some("type")),
        ] {
            assert_eq!(
                with(200, kind, answer, |seen| seen.oddity(ChangeKind::Add).map(|(what, _)| what)),
                odd,
                "{answer}"
            );
        }
        assert!(with(201, "text/html", "", |seen| seen.oddity(ChangeKind::Add).is_none()), "the status is named first");
        let custom = r#"{"action":"approved"}"#;
        assert!(with(200, "application/json", custom, |seen| seen.oddity(ChangeKind::Update).is_none()));
    }

    #[test]
    fn a_repeated_response_is_recognised_by_its_headers() {
        for (name, value, expected) in [
            ("idempotent-replayed", "true", true),
            ("Idempotency-Replayed", "1", true),
            ("idempotent-replayed", "false", false),
            ("idempotency-replayed", "", false),
            ("idempotency-key", "x", false),
        ] {
            let response = http::Response::builder().header(name, value).body(()).unwrap();
            assert_eq!(is_replayed(response.headers()), expected, "{name}: {value}");
        }
    }
}
