//! Which recurrence rules the Scheduler can draw.
//!
//! The client reads an event's `rrule` whenever it draws, and expands the dates from the start of the series to the end of
//! what it shows. It checks next to nothing: some values throw, after which no later event is drawn or saved. With others
//! the dates never end, and the page hangs. Observed with Scheduler 7.2.15 in Chromium; `tests/browser/rules.mjs` compares
//! this table with the real client.
//!
//! | part | read | throws | may never end |
//! |---|---|---|---|
//! | `FREQ` | the seven of RFC 5545 in any case; absent: `YEARLY` | everything else | `SECONDLY` for long: too many dates |
//! | `INTERVAL` | whole numbers, 0 too (no dates) | | negative, empty, and most texts that are no whole number |
//! | `COUNT` | anything | | |
//! | `UNTIL` | `YYYYMMDD`, `YYYYMMDDTHHMMSS`, with `Z` or not; the event's end counts instead | everything else, small letters too | |
//! | `BYDAY` | `MO` to `SU`, with a number of one or two digits | small letters, the number 0, everything else | where it never comes |
//! | `BYSETPOS` | 1 to 366, -366 to -1, nothing | 0, and what is beyond | where it never comes, as 2 with `DAILY` |
//! | `BYMONTH`, `BYMONTHDAY` | anything | | where it never comes, with `WEEKLY` and below |
//! | `BYYEARDAY`, `BYWEEKNO` | anything | | the same |
//! | `BYHOUR`, `BYMINUTE`, `BYSECOND` | numbers, also out of range | other texts, where the frequency is above | where the steps never meet it, as `HOURLY;BYHOUR=25` |
//! | `BYEASTER` | anything; makes the rule `YEARLY` | | |
//! | `WKST`, `TZID` | anything | `WKST` without a value | |
//! | `DTSTART` | as `UNTIL`; it counts instead of the event's start | everything else | |
//! | others | | always | |
//!
//! Of a repeated part the last one counts. White space separates rules. Whether the dates end depends on all parts together
//! and on the start of the series. So the check expands the dates as the client does, but no further than a page gets in half
//! a second.

mod counter;
mod date;
mod expand;
mod fault;
mod read;
mod run;
mod value;
mod words;
mod year;

use self::date::Time;
pub(crate) use self::{
    date::{Span, event_date},
    fault::Fault,
};

/// Whether pages can draw this rule in a series of these dates. The check expands what pages open on: the week in which the
/// series starts and, unless it has ended, the year from now.
pub(crate) fn check(rule: &str, span: Span) -> Result<(), Fault> {
    check_at(rule, span, date::now())
}

fn check_at(rule: &str, span: Span, now: Time) -> Result<(), Fault> {
    let rules = read::read(rule)?;
    if span.end.is_some_and(|end| date::civil(end).0 > 9999.0) {
        return Err(Fault {
            part: String::new(),
            hangs: false,
            remedy: "its end_date is beyond the year 9999; the Scheduler ends an endless series at 9999-02-01",
        });
    }
    let last = rules.len() - 1;
    for (at, rule) in rules.iter().enumerate() {
        // Only the last one ends where the event does.
        let end = if at == last { span.end } else { rule.until };
        expand::check(rule, Span { end, ..span }, now)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
