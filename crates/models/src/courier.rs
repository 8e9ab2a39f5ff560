//! Who brings invalidations to the caches: the thread that commits them, for its own process and for what processes share;
//! and a thread in each process, for what other processes commit and for what a crash left behind.
//!
//! A cache in the memory of a process hears of what others commit within [`TICK`] and the time that the database takes to
//! answer: by NOTIFY on PostgreSQL, by `PRAGMA data_version` on SQLite. Where the database cannot be asked, such a cache may
//! be behind; it is cleared when it can be again, and each [`BEHIND_AT_MOST`] until then. A thread of its own sees to that: the
//! one that hears may be waiting for an answer.

use std::{
    collections::{HashMap, HashSet},
    fmt, mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use diesel::{QueryResult, QueryableByName, RunQueryDsl, connection::SimpleConnection, sql_query, sql_types::BigInt};
use jiff::Timestamp;
use larder_cache::{Cache, Caches, backend::Sharing};

use crate::{
    db::{AnyConnection, Role},
    error::{Error, Result, chain},
    invalidation::Invalidation,
    model::BATCH,
    outbox::{self, CHANNEL},
    url::Target,
};

/// How often the thread looks for what other processes have committed.
const TICK: Duration = Duration::from_millis(20);

/// How often what was delivered is marked as such, all of it at once.
const MARK_EVERY: Duration = Duration::from_millis(250);

/// How long a row may be undelivered before somebody else than its writer delivers it: he may be about to.
const WRITER_HAS: Duration = Duration::from_secs(1);

/// The longest pause before a row is brought again to a store that does not answer.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How often the database is asked for rows that nobody has delivered, and whether it is still there.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long a cache in the memory of a process is behind at most while the database cannot be asked.
const BEHIND_AT_MOST: Duration = Duration::from_secs(10);

/// How often it is looked whether a cache is behind.
const GUARD_EVERY: Duration = Duration::from_millis(250);

/// How long delivered rows are kept, for processes that have yet to hear of them.
const KEPT_FOR: Duration = Duration::from_secs(10 * 60);

const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// At which failure in a row the log says so.
const WARN_AT: u32 = 20;

/// How a database's invalidations reach the caches of this process. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Courier(Arc<Shared>);

struct Shared {
    caches: Caches,
    target: Target,
    /// Names this process in the outbox.
    origin: String,
    /// Rows that were delivered and are not marked yet.
    delivered: Mutex<Vec<i64>>,
    /// Rows of this process of which nobody knows whether they are committed.
    unsure: Mutex<HashSet<i64>>,
    /// What this process was told and the others are yet to hear of.
    to_post: Mutex<Vec<Invalidation>>,
    /// Whether the outbox was made just now.
    is_made: AtomicBool,
    /// When everything that others had committed was known, or the caches were cleared because it was not.
    up_to_date: Mutex<Instant>,
}

impl fmt::Debug for Courier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Courier").field("origin", &self.0.origin).finish_non_exhaustive()
    }
}

impl Courier {
    /// Makes it, and starts the threads unless nobody else can reach the database.
    pub(crate) fn start(caches: Caches, target: Target) -> Self {
        let shared = Shared {
            caches,
            target,
            origin: new_origin(),
            delivered: Mutex::default(),
            unsure: Mutex::default(),
            to_post: Mutex::default(),
            is_made: AtomicBool::new(false),
            up_to_date: Instant::now().into(),
        };
        let courier = Courier(Arc::new(shared));
        if courier.has_outbox() {
            let shared = Arc::downgrade(&courier.0);
            courier.0.narrow().for_each(|cache| cache.blocking().hears_late());
            courier.0.forget_what_others_may_have_changed();
            if courier.0.narrow().next().is_some() {
                // Before anything is cached, if the database has the table already.
                let ear = Ear::new(Weak::clone(&shared), Line::open(&courier.0.target).ok());
                spawn("larder-ear", move || ear.run());
                let shared = Weak::clone(&shared);
                spawn("larder-guard", move || guard(&shared));
            }
            let hand = Hand::new(shared);
            spawn("larder-hand", move || hand.run());
        }
        courier
    }

    /// Tells whether transactions write what they make stale into the outbox. A database in memory ends with its process.
    pub(crate) fn has_outbox(&self) -> bool {
        self.0.target != Target::Memory
    }

