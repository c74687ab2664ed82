//! The place of a task among its siblings, and the two steps in which a page moves it there.
//!
//! The stock client moves a task only when an update names another parent, and then to `$index` in the branch of that
//! parent. So a task that stays below its parent steps *aside*, below another one, and comes *back*.

use serde::{Deserialize, Serialize};

use crate::object::{Object, string};

/// The parent of a task without one, as the log's key of it.
pub(crate) const ROOT: &str = "0";
/// The key of a task's place, which pages obey.
pub(super) const INDEX: &str = "$index";
/// What the client needs in an update, or resets where it is left out.
const KEPT: [&str; 7] = ["id", "start_date", "end_date", "duration", "progress", "type", "unscheduled"];
/// The parent in whose branch the client shows a task.
pub(super) const RENDERED_PARENT: &str = "$rendered_parent";

/// Where a task stands among its siblings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    /// Counted from 0.
    pub(crate) index: u64,
    /// The fields of the update that moves it aside, as they stand in a JSON object. The update that follows has all of it.
    fields: Box<str>,
}

impl Place {
    /// The place that a task in its normal form has.
    pub(crate) fn of(task: &Object<'_>) -> Option<Self> {
        let index = task.get(INDEX)?;
        let index = string(index).map_or_else(|| index.parse(), |index| index.parse()).ok()?;
        let mut short = task.clone();
        short.retain(|key| KEPT.contains(&key));
        let fields = short.with(RENDERED_PARENT, "\"\"").to_json();
        let fields = fields.strip_prefix('{').and_then(|fields| fields.strip_suffix('}'))?;
        Some(Self { index, fields: fields.into() })
    }

    /// The number that a task has under a key of the application.
    pub(crate) fn index_in(task: &str, key: &str) -> Option<u64> {
        Object::of(task)?.get(key).and_then(index_in)
    }

    /// What it occupies.
    pub(crate) fn bytes(&self) -> usize {
        size_of::<Self>() + self.fields.len()
    }

    /// The task below another parent, whose id is JSON text.
    pub(crate) fn aside(&self, parent: &str) -> String {
        format!(r#"{{"parent":{parent},{}}}"#, self.fields)
    }
}

/// A place as JSON text. The client takes the number 0 for none.
fn json_index(index: u64) -> String {
    if index == 0 { "\"0\"".to_owned() } else { index.to_string() }
}

/// A task with the place that it names under a key of the application; without one, with none.
pub(crate) fn with_index<'t>(mut task: Object<'t>, key: &str) -> Object<'t> {
    let Some(raw) = task.get(key) else {
        task.retain(|key| key != INDEX);
        return task;
    };
    let index = index_in(raw).map_or_else(|| "null".to_owned(), json_index);
    task.with(INDEX, index)
}

/// A whole number from 0 on, as a number or text.
fn index_in(raw: &str) -> Option<u64> {
    let text = string(raw).unwrap_or_else(|| raw.into());
    let digits = text.split_once('.').filter(|(_, zeros)| zeros.bytes().all(|digit| digit == b'0'));
    digits.map_or(&*text, |(digits, _)| digits).parse().ok().filter(|index| *index <= u64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn indexed(json: &str) -> String {
        with_index(Object::parse(json.as_bytes()).unwrap(), "sortorder").to_json()
    }

    #[test]
    fn a_place_is_a_whole_number_from_zero_on() {
        for (value, expected) in [
            ("3", "3"),
            ("0", "\"0\""),
            ("\"0\"", "\"0\""),
            ("\"12\"", "12"),
            ("4.0", "4"),
            ("1.5", "null"),
            ("-1", "null"),
            ("null", "null"),
            ("\"\"", "null"),
            ("\"a\"", "null"),
            ("{}", "null"),
            ("99999999999", "null"),
        ] {
            let json = format!(r#"{{"id":1,"sortorder":{value}}}"#);
            assert_eq!(indexed(&json), format!(r#"{{"id":1,"sortorder":{value},"$index":{expected}}}"#));
        }
        assert_eq!(indexed(r#"{"id":1,"$index":7}"#), r#"{"id":1}"#, "what a page sends of its own counts for nothing");
    }

    #[test]
    fn a_task_steps_aside_with_what_the_client_would_reset() {
        let place = |json: &str| Place::of(&Object::parse(json.as_bytes()).unwrap());
        let task = r#"{"id":7,"text":"x","start_date":"2025-04-10","progress":0.5,"parent":"5","$index":"0"}"#;
        let place_of_it = place(task).unwrap();
        assert_eq!(place_of_it.index, 0);
        assert_eq!(
            place_of_it.aside("\"12\""),
            r#"{"parent":"12","id":7,"start_date":"2025-04-10","progress":0.5,"$rendered_parent":""}"#
        );
        assert_eq!(place(r#"{"id":7,"parent":5}"#), None);
        assert_eq!(place(r#"{"id":7,"parent":5,"$index":null}"#), None);
    }
}
