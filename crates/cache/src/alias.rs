//! One alias of the settings: a store with its keys, default timeout, tags and counts.
//!
//! Works on stored values, not on types: `codec` encodes and decodes around it. All methods may block where the store
//! does. `alias/find.rs` looks up, `alias/ticket.rs` loads, this file has the other verbs.

mod find;
mod note;
mod ticket;
#[cfg(feature = "page")]
mod watched;

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

#[cfg(feature = "page")]
pub(crate) use self::watched::{Grounds, Watched};
pub(crate) use self::{
    find::{Copies, Found, Hit, State},
    note::Notes,
    ticket::{Basis, Claim, Claimed, Finished, Tickets},
};
use crate::{
    backend::{Backend, Capabilities, Stats, Value, near::Near},
    chance::Chance,
    clock::Clock,
    codec::{self, Content, pack_integer},
    dependencies,
    envelope::{Codec, Envelope, MAX_TAG_BYTES, MAX_TAGS, Payload, Remark, TagList, TagVersion},
    error::{Error, Result},
    events::{Journal, MissReason, What},
    generation::Generations,
    key::{Key, KeySpace},
    load::LoadOptions,
    tags::{self, Remembered},
    timeout::{Expiry, Timeout},
    transaction,
};
#[cfg(feature = "page")]
use crate::{clock::Timestamp, generation::EVERY_VERSION};

/// How often a value is read and replaced again because others are faster. Each of them got on by one.
const MAX_ROUNDS: usize = 100;

/// A timeout that nobody sees the end of: a thousand years.
const LONGEST: Duration = Duration::from_secs(1000 * 365 * 24 * 60 * 60);

#[derive(Debug)]
pub(crate) struct Alias {
    pub(crate) name: String,
    pub(crate) store: Box<dyn Backend>,
    /// Copies of what look-ups found in the store.
    pub(crate) near: Option<Near>,
    pub(crate) capabilities: Capabilities,
    pub(crate) keys: KeySpace,
    pub(crate) version: i64,
    pub(crate) timeout: Timeout,
    pub(crate) load_options: LoadOptions,
    pub(crate) compress_above: Option<usize>,
    /// How long an async caller waits for a store that blocks.
    pub(crate) deadline: Duration,
    pub(crate) clock: Clock,
    pub(crate) chance: Chance,
    pub(crate) journal: Arc<Journal>,
    pub(crate) remembered: Remembered,
    pub(crate) generations: Generations,
    pub(crate) tickets: Tickets,
    /// Tags whose invalidation was told to some servers and not to others.
    pub(crate) half_told: Mutex<BTreeSet<String>>,
    pub(crate) notes: Notes,
    /// Whether what others invalidate is heard of later here than where they share a store.
    pub(crate) hears_late: AtomicBool,
}

/// How a value is kept.
#[derive(Debug, Clone, Default)]
pub(crate) struct Keep {
    pub(crate) timeout: Timeout,
    /// How long after its timeout it is kept as stale.
    pub(crate) stale_for: Duration,
    /// By how much of itself the timeout may be lengthened.
    pub(crate) jitter: f64,
    pub(crate) tags: Vec<TagVersion>,
    pub(crate) cost: Duration,
}

impl Alias {
    /// Reads the versions of tags, before the value that shall carry them is computed.
    pub(crate) fn tag_versions(&self, names: &[String]) -> Result<Vec<TagVersion>> {
        if names.is_empty() || !self.capabilities.stores {
            return Ok(Vec::new());
        }
        check_tags(names)?;
        let keys = self.tag_keys(names.iter().map(String::as_str))?;
        tags::versions(&*self.store, names, &keys)
    }

    pub(crate) fn put(&self, key: &Key<'_>, version: i64, content: &Content, keep: &Keep) -> Result<()> {
        let final_key = self.keys.final_key(key, version)?;
        let Some(until) = self.until(keep) else { return self.store.delete(&final_key).map(drop) };
        let generation = match self.generation(&final_key) {
            Ok(generation) => generation,
            Err(error) => return Err(self.put_failed(key, version, error)),
        };
        let value = self.seal(content, keep, until, generation);
        let result = self.store.set(&final_key, &value, until.kept);
        match &result {
            Ok(()) => self.stored(key, &value, until.kept, keep),
            Err(error) => self.journal.note(key, What::NotStored { reason: error }),
        }
        result
    }

