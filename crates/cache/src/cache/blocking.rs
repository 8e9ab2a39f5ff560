//! The blocking handle: Django's verbs for templates, hooks and the command line.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

use super::{encode_many, into_bytes, negated, owned};
use crate::{
    alias::{Alias, Lookup},
    backend::Stats,
    codec::{self, Content},
    envelope::{Codec, TagVersion},
    error::{Causes, Error, Result},
    events::MissReason,
    key::Key,
    timeout::Timeout,
};

/// What a handle adds to every operation.
#[derive(Debug, Clone, Default)]
pub(super) struct Scope {
    version: Option<i64>,
    cause: Option<Arc<str>>,
    pub(super) tags: Arc<[String]>,
}

/// The blocking handle on one alias: for templates, hooks, the command line, and code on a blocking pool.
///
/// Do not call it on an async worker unless the store never blocks; [`Cache`](super::Cache) does that for you.
///
/// # Examples
/// ```
/// use larder_cache::Caches;
///
/// let cache = Caches::local().default_cache().blocking();
/// cache.set("answer", &41, 60)?;
/// assert_eq!(cache.incr("answer", 1)?, 42);
/// assert_eq!(cache.get::<i64>("answer")?, Some(42));
/// # Ok::<_, larder_cache::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct BlockingCache {
    pub(super) alias: Arc<Alias>,
    pub(super) scope: Scope,
}

impl BlockingCache {
    pub(crate) fn new(alias: Alias) -> Self {
        BlockingCache { alias: Arc::new(alias), scope: Scope::default() }
    }

    /// Returns a handle that uses this version of every key instead of the one from the settings.
    #[must_use]
    pub fn version(mut self, version: i64) -> Self {
        self.scope.version = Some(version);
        self
    }

    /// Returns a handle that stores everything with these tags, for
    /// [`invalidate_tags`](BlockingCache::invalidate_tags) to find.
    ///
    /// A value with tags is not a counter, even if it is an integer.
    #[must_use]
    pub fn tags<T: Into<String>>(mut self, tags: impl IntoIterator<Item = T>) -> Self {
        self.scope.tags = tags.into_iter().map(Into::into).collect();
        self
    }

    /// Returns a handle whose invalidations say in the log why they happened: `post_save Object#7`.
    #[must_use]
    pub fn because(mut self, cause: impl Into<Arc<str>>) -> Self {
        self.scope.cause = Some(cause.into());
        self
    }

