//! The keys that this process stored lately: for stores that cannot list theirs.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex},
    time::Duration,
};

use larder_cache::{
    Key,
    events::{Event, Observer, What},
};
use serde::Serialize;

use super::lock;
use crate::{state::now_millis, text::cut};

/// How many keys are remembered, of all aliases together.
const MAX_KEYS: usize = 1000;

/// How much of a label is shown.
const MAX_LABEL_CHARS: usize = 300;

/// The keys, by their name in addresses.
#[derive(Debug, Clone, Default)]
pub struct Seen(Arc<Mutex<HashMap<String, Entry>>>);

#[derive(Debug, Clone)]
struct Entry {
    alias: String,
    key: Key<'static>,
    line: Line,
}

/// A key, as a page lists it.
#[derive(Debug, Clone, Serialize)]
pub struct Line {
    /// Its name in addresses.
    pub name: String,
    /// `key`, `fragment` or `page`.
    pub kind: &'static str,
    /// Its name for people.
    pub label: String,
    /// When it was stored, in unix milliseconds.
    pub at: i64,
    /// How many bytes it took.
    pub bytes: usize,
    /// How long it took to make.
    pub cost: Duration,
}

impl Seen {
    /// Returns a key that was stored under an alias.
    pub fn key(&self, alias: &str, name: &str) -> Option<Key<'static>> {
        lock(&self.0).get(name).filter(|entry| entry.alias == alias).map(|entry| entry.key.clone())
    }

    /// Returns what was stored under an alias, the last first.
    pub fn lines(&self, alias: &str) -> Vec<Line> {
        let mut lines: Vec<Line> =
            lock(&self.0).values().filter(|entry| entry.alias == alias).map(|entry| entry.line.clone()).collect();
        lines.sort_by(|one, two| two.at.cmp(&one.at).then_with(|| one.label.cmp(&two.label)));
        lines
    }
}

impl Observer for Seen {
    fn wants_look_ups(&self) -> bool {
        false
    }

    fn observe(&self, event: &Event<'_>) {
        let (What::Stored { bytes, cost, .. }, Some(key)) = (event.what, event.key) else { return };
        let name = name(event.alias, key);
        let line = Line {
            name: name.clone(),
            kind: key.kind().field(),
            label: cut(key.label(), MAX_LABEL_CHARS).into_owned(),
            at: now_millis(),
            bytes,
            cost,
        };
        let mut seen = lock(&self.0);
        if seen.len() >= MAX_KEYS && !seen.contains_key(&name) {
            forget_oldest(&mut seen);
        }
        seen.insert(name, Entry { alias: event.alias.to_owned(), key: key.clone().into_owned(), line });
    }
}

/// Forgets a tenth, so that it is not done for each key.
fn forget_oldest(seen: &mut HashMap<String, Entry>) {
    let mut times: Vec<i64> = seen.values().map(|entry| entry.line.at).collect();
    let (_, limit, _) = times.select_nth_unstable(MAX_KEYS / 10);
    let limit = *limit;
    let mut left = MAX_KEYS / 10 + 1;
    seen.retain(|_, entry| {
        let goes = entry.line.at <= limit && left > 0;
        left -= usize::from(goes);
        !goes
    });
}

fn name(alias: &str, key: &Key<'_>) -> String {
    let mut hasher = DefaultHasher::new();
    (alias, key).hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

#[cfg(test)]
mod tests {
    use larder_cache::{Caches, settings::AliasSettings};

    use super::*;

    #[test]
    fn what_was_stored_is_listed_up_to_a_number() {
        let seen = Seen::default();
        let caches =
            Caches::builder().alias("default", AliasSettings::default()).observer(seen.clone()).build().unwrap();
        let cache = caches.default_cache().blocking();
        cache.set("title", "Crock", 60).unwrap();
        assert_eq!(cache.get::<String>("title").unwrap().as_deref(), Some("Crock"));
        let [line] = seen.lines("default").try_into().unwrap();
        assert_eq!((line.kind, &*line.label), ("key", "title"));
        assert_eq!(seen.key("default", &line.name), Some("title".into()));
        assert_eq!(seen.key("another", &line.name), None);
        for number in 0..2 * MAX_KEYS {
            cache.set(format!("key {number}"), &number, 60).unwrap();
        }
        let lines = seen.lines("default");
        assert!((MAX_KEYS / 2..=MAX_KEYS).contains(&lines.len()), "{}", lines.len());
        assert!(lines.iter().any(|line| line.label == format!("key {}", 2 * MAX_KEYS - 1)));
    }
}
