//! A store in the memory of this process, shared by all of its threads.
//!
//! | | |
//! | --- | --- |
//! | shared | within the process; stores with the same name are one store |
//! | survives a restart | no |
//! | atomic `add`, `replace`, `touch`, `incr` | yes, under the lock of a shard |
//! | eviction | at `max_entries` or `max_bytes`: the expired, then a share of the least recently used |
//! | limits | a value may not be larger than `max_bytes`, less what its key and the store need |
//! | finest timeout | one millisecond |
//!
//! The counts are Django's: when a new key meets a full store, `1 / cull_frequency` of the entries go at once.
//! Unlike Django's it looks for expired entries first and does not cull when an existing key is overwritten.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use compact_str::CompactString;

use super::{
    Backend, Capabilities, Entry, Options, Sharing, Stats, Value,
    watch::{Changes, Watch, spread},
};
use crate::{
    clock::Timestamp,
    error::{Error, Result},
    key::MAX_KEY_BYTES,
    timeout::Expiry,
};

/// How many locks the keys are spread over.
const SHARDS: usize = 16;

/// What an entry costs beside its key and value: the map's slot, two allocations, the expiry and the use stamp.
const ENTRY_OVERHEAD_BYTES: usize = 160;

/// How many bytes keys, values and their overhead may take unless said otherwise: 64 MiB.
pub const DEFAULT_MAX_BYTES: usize = 64 * 1024 * 1024;

/// A store in the memory of this process. Cheap to clone; clones are one store.
///
/// # Examples
/// ```
/// use larder_cache::{Expiry, backend::{Backend, Options, Value, locmem::{DEFAULT_MAX_BYTES, Locmem}}};
///
/// let store = Locmem::new(Options::new(), DEFAULT_MAX_BYTES);
/// store.set(":1:answer", &Value::Integer(42), Expiry::Never)?;
/// assert_eq!(store.incr(":1:answer", -2)?, Some(40));
/// # Ok::<_, larder_cache::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Locmem(Arc<Store>);

type Shard = HashMap<CompactString, Slot>;

#[derive(Debug)]
struct Store {
    shards: [Mutex<Shard>; SHARDS],
    entries: AtomicUsize,
    bytes: AtomicUsize,
    /// Counts uses; the smallest stamps are the least recently used.
    uses: AtomicU64,
    culling: Mutex<()>,
    changes: Changes,
    options: Options,
    max_bytes: usize,
}

#[derive(Debug)]
struct Slot {
    entry: Entry,
    used: u64,
}

impl Slot {
    fn bytes(&self, key: &str) -> usize {
        entry_bytes(key, &self.entry.value)
    }
}

/// What a store grows by when a value is stored.
#[derive(Debug, Clone, Copy)]
struct Growth {
    entries: usize,
    bytes: usize,
}

impl Growth {
    fn of(shard: &Shard, key: &str, value: &Value) -> Self {
        let bytes = entry_bytes(key, value);
        match shard.get(key) {
            Some(old) => Growth { entries: 0, bytes: bytes.saturating_sub(old.bytes(key)) },
            None => Growth { entries: 1, bytes },
        }
    }
}

fn live<'s>(shard: &'s mut Shard, key: &str, now: Timestamp) -> Option<&'s mut Slot> {
    shard.get_mut(key).filter(|slot| !slot.entry.expiry.has_passed(now))
}

fn entry_bytes(key: &str, value: &Value) -> usize {
    key.len() + value.len() + ENTRY_OVERHEAD_BYTES
}

impl Locmem {
    /// Makes a store of its own. `max_bytes` bounds what keys, values and their overhead take.
    pub fn new(options: Options, max_bytes: usize) -> Self {
        Locmem(Arc::new(Store {
            shards: Default::default(),
            entries: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            uses: AtomicU64::new(0),
            culling: Mutex::new(()),
            changes: Changes::new(),
            options,
            max_bytes,
        }))
    }

    /// Returns the store of this name in this process; makes it, with these bounds, if nobody holds it.
    pub fn named(name: &str, options: Options, max_bytes: usize) -> Self {
        static STORES: OnceLock<Mutex<HashMap<String, Weak<Store>>>> = OnceLock::new();
        let mut stores = lock(STORES.get_or_init(Mutex::default));
        if let Some(store) = stores.get(name).and_then(Weak::upgrade) {
            return Locmem(store);
        }
        let made = Locmem::new(options, max_bytes);
        stores.retain(|_, store| store.strong_count() > 0);
        stores.insert(name.to_owned(), Arc::downgrade(&made.0));
        made
    }
}

