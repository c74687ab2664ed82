//! The shape of a year: its months, weekdays, numbered weeks and Easter, as the Scheduler's tables have them.

use super::{
    date::{DAY, Time, months, time, weekday},
    read::Rule,
};

/// A year's shape.
pub(super) struct Year {
    pub(super) number: f64,
    /// Days before each month, and after the last.
    pub(super) months: &'static [usize; 13],
    pub(super) length: usize,
    pub(super) next_length: usize,
    /// Of the first of January: time and weekday.
    pub(super) first: Time,
    pub(super) weekday: usize,
    pub(super) is_in_weeks: Option<Vec<bool>>,
}

impl Year {
    pub(super) fn new(number: f64, rule: &Rule) -> Self {
        let months_of_year = months(number);
        let first = time(number, 1.0, 1.0, 0.0, 0.0, 0.0);
        let mut year = Self {
            number,
            months: months_of_year,
            length: months_of_year[12],
            next_length: months(number + 1.0)[12],
            first,
            weekday: weekday(first) as usize,
            is_in_weeks: None,
        };
        if !rule.weeks.is_absent() {
            year.is_in_weeks = Some(year.weeks(rule));
        }
        year
    }

    /// The weekday of a day of the year, counted from 0; the client's table ends after 55 weeks.
    pub(super) fn weekday(&self, day: f64) -> f64 {
        let at = self.weekday as f64 + day;
        if day >= 0.0 && at < 385.0 { at % 7.0 } else { f64::NAN }
    }

    /// Month, day of the month, and that from the month's end, of a day of the year; a week of the next one is known.
    pub(super) fn place(&self, day: usize) -> Option<(f64, f64, f64)> {
        if day >= self.length {
            let over = (day - self.length) as f64;
            return (over < 7.0).then_some((1.0, over + 1.0, over - 31.0));
        }
        let month = self.months.iter().rposition(|first| *first <= day)?;
        let [first, next] = [self.months[month], self.months[month + 1]];
        Some((month as f64 + 1.0, (day - first + 1) as f64, day as f64 - next as f64))
    }

    /// Which days are in one of the rule's weeks.
    fn weeks(&self, rule: &Rule) -> Vec<bool> {
        let mut days = vec![false; self.length + 7];
        let exact = rule.weeks.numbers();
        let week_start = rule.week_start;
        let first = (7.0 - self.weekday as f64 + week_start).rem_euclid(7.0);
        let length = self.length as f64;
        let (start, whole) = if first >= 4.0 {
            (0.0, length + (self.weekday as f64 - week_start).rem_euclid(7.0))
        } else {
            (first, length - first)
        };
        let count = ((whole / 7.0).floor() + whole.rem_euclid(7.0) / 4.0).floor();
        let back = if start == first { 0.0 } else { 7.0 - first };
        let mut mark = |mut at: f64| {
            for _ in 0..7 {
                if at >= 0.0 && at.fract() == 0.0 && (at as usize) < days.len() {
                    days[at as usize] = true;
                }
                at += 1.0;
                if self.weekday(at) == week_start {
                    break;
                }
            }
        };
        for week in rule.weeks.as_numbers() {
            let week = if week < 0.0 { week + count + 1.0 } else { week };
            if week > 0.0 && week <= count {
                mark(if week > 1.0 { start + (week - 1.0) * 7.0 - back } else { start });
            }
        }
        if exact.contains(&1.0) {
            let at = start + count * 7.0 - back;
            if at < length {
                mark(at);
            }
        }
        if start != 0.0 {
            let last = if exact.contains(&-1.0) {
                -1.0
            } else {
                let before = weekday(time(self.number - 1.0, 1.0, 1.0, 0.0, 0.0, 0.0));
                let of_before = months(self.number - 1.0)[12] as f64;
                let rest = if (7.0 - before + week_start).rem_euclid(7.0) >= 4.0 {
                    of_before + (before - week_start).rem_euclid(7.0)
                } else {
                    length - start
                };
                (52.0 + rest.rem_euclid(7.0) / 4.0).floor()
            };
            if exact.contains(&last) {
                days[..start as usize].fill(true);
            }
        }
        days
    }
}

/// The day of the year, from 0, that is so many days behind Easter Sunday.
pub(super) fn easter(year: f64, offset: f64) -> f64 {
    let (a, b, c) = (year % 19.0, (year / 100.0).floor(), year % 100.0);
    let (d, e) = ((b / 4.0).floor(), b % 4.0);
    let f = ((b + 8.0) / 25.0).floor();
    let g = ((b - f + 1.0) / 3.0).floor();
    let h = (19.0 * a + b - d - g + 15.0) % 30.0;
    let (i, k) = ((c / 4.0).floor(), c % 4.0);
    let l = (32.0 + 2.0 * e + 2.0 * i - h - k) % 7.0;
    let m = ((a + 11.0 * h + 22.0 * l) / 451.0).floor();
    let month = ((h + l - 7.0 * m + 114.0) / 31.0).floor();
    let day = (h + l - 7.0 * m + 114.0) % 31.0 + 1.0;
    let at = time(year, month, day + offset, 0.0, 0.0, 0.0) - time(year, 1.0, 1.0, 0.0, 0.0, 0.0);
    at / DAY
}
