//! A table of a SQLite database.
//!
//! One row for each key, in a table that `larder createcachetable` makes. The store has connections of its own, so
//! what it writes does not depend on the transactions of the application, and a rollback there undoes nothing here.
//! Every method is one statement, which SQLite runs as a whole; writers of the process take turns, so that they do not
//! poll the database's lock against each other.
//!
//! | | |
//! | --- | --- |
//! | shared | by all processes that open the database |
//! | survives a restart | yes; after a loss of power the last second may be missing (`synchronous = NORMAL`) |
//! | atomic `add`, `replace`, `incr` | yes, by the database |
//! | eviction | above `max_entries`: what has expired, then what expires soonest, one in `cull_frequency` |
//! | key limit | none |
//! | value limit | 1 GB |
//! | finest timeout | one millisecond |
//!
//! # Columns
//! | | | |
//! | --- | --- | --- |
//! | `cache_key` | `TEXT PRIMARY KEY` | |
//! | `value` | `BLOB` | NULL for a counter |
//! | `counter` | `BIGINT` | NULL for anything else |
//! | `expires` | `BIGINT NOT NULL`, with an index | milliseconds since 1970, 0 for never |
//!
//! # Differences from Django
//! Rows are culled by what expires soonest and not by the name of the key, which in Django throws out the header lists
//! of all pages first. `touch` does not bring an expired row back. `COUNT(*)` is not asked at each write.

use std::{
    error, fmt, fs,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use diesel::{
    QueryResult, QueryableByName, RunQueryDsl,
    connection::SimpleConnection,
    query_builder::{AstPass, Query, QueryFragment, QueryId},
    r2d2::{ConnectionManager, CustomizeConnection, NopErrorHandler, Pool},
    sql_types::{BigInt, Binary, Nullable, Text, Untyped},
    sqlite::{Sqlite, SqliteConnection},
};

use super::{Backend, Capabilities, Entry, Options, Replacement, Sharing, Stats, Value};
use crate::{
    clock::Timestamp,
    error::{Error, Result},
    timeout::Expiry,
};

/// How long a statement waits for the writers of other processes, and a caller for a connection.
const BUSY_TIMEOUT: Duration = Duration::from_secs(1);

/// Readers do not block each other, and more of them than this wait for the disk anyway.
const CONNECTIONS: u32 = 8;

/// How many keys go into one statement. SQLite allows 32,766 parameters, PostgreSQL 65,535.
const CHUNK_KEYS: usize = 500;

/// How many rows go into one statement, with four parameters each.
const CHUNK_ROWS: usize = 100;

/// PostgreSQL's limit for a name, in bytes; SQLite has none.
const MAX_TABLE_BYTES: usize = 63;

/// A table of a SQLite database.
///
/// Cheap to clone; clones share the connections.
///
/// # Examples
/// ```
/// use larder_cache::{Expiry, backend::{Backend, Options, Value, database::Database}};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let directory = tempfile::tempdir()?;
/// let path = directory.path().join("larder.sqlite3");
/// let store = Database::open(&path.to_string_lossy(), "cache_entries", Options::new())?;
/// assert!(store.create_table()?);
/// store.set("answer", &Value::Integer(42), Expiry::Never)?;
/// assert_eq!(store.incr("answer", -2)?, Some(40));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Database(Arc<Inner>);

struct Inner {
    table: String,
    sql: Statements,
    path: String,
    pool: Pool<ConnectionManager<SqliteConnection>>,
    options: Options,
    writer: Mutex<()>,
    /// How many rows may be written before they are counted again; 0 at the start.
    until_count: AtomicUsize,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("table", &self.table).field("options", &self.options).finish_non_exhaustive()
    }
}

impl Database {
    /// Opens a store in a table of a database: a path, `sqlite://path`, or `:memory:` for one that dies with the store.
    ///
    /// Nothing is asked of the database yet; it need not exist.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the name of the table is more than letters, digits and underscores, or the database
    /// is of another kind.
    pub fn open(url: &str, table: &str, options: Options) -> Result<Self> {
        let sql = Statements::new(table)?;
        let path = sqlite_path(url).map_err(|why| Error::unavailable(label(table), why))?;
        let connections = if path == ":memory:" { 1 } else { CONNECTIONS };
        let pool = Pool::builder()
            .max_size(connections)
            .min_idle(Some(0))
            .max_lifetime(None)
            .idle_timeout(None)
            .test_on_check_out(false)
            .connection_timeout(BUSY_TIMEOUT)
            .connection_customizer(Box::new(Pragmas))
            .error_handler(Box::new(NopErrorHandler))
            .build_unchecked(ConnectionManager::new(path));
        let path = path.to_owned();
        let (writer, until_count) = (Mutex::new(()), AtomicUsize::new(0));
        Ok(Database(Arc::new(Inner { table: table.to_owned(), sql, path, pool, options, writer, until_count })))
    }

