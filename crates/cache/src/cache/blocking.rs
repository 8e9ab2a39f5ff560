//! The blocking handle: Django's verbs for templates, hooks and the command line.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

use super::{as_hit, gather::How, into_bytes, negated, owned};
#[cfg(feature = "page")]
use crate::{alias::Watched, backend::Value};
use crate::{
    alias::{Alias, Copies, Found, Hit, Keep},
    backend::Stats,
    codec::{self, Content, Format},
    envelope::Codec,
    error::{Causes, Error, Result},
    events::{Journal, MissReason, What},
    explain::Explanation,
    fill::Fills,
    key::Key,
    load::LoadOptions,
    timeout::Timeout,
};

/// What a handle adds to every operation.
#[derive(Debug, Clone, Default)]
pub(super) struct Scope {
    version: Option<i64>,
    cause: Option<Arc<str>>,
    pub(super) tags: Arc<[String]>,
    load_options: Option<Arc<LoadOptions>>,
    format: Format,
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
    pub(super) fills: Fills,
}

impl BlockingCache {
    pub(crate) fn new(alias: Alias) -> Self {
        BlockingCache { alias: Arc::new(alias), scope: Scope::default(), fills: Fills::default() }
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

    /// Returns a handle that keeps and loads values by these options instead of those from the settings.
    #[must_use]
    pub fn load_options(mut self, options: LoadOptions) -> Self {
        self.scope.load_options = Some(Arc::new(options));
        self
    }

    /// Returns a handle that writes values in this format. Whatever the format, every handle reads them.
    #[must_use]
    pub fn format(mut self, format: Format) -> Self {
        self.scope.format = format;
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
        let found = self.find(&key)?;
        Ok(self.finish_get(&key, found, codec::decode))
    }

    /// Returns the bytes of a key that [`set_bytes`](BlockingCache::set_bytes) stored, without copying them.
    ///
    /// # Errors
    /// As [`get`](BlockingCache::get).
    pub fn get_bytes<'k>(&self, key: impl Into<Key<'k>>) -> Result<Option<Bytes>> {
        let key = key.into();
        let found = self.find(&key)?;
        Ok(self.finish_get(&key, found, into_bytes))
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
        let found = self.find_many(&keys, Copies::for_caller())?;
        Ok(self.finish_get_many(names, found))
    }

    /// Stores a value. On failure the old value is gone too, or will be as soon as the store answers.
    ///
    /// What was invalidated between the computation of the value and this call is not noticed;
    /// [`get_or_set`](BlockingCache::get_or_set) notices it.
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
        let content = self.encode(&key, value)?;
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
        let items = self.encode_many(values)?;
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
        let content = self.encode(&key, value)?;
        self.add_content(&key, &content, timeout.into())
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

