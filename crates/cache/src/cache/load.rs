//! `get_or_set` and its kin: look up, and load what is missing, stale or about to become so.
//!
//! What a look-up means and how a loaded value is kept is decided here; `load/task.rs` and `load/here.rs` load, the one
//! in tasks, the other on the caller's thread, and `load/many.rs` loads many keys at once.

mod here;
mod many;
mod task;

use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

use super::{BlockingCache, turn::Loading};
use crate::{
    alias::{Basis, Found, Hit, Keep, State},
    clock::Timestamp,
    codec::{self, Content},
    dependencies::{self, Noted},
    error::Result,
    events::{MissReason, What},
    key::Key,
    load::{Chosen, LoadOptions},
    timeout::{Expiry, Timeout},
};

/// What a caller wants loaded.
#[derive(Debug, Clone)]
struct Wanted {
    key: Key<'static>,
    final_key: String,
    timeout: Timeout,
    options: LoadOptions,
}

/// What a look-up means for a caller who can load.
enum Next<T> {
    Serve(T),
    /// Serve it, and load it again meanwhile.
    Refresh(T),
    /// Load it. There may be a stale value that is better than none.
    Load(Option<(T, Timestamp)>),
}

/// What an entry is good for, for somebody who can load it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Use<'f> {
    Serve(&'f Hit),
    /// Serve it, and have it loaded again.
    Renew(&'f Hit),
    /// Load it; should that fail, this is better than nothing.
    Fallback(&'f Hit),
    Nothing,
}

impl BlockingCache {
    /// Says what is wanted; `None`, and a line in the log, if the key cannot be used.
    fn wanted(&self, key: &Key<'_>, timeout: Timeout) -> Option<Wanted> {
        let final_key = self.alias.keys.final_key(key, self.key_version());
        let final_key = final_key.map_err(|error| self.pass_by(key, &error)).ok()?;
        let options = self.load_options_or_default().clone();
        Some(Wanted { key: key.clone().into_owned(), final_key, timeout, options })
    }

    /// Decides what a look-up means, and counts it: the first look of a caller as a hit or miss, a later one as the end
    /// of a wait.
    fn next<T: DeserializeOwned>(
        &self,
        wanted: &Wanted,
        found: &Found,
        first_look: Option<Instant>,
    ) -> (Next<T>, Instant) {
        let begun = first_look.unwrap_or_else(Instant::now);
        let missed = |reason: &MissReason| {
            if first_look.is_none() {
                self.journal().note(&wanted.key, What::Miss { reason, took: found.took });
            }
        };
        let usage = self.use_of(found, &wanted.options);
        let (Use::Serve(hit) | Use::Renew(hit) | Use::Fallback(hit)) = usage else {
            missed(&found.why_missing());
            return (Next::Load(None), begun);
        };
        let Some(value) = codec::decode::<T>(&hit.content) else {
            missed(&MissReason::OtherType);
            return (Next::Load(None), begun);
        };
        let served = |next| {
            hit.hand_on();
            match first_look {
                None => self.journal().note(&wanted.key, as_hit(hit, found.took, found.is_stale())),
                Some(_) => self.journal().note(&wanted.key, What::Waited { took: begun.elapsed() }),
            }
            next
        };
        let next = match usage {
            Use::Serve(_) => served(Next::Serve(value)),
            Use::Renew(_) => served(Next::Refresh(value)),
            _ => {
                missed(&MissReason::Expired);
                Next::Load(Some((value, hit.created.unwrap_or_else(|| self.alias.clock.now()))))
            }
        };
        (next, begun)
    }

    /// Tells what an entry is good for, for somebody who can load it.
    pub(crate) fn use_of<'f>(&self, found: &'f Found, options: &LoadOptions) -> Use<'f> {
        let now = self.alias.clock.now();
        let (hit, is_due) = match &found.state {
            State::Fresh(hit) => (hit, is_due_early(hit, options, now, || self.alias.chance.draw())),
            State::Stale(hit) => match stale_for(hit, now) {
                since if since < options.stale_while_revalidate => (hit, true),
                since if since < options.stale_if_error => return Use::Fallback(hit),
                _ => return Use::Nothing,
            },
            State::Missing(_) => return Use::Nothing,
        };
        if is_due && !hit.is_held(now) { Use::Renew(hit) } else { Use::Serve(hit) }
    }

    /// Returns a value that may be served instead of one that failed to load.
    fn usable<T: DeserializeOwned>(&self, wanted: &Wanted, found: &Found) -> Option<T> {
        let (hit, is_stale) = match &found.state {
            State::Fresh(hit) => (hit, false),
            State::Stale(hit) => (hit, true),
            State::Missing(_) => return None,
        };
        let is_usable = !is_stale || stale_for(hit, self.alias.clock.now()) < wanted.options.stale_window();
        let value = is_usable.then(|| codec::decode(&hit.content)).flatten();
        if value.is_some() {
            hit.hand_on();
            self.journal().note(&wanted.key, as_hit(hit, found.took, is_stale));
        }
        value
    }

    /// Returns the value that is about to be replaced, for its loader to see.
    fn old<T: DeserializeOwned>(&self, found: &Found) -> Option<(T, Timestamp)> {
        let (State::Fresh(hit) | State::Stale(hit)) = &found.state else { return None };
        Some((codec::decode(&hit.content)?, self.stored_at(found)))
    }

    fn stored_at(&self, found: &Found) -> Timestamp {
        let (State::Fresh(hit) | State::Stale(hit)) = &found.state else { return self.alias.clock.now() };
        hit.created.unwrap_or_else(|| self.alias.clock.now())
    }

    /// Makes what is being made here depend on something that was loaded for it, as it would on a hit.
    fn hand_on_loaded(&self, timeout: Timeout, chosen: &Chosen) {
        let tags = self.scope.tags.iter().chain(&chosen.tags).map(String::as_str);
        self.hand_on(tags, timeout);
    }

    /// Makes what is being made here depend on something with these tags and this timeout.
    pub(crate) fn hand_on<'n>(&self, tags: impl Iterator<Item = &'n str>, timeout: Timeout) {
        let now = self.alias.clock.now();
        let fresh = timeout.or(self.alias.timeout).expiry(now).unwrap_or(Expiry::At(now));
        dependencies::hand_on(tags, std::iter::empty(), fresh);
    }

    /// Returns a timeout that ends no later than what the value was made of.
    pub(crate) fn limited(&self, timeout: Timeout, noted: &Noted) -> Timeout {
        let Some(until) = noted.fresh_until else { return timeout };
        let left = until.saturating_since(self.alias.clock.now());
        match timeout.or(self.alias.timeout) {
            Timeout::After(after) => Timeout::After(after.min(left)),
            _ => Timeout::After(left),
        }
    }

    /// Stores what was loaded as caller and loader want it. Whatever comes in between is in the log; the value is the
    /// caller's anyway.
    fn keep_loaded(
        &self,
        wanted: &Wanted,
        loading: Loading,
        content: Result<Content>,
        basis: Result<Basis>,
        chosen: Chosen,
        cost: Duration,
    ) {
        let options = chosen.options.as_ref().unwrap_or(&wanted.options);
        let (content, basis) = match (content, basis) {
            (Ok(content), Ok(basis)) if !chosen.do_not_store => (content, basis),
            (content, basis) => {
                match content.err().or(basis.err()) {
                    Some(error) => self.pass_by(&wanted.key, &error),
                    None => self.journal().note(&wanted.key, What::NotStored { reason: &"its loader said so" }),
                }
                return loading.give_up();
            }
        };
        let timeout = self.limited(wanted.timeout_for(&chosen, Some(&content)), &chosen.noted);
        let keep = Keep { timeout, stale_for: options.stale_window(), jitter: options.jitter, tags: Vec::new(), cost };
        let mut tags = chosen.tags;
        tags.extend(chosen.noted.into_names());
        if chosen.is_unchanged {
            tags.extend(basis.old_tags().iter().cloned());
        }
        if let Err(error) = loading.keep(&content, keep, basis, tags) {
            self.pass_by(&wanted.key, &error);
        }
    }
}

