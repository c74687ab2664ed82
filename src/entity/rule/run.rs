//! Expands a rule step by step, as the Scheduler does, and adds up what that takes a page.

use super::{
    counter::{Counter, Endless, LAST_YEAR},
    date::{DAY, Time, time, time_of_day, weekday},
    read::Rule,
    value::{Filter, Frequency, Value, Values},
    year::{Year, easter},
};

/// How long a page may draw once, in microseconds on a desktop. A page draws several times in a row, and phones are several
/// times as slow.
pub(super) const MOST: f64 = 500_000.0;
/// The cost of one step, whatever it finds. A year has many days to check, and a month is copied day by day.
pub(super) const STEP: f64 = 2.5;
const STEP_OF_A_MONTH: f64 = 4.0;
const STEP_OF_A_YEAR: f64 = 16.0;
/// The cost of one time of the day on a day that counts.
pub(super) const DATE: f64 = 1.0;
/// The additional cost of a date in view.
pub(super) const DRAWN: f64 = 5.0;
/// After this many years the calendar repeats, weekdays included.
const CYCLE: f64 = 400.0;
pub(super) const WEEK: f64 = 7.0 * DAY;

/// One expansion of a rule.
pub(super) struct Run<'r> {
    rule: &'r Rule,
    start: Time,
    /// After the first date behind it the client stops.
    until: Option<Time>,
    /// The last instant in view.
    to: Time,
    count: Option<f64>,
    at: Counter,
    shape: Year,
    months: Option<Vec<f64>>,
    month_days: Vec<f64>,
    month_days_back: Vec<f64>,
    has_month_days: bool,
    year_days: Filter,
    weekdays: Vec<f64>,
    /// Weekdays with a number, where the frequency gives it a meaning.
    numbered: Vec<(f64, f64)>,
    /// Times of the day.
    minute_list: Vec<f64>,
    second_list: Vec<f64>,
    times: Vec<Time>,
    /// The days of the month or year that numbered weekdays fall on.
    marked: Option<(f64, f64, Vec<bool>)>,
    spent: f64,
    /// There was a date, if only before the start.
    came: bool,
    found: bool,
    /// Dates in the week that was gone through last.
    week: (f64, f64),
}

impl<'r> Run<'r> {
    /// `None` if the client stops before the first step.
    pub(super) fn new(rule: &'r Rule, start: Time, until: Option<Time>, to: Time) -> Option<Self> {
        let zero = Values::One(Value::Number(0.0));
        if rule.is_nothing() {
            return None;
        }
        let count = match &rule.count {
            count if count.is_empty() => None,
            Values::One(value) => Some(value.number()),
            _ => Some(f64::NAN),
        };
        let at = Counter::new(start, rule.filters());
        let [year, month, day] = [&at.year, &at.month, &at.day].map(Value::number);
        let [hour, minute, second] = at.clock.each_ref().map(Value::number);
        let frequency = rule.frequency;
        let list = |values: &Values, own: f64| if values.is_absent() { vec![own] } else { values.as_numbers() };
        // A rule that names no days takes those of its start.
        let names_days = !rule.weeks.is_absent() && rule.weeks != Values::One(Value::Text(String::new()))
            || !rule.year_days.is_empty()
            || !rule.month_days.is_empty()
            || rule.weekdays.is_some()
            || rule.easter.is_some();
        let mut months = rule.months.listed();
        let mut month_days = rule.month_days.clone();
        let mut weekdays: Vec<(f64, f64)> = rule.weekdays.clone().unwrap_or_default();
        match frequency {
            Frequency::Yearly if !names_days => {
                let is_nothing = rule.months.is_empty() || rule.months == zero;
                months = if is_nothing { Some(vec![month]) } else { months };
                month_days = Values::One(Value::Number(day));
            }
            Frequency::Monthly if !names_days => month_days = Values::One(Value::Number(day)),
            Frequency::Weekly if !names_days => weekdays = vec![(weekday(start), 0.0)],
            _ => {}
        }
        let has_numbers = frequency <= Frequency::Monthly;
        let numbered = weekdays.iter().copied().filter(|(_, nth)| has_numbers && *nth != 0.0).collect();
        let plain = weekdays.iter().filter(|(_, nth)| !has_numbers || *nth == 0.0).map(|(day, _)| *day).collect();
        let (back, forth) = month_days.numbers().into_iter().partition(|number| *number < 0.0);
        let has_month_days = match &month_days {
            Values::Absent => false,
            Values::One(_) => true,
            Values::Many(values) => values.iter().any(|value| value.number() < 0.0 || value.number() > 0.0),
        };
        let mut run = Self {
            rule,
            start,
            until,
            to,
            count,
            at,
            shape: Year::new(year, rule),
            months,
            month_days: forth,
            month_days_back: back,
            has_month_days,
            year_days: rule.year_days.filter(),
            weekdays: plain,
            numbered,
            minute_list: list(&rule.minutes, minute),
            second_list: list(&rule.seconds, second),
            times: Vec::new(),
            marked: None,
            spent: 0.0,
            came: false,
            found: false,
            week: (f64::NAN, 0.0),
        };
        match frequency.clock_unit() {
            None => push_times(&mut run.times, &list(&rule.hours, hour), &run.minute_list, &run.second_list),
            Some(unit) if run.at.passes(unit) => run.set_times(),
            Some(_) => {}
        }
        Some(run)
    }

