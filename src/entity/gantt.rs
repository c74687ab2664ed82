//! What pages with the DHTMLX Gantt tolerate, as seen with dhtmlx-gantt 10.0.3: which tasks and links, and in what form.

use std::borrow::Cow;

use super::place::{INDEX, RENDERED_PARENT};
use crate::{
    change::{ChangeKind, Drag},
    object::{Object, quoted, string},
};

/// The dates of a task that the client reads with one function.
const DATES: [&str; 3] = ["start_date", "end_date", "deadline"];
/// The day of an added task that has none, for so long as its update has not taken that away.
const ANY_DAY: &str = "\"2000-01-01\"";
/// What is emptied in each task. A page that receives where a drag has left a task sends that again with each later change.
/// And with an empty `$rendered_parent` the client looks whether the task stands below its parent, and puts it there if a
/// message has made it lose the task from its tree; it does nothing else.
const EMPTIED: [&str; 3] = ["target", "$drop_target", RENDERED_PARENT];

/// What in a task or a link would make pages throw, hang, or show something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum GanttProblem {
    /// An added task without a day.
    NoDay,
    /// A date in a form that not every page reads.
    Date,
    OwnParent,
    /// An update without the fields that the client takes for removed.
    Part,
    /// A link without its ends.
    NoEnds,
}

impl GanttProblem {
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::NoDay => {
                "an added task needs start_date as text, with a day (or `unscheduled`); answer the create with the stored row \
                 in `item`, or give the entity a load hook"
            }
            Self::Date => {
                "a date of a task must be ISO 8601 (2026-11-30T09:00:00.000Z) or YYYY-MM-DD HH:MM; set \
                 gantt.config.date_format = \"iso\" on the pages, or store such dates"
            }
            Self::OwnParent => "a task is its own parent; refuse such writes",
            Self::Part => {
                "an update of a task needs all its fields, start_date and parent among them; answer the stored row in \
                 `item`, or give the entity a load hook"
            }
            Self::NoEnds => "an added link needs source and target; answer the create with the stored row in `item`",
        }
    }
}

/// Checks a task in the form that pages are sent.
pub(super) fn check_task(kind: ChangeKind, task: &Object<'_>) -> Result<(), GanttProblem> {
    let is_same = |key| task.get(key).and_then(text);
    if is_same("id").is_some_and(|id| is_same("parent").is_some_and(|parent| parent == id)) {
        return Err(GanttProblem::OwnParent);
    }
    let is_unscheduled = is_unscheduled(task);
    for key in DATES {
        let Some(raw) = task.get(key) else { continue };
        match string(raw) {
            Some(date) if date.is_empty() && key != "start_date" => {}
            Some(date) if day(&date).is_some() => {}
            None if raw == "null" && key != "start_date" => {}
            _ if kind == ChangeKind::Add && key == "start_date" => return Err(GanttProblem::NoDay),
            _ => return Err(GanttProblem::Date),
        }
    }
    match (kind, task.get("start_date")) {
        (ChangeKind::Add, None) if !is_unscheduled => Err(GanttProblem::NoDay),
        _ => Ok(()),
    }
}

/// Checks a link.
pub(super) fn check_link(kind: ChangeKind, link: &Object<'_>) -> Result<(), GanttProblem> {
    let has = |key| link.get(key).and_then(text).is_some_and(|end| !end.is_empty());
    if kind == ChangeKind::Add && !(has("source") && has("target")) {
        return Err(GanttProblem::NoEnds);
    }
    Ok(())
}

/// Whether an update leaves out what the client takes for removed.
pub(super) fn is_part(task: &Object<'_>) -> bool {
    (task.get("start_date").is_none() && !is_unscheduled(task)) || task.get("parent").is_none()
}

/// What the page that saves a task has done to its place. The client drops the only child of a task from its tree when
/// that is moved within its parent (seen in `moveTask` of 10.0.3).
pub(super) fn drag(sent: &Object<'_>) -> Drag {
    match sent.get_str("target").as_deref() {
        None | Some("") => Drag::None,
        Some("next:null") => Drag::Detached,
        Some(_) => Drag::Placed,
    }
}

/// A task in the form that every page reads, whatever its settings: dates as ISO 8601, and without the place that a drag
/// has left it at.
pub(super) fn normal_task(task: Object<'_>) -> Object<'_> {
    let mut task = task;
    for key in DATES {
        let date = task.get(key).and_then(string).and_then(|date| Some(quoted(&iso(&date)?)));
        if let Some(date) = date {
            task = task.with(key, date);
        }
    }
    if is_unscheduled(&task) {
        // At an empty date the client throws.
        let is_empty = |raw: &str| matches!(raw, "null" | "\"\"");
        let empty: Vec<&str> = DATES.into_iter().filter(|key| task.get(key).is_some_and(is_empty)).collect();
        task.retain(|key| !empty.contains(&key));
    }
    for key in EMPTIED {
        task = task.with(key, "\"\"");
    }
    task
}

/// A task as an `add-task` names it. The client reads a date of an add with the format of its page alone, and a bare day
/// with every format; the update that follows has the rest.
pub(super) fn added_task(task: &Object<'_>) -> String {
    let mut added = task.clone();
    let start = task.get_str("start_date").and_then(|date| Some(quoted(day(&date)?)));
    if start.is_none() && is_unscheduled(task) {
        // The client needs some day, and takes another length from it.
        added.retain(|key| key != "duration");
        added = added.with("start_date", ANY_DAY);
    }
    added.retain(|key| !matches!(key, "end_date" | "deadline" | RENDERED_PARENT | INDEX));
    match start {
        Some(start) => added.with("start_date", start).to_json(),
        None => added.to_json(),
    }
}

/// The day that a date begins with.
fn day(date: &str) -> Option<&str> {
    let (day, rest) = date.split_at_checked(10)?;
    let is_day = day.bytes().enumerate().all(|(at, byte)| match at {
        4 | 7 => byte == b'-',
        _ => byte.is_ascii_digit(),
    });
    let is_time =
        rest.is_empty() || (rest.starts_with(['T', ' ']) && rest[1..].starts_with(|c: char| c.is_ascii_digit()));
    (is_day && is_time).then_some(day)
}

/// The same time as ISO 8601, if it is written with a space.
fn iso(date: &str) -> Option<Cow<'_, str>> {
    day(date)?;
    match date.as_bytes().get(10) {
        Some(b' ') => Some(Cow::Owned(format!("{}T{}", &date[..10], &date[11..]))),
        _ => None,
    }
}

