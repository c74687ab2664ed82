//! What a widget accepts: objects that do not break its pages, and responses that it takes for a success.

use std::borrow::Cow;

use http::StatusCode;

use super::{
    gantt::{self, GanttProblem},
    place, rule,
};
use crate::{
    change::{ChangeKind, Drag},
    misnamed,
    object::{Object, string},
};

/// The widget that shows an entity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Widget {
    /// Unknown: every object and every response is accepted.
    Any,
    /// DHTMLX Scheduler 7.2.
    Scheduler,
    /// The tasks of DHTMLX Gantt 9 and 10.
    GanttTasks,
    /// The links of DHTMLX Gantt 9 and 10.
    GanttLinks,
}

/// What in an object would make the stock client stop saving.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ObjectProblem {
    Dates,
    Rule(rule::Fault),
    /// The rule is not text.
    NoRule,
    Gantt(GanttProblem),
}

impl ObjectProblem {
    /// The reason, as precise as this object allows.
    pub(super) fn reason_for(&self, object: &Object<'_>) -> Cow<'static, str> {
        match self {
            Self::Dates => misnamed::dates(object).unwrap_or(Cow::Borrowed(
                "an added event needs start_date and end_date as text; answer the create with the stored row in \
                 `item`, or give the entity a load hook",
            )),
            Self::Rule(fault) => Cow::Owned(fault.to_string()),
            Self::Gantt(problem) => Cow::Borrowed(problem.reason()),
            Self::NoRule => {
                Cow::Borrowed("its rrule is no text; send \"\" or an RFC 5545 rule without its RRULE: prefix")
            }
        }
    }
}

/// What in a successful response a widget takes for a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ResponseProblem {
    Status,
    NoTid,
}

impl ResponseProblem {
    pub(crate) fn remedy(self) -> &'static str {
        match self {
            Self::Status => {
                "the Scheduler takes only status 200 for success (201 and 204 leave the event unsaved on the page); \
                 answer 200, or give the entity Entity::widget_answers()"
            }
            Self::NoTid => {
                "the Scheduler needs the new id as `tid` to replace its temporary one, else the event appears twice; \
                 answer {\"action\":\"inserted\",\"tid\":ID}, or give the entity Entity::widget_answers()"
            }
        }
    }
}

/// Widgets whose entities a page saves with one state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    Gantt,
}

impl Widget {
    /// The entities of one family settle together.
    pub(crate) fn family(self) -> Option<Family> {
        match self {
            Self::Any | Self::Scheduler => None,
            Self::GanttTasks | Self::GanttLinks => Some(Family::Gantt),
        }
    }

    /// Whether pages show its objects as a tree that must hold together.
    pub(crate) fn is_tree(self) -> bool {
        self == Self::GanttTasks
    }

