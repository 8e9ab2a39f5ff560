//! No invalidation is lost, however processes, failures and time fall together; and the simulation would see it.
//!
//! `LARDER_SEEDS` sets how many runs each test makes; `LARDER_SEED` repeats one run and prints all of it.

use std::{
    env,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use larder_cache::{
    Expiry, Result,
    backend::{
        Backend, Capabilities, Entry, Options, Sharing, Value,
        database::Database,
        file::File,
        locmem::Locmem,
        memcached::{Driver, Memcached, Settings},
    },
    conformance::{
        server::MemcachedServer,
        simulation::{self, Counts, Lost, Setup},
    },
};

/// Reads a number from the environment.
fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is {text:?}; it must be a number")))
}

/// Makes the runs of the seeds from 0 on, on all processors. Each worker has a setup of its own.
fn run_all(seeds: u64, setup: impl Fn() -> Setup + Sync) -> Result<Counts, Box<Lost>> {
    let next = AtomicU64::new(0);
    let work = || -> Result<Counts, Box<Lost>> {
        let setup = setup();
        let mut counts = Counts::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds {
                return Ok(counts);
            }
            // The others stop too.
            let run = simulation::run(seed, &setup).inspect_err(|_| next.store(seeds, Ordering::Relaxed))?;
            counts += run.counts;
        }
    };
    thread::scope(|scope| {
        let workers = thread::available_parallelism().map_or(1, usize::from);
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        let mut counts = Counts::default();
        for worker in workers {
            counts += worker.join().unwrap()?;
        }
        Ok(counts)
    })
}

fn nothing_is_lost(seeds: u64, setup: impl Fn() -> Setup + Sync) {
    if let Some(seed) = number("LARDER_SEED") {
        match simulation::run(seed, &setup()) {
            Ok(run) => eprintln!("{}", run.history),
            Err(lost) => panic!("{lost}"),
        }
        return;
    }
    let seeds = number("LARDER_SEEDS").unwrap_or(seeds);
    match run_all(seeds, setup) {
        // A run in which nothing is served proves nothing.
        Ok(counts) => assert!(counts.hits > 5 * seeds as usize, "{counts:?} in {seeds} runs"),
        Err(lost) => {
            let (seed, test) = (lost.seed, thread::current().name().unwrap_or_default().to_owned());
            panic!(
                "{lost}\nLARDER_SEED={seed} cargo test -p larder-cache --all-features --test it {test} -- --nocapture"
            )
        }
    }
}

/// What a store of several processes says of itself, if it may fail.
fn shared() -> Capabilities {
    Capabilities { sharing: Sharing::Network, blocking: true, stores: true, max_value_bytes: None }
}

fn memory() -> Setup {
    Setup::new(|clock| {
        let store = Locmem::new(Options::new().clock(clock), 10_000_000);
        move || -> Box<dyn Backend> { Box::new(store.clone()) }
    })
}

fn memcached(driver: Driver) -> Setup {
    let server = MemcachedServer::start();
    Setup::new(move |clock| {
        let settings =
            Settings::new([server.address()]).driver(driver).clock(clock).timeout(std::time::Duration::from_secs(5));
        let open = move || -> Box<dyn Backend> { Box::new(Memcached::connect(settings.clone()).unwrap()) };
        open().clear().unwrap();
        open
    })
}

#[test]
fn nothing_is_lost_in_shared_memory() {
    nothing_is_lost(10_000, || memory().capabilities(shared()));
}

#[test]
fn nothing_is_lost_in_shared_memory_that_never_blocks() {
    nothing_is_lost(1_000, || memory().capabilities(Capabilities { blocking: false, ..shared() }));
}

#[test]
fn nothing_is_lost_in_locmem() {
    nothing_is_lost(100, memory);
}

#[test]
fn nothing_is_lost_in_files() {
    nothing_is_lost(300, || {
        Setup::new(|clock| {
            let folder = tempfile::tempdir().unwrap();
            move || -> Box<dyn Backend> {
                Box::new(File::open(folder.path(), Options::new().clock(clock.clone())).unwrap())
            }
        })
    });
}

#[test]
fn nothing_is_lost_in_a_table() {
    nothing_is_lost(300, || {
        Setup::new(|clock| {
            let folder = tempfile::tempdir().unwrap();
            let open = move || {
                let url = format!("sqlite://{}", folder.path().join("cache.sqlite3").display());
                Database::open(&url, "cache_entry", Options::new().clock(clock.clone())).unwrap()
            };
            open().create_table().unwrap();
            move || -> Box<dyn Backend> { Box::new(open()) }
        })
    });
}

