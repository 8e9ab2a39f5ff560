//! `get_or_set` and its kin: look up, and load what is missing, stale or about to become so.

use std::{
    fmt::Display,
    panic,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::{Serialize, de::DeserializeOwned};

use super::{
    BlockingCache, Cache,
    turn::{Loading, Patience, Queue, Step},
};
use crate::{
    alias::{Found, Hit, Keep, State},
    clock::Timestamp,
    codec::{self, Content},
    error::Result,
    events::{MissReason, What},
    fill::{self, LoadingHere},
    key::Key,
    load::{Choices, Chosen, Load, LoadError, LoadOptions},
    timeout::{Expiry, Timeout},
};

/// What a caller wants loaded.
#[derive(Debug, Clone)]
struct Wanted {
    key: Key<'static>,
    final_key: String,
    timeout: Timeout,
    options: LoadOptions,
    /// Whether the loader may find out tags.
    may_discover: bool,
}

/// What a look-up means for a caller who can load.
enum Next<T> {
    Serve(T),
    /// Serve it, and load it again meanwhile.
    Refresh(T),
    /// Load it. There may be a stale value that is better than none.
    Load(Option<(T, Timestamp)>),
}

impl Cache {
    /// Returns the value of a key, loaded and stored if it is missing.
    ///
    /// Callers who miss the key at the same time, in this process or in others that share the store, wait for the first
    /// of them, as long as [`LoadOptions::max_wait`] says. The loader runs in a task of its own: a caller who goes away
    /// cancels nothing. A value that was overtaken, by a deletion or another value of the key or by the invalidation of
    /// one of the handle's tags, is returned to the caller and not stored.
    ///
    /// # Errors
    /// Only what concerns the loader; a cache that cannot be used is passed by, and said so in the log.
    ///
    /// # Panics
    /// If the loader does, in the caller who started it.
    pub async fn get_or_set<'k, T, E, F>(
        &self,
        key: impl Into<Key<'k>>,
        timeout: impl Into<Timeout>,
        load: impl FnOnce() -> F + Send + 'static,
    ) -> Result<T, LoadError<E>>
    where
        T: Serialize + DeserializeOwned + Send + 'static,
        E: Display + Send + Sync + 'static,
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        self.through(key.into(), timeout.into(), false, |_| load()).await
    }

    /// As [`get_or_set`](Cache::get_or_set), with a loader that sees the stale value and has a say in how its own is
    /// kept: its timeout, its options, and tags that it finds out while loading.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Panics
    /// As there.
    pub async fn get_or_load<'k, T, E, F>(
        &self,
        key: impl Into<Key<'k>>,
        timeout: impl Into<Timeout>,
        load: impl FnOnce(Load<T>) -> F + Send + 'static,
    ) -> Result<T, LoadError<E>>
    where
        T: Serialize + DeserializeOwned + Send + 'static,
        E: Display + Send + Sync + 'static,
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        self.through(key.into(), timeout.into(), true, load).await
    }

    async fn through<T, E, F>(
        &self,
        key: Key<'_>,
        timeout: Timeout,
        may_discover: bool,
        load: impl FnOnce(Load<T>) -> F + Send + 'static,
    ) -> Result<T, LoadError<E>>
    where
        T: Serialize + DeserializeOwned + Send + 'static,
        E: Display + Send + Sync + 'static,
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        let cache = &self.blocking;
        let Some(wanted) = cache.wanted(&key, timeout, may_discover) else { return alone(load).await };
        let mut queue = Queue::new(wanted.final_key.clone(), wanted.options.max_wait);
        let mut first_look = None;
        loop {
            let found = match self.find(&key).await {
                Ok(found) => found,
                Err(error) => {
                    cache.pass_by(&key, &error);
                    break;
                }
            };
            let (next, again) = cache.next::<T>(&wanted, &found, first_look);
            let fallback = match next {
                Next::Serve(value) => {
                    queue.leave();
                    return Ok(value);
                }
                Next::Refresh(value) => {
                    self.refresh(wanted, queue, found, load);
                    return Ok(value);
                }
                Next::Load(fallback) => fallback,
            };
            first_look = Some(again);
            let patience = if fallback.is_some() { Patience::Hurries } else { Patience::Waits };
            if fill::is_loading(&wanted.final_key) {
                return served(fallback).ok_or_else(|| LoadError::Recursive { key: key.to_string() });
            }
            match self.take_turn(&mut queue, &key, found, patience).await {
                Step::Look => {}
                Step::Held => {
                    if let Some(value) = served(fallback) {
                        return Ok(value);
                    }
                }
                Step::Failed(error) => match error.downcast() {
                    Ok(error) => return Err(LoadError::Failed(error)),
                    // Somebody else's loader has another type of error: ours may tell more.
                    Err(_) => break,
                },
                Step::Alone => break,
                Step::Load(loading) => return self.load_in_task(wanted, *loading, fallback, load).await,
            }
        }
        self.or_stale(&wanted, alone(load).await).await
    }

    /// Loads in a task of its own, and waits for it as long as the limits allow.
    async fn load_in_task<T, E, F>(
        &self,
        wanted: Wanted,
        loading: Loading,
        fallback: Option<(T, Timestamp)>,
        load: impl FnOnce(Load<T>) -> F + Send + 'static,
    ) -> Result<T, LoadError<E>>
    where
        T: Serialize + DeserializeOwned + Send + 'static,
        E: Display + Send + Sync + 'static,
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        let has_fallback = fallback.is_some();
        let LoadOptions { soft_limit, hard_limit, .. } = wanted.options;
        let (cache, plan) = (self.clone(), wanted.clone());
        let load = async move { cache.load_and_keep(plan, loading, fallback, load, false).await };
        let mut task = tokio::spawn(fill::loading(load, [wanted.final_key.clone()]));
        let begun = Instant::now();
        if let Some(limit) = soft_limit.filter(|_| has_fallback) {
            match tokio::time::timeout(limit, &mut task).await {
                Ok(loaded) => return self.or_stale(&wanted, joined(loaded)).await,
                Err(_) => {
                    if let Some(value) = self.stale(&wanted).await {
                        return Ok(value);
                    }
                }
            }
        }
        let Some(limit) = hard_limit else { return self.or_stale(&wanted, joined(task.await)).await };
        match tokio::time::timeout(limit.saturating_sub(begun.elapsed()), &mut task).await {
            Ok(loaded) => self.or_stale(&wanted, joined(loaded)).await,
            Err(_) => self.or_stale(&wanted, Err(LoadError::TimedOut { key: wanted.key.to_string(), limit })).await,
        }
    }

    /// Returns what was loaded, or the stale value if that failed and the options allow it.
    async fn or_stale<T: DeserializeOwned, E>(
        &self,
        wanted: &Wanted,
        loaded: Result<T, LoadError<E>>,
    ) -> Result<T, LoadError<E>> {
        match loaded {
            Err(error) => self.stale(wanted).await.ok_or(error),
            loaded => loaded,
        }
    }

    /// Looks the stale value up once more: it may have been invalidated while its successor was loaded.
    async fn stale<T: DeserializeOwned>(&self, wanted: &Wanted) -> Option<T> {
        if wanted.options.stale_window().is_zero() {
            return None;
        }
        let found = self.find(&wanted.key).await.ok()?;
        self.blocking.usable(wanted, &found)
    }

    /// Loads a value again in the background, unless somebody does so already.
    fn refresh<T, E, F>(
        &self,
        wanted: Wanted,
        mut queue: Queue,
        found: Found,
        load: impl FnOnce(Load<T>) -> F + Send + 'static,
    ) where
        T: Serialize + DeserializeOwned + Send + 'static,
        E: Display + Send + Sync + 'static,
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        if fill::is_loading(&wanted.final_key) {
            return;
        }
        let cache = self.clone();
        let refresh = async move {
            let old = cache.blocking.old(&found);
            let turn = cache.take_turn(&mut queue, &wanted.key, found, Patience::Hurries).await;
            if let Step::Load(loading) = turn {
                // Its end is in the log; nobody waits for it.
                let key = wanted.final_key.clone();
                let _ = fill::loading(cache.load_and_keep(wanted, *loading, old, load, true), [key]).await;
            }
        };
        tokio::spawn(refresh);
    }

    async fn load_and_keep<T, E, F>(
        &self,
        wanted: Wanted,
        loading: Loading,
        old: Option<(T, Timestamp)>,
        load: impl FnOnce(Load<T>) -> F + Send + 'static,
        background: bool,
    ) -> Result<T, LoadError<E>>
    where
        T: Serialize,
        E: Display + Send + Sync + 'static,
        F: Future<Output = Result<T, E>> + Send,
    {
        let may_discover = wanted.may_discover;
        let opened = move |cache: &BlockingCache| Ok((loading.basis(&cache.scope.tags, may_discover), loading));
        let Ok((basis, loading)) = self.run(opened).await else { return alone(load).await };
        let choices = Choices::default();
        let begun = Instant::now();
        let loaded = load(Load::new(old, choices.clone())).await;
        let cost = begun.elapsed();
        match loaded {
            Ok(value) => {
                let content = self.blocking.encode(&wanted.key, &value);
                let keep = move |cache: &BlockingCache| {
                    cache.journal().note(&wanted.key, What::Loaded { cost, background });
                    cache.keep_loaded(&wanted, loading, content, basis, &choices.take(), cost);
                    Ok(())
                };
                // What does not come through is not stored, and the ticket released by its drop.
                let _ = self.try_run(keep).await;
                Ok(value)
            }
            Err(error) => {
                let error = Arc::new(error);
                let theirs = Arc::clone(&error);
                let fail = move |cache: &BlockingCache| {
                    cache.journal().note(&wanted.key, What::LoadFailed { cost, error: &theirs, background });
                    loading.fail(theirs, wanted.options.retry_after);
                    Ok(())
                };
                let _ = self.run(fail).await;
                Err(LoadError::Failed(error))
            }
        }
    }
}

