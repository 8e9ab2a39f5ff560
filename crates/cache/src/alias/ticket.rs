//! Tickets: the right to load a key, kept in the store under the key itself.
//!
//! Whoever loads a missing key first puts a ticket there, an entry without a value, and in the end replaces it by what he
//! loaded. Whoever refreshes a stale value puts his ticket into its entry. Whatever happens to the key meanwhile (it is
//! deleted, set, expired, evicted, the store is flushed or restarted) takes the ticket away, so the replacement fails and
//! the value, which may be older than what happened, is not stored. Tickets are compared by a random number and not by
//! time; time only limits how long the ticket of a process that died stands in the way of others.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{Alias, Found, Keep, State, check_tags};
use crate::{
    backend::{Replacement, Sharing, Value},
    codec::Content,
    envelope::{Envelope, MAX_TAGS, Remark, TagList, TagVersion, Ticket},
    error::Result,
    events::{MissReason, What},
    key::Key,
    tags,
    timeout::Expiry,
};

/// How long a ticket is valid that nobody renews: so long does a process that died keep others waiting.
const TICKET_FOR: Duration = Duration::from_secs(10);

/// How old a ticket gets before it is renewed.
const RENEW_AFTER: Duration = Duration::from_secs(3);

/// How long a ticket is valid in the memory of this process, which dies with its tickets.
const PROCESS_TICKET_FOR: Duration = Duration::from_secs(60 * 60);

/// The token of a ticket that nobody holds: it stands beside a stale value whose refresh failed just now.
const PAUSE: u64 = 0;

/// How long what is left of a released ticket stays: the shortest time that every store knows.
const RELEASED_FOR: Duration = Duration::from_secs(1);

/// For how many keys the tags are remembered that their loaders found out.
const MAX_DISCOVERED: usize = 10_000;

/// What came of the attempt to get a ticket.
#[derive(Debug)]
pub(crate) enum Claimed {
    Granted(Claim),
    /// Somebody else has it.
    Held,
    /// The key is not as it was found: look again.
    Changed,
    /// One of several keys whose part of the store does not answer.
    Unavailable,
}

/// A ticket that was granted. One that is dropped is released by the next maintenance.
#[derive(Debug)]
pub(crate) struct Claim {
    key: Key<'static>,
    final_key: String,
    held: Arc<Mutex<Held>>,
    token: u64,
}

/// A ticket as it stands in the store.
#[derive(Debug)]
struct Held {
    envelope: Envelope,
    value: Value,
    renewed: Instant,
    is_lost: bool,
    /// How long nobody shall try again, if the load ended without a word.
    pause: Option<Duration>,
}

impl Claim {
    /// Leaves the ticket to the next maintenance, which releases it with this pause.
    pub(crate) fn abandon(self, pause: Option<Duration>) {
        lock(&self.held).pause = pause;
    }
}

/// What must be known before a loader runs, so that an invalidation during the load is noticed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Basis {
    /// The versions of the tags that are known beforehand.
    known: Vec<TagVersion>,
    /// How many of them the caller gave; the others are those that the loader found out last time.
    given: usize,
    /// The mark that every invalidation of a tag changes, if it could be read.
    any_tag: Option<u64>,
    /// The tags of the value that is about to be replaced.
    old_tags: Vec<String>,
}

impl Basis {
    /// Returns the tags of the value that is about to be replaced.
    pub(crate) fn old_tags(&self) -> &[String] {
        &self.old_tags
    }

    /// Returns the versions of the tags that were known beforehand.
    #[cfg(feature = "page")]
    pub(crate) fn known(&self) -> &[TagVersion] {
        &self.known
    }
}

/// What became of a loaded value.
#[derive(Debug)]
pub(crate) enum Finished {
    Kept,
    /// It is not stored: it has expired already.
    NotKept,
    /// It is not stored: something was invalidated while it was loaded.
    Overtaken,
}

/// The tickets that this process has, and the tags that its loaders found out.
#[derive(Debug, Default)]
pub(crate) struct Tickets {
    held: Mutex<HashMap<u64, Registered>>,
    discovered: Mutex<HashMap<String, Vec<String>>>,
}

