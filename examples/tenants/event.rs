//! One event, and who may see what of it.

use serde::{Deserialize, Serialize};

/// Dates as the scheduler writes them.
const DATE: &[u8] = b"0000-00-00 00:00";

/// An event as the store holds it, or as a user sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Event {
    pub(crate) id: String,
    pub(crate) owner: String,
    pub(crate) private: bool,
    pub(crate) text: String,
    pub(crate) start_date: String,
    pub(crate) end_date: String,
    /// Missing for all users but the owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) notes: Option<String>,
}

impl Event {
    /// Whether a user of the owner's company sees it.
    pub(crate) fn is_visible_to(&self, name: &str) -> bool {
        !self.private || self.owner == name
    }

    /// What a user sees of it.
    pub(crate) fn seen_by(self, name: &str) -> Self {
        let notes = self.notes.filter(|_| self.owner == name);
        Self { notes, ..self }
    }
}

/// An event as a page sends it. The owner is not part of it: a page cannot choose that.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Draft {
    pub(crate) text: String,
    pub(crate) start_date: String,
    pub(crate) end_date: String,
    /// Counts when the owner sends it; missing, it stays as it is.
    pub(crate) private: Option<bool>,
    /// As `private`.
    pub(crate) notes: Option<String>,
}

impl Draft {
    /// Whether pages can show it: the scheduler fails at dates that it cannot read.
    pub(crate) fn has_dates(&self) -> bool {
        [&self.start_date, &self.end_date].into_iter().all(|date| {
            date.len() == DATE.len()
                && date
                    .bytes()
                    .zip(DATE)
                    .all(|(found, form)| if *form == b'0' { found.is_ascii_digit() } else { found == *form })
        })
    }
}
