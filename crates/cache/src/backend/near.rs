//! Copies in this process's memory of what lies in a shared store, for a stated time.
//!
//! What other processes invalidate is served for so long at most; what this process changes or invalidates it sees at
//! once. With a time of zero the store is asked each time whether the copy still is what it has: then only the value does
//! not travel. Only look-ups read copies, and not those of a loader: what is stored is never made of a copy.
//! Missing keys and counters are not copied.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::{Buf, BufMut, BytesMut};

#[cfg(feature = "page")]
use super::watch::Watch;
use super::{Backend, Capabilities, Changed, Entry, Options, Replacement, Stats, Value, locmem::Locmem};
use crate::{
    clock::{Clock, Timestamp},
    error::Result,
    timeout::Expiry,
};

/// How many bytes the copies of an alias take at most, unless the settings say otherwise: 16 MiB.
pub(crate) const DEFAULT_MAX_BYTES: usize = 16 * 1024 * 1024;

/// The copies of one alias.
#[derive(Debug, Clone)]
pub(crate) struct Near {
    copies: Locmem,
    bound: Duration,
    clock: Clock,
    /// Counts what this process changed: what was read before a change is not copied after it.
    changes: Arc<AtomicU64>,
}

/// When a read began.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Begun {
    at: Timestamp,
    changes: u64,
}

impl Near {
    pub(crate) fn new(bound: Duration, options: Options, max_bytes: usize) -> Self {
        let clock = options.clock.clone();
        Near { copies: Locmem::new(options, max_bytes), bound, clock, changes: Arc::default() }
    }

    /// Tells whether the store must be asked about each copy.
    pub(crate) fn is_checked(&self) -> bool {
        self.bound.is_zero()
    }

    /// Returns the copy of a key, to be checked, and its stamp.
    pub(crate) fn get_to_check(&self, key: &str) -> Option<(Entry, u64)> {
        let Entry { value: Value::Bytes(mut bytes), expiry } = self.get(key)? else { return None };
        let stamp = bytes.try_get_u64_le().ok()?;
        Some((Entry { value: Value::Bytes(bytes), expiry }, stamp))
    }

    /// Copies what was read, to be checked by its stamp. The two lie in one value, so that they belong together.
    pub(crate) fn copy_to_check(&self, begun: Begun, key: &str, entry: &Entry, stamp: u64) {
        let Value::Bytes(bytes) = &entry.value else { return };
        let mut stamped = BytesMut::with_capacity(size_of::<u64>() + bytes.len());
        stamped.put_u64_le(stamp);
        stamped.put_slice(bytes);
        self.put(begun, key, &Value::Bytes(stamped.freeze()), entry.expiry);
    }

    /// Returns the copy of a key.
    pub(crate) fn get(&self, key: &str) -> Option<Entry> {
        self.copies.get(key).ok().flatten()
    }

    /// Begins to watch copies, which may only be such that need not be checked.
    #[cfg(feature = "page")]
    pub(crate) fn watch(&self) -> Option<Watch> {
        self.copies.watch().filter(|_| !self.is_checked())
    }

    /// Notes the moment from which on what is read may be copied.
    pub(crate) fn begin(&self) -> Begun {
        Begun { at: self.clock.now(), changes: self.changes.load(Ordering::SeqCst) }
    }

    /// Copies what was read, for as long as the bound allows since the read began.
    pub(crate) fn copy(&self, begun: Begun, key: &str, entry: &Entry) {
        let bound = Expiry::At(begun.at.saturating_add(self.bound));
        self.put(begun, key, &entry.value, entry.expiry.or_earlier(bound));
    }

    fn put(&self, begun: Begun, key: &str, value: &Value, until: Expiry) {
        let _ = self.copies.set(key, value, until);
        // Whoever changed it since may have asked for it to be forgotten before it was there.
        if self.changes.load(Ordering::SeqCst) != begun.changes {
            let _ = self.copies.delete(key);
        }
    }

