//! What the fields of a task mean.

use rusqlite::Connection;
use serde_json::{Number, Value};

use super::dates::Dates;
use crate::{database::Error, row::Row};

/// The fields that the Gantt reads as dates.
const DATES: [&str; 4] = ["start_date", "end_date", "deadline", "constraint_date"];
const NUMBERS: [&str; 2] = ["duration", "progress"];
const FLAGS: [&str; 2] = ["open", "unscheduled"];

/// The fields of a task that are stored in its JSON text. Its parent and its place have columns of their own, and fields
/// with a `$` are the page's.
pub(super) fn stored_fields(mut sent: Row) -> Row {
    sent.keep(|field| !matches!(field, "parent" | "sortorder" | "target") && !field.starts_with('$'));
    sent
}

/// Brings a task into its stored form, or returns what keeps pages from showing it.
pub(super) fn prepare(db: &Connection, dates: Dates, task: &mut Row) -> Result<(), Error> {
    task.check_size().map_err(Error::Invalid)?;
    // A form-encoded body knows only text, and `"false"` is true for a page.
    for name in NUMBERS {
        if task.is_empty(name) {
            continue;
        }
        let Some(number) = task.text(name).and_then(|text| text.parse::<Number>().ok()) else {
            return Err(Error::Invalid(format!("the {name} of a task is a number")));
        };
        task.set(name, &number)?;
    }
    for name in FLAGS {
        if let Some(flag) = task.text(name).and_then(|text| text.parse::<bool>().ok()) {
            task.set(name, &flag)?;
        }
    }
    for name in DATES {
        if task.is_empty(name) {
            continue;
        }
        let stored = task.text(name).map(|sent| dates.stored(db, &sent)).transpose()?.flatten();
        let Some(stored) = stored else { return Err(Error::Invalid(unreadable(task, name))) };
        task.set(name, &stored)?;
    }
    if task.is_empty("start_date") && !is_unscheduled(task) {
        return Err(Error::Invalid(
            "a task needs its start_date, unless it is unscheduled; send the whole task".to_owned(),
        ));
    }
    Ok(())
}

fn unreadable(task: &Row, name: &str) -> String {
    format!(
        "pages cannot read the {name} {}; send it as text, such as 2025-04-10T00:00:00.000Z or 2025-04-10 00:00",
        task.get(name).map_or("", |value| value.get())
    )
}

fn is_unscheduled(task: &Row) -> bool {
    task.get("unscheduled")
        .is_some_and(|value| serde_json::from_str(value.get()).is_ok_and(|value: Value| value == true))
}
