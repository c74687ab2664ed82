//! The events of both companies in one table, and whose logins have been ended.
//!
//! Everything but [`Store::load`] takes the user who asks, and returns no event that this user may not see.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rusqlite::{Connection, OptionalExtension, Row, Transaction, named_params};
use tower_live_updates::Snapshot;

use crate::{
    event::{Draft, Event},
    users::User,
};

pub(crate) type Error = Box<dyn std::error::Error + Send + Sync>;

// AUTOINCREMENT: an id is never given out twice, or pages that missed a delete would take one event for another.
//
// `gone` is for pages that come back after a long time: what they may still be showing although it was deleted, or made
// private. An event that no other user has seen concerns its owner only.
const SCHEMA: &str = "
    PRAGMA journal_mode = WAL;
    CREATE TABLE IF NOT EXISTS events (
        id         INTEGER PRIMARY KEY AUTOINCREMENT,
        tenant     TEXT NOT NULL,
        owner      TEXT NOT NULL,
        private    INTEGER NOT NULL,
        text       TEXT NOT NULL,
        start_date TEXT NOT NULL,
        end_date   TEXT NOT NULL,
        notes      TEXT NOT NULL
    );
    CREATE INDEX IF NOT EXISTS events_tenant ON events (tenant);
    CREATE TABLE IF NOT EXISTS gone (
        id       INTEGER PRIMARY KEY,
        tenant   TEXT NOT NULL,
        only_for TEXT,
        at       INTEGER NOT NULL
    );
    CREATE TRIGGER IF NOT EXISTS remember_hidden AFTER UPDATE ON events WHEN new.private AND NOT old.private BEGIN
        INSERT OR REPLACE INTO gone VALUES (old.id, old.tenant, NULL, unixepoch());
    END;
    CREATE TRIGGER IF NOT EXISTS remember_deleted AFTER DELETE ON events BEGIN
        DELETE FROM gone WHERE at < unixepoch() - 86400;
        INSERT INTO gone VALUES (old.id, old.tenant, CASE WHEN old.private THEN old.owner END, unixepoch())
        ON CONFLICT DO UPDATE SET at = excluded.at;
    END;
    CREATE TABLE IF NOT EXISTS logins (user TEXT PRIMARY KEY, generation INTEGER NOT NULL);";

