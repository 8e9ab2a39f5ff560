//! One alias of the settings: a store with its keys, default timeout, tags and counts.
//!
//! Works on stored values, not on types: `codec` encodes and decodes around it. All methods may block
//! where the store does.

use std::time::{Duration, Instant};

use crate::{
    backend::{Backend, Capabilities, Entry, Stats, Value},
    clock::Clock,
    codec::{Content, pack_integer},
    envelope::{Codec, Envelope, TagVersion},
    error::{Error, Result},
    events::{self, Journal, MissReason},
    key::{Key, KeySpace},
    tags::{self, Remembered},
    timeout::{Expiry, Timeout},
};

#[derive(Debug)]
pub(crate) struct Alias {
    pub(crate) name: String,
    pub(crate) store: Box<dyn Backend>,
    pub(crate) capabilities: Capabilities,
    pub(crate) keys: KeySpace,
    pub(crate) version: i64,
    pub(crate) timeout: Timeout,
    pub(crate) clock: Clock,
    pub(crate) journal: Journal,
    pub(crate) remembered: Remembered,
}

/// A look-up with the time it took, if anybody wants to know.
#[derive(Debug)]
pub(crate) struct Lookup {
    pub(crate) result: Result<Content, MissReason>,
    pub(crate) took: Option<Duration>,
}

impl Alias {
    pub(crate) fn look_up(&self, key: &Key<'_>, version: i64) -> Result<Lookup> {
        let started = events::are_timed().then(Instant::now);
        let final_key = self.keys.final_key(key, version)?;
        let result = match self.store.get(&final_key) {
            Ok(Some(entry)) => self.open(key, entry)?,
            Ok(None) => Err(MissReason::Absent),
            Err(error) if error.is_outage() => Err(MissReason::Unavailable),
            Err(error) => return Err(error),
        };
        Ok(Lookup { result, took: started.map(|started| started.elapsed()) })
    }