    /// Replaces an entry, if it still is as it was found, by another one of its generation.
    #[cfg(feature = "page")]
    pub(crate) fn replace_found(
        &self,
        key: &Key<'_>,
        version: i64,
        seen: &Value,
        content: &Content,
        keep: &Keep,
    ) -> Result<bool> {
        let final_key = self.keys.final_key(key, version)?;
        let (Some(until), Some(old)) = (self.until(keep), self.envelope(seen)) else { return Ok(false) };
        let value = self.seal(content, keep, until, old.generation);
        let replaced = self.store.replace(&final_key, seen, &value, until.kept)?;
        if replaced {
            self.stored(key, &value, until.kept, keep);
        }
        Ok(replaced)
    }

    /// Returns what stands under a key of the cache's own, which counts for all versions.
    #[cfg(feature = "page")]
    pub(crate) fn own(&self, key: &Key<'_>) -> Result<Option<Value>> {
        Ok(self.store.get(&self.keys.final_key(key, EVERY_VERSION)?)?.map(|entry| entry.value))
    }

    /// Puts something there, if what stands there is still this; tells whether it did.
    #[cfg(feature = "page")]
    pub(crate) fn replace_own(&self, key: &Key<'_>, old: Option<&Value>, new: &Value) -> Result<bool> {
        let final_key = self.keys.final_key(key, EVERY_VERSION)?;
        match old {
            Some(old) => self.store.replace(&final_key, old, new, Expiry::Never),
            None => self.store.add(&final_key, new, Expiry::Never),
        }
    }

    /// Removes an entry, if it still is as it was found.
    #[cfg(feature = "page")]
    pub(crate) fn remove_found(&self, key: &Key<'_>, version: i64, seen: &Value) -> Result<bool> {
        let final_key = self.keys.final_key(key, version)?;
        self.store.replace(&final_key, seen, seen, Expiry::At(Timestamp::from_millis(1)))
    }

    /// Removes what a value should have replaced that could not even be made ready.
    pub(crate) fn put_failed(&self, key: &Key<'_>, version: i64, error: Error) -> Error {
        let deleted = self.keys.final_key(key, version).and_then(|final_key| self.store.delete(&final_key));
        self.journal.note(key, What::NotStored { reason: &error });
        deleted.err().unwrap_or(error)
    }

    /// Stores a value if the key is missing. An entry that is of no use any more counts as missing.
    pub(crate) fn add(&self, key: &Key<'_>, version: i64, content: &Content, keep: &Keep) -> Result<bool> {
        let final_key = self.keys.final_key(key, version)?;
        let Some(until) = self.until(keep) else {
            return Ok(!matches!(self.find(key, version, &[], Copies::WillNot)?.state, State::Fresh(_)));
        };
        // Read anew: two callers who take each other's entry for one of an older generation would both store.
        let generation = match self.capabilities.stores {
            true => self.generations.read(&*self.store, self.store.part_of(&final_key))?,
            false => 0,
        };
        let value = self.seal(content, keep, until, generation);
        let mut added = self.store.add(&final_key, &value, until.kept);
        for _ in 0..MAX_ROUNDS {
            if !matches!(added, Ok(false)) {
                break;
            }
            let found = self.find(key, version, &[], Copies::WillNot)?;
            added = match (found.state, found.seen) {
                (State::Fresh(_), _) => return Ok(false),
                (State::Missing(MissReason::Unavailable), _) => Err(self.unavailable()),
                (_, Some(old)) => self.store.replace(&final_key, &old, &value, until.kept),
                (_, None) => self.store.add(&final_key, &value, until.kept),
            };
        }
        match &added {
            Ok(true) => self.stored(key, &value, until.kept, keep),
            Ok(false) => {}
            Err(error) => self.journal.note(key, What::NotStored { reason: error }),
        }
        added
    }

