//! The trait that every store implements, and the stores that come with the crate.
//!
//! A store keeps [`Value`]s under final keys until they expire. Prefixes, versions, tags, encodings and log lines
//! are none of its business: [`Cache`](crate::Cache) adds them above, so they are the same for all stores.

#[cfg(feature = "database")]
pub mod database;
pub mod dummy;
pub mod file;
pub(crate) mod guarded;
pub mod locmem;
#[cfg(feature = "memcached")]
pub mod memcached;
pub(crate) mod near;
mod options;
pub mod watch;

pub use options::{DEFAULT_CULL_FREQUENCY, DEFAULT_MAX_ENTRIES, Options};

use std::fmt;

use bytes::Bytes;

use self::watch::Watch;
use crate::{
    error::{Error, Result},
    timeout::Expiry,
};

/// What a store holds under one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A counter. Stores keep it in the form that their own `incr` understands.
    Integer(i64),
    /// Anything else, opaque to the store.
    Bytes(Bytes),
}

impl Value {
    /// Returns the bytes of the value: a counter is written in decimal.
    ///
    /// For stores that know bytes only. The cache's own envelopes never look like a number, so
    /// [`Value::from_bytes`] reads back what was written.
    pub fn to_bytes(&self) -> Bytes {
        match self {
            Value::Integer(number) => Bytes::from(number.to_string()),
            Value::Bytes(bytes) => bytes.clone(),
        }
    }

    /// Reads what [`Value::to_bytes`] wrote.
    pub fn from_bytes(bytes: Bytes) -> Self {
        let number = match bytes.first() {
            Some(b'-' | b'0'..=b'9') => std::str::from_utf8(&bytes).ok().and_then(|text| text.parse().ok()),
            _ => None,
        };
        number.map_or(Value::Bytes(bytes), Value::Integer)
    }

    /// Returns the size of the payload in bytes; a counter counts as eight.
    pub fn len(&self) -> usize {
        match self {
            Value::Integer(_) => size_of::<i64>(),
            Value::Bytes(bytes) => bytes.len(),
        }
    }

    /// Returns the counter after `delta` was added.
    ///
    /// # Errors
    /// [`Error::NotACounter`] if this is not a counter, or the sum leaves the range of `i64`.
    pub fn counted(&self, key: &str, delta: i64) -> Result<i64> {
        let reason = match self {
            Value::Bytes(_) => "its value is not an integer",
            Value::Integer(number) => match number.checked_add(delta) {
                Some(sum) => return Ok(sum),
                None => "the sum does not fit into 64 bits",
            },
        };
        Err(Error::NotACounter { key: key.to_owned(), reason })
    }

    /// Tells whether the payload is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A value with the time at which it expires.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What was stored.
    pub value: Value,
    /// When it stops to be there.
    pub expiry: Expiry,
}

/// What became of an entry since it was read; see [`Backend::get_changed`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changed {
    /// The key is missing.
    Missing,
    /// It is the entry that the stamp was given for.
    No,
    /// It is this one, with a stamp of its own if the store can give one.
    Yes(Entry, Option<u64>),
}

/// One item of [`Backend::replace_many`]: the arguments of [`Backend::replace`].
#[derive(Debug, Clone, Copy)]
pub struct Replacement<'a> {
    /// Where the value stands.
    pub key: &'a str,
    /// What must stand there.
    pub old: &'a Value,
    /// What shall.
    pub new: &'a Value,
    /// When the new value stops to be there.
    pub expiry: Expiry,
}

/// Who sees what one process stores; the narrowest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Sharing {
    /// This process alone.
    #[default]
    Process,
    /// All processes on this machine.
    Machine,
    /// All processes that reach the store.
    Network,
}

/// What the cache must know of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capabilities {
    /// Who sees what this process stores.
    pub sharing: Sharing,
    /// Whether an operation may wait for a disk, a lock or a network. Such a store is called on the blocking pool
    /// from async code, and stands behind a circuit breaker.
    pub blocking: bool,
    /// Whether the store keeps anything at all; the dummy store does not.
    pub stores: bool,
    /// The largest value that the store takes, in bytes.
    pub max_value_bytes: Option<usize>,
}

/// Numbers about a store, for people: name and value, in the order in which they are shown.
pub type Stats = Vec<(String, String)>;

