//! `get_or_set_many`: one look-up for all keys, one load for all that is missing.

use std::{
    collections::{BTreeSet, HashMap},
    fmt::Display,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::{Serialize, de::DeserializeOwned};

use super::{
    super::{
        BlockingCache, Cache, owned,
        turn::{Loading, Turns},
    },
    stale_for,
    task::joined,
};
use crate::{
    alias::{Basis, Copies, Found, Keep, State},
    codec::{self, Content},
    error::Result,
    events::What,
    fill::{self, Caller},
    key::Key,
    load::LoadError,
    timeout::Timeout,
};

/// The pause before another look at keys that another process is loading.
const PAUSE: Duration = Duration::from_millis(20);

/// What a look at several keys came to.
struct Looked<T> {
    values: HashMap<String, T>,
    missing: Vec<(String, Found)>,
}

impl Cache {
    /// Returns the values of several keys; all that are missing are loaded by one call of the loader, and stored.
    ///
    /// The loader is given the missing keys and returns what there is: a key that it leaves out is missing in the result
    /// too, and is asked for again next time. A `None` of an `Option` type is kept, as everywhere. Keys that others are
    /// loading are waited for; the loader is called once more only for those whose load came to nothing. Otherwise as
    /// [`get_or_set`](Cache::get_or_set), except that stale values are loaded and not served, unless the loader fails.
    ///
    /// # Errors
    /// As [`get_or_set`](Cache::get_or_set).
    ///
    /// # Panics
    /// As there.
    ///
    /// # Examples
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
    /// use larder_cache::Caches;
    /// use std::collections::HashMap;
    ///
    /// let cache = Caches::local().default_cache();
    /// cache.set("title:1", "Crock", 60).await?;
    /// let load = |keys: Vec<String>| async move {
    ///     assert_eq!(keys, ["title:2", "title:3"]);
    ///     Ok::<_, std::io::Error>(HashMap::from([("title:2".to_owned(), "Jam pan".to_owned())]))
    /// };
    /// let titles = cache.get_or_set_many(["title:1", "title:2", "title:3"], 60, load).await?;
    /// assert_eq!((titles.len(), &*titles["title:2"]), (2, "Jam pan"));
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub async fn get_or_set_many<T, E, F, K: AsRef<str>>(
        &self,
        keys: impl IntoIterator<Item = K>,
        timeout: impl Into<Timeout>,
        load: impl Fn(Vec<String>) -> F + Send + Sync + 'static,
    ) -> Result<HashMap<String, T>, LoadError<E>>
    where
        T: Serialize + DeserializeOwned + Send + 'static,
        E: Display + Send + Sync + 'static,
        F: Future<Output = Result<HashMap<String, T>, E>> + Send + 'static,
    {
        let timeout = timeout.into();
        let load = Arc::new(load);
        let deadline = Instant::now() + self.blocking.max_wait();
        let mut wanted = distinct(owned(keys));
        let mut values = HashMap::new();
        let mut is_first = true;
        while !wanted.is_empty() {
            let asked = wanted.clone();
            let copies = Copies::for_caller();
            let found = self.try_run(move |cache| cache.find_names(&asked, copies)).await;
            let looked = self.blocking.look_at::<T>(wanted, found, is_first);
            is_first = false;
            values.extend(looked.values);
            let names: Vec<String> = looked.missing.iter().map(|(name, _)| name.clone()).collect();
            if names.is_empty() {
                return Ok(values);
            }
            let recursive = self.blocking.first_in_own_load(&names);
            let turns = match recursive {
                _ if !self.capabilities().stores || Instant::now() >= deadline => None,
                Some(name) => return Err(LoadError::Recursive { key: Key::from(name).to_string() }),
                None => self.try_run(move |cache| cache.take_turns(looked.missing, Caller::Async)).await.ok(),
            };
            let Some(Turns { loadings, flights, held }) = turns else {
                values.extend(load(names).await.map_err(|error| LoadError::Failed(Arc::new(error)))?);
                return Ok(values);
            };
            if !loadings.is_empty() {
                let final_keys: Vec<String> =
                    names.iter().filter_map(|name| self.blocking.final_key(&Key::from(name)).ok()).collect();
                let (cache, load) = (self.clone(), Arc::clone(&load));
                let task = async move { cache.load_and_keep_many(loadings, timeout, &*load).await };
                let loaded = tokio::spawn(fill::loading(task, final_keys)).await;
                values.extend(joined(loaded)?);
            }
            for flight in &flights {
                flight.wait(deadline.saturating_duration_since(Instant::now())).await;
            }
            if held.len() > flights.len() {
                tokio::time::sleep(PAUSE).await;
            }
            wanted = held;
        }
        Ok(values)
    }

    async fn load_and_keep_many<T, E, F>(
        &self,
        loadings: Vec<(String, Loading)>,
        timeout: Timeout,
        load: &(impl Fn(Vec<String>) -> F + Send + Sync),
    ) -> Result<HashMap<String, T>, LoadError<E>>
    where
        T: Serialize + DeserializeOwned + Send + 'static,
        E: Display + Send + Sync + 'static,
        F: Future<Output = Result<HashMap<String, T>, E>> + Send,
    {
        let names: Vec<String> = loadings.iter().map(|(name, _)| name.clone()).collect();
        let basis = self.run(|cache| cache.alias.basis(None, &cache.scope.tags, false)).await;
        let begun = Instant::now();
        let loaded = load(names.clone()).await;
        let cost = begun.elapsed();
        match loaded {
            Ok(values) => {
                let encoded = self.blocking.encode_loaded(&loadings, &values);
                let keep = move |cache: &BlockingCache| {
                    cache.keep_loaded_many(loadings, encoded, timeout, basis, cost);
                    Ok(())
                };
                let _ = self.try_run(keep).await;
                Ok(values)
            }
            Err(error) => {
                let error = Arc::new(error);
                let theirs = Arc::clone(&error);
                let stale = move |cache: &BlockingCache| {
                    cache.fail_many(loadings, &theirs, cost);
                    Ok(cache.stale_many(&names))
                };
                let stale = self.run(stale).await.ok().flatten();
                stale.and_then(|contents| decode(&contents)).ok_or(LoadError::Failed(error))
            }
        }
    }
}

impl BlockingCache {
    /// As [`Cache::get_or_set_many`], with a loader that runs on the caller's thread.
    ///
    /// # Errors
    /// As there.
    pub fn get_or_set_many<T, E, K: AsRef<str>>(
        &self,
        keys: impl IntoIterator<Item = K>,
        timeout: impl Into<Timeout>,
        load: impl Fn(Vec<String>) -> Result<HashMap<String, T>, E>,
    ) -> Result<HashMap<String, T>, LoadError<E>>
    where
        T: Serialize + DeserializeOwned,
        E: Display + Send + Sync + 'static,
    {
        let timeout = timeout.into();
        let mut deadline = Instant::now() + self.max_wait();
        let mut wanted = distinct(owned(keys));
        let mut values = HashMap::new();
        let mut is_first = true;
        while !wanted.is_empty() {
            let found = self.find_names(&wanted, Copies::for_caller());
            let looked = self.look_at::<T>(wanted, found, is_first);
            is_first = false;
            values.extend(looked.values);
            let names: Vec<String> = looked.missing.iter().map(|(name, _)| name.clone()).collect();
            if names.is_empty() {
                return Ok(values);
            }
            let turns = match self.first_in_own_load(&names) {
                _ if !self.alias.capabilities.stores || Instant::now() >= deadline => None,
                Some(name) => return Err(LoadError::Recursive { key: Key::from(name).to_string() }),
                None => self.take_turns(looked.missing, Caller::Blocking).ok(),
            };
            let Some(Turns { loadings, flights, held }) = turns else {
                values.extend(load(names).map_err(|error| LoadError::Failed(Arc::new(error)))?);
                return Ok(values);
            };
            if !loadings.is_empty() {
                values.extend(self.load_here_many(loadings, timeout, &load)?);
            }
            for flight in &flights {
                // A load that only this thread can go on with, or that takes too long: then without it.
                if flight.wait_blocking(deadline.saturating_duration_since(Instant::now())).is_none() {
                    deadline = Instant::now();
                }
            }
            if held.len() > flights.len() {
                self.alias.clock.sleep(PAUSE);
            }
            wanted = held;
        }
        Ok(values)
    }

    fn load_here_many<T, E>(
        &self,
        loadings: Vec<(String, Loading)>,
        timeout: Timeout,
        load: &impl Fn(Vec<String>) -> Result<HashMap<String, T>, E>,
    ) -> Result<HashMap<String, T>, LoadError<E>>
    where
        T: Serialize + DeserializeOwned,
        E: Display + Send + Sync + 'static,
    {
        let names: Vec<String> = loadings.iter().map(|(name, _)| name.clone()).collect();
        let basis = self.alias.basis(None, &self.scope.tags, false);
        let final_keys = names.iter().filter_map(|name| self.final_key(&Key::from(name)).ok());
        let here: Vec<fill::LoadingHere> = final_keys.map(|key| fill::LoadingHere::new(&key)).collect();
        let begun = Instant::now();
        let loaded = load(names.clone());
        let cost = begun.elapsed();
        drop(here);
        match loaded {
            Ok(values) => {
                let encoded = self.encode_loaded(&loadings, &values);
                self.keep_loaded_many(loadings, encoded, timeout, basis, cost);
                Ok(values)
            }
            Err(error) => {
                let error = Arc::new(error);
                self.fail_many(loadings, &error, cost);
                let stale = self.stale_many(&names);
                stale.and_then(|contents| decode(&contents)).ok_or(LoadError::Failed(error))
            }
        }
    }

    fn max_wait(&self) -> Duration {
        // A longer wait than a day is a wait for ever.
        self.load_options_or_default().max_wait.min(Duration::from_secs(86_400))
    }

    fn find_names(&self, names: &[String], copies: Copies) -> Result<Vec<Found>> {
        let keys: Vec<Key<'_>> = names.iter().map(Key::from).collect();
        self.find_many(&keys, copies)
    }

    /// Parts what is there from what is missing, and counts it at the first look.
    fn look_at<T: DeserializeOwned>(&self, names: Vec<String>, found: Result<Vec<Found>>, is_first: bool) -> Looked<T> {
        let found = found.unwrap_or_else(|_| names.iter().map(|_| Found::unavailable()).collect());
        let mut looked = Looked { values: HashMap::new(), missing: Vec::new() };
        for (name, found) in names.into_iter().zip(found) {
            let value: Option<T> = found.fresh().and_then(|hit| codec::decode(&hit.content));
            self.count(&Key::from(&name), &found, value.is_some(), !is_first);
            match value {
                Some(value) => drop(looked.values.insert(name, value)),
                None => looked.missing.push((name, found)),
            }
        }
        looked
    }

    fn first_in_own_load<'n>(&self, names: &'n [String]) -> Option<&'n String> {
        names.iter().find(|name| self.final_key(&Key::from(*name)).is_ok_and(|key| fill::is_loading(&key)))
    }

    fn encode_loaded<T: Serialize>(
        &self,
        loadings: &[(String, Loading)],
        values: &HashMap<String, T>,
    ) -> Vec<Option<Content>> {
        let encode = |name: &String| self.encode(&Key::from(name), values.get(name)?).ok();
        loadings.iter().map(|(name, _)| encode(name)).collect()
    }

    fn keep_loaded_many(
        &self,
        loadings: Vec<(String, Loading)>,
        encoded: Vec<Option<Content>>,
        timeout: Timeout,
        basis: Result<Basis>,
        cost: Duration,
    ) {
        // Each took its share of the load.
        let share = cost / u32::try_from(loadings.len()).unwrap_or(u32::MAX).max(1);
        loadings.iter().for_each(|(name, _)| {
            self.journal().note(&Key::from(name), What::Loaded { cost: share, background: false })
        });
        let options = self.load_options_or_default();
        let keep =
            Keep { timeout, stale_for: options.stale_window(), jitter: options.jitter, tags: Vec::new(), cost: share };
        let Ok(basis) = basis else { return loadings.into_iter().for_each(|(_, loading)| loading.give_up()) };
        let first = loadings.first().map(|(name, _)| name.clone()).unwrap_or_default();
        let (absent, present): (Vec<_>, Vec<_>) = loadings
            .into_iter()
            .map(|(_, loading)| loading)
            .zip(encoded)
            .partition(|(_, content)| content.as_ref().is_some_and(codec::is_none));
        let absent_keep = Keep { timeout: options.absent_timeout.unwrap_or(timeout), ..keep.clone() };
        for (loaded, keep) in [(present, keep), (absent, absent_keep)] {
            if loaded.is_empty() {
                continue;
            }
            if let Err(error) = Loading::keep_many(self, loaded, keep, &basis) {
                self.pass_by(&Key::from(&first), &error);
            }
        }
    }

    fn fail_many<E: Display + Send + Sync + 'static>(
        &self,
        loadings: Vec<(String, Loading)>,
        error: &Arc<E>,
        cost: Duration,
    ) {
        let pause = self.load_options_or_default().retry_after;
        for (name, loading) in loadings {
            self.journal().note(&Key::from(&name), What::LoadFailed { cost, error, background: false });
            loading.fail(Arc::<E>::clone(error), pause);
        }
    }

    /// Looks up what may be served instead of values that failed to load; `None` unless there is something for each.
    fn stale_many(&self, names: &[String]) -> Option<Vec<(String, Content)>> {
        let window = self.load_options_or_default().stale_window();
        if window.is_zero() {
            return None;
        }
        let found = self.find_names(names, Copies::WillNot).ok()?;
        let now = self.alias.clock.now();
        let usable = names.iter().zip(found).map(|(name, found)| match found.state {
            State::Fresh(hit) => Some((name.clone(), hit.content)),
            State::Stale(hit) if stale_for(&hit, now) < window => Some((name.clone(), hit.content)),
            _ => None,
        });
        usable.collect()
    }
}

fn decode<T: DeserializeOwned>(contents: &[(String, Content)]) -> Option<HashMap<String, T>> {
    contents.iter().map(|(name, content)| Some((name.clone(), codec::decode(content)?))).collect()
}

fn distinct(names: Vec<String>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    names.into_iter().filter(|name| seen.insert(name.clone())).collect()
}
