//! Stands between the cache and a store that can fail: a circuit breaker and a journal of what could not be said.
//!
//! Two promises. A store that is down costs microseconds, not timeouts: see [`Breaker`]. And no invalidation is lost:
//! when an operation that would have replaced or removed a value fails, its key is *pending*, and before anything else
//! is asked of the store again, the pending keys are deleted there. So a value that survived an outage inside the store
//! is never served after it, even though the process that deleted it was told [`Error::Unavailable`] and went on.
//!
//! The journal lives in memory: it is lost with the process. What must survive that is written elsewhere, in the
//! outbox of the models.
//!
//! # Concurrency
//! While nothing is wrong, an operation costs one atomic load more than the store's own. The lock over breaker and
//! journal is never held while the store is asked; the one over delivery is, so that deletions are delivered by one
//! thread while others wait for them, at most as long as the store's own timeout.

use std::{
    collections::HashMap,
    error, fmt, io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::{Backend, Capabilities, Changed, Entry, Replacement, Stats, Value};
use crate::{
    breaker::{Breaker, Failure},
    clock::Clock,
    error::{Error, Result},
    events::{self, What},
    timeout::Expiry,
};

/// How many keys are remembered before the whole store is. 10,000 keys of 250 bytes are 2.5 MB.
const MAX_PENDING_KEYS: usize = 10_000;

/// How many deletions are delivered in one exchange: few enough for a store's timeout.
const DELIVERY_CHUNK: usize = 500;

/// A store behind a circuit breaker and a journal of failed invalidations.
pub(crate) struct Guarded<B: ?Sized> {
    store: String,
    clock: Clock,
    /// Whether breaker or journal want to be asked: false is the fast path.
    disturbed: AtomicBool,
    condition: Mutex<Condition>,
    delivery: Mutex<()>,
    /// Who is told of outages: the alias that the store belongs to.
    reports: Option<Arc<events::Journal>>,
    inner: Box<B>,
}

#[derive(Debug)]
struct Condition {
    breaker: Breaker,
    journal: Journal,
}

/// The keys whose deletion has not been delivered. Each entry knows when it was made, so that a delivery never crosses
/// out an invalidation which came while it was under way.
#[derive(Debug, Default)]
struct Journal {
    sequence: u64,
    keys: HashMap<String, u64>,
    everything: Option<u64>,
}

/// What an operation would have changed.
#[derive(Debug, Clone, Copy)]
enum Touches<'a> {
    Nothing,
    /// An `add` that was never sent changed nothing; one that failed may have.
    IfSent(&'a [&'a str]),
    Key(&'a str),
    Keys(&'a [&'a str]),
    Everything,
}

/// What is to be delivered next.
enum Delivery {
    Everything(u64),
    Keys(Vec<(String, u64)>),
}

impl Journal {
    fn is_empty(&self) -> bool {
        self.everything.is_none() && self.keys.is_empty()
    }

    fn note(&mut self, touches: Touches<'_>) {
        self.sequence += 1;
        match touches {
            Touches::Nothing => {}
            Touches::Key(key) => self.note_key(key),
            Touches::IfSent(keys) | Touches::Keys(keys) => keys.iter().for_each(|key| self.note_key(key)),
            Touches::Everything => self.note_everything(),
        }
    }

    fn note_key(&mut self, key: &str) {
        if self.everything.is_some() {
            self.everything = Some(self.sequence);
        } else if self.keys.len() >= MAX_PENDING_KEYS && !self.keys.contains_key(key) {
            self.note_everything();
        } else {
            self.keys.insert(key.to_owned(), self.sequence);
        }
    }

    fn note_everything(&mut self) {
        self.everything = Some(self.sequence);
        self.keys = HashMap::new();
    }

    fn next(&self) -> Option<Delivery> {
        if let Some(sequence) = self.everything {
            return Some(Delivery::Everything(sequence));
        }
        let chunk = self.keys.iter().take(DELIVERY_CHUNK).map(|(key, sequence)| (key.clone(), *sequence));
        (!self.keys.is_empty()).then(|| Delivery::Keys(chunk.collect()))
    }

