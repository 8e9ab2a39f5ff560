//! A store that keeps nothing, for tests and for comparison: the same site without a cache.
//!
//! | | |
//! | --- | --- |
//! | shared | there is nothing to share |
//! | survives a restart | nothing does |
//! | atomic `add`, `replace`, `touch`, `incr` | they do nothing |
//! | eviction, limits, finest timeout | none |

use super::{Backend, Capabilities, Entry, Sharing, Value};
use crate::{error::Result, timeout::Expiry};

/// A store that keeps nothing: every read misses, every write succeeds.
///
/// # Examples
/// ```
/// use larder_cache::{Expiry, backend::{Backend, Value, dummy::Dummy}};
///
/// assert!(Dummy.add(":1:key", &Value::Integer(1), Expiry::Never)?);
/// assert_eq!(Dummy.get(":1:key")?, None);
/// # Ok::<_, larder_cache::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct Dummy;

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

    fn replace(&self, _: &str, _: &Value, _: &Value, _: Expiry) -> Result<bool> {
        Ok(false)
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
