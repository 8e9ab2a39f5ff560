//! Connections to either database, and the pools of them.

use std::{
    fmt, fs,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use diesel::{
    Connection as _, QueryResult,
    connection::{AnsiTransactionManager, SimpleConnection, TransactionManager},
    pg::PgConnection,
    r2d2::{self, ManageConnection, Pool, PooledConnection, R2D2Connection},
    sqlite::SqliteConnection,
};

use super::lower_utils;
use crate::{
    error::{Error, Result, Source},
    url::{self, Target},
    watch::{Seen, Watched, Watcher},
};

/// How many readers may be at work at once, and how many writers on PostgreSQL. They are opened as they are needed.
const MAX_CONNECTIONS: u32 = 8;

/// How long a statement waits for a lock that somebody else holds, in milliseconds.
const LOCK_TIMEOUT_MS: u32 = 5_000;

/// How long a caller waits for a free connection. A little longer than one lock wait of the caller in front.
const POOL_TIMEOUT: Duration = Duration::from_secs(10);

/// How long if no connection could be made just now.
const POOL_TIMEOUT_WHEN_DOWN: Duration = Duration::from_secs(1);

/// How long a connection to a server may lie idle before it is asked whether it still lives.
const TRUSTED_IDLE: Duration = Duration::from_secs(1);

/// The connection that queries run on: to PostgreSQL or to SQLite.
#[derive(diesel::MultiConnection)]
pub enum AnyConnection {
    /// To PostgreSQL.
    Postgres(PgConnection),
    /// To SQLite. Last, because it takes whatever it is given for the name of a file.
    Sqlite(SqliteConnection),
}

impl fmt::Debug for AnyConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AnyConnection::Postgres(_) => "Connection::Postgres",
            AnyConnection::Sqlite(_) => "Connection::Sqlite",
        })
    }
}

impl AnyConnection {
    pub(crate) fn open(target: &Target, role: Role) -> Result<Self, Source> {
        let mut connection = match target {
            Target::Memory => AnyConnection::Sqlite(SqliteConnection::establish(":memory:")?),
            Target::File(path) => AnyConnection::Sqlite(SqliteConnection::establish(path)?),
            Target::Postgres(url) => AnyConnection::Postgres(PgConnection::establish(url)?),
        };
        connection.set_up(role)?;
        Ok(connection)
    }

    fn set_up(&mut self, role: Role) -> QueryResult<()> {
        match self {
            AnyConnection::Sqlite(connection) => {
                // The timeout comes first, because the switch to WAL may have to wait for a lock.
                connection.batch_execute(&format!("PRAGMA busy_timeout = {LOCK_TIMEOUT_MS}"))?;
                connection.batch_execute(
                    "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON",
                )?;
                if role == Role::Reader {
                    connection.batch_execute("PRAGMA query_only = ON")?;
                }
                lower_utils::register_impl(connection, |text: String| text.to_lowercase())
            }
            AnyConnection::Postgres(connection) => {
                connection.batch_execute(&format!("SET lock_timeout = {LOCK_TIMEOUT_MS}"))?;
                if role == Role::Reader {
                    connection.batch_execute("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY")?;
                }
                Ok(())
            }
        }
    }

    /// Begins a transaction, or a savepoint in one.
    pub(super) fn begin(&mut self, is_outermost: bool, role: Role) -> QueryResult<()> {
        match self {
            AnyConnection::Sqlite(connection) if is_outermost && role == Role::Writer => {
                // A transaction that starts by reading cannot wait for the write lock later, it fails at once.
                AnsiTransactionManager::begin_transaction_sql(connection, "BEGIN IMMEDIATE")
            }
            AnyConnection::Sqlite(connection) => AnsiTransactionManager::begin_transaction(connection),
            AnyConnection::Postgres(connection) => AnsiTransactionManager::begin_transaction(connection),
        }
    }

    pub(super) fn commit(&mut self) -> QueryResult<()> {
        match self {
            AnyConnection::Sqlite(connection) => AnsiTransactionManager::commit_transaction(connection),
            AnyConnection::Postgres(connection) => AnsiTransactionManager::commit_transaction(connection),
        }
    }

    pub(super) fn roll_back(&mut self) -> QueryResult<()> {
        match self {
            AnyConnection::Sqlite(connection) => AnsiTransactionManager::rollback_transaction(connection),
            AnyConnection::Postgres(connection) => AnsiTransactionManager::rollback_transaction(connection),
        }
    }
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Reader,
    Writer,
}

/// A connection of a pool.
pub(super) struct Held {
    pub(super) connection: AnyConnection,
    /// What its statements did.
    pub(super) seen: Arc<Seen>,
    idle_since: Instant,
}

