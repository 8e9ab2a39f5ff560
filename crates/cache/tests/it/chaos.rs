//! Two processes on one store that fails in every way there is, against a model of what each of them may read. And the
//! suite on the same store while it does not fail.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    convert::Infallible,
    sync::Arc,
    time::Duration,
};

use larder_cache::{
    BlockingCache, Caches, Error, Timeout,
    backend::{
        Backend, Options,
        file::File,
        locmem::{DEFAULT_MAX_BYTES, Locmem},
    },
    clock::{Clock, ClockHand, Timestamp},
    conformance::{
        Harness, cases,
        chaos::{Chaos, ChaosHandle, Faults, Random},
    },
    settings::AliasSettings,
};

const KEYS: usize = 6;
const TAGS: [&str; 2] = ["shelf", "cellar"];
const PROCESSES: usize = 2;

/// Everything at once, each often enough to meet the others.
const STORM: Faults = Faults {
    delayed: 0.001,
    delay: Duration::from_micros(200),
    refused: 0.03,
    lost: 0.03,
    evicted: 0.03,
    truncated: 0.03,
    flipped: 0.03,
};

/// What was written for a key, once.
#[derive(Debug, Clone)]
struct Written {
    text: String,
    tag: Option<usize>,
    expires: Option<Timestamp>,
}

/// What may be read.
#[derive(Debug, Default)]
struct Model {
    written: Vec<Written>,
    /// The numbers of what each process may read, by key.
    readable: [BTreeMap<usize, BTreeSet<usize>>; PROCESSES],
    /// Where the counter may stand for each process.
    counts: [BTreeSet<i64>; PROCESSES],
}

impl Model {
    /// Makes up a value: who reads it sees for which key it was written and when.
    fn write(&mut self, key: usize, width: usize, tag: Option<usize>, expires: Option<Timestamp>) -> usize {
        let number = self.written.len();
        self.written.push(Written { text: format!("{key}:{number:0width$}"), tag, expires });
        number
    }

    /// A value replaced all others, for all processes or, if nobody knows, for this one.
    fn replaced(&mut self, process: usize, key: usize, number: usize, surely: bool) {
        for (other, readable) in self.readable.iter_mut().enumerate() {
            let numbers = readable.entry(key).or_default();
            if surely || other == process {
                numbers.clear();
            }
            numbers.insert(number);
        }
    }

    /// A value may be there now, beside what was.
    fn maybe(&mut self, key: usize, number: usize) {
        for readable in &mut self.readable {
            readable.entry(key).or_default().insert(number);
        }
    }

    /// What was thrown out is not read again: by anybody if it was done, and by this process if it is yet to be.
    fn gone(&mut self, process: usize, surely: bool, is_gone: impl Fn(usize, &Written) -> bool) {
        let written = &self.written;
        for (other, readable) in self.readable.iter_mut().enumerate() {
            if surely || other == process {
                for (key, numbers) in readable {
                    numbers.retain(|number| !is_gone(*key, &written[*number]));
                }
            }
        }
    }

    fn check(&self, process: usize, key: usize, read: Option<&String>, now: Timestamp, verb: &str) -> bool {
        let Some(read) = read else { return false };
        let found = self.written.iter().position(|written| written.text == *read);
        let Some(number) = found else { panic!("{verb} of key {key}: nobody wrote {read:?}") };
        let (written, readable) = (&self.written[number], self.readable[process].get(&key));
        assert!(
            readable.is_some_and(|numbers| numbers.contains(&number)),
            "{verb}: process {process} read {number} of key {key}, {written:?}, but may read {readable:?}"
        );
        assert!(written.expires.is_none_or(|expires| now < expires), "{verb}: {written:?} has expired");
        true
    }
}

struct Storm {
    random: Random,
    handle: ChaosHandle,
    processes: [BlockingCache; PROCESSES],
    clock: Clock,
    hand: ClockHand,
    model: Model,
    hits: usize,
}

impl Storm {
    fn new(store: Box<dyn Backend>, clock: Clock, hand: ClockHand, seed: u64) -> Self {
        let chaos = Chaos::new(store, seed);
        let handle = chaos.handle();
        handle.set(STORM);
        let process = || {
            let (chaos, clock) = (chaos.clone(), clock.clone());
            let settings = AliasSettings::from_address("default", "chaos://").unwrap();
            let builder = Caches::builder().backend("chaos", move |_| Ok(Box::new(chaos.clone()))).clock(clock);
            builder.alias("default", settings).build().unwrap().default_cache().blocking()
        };
        let processes = [process(), process()];
        let random = Random::new(!seed);
        Storm { random, handle, processes, clock, hand, model: Model::default(), hits: 0 }
    }

