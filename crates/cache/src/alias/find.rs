//! Looking an entry up, and telling why it is of no use.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use super::Alias;
use crate::{
    backend::{
        Changed, Entry, Value,
        near::{Begun, Near},
    },
    clock::{Tick, Timestamp},
    codec::Content,
    dependencies,
    envelope::{Envelope, TagList},
    error::Result,
    events::MissReason,
    key::Key,
    timeout::Expiry,
    transaction,
};

/// What a look-up came to.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) state: State,
    /// What stands in the store, be it of use or not.
    pub(crate) seen: Option<Value>,
    /// How long it took, if anybody wants to know.
    pub(crate) took: Option<Duration>,
}

/// Whether a copy will do that may be as old as the settings allow. It will not for those who make something of it that
/// is stored: that would be old for much longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Copies {
    Will,
    WillNot,
}

impl Copies {
    /// Says what the task or thread that asks needs.
    pub(crate) fn for_caller() -> Self {
        if dependencies::is_making_any() { Copies::WillNot } else { Copies::Will }
    }
}

#[derive(Debug, Clone)]
pub(crate) enum State {
    Fresh(Hit),
    /// Past its time, and kept for a while.
    Stale(Hit),
    Missing(MissReason),
}

/// An entry that no invalidation stands against.
#[derive(Debug, Clone)]
pub(crate) struct Hit {
    pub(crate) content: Content,
    pub(crate) created: Option<Timestamp>,
    pub(crate) fresh_until: Expiry,
    pub(crate) kept_until: Expiry,
    pub(crate) cost: Duration,
    /// Until when somebody has the right to load it again.
    pub(crate) held_until: Option<Timestamp>,
    pub(crate) stored_bytes: usize,
    pub(crate) tags: TagList,
}

impl Found {
    pub(crate) fn unavailable() -> Self {
        Found { state: State::Missing(MissReason::Unavailable), seen: None, took: None }
    }

    pub(crate) fn is_stale(&self) -> bool {
        matches!(self.state, State::Stale(_))
    }

    #[cfg(any(feature = "page", feature = "template"))]
    pub(crate) fn fresh(&self) -> Option<&Hit> {
        match &self.state {
            State::Fresh(hit) => Some(hit),
            _ => None,
        }
    }

    /// Returns the value if it is fresh, as the plain verbs want it.
    pub(crate) fn into_fresh(self) -> std::result::Result<Hit, MissReason> {
        match self.state {
            State::Fresh(hit) => Ok(hit),
            State::Stale(_) => Err(MissReason::Expired),
            State::Missing(reason) => Err(reason),
        }
    }

    /// Returns why there is no fresh value, for those who found none.
    pub(crate) fn why_missing(&self) -> MissReason {
        match &self.state {
            State::Missing(reason) => reason.clone(),
            _ => MissReason::Expired,
        }
    }
}

impl Hit {
    /// Returns when it stops to be fresh.
    pub(crate) fn fresh_end(&self) -> Expiry {
        if self.fresh_until == Expiry::Never { self.kept_until } else { self.fresh_until }
    }

    /// Returns how long after its own time it is kept.
    pub(crate) fn stale_for(&self) -> Duration {
        match (self.fresh_until, self.kept_until) {
            (Expiry::At(fresh), Expiry::At(kept)) => kept.saturating_since(fresh),
            _ => Duration::ZERO,
        }
    }

    /// Makes what is being made here depend on it.
    pub(crate) fn hand_on(&self) {
        dependencies::hand_on(self.tags.iter().map(|(name, _)| name), self.tags.remarks(), self.fresh_end());
    }

    pub(crate) fn is_held(&self, now: Timestamp) -> bool {
        self.held_until.is_some_and(|until| until > now)
    }
}

