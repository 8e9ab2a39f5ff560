//! The backend of the example passes the suite that ours pass.

use std::time::Duration;

use larder_cache::{
    backend::Backend,
    clock::{Clock, ClockHand},
    conformance::Harness,
};

#[path = "../../examples/custom_backend.rs"]
#[expect(dead_code, reason = "the suite has no use for the example's main")]
mod example;

struct OnShelf {
    hand: ClockHand,
    clock: Clock,
    store: example::Shelf,
}

impl OnShelf {
    fn new() -> Self {
        let (clock, hand) = Clock::manual();
        OnShelf { store: example::Shelf::new(clock.clone()), clock, hand }
    }
}

impl Harness for OnShelf {
    fn open(&self) -> Box<dyn Backend> {
        Box::new(self.store.clone())
    }

    fn clock(&self) -> Clock {
        self.clock.clone()
    }

    fn wait(&self, timeout: Duration) {
        self.hand.advance(timeout);
    }
}

larder_cache::conformance!(OnShelf::new());
crate::model::model!(OnShelf::new(), crate::model::Time::Stands, 300);