impl Store {
    fn shard(&self, key: &str) -> MutexGuard<'_, Shard> {
        lock(&self.shards[spread(key) % SHARDS])
    }

    fn next_use(&self) -> u64 {
        self.uses.fetch_add(1, Ordering::Relaxed)
    }

    fn put(&self, shard: &mut Shard, key: &str, value: &Value, expiry: Expiry) {
        let entry = Entry { value: value.clone(), expiry };
        let slot = Slot { entry, used: self.next_use() };
        self.bytes.fetch_add(slot.bytes(key), Ordering::Relaxed);
        match shard.get_mut(key) {
            Some(old) => {
                self.bytes.fetch_sub(old.bytes(key), Ordering::Relaxed);
                *old = slot;
            }
            None => {
                self.entries.fetch_add(1, Ordering::Relaxed);
                shard.insert(key.into(), slot);
            }
        }
        self.changes.count(key);
    }

    fn take(&self, shard: &mut Shard, key: &str) -> Option<Entry> {
        let slot = shard.remove(key)?;
        self.entries.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(slot.bytes(key), Ordering::Relaxed);
        Some(slot.entry)
    }

    fn keep_only(&self, mut keep: impl FnMut(&Slot) -> bool) {
        for shard in &self.shards {
            lock(shard).retain(|key, slot| {
                let kept = keep(slot);
                if !kept {
                    self.changes.count(key);
                    self.entries.fetch_sub(1, Ordering::Relaxed);
                    self.bytes.fetch_sub(slot.bytes(key), Ordering::Relaxed);
                }
                kept
            });
        }
    }

    fn check_size(&self, key: &str, value: &Value) -> Result<()> {
        let (bytes, limit) = (value.len(), self.max_value_bytes());
        if bytes <= limit { Ok(()) } else { Err(Error::ValueTooLarge { key: key.into(), bytes, limit }) }
    }

    /// The largest value that fits whatever its key is.
    fn max_value_bytes(&self) -> usize {
        self.max_bytes.saturating_sub(ENTRY_OVERHEAD_BYTES + MAX_KEY_BYTES)
    }

    fn has_room(&self, growth: Growth) -> bool {
        let entries = self.entries.load(Ordering::Relaxed) + growth.entries;
        let bytes = self.bytes.load(Ordering::Relaxed) + growth.bytes;
        (growth.entries == 0 || entries <= self.options.max_entries.max(1))
            && (growth.bytes == 0 || bytes <= self.max_bytes)
    }

    fn make_room(&self, growth: Growth, now: Timestamp) {
        if self.has_room(growth) {
            return;
        }
        let _one_at_a_time = lock(&self.culling);
        if !self.has_room(growth) {
            self.keep_only(|slot| !slot.entry.expiry.has_passed(now));
        }
        while !self.has_room(growth) && self.entries.load(Ordering::Relaxed) > 0 {
            self.cull();
        }
    }

    /// Drops the share of the entries that were used least recently. Numbers that never expire go last: tags and
    /// generations among them, whose loss makes everything stale that carries them.
    fn cull(&self) {
        let rank = |slot: &Slot| {
            let is_mark = matches!(slot.entry, Entry { value: Value::Integer(_), expiry: Expiry::Never });
            (is_mark, slot.used)
        };
        let mut stamps: Vec<(bool, u64)> =
            self.shards.iter().flat_map(|shard| lock(shard).values().map(rank).collect::<Vec<_>>()).collect();
        let share = match self.options.cull_frequency {
            0 => stamps.len(),
            frequency => (stamps.len() / frequency).max(1),
        };
        if share >= stamps.len() {
            return self.keep_only(|_| false);
        }
        let (_, first_kept, _) = stamps.select_nth_unstable(share);
        let first_kept = *first_kept;
        self.keep_only(|slot| rank(slot) >= first_kept);
    }
}