    /// Returns the value of a key, or `None` if it is missing, expired, of another type, or the store is away.
    ///
    /// # Errors
    /// [`Error::InvalidKey`] where the settings refuse the key.
    pub fn get<'k, T: DeserializeOwned>(&self, key: impl Into<Key<'k>>) -> Result<Option<T>> {
        let key = key.into();
        let lookup = self.look_up(&key)?;
        Ok(self.finish_get(&key, lookup, codec::decode))
    }

    /// Returns the bytes of a key that [`set_bytes`](BlockingCache::set_bytes) stored, without copying them.
    ///
    /// # Errors
    /// As [`get`](BlockingCache::get).
    pub fn get_bytes<'k>(&self, key: impl Into<Key<'k>>) -> Result<Option<Bytes>> {
        let key = key.into();
        let lookup = self.look_up(&key)?;
        Ok(self.finish_get(&key, lookup, into_bytes))
    }

    /// Returns the values of those keys that are there, under the caller's keys. One round trip where the store can.
    ///
    /// # Errors
    /// As [`get`](BlockingCache::get).
    pub fn get_many<T: DeserializeOwned, K: AsRef<str>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<HashMap<String, T>> {
        let names = owned(keys);
        let keys: Vec<Key<'_>> = names.iter().map(Key::from).collect();
        let lookups = self.alias.look_up_many(&keys, self.key_version())?;
        Ok(self.finish_get_many(names, lookups))
    }

    /// Stores a value. On failure the old value is gone too, or will be as soon as the store answers.
    ///
    /// # Errors
    /// [`Error::Encode`], [`Error::ValueTooLarge`], [`Error::Unavailable`], [`Error::InvalidKey`].
    pub fn set<'k, T: Serialize + ?Sized>(
        &self,
        key: impl Into<Key<'k>>,
        value: &T,
        timeout: impl Into<Timeout>,
    ) -> Result<()> {
        let key = key.into();
        let content = codec::encode(&key, value)?;
        self.put(&key, &content, timeout.into())
    }

    /// Stores bytes as they are.
    ///
    /// # Errors
    /// As [`set`](BlockingCache::set).
    pub fn set_bytes<'k>(&self, key: impl Into<Key<'k>>, bytes: Bytes, timeout: impl Into<Timeout>) -> Result<()> {
        self.put(&key.into(), &Content::Payload(Codec::Bytes, bytes), timeout.into())
    }

    /// Stores several values; returns the keys that failed. One round trip where the store can.
    ///
    /// # Errors
    /// As [`set`](BlockingCache::set), if none could be stored.
    pub fn set_many<T: Serialize, K: AsRef<str>>(
        &self,
        values: impl IntoIterator<Item = (K, T)>,
        timeout: impl Into<Timeout>,
    ) -> Result<Vec<String>> {
        let items = encode_many(values)?;
        self.put_many(&items, timeout.into())
    }

    /// Stores a value if the key is missing; tells whether it did. With a timeout of zero or less it stores nothing
    /// and returns whether it could have.
    ///
    /// # Errors
    /// As [`set`](BlockingCache::set).
    pub fn add<'k, T: Serialize + ?Sized>(
        &self,
        key: impl Into<Key<'k>>,
        value: &T,
        timeout: impl Into<Timeout>,
    ) -> Result<bool> {
        let key = key.into();
        let content = codec::encode(&key, value)?;
        let tags = self.alias.tag_versions(&self.scope.tags)?;
        self.alias.add(&key, self.key_version(), &content, timeout.into(), tags, Duration::ZERO)
    }

    /// Returns the value of a key; if it is missing, computes, stores and returns it.
    ///
    /// A failing store never fails the caller: the value is computed and returned. What the loader returns as an
    /// error is returned and not stored. If somebody stored a value while the loader ran, that one stays and is
    /// returned. An invalidation of one of the handle's tags while the loader runs wins; the deletion of the key does
    /// not, so give values tags that must never be old.
    ///
    /// # Errors
    /// Only the loader's.
    pub fn get_or_set<'k, T, E>(
        &self,
        key: impl Into<Key<'k>>,
        timeout: impl Into<Timeout>,
        load: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E>
    where
        T: Serialize + DeserializeOwned,
    {
        let key = key.into();
        if let Some(value) = self.get(&key).unwrap_or_else(|error| self.without_cache(&key, &error)) {
            return Ok(value);
        }
        let tags = self.alias.tag_versions(&self.scope.tags);
        let started = Instant::now();
        let value = load()?;
        let cost = started.elapsed();
        let kept = codec::encode(&key, &value)
            .and_then(|content| self.keep_loaded(&key, &content, timeout.into(), tags?, cost, codec::decode));
        let theirs = kept.unwrap_or_else(|error| self.without_cache(&key, &error));
        Ok(theirs.unwrap_or(value))
    }

    /// Gives an entry a new timeout; tells whether it was there. Zero or less expires it at once.
    ///
    /// # Errors
    /// [`Error::Unavailable`], [`Error::InvalidKey`].
    pub fn touch<'k>(&self, key: impl Into<Key<'k>>, timeout: impl Into<Timeout>) -> Result<bool> {
        self.alias.touch(&key.into(), self.key_version(), timeout.into())
    }

    /// Removes an entry; tells whether it was there.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the store did not answer. The deletion is kept, this process serves the value no
    /// more, and it is delivered when the store answers again.
    pub fn delete<'k>(&self, key: impl Into<Key<'k>>) -> Result<bool> {
        self.alias.delete(&key.into(), self.key_version(), self.cause())
    }

    /// Removes several entries; returns how many were there. One round trip where the store can.
    ///
    /// # Errors
    /// As [`delete`](BlockingCache::delete).
    pub fn delete_many<K: AsRef<str>>(&self, keys: impl IntoIterator<Item = K>) -> Result<usize> {
        let names = owned(keys);
        let keys: Vec<Key<'_>> = names.iter().map(Key::from).collect();
        self.alias.delete_many(&keys, self.key_version(), self.cause())
    }

    /// Makes every entry stale that was stored with one of these tags.
    ///
    /// # Errors
    /// As [`delete`](BlockingCache::delete).
    pub fn invalidate_tags<T: Into<String>>(&self, tags: impl IntoIterator<Item = T>) -> Result<()> {
        let tags: Vec<String> = tags.into_iter().map(Into::into).collect();
        self.alias.invalidate_tags(&tags, self.cause())
    }

    /// Tells whether a key is there.
    ///
    /// # Errors
    /// As [`get`](BlockingCache::get).
    pub fn has_key<'k>(&self, key: impl Into<Key<'k>>) -> Result<bool> {
        Ok(self.look_up(&key.into())?.result.is_ok())
    }

    /// Adds to a counter, atomically, and returns its new value. The timeout stays as it is.
    ///
    /// # Errors
    /// [`Error::KeyNotFound`], [`Error::NotACounter`], [`Error::Unavailable`], [`Error::InvalidKey`].
    pub fn incr<'k>(&self, key: impl Into<Key<'k>>, delta: i64) -> Result<i64> {
        self.alias.incr(&key.into(), self.key_version(), delta)
    }

    /// Subtracts from a counter; otherwise as [`incr`](BlockingCache::incr).
    ///
    /// # Errors
    /// As [`incr`](BlockingCache::incr).
    pub fn decr<'k>(&self, key: impl Into<Key<'k>>, delta: i64) -> Result<i64> {
        let key = key.into();
        let delta = negated(&key, delta)?;
        self.incr(key, delta)
    }

    /// Moves an entry to a later version of its key, with the time it has left; returns that version.
    ///
    /// # Errors
    /// [`Error::KeyNotFound`], [`Error::Unavailable`], [`Error::InvalidKey`].
    pub fn incr_version<'k>(&self, key: impl Into<Key<'k>>, delta: i64) -> Result<i64> {
        self.alias.incr_version(&key.into(), self.key_version(), delta)
    }

    /// Moves an entry to an earlier version of its key; otherwise as [`incr_version`](BlockingCache::incr_version).
    ///
    /// # Errors
    /// As [`incr_version`](BlockingCache::incr_version).
    pub fn decr_version<'k>(&self, key: impl Into<Key<'k>>, delta: i64) -> Result<i64> {
        let key = key.into();
        let delta = negated(&key, delta)?;
        self.incr_version(key, delta)
    }

    /// Removes everything from the store, other prefixes and versions included.
    ///
    /// # Errors
    /// As [`delete`](BlockingCache::delete).
    pub fn clear(&self) -> Result<()> {
        self.alias.clear(self.cause())
    }

    /// Returns what the store tells about itself.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub fn stats(&self) -> Result<Stats> {
        self.alias.stats()
    }

    pub(crate) fn look_up(&self, key: &Key<'_>) -> Result<Lookup> {
        self.alias.look_up(key, self.key_version())
    }

    pub(crate) fn finish_get<T>(
        &self,
        key: &Key<'_>,
        lookup: Lookup,
        read: impl FnOnce(&Content) -> Option<T>,
    ) -> Option<T> {
        let value = lookup.result.and_then(|content| read(&content).ok_or(MissReason::OtherType));
        match &value {
            Ok(_) => self.alias.journal.hit(key, lookup.took),
            Err(reason) => self.alias.journal.miss(key, reason, lookup.took),
        }
        value.ok()
    }

    /// As [`finish_get`](BlockingCache::finish_get) for a second look, whose miss has been counted at the first.
    pub(crate) fn finish_second_get<T>(
        &self,
        key: &Key<'_>,
        lookup: Lookup,
        read: impl FnOnce(&Content) -> Option<T>,
    ) -> Option<T> {
        let value = lookup.result.ok().and_then(|content| read(&content));
        if value.is_some() {
            self.alias.journal.hit(key, lookup.took);
        }
        value
    }

    pub(super) fn finish_get_many<T: DeserializeOwned>(
        &self,
        names: Vec<String>,
        lookups: Vec<Lookup>,
    ) -> HashMap<String, T> {
        let values = names.into_iter().zip(lookups).filter_map(|(name, lookup)| {
            let value = self.finish_get(&Key::from(&name), lookup, codec::decode)?;
            Some((name, value))
        });
        values.collect()
    }

    pub(crate) fn put(&self, key: &Key<'_>, content: &Content, timeout: Timeout) -> Result<()> {
        let tags = self.alias.tag_versions(&self.scope.tags)?;
        self.alias.put(key, self.key_version(), content, timeout, tags, Duration::ZERO)
    }

    pub(super) fn put_many(&self, items: &[(Key<'_>, Content)], timeout: Timeout) -> Result<Vec<String>> {
        let tags = self.alias.tag_versions(&self.scope.tags)?;
        let failed = self.alias.put_many(items, self.key_version(), timeout, &tags)?;
        Ok(failed.into_iter().map(|position| items[position].0.label().to_owned()).collect())
    }

    /// Stores what a loader made, unless somebody stored something meanwhile: then that is newer, and is returned. What
    /// cannot be read, such as a value of before the type changed, is replaced, or it would be a miss for ever.
    pub(super) fn keep_loaded<T>(
        &self,
        key: &Key<'_>,
        content: &Content,
        timeout: Timeout,
        tags: Vec<TagVersion>,
        cost: Duration,
        read: impl FnOnce(&Content) -> Option<T>,
    ) -> Result<Option<T>> {
        let version = self.key_version();
        if self.alias.add(key, version, content, timeout, tags.clone(), cost)? {
            return Ok(None);
        }
        let theirs = self.look_up(key)?.result.ok().and_then(|content| read(&content));
        if theirs.is_none() {
            self.alias.put(key, version, content, timeout, tags, cost)?;
        }
        Ok(theirs)
    }

    #[cfg(any(feature = "page", feature = "template"))]
    pub(crate) fn keep(
        &self,
        key: &Key<'_>,
        content: &Content,
        timeout: Timeout,
        tags: Vec<TagVersion>,
        cost: Duration,
    ) -> Result<()> {
        self.alias.put(key, self.key_version(), content, timeout, tags, cost)
    }

    #[cfg(any(feature = "page", feature = "template"))]
    pub(crate) fn tag_versions(&self, tags: &[String]) -> Result<Vec<TagVersion>> {
        self.alias.tag_versions(tags)
    }

    /// An outage has its own line in the log, once; anything else is for the developer to mend.
    pub(super) fn without_cache<T>(&self, key: &Key<'_>, error: &Error) -> Option<T> {
        if error.is_outage() || matches!(error, Error::ValueTooLarge { .. }) {
            self.alias.journal.not_stored(key, error);
        } else {
            log::error!("cache {} was bypassed for {key}: {}", self.alias.name, Causes(error));
        }
        None
    }

    pub(super) fn key_version(&self) -> i64 {
        self.scope.version.unwrap_or(self.alias.version)
    }

    fn cause(&self) -> Option<&str> {
        self.scope.cause.as_deref()
    }
}
