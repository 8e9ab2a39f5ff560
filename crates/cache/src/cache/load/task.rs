//! The async handle: loaders run in tasks of their own.

use std::{fmt::Display, panic, sync::Arc, time::Instant};

use serde::{Serialize, de::DeserializeOwned};

use super::{
    super::{
        BlockingCache, Cache,
        turn::{Loading, Patience, Queue, Step},
    },
    Next, Wanted, served,
};
use crate::{
    alias::Found,
    clock::Timestamp,
    dependencies::{self, Noted, Notes},
    error::Result,
    events::What,
    key::Key,
    load::{Choices, Load, LoadError, LoadOptions},
    timeout::Timeout,
};

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
        self.through(key.into(), timeout.into(), |_| load()).await
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
        self.through(key.into(), timeout.into(), load).await
    }

    async fn through<T, E, F>(
        &self,
        key: Key<'_>,
        timeout: Timeout,
        load: impl FnOnce(Load<T>) -> F + Send + 'static,
    ) -> Result<T, LoadError<E>>
    where
        T: Serialize + DeserializeOwned + Send + 'static,
        E: Display + Send + Sync + 'static,
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        let cache = &self.blocking;
        let Some(wanted) = cache.wanted(&key, timeout) else { return self.alone(timeout, load).await };
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
            if dependencies::is_making(&wanted.final_key) {
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
        self.or_stale(&wanted, self.alone(timeout, load).await).await
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
        let notes = Notes::seen_by(cache.capabilities().sharing);
        let noted = notes.clone();
        let load = async move { cache.load_and_keep(plan, loading, fallback, load, noted, false).await };
        let mut task = tokio::spawn(dependencies::making(load, [wanted.final_key.clone()], &notes));
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
        if dependencies::is_making(&wanted.final_key) {
            return;
        }
        let cache = self.clone();
        let refresh = async move {
            let old = cache.blocking.old(&found);
            let turn = cache.take_turn(&mut queue, &wanted.key, found, Patience::Hurries).await;
            if let Step::Load(loading) = turn {
                // Its end is in the log; nobody waits for it.
                let notes = Notes::seen_by(cache.capabilities().sharing);
                let key = wanted.final_key.clone();
                let load = cache.load_and_keep(wanted, *loading, old, load, notes.clone(), true);
                let _ = dependencies::making(load, [key], &notes).await;
            }
        };
        tokio::spawn(refresh);
    }

    /// Loads without the cache.
    async fn alone<T, E, F: Future<Output = Result<T, E>>>(
        &self,
        timeout: Timeout,
        load: impl FnOnce(Load<T>) -> F,
    ) -> Result<T, LoadError<E>> {
        let choices = Choices::default();
        let loaded = load(Load::new(None, choices.clone())).await;
        let chosen = choices.take(Noted::default());
        self.blocking.hand_on_loaded(chosen.timeout.unwrap_or(timeout), &chosen);
        loaded.map_err(|error| LoadError::Failed(Arc::new(error)))
    }

    async fn load_and_keep<T, E, F>(
        &self,
        wanted: Wanted,
        loading: Loading,
        old: Option<(T, Timestamp)>,
        load: impl FnOnce(Load<T>) -> F + Send + 'static,
        notes: Notes,
        background: bool,
    ) -> Result<T, LoadError<E>>
    where
        T: Serialize,
        E: Display + Send + Sync + 'static,
        F: Future<Output = Result<T, E>> + Send,
    {
        let opened = move |cache: &BlockingCache| Ok((loading.basis(&cache.scope.tags), loading));
        let Ok((basis, loading)) = self.run(opened).await else { return self.alone(wanted.timeout, load).await };
        let choices = Choices::default();
        let begun = Instant::now();
        let loaded = load(Load::new(old, choices.clone())).await;
        let cost = begun.elapsed();
        match loaded {
            Ok(value) => {
                let content = self.blocking.encode(&wanted.key, &value);
                let chosen = choices.take(notes.get());
                self.blocking.hand_on_loaded(wanted.timeout_for(&chosen, content.as_ref().ok()), &chosen);
                let keep = move |cache: &BlockingCache| {
                    cache.journal().note(&wanted.key, What::Loaded { cost, background });
                    cache.keep_loaded(&wanted, loading, content, basis, chosen, cost);
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

/// Returns what a task loaded, and panics if it did.
pub(super) fn joined<T, E>(loaded: Result<Result<T, LoadError<E>>, tokio::task::JoinError>) -> Result<T, LoadError<E>> {
    loaded.unwrap_or_else(|error| match error.try_into_panic() {
        Ok(panic) => panic::resume_unwind(panic),
        Err(error) => panic::resume_unwind(Box::new(error.to_string())),
    })
}
