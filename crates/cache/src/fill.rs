//! One computation per miss, within the process: whoever meets a missing key first computes it, the others wait.
//!
//! Waiting is bounded, and ends well whatever becomes of the first: if it kept its value, the others read it; if it
//! could not, they compute side by side, and for a while nobody waits for that key; if it went away (a client hung up,
//! a loader panicked), the next of them takes its place.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::{sync::watch, time::timeout};

/// How long a caller waits for another one before it computes by itself.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// How long nobody waits for a key whose value could not be kept.
const FUTILE_FOR: Duration = Duration::from_secs(10);

/// How many such keys are remembered.
const MAX_FUTILE: usize = 10_000;

/// The keys that are being computed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fills(Arc<Mutex<Keys>>);

#[derive(Debug, Default)]
struct Keys {
    running: HashMap<String, watch::Receiver<Progress>>,
    futile: HashMap<String, Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Running,
    Kept,
    NotKept,
}

/// What a caller who met a missing key shall do.
#[derive(Debug)]
pub(crate) enum Turn {
    /// Look once more, since another one may have been faster, and then compute.
    First(Fill),
    /// Look once more: another one has stored something.
    Kept,
    /// Compute: waiting was or would be in vain.
    Alone,
}

/// The right to compute a key, until it is dropped.
#[derive(Debug)]
pub(crate) struct Fill {
    key: String,
    fills: Fills,
    progress: watch::Sender<Progress>,
}

impl Fills {
    /// Becomes the first for a key, or waits for the one who is.
    pub(crate) async fn join(&self, key: &str) -> Turn {
        loop {
            let mut progress = match self.first_or_wait(key) {
                Ok(turn) => return turn,
                Err(progress) => progress,
            };
            let ended = timeout(MAX_WAIT, progress.wait_for(|progress| *progress != Progress::Running)).await;
            match ended.map(|ended| ended.map(|progress| *progress)) {
                Ok(Ok(Progress::Kept)) => return Turn::Kept,
                Ok(Ok(_)) | Err(_) => return Turn::Alone,
                // It went away without a word.
                Ok(Err(_)) => {}
            }
        }
    }

    fn first_or_wait(&self, key: &str) -> Result<Turn, watch::Receiver<Progress>> {
        let mut keys = self.keys();
        if keys.futile.get(key).is_some_and(|since| since.elapsed() < FUTILE_FOR) {
            return Ok(Turn::Alone);
        }
        if let Some(progress) = keys.running.get(key) {
            return Err(progress.clone());
        }
        let (sender, receiver) = watch::channel(Progress::Running);
        keys.running.insert(key.to_owned(), receiver);
        Ok(Turn::First(Fill { key: key.to_owned(), fills: self.clone(), progress: sender }))
    }

    fn keys(&self) -> MutexGuard<'_, Keys> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Fill {
    /// Says whether the value was kept, to all who wait.
    pub(crate) fn end(self, kept: bool) {
        let mut keys = self.fills.keys();
        if kept {
            keys.futile.remove(&self.key);
        } else {
            if keys.futile.len() >= MAX_FUTILE {
                keys.futile.clear();
            }
            keys.futile.insert(self.key.clone(), Instant::now());
        }
        drop(keys);
        self.progress.send_replace(if kept { Progress::Kept } else { Progress::NotKept });
    }
}

impl Drop for Fill {
    fn drop(&mut self) {
        self.fills.keys().running.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Lets callers meet a missing key at the same time; returns how often it was computed.
    async fn computations(callers: usize, keep: bool) -> usize {
        let (fills, stored, count) = (Fills::default(), Arc::new(Mutex::new(false)), Arc::new(AtomicUsize::new(0)));
        let compute = |fills: Fills, stored: Arc<Mutex<bool>>, count: Arc<AtomicUsize>| async move {
            let turn = fills.join("key").await;
            if *stored.lock().unwrap() {
                return;
            }
            count.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(20)).await;
            *stored.lock().unwrap() = keep;
            if let Turn::First(fill) = turn {
                fill.end(keep);
            }
        };
        let tasks: Vec<_> = (0..callers)
            .map(|_| tokio::spawn(compute(fills.clone(), Arc::clone(&stored), Arc::clone(&count))))
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert!(fills.keys().running.is_empty());
        count.load(Ordering::Relaxed)
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
    }

    #[test]
    fn what_is_kept_is_computed_once() {
        assert_eq!(block_on(computations(200, true)), 1);
    }

    #[test]
    fn what_cannot_be_kept_is_computed_side_by_side() {
        let begun = Instant::now();
        assert_eq!(block_on(computations(200, false)), 200);
        assert!(begun.elapsed() < Duration::from_secs(2), "one after the other: {:?}", begun.elapsed());
    }

    #[test]
    fn the_next_takes_the_place_of_one_who_went_away() {
        block_on(async {
            let fills = Fills::default();
            let Turn::First(first) = fills.join("key").await else { panic!("nobody was before") };
            let waiting = tokio::spawn({
                let fills = fills.clone();
                async move { matches!(fills.join("key").await, Turn::First(_)) }
            });
            tokio::task::yield_now().await;
            drop(first);
            assert!(waiting.await.unwrap());
        });
    }
}