    /// Makes the table and its index, and the folder of the database; tells whether the table was missing.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the database refuses.
    pub fn create_table(&self) -> Result<bool> {
        if let Some(folder) = Path::new(&self.0.path).parent() {
            fs::create_dir_all(folder).map_err(|error| Error::unavailable(label(&self.0.table), error))?;
        }
        self.write(|connection| {
            connection.immediate_transaction(|connection| {
                let sql = &self.0.sql;
                let found: Number =
                    Statement::new(&sql.has_table, [Bind::Text(&self.0.table)]).get_result(connection)?;
                connection.batch_execute(&sql.create)?;
                Ok(found.number == 0)
            })
        })
    }

    /// Returns the statements by which [`Database::create_table`] makes a table.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the name is more than letters, digits and underscores.
    ///
    /// # Examples
    /// ```
    /// use larder_cache::backend::database::Database;
    ///
    /// # fn main() -> larder_cache::Result<()> {
    /// assert!(Database::create_table_sql("cache_entries")?.starts_with("CREATE TABLE IF NOT EXISTS \"cache_entries\""));
    /// assert!(Database::create_table_sql("x; DROP TABLE users").is_err());
    /// # Ok(())
    /// # }
    /// ```
    pub fn create_table_sql(table: &str) -> Result<String> {
        Ok(Statements::new(table)?.create)
    }

    fn read<T>(&self, query: impl FnOnce(&mut SqliteConnection) -> QueryResult<T>) -> Result<T> {
        let mut connection = self.0.pool.get().map_err(|error| Error::unavailable(label(&self.0.table), error))?;
        query(&mut connection).map_err(|error| self.failed(error))
    }

    fn write<T>(&self, query: impl FnOnce(&mut SqliteConnection) -> QueryResult<T>) -> Result<T> {
        let _turn: MutexGuard<'_, ()> = self.0.writer.lock().unwrap_or_else(PoisonError::into_inner);
        self.read(query)
    }

    fn failed(&self, error: diesel::result::Error) -> Error {
        let is_missing = error.to_string().contains("no such table");
        let label = label(&self.0.table);
        if is_missing { Error::unavailable(label, TableMissing(error)) } else { Error::unavailable(label, error) }
    }

    fn now(&self) -> Timestamp {
        self.0.options.clock.now()
    }

    fn now_millis(&self) -> i64 {
        to_column(self.now().as_millis())
    }

    /// Makes room before some rows are written. The table is counted when it may be full, or now and then, because
    /// other processes write too; in large ones not at each write even if they are full.
    fn make_room(&self, connection: &mut SqliteConnection, rows: usize) -> QueryResult<()> {
        let take = |left: usize| left.checked_sub(rows);
        if self.0.until_count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok() {
            return Ok(());
        }
        let max = self.0.options.max_entries;
        let mut count = self.count(connection)?;
        if count > max {
            Statement::new(&self.0.sql.delete_expired, [Bind::Number(self.now_millis())]).execute(connection)?;
            count = self.count(connection)?;
        }
        if count > max {
            self.cull(connection, count)?;
            count = self.count(connection)?;
        }
        let until_full = max.saturating_sub(count) + 1;
        let until_count = until_full.min(max / 4).max(max / 50).max(1);
        self.0.until_count.store(until_count.saturating_sub(rows), Ordering::Relaxed);
        Ok(())
    }

    fn cull(&self, connection: &mut SqliteConnection, count: usize) -> QueryResult<usize> {
        let sql = &self.0.sql;
        match self.0.options.cull_frequency {
            0 => Statement::new(&sql.clear, []).execute(connection),
            frequency => {
                let surplus = i64::try_from((count / frequency).max(1)).unwrap_or(i64::MAX);
                Statement::new(&sql.delete_soonest, [Bind::Number(surplus)]).execute(connection)
            }
        }
    }

    fn count(&self, connection: &mut SqliteConnection) -> QueryResult<usize> {
        let count: Number = Statement::new(&self.0.sql.count, []).get_result(connection)?;
        Ok(usize::try_from(count.number).unwrap_or(0))
    }