/// No code panics while it holds one of these locks; a poisoned one holds consistent data.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Backend for Locmem {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            sharing: Sharing::Process,
            blocking: false,
            stores: true,
            max_value_bytes: Some(self.0.max_value_bytes()),
        }
    }

    fn get(&self, key: &str) -> Result<Option<Entry>> {
        let now = self.0.options.clock.now();
        let mut shard = self.0.shard(key);
        let Some(slot) = shard.get_mut(key) else { return Ok(None) };
        if slot.entry.expiry.has_passed(now) {
            self.0.take(&mut shard, key);
            self.0.changes.count(key);
            return Ok(None);
        }
        slot.used = self.0.next_use();
        Ok(Some(slot.entry.clone()))
    }

    fn set(&self, key: &str, value: &Value, expiry: Expiry) -> Result<()> {
        if let Err(error) = self.0.check_size(key, value) {
            self.delete(key)?;
            return Err(error);
        }
        let growth = Growth::of(&self.0.shard(key), key, value);
        self.0.make_room(growth, self.0.options.clock.now());
        self.0.put(&mut self.0.shard(key), key, value, expiry);
        Ok(())
    }

    fn add(&self, key: &str, value: &Value, expiry: Expiry) -> Result<bool> {
        self.0.check_size(key, value)?;
        let now = self.0.options.clock.now();
        let mut shard = self.0.shard(key);
        if live(&mut shard, key, now).is_some() {
            return Ok(false);
        }
        let growth = Growth::of(&shard, key, value);
        // Making room takes the locks of all shards in turn, and somebody may add the key meanwhile.
        drop(shard);
        self.0.make_room(growth, now);
        let mut shard = self.0.shard(key);
        if live(&mut shard, key, now).is_some() {
            return Ok(false);
        }
        self.0.put(&mut shard, key, value, expiry);
        Ok(true)
    }

    fn replace(&self, key: &str, old: &Value, new: &Value, expiry: Expiry) -> Result<bool> {
        self.0.check_size(key, new)?;
        let now = self.0.options.clock.now();
        let mut shard = self.0.shard(key);
        let is_same = |slot: &&mut Slot| slot.entry.value == *old;
        let Some(slot) = live(&mut shard, key, now).filter(is_same) else { return Ok(false) };
        // Room is not to be made at the cost of the entry itself.
        slot.used = self.0.next_use();
        let growth = Growth::of(&shard, key, new);
        if !self.0.has_room(growth) {
            drop(shard);
            self.0.make_room(growth, now);
            shard = self.0.shard(key);
            if live(&mut shard, key, now).filter(is_same).is_none() {
                return Ok(false);
            }
        }
        self.0.put(&mut shard, key, new, expiry);
        Ok(true)
    }

    fn touch(&self, key: &str, expiry: Expiry) -> Result<bool> {
        let now = self.0.options.clock.now();
        let mut shard = self.0.shard(key);
        let touched = live(&mut shard, key, now).map(|slot| slot.entry.expiry = expiry);
        self.0.changes.count(key);
        Ok(touched.is_some())
    }

    fn delete(&self, key: &str) -> Result<bool> {
        let now = self.0.options.clock.now();
        let mut shard = self.0.shard(key);
        let taken = self.0.take(&mut shard, key);
        // Also one that was not there: a watch may stand for something of that name elsewhere.
        self.0.changes.count(key);
        Ok(taken.is_some_and(|entry| !entry.expiry.has_passed(now)))
    }

    fn incr(&self, key: &str, delta: i64) -> Result<Option<i64>> {
        let now = self.0.options.clock.now();
        let mut shard = self.0.shard(key);
        let Some(slot) = live(&mut shard, key, now) else { return Ok(None) };
        let sum = slot.entry.value.counted(key, delta)?;
        slot.entry.value = Value::Integer(sum);
        slot.used = self.0.next_use();
        self.0.changes.count(key);
        Ok(Some(sum))
    }

    fn clear(&self) -> Result<()> {
        self.0.keep_only(|_| false);
        self.0.changes.count_all();
        Ok(())
    }

    fn watch(&self) -> Option<Watch> {
        Some(self.0.changes.watch())
    }

    fn stats(&self) -> Result<Stats> {
        Ok(vec![
            ("entries".into(), self.0.entries.load(Ordering::Relaxed).to_string()),
            ("bytes".into(), self.0.bytes.load(Ordering::Relaxed).to_string()),
            ("max_entries".into(), self.0.options.max_entries.to_string()),
            ("max_bytes".into(), self.0.max_bytes.to_string()),
        ])
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::clock::Clock;

    fn store(max_entries: usize, cull_frequency: usize) -> Locmem {
        Locmem::new(Options::new().max_entries(max_entries).cull_frequency(cull_frequency), DEFAULT_MAX_BYTES)
    }

    fn fill(store: &Locmem, keys: impl IntoIterator<Item = usize>) {
        for number in keys {
            store.set(&format!("key{number}"), &Value::Integer(1), Expiry::Never).unwrap();
        }
    }

    fn count(store: &Locmem, keys: impl IntoIterator<Item = usize>) -> usize {
        keys.into_iter().filter(|number| store.get(&format!("key{number}")).unwrap().is_some()).count()
    }

    #[test]
    fn culling_leaves_as_many_entries_as_django() {
        for (frequency, left) in [(3, 29), (0, 19)] {
            let store = store(30, frequency);
            fill(&store, 1..50);
            assert_eq!(count(&store, 1..50), left, "cull_frequency {frequency}");
        }
    }

    #[test]
    fn the_least_recently_used_go_first() {
        let store = store(6, 3);
        fill(&store, 0..6);
        store.get("key0").unwrap();
        store.touch("key1", Expiry::Never).unwrap();
        fill(&store, [6]);
        assert_eq!(count(&store, [0]), 1, "reading keeps an entry");
        assert_eq!(count(&store, [1, 2]), 0, "touching does not");
    }

    #[test]
    fn the_expired_go_before_anything_else() {
        let (clock, hand) = Clock::manual();
        let store = Locmem::new(Options::new().max_entries(4).clock(clock.clone()), DEFAULT_MAX_BYTES);
        let soon = Expiry::At(clock.now().saturating_add(std::time::Duration::from_secs(1)));
        fill(&store, 0..3);
        store.set("short", &Value::Integer(1), soon).unwrap();
        hand.advance(std::time::Duration::from_secs(2));
        fill(&store, [3]);
        assert_eq!(count(&store, 0..4), 4);
    }

    #[test]
    fn overwriting_in_a_full_store_culls_nothing() {
        let store = store(3, 3);
        fill(&store, 0..3);
        fill(&store, [0, 1, 2, 0]);
        assert_eq!(count(&store, 0..3), 3);
    }

    #[test]
    fn the_bound_in_bytes_holds_and_is_given_back() {
        let store = Locmem::new(Options::new(), 10_000);
        let value = Value::Bytes(Bytes::from(vec![1; 1000]));
        for number in 0..50 {
            store.set(&format!("key{number}"), &value, Expiry::Never).unwrap();
            assert!(store.0.bytes.load(Ordering::Relaxed) <= 10_000);
        }
        assert_eq!(count(&store, [49]), 1);
        store.clear().unwrap();
        assert_eq!(store.0.bytes.load(Ordering::Relaxed), 0);
        assert_eq!(store.0.entries.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_value_that_grows_makes_room_but_not_at_its_own_cost() {
        let store = Locmem::new(Options::new().max_entries(20), 10_000);
        let (ticket, large) = (Value::Integer(7), Value::Bytes(Bytes::from(vec![1; 5000])));
        assert!(store.add("key0", &ticket, Expiry::Never).unwrap());
        fill(&store, 1..20);
        store.set("key19", &large, Expiry::Never).unwrap();
        assert_eq!(count(&store, 0..20), 20, "there was room");
        assert!(store.replace("key0", &ticket, &large, Expiry::Never).unwrap());
        assert!(store.0.bytes.load(Ordering::Relaxed) <= 10_000);
        assert_eq!(store.get("key0").unwrap().map(|entry| entry.value), Some(large));
    }

    #[test]
    fn a_value_over_the_bound_is_refused_and_the_old_one_is_gone() {
        let store = Locmem::new(Options::new(), 1000);
        fill(&store, [1]);
        let large = Value::Bytes(Bytes::from(vec![1; 2000]));
        assert!(matches!(store.set("key1", &large, Expiry::Never), Err(Error::ValueTooLarge { .. })));
        assert_eq!(count(&store, [1]), 0);
    }

    #[test]
    fn stores_of_one_name_are_one_store() {
        let here = Locmem::named("one", Options::new(), DEFAULT_MAX_BYTES);
        let there = Locmem::named("one", Options::new(), DEFAULT_MAX_BYTES);
        let other = Locmem::named("two", Options::new(), DEFAULT_MAX_BYTES);
        fill(&here, [1]);
        assert_eq!((count(&there, [1]), count(&other, [1])), (1, 0));
    }
}
