//! The database, its connections and its transactions.
//!
//! [`Database`] opens a database and hands out connections, one closure at a time. [`Db`] is such a connection
//! together with the transaction that is open on it: all models read and write through it. What a transaction wants
//! done once it is durable is queued with [`Db::on_commit`]; the signals of the models go the same way.
//!
//! This is the only module that knows which databases there are, besides the migrations. All calls block: in a
//! handler, make them inside `actix_web::web::block`.

mod connection;

use std::{
    fmt, mem,
    panic::{self, AssertUnwindSafe, Location},
    sync::Arc,
    thread,
    time::Duration,
};

use diesel::{connection::SimpleConnection, r2d2::PooledConnection};
use jiff::Timestamp;

use self::connection::{Manager, Pools, Role};
use crate::{
    error::{Error, Result, chain},
    migrations::{self, MigrationStatus},
    signals::Signals,
    url::Target,
};

pub use connection::AnyConnection as Connection;

/// How often a transaction is tried that others are in the way of.
const MAX_TRIES: u32 = 6;

/// The longest pause after the first try. It is twice as long after each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(10);

/// The database that diesel writes SQL for.
pub type Backend = <Connection as diesel::Connection>::Backend;

diesel::define_sql_function! {
    /// Folds text to lower case, beyond ASCII too.
    ///
    /// SQLite's own function knows ASCII only, so every connection replaces it by Rust's.
    fn lower(text: diesel::sql_types::Text) -> diesel::sql_types::Text;
}

type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// A database and the pools of connections to it. Cheap to clone; clones share the pools and the signals.
///
/// There is one connection that writes and there are several that read, because SQLite has one writer at a time:
/// writers queue up here, where waiting is fair, instead of in the file's lock.
///
/// # Concurrency
/// A `write` inside a `write` on the same thread waits for itself and fails as [`Error::Busy`] after ten seconds; use
/// the [`Db`] at hand and [`Db::transaction`]. A database in memory has one connection for everything, so there the
/// same holds for a `read`.
///
/// # Examples
/// ```
/// use larder_models::{Database, Model, NewObject, Object, Signals};
///
/// let database = Database::open("sqlite::memory:", Signals::new())?;
/// database.migrate()?;
/// let pan = database.write(|db| Object::insert(db, NewObject { title: "Jam pan".into(), ..Default::default() }))?;
/// let found = database.read(|db| Object::get(db, pan.id))?;
/// assert_eq!(found.title, "Jam pan");
/// # Ok::<(), larder_models::Error>(())
/// ```
#[derive(Clone)]
pub struct Database {
    pools: Pools,
    signals: Signals,
    clock: Clock,
}

impl Database {
    /// Opens a database, and creates the file and its folder if they are not there.
    ///
    /// The url is `sqlite://path/to/file`, relative to the working folder or with a third slash absolute, or
    /// `sqlite::memory:` for tests. Tables are made by [`Database::migrate`].
    ///
    /// # Errors
    /// [`Error::UnsupportedUrl`] for any other url, [`Error::Connect`] if the file cannot be opened.
    pub fn open(url: &str, signals: Signals) -> Result<Self> {
        Ok(Database { pools: Pools::open(url)?, signals, clock: Arc::new(Timestamp::now) })
    }