    /// Does one thing at random in a process at random.
    fn step(&mut self) {
        let (process, key) = (self.random.below(PROCESSES), self.random.below(KEYS));
        let cache = self.processes[process].clone();
        match self.random.below(100) {
            0..25 => {
                let read = cache.get::<String>(name(key)).unwrap();
                self.check(process, key, read.as_ref(), "get");
            }
            25..32 => {
                let read: HashMap<String, String> = cache.get_many((0..KEYS).map(name)).unwrap();
                (0..KEYS).for_each(|key| self.check(process, key, read.get(&name(key)), "get_many"));
            }
            32..35 => drop(cache.has_key(name(key)).unwrap()),
            35..45 => self.set(&cache, process, key),
            45..50 => self.count(&cache, process),
            50..55 => self.set_many(&cache, process),
            55..60 => self.add(&cache, process, key),
            60..75 => self.get_or_set(&cache, process, key),
            75..80 => self.touch(&cache, key),
            80..86 => {
                let done = outage_or(cache.delete(name(key)));
                self.model.gone(process, done.is_some(), |gone, _| gone == key);
            }
            86..88 => {
                let done = outage_or(cache.delete_many([name(key), name((key + 1) % KEYS)]));
                self.model.gone(process, done.is_some(), |gone, _| gone == key || gone == (key + 1) % KEYS);
            }
            88..92 => {
                let tag = self.random.below(TAGS.len());
                let done = outage_or(cache.invalidate_tags([TAGS[tag]]));
                self.model.gone(process, done.is_some(), |_, written| written.tag == Some(tag));
            }
            92 => {
                let done = outage_or(cache.clear());
                self.model.gone(process, done.is_some(), |_, _| true);
                self.model.counts[process].clear();
            }
            93 => {
                self.handle.restart_empty().unwrap();
                self.model.gone(process, true, |_, _| true);
            }
            94 => self.handle.down(self.random.below(3) == 0),
            _ => self.hand.advance(Duration::from_millis(self.random.number() % 5000)),
        }
    }

    fn check(&mut self, process: usize, key: usize, read: Option<&String>, verb: &str) {
        self.hits += usize::from(self.model.check(process, key, read, self.clock.now(), verb));
    }

    /// Chooses tags and a timeout: the handle that has these tags, the tag, and the timeout with when it ends.
    fn terms(&self, cache: &BlockingCache) -> (BlockingCache, Option<usize>, Option<u64>, Option<Timestamp>) {
        let tag = Some(self.random.below(2 * TAGS.len())).filter(|tag| *tag < TAGS.len());
        let timeout = Some(self.random.number() % 8).filter(|seconds| *seconds > 3);
        let expires = timeout.map(|seconds| self.clock.now().saturating_add(Duration::from_secs(seconds)));
        (cache.clone().tags(tag.map(|tag| TAGS[tag])), tag, timeout, expires)
    }

    /// Chooses all of a value: the handle to store it by, its number, its text and its timeout.
    fn value(&mut self, cache: &BlockingCache, key: usize) -> (BlockingCache, usize, String, Option<u64>) {
        let (cache, tag, timeout, expires) = self.terms(cache);
        let number = self.model.write(key, self.random.below(200), tag, expires);
        (cache, number, self.model.written[number].text.clone(), timeout)
    }

    fn set(&mut self, cache: &BlockingCache, process: usize, key: usize) {
        let (cache, number, text, timeout) = self.value(cache, key);
        let done = outage_or(cache.set(name(key), &text, timeout));
        self.model.replaced(process, key, number, done.is_some());
    }

    fn set_many(&mut self, cache: &BlockingCache, process: usize) {
        let (cache, tag, timeout, expires) = self.terms(cache);
        let numbers: Vec<usize> = (0..KEYS).map(|key| self.model.write(key, 1, tag, expires)).collect();
        let texts = numbers.iter().map(|number| self.model.written[*number].text.clone());
        let failed = outage_or(cache.set_many((0..KEYS).map(name).zip(texts), timeout));
        for (key, number) in numbers.into_iter().enumerate() {
            let surely = failed.as_ref().is_some_and(|failed| !failed.contains(&name(key)));
            self.model.replaced(process, key, number, surely);
        }
    }

    fn add(&mut self, cache: &BlockingCache, process: usize, key: usize) {
        let (cache, number, text, timeout) = self.value(cache, key);
        match outage_or(cache.add(name(key), &text, timeout)) {
            Some(true) => self.model.replaced(process, key, number, true),
            Some(false) => {}
            None => self.model.maybe(key, number),
        }
    }

    fn get_or_set(&mut self, cache: &BlockingCache, process: usize, key: usize) {
        let (cache, number, text, timeout) = self.value(cache, key);
        let mut loaded = false;
        let read = cache.get_or_set(name(key), timeout, || {
            loaded = true;
            Ok::<_, Infallible>(text)
        });
        if loaded {
            self.model.maybe(key, number);
        }
        self.check(process, key, Some(&read.unwrap()), "get_or_set");
    }

