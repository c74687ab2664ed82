//! Events in SQLite.
//!
//! An event's row holds its JSON text; only what is searched for has a column of its own.

use std::{
    error, fmt,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use tower_live_updates::Snapshot;

use crate::event::Event;

// AUTOINCREMENT: an id is never given out twice, or pages that missed a delete would take one event for another.
// What was deleted during the last day stays known by its id, for pages that come back after a long time.
const SCHEMA: &str = "
    PRAGMA journal_mode = WAL;
    CREATE TABLE IF NOT EXISTS events (
        id     INTEGER PRIMARY KEY AUTOINCREMENT,
        series TEXT,
        body   TEXT NOT NULL
    );
    CREATE INDEX IF NOT EXISTS events_series ON events (series) WHERE series IS NOT NULL;
    CREATE TABLE IF NOT EXISTS deleted_events (id INTEGER PRIMARY KEY, at INTEGER NOT NULL);
    CREATE TRIGGER IF NOT EXISTS remember_deleted AFTER DELETE ON events BEGIN
        DELETE FROM deleted_events WHERE at < unixepoch() - 86400;
        INSERT INTO deleted_events VALUES (old.id, unixepoch());
    END;";

/// The events. Clones share one database.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    connection: Arc<Mutex<Connection>>,
}

/// An event as it is stored now, and the ids of the exceptions its change took with it.
pub(crate) struct Changed {
    pub(crate) event: Event,
    pub(crate) dropped: Vec<String>,
}

/// What a delete came to.
pub(crate) enum Deleted {
    /// The row is gone, and so are the exceptions of these ids.
    Gone { dropped: Vec<String> },
    /// An exception stays, marked deleted: it is what hides its occurrence.
    Marked(Event),
}

impl Store {
    /// Opens the database in `file`, or an empty one in memory.
    pub(crate) fn open(file: Option<&Path>) -> Result<Self, Error> {
        let connection = match file {
            Some(file) => Connection::open(file)?,
            None => Connection::open_in_memory()?,
        };
        connection.busy_timeout(Duration::from_secs(5))?;
        connection.execute_batch(SCHEMA)?;
        if file.is_none() {
            // Pages opened before a restart still hold the ids of that time; this memory must not give them out again.
            connection.execute("INSERT INTO sqlite_sequence VALUES ('events', unixepoch() * 100)", [])?;
        }
        Ok(Self { connection: Arc::new(Mutex::new(connection)) })
    }

    pub(crate) async fn list(&self) -> Result<Vec<Event>, Error> {
        self.run(|db| all(db)).await
    }

    /// Everything that is there, and what was deleted during the last day.
    pub(crate) async fn snapshot(&self) -> Result<Snapshot<Event>, Error> {
        self.run(|db| {
            let mut query = db.prepare_cached("SELECT id FROM deleted_events WHERE at >= unixepoch() - 86400")?;
            let deleted: Vec<i64> = query.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
            Ok(Snapshot::new(all(db)?).deleted(deleted))
        })
        .await
    }

    pub(crate) async fn get(&self, id: &str) -> Result<Option<Event>, Error> {
        let Some(id) = row_id(id) else {
            return Ok(None);
        };
        self.run(move |db| Ok(find(db, id)?.map(|event| event.with_id(id)).transpose()?)).await
    }

    /// Stores a new event and returns it with its id.
    pub(crate) async fn create(&self, event: Event) -> Result<(String, Event), Error> {
        self.run(move |db| {
            event.check().map_err(Error::Invalid)?;
            db.prepare_cached("INSERT INTO events (series, body) VALUES (?1, ?2)")?
                .execute(params![event.series(), serde_json::to_string(&event)?])?;
            let id = db.last_insert_rowid();
            Ok((id.to_string(), event.with_id(id)?))
        })
        .await
    }

