//! What the stores that must bound themselves have in common.

use crate::clock::Clock;

/// Django's `MAX_ENTRIES` is 300, chosen for stores that count their entries at each write. These do not.
pub const DEFAULT_MAX_ENTRIES: usize = 10_000;

/// Django's default for `CULL_FREQUENCY`: a third goes.
pub const DEFAULT_CULL_FREQUENCY: usize = 3;

/// How a store bounds itself, and the clock by which its entries expire.
///
/// # Examples
/// ```
/// use larder_cache::backend::Options;
///
/// let options = Options::new().max_entries(1000).cull_frequency(2);
/// ```
#[derive(Debug, Clone)]
pub struct Options {
    pub(super) max_entries: usize,
    pub(super) cull_frequency: usize,
    pub(super) clock: Clock,
}

impl Options {
    /// Returns the defaults: 10,000 entries, a third of which goes when there are more, by the clock of the system.
    pub fn new() -> Self {
        Options { max_entries: DEFAULT_MAX_ENTRIES, cull_frequency: DEFAULT_CULL_FREQUENCY, clock: Clock::system() }
    }

    /// Sets how many entries there may be before some are dropped. The entry that is being set is always stored.
    #[must_use]
    pub fn max_entries(mut self, entries: usize) -> Self {
        self.max_entries = entries;
        self
    }

    /// Sets which part goes when the store is full: one in so many; 0 drops everything.
    #[must_use]
    pub fn cull_frequency(mut self, frequency: usize) -> Self {
        self.cull_frequency = frequency;
        self
    }

    /// Sets the clock by which entries expire.
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }
}

impl Default for Options {
    fn default() -> Self {
        Options::new()
    }
}
