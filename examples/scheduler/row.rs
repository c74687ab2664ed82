//! One object: whatever fields a page sent, in their order, each value's JSON text untouched.
//!
//! The demo gives the fields it knows a meaning and keeps the others as they are, so a page may hang anything it
//! likes on an event, a task or a link and get the very same digits, spelling and order back.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, Visitor},
    ser::SerializeMap,
};
use serde_json::{Value, value::RawValue};

/// More fields than any form has; finding one takes a look at each.
const MOST_FIELDS: usize = 1000;

#[derive(Clone, Debug, Default)]
pub(crate) struct Row {
    fields: Vec<(String, Box<RawValue>)>,
}

impl Row {
    /// Reads a JSON object.
    pub(crate) fn from_json(body: &[u8]) -> Result<Self, serde_json::Error> {
        // A raw value is not looked into. Reading the whole once as a tree refuses what pages could not read either:
        // nesting without end, numbers out of range, half a surrogate pair.
        serde_json::from_slice::<Value>(body)?;
        serde_json::from_slice(body)
    }

    /// Reads a form-encoded body; every value becomes a string.
    pub(crate) fn from_form(body: &[u8]) -> Result<Self, serde_json::Error> {
        let mut row = Self::default();
        for pair in body.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()) {
            let (name, value) = match pair.iter().position(|byte| *byte == b'=') {
                Some(at) => (&pair[..at], &pair[at + 1..]),
                None => (pair, &[][..]),
            };
            row.set(&form_text(name), &form_text(value))?;
            if row.fields.len() > MOST_FIELDS {
                return Err(too_many());
            }
        }
        Ok(row)
    }

    /// The JSON text of a field.
    pub(crate) fn get(&self, name: &str) -> Option<&RawValue> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| &**value)
    }

    /// A field as text, unless it is missing, empty, or neither text nor a number.
    pub(crate) fn text(&self, name: &str) -> Option<String> {
        match serde_json::from_str(self.get(name)?.get()).ok()? {
            Value::String(text) if !text.is_empty() => Some(text),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        }
    }

    /// Whether a field is missing, null, or empty text.
    pub(crate) fn is_empty(&self, name: &str) -> bool {
        self.get(name).is_none_or(|value| matches!(value.get(), "null" | "\"\""))
    }

    pub(crate) fn set(&mut self, name: &str, value: &(impl Serialize + ?Sized)) -> Result<(), serde_json::Error> {
        self.put(name.to_owned(), serde_json::value::to_raw_value(value)?);
        Ok(())
    }

    pub(crate) fn remove(&mut self, name: &str) {
        self.fields.retain(|(field, _)| field != name);
    }

    /// Keeps the fields whose name passes the test.
    pub(crate) fn keep(&mut self, test: impl Fn(&str) -> bool) {
        self.fields.retain(|(field, _)| test(field));
    }

    /// Takes over every field of `changes`.
    pub(crate) fn merge(&mut self, changes: Self) {
        for (name, value) in changes.fields {
            self.put(name, value);
        }
    }

    /// The row with the id the store knows it by, in front of its fields.
    pub(crate) fn with_id(mut self, id: i64) -> Result<Self, serde_json::Error> {
        self.remove("id");
        let id = serde_json::value::to_raw_value(&id.to_string())?;
        self.fields.insert(0, ("id".to_owned(), id));
        Ok(self)
    }

    /// Refuses more fields than a row may have.
    pub(crate) fn check_size(&self) -> Result<(), String> {
        if self.fields.len() > MOST_FIELDS {
            return Err(too_many::<serde_json::Error>().to_string());
        }
        Ok(())
    }

    fn put(&mut self, name: String, value: Box<RawValue>) {
        match self.fields.iter_mut().find(|(field, _)| *field == name) {
            Some((_, old)) => *old = value,
            None => self.fields.push((name, value)),
        }
    }
}

fn too_many<E: serde::de::Error>() -> E {
    E::custom(format_args!("an object has {MOST_FIELDS} fields at most"))
}

fn form_text(encoded: &[u8]) -> String {
    let spaced: Vec<u8> = encoded.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
    percent_encoding::percent_decode(&spaced).decode_utf8_lossy().into_owned()
}

impl Serialize for Row {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.fields.len()))?;
        for (name, value) in &self.fields {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Row {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = Row;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Row, A::Error> {
                let mut row = Row::default();
                while let Some((name, value)) = map.next_entry()? {
                    row.put(name, value);
                    if row.fields.len() > MOST_FIELDS {
                        return Err(too_many());
                    }
                }
                Ok(row)
            }
        }

        deserializer.deserialize_map(Fields)
    }
}
