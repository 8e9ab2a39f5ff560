//! What the caches decide, kept for the pages that show it. All of it is of this process.

pub mod effects;
pub mod feed;
pub mod samples;
pub mod seen;

use std::sync::{Mutex, MutexGuard, PoisonError};

use larder_cache::{Caches, CachesBuilder};

use self::{effects::Notes, feed::Feed, samples::Samples, seen::Seen};

/// All that is kept.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// The decisions, as they are made.
    pub feed: Feed,
    /// The keys that were stored lately.
    pub seen: Seen,
    /// The counts, over time.
    pub samples: Samples,
}

impl Observed {
    /// Lets caches tell what they decide.
    #[must_use]
    pub fn observe(&self, caches: CachesBuilder) -> CachesBuilder {
        caches.observer(Notes).observer(self.feed.clone()).observer(self.seen.clone())
    }

    /// Takes a sample of the counts every few seconds, for as long as the server runs.
    pub async fn keep_up(self, caches: Caches) {
        loop {
            self.samples.take(&caches);
            self.feed.rest();
            tokio::time::sleep(samples::INTERVAL).await;
        }
    }
}

/// Locks, whether or not somebody panicked meanwhile: what is kept here is whole after every statement.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
