//! 32 clients in two processes that read without pause, and a writer in the first of them: every answer is checked.
//!
//! A row is edited and then invalidated. Whoever asks after an invalidation was done may not read an older row; in the
//! writer's own process not even if it failed, for then it is kept and delivered.

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    fmt::Debug,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use larder_cache::{BlockingCache, Cache, Caches, Load, LoadOptions, conformance::chaos::Random};
use tokio::time::sleep;

const CLIENTS: usize = 32;
const ROWS: usize = 8;

/// What is kept of each row, under a key of its own. All of it carries the row's tag.
const VIEWS: [&str; 7] = ["plain", "tag found", "stale served", "refreshed early", "part 1", "part 2", "part 3"];
const PARTS: [&str; 3] = ["part 1", "part 2", "part 3"];

/// How often a row is edited and invalidated.
const EDIT_EVERY: Duration = Duration::from_millis(20);

/// How long it takes from the end of an outage until the store is in use again: the breaker's interval, the maintenance
/// that releases what was given up, and time for a busy machine.
const RECOVERED_AFTER: Duration = Duration::from_secs(5);

/// What a loader reads: a row, and how often it has been edited.
type Value = (usize, usize);

/// The clients, while they ask.
pub(crate) struct Clients {
    site: Arc<Site>,
    asking: thread::JoinHandle<()>,
}

/// How long the answers of one phase took.
#[derive(Debug)]
pub(crate) struct Figures {
    pub(crate) answers: usize,
    pub(crate) median: Duration,
    pub(crate) p99: Duration,
    pub(crate) longest: Duration,
}

struct Site {
    processes: [Process; 2],
    rows: [Row; ROWS],
    phase: Mutex<&'static str>,
    is_over: AtomicBool,
    answers: Mutex<BTreeMap<&'static str, Vec<Duration>>>,
}

/// The table of caches of a process, and how old its copies may be.
struct Process {
    caches: Caches,
    copies_for: Duration,
}

#[derive(Default)]
struct Row {
    edits: AtomicUsize,
    /// When an invalidation was done, and of which edit.
    invalidated: Mutex<Vec<(Instant, usize)>>,
    /// Of which edit the last invalidation was that was tried.
    tried: AtomicUsize,
}

impl Clients {
    /// Lets them ask. The writer works in the first process.
    pub(crate) fn start(processes: [Caches; 2]) -> Self {
        let site = Arc::new(Site {
            processes: processes.map(Process::new),
            rows: Default::default(),
            phase: Mutex::new("calm"),
            is_over: AtomicBool::new(false),
            answers: Mutex::default(),
        });
        let asking = thread::spawn({
            let site = Arc::clone(&site);
            move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
                runtime.block_on(async {
                    let mut tasks: Vec<_> =
                        (0..CLIENTS).map(|number| tokio::spawn(Arc::clone(&site).read(number))).collect();
                    tasks.push(tokio::spawn(Arc::clone(&site).write()));
                    for task in tasks {
                        task.await.unwrap();
                    }
                });
            }
        });
        Clients { site, asking }
    }

    /// Gives what follows a name and lets it last.
    pub(crate) fn phase(&self, name: &'static str, lasting: Duration) {
        *self.site.phase.lock().unwrap() = name;
        thread::sleep(lasting);
    }

    /// Ends it with the store well again. No old value is left, and new ones are kept. Returns the figures by phase.
    pub(crate) fn end(self) -> BTreeMap<&'static str, Figures> {
        self.site.is_over.store(true, SeqCst);
        self.asking.join().unwrap();
        let ended = Instant::now();
        for process in &self.site.processes {
            // What the store was not told of the invalidations is told before anything else.
            within(RECOVERED_AFTER, ended, || process.cache().set("probe", "value", 60));
        }
        for process in &self.site.processes {
            thread::sleep(process.copies_for);
            for row in 0..ROWS {
                let current = self.site.row(row);
                let left: HashMap<String, Value> = process.cache().get_many(keys(row, &VIEWS)).unwrap();
                assert!(left.values().all(|left| *left == current), "{left:?} was left, {current:?} is the row");
                within(RECOVERED_AFTER, ended, || {
                    process.keeps(row, current).then_some(()).ok_or("a value is not kept")
                });
            }
        }
        let answers = std::mem::take(&mut *self.site.answers.lock().unwrap());
        answers.into_iter().map(|(phase, answers)| (phase, Figures::of(answers))).collect()
    }
}

