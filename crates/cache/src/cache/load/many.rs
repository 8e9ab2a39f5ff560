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
        turn::{Loading, Missing, Turns},
    },
    Next, stale_for,
    task::joined,
};
use crate::{
    alias::{Basis, Copies, Found, Hit, Keep, State},
    codec::{self, Content},
    dependencies::{self, Here, Noted, Notes},
    error::Result,
    events::What,
    fill::{Caller, Outcome},
    key::Key,
    load::{Chosen, LoadError},
    timeout::Timeout,
};

/// The pause before another look at keys that another process is loading.
const PAUSE: Duration = Duration::from_millis(20);

/// What a look at several keys came to.
struct Looked<T> {
    values: HashMap<String, T>,
    missing: Vec<Missing>,
    /// What may be served instead of some that are missing.
    fallbacks: HashMap<String, T>,
    /// Served, and to be loaded again.
    due: Vec<Missing>,
}

/// One of several values that were loaded; no content if there is none, or it cannot be stored.
struct Loaded {
    name: String,
    loading: Loading,
    content: Option<Content>,
}

impl Cache {
    /// Returns the values of several keys; all that are missing are loaded by one call of the loader, and stored.
    ///
    /// The loader is given the missing keys and returns what there is: a key that it leaves out is missing in the result
    /// too, and is asked for again next time. A `None` of an `Option` type is kept, as everywhere. Keys that others are
    /// loading are waited for; the loader is called once more only for those whose load came to nothing. Stale values
    /// that may be served are loaded again in the background, by a call of the loader of their own. Otherwise as
    /// [`get_or_set`](Cache::get_or_set), without the limits of the options.
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
            let mut looked = self.blocking.look_at::<T>(wanted, found, timeout, is_first);
            is_first = false;
            values.extend(looked.values);
            self.refresh_many(looked.due, timeout, &load);
            if looked.missing.is_empty() {
                return Ok(values);
            }
            let names: Vec<String> = looked.missing.iter().map(|missing| missing.name.clone()).collect();
            let recursive = self.blocking.first_in_own_load(&names);
            let turns = match recursive {
                _ if self.blocking.alias.works_alone() || Instant::now() >= deadline => None,
                Some(name) => return Err(LoadError::Recursive { key: Key::from(name).to_string() }),
                None => self.try_run(move |cache| cache.take_turns(looked.missing, Caller::Async)).await.ok(),
            };
            let Some(turns) = turns else {
                self.blocking.hand_on_loaded(timeout, &Chosen::default());
                values.extend(load(names).await.map_err(|error| LoadError::Failed(Arc::new(error)))?);
                return Ok(values);
            };
            let (flights, mut held) = (turns.flights.clone(), turns.held.clone());
            let names = turns.names();
            if !names.is_empty() {
                let (cache, load) = (self.clone(), Arc::clone(&load));
                let final_keys = self.blocking.final_keys(&names);
                let notes = Notes::seen_by(self.capabilities().sharing);
                let noted = notes.clone();
                let task = async move { cache.load_and_keep_many(turns, timeout, &*load, noted, false).await };
                values.extend(joined(tokio::spawn(dependencies::making(task, final_keys, &notes)).await)?);
            }
            serve_fallbacks(&mut held, &mut looked.fallbacks, &mut values);
            let mut error = None;
            for flight in &flights {
                let outcome = flight.wait(deadline.saturating_duration_since(Instant::now())).await;
                error = error.or(error_of::<E>(outcome));
            }
            if let Some(error) = error {
                let names = held.clone();
                let stale = self.try_run(move |cache| Ok(cache.stale_many(&names))).await.ok().flatten();
                values.extend(stale.and_then(|hits| decode(&hits)).ok_or(LoadError::Failed(error))?);
                return Ok(values);
            }
            if held.len() > flights.len() {
                tokio::time::sleep(PAUSE).await;
            }
            wanted = held;
        }
        Ok(values)
    }

    /// Loads values again in the background that were served, as far as nobody does so already.
    fn refresh_many<T, E, F>(
        &self,
        due: Vec<Missing>,
        timeout: Timeout,
        load: &Arc<impl Fn(Vec<String>) -> F + Send + Sync + 'static>,
    ) where
        T: Serialize + DeserializeOwned + Send + 'static,
        E: Display + Send + Sync + 'static,
        F: Future<Output = Result<HashMap<String, T>, E>> + Send + 'static,
    {
        if due.is_empty() {
            return;
        }
        let (cache, load) = (self.clone(), Arc::clone(load));
        let refresh = async move {
            let turns = cache.try_run(move |cache| cache.take_turns(due, Caller::Async)).await;
            if let Ok(turns) = turns
                && !turns.loadings.is_empty()
            {
                let final_keys = cache.blocking.final_keys(&turns.names());
                // Its end is in the log; nobody waits for it.
                let notes = Notes::seen_by(cache.capabilities().sharing);
                let load = cache.load_and_keep_many(turns, timeout, &*load, notes.clone(), true);
                let _ = dependencies::making(load, final_keys, &notes).await;
            }
        };
        tokio::spawn(refresh);
    }

    async fn load_and_keep_many<T, E, F>(
        &self,
        turns: Turns,
        timeout: Timeout,
        load: &(impl Fn(Vec<String>) -> F + Send + Sync),
        notes: Notes,
        background: bool,
    ) -> Result<HashMap<String, T>, LoadError<E>>
    where
        T: Serialize + DeserializeOwned + Send + 'static,
        E: Display + Send + Sync + 'static,
        F: Future<Output = Result<HashMap<String, T>, E>> + Send,
    {
        let (names, loadings) = (turns.names(), turns.loadings);
        let read = move |cache: &BlockingCache| Ok((cache.basis_of_many(&loadings), loadings));
        let Ok((basis, loadings)) = self.run(read).await else {
            return load(names).await.map_err(|error| LoadError::Failed(Arc::new(error)));
        };
        let begun = Instant::now();
        let loaded = load(names.clone()).await;
        let cost = begun.elapsed();
        match loaded {
            Ok(values) => {
                let loaded = self.blocking.encode_loaded(loadings, &values);
                let noted = notes.get();
                self.blocking.hand_on_loaded(timeout, &Chosen::default());
                let keep = move |cache: &BlockingCache| {
                    cache.keep_loaded_many(loaded, timeout, basis, noted, cost, background);
                    Ok(())
                };
                let _ = self.try_run(keep).await;
                Ok(values)
            }
            Err(error) => {
                let error = Arc::new(error);
                let theirs = Arc::clone(&error);
                let stale = move |cache: &BlockingCache| {
                    cache.fail_many(loadings, &theirs, cost, background);
                    Ok(cache.stale_many(&names))
                };
                let stale = self.run(stale).await.ok().flatten();
                stale.and_then(|hits| decode(&hits)).ok_or(LoadError::Failed(error))
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
            let mut looked = self.look_at::<T>(wanted, found, timeout, is_first);
            is_first = false;
            values.extend(looked.values);
            // Without a background it is loaded here, unless somebody else does so.
            looked.missing.extend(looked.due);
            if looked.missing.is_empty() {
                return Ok(values);
            }
            let names: Vec<String> = looked.missing.iter().map(|missing| missing.name.clone()).collect();
            let turns = match self.first_in_own_load(&names) {
                _ if self.alias.works_alone() || Instant::now() >= deadline => None,
                Some(name) => return Err(LoadError::Recursive { key: Key::from(name).to_string() }),
                None => self.take_turns(looked.missing, Caller::Blocking).ok(),
            };
            let Some(turns) = turns else {
                self.hand_on_loaded(timeout, &Chosen::default());
                match load(names.clone()) {
                    Ok(loaded) => values.extend(loaded),
                    Err(_) if names.iter().all(|name| values.contains_key(name)) => {}
                    Err(error) => return Err(LoadError::Failed(Arc::new(error))),
                }
                return Ok(values);
            };
            let (flights, mut held) = (turns.flights.clone(), turns.held.clone());
            if !turns.names().is_empty() {
                values.extend(self.load_here_many(turns, timeout, &load)?);
            }
            held.retain(|name| !values.contains_key(name));
            serve_fallbacks(&mut held, &mut looked.fallbacks, &mut values);
            let mut error = None;
            for flight in &flights {
                match flight.wait_blocking(deadline.saturating_duration_since(Instant::now())) {
                    // A load that only this thread can go on with, or that takes too long: then without it.
                    None => deadline = Instant::now(),
                    outcome => error = error.or(error_of::<E>(outcome)),
                }
            }
            if let Some(error) = error {
                let stale = self.stale_many(&held);
                values.extend(stale.and_then(|hits| decode(&hits)).ok_or(LoadError::Failed(error))?);
                return Ok(values);
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
        turns: Turns,
        timeout: Timeout,
        load: &impl Fn(Vec<String>) -> Result<HashMap<String, T>, E>,
    ) -> Result<HashMap<String, T>, LoadError<E>>
    where
        T: Serialize + DeserializeOwned,
        E: Display + Send + Sync + 'static,
    {
        let (names, loadings) = (turns.names(), turns.loadings);
        let basis = self.basis_of_many(&loadings);
        let notes = Notes::seen_by(self.alias.capabilities.sharing);
        let here = Here::making(self.final_keys(&names), &notes);
        let begun = Instant::now();
        let loaded = load(names.clone());
        let cost = begun.elapsed();
        drop(here);
        match loaded {
            Ok(values) => {
                let loaded = self.encode_loaded(loadings, &values);
                self.hand_on_loaded(timeout, &Chosen::default());
                self.keep_loaded_many(loaded, timeout, basis, notes.get(), cost, false);
                Ok(values)
            }
            Err(error) => {
                let error = Arc::new(error);
                self.fail_many(loadings, &error, cost, false);
                let stale = self.stale_many(&names);
                stale.and_then(|hits| decode(&hits)).ok_or(LoadError::Failed(error))
            }
        }
    }

    fn basis_of_many(&self, loadings: &[(String, Loading)]) -> Result<Basis> {
        Loading::basis_of_many(self, loadings.iter().map(|(_, loading)| loading), &self.scope.tags)
    }

    fn max_wait(&self) -> Duration {
        // A longer wait than a day is a wait for ever.
        self.load_options_or_default().max_wait.min(Duration::from_secs(86_400))
    }

    fn find_names(&self, names: &[String], copies: Copies) -> Result<Vec<Found>> {
        let keys: Vec<Key<'_>> = names.iter().map(Key::from).collect();
        self.find_many(&keys, copies)
    }

    /// Parts what is there from what is to be loaded, and counts it at the first look.
    fn look_at<T: DeserializeOwned>(
        &self,
        names: Vec<String>,
        found: Result<Vec<Found>>,
        timeout: Timeout,
        is_first: bool,
    ) -> Looked<T> {
        let found = found.unwrap_or_else(|_| names.iter().map(|_| Found::unavailable()).collect());
        let (values, fallbacks) = (HashMap::new(), HashMap::new());
        let mut looked = Looked { values, missing: Vec::new(), fallbacks, due: Vec::new() };
        let first_look = (!is_first).then(Instant::now);
        for (name, found) in names.into_iter().zip(found) {
            let next = match self.wanted(&Key::from(&name), timeout) {
                Some(wanted) => self.next(&wanted, &found, first_look).0,
                None => Next::Load(None),
            };
            match next {
                Next::Serve(value) => drop(looked.values.insert(name, value)),
                Next::Refresh(value) => {
                    looked.values.insert(name.clone(), value);
                    looked.due.push(Missing { name, found, has_fallback: true });
                }
                Next::Load(fallback) => {
                    let has_fallback = fallback.is_some();
                    looked.fallbacks.extend(fallback.map(|(value, _)| (name.clone(), value)));
                    looked.missing.push(Missing { name, found, has_fallback });
                }
            }
        }
        looked
    }

    fn final_keys(&self, names: &[String]) -> Vec<String> {
        names.iter().filter_map(|name| self.final_key(&Key::from(name)).ok()).collect()
    }

    fn first_in_own_load<'n>(&self, names: &'n [String]) -> Option<&'n String> {
        names.iter().find(|name| self.final_key(&Key::from(*name)).is_ok_and(|key| dependencies::is_making(&key)))
    }

    fn encode_loaded<T: Serialize>(
        &self,
        loadings: Vec<(String, Loading)>,
        values: &HashMap<String, T>,
    ) -> Vec<Loaded> {
        let encode = |name: &String| self.encode(&Key::from(name), values.get(name)?).ok();
        let loaded = loadings.into_iter().map(|(name, loading)| Loaded { content: encode(&name), name, loading });
        loaded.collect()
    }

    fn keep_loaded_many(
        &self,
        loaded: Vec<Loaded>,
        timeout: Timeout,
        basis: Result<Basis>,
        noted: Noted,
        cost: Duration,
        background: bool,
    ) {
        // Each took its share of the load.
        let share = cost / u32::try_from(loaded.len()).unwrap_or(u32::MAX).max(1);
        for Loaded { name, .. } in &loaded {
            self.journal().note(&Key::from(name), What::Loaded { cost: share, background });
        }
        let options = self.load_options_or_default();
        let keep = Keep {
            timeout: self.limited(timeout, &noted),
            stale_for: options.stale_window(),
            jitter: options.jitter,
            tags: Vec::new(),
            cost: share,
        };
        let Ok(basis) = basis else { return loaded.into_iter().for_each(|loaded| loaded.loading.give_up()) };
        let first = loaded.first().map(|loaded| loaded.name.clone()).unwrap_or_default();
        let (absent, present): (Vec<_>, Vec<_>) = loaded
            .into_iter()
            .map(|Loaded { loading, content, .. }| (loading, content))
            .partition(|(_, content)| content.as_ref().is_some_and(codec::is_none));
        let absent_timeout = self.limited(options.absent_timeout.unwrap_or(timeout), &noted);
        let absent_keep = Keep { timeout: absent_timeout, ..keep.clone() };
        let discovered = noted.into_names();
        for (loaded, keep) in [(present, keep), (absent, absent_keep)] {
            if loaded.is_empty() {
                continue;
            }
            if let Err(error) = Loading::keep_many(self, loaded, keep, &basis, discovered.clone()) {
                self.pass_by(&Key::from(&first), &error);
            }
        }
    }

    fn fail_many<E: Display + Send + Sync + 'static>(
        &self,
        loadings: Vec<(String, Loading)>,
        error: &Arc<E>,
        cost: Duration,
        background: bool,
    ) {
        let pause = self.load_options_or_default().retry_after;
        for (name, loading) in loadings {
            self.journal().note(&Key::from(&name), What::LoadFailed { cost, error, background });
            loading.fail(Arc::<E>::clone(error), pause);
        }
    }

    /// Looks up what may be served instead of values that failed to load; `None` unless there is something for each.
    fn stale_many(&self, names: &[String]) -> Option<Vec<(String, Hit)>> {
        let window = self.load_options_or_default().stale_window();
        if window.is_zero() {
            return None;
        }
        let found = self.find_names(names, Copies::WillNot).ok()?;
        let now = self.alias.clock.now();
        let usable = names.iter().zip(found).map(|(name, found)| match found.state {
            State::Fresh(hit) => Some((name.clone(), hit)),
            State::Stale(hit) if stale_for(&hit, now) < window => Some((name.clone(), hit)),
            _ => None,
        });
        usable.collect()
    }
}

/// Serves what others are loading and what may be stale.
fn serve_fallbacks<T>(held: &mut Vec<String>, fallbacks: &mut HashMap<String, T>, values: &mut HashMap<String, T>) {
    held.retain(|name| match fallbacks.remove(name) {
        Some(value) => {
            values.insert(name.clone(), value);
            false
        }
        None => true,
    });
}

/// Returns the error of a load that was waited for, if its loader fails as ours does.
fn error_of<E: Send + Sync + 'static>(outcome: Option<Outcome>) -> Option<Arc<E>> {
    match outcome {
        Some(Outcome::Failed(error)) => error.downcast().ok(),
        _ => None,
    }
}

fn decode<T: DeserializeOwned>(hits: &[(String, Hit)]) -> Option<HashMap<String, T>> {
    hits.iter().for_each(|(_, hit)| hit.hand_on());
    hits.iter().map(|(name, hit)| Some((name.clone(), codec::decode(&hit.content)?))).collect()
}

fn distinct(names: Vec<String>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    names.into_iter().filter(|name| seen.insert(name.clone())).collect()
}
