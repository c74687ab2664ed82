//! The order of siblings: each task has a number, and the list is sorted by it.

use rusqlite::{Connection, params};

/// Where a task goes among the children of its parent.
pub(super) enum Place {
    /// In front of the sibling of this id.
    Before(i64),
    /// Behind the sibling of this id.
    Behind(i64),
    Last,
}

/// A task's number, and the siblings that got new ones to make room for it.
pub(super) struct Placed {
    pub(super) number: f64,
    pub(super) renumbered: Vec<i64>,
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

    /// Finds a number for a task under `parent`. None if the sibling that the place names is not there.
    pub(super) fn find(&self, db: &Connection, parent: i64, task: i64) -> Result<Option<Placed>, rusqlite::Error> {
        let siblings: Vec<(i64, f64)> = db
            .prepare_cached("SELECT id, sortorder FROM tasks WHERE parent = ?1 AND id <> ?2 ORDER BY sortorder, id")?
            .query_map([parent, task], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<Result<_, _>>()?;
        let find = |id| siblings.iter().position(|(sibling, _)| *sibling == id);
        let at = match *self {
            Self::Before(id) => find(id),
            Self::Behind(id) => find(id).map(|at| at + 1),
            Self::Last => Some(siblings.len()),
        };
        let Some(at) = at else { return Ok(None) };
        let number = |at: Option<usize>| Some(siblings.get(at?)?.1);
        if let Some(number) = between(number(at.checked_sub(1)), number(Some(at))) {
            return Ok(Some(Placed { number, renumbered: Vec::new() }));
        }
        let mut save = db.prepare_cached("UPDATE tasks SET sortorder = ?2 WHERE id = ?1")?;
        let (mut next, mut own) = (1.0, 1.0);
        for (index, (id, _)) in siblings.iter().enumerate() {
            if index == at {
                own = next;
                next += 1.0;
            }
            save.execute(params![id, next])?;
            next += 1.0;
        }
        Ok(Some(Placed { number: own, renumbered: siblings.iter().map(|(id, _)| *id).collect() }))
    }
}

/// A number between two others. None if they are too close to each other.
fn between(low: Option<f64>, high: Option<f64>) -> Option<f64> {
    match (low, high) {
        (None, None) => Some(1.0),
        (Some(low), None) => Some(low.floor() + 1.0),
        (None, Some(high)) => Some(high.ceil() - 1.0),
        (Some(low), Some(high)) => Some(f64::midpoint(low, high)).filter(|middle| low < *middle && *middle < high),
    }
}