impl Alias {
    /// Tries to get the ticket for a key that was looked up. A pause after a failed load counts for those who have a
    /// stale value to serve.
    pub(crate) fn claim(&self, key: &Key<'_>, version: i64, found: &Found, has_fallback: bool) -> Result<Claimed> {
        let final_key = self.keys.final_key(key, version)?;
        let Some((held, token)) = self.ticket_for(&final_key, found, has_fallback)? else { return Ok(Claimed::Held) };
        let kept_until = held.envelope.kept_until;
        let is_ours = match &found.seen {
            None => self.store.add(&final_key, &held.value, kept_until)?,
            Some(seen) => self.store.replace(&final_key, seen, &held.value, kept_until)?,
        };
        Ok(if is_ours { Claimed::Granted(self.granted(key, final_key, held, token)) } else { Claimed::Changed })
    }

    /// Tries to get the tickets for several keys, each with what was found and whether there is a stale value to serve.
    pub(crate) fn claim_many(&self, keys: &[Key<'_>], version: i64, found: &[(&Found, bool)]) -> Result<Vec<Claimed>> {
        let final_keys = self.final_keys(keys, version)?;
        let tickets = final_keys.iter().zip(found);
        let tickets: Vec<_> =
            tickets.map(|(final_key, (found, fallback))| self.ticket_for(final_key, found, *fallback)).collect();
        let mut is_ours = vec![false; keys.len()];
        let (mut new, mut replacing) = (Vec::new(), Vec::new());
        for (position, ticket) in tickets.iter().enumerate() {
            match (ticket, &found[position].0.seen) {
                (Ok(Some((held, _))), None) => new.push((position, held)),
                (Ok(Some((held, _))), Some(seen)) => replacing.push((position, held, seen)),
                (Ok(None) | Err(_), _) => {}
            }
        }
        if let Some((_, first)) = new.first() {
            let items: Vec<(&str, Value)> =
                new.iter().map(|(position, held)| (&*final_keys[*position], held.value.clone())).collect();
            let added = self.store.add_many(&items, first.envelope.kept_until)?;
            new.iter().zip(added).for_each(|((position, _), added)| is_ours[*position] = added);
        }
        if !replacing.is_empty() {
            let items: Vec<Replacement<'_>> = replacing
                .iter()
                .map(|(position, held, seen)| Replacement {
                    key: &final_keys[*position],
                    old: seen,
                    new: &held.value,
                    expiry: held.envelope.kept_until,
                })
                .collect();
            let replaced = self.store.replace_many(&items)?;
            replacing.iter().zip(replaced).for_each(|((position, ..), replaced)| is_ours[*position] = replaced);
        }
        let claimed =
            keys.iter().zip(final_keys).zip(tickets).zip(is_ours).map(|(((key, final_key), ticket), is_ours)| {
                match ticket {
                    Ok(Some((held, token))) if is_ours => Claimed::Granted(self.granted(key, final_key, held, token)),
                    Ok(Some(_)) => Claimed::Changed,
                    Ok(None) => Claimed::Held,
                    Err(_) => Claimed::Unavailable,
                }
            });
        Ok(claimed.collect())
    }

    /// Makes a ticket for a key that was looked up; `None` if there is one.
    fn ticket_for(&self, final_key: &str, found: &Found, has_fallback: bool) -> Result<Option<(Held, u64)>> {
        // Nothing is known against an entry whose tags could not be read.
        if matches!(found.state, State::Missing(MissReason::Unavailable)) {
            return Err(self.unavailable());
        }
        let now = self.clock.now();
        let old = found.seen.as_ref().and_then(|seen| self.envelope(seen));
        // Beside a value that an invalidation stands against, a ticket is for a load that comes to nothing.
        let counts = |ticket: &Ticket| match found.state {
            State::Fresh(_) | State::Stale(_) => ticket.token != PAUSE || has_fallback,
            State::Missing(MissReason::Loading) => true,
            State::Missing(_) => false,
        };
        if old.as_ref().and_then(|old| old.ticket).is_some_and(|ticket| ticket.until > now && counts(&ticket)) {
            return Ok(None);
        }
        let valid_for = if self.capabilities.sharing == Sharing::Process { PROCESS_TICKET_FOR } else { TICKET_FOR };
        let until = now.saturating_add(valid_for);
        let token = tags::random()?.max(PAUSE + 1);
        let ticket = Some(Ticket { token, until });
        let envelope = match (&found.state, old) {
            // The value stays, for those who may still see it.
            (State::Fresh(_) | State::Stale(_), Some(old)) => Envelope { ticket, ..old },
            _ => Envelope {
                created: now,
                fresh_until: Expiry::Never,
                kept_until: Expiry::At(until),
                expired: false,
                cost: Duration::ZERO,
                generation: self.generation(final_key)?,
                ticket,
                tags: TagList::default(),
                payload: None,
            },
        };
        let value = Value::Bytes(envelope.encode());
        Ok(Some((Held { envelope, value, renewed: Instant::now(), is_lost: false, pause: None }, token)))
    }

    fn granted(&self, key: &Key<'_>, final_key: String, held: Held, token: u64) -> Claim {
        let held = Arc::new(Mutex::new(held));
        self.tickets.held().insert(token, (final_key.clone(), Arc::clone(&held)));
        Claim { key: key.clone().into_owned(), final_key, held, token }
    }

    /// Reads what a load must be compared with. Call it when the ticket was granted and before the loader runs.
    pub(crate) fn basis<'c>(&self, claims: impl IntoIterator<Item = &'c Claim>, tags: &[String]) -> Result<Basis> {
        if !self.capabilities.stores {
            return Ok(Basis::default());
        }
        check_tags(tags)?;
        let mut foreseen = BTreeSet::new();
        let mut old_tags = Vec::new();
        for claim in claims {
            let held = lock(&claim.held);
            old_tags = held.envelope.tags.names();
            foreseen.extend(self.tickets.discovered().get(&claim.final_key).into_iter().flatten().cloned());
        }
        foreseen.extend(old_tags.iter().cloned());
        foreseen.retain(|name| !tags.contains(name) && !Remark::is_name(name));
        let names: Vec<String> = tags.iter().cloned().chain(foreseen).collect();
        let mut keys = self.tag_keys(names.iter().map(String::as_str))?;
        // In one round trip: an invalidation in between is seen in the version, or else in the mark.
        keys.push(self.any_tag_key()?);
        let all: Vec<String> = names.into_iter().chain([Key::any_tag().label().to_owned()]).collect();
        let (known, any_tag) = match tags::versions(&*self.store, &all, &keys) {
            Ok(mut known) => {
                let mark = known.pop();
                (known, mark.map(|mark| mark.version))
            }
            // The mark may lie where nobody answers; what needs no tags can be kept all the same.
            Err(error) if error.is_outage() && tags.is_empty() => (Vec::new(), None),
            Err(error) => return Err(error),
        };
        Ok(Basis { known, given: tags.len(), any_tag, old_tags })
    }

