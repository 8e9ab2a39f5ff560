//! What a database transaction that is open on a thread has to do with the caches that the thread uses.
//!
//! Others see what it changes when it is committed, and are told so then. Until then the thread itself must not find what
//! it has changed as it was before, and must not keep for others what it makes of what may yet be rolled back, or of a
//! snapshot that is older than the last invalidation.

use std::{cell::RefCell, collections::BTreeSet, marker::PhantomData};

use crate::key::{Key, Kind};

/// A transaction that is open on this thread, until it is dropped.
///
/// While there is one, values that are loaded on this thread are returned and not stored, and entries that it has
/// [changed](OpenTransaction::change) are missing. A library of models says so by itself; others say it by hand.
///
/// # Examples
/// ```
/// use larder_cache::{Caches, transaction::OpenTransaction};
///
/// let cache = Caches::local().default_cache().blocking();
/// cache.clone().tags(["object:7"]).set("title", "Crock", 60)?;
/// let transaction = OpenTransaction::begin();
/// transaction.change(["object:7"], []);
/// let read = || Ok::<_, std::io::Error>("Jam pan".to_owned());
/// assert_eq!(cache.get_or_set("title", 60, read)?, "Jam pan");
/// drop(transaction);
/// assert_eq!(cache.get::<String>("title")?.as_deref(), Some("Crock"), "it was rolled back");
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct OpenTransaction {
    /// Which of those of this thread.
    number: u64,
    /// It belongs to the thread that began it.
    _thread: PhantomData<*const ()>,
}

#[derive(Debug)]
struct Changed {
    number: u64,
    tags: BTreeSet<String>,
    keys: BTreeSet<String>,
}

thread_local! {
    static OPEN: RefCell<Vec<Changed>> = const { RefCell::new(Vec::new()) };
}

impl OpenTransaction {
    /// Says that a transaction begins.
    pub fn begin() -> Self {
        OPEN.with_borrow_mut(|open| {
            let number = open.last().map_or(0, |last| last.number + 1);
            open.push(Changed { number, tags: BTreeSet::new(), keys: BTreeSet::new() });
            OpenTransaction { number, _thread: PhantomData }
        })
    }

    /// Says what it has changed: what will be invalidated when it is committed.
    pub fn change<'n>(&self, tags: impl IntoIterator<Item = &'n str>, keys: impl IntoIterator<Item = &'n str>) {
        OPEN.with_borrow_mut(|open| {
            let Some(changed) = open.iter_mut().find(|changed| changed.number == self.number) else { return };
            changed.tags.extend(tags.into_iter().map(str::to_owned));
            changed.keys.extend(keys.into_iter().map(str::to_owned));
        });
    }
}

impl Drop for OpenTransaction {
    fn drop(&mut self) {
        OPEN.with_borrow_mut(|open| open.retain(|changed| changed.number != self.number));
    }
}

/// Says what was changed on this thread by whoever does not know in which transaction: each one that is open hides it.
/// Nothing if there is none.
pub fn change(tags: impl IntoIterator<Item = String>, keys: impl IntoIterator<Item = String>) {
    let (tags, keys): (BTreeSet<String>, BTreeSet<String>) = (tags.into_iter().collect(), keys.into_iter().collect());
    OPEN.with_borrow_mut(|open| {
        for changed in open {
            changed.tags.extend(tags.iter().cloned());
            changed.keys.extend(keys.iter().cloned());
        }
    });
}

/// Tells whether a transaction is open on this thread.
pub(crate) fn is_open() -> bool {
    OPEN.with_borrow(|open| !open.is_empty())
}

/// Tells whether one of them has changed an entry with this key and these tags.
pub(crate) fn has_changed<'n>(key: &Key<'_>, mut tags: impl Iterator<Item = &'n str>) -> bool {
    OPEN.with_borrow(|open| {
        let has_key = key.kind() == Kind::Value && open.iter().any(|changed| changed.keys.contains(key.label()));
        has_key || !open.is_empty() && tags.any(|tag| open.iter().any(|changed| changed.tags.contains(tag)))
    })
}
