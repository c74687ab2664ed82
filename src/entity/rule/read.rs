//! Reads a rule as the Scheduler does, and finds the part on which it throws.

use super::{
    date::{Time, instant, now},
    value::{DAYS, FREQUENCIES, Fault, Filter, Frequency, Value, Values, is_space, number},
};

/// One rule, as far as it can be read without the event.
#[derive(Clone, Debug, Default)]
pub(super) struct Rule {
    pub(super) frequency: Frequency,
    pub(super) interval: Value,
    pub(super) count: Values,
    /// The client puts the event's end in the place of the last rule's.
    pub(super) until: Option<Time>,
    /// Monday is 0.
    pub(super) week_start: f64,
    /// It stands in for the event's own start.
    pub(super) start: Option<Time>,
    pub(super) set_positions: Vec<Value>,
    pub(super) months: Values,
    pub(super) month_days: Values,
    pub(super) year_days: Values,
    pub(super) weeks: Values,
    /// Weekdays, each with its number in month or year if it has one.
    pub(super) weekdays: Option<Vec<(f64, f64)>>,
    pub(super) hours: Values,
    pub(super) minutes: Values,
    pub(super) seconds: Values,
    pub(super) easter: Option<f64>,
}

/// The rules in an event's `rrule`: mostly one. White space sets several apart.
pub(super) fn read(text: &str) -> Result<Vec<Rule>, Fault> {
    let mut rules = Vec::new();
    let lines: Vec<&str> = text.split(is_space).collect();
    let (first, last) = (0, lines.len() - 1);
    let mut start = None;
    if lines.len() > 1 {
        // Of several the client starts each now, unless one names a start.
        start = dtstart(text)?.or_else(|| Some(now()));
    }
    for (at, line) in lines.into_iter().enumerate() {
        let rule = match line.split_once(':') {
            // The client writes "RRULE:" in front of the first.
            _ if at == first => parts(line)?,
            // An empty last line is no rule of its own, but what follows it, the client's UNTIL, would be one.
            None if line.is_empty() && at != last => continue,
            // It would take such a line for a property of iCalendar.
            None if !line.split(';').next().is_some_and(|part| part.contains('=')) => return Err(unknown()),
            None => parts(line)?,
            Some((name, rule)) if name.eq_ignore_ascii_case("RRULE") || name.eq_ignore_ascii_case("EXRULE") => {
                parts(rule)?
            }
            Some(_) => return Err(Fault::unread("", "", "send one rule and nothing else")),
        };
        rules.push(Rule { start: start.or(rule.start), ..rule });
    }
    Ok(rules)
}

/// A rule while its parts are read: those that are written twice count as they are written last.
#[derive(Default)]
struct Parts<'a> {
    rule: Rule,
    frequency: Option<&'a str>,
    set_positions: Option<&'a str>,
    /// Of hours, minutes and seconds.
    clock: [&'a str; 3],
}

fn parts(line: &str) -> Result<Rule, Fault> {
    let mut parts = Parts::default();
    parts.rule.start = dtstart(line)?;
    for part in line.split(';') {
        let mut sides = part.split('=');
        let (key, value) = (sides.next().unwrap_or_default(), sides.next());
        parts.take(key, value)?;
    }
    parts.finish()
}

