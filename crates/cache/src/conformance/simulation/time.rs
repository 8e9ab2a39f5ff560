//! The clocks of a run: that of the store, and one for each process, which need not agree.

use std::time::Duration;

use crate::clock::{Clock, ClockHand};

pub(super) struct Time {
    clocks: Vec<(Clock, ClockHand)>,
}

impl Time {
    /// Makes clocks that are ahead of a common time by so much: the store's first.
    pub(super) fn new(ahead: &[Duration]) -> Self {
        let clocks: Vec<_> = ahead.iter().map(|_| Clock::manual()).collect();
        let common = clocks.iter().map(|(clock, _)| clock.now()).max();
        for ((clock, hand), ahead) in clocks.iter().zip(ahead) {
            let behind = common.map_or(Duration::ZERO, |common| common.saturating_since(clock.now()));
            hand.advance(behind + *ahead);
        }
        Time { clocks }
    }

    pub(super) fn of_store(&self) -> &Clock {
        &self.clocks[0].0
    }

    pub(super) fn of_process(&self, process: usize) -> &Clock {
        &self.clocks[process + 1].0
    }

    pub(super) fn advance(&self, duration: Duration) {
        self.clocks.iter().for_each(|(_, hand)| hand.advance(duration));
    }

    /// Has this called instead of sleeping.
    pub(super) fn on_sleep(&self, sleep: impl Fn(Duration) + Clone + Send + Sync + 'static) {
        self.clocks.iter().for_each(|(_, hand)| hand.on_sleep(sleep.clone()));
    }
}
