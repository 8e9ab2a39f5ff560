//! A store that fails as it is told, in front of any other store.
//!
//! For tests of what is built on a store: what a site does while its store is slow, loses answers, forgets entries,
//! damages them, is restarted or is gone. A [`ChaosHandle`] says what goes wrong and how often; a seed decides when, so
//! that the same calls in the same order meet the same faults.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use crate::{
    backend::{Backend, Capabilities, Entry, Replacement, Stats, Value},
    error::{Error, Result},
    timeout::Expiry,
};

/// What goes wrong, and in which share of the calls: from 0 for never to 1 for always.
///
/// Each is decided by itself, so a call can be late and its answer be lost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Faults {
    /// The call takes longer, by up to [`delay`](Faults::delay).
    pub delayed: f64,
    /// How late a delayed call is at most.
    pub delay: Duration,
    /// The call fails before the store hears of it.
    pub refused: f64,
    /// The store does what it was asked, and the caller gets an error.
    pub lost: f64,
    /// The store forgets one of the keys of the call before it.
    pub evicted: f64,
    /// A value that is read is cut short. A counter is not, because nothing could find out.
    pub truncated: f64,
    /// One bit of a value that is read is another. A counter's is not.
    pub flipped: f64,
}

impl Faults {
    /// Nothing goes wrong.
    pub const NONE: Faults = Faults {
        delayed: 0.0,
        delay: Duration::ZERO,
        refused: 0.0,
        lost: 0.0,
        evicted: 0.0,
        truncated: 0.0,
        flipped: 0.0,
    };
}

impl Default for Faults {
    fn default() -> Self {
        Faults::NONE
    }
}

/// A store that fails as its [`ChaosHandle`] says; without faults it does what the store behind it does.
///
/// Cheap to clone; clones are one store. It counts as one that may block, so that a cache puts its circuit breaker and
/// its journal of failed invalidations before it and checks what it reads.
///
/// # Errors
/// All that it makes up are [`Error::Unavailable`].
///
/// # Examples
/// ```
/// use larder_cache::{Caches, conformance::chaos::{Chaos, Faults}, settings::AliasSettings};
/// use larder_cache::backend::{Options, locmem::{DEFAULT_MAX_BYTES, Locmem}};
///
/// let chaos = Chaos::new(Box::new(Locmem::new(Options::new(), DEFAULT_MAX_BYTES)), 7);
/// let handle = chaos.handle();
/// let caches = Caches::builder()
///     .backend("chaos", move |_| Ok(Box::new(chaos.clone())))
///     .alias("default", AliasSettings::from_address("default", "chaos://")?)
///     .build()?;
/// let cache = caches.default_cache().blocking();
///
/// cache.set("answer", &42, 60)?;
/// handle.set(Faults { flipped: 0.5, truncated: 0.5, ..Faults::NONE });
/// assert_eq!(cache.get::<i64>("answer")?, Some(42));
/// handle.down(true);
/// assert_eq!(cache.get::<i64>("answer")?, None, "an outage is a miss");
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Chaos(Arc<State>);

/// Says what goes wrong in a [`Chaos`]. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ChaosHandle(Arc<State>);

#[derive(Debug)]
struct State {
    store: Box<dyn Backend>,
    faults: Mutex<Faults>,
    down: AtomicBool,
    random: Random,
    injected: AtomicU64,
}

impl Chaos {
    /// Puts chaos before a store, without faults so far.
    pub fn new(store: Box<dyn Backend>, seed: u64) -> Self {
        Chaos(Arc::new(State {
            store,
            faults: Mutex::new(Faults::NONE),
            down: AtomicBool::new(false),
            random: Random::new(seed),
            injected: AtomicU64::new(0),
        }))
    }

    /// Returns the handle that says what goes wrong.
    pub fn handle(&self) -> ChaosHandle {
        ChaosHandle(Arc::clone(&self.0))
    }
}

impl ChaosHandle {
    /// Says what goes wrong from now on; [`Faults::NONE`] ends it.
    pub fn set(&self, faults: Faults) {
        *self.0.faults.lock().unwrap_or_else(PoisonError::into_inner) = faults;
    }