    /// Stores a loaded value in the place of its ticket.
    pub(crate) fn finish(
        &self,
        claim: Claim,
        content: &Content,
        keep: Keep,
        basis: Basis,
        discovered: Vec<String>,
    ) -> Result<Finished> {
        let Some(tags) = self.tags_for(&[&*claim.final_key], &basis, discovered)? else {
            self.journal.note(&claim.key, What::Overtaken { cost: keep.cost });
            self.release(claim, None)?;
            return Ok(Finished::Overtaken);
        };
        let keep = Keep { tags, ..keep };
        let Some(until) = self.until(&keep) else {
            self.release(claim, None)?;
            return Ok(Finished::NotKept);
        };
        let key = claim.key.clone();
        let (replaced, value) = {
            let held = self.tickets.give_back(&claim);
            // Of the generation that it was loaded in, which may be over.
            let value = self.seal(&content.without_counter(), &keep, until, held.envelope.generation);
            (self.store.replace(&claim.final_key, &held.value, &value, until.kept), value)
        };
        match replaced {
            Ok(true) => {
                self.stored(&key, &value, until.kept, &keep);
                Ok(Finished::Kept)
            }
            Ok(false) => {
                self.journal.note(&key, What::Overtaken { cost: keep.cost });
                Ok(Finished::Overtaken)
            }
            Err(error) => {
                self.journal.note(&key, What::NotStored { reason: &error });
                self.release(claim, None)?;
                Err(error)
            }
        }
    }

