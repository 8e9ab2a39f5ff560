//! The table of invalidations: a transaction that makes something stale writes it there, so that it is known to whoever
//! comes after a crash, and to other processes.

use diesel::{
    connection::SimpleConnection,
    prelude::*,
    sql_query,
    sql_types::{BigInt, Text},
};

use crate::{
    db::Connection,
    error::{Error, Result},
    invalidation::Invalidation,
    schema::outbox,
};

/// The channel of PostgreSQL's NOTIFY.
pub(crate) const CHANNEL: &str = "larder_outbox";

/// How many rows are read at once.
const MAX_ROWS: i64 = 500;

/// A row.
#[derive(Debug, Queryable)]
pub(crate) struct Row {
    pub(crate) id: i64,
    /// Which process wrote it.
    pub(crate) origin: String,
    invalidation: String,
}

impl Row {
    /// Returns what it says; `None` if another version of this crate wrote it.
    pub(crate) fn invalidation(&self) -> Option<Invalidation> {
        serde_json::from_str(&self.invalidation).ok()
    }
}

const COLUMNS: (outbox::id, outbox::origin, outbox::invalidation) = (outbox::id, outbox::origin, outbox::invalidation);

/// Makes the table, for databases that are not migrated by this crate.
pub(crate) fn create(conn: &mut Connection) -> QueryResult<()> {
    conn.batch_execute(match conn {
        Connection::Postgres(_) => include_str!("../../../migrations/postgres/2026-11-23-000001_create_outbox/up.sql"),
        Connection::Sqlite(_) => include_str!("../../../migrations/sqlite/2026-11-23-000001_create_outbox/up.sql"),
    })
}

/// Adds a row in the transaction that is open, and returns its id.
pub(crate) fn add(conn: &mut Connection, origin: &str, invalidation: &Invalidation, now: i64) -> Result<i64> {
    let encoded = serde_json::to_string(invalidation)
        .map_err(|error| Error::Encoding { what: "an invalidation", source: error.into() })?;
    match conn {
        Connection::Postgres(conn) => {
            // In one round trip. It is heard when the transaction commits, in the order of the commits.
            let add = format!(
                "WITH added AS (INSERT INTO outbox (origin, invalidation, created) VALUES ($1, $2, $3) RETURNING id) \
                 SELECT id, pg_notify('{CHANNEL}', $1 || ' ' || id)::text FROM added"
            );
            let add = sql_query(add).bind::<Text, _>(origin).bind::<Text, _>(encoded).bind::<BigInt, _>(now);
            Ok(add.get_result::<Added>(conn)?.id)
        }
        Connection::Sqlite(conn) => {
            let row = (outbox::origin.eq(origin), outbox::invalidation.eq(encoded), outbox::created.eq(now));
            Ok(diesel::insert_into(outbox::table).values(row).returning(outbox::id).get_result(conn)?)
        }
    }
}

#[derive(QueryableByName)]
struct Added {
    #[diesel(sql_type = BigInt)]
    id: i64,
}

/// Returns the id of the last row.
pub(crate) fn last_id(conn: &mut Connection) -> QueryResult<i64> {
    let last = outbox::table.select(diesel::dsl::max(outbox::id)).first::<Option<i64>>(conn)?;
    Ok(last.unwrap_or(0))
}

/// Returns the id that SQLite gave last.
pub(crate) fn sequence(conn: &mut Connection) -> QueryResult<i64> {
    let last = sql_query("SELECT seq AS id FROM sqlite_sequence WHERE name = 'outbox'").get_result::<Added>(conn);
    Ok(last.optional()?.map_or(0, |last| last.id))
}

/// Returns rows after this one, the oldest first. Only on SQLite, where one transaction writes at a time, is that all that
/// was committed since.
pub(crate) fn after(conn: &mut Connection, id: i64) -> QueryResult<Vec<Row>> {
    outbox::table.filter(outbox::id.gt(id)).order(outbox::id).limit(MAX_ROWS).select(COLUMNS).load(conn)
}

pub(crate) fn by_ids(conn: &mut Connection, ids: &[i64]) -> QueryResult<Vec<Row>> {
    outbox::table.filter(outbox::id.eq_any(ids)).order(outbox::id).select(COLUMNS).load(conn)
}

/// Returns rows after this one of which nobody has said that they were delivered, the oldest first.
pub(crate) fn undelivered(conn: &mut Connection, id: i64) -> QueryResult<Vec<Row>> {
    let rows = outbox::table.filter(outbox::delivered.eq(false)).filter(outbox::id.gt(id));
    rows.order(outbox::id).limit(MAX_ROWS).select(COLUMNS).load(conn)
}

/// Says that rows were delivered.
pub(crate) fn mark_delivered(conn: &mut Connection, ids: &[i64]) -> QueryResult<()> {
    for ids in ids.chunks(MAX_ROWS as usize) {
        diesel::update(outbox::table.filter(outbox::id.eq_any(ids))).set(outbox::delivered.eq(true)).execute(conn)?;
    }
    Ok(())
}

/// Removes rows that were delivered and are older than this.
pub(crate) fn sweep(conn: &mut Connection, before: i64) -> QueryResult<usize> {
    let old = outbox::table.filter(outbox::delivered.eq(true)).filter(outbox::created.lt(before));
    diesel::delete(old).execute(conn)
}