impl Held {
    /// Makes sure that the open transaction is still one. PostgreSQL gives up a transaction in which a statement has
    /// failed, and says to its COMMIT that all is well.
    pub(super) fn check_transaction(&mut self) -> QueryResult<()> {
        match &mut self.connection {
            AnyConnection::Postgres(connection) if self.seen.has_failed() => connection.batch_execute("SELECT 1"),
            _ => Ok(()),
        }
    }
}

/// Makes the connections of a pool.
#[derive(Clone)]
pub(super) struct Manager {
    target: Target,
    role: Role,
    down: Down,
    watched: Arc<Watched>,
}

impl ManageConnection for Manager {
    type Connection = Held;
    type Error = r2d2::Error;

    fn connect(&self) -> Result<Held, r2d2::Error> {
        let opened = AnyConnection::open(&self.target, self.role);
        self.down.set(opened.as_ref().err().map(ToString::to_string));
        let mut connection = opened
            .map_err(|error| r2d2::Error::ConnectionError(diesel::ConnectionError::BadConnection(error.to_string())))?;
        let seen = Arc::new(Seen::default());
        connection.set_instrumentation(Watcher::new(Arc::clone(&seen), Arc::clone(&self.watched)));
        Ok(Held { connection, seen, idle_since: Instant::now() })
    }

    fn is_valid(&self, held: &mut Held) -> Result<(), r2d2::Error> {
        match &mut held.connection {
            AnyConnection::Postgres(connection) if held.idle_since.elapsed() > TRUSTED_IDLE => {
                connection.ping().map_err(r2d2::Error::QueryError)
            }
            // A connection to a local file does not go stale.
            _ => Ok(()),
        }
    }

    fn has_broken(&self, held: &mut Held) -> bool {
        held.idle_since = Instant::now();
        held.seen.forget_failure();
        held.seen.take();
        std::thread::panicking() || held.connection.is_broken()
    }
}

/// Does not log what the caller is told.
#[derive(Debug)]
struct Quiet;

impl<E> r2d2::HandleError<E> for Quiet {
    fn handle_error(&self, _: E) {}
}

/// Why the last connection could not be made, if it could not.
#[derive(Clone, Default)]
struct Down(Arc<Mutex<Option<String>>>);

impl Down {
    fn reason(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, reason: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = reason;
    }
}

/// The pools of a database: one to write and one to read, which for a database in memory are the same.
#[derive(Clone)]
pub(super) struct Pools {
    pub(super) target: Target,
    url: String,
    writers: Pool<Manager>,
    readers: Pool<Manager>,
    down: Down,
    /// What is done with statements; each set once.
    pub(super) watched: Arc<Watched>,
}

impl Pools {
    /// Opens both.
    pub(super) fn open(url: &str) -> Result<Self> {
        let target = url::parse(url)?;
        let url = larder_cache::settings::redacted(url);
        let failed = |source| Error::Connect { url: url.clone(), source };
        if let Target::File(path) = &target {
            create_parent(path).map_err(|error| failed(error.into()))?;
        }
        if target != Target::Memory {
            // Without a pool in between, which would try again for ten seconds and report a timeout.
            drop(AnyConnection::open(&target, Role::Writer).map_err(failed)?);
        }
        let (down, watched) = (Down::default(), Arc::default());
        let pool = |size, role| {
            let manager = Manager { target: target.clone(), role, down: down.clone(), watched: Arc::clone(&watched) };
            Pool::builder()
                .max_size(size)
                .min_idle(Some(1))
                // A database in memory dies with its connection.
                .max_lifetime(None)
                .idle_timeout(None)
                .connection_timeout(POOL_TIMEOUT)
                .error_handler(Box::new(Quiet))
                .build(manager)
                .map_err(|error| failed(error.into()))
        };
        // SQLite has one writer at a time: writers queue up here, where waiting is fair, instead of in the file's lock.
        let max_writers = if matches!(target, Target::Postgres(_)) { MAX_CONNECTIONS } else { 1 };
        let writers = pool(max_writers, Role::Writer)?;
        let readers = if target == Target::Memory { writers.clone() } else { pool(MAX_CONNECTIONS, Role::Reader)? };
        Ok(Pools { target, url, writers, readers, down, watched })
    }

    /// Returns the address, without its password.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Waits for a connection.
    pub(super) fn get(&self, role: Role) -> Result<PooledConnection<Manager>> {
        let pool = if role == Role::Writer { &self.writers } else { &self.readers };
        let timeout = if self.down.reason().is_some() { POOL_TIMEOUT_WHEN_DOWN } else { POOL_TIMEOUT };
        pool.get_timeout(timeout).map_err(|error| match self.down.reason() {
            Some(reason) => Error::Connect { url: self.url.clone(), source: reason.into() },
            None => Error::Busy { source: error.into() },
        })
    }
}

fn create_parent(path: &str) -> std::io::Result<()> {
    match Path::new(path).parent() {
        Some(folder) if !folder.as_os_str().is_empty() => fs::create_dir_all(folder),
        _ => Ok(()),
    }
}
