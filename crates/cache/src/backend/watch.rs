//! Learning that nothing has changed without asking for it again.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use smallvec::SmallVec;

/// Over how many counters keys are spread.
const COUNTERS: usize = 1024;

/// Counts the changes of a store's keys. Several keys share a counter: one that has moved on says that a key may have
/// changed, one that has not says that none of its keys has.
#[derive(Debug, Clone)]
pub struct Changes(Arc<[AtomicU64; COUNTERS]>);

impl Changes {
    /// Makes counters for a store, which has to count each change after it was made and before it says so.
    pub fn new() -> Self {
        Changes(Arc::new([const { AtomicU64::new(0) }; COUNTERS]))
    }

    /// Counts a change of one key.
    pub fn count(&self, key: &str) {
        self.0[spread(key) % COUNTERS].fetch_add(1, Ordering::Release);
    }

    /// Counts a change of every key.
    pub fn count_all(&self) {
        for counter in &*self.0 {
            counter.fetch_add(1, Ordering::Release);
        }
    }

    /// Begins to watch, no key as yet.
    pub fn watch(&self) -> Watch {
        Watch { changes: self.clone(), counters: SmallVec::new(), sum: 0 }
    }
}

impl Default for Changes {
    fn default() -> Self {
        Self::new()
    }
}

/// Watches some keys of a store.
///
/// # Examples
/// ```
/// use larder_cache::backend::watch::Changes;
///
/// let changes = Changes::new();
/// let mut watch = changes.watch();
/// watch.add("object:7");
/// assert!(watch.is_unchanged());
/// changes.count("object:7");
/// assert!(!watch.is_unchanged());
/// ```
#[derive(Debug, Clone)]
pub struct Watch {
    changes: Changes,
    counters: SmallVec<[u16; 8]>,
    /// What they added up to. Counters only grow, so the sum is the same only if each of them is.
    sum: u64,
}

impl Watch {
    /// Watches one more key. What is read of it afterwards holds as long as the watch says so.
    pub fn add(&mut self, key: &str) {
        let counter = spread(key) % COUNTERS;
        self.counters.push(u16::try_from(counter).unwrap_or(0));
        self.sum = self.sum.wrapping_add(self.changes.0[counter].load(Ordering::Acquire));
    }

    /// Tells whether each of the keys is as it was when the watch began for it.
    pub fn is_unchanged(&self) -> bool {
        let counts = self.counters.iter().map(|counter| self.changes.0[usize::from(*counter)].load(Ordering::Acquire));
        counts.fold(0, u64::wrapping_add) == self.sum
    }
}

/// Returns a number that spreads keys. Their ends are where they differ.
pub(super) fn spread(key: &str) -> usize {
    let tail = key.as_bytes().iter().rev().take(8);
    tail.fold(0, |sum: usize, byte| sum.wrapping_mul(31).wrapping_add(usize::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_notices_a_change_of_any_of_its_keys_and_of_all() {
        let changes = Changes::new();
        let watch = |keys: &[&str]| {
            let mut watch = changes.watch();
            keys.iter().for_each(|key| watch.add(key));
            watch
        };
        let (one, both, other) = (watch(&[":1:object"]), watch(&[":1:list", ":1:object"]), watch(&[":1:objects"]));
        assert!(one.is_unchanged() && both.is_unchanged());
        changes.count(":1:object");
        assert!(!one.is_unchanged() && !both.is_unchanged());
        assert!(other.is_unchanged());
        changes.count_all();
        assert!(!other.is_unchanged());
    }
}