    fn delivered(&mut self, delivery: &Delivery) {
        match delivery {
            Delivery::Everything(sequence) if self.everything == Some(*sequence) => self.everything = None,
            Delivery::Everything(_) => {}
            Delivery::Keys(keys) => {
                for (key, sequence) in keys {
                    if self.keys.get(key) == Some(sequence) {
                        self.keys.remove(key);
                    }
                }
            }
        }
    }
}

/// Why an open breaker refused: the source of the error that the caller gets.
#[derive(Debug)]
struct LeftAlone {
    trial_in: Duration,
}

impl fmt::Display for LeftAlone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it failed just now and is being left alone; next trial in {} ms", self.trial_in.as_millis())
    }
}

impl error::Error for LeftAlone {}

impl<B: Backend + ?Sized> Guarded<B> {
    /// Puts a store under guard. `store` is its name for the operator: `memcached 127.0.0.1:11211`.
    pub(crate) fn new(store: impl Into<String>, inner: Box<B>, clock: Clock) -> Self {
        Guarded {
            store: store.into(),
            clock,
            disturbed: AtomicBool::new(false),
            condition: Mutex::new(Condition { breaker: Breaker::new(), journal: Journal::default() }),
            delivery: Mutex::new(()),
            reports: None,
            inner,
        }
    }

    /// Says who is told of outages; else they are only logged.
    pub(crate) fn reporting(self, reports: Option<Arc<events::Journal>>) -> Self {
        Guarded { reports, ..self }
    }

    fn report(&self, what: What<'_>) {
        match &self.reports {
            Some(journal) => journal.note_alias(what),
            None => events::log(&what, &[]),
        }
    }

    /// Runs an operation if the store may be asked, and learns from how it ends.
    fn run<T>(&self, touches: Touches<'_>, operation: impl FnOnce(&B) -> Result<T>) -> Result<T> {
        let disturbed = self.disturbed.load(Ordering::SeqCst);
        if disturbed && let Err(error) = self.prepare() {
            if !matches!(touches, Touches::IfSent(_)) {
                self.note(touches);
            }
            return Err(error);
        }
        let result = operation(&self.inner);
        match &result {
            Err(error) if error.is_outage() => self.failed(error, touches),
            _ if disturbed => self.answered(),
            _ => {}
        }
        result
    }

    /// Asks the breaker, then delivers what is pending.
    fn prepare(&self) -> Result<()> {
        let refused = |trial_in| Err(Error::unavailable(&self.store, LeftAlone { trial_in }));
        let pending = {
            let condition = self.condition();
            if let Some(trial_in) = condition.breaker.refuses_for(self.clock.now()) {
                return refused(trial_in);
            }
            !condition.journal.is_empty()
        };
        let _turn = pending.then(|| self.delivery.lock().unwrap_or_else(PoisonError::into_inner));
        // Asked again, because whoever had the turn before may have found the store down.
        if let Err(trial_in) = self.condition().breaker.admit(self.clock.now()) {
            return refused(trial_in);
        }
        loop {
            // A statement of its own: the lock is not held over the delivery.
            let next = self.condition().journal.next();
            let Some(delivery) = next else { return Ok(()) };
            self.deliver(&delivery).inspect_err(|error| self.failed(error, Touches::Nothing))?;
            self.condition().journal.delivered(&delivery);
            self.answered();
        }
    }

    fn deliver(&self, delivery: &Delivery) -> Result<()> {
        let delivered = match delivery {
            Delivery::Everything(_) => self.inner.clear(),
            Delivery::Keys(keys) => {
                let keys: Vec<&str> = keys.iter().map(|(key, _)| key.as_str()).collect();
                self.inner.delete_many(&keys).map(drop)
            }
        };
        // Whatever stands in the way, the store is not to be used before its old values are gone.
        delivered.map_err(|error| if error.is_outage() { error } else { Error::unavailable(&self.store, error) })
    }

    fn answered(&self) {
        let mut condition = self.condition();
        let outage = condition.breaker.success(self.clock.now());
        if condition.journal.is_empty() {
            self.disturbed.store(false, Ordering::SeqCst);
        }
        drop(condition);
        if let Some(outage) = outage {
            self.report(What::StoreAnswers { store: &self.store, outage });
        }
    }

    fn failed(&self, error: &Error, touches: Touches<'_>) {
        let failure = if is_refused(error) { Failure::Refused } else { Failure::Other };
        let begins = {
            let mut condition = self.condition();
            condition.journal.note(touches);
            self.disturbed.store(true, Ordering::SeqCst);
            condition.breaker.failure(self.clock.now(), failure)
        };
        self.report(What::StoreFailed { store: &self.store, error, again: !begins });
    }

