//! How often the caches were asked, over time.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use larder_cache::{Caches, events::Counts};
use serde::Serialize;

use super::lock;
use crate::state::now_millis;

/// How often the counts are looked at.
pub const INTERVAL: Duration = Duration::from_secs(10);

/// How many times are remembered: half an hour.
const MAX_SAMPLES: usize = 180;

/// How many times make a bar of the chart.
const PER_BAR: usize = 3;

/// The counts of the last half hour, by alias.
#[derive(Debug, Clone, Default)]
pub struct Samples(Arc<Mutex<VecDeque<Sample>>>);

#[derive(Debug, Clone)]
struct Sample {
    at: i64,
    counts: BTreeMap<String, Counts>,
}

/// What happened in half a minute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Bar {
    /// When it began, in unix milliseconds.
    pub from: i64,
    /// Look-ups that found something, and those that did not.
    pub hits: u64,
    /// See `hits`.
    pub misses: u64,
    /// The part of the hits, in percent; `None` if nobody asked.
    pub percent: Option<u64>,
}

impl Samples {
    /// Looks at the counts.
    pub fn take(&self, caches: &Caches) {
        let counts = caches.iter().map(|(alias, _, cache)| (alias.to_owned(), cache.counts()));
        self.keep(Sample { at: now_millis(), counts: counts.collect() });
    }

    fn keep(&self, sample: Sample) {
        let mut samples = lock(&self.0);
        samples.push_back(sample);
        if samples.len() > MAX_SAMPLES {
            samples.pop_front();
        }
    }

    /// Returns what happened under an alias, the oldest first.
    pub fn bars(&self, alias: &str) -> Vec<Bar> {
        let samples = lock(&self.0);
        let of = |sample: &Sample| (sample.at, sample.counts.get(alias).copied().unwrap_or_default());
        let ends: Vec<(i64, Counts)> = samples.iter().step_by(PER_BAR).chain(samples.back()).map(of).collect();
        let bar = |pair: &[(i64, Counts)]| {
            let [(from, before), (_, after)] = pair else { return None };
            let (hits, misses) = (after.hits - before.hits, after.misses - before.misses);
            Some(Bar { from: *from, hits, misses, percent: percent(hits, hits + misses) })
        };
        ends.windows(2).filter(|pair| pair[0].0 < pair[1].0).filter_map(bar).collect()
    }
}

/// Returns a part in percent; `None` of nothing.
pub fn percent(part: u64, whole: u64) -> Option<u64> {
    (part * 100 + whole / 2).checked_div(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_what_happened_between_samples() {
        let samples = Samples::default();
        assert_eq!(samples.bars("default"), []);
        for step in 0..200_u64 {
            let mut counts = Counts::default();
            counts.hits = step * 3;
            counts.misses = step;
            samples.keep(Sample {
                at: i64::try_from(step).unwrap(),
                counts: BTreeMap::from([("default".into(), counts)]),
            });
        }
        let bars = samples.bars("default");
        assert_eq!(bars.len(), 60);
        assert_eq!(bars[0], Bar { from: 20, hits: 9, misses: 3, percent: Some(75) });
        assert_eq!(bars[59].hits, 6, "the last one is not over");
        assert_eq!(samples.bars("another")[0].percent, None);
    }
}
