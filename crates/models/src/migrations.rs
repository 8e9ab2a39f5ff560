//! The migrations, embedded in the binary: for each database those of its folder, under the same names.

use diesel::{
    QueryResult,
    backend::Backend,
    connection::SimpleConnection,
    migration::{Migration, MigrationSource},
};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};

use crate::{
    db::Connection,
    error::{Error, Result, Source},
};

const POSTGRES: EmbeddedMigrations = embed_migrations!("../../migrations/postgres");
const SQLITE: EmbeddedMigrations = embed_migrations!("../../migrations/sqlite");

/// What keeps other processes out of a PostgreSQL database while one migrates it: any number that nobody else takes.
const ADVISORY_LOCK: i64 = 0x006c_6172_6465_7200;

/// A migration this binary knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrationStatus {
    /// Its name, which begins with its date.
    pub name: String,
    /// Whether the database has it.
    pub applied: bool,
}

/// Applies what is missing. The caller's transaction makes it all or nothing.
pub(crate) fn migrate(conn: &mut Connection) -> Result<Vec<String>> {
    keep_others_out(conn)?;
    match conn {
        Connection::Postgres(conn) => migrate_on(conn, POSTGRES),
        Connection::Sqlite(conn) => migrate_on(conn, SQLITE),
    }
    .map_err(migration_error)
}

pub(crate) fn revert_last(conn: &mut Connection) -> Result<Option<String>> {
    keep_others_out(conn)?;
    match conn {
        Connection::Postgres(conn) => revert_last_on(conn, POSTGRES),
        Connection::Sqlite(conn) => revert_last_on(conn, SQLITE),
    }
    .map_err(migration_error)
}

pub(crate) fn status(conn: &mut Connection) -> Result<Vec<MigrationStatus>> {
    match conn {
        Connection::Postgres(conn) => status_on(conn, POSTGRES),
        Connection::Sqlite(conn) => status_on(conn, SQLITE),
    }
    .map_err(migration_error)
}

/// Keeps other processes out between the look at what is missing and the last step. On SQLite the transaction does.
fn keep_others_out(conn: &mut Connection) -> QueryResult<()> {
    match conn {
        Connection::Postgres(conn) => conn.batch_execute(&format!("SELECT pg_advisory_xact_lock({ADVISORY_LOCK})")),
        Connection::Sqlite(_) => Ok(()),
    }
}

fn migrate_on<DB: Backend>(
    conn: &mut impl MigrationHarness<DB>,
    migrations: EmbeddedMigrations,
) -> Result<Vec<String>, Source> {
    let pending = conn.pending_migrations(migrations)?;
    for migration in &pending {
        conn.run_migration(migration)?;
    }
    Ok(pending.iter().map(|migration| migration.name().to_string()).collect())
}

fn revert_last_on<DB: Backend>(
    conn: &mut impl MigrationHarness<DB>,
    migrations: EmbeddedMigrations,
) -> Result<Option<String>, Source> {
    let applied = conn.applied_migrations()?;
    let Some(last) = applied.first() else { return Ok(None) };
    let known: Vec<Box<dyn Migration<DB>>> = migrations.migrations()?;
    let name = known.into_iter().find(|migration| migration.name().version() == *last);
    conn.revert_last_migration(migrations)?;
    Ok(name.map(|migration| migration.name().to_string()))
}

fn status_on<DB: Backend>(
    conn: &mut impl MigrationHarness<DB>,
    migrations: EmbeddedMigrations,
) -> Result<Vec<MigrationStatus>, Source> {
    let applied = conn.applied_migrations()?;
    let status = |migration: Box<dyn Migration<DB>>| MigrationStatus {
        name: migration.name().to_string(),
        applied: applied.contains(&migration.name().version()),
    };
    let mut all: Vec<_> = migrations.migrations()?.into_iter().map(status).collect();
    all.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(all)
}

fn migration_error(source: Source) -> Error {
    Error::Migration { source }
}
