//! Recognises an event's dates under other names than the stock client's.

use std::borrow::Cow;

use crate::object::Object;

/// Names of the start and the end in other systems.
const DATES: [(&str, &str); 22] = [
    ("startDate", "endDate"),
    ("StartDate", "EndDate"),
    ("startdate", "enddate"),
    ("start-date", "end-date"),
    ("START_DATE", "END_DATE"),
    ("Start_Date", "End_Date"),
    ("date_start", "date_end"),
    ("dateStart", "dateEnd"),
    ("date_from", "date_to"),
    ("dateFrom", "dateTo"),
    ("start_time", "end_time"),
    ("startTime", "endTime"),
    ("start_at", "end_at"),
    ("startAt", "endAt"),
    ("starts_at", "ends_at"),
    ("startsAt", "endsAt"),
    ("dtstart", "dtend"),
    ("DTSTART", "DTEND"),
    ("begin_date", "finish_date"),
    ("Start", "End"),
    ("start", "end"),
    ("from", "to"),
];

/// Why an added event has no dates, judged by its other fields.
pub(crate) fn dates(object: &Object<'_>) -> Option<Cow<'static, str>> {
    let has = |key: &str| object.get(key).is_some();
    if has("start_date") && has("end_date") {
        return Some(Cow::Borrowed(
            "an added event needs start_date and end_date as text, and one of them is none or empty; write dates as in \
             \"2026-11-25 09:00\", not as numbers or objects",
        ));
    }
    let (start, end) = DATES.iter().find(|(start, end)| has(start) || has(end))?;
    Some(Cow::Owned(format!(
        "an added event needs start_date and end_date, and it has `{start}` or `{end}` in their place; rename them in what \
         is stored and answered, in the list as well (serde: rename = \"start_date\")"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_under_other_names_are_found() {
        for (json, words) in [
            (r#"{"startDate":"a","endDate":"b"}"#, "`startDate` or `endDate`"),
            (r#"{"start":"a","end":"b"}"#, "`start` or `end`"),
            (r#"{"start_date":"a","endDate":"b"}"#, "`endDate`"),
            (r#"{"start_date":1,"end_date":2}"#, "not as numbers"),
        ] {
            let reason = dates(&Object::parse(json.as_bytes()).unwrap()).expect(json);
            assert!(
                reason.contains(words) && reason.starts_with("an added event needs start_date and end_date"),
                "{reason}"
            );
        }
        assert_eq!(dates(&Object::parse(br#"{"text":"a"}"#).unwrap()), None);
    }
}
