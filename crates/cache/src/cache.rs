//! The low-level API: any value under a key, with Django's verbs.
//!
//! [`Cache`] is async, [`BlockingCache`] is the same table of verbs for templates, hooks and the command line. Both
//! are cheap handles on one alias of the settings. `version`, `tags` and `because` return a handle that does the same
//! with another version, with tags on what it stores, or with a cause in its log lines.
//!
//! # Differences from Django
//! - A cached `None` is told from a miss: `get` returns `Option<T>`, so use `get::<Option<T>>`.
//! - `incr`, `decr`, `incr_version` and `decr_version` keep the timeout on every store, and `touch` never brings an
//!   expired value back.
//! - Counters are signed on every store.
//! - Keys are limited to 250 bytes, not characters; longer ones are digested unless the settings refuse them.
//! - A read never fails because the store does: it is a miss. A write or deletion that did not reach the store is an
//!   error, and the deletion is kept and delivered when the store answers again.
//! - `delete` tells whether the store had an entry that had not expired, be it stale by a tag.

mod blocking;
mod gather;
mod load;
mod turn;

use std::{
    collections::HashMap,
    sync::{Arc, Weak, atomic::Ordering},
};

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use self::gather::{Gather, PATIENCE};
#[cfg(feature = "page")]
use crate::alias::Watched;
use crate::{
    alias::{Alias, Copies, Found},
    backend::{Capabilities, Stats},
    codec::{self, Content, Format},
    dependencies::{self, There},
    envelope::Codec,
    error::{Error, Result},
    events::{Counted, Counts, GroupStats},
    explain::Explanation,
    key::Key,
    load::LoadOptions,
    timeout::Timeout,
};

pub use blocking::BlockingCache;
#[cfg(feature = "template")]
pub(crate) use load::Use;
pub(crate) use load::as_hit;
#[cfg(any(feature = "page", feature = "template"))]
pub(crate) use turn::{Loading, Patience, Queue, Step};

/// How many operations of one alias may wait for a blocking store at once.
pub(crate) const MAX_WAITING: usize = 256;

/// The async handle on one alias. Cheap to clone.
///
/// Stores that never block are called where the caller stands; others on the blocking pool, behind a bounded queue and
/// under a deadline. The runtime must have its timer enabled, as actix's and `#[tokio::main]`'s has.
/// The verbs and their errors are those of [`BlockingCache`], plus [`Error::Overloaded`] when the queue is full.
/// Deletions and invalidations are never refused for that.
///
/// # Examples
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// use larder_cache::{Caches, Timeout};
///
/// let cache = Caches::local().default_cache();
/// let titles: Vec<String> = cache
///     .get_or_set("titles", 300, || async { Ok::<_, std::io::Error>(vec!["Crock".to_owned()]) })
///     .await?;
/// assert_eq!(titles, ["Crock"]);
/// assert_eq!(cache.get("titles").await?, Some(titles));
/// assert!(cache.delete("titles").await?);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone)]
pub struct Cache {
    blocking: BlockingCache,
    queue: Arc<Semaphore>,
    gather: Arc<Gather>,
}

impl Cache {
    pub(crate) fn new(alias: Alias) -> Self {
        Cache {
            blocking: BlockingCache::new(alias),
            queue: Arc::new(Semaphore::new(MAX_WAITING)),
            gather: Arc::default(),
        }
    }

    /// Returns the blocking handle with the same scope.
    pub fn blocking(&self) -> BlockingCache {
        self.blocking.clone()
    }

    /// Returns the name of the alias.
    pub fn alias(&self) -> &str {
        &self.blocking.alias.name
    }

    /// Returns what kind of store is behind the alias.
    pub fn capabilities(&self) -> &Capabilities {
        &self.blocking.alias.capabilities
    }

    /// Returns what this process has counted under the alias.
    pub fn counts(&self) -> Counts {
        self.blocking.alias.journal.counts()
    }

    /// Returns what this process has counted under the alias, by what its keys have in common.
    pub fn groups(&self) -> Vec<GroupStats> {
        self.blocking.journal().groups()
    }

