//! The client's counter, which leads from one step of a rule to the next.

use super::{
    date::{DAY, Time, civil, months, time, weekday},
    read::Rule,
    value::{Filter, Frequency, Value},
};

/// How many hours, minutes and seconds a day has: after as many steps the clock comes back to where it began.
const OF_A_DAY: [f64; 3] = [24.0, 24.0 * 60.0, 24.0 * 60.0 * 60.0];
/// Where the client gives up.
pub(super) const LAST_YEAR: f64 = 9999.0;

/// Why a page that goes through the dates does not come to an end in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endless {
    /// The step is none, or leads out of the calendar.
    Step,
    /// No step meets the hours, minutes or seconds that are asked for.
    Clock,
    /// It goes on and on.
    Dates { found: bool },
}

/// Where the client is: a date and a time, which are text where an interval was.
pub(super) struct Counter {
    pub(super) year: Value,
    pub(super) month: Value,
    pub(super) day: Value,
    /// The hour, the minute and the second.
    pub(super) clock: [Value; 3],
    filters: [Filter; 3],
}

impl Counter {
    pub(super) fn new(start: Time, filters: [Filter; 3]) -> Self {
        let (year, month, day) = civil(start);
        let clock = start.rem_euclid(DAY) / 1000.0;
        let clock = [(clock / 3600.0).floor(), (clock / 60.0).floor() % 60.0, clock.floor() % 60.0].map(Value::Number);
        let [year, month, day] = [year, month, day].map(Value::Number);
        Self { year, month, day, clock, filters }
    }

    /// Leads to the next step. True when the client stops because there are no more years.
    pub(super) fn advance(&mut self, rule: &Rule, last_is_filtered: bool) -> Result<bool, Endless> {
        let interval = &rule.interval;
        match rule.frequency {
            Frequency::Yearly => self.year.add(interval),
            Frequency::Monthly => {
                self.month.add(interval);
                let month = self.month.number();
                if month > 12.0 {
                    let rest = month % 12.0;
                    self.year.add(&Value::Number((month / 12.0).floor()));
                    self.month = Value::Number(rest);
                    if rest == 0.0 {
                        self.month = Value::Number(12.0);
                        self.year.add(&Value::Number(-1.0));
                    }
                }
            }
            Frequency::Weekly => {
                let week_start = rule.week_start;
                let at = time(self.year.number(), self.month.number(), self.day.number(), 0.0, 0.0, 0.0);
                let (weekday, days) = (weekday(at), interval.number() * 7.0);
                let back = if week_start > weekday { weekday + 1.0 + (6.0 - week_start) } else { weekday - week_start };
                self.add_days(&Value::Number(days - back));
            }
            Frequency::Daily => self.add_days(interval),
            Frequency::Hourly | Frequency::Minutely | Frequency::Secondly => {
                let unit = rule.frequency.clock_unit().unwrap_or_default();
                if last_is_filtered {
                    // The client steps over the rest of the day.
                    let weights = &[3600.0, 60.0, 1.0][2 - unit..];
                    let passed: f64 = self.clock.iter().zip(weights).map(|(part, weight)| part.number() * weight).sum();
                    let step = interval.number();
                    self.clock[unit].add(&Value::Number(((OF_A_DAY[unit] - 1.0 - passed) / step).floor() * step));
                }
                self.add_time(unit, interval)?;
            }
        }
        if self.year.number() > LAST_YEAR {
            return Ok(true);
        }
        // Nothing comes of what is no number, and it stays so.
        let mut parts = [&self.year, &self.month, &self.day].into_iter().chain(&self.clock);
        if parts.any(|part| part.number().is_nan()) { Err(Endless::Step) } else { Ok(false) }
    }

    fn add_days(&mut self, days: &Value) {
        self.day.add(days);
        let mut day = self.day.number();
        if day <= 28.0 {
            return;
        }
        let (mut year, mut month) = (self.year.number(), self.month.number());
        let length = |year, month: f64| {
            let months = months(year);
            (months[month as usize] - months[month as usize - 1]) as f64
        };
        let mut is_over = false;
        while !is_over && day > length(year, month) {
            day -= length(year, month);
            month += 1.0;
            if month == 13.0 {
                month = 1.0;
                year += 1.0;
                is_over = year > LAST_YEAR;
            }
            self.day = Value::Number(day);
        }
        self.year = Value::Number(year);
        self.month = Value::Number(month);
    }

    /// Steps the hour (0), the minute (1) or the second (2), until the filters down to that unit pass.
    fn add_time(&mut self, unit: usize, amount: &Value) -> Result<(), Endless> {
        let of_next = if unit == 0 { 24.0 } else { 60.0 };
        for _ in 0..=OF_A_DAY[unit] as u32 {
            self.clock[unit].add(amount);
            let number = self.clock[unit].number();
            let carry = (number / of_next).floor();
            if carry != 0.0 && !carry.is_nan() {
                self.clock[unit] = Value::Number(number.rem_euclid(of_next));
                match unit.checked_sub(1) {
                    None => self.add_days(&Value::Number(carry)),
                    Some(larger) => self.add_time(larger, &Value::Number(carry))?,
                }
            }
            if self.passes(unit) {
                return Ok(());
            }
            if self.clock[..=unit].iter().any(|part| part.number().is_nan()) {
                break;
            }
        }
        Err(Endless::Clock)
    }

    /// Whether the hour, and the minute and second down to this unit, are among those that the rule asks for.
    pub(super) fn passes(&self, unit: usize) -> bool {
        self.clock.iter().zip(&self.filters).take(unit + 1).all(|(part, filter)| filter.passes(part.number()))
    }
}
