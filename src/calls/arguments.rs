//! The arguments of a call: the JSON array of a page, as the types that a method takes.

use std::fmt;

use serde::{
    Deserializer,
    de::{self, DeserializeOwned, DeserializeSeed, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

/// What is wrong with the arguments of a call, in words for the page.
#[derive(Debug, PartialEq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct ArgumentError(String);

impl de::Error for ArgumentError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

/// Reads the arguments of a call. A tuple takes them one by one, `()` takes none, and any other type takes the only one.
/// Arguments that are left out at the end are `null`.
pub(crate) fn read<A: DeserializeOwned>(json: &str) -> Result<A, ArgumentError> {
    let given: Vec<&RawValue> =
        serde_json::from_str(json).map_err(|_| ArgumentError("the arguments of a call are a JSON array".into()))?;
    A::deserialize(Arguments(&given))
}

/// An error of one argument, without its place in the JSON, which no page has written by hand.
fn of_argument(number: usize, error: &serde_json::Error) -> ArgumentError {
    let text = error.to_string();
    let reason = text.rsplit_once(" at line ").map_or(&*text, |(reason, _)| reason);
    ArgumentError(format!("argument {number}: {reason}"))
}

fn wrong_count(takes: usize, given: usize) -> ArgumentError {
    let noun = if takes == 1 { "argument" } else { "arguments" };
    ArgumentError(format!("the method takes {takes} {noun}, and the call has {given}"))
}

struct Arguments<'a, 'de>(&'a [&'de RawValue]);

impl<'de> Arguments<'_, 'de> {
    /// The only argument.
    fn single(&self) -> Result<&'de str, ArgumentError> {
        match self.0 {
            [] => Ok("null"),
            [only] => Ok(only.get()),
            several => Err(wrong_count(1, several.len())),
        }
    }

    fn error_of_only(&self, error: &serde_json::Error) -> ArgumentError {
        if self.0.is_empty() { wrong_count(1, 0) } else { of_argument(1, error) }
    }
}

/// Passes a call of the deserializer on to that of the only argument.
macro_rules! of_the_only_argument {
    ($($method:ident($($parameter:ident: $type:ty),*))*) => {$(
        fn $method<V: Visitor<'de>>(self, $($parameter: $type,)* visitor: V) -> Result<V::Value, ArgumentError> {
            let mut json = serde_json::Deserializer::from_str(self.single()?);
            json.$method($($parameter,)* visitor).map_err(|error| self.error_of_only(&error))
        }
    )*};
}

impl<'de> Deserializer<'de> for Arguments<'_, 'de> {
    type Error = ArgumentError;

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ArgumentError> {
        if self.0.is_empty() { visitor.visit_unit() } else { Err(wrong_count(0, self.0.len())) }
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, ArgumentError> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, ArgumentError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, takes: usize, visitor: V) -> Result<V::Value, ArgumentError> {
        if self.0.len() > takes {
            return Err(wrong_count(takes, self.0.len()));
        }
        visitor.visit_seq(OneByOne { given: self.0, takes, read: 0 })
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        takes: usize,
        visitor: V,
    ) -> Result<V::Value, ArgumentError> {
        self.deserialize_tuple(takes, visitor)
    }

    of_the_only_argument! {
        deserialize_any()
        deserialize_bool()
        deserialize_i8()
        deserialize_i16()
        deserialize_i32()
        deserialize_i64()
        deserialize_i128()
        deserialize_u8()
        deserialize_u16()
        deserialize_u32()
        deserialize_u64()
        deserialize_u128()
        deserialize_f32()
        deserialize_f64()
        deserialize_char()
        deserialize_str()
        deserialize_string()
        deserialize_bytes()
        deserialize_byte_buf()
        deserialize_option()
        deserialize_seq()
        deserialize_map()
        deserialize_struct(name: &'static str, fields: &'static [&'static str])
        deserialize_enum(name: &'static str, variants: &'static [&'static str])
        deserialize_identifier()
        deserialize_ignored_any()
    }
}

struct OneByOne<'a, 'de> {
    given: &'a [&'de RawValue],
    takes: usize,
    read: usize,
}

impl<'de> SeqAccess<'de> for OneByOne<'_, 'de> {
    type Error = ArgumentError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, ArgumentError> {
        if self.read == self.takes {
            return Ok(None);
        }
        let given = self.given.get(self.read).map(|given| given.get());
        self.read += 1;
        let value = seed.deserialize(&mut serde_json::Deserializer::from_str(given.unwrap_or("null")));
        value.map(Some).map_err(|error| match given {
            Some(_) => of_argument(self.read, &error),
            None => wrong_count(self.takes, self.given.len()),
        })
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.takes - self.read)
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::{Value, json};

    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    struct Span {
        from: u32,
        to: Option<u32>,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    struct Id(u64);

    #[derive(Debug, Deserialize, PartialEq)]
    struct Pair(u64, String);

    fn why<A: DeserializeOwned + fmt::Debug>(json: &str) -> String {
        read::<A>(json).unwrap_err().to_string()
    }

    #[test]
    fn a_tuple_takes_the_arguments_one_by_one() {
        assert_eq!(read(r#"[7,"a"]"#), Ok((7, "a".to_owned())));
        assert_eq!(read(r#"[7,"a"]"#), Ok(Pair(7, "a".to_owned())));
        assert_eq!(read("[[1,2]]"), Ok((vec![1, 2],)));
        assert_eq!(read("[1,2]"), Ok([1, 2]));
        assert_eq!(read("[7]"), Ok((7, None::<u32>)), "left out at the end");
        assert_eq!(read("[7,null]"), Ok((7, None::<u32>)), "undefined");
        assert_eq!(read("[]"), Ok(()));
    }

    #[test]
    fn any_other_type_takes_the_only_argument() {
        assert_eq!(read("[7]"), Ok(7));
        assert_eq!(read("[7]"), Ok(Id(7)));
        assert_eq!(read(r#"["a"]"#), Ok("a".to_owned()));
        assert_eq!(read("[[1,2]]"), Ok(vec![1, 2]));
        assert_eq!(read(r#"[{"from":1,"to":2}]"#), Ok(Span { from: 1, to: Some(2) }));
        assert_eq!(read(r#"[{"a":[1]}]"#), Ok(json!({"a": [1]})));
        assert_eq!((read("[]"), read("[null]"), read("[1]")), (Ok(None::<u32>), Ok(None::<u32>), Ok(Some(1))));
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert_eq!(why::<(u32, String)>("[1,2]"), "argument 2: invalid type: integer `2`, expected a string");
        assert_eq!(why::<(u32, String)>("[1]"), "the method takes 2 arguments, and the call has 1");
        assert_eq!(why::<(u32, u32)>("[1,2,3]"), "the method takes 2 arguments, and the call has 3");
        assert_eq!(why::<()>("[1]"), "the method takes 0 arguments, and the call has 1");
        assert_eq!(why::<u32>("[1,2]"), "the method takes 1 argument, and the call has 2");
        assert_eq!(why::<u32>("[]"), "the method takes 1 argument, and the call has 0");
        assert_eq!(why::<u32>("[-1]"), "argument 1: invalid value: integer `-1`, expected u32");
        assert_eq!(why::<Span>("[{}]"), "argument 1: missing field `from`");
        for json in ["{}", "7", "null", "\"x\""] {
            assert_eq!(why::<Value>(json), "the arguments of a call are a JSON array", "{json}");
        }
        assert!(why::<Value>(&format!("[{}]", "[".repeat(5000) + &"]".repeat(5000))).contains("recursion limit"));
    }
}