    /// Says that there is an outbox now.
    pub(crate) fn outbox_is_made(&self) {
        self.0.is_made.store(true, Ordering::Relaxed);
    }

    /// Returns the name of this process in the outbox.
    pub(crate) fn origin(&self) -> &str {
        &self.0.origin
    }

    /// Delivers what this process has committed.
    pub(crate) fn deliver(&self, invalidation: &Invalidation, row: Option<i64>) {
        self.0.deliver(invalidation, row);
    }

    /// Delivers what was not committed with anything, and lets the other processes hear of it soon.
    pub(crate) fn deliver_and_post(&self, invalidation: Invalidation) {
        self.0.deliver(&invalidation, None);
        if self.has_outbox() {
            self.0.to_post.lock().unwrap_or_else(PoisonError::into_inner).push(invalidation);
        }
    }

    /// Delivers what may have been committed, and once more when it is known to be.
    pub(crate) fn deliver_unsure(&self, invalidation: &Invalidation, row: i64) {
        self.0.unsure().insert(row);
        self.0.deliver(invalidation, None);
    }

    /// Delivers what others have committed and nobody has delivered; returns how much that was.
    pub(crate) fn deliver_left_behind(&self, connection: &mut AnyConnection) -> Result<usize> {
        self.0.mark(connection)?;
        let (mut delivered, mut last) = (0, 0);
        loop {
            let rows = outbox::undelivered(connection, last)?;
            let Some(row) = rows.last() else { break };
            last = row.id;
            delivered += rows.iter().filter(|row| self.0.deliver_row(row)).count();
        }
        self.0.mark(connection)?;
        Ok(delivered)
    }
}

impl Shared {
    /// Tells the caches, and returns whether nothing is left to be told.
    fn deliver(&self, invalidation: &Invalidation, row: Option<i64>) -> bool {
        match invalidation.deliver(&self.caches) {
            Ok(()) => self.delivered().extend(row),
            // The cache keeps it and has said so; if this process ends before, the row is still there.
            Err(error) if error.is_outage() => return false,
            Err(error) => {
                log::error!(target: "larder_models", cause:% = invalidation.cause, error:% = chain(&error);
                    "could not invalidate everything, the write stands");
                // Nobody else could either.
                self.delivered().extend(row);
            }
        }
        true
    }

    /// Brings a row that was left behind to the caches that all share; the others hear of rows by themselves.
    fn deliver_row(&self, row: &outbox::Row) -> bool {
        let Some(invalidation) = row.invalidation() else { return self.clear_all(row.id) };
        match invalidation.deliver_to(self.wide()) {
            Err(error) if error.is_outage() => return false,
            Err(error) => log::error!(target: "larder_models", cause:% = invalidation.cause, error:% = chain(&error);
                "could not invalidate everything, the write stands"),
            Ok(()) => {}
        }
        self.delivered().push(row.id);
        true
    }

    /// Returns the caches that not all who use the database see: they must be told of what others commit.
    fn narrow(&self) -> impl Iterator<Item = &Cache> {
        // A server may have clients on several machines, a file has not.
        let all_see = if matches!(self.target, Target::Postgres(_)) { Sharing::Network } else { Sharing::Machine };
        self.caches.iter().map(|(_, _, cache)| cache).filter(move |cache| cache.capabilities().sharing < all_see)
    }

    fn wide(&self) -> impl Iterator<Item = &Cache> {
        let narrow: Vec<&str> = self.narrow().map(Cache::alias).collect();
        self.caches.iter().map(|(_, _, cache)| cache).filter(move |cache| !narrow.contains(&cache.alias()))
    }

    /// Clears narrow caches that outlive their process: nobody told them while it did not run.
    fn forget_what_others_may_have_changed(&self) {
        for cache in self.narrow().filter(|cache| cache.capabilities().sharing != Sharing::Process) {
            if let Err(error) = cache.blocking().because("others may have changed something meanwhile").clear() {
                log::error!(target: "larder_models", alias = cache.alias(), error:% = chain(&error); "could not clear a cache");
            }
        }
    }

    /// Clears every cache, for an invalidation that nobody here understands.
    fn clear_all(&self, row: i64) -> bool {
        log::warn!(target: "larder_models", row; "cleared the caches: another version wrote what this one cannot read");
        let mut all = true;
        for (_, _, cache) in self.caches.iter() {
            all &= cache.blocking().clear().is_ok();
        }
        if all {
            self.delivered().push(row);
        }
        all
    }