    /// Takes the time from elsewhere, for tests.
    #[must_use]
    pub fn with_clock(mut self, clock: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Returns the url it was opened with, its password blanked out.
    pub fn url(&self) -> &str {
        self.pools.url()
    }

    /// Returns the signals that models written here send.
    pub fn signals(&self) -> &Signals {
        &self.signals
    }

    /// Runs queries on a connection that cannot write.
    ///
    /// Each query sees what was committed when it started. Several that must agree with each other belong into one
    /// [`Db::transaction`].
    ///
    /// # Errors
    /// What the closure returns, and [`Error::Busy`] if no connection became free in time.
    pub fn read<T>(&self, queries: impl FnOnce(&mut Db) -> Result<T>) -> Result<T> {
        let mut db = self.connect(Role::Reader)?;
        // The one connection of a database in memory also writes, so that it must be told each time.
        if self.pools.target == Target::Memory {
            db.conn().batch_execute("PRAGMA query_only = ON")?;
        }
        let result = panic::catch_unwind(AssertUnwindSafe(|| queries(&mut db)));
        if self.pools.target == Target::Memory {
            db.conn().batch_execute("PRAGMA query_only = OFF")?;
        }
        finish(db, result)
    }

    /// Runs queries in one write transaction, then what they queued with [`Db::on_commit`].
    ///
    /// The transaction is rolled back if the closure fails or panics. When the queue runs, the connection is free
    /// again: other writers do not wait for it, and what it calls may write.
    ///
    /// # Errors
    /// What the closure returns, what the database says to the commit, and [`Error::Busy`] if the connection or the
    /// write lock did not become free in time. After an error nothing was stored and nothing of the queue ran.
    pub fn write<T>(&self, queries: impl FnOnce(&mut Db) -> Result<T>) -> Result<T> {
        let mut db = self.connect(Role::Writer)?;
        let result = panic::catch_unwind(AssertUnwindSafe(|| db.run_transaction(queries)));
        let committed = mem::take(&mut db.queue);
        let value = finish(db, result)?;
        run_all(committed);
        Ok(value)
    }

    /// Does what [`write`](Self::write) does, and does it again if another transaction was in the way: a few times, after
    /// waiting a little, a different time each.
    ///
    /// For what PostgreSQL may refuse though nothing is wrong with it: transactions that lock several rows, or are
    /// serializable. What the closure changes outside of the database it changes each time.
    ///
    /// # Errors
    /// As [`write`](Self::write); [`Error::InTheWay`] if the last try failed for that too.
    pub fn write_again<T>(&self, mut queries: impl FnMut(&mut Db) -> Result<T>) -> Result<T> {
        let mut pause = FIRST_PAUSE;
        for _ in 1..MAX_TRIES {
            match self.write(&mut queries) {
                Err(Error::InTheWay { .. }) => thread::sleep(pause.mul_f64(any_fraction())),
                done => return done,
            }
            pause *= 2;
        }
        self.write(queries)
    }

    /// Gives the connection that writes without a transaction: each statement commits itself.
    ///
    /// For maintenance, and for jobs that commit in several steps with [`Db::transaction`]. What they queue runs
    /// while the connection is still held, so it must not write through this [`Database`].
    ///
    /// # Errors
    /// What the closure returns, and [`Error::Busy`] if the connection did not become free in time.
    pub fn autocommit<T>(&self, queries: impl FnOnce(&mut Db) -> Result<T>) -> Result<T> {
        let mut db = self.connect(Role::Writer)?;
        let result = panic::catch_unwind(AssertUnwindSafe(|| queries(&mut db)));
        finish(db, result)
    }

    /// Applies the migrations that are missing, all or none, and returns their names.
    ///
    /// # Errors
    /// [`Error::Migration`].
    pub fn migrate(&self) -> Result<Vec<String>> {
        self.write(|db| migrations::migrate(db.conn()))
    }

    /// Reverts the newest applied migration and returns its name, or `None` if there is none.
    ///
    /// # Errors
    /// [`Error::Migration`].
    pub fn revert_last_migration(&self) -> Result<Option<String>> {
        self.write(|db| migrations::revert_last(db.conn()))
    }

    /// Returns all migrations this binary knows, oldest first, and whether each is applied.
    ///
    /// # Errors
    /// [`Error::Migration`].
    pub fn migrations_status(&self) -> Result<Vec<MigrationStatus>> {
        self.write(|db| migrations::status(db.conn()))
    }

    fn connect(&self, role: Role) -> Result<Db> {
        Ok(Db {
            held: self.pools.get(role)?,
            role,
            depth: 0,
            queue: Vec::new(),
            signals: self.signals.clone(),
            clock: Arc::clone(&self.clock),
        })
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").field("url", &self.url()).finish_non_exhaustive()
    }
}

/// A connection, and the transaction that is open on it.
pub struct Db {
    held: PooledConnection<Manager>,
    role: Role,
    /// How many transactions are open: one, and a savepoint for each further level.
    depth: usize,
    /// What the open transactions want done, in order. Each level remembers where its part begins.
    queue: Vec<OnCommit>,
    signals: Signals,
    clock: Clock,
}

impl Db {
    /// Returns the connection, for queries of your own.
    ///
    /// Transactions opened on it directly are unknown to this `Db`: use [`Db::transaction`]. Writes made on it send
    /// no signals.
    pub fn conn(&mut self) -> &mut Connection {
        &mut self.held.connection
    }

    /// Returns the signals that models send.
    pub fn signals(&self) -> &Signals {
        &self.signals
    }

    /// Returns the time, to the millisecond that the tables keep.
    pub fn now(&self) -> Timestamp {
        let now = (self.clock)();
        Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
    }

    /// Tells whether this connection may write.
    pub fn is_writable(&self) -> bool {
        self.role == Role::Writer
    }

    /// Tells whether a transaction is open.
    pub fn in_transaction(&self) -> bool {
        self.depth > 0
    }

    /// Runs queries in a transaction, or in a savepoint if a transaction is open.
    ///
    /// If the closure fails or panics, what it wrote is rolled back and what it queued with [`Db::on_commit`] is
    /// dropped, both without harm to the transaction around it. The queue runs after the outermost commit.
    ///
    /// # Errors
    /// What the closure returns, and what the database says to the commit.
    ///
    /// # Examples
    /// ```
    /// use larder_models::{Database, Error, Signals};
    ///
    /// let database = Database::open("sqlite::memory:", Signals::new())?;
    /// let (done, news) = std::sync::mpsc::channel();
    /// database.write(|db| {
    ///     let lost = done.clone();
    ///     let _refused = db.transaction(|db| {
    ///         db.on_commit(move || lost.send("never").unwrap());
    ///         Err::<(), _>(Error::abort("only this savepoint"))
    ///     });
    ///     db.on_commit(move || done.send("after the commit").unwrap());
    ///     Ok(())
    /// })?;
    /// assert_eq!(news.try_iter().collect::<Vec<_>>(), ["after the commit"]);
    /// # Ok::<(), Error>(())
    /// ```
    pub fn transaction<T>(&mut self, queries: impl FnOnce(&mut Db) -> Result<T>) -> Result<T> {
        let value = self.run_transaction(queries)?;
        if self.depth == 0 {
            run_all(mem::take(&mut self.queue));
        }
        Ok(value)
    }

