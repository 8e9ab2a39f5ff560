//! What the crate promises, tried on SQLite.

#![expect(clippy::unwrap_used, reason = "clippy.toml allows it in test functions, not in the helpers beside them")]

mod cases;

use diesel::{QueryResult, QueryableByName, RunQueryDsl, connection::SimpleConnection, sql_query, sql_types::Text};
use larder_models::{Connection, Database, Error, Model, Object, Signals};
use tempfile::TempDir;

use crate::cases::insert;

/// Whether databases of [`open_alone`] have a use for the outbox.
const HAS_OUTBOX: bool = false;

/// A database without tables that nobody else uses.
fn open_alone(signals: Signals) -> Database {
    Database::open("sqlite::memory:", signals).unwrap()
}

/// The address of a database that may be opened more than once, and what it lives as long as.
fn new_url() -> (String, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    // The folder in between is made.
    (format!("sqlite://{}/var/larder.db", folder.path().display()), folder)
}

fn defer_foreign_keys(conn: &mut Connection) -> QueryResult<()> {
    conn.batch_execute("PRAGMA defer_foreign_keys = ON")
}

#[derive(QueryableByName)]
struct Entry {
    #[diesel(sql_type = Text)]
    sql: String,
}

/// All tables and indexes, but the list of migrations.
fn schema(database: &Database) -> Vec<String> {
    let query = "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE '\\_\\_diesel%' ESCAPE '\\' \
                 AND name NOT LIKE 'sqlite%' ORDER BY name";
    let rows = database.read(|db| Ok(sql_query(query).load::<Entry>(db.conn())?)).unwrap();
    rows.into_iter().map(|row| row.sql).collect()
}

#[test]
fn writers_in_two_pools_wait_for_each_other() {
    let (url, _guard) = new_url();
    let [one, other] = [(); 2].map(|()| Database::open(&url, Signals::new()).unwrap());
    one.migrate().unwrap();
    let object = one.write(|db| insert(db, "0")).unwrap();
    std::thread::scope(|scope| {
        for database in [&one, &other] {
            scope.spawn(move || {
                for _ in 0..50 {
                    // Reads before it writes: a deferred transaction would fail here at once.
                    database
                        .write(|db| {
                            let mut object = Object::get(db, object.id)?;
                            object.title = (object.title.parse::<u32>().unwrap() + 1).to_string();
                            object.save(db)
                        })
                        .unwrap();
                }
            });
        }
    });
    assert_eq!(one.read(|db| Object::get(db, object.id)).unwrap().title, "100");
}

#[test]
fn a_file_that_cannot_be_opened_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let error = Database::open(&format!("sqlite://{}", folder.path().display()), Signals::new()).unwrap_err();
    assert!(matches!(&error, Error::Connect { .. }), "{error:?}");
    assert!(error.to_string().contains(&folder.path().display().to_string()));
    assert!(std::error::Error::source(&error).is_some());
}
