//! What is wrong with a rule.

use std::fmt;

use super::words::{DAYS, FREQUENCIES};

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
