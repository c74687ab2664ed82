//! Dates of tasks: which ones pages can read, and the form they are stored in.

use clap::ValueEnum;
use rusqlite::{Connection, OptionalExtension};

/// The form that dates are stored and listed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Dates {
    /// As the page sent them.
    AsSent,
    /// ISO 8601 in UTC, such as `2025-04-10T00:00:00.000Z`. A date without a zone is taken for UTC.
    Iso,
}

impl Dates {
    /// The stored form of a date that a page sent, unless it is none that pages can read.
    pub(super) fn stored(self, db: &Connection, sent: &str) -> Result<Option<String>, rusqlite::Error> {
        let Some(readable) = with_colon_in_zone(sent) else { return Ok(None) };
        // SQLite takes 30 February for the second of March.
        let iso: Option<String> = db
            .prepare_cached("SELECT strftime('%Y-%m-%dT%H:%M:%fZ', ?1) WHERE date(?2) = ?2")?
            .query_row([&*readable, &sent[..DAY.len()]], |row| row.get(0))
            .optional()?
            .flatten();
        Ok(iso.map(|iso| if self == Self::Iso { iso } else { sent.to_owned() }))
    }
}

const DAY: &str = "dddd-dd-dd";

/// A date as SQLite reads it, which wants `+02:00` where pages also read `+0200`. None for a date in another form than
/// `YYYY-MM-DD`, `YYYY-MM-DD HH:MM[:SS]` and ISO 8601.
fn with_colon_in_zone(date: &str) -> Option<String> {
    let is = |text: &str, pattern: &str| {
        text.len() == pattern.len()
            && text.bytes().zip(pattern.bytes()).all(|(byte, expected)| match expected {
                b'd' => byte.is_ascii_digit(),
                other => byte == other,
            })
    };
    let (day, rest) = date.split_at_checked(DAY.len())?;
    if !is(day, DAY) {
        return None;
    }
    if rest.is_empty() || is(rest, " dd:dd") || is(rest, " dd:dd:dd") {
        return Some(date.to_owned());
    }
    let rest = rest.strip_prefix('T')?;
    let at = rest.find(['Z', '+', '-']).unwrap_or(rest.len());
    let (time, zone) = rest.split_at(at);
    let (seconds, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let readable = (is(time, "dd:dd") || is(seconds, "dd:dd:dd"))
        && !fraction.is_empty()
        && fraction.bytes().all(|byte| byte.is_ascii_digit());
    let zone = match zone {
        "" | "Z" => zone.to_owned(),
        _ if is(&zone[1..], "dd:dd") => zone.to_owned(),
        _ if is(&zone[1..], "dddd") => format!("{}:{}", &zone[..3], &zone[3..]),
        _ => return None,
    };
    readable.then(|| format!("{day}T{time}{zone}"))
}