    fn count(&mut self, cache: &BlockingCache, process: usize) {
        let delta = self.random.below(9) as i64 - 4;
        let before = self.model.counts[process].clone();
        match cache.incr("count", delta) {
            Ok(count) => {
                assert!(before.contains(&(count - delta)), "{count} after {delta} to one of {before:?}");
                self.model.counts = [count; PROCESSES].map(|count| BTreeSet::from([count]));
                self.hits += 1;
            }
            Err(Error::KeyNotFound { .. }) => {
                let added = outage_or(cache.add("count", &delta, None::<u64>));
                self.model.counts.iter_mut().for_each(|counts| counts.extend([delta]));
                if added == Some(true) {
                    self.model.counts = [delta; PROCESSES].map(|count| BTreeSet::from([count]));
                }
            }
            Err(error) if error.is_outage() => {
                self.model.counts.iter_mut().for_each(|counts| counts.extend(before.iter().map(|count| count + delta)));
                self.model.counts[process].clear();
            }
            Err(error) => panic!("{error}"),
        }
        if let Some(count) = cache.get::<i64>("count").unwrap() {
            let counts = &self.model.counts[process];
            assert!(counts.contains(&count), "process {process} reads {count}, the counter is one of {counts:?}");
        }
    }

    /// Only ever to no timeout at all: else the model would have to know which of the timeouts arrived.
    fn touch(&mut self, cache: &BlockingCache, key: usize) {
        outage_or(cache.touch(name(key), Timeout::Never));
        for number in self.model.readable.iter().filter_map(|readable| readable.get(&key)).flatten() {
            self.model.written[*number].expires = None;
        }
    }

    /// The store is well again: what was still to be delivered is, and everything works.
    fn calm(&mut self) {
        self.handle.set(Faults::NONE);
        self.handle.down(false);
        self.hand.advance(Duration::from_secs(2));
        for (process, cache) in self.processes.clone().iter().enumerate() {
            for key in 0..KEYS {
                let read = cache.get::<String>(name(key)).unwrap();
                self.check(process, key, read.as_ref(), "get after the storm");
            }
        }
        for cache in &self.processes {
            cache.clear().unwrap();
            cache.set("key", "value", 60).unwrap();
            assert!(self.processes.iter().all(|cache| cache.has_key("key").unwrap()));
        }
    }
}

/// Runs a storm over a store for each seed.
fn weather(seeds: std::ops::Range<u64>, steps: usize, open: impl Fn(u64, Options) -> Box<dyn Backend>) {
    for seed in seeds {
        let (clock, hand) = Clock::manual();
        let mut storm = Storm::new(open(seed, Options::new().clock(clock.clone())), clock, hand, seed);
        (0..steps).for_each(|_| storm.step());
        storm.calm();
        let (hits, injected) = (storm.hits, storm.handle.injected());
        let proves = hits > steps / 20 && injected > steps as u64 / 50;
        assert!(proves, "seed {seed}: {hits} hits and {injected} faults prove little");
    }
}

#[test]
fn a_storm_over_local_memory_brings_back_nothing_wrong() {
    weather(0..20, 4000, |_, options| Box::new(Locmem::new(options, DEFAULT_MAX_BYTES)));
}

#[test]
fn a_storm_over_files_brings_back_nothing_wrong() {
    let folder = tempfile::tempdir().unwrap();
    weather(20..22, 3000, |seed, options| Box::new(File::open(folder.path().join(seed.to_string()), options).unwrap()));
}

struct OnChaos {
    chaos: Chaos,
    clock: Clock,
    hand: ClockHand,
}

impl OnChaos {
    fn new(faults: Faults, seed: u64) -> Self {
        let (clock, hand) = Clock::manual();
        let store = Locmem::new(Options::new().clock(clock.clone()), 2_000_000);
        let chaos = Chaos::new(Box::new(store), seed);
        chaos.handle().set(faults);
        OnChaos { chaos, clock, hand }
    }
}

impl Harness for OnChaos {
    fn open(&self) -> Box<dyn Backend> {
        Box::new(self.chaos.clone())
    }

    fn clock(&self) -> Clock {
        self.clock.clone()
    }

    fn wait(&self, timeout: Duration) {
        self.hand.advance(timeout);
    }
}

mod calm {
    larder_cache::conformance!(super::OnChaos::new(super::Faults::NONE, 0));
}

#[test]
fn a_deletion_wins_in_a_storm_too() {
    for seed in 0..20 {
        cases::a_deletion_wins_over_what_is_being_computed(&Arc::new(OnChaos::new(STORM, seed)));
    }
}

fn name(key: usize) -> String {
    format!("key{key}")
}

/// A write may fail because the store does, and for no other reason.
fn outage_or<T>(done: larder_cache::Result<T>) -> Option<T> {
    match done {
        Ok(value) => Some(value),
        Err(error) if error.is_outage() => None,
        Err(error) => panic!("{error}"),
    }
}