    fn note(&self, touches: Touches<'_>) {
        let mut condition = self.condition();
        condition.journal.note(touches);
        if !(condition.journal.is_empty() && condition.breaker.is_at_rest()) {
            self.disturbed.store(true, Ordering::SeqCst);
        }
    }

    fn condition(&self) -> MutexGuard<'_, Condition> {
        self.condition.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells whether nothing listens where the store should be.
fn is_refused(error: &Error) -> bool {
    let mut cause: Option<&(dyn error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        let io = error.downcast_ref::<io::Error>();
        if io.is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
            return true;
        }
        cause = error.source();
    }
    false
}

impl<B: Backend + ?Sized> Backend for Guarded<B> {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn get(&self, key: &str) -> Result<Option<Entry>> {
        self.run(Touches::Nothing, |store| store.get(key))
    }

    fn get_changed(&self, key: &str, stamp: Option<u64>) -> Result<Changed> {
        self.run(Touches::Nothing, |store| store.get_changed(key, stamp))
    }

    fn set(&self, key: &str, value: &Value, expiry: Expiry) -> Result<()> {
        self.run(Touches::Key(key), |store| store.set(key, value, expiry))
    }

    fn add(&self, key: &str, value: &Value, expiry: Expiry) -> Result<bool> {
        self.run(Touches::IfSent(&[key]), |store| store.add(key, value, expiry))
    }

    /// A failed one leaves nothing pending: no invalidation rests on it, and if it arrives after one it finds another
    /// value than it expects.
    fn replace(&self, key: &str, old: &Value, new: &Value, expiry: Expiry) -> Result<bool> {
        self.run(Touches::Nothing, |store| store.replace(key, old, new, expiry))
    }

    fn touch(&self, key: &str, expiry: Expiry) -> Result<bool> {
        self.run(Touches::Key(key), |store| store.touch(key, expiry))
    }

    fn delete(&self, key: &str) -> Result<bool> {
        self.run(Touches::Key(key), |store| store.delete(key))
    }

    fn incr(&self, key: &str, delta: i64) -> Result<Option<i64>> {
        self.run(Touches::Key(key), |store| store.incr(key, delta))
    }

    fn clear(&self) -> Result<()> {
        self.run(Touches::Everything, B::clear)
    }

    fn get_many(&self, keys: &[&str]) -> Result<Vec<Option<Entry>>> {
        self.run(Touches::Nothing, |store| store.get_many(keys))
    }

    fn set_many(&self, items: &[(&str, Value)], expiry: Expiry) -> Result<Vec<usize>> {
        let keys: Vec<&str> = items.iter().map(|(key, _)| *key).collect();
        let failed = self.run(Touches::Keys(&keys), |store| store.set_many(items, expiry))?;
        if !failed.is_empty() {
            let keys: Vec<&str> = failed.iter().filter_map(|position| keys.get(*position).copied()).collect();
            self.note(Touches::Keys(&keys));
        }
        Ok(failed)
    }

    fn add_many(&self, items: &[(&str, Value)], expiry: Expiry) -> Result<Vec<bool>> {
        let keys: Vec<&str> = items.iter().map(|(key, _)| *key).collect();
        self.run(Touches::IfSent(&keys), |store| store.add_many(items, expiry))
    }

