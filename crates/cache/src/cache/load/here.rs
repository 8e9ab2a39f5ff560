//! The blocking handle: loaders run on the caller's thread.

use std::{fmt::Display, sync::Arc, time::Instant};

use serde::{Serialize, de::DeserializeOwned};

use super::{
    super::{
        BlockingCache,
        turn::{Loading, Patience, Queue, Step},
    },
    Next, Wanted, served,
};
use crate::{
    clock::Timestamp,
    dependencies::{self, Here, Noted, Notes},
    error::Result,
    events::What,
    key::Key,
    load::{Choices, Load, LoadError},
    timeout::Timeout,
};

impl BlockingCache {
    /// As [`Cache::get_or_set`](crate::Cache::get_or_set). The loader runs on the caller's thread, and so does a refresh:
    /// of the callers who meet a stale value one loads, the others are served. The limits of the options do not apply.
    ///
    /// # Errors
    /// As there.
    pub fn get_or_set<'k, T: Serialize + DeserializeOwned, E: Display + Send + Sync + 'static>(
        &self,
        key: impl Into<Key<'k>>,
        timeout: impl Into<Timeout>,
        load: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, LoadError<E>> {
        self.through(&key.into(), timeout.into(), |_| load())
    }

    /// As [`Cache::get_or_load`](crate::Cache::get_or_load).
    ///
    /// # Errors
    /// As there.
    pub fn get_or_load<'k, T: Serialize + DeserializeOwned, E: Display + Send + Sync + 'static>(
        &self,
        key: impl Into<Key<'k>>,
        timeout: impl Into<Timeout>,
        load: impl FnOnce(Load<T>) -> Result<T, E>,
    ) -> Result<T, LoadError<E>> {
        self.through(&key.into(), timeout.into(), load)
    }

    fn through<T: Serialize + DeserializeOwned, E: Display + Send + Sync + 'static>(
        &self,
        key: &Key<'_>,
        timeout: Timeout,
        load: impl FnOnce(Load<T>) -> Result<T, E>,
    ) -> Result<T, LoadError<E>> {
        let alone = |load: Box<dyn FnOnce(Load<T>) -> Result<T, E> + '_>| {
            let choices = Choices::default();
            let loaded = load(Load::new(None, choices.clone()));
            let chosen = choices.take(Noted::default());
            self.hand_on_loaded(chosen.timeout.unwrap_or(timeout), &chosen);
            loaded.map_err(|error| LoadError::Failed(Arc::new(error)))
        };
        let Some(wanted) = self.wanted(key, timeout) else { return alone(Box::new(load)) };
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
            if dependencies::is_making(&wanted.final_key) {
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
        let basis = loading.basis(&self.scope.tags);
        let choices = Choices::default();
        let begun = Instant::now();
        let notes = Notes::seen_by(self.alias.capabilities.sharing);
        let here = Here::making([wanted.final_key.clone()], &notes);
        let loaded = load(Load::new(old, choices.clone()));
        drop(here);
        let cost = begun.elapsed();
        match loaded {
            Ok(value) => {
                self.journal().note(&wanted.key, What::Loaded { cost, background: false });
                let content = self.encode(&wanted.key, &value);
                let chosen = choices.take(notes.get());
                self.hand_on_loaded(wanted.timeout_for(&chosen, content.as_ref().ok()), &chosen);
                self.keep_loaded(wanted, loading, content, basis, chosen, cost);
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
}