    pub(crate) fn look_up_many(&self, keys: &[Key<'_>], version: i64) -> Result<Vec<Lookup>> {
        let started = events::are_timed().then(Instant::now);
        let final_keys = self.final_keys(keys, version)?;
        let key_refs: Vec<&str> = final_keys.iter().map(String::as_str).collect();
        let entries = match self.store.get_many(&key_refs) {
            Err(error) if error.is_outage() => {
                let missed = || Lookup { result: Err(MissReason::Unavailable), took: None };
                return Ok(keys.iter().map(|_| missed()).collect());
            }
            entries => entries?,
        };
        let took = started.map(|started| started.elapsed());
        let opened = keys.iter().zip(entries).map(|(key, entry)| match entry {
            Some(entry) => self.open(key, entry),
            None => Ok(Err(MissReason::Absent)),
        });
        opened.map(|result| Ok(Lookup { result: result?, took })).collect()
    }

    /// Reads an entry and checks its tags.
    fn open(&self, key: &Key<'_>, entry: Entry) -> Result<Result<Content, MissReason>> {
        let stored = match entry.value {
            Value::Integer(number) => return Ok(Ok(Content::Integer(number))),
            Value::Bytes(bytes) => bytes,
        };
        // Memory of this process does not rot on the way.
        let envelope = match Envelope::decode(&stored, self.capabilities.blocking) {
            Ok(envelope) => envelope,
            Err(why) => return Ok(Err(MissReason::Unreadable(why))),
        };
        if let Some(reason) = self.stale_tag(&envelope.tags)? {
            return Ok(Err(reason));
        }
        // Another process may have stored it, perhaps before this one started.
        if self.capabilities.blocking {
            self.remember(key, &envelope.tags);
        }
        Ok(Ok(Content::Payload(envelope.codec, envelope.payload)))
    }

    fn stale_tag(&self, tags: &[TagVersion]) -> Result<Option<MissReason>> {
        if tags.is_empty() {
            return Ok(None);
        }
        let keys = self.tag_keys(tags.iter().map(|tag| tag.name.as_str()))?;
        match tags::first_changed(&*self.store, tags, &keys) {
            Ok(changed) => Ok(changed.map(MissReason::TagChanged)),
            Err(error) if error.is_outage() => Ok(Some(MissReason::Unavailable)),
            Err(error) => Err(error),
        }
    }

    /// Reads the versions of tags, before the value that shall carry them is computed.
    pub(crate) fn tag_versions(&self, names: &[String]) -> Result<Vec<TagVersion>> {
        if names.is_empty() || !self.capabilities.stores {
            return Ok(Vec::new());
        }
        let keys = self.tag_keys(names.iter().map(String::as_str))?;
        tags::versions(&*self.store, names, &keys)
    }

    pub(crate) fn put(
        &self,
        key: &Key<'_>,
        version: i64,
        content: &Content,
        timeout: Timeout,
        tags: Vec<TagVersion>,
        cost: Duration,
    ) -> Result<()> {
        let final_key = self.keys.final_key(key, version)?;
        let Some(expiry) = self.expiry(timeout) else {
            return self.store.delete(&final_key).map(drop);
        };
        let value = self.seal(content, tags.clone(), cost);
        let result = self.store.set(&final_key, &value, expiry);
        self.report(key, content, cost, &result);
        if result.is_ok() {
            self.remember(key, &tags);
        }
        result
    }

    pub(crate) fn add(
        &self,
        key: &Key<'_>,
        version: i64,
        content: &Content,
        timeout: Timeout,
        tags: Vec<TagVersion>,
        cost: Duration,
    ) -> Result<bool> {
        let final_key = self.keys.final_key(key, version)?;
        let Some(expiry) = self.expiry(timeout) else {
            return self.store.get(&final_key).map(|entry| entry.is_none());
        };
        let value = self.seal(content, tags.clone(), cost);
        let mut result = self.store.add(&final_key, &value, expiry);
        // An entry that cannot be used any more counts as missing, so it must not stand in the way. Two callers who
        // find the same one may both replace it; where that matters, do not give the key tags.
        if matches!(result, Ok(false)) {
            match self.look_up(key, version)?.result {
                Err(MissReason::TagChanged(_) | MissReason::Unreadable(_)) => {
                    self.store.delete(&final_key)?;
                    result = self.store.add(&final_key, &value, expiry);
                }
                Err(MissReason::Unavailable) => return Err(self.unavailable()),
                Ok(_) | Err(_) => {}
            }
        }
        if !matches!(result, Ok(false)) {
            self.report(key, content, cost, &result);
        }
        if matches!(result, Ok(true)) {
            self.remember(key, &tags);
        }
        result
    }

    pub(crate) fn put_many(
        &self,
        items: &[(Key<'_>, Content)],
        version: i64,
        timeout: Timeout,
        tags: &[TagVersion],
    ) -> Result<Vec<usize>> {
        let keys: Vec<Key<'_>> = items.iter().map(|(key, _)| key.clone()).collect();
        let final_keys = self.final_keys(&keys, version)?;
        let key_refs: Vec<&str> = final_keys.iter().map(String::as_str).collect();
        let Some(expiry) = self.expiry(timeout) else {
            return self.store.delete_many(&key_refs).map(|_| Vec::new());
        };
        let sealed = items.iter().map(|(_, content)| self.seal(content, tags.to_vec(), Duration::ZERO));
        let values: Vec<(&str, Value)> = key_refs.iter().copied().zip(sealed).collect();
        let failed = self.store.set_many(&values, expiry)?;
        for (position, (key, content)) in items.iter().enumerate() {
            if failed.contains(&position) {
                self.journal.not_stored(key, &"the store refused it");
            } else {
                self.remember(key, tags);
                self.journal.stored(key, content.len(), Duration::ZERO);
            }
        }
        Ok(failed)
    }

    pub(crate) fn touch(&self, key: &Key<'_>, version: i64, timeout: Timeout) -> Result<bool> {
        let final_key = self.keys.final_key(key, version)?;
        match self.expiry(timeout) {
            Some(expiry) => self.store.touch(&final_key, expiry),
            None => self.store.delete(&final_key),
        }
    }

    pub(crate) fn delete(&self, key: &Key<'_>, version: i64, cause: Option<&str>) -> Result<bool> {
        let final_key = self.keys.final_key(key, version)?;
        match self.store.delete(&final_key) {
            Ok(was_there) => {
                self.journal.invalidated(key, cause, usize::from(was_there), None);
                Ok(was_there)
            }
            Err(error) => {
                self.journal.invalidation_failed(key, cause, &error);
                Err(error)
            }
        }
    }

    pub(crate) fn delete_many(&self, keys: &[Key<'_>], version: i64, cause: Option<&str>) -> Result<usize> {
        let final_keys = self.final_keys(keys, version)?;
        let key_refs: Vec<&str> = final_keys.iter().map(String::as_str).collect();
        let result = self.store.delete_many(&key_refs);
        let label = keys.iter().map(Key::label).collect::<Vec<_>>().join(" ");
        let all = Key::from(label);
        match &result {
            Ok(count) => self.journal.invalidated(&all, cause, *count, None),
            Err(error) => self.journal.invalidation_failed(&all, cause, error),
        }
        result
    }

    /// Makes every entry that carries one of these tags stale.
    pub(crate) fn invalidate_tags(&self, names: &[String], cause: Option<&str>) -> Result<()> {
        let keys = self.tag_keys(names.iter().map(String::as_str))?;
        let key_refs: Vec<&str> = keys.iter().map(String::as_str).collect();
        let result = self.store.delete_many(&key_refs);
        for name in names {
            let key = Key::tag(name);
            match &result {
                Ok(_) => {
                    let removed = self.remembered.take(name);
                    let labels = removed.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
                    self.journal.invalidated(&key, cause, removed.len(), (!labels.is_empty()).then_some(&*labels));
                }
                Err(error) => self.journal.invalidation_failed(&key, cause, error),
            }
        }
        result.map(drop)
    }

    pub(crate) fn incr(&self, key: &Key<'_>, version: i64, delta: i64) -> Result<i64> {
        let final_key = self.keys.final_key(key, version)?;
        self.store.incr(&final_key, delta)?.ok_or_else(|| not_found(key))
    }

    /// Moves an entry to another version of its key, with the time it has left.
    pub(crate) fn incr_version(&self, key: &Key<'_>, version: i64, delta: i64) -> Result<i64> {
        let old_key = self.keys.final_key(key, version)?;
        let out_of_range =
            || Error::NotACounter { key: key.label().to_owned(), reason: "the version would not fit into 64 bits" };
        let new_version = version.checked_add(delta).ok_or_else(out_of_range)?;
        let new_key = self.keys.final_key(key, new_version)?;
        let entry = self.store.get(&old_key)?.ok_or_else(|| not_found(key))?;
        if new_version != version {
            self.store.set(&new_key, &entry.value, entry.expiry)?;
            self.store.delete(&old_key)?;
        }
        Ok(new_version)
    }

    pub(crate) fn clear(&self, cause: Option<&str>) -> Result<()> {
        let result = self.store.clear();
        match &result {
            Ok(()) => {
                self.remembered.clear();
                self.journal.cleared(cause);
            }
            Err(error) => self.journal.clearing_failed(cause, error),
        }
        result
    }

    pub(crate) fn stats(&self) -> Result<Stats> {
        self.store.stats()
    }

    fn unavailable(&self) -> Error {
        Error::unavailable(format!("cache {}", self.name), "its store did not answer")
    }

    fn expiry(&self, timeout: Timeout) -> Option<Expiry> {
        timeout.or(self.timeout).expiry(self.clock.now())
    }

    fn seal(&self, content: &Content, tags: Vec<TagVersion>, cost: Duration) -> Value {
        let (codec, payload) = match content {
            Content::Integer(number) if tags.is_empty() => return Value::Integer(*number),
            // A counter has no room for tags.
            Content::Integer(number) => (Codec::MessagePack, pack_integer(*number)),
            Content::Payload(codec, payload) => (*codec, payload.clone()),
        };
        let created = self.clock.now();
        Value::Bytes(Envelope { codec, created, cost, tags, payload }.encode())
    }

    fn remember(&self, key: &Key<'_>, tags: &[TagVersion]) {
        if !tags.is_empty() {
            self.remembered.note(tags, &format!("{} {}", key.kind().field(), key.label()));
        }
    }

    fn report<T>(&self, key: &Key<'_>, content: &Content, cost: Duration, result: &Result<T>) {
        match result {
            Ok(_) if self.capabilities.stores => self.journal.stored(key, content.len(), cost),
            Ok(_) => self.journal.not_stored(key, &"the dummy store keeps nothing"),
            Err(error) => self.journal.not_stored(key, error),
        }
    }

    fn final_keys(&self, keys: &[Key<'_>], version: i64) -> Result<Vec<String>> {
        keys.iter().map(|key| self.keys.final_key(key, version)).collect()
    }

    /// Tags belong to the alias, whatever version of a key they stand on.
    fn tag_keys<'n>(&self, names: impl Iterator<Item = &'n str>) -> Result<Vec<String>> {
        names.map(|name| self.keys.final_key(&Key::tag(name), self.version)).collect()
    }
}

fn not_found(key: &Key<'_>) -> Error {
    Error::KeyNotFound { key: key.label().to_owned() }
}
