//! Look-ups that wait for a store together.
//!
//! A store that may wait is asked on the blocking pool. To wake a thread there costs more than most look-ups, and a round
//! trip for many keys takes hardly longer than one for a single key. So a thread that has asked the store goes on with
//! whatever was asked meanwhile, all of it at once.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, oneshot},
    task::spawn_blocking,
};

use crate::{
    alias::{Alias, Copies, Found},
    error::Result,
    key::Key,
};

/// How many keys are looked up at once.
const MAX_BATCH: usize = 64;

/// How many threads look up at the same time. With a store that takes ten milliseconds, 6,400 batches a second.
const MAX_THREADS: usize = 64;

/// How long an answer may take before the rest is not left to the thread that looks for it.
pub(super) const PATIENCE: Duration = Duration::from_millis(1);

/// The look-ups of one alias that wait for the store.
#[derive(Debug, Default)]
pub(super) struct Gather {
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    asked: VecDeque<Asked>,
    threads: usize,
}

/// One key that somebody waits for.
#[derive(Debug)]
struct Asked {
    key: Key<'static>,
    how: How,
    /// The part of the store that it lives on: a part that does not answer keeps the others' keys waiting for nothing.
    part: usize,
    answer: oneshot::Sender<Result<Found>>,
    /// Held until it is answered, however long its caller waits.
    permit: OwnedSemaphorePermit,
}

/// What keys that are looked up together have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct How {
    pub(super) version: i64,
    pub(super) tags: Arc<[String]>,
    pub(super) copies: Copies,
}

/// Counts a thread for as long as it looks up, even if it never comes to it.
struct Thread {
    gather: Arc<Gather>,
    alias: Arc<Alias>,
    is_counted: bool,
}

impl Gather {
    /// Asks for a key; `answer` is told. A dropped answer means that the look-up panicked or its runtime ended.
    pub(super) fn ask(
        self: &Arc<Self>,
        alias: &Arc<Alias>,
        key: Key<'static>,
        how: How,
        permit: OwnedSemaphorePermit,
    ) -> Result<oneshot::Receiver<Result<Found>>> {
        let part = alias.part_of(&key, how.version)?;
        let (answer, answered) = oneshot::channel();
        let mut waiting = self.waiting();
        waiting.asked.push_back(Asked { key, how, part, answer, permit });
        let is_wanted = waiting.threads == 0 || waiting.asked.len() >= MAX_BATCH;
        self.start(waiting, alias, is_wanted);
        Ok(answered)
    }

    /// Has another thread look for what still waits: the one that looks may be held up.
    pub(super) fn hurry(self: &Arc<Self>, alias: &Arc<Alias>) {
        let waiting = self.waiting();
        let is_wanted = !waiting.asked.is_empty();
        self.start(waiting, alias, is_wanted);
    }

    fn start(self: &Arc<Self>, mut waiting: MutexGuard<'_, Waiting>, alias: &Arc<Alias>, is_wanted: bool) {
        if is_wanted && waiting.threads < MAX_THREADS {
            waiting.threads += 1;
            drop(waiting);
            let thread = Thread { gather: Arc::clone(self), alias: Arc::clone(alias), is_counted: true };
            spawn_blocking(move || thread.run());
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// Takes the keys that can be looked up together with the one that waits longest.
    fn take(&mut self) -> Vec<Asked> {
        let mut batch: Vec<Asked> = Vec::with_capacity(self.asked.len().min(MAX_BATCH));
        let mut left = VecDeque::new();
        for asked in self.asked.drain(..) {
            let is_like = |first: &Asked| asked.part == first.part && asked.how == first.how;
            if batch.len() < MAX_BATCH && batch.first().is_none_or(is_like) {
                batch.push(asked);
            } else {
                left.push_back(asked);
            }
        }
        self.asked = left;
        batch
    }
}

impl Thread {
    fn run(mut self) {
        while let Some(batch) = self.take() {
            let Some(How { version, tags, copies }) = batch.first().map(|first| first.how.clone()) else { continue };
            let mut keys: Vec<Key<'static>> = Vec::with_capacity(batch.len());
            let mut places: HashMap<Key<'static>, usize> = HashMap::with_capacity(batch.len());
            let mut waiting = Vec::with_capacity(batch.len());
            for Asked { key, answer, permit, .. } in batch {
                let place = *places.entry(key).or_insert_with_key(|key| {
                    keys.push(key.clone());
                    keys.len() - 1
                });
                waiting.push((place, answer, permit));
            }
            let found = self.find(&keys, version, &tags, copies);
            for (place, answer, permit) in waiting {
                drop(permit);
                let found = match &found[place] {
                    Ok(found) => Ok(found.clone()),
                    // Errors cannot be shared; each has his own.
                    Err(_) => self.alias.find(&keys[place], version, &tags, copies),
                };
                // Who asked may have gone.
                let _ = answer.send(found);
            }
        }
    }

    fn find(&self, keys: &[Key<'_>], version: i64, tags: &[String], copies: Copies) -> Vec<Result<Found>> {
        if keys.len() > 1
            && let Ok(found) = self.alias.find_many(keys, version, tags, copies)
        {
            return found.into_iter().map(Ok).collect();
        }
        // An error may be the fault of one of them.
        keys.iter().map(|key| self.alias.find(key, version, tags, copies)).collect()
    }

    /// Takes what waits. If nothing does, the thread is counted out under the same lock: whoever asks next then knows that
    /// nobody looks.
    fn take(&mut self) -> Option<Vec<Asked>> {
        let mut waiting = self.gather.waiting();
        let batch = waiting.take();
        if !batch.is_empty() {
            return Some(batch);
        }
        waiting.threads -= 1;
        self.is_counted = false;
        None
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        if self.is_counted {
            self.gather.waiting().threads -= 1;
        }
    }
}
