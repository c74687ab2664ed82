//! Tasks and links in SQLite.

use rusqlite::{Connection, OptionalExtension, params};
use serde::Serialize;
use serde_json::value::RawValue;
use tower_live_updates::Snapshot;

use super::{
    dates::Dates,
    order::{self, Place},
    task,
};
use crate::{
    database::{Database, Error, recently_deleted, row_id},
    row::Row,
};

// The parent of a root task is 0.
const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS tasks (
        id        INTEGER PRIMARY KEY AUTOINCREMENT,
        parent    INTEGER NOT NULL,
        sortorder REAL NOT NULL,
        body      TEXT NOT NULL
    );
    CREATE INDEX IF NOT EXISTS tasks_parent ON tasks (parent, sortorder);
    CREATE TABLE IF NOT EXISTS links (
        id     INTEGER PRIMARY KEY AUTOINCREMENT,
        source INTEGER NOT NULL,
        target INTEGER NOT NULL,
        body   TEXT NOT NULL
    );
    CREATE INDEX IF NOT EXISTS links_source ON links (source);
    CREATE INDEX IF NOT EXISTS links_target ON links (target);";

const ROOT: i64 = 0;

/// The tasks and links of the chart.
#[derive(Clone, Debug)]
pub(crate) struct Chart {
    database: Database,
    dates: Dates,
}

/// What a page loads.
#[derive(Serialize)]
pub(crate) struct Contents {
    tasks: Vec<Row>,
    links: Vec<Row>,
}

/// A task as it is stored now, and the others whose numbers its move has changed.
pub(super) struct Changed {
    pub(super) task: Row,
    pub(super) siblings: Vec<Row>,
}

/// What went with a task: the tasks under it, the lowest first, and every link that named one of them; and the siblings
/// that have other numbers now.
pub(super) struct Deleted {
    pub(super) tasks: Vec<String>,
    pub(super) links: Vec<String>,
    pub(super) siblings: Vec<Row>,
}

impl Chart {
    pub(crate) fn open(database: Database, dates: Dates) -> Result<Self, Error> {
        database.create(SCHEMA, &["tasks", "links"])?;
        Ok(Self { database, dates })
    }

    pub(crate) async fn contents(&self) -> Result<Contents, Error> {
        self.database.run(|db| Ok(Contents { tasks: all_tasks(db)?, links: all_links(db)? })).await
    }

    pub(crate) async fn tasks_snapshot(&self) -> Result<Snapshot<Row>, Error> {
        self.database.run(|db| Ok(Snapshot::new(all_tasks(db)?).deleted(recently_deleted(db, "tasks")?))).await
    }

    pub(crate) async fn links_snapshot(&self) -> Result<Snapshot<Row>, Error> {
        self.database.run(|db| Ok(Snapshot::new(all_links(db)?).deleted(recently_deleted(db, "links")?))).await
    }

    pub(crate) async fn task(&self, id: &str) -> Result<Option<Row>, Error> {
        let Some(id) = row_id(id) else { return Ok(None) };
        self.database.run(move |db| Ok(find_task(db, id)?.map(Task::into_row).transpose()?)).await
    }

    pub(crate) async fn link(&self, id: &str) -> Result<Option<Row>, Error> {
        let Some(id) = row_id(id) else { return Ok(None) };
        self.database.run(move |db| Ok(find_link(db, id)?.map(Link::into_row).transpose()?)).await
    }

    /// Stores a new task, behind the other children of its parent.
    pub(super) async fn create_task(&self, sent: Row) -> Result<(String, Row), Error> {
        let dates = self.dates;
        self.database
            .run(move |db| {
                let parent = parent_in(db, &sent)?.unwrap_or(ROOT);
                let mut body = task::stored_fields(sent);
                task::prepare(db, dates, &mut body)?;
                let sortorder = Place::Last.find(db, parent, ROOT)?.unwrap_or_default();
                db.prepare_cached("INSERT INTO tasks (parent, sortorder, body) VALUES (?1, ?2, ?3)")?
                    .execute(params![parent, sortorder, serde_json::to_string(&body)?])?;
                let id = db.last_insert_rowid();
                Ok((id.to_string(), Task { id, parent, sortorder, body }.into_row()?))
            })
            .await
    }

    /// Merges fields into a task, and moves it where they say so.
    pub(super) async fn update_task(&self, id: &str, changes: Row) -> Result<Changed, Error> {
        let id = row_id(id).ok_or(Error::NotFound)?;
        let dates = self.dates;
        self.database
            .run(move |db| {
                let mut task = find_task(db, id)?.ok_or(Error::NotFound)?;
                let former_parent = task.parent;
                let has_moved = relocate(db, &mut task, &changes)?;
                task.body.merge(task::stored_fields(changes));
                task::prepare(db, dates, &mut task.body)?;
                db.prepare_cached("UPDATE tasks SET parent = ?2, sortorder = ?3, body = ?4 WHERE id = ?1")?
                    .execute(params![id, task.parent, task.sortorder, serde_json::to_string(&task.body)?])?;
                let mut siblings = Vec::new();
                if has_moved {
                    siblings.extend(order::number(db, task.parent)?);
                    if former_parent != task.parent {
                        siblings.extend(order::number(db, former_parent)?);
                    }
                    siblings.retain(|sibling| *sibling != id);
                    task = find_task(db, id)?.ok_or(Error::NotFound)?;
                }
                Ok(Changed { task: task.into_row()?, siblings: rows(db, siblings)? })
            })
            .await
    }

