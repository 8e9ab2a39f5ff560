//! One load per miss, within the process: whoever meets a missing key first loads it, the others wait.
//!
//! Waiting is bounded, and ends well whatever becomes of the first: if it kept its value, the others look again; if it
//! failed, they share its error; if its value was overtaken by an invalidation they take turns, because those who came
//! after the invalidation must not see it; if it could not be kept, they load side by side, and for a while nobody waits
//! for that key; if it went away (a client hung up, a loader panicked), the next of them takes its place.

use std::{
    any::Any,
    collections::HashMap,
    fmt,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, ThreadId},
    time::{Duration, Instant},
};

use tokio::{sync::Notify, time::timeout};

/// How long nobody waits for a key whose value could not be kept.
const FUTILE_FOR: Duration = Duration::from_secs(10);

/// How many such keys are remembered.
const MAX_FUTILE: usize = 10_000;

/// The keys that are being loaded.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fills(Arc<Mutex<Keys>>);

#[derive(Debug, Default)]
struct Keys {
    running: HashMap<String, Arc<Flight>>,
    futile: HashMap<String, Instant>,
}

/// A load that others can wait for.
#[derive(Debug, Default)]
pub(crate) struct Flight {
    ended: Mutex<Option<Outcome>>,
    condvar: Condvar,
    notify: Notify,
    /// The thread of an async caller, which goes on only if nobody blocks it.
    async_on: Option<ThreadId>,
}

/// How a load ended.
#[derive(Clone)]
pub(crate) enum Outcome {
    /// Look again: it was stored.
    Kept,
    /// Look again, and take a turn: something was invalidated meanwhile, or the first went away.
    Again,
    /// Load, and do not wait: nothing can be kept under this key for now.
    NotKept,
    /// It was not kept, which says nothing of the next one.
    #[cfg_attr(not(feature = "page"), expect(dead_code, reason = "only pages know it beforehand"))]
    NotThisTime,
    /// The loader failed with this error, an `Arc` of the caller's type.
    Failed(Arc<dyn Any + Send + Sync>),
}

impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Outcome::Kept => "Kept",
            Outcome::Again => "Again",
            Outcome::NotKept => "NotKept",
            Outcome::NotThisTime => "NotThisTime",
            Outcome::Failed(_) => "Failed",
        })
    }
}

/// What a caller who met a missing key shall do.
#[derive(Debug)]
pub(crate) enum Turn {
    /// Load it.
    First(Fill),
    /// Wait for the one who does.
    Wait(Arc<Flight>),
    /// Load it, and wait for nobody: that would be in vain.
    Alone,
}

/// Whether a caller holds its thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Caller {
    Async,
    Blocking,
}

/// The right to load a key, until it is dropped.
#[derive(Debug)]
pub(crate) struct Fill {
    key: String,
    fills: Fills,
    flight: Arc<Flight>,
}

impl Fills {
    /// Becomes the first for a key, unless there is one.
    pub(crate) fn join(&self, key: &str, caller: Caller) -> Turn {
        let mut keys = self.keys();
        if keys.futile.get(key).is_some_and(|since| since.elapsed() < FUTILE_FOR) {
            return Turn::Alone;
        }
        if let Some(flight) = keys.running.get(key) {
            return Turn::Wait(Arc::clone(flight));
        }
        let async_on = (caller == Caller::Async).then(|| thread::current().id());
        let flight = Arc::new(Flight { async_on, ..Flight::default() });
        keys.running.insert(key.to_owned(), Arc::clone(&flight));
        Turn::First(Fill { key: key.to_owned(), fills: self.clone(), flight })
    }

    fn keys(&self) -> MutexGuard<'_, Keys> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Flight {
    /// Waits for the end, so long at most.
    pub(crate) async fn wait(&self, limit: Duration) -> Option<Outcome> {
        let ended = async {
            loop {
                // Registered before the look, so that no end is missed in between.
                let mut notified = std::pin::pin!(self.notify.notified());
                notified.as_mut().enable();
                if let Some(outcome) = self.outcome().clone() {
                    return outcome;
                }
                notified.await;
            }
        };
        timeout(limit, ended).await.ok()
    }

