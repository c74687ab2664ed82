//! The wire protocol: encodes the server's messages as whole WebSocket frames, and decodes pages' messages with a small
//! strict decoder. No I/O.
//!
//! The message shapes are those of the vendor's article and of the stock `RemoteEvents` client (Scheduler 7.2,
//! Gantt 10): text frames only, one JSON message each.

use std::borrow::Cow;

use bytes::{BufMut, Bytes, BytesMut};

use crate::{
    call_message::Call,
    object::{Object, quoted},
};

const TEXT: u8 = 0x1;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const FIN: u8 = 0x80;

/// WebSocket close codes this crate sends (RFC 6455 7.4.1).
pub(crate) mod close {
    /// The server shuts down; the page returns in two seconds.
    pub(crate) const GOING_AWAY: u16 = 1001;
    /// The peer broke the framing rules.
    pub(crate) const PROTOCOL: u16 = 1002;
    /// A text message was not UTF-8.
    pub(crate) const INVALID_TEXT: u16 = 1007;
    /// Not allowed (any more).
    pub(crate) const POLICY: u16 = 1008;
    /// A message was larger than any that pages send.
    pub(crate) const TOO_LARGE: u16 = 1009;
    /// The page read too slowly; it may come back.
    pub(crate) const TRY_AGAIN: u16 = 1013;
}

/// An event frame, and the object in it.
#[derive(Clone, Debug)]
pub(crate) struct EventFrame {
    /// The whole frame, header included.
    pub(crate) frame: Bytes,
    /// The object, a part of the frame.
    pub(crate) object: Bytes,
}