/// Tries until it succeeds, so long at most.
fn within<T, E: Debug>(limit: Duration, since: Instant, attempt: impl Fn() -> Result<T, E>) -> T {
    loop {
        let error = match attempt() {
            Ok(done) => return done,
            Err(error) => error,
        };
        assert!(since.elapsed() < limit, "the store is not in use again: {error:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

impl Process {
    fn new(caches: Caches) -> Self {
        let near = caches.iter().find_map(|(_, settings, _)| settings.near);
        Process { copies_for: near.map_or(Duration::ZERO, |near| near.stale_for), caches }
    }

    fn cache(&self) -> BlockingCache {
        self.caches.default_cache().blocking()
    }

    /// Tells whether a value that is loaded now is there afterwards.
    fn keeps(&self, row: usize, value: Value) -> bool {
        let cache = self.cache().tags([tag(row)]);
        assert_eq!(cache.get_or_set(key(row, "plain"), 60, || Ok::<_, Infallible>(value)), Ok(value));
        self.cache().get(key(row, "plain")).unwrap() == Some(value)
    }
}

impl Site {
    async fn read(self: Arc<Self>, number: usize) {
        let process = number % self.processes.len();
        let random = Random::new(number as u64);
        while !self.is_over.load(SeqCst) {
            let row = random.below(ROWS);
            let oldest = self.oldest(process, row);
            let asked = Instant::now();
            let values = self.ask(process, row, &random).await;
            let (took, phase) = (asked.elapsed(), *self.phase.lock().unwrap());
            for (of, edits) in values {
                assert_eq!(of, row, "{phase}: the value is of another row");
                assert!(edits >= oldest, "{phase}: process {process} read edit {edits} of row {row}, not {oldest}");
            }
            self.answers.lock().unwrap().entry(phase).or_default().push(took);
            sleep(Duration::from_millis(2 + random.number() % 4)).await;
        }
    }

    /// Asks in one of the ways there are. None may fail because the store does.
    async fn ask(self: &Arc<Self>, process: usize, row: usize, random: &Random) -> Vec<Value> {
        let cache = self.processes[process].caches.default_cache();
        let tagged = cache.clone().tags([tag(row)]);
        let soon = Duration::from_millis(20);
        let site = Arc::clone(self);
        let load = move || Arc::clone(&site).load(row);
        let value = match random.below(8) {
            0 => return cache.get(key(row, VIEWS[random.below(VIEWS.len())])).await.unwrap().into_iter().collect(),
            1 => return cache.get_many(keys(row, &VIEWS)).await.unwrap().into_values().collect(),
            2 => {
                let load = move |missing: Vec<String>| {
                    let loaded = load();
                    async move {
                        let value = loaded.await?;
                        Ok::<_, Infallible>(missing.into_iter().map(|key| (key, value)).collect())
                    }
                };
                let values: HashMap<_, _> = tagged.get_or_set_many(keys(row, &PARTS), 60, load).await.unwrap();
                assert_eq!(values.len(), PARTS.len());
                return values.into_values().collect();
            }
            3 => {
                let load = move |finding: Load<Value>| async move {
                    let loaded = load().await;
                    finding.tags([tag(row)]);
                    loaded
                };
                cache.get_or_load(key(row, "tag found"), 60, load).await
            }
            4 => {
                let cache = tagged.load_options(LoadOptions::new().stale_while_revalidate(60));
                cache.get_or_set(key(row, "stale served"), soon, load).await
            }
            5 => {
                let cache = tagged.load_options(LoadOptions::new().early_refresh(0.5));
                cache.get_or_set(key(row, "refreshed early"), soon, load).await
            }
            _ => tagged.get_or_set(key(row, "plain"), 60, load).await,
        };
        vec![value.unwrap()]
    }

    async fn load(self: Arc<Self>, row: usize) -> Result<Value, Infallible> {
        let read = self.row(row);
        sleep(Duration::from_millis(1)).await;
        Ok(read)
    }

    fn row(&self, row: usize) -> Value {
        (row, self.rows[row].edits.load(SeqCst))
    }

    /// Returns the oldest edit of a row that a process may read from now on.
    fn oldest(&self, process: usize, row: usize) -> usize {
        // A copy lives for whole milliseconds of the clock.
        let copied_since = match self.processes[process].copies_for {
            Duration::ZERO => Instant::now(),
            bound => Instant::now() - bound - Duration::from_millis(2),
        };
        let row = &self.rows[row];
        row.invalidated_before(copied_since).max(if process == 0 { row.tried.load(SeqCst) } else { 0 })
    }

    async fn write(self: Arc<Self>) {
        let cache = self.processes[0].caches.default_cache();
        let random = Random::new(u64::MAX);
        while !self.is_over.load(SeqCst) {
            let number = random.below(ROWS);
            let row = &self.rows[number];
            let edits = row.edits.fetch_add(1, SeqCst) + 1;
            let done = match random.below(3) {
                0 => delete_each(&cache, number).await,
                1 => cache.delete_many(keys(number, &VIEWS)).await.map(drop),
                _ => cache.invalidate_tags([tag(number)]).await,
            };
            row.tried.store(edits, SeqCst);
            match done {
                Ok(()) => row.invalidated.lock().unwrap().push((Instant::now(), edits)),
                Err(error) => assert!(error.is_outage(), "{error}"),
            }
            sleep(EDIT_EVERY).await;
        }
    }
}

/// All are tried, whatever becomes of the first.
async fn delete_each(cache: &Cache, row: usize) -> larder_cache::Result<()> {
    let mut done = Ok(());
    for key in keys(row, &VIEWS) {
        done = done.and(cache.delete(key).await.map(drop));
    }
    done
}

impl Row {
    /// Returns of which edit the last invalidation was that was done before a moment.
    fn invalidated_before(&self, moment: Instant) -> usize {
        let invalidated = self.invalidated.lock().unwrap();
        let done = invalidated.partition_point(|(done, _)| *done <= moment);
        done.checked_sub(1).map_or(0, |last| invalidated[last].1)
    }
}

impl Figures {
    fn of(mut answers: Vec<Duration>) -> Self {
        answers.sort_unstable();
        let at = |percent: usize| answers[(answers.len() - 1) * percent / 100];
        Figures { answers: answers.len(), median: at(50), p99: at(99), longest: at(100) }
    }
}

fn key(row: usize, view: &str) -> String {
    format!("row {row}, {view}")
}

fn keys(row: usize, views: &[&str]) -> Vec<String> {
    views.iter().map(|view| key(row, view)).collect()
}

fn tag(row: usize) -> String {
    format!("row {row}")
}
