//! The migrations, embedded in the binary.

use diesel::migration::{Migration, MigrationSource, MigrationVersion};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};

use crate::{
    db::{Backend, Connection},
    error::{Error, Result, Source},
};

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("../../migrations/sqlite");

/// A migration this binary knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrationStatus {
    /// Its name, which begins with its date.
    pub name: String,
    /// Whether the database has it.
    pub applied: bool,
}

/// Applies what is missing. The caller's transaction makes it all or nothing, and keeps other processes out
/// between the look at what is missing and the last step.
pub(crate) fn migrate(conn: &mut Connection) -> Result<Vec<String>> {
    let pending = conn.pending_migrations(MIGRATIONS).map_err(migration_error)?;
    for migration in &pending {
        conn.run_migration(migration).map_err(migration_error)?;
    }
    Ok(pending.iter().map(|migration| migration.name().to_string()).collect())
}

pub(crate) fn revert_last(conn: &mut Connection) -> Result<Option<String>> {
    let applied = conn.applied_migrations().map_err(migration_error)?;
    let Some(last) = applied.first() else { return Ok(None) };
    let name = known()?.into_iter().find(|migration| migration.name().version() == *last);
    conn.revert_last_migration(MIGRATIONS).map_err(migration_error)?;
    Ok(name.map(|migration| migration.name().to_string()))
}

pub(crate) fn status(conn: &mut Connection) -> Result<Vec<MigrationStatus>> {
    let applied: Vec<MigrationVersion<'_>> = conn.applied_migrations().map_err(migration_error)?;
    let status = |migration: Box<dyn Migration<Backend>>| MigrationStatus {
        name: migration.name().to_string(),
        applied: applied.contains(&migration.name().version()),
    };
    let mut all: Vec<_> = known()?.into_iter().map(status).collect();
    all.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(all)
}

fn known() -> Result<Vec<Box<dyn Migration<Backend>>>> {
    MigrationSource::<Backend>::migrations(&MIGRATIONS).map_err(migration_error)
}

fn migration_error(source: Source) -> Error {
    Error::Migration { source }
}
