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
    collections::{BTreeMap, BTreeSet},
    fmt, mem,
    panic::{self, AssertUnwindSafe, Location},
    sync::{Arc, OnceLock},
    thread,
    time::Duration,
};

use diesel::{
    QueryResult,
    connection::SimpleConnection,
    r2d2::{PooledConnection, R2D2Connection},
};
use jiff::Timestamp;
use larder_cache::{Caches, transaction::OpenTransaction};

use self::connection::{Manager, Pools};
use crate::{
    courier::Courier,
    error::{Error, Result, chain},
    invalidation::{Invalidation, MAX_STALE_TAGS, of_table},
    migrations::{self, MigrationStatus},
    outbox,
    signals::Signals,
    url::Target,
    watch::{Query, Seen, Watch, Watched},
};

pub use connection::AnyConnection as Connection;
pub(crate) use connection::{AnyConnection, Role};

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
/// There are connections that write and such that only read. SQLite has one writer at a time, so there is one of them:
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
    courier: Arc<OnceLock<Courier>>,
}

impl Database {
    /// Opens a database; a file of SQLite and its folder are made if they are not there.
    ///
    /// The url is `postgres://user:password@host:port/database`; `sqlite://path/to/file`, relative to the working folder or
    /// with a third slash absolute; or `sqlite::memory:` for tests. Tables are made by [`Database::migrate`].
    ///
    /// # Errors
    /// [`Error::UnsupportedUrl`] for any other url, [`Error::Connect`] if the server does not answer or the file cannot be
    /// opened.
    pub fn open(url: &str, signals: Signals) -> Result<Self> {
        Ok(Database { pools: Pools::open(url)?, signals, clock: Arc::new(Timestamp::now), courier: Arc::default() })
    }