    /// False if `check` cannot fail, which is decided without parsing the object: a change writes its keys without needless
    /// escapes.
    pub(super) fn may_refuse(self, kind: ChangeKind, json: &str) -> bool {
        match self {
            Self::Any => false,
            Self::Scheduler => kind == ChangeKind::Add || (kind == ChangeKind::Update && json.contains(r#""rrule""#)),
            Self::GanttTasks => kind != ChangeKind::Delete,
            Self::GanttLinks => kind == ChangeKind::Add,
        }
    }

    /// Whether pages accept an object of this kind of change.
    pub(crate) fn check(self, kind: ChangeKind, object: &Object<'_>) -> Result<(), ObjectProblem> {
        if kind == ChangeKind::Delete {
            return Ok(());
        }
        match self {
            Self::Any => Ok(()),
            Self::Scheduler => check_event(kind, object),
            Self::GanttTasks => {
                gantt::check_task(kind, &gantt::normal_task(object.clone())).map_err(ObjectProblem::Gantt)
            }
            Self::GanttLinks => gantt::check_link(kind, object).map_err(ObjectProblem::Gantt),
        }
    }

    /// An object in the form that every page reads; `None` where that is its own. Its place is the field of `order_key`.
    pub(crate) fn normal_form(self, object: &str, order_key: Option<&str>) -> Option<String> {
        match self {
            Self::Any | Self::Scheduler | Self::GanttLinks => None,
            Self::GanttTasks => {
                let task = gantt::normal_task(Object::of(object)?);
                Some(match order_key {
                    None => task.to_json(),
                    Some(key) => place::with_index(task, key).to_json(),
                })
            }
        }
    }

    /// What the page that saves an object so has done to its place.
    pub(crate) fn drag(self, sent: &Object<'_>) -> Drag {
        match self {
            Self::GanttTasks => gantt::drag(sent),
            Self::Any | Self::Scheduler | Self::GanttLinks => Drag::Unknown,
        }
    }

    /// Whether an update leaves out fields that pages take for removed.
    pub(crate) fn is_part(self, kind: ChangeKind, object: &str) -> bool {
        self == Self::GanttTasks
            && kind == ChangeKind::Update
            && Object::of(object).is_none_or(|task| gantt::is_part(&task))
    }

    /// Why a part of an object is not broadcast.
    pub(crate) fn part_reason() -> &'static str {
        GanttProblem::Part.reason()
    }

    /// What an add names of an object; `None` where that is the object itself.
    pub(crate) fn added_form(self, object: &str) -> Option<String> {
        match self {
            Self::Any | Self::Scheduler | Self::GanttLinks => None,
            Self::GanttTasks => Some(gantt::added_task(&Object::of(object)?)),
        }
    }

    /// What the widget does not understand about a successful response.
    pub(crate) fn check_response(self, kind: ChangeKind, status: StatusCode, tid: bool) -> Option<ResponseProblem> {
        match self {
            Self::Any | Self::GanttTasks | Self::GanttLinks => None,
            Self::Scheduler if status != StatusCode::OK => Some(ResponseProblem::Status),
            Self::Scheduler => (kind == ChangeKind::Add && !tid).then_some(ResponseProblem::NoTid),
        }
    }
}

/// Observed with Scheduler 7.2.15 in Chromium: an add without textual dates, or an unreadable rule, throws while saving is
/// suspended, and saving stays off.
fn check_event(kind: ChangeKind, object: &Object<'_>) -> Result<(), ObjectProblem> {
    let dated = |key| object.get(key).and_then(string).is_some_and(|date| !date.is_empty());
    if kind == ChangeKind::Add && !(dated("start_date") && dated("end_date")) {
        return Err(ObjectProblem::Dates);
    }
    let Some(raw) = object.get("rrule").filter(|raw| !is_nothing(raw)) else { return Ok(()) };
    let rule = string(raw).ok_or(ObjectProblem::NoRule)?;
    let date = |key| object.get(key).and_then(string).and_then(|date| rule::event_date(&date));
    let span = rule::Span { start: date("start_date"), end: date("end_date") };
    rule::check(&rule, span).map_err(ObjectProblem::Rule)
}

/// True for what JavaScript takes for nothing.
fn is_nothing(raw: &str) -> bool {
    matches!(raw, "null" | "false" | "\"\"") || raw.parse() == Ok(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(kind: ChangeKind, json: &str) -> Result<(), ObjectProblem> {
        Widget::Scheduler.check(kind, &Object::parse(json.as_bytes()).unwrap())
    }

    #[test]
    fn an_add_without_textual_dates_is_held_back() {
        for dates in [
            r#""text":"x""#,
            r#""start_date":null,"end_date":null"#,
            r#""start_date":1745226000000,"end_date":1745229600000"#,
            r#""start_date":{},"end_date":{}"#,
            r#""start_date":"2025-04-21 10:00""#,
        ] {
            let json = format!(r#"{{"id":1,{dates}}}"#);
            assert_eq!(check(ChangeKind::Add, &json), Err(ObjectProblem::Dates), "{json}");
            assert_eq!(check(ChangeKind::Update, &json), Ok(()), "an update merges: {json}");
        }
    }

    #[test]
    fn dates_in_any_textual_form_pass() {
        for date in ["2025-04-21 10:00", "2025-04-21T10:00:00.000Z", "04/21/2025 10:00"] {
            let json = format!(r#"{{"id":1,"start_date":"{date}","end_date":"{date}"}}"#);
            assert_eq!(check(ChangeKind::Add, &json), Ok(()));
        }
    }

    #[test]
    fn a_rule_that_is_no_text_is_refused() {
        let update = |rule: &str| check(ChangeKind::Update, &format!(r#"{{"id":1,"rrule":{rule}}}"#));
        for nothing in ["null", "false", "\"\"", "0", "-0", "0.0", "0e5"] {
            assert_eq!(update(nothing), Ok(()), "JavaScript takes it for nothing: {nothing}");
        }
        for other in ["5", "{}", "[]", "[\"FREQ=DAILY\"]", "true"] {
            assert_eq!(update(other), Err(ObjectProblem::NoRule), "{other}");
        }
        assert_eq!(update("\"FREQ=DAILY\""), Ok(()));
        assert!(matches!(update("\"EVERY DAY\""), Err(ObjectProblem::Rule(_))));
    }

    #[test]
    fn a_rule_is_checked_with_the_dates_of_its_series() {
        let add = |start: &str, rule: &str| {
            let (end, rule) = ("2026-04-21 00:00", serde_json::to_string(rule).unwrap());
            check(ChangeKind::Add, &format!(r#"{{"id":1,"start_date":"{start}","end_date":"{end}","rrule":{rule}}}"#))
        };
        // Every second hour from ten o'clock on there is no odd one.
        assert_eq!(add("2025-04-21 10:00", "FREQ=HOURLY;INTERVAL=2;BYHOUR=4"), Ok(()));
        assert!(add("2025-04-21 10:00", "FREQ=HOURLY;INTERVAL=2;BYHOUR=3").is_err());
        assert_eq!(add("2025-04-21 11:00", "FREQ=HOURLY;INTERVAL=2;BYHOUR=3"), Ok(()));
    }

    #[test]
    fn other_widgets_accept_everything() {
        let object = Object::parse(br#"{"id":1,"rrule":"nonsense"}"#).unwrap();
        assert_eq!(Widget::Any.check(ChangeKind::Add, &object), Ok(()));
        assert_eq!(Widget::Any.check_response(ChangeKind::Add, StatusCode::CREATED, false), None);
    }

    #[test]
    fn answers_the_scheduler_takes_for_failures_are_named() {
        let check = |kind, status, tid| Widget::Scheduler.check_response(kind, status, tid);
        assert_eq!(check(ChangeKind::Add, StatusCode::CREATED, true), Some(ResponseProblem::Status));
        assert_eq!(check(ChangeKind::Add, StatusCode::OK, false), Some(ResponseProblem::NoTid));
        assert_eq!(check(ChangeKind::Delete, StatusCode::NO_CONTENT, false), Some(ResponseProblem::Status));
        assert_eq!(check(ChangeKind::Update, StatusCode::OK, false), None);
    }
}