impl<'a> Parts<'a> {
    fn take(&mut self, key: &str, value: Option<&'a str>) -> Result<(), Fault> {
        let upper = key.to_uppercase();
        // Numbers are kept under the key in small letters, of which a few strange ones have the capitals of others.
        if !key.is_ascii()
            && !matches!(&*upper, "FREQ" | "WKST" | "UNTIL" | "BYDAY" | "BYWEEKDAY" | "DTSTART" | "TZID" | "BYEASTER")
        {
            return Err(unknown());
        }
        // Without a sign of equality these parts are read, all others are not.
        let Some(value) = value else {
            return match &*upper {
                "DTSTART" | "TZID" => Ok(()),
                "BYEASTER" => {
                    self.rule.easter = Some(f64::NAN);
                    Ok(())
                }
                known if is_known(known) => Err(Fault::unread(known, "", "give it a value after an equals sign")),
                _ => Err(unknown()),
            };
        };
        let rule = &mut self.rule;
        match &*upper {
            "FREQ" => self.frequency = Some(value),
            "WKST" => {
                let value = value.to_uppercase();
                rule.week_start = DAYS.iter().position(|day| *day == value).map_or(0.0, |day| day as f64);
            }
            "INTERVAL" => rule.interval = interval(value),
            "COUNT" => rule.count = Values::read(value),
            "UNTIL" => {
                let why = "send a date such as 20301231 or 20301231T235959Z, in capitals";
                rule.until = Some(instant(value).ok_or_else(|| Fault::unread("UNTIL", value, why))?);
            }
            "BYDAY" | "BYWEEKDAY" => {
                let days = value.split(',').map(weekday).collect::<Option<_>>();
                let why = "send weekdays such as MO or -1FR, in capitals, with a number other than 0 or none";
                rule.weekdays = Some(days.ok_or_else(|| Fault::unread("BYDAY", value, why))?);
            }
            "BYSETPOS" => self.set_positions = Some(value),
            "BYMONTH" => rule.months = Values::read(value),
            "BYMONTHDAY" => rule.month_days = Values::read(value),
            "BYYEARDAY" => rule.year_days = Values::read(value),
            "BYWEEKNO" => rule.weeks = Values::read(value),
            "BYHOUR" => (self.clock[0], rule.hours) = (value, Values::read(value)),
            "BYMINUTE" => (self.clock[1], rule.minutes) = (value, Values::read(value)),
            "BYSECOND" => (self.clock[2], rule.seconds) = (value, Values::read(value)),
            "BYEASTER" => rule.easter = Some(number(value)),
            "DTSTART" | "TZID" => {}
            _ => return Err(unknown()),
        }
        Ok(())
    }

    fn finish(self) -> Result<Rule, Fault> {
        let mut rule = self.rule;
        if let Some(name) = self.frequency.filter(|_| rule.easter.is_none()) {
            let why = "send YEARLY, MONTHLY, WEEKLY, DAILY or HOURLY";
            let upper = name.to_uppercase();
            let known = FREQUENCIES.iter().find(|(known, _)| **known == upper);
            rule.frequency = known.ok_or_else(|| Fault::unread("FREQ", name, why))?.1;
        }
        // Where the frequency does not step through them, hours, minutes and seconds are lists, and the client does not
        // make one of a lone text.
        let clock = [
            ("BYHOUR", Frequency::Hourly, &rule.hours),
            ("BYMINUTE", Frequency::Minutely, &rule.minutes),
            ("BYSECOND", Frequency::Secondly, &rule.seconds),
        ];
        for ((name, from, values), text) in clock.into_iter().zip(self.clock) {
            if !rule.is_nothing() && rule.frequency < from && matches!(values, Values::One(Value::Text(_))) {
                return Err(Fault::unread(name, text, "send whole numbers"));
            }
        }
        if let Some(text) = self.set_positions {
            rule.set_positions = set_positions(text)?;
        }
        Ok(rule)
    }
}

impl Rule {
    /// No dates come of it.
    pub(super) fn is_nothing(&self) -> bool {
        self.interval == Value::Number(0.0) || self.count == Values::One(Value::Number(0.0))
    }

    /// The names of the parts that select the days of the dates.
    pub(super) fn day_parts(&self) -> Vec<&'static str> {
        let named = [
            ("BYMONTH", !self.months.is_absent()),
            ("BYMONTHDAY", !self.month_days.is_absent()),
            ("BYYEARDAY", !self.year_days.is_absent()),
            ("BYWEEKNO", !self.weeks.is_absent()),
            ("BYDAY", self.weekdays.is_some()),
            ("BYSETPOS", !self.set_positions.is_empty()),
        ];
        named.into_iter().filter_map(|(name, is_there)| is_there.then_some(name)).collect()
    }

    pub(super) fn filters(&self) -> [Filter; 3] {
        [&self.hours, &self.minutes, &self.seconds].map(Values::filter)
    }
}

