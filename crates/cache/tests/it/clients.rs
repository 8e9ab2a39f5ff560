//! 32 clients in two processes that read without pause, and a writer in the first of them: every answer is checked.
//!
//! A row is edited and then invalidated. Whoever asks after an invalidation was done may not read an older row; in the
//! writer's own process not even if it failed, for then it is kept and delivered.

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
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
const KEYS: usize = 8;

/// How long it takes from the end of an outage until the store is in use again: the breaker's interval, the maintenance
/// that releases what was given up, and time for a busy machine.
const RECOVERED_AFTER: Duration = Duration::from_secs(5);

/// What a loader makes of a row: of which key it is, and how old.
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
    rows: [Row; KEYS],
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
    now: AtomicUsize,
    /// What it was at each invalidation that was done, and when that was.
    invalidated: Mutex<Vec<(Instant, usize)>>,
    /// What it was at the last that was tried.
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
            within(RECOVERED_AFTER, ended, || process.cache().set("probe", "value", 60).ok());
        }
        for process in &self.site.processes {
            thread::sleep(process.copies_for);
            for key in 0..KEYS {
                let current = self.site.row(key);
                let left = process.cache().get::<Value>(name(key)).unwrap();
                assert!(left.is_none_or(|left| left == current), "{left:?} was left, {current:?} is the row");
                within(RECOVERED_AFTER, ended, || process.keeps(key, current).then_some(()));
            }
        }
        let answers = std::mem::take(&mut *self.site.answers.lock().unwrap());
        answers.into_iter().map(|(phase, answers)| (phase, Figures::of(answers))).collect()
    }
}

/// Tries until it succeeds, so long at most.
fn within<T>(limit: Duration, since: Instant, attempt: impl Fn() -> Option<T>) -> T {
    loop {
        if let Some(done) = attempt() {
            return done;
        }
        assert!(since.elapsed() < limit, "the store is not in use again");
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
    fn keeps(&self, key: usize, value: Value) -> bool {
        let tagged = self.cache().tags([name(key)]);
        assert_eq!(tagged.get_or_set(name(key), 60, || Ok::<_, Infallible>(value)), Ok(value));
        self.cache().get(name(key)).unwrap() == Some(value)
    }
}

impl Site {
    async fn read(self: Arc<Self>, number: usize) {
        let process = number % self.processes.len();
        let random = Random::new(number as u64);
        while !self.is_over.load(SeqCst) {
            let oldest = self.oldest(process);
            let asked = Instant::now();
            let values = self.ask(process, random.below(KEYS), random.below(8)).await;
            let (took, phase) = (asked.elapsed(), *self.phase.lock().unwrap());
            for (key, row) in values {
                let oldest = oldest[key];
                assert!(row >= oldest, "{phase}: process {process} read row {row} of key {key}, which was at {oldest}");
            }
            self.answers.lock().unwrap().entry(phase).or_default().push(took);
            sleep(Duration::from_millis(2 + random.number() % 4)).await;
        }
    }

    /// Asks in one of the ways there are. None may fail because the store does.
    async fn ask(self: &Arc<Self>, process: usize, key: usize, way: usize) -> Vec<Value> {
        let cache = self.processes[process].caches.default_cache();
        let name = name(key);
        let tagged = cache.clone().tags([&*name]);
        let soon = Duration::from_millis(20);
        let site = Arc::clone(self);
        let value = match way {
            0 => cache.get(&name).await.unwrap(),
            1 => return cache.get_many(names()).await.unwrap().into_values().collect(),
            2 => return self.ask_for_all(&cache).await,
            3 => Some(cache.get_or_load(&name, 60, move |load| site.load_and_find_tags(key, load)).await.unwrap()),
            4 => {
                let cache = tagged.load_options(LoadOptions::new().stale_while_revalidate(60));
                Some(cache.get_or_set(&name, soon, move || site.load(key)).await.unwrap())
            }
            5 => {
                let cache = tagged.load_options(LoadOptions::new().early_refresh(0.5));
                Some(cache.get_or_set(&name, soon, move || site.load(key)).await.unwrap())
            }
            _ => Some(tagged.get_or_set(&name, 60, move || site.load(key)).await.unwrap()),
        };
        assert!(value.is_none_or(|(of, _)| of == key), "{value:?} is not of key {key}");
        value.into_iter().collect()
    }

    async fn ask_for_all(self: &Arc<Self>, cache: &Cache) -> Vec<Value> {
        let site = Arc::clone(self);
        let load = move |missing: Vec<String>| {
            let site = Arc::clone(&site);
            async move {
                let mut values = HashMap::new();
                for key in (0..KEYS).filter(|key| missing.contains(&name(*key))) {
                    values.insert(name(key), Arc::clone(&site).load(key).await?);
                }
                Ok::<_, Infallible>(values)
            }
        };
        // The tags of all, as each of them would have it.
        let values = cache.clone().tags(names()).get_or_set_many(names(), 60, load).await.unwrap();
        assert_eq!(values.len(), KEYS);
        values.into_values().collect()
    }

    async fn load(self: Arc<Self>, key: usize) -> Result<Value, Infallible> {
        let read = self.row(key);
        sleep(Duration::from_millis(1)).await;
        Ok(read)
    }

    async fn load_and_find_tags(self: Arc<Self>, key: usize, load: Load<Value>) -> Result<Value, Infallible> {
        let loaded = Arc::clone(&self).load(key).await;
        load.tags([name(key)]);
        loaded
    }

    fn row(&self, key: usize) -> Value {
        (key, self.rows[key].now.load(SeqCst))
    }

    /// Returns the oldest that a process may read of each key from now on.
    fn oldest(&self, process: usize) -> [usize; KEYS] {
        // A copy lives for whole milliseconds of the clock.
        let copied_since = match self.processes[process].copies_for {
            Duration::ZERO => Instant::now(),
            bound => Instant::now() - bound - Duration::from_millis(2),
        };
        self.rows
            .each_ref()
            .map(|row| row.oldest(copied_since).max(if process == 0 { row.tried.load(SeqCst) } else { 0 }))
    }

    async fn write(self: Arc<Self>) {
        let cache = self.processes[0].caches.default_cache();
        let random = Random::new(u64::MAX);
        while !self.is_over.load(SeqCst) {
            let key = random.below(KEYS);
            let row = &self.rows[key];
            let now = row.now.fetch_add(1, SeqCst) + 1;
            let done = match random.below(3) {
                0 => cache.delete(name(key)).await.map(drop),
                1 => cache.delete_many([name(key)]).await.map(drop),
                _ => cache.invalidate_tags([name(key)]).await,
            };
            row.tried.store(now, SeqCst);
            match done {
                Ok(()) => row.invalidated.lock().unwrap().push((Instant::now(), now)),
                Err(error) => assert!(error.is_outage(), "{error}"),
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Row {
    /// Returns what it was at the last invalidation that was done before a moment.
    fn oldest(&self, before: Instant) -> usize {
        let invalidated = self.invalidated.lock().unwrap();
        let done = invalidated.partition_point(|(at, _)| *at <= before);
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

fn name(key: usize) -> String {
    format!("key{key}")
}

fn names() -> impl Iterator<Item = String> {
    (0..KEYS).map(name)
}