impl Alias {
    /// Looks a key up. `hints` are tags that the entry is expected to carry: they are read in the same round trip.
    /// `copies` says whether a copy is good enough.
    pub(crate) fn find(&self, key: &Key<'_>, version: i64, hints: &[String], copies: Copies) -> Result<Found> {
        let started = self.journal.times_look_ups(self.capabilities.blocking).then(Instant::now);
        let final_key = self.keys.final_key(key, version)?;
        let part = self.store.part_of(&final_key);
        if copies == Copies::Will
            && let Some(found) = self.find_near(key, &final_key, part)?
        {
            return Ok(Found { took: started.map(|started| started.elapsed()), ..found });
        }
        let mut batch = Batch::begun(self.near.as_ref());
        let checked = self.near.as_ref().filter(|near| copies == Copies::Will && near.is_checked());
        let read = match self.generations.known(part) {
            _ if checked.is_some() => self.read_checked(&final_key, part, hints, &mut batch),
            Some(generation) if hints.is_empty() => self.store.get(&final_key).map(|entry| (entry, generation)),
            known => self.read_along(Some(&final_key), part, known, hints, &mut batch),
        };
        let mut found = match read {
            Ok((Some(entry), generation)) => {
                self.copy(&batch, &final_key, &entry);
                self.open(key, part, entry, generation, &mut batch)?
            }
            Ok((None, _)) => Found { state: State::Missing(MissReason::Absent), seen: None, took: None },
            Err(error) if error.is_outage() => Found::unavailable(),
            Err(error) => return Err(error),
        };
        found.took = started.map(|started| started.elapsed());
        Ok(found)
    }