    /// Takes the store away, and gives it back with what is in it. While it is away connections are refused.
    pub fn down(&self, down: bool) {
        self.0.down.store(down, Ordering::SeqCst);
    }

    /// Empties the store, as a restart does that nobody was told of.
    ///
    /// # Errors
    /// What the store itself says.
    pub fn restart_empty(&self) -> Result<()> {
        self.0.store.clear()
    }

    /// Returns how often something went wrong so far: a test that it never happened to proves nothing.
    pub fn injected(&self) -> u64 {
        self.0.injected.load(Ordering::Relaxed)
    }
}

impl State {
    /// Draws the same numbers for each call, so that one fault more does not move all others.
    fn run<T>(&self, keys: &[&str], operation: impl FnOnce(&dyn Backend) -> Result<T>) -> Result<T> {
        let faults = self.faults();
        let late = faults.delay.mul_f64(self.random.fraction());
        let delayed = self.random.fraction() < faults.delayed;
        let refused = self.random.fraction() < faults.refused;
        let lost = self.random.fraction() < faults.lost;
        let evicted = self.random.fraction() < faults.evicted;
        let victim = self.random.below(keys.len());
        if self.happens(delayed) {
            thread::sleep(late);
        }
        if self.happens(self.down.load(Ordering::SeqCst)) {
            return Err(unavailable(io::ErrorKind::ConnectionRefused));
        }
        if self.happens(refused) {
            return Err(unavailable(io::ErrorKind::TimedOut));
        }
        if let Some(key) = keys.get(victim).filter(|_| self.happens(evicted)) {
            self.store.delete(key)?;
        }
        let result = operation(&*self.store);
        if self.happens(lost) { Err(unavailable(io::ErrorKind::UnexpectedEof)) } else { result }
    }

    fn happens(&self, fault: bool) -> bool {
        self.injected.fetch_add(u64::from(fault), Ordering::Relaxed);
        fault
    }

    fn damaged(&self, mut entry: Entry) -> Entry {
        let faults = self.faults();
        let truncated = self.random.fraction() < faults.truncated;
        let flipped = self.random.fraction() < faults.flipped;
        let Value::Bytes(bytes) = &entry.value else { return entry };
        let (at, bit) = (self.random.below(bytes.len()), self.random.below(8));
        if bytes.is_empty() {
            return entry;
        }
        if self.happens(truncated) {
            entry.value = Value::Bytes(bytes.slice(..at));
        } else if self.happens(flipped) {
            let mut bytes = bytes.to_vec();
            bytes[at] ^= 1 << bit;
            entry.value = Value::Bytes(bytes.into());
        }
        entry
    }

