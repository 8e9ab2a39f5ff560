//! Chance as the cache uses it: for jitter and early refresh, where quality does not matter and tests must repeat.

use std::sync::atomic::{AtomicU64, Ordering};

/// A source of random numbers between 0 and 1; SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
#[derive(Debug)]
pub(crate) struct Chance(AtomicU64);

impl Chance {
    /// Starts somewhere else in every process.
    pub(crate) fn new() -> Self {
        // Without a random start, processes only draw the same numbers.
        Chance::seeded(getrandom::u64().unwrap_or_default())
    }

    pub(crate) const fn seeded(seed: u64) -> Self {
        Chance(AtomicU64::new(seed))
    }

    /// Returns a number in `(0, 1]`.
    pub(crate) fn draw(&self) -> f64 {
        let mut bits = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        // 53 bits are what an f64 holds exactly.
        ((bits >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_spread_between_zero_and_one_and_repeat_by_seed() {
        let draws = |seed| {
            let chance = Chance::seeded(seed);
            (0..10_000).map(|_| chance.draw()).collect::<Vec<_>>()
        };
        let drawn = draws(1);
        assert!(drawn.iter().all(|draw| *draw > 0.0 && *draw <= 1.0));
        let mean = drawn.iter().sum::<f64>() / 10_000.0;
        assert!((0.48..0.52).contains(&mean), "{mean}");
        assert_eq!(drawn, draws(1));
        assert_ne!(drawn, draws(2));
    }
}
