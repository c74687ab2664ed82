//! The SQLite database that events, tasks and links share.
//!
//! A row holds the JSON text of its object; only what is searched for has a column of its own.

use std::{
    error, fmt,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rusqlite::{Connection, Transaction};

/// Clones share one connection.
#[derive(Clone, Debug)]
pub(crate) struct Database {
    connection: Arc<Mutex<Connection>>,
    in_memory: bool,
}

impl Database {
    /// Opens the database in `file`, or an empty one in memory.
    pub(crate) fn open(file: Option<&Path>) -> Result<Self, Error> {
        let connection = match file {
            Some(file) => Connection::open(file)?,
            None => Connection::open_in_memory()?,
        };
        connection.busy_timeout(Duration::from_secs(5))?;
        connection.execute_batch("PRAGMA journal_mode = WAL;")?;
        Ok(Self { connection: Arc::new(Mutex::new(connection)), in_memory: file.is_none() })
    }

    /// Creates what is not there yet: the tables that `schema` describes, each with an id that is given out once, and
    /// what remembers its deletions.
    pub(crate) fn create(&self, schema: &str, tables: &[&str]) -> Result<(), Error> {
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        connection.execute_batch(schema)?;
        for table in tables {
            // What was deleted during the last day stays known by its id, for pages that come back after a long time.
            connection.execute_batch(&format!(
                "CREATE TABLE IF NOT EXISTS deleted_{table} (id INTEGER PRIMARY KEY, at INTEGER NOT NULL);
                CREATE TRIGGER IF NOT EXISTS remember_deleted_{table} AFTER DELETE ON {table} BEGIN
                    DELETE FROM deleted_{table} WHERE at < unixepoch() - 86400;
                    INSERT INTO deleted_{table} VALUES (old.id, unixepoch());
                END;"
            ))?;
            if self.in_memory {
                // Pages opened before a restart still hold the ids of that time; this memory must not give them out
                // again.
                connection.execute("INSERT INTO sqlite_sequence VALUES (?1, unixepoch() * 100)", [table])?;
            }
        }
        Ok(())
    }

    /// Runs `job` in a transaction, on a thread that may block.
    pub(crate) async fn run<T, F>(&self, job: F) -> Result<T, Error>
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

/// Ids are text outside; `007` is not the row `7`.
pub(crate) fn row_id(id: &str) -> Option<i64> {
    id.parse().ok().filter(|number: &i64| number.to_string() == id)
}

/// The ids of what was deleted from a table during the last day.
pub(crate) fn recently_deleted(db: &Connection, table: &str) -> Result<Vec<i64>, Error> {
    let mut query = db.prepare_cached(&format!("SELECT id FROM deleted_{table} WHERE at >= unixepoch() - 86400"))?;
    query.query_map([], |row| row.get(0))?.map(|id| Ok(id?)).collect()
}

/// Why the database did not do what it was asked.
#[derive(Debug)]
pub(crate) enum Error {
    NotFound,
    /// The object itself cannot be stored.
    Invalid(String),
    /// The object does not fit what is stored.
    Conflict(String),
    Internal(Box<dyn error::Error + Send + Sync>),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound => f.write_str("there is nothing of this id"),
            Self::Invalid(why) | Self::Conflict(why) => f.write_str(why),
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
