//! A store that keeps nothing: for development, and for switching a cache off without touching the code that uses it.
//!
//! | | |
//! | --- | --- |
//! | shared | there is nothing to share |
//! | survives a restart | no |
//! | atomic `add`, `incr` | `add` always succeeds, `incr` never finds its key |
//! | eviction | at once |
//! | key and value limit | none |
//! | finest timeout | none |

use super::{Backend, Capabilities, Entry, Sharing, Value};
use crate::{error::Result, timeout::Expiry};

/// A store that keeps nothing and answers as if everything had expired.
///
/// # Examples
/// ```
/// use larder_cache::{Expiry, backend::{Backend, Value, dummy::Dummy}};
///
/// # fn main() -> larder_cache::Result<()> {
/// let store = Dummy::new();
/// assert!(store.add("answer", &Value::Integer(42), Expiry::Never)?);
/// assert_eq!(store.get("answer")?, None);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct Dummy;

impl Dummy {
    /// Returns the store.
    pub const fn new() -> Self {
        Dummy
    }
}

impl Backend for Dummy {
    fn capabilities(&self) -> Capabilities {
        Capabilities { sharing: Sharing::Process, blocking: false, stores: false, max_value_bytes: None }
    }

    fn get(&self, _: &str) -> Result<Option<Entry>> {
        Ok(None)
    }

    fn set(&self, _: &str, _: &Value, _: Expiry) -> Result<()> {
        Ok(())
    }

    fn add(&self, _: &str, _: &Value, _: Expiry) -> Result<bool> {
        Ok(true)
    }

    fn touch(&self, _: &str, _: Expiry) -> Result<bool> {
        Ok(false)
    }

    fn delete(&self, _: &str) -> Result<bool> {
        Ok(false)
    }

    fn incr(&self, _: &str, _: i64) -> Result<Option<i64>> {
        Ok(None)
    }

    fn clear(&self) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_answers_as_if_everything_had_expired() {
        let store = Dummy::new();
        let one = Value::Integer(1);
        store.set("k", &one, Expiry::Never).unwrap();
        assert_eq!(store.get("k").unwrap(), None);
        assert!(store.add("k", &one, Expiry::Never).unwrap());
        assert!(store.add("k", &one, Expiry::Never).unwrap());
        assert!(!store.touch("k", Expiry::Never).unwrap());
        assert!(!store.delete("k").unwrap());
        assert_eq!(store.incr("k", 1).unwrap(), None);
        store.clear().unwrap();
        assert_eq!(store.get_many(&["k", "l"]).unwrap(), [None, None]);
        assert!(store.set_many(&[("k", one)], Expiry::Never).unwrap().is_empty());
        assert_eq!(store.delete_many(&["k"]).unwrap(), 0);
    }
}