    fn insert(&self, items: &[(&str, Value)], expiry: Expiry) -> Result<()> {
        let expires = to_column(expiry.to_millis());
        self.write(|connection| {
            connection.immediate_transaction(|connection| {
                for items in items.chunks(CHUNK_ROWS) {
                    self.make_room(connection, items.len())?;
                    let sql = self.0.sql.set.replace(ROWS, &["(?, ?, ?, ?)"].repeat(items.len()).join(", "));
                    let binds = items.iter().flat_map(|(key, value)| row(key, value, expires));
                    Statement::once(&sql, binds).execute(connection)?;
                }
                Ok(())
            })
        })
    }

    fn add_one(
        &self,
        connection: &mut SqliteConnection,
        key: &str,
        value: &Value,
        expiry: Expiry,
    ) -> QueryResult<bool> {
        let binds = row(key, value, to_column(expiry.to_millis())).into_iter().chain([Bind::Number(self.now_millis())]);
        Ok(Statement::new(&self.0.sql.add, binds).execute(connection)? > 0)
    }

    fn replace_one(&self, connection: &mut SqliteConnection, item: &Replacement<'_>) -> QueryResult<bool> {
        let [bytes, counter] = columns(item.old);
        let same = [Bind::Text(item.key), bytes, counter, Bind::Number(self.now_millis())];
        let sql = &self.0.sql;
        let replaced = if item.expiry.has_passed(self.now()) {
            Statement::new(&sql.remove, same).execute(connection)?
        } else {
            let [bytes, counter] = columns(item.new);
            let new = [bytes, counter, Bind::Number(to_column(item.expiry.to_millis()))];
            Statement::new(&sql.replace, new.into_iter().chain(same)).execute(connection)?
        };
        Ok(replaced > 0)
    }
}

impl Backend for Database {
    fn capabilities(&self) -> Capabilities {
        Capabilities { sharing: Sharing::Machine, blocking: true, stores: true, max_value_bytes: None }
    }

    fn get(&self, key: &str) -> Result<Option<Entry>> {
        let binds = [Bind::Text(key), Bind::Number(self.now_millis())];
        let rows: Vec<Row> = self.read(|connection| Statement::new(&self.0.sql.get, binds).load(connection))?;
        Ok(rows.into_iter().next().and_then(Row::into_entry))
    }

    fn set(&self, key: &str, value: &Value, expiry: Expiry) -> Result<()> {
        if expiry.has_passed(self.now()) {
            return self.delete(key).map(drop);
        }
        let expires = to_column(expiry.to_millis());
        self.write(|connection| {
            self.make_room(connection, 1)?;
            Statement::new(&self.0.sql.set_one, row(key, value, expires)).execute(connection).map(drop)
        })
    }

    fn add(&self, key: &str, value: &Value, expiry: Expiry) -> Result<bool> {
        if expiry.has_passed(self.now()) {
            return Ok(self.get(key)?.is_none());
        }
        self.write(|connection| {
            self.make_room(connection, 1)?;
            self.add_one(connection, key, value, expiry)
        })
    }

    fn replace(&self, key: &str, old: &Value, new: &Value, expiry: Expiry) -> Result<bool> {
        let item = Replacement { key, old, new, expiry };
        self.write(|connection| self.replace_one(connection, &item))
    }

    fn touch(&self, key: &str, expiry: Expiry) -> Result<bool> {
        if expiry.has_passed(self.now()) {
            return self.delete(key);
        }
        let expires = Bind::Number(to_column(expiry.to_millis()));
        let binds = [expires, Bind::Text(key), Bind::Number(self.now_millis())];
        self.write(|connection| Ok(Statement::new(&self.0.sql.touch, binds).execute(connection)? > 0))
    }

    fn delete(&self, key: &str) -> Result<bool> {
        Ok(self.delete_many(&[key])? > 0)
    }

    fn incr(&self, key: &str, delta: i64) -> Result<Option<i64>> {
        // SQLite makes a floating-point number of a sum that leaves the range, so the statement does not get there.
        let (least, most) = if delta < 0 { (i64::MIN - delta, i64::MAX) } else { (i64::MIN, i64::MAX - delta) };
        let [least, most, now] = [least, most, self.now_millis()].map(Bind::Number);
        let binds = [Bind::Number(delta), Bind::Text(key), least, most, now];
        let rows: Vec<Number> = self.write(|connection| Statement::new(&self.0.sql.incr, binds).load(connection))?;
        if let Some(row) = rows.first() {
            return Ok(Some(row.number));
        }
        let reason = match self.get(key)? {
            None => return Ok(None),
            Some(Entry { value: Value::Integer(_), .. }) => "the sum leaves the range of 64 bits",
            Some(_) => "its value is not an integer",
        };
        Err(Error::NotACounter { key: key.to_owned(), reason })
    }