    fn replace_many(&self, items: &[Replacement<'_>]) -> Result<Vec<bool>> {
        self.run(Touches::Nothing, |store| store.replace_many(items))
    }

    fn delete_many(&self, keys: &[&str]) -> Result<usize> {
        self.run(Touches::Keys(keys), |store| store.delete_many(keys))
    }

    fn parts(&self) -> usize {
        self.inner.parts()
    }

    fn part_of(&self, key: &str) -> usize {
        self.inner.part_of(key)
    }

    /// A store that nobody asks is cleaned too, for the other processes that use it.
    fn maintain(&self) {
        if self.disturbed.load(Ordering::SeqCst) && !self.condition().journal.is_empty() {
            // The failure has been logged and counted.
            let _ = self.prepare();
        }
        self.inner.maintain();
    }

    fn stats(&self) -> Result<Stats> {
        self.run(Touches::Nothing, B::stats)
    }
}

impl<B: fmt::Debug + ?Sized> fmt::Debug for Guarded<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guarded").field("store", &self.store).field("inner", &&*self.inner).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize},
    };

    use super::*;
    use crate::{
        backend::Sharing,
        breaker::{FAILURES_TO_OPEN, TRIAL_INTERVAL},
        clock::ClockHand,
        error::Causes,
    };

    /// A store that can be switched off while it keeps its values, and counts what it is asked.
    #[derive(Debug, Clone, Default)]
    struct Fake(Arc<State>);

    #[derive(Debug, Default)]
    struct State {
        values: Mutex<HashMap<String, Value>>,
        off: AtomicBool,
        calls: AtomicUsize,
        refuse: AtomicBool,
        /// How many more calls succeed before the store goes off; 0 is no limit.
        off_after: AtomicU32,
    }

    impl Fake {
        fn switch(&self, on: bool) {
            self.0.off.store(!on, Ordering::SeqCst);
        }

        fn calls(&self) -> usize {
            self.0.calls.load(Ordering::SeqCst)
        }

        fn values(&self) -> Result<MutexGuard<'_, HashMap<String, Value>>> {
            self.0.calls.fetch_add(1, Ordering::SeqCst);
            if self.0.off_after.load(Ordering::SeqCst) > 0 && self.0.off_after.fetch_sub(1, Ordering::SeqCst) == 1 {
                self.switch(false);
            }
            if self.0.off.load(Ordering::SeqCst) {
                let refused = self.0.refuse.load(Ordering::SeqCst);
                let kind = if refused { io::ErrorKind::ConnectionRefused } else { io::ErrorKind::TimedOut };
                return Err(Error::unavailable("fake", io::Error::from(kind)));
            }
            Ok(self.0.values.lock().unwrap())
        }
    }

    impl Backend for Fake {
        fn capabilities(&self) -> Capabilities {
            Capabilities { sharing: Sharing::Process, blocking: true, stores: true, max_value_bytes: None }
        }

        fn get(&self, key: &str) -> Result<Option<Entry>> {
            let value = self.values()?.get(key).cloned();
            Ok(value.map(|value| Entry { value, expiry: Expiry::Never }))
        }

        fn set(&self, key: &str, value: &Value, _: Expiry) -> Result<()> {
            self.values()?.insert(key.to_owned(), value.clone());
            Ok(())
        }

        fn add(&self, key: &str, value: &Value, _: Expiry) -> Result<bool> {
            let mut values = self.values()?;
            let missing = !values.contains_key(key);
            values.entry(key.to_owned()).or_insert_with(|| value.clone());
            Ok(missing)
        }

        fn replace(&self, key: &str, old: &Value, new: &Value, _: Expiry) -> Result<bool> {
            let mut values = self.values()?;
            let found = values.get_mut(key).filter(|value| *value == old);
            Ok(found.map(|value| *value = new.clone()).is_some())
        }

        fn touch(&self, key: &str, _: Expiry) -> Result<bool> {
            Ok(self.values()?.contains_key(key))
        }

        fn delete(&self, key: &str) -> Result<bool> {
            Ok(self.values()?.remove(key).is_some())
        }

        fn incr(&self, key: &str, delta: i64) -> Result<Option<i64>> {
            match self.values()?.get_mut(key) {
                Some(Value::Integer(number)) => {
                    *number += delta;
                    Ok(Some(*number))
                }
                _ => Ok(None),
            }
        }

        fn clear(&self) -> Result<()> {
            self.values()?.clear();
            Ok(())
        }

        fn delete_many(&self, keys: &[&str]) -> Result<usize> {
            let mut values = self.values()?;
            Ok(keys.iter().filter(|key| values.remove(**key).is_some()).count())
        }
    }

    fn guarded() -> (Guarded<Fake>, Fake, ClockHand) {
        let (clock, hand) = Clock::manual();
        let fake = Fake::default();
        (Guarded::new("fake", Box::new(fake.clone()), clock), fake, hand)
    }

    fn open(store: &Guarded<Fake>, fake: &Fake) {
        fake.switch(false);
        for _ in 0..FAILURES_TO_OPEN {
            assert!(store.get("other").is_err());
        }
    }

    const ONE: Value = Value::Integer(1);
    const TWO: Value = Value::Integer(2);

    fn value(store: &impl Backend, key: &str) -> Option<Value> {
        store.get(key).unwrap().map(|entry| entry.value)
    }

    #[test]
    fn a_stale_value_that_survives_the_outage_inside_the_store_is_not_served_after_it() {
        let (store, fake, hand) = guarded();
        store.set("k", &ONE, Expiry::Never).unwrap();
        fake.switch(false);
        assert!(store.delete("k").unwrap_err().is_outage());
        fake.switch(true);
        assert_eq!(value(&fake, "k"), Some(ONE), "the store kept it");
        assert_eq!(value(&store, "k"), None);
        assert_eq!(value(&fake, "k"), None, "and was told to forget it");
        hand.advance(TRIAL_INTERVAL);
        assert_eq!(value(&store, "k"), None);
    }

    #[test]
    fn every_failed_write_leaves_its_key_pending() {
        type Write = fn(&Guarded<Fake>) -> Result<()>;
        let writes: [(&str, Write); 9] = [
            ("set", |store| store.set("k", &TWO, Expiry::Never)),
            ("set_many", |store| store.set_many(&[("k", TWO)], Expiry::Never).map(drop)),
            ("add", |store| store.add("k", &TWO, Expiry::Never).map(drop)),
            ("add_many", |store| store.add_many(&[("k", TWO)], Expiry::Never).map(drop)),
            ("touch", |store| store.touch("k", Expiry::Never).map(drop)),
            ("incr", |store| store.incr("k", 1).map(drop)),
            ("delete", |store| store.delete("k").map(drop)),
            ("delete_many", |store| store.delete_many(&["k"]).map(drop)),
            ("clear", |store| store.clear()),
        ];
        for (name, write) in writes {
            let (store, fake, _) = guarded();
            store.set("k", &ONE, Expiry::Never).unwrap();
            fake.switch(false);
            // The default `set_many` of the trait reports positions, not an error.
            let _ = write(&store);
            fake.switch(true);
            assert_eq!(value(&store, "k"), None, "{name}");
        }
    }

    #[test]
    fn what_an_open_breaker_refused_is_pending_too_except_an_add() {
        let (store, fake, hand) = guarded();
        for key in ["deleted", "added"] {
            store.set(key, &ONE, Expiry::Never).unwrap();
        }
        open(&store, &fake);
        fake.switch(true);
        assert!(store.delete("deleted").is_err(), "the breaker is open");
        assert!(store.add("added", &TWO, Expiry::Never).is_err());
        hand.advance(TRIAL_INTERVAL);
        assert_eq!(value(&store, "deleted"), None);
        assert_eq!(value(&store, "added"), Some(ONE), "that add was never sent");
    }

    #[test]
    fn a_failed_replacement_leaves_the_old_value_to_be_served() {
        let (store, fake, _) = guarded();
        store.set("k", &ONE, Expiry::Never).unwrap();
        fake.switch(false);
        assert!(store.replace("k", &ONE, &TWO, Expiry::Never).is_err());
        let item = Replacement { key: "k", old: &ONE, new: &TWO, expiry: Expiry::Never };
        assert!(store.replace_many(&[item]).is_err());
        fake.switch(true);
        assert_eq!(value(&store, "k"), Some(ONE));
        fake.switch(false);
        assert!(store.delete("k").is_err());
        fake.switch(true);
        assert!(!store.replace("k", &ONE, &TWO, Expiry::Never).unwrap(), "a pending key counts as missing");
    }

    #[test]
    fn a_value_that_is_set_after_the_outage_is_served() {
        let (store, fake, _) = guarded();
        fake.switch(false);
        assert!(store.delete("k").is_err());
        fake.switch(true);
        store.set("k", &TWO, Expiry::Never).unwrap();
        assert_eq!(value(&store, "k"), Some(TWO));
        assert!(!store.disturbed.load(Ordering::SeqCst), "all is well again");
    }

    #[test]
    fn a_pending_key_counts_as_missing_for_add_touch_and_incr() {
        let (store, fake, _) = guarded();
        let survive = || {
            fake.switch(true);
            fake.set("k", &ONE, Expiry::Never).unwrap();
            fake.switch(false);
            assert!(store.delete("k").is_err());
            fake.switch(true);
        };
        survive();
        assert!(store.add("k", &TWO, Expiry::Never).unwrap());
        survive();
        assert!(!store.touch("k", Expiry::Never).unwrap());
        survive();
        assert_eq!(store.incr("k", 1).unwrap(), None);
        survive();
        assert_eq!(store.get_many(&["k"]).unwrap(), [None]);
    }

    #[test]
    fn an_open_breaker_does_not_ask_the_store() {
        let (store, fake, hand) = guarded();
        open(&store, &fake);
        let calls = fake.calls();
        let error = store.get("k").unwrap_err();
        assert_eq!(fake.calls(), calls);
        assert!(Causes(&error).to_string().contains("left alone; next trial in 1000 ms"), "{}", Causes(&error));
        hand.advance(TRIAL_INTERVAL);
        assert!(store.get("k").is_err());
        assert_eq!(fake.calls(), calls + 1, "one trial");
        assert!(store.get("k").is_err());
        assert_eq!(fake.calls(), calls + 1);
        fake.switch(true);
        hand.advance(TRIAL_INTERVAL);
        assert_eq!(value(&store, "k"), None);
        assert_eq!(value(&store, "k"), None);
    }

    #[test]
    fn a_refused_connection_opens_the_breaker_at_once() {
        let (store, fake, _) = guarded();
        fake.0.refuse.store(true, Ordering::SeqCst);
        fake.switch(false);
        assert!(store.get("k").is_err());
        let calls = fake.calls();
        assert!(store.get("k").is_err());
        assert_eq!(fake.calls(), calls);
    }

    #[test]
    fn a_delivery_that_fails_keeps_the_rest_pending() {
        let (store, fake, hand) = guarded();
        let keys: Vec<String> = (0..DELIVERY_CHUNK * 2).map(|n| format!("k{n}")).collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        for key in &keys {
            store.set(key, &ONE, Expiry::Never).unwrap();
        }
        fake.switch(false);
        assert!(store.delete_many(&keys).is_err());
        fake.switch(true);
        fake.0.off_after.store(2, Ordering::SeqCst);
        store.maintain();
        assert_eq!(store.condition().journal.keys.len(), DELIVERY_CHUNK);
        fake.switch(true);
        hand.advance(TRIAL_INTERVAL);
        store.maintain();
        assert!(store.condition().journal.is_empty());
        assert_eq!(fake.values().unwrap().len(), 0);
    }

    #[test]
    fn a_journal_that_overflows_clears_the_store() {
        let (store, fake, hand) = guarded();
        store.set("old", &ONE, Expiry::Never).unwrap();
        fake.switch(false);
        for n in 0..=MAX_PENDING_KEYS {
            assert!(store.delete(&format!("k{n}")).is_err());
        }
        assert!(store.condition().journal.keys.is_empty(), "memory is bounded");
        fake.switch(true);
        hand.advance(TRIAL_INTERVAL);
        assert_eq!(value(&store, "old"), None);
    }

    #[test]
    fn recover_asks_a_healthy_store_nothing() {
        let (store, fake, _) = guarded();
        store.maintain();
        assert_eq!(fake.calls(), 0);
    }

    #[test]
    fn an_invalidation_that_comes_during_a_delivery_stays_pending() {
        let mut journal = Journal::default();
        journal.note(Touches::Keys(&["a", "b"]));
        let delivery = journal.next().unwrap();
        journal.note(Touches::Key("a"));
        journal.delivered(&delivery);
        assert_eq!(journal.keys.keys().collect::<Vec<_>>(), ["a"]);
        journal.note(Touches::Everything);
        let delivery = journal.next().unwrap();
        journal.note(Touches::Key("c"));
        journal.delivered(&delivery);
        assert!(!journal.is_empty());
    }

    #[test]
    fn errors_of_the_caller_do_not_count_against_the_store() {
        #[derive(Debug)]
        struct Full;
        let (store, ..) = guarded();
        for _ in 0..=FAILURES_TO_OPEN {
            let error = store.run(Touches::Key("k"), |_| -> Result<Full> {
                Err(Error::ValueTooLarge { key: "k".to_owned(), bytes: 2, limit: 1 })
            });
            assert!(error.is_err());
        }
        assert!(!store.disturbed.load(Ordering::SeqCst));
    }
}