    /// Does the same on a thread that may be blocked, and does not wait for what only this thread can do.
    pub(crate) fn wait_blocking(&self, limit: Duration) -> Option<Outcome> {
        if self.async_on == Some(thread::current().id()) {
            return None;
        }
        let waited = self.condvar.wait_timeout_while(self.outcome(), limit, |outcome| outcome.is_none());
        waited.unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    fn outcome(&self) -> MutexGuard<'_, Option<Outcome>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Fill {
    /// Says how the load ended, to all who wait.
    pub(crate) fn end(self, outcome: Outcome) {
        let mut keys = self.fills.keys();
        match outcome {
            Outcome::Kept => drop(keys.futile.remove(&self.key)),
            Outcome::NotKept => {
                if keys.futile.len() >= MAX_FUTILE {
                    keys.futile.clear();
                }
                keys.futile.insert(self.key.clone(), Instant::now());
            }
            Outcome::NotThisTime | Outcome::Again | Outcome::Failed(_) => {}
        }
        drop(keys);
        *self.flight.outcome() = Some(outcome);
    }
}

impl Drop for Fill {
    fn drop(&mut self) {
        // Before the others wake up, so that one of them can become the first.
        self.fills.keys().running.remove(&self.key);
        self.flight.outcome().get_or_insert(Outcome::Again);
        self.flight.condvar.notify_all();
        self.flight.notify.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const LONG: Duration = Duration::from_secs(10);

    /// Lets callers meet a missing key at the same time; returns how often it was computed.
    async fn computations(callers: usize, keep: bool) -> usize {
        let (fills, stored, count) = (Fills::default(), Arc::new(Mutex::new(false)), Arc::new(AtomicUsize::new(0)));
        let compute = |fills: Fills, stored: Arc<Mutex<bool>>, count: Arc<AtomicUsize>| async move {
            let fill = match fills.join("key", Caller::Blocking) {
                Turn::First(fill) => Some(fill),
                Turn::Wait(flight) => {
                    flight.wait(LONG).await.unwrap();
                    None
                }
                Turn::Alone => None,
            };
            if *stored.lock().unwrap() {
                return;
            }
            count.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(20)).await;
            *stored.lock().unwrap() = keep;
            if let Some(fill) = fill {
                fill.end(if keep { Outcome::Kept } else { Outcome::NotKept });
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
        let fills = Fills::default();
        let Turn::First(first) = fills.join("key", Caller::Blocking) else { panic!("nobody was before") };
        let Turn::Wait(flight) = fills.join("key", Caller::Blocking) else { panic!("there is one") };
        let waiting = std::thread::spawn(move || flight.wait_blocking(LONG));
        drop(first);
        assert!(matches!(waiting.join().unwrap(), Some(Outcome::Again)));
        assert!(matches!(fills.join("key", Caller::Blocking), Turn::First(_)));
    }

    #[test]
    fn a_thread_does_not_wait_for_a_task_that_it_runs_itself() {
        let fills = Fills::default();
        let Turn::First(_first) = fills.join("key", Caller::Async) else { panic!("nobody was before") };
        let Turn::Wait(flight) = fills.join("key", Caller::Blocking) else { panic!("there is one") };
        let begun = Instant::now();
        assert!(flight.wait_blocking(LONG).is_none());
        assert!(begun.elapsed() < LONG / 2);
    }

    #[test]
    fn waiting_is_bounded() {
        let fills = Fills::default();
        let Turn::First(_first) = fills.join("key", Caller::Blocking) else { panic!("nobody was before") };
        let Turn::Wait(flight) = fills.join("key", Caller::Blocking) else { panic!("there is one") };
        assert!(flight.wait_blocking(Duration::from_millis(10)).is_none());
        assert!(block_on(flight.wait(Duration::from_millis(10))).is_none());
    }
}
