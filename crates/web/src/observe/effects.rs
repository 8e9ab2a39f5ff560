//! What a write threw out of the caches, so that whoever wrote it can be told.

use std::cell::RefCell;

use larder_cache::events::{Event, Observer, What};
use serde::{Deserialize, Serialize};

/// How many names are kept for a message.
const MAX_NAMES: usize = 50;

thread_local! {
    /// The names of what was thrown out, while somebody on this thread wants to know.
    static NOTED: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// Notes what is invalidated on a thread, for [`noting`].
#[derive(Debug)]
pub struct Notes;

impl Observer for Notes {
    fn observe(&self, event: &Event<'_>) {
        let What::Invalidated { entries, removed, .. } = event.what else { return };
        NOTED.with_borrow_mut(|noted| {
            let Some(noted) = noted else { return };
            noted.extend(removed.iter().cloned());
            if let (true, 1.., Some(key)) = (removed.is_empty(), entries, event.key) {
                noted.push(key.to_string());
            }
        });
    }
}

/// Does something and returns what it threw out of the caches, as far as this process knows.
pub fn noting<T>(run: impl FnOnce() -> T) -> (T, Effects) {
    NOTED.set(Some(Vec::new()));
    let done = run();
    let noted = NOTED.take().unwrap_or_default();
    (done, Effects::of(noted))
}

/// What was thrown out of the caches.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Effects {
    /// In words: `1 key, 2 fragments and 3 pages`. Empty if it was nothing.
    pub summary: String,
    /// What each was.
    pub entries: Vec<Effect>,
    /// How many more there were.
    pub more: usize,
}

/// An entry that is gone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Effect {
    /// `page`, `fragment`, `key` or `tag`.
    pub kind: String,
    /// Its name: `/objects/7/`.
    pub name: String,
}

impl Effects {
    fn of(names: Vec<String>) -> Self {
        let effect = |name: &String| {
            let (kind, name) = name.split_once(' ').unwrap_or(("key", name));
            Effect { kind: kind.to_owned(), name: name.to_owned() }
        };
        let mut entries: Vec<Effect> = names.iter().map(effect).collect();
        entries.sort();
        entries.dedup();
        let counted = |kind: &str| {
            let count = entries.iter().filter(|entry| entry.kind == kind).count();
            (count > 0).then(|| format!("{count} {kind}{}", if count == 1 { "" } else { "s" }))
        };
        let parts: Vec<String> = ["key", "fragment", "page"].into_iter().filter_map(counted).collect();
        let summary = match parts.as_slice() {
            [] => String::new(),
            [one] => one.clone(),
            [first @ .., last] => format!("{} and {last}", first.join(", ")),
        };
        let more = entries.len().saturating_sub(MAX_NAMES);
        entries.truncate(MAX_NAMES);
        Effects { summary, entries, more }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gone_is_counted_by_kind() {
        let names = ["page /b/", "key objects", "page /a/", "page /a/", "fragment list of a, b"];
        let effects = Effects::of(names.map(str::to_owned).into());
        assert_eq!(effects.summary, "1 key, 1 fragment and 2 pages");
        let entries: Vec<_> = effects.entries.iter().map(|entry| &*entry.name).collect();
        assert_eq!(entries, ["list of a, b", "objects", "/a/", "/b/"]);
        assert_eq!(Effects::of(Vec::new()), Effects::default());
    }
}