impl Wanted {
    /// Returns the timeout that caller and loader want for what was loaded.
    fn timeout_for(&self, chosen: &Chosen, content: Option<&Content>) -> Timeout {
        let options = chosen.options.as_ref().unwrap_or(&self.options);
        let of_absent = options.absent_timeout.filter(|_| content.is_some_and(codec::is_none));
        of_absent.unwrap_or(chosen.timeout.unwrap_or(self.timeout))
    }
}

fn served<T>(fallback: Option<(T, Timestamp)>) -> Option<T> {
    fallback.map(|(value, _)| value)
}

pub(crate) fn as_hit(hit: &Hit, took: Option<Duration>, stale: bool) -> What<'static> {
    What::Hit { stale, took, saved: hit.cost, bytes: hit.stored_bytes }
}

/// Returns for how long an entry has been stale.
fn stale_for(hit: &Hit, now: Timestamp) -> Duration {
    match hit.fresh_until {
        Expiry::At(end) => now.saturating_since(end),
        Expiry::Never => Duration::ZERO,
    }
}

/// Tells whether a fresh entry is to be loaded again before its time.
fn is_due_early(hit: &Hit, options: &LoadOptions, now: Timestamp, draw: impl FnOnce() -> f64) -> bool {
    let (Some(created), Expiry::At(end)) = (hit.created, hit.fresh_end()) else { return false };
    let lifetime = end.saturating_since(created);
    let by_fraction =
        options.early_refresh.is_some_and(|fraction| now.saturating_since(created) >= lifetime.mul_f64(fraction));
    // XFetch: now - cost * beta * ln(draw) >= end, where the logarithm is not positive.
    let by_chance = options.early_beta > 0.0 && {
        let ahead = hit.cost.as_secs_f64() * options.early_beta * -draw().ln();
        end.saturating_since(now).as_secs_f64() <= ahead
    };
    by_fraction || by_chance
}