    pub(crate) fn put_many(&self, items: &[(Key<'_>, Content)], version: i64, keep: &Keep) -> Result<Vec<usize>> {
        let keys: Vec<Key<'_>> = items.iter().map(|(key, _)| key.clone()).collect();
        let final_keys = self.final_keys(&keys, version)?;
        let key_refs: Vec<&str> = final_keys.iter().map(String::as_str).collect();
        let Some(until) = self.until(keep) else {
            return self.store.delete_many(&key_refs).map(|_| Vec::new());
        };
        let mut values: Vec<(&str, Value)> = Vec::with_capacity(items.len());
        for (final_key, (_, content)) in key_refs.iter().zip(items) {
            let generation = self.generation(final_key).or_else(|error| {
                self.store.delete_many(&key_refs)?;
                Err(error)
            })?;
            values.push((final_key, self.seal(content, keep, until, generation)));
        }
        let failed = self.store.set_many(&values, until.kept)?;
        for (position, (key, _)) in items.iter().enumerate() {
            if failed.contains(&position) {
                self.journal.note(key, What::NotStored { reason: &"the store refused it" });
            } else {
                self.stored(key, &values[position].1, until.kept, keep);
            }
        }
        Ok(failed)
    }

    /// Gives a value a new timeout. A value that a tag made stale, or that is past its own time, is not brought back.
    pub(crate) fn touch(&self, key: &Key<'_>, version: i64, timeout: Timeout) -> Result<bool> {
        let final_key = self.keys.final_key(key, version)?;
        for _ in 0..MAX_ROUNDS {
            let found = self.find(key, version, &[], Copies::WillNot)?;
            let State::Fresh(hit) = found.state else {
                return match found.state {
                    State::Missing(MissReason::Unavailable) => Err(self.unavailable()),
                    _ => Ok(false),
                };
            };
            let Some(seen) = found.seen else { return Ok(false) };
            let keep = Keep { timeout, stale_for: hit.stale_for(), ..Keep::default() };
            let Some(until) = self.until(&keep) else { return self.store.delete(&final_key) };
            let touched = match self.envelope(&seen) {
                // Replacing a counter would lose what others count meanwhile.
                None => self.store.touch(&final_key, until.kept)?,
                Some(old) => {
                    let new = Envelope { fresh_until: until.fresh, kept_until: until.kept, ..old };
                    self.store.replace(&final_key, &seen, &Value::Bytes(new.encode()), until.kept)?
                }
            };
            if touched {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(crate) fn delete(&self, key: &Key<'_>, version: i64, cause: Option<&str>) -> Result<bool> {
        let final_key = self.keys.final_key(key, version)?;
        match self.store.delete(&final_key) {
            Ok(was_there) => {
                let entries = usize::from(was_there);
                self.journal.note(key, What::Invalidated { cause, entries, removed: &[], may_be_more: true });
                Ok(was_there)
            }
            Err(error) => {
                self.journal.note(key, What::InvalidationFailed { cause, error: &error });
                Err(error)
            }
        }
    }

    pub(crate) fn delete_many(&self, keys: &[Key<'_>], version: i64, cause: Option<&str>) -> Result<usize> {
        let final_keys = self.final_keys(keys, version)?;
        let key_refs: Vec<&str> = final_keys.iter().map(String::as_str).collect();
        let result = self.store.delete_many(&key_refs);
        self.journal.note_all(
            keys,
            match &result {
                Ok(count) => What::Invalidated { cause, entries: *count, removed: &[], may_be_more: true },
                Err(error) => What::InvalidationFailed { cause, error },
            },
        );
        result
    }

    /// Removes the pages of one address, under whatever keys they may stand; in the log only if there were any.
    #[cfg(feature = "page")]
    pub(crate) fn purge(&self, keys: &[Key<'_>], version: i64, cause: Option<&str>) -> Result<usize> {
        let final_keys = self.final_keys(keys, version)?;
        let key_refs: Vec<&str> = final_keys.iter().map(String::as_str).collect();
        let result = self.store.delete_many(&key_refs);
        let Some(key) = keys.first() else { return Ok(0) };
        match &result {
            Ok(0) => {}
            Ok(entries) => {
                let what = What::Invalidated { cause, entries: *entries, removed: &[], may_be_more: true };
                self.journal.note(key, what);
            }
            Err(error) => self.journal.note(key, What::InvalidationFailed { cause, error }),
        }
        result
    }

    /// Makes a value stale, and overtakes whoever is loading it. Tells whether there was one.
    pub(crate) fn expire(&self, key: &Key<'_>, version: i64, cause: Option<&str>) -> Result<bool> {
        let expired = self.expire_in_store(key, version);
        match &expired {
            Ok(_) => self.journal.note(key, What::Expired { cause }),
            Err(error) => self.journal.note(key, What::InvalidationFailed { cause, error }),
        }
        expired
    }

    fn expire_in_store(&self, key: &Key<'_>, version: i64) -> Result<bool> {
        let final_key = self.keys.final_key(key, version)?;
        for _ in 0..MAX_ROUNDS {
            let expired = self.store.get(&final_key).and_then(|entry| {
                let Some(entry) = entry else { return Ok(Some(false)) };
                let old = self.envelope(&entry.value).filter(|envelope| envelope.payload.is_some());
                // Without an envelope there is no room for the mark.
                let Some(old) = old else { return self.store.delete(&final_key).map(Some) };
                let (now, kept_until) = (self.clock.now(), old.kept_until);
                let fresh_until = if old.fresh_until.has_passed(now) { old.fresh_until } else { Expiry::At(now) };
                let new = Envelope { fresh_until, expired: true, ticket: None, ..old };
                let new = Value::Bytes(new.encode());
                let replaced = self.store.replace(&final_key, &entry.value, &new, kept_until)?;
                Ok(replaced.then_some(true))
            });
            match expired {
                Ok(None) => {}
                Ok(Some(was_there)) => return Ok(was_there),
                Err(error) => {
                    // What cannot be marked is removed, now or when the store answers again.
                    self.store.delete(&final_key)?;
                    return Err(error);
                }
            }
        }
        self.store.delete(&final_key)
    }

    /// Makes every entry that carries one of these tags stale.
    pub(crate) fn invalidate_tags(&self, names: &[String], cause: Option<&str>) -> Result<()> {
        check_tags(names)?;
        let result = self.tell_of_tags(names);
        match &result {
            Ok(()) => self.note_tags(names, cause),
            Err(_) => self.tell_half(names)?,
        }
        for name in names {
            let key = Key::tag(name);
            match &result {
                Ok(()) => {
                    let removed = self.remembered.take(name);
                    let (entries, removed) = (removed.len(), removed.into_iter().collect::<Vec<_>>());
                    let is_shared = self.capabilities.sharing != crate::backend::Sharing::Process;
                    let may_be_more = is_shared || self.remembered.has_forgotten();
                    self.journal.note(&key, What::Invalidated { cause, entries, removed: &removed, may_be_more });
                }
                Err(error) => self.journal.note(&key, What::InvalidationFailed { cause, error }),
            }
        }
        result
    }

    /// Takes none of these tags for what it was. Their copies are forgotten once more, because somebody may have looked
    /// them up since.
    fn tell_half(&self, names: &[String]) -> Result<()> {
        self.half_told().extend(names.iter().cloned());
        if let Some(near) = &self.near {
            self.tag_keys(names.iter().map(String::as_str))?.iter().for_each(|key| near.forget(key));
        }
        Ok(())
    }

    /// The mark goes first: a load that sees the new version of a tag must also see that some tag was invalidated.
    fn tell_of_tags(&self, names: &[String]) -> Result<()> {
        if names.is_empty() {
            return Ok(());
        }
        let keys = self.tag_keys(names.iter().map(String::as_str))?;
        let key_refs: Vec<&str> = keys.iter().map(String::as_str).collect();
        let marked = self.store.delete(&self.any_tag_key()?);
        // Told even if the mark was not, so that the tags are pending there too.
        let told = self.store.delete_many(&key_refs);
        marked.and(told).map(drop)
    }

    /// Tells once more what was told to some servers only.
    pub(crate) fn maintain(&self) {
        self.store.maintain();
        self.renew_tickets();
        let names: Vec<String> = self.half_told().iter().cloned().collect();
        if !names.is_empty() && self.tell_of_tags(&names).is_ok() {
            self.half_told().retain(|name| !names.contains(name));
        }
        self.write_notes();
    }

    fn half_told(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.half_told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells whether what is here may be behind what the caller makes, which more will see than this store.
    pub(crate) fn may_be_behind(&self) -> bool {
        self.hears_late.load(Ordering::Relaxed) && dependencies::is_making_for_more_than(self.capabilities.sharing)
    }

    /// Tells whether who loads something here does it for himself, and stores nothing.
    pub(crate) fn works_alone(&self) -> bool {
        !self.capabilities.stores || transaction::is_open() || self.may_be_behind()
    }

    pub(crate) fn incr(&self, key: &Key<'_>, version: i64, delta: i64) -> Result<i64> {
        let final_key = self.keys.final_key(key, version)?;
        match self.store.incr(&final_key, delta) {
            Ok(sum) => sum.ok_or_else(|| not_found(key)),
            Err(error @ Error::NotACounter { .. }) => self.count_loaded(key, version, delta, error),
            Err(error) => Err(error),
        }
    }

    /// Makes a counter of an integer that a loader returned, which lies in an envelope until somebody counts with it.
    fn count_loaded(&self, key: &Key<'_>, version: i64, delta: i64, error: Error) -> Result<i64> {
        let final_key = self.keys.final_key(key, version)?;
        for _ in 0..MAX_ROUNDS {
            let found = self.find(key, version, &[], Copies::WillNot)?;
            let State::Fresh(hit) = &found.state else {
                return Err(match found.state {
                    State::Missing(MissReason::Unavailable) => self.unavailable(),
                    // Perhaps there is nothing but the ticket of somebody who loads the first value.
                    State::Missing(_) => not_found(key),
                    _ => error,
                });
            };
            let Some(seen @ Value::Bytes(_)) = &found.seen else {
                return self.store.incr(&final_key, delta)?.ok_or_else(|| not_found(key));
            };
            // A counter has no room for tags, nor for a time when it becomes stale.
            let is_bound = hit.fresh_until != Expiry::Never
                || self.envelope(seen).is_none_or(|envelope| !envelope.tags.is_empty());
            let Some(number) = codec::decode::<i64>(&hit.content).filter(|_| !is_bound) else { return Err(error) };
            let sum = Value::Integer(number).counted(key.label(), delta)?;
            if self.store.replace(&final_key, seen, &Value::Integer(sum), hit.kept_until)? {
                return Ok(sum);
            }
        }
        Err(self.unavailable())
    }

    /// Moves an entry to another version of its key, with the time it has left.
    pub(crate) fn incr_version(&self, key: &Key<'_>, version: i64, delta: i64) -> Result<i64> {
        let old_key = self.keys.final_key(key, version)?;
        let out_of_range =
            || Error::NotACounter { key: key.label().to_owned(), reason: "the version would not fit into 64 bits" };
        let new_version = version.checked_add(delta).ok_or_else(out_of_range)?;
        let new_key = self.keys.final_key(key, new_version)?;
        let entry = self.store.get(&old_key)?.ok_or_else(|| not_found(key))?;
        let value = match self.envelope(&entry.value) {
            Some(envelope) if envelope.payload.is_none() => return Err(not_found(key)),
            // Whoever loads the value loads it for the old version.
            Some(envelope) if envelope.ticket.is_some() => Value::Bytes(Envelope { ticket: None, ..envelope }.encode()),
            _ => entry.value,
        };
        if new_version != version {
            self.store.set(&new_key, &value, entry.expiry)?;
            self.store.delete(&old_key)?;
        }
        Ok(new_version)
    }

    /// Returns how long an entry will be served; `Some(None)` if it does not expire.
    pub(crate) fn ttl(&self, key: &Key<'_>, version: i64) -> Result<Option<Option<Duration>>> {
        let found = self.find(key, version, &[], Copies::WillNot)?;
        let State::Fresh(hit) = found.state else { return Ok(None) };
        Ok(Some(hit.fresh_end().remaining(self.clock.now())))
    }

    pub(crate) fn clear(&self, cause: Option<&str>) -> Result<()> {
        let result = self.store.clear();
        match &result {
            Ok(()) => {
                self.generations.forget();
                self.remembered.clear();
                self.journal.note_alias(What::Cleared { cause, prefix_only: false });
            }
            Err(error) => self.journal.note_alias(What::InvalidationFailed { cause, error }),
        }
        result
    }

    pub(crate) fn clear_prefix(&self, cause: Option<&str>) -> Result<()> {
        let result = self.generations.end(&*self.store);
        match &result {
            Ok(()) => {
                self.remembered.clear();
                self.journal.note_alias(What::Cleared { cause, prefix_only: true });
            }
            Err(error) => self.journal.note_alias(What::InvalidationFailed { cause, error }),
        }
        result
    }

    pub(crate) fn stats(&self) -> Result<Stats> {
        self.store.stats()
    }

    pub(crate) fn unavailable(&self) -> Error {
        Error::unavailable(format!("cache {}", self.name), "its store did not answer")
    }

    /// Returns until when a value is fresh and until when it is kept; `None` if it has expired already.
    fn until(&self, keep: &Keep) -> Option<Until> {
        let now = self.clock.now();
        let timeout = match keep.timeout.or(self.timeout) {
            Timeout::After(after) if keep.jitter > 0.0 => {
                let after = after.min(LONGEST);
                Timeout::After(after + after.mul_f64(keep.jitter * self.chance.draw()))
            }
            timeout => timeout,
        };
        let fresh = timeout.expiry(now)?;
        Some(match fresh {
            Expiry::At(moment) if !keep.stale_for.is_zero() => {
                Until { fresh, kept: Expiry::At(moment.saturating_add(keep.stale_for)) }
            }
            // As long as the store keeps it, so that no clock but the store's decides.
            kept => Until { fresh: Expiry::Never, kept },
        })
    }

    /// Returns the generation that a value belongs to which is stored now.
    fn generation(&self, final_key: &str) -> Result<u64> {
        match self.capabilities.stores {
            true => self.generations.current(&*self.store, self.store.part_of(final_key)),
            false => Ok(0),
        }
    }

    fn seal(&self, content: &Content, keep: &Keep, until: Until, generation: u64) -> Value {
        let (codec, payload) = match content {
            Content::Integer(number) if keep.tags.is_empty() && until.fresh == Expiry::Never => {
                return Value::Integer(*number);
            }
            // A counter has no room for tags, nor for a time when it becomes stale.
            Content::Integer(number) => (Codec::MessagePack, pack_integer(*number)),
            Content::Payload(codec, payload) => (*codec, payload.clone()),
        };
        let envelope = Envelope {
            created: self.clock.now(),
            fresh_until: until.fresh,
            kept_until: until.kept,
            expired: false,
            cost: keep.cost,
            generation,
            ticket: None,
            tags: TagList::new(&keep.tags),
            payload: Some(Payload::pack(codec, payload, self.compress_above)),
        };
        Value::Bytes(envelope.encode())
    }

    /// Returns the envelope that was just read and found to be good.
    pub(crate) fn envelope(&self, value: &Value) -> Option<Envelope> {
        match value {
            Value::Integer(_) => None,
            Value::Bytes(bytes) => Envelope::decode(bytes, false).ok(),
        }
    }

    fn stored(&self, key: &Key<'_>, value: &Value, until: Expiry, keep: &Keep) {
        if !self.capabilities.stores {
            return self.journal.note(key, What::NotStored { reason: &"the dummy store keeps nothing" });
        }
        if !keep.tags.is_empty() {
            self.remember(key, &TagList::new(&keep.tags));
        }
        self.journal.note(key, What::Stored { bytes: value.len(), cost: keep.cost, until });
    }

    fn remember(&self, key: &Key<'_>, tags: &TagList) {
        self.remembered.note(tags, &format!("{} {}", key.kind().field(), key.label()));
    }

    fn final_keys(&self, keys: &[Key<'_>], version: i64) -> Result<Vec<String>> {
        keys.iter().map(|key| self.keys.final_key(key, version)).collect()
    }

    /// Tags belong to the alias, whatever version of a key they stand on.
    /// Returns which part of the store a key lives on.
    pub(crate) fn part_of(&self, key: &Key<'_>, version: i64) -> Result<usize> {
        Ok(self.store.part_of(&self.keys.final_key(key, version)?))
    }

    fn tag_keys<'n>(&self, names: impl Iterator<Item = &'n str>) -> Result<Vec<String>> {
        names.map(|name| self.keys.final_key(&Key::tag(name), self.version)).collect()
    }

    fn any_tag_key(&self) -> Result<String> {
        self.keys.final_key(&Key::any_tag(), self.version)
    }
}

/// When a value stops to be fresh, and when it stops to be there.
#[derive(Debug, Clone, Copy)]
struct Until {
    fresh: Expiry,
    kept: Expiry,
}

/// Refuses tags that an entry has no room for.
fn check_tags(names: &[String]) -> Result<()> {
    let invalid = |name: &str, reason: String| Err(Error::InvalidKey { key: name.to_owned(), reason });
    if let Some(name) = names.iter().find(|name| Remark::is_name(name)) {
        return invalid(name, "a tag does not begin with the character U+0001".to_owned());
    }
    match names.iter().find(|name| name.len() > MAX_TAG_BYTES) {
        Some(name) => {
            invalid(&name.chars().take(32).collect::<String>(), format!("a tag has at most {MAX_TAG_BYTES} bytes"))
        }
        None if names.len() > MAX_TAGS => {
            invalid(&names[0], format!("an entry carries at most {MAX_TAGS} tags; use one for the whole list"))
        }
        None => Ok(()),
    }
}

fn not_found(key: &Key<'_>) -> Error {
    Error::KeyNotFound { key: key.label().to_owned() }
}