    fn set_times(&mut self) {
        self.times.clear();
        let [hour, minute, second] = self.at.clock.each_ref().map(Value::number);
        let (minutes, seconds): (&[f64], &[f64]) = match self.rule.frequency {
            Frequency::Hourly => (&self.minute_list, &self.second_list),
            Frequency::Minutely => (&[minute], &self.second_list),
            _ => (&[minute], &[second]),
        };
        push_times(&mut self.times, &[hour], minutes, seconds);
        self.times.sort_by(f64::total_cmp);
    }

    pub(super) fn go(&mut self) -> Result<(), Endless> {
        let (step, of_a_cycle) = match self.rule.frequency {
            Frequency::Yearly => (STEP_OF_A_YEAR, CYCLE),
            Frequency::Monthly => (STEP_OF_A_MONTH, 12.0 * CYCLE),
            Frequency::Weekly => (STEP, 20_871.0),
            Frequency::Daily => (STEP, 146_097.0),
            _ => (STEP, f64::INFINITY),
        };
        let interval = self.rule.interval.number();
        let is_periodic =
            matches!(self.rule.interval, Value::Number(_)) && interval >= 1.0 && self.rule.easter.is_none();
        let mut steps = 0.0;
        let mut days = Vec::new();
        while self.spent <= MOST {
            self.spent += step;
            steps += 1.0;
            // What has not come by then never does: the client goes on to its last year.
            if steps > of_a_cycle && is_periodic && !self.came {
                let years = LAST_YEAR + 1.0 - self.at.year.number();
                self.spent += years / CYCLE * of_a_cycle / interval * step;
                break;
            }
            let last_is_filtered = self.days(&mut days);
            let is_over = if self.rule.set_positions.is_empty() { self.every(&days) } else { self.positions(&days) };
            if is_over || self.at.advance(self.rule, last_is_filtered)? {
                break;
            }
            if self.rule.frequency >= Frequency::Hourly {
                self.set_times();
            }
            if self.shape.number != self.at.year.number() {
                self.shape = Year::new(self.at.year.number(), self.rule);
            }
        }
        // The last step may have been a long one.
        if self.spent > MOST { Err(Endless::Dates { found: self.found }) } else { Ok(()) }
    }

    /// The days of the current step that count, from the first of January. True if its last day does not.
    fn days(&mut self, days: &mut Vec<usize>) -> bool {
        days.clear();
        let Some((start, end)) = self.stretch() else { return false };
        self.mark();
        days.extend((start..end).filter(|day| self.counts(*day)));
        days.last() != Some(&(end - 1))
    }

    /// The first day of the year that the current step covers, and the day behind its last. `None` if no day can count.
    fn stretch(&self) -> Option<(usize, usize)> {
        let ordinal = || {
            let at = time(self.at.year.number(), self.at.month.number(), self.at.day.number(), 0.0, 0.0, 0.0);
            let day = ((at - self.shape.first) / DAY).round();
            // A step backwards leads before the year, where there is nothing to be found any more.
            (day >= 0.0).then_some(day as usize)
        };
        match self.rule.frequency {
            Frequency::Yearly => Some((0, self.shape.length)),
            Frequency::Monthly => {
                let month = self.at.month.number();
                let is_whole = month.fract() == 0.0 && (1.0..=12.0).contains(&month);
                // A month that has become text must be written like a number.
                let is_miswritten = matches!(&self.at.month, Value::Text(text) if *text != month.to_string());
                if !is_whole || is_miswritten {
                    return None;
                }
                let months = self.shape.months;
                Some((months[month as usize - 1], months[month as usize]))
            }
            Frequency::Weekly => {
                let start = ordinal()?;
                let ends_week = |end: &usize| self.shape.weekday(*end as f64) == self.rule.week_start;
                Some((start, (start + 1..start + 7).find(ends_week).unwrap_or(start + 7)))
            }
            _ => ordinal().map(|day| (day, day + 1)),
        }
    }

