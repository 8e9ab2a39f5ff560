//! Tags: names that many entries carry, so that one call makes all of them stale.
//!
//! A tag is a random 64-bit version under a key of its own. Entries remember the versions that their tags had before
//! their value was computed, and are valid while these are equal. Never a counter, never a time: a lost version
//! (evicted, flushed, restarted) is replaced by a new random one, so the loss invalidates and cannot resurrect.

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{
    backend::{Backend, Value},
    envelope::{TagList, TagVersion},
    error::{Error, Result},
    timeout::Expiry,
};

/// How many entries are remembered by tag for the log; beyond it their names are left out.
const MAX_REMEMBERED: usize = 10_000;

/// How many characters of the beginning and of the end of a name are remembered. What visitors send shall not fill the
/// memory, and long addresses differ at their end.
const HEAD_CHARS: usize = 150;
const TAIL_CHARS: usize = 50;

/// Reads the versions of tags, and gives those a version that have none.
///
/// Call it before reading the data that the value is computed from: an invalidation in between then wins.
pub(crate) fn versions(store: &dyn Backend, names: &[String], keys: &[String]) -> Result<Vec<TagVersion>> {
    let key_refs: Vec<&str> = keys.iter().map(String::as_str).collect();
    let known = store.get_many(&key_refs)?;
    let with_versions = names.iter().zip(keys).zip(known);
    with_versions
        .map(|((name, key), entry)| {
            let version = match entry.map(|entry| entry.value) {
                Some(Value::Integer(number)) => number,
                _ => first_version(store, key)?,
            };
            Ok(TagVersion { name: name.clone(), version: version.cast_unsigned() })
        })
        .collect()
}

/// Returns a random number that nobody else has drawn.
pub(crate) fn random() -> Result<u64> {
    getrandom::u64().map_err(|error| Error::unavailable("the system's random source", error.to_string()))
}

/// Gives a tag its first version; if somebody else does so at the same time, theirs counts.
fn first_version(store: &dyn Backend, key: &str) -> Result<i64> {
    let version = random()?.cast_signed();
    if store.add(key, &Value::Integer(version), Expiry::Never)? {
        return Ok(version);
    }
    match store.get(key)?.map(|entry| entry.value) {
        Some(Value::Integer(theirs)) => Ok(theirs),
        // The tag was invalidated in this very moment, or holds something that is no version: ours matches nothing.
        _ => Ok(version),
    }
}

/// Which entries this process stored under each tag, so that the log can name what an invalidation removed.
///
/// For people only: no decision depends on it.
#[derive(Debug, Default)]
pub(crate) struct Remembered {
    entries: Mutex<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    by_tag: HashMap<String, BTreeSet<String>>,
    count: usize,
    /// Whether there were too many once.
    has_forgotten: bool,
}

impl Remembered {
    pub(crate) fn note(&self, tags: &TagList, entry: &str) {
        let mut entries = self.lock();
        if entries.count >= MAX_REMEMBERED {
            *entries = Entries { has_forgotten: true, ..Entries::default() };
        }
        let entry = cut(entry);
        for (tag, _) in tags.iter() {
            let is_new = entries.by_tag.entry(tag.to_owned()).or_default().insert(entry.clone().into_owned());
            entries.count += usize::from(is_new);
        }
    }

    pub(crate) fn take(&self, tag: &str) -> BTreeSet<String> {
        let mut entries = self.lock();
        let taken = entries.by_tag.remove(tag).unwrap_or_default();
        entries.count -= taken.len();
        taken
    }

    pub(crate) fn clear(&self) {
        *self.lock() = Entries::default();
    }

    /// Tells whether entries may be stored that are not remembered, though this process stored them.
    pub(crate) fn has_forgotten(&self) -> bool {
        self.lock().has_forgotten
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Leaves the middle out of a long name.
fn cut(name: &str) -> Cow<'_, str> {
    let chars = name.chars().count();
    if chars <= HEAD_CHARS + TAIL_CHARS {
        return name.into();
    }
    let head = name.chars().take(HEAD_CHARS).chain(['…']);
    head.chain(name.chars().skip(chars - TAIL_CHARS)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_bounded() {
        let remembered = Remembered::default();
        let tags = TagList::new(&[TagVersion { name: "object:7".to_owned(), version: 1 }]);
        let long = format!("page /{}/", "ä".repeat(5_000));
        remembered.note(&tags, &long);
        remembered.note(&tags, "page /short/");
        let names = remembered.take("object:7");
        assert!(names.contains("page /short/"));
        assert!(names.iter().all(|name| name.chars().count() <= HEAD_CHARS + 1 + TAIL_CHARS), "{names:?}");
        assert!(names.iter().any(|name| name.starts_with("page /ää") && name.contains('…') && name.ends_with("ää/")));

        assert!(!remembered.has_forgotten());
        for number in 0..=MAX_REMEMBERED {
            remembered.note(&tags, &number.to_string());
        }
        assert!(remembered.has_forgotten());
        assert_eq!(remembered.take("object:7").len(), 1);
        remembered.clear();
        assert!(!remembered.has_forgotten());
    }
}
