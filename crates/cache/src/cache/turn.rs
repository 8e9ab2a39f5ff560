//! Who loads a key that was looked up in vain: one caller in this process, and of all processes one.

use std::{
    any::Any,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

#[cfg(feature = "template")]
use crate::backend::Sharing;

use super::{BlockingCache, Cache};
use crate::{
    alias::{Basis, Claim, Claimed, Finished, Found, Keep},
    codec::Content,
    error::Result,
    fill::{Caller, Fill, Outcome, Turn},
    key::Key,
};

/// The pauses between looks at a key that another process is loading.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// How often a caller lets others go first whose values come to nothing.
const MAX_ROUNDS: usize = 10;

/// What a caller does next who has no value.
#[derive(Debug)]
pub(crate) enum Step {
    /// Load it, and store it.
    Load(Box<Loading>),
    /// Look it up again.
    Look,
    /// Another one is loading it, and this caller did not want to wait.
    Held,
    /// Load it, and do not store it.
    Alone,
    /// The load that this caller waited for failed.
    Failed(Arc<dyn Any + Send + Sync>),
}

/// Whether a caller has the time to wait for others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    Waits,
    Hurries,
}

/// The place of a caller in the queue for a key.
#[derive(Debug)]
pub(crate) struct Queue {
    final_key: String,
    fill: Option<Fill>,
    /// Whether waiting is in vain.
    is_futile: bool,
    deadline: Instant,
    pause: Duration,
    rounds: usize,
    /// How often the key was not as it had been found.
    changes: usize,
}

/// What a caller shall do before the next look.
enum Then {
    Step(Step),
    Wait(Arc<crate::fill::Flight>, Duration),
    Sleep(Duration),
}

impl Queue {
    pub(crate) fn new(final_key: String, max_wait: Duration) -> Self {
        // A wait beyond what the clock can say is a day.
        let now = Instant::now();
        let deadline = now.checked_add(max_wait).unwrap_or(now + Duration::from_secs(86_400));
        Queue { final_key, fill: None, is_futile: false, deadline, pause: FIRST_PAUSE, rounds: 0, changes: 0 }
    }

    #[cfg(feature = "page")]
    pub(crate) fn is_for(&self, final_key: &str) -> bool {
        self.final_key == final_key
    }

    /// Says that a value was found that others can find too.
    pub(crate) fn leave(&mut self) {
        if let Some(fill) = self.fill.take() {
            fill.end(Outcome::Kept);
        }
    }

    /// Tells whether nothing could be kept under the key lately.
    #[cfg(feature = "page")]
    pub(crate) fn is_futile(&self) -> bool {
        self.is_futile
    }

    /// Joins those who load or wait in this process; `None` if this caller is the first of them.
    fn join(&mut self, cache: &BlockingCache, patience: Patience, caller: Caller) -> Option<Then> {
        if self.fill.is_some() {
            return None;
        }
        self.rounds += 1;
        let left = self.deadline.saturating_duration_since(Instant::now());
        match cache.fills.join(&self.final_key, caller) {
            Turn::First(fill) => {
                self.fill = Some(fill);
                None
            }
            Turn::Wait(_) if patience == Patience::Hurries => Some(Then::Step(Step::Held)),
            Turn::Wait(flight) if !left.is_zero() && self.rounds <= MAX_ROUNDS => Some(Then::Wait(flight, left)),
            Turn::Wait(_) => Some(Then::Step(Step::Alone)),
            Turn::Alone => {
                self.is_futile = true;
                None
            }
        }
    }

    fn after_wait(outcome: Option<Outcome>) -> Step {
        match outcome {
            Some(Outcome::Kept | Outcome::Again) => Step::Look,
            Some(Outcome::Failed(error)) => Step::Failed(error),
            Some(Outcome::NotKept | Outcome::NotThisTime) | None => Step::Alone,
        }
    }

    /// Goes on from the attempt of the first in this process to be the first of all.
    fn claimed(&mut self, cache: &BlockingCache, claimed: Result<Claimed>, patience: Patience) -> Then {
        let left = self.deadline.saturating_duration_since(Instant::now());
        match claimed {
            Ok(Claimed::Granted(claim)) => {
                let loading = Loading { cache: cache.clone(), claim: Some(claim), fill: self.fill.take() };
                Then::Step(Step::Load(Box::new(loading)))
            }
            Ok(Claimed::Changed) if !left.is_zero() && self.changes < MAX_ROUNDS => {
                self.changes += 1;
                Then::Step(Step::Look)
            }
            Ok(Claimed::Held) if patience == Patience::Hurries => {
                self.leave();
                Then::Step(Step::Held)
            }
            Ok(Claimed::Held) if !left.is_zero() && !self.is_futile => {
                let pause = self.pause.min(left);
                self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                Then::Sleep(pause)
            }
            Ok(Claimed::Held | Claimed::Changed | Claimed::Unavailable) => {
                // Whoever waits here may have more patience left.
                self.fill = None;
                Then::Step(Step::Alone)
            }
            Err(_) => {
                // The store may be back in a moment: nobody shall remember this.
                self.fill = None;
                Then::Step(Step::Alone)
            }
        }
    }
}

