//! A JSON object as an ordered list of fields whose values stay the text they were.
//!
//! Digits, key order and nesting come out as they went in: nothing passes through `f64` or a map.

use std::{borrow::Cow, collections::HashMap, fmt};

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The fields of one JSON object, in order, values verbatim.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Object<'a> {
    fields: Vec<(Cow<'a, str>, Cow<'a, str>)>,
}

impl<'a> Object<'a> {
    /// Reads `json`; `None` when it is anything but one valid JSON object.
    pub(crate) fn parse(json: &'a [u8]) -> Option<Self> {
        // The UTF-8 check comes first: a raw value borrowed from bytes would skip it for unread strings.
        Self::read(std::str::from_utf8(json).ok()?)
    }

    /// Reads the object in `raw`; `None` when it holds something else.
    pub(crate) fn of(raw: &'a str) -> Option<Self> {
        raw.starts_with('{').then(|| Self::read(raw)).flatten()
    }

    /// The object that `pointer` (RFC 6901) leads to in `json`.
    pub(crate) fn at(json: &[u8], pointer: &str) -> Option<Object<'static>> {
        Some(Object::of(&pointed(std::str::from_utf8(json).ok()?, pointer)?)?.into_owned())
    }

    fn read(json: &'a str) -> Option<Self> {
        Self::read_simple(json).or_else(|| serde_json::from_str(json).ok())
    }

    /// Reads the usual objects several times as fast: without white space, with strings without escapes, integers,
    /// `null`, `true` and `false` alone. `None` when there is anything else.
    fn read_simple(json: &'a str) -> Option<Self> {
        let mut rest = json.strip_prefix('{')?;
        let mut object = Object { fields: Vec::with_capacity(USUAL) };
        if rest == "}" {
            return Some(object);
        }
        loop {
            let (key, after) = rest.split_at(plain_string(rest)?);
            let value = after.strip_prefix(':')?;
            let (raw, after) = value.split_at(simple_value(value)?);
            object.push(&key[1..key.len() - 1], raw);
            match after {
                "}" => return Some(object),
                _ => rest = after.strip_prefix(',')?,
            }
        }
    }

    /// The value of `key` as JSON text; the last one where a key is repeated, as JSON readers take it.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.raw(key).map(Cow::as_ref)
    }

    /// The same, borrowed or owned as it was read.
    pub(crate) fn raw(&self, key: &str) -> Option<&Cow<'a, str>> {
        self.fields.iter().rev().find(|(name, _)| name == key).map(|(_, raw)| raw)
    }

    /// The value of `key` where it is a string, decoded.
    pub(crate) fn get_str(&self, key: &str) -> Option<Cow<'_, str>> {
        string(self.get(key)?)
    }

    /// The value of `key` where it is an object.
    pub(crate) fn get_object(&self, key: &str) -> Option<Self> {
        match self.raw(key)? {
            Cow::Borrowed(raw) => Self::of(raw),
            Cow::Owned(raw) => Object::of(raw).map(Object::into_owned),
        }
    }

    /// The keys, repeated ones as often as they occur.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        self.fields.iter().map(|(key, _)| key.as_ref())
    }

    /// Appends a field, which overrides earlier ones of the same key.
    pub(crate) fn push(&mut self, key: impl Into<Cow<'a, str>>, raw: impl Into<Cow<'a, str>>) {
        self.fields.push((key.into(), raw.into()));
    }

    /// Keeps the fields for whose key `keep` returns true.
    pub(crate) fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.fields.retain(|(key, _)| keep(key));
    }

    /// These fields with those of `over` on top: a key known here keeps its place and takes the new value.
    pub(crate) fn overlaid(self, over: Self) -> Self {
        let count = self.fields.len() + over.fields.len();
        let repeats = |at: usize| self.fields[..at].iter().any(|(known, _)| *known == self.fields[at].0);
        let is_in_order = count <= FEW && !(1..self.fields.len()).any(repeats);
        let (mut fields, below) =
            if is_in_order { (self.fields, Vec::new()) } else { (Vec::with_capacity(count), self.fields) };
        let mut places: HashMap<Cow<'a, str>, usize> = HashMap::new();
        for (key, raw) in below.into_iter().chain(over.fields) {
            let place = if count <= FEW {
                fields.iter().position(|(known, _)| *known == key)
            } else {
                let place = *places.entry(key.clone()).or_insert(fields.len());
                (place < fields.len()).then_some(place)
            };
            match place {
                Some(at) => fields[at].1 = raw,
                None => fields.push((key, raw)),
            }
        }
        Object { fields }
    }

    /// These fields with `key` set to `raw`.
    pub(crate) fn with(self, key: &'a str, raw: impl Into<Cow<'a, str>>) -> Self {
        self.overlaid(Object { fields: vec![(Cow::Borrowed(key), raw.into())] })
    }

    /// The object as JSON text.
    pub(crate) fn to_json(&self) -> String {
        // Each field with two quotes, a colon, and a comma or the closing brace.
        let size = 2 + self.fields.iter().map(|(key, raw)| key.len() + raw.len() + 4).sum::<usize>();
        let mut json = String::with_capacity(size - usize::from(!self.fields.is_empty()));
        json.push('{');
        for (index, (key, raw)) in self.fields.iter().enumerate() {
            if index > 0 {
                json.push(',');
            }
            push_quoted(&mut json, key);
            json.push(':');
            json.push_str(raw);
        }
        json.push('}');
        json
    }

    /// The same object, independent of the text it was read from.
    pub(crate) fn into_owned(self) -> Object<'static> {
        let own = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
        Object { fields: self.fields.into_iter().map(|(key, raw)| (own(key), own(raw))).collect() }
    }
}