    /// Looks several keys up, in one round trip for all of them and one for their tags.
    pub(crate) fn find_many(
        &self,
        keys: &[Key<'_>],
        version: i64,
        hints: &[String],
        copies: Copies,
    ) -> Result<Vec<Found>> {
        let started = self.journal.times_look_ups(self.capabilities.blocking).then(Instant::now);
        let final_keys = self.final_keys(keys, version)?;
        let mut found: Vec<Option<Found>> = Vec::with_capacity(keys.len());
        for (key, final_key) in keys.iter().zip(&final_keys) {
            found.push(match copies {
                Copies::Will => self.find_near(key, final_key, self.store.part_of(final_key))?,
                Copies::WillNot => None,
            });
        }
        let away: Vec<usize> = (0..keys.len()).filter(|position| found[*position].is_none()).collect();
        let mut batch = Batch::begun(self.near.as_ref());
        let away_keys: Vec<&str> = away.iter().map(|position| &*final_keys[*position]).collect();
        match self.read_many(&away_keys, hints, &mut batch) {
            Ok(entries) => {
                self.read_tags_of(&entries, &mut batch)?;
                for (position, (entry, generation)) in away.into_iter().zip(entries) {
                    let part = self.store.part_of(&final_keys[position]);
                    found[position] = entry
                        .map(|entry| {
                            self.copy(&batch, &final_keys[position], &entry);
                            self.open(&keys[position], part, entry, generation, &mut batch)
                        })
                        .transpose()?;
                }
            }
            Err(error) if error.is_outage() => {
                away.into_iter().for_each(|position| found[position] = Some(Found::unavailable()));
            }
            Err(error) => return Err(error),
        }
        // Each has its share of it.
        let took = started.map(|started| started.elapsed() / u32::try_from(keys.len().max(1)).unwrap_or(u32::MAX));
        let absent = || Found { state: State::Missing(MissReason::Absent), seen: None, took };
        Ok(found.into_iter().map(|found| found.map_or_else(absent, |found| Found { took, ..found })).collect())
    }

    /// Looks a key up among the copies, without asking the store for anything.
    pub(crate) fn find_copy(&self, key: &Key<'_>, version: i64) -> Result<Option<Found>> {
        if self.near.is_none() {
            return Ok(None);
        }
        let started = self.journal.times_look_ups(false).then(Instant::now);
        let final_key = self.keys.final_key(key, version)?;
        let found = self.find_near(key, &final_key, self.store.part_of(&final_key))?;
        Ok(found.map(|found| Found { took: started.map(|started| started.elapsed()), ..found }))
    }

    /// Looks a key up among the copies. Anything but a fresh value is for the store to say.
    fn find_near(&self, key: &Key<'_>, final_key: &str, part: usize) -> Result<Option<Found>> {
        let near = self.near.as_ref().filter(|near| !near.is_checked());
        let (Some(near), Some(generation)) = (near, self.generations.known(part)) else { return Ok(None) };
        let Some(entry) = near.get(final_key) else { return Ok(None) };
        let mut batch = Batch::default();
        // What belongs to another generation is for the store to say too.
        let Some(envelope) = self.envelope(&entry.value).filter(|envelope| envelope.generation == generation) else {
            return Ok(None);
        };
        let tags = envelope.tags;
        for (name, _) in tags.iter() {
            let Some(copy) = near.get(&self.keys.final_key(&Key::tag(name), self.version)?) else { return Ok(None) };
            batch.note([name.to_owned()], [Some(copy)]);
        }
        let found = self.open(key, part, entry, generation, &mut batch)?;
        Ok(matches!(found.state, State::Fresh(_)).then_some(found))
    }

    /// Keeps a copy of a value that was read from the store. Counters and tickets have none.
    fn copy(&self, batch: &Batch, final_key: &str, entry: &Entry) {
        if let (Some(near), Some(begun)) = (&self.near, batch.begun)
            && !near.is_checked()
            && self.envelope(&entry.value).is_some_and(|envelope| envelope.payload.is_some())
        {
            near.copy(begun, final_key, entry);
        }
    }

    fn copy_tags(&self, begun: Option<Begun>, tag_keys: &[String], entries: &[Option<Entry>]) {
        let (Some(near), Some(begun)) = (self.near.as_ref().filter(|near| !near.is_checked()), begun) else { return };
        for (key, entry) in tag_keys.iter().zip(entries) {
            if let Some(entry @ Entry { value: Value::Integer(_), .. }) = entry {
                near.copy(begun, key, entry);
            }
        }
    }

    /// Asks the store whether the copy is still what it has, and then for what the entry depends on: tags and generation
    /// as they are now.
    fn read_checked(
        &self,
        final_key: &str,
        part: usize,
        hints: &[String],
        batch: &mut Batch,
    ) -> Result<(Option<Entry>, u64)> {
        let (Some(near), Some(begun)) = (&self.near, batch.begun) else { return Ok((None, 0)) };
        let copy = near.get_to_check(final_key);
        let entry = match self.store.get_changed(final_key, copy.as_ref().map(|(_, stamp)| *stamp))? {
            Changed::Missing => return Ok((None, 0)),
            Changed::No => copy.map(|(entry, _)| entry),
            Changed::Yes(entry, stamp) => {
                if let Some(stamp) = stamp {
                    near.copy_to_check(begun, final_key, &entry, stamp);
                }
                Some(entry)
            }
        };
        let tags = entry.as_ref().and_then(|entry| self.envelope(&entry.value)).map(|envelope| envelope.tags);
        let mut names = hints.to_vec();
        let of_entry = tags.iter().flat_map(TagList::iter).map(|(name, _)| name);
        names.extend(of_entry.filter(|name| !hints.iter().any(|hint| hint == name)).map(str::to_owned));
        let (_, generation) = self.read_along(None, part, None, &names, batch)?;
        Ok((entry, generation))
    }

    /// Reads tags in one round trip with an entry, the generation of its part, or both.
    fn read_along(
        &self,
        final_key: Option<&str>,
        part: usize,
        known: Option<u64>,
        hints: &[String],
        batch: &mut Batch,
    ) -> Result<(Option<Entry>, u64)> {
        let tag_keys = self.tag_keys(hints.iter().map(String::as_str))?;
        let mut keys: Vec<&str> = final_key.into_iter().collect();
        keys.extend(tag_keys.iter().map(String::as_str));
        if known.is_none() {
            keys.push(self.generations.key(part));
        }
        let asked = Tick::now();
        let mut entries = self.store.get_many(&keys)?;
        let generation = match known {
            Some(generation) => generation,
            None => {
                let found = entries.pop().flatten().map(|entry| entry.value);
                self.generations.learn(&*self.store, part, found, asked)?
            }
        };
        let tags = entries.split_off(usize::from(final_key.is_some()));
        self.copy_tags(batch.begun, &tag_keys, &tags);
        batch.note(hints.iter().cloned(), tags);
        Ok((entries.pop().flatten(), generation))
    }

    fn read_many(&self, final_keys: &[&str], hints: &[String], batch: &mut Batch) -> Result<Vec<(Option<Entry>, u64)>> {
        let parts: Vec<usize> = final_keys.iter().map(|key| self.store.part_of(key)).collect();
        for part in 0..self.store.parts().max(1) {
            if parts.contains(&part) {
                // A part that does not answer must not take the others' keys with it.
                let _ = self.generations.current(&*self.store, part);
            }
        }
        let tag_keys = self.tag_keys(hints.iter().map(String::as_str))?;
        let all: Vec<&str> = final_keys.iter().copied().chain(tag_keys.iter().map(String::as_str)).collect();
        let mut entries = self.store.get_many(&all)?;
        let tags = entries.split_off(final_keys.len());
        self.copy_tags(batch.begun, &tag_keys, &tags);
        batch.note(hints.iter().cloned(), tags);
        let with_generations = entries.into_iter().zip(parts);
        Ok(with_generations.map(|(entry, part)| (entry, self.generations.known(part).unwrap_or_default())).collect())
    }

    /// Reads the tags of many entries at once.
    fn read_tags_of(&self, entries: &[(Option<Entry>, u64)], batch: &mut Batch) -> Result<()> {
        let envelopes = entries.iter().filter_map(|(entry, _)| self.envelope(&entry.as_ref()?.value));
        let names: BTreeSet<String> = envelopes
            .flat_map(|envelope| envelope.tags.iter().map(|(name, _)| name.to_owned()).collect::<Vec<_>>())
            .collect();
        let unread: Vec<String> = names.into_iter().filter(|name| !batch.knows(name)).collect();
        self.read_tags(&unread, batch)
    }

    /// Returns the versions that tags have in the store now.
    pub(crate) fn current_versions<'n>(&self, names: impl Iterator<Item = &'n str>) -> Result<Vec<Option<u64>>> {
        let keys = self.tag_keys(names)?;
        let key_refs: Vec<&str> = keys.iter().map(String::as_str).collect();
        let entries = self.store.get_many(&key_refs)?;
        Ok(entries.into_iter().map(version_of).collect())
    }

