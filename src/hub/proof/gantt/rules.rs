//! What the layer does for a Gantt page, taken out rule by rule: schedules must find the fault that each rule cures.

use std::time::Duration;

use serde_json::Value;

use super::page::{Id, id_of};
use crate::hub::{SettleTimes, WriteContext};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// A page receives its own new object when the answer has arrived, and not before.
    OwnAddsLater,
    /// A link that is resent goes first, and comes anew.
    LinksAfresh,
    /// Each parent goes before its children.
    ParentsFirst,
}

impl Rule {
    pub(super) fn times(self, times: SettleTimes) -> SettleTimes {
        match self {
            Self::OwnAddsLater => SettleTimes { hold: Duration::ZERO, ..times },
            _ => times,
        }
    }

    pub(super) fn context(self, write: WriteContext, is_add: bool) -> WriteContext {
        match self {
            // Nobody's answer is waited for.
            Self::OwnAddsLater if is_add => WriteContext { number: None, ..write },
            _ => write,
        }
    }

    /// The messages of some frames, as they would be without the rule.
    pub(super) fn messages(self, messages: Vec<Value>) -> Vec<Value> {
        match self {
            Self::LinksAfresh => as_they_are(&messages),
            Self::ParentsFirst => children_first(messages),
            Self::OwnAddsLater => messages,
        }
    }
}

/// `delete-link`, `add-link` becomes `add-link`, `update-link`. Of a deletion the last message is left.
fn as_they_are(messages: &[Value]) -> Vec<Value> {
    let is = |at: usize, of: &str| messages.get(at).is_some_and(|message| message["type"] == of);
    let id = |at: usize| messages.get(at).map(|message| &message["link"]["id"]);
    let mut all = Vec::new();
    for (at, message) in messages.iter().enumerate() {
        let is_renewed = is(at, "delete-link") && is(at + 1, "add-link") && id(at) == id(at + 1);
        let has_ends = message["link"].get("source").is_some();
        match message["type"].as_str() {
            Some("delete-link") if is_renewed => {}
            Some("add-link") if has_ends => {
                let mut update = message.clone();
                update["type"] = "update-link".into();
                all.extend([message.clone(), update]);
            }
            Some("add-link") => {}
            _ => all.push(message.clone()),
        }
    }
    all
}

/// The messages of each task together, those of the last task first.
fn children_first(messages: Vec<Value>) -> Vec<Value> {
    let task = |message: &Value| message.get("task").and_then(|task| task.get("id")).and_then(id_of);
    let is_there = |message: &Value| message["type"] != "delete-task";
    let (tasks, others): (Vec<Value>, Vec<Value>) =
        messages.into_iter().partition(|message| task(message).is_some() && is_there(message));
    let mut groups: Vec<(Option<Id>, Vec<Value>)> = Vec::new();
    for message in tasks {
        let of = task(&message);
        match groups.last_mut().filter(|(last, _)| *last == of) {
            Some((_, group)) => group.push(message),
            None => groups.push((of, vec![message])),
        }
    }
    groups.into_iter().rev().flat_map(|(_, group)| group).chain(others).collect()
}