    /// Invalidates in these caches what is written here, and what other processes write that do the same. Call it once, for
    /// all clones.
    ///
    /// Each transaction writes what it makes stale into the table `outbox`, which [`migrate`](Self::migrate) or
    /// [`create_outbox`](Self::create_outbox) makes. When it has committed, the caches are told before the caller goes on.
    /// Caches in the memory of other processes hear of it within 20 ms and the time of a query, as long as they can ask the
    /// database; while they cannot, they are behind by ten seconds at most.
    ///
    /// # Examples
    /// ```
    /// use larder_cache::Caches;
    /// use larder_models::{Database, Model, NewObject, Object, Signals};
    ///
    /// let caches = Caches::local();
    /// let database = Database::open("sqlite::memory:", Signals::new())?.with_caches(&caches);
    /// database.migrate()?;
    ///
    /// let cache = caches.default_cache().blocking();
    /// let count = || cache.get_or_set("count", 300, || database.read(Object::count));
    /// assert_eq!(count()?, 0);
    /// database.write(|db| Object::insert(db, NewObject { title: "Crock".into(), ..NewObject::default() }))?;
    /// assert_eq!(count()?, 1, "nobody had to say so");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn with_caches(self, caches: &Caches) -> Self {
        // A second one changes nothing, as is said above.
        self.courier.get_or_init(|| Courier::start(caches.clone(), self.pools.target.clone()));
        self
    }

    /// Invalidates what shows a table when something else than a model writes it: raw SQL, statements on
    /// [`Db::conn`]. Call it once.
    ///
    /// The watcher reads the SQL of each statement, which costs a few microseconds; it cannot see what triggers, foreign keys
    /// and functions write, so [`Watch::writes_also`] names that. Inside a transaction such a write counts like one of a model.
    /// Outside of one it is told when [`autocommit`](Self::autocommit) ends, and lost if the process ends in between.
    ///
    /// # Examples
    /// ```
    /// use diesel::connection::SimpleConnection;
    /// use larder_cache::Caches;
    /// use larder_models::{Database, Model, Object, Signals, Watch, sample};
    ///
    /// let caches = Caches::local();
    /// let database = Database::open("sqlite::memory:", Signals::new())?.with_caches(&caches).watch(Watch::new());
    /// database.migrate()?;
    /// database.write(sample::load)?;
    ///
    /// let cache = caches.default_cache().blocking();
    /// let shown = || cache.get_or_set("shown", 300, || database.read(|db| Ok(Object::published(db)?.len())));
    /// assert!(shown()? > 0);
    /// database.write(|db| Ok(db.conn().batch_execute("UPDATE object SET published = FALSE")?))?;
    /// assert_eq!(shown()?, 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn watch(self, watch: Watch) -> Self {
        // A second one changes nothing, as is said above.
        let _ = self.pools.watched.watch.set(watch);
        self
    }

    /// Tells somebody of each statement, on the thread that ran it: quick, please. Call it once. Each statement is written out
    /// for that, so it is meant for development.
    ///
    /// # Examples
    /// ```
    /// use larder_models::{Database, Model, Object, Signals};
    /// use std::sync::{Arc, Mutex};
    ///
    /// let (seen, count) = (Arc::new(Mutex::new(Vec::new())), |db: &mut _| Object::count(db));
    /// let notes = Arc::clone(&seen);
    /// let database = Database::open("sqlite::memory:", Signals::new())?
    ///     .observe_queries(move |query| notes.lock().unwrap().push(query.statement().to_owned()));
    /// database.migrate()?;
    /// database.read(count)?;
    /// assert!(seen.lock().unwrap().iter().any(|sql| sql.contains("FROM `object`")));
    /// # Ok::<(), larder_models::Error>(())
    /// ```
    #[must_use]
    pub fn observe_queries(self, observer: impl Fn(&Query<'_>) + Send + Sync + 'static) -> Self {
        // A second one changes nothing, as is said above.
        let _ = self.pools.watched.observer.set(Box::new(observer));
        self
    }

    /// Makes the table `outbox`, if it is not there: for databases whose other tables have migrations of their own.
    ///
    /// # Errors
    /// What the database says.
    pub fn create_outbox(&self) -> Result<()> {
        self.write(|db| Ok(outbox::create(db.conn())?))?;
        self.outbox_is_made();
        Ok(())
    }

    fn outbox_is_made(&self) {
        if let Some(courier) = self.courier.get() {
            courier.outbox_is_made();
        }
    }

    /// Tells the caches what was committed by processes that ended before they could: call it before serving what a shared
    /// cache may have kept since. Returns how many transactions that were.
    ///
    /// # Errors
    /// What the database says. What a cache did not hear is kept, by the cache and in the database.
    pub fn deliver_left_behind(&self) -> Result<usize> {
        match self.courier.get() {
            Some(courier) if courier.has_outbox() => self.autocommit(|db| courier.deliver_left_behind(db.conn())),
            _ => Ok(0),
        }
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
        let committed = db.take_committed();
        let value = finish(db, result)?;
        committed.follow();
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
        db.queue_seen_writes();
        finish(db, result)
    }

    /// Applies the migrations that are missing, all or none, and returns their names.
    ///
    /// # Errors
    /// [`Error::Migration`].
    pub fn migrate(&self) -> Result<Vec<String>> {
        let applied = self.write(|db| migrations::migrate(db.conn()))?;
        self.outbox_is_made();
        Ok(applied)
    }

    /// Reverts the newest applied migration and returns its name, or `None` if there is none.
    ///
    /// # Errors
    /// [`Error::Migration`].
    pub fn revert_last_migration(&self) -> Result<Option<String>> {
        let (reverted, tables) = self.write(|db| {
            let reverted = migrations::revert_last(db.conn())?;
            // Perhaps there is no outbox any more in which to say so.
            Ok((reverted, db.held.seen.take()))
        })?;
        if let Some(courier) = self.courier.get().filter(|_| !tables.is_empty()) {
            courier.deliver_and_post(written(tables));
        }
        Ok(reverted)
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
            row: None,
            open: None,
            signals: self.signals.clone(),
            clock: Arc::clone(&self.clock),
            courier: self.courier.get().cloned(),
            watched: Arc::clone(&self.pools.watched),
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
    queue: Vec<Queued>,
    /// The row of the outbox that the last transaction wrote.
    row: Option<i64>,
    /// What the caches are told of the transaction while it is open.
    open: Option<OpenTransaction>,
    signals: Signals,
    clock: Clock,
    courier: Option<Courier>,
    watched: Arc<Watched>,
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
            self.take_committed().follow();
        }
        Ok(value)
    }

    /// Makes entries with these tags stale in every cache, after the outermost commit, or at once if no transaction is open.
    /// Until then this thread does not find them.
    ///
    /// Models do so by themselves; see [`invalidation`](crate::invalidation).
    ///
    /// # Examples
    /// ```
    /// use larder_models::{Database, Object, Signals};
    ///
    /// let signals = Signals::new();
    /// signals.pre_save::<Object>("menu", |db, _| {
    ///     db.invalidate_tags(["menu"]);
    ///     db.invalidate_keys(["front page"]);
    ///     Ok(())
    /// });
    /// ```
    #[track_caller]
    pub fn invalidate_tags<T: Into<String>>(&mut self, tags: impl IntoIterator<Item = T>) {
        let tags = tags.into_iter().map(Into::into).collect();
        self.queue_stale(Invalidation {
            cause: format!("invalidate_tags {}", caller()),
            tags,
            ..Invalidation::default()
        });
    }

    /// Removes values with these keys from every cache; otherwise as [`invalidate_tags`](Self::invalidate_tags).
    #[track_caller]
    pub fn invalidate_keys<K: Into<String>>(&mut self, keys: impl IntoIterator<Item = K>) {
        let keys = keys.into_iter().map(Into::into).collect();
        self.queue_stale(Invalidation {
            cause: format!("invalidate_keys {}", caller()),
            keys,
            ..Invalidation::default()
        });
    }

    /// Makes stale whatever shows rows of a table: for writes of your own that models do not know of. Otherwise as
    /// [`invalidate_tags`](Self::invalidate_tags).
    ///
    /// # Examples
    /// ```
    /// use diesel::connection::SimpleConnection;
    /// use larder_models::{Database, Signals};
    ///
    /// let database = Database::open("sqlite::memory:", Signals::new())?;
    /// database.migrate()?;
    /// database.write(|db| {
    ///     db.conn().batch_execute("UPDATE object SET published = TRUE")?;
    ///     db.invalidate_table("object");
    ///     Ok(())
    /// })?;
    /// # Ok::<(), larder_models::Error>(())
    /// ```
    #[track_caller]
    pub fn invalidate_table(&mut self, table: &str) {
        let tags = of_table(table).into_iter().collect();
        self.queue_stale(Invalidation {
            cause: format!("invalidate_table {}", caller()),
            tags,
            ..Invalidation::default()
        });
    }

    fn queue_stale(&mut self, stale: Invalidation) {
        self.queue_stale_of(None, stale);
    }

    /// Does what [`Db::invalidate_tags`] does, with the tags of rows of a table. If they become too many, all of its rows are
    /// stale.
    pub(crate) fn queue_rows(&mut self, table: &'static str, cause: String, tags: BTreeSet<String>) {
        self.queue_stale_of(Some(table), Invalidation { cause, tags, ..Invalidation::default() });
        let written_with = self.watched.watch.get().map(|watch| watch.written_with(table)).unwrap_or_default();
        if !written_with.is_empty() {
            self.queue_stale(written(written_with));
        }
    }

    fn queue_stale_of(&mut self, table: Option<&'static str>, stale: Invalidation) {
        if stale.is_empty() {
            return;
        }
        if let Some(open) = &self.open {
            open.change(stale.tags.iter().map(String::as_str), stale.keys.iter().map(String::as_str));
            self.queue.push(Queued::Stale { table, stale });
        } else if self.is_writable() && self.courier.as_ref().is_some_and(Courier::has_outbox) {
            // In a transaction of its own, so that other processes hear of it.
            let told = self.transaction(|db| {
                db.queue_stale_of(table, stale.clone());
                Ok(())
            });
            if let (Err(error), Some(courier)) = (told, &self.courier) {
                log::warn!(target: "larder_models", error:% = chain(&error); "other processes hear later of an invalidation");
                courier.deliver_and_post(stale);
            }
        } else if let Some(courier) = &self.courier {
            courier.deliver_and_post(stale);
        }
    }

    /// Does the same for what the watcher has seen.
    fn queue_seen_writes(&mut self) {
        let tables = self.held.seen.take();
        if !tables.is_empty() {
            self.queue_stale(written(tables));
        }
    }

    /// Runs a statement that writes rows of a table of which the caller says what they make stale. Of other tables the
    /// watcher says it.
    pub(crate) fn writing<T>(
        &mut self,
        table: &str,
        run: impl FnOnce(&mut Connection) -> QueryResult<T>,
    ) -> QueryResult<T> {
        let seen = Arc::clone(&self.held.seen);
        let before = seen.count();
        let done = run(self.conn());
        seen.forget(before, table);
        done
    }

    /// Runs a statement of which the watcher need not know: whoever calls this says what it makes stale.
    pub(crate) fn quietly<T>(&mut self, run: impl FnOnce(&mut Connection) -> QueryResult<T>) -> QueryResult<T> {
        struct Restore(Arc<Seen>, bool);
        impl Drop for Restore {
            fn drop(&mut self) {
                self.0.set_quiet(self.1);
            }
        }
        let seen = Arc::clone(&self.held.seen);
        let before = seen.set_quiet(true);
        let _restore = Restore(seen, before);
        run(self.conn())
    }

    /// Does something after the outermost commit, in the order it was asked for.
    ///
    /// It is dropped if the transaction, or the savepoint it was asked for in, is rolled back. When no transaction is
    /// open, it is done at once. If it panics, the panic is logged and the rest still runs: the commit stands.
    #[track_caller]
    pub fn on_commit(&mut self, run: impl FnOnce() + Send + 'static) {
        self.queue_on_commit(format!("on_commit {}", caller()), run);
    }

    /// Does what [`Db::on_commit`] does, with a text of the caller's in the log line of a panic.
    pub(crate) fn queue_on_commit(&mut self, cause: String, run: impl FnOnce() + Send + 'static) {
        let entry = OnCommit { cause, run: Box::new(run) };
        if self.depth == 0 { entry.run() } else { self.queue.push(Queued::Run(entry)) }
    }

    /// Returns what the transaction makes stale.
    fn stale(&self) -> Invalidation {
        let stale = self.queue.iter().filter_map(|queued| match queued {
            Queued::Stale { table, stale } => Some((*table, stale)),
            Queued::Run(_) => None,
        });
        all_of(stale)
    }

    /// Returns what is to be done now that the outermost transaction has committed.
    fn take_committed(&mut self) -> Committed {
        let stale = self.stale();
        let run = |queued| match queued {
            Queued::Run(callback) => Some(callback),
            Queued::Stale { .. } => None,
        };
        let callbacks = mem::take(&mut self.queue).into_iter().filter_map(run).collect();
        Committed { stale, row: self.row.take(), courier: self.courier.clone(), callbacks }
    }

    /// Writes into the transaction what it makes stale.
    fn write_outbox(&mut self) -> Result<()> {
        self.row = None;
        // A connection that reads cannot write it there: others hear of it a little later.
        let Some(courier) = self.courier.as_ref().filter(|courier| courier.has_outbox() && self.is_writable()) else {
            return Ok(());
        };
        let stale = self.stale();
        if !stale.is_empty() {
            let (origin, now) = (courier.origin().to_owned(), self.now().as_millisecond());
            self.row = Some(outbox::add(self.conn(), &origin, &stale, now)?);
        }
        Ok(())
    }

    /// Runs the transaction and leaves the queue to the caller.
    fn run_transaction<T>(&mut self, queries: impl FnOnce(&mut Db) -> Result<T>) -> Result<T> {
        if self.depth == 0 {
            self.queue_seen_writes();
        }
        let (mark, seen_mark) = (self.queue.len(), self.held.seen.count());
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
                self.held.seen.truncate(seen_mark);
                panic::resume_unwind(payload);
            }
        };
        if committed.is_err() {
            self.queue.truncate(mark);
            self.held.seen.truncate(seen_mark);
        }
        committed
    }

    fn begin(&mut self) -> Result<()> {
        self.held.connection.begin(self.depth == 0, self.role)?;
        if self.depth == 0 {
            self.open = Some(OpenTransaction::begin());
        }
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
        if self.depth == 1 {
            self.queue_seen_writes();
            if let Err(error) = self.write_outbox() {
                self.roll_back();
                return Err(error);
            }
        }
        self.depth -= 1;
        let committed = self.held.connection.commit();
        // Diesel rolls back a failed COMMIT by itself, but leaves a savepoint open whose RELEASE failed.
        if committed.is_err() && self.depth > 0 {
            let _already_failing = self.held.connection.roll_back();
        }
        self.end();
        if committed.is_err() && R2D2Connection::is_broken(&mut self.held.connection) {
            // Nobody knows whether it was stored, or will be in a moment: then it is delivered once more.
            if let (Some(courier), Some(row)) = (&self.courier, self.row) {
                courier.deliver_unsure(&self.stale(), row);
            }
            self.row = None;
            self.queue.clear();
        }
        Ok(committed?)
    }

    /// Rolls back the innermost level. If that fails, diesel marks the connection as broken, its next commit fails,
    /// and the pool closes it; so the caller gets the error that led here.
    fn roll_back(&mut self) {
        self.depth -= 1;
        if let Err(error) = self.held.connection.roll_back() {
            log::error!(target: "larder_models", error:% = chain(&error); "failed to roll back");
        }
        self.end();
    }

    /// Forgets what held for the level that has ended.
    fn end(&mut self) {
        if self.depth == 0 {
            self.open = None;
        }
        self.held.seen.forget_failure();
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

/// Something that waits for the commit.
enum Queued {
    Run(OnCommit),
    /// The caches are to be told; of rows of a table, or of something else.
    Stale {
        table: Option<&'static str>,
        stale: Invalidation,
    },
}

/// What follows a commit.
struct Committed {
    stale: Invalidation,
    row: Option<i64>,
    courier: Option<Courier>,
    callbacks: Vec<OnCommit>,
}

impl Committed {
    /// Tells the caches and then whoever wanted to know.
    fn follow(self) {
        self.tell_caches();
        self.callbacks.into_iter().for_each(OnCommit::run);
    }

    fn tell_caches(&self) {
        match self.courier.as_ref().filter(|_| !self.stale.is_empty()) {
            Some(courier) if self.row.is_some() => courier.deliver(&self.stale, self.row),
            Some(courier) => courier.deliver_and_post(self.stale.clone()),
            None => {}
        }
    }
}

/// Returns what is stale when these tables were written by something else than a model.
fn written(tables: BTreeSet<String>) -> Invalidation {
    let tags = tables.iter().flat_map(|table| of_table(table)).collect();
    let cause = format!("write of {}", tables.into_iter().collect::<Vec<_>>().join(", "));
    Invalidation { cause, tags, ..Invalidation::default() }
}

/// Returns several invalidations as one, with each name once, and with all rows of a table for many.
fn all_of<'s>(stale: impl Iterator<Item = (Option<&'static str>, &'s Invalidation)>) -> Invalidation {
    let mut all = Invalidation::default();
    let mut rows = BTreeMap::<_, BTreeSet<&String>>::new();
    let mut causes = BTreeSet::new();
    for (table, one) in stale {
        // The last one led to the others, or at least is one of them.
        if !one.cause.is_empty() {
            all.cause.clone_from(&one.cause);
            causes.insert(&one.cause);
        }
        match table {
            Some(table) => rows.entry(table).or_default().extend(&one.tags),
            None => all.tags.extend(one.tags.iter().cloned()),
        }
        all.keys.extend(one.keys.iter().cloned());
    }
    for (table, tags) in rows {
        if tags.len() > MAX_STALE_TAGS {
            all.tags.extend(of_table(table));
        } else {
            all.tags.extend(tags.into_iter().cloned());
        }
    }
    if causes.len() > 1 {
        all.cause = format!("{} and {} more", all.cause, causes.len() - 1);
    }
    all
}

/// Returns where a function was called.
#[track_caller]
fn caller() -> String {
    let place = Location::caller();
    format!("{}:{}", place.file(), place.line())
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

/// Gives the connection back before a panic goes on: the pool throws away what is returned while panicking, and with
/// it a database in memory.
fn finish<T>(db: Db, result: std::thread::Result<Result<T>>) -> Result<T> {
    drop(db);
    result.unwrap_or_else(|payload| panic::resume_unwind(payload))
}