/// The first message on every socket; the client waits for it before it subscribes.
pub(crate) fn start(connection_id: &str) -> Bytes {
    text([r#"{"action":"start","body":"#, &quoted(connection_id), "}"])
}

/// The bytes before the object, the same in all frames of one entity's changes of one kind.
#[derive(Clone, Debug)]
pub(crate) struct EventHead(Box<str>);

impl EventHead {
    pub(crate) fn new(entity: &str, verb: &str, payload_key: &str) -> Self {
        let (entity, key) = (quoted(entity), quoted(payload_key));
        let kind = quoted(&format!("{verb}-{payload_key}"));
        Self(format!(r#"{{"action":"event","body":{{"name":{entity},"value":{{"type":{kind},{key}:"#).into())
    }

    /// A change, as the stock handlers read it; `object` is JSON text.
    pub(crate) fn event(&self, object: impl AsRef<[u8]>) -> EventFrame {
        let object = object.as_ref();
        let frame = frame(TEXT, &[self.0.as_bytes(), object, EVENT_TAIL.as_bytes()]);
        let end = frame.len() - EVENT_TAIL.len();
        EventFrame { object: frame.slice(end - object.len()..end), frame }
    }

    /// The same of an object that has moved before another one, whose id is JSON text; without one, to the end.
    pub(crate) fn moved(&self, object: &str, before: Option<&str>) -> EventFrame {
        let before = before.map_or_else(String::new, |id| format!(r#","before":{id}"#));
        let frame = frame(TEXT, &[self.0.as_bytes(), object.as_bytes(), before.as_bytes(), EVENT_TAIL.as_bytes()]);
        let end = frame.len() - EVENT_TAIL.len() - before.len();
        EventFrame { object: frame.slice(end - object.len()..end), frame }
    }

    /// The same in three pieces; the second is the object itself.
    pub(crate) fn around(&self, object: &Bytes) -> [Bytes; 3] {
        let mut head = BytesMut::with_capacity(MAX_HEADER + self.0.len());
        put_header(&mut head, TEXT, self.0.len() + object.len() + EVENT_TAIL.len());
        head.put_slice(self.0.as_bytes());
        [head.freeze(), object.clone(), Bytes::from_static(EVENT_TAIL.as_bytes())]
    }
}

/// The bytes after the object in an event frame.
pub(crate) const EVENT_TAIL: &str = "}}}";

/// Several frames in one piece.
pub(crate) fn glued(frames: &[Bytes]) -> Bytes {
    frames.concat().into()
}

/// A message of the application's for an entity's handlers; `value` is JSON text.
pub(crate) fn message(entity: &str, value: &str) -> Bytes {
    text([r#"{"action":"event","body":{"name":"#, &quoted(entity), r#","value":"#, value, "}}"])
}

/// The `result` message that answers calls made over the socket; `results` is a JSON array.
pub(crate) fn result(results: &str) -> Bytes {
    text([r#"{"action":"result","body":"#, results, "}"])
}

/// A ping; its pong returns the payload.
pub(crate) fn ping(payload: &[u8]) -> Bytes {
    frame(PING, &[payload])
}

/// A close frame; `reason` is cut at the 123 bytes a control frame can hold.
pub(crate) fn close(code: u16, reason: &str) -> Bytes {
    let end = (0..=reason.len().min(123)).rfind(|at| reason.is_char_boundary(*at)).unwrap_or_default();
    frame(CLOSE, &[&code.to_be_bytes(), &reason.as_bytes()[..end]])
}

fn text<const N: usize>(parts: [&str; N]) -> Bytes {
    frame(TEXT, &parts.map(str::as_bytes))
}

/// One unmasked, unfragmented frame (RFC 6455 5.2).
fn frame(opcode: u8, parts: &[&[u8]]) -> Bytes {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut frame = BytesMut::with_capacity(length + MAX_HEADER);
    put_header(&mut frame, opcode, length);
    for part in parts {
        frame.put_slice(part);
    }
    frame.freeze()
}

/// Bytes of the longest header.
const MAX_HEADER: usize = 10;

/// The header of an unmasked, unfragmented frame with a payload of so many bytes.
fn put_header(frame: &mut BytesMut, opcode: u8, length: usize) {
    frame.put_u8(FIN | opcode);
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short), _) if short < 126 => frame.put_u8(short),
        (_, Ok(medium)) => {
            frame.put_u8(126);
            frame.put_u16(medium);
        }
        _ => {
            frame.put_u8(127);
            frame.put_u64(length as u64);
        }
    }
}

/// A message of a page's.
#[derive(Debug, PartialEq)]
pub(crate) enum ClientMessage {
    /// Starts the entity's broadcasts.
    Subscribe(String),
    /// Ends them. The stock client's `detach()` sends the entity under `key` instead of `name`.
    Unsubscribe(String),
    /// Remote calls, each of which expects an answer.
    Call(Vec<Call>),
}

impl ClientMessage {
    /// Reads one text message; `None` for any but the three known actions.
    pub(crate) fn decode(text: &str) -> Option<Self> {
        let message = Object::parse(text.as_bytes())?;
        let name = || message.get_str("name").or_else(|| message.get_str("key")).map(Cow::into_owned);
        match message.get_str("action")?.as_ref() {
            "subscribe" => name().map(Self::Subscribe),
            "unsubscribe" => name().map(Self::Unsubscribe),
            "call" => Call::list(message.get("body")?).map(Self::Call),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn body(frame: &Bytes) -> &str {
        let skip = match frame[1] {
            126 => 4,
            127 => 10,
            _ => 2,
        };
        std::str::from_utf8(&frame[skip..]).unwrap()
    }

    #[test]
    fn frames_match_the_vendors_article_to_the_letter() {
        assert_eq!(body(&start("connectionId")), r#"{"action":"start","body":"connectionId"}"#);
        assert_eq!(
            body(&EventHead::new("events", "delete", "event").event(r#"{"id":7}"#).frame),
            r#"{"action":"event","body":{"name":"events","value":{"type":"delete-event","event":{"id":7}}}}"#
        );
        assert_eq!(
            body(&message("calendars", r#"{"type":"custom-action","value":5}"#)),
            r#"{"action":"event","body":{"name":"calendars","value":{"type":"custom-action","value":5}}}"#
        );
    }

    #[test]
    fn the_object_is_a_part_of_its_frame() {
        let event = EventHead::new("tasks", "update", "task").event(r#"{"id":"1","text":"x"}"#);
        assert_eq!(&event.object[..], br#"{"id":"1","text":"x"}"#);
    }

    #[test]
    fn a_move_names_the_sibling_beside_the_object() {
        let head = EventHead::new("cards", "move", "card");
        for (before, beside) in [(Some("5"), r#","before":5"#), (Some(r#""b""#), r#","before":"b""#), (None, "")] {
            let event = head.moved(r#"{"id":7}"#, before);
            let expected = format!(r#"{{"type":"move-card","card":{{"id":7}}{beside}}}"#);
            let whole = format!(r#"{{"action":"event","body":{{"name":"cards","value":{expected}}}}}"#);
            assert_eq!(body(&event.frame), whole);
            assert_eq!(&event.object[..], br#"{"id":7}"#);
        }
    }

    #[test]
    fn pieces_around_an_object_are_the_same_frame() {
        let head = EventHead::new("events", "add", "event");
        for length in [2, 60, 200, 70_000] {
            let object = Bytes::from(vec![b'x'; length]);
            let pieces = head.around(&object);
            assert_eq!(pieces.concat(), head.event(&object).frame, "{length}");
            assert_eq!(pieces[1].as_ptr(), object.as_ptr(), "{length}");
        }
    }

    #[test]
    fn lengths_use_the_shortest_form() {
        for (length, header) in [(0, 2), (125, 2), (126, 4), (65_535, 4), (65_536, 10)] {
            let payload = vec![b'x'; length];
            let frame = frame(TEXT, &[&payload]);
            assert_eq!(frame.len(), length + header);
        }
    }

    #[test]
    fn a_close_reason_is_cut_between_characters() {
        let frame = close(close::POLICY, &"ä".repeat(100));
        assert_eq!(frame.len(), 2 + 2 + 122);
        assert!(std::str::from_utf8(&frame[4..]).is_ok());
    }

    #[test]
    fn messages_of_pages_are_decoded() {
        let decode = |text| ClientMessage::decode(text);
        assert_eq!(
            decode(r#"{"action":"subscribe","name":"events"}"#),
            Some(ClientMessage::Subscribe("events".into()))
        );
        assert_eq!(
            decode(r#"{"action":"unsubscribe","key":"events"}"#),
            Some(ClientMessage::Unsubscribe("events".into()))
        );
        assert_eq!(
            decode(r#"{"action":"call","body":[{"id":"2","name":"a.b","args":[]}]}"#),
            Call::list(r#"[{"id":"2","name":"a.b","args":[]}]"#).map(ClientMessage::Call)
        );
    }

    #[test]
    fn other_messages_are_ignored() {
        for junk in [
            "null",
            "[]",
            "42",
            "\"x\"",
            "{",
            "",
            "{}",
            "\0",
            r#"{"action":null}"#,
            r#"{"action":"subscribe"}"#,
            r#"{"action":"subscribe","name":null}"#,
            r#"{"action":"subscribe","name":7}"#,
            r#"{"action":"subscribe","name":["events"]}"#,
            r#"{"action":"nosuch"}"#,
            r#"{"action":{"a":1}}"#,
            r#"{"action":"unsubscribe"}"#,
            r#"{"action":"call"}"#,
            r#"{"action":"call","body":[{"id":{"a":1}}]}"#,
            r#"{"action":"call","body":[{"name":"a.b"}]}"#,
        ] {
            assert_eq!(ClientMessage::decode(junk), None, "{junk}");
        }
    }

    proptest! {
        #[test]
        fn decoding_never_panics(text in ".{0,200}") {
            let _ = ClientMessage::decode(&text);
        }

        #[test]
        fn decoding_json_never_panics(
            action in "subscribe|unsubscribe|call|x",
            value in r#"null|7|"a"|\[\]|\[\{"id":1\}\]|\{\}|\[\{\}\]"#,
        ) {
            let text = format!(r#"{{"action":"{action}","name":{value},"body":{value}}}"#);
            let _ = ClientMessage::decode(&text);
        }

        #[test]
        fn messages_stay_json(name in ".{0,40}", id in ".{0,40}") {
            let event = EventHead::new(&name, "add", &name).event(format!(r#"{{"id":{}}}"#, quoted(&id)));
            let read: serde_json::Value = serde_json::from_str(body(&event.frame)).unwrap();
            prop_assert_eq!(&read["body"]["name"], &name);
            prop_assert_eq!(&read["body"]["value"][&name]["id"], &id);
        }
    }
}
