//! Remote calls as pages write them, and their results.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::object::{quoted, string};

/// A call's id, as JSON text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CallId(Box<str>);

/// Bytes of the longest id; it comes back in the result.
pub(crate) const MAX_ID: usize = 64;

impl CallId {
    /// An id must be a string or a number.
    pub(crate) fn parse(json: &str) -> Option<Self> {
        let is_scalar = string(json).is_some() || json.parse::<serde_json::Number>().is_ok();
        (json.len() <= MAX_ID && is_scalar).then(|| Self(json.into()))
    }

    /// The id that the stock client gives its `number`th call or handler.
    pub(crate) fn numbered(number: u64) -> Self {
        Self(format!("\"{number}\"").into())
    }

    /// The number of an id of the stock client.
    pub(crate) fn number(&self) -> Option<u64> {
        let digits = self.0.strip_prefix('"')?.strip_suffix('"')?;
        digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
    }
}

/// One remote call of a page.
#[derive(Debug, PartialEq)]
pub(crate) struct Call {
    pub(crate) id: CallId,
    /// Empty where the page has named none.
    pub(crate) name: Box<str>,
    /// JSON text, an array as the stock client writes it.
    pub(crate) arguments: Box<str>,
}

#[derive(Deserialize)]
struct RawCall<'c> {
    #[serde(borrow)]
    id: &'c RawValue,
    #[serde(borrow)]
    name: Option<&'c RawValue>,
    #[serde(borrow)]
    args: Option<&'c RawValue>,
}

impl Call {
    /// The calls in a JSON array; `None` when it is no array of objects with an id each.
    pub(crate) fn list(json: &str) -> Option<Vec<Self>> {
        let calls: Vec<RawCall<'_>> = serde_json::from_str(json).ok()?;
        calls.iter().map(Self::of).collect()
    }

    fn of(raw: &RawCall<'_>) -> Option<Self> {
        let name = raw.name.and_then(|name| string(name.get()));
        Some(Self {
            id: CallId::parse(raw.id.get())?,
            name: name.map(Cow::into_owned).unwrap_or_default().into(),
            arguments: raw.args.map_or("[]", RawValue::get).into(),
        })
    }
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Outcome {
    /// What the method has returned, as JSON text.
    Returned(String),
    /// Why there is nothing, in words for the page.
    Failed(Cow<'static, str>),
}

impl Outcome {
    /// The result of a call, as the client reads it in a `result` message and over HTTP. The client takes an empty error
    /// for none.
    pub(crate) fn result(&self, id: &CallId) -> String {
        match self {
            Self::Returned(data) => format!(r#"{{"id":{},"data":{data}}}"#, id.0),
            Self::Failed(error) => format!(r#"{{"id":{},"error":{}}}"#, id.0, quoted(error)),
        }
    }
}

/// The results of calls that all have the same outcome, as a JSON array.
pub(crate) fn results<'i>(ids: impl IntoIterator<Item = &'i CallId>, outcome: &Outcome) -> String {
    array(ids.into_iter().map(|id| outcome.result(id)))
}

/// JSON texts as a JSON array.
pub(crate) fn array(items: impl IntoIterator<Item = String>) -> String {
    let items: Vec<String> = items.into_iter().collect();
    format!("[{}]", items.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_read_as_the_client_writes_them() {
        let calls = Call::list(r#"[{"id":"2","name":"svc.Add","args":[2,{"a":[]}]},{"id":7}]"#).unwrap();
        let call = |id: &str, name: &str, arguments: &str| Call {
            id: CallId(id.into()),
            name: name.into(),
            arguments: arguments.into(),
        };
        assert_eq!(calls, [call("\"2\"", "svc.Add", r#"[2,{"a":[]}]"#), call("7", "", "[]")]);
        for junk in ["{}", "7", "[7]", "[[]]", "[{}]", r#"[{"id":null}]"#, r#"[{"id":[1]}]"#, r#"[{"id":true}]"#] {
            assert_eq!(Call::list(junk), None, "{junk}");
        }
        let long = |length: usize| CallId::parse(&format!("\"{}\"", "x".repeat(length)));
        assert!(long(62).is_some() && long(63).is_none());
    }

    #[test]
    fn only_ids_of_the_stock_client_have_a_number() {
        let number = |json| CallId::parse(json).unwrap().number();
        assert_eq!((number("\"17\""), CallId::numbered(17)), (Some(17), CallId::parse("\"17\"").unwrap()));
        for other in ["17", "\"+17\"", "\"-1\"", "\"\"", "\"x\"", "\"99999999999999999999\""] {
            assert_eq!(number(other), None, "{other}");
        }
    }

    #[test]
    fn results_are_those_of_the_captured_server() {
        let id = CallId::numbered(3);
        assert_eq!(Outcome::Returned("[9]".into()).result(&id), r#"{"id":"3","data":[9]}"#);
        assert_eq!(Outcome::Failed("no \"x\"".into()).result(&id), r#"{"id":"3","error":"no \"x\""}"#);
        assert_eq!(
            results([&id, &id], &Outcome::Failed("x".into())),
            r#"[{"id":"3","error":"x"},{"id":"3","error":"x"}]"#
        );
    }
}
