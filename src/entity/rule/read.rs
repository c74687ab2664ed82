//! Reads a rule as the Scheduler does, and finds the part on which it throws.

use super::{
    date::{Time, instant, now},
    fault::Fault,
    value::{Filter, Value, Values, is_space, number},
    words::{DAYS, FREQUENCIES, Frequency},
};

/// One rule, as far as it can be read without the event.
#[derive(Clone, Debug)]
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

/// What is known of a rule while its parts are read: those that are written twice count as they are written last.
#[derive(Default)]
struct Parts<'a> {
    frequency: Option<&'a str>,
    week_start: Option<&'a str>,
    interval: Values,
    count: Values,
    until: Option<Time>,
    set_positions: Option<(&'a str, Values)>,
    weekdays: Option<Vec<(f64, f64)>>,
    months: Values,
    month_days: Values,
    year_days: Values,
    weeks: Values,
    hours: (&'a str, Values),
    minutes: (&'a str, Values),
    seconds: (&'a str, Values),
    easter: Option<f64>,
}

fn parts(line: &str) -> Result<Rule, Fault> {
    let mut parts = Parts::default();
    let start = dtstart(line)?;
    for part in line.split(';') {
        let mut sides = part.split('=');
        let (key, value) = (sides.next().unwrap_or_default(), sides.next());
        parts.take(key, value)?;
    }
    parts.finish(start)
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
                    self.easter = Some(f64::NAN);
                    Ok(())
                }
                known if is_known(known) => Err(Fault::unread(known, "", "give it a value after an equals sign")),
                _ => Err(unknown()),
            };
        };
        match &*upper {
            "FREQ" => self.frequency = Some(value),
            "WKST" => self.week_start = Some(value),
            "INTERVAL" => self.interval = Values::read(value),
            "COUNT" => self.count = Values::read(value),
            "UNTIL" => {
                let why = "send a date such as 20301231 or 20301231T235959Z, in capitals";
                self.until = Some(instant(value).ok_or_else(|| Fault::unread("UNTIL", value, why))?);
            }
            "BYDAY" | "BYWEEKDAY" => {
                let days = value.split(',').map(weekday).collect::<Option<_>>();
                let why = "send weekdays such as MO or -1FR, in capitals, with a number other than 0 or none";
                self.weekdays = Some(days.ok_or_else(|| Fault::unread("BYDAY", value, why))?);
            }
            "BYSETPOS" => self.set_positions = Some((value, Values::read(value))),
            "BYMONTH" => self.months = Values::read(value),
            "BYMONTHDAY" => self.month_days = Values::read(value),
            "BYYEARDAY" => self.year_days = Values::read(value),
            "BYWEEKNO" => self.weeks = Values::read(value),
            "BYHOUR" => self.hours = (value, Values::read(value)),
            "BYMINUTE" => self.minutes = (value, Values::read(value)),
            "BYSECOND" => self.seconds = (value, Values::read(value)),
            "BYEASTER" => self.easter = Some(number(value)),
            "DTSTART" | "TZID" => {}
            _ => return Err(unknown()),
        }
        Ok(())
    }

    fn finish(self, start: Option<Time>) -> Result<Rule, Fault> {
        let named = self.frequency.map(|name| (name, frequency(name)));
        let frequency = match named {
            _ if self.easter.is_some() => Frequency::Yearly,
            None => Frequency::Yearly,
            Some((_, Some(frequency))) => frequency,
            Some((name, None)) => {
                return Err(Fault::unread("FREQ", name, "send YEARLY, MONTHLY, WEEKLY, DAILY or HOURLY"));
            }
        };
        let week_start = self.week_start.map(str::to_uppercase);
        let week_start = DAYS.iter().position(|day| week_start.as_deref() == Some(day));
        // Where the frequency does not step through them, hours, minutes and seconds are lists, and the client does not
        // make one of a lone text.
        let is_nothing = [&self.interval, &self.count].contains(&&Values::One(Value::Number(0.0)));
        for (name, from, (text, values)) in [
            ("BYHOUR", Frequency::Hourly, &self.hours),
            ("BYMINUTE", Frequency::Minutely, &self.minutes),
            ("BYSECOND", Frequency::Secondly, &self.seconds),
        ] {
            if !is_nothing && frequency < from && matches!(values, Values::One(Value::Text(_))) {
                return Err(Fault::unread(name, text, "send whole numbers"));
            }
        }
        Ok(Rule {
            frequency,
            interval: interval(self.interval),
            count: self.count,
            until: self.until,
            week_start: week_start.map_or(0.0, |day| day as f64),
            start,
            set_positions: self.set_positions.map_or(Ok(Vec::new()), |(text, values)| set_positions(text, values))?,
            months: self.months,
            month_days: self.month_days,
            year_days: self.year_days,
            weeks: self.weeks,
            weekdays: self.weekdays,
            hours: self.hours.1,
            minutes: self.minutes.1,
            seconds: self.seconds.1,
            easter: self.easter,
        })
    }
}