/// Up to this many fields are searched one by one. More, which any client may send, are searched in a map.
const FEW: usize = 32;

/// Initial capacity in fields.
const USUAL: usize = 8;

/// The length of the JSON string that `json` begins with, where that holds no escapes.
fn plain_string(json: &str) -> Option<usize> {
    let text = json.strip_prefix('"')?;
    let end = text.bytes().position(|byte| !is_plain(byte))?;
    (text.as_bytes()[end] == b'"').then_some(end + 2)
}

/// The length of the string, integer, `null`, `true` or `false` that `json` begins with.
fn simple_value(json: &str) -> Option<usize> {
    match json.as_bytes().first()? {
        b'"' => plain_string(json),
        b'-' | b'0'..=b'9' => {
            let digits = json.strip_prefix('-').unwrap_or(json);
            let count = digits.bytes().take_while(u8::is_ascii_digit).count();
            let is_whole = count > 0 && (count == 1 || !digits.starts_with('0'));
            let is_over = matches!(digits.as_bytes().get(count), Some(b',' | b'}'));
            (is_whole && is_over).then_some(json.len() - digits.len() + count)
        }
        _ => ["null", "true", "false"].into_iter().find(|name| json.starts_with(name)).map(str::len),
    }
}

/// `text` as a JSON string.
pub(crate) fn quoted(text: &str) -> String {
    let mut json = String::with_capacity(text.len() + 2);
    push_quoted(&mut json, text);
    json
}

fn push_quoted(json: &mut String, text: &str) {
    if text.bytes().all(is_plain) {
        json.push('"');
        json.push_str(text);
        json.push('"');
    } else {
        json.push_str(&serde_json::Value::from(text).to_string());
    }
}

/// True of bytes that need no escape in a JSON string.
fn is_plain(byte: u8) -> bool {
    byte >= b' ' && byte != b'"' && byte != b'\\'
}

/// The text of a JSON string; `None` when `raw` is another kind of value.
pub(crate) fn string(raw: &str) -> Option<Cow<'_, str>> {
    match raw.strip_prefix('"')?.strip_suffix('"') {
        Some(text) if text.bytes().all(is_plain) => Some(Cow::Borrowed(text)),
        _ => serde_json::from_str(raw).ok().map(Cow::Owned),
    }
}