impl BlockingCache {
    /// As [`Cache::get_or_set`]. The loader runs on the caller's thread, and so does a refresh: of the callers who meet a
    /// stale value one loads, the others are served. The limits of the options do not apply.
    ///
    /// # Errors
    /// As there.
    pub fn get_or_set<'k, T: Serialize + DeserializeOwned, E: Display + Send + Sync + 'static>(
        &self,
        key: impl Into<Key<'k>>,
        timeout: impl Into<Timeout>,
        load: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, LoadError<E>> {
        self.through(&key.into(), timeout.into(), false, |_| load())
    }

    /// As [`Cache::get_or_load`].
    ///
    /// # Errors
    /// As there.
    pub fn get_or_load<'k, T: Serialize + DeserializeOwned, E: Display + Send + Sync + 'static>(
        &self,
        key: impl Into<Key<'k>>,
        timeout: impl Into<Timeout>,
        load: impl FnOnce(Load<T>) -> Result<T, E>,
    ) -> Result<T, LoadError<E>> {
        self.through(&key.into(), timeout.into(), true, load)
    }

    fn through<T: Serialize + DeserializeOwned, E: Display + Send + Sync + 'static>(
        &self,
        key: &Key<'_>,
        timeout: Timeout,
        may_discover: bool,
        load: impl FnOnce(Load<T>) -> Result<T, E>,
    ) -> Result<T, LoadError<E>> {
        let alone = |load: Box<dyn FnOnce(Load<T>) -> Result<T, E> + '_>| {
            load(Load::new(None, Choices::default())).map_err(|error| LoadError::Failed(Arc::new(error)))
        };
        let Some(wanted) = self.wanted(key, timeout, may_discover) else { return alone(Box::new(load)) };
        let mut queue = Queue::new(wanted.final_key.clone(), wanted.options.max_wait);
        let mut first_look = None;
        loop {
            let found = match self.find(key) {
                Ok(found) => found,
                Err(error) => {
                    self.pass_by(key, &error);
                    break;
                }
            };
            let (next, again) = self.next::<T>(&wanted, &found, first_look);
            first_look = Some(again);
            let (old, is_optional) = match next {
                Next::Serve(value) => {
                    queue.leave();
                    return Ok(value);
                }
                Next::Refresh(value) => (Some((value, self.stored_at(&found))), true),
                Next::Load(old) => (old, false),
            };
            let patience = if old.is_some() { Patience::Hurries } else { Patience::Waits };
            if fill::is_loading(&wanted.final_key) {
                return served(old).ok_or_else(|| LoadError::Recursive { key: key.to_string() });
            }
            match self.take_turn(&mut queue, key, &found, patience) {
                Step::Look => {}
                Step::Held => {
                    if let Some(value) = served(old) {
                        return Ok(value);
                    }
                }
                Step::Failed(error) => match error.downcast() {
                    Ok(error) => return Err(LoadError::Failed(error)),
                    Err(_) => break,
                },
                Step::Alone if is_optional => {
                    return served(old).ok_or_else(|| LoadError::Recursive { key: key.to_string() });
                }
                Step::Alone => break,
                Step::Load(loading) => return self.load_here(&wanted, *loading, old, load),
            }
        }
        alone(Box::new(load)).or_else(|error| self.stale(&wanted).ok_or(error))
    }

    fn load_here<T: Serialize + DeserializeOwned, E: Display + Send + Sync + 'static>(
        &self,
        wanted: &Wanted,
        loading: Loading,
        old: Option<(T, Timestamp)>,
        load: impl FnOnce(Load<T>) -> Result<T, E>,
    ) -> Result<T, LoadError<E>> {
        let basis = loading.basis(&self.scope.tags, wanted.may_discover);
        let choices = Choices::default();
        let begun = Instant::now();
        let here = LoadingHere::new(&wanted.final_key);
        let loaded = load(Load::new(old, choices.clone()));
        drop(here);
        let cost = begun.elapsed();
        match loaded {
            Ok(value) => {
                self.journal().note(&wanted.key, What::Loaded { cost, background: false });
                let content = self.encode(&wanted.key, &value);
                self.keep_loaded(wanted, loading, content, basis, &choices.take(), cost);
                Ok(value)
            }
            Err(error) => {
                let error = Arc::new(error);
                self.journal().note(&wanted.key, What::LoadFailed { cost, error: &error, background: false });
                loading.fail(Arc::<E>::clone(&error), wanted.options.retry_after);
                self.stale(wanted).ok_or(LoadError::Failed(error))
            }
        }
    }

    fn stale<T: DeserializeOwned>(&self, wanted: &Wanted) -> Option<T> {
        if wanted.options.stale_window().is_zero() {
            return None;
        }
        self.usable(wanted, &self.find(&wanted.key).ok()?)
    }

    /// Says what is wanted; `None`, and a line in the log, if the key cannot be used.
    fn wanted(&self, key: &Key<'_>, timeout: Timeout, may_discover: bool) -> Option<Wanted> {
        let final_key = self.alias.keys.final_key(key, self.key_version());
        let final_key = final_key.map_err(|error| self.pass_by(key, &error)).ok()?;
        let options = self.load_options_or_default().clone();
        Some(Wanted { key: key.clone().into_owned(), final_key, timeout, options, may_discover })
    }

    /// Decides what a look-up means, and counts it: the first look of a caller as a hit or miss, a later one as the end
    /// of a wait.
    fn next<T: DeserializeOwned>(
        &self,
        wanted: &Wanted,
        found: &Found,
        first_look: Option<Instant>,
    ) -> (Next<T>, Instant) {
        let begun = first_look.unwrap_or_else(Instant::now);
        let now = self.alias.clock.now();
        let options = &wanted.options;
        let (hit, is_stale) = match &found.state {
            State::Fresh(hit) => (hit, false),
            State::Stale(hit) => (hit, true),
            State::Missing(reason) => {
                if first_look.is_none() {
                    self.journal().note(&wanted.key, What::Miss { reason, took: found.took });
                }
                return (Next::Load(None), begun);
            }
        };
        let missed = |reason| {
            if first_look.is_none() {
                self.journal().note(&wanted.key, What::Miss { reason: &reason, took: found.took });
            }
        };
        let Some(value) = codec::decode::<T>(&hit.content) else {
            missed(MissReason::OtherType);
            return (Next::Load(None), begun);
        };
        let stale_for = if is_stale { stale_for(hit, now) } else { Duration::ZERO };
        let may_serve = !is_stale || stale_for < options.stale_while_revalidate;
        if !may_serve {
            missed(MissReason::Expired);
            let fallback = (stale_for < options.stale_if_error).then(|| (value, hit.created.unwrap_or(now)));
            return (Next::Load(fallback), begun);
        }
        match first_look {
            None => self.journal().note(&wanted.key, as_hit(hit, found.took, is_stale)),
            Some(_) => self.journal().note(&wanted.key, What::Waited { took: begun.elapsed() }),
        }
        let is_due = is_stale || is_due_early(hit, options, now, || self.alias.chance.draw());
        let next = if is_due && !hit.is_held(now) { Next::Refresh(value) } else { Next::Serve(value) };
        (next, begun)
    }

    /// Returns a value that may be served instead of one that failed to load.
    fn usable<T: DeserializeOwned>(&self, wanted: &Wanted, found: &Found) -> Option<T> {
        let (hit, is_stale) = match &found.state {
            State::Fresh(hit) => (hit, false),
            State::Stale(hit) => (hit, true),
            State::Missing(_) => return None,
        };
        let is_usable = !is_stale || stale_for(hit, self.alias.clock.now()) < wanted.options.stale_window();
        let value = is_usable.then(|| codec::decode(&hit.content)).flatten();
        if value.is_some() {
            self.journal().note(&wanted.key, as_hit(hit, found.took, is_stale));
        }
        value
    }

    /// Returns the value that is about to be replaced, for its loader to see.
    fn old<T: DeserializeOwned>(&self, found: &Found) -> Option<(T, Timestamp)> {
        let (State::Fresh(hit) | State::Stale(hit)) = &found.state else { return None };
        Some((codec::decode(&hit.content)?, self.stored_at(found)))
    }

    fn stored_at(&self, found: &Found) -> Timestamp {
        let (State::Fresh(hit) | State::Stale(hit)) = &found.state else { return self.alias.clock.now() };
        hit.created.unwrap_or_else(|| self.alias.clock.now())
    }

    /// Stores what was loaded as caller and loader want it. Whatever comes in between is in the log; the value is the
    /// caller's anyway.
    fn keep_loaded(
        &self,
        wanted: &Wanted,
        loading: Loading,
        content: Result<Content>,
        basis: Result<crate::alias::Basis>,
        chosen: &Chosen,
        cost: Duration,
    ) {
        let options = chosen.options.as_ref().unwrap_or(&wanted.options);
        let (content, basis) = match (content, basis) {
            (Ok(content), Ok(basis)) if !chosen.do_not_store => (content, basis),
            (content, basis) => {
                match content.err().or(basis.err()) {
                    Some(error) => self.pass_by(&wanted.key, &error),
                    None => self.journal().note(&wanted.key, What::NotStored { reason: &"its loader said so" }),
                }
                return loading.give_up();
            }
        };
        let chosen_timeout = chosen.timeout.unwrap_or(wanted.timeout);
        let timeout = options.absent_timeout.filter(|_| codec::is_none(&content)).unwrap_or(chosen_timeout);
        let keep = Keep { timeout, stale_for: options.stale_window(), jitter: options.jitter, tags: Vec::new(), cost };
        if let Err(error) = loading.keep(&content, keep, basis, chosen.tags.clone()) {
            self.pass_by(&wanted.key, &error);
        }
    }
}

