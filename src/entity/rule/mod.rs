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
mod read;
mod run;
mod value;
mod year;

use self::{
    counter::Endless,
    date::{DAY, Time, civil, time},
    read::Rule,
    run::{DATE, DRAWN, MOST, Run, STEP, WEEK},
    value::{Frequency, Value, Values},
};
pub(crate) use self::{
    date::{Span, event_date},
    value::Fault,
};

/// The check covers pages that open within this time.
const YEAR: f64 = 366.0 * DAY;

/// Whether pages can draw this rule in a series of these dates. The check expands what pages open on: the week in which the
/// series starts and, unless it has ended, the year from now.
pub(crate) fn check(rule: &str, span: Span) -> Result<(), Fault> {
    check_at(rule, span, date::now())
}

fn check_at(rule: &str, span: Span, now: Time) -> Result<(), Fault> {
    let rules = read::read(rule)?;
    if span.end.is_some_and(|end| civil(end).0 > 9999.0) {
        let why = "its end_date is beyond the year 9999; the Scheduler ends an endless series at 9999-02-01";
        return Err(Fault::unread("", "", why));
    }
    let last = rules.len() - 1;
    for (at, rule) in rules.iter().enumerate() {
        // Only the last one ends where the event does.
        let end = if at == last { span.end } else { rule.until };
        check_rule(rule, Span { end, ..span }, now)?;
    }
    Ok(())
}

fn check_rule(rule: &Rule, span: Span, now: Time) -> Result<(), Fault> {
    let Some(start) = rule.start.or(span.start) else {
        // Any start must pass. Only the first week is expanded.
        let (year, month, _) = civil(now);
        let starts = [(1.0, 0.0, 0.0), (2.0, 1.0, 1.0), (15.0, 10.0, 30.0), (28.0, 23.0, 59.0)];
        return starts.into_iter().try_for_each(|(day, hour, minute)| {
            let start = time(year, month, day, hour, minute, 0.0);
            go(rule, start, None, start + WEEK)
        });
    };
    // The start of the series in the calendar, which may differ from the rule's own start.
    let shown = span.start.unwrap_or(now);
    let has_ended = span.end.is_some_and(|end| end < now);
    let to = if has_ended { shown + WEEK } else { shown.max(now) + YEAR };
    go(rule, start, span.end, to)
}

/// `to` is the last instant that is shown.
fn go(rule: &Rule, start: Time, end: Option<Time>, to: Time) -> Result<(), Fault> {
    // Less than a whole step leads nowhere, but some spellings do so months later only: the client writes `0.5` behind
    // the day 21, and takes that for the day 210.5.
    let leads_nowhere = (f64::MIN_POSITIVE..1.0).contains(&rule.interval.number());
    let to = if leads_nowhere { to.max(start + YEAR) } else { to };
    if let Some(step) = plain_step(rule) {
        let last = end.map_or(to, |end| end.min(to));
        if (last - start) / step * (STEP + DATE) + WEEK / step * DRAWN < MOST {
            return Ok(());
        }
    }
    let run = Run::new(rule, start, end, to);
    run.map_or(Ok(()), |mut run| run.go()).map_err(|endless| fault(rule, endless))
}

/// The length of the steps of a rule that needs no expansion: a date occurs at every step, or on a day of every year.
fn plain_step(rule: &Rule) -> Option<f64> {
    let within = |values: &Values, most: f64| {
        values.listed().is_none_or(|numbers| numbers.iter().any(|number| (1.0..=most).contains(number)))
    };
    let Value::Number(interval) = rule.interval else { return None };
    let is_any_day = rule.months.is_absent() && rule.month_days.is_absent();
    let is_every_day = is_any_day && rule.weekdays.is_none();
    let (step, is_plain) = match rule.frequency {
        Frequency::Yearly | Frequency::Monthly => (28.0 * DAY, is_every_day),
        Frequency::Weekly => (7.0 * DAY, is_any_day),
        Frequency::Daily if interval == 1.0 => (DAY, within(&rule.months, 12.0) && within(&rule.month_days, 28.0)),
        Frequency::Daily => (DAY, is_every_day),
        Frequency::Hourly => (3_600_000.0, is_every_day),
        Frequency::Minutely => (60_000.0, is_every_day),
        Frequency::Secondly => (1000.0, is_every_day),
    };
    // A week may have seven dates.
    let step = if rule.frequency == Frequency::Weekly { step / 7.0 } else { step * interval };
    let rest = [&rule.year_days, &rule.weeks, &rule.hours, &rule.minutes, &rule.seconds];
    let has_no_more = rest.iter().all(|values| values.is_absent());
    let is_plain = is_plain && interval >= 1.0 && has_no_more;
    (is_plain && rule.set_positions.is_empty() && rule.easter.is_none()).then_some(step)
}

fn fault(rule: &Rule, endless: Endless) -> Fault {
    let interval = || Fault::endless("INTERVAL", &rule.interval.text(), "send a whole number of 1 or more");
    let days = rule.day_parts();
    let is_step = matches!(rule.interval, Value::Number(number) if number >= 0.0);
    match endless {
        Endless::Clock => {
            let parts = [("BYHOUR", &rule.hours), ("BYMINUTE", &rule.minutes), ("BYSECOND", &rule.seconds)];
            let named = parts.into_iter().filter_map(|(name, values)| (!values.is_empty()).then_some(name));
            let named: Vec<&str> = named.collect();
            Fault::endless(&named.join(", "), "", "send hours, minutes and seconds that its FREQ and INTERVAL step on")
        }
        Endless::Step => interval(),
        Endless::Dates { .. } if !is_step => interval(),
        Endless::Dates { found: false } if !days.is_empty() => {
            Fault::endless(&days.join(", "), "", "send days that come within the years that a page goes through")
        }
        Endless::Dates { .. } => Fault {
            part: String::new(),
            hangs: true,
            remedy: "it has too many dates from its start to what pages show; send a longer FREQ, a later start or a COUNT",
        },
    }
}

#[cfg(test)]
mod tests;
