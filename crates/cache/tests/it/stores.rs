//! The stores under test, each with its own clock or a real server.

use std::time::Duration;

use larder_cache::{
    backend::{
        Backend,
        locmem::{Locmem, LocmemOptions},
    },
    clock::{Clock, ClockHand},
    conformance::Harness,
};

/// A clock that stands still until the test moves it.
struct Time {
    clock: Clock,
    hand: ClockHand,
}

impl Time {
    fn new() -> Self {
        let (clock, hand) = Clock::manual();
        Time { clock, hand }
    }
}

mod locmem {
    use super::*;

    struct InMemory {
        time: Time,
        store: Locmem,
    }

    impl InMemory {
        fn new() -> Self {
            let time = Time::new();
            let options = LocmemOptions { max_bytes: 2_000_000, ..LocmemOptions::default() };
            InMemory { store: Locmem::new(options, time.clock.clone()), time }
        }
    }

    impl Harness for InMemory {
        fn open(&self) -> Box<dyn Backend> {
            Box::new(self.store.clone())
        }

        fn clock(&self) -> Clock {
            self.time.clock.clone()
        }

        fn wait(&self, timeout: Duration) {
            self.time.hand.advance(timeout);
        }
    }

    larder_cache::conformance!(InMemory::new());
}