/// A list is taken for the text it is.
fn interval(text: &str) -> Value {
    if text.contains(',') { Value::Text(",".to_owned()) } else { Value::read(text) }
}

/// `MO`, `-1FR`, `+13TU`: Monday is 0, and so is a number that is not there.
fn weekday(text: &str) -> Option<(f64, f64)> {
    let split = text.len().checked_sub(2).filter(|at| text.is_char_boundary(*at))?;
    let (nth, day) = text.split_at(split);
    let day = DAYS.iter().position(|known| *known == day)? as f64;
    if nth.is_empty() {
        return Some((day, 0.0));
    }
    let digits = nth.strip_prefix(['+', '-']).unwrap_or(nth);
    let is_number = matches!(digits.len(), 1 | 2) && digits.bytes().all(|byte| byte.is_ascii_digit());
    let nth = nth.parse().ok().filter(|nth: &f64| is_number && *nth != 0.0)?;
    Some((day, nth))
}

fn set_positions(text: &str) -> Result<Vec<Value>, Fault> {
    let values = Values::read(text);
    let fits = |value: &Value| *value != Value::Number(0.0) && (-366.0..=366.0).contains(&value.number());
    match &values {
        Values::One(Value::Text(text)) if text.is_empty() => Ok(Vec::new()),
        // The client looks at the letters of a text one by one, and at least one is no digit.
        values if !matches!(values, Values::One(Value::Text(_))) && values.all().iter().all(fits) => {
            Ok(values.all().to_vec())
        }
        _ => Err(Fault::unread("BYSETPOS", text, "send whole numbers from 1 to 366 or from -366 to -1")),
    }
}

/// The start in a rule, which the client looks for anywhere in it: `DTSTART=20250421T100000Z`, or with a colon.
fn dtstart(text: &str) -> Result<Option<Time>, Fault> {
    const NAME: &str = "DTSTART";
    let why = "send a date such as 20250421T100000Z";
    for (at, _) in text.char_indices() {
        let Some(rest) = text.get(at..at + NAME.len()).filter(|name| name.eq_ignore_ascii_case(NAME)) else { continue };
        let rest = &text[at + rest.len()..];
        let zone = rest.get(..6).filter(|zone| zone.eq_ignore_ascii_case(";TZID=")).and_then(|_| {
            let end = rest[6..].find([':', '='])?;
            (end > 0).then(|| (&rest[6..6 + end], &rest[6 + end..]))
        });
        let value = |rest: &str| -> Option<String> {
            let value = rest.strip_prefix([':', '='])?;
            let value = value.split(|c| c == ';' || is_space(c)).next().unwrap_or_default();
            (!value.is_empty()).then(|| value.to_owned())
        };
        let zoned = zone.and_then(|(zone, rest)| Some((zone, value(rest)?)));
        if zoned.as_ref().is_some_and(|(zone, _)| !zone.eq_ignore_ascii_case("UTC")) {
            // Which zones a page knows is its browser's matter; it throws on others.
            return Err(Fault::unread("DTSTART", "", "send no TZID with it"));
        }
        if let Some(value) = zoned.map(|(_, value)| value).or_else(|| value(rest)) {
            return instant(&value).map(Some).ok_or_else(|| Fault::unread(NAME, &value, why));
        }
    }
    Ok(None)
}

fn is_known(key: &str) -> bool {
    const KNOWN: &str = "FREQ WKST INTERVAL COUNT UNTIL BYDAY BYWEEKDAY BYSETPOS BYMONTH BYMONTHDAY BYYEARDAY BYWEEKNO \
                         BYHOUR BYMINUTE BYSECOND BYEASTER DTSTART TZID";
    KNOWN.split(' ').any(|known| known == key)
}

fn unknown() -> Fault {
    let why = "send \"\" or the parts of an RFC 5545 rule, without RRULE: in front or a semicolon at the end";
    Fault::unread("", "", why)
}