    fn clear(&self) -> Result<()> {
        self.write(|connection| Statement::new(&self.0.sql.clear, []).execute(connection).map(drop))
    }

    fn get_many(&self, keys: &[&str]) -> Result<Vec<Option<Entry>>> {
        let mut rows: Vec<Row> = Vec::with_capacity(keys.len());
        for keys in keys.chunks(CHUNK_KEYS) {
            let sql = self.0.sql.get_many.replace(KEYS, &marks(keys.len()));
            let binds = keys.iter().map(|key| Bind::Text(key)).chain([Bind::Number(self.now_millis())]);
            rows.append(&mut self.read(|connection| Statement::once(&sql, binds).load(connection))?);
        }
        let found: std::collections::HashMap<String, Option<Entry>> =
            rows.into_iter().map(|row| (row.cache_key.clone(), row.into_entry())).collect();
        Ok(keys.iter().map(|key| found.get(*key).cloned().flatten()).collect())
    }

    fn set_many(&self, items: &[(&str, Value)], expiry: Expiry) -> Result<Vec<usize>> {
        if expiry.has_passed(self.now()) {
            let keys: Vec<&str> = items.iter().map(|(key, _)| *key).collect();
            return self.delete_many(&keys).map(|_| Vec::new());
        }
        self.insert(items, expiry).map(|()| Vec::new())
    }

    fn add_many(&self, items: &[(&str, Value)], expiry: Expiry) -> Result<Vec<bool>> {
        if expiry.has_passed(self.now()) {
            return items.iter().map(|(key, value)| self.add(key, value, expiry)).collect();
        }
        self.write(|connection| {
            connection.immediate_transaction(|connection| {
                self.make_room(connection, items.len())?;
                items.iter().map(|(key, value)| self.add_one(connection, key, value, expiry)).collect()
            })
        })
    }