    fn faults(&self) -> Faults {
        *self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unavailable(kind: io::ErrorKind) -> Error {
    Error::unavailable("chaos", io::Error::from(kind))
}

impl Backend for Chaos {
    fn capabilities(&self) -> Capabilities {
        Capabilities { blocking: true, ..self.0.store.capabilities() }
    }

    fn get(&self, key: &str) -> Result<Option<Entry>> {
        let entry = self.0.run(&[key], |store| store.get(key))?;
        Ok(entry.map(|entry| self.0.damaged(entry)))
    }

    fn set(&self, key: &str, value: &Value, expiry: Expiry) -> Result<()> {
        self.0.run(&[key], |store| store.set(key, value, expiry))
    }

    fn add(&self, key: &str, value: &Value, expiry: Expiry) -> Result<bool> {
        self.0.run(&[key], |store| store.add(key, value, expiry))
    }

    fn replace(&self, key: &str, old: &Value, new: &Value, expiry: Expiry) -> Result<bool> {
        self.0.run(&[key], |store| store.replace(key, old, new, expiry))
    }

    fn touch(&self, key: &str, expiry: Expiry) -> Result<bool> {
        self.0.run(&[key], |store| store.touch(key, expiry))
    }

    fn delete(&self, key: &str) -> Result<bool> {
        self.0.run(&[key], |store| store.delete(key))
    }

    fn incr(&self, key: &str, delta: i64) -> Result<Option<i64>> {
        self.0.run(&[key], |store| store.incr(key, delta))
    }

    fn clear(&self) -> Result<()> {
        self.0.run(&[], |store| store.clear())
    }

    fn get_many(&self, keys: &[&str]) -> Result<Vec<Option<Entry>>> {
        let entries = self.0.run(keys, |store| store.get_many(keys))?;
        Ok(entries.into_iter().map(|entry| entry.map(|entry| self.0.damaged(entry))).collect())
    }

    fn set_many(&self, items: &[(&str, Value)], expiry: Expiry) -> Result<Vec<usize>> {
        self.0.run(&keys_of(items), |store| store.set_many(items, expiry))
    }

    fn add_many(&self, items: &[(&str, Value)], expiry: Expiry) -> Result<Vec<bool>> {
        self.0.run(&keys_of(items), |store| store.add_many(items, expiry))
    }

    fn replace_many(&self, items: &[Replacement<'_>]) -> Result<Vec<bool>> {
        let keys: Vec<&str> = items.iter().map(|item| item.key).collect();
        self.0.run(&keys, |store| store.replace_many(items))
    }

    fn delete_many(&self, keys: &[&str]) -> Result<usize> {
        self.0.run(keys, |store| store.delete_many(keys))
    }

    fn parts(&self) -> usize {
        self.0.store.parts()
    }

    fn part_of(&self, key: &str) -> usize {
        self.0.store.part_of(key)
    }

    fn maintain(&self) {
        self.0.store.maintain();
    }

    fn stats(&self) -> Result<Stats> {
        self.0.run(&[], |store| store.stats())
    }
}

fn keys_of<'a>(items: &[(&'a str, Value)]) -> Vec<&'a str> {
    items.iter().map(|(key, _)| *key).collect()
}

/// SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014): for tests, not for secrets.
///
/// # Examples
/// ```
/// use larder_cache::conformance::chaos::Random;
///
/// let (one, other) = (Random::new(7), Random::new(7));
/// assert_eq!(one.number(), other.number());
/// assert!(one.below(6) < 6);
/// ```
#[derive(Debug)]
pub struct Random(AtomicU64);

impl Random {
    /// Starts at a seed; the same seed gives the same numbers.
    pub const fn new(seed: u64) -> Self {
        Random(AtomicU64::new(seed))
    }

    /// Returns the next number.
    pub fn number(&self) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut bits = self.0.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// Returns the next number, from 0 up to `limit` and without it; 0 if that is 0.
    pub fn below(&self, limit: usize) -> usize {
        let wide = u128::from(self.number()) * limit as u128;
        usize::try_from(wide >> 64).unwrap_or(0)
    }

