//! Time as the cache sees it: milliseconds since 1970, from a clock that tests can set.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// A moment, in milliseconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// Makes a moment from milliseconds since 1970.
    pub const fn from_millis(millis: u64) -> Self {
        Timestamp(millis)
    }

    /// Returns the milliseconds since 1970.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// Returns the whole seconds since 1970.
    pub const fn as_secs(self) -> u64 {
        self.0 / 1000
    }

    /// Returns this moment as the standard library's.
    pub fn to_system_time(self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.0)
    }

    /// Returns the moment `duration` later, or the last one there is.
    pub fn saturating_add(self, duration: Duration) -> Self {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Timestamp(self.0.saturating_add(millis))
    }

    /// Returns the moment `duration` earlier, or the first one there is.
    pub fn saturating_sub(self, duration: Duration) -> Self {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Timestamp(self.0.saturating_sub(millis))
    }

    /// Returns how long after `earlier` this moment is; zero if it is not after it.
    pub fn saturating_since(self, earlier: Timestamp) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// Tells the time. Cheap to clone; clones tell the same time.
///
/// # Examples
/// ```
/// use larder_cache::clock::Clock;
/// use std::time::Duration;
///
/// let (clock, hand) = Clock::manual();
/// let before = clock.now();
/// hand.advance(Duration::from_secs(5));
/// assert_eq!(clock.now().saturating_since(before), Duration::from_secs(5));
/// ```
#[derive(Clone, Default)]
pub struct Clock(Option<Arc<Manual>>);

#[derive(Default)]
struct Manual {
    millis: AtomicU64,
    on_sleep: OnceLock<OnSleep>,
}

type OnSleep = Box<dyn Fn(Duration) + Send + Sync>;

impl Clock {
    /// Returns the clock of the system.
    pub const fn system() -> Self {
        Clock(None)
    }

    /// Returns a clock that stands still, and the hand that moves it.
    pub fn manual() -> (Self, ClockHand) {
        let start = Clock::system().now().as_millis();
        let manual = Arc::new(Manual { millis: AtomicU64::new(start), on_sleep: OnceLock::new() });
        (Clock(Some(Arc::clone(&manual))), ClockHand(manual))
    }

    /// Returns the time now.
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Some(manual) => Timestamp(manual.millis.load(Ordering::SeqCst)),
            None => Timestamp(u64::try_from(coarse::since_1970().as_millis()).unwrap_or(u64::MAX)),
        }
    }
}

/// A moment on a clock that nobody sets, in milliseconds since some beginning. It moves in steps of a few of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Tick(pub(crate) u64);

impl Tick {
    pub(crate) fn now() -> Self {
        Tick(u64::try_from(coarse::since_some_beginning().as_millis()).unwrap_or(u64::MAX))
    }

    pub(crate) fn after(self, duration: Duration) -> Self {
        Tick(self.0.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }
}

/// Clocks that the kernel moves on a few times in a hundredth of a second. Reading them costs a fifth of what the exact ones
/// cost, which a look-up in memory notices.
#[cfg(target_os = "linux")]
mod coarse {
    use std::time::Duration;

    use rustix::time::{ClockId, clock_gettime};

    pub(super) fn since_1970() -> Duration {
        read(ClockId::RealtimeCoarse)
    }

    pub(super) fn since_some_beginning() -> Duration {
        read(ClockId::MonotonicCoarse)
    }

    fn read(clock: ClockId) -> Duration {
        Duration::try_from(clock_gettime(clock)).unwrap_or_default()
    }
}

#[cfg(not(target_os = "linux"))]
mod coarse {
    use std::{
        sync::LazyLock,
        time::{Duration, Instant, SystemTime, UNIX_EPOCH},
    };

    pub(super) fn since_1970() -> Duration {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }

    pub(super) fn since_some_beginning() -> Duration {
        static BEGINNING: LazyLock<Instant> = LazyLock::new(Instant::now);
        BEGINNING.elapsed()
    }
}

impl Clock {
    /// Waits. On a manual clock whoever moves it may say how; see [`ClockHand::on_sleep`].
    pub(crate) fn sleep(&self, duration: Duration) {
        match self.0.as_ref().and_then(|manual| manual.on_sleep.get()) {
            Some(sleep) => sleep(duration),
            None => std::thread::sleep(duration),
        }
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Clock(manual)" } else { "Clock(system)" })
    }
}

/// Moves a manual [`Clock`].
#[derive(Clone)]
pub struct ClockHand(Arc<Manual>);

impl ClockHand {
    /// Moves the clock forward.
    pub fn advance(&self, duration: Duration) {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        self.0.millis.fetch_add(millis, Ordering::SeqCst);
    }

    /// Has this called whenever the cache waits for another process, instead of letting the thread sleep. The first
    /// call counts. For simulations, in which no time passes by itself.
    pub fn on_sleep(&self, sleep: impl Fn(Duration) + Send + Sync + 'static) {
        let _ = self.0.on_sleep.set(Box::new(sleep));
    }
}

impl fmt::Debug for ClockHand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClockHand")
    }
}