    pub(crate) fn counted(&self) -> Counted<'_> {
        self.blocking.journal().counted()
    }

    /// As [`BlockingCache::version`].
    #[must_use]
    pub fn version(mut self, version: i64) -> Self {
        self.blocking = self.blocking.version(version);
        self
    }

    /// As [`BlockingCache::tags`].
    #[must_use]
    pub fn tags<T: Into<String>>(mut self, tags: impl IntoIterator<Item = T>) -> Self {
        self.blocking = self.blocking.tags(tags);
        self
    }

    /// As [`BlockingCache::load_options`].
    #[must_use]
    pub fn load_options(mut self, options: LoadOptions) -> Self {
        self.blocking = self.blocking.load_options(options);
        self
    }

    /// As [`BlockingCache::format`].
    #[must_use]
    pub fn format(mut self, format: Format) -> Self {
        self.blocking = self.blocking.format(format);
        self
    }

    /// As [`BlockingCache::because`].
    #[must_use]
    pub fn because(mut self, cause: impl Into<Arc<str>>) -> Self {
        self.blocking = self.blocking.because(cause);
        self
    }

    /// As [`BlockingCache::get`].
    ///
    /// # Errors
    /// As there.
    pub async fn get<'k, T: DeserializeOwned>(&self, key: impl Into<Key<'k>>) -> Result<Option<T>> {
        let key = key.into();
        let found = self.find(&key).await?;
        Ok(self.blocking.finish_get(&key, found, codec::decode))
    }

    /// As [`BlockingCache::get_bytes`].
    ///
    /// # Errors
    /// As there.
    pub async fn get_bytes<'k>(&self, key: impl Into<Key<'k>>) -> Result<Option<Bytes>> {
        let key = key.into();
        let found = self.find(&key).await?;
        Ok(self.blocking.finish_get(&key, found, into_bytes))
    }

    /// As [`BlockingCache::get_many`].
    ///
    /// # Errors
    /// As there.
    pub async fn get_many<T: DeserializeOwned, K: AsRef<str>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<HashMap<String, T>> {
        let names = owned(keys);
        let asked = names.clone();
        let copies = Copies::for_caller();
        let find = move |cache: &BlockingCache| {
            let keys: Vec<Key<'_>> = asked.iter().map(Key::from).collect();
            cache.find_many(&keys, copies)
        };
        let found = match self.try_run(find).await {
            Err(Error::Overloaded { .. }) => return Ok(HashMap::new()),
            found => found?,
        };
        Ok(self.blocking.finish_get_many(names, found))
    }

    /// As [`BlockingCache::set`].
    ///
    /// # Errors
    /// As there.
    pub async fn set<'k, T: Serialize + ?Sized>(
        &self,
        key: impl Into<Key<'k>>,
        value: &T,
        timeout: impl Into<Timeout>,
    ) -> Result<()> {
        let key = key.into().into_owned();
        let content = self.blocking.encode(&key, value)?;
        let timeout = timeout.into();
        self.run(move |cache| cache.put(&key, &content, timeout)).await
    }

    /// As [`BlockingCache::set_bytes`].
    ///
    /// # Errors
    /// As there.
    pub async fn set_bytes<'k>(
        &self,
        key: impl Into<Key<'k>>,
        bytes: Bytes,
        timeout: impl Into<Timeout>,
    ) -> Result<()> {
        let key = key.into().into_owned();
        let timeout = timeout.into();
        self.run(move |cache| cache.set_bytes(key, bytes, timeout)).await
    }

    /// As [`BlockingCache::set_many`].
    ///
    /// # Errors
    /// As there.
    pub async fn set_many<T: Serialize, K: AsRef<str>>(
        &self,
        values: impl IntoIterator<Item = (K, T)>,
        timeout: impl Into<Timeout>,
    ) -> Result<Vec<String>> {
        let items = self.blocking.encode_many(values)?;
        let timeout = timeout.into();
        self.run(move |cache| cache.put_many(&items, timeout)).await
    }

    /// As [`BlockingCache::add`].
    ///
    /// # Errors
    /// As there.
    pub async fn add<'k, T: Serialize + ?Sized>(
        &self,
        key: impl Into<Key<'k>>,
        value: &T,
        timeout: impl Into<Timeout>,
    ) -> Result<bool> {
        let key = key.into().into_owned();
        let content = self.blocking.encode(&key, value)?;
        let timeout = timeout.into();
        self.try_run(move |cache| cache.add_content(&key, &content, timeout)).await
    }

    /// As [`BlockingCache::touch`].
    ///
    /// # Errors
    /// As there.
    pub async fn touch<'k>(&self, key: impl Into<Key<'k>>, timeout: impl Into<Timeout>) -> Result<bool> {
        let key = key.into().into_owned();
        let timeout = timeout.into();
        self.run(move |cache| cache.touch(key, timeout)).await
    }

    /// As [`BlockingCache::delete`].
    ///
    /// # Errors
    /// As there.
    pub async fn delete<'k>(&self, key: impl Into<Key<'k>>) -> Result<bool> {
        let key = key.into().into_owned();
        self.run(move |cache| cache.delete(key)).await
    }

    /// As [`BlockingCache::expire`].
    ///
    /// # Errors
    /// As there.
    pub async fn expire<'k>(&self, key: impl Into<Key<'k>>) -> Result<bool> {
        let key = key.into().into_owned();
        self.run(move |cache| cache.expire(key)).await
    }

    /// As [`BlockingCache::ttl`].
    ///
    /// # Errors
    /// As there.
    pub async fn ttl<'k>(&self, key: impl Into<Key<'k>>) -> Result<Option<Timeout>> {
        let key = key.into().into_owned();
        self.try_run(move |cache| cache.ttl(key)).await
    }

    /// As [`BlockingCache::explain`].
    ///
    /// # Errors
    /// As there.
    pub async fn explain<'k>(&self, key: impl Into<Key<'k>>) -> Result<Explanation> {
        let key = key.into().into_owned();
        self.try_run(move |cache| cache.explain(key)).await
    }

    /// As [`BlockingCache::delete_many`].
    ///
    /// # Errors
    /// As there.
    pub async fn delete_many<K: AsRef<str>>(&self, keys: impl IntoIterator<Item = K>) -> Result<usize> {
        let names = owned(keys);
        self.run(move |cache| cache.delete_many(names)).await
    }

    /// As [`BlockingCache::invalidate_tags`].
    ///
    /// # Errors
    /// As there.
    pub async fn invalidate_tags<T: Into<String>>(&self, tags: impl IntoIterator<Item = T>) -> Result<()> {
        let tags: Vec<String> = tags.into_iter().map(Into::into).collect();
        self.run(move |cache| cache.invalidate_tags(tags)).await
    }

    /// As [`BlockingCache::has_key`].
    ///
    /// # Errors
    /// As there.
    pub async fn has_key<'k>(&self, key: impl Into<Key<'k>>) -> Result<bool> {
        Ok(self.find(&key.into()).await?.into_fresh().is_ok())
    }

    /// As [`BlockingCache::incr`].
    ///
    /// # Errors
    /// As there.
    pub async fn incr<'k>(&self, key: impl Into<Key<'k>>, delta: i64) -> Result<i64> {
        let key = key.into().into_owned();
        self.try_run(move |cache| cache.incr(key, delta)).await
    }

    /// As [`BlockingCache::decr`].
    ///
    /// # Errors
    /// As there.
    pub async fn decr<'k>(&self, key: impl Into<Key<'k>>, delta: i64) -> Result<i64> {
        let key = key.into().into_owned();
        self.try_run(move |cache| cache.decr(key, delta)).await
    }

    /// As [`BlockingCache::incr_version`].
    ///
    /// # Errors
    /// As there.
    pub async fn incr_version<'k>(&self, key: impl Into<Key<'k>>, delta: i64) -> Result<i64> {
        let key = key.into().into_owned();
        self.run(move |cache| cache.incr_version(key, delta)).await
    }

    /// As [`BlockingCache::decr_version`].
    ///
    /// # Errors
    /// As there.
    pub async fn decr_version<'k>(&self, key: impl Into<Key<'k>>, delta: i64) -> Result<i64> {
        let key = key.into().into_owned();
        self.run(move |cache| cache.decr_version(key, delta)).await
    }

    /// As [`BlockingCache::clear`].
    ///
    /// # Errors
    /// As there.
    pub async fn clear(&self) -> Result<()> {
        self.run(BlockingCache::clear).await
    }

    /// As [`BlockingCache::clear_prefix`].
    ///
    /// # Errors
    /// As there.
    pub async fn clear_prefix(&self) -> Result<()> {
        self.run_in_pool(BlockingCache::clear_prefix).await
    }

    /// As [`BlockingCache::stats`].
    ///
    /// # Errors
    /// As there.
    pub async fn stats(&self) -> Result<Stats> {
        self.try_run(BlockingCache::stats).await
    }

    pub(crate) fn alias_handle(&self) -> Weak<Alias> {
        Arc::downgrade(&self.blocking.alias)
    }

    #[cfg(feature = "conformance")]
    pub(crate) fn maintain(&self) {
        self.blocking.alias.maintain();
    }

    /// Returns the time by the clock that expiry is measured by.
    #[cfg(feature = "page")]
    pub(crate) fn now(&self) -> crate::clock::Timestamp {
        self.blocking.alias.clock.now()
    }

    /// Tells whether anything lies in this process's memory.
    #[cfg(feature = "page")]
    pub(crate) fn has_some_at_once(&self) -> bool {
        !self.capabilities().blocking || self.blocking.has_copies()
    }

    /// Looks up what lies in this process's memory; `None` if a store would have to be waited for.
    #[cfg(feature = "page")]
    pub(crate) fn find_at_once(&self, key: &Key<'_>) -> Option<Found> {
        if !self.capabilities().blocking {
            return self.blocking.find(key).ok();
        }
        match Copies::for_caller() {
            Copies::Will => self.blocking.find_copy(key).ok().flatten(),
            Copies::WillNot => None,
        }
    }

    /// Finds a fresh entry that lies in this process's memory, and tells what that rests on.
    #[cfg(feature = "page")]
    pub(crate) fn find_watched(&self, key: &Key<'_>) -> Option<Watched> {
        self.blocking.find_watched(key).ok().flatten()
    }

    /// Looks up where the caller stands if that is in memory: the way of most hits.
    pub(crate) async fn find(&self, key: &Key<'_>) -> Result<Found> {
        if !self.capabilities().blocking {
            return self.blocking.find(key);
        }
        let copies = Copies::for_caller();
        if copies == Copies::Will
            && let Some(found) = self.blocking.find_copy(key)?
        {
            return Ok(found);
        }
        match self.find_in_store(key, copies).await {
            Err(error) if error.is_outage() => Ok(Found::unavailable()),
            found => found,
        }
    }

    async fn find_in_store(&self, key: &Key<'_>, copies: Copies) -> Result<Found> {
        let permit = self.permit()?;
        let how = self.blocking.how(copies);
        let alias = &self.blocking.alias;
        let mut answer = self.gather.ask(alias, key.clone().into_owned(), how, permit)?;
        let answered = match timeout(PATIENCE, &mut answer).await {
            Ok(answered) => answered,
            Err(_) => {
                self.gather.hurry(alias);
                timeout(alias.deadline.saturating_sub(PATIENCE), answer).await.map_err(|_| self.too_slow())?
            }
        };
        answered.unwrap_or_else(|error| Err(Error::unavailable(format!("cache {}", self.alias()), error)))
    }

    fn permit(&self) -> Result<OwnedSemaphorePermit> {
        let permit = Arc::clone(&self.queue).try_acquire_owned();
        permit.map_err(|_| Error::Overloaded { alias: self.alias().to_owned() })
    }

    fn too_slow(&self) -> Error {
        let deadline = self.blocking.alias.deadline.as_millis();
        let slow = format!("it took longer than {deadline} ms; the operation goes on");
        Error::unavailable(format!("cache {}", self.alias()), slow)
    }

    /// Runs what must happen, however long the queue is and however long it takes: whatever leaves the old value of a key
    /// behind if it does not. Its caller is not told that it failed while it may still be under way.
    pub(crate) async fn run<R: Send + 'static>(
        &self,
        operation: impl FnOnce(&BlockingCache) -> Result<R> + Send + 'static,
    ) -> Result<R> {
        if !self.capabilities().blocking {
            return operation(&self.blocking);
        }
        self.run_in_pool(operation).await
    }

    async fn run_in_pool<R: Send + 'static>(
        &self,
        operation: impl FnOnce(&BlockingCache) -> Result<R> + Send + 'static,
    ) -> Result<R> {
        let cache = self.blocking.clone();
        let done = tokio::task::spawn_blocking(move || operation(&cache)).await;
        done.unwrap_or_else(|error| Err(Error::unavailable(format!("cache {}", self.alias()), error)))
    }

    /// Runs what may be left out when too much waits already, or it takes longer than the deadline.
    pub(crate) async fn try_run<R: Send + 'static>(
        &self,
        operation: impl FnOnce(&BlockingCache) -> Result<R> + Send + 'static,
    ) -> Result<R> {
        if !self.capabilities().blocking {
            return operation(&self.blocking);
        }
        let permit = self.permit()?;
        let levels = self.blocking.alias.hears_late.load(Ordering::Relaxed).then(dependencies::levels);
        let guarded = move |cache: &BlockingCache| {
            let _there = levels.map(There::enter);
            let result = operation(cache);
            drop(permit);
            result
        };
        let done = timeout(self.blocking.alias.deadline, self.run_in_pool(guarded)).await;
        done.unwrap_or_else(|_| Err(self.too_slow()))
    }
}

pub(crate) fn into_bytes(content: &Content) -> Option<Bytes> {
    match content {
        Content::Payload(Codec::Bytes | Codec::Text, bytes) => Some(bytes.clone()),
        _ => None,
    }
}

fn owned<K: AsRef<str>>(keys: impl IntoIterator<Item = K>) -> Vec<String> {
    keys.into_iter().map(|key| key.as_ref().to_owned()).collect()
}

fn negated(key: &Key<'_>, delta: i64) -> Result<i64> {
    let too_large = || Error::NotACounter { key: key.label().to_owned(), reason: "the sum does not fit into 64 bits" };
    delta.checked_neg().ok_or_else(too_large)
}
