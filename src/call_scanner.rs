//! The ids of the calls in a message that is too large to be kept: a scanner that sees each byte once and keeps the ids
//! alone.

use crate::call_message::{CallId, MAX_ID};

/// More calls in one message stay without a result.
const MAX_IDS: usize = 1000;

/// Reads a message of the shape `{"action":"call","body":[{"id":"2",…},…]}` piece by piece. It does not check the JSON: of
/// other text it makes something or nothing.
#[derive(Debug, Default)]
pub(crate) struct CallScanner {
    depth: usize,
    /// Within a string; true behind a backslash.
    string: Option<bool>,
    /// The string or scalar that is being read, where it may matter. One that is too long is no longer read.
    token: Vec<u8>,
    field: Field,
    /// Behind the colon of a field.
    is_value: bool,
    /// Within the array of calls.
    in_calls: bool,
    is_call: Option<bool>,
    ids: Vec<CallId>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Field {
    Action,
    Body,
    Id,
    #[default]
    Other,
}

/// The depth of the message's fields.
const MESSAGE: usize = 1;
/// The depth of a call's fields.
const CALL: usize = 3;

impl CallScanner {
    /// Whether the message is one of calls; `None` where that is not known yet.
    pub(crate) fn is_call(&self) -> Option<bool> {
        self.is_call
    }

    pub(crate) fn into_ids(self) -> Vec<CallId> {
        self.ids
    }

    pub(crate) fn read(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            match (self.string, byte) {
                (Some(is_escaped), _) => {
                    self.collect(byte);
                    match byte {
                        b'"' if !is_escaped => self.string = None,
                        _ => self.string = Some(byte == b'\\' && !is_escaped),
                    }
                }
                (None, b'"') => {
                    self.string = Some(false);
                    self.collect(byte);
                }
                (None, b'{' | b'[') => {
                    self.in_calls |= self.depth == MESSAGE && self.field == Field::Body && byte == b'[';
                    self.depth = self.depth.saturating_add(1);
                    self.begin_field();
                }
                (None, b'}' | b']') => {
                    self.end_value();
                    self.depth = self.depth.saturating_sub(1);
                    self.in_calls &= self.depth > MESSAGE;
                    self.begin_field();
                }
                (None, b':') => self.end_name(),
                (None, b',') => {
                    self.end_value();
                    self.begin_field();
                }
                (None, b' ' | b'\t' | b'\r' | b'\n') => {}
                (None, _) => self.collect(byte),
            }
        }
    }

    fn collect(&mut self, byte: u8) {
        let matters = self.depth == MESSAGE || (self.depth == CALL && self.in_calls);
        if matters && self.token.len() <= MAX_ID {
            self.token.push(byte);
        }
    }

    fn begin_field(&mut self) {
        self.token.clear();
        (self.field, self.is_value) = (Field::Other, false);
    }

    fn end_name(&mut self) {
        let field = match (self.depth, &self.token[..]) {
            (MESSAGE, b"\"action\"") => Field::Action,
            (MESSAGE, b"\"body\"") => Field::Body,
            (CALL, b"\"id\"") => Field::Id,
            _ => Field::Other,
        };
        self.token.clear();
        (self.field, self.is_value) = (field, true);
    }

    fn end_value(&mut self) {
        match (self.depth, self.field) {
            (MESSAGE, Field::Action) if self.is_value => self.is_call = Some(self.token == b"\"call\""),
            (CALL, Field::Id) if self.is_value && self.in_calls && self.ids.len() < MAX_IDS => {
                self.ids.extend(std::str::from_utf8(&self.token).ok().and_then(CallId::parse));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::{call_message::Call, object::Object};

    fn scanned(text: &[u8], chunks: &[usize]) -> (Option<bool>, Vec<CallId>) {
        let (mut scanner, mut rest) = (CallScanner::default(), text);
        for chunk in chunks.iter().cycle() {
            let (now, later) = rest.split_at((*chunk).min(rest.len()));
            scanner.read(now);
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        (scanner.is_call(), scanner.into_ids())
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".{0,100}".prop_map(Value::from),
            "[\"\\\\{}\\[\\],:]{0,20}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::vec(("id|action|body|args|.{0,8}", inner), 0..5)
                    .prop_map(|fields| fields.into_iter().collect::<serde_json::Map<_, _>>().into()),
            ]
        })
    }

    proptest! {
        #[test]
        fn it_finds_the_ids_that_the_decoder_finds(
            calls in prop::collection::vec((any::<u32>(), ".{0,20}", any_json()), 0..8),
            is_pretty: bool,
            chunks in prop::collection::vec(1..40_usize, 1..20),
        ) {
            let calls: Vec<Value> = calls
                .into_iter()
                .map(|(id, name, args)| json!({"id": id.to_string(), "name": name, "args": args}))
                .collect();
            let message = json!({"action": "call", "body": calls});
            let text = if is_pretty { serde_json::to_string_pretty(&message).unwrap() } else { message.to_string() };
            let decoded = Call::list(Object::parse(text.as_bytes()).unwrap().get("body").unwrap()).unwrap();
            let ids: Vec<CallId> = decoded.into_iter().map(|call| call.id).collect();
            prop_assert_eq!(scanned(text.as_bytes(), &chunks), (Some(true), ids));
        }

        #[test]
        fn other_messages_are_no_calls(message in any_json(), chunks in prop::collection::vec(1..40_usize, 1..20)) {
            let text = json!({"action": "subscribe", "body": message}).to_string();
            prop_assert_eq!(scanned(text.as_bytes(), &chunks).0, Some(false));
        }

        #[test]
        fn junk_is_read_without_panic_and_in_little_memory(junk in "[\\[{\"id:,}\\]\\\\ 1]{0,400}|.{0,200}") {
            let (_, ids) = scanned(junk.as_bytes(), &[7]);
            prop_assert!(ids.len() <= MAX_IDS);
        }
    }

    #[test]
    fn ids_are_bounded_in_number_and_length() {
        let call = r#"{"id":"7"},"#.repeat(2000);
        assert_eq!(scanned(format!(r#"{{"action":"call","body":[{call}"#).as_bytes(), &[50]).1.len(), MAX_IDS);
        let long = format!(r#"{{"action":"call","body":[{{"id":"{}"}}]}}"#, "7".repeat(1000));
        assert_eq!(scanned(long.as_bytes(), &[50]), (Some(true), Vec::new()));
    }
}
