//! The modes of the stock DataProcessor in which all writes have one address, as a request's query shows them.
//!
//! | mode | request | its action and fields |
//! |---|---|---|
//! | JSON, POST | `POST {rest}?editing=true` | in the body |
//! | GET | `GET {rest}?editing=true&…` | in the query |
//!
//! Gantt adds `gantt_mode=tasks` or `gantt_mode=links`, the name of the entity.

use percent_encoding::percent_decode_str;

/// True when the query holds `editing=true`, as in the modes JSON, POST and GET.
pub(super) fn is_editing(query: Option<&str>) -> bool {
    query.is_some_and(|query| query.split('&').any(|pair| pair == "editing=true"))
}

/// True when the query holds a write: a GET with it is no read.
pub(super) fn is_get_mode(query: Option<&str>) -> bool {
    // The field of the action, whose name may be escaped, or begin with an id where several changes are sent at once.
    is_editing(query) && query.is_some_and(|query| query.contains("nativeeditor_status="))
}

/// The entity that `gantt_mode` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GanttMode<'q> {
    Absent,
    Of(&'q str),
    /// Named twice: servers differ in which one they read.
    Unclear,
}

impl<'q> GanttMode<'q> {
    pub(super) fn of(query: Option<&'q str>) -> Self {
        let is_key = |key: &str| percent_decode_str(key).decode_utf8().is_ok_and(|key| key == "gantt_mode");
        let pairs = query.unwrap_or_default().split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let mut named = pairs.filter(|(key, _)| is_key(key));
        match (named.next(), named.next()) {
            (None, _) => Self::Absent,
            (Some((_, name)), None) => Self::Of(name),
            (Some(_), Some(_)) => Self::Unclear,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_stock_clients_own_query_announces_a_mode() {
        for (query, editing, get) in [
            ("", false, false),
            ("editing=true", true, false),
            ("tenant=7&editing=true&gantt_mode=tasks", true, false),
            ("editing=trueish", false, false),
            ("not-editing=true", false, false),
            ("editing=false&!nativeeditor_status=inserted", false, false),
            ("editing=true&id=500&!nativeeditor_status=deleted", true, true),
            ("editing=true&id=500&%21nativeeditor_status=deleted", true, true),
            ("editing=true&5_text=a&5_!nativeeditor_status=updated&ids=5", true, true),
        ] {
            assert_eq!((is_editing(Some(query)), is_get_mode(Some(query))), (editing, get), "{query}");
        }
        assert!(!is_editing(None) && !is_get_mode(None));
    }

    #[test]
    fn a_mode_that_is_named_twice_is_unclear() {
        use GanttMode::{Absent, Of, Unclear};
        for (query, mode) in [
            ("editing=true", Absent),
            ("editing=true&gantt_mode=links", Of("links")),
            ("gantt_mode=tasks&editing=true", Of("tasks")),
            ("gantt%5Fmode=tasks", Of("tasks")),
            ("gantt_mode", Of("")),
            ("gantt_mode=tasks&gantt_mode=links", Unclear),
            ("gantt_mode=tasks&gantt_mode=tasks", Unclear),
            ("gantt_mode=tasks&gantt%5fmode=links", Unclear),
        ] {
            assert_eq!(GanttMode::of(Some(query)), mode, "{query}");
        }
    }
}