    fn replace_many(&self, items: &[Replacement<'_>]) -> Result<Vec<bool>> {
        self.write(|connection| {
            connection.immediate_transaction(|connection| {
                items.iter().map(|item| self.replace_one(connection, item)).collect()
            })
        })
    }

    fn delete_many(&self, keys: &[&str]) -> Result<usize> {
        let mut count = 0;
        for keys in keys.chunks(CHUNK_KEYS) {
            let sql = self.0.sql.delete_many.replace(KEYS, &marks(keys.len()));
            let binds = keys.iter().map(|key| Bind::Text(key));
            let gone: Vec<Number> = self.write(|connection| Statement::once(&sql, binds).load(connection))?;
            let now = self.now();
            count += gone.iter().filter(|row| !from_column(row.number).has_passed(now)).count();
        }
        Ok(count)
    }

    fn stats(&self) -> Result<Stats> {
        let (entries, bytes): (Number, Number) = self.read(|connection| {
            let entries = Statement::new(&self.0.sql.count, []).get_result(connection)?;
            Ok((entries, Statement::new(&self.0.sql.bytes, []).get_result(connection)?))
        })?;
        Ok(vec![("entries".to_owned(), entries.number.to_string()), ("bytes".to_owned(), bytes.number.to_string())])
    }
}

/// Stands for a list of parameters in a statement on several keys.
const KEYS: &str = "{keys}";

/// Stands for a list of rows in a statement on several.
const ROWS: &str = "{rows}";

/// All the SQL there is, for one table.
struct Statements {
    create: String,
    has_table: String,
    get: String,
    get_many: String,
    set: String,
    set_one: String,
    add: String,
    replace: String,
    remove: String,
    touch: String,
    incr: String,
    delete_many: String,
    delete_expired: String,
    delete_soonest: String,
    clear: String,
    count: String,
    bytes: String,
}

impl Statements {
    fn new(table: &str) -> Result<Self> {
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let starts_well = table.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
        if !starts_well || !table.bytes().all(is_name) || table.len() > MAX_TABLE_BYTES {
            let why =
                "the name of a cache table is made of letters, digits and underscores, at most 63, no digit first";
            return Err(Error::unavailable(label(table), why));
        }
        let name = format!("\"{table}\"");
        let columns = "cache_key, value, counter, expires";
        let select = format!("SELECT {columns} FROM {name}");
        let upsert = "ON CONFLICT (cache_key) DO UPDATE \
                      SET value = excluded.value, counter = excluded.counter, expires = excluded.expires";
        let set = format!("INSERT INTO {name} ({columns}) VALUES {ROWS} {upsert}");
        let set_one = set.replace(ROWS, "(?, ?, ?, ?)");
        let live = "(expires = 0 OR expires > ?)";
        let same =
            format!("cache_key = ? AND value IS NOT DISTINCT FROM ? AND counter IS NOT DISTINCT FROM ? AND {live}");
        Ok(Statements {
            create: format!(
                "CREATE TABLE IF NOT EXISTS {name} (\n    cache_key TEXT NOT NULL PRIMARY KEY,\n    value BLOB NULL,\n    \
                 counter BIGINT NULL,\n    expires BIGINT NOT NULL\n);\n\
                 CREATE INDEX IF NOT EXISTS \"{table}_expires\" ON {name} (expires);\n"
            ),
            has_table: "SELECT COUNT(*) AS number FROM sqlite_master WHERE type = 'table' AND name = ? COLLATE NOCASE"
                .to_owned(),
            get: format!("{select} WHERE cache_key = ? AND {live}"),
            get_many: format!("{select} WHERE cache_key IN ({KEYS}) AND {live}"),
            // What has expired counts as missing, so it is replaced.
            add: format!("{set_one} WHERE {name}.expires <> 0 AND {name}.expires <= ?"),
            set,
            set_one,
            replace: format!("UPDATE {name} SET value = ?, counter = ?, expires = ? WHERE {same}"),
            remove: format!("DELETE FROM {name} WHERE {same}"),
            touch: format!("UPDATE {name} SET expires = ? WHERE cache_key = ? AND {live}"),
            incr: format!(
                "UPDATE {name} SET counter = counter + ? WHERE cache_key = ? AND counter BETWEEN ? AND ? AND {live} \
                 RETURNING counter AS number"
            ),
            delete_many: format!("DELETE FROM {name} WHERE cache_key IN ({KEYS}) RETURNING expires AS number"),
            delete_expired: format!("DELETE FROM {name} WHERE expires > 0 AND expires <= ?"),
            delete_soonest: format!(
                "DELETE FROM {name} WHERE cache_key IN \
                 (SELECT cache_key FROM {name} ORDER BY expires = 0, expires, rowid LIMIT ?)"
            ),
            clear: format!("DELETE FROM {name}"),
            count: format!("SELECT COUNT(*) AS number FROM {name}"),
            bytes: format!("SELECT COALESCE(SUM(LENGTH(value)), 0) AS number FROM {name}"),
        })
    }
}

/// A statement with its parameters.
///
/// Diesel's `sql_query` would be parsed by SQLite at each use; this is kept prepared, unless it is [`once`].
///
/// [`once`]: Statement::once
#[derive(Debug)]
struct Statement<'a> {
    sql: &'a str,
    binds: Vec<Bind<'a>>,
    keep: bool,
}

#[derive(Debug, Clone, Copy)]
enum Bind<'a> {
    Text(&'a str),
    Number(i64),
    OptionalNumber(Option<i64>),
    OptionalBytes(Option<&'a [u8]>),
}

impl<'a> Statement<'a> {
    fn new(sql: &'a str, binds: impl IntoIterator<Item = Bind<'a>>) -> Self {
        Statement { sql, binds: binds.into_iter().collect(), keep: true }
    }

    /// A statement whose text depends on how many keys it has.
    fn once(sql: &'a str, binds: impl IntoIterator<Item = Bind<'a>>) -> Self {
        Statement { keep: false, ..Statement::new(sql, binds) }
    }
}

impl QueryFragment<Sqlite> for Statement<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Sqlite>) -> QueryResult<()> {
        if !self.keep {
            out.unsafe_to_cache_prepared();
        }
        let mut binds = self.binds.iter();
        for (position, piece) in self.sql.split('?').enumerate() {
            if position > 0 {
                match binds.next() {
                    Some(Bind::Text(text)) => out.push_bind_param::<Text, str>(text)?,
                    Some(Bind::Number(number)) => out.push_bind_param::<BigInt, i64>(number)?,
                    Some(Bind::OptionalNumber(number)) => out.push_bind_param::<Nullable<BigInt>, _>(number)?,
                    Some(Bind::OptionalBytes(bytes)) => out.push_bind_param::<Nullable<Binary>, _>(bytes)?,
                    None => return Err(diesel::result::Error::QueryBuilderError("a parameter is missing".into())),
                }
            }
            out.push_sql(piece);
        }
        Ok(())
    }
}

impl QueryId for Statement<'_> {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl Query for Statement<'_> {
    type SqlType = Untyped;
}