    /// Clears the caches that others cannot tell.
    fn clear_narrow(&self, why: &str) {
        for cache in self.narrow() {
            // Memory answers always; for files the log says so.
            let _ = cache.blocking().because(why).clear();
        }
    }

    /// Tells the narrow caches what another process has committed.
    fn tell_narrow(&self, row: &outbox::Row) {
        let is_unsure = self.unsure().remove(&row.id);
        match row.invalidation() {
            _ if row.origin == self.origin && !is_unsure => {}
            Some(invalidation) => {
                // Memory answers always; for files the log says so.
                let _ = invalidation.deliver_to(self.narrow());
            }
            None => self.clear_narrow("another version wrote what this one cannot read"),
        }
    }

    /// Tells whether a row was written by this process, which knows what it says.
    fn is_known(&self, origin: &str, row: i64) -> bool {
        origin == self.origin && !self.unsure().contains(&row)
    }

    fn unsure(&self) -> MutexGuard<'_, HashSet<i64>> {
        self.unsure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Clears what may be behind, if nothing was heard for too long.
    fn clear_if_behind(&self) {
        let mut up_to_date = self.up_to_date.lock().unwrap_or_else(PoisonError::into_inner);
        if up_to_date.elapsed() + GUARD_EVERY * 2 >= BEHIND_AT_MOST {
            self.clear_narrow("the database cannot be asked what has changed");
            *up_to_date = Instant::now();
        }
    }

    /// Notes that the database has answered a question that was asked then.
    fn was_up_to_date(&self, then: Instant) {
        *self.up_to_date.lock().unwrap_or_else(PoisonError::into_inner) = then;
    }

    fn mark(&self, connection: &mut AnyConnection) -> QueryResult<()> {
        let ids = mem::take(&mut *self.delivered());
        if ids.is_empty() {
            return Ok(());
        }
        outbox::mark_delivered(connection, &ids).inspect_err(|_| self.delivered().extend(&ids))
    }

    /// Lets the other processes hear of what this one was told.
    fn post(&self, connection: &mut AnyConnection) -> QueryResult<()> {
        let mut to_post = self.to_post.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(invalidation) = to_post.first() {
            let now = Timestamp::now().as_millisecond();
            match outbox::add(connection, &self.origin, invalidation, now) {
                Ok(row) => {
                    to_post.remove(0);
                    // This process has told its caches, and those that it shares.
                    self.delivered().push(row);
                }
                Err(Error::Database { source }) => return Err(source),
                Err(_) => return Ok(()),
            }
        }
        Ok(())
    }

    fn delivered(&self) -> MutexGuard<'_, Vec<i64>> {
        self.delivered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // The thread is gone or about to go; whoever comes next would deliver them once more.
        if !self.delivered().is_empty()
            && let Ok(mut connection) = AnyConnection::open(&self.target, Role::Writer)
        {
            let _ = self.mark(&mut connection);
        }
    }
}

/// Hears what others commit, for caches in the memory of this process. It waits for nobody: what is written is left to the
/// [`Hand`].
struct Ear {
    shared: Weak<Shared>,
    line: Option<Line>,
    /// Whether there was one ever.
    has_heard: bool,
    last_try: Instant,
}

/// The way on which a process hears of the others.
struct Line {
    connection: AnyConnection,
    /// The last row that was read, and what the database's number of changes was then; on SQLite.
    read_up_to: i64,
    data_version: i64,
    last_question: Instant,
}

impl Ear {
    fn new(shared: Weak<Shared>, line: Option<Line>) -> Self {
        Ear { shared, has_heard: line.is_some(), line, last_try: Instant::now() }
    }

    /// Listens until nobody needs the database any more.
    fn run(mut self) {
        while let Some(shared) = self.shared.upgrade() {
            // The process may have been stopped for a while.
            shared.clear_if_behind();
            let is_made = shared.is_made.swap(false, Ordering::Relaxed);
            if self.line.is_none() && (is_due(&mut self.last_try, LOOK_EVERY) || is_made) {
                self.connect(&shared);
            }
            if let Some(line) = &mut self.line
                && let Err(error) = line.hear(&shared)
            {
                self.lose(&error);
            }
            drop(shared);
            thread::sleep(TICK);
        }
    }