    /// Merges fields into an event. Exceptions of a series do not outlive a change of it.
    pub(crate) async fn update(&self, id: &str, changes: Event) -> Result<Changed, Error> {
        let id = row_id(id).ok_or(Error::NotFound)?;
        self.run(move |db| {
            let mut event = find(db, id)?.ok_or(Error::NotFound)?;
            let series_changes = changes.get("rrule").is_some() && event.is_series();
            event.merge(changes);
            event.check().map_err(Error::Invalid)?;
            save(db, id, &event)?;
            let dropped = if series_changes { drop_exceptions(db, id)? } else { Vec::new() };
            Ok(Changed { event: event.with_id(id)?, dropped })
        })
        .await
    }

    /// Deletes an event, a series together with its exceptions.
    pub(crate) async fn delete(&self, id: &str) -> Result<Deleted, Error> {
        let id = row_id(id).ok_or(Error::NotFound)?;
        self.run(move |db| {
            let mut event = find(db, id)?.ok_or(Error::NotFound)?;
            if event.series().is_some() {
                event.mark_deleted()?;
                save(db, id, &event)?;
                return Ok(Deleted::Marked(event.with_id(id)?));
            }
            let dropped = drop_exceptions(db, id)?;
            db.prepare_cached("DELETE FROM events WHERE id = ?1")?.execute([id])?;
            Ok(Deleted::Gone { dropped })
        })
        .await
    }

    /// Runs `job` in a transaction, on a thread that may block.
    async fn run<T, F>(&self, job: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>) -> Result<T, Error> + Send + 'static,
    {
        let connection = Arc::clone(&self.connection);
        tokio::task::spawn_blocking(move || {
            // A job that panicked left no trace: its transaction was rolled back as it unwound.
            let mut connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
            let transaction = connection.transaction()?;
            let result = job(&transaction)?;
            transaction.commit()?;
            Ok(result)
        })
        .await?
    }
}

/// Ids are text outside; `007` is not the event `7`.
fn row_id(id: &str) -> Option<i64> {
    id.parse().ok().filter(|number: &i64| number.to_string() == id)
}

fn all(db: &Connection) -> Result<Vec<Event>, Error> {
    let mut query = db.prepare_cached("SELECT id, body FROM events ORDER BY id")?;
    let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    rows.map(|row| {
        let (id, body): (i64, String) = row?;
        Ok(serde_json::from_str::<Event>(&body)?.with_id(id)?)
    })
    .collect()
}

fn find(db: &Connection, id: i64) -> Result<Option<Event>, Error> {
    let body: Option<String> =
        db.prepare_cached("SELECT body FROM events WHERE id = ?1")?.query_row([id], |row| row.get(0)).optional()?;
    Ok(body.map(|body| serde_json::from_str(&body)).transpose()?)
}

fn save(db: &Connection, id: i64, event: &Event) -> Result<(), Error> {
    db.prepare_cached("UPDATE events SET series = ?2, body = ?3 WHERE id = ?1")?.execute(params![
        id,
        event.series(),
        serde_json::to_string(event)?
    ])?;
    Ok(())
}

fn drop_exceptions(db: &Connection, series: i64) -> Result<Vec<String>, Error> {
    db.prepare_cached("DELETE FROM events WHERE series = ?1 RETURNING id")?
        .query_map([series.to_string()], |row| Ok(row.get::<_, i64>(0)?.to_string()))?
        .map(|id| Ok(id?))
        .collect()
}

/// Why the store did not do what it was asked.
#[derive(Debug)]
pub(crate) enum Error {
    NotFound,
    Invalid(String),
    Internal(Box<dyn error::Error + Send + Sync>),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound => f.write_str("there is no event of this id"),
            Self::Invalid(why) => f.write_str(why),
            Self::Internal(_) => f.write_str("the store failed"),
        }
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Internal(source) => Some(&**source),
            _ => None,
        }
    }
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        Self::Internal(error.into())
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        Self::Internal(error.into())
    }
}

impl From<tokio::task::JoinError> for Error {
    fn from(error: tokio::task::JoinError) -> Self {
        Self::Internal(error.into())
    }
}
