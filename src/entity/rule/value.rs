//! The words and values of rules, and what is wrong with one. Values are as JavaScript has them: the Scheduler's rule reader
//! keeps a text where it finds no whole number, and counts on with that.

use std::fmt;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Frequency {
    #[default]
    Yearly,
    Monthly,
    Weekly,
    Daily,
    Hourly,
    Minutely,
    Secondly,
}

impl Frequency {
    /// Where it steps through the hours (0), the minutes (1) or the seconds (2) of a day.
    pub(super) fn clock_unit(self) -> Option<usize> {
        (self as usize).checked_sub(Self::Hourly as usize)
    }
}

pub(super) const FREQUENCIES: [(&str, Frequency); 7] = [
    ("YEARLY", Frequency::Yearly),
    ("MONTHLY", Frequency::Monthly),
    ("WEEKLY", Frequency::Weekly),
    ("DAILY", Frequency::Daily),
    ("HOURLY", Frequency::Hourly),
    ("MINUTELY", Frequency::Minutely),
    ("SECONDLY", Frequency::Secondly),
];
pub(super) const DAYS: [&str; 7] = ["MO", "TU", "WE", "TH", "FR", "SA", "SU"];

/// The number that the client calculates with where it holds this text.
pub(super) fn number(text: &str) -> f64 {
    let text = text.trim_matches(is_space);
    let radix = |digits: &str, radix| {
        let read = |sum: f64, digit: char| Some(sum * f64::from(radix) + f64::from(digit.to_digit(radix)?));
        if digits.is_empty() { f64::NAN } else { digits.chars().try_fold(0.0, read).unwrap_or(f64::NAN) }
    };
    match text.get(..2) {
        Some("0x" | "0X") => return radix(&text[2..], 16),
        Some("0o" | "0O") => return radix(&text[2..], 8),
        Some("0b" | "0B") => return radix(&text[2..], 2),
        _ => {}
    }
    match text.strip_prefix(['+', '-']).unwrap_or(text) {
        "" if text.is_empty() => 0.0,
        "Infinity" if text.starts_with('-') => f64::NEG_INFINITY,
        "Infinity" => f64::INFINITY,
        // Rust reads "inf" and "nan", too.
        digits if digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-')) => {
            text.parse().unwrap_or(f64::NAN)
        }
        _ => f64::NAN,
    }
}

/// White space where the client looks for it, which splits a rule into lines.
pub(super) fn is_space(c: char) -> bool {
    c == '\u{feff}' || (c.is_whitespace() && c != '\u{85}')
}

/// A value of a part, or a member of a list.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Number(f64),
    /// What is no whole number stays the text it was.
    Text(String),
}

impl Default for Value {
    /// An interval that is not given.
    fn default() -> Self {
        Self::Number(1.0)
    }
}

impl Value {
    pub(super) fn read(text: &str) -> Self {
        let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
        if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
            Self::Number(text.parse().unwrap_or(f64::NAN))
        } else {
            Self::Text(text.to_owned())
        }
    }

    pub(super) fn number(&self) -> f64 {
        match self {
            Self::Number(number) => *number,
            Self::Text(text) => number(text),
        }
    }

    pub(super) fn text(&self) -> String {
        match self {
            // Beside text a number is written out; the two languages do so alike in every size that a date has.
            Self::Number(number) => number.to_string(),
            Self::Text(text) => text.clone(),
        }
    }

    /// The operator `+=`: numbers are added, and a text is appended.
    pub(super) fn add(&mut self, other: &Self) {
        *self = match (&*self, other) {
            (Self::Number(left), Self::Number(right)) => Self::Number(left + right),
            (left, right) => Self::Text(left.text() + &right.text()),
        };
    }
}

/// What a part holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum Values {
    #[default]
    Absent,
    One(Value),
    /// A list of two or more.
    Many(Vec<Value>),
}

impl Values {
    pub(super) fn read(text: &str) -> Self {
        if text.contains(',') {
            Self::Many(text.split(',').map(Value::read).collect())
        } else {
            Self::One(Value::read(text))
        }
    }

    pub(super) fn is_absent(&self) -> bool {
        *self == Self::Absent
    }

    /// What the client calls empty: nothing, or a text without letters.
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Absent => true,
            Self::One(Value::Text(text)) => text.is_empty(),
            Self::One(Value::Number(_)) | Self::Many(_) => false,
        }
    }

    pub(super) fn all(&self) -> &[Value] {
        match self {
            Self::Absent => &[],
            Self::One(value) => std::slice::from_ref(value),
            Self::Many(values) => values,
        }
    }

    /// The members that can equal a number: a text never does.
    pub(super) fn numbers(&self) -> Vec<f64> {
        let number = |value: &Value| if let Value::Number(number) = value { Some(*number) } else { None };
        self.all().iter().filter_map(number).collect()
    }

    /// All members as the numbers that the client calculates with.
    pub(super) fn as_numbers(&self) -> Vec<f64> {
        self.all().iter().map(Value::number).collect()
    }

    /// A filter that is a list everywhere, even where one text stands alone.
    pub(super) fn listed(&self) -> Option<Vec<f64>> {
        (!self.is_absent()).then(|| self.numbers())
    }

    /// A filter of which the client keeps a lone text as text, and then searches that for a number's digits.
    pub(super) fn filter(&self) -> Filter {
        match self {
            _ if self.is_empty() => Filter::Any,
            Self::One(Value::Text(text)) => Filter::Digits(text.clone()),
            _ => Filter::Of(self.numbers()),
        }
    }
}

/// Which numbers pass.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Filter {
    Any,
    Of(Vec<f64>),
    Digits(String),
}

impl Filter {
    pub(super) fn passes(&self, number: f64) -> bool {
        match self {
            Self::Any => true,
            Self::Of(numbers) => numbers.contains(&number),
            Self::Digits(text) => text.contains(&number.to_string()),
        }
    }
}

/// Longer values, and values with other letters than those of rules, are not quoted.
const LONGEST_QUOTE: usize = 24;

/// What is wrong with a rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Fault {
    /// The part, with its value if that may be quoted; empty if no single part is the cause.
    pub(super) part: String,
    /// The page hangs; otherwise it throws.
    pub(super) hangs: bool,
    pub(super) remedy: &'static str,
}

impl Fault {
    pub(super) fn unread(part: &str, value: &str, remedy: &'static str) -> Self {
        Self { part: quoted(part, value), hangs: false, remedy }
    }

    pub(super) fn endless(part: &str, value: &str, remedy: &'static str) -> Self {
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

/// `INTERVAL=-1`. Data of users must not be logged, so a value is shown only if all of it consists of a rule's words and
/// figures.
fn quoted(part: &str, value: &str) -> String {
    let is_figure = |c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.');
    let of_rules = |token: &str| {
        let word = token.trim_start_matches(is_figure).to_ascii_uppercase();
        let is_frequency = FREQUENCIES.iter().any(|(name, _)| *name == word);
        token.chars().all(|c| is_figure(c) || matches!(c, 'T' | 'Z')) || is_frequency || DAYS.contains(&&*word)
    };
    if !value.is_empty() && value.len() <= LONGEST_QUOTE && value.split(',').all(of_rules) {
        format!("{part}={value}")
    } else {
        part.to_owned()
    }
}
