//! What the fields of an event mean.

use tower_live_updates::{Change, PublishError};

use crate::row::Row;

/// Whether this is a recurring series, and not one of its exceptions.
pub(super) fn is_series(event: &Row) -> bool {
    event.text("rrule").is_some() && series(event).is_none()
}

/// The series that this event is an exception of.
pub(super) fn series(event: &Row) -> Option<String> {
    event.text("recurring_event_id")
}

/// Whether this stands for an occurrence that was taken out of its series.
pub(super) fn is_deleted(event: &Row) -> bool {
    event.get("deleted").is_some_and(|value| matches!(value.get(), "true" | "1" | "\"true\"" | "\"1\""))
}

/// Returns what keeps pages from showing this event: dates that are missing, a rule that their scheduler cannot read.
pub(super) fn check(event: &Row) -> Result<(), String> {
    event.check_size()?;
    let whole = event.clone().with_id(1).map_err(|error| error.to_string())?;
    let change = Change::add(&whole).map_err(|error| error.to_string())?;
    super::events().check(&change).map_err(|error| match error {
        PublishError::BreaksPages { reason, .. } => reason.into_owned(),
        other => other.to_string(),
    })
}
