//! What the crate promises, tried on PostgreSQL.

#![expect(clippy::unwrap_used, reason = "clippy.toml allows it in test functions, not in the helpers beside them")]

mod cases;

use std::sync::LazyLock;

use diesel::{QueryResult, QueryableByName, RunQueryDsl, connection::SimpleConnection, sql_query, sql_types::Text};
use larder_models::{Connection, Database, Error, Model, Object, Signals, testing::PostgresServer};

use crate::cases::{database, insert};

static SERVER: LazyLock<PostgresServer> = LazyLock::new(PostgresServer::start);

/// A database without tables that nobody else uses.
fn open_alone(signals: Signals) -> Database {
    Database::open(&SERVER.new_database(), signals).unwrap()
}

/// The address of a database that may be opened more than once, and what it lives as long as.
fn new_url() -> (String, ()) {
    (SERVER.new_database(), ())
}

fn defer_foreign_keys(conn: &mut Connection) -> QueryResult<()> {
    conn.batch_execute(
        "ALTER TABLE log_entry ALTER CONSTRAINT log_entry_user_id_fkey DEFERRABLE; SET CONSTRAINTS ALL DEFERRED",
    )
}

#[derive(QueryableByName)]
struct Entry {
    #[diesel(sql_type = Text)]
    sql: String,
}

/// All columns and indexes, but those of the list of migrations.
fn schema(database: &Database) -> Vec<String> {
    let query = "SELECT sql FROM (
        SELECT table_name || '.' || column_name || ' ' || data_type || ' ' || is_nullable || ' ' || is_identity AS sql
        FROM information_schema.columns WHERE table_schema = 'public' AND table_name NOT LIKE '\\_\\_diesel%'
        UNION SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename NOT LIKE '\\_\\_diesel%'
        UNION SELECT conrelid::regclass || ' ' || pg_get_constraintdef(oid) FROM pg_constraint
        WHERE connamespace = 'public'::regnamespace AND conrelid::regclass::text NOT LIKE '\\_\\_diesel%'
    ) AS parts ORDER BY sql";
    let rows = database.read(|db| Ok(sql_query(query).load::<Entry>(db.conn())?)).unwrap();
    rows.into_iter().map(|row| row.sql).collect()
}

#[test]
fn a_transaction_whose_error_was_passed_over_is_not_called_stored() {
    let database = database();
    let result = database.write(|db| {
        insert(db, "Pan")?;
        let _passed_over = db.conn().batch_execute("SELECT 1 / 0");
        Ok(())
    });
    assert!(matches!(&result, Err(Error::Aborted { .. })), "{result:?}");
    assert_eq!(database.read(Object::count).unwrap(), 0);
    database.write(|db| insert(db, "Next")).unwrap();
    assert_eq!(database.read(Object::count).unwrap(), 1);
}

#[test]
fn of_two_who_save_the_same_row_one_hears_of_the_conflict() {
    let database = database();
    let object = database.write(|db| insert(db, "0")).unwrap();
    let conflicts = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let count = |db: &mut larder_models::Db| {
                        let mut object = Object::get(db, object.id)?;
                        object.title = (object.title.parse::<u32>().unwrap() + 1).to_string();
                        object.save(db)
                    };
                    while let Err(error) = database.write(count) {
                        assert!(matches!(error, Error::Conflict { .. }), "{error:?}");
                        conflicts.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    }
                }
            });
        }
    });
    assert_eq!(database.read(|db| Object::get(db, object.id)).unwrap().title, "100");
}

#[test]
fn a_server_that_is_not_there_is_named_with_what_to_do() {
    let error = Database::open("postgres://larder:secret@127.0.0.1:1/larder", Signals::new()).unwrap_err();
    assert!(matches!(&error, Error::Connect { .. }), "{error:?}");
    let text = error.to_string();
    assert!(
        text.contains("postgres://larder:***@127.0.0.1:1/larder") && text.contains("check that the server"),
        "{text}"
    );
    let error = Database::open(&SERVER.new_database().replace("test_", "none_"), Signals::new()).unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("does not exist"), "{source}");
}

#[test]
fn connections_that_the_server_has_closed_are_replaced() {
    let database = database();
    database.write(|db| insert(db, "Pan")).unwrap();
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
    database.write(|db| Ok(db.conn().batch_execute(end)?)).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1_100));
    for _ in 0..8 {
        assert_eq!(database.read(Object::count).unwrap(), 1);
    }
    database.write(|db| insert(db, "Next")).unwrap();
}
