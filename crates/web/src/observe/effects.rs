//! What a write threw out of the caches, so that whoever wrote it can be told.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

use larder_cache::{
    Kind,
    events::{Event, Observer, What},
};
use serde::{Deserialize, Serialize};

/// How many names are kept for a message.
const MAX_NAMES: usize = 50;

thread_local! {
    /// What was thrown out, while somebody on this thread wants to know.
    static NOTED: RefCell<Option<Noted>> = const { RefCell::new(None) };
}

/// What was thrown out so far.
#[derive(Debug, Default)]
struct Noted {
    /// Kind and name of each, and the tag that it went with.
    entries: BTreeMap<(String, String), Option<String>>,
    may_be_more: bool,
    /// The caches that have not heard of it yet.
    waiting: BTreeSet<String>,
}

/// Notes what is invalidated on a thread, for [`noting`].
#[derive(Debug)]
pub struct Notes;

impl Observer for Notes {
    fn wants_look_ups(&self) -> bool {
        false
    }

    fn observe(&self, event: &Event<'_>) {
        if !matches!(event.what, What::Invalidated { .. } | What::InvalidationFailed { .. }) {
            return;
        }
        NOTED.with_borrow_mut(|noted| {
            let Some(noted) = noted else { return };
            match event.what {
                What::Invalidated { entries, removed, may_be_more, .. } => match event.key {
                    Some(key) if key.kind() != Kind::Tag => {
                        // One that is named is either there or not.
                        if entries > 0 {
                            noted.entries.insert((key.kind().field().to_owned(), key.label().to_owned()), None);
                        }
                    }
                    tag => {
                        for (kind, name) in removed.iter().filter_map(|name| name.split_once(' ')) {
                            let entry = noted.entries.entry((kind.to_owned(), name.to_owned()));
                            entry.or_insert_with(|| tag.map(|tag| tag.label().to_owned()));
                        }
                        noted.may_be_more |= may_be_more;
                    }
                },
                What::InvalidationFailed { .. } => {
                    noted.waiting.insert(event.alias.to_owned());
                }
                _ => {}
            }
        });
    }
}

/// Puts back what was noted before, whatever happens meanwhile.
struct Restore(Option<Noted>);

impl Drop for Restore {
    fn drop(&mut self) {
        NOTED.set(self.0.take());
    }
}

/// Does something and returns what it threw out of the caches, as far as this process knows.
pub fn noting<T>(run: impl FnOnce() -> T) -> (T, Effects) {
    let _before = Restore(NOTED.replace(Some(Noted::default())));
    let done = run();
    (done, Effects::of(NOTED.take().unwrap_or_default()))
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
    /// Whether there may be some that this process does not know: others stored them, or it forgot them.
    pub may_be_more: bool,
    /// The caches that do not answer, and hear of it once they do.
    pub waiting: Vec<String>,
}

/// An entry that is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Effect {
    /// `page`, `fragment` or `key`.
    pub kind: String,
    /// Its name: `/objects/7/`.
    pub name: String,
    /// The address of a page, if its name is one.
    pub href: Option<String>,
    /// The tag that it carried and that was invalidated; none if it was named itself.
    pub tag: Option<String>,
}

impl Effects {
    fn of(noted: Noted) -> Self {
        let counted = |kind: &str| {
            let count = noted.entries.keys().filter(|(of, _)| of == kind).count();
            (count > 0).then(|| format!("{count} {kind}{}", if count == 1 { "" } else { "s" }))
        };
        let parts: Vec<String> = ["key", "fragment", "page"].into_iter().filter_map(counted).collect();
        let summary = match parts.as_slice() {
            [] => String::new(),
            [one] => one.clone(),
            [first @ .., last] => format!("{} and {last}", first.join(", ")),
        };
        let more = noted.entries.len().saturating_sub(MAX_NAMES);
        let effect = |((kind, name), tag): ((String, String), Option<String>)| {
            // Long names are not whole.
            let is_path = name.starts_with('/') && !name.starts_with("//") && !name.contains('…');
            Effect { href: (kind == "page" && is_path).then(|| name.clone()), kind, name, tag }
        };
        Effects {
            summary,
            entries: noted.entries.into_iter().take(MAX_NAMES).map(effect).collect(),
            more,
            may_be_more: noted.may_be_more,
            waiting: noted.waiting.into_iter().collect(),
        }
    }

    /// Leaves the names out, for those who may not see what is in the caches.
    #[must_use]
    pub fn without_names(self) -> Self {
        Effects { entries: Vec::new(), more: 0, ..self }
    }

    /// Tells whether nothing was thrown out that this process knows of.
    pub fn is_nothing(&self) -> bool {
        self.summary.is_empty() && self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use larder_cache::{Caches, settings::AliasSettings};

    use super::*;

    #[test]
    fn what_is_gone_is_counted_by_kind() {
        let names = ["page /b/", "key objects", "page //evil.test/", "fragment list of a, b"];
        let entries =
            names.map(|name| name.split_once(' ').unwrap()).map(|(kind, name)| ((kind.into(), name.into()), None));
        let effects = Effects::of(Noted { entries: entries.into(), ..Noted::default() });
        assert_eq!(effects.summary, "1 key, 1 fragment and 2 pages");
        let shown: Vec<_> = effects.entries.iter().map(|entry| (&*entry.name, entry.href.as_deref())).collect();
        let expected = [("list of a, b", None), ("objects", None), ("//evil.test/", None), ("/b/", Some("/b/"))];
        assert_eq!(shown, expected);
        assert!(Effects::of(Noted::default()).is_nothing());
    }

    #[test]
    fn keys_and_tags_are_noted_while_somebody_wants_to_know() {
        let caches = Caches::builder().alias("default", AliasSettings::default()).observer(Notes).build().unwrap();
        let cache = caches.default_cache().blocking();
        let set = |key: &'static str| cache.clone().tags(["object:7"]).set(key, "value", 60).unwrap();
        set("two words");
        set("b");
        set("c");
        let ((), effects) = noting(|| {
            cache.delete("two words").unwrap();
            cache.delete("was never there").unwrap();
            cache.invalidate_tags(["object:7"]).unwrap();
        });
        assert_eq!(effects.summary, "3 keys");
        let whys: Vec<_> = effects.entries.iter().map(|entry| (&*entry.name, entry.tag.as_deref())).collect();
        assert_eq!(whys, [("b", Some("object:7")), ("c", Some("object:7")), ("two words", None)]);
        assert!(!effects.may_be_more, "it is this process's own memory");
        cache.delete("b").unwrap();
        let panicked = std::panic::catch_unwind(|| noting(|| panic!("on purpose")));
        assert!(panicked.is_err());
        set("d");
        cache.delete("d").unwrap();
        assert!(noting(|| ()).1.is_nothing(), "nothing is left of what others did");
    }
}
