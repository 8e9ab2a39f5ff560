//! Generations: how everything under one key prefix is cleared on stores that cannot list their keys.
//!
//! Each part of a store (a server, or the whole of it) has a random 64-bit generation under a key of its own, and each
//! entry carries the generation it was made in. Entries of another generation are missing. So that a look-up costs no
//! second read, a generation that was read is believed for [`BOUND`]; whoever clears waits that long before he says that
//! it is done. Then nobody serves an older entry, whatever the clocks of the machines say: only the length of a second is
//! compared.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::{
    backend::{Backend, Value},
    clock::Tick,
    error::Result,
    key::{Key, KeySpace},
    timeout::Expiry,
};

/// How long a generation is believed after it was read.
pub(crate) const BOUND: Duration = Duration::from_secs(1);

/// Stands in the key of a generation, which counts for all versions of a key.
pub(crate) const EVERY_VERSION: i64 = 0;

/// How much longer a clearing waits: for clocks that do not tick alike.
pub(crate) const MARGIN: Duration = Duration::from_millis(50);

/// The generations of one alias, as far as this process knows.
#[derive(Debug)]
pub(crate) struct Generations {
    parts: Box<[Part]>,
}

#[derive(Debug)]
struct Part {
    key: String,
    generation: AtomicU64,
    /// Until which [`Tick`] it is believed; 0 if it is not known.
    until: AtomicU64,
    learning: Mutex<()>,
}

impl Generations {
    /// Finds a key for the generation of each part, such that it lives there.
    pub(crate) fn new(store: &dyn Backend, keys: &KeySpace) -> Self {
        let key_of = |part: usize| {
            let candidates = (0..).map(|n: u32| keys.final_key(&Key::generation(n), EVERY_VERSION).unwrap_or_default());
            // A store that names a part where no key lives would keep this loop going: 10,000 tries are enough for
            // a hundred servers.
            candidates.take(10_000).find(|key| store.part_of(key) == part).unwrap_or_default()
        };
        let part = |part| Part {
            key: key_of(part),
            generation: AtomicU64::new(0),
            until: AtomicU64::new(0),
            learning: Mutex::new(()),
        };
        Generations { parts: (0..store.parts().max(1)).map(part).collect() }
    }

    /// Returns the generation of a part, if it was read not long ago.
    pub(crate) fn known(&self, part: usize) -> Option<u64> {
        let part = self.part(part);
        let until = part.until.load(Ordering::Acquire);
        (Tick::now().0 < until).then(|| part.generation.load(Ordering::Relaxed))
    }

    /// Returns until when the generation of a part is believed.
    #[cfg(feature = "page")]
    pub(crate) fn believed_until(&self, part: usize) -> Tick {
        Tick(self.part(part).until.load(Ordering::Acquire))
    }

    /// Returns the key of a part's generation.
    pub(crate) fn key(&self, part: usize) -> &str {
        &self.part(part).key
    }

    /// Takes note of what a read found that was begun at `asked`; gives the part a generation if it has none.
    pub(crate) fn learn(&self, store: &dyn Backend, part: usize, found: Option<Value>, asked: Tick) -> Result<u64> {
        let part = self.part(part);
        let generation = match found {
            Some(Value::Integer(generation)) => generation,
            _ => first(store, &part.key)?,
        };
        let until = asked.after(BOUND).0;
        let _turn = part.learning.lock().unwrap_or_else(PoisonError::into_inner);
        // A slower reader must not prolong what a faster one has found to be over.
        if until >= part.until.load(Ordering::Relaxed) {
            part.generation.store(generation.cast_unsigned(), Ordering::Relaxed);
            part.until.store(until, Ordering::Release);
        }
        Ok(generation.cast_unsigned())
    }

    /// Returns the generation of a part, read if it is not known.
    pub(crate) fn current(&self, store: &dyn Backend, part: usize) -> Result<u64> {
        match self.known(part) {
            Some(generation) => Ok(generation),
            None => self.read(store, part),
        }
    }

    /// Reads the generation of a part, for those who must not take an old one for the current.
    pub(crate) fn read(&self, store: &dyn Backend, part: usize) -> Result<u64> {
        let asked = Tick::now();
        let found = store.get(self.key(part))?.map(|entry| entry.value);
        self.learn(store, part, found, asked)
    }

    /// Ends the generation of every part, and returns when nobody believes it any more.
    pub(crate) fn end(&self, store: &dyn Backend) -> Result<()> {
        let ended: Vec<Result<bool>> = self.parts.iter().map(|part| store.delete(&part.key)).collect();
        self.forget();
        ended.into_iter().collect::<Result<Vec<bool>>>()?;
        std::thread::sleep(BOUND + MARGIN);
        // What this process read while others still gave out the old one.
        self.forget();
        Ok(())
    }

    /// Believes nothing any more.
    pub(crate) fn forget(&self) {
        for part in &self.parts {
            let _turn = part.learning.lock().unwrap_or_else(PoisonError::into_inner);
            part.until.store(0, Ordering::Release);
        }
    }

    fn part(&self, part: usize) -> &Part {
        &self.parts[part.min(self.parts.len() - 1)]
    }
}

/// Gives a part its first generation; if somebody else does so at the same time, theirs counts.
fn first(store: &dyn Backend, key: &str) -> Result<i64> {
    let generation = crate::tags::random()?.cast_signed();
    if store.add(key, &Value::Integer(generation), Expiry::Never)? {
        return Ok(generation);
    }
    match store.get(key)?.map(|entry| entry.value) {
        Some(Value::Integer(theirs)) => Ok(theirs),
        // It was ended again in this very moment: ours matches nothing.
        _ => Ok(generation),
    }
}
