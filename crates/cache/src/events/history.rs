//! What this process did to its keys lately, so that it can be explained. Nothing depends on it.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{
    clock::Timestamp,
    key::{Key, Kind},
    timeout::Expiry,
};

/// How many stored keys are remembered, and how many invalidations.
const MAX_STORED: usize = 5_000;
const MAX_INVALIDATIONS: usize = 1_000;

/// An invalidation of a key, a tag or everything by this process.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Invalidation {
    /// Who did it and why, as the caller said.
    pub cause: Option<String>,
    /// When.
    pub at: Timestamp,
}

#[derive(Debug, Default)]
pub(super) struct History {
    stored: Mutex<HashMap<Name, (Timestamp, Expiry)>>,
    invalidations: Mutex<VecDeque<(Concerns, Invalidation)>>,
}

type Name = (Kind, String);

/// What was invalidated; `None` for everything.
type Concerns = Option<Name>;

impl History {
    pub(super) fn stored(&self, key: &Key<'_>, at: Timestamp, until: Expiry) {
        let mut stored = lock(&self.stored);
        if stored.len() >= MAX_STORED {
            stored.clear();
        }
        stored.insert(named(key), (at, until));
    }

    pub(super) fn invalidated(&self, key: &Key<'_>, cause: Option<&str>, at: Timestamp) {
        self.push(Some(named(key)), cause, at);
    }

    pub(super) fn cleared(&self, cause: Option<&str>, at: Timestamp) {
        self.push(None, cause, at);
    }

    pub(super) fn last_stored(&self, key: &Key<'_>) -> Option<(Timestamp, Expiry)> {
        lock(&self.stored).get(&named(key)).copied()
    }

    pub(super) fn last_invalidation(&self, key: &Key<'_>) -> Option<Invalidation> {
        let wanted = named(key);
        let invalidations = lock(&self.invalidations);
        let concerns = |name: &Concerns| name.as_ref().is_none_or(|name| *name == wanted);
        invalidations.iter().rev().find(|(name, _)| concerns(name)).map(|(_, invalidation)| invalidation.clone())
    }

    fn push(&self, name: Concerns, cause: Option<&str>, at: Timestamp) {
        let mut invalidations = lock(&self.invalidations);
        if invalidations.len() >= MAX_INVALIDATIONS {
            invalidations.pop_front();
        }
        invalidations.push_back((name, Invalidation { cause: cause.map(str::to_owned), at }));
    }
}

fn named(key: &Key<'_>) -> Name {
    (key.kind(), key.label().to_owned())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