impl Rule {
    /// The parts that say on which days there are dates, as they are named.
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

fn frequency(name: &str) -> Option<Frequency> {
    let name = name.to_uppercase();
    FREQUENCIES.iter().find(|(known, _)| **known == name).map(|(_, frequency)| *frequency)
}

/// An absent one is 1; a list is taken for the text it is.
fn interval(values: Values) -> Value {
    match values {
        Values::Absent => Value::Number(1.0),
        Values::One(value) => value,
        Values::Many(_) => Value::Text(",".to_owned()),
    }
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

fn set_positions(text: &str, values: Values) -> Result<Vec<Value>, Fault> {
    let fault = || Fault::unread("BYSETPOS", text, "send whole numbers from 1 to 366 or from -366 to -1");
    match values {
        Values::Absent => Ok(Vec::new()),
        Values::One(Value::Text(text)) if text.is_empty() => Ok(Vec::new()),
        // The client looks at the letters of a text one by one, and at least one is no digit.
        Values::One(Value::Text(_)) => Err(fault()),
        Values::One(value) => set_positions(text, Values::Many(vec![value])),
        Values::Many(values) => {
            let fits = |value: &Value| *value != Value::Number(0.0) && (-366.0..=366.0).contains(&value.number());
            if values.iter().all(fits) { Ok(values) } else { Err(fault()) }
        }
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
        let value = |rest: &'_ str| -> Option<String> {
            let value = rest.strip_prefix([':', '='])?;
            let value = value.split(|c| c == ';' || is_space(c)).next().unwrap_or_default();
            (!value.is_empty()).then(|| value.to_owned())
        };
        if let Some((zone, value)) = zone.and_then(|(zone, rest)| Some((zone, value(rest)?))) {
            if !zone.eq_ignore_ascii_case("UTC") {
                // Which zones a page knows is its browser's matter; it throws on others.
                return Err(Fault::unread("DTSTART", "", "send no TZID with it"));
            }
            return instant(&value).map(Some).ok_or_else(|| Fault::unread(NAME, &value, why));
        }
        if let Some(value) = value(rest) {
            return instant(&value).map(Some).ok_or_else(|| Fault::unread(NAME, &value, why));
        }
    }
    Ok(None)
}

fn is_known(key: &str) -> bool {
    matches!(
        key,
        "FREQ"
            | "WKST"
            | "INTERVAL"
            | "COUNT"
            | "UNTIL"
            | "BYDAY"
            | "BYWEEKDAY"
            | "BYSETPOS"
            | "BYMONTH"
            | "BYMONTHDAY"
            | "BYYEARDAY"
            | "BYWEEKNO"
            | "BYHOUR"
            | "BYMINUTE"
            | "BYSECOND"
            | "BYEASTER"
            | "DTSTART"
            | "TZID"
    )
}

fn unknown() -> Fault {
    Fault::unread(
        "",
        "",
        "send \"\" or the parts of an RFC 5545 rule, without RRULE: in front or a semicolon at the end",
    )
}