/// One of several keys that are to be loaded.
#[derive(Debug)]
pub(super) struct Missing {
    pub(super) name: String,
    pub(super) found: Found,
    /// Whether its caller has a stale value, and does not wait for others.
    pub(super) has_fallback: bool,
}

/// What is to be done for several keys that were looked up in vain.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// Load these.
    pub(super) loadings: Vec<(String, Loading)>,
    /// Load these too; they cannot be kept, because their part of the store does not answer.
    pub(super) alone: Vec<String>,
    /// What others load in this process.
    pub(super) flights: Vec<Arc<crate::fill::Flight>>,
    /// All that others load, here or elsewhere.
    pub(super) held: Vec<String>,
}

impl Turns {
    /// Returns the names of all that is to be loaded.
    pub(super) fn names(&self) -> Vec<String> {
        self.loadings.iter().map(|(name, _)| name).chain(&self.alone).cloned().collect()
    }
}

impl BlockingCache {
    /// Takes the turns for several keys, as far as nobody else has them.
    pub(super) fn take_turns(&self, missing: Vec<Missing>, caller: Caller) -> Result<Turns> {
        let mut turns = Turns::default();
        let (mut claimable, mut fills) = (Vec::new(), Vec::new());
        for missing in missing {
            match self.fills.join(&self.final_key(&Key::from(&missing.name))?, caller) {
                Turn::Wait(flight) => {
                    if !missing.has_fallback {
                        turns.flights.push(flight);
                    }
                    turns.held.push(missing.name);
                    continue;
                }
                Turn::First(fill) => fills.push(Some(fill)),
                Turn::Alone => fills.push(None),
            }
            claimable.push(missing);
        }
        let keys: Vec<Key<'_>> = claimable.iter().map(|missing| Key::from(&missing.name)).collect();
        let found: Vec<(&Found, bool)> =
            claimable.iter().map(|missing| (&missing.found, missing.has_fallback)).collect();
        let claimed = self.alias.claim_many(&keys, self.key_version(), &found)?;
        for ((Missing { name, .. }, claimed), fill) in claimable.into_iter().zip(claimed).zip(fills) {
            match claimed {
                Claimed::Granted(claim) => {
                    turns.loadings.push((name, Loading { cache: self.clone(), claim: Some(claim), fill }));
                }
                Claimed::Held | Claimed::Changed => turns.held.push(name),
                Claimed::Unavailable => turns.alone.push(name),
            }
        }
        Ok(turns)
    }

    pub(crate) fn take_turn(&self, queue: &mut Queue, key: &Key<'_>, found: &Found, patience: Patience) -> Step {
        if self.alias.works_alone() {
            return Step::Alone;
        }
        let then = queue.join(self, patience, Caller::Blocking).unwrap_or_else(|| {
            let claimed = self.alias.claim(key, self.key_version(), found, patience == Patience::Hurries);
            queue.claimed(self, claimed, patience)
        });
        match then {
            Then::Step(step) => step,
            Then::Wait(flight, limit) => Queue::after_wait(flight.wait_blocking(limit)),
            Then::Sleep(pause) => {
                self.alias.clock.sleep(pause);
                Step::Look
            }
        }
    }
}

impl Cache {
    pub(crate) async fn take_turn(&self, queue: &mut Queue, key: &Key<'_>, found: Found, patience: Patience) -> Step {
        if self.blocking.alias.works_alone() {
            return Step::Alone;
        }
        let then = match queue.join(&self.blocking, patience, Caller::Async) {
            Some(then) => then,
            None => {
                let key = key.clone().into_owned();
                let has_fallback = patience == Patience::Hurries;
                let claim =
                    move |cache: &BlockingCache| cache.alias.claim(&key, cache.key_version(), &found, has_fallback);
                let claimed = self.try_run(claim).await;
                queue.claimed(&self.blocking, claimed, patience)
            }
        };
        match then {
            Then::Step(step) => step,
            Then::Wait(flight, limit) => Queue::after_wait(flight.wait(limit).await),
            Then::Sleep(pause) => {
                tokio::time::sleep(pause).await;
                Step::Look
            }
        }
    }
}

/// The right to load a key and to store what was loaded. Dropped, it is given up, and the next may try.
#[derive(Debug)]
pub(crate) struct Loading {
    cache: BlockingCache,
    claim: Option<Claim>,
    fill: Option<Fill>,
}

