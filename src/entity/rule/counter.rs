//! The client's counter, which leads from one step of a rule to the next.

use super::{
    date::{DAY, Time, civil, is_leap, time, weekday},
    read::Rule,
    value::{Filter, Value},
    words::Frequency,
    year::{COMMON, LEAP},
};

/// After as many steps the clock comes back to where it began.
const HOURS: u32 = 24;
const MINUTES: u32 = 24 * 60;
const SECONDS: u32 = 24 * 60 * 60;
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
    pub(super) hour: Value,
    pub(super) minute: Value,
    pub(super) second: Value,
    pub(super) hours: Filter,
    pub(super) minutes: Filter,
    pub(super) seconds: Filter,
}

impl Counter {
    pub(super) fn new(start: Time, [hours, minutes, seconds]: [Filter; 3]) -> Self {
        let (year, month, day) = civil(start);
        let clock = start.rem_euclid(DAY) / 1000.0;
        let (hour, minute, second) = ((clock / 3600.0).floor(), (clock / 60.0).floor() % 60.0, clock.floor() % 60.0);
        let [year, month, day, hour, minute, second] = [year, month, day, hour, minute, second].map(Value::Number);
        Self { year, month, day, hour, minute, second, hours, minutes, seconds }
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
                self.day.add(&Value::Number(days - back));
                self.fix_day();
            }
            Frequency::Daily => self.add_days(interval),
            Frequency::Hourly => {
                if last_is_filtered {
                    let (hour, hours) = (self.hour.number(), interval.number());
                    self.hour.add(&Value::Number(((23.0 - hour) / hours).floor() * hours));
                }
                self.add_hours(interval)?;
            }
            Frequency::Minutely => {
                if last_is_filtered {
                    let (minute, minutes) = (self.hour.number() * 60.0 + self.minute.number(), interval.number());
                    self.minute.add(&Value::Number(((1439.0 - minute) / minutes).floor() * minutes));
                }
                self.add_minutes(interval)?;
            }
            Frequency::Secondly => {
                if last_is_filtered {
                    let minute = self.hour.number() * 3600.0 + self.minute.number() * 60.0;
                    let (second, seconds) = (minute + self.second.number(), interval.number());
                    self.second.add(&Value::Number(((86_399.0 - second) / seconds).floor() * seconds));
                }
                self.add_seconds(interval)?;
            }
        }
        if self.year.number() > LAST_YEAR {
            return Ok(true);
        }
        // Nothing comes of what is no number, and it stays so.
        let parts = [&self.year, &self.month, &self.day, &self.hour, &self.minute, &self.second];
        if parts.iter().any(|part| part.number().is_nan()) { Err(Endless::Step) } else { Ok(false) }
    }

    fn add_days(&mut self, days: &Value) {
        self.day.add(days);
        self.fix_day();
    }

    fn fix_day(&mut self) {
        let mut day = self.day.number();
        if day <= 28.0 {
            return;
        }
        let (mut year, mut month) = (self.year.number(), self.month.number());
        let length = |year, month: f64| {
            let months = if is_leap(year) { &LEAP } else { &COMMON };
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

    fn add_hours(&mut self, hours: &Value) -> Result<(), Endless> {
        for _ in 0..=HOURS {
            self.hour.add(hours);
            let hour = self.hour.number();
            let days = (hour / 24.0).floor();
            if days != 0.0 && !days.is_nan() {
                self.hour = Value::Number(modulo(hour, 24.0));
                self.add_days(&Value::Number(days));
            }
            if self.hours.passes(self.hour.number()) {
                return Ok(());
            }
            if self.hour.number().is_nan() {
                break;
            }
        }
        Err(Endless::Clock)
    }

    fn add_minutes(&mut self, minutes: &Value) -> Result<(), Endless> {
        for _ in 0..=MINUTES {
            self.minute.add(minutes);
            let minute = self.minute.number();
            let hours = (minute / 60.0).floor();
            if hours != 0.0 && !hours.is_nan() {
                self.minute = Value::Number(modulo(minute, 60.0));
                self.add_hours(&Value::Number(hours))?;
            }
            if self.hours.passes(self.hour.number()) && self.minutes.passes(self.minute.number()) {
                return Ok(());
            }
            if self.hour.number().is_nan() || self.minute.number().is_nan() {
                break;
            }
        }
        Err(Endless::Clock)
    }

    fn add_seconds(&mut self, seconds: &Value) -> Result<(), Endless> {
        for _ in 0..=SECONDS {
            self.second.add(seconds);
            let second = self.second.number();
            let minutes = (second / 60.0).floor();
            if minutes != 0.0 && !minutes.is_nan() {
                self.second = Value::Number(modulo(second, 60.0));
                self.add_minutes(&Value::Number(minutes))?;
            }
            if self.hours.passes(self.hour.number())
                && self.minutes.passes(self.minute.number())
                && self.seconds.passes(self.second.number())
            {
                return Ok(());
            }
            if [&self.hour, &self.minute, &self.second].iter().any(|part| part.number().is_nan()) {
                break;
            }
        }
        Err(Endless::Clock)
    }
}

/// The remainder that has the divisor's sign; `NaN` of what is infinite.
fn modulo(number: f64, divisor: f64) -> f64 {
    number.rem_euclid(divisor)
}