/// Loads without the cache.
async fn alone<T, E, F: Future<Output = Result<T, E>>>(load: impl FnOnce(Load<T>) -> F) -> Result<T, LoadError<E>> {
    load(Load::new(None, Choices::default())).await.map_err(|error| LoadError::Failed(Arc::new(error)))
}

/// Returns what a task loaded, and panics if it did.
pub(super) fn joined<T, E>(loaded: Result<Result<T, LoadError<E>>, tokio::task::JoinError>) -> Result<T, LoadError<E>> {
    loaded.unwrap_or_else(|error| match error.try_into_panic() {
        Ok(panic) => panic::resume_unwind(panic),
        Err(error) => panic::resume_unwind(Box::new(error.to_string())),
    })
}

fn served<T>(fallback: Option<(T, Timestamp)>) -> Option<T> {
    fallback.map(|(value, _)| value)
}

pub(crate) fn as_hit(hit: &Hit, took: Option<Duration>, stale: bool) -> What<'static> {
    What::Hit { stale, took, saved: hit.cost, bytes: hit.stored_bytes }
}

/// Returns for how long an entry has been stale.
pub(super) fn stale_for(hit: &Hit, now: Timestamp) -> Duration {
    match hit.fresh_until {
        Expiry::At(end) => now.saturating_since(end),
        Expiry::Never => Duration::ZERO,
    }
}

/// Tells whether a fresh entry is to be loaded again before its time.
fn is_due_early(hit: &Hit, options: &LoadOptions, now: Timestamp, draw: impl FnOnce() -> f64) -> bool {
    let (Some(created), Expiry::At(end)) = (hit.created, hit.fresh_end()) else { return false };
    let lifetime = end.saturating_since(created);
    let by_fraction =
        options.early_refresh.is_some_and(|fraction| now.saturating_since(created) >= lifetime.mul_f64(fraction));
    // XFetch: now - cost * beta * ln(draw) >= end, where the logarithm is not positive.
    let by_chance = options.early_beta > 0.0 && {
        let ahead = hit.cost.as_secs_f64() * options.early_beta * -draw().ln();
        end.saturating_since(now).as_secs_f64() <= ahead
    };
    by_fraction || by_chance
}