impl<Conn> RunQueryDsl<Conn> for Statement<'_> {}

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = Text)]
    cache_key: String,
    #[diesel(sql_type = Nullable<Binary>)]
    value: Option<Vec<u8>>,
    #[diesel(sql_type = Nullable<BigInt>)]
    counter: Option<i64>,
    #[diesel(sql_type = BigInt)]
    expires: i64,
}

#[derive(QueryableByName)]
struct Number {
    #[diesel(sql_type = BigInt)]
    number: i64,
}

impl Row {
    /// Returns the entry; `None` if somebody wrote a row that has no value.
    fn into_entry(self) -> Option<Entry> {
        let bytes = self.value.map(|bytes| Value::Bytes(Bytes::from(bytes)));
        let value = self.counter.map(Value::Integer).or(bytes)?;
        Some(Entry { value, expiry: from_column(self.expires) })
    }
}

fn row<'a>(key: &'a str, value: &'a Value, expires: i64) -> [Bind<'a>; 4] {
    let [bytes, counter] = columns(value);
    [Bind::Text(key), bytes, counter, Bind::Number(expires)]
}

/// Returns what the columns `value` and `counter` hold for a value.
fn columns(value: &Value) -> [Bind<'_>; 2] {
    let (bytes, counter) = match value {
        Value::Integer(number) => (None, Some(*number)),
        Value::Bytes(bytes) => (Some(&bytes[..]), None),
    };
    [Bind::OptionalBytes(bytes), Bind::OptionalNumber(counter)]
}

fn marks(count: usize) -> String {
    vec!["?"; count].join(", ")
}

/// The column is signed; what lies after the year 292,278,994 is put there.
fn to_column(millis: u64) -> i64 {
    i64::try_from(millis).unwrap_or(i64::MAX)
}

fn from_column(expires: i64) -> Expiry {
    Expiry::from_millis(u64::try_from(expires).unwrap_or(1))
}

/// The name of the store in errors and log lines.
fn label(table: &str) -> String {
    format!("database table {table}")
}

fn sqlite_path(url: &str) -> Result<&str, &'static str> {
    let path = url.strip_prefix("sqlite://").or_else(|| url.strip_prefix("sqlite:")).unwrap_or(url);
    if path.is_empty() {
        return Err("the path of the database is missing");
    }
    if path.contains("://") || path.starts_with("postgres:") || path.starts_with("mysql:") {
        return Err("only SQLite databases hold a cache table");
    }
    Ok(path)
}

/// Prepares each connection. The timeout comes first, because the change to WAL needs a lock as well.
#[derive(Debug)]
struct Pragmas;

impl CustomizeConnection<SqliteConnection, diesel::r2d2::Error> for Pragmas {
    fn on_acquire(&self, connection: &mut SqliteConnection) -> Result<(), diesel::r2d2::Error> {
        let pragmas = format!(
            "PRAGMA busy_timeout = {}; PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;",
            BUSY_TIMEOUT.as_millis()
        );
        connection.batch_execute(&pragmas).map_err(diesel::r2d2::Error::QueryError)
    }
}

/// The table is not there.
#[derive(Debug)]
struct TableMissing(diesel::result::Error);

impl fmt::Display for TableMissing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the table does not exist; run `larder createcachetable`")
    }
}