    /// Makes a value stale without removing it: those who may serve stale values still have it while it is loaded again,
    /// for as long as it would have been kept. A load that is under way is overtaken. Tells whether there was one.
    ///
    /// # Errors
    /// As [`delete`](BlockingCache::delete), and then the value is removed instead.
    pub fn expire<'k>(&self, key: impl Into<Key<'k>>) -> Result<bool> {
        self.alias.expire(&key.into(), self.key_version(), self.cause())
    }

    /// Returns how long a value will be served, or `None` if it is missing.
    ///
    /// # Errors
    /// As [`get`](BlockingCache::get).
    pub fn ttl<'k>(&self, key: impl Into<Key<'k>>) -> Result<Option<Timeout>> {
        let left = self.alias.ttl(&key.into(), self.key_version())?;
        Ok(left.map(|left| left.map_or(Timeout::Never, Timeout::After)))
    }

    /// Explains what a look-up of a key would come to now, and why: never stored, expired, invalidated by whom and when,
    /// evicted, being loaded, store down. What it tells of the past is what this process has seen.
    ///
    /// # Errors
    /// As [`get`](BlockingCache::get), and [`Error::Unavailable`] if the store fails while the tags are read.
    ///
    /// # Examples
    /// ```
    /// use larder_cache::Caches;
    ///
    /// let cache = Caches::local().default_cache().blocking().tags(["object:7"]);
    /// cache.set("title", "Crock", 60)?;
    /// cache.clone().because("post_save Object#7").invalidate_tags(["object:7"])?;
    /// let explanation = cache.explain("title")?.to_string();
    /// assert!(explanation.starts_with("key=title in default: miss, tag object:7 changed"));
    /// assert!(explanation.ends_with("by post_save Object#7"));
    /// # Ok::<_, larder_cache::Error>(())
    /// ```
    pub fn explain<'k>(&self, key: impl Into<Key<'k>>) -> Result<Explanation> {
        self.alias.explain(&key.into(), self.key_version())
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
        Ok(self.find(&key.into())?.into_fresh().is_ok())
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

    /// Says that others invalidate what is in here, and that this is heard of later than where they share a store: in the
    /// memory of each process, by messages. What is made for a store that more see is then not made of what is in here.
    pub fn hears_late(&self) {
        self.alias.hears_late.store(true, Ordering::Relaxed);
    }

    /// Removes everything from the store, other prefixes and versions included.
    ///
    /// # Errors
    /// As [`delete`](BlockingCache::delete).
    pub fn clear(&self) -> Result<()> {
        self.alias.clear(self.cause())
    }

    /// Removes everything under the key prefix of this alias, of every kind and version, and nothing else: counters alone
    /// stay, which are stored as bare numbers. Takes about a second; when it returns, no process serves an older entry.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if a server did not hear of it; the removal is then delivered when it answers again.
    pub fn clear_prefix(&self) -> Result<()> {
        self.alias.clear_prefix(self.cause())
    }

    /// Returns what the store tells about itself.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub fn stats(&self) -> Result<Stats> {
        self.alias.stats()
    }

    pub(crate) fn find(&self, key: &Key<'_>) -> Result<Found> {
        self.find_with(key, Copies::for_caller())
    }

    #[cfg(feature = "page")]
    pub(crate) fn own(&self, key: &Key<'_>) -> Result<Option<Value>> {
        self.alias.own(key)
    }

    #[cfg(feature = "page")]
    pub(crate) fn replace_own(&self, key: &Key<'_>, old: Option<&Value>, new: &Value) -> Result<bool> {
        self.alias.replace_own(key, old, new)
    }

    /// Returns how this handle looks keys up.
    pub(super) fn how(&self, copies: Copies) -> How {
        How { version: self.key_version(), tags: Arc::clone(&self.scope.tags), copies }
    }

    pub(super) fn find_with(&self, key: &Key<'_>, copies: Copies) -> Result<Found> {
        self.alias.find(key, self.key_version(), &self.scope.tags, copies)
    }

    pub(super) fn find_many(&self, keys: &[Key<'_>], copies: Copies) -> Result<Vec<Found>> {
        self.alias.find_many(keys, self.key_version(), &self.scope.tags, copies)
    }

    /// Reads what was found, and counts it.
    pub(crate) fn finish_get<T>(
        &self,
        key: &Key<'_>,
        found: Found,
        read: impl FnOnce(&Content) -> Option<T>,
    ) -> Option<T> {
        let took = found.took;
        let read = |hit: Hit| read(&hit.content).map(|value| (value, hit)).ok_or(MissReason::OtherType);
        match found.into_fresh().and_then(read) {
            Ok((value, hit)) => {
                hit.hand_on();
                self.journal().note(key, as_hit(&hit, took, false));
                Some(value)
            }
            Err(reason) => {
                self.journal().note(key, What::Miss { reason: &reason, took });
                None
            }
        }
    }

    /// Takes note of a decision about a key.
    #[cfg(feature = "page")]
    pub(crate) fn note(&self, key: &Key<'_>, what: What<'_>) {
        self.journal().note(key, what);
    }

    /// Tells whether somebody wants to know how long a look into this process's memory takes.
    #[cfg(feature = "page")]
    pub(crate) fn times_look_ups(&self) -> bool {
        self.journal().times_look_ups(false)
    }

    /// Counts a look that a caller takes who may load: a hit with what may be used, or, the first time, a miss.
    #[cfg(any(feature = "page", feature = "template"))]
    pub(crate) fn count(&self, key: &Key<'_>, found: &Found, usable: Option<&Hit>, has_waited: bool) {
        match (usable, has_waited) {
            (Some(hit), _) => self.journal().note(key, as_hit(hit, found.took, found.is_stale())),
            (None, true) => {}
            (None, false) => {
                let reason = if found.fresh().is_some() { MissReason::OtherType } else { found.why_missing() };
                self.journal().note(key, What::Miss { reason: &reason, took: found.took });
            }
        }
    }

    pub(super) fn finish_get_many<T: DeserializeOwned>(
        &self,
        names: Vec<String>,
        found: Vec<Found>,
    ) -> HashMap<String, T> {
        let values = names.into_iter().zip(found).filter_map(|(name, found)| {
            let value = self.finish_get(&Key::from(&name), found, codec::decode)?;
            Some((name, value))
        });
        values.collect()
    }

    pub(super) fn encode<T: Serialize + ?Sized>(&self, key: &Key<'_>, value: &T) -> Result<Content> {
        codec::encode(key, value, self.scope.format)
    }

    pub(super) fn encode_many<T: Serialize, K: AsRef<str>>(
        &self,
        values: impl IntoIterator<Item = (K, T)>,
    ) -> Result<Vec<(Key<'static>, Content)>> {
        let encoded = values.into_iter().map(|(key, value)| {
            let key = Key::from(key.as_ref().to_owned());
            let content = self.encode(&key, &value)?;
            Ok((key, content))
        });
        encoded.collect()
    }

    pub(crate) fn put(&self, key: &Key<'_>, content: &Content, timeout: Timeout) -> Result<()> {
        let keep = self.keep(timeout).map_err(|error| self.alias.put_failed(key, self.key_version(), error))?;
        self.alias.put(key, self.key_version(), content, &keep)
    }

    /// Stores what was made with versions of tags that were read before.
    #[cfg(feature = "page")]
    pub(crate) fn put_kept(&self, key: &Key<'_>, content: &Content, keep: &Keep) -> Result<()> {
        self.alias.put(key, self.key_version(), content, keep)
    }

    pub(super) fn find_copy(&self, key: &Key<'_>) -> Result<Option<Found>> {
        self.alias.find_copy(key, self.key_version())
    }

    #[cfg(feature = "page")]
    pub(super) fn has_copies(&self) -> bool {
        self.alias.near.as_ref().is_some_and(|near| !near.is_checked())
    }

    #[cfg(feature = "page")]
    pub(super) fn find_watched(&self, key: &Key<'_>) -> Result<Option<Watched>> {
        match Copies::for_caller() {
            Copies::Will => self.alias.find_watched(key, self.key_version()),
            Copies::WillNot => Ok(None),
        }
    }

    #[cfg(feature = "page")]
    pub(crate) fn purge(&self, keys: &[Key<'_>]) -> Result<usize> {
        self.alias.purge(keys, self.key_version(), self.cause())
    }

    /// Removes an entry, if it still is as it was found.
    #[cfg(feature = "page")]
    pub(crate) fn remove_found(&self, key: &Key<'_>, seen: &Value) -> Result<bool> {
        self.alias.remove_found(key, self.key_version(), seen)
    }

    /// Replaces an entry, if it still is as it was found, by another one of its generation.
    #[cfg(feature = "page")]
    pub(crate) fn replace_kept(&self, key: &Key<'_>, seen: &Value, content: &Content, keep: &Keep) -> Result<bool> {
        self.alias.replace_found(key, self.key_version(), seen, content, keep)
    }

    pub(super) fn add_content(&self, key: &Key<'_>, content: &Content, timeout: Timeout) -> Result<bool> {
        self.alias.add(key, self.key_version(), content, &self.keep(timeout)?)
    }

    pub(super) fn put_many(&self, items: &[(Key<'_>, Content)], timeout: Timeout) -> Result<Vec<String>> {
        let keep = self.keep(timeout).or_else(|error| {
            self.delete_many(items.iter().map(|(key, _)| key.label()))?;
            Err(error)
        })?;
        let failed = self.alias.put_many(items, self.key_version(), &keep)?;
        Ok(failed.into_iter().map(|position| items[position].0.label().to_owned()).collect())
    }

    /// Says how this handle keeps what it is given.
    fn keep(&self, timeout: Timeout) -> Result<Keep> {
        let options = self.load_options_or_default();
        Ok(Keep {
            timeout,
            stale_for: options.stale_window(),
            jitter: options.jitter,
            tags: self.alias.tag_versions(&self.scope.tags)?,
            ..Keep::default()
        })
    }

    /// Returns the options of this handle, or else of its alias.
    pub(crate) fn load_options_or_default(&self) -> &LoadOptions {
        self.scope.load_options.as_deref().unwrap_or(&self.alias.load_options)
    }

    pub(crate) fn final_key(&self, key: &Key<'_>) -> Result<String> {
        self.alias.keys.final_key(key, self.key_version())
    }

    pub(crate) fn journal(&self) -> &Journal {
        &self.alias.journal
    }

    /// An outage has its own line in the log, once; anything else is for the developer to mend.
    pub(super) fn pass_by(&self, key: &Key<'_>, error: &Error) {
        if error.is_outage() || matches!(error, Error::ValueTooLarge { .. }) {
            self.journal().note(key, What::NotStored { reason: error });
        } else {
            log::error!("cache {} was bypassed for {key}: {}", self.alias.name, Causes(error));
        }
    }

    pub(super) fn key_version(&self) -> i64 {
        self.scope.version.unwrap_or(self.alias.version)
    }

    fn cause(&self) -> Option<&str> {
        self.scope.cause.as_deref()
    }
}