    fn connect(&mut self, shared: &Shared) {
        match Line::open(&shared.target).and_then(|mut line| Ok((self.catch_up(shared, &mut line)?, line))) {
            Ok(((), line)) => self.line = Some(line),
            Err(error) => log::debug!(target: "larder_models", error:% = chain(&*error); "the outbox cannot be read"),
        }
    }

    /// Makes up for what was committed while there was no line.
    fn catch_up(&mut self, shared: &Shared, line: &mut Line) -> QueryResult<()> {
        if mem::replace(&mut self.has_heard, true) {
            shared.clear_narrow("the database can be asked again what has changed");
            return Ok(());
        }
        // The table was made after this process began, so what it says is not much.
        let mut from = 0;
        loop {
            let rows = outbox::after(&mut line.connection, from)?;
            let Some(last) = rows.last() else { return Ok(()) };
            from = last.id;
            rows.iter().for_each(|row| shared.tell_narrow(row));
        }
    }

    fn lose(&mut self, error: &diesel::result::Error) {
        log::warn!(target: "larder_models", error:% = chain(error);
            "the outbox cannot be read: caches in memory are behind by {} s at most", BEHIND_AT_MOST.as_secs());
        self.line = None;
        self.last_try = Instant::now();
    }
}

/// Writes into the outbox what is known of it: marks what was delivered, delivers what was left behind, removes what is old.
struct Hand {
    shared: Weak<Shared>,
    connection: Option<AnyConnection>,
    /// When rows are to be delivered that nobody has, and how long to wait if that fails.
    left_behind: HashMap<i64, (Instant, Duration)>,
    last_try: Instant,
    last_mark: Instant,
    last_look: Instant,
    last_sweep: Instant,
}

impl Hand {
    fn new(shared: Weak<Shared>) -> Self {
        let now = Instant::now();
        Hand {
            shared,
            connection: None,
            left_behind: HashMap::new(),
            last_try: now,
            last_mark: now,
            last_look: now,
            last_sweep: now,
        }
    }

    /// Works until nobody needs the database any more.
    fn run(mut self) {
        let mut failures = 0;
        while let Some(shared) = self.shared.upgrade() {
            if self.connection.is_none() && is_due(&mut self.last_try, MARK_EVERY) {
                self.connection = AnyConnection::open(&shared.target.noticing_silence(), Role::Writer).ok();
            }
            if let Some(mut connection) = self.connection.take() {
                match self.work(&shared, &mut connection) {
                    Ok(()) => (failures, self.connection) = (0, Some(connection)),
                    // Others write, the table is not made yet, or the server is gone: in a moment again.
                    Err(error) => {
                        failures += 1;
                        let level = if failures == WARN_AT { log::Level::Warn } else { log::Level::Debug };
                        log::log!(target: "larder_models", level, error:% = chain(&error);
                            "the outbox cannot be written; is there one? Database::migrate or create_outbox makes it");
                    }
                }
            }
            drop(shared);
            thread::sleep(TICK);
        }
    }

    fn work(&mut self, shared: &Shared, connection: &mut AnyConnection) -> QueryResult<()> {
        shared.post(connection)?;
        if is_due(&mut self.last_mark, MARK_EVERY) {
            shared.mark(connection)?;
        }
        if is_due(&mut self.last_look, LOOK_EVERY) {
            self.look(shared, connection)?;
        }
        if is_due(&mut self.last_sweep, SWEEP_EVERY) {
            let kept_for = i64::try_from(KEPT_FOR.as_millis()).unwrap_or(i64::MAX);
            outbox::sweep(connection, Timestamp::now().as_millisecond() - kept_for)?;
        }
        Ok(())
    }

    /// Delivers what nobody has delivered for too long.
    fn look(&mut self, shared: &Shared, connection: &mut AnyConnection) -> QueryResult<()> {
        let (now, mut last) = (Instant::now(), 0);
        let mut seen = HashMap::new();
        loop {
            let rows = outbox::undelivered(connection, last)?;
            let Some(row) = rows.last() else { break };
            last = row.id;
            for row in rows {
                let known = self.left_behind.get(&row.id);
                let (mut when, mut pause) = *known.unwrap_or(&(now + WRITER_HAS, WRITER_HAS));
                if now >= when && !shared.deliver_row(&row) {
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    when = now + pause;
                }
                seen.insert(row.id, (when, pause));
            }
        }
        self.left_behind = seen;
        Ok(())
    }
}