/// An id as text.
fn text(raw: &str) -> Option<Cow<'_, str>> {
    string(raw).or_else(|| raw.starts_with(|first: char| first.is_ascii_digit() || first == '-').then_some(raw.into()))
}

/// Whether a task has no date of its own, if none is named.
fn is_unscheduled(task: &Object<'_>) -> bool {
    task.get("unscheduled").is_some_and(is_true)
}

/// What JavaScript takes for true, and forms send for it.
fn is_true(raw: &str) -> bool {
    !matches!(raw, "null" | "false" | "\"\"" | "0" | "\"false\"" | "\"0\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(kind: ChangeKind, json: &str) -> Result<(), GanttProblem> {
        check_task(kind, &normal_task(Object::parse(json.as_bytes()).unwrap()))
    }

    fn normal(json: &str) -> String {
        normal_task(Object::parse(json.as_bytes()).unwrap()).to_json()
    }

    #[test]
    fn an_added_task_needs_a_day() {
        for dates in [
            r#""text":"x""#,
            r#""start_date":null"#,
            r#""start_date":1745226000000"#,
            r#""start_date":{}"#,
            r#""start_date":"""#,
            r#""start_date":"10-04-2025 00:00""#,
            r#""start_date":"2025-4-10""#,
            r#""start_date":"2025-04-10x""#,
        ] {
            assert_eq!(check(ChangeKind::Add, &format!(r#"{{"id":1,{dates}}}"#)), Err(GanttProblem::NoDay), "{dates}");
        }
        for date in ["2025-04-10", "2025-04-10 00:00", "2025-04-10T00:00:00.000Z", "2025-04-10T00:00:00+02:00"] {
            assert_eq!(check(ChangeKind::Add, &format!(r#"{{"id":1,"start_date":"{date}"}}"#)), Ok(()), "{date}");
        }
        assert_eq!(check(ChangeKind::Add, r#"{"id":1,"unscheduled":true}"#), Ok(()));
    }

    #[test]
    fn an_update_with_an_unreadable_date_is_held_back() {
        assert_eq!(check(ChangeKind::Update, r#"{"id":1,"start_date":null}"#), Err(GanttProblem::Date));
        assert_eq!(check(ChangeKind::Update, r#"{"id":1,"start_date":"soon"}"#), Err(GanttProblem::Date));
        assert_eq!(check(ChangeKind::Update, r#"{"id":1,"start_date":"2025-04-10 09:00","end_date":null}"#), Ok(()));
        assert_eq!(check(ChangeKind::Update, r#"{"id":1,"text":"x"}"#), Ok(()));
    }

    #[test]
    fn a_task_is_not_its_own_parent() {
        assert_eq!(check(ChangeKind::Update, r#"{"id":"7","parent":7}"#), Err(GanttProblem::OwnParent));
        assert_eq!(check(ChangeKind::Update, r#"{"id":7,"parent":"70"}"#), Ok(()));
    }

    #[test]
    fn dates_are_iso_and_the_place_of_a_drag_is_left_out() {
        assert_eq!(
            normal(r#"{"id":1,"start_date":"2025-04-10 09:30","end_date":"2025-04-11","target":"next:4"}"#),
            r#"{"id":1,"start_date":"2025-04-10T09:30","end_date":"2025-04-11","target":"","$drop_target":"","$rendered_parent":""}"#
        );
        assert_eq!(
            normal(r#"{"id":1,"unscheduled":true,"start_date":null}"#),
            r#"{"id":1,"unscheduled":true,"target":"","$drop_target":"","$rendered_parent":""}"#
        );
    }

    #[test]
    fn an_add_names_the_bare_day_and_no_end() {
        let task = Object::parse(br#"{"id":1,"start_date":"2025-04-10T09:30","end_date":"2025-04-11","duration":1}"#);
        assert_eq!(added_task(&task.unwrap()), r#"{"id":1,"start_date":"2025-04-10","duration":1}"#);
        let task = Object::parse(br#"{"id":1,"unscheduled":true,"duration":3}"#);
        assert_eq!(added_task(&task.unwrap()), r#"{"id":1,"unscheduled":true,"start_date":"2000-01-01"}"#);
    }

    #[test]
    fn an_added_link_names_both_ends() {
        let check = |json: &str| check_link(ChangeKind::Add, &Object::parse(json.as_bytes()).unwrap());
        assert_eq!(check(r#"{"id":1,"source":"2"}"#), Err(GanttProblem::NoEnds));
        assert_eq!(check(r#"{"id":1,"source":"2","target":3}"#), Ok(()));
    }
}