impl Loading {
    /// Returns who will see what is stored.
    #[cfg(feature = "template")]
    pub(crate) fn sharing(&self) -> Sharing {
        self.cache.alias.capabilities.sharing
    }

    /// Reads what the load must be compared with. Call it before the loader runs.
    pub(crate) fn basis(&self, tags: &[String]) -> Result<Basis> {
        self.cache.alias.basis(self.claim.as_ref(), tags)
    }

    /// Does the same for several at once.
    pub(crate) fn basis_of_many<'l>(
        cache: &BlockingCache,
        loadings: impl Iterator<Item = &'l Loading>,
        tags: &[String],
    ) -> Result<Basis> {
        cache.alias.basis(loadings.filter_map(|loading| loading.claim.as_ref()), tags)
    }

    /// Returns how the settings have a value kept.
    #[cfg(feature = "template")]
    pub(crate) fn keep_for(&self, timeout: crate::Timeout, noted: &crate::dependencies::Noted, cost: Duration) -> Keep {
        let options = self.cache.load_options_or_default();
        let timeout = self.cache.limited(timeout, noted);
        Keep { timeout, stale_for: options.stale_window(), jitter: options.jitter, cost, ..Keep::default() }
    }

    /// Stores what was loaded, unless it was overtaken.
    pub(crate) fn keep(
        mut self,
        content: &Content,
        keep: Keep,
        basis: Basis,
        discovered: Vec<String>,
    ) -> Result<Finished> {
        let Some(claim) = self.claim.take() else { return Ok(Finished::Overtaken) };
        let finished = self.cache.alias.finish(claim, content, keep, basis, discovered);
        self.end(match &finished {
            Ok(Finished::Kept) => Outcome::Kept,
            Ok(Finished::Overtaken) => Outcome::Again,
            Ok(Finished::NotKept) | Err(_) => Outcome::NotKept,
        });
        finished
    }

    /// Gives up what cannot be stored: nobody needs to wait for the next one.
    pub(crate) fn give_up(mut self) {
        self.release(None);
        self.end(Outcome::NotKept);
    }

    /// Gives up what is not stored this time: those who wait go on by themselves, the next ones may wait again.
    #[cfg(feature = "page")]
    pub(crate) fn let_go(mut self) {
        self.release(None);
        self.end(Outcome::NotThisTime);
    }

    /// Gives up after the loader failed; where there is a stale value, nobody tries again before `pause` is over.
    pub(crate) fn fail(mut self, error: Arc<dyn Any + Send + Sync>, pause: Duration) {
        self.release(Some(pause));
        self.end(Outcome::Failed(error));
    }

    /// Stores what was loaded for several keys, and gives up those for which there is nothing.
    pub(crate) fn keep_many(
        cache: &BlockingCache,
        loaded: Vec<(Loading, Option<Content>)>,
        keep: Keep,
        basis: &Basis,
        discovered: Vec<String>,
    ) -> Result<()> {
        let (mut claims, mut fills, mut without) = (Vec::new(), Vec::new(), Vec::new());
        for (mut loading, content) in loaded {
            match (loading.claim.take(), content) {
                (Some(claim), Some(content)) => {
                    claims.push((claim, content));
                    fills.push(loading.fill.take());
                }
                (Some(claim), None) => without.push(claim),
                (None, _) => {}
            }
        }
        let finished = cache.alias.finish_many(claims, keep, basis, discovered);
        for (position, fill) in fills.into_iter().enumerate() {
            let Some(fill) = fill else { continue };
            fill.end(match finished.as_ref().map(|finished| finished.get(position)) {
                Ok(Some(Finished::Kept)) => Outcome::Kept,
                Ok(Some(Finished::NotKept)) => Outcome::NotKept,
                Ok(_) => Outcome::Again,
                Err(_) => Outcome::NotKept,
            });
        }
        finished.map(drop).and(cache.alias.release_many(without))
    }

    fn release(&mut self, pause: Option<Duration>) {
        if let Some(claim) = self.claim.take() {
            // A ticket that cannot be released expires.
            let _ = self.cache.alias.release(claim, pause);
        }
    }

    fn end(&mut self, outcome: Outcome) {
        if let Some(fill) = self.fill.take() {
            fill.end(outcome);
        }
    }
}

impl Drop for Loading {
    fn drop(&mut self) {
        // A loader that panics has failed; one that was dropped has not.
        let pause = thread::panicking().then(|| self.cache.load_options_or_default().retry_after);
        if !self.cache.alias.capabilities.blocking {
            self.release(pause);
        } else if let Some(claim) = self.claim.take() {
            // Nobody waits for the store here: the maintenance releases the ticket.
            claim.abandon(pause);
        }
    }
}
