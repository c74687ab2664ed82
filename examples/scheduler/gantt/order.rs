//! The order of siblings: the children of each task are numbered from 0, and the list is sorted by that.

use rusqlite::{Connection, OptionalExtension, params};

/// Where a task goes among the children of its parent.
pub(super) enum Place {
    /// In front of the sibling of this id.
    Before(i64),
    /// Behind the sibling of this id.
    Behind(i64),
    Last,
}

impl Place {
    /// Reads what the Gantt sends as `target` with a task that was dragged: the id of the next sibling, `next:` with
    /// the id of the previous one, or `next:null`.
    pub(super) fn from_target(target: &str) -> Option<Self> {
        match target.strip_prefix("next:") {
            Some("null") => Some(Self::Last),
            Some(id) => id.parse().ok().map(Self::Behind),
            None => target.parse().ok().map(Self::Before),
        }
    }

    /// A number for a task under `parent`, until the siblings are numbered anew. None if the sibling that the place names
    /// is not there.
    pub(super) fn find(&self, db: &Connection, parent: i64, task: i64) -> Result<Option<f64>, rusqlite::Error> {
        let beside = |sibling: i64, step: f64| {
            let number: Option<f64> = db
                .prepare_cached("SELECT sortorder FROM tasks WHERE parent = ?1 AND id = ?2 AND id <> ?3")?
                .query_row([parent, sibling, task], |row| row.get(0))
                .optional()?;
            Ok(number.map(|number| number + step))
        };
        match *self {
            Self::Before(id) => beside(id, -0.5),
            Self::Behind(id) => beside(id, 0.5),
            Self::Last => db
                .prepare_cached("SELECT COALESCE(MAX(sortorder) + 1, 0) FROM tasks WHERE parent = ?1 AND id <> ?2")?
                .query_row([parent, task], |row| row.get(0))
                .map(Some),
        }
    }
}

/// Numbers the children of a task from 0. Returns those that have other numbers now.
pub(super) fn number(db: &Connection, parent: i64) -> Result<Vec<i64>, rusqlite::Error> {
    db.prepare_cached(
        "UPDATE tasks SET sortorder = numbered.place
        FROM (
            SELECT id, ROW_NUMBER() OVER (ORDER BY sortorder, id) - 1 AS place FROM tasks WHERE parent = ?1
        ) AS numbered
        WHERE tasks.id = numbered.id AND tasks.sortorder <> numbered.place
        RETURNING tasks.id",
    )?
    .query_map(params![parent], |row| row.get(0))?
    .collect()
}