    pub(crate) fn forget(&self, key: &str) {
        self.changes.fetch_add(1, Ordering::SeqCst);
        let _ = self.copies.delete(key);
    }

    fn forget_all(&self) {
        self.changes.fetch_add(1, Ordering::SeqCst);
        let _ = self.copies.clear();
    }
}

/// A shared store whose changes by this process the copies learn of.
#[derive(Debug)]
pub(crate) struct Announcing {
    store: Box<dyn Backend>,
    near: Near,
}

impl Announcing {
    pub(crate) fn new(store: Box<dyn Backend>, near: Near) -> Self {
        Announcing { store, near }
    }

    /// Changes a key, whatever comes of it, and has its copy forgotten afterwards: before, it could be made again.
    fn changed<T>(&self, key: &str, change: impl FnOnce(&dyn Backend) -> T) -> T {
        let done = change(&*self.store);
        self.near.forget(key);
        done
    }

    fn all_changed<'k, T>(&self, keys: impl IntoIterator<Item = &'k str>, change: impl FnOnce(&dyn Backend) -> T) -> T {
        let done = change(&*self.store);
        keys.into_iter().for_each(|key| self.near.forget(key));
        done
    }
}

impl Backend for Announcing {
    fn capabilities(&self) -> Capabilities {
        self.store.capabilities()
    }

    fn get(&self, key: &str) -> Result<Option<Entry>> {
        self.store.get(key)
    }

    fn get_changed(&self, key: &str, stamp: Option<u64>) -> Result<Changed> {
        self.store.get_changed(key, stamp)
    }

    fn set(&self, key: &str, value: &Value, expiry: Expiry) -> Result<()> {
        self.changed(key, |store| store.set(key, value, expiry))
    }

    fn add(&self, key: &str, value: &Value, expiry: Expiry) -> Result<bool> {
        self.changed(key, |store| store.add(key, value, expiry))
    }

    fn replace(&self, key: &str, old: &Value, new: &Value, expiry: Expiry) -> Result<bool> {
        self.changed(key, |store| store.replace(key, old, new, expiry))
    }

    fn touch(&self, key: &str, expiry: Expiry) -> Result<bool> {
        self.changed(key, |store| store.touch(key, expiry))
    }

    fn delete(&self, key: &str) -> Result<bool> {
        self.changed(key, |store| store.delete(key))
    }

    fn incr(&self, key: &str, delta: i64) -> Result<Option<i64>> {
        self.changed(key, |store| store.incr(key, delta))
    }

    fn clear(&self) -> Result<()> {
        let cleared = self.store.clear();
        self.near.forget_all();
        cleared
    }

    fn get_many(&self, keys: &[&str]) -> Result<Vec<Option<Entry>>> {
        self.store.get_many(keys)
    }

    fn set_many(&self, items: &[(&str, Value)], expiry: Expiry) -> Result<Vec<usize>> {
        self.all_changed(items.iter().map(|(key, _)| *key), |store| store.set_many(items, expiry))
    }

    fn add_many(&self, items: &[(&str, Value)], expiry: Expiry) -> Result<Vec<bool>> {
        self.all_changed(items.iter().map(|(key, _)| *key), |store| store.add_many(items, expiry))
    }

    fn replace_many(&self, items: &[Replacement<'_>]) -> Result<Vec<bool>> {
        self.all_changed(items.iter().map(|item| item.key), |store| store.replace_many(items))
    }

    fn delete_many(&self, keys: &[&str]) -> Result<usize> {
        self.all_changed(keys.iter().copied(), |store| store.delete_many(keys))
    }

    fn parts(&self) -> usize {
        self.store.parts()
    }

    fn part_of(&self, key: &str) -> usize {
        self.store.part_of(key)
    }

    fn maintain(&self) {
        self.store.maintain();
    }

    fn stats(&self) -> Result<Stats> {
        let mut stats = self.store.stats()?;
        let near = self.near.copies.stats()?;
        stats.extend(near.into_iter().map(|(name, value)| (format!("near {name}"), value)));
        Ok(stats)
    }
}