    /// Deletes a task with everything under it, and with the links of all those. None if it is not there.
    pub(super) async fn delete_task(&self, id: &str) -> Result<Option<Deleted>, Error> {
        let Some(id) = row_id(id) else { return Ok(None) };
        self.database
            .run(move |db| {
                let Some(task) = find_task(db, id)? else { return Ok(None) };
                let below = below(db, id)?;
                let mut links = Vec::new();
                for task in below.iter().copied().chain([id]) {
                    links.extend(
                        db.prepare_cached("DELETE FROM links WHERE source = ?1 OR target = ?1 RETURNING id")?
                            .query_map([task], |row| Ok(row.get::<_, i64>(0)?.to_string()))?
                            .collect::<Result<Vec<_>, _>>()?,
                    );
                    db.prepare_cached("DELETE FROM tasks WHERE id = ?1")?.execute([task])?;
                }
                let siblings = order::number(db, task.parent)?;
                let (tasks, siblings) = (below.iter().map(i64::to_string).collect(), rows(db, siblings)?);
                Ok(Some(Deleted { tasks, links, siblings }))
            })
            .await
    }

    pub(super) async fn create_link(&self, sent: Row) -> Result<(String, Row), Error> {
        self.database
            .run(move |db| {
                let mut link = Link {
                    id: 0,
                    source: end_in(db, &sent, "source")?,
                    target: end_in(db, &sent, "target")?,
                    body: sent,
                };
                link.check()?;
                db.prepare_cached("INSERT INTO links (source, target, body) VALUES (?1, ?2, ?3)")?.execute(params![
                    link.source,
                    link.target,
                    serde_json::to_string(&link.body)?
                ])?;
                link.id = db.last_insert_rowid();
                Ok((link.id.to_string(), link.into_row()?))
            })
            .await
    }

    pub(super) async fn update_link(&self, id: &str, changes: Row) -> Result<Row, Error> {
        let id = row_id(id).ok_or(Error::NotFound)?;
        self.database
            .run(move |db| {
                let mut link = find_link(db, id)?.ok_or(Error::NotFound)?;
                if changes.get("source").is_some() {
                    link.source = end_in(db, &changes, "source")?;
                }
                if changes.get("target").is_some() {
                    link.target = end_in(db, &changes, "target")?;
                }
                link.body.merge(changes);
                link.check()?;
                db.prepare_cached("UPDATE links SET source = ?2, target = ?3, body = ?4 WHERE id = ?1")?
                    .execute(params![id, link.source, link.target, serde_json::to_string(&link.body)?])?;
                Ok(link.into_row()?)
            })
            .await
    }

    /// False if the link is not there.
    pub(super) async fn delete_link(&self, id: &str) -> Result<bool, Error> {
        let Some(id) = row_id(id) else { return Ok(false) };
        self.database.run(move |db| Ok(db.prepare_cached("DELETE FROM links WHERE id = ?1")?.execute([id])? > 0)).await
    }
}

struct Task {
    id: i64,
    parent: i64,
    sortorder: f64,
    body: Row,
}

impl Task {
    fn into_row(self) -> Result<Row, serde_json::Error> {
        let mut row = self.body.with_id(self.id)?;
        if self.parent == ROOT {
            row.set("parent", &ROOT)?;
        } else {
            row.set("parent", &self.parent.to_string())?;
        }
        // `2` and not `2.0`, as pages send it.
        row.set("sortorder", &RawValue::from_string(self.sortorder.to_string())?)?;
        Ok(row)
    }
}

struct Link {
    id: i64,
    source: i64,
    target: i64,
    body: Row,
}

impl Link {
    fn check(&self) -> Result<(), Error> {
        if self.source == self.target {
            return Err(Error::Conflict("a link needs two tasks".to_owned()));
        }
        self.body.check_size().map_err(Error::Invalid)
    }

    fn into_row(self) -> Result<Row, serde_json::Error> {
        let mut row = self.body.with_id(self.id)?;
        row.set("source", &self.source.to_string())?;
        row.set("target", &self.target.to_string())?;
        Ok(row)
    }
}

/// Moves a task under the parent that the changes name, and to the place among its siblings. Returns whether it has another
/// place then; the siblings are to be numbered anew.
fn relocate(db: &Connection, task: &mut Task, changes: &Row) -> Result<bool, Error> {
    // A page names a new parent by a temporary id, and once more when it knows the right one.
    let parent = parent_in(db, changes)?.unwrap_or(task.parent);
    if is_at_or_above(db, task.id, parent)? {
        return Err(Error::Conflict("a task cannot be moved under itself".to_owned()));
    }
    let target = changes.text("target").and_then(|target| Place::from_target(&target));
    let mut placed: Option<f64> = None;
    if let Some(place) = target {
        placed = place.find(db, parent, task.id)?;
    }
    if placed.is_none() && parent != task.parent {
        placed = Place::Last.find(db, parent, task.id)?;
    }
    task.parent = parent;
    let Some(placed) = placed else { return Ok(false) };
    task.sortorder = placed;
    Ok(true)
}