    fn read_tags(&self, names: &[String], batch: &mut Batch) -> Result<()> {
        if names.is_empty() {
            return Ok(());
        }
        let keys = self.tag_keys(names.iter().map(String::as_str))?;
        let key_refs: Vec<&str> = keys.iter().map(String::as_str).collect();
        match self.store.get_many(&key_refs) {
            Ok(entries) => {
                self.copy_tags(batch.begun, &keys, &entries);
                batch.note(names.iter().cloned(), entries);
            }
            // Unread, they match no version.
            Err(error) if error.is_outage() => batch.is_incomplete = true,
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Reads an entry and finds out what stands against it.
    fn open(&self, key: &Key<'_>, part: usize, entry: Entry, generation: u64, batch: &mut Batch) -> Result<Found> {
        let missing = |reason| State::Missing(reason);
        let stored = match &entry.value {
            Value::Integer(_) if transaction::has_changed(key, [].into_iter()) => {
                return Ok(Found { state: missing(MissReason::Uncommitted), seen: Some(entry.value), took: None });
            }
            Value::Integer(number) => {
                let hit = Hit {
                    content: Content::Integer(*number),
                    created: None,
                    fresh_until: Expiry::Never,
                    kept_until: entry.expiry,
                    cost: Duration::ZERO,
                    held_until: None,
                    stored_bytes: entry.value.len(),
                    tags: TagList::default(),
                };
                return Ok(Found { state: State::Fresh(hit), seen: Some(entry.value), took: None });
            }
            Value::Bytes(bytes) => bytes,
        };
        // Memory of this process does not rot on the way.
        let state = match Envelope::decode(stored, self.capabilities.blocking) {
            Err(why) => missing(MissReason::Unreadable(why)),
            Ok(envelope) => match self.is_of(generation, envelope.generation, part, batch) {
                Ok(true) => self.judge(key, envelope, batch)?,
                Ok(false) => missing(MissReason::Cleared),
                Err(_) => missing(MissReason::Unavailable),
            },
        };
        Ok(Found { state, seen: Some(entry.value), took: None })
    }

    /// Tells whether an entry's generation is the current one. What is believed may be older than the entry; then it is
    /// read anew, once for all entries of a batch.
    fn is_of(&self, believed: u64, generation: u64, part: usize, batch: &mut Batch) -> Result<bool> {
        if believed == generation {
            return Ok(true);
        }
        let current = match batch.generations.iter().find(|(read, _)| *read == part) {
            Some((_, current)) => *current,
            None => {
                let current = self.generations.read(&*self.store, part)?;
                batch.generations.push((part, current));
                current
            }
        };
        Ok(current == generation)
    }

    fn judge(&self, key: &Key<'_>, envelope: Envelope, batch: &mut Batch) -> Result<State> {
        let held_until = envelope.ticket.map(|ticket| ticket.until);
        let Some(payload) = envelope.payload else {
            let is_held = held_until.is_some_and(|until| until > self.clock.now());
            return Ok(State::Missing(if is_held { MissReason::Loading } else { MissReason::Absent }));
        };
        if transaction::has_changed(key, envelope.tags.iter().map(|(name, _)| name)) {
            return Ok(State::Missing(MissReason::Uncommitted));
        }
        if self.may_be_behind() {
            return Ok(State::Missing(MissReason::Behind));
        }
        if let Some(reason) = self.changed_tag(&envelope.tags, batch)? {
            return Ok(State::Missing(reason));
        }
        // Another process may have stored it, perhaps before this one started.
        if self.capabilities.blocking && !envelope.tags.is_empty() {
            self.remember(key, &envelope.tags);
        }
        let (codec, stored_bytes) = (payload.codec(), payload.stored_bytes());
        let content = match payload.unpack() {
            Ok(bytes) => Content::Payload(codec, bytes),
            Err(why) => return Ok(State::Missing(MissReason::Unreadable(why))),
        };
        let hit = Hit {
            content,
            created: Some(envelope.created),
            fresh_until: envelope.fresh_until,
            kept_until: envelope.kept_until,
            cost: envelope.cost,
            held_until,
            stored_bytes,
            tags: envelope.tags,
        };
        // The clock is asked only where it decides.
        let is_stale = match hit.fresh_until {
            Expiry::Never => envelope.expired,
            until => envelope.expired || until.has_passed(self.clock.now()),
        };
        Ok(if is_stale { State::Stale(hit) } else { State::Fresh(hit) })
    }

    /// Returns the reason if a tag no longer has the version that an entry remembers.
    fn changed_tag(&self, tags: &TagList, batch: &mut Batch) -> Result<Option<MissReason>> {
        if tags.is_empty() {
            return Ok(None);
        }
        if !batch.is_incomplete {
            let unread = tags.iter().map(|(name, _)| name).filter(|name| !batch.knows(name));
            self.read_tags(&unread.map(str::to_owned).collect::<Vec<_>>(), batch)?;
        }
        if batch.is_incomplete && tags.iter().any(|(name, _)| !batch.knows(name)) {
            return Ok(Some(MissReason::Unavailable));
        }
        let half_told = self.half_told();
        let changed = tags.iter().find(|(name, version)| !batch.has(name, *version) || half_told.contains(*name));
        Ok(changed.map(|(name, _)| MissReason::TagChanged(name.to_owned())))
    }
}

/// The versions of tags that were read in the course of one look-up.
#[derive(Debug, Default)]
struct Batch {
    /// When the reading began, if what is read may be copied.
    begun: Option<Begun>,
    tags: Vec<(String, Option<u64>)>,
    /// The generations of parts that were read after the entries.
    generations: Vec<(usize, u64)>,
    /// Whether some could not be read.
    is_incomplete: bool,
}

impl Batch {
    fn begun(near: Option<&Near>) -> Self {
        Batch { begun: near.map(Near::begin), ..Batch::default() }
    }

    fn note(&mut self, names: impl IntoIterator<Item = String>, entries: impl IntoIterator<Item = Option<Entry>>) {
        self.tags.extend(names.into_iter().zip(entries.into_iter().map(version_of)));
    }

    fn knows(&self, name: &str) -> bool {
        self.tags.iter().any(|(known, _)| known == name)
    }

    fn has(&self, name: &str, version: u64) -> bool {
        self.tags.iter().any(|(known, current)| known == name && *current == Some(version))
    }
}

fn version_of(entry: Option<Entry>) -> Option<u64> {
    match entry?.value {
        Value::Integer(version) => Some(version.cast_unsigned()),
        Value::Bytes(_) => None,
    }
}
