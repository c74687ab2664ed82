//! The values of a rule's parts as JavaScript has them: the Scheduler's rule reader keeps a text where it finds no whole
//! number, and counts on with that.

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

    fn text(&self) -> String {
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

    /// A filter that is a list everywhere, even where one text stands alone.
    pub(super) fn listed(&self) -> Option<Vec<f64>> {
        match self {
            Self::Absent => None,
            Self::One(value) => Some(numbers(std::slice::from_ref(value))),
            Self::Many(values) => Some(numbers(values)),
        }
    }

    /// A filter of which the client keeps a lone text as text, and then searches that for a number's digits.
    pub(super) fn filter(&self) -> Filter {
        match self {
            Self::Absent => Filter::Any,
            Self::One(Value::Text(text)) if text.is_empty() => Filter::Any,
            Self::One(Value::Text(text)) => Filter::Digits(text.clone()),
            Self::One(value) => Filter::Of(numbers(std::slice::from_ref(value))),
            Self::Many(values) => Filter::Of(numbers(values)),
        }
    }
}

/// The members that can equal a number: a text never does.
pub(super) fn numbers(values: &[Value]) -> Vec<f64> {
    values.iter().filter_map(|value| if let Value::Number(number) = value { Some(*number) } else { None }).collect()
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
