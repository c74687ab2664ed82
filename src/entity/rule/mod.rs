//! Which recurrence rules the Scheduler bears.
//!
//! The client reads an event's `rrule` whenever it draws, and goes through the dates from the start of the series to the
//! end of what it shows. It checks next to nothing: some values throw, on which no later event is drawn or saved, and
//! with others the dates never come to an end, so that the page answers nothing any more. Seen with Scheduler 7.2.15 in
//! Chromium; `tests/browser/rules.mjs` compares what stands here with the real client.
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
//! Of a part that is written twice the last one counts. White space sets several rules apart. Whether the dates end
//! depends on all parts together and on the start of the series, so that is found out as the client finds it out: by
//! going through them, though no further than a page gets in half a second.

mod counter;
mod date;
mod expand;
mod read;
mod value;
mod year;

use std::fmt;

pub(crate) use date::{Time, event_date};

/// Longer values, or with other letters than rules are made of, are not quoted.
const LONGEST_QUOTE: usize = 24;

/// When a series starts and ends, as far as its event says so in a spelling that is known.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Span {
    pub(crate) start: Option<Time>,
    pub(crate) end: Option<Time>,
}

/// What is wrong with a rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Fault {
    /// The part and its value, so far as that may be quoted; empty where no one part is to blame.
    part: String,
    /// The page does not answer any more; otherwise it throws.
    hangs: bool,
    remedy: &'static str,
}

impl Fault {
    fn unread(part: &str, value: &str, remedy: &'static str) -> Self {
        Self { part: quoted(part, value), hangs: false, remedy }
    }

    fn endless(part: &str, value: &str, remedy: &'static str) -> Self {
        Self { part: quoted(part, value), hangs: true, remedy }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { part, hangs, remedy } = self;
        f.write_str(if part.is_empty() { "its rrule" } else { "its rrule's " })?;
        let effect = if *hangs { "stops the Scheduler" } else { "cannot be read by the Scheduler" };
        write!(f, "{part} {effect}; {remedy}")
    }
}

/// `INTERVAL=-1`. What could be somebody's data goes into no log: a value is shown where it can only be a rule's.
fn quoted(part: &str, value: &str) -> String {
    let is_figure = |c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.');
    let of_rules = |token: &str| {
        let word = token.trim_start_matches(is_figure).to_ascii_uppercase();
        let is_frequency = read::FREQUENCIES.iter().any(|(name, _)| *name == word);
        token.chars().all(|c| is_figure(c) || matches!(c, 'T' | 'Z')) || is_frequency || read::DAYS.contains(&&*word)
    };
    if !value.is_empty() && value.len() <= LONGEST_QUOTE && value.split(',').all(of_rules) {
        format!("{part}={value}")
    } else {
        part.to_owned()
    }
}

/// Whether pages bear this rule in a series of these dates. Looked at is what pages open on: the week in which the
/// series starts and, unless it has ended, what comes up to a year from now.
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