impl error::Error for TableMissing {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        Some(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::clock::Clock;
    use crate::error::Causes;

    const ONE: Value = Value::Integer(1);

    fn store(options: Options) -> (tempfile::TempDir, Database) {
        let directory = tempfile::tempdir().unwrap();
        let store = open(&directory, options);
        assert!(store.create_table().unwrap());
        (directory, store)
    }

    fn open(directory: &tempfile::TempDir, options: Options) -> Database {
        let url = format!("sqlite://{}", directory.path().join("cache.sqlite3").display());
        Database::open(&url, "cache_entries", options).unwrap()
    }

    fn text(text: &str) -> Value {
        Value::Bytes(Bytes::copy_from_slice(text.as_bytes()))
    }

    fn value(store: &Database, key: &str) -> Option<Value> {
        store.get(key).unwrap().map(|entry| entry.value)
    }

    fn count(store: &Database) -> usize {
        store.stats().unwrap()[0].1.parse().unwrap()
    }

    #[test]
    fn every_verb_does_what_it_says() {
        let (clock, hand) = Clock::manual();
        let (_directory, store) = store(Options::new().clock(clock.clone()));
        let after = |millis| Expiry::At(clock.now().saturating_add(Duration::from_millis(millis)));
        assert_eq!(store.get("k").unwrap(), None);
        assert!(!store.delete("k").unwrap());
        assert!(!store.touch("k", Expiry::Never).unwrap());
        assert_eq!(store.incr("k", 1).unwrap(), None);
        store.set("k", &text(""), after(500)).unwrap();
        assert!(!store.add("k", &ONE, Expiry::Never).unwrap());
        assert_eq!(store.get("k").unwrap(), Some(Entry { value: text(""), expiry: after(500) }));
        assert!(store.touch("k", after(1000)).unwrap());
        hand.advance(Duration::from_millis(999));
        assert_eq!(value(&store, "k"), Some(text("")));
        hand.advance(Duration::from_millis(1));
        assert!(!store.touch("k", Expiry::Never).unwrap(), "an expired row does not come back");
        assert!(!store.delete("k").unwrap(), "an expired row is missing");
        assert!(store.add("k", &ONE, after(1000)).unwrap());
        hand.advance(Duration::from_secs(1));
        assert!(store.add("k", &ONE, Expiry::Never).unwrap(), "an expired row is replaced");
        assert!(store.touch("k", after(1000)).unwrap());
        assert_eq!(store.incr("k", -3).unwrap(), Some(-2));
        assert_eq!(store.get("k").unwrap(), Some(Entry { value: Value::Integer(-2), expiry: after(1000) }));
        assert!(store.delete("k").unwrap());
        store.set("k", &ONE, Expiry::Never).unwrap();
        store.clear().unwrap();
        assert_eq!(value(&store, "k"), None);
    }

    #[test]
    fn counters_cover_the_whole_range() {
        let (_directory, store) = store(Options::new());
        for (start, delta) in
            [(0, i64::MIN), (-1, i64::MAX), (i64::MAX, -1), (i64::MIN, i64::MAX), (i64::MAX, i64::MIN)]
        {
            store.set("n", &Value::Integer(start), Expiry::Never).unwrap();
            assert_eq!(store.incr("n", delta).unwrap(), start.checked_add(delta));
        }
        for (start, delta) in [(i64::MAX, 1), (i64::MIN, -1), (-1, i64::MIN), (1, i64::MAX)] {
            store.set("n", &Value::Integer(start), Expiry::Never).unwrap();
            assert!(matches!(store.incr("n", delta), Err(Error::NotACounter { .. })));
            assert_eq!(value(&store, "n"), Some(Value::Integer(start)));
        }
        store.set("n", &text("5"), Expiry::Never).unwrap();
        assert!(matches!(store.incr("n", 1), Err(Error::NotACounter { .. })));
    }

    #[test]
    fn many_keys_go_together_and_need_not_be_few() {
        let (_directory, store) = store(Options::new());
        let keys: Vec<String> = (0..1203).map(|n| format!("k'{n}\"?")).collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let items: Vec<_> = keys.iter().map(|key| (*key, text(key))).collect();
        assert!(store.set_many(&items, Expiry::Never).unwrap().is_empty());
        let mut asked = keys.clone();
        asked.insert(7, "missing");
        asked.push(keys[0]);
        let found = store.get_many(&asked).unwrap();
        for (key, entry) in asked.iter().zip(found) {
            assert_eq!(entry.map(|entry| entry.value), (*key != "missing").then(|| text(key)));
        }
        assert_eq!(store.delete_many(&asked).unwrap(), keys.len());
        assert_eq!(count(&store), 0);
        assert_eq!(store.get_many(&[]).unwrap(), []);
        assert!(store.set_many(&[], Expiry::Never).unwrap().is_empty());
        assert_eq!(store.delete_many(&[]).unwrap(), 0);
    }

    #[test]
    fn an_expiry_that_has_passed_removes_the_value() {
        let (_directory, store) = store(Options::new());
        let past = Expiry::At(Timestamp::from_millis(1));
        assert!(store.add("k", &ONE, past).unwrap());
        store.set("k", &ONE, Expiry::Never).unwrap();
        assert!(!store.add("k", &ONE, past).unwrap());
        assert!(store.touch("k", past).unwrap());
        store.set("k", &ONE, Expiry::Never).unwrap();
        store.set("k", &ONE, past).unwrap();
        store.set("k", &ONE, Expiry::Never).unwrap();
        assert!(store.set_many(&[("k", ONE)], past).unwrap().is_empty());
        assert_eq!(count(&store), 0);
    }

    #[test]
    fn a_full_table_culls_as_django_counts() {
        for (frequency, left) in [(3, 29), (0, 18)] {
            let (_directory, store) = store(Options::new().max_entries(30).cull_frequency(frequency));
            for n in 0..49 {
                store.set(&format!("k{n:02}"), &ONE, Expiry::Never).unwrap();
            }
            assert_eq!(count(&store), left, "frequency {frequency}");
            assert_eq!(value(&store, "k48"), Some(ONE));
        }
    }

    #[test]
    fn expired_rows_go_first_then_those_that_expire_soonest() {
        let (clock, hand) = Clock::manual();
        let (_directory, store) = store(Options::new().max_entries(10).clock(clock.clone()));
        let after = |seconds| Expiry::At(clock.now().saturating_add(Duration::from_secs(seconds)));
        for n in 0..5 {
            store.set(&format!("expired{n}"), &ONE, after(1)).unwrap();
        }
        store.set("forever", &ONE, Expiry::Never).unwrap();
        hand.advance(Duration::from_secs(1));
        for n in 0..20 {
            store.set(&format!("k{n:02}"), &ONE, after(1000 - n)).unwrap();
        }
        assert!(count(&store) <= 12, "{}", count(&store));
        assert_eq!(value(&store, "forever"), Some(ONE));
        assert_eq!(value(&store, "k00"), Some(ONE), "it expires last");
    }

    #[test]
    fn a_large_table_is_bounded_although_it_is_seldom_counted() {
        let (_directory, store) = store(Options::new().max_entries(1000));
        let items: Vec<(String, Value)> = (0..3000).map(|n| (format!("k{n}"), ONE)).collect();
        for items in items.chunks(7) {
            let items: Vec<_> = items.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
            store.set_many(&items, Expiry::Never).unwrap();
        }
        assert!((600..=1030).contains(&count(&store)), "{}", count(&store));
    }

    #[test]
    fn a_missing_table_names_the_command_that_makes_it() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(&directory, Options::new());
        let error = store.set("k", &ONE, Expiry::Never).unwrap_err();
        assert!(error.is_outage());
        assert!(Causes(&error).to_string().contains("run `larder createcachetable`"), "{}", Causes(&error));
        assert!(store.create_table().unwrap());
        assert!(!store.create_table().unwrap(), "the second time there was nothing to do");
        store.set("k", &ONE, Expiry::Never).unwrap();
    }