    /// Stores several loaded values, all with the same tags, in the places of their tickets.
    pub(crate) fn finish_many(
        &self,
        claims: Vec<(Claim, Content)>,
        keep: Keep,
        basis: &Basis,
        discovered: Vec<String>,
    ) -> Result<Vec<Finished>> {
        let final_keys: Vec<&str> = claims.iter().map(|(claim, _)| &*claim.final_key).collect();
        let Some(tags) = self.tags_for(&final_keys, basis, discovered)? else {
            let overtaken = claims.iter().map(|(claim, _)| {
                self.journal.note(&claim.key, What::Overtaken { cost: keep.cost });
                Finished::Overtaken
            });
            let overtaken = overtaken.collect();
            self.release_many(claims.into_iter().map(|(claim, _)| claim).collect())?;
            return Ok(overtaken);
        };
        let keep = Keep { tags, ..keep };
        let Some(until) = self.until(&keep) else {
            let count = claims.len();
            self.release_many(claims.into_iter().map(|(claim, _)| claim).collect())?;
            return Ok((0..count).map(|_| Finished::NotKept).collect());
        };
        let held: Vec<MutexGuard<'_, Held>> = claims.iter().map(|(claim, _)| self.tickets.give_back(claim)).collect();
        let sealed = claims.iter().zip(&held);
        let values: Vec<Value> = sealed
            .map(|((_, content), held)| self.seal(&content.without_counter(), &keep, until, held.envelope.generation))
            .collect();
        let items: Vec<Replacement<'_>> = claims
            .iter()
            .zip(&held)
            .zip(&values)
            .map(|(((claim, _), held), new)| Replacement {
                key: &claim.final_key,
                old: &held.value,
                new,
                expiry: until.kept,
            })
            .collect();
        let replaced = self.store.replace_many(&items);
        let mut finished = Vec::with_capacity(claims.len());
        for (position, (claim, _)) in claims.iter().enumerate() {
            if replaced.as_ref().is_ok_and(|replaced| replaced.get(position) == Some(&true)) {
                self.stored(&claim.key, &values[position], until.kept, &keep);
                finished.push(Finished::Kept);
                continue;
            }
            self.journal.note(&claim.key, What::Overtaken { cost: keep.cost });
            finished.push(Finished::Overtaken);
            // It may also be too large: then its ticket is still there, and must not keep others waiting.
            let _ = self.release_held(&claim.final_key, &held[position], None);
        }
        replaced.map(|_| finished)
    }

    pub(crate) fn release_many(&self, claims: Vec<Claim>) -> Result<()> {
        // All are tried, whatever becomes of the first.
        let released: Vec<Result<()>> = claims.into_iter().map(|claim| self.release(claim, None)).collect();
        released.into_iter().collect()
    }

    /// Returns the versions that a loaded value's tags had before it was loaded; `None` if that cannot be told.
    fn tags_for(&self, final_keys: &[&str], basis: &Basis, discovered: Vec<String>) -> Result<Option<Vec<TagVersion>>> {
        let Basis { known, given, any_tag, .. } = basis;
        let (given, foreseen) = known.split_at((*given).min(known.len()));
        let mut tags = given.to_vec();
        let mut unforeseen = Vec::new();
        let discovered: BTreeSet<String> = discovered.into_iter().collect();
        for name in &discovered {
            if given.iter().any(|tag| tag.name == *name) {
                continue;
            }
            match foreseen.iter().find(|tag| tag.name == *name) {
                Some(tag) => tags.push(tag.clone()),
                None if Remark::is_name(name) => tags.push(TagVersion { name: name.clone(), version: 0 }),
                None => unforeseen.push(name.clone()),
            }
        }
        let tracked: Vec<String> = discovered.into_iter().filter(|name| !Remark::is_name(name)).collect();
        if !tracked.is_empty() {
            final_keys.iter().for_each(|key| self.tickets.discovered_for(key, tracked.clone()));
        }
        if tags.len() + unforeseen.len() > MAX_TAGS {
            return Ok(None);
        }
        if unforeseen.is_empty() {
            return Ok(Some(tags));
        }
        if any_tag.is_none() {
            return Ok(None);
        }
        // Versions first: should one of them be new, the mark that is read after it is new too.
        tags.extend(self.tag_versions(&unforeseen)?);
        Ok((*any_tag == Some(self.any_tag()?)).then_some(tags))
    }