/// A store of values by key.
///
/// Keys come ready: at most 250 bytes, without white space or control characters, with prefix and version in them.
/// An entry whose expiry has passed is missing for every method. Implementations are shared by all threads.
///
/// # Errors
/// Whatever the far side does wrong is [`Error::Unavailable`]; it counts against the
/// store's circuit breaker. A damaged entry is not an error but missing.
///
/// # Concurrency
/// `add`, `replace`, `touch` and `incr` are atomic against all other operations on their key, by every process that
/// shares the store. A batch is not: it is atomic for each of its keys.
///
/// # Examples
/// `examples/custom_backend.rs` writes one and registers it by name; the feature `conformance` has the suite that
/// proves it right.
pub trait Backend: Send + Sync + fmt::Debug + 'static {
    /// Tells what kind of store this is.
    fn capabilities(&self) -> Capabilities;

    /// Returns the entry of a key.
    fn get(&self, key: &str) -> Result<Option<Entry>>;

    /// Returns the entry of a key, unless it is still the one that `stamp` was given for. A near cache that must never be
    /// old asks so; the value need not travel again. A store that has no stamps gives none.
    fn get_changed(&self, key: &str, stamp: Option<u64>) -> Result<Changed> {
        let _ = stamp;
        Ok(self.get(key)?.map_or(Changed::Missing, |entry| Changed::Yes(entry, None)))
    }

    /// Stores a value, whatever was there before. If it fails, the old value must not survive.
    fn set(&self, key: &str, value: &Value, expiry: Expiry) -> Result<()>;

    /// Stores a value if the key is missing; tells whether it did.
    fn add(&self, key: &str, value: &Value, expiry: Expiry) -> Result<bool>;

    /// Replaces the value of a key if it still is `old`; tells whether it did. An expiry that has passed removes it.
    ///
    /// This is compare-and-swap by value, and what *tickets* rest on: whoever computes a value first puts a ticket under
    /// its key, by `add`, or by `replace` beside the stale value, and in the end replaces the ticket by the result. A
    /// deletion, another value or a flush meanwhile takes the ticket away, so what was computed before it is not stored
    /// after it. A ticket holds a random number of 64 bits; so one that is equal is the same one, and cannot have gone
    /// and come back in between. Other values that may come back need such a number too, or a caller who does not mind.
    ///
    /// # Errors
    /// [`Error::ValueTooLarge`] leaves the old value as it is. After [`Error::Unavailable`] the key may hold either value
    /// or none; an invalidation must not rest on this method.
    fn replace(&self, key: &str, old: &Value, new: &Value, expiry: Expiry) -> Result<bool>;

    /// Gives an entry a new expiry; tells whether there was one.
    fn touch(&self, key: &str, expiry: Expiry) -> Result<bool>;

    /// Removes an entry; tells whether there was one.
    fn delete(&self, key: &str) -> Result<bool>;

    /// Adds `delta`, which may be negative, to a counter and keeps its expiry. Returns the new value, or `None` if
    /// the key is missing.
    ///
    /// # Errors
    /// [`Error::NotACounter`] if the value is not an integer or the sum overflows.
    fn incr(&self, key: &str, delta: i64) -> Result<Option<i64>>;

    /// Removes everything from the store, other prefixes included.
    fn clear(&self) -> Result<()>;

    /// Returns the entries of several keys, in their order. One round trip where the store can.
    fn get_many(&self, keys: &[&str]) -> Result<Vec<Option<Entry>>> {
        keys.iter().map(|key| self.get(key)).collect()
    }

    /// Stores several values; returns the positions of those that failed. One round trip where the store can.
    fn set_many(&self, items: &[(&str, Value)], expiry: Expiry) -> Result<Vec<usize>> {
        let failed = |(position, (key, value)): (usize, &(&str, Value))| {
            self.set(key, value, expiry).is_err().then_some(position)
        };
        Ok(items.iter().enumerate().filter_map(failed).collect())
    }

    /// Stores those of several values whose keys are missing; tells for each whether it did. One round trip where the
    /// store can.
    ///
    /// `false` does not prove that the key is there: the value may be too large, or the key's [part](Backend::parts) of
    /// the store down.
    fn add_many(&self, items: &[(&str, Value)], expiry: Expiry) -> Result<Vec<bool>> {
        items.iter().map(|(key, value)| unless_too_large(self.add(key, value, expiry))).collect()
    }

    /// Replaces those of several values that still are as they were; tells for each whether it did. Two round trips
    /// where the store can.
    ///
    /// The keys differ from each other. `false` does not prove that the old value is gone: the new one may be too large,
    /// or the key's [part](Backend::parts) of the store down.
    fn replace_many(&self, items: &[Replacement<'_>]) -> Result<Vec<bool>> {
        let replace = |item: &Replacement<'_>| self.replace(item.key, item.old, item.new, item.expiry);
        items.iter().map(|item| unless_too_large(replace(item))).collect()
    }

    /// Removes several entries; returns how many there were. One round trip where the store can.
    fn delete_many(&self, keys: &[&str]) -> Result<usize> {
        keys.iter().try_fold(0, |count, key| Ok(count + usize::from(self.delete(key)?)))
    }

    /// Returns how many parts the store has that fail independently of each other; one unless it is spread over servers.
    fn parts(&self) -> usize {
        1
    }

    /// Returns which of the [`parts`](Backend::parts) a key lives on, counted from 0.
    fn part_of(&self, key: &str) -> usize {
        let _ = key;
        0
    }

    /// Begins to watch keys, if this store lies in this process's memory and counts what changes in it. Then what was read
    /// once need not be read again until something changed.
    fn watch(&self) -> Option<Watch> {
        None
    }

    /// Does what nobody waits for, such as delivering invalidations that failed. Called about once a second, on a thread
    /// of the cache's own, for stores that may block.
    fn maintain(&self) {}

    /// Returns numbers about the store for the operator.
    fn stats(&self) -> Result<Stats> {
        Ok(Stats::new())
    }
}

/// In a batch, a value that is too large must not hide what became of the others.
fn unless_too_large(done: Result<bool>) -> Result<bool> {
    match done {
        Err(Error::ValueTooLarge { .. }) => Ok(false),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_read_back_from_bytes_as_they_were_written() {
        for number in [0, 1, -1, i64::MAX, i64::MIN] {
            assert_eq!(Value::from_bytes(Value::Integer(number).to_bytes()), Value::Integer(number));
        }
        for bytes in ["", "-", "12a", "99999999999999999999", "LR\u{1}"] {
            let value = Value::Bytes(Bytes::from_static(bytes.as_bytes()));
            assert_eq!(Value::from_bytes(value.to_bytes()), value);
        }
    }
}