#[test]
fn nothing_is_lost_in_memcached_by_its_meta_protocol() {
    nothing_is_lost(300, || memcached(Driver::Meta));
}

#[test]
fn nothing_is_lost_in_memcached_by_r2d2() {
    nothing_is_lost(300, || memcached(Driver::R2d2));
}

#[test]
fn a_run_repeats_with_its_seed() {
    for seed in 0..number("LARDER_SEEDS").unwrap_or(100) {
        let [first, second] = [(), ()].map(|()| {
            let run = simulation::run(seed, &memory().capabilities(shared())).unwrap();
            (run.counts, run.history.to_string())
        });
        assert_eq!(first, second, "seed {seed}");
    }
}

/// A store that gets one thing wrong: the simulation must find out.
#[derive(Debug, Clone)]
struct Flawed {
    flaw: Flaw,
    store: Locmem,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    /// A tag has the same version after its invalidation.
    SameVersion,
    /// An invalidation of tags leaves no mark for loads that are under way.
    NoMark,
    /// Whatever stands there is replaced: tickets count for nothing.
    ReplacesAnything,
    /// Replacements are confirmed and not made.
    ReplacesNothing,
    /// What was added to a key outlives its deletion, as tickets are.
    KeepsTickets,
}

impl Flawed {
    fn is_tag(key: &str) -> bool {
        key.contains("/tag/")
    }

    fn is_mark(key: &str) -> bool {
        key.ends_with("/any_tag")
    }
}

impl Backend for Flawed {
    fn capabilities(&self) -> Capabilities {
        Capabilities { blocking: false, ..shared() }
    }

    fn get(&self, key: &str) -> Result<Option<Entry>> {
        if self.flaw == Flaw::SameVersion && Flawed::is_tag(key) {
            return Ok(Some(Entry { value: Value::Integer(7), expiry: Expiry::Never }));
        }
        self.store.get(key)
    }

    fn set(&self, key: &str, value: &Value, expiry: Expiry) -> Result<()> {
        self.store.set(key, value, expiry)
    }

    fn add(&self, key: &str, value: &Value, expiry: Expiry) -> Result<bool> {
        self.store.add(key, value, expiry)
    }

    fn replace(&self, key: &str, old: &Value, new: &Value, expiry: Expiry) -> Result<bool> {
        match self.flaw {
            Flaw::ReplacesAnything => self.store.set(key, new, expiry).map(|()| true),
            Flaw::ReplacesNothing => Ok(true),
            _ => self.store.replace(key, old, new, expiry),
        }
    }

    fn touch(&self, key: &str, expiry: Expiry) -> Result<bool> {
        self.store.touch(key, expiry)
    }

    fn delete(&self, key: &str) -> Result<bool> {
        let seen = self.store.get(key)?;
        match self.flaw {
            Flaw::NoMark if Flawed::is_mark(key) => Ok(false),
            // An entry that has no value is short.
            Flaw::KeepsTickets if seen.is_some_and(|entry| entry.value.len() == 64) => Ok(false),
            _ => self.store.delete(key),
        }
    }

    fn incr(&self, key: &str, delta: i64) -> Result<Option<i64>> {
        self.store.incr(key, delta)
    }

    fn clear(&self) -> Result<()> {
        self.store.clear()
    }
}

fn is_found(flaw: Flaw, seeds: u64) {
    let flawed = || {
        Setup::new(move |clock| {
            let store = Flawed { flaw, store: Locmem::new(Options::new().clock(clock), 10_000_000) };
            move || -> Box<dyn Backend> { Box::new(store.clone()) }
        })
    };
    let lost = run_all(seeds, flawed).expect_err("a flawed store passed");
    eprintln!("{flaw:?} seed {}", lost.seed);
    assert!(lost.history.contains(&lost.key), "{lost}");
}

#[test]
fn a_tag_that_keeps_its_version_is_found() {
    is_found(Flaw::SameVersion, 500);
}

#[test]
fn an_invalidation_without_a_mark_is_found() {
    is_found(Flaw::NoMark, 1_000);
}

#[test]
fn a_replacement_that_does_not_compare_is_found() {
    is_found(Flaw::ReplacesAnything, 500);
}

#[test]
fn a_replacement_that_is_not_made_is_found() {
    is_found(Flaw::ReplacesNothing, 500);
}

#[test]
fn a_deletion_that_leaves_the_ticket_is_found() {
    is_found(Flaw::KeepsTickets, 500);
}