    /// Gives a ticket up. `pause` leaves it in place for so long where there is a stale value, so that nobody tries again
    /// at once.
    pub(crate) fn release(&self, claim: Claim, pause: Option<Duration>) -> Result<()> {
        let held = self.tickets.give_back(&claim);
        self.release_held(&claim.final_key, &held, pause)
    }

    fn release_held(&self, final_key: &str, held: &Held, pause: Option<Duration>) -> Result<()> {
        let old = held.envelope.clone();
        if held.is_lost {
            return Ok(());
        }
        let now = self.clock.now();
        let pause = pause.map(|pause| Ticket { token: PAUSE, until: now.saturating_add(pause) });
        let new = match old.payload {
            Some(_) => Envelope { ticket: pause, ..old },
            None => Envelope { ticket: None, kept_until: Expiry::At(now.saturating_add(RELEASED_FOR)), ..old },
        };
        let kept_until = new.kept_until;
        self.store.replace(final_key, &held.value, &Value::Bytes(new.encode()), kept_until).map(drop)
    }

    /// Prolongs the tickets of loads that are under way, and releases those whose load ended without a word.
    pub(super) fn renew_tickets(&self) {
        let (abandoned, under_way) = self.tickets.sorted_out();
        for (final_key, held) in abandoned {
            let held = lock(&held);
            let _ = self.release_held(&final_key, &held, held.pause);
        }
        if self.capabilities.sharing == Sharing::Process {
            return;
        }
        for (final_key, held) in under_way {
            self.renew(&final_key, &mut lock(&held));
        }
    }

    fn renew(&self, final_key: &str, held: &mut Held) {
        let Some(ticket) = held.envelope.ticket else { return };
        if held.is_lost || held.renewed.elapsed() < RENEW_AFTER {
            return;
        }
        let until = self.clock.now().saturating_add(TICKET_FOR);
        let mut envelope = Envelope { ticket: Some(Ticket { until, ..ticket }), ..held.envelope.clone() };
        if envelope.payload.is_none() {
            envelope.kept_until = Expiry::At(until);
        }
        let value = Value::Bytes(envelope.encode());
        match self.store.replace(final_key, &held.value, &value, envelope.kept_until) {
            Ok(true) => *held = Held { envelope, value, renewed: Instant::now(), ..*held },
            // After an error nobody knows which of the two stands there; either expires.
            Ok(false) | Err(_) => held.is_lost = true,
        }
    }

    fn any_tag(&self) -> Result<u64> {
        let names = [Key::any_tag().label().to_owned()];
        let versions = tags::versions(&*self.store, &names, &[self.any_tag_key()?])?;
        versions.first().map(|mark| mark.version).ok_or_else(|| self.unavailable())
    }
}

type Registered = (String, Arc<Mutex<Held>>);

impl Tickets {
    /// Takes out the tickets whose claim was dropped; returns them and the others.
    fn sorted_out(&self) -> (Vec<Registered>, Vec<Registered>) {
        let mut held = self.held();
        let is_abandoned = |(_, held): &Registered| Arc::strong_count(held) == 1;
        let tokens: Vec<u64> =
            held.iter().filter(|(_, ticket)| is_abandoned(ticket)).map(|(token, _)| *token).collect();
        let abandoned = tokens.iter().filter_map(|token| held.remove(token)).collect();
        (abandoned, held.values().cloned().collect())
    }

    /// Ends the renewal of a ticket and returns it as it stands in the store.
    fn give_back<'c>(&self, claim: &'c Claim) -> MutexGuard<'c, Held> {
        self.held().remove(&claim.token);
        lock(&claim.held)
    }

    fn discovered_for(&self, final_key: &str, tags: Vec<String>) {
        let mut discovered = self.discovered();
        if discovered.len() >= MAX_DISCOVERED && !discovered.contains_key(final_key) {
            discovered.clear();
        }
        discovered.insert(final_key.to_owned(), tags);
    }

    fn held(&self) -> MutexGuard<'_, HashMap<u64, Registered>> {
        lock(&self.held)
    }

    fn discovered(&self) -> MutexGuard<'_, HashMap<String, Vec<String>>> {
        lock(&self.discovered)
    }
}

/// No code panics while it holds one of these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