    #[test]
    fn names_that_could_be_sql_are_refused() {
        for table in ["", "a b", "a\"b", "a;b", "1a", "tabelle_ä", &"t".repeat(64)] {
            assert!(Database::open(":memory:", table, Options::new()).is_err(), "{table}");
        }
        for url in ["", "sqlite://", "postgres://localhost/larder", "postgres:db"] {
            assert!(Database::open(url, "t", Options::new()).is_err(), "{url}");
        }
        let store = Database::open(":memory:", "Select", Options::new()).unwrap();
        assert!(store.create_table().unwrap());
        store.set("k", &ONE, Expiry::Never).unwrap();
        assert_eq!(value(&store, "k"), Some(ONE));
    }

    #[test]
    fn a_database_that_cannot_be_opened_is_an_outage() {
        let store = Database::open("/nowhere/at/all.sqlite3", "t", Options::new()).unwrap();
        assert!(store.get("k").unwrap_err().is_outage());
    }

    #[test]
    fn many_writers_lose_no_count_and_agree_on_one_winner() {
        let (directory, first) = store(Options::new());
        let second = open(&directory, Options::new());
        first.set("n", &Value::Integer(0), Expiry::Never).unwrap();
        let work = |store: &Database| {
            (0..25).for_each(|_| assert!(store.incr("n", 1).unwrap().is_some()));
            usize::from(store.add("lock", &ONE, Expiry::Never).unwrap())
        };
        let wins: usize = thread::scope(|scope| {
            let threads = [&first, &second, &first, &second].map(|store| scope.spawn(move || work(store)));
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(wins, 1);
        assert_eq!(value(&first, "n"), Some(Value::Integer(100)));
    }

    #[test]
    fn expired_rows_are_found_by_index() {
        #[derive(QueryableByName)]
        struct Plan {
            #[diesel(sql_type = Text)]
            detail: String,
        }
        let (_directory, store) = store(Options::new());
        let sql = format!("EXPLAIN QUERY PLAN {}", store.0.sql.delete_expired);
        let plan: Vec<Plan> =
            store.read(|connection| Statement::once(&sql, [Bind::Number(1)]).load(connection)).unwrap();
        assert!(plan[0].detail.contains("cache_entries_expires"), "{}", plan[0].detail);
    }
}
