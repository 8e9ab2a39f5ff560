//! What a run is like: how many take part, what they do, and how often what goes wrong.
//!
//! Drawn anew for each seed, with much of it left out: what never happens in a run leaves room for more of the rest
//! (Groce et al., "Swarm Testing", ISSTA 2012).

use std::time::Duration;

use super::process::Verb;
use crate::{
    backend::{Capabilities, Sharing},
    chance::Chance,
};

/// How many processes there are at most.
const MAX_PROCESSES: usize = 4;

/// Where a seed begins to decide.
#[derive(Debug)]
pub(super) struct Dice(Chance);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Dice(Chance::seeded(seed))
    }

    /// Draws a number below `count`.
    pub(super) fn below(&mut self, count: usize) -> usize {
        // A draw is over 0 and at most 1.
        ((1.0 - self.0.draw()) * count as f64) as usize
    }

    /// Draws whether something that happens once in so often happens now; 0 is never.
    pub(super) fn one_in(&mut self, often: usize) -> bool {
        often > 0 && self.below(often) == 0
    }

    pub(super) fn pick<'o, T>(&mut self, options: &'o [T]) -> &'o T {
        &options[self.below(options.len())]
    }

    /// Draws by how much the clocks of the store and of the processes are ahead.
    pub(super) fn skews(&mut self) -> Vec<Duration> {
        let skews: &[u64] = if self.one_in(2) { &[0] } else { &[0, 30, 700, 5_000, 20_000] };
        (0..=MAX_PROCESSES).map(|_| Duration::from_millis(*self.pick(skews))).collect()
    }
}

/// Frequencies are given as once in so many pauses, operations or occasions; 0 is never.
#[derive(Debug)]
pub(super) struct Weather {
    pub(super) processes: usize,
    /// Over how many parts the store is spread.
    pub(super) parts: usize,
    pub(super) keys: usize,
    pub(super) tags: usize,
    /// What the processes choose from.
    pub(super) verbs: Vec<Verb>,
    /// In how many of a hundred pauses whoever runs goes on.
    pub(super) goes_on: usize,
    /// Whether the generation outlives evictions and restarts of the store.
    pub(super) keeps_generation: bool,
    pub(super) time: usize,
    pub(super) stall: usize,
    pub(super) crash: usize,
    pub(super) failure: usize,
    pub(super) outage: usize,
    pub(super) eviction: usize,
    pub(super) restart: usize,
    /// How often a batch is done key by key.
    pub(super) split: usize,
    /// How often a key gets the tag that it mostly has, and no other.
    pub(super) habit: usize,
    /// How often a loader may find tags out.
    pub(super) discovery: usize,
}

impl Weather {
    /// A store in the memory of a process dies with it, and one that never blocks has no reason to fail.
    pub(super) fn draw(dice: &mut Dice, capabilities: &Capabilities) -> Self {
        let mut verbs = vec![Verb::Get, Verb::Load, Verb::Load];
        for verb in Verb::ALL {
            verbs.extend(std::iter::repeat_n(verb, *dice.pick(&[0, 1, 1, 4])));
        }
        let (crashes, fails) = (capabilities.sharing != Sharing::Process, capabilities.blocking);
        let mut pick = |options: &[usize]| *dice.pick(options);
        Weather {
            verbs,
            processes: pick(&[2, 3, 3, MAX_PROCESSES]),
            parts: pick(if fails { &[1, 1, 2] } else { &[1] }),
            keys: pick(&[1, 1, 2, 3]),
            tags: pick(&[1, 1, 2]),
            goes_on: pick(&[0, 50, 90]),
            keeps_generation: pick(&[0, 1, 1, 1]) == 1,
            time: pick(&[0, 10, 50]),
            stall: pick(&[0, 30, 100]),
            crash: pick(if crashes { &[0, 0, 300, 60] } else { &[0] }),
            failure: pick(if fails { &[0, 0, 40, 8] } else { &[0] }),
            outage: pick(if fails { &[0, 0, 150, 50] } else { &[0] }),
            eviction: pick(&[0, 0, 100, 30]),
            restart: pick(&[0, 0, 300, 100]),
            split: pick(&[0, 2, 1]),
            habit: pick(&[2, 1]),
            discovery: pick(&[3, 2, 1]),
        }
    }
}
