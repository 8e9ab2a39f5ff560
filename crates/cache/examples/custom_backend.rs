//! A backend of one's own: a sorted map behind a lock, registered by name and used through the settings.
//!
//! `cargo run -p larder-cache --example custom_backend`. The tests run the whole conformance suite on [`Shelf`].

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use larder_cache::{
    Caches, Expiry, Result,
    backend::{Backend, Capabilities, Entry, Sharing, Stats, Value},
    clock::Clock,
    settings::{AliasSettings, SettingsError},
};

/// A store in the memory of this process, without a bound. Clones are the same store.
#[derive(Debug, Clone)]
pub(crate) struct Shelf {
    entries: Arc<Mutex<BTreeMap<String, Entry>>>,
    clock: Clock,
}

impl Shelf {
    /// Makes an empty store that measures expiry by this clock.
    pub(crate) fn new(clock: Clock) -> Self {
        Shelf { entries: Arc::default(), clock }
    }

    /// Locks the store. Every method takes the lock once, which makes it atomic.
    fn entries(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        // No method can panic half way, so what a panic elsewhere left behind is whole.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns what is stored under a key, unless it has expired.
    fn live<'e>(&self, entries: &'e mut BTreeMap<String, Entry>, key: &str) -> Option<&'e mut Entry> {
        let now = self.clock.now();
        entries.get_mut(key).filter(|entry| !entry.expiry.has_passed(now))
    }
}

impl Backend for Shelf {
    fn capabilities(&self) -> Capabilities {
        // A store that waits for a disk or a network says `blocking: true`: it is then called on the blocking pool,
        // behind a circuit breaker.
        Capabilities { sharing: Sharing::Process, blocking: false, stores: true, max_value_bytes: None }
    }

    fn get(&self, key: &str) -> Result<Option<Entry>> {
        Ok(self.live(&mut self.entries(), key).cloned())
    }

    fn set(&self, key: &str, value: &Value, expiry: Expiry) -> Result<()> {
        self.entries().insert(key.to_owned(), Entry { value: value.clone(), expiry });
        Ok(())
    }

    fn add(&self, key: &str, value: &Value, expiry: Expiry) -> Result<bool> {
        let mut entries = self.entries();
        let is_missing = self.live(&mut entries, key).is_none();
        if is_missing {
            entries.insert(key.to_owned(), Entry { value: value.clone(), expiry });
        }
        Ok(is_missing)
    }

    fn replace(&self, key: &str, old: &Value, new: &Value, expiry: Expiry) -> Result<bool> {
        let mut entries = self.entries();
        let Some(entry) = self.live(&mut entries, key).filter(|entry| entry.value == *old) else { return Ok(false) };
        *entry = Entry { value: new.clone(), expiry };
        Ok(true)
    }

    fn touch(&self, key: &str, expiry: Expiry) -> Result<bool> {
        let mut entries = self.entries();
        let entry = self.live(&mut entries, key);
        Ok(entry.map(|entry| entry.expiry = expiry).is_some())
    }

    fn delete(&self, key: &str) -> Result<bool> {
        let removed = self.entries().remove(key);
        Ok(removed.is_some_and(|entry| !entry.expiry.has_passed(self.clock.now())))
    }

    fn incr(&self, key: &str, delta: i64) -> Result<Option<i64>> {
        let mut entries = self.entries();
        let Some(entry) = self.live(&mut entries, key) else { return Ok(None) };
        let sum = entry.value.counted(key, delta)?;
        entry.value = Value::Integer(sum);
        Ok(Some(sum))
    }

    fn clear(&self) -> Result<()> {
        self.entries().clear();
        Ok(())
    }

    fn stats(&self) -> Result<Stats> {
        Ok(vec![("entries".to_owned(), self.entries().len().to_string())])
    }
}

/// Builds a table of caches in which settings can say `backend = "shelf"`, or `shelf://` for short.
fn caches(address: &str) -> Result<Caches, SettingsError> {
    Caches::builder()
        .backend("shelf", |context| {
            context.options().finish()?;
            Ok(Box::new(Shelf::new(context.clock.clone())))
        })
        .alias("default", AliasSettings::from_address("caches.default", address)?)
        .build()
}

#[expect(clippy::print_stdout, reason = "an example shows what it does")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let cache = caches("shelf://?timeout=60&key_prefix=demo")?.default_cache().blocking();

    cache.set("title", "Quince jelly", 60)?;
    println!("title is {:?}", cache.get::<String>("title")?);
    println!("added a second title: {}", cache.add("title", "Plum jam", 60)?);

    cache.set("visits", &41, 60)?;
    println!("visits after one more: {}", cache.incr("visits", 1)?);

    // Tags, versions and prefixes come from the cache above the store.
    cache.clone().tags(["object"]).set("list", &["Crock", "Jam pan"], 60)?;
    cache.invalidate_tags(["object"])?;
    println!("list after its tag was invalidated: {:?}", cache.get::<Vec<String>>("list")?);

    println!("stats: {:?}", cache.stats()?);

    // A setting that is wrong stops the start and names itself.
    if let Err(error) = caches("shelf://?max_entries=10") {
        println!("{error}");
    }
    Ok(())
}
