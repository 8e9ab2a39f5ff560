//! What this process did to its keys lately, so that it can be explained. Nothing depends on it.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{clock::Timestamp, key::Key, timeout::Expiry};

/// How many stores are remembered, and how many invalidations.
const MAX_STORED: usize = 5_000;
const MAX_INVALIDATIONS: usize = 1_000;

/// How much of a cause is remembered.
const MAX_CAUSE_CHARS: usize = 200;

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
    hashes: RandomState,
    stored: Mutex<Recent<(Timestamp, Expiry), MAX_STORED>>,
    invalidations: Mutex<Invalidations>,
}

#[derive(Debug, Default)]
struct Invalidations {
    keys: Recent<Because, MAX_INVALIDATIONS>,
    everything: Option<Because>,
}

type Because = (Option<Arc<str>>, Timestamp);

impl History {
    pub(super) fn stored(&self, key: &Key<'_>, at: Timestamp, until: Expiry) {
        lock(&self.stored).push(self.hashes.hash_one(key), (at, until));
    }

    pub(super) fn invalidated(&self, keys: &[Key<'_>], cause: Option<&str>, at: Timestamp) {
        let cause = shortened(cause);
        let mut invalidations = lock(&self.invalidations);
        for key in keys {
            invalidations.keys.push(self.hashes.hash_one(key), (cause.clone(), at));
        }
    }

    pub(super) fn cleared(&self, cause: Option<&str>, at: Timestamp) {
        lock(&self.invalidations).everything = Some((shortened(cause), at));
    }

    pub(super) fn last_stored(&self, key: &Key<'_>) -> Option<(Timestamp, Expiry)> {
        lock(&self.stored).get(self.hashes.hash_one(key)).copied()
    }

    pub(super) fn last_invalidation(&self, key: &Key<'_>) -> Option<Invalidation> {
        let invalidations = lock(&self.invalidations);
        let own = invalidations.keys.get(self.hashes.hash_one(key));
        let last = own.into_iter().chain(&invalidations.everything).max_by_key(|(_, at)| *at);
        last.map(|(cause, at)| Invalidation { cause: cause.as_deref().map(str::to_owned), at: *at })
    }
}

/// The last `N` things, found by the hash of their key, which costs less than to keep it and tells variants of a page
/// and values of a fragment apart. A hash that two keys share, one time in 10^12, misleads nobody but a person.
#[derive(Debug)]
struct Recent<T, const N: usize> {
    ring: Vec<(u64, T)>,
    next: usize,
    places: HashMap<u64, usize>,
}

impl<T, const N: usize> Default for Recent<T, N> {
    fn default() -> Self {
        Recent { ring: Vec::new(), next: 0, places: HashMap::new() }
    }
}

impl<T, const N: usize> Recent<T, N> {
    fn push(&mut self, hash: u64, thing: T) {
        match self.ring.get_mut(self.next) {
            None => self.ring.push((hash, thing)),
            Some(oldest) => {
                let (gone, _) = mem::replace(oldest, (hash, thing));
                // It may stand elsewhere too, from later.
                if self.places.get(&gone) == Some(&self.next) {
                    self.places.remove(&gone);
                }
            }
        }
        self.places.insert(hash, self.next);
        self.next = (self.next + 1) % N;
    }

    fn get(&self, hash: u64) -> Option<&T> {
        self.places.get(&hash).map(|place| &self.ring[*place].1)
    }
}

fn shortened(cause: Option<&str>) -> Option<Arc<str>> {
    cause.map(|cause| cause.chars().take(MAX_CAUSE_CHARS).collect::<String>().into())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn cause(history: &History, key: &Key<'_>) -> Option<Option<String>> {
        history.last_invalidation(key).map(|invalidation| invalidation.cause)
    }

    #[test]
    fn what_happened_to_all_keys_happened_to_each() {
        let history = History::default();
        history.invalidated(&["a".into(), "b".into()], Some("save"), at(1));
        assert_eq!(cause(&history, &"b".into()), Some(Some("save".to_owned())));
        assert_eq!(cause(&history, &"c".into()), None);
        history.cleared(Some("deploy"), at(2));
        for key in ["b", "c"] {
            assert_eq!(cause(&history, &key.into()), Some(Some("deploy".to_owned())));
        }
        history.invalidated(&[Key::tag("c")], Some(&"long".repeat(1000)), at(3));
        assert_eq!(cause(&history, &Key::tag("c")).unwrap().unwrap().len(), MAX_CAUSE_CHARS);
        assert_eq!(history.last_invalidation(&"c".into()).unwrap().at, at(2), "a tag is no key");
    }

    #[cfg(feature = "page")]
    #[test]
    fn variants_of_a_page_have_a_history_each() {
        let variant = |digest| Key::digested(crate::key::Kind::Page, "/", [digest; 32]);
        let history = History::default();
        history.stored(&variant(1), at(1), Expiry::Never);
        assert_eq!(history.last_stored(&variant(1)), Some((at(1), Expiry::Never)));
        assert_eq!(history.last_stored(&variant(2)), None);
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_goes_first() {
        let mut recent = Recent::<usize, 3>::default();
        for (hash, thing) in [(1, 10), (2, 20), (1, 11), (3, 30)] {
            recent.push(hash, thing);
        }
        assert_eq!([1, 2, 3].map(|hash| recent.get(hash).copied()), [Some(11), Some(20), Some(30)]);
        recent.push(4, 40);
        assert_eq!([1, 2, 3, 4].map(|hash| recent.get(hash).copied()), [Some(11), None, Some(30), Some(40)]);
        recent.push(5, 50);
        assert_eq!((recent.get(1), recent.ring.len(), recent.places.len()), (None, 3, 3));
    }
}
