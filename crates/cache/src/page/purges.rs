//! Purging all pages whose address begins alike, on stores that cannot list their keys.
//!
//! Each cache has a log of such purges under one key. A page remembers which purge was the last when its making began; it
//! is purged if the log has one for its address since, or no longer knows that one. So that a look-up costs no second read,
//! a log that was read is believed for [`BOUND`]; whoever purges waits that long before he says that it is done.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use serde::{Deserialize, Serialize};

use super::policy::request::without_default_port;
use crate::{
    BlockingCache, Cache, Error, Result,
    backend::Value,
    clock::Tick,
    codec::{self, Content, Format},
    envelope::Codec,
    generation::{BOUND, MARGIN},
    key::Key,
    tags,
};

/// How many purges a log remembers. Pages from before the oldest are taken for purged.
const MAX_PURGES: usize = 100;

/// How often a purge is written again because another one came in between.
const MAX_ROUNDS: usize = 100;

/// The purges of one cache, as far as this process knows.
#[derive(Debug, Default)]
pub(super) struct Purges {
    known: Mutex<Arc<Log>>,
    /// The last of them, for those who need to know no more.
    last: AtomicU64,
    /// Until which [`Tick`] that is believed; 0 if nothing is known.
    until: AtomicU64,
}

/// The purges since some beginning, the oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Log {
    purges: Vec<Purge>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Purge {
    /// Random, so that no log that was lost and begun again says what an older one said.
    id: u64,
    host: String,
    prefix: String,
}

impl Log {
    /// Returns which purge is the last.
    pub(super) fn last(&self) -> u64 {
        self.purges.last().map_or(0, |purge| purge.id)
    }

    /// Tells whether a page was purged that was begun when `last` was the last purge. The host is in small letters.
    pub(super) fn has_purged(&self, last: u64, host: &str, target: &str) -> bool {
        match self.purges.iter().position(|purge| purge.id == last) {
            Some(position) => self.purges[position + 1..].iter().any(|purge| purge.is_of(host, target)),
            None => true,
        }
    }

    /// Begins with a purge of nothing, so that there is one to remember.
    fn begun() -> Result<Self> {
        Ok(Log { purges: vec![Purge { id: tags::random()?, host: String::new(), prefix: String::new() }] })
    }

    /// Reads what was written; `None` if it is no log of this version.
    fn read(value: &Value) -> Option<Self> {
        let Value::Bytes(bytes) = value else { return None };
        codec::decode(&Content::Payload(Codec::MessagePack, bytes.clone()))
    }

    fn written(&self) -> Result<Value> {
        match codec::encode(&Key::purges(), self, Format::MessagePack)? {
            Content::Payload(_, bytes) => Ok(Value::Bytes(bytes)),
            Content::Integer(number) => Ok(Value::Integer(number)),
        }
    }

    fn with(&self, host: &str, prefix: &str) -> Result<Self> {
        let purge = Purge { id: tags::random()?, host: host.to_owned(), prefix: prefix.to_owned() };
        let kept = self.purges.len().saturating_sub(MAX_PURGES - 1);
        Ok(Log { purges: self.purges[kept..].iter().cloned().chain([purge]).collect() })
    }
}

impl Purge {
    fn is_of(&self, host: &str, target: &str) -> bool {
        without_default_port(&self.host) == without_default_port(host) && target.starts_with(&self.prefix)
    }
}

impl Purges {
    /// Returns which purge is the last, if that was read not long ago.
    pub(super) fn known_last(&self) -> Option<u64> {
        let until = self.until.load(Ordering::Acquire);
        (Tick::now().0 < until).then(|| self.last.load(Ordering::Relaxed))
    }

    /// Returns the log, read if it is not known.
    pub(super) async fn current(&self, cache: &Cache) -> Result<Arc<Log>> {
        if self.known_last().is_some() {
            return Ok(self.known());
        }
        let asked = Tick::now();
        let log = cache.try_run(first_or_present).await?;
        Ok(self.learn(log, asked))
    }