    /// Does something after the outermost commit, in the order it was asked for.
    ///
    /// It is dropped if the transaction, or the savepoint it was asked for in, is rolled back. When no transaction is
    /// open, it is done at once. If it panics, the panic is logged and the rest still runs: the commit stands.
    #[track_caller]
    pub fn on_commit(&mut self, run: impl FnOnce() + Send + 'static) {
        let place = Location::caller();
        self.queue_on_commit(format!("on_commit {}:{}", place.file(), place.line()), run);
    }

    /// Does what [`Db::on_commit`] does, with a text of the caller's in the log line of a panic.
    pub(crate) fn queue_on_commit(&mut self, cause: String, run: impl FnOnce() + Send + 'static) {
        let entry = OnCommit { cause, run: Box::new(run) };
        if self.depth == 0 { entry.run() } else { self.queue.push(entry) }
    }

    /// Runs the transaction and leaves the queue to the caller.
    fn run_transaction<T>(&mut self, queries: impl FnOnce(&mut Db) -> Result<T>) -> Result<T> {
        let mark = self.queue.len();
        self.begin()?;
        let result = panic::catch_unwind(AssertUnwindSafe(|| queries(self)));
        let committed = match result {
            Ok(Ok(value)) => self.commit().map(|()| value),
            Ok(Err(error)) => {
                self.roll_back();
                Err(error)
            }
            Err(payload) => {
                self.roll_back();
                self.queue.truncate(mark);
                panic::resume_unwind(payload);
            }
        };
        if committed.is_err() {
            self.queue.truncate(mark);
        }
        committed
    }

    fn begin(&mut self) -> Result<()> {
        self.held.connection.begin(self.depth == 0, self.role)?;
        self.depth += 1;
        Ok(())
    }

    fn commit(&mut self) -> Result<()> {
        if self.depth == 1
            && let Err(error) = self.held.check_transaction()
        {
            self.roll_back();
            return Err(Error::abort(format!("a statement in it had failed, and that was passed over: {error}")));
        }
        self.depth -= 1;
        let committed = self.held.connection.commit();
        // Diesel rolls back a failed COMMIT by itself, but leaves a savepoint open whose RELEASE failed.
        if committed.is_err() && self.depth > 0 {
            let _already_failing = self.held.connection.roll_back();
        }
        self.held.forget_failure();
        Ok(committed?)
    }

    /// Rolls back the innermost level. If that fails, diesel marks the connection as broken, its next commit fails,
    /// and the pool closes it; so the caller gets the error that led here.
    fn roll_back(&mut self) {
        self.depth -= 1;
        if let Err(error) = self.held.connection.roll_back() {
            log::error!(target: "larder_models", error:% = chain(&error); "failed to roll back");
        }
        self.held.forget_failure();
    }
}

impl fmt::Debug for Db {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Db")
            .field("role", &self.role)
            .field("depth", &self.depth)
            .field("queued", &self.queue.len())
            .finish_non_exhaustive()
    }
}

/// Something to do after the commit.
struct OnCommit {
    cause: String,
    run: Box<dyn FnOnce() + Send>,
}

impl OnCommit {
    fn run(self) {
        if let Err(payload) = panic::catch_unwind(AssertUnwindSafe(self.run)) {
            log::error!(target: "larder_models", cause:% = self.cause, error:% = panic_text(&*payload);
                "an on_commit callback panicked, the commit stands");
        }
    }
}

/// Returns the text of a panic, if it has one.
pub(crate) fn panic_text(payload: &(dyn std::any::Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("a panic without a text")
}

/// Returns a number from 0 to 1 that differs from thread to thread.
fn any_fraction() -> f64 {
    use std::hash::{BuildHasher, RandomState};
    let any = RandomState::new().hash_one(());
    f64::from(u32::try_from(any >> 32).unwrap_or(0)) / f64::from(u32::MAX)
}

fn run_all(queue: Vec<OnCommit>) {
    queue.into_iter().for_each(OnCommit::run);
}

/// Gives the connection back before a panic goes on: the pool throws away what is returned while panicking, and with
/// it a database in memory.
fn finish<T>(db: Db, result: std::thread::Result<Result<T>>) -> Result<T> {
    drop(db);
    result.unwrap_or_else(|payload| panic::resume_unwind(payload))
}