fn rows(db: &Connection, tasks: Vec<i64>) -> Result<Vec<Row>, Error> {
    let found = tasks.into_iter().filter_map(|id| find_task(db, id).transpose());
    found.map(|task| Ok(task?.into_row()?)).collect()
}

/// The parent that a task names. None if it names none, or one that is not there.
fn parent_in(db: &Connection, task: &Row) -> Result<Option<i64>, Error> {
    if task.get("parent").is_none() {
        return Ok(None);
    }
    match task.text("parent") {
        None => Ok(Some(ROOT)),
        Some(root) if root == "0" => Ok(Some(ROOT)),
        Some(id) => task_of(db, &id),
    }
}

/// The task that a link names as one of its ends.
fn end_in(db: &Connection, link: &Row, name: &str) -> Result<i64, Error> {
    let id = link.text(name).ok_or_else(|| Error::Invalid(format!("a link needs its {name}, the id of a task")))?;
    task_of(db, &id)?.ok_or_else(|| Error::Conflict(format!("there is no task {id} for the {name} of this link")))
}

/// The id as a number, if there is such a task.
fn task_of(db: &Connection, id: &str) -> Result<Option<i64>, Error> {
    let Some(id) = row_id(id) else { return Ok(None) };
    Ok(db.prepare_cached("SELECT id FROM tasks WHERE id = ?1")?.query_row([id], |row| row.get(0)).optional()?)
}

fn is_at_or_above(db: &Connection, task: i64, below: i64) -> Result<bool, Error> {
    let mut query = db.prepare_cached(
        "WITH RECURSIVE up (id) AS (
            VALUES (?2)
            UNION SELECT tasks.parent FROM tasks JOIN up ON tasks.id = up.id
        )
        SELECT 1 FROM up WHERE id = ?1",
    )?;
    Ok(query.exists([task, below])?)
}

/// The tasks under another one, the lowest first.
fn below(db: &Connection, task: i64) -> Result<Vec<i64>, Error> {
    let mut query = db.prepare_cached(
        "WITH RECURSIVE below (id, depth) AS (
            SELECT id, 1 FROM tasks WHERE parent = ?1
            UNION ALL SELECT tasks.id, depth + 1 FROM tasks JOIN below ON tasks.parent = below.id
        )
        SELECT id FROM below ORDER BY depth DESC, id",
    )?;
    query.query_map([task], |row| row.get(0))?.map(|id| Ok(id?)).collect()
}

/// All tasks, parents in front of their children, and siblings in their order.
fn all_tasks(db: &Connection) -> Result<Vec<Row>, Error> {
    let mut query = db.prepare_cached(
        "WITH RECURSIVE tree (id, depth) AS (
            SELECT id, 0 FROM tasks WHERE parent = 0
            UNION ALL SELECT tasks.id, depth + 1 FROM tasks JOIN tree ON tasks.parent = tree.id
        )
        SELECT id, parent, sortorder, body FROM tree JOIN tasks USING (id) ORDER BY depth, parent, sortorder, id",
    )?;
    query.query_map([], read_task)?.map(|task| Ok(task??.into_row()?)).collect()
}

fn find_task(db: &Connection, id: i64) -> Result<Option<Task>, Error> {
    let mut query = db.prepare_cached("SELECT id, parent, sortorder, body FROM tasks WHERE id = ?1")?;
    Ok(query.query_row([id], read_task).optional()?.transpose()?)
}

type Read<T> = Result<Result<T, serde_json::Error>, rusqlite::Error>;

fn read_task(row: &rusqlite::Row<'_>) -> Read<Task> {
    let (id, parent, sortorder) = (row.get(0)?, row.get(1)?, row.get(2)?);
    Ok(serde_json::from_str(&row.get::<_, String>(3)?).map(|body| Task { id, parent, sortorder, body }))
}

fn all_links(db: &Connection) -> Result<Vec<Row>, Error> {
    let mut query = db.prepare_cached("SELECT id, source, target, body FROM links ORDER BY id")?;
    query.query_map([], read_link)?.map(|link| Ok(link??.into_row()?)).collect()
}

fn find_link(db: &Connection, id: i64) -> Result<Option<Link>, Error> {
    let mut query = db.prepare_cached("SELECT id, source, target, body FROM links WHERE id = ?1")?;
    Ok(query.query_row([id], read_link).optional()?.transpose()?)
}

fn read_link(row: &rusqlite::Row<'_>) -> Read<Link> {
    let (id, source, target) = (row.get(0)?, row.get(1)?, row.get(2)?);
    Ok(serde_json::from_str(&row.get::<_, String>(3)?).map(|body| Link { id, source, target, body }))
}