    /// Returns the next number, from 0 up to 1 and without it.
    pub fn fraction(&self) -> f64 {
        (self.number() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{
        Options,
        locmem::{DEFAULT_MAX_BYTES, Locmem},
    };

    const ONE: Value = Value::Integer(1);
    const TWO: Value = Value::Integer(2);

    fn chaos(seed: u64) -> (Chaos, ChaosHandle, Locmem) {
        let store = Locmem::new(Options::new(), DEFAULT_MAX_BYTES);
        let chaos = Chaos::new(Box::new(store.clone()), seed);
        let handle = chaos.handle();
        (chaos, handle, store)
    }

    fn value(store: &impl Backend) -> Option<Value> {
        store.get("k").unwrap().map(|entry| entry.value)
    }

    #[test]
    fn numbers_are_those_of_the_paper() {
        let random = Random::new(1_234_567);
        let numbers = [(); 3].map(|()| random.number());
        assert_eq!(numbers, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
        assert_eq!(random.below(0), 0);
        assert!((0..1000).all(|_| random.below(3) < 3 && (0.0..1.0).contains(&random.fraction())));
    }

    #[test]
    fn what_is_refused_is_not_done_and_what_is_lost_is() {
        let (chaos, handle, store) = chaos(1);
        handle.set(Faults { refused: 1.0, ..Faults::NONE });
        assert!(chaos.set("k", &ONE, Expiry::Never).unwrap_err().is_outage());
        assert_eq!(value(&store), None);
        handle.set(Faults { lost: 1.0, ..Faults::NONE });
        assert!(chaos.set("k", &ONE, Expiry::Never).unwrap_err().is_outage());
        assert_eq!(value(&store), Some(ONE));
        assert!(chaos.replace("k", &ONE, &TWO, Expiry::Never).unwrap_err().is_outage());
        assert_eq!(value(&store), Some(TWO));
        handle.set(Faults::NONE);
        assert_eq!(value(&chaos), Some(TWO));
        assert_eq!(handle.injected(), 3);
    }

    #[test]
    fn a_store_that_was_down_comes_back_with_what_it_had() {
        let (chaos, handle, _) = chaos(1);
        chaos.set("k", &ONE, Expiry::Never).unwrap();
        handle.down(true);
        assert!(chaos.get("k").unwrap_err().is_outage());
        assert!(chaos.clear().unwrap_err().is_outage());
        handle.down(false);
        assert_eq!(value(&chaos), Some(ONE));
        handle.restart_empty().unwrap();
        assert_eq!(value(&chaos), None);
    }

    #[test]
    fn what_is_evicted_is_gone_before_the_call() {
        let (chaos, handle, store) = chaos(1);
        chaos.set("k", &ONE, Expiry::Never).unwrap();
        handle.set(Faults { evicted: 1.0, ..Faults::NONE });
        assert!(!chaos.replace("k", &ONE, &TWO, Expiry::Never).unwrap());
        assert!(chaos.add("k", &TWO, Expiry::Never).unwrap());
        assert_eq!(value(&store), Some(TWO));
        store.set("l", &ONE, Expiry::Never).unwrap();
        assert_eq!(chaos.get_many(&["k", "l"]).unwrap().iter().flatten().count(), 1, "one of the keys");
    }

    #[test]
    fn what_is_damaged_is_damaged_on_its_way_and_counters_are_not() {
        let (chaos, handle, store) = chaos(1);
        let whole = Value::Bytes(vec![7; 100].into());
        store.set("k", &whole, Expiry::Never).unwrap();
        store.set("n", &ONE, Expiry::Never).unwrap();
        handle.set(Faults { truncated: 1.0, ..Faults::NONE });
        assert!(value(&chaos).unwrap().len() < 100);
        handle.set(Faults { flipped: 1.0, ..Faults::NONE });
        let entries = chaos.get_many(&["k", "n"]).unwrap();
        let [Some(Entry { value: Value::Bytes(bytes), .. }), Some(counter)] = entries.as_slice() else {
            panic!("{entries:?}")
        };
        let bits: u32 = bytes.iter().map(|byte| (byte ^ 7).count_ones()).sum();
        assert_eq!((bytes.len(), bits), (100, 1));
        assert_eq!(counter.value, ONE);
        assert_eq!(value(&store), Some(whole));
    }

    #[test]
    fn a_delayed_call_is_late() {
        let (chaos, handle, _) = chaos(1);
        handle.set(Faults { delayed: 1.0, delay: Duration::from_millis(50), ..Faults::NONE });
        let begun = std::time::Instant::now();
        (0..10).for_each(|_| assert_eq!(value(&chaos), None));
        assert!(begun.elapsed() > Duration::from_millis(50), "{:?}", begun.elapsed());
    }

    #[test]
    fn the_same_seed_brings_the_same_faults_in_about_their_share() {
        let failures = |seed| -> Vec<bool> {
            let (chaos, handle, _) = chaos(seed);
            handle.set(Faults { refused: 0.1, lost: 0.1, evicted: 0.1, truncated: 0.1, ..Faults::NONE });
            (0..1000).map(|_| chaos.set("k", &ONE, Expiry::Never).is_err()).collect()
        };
        assert_eq!(failures(1), failures(1));
        assert_ne!(failures(1), failures(2));
        let count = failures(3).iter().filter(|failed| **failed).count();
        assert!((150..230).contains(&count), "{count}");
    }
}