/// Sees to it that no cache is behind for too long while the courier waits for an answer.
fn guard(shared: &Weak<Shared>) {
    while let Some(shared) = shared.upgrade() {
        shared.clear_if_behind();
        drop(shared);
        thread::sleep(GUARD_EVERY);
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) {
    if let Err(error) = thread::Builder::new().name(name.to_owned()).spawn(run) {
        log::error!(target: "larder_models", thread = name, error:%; "could not start a thread: other processes are not heard");
    }
}

impl Line {
    fn open(target: &Target) -> Result<Self, crate::Source> {
        let mut connection = AnyConnection::open(&target.noticing_silence(), Role::Writer)?;
        if let AnyConnection::Postgres(connection) = &mut connection {
            connection.batch_execute(&format!("LISTEN {CHANNEL}"))?;
        }
        // Read in this order: a row in between is heard.
        let data_version = data_version(&mut connection)?;
        let read_up_to = outbox::last_id(&mut connection)?;
        Ok(Line { connection, read_up_to, data_version, last_question: Instant::now() })
    }

    /// Tells the memory of this process what others have committed since.
    fn hear(&mut self, shared: &Shared) -> QueryResult<()> {
        let asked = Instant::now();
        let is_answered = match &self.connection {
            AnyConnection::Postgres(_) => {
                self.hear_notifications(shared)?;
                // A server that is gone says nothing either.
                let is_due = is_due(&mut self.last_question, LOOK_EVERY);
                if is_due {
                    outbox::last_id(&mut self.connection)?;
                }
                is_due
            }
            AnyConnection::Sqlite(_) => {
                self.hear_changes(shared)?;
                true
            }
        };
        if is_answered {
            shared.was_up_to_date(asked);
        }
        Ok(())
    }

    fn hear_notifications(&mut self, shared: &Shared) -> QueryResult<()> {
        let AnyConnection::Postgres(connection) = &mut self.connection else { return Ok(()) };
        let mut heard = Vec::new();
        for notification in connection.notifications_iter() {
            heard.push(notification?.payload);
        }
        let of_others = |payload: &String| {
            let (origin, id) = payload.split_once(' ')?;
            id.parse::<i64>().ok().filter(|id| !shared.is_known(origin, *id))
        };
        let ids: Vec<i64> = heard.iter().filter_map(of_others).collect();
        for ids in ids.chunks(BATCH) {
            let rows = outbox::by_ids(&mut self.connection, ids)?;
            if rows.len() < ids.len() {
                shared.clear_narrow("what another process has changed is not in the outbox any more");
            }
            rows.iter().for_each(|row| shared.tell_narrow(row));
        }
        Ok(())
    }

    fn hear_changes(&mut self, shared: &Shared) -> QueryResult<()> {
        let data_version = data_version(&mut self.connection)?;
        if data_version == self.data_version {
            return Ok(());
        }
        if outbox::sequence(&mut self.connection)? < self.read_up_to {
            shared.clear_narrow("the outbox was made anew");
            self.read_up_to = 0;
        }
        loop {
            let rows = outbox::after(&mut self.connection, self.read_up_to)?;
            let Some(last) = rows.last() else { break };
            self.read_up_to = last.id;
            rows.iter().for_each(|row| shared.tell_narrow(row));
        }
        self.data_version = data_version;
        Ok(())
    }
}

#[derive(QueryableByName)]
struct DataVersion {
    #[diesel(sql_type = BigInt)]
    data_version: i64,
}

/// Returns a number that another one follows when somebody else has committed to a SQLite database.
fn data_version(connection: &mut AnyConnection) -> QueryResult<i64> {
    match connection {
        AnyConnection::Sqlite(connection) => {
            Ok(sql_query("PRAGMA data_version").get_result::<DataVersion>(connection)?.data_version)
        }
        AnyConnection::Postgres(_) => Ok(0),
    }
}

fn is_due(last: &mut Instant, every: Duration) -> bool {
    let is_due = last.elapsed() >= every;
    if is_due {
        *last = Instant::now();
    }
    is_due
}

/// Returns a name that no other process has.
fn new_origin() -> String {
    use std::hash::{BuildHasher, RandomState};
    let any = || RandomState::new().hash_one(std::process::id());
    format!("{:016x}{:016x}", any(), any())
}
