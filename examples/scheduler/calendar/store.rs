//! Events in SQLite.

use rusqlite::{Connection, OptionalExtension, params};
use tower_live_updates::Snapshot;

use super::event;
use crate::{
    database::{Database, Error, recently_deleted, row_id},
    row::Row,
};

// AUTOINCREMENT: an id is never given out twice, or pages that missed a delete would take one event for another.
// `remember_deleted` is what the trigger of the deletions was called before there were other tables.
const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS events (
        id     INTEGER PRIMARY KEY AUTOINCREMENT,
        series TEXT,
        body   TEXT NOT NULL
    );
    CREATE INDEX IF NOT EXISTS events_series ON events (series) WHERE series IS NOT NULL;
    DROP TRIGGER IF EXISTS remember_deleted;";

/// The events.
#[derive(Clone, Debug)]
pub(crate) struct Events {
    database: Database,
}

/// An event as it is stored now, and the ids of the exceptions its change took with it.
pub(crate) struct Changed {
    pub(crate) event: Row,
    pub(crate) dropped: Vec<String>,
}

/// What a delete came to.
pub(crate) enum Deleted {
    /// The row is gone, and so are the exceptions of these ids.
    Gone { dropped: Vec<String> },
    /// An exception stays, marked deleted: it is what hides its occurrence.
    Marked(Row),
}

impl Events {
    pub(crate) fn open(database: Database) -> Result<Self, Error> {
        database.create(SCHEMA, &["events"])?;
        Ok(Self { database })
    }

    pub(crate) async fn list(&self) -> Result<Vec<Row>, Error> {
        self.database.run(|db| all(db)).await
    }

    /// Everything that is there, and what was deleted during the last day.
    pub(crate) async fn snapshot(&self) -> Result<Snapshot<Row>, Error> {
        self.database.run(|db| Ok(Snapshot::new(all(db)?).deleted(recently_deleted(db, "events")?))).await
    }

    pub(crate) async fn get(&self, id: &str) -> Result<Option<Row>, Error> {
        let Some(id) = row_id(id) else {
            return Ok(None);
        };
        self.database.run(move |db| Ok(find(db, id)?.map(|event| event.with_id(id)).transpose()?)).await
    }

    /// Stores a new event and returns it with its id.
    pub(crate) async fn create(&self, event: Row) -> Result<(String, Row), Error> {
        self.database
            .run(move |db| {
                event::check(&event).map_err(Error::Invalid)?;
                db.prepare_cached("INSERT INTO events (series, body) VALUES (?1, ?2)")?
                    .execute(params![event::series(&event), serde_json::to_string(&event)?])?;
                let id = db.last_insert_rowid();
                Ok((id.to_string(), event.with_id(id)?))
            })
            .await
    }

    /// Merges fields into an event. Exceptions of a series do not outlive a change of it.
    pub(crate) async fn update(&self, id: &str, changes: Row) -> Result<Changed, Error> {
        let id = row_id(id).ok_or(Error::NotFound)?;
        self.database
            .run(move |db| {
                let mut event = find(db, id)?.ok_or(Error::NotFound)?;
                let series_changes = changes.get("rrule").is_some() && event::is_series(&event);
                event.merge(changes);
                event::check(&event).map_err(Error::Invalid)?;
                save(db, id, &event)?;
                let dropped = if series_changes { drop_exceptions(db, id)? } else { Vec::new() };
                Ok(Changed { event: event.with_id(id)?, dropped })
            })
            .await
    }

    /// Deletes an event, a series together with its exceptions.
    pub(crate) async fn delete(&self, id: &str) -> Result<Deleted, Error> {
        let id = row_id(id).ok_or(Error::NotFound)?;
        self.database
            .run(move |db| {
                let mut event = find(db, id)?.ok_or(Error::NotFound)?;
                if event::series(&event).is_some() {
                    event.set("deleted", &true)?;
                    save(db, id, &event)?;
                    return Ok(Deleted::Marked(event.with_id(id)?));
                }
                let dropped = drop_exceptions(db, id)?;
                db.prepare_cached("DELETE FROM events WHERE id = ?1")?.execute([id])?;
                Ok(Deleted::Gone { dropped })
            })
            .await
    }
}

fn all(db: &Connection) -> Result<Vec<Row>, Error> {
    let mut query = db.prepare_cached("SELECT id, body FROM events ORDER BY id")?;
    let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    rows.map(|row| {
        let (id, body): (i64, String) = row?;
        Ok(serde_json::from_str::<Row>(&body)?.with_id(id)?)
    })
    .collect()
}

fn find(db: &Connection, id: i64) -> Result<Option<Row>, Error> {
    let body: Option<String> =
        db.prepare_cached("SELECT body FROM events WHERE id = ?1")?.query_row([id], |row| row.get(0)).optional()?;
    Ok(body.map(|body| serde_json::from_str(&body)).transpose()?)
}

fn save(db: &Connection, id: i64, event: &Row) -> Result<(), Error> {
    db.prepare_cached("UPDATE events SET series = ?2, body = ?3 WHERE id = ?1")?.execute(params![
        id,
        event::series(&event),
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
