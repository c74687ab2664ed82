//! One event: whatever fields a page sent, in their order, each value's JSON text untouched.
//!
//! The demo gives the fields it knows a meaning and keeps the others as they are, so a page may hang anything it
//! likes on an event and get the very same digits, spelling and order back.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, Visitor},
    ser::SerializeMap,
};
use serde_json::{Value, value::RawValue};
use tower_live_updates::{Change, PublishError};

/// More fields than any form has; finding one takes a look at each.
const MOST_FIELDS: usize = 1000;

#[derive(Clone, Debug, Default)]
pub(crate) struct Event {
    fields: Vec<(String, Box<RawValue>)>,
}

impl Event {
    /// Reads a JSON object.
    pub(crate) fn from_json(body: &[u8]) -> Result<Self, serde_json::Error> {
        // A raw value is not looked into. Reading the whole once as a tree refuses what pages could not read either:
        // nesting without end, numbers out of range, half a surrogate pair.
        serde_json::from_slice::<Value>(body)?;
        serde_json::from_slice(body)
    }

    /// Reads a form-encoded body; every value becomes a string.
    pub(crate) fn from_form(body: &[u8]) -> Result<Self, serde_json::Error> {
        let mut event = Self::default();
        for pair in body.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()) {
            let (name, value) = match pair.iter().position(|byte| *byte == b'=') {
                Some(at) => (&pair[..at], &pair[at + 1..]),
                None => (pair, &[][..]),
            };
            event.set(&form_text(name), &form_text(value))?;
            if event.fields.len() > MOST_FIELDS {
                return Err(too_many());
            }
        }
        Ok(event)
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

    pub(crate) fn set(&mut self, name: &str, value: &str) -> Result<(), serde_json::Error> {
        self.put(name.to_owned(), serde_json::value::to_raw_value(value)?);
        Ok(())
    }

    pub(crate) fn remove(&mut self, name: &str) {
        self.fields.retain(|(field, _)| field != name);
    }

    /// Takes over every field of `changes`.
    pub(crate) fn merge(&mut self, changes: Self) {
        for (name, value) in changes.fields {
            self.put(name, value);
        }
    }

    /// The event with the id the store knows it by, in front of its fields.
    pub(crate) fn with_id(mut self, id: i64) -> Result<Self, serde_json::Error> {
        self.remove("id");
        let id = serde_json::value::to_raw_value(&id.to_string())?;
        self.fields.insert(0, ("id".to_owned(), id));
        Ok(self)
    }

    /// Whether this is a recurring series, and not one of its exceptions.
    pub(crate) fn is_series(&self) -> bool {
        self.text("rrule").is_some() && self.series().is_none()
    }

    /// The series that this event is an exception of.
    pub(crate) fn series(&self) -> Option<String> {
        self.text("recurring_event_id")
    }

    /// Whether this stands for an occurrence that was taken out of its series.
    pub(crate) fn is_deleted(&self) -> bool {
        self.get("deleted").is_some_and(|value| matches!(value.get(), "true" | "1" | "\"true\"" | "\"1\""))
    }

    pub(crate) fn mark_deleted(&mut self) -> Result<(), serde_json::Error> {
        self.put("deleted".to_owned(), serde_json::value::to_raw_value(&true)?);
        Ok(())
    }

    /// Returns what keeps pages from showing this event: dates that are missing, a rule that their scheduler cannot read.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.fields.len() > MOST_FIELDS {
            return Err(too_many::<serde_json::Error>().to_string());
        }
        let whole = self.clone().with_id(1).map_err(|error| error.to_string())?;
        let change = Change::add(&whole).map_err(|error| error.to_string())?;
        crate::calendar().check(&change).map_err(|error| match error {
            PublishError::BreaksPages { reason, .. } => reason.into_owned(),
            other => other.to_string(),
        })
    }

    fn put(&mut self, name: String, value: Box<RawValue>) {
        match self.fields.iter_mut().find(|(field, _)| *field == name) {
            Some((_, old)) => *old = value,
            None => self.fields.push((name, value)),
        }
    }
}

fn too_many<E: serde::de::Error>() -> E {
    E::custom(format_args!("an event has {MOST_FIELDS} fields at most"))
}

fn form_text(encoded: &[u8]) -> String {
    let spaced: Vec<u8> = encoded.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
    percent_encoding::percent_decode(&spaced).decode_utf8_lossy().into_owned()
}

impl Serialize for Event {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.fields.len()))?;
        for (name, value) in &self.fields {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Event {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = Event;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an event, which is a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Event, A::Error> {
                let mut event = Event::default();
                while let Some((name, value)) = map.next_entry()? {
                    event.put(name, value);
                    if event.fields.len() > MOST_FIELDS {
                        return Err(too_many());
                    }
                }
                Ok(event)
            }
        }

        deserializer.deserialize_map(Fields)
    }
}
