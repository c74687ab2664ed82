//! Dates as the Scheduler takes them: the digits of its own time zone, read as if they were UTC.

use std::time::{SystemTime, UNIX_EPOCH};

pub(super) const DAY: f64 = 86_400_000.0;
/// Years before this one are what two digits mean: 1900 and what is written.
const FIRST_YEAR: f64 = 100.0;
/// Past this a JavaScript date is no date.
const LAST: f64 = 8.64e15;

/// Milliseconds since 1970, or no date (`NaN`).
pub(crate) type Time = f64;

/// When a series starts and ends, if its event names that in a known format.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Span {
    pub(crate) start: Option<Time>,
    pub(crate) end: Option<Time>,
}

pub(super) fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_secs_f64().floor() * 1000.0
}

/// `Date.UTC`: months count from 1 here; what is too much of one carries over to the next.
pub(super) fn time(year: f64, month: f64, day: f64, hour: f64, minute: f64, second: f64) -> Time {
    if ![year, month, day, hour, minute, second].iter().all(|part| part.is_finite()) {
        return f64::NAN;
    }
    let year = year.trunc();
    let year = if (0.0..FIRST_YEAR).contains(&year) { 1900.0 + year } else { year };
    let month = (month - 1.0).trunc();
    let days = days_before(year + (month / 12.0).floor(), month.rem_euclid(12.0)) + day.trunc() - 1.0;
    let time = days * DAY + time_of_day(hour, minute, second);
    if time.abs() > LAST { f64::NAN } else { time }
}

pub(super) fn time_of_day(hour: f64, minute: f64, second: f64) -> Time {
    hour.trunc() * 3_600_000.0 + minute.trunc() * 60_000.0 + second.trunc() * 1000.0
}

/// Days from 1970 to the first of a month, counted from 0.
fn days_before(year: f64, month: f64) -> f64 {
    let past = year - 1.0;
    let leaps = (past / 4.0).floor() - (past / 100.0).floor() + (past / 400.0).floor();
    // Days from the first of January of the year 1 to that of 1970.
    let first = past * 365.0 + leaps - 719_162.0;
    first + months(year)[month as usize] as f64
}

/// Days of a year before each month, and after the last.
pub(super) fn months(year: f64) -> &'static [usize; 13] {
    const COMMON: [usize; 13] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334, 365];
    const LEAP: [usize; 13] = [0, 31, 60, 91, 121, 152, 182, 213, 244, 274, 305, 335, 366];
    let is_leap = (year % 4.0 == 0.0 && year % 100.0 != 0.0) || year % 400.0 == 0.0;
    if is_leap { &LEAP } else { &COMMON }
}

/// Year, month from 1, day of the month.
pub(super) fn civil(time: Time) -> (f64, f64, f64) {
    // From the first of March of the year 0, so that a leap day is a year's last.
    let days = (time / DAY).floor() + 719_468.0;
    let era = (days / 146_097.0).floor();
    let of_era = days - era * 146_097.0;
    let years = ((of_era - (of_era / 1460.0).floor() + (of_era / 36_524.0).floor() - (of_era / 146_096.0).floor())
        / 365.0)
        .floor();
    let of_year = of_era - (365.0 * years + (years / 4.0).floor() - (years / 100.0).floor());
    let shifted = ((5.0 * of_year + 2.0) / 153.0).floor();
    let day = of_year - ((153.0 * shifted + 2.0) / 5.0).floor() + 1.0;
    let month = if shifted < 10.0 { shifted + 3.0 } else { shifted - 9.0 };
    (years + era * 400.0 + if month <= 2.0 { 1.0 } else { 0.0 }, month, day)
}

/// Monday is 0.
pub(super) fn weekday(time: Time) -> f64 {
    ((time / DAY).floor() + 3.0).rem_euclid(7.0)
}

/// An instant in a rule: `20250421` or `20250421T100000`, with a `Z` or not. `None` for all else, on which the client
/// throws.
pub(super) fn instant(text: &str) -> Option<Time> {
    let (date, clock) = match text.split_once('T') {
        Some((date, clock)) => (date, clock.strip_suffix('Z').unwrap_or(clock)),
        None => (text, "000000"),
    };
    let digits = |text: &str, count| text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(date, 8) || !digits(clock, 6) {
        return None;
    }
    let part = |text: &str| text.parse().unwrap_or(f64::NAN);
    let (year, month, day) = (part(&date[..4]), part(&date[4..6]), part(&date[6..]));
    Some(time(year, month, day, part(&clock[..2]), part(&clock[2..4]), part(&clock[4..])))
}

/// A date of an event in one of the spellings that the client knows by itself; `None` for all others, which depend on
/// the page's configuration.
pub(crate) fn event_date(text: &str) -> Option<Time> {
    let mut parts = [1.0, 1.0, 1.0, 0.0, 0.0, 0.0];
    let mut lengths = Vec::new();
    let tokens = text.split(|c: char| !c.is_ascii_digit()).filter(|token| !token.is_empty());
    for (at, token) in tokens.take(6).enumerate() {
        parts[at] = token.parse().ok()?;
        lengths.push(token.len());
    }
    let known = |c: char| c.is_ascii_digit() || matches!(c, '-' | '/' | ':' | ' ' | '.' | 'T' | 'Z' | '+' | ',');
    if !text.starts_with(|c: char| c.is_ascii_digit()) || !text.chars().all(known) {
        return None;
    }
    let (year, month, day) = match (lengths.get(..3)?, text.as_bytes().get(2)) {
        ([2, 2, 4], Some(b'/')) => (parts[2], parts[0], parts[1]),
        ([2, 2, 4], Some(b'-')) => (parts[2], parts[1], parts[0]),
        ([digits, ..], _) if *digits >= 4 => (parts[0], parts[1], parts[2]),
        _ => return None,
    };
    let time = time(year, month, day, parts[3], parts[4], parts[5]);
    time.is_finite().then_some(time)
}