/// The JSON text that `pointer` (RFC 6901) leads to.
fn pointed<'a>(json: &'a str, pointer: &str) -> Option<Cow<'a, str>> {
    let mut at = Cow::Borrowed(json);
    for step in pointer.split('/').skip(1) {
        let key = step.replace("~1", "/").replace("~0", "~");
        let next = if at.starts_with('[') {
            let items: Vec<&RawValue> = serde_json::from_str(&at).ok()?;
            items.get(key.parse::<usize>().ok()?)?.get().to_owned()
        } else {
            Object::of(&at)?.get(&key)?.to_owned()
        };
        at = Cow::Owned(next);
    }
    Some(at)
}

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor;
        impl<'de> Visitor<'de> for ObjectVisitor {
            type Value = Object<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
                let mut object = Object::default();
                while let Some((key, raw)) = map.next_entry::<&'de RawValue, &'de RawValue>()? {
                    object.push(string(key.get()).ok_or_else(|| Error::custom("a key is no text"))?, raw.get());
                }
                Ok(object)
            }
        }
        deserializer.deserialize_map(ObjectVisitor)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn values_come_out_as_they_went_in() {
        let json = r#"{"b":1.50,"a":90071992547409931234,"c":{"y":[1, 2],"x":null},"ä\n":"\u00e9"}"#;
        let object = Object::parse(json.as_bytes()).unwrap();
        assert_eq!(object.to_json(), json);
    }

    #[test]
    fn only_whole_objects_are_read() {
        for bad in ["", "null", "[]", "\"x\"", "{", "{\"a\":}", "{\"a\":1} x", "5"] {
            assert_eq!(Object::parse(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(Object::parse(b"{\"a\":\"\xff\"}"), None, "invalid UTF-8");
    }

    #[test]
    fn a_hundred_thousand_levels_do_not_overflow_the_stack() {
        let deep = format!("{{\"d\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        let object = Object::parse(deep.as_bytes()).expect("raw values are read without recursion");
        assert_eq!(object.to_json(), deep);
    }

    #[test]
    fn overlaying_keeps_places_and_takes_the_last_value() {
        let base = Object::parse(br#"{"a":1,"b":2,"a":3}"#).unwrap();
        let over = Object::parse(br#"{"c":4,"b":5}"#).unwrap();
        assert_eq!(base.overlaid(over).to_json(), r#"{"a":3,"b":5,"c":4}"#);
    }

    #[test]
    fn pointers_lead_into_objects_and_arrays() {
        let json = r#"{"data":{"a/b":[{"id":1},{"id":2}]}}"#;
        assert_eq!(pointed(json, "/data/a~1b/1").as_deref(), Some(r#"{"id":2}"#));
        assert_eq!(pointed(json, ""), Some(Cow::Borrowed(json)));
        assert_eq!(pointed(json, "/data/nothing"), None);
    }

    /// Objects, and what is nearly one.
    const SOME_OBJECT: &str = concat!(
        r#"\{("[aä\\"]{0,2}":("[a\\n\x01ä"]{0,2}"|-?[01]{0,2}|1\.5|1e3|null|true|fals|false|\[\]|\{\}),?){0,3}"#,
        r#"\}?[ ,}]?"#
    );

    #[test]
    fn a_simple_object_is_read_by_the_fast_reader() {
        let json = r#"{"id":"1","count":-70,"zero":0,"gone":null,"on":true,"off":false,"größe":"ä€😀","":""}"#;
        let object = Object::read_simple(json).expect("a simple object");
        assert_eq!(object, serde_json::from_str(json).unwrap());
        assert!(Object::read_simple("{}").is_some());
    }

    proptest! {
        #[test]
        fn strings_are_written_and_read_as_serde_does(text in "[ -~\\x00-\\x1f\\x7fäé\u{2028}😀]{0,12}", end in "\"?") {
            let written = quoted(&text);
            prop_assert_eq!(&written, &serde_json::to_string(&text).unwrap());
            prop_assert_eq!(string(&written), Some(Cow::Borrowed(&*text)));
            let raw = format!("\"{text}{end}");
            prop_assert_eq!(string(&raw).map(Cow::into_owned), serde_json::from_str(&raw).ok());
        }

        #[test]
        fn simple_objects_are_read_as_serde_does(json in SOME_OBJECT) {
            prop_assert_eq!(Object::parse(json.as_bytes()), serde_json::from_str(&json).ok(), "{}", json);
        }

        #[test]
        fn few_fields_and_many_are_overlaid_alike(
            below in proptest::collection::vec(("[a-e]", "[0-9]"), 0..8),
            above in proptest::collection::vec(("[a-h]", "[0-9]"), 0..8),
        ) {
            let object = |fields: &[(String, String)]| {
                let mut object = Object::default();
                fields.iter().for_each(|(key, raw)| object.push(key.clone(), raw.clone()));
                object
            };
            // The same at the end of many others.
            let others: Vec<(String, String)> = (0..FEW).map(|other| (format!("other{other}"), "0".to_owned())).collect();
            let few = object(&below).overlaid(object(&above));
            let many = object(&[&others[..], &below].concat()).overlaid(object(&above));
            prop_assert_eq!(few.fields, &many.fields[FEW..]);
        }

        #[test]
        fn the_capacity_is_that_of_the_whole_text(fields in proptest::collection::vec(("[a-z]{0,5}", "[0-9]{1,5}"), 0..5)) {
            let mut object = Object::default();
            fields.iter().for_each(|(key, raw)| object.push(&**key, &**raw));
            let json = object.to_json();
            prop_assert_eq!(json.len(), json.capacity());
        }
    }
}