    /// Marks the days that numbered weekdays fall on.
    fn mark(&mut self) {
        if self.numbered.is_empty() {
            return;
        }
        let (year, month) = (self.shape.number, self.at.month.number());
        let is_marked = matches!(&self.marked, Some((of_year, of_month, _)) if *of_year == year
            && (self.rule.frequency == Frequency::Yearly || *of_month == month));
        if is_marked {
            return;
        }
        let bounds = self.shape.months;
        let of_month = |month: f64| {
            let is_one = (1.0..=12.0).contains(&month) && month.fract() == 0.0;
            is_one.then(|| (bounds[month as usize - 1] as f64, bounds[month as usize] as f64 - 1.0))
        };
        let ranges: Vec<(f64, f64)> = match (self.rule.frequency, &self.months) {
            (Frequency::Yearly, None) => vec![(0.0, self.shape.length as f64 - 1.0)],
            (Frequency::Yearly, Some(months)) => months.iter().filter_map(|month| of_month(*month)).collect(),
            _ => of_month(month).into_iter().collect(),
        };
        let mut days = vec![false; self.shape.length];
        for (first, last) in ranges {
            for (weekday, nth) in &self.numbered {
                let day = if *nth < 0.0 {
                    let day = last + (nth + 1.0) * 7.0;
                    day - (self.shape.weekday(day) - weekday).rem_euclid(7.0)
                } else {
                    let day = first + (nth - 1.0) * 7.0;
                    day + (7.0 - self.shape.weekday(day) + weekday).rem_euclid(7.0)
                };
                if first <= day && day <= last {
                    days[day as usize] = true;
                }
            }
        }
        self.marked = Some((year, month, days));
    }

    fn counts(&self, day: usize) -> bool {
        let place = self.shape.place(day);
        let is_month = |months: &Vec<f64>| place.is_some_and(|(month, ..)| months.contains(&month));
        let is_month_day = || {
            place.is_some_and(|(_, forth, back)| {
                self.month_days.contains(&forth) || self.month_days_back.contains(&back)
            })
        };
        let of_year = |length: usize, start: usize| {
            let at = day as f64;
            self.year_days.passes(at + 1.0 - start as f64) || self.year_days.passes(at - (length + start) as f64)
        };
        let is_year_day = || match self.shape.length {
            length if day < length => of_year(length, 0),
            length => of_year(self.shape.next_length, length),
        };
        self.months.as_ref().is_none_or(is_month)
            && self.shape.is_in_weeks.as_ref().is_none_or(|days| days.get(day).is_some_and(|is_in| *is_in))
            && (self.weekdays.is_empty() || self.weekdays.contains(&self.shape.weekday(day as f64)))
            && self.marked.as_ref().is_none_or(|(.., days)| days.get(day).is_some_and(|is_marked| *is_marked))
            && self.rule.easter.is_none_or(|offset| easter(self.shape.number, offset) == day as f64)
            && (!self.has_month_days || is_month_day())
            && (self.year_days == Filter::Any || is_year_day())
    }

    /// All times of all days. True when the client stops.
    fn every(&mut self, days: &[usize]) -> bool {
        days.iter().any(|day| {
            let midnight = self.shape.first + *day as f64 * DAY;
            (0..self.times.len()).any(|at| self.accept(midnight + self.times[at])) || self.spent > MOST
        })
    }

    /// Of these dates, those at the rule's `BYSETPOS`.
    fn positions(&mut self, days: &[usize]) -> bool {
        let count = self.times.len() as f64;
        let mut dates = Vec::new();
        for position in &self.rule.set_positions {
            self.spent += DATE;
            let is_back = position.number() < 0.0;
            let position = if is_back { position.number() } else { position.number() - 1.0 };
            let (day, at) = ((position / count).floor(), position.rem_euclid(count));
            let day = if day < 0.0 {
                days.get(days.len().saturating_sub(-day as usize))
            } else if day.is_finite() {
                days.get(day as usize)
            } else {
                None
            };
            let Some(day) = day else { continue };
            // Where there is no such time, it is midnight.
            let whole = at.is_finite() && at.fract() == 0.0;
            let clock = if whole { self.times.get(at as usize).copied() } else { None };
            dates.push(self.shape.first + *day as f64 * DAY + clock.unwrap_or(0.0));
        }
        dates.retain(|date| !date.is_nan());
        dates.sort_by(f64::total_cmp);
        dates.into_iter().any(|date| self.accept(date))
    }

    /// Takes a date. True when the client stops after it.
    fn accept(&mut self, date: Time) -> bool {
        self.spent += DATE;
        // What is no date is neither late nor early, and is passed over.
        if date.abs() > 8.64e15 || date.is_nan() {
            return false;
        }
        self.came = true;
        if self.until.is_some_and(|until| date > until) {
            return true;
        }
        if date < self.start {
            return false;
        }
        if date > self.to {
            return true;
        }
        self.found = true;
        let week = (date / WEEK).floor();
        if self.week.0 != week {
            // What was drawn of another week is not drawn now.
            self.spent -= self.week.1;
            self.week = (week, 0.0);
        }
        self.week.1 += DRAWN;
        self.spent += DRAWN;
        let Some(count) = &mut self.count else { return false };
        *count -= 1.0;
        // 0, or no number.
        *count == 0.0 || count.is_nan()
    }
}

fn push_times(times: &mut Vec<Time>, hours: &[f64], minutes: &[f64], seconds: &[f64]) {
    for hour in hours {
        for minute in minutes {
            times.extend(seconds.iter().map(|second| time_of_day(*hour, *minute, *second)));
        }
    }
}