/// The store. Clones share one database.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    connection: Arc<Mutex<Connection>>,
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

    // ---- Events ----------------------------------------------------------------------------------------------------

    /// The events that a user may see, as the user sees them.
    pub(crate) async fn list(&self, user: &'static User) -> Result<Vec<Event>, Error> {
        self.run(move |db| seen(db, user)).await
    }

    /// The same, and what this user's pages may still be showing although they should not.
    pub(crate) async fn snapshot(&self, user: &'static User) -> Result<Snapshot<Event>, Error> {
        self.run(move |db| {
            let mut query = db.prepare_cached(
                "SELECT id FROM gone
                 WHERE tenant = :tenant AND coalesce(only_for, :user) = :user AND at >= unixepoch() - 86400
                   AND id NOT IN (SELECT id FROM events WHERE tenant = :tenant AND (NOT private OR owner = :user))",
            )?;
            let gone =
                query.query_map(named_params! { ":tenant": user.tenant, ":user": user.name }, |row| row.get(0))?;
            let gone: Vec<i64> = gone.collect::<Result<_, _>>()?;
            Ok(Snapshot::new(seen(db, user)?).scoped_by(|_| [user.tenant]).deleted(gone))
        })
        .await
    }

    /// An event of a company, for any of its users: the live layer decides for each page what to send.
    pub(crate) async fn load(&self, tenant: &str, id: &str) -> Result<Option<Event>, Error> {
        let Some(id) = row_id(id) else {
            return Ok(None);
        };
        let tenant = tenant.to_owned();
        self.run(move |db| {
            let mut query = db.prepare_cached("SELECT * FROM events WHERE tenant = ?1 AND id = ?2")?;
            Ok(query.query_row((tenant, id), event).optional()?)
        })
        .await
    }

    pub(crate) async fn create(&self, user: &'static User, draft: Draft) -> Result<Event, Error> {
        self.run(move |db| {
            let mut insert = db.prepare_cached(
                "INSERT INTO events (tenant, owner, private, text, start_date, end_date, notes)
                 VALUES (:tenant, :user, coalesce(:private, 0), :text, :start, :end, coalesce(:notes, ''))
                 RETURNING *",
            )?;
            let created = insert.query_row(
                named_params! {
                    ":tenant": user.tenant, ":user": user.name, ":private": draft.private, ":text": draft.text,
                    ":start": draft.start_date, ":end": draft.end_date, ":notes": draft.notes,
                },
                event,
            )?;
            Ok(created)
        })
        .await
    }

    /// Changes an event; `None` when there is none that this user may see.
    pub(crate) async fn update(&self, user: &'static User, id: &str, draft: Draft) -> Result<Option<Event>, Error> {
        let Some(id) = row_id(id) else {
            return Ok(None);
        };
        self.run(move |db| {
            let mut update = db.prepare_cached(
                "UPDATE events SET
                     text = :text, start_date = :start, end_date = :end,
                     private = CASE WHEN owner = :user THEN coalesce(:private, private) ELSE private END,
                     notes = CASE WHEN owner = :user THEN coalesce(:notes, notes) ELSE notes END
                 WHERE id = :id AND tenant = :tenant AND (NOT private OR owner = :user)
                 RETURNING *",
            )?;
            let updated = update.query_row(
                named_params! {
                    ":id": id, ":tenant": user.tenant, ":user": user.name, ":private": draft.private,
                    ":text": draft.text, ":start": draft.start_date, ":end": draft.end_date, ":notes": draft.notes,
                },
                event,
            );
            Ok(updated.optional()?.map(|event| event.seen_by(user.name)))
        })
        .await
    }

    /// Deletes an event; false when there is none that this user may see.
    pub(crate) async fn delete(&self, user: &'static User, id: &str) -> Result<bool, Error> {
        let Some(id) = row_id(id) else {
            return Ok(false);
        };
        self.run(move |db| {
            let mut delete = db.prepare_cached(
                "DELETE FROM events WHERE id = :id AND tenant = :tenant AND (NOT private OR owner = :user)",
            )?;
            let deleted = delete.execute(named_params! { ":id": id, ":tenant": user.tenant, ":user": user.name })?;
            Ok(deleted > 0)
        })
        .await
    }

    // ---- Logins ----------------------------------------------------------------------------------------------------

    /// How often this user has ended all logins: what was issued for an earlier number is no longer valid.
    pub(crate) async fn generation(&self, user: &'static User) -> Result<i64, Error> {
        self.run(move |db| {
            let mut query = db.prepare_cached("SELECT generation FROM logins WHERE user = ?1")?;
            Ok(query.query_row([user.name], |row| row.get(0)).optional()?.unwrap_or(0))
        })
        .await
    }

    /// Ends all logins of this user.
    pub(crate) async fn end_logins(&self, user: &'static User) -> Result<(), Error> {
        self.run(move |db| {
            db.prepare_cached(
                "INSERT INTO logins VALUES (?1, 1) ON CONFLICT DO UPDATE SET generation = generation + 1",
            )?
            .execute([user.name])?;
            Ok(())
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

fn seen(db: &Connection, user: &User) -> Result<Vec<Event>, Error> {
    let mut query = db
        .prepare_cached("SELECT * FROM events WHERE tenant = :tenant AND (NOT private OR owner = :user) ORDER BY id")?;
    let rows = query.query_map(named_params! { ":tenant": user.tenant, ":user": user.name }, event)?;
    rows.map(|row| Ok(row?.seen_by(user.name))).collect()
}

fn event(row: &Row<'_>) -> rusqlite::Result<Event> {
    Ok(Event {
        id: row.get::<_, i64>("id")?.to_string(),
        owner: row.get("owner")?,
        private: row.get("private")?,
        text: row.get("text")?,
        start_date: row.get("start_date")?,
        end_date: row.get("end_date")?,
        notes: Some(row.get("notes")?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::users::find;

    fn user(name: &str) -> &'static User {
        find(name).unwrap()
    }

    fn draft(text: &str, private: Option<bool>) -> Draft {
        Draft {
            text: text.to_owned(),
            start_date: "2026-05-13 10:00".to_owned(),
            end_date: "2026-05-13 11:00".to_owned(),
            private,
            notes: Some(format!("notes on {text}")),
        }
    }

    async fn texts(store: &Store, name: &str) -> Vec<String> {
        store.list(user(name)).await.unwrap().into_iter().map(|event| event.text).collect()
    }

    /// The ids that this user's pages must drop.
    async fn gone(store: &Store, name: &str) -> String {
        let snapshot = format!("{:?}", store.snapshot(user(name)).await.unwrap());
        let gone = snapshot.rsplit_once("deleted: ").unwrap().1;
        gone[..=gone.find(']').unwrap()].to_owned()
    }

    #[tokio::test]
    async fn a_company_sees_its_own_events_and_a_user_the_private_ones_of_none_else() {
        let store = Store::open(None).unwrap();
        store.create(user("ann"), draft("open", None)).await.unwrap();
        store.create(user("ann"), draft("secret", Some(true))).await.unwrap();
        store.create(user("cid"), draft("far away", Some(false))).await.unwrap();
        assert_eq!(texts(&store, "ann").await, ["open", "secret"]);
        assert_eq!(texts(&store, "ben").await, ["open"]);
        assert_eq!(texts(&store, "cid").await, ["far away"]);
        assert_eq!(texts(&store, "dee").await, ["far away"]);
    }

    #[tokio::test]
    async fn what_a_user_may_not_see_is_not_there_for_changes_either() {
        let store = Store::open(None).unwrap();
        let open = store.create(user("ann"), draft("open", None)).await.unwrap();
        let secret = store.create(user("ann"), draft("secret", Some(true))).await.unwrap();
        for (name, id) in [("cid", &open.id), ("cid", &secret.id), ("ben", &secret.id)] {
            assert_eq!(store.update(user(name), id, draft("mine now", None)).await.unwrap(), None);
            assert!(!store.delete(user(name), id).await.unwrap());
        }
        assert_eq!(texts(&store, "ann").await, ["open", "secret"]);
        assert!(store.delete(user("ann"), &secret.id).await.unwrap());
        assert!(store.delete(user("ben"), &open.id).await.unwrap());
        assert!(texts(&store, "ann").await.is_empty());
    }

    #[tokio::test]
    async fn the_owner_alone_decides_what_is_private_and_writes_and_reads_the_notes() {
        let store = Store::open(None).unwrap();
        let id = store.create(user("ann"), draft("first", None)).await.unwrap().id;
        let seen = store.update(user("ben"), &id, draft("second", Some(true))).await.unwrap().unwrap();
        assert_eq!((seen.text.as_str(), seen.private, seen.notes), ("second", false, None));
        assert_eq!(store.list(user("ben")).await.unwrap()[0].notes, None);
        assert_eq!(store.list(user("ann")).await.unwrap()[0].notes.as_deref(), Some("notes on first"));
        let kept = Draft { notes: None, ..draft("third", None) };
        let seen = store.update(user("ann"), &id, kept).await.unwrap().unwrap();
        assert_eq!((seen.private, seen.notes.as_deref()), (false, Some("notes on first")));
    }

    #[tokio::test]
    async fn pages_that_come_back_drop_what_they_may_not_see_any_more() {
        let store = Store::open(None).unwrap();
        let id = store.create(user("ann"), draft("open", None)).await.unwrap().id;
        let never_seen = store.create(user("ann"), draft("secret", Some(true))).await.unwrap().id;
        assert!(store.delete(user("ann"), &never_seen).await.unwrap());
        assert_eq!(gone(&store, "ann").await, format!("[\"{never_seen}\"]"));
        assert_eq!(gone(&store, "ben").await, "[]");

        store.update(user("ann"), &id, draft("hidden", Some(true))).await.unwrap();
        assert_eq!(gone(&store, "ben").await, format!("[\"{id}\"]"));
        store.update(user("ann"), &id, draft("open again", Some(false))).await.unwrap();
        assert_eq!(gone(&store, "ben").await, "[]");

        store.update(user("ann"), &id, draft("hidden", Some(true))).await.unwrap();
        assert!(store.delete(user("ann"), &id).await.unwrap());
        assert_eq!(gone(&store, "ben").await, format!("[\"{id}\"]"));
        assert_eq!(gone(&store, "cid").await, "[]");
    }

    #[tokio::test]
    async fn ids_are_never_given_out_twice_and_are_written_in_one_way() {
        let store = Store::open(None).unwrap();
        let first = store.create(user("ann"), draft("first", None)).await.unwrap().id;
        assert!(!store.delete(user("ann"), &format!("0{first}")).await.unwrap());
        assert!(store.delete(user("ann"), &first).await.unwrap());
        let second = store.create(user("cid"), draft("second", None)).await.unwrap().id;
        assert_ne!(first, second);
        assert_eq!(store.load("south", &first).await.unwrap(), None);
        assert_eq!(store.load("north", &second).await.unwrap(), None);
        assert_eq!(store.load("south", &second).await.unwrap().unwrap().text, "second");
    }

    #[tokio::test]
    async fn ending_logins_is_counted_for_each_user() {
        let store = Store::open(None).unwrap();
        assert_eq!(store.generation(user("ben")).await.unwrap(), 0);
        store.end_logins(user("ben")).await.unwrap();
        store.end_logins(user("ben")).await.unwrap();
        assert_eq!(store.generation(user("ben")).await.unwrap(), 2);
        assert_eq!(store.generation(user("ann")).await.unwrap(), 0);
    }
}
