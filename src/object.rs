//! A JSON object as an ordered list of fields whose values stay the text they were.
//!
//! Digits, key order and nesting come out as they went in: nothing passes through `f64` or a map.

use std::{borrow::Cow, collections::HashMap, fmt};

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
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
        let text = std::str::from_utf8(json).ok()?;
        serde_json::from_str(text).ok()
    }

    /// Reads the object in `raw`; `None` when it holds something else.
    pub(crate) fn of(raw: &'a str) -> Option<Self> {
        raw.starts_with('{').then(|| serde_json::from_str(raw).ok()).flatten()
    }

    /// The value of `key` as JSON text; the last one where a key is repeated, as JSON readers take it.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.fields.iter().rev().find(|(name, _)| name == key).map(|(_, raw)| raw.as_ref())
    }

    /// The value of `key` where it is a string, decoded.
    pub(crate) fn get_str(&self, key: &str) -> Option<Cow<'_, str>> {
        string(self.get(key)?)
    }

    /// The value of `key` where it is an object.
    pub(crate) fn get_object(&self, key: &str) -> Option<Object<'_>> {
        Object::of(self.get(key)?)
    }

    /// Appends a field; what stands under the same key before it loses.
    pub(crate) fn push(&mut self, key: impl Into<Cow<'a, str>>, raw: impl Into<Cow<'a, str>>) {
        self.fields.push((key.into(), raw.into()));
    }

    /// Leaves out every field that `keep` refuses.
    pub(crate) fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.fields.retain(|(key, _)| keep(key));
    }

    /// The keys, in order, repeated ones as often as they stand there.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        self.fields.iter().map(|(key, _)| key.as_ref())
    }

    /// These fields with those of `over` on top: a key known here keeps its place and takes the new value.
    pub(crate) fn overlaid(self, over: Self) -> Self {
        let mut fields: Vec<(Cow<'a, str>, Cow<'a, str>)> = Vec::with_capacity(self.fields.len());
        let mut place: HashMap<Cow<'a, str>, usize> = HashMap::with_capacity(self.fields.len());
        for (key, raw) in self.fields.into_iter().chain(over.fields) {
            match place.get(&key) {
                Some(&at) => fields[at].1 = raw,
                None => {
                    place.insert(key.clone(), fields.len());
                    fields.push((key, raw));
                }
            }
        }
        Object { fields }
    }

    /// These fields with `key` set to `raw`.
    pub(crate) fn with(self, key: &'a str, raw: impl Into<Cow<'a, str>>) -> Self {
        let mut over = Object::default();
        over.push(key, raw);
        self.overlaid(over)
    }

    /// The object as JSON text.
    pub(crate) fn to_json(&self) -> String {
        let size = self.fields.iter().map(|(k, v)| k.len() + v.len() + 4).sum();
        let mut json = String::with_capacity(usize::max(size, 2));
        json.push('{');
        for (index, (key, raw)) in self.fields.iter().enumerate() {
            if index > 0 {
                json.push(',');
            }
            json.push_str(&quoted(key));
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

/// `text` as a JSON string.
pub(crate) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The text of a JSON string; `None` when `raw` is another kind of value.
pub(crate) fn string(raw: &str) -> Option<Cow<'_, str>> {
    if !raw.starts_with('"') {
        return None;
    }
    serde_json::from_str::<Text<'_>>(raw).ok().map(|text| text.0)
}

/// The JSON text that `pointer` (RFC 6901) leads to.
pub(crate) fn pointed<'a>(json: &'a str, pointer: &str) -> Option<Cow<'a, str>> {
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

/// A string that borrows from the input where it holds no escapes.
struct Text<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(TextVisitor)
    }
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
                while let Some((key, raw)) = map.next_entry::<Text<'de>, &'de RawValue>()? {
                    object.push(key.0, raw.get());
                }
                Ok(object)
            }
        }
        deserializer.deserialize_map(ObjectVisitor)
    }
}

#[cfg(test)]
mod tests {
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
}