    /// Returns the log if nothing has to be waited for.
    pub(super) fn current_at_once(&self, cache: &Cache) -> Option<Arc<Log>> {
        if self.known_last().is_some() {
            return Some(self.known());
        }
        if cache.capabilities().blocking {
            return None;
        }
        let asked = Tick::now();
        let log = first_or_present(&cache.blocking()).ok()?;
        Some(self.learn(log, asked))
    }

    /// Purges the pages of a host whose target begins so. It is done when nobody [believes](believed) an older log.
    pub(super) async fn purge(&self, cache: &Cache, host: &str, prefix: &str) -> Result<()> {
        let (host, prefix) = (host.to_owned(), prefix.to_owned());
        let (log, asked) = cache.run(move |cache: &BlockingCache| write(cache, &host, &prefix)).await?;
        self.learn(log, asked);
        Ok(())
    }

    fn known(&self) -> Arc<Log> {
        Arc::clone(&self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn learn(&self, log: Log, asked: Tick) -> Arc<Log> {
        let until = asked.after(BOUND).0;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        // A slower reader must not bring back what a faster one has found to be over.
        if until >= self.until.load(Ordering::Relaxed) {
            if **known != log {
                *known = Arc::new(log);
            }
            self.last.store(known.last(), Ordering::Relaxed);
            self.until.store(until, Ordering::Release);
        }
        Arc::clone(&known)
    }
}

/// Waits until nobody believes a log that was read before.
pub(super) async fn believed() {
    tokio::time::sleep(BOUND + MARGIN).await;
}

/// Returns the log of a cache; begins one if there is none.
fn first_or_present(cache: &BlockingCache) -> Result<Log> {
    let old = cache.own(&Key::purges())?;
    if let Some(log) = old.as_ref().and_then(Log::read) {
        return Ok(log);
    }
    let begun = Log::begun()?;
    cache.replace_own(&Key::purges(), old.as_ref(), &begun.written()?)?;
    // Perhaps somebody else was faster; a store that keeps nothing has no pages either.
    Ok(cache.own(&Key::purges())?.as_ref().and_then(Log::read).unwrap_or(begun))
}

/// Writes a purge into the log. Nobody else's is lost.
fn write(cache: &BlockingCache, host: &str, prefix: &str) -> Result<(Log, Tick)> {
    for _ in 0..MAX_ROUNDS {
        let asked = Tick::now();
        let old = cache.own(&Key::purges())?;
        let log = match old.as_ref().and_then(Log::read) {
            Some(log) => log.with(host, prefix)?,
            None => Log::begun()?.with(host, prefix)?,
        };
        if cache.replace_own(&Key::purges(), old.as_ref(), &log.written()?)? {
            return Ok((log, asked));
        }
    }
    Err(Error::unavailable("the log of purges", "others purge by prefix all the time; try again"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_purged_by_what_came_after_it() {
        let begun = Log::begun().unwrap();
        let first = begun.with("a.test", "/objects/").unwrap();
        let second = first.with("a.test", "/").unwrap();
        let has = |log: &Log, last: &Log, host, target| log.has_purged(last.last(), host, target);
        assert!(!has(&begun, &begun, "a.test", "/objects/7/"));
        assert!(has(&first, &begun, "a.test", "/objects/7/?page=2"));
        assert!(!has(&first, &begun, "a.test", "/"));
        assert!(!has(&first, &begun, "b.test", "/objects/7/"));
        assert!(!has(&first, &first, "a.test", "/objects/7/"), "it was made after the purge");
        assert!(has(&second, &first, "a.test", "/x") && has(&second, &first, "a.test:80", "/x"));
        assert!(first.has_purged(1, "b.test", "/"), "nobody knows what was purged since");
    }

    #[test]
    fn a_log_forgets_the_oldest() {
        let mut log = Log::begun().unwrap();
        let begun = log.last();
        for number in 0..MAX_PURGES {
            log = log.with("a.test", &format!("/{number}/")).unwrap();
        }
        assert_eq!(log.purges.len(), MAX_PURGES);
        assert!(log.has_purged(begun, "b.test", "/"));
    }
}
